-- Several keys in one step, where requests are lost, late, doubled or refused: whatever comes of a try comes of all of
-- its keys, and nobody leaves one of them held.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local together = require("spec.support.together")

local code_of, result, holder = fake.code_of, fake.result, agent.holder

local FEW = helper.seconds(5)

describe("a try for several keys", function()
  local proxy, client, keys, lock
  before_each(function()
    proxy = helper.proxy()
    keys = { helper.unique_key(), helper.unique_key(), helper.unique_key() }
    client = helper.client({ address = proxy:address(), timeout = 3, session = { ttl = "5s", lock_delay = "20s" } })
    lock = assert(client:lock_all(keys))
  end)
  after_each(function()
    proxy:clear()
    client, lock = nil, nil
    helper.finish()
  end)

  local function all_free()
    for _, key in ipairs(keys) do
      local ok, why = agent.is_free(key)()
      if not ok then return false, why end
    end
    return true
  end

  local function carry_out()
    local before = proxy:count(fake.TXN, "carried")
    local late = proxy:release()
    assert.is_true(late > 0)
    assert(proxy:wait_for(fake.TXN, before + late, FEW, "carried"))
  end

  -- The next transaction that writes: looks at several keys are transactions too.
  local function rule_for_try(rule)
    assert(lock:lock(FEW) and lock:unlock(FEW)) -- the keys are known now, so what comes next is the try
    rule.match, rule.times = fake.TXN, rule.times or 1
    proxy:rule(rule)
  end

  for _, action in ipairs({ "pass_then_reset", "pass_then_close", "pass_then_stall" }) do
    it(("that was carried out without an answer (%s) is made good by the next one"):format(action), function()
      rule_for_try({ action = action })
      assert.is_true(lock:lock(helper.seconds(10)))
      for _, key in ipairs(keys) do assert.are.equal(lock:session(), holder(key)) end
      assert.is_true(lock:unlock(FEW))
      assert.is_true(all_free())
    end)
  end

  it("that is canceled in flight leaves none held", function()
    rule_for_try({ action = "pass_then_stall" })
    local op = assert(lock:start_lock())
    helper.eventually(function() return holder(keys[3]) end)
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op, 8)))
    helper.eventually(all_free, 8)
    assert.is_true(lock:lock(helper.seconds(10)))
  end)

  it("that is dropped in flight leaves none held", function()
    rule_for_try({ action = "pass_then_stall" })
    local op = assert(lock:start_lock())
    helper.eventually(function() return holder(keys[1]) end)
    op:cancel()
    op, lock = nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    helper.eventually(all_free, 8)
  end)

  it("in flight when the client closes leaves none held", function()
    rule_for_try({ action = "pass_then_stall" })
    local op = assert(lock:start_lock())
    helper.eventually(function() return holder(keys[1]) end)
    assert.is_true(client:close())
    assert.are.equal("CLOSED", code_of(result(op)))
    helper.eventually(all_free, 8)
  end)

  it("that nobody answers within its time leaves none held", function()
    rule_for_try({ action = "pass_then_stall" })
    assert.are.equal("TIMEOUT", code_of(lock:lock(0.2)))
    helper.eventually(all_free, 8)
  end)

  for _, how in ipairs({ "late", "twice" }) do
    it(("that is carried out %s does not take the keys again once they were given back"):format(how), function()
      rule_for_try({ action = how, hang_up = how == "late" or nil, delay = how == "twice" and 60 or nil })
      assert(lock:lock(helper.seconds(10)))
      assert(lock:unlock(FEW))
      carry_out()
      helper.eventually(all_free, 8)
      assert.is_true(assert(helper.client():lock_all(keys)):lock(0))
    end)
  end

  -- Carried out by whoever has kept it, as soon as nothing stands in its way.
  local function come_late(body)
    helper.eventually(function()
      local status, text = consul.request("PUT", "/v1/txn", nil, body)
      return status == 200, text
    end)
    for _, key in ipairs(keys) do assert.is_string(holder(key)) end
  end

  it("for a key that was made meanwhile holds none for long when it comes once more after that was deleted", function()
    local known = assert(helper.client():lock_all({ keys[2], keys[3] }))
    assert(known:lock(FEW) and known:unlock(FEW))
    proxy:rule({ match = fake.TXN, skip = 2, times = 1, hold = true }) -- after the looks at all, and at those
    local op = assert(lock:start_lock())
    assert(proxy:wait_for(fake.TXN, 3, FEW))
    local body, session = proxy:log(fake.TXN)[3].body, agent.occupy(keys[1])
    proxy:release()
    assert(proxy:wait_for(fake.POLL, 1, FEW))
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    agent.vacate(keys[1], session)
    consul.kv.delete(keys[1])
    come_late(body)
    helper.eventually(all_free, 10)
  end)

  it("that a lock-delay has refused holds none for long when it comes once more after that", function()
    local other = assert(helper.client():lock_all(keys))
    assert(other:lock(FEW) and other:unlock(FEW))
    consul.session.destroy(agent.occupy(keys[2], { LockDelay = "1s" }))
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    local tries = together.transactions(proxy, "lock")
    assert.are.equal(409, tries[#tries].status)
    come_late(tries[#tries].text)
    helper.eventually(all_free, 10)
  end)

  it("takes away no key of a single lock when it comes late", function()
    rule_for_try({ action = "late", hang_up = true })
    assert(lock:lock(helper.seconds(10)) and lock:unlock(FEW))
    local single = assert(client:lock(keys[2]))
    assert(single:lock(FEW))
    carry_out()
    assert.is_true(single:held())
    assert.are.equal(single:session(), holder(keys[2]))
    assert.is_true(single:unlock(FEW))
    helper.eventually(all_free)
  end)

  it("goes again after a 500, with another session since it may have been carried out", function()
    rule_for_try({ status = 500, body = "rpc error" })
    local op = assert(lock:start_lock())
    assert.is_true(result(op, 10))
    assert.is_true(lock:unlock(FEW))
    assert.is_true(lock:lock(FEW))
    assert.are.equal(2, proxy:count(fake.CREATE))
  end)

  it("tells DENIED, and goes on to give nothing away, when it is refused", function()
    rule_for_try(fake.on(fake.TXN, { status = 403, body = "Permission denied" }))
    local _, message, code = lock:lock(FEW)
    assert.are.equal("DENIED", code)
    assert.matches("Permission denied", message, 1, true)
    assert.is_true(all_free())
    assert.is_true(lock:lock(FEW))
  end)

  it("is not made when a key may not be read", function()
    proxy:rule(fake.on(fake.TXN, { status = 200, body = "{\"Results\":[],\"Errors\":null}" }, { times = 1 }))
    local _, message, code = lock:lock(FEW)
    assert.are.equal("DENIED", code)
    assert.matches(keys[1], message, 1, true)
    assert.is_true(lock:lock(FEW))
  end)

  it("goes on with another session when its own is gone", function()
    assert(lock:lock(FEW))
    local first = lock:session()
    assert(lock:unlock(FEW))
    proxy:rule({ match = fake.INFO, action = "stall" }) -- only the try finds out
    consul.session.destroy(first)
    assert.is_true(lock:lock(helper.seconds(10)))
    assert.are_not.equal(first, lock:session())
    assert.is_true(lock:unlock(FEW))
  end)

  it("gives its unlock the time that it has, and goes on afterwards", function()
    assert(lock:lock(FEW))
    proxy:rule({ match = fake.TXN, times = 1, action = "stall" })
    assert.are.equal("TIMEOUT", code_of(lock:unlock(0.2)))
    assert.is_false((lock:held()))
    helper.eventually(all_free, 8)
    assert.is_true(lock:lock(FEW))
    proxy:rule(fake.on(fake.TXN, { status = 500, body = "rpc error" }, { times = 1 }))
    assert.are.equal("HTTP", code_of(lock:unlock(0)))
    helper.eventually(all_free, 8)
  end)

  it("is answered LOST at the end of the lease, when nobody can be told", function()
    client = helper.client({ address = proxy:address(), timeout = 1, session = { ttl = "5s", lock_delay = "2s" } })
    lock = assert(client:lock_all(keys))
    assert(lock:lock(FEW))
    proxy:rule({ first = true, action = "stall" })
    assert.are.equal("deadline", lock:wait_lost(helper.seconds(10)))
    assert.are.equal("LOST", code_of(lock:unlock()))
    assert.are.equal(3, client:stats().losses.deadline)
    proxy:clear()
    assert.is_true(lock:lock(helper.seconds(10)))
  end)

  it("frees first what an earlier one has left to it, when there would be too many operations with that", function()
    local many = {}
    for i = 1, 32 do many[i] = keys[1] .. "/" .. i end
    lock = assert(client:lock_all(many))
    assert(lock:lock(FEW) and lock:unlock(FEW))
    proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_reset" })
    assert.is_true(lock:lock(helper.seconds(15)))
    for _, key in ipairs(many) do assert.are.equal(lock:session(), holder(key)) end
    local sent = together.transactions(proxy, "^check%-index unlock")
    local last = sent[#sent]
    assert.are.equal(200, last.status)
    assert.is_true(last.operations == 64 or last.operations == 96, "it takes 96 to lock what is ours already")
    assert.is_true(lock:unlock(FEW))
  end)

  it("is sent once for all keys, and its unlock with the others' releases", function()
    assert(lock:lock(FEW))
    local tried = together.transactions(proxy, "lock")
    assert.are.equal(1, #tried)
    assert.are.same({ 3, 6 }, { tried[1].count, tried[1].operations })
    for _, key in ipairs(keys) do assert.are.equal("check-not-exists lock", tried[1].keys[key]) end
  end)
end)
