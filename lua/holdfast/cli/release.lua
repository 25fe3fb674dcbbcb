--- `holdfast release`: frees a key whoever holds it. Private.
-- @module holdfast.cli.release

local connect = require("holdfast.cli.connect")
local exits = require("holdfast.cli.exits")
local flags = require("holdfast.flags")
local force = require("holdfast.force")

-- The key, if somebody holds it; nil, exit status.
local function look(client, key)
  local pair, message, code = client.kv:get(key, { consistent = true })
  if not pair and code ~= "NOT_FOUND" then return nil, exits.fail(exits.of(code), "%s", message) end
  if pair and pair.session then return pair end
  if pair and pair.flags == flags.SEMAPHORE then
    return nil, exits.fail(exits.CONFLICT, "%s is a semaphore: a place in it goes with its session, "
      .. "holdfast release --session %s", key, key:gsub("[^/]*$", "SESSION"))
  end
  return nil, exits.fail(exits.FOUND, "nobody holds %s%s", key,
    key:find("/.lock", 1, true) and "" or "; what holdfast lock takes ends with /.lock")
end

local function owner(client, pair)
  for _, session in ipairs(client:sessions() or {}) do
    if session.id == pair.session then
      return ("session %s (%s) of node %s"):format(session.id, (session.name or ""):gsub("%c", "?"), session.node)
    end
  end
  return "session " .. pair.session
end

local DANGER = {
  key = "Its holder does not know of that at once, and may go on for seconds beside the next one.",
  session = "All that this session holds is freed, after its lock-delay, which gives its holder the time to stop.",
}

local function confirm(options, pair, holder)
  if options.yes then return true end
  io.stdout:write(("%s is held by %s.\n%s\nFree it? [y/N] "):format(pair.key, holder,
    DANGER[options.session and "session" or "key"]))
  io.stdout:flush()
  local answer = io.stdin:read("*l")
  return answer ~= nil and answer:match("^%s*[yY]") ~= nil
end

local function free(client, options)
  local pair, status = look(client, options.key)
  if not pair then return status end
  local holder = owner(client, pair)
  if not confirm(options, pair, holder) then return exits.fail(exits.FOUND, "%s is left as it is", pair.key) end
  local done, message, code = force.free(client, pair, options.session)
  if done then
    exits.say("%s was held by %s", pair.key, holder)
    return exits.OK
  elseif done == false then
    return exits.fail(exits.FOUND, "%s has changed meanwhile: look at it again", pair.key)
  end
  return exits.fail(exits.of(code), "%s", message)
end

local M = {}

--- Does it.
-- @tparam table options what the parser has read
-- @treturn number the exit status
function M.run(options)
  local client, status = connect.open(options)
  if not client then return status end
  status = free(client, options)
  client:close()
  return status
end

return M
