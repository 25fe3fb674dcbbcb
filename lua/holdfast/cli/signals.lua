--- Signals of a program that waits for Consul: none interrupts anything, each is heard where the program waits anyway.
-- Private.
-- @module holdfast.cli.signals

local core = require("holdfast.core")
local plain = require("holdfast.sched.plain")

local process = core.process

--- What is handed on to a command that runs.
local FORWARDED = { "INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH" }
-- What comes of them when there is no command: these end a program, WINCH does not.
local ENDING = { INT = true, TERM = true, HUP = true, QUIT = true, USR1 = true, USR2 = true }

local Signals = {}
Signals.__index = Signals

--- Hands every signal that has come to `heard(name, number)`.
function Signals:drain()
  for name, number in function() return process.next_signal(self.fd) end do self.heard(name, number) end
end

--- Waits until one of the descriptors is readable or a signal has been heard.
-- @tparam table fds list
-- @number[opt] seconds
-- @treturn table { [fd] = true }
function Signals:poll(fds, seconds)
  local all = { self.fd }
  for i, fd in ipairs(fds) do all[i + 1] = fd end
  local ready = core.poll(all, seconds)
  if ready[self.fd] then self:drain() end
  return ready
end

-- The scheduler of a client, which hears signals in every wait.
local function wait(self, waitable, seconds)
  local deadline = seconds and core.now() + seconds
  local fd, message, code = waitable:pollfd()
  if not fd then return nil, message, code end
  repeat
    if self:poll({ fd }, deadline and math.max(0, deadline - core.now()))[fd] then return true end
  until deadline and core.now() >= deadline
  return nil, "timeout"
end

local M = { ENDING = ENDING }

--- Takes the signals of this process over.
-- @treturn table|nil fd, scheduler, and heard, which is the caller's to set; nil, message, code
function M.take()
  -- A reader of ours that has gone is no reason to end: what is written to it fails.
  local names = { "PIPE", "TSTP" }
  for _, name in ipairs(FORWARDED) do names[#names + 1] = name end
  local fd, message, code = process.signals(names)
  if not fd then return nil, message, code end
  local self = setmetatable({ fd = fd, heard = function() end }, Signals)
  self.scheduler = { blocking = true, sleep = plain.sleep, spawn = plain.spawn, now = core.now,
    wait = function(waitable, seconds) return wait(self, waitable, seconds) end }
  return self
end

--- Whether a signal is one to hand on to a command.
function M.is_for_command(name)
  for _, forwarded in ipairs(FORWARDED) do
    if name == forwarded then return true end
  end
  return false
end

return M
