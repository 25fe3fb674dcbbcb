-- lock:lock when the way to Consul, or the caller's patience, breaks in the middle of it.
local socket = require("socket")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, result = fake.code_of, fake.result

-- libcurl itself repeats a request when a kept connection breaks under it, so a rule says how often: until the break
-- has reached the core.
local OFTEN = 4

local function holder_of(key)
  return (consul.kv.get(key) or {}).Session
end

local function is_free(key)
  return function() return not holder_of(key), tostring(holder_of(key)) .. " holds it" end
end

local function sessions_named(name)
  local ids = {}
  for _, session in ipairs(consul.session.list()) do
    if session.Name == name then ids[#ids + 1] = session.ID end
  end
  return ids
end

-- What an acquire that is to end waits for its try's answer, seconds.
local PATIENCE = 0.5

-- Closing has a bound of 3 s, a request one that is longer than any wait here.
local BOUND = 20

local function seconds_of(fn, ...)
  local start = socket.gettime()
  fn(...)
  return socket.gettime() - start
end

describe("a lock through a proxy", function()
  local proxy, client, key, lock, name
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    name = key:gsub("/", "-")
    client = helper.client({ address = proxy:address(), timeout = 240, session = { name = name, ttl = "60s" } })
    lock = assert(client:lock(key))
  end)
  after_each(function()
    proxy:clear()
    client, lock = nil, nil
    helper.finish()
    for _, id in ipairs(sessions_named(name)) do consul.session.destroy(id) end
  end)

  -- By the end of a client. Nobody destroys them for him: they would go by themselves after two minutes.
  local function leaves_no_session()
    helper.eventually(function()
      local left = #sessions_named(name)
      return left == 0, left .. " sessions"
    end)
  end

  -- Starts to lock, and answers the op once the transaction is on its way.
  local function lock_in_flight(seconds)
    local op = assert(lock:start_lock(seconds))
    assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
    return op
  end

  -- Carries out what has been held back so far, which was sent first: what came after has seen to that it is refused.
  local function comes_too_late(verbs)
    assert(proxy:wait_for(fake.TXN, #verbs - 1, helper.seconds(5), "carried"))
    assert.are.same(verbs, fake.verbs(proxy))
    proxy:release()
    assert(proxy:wait_for(fake.TXN, #verbs, helper.seconds(5), "carried"))
    assert.are.equal(409, proxy:log(fake.TXN)[1].outcome)
  end

  it("is taken once, and has one token, though the reply to the transaction was lost", function()
    proxy:rule({ match = fake.TXN, times = OFTEN, action = "pass_then_close" })
    assert(lock:lock(helper.seconds(10)))
    local pair = consul.kv.get(key)
    assert.are.equal(lock:session(), pair.Session)
    assert.are.equal(pair.ModifyIndex, lock:token())
    -- What its session has already is taken anew, with a new index: no copy can be in its way then.
    local verbs = fake.verbs(proxy)
    assert.are.equal("lock", verbs[1])
    assert.are.equal("unlock lock", verbs[#verbs])
    assert.is_nil(fake.unconditional(proxy))
    assert.is_true(proxy:count(fake.TXN) > OFTEN)
    assert.is_true(lock:held())
    assert(lock:unlock(30))
    assert.is_nil(holder_of(key))
  end)

  it("is given back on the server when the reply was lost and there was to be one try only", function()
    proxy:rule({ match = fake.TXN, action = "pass_then_close" })
    local ok, message, code = lock:lock(0)
    assert.are.same({ nil, "CONNECT" }, { ok, code })
    assert.matches(key, message, 1, true)
    assert.is_false(lock:held())
    proxy:clear()
    helper.eventually(is_free(key), 3)
  end)

  it("leaves no session behind when the client closes after a try whose transaction never arrived", function()
    proxy:rule({ match = fake.TXN, action = "close" })
    assert.are.equal("CONNECT", code_of(lock:lock(0)))
    proxy:clear()
    client:close()
    leaves_no_session()
  end)

  it("answers CANCELED when it has been given back, if that is soon", function()
    proxy:rule({ match = fake.TXN, times = 1, hold = true })
    local op = lock_in_flight()
    local took = seconds_of(function()
      lock:cancel()
      proxy:release()
      assert.are.equal("CANCELED", code_of(result(op)))
    end)
    if took < PATIENCE then -- or it may have had enough
      assert.are.same({ "lock", "unlock" }, fake.verbs(proxy))
      assert.is_nil(holder_of(key))
    end
    helper.eventually(is_free(key))
  end)

  -- The fence makes sure that what comes late is refused.
  it("answers CANCELED while the try has no answer, and what is carried out later takes nothing", function()
    proxy:rule({ match = fake.TXN, times = 1, hold = true })
    local op = lock_in_flight()
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    assert.is_false(lock:held())
    comes_too_late({ "lock", "lock unlock" })
    assert.is_nil(holder_of(key))
  end)

  it("is given back after a cancel though the server never says that it was taken", function()
    proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_stall" })
    local op = lock_in_flight()
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    helper.eventually(function() return holder_of(key) end)
    helper.eventually(is_free(key), 5)
  end)

  it("answers TIMEOUT while the try has no answer, and what is carried out later takes nothing", function()
    proxy:rule({ match = fake.TXN, times = 1, hold = true })
    assert.are.equal("TIMEOUT", code_of(result(lock_in_flight(2.5))))
    comes_too_late({ "lock", "lock unlock" })
    assert.is_nil(holder_of(key))
  end)

  it("can be taken by the same object while a given-up try is still being undone", function()
    proxy:rule({ match = fake.TXN, times = 1, hold = true })
    assert.are.equal("TIMEOUT", code_of(result(lock_in_flight(2.5))))
    assert(lock:lock(helper.seconds(10)))
    comes_too_late({ "lock", "lock unlock", "lock" })
    assert.are.equal(lock:session(), holder_of(key))
    assert.is_true(lock:held())
  end)

  it("is given back when the op is dropped in mid-flight", function()
    proxy:rule({ match = fake.TXN, times = 1, hold = true })
    lock_in_flight()
    collectgarbage()
    collectgarbage()
    proxy:release()
    assert(proxy:wait_for(fake.TXN, 2, helper.seconds(5), "answered")) -- an unlock, or a fence before the lock comes
    assert.matches("unlock$", fake.verbs(proxy)[2])
    helper.eventually(is_free(key))
    assert(lock:lock(helper.seconds(5)))
  end)

  it("answers CLOSED when the client closes, and is given back if the reply comes in time", function()
    proxy:rule({ match = fake.TXN, times = 1, delay = 0.6 })
    local op = lock_in_flight()
    assert.is_true(seconds_of(client.close, client) < BOUND)
    assert.are.equal("CLOSED", code_of(result(op)))
    leaves_no_session()
    assert.is_nil(holder_of(key))
  end)

  it("answers CLOSED in bounded time when the client closes and the reply never comes", function()
    proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_stall" })
    local op = lock_in_flight()
    assert.is_true(seconds_of(client.close, client) < BOUND)
    assert.are.equal("CLOSED", code_of(result(op)))
    leaves_no_session()
    assert.is_nil(holder_of(key))
  end)

  it("leaves no session behind when the client closes while one is being made slowly", function()
    proxy:rule({ match = fake.CREATE, times = 1, delay = 0.5 })
    local op = assert(lock:start_lock())
    assert(proxy:wait_for(fake.CREATE, 1, helper.seconds(5)))
    assert.is_true(seconds_of(client.close, client) < BOUND)
    assert.are.equal("CLOSED", code_of(result(op)))
    assert(proxy:wait_for(fake.DESTROY, 1, helper.seconds(5), "answered"))
    assert.are.same({}, sessions_named(name))
  end)

  it("closes as soon as the session that was being made is destroyed", function()
    proxy:rule({ match = fake.CREATE, times = 1, delay = 0.5 })
    local op = assert(lock:start_lock())
    assert(proxy:wait_for(fake.CREATE, 1, helper.seconds(5)))
    assert.is_true(seconds_of(client.close, client) < 2.9) -- and not when its time is over
    assert.are.equal("CLOSED", code_of(result(op)))
  end)

  it("leaves nothing running when a lock with a session of its own is canceled while that is made", function()
    lock = assert(client:lock({ key = key, session_name = name }))
    proxy:rule({ match = fake.CREATE, times = 1, delay = 0.3 })
    local op = assert(lock:start_lock())
    assert(proxy:wait_for(fake.CREATE, 1, helper.seconds(5)))
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    op, lock = nil, nil -- luacheck: ignore op
    assert(proxy:wait_for(fake.DESTROY, 1, helper.seconds(5), "answered"))
    assert.are.same({}, sessions_named(name))
    helper.eventually(function()
      collectgarbage()
      local left = core.counters()
      return left.ops == 0 and left.sessions == 0, ("%d ops, %d sessions"):format(left.ops, left.sessions)
    end, 2)
  end)

  it("keeps the session that was made while its only lock was canceled", function()
    proxy:rule({ match = fake.CREATE, times = 1, delay = 0.5 })
    local op = assert(lock:start_lock())
    assert(proxy:wait_for(fake.CREATE, 1, helper.seconds(5)))
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    assert(lock:lock(30))
    assert.are.equal(1, proxy:count(fake.CREATE))
    assert.are.same({ lock:session() }, sessions_named(name))
  end)

  it("is taken though making the session fails at first", function()
    proxy:rule({ match = fake.CREATE, times = 1, action = "close" })
    proxy:rule({ match = fake.CREATE, times = 1, action = "reset" })
    proxy:rule({ match = fake.CREATE, times = 1, status = 500, body = "No cluster leader" })
    assert(lock:lock(30))
    assert.are.equal(4, proxy:count(fake.CREATE))
    assert.are.same({ lock:session() }, sessions_named(name))
  end)

  it("makes a new session, once, when the server does not know the old one any more", function()
    assert(lock:lock(30))
    assert(lock:unlock(30))
    proxy:rule({ match = fake.INFO, action = "stall" }) -- that the client does not find out by itself
    proxy:drop()
    local old = sessions_named(name)
    consul.session.destroy(old[1])
    assert(lock:lock(30))
    local new = sessions_named(name)
    assert.are.equal(1, #new)
    assert.are_not.equal(old[1], new[1])
    assert.are.equal(new[1], holder_of(key))
    assert.are.equal(2, proxy:count(fake.CREATE))
  end)
end)

describe("a lock of a server that makes trouble", function()
  local server, client, lock
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
    lock = assert(client:lock("k"))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  it("answers SESSION and the server's words when a session cannot be had", function()
    local words = "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]"
    server:rule({ first = true, match = fake.CREATE, status = 500, body = words })
    local ok, message, code = lock:lock(helper.seconds(10))
    assert.are.same({ nil, "SESSION" }, { ok, code })
    assert.matches(words, message, 1, true)
    assert.matches("\"k\"", message, 1, true)
    assert.are.equal(1, server:count(fake.CREATE))
  end)

  for status, kind in pairs({ [409] = "refusal", [500] = "error" }) do
    it(("makes a new session, once, after an %s that says invalid session"):format(kind), function()
      local what = ("invalid session \"%s\""):format(fake.id(1))
      local answer = status == 409 and fake.refusal({ what }) or { status = 500, body = "raft apply failed: " .. what }
      server:rule(fake.on(fake.TXN, answer, { first = true, times = 1 }))
      assert(lock:lock(30))
      assert.are.equal(fake.id(2), lock:session())
      assert.are.equal(2, server:count(fake.CREATE))
      assert.are.equal(2, server:count(fake.TXN))
      assert.matches(fake.id(2), server:log(fake.TXN)[2].body, 1, true)
    end)
  end

  it("answers SESSION when every session is invalid, and does not go on making new ones", function()
    server:rule(fake.on(fake.TXN, fake.refusal({ "invalid session \"x\"" }), { first = true }))
    assert.are.equal("SESSION", code_of(lock:lock(helper.seconds(10))))
    assert.is_true(server:count(fake.CREATE) <= 4)
  end)

  it("answers DENIED when the ACL refuses in the transaction", function()
    server:rule(fake.on(fake.TXN, fake.refusal({ "Permission denied" }), { first = true }))
    assert.are.equal("DENIED", code_of(lock:lock(helper.seconds(10))))
    local tries = 0 -- what comes after them kills what may come after them
    for _, verb in ipairs(fake.verbs(server)) do tries = tries + (verb == "lock" and 1 or 0) end
    assert.are.equal(1, tries)
  end)

  it("says what stood in the way when the time is over", function()
    server:rule(fake.on(fake.TXN, fake.refusal({ "failed to lock key \"k\" due to lock delay" }), { first = true }))
    local _, message, code = lock:lock(3)
    assert.are.equal("TIMEOUT", code)
    assert.matches("lock delay", message, 1, true)
    assert.are.equal(0, server:count(fake.POLL)) -- nothing is going to change on the key
    assert.is_true(server:count(fake.TXN) <= 15) -- 0.2 to 2 s are between them
  end)

  it("has the token of the transaction", function()
    server:rule(fake.on(fake.TXN, fake.written("k", 4711), { first = true }))
    assert(lock:lock(0))
    assert.are.equal(4711, lock:token())
  end)

  -- Whatever ends its session, nobody else has the key before the lock-delay is over.
  it("is held for a little less than the lock-delay, or than the TTL where there is no lock-delay", function()
    for lock_delay, base in pairs({ [25] = 25, [90] = 60, [3] = 3, [0] = 10 }) do
      lock = assert(client:lock({ key = "k" .. lock_delay, lock_delay = lock_delay, session_ttl = 10 }))
      local before = core.now() - 0.001 -- it counts in whole milliseconds
      assert(lock:lock(0))
      local left, lease = lock:remaining(), base * 0.99 - math.min(1, base / 10)
      local most = core.now() - before
      assert.is_true(left <= lease and left >= lease - most, ("%.3f s of %.3f s"):format(left, lease))
    end
  end)

  it("is not taken when the answer comes after the lease of its session", function()
    client:close()
    client = helper.client({ address = server:address(), timeout = 2, session = { ttl = 0.6, lock_delay = 0 } })
    lock = assert(client:lock("k"))
    server:rule({ first = true, match = fake.RENEW, action = "stall" })
    server:rule(fake.on(fake.TXN, { status = 200, body = ("{\"Results\":[{\"KV\":{\"ModifyIndex\":%d}}]}"):format(7) },
      { first = true, times = 1, delay = 1 }))
    local ok, _, code = lock:lock(0.9)
    assert.are.same({ nil, "TIMEOUT" }, { ok, code })
    assert.is_false(lock:held())
  end)
end)
