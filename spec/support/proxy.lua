--- Starts and steers spec/support/server.lua: a scriptable HTTP server, with an upstream a fault proxy in front of it.
--
--    local proxy = require("spec.support.proxy").new("127.0.0.1:8500")  -- without upstream: 404 unless a rule answers
--    proxy:rule({ match = "^PUT /v1/session/renew/", times = 2, status = 500, body = "no leader" })
--    assert(proxy:wait_for("^PUT /v1/session/renew/", 3, 5))
--
-- Patterns are Lua patterns over "METHOD /path?query". What a rule may say:
--
--    match      pattern of the requests it is for (none: every request)
--    first      true: goes before the rules that are there, not after them
--    skip       let so many of them by first; times: then take so many (default: all). The first rule that fits is it
--    delay      seconds before anything is done with the request (so also before it is passed on, which it is then
--               even when its client has left meanwhile, as with a server that is slow)
--    hold       true: the same as an endless delay, until proxy:release
--    status, headers, body    answer this
--    raw        answer these bytes and close; keep = true: do not close
--    (neither)  pass it on and answer what upstream answers
--    interval   send the answer byte by byte, so many seconds apart
--    action     instead of an answer: "stall" (never answer), "close", "reset" (RST), or "pass_then_stall",
--               "pass_then_close", "pass_then_reset" (upstream gets the request, its answer is swallowed), or
--               "late" (never answered; upstream gets it `delay` seconds after its client has left, without delay at
--               proxy:release; hang_up = true: the client is hung up on at once), or
--               "twice" (passed on and answered, and passed on again `delay` seconds after that, or at proxy:release)
--
-- A log entry is { id, connection, method, target, path, query, headers, body, status, outcome, copies, received,
-- answered, gone, carried }. status: what its client was told; outcome: what upstream has last said to it; copies: so
-- many are still to be passed on. The last four are times (socket.gettime); gone: the client left, or was dropped,
-- before it was answered; carried: upstream has answered it, a late copy included if it is to have one.
-- @module spec.support.proxy

local json = require("dkjson")
local socket = require("socket")

local Proxy = {}
Proxy.__index = Proxy

local RULE = {
  match = "string", first = "boolean", skip = "number", times = "number", delay = "number", status = "number",
  headers = "table", body = "string", raw = "string", keep = "boolean", interval = "number", action = "string",
  hang_up = "boolean", hold = "boolean",
}
local ACTIONS = {
  answer = true, stall = true, close = true, reset = true, pass_then_stall = true, pass_then_close = true,
  pass_then_reset = true, late = true, twice = true,
}

-- What Debian's LuaJIT compiles of dkjson's encode makes an empty object of a table now and then.
local function interpret(fn, seen)
  if seen[fn] or debug.getinfo(fn, "S").what == "C" then return end
  seen[fn] = true
  require("jit").off(fn, true)
  for i = 1, math.huge do
    local name, value = debug.getupvalue(fn, i)
    if not name then return end
    if type(value) == "function" then interpret(value, seen) end
  end
end

if rawget(_G, "jit") then interpret(json.encode, {}) end

local function call(self, name, arguments, seconds)
  local command = { ["do"] = name }
  for key, value in pairs(arguments or {}) do command[key] = value end
  self.control_:settimeout((seconds or 0) + 20)
  assert(self.control_:send(json.encode(command) .. "\n"))
  local reply = json.decode(assert(self.control_:receive("*l")))
  if not reply.ok then error("spec/support/server.lua: " .. tostring(reply.value), 3) end
  return reply.value
end

--- host:port, and the URL, where it listens.
function Proxy:address() return "127.0.0.1:" .. self.port_ end

function Proxy:url() return "http://" .. self:address() end

--- Adds a rule. Rules stay until clear.
function Proxy:rule(rule)
  for name, value in pairs(rule) do
    if type(value) ~= RULE[name] then error(("proxy rule: no option %s like that"):format(name), 2) end
  end
  if rule.action and not ACTIONS[rule.action] then error("proxy rule: no action " .. rule.action, 2) end
  call(self, "rule", rule)
end

--- Removes all rules (those at work go on).
function Proxy:clear() call(self, "clear") end

--- Empties the log and begins counting connections anew.
function Proxy:forget() call(self, "forget") end

--- The requests that match; state "answered", "gone" or "carried": only those that have come so far.
function Proxy:log(pattern, state) return call(self, "log", { pattern = pattern, state = state }) end

function Proxy:count(pattern, state) return call(self, "count", { pattern = pattern, state = state }) end

--- Blocks until n requests match (those logged before count), at most so many seconds.
-- @return them; nil and a message
function Proxy:wait_for(pattern, n, seconds, state)
  seconds = seconds or 10
  local command = { pattern = pattern, n = n or 1, seconds = seconds, state = state }
  local found = call(self, "wait_for", command, seconds)
  if #found >= (n or 1) then return found end
  return nil, ("%d of %d requests matched %s within %g s"):format(#found, n or 1, tostring(pattern), seconds)
end

--- Lets go of the requests that match which `hold` keeps, and passes on the copies which "late" and "twice" keep, now,
-- also if the client of one is still waiting. Answers how many there were; wait_for(…, "carried") waits for what comes
-- of them.
function Proxy:release(pattern) return call(self, "release", { pattern = pattern }) end

--- From now on requests go to another upstream, host:port; those on their way stay where they are.
function Proxy:upstream(address) call(self, "upstream", { address = address }) end

--- From now on upstream does not see this beginning of a path, as behind a gateway. The log does.
function Proxy:strip(prefix) call(self, "strip", { prefix = prefix }) end

--- Has the server, which has no upstream, answer as a Consul server would whatever no rule answers. See
-- spec/support/fake_state.lua.
function Proxy:pretend() call(self, "pretend") end

--- Ends a session of such a server, as its TTL would; and the sessions that hold something there, by key.
function Proxy:end_session(id) call(self, "end_session", { id = id }) end

function Proxy:holders() return call(self, "holders") end

--- { open = now, most = open at once, total = accepted }
function Proxy:connections() return call(self, "connections") end

--- Closes all connections now; with "reset" by RST.
function Proxy:drop(how) call(self, "drop", { reset = how == "reset" }) end

--- While on, nothing gets through on any connection, new or old, and nobody is told. What was sent meanwhile arrives
-- when it is switched off.
function Proxy:blackhole(on) call(self, "blackhole", { on = on }) end

--- Ends the server. Idempotent.
function Proxy:close()
  if not self.control_ then return end
  self.control_:send("{\"do\":\"exit\"}\n")
  self.control_:close()
  self.process_:close()
  self.control_ = nil
end

local M = {}

function M.new(upstream)
  local process = assert(io.popen("exec spec/support/spawn lua5.4 spec/support/server.lua " .. (upstream or ""), "r"))
  local port, control_port = (process:read("*l") or ""):match("^(%d+) (%d+)$")
  if not port then
    process:close()
    error("spec/support/server.lua did not start: is lua-cqueues installed?", 2)
  end
  local control = assert(socket.connect("127.0.0.1", tonumber(control_port)))
  control:setoption("tcp-nodelay", true)
  return setmetatable({ port_ = port, control_ = control, process_ = process }, Proxy)
end

return M
