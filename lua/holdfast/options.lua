--- What a user typed, and the CONSUL_* environment variables, checked and made into what the core takes. Private.
--
-- No table that is given is modified. What only a programmer can have got wrong (an unknown name, a wrong type, a
-- missing key) raises with the line that `level` names, as for error(): 1 is the line that called the function here,
-- 2 the caller of that function. What data or the environment can make wrong answers nil, message, "INVALID"; the
-- message names the option or variable and shows its value, unless that is a secret.
-- @module holdfast.options

local duration = require("holdfast.duration")

local DEFAULT_ADDRESS = "127.0.0.1:8500"
local DEFAULT_TIMEOUT = 10
local DEFAULT_MAX_BODY = 1024 * 1024
local MAX_TOKEN_FILE = 64 * 1024
local MAX_SOCKET_PATH = 107 -- sun_path holds 108 bytes, the last is NUL

-- A lock-delay of at least the TTL makes a holder stop before a successor can start, whatever ended the session
-- (consul.md 7.5).
local SESSION_DEFAULTS = { name = "holdfast", ttl = 15, lock_delay = 15, behavior = "release" }

local BEHAVIORS = { release = true, delete = true }
local MONITORS = { session = true, key = true }

-- The types of options. "duration" and "any" are looked at later.
local CLIENT = {
  address = "string", token = "string", token_file = "string", auth = "string", datacenter = "string",
  namespace = "string", partition = "string", tls = "table", timeout = "duration", session = "table", scheduler = "any",
}
local TLS = {
  ca_file = "string", ca_path = "string", cert_file = "string", key_file = "string", server_name = "string",
  verify = "boolean",
}
local SESSION = {
  name = "string", ttl = "duration", lock_delay = "duration", behavior = "string", node = "string", checks = "table",
  service_checks = "table",
}
local LOCK = {
  key = "string", value = "string", session = "any", session_ttl = "duration", session_name = "string",
  lock_delay = "duration", session_opts = "table", monitor = "string",
}
local REQUEST = {
  method = "string", url = "string", headers = "table", body = "string", timeout = "duration", max_body = "number",
}

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

-- ---- what is wrong -------------------------------------------------------------------------------------------------

-- A problem travels up as an error of this kind and leaves through `checked`.
local Problem = {}

local function mistake(format, ...)
  error(setmetatable({ text = format:format(...) }, Problem), 0)
end

local function refuse(format, ...)
  error(setmetatable({ text = format:format(...), code = "INVALID" }, Problem), 0)
end

-- Calls read(...): its answer; nil, message, code when it refuses; raises for a mistake.
local function checked(level, read, ...)
  local ok, result = pcall(read, ...)
  if ok then return result end
  if getmetatable(result) ~= Problem then error(result, 0) end
  if result.code then return nil, result.text, result.code end
  error(result.text, level + 2)
end

-- Text for a message: on one line, printable, not too long.
local function show(text)
  if #text > 200 then text = text:sub(1, 200) .. "..." end
  return '"' .. text:gsub('[%c"\\]', function(c)
    return (c == '"' or c == "\\") and "\\" .. c or ("\\x%02x"):format(c:byte())
  end) .. '"'
end

-- The same for an address or URL: a password in it stays out of logs.
local function show_url(text)
  return show((text:gsub("^(%a*:?/?/?).*@", "%1***@")))
end

local function a(kind)
  return (kind:match("^[aeio]") and "an " or "a ") .. kind
end

-- ---- single values -------------------------------------------------------------------------------------------------

-- Names and types of all options in a table; label(name) is what messages call one.
local function check(given, kinds, label)
  for name, value in pairs(given) do
    local kind = kinds[name]
    if not kind then mistake("unknown option %s", show(label(tostring(name)))) end
    if kind ~= "any" and kind ~= "duration" and type(value) ~= kind then
      mistake("%s must be %s, not %s", label(name), a(kind), a(type(value)))
    end
  end
end

local function itself(name) return name end

local function within(prefix)
  return function(name) return prefix .. "." .. name end
end

-- Text that travels in C strings, headers and URLs, where a control byte would end it or start something new.
-- Empty is the same as absent.
local function clean(value, what, secret)
  if value == nil or value == "" then return nil end
  if value:find("%c") then
    refuse("%s%s has a control character in it", what, secret and "" or " " .. show(value))
  end
  return value
end

local function seconds(value, what)
  local parsed, message = duration.parse(value)
  if not parsed then mistake("%s: %s", what, message) end
  return parsed
end

local function more_than_nothing(value, what)
  local parsed = seconds(value, what)
  if parsed == 0 then mistake("%s must be more than 0", what) end
  return parsed
end

