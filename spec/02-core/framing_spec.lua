-- What a producer of messages can make of a request: one, and no other. Looks at the bytes on the wire.
local socket = require("socket")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local options = require("holdfast.options")
local queues = require("holdfast.queue")

local ANSWER = "HTTP/1.1 204 No Content\r\n\r\n"

-- Headers that say where a message ends, or who is to take it, in whatever case.
local FRAMING = {
  "Content-Length", "transfer-encoding", "HOST", "Connection", "upgrade", "TE", "Trailer", "keep-alive", "Expect",
  "http2-settings", "Proxy-Connection", "proxy-authorization", "PROXY-X",
}

describe("a request on the wire", function()
  local listener, port, client
  before_each(function()
    listener = assert(socket.bind("127.0.0.1", 0))
    listener:settimeout(helper.seconds(5))
    port = select(2, listener:getsockname())
    client = helper.client({ address = "127.0.0.1:1", timeout = helper.seconds(5) })
  end)
  after_each(function()
    listener:close()
    client = nil
    helper.finish()
  end)

  local function url(path)
    return ("http://127.0.0.1:%d%s"):format(port, path or "/")
  end

  -- The bytes that arrive of this request, up to the end of its body.
  local function bytes_of(req)
    local op = assert(client:start_request(assert(options.request(req))))
    local con = assert(listener:accept())
    con:settimeout(helper.seconds(5))
    local lines = {}
    repeat
      lines[#lines + 1] = assert(con:receive("*l"))
    until lines[#lines] == ""
    local body = req.body and #req.body > 0 and assert(con:receive(#req.body)) or ""
    con:settimeout(0)
    assert.are.same({ nil, "timeout", "" }, { con:receive(1) }) -- and not one more
    assert(con:send(ANSWER))
    assert.are.equal(204, (fake.result(op)))
    con:close()
    return table.concat(lines, "\r\n") .. "\r\n" .. body
  end

  local function assert_nothing_arrived()
    listener:settimeout(0)
    assert.are.same({ nil, "timeout" }, { listener:accept() })
  end

  local function refuses(what, req)
    local ok, message, code = client:request(req)
    assert.are.same({ nil, "INVALID" }, { ok, code }, message)
    assert.is_truthy(message:find(what, 1, true), message)
  end

  it("is what was asked for, byte for byte", function()
    local body = "GET / HTTP/1.1\r\n\r\n"
    local headers = { ["X-A"] = " \tb, \"c\": d\255", ["X-Empty"] = " ", ["x-b"] = 1 }
    assert.are.equal(("POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\nX-A: b, \"c\": d\255\r\n"
      .. "X-Empty:\r\nx-b: 1\r\nContent-Length: 18\r\n\r\n%s"):format(port, body),
      bytes_of({ url = url("/a?b=c"), body = body, headers = headers }))
  end)

  it("is never begun with a header that says where it ends, or who is to take it", function()
    for _, name in ipairs(FRAMING) do
      refuses(("header %q says where"):format(name), { url = url(), body = "x", headers = { [name] = "1" } })
    end
    assert_nothing_arrived()
  end)

  it("is never begun with a header that would be more than one", function()
    for _, value in ipairs({ "1\r\nHost: b", "1\nb: c", "1\rb", "1\0", "1\127", "1\27" }) do
      refuses('header "x-a" has a control character', { url = url(), headers = { ["x-a"] = value } })
    end
    for _, name in ipairs({ "", "x a", "x:", "x\r\nhost", "x\0", "x;", "x(y)", "\195\188" }) do
      refuses("is not a header name", { url = url(), headers = { [name] = "1" } })
    end
    assert_nothing_arrived()
  end)

  it("is never begun with another method or URL than one", function()
    for _, method in ipairs({ "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", "GET ", "", "G\0T", "CONNECT", "connect" }) do
      refuses("method", { url = url(), method = method })
    end
    for _, path in ipairs({ "/ HTTP/1.1\r\nHost: b", "/\n", "/ x", "/\0", "/\127", "/\t" }) do
      refuses("without spaces", { url = url(path) })
    end
    for _, before in ipairs({ "user:s3cret@", "user@", "@", "a\\@" }) do
      local _, message, code = client:request({ url = ("http://%s127.0.0.1:%d/"):format(before, port) })
      assert.are.equal("INVALID", code)
      assert.is_truthy(message:find("it has a user in it", 1, true), message)
      assert.is_nil(message:find("s3cret", 1, true), message)
    end
    for _, other in ipairs({ "ftp://127.0.0.1/", "file:///etc/passwd", "unix:///x", "//127.0.0.1/", "javascript:1" }) do
      refuses("http:// or https://", { url = other })
    end
    assert_nothing_arrived()
  end)

  it("has what looks like a user in its path or query", function()
    assert.matches("^GET /@a%?b=@c HTTP/1.1\r\n", bytes_of({ url = url("/@a?b=@c#@d") }))
  end)
end)

describe("a message with such a header", function()
  it("is refused by the queue, and the header is named", function()
    local queue = assert(queues.open("memory:"))
    for _, name in ipairs(FRAMING) do
      local ok, message, code = queue:push("r", { id = "m", body = "", headers = { [name] = "1" } })
      assert.are.same({ nil, "INVALID" }, { ok, code })
      assert.is_truthy(message:find(("header %q"):format(name), 1, true), message)
    end
    assert.are.equal(0, queue:len())
  end)
end)
