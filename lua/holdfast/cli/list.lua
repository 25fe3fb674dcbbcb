--- `holdfast locks` and `holdfast sessions`. Private.
-- @module holdfast.cli.list

local connect = require("holdfast.cli.connect")
local core = require("holdfast.core")
local duration = require("holdfast.duration")
local exits = require("holdfast.cli.exits")
local print = require("holdfast.cli.print")

local LOCK_FLAGS, SEMAPHORE_FLAGS = "3304740253564472344", "16210313421097356768" -- consul.md 1.1, 1.3

-- ---- what Consul says ----------------------------------------------------------------------------------------------

local function escape(text)
  return (text:gsub("[^%w%-._~/]", function(char) return ("%%%02X"):format(char:byte()) end))
end

-- Absent is an empty list; so is what an ACL hides, which the server says for some tokens.
local function read(client, path, query)
  local value, message, code, meta = client:call({ path = path, query = query })
  if not value and code == "NOT_FOUND" then return {} end
  if not value then return nil, message, code end
  if type(code) == "table" then meta = code end
  if meta and meta.filtered_by_acls then exits.say("the ACL hides some of %s", path) end
  return value
end

local function seconds(nanoseconds)
  return tonumber(nanoseconds) / 1e9
end

local function describe(session)
  local checks = {}
  for _, name in ipairs(session.NodeChecks or session.Checks or {}) do checks[#checks + 1] = name end
  for _, check in ipairs(session.ServiceChecks or {}) do checks[#checks + 1] = check.ID end
  return {
    session = session.ID, name = session.Name, node = session.Node, ttl = duration.parse(session.TTL),
    lock_delay = seconds(session.LockDelay), behavior = session.Behavior,
    checks = checks[1] and checks or core.empty_array,
  }
end

local function sessions(client, node)
  local list, message, code = read(client, node and "/v1/session/node/" .. escape(node) or "/v1/session/list")
  if not list then return nil, message, code end
  local rows = {}
  for i, session in ipairs(list) do rows[i] = describe(session) end
  table.sort(rows, function(a, b) return a.session < b.session end)
  return rows
end

-- ---- who has to do with what ---------------------------------------------------------------------------------------

local function row(key, kind, state, id, known, token)
  local session = known[id] or {}
  return { key = key, kind = kind, state = state, session = id, name = session.name, node = session.node,
    ttl = session.ttl, lock_delay = session.lock_delay, token = token }
end

-- The directory of a key that belongs to what is kept there, and the rest of its name.
local function split(key)
  return key:match("^(.*/)([^/]*)$")
end

-- prefix/.lock of every semaphore, by its directory: { key, limit, holders }.
local function semaphores(pairs_found)
  local found = {}
  for _, pair in ipairs(pairs_found) do
    local directory, name = split(pair.Key)
    if name == ".lock" and tostring(pair.Flags) == SEMAPHORE_FLAGS and pair.Value then
      local value = core.json_decode(core.base64_decode(pair.Value) or "")
      if type(value) == "table" then
        found[directory] = { key = pair.Key, limit = value.Limit, holders = value.Holders or {} }
      end
    end
  end
  return found
end

local function kind_of(pair)
  return tostring(pair.Flags) == LOCK_FLAGS and "lock" or "other"
end

local function describe_pair(pair, semaphore, known)
  if not semaphore or tostring(pair.Flags) ~= SEMAPHORE_FLAGS then
    return row(pair.Key, kind_of(pair), "holds", pair.Session, known, pair.ModifyIndex)
  end
  local result = row(semaphore.key, "semaphore", semaphore.holders[pair.Session] and "holds" or "waits", pair.Session,
    known, pair.ModifyIndex)
  result.limit = semaphore.limit
  return result
end

local function relations(found, known)
  local rows, by_directory = {}, semaphores(found)
  for _, pair in ipairs(found) do
    if pair.Session and pair.Session ~= "" then
      rows[#rows + 1] = describe_pair(pair, by_directory[split(pair.Key)], known)
    end
  end
  table.sort(rows, function(a, b)
    if a.key ~= b.key then return a.key < b.key end
    return a.token < b.token
  end)
  return rows
end

local function locks(client, prefix)
  local found, list, message, code
  found, message, code = read(client, "/v1/kv/" .. escape(prefix), { recurse = true })
  if not found then return nil, message, code end
  list, message, code = sessions(client)
  if not list then return nil, message, code end
  local known = {}
  for _, session in ipairs(list) do known[session.session] = session end
  return relations(found, known)
end

-- ---- the two commands ----------------------------------------------------------------------------------------------

local function text_of_seconds(value) return value and ("%gs"):format(value) end

local function text_of_list(list) return list ~= core.empty_array and table.concat(list, ",") or nil end

local LOCKS = { { "key", "KEY" }, { "kind", "KIND" }, { "state", "STATE" }, { "session", "SESSION" },
  { "node", "NODE" }, { "ttl", "TTL", text_of_seconds }, { "token", "TOKEN" }, { "name", "NAME" } }
local SESSIONS = { { "session", "SESSION" }, { "node", "NODE" }, { "ttl", "TTL", text_of_seconds },
  { "lock_delay", "LOCK-DELAY", text_of_seconds }, { "behavior", "BEHAVIOR" }, { "checks", "CHECKS", text_of_list },
  { "name", "NAME" } }

local function show(options, list, columns)
  local client, status = connect.open(options)
  if not client then return status end
  local rows, message, code = list(client)
  client:close()
  if not rows then return exits.fail(exits.of(code), "%s", message) end
  if options.json then print.json(rows) else print.columns(columns, rows) end
  return exits.OK
end

local M = { locks = {}, sessions = {} }

--- Prints who holds what, and who waits where that can be seen.
function M.locks.run(options)
  return show(options, function(client) return locks(client, options.prefix or "") end, LOCKS)
end

--- Prints the sessions.
function M.sessions.run(options)
  return show(options, function(client) return sessions(client, options.node) end, SESSIONS)
end

return M
