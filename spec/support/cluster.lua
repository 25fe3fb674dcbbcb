--- Three Consul servers that elect a leader, which a spec can suspend, kill and start again.
--
--    local cluster = helper.cluster({ keep = true })
--    teardown(function() cluster:remove() end)
--    after_each(function() cluster:heal() helper.finish() end)
--    …
--    cluster:leader():suspend()
--
-- A suspended server finds what was sent to it in its sockets when it goes on. To suspend servers is the only way there
-- is to cut them off from each other: network namespaces would need root, and outlive a spec that is killed.
-- @module spec.support.cluster

local consul = require("spec.support.consul")
local servers = require("spec.support.servers")

local M = {}

local Cluster = {}
Cluster.__index = Cluster

local SIZE = 3
local PATIENCE = 60

-- Election timeouts of Consul: raft_multiplier 1 is the fastest that there is, 5 is what it is shipped with.
local FAST, SHIPPED = 1, 5

-- Whether a server says itself that it is the leader. A suspended leader may be named by the others for a while.
local function leads(server)
  local ok, answered, text = pcall(server.ask, server, consul.request, "GET", "/v1/status/leader")
  return ok and answered == 200 and text:find(server.ip .. ":", 1, true) ~= nil
end

--- The server that leads now; waits for one (at most so many seconds). Servers that are suspended or killed do not.
function Cluster:leader(seconds)
  return servers.wait_until(function()
    for _, server in ipairs(self.servers) do
      if server:runs() and leads(server) then return server end
    end
  end, seconds or PATIENCE, "a leader")
end

--- The nth (1, 2) running server that does not lead.
function Cluster:follower(n)
  local leader, found = self:leader(), 0
  for _, server in ipairs(self.servers) do
    if server:runs() and server ~= leader then
      found = found + 1
      if found == (n or 1) then return server end
    end
  end
  error("no such follower", 2)
end

--- Waits until a server knows of no leader.
function M.wait_leaderless(server, seconds)
  servers.wait_until(function()
    local status, text = server:ask(consul.request, "GET", "/v1/status/leader")
    return status == 200 and not text:find("%d")
  end, seconds or PATIENCE, "no leader")
end

local function all_alive(server)
  local status, text = server:ask(consul.request, "GET", "/v1/health/state/passing")
  return status == 200 and select(2, text:gsub("\"serfHealth\"", "")) == SIZE
end

-- Whether all three are members in good health, one leads and no other believes it does, and sessions can be made at
-- each. Nil and why not.
local function healthy(cluster)
  local leaders = 0
  for _, server in ipairs(cluster.servers) do
    if server:ended() then error(server.node .. " has ended:\n" .. server:tail(), 0) end
    local ok, alive = pcall(all_alive, server)
    if not ok or not alive then return nil, server.node .. " misses others" end
    local ready, why = server:ready()
    if not ready then return nil, why end
    if leads(server) then leaders = leaders + 1 end
  end
  return leaders == 1 or nil, leaders .. " leaders"
end

--- Has suspended servers go on, starts those that were killed, and waits until all three are in good health.
function Cluster:heal()
  for _, server in ipairs(self.servers) do
    if server.suspended then server:continue() end
    if not server.pid then server:launch() end
  end
  servers.wait_until(function() return healthy(self) end, PATIENCE, "three healthy servers")
end

--- Kills all three for good.
function Cluster:remove()
  for _, server in ipairs(self.servers) do server:remove() end
end

--- Starts three servers. options: { raft_multiplier = 5 (default; 1: the fastest), keep = true: finish leaves them be,
-- and what made them removes them, config = { … more of Consul's configuration } }. The cluster has `servers`, a list
-- of what spec/support/servers.lua describes. Waits until it is in good health unless options.wait is false: then heal
-- does.
function M.new(options)
  options = options or {}
  local network = servers.free_network()
  local self = setmetatable({ servers = {} }, Cluster)
  local addresses = {}
  for n = 1, SIZE do addresses[n] = ("%s.%d"):format(network, n) end
  for n = 1, SIZE do
    local config = {
      server = true, bootstrap_expect = SIZE, retry_join = addresses, retry_interval = "100ms",
      performance = { raft_multiplier = options.raft_multiplier or SHIPPED },
      autopilot = { cleanup_dead_servers = false }, -- one that is restarted is to find itself as it was
    }
    for name, value in pairs(options.config or {}) do config[name] = value end
    local server = servers.new({ ip = addresses[n], node = "server-" .. n, config = config, keep = options.keep })
    server.arguments_[#server.arguments_ + 1] = "-data-dir=" .. server.directory .. "/data"
    self.servers[n] = server
    server:launch()
  end
  if options.wait ~= false then self:heal() end
  return self
end

M.FAST, M.SHIPPED = FAST, SHIPPED

return M
