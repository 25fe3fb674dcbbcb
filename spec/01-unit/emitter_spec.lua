local emitters = require("holdfast.emitter")
local webhook = require("holdfast.webhook")
local worlds = require("spec.support.world")

local SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
local START = worlds.START
local EPOCH = 1700000000

-- ---- helpers --------------------------------------------------------------------------------------------------------

local function setup(options)
  local world = options and options.world or worlds.new()
  local queue = options and options.queue or worlds.queue(world)
  local events = {}
  local opts = {
    client = worlds.client(world, options and options.blocking and world.blocking()), queue = queue,
    receivers = function(name) return { url = "http://" .. name .. ".example/hook", secret = SECRET } end,
    on_event = function(event) events[#events + 1] = event end,
    now = world.now, time = function() return EPOCH + world.time - START + 0.9 end, random = function() return 0.5 end,
    name = "emitter 1",
  }
  for name, value in pairs(options or {}) do
    if name ~= "blocking" and name ~= "world" then opts[name] = value end
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

-- The same with messages m1, m2, ... for receiver "a" in the queue.
local function setup_with(count, options)
  local s = setup(options)
  for i = 1, count do s.queue:put("a", "m" .. i) end
  return s
end

-- What a receiver does: answers this, after so many seconds.
local function answers(status, seconds)
  return function(push)
    push.takes = seconds
    return status
  end
end

-- Has every lock of the client changed by fn(lock) first.
local function with_locks(s, fn)
  local lock = s.opts.client.lock
  s.opts.client.lock = function(...)
    local object = lock(...)
    fn(object)
    return object
  end
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

local function assert_counts(s, expected)
  local stats, found = s.emitter:stats(), {}
  for name in pairs(expected) do found[name] = stats[name] end
  assert.are.same(expected, found)
end

local function nothing_left_over(s)
  assert.are.same({}, s.world.holders)
  assert.are.equal(0, s.world.open)
  assert_counts(s, { in_flight = 0, receivers_held = 0 })
end

-- ---- specs ----------------------------------------------------------------------------------------------------------

describe("the emitter", function()
  it("pushes the messages of a receiver in order under one lock, and acks them", function()
    local s = setup_with(5)
    assert.is_true(s.run_for(60, drained(s)))
    assert.are.equal("m1 m2 m3 m4 m5", ids(s))
    assert.are.equal(1, #s.world.attempts)
    assert.are.equal("webhook_receiver/a", s.world.attempts[1].key)
    assert.are.equal("emitter 1", s.world.pushes[1].lock.value)
    assert_counts(s, { delivered = 5, acquired = 1, released = 1 })
    nothing_left_over(s)
  end)

  it("is for public addresses only when a function looks receivers up, or networks are allowed", function()
    local named = { a = { url = "https://a.example/", secret = SECRET, tls = { verify = false }, unix_socket = "/x" } }
    local function first(options)
      local s = setup_with(1, options)
      s.run_for(60, drained(s))
      return s.world.pushes[1].request
    end
    assert.is_true(first({}).public_only)
    assert.is_false(first({ public_only = false }).public_only)
    assert.are.same({ "10.0.0.0/8" }, first({ receivers = named, allow_addresses = { "10.0.0.0/8" } }).allow_addresses)
    local request = first({ receivers = named })
    assert.are.same({ false, { verify = false }, "/x" }, { request.public_only, request.tls, request.unix_socket })
    for _, wrong in ipairs({ { "10.0.0.1/8" }, { 1 }, { a = "::/0" }, { "::/0\0" } }) do
      local ok, message = pcall(setup, { allow_addresses = wrong })
      assert.is_false(ok)
      assert.matches("allow_addresses must be a list of networks", message, 1, true)
    end
  end)

  it("sends what Standard Webhooks asks for, and a signed fencing token", function()
    local s = setup({ receivers = { a = { url = "https://a.example/", secret = SECRET, timeout = "2s" } } })
    s.queue:push("a", { id = "m1", body = "{\"n\":1}" })
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
    assert.are.equal(7, s.queue.calls.claim[1][3])
  end)

  it("lets a message bring headers, but not those that it signs", function()
    local s = setup()
    local own = { ["Content-Type"] = "text/plain", ["Webhook-Id"] = "forged", x = "y" }
    s.queue:push("a", { id = "m1", body = "x", headers = own })
    s.run_for(60, drained(s))
    local headers = s.world.pushes[1].request.headers
    assert.are.equal("text/plain", headers["content-type"])
    assert.are.equal("y", headers.x)
    assert.are.equal("m1", headers["webhook-id"])
    assert.is_nil(headers["Content-Type"])
    assert.is_nil(headers["Webhook-Id"])
  end)

  it("reports every step with receiver, key, token and message", function()
    local s = setup_with(1)
    s.world.respond = answers(204, 0.5)
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
      for _, name in ipairs({ "a", "b", "c" }) do s.queue:put(name, name .. i) end
    end
    for _, name in ipairs({ "b", "c", "a" }) do s.queue.real:nack(s.queue:take(name).token, 0) end
    s.run_for(60, drained(s))
    assert.are.equal("b1 c1 a1 b2 c2 a2", ids(s))
  end)

  it("serves up to `concurrency` receivers at once and no more", function()
    local s = setup({ concurrency = 3 })
    for i = 1, 10 do s.queue:put("r" .. i, "m" .. i) end
    s.world.respond = answers(200, 1)
    s.run_for(60, drained(s))
    assert.are.equal(3, s.world.most_open)
    assert.are.equal(10, s.emitter:stats().delivered)
    assert.is_true(s.world.time - START < 5)
  end)

  it("uses a slot the moment it is free, however long the poll", function()
    local s = setup({ concurrency = 1, poll = 50, hold = { messages = 1 } })
    for i = 1, 5 do s.queue:put("r" .. i % 2, "m" .. i) end
    s.run_for(40, drained(s))
    assert.are.equal(5, s.emitter:stats().delivered)
    assert.is_true(s.world.time - START < 1)
  end)

  it("does not contend with itself for a receiver that it serves", function()
    local s = setup_with(3)
    s.world.respond = answers(200, 2)
    s.run_for(60, drained(s))
    assert.are.equal("m1 m2 m3", ids(s))
    assert.are.equal(0, s.emitter:stats().lock_refused)
  end)

  it("does not let a slow receiver hold up the others", function()
    local s = setup({ concurrency = 2 })
    for i = 1, 3 do
      s.queue:put("slow", "s" .. i)
      s.queue:put("fast", "f" .. i)
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
    local s = setup_with(5, { hold = { messages = 2 } })
    s.run_for(60, drained(s))
    assert.are.equal(3, #s.world.attempts)
    assert.are.equal("m1 m2 m3 m4 m5", ids(s))
  end)

  it("holds a lock for `hold.time`, but for one message at least", function()
    local s = setup_with(6, { hold = { time = "3s" } })
    s.world.respond = answers(200, 1)
    s.run_for(60, drained(s))
    assert.are.equal(2, #s.world.attempts)
    s = setup_with(3, { hold = { time = 0 } })
    s.run_for(60, drained(s))
    assert.are.equal(3, s.emitter:stats().delivered)
  end)
end)

describe("a refused lock", function()
  local function assert_few_attempts(s)
    local count = #s.world.attempts
    assert.is_true(count >= 15 and count <= 26, count .. " attempts in 20 s")
  end

  it("is not tried again and again", function()
    local s = setup_with(1)
    s.world.holders["webhook_receiver/a"] = {}
    s.run_for(20)
    assert_few_attempts(s)
    local attempts = s.world.attempts
    assert.is_true(attempts[2].at - attempts[1].at >= 0.08)
    for i = 6, #attempts do assert.is_true(attempts[i].at - attempts[i - 1].at >= 0.8) end
    assert.are.equal(#attempts, s.emitter:stats().lock_refused)
    assert.are.equal(#attempts, #of_type(s, "refused"))
    assert.are.equal(0, #s.world.pushes)
    assert.are.same({}, s.queue.calls.claim)
  end)

  it("is got soon after the other has released it, and starts anew with short waits", function()
    local s = setup_with(1)
    s.world.holders["webhook_receiver/a"] = {}
    s.run_for(30, function()
      if s.world.time - START >= 10 then s.world.holders["webhook_receiver/a"] = nil end
      return s.queue:left() == 0
    end)
    assert.is_true(s.world.time - START < 12)
    s.world.holders["webhook_receiver/a"] = {}
    s.queue:put("a", "m2")
    local before = #s.world.attempts
    s.run_for(0.5)
    assert.is_true(#s.world.attempts - before >= 2)
  end)

  it("does not keep others from being served", function()
    local s = setup({ concurrency = 1 })
    for i = 1, 20 do s.world.holders["webhook_receiver/x" .. i] = {} s.queue:put("x" .. i, "x") end
    s.queue:put("free", "m1")
    s.run_for(20, function() return #s.world.pushes == 1 end)
    assert.are.equal("m1", ids(s))
    assert.is_true(s.world.time - START < 2)
  end)

  it("is no different when the lock is had, but the claim is not", function()
    local s = setup_with(1)
    s.queue:instead("claim", function() return {} end, math.huge)   -- others are faster
    s.run_for(20)
    assert_few_attempts(s)
    nothing_left_over(s)
  end)
end)

describe("a lock that is lost", function()
  it("in mid push: not acked, not counted, left for the next holder under the same id", function()
    local s = setup_with(3)
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
    assert.are.same({ { delay = 0, count = false, reason = "session" } }, s.queue:nacks())
    assert.are.same({}, s.queue.calls.ack)
    assert.are.equal(3, s.queue:left())
    local lost = of_type(s, "lost")
    assert.are.equal(1, #lost)
    assert.are.same({ "session", "m1", 101, 1 }, { lost[1].reason, lost[1].id, lost[1].token, lost[1].attempt })
    assert.are.equal(1, s.emitter:stats().lost)
    assert.are.equal(0, #of_type(s, "released"))
    assert.is_true(#of_type(s, "refused") > 0)
    assert.are.equal(0, s.emitter:stats().receivers_held)

    s.world.holders["webhook_receiver/a"] = nil
    local next_holder = setup({ world = s.world, queue = s.queue })
    next_holder.run_for(60, drained(s))
    assert.are.equal("m1 m1 m2 m3", ids(s))
    assert.are.equal(1, of_type(next_holder, "delivered")[1].attempt)
  end)

  it("before the push: nothing is sent", function()
    local s = setup_with(1)
    s.queue:instead("claim", function(claim, ...)
      s.world.holders["webhook_receiver/a"]:lose("stolen")
      return claim(...)
    end)
    s.run_for(0.05)
    assert.are.equal("", ids(s))
    assert.are.same({ { delay = 0, count = false, reason = "not sent" } }, s.queue:nacks())
    assert.are.equal("stolen", of_type(s, "lost")[1].reason)
    nothing_left_over(s)
  end)

  it("by its deadline: nothing is claimed", function()
    local s = setup_with(1)
    with_locks(s, function(lock) lock.left = 0 end)
    s.run_for(0.05)
    assert.are.same({}, s.queue.calls.claim)
    assert.are.equal("deadline", of_type(s, "lost")[1].reason)
    nothing_left_over(s)
  end)

  it("after the answer: acked through the fenced path, then the hold ends", function()
    local s = setup_with(2)
    s.queue:instead("ack", function(ack, ...)
      s.world.holders["webhook_receiver/a"]:lose("key")
      return ack(...)
    end)
    s.run_for(0.05)
    assert.are.equal("m1", ids(s))
    assert_counts(s, { delivered = 1, lost = 1 })
  end)

  it("is told from a failure by the state of the lock and by the code, whichever speaks", function()
    local cases = { { "TIMEOUT", true }, { "CONNECT", true }, { "CANCELED", false }, { "LOST", false } }
    for _, case in ipairs(cases) do
      local s = setup_with(1)
      with_locks(s, function(lock)
        lock.request = function()
          if case[2] then lock:lose("deadline") end
          return nil, "over", case[1]
        end
      end)
      s.run_for(0.05)
      local nack = s.queue:nacks()[1]
      assert.are.same({ 0, false }, { nack.delay, nack.count })
      assert_counts(s, { lost = 1, failed = 0 })
      nothing_left_over(s)
    end
  end)

  it("is waited out before the next attempt, shortly", function()
    local s = setup_with(1)
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
    local s = setup_with(1)
    s.world.respond = function(push, n)
      if n == 1 then
        push.takes = 21   -- longer than the claim
        s.world.loop.spawn(function()
          s.world.loop.sleep(20.5)
          s.queue.real:nack(s.queue:take("a").token, 0)
        end)
      end
      return 200
    end
    s.run_for(60, drained(s))
    assert.are.equal("m1 m1", ids(s))
    assert_counts(s, { ack_lost = 1, delivered = 1 })
    local event = of_type(s, "ack_lost")[1]
    assert.are.same({ "m1", 200 }, { event.id, event.status })
  end)
end)

describe("a failing receiver", function()
  it("gets its message again later, not at once, with a new timestamp under the same id", function()
    local s = setup_with(1)
    s.world.respond = function(_, n) return n < 3 and 500 or 200 end
    s.run_for(60, drained(s))
    local pushes = s.world.pushes
    assert.are.equal("m1 m1 m1", ids(s))
    for i = 2, 3 do
      local gap = pushes[i].at - pushes[i - 1].at
      assert.is_true(gap >= 5 and gap < 6, "came back after " .. gap)
    end
    assert.are_not.equal(pushes[1].request.headers["webhook-timestamp"], pushes[2].request.headers["webhook-timestamp"])
    assert.are.same({ delay = 5, count = true, reason = "HTTP 500" }, s.queue:nacks()[1])
    assert.are.equal(2, s.emitter:stats().failed)
    local event = of_type(s, "failed")[2]
    assert.are.same({ 500, "HTTP 500", "m1", 2 }, { event.status, event.reason, event.id, event.attempt })
    nothing_left_over(s)
  end)

  it("is not hammered with its next messages, where the queue would give them", function()
    local s = setup_with(10)
    s.world.respond = answers(503)
    s.run_for(4.5)
    assert.are.equal("m1", ids(s))
  end)

  it("spreads its delay by 20 % either way", function()
    for random, delay in pairs({ [0] = 8, [0.5] = 10, [1] = 12 }) do
      local s = setup_with(1, { retry_delay = "10s", random = function() return random end })
      s.world.respond = answers(404)
      s.run_for(1)
      assert.is_true(math.abs(s.queue:nacks()[1].delay - delay) < 1e-9)
    end
  end)

  it("fails with a redirect, a refused connection and a request that raises, all the same", function()
    local cases = {
      ["HTTP 302"] = function() return 302 end,
      ["CONNECT: refused"] = function() return nil, "refused", "CONNECT" end,
      ["TIMEOUT: too slow"] = function() return nil, "too slow", "TIMEOUT" end,
      ["INVALID: .*no such thing"] = function() error("no such thing") end,
    }
    for reason, respond in pairs(cases) do
      local s = setup_with(1)
      s.world.respond = respond
      s.run_for(1)
      assert.are.equal(1, s.emitter:stats().failed)
      assert.matches("^" .. reason .. "$", s.queue:nacks()[1].reason)
      assert.is_true(s.queue:nacks()[1].count)
    end
  end)

  it("that knows a newer token is believed only when the lock is gone", function()
    local cases = {
      { 409, "102", false, "lost" }, { 412, "99999999999999999999", false, "lost" }, { 409, "102", true, "failed" },
      { 409, "101", false, "failed" }, { 409, "99", false, "failed" }, { 409, nil, false, "failed" },
      { 409, "x", false, "failed" }, { 400, "102", false, "failed" }, { 409, "000102", false, "lost" },
    }
    for i, case in ipairs(cases) do
      local s = setup_with(1)
      s.world.respond = function() return { status = case[1], headers = { ["webhook-fencing-token"] = case[2] } } end
      with_locks(s, function(lock)
        lock.request = function(...)
          local answer = worlds.Lock.request(...)
          if not case[3] then lock:lose("session") end
          return answer
        end
      end)
      s.run_for(0.05)
      local nack, failed = s.queue:nacks()[1], case[4] == "failed"
      assert.are.same({ not failed, failed, failed and 1 or 0 },
        { nack.delay == 0, nack.count, s.emitter:stats().failed }, "case " .. i)
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
    local s = setup_with(1)
    s.emitter:stop()
    assert.is_true(s.emitter:run())
    assert.are.equal("", ids(s))
    s.run_for(60, drained(s))
    assert.are.equal("m1", ids(s))
  end)

  it("lets a push in flight finish within the grace, and claims nothing more", function()
    local s = setup_with(3)
    s.world.respond = answers(200, 4)
    assert.is_true(s.run_for(1, nil, 10))
    assert.are.equal("m1", ids(s))
    assert.are.equal(1, #s.queue.calls.claim)
    assert.are.equal(1, s.emitter:stats().delivered)
    assert.is_true(s.world.time - START < 4.5)
    nothing_left_over(s)
  end)

  it("aborts what is in flight when the grace is over, gives it back uncounted and releases", function()
    local s = setup()
    for i = 1, 3 do s.queue:put("r" .. i, "m" .. i) end
    s.world.respond = answers(200, 30)
    assert.is_true(s.run_for(1, nil, "2s"))
    local took = s.world.time - START
    assert.is_true(took >= 3 and took < 3.5)
    assert.are.equal(3, #s.queue:nacks())
    for _, nack in ipairs(s.queue:nacks()) do assert.are.same({ 0, false }, { nack.delay, nack.count }) end
    assert_counts(s, { aborted = 3, lost = 0 })
    assert.are.equal(3, #of_type(s, "released"))
    assert.are.equal(3, #of_type(s, "aborted"))
    assert.are.equal(1, s.queue:take("r1").attempt)
    nothing_left_over(s)
  end)

  it("between claim and push gives the message back, uncounted", function()
    local s = setup_with(1)
    s.queue:instead("claim", function(claim, ...)
      s.emitter:stop()
      return claim(...)
    end)
    assert.is_true(s.emitter:run())
    assert.are.equal("", ids(s))
    assert.are.same({ { delay = 0, count = false, reason = "not sent" } }, s.queue:nacks())
    nothing_left_over(s)
  end)

  it("can be called from on_event", function()
    local s
    s = setup_with(3, { on_event = function(event) if event.type == "delivered" then s.emitter:stop(0) end end })
    assert.is_true(s.emitter:run())
    assert.are.equal("m1", ids(s))
    nothing_left_over(s)
  end)

  it("called again can shorten the grace, not lengthen it", function()
    local s = setup_with(1)
    s.world.respond = answers(200, 100)
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
    local s = setup_with(3, { on_event = function() error("bug in the log") end })
    assert.is_true(s.run_for(60, drained(s)))
    assert_counts(s, { delivered = 3, event_errors = 5 })
    nothing_left_over(s)
  end)

  it("may wait", function()
    local s
    s = setup_with(3, { on_event = function() s.world.loop.sleep(0.1) end })
    s.run_for(60, drained(s))
    assert.are.equal(3, s.emitter:stats().delivered)
  end)

  it("may be left out", function()
    local s = setup()
    s.opts.on_event = nil
    local emitter = emitters.new(s.opts)
    s.queue:put("a", "m1")
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
      local s = setup_with(1, { receivers = receivers })
      s.run_for(4)
      assert.are.equal("", ids(s))
      assert.are.equal(1, s.queue:left())
      local nacks = s.queue:nacks()
      assert.are.same({ 1, 5, false }, { #nacks, nacks[1].delay, nacks[1].count })
      local event = of_type(s, "error")[1]
      assert.is_truthy(event.reason:find(reason, 1, true), event.reason)
      assert.is_truthy(event.reason:find("receiver \"a\"", 1, true), event.reason)
      assert.are.same({ "INVALID", "m1" }, { event.code, event.id })
      nothing_left_over(s)
    end)
  end

  it("does not stop the others", function()
    local s = setup({ receivers = { good = { url = "http://x/", secret = SECRET } } })
    s.queue:put("bad", "m1")
    s.queue:put("good", "m2")
    s.run_for(4)
    assert.are.equal("m2", ids(s))
  end)

  it("is served once it is configured", function()
    local receivers = {}
    local s = setup_with(1, { receivers = receivers })
    s.run_for(30, function()
      if s.world.time - START > 7 then receivers.a = { url = "http://x/", secret = SECRET } end
      return s.queue:left() == 0
    end)
    assert.are.equal("m1", ids(s))
  end)

  it("is left alone when the answer is false", function()
    local s = setup_with(1, { receivers = function() return false end })
    s.run_for(30)
    assert.are.same({ 0, 0, 0 }, { #s.world.attempts, #s.queue:nacks(), #s.events })
  end)

  it("is like a message that cannot be sent", function()
    for field, value in pairs({ id = "has.dot", headers = { "x" } }) do
      local s = setup_with(1)
      s.queue:instead("claim", function(claim, ...)   -- a queue that took what holdfast.queue refuses
        local items = claim(...)
        items[1].msg[field] = value
        return items
      end)
      s.run_for(4)
      assert.are.equal("", ids(s))
      assert.are.equal(1, s.emitter:stats().errors)
      assert.are.equal(1, s.queue:left())
    end
  end)
end)

describe("a queue in trouble", function()
  for _, verb in ipairs({ "due", "claim", "ack", "nack" }) do
    for _, how in ipairs({ "CONNECT", true }) do
      it("loses nothing, is reported and left alone for a while: " .. verb .. " " .. tostring(how), function()
        local s = setup_with(1)
        s.world.respond = function() return verb == "nack" and s.world.time < START + 25 and 500 or 200 end
        s.queue:instead(verb, function()
          if how == true then error("bug in the queue") end
          return nil, "the disk is full", how
        end)
        s.run_for(4)
        assert.are.equal(1, #s.queue.calls[verb])
        assert.are.equal(1, s.emitter:stats().errors)
        local event = of_type(s, "error")[1]
        assert.matches("^queue " .. verb .. ": ", event.reason)
        assert.are.equal(how == true and "INVALID" or how, event.code)
        assert.are.equal(1, s.queue:left())
        nothing_left_over(s)
        s.run_for(60, drained(s))
        assert.are.equal(0, s.queue:left())
      end)
    end
  end
end)

describe("a queue that is closed", function()
  it("ends run() with the reason", function()
    local s = setup_with(1)
    s.queue.real:close()
    local answer, message, code = s.emitter:run()
    assert.are.same({ nil, "queue due: queue memory: is closed", "CLOSED" }, { answer, message, code })
  end)

  it("ends a push too, whose message it could not take back", function()
    local s = setup_with(2)
    s.world.respond = function(push)
      push.takes = 10
      s.queue.real:close()
      return 200
    end
    assert.are.equal("CLOSED", (select(3, s.emitter:run())))
    assert.are.equal("m1", ids(s))
    assert.is_true(s.world.time - START < 1)
    assert_counts(s, { aborted = 1, released = 1 })
    nothing_left_over(s)
  end)
end)

describe("Consul in trouble", function()
  it("is reported and left alone for a while", function()
    local s = setup_with(1)
    s.world.lock_error = "CONNECT"
    s.run_for(12)
    assert.are.equal(3, #s.world.attempts)
    assert.are.equal("CONNECT", of_type(s, "error")[1].code)
    s.world.lock_error = nil
    s.run_for(60, drained(s))
    assert.are.equal("m1", ids(s))
  end)

  it("at the release is reported", function()
    local s = setup_with(1)
    s.world.unlock_error = "CONNECT"
    s.run_for(1)
    assert.are.equal(1, s.emitter:stats().delivered)
    assert.are.equal("CONNECT", of_type(s, "error")[1].code)
    assert.are.equal(0, s.emitter:stats().receivers_held)
  end)

  it("ends run() with the reason when the client was closed", function()
    local s = setup_with(1)
    s.world.client_error = "CLOSED"
    local answer, message, code = s.emitter:run()
    assert.are.same({ nil, "the client is closed", "CLOSED" }, { answer, message, code })
    nothing_left_over(s)
  end)

  it("ends step() the same way", function()
    local s = setup_with(1)
    s.world.client_error = "FORKED"
    local answer, message, code = s.emitter:step()
    assert.are.same({ nil, "the client is closed", "FORKED" }, { answer, message, code })
  end)
end)

describe("emitter:step", function()
  it("serves what is due, waits for it and counts what was settled", function()
    local s = setup({ hold = { messages = 3 } })
    s.queue:put("a", "a1", "a2", "a3", "a4", "a5")
    s.queue:put("b", "b1")
    s.world.respond = function(push) push.takes = 1 return push.id == "b1" and 500 or 200 end
    assert.are.equal(4, s.emitter:step())
    assert.are.equal(2, s.emitter:step())
    assert.are.equal(0, s.emitter:step())
    assert_counts(s, { delivered = 5, failed = 1 })
    nothing_left_over(s)
  end)

  it("is 0 when nothing is due", function()
    assert.are.equal(0, setup().emitter:step())
  end)

  it("is ended by stop", function()
    local s = setup_with(1)
    s.world.respond = answers(200, 100)
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
    for i = 1, 3 do s.queue:put("r" .. i, "m" .. i) end
    s.world.respond = answers(200, 1)
    assert.are.equal(3, s.emitter:step())
    assert.are.equal(1, s.world.most_open)
    nothing_left_over(s)
  end)

  it("stop keeps it from the receivers that were still to come", function()
    local s
    s = setup({ blocking = true, on_event = function(event) if event.id then s.emitter:stop() end end })
    for i = 1, 3 do s.queue:put("r" .. i, "m" .. i) end
    assert.are.equal(1, s.emitter:step())
    assert.are.equal(1, #s.world.attempts)
  end)

  it("run goes on without a pause while there is work, and ends with stop", function()
    local s
    s = setup({ blocking = true, hold = { messages = 1 }, on_event = function(event)
      if event.id == "m6" then s.emitter:stop() end
    end })
    for i = 1, 6 do s.queue:put("r" .. i % 2, "m" .. i) end
    assert.is_true(s.emitter:run())
    assert.are.equal("m1 m2 m3 m4 m5 m6", ids(s))
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
    s.world.respond = answers(500)
    for i = 1, 20 do s.queue:put("r" .. i, "m" .. i) end
    s.run_for(1)
    s.world.time = s.world.time + 6
    for i = 1, 20 do s.queue.real:ack(s.queue:take("r" .. i).token) end
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
