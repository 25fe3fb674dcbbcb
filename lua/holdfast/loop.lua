--- The built-in loop: coroutines that wait for descriptors and for time, on nothing but poll(2).
--
--    local loop = require("holdfast.loop")
--    loop.run(function()
--      for i = 1, 100 do loop.spawn(work, i) end
--    end)
--
-- `run` returns when every coroutine has ended. An error in one stops no other; when all have ended, `run` raises the
-- first error with its traceback and says how many more there were. A Lua state runs one loop at a time.
-- @module holdfast.loop

local core = require("holdfast.core")
local interpreted = require("holdfast.interpreted")
local interrupts = require("holdfast.interrupts")
local plain = require("holdfast.sched.plain")

local unpack = table.unpack or unpack -- luacheck: ignore

-- What a coroutine yields when the loop knows what will wake it. Any other yield is a plain "let the others go first".
local PARKED = {}

local Loop = {}
Loop.__index = Loop

local function pack(...)
  return { n = select("#", ...), ... }
end

-- Timers: a binary heap of entries, earliest `at` first; entry.pos is its place, nil when it is not in there.

local function before(a, b)
  return a.at < b.at or (a.at == b.at and a.seq < b.seq)
end

local function place(heap, entry, pos)
  heap[pos], entry.pos = entry, pos
end

local function sift_up(heap, entry, pos)
  while pos > 1 do
    local parent = (pos - pos % 2) / 2
    if not before(entry, heap[parent]) then break end
    place(heap, heap[parent], pos)
    pos = parent
  end
  place(heap, entry, pos)
end

local function sift_down(heap, entry, pos)
  local size = #heap
  while pos * 2 <= size do
    local child = pos * 2
    if child < size and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], entry) then break end
    place(heap, heap[child], pos)
    pos = child
  end
  place(heap, entry, pos)
end

