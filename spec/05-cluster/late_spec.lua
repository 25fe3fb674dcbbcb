-- Servers that are suspended carry out what is in their sockets when they go on: late, and perhaps a second time.
local agent = require("spec.support.agent")
local believers = require("spec.support.believers")
local clusters = require("spec.support.cluster")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local function sessions_named(server, name)
  local found = {}
  for _, session in ipairs(server:ask(consul.session.list)) do
    if session.Name == name then found[#found + 1] = session.ID end
  end
  return found
end

-- What a server that goes on has in its sockets, it has carried out by then.
local SETTLED = 2

describe("in a cluster", function()
  local cluster
  setup(function()
    cluster = helper.cluster({ keep = true, raft_multiplier = clusters.FAST,
      config = { limits = { http_max_conns_per_client = 900 } } }) -- for a hundred clients of one address
  end)
  teardown(function() cluster:remove() end)

  -- Whether a key is held, as the leader has it.
  local function holder(key)
    return cluster:leader():ask(agent.holder, key)
  end

  local function held_among(keys)
    local found = {}
    for _, key in ipairs(keys) do
      if holder(key) then found[#found + 1] = key end
    end
    return found
  end

  local function all_done(ops)
    for _, op in ipairs(ops) do
      if not op:done() then return false end
    end
    return true
  end

  describe("a leader that was suspended", function()
    local KEYS = 6 -- one copy or another may die with the old leader's term
    local leader, rival, unlocked, locked, watch, back

    -- Before: a holder of a key, and a lock that is free and was used a moment ago, so that a lock of it is one write.
    local function prepare(address)
      local client = helper.client({ address = address, timeout = 1 })
      local mine, free = client:lock(helper.unique_key("unlock")), client:lock(helper.unique_key("lock"))
      assert(mine:lock(30))
      assert(free:lock(30))
      assert(free:unlock(30))
      local other = rival:lock(mine:key())
      unlocked[#unlocked + 1] = { lock = mine, other = other, tokens = { mine:token() } }
      locked[#locked + 1] = free
    end

    -- Meanwhile: each is unlocked and locked, or locked and unlocked, until the server has said so.
    local function change()
      local unlocks, locks = {}, {}
      for i = 1, KEYS do
        unlocks[i] = assert(unlocked[i].lock:start_unlock(60))
        locks[i] = assert(locked[i]:start_lock(60))
      end
      for i = 1, KEYS do
        assert(fake.result(unlocks[i], 20))
        assert(unlocked[i].lock:lock(60))
        unlocked[i].tokens[2] = unlocked[i].lock:token()
        assert(fake.result(locks[i], 20))
        assert(locked[i]:unlock(60))
      end
    end

    setup(function()
      unlocked, locked = {}, {}
      leader = cluster:leader()
      rival = helper.client({ address = cluster:follower(2):address() })
      local address = cluster:follower(1):address()
      for _ = 1, KEYS do prepare(address) end
      leader:suspend()
      change()
      local locks = {}
      for _, pair in ipairs(unlocked) do
        locks[pair.lock:key()] = { pair.lock, pair.other }
        pair.op = assert(pair.other:start_lock())
      end
      watch = believers.watch(locks)
      leader:continue()
      assert(watch:until_true(function() return leader:ready() end, 20))
      back = {}
      for i, lock in ipairs(locked) do back[i] = lock:key() end
      watch:during(SETTLED)
    end)

    teardown(function()
      leader, rival, unlocked, locked, watch = nil, nil, nil, nil, nil
      cluster:heal()
      helper.finish()
    end)

    it("does not take a lock away that was given back and taken again meanwhile (1)", function()
      assert.are.same({}, watch.overlaps)
      for _, pair in ipairs(unlocked) do
        assert.is_true(pair.lock:held())
        assert.is_false(pair.op:done())
      end
    end)

    it("does not take a lock again that was taken and given back meanwhile (1)", function()
      assert.are.same({}, held_among(back))
    end)

    it("leaves tokens that rise, for the next holder too (1)", function()
      for _, pair in ipairs(unlocked) do
        assert.is_true(pair.tokens[2] > pair.tokens[1])
        assert(pair.lock:unlock(30))
        assert.is_true(fake.result(pair.op))
        assert.is_true(pair.other:token() > pair.tokens[2])
      end
    end)
  end)

  describe("a server that was suspended", function()
    after_each(function()
      cluster:heal()
      helper.finish()
    end)

    it("does not take a lock away that was given back through another one and taken again (1)", function()
      local leader, slow = cluster:leader(), cluster:follower()
      local proxy = helper.proxy(leader:address())
      local lock = helper.client({ address = proxy:address(), timeout = 3 }):lock(helper.unique_key())
      local rival = helper.client({ address = leader:address() }):lock(lock:key())
      assert(lock:lock(30))
      local first = lock:token()
      local watch = believers.watch({ [lock:key()] = { lock, rival } })

      proxy:forget()
      slow:suspend()
      proxy:upstream(slow:address())
      local unlock = assert(lock:start_unlock(60))
      assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
      proxy:upstream(leader:address())
      assert.is_true(fake.result(unlock, 20))
      assert(lock:lock(60))
      local second = lock:token()
      local waiting = assert(rival:start_lock())

      slow:continue()
      assert(watch:until_true(function() return slow:ready() end, 10))
      watch:during(SETTLED)
      assert.are.same({}, watch.overlaps)
      assert.is_true(lock:held())
      assert.is_false(waiting:done())
      assert.is_true(second > first)
      assert(lock:unlock(30))
      assert.is_true(fake.result(waiting))
      assert.is_true(rival:token() > second)
    end)

    it("does not keep a waiter that polled there from a lock which is free (14)", function()
      local leader, other, follower = cluster:leader(), cluster:follower(1), cluster:follower(2)
      local key, proxy = helper.unique_key(), helper.proxy(other:address())
      local holding = helper.client({ address = follower:address(), timeout = 2 }):lock(key)
      local client = helper.client({ address = proxy:address(), timeout = 2 })
      local anchor, waiting = client:lock(helper.unique_key("anchor")), client:lock(key)
      assert(holding:lock(30))
      assert(anchor:lock(30))
      proxy:upstream(leader:address())
      local op = assert(waiting:start_lock())
      assert(proxy:wait_for(fake.POLL .. ".*wait=", 1, helper.seconds(5)))
      leader:suspend()
      proxy:upstream(other:address())
      assert(holding:unlock(60))
      assert(leader.suspended)
      assert.is_true(fake.result(op, 20))
    end)
  end)

  describe("while there is no leader", function()
    local HANDOVERS, ATTEMPTS = 40, 60
    local here, others, proxy, handovers, attempts, watch, name

    local function prepare_handovers()
      proxy = helper.proxy(here:address())
      for i = 1, HANDOVERS do
        -- A client of its own: each has few commands in flight at once.
        local lock = helper.client({ address = proxy:address(), timeout = 2 }):lock(helper.unique_key("handover"))
        local rival = helper.client({ address = others[2]:address() }):lock(lock:key())
        assert(lock:lock(30))
        assert(rival:lock(0) == nil) -- it has a session by now
        handovers[i] = { lock = lock, rival = rival, token = lock:token() }
      end
    end

    -- Clients that hold something, so that their sessions stay, and two locks each (so many commands it has in flight)
    -- that were used a moment ago, so that a lock of them is one write.
    local function prepare_attempts()
      for i = 1, ATTEMPTS, 2 do
        local client = helper.client({ address = here:address(), timeout = 3, session = { name = name, ttl = "60s" } })
        local anchor = client:lock(helper.unique_key("anchor"))
        assert(anchor:lock(30))
        attempts.clients[#attempts.clients + 1] = { client = client, anchor = anchor }
        for n = i, i + 1 do
          attempts.locks[n] = client:lock(helper.unique_key("attempt"))
          assert(attempts.locks[n]:lock(30))
          assert(attempts.locks[n]:unlock(30))
        end
      end
    end

    local function attempt()
      for i, lock in ipairs(attempts.locks) do
        attempts.ops[i], attempts.keys[i] = assert(lock:start_lock(0.5)), lock:key()
      end
    end

    -- What each has to say is of no interest: it is given up.
    local function hand_over()
      local unlocks = {}
      for i, pair in ipairs(handovers) do unlocks[i] = assert(pair.lock:start_unlock(0.5)) end
      assert(watch:until_true(function() return all_done(unlocks) end, 5))
      for _, pair in ipairs(handovers) do pair.locks = assert(pair.lock:start_lock()) end
    end

    -- Whether half of the unlocks have been given up and sent once more, so that two copies of them are under way.
    local function sent_again()
      local log, twice = proxy:log(fake.TXN), 0
      for _, pair in ipairs(handovers) do
        local copies = 0
        for _, entry in ipairs(log) do
          if entry.body:find(pair.lock:key() .. "\"", 1, true) then copies = copies + 1 end
        end
        if copies > 1 then twice = twice + 1 end
      end
      return twice >= HANDOVERS / 2
    end

    -- The unlocks' copies may be under way still when a rival begins to wait: as soon as the lock has been taken again.
    local function all_taken_again()
      local all = true
      for _, pair in ipairs(handovers) do
        if pair.locks:done() and not pair.waits then pair.waits = assert(pair.rival:start_lock()) end
        all = all and pair.waits ~= nil
      end
      return all
    end

    setup(function()
      handovers, attempts, name = {}, { clients = {}, locks = {}, ops = {}, keys = {} }, helper.unique_key()
      here, others = cluster:follower(), {}
      for _, server in ipairs(cluster.servers) do
        if server ~= here then others[#others + 1] = server end
      end
      prepare_handovers()
      prepare_attempts()
      local locks = {}
      for _, pair in ipairs(handovers) do locks[pair.lock:key()] = { pair.lock, pair.rival } end
      watch = believers.watch(locks)

      proxy:forget()
      for _, server in ipairs(others) do server:suspend() end
      clusters.wait_leaderless(here, 20)
      attempt()
      hand_over()
      assert(watch:until_true(sent_again, 10))
      assert(watch:until_true(function() return all_done(attempts.ops) end, 5))
      for _, server in ipairs(others) do server:continue() end
      assert(watch:until_true(function() return all_taken_again() and here:ready() end, 20))
    end)

    teardown(function()
      here, others, proxy, handovers, attempts, watch = nil, nil, nil, nil, nil, nil
      cluster:heal()
      helper.finish()
    end)

    it("nobody gets a lock that another one holds, whatever was unlocked and locked (1)", function()
      watch:during(SETTLED)
      assert.are.equal(0, watch:count())
      for _, pair in ipairs(handovers) do assert.is_true(pair.lock:held()) end
    end)

    it("whoever locks again has a higher token, and the next one a higher one (1)", function()
      for _, pair in ipairs(handovers) do
        local token = assert(pair.lock:token())
        assert.is_true(token > pair.token)
        assert(pair.lock:unlock(30))
        assert.is_true(fake.result(pair.waits))
        assert.is_true(pair.rival:token() > token)
      end
    end)

    it("locks that were given up stay nobody's, also beside one that is held (1)", function()
      helper.eventually(function()
        local held = held_among(attempts.keys)
        return #held == 0, #held .. " keys are held by clients that hold nothing"
      end, 15)
      for _, lock in ipairs(attempts.locks) do assert.is_false(lock:held()) end
    end)

    it("locks that were given up leave no session behind (11)", function()
      for _, one in ipairs(attempts.clients) do
        assert.is_true(one.anchor:unlock(30))
        one.client:close()
      end
      helper.eventually(function()
        local left = sessions_named(here, name)
        return #left == 0, #left .. " sessions are left"
      end, 10) -- they would go by themselves after two minutes
      assert.are.same({}, held_among(attempts.keys))
    end)
  end)
end)
