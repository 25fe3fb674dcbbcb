--- holdfast as a contender of the benchmark: reads commands, one a line, and answers each with a line of JSON
-- (bench/contender.lua has the protocol). For Lua 5.4 and LuaJIT; uses what the README describes, and no more.

local holdfast = require("holdfast")
local json = require("dkjson")
local loop = require("holdfast.loop")

local unpack = table.unpack or unpack

local BODY = '{"event":"order.paid","data":"' .. ("0"):rep(200) .. '"}'

local plain = assert(holdfast.new())
local looped = assert(holdfast.new({ scheduler = "loop" }))
local locks = {}             -- what a command keeps for its next round, by key
local filled, taken = {}, {} -- locks by number; when each was got
local failed, why = 0, nil   -- of those that wait

local function lock_of(client, key)
  locks[key] = locks[key] or assert(client:lock(key))
  return locks[key]
end

-- Runs fn(i) for 1 to count, in so many coroutines at once. fn answers false to end them all.
local function crowd(count, at_once, fn)
  local started = 0
  local function work()
    while started < count do
      started = started + 1
      if fn(started) == false then started = count end
    end
  end
  loop.run(function()
    for _ = 1, math.min(count, at_once) do loop.spawn(work) end
  end)
end

local function post(lock, url)
  local response = assert(lock:request({ method = "POST", url = url, body = BODY,
    headers = { ["content-type"] = "application/json", ["webhook-fencing-token"] = lock:token() } }))
  assert(response.status == 204, "POST: status " .. response.status)
end

local commands = {}

local function say(answer)
  answer.now, answer.cpu_now = loop.now(), os.clock()
  io.write(json.encode(answer), "\n")
  io.flush()
end

