-- Locks whose key is there only while they are held: giving one back deletes its key, on the condition of the index
-- like every write. And keys with flags other than a lock's, which is how semaphores and the like are told from locks.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local locks = require("holdfast.lock")

local code_of, holder, result = agent.code_of, agent.holder, fake.result

local RW = "9007199254740995" -- no double holds it

local function gone(key)
  return function() return not consul.kv.get(key), "the key is there" end
end

describe("an ephemeral lock", function()
  local client, key, lock
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
    lock = assert(client:lock({ key = key, ephemeral = true }))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  it("has a key from lock to unlock only, and rising tokens", function()
    local last = 0
    for _ = 1, 3 do
      assert.is_true(lock:lock(helper.seconds(5)))
      assert.are.equal(lock:session(), holder(key))
      assert.is_true(lock:token() > last)
      last = lock:token()
      assert.is_true(lock:unlock(helper.seconds(5)))
      assert.is_nil(consul.kv.get(key))
      assert.are.same({ false, "released" }, { lock:held() })
    end
  end)

  it("costs two requests a round, as any lock", function()
    assert(lock:lock(helper.seconds(5)))
    assert(lock:unlock(helper.seconds(5)))
    local server = helper.proxy()
    local proxied = helper.client({ address = server:address() })
    local mine = assert(proxied:lock({ key = key, ephemeral = true }))
    assert(mine:lock(helper.seconds(5)) and mine:unlock(helper.seconds(5)))
    local before = server:count(fake.TXN) + server:count(fake.KEY)
    for _ = 1, 5 do assert(mine:lock(helper.seconds(5)) and mine:unlock(helper.seconds(5))) end
    assert.are.equal(10, server:count(fake.TXN) + server:count(fake.KEY) - before)
  end)

  it("goes from holder to holder while both wait for it", function()
    local other = assert(helper.client():lock({ key = key, ephemeral = true }))
    assert(lock:lock(helper.seconds(5)))
    for _ = 1, 3 do
      local op = assert(other:start_lock())
      assert(lock:unlock(helper.seconds(5)))
      assert.is_true(result(op, 10))
      assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
      op = assert(lock:start_lock())
      assert.is_true(other:unlock(helper.seconds(5)))
      assert.is_true(result(op, 10))
    end
    assert(lock:unlock(helper.seconds(5)))
    assert.is_nil(consul.kv.get(key))
  end)

  it("deletes its key when it is dropped", function()
    assert(lock:lock(helper.seconds(5)))
    lock = nil
    collectgarbage()
    collectgarbage()
    helper.eventually(gone(key))
  end)

  it("deletes its key when the client closes", function()
    assert(lock:lock(helper.seconds(5)))
    assert.is_true(client:close())
    assert.is_nil(consul.kv.get(key))
  end)

  it("is LOST by an unlock when the key has been deleted meanwhile", function()
    assert(lock:lock(helper.seconds(5)))
    consul.kv.delete(key)
    assert.are.equal("LOST", code_of(lock:unlock(helper.seconds(5))))
  end)

  it("does not delete the key of the next holder", function()
    assert(lock:lock(helper.seconds(5)))
    consul.kv.delete(key)
    local session = agent.occupy(key)
    assert.are.equal("LOST", code_of(lock:unlock(helper.seconds(5))))
    assert.are.equal(session, holder(key))
  end)

  it("deletes the key although it was written to while it was held", function()
    assert(lock:lock(helper.seconds(5)))
    assert(consul.kv.put(key, "scribble", { flags = agent.LOCK_FLAGS }))
    assert.is_true(lock:unlock(helper.seconds(5)))
    assert.is_nil(consul.kv.get(key))
  end)

  it("leaves nothing behind when a lock with an own session gives it back", function()
    local own = assert(client:lock({ key = key, ephemeral = true, session_ttl = "60s" }))
    assert(own:lock(helper.seconds(5)))
    local id = own:session()
    assert.is_true(own:unlock(helper.seconds(5)))
    assert.is_nil(consul.kv.get(key))
    helper.eventually(function() return not consul.session.info(id) end)
  end)

  it("excludes a lock that is not ephemeral, and is excluded by it", function()
    local plain = assert(helper.client():lock(key))
    assert(plain:lock(helper.seconds(5)))
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    assert(plain:unlock(helper.seconds(5)))
    assert(lock:lock(helper.seconds(5)))
    assert.are.equal("TIMEOUT", code_of(plain:lock(0)))
  end)
end)

