-- Sessions that locks live by, and the end of clients, against a real agent.
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local helper = require("spec.helper")

local function answer(...)
  return { (...), (select(3, ...)) }
end

local function holder_of(key)
  return (consul.kv.get(key) or {}).Session
end

describe("the shared session", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  it("is not made before the first lock needs it, and then shared by all", function()
    local threads = core.counters().threads
    local client = helper.client()
    local one, two = client:lock(key), client:lock(key .. "/2")
    assert.are.equal(threads, core.counters().threads)
    assert.are.equal(0, client:stats().sessions)
    assert(one:lock())
    assert(two:lock())
    assert.are.equal(one:session(), two:session())
    assert.are.equal(1, client:stats().sessions)
  end)

  it("is made as the options say", function()
    assert.are.equal(200, (consul.request("PUT", "/v1/agent/check/register", nil,
      '{"ID":"hf-spec","Name":"hf-spec","TTL":"60s","Status":"passing"}')))
    local client = helper.client({ session = { ttl = "11s", lock_delay = "3s", behavior = "delete",
      checks = { "serfHealth", "hf-spec" } } })
    local lock = client:lock(key)
    helper.eventually(function() return lock:lock(0) end) -- the check has to reach the catalog
    local info = consul.session.info(lock:session())
    assert.are.equal("11000ms", info.TTL)
    assert.are.equal(3e9, info.LockDelay)
    assert.are.equal("delete", info.Behavior)
    assert.are.same({ "serfHealth", "hf-spec" }, info.NodeChecks)
    client:close()
    assert.are.equal(200, (consul.request("PUT", "/v1/agent/check/deregister/hf-spec")))
  end)

  it("says SESSION, with the server's words, when it cannot be made", function()
    local client = helper.client({ session = { ttl = "1ms" } })
    local ok, message, code = client:lock(key):lock()
    assert.are.same({ nil, "SESSION" }, { ok, code })
    assert.matches("Invalid Session TTL", message, 1, true)
    client = helper.client({ session = { checks = { "no-such-check" } } })
    ok, message, code = client:lock(key):lock(0)
    assert.are.same({ nil, "SESSION" }, { ok, code })
    assert.matches("no-such-check", message, 1, true)
  end)

  it("is renewed in time for as long as the client lives", function()
    local client = helper.client({ session = { ttl = "3s" } })
    local lock = client:lock(key)
    assert(lock:lock())
    helper.eventually(function() return client:stats().renewals >= 14 end, 10) -- over twice the TTL
    assert.is_true(lock:held())
    assert.are.equal(lock:session(), holder_of(key))
  end)
end)

