-- What an op has is given back as soon as its result is read. A descriptor is a userdata of a few bytes to the
-- collector, which does not hurry for it, and may be off.
local agent = require("spec.support.agent")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

-- Begins with at most LIMIT descriptors and no collector.
local POOR = [[
local LIMIT = 64
local stat = assert(io.open("/proc/self/stat"))
local pid = stat:read("*n")
stat:close()
os.execute(("prlimit --nofile=%d:%d --pid %d"):format(LIMIT, LIMIT, pid))
collectgarbage("stop")
local holdfast = require("holdfast")
local loop = require("holdfast.loop")
local client = assert(holdfast.new({ scheduler = os.getenv("SCHEDULER") }))
local function run(fn)
  if os.getenv("SCHEDULER") == "loop" then loop.run(fn) else fn() end
end
]]

describe("a process with 64 descriptors whose collector is off", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  local function expect(said, code, env)
    env.KEY = key
    local status, out, err = helper.run_lua(POOR .. code, env)
    assert.are.same({ said .. "\n", "", 0 }, { out, err, status })
  end

  for _, scheduler in ipairs({ "plain", "loop" }) do
    it(("locks and unlocks 2000 times (%s)"):format(scheduler), function()
      expect("2000", [[
        local lock = assert(client:lock(os.getenv("KEY")))
        local n = 0
        run(function()
          for _ = 1, 2000 do
            assert(lock:lock(10))
            assert(lock:unlock(10))
            n = n + 1
          end
        end)
        print(n)
        client:close()
      ]], { SCHEDULER = scheduler })
    end)

    it(("locks 200 objects in vain, and cancels 200 acquires (%s)"):format(scheduler), function()
      agent.occupy(key)
      expect("TIMEOUT 200 CANCELED 200", [[
        local counts = {}
        run(function()
          for _ = 1, 200 do
            local _, _, code = client:lock(os.getenv("KEY")):lock(0)
            counts[code] = (counts[code] or 0) + 1
            local lock = client:lock(os.getenv("KEY"))
            local op = assert(lock:start_lock())
            op:pollfd()
            op:cancel()
            assert(op:wait(5))
            _, _, code = op:result()
            counts[code] = (counts[code] or 0) + 1
          end
        end)
        print(("TIMEOUT %d CANCELED %d"):format(counts.TIMEOUT or 0, counts.CANCELED or 0))
        client:close()
      ]], { SCHEDULER = scheduler })
    end)

    it(("makes 200 requests, guarded and not (%s)"):format(scheduler), function()
      local server = helper.server()
      server:rule({ status = 200, body = "ok" })
      expect("200", [[
        local lock = assert(client:lock(os.getenv("KEY")))
        local n = 0
        run(function()
          assert(lock:lock(10))
          for _ = 1, 100 do
            for _, object in ipairs({ client, lock }) do
              assert(object:request({ url = os.getenv("URL") }).body == "ok")
              n = n + 1
            end
          end
          assert(lock:unlock(10))
        end)
        print(n)
        client:close()
      ]], { SCHEDULER = scheduler, URL = server:url() })
    end)
  end
end)

describe("what waits", function()
  after_each(helper.finish)

  it("is kept alive by the wait: a lock that nothing else refers to is not canceled by the collector", function()
    local client = helper.client({ scheduler = "loop" })
    local key = helper.unique_key()
    local session = agent.occupy(key)
    local ok, message, code, done
    local function wait() return client:lock(key):lock(helper.seconds(10)) end -- the tail call is the point
    loop.run(function()
      loop.spawn(function()
        ok, message, code = wait()
        done = true
      end)
      for _ = 1, 20 do
        loop.sleep(0.01)
        collectgarbage()
        collectgarbage()
      end
      if not done then agent.vacate(key, session) end
    end)
    assert.are.same({ true }, { ok, message, code })
  end)

  it("is kept alive by the wait: the lock of a guarded request", function()
    local client = helper.client({ scheduler = "loop" })
    local server = helper.server()
    server:rule({ status = 200, body = "ok", delay = 0.1 })
    local key = helper.unique_key()
    local results = {}
    loop.run(function()
      for i = 1, 5 do
        loop.spawn(function()
          local lock = assert(client:lock(key .. "/" .. i))
          assert(lock:lock(helper.seconds(10)))
          results[i] = (function() return lock:request({ url = server:url() }) end)().body
        end)
      end
      for _ = 1, 10 do
        loop.sleep(0.01)
        collectgarbage()
      end
    end)
    assert.are.same({ "ok", "ok", "ok", "ok", "ok" }, results)
  end)
end)
