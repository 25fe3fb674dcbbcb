-- client:request: where a request may go, and how it gets there.
local unix = require("socket.unix")
local helper = require("spec.helper")

describe("a request for public addresses only", function()
  local server, client
  before_each(function()
    server = helper.server()
    server:rule({ status = 204 })
    client = helper.client({ address = "127.0.0.1:1", timeout = helper.seconds(5) })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function fetch(url, allow)
    return client:request({ url = url, public_only = true, allow_addresses = allow })
  end

  local function denies(what, url, allow)
    local ok, message, code = fetch(url, allow)
    assert.are.same({ nil, "DENIED" }, { ok, code }, message)
    assert.is_truthy(message:find("will not connect to ", 1, true), message)
    assert.is_truthy(message:find(what, 1, true), message)
  end

  it("does not get to the others, whatever names and numbers they are written with", function()
    local port = server:url():match(":(%d+)$")
    denies("127.0.0.1, which is loopback", server:url())
    denies("loopback", "http://localhost:" .. port)
    denies("127.0.0.1, which is loopback", "http://2130706433:" .. port)
    denies("127.0.0.1, which is loopback", "http://0x7f.1:" .. port)
    denies("::ffff:127.0.0.1, which is loopback", "http://[::ffff:127.0.0.1]:" .. port)
    denies("169.254.169.254, which is a metadata service", "http://169.254.169.254/latest/meta-data/")
    assert.are.equal(0, server:count())
  end)

  it("gets to those of an allowed network", function()
    assert.are.equal(204, assert(fetch(server:url(), { "10.0.0.0/8", "127.0.0.1" })).status)
    assert.are.equal(204, assert(fetch(server:url(), { "127.0.0.0/8" })).status)
    denies("loopback", server:url(), { "10.0.0.0/8" })
    assert.are.equal(2, server:count())
  end)

  it("does not go by a connection of a request that went further", function()
    assert.are.equal(204, assert(client:request({ url = server:url() })).status)
    denies("loopback", server:url())
    assert.are.equal(1, server:count())
    assert.are.equal(204, assert(client:request({ url = server:url() })).status)
  end)

  it("is not handed to a proxy, which others are", function()
    local code = [[
      local client = assert(require("holdfast").new({ address = "127.0.0.1:1" }))
      local url = "http://203.0.113.1/x"
      print(assert(client:request({ url = url })).status)
      print(select(2, client:request({ url = url, public_only = true })))
    ]]
    local status, out, err = helper.run_lua(code, { http_proxy = server:url() })
    assert.are.equal(0, status, err)
    assert.matches("^204\n", out)
    assert.is_truthy(out:find("203.0.113.1, which is for documentation", 1, true), out)
    assert.are.equal(1, server:count())
  end)

  it("does not follow a redirect", function()
    server:clear()
    server:rule({ status = 302, headers = { Location = "http://169.254.169.254/" }, body = "" })
    assert.are.equal(302, assert(fetch(server:url(), { "127.0.0.1" })).status)
    assert.are.equal(1, server:count())
  end)

  it("takes networks, and no unix socket", function()
    for _, wrong in ipairs({ "10.0.0.1/8", "localhost", "10.0.0.0/33", "::/129" }) do
      local ok, message, code = fetch(server:url(), { wrong })
      assert.are.same({ nil, "INVALID" }, { ok, code })
      assert.is_truthy(message:find(wrong, 1, true), message)
    end
    local _, message, code = client:request({ url = server:url(), unix_socket = "/x", public_only = true })
    assert.are.equal("INVALID", code)
    assert.matches("unix_socket /x is no public address", message)
    local ok, wrong = pcall(client.request, client, { url = "http://a/", allow_addresses = { "10.0.0.0/8" } })
    assert.is_false(ok)
    assert.matches("allow_addresses needs public_only = true", wrong, 1, true)
  end)
end)

describe("a request to a unix socket", function()
  after_each(function() helper.finish() end)

  it("arrives there, whatever its URL says", function()
    local client = helper.client({ address = "127.0.0.1:1", timeout = helper.seconds(5) })
    local path = os.tmpname()
    os.remove(path)
    local listener = assert((unix.stream or unix)())
    assert(listener:bind(path))
    assert(listener:listen(1))
    listener:settimeout(helper.seconds(5))
    local settings = assert(require("holdfast.options").request({ url = "http://elsewhere.example/a",
      unix_socket = path }))
    local op = assert(client:start_request(settings))
    local con = assert(listener:accept())
    con:settimeout(helper.seconds(5))
    assert.are.equal("GET /a HTTP/1.1", assert(con:receive("*l")))
    assert.are.equal("Host: elsewhere.example", assert(con:receive("*l")))
    assert(con:send("HTTP/1.1 204 No Content\r\n\r\n"))
    assert.are.equal(204, (require("spec.support.fake").result(op)))
    con:close()
    listener:close()
    os.remove(path)
  end)

  it("says that nobody is there", function()
    local client = helper.client({ address = "127.0.0.1:1", timeout = helper.seconds(5) })
    local ok, _, code = client:request({ url = "http://a/", unix_socket = "/nowhere/at/all" })
    assert.are.same({ nil, "CONNECT" }, { ok, code })
    for _, wrong in ipairs({ "relative", "/" .. ("x"):rep(107) }) do
      assert.are.equal("INVALID", select(3, client:request({ url = "http://a/", unix_socket = wrong })))
    end
  end)
end)