describe("a session made elsewhere", function()
  local key, id
  before_each(function()
    key = helper.unique_key()
    id = helper.session({ TTL = "30s", LockDelay = "0s" })
  end)
  after_each(helper.finish)

  it("is used, and neither renewed nor destroyed", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address() })
    local lock = client:lock({ key = key, session = id })
    assert.are.equal(id, lock:session())
    assert(lock:lock())
    assert.are.equal(id, holder_of(key))
    local left = lock:remaining()
    assert.is_true(left > 20 and left < 30, ("%.3f s"):format(left)) -- no lock-delay, so its TTL
    assert(lock:unlock())
    assert(lock:lock())
    client:close()
    assert.is_nil(holder_of(key))
    assert.are.equal(id, consul.session.info(id).ID)
    assert.are.equal(0, proxy:count("^PUT /v1/session/"))
  end)

  it("has a lease as long as its lock-delay, which Consul is asked for once", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address() })
    id = helper.session({ TTL = "60s", LockDelay = "30s" }) -- and not Consul's default of 15 s
    local function lease_of(lock)
      assert(lock:lock())
      local left = lock:remaining()
      assert.is_true(left > 20 and left < 30, ("%.3f s"):format(left))
    end
    lease_of(client:lock({ key = key .. "/1", session = id }))
    assert(proxy:wait_for("^GET /v1/session/info/.*index=", 1, helper.seconds(5))) -- its monitor has settled down
    proxy:forget()
    lease_of(client:lock({ key = key .. "/2", session = id }))
    assert.are.equal(0, proxy:count("/v1/session/"))
  end)

  it("is no longer relied on when Consul does not answer any more", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address() })
    id = helper.session({ TTL = "30s", LockDelay = "1.2s" })
    local lock = client:lock({ key = key, session = id })
    assert(lock:lock())
    proxy:blackhole(true)
    assert.are.equal("deadline", lock:wait_lost(helper.seconds(5)))
    assert.are.equal(0, lock:remaining())
    client:abandon()
    proxy:blackhole(false)
  end)

  describe("whose lease is over while it lives on", function()
    local proxy, client, lock, short
    before_each(function()
      proxy = helper.proxy()
      client = helper.client({ address = proxy:address(), timeout = 1 })
      short = helper.session({ TTL = "60s", LockDelay = "3s" })
      lock = assert(client:lock({ key = key, session = short }))
    end)
    after_each(function()
      proxy:clear()
      client, lock = nil, nil
    end)

    -- Has the lock lose what it holds, because nobody answers its audits.
    local function lose()
      proxy:rule({ match = "^PUT /v1/txn", action = "stall" })
      assert.are.equal("deadline", lock:wait_lost(helper.seconds(5)))
      proxy:clear()
    end

    it("is good for who waits through it", function()
      local other = assert(helper.client():lock(key .. "/other"))
      assert(other:lock())
      assert(lock:lock())
      local waiter = assert(client:lock({ key = key .. "/other", session = short }))
      local op = assert(waiter:start_lock(helper.seconds(10)))
      assert(proxy:wait_for("^GET /v1/kv/.*other.*index=", 1, helper.seconds(5)))
      lose()
      assert(other:unlock())
      assert(op:wait(helper.seconds(5)))
      local ok, message = op:result()
      assert.is_true(ok, message)
      assert.are.equal(short, holder_of(waiter:key()))
    end)

    it("gives the next hold of the key a token of its own", function()
      assert(lock:lock())
      local token = lock:token()
      lose()
      assert(lock:lock(helper.seconds(5)))
      assert.is_true(lock:token() > token, ("%d, and then %d"):format(token, lock:token()))
    end)

    it("does not keep the key that was lost", function()
      assert(lock:lock())
      lose()
      helper.eventually(function() return not holder_of(key), "it has the key still" end)
      assert.are.equal(short, consul.session.info(short).ID)
    end)

    it("does not keep the key of a try without an answer", function()
      local keep = assert(client:lock({ key = key .. "/keep", session = short }))
      assert(keep:lock())
      proxy:rule({ match = "^PUT /v1/txn$", action = "pass_then_stall", times = 1 })
      proxy:rule({ match = "consistent", action = "stall" })
      assert.is_nil((lock:lock(0.3)))
      assert.are.equal("deadline", keep:wait_lost(helper.seconds(5)))
      proxy:clear()
      helper.eventually(function() return not holder_of(key), "it has the key still" end)
      assert.is_false(lock:held())
    end)
  end)

  it("takes its locks along when it ends", function()
    local lock = helper.client():lock({ key = key, session = id })
    assert(lock:lock())
    consul.session.destroy(id)
    assert.are.equal("session", lock:wait_lost(helper.seconds(5)))
    assert.are.same({ nil, "SESSION" }, answer(lock:lock()))
  end)

  it("is SESSION when there is none", function()
    local lock = helper.client():lock({ key = key, session = "00000000-0000-4000-8000-000000000000" })
    assert.are.same({ nil, "SESSION" }, answer(lock:lock(helper.seconds(5))))
    lock = helper.client():lock({ key = key, session = "nonsense" })
    assert.are.same({ nil, "SESSION" }, answer(lock:lock(helper.seconds(5))))
  end)
end)

describe("a session of a lock's own", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  it("is made for the hold and destroyed after it", function()
    local client = helper.client()
    local lock = client:lock({ key = key, session_ttl = "5s", session_name = "own" })
    local before
    for _ = 1, 2 do
      assert(lock:lock())
      local info = consul.session.info(lock:session())
      assert.are.same({ "own", "5000ms" }, { info.Name, info.TTL })
      assert.are_not.equal(before, info.ID)
      before = info.ID
      assert(lock:unlock())
      helper.eventually(function() return not consul.session.info(before) end)
    end
    helper.eventually(function() return client:stats().sessions == 0 end)
  end)

  it("has the options that the lock was given, and those of the client where it was given none", function()
    local client = helper.client({ session = { ttl = "30s", lock_delay = "17s" } })
    local lock = assert(client:lock({ key = key, session_name = "own",
      session_opts = { behavior = "delete", checks = {} } }))
    assert(lock:lock())
    local info = consul.session.info(lock:session())
    assert.are.same({ "own", "30000ms", 17e9, "delete" }, { info.Name, info.TTL, info.LockDelay, info.Behavior })
    assert.are.same({}, info.NodeChecks or {})
    lock = assert(client:lock({ key = key .. "/2", session_ttl = "40s", lock_delay = "12s" }))
    assert(lock:lock())
    info = consul.session.info(lock:session())
    assert.are.same({ "40000ms", 12e9, "release" }, { info.TTL, info.LockDelay, info.Behavior })
    assert.are.same({ "serfHealth" }, info.NodeChecks)
  end)

  it("is lost alone", function()
    local client = helper.client()
    local shared, own, other = client:lock(key), client:lock({ key = key .. "/2", session_ttl = "5s" }),
      client:lock({ key = key .. "/3", session_ttl = "5s" })
    for _, lock in ipairs({ shared, own, other }) do assert(lock:lock()) end
    consul.session.destroy(own:session())
    assert.are.equal("session", own:wait_lost(helper.seconds(5)))
    assert.is_true(shared:held())
    assert.is_true(other:held())
    assert.are_not.equal(shared:session(), other:session())
  end)

  it("is destroyed when the lock was not to be had", function()
    local holder = helper.client():lock(key)
    assert(holder:lock())
    local client = helper.client()
    local lock = client:lock({ key = key, session_ttl = "5s", session_name = key })
    assert.are.same({ nil, "TIMEOUT" }, answer(lock:lock(0)))
    helper.eventually(function()
      for _, session in ipairs(consul.session.list()) do
        if session.Name == key then return false end
      end
      return client:stats().sessions == 0
    end)
  end)
end)

