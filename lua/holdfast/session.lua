--- Sessions as objects: what several locks may be held through, and what a program wants to know of one.
--
-- A session object is a session of the client's, made by itself: renewed in time by the client's thread, and watched,
-- whatever the Lua code is doing. It is not the shared session of `client:lock(key)`.
-- @module holdfast.session

local call = require("holdfast.call")
local check = require("holdfast.check")
local duration = require("holdfast.duration")
local object = require("holdfast.object")
local options = require("holdfast.options")

local finish = object.finish

local Client, Session = {}, {}

-- ---- what Consul says of one ---------------------------------------------------------------------------------------

local function list(ids, name)
  local copy = {}
  for i, id in ipairs(ids or {}) do copy[i] = name and id[name] or id end
  return copy
end

-- TTL is text as Go reads it, "" for none; LockDelay is in nanoseconds, decimal text where numbers cannot hold that.
local function described(session)
  return {
    id = session.ID, name = session.Name ~= "" and session.Name or nil, node = session.Node,
    ttl = session.TTL and session.TTL ~= "" and duration.parse(session.TTL) or nil,
    lock_delay = tonumber(session.LockDelay) / 1e9, behavior = session.Behavior,
    checks = list(session.NodeChecks or session.Checks), service_checks = list(session.ServiceChecks, "ID"),
    create_index = session.CreateIndex, modify_index = session.ModifyIndex,
  }
end

local function ask(client, path)
  local sessions, index, meta = call.send(client, call.prepare({ path = path }, 2))
  if not sessions then return nil, index, meta end
  for i, session in ipairs(sessions) do sessions[i] = described(session) end
  return sessions, index, meta
end

-- ---- client --------------------------------------------------------------------------------------------------------

--- Makes a session in Consul, and waits for that, for as long as the client's `timeout`.
--
-- It goes when it is destroyed, when the client closes, or when neither the object nor a lock that was made with it is
-- there any more.
-- @function client:session
-- @tparam[opt] table opts `{ name=, ttl=, lock_delay=, behavior="release"|"delete", node=, checks={},
-- service_checks={}, alive=false }`; what is left open is as in the client's `session`. Durations are seconds or text.
-- `lock_delay = 0` is none. `checks` are ids of checks of the node: left out Consul takes `{ "serfHealth" }`, and an
-- empty list is none. `service_checks` are ids of checks of its services. `alive = true`, or a duration, has it stand
-- on a check as well that the client's thread passes for as long as the process lives, whatever Lua is doing: an
-- instance of the service "holdfast" of the agent, with the session's TTL or that duration as the check's. So the
-- session of a process that has died ends after that, and not after twice its TTL; and so does the session of one that
-- cannot reach its agent for so long
-- @treturn session|nil the session; nil, message, code: SESSION with Consul's words when it refuses (a TTL out of its
-- range, a check that is unknown or critical to the end of the timeout), and DENIED, CONNECT, HTTP, TIMEOUT, INVALID,
-- CLOSED, FORKED, NOMEM
function Client:session(opts)
  local session, ok
  local facts = object.facts(self)
  local settings, message, code = options.session(opts, facts.session, 2)
  if settings and facts.log then facts.log:look_at(settings) end
  if settings then session, message, code = self:session_object(settings) end
  if not session then return nil, message, code end
  object.extend(session, Session)
  object.own(session, self)
  ok, message, code = finish(session, session:start_open())
  if not ok then return nil, message, code end
  return session
end

local read_node = check.arguments("", { "node", "text", optional = true })

--- The sessions that Consul has, of whomever, as far as the token may read them.
-- @function client:sessions
-- @string[opt] node only those of this node
-- @treturn table|nil a list of what session:info answers; then Consul's index and the facts of client:call. nil,
-- message, code (INVALID, DENIED, CONNECT, HTTP, ...)
function Client:sessions(node)
  local given, message, code = read_node(2, node)
  if not given then return nil, message, code end
  node = given.node
  if not node then return ask(self, "/v1/session/list") end
  return ask(self, "/v1/session/node/" .. node:gsub("[^%w._~-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- ---- session -------------------------------------------------------------------------------------------------------

--- The id that Consul has given it.
-- @function session:id
-- @treturn string

--- Whether it can be relied on at this moment; no network. The lease deadline is looked at by the call.
-- @function session:alive
-- @treturn boolean true; false and the reason: session (Consul has ended it, or says that it is not there), deadline
-- (not renewed in time), released (destroyed here), closed, forked

--- Seconds to the lease deadline, 0 when it is not alive.
-- @function session:remaining
-- @treturn number

--- What Consul says of it.
-- @function session:info
-- @treturn table|nil `{ id, name, node, ttl, lock_delay, behavior, checks, service_checks, create_index,
-- modify_index }`, durations in seconds, `ttl` nil when there is none; then Consul's index and the facts of
-- client:call. nil, message, code: NOT_FOUND when it is not there, or may not be read; DENIED, CONNECT, HTTP, ...
function Session:info()
  local id = self:id() or "" -- none in a child after fork, where nothing is asked
  local sessions, index, meta = ask(object.client(self), "/v1/session/info/" .. id)
  if not sessions then return nil, index, meta end
  if sessions[1] then return sessions[1], index, meta end
  return nil, ("Consul shows no session %s: it has ended, or the token may not read it"):format(id), "NOT_FOUND"
end

--- Has Consul renew it now. It is renewed in time without that: this is for who wants to be sure of the lease.
-- @function session:renew
-- @param[opt] timeout nil tries until the lease is over, 0 once
-- @treturn true|nil true; nil, message, code: SESSION when it has ended, DENIED, and what the trouble was
function Session:renew(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_renew(seconds))
end

--- Destroys it. What is held through it is lost at once, for the reason `session`, and Consul keeps those keys for the
-- lock-delay: unlock first. Idempotent.
-- @function session:destroy
-- @param[opt] timeout nil waits until Consul has answered, 0 for one try; it goes on in the background in any case
-- @treturn true|nil true once it is gone in Consul; nil, message, code: TIMEOUT, or what the trouble was
function Session:destroy(timeout)
  local seconds = options.timeout(timeout, 2)
  return finish(self, self:start_destroy(seconds))
end

return { client = Client }
