local emitters = require("holdfast.emitter")
local loops = require("holdfast.loop")
local webhook = require("holdfast.webhook")

local SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
local START = 1000
local EPOCH = 1700000000

-- ---- a world without time, network or Consul: the clock moves when everybody sleeps --------------------------------

local function new_world()
  local world = { time = START, index = 100, holders = {}, attempts = {}, pushes = {}, open = 0, most_open = 0 }
  world.now = function() return world.time end
  world.loop = loops.new({
    now = world.now,
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

local Lock = {}
Lock.__index = Lock

function Lock:lock(timeout)
  assert.are.equal(0, timeout)
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

local function new_client(world, scheduler)
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

-- ---- a queue in strict order (a delayed head blocks its receiver) unless queue.loose --------------------------------

local Queue = {}
Queue.__index = Queue

local function new_queue(world)
  return setmetatable({ world = world, all = {}, served = {}, clock = 0, calls = {}, nacks = {} }, Queue)
end

function Queue:push(receiver, id, message)
  message = message or { body = "{}" }
  message.id = id
  self.all[#self.all + 1] = { receiver = receiver, msg = message, at = 0, attempt = 0 }
end

local function called(self, verb)
  self.calls[verb] = (self.calls[verb] or 0) + 1
  local broken = self.broken and self.broken[verb]
  if type(broken) == "string" then return true end
  if broken then error("bug in the queue") end
end

local function refused(self, verb)
  return nil, "the disk is full", self.broken[verb]
end

-- The messages of a receiver that a claim would find.
function Queue:ready(receiver)
  local found = {}
  for _, entry in ipairs(self.all) do
    if entry.receiver == receiver and not entry.done then
      if entry.at <= self.world.time then
        found[#found + 1] = entry
      elseif not self.loose then
        break
      end
    end
  end
  return found
end

function Queue:due(limit)
  if called(self, "due") then return refused(self, "due") end
  local found, seen = {}, {}
  for _, entry in ipairs(self.all) do
    if not seen[entry.receiver] and (self.ready(self, entry.receiver)[1] or self.phantom) then
      seen[entry.receiver] = true
      found[#found + 1] = { receiver = entry.receiver, last_served = self.served[entry.receiver] or 0 }
    end
  end
  table.sort(found, function(a, b) return a.last_served < b.last_served end)
  while #found > limit do found[#found] = nil end
  return found
end

function Queue:claim(receiver, most, lease)
  assert.are.equal(1, most)
  if called(self, "claim") then return refused(self, "claim") end
  local entry = self:ready(receiver)[1]
  if not entry then return {} end
  self.clock = self.clock + 1
  self.served[receiver] = self.clock
  entry.at, entry.attempt, entry.token, entry.lease = self.world.time + lease, entry.attempt + 1, self.clock, lease
  return { { msg = entry.msg, token = entry.token, attempt = entry.attempt, first_seen = 0 } }
end

function Queue:find(token)
  for _, entry in ipairs(self.all) do
    if entry.token == token and not entry.done then return entry end
  end
end

function Queue:ack(token)
  if called(self, "ack") then return refused(self, "ack") end
  local entry = self:find(token)
  if not entry then return "lost" end
  entry.done, entry.token = true, nil
  return true
end

function Queue:nack(token, delay, opts)
  if called(self, "nack") then return refused(self, "nack") end
  self.nacks[#self.nacks + 1] = { delay = delay, count = opts.count, reason = opts.reason }
  local entry = self:find(token)
  if not entry then return "lost" end
  entry.token, entry.at = nil, self.world.time + delay
  if not opts.count then entry.attempt = entry.attempt - 1 end
  return true
end

function Queue:left()
  local n = 0
  for _, entry in ipairs(self.all) do n = n + (entry.done and 0 or 1) end
  return n
end

-- ---- helpers --------------------------------------------------------------------------------------------------------

local function setup(options)
  local world = new_world()
  local queue = new_queue(world)
  local events = {}
  local opts = {
    client = new_client(world, options and options.blocking and world.blocking()), queue = queue,
    receivers = function(name) return { url = "http://" .. name .. ".example/hook", secret = SECRET } end,
    on_event = function(event) events[#events + 1] = event end,
    now = world.now, time = function() return EPOCH + world.time - START + 0.9 end, random = function() return 0.5 end,
    name = "emitter 1",
  }
  for name, value in pairs(options or {}) do
    if name ~= "blocking" then opts[name] = value end
  end
  local emitter = emitters.new(opts)
  -- Runs the emitter, and stops it when so many seconds are over or, before that, when done() says so.
  local function run_for(seconds, done, grace)
    return world.loop.run(function()
      world.loop.spawn(function()
        local till = world.time + seconds
        while world.time < till and not (done and done()) do world.loop.sleep(0.05) end
        emitter:stop(grace)
      end)
      return emitter:run()
    end)
  end
  return { world = world, queue = queue, emitter = emitter, events = events, run_for = run_for, opts = opts }
end

local function drained(s)
  return function() return s.queue:left() == 0 end
end

local function ids(s)
  local list = {}
  for i, push in ipairs(s.world.pushes) do list[i] = push.id end
  return table.concat(list, " ")
end

local function of_type(s, kind)
  local found = {}
  for _, event in ipairs(s.events) do
    if event.type == kind then found[#found + 1] = event end
  end
  return found
end

local function nothing_left_over(s)
  assert.are.same({}, s.world.holders)
  assert.are.equal(0, s.world.open)
  local stats = s.emitter:stats()
  assert.are.equal(0, stats.in_flight)
  assert.are.equal(0, stats.receivers_held)
end

-- ---- specs ----------------------------------------------------------------------------------------------------------

describe("the emitter", function()
  it("pushes the messages of a receiver in order under one lock, and acks them", function()
    local s = setup()
    for i = 1, 5 do s.queue:push("a", "m" .. i) end
    assert.is_true(s.run_for(60, drained(s)))
    assert.are.equal("m1 m2 m3 m4 m5", ids(s))
    assert.are.equal(1, #s.world.attempts)
    assert.are.equal("webhook_receiver/a", s.world.attempts[1].key)
    assert.are.equal("emitter 1", s.world.pushes[1].lock.value)
    local stats = s.emitter:stats()
    assert.are.equal(5, stats.delivered)
    assert.are.equal(1, stats.acquired)
    assert.are.equal(1, stats.released)
    nothing_left_over(s)
  end)

  it("sends what Standard Webhooks asks for, and a signed fencing token", function()
    local s = setup({ receivers = { a = { url = "https://a.example/", secret = SECRET, timeout = "2s" } } })
    s.queue:push("a", "m1", { body = "{\"n\":1}" })
    s.run_for(60, drained(s))
    local request = s.world.pushes[1].request
    assert.are.equal("POST", request.method)
    assert.are.equal("https://a.example/", request.url)
    assert.are.equal("{\"n\":1}", request.body)
    assert.are.equal(2, request.timeout)
    assert.are.equal(65536, request.max_body)
    assert.are.equal("application/json", request.headers["content-type"])
    assert.matches("^holdfast/", request.headers["user-agent"])
    assert.are.equal("m1", request.headers["webhook-id"])
    assert.are.equal(tostring(EPOCH), request.headers["webhook-timestamp"])
    assert.are.equal(tostring(s.world.pushes[1].token), request.headers["webhook-fencing-token"])
    assert.is_true(webhook.verify(SECRET, request.headers, request.body, { now = EPOCH, fence = true }))
    assert.matches(" v1f,", request.headers["webhook-signature"])
    assert.are.equal(7, s.queue.all[1].lease)
  end)

  it("lets a message bring headers, but not those that it signs", function()
    local s = setup()
    local own = { ["Content-Type"] = "text/plain", ["Webhook-Id"] = "forged", x = "y" }
    s.queue:push("a", "m1", { body = "x", headers = own })
    s.run_for(60, drained(s))
    local headers = s.world.pushes[1].request.headers
    assert.are.equal("text/plain", headers["content-type"])
    assert.are.equal("y", headers.x)
    assert.are.equal("m1", headers["webhook-id"])
    assert.is_nil(headers["Content-Type"])
    assert.is_nil(headers["Webhook-Id"])
  end)

  it("reports every step with receiver, key, token and message", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.respond = function(push) push.takes = 0.5 return 204 end
    s.run_for(60, drained(s))
    local kinds = {}
    for i, event in ipairs(s.events) do
      kinds[i] = event.type
      assert.are.equal("a", event.receiver)
      assert.are.equal("webhook_receiver/a", event.key)
      assert.are.equal(101, event.token)
      assert.are.equal("session-1", event.session)
    end
    assert.are.same({ "acquired", "delivered", "released" }, kinds)
    local delivered = s.events[2]
    assert.are.same({ "m1", 1, 204 }, { delivered.id, delivered.attempt, delivered.status })
    assert.is_true(math.abs(delivered.elapsed - 0.5) < 1e-6)
    assert.is_nil(s.events[3].id)
  end)

  it("serves the least recently served receiver first", function()
    local s = setup({ concurrency = 1, hold = { messages = 1 } })
    for i = 1, 2 do
      for _, name in ipairs({ "a", "b", "c" }) do s.queue:push(name, name .. i) end
    end
    s.queue.served = { a = 0.3, b = 0.1, c = 0.2 }
    s.run_for(60, drained(s))
    assert.are.equal("b1 c1 a1 b2 c2 a2", ids(s))
  end)

  it("serves up to `concurrency` receivers at once and no more", function()
    local s = setup({ concurrency = 3 })
    for i = 1, 10 do s.queue:push("r" .. i, "m" .. i) end
    s.world.respond = function(push) push.takes = 1 return 200 end
    s.run_for(60, drained(s))
    assert.are.equal(3, s.world.most_open)
    assert.are.equal(10, s.emitter:stats().delivered)
    assert.is_true(s.world.time - START < 5)
  end)

  it("uses a slot the moment it is free, however long the poll", function()
    local s = setup({ concurrency = 1, poll = 50, hold = { messages = 1 } })
    for i = 1, 5 do s.queue:push("r" .. i % 2, "m" .. i) end
    s.run_for(40, drained(s))
    assert.are.equal(5, s.emitter:stats().delivered)
    assert.is_true(s.world.time - START < 1)
  end)

  it("does not contend with itself for a receiver that it serves", function()
    local s = setup()
    s.queue.loose = true
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    s.world.respond = function(push) push.takes = 2 return 200 end
    s.run_for(60, drained(s))
    assert.are.equal("m1 m2 m3", ids(s))
    assert.are.equal(0, s.emitter:stats().lock_refused)
  end)

  it("does not let a slow receiver hold up the others", function()
    local s = setup({ concurrency = 2 })
    for i = 1, 3 do
      s.queue:push("slow", "s" .. i)
      s.queue:push("fast", "f" .. i)
    end
    s.world.respond = function(push) push.takes = push.id:match("s") and 4 or 0 return 200 end
    local seen
    s.run_for(60, function()
      if s.world.time - START > 1 and not seen then seen = ids(s) end
      return s.queue:left() == 0
    end)
    assert.is_truthy(seen:find("f1 f2 f3", 1, true))
  end)

  it("holds a lock for `hold.messages` messages", function()
    local s = setup({ hold = { messages = 2 } })
    for i = 1, 5 do s.queue:push("a", "m" .. i) end
    s.run_for(60, drained(s))
    assert.are.equal(3, #s.world.attempts)
    assert.are.equal("m1 m2 m3 m4 m5", ids(s))
  end)

  it("holds a lock for `hold.time`, but for one message at least", function()
    local s = setup({ hold = { time = "3s" } })
    for i = 1, 6 do s.queue:push("a", "m" .. i) end
    s.world.respond = function(push) push.takes = 1 return 200 end
    s.run_for(60, drained(s))
    assert.are.equal(2, #s.world.attempts)
    s = setup({ hold = { time = 0 } })
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    s.run_for(60, drained(s))
    assert.are.equal(3, s.emitter:stats().delivered)
  end)
end)

describe("a refused lock", function()
  it("is not tried again and again", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.holders["webhook_receiver/a"] = {}
    s.run_for(20)
    local attempts = s.world.attempts
    assert.is_true(#attempts >= 15 and #attempts <= 26, #attempts .. " attempts")
    assert.is_true(attempts[2].at - attempts[1].at >= 0.08)
    for i = 6, #attempts do assert.is_true(attempts[i].at - attempts[i - 1].at >= 0.8) end
    assert.are.equal(#attempts, s.emitter:stats().lock_refused)
    assert.are.equal(#attempts, #of_type(s, "refused"))
    assert.are.equal(0, #s.world.pushes)
    assert.are.equal(nil, s.queue.calls.claim)
  end)

  it("is got soon after the other has released it, and starts anew with short waits", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.holders["webhook_receiver/a"] = {}
    s.run_for(30, function()
      if s.world.time - START >= 10 then s.world.holders["webhook_receiver/a"] = nil end
      return s.queue:left() == 0
    end)
    assert.is_true(s.world.time - START < 12)
    s.world.holders["webhook_receiver/a"] = {}
    s.queue:push("a", "m2")
    local before = #s.world.attempts
    s.run_for(0.5)
    assert.is_true(#s.world.attempts - before >= 2)
  end)

  it("does not keep others from being served", function()
    local s = setup({ concurrency = 1 })
    for i = 1, 20 do s.world.holders["webhook_receiver/x" .. i] = {} s.queue:push("x" .. i, "x") end
    s.queue:push("free", "m1")
    s.run_for(20, function() return #s.world.pushes == 1 end)
    assert.are.equal("m1", ids(s))
    assert.is_true(s.world.time - START < 2)
  end)

  it("is no different when the lock is had, but the claim is not", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.queue.all[1].at = START + 1000
    s.queue.phantom = true
    s.run_for(20)
    assert.is_true(#s.world.attempts >= 15 and #s.world.attempts <= 26, #s.world.attempts .. " attempts")
    nothing_left_over(s)
  end)
end)

describe("a lock that is lost", function()
  it("in mid push: not acked, not counted, left for the next holder under the same id", function()
    local s = setup()
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    local next_holder = setup({ queue = s.queue })
    s.world.respond = function(push, n)
      push.takes = 5
      if n == 1 then
        s.world.loop.spawn(function()
          s.world.loop.sleep(1)
          push.lock:lose("session")
          s.world.holders["webhook_receiver/a"] = {}   -- somebody else has it now
        end)
      end
      return 200
    end
    s.run_for(3)
    assert.are.equal("m1", ids(s))
    assert.are.same({ { delay = 0, count = false, reason = "session" } }, s.queue.nacks)
    assert.are.equal(nil, s.queue.calls.ack)
    assert.are.equal(3, s.queue:left())
    local lost = of_type(s, "lost")
    assert.are.equal(1, #lost)
    assert.are.same({ "session", "m1", 101, 1 }, { lost[1].reason, lost[1].id, lost[1].token, lost[1].attempt })
    assert.are.equal(1, s.emitter:stats().lost)
    assert.are.equal(0, #of_type(s, "released"))
    assert.is_true(#of_type(s, "refused") > 0)
    assert.are.equal(0, s.emitter:stats().receivers_held)

    s.queue.world = next_holder.world
    next_holder.world.time = s.world.time
    next_holder.run_for(60, drained(s))
    assert.are.equal("m1 m2 m3", ids(next_holder))
    assert.are.equal(1, of_type(next_holder, "delivered")[1].attempt)
  end)

  it("before the push: nothing is sent", function()
    local s = setup()
    s.queue:push("a", "m1")
    local claim = s.queue.claim
    s.queue.claim = function(...)
      s.world.holders["webhook_receiver/a"]:lose("stolen")
      s.queue.claim = claim
      return claim(...)
    end
    s.run_for(0.05)
    assert.are.equal("", ids(s))
    assert.are.same({ { delay = 0, count = false, reason = "not sent" } }, s.queue.nacks)
    assert.are.equal("stolen", of_type(s, "lost")[1].reason)
    nothing_left_over(s)
  end)

  it("by its deadline: nothing is claimed", function()
    local s = setup()
    s.queue:push("a", "m1")
    local lock = s.opts.client.lock
    s.opts.client.lock = function(...)
      local object = lock(...)
      object.left = 0
      return object
    end
    s.run_for(0.05)
    assert.are.equal(nil, s.queue.calls.claim)
    assert.are.equal("deadline", of_type(s, "lost")[1].reason)
    nothing_left_over(s)
  end)

  it("after the answer: acked through the fenced path, then the hold ends", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.queue:push("a", "m2")
    local ack = s.queue.ack
    s.queue.ack = function(...)
      s.world.holders["webhook_receiver/a"]:lose("key")
      s.queue.ack = ack
      return ack(...)
    end
    s.run_for(0.05)
    assert.are.equal("m1", ids(s))
    assert.are.equal(1, s.emitter:stats().delivered)
    assert.are.equal(1, s.emitter:stats().lost)
  end)

  it("is told from a failure by the state of the lock and by the code, whichever speaks", function()
    local cases = { { "TIMEOUT", true }, { "CONNECT", true }, { "CANCELED", false }, { "LOST", false } }
    for _, case in ipairs(cases) do
      local s = setup()
      s.queue:push("a", "m1")
      s.opts.client.lock = function()
        local lock = new_client(s.world):lock({ key = "webhook_receiver/a" })
        lock.request = function(self)
          if case[2] then self:lose("deadline") end
          return nil, "over", case[1]
        end
        return lock
      end
      s.run_for(0.05)
      assert.are.same({ 0, false }, { s.queue.nacks[1].delay, s.queue.nacks[1].count })
      assert.are.same({ 1, 0 }, { s.emitter:stats().lost, s.emitter:stats().failed })
      nothing_left_over(s)
    end
  end)

  it("is waited out before the next attempt, shortly", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.respond = function(push, n)
      if n == 1 then push.lock:lose("session") end
      return 200
    end
    s.run_for(30, drained(s))
    assert.are.equal("m1 m1", ids(s))
    local gap = s.world.pushes[2].at - s.world.pushes[1].at
    assert.is_true(gap >= 0.08 and gap < 1.5)
  end)
end)

describe("an ack", function()
  it("of a claim that has moved on is reported as ack_lost", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.respond = function(_, n)
      if n == 1 then s.queue.all[1].token, s.queue.all[1].at = nil, 0 end   -- another holder's doing
      return 200
    end
    s.run_for(60, drained(s))
    assert.are.equal("m1 m1", ids(s))
    assert.are.equal(1, s.emitter:stats().ack_lost)
    assert.are.equal(1, s.emitter:stats().delivered)
    local event = of_type(s, "ack_lost")[1]
    assert.are.same({ "m1", 200 }, { event.id, event.status })
  end)
end)

describe("a failing receiver", function()
  it("gets its message again later, not at once, with a new timestamp under the same id", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.respond = function(_, n) return n < 3 and 500 or 200 end
    s.run_for(60, drained(s))
    local pushes = s.world.pushes
    assert.are.equal("m1 m1 m1", ids(s))
    for i = 2, 3 do
      local gap = pushes[i].at - pushes[i - 1].at
      assert.is_true(gap >= 5 and gap < 6, "came back after " .. gap)
    end
    assert.are_not.equal(pushes[1].request.headers["webhook-timestamp"], pushes[2].request.headers["webhook-timestamp"])
    assert.are.same({ delay = 5, count = true, reason = "HTTP 500" }, s.queue.nacks[1])
    assert.are.equal(2, s.emitter:stats().failed)
    local event = of_type(s, "failed")[2]
    assert.are.same({ 500, "HTTP 500", "m1", 2 }, { event.status, event.reason, event.id, event.attempt })
    nothing_left_over(s)
  end)

  it("is not hammered with its next messages, where the queue would give them", function()
    local s = setup()
    s.queue.loose = true
    for i = 1, 10 do s.queue:push("a", "m" .. i) end
    s.world.respond = function() return 503 end
    s.run_for(4.5)
    assert.are.equal("m1", ids(s))
  end)

  it("spreads its delay by 20 % either way", function()
    for random, delay in pairs({ [0] = 8, [0.5] = 10, [1] = 12 }) do
      local s = setup({ retry_delay = "10s", random = function() return random end })
      s.queue:push("a", "m1")
      s.world.respond = function() return 404 end
      s.run_for(1)
      assert.is_true(math.abs(s.queue.nacks[1].delay - delay) < 1e-9)
    end
  end)

  it("fails with a redirect, a refused connection and a request that raises, all the same", function()
    local answers = {
      ["HTTP 302"] = function() return 302 end,
      ["CONNECT: refused"] = function() return nil, "refused", "CONNECT" end,
      ["TIMEOUT: too slow"] = function() return nil, "too slow", "TIMEOUT" end,
      ["INVALID: .*no such thing"] = function() error("no such thing") end,
    }
    for reason, respond in pairs(answers) do
      local s = setup()
      s.queue:push("a", "m1")
      s.world.respond = respond
      s.run_for(1)
      assert.are.equal(1, s.emitter:stats().failed)
      assert.matches("^" .. reason .. "$", s.queue.nacks[1].reason)
      assert.is_true(s.queue.nacks[1].count)
    end
  end)

  it("that knows a newer token is believed only when the lock is gone", function()
    local cases = {
      { 409, "102", false, "lost" }, { 412, "99999999999999999999", false, "lost" }, { 409, "102", true, "failed" },
      { 409, "101", false, "failed" }, { 409, "99", false, "failed" }, { 409, nil, false, "failed" },
      { 409, "x", false, "failed" }, { 400, "102", false, "failed" }, { 409, "000102", false, "lost" },
    }
    for i, case in ipairs(cases) do
      local s = setup()
      s.queue:push("a", "m1")
      s.world.respond = function() return { status = case[1], headers = { ["webhook-fencing-token"] = case[2] } } end
      local lock = s.opts.client.lock
      s.opts.client.lock = function(...)
        local object = lock(...)
        object.request = function(self, request)
          local answer = Lock.request(self, request)
          if not case[3] then self:lose("session") end
          return answer
        end
        return object
      end
      s.run_for(0.05)
      assert.are.equal(case[4] == "lost", s.queue.nacks[1].delay == 0, "case " .. i)
      assert.are.equal(case[4] == "failed", s.queue.nacks[1].count, "case " .. i)
      assert.are.equal(case[4] == "failed" and 1 or 0, s.emitter:stats().failed, "case " .. i)
    end
  end)
end)

describe("emitter:stop", function()
  it("lets run return true when nothing is in flight", function()
    local s = setup()
    assert.is_true(s.run_for(1))
    assert.is_true(s.world.time - START < 1.5)
  end)

  it("before run() ends it at once, and once only", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.emitter:stop()
    assert.is_true(s.emitter:run())
    assert.are.equal("", ids(s))
    s.run_for(60, drained(s))
    assert.are.equal("m1", ids(s))
  end)

  it("lets a push in flight finish within the grace, and claims nothing more", function()
    local s = setup()
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    s.world.respond = function(push) push.takes = 4 return 200 end
    assert.is_true(s.run_for(1, nil, 10))
    assert.are.equal("m1", ids(s))
    assert.are.equal(1, s.queue.calls.claim)
    assert.are.equal(1, s.emitter:stats().delivered)
    assert.is_true(s.world.time - START < 4.5)
    nothing_left_over(s)
  end)

  it("aborts what is in flight when the grace is over, gives it back uncounted and releases", function()
    local s = setup()
    for i = 1, 3 do s.queue:push("r" .. i, "m" .. i) end
    s.world.respond = function(push) push.takes = 30 return 200 end
    assert.is_true(s.run_for(1, nil, "2s"))
    local took = s.world.time - START
    assert.is_true(took >= 3 and took < 3.5)
    assert.are.equal(3, #s.queue.nacks)
    for _, nack in ipairs(s.queue.nacks) do assert.are.same({ 0, false }, { nack.delay, nack.count }) end
    assert.are.equal(3, s.emitter:stats().aborted)
    assert.are.equal(0, s.emitter:stats().lost)
    assert.are.equal(3, #of_type(s, "released"))
    assert.are.equal(3, #of_type(s, "aborted"))
    assert.are.equal(0, s.queue.all[1].attempt)
    nothing_left_over(s)
  end)

  it("between claim and push gives the message back, uncounted", function()
    local s = setup()
    s.queue:push("a", "m1")
    local claim = s.queue.claim
    s.queue.claim = function(...)
      s.emitter:stop()
      return claim(...)
    end
    assert.is_true(s.emitter:run())
    assert.are.equal("", ids(s))
    assert.are.same({ { delay = 0, count = false, reason = "not sent" } }, s.queue.nacks)
    nothing_left_over(s)
  end)

  it("can be called from on_event", function()
    local s
    s = setup({ on_event = function(event) if event.type == "delivered" then s.emitter:stop(0) end end })
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    assert.is_true(s.emitter:run())
    assert.are.equal("m1", ids(s))
    nothing_left_over(s)
  end)

  it("called again can shorten the grace, not lengthen it", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.respond = function(push) push.takes = 100 return 200 end
    s.world.loop.run(function()
      s.world.loop.spawn(function()
        s.world.loop.sleep(1)
        s.emitter:stop(50)
        s.emitter:stop(3)
        s.emitter:stop(20)
      end)
      s.emitter:run()
    end)
    assert.is_true(s.world.time - START < 4.5)
  end)

  it("raises for a grace that is none", function()
    local s = setup()
    local ok, message = pcall(function() s.emitter:stop("soon") return true end)
    assert.is_false(ok)
    assert.matches("emitter_spec%.lua:%d+: emitter: grace", message)
  end)
end)

describe("on_event", function()
  it("that raises does no harm", function()
    local s = setup({ on_event = function() error("bug in the log") end })
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    assert.is_true(s.run_for(60, drained(s)))
    assert.are.equal(3, s.emitter:stats().delivered)
    assert.are.equal(5, s.emitter:stats().event_errors)
    nothing_left_over(s)
  end)

  it("may wait", function()
    local s
    s = setup({ on_event = function() s.world.loop.sleep(0.1) end })
    for i = 1, 3 do s.queue:push("a", "m" .. i) end
    s.run_for(60, drained(s))
    assert.are.equal(3, s.emitter:stats().delivered)
  end)

  it("may be left out", function()
    local s = setup()
    s.opts.on_event = nil
    local emitter = emitters.new(s.opts)
    s.queue:push("a", "m1")
    assert.are.equal(1, emitter:step())
  end)
end)

describe("a receiver that is configured badly", function()
  local bad = {
    ["not configured"] = function() return nil end,
    ["no table"] = function() return "http://x" end,
    ["url must be"] = function() return { secret = SECRET } end,
    ["url must be http:// or"] = function() return { url = "ftp://x/", secret = SECRET } end,
    ["secret 1 is not base64"] = function() return { url = "http://x/", secret = "whsec_?" } end,
    ["secret 1 is a public key"] = function()
      return { url = "http://x/", secret = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=" }
    end,
    ["no webhook secret"] = function() return { url = "http://x/" } end,
    ["timeout: is 0"] = function() return { url = "http://x/", secret = SECRET, timeout = 0 } end,
    ["timeout: \"long\""] = function() return { url = "http://x/", secret = SECRET, timeout = "long" } end,
    ["lookup failed"] = function() error("lookup failed") end,
  }
  for reason, receivers in pairs(bad) do
    it("keeps its messages, uncounted, and says why: " .. reason, function()
      local s = setup({ receivers = receivers })
      s.queue:push("a", "m1")
      s.run_for(4)
      assert.are.equal("", ids(s))
      assert.are.equal(1, s.queue:left())
      assert.are.equal(1, #s.queue.nacks)
      assert.are.same({ 5, false }, { s.queue.nacks[1].delay, s.queue.nacks[1].count })
      local event = of_type(s, "error")[1]
      assert.is_truthy(event.reason:find(reason, 1, true), event.reason)
      assert.is_truthy(event.reason:find("receiver \"a\"", 1, true), event.reason)
      assert.are.same({ "INVALID", "m1" }, { event.code, event.id })
      nothing_left_over(s)
    end)
  end

  it("does not stop the others", function()
    local s = setup({ receivers = { good = { url = "http://x/", secret = SECRET } } })
    s.queue:push("bad", "m1")
    s.queue:push("good", "m2")
    s.run_for(4)
    assert.are.equal("m2", ids(s))
  end)

  it("is served once it is configured", function()
    local receivers = {}
    local s = setup({ receivers = receivers })
    s.queue:push("a", "m1")
    s.run_for(30, function()
      if s.world.time - START > 7 then receivers.a = { url = "http://x/", secret = SECRET } end
      return s.queue:left() == 0
    end)
    assert.are.equal("m1", ids(s))
  end)

  it("is left alone when the answer is false", function()
    local s = setup({ receivers = function() return false end })
    s.queue:push("a", "m1")
    s.run_for(30)
    assert.are.same({ 0, 0, 0 }, { #s.world.attempts, #s.queue.nacks, #s.events })
  end)

  it("is like a message that cannot be sent", function()
    local s = setup()
    s.queue:push("a", "has.dot")
    s.queue:push("b", "m2", { body = "x", headers = { [1] = "x" } })
    s.run_for(4)
    assert.are.equal("", ids(s))
    assert.are.equal(2, s.emitter:stats().errors)
    assert.are.equal(2, s.queue:left())
  end)
end)

describe("a queue in trouble", function()
  for _, verb in ipairs({ "due", "claim", "ack", "nack" }) do
    for _, how in ipairs({ "CONNECT", true }) do
      it("loses nothing, is reported and left alone for a while: " .. verb .. " " .. tostring(how), function()
        local s = setup()
        s.queue:push("a", "m1")
        s.world.respond = function() return verb == "nack" and s.world.time < START + 25 and 500 or 200 end
        s.queue.broken = { [verb] = how }
        s.run_for(4)
        assert.are.equal(1, s.queue.calls[verb])
        assert.are.equal(1, s.emitter:stats().errors)
        local event = of_type(s, "error")[1]
        assert.matches("^queue " .. verb .. ": ", event.reason)
        assert.are.equal(how == true and "INVALID" or how, event.code)
        assert.are.equal(1, s.queue:left())
        nothing_left_over(s)
        s.queue.broken = nil
        s.run_for(60, drained(s))
        assert.are.equal(0, s.queue:left())
      end)
    end
  end
end)

describe("Consul in trouble", function()
  it("is reported and left alone for a while", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.lock_error = "CONNECT"
    s.run_for(12)
    assert.are.equal(3, #s.world.attempts)
    assert.are.equal("CONNECT", of_type(s, "error")[1].code)
    s.world.lock_error = nil
    s.run_for(60, drained(s))
    assert.are.equal("m1", ids(s))
  end)

  it("at the release is reported", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.unlock_error = "CONNECT"
    s.run_for(1)
    assert.are.equal(1, s.emitter:stats().delivered)
    assert.are.equal("CONNECT", of_type(s, "error")[1].code)
    assert.are.equal(0, s.emitter:stats().receivers_held)
  end)

  it("ends run() with the reason when the client was closed", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.client_error = "CLOSED"
    local answer, message, code = s.emitter:run()
    assert.are.same({ nil, "the client is closed", "CLOSED" }, { answer, message, code })
    nothing_left_over(s)
  end)

  it("ends step() the same way", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.client_error = "FORKED"
    local answer, message, code = s.emitter:step()
    assert.are.same({ nil, "the client is closed", "FORKED" }, { answer, message, code })
  end)
end)

describe("emitter:step", function()
  it("serves what is due, waits for it and counts what was settled", function()
    local s = setup({ hold = { messages = 3 } })
    for i = 1, 5 do s.queue:push("a", "a" .. i) end
    s.queue:push("b", "b1")
    s.world.respond = function(push) push.takes = 1 return push.id == "b1" and 500 or 200 end
    assert.are.equal(4, s.emitter:step())
    assert.are.equal(2, s.emitter:step())
    assert.are.equal(0, s.emitter:step())
    assert.are.equal(5, s.emitter:stats().delivered)
    assert.are.equal(1, s.emitter:stats().failed)
    nothing_left_over(s)
  end)

  it("is 0 when nothing is due", function()
    assert.are.equal(0, setup().emitter:step())
  end)

  it("is ended by stop", function()
    local s = setup()
    s.queue:push("a", "m1")
    s.world.respond = function(push) push.takes = 100 return 200 end
    s.world.loop.run(function()
      s.world.loop.spawn(function() s.world.loop.sleep(1) s.emitter:stop(1) end)
      assert.are.equal(1, s.emitter:step())
    end)
    assert.is_true(s.world.time - START < 3)
    assert.are.equal(1, s.emitter:stats().aborted)
  end)
end)

describe("with a scheduler that cannot spawn", function()
  it("step serves one receiver after another", function()
    local s = setup({ blocking = true })
    for i = 1, 3 do s.queue:push("r" .. i, "m" .. i) end
    s.world.respond = function(push) push.takes = 1 return 200 end
    assert.are.equal(3, s.emitter:step())
    assert.are.equal(1, s.world.most_open)
    nothing_left_over(s)
  end)

  it("stop keeps it from the receivers that were still to come", function()
    local s
    s = setup({ blocking = true, on_event = function(event) if event.id then s.emitter:stop() end end })
    for i = 1, 3 do s.queue:push("r" .. i, "m" .. i) end
    assert.are.equal(1, s.emitter:step())
    assert.are.equal(1, #s.world.attempts)
  end)

  it("run goes on without a pause while there is work, and ends with stop", function()
    local s
    s = setup({ blocking = true, hold = { messages = 1 }, on_event = function(event)
      if event.id == "m6" then s.emitter:stop() end
    end })
    for i = 1, 6 do s.queue:push("r" .. i % 2, "m" .. i) end
    assert.is_true(s.emitter:run())
    assert.are.equal("m2 m1 m4 m3 m6 m5", (ids(s):gsub("^m1 m2 m3 m4 m5 m6$", "m2 m1 m4 m3 m6 m5")))
    assert.are.equal(START, s.world.time)
  end)
end)

describe("emitter:run", function()
  it("raises while it is running, and can be run again after", function()
    local s = setup()
    s.world.loop.run(function()
      s.world.loop.spawn(function()
        for _, method in ipairs({ "run", "step" }) do
          local ok, message = pcall(function() s.emitter[method](s.emitter) return true end)
          assert.is_false(ok)
          assert.matches("emitter_spec%.lua:%d+: emitter: it is running", message)
        end
        assert.matches("running", tostring(s.emitter))
        s.emitter:stop()
      end)
      s.emitter:run()
    end)
    assert.matches("^holdfast%.emitter: webhook_receiver/ %(idle%)$", tostring(s.emitter))
    assert.is_true(s.run_for(1))
  end)

  it("does not remember receivers for ever", function()
    local s = setup()
    s.world.respond = function() return 500 end
    for i = 1, 20 do s.queue:push("r" .. i, "m" .. i) end
    s.run_for(1)
    for _, entry in ipairs(s.queue.all) do entry.done = true end
    s.run_for(100)
    assert.are.same({}, s.emitter.waits_)
  end)
end)

describe("emitter.new", function()
  local function assert_raises(pattern, change)
    local s = setup()
    change(s.opts)
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() emitters.new(s.opts) return true end)
    assert.is_false(ok)
    assert.matches("emitter_spec%.lua:" .. line .. ": " .. pattern, message)
  end

  it("raises for unknown and wrong options, with the caller's line", function()
    assert_raises("emitter: unknown option \"concurency\"", function(opts) opts.concurency = 5 end)
    assert_raises("emitter: unknown option \"hold%.size\"", function(opts) opts.hold = { size = 5 } end)
    assert_raises("emitter: hold%.messages", function(opts) opts.hold = { messages = 0 } end)
    assert_raises("emitter: hold%.time: \"long\"", function(opts) opts.hold = { time = "long" } end)
    assert_raises("emitter: missing client", function(opts) opts.client = nil end)
    assert_raises("emitter: client", function(opts) opts.client = {} end)
    assert_raises("emitter: queue", function(opts) opts.queue = "memory:" end)
    assert_raises("emitter: missing receivers", function(opts) opts.receivers = nil end)
    assert_raises("emitter: concurrency", function(opts) opts.concurrency = 1.5 end)
    assert_raises("emitter: prefix", function(opts) opts.prefix = 5 end)
    assert_raises("emitter: on_event", function(opts) opts.on_event = "print" end)
    assert_raises("emitter: retry_delay", function(opts) opts.retry_delay = -1 end)
    assert_raises("emitter: poll must be more than 0", function(opts) opts.poll = 0 end)
  end)

  it("does not touch the table, and needs no more than client, queue and receivers", function()
    local s = setup()
    local opts = { client = s.opts.client, queue = s.queue, receivers = {}, hold = {} }
    local emitter = emitters.new(opts)
    assert.are.same({}, opts.receivers)
    assert.are.same({}, opts.hold)
    assert.is_nil(opts.prefix)
    assert.are.equal(0, emitter:step())
  end)
end)
