--- Certificates for specs, made with openssl in a directory under $TMPDIR.
--
--    local certs = require("spec.support.certs").new()
--    local agent = helper.agent({ config = function(ip) return certs:agent(ip) end })
--    local client = helper.client({ address = agent:https(), tls = { ca_file = certs.ca } })
--    certs:remove()
-- @module spec.support.certs

local unpack = table.unpack or unpack -- luacheck: ignore

local Certs = {}
Certs.__index = Certs

local NAME = "server.dc1.consul" -- what Consul's servers have in their certificates

local function run(format, ...)
  local quoted = { ... }
  for i, text in ipairs(quoted) do quoted[i] = "'" .. text .. "'" end
  local pipe = io.popen(format:format(unpack(quoted)) .. " 2>&1; echo \"status $?\"")
  local said = pipe:read("*a")
  pipe:close()
  assert(said:find("status 0\n$"), said)
end

local NEW = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -config %s -subj %s"
  .. " -keyout %s -out %s"

function Certs:path(name)
  return self.directory .. "/" .. name
end

--- The paths of a certificate for these subjectAltNames, and of its key.
function Certs:issue(name, sans)
  local cert, key = self:path(name .. ".pem"), self:path(name .. ".key")
  run(NEW .. " -CA %s -CAkey %s -addext %s", self:path("conf"), "/CN=" .. name, key, cert, self.ca,
    self:path("ca.key"), "subjectAltName=" .. sans)
  return cert, key
end

--- Consul's configuration of an agent that speaks TLS on port 8501 as server.dc1.consul and as its address. extra:
-- whatever else is to be in it.
function Certs:agent(ip, extra)
  local cert, key = self:issue("agent-" .. ip, ("DNS:%s,DNS:localhost,IP:%s"):format(NAME, ip))
  local config = { ca_file = self.ca, cert_file = cert, key_file = key,
    ports = { https = 8501, dns = -1, serf_wan = -1, grpc = -1 } }
  for name, value in pairs(extra or {}) do config[name] = value end
  return config
end

--- Deletes them.
function Certs:remove()
  run("rm -rf %s", self.directory)
end

local M = { NAME = NAME }

--- Makes a CA.
-- @treturn table `ca`: the path of its certificate; `directory`: one as ca_path takes it; and the methods above
function M.new()
  local pipe = io.popen("exec mktemp -d", "r")
  local self = setmetatable({ directory = assert(pipe:read("*l")) }, Certs)
  pipe:close()
  self.ca = self:path("ca.pem")
  local file = assert(io.open(self:path("conf"), "w"))
  file:write("[req]\ndistinguished_name = name\n[name]\n")
  file:close()
  run(NEW .. " -addext basicConstraints=critical,CA:true", self:path("conf"), "/CN=holdfast", self:path("ca.key"),
    self.ca)
  run("openssl rehash %s", self.directory)
  return self
end

return M
