--- Options of holdfast.new and the CONSUL_* environment variables: how to reach Consul, and what is the same for all
-- that a client does. Private.
--
-- Mistakes and refusals, and `level`, are those of holdfast.options.
-- @module holdfast.options_client

local check = require("holdfast.check")
local options = require("holdfast.options")

require("holdfast.interpreted")()

local refuse, show, show_url = check.refuse, check.show, check.show_url

local DEFAULT_ADDRESS = "127.0.0.1:8500"
local MAX_TOKEN_FILE = 8 * 1024 -- as in csrc/consul/token.c

-- ---- what may be given ---------------------------------------------------------------------------------------------

local TLS = {
  ca_file = "string", ca_path = "string", cert_file = "string", key_file = "string", server_name = "string",
  verify = "boolean",
}
local CLIENT = {
  says = "holdfast.new takes a table of options",
  fields = {
    address = "string", token = "string", token_file = "string", auth = "string", datacenter = "text",
    namespace = "string", partition = "string", tls = { fields = TLS, default = {} },
    timeout = { "duration", positive = true, default = 10 }, session = { fields = options.SESSION, default = {} },
    scheduler = "any", log = "any",
  },
}

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
  if path:sub(1, 1) ~= "/" or #path > options.MAX_SOCKET_PATH then
    refuse("%s %s: a socket is unix:// and an absolute path of at most %d bytes", what, show(address),
      options.MAX_SOCKET_PATH)
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

local function read_client(given, env)
  given = check.read(given, CLIENT)
  local settings = {
    timeout = given.timeout, datacenter = given.datacenter, session = options.session_defaults(given.session),
    namespace = clean(choose(env, given.namespace, "namespace", "CONSUL_NAMESPACE")),
    partition = clean(choose(env, given.partition, "partition", "CONSUL_PARTITION")),
  }
  settings.base, settings.unix_socket = read_address(env, given)
  settings.token, settings.token_file = read_token(env, given)
  settings.auth = read_auth(env, given)
  read_tls(env, given.tls, settings)
  local name = settings.server_name
  settings.server_name = nil
  if name and not settings.unix_socket then
    settings.base, settings.connect_to = options.under_name(settings.base, name)
  end
  return settings
end

-- ---- the module ----------------------------------------------------------------------------------------------------

local M = {}

--- Options of holdfast.new.
-- @tparam table given what the user typed (`scheduler` and `log` are known, and left to others)
-- @tparam table env where the rest comes from: `getenv(name)` as os.getenv, `open(path, mode)` as io.open
-- @int[opt=2] level whom a mistake blames
-- @treturn table|nil what core.client takes; nil, message, "INVALID"
function M.read(given, env, level)
  local settings, message, code = check.guard((level or 2) + 1, "", read_client, given, env)
  return settings, message, code
end

return M
