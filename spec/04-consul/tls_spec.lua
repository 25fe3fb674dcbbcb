-- Consul's HTTPS port: what is trusted, who is let in, and how many connections it takes.
local certs = require("spec.support.certs")
local agents = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local WAITERS = 100
local POLLS = 28 -- of a client, however many wait

describe("over TLS", function()
  local authority, stranger, agent, strict, client
  setup(function()
    authority, stranger = certs.new(), certs.new()
    agent = helper.agent({ keep = true, config = function(ip) return authority:agent(ip) end })
    strict = helper.agent({ keep = true, config = function(ip)
      return authority:agent(ip, { verify_incoming = true })
    end })
  end)
  teardown(function()
    for _, thing in ipairs({ agent, strict, authority, stranger }) do thing:remove() end
  end)
  after_each(function()
    agent:continue()
    client = nil
    helper.finish()
  end)

  local function make(server, tls, options)
    local given = { address = server:https(), tls = tls, timeout = helper.seconds(5) }
    for name, value in pairs(options or {}) do given[name] = value end
    client = helper.client(given)
    return assert(client:lock(helper.unique_key()))
  end

  local function works(server, tls)
    local lock = make(server, tls)
    assert(lock:lock(0))
    assert.are.equal(lock:session(), server:ask(agents.holder, lock:key()))
    assert(lock:unlock(helper.seconds(10)))
  end

  -- Answers the message, in lower case. A server that refuses a certificate hangs up as well, which may reach a slow
  -- client before the word does: then the next try is told.
  local function fails(server, tls)
    local lock, ok, message, code = make(server, tls)
    helper.eventually(function()
      ok, message, code = lock:lock(0)
      return ok or code ~= "CONNECT" or server ~= strict
    end)
    assert.are.same({ nil, "TLS" }, { ok, code }, message)
    assert.matches(tls.server_name or server.ip, message, 1, true)
    client:abandon()
    return message:lower()
  end

  it("trusts a CA file or a CA directory (behaviour 32)", function()
    works(agent, { ca_file = authority.ca })
    works(agent, { ca_path = authority.directory })
  end)

  it("does not trust another CA, nor the system's (behaviour 32)", function()
    assert.matches("certificate", fails(agent, { ca_file = stranger.ca }))
    assert.matches("certificate", fails(agent, { ca_path = stranger.directory }))
    assert.matches("certificate", fails(agent, {}))
  end)

  it("wants the name of the address, or server_name, in the certificate (behaviour 32)", function()
    works(agent, { ca_file = authority.ca, server_name = certs.NAME })
    works(agent, { ca_file = authority.ca, server_name = certs.NAME .. ":8501" })
    assert.matches("elsewhere.example", fails(agent, { ca_file = authority.ca, server_name = "elsewhere.example" }))
  end)

  it("trusts anybody with verify = false (behaviour 32)", function()
    works(agent, { verify = false })
    works(agent, { verify = false, ca_file = stranger.ca, server_name = "elsewhere.example" })
  end)

  it("does as the environment says (behaviour 31)", function()
    local code = [[
      local lock = assert(assert(require("holdfast").new()):lock(%q))
      print(lock:lock(0), (select(3, lock:lock(0))))
    ]]
    local function run(more)
      local env = { CONSUL_HTTP_ADDR = agent.ip .. ":8501", CONSUL_HTTP_SSL = "true", CONSUL_CACERT = authority.ca }
      for name, value in pairs(more) do env[name] = value end
      local status, out, err = helper.run_lua(code:format(helper.unique_key()), env)
      assert.are.equal(0, status, err)
      return out
    end
    assert.matches("^true\tHELD", run({}))
    assert.matches("^true\tHELD", run({ CONSUL_TLS_SERVER_NAME = certs.NAME }))
    assert.matches("^true\tHELD", run({ CONSUL_CACERT = "", CONSUL_CAPATH = authority.directory }))
    assert.matches("^true\tHELD", run({ CONSUL_CACERT = stranger.ca, CONSUL_HTTP_SSL_VERIFY = "0" }))
    assert.matches("TLS", run({ CONSUL_CACERT = stranger.ca }))
  end)

  it("is told that a client certificate is missing, or not a good one (behaviour 33)", function()
    assert.matches("certificate", fails(strict, { ca_file = authority.ca }))
    assert.matches("certificate", fails(strict, { verify = false }))
    local cert, key = authority:issue("guest", "DNS:guest")
    local foreign, its_key = stranger:issue("guest", "DNS:guest")
    local said = fails(strict, { ca_file = authority.ca, cert_file = foreign, key_file = its_key })
    assert.matches("alert", said) -- of a bad certificate, or of an unknown CA, by the Go that Consul was built with
    works(strict, { ca_file = authority.ca, cert_file = cert, key_file = key })
    works(strict, { ca_file = authority.ca, cert_file = cert, key_file = key, server_name = certs.NAME })
    works(strict, { verify = false, cert_file = cert, key_file = key })
  end)

  it("is one for each request, which has its own settings and shares no connection with others", function()
    local one = helper.client({ address = "127.0.0.1:1", timeout = helper.seconds(5) })
    local cert, key = authority:issue("guest", "DNS:guest")
    local function fetch(server, tls)
      local answer, message, code = one:request({ url = server:https() .. "/v1/status/leader", tls = tls })
      return answer and answer.status or code, message
    end
    for _ = 1, 2 do
      assert.are.equal(200, (fetch(agent, { ca_file = authority.ca })))
      assert.are.equal(200, (fetch(agent, { ca_file = authority.ca, server_name = certs.NAME })))
      assert.are.equal(200, (fetch(agent, { verify = false })))
      assert.are.equal(200, (fetch(strict, { ca_file = authority.ca, cert_file = cert, key_file = key })))
      for _, tls in ipairs({ {}, { ca_file = stranger.ca }, { ca_file = authority.ca, server_name = "a.example" } }) do
        local code, message = fetch(agent, tls)
        assert.are.equal("TLS", code)
        assert.matches("certificate", message)
      end
      assert.are.equal("TLS", (fetch(strict, { ca_file = authority.ca })))
    end
    assert.are.equal("TLS", (fetch(agent, { ca_file = "/nowhere" })))
    assert.are.equal("INVALID", (fetch(agent, { cert_file = cert })))
    assert.are.equal("INVALID", (fetch(agent, { server_name = "a b" })))
  end)

  -- Runs fn(give) while so many wait for keys that somebody else has; give() gives the keys back, and all of them get
  -- theirs.
  local function crowd(address, fn)
    client = helper.client({ address = address, tls = { ca_file = authority.ca }, scheduler = "loop", timeout = 1 })
    local holder = agent:ask(consul.session.create, { LockDelay = "0s" })
    local taken, keys = 0, {}
    for i = 1, WAITERS do
      keys[i] = helper.unique_key()
      assert(agent:ask(consul.kv.put, keys[i], "", { acquire = holder, flags = agents.LOCK_FLAGS }))
    end
    loop.run(function()
      for i = 1, WAITERS do
        loop.spawn(function()
          assert(client:lock(keys[i]):lock(helper.seconds(60)))
          taken = taken + 1
        end)
      end
      fn(function() agent:ask(consul.session.destroy, holder) end)
    end)
    assert.are.equal(WAITERS, taken)
  end

  -- The most connections at once until so many requests have been made; gives back then.
  local function most_connections(address, requests)
    local most, made = 0, 0
    crowd(address, function(give)
      helper.eventually(function()
        local stats = client:stats()
        most, made = math.max(most, stats.connections), stats.requests
        return made >= requests and (most >= POLLS or not address:find("^http:"))
      end)
      give()
    end)
    client:close()
    return most, made
  end

  it("shares a connection between long polls, which plain HTTP cannot", function()
    local plain, requests = most_connections("http://" .. agent:address(), POLLS)
    local shared = most_connections(agent:https(), requests)
    assert.is_true(plain >= POLLS and shared <= 9, plain .. " and " .. shared .. " connections")
  end)

  it("shares a new connection after one that did not answer, and nobody is left behind", function()
    crowd(agent:https(), function(give)
      helper.eventually(function() return client:stats().requests > 2 * POLLS end)
      local before = client:stats()
      agent:suspend()
      helper.eventually(function() return client:stats().renew_failures > before.renew_failures + 2 end)
      agent:continue()
      helper.eventually(function() return client:stats().renewals > before.renewals + 4 end)
      local now = client:stats().connections
      assert.is_true(now <= 9, now .. " connections")
      give()
    end)
    client:close()
    assert.are.equal(0, client:stats().connections)
  end)
end)
