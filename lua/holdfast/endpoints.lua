--- Methods that are one endpoint of Consul's each. Private.
-- @module holdfast.endpoints

local call = require("holdfast.call")
local check = require("holdfast.check")

local M = {}

-- "" would be another endpoint.
local NAME = { "string", form = function(name)
  return (name == "" and "is empty") or (name:find("%c") and "has a control character in it") or nil
end }

M.NAME = NAME

--- Sends a call for a facet. Called by a method itself, whose caller a mistake is blamed on.
-- @return as client:call
function M.ask(facet, method, path, opts, more, body)
  local req = call.request(method, path, opts, more)
  req.body = body
  local settings, message, code = call.prepare(req, 3)
  if not settings then return nil, message, code end
  return call.send(facet.client_, settings)
end

--- A method that reads.
-- @string prefix of messages
-- @string path
-- @string[opt] parameter its name; it is the last part of the path
-- @tparam[opt] table more rules of options
-- @tparam[opt] table rule of the parameter, when it is no name of the user's
-- @treturn function f(facet, [parameter,] opts)
function M.read(prefix, path, parameter, more, rule)
  local opts = { "opts", call.with(call.READ, more or {}), optional = true }
  if not parameter then
    local arguments = check.arguments(prefix, opts)
    return function(facet, given)
      local read, message, code = arguments(2, given)
      if not read then return nil, message, code end
      local value, index, meta, extra = M.ask(facet, "GET", path, read.opts)
      return value, index, meta, extra
    end
  end
  local arguments = check.arguments(prefix, { parameter, rule or NAME }, opts)
  return function(facet, name, given)
    local read, message, code = arguments(2, name, given)
    if not read then return nil, message, code end
    local value, index, meta, extra = M.ask(facet, "GET", path .. call.escape(read[parameter]), read.opts)
    return value, index, meta, extra
  end
end

--- The maker of a facet.
-- @string name of the class
-- @tparam table methods
-- @treturn function f(client)
function M.facet(name, methods)
  methods.__index, methods.__name = methods, name
  return function(client) return setmetatable({ client_ = client }, methods) end
end

return M
