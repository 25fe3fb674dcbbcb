-- Many waiters beside held locks, at an agent that takes 200 connections from one address as Consul does by default.
-- A client that opens one for every waiter is cut off together with everybody else on its host, and the renewals of
-- what is held are the first to suffer.
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local json = require("dkjson")

local result = fake.result

local BATCH = 64 -- operations that every Consul takes in one transaction
local CONNECTIONS = 40 -- that a client has at most

-- One verb for many keys: lock or unlock by a session made elsewhere.
local function all(verb, keys, session)
  for first = 1, #keys, BATCH do
    local operations = {}
    for i = first, math.min(first + BATCH - 1, #keys) do
      operations[#operations + 1] = ("{\"KV\":{\"Verb\":%q,\"Key\":%q,\"Value\":\"\",\"Flags\":%s,\"Session\":%q}}")
        :format(verb, keys[i], fake.FLAGS, session)
    end
    local status, text = consul.request("PUT", "/v1/txn", nil, "[" .. table.concat(operations, ",") .. "]")
    assert.are.equal(200, status, text)
    assert.is_true(#json.decode(text).Results > 0)
  end
end

local function keys_of(n)
  local prefix, keys = helper.unique_key(), {}
  for i = 1, n do keys[i] = ("%s/%03d"):format(prefix, i) end
  return keys
end

-- Has a session made elsewhere hold all keys, and an op of the client wait for each.
local function wait_for_all(client, keys)
  local session = helper.session({ TTL = "120s", LockDelay = "0s" })
  all("lock", keys, session)
  local waiters = {}
  for i, key in ipairs(keys) do
    local lock = assert(client:lock(key))
    waiters[i] = { lock = lock, op = assert(lock:start_lock()) }
  end
  return waiters, session
end

-- Gives back every nth key: whoever waits for it has it soon, and nobody else has anything.
local function hand_over(waiters, keys, session, n)
  local freed, takers = {}, {}
  for i = n, #keys, n do
    freed[#freed + 1] = keys[i]
    takers[i] = true
  end
  all("unlock", freed, session)
  for i, waiter in ipairs(waiters) do
    if takers[i] then
      assert.is_true(result(waiter.op, 10))
      assert.are.equal(waiter.lock:session(), consul.kv.get(keys[i]).Session)
    end
  end
  for i, waiter in ipairs(waiters) do
    if not takers[i] then assert.is_false(waiter.op:done()) end
  end
  return #freed
end

describe("a client with many waiting locks, at an agent with its default limits", function()
  local client, waiters
  after_each(function()
    client, waiters = nil, nil
    helper.finish()
  end)

  it("holds what it holds beside 230 waiters, and each of them gets its lock when it is free", function()
    client = helper.client({ session = { ttl = "5s", lock_delay = "6s" } })
    local held = {}
    for i, key in ipairs(keys_of(12)) do
      held[i] = assert(client:lock(key))
      assert(held[i]:lock(helper.seconds(5)))
    end
    local function lost()
      for _, lock in ipairs(held) do
        local holds, reason = lock:held()
        if not holds then return reason end
      end
    end
    local keys = keys_of(230)
    local session
    waiters, session = wait_for_all(client, keys)
    local before = client:stats().renewals
    helper.eventually(function() -- longer than a lease
      local renewals = client:stats().renewals - before
      return lost() or renewals >= 10, renewals .. " renewals"
    end, 15)
    assert.is_nil(lost())
    assert.is_true(client:stats().connections <= CONNECTIONS, client:stats().connections .. " connections")
    assert.are.equal(10, hand_over(waiters, keys, session, 23))
    assert.is_nil(lost())
    for _, lock in ipairs(held) do assert.is_true(lock:unlock(helper.seconds(5))) end
  end)

  it("gives each of 600 waiters its lock when it is free, over 40 connections at most", function()
    local proxy = helper.proxy()
    client = helper.client({ address = proxy:address() })
    local keys = keys_of(600)
    local session
    waiters, session = wait_for_all(client, keys)
    assert.are.equal(10, hand_over(waiters, keys, session, 60))
    local most = proxy:connections().most
    assert.is_true(most <= CONNECTIONS, most .. " connections at once")
    assert.is_true(client:stats().connections <= CONNECTIONS)
  end)
end)
