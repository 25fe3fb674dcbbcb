-- Many ops, and what is forgotten instead of ended.
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local holdfast = require("holdfast")

local MANY = 100
local POLLS = 28 -- keys that a client polls at once: the others are read many at a time

-- What a session that has made keys has at work: it is kept, watched and audited, and those keys are looked after.
local OF_SESSION = 4

local function collect()
  collectgarbage()
  collectgarbage()
end

local function nothing_left_but(ops)
  helper.eventually(function()
    local count = core.counters().ops
    return count == ops, count .. " ops"
  end)
end

-- Besides what the sessions have at work: an acquire that is dropped and has no answer soon leaves its session behind.
local function nothing_left_beside_sessions(client, ops)
  helper.eventually(function()
    local count, sessions = core.counters().ops, client:stats().sessions
    return count <= OF_SESSION * sessions + ops, ("%d ops, %d sessions"):format(count, sessions)
  end)
end

describe("what is dropped unfinished", function()
  local server, client
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function request_of(path)
    return { method = "GET", url = server:url() .. path, max_body = 1, headers = {}, timeout = 60 }
  end

  it("hangs up, and leaves nothing: 100 requests", function()
    server:rule({ first = true, match = "/slow", action = "stall" })
    for i = 1, MANY do assert(client:start_request(request_of("/slow" .. i))) end
    collect()
    nothing_left_but(0)
    helper.eventually(function()
      local open = server:connections().open
      return open == 0, open .. " connections"
    end)
    assert.are.equal(0, client:stats().connections)
  end)

  it("hangs up in mid-flight: 100 requests", function()
    server:rule({ first = true, match = "/slow", action = "stall" })
    do
      local ops = {}
      for i = 1, MANY do ops[i] = assert(client:start_request(request_of("/slow" .. i))) end
      assert(server:wait_for("/slow", #ops, helper.seconds(10)))
    end
    collect()
    assert(server:wait_for("/slow", MANY, helper.seconds(10), "gone"))
    nothing_left_but(0)
  end)

  it("ends: 100 locks that wait for their turn in the client", function()
    local first = assert(client:lock("k"))
    assert(first:lock(30))
    for _ = 1, MANY do assert(assert(client:lock("k")):start_lock()) end
    collect()
    nothing_left_but(OF_SESSION + 1) -- what is there to release the first
    assert.are.equal(1, core.counters().locks)
    assert(first:unlock(30))
    assert.are.same({ "lock", "unlock" }, fake.verbs(server))
  end)

  it("ends: 100 locks that wait for a session", function()
    server:rule({ first = true, match = fake.CREATE, status = 500, body = "No cluster leader" })
    for i = 1, MANY do assert(assert(client:lock("k" .. i)):start_lock()) end
    assert(server:wait_for(fake.CREATE, 1, helper.seconds(5)))
    collect()
    nothing_left_but(0)
    assert.are.equal(0, core.counters().sessions)
  end)

  it("ends with CLOSED at the close of the client: 100 ops of each kind", function()
    server:rule({ first = true, match = "/slow", action = "stall" })
    local keys, locks, ops = {}, {}, {}
    for i = 1, MANY do keys[i] = "k" .. i end
    fake.occupy(server, keys)
    for i = 1, MANY do
      ops[#ops + 1] = assert(client:start_request(request_of("/slow")))
      locks[i] = assert(client:lock(keys[i])) -- one that is collected cancels what it waits for
      ops[#ops + 1] = assert(locks[i]:start_lock())
    end
    assert(server:wait_for(fake.POLL, POLLS, helper.seconds(10)))
    assert(server:wait_for(fake.TXN, 1, helper.seconds(10), "answered"))
    client:close()
    for _, op in ipairs(ops) do assert.are.equal("CLOSED", fake.code_of(fake.result(op))) end
    assert.are.equal(MANY, #locks)
  end)
end)

describe("locks that are dropped unfinished, through a proxy", function()
  after_each(helper.finish)

  it("leave no key held, wherever they were", function()
    local proxy = helper.proxy()
    proxy:rule({ match = fake.TXN, times = MANY / 2, delay = 0.05 })
    local client = helper.client({ address = proxy:address() })
    local prefix = helper.unique_key()
    local first = assert(client:lock(prefix .. "/first"))
    assert(first:lock(helper.seconds(5)))
    for i = 1, MANY do
      assert(assert(client:lock(("%s/%d"):format(prefix, i))):start_lock())
      if i % 10 == 0 then assert(proxy:wait_for("^%u+ /v1/[kt][vx]", i / 10, helper.seconds(10))) end
    end
    collect()
    nothing_left_beside_sessions(client, 1)
    for _, key in ipairs(consul.kv.keys(prefix .. "/")) do
      local holder = consul.kv.get(key).Session
      assert.are.equal(key == first:key() and first:session() or nil, holder, key)
    end
  end)

  it("use at most 4 connections to Consul, 300 of them held at once", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address(), session = { ttl = "60s" } }) -- no renewals beside it
    local prefix, locks, ops = helper.unique_key(), {}, {}
    for i = 1, 300 do
      locks[i] = assert(client:lock(("%s/%d"):format(prefix, i)))
      ops[i] = assert(locks[i]:start_lock())
    end
    for i = 1, 300 do assert.is_true(fake.result(ops[i], 20)) end
    assert.are.equal(300, client:stats().locks_held)
    assert.is_true(proxy:connections().most <= 4, proxy:connections().most .. " connections")
    assert.is_true(client:stats().connections <= 4)
  end)
end)

describe("a hasty garbage collector", function()
  local server
  before_each(function()
    server = fake.consul()
    server:rule({ first = true, match = "/slow", action = "stall" })
  end)
  after_each(function()
    collectgarbage("setpause", 200)
    collectgarbage("setstepmul", 100)
    helper.finish()
  end)

  local function hurry()
    collectgarbage("setpause", 10)
    collectgarbage("setstepmul", 1000)
  end

  it("collects ops and locks at any moment of their life", function()
    local client = helper.client({ address = server:address() })
    hurry()
    for i = 1, 300 do
      local lock = assert(client:lock("k" .. i % 7))
      local op = assert(lock:start_lock(1))
      if i % 3 == 0 then op:wait(0.001) end
      if i % 5 == 0 then lock:start_unlock(0) end
      assert(client:start_request({ method = "GET", url = server:url() .. "/slow", max_body = 1, headers = {} }))
    end
    collect()
    nothing_left_beside_sessions(client, 0)
    helper.eventually(function() return client:stats().locks_held == 0 end)
    assert.are.same({}, server:holders()) -- every one that was taken was given back
  end)

  it("collects clients with all that they have", function()
    hurry()
    for i = 1, 30 do
      local client = assert(holdfast.new({ address = server:address() }))
      local lock = assert(client:lock("k" .. i))
      assert(lock:start_lock())
      if i % 2 == 0 then assert(lock:lock(5) or true) end
      assert(client:start_request({ method = "GET", url = server:url() .. "/slow", max_body = 1, headers = {} }))
    end
    collect()
    helper.eventually(function()
      collect()
      local counters = core.counters()
      return counters.clients == 0 and counters.ops == 0, ("%d clients, %d ops"):format(counters.clients, counters.ops)
    end)
    assert.are.equal(server:count(fake.CREATE, "answered"), server:count(fake.DESTROY))
  end)
end)
