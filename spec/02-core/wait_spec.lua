-- A lock that somebody else has: the long poll on its key, and what can go wrong with it.
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local socket = require("socket")

local code_of, result = fake.code_of, fake.result

describe("waiting for a lock through a proxy", function()
  local proxy, client, key, lock, other, op
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    other = helper.session({ TTL = "60s" })
    assert.is_true(consul.kv.put(key, "", { acquire = other, flags = fake.FLAGS }))
    client = helper.client({ address = proxy:address() })
    lock = assert(client:lock(key))
  end)
  after_each(function()
    client, lock, op = nil, nil, nil
    helper.finish()
  end)

  local function give_back()
    assert.is_true(consul.kv.put(key, "", { release = other, flags = fake.FLAGS }))
  end

  local function polls(n, state)
    return assert(proxy:wait_for(fake.POLL, n, helper.seconds(10), state))
  end

  it("ends with the lock when the other gives it back", function()
    op = assert(lock:start_lock())
    polls(1)
    give_back()
    assert.is_true(result(op))
    assert.are.equal(lock:session(), consul.kv.get(key).Session)
    assert.are.equal(1, proxy:count(fake.POLL))
  end)

  it("ends with the lock when the key is deleted", function()
    op = assert(lock:start_lock())
    polls(1)
    consul.kv.delete(key)
    assert.is_true(result(op))
  end)

  for _, how in ipairs({ "closed", "reset" }) do
    it(("polls again when the connection is %s in mid-poll"):format(how), function()
      op = assert(lock:start_lock())
      polls(1)
      proxy:drop(how == "reset" and "reset" or nil)
      polls(2)
      assert.is_nil(op:wait(0))
      give_back()
      assert.is_true(result(op))
    end)
  end

  it("takes the lock that became free while the connection was down", function()
    op = assert(lock:start_lock())
    polls(1)
    proxy:rule({ match = fake.KEY, action = "close" })
    proxy:drop()
    assert(proxy:wait_for(fake.KEY, 3, helper.seconds(5)))
    give_back()
    proxy:clear()
    assert.is_true(result(op))
  end)

  it("goes on after polls that are refused for a passing reason", function()
    proxy:rule({ match = fake.POLL, times = 1, status = 429, body = "rate limit exceeded" })
    proxy:rule({ match = fake.POLL, times = 1, status = 500, body = "i/o deadline reached" })
    op = assert(lock:start_lock())
    polls(3)
    give_back()
    assert.is_true(result(op))
  end)

  it("asks the server for a wait of more than nothing, however little time is left (behaviour 72)", function()
    for _, seconds in ipairs({ 0.001, 0.05, 3 }) do
      local ok, message, code = lock:lock(seconds)
      assert.are.same({ nil, "TIMEOUT" }, { ok, code })
      assert.matches(key, message, 1, true)
    end
    local found = proxy:log("index=")
    assert.is_true(#found > 0)
    for _, entry in ipairs(found) do
      assert.is_true(tonumber(entry.target:match("[?&]wait=(%d+)ms")) > 0, entry.target)
      assert.is_true(tonumber(entry.target:match("[?&]index=(%d+)")) > 0, entry.target)
    end
  end)

  it("names the holder when the time is over", function()
    assert.matches(other, select(2, lock:lock(3)), 1, true)
    assert.matches("held", select(2, lock:lock(0)), 1, true)
  end)

  it("does not poll with timeout 0", function()
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    assert.are.equal(0, proxy:count(fake.POLL))
  end)

  it("answers CONFLICT, and spoils nothing, when the key is put to another use before its turn to try", function()
    local held, unlocks = {}, {}
    for i = 1, 2 do -- so many writes at once
      held[i] = assert(client:lock(("%s/%d"):format(key, i)))
      assert(held[i]:lock(helper.seconds(5)))
    end
    op = assert(lock:start_lock())
    polls(1)
    local before = proxy:count(fake.TXN)
    proxy:rule({ match = fake.TXN, times = 2, hold = true })
    for i = 1, 2 do -- one after the other, or they would share a request
      unlocks[i] = assert(held[i]:start_unlock())
      assert(proxy:wait_for(fake.TXN, before + i, helper.seconds(5)))
    end
    give_back()
    polls(1, "answered")
    assert.is_true(consul.kv.put(key, "configuration", { flags = 7 }))
    proxy:release()
    assert.are.equal("CONFLICT", code_of(result(op)))
    local pair = consul.kv.get(key)
    assert.are.same({ "configuration", "7" }, { pair.Value, pair.Flags })
    for i = 1, 2 do assert.is_true(result(unlocks[i])) end
  end)

  it("hangs up the poll when it is canceled", function()
    op = assert(lock:start_lock())
    polls(1)
    lock:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    polls(1, "gone")
    assert.are.equal(0, proxy:count(fake.POLL, "answered"))
  end)

  it("polls once for all the locks of one client on the key", function()
    local second, third = assert(client:lock(key)), assert(client:lock(key))
    local ops = { assert(lock:start_lock()), assert(second:start_lock()), assert(third:start_lock()) }
    polls(1)
    give_back()
    assert.is_true(result(ops[1]))
    assert(lock:unlock(30))
    assert.is_true(result(ops[2]))
    assert(second:unlock(30))
    assert.is_true(result(ops[3]))
    assert.are.equal(1, proxy:count(fake.POLL))
  end)
end)

