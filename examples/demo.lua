-- `make demo`: emitters, receivers and a crash, against a real Consul (at CONSUL_HTTP_ADDR; a dev agent will do).
--
-- Four emitter processes share one queue of 600 webhooks for three receivers. In the middle of the work one of them is
-- killed with SIGKILL while it holds a receiver's lock. What was promised is read from the receivers' own records in
-- the end: no two pushes at the same time, none lost, tokens that never fall, and another emitter that goes on.
-- The exit status says whether it was kept.

local core = require("holdfast.core")
local holdfast = require("holdfast")
local report = require("examples.demo.report")

local RECEIVERS = { "receiver-1", "receiver-2", "receiver-3" }
local EMITTERS = { "emitter-1", "emitter-2", "emitter-3", "emitter-4" }
local MESSAGES = 600
local PREFIX = "webhook_receiver/" -- the emitter's default
local TTL, LOCK_DELAY = 2, 2       -- as examples/demo/emitter.lua has them
local LIMIT = 50                   -- seconds for all of it

local directory                    -- of everything that is written
local processes = {}               -- name -> { pipe, pid }
local terminal = os.execute("test -t 1")

local function sleep(seconds) core.poll({}, seconds) end

local function path_of(name) return directory .. "/" .. name end

local function first_line(path)
  local file = io.open(path)
  local line = file and file:read("L")
  if file then file:close() end
  return line and line:match("^(.*)\n$")
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Waits until fn answers something.
local function wait_for(what, fn)
  local limit = core.now() + 10
  while true do
    local value = fn()
    if value then return value end
    if core.now() > limit then error(what .. " is not there after 10 s", 0) end
    sleep(0.02)
  end
end

-- ---- processes ------------------------------------------------------------------------------------------------------

-- Starts a Lua script. It ends when its standard input does, which is the pipe that is kept here; in a session of its
-- own, because Ctrl-C is for this process to handle; killed by the kernel if this process is killed itself.
local function start(name, script, ...)
  local words = {}
  for i, word in ipairs({ script, ... }) do words[i] = quote(word) end
  local pipe = assert(io.popen(("echo $$ >%s; exec setsid setpriv --pdeathsig KILL lua5.4 %s"):format(
    quote(path_of(name .. ".pid")), table.concat(words, " ")), "w"))
  processes[name] = { pipe = pipe }
  processes[name].pid = wait_for(name, function() return first_line(path_of(name .. ".pid")) end)
end

local function signal(name, what)
  return os.execute(("kill -%s %s 2>/dev/null"):format(what, processes[name].pid))
end

-- Waits for the end of a process that was told to end.
local function reap(name)
  processes[name].pipe:close()
  processes[name] = nil
end

local function stop(name)
  if processes[name] then reap(name) end
end

-- For whatever went wrong before: nothing is left to its own devices.
local function clean_up()
  for name, process in pairs(processes) do
    if process.pid then signal(name, "KILL") end
    process.pipe:close()
  end
  if directory then os.execute("rm -rf " .. quote(directory)) end
end

-- ---- what Consul says -----------------------------------------------------------------------------------------------

local consul = assert(holdfast.new())
local base = "http://" .. (os.getenv("CONSUL_HTTP_ADDR") or "127.0.0.1:8500"):gsub("^http://", "")

local function ask_consul(path)
  local answer = assert(consul:request({ url = base .. path }))
  return answer.status == 200 and answer.body or ""
end

-- The session that holds a receiver's lock and the fencing token, which is when the key last changed hands; nil when
-- nobody does.
local function holder_of(receiver)
  local text = ask_consul("/v1/kv/" .. PREFIX .. receiver)
  return text:match("\"Session\":%s*\"([%x-]+)\""), tonumber(text:match("\"ModifyIndex\":%s*(%d+)"))
end

local function name_of(session)
  return ask_consul("/v1/session/info/" .. session):match("\"Name\":%s*\"([^\"]+)\"")
end

-- ---- the run --------------------------------------------------------------------------------------------------------

