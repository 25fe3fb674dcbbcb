--- The emitter: takes messages from a queue and pushes them to receivers, one emitter per receiver at a time.
--
-- The promise, in these words: at-least-once per message and receiver; at most one emitter that believes it holds the
-- receiver's lock; a push in flight is aborted when the lock is lost, and its message is left for the next holder under
-- the same `webhook-id`; every push carries the fencing token, so that a receiver that checks it can refuse a stale
-- emitter.
--
-- A round: ask the queue which receivers have something due, least recently served first; for up to `concurrency` of
-- them at once take the lock, then claim, sign, push and settle one message after another, and release. A push that
-- failed ends the hold: nobody waits for a retry under a lock.
-- @module holdfast.emitter

local check = require("holdfast.check")
local holds = require("holdfast.emitter.hold")
local options = require("holdfast.emitter.options")
local loop = require("holdfast.loop")
local stops = require("holdfast.emitter.stops")

require("holdfast.interpreted")()

local REFUSED_FIRST, REFUSED_MOST = 0.1, 1
local TICK = 0.25   -- no sleep is longer, so that stop() is noticed

local read_stop = check.arguments("emitter: ", { "grace", { "duration", default = options.GRACE } })

-- The counter of each type of event.
local COUNTERS = {
  acquired = "acquired", released = "released", refused = "lock_refused", lost = "lost", delivered = "delivered",
  failed = "failed", aborted = "aborted", ack_lost = "ack_lost", error = "errors",
}

local Emitter = {}
Emitter.__index = Emitter
Emitter.__name = "holdfast.emitter"

-- ---- what a hold asks for -------------------------------------------------------------------------------------------

function Emitter:stopping_()
  self.stops_:hear()
  return self.stop_at_ ~= nil
end

--- Counts an event and tells on_event. What that raises is counted, and has no other effect.
function Emitter:event_(kind, hold, event)
  local count, on_event, claim = self.count_, self.opts_.on_event, hold.claim
  count[COUNTERS[kind]] = count[COUNTERS[kind]] + 1
  if not on_event then return end
  event.type, event.receiver, event.key = kind, hold.name, hold.key
  event.token, event.session = hold.token, hold.session
  if claim then event.id, event.attempt = claim.msg.id, claim.attempt end
  if not loop.pcall(on_event, event) then count.event_errors = count.event_errors + 1 end
end

--- Something that a person should look at. A closed client or queue will not come back: then the emitter stops.
function Emitter:problem_(hold, reason, code)
  if (code == "CLOSED" or code == "FORKED") and not self.fatal_ then
    self.fatal_ = { reason, code }
    self:stop(0)
  end
  self:event_("error", hold, { reason = reason, code = code })
end

--- A call to the queue: what it answers, or nil after telling on_event. An error that it raises is no different.
function Emitter:ask_(hold, verb, ...)
  local ok, answer, message, code = loop.pcall(self.opts_.queue[verb], self.opts_.queue, ...)
  if not ok then answer, message, code = nil, answer, "INVALID" end
  if answer == nil then self:problem_(hold, ("queue %s: %s"):format(verb, tostring(message)), code) end
  return answer
end

function Emitter:settled_()
  self.sum_ = self.sum_ + 1
end

local function jittered(self, seconds)
  return seconds * (0.8 + 0.4 * self.opts_.random())
end

--- Leaves a receiver alone for the retry delay, in this process only. Answers the delay.
function Emitter:back_off_(name)
  local delay = jittered(self, self.opts_.retry_delay)
  self.waits_[name] = { at = self.opts_.now() + delay }
  return delay
end

--- Leaves it alone because there was nothing to do under the lock, or no lock: longer each time, as every attempt is an
-- entry in Consul's raft log.
function Emitter:back_off_more_(name)
  local before = self.waits_[name]
  local delay = before and before.delay and math.min(REFUSED_MOST, before.delay * 2) or REFUSED_FIRST
  self.waits_[name] = { at = self.opts_.now() + jittered(self, delay), delay = delay }
end

function Emitter:back_off_no_more_(name)
  self.waits_[name] = nil
end

