-- `make article`: "Distributed Locks with Consul and Golang" (Maciej Winnicki, 2016), step by step, in Lua, against a
-- real Consul (at CONSUL_HTTP_ADDR; a dev agent will do). The exit status says whether what is told there happened.
--
-- The article's Go is beside the Lua that stands for it. The web server (examples/article/server.lua) and the second
-- sender (this script with "sender" for an argument) are processes of their own. They end when their standard input
-- does.

local KEY = "webhook_receiver/1"
local INTERVAL = 1      -- seconds between looks at the web server's health; Consul takes no less
local LOCK_DELAY = "5s" -- for how long nobody gets the lock of a holder that has failed; Consul's own would be 15 s
local LIMIT = 60        -- seconds for any one thing to happen

local core = require("holdfast.core")
local holdfast = require("holdfast")
local loop = require("holdfast.loop")

-- ---- the other processes -------------------------------------------------------------------------------------------

local processes = {}

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Starts a command, which is told where to report something. Answers fn(), which waits for that.
local function start(command)
  local path = os.tmpname()
  os.remove(path)
  processes[#processes + 1] = { path = path, pipe = assert(io.popen(("exec %s %s"):format(command, quote(path)), "w")) }
  return function()
    local limit = core.now() + LIMIT
    while core.now() < limit do
      local file = io.open(path)
      local line = file and file:read("*a"):match("^(.*)\n$")
      if file then file:close() end
      if line then return line end
      loop.sleep(0.02)
    end
    error(("nothing came of %s within %d s"):format(command, LIMIT), 0)
  end
end

-- cqueues is for whatever Lua it was made for, which need not be this one.
local function start_server()
  return start("env -u LUA_CPATH LUA_PATH='./?.lua;;' lua5.4 examples/article/server.lua")
end

local function start_sender()
  return start(("%s %s sender"):format(quote(arg[-1] or "lua5.4"), quote(arg[0])))
end

local function stop_all()
  for _, process in ipairs(processes) do
    process.pipe:close()
    os.remove(process.path)
  end
end

-- What the second sender does.
local function send_elsewhere(path)
  local client = assert(holdfast.new())
  local lock = assert(client:lock({ key = KEY, value = "set by sender 2" }))
  assert(lock:lock(LIMIT))
  local file = assert(io.open(path, "w"))
  file:write(("%d\n"):format(lock:token()))
  file:close()
  io.read("*a")
  lock:unlock()
  client:close()
end

-- ---- the article ---------------------------------------------------------------------------------------------------

local began = core.now()

local function say(format, ...)
  print(("%5.1f s  %s"):format(core.now() - began, format:format(...)))
end

-- "We can define a health check that expects 200 OK responses returned by that web server." And one that this process
-- has to say itself that it is well.
local function register_checks(client, url)
  local agent = client.agent
  assert(agent:register_check({ id = "check1", http = url .. "/health", interval = INTERVAL, timeout = "5s" }))
  assert(agent:register_check({ id = "check2", ttl = "10m" }))
  assert(agent:pass("check2", "said by sender 1"))
  for _, id in ipairs({ "check1", "check2" }) do
    assert(agent:wait_check(id, "passing", LIMIT))
    say("%s is passing", id)
  end
end

-- opts := &api.LockOptions{
--   Key: "webhook_receiver/1", Value: []byte("set by sender 1"), SessionTTL: "10s",
--   SessionOpts: &api.SessionEntry{ Checks: []string{"check1", "check2"}, Behavior: "release" } }
-- lock, err := client.LockOpts(opts)
local function make_lock(client)
  return assert(client:lock({
    key = KEY, value = "set by sender 1", session_ttl = "10s", lock_delay = LOCK_DELAY,
    session_opts = { checks = { "check1", "check2" }, behavior = "release" },
  }))
end

-- lockCh, err := lock.Lock(stopCh)
local function take(client, lock)
  assert(lock:lock(LIMIT))
  local pair = assert(client.kv:get(KEY))
  assert(pair.value == "set by sender 1" and pair.session == lock:session(), "somebody else has the key")
  say("sender 1 has the lock, with token %d: the key says %q", lock:token(), pair.value)
end

-- req, _ := http.NewRequest("GET", "https://example.com/webhook", nil), and what the goroutine with lockCh and
-- cancelRequest does: a request that is guarded by the lock is aborted when the lock is lost.
local function push(lock, url)
  local response, message, code = lock:request({ url = url, timeout = LIMIT })
  if response then
    say("request done: %d", response.status)
  else
    say("request cancelled: %s (%s)", message, code)
  end
  return response and response.status or code
end

-- err = lock.Unlock()
local function give_back(client, lock)
  assert(lock:unlock(LIMIT))
  assert(not assert(client.kv:get(KEY)).session, "the key is still locked")
  say("sender 1 has given the lock back")
end

-- "When web server stops responding, the health check goes to the critical state and the session created by the remote
-- process is invalidated."
local function fail_under_it(client, lock, url)
  local session, token, began_at, came = lock:session(), lock:token(), core.now(), nil
  loop.spawn(function() came = push(lock, url .. "/webhook/last") end)
  say("sender 1 pushes, and its web server does not answer any more")
  local reason = assert(lock:wait_lost(LIMIT))
  say("sender 1 has lost the lock after %.1f s: %s", core.now() - began_at, reason)
  assert(reason == "session", "the session should have been what was lost")
  local limit = core.now() + LIMIT
  while not came and core.now() < limit do loop.sleep(0.01) end
  assert(came == "LOST", "the request should have been cancelled")
  local left = assert(client:call({ path = "/v1/session/info/" .. session }))
  assert(#left == 0, "the session should have gone")
  assert(assert(client.agent:checks()).check1.Status == "critical", "the check should be critical")
  return token
end

-- "Failure detection mechanisms will release locks owned by failed processes."
local function hand_over(client, sender, token)
  local theirs = tonumber(sender())
  local pair = assert(client.kv:get(KEY))
  assert(pair.value == "set by sender 2" and pair.session, "the second sender should have the key")
  assert(theirs > token, "the second sender's token should be the higher one")
  say("sender 2, another process, has the lock now, with token %d: the key says %q", theirs, pair.value)
end

local function tidy(client)
  for _, id in ipairs({ "check1", "check2" }) do client.agent:deregister_check(id) end
  client.kv:delete(KEY)
  client:close()
end

local function main()
  -- client, err := api.NewClient(&api.Config{Address: ""})
  local client = assert(holdfast.new({ scheduler = "loop" }))
  local ok, problem = loop.pcall(function()
    local url = start_server()()
    register_checks(client, url)
    local lock = make_lock(client)
    take(client, lock)
    assert(push(lock, url .. "/webhook") == 202, "the webhook should have been answered")
    give_back(client, lock)
    take(client, lock)
    local sender = start_sender()
    local token = fail_under_it(client, lock, url)
    hand_over(client, sender, token)
  end)
  stop_all()
  tidy(client)
  if not ok then error(problem, 0) end
  say("it went as the article says")
end

if arg[1] == "sender" then
  send_elsewhere(arg[2])
else
  local ok, problem = pcall(loop.run, main)
  if not ok then io.stderr:write("article: ", tostring(problem), "\n") end
  os.exit(ok and 0 or 1)
end
