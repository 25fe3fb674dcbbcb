--- Elections: a lock that is campaigned for again and again, whose value everybody can read. Private; users see it as
-- `client:elect("k", { on_gain = lead, on_lose = stop })`.
-- @module holdfast.elect

local flags = require("holdfast.flags")
local locks = require("holdfast.lock")
local loop = require("holdfast.loop")
local object = require("holdfast.object")
local options = require("holdfast.options")

require("holdfast.interpreted")()

local AGAIN = 0.5         -- seconds, at most, between the end of a leadership and the next try
local TROUBLE_MOST = 10   -- seconds, at most, between tries that were refused
local SLICE = 0.1         -- a pause looks so often whether it is to end, seconds
local GIVE_BACK = 5       -- seconds that it takes at most to give up after an error
local WAIT = 60           -- seconds that a read of the key waits for a change
local QUICK = 0.1         -- one that comes back sooner is followed by the next a little later

local ENDS = { CLOSED = true, FORKED = true }

local Election = {}
Election.__index = Election
Election.__name = "holdfast.election"

local M = {}

-- ---- the campaign --------------------------------------------------------------------------------------------------

-- Whether a coroutine can be started here.
local function can_spawn(scheduler)
  return not scheduler.blocking and (scheduler.spawn ~= loop.spawn or loop.running())
end

local function left_until(self, deadline)
  return deadline and math.max(0, deadline - self.scheduler_.now())
end

-- Lets some time pass, up to so many seconds: who campaigns may resign meanwhile, and those who lost one leader
-- together do not all come back in the same moment.
local function pause(self, most, deadline)
  local till = self.scheduler_.now() + math.random() * most
  if deadline and deadline < till then till = deadline end
  while not self.stopped_ and self.scheduler_.now() < till do
    self.scheduler_.sleep(math.min(SLICE, math.max(0, till - self.scheduler_.now())))
  end
end

-- Tells that it leads. When it does not any more by then, nothing is told at all.
local function gain(self, term)
  if not self.lock_:held() then return end
  term.begun = true
  if not self.on_gain_ then return end
  local ok, failure = loop.pcall(self.on_gain_, self.lock_)
  if ok then return end
  term.failed, term.failure = true, failure
  self.lock_:unlock(GIVE_BACK)
end

-- From the moment in which it has the lock to the end of that.
local function reign(self, deadline)
  local term = {}
  if self.on_gain_ and can_spawn(self.scheduler_) then
    self.scheduler_.spawn(gain, self, term)
  else
    gain(self, term)
  end
  local reason, message, code = self.lock_:wait_lost(left_until(self, deadline))
  if not reason and code == "TIMEOUT" then
    self.lock_:unlock(GIVE_BACK)
    reason = "released"
  end
  if term.begun and self.on_lose_ then self.on_lose_(reason or message) end
  if term.failed then error(term.failure, 0) end
end

local function contend(self, deadline)
  local refusals = 0
  while not self.stopped_ do
    local ok, message, code = self.lock_:lock(left_until(self, deadline))
    self.why_ = not ok and message or nil
    if ok then
      refusals = 0
      reign(self, deadline)
      pause(self, AGAIN, deadline)
    elseif ENDS[code] then
      return nil, message, code
    elseif not self.stopped_ then
      refusals = refusals + 1
      pause(self, math.min(2 ^ refusals / 2, TROUBLE_MOST), deadline)
    end
    if deadline and self.scheduler_.now() >= deadline then break end
  end
  return true
end

local function campaign(self, seconds)
  local done, ok, message, code = loop.pcall(contend, self, seconds and self.scheduler_.now() + seconds)
  self.running_ = false
  if done then return ok, message, code end
  if self.lock_:held() then object.drop(self.lock_:start_unlock(GIVE_BACK)) end
  error(ok, 0)
end

--- Campaigns here, where no coroutine does it: until `resign`, or for so long. What the callbacks raise comes out of
-- it.
-- @function election:run
-- @param[opt] timeout after which it gives up, and gives back what it has
-- @treturn true|nil true; nil, message, code (CLOSED, FORKED; HELD when it campaigns already)
function Election:run(timeout)
  local seconds = options.timeout(timeout, 2)
  if self.running_ then return nil, ("a campaign for %q is under way"):format(self:key()), "HELD" end
  self.running_, self.stopped_ = true, false
  return campaign(self, seconds)
