--- The one checker of what a program gives: options, the fields of a table, the arguments of a method. Private.
--
-- What only a programmer can have got wrong (an unknown name, a wrong type, a missing value, a number out of its range)
-- is a mistake: it raises with the line of the caller. A value that data or the environment can make wrong (a text of
-- the wrong form) is refused: nil, message, "INVALID". All mistakes are looked for before anything is refused. Messages
-- name the value and show it, unless it is a secret. No table that is given is modified.
--
-- What is expected is a rule: the name of a kind, or a table. In a rule,
--
--    [1]       is the kind: string, number, boolean, table, function; any; duration (answers seconds); count (a whole
--              number); text (a string in which "" is the same as nothing, and without control characters); list (of
--              texts); headers (from name to value); or fn(value), which answers what is to be taken for the value, nil
--              when it is none. "table" unless it is given
--    required  nil is a mistake
--    default   is taken for nil
--    fields    are the rules of a table's fields, by name; no others may be there
--    positive  a duration of 0 is a mistake
--    least     of a count, 1 by default; `most`, 2^53
--    numbers   may be values of headers
--    one_of    lists the strings that may be
--    form      names what is refused otherwise (see `forms`), or is fn(value), which answers what is wrong with it
--    secret    is not shown
--    what      is the kind in words ("a queue"); `says` a whole sentence instead ("a request is a table")
--    label     is what messages call the value instead of its name; its fields are "x of LABEL" then, not "NAME.x"
-- @module holdfast.check

local duration = require("holdfast.duration")

require("holdfast.interpreted")()

local KEY_MOST = 65536                         -- bytes
local TOKEN = "^[%w!#$%%&'*+.^_`|~-]+$"        -- of RFC 9110, section 5.6.2

local M = {}

-- ---- what is wrong -------------------------------------------------------------------------------------------------

-- A problem travels up as an error of this kind and leaves through `guard`.
local Problem = {}

--- Ends the check: raises with the caller's line.
function M.mistake(format, ...)
  error(setmetatable({ text = format:format(...) }, Problem), 0)
end

--- Ends the check with nil, message, code.
function M.fail(code, format, ...)
  error(setmetatable({ text = format:format(...), code = code }, Problem), 0)
end

--- Ends the check with nil, message, "INVALID".
function M.refuse(format, ...)
  M.fail("INVALID", format, ...)
end

local mistake = M.mistake

--- Calls read(...), in which the functions of this module may be used.
-- @int level whom a mistake blames, as for error(): 1 is the line that called guard, 2 the caller of that function
-- @string prefix of messages
-- @func read answers one value
-- @return that value; nil, message, code when it refuses; raises for a mistake
function M.guard(level, prefix, read, ...)
  local ok, result = pcall(read, ...)
  if ok then return result end
  if getmetatable(result) ~= Problem then error(result, 0) end
  if result.code then return nil, prefix .. result.text, result.code end
  error(prefix .. result.text, level + 1)
end

--- Text for a message: in quotes, on one line, printable, not too long. Other values as they are.
function M.show(value)
  if type(value) ~= "string" then return tostring(value) end
  if #value > 200 then value = value:sub(1, 200) .. "..." end
  return '"' .. value:gsub('[%c"\\]', function(c)
    return (c == '"' or c == "\\") and "\\" .. c or ("\\x%02x"):format(c:byte())
  end) .. '"'
end

local show = M.show

--- The same as show for an address or URL: a password in it stays out of logs.
function M.show_url(text)
  return show((text:gsub("^(%a*:?/?/?).*@", "%1***@")))
end

--- The type of a value in words: "a string".
function M.kind_of(value)
  local kind = type(value)
  return (kind:match("^[aeio]") and "an " or "a ") .. kind
end

-- ---- forms ---------------------------------------------------------------------------------------------------------

local function matches(pattern, wrong)
  return function(value) return not value:match(pattern) and wrong or nil end
end

--- The forms that a text may have to have: fn(text) answers nil, or what is wrong with it; then a code other than
-- "INVALID"; then true when the text is not to be shown.
M.forms = {}
local forms = M.forms

local function is_token(text)
  return text:find("^[%w-]+$") or text:find(TOKEN) -- what nearly all are, and that is quick to see
end

-- Where a request ends, and who is to take it, is the sender's to say (RFC 9112, sections 6 and 9; RFC 9110, section
-- 7.6.1). One of these in a message of somebody's makes two requests of one.
local FRAMING = {}
for name in ([[connection content-length expect host http2-settings keep-alive te trailer transfer-encoding
  upgrade]]):gmatch("%S+") do FRAMING[name] = true end

function forms.header_name(name)
  local lower = name:lower()
  if not is_token(name) then
    return "is not a header name"
  elseif FRAMING[lower] or lower:find("^proxy%-") then
    return "says where a request ends or who is to take it, and cannot be given"
  end
end

function forms.method(name)
  if not is_token(name) then return "is not an HTTP method" end
  return name:upper() == "CONNECT" and "makes a tunnel, and cannot be given" or nil
