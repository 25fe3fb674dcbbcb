--- Options of holdfast.emitter, checked. Private to it.
-- @module holdfast.emitter.options

local check = require("holdfast.check")
local core = require("holdfast.core")
local signal = require("holdfast.signal")

local M = {
  GRACE = 10, -- seconds
}

-- The name that the lock's value shows to a person who asks Consul who holds it.
local function default_name()
  return "holdfast emitter " .. core.random(4):gsub(".", function(c) return ("%02x"):format(c:byte()) end)
end

local function default_random()
  local a, b, c = core.random(3):byte(1, 3)
  return (a * 65536 + b * 256 + c) / 16777216
end

-- A kind of holdfast.check: what has these methods.
local function with(...)
  local methods = { ... }
  return function(value)
    if type(value) ~= "table" and type(value) ~= "userdata" then return nil end
    for _, method in ipairs(methods) do
      if not value[method] then return nil end
    end
    return value
  end
end

local function lookup(receivers)
  if type(receivers) == "function" then return receivers end
  return type(receivers) == "table" and function(name) return receivers[name] end or nil
end

local function networks(value)
  if type(value) ~= "table" then return nil end
  local copy, count = {}, 0
  for _ in pairs(value) do count = count + 1 end
  for i = 1, count do
    if type(value[i]) ~= "string" or not core.is_network(value[i]) then return nil end
    copy[i] = value[i]
  end
  return copy
end

local OPTIONS = {
  says = "emitter.new takes a table of options",
  fields = {
    client = { with("lock", "scheduler"), what = "a holdfast client", required = true },
    queue = { with("due", "claim", "ack", "nack"), what = "a queue", required = true },
    receivers = { lookup, what = "a table or a function", required = true },
    prefix = { "string", default = "webhook_receiver/" }, name = "string",
    concurrency = { "count", default = 64 },
    hold = { default = {}, fields = { messages = { "count", default = 100 }, time = { "duration", default = 5 } } },
    retry_delay = { "duration", positive = true, default = 5 }, poll = { "duration", positive = true, default = 0.25 },
    public_only = "boolean", allow_addresses = { networks, what = "a list of networks like 10.1.0.0/16" },
    on_event = "function",
    random = { "function", default = default_random }, now = { "function", default = core.now },
    time = { "function", default = core.time },
  },
}

-- A kind: names of signals, or one.
local function signals(value)
  local ok, names = pcall(signal.read, 2, value)
  return ok and names or nil
end

local RUN = {
  says = "emitter:run takes a table of options",
  fields = {
    stop_on = { signals, what = "a list of names of signals" }, grace = { "duration", default = M.GRACE },
  },
}

--- The options of emitter:run, checked, as read does.
function M.run(given, level)
  local opts = check.guard(level + 1, "emitter: ", check.read, given == nil and {} or given, RUN)
  return opts
end

--- A checked copy with the defaults filled in.
-- @param given what the user typed
-- @int level whom a mistake blames, as for error(): 1 is the line that called read, 2 the caller of that function
function M.read(given, level)
  local opts = check.guard(level + 1, "emitter: ", check.read, given, OPTIONS)
  -- What a function looks up may be what somebody has typed who is not the operator.
  if opts.public_only == nil then
    opts.public_only = type(given.receivers) == "function" or opts.allow_addresses ~= nil
  end
  if not opts.public_only then opts.allow_addresses = nil end
  opts.name = opts.name or default_name()
  return opts
end

return M
