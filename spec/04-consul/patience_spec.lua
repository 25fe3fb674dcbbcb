-- What goes on, and what ends in time, when Consul cannot be reached or takes sessions away.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local socket = require("socket")

local code_of = agent.code_of

describe("behind a way to Consul that is cut", function()
  local proxy, client, key
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), timeout = 120, session = { ttl = "10s", lock_delay = "4s" } })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  it("with_lock answers what the function answered, which was under the lock to its end", function()
    local held
    local start
    local results = { client:with_lock(key, function(lock)
      proxy:blackhole(true)
      held, start = lock:held(), socket.gettime()
      return "done", 2
    end) }
    local took = socket.gettime() - start
    proxy:blackhole(false)
    assert.is_true(held)
    assert.are.same({ "done", 2 }, results)
    assert.is_true(took < 60, ("the release took %.1f s"):format(took))
  end)

  it("with_lock answers LOST when the lease was over before the function was", function()
    local ok, _, code, value = client:with_lock(key, function(lock)
      proxy:blackhole(true)
      assert.are.equal("deadline", (lock:wait_lost(helper.seconds(5))))
      return "done"
    end)
    proxy:blackhole(false)
    assert.are.same({ nil, "LOST", "done" }, { ok, code, value })
  end)

  it("unlock ends with the lease", function()
    local lock = assert(client:lock(key))
    assert(lock:lock(helper.seconds(5)))
    proxy:blackhole(true)
    local left, start = lock:remaining(), socket.gettime()
    local ok, _, code = lock:unlock()
    local took = socket.gettime() - start
    proxy:blackhole(false)
    assert.is_nil(ok)
    assert.is_true(code == "LOST" or code == "TIMEOUT", code)
    assert.is_true(took < 60, ("%.2f s of a lease of %.2f s"):format(took, left))
    assert.is_false((lock:held()))
  end)
end)

describe("an acquire without a timeout", function()
  local key, name, client, lock
  before_each(function()
    key = helper.unique_key()
    name = key:gsub("/", "-")
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- The client's session of now, other than before, for which an acquire waits.
  local function session_after(before, op)
    return helper.eventually(function()
      if op:done() then return nil, "the acquire has given up: " .. tostring(select(2, op:result())) end
      for _, session in ipairs(consul.session.list()) do
        if session.Name == name and session.ID ~= before then return session.ID end
      end
      return nil, "no other session than " .. tostring(before)
    end, 10)
  end

  it("outlives ten sessions that are lost in a row, each of which had been renewed", function()
    local proxy = helper.proxy()
    proxy:rule({ match = fake.TXN, times = 10, hold = true })
    client = helper.client({ address = proxy:address(), session = { name = name, ttl = "3s" } })
    lock = assert(client:lock(key))
    local op, last = assert(lock:start_lock()), nil
    for i = 1, 10 do
      local tries, why = proxy:wait_for(fake.TXN, i, helper.seconds(5))
      if op:done() then error(("it ended at try %d: %s"):format(i, table.concat({ select(2, op:result()) }, " "))) end
      local id = assert(tries, why)[i].body:match("\"Session\":\"(.-)\"")
      assert.are_not.equal(last, id)
      assert(proxy:wait_for(fake.RENEW .. id:gsub("%-", "%%-"), 1, helper.seconds(5), "answered"))
      consul.session.destroy(id)
      proxy:release(fake.TXN)
      last = id
    end
    assert.is_true(fake.result(op, 10))
    assert.are.equal(lock:session(), agent.holder(key))
    assert(lock:unlock(helper.seconds(5)))
  end)

  describe("with a check that is critical for a moment", function()
    local CHECK = "hf-moment"

    local function say(status)
      assert.are.equal(200, (consul.request("PUT", "/v1/agent/check/update/" .. CHECK, nil,
        ("{\"Status\":%q}"):format(status))))
    end

    local function catalog_says(status)
      helper.eventually(function()
        local code, text = consul.request("GET", "/v1/health/state/" .. status)
        return code == 200 and text:find(("%q"):format(CHECK), 1, true)
      end)
    end

    before_each(function()
      assert.are.equal(200, (consul.request("PUT", "/v1/agent/check/register", nil,
        ("{\"ID\":%q,\"Name\":%q,\"TTL\":\"60s\",\"Status\":\"critical\"}"):format(CHECK, CHECK))))
      catalog_says("critical")
      client = helper.client({ session = { name = name, checks = { CHECK } } })
      lock = assert(client:lock(key))
    end)
    after_each(function()
      client, lock = nil, nil
      helper.finish()
      consul.request("PUT", "/v1/agent/check/deregister/" .. CHECK)
    end)

    it("waits until a session can be made", function()
      local op = assert(lock:start_lock())
      assert.is_nil(op:wait(0.5), "it did not wait")
      say("passing")
      assert.is_true(fake.result(op, 10))
      assert.is_true(lock:unlock(helper.seconds(5)))
    end)

    it("waits until one can be made again", function()
      say("passing")
      catalog_says("passing")
      local other = agent.occupy(key)
      local op = assert(lock:start_lock())
      local id = session_after(nil, op)
      say("critical")
      helper.eventually(function() return not consul.session.info(id) end)
      assert.is_nil(op:wait(0.5), "it did not wait")
      agent.vacate(key, other)
      say("passing")
      assert.is_true(fake.result(op, 10))
      assert.is_true(lock:unlock(helper.seconds(5)))
    end)

    it("says SESSION, with the server's words, when its time is over first", function()
      local ok, message, code = lock:lock(3)
      assert.is_nil(ok)
      assert.is_true(code == "SESSION" or code == "TIMEOUT", code)
      assert.matches("critical", message, 1, true)
      assert.are.equal("SESSION", code_of(lock:lock(0)))
    end)
  end)
end)
