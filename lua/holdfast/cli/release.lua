--- `holdfast release`: frees a key whoever holds it. Private.
-- @module holdfast.cli.release

local connect = require("holdfast.cli.connect")
local core = require("holdfast.core")
local exits = require("holdfast.cli.exits")

local SEMAPHORE_FLAGS = "16210313421097356768" -- consul.md 1.3

local function escape(text)
  return (text:gsub("[^%w%-._~/]", function(char) return ("%%%02X"):format(char:byte()) end))
end

local function failed(message, code)
  return nil, exits.fail(exits.of(code), "%s", message)
end

-- The key, if somebody holds it; nil, exit status.
local function look(client, key)
  local found, message, code = client:call({ path = "/v1/kv/" .. escape(key), query = { consistent = true } })
  if not found and code ~= "NOT_FOUND" then return failed(message, code) end
  local pair = found and found[1]
  if pair and pair.Session and pair.Session ~= "" then return pair end
  if pair and tostring(pair.Flags) == SEMAPHORE_FLAGS then
    return nil, exits.fail(exits.CONFLICT, "%s is a semaphore: a place in it goes with its session, "
      .. "holdfast release --session %s", key, key:gsub("[^/]*$", "SESSION"))
  end
  return nil, exits.fail(exits.FOUND, "nobody holds %s%s", key,
    key:find("/.lock", 1, true) and "" or "; what holdfast lock takes ends with /.lock")
end

local function owner(client, pair)
  local found = client:call({ path = "/v1/session/info/" .. pair.Session })
  local session = type(found) == "table" and found[1]
  if not session then return "session " .. pair.Session end
  return ("session %s (%s) of node %s"):format(pair.Session, session.Name:gsub("%c", "?"), session.Node)
end

local DANGER = {
  key = "Its holder does not know of that at once, and may go on for seconds beside the next one.",
  session = "All that this session holds is freed, after its lock-delay, which gives its holder the time to stop.",
}

local function confirm(options, pair, holder)
  if options.yes then return true end
  io.stdout:write(("%s is held by %s.\n%s\nFree it? [y/N] "):format(pair.Key, holder,
    DANGER[options.session and "session" or "key"]))
  io.stdout:flush()
  local answer = io.stdin:read("*l")
  return answer ~= nil and answer:match("^%s*[yY]") ~= nil
end

-- By hand, since Lua before 5.3 has no number for the flags.
local UNLOCK = '[{"KV":{"Verb":"check-index","Key":%s,"Index":%d}},'
  .. '{"KV":{"Verb":"unlock","Key":%s,"Session":"%s","Flags":%s,"Value":"%s"}}]'

-- Only if nothing has happened to the key since it was looked at.
local function unlock(client, pair)
  local key = core.json_encode(pair.Key)
  return client:call({ method = "PUT", path = "/v1/txn",
    body = UNLOCK:format(key, pair.ModifyIndex, key, pair.Session, pair.Flags, pair.Value or "") })
end

local function free(client, options)
  local done, message, code, meta
  local pair, status = look(client, options.key)
  if not pair then return status end
  local holder = owner(client, pair)
  if not confirm(options, pair, holder) then return exits.fail(exits.FOUND, "%s is left as it is", pair.Key) end
  if options.session then
    done, message, code, meta = client:call({ method = "PUT", path = "/v1/session/destroy/" .. pair.Session })
  else
    done, message, code, meta = unlock(client, pair)
  end
  if done then
    exits.say("%s was held by %s", pair.Key, holder)
    return exits.OK
  end
  if meta and meta.status == 409 then
    return exits.fail(exits.FOUND, "%s has changed meanwhile: look at it again", pair.Key)
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
