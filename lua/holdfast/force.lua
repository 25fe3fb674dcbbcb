--- Frees a key for an operator, whoever holds it. Private; users see it through client:force_release.
-- @module holdfast.force

local check = require("holdfast.check")
local flags = require("holdfast.flags")
local object = require("holdfast.object")
local options = require("holdfast.options")

local OPTIONS = {
  says = "force_release takes a key or a table of options",
  fields = { key = { "string", required = true, form = "key" }, session = "boolean" },
}

local function read(given)
  if type(given) == "string" then given = { key = given } end
  if type(given) == "table" and given.key == "" then check.mistake("missing key") end
  return check.read(given, OPTIONS)
end

-- Only if nothing has happened to the key since it was looked at.
local function unlock(client, pair, seconds)
  return client.kv:txn({
    { verb = "check-index", key = pair.key, index = pair.modify_index },
    { verb = "unlock", key = pair.key, session = pair.session, value = pair.value, flags = pair.flags },
  }, { timeout = seconds })
end

local M = {}

--- Frees one hold.
-- @param client
-- @tparam table pair what client.kv:get answered of the key
-- @bool by_session destroys its session, with all that this holds
-- @tparam[opt] number seconds
-- @return true; false when the key has changed since the look; nil, message, code
function M.free(client, pair, by_session, seconds)
  if not by_session then return unlock(client, pair, seconds) end
  return client:call({ method = "PUT", path = "/v1/session/destroy/" .. pair.session, timeout = seconds })
end

--- What client:force_release does.
-- @param client
-- @param key_or_opts
-- @param timeout
-- @int level as for error() in the function that calls this
-- @treturn table|nil who held it; nil, message, code
function M.release(client, key_or_opts, timeout, level)
  local seconds = options.timeout(timeout, level + 1)
  local given, message, code = check.guard(level + 1, "", read, key_or_opts)
  if not given then return nil, message, code end
  local now = object.scheduler(client).now
  local deadline = seconds and now() + seconds
  repeat
    local pair, done
    local left = deadline and deadline > now() and deadline - now() or nil
    pair, message, code = client.kv:get(given.key, { consistent = true, timeout = left })
    if not pair then return nil, message, code end
    if pair.flags ~= flags.LOCK then
      return nil, ("force_release %q: the key is not used as a lock"):format(given.key), "CONFLICT"
    end
    if not pair.session then return nil, ("force_release %q: nobody holds it"):format(given.key), "NOT_HELD" end
    done, message, code = M.free(client, pair, given.session, left)
    if done then return { session = pair.session, value = pair.value, index = pair.modify_index } end
    if done == nil then return nil, message, code end -- false: it has changed since the look
  until deadline and now() >= deadline
  return nil, ("force_release %q: it changes all the time"):format(given.key), "TIMEOUT"
end

return M
