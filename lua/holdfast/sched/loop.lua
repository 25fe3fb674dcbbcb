--- The scheduler on the built-in loop: waiting suspends the calling coroutine. Outside a loop it blocks, as plain does.
-- @module holdfast.sched.loop

local loop = require("holdfast.loop")

--- Calls fn in the loop: directly when there is one, else in a loop of its own that ends with it.
local function enter(fn, ...)
  if loop.running() then return fn(...) end
  return loop.run(fn, ...)
end

return { wait = loop.wait, sleep = loop.sleep, spawn = loop.spawn, now = loop.now, enter = enter }
