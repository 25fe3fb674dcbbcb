local json = require("dkjson")
local socket = require("socket")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

-- A bare HTTP connection: what it sends and when is up to the test.
local function connect(server)
  local con = assert(socket.connect("127.0.0.1", server:address():match("%d+$")))
  con:settimeout(helper.seconds(5))
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
  con:settimeout(helper.seconds(5))
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
    assert(server:wait_for("/slow", 1, helper.seconds(5)))
    assert.are.equal("timeout", hears_nothing(con, 0.1))
    assert.are.equal(404, (fetch(connect(server), "/quick")))
  end)

  it("notices that a client leaves before its answer", function()
    server:rule({ action = "stall" })
    local con = connect(server)
    send(con, "/slow")
    assert(server:wait_for("/slow", 1, helper.seconds(5)))
    assert.are.equal(0, server:count("/slow", "gone"))
    con:close()
    local entry = assert(server:wait_for("/slow", 1, helper.seconds(5), "gone"))[1]
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

  it("holds a request back until it is told to let it go", function()
    server:rule({ hold = true, status = 200 })
    local con = connect(server)
    send(con, "/held")
    assert(server:wait_for("/held", 1, helper.seconds(5)))
    assert.are.equal("timeout", hears_nothing(con, 0.1))
    assert.are.same({ 0, 1, 0 }, { server:release("/other"), server:release("/held"), server:release() })
    assert.are.equal(200, (receive(con)))
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
    assert.are.equal(200, assert(server:wait_for("^GET /$", 1, helper.seconds(5), "answered"))[1].status)
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
      assert(upstream:wait_for(action, 1, helper.seconds(5), "answered"))
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
    assert(upstream:wait_for("/poll", 1, helper.seconds(5)))
    con:close()
    assert(upstream:wait_for("/poll", 1, helper.seconds(5), "gone"))
    assert(proxy:wait_for("/poll", 1, helper.seconds(5), "gone"))
    helper.eventually(function() return proxy:connections().open == 0 end)
  end)

  it("swallows everything in a black hole, on old connections and new ones, and lets it go after", function()
    local polling, old = connect(proxy), connect(proxy)
    proxy:rule({ match = "/late", hold = true })
    send(polling, "/late")
    fetch(old, "/")
    assert(proxy:wait_for("/late", 1, helper.seconds(5)))
    proxy:blackhole(true)
    assert.are.equal(1, proxy:release())
    local new = connect(proxy)
    send(old, "/old")
    send(new, "/new")
    for _, con in ipairs({ polling, old, new }) do assert.are.equal("timeout", hears_nothing(con, 0.1)) end
    assert.are.same({ 0, 0, 2 }, { proxy:count("/old"), upstream:count("/new"), proxy:connections().open })
    proxy:blackhole(false)
    for _, con in ipairs({ polling, old, new }) do assert.are.equal(200, (receive(con))) end
    assert.are.equal(1, upstream:count("/old"))
  end)

  it("carries out a delayed request though its client has left meanwhile", function()
    for i, action in ipairs({ "answer", "pass_then_close" }) do
      proxy:rule({ match = action, delay = 0.1, action = action })
      local con = connect(proxy)
      send(con, "/" .. action, "PUT", "late")
      assert(proxy:wait_for(action, 1, helper.seconds(5)))
      con:close()
      local entry = assert(proxy:wait_for(action, 1, helper.seconds(5), "carried"))[1]
      assert.are.same({ 200, 0 }, { entry.outcome, entry.copies })
      assert.is_nil(entry.status)
      assert.is_true(entry.carried >= entry.received + 0.1)
      assert.are.equal(i, upstream:count("^PUT /"))
    end
    assert.are.equal("late", upstream:log("^PUT /answer$")[1].body)
  end)

  it("carries out a request that it has held back though its client has left meanwhile", function()
    proxy:rule({ match = "/held", hold = true })
    local con = connect(proxy)
    send(con, "/held")
    assert(proxy:wait_for("/held", 1, helper.seconds(5)))
    con:close()
    assert(proxy:wait_for("/held", 1, helper.seconds(5), "gone"))
    assert.are.equal(0, upstream:count())
    assert.are.equal(1, proxy:release())
    assert(proxy:wait_for("/held", 1, helper.seconds(5), "carried"))
    assert.are.equal(1, upstream:count())
  end)

  it("passes a late request on when it is told to, and not before", function()
    proxy:rule({ match = "/late", action = "late" })
    local con = connect(proxy)
    send(con, "/late", "PUT", "body")
    assert(proxy:wait_for("/late", 1, helper.seconds(5)))
    assert.are.equal("timeout", hears_nothing(con, 0.1))
    con:close()
    assert.are.equal(1, assert(proxy:wait_for("/late", 1, helper.seconds(5), "gone"))[1].copies)
    assert.are.same({ 0, 0 }, { proxy:count("/late", "carried"), upstream:count() })
    assert.are.same({ 0, 1, 0 }, { proxy:release("/other"), proxy:release("/late"), proxy:release("/late") })
    local entry = assert(proxy:wait_for("/late", 1, helper.seconds(5), "carried"))[1]
    assert.are.same({ 200, 0 }, { entry.outcome, entry.copies })
    assert.are.equal("body", upstream:log("^PUT /late$")[1].body)
  end)

  it("passes a late request on some time after its client has left", function()
    proxy:rule({ match = "/late", action = "late", delay = 0.1 })
    local con = connect(proxy)
    send(con, "/late")
    assert.are.equal("timeout", hears_nothing(con, 0.2))
    assert.are.equal(0, upstream:count())
    con:close()
    local entry = assert(proxy:wait_for("/late", 1, helper.seconds(5), "carried"))[1]
    assert.is_true(entry.carried >= entry.gone + 0.09)
  end)

  it("hangs up on the client of a late request when told to", function()
    proxy:rule({ match = "/late", action = "late", hang_up = true, delay = 0 })
    local con = connect(proxy)
    send(con, "/late")
    assert.are.equal("closed", hears_nothing(con, 5))
    assert(proxy:wait_for("/late", 1, helper.seconds(5), "carried"))
  end)

  it("passes a request on twice, and answers it once", function()
    proxy:rule({ match = "/soon", action = "twice", delay = 0.05 })
    proxy:rule({ match = "/told", action = "twice" })
    local con = connect(proxy)
    for i, target in ipairs({ "/soon", "/told" }) do
      assert.are.equal(200, (fetch(con, target, "PUT", "body")))
      if target == "/told" then
        assert.are.same({ 1, 0 }, { proxy:log(target)[1].copies, proxy:count(target, "carried") })
        assert.are.equal(1, proxy:release(target))
      end
      assert(proxy:wait_for(target, 1, helper.seconds(5), "carried"))
      assert.are.equal(2, upstream:count(target))
      assert.are.equal(2 * i, upstream:count("^PUT /"))
    end
    assert.are.equal("timeout", hears_nothing(con, 0.05))
  end)

  it("sends requests to another upstream when told to, also on old connections", function()
    local other = helper.server()
    other:rule({ status = 201 })
    local con, polling = connect(proxy), connect(proxy)
    assert.are.equal(200, (fetch(con, "/")))
    send(polling, "/poll")
    assert(upstream:wait_for("/poll", 1, helper.seconds(5)))
    proxy:upstream(other:address())
    assert.are.equal(201, (fetch(con, "/")))
    assert.are.equal(201, (fetch(connect(proxy), "/")))
    assert.are.same({ 0, 0 }, { other:count("/poll"), upstream:count("/poll", "gone") })
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
    assert(upstream:wait_for("/poll", 300, helper.seconds(10)))
    assert.are.equal(300, proxy:connections().open)
    cons[301] = connect(proxy)
    assert.are.equal(200, (fetch(cons[301], "/")))
    for _, con in ipairs(cons) do con:close() end
    assert(upstream:wait_for("/poll", 300, helper.seconds(10), "gone"))
    helper.eventually(function() return upstream:connections().open == 0 end)
  end)
end)

