-- The check by which a process says that it lives, against a real agent.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local json = require("dkjson")

local code_of = agent.code_of

local function checks()
  local _, text = consul.request("GET", "/v1/agent/checks")
  return json.decode(text)
end

-- The check of a session, which must have one only.
local function check_of(id)
  local ids = consul.session.info(id).ServiceChecks
  assert.are.equal(1, #ids)
  return ids[1].ID, checks()[ids[1].ID]
end

local PASS = "^PUT /v1/agent/check/pass/"
local REGISTER = "^PUT /v1/agent/service/register"

describe("a session that is alive", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  it("stands on a check of its own, beside the node's, which goes with it", function()
    local client = helper.client({ session = { alive = true, ttl = "11s" } })
    local lock = assert(client:lock(key))
    assert(lock:lock())
    local id, check = check_of(lock:session())
    assert.are.equal("passing", check.Status)
    assert.are.equal("holdfast", check.ServiceName)
    assert.are.same({ "serfHealth" }, consul.session.info(lock:session()).NodeChecks)
    client:close()
    assert.is_nil(checks()[id])
  end)

  it("has the checks that it was given too", function()
    assert.are.equal(200, (consul.request("PUT", "/v1/agent/service/register", nil,
      '{"ID":"hf-alive-spec","Name":"hf-alive-spec",'
      .. '"Check":{"CheckID":"hf-alive-spec","TTL":"60s","Status":"passing"}}')))
    local client = helper.client()
    local session = assert(client:session({ alive = true, service_checks = { "hf-alive-spec" } }))
    assert.are.equal("hf-alive-spec", consul.session.info(session:id()).ServiceChecks[1].ID)
    assert.is_not_nil(consul.session.info(session:id()).ServiceChecks[2])
    assert.are.equal(200, (consul.request("PUT", "/v1/agent/service/deregister/hf-alive-spec")))
    helper.eventually(function() return not session:alive() end) -- as with any check that goes
  end)

  it("is over soon after its process has died, and not after twice its TTL", function()
    local child = helper.spawn_lua(([[
      local client = require("holdfast").new({ address = %q, session = { ttl = "1h", lock_delay = 0, alive = "1s" } })
      local lock = assert(client:lock(%q))
      assert(lock:lock())
      io.write(lock:session(), "\n")
      io.flush()
      lock:wait_lost()
    ]]):format(consul.address(), key))
    local id = assert(child:read_line())
    assert.are.equal(id, agent.holder(key))
    child:kill("KILL")
    helper.eventually(agent.is_free(key), 10)
    assert.is_nil(consul.session.info(id))
  end)

  it("goes on while Lua is busy", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address(), session = { ttl = "1h", alive = "1s" } })
    local lock = assert(client:lock(key))
    assert(lock:lock())
    assert(proxy:wait_for(PASS, 10, helper.seconds(10))) -- more than a TTL of them
    local _, check = check_of(lock:session())
    assert.are.equal("passing", check.Status)
    assert.is_true(lock:held())
  end)

  it("registers its check again when the agent does not know it any more", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address(), session = { alive = "3s" } })
    local lock = assert(client:lock(key))
    assert(lock:lock())
    proxy:forget()
    proxy:rule({ match = PASS, status = 500, body = 'CheckID "c" does not have associated TTL', times = 1 })
    assert(proxy:wait_for(REGISTER, 1, helper.seconds(10)))
    assert(proxy:wait_for(PASS, 2, helper.seconds(10)))
    assert.is_true(lock:held())
  end)

  it("survives that a pass comes to nothing", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address(), session = { alive = "6s" } })
    local lock = assert(client:lock(key))
    assert(lock:lock())
    proxy:rule({ match = PASS, status = 403, body = "Permission denied", times = 1 })
    proxy:rule({ match = PASS, action = "close", times = 1 })
    assert(proxy:wait_for(PASS, 4, helper.seconds(20)))
    assert.is_true(lock:held())
    local _, check = check_of(lock:session())
    assert.are.equal("passing", check.Status)
  end)

  it("is made once the check can be registered", function()
    local proxy = helper.proxy()
    proxy:rule({ match = REGISTER, status = 500, body = "not now", times = 2 })
    local client = helper.client({ address = proxy:address(), session = { alive = true } })
    assert(client:session())
    assert.are.equal(3, proxy:count(REGISTER))
  end)

  it("is DENIED when the check may not be registered", function()
    local proxy = helper.proxy()
    proxy:rule({ match = REGISTER, status = 403, body = "Permission denied" })
    local client = helper.client({ address = proxy:address(), session = { alive = true } })
    assert.are.equal("DENIED", code_of(client:session()))
    assert.are.equal("DENIED", code_of(client:lock(key):lock()))
    assert.are.equal(0, proxy:count("^PUT /v1/session/create"))
    helper.eventually(function() return client:stats().sessions == 0 end)
  end)

  it("leaves no check behind when it cannot be made", function()
    local client = helper.client({ session = { alive = true, name = key } })
    assert.are.equal("SESSION", code_of(client:session({ ttl = "1ms", alive = "10s" })))
    helper.eventually(function()
      for _, check in pairs(checks()) do
        if check.Notes == key then return false, "the check is there" end
      end
      return true
    end)
  end)

  it("is asked for by the client, and may be done without in a session", function()
    local client = helper.client({ session = { alive = true } })
    local session = assert(client:session({ alive = false }))
    assert.is_nil((consul.session.info(session:id()).ServiceChecks or {})[1])
    session = assert(client:session())
    check_of(session:id())
  end)

  it("is true, false or the TTL of the check, and of no other node", function()
    local client = helper.client()
    assert.has_error(function() client:session({ alive = {} }) end, "alive must be true or a duration, not a table")
    assert.has_error(function() client:session({ alive = 0 }) end, "alive must be more than 0")
    assert.has_error(function() client:session({ alive = "soon" }) end)
    assert.has_error(function() client:session({ alive = true, node = "other" }) end)
  end)
end)
