--- Any call to Consul's HTTP API: what is sent, and what its answer comes down to.
--
-- The rules are those of Go's client (api/api.go: setQueryOptions, parseQueryMeta) and of Consul's own page on blocking
-- queries.
-- @module holdfast.call

local check = require("holdfast.check")
local core = require("holdfast.core")
local duration = require("holdfast.duration")
local headers = require("holdfast.headers")
local object = require("holdfast.object")

require("holdfast.interpreted")()

-- How long a blocking read waits when it is not said, seconds. Servers go on with one whose client has left.
local WAIT = 60
local WAIT_MOST = 600 -- Consul waits no longer

local M = {}

-- ---- what is asked -------------------------------------------------------------------------------------------------

local function is_no_path(path)
  if not path:find("^/v1/[%w%-._~!$&'()*+,;=:@/%%]*$") then
    return "must begin with /v1/ and be percent-encoded; parameters go into query"
  elseif path:find("//", 1, true) or (path .. "/"):find("/%.%.?/") then
    return 'has an empty, "." or ".." segment'
  end
end

local CACHED = { fields = { max_age = "duration", stale_if_error = "duration" } }

local function read_cached(value)
  if type(value) == "boolean" then return value and {} or false end
  if type(value) == "table" then return check.read(value, CACHED, "cached") end
end

-- Parameters with a meaning; all others go as they are.
local POSITIVE = { "duration", positive = true }
local KNOWN = {
  consistent = "boolean", stale = "boolean", wait = "duration", token = { "text", secret = true },
  index = { "count", least = 0, what = "an index, a whole number" },
  cached = { read_cached, what = "true or a table" },
}

-- ---- for the modules of single endpoints ----

-- The options of a write and of a read, as rules.
M.WRITE = { dc = "text", ns = "text", partition = "text", token = KNOWN.token, timeout = POSITIVE }
M.READ = {
  near = "text", filter = "text", consistent = "boolean", stale = "boolean", wait = "duration", index = KNOWN.index,
  cached = KNOWN.cached,
}
for name, rule in pairs(M.WRITE) do M.READ[name] = rule end

--- Rules with some more.
function M.with(rules, more)
  local all = {}
  for name, rule in pairs(rules) do all[name] = rule end
  for name, rule in pairs(more) do all[name] = rule end
  return { fields = all, default = {} }
end

--- Text as a part of a path; slashes stay when they are kept.
function M.escape(text, keep_slashes)
  return (text:gsub(keep_slashes and "[^A-Za-z0-9._~/-]" or "[^A-Za-z0-9._~-]", function(char)
    return ("%%%02X"):format(char:byte())
  end))
end

--- A call with the options of a read or write, and more parameters.
function M.request(method, path, opts, more)
  local query = {}
  for name, value in pairs(opts) do query[name] = value end
  for name, value in pairs(more or {}) do query[name] = value end
  local timeout = query.timeout
  query.timeout = nil
  return { method = method, path = path, query = query, timeout = timeout }
end

-- ---- what is typed ----

local function read_parameter(name, value)
  local label = check.show(name)
  if type(name) ~= "string" or not name:find("^[%w_.-]+$") then check.mistake("no parameter is called %s", label) end
  if KNOWN[name] then return check.read(value, KNOWN[name], name) end
  if type(value) == "table" then return check.read(value, "list", name) end
  if type(value) == "number" then return (value % 1 == 0 and "%.0f" or "%.14g"):format(value) end
  if type(value) ~= "string" and type(value) ~= "boolean" then
    check.mistake("%s must be text, a number, a boolean or a list of texts, not %s", name, check.kind_of(value))
  end
  if type(value) == "string" then check.form(value, "text", name) end
  return value
end

local function read_query(given)
  if type(given) ~= "table" then return nil end
  local query = {}
  for name, value in pairs(given) do query[name] = read_parameter(name, value) end
  if query.consistent and (query.stale or query.cached) then
    check.mistake("consistent excludes %s", query.stale and "stale" or "cached")
  end
  return query
end

local CALL = {
  says = "a call takes a table",
  fields = {
    method = { "string", form = "method" }, path = { "string", required = true, form = is_no_path },
    query = { read_query, what = "a table", default = {} }, headers = { "headers", numbers = true, default = {} },
    body = "any", timeout = POSITIVE, token = KNOWN.token,
  },
}

-- A wait that is not more than nothing would be Consul's own of 5 minutes, and an index of 0 does not block.
local function blocking(query)
  local index, wait = query.index, query.wait or WAIT
  query.index, query.wait = nil, nil
  if not index or index == 0 or wait == 0 then return nil end
  wait = math.min(wait, WAIT_MOST)
  query.index, query.wait = ("%.0f"):format(index), duration.format(wait)
  return wait, index
end

