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
local fake_state = require("spec.support.fake_state")

local upstream, strip = arg[1], ""

local loop = cqueues.new()
local rules, log, waiters, copies = {}, {}, {}, {}
local kept = {} -- connection = the entry of the request that waits there for commands.release
local pretence -- the state of a Consul server that this one pretends to be; nil: of none
local connections, counts = {}, { open = 0, most = 0, total = 0 }
local blackhole, light = false, condition.new()

-- Waits for the end of the black hole: whatever comes in or goes out passes here.
local function gate()
  while blackhole do light:wait() end
end

-- The log. A request is "received", and later "answered" or "gone" (its client left before the answer), and "carried"
-- when upstream has answered the last copy of it.

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
    query = request.query, headers = request.headers, body = request.body, copies = 0,
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

local function connect_upstream()
  local host, port = upstream:match("^(.+):(%d+)$")
  return httpd.prepare(socket.connect({ host = host, port = port, nodelay = true }))
end

-- A connection of before commands.upstream leads to the wrong server.
local function upstream_of(con)
  if con.upstream and con.leads_to ~= upstream then
    con.upstream:close()
    con.upstream = nil
  end
  if not con.upstream then con.upstream, con.leads_to = connect_upstream(), upstream end
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
  local target = request.target
  if target:sub(1, #strip) == strip then target = target:sub(#strip + 1) end
  local start = ("%s %s HTTP/%s"):format(request.method, target, request.version)
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

local function exchange(up, request, entry)
  if not httpd.send(up, request_bytes(request)) then return nil end
  local bytes, status, ends = read_response(up, request.method)
  if bytes then
    entry.outcome = status
    if entry.copies == 0 then note(entry, "carried") end
  end
  return bytes, status, ends
end

-- The answer of the Consul server that this one pretends to be; nil as for forward.
local function pretend(con, request, entry)
  local status, body, index = pretence:answer(request, function(change, seconds)
    cqueues.poll(change, con.signal, seconds)
    return not con.gone
  end)
  if con.gone then return nil end
  if not status then status, body = 404, ("no rule for %s %s\n"):format(request.method, request.target) end
  entry.outcome = status
  note(entry, "carried")
  return httpd.format_response(request, status, index and { ["x-consul-index"] = index }, body), status
end

-- The upstream's answer as bytes, its status, and whether it ends the connection; nil when there is none.
local function forward(con, request, entry)
  if pretence then return pretend(con, request, entry) end
  if not upstream then
    local message = ("no rule for %s %s\n"):format(request.method, request.target)
    return httpd.format_response(request, 404, nil, message), 404
  end
  return exchange(upstream_of(con), request, entry)
end

-- A copy of a request for later: it is passed on over a connection of its own, whether its client is still there or
-- not, and nobody hears the answer.
local function hold_copy(request, entry)
  local copy = { request = request, entry = entry }
  entry.copies = entry.copies + 1
  copies[#copies + 1] = copy
  return copy
end

local function pass_on(copy)
  for i, held in ipairs(copies) do
    if held == copy then
      table.remove(copies, i)
      copy.entry.copies = copy.entry.copies - 1
      return loop:wrap(function()
        gate()
        local up = connect_upstream()
        exchange(up, copy.request, copy.entry)
        up:close()
      end)
    end
  end
end

local function pass_on_after(copy, seconds)
  if not seconds then return end -- when commands.release says so
  loop:wrap(function()
    cqueues.sleep(seconds)
    pass_on(copy)
  end)
end

-- The answer that a rule wants: its own, or the upstream's.
local function answer_of(con, request, rule, entry)
  if rule.raw then return rule.raw, 0, not rule.keep end
  if rule.status then
    return httpd.format_response(request, rule.status, rule.headers, rule.body), rule.status
  end
  return forward(con, request, entry)
end

-- An action answers whether the connection goes on.
local actions = {}

function actions.answer(con, request, rule, entry)
  local bytes, status, ends = answer_of(con, request, rule, entry)
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

function actions.pass_then_stall(con, request, _, entry)
  forward(con, request, entry)
  return linger(con)
end

function actions.pass_then_close(con, request, _, entry)
  forward(con, request, entry)
  return false
end

function actions.pass_then_reset(con, request, _, entry)
  forward(con, request, entry)
  if not con.gone then reset(con) end
  return false
end

-- Until the client leaves, or tells it to leave at once. Its `delay` begins then.
function actions.late(con, request, rule, entry)
  local copy = hold_copy(request, entry)
  if not rule.hang_up then linger(con) end
  pass_on_after(copy, rule.delay)
  return false
end

function actions.twice(con, request, rule, entry)
  local copy = hold_copy(request, entry)
  local going = actions.answer(con, request, rule, entry)
  pass_on_after(copy, rule.delay)
  return going
end

-- For these `delay` is the copy's.
local COPYING = { late = true, twice = true }

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

-- Whether requests that match this rule are passed on.
local function passes(rule)
  return upstream and (rule.action:find("^pass_") or (rule.action == "answer" and not rule.status and not rule.raw))
end

-- Waits for commands.release. As for wait_before, which calls it.
local function hold_back(con, request, rule, entry)
  kept[con] = entry
  while kept[con] and not con.gone do con.signal:wait() end
  if kept[con] and passes(rule) then hold_copy(request, entry) end
  kept[con] = nil
  return not con.gone
end

-- Lets a rule's `delay` pass. A server that is slow does not know that its client has left: it carries the request out
-- all the same, so if that happens meanwhile, false is answered and a copy goes its way.
local function wait_before(con, request, rule, entry)
  if rule.hold then return hold_back(con, request, rule, entry) end
  if not rule.delay or COPYING[rule.action] then return linger(con, 0) end
  local deadline = cqueues.monotime() + rule.delay
  if linger(con, rule.delay) then return true end
  if passes(rule) then
    pass_on_after(hold_copy(request, entry), math.max(deadline - cqueues.monotime(), 0))
  end
  return false
end

local function serve_requests(con)
  local going = true
  while going do
    local request = next_request(con)
    if not request then return end
    gate()
    local entry = record(con, request)
    local rule = find_rule(entry)
    going = wait_before(con, request, rule, entry) and actions[rule.action](con, request, rule, entry)
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

function commands.release(command)
  local matching = {}
  for _, copy in ipairs(copies) do
    if matches(copy.entry, command.pattern) then matching[#matching + 1] = copy end
  end
  for _, copy in ipairs(matching) do pass_on(copy) end
  for con, entry in pairs(kept) do
    if matches(entry, command.pattern) then
      kept[con] = nil
      con.signal:signal()
      matching[#matching + 1] = entry
    end
  end
  return #matching
end

function commands.upstream(command)
  upstream = command.address
end

function commands.strip(command)
  strip = command.prefix
end

function commands.pretend()
  pretence = fake_state.new()
end

function commands.end_session(command)
  pretence:end_session(command.id)
end

function commands.holders()
  return pretence:holders()
end

function commands.exit()
  os.exit(0)
end

local function execute(line)
  local command = json.decode(line)
  local fn = commands[command["do"]] or function() error("no such command: " .. line, 0) end
  local ok, value = pcall(fn, command)
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
