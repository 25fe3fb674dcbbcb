-- Transactions of many, and what a server may answer to them: whose is the trouble?
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local together = require("spec.support.together")

local MANY = 6
local LOOKS = "^get$"

describe("a transaction of many", function()
  local server, client, locks
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address(), session = { ttl = "60s" } })
    locks = {}
    for i = 1, MANY do locks[i] = assert(client:lock("k" .. i)) end
    local first = assert(client:lock("first"))
    assert(first:lock(5))
    assert(first:unlock(5))
    server:forget()
  end)
  after_each(function()
    client, locks = nil, nil
    helper.finish()
  end)

  local function at_once(method, ...)
    local arguments = { ... }
    local ops = together.start(client, server, "x", function()
      local started = {}
      for i, lock in ipairs(locks) do
        started[i] = assert(lock[method](lock, (table.unpack or unpack)(arguments))) -- luacheck: ignore
      end
      return started
    end)
    return together.results(locks, ops), ops
  end

  local function make_known()
    for _, lock in ipairs(locks) do
      assert(lock:lock(5))
      assert(lock:unlock(5))
    end
    server:forget()
  end

  local function all_are(what, results)
    for key, result in pairs(results) do assert.are.equal(what, result, key) end
  end

  -- How many keys were in each transaction so far.
  local function sizes(pattern)
    local found = {}
    for i, transaction in ipairs(together.transactions(server, pattern)) do found[i] = transaction.count end
    return found
  end

  local PASSING = {
    ["no leader"] = { status = 500, body = "No cluster leader" }, ["a limit"] = { status = 429 },
    ["a closed connection"] = { action = "close" },
    ["garbage"] = { status = 200, body = "{\"Results\":[" },
    ["a refusal without a list"] = { status = 409, body = "{\"Results\":null,\"Errors\":null}" },
    ["a refusal of what was not asked for"] = fake.refusal({ "lock is already held" }, { 2 * MANY }),
  }

  for name, trouble in pairs(PASSING) do
    it(("is everybody's trouble when the answer is %s: all go again"):format(name), function()
      make_known()
      -- libcurl itself repeats a request when a kept connection is closed under it.
      server:rule(fake.on(fake.TXN, trouble, { first = true, times = trouble.action and 4 or 1 }))
      all_are("OK", at_once("start_lock", helper.seconds(10)))
      assert.are.equal(MANY, sizes()[1])
      for _, lock in ipairs(locks) do assert.is_true(lock:held()) end
    end)

    it(("with one try is told of %s at once"):format(name), function()
      make_known()
      server:rule(fake.on(fake.TXN, trouble, { first = true }))
      for key, code in pairs((at_once("start_lock", 0))) do
        assert.is_true(code ~= "OK" and code ~= "LOST" and code ~= "NOMEM", key .. " " .. tostring(code))
      end
    end)
  end

  -- Refused, nothing is carried out, and nobody is named.
  local WHOLE = {
    ["403"] = { status = 403, body = "Permission denied" }, ["400"] = { status = 400, body = "Failed to parse body" },
    ["404"] = { status = 404, body = "not here" },
    ["413 for its size"] = { status = 413, body = "Request body(600044 bytes) too large, max size: 524288 bytes." },
    ["413 for a number that it does not have"] = { status = 413,
      body = "Transaction contains too many operations (129 > 128)" },
    ["500 for a session"] = { status = 500, body = "rpc error making call: raft apply failed: invalid session \"x\"" },
  }

  for name, refusal in pairs(WHOLE) do
    it(("that is refused with a %s goes again in pieces, since somebody alone may be to blame"):format(name), function()
      make_known()
      server:rule(fake.on(fake.TXN, refusal, { first = true, times = 1 }))
      all_are("OK", at_once("start_lock", 0))
      assert.are.same({ MANY, 1, 1, 1, 1, 1, 1 }, sizes())
      server:forget()
      all_are("OK", at_once("start_unlock", 0)) -- that was for once
      assert.are.same({ MANY }, sizes())
    end)
  end

  it("that is refused, and so is each alone: everybody is told, once", function()
    make_known()
    server:rule({ first = true, match = fake.TXN, status = 403, body = "Permission denied" })
    all_are("DENIED", at_once("start_lock", 0))
    assert.are.equal(MANY + 1, server:count(fake.TXN))
  end)

  it("with too many operations goes again in as many as it says", function()
    make_known()
    server:rule({ first = true, match = fake.TXN, times = 1, status = 413,
      body = "Transaction contains too many operations (12 > 5)" })
    all_are("OK", at_once("start_lock", 0))
    assert.are.same({ MANY, 2, 2, 2 }, sizes())
    server:forget()
    all_are("OK", at_once("start_unlock", 0))
    assert.are.same({ 2, 2, 2 }, sizes())
  end)

  it("is refused for some: their words, and their lock-delay, are their own", function()
    make_known()
    server:rule(fake.on(fake.TXN, fake.refusal({ "Permission denied",
      "failed to lock key \"k4\" due to lock delay" }, { 3, 7 }), { first = true, times = 1 }))
    local results = at_once("start_lock", 0)
    for i, lock in ipairs(locks) do
      assert.are.equal(i == 2 and "DENIED" or i == 4 and "TIMEOUT" or "OK", results[lock:key()])
    end
    assert.are.same({ MANY, MANY - 2 }, sizes())
  end)

  it("goes again without new company: who comes meanwhile has a transaction of his own", function()
    make_known()
    local late = assert(client:lock("late"))
    assert(late:lock(5))
    server:rule(fake.on(fake.TXN, fake.refusal({ "failed to lock key \"k1\", lock is already held" }, { 1 }),
      { first = true, times = 1, delay = 0.1 }))
    local free = together.occupy(client, server, "x")
    local ops = {}
    for i, lock in ipairs(locks) do ops[i] = assert(lock:start_lock(i == 1 and 0 or nil)) end
    server:forget()
    free() -- the other slot is never answered
    assert(server:wait_for(fake.TXN, 1, helper.seconds(5)))
    local unlock = assert(late:start_unlock(5))
    all_are("OK", together.results(locks, ops))
    assert.is_true(fake.result(unlock))
    for _, transaction in ipairs(together.transactions(server)) do
      assert.is_true(transaction.count == 1 or not transaction.keys.late)
    end
    free()
  end)

  it("of looks may hide a key, which is asked for alone", function()
    local body = "{\"Results\":[%s],\"Errors\":null}"
    local result = "{\"KV\":{\"Key\":\"k%d\",\"Flags\":%s,\"Value\":null,\"ModifyIndex\":7}}"
    local results = {}
    for _, i in ipairs({ 1, 2, 4, 6 }) do results[#results + 1] = result:format(i, fake.FLAGS) end
    fake.occupy(server, { "k5" })
    server:rule({ first = true, match = "^GET /v1/kv/k3", status = 403, body = "Permission denied" })
    server:rule({ first = true, match = fake.TXN, times = 1, status = 200,
      body = body:format(table.concat(results, ",")) })
    local found = at_once("start_lock", 0)
    assert.are.equal(MANY, sizes(LOOKS)[1])
    assert.are.equal("DENIED", found.k3)
    assert.are.equal("TIMEOUT", found.k5)
    assert.are.equal(1, server:count("^GET /v1/kv/k3$"))
    assert.are.equal(1, server:count("^GET /v1/kv/k5$"))
    assert.are.equal(0, server:count("^GET /v1/kv/k[1246]$")) -- what was in the answer
  end)

  it("of looks whose answer is too long is asked for in pieces", function()
    server:rule({ first = true, match = fake.TXN, times = 1, status = 200, body = (" "):rep(9 * 1024 * 1024) })
    all_are("OK", at_once("start_lock", 5))
    assert.are.equal(MANY, sizes(LOOKS)[1])
    for i = 1, MANY do assert.are.equal(1, server:count("^GET /v1/kv/k" .. i .. "$")) end
  end)

  it("of looks is given up when nobody wants its answer any more", function()
    server:rule({ first = true, match = fake.TXN, action = "stall" })
    local ops = together.start(client, server, "x", function()
      local started = {}
      for i, lock in ipairs(locks) do started[i] = assert(lock:start_lock()) end
      return started
    end)
    assert(server:wait_for(fake.TXN, 1, helper.seconds(5)))
    for i, op in ipairs(ops) do
      assert.are.equal(0, server:count(fake.TXN, "gone"))
      op:cancel()
      assert.are.equal("CANCELED", fake.code_of(fake.result(op)))
      if i < MANY then assert.is_nil(ops[i + 1]:wait(0)) end
    end
    assert(server:wait_for(fake.TXN, 1, helper.seconds(5), "gone"))
  end)

  it("of deletions tells each what it needs to know", function()
    make_known()
    fake.occupy(server, { "k2" })
    server:rule(fake.on("^PUT /v1/txn$", fake.refusal({ "failed to delete key \"k4\", index is stale" }, { 2 }),
      { first = true, times = 1 }))
    local results = at_once("start_destroy", 0)
    for i, lock in ipairs(locks) do
      assert.are.equal((i == 2 or i == 4) and "IN_USE" or "OK", results[lock:key()], lock:key())
    end
    assert.are.same({ MANY - 1, MANY - 2 }, sizes("^delete%-cas$"))
  end)

  for _, reply in ipairs({ "answered", "never answered" }) do
    it(("that is %s when the client closes leaves nothing"):format(reply), function()
      make_known()
      server:rule({ first = true, match = fake.TXN, times = 1, delay = reply == "answered" and 0.05 or nil,
        action = reply ~= "answered" and "pass_then_stall" or nil })
      local ops = together.start(client, server, "x", function()
        local started = {}
        for i, lock in ipairs(locks) do started[i] = assert(lock:start_lock()) end
        return started
      end)
      assert(server:wait_for(fake.TXN, 1, helper.seconds(5)))
      client:close()
      for _, op in ipairs(ops) do assert.are.equal("CLOSED", fake.code_of(fake.result(op))) end
      assert.are.same({}, server:holders())
    end)
  end

  it("whose locks are dropped in flight leaves nothing held", function()
    make_known()
    server:rule({ first = true, match = fake.TXN, times = 1, hold = true })
    together.start(client, server, "x", function()
      for _, lock in ipairs(locks) do assert(lock:start_lock()) end
    end)
    assert(server:wait_for(fake.TXN, 1, helper.seconds(5)))
    locks = {}
    collectgarbage()
    collectgarbage()
    server:release()
    assert(server:wait_for(fake.TXN, 2, helper.seconds(5), "answered"))
    helper.eventually(function() return next(server:holders()) == nil end)
  end)
end)
