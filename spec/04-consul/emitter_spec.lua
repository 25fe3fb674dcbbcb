-- The emitter as a whole: real Consul, real queue, a real receiver over HTTP.
local consul = require("spec.support.consul")
local emitters = require("holdfast.emitter")
local helper = require("spec.helper")
local loop = require("holdfast.loop")
local queues = require("holdfast.queue")
local webhook = require("holdfast.webhook")

local SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

describe("an emitter", function()
  local receiver, queue, prefix, client, events
  before_each(function()
    receiver = helper.server()
    queue = assert(queues.open("memory:"))
    prefix = helper.unique_key() .. "/"
    client = helper.client({ scheduler = "loop", session = { ttl = "60s", lock_delay = 0 } })
    events = {}
  end)
  after_each(function()
    receiver, queue, client = nil, nil, nil
    helper.finish()
  end)

  local function emitter(options)
    local given = {
      client = client, queue = queue, prefix = prefix, poll = 0.05,
      receivers = function(name) return { url = receiver:url() .. "/" .. name, secret = SECRET, timeout = 20 } end,
      on_event = function(event) events[#events + 1] = event end, allow_addresses = { "127.0.0.0/8" },
    }
    for name, value in pairs(options or {}) do given[name] = value end
    return emitters.new(given)
  end

  local function push(count, name)
    for i = 1, count do
      assert.is_true(queue:push(name, { id = name .. "_" .. i, body = ("{\"n\":%d}"):format(i) }))
    end
  end

  local function event(kind)
    for _, one in ipairs(events) do
      if one.type == kind then return one end
    end
  end

  it("delivers in order, signed, under a token that rises from hold to hold", function()
    receiver:rule({ status = 204 })
    push(5, "a")
    local one = emitter({ hold = { messages = 2 } })
    while queue:len() > 0 do assert(one:step()) end
    local last = 0
    for i, request in ipairs(receiver:log()) do
      assert.are.equal("a_" .. i, request.headers["webhook-id"])
      assert.is_true(webhook.verify(SECRET, request.headers, request.body, { fence = true }))
      local token = tonumber(request.headers["webhook-fencing-token"])
      assert.is_true(token >= last)
      last = token
    end
    assert.are.equal(5, receiver:count())
    assert.is_nil((consul.kv.get(prefix .. "a") or {}).Session)
  end)

  it("aborts a push when the lock is lost, and the next holder delivers it under the same id, with a higher token",
    function()
      receiver:rule({ times = 1, action = "stall" })
      receiver:rule({ status = 200 })
      push(1, "a")
      local one = emitter()
      loop.run(function()
        loop.spawn(function() one:run() end)
        while receiver:count() == 0 do loop.sleep(0.01) end
        consul.session.destroy(event("acquired").session)
        while queue:len() > 0 do loop.sleep(0.01) end
        one:stop()
      end)
      local requests = receiver:log()
      assert.are.equal(2, #requests)
      assert.is_truthy(requests[1].gone)
      assert.are.equal("a_1", requests[1].headers["webhook-id"])
      assert.are.equal("a_1", requests[2].headers["webhook-id"])
      assert.is_true(tonumber(requests[2].headers["webhook-fencing-token"])
        > tonumber(requests[1].headers["webhook-fencing-token"]))
      assert.are.equal("a_1", event("lost").id)
      assert.are.equal(1, one:stats().delivered)
    end)

  it("serves many receivers at once, and two emitters never the same one", function()
    receiver:rule({ status = 200, times = 6, hold = true })
    receiver:rule({ status = 200, delay = 0.05 })
    for i = 1, 10 do push(3, "r" .. i) end
    local other_client = helper.client({ scheduler = "loop", session = { ttl = "60s", lock_delay = 0 } })
    -- Neither has room for all.
    local one, two = emitter({ concurrency = 3 }), emitter({ concurrency = 3, client = other_client })
    loop.run(function()
      loop.spawn(function() one:run() end)
      loop.spawn(function() two:run() end)
      while receiver:count() < 6 do loop.sleep(0.01) end -- so both are at work
      receiver:release()
      while queue:len() > 0 do loop.sleep(0.01) end
      one:stop()
      two:stop()
    end)
    local busy = {}
    for _, request in ipairs(receiver:log()) do
      assert.is_true((busy[request.path] or 0) <= request.received)
      busy[request.path] = request.answered
    end
    assert.are.equal(30, receiver:count())
    assert.is_true(one:stats().delivered > 0 and two:stats().delivered > 0)
  end)

  -- As if it had been written there by somebody else.
  local function slip_in(name, message)
    assert.is_true(queue.adapter_:push(queue.now_(), name, message, queue.now_()))
  end

  it("sends no message in the queue's storage whose headers break framing, and gives it back", function()
    receiver:rule({ status = 204 })
    local broken = {
      { "content-length", "0" }, { "Transfer-Encoding", "chunked" }, { "HOST", "b.example" }, { "connection", "close" },
      { "proxy-authorization", "x" },
      { "x-a", "1\r\n\r\nGET /smuggled HTTP/1.1" }, { "x-a", "1\nb: c" }, { "x-a", "1\0" },
      { "x-a: 1\r\nb", "c" }, { "x a", "1" }, { "", "1" },
    }
    for i, header in ipairs(broken) do
      slip_in("bad" .. i, { id = "bad_" .. i, body = "x", headers = { [header[1]] = header[2] } })
    end
    push(1, "good")
    assert(emitter():step())
    assert.are.same({ 1, #broken }, { receiver:count(), queue:len() })
    assert.are.equal("good_1", receiver:log()[1].headers["webhook-id"])
    local reasons = {}
    for _, one in ipairs(events) do
      if one.type == "failed" then reasons[one.id] = one.reason end
    end
    for i, header in ipairs(broken) do
      assert.matches("^INVALID: header ", reasons["bad_" .. i])
      local named = header[1] == "x-a" and 'header "x-a" has a control character' or "header "
      assert.is_truthy(reasons["bad_" .. i]:find(named, 1, true), reasons["bad_" .. i])
    end
    assert.matches('^INVALID: header "content%-length" says where', reasons.bad_1)
  end)

  it("puts no header of a message over its own", function()
    receiver:rule({ status = 204 })
    local forged = { ["Webhook-ID"] = "forged", ["webhook-timestamp"] = "1", ["WEBHOOK-SIGNATURE"] = "v1,x",
      ["webhook-fencing-token"] = "999999999", ["x-a"] = "b" }
    assert.is_true(queue:push("good", { id = "good_1", body = "x", headers = forged }))
    assert(emitter():step())
    local request = receiver:log()[1]
    assert.are.same({ "good_1", "b" }, { request.headers["webhook-id"], request.headers["x-a"] })
    assert.is_true(webhook.verify(SECRET, request.headers, request.body, { fence = true }))
    assert.is_true(tonumber(request.headers["webhook-fencing-token"]) < 999999999)
  end)

  it("pushes to public addresses only when a function looks receivers up, and counts what is refused", function()
    receiver:rule({ status = 204 })
    local function lookup() return { url = receiver:url(), secret = SECRET } end
    push(1, "a")
    assert(emitter({ receivers = lookup, allow_addresses = { "10.0.0.0/8" } }):step())
    assert.matches("^DENIED: .*127.0.0.1, which is loopback", event("failed").reason)
    assert.are.same({ 0, 1 }, { receiver:count(), queue:len() })
    push(1, "b")
    assert(emitter({ receivers = lookup, allow_addresses = { "10.0.0.0/8" }, public_only = false }):step())
    assert.are.equal(1, receiver:count())
    push(1, "c")
    assert(emitter({ receivers = { c = lookup() }, allow_addresses = { "127.0.0.1" } }):step())
    assert.are.equal(2, receiver:count())
  end)

  it("brings a failed message back later, not at once", function()
    receiver:rule({ times = 1, status = 500 })
    receiver:rule({ status = 200 })
    push(1, "a")
    local one = emitter({ retry_delay = 0.5 })
    loop.run(function()
      loop.spawn(function() one:run() end)
      while queue:len() > 0 do loop.sleep(0.01) end
      one:stop()
    end)
    local requests = receiver:log()
    assert.are.equal(2, #requests)
    assert.is_true(requests[2].received - requests[1].received >= 0.4)
  end)

  it("stops: what is in flight may end within its grace, and nothing new begins", function()
    receiver:rule({ hold = true, status = 200 })
    push(2, "a")
    local one = emitter()
    loop.run(function()
      loop.spawn(function() one:run() end)
      while receiver:count() == 0 do loop.sleep(0.01) end
      one:stop(helper.seconds(10))
      receiver:release()
    end)
    assert.are.equal(1, receiver:count(nil, "answered"))
    assert.are.same({ 1, 1, 0 }, { receiver:count(), one:stats().delivered, one:stats().aborted })
    assert.are.equal(1, queue:len())
    assert.is_nil((consul.kv.get(prefix .. "a") or {}).Session)
  end)

  it("stops: what is in flight has its grace, then it is aborted and left in the queue", function()
    receiver:rule({ action = "stall" })
    push(2, "a")
    local one = emitter()
    local stopped
    loop.run(function()
      loop.spawn(function() stopped = one:run() end)
      while receiver:count() == 0 do loop.sleep(0.01) end
      one:stop(0.1)
    end)
    assert.is_true(stopped)
    assert.are.equal(2, queue:len())
    assert.are.equal("a_1", event("aborted").id)
    assert.is_nil((consul.kv.get(prefix .. "a") or {}).Session)
  end)
end)
