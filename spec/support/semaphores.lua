--- What specs of semaphores say often.
-- @module spec.support.semaphores

local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local json = require("dkjson")

local M = {}

--- What `.lock` says: { Limit =, Holders = { id, … } in order }, and the key as Consul has it; nil when there is none.
function M.state(prefix)
  local pair = consul.kv.get(prefix .. "/.lock")
  if not pair then return nil end
  local state, holders = json.decode(pair.Value), {}
  for id in pairs(state.Holders) do holders[#holders + 1] = id end
  table.sort(holders)
  return { Limit = state.Limit, Holders = holders }, pair
end

--- Writes `.lock` as an operator might.
function M.write(prefix, limit, holders)
  local named = {}
  for _, id in ipairs(holders) do named[#named + 1] = ("%q:true"):format(id) end
  local text = ("{\"Limit\":%d,\"Holders\":{%s}}"):format(limit, table.concat(named, ","))
  assert(consul.kv.put(prefix .. "/.lock", text, { flags = agent.SEMAPHORE_FLAGS }))
end

--- Takes a slot by a session made elsewhere, as Go's client would. Answers the id.
function M.occupy(prefix, limit, session)
  local state = M.state(prefix) or { Holders = {} }
  assert(consul.kv.put(("%s/%s"):format(prefix, session), "", { acquire = session, flags = agent.SEMAPHORE_FLAGS }))
  state.Holders[#state.Holders + 1] = session
  M.write(prefix, limit, state.Holders)
  return session
end

--- The keys below a prefix, without it.
function M.keys(prefix)
  local keys = {}
  for i, key in ipairs(consul.kv.keys(prefix .. "/")) do keys[i] = key:sub(#prefix + 2) end
  return keys
end

--- Whether nobody holds or wants a slot, for helper.eventually.
function M.is_empty(prefix)
  return function()
    local state, keys = M.state(prefix), M.keys(prefix)
    local clean = (not state or #state.Holders == 0) and (keys[1] == nil or (keys[1] == ".lock" and not keys[2]))
    return clean, table.concat(keys, " ") .. "; holders: " .. table.concat(state and state.Holders or {}, " ")
  end
end

return M
