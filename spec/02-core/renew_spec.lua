-- The lease: how it is renewed, what it survives, and what ends it.
local socket = require("socket")
local core = require("holdfast.core")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

describe("the lease of a lock", function()
  local server, client, lock
  before_each(function() server = fake.consul() end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- A held lock whose session has this TTL, and no lock-delay unless one is given: then the lease follows the TTL.
  -- Rules that come in its way have been made before.
  local function hold(ttl, lock_delay)
    client = helper.client({ address = server:address(), session = { ttl = ttl, lock_delay = lock_delay or 0 } })
    lock = assert(client:lock("k"))
    assert(lock:lock(helper.seconds(5)))
    return lock
  end

  local function renewals(n, seconds, state)
    return assert(server:wait_for(fake.RENEW, n, helper.seconds(seconds), state))
  end

  local function reason_of_loss(seconds)
    local reason = assert(lock:wait_lost(helper.seconds(seconds)))
    local _, lost = lock:lost()
    assert.are.equal(reason, lost)
    return reason
  end

  local function is_renewed_every(seconds)
    local gap = fake.usual_gap(renewals(8, 10))
    assert.is_true(gap > 0.9 * seconds - 0.05 and gap < 1.1 * seconds + 0.2, ("%.3f s"):format(gap))
    assert.is_true(client:stats().renewals >= 3)
    assert.is_true(lock:held())
  end

  it("is renewed every sixth of the TTL, give or take a tenth", function()
    hold(3.6, 30)
    is_renewed_every(0.6)
  end)

  it("is renewed every sixth of the lock-delay where that is shorter", function()
    hold(60, 4.2)
    is_renewed_every(0.7)
  end)

  it("is not renewed in step with that of others", function()
    local clients, alone = {}, 0
    for i = 1, 8 do
      clients[i] = helper.client({ address = server:address(), session = { ttl = 3 } })
      assert(assert(clients[i]:lock("k" .. i)):start_lock())
    end
    local log = renewals(40, 10)
    for i = 2, 40 do
      if log[i].received - log[i - 1].received > 0.003 then alone = alone + 1 end
    end
    assert.is_true(alone > 10, alone .. " of 40 are not together with the one before") -- in step: 4
  end)

  it("is long again after a renewal, and counts from when that was sent", function()
    server:rule({ match = fake.RENEW, action = "stall" })
    server:rule({ match = fake.RENEW, first = true, times = 1, delay = 0.5 })
    hold(18)
    local made, sent = server:log(fake.CREATE)[1].received, renewals(1, 10, "answered")[1].received
    helper.eventually(function() return client:stats().renewals == 1 end)
    local lease, before = 18 * 0.99 - 1, socket.gettime()
    local left, after = lock:remaining(), socket.gettime()
    -- It was sent before it was received, and it is not the lease of the beginning.
    assert.is_true(left <= lease - (before - sent) + 0.002, ("%.3f s left after %.3f s"):format(left, before - sent))
    assert.is_true(left > lease - (after - made), ("%.3f s left after %.3f s"):format(left, after - made))
  end)

  it("is as short as the server makes it", function()
    server:rule({ match = fake.RENEW, first = true, status = 200, body = "[{\"ID\":\"-\",\"TTL\":\"800ms\"}]" })
    hold(1.2)
    renewals(1, 5, "answered")
    helper.eventually(function() return client:stats().renewals >= 1 end)
    assert.is_true(lock:remaining() < 0.8)
  end)

  it("is never longer than was asked for, whatever the server makes of it", function()
    server:rule({ match = fake.RENEW, first = true, status = 200, body = "[{\"ID\":\"-\",\"TTL\":\"1h0m0s\"}]" })
    hold(3)
    renewals(2, 5, "answered")
    assert.is_true(lock:remaining() < 3)
  end)

  it("is over at once when the server says 404 to a renewal (behaviour 64)", function()
    server:rule(fake.on(fake.RENEW, fake.NO_SESSION, { first = true, times = 1 }))
    hold(1.2, 60)
    renewals(1, 5, "answered")
    assert.are.equal("session", reason_of_loss(5)) -- of a lease of nearly a minute
    assert.are.same({ false, "session" }, { lock:held() })
    assert.are.equal(1, client:stats().losses.session)
    assert.are.equal("LOST", fake.code_of(lock:unlock(0)))
    consul.at({ address = server:address() }, consul.kv.delete, "k") -- or its lock-delay would keep it back
    server:end_session(fake.id(1)) -- as the server has said
    assert(lock:lock(30))
    assert.are.equal(fake.id(2), lock:session())
    assert.is_true(server:count(fake.renew(1)) <= 4) -- so many may be under way at once
  end)

  it("goes on being renewed after two renewals that fail in one turn", function()
    server:rule({ match = fake.RENEW, first = true, times = 2, status = 500, body = "No cluster leader", delay = 0.9 })
    hold(3.6, 60)
    renewals(2, 5)
    -- The process finds both answers when it is scheduled again.
    os.execute("(kill -STOP $PPID; sleep 1; kill -CONT $PPID)")
    renewals(2, 5, "answered")
    server:forget()
    renewals(2, 5) -- of a lease of nearly a minute
    helper.eventually(function() return client:stats().renewals > 0 end)
    assert.is_true(lock:held())
  end)

  local PASSING = {
    ["500"] = { status = 500, body = "No cluster leader" }, ["429"] = { status = 429 }, ["503"] = { status = 503 },
    ["403"] = { status = 403, body = "ACL not found" }, ["200 with a page"] = { status = 200, body = "<html>" },
    ["200 with an empty list"] = { status = 200, body = "[]" }, ["301"] = { status = 301 },
    ["404 of a gateway"] = { status = 404, body = "no such page" }, ["404 without a word"] = { status = 404 },
    ["garbage"] = { raw = "\0\1\2\3" }, ["nothing, and the connection breaks,"] = { action = "close" },
    ["500 UUID must be 36 characters"] = { status = 500, body = "failed session lookup: UUID must be 36 characters" },
  }

  it("survives every kind of trouble that is shorter than itself (behaviour 64)", function()
    local locks = {}
    client = helper.client({ address = server:address(), session = { ttl = 3, lock_delay = 60 } })
    for kind, answer in pairs(PASSING) do
      local n = #locks + 1
      server:rule(fake.on(fake.renew(n), answer, { first = true, times = 1 }))
      locks[n] = assert(client:lock({ key = kind, session_name = kind }))
      assert(locks[n]:lock(helper.seconds(5)))
    end
    for n, each in ipairs(locks) do
      assert(server:wait_for(fake.renew(n), 2, helper.seconds(5), "answered"))
      -- There are 58.4 s after a renewal, and without one there would be less by now.
      helper.eventually(function() return each:remaining() > 57.9, each:key() end)
      assert.is_true(each:held(), each:key())
    end
    assert.is_true(client:stats().renew_failures >= #locks - 1) -- libcurl may have repeated the broken one itself
  end)

  it("is over at its deadline, not before, when every renewal is refused", function()
    server:rule(fake.on(fake.RENEW, PASSING["403"], { first = true }))
    hold(6)
    local before = core.now() - 0.001 -- it counts in whole milliseconds
    local left = lock:remaining()
    assert.are.equal("deadline", reason_of_loss(8))
    assert.is_true(core.now() >= before + left)
    assert.is_true(client:stats().renew_failures >= 2)
    assert.are.equal(0, lock:remaining())
  end)

  it("is over at its deadline when the server says nothing any more", function()
    hold(0.9)
    server:blackhole(true)
    assert.are.equal("deadline", reason_of_loss(2))
    client:abandon()
    server:blackhole(false)
  end)

  it("leaves a client that goes on, and no session, when it ends with a renewal on its way", function()
    local locks = {}
    client = helper.client({ address = server:address(), session = { ttl = 2, lock_delay = 0 } })
    server:rule({ match = fake.RENEW, first = true, action = "stall" })
    for n = 1, 6 do
      locks[n] = assert(client:lock({ key = "k" .. n, session_name = "session " .. n }))
      assert(locks[n]:lock(helper.seconds(5)))
    end
    for _, each in ipairs(locks) do assert.are.equal("deadline", (each:wait_lost(helper.seconds(5)))) end
    assert(server:wait_for(fake.DESTROY, #locks, helper.seconds(5), "answered"))
    assert(locks[1]:lock(helper.seconds(5)))
  end)

  it("survives a renewal that stalls: the next one goes out beside it, on a connection of its own", function()
    server:rule({ match = fake.RENEW, first = true, times = 1, action = "stall" })
    hold(9)
    local log = renewals(2, 5)
    assert.are_not.equal(log[1].connection, log[2].connection)
    assert.is_nil(log[1].gone)
    helper.eventually(function() return lock:remaining() > 6.5 end) -- of 8, and it would be 5 at most without a renewal
    helper.eventually(function() return client:stats().renew_failures == 1 end)
    assert(server:wait_for(fake.RENEW, 1, helper.seconds(5), "gone"))
    assert.is_true(lock:held())
  end)

  it("does not wait for its turn behind commands that stall", function()
    hold(0.9, 60)
    server:rule({ match = fake.TXN, first = true, action = "stall" })
    for i = 1, 6 do assert(assert(client:lock("k" .. i)):start_lock()) end
    local before = server:count(fake.RENEW)
    renewals(before + 4, 5)
    assert.is_true(lock:held())
    client:abandon()
  end)

  it("is not renewed any more once the client is closed", function()
    hold(0.9, 60)
    renewals(1, 5)
    client:close()
    helper.eventually(function() return server:connections().open == 0 end) -- what was under way has come
    local before = server:count(fake.RENEW)
    assert.is_nil(server:wait_for(fake.RENEW, before + 1, 0.5))
    assert.are.equal(1, server:count(fake.DESTROY))
  end)

  it("survives a watch that says the session is gone, or hidden, while renewals are answered (behaviour 65)", function()
    server:rule({ match = fake.INFO, first = true, status = 200, headers = { ["x-consul-index"] = "9" }, body = "[]" })
    hold(1.5, 60)
    local start = socket.gettime()
    renewals(4, 10, "answered")
    assert.is_true(lock:held())
    local infos, renewed = server:count(fake.INFO), server:count(fake.RENEW)
    local more = socket.gettime() - start -- seconds, in each of which there are 2 looks and 6 renewals
    assert.is_true(infos <= 6 + 3 * more and renewed <= 8 + 9 * more, ("%d looks, %d renewals"):format(infos, renewed))
  end)

  it("survives a watch that is refused, or whose index stands still, and does not look all the time", function()
    local answers = {
      { status = 403, body = "Permission denied" }, { status = 429 }, { status = 500 }, { status = 404 },
      { status = 200, headers = { ["x-consul-index"] = "9" }, body = "[{\"ID\":\"-\"}]" },
      { status = 200, body = "[{\"ID\":\"-\"}]" }, -- no index
      { status = 200, headers = { ["x-consul-index"] = "9" }, body = "<html>" },
    }
    local locks, start = {}, socket.gettime()
    client = helper.client({ address = server:address(), session = { ttl = 0.9 } })
    for n, answer in ipairs(answers) do
      server:rule(fake.on(fake.info(n), answer, { first = true }))
      locks[n] = assert(client:lock({ key = "k" .. n, session_name = "session " .. n }))
      assert(locks[n]:lock(helper.seconds(5)))
    end
    for n, each in ipairs(locks) do
      assert(server:wait_for(fake.renew(n), 3, helper.seconds(5), "answered"))
      assert.is_true(each:held())
      assert(server:wait_for(fake.info(n), 2, helper.seconds(5)))
      local looks = server:count(fake.info(n))
      assert.is_true(looks <= 12 + 6 * (socket.gettime() - start), looks .. " looks")
    end
  end)

  it("ends within a moment when the watch says gone and the renewal agrees", function()
    hold(120)
    assert(server:wait_for(fake.INFO .. ".*index=", 1, helper.seconds(5)))
    assert.are.equal(0, server:count(fake.RENEW))
    local start = socket.gettime()
    server:end_session(lock:session())
    assert.are.equal("session", reason_of_loss(5))
    assert.is_true(server:log(fake.RENEW)[1].received - start < 7) -- one is due after 18
  end)
end)

describe("the session of a lock through a proxy", function()
  local client, lock
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  it("is watched by one long poll, which notices at once that somebody destroyed it", function()
    local proxy = helper.proxy()
    client = helper.client({ address = proxy:address(), session = { ttl = "60s" } })
    lock = assert(client:lock(helper.unique_key()))
    assert(lock:lock(helper.seconds(5)))
    assert(proxy:wait_for(fake.INFO .. ".*index=", 1, helper.seconds(5)))
    assert.are.equal(0, proxy:count(fake.RENEW))
    local start = socket.gettime()
    consul.session.destroy(lock:session())
    assert.are.equal("session", (lock:wait_lost(helper.seconds(5))))
    assert.is_true(proxy:log(fake.RENEW)[1].received - start < 7) -- one is due after 9
    assert.matches("wait=%d%d+ms", proxy:log(fake.INFO .. ".*index=")[1].target)
  end)

  it("is watched again after the poll has been cut", function()
    local proxy = helper.proxy()
    client = helper.client({ address = proxy:address() })
    lock = assert(client:lock(helper.unique_key()))
    assert(lock:lock(helper.seconds(5)))
    assert(proxy:wait_for(fake.INFO .. ".*index=", 1, helper.seconds(5)))
    proxy:drop("reset")
    assert(proxy:wait_for(fake.INFO .. ".*index=", 2, helper.seconds(5)))
    assert.is_true(lock:held())
    consul.session.destroy(lock:session())
    assert.are.equal("session", (lock:wait_lost(helper.seconds(5))))
  end)
end)
