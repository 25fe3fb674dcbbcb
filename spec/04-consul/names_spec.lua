-- Consul puts the key into what it says of it. A key that reads like another message is a key all the same: nobody
-- takes its name for the server's words.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local json = require("dkjson")

local code_of = agent.code_of

local NAMES = {
  "invalid session", "Permission denied", "ACL not found", "already held", "lock is already held", "doesn't exist",
  "due to lock delay", "current session", "failed index check for key", "failed session check", "lock isn't held",
  "rate limit exceeded", "a \"quoted\" invalid session", "\" doesn't exist",
  "key \"k\" doesn't exist, Permission denied", "back\\slash \\\" already held",
}

describe("a key with the name", function()
  local client, prefix, locks
  before_each(function()
    client = helper.client({ session = { ttl = "3s" } })
    prefix = helper.unique_key("p")
    locks = {}
    for i, name in ipairs(NAMES) do locks[i] = assert(client:lock(prefix .. "/" .. name)) end
  end)
  after_each(function()
    client, locks = nil, nil
    helper.finish()
  end)

  -- Goes by transactions, which have no trouble with any of the names.
  local function operate(verb, key, session)
    local operation = { KV = { Verb = verb, Key = key, Value = verb ~= "delete" and "" or nil, Session = session } }
    local text = json.encode({ operation })
    if session then text = text:gsub("\"KV\":{", "\"KV\":{\"Flags\":" .. agent.LOCK_FLAGS .. ",") end
    local status, answer = consul.request("PUT", "/v1/txn", nil, text)
    assert.are.equal(200, status, answer)
  end

  local function take_all()
    for _, lock in ipairs(locks) do assert.is_true(lock:lock(helper.seconds(5)), lock:key()) end
  end

  local function each_answers(expected, fn)
    for i, lock in ipairs(locks) do
      assert.are.same({ NAMES[i], expected }, { NAMES[i], fn(lock) })
    end
  end

  it("… is taken, given back and destroyed like any other", function()
    take_all()
    each_answers(true, function(lock) return (lock:unlock(helper.seconds(5))) end)
    each_answers(true, function(lock) return (lock:lock(helper.seconds(5))) end)
    each_answers(true, function(lock) return (lock:unlock(helper.seconds(5))) end)
    each_answers(true, function(lock) return (lock:destroy(helper.seconds(5))) end)
  end)

  it("… is TIMEOUT while somebody else holds it, and taken when it is free", function()
    local session = helper.session({ LockDelay = "0s" })
    for _, lock in ipairs(locks) do operate("lock", lock:key(), session) end
    each_answers("TIMEOUT", function(lock) return code_of(lock:lock(0)) end)
    each_answers("TIMEOUT", function(lock) return code_of(lock:lock(0.05)) end)
    local ops = {}
    for i, lock in ipairs(locks) do ops[i] = assert(lock:start_lock()) end
    for _, lock in ipairs(locks) do operate("unlock", lock:key(), session) end
    for i, op in ipairs(ops) do
      assert.is_true(op:wait(helper.seconds(5)), NAMES[i])
      assert.is_true((op:result()), NAMES[i])
    end
    assert.are.equal(1, client:stats().sessions)
  end)

  it("… is TIMEOUT in a lock-delay, and taken after it, in the same session", function()
    local session = helper.session({ LockDelay = "5s" })
    for _, lock in ipairs(locks) do operate("lock", lock:key(), session) end
    consul.session.destroy(session)
    local first = locks[1]
    assert.are.equal("TIMEOUT", code_of(first:lock(0)))
    local ops = {}
    for i, lock in ipairs(locks) do ops[i] = assert(lock:start_lock()) end
    for i, op in ipairs(ops) do
      assert.is_true(op:wait(helper.seconds(8)), NAMES[i])
      assert.is_true((op:result()), NAMES[i])
      assert.are.equal(first:session(), locks[i]:session())
    end
  end)

  it("… is lost as \"key\" when it is deleted", function()
    take_all()
    for _, lock in ipairs(locks) do operate("delete", lock:key()) end
    each_answers("key", function(lock) return (lock:wait_lost(helper.seconds(5))) end)
  end)

  it("… is lost as \"stolen\" when somebody else takes it", function()
    take_all()
    local thief = helper.session({ LockDelay = "0s" })
    for _, lock in ipairs(locks) do
      operate("unlock", lock:key(), lock:session())
      operate("lock", lock:key(), thief)
    end
    each_answers("stolen", function(lock) return (lock:wait_lost(helper.seconds(5))) end)
  end)

  it("… is LOST to an unlock that finds it deleted or taken", function()
    client:close()
    client = helper.client() -- whose audit comes later
    for i, name in ipairs(NAMES) do locks[i] = assert(client:lock(prefix .. "/" .. name)) end
    local thief = helper.session({ LockDelay = "0s" })
    take_all()
    for i, lock in ipairs(locks) do
      operate(i % 2 == 0 and "delete" or "unlock", lock:key(), i % 2 ~= 0 and lock:session() or nil)
      if i % 4 == 1 then operate("lock", lock:key(), thief) end
    end
    each_answers("LOST", function(lock) return code_of(lock:unlock(helper.seconds(5))) end)
  end)
end)
