--- Calls to the agent that a client talks to: checks and services of its node: `client.agent`.
--
-- A read takes the options of client.kv's reads where it takes any, a write `token` and `timeout` and their like. All
-- answer nil, message, code when they fail.
-- @module holdfast.agent

local call = require("holdfast.call")
local check = require("holdfast.check")
local duration = require("holdfast.duration")
local endpoints = require("holdfast.endpoints")
local object = require("holdfast.object")

require("holdfast.interpreted")()

local ask, NAME = endpoints.ask, endpoints.NAME

local Agent = {}

-- ---- definitions ---------------------------------------------------------------------------------------------------

local TIME = { "duration", positive = true }
local STATES = { "critical", "passing", "warning" }

local CHECK = {
  id = NAME, name = "text", http = "text", tcp = "text", ttl = TIME, grpc = "text", args = "list", interval = TIME,
  timeout = TIME, deregister_after = TIME, notes = "string", status = { "string", one_of = STATES }, method = "text",
  headers = { "headers", numbers = true }, body = "string", tls_skip_verify = "boolean", service_id = "text",
  success_before_passing = "count", failures_before_critical = "count",
}
local SERVICE = {
  id = NAME, name = { "string", form = NAME.form, required = true }, address = "text", port = { "count", most = 65535 },
  tags = "list", meta = { "headers", what = "a table" }, enable_tag_override = "boolean", check = "table",
  checks = "table",
}

-- What Consul calls them. Of these kinds a check has one.
local KINDS = { http = "HTTP", tcp = "TCP", ttl = "TTL", grpc = "GRPC", args = "Args" }
local NAMES = {
  id = "ID", name = "Name", interval = "Interval", timeout = "Timeout", notes = "Notes", status = "Status",
  deregister_after = "DeregisterCriticalServiceAfter", method = "Method", body = "Body",
  tls_skip_verify = "TLSSkipVerify", service_id = "ServiceID", success_before_passing = "SuccessBeforePassing",
  failures_before_critical = "FailuresBeforeCritical", address = "Address", port = "Port", tags = "Tags", meta = "Meta",
  enable_tag_override = "EnableTagOverride",
}
for name, theirs in pairs(KINDS) do NAMES[name] = theirs end
local DURATIONS = { ttl = true, interval = true, timeout = true, deregister_after = true }