end
forms.session_id = matches("^[%w_-]+$", "is not the id of a session")
-- It is signed up to the dot, and is the value of a header.
forms.message_id = matches("^[!-%-/-~]+$", "must be visible ASCII without a dot (Standard Webhooks: the webhook-id)")

-- A receiver is part of a key of Consul, which has rules of its own.
function forms.receiver(name)
  return (name == "" or name:find("\0", 1, true)) and "must not be empty, nor have a zero byte in it" or nil
end

-- Text that travels in C strings, headers and URLs, where a control byte would end it or start something new.
function forms.text(value)
  return value:find("%c") and "has a control character in it" or nil
end

function forms.header_value(value)
  if value:find("[^%C\t]") then return "has a control character in its value", nil, true end
end

-- The forms of one character of UTF-8 (RFC 3629, section 4), or of a run of ASCII.
local UTF8 = {
  "^[%z\1-\127]+", "^[\194-\223][\128-\191]", "^\224[\160-\191][\128-\191]",
  "^[\225-\236\238\239][\128-\191][\128-\191]", "^\237[\128-\159][\128-\191]",
  "^\240[\144-\191][\128-\191][\128-\191]", "^[\241-\243][\128-\191][\128-\191][\128-\191]",
  "^\244[\128-\143][\128-\191][\128-\191]",
}

local function after_one(text, at)
  for _, pattern in ipairs(UTF8) do
    local _, last = text:find(pattern, at)
    if last then return last + 1 end
  end
end

local function is_utf8(text)
  local at = 1
  while at and at <= #text do at = after_one(text, at) end
  return at ~= nil
end

