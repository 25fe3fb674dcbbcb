--- Semaphores on Consul, as Go's client and `consul lock -n` keep them. Private; users see it through client:semaphore.
--
-- Below the prefix there is `.lock`, `{"Limit":3,"Holders":{"<session>":true}}`, which is written by comparison with
-- its index only, and a key per holder, locked by its session: whose key is gone is a holder no more.
-- @module holdfast.semaphore

local core = require("holdfast.core")
local locks = require("holdfast.lock")
local object = require("holdfast.object")
local options = require("holdfast.options")

local finish = object.finish

-- Whatever is the same for a lock: request, wait_lost and the event-loop protocol.
local Semaphore = {}
for _, name in ipairs({ "request", "wait_lost", "events", "timeout", "dirty", "getfd" }) do
  Semaphore[name] = locks.methods[name]
end

--- Takes a slot. Semaphores of one prefix in one client are served first come, first served; among clients it is
-- chance. Whoever waits has written nothing to Consul but a session, and whoever stops waiting leaves nothing.
-- @function semaphore:acquire
-- @param[opt] timeout nil waits as long as it takes, 0 tries once
-- @treturn true|nil true; nil, message, code (TIMEOUT, HELD, CONFLICT when `.lock` is not a semaphore's,
-- LIMIT_CONFLICT, SESSION, CANCELED, DENIED, CONNECT, ...)
function Semaphore:acquire(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_acquire(seconds))
end

--- Gives the slot back.
-- @function semaphore:release
-- @param[opt] timeout nil waits until Consul answers or the lease is over
-- @treturn true|nil true; nil, message, code: NOT_HELD; LOST when it had been lost; SESSION when the session had ended,
-- and what the trouble was when Consul could not be told (TIMEOUT, CONNECT, HTTP, DENIED ...)
function Semaphore:release(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_release(seconds))
end

--- Deletes `.lock` if no slot is held by anybody who is alive, whatever its limit.
-- @function semaphore:destroy
-- @param[opt] timeout
-- @treturn true|nil true, also when there is none; nil, message, code (HELD, IN_USE, CONFLICT, ...)
function Semaphore:destroy(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_destroy(seconds))
end

-- ---- as for a lock -------------------------------------------------------------------------------------------------

--- Whether a slot is held at this moment. The lease deadline is looked at by the call; no network.
-- @function semaphore:held
-- @treturn boolean true; false and the reason why the last hold ended, if there was one

--- Whether the last slot was lost; latched until the next semaphore:acquire.
-- @function semaphore:lost
-- @treturn boolean false, also after a plain release; true and the reason

--- Waits until the slot is lost or released.
-- @function semaphore:wait_lost
-- @param[opt] timeout 0 looks and does not wait
-- @treturn string|nil the reason: as for lock:wait_lost; `key` also when all below the prefix was deleted, `stolen`
-- when somebody has written `.lock` without us

--- The fencing token of this hold: the raft index at which it began, which rises from hold to hold of a prefix. Those
-- who hold slots at the same time have different ones.
-- @function semaphore:token
-- @treturn integer|nil nil when no slot is held

--- Seconds to the lease deadline, which follows the TTL; 0 when no slot is held.
-- @function semaphore:remaining
-- @treturn number

--- The id of the session that the slot is held with, or that it was given.
-- @function semaphore:session
-- @treturn string|nil nil when there is none

--- Its prefix, with the slash at the end.
-- @function semaphore:key
-- @treturn string

--- Ends a semaphore:acquire that another coroutine, or a scheduler's wait, is in: that answers CANCELED.
-- @function semaphore:cancel

--- Makes an HTTP request that is aborted in mid-flight the moment the slot is lost.
-- @function semaphore:request
-- @tparam table req as for client:request
-- @treturn table|nil as for lock:request

--- A descriptor that is readable while no slot is held; and the rest of the event-loop protocol, as for a lock.
-- @function semaphore:pollfd
-- @treturn integer|nil the descriptor; nil, message, code

--- What is to be waited for, for cqueues.
-- @function semaphore:events
-- @treturn string "r"

--- How long at most, for cqueues.
-- @function semaphore:timeout
-- @return nil: as long as it takes

--- Whether something is buffered, for LuaSocket's select.
-- @function semaphore:dirty
-- @treturn boolean false

--- The descriptor, for LuaSocket's select.
-- @function semaphore:getfd
-- @return as semaphore:pollfd

-- ---- making them ---------------------------------------------------------------------------------------------------

local M = {}

--- What client:semaphore does.
-- @param client
-- @param prefix_or_opts
-- @param limit
-- @int level as for error() in the function that calls this
-- @treturn semaphore|nil the semaphore; nil, message, code
function M.new(client, prefix_or_opts, limit, level)
  local sem
  local given = prefix_or_opts
  if type(given) ~= "table" then
    given = { prefix = given, limit = limit }
  elseif limit ~= nil then
    error("the limit of a semaphore is among its options, or the second argument, not both", level + 1)
  end
  local settings, message, code = options.semaphore(given, object.facts(client).session, level + 1)
  if not settings then return nil, message, code end
  sem, message, code = core.semaphore(client, settings)
  if not sem then return nil, message, code end
  object.extend(sem, Semaphore)
  object.own(sem, client)
  object.know(sem, { session = given.session }) -- an object that is collected would end its session
  return sem
end

return M
