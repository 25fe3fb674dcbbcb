-- An emitter of webhooks: lua5.4 examples/demo/emitter.lua NAME QUEUE EVENTS SECRET NAME=URL…
--
-- Takes messages from QUEUE and pushes them to the receivers, as many other processes do with the same queue: the
-- receiver's lock in Consul sees to it that one of them at a time does. Appends one line for each event to the file
-- EVENTS: when, what, receiver, token, and a remark. Stops in good order when its standard input ends.

local core = require("holdfast.core")
local holdfast = require("holdfast")
local loop = require("holdfast.loop")

local name, queue_url, path, secret = arg[1], arg[2], arg[3], arg[4]
local receivers = {}
for i = 5, #arg do
  local receiver, url = arg[i]:match("^(.-)=(.*)$")
  receivers[receiver] = { url = url, secret = secret, timeout = 2 }
end

local events = assert(io.open(path, "a"))
events:setvbuf("line")

local client = assert(holdfast.new({
  scheduler = "loop",
  -- Short, so that a crash is over soon. The lock-delay is not shorter than the TTL: whoever lost the session has
  -- noticed, by his own clock, before the next one can begin.
  session = { name = name, ttl = "2s", lock_delay = "2s" },
}))

local emitter = require("holdfast.emitter").new({
  client = client,
  queue = assert(require("holdfast.queue").open(queue_url)),
  receivers = receivers,
  name = name,
  -- One receiver at a time and short turns, so that every emitter has its part.
  concurrency = 1,
  hold = { messages = 20, time = 2 },
  on_event = function(event)
    events:write(("%.6f\t%s\t%s\t%s\t%s\n"):format(core.now(), event.type, event.receiver or "-", event.token or "-",
      (event.reason or ""):gsub("%c", " ")))
  end,
})

loop.run(function()
  loop.spawn(function()
    loop.wait({ pollfd = function() return 0 end })
    emitter:stop(2)
  end)
  assert(emitter:run())
end)
client:close()