local function kind_of(given, label)
  local kinds = {}
  for name in pairs(KINDS) do
    if given[name] ~= nil then kinds[#kinds + 1] = name end
  end
  if #kinds ~= 1 then check.mistake("%s has one of args, grpc, http, tcp and ttl", label) end
  return kinds[1]
end

local function translate(given)
  local theirs = {}
  for name, value in pairs(given) do
    if NAMES[name] then theirs[NAMES[name]] = DURATIONS[name] and duration.format(value) or value end
  end
  return theirs
end

-- A check as Consul wants it; one of a service needs no name.
local function check_of(given, label, nameless)
  given = check.read(given, { fields = CHECK }, label)
  if not nameless and not (given.id or given.name) then check.mistake("%s has neither id nor name", label) end
  if kind_of(given, label) ~= "ttl" and not given.interval then check.mistake("%s has no interval", label) end
  local theirs = translate(given)
  theirs.Name = given.name or (not nameless and given.id) or nil
  if nameless then theirs.ID, theirs.CheckID = nil, given.id end
  for name, value in pairs(given.headers or {}) do
    theirs.Header = theirs.Header or {}
    theirs.Header[name] = { value }
  end
  return theirs
end

local function read_check(given) return check_of(given, "the check") end

local function read_service(given)
  given = check.read(given, { fields = SERVICE }, "the service")
  local theirs = translate(given)
  if given.check then theirs.Check = check_of(given.check, "check", true) end
  for i, one in ipairs(given.checks or {}) do
    theirs.Checks = theirs.Checks or {}
    theirs.Checks[i] = check_of(one, ("checks[%d]"):format(i), true)
  end
  if given.tags and not given.tags[1] then theirs.Tags = nil end -- an empty table would be an object
  return theirs
end

local WRITE = { "opts", call.with(call.WRITE, {}), optional = true }

local arguments = {
  register_check = check.arguments("agent:register_check: ", { "check", { read_check } }, WRITE),
  register_service = check.arguments("agent:register_service: ", { "service", { read_service } }, WRITE),
  checks = check.arguments("agent:checks: ", { "opts", call.with(call.WRITE, { filter = "text" }), optional = true }),
  members = check.arguments("agent:members: ", { "opts", call.with(call.WRITE, { wan = "boolean" }), optional = true }),
  self = check.arguments("agent:self: ", WRITE),
  wait_check = check.arguments("agent:wait_check: ", { "id", NAME },
    { "status", { "string", one_of = STATES, default = "passing" } }, { "timeout", "duration", optional = true }),
}
for _, method in ipairs({ "deregister_check", "deregister_service" }) do
  arguments[method] = check.arguments(("agent:%s: "):format(method), { "id", NAME }, WRITE)
end
for _, method in ipairs({ "pass", "warn", "fail" }) do
  arguments[method] = check.arguments(("agent:%s: "):format(method), { "id", NAME },
    { "note", "string", optional = true }, WRITE)
end

-- ---- checks --------------------------------------------------------------------------------------------------------

-- A method that hands in a definition.
local function registrar(name, path, what)
  return function(agent, definition, opts)
    local given, message, code = arguments[name](2, definition, opts)
    if not given then return nil, message, code end
    local ok
    ok, message, code = ask(agent, "PUT", path, given.opts, nil, given[what])
    if not ok then return nil, message, code end
    return true
  end
end

--- Registers a check. What the agent knows reaches the catalog, and so sessions, a little later: see wait_check.
-- @function agent:register_check
-- @tparam table definition `{ id=, name=, ... }`, one of which may be left out, and one of `http` (a URL that must
-- answer 2xx), `tcp` (host:port), `ttl` (a duration in which somebody must say pass), `grpc` and `args`; all but `ttl`
-- have an `interval`. Also `timeout`, `deregister_after`, `status` (critical until it is known otherwise), `notes`,
-- `method`, `headers`, `body`, `tls_skip_verify`, `service_id`, `success_before_passing`, `failures_before_critical`
-- @tparam[opt] table opts of a write
-- @treturn true|nil
Agent.register_check = registrar("register_check", "/v1/agent/check/register", "check")

-- A method that takes something away. What is not there is gone; since 1.14 Consul says so by 404.
local function remover(name, path)
  return function(agent, id, opts)
    local given, message, code = arguments[name](2, id, opts)
    if not given then return nil, message, code end
    local ok
    ok, message, code = ask(agent, "PUT", path .. call.escape(given.id), given.opts)
    if not ok and code ~= "NOT_FOUND" then return nil, message, code end
    return true
  end
end

local function report(name)
  return function(agent, id, note, opts)
    local given, message, code = arguments[name](2, id, note, opts)
    if not given then return nil, message, code end
    local ok
    local path = ("/v1/agent/check/%s/%s"):format(name, call.escape(given.id))
    ok, message, code = ask(agent, "PUT", path, given.opts, { note = given.note })
    if not ok and message:find("does not have associated TTL", 1, true) then code = "NOT_FOUND" end -- 500 before 1.14
    if not ok then return nil, message, code end
    return true
  end
end

--- Takes a check away; true also when there is none.
-- @function agent:deregister_check
-- @string id
-- @tparam[opt] table opts of a write
Agent.deregister_check = remover("deregister_check", "/v1/agent/check/deregister/")

--- Says that a TTL check passes, for its TTL from now on.
-- @function agent:pass
-- @string id
-- @string[opt] note what a person who looks at it finds
-- @tparam[opt] table opts of a write
-- @treturn true|nil true; nil, message, code: NOT_FOUND when there is no TTL check of that id
Agent.pass = report("pass")
--- Says that it is not quite well.
-- @function agent:warn
Agent.warn = report("warn")
--- Says that it is critical: sessions that it is a check of end.
-- @function agent:fail
Agent.fail = report("fail")

--- The checks of this agent.
-- @function agent:checks
-- @tparam[opt] table opts `filter`, and those of a write
-- @treturn table|nil from id to the check as Consul has it: `{ CheckID, Name, Status, Output, Notes, ServiceID, ... }`
function Agent:checks(opts)
  local given, message, code = arguments.checks(2, opts)
  if not given then return nil, message, code end
  local value, index, meta, more = ask(self, "GET", "/v1/agent/checks", given.opts)
  return value, index, meta, more
end

-- ---- waiting for a check -------------------------------------------------------------------------------------------

local POLL = 60 -- seconds
local PAUSE, PAUSE_MOST = 0.2, 2 -- after trouble, and when the server tells no index

-- The node of the agent does not change.
local function node_of(agent)
  local facts = object.facts(agent.client_)
  if facts.node then return facts.node end
  local settings = call.prepare(call.request("GET", "/v1/agent/self", {}), 1)
  local value, message, code, meta = call.send(agent.client_, settings)
  if not value then return nil, message, code, meta end
  facts.node = value.Config.NodeName
  return facts.node
end

-- What is known of the check in the catalog, where sessions look.
local function look(agent, id, index, left)
  local node, message, code, meta = node_of(agent)
  if not node then return nil, message, code, meta end
  local opts = { index = index, wait = left and math.min(left, POLL), timeout = left }
  local settings = call.prepare(call.request("GET", "/v1/health/node/" .. call.escape(node), opts), 1)
  local checks, next_index
  checks, next_index, code, meta = call.send(agent.client_, settings)
  if not checks then return nil, next_index, code, meta end
  for _, one in ipairs(checks) do
    if one.CheckID == id then return one.Status, next_index end
  end
  return "not there", next_index
end

local function passing_trouble(code, meta)
  local status = code == "HTTP" and meta and meta.status or 0
  return code == "CONNECT" or code == "TIMEOUT" or status == 429 or status >= 500
end

local function wait_for(agent, id, wanted, seconds)
  local scheduler = object.scheduler(agent.client_)
  local deadline = seconds and scheduler.now() + seconds
  local pause = PAUSE
  local index, seen
  while true do
    local left = deadline and deadline - scheduler.now()
    if left and left <= 0 then left = nil end
    local status, next_index, code, meta = look(agent, id, index, left)
    if status == wanted then return true end
    if not status and not passing_trouble(code, meta) then return nil, next_index, code end
    if status then
      seen, index, pause = status, next_index, PAUSE
    else
      seen, index = code == "TIMEOUT" and seen or next_index, nil
    end
    left = deadline and deadline - scheduler.now()
    if left and left <= 0 then return nil, ("check %q is not %s: %s"):format(id, wanted, seen), "TIMEOUT" end
    if not index or index == 0 then
      scheduler.sleep(left and math.min(left, pause) or pause)
      pause = math.min(pause * 2, PAUSE_MOST)
    end
  end
end

--- Waits until a check of this agent's node has a status, in the catalog: then a session can be made with it. Passing
-- trouble is waited out.
-- @function agent:wait_check
-- @string id
-- @string[opt="passing"] status or warning, critical
-- @param[opt] timeout nil waits as long as it takes, 0 looks once
-- @treturn true|nil true; nil, message, code: TIMEOUT says what it is instead, or what the trouble was
function Agent:wait_check(id, status, timeout)
  local given, message, code = arguments.wait_check(2, id, status, timeout)
  if not given then return nil, message, code end
  return wait_for(self, given.id, given.status, given.timeout)
end

-- ---- services, and the agent itself --------------------------------------------------------------------------------

--- Registers a service.
-- @function agent:register_service
-- @tparam table definition `{ name=, id=, address=, port=, tags={}, meta={}, check={}, checks={ {} },
-- enable_tag_override= }`; a check is as for register_check, without a name if it needs none
-- @tparam[opt] table opts of a write
-- @treturn true|nil
Agent.register_service = registrar("register_service", "/v1/agent/service/register", "service")

--- Takes a service and its checks away; true also when there is none.
-- @function agent:deregister_service
-- @string id
-- @tparam[opt] table opts of a write
Agent.deregister_service = remover("deregister_service", "/v1/agent/service/deregister/")

--- What the agent is, as Consul has it: `{ Config = { NodeName, Datacenter, ... }, Member, ... }`.
-- @function agent:self
-- @tparam[opt] table opts of a write
-- @treturn table|nil
function Agent:self(opts)
  local given, message, code = arguments.self(2, opts)
  if not given then return nil, message, code end
  local value, index, meta, more = ask(self, "GET", "/v1/agent/self", given.opts)
  return value, index, meta, more
end

--- The agents that this one knows of, as Consul has them.
-- @function agent:members
-- @tparam[opt] table opts `wan`, and those of a write
-- @treturn table|nil a list
function Agent:members(opts)
  local given, message, code = arguments.members(2, opts)
  if not given then return nil, message, code end
  local value, index, meta, more = ask(self, "GET", "/v1/agent/members", given.opts)
  return value, index, meta, more
end

return { new = endpoints.facet("holdfast.agent", Agent) }
