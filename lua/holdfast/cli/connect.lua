--- The client that a command line asks for. Private.
-- @module holdfast.cli.connect

local exits = require("holdfast.cli.exits")
local holdfast = require("holdfast")
local parser = require("holdfast.cli.parser")

local M = {}

--- Makes the client.
-- @tparam table options what the parser has read
-- @tparam[opt] table given further options of holdfast.new
-- @treturn client|nil the client; nil, exit status, when it has been said why
function M.open(options, given)
  given = given or {}
  given.tls, given.timeout = {}, options.http_timeout
  if options.no_verify then given.tls.verify = false end
  for _, row in ipairs(parser.CONNECT) do
    local value, within = options[parser.target(row)], row[2]:match("^tls%.(.*)")
    if within then given.tls[within] = value else given[row[2]] = value end
  end
  local client, message, code = holdfast.new(given)
  if not client then return nil, exits.fail(exits.of(code), "%s", message) end
  return client
end

return M
