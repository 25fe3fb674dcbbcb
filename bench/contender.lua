--- Contenders: processes that do something so many times when they are told to.
--
-- The protocol: a command is a line of words, the answer a line of JSON. Every answer has now and cpu_now, in seconds
-- of the clock that all processes share and of the process's CPU (user and system), and the same of this command
-- alone in seconds and cpu; or error. The commands are functions in holdfast.lua, raw/ and go/main.go. A contender ends
-- when its standard input does.
-- @module bench.contender

local json = require("dkjson")

local Contender = {}
Contender.__index = Contender

local M = {}

local made = 0

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- Starts one. It has 1024 descriptors, like most processes, and is killed after so many seconds, and with this
-- process.
-- @param name how it is called when something goes wrong
-- @param command for the shell
-- @param limit seconds
function M.start(name, command, limit)
  made = made + 1
  local fifo = ("%s/bench-%d"):format(os.getenv("TMPDIR") or "/tmp", made)
  assert(os.execute("mkfifo " .. fifo))
  local inner = quote("echo $$; exec " .. command)
  local output = assert(io.popen(("ulimit -n 1024; exec spec/support/spawn timeout --foreground -k 5 %d "
    .. "setpriv --pdeathsig KILL sh -c %s <%s"):format(limit, inner, fifo)))
  local input = assert(io.open(fifo, "w"))
  os.remove(fifo)
  return setmetatable({ name = name, input_ = input, output_ = output, pid = output:read("n", "L") }, Contender)
end

function Contender:send(...)
  self.input_:write(table.concat({ ... }, " "), "\n")
  self.input_:flush()
end

--- The next answer. Raises what it has as an error.
function Contender:read()
  local line = self.output_:read("L")
  local answer = line and json.decode(line)
  if not answer then error(("%s has ended; it said: %s"):format(self.name, line or "nothing"), 0) end
  if answer.error then error(("%s: %s"):format(self.name, answer.error), 0) end
  return answer
end

function Contender:ask(...)
  self:send(...)
  return self:read()
end

--- Tells it that there is nothing more to do; it ends meanwhile.
function Contender:leave()
  self.input_:close()
end

--- Waits for its end.
function Contender:stop()
  if io.type(self.input_) == "file" then self.input_:close() end
  self.output_:read("a")
  self.output_:close()
end

--- Ends it whatever it does, unless it has been waited for.
function Contender:kill()
  if io.type(self.output_) == "file" then
    os.execute(("kill -KILL %d 2>/dev/null"):format(self.pid))
    self:stop()
  end
end

--- Resident memory in bytes.
function Contender:memory()
  for line in io.lines(("/proc/%d/status"):format(self.pid)) do
    local kilobytes = line:match("^VmRSS:%s*(%d+) kB")
    if kilobytes then return kilobytes * 1024 end
  end
end

--- How many connections it has to a port.
function Contender:connections(port)
  local sockets, count = {}, 0
  local list = assert(io.popen(("ls -l /proc/%d/fd 2>/dev/null"):format(self.pid)))
  for line in list:lines() do
    local inode = line:match("socket:%[(%d+)%]")
    if inode then sockets[inode] = true end
  end
  list:close()
  for line in io.lines("/proc/net/tcp") do
    local remote, inode = line:match("^%s*%d+: %x+:%x+ %x+:(%x+) 01 %S+ %S+ %S+%s+%d+%s+%d+ (%d+)")
    if remote and tonumber(remote, 16) == port and sockets[inode] then count = count + 1 end
  end
  return count
end

return M
