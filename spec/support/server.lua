-- lua5.4 spec/support/server.lua [UPSTREAM_HOST:PORT]
--
-- A scriptable HTTP server, and with an upstream a fault proxy in front of it. A process of its own, told what to do
-- by spec/support/proxy.lua (where the rules are described) through JSON lines on a control port. Prints both port
-- numbers, and ends when its control connection does, so that it never outlives the spec that started it.

local cqueues = require("cqueues")
local condition = require("cqueues.condition")
local socket = require("cqueues.socket")
local json = require("dkjson")
local luasocket = require("socket")
local httpd = require("examples.httpd")

local upstream_host, upstream_port = (arg[1] or ""):match("^(.+):(%d+)$")

local loop = cqueues.new()
local rules, log, waiters = {}, {}, {}
local connections, counts = {}, { open = 0, most = 0, total = 0 }
local blackhole, light = false, condition.new()

-- Waits for the end of the black hole: whatever comes in or goes out passes here.
local function gate()
  while blackhole do light:wait() end
end

-- The log. A request is "received", and later "answered" or "gone" (its client left before the answer).

local function matches(entry, pattern, state)
  return (state == nil or state == "received" or entry[state] ~= nil)
    and (pattern == nil or (entry.method .. " " .. entry.target):find(pattern) ~= nil)
end

local function note(entry, state)
  entry[state] = luasocket.gettime()
  for waiter in pairs(waiters) do
    if waiter.state == state and matches(entry, waiter.pattern) then
      waiter.left = waiter.left - 1
      waiter.ready:signal()
    end
  end
end

