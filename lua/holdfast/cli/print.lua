--- How data is printed: for people in columns, for programs as JSON. Private.
-- @module holdfast.cli.print

local core = require("holdfast.core")
local exits = require("holdfast.cli.exits")

local M = {}

--- Prints a text, all of it.
-- @treturn number the exit status: who reads data is to know of what is missing
function M.text(text)
  local done, problem = io.stdout:write(text)
  if done then done, problem = io.stdout:flush() end
  if done then return exits.OK end
  return exits.fail(exits.UNWRITTEN, "standard output: %s", problem)
end

-- Nothing that Consul knows is to move the cursor of a terminal.
local function cell(text)
  if not text or text == "" then return "-" end
  return (text:gsub("%c", "?"))
end

local function text_of(value) return value ~= nil and tostring(value) or nil end

local function widths(lines)
  local wide = {}
  for _, line in ipairs(lines) do
    for i, text in ipairs(line) do wide[i] = math.max(wide[i] or 0, #text) end
  end
  return wide
end

--- Prints rows.
-- @tparam table columns `{ { field, heading, text = tostring }, ... }`
-- @tparam table rows tables from field to value
-- @treturn number the exit status
function M.columns(columns, rows)
  local lines = { {} }
  for i, column in ipairs(columns) do lines[1][i] = column[2] end
  for _, row in ipairs(rows) do
    local line = {}
    for i, column in ipairs(columns) do
      local value = row[column[1]]
      line[i] = cell((column[3] or text_of)(value))
    end
    lines[#lines + 1] = line
  end
  local wide, texts = widths(lines), {}
  for at, line in ipairs(lines) do
    for i = 1, #line - 1 do line[i] = line[i] .. (" "):rep(wide[i] - #line[i]) end
    texts[at] = table.concat(line, "  ") .. "\n"
  end
  return M.text(table.concat(texts))
end

--- Prints rows as a JSON array of objects, one a line.
-- @treturn number the exit status
function M.json(rows)
  local texts = {}
  for i, row in ipairs(rows) do texts[i] = core.json_encode(row) end
  return M.text(texts[1] and "[\n" .. table.concat(texts, ",\n") .. "\n]\n" or "[]\n")
end

return M
