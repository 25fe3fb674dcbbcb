-- A key that changes its use between two holds of one lock. What the client knew of it is knowledge of then: a
-- configuration that somebody has written there meanwhile is not wiped.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local code_of = agent.code_of

describe("a key that is used for something else after an unlock", function()
  local client, key, lock
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
    lock = assert(client:lock(key))
    assert(lock:lock(helper.seconds(5)))
    assert(lock:unlock(helper.seconds(5)))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function refuses(before)
    assert.are.equal("CONFLICT", code_of(lock:lock(helper.seconds(5))))
    assert.are.equal("CONFLICT", code_of(lock:lock(0)))
    assert.are.equal("CONFLICT", code_of(assert(client:lock(key)):lock(helper.seconds(5))))
    assert.is_false(lock:held())
    assert.are.equal(before, select(2, consul.kv.get(key)))
  end

  local function configure(flags)
    assert(consul.kv.put(key, "a configuration", { flags = flags }))
    return select(2, consul.kv.get(key))
  end

  it("is CONFLICT to the same object, and as it was, when it was destroyed in between", function()
    assert(lock:destroy(helper.seconds(5)))
    refuses(configure("7"))
  end)

  it("is CONFLICT to the same object, and as it was, when it was written over", function()
    refuses(configure("7"))
  end)

  it("is CONFLICT, and as it was, when it was deleted and made by somebody else", function()
    consul.kv.delete(key)
    refuses(configure(agent.SEMAPHORE_FLAGS))
  end)

  it("can be a lock's again once it is gone", function()
    assert(lock:destroy(helper.seconds(5)))
    refuses(configure("7"))
    consul.kv.delete(key)
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.are.equal(lock:session(), agent.holder(key))
  end)

  it("has another value when somebody wrote one with a lock's flags, and is taken all the same", function()
    assert(consul.kv.put(key, "a note", { flags = agent.LOCK_FLAGS }))
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.are.equal(lock:session(), agent.holder(key))
    assert.are.equal(consul.kv.get(key).ModifyIndex, lock:token())
  end)
end)

describe("a key that is used for something else while a lock waits for it", function()
  after_each(helper.finish)

  it("is CONFLICT to whoever waits, and as it was", function()
    local key = helper.unique_key()
    local session = agent.occupy(key)
    local lock = assert(helper.client():lock(key))
    local op = assert(lock:start_lock())
    assert.is_nil(op:wait(0.1))
    assert(consul.kv.put(key, "a configuration", { release = session, flags = "7" }))
    assert.is_true(op:wait(helper.seconds(5)))
    assert.are.equal("CONFLICT", code_of(op:result()))
    assert.are.same({ "a configuration", "7" }, { consul.kv.get(key).Value, consul.kv.get(key).Flags })
  end)
end)
