-- A lock from the first lock:lock to the last unlock, as the agent sees it.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, holder = agent.code_of, agent.holder

describe("a lock", function()
  local client, key, lock
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
    lock = assert(client:lock(key))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- Go: Lock_LockUnlock
  it("is held from lock to unlock (behaviour 1)", function()
    assert.are.equal("NOT_HELD", code_of(lock:unlock()))
    assert.is_true(lock:lock())
    assert.is_true(lock:held())
    assert.are.equal("HELD", code_of(lock:lock()))
    assert.is_true(lock:held())
    assert.are.equal("TIMEOUT", code_of(lock:wait_lost(0)))
    assert.is_true(lock:unlock())
    assert.are.equal("NOT_HELD", code_of(lock:unlock()))
    assert.are.equal("released", lock:wait_lost(0))
    assert.are.same({ false, "released" }, { lock:held() })
    assert.is_false(lock:lost())
  end)

  it("belongs to its session on the server, and to nobody after unlock", function()
    assert(lock:lock())
    assert.are.equal(lock:session(), holder(key))
    assert(lock:unlock())
    assert.is_nil(holder(key))
    assert.is_table(consul.kv.get(key))
  end)

  it("can be taken again after unlock, under the same session", function()
    assert(lock:lock())
    local session = lock:session()
    assert(lock:unlock())
    assert(lock:lock())
    assert.are.equal(session, lock:session())
    assert.are.equal(session, holder(key))
  end)

  it("has the value it was given, byte for byte", function()
    lock = assert(client:lock({ key = key, value = "set by \0 sender\n1\255" }))
    assert(lock:lock())
    assert.are.equal("set by \0 sender\n1\255", consul.kv.get(key).Value)
  end)

  it("can have a key with characters that a URL has no room for", function()
    local odd = helper.unique_key("a b?c=d&e#f%20+ä/+")
    lock = assert(client:lock(odd))
    assert(lock:lock())
    assert.are.equal(lock:session(), holder(odd))
    assert(lock:unlock())
    assert(lock:destroy())
    assert.is_nil(consul.kv.get(odd))
  end)

  it("knows how long its lease lasts", function()
    assert.are.equal(0, lock:remaining())
    assert(lock:lock())
    local left = lock:remaining()
    assert.is_true(left > 15 and left < 25) -- the lock-delay
    assert(lock:unlock())
    assert.are.equal(0, lock:remaining())
  end)

  -- Go: Lock_Destroy
  it("is destroyed only when nobody holds it, and any number of times (behaviour 5)", function()
    local other = assert(helper.client():lock(key))
    assert(lock:lock())
    assert.are.equal("HELD", code_of(lock:destroy()))
    assert.are.equal("IN_USE", code_of(other:destroy()))
    assert.are.equal(lock:session(), holder(key))
    assert(lock:unlock())
    assert.is_true(other:destroy())
    assert.is_nil(consul.kv.get(key))
    assert.is_true(lock:destroy())
    assert.is_true(other:destroy(0))
  end)

  -- vitess#8309
  it("tells that time was up from success, and names the holder (behaviour 71)", function()
    local session = agent.occupy(key)
    for _, timeout in ipairs({ 0, "2500ms" }) do
      local ok, message, code = lock:lock(timeout)
      assert.is_nil(ok)
      assert.are.equal("TIMEOUT", code)
      assert.matches(key, message, 1, true)
      assert.matches("held", message, 1, true)
    end
    assert.is_false(lock:held())
    assert.is_false(lock:lost())
    assert.are.equal(session, holder(key))
  end)

  it("can be told to wait and to give back within a time", function()
    assert.is_true(lock:lock("30s"))
    assert.is_true(lock:unlock(30))
    assert.is_true(lock:destroy("30s"))
  end)
end)

describe("a key that is no lock's", function()
  local client, key, lock, before
  before_each(function()
    client = helper.client()
    key = helper.unique_key(".lock")
    lock = assert(client:lock(key))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function put(parameters)
    assert(consul.kv.put(key, "{\"Limit\":2,\"Holders\":{}}", parameters))
    before = select(2, consul.kv.get(key))
  end

  local function refuses()
    assert.are.equal("CONFLICT", code_of(lock:lock()))
    assert.are.equal("CONFLICT", code_of(lock:lock(0)))
    assert.are.equal("CONFLICT", code_of(lock:destroy()))
    assert.are.equal("CONFLICT", code_of(client:lock(key):lock(30)))
    assert.is_false(lock:held())
    assert.are.equal(before, select(2, consul.kv.get(key)))
  end

  -- Go: Lock_Conflict
  it("is left as it was when it is a semaphore's .lock (behaviour 6)", function()
    put({ flags = agent.SEMAPHORE_FLAGS })
    refuses()
  end)

  it("is left as it was when a session holds it", function()
    put({ flags = agent.SEMAPHORE_FLAGS, acquire = helper.session() })
    refuses()
  end)

  it("is left as it was when it has no flags", function()
    put()
    refuses()
  end)

  it("can be a lock's once it has been deleted", function()
    put({ flags = agent.SEMAPHORE_FLAGS })
    refuses()
    consul.kv.delete(key)
    assert(lock:lock())
    assert.are.equal(lock:session(), holder(key))
  end)
end)

describe("the flags of a lock", function()
  local FLAGS = agent.LOCK_FLAGS -- beyond 2^53: a double cannot have it
  local proxy, key, lock
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    lock = assert(helper.client({ address = proxy:address() }):lock(key))
  end)
  after_each(function()
    lock = nil
    helper.finish()
  end)

  it("are exact on the wire when it is taken and when it is given back", function()
    assert(lock:lock())
    assert(lock:unlock())
    for _, entry in ipairs(proxy:log(fake.TXN)) do assert.matches("\"Flags\":" .. FLAGS .. "[,}]", entry.body) end
    assert.are.equal(2, proxy:count(fake.TXN))
  end)

  it("are exact on the server, and read exactly (behaviour 68)", function()
    assert(lock:lock())
    assert.are.equal(FLAGS, consul.kv.get(key).Flags)
    assert(lock:unlock())
    assert.are.equal(FLAGS, consul.kv.get(key).Flags)
    assert(consul.kv.put(key, "", { flags = "3304740253564472345" }))
    lock = assert(helper.client():lock(key))
    assert.are.equal("CONFLICT", code_of(lock:lock()))
  end)
end)

describe("the fencing token", function()
  local client, key, lock
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
    lock = assert(client:lock(key))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  it("is the raft index of the acquisition, and nil when the lock is not held", function()
    assert.is_nil(lock:token())
    assert(lock:lock())
    assert.are.equal(consul.kv.get(key).ModifyIndex, lock:token())
    assert(lock:unlock())
    assert.is_nil(lock:token())
  end)

  it("is a whole number, and an integer where Lua has them", function()
    assert(lock:lock())
    assert.are.equal(0, lock:token() % 1)
    assert.is_true(tostring(lock:token()):find("^%d+$") ~= nil)
    assert.are.equal(math.type and "integer", math.type and math.type(lock:token()))
  end)

  it("rises from hold to hold, whoever holds it", function()
    local last = 0
    for i = 1, 6 do
      local mine = i % 2 == 0 and lock or assert(helper.client():lock(key))
      assert(mine:lock())
      assert.is_true(mine:token() > last)
      last = mine:token()
      assert(mine:unlock())
    end
  end)

  it("rises when the key was deleted in between", function()
    assert(lock:lock())
    local last = lock:token()
    assert(lock:unlock())
    assert(lock:destroy())
    assert(lock:lock())
    assert.is_true(lock:token() > last)
  end)
end)
