-- A lock with max_hold ends its holds by itself: here at the moment by the clock, and at the server right after that,
-- without a lock-delay, since it is given back by who still has it.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local code_of, holder, result = agent.code_of, agent.holder, fake.result

-- Computes until that time, so that nobody waits in the core.
local function burn(till)
  while core.now() < till do end -- luacheck: ignore
end

describe("max_hold", function()
  local client, key
  before_each(function()
    client = helper.client()
    key = helper.unique_key()
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function lock_for(seconds, options)
    local given = { key = key, max_hold = seconds }
    for name, value in pairs(options or {}) do given[name] = value end
    return assert(client:lock(given))
  end

  it("ends a hold with the reason expired, and gives the key back without a lock-delay", function()
    local lock, other = lock_for("300ms"), assert(helper.client():lock(key))
    assert(lock:lock(helper.seconds(5)))
    local session = lock:session()
    assert.are.equal(session, holder(key))
    assert.is_true(lock:remaining() <= 0.3)
    assert.are.equal("expired", lock:wait_lost(helper.seconds(5)))
    assert.are.same({ false, "expired" }, { lock:held() })
    assert.are.same({ true, "expired" }, { lock:lost() })
    assert.is_nil(lock:token())
    assert.are.equal(0, lock:remaining())
    assert.are.equal("LOST", code_of(lock:unlock()))
    assert.is_true(other:lock(helper.seconds(5)))
    assert.is_table(consul.session.info(session), "the session has not been needed to end")
    assert.are.equal(1, client:stats().losses.expired)
    assert.are.equal(1, client:stats().released)
  end)

  it("is over at the call, by the clock, whatever the thread is doing", function()
    local lock = lock_for("50ms")
    for _ = 1, 5 do
      assert(lock:lock(helper.seconds(5)))
      local till = core.now() + lock:remaining()
      burn(till + 0.001)
      assert.are.same({ false, "expired" }, { lock:held() })
    end
  end)

  it("is kept by the core's thread while Lua computes", function()
    local lock = lock_for("50ms")
    assert(lock:lock(helper.seconds(5)))
    helper.eventually(function()
      burn(core.now() + 0.02)
      return not holder(key)
    end)
    assert.are.same({ true, "expired" }, { lock:lost() })
  end)

  it("does not last from one hold to the next", function()
    local lock = lock_for(helper.seconds(60))
    for _ = 1, 3 do
      assert(lock:lock(helper.seconds(5)))
      assert.is_true(lock:remaining() > 1)
      assert.is_true(lock:unlock(helper.seconds(5)))
      assert.is_false(lock:lost())
    end
    local short = lock_for("50ms")
    for _ = 1, 3 do
      assert(short:lock(helper.seconds(5)))
      assert.are.equal("expired", short:wait_lost(helper.seconds(5)))
      assert.is_true(short:lock(helper.seconds(5)), "a new hold begins, with a time of its own")
      short:unlock(helper.seconds(5))
    end
  end)

  it("aborts what the lock guards", function()
    local server = helper.server()
    server:rule({ action = "stall" })
    local lock = lock_for("300ms")
    assert(lock:lock(helper.seconds(5)))
    local response, message, code = lock:request({ url = server:url() .. "/", timeout = helper.seconds(20) })
    assert.is_nil(response)
    assert.are.equal("LOST", code)
    assert.matches("expired", message, 1, true)
    assert.are.equal("LOST", code_of(lock:request({ url = server:url() .. "/" })))
  end)

  it("hands the key to the next of the same client", function()
    local lock, other = lock_for("200ms"), assert(client:lock(key))
    assert(lock:lock(helper.seconds(5)))
    assert.is_true(other:lock(helper.seconds(5)))
    assert.are.same({ true, "expired" }, { lock:lost() })
  end)

  it("deletes an ephemeral key, and ends an own session", function()
    local lock = lock_for("200ms", { ephemeral = true, session_ttl = "60s" })
    assert(lock:lock(helper.seconds(5)))
    local session = lock:session()
    assert.are.equal("expired", lock:wait_lost(helper.seconds(5)))
    helper.eventually(function() return not consul.kv.get(key) and not consul.session.info(session) end)
  end)

  it("leaves a session made elsewhere as it is", function()
    local session = helper.session({ TTL = "60s" })
    local lock = lock_for("200ms", { session = session })
    assert(lock:lock(helper.seconds(5)))
    assert.are.equal("expired", lock:wait_lost(helper.seconds(5)))
    helper.eventually(agent.is_free(key))
    assert.is_table(consul.session.info(session))
  end)

  it("answers with_lock LOST, and what the function returned", function()
    local value, message, code, returned = client:with_lock({ key = key, max_hold = "50ms" }, function(lock)
      lock:wait_lost(helper.seconds(5))
      return "done"
    end)
    assert.are.same({ "LOST", "done" }, { code, returned })
    assert.is_nil(value)
    assert.matches("expired", message, 1, true)
  end)

  it("wakes a coroutine of the loop that waits for the loss", function()
    local reason
    client = helper.client({ scheduler = "loop" })
    loop.run(function()
      local lock = lock_for("100ms")
      assert(lock:lock(helper.seconds(5)))
      reason = lock:wait_lost(helper.seconds(5))
    end)
    assert.are.equal("expired", reason)
  end)

  it("goes on giving back while Consul cannot be reached, and the next hold waits for that", function()
    local proxy = helper.proxy()
    client = helper.client({ address = proxy:address() })
    local lock = lock_for("200ms")
    assert(lock:lock(helper.seconds(5)))
    proxy:rule({ match = fake.TXN, times = 2, action = "reset" })
    assert.are.equal("expired", lock:wait_lost(helper.seconds(5)))
    helper.eventually(agent.is_free(key))
    assert.is_true(lock:lock(helper.seconds(5)))
  end)

  it("is over when the client closes first, or is dropped", function()
    local lock = lock_for(helper.seconds(60))
    assert(lock:lock(helper.seconds(5)))
    local op = assert(lock:start_unlock(helper.seconds(5)))
    assert.is_true(result(op, 5))
    assert(lock:lock(helper.seconds(5)))
    assert.is_true(client:close())
    assert.are.same({ false, "closed" }, { lock:held() })
    assert.is_nil(holder(key))
  end)

  it("is a duration above zero", function()
    for _, bad in ipairs({ 0, -1, "x" }) do
      local ok, message = pcall(lock_for, bad)
      assert.is_false(ok)
      assert.matches("max_hold", message, 1, true)
    end
  end)
end)
