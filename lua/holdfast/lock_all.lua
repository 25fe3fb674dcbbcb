--- Locks of several keys that are held together: all of them, or none. Private; users see it through client:lock_all.
-- @module holdfast.lock_all

local check = require("holdfast.check")
local locks = require("holdfast.lock")
local options = require("holdfast.options")

require("holdfast.interpreted")()

local MOST = 64 -- what the core has room for; a server may take less

local LIST = { "list", what = "a list of keys" }

local function refuse_twice(keys)
  local seen = {}
  for _, key in ipairs(keys) do
    if seen[key] then check.refuse("the key %s is there twice", check.show(key)) end
    seen[key] = true
  end
end

-- The keys, and the other options with the first of them: what a single lock would be given.
local function split(given)
  if type(given) ~= "table" then
    check.mistake("lock_all takes a list of keys or a table of options, not %s", check.kind_of(given))
  end
  if given.key ~= nil then check.mistake("lock_all takes keys, not key") end
  if given.fair then check.mistake("lock_all takes no fair: there is one line for each key") end
  local keys = check.read(given.keys or given, LIST, "keys")
  if not keys[1] then check.mistake("lock_all takes at least one key") end
  if #keys > MOST then check.fail("TOO_LARGE", "%d keys are too many for one step: %d at most", #keys, MOST) end
  local single = { key = keys[1] }
  if given.keys ~= nil then
    for name, value in pairs(given) do
      if name ~= "keys" then single[name] = value end
    end
  end
  refuse_twice(keys)
  return { keys = keys, single = single }
end

local M = {}

--- What client:lock_all does.
-- @param client
-- @param keys_or_opts
-- @int level as for error() in the function that calls this
-- @treturn lock|nil the lock; nil, message, code
function M.new(client, keys_or_opts, level)
  local lock
  local more = {}
  local given, message, code = check.guard(level + 1, "", split, keys_or_opts)
  if not given then return nil, message, code end
  for i = 2, #given.keys do
    local ok
    ok, message, code = options.lock({ key = given.keys[i] }, nil, level + 1)
    if not ok then return nil, message, code end
    more[i - 1] = given.keys[i]
  end
  lock, message, code = locks.new(client, given.single, level + 1, { more = more })
  return lock, message, code
end

return M
