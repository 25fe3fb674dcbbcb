-- The end of a process while others of its threads run Lua states of their own, and a fork that the process id does not
-- show.
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local THREADS, RUNS = 4, 30

-- Each thread makes clients, locks and unlocks with them as fast as it can, and reports its first hold; the main one
-- ends in the middle of that.
local THREADED = [[
local thread = require("cqueues.thread")
local body = function(con, i, key)
  local holdfast = require("holdfast")
  local clients, n, said = {}, 0, false
  while true do
    local client = assert(holdfast.new({ session = { name = key, lock_delay = 0 } }))
    n = n + 1
    clients[n % 4] = client
    local lock = client:lock(key .. "/" .. i)
    if lock and lock:lock(1) and not said then
      said = con:write("locked\n") and con:flush()
    end
    if lock then lock:unlock(1) end
  end
end
local cons = {}
for i = 1, tonumber(os.getenv("THREADS")) do
  local _, con = assert(thread.start(body, tostring(i), os.getenv("KEY")))
  cons[i] = con
end
for _, con in ipairs(cons) do assert(con:read("*l") == "locked") end
os.exit(7)
]]

-- Whoever is not cannot make a namespace of process ids.
local function is_root()
  local pipe = io.popen("id -u")
  local id = pipe:read("*l")
  pipe:close()
  return id == "0"
end

-- Ends what a child has left because it ended in the middle of something.
local function clear(name)
  for _, session in ipairs(consul.session.list()) do
    if session.Name == name then consul.session.destroy(session.ID) end
  end
end

describe("a process", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(function()
    clear(key)
    helper.finish()
  end)

  if pcall(require, "cqueues.thread") then
    it("ends as it says when one thread exits while others run Lua states with locks", function()
      for run = 1, RUNS do
        local status, _, err = helper.run_lua(THREADED, { KEY = key, THREADS = THREADS })
        assert.are.same({ run, 7, "" }, { run, status, err })
      end
    end)
  end

  if rawget(_G, "jit") and is_root() then
    -- As in a container whose first process starts another one: both have the process id 1.
    it("knows a child of fork that has the same process id", function()
      local code = ([[
        local ffi = require("ffi")
        ffi.cdef("int fork(void); int waitpid(int, int *, int); int getpid(void); int unshare(int); void _exit(int);")
        local NEW_PID = 0x20000000
        local holdfast = require("holdfast")
        local client = assert(holdfast.new({ session = { name = KEY } }))
        local lock = assert(client:lock(KEY))
        assert(lock:lock(10))
        local mine = ffi.C.getpid()
        assert(ffi.C.unshare(NEW_PID) == 0)
        local child = ffi.C.fork()
        if child == 0 then
          local function code(...) return (select(3, ...)) end
          print(ffi.C.getpid() == mine, select(2, lock:held()))
          io.stdout:flush()
          if lock:held() then ffi.C._exit(1) end -- or it would wait for a thread that there is not
          print(code(lock:unlock(0)), code(lock:lock(0)), code(client:lock("x")))
          os.exit(0)
        end
        ffi.C.waitpid(child, nil, 0)
        print(lock:held(), lock:unlock())
      ]]):gsub("KEY", ("%q"):format(key))
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      file:write(code)
      file:close()
      local status, out, err = helper.run_lua([[
        local status = os.execute("exec unshare -pf --kill-child --mount-proc \"$HF_LUA\" \"$SCRIPT\"")
        os.exit(status == 0 or status == true)
      ]], { SCRIPT = path })
      os.remove(path)
      assert.are.equal("", err)
      assert.are.equal("true\tforked\nFORKED\tFORKED\tFORKED\ntrue\ttrue\n", out)
      assert.are.equal(0, status)
    end)
  end
end)
