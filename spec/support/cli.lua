--- Runs bin/holdfast in a process of its own.
--
--    local status, out, err = cli.run({ "lock", key, "true" })
-- @module spec.support.cli

local helper = require("spec.helper")

local M = {}

local function code(words)
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = ("%q"):format(word) end
  return ("arg = { [0] = 'bin/holdfast', %s } dofile('bin/holdfast')"):format(table.concat(quoted, ", "))
end

--- Starts it. Answers what helper.spawn_lua answers.
function M.spawn(words, env)
  return helper.spawn_lua(code(words), env)
end

--- Runs it to its end. Answers exit status, standard output, standard error.
function M.run(words, env)
  return helper.run_lua(code(words), env)
end

--- A word for a shell.
function M.quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- A command line for a shell that runs it.
function M.line(words)
  local line = { "LUA_PATH=" .. M.quote(package.path), "LUA_CPATH=" .. M.quote(package.cpath),
    M.quote(os.getenv("HF_LUA")), "bin/holdfast" }
  for _, word in ipairs(words) do line[#line + 1] = M.quote(word) end
  return table.concat(line, " ")
end

return M
