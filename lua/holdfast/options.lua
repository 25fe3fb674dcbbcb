--- What a user typed, and the CONSUL_* environment variables, checked and made into what the core takes. Private.
--
-- Mistakes and refusals are those of holdfast.check; `level` is whom a mistake blames, as for error(): 1 is the line
-- that called the function here, 2 the caller of that function.
-- @module holdfast.options

local check = require("holdfast.check")
local duration = require("holdfast.duration")
local headers = require("holdfast.headers")

require("holdfast.interpreted")()

local mistake, refuse, show = check.mistake, check.refuse, check.show

local DEFAULT_ADDRESS = "127.0.0.1:8500"
local MAX_TOKEN_FILE = 8 * 1024 -- as in csrc/consul/token.c
local MAX_SOCKET_PATH = 107 -- sun_path holds 108 bytes, the last is NUL

-- Whatever ended a session, nobody else has its keys before the lock-delay is over (consul.md 7.5), so that is how long
-- a holder goes on without a word from Consul: long enough for an election with the settings that Consul comes with.
local SESSION_DEFAULTS = { name = "holdfast", ttl = 10, lock_delay = 25, behavior = "release" }

-- ---- what may be given ---------------------------------------------------------------------------------------------

local POSITIVE = { "duration", positive = true }

local TLS = {
  ca_file = "string", ca_path = "string", cert_file = "string", key_file = "string", server_name = "string",
  verify = "boolean",
}
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
local CLIENT = {
  says = "holdfast.new takes a table of options",
  fields = {
    address = "string", token = "string", token_file = "string", auth = "string", datacenter = "text",
    namespace = "string", partition = "string", tls = { fields = TLS, default = {} },
    timeout = { "duration", positive = true, default = 10 }, session = { fields = SESSION, default = {} },
    scheduler = "any", log = "any",
  },
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

local TLS_VARIABLES = {
  ca_file = "CONSUL_CACERT", ca_path = "CONSUL_CAPATH", cert_file = "CONSUL_CLIENT_CERT",
  key_file = "CONSUL_CLIENT_KEY", server_name = "CONSUL_TLS_SERVER_NAME",
}
local TLS_FILES = { "ca_file", "ca_path", "cert_file", "key_file" }

-- What Go's strconv.ParseBool takes.
local BOOLEANS = {
  ["1"] = true, t = true, T = true, TRUE = true, ["true"] = true, True = true,
  ["0"] = false, f = false, F = false, FALSE = false, ["false"] = false, False = false,
}

-- The same as show for an address or URL: a password in it stays out of logs.
local function show_url(text)
  return show((text:gsub("^(%a*:?/?/?).*@", "%1***@")))
end

-- An option or variable without control characters; empty is the same as absent.
local function clean(value, what, secret)
  if value == nil or value == "" then return nil end
  check.form(value, "text", what, secret)
  return value
end

-- ---- where values come from ----------------------------------------------------------------------------------------

local function variable(env, name)
  local value = env.getenv(name)
  if value ~= "" then return value end
end

-- The option, else the variable; and which of them it was.
local function choose(env, value, what, name)
  if value ~= nil then return value, what end
  return variable(env, name), name
end

local function boolean_variable(env, name)
  local value = variable(env, name)
  if not value then return nil end
  if BOOLEANS[value] == nil then refuse("%s must be true or false, not %s", name, show(value)) end
  return BOOLEANS[value]
end

local function read_file(env, path, what)
  local file, message = env.open(path, "rb")
  if not file then refuse("%s %s cannot be read: %s", what, show(path), tostring(message)) end
  local data
  data, message = file:read(MAX_TOKEN_FILE + 1)
  file:close()
  if not data and message then refuse("%s %s cannot be read: %s", what, show(path), tostring(message)) end
  if data and #data > MAX_TOKEN_FILE then
    refuse("%s %s holds more than a token: over %d bytes", what, show(path), MAX_TOKEN_FILE)
  end
  return data or ""
end

-- ---- a client's options --------------------------------------------------------------------------------------------

local function token_from_file(env, path, what)
  local token = read_file(env, path, what):match("^%s*(.-)%s*$")
  if token == "" then refuse("%s %s holds no token", what, show(path)) end
  if token:find("%c") then refuse("%s %s holds a token with a control character in it", what, show(path)) end
  return token
end

-- File before string, options before the environment. Answers the token and the file that it is from.
local function read_token(env, given)
  if given.token_file then return token_from_file(env, given.token_file, "token_file"), given.token_file end
  if given.token then return clean(given.token, "token", true) end
  local path = variable(env, "CONSUL_HTTP_TOKEN_FILE")
  if path then return token_from_file(env, path, "CONSUL_HTTP_TOKEN_FILE"), path end
  return clean(variable(env, "CONSUL_HTTP_TOKEN"), "CONSUL_HTTP_TOKEN", true)
end

local function read_auth(env, given)
  local value, what = choose(env, given.auth, "auth", "CONSUL_HTTP_AUTH")
  local auth = clean(value, what, true)
  if auth and not auth:find(":", 1, true) then auth = auth .. ":" end
  return auth
end

-- host, host:port, [v6] or [v6]:port
local function is_authority(text)
  local host, rest = text:match("^(%[%x*:[%x:.]*%])(.*)$")
  if not host then host, rest = text:match("^(%[%x*:[%x:.]*%%[%w._-]+%])(.*)$") end
  if not host then host, rest = text:match("^([%w._\128-\255-]+)(.*)$") end
  if not host then return false end
  local port = rest:match("^:(%d%d?%d?%d?%d?)$")
  return rest == "" or (port ~= nil and tonumber(port) >= 1 and tonumber(port) <= 65535)
end

local function read_socket(address, path, what)
  if path:sub(1, 1) ~= "/" or #path > MAX_SOCKET_PATH then
    refuse("%s %s: a socket is unix:// and an absolute path of at most %d bytes", what, show(address), MAX_SOCKET_PATH)
  end
  return path
end

-- Whether TLS is asked for where the address does not say so itself. Go's client never goes back to http once
-- CONSUL_HTTP_SSL asks for TLS; here an option that says http:// is stronger. A program that names certificates for a
-- bare host:port does not mean to send its token in the clear.
local function wants_tls(env, given, scheme, what)
  if scheme == "https" then return true end
  if scheme == "http" and what == "address" then return false end
  if boolean_variable(env, "CONSUL_HTTP_SSL") then return true end
  local tls = given.tls
  return not scheme and what == "address"
    and (tls.ca_file or tls.ca_path or tls.cert_file or tls.server_name) ~= nil
end

-- Answers base and the path of the socket, if it is one.
local function read_address(env, given)
  local address, what = choose(env, given.address, "address", "CONSUL_HTTP_ADDR")
  address = address or DEFAULT_ADDRESS
  if address:find("[%c ]") then refuse("%s %s has a space or control character in it", what, show_url(address)) end
  local scheme, rest = address:match("^([^/]*)://(.*)$")
  scheme, rest = scheme and scheme:lower(), rest or address
  if scheme and scheme ~= "http" and scheme ~= "https" and scheme ~= "unix" then
    refuse("%s %s: the scheme must be http, https or unix", what, show_url(address))
  end
  local start = wants_tls(env, given, scheme, what) and "https://" or "http://"
  if scheme == "unix" then return start .. "localhost", read_socket(address, rest, what) end
  local authority, prefix = rest:match("^([^/?#]*)(.*)$")
  if rest:find("@", 1, true) then
    refuse("%s %s: give user and password in auth or CONSUL_HTTP_AUTH", what, show_url(address))
  elseif not is_authority(authority) or prefix:find("[?#]") then
    refuse("%s %s is not host:port, http://host:port/prefix, https://... or unix:///path (IPv6 goes in brackets)",
      what, show_url(address))
  end
  return start .. authority .. prefix:gsub("/+$", "")
end

-- A host name for SNI and the certificate; it gets into a URL.
local function read_server_name(value, what)
  local name = value and (value:match("^(%[[%x:.]+%]):%d+$") or value:match("^([^:]+):%d+$") or value)
  if name and not name:match("^[%w._-]+$") and not name:match("^%[?[%x:.]+%]?$") then
    refuse("%s %s is not a host name", what, show(value))
  end
  return name
end

local function both_or_none(settings, source, one, other)
  if settings[one] and not settings[other] then
    refuse("%s %s needs its other half: tls.%s or %s", source[one], show(settings[one]), other, TLS_VARIABLES[other])
  end
end

local function try_to_open(env, path, what)
  if not path then return end
  local file, message = env.open(path, "rb")
  if not file then refuse("%s %s cannot be read: %s", what, show(path), tostring(message)) end
  file:close()
end

-- Fills in the TLS fields of settings. Files are opened once, to say now what would fail at the first request.
local function read_tls(env, tls, settings)
  local source = {}
  for field, name in pairs(TLS_VARIABLES) do
    local value, what = choose(env, tls[field], "tls." .. field, name)
    settings[field], source[field] = clean(value, what), what
  end
  settings.server_name = read_server_name(settings.server_name, source.server_name)
  both_or_none(settings, source, "cert_file", "key_file")
  both_or_none(settings, source, "key_file", "cert_file")
  if settings.base:match("^https:") then
    for _, field in ipairs(TLS_FILES) do try_to_open(env, settings[field], source[field]) end
  end
  settings.verify = tls.verify
  if settings.verify == nil then settings.verify = boolean_variable(env, "CONSUL_HTTP_SSL_VERIFY") end
  if settings.verify == nil then settings.verify = true end
end

-- libcurl takes the name for SNI and the certificate from the URL; so the URL gets the name, and libcurl is told where
-- to go instead.
local function use_server_name(settings)
  local name = settings.server_name
  settings.server_name = nil
  local authority, prefix = settings.base:match("^https://([^/]*)(.*)$")
  if not name or not authority or settings.unix_socket then return end
  local host, port = authority:match("^(.-):(%d+)$")
  if not host or (host:find(":", 1, true) and not host:find("]", 1, true)) then host, port = authority, "443" end
  settings.base = ("https://%s:%s%s"):format(name, port, prefix)
  settings.connect_to = ("::%s:%s"):format(host, port)
end

-- A session's options over those of base. A longer TTL takes the lock-delay with it, and the check that says that the
-- process lives has the same TTL where it is given none.
local function over(base, given)
  local session = {}
  for name, value in pairs(base) do session[name] = value end
  if given.ttl then session.lock_delay = math.max(base.lock_delay, given.ttl) end
  for name, value in pairs(given) do session[name] = value end
  if session.alive and session.node then
    mistake("give alive or node, not both: the check is one of the agent that the client talks to")
  end
  if session.alive == true then session.alive = session.ttl end
  session.alive = session.alive or nil
  return session
end

local function read_client(given, env)
  given = check.read(given, CLIENT)
  local settings = {
    timeout = given.timeout, datacenter = given.datacenter, session = over(SESSION_DEFAULTS, given.session),
    namespace = clean(choose(env, given.namespace, "namespace", "CONSUL_NAMESPACE")),
    partition = clean(choose(env, given.partition, "partition", "CONSUL_PARTITION")),
  }
  settings.base, settings.unix_socket = read_address(env, given)
  settings.token, settings.token_file = read_token(env, given)
  settings.auth = read_auth(env, given)
  read_tls(env, given.tls, settings)
  use_server_name(settings)
  return settings
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

local function read_own_session(given, base)
  return over(base, check.read(given or {}, { says = "a session takes a table of options", fields = SESSION }))
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
  local session = {}
  for name, value in pairs(base) do session[name] = value end
  session.ttl = math.max(base.ttl, math.min(base.lock_delay, DELAY_MAX))
  for name, value in pairs(own or {}) do session[name] = value end
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
  if url:find("[%c ]") or not url:match("^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]") then
    return ("%s: it must be http:// or https://, without spaces"):format(show_url(url)), nil, true
  end
end

local REQUEST = {
  says = "a request is a table",
  fields = {
    method = "string", url = { "string", required = true, form = is_no_url },
    headers = { "headers", numbers = true, default = {} }, body = "string", timeout = POSITIVE,
    max_body = { "count", least = 0, default = 1024 * 1024, what = "a whole number of bytes" },
  },
}

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
  return request
end

-- ---- the module ----------------------------------------------------------------------------------------------------

local read_timeout = check.arguments("", { "timeout", "duration", optional = true })

local M = {}

--- Options of holdfast.new.
-- @tparam table given what the user typed (`scheduler` and `log` are known, and left to others)
-- @tparam table env where the rest comes from: `getenv(name)` as os.getenv, `open(path, mode)` as io.open
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what core.client takes; nil, message, "INVALID"
function M.client(given, env, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_client, given, env)
  return settings, message, code
end

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
-- @tparam table given `{ method=, url=, headers={}, body=, timeout=, max_body=1048576 }`; the method is POST with a
-- body and GET without unless it is given
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
