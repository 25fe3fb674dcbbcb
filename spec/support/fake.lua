--- Makes spec/support/server.lua answer like a Consul agent whose every lock is free, and names the requests that
-- holdfast sends to an agent.
--
--    local server = fake.consul()
--    server:rule({ first = true, match = fake.RENEW, times = 2, status = 500 })
-- @module spec.support.fake

local helper = require("spec.helper")

local M = {
  -- Patterns of spec/support/proxy.lua.
  CREATE = "^PUT /v1/session/create",
  RENEW = "^PUT /v1/session/renew/",
  DESTROY = "^PUT /v1/session/destroy/",
  INFO = "^GET /v1/session/info/",
  KEY = "^GET /v1/kv/", -- any read of a key
  POLL = "^GET /v1/kv/.*[?&]index=", -- only those that wait
  TXN = "^PUT /v1/txn$", -- a lock or an unlock, of a client without datacenter and the like
  AUDIT = "^PUT /v1/txn%?.*consistent",

  FLAGS = "3304740253564472344", -- what a lock's key has
}

--- The id of the nth session that the fake makes.
function M.id(n)
  return ("00000000-0000-4000-8000-%012d"):format(n)
end

--- The patterns of renewals of that session, and of looks at it.
function M.renew(n)
  return M.RENEW .. M.id(n):gsub("%-", "%%-")
end

function M.info(n)
  return M.INFO .. M.id(n):gsub("%-", "%%-")
end

--- The answer to a read of a key that session ("" for none) has: a rule without match.
function M.pair(session, index)
  local holder = session ~= "" and ("\"Session\":%q,"):format(session) or ""
  local body = "[{\"LockIndex\":1,\"Key\":\"k\",\"Flags\":%s,\"Value\":null,%s\"CreateIndex\":5,\"ModifyIndex\":6}]"
  return { status = 200, headers = index and { ["x-consul-index"] = index }, body = body:format(M.FLAGS, holder) }
end

--- The answer to a transaction that is refused: what[i] is said of operation at[i] (0, 1, ...).
function M.refusal(what, at)
  local errors = {}
  for i, text in ipairs(what) do
    errors[i] = ("{\"OpIndex\":%d,\"What\":\"%s\"}"):format(at and at[i] or i - 1, (text:gsub("\"", "\\\"")))
  end
  return { status = 409, body = "{\"Results\":null,\"Errors\":[" .. table.concat(errors, ",") .. "]}" }
end

--- The same rule for requests that match, with whatever else is to be in it.
function M.on(match, answer, extra)
  local rule = { match = match }
  for name, value in pairs(answer) do rule[name] = value end
  for name, value in pairs(extra or {}) do rule[name] = value end
  return rule
end

local function json(body, index)
  return { status = 200, headers = index and { ["x-consul-index"] = index }, body = body }
end

local SESSIONS = 12 -- so many have an id of their own, and the last one's is given out again and again

--- The token of every lock that the fake gives.
M.TOKEN = 20

--- A server like helper.server(), with rules that answer what a client sends for a lock that is free. Rules that are
-- to go before them say first = true.
function M.consul()
  local server = helper.server()
  for n = 1, SESSIONS do
    server:rule(M.on(M.CREATE, json(("{\"ID\":%q}"):format(M.id(n))), { times = n < SESSIONS and 1 or nil }))
  end
  server:rule(M.on(M.RENEW, json("[{\"ID\":\"-\",\"TTL\":\"\"}]")))
  server:rule(M.on(M.DESTROY, json("true")))
  server:rule({ match = M.INFO .. ".*index=", action = "stall" })
  server:rule(M.on(M.INFO, json("[{\"ID\":\"-\"}]", "10")))
  server:rule(M.on(M.AUDIT, json("{\"Results\":[],\"Errors\":null}")))
  local done = "{\"Results\":[{\"KV\":{\"ModifyIndex\":%d}}],\"Errors\":null}"
  server:rule(M.on("^PUT /v1/txn", json(done:format(M.TOKEN))))
  server:rule({ match = M.KEY, status = 404, headers = { ["x-consul-index"] = "19" } })
  return server
end

--- The verbs of the lock transactions that a server has been sent, in order.
function M.verbs(server)
  local found = {}
  for i, entry in ipairs(server:log(M.TXN)) do found[i] = entry.body:match("\"Verb\":\"(.-)\"") end
  return found
end

--- The code in nil, message, code; "OK" for any other result.
function M.code_of(ok, _, code)
  return ok and "OK" or code
end

--- Waits for an op of the core: its result. Raises when there is none within so many seconds (5).
function M.result(op, seconds)
  local limit = helper.seconds(seconds or 5)
  if not op:wait(limit) then error(("the op has not finished within %g s"):format(limit), 2) end
  return op:result()
end

return M
