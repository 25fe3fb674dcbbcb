-- Several keys in one step: all of them or none, against a real agent.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")
local together = require("spec.support.together")

local code_of, holder, result = agent.code_of, agent.holder, fake.result

local FEW = helper.seconds(5)

describe("a lock of several keys", function()
  local client, keys, lock
  before_each(function()
    client = helper.client()
    keys = { helper.unique_key(), helper.unique_key(), helper.unique_key() }
    lock = assert(client:lock_all(keys))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function all_are(session)
    for _, key in ipairs(keys) do assert.are.equal(session, holder(key)) end
  end

  local function all_free()
    for _, key in ipairs(keys) do
      local ok, why = agent.is_free(key)()
      if not ok then return false, why end
    end
    return true
  end

  it("holds all of them from lock to unlock, with one token, and none afterwards", function()
    assert.are.equal("NOT_HELD", code_of(lock:unlock()))
    for _ = 1, 2 do
      assert.is_true(lock:lock(FEW))
      assert.is_true(lock:held())
      all_are(lock:session())
      for _, key in ipairs(keys) do assert.are.equal(lock:token(), consul.kv.get(key).ModifyIndex) end
      assert.are.equal("HELD", code_of(lock:lock()))
      assert.is_true(lock:unlock(FEW))
      all_are(nil)
      assert.are.same({ false, "released" }, { lock:held() })
      assert.is_false(lock:lost())
      assert.are.equal("released", lock:wait_lost(0))
    end
    assert.are.same(keys, lock:keys())
    assert.are.equal(keys[1], lock:key())
    assert.matches(keys[3], tostring(lock) .. select(2, lock:unlock()), 1, true)
  end)

  it("takes one transaction to lock, and one to unlock, once the keys are known", function()
    local proxy = helper.proxy()
    client = helper.client({ address = proxy:address() })
    lock = assert(client:lock_all(keys))
    assert(lock:lock(FEW) and lock:unlock(FEW))
    local before = proxy:count(fake.TXN) + proxy:count(fake.KEY)
    assert(lock:lock(FEW) and lock:unlock(FEW))
    assert.are.equal(2, proxy:count(fake.TXN) + proxy:count(fake.KEY) - before)
    local sent = together.transactions(proxy)
    assert.are.equal("check-index lock", sent[#sent - 1].keys[keys[2]])
    assert.are.same({ 3, 3 }, { sent[#sent - 1].count, sent[#sent].count })
  end)

  it("gets none while one is another's, and leaves the others alone", function()
    local session = agent.occupy(keys[2])
    local _, message, code = lock:lock(0)
    assert.are.equal("TIMEOUT", code)
    assert.matches(keys[2] .. '" is held by session ' .. session, message, 1, true)
    assert.is_nil(holder(keys[1]))
    assert.is_nil(holder(keys[3]))
    local other = assert(client:lock(keys[1]))
    local op = assert(lock:start_lock())
    assert.is_nil(op:wait(0.1))
    assert.is_true(other:lock(0), "who waits for one key keeps no other")
    assert.is_true(other:unlock(FEW))
    agent.vacate(keys[2], session)
    assert.is_true(result(op, 10))
    all_are(lock:session())
  end)

  it("gets none while a single lock of the same client has one, and that one keeps no other waiting", function()
    local first, last = assert(client:lock(keys[1])), assert(client:lock(keys[3]))
    assert(last:lock(FEW))
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    local op = assert(lock:start_lock())
    assert.is_nil(op:wait(0.1))
    assert.is_true(first:lock(0))
    assert(last:unlock(FEW))
    assert.is_nil(op:wait(0.1))
    assert(first:unlock(FEW))
    assert.is_true(result(op, 10))
    op = assert(first:start_lock())
    assert.is_nil(op:wait(0.1))
    assert(lock:unlock(FEW))
    assert.is_true(result(op, 10))
  end)

  it("does not wait for ever for another that has the same keys in another order, in one client or two", function()
    for _, other in ipairs({ client, helper.client() }) do
      local back = assert(other:lock_all({ keys[3], keys[2], keys[1] }))
      for _ = 1, 10 do
        local mine, its = assert(lock:start_lock()), assert(back:start_lock())
        local one, two = lock, back
        helper.eventually(function() return mine:done() or its:done() end)
        if its:done() then mine, its, one, two = its, mine, two, one end
        assert.is_true(result(mine))
        assert.is_false((two:held()))
        assert(one:unlock(FEW))
        assert.is_true(result(its, 10))
        assert(two:unlock(FEW))
      end
    end
  end)

  it("goes round a ring of coroutines that each want two neighbours", function()
    client = helper.client({ scheduler = "loop" })
    local meals, eating = 0, {}
    loop.run(function()
      for i = 1, 5 do
        loop.spawn(function()
          local left, right = keys[1] .. "/" .. i, keys[1] .. "/" .. i % 5 + 1
          local mine = assert(client:lock_all(i % 2 == 1 and { left, right } or { right, left }))
          for _ = 1, 4 do
            assert(mine:lock(helper.seconds(20)))
            assert(not eating[left] and not eating[right], "two have one key")
            eating[left], eating[right] = true, true
            loop.sleep(0.002)
            eating[left], eating[right] = nil, nil
            meals = meals + 1
            assert(mine:unlock(FEW))
          end
        end)
      end
    end)
    assert.are.equal(20, meals)
  end)

  it("is a CONFLICT that names the key when one is used for something else, and the others stay free", function()
    consul.kv.put(keys[2], "mine", { flags = agent.SEMAPHORE_FLAGS })
    local _, message, code = lock:lock(FEW)
    assert.are.equal("CONFLICT", code)
    assert.matches(('"%s": '):format(keys[2]), message, 1, true)
    assert.is_nil(consul.kv.get(keys[1]))
    assert.are.equal("mine", consul.kv.get(keys[2]).Value)
  end)

  it("waits for the end of a lock-delay on one, and keeps no other key waiting meanwhile", function()
    local session = agent.occupy(keys[2], { LockDelay = "3s" })
    consul.session.destroy(session)
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    local _, message, code = lock:lock(0.3)
    assert.are.equal("TIMEOUT", code)
    assert.matches("lock delay", message, 1, true)
    local op = assert(lock:start_lock())
    local other = assert(client:lock(keys[1]))
    assert.is_true(other:lock(FEW))
    assert.is_nil(op:wait(0))
    assert(other:unlock(FEW))
    assert.is_true(result(op, 20))
    all_are(lock:session())
  end)

  it("is lost as a whole with its session", function()
    assert(lock:lock(FEW))
    consul.session.destroy(lock:session())
    assert.are.equal("session", lock:wait_lost(FEW))
    assert.are.same({ true, "session" }, { lock:lost() })
    assert.are.equal("LOST", code_of(lock:unlock()))
    assert.are.equal(3, client:stats().losses.session)
  end)

  for _, monitor in ipairs({ "key", "session" }) do
    it(("is lost as a whole when one key is deleted, and gives the others back (%s)"):format(monitor), function()
      local other = assert(helper.client():lock_all(keys)) -- or the warden would free what this client has made
      assert(other:lock(FEW) and other:unlock(FEW))
      client = helper.client({ session = { ttl = monitor == "key" and "600s" or "3s" } })
      lock = assert(client:lock_all({ keys = keys, monitor = monitor }))
      for i = 1, 3 do
        assert(lock:lock(FEW))
        local released = client:stats().released
        consul.kv.delete(keys[i])
        assert.are.equal("key", lock:wait_lost(helper.seconds(10)))
        assert.are.equal("LOST", code_of(lock:unlock()))
        helper.eventually(function() return client:stats().released == released + 2 end)
        assert.is_true(all_free())
        assert.is_true(lock:lock(FEW), "without a lock-delay")
        assert.is_true(lock:unlock(FEW))
      end
      assert.are.equal(9, client:stats().losses.key)
      assert.are.equal(0, client:stats().locks_held)
    end)
  end

  it("is lost as a whole when one key is taken away, and does not touch that", function()
    lock = assert(client:lock_all({ keys = keys, monitor = "key" }))
    assert(lock:lock(FEW))
    consul.kv.delete(keys[2])
    local session = agent.occupy(keys[2])
    assert.matches("^[ks]", lock:wait_lost(helper.seconds(10)))
    helper.eventually(function() return not holder(keys[1]) and not holder(keys[3]) end)
    assert.are.equal(session, holder(keys[2]))
  end)

  it("answers LOST by an unlock when one key has been deleted meanwhile, and frees the others", function()
    assert(lock:lock(FEW))
    consul.kv.delete(keys[3])
    assert.are.equal("LOST", code_of(lock:unlock(FEW)))
    all_free()
  end)

  it("guards a request, which ends with the first key that is lost", function()
    local server = helper.server()
    server:rule({ action = "stall" })
    lock = assert(client:lock_all({ keys = keys, max_hold = "300ms" }))
    assert(lock:lock(FEW))
    assert.are.equal("LOST", code_of(lock:request({ url = server:url() .. "/", timeout = helper.seconds(20) })))
    assert.are.same({ true, "expired" }, { lock:lost() })
    helper.eventually(all_free)
    assert.are.equal(3, client:stats().losses.expired)
  end)

  it("leaves nothing held when it is canceled while it waits", function()
    local session = agent.occupy(keys[3])
    local op = assert(lock:start_lock())
    assert.is_nil(op:wait(0.05))
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    agent.vacate(keys[3], session)
    assert.is_true(assert(helper.client():lock_all(keys)):lock(FEW))
  end)

  it("is given back when it is dropped, held or on its way", function()
    assert(lock:lock(FEW))
    lock = nil
    collectgarbage()
    collectgarbage()
    helper.eventually(all_free)
    local op = assert(client:lock_all(keys):start_lock())
    collectgarbage()
    collectgarbage()
    assert(op:wait(FEW))
    helper.eventually(all_free)
  end)

  it("is given back when the client closes", function()
    assert(lock:lock(FEW))
    local session = lock:session()
    assert.is_true(client:close())
    assert.are.same({ false, "closed" }, { lock:held() })
    assert.is_true(all_free())
    assert.is_nil(consul.session.info(session))
    assert.are.equal("CLOSED", code_of(lock:lock()))
  end)

  it("ends with CLOSED when the client closes while it waits", function()
    agent.occupy(keys[3])
    local op = assert(lock:start_lock())
    assert.is_nil(op:wait(0.05))
    assert.is_true(client:close())
    assert.are.equal("CLOSED", code_of(result(op)))
  end)

  it("has a session of its own, or one made elsewhere, for all of them", function()
    lock = assert(client:lock_all({ keys = keys, session_ttl = "60s", value = "mine" }))
    assert(lock:lock(FEW))
    local own = lock:session()
    assert.are.equal("mine", consul.kv.get(keys[3]).Value)
    assert.is_true(lock:unlock(FEW))
    helper.eventually(function() return not consul.session.info(own) end)
    local session = helper.session({ TTL = "60s" })
    lock = assert(client:lock_all({ keys = keys, session = session }))
    assert(lock:lock(FEW))
    all_are(session)
    assert.is_true(lock:unlock(FEW))
    assert.is_table(consul.session.info(session))
  end)

  it("reclaims what its session made elsewhere has already", function()
    local session = helper.session({ TTL = "60s" })
    local first = assert(helper.client():lock({ key = keys[2], session = session }))
    assert(first:lock(FEW))
    lock = assert(client:lock_all({ keys = keys, session = session }))
    assert.is_true(lock:lock(FEW))
    assert.is_true(lock:token() > first:token())
  end)

  it("deletes ephemeral keys, and destroys others", function()
    lock = assert(client:lock_all({ keys = keys, ephemeral = true }))
    assert(lock:lock(FEW))
    assert.are.equal("HELD", code_of(lock:destroy()))
    assert.is_true(lock:unlock(FEW))
    for _, key in ipairs(keys) do assert.is_nil(consul.kv.get(key)) end
    lock = assert(client:lock_all(keys))
    assert(lock:lock(FEW) and lock:unlock(FEW))
    local session = agent.occupy(keys[3])
    assert.are.equal("IN_USE", code_of(lock:destroy(FEW)))
    agent.vacate(keys[3], session)
    assert.is_true(lock:destroy(FEW))
    for _, key in ipairs(keys) do assert.is_nil(consul.kv.get(key)) end
  end)

  it("can be of one key, and is a lock then", function()
    lock = assert(client:lock_all({ keys[1] }))
    assert(lock:lock(FEW))
    assert.are.equal("TIMEOUT", code_of(assert(client:lock(keys[1])):lock(0)))
    assert.is_true(lock:unlock(FEW))
  end)

  it("has 32 keys on any server", function()
    local many = {}
    for i = 1, 32 do many[i] = keys[1] .. "/" .. i end
    lock = assert(client:lock_all(many))
    for _ = 1, 2 do
      assert.is_true(lock:lock(FEW))
      for _, key in ipairs(many) do assert.are.equal(lock:session(), holder(key)) end
      assert.is_true(lock:unlock(FEW))
    end
  end)

  it("with more keys than the server takes is TOO_LARGE, or taken by a server that takes them", function()
    local many = {}
    for i = 1, 64 do many[i] = keys[1] .. "/" .. i end
    lock = assert(client:lock_all(many))
    for _ = 1, 2 do
      local ok, message, code = lock:lock(FEW)
      if ok then
        assert.is_true(lock:unlock(FEW))
      else
        assert.are.equal("TOO_LARGE", code)
        assert.matches("64 keys are too many: the server takes 64 operations at once", message, 1, true)
        for _, key in ipairs(many) do assert.is_nil(consul.kv.get(key)) end
      end
    end
    many[65] = keys[1]
    assert.are.equal("TOO_LARGE", code_of(client:lock_all(many)))
  end)

  it("refuses what makes no sense", function()
    local twice = { keys[1], keys[2], keys[1] }
    assert.are.equal("INVALID", code_of(client:lock_all(twice)))
    assert.are.equal("INVALID", code_of(client:lock_all({ keys[1], "/slash" })))
    for _, bad in ipairs({ {}, { 1 }, { keys = {} }, { key = "k" }, { keys = keys, flags = "1" },
      { keys = keys, fair = true },
      { "a", value = "v" } }) do
      local ok, message = pcall(function() return (client:lock_all(bad)) end)
      assert.is_false(ok)
      assert.matches("^spec/04%-consul/lock_all_spec%.lua:%d+: ", message)
    end
    assert.is_false((pcall(client.lock_all, client, "k")))
    assert.is_false((pcall(client.lock_all, client)))
  end)
end)
