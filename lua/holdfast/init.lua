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

local agent = require("holdfast.agent")
local call = require("holdfast.call")
local catalog = require("holdfast.catalog")
local core = require("holdfast.core")
local elections = require("holdfast.elect")
local force = require("holdfast.force")
local health = require("holdfast.health")
local kv = require("holdfast.kv")
local lock_all = require("holdfast.lock_all")
local locks = require("holdfast.lock")
local logs = require("holdfast.log")
local loop = require("holdfast.loop")
local object = require("holdfast.object")
local options = require("holdfast.options")
local options_client = require("holdfast.options_client")
local rwlocks = require("holdfast.rwlock")
local sched = require("holdfast.sched")
local semaphores = require("holdfast.semaphore")
local session = require("holdfast.session")
local signal = require("holdfast.signal")

local unpack = table.unpack or unpack -- luacheck: ignore

local ENVIRONMENT = { getenv = os.getenv, open = io.open }

-- How unlock answers when the lock was not held to the end.
local UNPROTECTED = { LOST = true, CLOSED = true, FORKED = true }

local Client = {}

local finish = object.finish

-- ---- client --------------------------------------------------------------------------------------------------------

--- Makes a lock object. No network.
-- @function client:lock
-- @param key_or_opts a key, or `{ key=, value="", session=, session_ttl=, session_name=, lock_delay=, session_opts={},
-- monitor="session", ephemeral=false, max_hold=, fair=false }`. Any of session_* and lock_delay gives the lock a
-- session of its own; what they leave open is as in the client's `session`. `ephemeral` has the key deleted when the
-- lock is given back. After `max_hold` (a duration) a hold ends by itself, with the reason `expired`, and the lock is
-- given back. With `fair` those that wait for the key are served in the order in which they came, as far as they are
-- fair too
-- @treturn lock|nil the lock; nil, message, code (INVALID, TOO_LARGE, CLOSED, FORKED, NOMEM)
function Client:lock(key_or_opts)
  local lock, message, code = locks.new(self, key_or_opts, 2)
  return lock, message, code
end

--- Makes an object with the face of a lock for several keys: `lock:lock` takes all of them in one step of Consul's, or
-- none; when one of them is lost, all are, for the same reason, and the others are given back. `lock:token()` is one
-- for all, `lock:keys()` a list, `lock:key()` the first. Whoever waits for one key keeps no other, so that no two
-- callers wait for each other, whatever the order of their keys. No network.
-- @function client:lock_all
-- @tparam table keys_or_opts a list of keys, all different, or `{ keys = { ... } }` with the other options of
-- client:lock. 64 keys at most (TOO_LARGE); a server before Consul 1.14 takes 32, which lock:lock says
-- @treturn lock|nil the lock; nil, message, code (INVALID, TOO_LARGE, CLOSED, FORKED, NOMEM)
function Client:lock_all(keys_or_opts)
  local lock, message, code = lock_all.new(self, keys_or_opts, 2)
  return lock, message, code
end

--- Makes a semaphore: as many as `limit` hold a slot at once. No network. Wire-compatible with Go's client and
-- `consul lock -n`: they share slots. The face is a lock's, with `acquire` and `release`.
-- @function client:semaphore
-- @param prefix_or_opts where it is kept (`a` and `a/` are the same), or a table `{ prefix=, limit=, value="",
-- session=, session_ttl=, session_name=, session_opts={} }`. Each hold has a session of its own, by the client's
-- `session`, with a TTL as long as its lock-delay (25 s), no lock-delay, and behavior "delete"; or the given one, made
-- elsewhere
-- @int[opt] limit how many
-- @treturn semaphore|nil the semaphore; nil, message, code (INVALID, TOO_LARGE, CLOSED, FORKED, NOMEM)
function Client:semaphore(prefix_or_opts, limit)
  local sem, message, code = semaphores.new(self, prefix_or_opts, limit, 2)
  return sem, message, code
end

