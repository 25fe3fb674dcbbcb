-- Several want one key: in clients of their own, and in one client.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local code_of, holder = agent.code_of, agent.holder

local function loop_client(options)
  local given = { scheduler = "loop" }
  for name, value in pairs(options or {}) do given[name] = value end
  return helper.client(given)
end

describe("contenders in clients of their own", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  -- Go: Lock_Contend
  it("all get the lock, one at a time (behaviour 4)", function()
    local inside, turns = 0, 0
    local function contend()
      local lock = assert(loop_client():lock(key))
      assert(lock:lock(helper.seconds(15)))
      inside, turns = inside + 1, turns + 1
      assert.are.equal(1, inside)
      assert.are.equal(lock:session(), holder(key))
      loop.sleep(0.02)
      inside = inside - 1
      assert(lock:unlock())
    end
    loop.run(function()
      for _ = 1, 3 do loop.spawn(contend) end
    end)
    assert.are.equal(3, turns)
    assert.is_nil(holder(key))
  end)

  -- Go: Lock_OneShot
  it("wait as long as they were told, and get it when it is free (behaviour 9)", function()
    local first, second = assert(helper.client():lock(key)), assert(helper.client():lock(key))
    assert(first:lock())
    local start = core.now()
    assert.are.equal("TIMEOUT", code_of(second:lock("250ms")))
    local took = core.now() - start
    assert.is_true(took >= 0.249) -- it counts in whole milliseconds
    assert.is_true(took < 8) -- and not when its poll of 10 s comes back
    assert(first:unlock())
    assert.is_true(second:lock("30s"))
    assert.are.equal(second:session(), holder(key))
  end)

  it("get it when the holder's session ends", function()
    local session = agent.occupy(key)
    local lock = assert(loop_client():lock(key))
    loop.run(function()
      loop.spawn(function() assert(lock:lock(helper.seconds(10))) end)
      consul.session.destroy(session)
    end)
    assert.are.equal(lock:session(), holder(key))
  end)

  it("get it when the key is deleted", function()
    agent.occupy(key)
    local proxy = helper.proxy()
    local lock = assert(loop_client({ address = proxy:address() }):lock(key))
    loop.run(function()
      loop.spawn(function() assert(lock:lock(helper.seconds(10))) end)
      helper.eventually(function() return proxy:count(fake.POLL) > 0 end)
      consul.kv.delete(key)
    end)
    assert.are.equal(lock:session(), holder(key))
  end)
end)

describe("contenders in one client", function()
  local proxy, client, key, first
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = loop_client({ address = proxy:address() })
    first = assert(client:lock(key))
  end)
  after_each(function()
    client, first = nil, nil
    helper.finish()
  end)

  -- Starts n coroutines that lock key, each once the one before it waits. Answers the list of those that had it.
  local function queue_up(n)
    local order = {}
    for i = 1, n do
      local lock = assert(client:lock(key))
      loop.spawn(function()
        assert(lock:lock(helper.seconds(15)))
        order[#order + 1] = i
        assert.are.equal(lock:session(), holder(key))
        assert(lock:unlock())
      end)
      loop.sleep(0)
    end
    return order
  end

  it("are served first come, first served", function()
    local order
    assert(first:lock())
    loop.run(function()
      order = queue_up(5)
      assert(first:unlock())
    end)
    assert.are.same({ 1, 2, 3, 4, 5 }, order)
    assert.is_nil(holder(key))
  end)

  it("are told at once that another object of the client has it", function()
    assert(first:lock())
    assert.are.equal("TIMEOUT", code_of(client:lock(key):lock(0)))
    assert.are.equal("TIMEOUT", code_of(client:lock(key):lock(0.05)))
    assert.is_true(first:held())
  end)

  it("share one long poll while somebody else has the lock", function()
    local order
    local session = agent.occupy(key)
    loop.run(function()
      order = queue_up(5)
      helper.eventually(function() return proxy:count(fake.POLL) > 0 end)
      agent.vacate(key, session)
    end)
    assert.are.same({ 1, 2, 3, 4, 5 }, order)
    assert.are.equal(1, proxy:count(fake.POLL))
  end)

  it("take turns with contenders of another client", function()
    local other = assert(loop_client():lock(key))
    local had
    assert(first:lock())
    loop.run(function()
      loop.spawn(function()
        assert(other:lock(helper.seconds(15)))
        had = true
        assert(other:unlock())
      end)
      local order = queue_up(3)
      assert(first:unlock())
      helper.eventually(function() return had and #order == 3 end, 15)
    end)
    assert.is_nil(holder(key))
  end)

  it("get the lock when the one before them is dropped", function()
    assert(first:lock())
    loop.run(function()
      local order = queue_up(1)
      first = nil
      helper.eventually(function()
        collectgarbage()
        return #order == 1
      end)
    end)
  end)

  it("get the lock when the one before them gives up", function()
    local session = agent.occupy(key)
    local impatient, patient = assert(client:lock(key)), assert(client:lock(key))
    loop.run(function()
      local code
      loop.spawn(function() code = code_of(impatient:lock(0.1)) end)
      loop.spawn(function() assert(patient:lock(helper.seconds(15))) end)
      helper.eventually(function()
        return code and proxy:count(fake.POLL) > proxy:count(fake.POLL, "gone") + proxy:count(fake.POLL, "answered")
      end)
      assert.are.equal("TIMEOUT", code)
      consul.session.destroy(session)
    end)
    assert.are.equal(patient:session(), holder(key))
  end)
end)

-- Go: Lock_ReclaimLock, where both are of one client and so the second one gets the lock at once.
describe("two locks with one session that was made elsewhere", function()
  local session, key
  before_each(function()
    session = helper.session({ LockDelay = "0s" })
    key = helper.unique_key()
  end)
  after_each(helper.finish)

  it("wait for each other in one client", function()
    local client = loop_client()
    local first = assert(client:lock({ key = key, session = session }))
    local second = assert(client:lock({ key = key, session = session }))
    assert(first:lock())
    assert.are.equal("TIMEOUT", code_of(second:lock(0)))
    loop.run(function()
      loop.spawn(function() assert(second:lock(helper.seconds(10))) end)
      loop.sleep(0)
      assert.is_true(first:held())
      assert(first:unlock())
    end)
    assert.is_true(second:held())
    assert.are.equal(session, holder(key))
  end)

  it("both have it in two clients, until one of them gives it back (behaviour 7)", function()
    local first = assert(helper.client():lock({ key = key, session = session, monitor = "key" }))
    local second = assert(helper.client():lock({ key = key, session = session }))
    assert(first:lock())
    assert(second:lock(helper.seconds(5)))
    assert.is_true(second:token() > first:token()) -- no token is given twice
    assert.is_true(first:held())
    assert.are.equal(session, holder(key))
    assert(second:unlock())
    assert.is_string(first:wait_lost(helper.seconds(5)))
    assert.is_true((first:lost()))
    assert.are.equal("LOST", code_of(first:unlock()))
  end)
end)