end

--- Ends the campaign, and the leadership with it.
-- @function election:resign
-- @param[opt] timeout for giving the key back
-- @treturn true|nil true; nil, message, code as lock:unlock
function Election:resign(timeout)
  local seconds = options.timeout(timeout, 2)
  self.stopped_ = true
  if self.lock_:held() then return self.lock_:unlock(seconds) end
  self.lock_:cancel()
  return true
end

-- ---- who leads -----------------------------------------------------------------------------------------------------

--- Whether it leads. No network.
-- @function election:leading
-- @treturn boolean true; false, and why not when that is known: the reason of the loss, or what the last try was told
function Election:leading()
  if self.lock_:held() then return true end
  local _, reason = self.lock_:held()
  return false, self.why_ or reason
end

-- Answers value and session; nil, message, code when nobody leads. Then the index to ask with next.
local function read(self, opts)
  local pair, index, code, meta = self.client_.kv:get(self:key(), opts)
  if not pair then return nil, index, code, meta and meta.index end
  if pair.flags ~= flags.LOCK then
    return nil, ("key %q is not used as a lock"):format(self:key()), "CONFLICT", index
  end
  if not pair.session then return nil, ("nobody leads %q"):format(self:key()), "NOT_FOUND", index end
  return pair.value, pair.session
end

--- Who leads, as Consul says.
-- @function election:leader
-- @treturn string|nil the value of the leader; nil, message, code (NOT_FOUND when nobody leads, CONFLICT, and those of
-- client.kv:get)
-- @treturn string its session
function Election:leader()
  local value, session, code = read(self)
  return value, session, code
end

-- What waiting would not mend.
local FINAL = { DENIED = true, CLOSED = true, FORKED = true, INVALID = true, TOO_LARGE = true, NOMEM = true }

--- Waits until somebody leads.
-- @function election:wait_leader
-- @param[opt] timeout
-- @treturn string|nil as `leader`; nil, message, code (TIMEOUT; DENIED, CLOSED, FORKED)
function Election:wait_leader(timeout)
  local seconds = options.timeout(timeout, 2)
  local now, index = self.scheduler_.now, nil
  local deadline = seconds and now() + seconds
  while true do
    local begun = now()
    local left = deadline and math.max(0.001, deadline - begun)
    local value, session, code, next_index = read(self, { index = index, wait = math.min(left or WAIT, WAIT) })
    if value or FINAL[code] then return value, session, code end
    if deadline and now() >= deadline then
      return nil, ("nobody has led %q in the time given: %s"):format(self:key(), session), "TIMEOUT"
    end
    if index and now() - begun < QUICK or not next_index then
      self.scheduler_.sleep(math.min(QUICK + math.random() * QUICK, deadline and deadline - now() or 1))
    end
    index = next_index
  end
end

-- ---- making them ---------------------------------------------------------------------------------------------------

--- The key.
-- @function election:key
function Election:key() return self.lock_:key() end

function Election:__tostring()
  return ("holdfast.election: %s (%s)"):format(self:key(), self.lock_:held() and "leading" or "not leading")
end

function Election:__close() self:resign() end

local function callback(opts, name, level)
  local fn = opts[name]
  if fn ~= nil and type(fn) ~= "function" then error(name .. " must be a function, not a " .. type(fn), level + 1) end
  return fn
end

--- What client:elect does.
-- @int level as for error() in the function that calls this
function M.new(client, key, opts, level)
  opts = opts or {}
  if type(opts) ~= "table" then error("elect takes a key and a table of options", level + 1) end
  if opts.key ~= nil then error("the key of an election is the first argument, not an option", level + 1) end
  local on_gain, on_lose = callback(opts, "on_gain", level + 1), callback(opts, "on_lose", level + 1)
  local given = { key = key }
  for name, value in pairs(opts) do
    if name ~= "on_gain" and name ~= "on_lose" then given[name] = value end
  end
  local lock, message, code = locks.new(client, given, level + 1)
  if not lock then return nil, message, code end
  local self = setmetatable({ client_ = client, lock_ = lock, scheduler_ = object.scheduler(client),
    on_gain_ = on_gain, on_lose_ = on_lose }, Election)
  if can_spawn(self.scheduler_) then
    self.running_ = true
    self.scheduler_.spawn(campaign, self)
  end
  return self
end

return M
