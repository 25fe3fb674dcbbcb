-- Refusals that say what has not happened: a request that the server did not carry out leaves no doubt, so nothing has
-- to be taken back, and nothing counts as done.
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, result = fake.code_of, fake.result

local LEADER_LIMIT = "rate limit exceeded for operation that can only be performed by the leader, try again later"

-- Those of the lock transactions so far that have this verb among theirs.
local function sent(server, verb)
  local found = {}
  for _, entry in ipairs(server:log(fake.TXN)) do
    if entry.body:find(("\"Verb\":%q"):format(verb), 1, true) then found[#found + 1] = entry end
  end
  return found
end

local NOT_CARRIED_OUT = {
  { name = "a 429", status = 429, body = "rate limit exceeded, try again later or against a different server" },
  { name = "a 429 for too many connections", status = 429,
    body = "Your IP is issuing too many concurrent connections, please rate limit your calls\n" },
  { name = "a 503 of the leader's limit", status = 503, body = LEADER_LIMIT },
}

for _, refusal in ipairs(NOT_CARRIED_OUT) do
  describe(refusal.name .. " to a transaction", function()
    local server, client
    after_each(function()
      client = nil
      helper.finish()
    end)

    local function refuse(times)
      server:rule({ first = true, match = fake.TXN, times = times, status = refusal.status, body = refusal.body })
    end

    it("does not turn the unlock of a stolen lock into a success", function()
      server = helper.proxy()
      client = helper.client({ address = server:address(), session = { ttl = "60s" } })
      local key = helper.unique_key()
      local lock = assert(client:lock(key))
      assert(lock:lock(helper.seconds(5)))
      assert(consul.kv.put(key, "", { release = lock:session(), flags = fake.FLAGS }))
      assert(consul.kv.put(key, "", { acquire = helper.session({ TTL = "60s" }), flags = fake.FLAGS }))
      refuse(1)
      assert.are.equal("LOST", code_of(lock:unlock(helper.seconds(5))))
    end)

    it("is told at once to a lock with one try, and leaves nothing to be made good", function()
      server = fake.consul()
      client = helper.client({ address = server:address() })
      local lock = assert(client:lock("k"))
      assert(lock:lock(30))
      assert(lock:unlock(30))
      server:forget()
      refuse(1)
      local ok, message, code = lock:lock(0)
      assert.are.same({ nil, "HTTP" }, { ok, code })
      assert.matches(refusal.status .. ": " .. refusal.body:sub(1, 20), message, 1, true)
      assert.is_true(assert(client:lock("k")):lock(0)) -- and the key is not in use
      assert.are.equal(0, #sent(server, "unlock"))
      assert.are.equal(2, server:count(fake.TXN))
      assert.are.equal(0, server:count(fake.CREATE) + server:count(fake.DESTROY)) -- the session has nothing to hide
    end)

    it("is tried again by a lock with patience, in the same session", function()
      server = fake.consul()
      client = helper.client({ address = server:address() })
      local lock = assert(client:lock("k"))
      refuse(2)
      assert.is_true(lock:lock(helper.seconds(10)))
      assert.are.equal(fake.id(1), lock:session())
      assert.are.equal(0, #sent(server, "unlock"))
      assert.are.equal(1, server:count(fake.CREATE))
    end)
  end)
end

describe("a session that cannot be made", function()
  local server, client
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  it("because its datacenter is another one is SESSION at once", function()
    server:rule({ first = true, match = fake.CREATE, status = 500,
      body = "cross datacenter lock must be created at server agent" })
    local lock = assert(client:lock("k"))
    local ok, message, code = lock:lock(helper.seconds(5))
    assert.are.same({ nil, "SESSION" }, { ok, code })
    assert.matches("cross datacenter", message, 1, true)
    assert.are.equal(1, server:count(fake.CREATE))
  end)

  for _, words in ipairs({ "apply failed: Check 'serfHealth' is in critical state", "Missing check 'hf' registration",
    "Missing node registration" }) do
    it(("for a moment (%s) is waited for"):format(words), function()
      server:rule({ first = true, match = fake.CREATE, times = 3, status = 500, body = words })
      assert.is_true(assert(client:lock("k")):lock(helper.seconds(10)))
      assert.are.equal(4, server:count(fake.CREATE))
    end)
  end

  it("for as long as there is patience is SESSION, with the server's words", function()
    server:rule({ first = true, match = fake.CREATE, status = 500, body = "Check 'serfHealth' is in critical state" })
    local ok, message, code = assert(client:lock("k")):lock(4)
    assert.is_nil(ok)
    assert.is_true(code == "SESSION" or code == "TIMEOUT", code)
    assert.matches("critical state", message, 1, true)
    assert.is_true(server:count(fake.CREATE) > 1)
  end)
end)

describe("an unlock", function()
  after_each(helper.finish)

  it("goes before the acquires that wait for their turn at a server that stalls", function()
    local server = fake.consul()
    local client = helper.client({ address = server:address(), session = { ttl = "60s" } })
    local lock, ops = assert(client:lock("held")), {}
    assert(lock:lock(30))
    server:forget()
    server:rule({ first = true, match = fake.KEY, times = 2, hold = true })
    for i = 1, 50 do
      ops[i] = assert(helper.keep(assert(client:lock("k" .. i))):start_lock())
      if i <= 2 then assert(server:wait_for(fake.KEY, i, helper.seconds(5))) end
    end
    local unlock = assert(lock:start_unlock(helper.seconds(5)))
    server:release()
    assert.is_true(result(unlock))
    local before, commands = nil, 0
    for _, entry in ipairs(server:log("^%u+ /v1/[kt][vx]")) do
      if entry.body:find("\"Verb\":\"unlock\"", 1, true) then before = commands end
      if not entry.body:find("check-session", 1, true) then commands = commands + 1 end -- no audit
    end
    -- those two, and what the two replies let go before the unlock has come to the worker
    assert.is_true(before <= 4, before .. " commands before it")
    for i = 1, 50 do assert.is_true(result(ops[i])) end
  end)
end)