-- What neither a URL path nor Consul takes as a key: redirects, 400 or 500 come of it (consul.md 3.11). A transaction
-- would take it, and then no other client could reach the key.
function forms.key(key)
  local slashed = "/" .. key .. "/"
  if #key > KEY_MOST then
    return ("has %d bytes: a key has at most %d"):format(#key, KEY_MOST), "TOO_LARGE", true
  elseif key:sub(1, 1) == "/" then
    return "begins with a slash: a key does not"
  elseif key:find("%c") then
    return "has a control character in it: a key has none"
  elseif not is_utf8(key) then
    return "is not UTF-8: in a transaction it would be another key than in a URL"
  elseif key:find("//", 1, true) or slashed:find("/./", 1, true) or slashed:find("/../", 1, true) then
    return 'has an empty, "." or ".." segment: a key has none'
  end
end

function forms.finite(number)
  return (number ~= number or math.abs(number) == math.huge) and "must be finite" or nil
end

--- Refuses a value that has not the form.
-- @param form its name, or a function like those of `forms`
function M.form(value, form, name, secret)
  local wrong, code, hidden = (forms[form] or form)(value)
  if wrong then M.fail(code or "INVALID", "%s%s %s", name, (secret or hidden) and "" or " " .. show(value), wrong) end
end

-- ---- kinds ---------------------------------------------------------------------------------------------------------

-- A kind has `what` in words, and read(value, rule, name), which answers what is to be taken for the value; nil when
-- it is none, and what was given instead. judge(value, rule, name) refuses what read has answered.
local kinds = { any = { read = function(value) return value end } }

for _, name in ipairs({ "string", "number", "boolean", "table", "function" }) do
  kinds[name] = { what = "a " .. name, read = function(value) if type(value) == name then return value end end }
end

kinds.duration = {}
function kinds.duration.read(value, rule, name)
  local seconds, message = duration.parse(value)
  if not seconds then mistake("%s: %s", name, message) end
  if rule.positive and seconds == 0 then mistake("%s must be more than 0", name) end
  return seconds
end

kinds.count = { what = "a whole number of at least 1" }
function kinds.count.read(value, rule)
  if type(value) ~= "number" then return nil end
  if not (value >= (rule.least or 1) and value <= (rule.most or 2 ^ 53)) or value % 1 ~= 0 then
    return nil, tostring(value)
  end
  return math.floor(value)
end

kinds.text = { what = "a string", absent = "", read = kinds.string.read }
function kinds.text.judge(value, rule, name)
  M.form(value, "text", name, rule.secret)
end

kinds.list = { what = "a list of strings" }
function kinds.list.read(given)
  if type(given) ~= "table" then return nil end
  local copy, count = {}, 0
  for _ in pairs(given) do count = count + 1 end
  for i = 1, count do
    if type(given[i]) ~= "string" or given[i] == "" then return nil, "one with something else in it" end
    copy[i] = given[i]
  end
  return copy
end

function kinds.list.judge(texts, _, name)
  for _, text in ipairs(texts) do M.form(text, "text", name) end
end

-- Whole numbers without exponent or ".0", on every Lua.
local function number_text(value)
  if value % 1 == 0 and math.abs(value) < 2 ^ 63 then return ("%d"):format(value) end
  return tostring(value)
end

kinds.headers = { what = "a table" }
function kinds.headers.read(given, rule, label)
  if type(given) ~= "table" then return nil end
  local headers = {}
  for name, value in pairs(given) do
    if type(name) ~= "string" then mistake("%s is a table from name to value, not a list", label) end
    if rule.numbers and type(value) == "number" then value = number_text(value) end
    if type(value) ~= "string" then mistake("header %s must be a string, not %s", show(name), M.kind_of(value)) end
    headers[name] = value
  end
  return headers
end

function kinds.headers.judge(headers)
  for name, value in pairs(headers) do
    M.form(name, "header_name", "header")
    if forms.header_value(value) then M.form(value, "header_value", "header " .. show(name)) end
  end
end

-- ---- rules ---------------------------------------------------------------------------------------------------------

-- The rule that a name is short for.
local short = setmetatable({}, {
  __index = function(rules, name)
    rules[name] = { name }
    return rules[name]
  end,
})

local function full(rule)
  return type(rule) == "table" and rule or short[rule]
end

local function kind_of(rule)
  if type(rule[1]) == "function" then return { read = rule[1] } end
  return kinds[rule[1] or "table"]
end

-- What messages call a field; `name` is nil for the fields of what has no name itself.
local function within(rule, name, field)
  if rule.label then return field .. " of " .. rule.label end
  return name and name .. "." .. field or field
end

local function no_such_field(rule, name, field)
  if rule.label then mistake("unknown field %s of %s", show(field), rule.label) end
  mistake("unknown option %s", show(within(rule, name, field)))
end

local function missing(rule, name, field)
  if rule.label then mistake("%s has no %s", rule.label, field) end
  mistake("missing %s", within(rule, name, field))
end

local convert

-- The fields of a rule as a list, made once: { name, full rule, whether there is anything to judge }.
local lists = setmetatable({}, { __mode = "k" })

local function fields_of(rule)
  local list = lists[rule]
  if list then return list end
  list = {}
  for field, expected in pairs(rule.fields) do
    expected = full(expected)
    local judged = kind_of(expected).judge or expected.form or expected.fields
    list[#list + 1] = { field, expected, judged ~= nil }
  end
  lists[rule] = list
  return list
end

local function convert_fields(given, rule, name)
  local result, fields, list = {}, rule.fields, fields_of(rule)
  for field in pairs(given) do
    if fields[field] == nil then no_such_field(rule, name, tostring(field)) end
  end
  for i = 1, #list do
    local field, expected = list[i][1], list[i][2]
    local value = given[field]
    if value == nil then value = expected.default end
    if value == nil and expected.required then missing(rule, name, field) end
    if value ~= nil then result[field] = convert(value, expected, within(rule, name, field)) end
  end
  return result
end

local function must_be_one_of(choices, value, name)
  for _, choice in ipairs(choices) do
    if value == choice then return end
  end
  local words = {}
  for i, choice in ipairs(choices) do words[i] = show(choice) end
  mistake("%s must be %s, not %s", name, table.concat(words, " or "), show(value))
end

-- What is to be taken for a value; raises for mistakes.
function convert(value, rule, name)
  local kind = kind_of(rule)
  if value ~= nil and value == kind.absent then return nil end
  local result, instead = kind.read(value, rule, name)
  if result == nil then
    local sentence = rule.says or ("%s must be %s"):format(rule.label or name, rule.what or kind.what)
    mistake("%s, not %s", sentence, instead or M.kind_of(value))
  end
  if rule.one_of then must_be_one_of(rule.one_of, result, rule.label or name) end
  if rule.fields then return convert_fields(result, rule, name) end
  return result
end

-- Refuses what convert has answered.
local function judge(value, rule, name)
  local kind = kind_of(rule)
  if value == nil then return end
  if kind.judge then kind.judge(value, rule, rule.label or name) end
  if rule.form then M.form(value, rule.form, rule.label or name, rule.secret) end
  if not rule.fields then return end
  local list = fields_of(rule)
  for i = 1, #list do
    local entry = list[i]
    local field = entry[1]
    if entry[3] and value[field] ~= nil then judge(value[field], entry[2], within(rule, name, field)) end
  end
end

--- Reads a value by its rule; for use in `guard`.
-- @param value anything but nil
-- @param rule as said above
-- @string[opt] name what messages call it
-- @return what is to be taken for it
function M.read(value, rule, name)
  rule = full(rule)
  local result = convert(value, rule, name)
  judge(result, rule, name)
  return result
end

-- ---- arguments -----------------------------------------------------------------------------------------------------

local function read_arguments(parameters, ...)
  local values = {}
  for i, parameter in ipairs(parameters) do
    local name, rule, value = parameter[1], full(parameter[2]), (select(i, ...))
    if value == nil then value = rule.default end
    if value ~= nil or not parameter.optional then values[name] = convert(value, rule, name) end
  end
  for _, parameter in ipairs(parameters) do
    judge(values[parameter[1]], full(parameter[2]), parameter[1])
  end
  return values
end

--- What a method takes.
-- @string prefix of messages
-- @tparam table ... the parameters in their order: `{ name, rule, optional = true }`
-- @treturn function f(level, ...) answers a table of the arguments by name; nil, message, code; or raises and blames
-- whom level says, as for guard
function M.arguments(prefix, ...)
  local parameters = { ... }
  return function(level, ...)
    local values, message, code = M.guard(level + 1, prefix, read_arguments, parameters, ...)
    return values, message, code
  end
end

return M
