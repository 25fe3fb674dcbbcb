--- Options of holdfast.emitter, checked. Private to it.
-- @module holdfast.emitter.options

local core = require("holdfast.core")
local duration = require("holdfast.duration")

local M = {}

local DEFAULTS = { prefix = "webhook_receiver/", concurrency = 64, hold = {}, retry_delay = 5, poll = 0.25 }
local HOLD_DEFAULTS = { messages = 100, time = 5 }

-- The name that the lock's value shows to a person who asks Consul who holds it.
local function default_name()
  return "holdfast emitter " .. core.random(4):gsub(".", function(c) return ("%02x"):format(c:byte()) end)
end

local function default_random()
  local a, b, c = core.random(3):byte(1, 3)
  return (a * 65536 + b * 256 + c) / 16777216
end

local function has(object, ...)
  if type(object) ~= "table" and type(object) ~= "userdata" then return false end
  for _, method in ipairs({ ... }) do
    if not object[method] then return false end
  end
  return true
end

local function count(value) return type(value) == "number" and value >= 1 and value % 1 == 0 end
local function is(kind) return function(value) return type(value) == kind end end

local CHECKS = {
  client = { function(value) return has(value, "lock", "scheduler") end, "a holdfast client" },
  queue = { function(value) return has(value, "due", "claim", "ack", "nack") end, "a queue" },
  receivers = { function(value) return is("table")(value) or is("function")(value) end, "a table or a function" },
  prefix = { is("string"), "a string" },
  name = { is("string"), "a string" },
  concurrency = { count, "a whole number of at least 1" },
  hold = { is("table"), "a table" },
  on_event = { is("function"), "a function" },
  random = { is("function"), "a function" },
  now = { is("function"), "a function" },
  time = { is("function"), "a function" },
}

local function read_hold(given)
  for name in pairs(given) do
    if HOLD_DEFAULTS[name] == nil then error(("emitter: unknown option hold.%s"):format(tostring(name)), 4) end
  end
  local messages = given.messages == nil and HOLD_DEFAULTS.messages or given.messages
  if not count(messages) then error("emitter: hold.messages must be a whole number of at least 1", 4) end
  return { messages = messages, time = duration.check(given.time or HOLD_DEFAULTS.time, "emitter: hold.time", 4) }
end

--- A checked copy with the defaults filled in. Blames the caller of its caller.
function M.read(given)
  if type(given) ~= "table" then error("emitter.new takes a table of options", 3) end
  local opts = {}
  for name, value in pairs(given) do
    if not CHECKS[name] and name ~= "retry_delay" and name ~= "poll" then
      error(("emitter: unknown option %q"):format(tostring(name)), 3)
    end
    opts[name] = value
  end
  for name, value in pairs(DEFAULTS) do
    if opts[name] == nil then opts[name] = value end
  end
  opts.name, opts.random = opts.name or default_name(), opts.random or default_random
  opts.now, opts.time = opts.now or core.now, opts.time or core.time
  for name, check in pairs(CHECKS) do
    if not check[1](opts[name]) and not (name == "on_event" and opts[name] == nil) then
      error(("emitter: %s must be %s"):format(name, check[2]), 3)
    end
  end
  for _, name in ipairs({ "retry_delay", "poll" }) do
    opts[name] = duration.check(opts[name], "emitter: " .. name, 3)
    if opts[name] == 0 then error(("emitter: %s must be more than 0"):format(name), 3) end
  end
  opts.hold = read_hold(opts.hold)
  if type(opts.receivers) == "table" then
    local receivers = opts.receivers
    opts.receivers = function(name) return receivers[name] end
  end
  return opts
end

return M
