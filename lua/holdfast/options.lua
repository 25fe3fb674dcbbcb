--- What a user typed of a session, a lock, a semaphore or a request, checked and made into what the core takes. What
-- says how to reach Consul is in holdfast.options_client. Private.
--
-- Mistakes and refusals are those of holdfast.check; `level` is whom a mistake blames, as for error(): 1 is the line
-- that called the function here, 2 the caller of that function.
-- @module holdfast.options

local check = require("holdfast.check")
local duration = require("holdfast.duration")
local headers = require("holdfast.headers")

require("holdfast.interpreted")()

local mistake, refuse, show = check.mistake, check.refuse, check.show

-- Whatever ended a session, nobody else has its keys before the lock-delay is over (consul.md 7.5), so that is how long
-- a holder goes on without a word from Consul: long enough for an election with the settings that Consul comes with.
local SESSION_DEFAULTS = { name = "holdfast", ttl = 10, lock_delay = 25, behavior = "release" }

-- ---- what may be given ---------------------------------------------------------------------------------------------

local POSITIVE = { "duration", positive = true }

local function read_alive(value)
  if type(value) == "boolean" then return value end
  if type(value) == "number" or type(value) == "string" then
    local seconds, message = duration.parse(value)
    if not seconds then mistake("alive: %s", message) end
    if seconds == 0 then mistake("alive must be more than 0") end
    return seconds
  end
end

local SESSION = {
  name = "text", ttl = POSITIVE, lock_delay = "duration", behavior = { "string", one_of = { "delete", "release" } },
  node = "text", checks = "list", service_checks = "list",
  alive = { read_alive, what = "true or a duration" },
}
local LOCK = {
  says = "a lock takes a key or a table of options",
  fields = {
    key = { "string", required = true, form = "key" }, value = { "string", default = "" }, session = "any",
    session_ttl = POSITIVE, session_name = "text", lock_delay = "duration", session_opts = { fields = SESSION },
    monitor = { "string", one_of = { "key", "session" }, default = "session" }, ephemeral = "boolean",
    max_hold = POSITIVE, fair = "boolean",
  },
}
local RWLOCK = { says = "a read-write lock takes a key or a table of options", fields = {} }
for _, name in ipairs({ "key", "session", "session_ttl", "session_name", "lock_delay", "session_opts", "monitor" }) do
  RWLOCK.fields[name] = LOCK.fields[name]
end

-- What comes after the prefix of a line: the name of a contender.
local CONTENDER = ("0"):rep(16)

-- Of a semaphore's session: what ends it frees the slot at once, so a lock-delay would be of no use, and the key goes.
local SLOT_SESSION = { name = "text", ttl = POSITIVE, node = "text", checks = "list", service_checks = "list" }
local function is_no_prefix(prefix) return check.forms.key((prefix:gsub("/$", "")) .. "/.lock") end
local SEMAPHORE = {
  says = "a semaphore takes a prefix and a limit, or a table of options",
  fields = {
    prefix = { "string", required = true, form = is_no_prefix },
    limit = { "count", required = true, what = "a whole number of at least 1" }, value = { "string", default = "" },
    session = "any", session_ttl = POSITIVE, session_name = "text", session_opts = { fields = SLOT_SESSION },
  },
}
-- Consul holds back no key for longer, whatever the lock-delay.
local DELAY_MAX = 60

-- The short forms of a lock's session_opts.
local SHORT = { ttl = "session_ttl", name = "session_name", lock_delay = "lock_delay" }

-- ---- a session's options -------------------------------------------------------------------------------------------

local function merged(base, more)
  local both = {}
  for name, value in pairs(base) do both[name] = value end
  for name, value in pairs(more) do both[name] = value end
  return both
end

-- A session's options over those of base. A longer TTL takes the lock-delay with it, and the check that says that the
-- process lives has the same TTL where it is given none.
local function over(base, given)
  local session = merged(base, given)
  if given.ttl and not given.lock_delay then session.lock_delay = math.max(base.lock_delay, given.ttl) end
  if session.alive and session.node then
    mistake("give alive or node, not both: the check is one of the agent that the client talks to")
  end
  if session.alive == true then session.alive = session.ttl end
  session.alive = session.alive or nil
  return session
end

local function read_own_session(given, base)
  return over(base, check.read(given or {}, { says = "a session takes a table of options", fields = SESSION }))
end

-- ---- a lock's options ----------------------------------------------------------------------------------------------

local function method(object, name)
  local ok, value = pcall(function() return object[name] end)
  return ok and type(value) == "function" and value or nil
end

