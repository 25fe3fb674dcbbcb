--- What a Consul server keeps of sessions and keys, and what it says when it is asked for it the way holdfast does: for
-- spec/support/server.lua, whose rules make the trouble. It is as strict as Consul 1.8.7 (spec/01-unit/support_spec.lua
-- asks both), except that a TTL may be as short as a spec wants, and that no session ends by itself: a spec says when.
-- @module spec.support.fake_state

local cqueues = require("cqueues")
local condition = require("cqueues.condition")
local json = require("dkjson")
local mime = require("mime")

local State = {}
State.__index = State

local FIRST_INDEX = 10
local DELAY, WAIT = 15, 300 -- Consul's defaults
local MOST = 64 -- operations of a transaction

local PAIR = "{\"LockIndex\":%d,\"Key\":%s,\"Flags\":%d,\"Value\":%s,%s\"CreateIndex\":%d,\"ModifyIndex\":%d}"

local UNITS = { ms = 0.001, s = 1, m = 60, h = 3600 }

local function seconds(duration)
  local sum = 0
  for number, unit in tostring(duration or ""):gmatch("([%d.]+)(%a+)") do sum = sum + number * UNITS[unit] end
  return sum
end

local function pair_text(pair, without_value)
  local session = pair.session and ("\"Session\":%s,"):format(json.encode(pair.session)) or ""
  local value = pair.value ~= "" and not without_value and json.encode((mime.b64(pair.value))) or "null"
  return PAIR:format(pair.locks, json.encode(pair.key), pair.flags, value, session, pair.created, pair.index)
end

