--- What the userdata of the core are to the Lua layer: methods put over their class, what is known of each object, and
-- the one way to wait for what they start. Private.
-- @module holdfast.object

local loop = require("holdfast.loop")

local M = {}

-- What a method needs to know of its object, and userdata has no room for: object -> what there is to know of it, as of
-- a client { scheduler, session, log }; and any object of a client -> its client, which it keeps alive.
local function weak() return setmetatable({}, { __mode = "k" }) end

local known = { facts = weak(), owners = weak() }

-- ---- classes -------------------------------------------------------------------------------------------------------

-- client.kv and its like are no methods: each is made when it is asked for, since one that was kept here would keep its
-- client for ever on Luas without ephemeron tables.
local function index(class, facets)
  return function(object, name)
    local method = class[name]
    if method ~= nil then return method end
    local facet = facets[name]
    return facet and facet(object)
  end
end

--- Puts methods on the core's table of a class, once. A second copy of this module in one Lua state takes over what the
-- first one knew, or objects made before would be strangers to the methods of now.
-- @param object any of the class
-- @tparam table methods
-- @tparam[opt] table facets name -> function(object), for what is had without a call
function M.extend(object, methods, facets)
  local meta = getmetatable(object)
  local class = meta.class_ or meta.__index
  if class.methods_ == methods then return end
  known = class.known_ or known
  class.known_, class.methods_ = known, methods
  for name, method in pairs(methods) do class[name] = method end
  if facets then meta.class_, meta.__index = class, index(class, facets) end
end

--- Notes what there is to know of an object.
-- @param of
-- @tparam table facts of a client `{ scheduler=, session=, log= }`. They must not lead back to the object, which would
-- never be collected then on Luas without ephemeron tables
function M.know(of, facts) known.facts[of] = facts end

--- Notes whose an object is.
function M.own(object, client) known.owners[object] = client end

--- The client of an object.
function M.client(object) return known.owners[object] end

--- What is known of an object; nil when there is nothing.
function M.facts(of) return known.facts[of] end

--- The scheduler of a client, or of the client that an object is of.
function M.scheduler(object)
  return known.facts[known.owners[object] or object].scheduler
end

-- ---- waiting -------------------------------------------------------------------------------------------------------

--- Gives an op or a lock up without waiting for the collector: what is under way is canceled, what is held given back.
local function drop(op)
  local finalize = (getmetatable(op) or {}).__gc
  if finalize then finalize(op) end
end

M.drop = drop

local function read(op, ...)
  drop(op)
  return ...
end

local function waited(op, ok, ...)
  if ok then return ... end
  drop(op)
  error((...), 0)
end

-- What interrupts a wait that blocks, as Ctrl-C does, comes out of it as an error, and so does what somebody's adapter
-- raises: the op is dropped. Coroutines of our own loop are not resumed then: the loop sees to their ops.
local function wait(scheduler, op)
  local ours = (scheduler.under or scheduler).wait == loop.wait
  if scheduler.blocking or (ours and not loop.running()) then return waited(op, pcall(scheduler.wait, op)) end
  if ours then return scheduler.wait(op) end
  return waited(op, loop.pcall(scheduler.wait, op))
end

--- Waits for an op of an object and answers its result. The op is dropped with that: its descriptor must not wait for
-- the collector. A scheduler may wake early: the op itself knows. An op that cannot be waited for is dropped, which
-- cancels it, so that it has no effect that nobody knows of. The object is an argument also for its own sake: what is
-- waited for must not be collected meanwhile, and `client:lock(k):lock()` has no other reference to it.
-- @param object a client, or an object of one
-- @param op what a start_* method answered, with the two that follow
-- @return what op:result() answers; nil, message, code
function M.finish(object, op, message, code)
  if not op then return nil, message, code end
  local scheduler = M.scheduler(object)
  local done
  repeat
    done, message, code = wait(scheduler, op)
    if not done and message ~= "timeout" then
      drop(op)
      return nil, message, code
    end
    done, message, code = op:wait(0)
  until done or message
  if not done then return nil, message, code end
  return read(op, op:result())
end

return M
