--- Makes spec/support/server.lua answer like a Consul agent on which nobody else has anything, and names the requests
-- that holdfast sends to an agent.
--
--    local server = fake.consul()
--    server:rule({ first = true, match = fake.RENEW, times = 2, status = 500 })
-- @module spec.support.fake

local consul = require("spec.support.consul")
local helper = require("spec.helper")

local M = {
  -- Patterns of spec/support/proxy.lua.
  CREATE = "^PUT /v1/session/create",
  RENEW = "^PUT /v1/session/renew/",
  DESTROY = "^PUT /v1/session/destroy/",
  INFO = "^GET /v1/session/info/",
  KEY = "^GET /v1/kv/", -- any read of a key
  POLL = "^GET /v1/kv/.*[?&]index=", -- only those that wait
  TXN = "^PUT /v1/txn$", -- a lock or an unlock (or many reads, where many wait), without datacenter and the like
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

--- The answer to a transaction that has written a key: a rule without match.
function M.written(key, index)
  local body = "{\"Results\":[{\"KV\":{\"Key\":%q,\"Flags\":%s,\"ModifyIndex\":%d}}],\"Errors\":null}"
  return { status = 200, body = body:format(key, M.FLAGS, index) }
end

--- The answer to a renewal of a session that is not there: a rule without match. No other 404 says that.
M.NO_SESSION = { status = 404, body = "Session id 'x' not found" }

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

--- A server like helper.server() that answers as Consul does. Rules make the trouble.
function M.consul()
  local server = helper.server()
  server:pretend()
  return server
end

--- Has a session made elsewhere hold these keys of such a server, which forgets that it was asked to. Answers its id.
function M.occupy(server, keys)
  local session = consul.at({ address = server:address() }, function()
    local id = consul.session.create({ TTL = "60s" })
    for _, key in ipairs(keys) do
      local op = "[{\"KV\":{\"Verb\":\"lock\",\"Key\":%q,\"Session\":%q,\"Flags\":%s}}]"
      assert(consul.request("PUT", "/v1/txn", nil, op:format(key, id, M.FLAGS)) == 200)
    end
    return id
  end)
  server:forget()
  return session
end

-- The lock transactions that a server has been sent, in order; not the reads of many keys at once.
local function writes(server)
  local found = {}
  for _, entry in ipairs(server:log(M.TXN)) do
    if not entry.body:find("\"Verb\":\"get\"", 1, true) then found[#found + 1] = entry.body end
  end
  return found
end

--- What they do, without what it is conditional on: "lock", "unlock", or "lock unlock" for one that moves the index of
-- a key and leaves it free.
function M.verbs(server)
  local found = {}
  for i, body in ipairs(writes(server)) do
    local verbs = {}
    for verb in body:gmatch("\"Verb\":\"(.-)\"") do
      if not verb:find("^check%-") then verbs[#verbs + 1] = verb end
    end
    found[i] = table.concat(verbs, " ")
  end
  return found
end

--- One of them that is not conditional on the index that was seen, or on absence; nil when all are.
function M.unconditional(server)
  for _, body in ipairs(writes(server)) do
    local verb = body:match("^%[{\"KV\":{\"Verb\":\"(.-)\"")
    if verb ~= "check-index" and verb ~= "check-not-exists" then return body end
  end
end

--- The middle one of the times between what a log tells, in order: a pause of whatever process makes some of them
-- longer and some shorter, but not most of them.
function M.usual_gap(log)
  local gaps = {}
  for i = 2, #log do gaps[i - 1] = log[i].received - log[i - 1].received end
  table.sort(gaps)
  return gaps[math.ceil(#gaps / 2)]
end

--- The code in nil, message, code; "OK" for any other result.
function M.code_of(ok, _, code)
  return ok and "OK" or code
end

--- Waits for an op of the core: its result. Raises when there is none within so many seconds (5, stretched).
function M.result(op, seconds)
  local limit = helper.seconds(seconds or 5)
  if not op:wait(limit) then error(("the op has not finished within %g s"):format(limit), 2) end
  return op:result()
end

return M
