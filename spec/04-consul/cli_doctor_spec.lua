-- `holdfast doctor`, beside real agents, and a proxy for what they do not do on demand.
local json = require("dkjson")
local cli = require("spec.support.cli")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local ROOT = "5e551014-0000-0000-0000-00000000cafe"

describe("holdfast doctor", function()
  local prefix
  before_each(function() prefix = helper.unique_key() end)
  after_each(helper.finish)

  -- Answers rows by check, and the exit status.
  local function examine(options)
    local words = { "doctor", "--json", "--prefix", prefix }
    for _, option in ipairs(options or {}) do words[#words + 1] = option end
    local status, out, err = cli.run(words)
    assert.are.equal("", err)
    local by_check = {}
    for _, row in ipairs(json.decode(out)) do by_check[row.check] = row end
    return by_check, status
  end

  it("finds nothing wrong with an agent that is well, and leaves nothing behind", function()
    local rows, status = examine({ "--http-timeout", "30s" })
    assert.are.equal(0, status)
    for _, name in ipairs({ "agent", "leader", "TTL", "lock", "lock-delay", "clock", "connections" }) do
      assert.are.equal("ok", rows[name].status)
      assert.is_nil(rows[name].advice)
    end
    assert.matches("the agent takes 200", rows.connections.message, 1, true)
    assert.are.same({}, consul.kv.keys(prefix))
    for _, session in ipairs(consul.session.list()) do assert.are_not.equal("holdfast doctor", session.Name) end
    local _, out = cli.run({ "doctor", "--prefix", prefix })
    assert.matches("^ok    agent        Consul [%d.]+ on ", out)
  end)

  it("says that nobody is there, and nothing more", function()
    local status, out = cli.run({ "doctor", "--address", "127.0.0.1:1" })
    assert.are.equal(1, status)
    assert.matches("^fail  agent        .*127.0.0.1:1.*\n +start an agent.*\n$", out)
    assert.is_nil(out:find("leader", 1, true))
  end)

  it("finds out the shortest TTL", function()
    local proxy = helper.proxy()
    proxy:rule({ match = "^PUT /v1/session/create", status = 500,
      body = "Invalid Session TTL '1000000', must be between [10s=24h0m0s]" })
    local rows, status = examine({ "--address", proxy:address(), "--ttl", "5s" })
    assert.are.equal(1, status)
    assert.are.equal("fail", rows.TTL.status)
    assert.matches("10s at least, and 5s", rows.TTL.message, 1, true)
    rows = examine({ "--address", proxy:address(), "--ttl", "10s" })
    assert.are.equal("ok", rows.TTL.status)
  end)

  it("warns of lock-delays that do not do what they are for", function()
    local rows, status = examine({ "--lock-delay", "0" })
    assert.are.equal(0, status)
    assert.are.equal("warn", rows["lock-delay"].status)
    assert.matches("60s at most", examine({ "--lock-delay", "90s" })["lock-delay"].message, 1, true)
  end)

  it("sees a cluster without a leader, a wrong clock and a low limit of connections", function()
    local proxy = helper.proxy()
    local kind = "application/json"
    proxy:rule({ match = "/v1/status/leader", status = 200, body = '""', headers = { ["Content-Type"] = kind } })
    proxy:rule({ match = "/v1/agent/self", status = 200,
      headers = { ["Content-Type"] = kind, Date = "Sun, 29 Feb 2004 23:59:59 GMT" },
      body = '{"Config":{"Version":"1","NodeName":"n","Datacenter":"d"},"DebugConfig":{"HTTPMaxConnsPerClient":39}}' })
    local rows, status = examine({ "--address", proxy:address() })
    assert.are.equal(1, status)
    assert.are.equal("fail", rows.leader.status)
    assert.are.equal("warn", rows.clock.status)
    local before = tonumber(rows.clock.message:match("ours is (%d+) s before"))
    assert.is_true(math.abs(os.time() - before - 1078099199) < helper.seconds(10))
    assert.are.equal("warn", rows.connections.status)
  end)

  it("says what an ACL refuses, and which of it locks can do without", function()
    local server = helper.agent({ token = ROOT,
      config = { acl = { enabled = true, default_policy = "deny", tokens = { master = ROOT, agent = ROOT } } } })
    local rows, status = examine({ "--address", server:address() })
    assert.are.equal(1, status)
    assert.are.equal("warn", rows.agent.status)
    assert.are.equal("fail", rows.lock.status)
    assert.matches("docs/acl.md", rows.lock.advice, 1, true)
    local _, policy = server:ask(consul.request, "PUT", "/v1/acl/policy", nil, json.encode({ Name = "locks",
      Rules = ('key_prefix %q { policy = "write" } session_prefix "" { policy = "write" }'):format(prefix) }))
    local _, token = server:ask(consul.request, "PUT", "/v1/acl/token", nil,
      json.encode({ Policies = { { ID = json.decode(policy).ID } } }))
    rows, status = examine({ "--address", server:address(), "--token", json.decode(token).SecretID })
    assert.are.equal("ok", rows.lock.status)
    assert.are.equal(0, status)
  end)
end)
