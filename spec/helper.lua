--- What every spec leans on. A spec that makes anything calls finish after each test:
--
--    local helper = require("spec.helper")
--    after_each(helper.finish)
-- @module spec.helper

local socket = require("socket")
local consul = require("spec.support.consul")
local process = require("spec.support.process")
local proxies = require("spec.support.proxy")
local servers = require("spec.support.servers")

local M = {}

-- Limits are written for a quiet machine. None is, and a limit costs nothing where the thing happens; tools that slow
-- the program down stretch them further.
local PATIENCE = { plain = 6, valgrind = 20 }
local patience = PATIENCE[os.getenv("HF_MODE") or "plain"] or 10

local function own_pid()
  local file = assert(io.open("/proc/self/stat"))
  local pid = file:read("*n")
  file:close()
  return pid
end

-- The name of every session that is made here, and the directory of every key.
local mark = ("holdfast-spec-%d-%d"):format(own_pid(), math.floor(socket.gettime() * 1000))
local clients, proxies_made, children = {}, {}, {}
local keys_made = 0

local function remember(list, object)
  list[#list + 1] = object
  return object
end

--- A key that nobody else uses. finish deletes it and everything that begins with it.
function M.unique_key(suffix)
  keys_made = keys_made + 1
  return ("%s/%d%s"):format(mark, keys_made, suffix and "/" .. suffix or "")
end

-- In a coroutine of the loop the others go on meanwhile.
local function pause(seconds)
  local loop = package.loaded["holdfast.loop"]
  if loop and loop.running() then loop.sleep(seconds) else socket.sleep(seconds) end
end

--- Calls fn every few milliseconds until it answers something true, and answers that. An error in fn is a "not yet".
-- Raises after so many seconds (5, stretched) with the last thing that fn had to say.
function M.eventually(fn, seconds)
  seconds = (seconds or 5) * patience
  local limit = socket.gettime() + seconds
  while true do
    local ok, value, why = pcall(fn)
    if ok and value then return value, why end
    if socket.gettime() >= limit then
      local said = not ok and value or why
      error(("not within %g s%s"):format(seconds, said and ": " .. tostring(said) or ""), 2)
    end
    pause(0.005)
  end
end

--- Seconds as the limit of a wait for what is to happen. What is not to happen is not waited for with it.
function M.seconds(n)
  return n * patience
end

--- A holdfast client of the Consul agent of this run (or of options.address), closed by finish.
function M.client(options)
  local given = { address = consul.address() }
  for name, value in pairs(options or {}) do given[name] = value end
  given.session = { name = mark }
  for name, value in pairs(options and options.session or {}) do given.session[name] = value end
  return remember(clients, assert(require("holdfast").new(given)))
end

--- A proxy in front of the Consul agent (or of upstream, host:port), closed by finish. See spec/support/proxy.lua.
function M.proxy(upstream)
  return remember(proxies_made, proxies.new(upstream or consul.address()))
end

--- The same server without an upstream: it answers by its rules only.
function M.server()
  return remember(proxies_made, proxies.new())
end

--- The id of a session that holdfast has not made, destroyed by finish. options as in Consul's API.
function M.session(options)
  local given = { Name = mark }
  for name, value in pairs(options or {}) do given[name] = value end
  return consul.session.create(given)
end

--- A Consul agent of its own, killed by finish, for what the agent of this run, which has Consul's default limits, does
-- not do. options: { limits = {…}, config = {…}, token = … }; see spec/support/servers.lua.
function M.agent(options)
  return servers.agent(options)
end

--- Three Consul servers that elect a leader, killed by finish unless options.keep. See spec/support/cluster.lua.
function M.cluster(options)
  return require("spec.support.cluster").new(options)
end

--- Starts Lua code in a process of its own, ended by finish. See spec/support/process.lua.
function M.spawn_lua(code, env)
  return remember(children, process.spawn(code, env))
end

--- The same for any program: a list of its name and arguments.
function M.start(words, env)
  return remember(children, process.start(words, env))
end

--- Runs Lua code in a process of its own. Answers exit status, standard output, standard error.
function M.run_lua(code, env)
  return process.run(code, env)
end

local function each(list, fn)
  for i = #list, 1, -1 do fn(table.remove(list, i)) end
end

-- Whoever destroys the sessions first makes the keys free of them: a session may hold more than one.
local function tidy_consul()
  for _, session in ipairs(consul.session.list()) do
    if session.Name == mark then consul.session.destroy(session.ID) end
  end
  consul.kv.delete(mark .. "/", { recurse = true })
end

-- What the core still counts, as text; nil when it counts nothing.
local function leftovers()
  local found = {}
  for name, count in pairs(require("holdfast.core").counters()) do
    if count ~= 0 then found[#found + 1] = ("%s=%s"):format(name, tostring(count)) end
  end
  table.sort(found)
  return found[1] and table.concat(found, " ")
end

local function children_left()
  local own = own_pid()
  local file = io.open(("/proc/%d/task/%d/children"):format(own, own))
  if not file then return nil end -- a kernel without CONFIG_PROC_CHILDREN
  local pids = file:read("*a")
  file:close()
  local left = {}
  for pid in pids:gmatch("%d+") do
    if not servers.keeps(tonumber(pid)) then left[#left + 1] = pid end
  end
  return left[1] and table.concat(left, " ")
end

local function check_nothing_left()
  if package.loaded["holdfast.core"] then
    -- Threads end in their own time, and on 5.1 a client goes only cycles after the locks that knew it. LuaJIT's traces
    -- keep the upvalues that they were specialized for.
    if rawget(_G, "jit") then jit.flush() end
    pcall(M.eventually, function()
      collectgarbage()
      return not leftovers()
    end)
    if leftovers() then error("this test leaves behind, by core.counters(): " .. leftovers(), 0) end
  end
  local pids = children_left()
  if pids then error("this test leaves child processes behind: " .. pids, 0) end
end

local kept = {}

--- Keeps what a spec needs and has no other reference to: a lock that is collected cancels what it waits for.
function M.keep(object)
  kept[#kept + 1] = object
  return object
end

--- Ends and removes what was made here, then fails if anything of the core, or a child process, is left.
function M.finish()
  kept = {}
  each(children, function(child)
    child:kill("KILL")
    child:wait()
  end)
  each(clients, function(client) client:close() end)
  each(proxies_made, function(proxy) proxy:close() end)
  if os.getenv("CONSUL_HTTP_ADDR") then tidy_consul() end
  servers.finish(tidy_consul)
  check_nothing_left()
end

return M