-- The id of a session made elsewhere: itself, or what an object's id() answers.
local function read_session_id(session)
  if type(session) == "table" or type(session) == "userdata" then
    local id = method(session, "id")
    if not id then mistake("session must be a session or its id, not %s without id()", check.kind_of(session)) end
    local answer, message, code = id(session)
    if not answer then check.fail(code or "SESSION", "%s", tostring(message or "the session has no id")) end
    session = answer
  end
  return check.read(session, { "string", form = "session_id", what = "a session or its id" }, "session")
end

-- One of the core's objects, as it is; else an id.
local function read_session(session)
  if type(session) == "userdata" and method(session, "start_renew") then return session end
  return read_session_id(session)
end

-- session_opts with the short forms put in; nil when the lock has no session of its own.
local function own_session(given)
  local own = given.session_opts
  for name, long in pairs(SHORT) do
    if given[long] ~= nil then
      own = own or {}
      if own[name] ~= nil then mistake("give %s or session_opts.%s, not both", long, name) end
      own[name] = given[long]
    end
  end
  if own and given.session ~= nil then
    mistake("session is made elsewhere: session_opts, session_ttl, session_name and lock_delay are not for it")
  end
  return own
end

local function read_any_lock(given, base, rule)
  if type(given) == "string" then given = { key = given } end
  if type(given) == "table" and given.key == "" then mistake("missing key") end
  given = check.read(given, rule)
  local own = own_session(given)
  return {
    key = given.key, value = given.value, monitor = given.monitor, ephemeral = given.ephemeral,
    max_hold = given.max_hold, session_opts = own and over(base, own),
    session = given.session ~= nil and read_session(given.session) or nil,
  }, given
end

-- Where those stand in line who want a key.
local function read_line(key, kind)
  local prefix = ("%s/.%s/"):format(key, kind)
  if key:sub(-1) == "/" then refuse("key %s ends with a slash: there can be no line for it", show(key)) end
  check.form(prefix .. CONTENDER, "key", "the key of a contender for " .. show(key))
  return prefix
end

local function read_lock(given, base)
  local settings, options = read_any_lock(given, base, LOCK)
  if options.fair then settings.line = read_line(settings.key, "fair") end
  return settings
end

-- Who comes next tells one that has died from one that has left by the key that is still there.
local function read_rwlock(given, base)
  local settings = read_any_lock(given, base, RWLOCK)
  settings.line = read_line(settings.key, "rw")
  if not settings.session and (settings.session_opts or base).behavior == "delete" then
    refuse("the sessions of a read-write lock must have the behavior release")
  end
  return settings
end

-- ---- a semaphore's options -----------------------------------------------------------------------------------------

-- A slot is as long the holder's without a word from Consul as a lock is: there by the lock-delay, here by the TTL.
local function slot_session(base, own)
  local session = merged(base, own or {})
  if not (own and own.ttl) then session.ttl = math.max(base.ttl, math.min(base.lock_delay, DELAY_MAX)) end
  session.behavior, session.lock_delay = "delete", 0
  return session
end

local function read_semaphore(given, base)
  if given.prefix == "" then mistake("missing prefix") end
  given = check.read(given, SEMAPHORE)
  local own = own_session(given)
  return {
    prefix = (given.prefix:gsub("/$", "")) .. "/", limit = given.limit, value = given.value,
    session_opts = slot_session(base, own), session = given.session ~= nil and read_session_id(given.session) or nil,
  }
end

-- ---- a request -----------------------------------------------------------------------------------------------------

local function is_no_url(url)
  local authority = url:match("^[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)")
  if url:find("[%c ]") or not authority then
    return ("%s: it must be http:// or https://, without spaces"):format(check.show_url(url)), nil, true
  elseif authority:find("@", 1, true) then
    return ("%s: it has a user in it; give an authorization header"):format(check.show_url(url)), nil, true
  end
end

local MAX_SOCKET_PATH = 107 -- sun_path holds 108 bytes, the last is NUL

local function is_no_socket(path)
  if path:sub(1, 1) ~= "/" or #path > MAX_SOCKET_PATH then
    return ("is not an absolute path of at most %d bytes"):format(MAX_SOCKET_PATH)
  end
end

-- libcurl takes the name for SNI and the certificate from the URL; so the URL gets the name, and libcurl is told where
-- to go instead. Answers both; what is not https stays as it is.
local function under_name(url, name)
  local authority, rest = url:match("^[Hh][Tt][Tt][Pp][Ss]://([^/?#]+)(.*)$")
  if not authority then return url end
  local host, port = authority:match("^(.-):(%d+)$")
  if not host or (host:find(":", 1, true) and not host:find("]", 1, true)) then host, port = authority, "443" end
  return ("https://%s:%s%s"):format(name, port, rest), ("::%s:%s"):format(host, port)