--- Frees a lock's key whoever holds it: for operators, and for a holder that is known to be dead. It is dangerous: a
-- holder that is alive does not stop because of it.
--
-- Without `session` only the key is freed, and at once, without a lock-delay: the holder goes on to believe that it has
-- the key until it looks, a third of its TTL later, and the next one holds it beside it. With `session = true` the
-- holder's session is destroyed: its lock-delay keeps the next one away until the holder has stopped by itself, but
-- everything else that the session holds is freed too. The fencing token tells the two apart in any case.
-- @function client:force_release
-- @param key_or_opts a key, or `{ key=, session=false }`
-- @param[opt] timeout nil for as long as it takes; of single requests the client's
-- @treturn table|nil who held it: `{ session=, value=, index= }`; nil, message, code: NOT_HELD when nobody does,
-- NOT_FOUND when there is no such key, CONFLICT when it is not used as a lock (a semaphore's is not), and those of
-- client.kv
function Client:force_release(key_or_opts, timeout)
  local held, message, code = force.release(self, key_or_opts, timeout, 2)
  return held, message, code
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
  lock, message, code = locks.new(self, key_or_opts, 2)
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

--- Makes an HTTP request. Redirects are not followed.
-- @function client:request
-- @tparam table req `{ method=, url=, headers={}, body=, timeout=, max_body=1048576 }`; the method is POST with a body
-- and GET without unless it is given, the timeout that of the client. How to get there: `tls`, as for holdfast.new, and
-- `unix_socket`, the path of one. With `public_only = true` nothing is sent to an address that is not public, unless it
-- is in one of `allow_addresses`, such as `{ "10.1.0.0/16" }`
-- @treturn table|nil `{ status=, headers=, body=, truncated=, elapsed= }`, header names in lower case; nil, message,
-- code (TIMEOUT, CONNECT, TLS, PROTOCOL, INVALID, TOO_LARGE, DENIED for an address that may not be reached, CLOSED,
-- FORKED, NOMEM)
function Client:request(req)
  local settings, message, code = options.request(req, 2)
  if not settings then return nil, message, code end
  return locks.request(self, settings)
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

--- Counters since the client was made; locks_held, sessions and connections are those of now.
-- @function client:stats
-- @treturn table `{ requests=, renewals=, renew_failures=, acquired=, released=, locks_held=, sessions=, connections=,
-- losses = { REASON = count } }`

--- The scheduler adapter that this client waits with.
-- @function client:scheduler
-- @treturn table `{ wait=, sleep=, spawn=, now= }`
function Client:scheduler()
  return object.scheduler(self)
end

--- Makes a read-write lock: many readers of a key, or one writer. No network. All that want it are served in the order
-- in which they came.
-- @function client:rwlock
-- @param key_or_opts a key, or `{ key=, session=, session_ttl=, session_name=, lock_delay=, session_opts={},
-- monitor="session" }` as for client:lock. The behavior of the session must be `release`
-- @treturn rwlock|nil an object whose `read()` and `write()` make locks, any number of them; nil, message, code
-- (INVALID, TOO_LARGE, CLOSED)
function Client:rwlock(key_or_opts)
  local rwlock, message, code = rwlocks.new(self, key_or_opts, 2)
  return rwlock, message, code
end

--- Campaigns for a key, for ever: in a coroutine of its own where the client's scheduler has one to start, else while
-- `election:run` is called. After a loss it is a candidate again. No network by itself.
-- @function client:elect
-- @string key any lock's, also one of Go's client
-- @tparam[opt] table opts of client:lock (`value` is what others read of the leader), and `on_gain(lock)`, called when
-- it leads, and `on_lose(reason)`, called when that has ended, if on_gain was. With a loop, on_gain has a coroutine of
-- its own, and may go on as long as it likes. What a callback raises ends the campaign, gives the key back, and comes
-- out of election:run, or out of loop.run
-- @treturn election|nil it; nil, message, code as client:lock
function Client:elect(key, opts)
  local election, message, code = elections.new(self, key, opts, 2)
  return election, message, code
end

for _, methods in ipairs({ call.client, session.client, signal.client }) do
  for name, method in pairs(methods) do Client[name] = method end
end

-- ---- the module ----------------------------------------------------------------------------------------------------

-- What a client has that is no method: name -> function(client).
local FACETS = { agent = agent.new, catalog = catalog.new, health = health.new, kv = kv.new }

local M = {
  _VERSION = core._VERSION,
  --- What is an array without elements in the body of client:call, where an empty table is an object.
  empty_array = core.empty_array,
  --- Listens for signals of the process: see holdfast.signal.
  on_signal = signal.on,
}

--- Makes a client. Opens no socket and starts no thread: the first operation does.
--
-- What is not given is as in the environment, by the rules of Go's client: CONSUL_HTTP_ADDR, CONSUL_HTTP_SSL,
-- CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN, CONSUL_HTTP_AUTH, CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT,
-- CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME, CONSUL_HTTP_SSL_VERIFY, CONSUL_NAMESPACE, CONSUL_PARTITION. It differs in
-- what makes no sense: that is INVALID here. A token file is read here and again whenever Consul refuses a request.
-- @tparam[opt] table opts every field optional: `address`, `token`,
-- `token_file`, `auth`, `datacenter`, `namespace`, `partition`, `tls = { ca_file=, ca_path=, cert_file=, key_file=,
-- server_name=, verify=true }`, `timeout=10`, `session = { name="holdfast", ttl=10, lock_delay=25, behavior="release",
-- node=, checks=, service_checks=, alive=false }`, `scheduler="plain"`, `log`: a function(level, message, fields), or a
-- LuaLogging object, that is told what goes on. It is called in the caller's thread, after and during calls that wait;
-- it must not wait itself, and should not refer to the client
-- @treturn client|nil the client; nil, message, code (INVALID, NOMEM)
function M.new(opts)
  if opts == nil then opts = {} end
  local client, scheduler
  local settings, message, code = options_client.read(opts, ENVIRONMENT, 2)
  if not settings then return nil, message, code end
  scheduler, message, code = sched.resolve(opts.scheduler, 3)
  if not scheduler then return nil, message, code end
  local log = logs.listener(opts.log, 2)
  settings.events = log ~= nil
  client, message, code = core.client(settings)
  if not client then return nil, message, code end
  if log then scheduler = log:attach(client, scheduler) end
  object.extend(client, Client, FACETS)
  object.know(client, { scheduler = scheduler, session = settings.session, log = log })
  if log then log:look_at(settings.session) end
  return client
end

return M