-- ---- rounds ---------------------------------------------------------------------------------------------------------

-- Forgets what was waited out long ago; answers how many receivers have to wait still.
local function count_waiting(self)
  local now, waiting = self.opts_.now(), 0
  for name, wait in pairs(self.waits_) do
    if wait.at > now then
      waiting = waiting + 1
    elseif wait.at < now - 60 then
      self.waits_[name] = nil
    end
  end
  return waiting
end

local function may_start(self, name)
  local wait = self.waits_[name]
  return not self.active_[name] and not (wait and wait.at > self.opts_.now())
end

local dispatch

-- Runs hold:serve() or hold:abort() as a coroutine, or at once where the scheduler has none.
local function start(self, hold, method)
  local function run()
    hold[method](hold)
    self.busy_ = self.busy_ - 1
    if method == "serve" then
      self.active_[hold.name] = nil
      if self.full_ or hold.messages > 0 then dispatch(self) end
    end
  end
  self.busy_ = self.busy_ + 1
  if self.sched_.blocking then run() else self.sched_.spawn(run) end
end

local function serve(self, name)
  local hold = holds.new(self, name)
  self.active_[name] = hold
  start(self, hold, "serve")
end

-- Starts a hold for every receiver with something due, as far as there are free slots. full_ says afterwards that there
-- is or may be one for whom there was none.
local function round(self)
  local most = self.opts_.concurrency
  self.full_ = self.busy_ >= most
  if self.full_ or self.opts_.now() < self.queue_at_ then return end
  local limit = most + self.busy_ + count_waiting(self)
  local due = self:ask_({}, "due", limit)
  if not due then
    self.queue_at_ = self.opts_.now() + jittered(self, self.opts_.retry_delay)
    return
  end
  self.full_ = #due >= limit   -- there may be more than it told
  for _, item in ipairs(due) do
    if self.stop_at_ then return end
    if may_start(self, item.receiver) then
      self.full_ = self.full_ or self.busy_ >= most
      if self.busy_ >= most then return end
      serve(self, item.receiver)
    end
  end
end

-- Rounds for as long as holds end while one is on: a slot that becomes free is used at once.
function dispatch(self)
  self.again_ = true
  if self.dispatching_ or self.stepping_ then return end
  self.dispatching_ = true
  while self.again_ and not self.stop_at_ do
    self.again_ = false
    round(self)
  end
  self.dispatching_ = false
end

local function idle(self)
  local till = self.opts_.now() + jittered(self, self.opts_.poll)
  local left = till - self.opts_.now()
  while left > 0 and not self.stop_at_ do
    self.stops_:sleep(math.min(left, TICK))
    left = till - self.opts_.now()
  end
end

local function abort(self)
  self.aborting_ = true
  for _, hold in pairs(self.active_) do
    if hold.pushing then start(self, hold, "abort") end
  end
end

-- Waits for what runs; once stop's grace is over, what is in flight is aborted.
local function drain(self)
  while self.busy_ > 0 or self.dispatching_ do
    if self.stop_at_ and self.opts_.now() >= self.stop_at_ and not self.aborting_ then abort(self) end
    self.stops_:sleep(0.01)
  end
end

-- ---- the public face ------------------------------------------------------------------------------------------------

local function run(self)
  while not self.stop_at_ do
    dispatch(self)
    idle(self)
  end
  drain(self)
  if self.fatal_ then return nil, self.fatal_[1], self.fatal_[2] end
  return true
end

local function step(self)
  self.sum_, self.stepping_ = 0, true   -- a hold that ends starts no other
  round(self)
  drain(self)
  if self.fatal_ then return nil, self.fatal_[1], self.fatal_[2] end
  return self.sum_
end

local function reset(self)
  self.sched_, self.stop_at_, self.fatal_, self.aborting_ = nil, nil, nil, false
  self.dispatching_, self.stepping_, self.again_, self.full_ = false, false, false, false
  self.active_, self.busy_, self.sum_ = {}, 0, 0
  self.count_.in_flight, self.count_.receivers_held = 0, 0
end

local function finish(self, ok, ...)
  self.stops_:close()
  reset(self)
  if not ok then error((...), 0) end
  return ...
