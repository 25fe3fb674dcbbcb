--- Durations: a number of seconds (fractions allowed) or a Go-style string ("10s", "500ms", "1m30s").
-- @module holdfast.duration

local UNITS = {
  ns = 1e-9, us = 1e-6, ["\194\181s"] = 1e-6, ["\206\188s"] = 1e-6, -- both letters mu
  ms = 1e-3, s = 1, m = 60, h = 3600,
}

local M = {}

local function checked(seconds, value)
  if seconds ~= seconds or seconds == math.huge then
    return nil, ("%s is not a finite duration"):format(tostring(value))
  elseif seconds < 0 then
    return nil, ("%s is negative"):format(tostring(value))
  end
  return seconds
end

-- The rules of Go's time.ParseDuration, without the sign.
local function parse_text(text)
  if text == "0" then return 0 end
  local total, rest = 0, text
  while rest ~= "" do
    local number, unit, tail = rest:match("^([%d.]+)([^%d.]+)(.*)$")
    local scale = unit and UNITS[unit]
    if not scale or not (number:match("^%d+%.?%d*$") or number:match("^%.%d+$")) then
      total = nil
      break
    end
    total, rest = total + tonumber(number) * scale, tail
  end
  if not total or text == "" then
    return nil, ("%q is not a duration: give seconds, or text such as \"10s\", \"500ms\" or \"1m30s\""):format(text)
  end
  return checked(total, text)
end

--- Reads a duration.
-- @param value seconds, or a Go-style string with the units ns, us, ms, s, m and h
-- @treturn number|nil seconds; nil and a message when it is not a duration, negative or not finite
function M.parse(value)
  if type(value) == "number" then
    return checked(value, value)
  elseif type(value) == "string" then
    return parse_text(value)
  end
  return nil, ("a duration is a number of seconds or text such as \"10s\", not a %s"):format(type(value))
end

--- Writes a duration as Consul reads it, in whole milliseconds: "15s" gives "15000ms". What is
-- more than nothing stays more than nothing: the least is "1ms".
-- @param value as for parse
-- @treturn string|nil text; nil and a message
function M.format(value)
  local seconds, message = M.parse(value)
  if not seconds then return nil, message end
  local ms = math.floor(seconds * 1000 + 0.5)
  if ms == 0 and seconds > 0 then ms = 1 end
  return ("%.0fms"):format(ms)
end

return M
