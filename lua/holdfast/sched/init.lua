--- Schedulers: how a coroutine waits.
--
-- An adapter is a table of four functions:
--
--  * `wait(waitable, seconds)`: true once `waitable:pollfd()` is readable; `nil, "timeout"`; or what pollfd failed with
--  * `sleep(seconds)`, `spawn(fn, ...)`, `now()` (seconds, monotonic)
--
-- and two optional fields: `blocking = true` says that it cannot run two coroutines at once, and `enter(fn, ...)` calls
-- fn where spawn works, starting a loop when there is none.
-- @module holdfast.sched

local MODULES = { plain = "holdfast.sched.plain", loop = "holdfast.sched.loop" }
local PLANNED = { cqueues = true, luv = true, copas = true, nginx = true }
local VERBS = { "wait", "sleep", "spawn", "now" }

local M = {}

local function check_adapter(adapter, level)
  for _, verb in ipairs(VERBS) do
    if type(adapter[verb]) ~= "function" then
      error(("scheduler: the adapter has no function %q (it needs wait, sleep, spawn and now)"):format(verb), level + 1)
    end
  end
  return adapter
end

--- Finds an adapter.
-- @param[opt="plain"] which a name or an adapter table. A wrong name, type or table raises.
-- @int[opt=2] level whom an error blames: as for error(), 2 is the caller of resolve
-- @treturn table|nil the adapter; nil, message, "INVALID" for a scheduler that is not written yet
function M.resolve(which, level)
  level = level or 2
  if which == nil then which = "plain" end
  if type(which) == "table" then
    check_adapter(which, level)
    return which
  elseif MODULES[which] then
    return require(MODULES[which])
  elseif PLANNED[which] then
    return nil, ("scheduler %q is not there yet: use plain or loop, or give an adapter table"):format(which), "INVALID"
  end
  error(("scheduler: %s is none of plain, loop, cqueues, luv, copas, nginx, nor an adapter table"):format(
    type(which) == "string" and ("%q"):format(which) or "a " .. type(which)), level)
end

return M