local function cache_control(cached)
  local parts = {}
  if cached.max_age then parts[1] = ("max-age=%.0f"):format(cached.max_age) end
  if cached.stale_if_error then parts[#parts + 1] = ("stale-if-error=%.0f"):format(cached.stale_if_error) end
  return parts[1] and table.concat(parts, ", ")
end

local function pairs_of(query)
  local list = {}
  for name, value in pairs(query) do
    if value == true then
      list[#list + 1] = name
    elseif type(value) == "table" then
      for _, one in ipairs(value) do list[#list + 1] = name .. "=" .. one end
    elseif value then
      list[#list + 1] = name .. "=" .. value
    end
  end
  table.sort(list)
  return list
end

local RAW = { "^/v1/kv/", "^/v1/snapshot$", "^/v1/event/fire/" }

-- What Go's client says of a body that is given as it is.
local function type_of(path)
  for _, pattern in ipairs(RAW) do
    if path:find(pattern) then return "application/octet-stream" end
  end
  return "application/json"
end

local function read_body(call)
  local body = call.body
  if body == nil then return nil end
  if type(body) == "string" then return body, type_of(call.path) end
  local ok, text = pcall(core.json_encode, body)
  if not ok then check.mistake("body: %s", tostring(text)) end
  return text, "application/json"
end

local function header_lines(call, kind, token, cache)
  local named = { ["content-type"] = kind, ["x-consul-token"] = token, ["cache-control"] = cache }
  for name, value in pairs(call.headers) do named[name:lower()] = headers.trim(value) end
  local lines = {}
  for name, value in pairs(named) do lines[#lines + 1] = name .. ": " .. value end
  return lines
end

local function read_call(given)
  local call = check.read(given, CALL)
  local query = call.query
  local cached, token = query.cached, call.token or query.token
  local wait, index = blocking(query)
  local body, kind = read_body(call)
  query.cached, query.token = cached and true or nil, nil
  return {
    method = (call.method or (body and "PUT" or "GET")):upper(), path = call.path, query = pairs_of(query),
    headers = header_lines(call, kind, token, cached and cache_control(cached)), body = body, timeout = call.timeout,
    wait = wait, index = index,
  }
end

--- Reads what a call is to be.
-- @tparam table given as for client:call
-- @int level whom a mistake blames, as for error()
-- @treturn table|nil what `send` takes; nil, message, "INVALID"
function M.prepare(given, level)
  local settings, message, code = check.guard(level + 1, "", read_call, given)
  return settings, message, code
end

-- ---- what is answered ----------------------------------------------------------------------------------------------

-- The index to ask with next, as Consul wants it: at least 1, since 0 would not block; and 0, to begin anew, when it
-- has gone back behind the one that was asked with.
local function next_index(index, asked)
  if not index then return nil end
  if asked and index < asked then return 0 end
  return math.max(index, 1)
end

local function flag(value)
  if value ~= nil then return value == "true" end
end

local function meta_of(settings, status, raw)
  local fields = headers.parse(raw)
  local contact, cache = tonumber(fields["x-consul-lastcontact"]), fields["x-cache"]
  return {
    status = status, headers = fields, index = next_index(tonumber(fields["x-consul-index"]), settings.index),
    known_leader = flag(fields["x-consul-knownleader"]), last_contact = contact and contact / 1000,
    translate_addresses = flag(fields["x-consul-translate-addresses"]),
    default_acl_policy = fields["x-consul-default-acl-policy"],
    filtered_by_acls = flag(fields["x-consul-results-filtered-by-acls"]),
    content_hash = fields["x-consul-contenthash"], query_backend = fields["x-consul-query-backend"],
    cache_hit = cache and cache == "HIT", cache_age = tonumber(fields.age),
  }
end

local function refused(settings, code, what, meta)
  return nil, ("%s %s: %s"):format(settings.method, settings.path, what), code, meta
end

local function value_of(settings, meta, body)
  local is_json = (meta.headers["content-type"] or ""):find("^application/json") ~= nil
  if body == "" and (is_json or settings.method ~= "GET") then return true, meta.index, meta end
  if not is_json then return body, meta.index, meta end
  local value, message, code = core.json_decode(body)
  if message then return refused(settings, code, "the reply is not JSON", meta) end
  if value == nil then return refused(settings, "NOT_FOUND", "null: there is no such thing", meta) end
  return value, meta.index, meta
end

local function answer(settings, status, first, second, ...)
  if status then return value_of(settings, meta_of(settings, status, first), second) end
  local failed_status, raw, body = ...
  if not failed_status then return nil, first, second end
  local meta = meta_of(settings, failed_status, raw)
  meta.body = body
  return nil, first, second, meta
end

--- Sends a call and waits for its answer.
-- @param client
-- @tparam table settings what `prepare` answered
-- @return as client:call
function M.send(client, settings)
  return answer(settings, object.finish(client, client:start_call(settings)))
end

M.client = {}

--- Asks Consul for whatever has no method of its own.
--
-- With `query.index` a read waits until there is something newer, or `query.wait` is over (60 s; 10 min at most). The
-- index that is answered is the one to ask with next: never less than 1, and 0 when it has gone backwards.
-- @function client:call
-- @tparam table req `{ method=, path="/v1/...", query={}, headers={}, body=, timeout=, token= }`. The method is PUT
-- with a body and GET without, unless it is given. `path` is percent-encoded. In `query` a value is text, a number,
-- true for a parameter without one, or a list; `consistent`, `stale`, `index`, `wait` (a duration), `near`, `filter`,
-- `dc`, `ns`, `partition` are as Consul has them, `cached` is true or `{ max_age=, stale_if_error= }`, and `token`
-- becomes a header. A body that is a table goes as JSON; `holdfast.empty_array` is an array without elements.
-- `timeout` is for all of it; without it, each request has the client's, and a blocking read what it may take
-- @return the decoded JSON, true for nothing, text for what is not JSON; then the index to ask with next, and a table
-- `{ status, headers, index, known_leader, last_contact (seconds), default_acl_policy, filtered_by_acls,
-- translate_addresses, content_hash, query_backend, cache_hit, cache_age (seconds) }`. Integers that this Lua's
-- numbers cannot hold are decimal text, null is nil. Else nil, message, code (NOT_FOUND for 404 and for null, DENIED,
-- TOO_LARGE, INVALID, HTTP for other statuses, PROTOCOL, TIMEOUT, CONNECT, TLS, CLOSED, FORKED, NOMEM), and the same
-- table with `body` when there was an answer
function M.client:call(req)
  local settings, message, code = M.prepare(req, 2)
  if not settings then return nil, message, code end
  return M.send(self, settings)
end

return M