describe("waiting for a lock at a server with odd indexes", function()
  local server, client, lock, op
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
    lock = assert(client:lock("k"))
  end)
  after_each(function()
    client, lock, op = nil, nil, nil
    helper.finish()
  end)

  local MANY = 12 -- requests in SECONDS that would be a tight loop
  local SECONDS = 0.8

  -- So many of them in the time since start.
  local function many_since(start)
    return MANY * math.max((socket.gettime() - start) / SECONDS, 1)
  end

  -- The index of every answer to a read, or of the first ones and, in [1], all others.
  local ODD = {
    still = { "50" }, -- and the answer comes at once
    backwards = { "50", "40", "30", "20", "10", "5", "50", "4" },
    zero = { "0" },
    missing = { false },
  }

  local function reads_of(key)
    return fake.KEY .. key
  end

  it("does not loop nor miss a lock when the index stands still, goes back, is 0 or missing (behaviour 61)", function()
    local ops, start = {}, socket.gettime()
    for key, indexes in pairs(ODD) do
      for i, index in ipairs(indexes) do
        server:rule(fake.on(reads_of(key), fake.pair("another", index or nil), { first = true,
          times = i > 1 and 1 or nil }))
      end
      ops[key] = assert(helper.keep(assert(client:lock(key))):start_lock())
      assert(server:wait_for(reads_of(key), 1, helper.seconds(5))) -- alone, not with the others
    end
    server:wait_for(fake.KEY, MANY * 4, SECONDS) -- which would be too many
    for key in pairs(ODD) do
      assert(server:wait_for(reads_of(key), 2, helper.seconds(5)))
      local reads = server:count(reads_of(key))
      assert.is_true(reads < many_since(start), ("%s: %d reads"):format(key, reads))
      assert.is_nil(ops[key]:wait(0))
      server:rule({ first = true, match = reads_of(key), status = 404, headers = { ["x-consul-index"] = "60" } })
    end
    for _, waiting in pairs(ops) do assert.is_true(result(waiting)) end
  end)

  it("looks without an index, and waits from what that says, when the index went back", function()
    server:rule(fake.on(fake.KEY, fake.pair("another", "50"), { first = true }))
    server:rule(fake.on(fake.POLL, fake.pair("another", "7"), { first = true }))
    op = assert(lock:start_lock())
    local log = assert(server:wait_for(fake.KEY, 4, helper.seconds(5)))
    assert.matches("index=50", log[2].target, 1, true)
    assert.is_nil(log[3].target:find("index="))
    assert.matches("index=50", log[4].target, 1, true)
  end)

  it("does not loop over answers that say free to a read and held to the transaction", function()
    server:rule(fake.on(fake.TXN, fake.refusal({ "failed to lock key \"k\", lock is already held" }),
      { first = true }))
    server:rule(fake.on(fake.KEY, fake.pair("", "50"), { first = true }))
    local start = socket.gettime()
    op = assert(lock:start_lock())
    server:wait_for(fake.TXN, MANY, SECONDS)
    local count = server:count(fake.TXN)
    assert.is_true(count < many_since(start), count .. " transactions")
    server:rule(fake.on(fake.TXN, fake.written("k", 9), { first = true }))
    assert.is_true(result(op))
    assert.are.equal(9, lock:token())
  end)

  it("answers CONFLICT when the key is given another use meanwhile", function()
    local used = fake.pair("", "51")
    used.body = used.body:gsub(fake.FLAGS, "0")
    server:rule(fake.on(fake.KEY, fake.pair("another", "50"), { first = true, times = 1 }))
    server:rule(fake.on(fake.POLL, used, { first = true }))
    assert.are.equal("CONFLICT", code_of(lock:lock(helper.seconds(5))))
    assert.are.equal(0, server:count(fake.TXN))
  end)
end)
