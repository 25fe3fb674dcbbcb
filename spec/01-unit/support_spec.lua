local socket = require("socket")
local helper = require("spec.helper")

-- A bare HTTP connection: what it sends and when is up to the test.
local function connect(server)
  local con = assert(socket.connect("127.0.0.1", server:address():match("%d+$")))
  con:settimeout(5)
  return con
end

local function send(con, target, method, body)
  assert(con:send(("%s %s HTTP/1.1\r\nHost: spec\r\nContent-Length: %d\r\n\r\n"):format(
    method or "GET", target, #(body or "")) .. (body or "")))
end

local function receive(con)
  local start, why = con:receive("*l")
  if not start then return nil, why end
  local headers = {}
  for line in function() return con:receive("*l") end do
    if line == "" then break end
    local name, value = line:match("^(.-): (.*)$")
    headers[name:lower()] = value
  end
  local length = tonumber(headers["content-length"] or 0)
  local body = length > 0 and con:receive(length) or "" -- receive(0) waits for a byte
  return tonumber(start:match("^HTTP/1.1 (%d+)")), body, headers
end

local function fetch(con, target, method, body)
  send(con, target, method, body)
  return receive(con)
end

-- What comes back within a moment: nothing, "timeout"; or the end, "closed".
local function hears_nothing(con, seconds)
  con:settimeout(seconds)
  local _, why = con:receive(1)
  con:settimeout(5)
  return why
end

describe("the scriptable server", function()
  local server
  before_each(function() server = helper.server() end)
  after_each(helper.finish)

  it("answers by its first rule that matches, and 404 without one", function()
    server:rule({ match = "^GET /a$", status = 201, headers = { ["x-spec"] = "1" }, body = "a\0b" })
    server:rule({ match = "^GET /", status = 202 })
    local con = connect(server)
    local status, body, headers = fetch(con, "/a")
    assert.are.same({ 201, "a\0b", "1" }, { status, body, headers["x-spec"] })
    assert.are.equal(202, (fetch(con, "/b")))
    assert.are.equal(404, (fetch(con, "/a", "PUT")))
    server:clear()
    assert.are.equal(404, (fetch(con, "/a")))
  end)

  it("skips and counts", function()
    server:rule({ skip = 1, times = 2, status = 500 })
    server:rule({ status = 200 })
    local con, got = connect(server), {}
    for i = 1, 5 do got[i] = fetch(con, "/") end
    assert.are.same({ 200, 500, 500, 200, 200 }, got)
  end)

  it("logs what it was sent", function()
    fetch(connect(server), "/a/b?c=d&e", "PUT", "body\0\255")
    local log = server:log()
    assert.are.equal(1, #log)
    local entry = log[1]
    assert.are.same({ "PUT", "/a/b?c=d&e", "/a/b", "c=d&e", "body\0\255", "spec", 404 },
      { entry.method, entry.target, entry.path, entry.query, entry.body, entry.headers.host, entry.status })
    assert.is_true(math.abs(entry.received - socket.gettime()) < 5)
    assert.are.same({ 1, 0 }, { server:count("^PUT /a"), server:count("^GET") })
    server:forget()
    assert.are.same({}, server:log())
  end)

  it("reads a body in chunks, after 100 Continue if that is awaited", function()
    local con = connect(server)
    con:send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
    assert.are.equal("HTTP/1.1 100 Continue", con:receive("*l"))
    assert.are.equal("", con:receive("*l"))
    con:send("3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n")
    assert.are.equal(404, (receive(con)))
    assert.are.equal("abcde", server:log()[1].body)
  end)

  it("keeps connections, and counts them", function()
    local one, two = connect(server), connect(server)
    for _ = 1, 3 do fetch(one, "/") end
    fetch(two, "/")
    assert.are.same({ open = 2, most = 2, total = 2 }, server:connections())
    one:close()
    helper.eventually(function() return server:connections().open == 1 end)
    assert.are.same({ open = 1, most = 2, total = 2 }, server:connections())
    assert.are.same({ 1, 1, 1, 2 }, (function(ids)
      for i, entry in ipairs(server:log()) do ids[i] = entry.connection end
      return ids
    end)({}))
  end)

  it("sends raw bytes and closes", function()
    server:rule({ raw = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut" })
    local con = connect(server)
    send(con, "/")
    local _, why, text = con:receive("*a")
    assert.are.equal("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", why and text or _)
    assert.are.equal("closed", hears_nothing(con, 1))
  end)

  it("keeps the connection after raw bytes when told to", function()
    server:rule({ raw = "HTTP/1.1 204 No Content\r\n\r\n", keep = true })
    local con = connect(server)
    assert.are.equal(204, (fetch(con, "/")))
    assert.are.equal(204, (fetch(con, "/")))
  end)

  it("stalls: reads the request and never answers", function()
    server:rule({ match = "/slow", action = "stall" })
    local con = connect(server)
    send(con, "/slow")
    assert(server:wait_for("/slow", 1, 5))
    assert.are.equal("timeout", hears_nothing(con, 0.1))
    assert.are.equal(404, (fetch(connect(server), "/quick")))
  end)

  it("notices that a client leaves before its answer", function()
    server:rule({ action = "stall" })
    local con = connect(server)
    send(con, "/slow")
    assert(server:wait_for("/slow", 1, 5))
    assert.are.equal(0, server:count("/slow", "gone"))
    con:close()
    local entry = assert(server:wait_for("/slow", 1, 5, "gone"))[1]
    assert.is_true(entry.gone >= entry.received)
    assert.is_nil(entry.answered)
  end)

  it("closes", function()
    server:rule({ action = "close" })
    local con = connect(server)
    send(con, "/")
    assert.are.equal("closed", hears_nothing(con, 5))
  end)

  it("resets: what is written after it fails", function()
    server:rule({ action = "reset" })
    local con = connect(server)
    send(con, "/")
    hears_nothing(con, 5)
    -- After a FIN the first write would succeed.
    local sent, why = con:send("GET / HTTP/1.1\r\n\r\n")
    assert.are.same({ nil, "closed" }, { sent, why })
    assert.are.equal(0, server:connections().open)
  end)

  it("delays", function()
    server:rule({ delay = 0.2, status = 200 })
    local con = connect(server)
    local start = socket.gettime()
    assert.are.equal(200, (fetch(con, "/")))
    assert.is_true(socket.gettime() - start >= 0.2)
  end)

  it("drips", function()
    server:rule({ status = 200, body = "ok", interval = 0.005 })
    local con = connect(server)
    local start = socket.gettime()
    assert.are.equal(200, (fetch(con, "/")))
    assert.is_true(socket.gettime() - start >= 30 * 0.005)
  end)

  it("drops all connections", function()
    local con = connect(server)
    fetch(con, "/")
    server:drop()
    assert.are.equal("closed", hears_nothing(con, 5))
    assert.are.equal(404, (fetch(connect(server), "/")))
    server:drop("reset")
    helper.eventually(function() return server:connections().open == 0 end)
  end)

  it("waits for requests that are still to come", function()
    server:rule({ delay = 0.1, status = 200 })
    local con = connect(server)
    send(con, "/")
    assert.are.equal(200, assert(server:wait_for("^GET /$", 1, 5, "answered"))[1].status)
    local found, message = server:wait_for("^GET /$", 2, 0.01)
    assert.is_nil(found)
    assert.matches("1 of 2 requests", message)
  end)

  it("refuses rules that it does not know", function()
    assert.has_error(function() server:rule({ stall = true }) end)
    assert.has_error(function() server:rule({ action = "stal" }) end)
    assert.has_error(function() server:rule({ match = 1 }) end)
  end)
end)

describe("the fault proxy", function()
  local upstream, proxy
  before_each(function()
    upstream = helper.server()
    upstream:rule({ match = "/chunks", raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", keep = true })
    upstream:rule({ match = "/poll", action = "stall" })
    upstream:rule({ match = "/end", raw = "HTTP/1.1 200 OK\r\n\r\nto the end" })
    upstream:rule({ status = 200, headers = { ["x-consul-index"] = "7" }, body = "up" })
    proxy = helper.proxy(upstream:address())
  end)
  after_each(helper.finish)

  it("passes on, over one upstream connection per client connection", function()
    local con = connect(proxy)
    for _ = 1, 3 do
      local status, body, headers = fetch(con, "/a?b=c", "PUT", "sent")
      assert.are.same({ 200, "up", "7" }, { status, body, headers["x-consul-index"] })
    end
    assert.are.equal(1, upstream:connections().total)
    local entry = upstream:log()[3]
    assert.are.same({ "PUT", "/a?b=c", "sent" }, { entry.method, entry.target, entry.body })
  end)

  it("passes on answers in chunks, to the end of the connection, and without a body", function()
    local con = connect(proxy)
    local _, _, headers = fetch(con, "/chunks")
    assert.are.equal("chunked", headers["transfer-encoding"])
    assert.are.equal("5\r\nabcde\r\n0\r\n\r\n", con:receive(15))
    send(con, "/", "HEAD")
    assert.are.equal("HTTP/1.1 200 OK", con:receive("*l"))
    repeat local line = con:receive("*l") until line == ""
    send(con, "/end")
    local text = con:receive("*a")
    assert.are.equal("HTTP/1.1 200 OK\r\n\r\nto the end", text)
  end)

  it("forwards and then says nothing, closes or resets", function()
    local heard_after = { pass_then_stall = "timeout", pass_then_close = "closed", pass_then_reset = "closed" }
    for action, heard in pairs(heard_after) do
      proxy:clear()
      proxy:rule({ match = action, action = action })
      local con = connect(proxy)
      send(con, "/" .. action)
      assert(upstream:wait_for(action, 1, 5, "answered"))
      assert.are.equal(heard, hears_nothing(con, heard == "timeout" and 0.1 or 5))
      assert.is_nil(proxy:log(action)[1].answered)
    end
  end)

  it("drips what upstream answers", function()
    proxy:rule({ interval = 0.005 })
    local start = socket.gettime()
    local status, body = fetch(connect(proxy), "/")
    assert.are.same({ 200, "up" }, { status, body })
    assert.is_true(socket.gettime() - start >= 30 * 0.005)
  end)

  it("hangs up on upstream when the client leaves a long poll", function()
    local con = connect(proxy)
    send(con, "/poll")
    assert(upstream:wait_for("/poll", 1, 5))
    con:close()
    assert(upstream:wait_for("/poll", 1, 5, "gone"))
    assert(proxy:wait_for("/poll", 1, 5, "gone"))
    helper.eventually(function() return proxy:connections().open == 0 end)
  end)

  it("swallows everything in a black hole, on old connections and new ones, and lets it go after", function()
    local polling, old = connect(proxy), connect(proxy)
    proxy:rule({ match = "/late", delay = 0.05 })
    send(polling, "/late")
    fetch(old, "/")
    proxy:blackhole(true)
    local new = connect(proxy)
    send(old, "/old")
    send(new, "/new")
    for _, con in ipairs({ polling, old, new }) do assert.are.equal("timeout", hears_nothing(con, 0.1)) end
    assert.are.same({ 0, 0, 2 }, { proxy:count("/old"), upstream:count("/new"), proxy:connections().open })
    proxy:blackhole(false)
    for _, con in ipairs({ polling, old, new }) do assert.are.equal(200, (receive(con))) end
    assert.are.equal(1, upstream:count("/old"))
  end)

  it("closes the client's connection when there is no upstream any more", function()
    upstream:close()
    local con = connect(proxy)
    send(con, "/")
    assert.are.equal("closed", hears_nothing(con, 5))
  end)

  it("carries 300 long polls at once", function()
    local cons = {}
    for i = 1, 300 do
      cons[i] = connect(proxy)
      send(cons[i], "/poll?" .. i)
    end
    assert(upstream:wait_for("/poll", 300, 10))
    assert.are.equal(300, proxy:connections().open)
    cons[301] = connect(proxy)
    assert.are.equal(200, (fetch(cons[301], "/")))
    for _, con in ipairs(cons) do con:close() end
    assert(upstream:wait_for("/poll", 300, 10, "gone"))
    helper.eventually(function() return upstream:connections().open == 0 end)
  end)
end)

describe("the helper", function()
  after_each(helper.finish)

  it("runs Lua code in the interpreter of the spec", function()
    local status, out, err = helper.run_lua([[
      io.write(_VERSION, " ", type(jit), " ", os.getenv("NAME"), " ", tostring(os.getenv("HOME")))
      io.stderr:write("it's\n")
      require("spec.support.proxy")
      os.exit(3)]], { NAME = "a 'b' $c", HOME = false })
    assert.are.equal(3, status)
    assert.are.equal(_VERSION .. " " .. type(rawget(_G, "jit")) .. " a 'b' $c nil\n", out)
    assert.are.equal("it's\n", err)
  end)

  it("reports an error of the code", function()
    local status, out, err = helper.run_lua("print(1) error('oops')")
    assert.are.same({ 1, "1\n" }, { status, out })
    assert.matches("oops", err)
  end)

  it("talks to a process that runs, and kills it", function()
    local child = helper.spawn_lua("print('ready') io.stdout:flush() while true do end")
    assert.are.equal("ready", child:read_line())
    child:kill("KILL")
    assert.are.equal(128 + 9, (child:wait()))
    assert.is_nil(child:read_line())
  end)

  it("ends with finish what was started", function()
    local child = helper.spawn_lua("print('ready') io.stdout:flush() while true do end")
    local server = helper.server()
    child:read_line()
    helper.finish()
    assert.are.equal(128 + 9, child.status)
    assert.is_nil(socket.connect("127.0.0.1", server:address():match("%d+$")))
  end)

  it("finds a child process that was left", function()
    local pipe = io.popen("exec sleep 60 </dev/null & echo $!; exec >&-; wait", "r")
    local pid = pipe:read("*l")
    local ok, message = pcall(helper.finish)
    os.execute("kill " .. pid)
    pipe:close()
    assert.is_false(ok)
    assert.matches("leaves child processes behind: %d+", message)
  end)

  it("waits until something is true, or says what was wrong", function()
    local n = 0
    assert.are.equal("now", helper.eventually(function()
      n = n + 1
      if n < 3 then error("not yet") end
      return "now"
    end))
    local ok, message = pcall(helper.eventually, function() return nil, "it is 7" end, 0.01)
    assert.is_false(ok)
    assert.matches("not within .*: it is 7", message)
  end)

  it("makes keys that are unlike each other", function()
    assert.are_not.equal(helper.unique_key("a"), helper.unique_key("a"))
    assert.matches("/a$", helper.unique_key("a"))
  end)
end)
