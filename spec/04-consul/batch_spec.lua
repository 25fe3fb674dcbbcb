-- What is ready at the same time shares a transaction, and each gets its own answer.
local acl = require("spec.support.acl")
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local together = require("spec.support.together")

local MANY = 12

describe("ops that are ready while the slots are taken", function()
  local proxy, client, prefix

  -- With a session that has been made. timeout: of its requests
  local function new_client(timeout)
    client = helper.client({ address = proxy:address(), timeout = timeout,
      session = { ttl = "60s", lock_delay = "2s" } })
    local first = assert(client:lock(prefix .. "/first"))
    assert(first:lock(helper.seconds(5)))
    assert(first:unlock(helper.seconds(5)))
  end

  before_each(function()
    proxy = helper.proxy()
    prefix = helper.unique_key()
    new_client()
  end)
  after_each(function()
    proxy:clear()
    client = nil
    helper.finish()
  end)

  local function new_locks(n, options)
    local locks = {}
    for i = 1, n do
      local all = { key = ("%s/%d"):format(prefix, i) }
      for name, value in pairs(options or {}) do all[name] = value end
      locks[i] = assert(client:lock(all))
    end
    return locks
  end

  -- Those of keys that the client has used last: it need not look at them.
  local function known_locks(n, options)
    local locks = new_locks(n, options)
    for _, lock in ipairs(locks) do
      assert(lock:lock(helper.seconds(5)))
      assert(lock:unlock(helper.seconds(5)))
    end
    proxy:forget()
    return locks
  end

  local function start(locks, method, ...)
    local ops = {}
    for i, lock in ipairs(locks) do ops[i] = assert(lock[method](lock, ...)) end
    return ops
  end

  local function at_once(locks, method, ...)
    local arguments = { ... }
    local ops = together.start(client, proxy, prefix, function()
      return start(locks, method, (table.unpack or unpack)(arguments)) -- luacheck: ignore
    end)
    return together.results(locks, ops), ops
  end

  local function all_are(what, results)
    for key, result in pairs(results) do assert.are.equal(what, result, key) end
  end

  local function held_by_us(locks)
    for _, lock in ipairs(locks) do
      assert.is_true(lock:held(), lock:key())
      assert.are.equal(lock:session(), agent.holder(lock:key()), lock:key())
      assert.are.equal(lock:token(), consul.kv.get(lock:key()).ModifyIndex)
    end
  end

  local function all_free(locks)
    for _, lock in ipairs(locks) do helper.eventually(agent.is_free(lock:key())) end
  end

  it("go in one look, one transaction for the locks and one for the unlocks", function()
    local locks = new_locks(MANY)
    all_are("OK", at_once(locks, "start_lock"))
    held_by_us(locks)
    all_are("OK", at_once(locks, "start_unlock"))
    all_free(locks)
    local looks, writes = together.transactions(proxy, "^get$"), together.transactions(proxy)
    assert.are.same({ 1, 4 }, { #looks, #writes }) -- the first two are of the lock in before_each
    assert.are.same({ MANY, MANY, MANY }, { looks[1].count, writes[3].count, writes[4].count })
    for _, lock in ipairs(locks) do
      assert.are.equal("check-not-exists lock", writes[3].keys[lock:key()])
      assert.are.equal("check-index unlock", writes[4].keys[lock:key()])
    end
  end)

  it("leave in the order in which they came, releases before acquires", function()
    local held, wanted = known_locks(MANY), {}
    for i = 1, MANY do
      wanted[i] = assert(client:lock(("%s/wanted/%d"):format(prefix, i)))
      assert(wanted[i]:lock(helper.seconds(5)))
      assert(wanted[i]:unlock(helper.seconds(5)))
      assert(held[i]:lock(helper.seconds(5)))
    end
    proxy:forget()
    local ops = together.start(client, proxy, prefix, function()
      local acquires = start(wanted, "start_lock")
      return { acquires = acquires, releases = start(held, "start_unlock") }
    end)
    all_are("OK", together.results(wanted, ops.acquires))
    all_are("OK", together.results(held, ops.releases))
    local transaction, order = together.transactions(proxy)[1], {}
    for i = 1, MANY do order[i], order[MANY + i] = held[i]:key(), wanted[i]:key() end
    assert.are.same(order, { (table.unpack or unpack)(transaction) }) -- luacheck: ignore
  end)

  it("are refused one by one: what is held, moved or within its lock-delay, in that order", function()
    local locks = known_locks(MANY)
    agent.occupy(locks[2]:key(), { LockDelay = "0s", TTL = "60s" })
    local dead = agent.occupy(locks[5]:key(), { LockDelay = "3s", TTL = "60s" })
    assert(consul.session.destroy(dead))
    assert(consul.kv.put(locks[9]:key(), "moved", { flags = agent.LOCK_FLAGS }))
    local results = at_once(locks, "start_lock", 0.5)
    for i, lock in ipairs(locks) do
      assert.are.equal((i == 2 or i == 5) and "TIMEOUT" or "OK", results[lock:key()], lock:key())
    end
    local writes = together.transactions(proxy)
    -- The lock-delay is looked at before anything is carried out, so the others' refusals come in the second answer.
    assert.are.same({ MANY, MANY - 1, MANY - 3 }, { writes[1].count, writes[2].count, writes[3].count })
    assert.are.same({ 409, 409, 200 }, { writes[1].status, writes[2].status, writes[3].status })
    assert.is_nil(writes[2].keys[locks[5]:key()])
    assert.is_nil(writes[3].keys[locks[2]:key()] or writes[3].keys[locks[9]:key()])
    table.remove(locks, 5)
    table.remove(locks, 2)
    held_by_us(locks)
  end)

  it("are refused for their own session only", function()
    local dying = helper.session({ TTL = "60s", LockDelay = "0s" })
    -- Nobody tells the client of its end.
    proxy:rule({ match = fake.INFO .. dying:gsub("%-", "%%-") .. ".*index=", action = "stall" })
    local locks = known_locks(MANY)
    local kept = assert(client:lock({ key = prefix .. "/kept", session = dying }))
    local foreign = assert(client:lock({ key = prefix .. "/foreign", session = dying }))
    assert(kept:lock(helper.seconds(5)))
    assert(foreign:lock(helper.seconds(5)))
    assert(foreign:unlock(helper.seconds(5)))
    table.insert(locks, 4, foreign)
    proxy:forget()
    consul.session.destroy(dying)
    local results = at_once(locks, "start_lock")
    assert.are.equal("SESSION", results[foreign:key()])
    table.remove(locks, 4)
    for _, lock in ipairs(locks) do assert.are.equal("OK", results[lock:key()]) end
    held_by_us(locks)
    local writes = together.transactions(proxy)
    assert.are.same({ MANY + 1, MANY }, { writes[1].count, writes[2].count })
  end)

  it("do not see each other's writes: of one key they go one after the other", function()
    local locks = new_locks(3)
    local twin = assert(client:lock(locks[2]:key()))
    local all = { locks[1], locks[2], twin, locks[3] }
    for _, lock in ipairs(all) do
      assert(lock:lock(helper.seconds(5)))
      assert(lock:unlock(helper.seconds(5)))
    end
    proxy:forget()
    local results, ops = at_once(all, "start_destroy")
    all_are("OK", results)
    assert.are.equal(4, #ops)
    for _, lock in ipairs(locks) do assert.is_nil(consul.kv.get(lock:key())) end
    local deletes = 0
    for _, transaction in ipairs(together.transactions(proxy)) do
      for _, key in ipairs(transaction) do
        deletes = deletes + 1
        assert.are.equal("delete-cas", transaction.keys[key])
      end
    end
    assert.is_true(deletes >= 3)
    for _, looks in ipairs(together.transactions(proxy, "^get")) do
      for _, key in ipairs(looks) do assert.are.equal("get", looks.keys[key]) end
    end
  end)

  it("are told of absent keys at once, and the rest of the looks goes again", function()
    local locks = new_locks(MANY)
    for i = 1, MANY, 2 do agent.occupy(locks[i]:key(), { TTL = "60s" }) end
    local results = at_once(locks, "start_lock", 0.3)
    for i, lock in ipairs(locks) do assert.are.equal(i % 2 == 1 and "TIMEOUT" or "OK", results[lock:key()]) end
    local looks = together.transactions(proxy, "^get$")
    assert.are.same({ MANY, MANY / 2 }, { looks[1].count, looks[2].count })
    assert.are.same({ 409, 200 }, { looks[1].status, looks[2].status })
  end)

  it("are as many as the server takes, which it has to say once", function()
    local locks = new_locks(100)
    all_are("OK", at_once(locks, "start_lock"))
    held_by_us(locks)
    all_are("OK", at_once(locks, "start_unlock"))
    all_free(locks)
    local count, refused, most = 0, 0, 0
    for _, transaction in ipairs(together.transactions(proxy, ".")) do
      if transaction.status == 413 then
        refused = refused + 1
      elseif transaction.keys[transaction[1]] ~= "check-session" then -- as often as it takes time
        count = count + 1
        most = math.max(most, transaction.operations)
      end
    end
    assert.is_true(refused <= 1, refused .. " refused")
    assert.is_true(most == 64 or most == 128, most .. " operations")
    assert.is_true(count < 20, count .. " transactions")
  end)

  it("are no more than 512 KiB, and what is too large by itself is refused alone", function()
    local locks = known_locks(6, { value = ("x"):rep(100 * 1024) })
    local large = assert(client:lock({ key = prefix .. "/large", value = ("x"):rep(600 * 1024) }))
    table.insert(locks, 3, large)
    local results = at_once(locks, "start_lock")
    assert.are.equal("TOO_LARGE", results[large:key()])
    table.remove(locks, 3)
    for _, lock in ipairs(locks) do assert.are.equal("OK", results[lock:key()]) end
    held_by_us(locks)
    for _, transaction in ipairs(together.transactions(proxy)) do
      assert.is_true(#transaction.text <= 512 * 1024 or transaction.count == 1)
    end
  end)

  describe("and are canceled", function()
    -- A lock that is canceled while its transaction is under way, and the others that are in it.
    local function cancel_in_flight(rule)
      new_client(1)
      local locks = known_locks(MANY)
      proxy:rule(fake.on(fake.TXN, rule, { times = 1 }))
      local ops = together.start(client, proxy, prefix, function() return start(locks, "start_lock") end)
      assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
      ops[3]:cancel()
      assert.are.equal("CANCELED", fake.code_of(fake.result(ops[3])))
      local canceled = locks[3]
      table.remove(ops, 3)
      table.remove(locks, 3)
      all_are("OK", together.results(locks, ops))
      held_by_us(locks)
      helper.eventually(agent.is_free(canceled:key()))
      assert.is_false(canceled:held())
      return canceled
    end

    it("in flight, never to be answered: what it has got is taken back, and the others have theirs", function()
      cancel_in_flight({ action = "pass_then_stall" })
    end)

    it("in flight, to be carried out late: it is not", function()
      local canceled = cancel_in_flight({ action = "late" })
      proxy:release()
      assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5), "carried"))
      helper.eventually(agent.is_free(canceled:key()))
      assert.is_true(helper.client():lock(canceled:key()):lock(helper.seconds(5)))
    end)

    it("all of them, in flight: the request is given up and everything is taken back", function()
      local locks = known_locks(MANY)
      proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_stall" })
      local ops = together.start(client, proxy, prefix, function() return start(locks, "start_lock") end)
      assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
      for _, op in ipairs(ops) do op:cancel() end
      all_are("CANCELED", together.results(locks, ops))
      all_free(locks)
    end)

    -- The first sending was refused because of another, and the second waits for a slot. A copy of the first that comes
    -- late may be carried out once the other's lock-delay is over.
    it("between the sendings: no copy of the first takes it afterwards", function()
      local locks = new_locks(2)
      local delayed, canceled = locks[1], locks[2]
      assert(consul.kv.put(canceled:key(), "", { flags = agent.LOCK_FLAGS }))
      assert(consul.session.destroy(agent.occupy(delayed:key(), { LockDelay = "2s", TTL = "60s" })))
      -- Whoever can lock this one can lock the other too.
      assert(consul.session.destroy(agent.occupy(prefix .. "/later", { LockDelay = "2s", TTL = "60s" })))
      proxy:forget()
      local before = consul.kv.get(canceled:key()).ModifyIndex
      -- The second request of both, after the look, is the one that is copied.
      proxy:rule({ match = fake.TXN, skip = 1, times = 1, action = "twice" })
      proxy:rule({ first = true, match = fake.CREATE, action = "stall" })
      -- Makes a command that stays in the slot which it gets: behind what is in the lane by now.
      local fillers = {}
      local function fill()
        local lock = assert(client:lock({ key = prefix .. "/filler", session_ttl = 60 }))
        fillers[#fillers + 1] = assert(lock:start_lock())
      end
      local free = together.occupy(client, proxy, prefix)
      local ops = start(locks, "start_lock")
      fill()
      free() -- to the look, then to the filler
      assert(proxy:wait_for(fake.CREATE, 1, helper.seconds(5)))
      assert(assert(client:lock({ key = prefix .. "/other", session_ttl = 60 })):start_lock())
      free() -- to the first sending, then to the other filler
      assert(proxy:wait_for(fake.CREATE, 2, helper.seconds(5)))
      ops[2]:cancel()
      ops[1]:cancel()
      assert.are.same({ [delayed:key()] = "CANCELED", [canceled:key()] = "CANCELED" }, together.results(locks, ops))
      local writes = together.transactions(proxy)
      assert.are.same({ 1, 2, 409 }, { #writes, writes[1].count, writes[1].status })
      proxy:clear()
      proxy:drop() -- the fillers
      helper.eventually(function() return consul.kv.get(canceled:key()).ModifyIndex > before end, 5)
      local rival = helper.session({ TTL = "60s" })
      helper.eventually(function()
        return consul.kv.put(prefix .. "/later", "", { acquire = rival, flags = agent.LOCK_FLAGS })
      end, 5)
      assert.are.equal(1, proxy:release())
      assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5), "carried"))
      all_free(locks)
      assert.is_nil(agent.holder(canceled:key()))
    end)
  end)

  it("lose nothing when copies of their transactions come late, or twice", function()
    local locks = known_locks(MANY)
    for _, trouble in ipairs({ { action = "twice" }, { action = "late", hang_up = true } }) do
      proxy:rule(fake.on(fake.TXN, trouble, { times = 2 }))
      all_are("OK", at_once(locks, "start_lock", helper.seconds(10)))
      held_by_us(locks)
      proxy:clear()
      proxy:release()
      held_by_us(locks)
      proxy:rule(fake.on(fake.TXN, trouble, { times = 2 }))
      all_are("OK", at_once(locks, "start_unlock", helper.seconds(10)))
      proxy:clear()
      local carried, late = proxy:count(fake.TXN, "carried"), proxy:release()
      assert(proxy:wait_for(fake.TXN, carried + late, helper.seconds(5), "carried"))
      all_free(locks)
    end
  end)
end)

describe("ops that are ready while the slots are taken, at an agent with an ACL", function()
  after_each(helper.finish)

  -- An agent that denies what rules do not allow to whoever has the token; and the id of the policy.
  local function strict_agent(rules)
    local server = acl.agent()
    local policy = acl.policy(server, rules)
    return server, (acl.token(server, policy)), policy
  end

  it("are denied one by one, and the others get what they want", function()
    local server, token = strict_agent([[key_prefix "open/" { policy = "write" }
      key_prefix "readable/" { policy = "read" } session_prefix "" { policy = "write" }]])
    local proxy = helper.proxy(server:address())
    local client = helper.client({ address = proxy:address(), token = token })
    local locks, wanted = {}, {}
    for _, prefix in ipairs({ "open", "readable", "hidden" }) do
      for i = 1, 4 do
        local lock = assert(client:lock(("%s/%d"):format(prefix, i)))
        locks[#locks + 1], wanted[lock:key()] = lock, prefix == "open" and "OK" or "DENIED"
        if i % 2 == 0 then server:ask(consul.kv.put, lock:key(), "", { flags = agent.LOCK_FLAGS }) end
      end
    end
    local first = assert(client:lock("open/first"))
    assert(first:lock(helper.seconds(5)))
    proxy:forget()
    local ops = together.start(client, proxy, "open", function()
      local started = {}
      for i, lock in ipairs(locks) do started[i] = assert(lock:start_lock()) end
      return started
    end)
    assert.are.same(wanted, together.results(locks, ops))
    -- The absent ones are told first. The rest goes again, without what may not be read: that is asked for alone.
    local looks, writes = together.transactions(proxy, "^get$"), together.transactions(proxy)
    assert.are.same({ 2, 12, 6 }, { #looks, looks[1].count, looks[2].count })
    assert.are.equal(2, proxy:count("^GET /v1/kv/hidden/"))
    assert.are.equal(409, writes[1].status)
    for i = 1, 4 do assert.is_true(locks[i]:unlock(helper.seconds(5))) end
    assert.is_true(first:unlock(helper.seconds(5)))
    assert.are.equal("DENIED", fake.code_of(locks[12]:destroy(0)))
    assert.is_true(locks[1]:destroy(0))
    client:close()
  end)

  -- Only so many keys have a long poll of their own; the others are read together, and an ACL leaves keys out of that.
  it("are denied while they wait, when a key that is read with others is hidden from them", function()
    local OPEN = [[key_prefix "open/" { policy = "write" } session_prefix "" { policy = "write" } ]]
    local server, token, policy = strict_agent(OPEN .. [[key_prefix "mine/" { policy = "write" }]])
    local client = helper.client({ address = server:address(), token = token })
    local holder = helper.client({ address = server:address(), token = acl.ROOT })
    local held, waiting = {}, {}
    local function wait_for(key)
      local lock = assert(holder:lock(key))
      assert(lock:lock(helper.seconds(10)))
      held[#held + 1] = lock
      waiting[key] = assert(helper.keep(assert(client:lock(key))):start_lock())
    end
    for i = 1, 30 do wait_for("open/" .. i) end
    for i = 1, 3 do wait_for("mine/" .. i) end
    helper.eventually(function() return client:stats().requests > 60 end, 10)
    acl.change(server, policy, OPEN)
    for i = 1, 3 do
      assert.are.equal("DENIED", fake.code_of(fake.result(waiting["mine/" .. i], 20)))
    end
    for _, lock in ipairs(held) do assert.is_true(lock:unlock(helper.seconds(10))) end
    for i = 1, 30 do assert.is_true(fake.result(waiting["open/" .. i], 20)) end
    client:close()
    holder:close()
  end)
end)
