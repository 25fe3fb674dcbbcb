-- What every queue does: one body, run for each of them.

local core = require("holdfast.core")
local queues = require("holdfast.queue")

local START = 1700000000

local function new_path()
  local path = os.tmpname()
  os.remove(path)
  return path .. ".db"
end

local function remove(path)
  for _, suffix in ipairs({ "", "-wal", "-shm", "-journal" }) do os.remove(path .. suffix) end
end

local function contract(kind)
  local clock, path, queue

  local function tick(seconds) clock = clock + seconds end

  -- The worst random bytes there are: the same each time.
  local function random(n) return ("r"):rep(n) end

  before_each(function()
    clock, path = START, kind == "sqlite" and new_path() or nil
    local url = path and "sqlite:" .. path or "memory:"
    queue = assert(queues.open(url, { now = function() return clock end, random = random }))
  end)

  after_each(function()
    queue:close()
    if path then remove(path) end
  end)

  local function push(receiver, id, fields)
    local msg = { id = id, body = "{}" }
    for name, value in pairs(fields or {}) do msg[name] = value end
    assert.is_true(queue:push(receiver, msg))
  end

  local function claim(receiver, max, lease)
    return (assert(queue:claim(receiver or "r", max or 1, lease or 20)))
  end

  local function one(receiver, lease)
    local items = claim(receiver, 1, lease)
    assert.are.equal(1, #items)
    return items[1]
  end

  local function ids(items)
    local list = {}
    for i, item in ipairs(items) do list[i] = item.msg.id end
    return table.concat(list, " ")
  end

  local function due(limit)
    local list = {}
    for i, item in ipairs(assert(queue:due(limit))) do list[i] = item.receiver end
    return table.concat(list, " ")
  end

  describe("push and claim", function()
    it("gives back every byte of the body and the headers", function()
      local bytes = {}
      for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
      local body = table.concat(bytes):rep(300)
      local headers = { ["Content-Type"] = "text/plain", ["x-a"] = "", ["x-b"] = ": , \255 %" }
      headers["x!#$%&'*+.^_`|~-1"] = "c"
      push("r", "m", { body = body, headers = headers, not_before = START - 5.5 })
      local msg = one().msg
      assert.is_true(msg.body == body)
      assert.are.same({ id = "m", body = body, headers = headers, not_before = START - 5.5 }, msg)
    end)

    it("keeps an empty body, and tells no headers from an empty table of them", function()
      push("r", "m1", { body = "" })
      push("r", "m2", { body = "", headers = {} })
      local items = claim("r", 2)
      assert.are.same({ id = "m1", body = "" }, items[1].msg)
      assert.are.same({ id = "m2", body = "", headers = {} }, items[2].msg)
    end)

    it("takes the receiver's name as it is", function()
      for _, name in ipairs({ "a/b", "'; --", "\195\188ml\195\164ut", "%d", " ", "R", "r" }) do
        push(name, "m", { body = name })
      end
      for _, name in ipairs({ "a/b", "'; --", "\195\188ml\195\164ut", "%d", " ", "R", "r" }) do
        assert.are.equal(name, one(name).msg.body)
        assert.are.equal(1, queue:len(name))
      end
    end)

    it("does not see what the program does to its tables afterwards", function()
      local msg = { id = "m", body = "1", headers = { a = "1" } }
      assert.is_true(queue:push("r", msg))
      msg.body, msg.headers.a = "2", "2"
      local item = one()
      assert.are.same({ id = "m", body = "1", headers = { a = "1" } }, item.msg)
      item.msg.headers.a, item.msg.body = "3", "3"
      queue:nack(item.token, 0)
      assert.are.same({ id = "m", body = "1", headers = { a = "1" } }, one().msg)
    end)

    it("takes an id once per receiver, for as long as the message is there", function()
      push("r", "m", { body = "first" })
      assert.are.equal("duplicate", queue:push("r", { id = "m", body = "second" }))
      push("other", "m")
      local item = one()
      assert.are.equal("first", item.msg.body)
      assert.are.equal("duplicate", queue:push("r", { id = "m", body = "third" }))
      assert.are.equal(2, queue:len())
      assert.is_true(queue:ack(item.token))
      push("r", "m", { body = "fourth" })
      assert.are.equal("fourth", one().msg.body)
    end)

    it("claims in the order pushed, no more than asked for, and nothing twice", function()
      for i = 1, 12 do push("r", "m" .. i) end
      push("other", "o")
      assert.are.equal("m1 m2 m3 m4 m5", ids(claim("r", 5)))
      assert.are.equal("m6", ids(claim("r", 1)))
      assert.are.equal("m7 m8 m9 m10 m11 m12", ids(claim("r", 100)))
      assert.are.same({}, claim("r", 1))
      assert.are.same({}, claim("nobody", 1))
    end)

    it("counts an attempt with every claim, and says when the message was pushed", function()
      push("r", "m")
      for attempt = 1, 3 do
        tick(100)
        local item = one("r", 20)
        assert.are.equal(attempt, item.attempt)
        assert.are.equal(START, item.first_seen)
        assert.is_truthy(tostring(item.attempt):match("^%d$"))
      end
    end)

    it("keeps its order whatever is taken out of the middle", function()
      for i = 1, 6 do push("r", "m" .. i) end
      local items = claim("r", 6)
      for _, i in ipairs({ 2, 3, 1, 6, 5 }) do assert.is_true(queue:ack(items[i].token)) end
      for i = 7, 8 do push("r", "m" .. i) end
      tick(20)
      items = claim("r", 6)
      assert.are.equal("m4 m7 m8", ids(items))
      for i = 1, 3 do queue:ack(items[i].token) end
      assert.are.same({}, claim("r", 6))
      push("r", "m9")
      assert.are.equal("m9", ids(claim("r", 6)))
    end)

    it("does not show a message before its not_before", function()
      push("r", "later", { not_before = START + 10 })
      push("r", "now")
      assert.are.equal("now", ids(claim("r", 5)))
      assert.are.equal("", due())
      tick(9.5)
      assert.are.same({}, claim("r", 5))
      tick(0.5)
      assert.are.equal("r", due())
      assert.are.equal("later", ids(claim("r", 5)))
    end)
  end)

  describe("a lease", function()
    it("keeps others off until it ends, and then there is a new token", function()
      push("r", "m")
      local first = one("r", 20)
      tick(19.75)
      assert.are.same({}, claim())
      assert.are.equal("", due())
      tick(0.25)
      assert.are.equal("r", due())
      local second = one("r", 20)
      assert.are_not.equal(first.token, second.token)
      assert.are.equal(2, second.attempt)
    end)

    it("makes an old token worth nothing, whatever is done with it", function()
      push("r", "m")
      local old = one("r", 20).token
      tick(20)
      local item = one("r", 20)
      assert.are.equal("lost", queue:ack(old))
      assert.are.equal("lost", queue:nack(old, 0))
      assert.are.equal("lost", queue:extend(old, 100))
      assert.are.equal("lost", queue:dead(old, "gone"))
      assert.are.same({}, claim())
      assert.are.same({}, queue:dead_letters())
      assert.are.equal(1, queue:len("r"))
      assert.is_true(queue:ack(item.token))
    end)

    it("may have ended when the ack comes, as long as nobody else has claimed", function()
      push("r", "m")
      local token = one("r", 20).token
      tick(1000)
      assert.are.equal("r", due())
      assert.is_true(queue:ack(token))
      assert.are.equal(0, queue:len())
    end)

    it("ends later after extend, counted from then, and may do so after it has ended", function()
      push("r", "m")
      local token = one("r", 20).token
      tick(15)
      assert.is_true(queue:extend(token, "20s"))
      tick(19)
      assert.are.same({}, claim())
      tick(1)
      assert.are.equal("r", due())
      assert.is_true(queue:extend(token, 5))
      assert.are.same({}, claim())
      tick(5)
      assert.are_not.equal(token, one().token)
    end)

    it("of a batch is one per message", function()
      for i = 1, 3 do push("r", "m" .. i) end
      local items = claim("r", 3)
      assert.is_true(queue:ack(items[2].token))
      assert.are.equal("lost", queue:ack(items[2].token))
      assert.is_true(queue:nack(items[1].token, 0))
      assert.are.equal("m1", ids(claim("r", 3)))
      tick(20)
      assert.are.equal("m1 m3", ids(claim("r", 3)))
    end)
  end)

  describe("a token", function()
    it("is never used twice, even with bad random numbers", function()
      local seen = {}
      for round = 1, 5 do
        push("r", "m" .. round)
        local item = one()
        assert.is_nil(seen[item.token])
        seen[item.token] = true
        queue:nack(item.token, 0, { count = false })
        item = one()
        assert.is_nil(seen[item.token])
        seen[item.token] = true
        queue:ack(item.token)
      end
    end)

    it("that never was one is lost", function()
      push("r", "m")
      local token = one().token
      local long = ("9"):rep(400)
      for _, other in ipairs({ "", ".", "1", "1.", "1.1", "x", token .. "x", token .. "\0", "0" .. token:sub(2),
        " " .. token, long .. ".1", token:sub(1, -2), "-" .. token }) do
        assert.are.equal("lost", queue:ack(other))
        assert.are.equal("lost", queue:nack(other, 0))
      end
      assert.is_true(queue:ack(token))
    end)
  end)

  describe("nack", function()
    it("gives a message back after a delay, with a reason for the next", function()
      push("r", "m")
      local item = one()
      assert.is_nil(item.reason)
      assert.is_true(queue:nack(item.token, 5, { reason = "HTTP 500\0\255" }))
      assert.are.equal("lost", queue:ack(item.token))
      tick(4.5)
      assert.are.same({}, claim())
      assert.are.equal("", due())
      tick(0.5)
      assert.are.equal("r", due())
      item = one()
      assert.are.equal(2, item.attempt)
      assert.are.equal("HTTP 500\0\255", item.reason)
    end)

    it("gives the attempt back with count = false", function()
      push("r", "m")
      for _ = 1, 3 do
        local item = one()
        assert.are.equal(1, item.attempt)
        assert.is_true(queue:nack(item.token, 0, { count = false, reason = "lock lost" }))
      end
      queue:nack(one().token, 0, { count = true })
      assert.are.equal(2, one().attempt)
    end)

    it("does not hold up the others, and the message has its old place when its time comes", function()
      for i = 1, 4 do push("r", "m" .. i) end
      queue:nack(one().token, 10)
      assert.are.equal("m2", one().msg.id)
      tick(10)
      assert.are.equal("m1 m3 m4", ids(claim("r", 5)))
    end)

    it("without delay puts the message in front again", function()
      for i = 1, 3 do push("r", "m" .. i) end
      tick(1)
      queue:nack(one().token, 0, { count = false })
      assert.are.equal("m1", one().msg.id)
    end)
  end)

  describe("dead", function()
    it("takes a message out of the queue and keeps it", function()
      push("r", "m1", { body = "1\0", headers = { a = "b" }, not_before = 7 })
      push("other", "m2")
      tick(3)
      local item = one()
      queue:nack(item.token, 0)
      item = one()
      assert.is_true(queue:dead(item.token, "HTTP 410"))
      assert.are.equal("lost", queue:dead(item.token, "again"))
      assert.are.equal("lost", queue:ack(item.token))
      assert.are.equal(0, queue:len("r"))
      assert.are.equal("other", due())
      tick(1000)
      assert.are.same({}, claim())
      assert.are.same({ { receiver = "r", attempt = 2, first_seen = START, died = START + 3, reason = "HTTP 410",
        msg = { id = "m1", body = "1\0", headers = { a = "b" }, not_before = 7 } } }, queue:dead_letters())
    end)

    it("letters come in the order of death, of one receiver or all, as many as wanted", function()
      for i = 1, 3 do
        push("a", "a" .. i)
        push("b", "b" .. i)
        assert.is_true(queue:dead(one("b").token))
        assert.is_true(queue:dead(one("a").token))
      end
      assert.are.equal("b1 a1 b2 a2 b3 a3", ids(queue:dead_letters()))
      assert.are.equal("a1 a2 a3", ids(queue:dead_letters("a")))
      assert.are.equal("b1 b2", ids(queue:dead_letters("b", 2)))
      assert.are.equal("b1", ids(queue:dead_letters(nil, 1)))
      assert.are.same({}, queue:dead_letters("c"))
    end)

    it("makes room for the same id", function()
      push("r", "m")
      queue:dead(one().token, "1")
      push("r", "m")
      queue:dead(one().token, "2")
      assert.are.equal("m m", ids(queue:dead_letters("r")))
    end)
  end)

  describe("due", function()
    it("tells the receivers with something to claim, and how much they have", function()
      push("a", "m1")
      push("a", "m2", { not_before = START + 100 })
      push("b", "m1", { not_before = START + 100 })
      push("c", "m1")
      one("c")
      assert.are.same({ { receiver = "a", depth = 2 } }, queue:due())
      assert.are.same({}, (function() one("a") return queue:due(5) end)())
    end)

    it("has the one that was served least recently first, at the same moment too", function()
      for _, name in ipairs({ "c", "a", "b" }) do
        for i = 1, 9 do push(name, "m" .. i) end
      end
      assert.are.equal("c a b", due())
      one("a")
      assert.are.equal("c b a", due())
      one("c")
      assert.are.equal("b a c", due())
      queue:nack(one("a").token, 0)
      assert.are.equal("b c a", due())
      push("d", "m")
      assert.are.equal("b d c a", due())
    end)

    it("remembers who was served when a receiver had nothing for a while", function()
      push("a", "m1")
      push("b", "m1")
      queue:ack(one("a").token)
      one("b")
      push("b", "m2")
      push("a", "m2")
      assert.are.equal("a b", due())
    end)

    it("starves nobody who asks for few", function()
      for i = 1, 5 do
        for n = 1, 3 do push("r" .. i, "m" .. n) end
      end
      local served = {}
      for i = 1, 15 do
        local name = due(1)
        served[i] = name
        queue:ack(one(name).token)
      end
      assert.are.equal(("r1 r2 r3 r4 r5 "):rep(3), table.concat(served, " ") .. " ")
      assert.are.equal("", due(1))
    end)

    it("does not call a claim of nothing a service", function()
      push("a", "m", { not_before = START + 5 })
      push("b", "m")
      claim("a")
      tick(5)
      assert.are.equal("a b", due())
    end)
  end)

  describe("len, oldest and now", function()
    it("count what is claimed or waits as well", function()
      assert.are.equal(0, queue:len())
      assert.are.equal(0, queue:len("r"))
      assert.are.equal(0, queue:oldest())
      assert.are.equal(0, queue:oldest("r"))
      push("r", "m1")
      tick(10)
      push("r", "m2", { not_before = START + 1000 })
      push("other", "m3")
      local item = one()
      tick(5)
      assert.are.equal(3, queue:len())
      assert.are.equal(2, queue:len("r"))
      assert.are.equal(15, queue:oldest())
      assert.are.equal(15, queue:oldest("r"))
      assert.are.equal(5, queue:oldest("other"))
      queue:ack(item.token)
      assert.are.equal(5, queue:oldest())
      assert.are.equal(1, queue:len("r"))
      assert.are.equal(clock, queue:now())
    end)

    it("never tell a negative age", function()
      push("r", "m")
      tick(-50)
      assert.are.equal(0, queue:oldest())
      assert.are.equal(0, queue:oldest("r"))
    end)
  end)

  describe("arguments", function()
    local function raises(pattern, method, ...)
      local ok, message = pcall(function(...) queue[method](queue, ...) end, ...)
      assert.is_false(ok, method .. " takes it")
      assert.is_truthy(message:find(pattern, 1, true), message)
      assert.is_truthy(message:find("queue_spec.lua:", 1, true), message)
    end

    it("of a wrong type raise, with the line of the caller", function()
      local msg = { id = "m", body = "" }
      raises("receiver must be a string", "push", nil, msg)
      raises("the message must be a table", "push", "r", "m")
      raises("the message has no id", "push", "r", { body = "" })
      raises("the message has no body", "push", "r", { id = "m" })
      raises("body of the message must be a string", "push", "r", { id = "m", body = 1 })
      raises("id of the message must be a string", "push", "r", { id = 1, body = "" })
      raises("unknown field \"notbefore\"", "push", "r", { id = "m", body = "", notbefore = 1 })
      raises("not_before of the message must be a number", "push", "r", { id = "m", body = "", not_before = "1" })
      raises("header \"a\" must be a string", "push", "r", { id = "m", body = "", headers = { a = 1 } })
      raises("headers of the message is a table from name to value", "push", "r",
        { id = "m", body = "", headers = { "a" } })
      raises("limit must be a whole number", "due", 0)
      raises("limit must be a whole number", "due", "1")
      raises("receiver must be a string", "claim", 1, 1, 1)
      raises("max must be a whole number", "claim", "r", 1.5, 1)
      raises("max must be a whole number", "claim", "r", math.huge, 1)
      raises("max must be a whole number", "claim", "r", nil, 1)
      raises("queue: lease", "claim", "r", 1)
      raises("lease must be more than 0", "claim", "r", 1, 0)
      raises("queue: lease", "extend", "1.1", -1)
      raises("token must be a string", "extend", 1, 1)
      raises("token must be a string", "ack", nil)
      raises("token must be a string", "nack", {}, 1)
      raises("queue: delay", "nack", "1.1", nil)
      raises("unknown field \"counts\"", "nack", "1.1", 0, { counts = false })
      raises("count of the options of nack must be a boolean", "nack", "1.1", 0, { count = 0 })
      raises("must be a table", "nack", "1.1", 0, false)
      raises("token must be a string", "dead", 1)
      raises("reason must be a string", "dead", "1.1", 410)
      raises("receiver must be a string", "len", 1)
      raises("receiver must be a string", "oldest", false)
      raises("receiver must be a string", "dead_letters", {})
      raises("limit must be a whole number", "dead_letters", nil, -1)
      assert.are.equal(0, queue:len())
    end)

    it("that could never be sent are refused, and nothing is stored", function()
      local function refused(pattern, receiver, msg)
        local ok, message, code = queue:push(receiver, msg)
        assert.is_nil(ok)
        assert.is_truthy(message:find(pattern, 1, true), message)
        assert.are.equal("INVALID", code)
      end
      for _, id in ipairs({ "", "a.b", ".", "a b", "a\n", "a\0b", "\195\188" }) do
        refused("visible ASCII without a dot", "r", { id = id, body = "" })
      end
      refused("must not be empty", "", { id = "m", body = "" })
      refused("zero byte", "r\0s", { id = "m", body = "" })
      refused("is not a header name", "r", { id = "m", body = "", headers = { [""] = "a" } })
      refused("is not a header name", "r", { id = "m", body = "", headers = { ["a: b"] = "a" } })
      for _, value in ipairs({ "b\r\nc: d", "b\0", "b\127" }) do
        refused("control character", "r", { id = "m", body = "", headers = { a = value } })
      end
      refused("finite", "r", { id = "m", body = "", not_before = math.huge })
      refused("finite", "r", { id = "m", body = "", not_before = 0 / 0 })
      assert.are.equal(0, queue:len())
    end)

    it("that are no receiver's name find no other receiver", function()
      push("r", "m")
      for _, method in ipairs({ "claim", "len", "oldest", "dead_letters" }) do
        local found, message, code = queue[method](queue, "r\0x", method == "claim" and 1 or nil, 1)
        assert.is_nil(found)
        assert.is_truthy(message:find("zero byte", 1, true), message)
        assert.are.equal("INVALID", code)
      end
    end)
  end)

  it("answers CLOSED to everything but close once it is closed", function()
    push("r", "m")
    local token = one().token
    assert.is_truthy(tostring(queue):find("^holdfast%.queue: " .. kind .. ":"))
    assert.is_true(queue:close())
    assert.is_true(queue:close())
    local calls = { push = { "r", { id = "n", body = "" } }, due = { 1 }, claim = { "r", 1, 1 }, extend = { token, 1 },
      ack = { token }, nack = { token, 0 }, dead = { token }, dead_letters = {}, len = {}, oldest = {}, now = {} }
    for method, arguments in pairs(calls) do
      local ok, message, code = queue[method](queue, (unpack or table.unpack)(arguments))
      assert.is_nil(ok, method)
      assert.is_truthy(message:find("^queue " .. kind .. ":.* is closed$"), message)
      assert.are.equal("CLOSED", code)
    end
    assert.is_truthy(tostring(queue):find("(closed)", 1, true))
  end)

  it("is closed at the end of its scope", function()
    getmetatable(queue).__close(queue, nil)
    assert.are.equal("CLOSED", select(3, queue:len()))
  end)

  it("takes its clock and its random numbers from the core when it is given none", function()
    queue:close()
    local before = core.time()
    queue = assert(queues.open(path and "sqlite:" .. path or "memory:"))
    push("r", "m")
    local tokens = {}
    for i = 1, 2 do
      local item = one()
      assert.is_true(item.first_seen >= before - 1 and item.first_seen <= core.time() + 1)
      tokens[i] = item.token:match("(%x%x%x%x%x%x%x%x%x%x%x%x+)$")
      queue:nack(item.token, 0)
    end
    assert.are_not.equal(tokens[1], assert(tokens[2]))
  end)
end

for _, kind in ipairs({ "memory", "sqlite" }) do
  describe("queue " .. kind .. ":", function() contract(kind) end)
end

describe("queue.open", function()
  local function raises(pattern, ...)
    local ok, message = pcall(function(...) queues.open(...) end, ...)
    assert.is_false(ok)
    assert.is_truthy(message:find(pattern, 1, true), message)
    assert.is_truthy(message:find("queue_spec.lua:", 1, true), message)
  end

  it("says that other engines are not there yet", function()
    for _, url in ipairs({ "postgres://host/db", "postgresql://host/db", "redis://host", "rediss://host" }) do
      local queue, message, code = queues.open(url)
      assert.is_nil(queue)
      assert.is_truthy(message:find("not there yet", 1, true), message)
      assert.are.equal("INVALID", code)
    end
  end)

  it("raises for an address that is none, and for options that it does not know", function()
    raises("must be a string", nil)
    raises("must be a string", 5)
    raises("neither", "")
    raises("neither", "webhooks.db")
    raises("neither", "mysql://host")
    raises("nothing behind it", "memory:x")
    raises("needs the path", "sqlite:")
    raises("\"memory:\"", "sqlite::memory:")
    raises("needs the path", "sqlite:a\0b")
    raises("must be a table", "memory:", 1)
    raises("unknown field \"clock\"", "memory:", { clock = os.time })
    raises("now of the options of open must be a function", "memory:", { now = 1 })
    raises("random of the options of open must be a function", "memory:", { random = "x" })
  end)

  it("makes a queue of its own for every \"memory:\"", function()
    local a, b = queues.open("memory:"), queues.open("memory:")
    a:push("r", { id = "m", body = "" })
    assert.are.equal(0, b:len())
  end)
end)
