-- How a lock is lost, against a real agent, and through a proxy where the way to it breaks.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local function answer(...)
  return { (...), (select(3, ...)) }
end

describe("a held lock", function()
  local client, key, lock
  before_each(function()
    client = helper.client({ session = { ttl = "60s", lock_delay = 0 } })
    key = helper.unique_key()
    lock = assert(client:lock(key))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  it("is lost when its session is destroyed behind its back (behaviour 2)", function()
    assert(lock:lock())
    consul.session.destroy(lock:session())
    assert.are.equal("session", lock:wait_lost(helper.seconds(5)))
    assert.are.same({ false, "session" }, { lock:held() })
    assert.are.same({ true, "session" }, { lock:lost() })
    assert.is_nil(lock:token())
    assert.are.equal(0, lock:remaining())
    assert.are.same({ nil, "LOST" }, answer(lock:unlock()))
  end)

  it("can be locked again after a loss without an unlock (behaviour 66)", function()
    assert(lock:lock())
    local first = lock:token()
    consul.session.destroy(lock:session())
    assert(lock:wait_lost(helper.seconds(5)))
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.is_true(lock:held())
    assert.is_false(lock:lost())
    assert.is_true(lock:token() > first)
    assert.is_true(lock:unlock())
  end)

  it("is lost when its key is deleted, ten times over (behaviour 3)", function()
    local quick = assert(client:lock({ key = key, monitor = "key" }))
    for _ = 1, 10 do
      assert(quick:lock(helper.seconds(5)))
      consul.kv.delete(key)
      assert.are.equal("key", quick:wait_lost(helper.seconds(10)))
    end
  end)

  it("is lost when its key is deleted, ten times over, and only the audit sees it (behaviour 3)", function()
    client = helper.client({ session = { ttl = "2s" } })
    local audited, bystander = client:lock(key), client:lock(key .. "/bystander")
    assert(bystander:lock())
    for _ = 1, 10 do
      assert(audited:lock(helper.seconds(5)))
      consul.kv.delete(key)
      assert.are.equal("key", audited:wait_lost(helper.seconds(10)))
    end
    assert.is_true(bystander:held())
    assert.are.equal(10, client:stats().losses.key)
  end)

  it("is still held after somebody has written to its key, and has its token still (behaviour 60)", function()
    for _, how in ipairs({ "key", "session" }) do
      local proxy = helper.proxy()
      local mine = key .. "/" .. how
      local one = helper.client({ address = proxy:address(), session = { ttl = "3s" } })
      local plain = assert(one:lock({ key = mine, monitor = how }))
      assert(plain:lock())
      local token = plain:token()
      if how == "key" then assert(proxy:wait_for(fake.POLL, 1, helper.seconds(5))) end
      assert.is_true(consul.kv.put(mine, "scribble", { flags = agent.LOCK_FLAGS }))
      assert.is_true(consul.kv.get(mine).ModifyIndex > token)
      if how == "key" then assert(proxy:wait_for(fake.POLL, 2, helper.seconds(5))) end
      proxy:forget()
      assert(proxy:wait_for(fake.AUDIT, 1, helper.seconds(5), "answered"))
      assert(proxy:wait_for(fake.RENEW, 1, helper.seconds(5), "answered"))
      assert.is_true(plain:held())
      assert.are.equal(token, plain:token())
      assert.is_true(plain:unlock())
    end
  end)

  it("is lost when somebody else takes or frees its key", function()
    client = helper.client({ session = { ttl = "3s" } })
    for _, how in ipairs({ "key", "session" }) do
      local one = assert(client:lock({ key = key .. "/" .. how, monitor = how }))
      assert(one:lock())
      consul.kv.put(key .. "/" .. how, "", { release = one:session() })
      assert.are.equal("stolen", one:wait_lost(helper.seconds(10)))
    end
  end)

  it("says LOST when unlock finds it gone before any monitor did (behaviour 59)", function()
    for _, how in ipairs({ "released", "taken", "deleted" }) do
      local other
      assert(lock:lock(helper.seconds(5)))
      if how == "deleted" then consul.kv.delete(key) else agent.vacate(key, lock:session()) end
      if how == "taken" then other = agent.occupy(key) end
      local ok, message, code = lock:unlock()
      assert.are.same({ nil, "LOST" }, { ok, code }, how)
      assert.is_string(message)
      assert.is_false((lock:held()))
      assert.are.equal(other, agent.holder(key))
      if other then agent.vacate(key, other) end
    end
  end)

  it("counts its losses by reason", function()
    assert(lock:lock())
    assert.are.equal(1, client:stats().locks_held)
    consul.session.destroy(lock:session())
    assert(lock:wait_lost(helper.seconds(5)))
    local stats = client:stats()
    assert.are.equal(0, stats.locks_held)
    assert.are.equal(1, stats.losses.session)
    assert.are.equal(0, stats.losses.deadline)
  end)

  it("is not waited for when it was never held, and not for longer than asked", function()
    assert.are.same({ nil, "NOT_HELD" }, answer(lock:wait_lost(1)))
    assert(lock:lock())
    local ok, message, code = lock:wait_lost(0.1)
    assert.are.same({ nil, "timed out", "TIMEOUT" }, { ok, message, code })
    assert.is_true(lock:held())
  end)

  it("says why it was lost also when that happens between two looks of wait_lost", function()
    local methods = getmetatable(lock).__index
    local held = methods.held
    for look = 1, 2 do
      assert(lock:lock(helper.seconds(5)))
      local looks = 0
      methods.held = function(self)
        local answer_then = held(self)
        looks = looks + 1
        if looks == look then
          consul.session.destroy(self:session())
          helper.eventually(function() return not held(self) end)
        end
        if answer_then then return true end
        return held(self)
      end
      local ok, reason = pcall(lock.wait_lost, lock, helper.seconds(5))
      methods.held = held
      assert.are.same({ true, "session" }, { ok, reason })
    end
  end)

  it("has a descriptor that is readable once it is lost", function()
    assert(lock:lock())
    local fd = assert(lock:pollfd())
    assert.is_nil(core.poll({ fd }, 0)[fd])
    consul.session.destroy(lock:session())
    assert.is_true(core.poll({ fd }, helper.seconds(5))[fd])
    assert(lock:lock(helper.seconds(5)))
    assert.is_nil(core.poll({ fd }, 0)[fd])
  end)
end)

describe("behind a bad way to Consul", function()
  local proxy, client, key, lock
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), session = { ttl = "2s", lock_delay = 0 } })
    lock = assert(client:lock({ key = key, monitor = "key" }))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- Has every kind of request for a lock of its own fail with status, as often as the lease allows.
  local function hold_in_trouble(status)
    local way = helper.proxy()
    local one = helper.client({ address = way:address(), session = { ttl = "5s", lock_delay = "20s" } })
    local held = assert(one:lock({ key = key .. "/" .. status, monitor = "key" }))
    assert(held:lock())
    way:rule({ match = fake.RENEW, times = 2, status = status, body = "trouble" })
    way:rule({ match = fake.INFO, times = 2, status = status, body = "trouble" })
    way:rule({ match = fake.KEY, times = 2, status = status, body = "trouble" })
    way:rule({ match = fake.AUDIT, times = 1, status = status, body = "trouble" })
    way:forget()
    way:drop() -- or the long polls would notice nothing
    return { way = way, client = one, lock = held, status = status }
  end

  it("a lock outlives errors of renewals and monitors that are shorter than the lease (behaviours 8 and 57)", function()
    local holds = {}
    for i, status in ipairs({ 429, 503, 403, 502, 500 }) do holds[i] = hold_in_trouble(status) end
    for _, hold in ipairs(holds) do
      assert(hold.way:wait_for(fake.RENEW, 3, helper.seconds(10), "answered"))
      assert(hold.way:wait_for(fake.AUDIT, 2, helper.seconds(10), "answered"))
      assert(hold.way:wait_for(fake.INFO, 3, helper.seconds(10)))
      assert(hold.way:wait_for(fake.KEY, 3, helper.seconds(10)))
      assert.is_true(hold.lock:held(), hold.status)
      assert.is_true(hold.client:stats().renew_failures >= 2)
      assert.is_true(hold.lock:unlock())
    end
  end)

  it("a lock is lost at the lease deadline when nothing comes through any more (behaviour 58)", function()
    assert(lock:lock())
    proxy:blackhole(true)
    assert.is_true(lock:remaining() < 2)
    assert.are.equal("deadline", lock:wait_lost(helper.seconds(6)))
    assert.are.same({ false, "deadline" }, { lock:held() })
    proxy:blackhole(false)
    assert.is_true(lock:lock(helper.seconds(15)))
  end)

  it("a lock is not held from the deadline on, to the moment, and says so without a look at anything else", function()
    assert(lock:lock())
    proxy:blackhole(true)
    proxy:connections() -- what had come through before has been worked on by now
    -- The clock is read on both sides of a look at the lock: this process may have to wait for a processor between any
    -- two. The lock counts in whole milliseconds, so what remains may be said one too long.
    local before = core.now() - 0.001
    local remaining = lock:remaining()
    local after = core.now()
    local held, why, asked, answered
    repeat
      asked = core.now()
      held, why = lock:held()
      answered = core.now()
      assert.is_true(held or answered >= before + remaining)
    until asked >= after + remaining
    assert.are.same({ false, "deadline" }, { held, why })
    assert.are.equal(0, lock:remaining())
    assert.are.same({ nil, "LOST" }, answer(lock:unlock()))
    proxy:blackhole(false)
  end)