describe("a client", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  it("releases everything and destroys its session at close, and says CLOSED from then on", function()
    local client = helper.client({ session = { lock_delay = "15s" } })
    local locks = {}
    for i = 1, 20 do
      locks[i] = client:lock(key .. "/" .. i)
      assert(locks[i]:lock())
    end
    local id = locks[1]:session()
    assert.is_true(client:close())
    assert.is_true(client:close())
    assert.is_nil(consul.session.info(id))
    local other = helper.client()
    for i = 1, 20 do
      assert.is_nil(holder_of(key .. "/" .. i))
      assert.are.same({ false, "closed" }, { locks[i]:held() })
    end
    assert.is_true(other:lock(key .. "/7"):lock(0)) -- no lock-delay
    for _, method in ipairs({ "lock", "unlock", "destroy" }) do
      assert.are.same({ nil, "CLOSED" }, answer(locks[1][method](locks[1])))
    end
    assert.are.same({ nil, "CLOSED" }, answer(client:lock(key)))
    assert.are.same({ nil, "CLOSED" }, answer(client:request({ url = "http://127.0.0.1:1/" })))
    assert.are.same({ nil, "CLOSED" }, answer(client:with_lock(key, function() end)))
  end)

  it("ends what is in flight with CLOSED", function()
    local holder = helper.client():lock(key)
    assert(holder:lock())
    local client = helper.client()
    local op = assert(client:lock(key):start_lock())
    assert.is_nil(op:wait(0.2))
    client:close()
    assert.is_true(op:wait(0))
    assert.are.equal("CLOSED", select(3, op:result()))
  end)

  it("tells nobody when it is abandoned, and its locks go with the TTL", function()
    local client = helper.client({ session = { ttl = "4s", lock_delay = 0 } })
    local lock = client:lock(key)
    assert(lock:lock())
    local id = lock:session()
    assert.is_true(client:abandon())
    assert.are.same({ false, "closed" }, { lock:held() })
    assert.are.same({ nil, "CLOSED" }, answer(lock:unlock()))
    assert.are.same({ nil, "CLOSED" }, answer(client:lock(key)))
    assert.are.equal(id, holder_of(key))
    assert.is_true(helper.client():lock(key):lock(helper.seconds(10)))
  end)

  it("that is dropped without a close says goodbye all the same", function()
    local lock = require("holdfast").new({ address = consul.address() }):lock(key) -- helper would keep the client
    assert(lock:lock())
    local id = lock:session()
    lock = nil -- luacheck: ignore
    helper.eventually(function()
      collectgarbage()
      return not consul.session.info(id)
    end)
    assert.is_nil(holder_of(key))
  end)

  -- A renewal that is not answered within two seconds is followed by another one, on a connection more; with a shorter
  -- TTL sooner.
  it("holds 300 locks over four connections, and lets go of all of them at close (behaviour 69)", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address(), scheduler = "loop", session = { ttl = "12s" } })
    local loop = require("holdfast.loop")
    local locks = {}
    loop.run(function()
      for i = 1, 300 do
        locks[i] = client:lock(key .. "/" .. i)
        loop.spawn(function() assert(locks[i]:lock()) end)
      end
    end)
    proxy:forget()
    assert(proxy:wait_for("^PUT /v1/txn%?", 5, helper.seconds(10))) -- one audit of 300
    assert(proxy:wait_for("^PUT /v1/session/renew", 2, helper.seconds(10)))
    for i = 1, 300 do assert.is_true(locks[i]:held()) end
    assert.are.equal(300, client:stats().locks_held)
    assert.is_true(client:stats().connections <= 4)
    assert.is_true(proxy:connections().most <= 4)
    client:close()
    for _, pair in ipairs(consul.kv.keys(key)) do assert.is_nil(holder_of(pair)) end
  end)
end)
