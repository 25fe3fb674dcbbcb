--- A world for the emitter, without time, network and Consul: its clock moves when everybody sleeps. The locks are made
-- here; the queue is the real one in memory, and can be made to fail once.
-- @module spec.support.world

local loops = require("holdfast.loop")
local queues = require("holdfast.queue")

local Lock = {}
Lock.__index = Lock

local M = { START = 1000, Lock = Lock }

--- A world. `holders` has the lock of each key that is held; lock_error, unlock_error and client_error are codes to
-- fail with; attempts and pushes tell what was done.
function M.new()
  local world = { time = M.START, index = 100, holders = {}, attempts = {}, pushes = {}, open = 0, most_open = 0 }
  world.now = function() return world.time end
  world.loop = loops.new({
    now = world.now,
    follow = function() end,
    finished = function() end,
    poll = function(_, seconds)
      world.time = world.time + assert(seconds, "everybody waits for ever")
      return {}
    end,
  })
  function world.scheduler()
    local loop = world.loop
    local function enter(fn, ...)
      if loop.running() then return fn(...) end
      return loop.run(fn, ...)
    end
    return { wait = loop.wait, sleep = loop.sleep, spawn = loop.spawn, now = loop.now, enter = enter }
  end
  function world.blocking()
    local function none() error("not to be called") end
    local function sleep(seconds) world.time = world.time + seconds end
    return { wait = none, sleep = sleep, spawn = none, now = world.now, blocking = true }
  end
  -- What receivers do: answers a status (or a response, or nil, message, code) and how long it takes; specs replace it.
  function world.respond() return 200 end
  return world
end

-- ---- locks ----------------------------------------------------------------------------------------------------------

function Lock:lock(timeout)
  assert(timeout == 0, "an emitter never waits for a lock")
  local world = self.world
  world.attempts[#world.attempts + 1] = { key = self.key, at = world.time }
  if world.lock_error then return nil, "no way to Consul", world.lock_error end
  if world.holders[self.key] then return nil, self.key .. " is held by another", "TIMEOUT" end
  world.index = world.index + 1
  world.holders[self.key], self.hold_token, self.reason = self, world.index, nil
  return true
end

function Lock:held()
  if self.hold_token then return true end
  return false, self.reason or "released"
end

function Lock:remaining() return self.hold_token and (self.left or 10) or 0 end
function Lock:token() return self.hold_token end
function Lock:session() return self.hold_token and "session-1" end

--- Has the hold end, as if Consul had said so.
function Lock:lose(reason)
  self.hold_token, self.reason, self.was_lost, self.world.holders[self.key] = nil, reason, true, nil
end

function Lock:unlock(timeout)
  assert(timeout and timeout > 0)
  if self.was_lost then return nil, "lost: " .. self.reason, "LOST" end
  if not self.hold_token then return nil, "not held", "NOT_HELD" end
  self.hold_token, self.world.holders[self.key] = nil, nil
  if self.world.unlock_error then return nil, "no way to Consul", self.world.unlock_error end
  return true
end

function Lock:request(request)
  local world = self.world
  if not self.hold_token then return nil, "not held", "NOT_HELD" end
  local push = { lock = self, key = self.key, token = self.hold_token, at = world.time, request = request,
    id = request.headers["webhook-id"] }
  world.pushes[#world.pushes + 1] = push
  world.open = world.open + 1
  world.most_open = math.max(world.most_open, world.open)
  local answer, message, code = world.respond(push, #world.pushes)
  local till = world.time + (push.takes or 0)
  while world.time < till and self.hold_token do
    world.sleep(math.min(0.05, till - world.time))
  end
  world.open = world.open - 1
  if not self.hold_token then
    return nil, "the hold ended", self.was_lost and "LOST" or "NOT_HELD"
  end
  if type(answer) == "number" then return { status = answer, headers = {}, body = "" } end
  return answer, message, code
end

--- A client of that world, with its own scheduler unless another is given.
function M.client(world, scheduler)
  scheduler = scheduler or world.scheduler()
  world.sleep = scheduler.sleep
  return {
    scheduler = function() return scheduler end,
    lock = function(_, opts)
      if world.client_error then return nil, "the client is closed", world.client_error end
      return setmetatable({ world = world, key = opts.key, value = opts.value }, Lock)
    end,
  }
end

-- ---- the queue in memory, looked at while it is used ----------------------------------------------------------------

local Queue = {}

--- The queue "memory:" on the clock of that world. What is asked of it is in calls[verb]: a list of the arguments of
-- each call. `real` is the queue itself, as another process would use it.
function M.queue(world)
  local real = assert(queues.open("memory:", { now = world.now }))
  return setmetatable({ real = real, calls = { due = {}, claim = {}, ack = {}, nack = {} }, instead_ = {} }, Queue)
end

function Queue:__index(name)
  local calls, real = self.calls[name], self.real
  if Queue[name] then return Queue[name] end
  local function call(...) return real[name](real, ...) end
  return function(_, ...)
    if calls then calls[#calls + 1] = { ... } end
    local instead = self.instead_[name]
    if not instead then return call(...) end
    instead.left = instead.left - 1
    if instead.left == 0 then self.instead_[name] = nil end
    return instead.fn(call, ...)
  end
end

--- Has fn(call, ...) called in place of the next call of a verb (or of so many); call(...) is the real one.
function Queue:instead(verb, fn, often)
  self.instead_[verb] = { fn = fn, left = often or 1 }
end

--- Puts messages into the queue: one of each id.
function Queue:put(receiver, ...)
  for _, id in ipairs({ ... }) do
    assert(self.real:push(receiver, { id = id, body = "{}" }) == true, "not pushed: " .. id)
  end
end

--- As another process would: claims the next message.
function Queue:take(receiver)
  return assert(self.real:claim(receiver, 1, 20)[1])
end

function Queue:left() return self.real:len() end

--- What was given back: a list of { delay, count, reason }.
function Queue:nacks()
  local list = {}
  for i, call in ipairs(self.calls.nack) do
    list[i] = { delay = call[2], count = call[3].count, reason = call[3].reason }
  end
  return list
end

return M
