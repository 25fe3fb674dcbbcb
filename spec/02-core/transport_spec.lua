-- What becomes of the ways in which a request to Consul can go wrong: code and message, tried again or not.
local socket = require("socket")
local unix = require("socket.unix")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, result = fake.code_of, fake.result

local LIMIT = 8 * 1024 * 1024 -- of a reply

-- The requests of a first lock, in order, and how each is known in a test's name.
local STEPS = {
  { name = "the session", match = fake.CREATE },
  { name = "the key", match = fake.KEY },
  { name = "the transaction", match = fake.TXN },
}

describe("a lock", function()
  local server, client, lock
  before_each(function() server = fake.consul() end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function make(options)
    local given = { address = server:address() }
    for name, value in pairs(options or {}) do given[name] = value end
    client = helper.client(given)
    lock = assert(client:lock("k"))
    return lock
  end

  -- What lock:lock(0) answers when one of its requests is broken. An answer to the transaction comes once: the next one
  -- takes back what the first may have done, and the caller waits for that.
  local function broken(step, rule, options)
    local times = step.match == fake.TXN and not rule.action and 1 or nil
    server:rule(fake.on(step.match, rule, { first = true, times = times }))
    local ok, message, code = make(options):lock(0)
    assert.is_nil(ok)
    client:abandon() -- as it could not say goodbye anyway
    return code, message
  end

  -- How often it has tried a step. A lock transaction that was refused is followed by one that kills late copies of it.
  local function tries(step)
    if step.match ~= fake.TXN then return server:count(step.match) end
    local count = 0
    for _, verb in ipairs(fake.verbs(server)) do count = count + (verb == "lock" and 1 or 0) end
    return count
  end

  for _, step in ipairs(STEPS) do
    local function at(text) return text .. " at " .. step.name end

    it(at("answers CONNECT and the address when the connection breaks"), function()
      local code, message = broken(step, { action = "close" })
      assert.are.equal("CONNECT", code)
      assert.matches(server:address(), message, 1, true)
      assert.matches("\"k\"", message, 1, true)
    end)

    it(at("answers CONNECT when the connection is reset"), function()
      assert.are.equal("CONNECT", (broken(step, { action = "reset" })))
    end)

    it(at("answers TIMEOUT when the server stalls, within the client's timeout"), function()
      local start = socket.gettime()
      assert.are.equal("TIMEOUT", (broken(step, { action = "stall" }, { timeout = 0.2 })))
      local seconds = socket.gettime() - start
      assert.is_true(seconds >= 0.2 and seconds < 8) -- and not the 10 s of a client that is told nothing
    end)

    it(at("answers PROTOCOL to what is not HTTP"), function()
      local code, message = broken(step, { raw = "SSH-2.0-OpenSSH_9.2p1\r\n" })
      assert.are.equal("PROTOCOL", code, message)
    end)

    it(at("answers PROTOCOL, with its beginning, to a page instead of JSON"), function()
      local code, message = broken(step, { status = 200, body = "<html>Sign in\r\n</html>" })
      assert.are.equal("PROTOCOL", code)
      assert.matches("<html>Sign in", message, 1, true)
      assert.is_nil(message:find("[%c]"))
    end)

    it(at("answers PROTOCOL to JSON of another kind"), function()
      for _, body in ipairs({ "null", "{}", "[{}]", "" }) do
        server:clear()
        local rule = { status = 200, headers = { ["x-consul-index"] = "7" }, body = body }
        for _, before in ipairs(STEPS) do
          if before == step then break end
          local good = before.match == fake.KEY and { status = 404, headers = { ["x-consul-index"] = "19" } }
            or { status = 200, body = "{\"ID\":\"s\"}" }
          server:rule(fake.on(before.match, good))
        end
        local code, message = broken(step, rule)
        assert.are.equal("PROTOCOL", code, body .. ": " .. message)
      end
    end)

    it(at("answers CONNECT when the reply is cut off"), function()
      local raw = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"ID\":"
      assert.are.equal("CONNECT", (broken(step, { raw = raw })))
    end)

    it(at("answers DENIED at once when the ACL refuses"), function()
      server:rule({ first = true, match = step.match, status = 403, body = "Permission denied" })
      local ok, message, code = make():lock(helper.seconds(10))
      assert.are.same({ nil, "DENIED" }, { ok, code })
      assert.matches("403: Permission denied", message, 1, true)
      assert.are.equal(1, tries(step))
    end)

    it(at("answers HTTP, status and body when the server is in trouble and there is one try"), function()
      for _, status in ipairs({ 429, 500, 502, 503 }) do
        local code, message = broken(step, { status = status, body = "no\27[1m leader\nat all" })
        assert.are.equal("HTTP", code)
        assert.matches(("%d: no?[1m leader"):format(status), message, 1, true)
        assert.is_nil(message:find("[%c]"))
      end
    end)

    it(at("is taken after trouble that passes, each of which is tried again (behaviour 42)"), function()
      local troubles = step.match == fake.TXN and { 429, 500, 502, 503 } or { 429, 503 }
      for i = #troubles, 1, -1 do
        server:rule({ first = true, match = step.match, times = 1, status = troubles[i], body = "rpc error" })
      end
      assert(make():lock(helper.seconds(10)))
      local log = server:log(step.match)
      for i, status in ipairs(troubles) do assert.are.equal(status, log[i].status) end
      assert.are.equal(#troubles + 1, #log)
      assert.is_true(log[#log].received - log[1].received > 0.2) -- it backs off
    end)

    it(at("answers HTTP to a redirect, and does not follow it"), function()
      server:rule({ first = true, match = step.match, status = 301, headers = { location = "/elsewhere" } })
      local ok, message, code = make():lock(helper.seconds(10))
      assert.are.same({ nil, "HTTP" }, { ok, code })
      assert.matches("301", message, 1, true)
      assert.are.same({ 1, 0 }, { tries(step), server:count("/elsewhere") })
    end)
  end

  it("answers TIMEOUT when the reply drips in too slowly", function()
    local rule = { status = 200, body = "{}", interval = 0.1 }
    assert.are.equal("TIMEOUT", (broken(STEPS[1], rule, { timeout = 0.3 })))
  end)

  it("answers PROTOCOL when the reply is larger than the limit", function()
    local code = broken(STEPS[2], { status = 200, body = (" "):rep(LIMIT + 1) }, { timeout = helper.seconds(10) })
    assert.are.equal("PROTOCOL", code)
  end)

  it("is taken though what came first was not HTTP", function()
    server:rule({ first = true, match = fake.CREATE, times = 1, raw = "SSH-2.0-OpenSSH_9.2p1\r\n" })
    server:rule({ first = true, match = fake.TXN, times = 1, raw = "\0\1\2\3" })
    assert(make():lock(helper.seconds(5)))
  end)

  it("does not take a proxy's 404 for an absent key", function()
    local code, message = broken(STEPS[2], { status = 404, body = "no such host" })
    assert.are.equal("HTTP", code)
    assert.matches("no such host", message, 1, true)
    assert.are.equal(0, server:count(fake.TXN))
  end)

  it("answers CONFLICT, and leaves the key alone, when it is used for something else", function()
    local answer = fake.pair("", "7")
    answer.body = answer.body:gsub(fake.FLAGS, "3304740253564472345") -- a double could not tell them apart
    server:rule(fake.on(fake.KEY, answer, { first = true }))
    assert.are.equal("CONFLICT", code_of(make():lock(0)))
    assert.are.equal(0, server:count(fake.TXN))
  end)
end)

describe("a lock", function()
  local client, lock, listener, path
  after_each(function()
    client, lock = nil, nil
    if listener then listener:close() end
    if path then os.remove(path) end
    listener, path = nil, nil
    helper.finish()
  end)

  -- Listens, or only keeps the port to itself.
  local function address(listens)
    listener = assert(socket.tcp())
    assert(listener:bind("127.0.0.1", 0))
    if listens then assert(listener:listen()) end
    listener:settimeout(helper.seconds(5))
    local host, port = listener:getsockname()
    return host .. ":" .. port
  end

  local function start(where, options)
    local given = { address = where, timeout = helper.seconds(5) }
    for name, value in pairs(options or {}) do given[name] = value end
    client = helper.client(given)
    lock = assert(client:lock("k"))
    return assert(lock:start_lock(0))
  end

  it("answers CONNECT when nobody listens", function()
    local where = address(false)
    local ok, message, code = result(start(where))
    assert.are.same({ nil, "CONNECT" }, { ok, code })
    assert.matches(where, message, 1, true)
  end)

  it("answers TIMEOUT when the connection is taken and nothing is said", function()
    local op = start(address(true), { timeout = 0.2 })
    local con = assert(listener:accept())
    assert.are.equal("TIMEOUT", code_of(result(op)))
    con:close()
    client:abandon()
  end)

  it("answers TLS when the server does not speak it", function()
    local op = start("https://" .. address(true))
    local con = assert(listener:accept())
    con:send("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
    con:close()
    local ok, _, code = result(op)
    assert.are.same({ nil, "TLS" }, { ok, code })
  end)

  it("answers CONNECT when the host has no address", function()
    assert.are.equal("CONNECT", code_of(result(start("holdfast.invalid:8500"), 20)))
  end)

  -- The scriptable server has TCP only.
  it("goes through a Unix socket, with localhost as the host (behaviour 38)", function()
    path = os.tmpname()
    os.remove(path)
    listener = assert(unix.stream and unix.stream() or unix())
    assert(listener:bind(path))
    assert(listener:listen())
    listener:settimeout(helper.seconds(5))
    local op = start("unix://" .. path)
    local con = assert(listener:accept())
    con:settimeout(helper.seconds(5))
    local lines = {}
    for line in function() return assert(con:receive("*l")) end do
      if line == "" then break end
      lines[#lines + 1] = line
    end
    assert.are.equal("PUT /v1/session/create HTTP/1.1", lines[1])
    assert.are.equal("Host: localhost", lines[2])
    con:send("HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\n\r\nPermission denied")
    local ok, _, code = result(op)
    assert.are.same({ nil, "DENIED" }, { ok, code })
    con:close()
  end)

  it("answers CONNECT when nobody listens on the Unix socket", function()
    path = os.tmpname()
    assert.are.equal("CONNECT", code_of(result(start("unix://" .. path))))
  end)
end)