local function one_of(choices, value, what)
  if choices[value] then return value end
  local names = {}
  for name in pairs(choices) do names[#names + 1] = show(name) end
  table.sort(names)
  mistake("%s must be %s, not %s", what, table.concat(names, " or "), show(value))
end

local function list(given, what)
  if given == nil then return nil end
  local copy, count = {}, 0
  for _ in pairs(given) do count = count + 1 end
  for i = 1, count do
    if type(given[i]) ~= "string" or given[i] == "" then mistake("%s must be a list of strings", what) end
    copy[i] = clean(given[i], what)
  end
  return copy
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
  data, message = file:read(MAX_TOKEN_FILE)
  file:close()
  if not data and message then refuse("%s %s cannot be read: %s", what, show(path), tostring(message)) end
  return data or ""
end

-- ---- a client's options --------------------------------------------------------------------------------------------

local function token_from_file(env, path, what)
  local token = read_file(env, path, what):match("^%s*(.-)%s*$")
  if token == "" then refuse("%s %s holds no token", what, show(path)) end
  if token:find("%c") then refuse("%s %s holds a token with a control character in it", what, show(path)) end
  return token
end

-- File before string, options before the environment.
local function read_token(env, given)
  if given.token_file then return token_from_file(env, given.token_file, "token_file") end
  if given.token then return clean(given.token, "token", true) end
  local path = variable(env, "CONSUL_HTTP_TOKEN_FILE")
  if path then return token_from_file(env, path, "CONSUL_HTTP_TOKEN_FILE") end
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
  local tls = given.tls or {}
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
local function read_tls(env, given, settings)
  local tls, source = given.tls or {}, {}
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

-- A session's options over those of base. A longer TTL takes the lock-delay with it.
local function read_session(given, base, label)
  check(given, SESSION, label)
  local session = {}
  for name, value in pairs(base) do session[name] = value end
  if given.ttl ~= nil then
    session.ttl = more_than_nothing(given.ttl, label("ttl"))
    session.lock_delay = math.max(session.lock_delay, session.ttl)
  end
  if given.lock_delay ~= nil then session.lock_delay = seconds(given.lock_delay, label("lock_delay")) end
  if given.behavior ~= nil then session.behavior = one_of(BEHAVIORS, given.behavior, label("behavior")) end
  session.name = clean(given.name, label("name")) or session.name
  session.node = clean(given.node, label("node")) or session.node
  session.checks = list(given.checks, label("checks")) or session.checks
  session.service_checks = list(given.service_checks, label("service_checks")) or session.service_checks
  return session
end

local function read_client(given, env)
  if type(given) ~= "table" then mistake("holdfast.new takes a table of options, not %s", a(type(given))) end
  check(given, CLIENT, itself)
  local settings = {
    timeout = more_than_nothing(given.timeout == nil and DEFAULT_TIMEOUT or given.timeout, "timeout"),
    session = read_session(given.session or {}, SESSION_DEFAULTS, within("session")),
    datacenter = clean(given.datacenter, "datacenter"),
    namespace = clean(choose(env, given.namespace, "namespace", "CONSUL_NAMESPACE")),
    partition = clean(choose(env, given.partition, "partition", "CONSUL_PARTITION")),
  }
  check(given.tls or {}, TLS, within("tls"))
  settings.base, settings.unix_socket = read_address(env, given)
  settings.token, settings.auth = read_token(env, given), read_auth(env, given)
  read_tls(env, given, settings)
  use_server_name(settings)
  return settings
end

-- ---- a lock's options ----------------------------------------------------------------------------------------------

-- What neither a URL path nor Consul takes as a key: redirects, 400 or 500 come of it (consul.md 3.11). A transaction
-- would take it, and then no other client could reach the key.
local function read_key(key)
  if key == nil or key == "" then mistake("missing key") end
  local slashed = "/" .. key .. "/"
  if key:sub(1, 1) == "/" then
    refuse("key %s: a key does not begin with a slash", show(key))
  elseif key:find("%c") then
    refuse("key %s: a key has no control characters", show(key))
  elseif key:find("//", 1, true) or slashed:find("/./", 1, true) or slashed:find("/../", 1, true) then
    refuse('key %s: a key has no empty, "." or ".." segments', show(key))
  end
  return key
end

local function field(object, name)
  local ok, value = pcall(function() return object[name] end)
  return ok and value or nil
end

-- The id of a session made elsewhere: itself, or what an object's id() answers.
local function read_session_id(session)
  local kind = type(session)
  if kind == "table" or kind == "userdata" then
    local id = field(session, "id")
    if type(id) ~= "function" then mistake("session must be a session or its id, not %s without id()", a(kind)) end
    local message, code
    session, message, code = id(session)
    if not session then
      error(setmetatable({ text = tostring(message or "the session has no id"), code = code or "SESSION" }, Problem), 0)
    end
  end
  if type(session) ~= "string" then mistake("session must be a session or its id, not %s", a(type(session))) end
  if session == "" or session:find("[^%w_-]") then refuse("session %s is not the id of a session", show(session)) end
  return session
end

-- session_opts with the short forms put in; nil when the lock has no session of its own.
local function own_session(given)
  local own
  for name, value in pairs(given.session_opts or {}) do
    own = own or {}
    own[name] = value
  end
  for name, short in pairs(SHORT) do
    if given[short] ~= nil then
      own = own or {}
      if own[name] ~= nil then mistake("give %s or session_opts.%s, not both", short, name) end
      own[name] = given[short]
    end
  end
  return own or (given.session_opts and {})
end

local function read_own_session(given, base)
  local own = own_session(given)
  if not own then return nil end
  if given.session ~= nil then
    mistake("session is made elsewhere: session_opts, session_ttl, session_name and lock_delay are not for it")
  end
  return read_session(own, base, function(name)
    return given[SHORT[name]] ~= nil and SHORT[name] or "session_opts." .. name
  end)
end

local function read_lock(given, base)
  if type(given) == "string" then given = { key = given } end
  if type(given) ~= "table" then mistake("a lock takes a key or a table of options, not %s", a(type(given))) end
  check(given, LOCK, itself)
  if given.key == nil or given.key == "" then mistake("missing key") end
  return {
    monitor = one_of(MONITORS, given.monitor or "session", "monitor"),
    session_opts = read_own_session(given, base),
    session = given.session ~= nil and read_session_id(given.session) or nil,
    value = given.value or "",
    key = read_key(given.key),
  }
end

-- ---- a request -----------------------------------------------------------------------------------------------------

local TOKEN = "^[%w!#$%%&'*+.^_`|~-]+$" -- of RFC 9110, section 5.6.2

-- Whole numbers without exponent or ".0", on every Lua.
local function number_text(value)
  if value % 1 == 0 and math.abs(value) < 2 ^ 63 then return ("%d"):format(value) end
  return tostring(value)
end

local function header_line(name, value)
  if type(name) ~= "string" then mistake("headers is a table from name to value, not a list") end
  if type(value) == "number" then value = number_text(value) end
  if type(value) ~= "string" then mistake("header %s must be a string, not %s", show(name), a(type(value))) end
  if not name:match(TOKEN) then refuse("header %s is not a header name", show(name)) end
  value = value:match("^[ \t]*(.-)[ \t]*$")
  if value:gsub("\t", ""):find("%c") then refuse("header %s has a control character in its value", show(name)) end
  return value == "" and name .. ";" or name .. ": " .. value
end

local function header_lines(headers)
  local lines = {}
  for name, value in pairs(headers) do lines[#lines + 1] = header_line(name, value) end
  table.sort(lines)
  return lines
end

local function read_url(url)
  if url == nil then mistake("missing url") end
  if url:find("[%c ]") or not url:match("^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]") then
    refuse("url %s: it must be http:// or https://, without spaces", show_url(url))
  end
  return url
end

local function read_max_body(value)
  if value == nil then return DEFAULT_MAX_BODY end
  if value ~= value or value < 0 or value > 2 ^ 53 or value % 1 ~= 0 then
    mistake("max_body must be a whole number of bytes, not %s", tostring(value))
  end
  return math.floor(value)
end

local function read_request(given)
  if type(given) ~= "table" then mistake("a request is a table, not %s", a(type(given))) end
  check(given, REQUEST, itself)
  local method = (given.method or (given.body and "POST" or "GET")):upper()
  if not method:match(TOKEN) then refuse("method %s is not an HTTP method", show(method)) end
  return {
    max_body = read_max_body(given.max_body),
    timeout = given.timeout ~= nil and more_than_nothing(given.timeout, "timeout") or nil,
    method = method,
    headers = header_lines(given.headers or {}),
    url = read_url(given.url),
    body = given.body,
  }
end

-- ---- the module ----------------------------------------------------------------------------------------------------

local M = {}

--- Options of holdfast.new.
-- @tparam table given what the user typed (`scheduler` is known, and left to holdfast.sched)
-- @tparam table env where the rest comes from: `getenv(name)` as os.getenv, `open(path, mode)` as io.open
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what core.client takes; nil, message, "INVALID"
function M.client(given, env, level)
  local settings, message, code = checked(level or 2, read_client, given, env)
  return settings, message, code
end

--- Options of client:lock.
-- @param given a key, or a table of options
-- @tparam[opt] table base the `session` of the client's settings: what a session of the lock's own is like where
-- `given` says nothing
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what client:lock_object takes; nil, message, "INVALID" (or what a session's id() answered)
function M.lock(given, base, level)
  local settings, message, code = checked(level or 2, read_lock, given, base or SESSION_DEFAULTS)
  return settings, message, code
end

--- A request. `timeout` stays nil when it is not given: the core takes the client's.
-- A header with an empty value becomes "Name;", which is how libcurl is told to send it.
-- @tparam table given `{ method=, url=, headers={}, body=, timeout=, max_body=1048576 }`; the method is POST with a
-- body and GET without unless it is given
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what start_request takes; nil, message, "INVALID"
function M.request(given, level)
  local settings, message, code = checked(level or 2, read_request, given)
  return settings, message, code
end

--- A timeout argument.
-- @param value a duration or nil (no limit)
-- @int[opt=2] level whom a mistake blames
-- @treturn number|nil seconds
function M.timeout(value, level)
  if value == nil then return nil end
  local limit, message = duration.parse(value)
  if not limit then error("timeout: " .. message, (level or 2) + 1) end
  return limit
end

return M
