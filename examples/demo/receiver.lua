-- A receiver of webhooks: lua5.4 examples/demo/receiver.lua NAME SECRET RECORDS
--
-- Answers everything with 204 after 20 to 40 ms, and appends one line for each request to the file RECORDS:
-- when it came in and when it was answered (core.now(), one clock for all processes of a machine), its id, its fencing
-- token, and "good" or what is wrong with its signature. The first line is its URL. Ends when its standard input does.

local cqueues = require("cqueues")
local core = require("holdfast.core")
local webhook = require("holdfast.webhook")
local httpd = require("examples.httpd")

local name, secret, path = arg[1], arg[2], arg[3]
local records = assert(io.open(path, "a"))
records:setvbuf("line")

local server = assert(httpd.new({
  handler = function(request)
    local came = core.now()
    -- fence: the token is part of what is signed, so that nobody on the way can make a stale push look like a new one
    local ok, problem = webhook.verify(secret, request.headers, request.body, { fence = true })
    cqueues.sleep(0.02 + math.random() * 0.02)
    records:write(("%.6f\t%.6f\t%s\t%s\t%s\n"):format(came, core.now(), request.headers["webhook-id"] or "-",
      request.headers["webhook-fencing-token"] or "-", ok and "good" or problem))
    return 204
  end,
}))

server:spawn(function()
  cqueues.poll({ pollfd = 0, events = "r" })
  os.exit(0)
end)
records:write(("http://127.0.0.1:%d/%s\n"):format(server.port, name))
server:run()
