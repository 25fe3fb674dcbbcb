-- client:request and lock:request: what goes out, what comes back.
local socket = require("socket")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, result = fake.code_of, fake.result

describe("a request", function()
  local server, client
  before_each(function()
    server = helper.server()
    client = helper.client({ address = server:address(), timeout = helper.seconds(5) })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  -- The options of a request to the server, with its path in [1].
  local function at(options)
    local req = {}
    for name, value in pairs(options) do req[name] = value end
    req[1], req.url = nil, server:url() .. options[1]
    return req
  end

  local function fetch(options)
    return client:request(at(options))
  end

  local function sent()
    return server:log()[1]
  end

  it("answers status, headers, body and how long it took", function()
    server:rule({ status = 418, headers = { ["X-Spec"] = "a  b" }, body = "a\0b\255", delay = 0.05 })
    local response = assert(fetch({ "/a?b=c" }))
    assert.are.same({ 418, "a\0b\255", false }, { response.status, response.body, response.truncated })
    assert.are.equal("a  b", response.headers["x-spec"])
    assert.are.equal("4", response.headers["content-length"])
    assert.is_true(response.elapsed >= 0.05 and response.elapsed < helper.seconds(2))
    assert.are.same({ "GET", "/a?b=c", "" }, { sent().method, sent().target, sent().body })
  end)

  it("joins repeated headers, and has their names in lower case", function()
    server:rule({ raw = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-A:  1 \r\nset-cookie: b=2\r\nX-a: 2\r\nX-Empty:\r\n"
      .. "Content-Length: 0\r\n\r\n" })
    local headers = assert(fetch({ "/" })).headers
    assert.are.same({ ["set-cookie"] = "a=1, b=2", ["x-a"] = "1, 2", ["x-empty"] = "", ["content-length"] = "0" },
      headers)
  end)

  it("passes over responses that come before the final one, with their headers", function()
    server:rule({ raw = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\nX-Early: 1\r\n\r\n"
      .. "HTTP/1.1 200 OK\r\nX-Final: 1\r\nContent-Length: 2\r\n\r\nok" })
    local response = assert(fetch({ "/" }))
    assert.are.same({ 200, "ok" }, { response.status, response.body })
    assert.are.same({ ["x-final"] = "1", ["content-length"] = "2" }, response.headers)
  end)

  it("reads a body in chunks", function()
    server:rule({ raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "3\r\na\0b\r\n4;x=y\r\ncdef\r\n0\r\n\r\n" })
    local response = assert(fetch({ "/" }))
    assert.are.same({ "a\0bcdef", false }, { response.body, response.truncated })
  end)

  it("reads a body that ends with the connection", function()
    server:rule({ raw = "HTTP/1.1 200 OK\r\n\r\nto the end" })
    assert.are.equal("to the end", assert(fetch({ "/" })).body)
  end)

  it("has an empty body with 204, and with HEAD, which need not tell the truth about its length", function()
    server:rule({ match = "^HEAD", status = 200, body = "not sent" })
    server:rule({ status = 204, headers = { ["x-spec"] = "1" } })
    local response = assert(fetch({ "/" }))
    assert.are.same({ 204, "", "1" }, { response.status, response.body, response.headers["x-spec"] })
    response = assert(fetch({ "/", method = "HEAD" }))
    assert.are.same({ 200, "", "8" }, { response.status, response.body, response.headers["content-length"] })
    assert.is_true(response.elapsed < helper.seconds(1)) -- and does not wait for 8 bytes
  end)

  it("reads no more of the body than max_body, and says so", function()
    server:rule({ status = 200, body = "0123456789" })
    local wanted = { [0] = "", [1] = "0", [9] = "012345678", [10] = "0123456789", [11] = "0123456789" }
    for max_body, body in pairs(wanted) do
      local response = assert(fetch({ "/", max_body = max_body }))
      assert.are.same({ 200, body, max_body < 10 }, { response.status, response.body, response.truncated })
    end
  end)

  it("reads a megabyte when nothing else is said", function()
    server:rule({ match = "much", status = 200, body = ("x"):rep(1024 * 1024 + 1) })
    server:rule({ status = 200, body = ("x"):rep(1024 * 1024) })
    local response = assert(fetch({ "/" }))
    assert.are.same({ 1024 * 1024, false }, { #response.body, response.truncated })
    response = assert(fetch({ "/much" }))
    assert.are.same({ 1024 * 1024, true }, { #response.body, response.truncated })
  end)

  it("stops at max_body of an endless body", function()
    server:rule({ raw = "HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n" .. ("x"):rep(1000), keep = true })
    local response = assert(fetch({ "/", max_body = 100 }))
    assert.are.same({ 100, true }, { #response.body, response.truncated })
  end)

  it("answers PROTOCOL when the headers are too long", function()
    local line = "X-Long: " .. ("x"):rep(1000) .. "\r\n"
    server:rule({ raw = "HTTP/1.1 200 OK\r\n" .. line:rep(90) .. "Content-Length: 0\r\n\r\n" })
    assert.are.equal("PROTOCOL", code_of(fetch({ "/" })))
  end)

  it("sends a long body whole, with the headers given and none that libcurl makes up", function()
    server:rule({ status = 200 })
    local body = ("0123456789abcde\0"):rep(100 * 64)
    assert(fetch({ "/", body = body, headers = { ["X-One"] = "1", ["x-two"] = 2, ["X-Empty"] = "" } }))
    assert.are.equal("POST", sent().method)
    assert.is_true(sent().body == body)
    assert.are.same({ host = server:address(), accept = "*/*", ["content-length"] = "102400", ["x-one"] = "1",
      ["x-two"] = "2", ["x-empty"] = "" }, sent().headers)
  end)

  it("sends the content-type that was given, once", function()
    server:rule({ status = 200 })
    assert(fetch({ "/", method = "PUT", body = "{}", headers = { ["content-Type"] = "application/json" } }))
    assert.are.same({ "PUT", "{}", "application/json" },
      { sent().method, sent().body, sent().headers["content-type"] })
  end)

  it("sends any method, with and without a body", function()
    server:rule({ status = 200 })
    for _, method in ipairs({ "DELETE", "PATCH", "OPTIONS", "POST", "PUT", "get" }) do
      assert(fetch({ "/", method = method }))
      assert(fetch({ "/", method = method, body = "body" }))
    end
    for i, entry in ipairs(server:log()) do
      assert.are.equal(i % 2 == 0 and "body" or "", entry.body, entry.method)
      assert.is_nil(entry.headers["transfer-encoding"])
      assert.is_nil(entry.headers["content-type"])
    end
    assert.are.equal("GET", server:log()[11].method)
    assert.are.equal("0", server:log("^POST")[1].headers["content-length"]) -- RFC 9110 8.6
  end)

  it("does not follow redirects", function()
    server:rule({ match = "/here", status = 302, headers = { location = "/there" }, body = "moved" })
    local response = assert(fetch({ "/here" }))
    assert.are.same({ 302, "/there", "moved" }, { response.status, response.headers.location, response.body })
    assert.are.equal(0, server:count("/there"))
  end)

  it("answers TIMEOUT when the server says nothing, and hangs up", function()
    server:rule({ action = "stall" })
    local start = socket.gettime()
    local ok, message, code = fetch({ "/slow", timeout = 0.2 })
    local took = socket.gettime() - start
    assert.are.same({ nil, "TIMEOUT" }, { ok, code })
    assert.matches(server:url() .. "/slow", message, 1, true)
    assert.is_true(took >= 0.2 and took < helper.seconds(0.8), took)
    assert(server:wait_for("/slow", 1, helper.seconds(5), "gone"))
  end)

  it("has a timeout for the whole, not for the next byte", function()
    server:rule({ status = 200, body = ("x"):rep(1000), interval = 0.02 })
    local start = socket.gettime()
    assert.are.equal("TIMEOUT", code_of(fetch({ "/", timeout = 0.3 })))
    assert.is_true(socket.gettime() - start < 10) -- and not the 20 s of all bytes
  end)

  it("has the timeout of the client unless one is given", function()
    server:rule({ action = "stall" })
    local hasty = helper.client({ address = server:address(), timeout = 0.1 })
    assert.are.equal("TIMEOUT", code_of(hasty:request(at({ "/" }))))
  end)

  it("answers CONNECT when the connection is refused, reset, closed or cut", function()
    local free = assert(socket.tcp())
    assert(free:bind("127.0.0.1", 0)) -- and does not listen
    local _, port = free:getsockname()
    assert.are.equal("CONNECT", code_of(client:request({ url = "http://127.0.0.1:" .. port })))
    free:close()
    server:rule({ match = "/reset", action = "reset" })
    server:rule({ match = "/close", action = "close" })
    server:rule({ match = "/cut", raw = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut" })
    for _, path in ipairs({ "/reset", "/close", "/cut" }) do
      local ok, message, code = fetch({ path })
      assert.are.same({ nil, "CONNECT" }, { ok, code })
      assert.matches(path, message, 1, true)
    end
  end)

  it("answers PROTOCOL to what is not HTTP", function()
    server:rule({ raw = "SSH-2.0-OpenSSH_9.2p1\r\n" })
    local _, message, code = fetch({ "/" })
    assert.are.equal("PROTOCOL", code, message)
  end)

  it("answers INVALID for a scheme that is not HTTP, and sends nothing", function()
    for _, url in ipairs({ "ftp://127.0.0.1/", "file:///etc/passwd", "127.0.0.1/", "http://", "gopher://a" }) do
      assert.are.equal("INVALID", code_of(client:request({ url = url })), url)
      local op = client:start_request({ method = "GET", url = url, max_body = 1, headers = {} })
      local code = code_of(result(op)) -- the core by itself
      assert.is_true(code == "INVALID" or not url:find("^%a+://."), url .. ": " .. code)
    end
  end)

  it("keeps its connection", function()
    server:rule({ status = 200 })
    for _ = 1, 5 do assert(fetch({ "/" })) end
    assert.are.equal(1, server:connections().total)
    assert.are.equal(1, client:stats().connections)
  end)

  it("counts the connections that are open, whatever became of others", function()
    local refused, other = assert(socket.bind("127.0.0.1", 0)), helper.server()
    local url = "http://127.0.0.1:" .. select(2, refused:getsockname())
    refused:close()
    for _ = 1, 3 do assert.are.equal("CONNECT", code_of(client:request({ url = url }))) end
    server:rule({ status = 200 })
    other:rule({ status = 200 })
    assert(fetch({ "/" }))
    assert.are.equal(1, client:stats().connections)
    assert.are.equal("TLS", code_of(client:request({ url = "https://" .. other:address() })))
    assert(client:request({ url = other:url() }))
    assert.are.equal(2, client:stats().connections)
  end)

  it("is one of many at the same time", function()
    server:rule({ delay = 0.2, status = 200, body = "ok" })
    local ops, start = {}, socket.gettime()
    for i = 1, 60 do
      ops[i] = assert(client:start_request({ method = "GET", url = server:url() .. "/" .. i, max_body = 9,
        headers = {} }))
    end
    for _, op in ipairs(ops) do assert.are.equal(200, (result(op))) end
    assert.is_true(socket.gettime() - start < 10) -- and not 12 s, one after the other
  end)

  it("ends with CLOSED when the client closes", function()
    server:rule({ action = "stall" })
    local op = assert(client:start_request({ method = "GET", url = server:url(), max_body = 1, headers = {} }))
    assert(server:wait_for("^GET /", 1, helper.seconds(5)))
    local start = socket.gettime()
    client:close()
    assert.is_true(socket.gettime() - start < 2.9) -- and not what a close may take
    assert.are.equal("CLOSED", code_of(result(op)))
    assert.are.equal("CLOSED", code_of(fetch({ "/" })))
  end)

  it("ends with CANCELED when it is canceled, and hangs up", function()
    server:rule({ action = "stall" })
    local op = assert(client:start_request({ method = "GET", url = server:url() .. "/c", max_body = 1, headers = {} }))
    assert(server:wait_for("/c", 1, helper.seconds(5)))
    op:cancel()
    assert.are.equal("CANCELED", code_of(result(op)))
    assert(server:wait_for("/c", 1, helper.seconds(5), "gone"))
  end)
end)

describe("a request of a client with secrets", function()
  local agent, server
  before_each(function()
    agent, server = fake.consul(), helper.server()
    server:rule({ status = 200 })
  end)
  after_each(helper.finish)

  it("shows the token and the password to Consul only", function()
    local client = helper.client({ address = agent:address(), token = "s3cret", auth = "user:pass",
      datacenter = "dc7", namespace = "ns7" })
    local lock = assert(client:lock("k"))
    assert(lock:lock(30))
    assert(client:request({ url = server:url() }))
    assert(lock:request({ url = server:url(), method = "POST", body = "x" }))
    assert(agent:wait_for(fake.INFO .. ".*index=", 1, helper.seconds(5)))
    assert.is_true(agent:count() >= 4)
    for _, entry in ipairs(agent:log()) do
      assert.are.equal("s3cret", entry.headers["x-consul-token"])
      assert.are.equal("Basic dXNlcjpwYXNz", entry.headers.authorization)
      assert.matches("[?&]dc=dc7", entry.target)
      assert.matches("[?&]ns=ns7", entry.target)
      assert.is_nil(entry.target:find("s3cret", 1, true))
    end
    assert.are.equal(2, server:count())
    for _, entry in ipairs(server:log()) do
      assert.is_nil(entry.headers["x-consul-token"])
      assert.is_nil(entry.headers.authorization)
      assert.are.equal("/", entry.target)
    end
  end)

  it("shows them to no URL of the user, not even one of the agent's own address", function()
    local client = helper.client({ address = agent:address(), token = "s3cret", auth = "user:pass" })
    local lock = assert(client:lock("k"))
    assert(lock:lock(30))
    assert(client:request({ url = agent:url() .. "/hook" }))
    local entry = agent:log("/hook")[1]
    assert.is_nil(entry.headers["x-consul-token"])
    assert.is_nil(entry.headers.authorization)
  end)

  it("shows no password of a URL in a message", function()
    local client = helper.client({ address = agent:address(), timeout = 0.1 })
    server:rule({ first = true, action = "stall" })
    local url = "http://user:s3cret@" .. server:address() .. "/x"
    local op = assert(client:start_request({ method = "GET", url = url, max_body = 1, headers = {} }))
    local _, message, code = result(op) -- the core by itself
    assert.are.equal("TIMEOUT", code)
    assert.is_nil(message:find("s3cret", 1, true), message)
  end)
end)

describe("a guarded request", function()
  local agent, server, client, lock
  before_each(function()
    agent, server = fake.consul(), helper.server()
    client = helper.client({ address = agent:address(), session = { ttl = 1.2 } })
    lock = assert(client:lock("k"))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function in_flight()
    server:rule({ action = "stall" })
    local op = assert(lock:start_request({ method = "POST", url = server:url() .. "/hook", body = "x", max_body = 1,
      headers = {}, timeout = 300 }))
    assert(server:wait_for("/hook", 1, helper.seconds(5)))
    return op
  end

  it("is answered while the lock is held", function()
    server:rule({ status = 200, body = "ok" })
    assert(lock:lock(30))
    assert.are.equal("ok", assert(lock:request({ url = server:url() })).body)
  end)

  it("is refused, and not sent, when the lock is not held", function()
    assert.are.equal("NOT_HELD", code_of(lock:request({ url = server:url() })))
    assert(lock:lock(30))
    assert(lock:unlock(30))
    assert.are.equal("NOT_HELD", code_of(lock:request({ url = server:url() })))
    agent:rule(fake.on(fake.RENEW, fake.NO_SESSION, { first = true }))
    assert(lock:lock(30))
    assert(lock:wait_lost(helper.seconds(5)))
    local ok, message, code = lock:request({ url = server:url() })
    assert.are.same({ nil, "LOST" }, { ok, code })
    assert.matches("session", message, 1, true)
    assert.are.equal(0, server:count())
  end)

  it("is aborted when the lock is lost", function()
    assert(lock:lock(30))
    local op = in_flight()
    agent:rule(fake.on(fake.RENEW, fake.NO_SESSION, { first = true }))
    local ok, message, code = result(op)
    assert.are.same({ nil, "LOST" }, { ok, code })
    assert.matches("session", message, 1, true)
    assert(server:wait_for("/hook", 1, helper.seconds(5), "gone"))
  end)

  it("is aborted at the deadline of the lease, whatever Consul does", function()
    client = helper.client({ address = agent:address(), session = { ttl = 4, lock_delay = 0 } })
    lock = assert(client:lock("k"))
    agent:rule({ first = true, match = fake.RENEW, action = "stall" })
    assert(lock:lock(30))
    local op = in_flight()
    local ok, message, code = result(op)
    assert.are.same({ nil, "LOST" }, { ok, code })
    assert.matches("deadline", message, 1, true)
    assert(server:wait_for("/hook", 1, helper.seconds(5), "gone"))
  end)

  it("is aborted when the lock is released under it", function()
    assert(lock:lock(30))
    local op = in_flight()
    assert(lock:unlock(30))
    assert.are.equal("LOST", code_of(result(op)))
    assert(server:wait_for("/hook", 1, helper.seconds(5), "gone"))
  end)

  it("belongs to its hold, not to the next one of the same lock", function()
    assert(lock:lock(30))
    local op = in_flight()
    assert(lock:unlock(30))
    assert(lock:lock(30))
    assert.are.equal("LOST", code_of(result(op)))
    assert.is_true(lock:held())
  end)
end)