-- Carries out a command, and answers it.
local function serve(line)
  local words = {}
  for word in line:gmatch("%S+") do words[#words + 1] = tonumber(word) or word end
  local start, used = loop.now(), os.clock()
  local ok, answer = xpcall(function() return commands[words[1]](unpack(words, 2)) or {} end, debug.traceback)
  if not ok then answer = { error = answer } end
  answer.seconds, answer.cpu = loop.now() - start, os.clock() - used
  say(answer)
end

function commands.usage()
  local held = 0
  for _, lock in pairs(filled) do
    if lock:held() then held = held + 1 end
  end
  local count = 0
  for _ in pairs(taken) do count = count + 1 end
  return { version = jit and jit.version or _VERSION, held = held, taken = count, failed = failed, why = why,
    requests = plain:stats().requests + looped:stats().requests }
end

function commands.settle()
  collectgarbage()
  collectgarbage()
end

function commands.cycle(seconds, key)
  local lock, count, stop = lock_of(plain, key), 0, loop.now() + seconds
  repeat
    assert(lock:lock())
    assert(lock:unlock())
    count = count + 1
  until loop.now() >= stop
  return { locks = count }
end

function commands.many(seconds, width, prefix)
  local count, stop = 0, loop.now() + seconds
  crowd(width, width, function(i)
    local lock = lock_of(looped, prefix .. i)
    repeat
      assert(lock:lock())
      assert(lock:unlock())
      count = count + 1
    until loop.now() >= stop
  end)
  return { locks = count }
end

function commands.hold(key)
  local lock = lock_of(plain, key)
  assert(lock:lock())
  filled[0] = lock
  return { session = lock:session(), locks = 1 }
end

function commands.free()
  assert(filled[0]:unlock())
  filled[0] = nil
end

-- Takes turns with other processes. Answers when it had the key, and its tokens.
function commands.contend(seconds, hold, think, key)
  local lock, holds, stop = lock_of(plain, key), {}, loop.now() + seconds
  local left = seconds
  while left > 0 do
    local ok, message, code = lock:lock(left)
    if not ok then
      assert(code == "TIMEOUT", message)
      break
    end
    local from, token = loop.now(), lock:token()
    if hold > 0 then loop.sleep(hold) end
    holds[#holds + 1] = { from, loop.now(), token }
    assert(lock:unlock())
    if think > 0 then loop.sleep(think) end
    left = stop - loop.now()
  end
  return { holds = setmetatable(holds, { __jsontype = "array" }) }
end

function commands.fill(count, prefix)
  local failure
  crowd(count, 256, function(i)
    local lock = assert(looped:lock(prefix .. i))
    local ok, message = lock:lock()
    if ok then filled[i] = lock else failure = failure or message end
    return ok == true
  end)
  return { why = failure }
end

-- Gives the locks of fill back, one after another, with a pause after each. Answers when.
function commands.release(count, pause)
  local times = {}
  loop.run(function()
    for i = 1, count do
      times[i] = loop.now()
      assert(filled[i]:unlock())
      filled[i] = nil
      loop.sleep(pause)
    end
  end)
  return { times = times }
end

-- Waits for keys that another process holds, and serves commands meanwhile. Answers at once, and to "leave" once it has
-- left.
function commands.wait(count, prefix)
  local waiting, stdin = {}, { pollfd = function() return 0 end }
  local function wait_for(i)
    local ok, message, code = waiting[i]:lock()
    if ok then
      taken[tostring(i)] = loop.now()
    elseif code ~= "CANCELED" then
      failed, why = failed + 1, message
    end
  end
  loop.run(function()
    for i = 1, count do
      waiting[i] = assert(looped:lock(prefix .. i))
      loop.spawn(wait_for, i)
    end
    say({})
    while true do
      assert(loop.wait(stdin))
      local line = io.read()
      if not line or line == "leave" then break end
      serve(line)
    end
    for _, lock in ipairs(waiting) do lock:cancel() end
  end)
end

function commands.times()
  return { times = taken }
end

local function destroy_session(id)
  local answer = assert(looped:request({ method = "PUT",
    url = ("http://%s/v1/session/destroy/%s"):format(os.getenv("CONSUL_HTTP_ADDR"), id) }))
  assert(answer.status == 200, answer.body)
end

-- Destroys the sessions of the locks of fill behind holdfast's back. Answers how long after the answer to the last of
-- those all of the locks were lost.
function commands.lose()
  local sessions, destroyed, lost = {}, nil, 0
  for _, lock in pairs(filled) do sessions[lock:session()] = true end
  for id in pairs(sessions) do
    destroy_session(id)
    destroyed = loop.now()
  end
  for _, lock in pairs(filled) do
    if lock:held() then assert(lock:wait_lost(60)) end
    lost = lost + 1
  end
  return { after = loop.now() - destroyed, lost = lost }
end

function commands.held(count, key)
  local lock = lock_of(plain, key)
  assert(lock:lock())
  local held, start = 0, loop.now()
  for _ = 1, count do
    if lock:held() then held = held + 1 end
  end
  local seconds = loop.now() - start
  assert(held == count, "it was not held")
  assert(lock:unlock())
  return { ns = seconds / count * 1e9 }
end

local function with_locks(client, width, key, fn)
  for i = 1, width do assert(lock_of(client, key .. i):lock()) end
  local answer = fn()
  for i = 1, width do assert(lock_of(client, key .. i):unlock()) end
  return answer
end

function commands.post(seconds, url, key)
  return with_locks(plain, 1, key, function()
    local count, lock = 0, lock_of(plain, key .. 1)
    local start, used = loop.now(), os.clock()
    repeat
      post(lock, url)
      count = count + 1
    until loop.now() >= start + seconds
    return { posts = count, window = loop.now() - start, window_cpu = os.clock() - used }
  end)
end

-- Each coroutine has a lock of its own, as an emitter has one for each receiver.
function commands.posts(seconds, width, url, key)
  return with_locks(looped, width, key, function()
    local count, start, used = 0, loop.now(), os.clock()
    crowd(width, width, function(i)
      local lock = lock_of(looped, key .. i)
      repeat
        post(lock, url)
        count = count + 1
      until loop.now() >= start + seconds
    end)
    return { posts = count, window = loop.now() - start, window_cpu = os.clock() - used }
  end)
end

for line in io.lines() do serve(line) end
plain:close()
looped:close()