local function start_receivers(secret)
  local urls = {}
  for _, name in ipairs(RECEIVERS) do start(name, "examples/demo/receiver.lua", name, secret, path_of(name)) end
  for i, name in ipairs(RECEIVERS) do
    urls[i] = name .. "=" .. wait_for(name, function() return first_line(path_of(name)) end)
  end
  return urls
end

-- Fills the queue. Answers the ids of each receiver.
local function push_messages(queue)
  local wanted = {}
  for n = 1, MESSAGES do
    local receiver = RECEIVERS[(n - 1) % #RECEIVERS + 1]
    local id = ("msg_%03d"):format(n)
    wanted[receiver] = wanted[receiver] or {}
    wanted[receiver][id] = true
    assert(queue:push(receiver, { id = id, body = ("{\"type\":\"demo\",\"n\":%d}"):format(n) }))
  end
  return wanted
end

local shown_at, shown = 0, ""

-- One line that is written anew on a terminal, else one every few seconds.
local function progress(text)
  if not terminal and core.now() - shown_at < 3 then return end
  shown_at = core.now()
  if terminal then
    io.write("\r", text, (" "):rep(#shown - #text))
    shown = text
  else
    print(text)
  end
  io.stdout:flush()
end

local function keep_line()
  if terminal and shown ~= "" then print() end
  shown, shown_at = "", 0
end

-- How many different messages have arrived. Shows it, and who holds the receivers' locks.
local function look(started, killed)
  local total, holders = 0, {}
  for _, receiver in ipairs(RECEIVERS) do
    total = total + report.judge(report.requests(path_of(receiver)), {}).delivered
    local session = holder_of(receiver)
    holders[#holders + 1] = session and (session == killed and "a dead one" or name_of(session)) or "nobody"
  end
  progress(("%4.1f s  %d of %d delivered; locks: %s"):format(core.now() - started, total, MESSAGES,
    table.concat(holders, ", ")))
  return total
end

-- Stops the emitter that holds a receiver's lock, so that it cannot let go of it, looks again, and kills it.
-- Answers what it held; nil when it had let go in between (it goes on then).
local function kill_holder_of(receiver)
  local session = holder_of(receiver)
  local name = session and name_of(session)
  if not name or not processes[name] then return nil end
  signal(name, "STOP")
  sleep(0.1) -- a release that was under way has arrived by then
  local crash = { emitter = name, session = session, held = {} }
  for _, other in ipairs(RECEIVERS) do
    local holder, token = holder_of(other)
    if holder == session then crash.held[#crash.held + 1] = { receiver = other, token = token } end
  end
  if not crash.held[1] then
    signal(name, "CONT")
    return nil
  end
  crash.at = core.now()
  signal(name, "KILL")
  reap(name)
  return crash
end

local function run_until_delivered(queue, started)
  local crash
  repeat
    local total = look(started, crash and crash.session)
    if not crash and total >= MESSAGES / 4 then
      for _, receiver in ipairs(RECEIVERS) do crash = crash or kill_holder_of(receiver) end
      if crash then
        keep_line()
        print(("%4.1f s  killed %s (SIGKILL), which holds %d of the locks"):format(crash.at - started, crash.emitter,
          #crash.held))
      end
    end
    sleep(0.1)
  until (total == MESSAGES and queue:len() == 0) or core.now() - started > LIMIT
  keep_line()
  return crash
end

-- ---- the result -----------------------------------------------------------------------------------------------------

local failed = false

local function check(holds, text)
  print(("  %s  %s"):format(holds and "kept  " or "BROKEN", text))
  failed = failed or not holds
end

local function show_receivers(wanted)
  local sum, rows = { delivered = 0, duplicates = 0, lost = 0, overlaps = 0, bad = 0, rising = true }, {}
  for _, name in ipairs(RECEIVERS) do
    local one = report.judge(report.requests(path_of(name)), wanted[name])
    for key, value in pairs(sum) do
      if key == "rising" then sum.rising = sum.rising and one.rising else sum[key] = value + one[key] end
    end
    sum.bad_example = sum.bad_example or one.bad_example
    rows[#rows + 1] = { name, one.delivered, one.overlaps, one.lost, one.duplicates, one.rising and "yes" or "NO",
      one.bad }
  end
  print()
  report.print_table({ "receiver", "delivered", "overlapping", "lost", "duplicates", "tokens rising",
    "bad signatures" }, rows)
  return sum
end

-- Returns which emitter has which token.
local function show_emitters(crash)
  local owner, rows = {}, {}
  for _, name in ipairs(EMITTERS) do
    local count = { acquired = 0, refused = 0, delivered = 0, other = 0 }
    for _, event in ipairs(report.events(path_of(name))) do
      local kind = count[event.type] and event.type or event.type ~= "released" and "other"
      if kind then count[kind] = count[kind] + 1 end
      if event.type == "acquired" then owner[event.token] = name end
    end
    rows[#rows + 1] = { name, count.acquired, count.refused, count.delivered, count.other,
      crash and crash.emitter == name and "killed" or "stopped" }
  end
  print()
  report.print_table({ "emitter", "locks taken", "refused", "delivered", "other events", "end" }, rows)
  return owner
end

-- Answers whether every receiver of the killed emitter was served by another one afterwards.
local function show_waits(crash, owner)
  local all = true
  print()
  for _, held in ipairs(crash.held) do
    local requests = report.requests(path_of(held.receiver))
    local next_one = report.first_after(requests, crash.at, held.token)
    local by = next_one and owner[next_one.token]
    if by and by ~= crash.emitter then
      print(("  %s waited %.1f s after the death of %s (token %d) for %s (token %d)"):format(held.receiver,
        next_one.came - crash.at, crash.emitter, held.token, by, next_one.token))
    else
      print(("  %s was not served again after the death of %s"):format(held.receiver, crash.emitter))
      all = false
    end
  end
  print(("  (Consul ends a session within twice its TTL, %d s, and then keeps the lock for the lock-delay, %d s)")
    :format(2 * TTL, LOCK_DELAY))
  return all
end

local function show(crash, wanted, left)
  local sum = show_receivers(wanted)
  local owner = show_emitters(crash)
  local served = crash and show_waits(crash, owner)
  print()
  check(sum.overlaps == 0, "no receiver had two pushes at the same time")
  check(sum.lost == 0 and left == 0, ("all %d messages were delivered, and the queue is empty"):format(MESSAGES))
  check(sum.rising, "the fencing tokens of a receiver never fell")
  check(sum.bad == 0, "every signature was good" .. (sum.bad_example and ", but " .. sum.bad_example or ""))
  check(crash ~= nil, "an emitter was killed while it held a lock")
  check(served, "another one went on with its receivers")
end

local function main()
  local temporary = assert(io.popen("mktemp -d"))
  directory = temporary:read("l")
  temporary:close()
  local queue_url = "sqlite:" .. path_of("queue.db")
  local queue = assert(require("holdfast.queue").open(queue_url))
  local secret = "whsec_" .. core.base64_encode(core.random(24))
  local wanted = push_messages(queue)
  local urls = start_receivers(secret)
  print(("%d webhooks for %d receivers are in one queue; %d emitters begin"):format(MESSAGES, #RECEIVERS, #EMITTERS))
  local started = core.now()
  for _, name in ipairs(EMITTERS) do
    start(name, "examples/demo/emitter.lua", name, queue_url, path_of(name), secret, table.unpack(urls))
  end
  local crash = run_until_delivered(queue, started)
  for _, name in ipairs(EMITTERS) do stop(name) end
  for _, name in ipairs(RECEIVERS) do stop(name) end
  show(crash, wanted, assert(queue:len()))
  queue:close()
  print(("\n%s, in %.0f s"):format(failed and "NOT everything that was promised was kept" or "All promises were kept",
    core.now() - started))
end

local ok, problem = xpcall(main, debug.traceback)
clean_up()
consul:close()
if not ok then
  keep_line()
  io.stderr:write("demo: ", problem:find("interrupted!", 1, true) and "interrupted" or problem, "\n")
end
os.exit(ok and not failed)
