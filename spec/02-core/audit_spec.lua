-- How the loss of single locks is noticed: the audit of everything held, and the watch on one key.
local json = require("dkjson")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local BATCH = 64 -- operations that every Consul takes in one transaction
local TTL = 3
local ROUND = TTL / 3 -- from one audit to the next

local function checks_of(entry)
  local keys = {}
  for i, operation in ipairs(json.decode(entry.body)) do
    assert.are.equal("check-session", operation.KV.Verb)
    keys[i] = operation.KV.Key
  end
  return keys
end

describe("the audit through a proxy", function()
  local proxy, client, locks, prefix
  before_each(function()
    proxy = helper.proxy()
    prefix = helper.unique_key()
    client = helper.client({ address = proxy:address(), session = { ttl = TTL } })
    locks = {}
  end)
  after_each(function()
    client, locks = nil, nil
    helper.finish()
  end)

  -- The keys are there before: a session looks after those that it has made, which is no audit.
  local function hold(n)
    for i = 1, n do
      consul.kv.put(("%s/%d"):format(prefix, i), "", { flags = fake.FLAGS })
      locks[i] = assert(client:lock(("%s/%d"):format(prefix, i)))
      assert(locks[i]:lock(helper.seconds(5)))
    end
  end

  local function lost_ones()
    local lost = {}
    for i, lock in ipairs(locks) do
      local is_lost, reason = lock:lost()
      if is_lost then lost[i] = reason end
    end
    return lost
  end

  -- Waits for a whole audit that began after now.
  local function audited()
    local n = proxy:count(fake.AUDIT)
    assert(proxy:wait_for(fake.AUDIT, n + 2, helper.seconds(5), "answered"))
  end

  it("finds the one key that was deleted", function()
    hold(5)
    consul.kv.delete(locks[3]:key())
    assert.are.equal("key", (locks[3]:wait_lost(helper.seconds(5))))
    audited()
    assert.are.same({ [3] = "key" }, lost_ones())
    assert.are.equal(1, client:stats().losses.key)
    assert.are.equal(4, client:stats().locks_held)
  end)

  it("finds several at once, each with its own reason", function()
    hold(6)
    local other = helper.session({ TTL = "60s" })
    proxy:rule({ match = fake.AUDIT, action = "close" }) -- until all is prepared
    consul.kv.delete(locks[1]:key())
    consul.kv.put(locks[4]:key(), "", { release = locks[4]:session(), flags = fake.FLAGS })
    consul.kv.put(locks[4]:key(), "", { acquire = other, flags = fake.FLAGS })
    consul.kv.delete(locks[6]:key())
    proxy:clear()
    for _, i in ipairs({ 1, 4, 6 }) do assert(locks[i]:wait_lost(helper.seconds(5))) end
    assert.are.same({ [1] = "key", [4] = "stolen", [6] = "key" }, lost_ones())
  end)

  it("does not take a plain write to a held key for a loss", function()
    hold(2)
    local token = locks[1]:token()
    consul.kv.put(locks[1]:key(), "written by somebody", { flags = fake.FLAGS })
    audited()
    assert.are.same({}, lost_ones())
    assert.are.equal(token, locks[1]:token())
    assert(locks[1]:unlock(helper.seconds(5)))
  end)

  it("asks for at most 64 keys at once, for each of them, and finds the lost one in any batch", function()
    hold(150)
    proxy:forget()
    consul.kv.delete(locks[7]:key())
    consul.kv.delete(locks[80]:key())
    consul.kv.delete(locks[149]:key())
    for _, i in ipairs({ 7, 80, 149 }) do assert.are.equal("key", (locks[i]:wait_lost(helper.seconds(5)))) end
    assert.are.same({ [7] = "key", [80] = "key", [149] = "key" }, lost_ones())
    -- The log may begin in the middle of a round: two of them, three requests each, have a whole one.
    local log, seen = assert(proxy:wait_for(fake.AUDIT, 6, helper.seconds(5))), {}
    for i = 1, 6 do
      local keys = checks_of(log[i])
      assert.is_true(#keys <= BATCH)
      for _, key in ipairs(keys) do seen[key] = true end
    end
    for _, lock in ipairs(locks) do assert.is_true(seen[lock:key()], lock:key() .. " was not asked for") end
  end)

  it("goes round three times a TTL, with what is held only, and asks a server that is sure", function()
    hold(3)
    assert(locks[2]:unlock(helper.seconds(5)))
    proxy:forget()
    local log = assert(proxy:wait_for(fake.AUDIT, 6, helper.seconds(10)))
    local keys = checks_of(log[3])
    table.sort(keys)
    assert.are.same({ locks[1]:key(), locks[3]:key() }, keys)
    assert.matches("consistent", log[3].target, 1, true)
    local gap = fake.usual_gap(log)
    assert.is_true(gap > 0.9 * ROUND - 0.05 and gap < 1.1 * ROUND + 0.2, ("%.3f s"):format(gap))
  end)
end)

describe("the audit at a server that makes trouble", function()
  local server, client, lock, other
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address(), session = { ttl = 0.6 } })
    lock, other = assert(client:lock("k")), assert(client:lock("other"))
    for _, key in ipairs({ "k", "other" }) do
      consul.at({ address = server:address() }, consul.kv.put, key, "", { flags = fake.FLAGS })
    end
  end)
  after_each(function()
    client, lock, other = nil, nil, nil
    helper.finish()
  end)

  local TROUBLE = {
    { status = 500, body = "No cluster leader" }, { status = 429 },
    { status = 403, body = "Permission denied" }, { status = 404, body = "no txn here" },
    { status = 200, body = "<html>" }, { status = 409, body = "<html>" }, { status = 409, body = "{}" },
    { status = 409, body = "{\"Results\":null,\"Errors\":[]}" }, { raw = "\0\1\2" }, { action = "close" },
    fake.refusal({ "Permission denied" }), fake.refusal({ "some words of a later version" }),
    fake.refusal({ "key \"k\" doesn't exist" }, { 7 }), -- no such operation
    { status = 409, body = "{\"Errors\":[{\"OpIndex\":-1,\"What\":\"key doesn't exist\"}]}" },
    { status = 409, body = "{\"Errors\":[{\"OpIndex\":1e30,\"What\":\"key doesn't exist\"}]}" },
    { status = 409, body = "{\"Errors\":[{\"What\":\"key doesn't exist\"}]}" },
  }

  it("takes nothing for a loss that does not say so, and goes on", function()
    for i = #TROUBLE, 1, -1 do server:rule(fake.on(fake.AUDIT, TROUBLE[i], { first = true, times = 1 })) end
    assert(lock:lock(30))
    assert(other:lock(30))
    assert(server:wait_for(fake.AUDIT, #TROUBLE + 2, helper.seconds(15)))
    assert.is_true(lock:held())
    assert.is_true(other:held())
    server:rule(fake.on(fake.AUDIT, fake.refusal({ "key doesn't exist", "key doesn't exist" }), { first = true }))
    assert.are.equal("key", (lock:wait_lost(helper.seconds(5))))
  end)

  it("loses the one that the answer names, by the server's words", function()
    assert(lock:lock(30))
    assert(other:lock(30))
    local entry = assert(server:wait_for(fake.AUDIT, 1, helper.seconds(5)))[1]
    -- In what order the keys are asked for is the client's business.
    if #checks_of(entry) < 2 then entry = assert(server:wait_for(fake.AUDIT, 2, helper.seconds(5)))[2] end
    local keys = checks_of(entry)
    local what = ("rpc error: failed session check for key %q, current session \"x\" != \"y\""):format(keys[2])
    server:rule(fake.on(fake.AUDIT, fake.refusal({ what }, { 1 }), { first = true, times = 1 }))
    local locks = { [lock:key()] = lock, [other:key()] = other }
    assert.are.equal("stolen", (locks[keys[2]]:wait_lost(helper.seconds(5))))
    assert.is_true(locks[keys[1]]:held())
  end)

  it("does not blame a hold for what became of the one before", function()
    server:rule(fake.on(fake.AUDIT, fake.refusal({ "key \"k\" doesn't exist" }), { first = true, times = 1,
      hold = true }))
    assert(lock:lock(30))
    assert(server:wait_for(fake.AUDIT, 1, helper.seconds(5)))
    assert(lock:unlock(30))
    assert(lock:lock(30))
    server:release()
    assert(server:wait_for(fake.AUDIT, 2, helper.seconds(5), "answered"))
    assert.is_true(lock:held())
    assert.are.equal(0, client:stats().losses.key)
  end)
end)

describe("a lock that watches its key through a proxy", function()
  local proxy, client, lock
  before_each(function()
    proxy = helper.proxy()
    client = helper.client({ address = proxy:address(), session = { ttl = "120s" } }) -- an audit is due after 20 s
    lock = assert(client:lock({ key = helper.unique_key(), monitor = "key" }))
    assert(lock:lock(helper.seconds(5)))
    assert(proxy:wait_for(fake.POLL, 1, helper.seconds(5)))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function reason_without_audit()
    local reason = lock:wait_lost(helper.seconds(5))
    assert.are.equal(0, proxy:count(fake.AUDIT))
    return reason
  end

  it("notices at once that it was deleted", function()
    consul.kv.delete(lock:key())
    assert.are.equal("key", reason_without_audit())
  end)

  it("notices at once that it was taken away", function()
    consul.kv.put(lock:key(), "", { release = lock:session(), flags = fake.FLAGS })
    assert.are.equal("stolen", reason_without_audit())
  end)

  it("survives a poll that is cut and polls that are refused, and watches on", function()
    proxy:rule({ match = fake.KEY, times = 1, status = 500, body = "i/o deadline reached" })
    proxy:rule({ match = fake.KEY, times = 1, status = 429 })
    proxy:drop()
    assert(proxy:wait_for(fake.POLL, 2, helper.seconds(5)))
    assert.is_true(lock:held())
    consul.kv.delete(lock:key())
    assert.are.equal("key", reason_without_audit())
  end)

  it("does not take a 404 that is not Consul's for a loss", function()
    proxy:rule({ match = fake.KEY, times = 1, status = 404, body = "no such host" })
    proxy:drop()
    assert(proxy:wait_for(fake.POLL, 2, helper.seconds(5)))
    assert.is_true(lock:held())
  end)

  it("hangs up when it is released", function()
    assert(lock:unlock(helper.seconds(5)))
    assert(proxy:wait_for(fake.POLL, 1, helper.seconds(5), "gone"))
    assert.is_false(lock:lost())
  end)
end)
