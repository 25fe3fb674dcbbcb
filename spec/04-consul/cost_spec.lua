-- How many requests a lock costs, counted at a proxy.
local fake = require("spec.support.fake")
local helper = require("spec.helper")

describe("a lock and its unlock", function()
  local proxy, client, key
  before_each(function()
    proxy = helper.proxy()
    client = helper.client({ address = proxy:address(), session = { ttl = "600s" } }) -- no renewals meanwhile
    key = helper.unique_key()
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  -- What the client has asked for because of its locks, in order; not the monitors of its session. A transaction goes
  -- by its last operation: what comes before that is what it is conditional on.
  local function commands()
    local found = {}
    for _, entry in ipairs(proxy:log()) do
      local verb = entry.body:match("^.*\"Verb\":\"(.-)\"")
      if not entry.path:find("^/v1/session/info/") and verb ~= "check-session" then
        found[#found + 1] = verb or entry.method .. " " .. entry.path:match("^/v1/(%a+)")
      end
    end
    return found
  end

  local function cycle(lock)
    assert(lock:lock())
    assert(lock:unlock())
  end

  it("are four requests the first time: session, key, lock, unlock", function()
    cycle(assert(client:lock(key)))
    assert.are.same({ "PUT session", "GET kv", "lock", "unlock" }, commands())
    assert.are.equal(1, proxy:count(fake.CREATE))
  end)

  it("are exactly two requests for a key that the client used last", function()
    local lock = assert(client:lock(key))
    cycle(lock)
    assert(proxy:wait_for(fake.INFO .. ".*index=", 1, helper.seconds(5))) -- the session's monitor has settled down
    proxy:forget()
    for _ = 1, 10 do cycle(lock) end
    local found = commands()
    assert.are.equal(20, #found)
    for i = 1, 20 do assert.are.equal(i % 2 == 1 and "lock" or "unlock", found[i]) end
    assert.are.equal(20, proxy:count()) -- and no other request at all
  end)

  it("are exactly two requests for another object on such a key", function()
    local lock = assert(client:lock(key))
    cycle(lock)
    proxy:forget()
    cycle(assert(client:lock(key)))
    assert.are.same({ "lock", "unlock" }, commands())
  end)

  it("are three requests for a new key: one look at what it is used for", function()
    cycle(assert(client:lock(key)))
    proxy:forget()
    cycle(assert(client:lock(key .. "/new")))
    assert.are.same({ "GET kv", "lock", "unlock" }, commands())
    proxy:forget()
    cycle(assert(client:lock(key .. "/new")))
    assert.are.same({ "lock", "unlock" }, commands())
  end)

  it("are three requests for a key that somebody else has been seen on: another look", function()
    local lock, other = assert(client:lock(key)), assert(helper.client():lock(key))
    cycle(lock)
    assert(other:lock())
    assert.are.equal("TIMEOUT", fake.code_of(lock:lock(0)))
    assert(other:unlock())
    proxy:forget()
    cycle(lock)
    assert.are.same({ "GET kv", "lock", "unlock" }, commands())
  end)

  it("use connections that are kept", function()
    local lock = assert(client:lock(key))
    cycle(lock)
    proxy:forget()
    local before = proxy:connections().total
    for _ = 1, 10 do cycle(lock) end
    assert.is_true(proxy:connections().total - before <= 1)
    assert.is_true(proxy:connections().most <= 4)
  end)

  it("are counted by stats as the proxy counts them", function()
    local lock = assert(client:lock(key))
    cycle(lock)
    assert(proxy:wait_for(fake.INFO .. ".*index=", 1, helper.seconds(5)))
    local before = client:stats()
    for _ = 1, 5 do cycle(lock) end
    local after = client:stats()
    assert.are.same({ 10, 5, 5, 0 }, { after.requests - before.requests, after.acquired - before.acquired,
      after.released - before.released, after.locks_held })
  end)
end)
