--- The plain scheduler: waiting blocks the calling thread.
-- A wait that a signal interrupts goes round through Lua, so that the hook which Ctrl-C sets gets its turn. It hears
-- what else may interrupt it (holdfast.interrupts).
-- @module holdfast.sched.plain

local core = require("holdfast.core")
local interrupts = require("holdfast.interrupts")

local now = core.now

local function left(deadline)
  return deadline and math.max(0, deadline - now())
end

local function wait(waitable, seconds)
  local deadline = seconds and now() + seconds
  repeat
    local done, message, code = interrupts.wait(waitable, left(deadline))
    if done then return true end
    if message then return nil, message, code end
  until deadline and now() >= deadline
  return nil, "timeout"
end

local function sleep(seconds)
  local deadline = now() + seconds
  while now() < deadline do interrupts.poll(core.poll, {}, left(deadline)) end
end

local function spawn()
  error("the plain scheduler has nothing to run a coroutine on: make the client with scheduler = \"loop\"", 2)
end

-- blocking: nothing else runs while one waits, and spawn is of no use.
return { wait = wait, sleep = sleep, spawn = spawn, now = now, blocking = true }