end)

describe("a guarded request", function()
  local client, key, lock, receiver
  before_each(function()
    client = helper.client({ session = { ttl = "60s", lock_delay = 0 } })
    key = helper.unique_key()
    lock = assert(client:lock(key))
    receiver = helper.server()
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function push(object)
    local op = assert(object:start_request({ method = "POST", url = receiver:url() .. "/hook", headers = {},
      body = "message", max_body = 1000, timeout = 30 }))
    assert(receiver:wait_for("^POST /hook", 1, helper.seconds(5)))
    return op
  end

  local function code_of(op)
    assert.is_true(op:wait(helper.seconds(5)))
    return (select(3, op:result()))
  end

  it("is refused without a hold", function()
    local request = { method = "POST", url = receiver:url() }
    assert.are.same({ nil, "NOT_HELD" }, answer(lock:request(request)))
    assert(lock:lock())
    consul.session.destroy(lock:session())
    assert(lock:wait_lost(helper.seconds(5)))
    assert.are.same({ nil, "LOST" }, answer(lock:request(request)))
    assert.are.equal(0, receiver:count())
  end)

  it("goes through under a hold", function()
    receiver:rule({ status = 202, headers = { ["X-Seen"] = "yes" }, body = "thanks" })
    assert(lock:lock())
    local response = assert(lock:request({ method = "POST", url = receiver:url() .. "/hook", body = "message" }))
    assert.are.equal(202, response.status)
    assert.are.equal("thanks", response.body)
    assert.are.equal("yes", response.headers["x-seen"])
    assert.are.equal("message", receiver:log()[1].body)
  end)

  it("is aborted in mid-flight when the lock is lost, and an unguarded one is not", function()
    receiver:rule({ action = "stall" })
    assert(lock:lock())
    local free = push(client)
    receiver:forget()
    local guarded = push(lock)
    consul.session.destroy(lock:session())
    assert.are.equal("LOST", code_of(guarded))
    assert(receiver:wait_for("^POST /hook", 1, helper.seconds(5), "gone"))
    assert.is_false(free:done())
    free:cancel()
    assert.are.equal("CANCELED", code_of(free))
  end)

  it("is aborted by an unlock", function()
    receiver:rule({ action = "stall" })
    assert(lock:lock())
    local op = push(lock)
    assert.is_true(lock:unlock())
    assert.are.equal("LOST", code_of(op))
  end)

  it("ends with CLOSED when the client closes", function()
    receiver:rule({ action = "stall" })
    assert(lock:lock())
    local op = push(lock)
    client:close()
    assert.are.equal("CLOSED", code_of(op))
  end)
end)