local function heap_push(heap, entry)
  sift_up(heap, entry, #heap + 1)
end

local function heap_remove(heap, entry)
  local pos, last = entry.pos, heap[#heap]
  heap[#heap], entry.pos = nil, nil
  if last == entry then return end
  if pos > 1 and before(last, heap[(pos - pos % 2) / 2]) then
    sift_up(heap, last, pos)
  else
    sift_down(heap, last, pos)
  end
end

-- Waiters: self.fds[fd] and self.ops[id] are the first of a chain of entries. Those of self.ops wait for an op of the
-- core, which has no descriptor: the loop does the work of its client while it waits (core.set).

local function add_waiter(entry)
  local places, key = entry.places, entry.key
  local last = places[key]
  if not last then
    places[key] = entry
    return
  end
  while last.next do last = last.next end
  last.next = entry
end

local function remove_waiter(self, entry)
  local places, key = entry.places, entry.key
  local previous = places[key]
  if previous == entry then
    places[key] = entry.next
    if not entry.next and entry.op then self.source.unfollow(entry.op) end
    return
  end
  while previous.next ~= entry do previous = previous.next end
  previous.next = entry.next
end

-- Takes an entry out of everything that could wake it.
local function unpark(self, entry)
  entry.task.entry = nil
  if entry.pos then heap_remove(self.timers, entry) end
  if entry.places then remove_waiter(self, entry) end
end

-- A task is resumed with its two values `ok` and `why`: what a wait answers.
local function make_ready(self, task, ok, why)
  local tail = self.tail + 1
  self.tail = tail
  self.ready[tail] = task
  task.ok, task.why = ok, why
end

local function wake(self, entry, ok, why)
  unpark(self, entry)
  make_ready(self, entry.task, ok, why)
end

-- Suspends the running coroutine until its entry is woken, after so many seconds or by what is at places[key]; answers
-- what it is woken with.
local function park(self, seconds, places, key, op)
  local task = self.current
  if task.entry then
    error("a coroutine inside a coroutine of the loop waits, and its yield never reached the loop: "
      .. "start it with loop.spawn, or wrap it with loop.pcall", 3)
  end
  self.seq = self.seq + 1
  local entry = { task = task, places = places, key = key, op = op, at = seconds and self.source.now() + seconds,
    seq = self.seq }
  task.entry = entry
  if entry.at then heap_push(self.timers, entry) end
  if places then add_waiter(entry) end
  return coroutine.yield(PARKED)
end

local function failed(self, task, message)
  self.failures = self.failures + 1
  if self.failures == 1 then
    self.failure = debug.traceback(task.co, tostring(message))
  end
end

-- Sees to what a task has come back with.
local function settle(self, task, ok, first, ...)
  self.current = nil
  if coroutine.status(task.co) == "suspended" then
    if first == PARKED then return end
    if task.entry then unpark(self, task.entry) end
    make_ready(self, task)
    return
  end
  if task.entry then unpark(self, task.entry) end
  if not ok then failed(self, task, first) end
  if task.main then task.result = pack(first, ...) end
end

-- Resumes what was ready when the turn began; what becomes ready meanwhile has the next turn.
local function run_ready(self)
  local ready, last = self.ready, self.tail
  while self.head <= last do
    local task = ready[self.head]
    ready[self.head] = nil
    self.head = self.head + 1
    self.current = task
    settle(self, task, coroutine.resume(task.co, task.ok, task.why))
  end
end

-- How long poll may sleep: 0 while there is somebody to resume, nil for as long as it takes.
local function idle_time(self)
  local first = self.timers[1]
  if self.head <= self.tail then return 0 end
  return first and math.max(0, first.at - self.source.now())
end

local function wake_all(self, places, key)
  while places[key] do wake(self, places[key], true) end
end

-- Sleeps; answers the descriptors that are readable. In a child after fork nobody will finish the parent's ops.
local function sleep(self)
  local fds, n = {}, 0
  for fd in pairs(self.fds) do
    n = n + 1
    fds[n] = fd
  end
  local ready, message, code = self.source.poll(fds, idle_time(self))
  if ready then return ready end
  if code ~= "FORKED" then error(message, 0) end
  for id in pairs(self.ops) do wake_all(self, self.ops, id) end
  return {}
end

local function poll(self)
  local source = self.source
  for fd in pairs(sleep(self)) do wake_all(self, self.fds, fd) end
  local id = source.finished()
  while id do
    wake_all(self, self.ops, id)
    id = source.finished()
  end
  if not self.timers[1] then return end
  local now = source.now()
  while self.timers[1] and self.timers[1].at <= now do
    wake(self, self.timers[1], nil, "timeout")
  end
end

local function drive(self)
  run_ready(self)
  while self.head <= self.tail or self.timers[1] or next(self.ops) or next(self.fds) do
    poll(self)
    run_ready(self)
  end
end

local function reset(self)
  self.running, self.current, self.failures, self.failure = false, nil, 0, nil
  self.ready, self.head, self.tail = {}, 1, 0
  self.timers, self.fds, self.ops, self.seq = {}, {}, {}, 0
end

-- After an interrupt nobody waits any more, nor hears what would come of it.
local function forget_all(self)
  for _, first in pairs(self.ops) do
    self.source.unfollow(first.op)
    first.op:cancel()
  end
end

for _, fn in ipairs({ sleep, poll, forget_all }) do interpreted(fn) end

function Loop:start(fn, ...)
  local args = pack(...)
  local task = { co = coroutine.create(function() return fn(unpack(args, 1, args.n)) end) }
  make_ready(self, task)
  return task
end

function Loop:run(fn, ...)
  reset(self)
  self.running = true
  local main = self:start(fn, ...)
  main.main = true
  local ok, message = pcall(drive, self)
  local failure, more = self.failure, self.failures - 1
  forget_all(self)
  reset(self)
  if not ok then error(message, 0) end
  if failure then
    error(more > 0 and ("%s\n(and %d more coroutines failed)"):format(failure, more) or failure, 0)
  end
  return unpack(main.result, 1, main.result.n)
end

function Loop:sleep(seconds)
  if not self.current then return plain.sleep(seconds) end
  if seconds > 0 then park(self, seconds) else coroutine.yield() end
end

function Loop:wait(waitable, seconds)
  if not self.current then return plain.wait(waitable, seconds) end
  local done, message, code, key
  if waitable.wait then done, message, code = waitable:wait(0) end
  if done then return true end
  if message then return nil, message, code end
  if seconds and seconds <= 0 then return nil, "timeout" end
  key, message, code = self.source.follow(waitable)
  if key then return park(self, seconds, self.ops, key, waitable) end
  if message then return nil, message, code end
  key, message, code = waitable:pollfd()
  if not key then return nil, message, code end
  return park(self, seconds, self.fds, key)
end

-- pcall that a coroutine may yield across. PUC 5.1 has none, so there the function runs in a coroutine of its own,
-- whose yields are handed on (the idea of coxpcall).
local function pump(co, ok, ...)
  if ok and coroutine.status(co) == "suspended" then
    return pump(co, coroutine.resume(co, coroutine.yield(...)))
  end
  return ok, ...
end

local function copcall(fn, ...)
  if not coroutine.running() then return pcall(fn, ...) end
  local co = coroutine.create(function(...) return fn(...) end)
  return pump(co, coroutine.resume(co, ...))
end

local function pcall_yields()
  local co = coroutine.create(function() pcall(coroutine.yield) end)
  coroutine.resume(co)
  return coroutine.status(co) == "suspended"
end

local M = {}

local function start(...) M.spawn(...) end

-- What the loop stands on: a clock, and something that waits for descriptors and ops together.
local function real_source()
  local set = assert(core.set())
  local function wait(fds, seconds) return set:wait(fds, seconds) end
  return {
    now = core.now,
    follow = function(waitable) return set:add(waitable) end,
    unfollow = function(op) set:remove(op) end,
    finished = function() return set:next() end,
    poll = function(fds, seconds) return interrupts.poll(wait, fds, seconds, start) end,
  }
end

-- A loop on another source: for specs, which never sleep. Its functions are those of the module.
function M.new(source)
  local self = setmetatable({ source = source }, Loop)
  reset(self)
  return {
    --- Runs fn(...) and everything it spawns. Answers what fn returned, once every coroutine has ended.
    -- Raises inside a running loop, and when a coroutine failed: the first error with its traceback.
    run = function(fn, ...)
      if self.running then error("loop.run inside loop.run: start another coroutine with loop.spawn", 2) end
      return self:run(fn, ...)
    end,
    --- Starts fn(...) as a coroutine of the running loop; it begins in the next turn. Raises outside a loop.
    spawn = function(fn, ...)
      if not self.running then error("loop.spawn outside loop.run: there is no loop to run it on", 2) end
      self:start(fn, ...)
    end,
    --- Lets others run for so many seconds; 0 lets everybody who is ready have one turn. Blocks outside a loop.
    sleep = function(seconds) return self:sleep(seconds) end,
    --- Waits until waitable:pollfd() is readable (a hint: look at what you wait for again).
    -- Answers true; nil, "timeout" after so many seconds (nil: no limit); or nil, message, code when there is no
    -- descriptor to be had. Several coroutines may wait on one descriptor. Blocks outside a loop.
    wait = function(waitable, seconds) return self:wait(waitable, seconds) end,
    --- Seconds on the clock of the timers.
    now = source.now,
    --- Whether the caller runs in a coroutine of the loop.
    running = function() return self.current ~= nil end,
  }
end

local default = M.new(real_source())
for name, fn in pairs(default) do M[name] = fn end

--- Waits for a signal: holdfast.signal, once.
function M.signal(...) return require("holdfast.signal").once(...) end

--- pcall for code that may wait: plain pcall where that can be yielded across, a coroutine of its own on PUC Lua 5.1.
M.pcall = pcall_yields() and pcall or copcall

return M
