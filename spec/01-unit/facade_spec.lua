-- The facade over a core made of tables: no C, no network, no time. What a real core does is for the specs of 02-core
-- and 04-consul.

local REAL_CORE = require("holdfast.core")

local function pack(...) return { n = select("#", ...), ... } end
local unpack = table.unpack or unpack -- luacheck: ignore

-- ---- the world: a core whose ops end when somebody waits for them --------------------------------------------------

local function new_world()
  local world = { time = 0, fds = 0, ops = {}, by_fd = {}, calls = {}, results = {}, settings = {}, dropped = 0 }

  local Op = { __index = {} }
  Op.__gc = function(op) if not op.done then world.dropped = world.dropped + 1 end end

  -- Starts an op: what `verb` was told to answer, or true.
  function world.start(verb, argument)
    world.calls[#world.calls + 1] = { verb, argument }
    local refusal = world.refuse and world.refuse[verb]
    if refusal then return nil, unpack(refusal) end
    world.fds = world.fds + 1
    local op = setmetatable({ verb = verb, fd = world.fds, result_ = world.results[verb] or pack(true) }, Op)
    world.ops[#world.ops + 1], world.by_fd[op.fd] = op, op
    return op
  end

  function world.finish(op)
    op.done = true
    if op.verb == "lock" and op.result_[1] then op.lock.state = "held" end
    if op.verb == "unlock" and op.lock.state == "held" then op.lock.state, op.lock.reason = "free", "released" end
  end

  function Op.__index:wait(seconds)
    if self.failure then return nil, unpack(self.failure) end
    if not self.done and seconds == 0 then return nil end
    if not self.done then
      self.blocked = pack(seconds)
      world.finish(self)
    end
    return true
  end

  function Op.__index:pollfd()
    if world.no_fd then return nil, "no descriptor to be had", "NOMEM" end
    return self.fd
  end

  function Op.__index:result()
    assert(self.done, "the result of an op that has not finished")
    return unpack(self.result_, 1, self.result_.n)
  end

  local Lock = { __index = {} }

  function Lock.__index:start_lock(seconds)
    local op, message, code = world.start("lock", seconds)
    if op then op.lock = self end
    return op, message, code
  end

  function Lock.__index:start_unlock(seconds)
    if self.reason == "session" and self.state == "free" then
      world.results.unlock = pack(nil, "the lock was lost: session", "LOST")
    elseif self.state ~= "held" then
      world.results.unlock = pack(nil, "not held", "NOT_HELD")
    end
    local op, message, code = world.start("unlock", seconds)
    if op then op.lock = self end
    return op, message, code
  end

  function Lock.__index.start_destroy(_, seconds) return world.start("destroy", seconds) end
  function Lock.__index.start_request(_, settings) return world.start("guarded", settings) end
  function Lock.__index:key() return self.key_ end
  function Lock.__index:keys() return { self.key_ } end
  function Lock.__index:token() return self.state == "held" and (self.token_ or 7) or nil end
  function Lock.__index.pollfd() return 99 end

  function Lock.__index:held()
    if self.forked then return nil, "used in a child process", "FORKED" end
    if self.state == "held" then return true end
    return false, self.reason
  end

  function Lock.__index:lose(reason) self.state, self.reason = "free", reason end

  local Client = { __index = {} }

  function Client.__index:lock_object(settings)
    if self.closed then return nil, "the client is closed", "CLOSED" end
    world.settings.lock = settings
    return setmetatable({ key_ = settings.key }, Lock)
  end

  function Client.__index:start_request(settings)
    if self.closed then return nil, "the client is closed", "CLOSED" end
    return world.start("request", settings)
  end

  world.core = {
    _VERSION = "9.9",
    now = function() return world.time end,
    -- Every op that somebody polls for ends now.
    poll = function(fds, seconds)
      local ready = {}
      for _, fd in ipairs(fds) do
        if world.by_fd[fd] then
          world.finish(world.by_fd[fd])
          ready[fd] = true
        end
      end
      if not next(ready) then world.time = world.time + assert(seconds, "everybody waits for ever") end
      return ready
    end,
    -- None of its ops is the core's: all are waited for by their descriptors.
    set = function()
      return {
        add = function() end, remove = function() end, next = function() end,
        wait = function(_, fds, seconds) return world.core.poll(fds, seconds) end,
      }
    end,
    client = function(settings)
      if world.no_client then return nil, "no memory", "NOMEM" end
      world.settings.client = settings
      return setmetatable({}, Client)
    end,
  }

  -- An adapter that writes down what it is asked to wait for. A spec may replace `on_wait`.
  function world.on_wait(waitable)
    world.finish(waitable)
    return true
  end
  world.waits = {}
  world.adapter = {
    wait = function(waitable, seconds)
      world.waits[#world.waits + 1] = pack(waitable, seconds)
      return world.on_wait(waitable, seconds)
    end,
    sleep = function() error("not to be called") end,
    spawn = function() error("not to be called") end,
    now = function() return world.time end,
  }
  return world
end

local function raises(text, fn, ...)
  local line = debug.getinfo(fn, "S").linedefined
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches("facade_spec%.lua:" .. line .. ": ", message)
  assert(message:find(text, 1, true), ("%q is not in %q"):format(text, message))
end

local function copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for k, v in pairs(value) do result[k] = copy(v) end
  return result
end

describe("holdfast", function()
  local world, holdfast, saved

  local function unload()
    for name in pairs(package.loaded) do
      if name:find("^holdfast") then package.loaded[name] = nil end
    end
  end

  local function load_facade()
    unload()
    package.loaded["holdfast.core"] = world.core
    return require("holdfast")
  end

  local function new(opts)
    opts = opts or {}
    opts.address = opts.address or "127.0.0.1:8500"
    opts.scheduler = opts.scheduler or world.adapter
    return assert(holdfast.new(opts))
  end

  before_each(function()
    saved = {}
    for name, module in pairs(package.loaded) do
      if name:find("^holdfast") then saved[name] = module end
    end
    world = new_world()
    holdfast = load_facade()
  end)

  after_each(function()
    unload()
    for name, module in pairs(saved) do package.loaded[name] = module end
  end)

  it("leaves the real core to others", function()
    assert.are_not.equal(REAL_CORE, package.loaded["holdfast.core"])
    assert.are.equal(REAL_CORE, saved["holdfast.core"])
  end)

  it("has the core's version and sets no global", function()
    local before = {}
    for name in pairs(_G) do before[name] = true end
    world.results.guarded = pack(200, "", "", false, 0)
    holdfast = load_facade()
    local client = new()
    client:with_lock("k", function(lock) lock:request({ url = "http://h" }) end)
    assert.are.equal("9.9", holdfast._VERSION)
    for name in pairs(_G) do assert(before[name], "sets the global " .. tostring(name)) end
  end)

  describe("new", function()
    it("gives the core what options.client makes of the options", function()
      new({ address = "https://consul:8501/x", token = "t", session = { ttl = "20s" }, timeout = 3 })
      local settings = world.settings.client
      assert.are.equal("https://consul:8501/x", settings.base)
      assert.are.equal("t", settings.token)
      assert.are.equal(3, settings.timeout)
      assert.are.equal(20, settings.session.ttl)
      assert.is_nil(settings.scheduler)
    end)

    it("works without options", function()
      assert(holdfast.new())
      assert.are.equal(10, world.settings.client.timeout)
    end)

    it("modifies no table", function()
      local opts = { address = "h:1", session = { ttl = 1, checks = { "a" } }, tls = { verify = false },
        scheduler = world.adapter }
      local before = copy(opts)
      assert(holdfast.new(opts))
      assert.are.same(before, opts)
    end)

    it("raises mistakes with the caller's line", function()
      raises('unknown option "adress"', function() holdfast.new({ adress = "x" }) end)
      raises("a table of options", function() holdfast.new(5) end)
      raises("scheduler: ", function() holdfast.new({ scheduler = "lop" }) end)
      raises("scheduler: ", function() holdfast.new({ scheduler = { wait = print } }) end)
    end)

    it("answers INVALID for what is well-typed and wrong", function()
      local client, message, code = holdfast.new({ address = "ftp://h" })
      assert.is_nil(client)
      assert.matches("ftp://h", message, 1, true)
      assert.are.equal("INVALID", code)
      client, message, code = holdfast.new({ scheduler = "cqueues" })
      assert.is_nil(client)
      assert.matches("cqueues", message)
      assert.are.equal("INVALID", code)
    end)

    it("answers what the core answers", function()
      world.no_client = true
      assert.are.same(pack(nil, "no memory", "NOMEM"), pack(holdfast.new({ address = "h:1" })))
    end)
  end)

  it("hands out the scheduler of a client", function()
    assert.are.equal(world.adapter, new():scheduler())
    assert.are.equal(require("holdfast.sched.loop"), new({ scheduler = "loop" }):scheduler())
    assert.are.equal(require("holdfast.sched.plain"), assert(holdfast.new()):scheduler())
  end)

  describe("client:lock", function()
    it("gives the core what options.lock makes of key or options", function()
      local client = new({ session = { name = "app" } })
      assert(client:lock("a/b"))
      assert.are.same({ key = "a/b", value = "", monitor = "session" }, world.settings.lock)
      local given = { key = "k", session_ttl = 30, session_opts = { node = "n" } }
      local before = copy(given)
      assert(client:lock(given))
      assert.are.same({ name = "app", ttl = 30, lock_delay = 30, behavior = "release", node = "n" },
        world.settings.lock.session_opts)
      assert.are.same(before, given)
    end)

    it("raises mistakes with the caller's line, and answers the rest", function()
      local client = new()
      raises("missing key", function() client:lock("") end)
      raises("missing key", function() client:lock({}) end)
      raises('unknown option "lock_dealy"', function() client:lock({ key = "k", lock_dealy = 1 }) end)
      local lock, message, code = client:lock("/k")
      assert.is_nil(lock)
      assert.matches("/k", message)
      assert.are.equal("INVALID", code)
      client.closed = true
      assert.are.same(pack(nil, "the client is closed", "CLOSED"), pack(client:lock("k")))
    end)

    it("makes locks that follow the event-loop protocol", function()
      local lock = new():lock("k")
      assert.are.equal("r", lock:events())
      assert.is_nil(lock:timeout())
      assert.are.equal(99, lock:pollfd())
      assert.are.equal(99, lock:getfd())
      assert.is_false(lock:dirty())
    end)
  end)

  for _, method in ipairs({ "lock", "unlock", "destroy" }) do
    describe("lock:" .. method, function()
      local lock

      before_each(function()
        lock = new():lock("k")
        lock.state = "held"
      end)

      it("starts an op, waits for it with the scheduler and answers its result", function()
        assert.are.same(pack(true), pack(lock[method](lock)))
        assert.are.same({ { method, nil } }, world.calls)
        assert.are.same({ pack(world.ops[1], nil) }, world.waits)
        assert.is_nil(world.ops[1].blocked)
      end)

      it("leaves the timeout to the core, in seconds", function()
        lock[method](lock, "1500ms")
        assert.are.same({ method, 1.5 }, world.calls[1])
        lock.state = "held"
        lock[method](lock, 0)
        assert.are.same({ method, 0 }, world.calls[2])
        assert.is_nil(world.waits[1][2])
        assert.is_nil(world.waits[2][2])
      end)

      it("raises for what is no timeout, with the caller's line", function()
        raises("timeout: -1 is negative", function() lock[method](lock, -1) end)
        raises("timeout: ", function() lock[method](lock, "soon") end)
        raises("timeout: ", function() lock[method](lock, {}) end)
        assert.are.same({}, world.calls)
      end)

      it("answers why the op did not start", function()
        world.refuse = { [method] = { "the lock is closed", "CLOSED" } }
        assert.are.same(pack(nil, "the lock is closed", "CLOSED"), pack(lock[method](lock)))
        assert.are.same({}, world.waits)
      end)

      it("answers how the op failed", function()
        world.results[method] = pack(nil, "no", "DENIED")
        assert.are.same(pack(nil, "no", "DENIED"), pack(lock[method](lock)))
      end)

      it("waits again when the scheduler woke it early", function()
        local turns = 0
        function world.on_wait(op)
          turns = turns + 1
          if turns == 2 then return nil, "timeout" end
          if turns == 3 then world.finish(op) end
          return true
        end
        assert.are.same(pack(true), pack(lock[method](lock)))
        assert.are.equal(3, turns)
      end)

      it("drops the op when the scheduler cannot wait", function()
        function world.on_wait() return nil, "no descriptor to be had", "NOMEM" end
        assert.are.same(pack(nil, "no descriptor to be had", "NOMEM"), pack(lock[method](lock)))
        assert.are.equal(1, world.dropped)
      end)

      it("answers what the op says when it cannot be waited for", function()
        function world.on_wait(op)
          op.failure = { "used in a child process", "FORKED" }
          return true
        end
        assert.are.same(pack(nil, "used in a child process", "FORKED"), pack(lock[method](lock)))
      end)
    end)
  end

  it("blocks in the op itself with the plain scheduler", function()
    local lock = new({ scheduler = "plain" }):lock("k")
    assert(lock:lock())
    assert.are.same(pack(nil), world.ops[1].blocked)
  end)

  it("suspends only the calling coroutine with the loop", function()
    local loop = require("holdfast.loop")
    local client = new({ scheduler = "loop" })
    local order = {}
    loop.run(function()
      for i = 1, 2 do
        loop.spawn(function()
          order[#order + 1] = "start " .. i
          assert(client:lock("k" .. i):lock())
          order[#order + 1] = "done " .. i
        end)
      end
    end)
    assert.are.same({ "start 1", "start 2" }, { order[1], order[2] })
    assert.are.equal(4, #order)
    assert.is_nil(world.ops[1].blocked)
  end)

  it("drops the op when the loop gets no descriptor", function()
    world.no_fd = true
    local loop = require("holdfast.loop")
    local lock = new({ scheduler = "loop" }):lock("k")
    assert.are.same(pack(nil, "no descriptor to be had", "NOMEM"), pack(loop.run(function() return lock:lock() end)))
    assert.are.equal(1, world.dropped)
  end)

  it("drops the op when an adapter raises, and raises the same", function()
    local adapter = { wait = function() error("no more", 0) end, sleep = function() end, spawn = function() end,
      now = function() return 0 end }
    local lock = new({ scheduler = adapter }):lock("k")
    assert.are.same(pack(false, "no more"), pack(pcall(lock.lock, lock)))
    assert.are.equal(1, world.dropped)
  end)

  describe("requests", function()
    local HEADERS = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: 1\r\nx-a:2 \r\nEmpty:\r\n\r\n"

    it("answer a table, header names in lower case", function()
      world.results.request = pack(200, HEADERS, "hi\0", false, 0.25)
      local response = new():request({ url = "http://h", body = "b", timeout = "2s" })
      assert.are.same({ status = 200, headers = { ["content-type"] = "text/plain", ["x-a"] = "1, 2", empty = "" },
        body = "hi\0", truncated = false, elapsed = 0.25 }, response)
      assert.are.same({ method = "POST", url = "http://h", body = "b", headers = {}, timeout = 2, max_body = 1048576 },
        world.calls[1][2])
      assert.are.same({ pack(world.ops[1], nil) }, world.waits)
    end)

    it("go through the lock when they are guarded", function()
      world.results.guarded = pack(204, "", "", true, 1)
      local lock = new():lock("k")
      local response = lock:request({ url = "http://h" })
      assert.are.equal(204, response.status)
      assert.is_true(response.truncated)
      assert.are.equal("guarded", world.calls[1][1])
    end)

    it("answer nil, message and code", function()
      world.results.guarded = pack(nil, "the lock was lost: session", "LOST")
      local client = new()
      local lock = client:lock("k")
      assert.are.same(pack(nil, "the lock was lost: session", "LOST"), pack(lock:request({ url = "http://h" })))
      client.closed = true
      assert.are.same(pack(nil, "the client is closed", "CLOSED"), pack(client:request({ url = "http://h" })))
    end)

    it("raise mistakes with the caller's line, answer INVALID, and modify no table", function()
      local client = new()
      local lock = client:lock("k")
      for _, object in ipairs({ client, lock }) do
        raises("missing url", function() object:request({}) end)
        raises("a request is a table", function() object:request("http://h") end)
        local response, message, code = object:request({ url = "http://h", headers = { a = "b\r\nc: d" } })
        assert.is_nil(response)
        assert.matches('header "a"', message)
        assert.are.equal("INVALID", code)
        local given = { url = "http://h", headers = { a = "b" } }
        local before = copy(given)
        world.results = { request = pack(200, "", "", false, 0), guarded = pack(200, "", "", false, 0) }
        assert(object:request(given))
        assert.are.same(before, given)
      end
    end)
  end)

  describe("lock:wait_lost", function()
    local lock

    before_each(function() lock = new():lock("k") end)

    it("answers NOT_HELD when it never was held", function()
      for _, reason in ipairs({ false, "" }) do
        lock.reason = reason or nil
        local answer, message, code = lock:wait_lost()
        assert.is_nil(answer)
        assert.matches('"k"', message)
        assert.are.equal("NOT_HELD", code)
      end
    end)

    it("answers at once when it is over already", function()
      lock:lose("released")
      assert.are.equal("released", lock:wait_lost())
      lock:lose("deadline")
      assert.are.equal("deadline", lock:wait_lost(0))
      assert.are.same({}, world.waits)
    end)

    it("waits for the lock itself, until it is lost", function()
      lock.state = "held"
      local turns = 0
      function world.on_wait(waitable)
        turns = turns + 1
        if turns == 3 then waitable:lose("stolen") end
        return true
      end
      assert.are.same(pack("stolen"), pack(lock:wait_lost()))
      assert.are.same({ pack(lock, nil), pack(lock, nil), pack(lock, nil) }, world.waits)
    end)

    it("answers TIMEOUT at its deadline, however often it is woken", function()
      lock.state = "held"
      function world.on_wait()
        world.time = world.time + 0.5
        return true
      end
      assert.are.same(pack(nil, "timed out", "TIMEOUT"), pack(lock:wait_lost("1200ms")))
      assert.are.equal(3, #world.waits)
      assert.are.equal(1.2, world.waits[1][2])
      assert.is_true(world.waits[3][2] < 0.21)
    end)

    it("looks, and does not wait, for a timeout of 0", function()
      lock.state = "held"
      assert.are.same(pack(nil, "timed out", "TIMEOUT"), pack(lock:wait_lost(0)))
      assert.are.same({}, world.waits)
    end)

    it("takes a new hold of the same object for the end of the old one", function()
      lock.state, lock.token_ = "held", 7
      function world.on_wait()
        lock.token_ = 8
        return true
      end
      assert.are.equal("released", lock:wait_lost())
    end)

    it("answers the reason of loss even when a new acquire has cleared it", function()
      lock.state = "held"
      function world.on_wait()
        lock:lose(nil)
        return true
      end
      assert.are.equal("released", lock:wait_lost())
    end)

    it("answers what the lock or the scheduler fails with", function()
      lock.state = "held"
      function world.on_wait() return nil, "no descriptor to be had", "NOMEM" end
      assert.are.same(pack(nil, "no descriptor to be had", "NOMEM"), pack(lock:wait_lost()))
      function world.on_wait()
        lock.forked = true
        return true
      end
      assert.are.same(pack(nil, "used in a child process", "FORKED"), pack(lock:wait_lost()))
      assert.are.same(pack(nil, "used in a child process", "FORKED"), pack(lock:wait_lost()))
    end)

    it("raises for what is no timeout, with the caller's line", function()
      raises("timeout: ", function() lock:wait_lost("soon") end)
    end)
  end)

  describe("client:with_lock", function()
    local client

    local function verbs()
      local list = {}
      for i, call in ipairs(world.calls) do list[i] = call[1] end
      return table.concat(list, " ")
    end

    before_each(function() client = new() end)

    it("locks, calls the function with the lock, unlocks, answers all that it returned", function()
      local seen
      local results = pack(client:with_lock("k", function(lock)
        seen = lock:key()
        assert.are.equal("lock", verbs())
        assert.is_true(lock:held())
        return nil, 2, nil
      end))
      assert.are.same(pack(nil, 2, nil), results)
      assert.are.equal("k", seen)
      assert.are.equal("lock unlock", verbs())
      assert.are.equal(0, select("#", client:with_lock("k", function() end)))
    end)

    it("takes a timeout for the lock only", function()
      client:with_lock("k", "2s", function() end)
      assert.are.same({ { "lock", 2 }, { "unlock", nil } }, world.calls)
      client:with_lock({ key = "k" }, nil, function() end)
      assert.are.same({ "lock", nil }, world.calls[3])
    end)

    it("does not call the function when the lock is not to be had", function()
      local function never() error("called") end
      world.results.lock = pack(nil, "not within the time given", "TIMEOUT")
      assert.are.same(pack(nil, "not within the time given", "TIMEOUT"), pack(client:with_lock("k", 0, never)))
      assert.are.equal("lock", verbs())
      local _, _, code = client:with_lock("/k", never)
      assert.are.equal("INVALID", code)
      client.closed = true
      assert.are.same(pack(nil, "the client is closed", "CLOSED"), pack(client:with_lock("k", never)))
    end)

    it("raises mistakes with the caller's line, and takes no lock", function()
      raises("with_lock takes a function, not a nil", function() client:with_lock("k") end)
      raises("with_lock takes a function, not a number", function() client:with_lock("k", 5) end)
      raises("with_lock takes a function, not a table", function() client:with_lock("k", 5, {}) end)
      raises("timeout: ", function() client:with_lock("k", "soon", print) end)
      raises("missing key", function() client:with_lock("", print) end)
      raises('unknown option "x"', function() client:with_lock({ key = "k", x = 1 }, print) end)
      assert.are.same({}, world.calls)
    end)

    it("unlocks when the function raises, and raises the very same value again", function()
      for _, value in ipairs({ { "a table" }, "text without a line", false }) do
        world.calls = {}
        local ok, raised = pcall(client.with_lock, client, "k", function() error(value, 0) end)
        assert.is_false(ok)
        assert.are.equal(value, raised)
        assert.are.equal("lock unlock", verbs())
      end
    end)

    it("raises the function's error even when the release fails or raises as well", function()
      local function fails() error("mine", 0) end
      world.results.unlock = pack(nil, "lost", "LOST")
      assert.are.same({ false, "mine" }, { pcall(client.with_lock, client, "k", fails) })
      function world.on_wait(op)
        if op.verb == "unlock" then error("the scheduler's", 0) end
        world.finish(op)
        return true
      end
      assert.are.same({ false, "mine" }, { pcall(client.with_lock, client, "k", fails) })
      assert.are.same({ false, "the scheduler's" }, { pcall(client.with_lock, client, "k", function() end) })
    end)

    it("does not answer as if all were well when the lock was lost meanwhile", function()
      local results = pack(client:with_lock("k", function(lock)
        lock:lose("session")
        return "done", nil, 3
      end))
      assert.are.same(pack(nil, "the lock was lost: session", "LOST", "done", nil, 3), results)
      for _, code in ipairs({ "CLOSED", "FORKED" }) do
        world.results.unlock = pack(nil, "gone", code)
        assert.are.same(pack(nil, "gone", code, "done"), pack(client:with_lock("k", function() return "done" end)))
      end
    end)

    it("answers the results when only the release failed: the work was protected", function()
      for _, code in ipairs({ "CONNECT", "TIMEOUT", "HTTP", "DENIED", "NOMEM" }) do
        world.results.unlock = pack(nil, "no way to Consul", code)
        assert.are.same(pack("done", 2), pack(client:with_lock("k", function() return "done", 2 end)))
      end
    end)

    it("does not mind when the function gave the lock back itself", function()
      assert.are.same(pack("done"), pack(client:with_lock("k", function(lock)
        assert(lock:unlock())
        return "done"
      end)))
    end)

    it("lets the function wait and yield in a loop", function()
      local loop = require("holdfast.loop")
      client = new({ scheduler = "loop" })
      local order = {}
      loop.run(function()
        for i = 1, 2 do
          loop.spawn(function()
            local answer = client:with_lock("k" .. i, function()
              order[#order + 1] = "in " .. i
              coroutine.yield()
              loop.sleep(1)
              order[#order + 1] = "out " .. i
              return "result " .. i
            end)
            order[#order + 1] = answer
          end)
        end
      end)
      assert.are.same({ "in 1", "in 2", "out 1", "out 2" }, { order[1], order[2], order[3], order[4] })
      assert.are.equal("lock lock unlock unlock", verbs())
      table.sort(order)
      assert.are.same({ "result 1", "result 2" }, { order[5], order[6] })
    end)

    it("unlocks when the function raises after it waited in a loop", function()
      local loop = require("holdfast.loop")
      client = new({ scheduler = "loop" })
      local value, caught = {}, nil
      loop.run(function()
        local _, raised = loop.pcall(client.with_lock, client, "k", function()
          loop.sleep(1)
          error(value)
        end)
        caught = raised
      end)
      assert.are.equal(value, caught)
      assert.are.equal("lock unlock", verbs())
    end)

    it("hands yields on to whoever resumes, without a loop", function()
      local co = coroutine.create(function()
        return client:with_lock("k", function() return coroutine.yield("out") end)
      end)
      assert.are.same({ true, "out" }, { coroutine.resume(co) })
      assert.are.same({ true, "in" }, { coroutine.resume(co, "in") })
      assert.are.equal("lock unlock", verbs())
    end)
  end)

  describe("memory", function()
    local function collect() for _ = 1, 3 do collectgarbage() end end

    it("keeps a client as long as a lock of it lives, and not longer", function()
      local seen = setmetatable({}, { __mode = "k" })
      local client = new()
      local lock = client:lock("k")
      seen[client] = true
      client = nil -- luacheck: ignore
      collect()
      assert(next(seen), "the client is gone")
      assert(lock:lock())
      world.ops, world.waits, world.by_fd = {}, {}, {}
      lock = nil -- luacheck: ignore
      collect()
      assert.is_nil(next(seen))
    end)

    it("knows what an earlier copy of the module made", function()
      local client = new()
      local lock = client:lock("k")
      local second = load_facade()
      assert.are_not.equal(holdfast, second)
      assert(second.new({ address = "h:1", scheduler = world.adapter }):lock("other"))
      assert(lock:lock())
      assert.are.equal(world.adapter, client:scheduler())
      assert(client:lock("k2"):lock())
      local third = new()
      assert.are.equal("x", third:with_lock("k3", function() return "x" end))
    end)
  end)
end)

describe("headers.parse", function()
  local headers = require("holdfast.headers")

  it("reads lines whatever they end with, and joins what is there twice in its order", function()
    assert.are.same({ a = "1, 3", ["b-c"] = "2: x" }, headers.parse("A: 1\r\nB-C:2: x\nA:\t3 \n\n"))
  end)

  it("passes over status lines and what is no header", function()
    assert.are.same({ a = "1" },
      headers.parse("HTTP/1.1 200 OK\r\n folded before any\r\nnonsense\r\n: none\r\na: 1\r\n"))
    assert.are.same({}, headers.parse(""))
  end)

  it("unfolds continued lines", function()
    assert.are.same({ a = "1 2", b = "3" }, headers.parse("a: 1\r\n\t 2\r\nb: 3\r\n"))
  end)
end)
