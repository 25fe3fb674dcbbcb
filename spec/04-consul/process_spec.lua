-- Processes that die, end, or have no time for holdfast, against a real agent (67).
local socket = require("socket")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local function holder_of(key)
  return (consul.kv.get(key) or {}).Session
end

-- What every child begins with: a client, and KEY locked unless it says otherwise. With the TTL that is given it goes
-- away by itself after twice that.
local PRELUDE = [[
local holdfast = require("holdfast")
local client = assert(holdfast.new({ session = { name = os.getenv("KEY"), ttl = os.getenv("TTL") or "5s",
  lock_delay = 0 } }))
local lock = assert(client:lock(os.getenv("KEY")))
]]
local LOCKED = PRELUDE .. "assert(lock:lock(10)) print('locked') io.stdout:flush()\n"

describe("a process", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  local function run(code)
    return helper.run_lua(code, { KEY = key })
  end

  -- before_end: what is to happen here before the child, which waits for the file GO, goes on to its end.
  local function expect_goodbye(code, expected_status, expected_error, before_end)
    local go = os.tmpname()
    os.remove(go)
    local child = helper.spawn_lua(code, { KEY = key, GO = go, TTL = "300s" })
    if before_end then before_end() end
    assert(io.open(go, "w")):close()
    local start = socket.gettime()
    local status, out, err = child:wait()
    os.remove(go)
    assert.is_true(socket.gettime() - start < 60)
    assert.are.equal(expected_status, status)
    assert.are.equal("locked\n", out)
    if expected_error then
      assert.matches(expected_error, err, 1, true)
    else
      assert.are.equal("", err)
    end
    -- What has been said at its end may be under way still.
    helper.eventually(function()
      for _, session in ipairs(consul.session.list()) do
        if session.Name == key then return false, "its session is there" end
      end
      return not holder_of(key), "it holds the key"
    end)
  end

  it("that is killed loses its locks with the TTL of its session (behaviour 67)", function()
    local child = helper.spawn_lua(LOCKED .. "client:request({ url = os.getenv('STALL'), timeout = 100 })",
      { KEY = key, STALL = (function()
        local server = helper.server()
        server:rule({ action = "stall" })
        return server:url()
      end)() })
    assert.are.equal("locked", child:read_line())
    local id = holder_of(key)
    assert.is_string(id)
    child:kill("KILL")
    assert.are.equal(128 + 9, child:wait())
    local heir = helper.client():lock(key)
    assert.is_true(heir:lock(helper.seconds(15)))
    assert.is_nil(consul.session.info(id))
  end)

  it("that ends without a close says goodbye", function()
    expect_goodbye(LOCKED, 0)
  end)

  it("that calls os.exit says goodbye", function()
    expect_goodbye(LOCKED .. "os.exit(3)", 3)
    expect_goodbye(LOCKED .. "os.exit(4, true)", 4)
  end)

  it("that fails with an error says goodbye", function()
    expect_goodbye(LOCKED .. "error('on purpose')", 1, "on purpose")
  end)

  for _, ending in ipairs({ { "its last line", 0 }, { "an error", 1, "on purpose" } }) do
    it("that ends by " .. ending[1] .. " in the middle of an acquire and a guarded request says goodbye", function()
      local server = helper.server()
      server:rule({ action = "stall" })
      expect_goodbye(LOCKED .. ([[
        local other = assert(client:lock(os.getenv("KEY")))
        local waiting = assert(other:start_lock())
        local push = assert(lock:start_request({ method = "GET", url = %q, headers = {}, max_body = 1 }))
        while not io.open(os.getenv("GO")) do assert(not push:wait(0.01) and not waiting:done()) end
        if %d == 1 then error("on purpose") end
      ]]):format(server:url(), ending[2]), ending[2], ending[3], function()
        assert(server:wait_for(nil, 1, helper.seconds(10)))
      end)
      assert(server:wait_for(nil, 1, helper.seconds(5), "gone"))
    end)
  end

  local ENDINGS = {
    { "os.exit(0, true)", 0 },
    { "os.exit(0)", 0 },
    { "client:close()", 0 },
  }

  for _, ending in ipairs(ENDINGS) do
    it("that ends by " .. ending[1] .. " while coroutines wait for a lock and for an answer says goodbye", function()
      local server = helper.server()
      server:rule({ action = "stall" })
      expect_goodbye(LOCKED .. ([[
        local loop = require("holdfast.loop")
        client = assert(holdfast.new({ scheduler = "loop", session = { name = os.getenv("KEY"), ttl = "300s" } }))
        local mine = assert(client:lock(os.getenv("KEY") .. "/mine"))
        loop.run(function()
          loop.spawn(function() client:lock(os.getenv("KEY")):lock() end)
          loop.spawn(function()
            assert(mine:lock())
            mine:request({ url = %q, timeout = 100 })
          end)
          while not io.open(os.getenv("GO")) do loop.sleep(0.01) end
          %s
        end)
      ]]):format(server:url(), ending[1]), ending[2], nil, function()
        assert(server:wait_for(nil, 1, helper.seconds(10)))
      end)
      assert(server:wait_for(nil, 1, helper.seconds(5), "gone"))
      helper.eventually(function() return not holder_of(key .. "/mine") end)
    end)
  end

  it("that cannot reach Consul any more ends all the same, and soon", function()
    local proxy, server = helper.proxy(), helper.server()
    server:rule({ action = "stall" })
    local child = helper.spawn_lua(LOCKED .. ("client:request({ url = %q, timeout = 100 })"):format(server:url()),
      { KEY = key, CONSUL_HTTP_ADDR = proxy:address() })
    assert(server:wait_for(nil, 1, helper.seconds(10)))
    proxy:blackhole(true)
    local start = socket.gettime()
    child:kill("INT")
    local status = child:wait()
    assert.is_true(status == 1 or status == 128 + 2)
    assert.is_true(socket.gettime() - start < 60)
    proxy:blackhole(false)
  end)

  it("that interrupts a wait for a lock gets its turn", function()
    local holder = helper.client():lock(key)
    assert(holder:lock())
    local child = helper.spawn_lua(PRELUDE .. "print('ready') io.stdout:flush() lock:lock()", { KEY = key })
    assert.are.equal("ready", child:read_line())
    helper.eventually(function()
      for _, session in ipairs(consul.session.list()) do
        if session.Name == key then return true end
      end
    end)
    child:kill("INT")
    local status, _, err = child:wait()
    assert.is_true(status == 1 or status == 128 + 2)
    if status == 1 then assert.matches("interrupted!", err, 1, true) end
    assert.are.equal(holder:session(), holder_of(key))
  end)

  if _VERSION == "Lua 5.4" then
    it("that computes for 30 s without a yield keeps its lock", function()
      local child = helper.spawn_lua(LOCKED .. [[
        local id, token = lock:session(), lock:token()
        local core = require("holdfast.core")
        local finish = core.now() + 30
        while core.now() < finish do end
        print(lock:held() and lock:token() == token and lock:session() == id and "held" or "not held", id)
        assert(lock:unlock())
      ]], { KEY = key })
      assert.are.equal("locked", child:read_line())
      local id = holder_of(key)
      assert.are.equal("held\t" .. id, child:read_line())
      assert.are.equal(0, (child:wait()))
    end)
  end

  if rawget(_G, "jit") then
    it("that forks answers FORKED in the child, and keeps its lock in the parent", function()
      local status, out, err = run([[
        local ffi = require("ffi")
        ffi.cdef("int fork(void); int waitpid(int, int *, int); void _exit(int);")
      ]] .. LOCKED .. [[
        local session, writer = assert(client:session()), assert(client:rwlock("x")):write()
        local pid = ffi.C.fork()
        if pid == 0 then
          local function code(...) return (select(3, ...)) end
          print(code(session:info()), code(writer:destroy()))
          print(code(lock:unlock(0)), code(lock:lock(0)), code(client:lock("x")), code(client:close()),
            select(2, lock:held()), select(2, lock:lost()))
          lock, client = nil, nil
          collectgarbage()
          collectgarbage()
          local mine = assert(holdfast.new({ session = { name = os.getenv("KEY") } }))
          print(mine:with_lock(os.getenv("KEY") .. "/child", function() return "works" end))
          os.exit(0)
        end
        ffi.C.waitpid(pid, nil, 0)
        print(lock:held(), lock:unlock())
      ]])
      assert.are.equal("", err)
      assert.are.equal("locked\nFORKED\tFORKED\nFORKED\tFORKED\tFORKED\tFORKED\tforked\tforked\n"
        .. "works\ntrue\ttrue\n", out)
      assert.are.equal(0, status)
    end)
  end
end)
