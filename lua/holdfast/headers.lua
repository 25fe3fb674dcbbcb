--- Header lines of HTTP. Private.
-- @module holdfast.headers

local M = {}

local function add(headers, name, value)
  local before = headers[name]
  headers[name] = before and before .. ", " .. value or value
end

--- Text without blanks and tabs at its ends.
function M.trim(text)
  if text:find("^[ \t]") or text:find("^[ \t]", -1) then return text:match("^[ \t]*(.-)[ \t]*$") end
  return text
end

--- Reads header lines.
-- @string block "Name: value" lines, each with its line end; status lines and what is no header are passed over
-- @treturn table from lower-case name to value; the values of a header that is there more than once are joined by ", "
function M.parse(block)
  local headers, last = {}, nil
  for line in block:gmatch("[^\r\n]+") do
    local name, value = line:match("^([^%s:]+)[ \t]*:(.*)")
    if name then
      last = name:lower()
      add(headers, last, M.trim(value))
    elseif last and line:find("^[ \t]") then
      headers[last] = headers[last] .. " " .. M.trim(line) -- obs-fold of RFC 9112, section 5.2
    end
  end
  return headers
end

return M
