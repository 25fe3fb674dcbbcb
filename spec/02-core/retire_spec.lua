-- Sessions that a client cannot vouch for. Something may be held by one that nobody here holds, so it is retired: new
-- acquires get a fresh one, and the old one is destroyed, which frees whatever it has, when its last hold ends.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local socket = require("socket")

local code_of, result = fake.code_of, fake.result

local MANY = 20 -- requests in a second

local holder_of = agent.holder

local function gone(session)
  helper.eventually(function() return not consul.session.info(session), session .. " is there still" end, 5)
end

describe("a session through a proxy", function()
  local proxy, client, key, lock, other, third
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), timeout = 3, session = { ttl = "60s", lock_delay = "20s" } })
    lock, other, third = assert(client:lock(key)), assert(client:lock(key .. "/2")), assert(client:lock(key .. "/3"))
  end)
  after_each(function()
    proxy:clear()
    client, lock, other, third = nil, nil, nil, nil
    helper.finish()
  end)

  it("is retired when a lock has an unknown outcome, and kept for what is held until that is given back", function()
    assert(lock:lock(helper.seconds(5)))
    local old = lock:session()
    proxy:rule({ match = fake.TXN, times = 1, action = "late" })
    assert.is_nil((other:lock(0)))
    assert(third:lock(helper.seconds(5)))
    assert.are_not.equal(old, third:session())
    assert.is_true(lock:held())
    assert.are.equal(old, holder_of(lock:key()))
    assert(lock:unlock(helper.seconds(5)))
    gone(old)
    proxy:release()
    assert(proxy:wait_for(fake.TXN, proxy:count(fake.TXN), helper.seconds(5), "carried"))
    assert.is_nil(holder_of(other:key()))
    assert.is_true(third:held())
  end)

  it("is retired, and destroyed at once, when nothing else is held", function()
    assert(lock:lock(helper.seconds(5)))
    local old = lock:session()
    assert(lock:unlock(helper.seconds(5)))
    proxy:rule({ match = fake.TXN, times = 4, action = "pass_then_close" }) -- libcurl repeats some by itself
    assert.are.equal("CONNECT", code_of(other:lock(0)))
    proxy:clear()
    gone(old)
    assert(third:lock(helper.seconds(5)))
    assert.are_not.equal(old, third:session())
    helper.eventually(function() return not holder_of(other:key()) end)
  end)

  it("that is retired is destroyed though the first tries are refused", function()
    assert(lock:lock(helper.seconds(5)))
    local old = lock:session()
    proxy:rule({ match = fake.DESTROY, times = 2, status = 500, body = "No cluster leader" })
    proxy:rule({ match = fake.TXN, times = 1, action = "late" })
    assert.is_nil((other:lock(0)))
    assert(lock:unlock(helper.seconds(5)))
    gone(old)
    assert.is_true(proxy:count(fake.DESTROY) >= 3)
  end)

  it("is kept when a lock was not carried out for sure", function()
    assert(lock:lock(helper.seconds(5)))
    for _, refusal in ipairs({ { status = 429, body = "rate limit exceeded" }, { status = 503,
      body = "rate limit exceeded for operation that can only be performed by the leader, try again later" } }) do
      proxy:rule(fake.on(fake.TXN, refusal, { times = 1 }))
      assert.are.equal("HTTP", code_of(other:lock(0)))
    end
    assert(third:lock(helper.seconds(5)))
    assert.are.equal(lock:session(), third:session())
    assert.are.equal(1, proxy:count(fake.CREATE))
  end)

  it("is retired when an unlock is refused for longer than a lease", function()
    client = helper.client({ address = proxy:address(), timeout = 3, session = { ttl = "60s", lock_delay = "6s" } })
    lock, other, third = assert(client:lock(key)), assert(client:lock(key .. "/2")), assert(client:lock(key .. "/3"))
    assert(lock:lock(helper.seconds(5)))
    assert(other:lock(helper.seconds(5)))
    local old = lock:session()
    proxy:rule({ match = fake.TXN, status = 403, body = "Permission denied" })
    assert.are.equal("DENIED", code_of(lock:unlock(helper.seconds(10))))
    proxy:clear()
    assert(third:lock(helper.seconds(5)))
    assert.are_not.equal(old, third:session())
    assert.is_true(other:held())
    assert(other:unlock(helper.seconds(5)))
    gone(old)
    assert.is_nil(holder_of(lock:key()))
  end)
end)

describe("a session of a server whose index goes back", function()
  local server, client
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  -- As after a snapshot has been restored: the key is as it was at that index.
  local function held_at(index, session)
    local answer = fake.pair(session or "another", tostring(index))
    answer.body = answer.body:gsub("\"ModifyIndex\":%d+", "\"ModifyIndex\":" .. index)
    return answer
  end

  it("is retired: what is held stays held, and new acquires get a fresh one", function()
    local lock, waiter, other = assert(client:lock("k")), assert(client:lock("w")), assert(client:lock("other"))
    assert(lock:lock(30))
    assert.are.equal(fake.id(1), lock:session())
    server:rule({ first = true, match = fake.POLL, action = "stall" })
    server:rule(fake.on(fake.KEY .. "w.*index=", held_at(7), { first = true, times = 1 }))
    server:rule(fake.on(fake.KEY .. "w$", held_at(50), { first = true, times = 1 }))
    server:rule(fake.on(fake.KEY .. "w$", held_at(7)))
    local op = assert(waiter:start_lock())
    assert(server:wait_for(fake.KEY .. "w", 3, helper.seconds(5)))
    helper.eventually(function()
      assert(other:lock(30))
      local session = other:session()
      assert(other:unlock(30))
      return session == fake.id(2), session
    end)
    assert.is_true(lock:held())
    assert.are.equal(0, server:count(fake.DESTROY .. fake.id(1):gsub("%-", "%%-")))
    op:cancel() -- it may have chosen its session before
    assert.are.equal("CANCELED", code_of(result(op)))
    assert(lock:unlock(30))
    assert(server:wait_for(fake.DESTROY .. fake.id(1):gsub("%-", "%%-"), 1, helper.seconds(5)))
  end)

  it("is not asked over and over for what became of a try whose index it has left behind", function()
    local lock = assert(client:lock("k"))
    server:rule(fake.on(fake.KEY, held_at(40), { first = true }))
    server:rule(fake.on(fake.KEY, held_at(1000, ""), { first = true, times = 1 }))
    server:rule(fake.on(fake.TXN, fake.refusal({ "failed to lock key \"k\", lock is already held" }, { 1 }),
      { first = true }))
    server:rule({ first = true, match = fake.TXN, times = 1, status = 500, body = "No cluster leader" })
    assert.is_nil((lock:lock(0)))
    server:forget()
    local start = socket.gettime()
    server:wait_for("/v1/[kt]", MANY, 1)
    local count = server:count("/v1/[kt]")
    assert.is_true(count < MANY * math.max(socket.gettime() - start, 1), count .. " requests")
  end)
end)
