-- client:call: what goes out, and what the answer comes down to.
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local holdfast = require("holdfast")

local code_of = fake.code_of

describe("a call", function()
  local server, client
  local JSON = { ["content-type"] = "application/json" }

  before_each(function()
    server = helper.server()
    client = helper.client({ address = server:address(), token = "of-the-client", timeout = helper.seconds(5) })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function sent(n) return server:log()[n or 1] end

  local function answers(rule)
    server:clear()
    server:forget()
    server:rule(rule)
  end

  -- What a call with this query sends: the query on the wire, and the headers.
  local function asked(query, more)
    answers({ status = 200, headers = JSON, body = "[]" })
    local call = { path = "/v1/x", query = query }
    for name, value in pairs(more or {}) do call[name] = value end
    assert(client:call(call))
    return sent().query or "", sent().headers
  end

  local function raises(text, call)
    local ok, message = pcall(function() client:call(call) end)
    assert.is_false(ok)
    assert.matches(text, message, 1, true)
    assert.matches("call_spec.lua", message, 1, true)
  end

  local function wire(target)
    return (target or ""):gsub("^%?", "")
  end

  it("has every query option on the wire (behaviour 34)", function()
    local query, headers = asked({ consistent = true, filter = 'A == "b c"', near = "_agent", dc = "dc2", ns = "n",
      partition = "p", ["node-meta"] = { "a:1", "b:2" }, flags = "16210313421097356768", cas = 1234567890123456,
      raw = true, keys = false, token = "of-the-call" })
    assert.are.equal("cas=1234567890123456&consistent&dc=dc2&filter=A%20%3D%3D%20%22b%20c%22"
      .. "&flags=16210313421097356768&near=_agent&node-meta=a%3A1&node-meta=b%3A2&ns=n&partition=p&raw", wire(query))
    assert.are.equal("of-the-call", headers["x-consul-token"])
    assert.are.equal("stale", wire((asked({ stale = true }))))
  end)

  it("has the client's token, and its own instead (behaviours 34, 35)", function()
    assert.are.equal("of-the-client", select(2, asked())["x-consul-token"])
    assert.are.equal("mine", select(2, asked(nil, { token = "mine" }))["x-consul-token"])
    assert.are.equal("mine", select(2, asked(nil, { headers = { ["X-Consul-Token"] = "mine" } }))["x-consul-token"])
  end)

  it("asks for what is cached, and how old that may be (behaviour 34)", function()
    local query, headers = asked({ cached = { max_age = "1m", stale_if_error = 3600 } })
    assert.are.same({ "cached", "max-age=60, stale-if-error=3600" }, { wire(query), headers["cache-control"] })
    query, headers = asked({ cached = true })
    assert.are.same({ "cached" }, { wire(query), headers["cache-control"] })
  end)

  it("goes where the client is, for reads and writes (behaviour 35)", function()
    client = helper.client({ address = server:address(), datacenter = "dc1", namespace = "ns1", partition = "p1" })
    assert.are.equal("dc=dc1&ns=ns1&partition=p1", wire((asked(nil, { method = "PUT" }))))
    assert.are.equal("ns=other&dc=dc1&partition=p1", wire((asked({ ns = "other" }))))
  end)

  it("never waits for nothing (behaviours 41, 72)", function()
    assert.are.equal("index=7&wait=1ms", wire((asked({ index = 7, wait = "1us" }))))
    assert.are.equal("index=7&wait=1500ms", wire((asked({ index = 7, wait = 1.5 }))))
    assert.are.equal("index=7&wait=60000ms", wire((asked({ index = 7 }))))
    assert.are.equal("index=7&wait=600000ms", wire((asked({ index = 7, wait = "2h" }))))
    assert.are.equal("", wire((asked({ index = 7, wait = 0 }))))
    assert.are.equal("", wire((asked({ index = 0, wait = 5 }))))
    assert.are.equal("", wire((asked({ wait = 5 }))))
  end)

  it("outlives the client's timeout when it is to wait", function()
    client = helper.client({ address = server:address(), timeout = 0.2 })
    answers({ status = 200, headers = JSON, body = "[1]", delay = 0.6 })
    assert.are.same({ 1 }, (client:call({ path = "/v1/x", query = { index = 1, wait = 0.5 } })))
    assert.are.equal("TIMEOUT", code_of(client:call({ path = "/v1/x" })))
    assert.are.equal("TIMEOUT", code_of(client:call({ path = "/v1/x", query = { index = 1 }, timeout = 0.2 })))
  end)

  it("has the type of its body in a header, and none without a body (behaviour 36)", function()
    local function type_of(path, body, headers)
      answers({ status = 200 })
      assert(client:call({ method = "PUT", path = path, body = body, headers = headers }))
      return sent().headers["content-type"]
    end
    assert.are.equal("application/json", type_of("/v1/x", { a = 1 }))
    assert.are.equal("application/json", type_of("/v1/x", "{}"))
    assert.are.equal("application/octet-stream", type_of("/v1/kv/k", "x"))
    assert.are.equal("application/octet-stream", type_of("/v1/snapshot", "x"))
    assert.are.equal("application/octet-stream", type_of("/v1/event/fire/e", "x"))
    assert.is_nil(type_of("/v1/kv/k"))
    assert.are.equal("text/plain", type_of("/v1/kv/k", "x", { ["Content-Type"] = "text/plain" }))
    assert.is_nil(select(2, asked())["content-type"])
    assert.are.equal("a", select(2, asked(nil, { headers = { ["X-Mine"] = "a" } }))["x-mine"])
  end)

  it("has the method, path and body that were given (behaviour 37)", function()
    answers({ status = 200 })
    assert.is_true((client:call({ method = "delete", path = "/v1/kv/a%20b/", query = { recurse = true } })))
    assert.are.same({ "DELETE", "/v1/kv/a%20b/?recurse" }, { sent().method, sent().target })
    assert.is_true((client:call({ path = "/v1/x", body = "a\0b" })))
    assert.are.same({ "PUT", "a\0b" }, { sent(2).method, sent(2).body })
    assert.is_true((client:call({ path = "/v1/x", body = { Checks = holdfast.empty_array } })))
    assert.are.equal('{"Checks":[]}', sent(3).body)
  end)

  it("tells what Consul says of an answer (behaviour 39)", function()
    answers({ status = 200, body = "{}", headers = { ["content-type"] = "application/json; charset=utf-8",
      ["X-Consul-Index"] = "12345", ["X-Consul-LastContact"] = "80", ["X-Consul-KnownLeader"] = "true",
      ["X-Consul-Translate-Addresses"] = "true", ["X-Consul-Default-ACL-Policy"] = "deny",
      ["X-Consul-Results-Filtered-By-ACLs"] = "true", ["X-Consul-ContentHash"] = "h", ["X-Cache"] = "HIT",
      ["X-Consul-Query-Backend"] = "streaming", Age = "3" } })
    local value, index, meta = client:call({ path = "/v1/x" })
    assert.are.same({ {}, 12345 }, { value, index })
    meta.headers = nil
    assert.are.same({ status = 200, index = 12345, last_contact = 0.08, known_leader = true, translate_addresses = true,
      default_acl_policy = "deny", filtered_by_acls = true, content_hash = "h", cache_hit = true, cache_age = 3,
      query_backend = "streaming" }, meta)
    answers({ status = 200, body = "{}", headers = { ["X-Consul-KnownLeader"] = "false",
      ["X-Consul-Results-Filtered-By-ACLs"] = "false" } })
    meta = select(3, client:call({ path = "/v1/x" }))
    assert.are.same({ false, false }, { meta.known_leader, meta.filtered_by_acls })
    assert.is_nil(meta.default_acl_policy)
  end)

  it("answers the index to ask with next: at least 1, and 0 when it went backwards (behaviour 61)", function()
    local function next_index(index, asked_with)
      answers({ status = 200, body = "{}", headers = { ["X-Consul-Index"] = index } })
      return (select(2, client:call({ path = "/v1/x", query = { index = asked_with } })))
    end
    assert.are.equal(1, next_index("0"))
    assert.are.equal(1, next_index("-5"))
    assert.are.equal(8, next_index("8", 8))
    assert.are.equal(9, next_index("9", 8))
    assert.are.equal(0, next_index("7", 8))
    assert.is_nil(next_index("x", 8))
    assert.is_nil(next_index(nil, 8))
  end)

  it("answers text that is not JSON, and true for nothing", function()
    answers({ status = 200, body = "a\0b" })
    assert.are.equal("a\0b", (client:call({ path = "/v1/x" })))
    answers({ status = 200 })
    assert.are.equal("", (client:call({ path = "/v1/kv/k", query = { raw = true } })))
    assert.is_true((client:call({ method = "PUT", path = "/v1/x" })))
    answers({ status = 200, headers = JSON, body = "false" })
    assert.is_false((client:call({ method = "PUT", path = "/v1/x" })))
  end)

  it("has a code for every refusal, and tells what came with it", function()
    local function refusal(status, body, headers)
      answers({ status = status, body = body, headers = headers })
      local value, message, code, meta = client:call({ path = "/v1/x" })
      assert.is_nil(value)
      assert.matches("GET /v1/x: ", message, 1, true)
      assert.are.same({ status, body }, { meta.status, meta.body })
      return code, message, meta
    end
    assert.are.equal("DENIED", (refusal(403, "Permission denied")))
    assert.are.equal("DENIED", (refusal(403, "ACL not found")))
    assert.are.equal(9, select(3, refusal(404, "", { ["X-Consul-Index"] = "9" })).index)
    assert.are.equal("NOT_FOUND", (refusal(404, "")))
    assert.are.equal("TOO_LARGE", (refusal(413, "Request body too large")))
    assert.are.equal("HTTP", (refusal(301, "")))
    local code, message = refusal(409, '{\n  "Errors": [\n    1\n  ]\n}\n')
    assert.are.equal("HTTP", code)
    assert.matches('HTTP status 409: { "Errors": [ 1 ] }', message, 1, true)
    assert.are.equal("HTTP", (refusal(500, "No cluster leader")))
  end)

  it("is NOT_FOUND when Consul says null, and PROTOCOL when its JSON is none", function()
    answers({ status = 200, headers = JSON, body = "null" })
    assert.are.equal("NOT_FOUND", code_of(client:call({ path = "/v1/x" })))
    answers({ status = 200, headers = JSON, body = "{" })
    assert.are.equal("PROTOCOL", code_of(client:call({ path = "/v1/x" })))
  end)

  it("is CONNECT when nobody answers, CLOSED once the client is", function()
    answers({ action = "close" })
    local code, message = code_of(client:call({ path = "/v1/x" }))
    assert.are.equal("CONNECT", code, message)
    client:close()
    assert.are.equal("CLOSED", code_of(client:call({ path = "/v1/x" })))
  end)

  it("follows no redirect", function()
    answers({ status = 307, headers = { Location = server:url() .. "/v1/y" } })
    assert.are.equal("HTTP", code_of(client:call({ method = "PUT", path = "/v1/x" })))
    assert.are.equal(1, server:count())
  end)

  it("lets a loop go on, and two of them wait at the same time", function()
    local loop = require("holdfast.loop")
    client = helper.client({ address = server:address(), scheduler = "loop" })
    server:rule({ match = "/v1/slow", status = 200, hold = true })
    server:rule({ status = 200, headers = JSON, body = "[]" })
    local order = {}
    loop.run(function()
      loop.spawn(function()
        assert(client:call({ path = "/v1/slow", query = { index = 1 } }))
        order[#order + 1] = "slow"
      end)
      helper.eventually(function() return server:count("/v1/slow") == 1 end)
      assert(client:call({ path = "/v1/quick" }))
      order[#order + 1] = "quick"
      server:release("/v1/slow")
    end)
    assert.are.same({ "quick", "slow" }, order)
  end)

  it("has integers exactly", function()
    answers({ status = 200, headers = JSON, body = '[{"Flags":16210313421097356768,"ModifyIndex":12}]' })
    local pair = client:call({ path = "/v1/x" })[1]
    assert.are.same({ "16210313421097356768", 12 }, { pair.Flags, pair.ModifyIndex })
    assert.are.same(pair, core.json_decode('{"Flags":16210313421097356768,"ModifyIndex":12}'))
  end)

  it("raises for what only a programmer can get wrong", function()
    raises("a call takes a table", "GET")
    raises("missing path", {})
    raises('unknown option "url"', { url = "http://x" })
    raises("query must be a table", { path = "/v1/x", query = "a=b" })
    raises("consistent excludes stale", { path = "/v1/x", query = { consistent = true, stale = true } })
    raises("consistent excludes cached", { path = "/v1/x", query = { consistent = true, cached = true } })
    raises("index must be an index, a whole number", { path = "/v1/x", query = { index = 1.5 } })
    raises("wait", { path = "/v1/x", query = { index = 1, wait = -1 } })
    raises("cached must be true or a table", { path = "/v1/x", query = { cached = 5 } })
    raises("no parameter is called", { path = "/v1/x", query = { "a" } })
    raises("no parameter is called", { path = "/v1/x", query = { ["a=b&c"] = true } })
    raises("x must be text", { path = "/v1/x", query = { x = print } })
    raises("body: JSON: a function", { path = "/v1/x", body = { f = print } })
    raises("timeout must be more than 0", { path = "/v1/x", timeout = 0 })
  end)

  it("is INVALID with a path that is none, or text that would end a header", function()
    for _, path in ipairs({ "/v2/x", "v1/x", "/v1/a b", "/v1/x?a", "/v1/x#a", "/v1/\195\164", "/v1/a/../b", "/v1/a/.",
      "/v1//a", "/v1/a\r\n" }) do
      assert.are.equal("INVALID", code_of(client:call({ path = path })), path)
    end
    assert.are.equal("INVALID", code_of(client:call({ path = "/v1/x", token = "a\nb" })))
    assert.are.equal("INVALID", code_of(client:call({ path = "/v1/x", query = { a = "b\0c" } })))
    assert.are.equal("INVALID", code_of(client:call({ path = "/v1/x", headers = { A = "b\nc" } })))
    assert.are.equal(0, server:count())
  end)
end)