end

local function directly(fn, ...) return fn(...) end

-- Runs body where spawn works.
local function enter(self, body, given)
  local message, code
  self.stops_, message, code = stops.new(self, given)
  if not self.stops_ then return nil, message, code end
  self.sched_ = self.opts_.client:scheduler()
  self.stops_:begin(self.sched_)
  return finish(self, loop.pcall(self.sched_.enter or directly, body, self))
end

--- Emits until stop() is called, or one of the signals `stop_on` has come: that is stop(grace), and a second one
-- stop(0). The locks have been given back when it returns. Outside a loop it starts one, when the scheduler of the
-- client is "loop". With the scheduler "plain" it serves one receiver after another; a push in flight is aborted for a
-- signal only, not for stop(), which nobody can call then.
-- @tparam[opt] table opts fields: `stop_on`, names of signals (`{ "TERM", "INT" }`), which do nothing else meanwhile
-- (see holdfast.signal); `grace`, 10 s
-- @treturn true|nil true; nil, message and code when the client or the queue was closed meanwhile
function Emitter:run(opts)
  if self.sched_ then error("emitter: it is running already", 2) end
  return enter(self, run, options.run(opts, 2))
end

--- One round: serves the receivers that have something due and may be served now, each within the bounds of a hold.
-- @treturn number|nil how many messages were settled (acked, or given back for later); nil, message, code as for run
function Emitter:step()
  if self.sched_ then error("emitter: it is running already", 2) end
  return enter(self, step, {})
end

--- Ends run() or step(), or the next one when none is on. Returns at once; may be called from another coroutine, from
-- on_event and from a debug hook (signal). Nothing more is claimed; pushes in flight may finish within the grace, then
-- they are aborted and given back, uncounted.
-- @param[opt=10] grace seconds, or text such as "10s". A second call can only shorten it
-- @treturn true
function Emitter:stop(grace)
  local at = self.opts_.now() + read_stop(2, grace).grace
  self.stop_at_ = math.min(at, self.stop_at_ or at)
  return true
end

--- Counters since new (acquired, released, lock_refused, lost, delivered, failed, aborted, ack_lost, errors; and
-- event_errors: how often on_event raised) and gauges (in_flight, receivers_held).
-- @treturn table
function Emitter:stats()
  local copy = {}
  for name, value in pairs(self.count_) do copy[name] = value end
  return copy
end

function Emitter:__tostring()
  return ("%s: %s (%s)"):format(Emitter.__name, self.opts_.prefix, self.sched_ and "running" or "idle")
end

Emitter.__close = function(self) self:stop(0) end

local M = {}

--- Makes an emitter; nothing happens before run() or step(). A wrong or unknown option raises.
--
-- `on_event` gets a table with type, receiver, key, token, session, id, attempt, status, reason, code and elapsed, as
-- far as they apply. Types: acquired, released, refused (somebody else has the lock), lost, delivered, failed, aborted
-- (by stop), ack_lost (delivered, but the claim had moved on), error.
-- @tparam table opts fields: `client`; `queue`; `receivers`, a table from name to
-- `{ url=, secret=, timeout=15, tls=, unix_socket= }`, or a function that answers one (nil: not configured, its
-- messages come back later; false: leave it to other emitters); `public_only`, as for client:request: true by default
-- when `receivers` is a function or there is `allow_addresses`, a list of networks that are let through all the same;
-- `prefix` of the lock keys, "webhook_receiver/"; `concurrency`, 64; `hold`, `{ messages = 100, time = 5 }`;
-- `retry_delay` after a failure, 5 s, and `poll` of an idle queue, 0.25 s, both within 20 %; `name`, the value of
-- the locks; `on_event`; and for specs `now` (monotonic), `time` (Unix seconds), `random` (0 to 1)
-- @return the emitter
function M.new(opts)
  local self = setmetatable({ opts_ = options.read(opts, 2), waits_ = {}, queue_at_ = -math.huge }, Emitter)
  self.count_ = { event_errors = 0 }
  for _, name in pairs(COUNTERS) do self.count_[name] = 0 end
  reset(self)
  return self
end

return M
