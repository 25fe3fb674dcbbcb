-- client:with_lock, and locks that go out of use without an unlock.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local code_of, holder = agent.code_of, agent.holder

describe("with_lock", function()
  local client, key
  before_each(function()
    client = helper.client({ session = { lock_delay = 0 } })
    key = helper.unique_key()
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function pack(...)
    return { n = select("#", ...), ... }
  end

  it("holds the lock while the function runs, answers what that answers, and gives the lock back", function()
    local results = pack(client:with_lock(key, function(lock)
      assert.is_true(lock:held())
      assert.are.equal(lock:session(), holder(key))
      return nil, "two", nil
    end))
    assert.are.same({ n = 3, [2] = "two" }, results)
    assert.is_nil(holder(key))
  end)

  it("takes a lock's options and a time to wait", function()
    local value = client:with_lock({ key = key, value = "here", session_ttl = "20s" }, "30s", function(lock)
      assert.are.equal("20000ms", consul.session.info(lock:session()).TTL)
      return consul.kv.get(key).Value
    end)
    assert.are.equal("here", value)
  end)

  it("raises the function's error as it is, and gives the lock back", function()
    local mistake = { "a table" }
    local ok, raised = pcall(client.with_lock, client, key, function() error(mistake) end)
    assert.is_false(ok)
    assert.are.equal(mistake, raised)
    assert.is_nil(holder(key))
  end)

  it("does not call the function when the lock is not to be had", function()
    local session = agent.occupy(key)
    local called = false
    assert.are.equal("TIMEOUT", code_of(client:with_lock(key, 0, function() called = true end)))
    assert.are.equal("TIMEOUT", code_of(client:with_lock(key, 0.05, function() called = true end)))
    assert.is_false(called)
    assert.are.equal(session, holder(key))
  end)

  it("answers LOST, and then what the function answered, when the lock was lost under it", function()
    local results = pack(client:with_lock(key, function(lock)
      consul.session.destroy(lock:session())
      assert(lock:wait_lost(helper.seconds(5)))
      return "done", 2
    end))
    assert.are.equal(5, results.n)
    assert.are.equal("LOST", code_of(results[1], results[2], results[3]))
    assert.are.same({ "done", 2 }, { results[4], results[5] })
  end)

  it("answers LOST when only the unlock finds that somebody else has the lock", function()
    local other
    assert.are.equal("LOST", code_of(client:with_lock(key, function(lock)
      agent.vacate(key, lock:session())
      other = agent.occupy(key)
      return "done"
    end)))
    assert.are.equal(other, holder(key))
  end)

  it("answers what the function answered when the session has ended unseen, but the lease stands", function()
    local proxy = helper.proxy()
    proxy:rule({ match = "^PUT /v1/session/renew/", status = 500, body = "No cluster leader" })
    proxy:rule({ match = "^GET /v1/session/info/", action = "stall" })
    client = helper.client({ address = proxy:address(), session = { lock_delay = "20s" } })
    assert.are.equal("done", (client:with_lock(key, function(lock)
      consul.session.destroy(lock:session())
      assert.is_true(lock:held())
      proxy:clear()
      return "done"
    end)))
  end)

  it("leaves a function the freedom to unlock by itself", function()
    assert.are.equal("done", client:with_lock(key, function(lock)
      assert(lock:unlock())
      return "done"
    end))
    assert.is_nil(holder(key))
  end)

  it("answers CLOSED when the function closed the client", function()
    assert.are.equal("CLOSED", code_of(client:with_lock(key, function() client:close() end)))
    assert.is_nil(holder(key))
  end)
end)

describe("a held lock that nobody refers to any more", function()
  local client, key
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  -- In a function of its own, so that no register keeps the lock.
  local function take_and_drop()
    assert(assert(client:lock(key)):lock())
    assert.is_string(holder(key))
  end

  it("is given back when it is collected", function()
    take_and_drop()
    helper.eventually(function()
      collectgarbage()
      return agent.is_free(key)()
    end)
    assert.are.equal(0, client:stats().locks_held)
    assert.is_true(client:lock(key):lock(helper.seconds(5)))
  end)

  if _VERSION == "Lua 5.4" then
    -- load: to the other Luas this is no syntax.
    local scope = load("local lock, inside = ... do local held <close> = lock inside() end")

    it("is given back at the end of its scope", function()
      local lock = assert(client:lock(key))
      assert(lock:lock())
      scope(lock, function() assert.are.equal(lock:session(), holder(key)) end)
      assert.is_false((lock:held()))
      helper.eventually(agent.is_free(key))
    end)

    it("is given back when an error leaves its scope", function()
      local lock = assert(client:lock(key))
      assert(lock:lock())
      assert.has_error(function() scope(lock, function() error("on purpose", 0) end) end, "on purpose")
      helper.eventually(agent.is_free(key))
      assert.is_true(lock:lock(helper.seconds(5)))
    end)

    it("closes the client that goes out of scope", function()
      local lock = assert(client:lock(key))
      assert(lock:lock())
      scope(client, function() assert.is_true(lock:held()) end)
      assert.is_nil(holder(key))
      assert.are.equal("CLOSED", code_of(client:lock(key)))
    end)
  end
end)
