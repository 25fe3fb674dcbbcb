-- client.agent, client.catalog and client.health against a real agent.
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local json = require("dkjson")
local loop = require("holdfast.loop")
local support = require("spec.support.agent")

local code_of = support.code_of
local unpack = table.unpack or unpack -- luacheck: ignore

describe("client", function()
  local client, agent, id, web
  local SOON = helper.seconds(5)
  before_each(function()
    client = helper.client()
    agent = client.agent
    id = helper.unique_key():gsub("/", "-")
    web = helper.server()
  end)
  after_each(function()
    for _, kind in ipairs({ "check", "service" }) do
      local _, text = consul.request("GET", ("/v1/agent/%ss"):format(kind))
      for name in pairs(json.decode(text)) do
        if name:find(id, 1, true) then consul.request("PUT", ("/v1/agent/%s/deregister/%s"):format(kind, name)) end
      end
    end
    client, agent = nil, nil
    helper.finish()
  end)

  local function raises(text, facet, method, ...)
    local arguments = { ... }
    local ok, message = pcall(function() facet[method](facet, unpack(arguments)) end)
    assert.is_false(ok)
    assert.matches(text, message, 1, true)
    assert.matches("agent_spec.lua", message, 1, true)
  end

  describe(".agent", function()
    it("registers TTL checks, which are told how it goes", function()
      assert.is_true(agent:register_check({ id = id, ttl = "1m", notes = "of a spec" }))
      assert.are.same({ id, id, "critical", "of a spec" }, { agent:checks()[id].CheckID, agent:checks()[id].Name,
        agent:checks()[id].Status, agent:checks()[id].Notes })
      for method, status in pairs({ pass = "passing", warn = "warning", fail = "critical" }) do
        assert.is_true(agent[method](agent, id, "said " .. method))
        assert.are.same({ status, "said " .. method }, { agent:checks()[id].Status, agent:checks()[id].Output })
        assert.is_true(agent:wait_check(id, status, SOON))
      end
      assert.is_true(agent:pass(id))
      assert.is_true(agent:deregister_check(id))
      assert.is_nil(agent:checks()[id])
      assert.is_true(agent:deregister_check(id))
      for _, method in ipairs({ "pass", "warn", "fail" }) do
        assert.are.equal("NOT_FOUND", code_of(agent[method](agent, id)))
      end
      assert.is_true(agent:deregister_service(id))
    end)

    it("registers HTTP checks, with all that belongs to the request", function()
      web:rule({ status = 200 })
      assert.is_true(agent:register_check({ id = id, name = "a name", http = web:url() .. "/up", interval = "50ms",
        timeout = 2, method = "POST", headers = { ["X-Spec"] = "a" }, body = "hello", deregister_after = "1h" }))
      assert.is_true(agent:wait_check(id, "passing", SOON))
      local request = web:log()[1]
      assert.are.same({ "POST", "/up", "a", "hello" },
        { request.method, request.target, request.headers["x-spec"], request.body })
      web:rule({ first = true, status = 503 })
      assert.is_true(agent:wait_check(id, "critical", SOON))
    end)

    it("registers TCP checks", function()
      assert.is_true(agent:register_check({ id = id, tcp = web:address(), interval = "50ms", status = "warning" }))
      assert.is_true(agent:wait_check(id, nil, SOON))
    end)

    it("registers services with checks, which are in the catalog then", function()
      assert.is_true(agent:register_service({ name = id, id = id .. "-1", address = "127.0.0.9", port = 81,
        tags = { "blue", "green" }, meta = { version = "1" }, checks = { { id = id .. "-c", ttl = 60 },
          { ttl = 60, status = "passing" } } }))
      assert.is_true(agent:wait_check(id .. "-c", "critical", SOON))
      local one = client.catalog:service(id)[1]
      assert.are.same({ id .. "-1", "127.0.0.9", 81, { "blue", "green" }, { version = "1" } },
        { one.ServiceID, one.ServiceAddress, one.ServicePort, one.ServiceTags, one.ServiceMeta })
      assert.are.equal(2, #client.health:checks(id))
      assert.are.same({}, (client.health:service(id, { passing = true })))
      assert.is_true(agent:pass(id .. "-c"))
      assert.is_true(agent:wait_check(id .. "-c", "passing", SOON))
      assert.are.equal(id .. "-1", client.health:service(id, { passing = true, tag = { "blue" } })[1].Service.ID)
      assert.are.same({}, (client.health:service(id, { tag = { "red" } })))
      assert.is_true(agent:deregister_service(id .. "-1"))
      assert.is_nil(agent:checks()[id .. "-c"])
    end)

    it("registers services without tags, and with one check", function()
      assert.is_true(agent:register_service({ name = id, tags = {}, check = { ttl = "1m", status = "passing" } }))
      assert.is_true(agent:wait_check("service:" .. id, "passing", SOON))
    end)

    it("waits for a check that comes later, in a coroutine", function()
      client = helper.client({ scheduler = "loop" })
      local order = {}
      loop.run(function()
        loop.spawn(function()
          assert(client.agent:wait_check(id, "passing", SOON))
          order[#order + 1] = "waited"
        end)
        helper.eventually(function() return client:stats().requests >= 3 end) -- it waits now
        assert(client.agent:register_check({ id = id, ttl = "1m", status = "warning" }))
        order[#order + 1] = "registered"
        assert(client.agent:pass(id))
      end)
      assert.are.same({ "registered", "waited" }, order)
    end)

    it("says what a check is that does not become what it is waited for", function()
      local ok, message, code = agent:wait_check(id, "passing", 0)
      assert.are.same({ nil, "TIMEOUT" }, { ok, code })
      assert.matches("is not passing: not there", message, 1, true)
      assert.is_true(agent:register_check({ id = id, ttl = "1m" }))
      assert.is_true(agent:wait_check(id, "critical", SOON))
      message = select(2, agent:wait_check(id, "passing", helper.seconds(0.1)))
      assert.matches("is not passing: critical", message, 1, true)
    end)

    it("waits trouble out, and says what it was", function()
      local proxy = helper.proxy()
      agent = helper.client({ address = proxy:address() }).agent
      assert.is_true(agent:register_check({ id = id, ttl = "1m", status = "passing" }))
      proxy:rule({ match = "/v1/health/node/", times = 2, status = 500, body = "No cluster leader" })
      assert.is_true(agent:wait_check(id, "passing", SOON))
      assert.is_true(proxy:count("/v1/health/node/", "answered") >= 3)
      proxy:rule({ match = "/v1/health/node/", status = 500, body = "No cluster leader" })
      local _, message, code = agent:wait_check(id, "critical", helper.seconds(0.1))
      assert.are.equal("TIMEOUT", code)
      assert.matches("No cluster leader", message, 1, true)
      proxy:rule({ first = true, match = "/v1/health/node/", status = 403, body = "Permission denied" })
      assert.are.equal("DENIED", code_of(agent:wait_check(id, "critical", SOON)))
    end)

    it("asks a server that tells no index no more often than it must", function()
      local server = helper.server()
      agent = helper.client({ address = server:address() }).agent
      local JSON = { ["content-type"] = "application/json" }
      server:rule({ match = "/v1/agent/self", status = 200, headers = JSON, body = '{"Config":{"NodeName":"n"}}' })
      server:rule({ status = 200, headers = JSON, body = "[]" })
      assert.are.equal("TIMEOUT", code_of(agent:wait_check(id, "passing", 0.5)))
      assert.is_true(server:count("/v1/health/node/n") <= 4)
    end)

    it("tells what it is, and whom it knows", function()
      local name = agent:self().Config.NodeName
      assert.are.equal(name, agent:members()[1].Name)
      assert.are.equal(name, agent:members({ wan = true })[1].Name:match("^[^.]+"))
      assert.are.equal(200, select(3, agent:self()).status)
    end)

    it("raises for what only a programmer can get wrong", function()
      raises("the check has neither id nor name", agent, "register_check", { ttl = 1 })
      raises("the check has one of args, grpc, http, tcp and ttl", agent, "register_check", { id = id })
      raises("the check has one of", agent, "register_check", { id = id, ttl = 1, tcp = "x", interval = 1 })
      raises("the check has no interval", agent, "register_check", { id = id, http = "http://x" })
      raises('unknown option "the check.url"', agent, "register_check", { id = id, url = "http://x" })
      raises('unknown option "checks[1].url"', agent, "register_service", { name = id, checks = { { url = 1 } } })
      raises("missing the service.name", agent, "register_service", { port = 80 })
      raises("port must be", agent, "register_service", { name = id, port = 70000 })
      raises("id must be a string", agent, "pass")
      raises('status must be "critical" or "passing" or "warning"', agent, "wait_check", id, "ok")
    end)

    it("refuses ids that are none", function()
      assert.are.equal("INVALID", code_of(agent:pass("")))
      assert.are.equal("INVALID", code_of(agent:deregister_check("a\nb")))
    end)

    it("escapes ids", function()
      local odd = id .. " a/b?c#d%"
      assert.is_true(agent:register_check({ id = odd, ttl = "1m" }))
      assert.is_true(agent:pass(odd, "50% & more"))
      assert.are.equal("50% & more", agent:checks()[odd].Output)
      assert.is_true(agent:deregister_check(odd))
      assert.is_nil(agent:checks()[odd])
    end)
  end)

  describe(".catalog and .health", function()
    it("tell of nodes, services and checks, with the index (behaviour 39)", function()
      local name = agent:self().Config.NodeName
      local nodes, index, meta = client.catalog:nodes()
      assert.are.equal(name, nodes[1].Node)
      assert.is_true(index >= 1 and meta.known_leader)
      assert.are.equal(name, client.catalog:node(name).Node.Node)
      assert.are.same({}, client.catalog:services().consul)
      assert.are.equal("consul", client.catalog:service("consul")[1].ServiceName)
      assert.are.equal("serfHealth", client.health:node(name)[1].CheckID)
      assert.is_true(#client.health:state("any") >= 1)
      assert.are.equal("consul", client.health:service("consul")[1].Service.Service)
      assert.are.same({}, (client.health:service(id)))
    end)

    it("are NOT_FOUND for a node that is not there", function()
      assert.are.equal("NOT_FOUND", code_of(client.catalog:node(id)))
      assert.are.same({}, (client.health:node(id)))
    end)

    it("take what a read may be like, cached reads too (behaviour 34)", function()
      assert.are.equal(1, #client.catalog:nodes({ consistent = true, near = "_agent", filter = 'Node != ""' }))
      assert.are.same({}, (client.catalog:nodes({ filter = 'Node == ""' })))
      local meta
      for _ = 1, 2 do _, _, meta = client.health:service("consul", { cached = { max_age = "1m" } }) end
      assert.is_true(meta.cache_hit)
      assert.is_true(meta.cache_age >= 0)
      assert.are.equal("HTTP", code_of(client.catalog:nodes({ filter = "(" })))
    end)

    it("block until something changes", function()
      client = helper.client({ scheduler = "loop" })
      local _, index = client.health:service(id)
      local found
      loop.run(function()
        loop.spawn(function()
          while not (found and found[1]) do
            found, index = assert(client.health:service(id, { index = index, wait = SOON }))
          end
        end)
        helper.eventually(function() return client:stats().requests >= 2 end)
        assert(client.agent:register_service({ name = id }))
      end)
      assert.are.equal(id, found[1].Service.Service)
    end)

    it("raise for what only a programmer can get wrong", function()
      raises("name must be a string", client.catalog, "service")
      raises('unknown option "opts.passing"', client.catalog, "service", "x", { passing = true })
      raises('state must be "any"', client.health, "state", "ok")
      raises("consistent excludes stale", client.catalog, "nodes", { consistent = true, stale = true })
      assert.are.equal("INVALID", code_of(client.health:node("")))
    end)
  end)

  it("has facets that are CLOSED once it is", function()
    client:close()
    assert.are.equal("CLOSED", code_of(agent:checks()))
    assert.are.equal("CLOSED", code_of(agent:wait_check(id)))
    assert.are.equal("CLOSED", code_of(client.catalog:nodes()))
    assert.are.equal("CLOSED", code_of(client.health:state("any")))
    assert.is_nil(client.nothing)
  end)
end)
