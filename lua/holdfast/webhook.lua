--- Standard Webhooks 1.0.0 signatures (https://www.standardwebhooks.com), and the fence entry of holdfast.
--
-- A secret is one of
--
--  * `whsec_BASE64`, or the bare base64: HMAC-SHA256, entry `v1`
--  * `whsk_BASE64`: an ed25519 private key (seed, or seed and public key), entry `v1a`
--  * `whpk_BASE64`: an ed25519 public key; it verifies, and cannot sign
--
-- base64 may lack its padding. Several secrets (a rotation) are given as a list.
--
-- The fence entry `v1f` is an HMAC over `id.timestamp.token.body`; it binds the header `webhook-fencing-token`, which
-- the standard signature does not cover. Verifiers of the standard skip it, as every version that they do not know.
-- @module holdfast.webhook

local check = require("holdfast.check")
local core = require("holdfast.core")

require("holdfast.interpreted")()

local M = {}

local function refuse(message)
  return nil, message, "INVALID"
end

-- A key has a version; make(content), when it can sign; and checker(content), a function that says whether the text of
-- an entry is right. What an attacker repeats (entries) costs a comparison, what depends on the body is computed once.

local function made_again(make)
  return function(content)
    local right = make(content)
    return function(given) return core.equal(right, given) end
  end
end

local function hmac_key(bytes)
  if #bytes == 0 then return nil, "is empty" end
  local function make(content) return core.base64_encode(core.hmac_sha256(bytes, content)) end
  return { version = "v1", symmetric = true, make = make, checker = made_again(make) }
end

-- An ed25519 signature is the same every time it is made, so a private key checks as an HMAC key does.
local function private_key(bytes)
  if #bytes ~= 32 and #bytes ~= 64 then return nil, "is no ed25519 private key (32 or 64 bytes)" end
  local function make(content) return core.base64_encode(core.ed25519_sign(bytes:sub(1, 32), content)) end
  return { version = "v1a", make = make, checker = made_again(make) }
end

local function checked_with(public)
  return function(content)
    return function(given)
      local signature = #given <= 88 and core.base64_decode(given)
      return signature and core.ed25519_verify(public, content, signature)
    end
  end
end

local function public_key(bytes)
  if #bytes ~= 32 then return nil, "is no ed25519 public key (32 bytes)" end
  return { version = "v1a", checker = checked_with(bytes) }
end

local KINDS = { whsec_ = hmac_key, whsk_ = private_key, whpk_ = public_key }

-- Never puts a secret into a message.
local function read_secret(secret)
  if type(secret) ~= "string" then
    return nil, ("is a %s, not a string"):format(type(secret))
  end
  local prefix, rest = secret:match("^(wh%l+_)(.*)$")
  local kind = prefix and KINDS[prefix] or hmac_key
  local bytes = core.base64_decode(KINDS[prefix] and rest or secret)
  if not bytes then return nil, "is not base64 (after whsec_, whsk_ or whpk_)" end
  return kind(bytes)
end

local function read_secrets(secrets)
  local list = type(secrets) == "table" and secrets or { secrets }
  local keys = {}
  for i, secret in ipairs(list) do
    local key, problem = read_secret(secret)
    if not key then return refuse(("webhook secret %d %s"):format(i, problem)) end
    keys[i] = key
  end
  if #keys == 0 then return refuse("no webhook secret given") end
  return keys
end

-- A count as decimal digits on every Lua: never "1614265330.0" or "1e+15". Nil when it is none.
local function digits(value)
  if type(value) == "string" then return value:match("^%d+$") end
  if type(value) == "number" and value >= 0 and value < 2 ^ 63 then
    return ("%d"):format(math.floor(value))
  end
end

local read_sign = check.arguments("webhook.sign: ", { "id", { "string", form = "message_id" } },
  { "timestamp", { digits, what = "Unix seconds" } }, { "body", "string" },
  { "opts", { fields = { token = { digits, what = "a whole number" } }, default = {} } })

--- Signs one attempt.
-- @param secret a secret, or a list of secrets: one entry each, in their order
-- @string id the webhook-id; the same for every attempt. No dot in it (it ends there in what is signed), no space
-- @param timestamp Unix seconds of this attempt; a fraction is cut off
-- @string body the raw body
-- @tparam[opt] table opts `token`: the fencing token (number or digits); adds a `v1f` entry for each symmetric secret
-- @treturn string|nil the value of webhook-signature; nil, message, "INVALID" for a bad id or secret
function M.sign(secret, id, timestamp, body, opts)
  local given, keys, message, code
  given, message, code = read_sign(2, id, timestamp, body, opts)
  if not given then return nil, message, code end
  keys, message, code = read_secrets(secret)
  if not keys then return nil, message, code end
  local start, token = id .. "." .. given.timestamp .. ".", given.opts.token
  local entries, fences = {}, {}
  for i, key in ipairs(keys) do
    if not key.make then return refuse(("webhook secret %d is a public key: it cannot sign"):format(i)) end
    entries[i] = key.version .. "," .. key.make(start .. body)
    if token and key.symmetric then
      fences[#fences + 1] = "v1f," .. key.make(start .. token .. "." .. body)
    end
  end
  for _, fence in ipairs(fences) do entries[#entries + 1] = fence end
  return table.concat(entries, " ")
end

-- The webhook-* headers by lower-case name. The same header twice with two values is nobody's honest request.
local function read_headers(headers)
  local found = {}
  for name, value in pairs(headers) do
    local lower = type(name) == "string" and name:lower() or ""
    if lower:find("^webhook%-") then
      if type(value) == "table" then value = table.concat(value, " ") end
      if type(value) == "number" then value = digits(value) or tostring(value) end
      if found[lower] and found[lower] ~= value then return refuse("header " .. lower .. " was given twice") end
      found[lower] = value
    end
  end
  for _, name in ipairs({ "webhook-id", "webhook-timestamp", "webhook-signature" }) do
    if type(found[name]) ~= "string" or found[name] == "" then return refuse("header " .. name .. " is missing") end
  end
  return found
end

local function check_age(timestamp, opts)
  if not timestamp:match("^%d+$") then return refuse("webhook-timestamp is not a number of seconds") end
  if opts.tolerance == false then return true end
  local age = (opts.now or core.time()) - tonumber(timestamp)
  if age > opts.tolerance then
    return refuse(("webhook-timestamp is %.0f s old, more than %.0f s"):format(age, opts.tolerance))
  elseif -age > opts.tolerance then
    return refuse(("webhook-timestamp is %.0f s ahead, more than %.0f s: do the clocks agree?"):format(-age,
      opts.tolerance))
  end
  return true
end

-- Whether an entry of webhook-signature matches a key: of the version "v1f" when `fence`, else of the key's own.
local function matches(keys, signature, content, fence)
  local checks = {}
  for _, key in ipairs(keys) do
    if key.symmetric or not fence then
      checks[#checks + 1] = { version = fence and "v1f" or key.version, right = key.checker(content) }
    end
  end
  for entry in signature:gmatch("%S+") do
    local version, given = entry:match("^(%w+),(.*)$")
    for _, known in ipairs(checks) do
      if version == known.version and known.right(given) then return true end
    end
  end
  return false
end

local function check_fence(keys, found, start, body)
  local token = found["webhook-fencing-token"]
  if not token then
    if (" " .. found["webhook-signature"]):find(" v1f,", 1, true) then
      return refuse("the signature has a fence entry, but header webhook-fencing-token is missing")
    end
    return true
  end
  if type(token) ~= "string" or not token:match("^%d+$") then
    return refuse("webhook-fencing-token is not a whole number")
  end
  if not matches(keys, found["webhook-signature"], start .. token .. "." .. body, true) then
    return refuse("no v1f entry of webhook-signature matches webhook-fencing-token")
  end
  return true
end

local function number_or_false(value)
  if value == false or type(value) == "number" then return value end
end

local read_verify = check.arguments("webhook.verify: ", { "headers", "table" }, { "body", "string" },
  { "opts", { default = {}, fields = { now = "number", fence = "boolean",
    tolerance = { number_or_false, what = "a number or false", default = 300 } } } })

--- Verifies a request. Comparisons take the same time wherever the first difference is; entries of unknown versions are
-- skipped; one entry that matches one of the secrets is enough.
-- @param secret a secret, or a list of secrets
-- @tparam table headers name to value; names in any case; a value may be a list
-- @string body the raw body, as it came
-- @tparam[opt] table opts `tolerance`: how many seconds the timestamp may be off, default 300, false for any; `now`:
-- Unix seconds; `fence = true`: webhook-fencing-token, when it is there, must be covered by a `v1f` entry. A sender
-- without a fence passes: whoever demands the token looks whether the header is there
-- @treturn true|nil true; nil, message, "INVALID"
function M.verify(secret, headers, body, opts)
  opts = read_verify(2, headers, body, opts).opts
  local keys, message, code = read_secrets(secret)
  if not keys then return nil, message, code end
  local found, ok
  found, message, code = read_headers(headers)
  if not found then return nil, message, code end
  ok, message, code = check_age(found["webhook-timestamp"], opts)
  if not ok then return nil, message, code end
  local start = found["webhook-id"] .. "." .. found["webhook-timestamp"] .. "."
  if not matches(keys, found["webhook-signature"], start .. body) then
    return refuse("no entry of webhook-signature matches")
  end
  if opts.fence then return check_fence(keys, found, start, body) end
  return true
end

return M
