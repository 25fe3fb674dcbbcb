-- A client with more sessions to watch, or more keys to wait for, than it has polls.
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local socket = require("socket")

local result = fake.result

local POLLS = 28 -- keys that a client polls at once: the others are read many at a time
local CONNECTIONS = 40 -- that a client has to Consul at most

describe("a crowd of", function()
  local server, client, locks
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
    locks = {}
  end)
  after_each(function()
    client, locks = nil, nil
    helper.finish()
  end)

  local function at_server(fn, ...)
    return consul.at({ address = server:address() }, fn, ...)
  end

  -- Has another session hold that key, and keep it back for so many seconds when it ends. Answers its id.
  local function occupy(key, lock_delay)
    return at_server(function()
      local id = consul.session.create({ TTL = "60s", LockDelay = lock_delay .. "s" })
      local op = "[{\"KV\":{\"Verb\":\"lock\",\"Key\":%q,\"Session\":%q,\"Flags\":%s}}]"
      assert(consul.request("PUT", "/v1/txn", nil, op:format(key, id, fake.FLAGS)) == 200)
      return id
    end)
  end

  local function start_lock(options)
    local lock = assert(client:lock(options))
    locks[#locks + 1] = lock
    return assert(lock:start_lock())
  end

  -- Has n locks wait for keys that another session has. Answers their ops.
  local function wait_for_busy(n)
    local keys, ops = {}, {}
    for i = 1, n do keys[i] = "busy/" .. i end
    fake.occupy(server, keys)
    for i = 1, n do ops[i] = start_lock(keys[i]) end
    assert(server:wait_for(fake.POLL, math.min(n, POLLS), helper.seconds(10)))
    return ops
  end

  it("sessions of their own does not keep a waiter from a key that is released", function()
    local other = occupy("k", 0)
    local ops = {}
    for i = 1, 40 do ops[i] = start_lock({ key = "own/" .. i, session_ttl = 30 }) end
    for i = 1, 40 do assert(result(ops[i], 10)) end
    server:wait_for(fake.INFO .. ".*index=", 32, 1.2) -- if so many are watched at once, there is no poll left
    local op = start_lock("k")
    assert(server:wait_for(fake.KEY .. "k", 1, helper.seconds(5), "answered"))
    server:end_session(other)
    assert.is_true(op:wait(8)) -- before a poll comes back by itself
    assert.is_true((op:result()))
  end)

  describe("waiters, one of whose keys is absent and in a lock-delay,", function()
    local ops, dead, victim, waiting
    before_each(function()
      ops = wait_for_busy(POLLS)
      dead, victim = occupy("dead", 300), occupy("victim", 0)
      server:forget()
      ops[#ops + 1] = start_lock("dead")
      waiting = start_lock("victim")
      assert(server:wait_for(fake.TXN, 4, helper.seconds(5), "answered")) -- reads of both: they are not polled
      server:end_session(dead)
      at_server(consul.kv.delete, "dead")
    end)
    after_each(function() ops, waiting = nil, nil end)

    it("has the others get what is released", function()
      assert(server:wait_for(fake.KEY .. "dead", 2, helper.seconds(5), "answered"))
      server:end_session(victim)
      assert.is_true(result(waiting))
    end)

    it("sends no more reads than before", function()
      assert(server:wait_for(fake.KEY .. "dead", 2, helper.seconds(5), "answered"))
      server:forget()
      local start = socket.gettime()
      server:wait_for(fake.TXN, 100, 1)
      local count = server:count(fake.TXN)
      assert.is_true(count < 20 * math.max(socket.gettime() - start, 1), count .. " transactions")
    end)
  end)

  describe("waiters", function()
    local ops, lock
    before_each(function()
      -- Half of that a renewal may go unanswered. After it all polls begin anew, and the server may count them twice.
      client = helper.client({ address = server:address(), session = { ttl = 8 } })
      lock = assert(client:lock("mine"))
      assert(lock:lock(30))
      ops = wait_for_busy(CONNECTIONS)
    end)
    after_each(function() ops, lock = nil, nil end)

    it("has 40 connections at most when the server answers 500 to everything", function()
      server:rule({ first = true, match = "^GET /v1/kv/", status = 500, body = "No cluster leader", delay = 0.1 })
      server:rule({ first = true, match = "^PUT", status = 500, body = "No cluster leader", delay = 0.1 })
      assert(server:wait_for("^PUT", 20, helper.seconds(10), "answered"))
      assert.is_true(server:connections().most <= CONNECTIONS, server:connections().most .. " connections")
      assert.are.equal(CONNECTIONS, #ops)
    end)

    it("is not polled for anew when the server refuses renewals for a moment", function()
      local polls = server:count(fake.POLL)
      server:rule({ first = true, match = fake.RENEW, status = 429, body = "rate limit exceeded", times = 4 })
      local renewals = server:count(fake.RENEW, "answered")
      assert(server:wait_for(fake.RENEW, renewals + 5, helper.seconds(10), "answered"))
      assert.is_true(lock:held())
      assert.is_true(server:count(fake.POLL) < polls + 10, server:count(fake.POLL) - polls .. " polls")
    end)
  end)
end)
