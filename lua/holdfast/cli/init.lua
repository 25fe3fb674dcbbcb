--- The command line: `holdfast COMMAND …`. Private, but for bin/holdfast.
-- @module holdfast.cli

local exits = require("holdfast.cli.exits")
local list = require("holdfast.cli.list")
local parser = require("holdfast.cli.parser")

local COMMANDS = {
  doctor = require("holdfast.cli.doctor"), lock = require("holdfast.cli.lock"), locks = list.locks,
  release = require("holdfast.cli.release"), sessions = list.sessions,
}

local M = {}

local function run(args)
  local options, problem = parser.read(args)
  if not options then return exits.fail(exits.USAGE, "%s (holdfast --help says what there is)", problem) end
  return COMMANDS[options.command].run(options)
end

--- Does what the command line says.
-- @tparam table args the words after the program's name
-- @treturn number the exit status
function M.main(args)
  local ok, status = xpcall(function() return run(args) end, debug.traceback)
  if ok then return status end
  if status:find("^[^\n]*interrupted!\n") then return 130 end -- how lua tells of Ctrl-C; 128 + SIGINT
  return exits.fail(exits.INTERNAL, "%s", status)
end

return M
