--- The client that a command line asks for. Private.
-- @module holdfast.cli.connect

local exits = require("holdfast.cli.exits")
local holdfast = require("holdfast")

local M = {}

--- How to reach Consul: { option, field of holdfast.new's options, what its value is called, text }. A dot leads into
-- a table.
M.OPTIONS = {
  { "--address", "address", "ADDRESS", "Consul's agent: host:port, http://, https:// or unix:///path." },
  { "--token", "token", "TOKEN", "ACL token. Who lists processes sees it here: better a file, or the environment." },
  { "--token-file", "token_file", "FILE", "File with the ACL token." },
  { "--auth", "auth", "USER:PASSWORD", "Basic authentication, for a proxy before Consul." },
  { "--datacenter", "datacenter", "NAME", "Another datacenter than the agent's." },
  { "--namespace", "namespace", "NAME", "Namespace (Consul Enterprise)." },
  { "--partition", "partition", "NAME", "Admin partition (Consul Enterprise)." },
  { "--ca-file", "tls.ca_file", "FILE", "CA certificates for https://." },
  { "--ca-path", "tls.ca_path", "DIRECTORY", "Directory of CA certificates." },
  { "--cert-file", "tls.cert_file", "FILE", "Client certificate." },
  { "--key-file", "tls.key_file", "FILE", "Key of the client certificate." },
  { "--server-name", "tls.server_name", "NAME", "The name that the server's certificate must have." },
}

--- What an option is kept under by the parser.
function M.target(row)
  return "consul_" .. row[2]
end

--- Makes the client.
-- @tparam table options what the parser has read
-- @tparam[opt] table given further options of holdfast.new
-- @treturn client|nil the client; nil, exit status, when it has been said why
function M.open(options, given)
  given = given or {}
  given.tls, given.timeout = {}, options.http_timeout
  if options.no_verify then given.tls.verify = false end
  for _, row in ipairs(M.OPTIONS) do
    local value, within = options[M.target(row)], row[2]:match("^tls%.(.*)")
    if within then given.tls[within] = value else given[row[2]] = value end
  end
  local client, message, code = holdfast.new(given)
  if not client then return nil, exits.fail(exits.of(code), "%s", message) end
  return client
end

return M
