--- `holdfast doctor`: tries what a lock needs, and says what to do about what does not work. Private.
-- @module holdfast.cli.doctor

local connect = require("holdfast.cli.connect")
local core = require("holdfast.core")
local exits = require("holdfast.cli.exits")
local print = require("holdfast.cli.print")

local PATIENCE = 10 -- seconds, of one step of the probe
local SKEW = 5 -- seconds
local CONNECTIONS = 40 -- that a client has at most: docs/consul.md, Connections
local DELAY_LEAST, DELAY_MOST = 1, 60 -- seconds: docs/consul.md, Leases

-- Each check answers its status (ok, warn, fail), what it has seen, and what to do about it.
local CHECKS = {}

local function check(name, run)
  CHECKS[#CHECKS + 1] = { name = name, run = run }
end

-- ---- the agent -----------------------------------------------------------------------------------------------------

local ADVICE = {
  CONNECT = "start an agent there, or say where it is: --address, CONSUL_HTTP_ADDR",
  TLS = "--ca-file, --server-name, --cert-file and --key-file say whom to trust and who we are",
  DENIED = "give the token these rights: docs/acl.md of holdfast has the smallest policy",
  TIMEOUT = "look whether the servers have a leader, and what they are busy with",
}

local function advice_for(code)
  return ADVICE[code] or "look into the log of Consul's agent"
end

check("agent", function(run)
  local self, message, code, meta = run.client:call({ path = "/v1/agent/self" })
  if self then
    run.self, meta = self, code
  elseif code ~= "DENIED" then
    run.unreachable = true
    return "fail", message, advice_for(code)
  end
  run.date = meta.headers.date
  if not self then return "warn", message, "locks do not need it; with agent:read the doctor sees more" end
  return "ok", ("Consul %s on %s, datacenter %s"):format(self.Config.Version, self.Config.NodeName,
    self.Config.Datacenter)
end)

check("leader", function(run)
  local leader, message, code = run.client:call({ path = "/v1/status/leader" })
  if not leader then return "fail", message, advice_for(code) end
  if leader == "" then return "fail", "there is none", "look into the logs of Consul's servers: they must elect one" end
  return "ok", leader
end)

-- ---- settings ------------------------------------------------------------------------------------------------------

-- Consul says what is too short: "must be between [10s=24h0m0s]" (consul.md 3.1).
check("TTL", function(run)
  local ttl = run.options.ttl
  local made, message, code = run.client:call({ path = "/v1/session/create", method = "PUT",
    body = { Name = "holdfast doctor", TTL = "1ms" } })
  if made then
    run.client:call({ path = "/v1/session/destroy/" .. made.ID, method = "PUT" })
    return "ok", "Consul takes any"
  end
  local least = message:match("must be between %[([^=%]]+)=")
  if not least then return "fail", message, advice_for(code) end
  least = require("holdfast.duration").parse(least)
  if ttl < least then
    return "fail", ("Consul takes %gs at least, and %gs is asked for"):format(least, ttl),
      "give a longer TTL, or set session_ttl_min of Consul's servers"
  end
  return "ok", ("Consul takes %gs at least"):format(least)
end)

check("lock-delay", function(run)
  local ttl, delay = run.options.ttl, run.options.lock_delay or math.max(25, run.options.ttl)
  if delay < DELAY_LEAST then
    return "warn", ("%gs: the lock of a holder that has died is free at once"):format(delay),
      "with 1s or more, a holder that lives knows of its loss before the next one begins, however it came"
  elseif delay > DELAY_MOST then
    return "warn", ("%gs: Consul keeps a lock for 60s at most"):format(delay), "give 60s or less"
  end
  return "ok", ("%gs: a holder without contact goes on almost so long, a dead one keeps its lock for %gs at most")
    :format(delay, 2 * ttl + delay)
end)

-- ---- a lock --------------------------------------------------------------------------------------------------------

check("lock", function(run)
  local chance = core.random(8):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  local lock, held, message, code
  lock, message = run.client:lock(run.options.prefix:match("^(.-)/*$") .. "/" .. chance)
  if not lock then return "fail", message, "give another --prefix" end
  local began = core.now()
  held, message, code = lock:lock(PATIENCE)
  if not held then return "fail", message, advice_for(code) end
  local taken = core.now()
  for _, step in ipairs({ "unlock", "destroy" }) do
    held, message, code = lock[step](lock, PATIENCE)
    if not held then return "fail", message, advice_for(code) end
  end
  return "ok", ("taken in %.0f ms, with its session; given back in %.0f ms"):format((taken - began) * 1000,
    (core.now() - taken) * 1000)
end)

-- ---- around it -----------------------------------------------------------------------------------------------------

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }

-- Seconds since 1970 of an IMF-fixdate (RFC 9110, section 5.6.7), nil for anything else.
local function read_date(text)
  local day, month, year, hour, minute, second = (text or ""):match(
    "^%a+, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$")
  month = MONTHS[month]
  if not month then return nil end
  local y = month > 2 and year or year - 1 -- years begin in March, leap days end them
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400)
    + math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 719469
  return ((days * 24 + hour) * 60 + minute) * 60 + second
end

check("clock", function(run)
  local theirs = read_date(run.date)
  if not theirs then return "warn", "the agent does not tell the time", "a proxy may take its header Date away" end
  local skew = core.time() - theirs -- it has whole seconds
  if math.abs(skew) > SKEW then
    return "warn", ("ours is %.0f s %s the agent's"):format(math.abs(skew), skew > 0 and "before" or "behind"),
      "locks do not mind; signatures of webhooks do, and so do certificates: let NTP set it"
  end
  return "ok", ("within %d s of the agent's"):format(SKEW)
end)

check("connections", function(run)
  local limit = run.self and (run.self.DebugConfig or {}).HTTPMaxConnsPerClient
  local ours = ("a client has %d at most"):format(CONNECTIONS)
  if type(limit) ~= "number" then
    return "ok", ours .. "; the agent does not show how many it takes from one address (200, unless it was set)"
  elseif limit > 0 and limit < CONNECTIONS then
    return "warn", ("%s; the agent takes %d from one address"):format(ours, limit),
      "raise http_max_conns_per_client in the limits of Consul's agent"
  end
  return "ok", ("%s; the agent takes %s from one address"):format(ours, limit > 0 and limit or "any number")
end)

-- ---- the command ---------------------------------------------------------------------------------------------------

-- Without an agent there is nothing more to find out.
local function examine(run)
  local rows = {}
  for _, one in ipairs(CHECKS) do
    local status, seen, advice = one.run(run)
    rows[#rows + 1] = { check = one.name, status = status, message = seen, advice = advice }
    if run.unreachable then return rows end
  end
  return rows
end

local function print_for_people(rows)
  local texts = {}
  for i, row in ipairs(rows) do
    texts[i] = ("%-4s  %-11s  %s\n"):format(row.status, row.check, row.message)
    if row.advice then texts[i] = texts[i] .. (" "):rep(19) .. row.advice .. "\n" end
  end
  return print.text(table.concat(texts))
end

local M = {}

--- Does it.
-- @tparam table options what the parser has read
-- @treturn number the exit status
function M.run(options)
  local client, status = connect.open(options, { session = { name = "holdfast doctor", ttl = options.ttl,
    lock_delay = options.lock_delay } })
  if not client then return status end
  local rows = examine({ client = client, options = options })
  client:close()
  status = (options.json and print.json or print_for_people)(rows)
  for _, row in ipairs(rows) do
    if row.status == "fail" then return exits.FOUND end
  end
  return status
end

return M
