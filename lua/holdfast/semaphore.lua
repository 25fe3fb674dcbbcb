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

local M = {}

--- What client:semaphore does.
-- @param client
-- @param prefix_or_opts
-- @param limit
-- @int level as for error() in the function that calls this
-- @treturn semaphore|nil the semaphore; nil, message, code
function M.new(client, prefix_or_opts, limit, level)
  local sem
  local given = type(prefix_or_opts) == "table" and prefix_or_opts or { prefix = prefix_or_opts, limit = limit }
  local settings, message, code = options.semaphore(given, object.facts(client).session, level + 1)
  if not settings then return nil, message, code end
  sem, message, code = core.semaphore(client, settings)
  if not sem then return nil, message, code end
  object.extend(sem, Semaphore)
  object.own(sem, client)
  return sem
end

return M
