--- Locks: what the core's lock objects wait for. Private; users see it through client:lock.
-- @module holdfast.lock

local fair = require("holdfast.fair")
local headers = require("holdfast.headers")
local object = require("holdfast.object")
local options = require("holdfast.options")

local Lock = {}

local M = { methods = Lock }

local finish = object.finish

local function respond(status, raw_headers, body, truncated, elapsed)
  if not status then return nil, raw_headers, body end
  return { status = status, headers = headers.parse(raw_headers), body = body, truncated = truncated,
    elapsed = elapsed }
end

--- Makes the request that these settings are, unguarded by a client or guarded by a lock.
function M.request(of, settings)
  return respond(finish(of, of:start_request(settings)))
end

--- Takes the lock.
-- @function lock:lock
-- @param[opt] timeout nil waits as long as it takes, 0 tries once
-- @treturn true|nil true; nil, message, code (TIMEOUT, HELD, CONFLICT, SESSION, CANCELED, DENIED, CONNECT, ...)
function Lock:lock(timeout)
  local seconds = options.timeout(timeout, 2)
  if fair.is(self) then return fair.lock(self, seconds) end
  return finish(self, self:start_lock(seconds))
end

--- Ends a `lock:lock` that another coroutine waits in: it answers CANCELED.
-- @function lock:cancel
function Lock:cancel()
  if fair.is(self) then fair.cancel(self) end
  self:start_cancel()
end

--- Gives the lock back.
-- @function lock:unlock
-- @param[opt] timeout nil waits until Consul answers or the lease is over
-- @treturn true|nil true; nil, message, code: NOT_HELD; LOST when Consul says that it had been lost; SESSION when the
-- session had ended, which has protected the lock all the same; what the trouble was when Consul could not be told
-- (TIMEOUT, CONNECT, HTTP, DENIED ...)
function Lock:unlock(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_unlock(seconds))
end

--- Deletes the key if nobody holds it; of a lock of several keys one after the other, up to the first that it cannot.
-- @function lock:destroy
-- @param[opt] timeout
-- @treturn true|nil true, also when the key is absent; nil, message, code (HELD, IN_USE, CONFLICT, ...)
function Lock:destroy(timeout)
  local seconds = options.timeout(timeout, 2)
  local now = object.scheduler(self).now
  local deadline = seconds and now() + seconds
  for i = 1, #self:keys() do
    local ok, message, code = finish(self, self:start_destroy(seconds and math.max(0, deadline - now()), i))
    if not ok then return nil, message, code end
  end
  return true
end

--- Makes an HTTP request that is aborted in mid-flight the moment the lock is lost.
-- @function lock:request
-- @tparam table req as for client:request
-- @treturn table|nil as for client:request; nil, message, code (LOST, NOT_HELD, and those of client:request)
function Lock:request(req)
  local settings, message, code = options.request(req, 2)
  if not settings then return nil, message, code end
  return M.request(self, settings)
end

-- How the hold with this token ended, or nil while it goes on; a message and a code when the lock cannot say. A hold
-- that made room for another one of the same object is over too, and what ended it is no longer known.
local function how_ended(lock, token)
  local held, reason, code = lock:held()
  if held then
    local current = lock:token()
    if current == token then return nil end
    if current then return "released" end
    held, reason, code = lock:held()   -- it ended between the two calls
  end
  if held == nil then return reason, code end
  return (reason ~= "" and reason) or "released"
end

local function watch(lock, scheduler, token, seconds)
  local deadline = seconds and scheduler.now() + seconds
  local reason, failure = how_ended(lock, token)
  while not reason do
    local left = deadline and deadline - scheduler.now()
    if left and left <= 0 then return nil, "timed out", "TIMEOUT" end
    local done, message, code = scheduler.wait(lock, left)
    if not done and message ~= "timeout" then return nil, message, code end
    reason, failure = how_ended(lock, token)
  end
  if failure then return nil, reason, failure end
  return reason
