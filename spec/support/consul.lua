--- A plain Consul client for specs, independent of holdfast: one connection per request, no retries, errors raised.
-- @module spec.support.consul

local http = require("socket.http")
local json = require("dkjson")
local ltn12 = require("ltn12")
local mime = require("mime")

local M = {}

local function escape(text)
  return (text:gsub("[^%w%-._~/]", function(char) return ("%%%02X"):format(char:byte()) end))
end

local function query(parameters)
  local parts = {}
  for name, value in pairs(parameters or {}) do
    parts[#parts + 1] = value == true and name or name .. "=" .. escape(tostring(value)):gsub("/", "%%2F")
  end
  return parts[1] and "?" .. table.concat(parts, "&") or ""
end

-- Where M.at sends everything meanwhile.
local elsewhere

--- host:port of the agent that spec/support/with_consul started.
function M.address()
  return elsewhere and elsewhere.address or os.getenv("CONSUL_HTTP_ADDR")
    or error("CONSUL_HTTP_ADDR is not set: run this under spec/support/with_consul", 2)
end

local function restore(before, ok, ...)
  elsewhere = before
  if not ok then error((...), 0) end
  return ...
end

--- Calls fn(...), one of these functions or one that calls them, for another server.
-- server: { address = host:port, token = for its ACL, timeout = seconds of silence that are an error (60) }
-- @return what fn answers
function M.at(server, fn, ...)
  local before = elsewhere
  elsewhere = server
  return restore(before, pcall(fn, ...))
end

--- Any request: request("PUT", "/v1/txn", { parameter = value | true }, body).
-- @return status, body, headers
function M.request(method, path, parameters, body)
  local parts, server = {}, elsewhere or {}
  http.TIMEOUT = server.timeout or 60
  local ok, status, headers = http.request({
    method = method, url = "http://" .. M.address() .. escape(path) .. query(parameters),
    headers = { ["content-length"] = #(body or ""), ["x-consul-token"] = server.token },
    source = ltn12.source.string(body or ""), sink = ltn12.sink.table(parts),
  })
  if not ok then error(("%s %s: %s"):format(method, path, status), 2) end
  return status, table.concat(parts), headers
end

local function call(method, path, parameters, body)
  local status, text = M.request(method, path, parameters, body)
  if status ~= 200 then error(("%s %s: %d %s"):format(method, path, status, text), 3) end
  return json.decode(text), text
end

M.kv = {}

--- What the key has: { Key, Value, Flags, Session, CreateIndex, ModifyIndex, LockIndex }, and the JSON text.
-- Value is decoded, and "" when Consul says null; Flags is a decimal string, as exact as Consul wrote it.
-- @return nil when the key is absent
function M.kv.get(key)
  local status, text = M.request("GET", "/v1/kv/" .. key)
  if status == 404 then return nil end
  if status ~= 200 then error(("get %s: %d %s"):format(key, status, text), 2) end
  local pair = json.decode(text)[1]
  pair.Value = pair.Value and mime.unb64(pair.Value) or ""
  pair.Flags = text:match("\"Flags\":%s*(%d+)")
  return pair, text
end

--- The keys under a prefix.
function M.kv.keys(prefix)
  local status, text = M.request("GET", "/v1/kv/" .. prefix, { keys = true })
  return status == 404 and {} or json.decode(text)
end

--- parameters: flags, acquire, release, cas. Answers Consul's true or false.
function M.kv.put(key, value, parameters)
  return (call("PUT", "/v1/kv/" .. key, parameters, value))
end

--- parameters: recurse, cas.
function M.kv.delete(key, parameters)
  return (call("DELETE", "/v1/kv/" .. key, parameters))
end

M.session = {}

--- options as in Consul's API: { Name, TTL = "10s", LockDelay = "1s", Behavior, … }. Answers the id.
function M.session.create(options)
  local body = options and next(options) and json.encode(options) or ""
  return call("PUT", "/v1/session/create", nil, body).ID
end

function M.session.destroy(id)
  return (call("PUT", "/v1/session/destroy/" .. id))
end

--- The session as Consul describes it, nil when there is none.
function M.session.info(id)
  return call("GET", "/v1/session/info/" .. id)[1]
end

--- false when there is no such session any more.
function M.session.renew(id)
  local status, text = M.request("PUT", "/v1/session/renew/" .. id)
  if status == 404 then return false end
  if status ~= 200 then error(("renew %s: %d %s"):format(id, status, text), 2) end
  return json.decode(text)[1]
end

function M.session.list()
  return (call("GET", "/v1/session/list"))
end

return M
