--- Signals of a program that waits for Consul: each is heard where the program waits anyway.
-- Private.
-- @module holdfast.cli.signals

local core = require("holdfast.core")
local interrupts = require("holdfast.interrupts")
local signal = require("holdfast.signal")

--- What is handed on to a command that runs.
local FORWARDED = { "INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH" }
-- What comes of them when there is no command: these end a program, WINCH does not.
local ENDING = { INT = true, TERM = true, HUP = true, QUIT = true, USR1 = true, USR2 = true }

local Signals = {}
Signals.__index = Signals

--- Hands every signal that has come to `heard(name, number)`.
function Signals:drain()
  for name, number in function() return self.signals:take() end do self.heard(name, number) end
end

--- Waits until one of the descriptors is readable or a signal has been heard.
-- @tparam table fds list
-- @number[opt] seconds
function Signals.poll(_, fds, seconds)
  interrupts.poll(core.poll, fds, seconds)
end

local M = { ENDING = ENDING }

--- Takes the signals of this process over: they are heard in every wait, and interrupt nothing.
-- @treturn table|nil heard is the caller's to set; nil, message, code
function M.take()
  -- A reader of ours that has gone is no reason to end: what is written to it fails. CHLD is news of the command.
  local names = { "PIPE", "TSTP", "CHLD" }
  for _, name in ipairs(FORWARDED) do names[#names + 1] = name end
  local self = setmetatable({ heard = function() end }, Signals)
  local message, code
  self.signals, message, code = signal.on(names, function(...) self.heard(...) end)
  if not self.signals then return nil, message, code end
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
