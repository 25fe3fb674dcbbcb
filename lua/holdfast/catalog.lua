--- What the cluster knows of nodes and services: `client.catalog`. Answers are Consul's, by its own names.
-- @module holdfast.catalog

local endpoints = require("holdfast.endpoints")

local read = endpoints.read
local TAG = { tag = "list" }

return {
  --- The facet of a client. All take options of a read last, and answer a table, the index to ask with next, and what
  -- the answer says of itself; nil, message, code.
  new = endpoints.facet("holdfast.catalog", {
    --- All nodes.
    -- @function catalog:nodes
    nodes = read("catalog:nodes: ", "/v1/catalog/nodes"),
    --- All services: from name to the list of its tags.
    -- @function catalog:services
    services = read("catalog:services: ", "/v1/catalog/services"),
    --- Where a service is, healthy or not.
    -- @function catalog:service
    -- @string name
    -- @tparam[opt] table opts of a read, and `tag`, a list of those that it must have
    service = read("catalog:service: ", "/v1/catalog/service/", "name", TAG),
    --- A node and its services; NOT_FOUND when there is none.
    -- @function catalog:node
    -- @string name
    node = read("catalog:node: ", "/v1/catalog/node/", "name"),
  }),
}