local function unescape(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- ---- sessions -------------------------------------------------------------------------------------------------------

local function session_text(session)
  return "[" .. json.encode({ ID = session.id, Name = session.name, Node = "fake", NodeChecks = { "serfHealth" },
    LockDelay = math.floor(session.delay * 1e9), Behavior = "release", TTL = session.ttl,
    CreateIndex = session.index, ModifyIndex = session.index }) .. "]"
end

function State:bump()
  self.index = self.index + 1
  self.changed:signal()
  return self.index
end

--- Ends a session as the end of its TTL or somebody's destroy does: its keys are kept back for the lock-delay.
function State:end_session(id)
  local session = self.sessions[id]
  if not session then return end
  self.sessions[id] = nil
  self.sessions_index = self:bump()
  for key, pair in pairs(self.pairs) do
    if pair.session == id then
      if session.delay > 0 then self.delays[key] = cqueues.monotime() + session.delay end
      pair.session, pair.index = nil, self.index
    end
  end
end

function State:create(_, _, body)
  local options = body ~= "" and json.decode(body) or {}
  self.made = self.made + 1
  self.sessions_index = self:bump()
  local session = {
    id = ("00000000-0000-4000-8000-%012d"):format(self.made), name = options.Name or "", ttl = options.TTL or "",
    delay = options.LockDelay and seconds(options.LockDelay) or DELAY, index = self.index,
  }
  self.sessions[session.id] = session
  return 200, ("{\"ID\":%q}"):format(session.id)
end

function State:renew(id)
  local session = self.sessions[id]
  if not session then return 404, ("Session id '%s' not found"):format(id) end
  return 200, session_text(session)
end

function State:destroy(id)
  self:end_session(id)
  return 200, "true"
end

function State:info(id, _, _, wait)
  local before = self.sessions[id]
  wait(function() return self.sessions_index, self.sessions[id] ~= before or not before end)
  local session = self.sessions[id]
  return 200, session and session_text(session) or "[]", self.sessions_index
end

-- ---- keys -----------------------------------------------------------------------------------------------------------

-- What a key's answer counts as its index: of one that is absent it is that of all keys.
local function index_of(self, key)
  return self.pairs[key] and self.pairs[key].index or self.index
end

function State:get(key, _, _, wait)
  wait(function() return index_of(self, key), true end)
  local pair = self.pairs[key]
  if not pair then return 404, "", self.index end
  return 200, "[" .. pair_text(pair) .. "]", pair.index
end

function State:delete(key, query)
  local pair, cas = self.pairs[key], tonumber(query:match("cas=(%d+)"))
  if cas and pair and pair.index ~= cas then return 200, "false" end
  if pair then
    self.pairs[key] = nil
    self:bump()
  end
  return 200, "true"
end

--- A plain write: the session that holds the key, if any, goes on to, but Consul counts its locks anew.
function State:put(key, query, body)
  local pair, index = self.pairs[key] or { key = key }, self:bump()
  pair.created, pair.locks = pair.created or index, 0
  pair.value, pair.index, pair.flags = body, index, tonumber(query:match("flags=(%d+)") or 0)
  self.pairs[key] = pair
  return 200, "true"
end

local function copy_of(pair)
  local copy = {}
  for name, value in pairs(pair or {}) do copy[name] = value end
  return pair and copy
end

-- A transaction works on copies, by key, and is put into effect as a whole or not at all.
local Transaction = {}
Transaction.__index = Transaction

function Transaction:pair(key)
  if self.touched[key] == nil then self.touched[key] = copy_of(self.state.pairs[key]) or false end
  return self.touched[key] or nil
end

function Transaction:write(op, session)
  local pair, index = self:pair(op.Key), self.state.index + 1
  local value = op.Value and mime.unb64(op.Value) or ""
  if pair and pair.session == session and pair.value == value and pair.flags == op.Flags then return pair end
  pair = pair or { key = op.Key, created = index, locks = 0 }
  if session and pair.session ~= session then pair.locks = pair.locks + 1 end
  pair.session, pair.value, pair.flags, pair.index = session, value, op.Flags, index
  self.touched[op.Key], self.wrote = pair, true
  return pair
end

-- Each answers the pair that becomes a result (false: none does), or nil and why not.
local verbs = {}

verbs["get"] = function(self, op)
  local pair = self:pair(op.Key)
  return pair, ("key %q doesn't exist"):format(op.Key)
end

verbs["check-index"] = function(self, op)
  local pair = self:pair(op.Key)
  if not pair then return nil, ("failed to check index, key %q doesn't exist"):format(op.Key) end
  if pair.index == op.Index then return pair end
  return nil, ("failed index check for key %q, current modify index %d != %d"):format(op.Key, pair.index, op.Index)
end

verbs["check-not-exists"] = function(self, op)
  if self:pair(op.Key) then return nil, ("key %q exists"):format(op.Key) end
  return false
end

-- What is absent is as good as deleted.
verbs["delete-cas"] = function(self, op)
  local pair = self:pair(op.Key)
  if pair and pair.index ~= op.Index then return nil, ("failed to delete key %q, index is stale"):format(op.Key) end
  if pair then self.touched[op.Key], self.wrote = false, true end
  return false
end

verbs["check-session"] = function(self, op)
  local pair = self:pair(op.Key)
  if not pair then return nil, ("failed to check session, key %q doesn't exist"):format(op.Key) end
  if pair.session == op.Session then return pair end
  return nil, ("failed session check for key %q, current session %q != %q"):format(op.Key, pair.session or "",
    op.Session)
end

verbs["lock"] = function(self, op)
  local pair = self:pair(op.Key)
  if not op.Session then return nil, "missing session" end
  if not self.state.sessions[op.Session] then return nil, ("invalid session %q"):format(op.Session) end
  if pair and pair.session and pair.session ~= op.Session then
    return nil, ("failed to lock key %q, lock is already held"):format(op.Key)
  end
  return self:write(op, op.Session)
end

verbs["unlock"] = function(self, op)
  local pair = self:pair(op.Key)
  if pair and pair.session and pair.session == op.Session then return self:write(op, nil) end
  return nil, ("failed to unlock key %q, lock isn't held, or is held by another session"):format(op.Key)
end

local function refusals(list)
  return 409, ("{\"Results\":null,\"Errors\":[%s]}"):format(table.concat(list, ","))
end

local function refusal(position, what)
  return ("{\"OpIndex\":%d,\"What\":%s}"):format(position - 1, json.encode(what))
end

-- What the leader looks at before it writes a transaction into its log.
function State:delayed(ops)
  local found = {}
  for i, op in ipairs(ops) do
    local ends = self.delays[op.Key]
    if op.Verb == "lock" and ends and ends > cqueues.monotime() then
      found[#found + 1] = refusal(i, ("failed to lock key %q due to lock delay"):format(op.Key))
    end
  end
  return found[1] and found
end

function State:txn(_, _, body)
  local ops, results, errors = {}, {}, {}
  for i, item in ipairs((json.decode(body))) do ops[i] = item.KV end
  if #ops > MOST then return 413, ("Transaction contains too many operations (%d > %d)"):format(#ops, MOST) end
  local delayed = self:delayed(ops)
  if delayed then return refusals(delayed) end
  local transaction = setmetatable({ state = self, touched = {} }, Transaction)
  for i, op in ipairs(ops) do
    local pair, why = verbs[op.Verb](transaction, op)
    if pair then
      results[#results + 1] = "{\"KV\":" .. pair_text(pair, op.Verb ~= "get") .. "}"
    elseif pair == nil then
      errors[#errors + 1] = refusal(i, why)
    end
  end
  if errors[1] then return refusals(errors) end
  for key, pair in pairs(transaction.touched) do self.pairs[key] = pair or nil end
  if transaction.wrote then self:bump() end
  return 200, ("{\"Results\":[%s],\"Errors\":null}"):format(table.concat(results, ","))
end

-- ---- requests -------------------------------------------------------------------------------------------------------

local ROUTES = {
  { "PUT", "^/v1/session/create$", "create" }, { "PUT", "^/v1/session/renew/(.+)", "renew" },
  { "PUT", "^/v1/session/destroy/(.+)", "destroy" }, { "GET", "^/v1/session/info/(.+)", "info" },
  { "GET", "^/v1/kv/(.+)", "get" }, { "PUT", "^/v1/kv/(.+)", "put" }, { "DELETE", "^/v1/kv/(.+)", "delete" },
  { "PUT", "^/v1/txn$", "txn" },
}

-- Waits as a blocking query does: while look answers no index above that of the query. linger(seconds): waits for a
-- change, answers false when nobody waits for the answer any more.
local function blocking(self, query, linger)
  local index = tonumber(query:match("index=(%d+)"))
  if not index or index == 0 then return function() end end
  local wait = seconds(query:match("wait=([%w.]+)"))
  local limit = cqueues.monotime() + (wait > 0 and wait or WAIT)
  return function(look)
    local at = look()
    local woken = at > index
    while not woken and cqueues.monotime() < limit do
      if not linger(self.changed, limit - cqueues.monotime()) then return end
      local now, concerned = look()
      woken = now > index and concerned
    end
  end
end

--- What a server answers: status, body, index (or nil); nil when it knows no such request.
-- linger: see above
function State:answer(request, linger)
  for _, route in ipairs(ROUTES) do
    local found = request.method == route[1] and request.path:match(route[2])
    if found then
      local query = request.query or ""
      return self[route[3]](self, unescape(found), query, request.body, blocking(self, query, linger))
    end
  end
end

--- The sessions that hold something, by key.
function State:holders()
  local found = {}
  for key, pair in pairs(self.pairs) do found[key] = pair.session end
  return setmetatable(found, { __jsontype = "object" })
end

local M = {}

--- A server's state with nothing in it.
function M.new()
  return setmetatable({
    index = FIRST_INDEX, sessions_index = FIRST_INDEX, made = 0, changed = condition.new(),
    sessions = {}, pairs = {}, delays = {},
  }, State)
end

return M
