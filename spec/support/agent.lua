--- What specs of locks on a real agent say often.
-- @module spec.support.agent

local consul = require("spec.support.consul")
local helper = require("spec.helper")

local M = {
  -- What Go's client gives the keys of its locks and of its semaphores.
  LOCK_FLAGS = "3304740253564472344",
  SEMAPHORE_FLAGS = "16210313421097356768",
}

--- The session that holds a key on the server; nil when none does.
function M.holder(key)
  return (consul.kv.get(key) or {}).Session
end

--- Whether nobody holds a key, for helper.eventually.
function M.is_free(key)
  return function()
    local session = M.holder(key)
    return not session, tostring(session) .. " holds it"
  end
end

--- The code of a refusal, which must have a message.
function M.code_of(ok, message, code)
  assert(not ok, "this was no refusal")
  assert(type(message) == "string" and #message > 5, "a refusal without a message: " .. tostring(message))
  return code
end

--- A session made elsewhere that holds key as Go's client would. Answers its id.
function M.occupy(key, options)
  local session = helper.session(options or { LockDelay = "0s" })
  assert(consul.kv.put(key, "elsewhere", { acquire = session, flags = M.LOCK_FLAGS }))
  return session
end

--- Gives back what occupy took.
function M.vacate(key, session)
  assert(consul.kv.put(key, "elsewhere", { release = session, flags = M.LOCK_FLAGS }))
end

return M
