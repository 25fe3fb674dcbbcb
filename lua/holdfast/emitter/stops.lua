--- Signals that stop an emitter. Private to it.
-- @module holdfast.emitter.stops

local core = require("holdfast.core")
local interrupts = require("holdfast.interrupts")
local signal = require("holdfast.signal")

require("holdfast.interpreted")()

local Stops = {}
Stops.__index = Stops

-- What gets out of a wait that blocks; whoever waits knows by its hold that it was aborted.
local STOPPED = "the emitter is stopping"

--- Sees whether a signal has come. The first one stops the emitter within its grace, the next one at once.
function Stops:hear()
  if not self.signals then return end
  while self.signals:take() do
    self.emitter:stop(self.heard and 0 or self.grace)
    self.heard = true
  end
end

--- Sleeps; a signal ends that.
function Stops:sleep(seconds)
  if not self.signals then return self.sched.sleep(seconds) end
  self.sched.wait(self.signals, seconds)
  self:hear()
end

-- Where one hold at a time is served, and nothing else runs meanwhile: the wait in which it is hears of a signal, and
-- of the end of the grace. What gives the lock back, within a time of its own, is not interrupted.
local function interrupt(self)
  self:hear()
  local emitter = self.emitter
  if not emitter.stop_at_ then return end
  local left = emitter.stop_at_ - emitter.opts_.now()
  self.interrupt.at = left > 0 and core.now() + left or nil
  if left > 0 then return end
  for _, hold in pairs(emitter.active_) do
    if hold.pushing or not hold.since then
      hold.aborted = true
      error(STOPPED, 0)
    end
  end
end

--- Begins to hear, in the waits of a scheduler.
function Stops:begin(sched)
  self.sched = sched
  if not self.signals or not sched.blocking then return end
  self.interrupt = { fd = self.signals:pollfd(), heard = function() interrupt(self) end }
  interrupts.add(self.interrupt)
end

function Stops:close()
  interrupts.remove(self.interrupt)
  if self.signals then self.signals:close() end
end

local M = {}

--- Takes the signals.
-- @param emitter
-- @tparam table opts `{ stop_on =, grace = }`
-- @treturn table|nil it; nil, message, code
function M.new(emitter, opts)
  local self = setmetatable({ emitter = emitter, grace = opts.grace }, Stops)
  if opts.stop_on then
    local message, code
    self.signals, message, code = signal.on(opts.stop_on)
    if not self.signals then return nil, message, code end
  end
  return self
end

return M
