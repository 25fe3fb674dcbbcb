--- Distributed locks on Consul.
--
--    local holdfast = require("holdfast")
--    local client = assert(holdfast.new({ address = "127.0.0.1:8500" }))
--    local lock = assert(client:lock("webhook_receiver/1"))
--    assert(lock:lock("10s"))
--    ...
--    assert(lock:unlock())
--
-- Run-time failures answer nil, message, code; programmer mistakes raise with the caller's line. A timeout is a
-- duration and the last argument: nil waits as long as it takes, 0 tries once.
--
-- Clients and locks are userdata of the core. What takes time starts there and is waited for here, with the scheduler
-- of the client; the waiting methods are added to the core's method tables, so that there is one object to hold.
-- @module holdfast

local call = require("holdfast.call")
local core = require("holdfast.core")
local headers = require("holdfast.headers")
local loop = require("holdfast.loop")
local object = require("holdfast.object")
local options = require("holdfast.options")
local sched = require("holdfast.sched")

local unpack = table.unpack or unpack -- luacheck: ignore

local ENVIRONMENT = { getenv = os.getenv, open = io.open }

-- How unlock answers when the lock was not held to the end.
local UNPROTECTED = { LOST = true, CLOSED = true, FORKED = true }

local Client, Lock = {}, {}

local finish = object.finish

local function respond(status, raw_headers, body, truncated, elapsed)
  if not status then return nil, raw_headers, body end
  return { status = status, headers = headers.parse(raw_headers), body = body, truncated = truncated,
    elapsed = elapsed }
end

-- ---- client --------------------------------------------------------------------------------------------------------

-- `level` is as for error() in the function that calls this.
local function new_lock(client, key_or_opts, level)
  local lock
  local settings, message, code = options.lock(key_or_opts, object.facts(client).session, level + 1)
  if settings then lock, message, code = client:lock_object(settings) end
  if not lock then return nil, message, code end
  object.extend(lock, Lock)
  object.own(lock, client)
  return lock
end

--- Makes a lock object. No network.
-- @function client:lock
-- @param key_or_opts a key, or `{ key=, value="", session=, session_ttl=, session_name=, lock_delay=, session_opts={},
-- monitor="session" }`. Any of session_* and lock_delay gives the lock a session of its own; what they leave open is
-- as in the client's `session`
-- @treturn lock|nil the lock; nil, message, code (INVALID, TOO_LARGE, CLOSED, FORKED, NOMEM)
function Client:lock(key_or_opts)
  local lock, message, code = new_lock(self, key_or_opts, 2)
  return lock, message, code
end

local function pack(...)
  return { n = select("#", ...), ... }
end

--- Runs a function under a lock: takes the lock, calls fn(lock), gives the lock back whatever happens.
--
-- What fn raises is raised again as it is. The values that fn returned are answered when the lock was held until fn
-- returned (or fn gave it back itself), even if the release could not be told to Consul: the work is done, and doing it
-- again because of the release would be wrong. They are not answered as if all were well when the lock was lost under
-- fn, since then another may have worked at the same time: that is nil, message, code with LOST (CLOSED when the client
-- was closed meanwhile, FORKED in a child process), and what fn returned comes after the code. LOST is never an
-- answer to a lock that was not taken.
--
-- The release waits until Consul answers or the lease is over.
-- @function client:with_lock
-- @param key_or_opts as for client:lock
-- @param[opt] timeout for taking the lock
-- @func fn may wait and yield, on every Lua
-- @return what fn returned; nil, message, code when the lock was not taken; nil, message, code and what fn returned
-- when it was lost
function Client:with_lock(key_or_opts, timeout, fn)
  if fn == nil then timeout, fn = nil, timeout end
  if type(fn) ~= "function" then error("with_lock takes a function, not a " .. type(fn), 2) end
  local seconds = options.timeout(timeout, 2)
  local lock, ok, message, code
  lock, message, code = new_lock(self, key_or_opts, 2)
  if not lock then return nil, message, code end
  ok, message, code = lock:lock(seconds)
  if not ok then return nil, message, code end
  local results = pack(loop.pcall(fn, lock))
  local finished, released
  finished, released, message, code = loop.pcall(lock.unlock, lock)
  if not results[1] then error(results[2], 0) end
  if not finished then error(released, 0) end
  if not released and UNPROTECTED[code] then
    return nil, message, code, unpack(results, 2, results.n)
  end
  return unpack(results, 2, results.n)
end

local function request(of, settings)
  return respond(finish(of, of:start_request(settings)))
end

