-- What the lease of a session counts on: renewals that overlap, the lock-delay as Consul keeps it, and nobody's word
-- but Consul's own for the end of a session.
local socket = require("socket")
local core = require("holdfast.core")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

describe("the lease of a session", function()
  local server, client, lock, begun
  before_each(function() server = fake.consul() end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function hold(session)
    client = helper.client({ address = server:address(), session = session })
    lock = assert(client:lock("k"))
    begun = core.now() - 0.001 -- it counts in whole milliseconds
    assert(lock:lock(helper.seconds(5)))
  end

  -- Whether so much remains of a lease that has begun since hold was called.
  local function has(lease)
    local left = lock:remaining()
    local most = core.now() - begun
    assert.is_true(left <= lease and left >= lease - most, ("%.3f s of %.3f s"):format(left, lease))
  end

  it("is renewed on other connections while renewals stall, none of which is given up for that", function()
    server:rule({ match = fake.RENEW, first = true, times = 2, action = "stall" })
    hold({ ttl = 12, lock_delay = 12 })
    local log = assert(server:wait_for(fake.RENEW, 3, helper.seconds(10)))
    assert.is_true(not log[1].gone or log[1].gone > log[2].received, "the first was given up before the second")
    for i = 2, 3 do
      local gap = log[i].received - log[i - 1].received
      assert.is_true(gap < 5, ("%.2f s"):format(gap)) -- it is given up after 6
      assert.are_not.equal(log[i - 1].connection, log[i].connection)
    end
    assert(server:wait_for(fake.RENEW, 1, helper.seconds(5), "answered"))
    helper.eventually(function() return lock:remaining() > 8 end) -- of 10.9, and it would be 5 without a renewal
    assert.is_true(lock:held())
  end)

  it("does not end by a 404 that is not Consul's own", function()
    for _, body in ipairs({ "no such host", "<html>404 page not found</html>", "404 page not found", "" }) do
      server:rule({ match = fake.RENEW, first = true, times = 1, status = 404, body = body })
    end
    hold({ ttl = 1.5, lock_delay = 60 })
    assert(server:wait_for(fake.RENEW, 6, helper.seconds(10), "answered"))
    assert.is_true(lock:held())
    assert.are.equal(1, server:count(fake.CREATE))
    assert.are.equal(0, client:stats().losses.session)
  end)

  it("ends by Consul's 404", function()
    hold({ ttl = 1.5, lock_delay = 60 })
    server:rule({ match = fake.RENEW, first = true, status = 404,
      body = ("Session id '%s' not found"):format(fake.id(1)) })
    assert.are.equal("session", (lock:wait_lost(helper.seconds(5))))
  end)

  it("is never longer than a minute, which is the longest lock-delay that Consul keeps", function()
    for _, session in ipairs({ { ttl = 90, lock_delay = 90 }, { ttl = 120 }, { ttl = 90, lock_delay = 300 } }) do
      hold(session)
      local left = lock:remaining()
      assert.is_true(left > 40 and left <= 60 * 0.99, left .. " s")
      client:close()
    end
  end)

  it("follows the lock-delay, not the TTL", function()
    for _, case in ipairs({ { 10, 25 }, { 15, 4 }, { 2, 30 } }) do
      hold({ ttl = case[1], lock_delay = case[2] })
      has(case[2] * 0.99 - math.min(1, case[2] / 10))
      client:close()
    end
  end)

  it("follows the TTL where there is no lock-delay", function()
    for _, lock_delay in ipairs({ 0, 0.5 }) do
      hold({ ttl = 8, lock_delay = lock_delay })
      has(8 * 0.99 - 0.8)
      client:close()
    end
  end)

  it("is that of a long TTL, which takes the lock-delay with it, unless another one is given", function()
    hold({ ttl = 40 })
    assert.matches("\"LockDelay\":\"40000ms\"", server:log(fake.CREATE)[1].body, 1, true)
    has(40 * 0.99 - 1)
  end)

  it("is made of sessions of 10 s with a lock-delay of 25 s when nothing is said", function()
    hold()
    local body = server:log(fake.CREATE)[1].body
    assert.matches("\"TTL\":\"10000ms\"", body, 1, true)
    assert.matches("\"LockDelay\":\"25000ms\"", body, 1, true)
  end)
end)

describe("the end of a session", function()
  after_each(helper.finish)

  it("is told as the session's, not as a theft, though the audit sees it first (200 locks)", function()
    local proxy, locks, ops = helper.proxy(), {}, {}
    local client = helper.client({ address = proxy:address(), session = { ttl = "6s", lock_delay = "10s" } })
    local prefix = helper.unique_key()
    for i = 1, 200 do
      locks[i] = assert(client:lock(("%s/%d"):format(prefix, i)))
      ops[i] = assert(locks[i]:start_lock())
    end
    for i = 1, 200 do assert.is_true(fake.result(ops[i], 20)) end
    proxy:rule({ match = fake.INFO, action = "stall" }) -- or the session's own poll would tell
    proxy:rule({ match = fake.RENEW, hold = true })
    proxy:drop()
    consul.session.destroy(locks[1]:session())
    proxy:forget()
    local audits = assert(proxy:wait_for(fake.AUDIT, 1, helper.seconds(10), "answered"))
    locks[1]:wait_lost(0.2) -- in vain
    local given_up = proxy:count(fake.RENEW, "gone")
    proxy:clear()
    proxy:release(fake.RENEW)
    local reasons = { session = 0 }
    for i = 1, 200 do
      local reason = assert(locks[i]:wait_lost(helper.seconds(5)))
      reasons[reason] = (reasons[reason] or 0) + 1
    end
    -- The audit waits half a second for the renewal, and no longer, nor when one ends without an answer.
    if socket.gettime() - audits[1].received < 0.5 and given_up == 0 then
      assert.are.same({ session = 200 }, reasons)
    end
  end)
end)

describe("the lease of a session made elsewhere", function()
  local proxy, client, lock, id
  before_each(function()
    proxy = helper.proxy()
    client = helper.client({ address = proxy:address() })
    id = helper.session({ TTL = "60s", LockDelay = "6s" })
    lock = assert(client:lock({ key = helper.unique_key(), session = id }))
    assert(lock:lock(helper.seconds(5)))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  it("is as long as its lock-delay, and goes on from audit to audit", function()
    local left = lock:remaining()
    assert.is_true(left <= 6 * 0.99 - 0.6, left .. " s")
    local deadline = socket.gettime() + left
    assert(proxy:wait_for(fake.AUDIT, 2, helper.seconds(10), "answered"))
    helper.eventually(function()
      local now = socket.gettime()
      return not lock:held() or now > deadline
    end, 5)
    assert.is_true(lock:held())
    assert.is_true(lock:unlock(helper.seconds(5)))
  end)

  it("ends without contact", function()
    proxy:blackhole(true)
    assert.are.equal("deadline", (lock:wait_lost(helper.seconds(5))))
    assert.are.same({ false, "deadline" }, { lock:held() })
    assert.are.equal(0, lock:remaining())
    client:abandon()
    proxy:blackhole(false)
  end)
end)
