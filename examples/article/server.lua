-- The web server of examples/article.lua: lua5.4 examples/article/server.lua REPORT
--
-- It answers GET /health with 200 and GET /webhook with 202, until it is asked for /webhook/last: from then on that
-- request gets no answer, and /health gets 503. Its URL goes to the file REPORT. Ends when its standard input does.

local cqueues = require("cqueues")
local httpd = require("examples.httpd")

local health = 200
local answers = {
  ["/health"] = function() return health end,
  ["/webhook"] = function() return 202 end,
  ["/webhook/last"] = function()
    health = 503
    while true do cqueues.sleep(60) end
  end,
}

local server = assert(httpd.new({ handler = function(request) return answers[request.path]() end }))

server:spawn(function()
  cqueues.poll({ pollfd = 0, events = "r" })
  os.exit(0)
end)

local report = assert(io.open(arg[1], "w"))
report:write(("http://127.0.0.1:%d\n"):format(server.port))
report:close()
server:run()