local function record(con, request)
  local entry = {
    id = #log + 1, connection = con.id, method = request.method, target = request.target, path = request.path,
    query = request.query, headers = request.headers, body = request.body,
  }
  log[#log + 1] = entry
  note(entry, "received")
  return entry
end

local function select_log(pattern, state)
  local found = {}
  for _, entry in ipairs(log) do
    if matches(entry, pattern, state) then found[#found + 1] = entry end
  end
  return found
end

-- Connections. Each has two coroutines: a reader, which notices at once that the client has gone, and a server.

local function read_requests(con)
  -- A reset closes the socket under the reader, which cqueues answers with an error.
  pcall(function()
    repeat
      local request = httpd.read_request(con.socket)
      con.queue[#con.queue + 1] = request
      con.signal:signal()
    until not request
  end)
  con.gone = true
  con.signal:signal()
  if con.upstream then con.upstream:shutdown("rw") end
end

local function next_request(con)
  while not con.queue[1] and not con.gone do con.signal:wait() end
  return table.remove(con.queue, 1)
end

-- Sleeps (for ever when seconds is nil). Answers false when the client went away meanwhile.
local function linger(con, seconds)
  local deadline = seconds and cqueues.monotime() + seconds
  while not con.gone do
    local left = deadline and deadline - cqueues.monotime()
    if left and left <= 0 then return true end
    con.signal:wait(left)
  end
  return false
end

-- Closes with RST instead of FIN. cqueues cannot set SO_LINGER, so LuaSocket is lent the descriptor.
local function reset(con)
  local lent = luasocket.tcp()
  lent:setfd(con.socket:pollfd())
  lent:setoption("linger", { on = true, timeout = 0 })
  lent:setfd(-1)
  con.closed, con.gone = true, true
  con.socket:close()
  con.signal:signal()
  if con.upstream then con.upstream:shutdown("rw") end
end

local function hang_up(con)
  if con.closed then return end
  con.socket:shutdown("rw")
  con.signal:signal()
end

local function send(con, bytes)
  gate()
  return not con.gone and httpd.send(con.socket, bytes)
end

local function drip(con, bytes, interval)
  for i = 1, #bytes do
    if not send(con, bytes:sub(i, i)) or not linger(con, interval) then return false end
  end
  return true
end

-- Forwarding: one upstream connection per client connection, requests and answers unchanged except that a body in
-- chunks becomes a body of one chunk.

local function upstream_of(con)
  if not con.upstream then
    con.upstream = httpd.prepare(socket.connect({ host = upstream_host, port = upstream_port, nodelay = true }))
  end
  return con.upstream
end

local function framed(start, headers, lines, body, bodyless)
  if headers["transfer-encoding"] and not bodyless then
    body = (body == "" and "" or ("%x\r\n%s\r\n"):format(#body, body)) .. "0\r\n\r\n"
  end
  local head = { start }
  for i, line in ipairs(lines) do head[i + 1] = line end
  return table.concat(head, "\r\n") .. "\r\n\r\n" .. body
end

local function request_bytes(request)
  local lines = {}
  for _, line in ipairs(request.lines) do
    if not line:lower():find("^expect:") then lines[#lines + 1] = line end
  end
  local start = ("%s %s HTTP/%s"):format(request.method, request.target, request.version)
  return framed(start, request.headers, lines, request.body)
end

local function read_response(con, method)
  local start, headers, lines, status
  repeat
    start, headers, lines = httpd.read_head(con)
    status = start and start:match("^HTTP/1%.%d (%d%d%d)")
    if not status then return nil end
  until status:sub(1, 1) ~= "1"
  local bodyless = method == "HEAD" or status == "204" or status == "304"
  local ends = not (bodyless or headers["content-length"] or headers["transfer-encoding"])
  local body = ""
  if ends then
    body = con:read("*a") or ""
  elseif not bodyless then
    body = httpd.read_body(con, headers)
  end
  return body and framed(start, headers, lines, body, bodyless), tonumber(status), ends
end

-- The upstream's answer as bytes, its status, and whether it ends the connection; nil when there is none.
local function forward(con, request)
  if not upstream_host then
    local message = ("no rule for %s %s\n"):format(request.method, request.target)
    return httpd.format_response(request, 404, nil, message), 404
  end
  local up = upstream_of(con)
  if not httpd.send(up, request_bytes(request)) then return nil end
  return read_response(up, request.method)
end

-- The answer that a rule wants: its own, or the upstream's.
local function answer_of(con, request, rule)
  if rule.raw then return rule.raw, 0, not rule.keep end
  if rule.status then
    return httpd.format_response(request, rule.status, rule.headers, rule.body), rule.status
  end
  return forward(con, request)
end

-- An action answers whether the connection goes on.
local actions = {}

function actions.answer(con, request, rule, entry)
  local bytes, status, ends = answer_of(con, request, rule)
  if not bytes then return false end
  entry.status = status
  local sent
  if rule.interval then
    sent = drip(con, bytes, rule.interval)
  else
    sent = send(con, bytes)
  end
  if sent then note(entry, "answered") end
  return sent and not ends and request.keep_alive
end

function actions.stall(con)
  return linger(con)
end

function actions.close()
  return false
end

function actions.reset(con)
  reset(con)
  return false
end

function actions.pass_then_stall(con, request)
  forward(con, request)
  return linger(con)
end

function actions.pass_then_close(con, request)
  forward(con, request)
  return false
end

function actions.pass_then_reset(con, request)
  forward(con, request)
  if not con.gone then reset(con) end
  return false
end

local PASS = { action = "answer" }

-- The first rule that matches and is not used up. A rule lets `skip` requests by first.
local function find_rule(entry)
  for _, rule in ipairs(rules) do
    if rule.times ~= 0 and matches(entry, rule.match) then
      if rule.skip > 0 then
        rule.skip = rule.skip - 1
      else
        rule.times = rule.times - 1
        return rule
      end
    end
  end
  return PASS
end

local function serve_requests(con)
  local going = true
  while going do
    local request = next_request(con)
    if not request then return end
    gate()
    local entry = record(con, request)
    local rule = find_rule(entry)
    going = linger(con, rule.delay or 0) and actions[rule.action](con, request, rule, entry)
    if con.gone and not entry.answered then note(entry, "gone") end
  end
end

local function count_in(con)
  connections[con.id] = con
  counts.open = counts.open + 1
  counts.most = math.max(counts.most, counts.open)
end

local function close(con)
  connections[con.id] = nil
  counts.open = counts.open - 1
  if not con.closed then
    con.socket:shutdown("rw")
    while not con.gone do con.signal:wait() end
    con.socket:close()
  end
  if con.upstream then con.upstream:close() end
  con.upstream = nil
end

local function serve(con)
  local ok, why = pcall(serve_requests, con)
  if not ok then io.stderr:write("server.lua: ", tostring(why), "\n") end
  close(con)
end

local function accept_all(listener)
  for client in listener:clients() do
    gate()
    counts.total = counts.total + 1
    local con = { id = counts.total, socket = httpd.prepare(client), queue = {}, signal = condition.new() }
    count_in(con)
    loop:wrap(read_requests, con)
    loop:wrap(serve, con)
  end
end

-- Control.

local commands = {}

function commands.rule(rule)
  rule.skip = rule.skip or 0
  rule.times = rule.times or -1
  rule.action = rule.action or "answer"
  table.insert(rules, rule.first and 1 or #rules + 1, rule)
end

function commands.clear()
  rules = {}
end

function commands.forget()
  log = {}
  counts.most, counts.total = counts.open, 0
end

function commands.log(command)
  return setmetatable(select_log(command.pattern, command.state), { __jsontype = "array" })
end

function commands.count(command)
  return #select_log(command.pattern, command.state)
end

function commands.connections()
  return counts
end

function commands.wait_for(command)
  local waiter = { pattern = command.pattern, state = command.state or "received", ready = condition.new() }
  waiter.left = command.n - #select_log(command.pattern, command.state)
  waiters[waiter] = true
  local deadline = cqueues.monotime() + command.seconds
  while waiter.left > 0 and cqueues.monotime() < deadline do
    waiter.ready:wait(deadline - cqueues.monotime())
  end
  waiters[waiter] = nil
  return select_log(command.pattern, command.state)
end

function commands.drop(command)
  for _, con in pairs(connections) do
    if command.reset then reset(con) else hang_up(con) end
  end
end

function commands.blackhole(command)
  blackhole = command.on
  light:signal()
end

function commands.exit()
  os.exit(0)
end

local function execute(line)
  local command = json.decode(line)
  local ok, value = pcall(commands[command["do"]], command)
  return json.encode({ ok = ok, value = value }) .. "\n"
end

local function obey(listener)
  local con = httpd.prepare(listener:accept())
  con:setmaxline(64 * 1024 * 1024)
  for line in con:lines("*l") do
    local sent = httpd.send(con, execute(line))
    if not sent then break end
  end
  os.exit(0)
end

local function listen()
  local listener = socket.listen({ host = "127.0.0.1", port = 0, nodelay = true })
  assert(listener:listen())
  return listener, select(3, listener:localname())
end

local public, port = listen()
local control, control_port = listen()
io.stdout:write(("%d %d\n"):format(port, control_port))
io.stdout:flush()
loop:wrap(accept_all, public)
loop:wrap(obey, control)
assert(loop:loop())
