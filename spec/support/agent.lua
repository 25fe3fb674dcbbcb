--- What specs of locks on a real agent say often.
-- @module spec.support.agent

local consul = require("spec.support.consul")
local helper = require("spec.helper")

local M = {
  SEMAPHORE_FLAGS = "16210313421097356768", -- those of Go's semaphores
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

--- A session made elsewhere that holds key. Answers its id.
function M.occupy(key, options)
  local session = helper.session(options or { LockDelay = "0s" })
  assert(consul.kv.put(key, "elsewhere", { acquire = session, flags = "3304740253564472344" }))
  return session
end

return M
