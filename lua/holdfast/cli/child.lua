--- A command that runs under a lock: in a process group of its own, which is sent what we are sent, and which ends when
-- the lock is lost. Private.
-- @module holdfast.cli.child

local core = require("holdfast.core")
local exits = require("holdfast.cli.exits")
local signals = require("holdfast.cli.signals")

local process = core.process

local FAILED = { NOT_FOUND = exits.NOT_FOUND, DENIED = exits.NOT_EXECUTABLE, NOMEM = exits.SYSTEM }

-- Ctrl-Z. The command must not go on while nobody renews, so it stops first. It is continued when we are, and a lock
-- that did not last that long is found lost before.
local function suspend(self)
  process.signal(self.pid, "STOP")
  if self.terminal then process.terminal(0) end
  process.stop()
  if self.terminal then process.terminal(self.pid) end
  if self.lock:held() then process.signal(self.pid, "CONT") end
end

local function hear(self, name)
  if name == "TSTP" then return suspend(self) end
  if signals.is_for_command(name) then
    self.say("%s to the command", name)
    process.signal(self.pid, name)
    if self.starved then process.signal(self.pid, "CONT") end -- nothing reaches what is stopped
  end
end

-- Without a terminal of ours a command that stops is somebody else's doing, and its lock goes on; but who is stopped
-- because it wants a terminal would wait for ever.
local function stopped(self, signal)
  if self.terminal then return suspend(self) end
  if signal ~= "TTIN" and signal ~= "TTOU" then return end
  if not self.starved then exits.say("the command has stopped, since it wants the terminal: --pass-stdin gives it") end
  self.starved = true
end

local function look(self)
  local what, value, number = process.look(self.pid)
  while what do
    if what == "exited" then self.status = value end
    if what == "killed" then self.status = 128 + number end
    if what == "stopped" then stopped(self, value) end
    if what == "all" then
      self.gone = true
      return
    end
    what, value, number = process.look(self.pid)
  end
end

local function check_lock(self)
  if self.lost or self.status then return end
  local held, reason = self.lock:held()
  if held then return end
  self.lost = true
  exits.say("the lock is lost (%s): %s to the command", reason, self.signal)
  process.signal(self.pid, self.signal)
  process.signal(self.pid, "CONT")
  self.kill_at = core.now() + self.grace
end

local function check_grace(self)
  if not self.kill_at or core.now() < self.kill_at then return end
  self.kill_at = nil
  exits.say("the command does not end: KILL to it")
  process.signal(self.pid, "KILL")
end

local function supervise(self)
  local fd, message, code = self.lock:pollfd()
  if not fd then error(("%s: %s"):format(code, message)) end
  while true do
    look(self)
    if self.status and (self.gone or not self.lost) then return end
    check_lock(self)
    check_grace(self)
    self.signals:poll(self.lost and {} or { fd }, self.kill_at and math.max(0, self.kill_at - core.now()))
  end
end

local M = {}

--- Runs a command to its end.
--
-- A lock that is lost ends the whole process group, and it is waited for; else the command is over when its first
-- process is, whatever that has left behind.
-- @tparam table self `{ argv=, env=, pass_stdin=, grace=, signal=, lock=, signals=, say= }`
-- @treturn number the exit status
function M.run(self)
  local message, code
  self.terminal = self.pass_stdin and process.terminal()
  self.pid, message, code = process.spawn(self)
  if not self.pid then return exits.fail(FAILED[code] or exits.INTERNAL, "%s", message) end
  self.signals.heard = function(name) hear(self, name) end
  supervise(self)
  if self.terminal then process.terminal(0) end
  return self.lost and exits.LOST or self.status
end

return M
