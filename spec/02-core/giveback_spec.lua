-- What is given back is given back until the server has answered or the lease is over: no refusal of a moment, such as
-- a token that is being rotated, leaves a key with a session that lives on.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, result = fake.code_of, fake.result

local holder_of = agent.holder

local function freed(key)
  helper.eventually(function() return not holder_of(key), tostring(holder_of(key)) .. " holds it" end, 8)
end

local REFUSALS = {
  { name = "a 403", status = 403, body = "Permission denied" },
  { name = "a 403 of a token that is not known any more", status = 403, body = "ACL not found" },
  { name = "a gateway's 404", status = 404, body = "no such host" },
  { name = "Permission denied in the transaction", refusal = true },
}

describe("giving back through a proxy", function()
  local proxy, client, key, lock
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), session = { ttl = "60s" } })
    lock = assert(client:lock(key))
  end)
  after_each(function()
    proxy:clear()
    client, lock = nil, nil
    helper.finish()
  end)

  local function rule_of(refusal, extra)
    if refusal.refusal then return fake.on(fake.TXN, fake.refusal({ "Permission denied" }), extra) end
    return fake.on(fake.TXN, { status = refusal.status, body = refusal.body }, extra)
  end

  for _, refusal in ipairs(REFUSALS) do
    it(("goes on after %s to an unlock, which answers true"):format(refusal.name), function()
      assert(lock:lock(helper.seconds(5)))
      proxy:rule(rule_of(refusal, { times = 1 }))
      local ok, message, code = lock:unlock(helper.seconds(10))
      assert.is_true(ok, tostring(code) .. ": " .. tostring(message))
      assert.is_nil(holder_of(key))
      assert.is_false(lock:lost())
    end)

    it(("goes on after %s when an acquire is cancelled in flight"):format(refusal.name), function()
      proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_stall" })
      proxy:rule(rule_of(refusal, { times = 1 }))
      local op = assert(lock:start_lock())
      helper.eventually(function() return holder_of(key) end)
      lock:cancel()
      local code = code_of(result(op, 8))
      assert.are.equal("CANCELED", code)
      freed(key)
    end)
  end

  it("tells an unlock without patience of the 403, and goes on until the key is free", function()
    assert(lock:lock(helper.seconds(5)))
    proxy:rule(rule_of(REFUSALS[1], { times = 2 }))
    local ok, message, code = lock:unlock(0)
    assert.are.same({ nil, "DENIED" }, { ok, code })
    assert.matches("Permission denied", message, 1, true)
    assert.is_false((lock:held()))
    freed(key)
  end)

  it("tells an unlock DENIED when the 403 lasts longer than its timeout, and then goes on", function()
    assert(lock:lock(helper.seconds(5)))
    proxy:rule(rule_of(REFUSALS[1]))
    local start = core.now()
    assert.are.equal("DENIED", code_of(lock:unlock(5)))
    assert.is_true(core.now() - start >= 4.999) -- it counts in whole milliseconds
    assert.is_true(proxy:count(fake.TXN) > 2)
    proxy:clear()
    freed(key)
  end)

  it("gives the next hold a token of its own after a refused unlock", function()
    assert(lock:lock(helper.seconds(5)))
    local token = lock:token()
    proxy:rule(rule_of(REFUSALS[1], { times = 1 }))
    lock:unlock(0)
    assert.is_true(lock:lock(helper.seconds(8)))
    assert.is_true(lock:token() > token)
    assert.is_true(lock:unlock(helper.seconds(5)))
  end)

  it("goes on after a 403 when the lock is dropped", function()
    assert(lock:lock(helper.seconds(5)))
    proxy:rule(rule_of(REFUSALS[1], { times = 2 }))
    lock = nil
    collectgarbage()
    collectgarbage()
    freed(key)
  end)

  it("goes on after a 403 when the client closes", function()
    assert(lock:lock(helper.seconds(5)))
    local id = lock:session()
    proxy:rule(rule_of(REFUSALS[1], { times = 1 }))
    client:close()
    helper.eventually(function() return not holder_of(key) and not consul.session.info(id) end)
  end)
end)