describe("an ephemeral lock in trouble", function()
  local server, client, lock
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address(), session = { ttl = "4s", lock_delay = "60s" } })
    lock = assert(client:lock({ key = "k", ephemeral = true }))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function present()
    return consul.at({ address = server:address() }, function() return consul.kv.get("k") end)
  end

  it("answers true when the answer to the delete is lost, and what carries it out again finds nothing", function()
    assert(lock:lock(helper.seconds(5)))
    server:rule({ first = true, match = fake.TXN, times = 1, action = "pass_then_reset" })
    assert.is_true(lock:unlock(helper.seconds(10)))
    assert.is_nil(present())
  end)

  it("is not freed by the delete of an earlier hold that comes once more", function()
    assert(lock:lock(helper.seconds(5)) and lock:unlock(helper.seconds(5)))
    local late = server:log(fake.TXN)
    late = late[#late].body
    assert.matches("delete-cas", late, 1, true)
    assert(lock:lock(helper.seconds(5)))
    consul.at({ address = server:address() }, function() consul.request("PUT", "/v1/txn", nil, late) end)
    assert.are.equal(lock:session(), present().Session)
    assert.is_true(lock:unlock(helper.seconds(5)))
  end)

  it("has its key deleted when a try that made it is carried out once more after the unlock", function()
    assert(lock:lock(helper.seconds(5)))
    local late = server:log(fake.TXN)[1].body
    assert.matches("check-not-exists", late, 1, true)
    assert(lock:unlock(helper.seconds(5)))
    consul.at({ address = server:address() }, function() consul.request("PUT", "/v1/txn", nil, late) end)
    assert.is_table(present())
    helper.eventually(function() return not present() end, 8)
  end)

  it("leaves no key when an acquire is cancelled in flight", function()
    server:rule({ first = true, match = fake.TXN, times = 1, action = "pass_then_stall" })
    local op = assert(lock:start_lock())
    helper.eventually(present)
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op, 8)))
    helper.eventually(function() return not present() end, 8)
  end)
end)

describe("a key's flags", function()
  local client, key
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function lock_with(flags, given)
    given = given or { key = key }
    return assert(locks.new(client, given, 1, { flags = flags }))
  end

  it("are 64 bits, to the last one (behaviour 68)", function()
    for _, flags in ipairs({ RW, agent.SEMAPHORE_FLAGS, "18446744073709551615" }) do
      local lock = lock_with(flags)
      assert(lock:lock(helper.seconds(5)))
      local _, text = consul.request("GET", "/v1/kv/" .. key)
      assert.are.equal(flags, text:match("\"Flags\": ?(%d+)"))
      assert(lock:unlock(helper.seconds(5)))
      assert(lock:lock(helper.seconds(5)), "what it has left is not its own")
      assert(lock:unlock(helper.seconds(5)))
      assert.is_true(lock:destroy(helper.seconds(5)))
    end
  end)

  it("make other kinds of use a CONFLICT, also right after this client's own", function()
    local rw, plain = lock_with(RW), assert(client:lock(key))
    assert(rw:lock(helper.seconds(5)) and rw:unlock(helper.seconds(5)))
    assert.are.equal("CONFLICT", code_of(plain:lock(0)))
    assert.are.equal("CONFLICT", code_of(plain:destroy(helper.seconds(5))))
    assert.is_true(rw:destroy(helper.seconds(5)))
    assert(plain:lock(helper.seconds(5)) and plain:unlock(helper.seconds(5)))
    assert.are.equal("CONFLICT", code_of(rw:lock(0)))
  end)

  it("are another's choice once the key is gone", function()
    local rw, plain = lock_with(RW, { key = key, ephemeral = true }), assert(client:lock(key))
    assert(rw:lock(helper.seconds(5)) and rw:unlock(helper.seconds(5)))
    assert.is_true(plain:lock(helper.seconds(5)))
  end)

  it("must be a number of 64 bits", function()
    for _, flags in ipairs({ "", "-1", "1x", "18446744073709551616", " 1" }) do
      local ok, message = pcall(lock_with, flags)
      assert.is_false(ok)
      assert.matches("flags", message, 1, true)
    end
    assert.are.equal(0, core.counters().ops)
  end)
end)
