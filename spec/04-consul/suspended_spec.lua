-- A process that is stopped in the middle of a guarded request, and goes on when its lease is long over: nothing of the
-- request leaves then.
local core = require("holdfast.core")
local helper = require("spec.helper")
local socket = require("socket")

local LEASE = 5 -- seconds that it is shorter than
local PUSH = [[
local holdfast = require("holdfast")
local client = assert(holdfast.new({ session = { name = os.getenv("KEY"), ttl = "10s", lock_delay = "5s" } }))
local lock = assert(client:lock(os.getenv("KEY")))
assert(lock:lock(30))
local url = os.getenv("URL")
local response, message, code = lock:request({ method = "POST", url = url, body = "message", timeout = 60 })
print(response and response.status or code)
]]

describe("a guarded request of a process that is stopped", function()
  local listener, fillers, port, child
  before_each(function()
    fillers = {}
    listener = assert(socket.tcp())
    assert(listener:bind("127.0.0.1", 0))
    assert(listener:listen(0))
    listener:settimeout(helper.seconds(10))
    port = select(2, listener:getsockname())
  end)
  after_each(function()
    for _, filler in ipairs(fillers) do filler:close() end
    listener:close()
    listener, child = nil, nil
    helper.finish()
  end)

  local function start()
    child = helper.spawn_lua(PUSH, { KEY = helper.unique_key(), URL = ("http://127.0.0.1:%s/hook"):format(port) })
  end

  -- Whether somebody's connection to the listener is on its way: SYN_SENT, which is 02 to the kernel.
  local function connecting()
    local wanted = ("^ *%%d+: %%x+:%%x+ %%x+:%04X 02 "):format(port)
    for line in io.lines("/proc/net/tcp") do
      if line:find(wanted) then return true end
    end
    return false
  end

  local function stopped()
    local file = assert(io.open(("/proc/%d/stat"):format(child.pid)))
    local text = file:read("*a")
    file:close()
    return text:find("^.*%) T")
  end

  -- Takes up the listener's backlog, so that the next one to connect has to wait.
  local function fill()
    for i = 1, 8 do
      local filler = assert(socket.tcp())
      filler:settimeout(0.05)
      filler:connect("127.0.0.1", port)
      fillers[i] = filler
      if connecting() then return end
    end
    error("the backlog of the listener does not fill")
  end

  -- The bytes of the next connection that is not one of the fillers'.
  local function next_request()
    local own = {}
    for _, filler in ipairs(fillers) do
      local _, from = filler:getsockname()
      own[tonumber(from) or 0] = true
    end
    repeat
      local con = assert(listener:accept())
      local _, from = con:getpeername()
      if not own[tonumber(from)] then
        con:settimeout(helper.seconds(10))
        return con
      end
      con:close()
    until false
  end

  it("does not leave when it was connecting, and the lease has ended meanwhile (behaviour 70)", function()
    fill()
    table.remove(fillers):close() -- the one that is on its way itself
    helper.eventually(function() return not connecting() end)
    start()
    helper.eventually(connecting)
    child:kill("STOP")
    helper.eventually(stopped)
    local over = core.now() + LEASE -- whenever it was renewed last
    local con = next_request()
    helper.eventually(function() return core.now() > over end, 10)
    child:kill("CONT")
    local bytes, _, partial = con:receive("*a")
    con:close()
    assert.are.equal("", bytes or partial)
    assert.are.equal("LOST", child:read_line())
  end)
end)