--- Makes an HTTP request. Redirects are not followed.
-- @function client:request
-- @tparam table req `{ method=, url=, headers={}, body=, timeout=, max_body=1048576 }`; the method is POST with a body
-- and GET without unless it is given, the timeout that of the client
-- @treturn table|nil `{ status=, headers=, body=, truncated=, elapsed= }`, header names in lower case; nil, message,
-- code (TIMEOUT, CONNECT, TLS, PROTOCOL, INVALID, TOO_LARGE, CLOSED, FORKED, NOMEM)
function Client:request(req)
  local settings, message, code = options.request(req, 2)
  if not settings then return nil, message, code end
  return request(self, settings)
end

local function close(client, tell)
  local ok, message, code = finish(client, client:start_close(tell))
  if not ok then return nil, message, code end
  client:join()
  return true
end

--- Releases every lock held through it, destroys its sessions and ends its thread. Takes 3 s at most, when Consul does
-- not answer; a loop goes on meanwhile. Idempotent.
-- @function client:close
-- @treturn true|nil true; nil, message, code (FORKED, NOMEM)
function Client:close()
  return close(self, true)
end

--- The same without telling Consul: what a crash would do.
-- @function client:abandon
-- @treturn true|nil true; nil, message, code (FORKED, NOMEM)
function Client:abandon()
  return close(self, false)
end

--- The scheduler adapter that this client waits with.
-- @function client:scheduler
-- @treturn table `{ wait=, sleep=, spawn=, now= }`
function Client:scheduler()
  return object.scheduler(self)
end

Client.call = call.methods.call

-- ---- lock ----------------------------------------------------------------------------------------------------------

--- Takes the lock.
-- @function lock:lock
-- @param[opt] timeout nil waits as long as it takes, 0 tries once
-- @treturn true|nil true; nil, message, code (TIMEOUT, HELD, CONFLICT, SESSION, CANCELED, DENIED, CONNECT, ...)
function Lock:lock(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_lock(seconds))
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

--- Deletes the key if nobody holds it.
-- @function lock:destroy
-- @param[opt] timeout
-- @treturn true|nil true, also when the key is absent; nil, message, code (HELD, IN_USE, CONFLICT, ...)
function Lock:destroy(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_destroy(seconds))
end

--- Makes an HTTP request that is aborted in mid-flight the moment the lock is lost.
-- @function lock:request
-- @tparam table req as for client:request
-- @treturn table|nil as for client:request; nil, message, code (LOST, NOT_HELD, and those of client:request)
function Lock:request(req)
  local settings, message, code = options.request(req, 2)
  if not settings then return nil, message, code end
  return request(self, settings)
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
-- @treturn string|nil the reason: session, key, stolen, deadline, released, closed or forked; nil, "timed out",
-- "TIMEOUT"; nil, message, "NOT_HELD" when it never was held
function Lock:wait_lost(timeout)
  local seconds = options.timeout(timeout, 2)
  local held, reason, code = self:held()
  if held == nil then return nil, reason, code end
  if held then return watch(self, object.scheduler(self), self:token(), seconds) end
  if reason and reason ~= "" then return reason end
  return nil, ("lock %q has not been held"):format(self:key()), "NOT_HELD"
end

-- The event-loop protocol: readable once lost or released. cqueues reads pollfd, events and timeout; LuaSocket's select
-- and Copas read getfd and dirty.

function Lock.events() return "r" end
function Lock.timeout() return nil end
function Lock.dirty() return false end
function Lock:getfd() return self:pollfd() end

-- ---- the module ----------------------------------------------------------------------------------------------------

-- What a client has that is no method: name -> function(client).
local FACETS = {}

local M = {
  _VERSION = core._VERSION,
  --- What is an array without elements in the body of client:call, where an empty table is an object.
  empty_array = core.empty_array,
}

--- Makes a client. Opens no socket and starts no thread: the first operation does.
-- @tparam[opt] table opts every field optional, CONSUL_* environment variables are the defaults: `address`, `token`,
-- `token_file`, `auth`, `datacenter`, `namespace`, `partition`, `tls = { ca_file=, ca_path=, cert_file=, key_file=,
-- server_name=, verify=true }`, `timeout=10`, `session = { name="holdfast", ttl=10, lock_delay=25, behavior="release",
-- node=, checks=, service_checks= }`, `scheduler="plain"`
-- @treturn client|nil the client; nil, message, code (INVALID, NOMEM)
function M.new(opts)
  if opts == nil then opts = {} end
  local client, scheduler
  local settings, message, code = options.client(opts, ENVIRONMENT, 2)
  if not settings then return nil, message, code end
  scheduler, message, code = sched.resolve(opts.scheduler, 3)
  if not scheduler then return nil, message, code end
  client, message, code = core.client(settings)
  if not client then return nil, message, code end
  object.extend(client, Client, FACETS)
  object.know(client, { scheduler = scheduler, session = settings.session })
  return client
end

return M
