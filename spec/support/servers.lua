--- Consul processes that a spec starts, suspends and kills: agents of their own, and members of a cluster.
--
--    local agent = helper.agent({ limits = { http_max_conns_per_client = 900 } })
--    local client = helper.client({ address = agent:address() })
--    assert.is_nil(agent:ask(consul.kv.get, key))
--
-- Each has an address of its own in 127.0.0.0/8, where it uses Consul's usual ports, and a directory under $TMPDIR. It
-- is killed when the spec's process ends, in whatever way, and by helper.finish unless it is to be kept.
-- @module spec.support.servers

local json = require("dkjson")
local socket = require("socket")
local consul = require("spec.support.consul")

local M = {}

local Server = {}
Server.__index = Server

local PATIENCE = 60
local STARTS = 5
local SILENCE = 5 -- seconds after which a server is taken not to answer
local living = {} -- those that have been made and not been removed

local function quote(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

local function shell(format, ...)
  local ok = os.execute(format:format(...))
  assert(ok == true or ok == 0, format)
end

--- Calls fn until it answers something true, and answers that. Raises after so many seconds, with what it is that did
-- not come, and what fn had to say.
function M.wait_until(fn, seconds, what)
  local limit = socket.gettime() + seconds
  while true do
    local value, why = fn()
    if value then return value end
    if socket.gettime() >= limit then
      error(("%s: not within %g s%s"):format(what, seconds, why and ": " .. tostring(why) or ""), 0)
    end
    socket.sleep(0.02)
  end
end

local function write_file(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

-- Under $TMPDIR, which with_consul removes.
local function make_directory()
  local pipe = io.popen("exec mktemp -d", "r")
  local path = assert(pipe:read("*l"))
  pipe:close()
  return path
end

--- Three numbers of 127.0.0.0/8 under which nobody has a Consul: "127.1.2". The numbers are the kernel's, because specs
-- seed Lua's random as they like.
function M.free_network()
  while true do
    local file = assert(io.open("/dev/urandom", "rb"))
    local a, b = file:read(2):byte(1, 2)
    file:close()
    local network = ("127.%d.%d"):format(a % 254 + 1, b)
    local probe = socket.tcp()
    local free = probe:bind(network .. ".1", 8500)
    probe:close()
    if free then return network end
  end
end

--- Where its HTTP API is: host:port.
function Server:address()
  return self.ip .. ":8500"
end

--- Where it speaks TLS, if its configuration says so (spec/support/certs.lua).
function Server:https()
  return "https://" .. self.ip .. ":8501"
end

--- Calls one of spec.support.consul's functions for this server: server:ask(consul.kv.get, key).
function Server:ask(fn, ...)
  return consul.at({ address = self:address(), token = self.token_, timeout = SILENCE }, fn, ...)
end

--- Whether it runs: neither killed nor suspended.
function Server:runs()
  return self.pid ~= nil and not self.suspended
end

local function signal(server, name)
  shell("kill -%s %d", name, server.pid)
end

-- The state of the process as Linux writes it: T when it is stopped.
local function state_of(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text:match("^.*%) (%a)")
end

--- Stops it (SIGSTOP). What is sent to it meanwhile it finds in its sockets when it goes on.
function Server:suspend()
  if self.suspended then return end
  signal(self, "STOP")
  M.wait_until(function() return state_of(self.pid) == "T" end, PATIENCE, "SIGSTOP")
  self.suspended = true
end

--- Lets it go on (SIGCONT).
function Server:continue()
  if not self.suspended then return end
  signal(self, "CONT")
  self.suspended = false
end

--- Kills it (SIGKILL). Its data stays.
function Server:kill()
  if not self.pid then return end
  signal(self, "KILL")
  self.pipe_:close()
  self.pid, self.pipe_, self.suspended = nil, nil, false
end

-- Starts the process, and answers at once.
function Server:launch()
  self:kill()
  local command = { "exec spec/support/spawn sh -c 'echo $$; exec \"$@\" </dev/null >>\"$0\" 2>&1'",
    quote(self.directory .. "/log"), quote(self.binary_) }
  for _, argument in ipairs(self.arguments_) do command[#command + 1] = quote(argument) end
  self.pipe_ = assert(io.popen(table.concat(command, " "), "r"))
  self.pid = assert(tonumber(self.pipe_:read("*l")), "a server did not start")
end

--- What it wrote last.
function Server:tail()
  local pipe = io.popen("tail -n 20 " .. quote(self.directory .. "/log"))
  local text = pipe:read("*a")
  pipe:close()
  return text
end

--- Whether its process has ended by itself.
function Server:ended()
  return self.pid ~= nil and state_of(self.pid) == "Z"
end

--- Whether it takes writes, and has its node's serfHealth check: then a session can be made. Nil and why not.
function Server:ready()
  local ok, why = pcall(function()
    self:ask(consul.session.destroy, self:ask(consul.session.create, { TTL = "10s", LockDelay = "0s" }))
  end)
  return ok or nil, why
end

--- Waits until it is ready.
function Server:wait_ready(seconds)
  M.wait_until(function()
    local ready, why = self:ready()
    if not ready and self:ended() then error("the server has ended:\n" .. self:tail(), 0) end
    return ready, why
  end, seconds or PATIENCE, "a Consul server at " .. self:address())
end

--- Starts it again after a kill. Does not wait until it is ready.
function Server:restart()
  self:launch()
end

--- Kills it for good, and removes its directory.
function Server:remove()
  self:kill()
  living[self] = nil
  shell("rm -rf %s", quote(self.directory))
end

--- Makes a server. Does not start it. options: { ip = of 127.0.0.0/8, node = name, arguments = { … }, config = { … of
-- Consul's configuration, over what follows from the defaults here }, token = …, keep = not killed by finish }
function M.new(options)
  local self = setmetatable({ ip = options.ip, node = options.node, token_ = options.token, keep_ = options.keep },
    Server)
  self.binary_ = os.getenv("HF_CONSUL") or error("HF_CONSUL is not set: run this under spec/support/with_consul", 2)
  self.directory = make_directory()
  local config = {
    session_ttl_min = "1s", disable_update_check = true, log_level = "warn", node_name = self.node,
    bind_addr = self.ip, client_addr = self.ip, ports = { dns = -1, serf_wan = -1, grpc = -1 },
  }
  for name, value in pairs(options.config or {}) do config[name] = value end
  write_file(self.directory .. "/config.json", json.encode(config))
  self.arguments_ = { "agent", "-config-file=" .. self.directory .. "/config.json" }
  for _, argument in ipairs(options.arguments or {}) do self.arguments_[#self.arguments_ + 1] = argument end
  living[self] = true
  return self
end

--- Starts an agent like that of with_consul, and waits until it is ready. options: { limits = { … as in Consul's
-- configuration }, config = { … any of it } or function(ip) that answers that, token = of an ACL in it, that may make
-- sessions, keep = … }
function M.agent(options)
  options = options or {}
  for try = 1, STARTS do
    local ip, config = M.free_network() .. ".1", { limits = options.limits }
    local more = options.config or {}
    for name, value in pairs(type(more) == "function" and more(ip) or more) do config[name] = value end
    local agent = M.new({ ip = ip, node = "holdfast", arguments = { "-dev" }, config = config,
      token = options.token, keep = options.keep })
    agent:launch()
    local ok, why = pcall(agent.wait_ready, agent)
    if ok then return agent end
    agent:remove()
    if try == STARTS or not tostring(why):find("address already in use", 1, true) then error(why, 2) end
  end
end

--- Whether a process is a server that outlives helper.finish.
function M.keeps(pid)
  for server in pairs(living) do
    if server.pid == pid then return server.keep_ end
  end
  return false
end

--- Removes the servers that are not to be kept, and has tidy tidy up those that are.
function M.finish(tidy)
  local all = {}
  for server in pairs(living) do all[#all + 1] = server end
  for _, server in ipairs(all) do
    if not server.keep_ then
      server:remove()
    elseif server:runs() then
      server:ask(tidy)
    end
  end
end

return M
