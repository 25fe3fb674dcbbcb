--- Runs Lua code in a process of its own, by the interpreter that the spec itself runs in.
--
--    local status, out, err = process.run("print(1)")
--    local child = process.spawn("print('ready') while true do end", { NAME = "value" })
--    assert.are.equal("ready", child:read_line())
--    child:kill("KILL")
--    assert.are.equal(128 + 9, child:wait())
--
-- A child is killed after three minutes (ten under valgrind), and when the spec's process ends.
-- @module spec.support.process

local M = {}

local Process = {}
Process.__index = Process

local LIMIT, VALGRIND = 180, 600

local function quote(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

--- What a command of the shell prints, its complaints included.
function M.output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("*a")
  pipe:close()
  return text
end

-- .ci/lua when spec/run started us, else whatever busted was started with.
local function interpreter()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return os.getenv("HF_LUA") or arg[first]
end

local function environment(extra)
  local unset, set = {}, {}
  for name, value in pairs(extra or {}) do
    if value then set[#set + 1] = name .. "=" .. quote(value) else unset[#unset + 1] = "-u " .. name end
  end
  return table.concat(unset, " ") .. " LUA_PATH=" .. quote(package.path) .. " LUA_CPATH=" .. quote(package.cpath)
    .. " " .. table.concat(set, " ")
end

local function take_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  os.remove(path)
  return text
end

--- Starts a program with arguments. env adds variables; false takes one away.
-- @return process: pid, read_line, kill, wait
function M.start(words, env)
  local command = {}
  for i, word in ipairs(words) do command[i] = quote(word) end
  local limit = os.getenv("HF_MODE") == "valgrind" and VALGRIND or LIMIT
  local errors = os.tmpname()
  local pipe = assert(io.popen(("exec spec/support/spawn spec/support/child %d %s env %s %s"):format(
    limit, errors, environment(env), table.concat(command, " ")), "r"))
  return setmetatable({ pipe_ = pipe, pid = tonumber(pipe:read("*l")), errors_ = errors }, Process)
end

--- The next line of its standard output; nil when it has ended.
function Process:read_line()
  local line = not self.status and self.pipe_:read("*l")
  if not line then return nil end
  local last, status = line:match("^(.*)\1exit (%d+)$")
  if not status then return line end
  self.status = tonumber(status)
  return last ~= "" and last or nil
end

--- Sends a signal, "TERM" by default.
function Process:kill(signal)
  if not self.status then os.execute(("kill -%s %d 2>/dev/null"):format(signal or "TERM", self.pid)) end
end

--- Waits for its end.
-- @return exit status (128 + number of the signal that killed it; 124: it took too long), the rest of its standard
-- output, and what it wrote to standard error
function Process:wait()
  local lines = {}
  for line in function() return self:read_line() end do lines[#lines + 1] = line .. "\n" end
  if self.pipe_ then
    self.pipe_:close()
    self.pipe_ = nil
    self.errors = take_file(self.errors_)
  end
  return self.status, table.concat(lines), self.errors
end

--- The same for the interpreter, on code.
function M.spawn(code, env)
  return M.start({ interpreter(), "-e", code }, env)
end

--- Runs code to its end. Answers what wait answers.
function M.run(code, env)
  return M.spawn(code, env):wait()
end

return M
