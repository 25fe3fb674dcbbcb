--- Signals of the process, as something that can be waited for.
--
--    local signals = assert(holdfast.on_signal("TERM", "INT"))
--    local name = signals:next()          -- or nil, message, "TIMEOUT" after signals:next("10s")
--    signals:close()
--
-- There may be any number of these, in any Lua state of the process, and each hears every signal that it names. While
-- there is one, the signal does not do what it did before: the process does not end. But a handler that somebody has
-- set, such as that of nginx or of another event loop, is called as well; only the one for Ctrl-C of the interpreters
-- lua and luajit is not, which would raise "interrupted!". When the last one is closed, the signal does again what it
-- did. In a child after fork signals do what they did before anybody listened, and these objects answer FORKED;
-- programs that are started inherit nothing.
-- @module holdfast.signal

local core = require("holdfast.core")
local interrupts = require("holdfast.interrupts")
local loop = require("holdfast.loop")
local object = require("holdfast.object")
local options = require("holdfast.options")

local unpack = table.unpack or unpack -- luacheck: ignore

local Signals = {}

-- The function that hears the signals: object -> what interrupts waits.
local heard = setmetatable({}, { __mode = "k" })

--- Waits for the next signal: in the built-in loop others go on meanwhile, elsewhere it blocks. In another event loop
-- wait for the object itself, which has pollfd, events, timeout, getfd and dirty, and call `next(0)` then.
-- @function signals:next
-- @param[opt] timeout nil for as long as it takes, 0 for one that has come already
-- @treturn string|nil its name, without SIG; nil, message, code (TIMEOUT, CLOSED, FORKED). Signals that have come
-- together have no order
-- @treturn number its number
function Signals:next(timeout)
  local seconds = options.timeout(timeout, 2)
  local deadline = seconds and core.now() + seconds
  while true do
    local name, number, code = self:take()
    if name then return name, number end
    if code then return nil, number, code end
    local left = deadline and deadline - core.now()
    if left and left <= 0 then return nil, "no signal within the time given", "TIMEOUT" end
    local ok, message
    ok, message, code = loop.wait(self, left)
    if not ok and code then return nil, message, code end
  end
end

--- Ends it: signals that only this one has heard do again what they did. Idempotent.
-- @function signals:close
-- @treturn true
function Signals:close()
  interrupts.remove(heard[self])
  heard[self] = nil
  return self:close_object()
end

--- Readable when there is a signal for `next`. cqueues reads pollfd, events and timeout; LuaSocket's select and Copas
-- getfd and dirty.
-- @function signals:pollfd
-- @treturn number|nil a descriptor; nil, message, code (CLOSED, FORKED)

--- @function signals:events
-- @treturn string "r"
function Signals.events() return "r" end

--- @function signals:timeout
function Signals.timeout() end

--- @function signals:dirty
-- @treturn boolean false
function Signals.dirty() return false end

--- @function signals:getfd
-- @return as pollfd
function Signals:getfd() return self:pollfd() end

-- What embeds Lua has handlers that must be called. The interpreters have a table arg; those of 5.1 and LuaJIT without
-- a script have their name only.
local function in_an_interpreter()
  local words = rawget(_G, "arg")
  if type(words) == "table" and words[0] ~= nil then return true end
  local file = io.open("/proc/self/comm")
  local name = file and file:read("*l")
  if file then file:close() end
  return name ~= nil and name:match("^lua") ~= nil
end

local function call_with(signals, fn)
  local interrupt = { fd = signals:pollfd() }
  function interrupt.heard(start)
    local name, number = signals:take()
    if not name then return number and interrupts.remove(interrupt) end
    if start then start(fn, name, number) else fn(name, number) end
  end
  interrupts.add(interrupt)
  heard[signals] = interrupt
end

local M = {}

--- Reads names of signals, with or without SIG. Private.
-- @int level whom a mistake blames: as for error(), of the caller
-- @param ... names, or a list of them, and a function that may follow
-- @treturn table a list of names
-- @treturn function|nil
function M.read(level, ...)
  local given, fn, names = { ... }, nil, {}
  if type(given[#given]) == "function" then fn = table.remove(given) end
  if type(given[1]) == "table" and #given == 1 then given = given[1] end
  if #given == 0 then error("the name of a signal is missing, such as \"TERM\"", level + 1) end
  for i, name in ipairs(given) do
    if type(name) ~= "string" then
      error(("a signal has a name, such as \"TERM\", and is no %s"):format(type(name)), level + 1)
    end
    names[i] = name:gsub("^SIG", "")
    if not core.signal_number(names[i]) then error(("%q is not the name of a signal"):format(name), level + 1) end
  end
  return names, fn
end

--- Listens for signals.
-- @function on_signal
-- @param ... names, such as `"TERM"`, or a list of them; then an optional function(name, number). That is called in
-- your thread, and only while it waits through this library for something else: with the plain scheduler, where an
-- error that it raises comes out of the wait and gives up what was waited for, and in the built-in loop, where it has a
-- coroutine of its own. It goes on until the object is closed
-- @treturn signals|nil the object; nil, message, code (INVALID, NOMEM)
function M.on(...)
  local names, fn = M.read(2, ...)
  local signals, message, code = core.signals(names, in_an_interpreter())
  if not signals then return nil, message, code end
  object.extend(signals, Signals)
  getmetatable(signals).__close = Signals.close
  if fn then call_with(signals, fn) end
  return signals
end

M.client = {}

--- Has a signal end the program, but not before the locks of this client are given back: for programs that have nothing
-- else to do at their end. It needs no call of Lua's, and so works while Lua computes, or waits, or is in io.read or
-- os.execute.
--
-- When one of these signals comes, the thread that has called this is stopped where it is, for good: no line of Lua
-- runs any more in it. Then the client closes, with all clients that have asked for it, as client:close() does, in 3 s
-- at most; then the signal's default action ends the process (the first process of a container, which has none, exits
-- with 128 and the number of the signal). Nothing of Lua's runs at that end, no __gc and no os.exit, and what has been
-- written to a file and not flushed is lost. A thread that cannot be stopped within 3 s keeps its locks: they are free
-- after their lock-delay. Threads that have other Lua states are not stopped, nor is what os.execute has started.
--
-- It goes on until the client is closed, and then the signal does again what it did. A signal that the process ignores,
-- as HUP under nohup, stays ignored. Objects of on_signal hear the signal too, but it ends the process all the same.
-- @function client:close_on
-- @param ... names of signals, such as `"TERM"`, or a list of them
-- @treturn true|nil true; nil, message, code (INVALID for a signal that ends no process; CLOSED, FORKED, NOMEM)
function M.client.close_on(self, ...)
  local names = M.read(2, ...)
  return self:start_close_on(names, in_an_interpreter())
end

--- Waits in the loop for one signal; before and after it does what it always did. For more: holdfast.on_signal.
-- @function loop.signal
-- @param ... names, or a list of them
-- @treturn string|nil its name; nil, message, code
function M.once(...)
  local signals, message, code = M.on(unpack((M.read(2, ...))))
  if not signals then return nil, message, code end
  local name
  name, message, code = signals:next()
  signals:close()
  return name, message, code
end

return M
