--- `holdfast locks` and `holdfast sessions`. Private.
-- @module holdfast.cli.list

local connect = require("holdfast.cli.connect")
local core = require("holdfast.core")
local exits = require("holdfast.cli.exits")
local flags = require("holdfast.flags")
local print = require("holdfast.cli.print")

-- ---- what Consul says ----------------------------------------------------------------------------------------------

-- What an ACL hides is said where the server says so.
local function complete(list, index, meta, ...)
  if list and meta.filtered_by_acls then exits.say("the ACL hides some of it") end
  return list, index, meta, ...
end

local function array(list)
  return list and list[1] and list or core.empty_array
end

local function sessions(client, node)
  local list, message, code = complete(client:sessions(node))
  if not list then return nil, message, code end
  local rows = {}
  for i, session in ipairs(list) do
    rows[i] = { session = session.id, name = session.name, node = session.node, ttl = session.ttl,
      lock_delay = session.lock_delay, behavior = session.behavior, checks = array(session.checks),
      service_checks = array(session.service_checks) }
  end
  table.sort(rows, function(one, other) return one.session < other.session end)
  return rows
end

-- ---- who has to do with what ---------------------------------------------------------------------------------------

-- The directory of a key, and the rest of its name; nothing for a key at the top.
local function split(key)
  return key:match("^(.*/)([^/]*)$")
end

-- prefix/.lock of every semaphore, by its directory: { key, limit, holders }.
local function semaphores(found)
  local by_directory = {}
  for _, pair in ipairs(found) do
    local directory, name = split(pair.key)
    local value = name == ".lock" and pair.flags == flags.SEMAPHORE and core.json_decode(pair.value)
    if type(value) == "table" then
      by_directory[directory] = { key = pair.key, limit = value.Limit, holders = value.Holders or {} }
    end
  end
  return by_directory
end

local function describe(pair, semaphore, known)
  local session = known[pair.session] or {}
  local row = { key = pair.key, kind = pair.flags == flags.LOCK and "lock" or "other", state = "holds",
    session = pair.session, name = session.name, node = session.node, ttl = session.ttl,
    lock_delay = session.lock_delay, token = pair.modify_index }
  if semaphore and pair.flags == flags.SEMAPHORE then
    row.key, row.kind, row.limit = semaphore.key, "semaphore", semaphore.limit
    row.state = semaphore.holders[pair.session] and "holds" or "waits"
  elseif pair.flags == flags.TICKET then
    row.key, row.kind, row.state = pair.key:match("^(.*)/%.fair/[^/]*$") or pair.key, "lock", "waits"
  end
  return row
end

local function relations(found, known)
  local rows, by_directory = {}, semaphores(found)
  for _, pair in ipairs(found) do
    if pair.session then rows[#rows + 1] = describe(pair, by_directory[split(pair.key)], known) end
  end
  table.sort(rows, function(one, other)
    if one.key ~= other.key then return one.key < other.key end
    if one.state ~= other.state then return one.state < other.state end
    return one.token < other.token
  end)
  return rows
end

local function locks(client, prefix)
  local found, list, message, code
  found, message, code = complete(client.kv:list(prefix))
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
  { "service_checks", "SERVICE-CHECKS", text_of_list }, { "name", "NAME" } }

local function show(options, list, columns)
  local client, status = connect.open(options)
  if not client then return status end
  local rows, message, code = list(client)
  client:close()
  if not rows then return exits.fail(exits.of(code), "%s", message) end
  if options.json then return print.json(rows) end
  return print.columns(columns, rows)
end

local M = { locks = {}, sessions = {} }

--- Prints who holds what, and who waits where that can be seen: holders first, then in the order of their coming.
function M.locks.run(options)
  return show(options, function(client) return locks(client, options.prefix or "") end, LOCKS)
end

--- Prints the sessions.
function M.sessions.run(options)
  return show(options, function(client) return sessions(client, options.node) end, SESSIONS)
end

return M
