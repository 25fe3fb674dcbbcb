--- Agents with an ACL that denies what nobody has allowed.
--
--    local agent = acl.agent()
--    local token, id = acl.token(agent, 'key_prefix "k/" { policy = "write" }')
-- @module spec.support.acl

local json = require("dkjson")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local ROOT = "5e551014-0000-4000-8000-00000000acl0"

local M = { ROOT = ROOT }

local function put(agent, what, body)
  local status, text = agent:ask(consul.request, "PUT", "/v1/acl/" .. what, nil, json.encode(body))
  assert(status == 200, text)
  return json.decode(text)
end

--- Such an agent; agent:ask may do everything. options as for helper.agent.
function M.agent(options)
  local given = { token = ROOT,
    config = { acl = { enabled = true, default_policy = "deny", tokens = { master = ROOT, agent = ROOT } } } }
  for name, value in pairs(options or {}) do given[name] = value end
  return helper.agent(given)
end

local policies = 0

--- A policy of these rules. Answers its id.
function M.policy(agent, rules)
  policies = policies + 1
  return put(agent, "policy", { Name = "policy-" .. policies, Rules = rules }).ID
end

--- Gives it other rules.
function M.change(agent, policy, rules)
  put(agent, "policy/" .. policy, { Name = policy, Rules = rules })
end

--- A token for a policy. Answers it and its id.
function M.token(agent, policy)
  local token = put(agent, "token", { Policies = { { ID = policy } } })
  return token.SecretID, token.AccessorID
end

--- Deletes the token with that id.
function M.revoke(agent, id)
  local status, text = agent:ask(consul.request, "DELETE", "/v1/acl/token/" .. id)
  assert(status == 200, text)
end

return M