end

--- Waits until the lock is lost or released.
-- @function lock:wait_lost
-- @param[opt] timeout 0 looks and does not wait
-- @treturn string|nil the reason: session, key, stolen, deadline, expired, released, closed or forked; nil, "timed
-- out", "TIMEOUT"; nil, message, "NOT_HELD" when it never was held
function Lock:wait_lost(timeout)
  local seconds = options.timeout(timeout, 2)
  local held, reason, code = self:held()
  if held == nil then return nil, reason, code end
  if held then return watch(self, object.scheduler(self), self:token(), seconds) end
  if reason and reason ~= "" then return reason end
  return nil, ("lock %q has not been held"):format(self:key()), "NOT_HELD"
end

-- ---- what the core answers at once ---------------------------------------------------------------------------------

--- Whether it is held at this moment. The lease deadline is looked at by the call; no network.
-- @function lock:held
-- @treturn boolean true; false and the reason why the last hold ended, if there was one

--- Whether the last hold was lost; latched until the next lock:lock.
-- @function lock:lost
-- @treturn boolean false, also after a plain unlock; true and the reason

--- The fencing token of this hold: the raft index at which it began, which rises from holder to holder.
-- @function lock:token
-- @treturn integer|nil nil when it is not held

--- Seconds to the lease deadline, 0 when it is not held.
-- @function lock:remaining
-- @treturn number

--- The id of the session that it is held with, or that it was given.
-- @function lock:session
-- @treturn string|nil nil when there is none

--- Its key; of several the first.
-- @function lock:key
-- @treturn string

--- All its keys.
-- @function lock:keys
-- @treturn table a list

--- Ends a lock:lock that another coroutine, or a scheduler's wait, is in: that answers CANCELED.
-- @function lock:cancel

--- A descriptor that is readable while it is not held. The lock closes it.
-- @function lock:pollfd
-- @treturn integer|nil the descriptor; nil, message, code

-- ---- the event-loop protocol ---------------------------------------------------------------------------------------

-- Readable once lost or released. cqueues reads pollfd, events and timeout; LuaSocket's select and Copas read getfd and
-- dirty.

--- What is to be waited for, for cqueues.
-- @function lock:events
-- @treturn string "r"
function Lock.events() return "r" end

--- How long at most, for cqueues.
-- @function lock:timeout
-- @return nil: as long as it takes
function Lock.timeout() return nil end

--- Whether something is buffered, for LuaSocket's select.
-- @function lock:dirty
-- @treturn boolean false
function Lock.dirty() return false end

--- The descriptor, for LuaSocket's select.
-- @function lock:getfd
-- @return as lock:pollfd
function Lock:getfd() return self:pollfd() end

-- ---- making them ---------------------------------------------------------------------------------------------------

--- What client:lock does.
-- @param client
-- @param key_or_opts as for client:lock
-- @int level as for error() in the function that calls this
-- @tparam[opt] table more settings of the core that no user has: `flags`, the 64-bit number, as decimal text, that
-- this kind of key has (a lock's when it is absent; a key with other flags is a CONFLICT)
-- @treturn lock|nil the lock; nil, message, code
function M.new(client, key_or_opts, level, more)
  local lock
  local facts = object.facts(client)
  local settings, message, code = options.lock(key_or_opts, facts.session, level + 1)
  if not settings then return nil, message, code end
  if facts.log then facts.log:look_at(settings.session_opts) end
  for name, value in pairs(more or {}) do settings[name] = value end
  lock, message, code = client:lock_object(settings)
  if not lock then return nil, message, code end
  if settings.line then fair.queue(lock, settings) end
  return M.adopt(lock, client)
end

--- Makes what the core has made a lock of a client's.
-- @return it
function M.adopt(lock, client)
  object.extend(lock, Lock)
  object.own(lock, client)
  return lock
end

return M