end

local REQUEST_TLS = {
  ca_file = "text", ca_path = "text", cert_file = "text", key_file = "text", server_name = "text", verify = "boolean",
}
local REQUEST = {
  says = "a request is a table",
  fields = {
    method = "string", url = { "string", required = true, form = is_no_url },
    headers = { "headers", numbers = true, default = {} }, body = "string", timeout = POSITIVE,
    max_body = { "count", least = 0, default = 1024 * 1024, what = "a whole number of bytes" },
    tls = { fields = REQUEST_TLS }, unix_socket = { "text", form = is_no_socket },
    public_only = "boolean", allow_addresses = "list",
  },
}

-- How to get there, the way the core takes it.
local function use_route(request)
  local tls = request.tls
  request.tls, request.allow, request.allow_addresses = nil, request.allow_addresses, nil
  if request.allow and not request.public_only then mistake("allow_addresses needs public_only = true") end
  if not tls then return end
  if (tls.cert_file == nil) ~= (tls.key_file == nil) then refuse("tls.cert_file and tls.key_file need each other") end
  for _, field in ipairs({ "ca_file", "ca_path", "cert_file", "key_file", "verify" }) do request[field] = tls[field] end
  local name = tls.server_name
  if name and not name:match("^[%w._-]+$") then refuse("tls.server_name %s is not a host name", show(name)) end
  if name and not request.unix_socket then request.url, request.connect_to = under_name(request.url, name) end
end

local function header_lines(given)
  local lines = {}
  for name, value in pairs(given) do
    value = headers.trim(value)
    lines[#lines + 1] = value == "" and name .. ";" or name .. ": " .. value
  end
  table.sort(lines)
  return lines
end

local function read_request(given)
  local request = check.read(given, REQUEST)
  request.method = (request.method or (request.body and "POST" or "GET")):upper()
  check.form(request.method, "method", "method")
  request.headers = header_lines(request.headers)
  use_route(request)
  return request
end

-- ---- the module ----------------------------------------------------------------------------------------------------

local read_timeout = check.arguments("", { "timeout", "duration", optional = true })

local M = { MAX_SOCKET_PATH = MAX_SOCKET_PATH, under_name = under_name }

--- The rules of a session's fields.
M.SESSION = SESSION

--- The settings of a client's sessions.
-- @tparam table given what was typed, by the rules of SESSION
-- @treturn table the same, with the defaults
function M.session_defaults(given) return over(SESSION_DEFAULTS, given) end

--- Options of client:lock.
-- @param given a key, or a table of options
-- @tparam[opt] table base the `session` of the client's settings: what a session of the lock's own is like where
-- `given` says nothing
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what client:lock_object takes, and for a fair lock `line`, the prefix of the tickets' keys; nil,
-- message, "INVALID" ("TOO_LARGE" for a key that is too long, or what a session's id() answered)
function M.lock(given, base, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_lock, given, base or SESSION_DEFAULTS)
  return settings, message, code
end

--- Options of client:session.
-- @tparam[opt] table given
-- @tparam[opt] table base as for lock
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what client:session_object takes; nil, message, "INVALID"
function M.session(given, base, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_own_session, given, base or SESSION_DEFAULTS)
  return settings, message, code
end

--- Options of client:semaphore.
-- @tparam table given `{ prefix=, limit=, value=, session=, session_ttl=, session_name=, session_opts={} }`
-- @tparam[opt] table base the `session` of the client's settings
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what core.semaphore takes; nil, message, "INVALID" ("TOO_LARGE" for a prefix that is too long, or
-- what a session's id() answered)
function M.semaphore(given, base, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_semaphore, given, base or SESSION_DEFAULTS)
  return settings, message, code
end

--- Options of client:rwlock. As for M.lock; the settings have `line` too, the prefix of the contenders' keys.
function M.rwlock(given, base, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_rwlock, given, base or SESSION_DEFAULTS)
  return settings, message, code
end

--- A request. `timeout` stays nil when it is not given: the core takes the client's.
-- A header with an empty value becomes "Name;", which is how libcurl is told to send it.
-- @tparam table given `{ method=, url=, headers={}, body=, timeout=, max_body=1048576, tls={}, unix_socket=,
-- public_only=, allow_addresses={} }`; the method is POST with a body and GET without unless it is given
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what start_request takes; nil, message, "INVALID"
function M.request(given, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_request, given)
  return settings, message, code
end

--- A timeout argument.
-- @param value a duration or nil (no limit)
-- @int[opt=2] level whom a mistake blames
-- @treturn number|nil seconds
function M.timeout(value, level)
  if value == nil then return nil end
  return read_timeout((level or 2) + 1, value).timeout
end

return M
