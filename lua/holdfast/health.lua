--- What checks say: `client.health`. Answers are Consul's, by its own names.
-- @module holdfast.health

local endpoints = require("holdfast.endpoints")

local read = endpoints.read
local STATE = { "string", one_of = { "any", "critical", "passing", "warning" } }

return {
  --- The facet of a client. All take options of a read last, and answer a list, the index to ask with next, and what
  -- the answer says of itself; nil, message, code.
  new = endpoints.facet("holdfast.health", {
    --- The checks of a node.
    -- @function health:node
    -- @string name
    node = read("health:node: ", "/v1/health/node/", "name"),
    --- The checks of a service.
    -- @function health:checks
    -- @string service
    checks = read("health:checks: ", "/v1/health/checks/", "service"),
    --- Where a service is: its node, itself, and the checks of both.
    -- @function health:service
    -- @string name
    -- @tparam[opt] table opts of a read, and `passing` (only where all checks pass), and `tag`, a list of those that it
    -- must have
    service = read("health:service: ", "/v1/health/service/", "name", { passing = "boolean", tag = "list" }),
    --- The checks that are in a state: any, passing, warning or critical.
    -- @function health:state
    -- @string state
    state = read("health:state: ", "/v1/health/state/", "state", nil, STATE),
  }),
}