-- Asks the fake server and the agent of this run the same, and answers what both say, without their ids and indexes.
describe("the fake Consul server", function()
  local server
  before_each(function() server = fake.consul() end)
  after_each(helper.finish)

  local FLAGS = "\"Flags\":" .. fake.FLAGS

  -- A conversation with one server: ask(...) as consul.request; what was said gets into `said`.
  local function conversation(where, script)
    local seen, said = { n = 0 }, {}
    local function named(text)
      if not seen[text] then
        seen.n = seen.n + 1
        seen[text] = "#" .. seen.n
      end
      return seen[text]
    end
    local function plain(text)
      text = text:gsub("%x+%-%x+%-%x+%-%x+%-%x+", named)
      text = text:gsub("(\"%a+Index\": ?)(%d+)", function(name, index)
        return name:find("LockIndex") and name .. index or name .. "\"" .. named(index) .. "\""
      end)
      return (text:gsub("modify index (%d+) != (%d+)", "modify index"))
    end
    local function ask(...)
      local status, text, headers = consul.at(where, consul.request, ...)
      text = text:gsub("%s+$", "")
      local body = json.decode(plain(text))
      -- Of one that only reads Consul says more, to which nobody listens.
      if type(body) == "table" and body.LastContact then body = { Results = body.Results, Errors = body.Errors } end
      said[#said + 1] = { status, body or plain(text), headers["x-consul-index"] ~= nil }
      return text
    end
    script(ask)
    return said
  end

  local function compare(script)
    local real, pretended = conversation({}, script), conversation({ address = server:address() }, script)
    for i, answer in ipairs(real) do assert.are.same(answer, pretended[i], "answer " .. i) end
  end

  local function operation(verb, key, rest)
    return ("{\"KV\":{\"Verb\":%q,\"Key\":%q%s}}"):format(verb, key, rest or "")
  end

  it("says of keys and transactions what Consul says", function()
    local key = helper.unique_key()
    local name = key:match("^[^/]*")
    compare(function(ask)
      local function session()
        local options = ("{\"Name\":%q,\"LockDelay\":\"5s\"}"):format(name)
        return ask("PUT", "/v1/session/create", nil, options):match("%x+%-[%x-]+")
      end
      local function txn(...) return ask("PUT", "/v1/txn", nil, "[" .. table.concat({ ... }, ",") .. "]") end
      local function with(id) return (",\"Session\":%q,%s,\"Value\":\"YQ==\""):format(id, FLAGS) end
      local function at(text) return ",\"Index\":" .. text:match("\"ModifyIndex\": ?(%d+)") end
      local mine, other = session(), session()
      local nobody = ",\"Index\":1"
      local gone = mine:gsub("^%x%x%x", "fff")
      ask("GET", "/v1/kv/" .. key)
      txn(operation("get", key))
      txn(operation("check-index", key, nobody), operation("lock", key, with(mine)))
      txn(operation("check-session", key, with(mine)))
      txn(operation("unlock", key, with(mine)))
      txn(operation("lock", key, with(gone)))
      local first = txn(operation("check-not-exists", key), operation("lock", key, with(mine)))
      txn(operation("check-not-exists", key), operation("lock", key, with(mine)))
      txn(operation("check-not-exists", key), operation("lock", key, with(other)))
      txn(operation("check-index", key, at(first)), operation("lock", key, with(mine))) -- changes nothing
      txn(operation("check-index", key, at(first)), operation("lock", key, with(other)))
      txn(operation("check-index", key, at(first)), operation("unlock", key, with(other)))
      txn(operation("check-session", key, with(mine)), operation("check-session", key .. "/2", with(mine)))
      txn(operation("check-session", key, with(other)))
      local second = txn(operation("check-index", key, at(first)), operation("unlock", key, with(mine)))
      txn(operation("check-index", key, at(first)), operation("unlock", key, with(mine)))
      txn(operation("check-index", key, at(second)), operation("lock", key, with(other)),
        operation("unlock", key, with(other)))
      local third = ask("GET", "/v1/kv/" .. key)
      txn(operation("check-index", key, at(third)), operation("lock", key, with(other)))
      ask("PUT", "/v1/kv/" .. key, { flags = fake.FLAGS }, "written")
      txn(operation("get", key))
      ask("DELETE", "/v1/kv/" .. key, { cas = 1 })
      ask("PUT", "/v1/session/destroy/" .. other)
      ask("GET", "/v1/kv/" .. key)
      txn(operation("lock", key, with(mine))) -- within the lock-delay
      txn(operation("lock", key, with(other)))
      ask("DELETE", "/v1/kv/" .. key)
      ask("DELETE", "/v1/kv/" .. key)
      ask("PUT", "/v1/session/destroy/" .. mine)
    end)
  end)

  it("says of transactions on many keys what Consul says", function()
    local keys = {}
    for i = 1, 3 do keys[i] = helper.unique_key() end
    local name = keys[1]:match("^[^/]*")
    compare(function(ask)
      local function session(delay)
        local options = ("{\"Name\":%q,\"LockDelay\":%q}"):format(name, delay)
        return ask("PUT", "/v1/session/create", nil, options):match("%x+%-[%x-]+")
      end
      local function txn(...) return ask("PUT", "/v1/txn", nil, "[" .. table.concat({ ... }, ",") .. "]") end
      local function with(id) return (",\"Session\":%q,%s,\"Value\":\"YQ==\""):format(id, FLAGS) end
      local function at(text) return ",\"Index\":" .. text:match("\"ModifyIndex\": ?(%d+)") end
      local nobody = ",\"Index\":1"
      local mine, other = session("5s"), session("5s")
      local gone = mine:gsub("^%x%x%x", "fff")
      local taken = txn(operation("check-not-exists", keys[1]), operation("lock", keys[1], with(mine)),
        operation("check-not-exists", keys[2]), operation("lock", keys[2], with(mine)))
      txn(operation("get", keys[1]), operation("get", keys[3]), operation("get", keys[2]))
      txn(operation("get", keys[1]), operation("get", keys[2]))
      txn(operation("check-not-exists", keys[3]), operation("lock", keys[3], with(mine)),
        operation("check-index", keys[1], nobody), operation("unlock", keys[1], with(mine)),
        operation("lock", keys[2], with(other)), operation("lock", keys[2], with(gone)))
      txn(operation("delete-cas", keys[1], nobody), operation("delete-cas", keys[3], nobody))
      local freed = txn(operation("check-index", keys[1], at(taken)), operation("unlock", keys[1], with(mine)),
        operation("check-not-exists", keys[3]), operation("lock", keys[3], with(mine)))
      txn(operation("delete-cas", keys[1], at(freed)), operation("check-not-exists", keys[1]))
      txn(operation("delete-cas", keys[1], at(freed)))
      ask("PUT", "/v1/session/destroy/" .. mine)
      -- Within the lock-delay of two of them: nothing else is looked at, not even a session that is not there.
      txn(operation("lock", keys[2], with(other)), operation("check-index", keys[2], nobody),
        operation("lock", keys[1], with(gone)), operation("lock", keys[3], with(other)))
      local many = {}
      for i = 1, 65 do many[i] = operation("check-not-exists", keys[1]) end
      txn((table.unpack or unpack)(many)) -- luacheck: ignore
      ask("PUT", "/v1/session/destroy/" .. other)
    end)
  end)

  it("says of sessions what Consul says, as far as holdfast listens", function()
    local function heard(ask, ...)
      local session = json.decode(ask(...))
      session = session and session[1] or {}
      return { session.Name, session.TTL, session.LockDelay, session.Behavior }
    end
    local name = helper.unique_key():match("^[^/]*")
    local described = { real = {}, pretended = {} }
    local function script(list)
      return function(ask)
        local options = ("{\"Name\":%q,\"TTL\":\"10000ms\",\"LockDelay\":\"0ms\"}"):format(name)
        local id = ask("PUT", "/v1/session/create", nil, options):match("%x+%-[%x-]+")
        list[#list + 1] = heard(ask, "GET", "/v1/session/info/" .. id)
        list[#list + 1] = heard(ask, "PUT", "/v1/session/renew/" .. id)
        ask("PUT", "/v1/session/destroy/" .. id)
        ask("PUT", "/v1/session/destroy/" .. id)
        ask("GET", "/v1/session/info/" .. id)
        ask("PUT", "/v1/session/renew/" .. id)
      end
    end
    local real = conversation({}, script(described.real))
    local pretended = conversation({ address = server:address() }, script(described.pretended))
    assert.are.same(described.real, described.pretended)
    for i, answer in ipairs(real) do
      if i ~= 2 and i ~= 3 then assert.are.same(answer, pretended[i], "answer " .. i) end
    end
  end)

  it("answers a long poll when its key changes, when its time is over, and at once when it is late", function()
    local key = helper.unique_key()
    compare(function(ask)
      ask("PUT", "/v1/kv/" .. key, nil, "a")
      local index = tonumber(ask("GET", "/v1/kv/" .. key):match("\"ModifyIndex\": ?(%d+)"))
      ask("GET", "/v1/kv/" .. key, { index = index - 1, wait = "60s" })
      ask("GET", "/v1/kv/" .. key, { index = index, wait = "50ms" })
    end)
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

describe("an agent of a spec's own", function()
  after_each(helper.finish)

  local function connections_taken(address, n)
    local host, port = address:match("^(.+):(%d+)$")
    local cons = {}
    for i = 1, n do
      cons[i] = assert(socket.connect(host, tonumber(port)))
      cons[i]:settimeout(helper.seconds(5))
      cons[i]:send("GET /v1/agent/self HTTP/1.1\r\nHost: spec\r\n\r\n")
    end
    local taken = 0
    for _, con in ipairs(cons) do
      if (con:receive("*l") or ""):find("200", 1, true) then taken = taken + 1 end
    end
    for _, con in ipairs(cons) do con:close() end
    return taken
  end

  it("has the limits that the spec wants, and Consul's where it says nothing", function()
    local raised = helper.agent({ limits = { http_max_conns_per_client = 1000 } })
    assert.are.equal(250, connections_taken(raised:address(), 250))
    local plain = helper.agent()
    assert.is_true(connections_taken(plain:address(), 250) < 210)
  end)

  it("has the configuration that the spec wants, and is asked with a token", function()
    local token = "00000000-0000-4000-8000-000000000001"
    local agent = helper.agent({ token = token,
      config = { acl = { enabled = true, default_policy = "deny", tokens = { master = token } } } })
    assert.is_true(agent:ask(consul.kv.put, "k", "v"))
    assert.has_error(function() consul.at({ address = agent:address() }, consul.kv.put, "k", "v") end)
  end)

  it("is suspended, continued, killed and started again", function()
    local agent = helper.agent()
    agent:suspend()
    assert.is_false(agent:runs())
    assert.has_error(function()
      consul.at({ address = agent:address(), timeout = 0.1 }, consul.kv.get, "k")
    end)
    agent:continue()
    assert.is_nil(agent:ask(consul.kv.get, "k"))
    agent:kill()
    assert.has_error(function() agent:ask(consul.kv.get, "k") end)
    agent:restart()
    agent:wait_ready()
  end)

  it("is ended by finish, also while it is suspended", function()
    local agent = helper.agent()
    agent:suspend()
    helper.finish()
    assert.is_nil(agent.pid)
  end)

  it("outlives finish when it is to be kept, and is tidied up", function()
    local agent = helper.agent({ keep = true })
    local key = helper.unique_key()
    agent:ask(consul.kv.put, key, "v")
    helper.finish()
    assert.is_nil(agent:ask(consul.kv.get, key))
    agent:remove()
  end)

  it("dies with the process that started it", function()
    local child = helper.spawn_lua([[
      local agent = require("spec.helper").agent()
      print(agent.pid) io.stdout:flush()
      while true do require("socket").sleep(10) end
    ]])
    local pid = child:read_line()
    child:kill("KILL")
    helper.eventually(function() return not io.open("/proc/" .. pid .. "/stat") end)
  end)
end)
