-- Who does the work of a client: whoever waits, and its own thread while nobody does. What only C can say of that is in
-- spec/c/test_drive.c.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local code_of, holder = fake.code_of, agent.holder

-- What every child begins with.
local PRELUDE = [[
local holdfast = require("holdfast")
local core = require("holdfast.core")
local loop = require("holdfast.loop")
local KEY = os.getenv("KEY")
local client = assert(holdfast.new({ scheduler = os.getenv("SCHEDULER"), session = { name = KEY, lock_delay = 0 } }))
local function say(...)
  print(...)
  io.stdout:flush()
end
local function pid()
  local file = assert(io.open("/proc/self/stat"))
  local id = file:read("*n")
  file:close()
  return id
end
]]

describe("who waits", function()
  local key, proxy, session
  before_each(function()
    key, proxy = helper.unique_key(), helper.proxy()
    session = agent.occupy(key)
  end)
  after_each(helper.finish)

  local function spawn(code, scheduler)
    return helper.spawn_lua(PRELUDE .. code, { KEY = key, CONSUL_HTTP_ADDR = proxy:address(), SCHEDULER = scheduler })
  end

  -- Interrupts a child as soon as it waits for the key.
  local function interrupt(code, scheduler)
    local child = spawn(code, scheduler)
    assert(proxy:wait_for(fake.POLL, 1, helper.seconds(10)))
    child:kill("INT")
    return child:wait()
  end

  local WAITS = {
    ["in lock:lock"] = "client:lock(KEY):lock()",
    ["for an op"] = "local op = assert(client:lock(KEY)):start_lock() while true do op:wait() end",
    ["with a limit"] = "client:lock(KEY):lock('1h')",
    ["in a loop"] = "loop.run(function() client:lock(KEY):lock() end)",
    ["beside others in a loop"] = [[
      loop.run(function()
        loop.spawn(function() client:lock(KEY):lock() end)
        loop.sleep(3600)
      end)
    ]],
  }

  for what, code in pairs(WAITS) do
    it("is interrupted by Ctrl-C " .. what, function()
      local status, _, err = interrupt(code, what:find("loop") and "loop" or "plain")
      assert.matches("interrupted!", err, 1, true)
      assert.are.equal(1, status)
      assert.are.equal(session, holder(key))
    end)
  end

  it("takes no lock for nobody when the program goes on after Ctrl-C", function()
    local status, out, err = interrupt([[
      collectgarbage("stop")
      local lock = client:lock(KEY)
      local ok, message = pcall(lock.lock, lock)
      say(ok, message:match("interrupted!"))
      local code
      repeat code = select(3, lock:lock(0)) until code ~= "HELD" -- until the first call has ended
      say(code, tostring(lock:token()))
    ]], "plain")
    assert.are.same({ "false\tinterrupted!\nTIMEOUT\tnil\n", "", 0 }, { out, err, status })
  end)

  it("takes no lock for nobody when the program goes on after Ctrl-C in a loop", function()
    local status, out, err = interrupt([[
      collectgarbage("stop")
      local lock = client:lock(KEY)
      pcall(loop.run, function() lock:lock() end)
      local code
      repeat code = loop.run(function() return select(3, lock:lock(0)) end) until code ~= "HELD"
      say(code)
    ]], "loop")
    assert.are.same({ "TIMEOUT\n", "", 0 }, { out, err, status })
  end)

  it("leaves nothing behind in a loop that is interrupted", function()
    local status, out, err = interrupt([[
      local ok, message = pcall(loop.run, function()
        loop.spawn(function() client:lock(KEY):lock() end)
        loop.sleep(3600)
      end)
      say(ok, message:match("interrupted!"))
      assert(client:close())
      client = nil
      for _ = 1, 5 do collectgarbage() end -- on 5.1 a client goes cycles after the locks that knew it
      for name, count in pairs(core.counters()) do
        if count ~= 0 then say(name, count) end
      end
    ]], "loop")
    assert.are.same({ "false\tinterrupted!\n", "", 0 }, { out, err, status })
  end)

  it("and gives up leaves the rest to the client's own thread", function()
    local server = helper.server()
    server:rule({ action = "stall" })
    local client = helper.client({ address = proxy:address() })
    local waiting = assert(helper.keep(assert(client:lock(key))):start_lock())
    local request = assert(client:start_request({ method = "GET", url = server:url(), headers = {}, max_body = 1 }))
    assert.is_nil((request:wait(0.05)))
    agent.vacate(key, session)
    helper.eventually(function() return waiting:done() end)
    assert.is_true(waiting:result())
    assert.is_false(request:done())
  end)

  it("renews what is held, and hears of its loss", function()
    local receiver = helper.server()
    receiver:rule({ action = "stall" })
    local child = spawn([[
      client = assert(holdfast.new({ session = { name = KEY, ttl = "10s", lock_delay = "3s" } }))
      local mine = assert(client:lock(KEY .. "/mine"))
      assert(mine:lock())
      local request = assert(mine:start_request({ method = "GET", url = "]] .. receiver:url()
      .. [[", headers = {}, max_body = 1 }))
      say(mine:session())
      client:lock(KEY):lock()
    ]])
    local id = child:read_line()
    assert(proxy:wait_for(fake.POLL, 1, helper.seconds(10)))
    assert(receiver:wait_for(nil, 1, helper.seconds(5)))
    local gap = fake.usual_gap(assert(proxy:wait_for(fake.RENEW, 6, helper.seconds(10))))
    assert.is_true(gap > 0.9 * 0.5 - 0.05 and gap < 1.1 * 0.5 + 0.2, ("%.3f s"):format(gap))
    assert.are.equal(id, holder(key .. "/mine"))
    assert.are.equal(0, receiver:count(nil, "gone"))
    consul.session.destroy(id)
    assert(receiver:wait_for(nil, 1, helper.seconds(5), "gone"))
  end)
end)

describe("what is started and not waited for", function()
  local key, proxy, client
  before_each(function()
    key, proxy = helper.unique_key(), helper.proxy()
    client = helper.client({ address = proxy:address() })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  -- Nothing of the client's is called in here.
  local function comes_to_hold(name)
    helper.eventually(function() return holder(name) end)
  end

  it("begins at once, also while the client's thread stands back", function()
    local ops = {}
    for i = 1, 5 do
      local lock = assert(client:lock(key .. "/" .. i))
      ops[i] = assert(lock:start_lock())
      comes_to_hold(lock:key())
      local other = assert(client:lock(key .. "/other"))
      assert(other:lock(helper.seconds(5)))
      assert(other:unlock())
    end
    for i = 1, 5 do assert.is_true(fake.result(ops[i])) end
  end)

  it("is canceled, dropped and released at once", function()
    agent.occupy(key)
    local lock, held = assert(client:lock(key)), assert(client:lock(key .. "/held"))
    for i, give_up in ipairs({ function(op) op:cancel() end, function() lock:cancel() end }) do
      local op = assert(lock:start_lock())
      assert(proxy:wait_for(fake.POLL, i, helper.seconds(5)))
      give_up(op)
      helper.eventually(function() return op:done() end)
      assert(proxy:wait_for(fake.POLL, i, helper.seconds(5), "gone"))
    end
    assert(held:lock(helper.seconds(5)))
    held = nil
    helper.eventually(function()
      collectgarbage()
      return held == nil and not holder(key .. "/held")
    end)
  end)

  it("is said goodbye to when the client is dropped", function()
    local lock = assert(client:lock(key))
    assert(lock:lock(helper.seconds(5)))
    local other = assert(require("holdfast").new({ address = proxy:address() }))
    assert(assert(other:lock(key .. "/other")):lock(helper.seconds(5)))
    other = nil
    helper.eventually(function()
      collectgarbage()
      return other == nil and not holder(key .. "/other")
    end)
    assert.is_true(lock:held())
  end)
end)

describe("in one loop", function()
  local key, client
  before_each(function()
    key = helper.unique_key()
    client = helper.client({ scheduler = "loop", session = { lock_delay = 0 } })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function start(name)
    return assert(helper.keep(assert(client:lock(name or key))):start_lock())
  end

  it("one op wakes all coroutines that wait for it, those of another loop too", function()
    local session, woken = agent.occupy(key), {}
    local op = start()
    local set = assert(core.set())
    local other = loop.new({
      now = core.now,
      follow = function(waitable) return set:add(waitable) end,
      unfollow = function(waitable) set:remove(waitable) end,
      finished = function() return set:next() end,
      poll = function(fds, seconds) return set:wait(fds, seconds) end,
    })
    other.run(function()
      for i = 1, 2 do
        other.spawn(function() woken["other " .. i] = other.wait(op, 0.01) or "not yet" end)
      end
    end)
    loop.run(function()
      for i = 1, 3 do
        loop.spawn(function() woken[i] = loop.wait(op, helper.seconds(10)) end)
      end
      loop.sleep(0)
      agent.vacate(key, session)
    end)
    other.run(function() woken.afterwards = other.wait(op, 0) end)
    assert.are.same({ true, true, true, ["other 1"] = "not yet", ["other 2"] = "not yet", afterwards = true }, woken)
    assert.is_true(op:result())
  end)

  it("waits time out one by one, and the op goes on", function()
    local session, codes = agent.occupy(key), {}
    local op = start()
    loop.run(function()
      loop.spawn(function() codes.long = { loop.wait(op, helper.seconds(10)) } end)
      for i = 1, 3 do
        loop.spawn(function()
          for _ = 1, 3 do codes[i] = { loop.wait(op, 0.01 * i) } end
        end)
      end
      loop.sleep(0.1)
      helper.eventually(function() return codes[3] end)
      agent.vacate(key, session)
    end)
    local timeout = { nil, "timeout" }
    assert.are.same({ timeout, timeout, timeout, long = { true } }, codes)
    assert.is_true(op:result())
  end)

  it("an op that is canceled or whose lock lets go wakes who waits for it", function()
    agent.occupy(key)
    local codes = {}
    loop.run(function()
      local ops = { start(), start(), start() }
      for i, op in ipairs(ops) do
        loop.spawn(function()
          loop.wait(op)
          codes[i] = code_of(op:result())
        end)
      end
      loop.sleep(0)
      for _, op in ipairs(ops) do op:cancel() end
    end)
    assert.are.same({ "CANCELED", "CANCELED", "CANCELED" }, codes)
  end)

  for _, way in ipairs({ "close", "abandon" }) do
    it(("coroutines hear of a client's %s, and those of another client go on"):format(way), function()
      local codes, session = {}, agent.occupy(key)
      local other = helper.client({ scheduler = "loop", session = { lock_delay = 0 } })
      loop.run(function()
        for i = 1, 3 do
          loop.spawn(function() codes[i] = code_of(client:lock(key):lock()) end)
        end
        loop.spawn(function() codes.other = code_of(other:lock(key):lock(helper.seconds(20))) end)
        loop.sleep(0)
        assert(client[way](client))
        helper.eventually(function() return #codes == 3 end)
        assert.is_nil(codes.other)
        agent.vacate(key, session)
      end)
      assert.are.same({ "CLOSED", "CLOSED", "CLOSED", other = "OK" }, codes)
    end)
  end

  it("clients come and go", function()
    local n = 0
    loop.run(function()
      for i = 1, 8 do
        loop.spawn(function()
          local mine = helper.client({ scheduler = "loop", session = { lock_delay = 0 } })
          for round = 1, 3 do
            assert(mine:with_lock(("%s/%d"):format(key, (i + round) % 4), helper.seconds(20), function()
              loop.sleep(0)
              n = n + 1
              return true
            end))
          end
          assert(mine:close())
        end)
      end
    end)
    assert.are.equal(24, n)
  end)

  it("a blocking wait in one coroutine does the work of the others too", function()
    local session = agent.occupy(key)
    local waiting, first = start(), nil
    loop.run(function()
      loop.spawn(function()
        assert(loop.wait(waiting, helper.seconds(10)))
        first = first or "the loop"
      end)
      loop.sleep(0)
      agent.vacate(key, session)
      assert(waiting:wait(helper.seconds(10))) -- of the op itself: the loop stands still
      first = first or "the op"
    end)
    assert.are.equal("the op", first)
    assert.is_true(waiting:result())
  end)
end)

describe("a process", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  local function expect(said, code, scheduler)
    local status, out, err = helper.run_lua(PRELUDE .. code, { KEY = key, SCHEDULER = scheduler })
    assert.are.same({ said .. "\n", "", 0 }, { out, err, status })
  end

  it("waits in 200 coroutines with 64 descriptors, and has closed all in the end", function()
    agent.occupy(key)
    expect("200 waiting\t200 CANCELED\t0 left", [[
      os.execute(("prlimit --nofile=64:64 --pid %d"):format(pid()))
      -- Those of a kind; of the pipes one is popen's own, or two.
      local function descriptors(kind)
        local pipe, count = io.popen(("ls -l /proc/%d/fd 2>/dev/null"):format(pid())), 0
        for line in pipe:lines() do
          if line:find(kind) and not line:find("pipe:") then count = count + 1 end
        end
        pipe:close()
        return count
      end
      assert(client:lock(KEY .. "/first"):lock(10)) -- libcrypto may open something
      client:close()
      local before = descriptors("->")
      client = assert(holdfast.new({ scheduler = "loop", session = { name = KEY } }))
      local ops, waiting, canceled = {}, 0, 0
      loop.run(function()
        for i = 1, 200 do
          loop.spawn(function()
            local lock = assert(client:lock(KEY))
            ops[i] = assert(lock:start_lock())
            waiting = waiting + 1
            assert(loop.wait(ops[i]))
            if select(3, ops[i]:result()) == "CANCELED" then canceled = canceled + 1 end
          end)
        end
        loop.sleep(0.2)
        local own = descriptors("anon_inode")
        if own ~= 2 then say("not an epoll and a bell", own) end
        for i = 1, 200 do ops[i]:cancel() end
      end)
      client:close()
      say(waiting .. " waiting", canceled .. " CANCELED", descriptors("->") - before .. " left")
    ]], "loop")
  end)

  -- How often each thread of the process goes to sleep within two seconds in which it has next to nothing to do.
  local COUNT = [[
    local function switches()
      local found = {}
      local pipe = io.popen(("grep ^voluntary /proc/%d/task/*/status"):format(pid()))
      for line in pipe:lines() do
        local task, count = line:match("/task/(%d+)/status:%D*(%d+)")
        found[task] = tonumber(count)
      end
      pipe:close()
      return found
    end
    local function most_switches(fn)
      local before, most = switches(), 0
      fn()
      for task, count in pairs(switches()) do most = math.max(most, count - (before[task] or 0)) end
      return most < 30 and "quiet" or most
    end
    local held = assert(client:lock(KEY .. "/held"))
    local op = assert(client:lock(KEY):start_lock())
    loop.run(function() assert(held:lock(10)) end)
    op:wait(0.2)
  ]]

  local IDLE = {
    { "while one waits", "say(most_switches(function() op:wait(2) end))", "plain" },
    { "while nobody waits", "say(most_switches(function() core.poll({}, 2) end))", "plain" },
    { "while coroutines wait", [[
      loop.run(function()
        loop.spawn(function() loop.wait(op) end)
        loop.sleep(0.2)
        say(most_switches(function() loop.sleep(2) end))
        op:cancel()
      end)
    ]], "loop" },
    { "after who waited has left", [[
      loop.run(function() loop.wait(op, 0.2) end)
      core.poll({}, 0.1)
      say(most_switches(function() core.poll({}, 2) end))
    ]], "loop" },
  }

  for _, case in ipairs(IDLE) do
    it("is idle " .. case[1], function()
      agent.occupy(key)
      expect("quiet", COUNT .. case[2], case[3])
    end)
  end

  if pcall(require, "cqueues.thread") then
    it("has clients in several threads, each with a Lua state", function()
      expect("60", [[
        local thread = require("cqueues.thread")
        local function body(con, i, key)
          local holdfast = require("holdfast")
          local mine = assert(holdfast.new({ session = { name = key, lock_delay = 0 } }))
          for round = 1, 20 do
            local lock = assert(mine:lock(("%s/%d"):format(key, (i + round) % 2)))
            assert(lock:lock(60))
            assert(lock:unlock())
            con:write("x")
          end
          assert(mine:close())
          con:flush()
        end
        local threads, count = {}, 0
        for i = 1, 3 do threads[i] = { thread.start(body, tostring(i), KEY) } end
        for i = 1, 3 do count = count + #threads[i][2]:read("*a") end
        say(count)
        os.exit(0) -- cqueues frees its threads with their mutexes locked
      ]], "plain")
    end)
  end

  if rawget(_G, "jit") then
    it("that forks in a loop goes on, and so does its child, with a client of its own", function()
      expect("FORKED\ttrue\tworks\ntrue\ttrue", [[
        local ffi = require("ffi")
        ffi.cdef("int fork(void); int waitpid(int, int *, int); void _exit(int);")
        local held, codes = assert(client:lock(KEY)), {}
        loop.run(function()
          assert(held:lock(10))
          loop.spawn(function()
            local ok, _, code = client:lock(KEY):lock(60)
            codes[1] = code or tostring(ok)
          end)
          loop.sleep(0.05)
          local child = ffi.C.fork()
          if child == 0 then
            local mine = assert(holdfast.new({ scheduler = "loop", session = { name = KEY } }))
            local lock = assert(mine:lock(KEY .. "/child"))
            local ok = lock:lock(10)
            lock:unlock()
            say(codes[1], ok, mine:with_lock(KEY .. "/child", 10, function() return "works" end))
            mine:close()
            ffi.C._exit(0)
          end
          ffi.C.waitpid(child, nil, 0)
          codes[2] = tostring(held:unlock())
        end)
        say(codes[1], codes[2])
      ]], "loop")
    end)
  end
end)
