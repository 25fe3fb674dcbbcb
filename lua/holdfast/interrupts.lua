--- What may interrupt a wait: descriptors that somebody listens to while the program waits for something else. The
-- plain scheduler and the loop look at them. Private.
--
-- An interrupt is a table:
--
--  * `fd`, and `heard(start)`, which is called when that is readable. What it raises comes out of the wait. `start`, in
--    the loop only, runs a function as a coroutine
--  * `at`, when it is called at the latest (core.now); nil: at no time
-- @module holdfast.interrupts

local core = require("holdfast.core")

local M = {}

local list = {}
local busy = false -- one of them is being heard: it may wait, and is not interrupted
local set          -- the op that is waited for, with them

--- Adds one.
function M.add(interrupt) list[#list + 1] = interrupt end

--- Takes one away; harmless when it is not there.
function M.remove(interrupt)
  for i, one in ipairs(list) do
    if one == interrupt then return table.remove(list, i) end
  end
end

--- Whether there is any to be looked at.
function M.any() return list[1] ~= nil and not busy end

-- The descriptors, put behind others, and how long it may take.
local function all(fds, seconds)
  local together, now = {}, core.now()
  for i, fd in ipairs(fds) do together[i] = fd end
  for _, interrupt in ipairs(list) do
    together[#together + 1] = interrupt.fd
    local left = interrupt.at and math.max(0, interrupt.at - now)
    if left and (not seconds or left < seconds) then seconds = left end
  end
  return together, seconds
end

local function hear(ready, start)
  local now, due = core.now(), {}
  for _, interrupt in ipairs(list) do
    if ready[interrupt.fd] or (interrupt.at and interrupt.at <= now) then due[#due + 1] = interrupt end
  end
  for _, interrupt in ipairs(due) do interrupt.heard(start) end
end

local function call(ready, start)
  busy = true
  local ok, message = pcall(hear, ready, start)
  busy = false
  if not ok then error(message, 0) end
end

--- Waits for descriptors by `poll(fds, seconds)`, which answers the readable ones, and hears what interrupts it.
-- @treturn table|nil what poll has answered
function M.poll(poll, fds, seconds, start)
  if not M.any() then return poll(fds, seconds) end
  local ready, message, code = poll(all(fds, seconds))
  if ready then call(ready, start) end
  return ready, message, code
end

-- The op is in the set for as long as that waits: it may be waited for elsewhere next.
local function wait_for_op(op, fds, seconds)
  local ready, message, code = set:wait(fds, seconds)
  set:remove(op)
  return ready, message, code
end

--- waitable:wait(seconds), which may come back for no reason, and hears what interrupts it.
function M.wait(waitable, seconds)
  if not M.any() then return waitable:wait(seconds) end
  set = set or assert(core.set())
  local op, message, code = set:add(waitable)
  local ready, fd
  if op then
    ready, message, code = wait_for_op(waitable, all({}, seconds))
  elseif not message then
    fd, message, code = waitable:pollfd()
    if fd then ready = core.poll(all({ fd }, seconds)) end
  end
  if not ready then return nil, message, code end
  call(ready)
  return waitable:wait(0)
end

return M
