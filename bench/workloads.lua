--- What the contenders are told to do, and whether they did it.
--
-- A workload is a function of a bench, which is
--
--    { size = …, start = function(id), samples = …, check = function(ok, what), skip = function(what) }
--
-- It puts its samples into bench.samples[workload][id], a list with one table of numbers (or `failed`, a text) for each
-- round. Rounds take turns: A B C A B C. What a contender claims is compared with what Consul says.
-- @module bench.workloads

local holdfast = require("holdfast")
local json = require("dkjson")
local loop = require("holdfast.loop")

local receivers = require("bench.receiver")

local M = {}

local FEW = 48

local client = assert(holdfast.new())
local address = assert(os.getenv("CONSUL_HTTP_ADDR"), "CONSUL_HTTP_ADDR is not set: run make bench")
local port = tonumber(address:match(":(%d+)$"))

-- ---- what Consul says -----------------------------------------------------------------------------------------------

local function consul(method, path)
  local response = assert(client:request({ method = method, url = "http://" .. address .. path,
    max_body = 256 * 1024 * 1024, timeout = 60 }))
  assert(response.status == 200 or response.status == 404, response.body)
  return response.status == 200 and response.body or ""
end

-- How often the keys of a prefix have been locked, and how many of them are held now.
local function seen(prefix)
  local body, locks = consul("GET", "/v1/kv/" .. prefix .. "?recurse"), 0
  for index in body:gmatch('"LockIndex":%s*(%d+)') do locks = locks + tonumber(index) end
  return locks, select(2, body:gsub('"Session":', ""))
end

local function holder(key)
  return consul("GET", "/v1/kv/" .. key):match('"Session":%s*"(.-)"')
end

local function forget(prefix)
  consul("DELETE", "/v1/kv/" .. prefix .. "?recurse")
end

-- Waits until the agent has let go of the connections whose clients have left. It counts them until the long poll that
-- they were for is over.
local function calm()
  local limit = loop.now() + 60
  local function left_behind()
    for line in io.lines("/proc/net/tcp") do
      local own = line:match("^%s*%d+: %x+:(%x+) %x+:%x+ 08 ")
      if own and tonumber(own, 16) == port then return true end
    end
  end
  while left_behind() and loop.now() < limit do loop.sleep(0.1) end
end

--- Versions, for the line about the machine.
function M.consul_version()
  return json.decode(consul("GET", "/v1/agent/self")).Config.Version
end

-- ---- rounds ---------------------------------------------------------------------------------------------------------

-- Runs fn(id, contender) for every contender, so often, in turns. The round before the first is to warm up.
local function rounds(bench, workload, count, ids, fn)
  local running, samples = {}, {}
  for _, id in ipairs(ids) do
    running[id] = bench.start(id)
    if running[id] then samples[id] = {} end
  end
  for round = 0, count do
    for _, id in ipairs(ids) do
      local sample = running[id] and fn(id, running[id])
      if sample and round > 0 then samples[id][round] = sample end
    end
  end
  for _, contender in pairs(running) do contender:stop() end
  calm()
  bench.samples[workload] = samples
end

-- Asks for locks of the keys that begin with prefix, and compares what is claimed with what Consul has counted. A lock
-- that was refused may have been carried out; and after an unlock that was refused Go's client with one session finds
-- the key its own, any number of times, which Consul does not count.
local function locks(bench, contender, prefix, ...)
  local before = seen(prefix)
  local answer = contender:ask(...)
  local after, held = seen(prefix)
  local refused = answer.refused or 0
  local uncounted = contender.name:find("^Go") and answer.locks - 1 or refused
  bench.check(after - before <= answer.locks + refused and after - before >= answer.locks - uncounted,
    ("%s says that it locked %d times (%d refused), Consul counted %d"):format(
      contender.name, answer.locks, refused, after - before))
  bench.check(held == 0 or refused > 0, ("%s left %d keys locked"):format(contender.name, held))
  return { us = (answer.window or answer.seconds) / (answer.in_time or answer.locks) * 1e6,
    cpu_us = answer.cpu / answer.locks * 1e6, refused = refused }
end

-- ---- workloads ------------------------------------------------------------------------------------------------------

-- Not measured: each holds a key, and Consul says the same.
function M.prove(bench)
  for _, id in ipairs({ "lua54", "luajit", "easy", "go", "goshared" }) do
    local contender = bench.start(id)
    if contender then
      local key = "bench/prove/" .. id
      local session = contender:ask("hold", key).session
      bench.check(session and holder(key) == session, contender.name .. " does not hold what it says it holds")
      contender:ask("free")
      bench.check(not holder(key), contender.name .. " holds what it says it has freed")
      bench.versions[id] = contender:ask("usage").version
      contender:stop()
    end
  end
end

function M.cycle(bench)
  rounds(bench, "cycle", bench.size.rounds, { "lua54", "luajit", "easy", "go", "goshared" }, function(id, contender)
    local key = "bench/cycle/" .. id
    return locks(bench, contender, key, "cycle", bench.size.round, key)
  end)
end

-- Go's client is refused when all are at once: each lock takes two connections and more, and an agent has 200. So it
-- is also measured with as many at once as fit.
function M.many(bench)
  local size = bench.size
  local ids = { "lua54", "luajit", "go", "gofew", "gosharedfew", "multi", "batch" }
  rounds(bench, "many", size.many_rounds, ids, function(id, contender)
    local prefix = "bench/many/" .. id .. "/"
    return locks(bench, contender, prefix, id == "batch" and "batch" or "many", size.many, size.width, prefix,
      id:find("few$") and FEW or size.width)
  end)
end

local function percentile(sorted, part)
  return sorted[math.max(1, math.ceil(#sorted * part))]
end

-- What the holds of all processes say together: { from, to, token, process }.
local function hand_offs(bench, name, holds, processes)
  local counts, latencies, wrong = {}, {}, 0
  table.sort(holds, function(a, b) return a[1] < b[1] end)
  for i, hold in ipairs(holds) do
    local before = holds[i - 1]
    counts[hold[4]] = (counts[hold[4]] or 0) + 1
    if before then
      if hold[1] < before[2] or hold[3] ~= 0 and hold[3] <= before[3] then wrong = wrong + 1 end
      if hold[4] ~= before[4] then latencies[#latencies + 1] = (hold[1] - before[2]) * 1e3 end
    end
  end
  bench.check(wrong == 0, ("%s: %d of %d holds began before the one before had ended"):format(name, wrong, #holds))
  local least, most = math.huge, 0
  for process = 1, processes do
    least, most = math.min(least, counts[process] or 0), math.max(most, counts[process] or 0)
  end
  table.sort(latencies)
  local span = holds[#holds][2] - holds[1][1]
  return { per_second = #latencies / span, p50 = percentile(latencies, 0.5), p99 = percentile(latencies, 0.99),
    least = least, most = most, fair = least / (#holds / processes) }
end

local function contend(bench, id, group, think)
  local size, key, holds = bench.size, "bench/contend/" .. id, {}
  local before = seen(key)
  for _, contender in ipairs(group) do contender:send("contend", size.contend, size.hold, think, key) end
  for process, contender in ipairs(group) do
    for _, hold in ipairs(contender:read().holds) do
      hold[4] = process
      holds[#holds + 1] = hold
    end
  end
  local name = group[1].name
  bench.check(#holds > 1, name .. " never had the key that all want")
  bench.check(seen(key) - before >= #holds, name .. " says that it locked more often than Consul counted")
  return hand_offs(bench, name, holds, #group)
end

-- The processes are started anew for each round: all together would take more connections than the agent has.
function M.contend(bench)
  local ids, thinks = { "lua54", "easy", "go" }, { contend = 0, think = 0.1 }
  bench.samples.contend, bench.samples.think = {}, {}
  for round = 1, bench.size.contend_rounds do
    for _, id in ipairs(ids) do
      local group = {}
      for process = 1, bench.size.processes do group[process] = bench.start(id) end
      for process, contender in ipairs(group) do
        contender:ask("cycle", 0.02, "bench/contend/warm/" .. id .. process)
      end
      for _, workload in ipairs(group[1] and { "contend", "think" } or {}) do
        local samples = bench.samples[workload]
        samples[id] = samples[id] or {}
        samples[id][round] = contend(bench, id, group, thinks[workload])
      end
      for _, contender in ipairs(group) do contender:leave() end
      for _, contender in ipairs(group) do contender:stop() end
      calm()
    end
  end
end

-- What a contender uses while it has nothing to do: per cent of a core, requests a second, connections at most.
local function idle(contender, seconds)
  local before, most = contender:ask("usage"), 0
  local stop = loop.now() + seconds
  while loop.now() < stop do
    loop.sleep(math.min(0.5, seconds))
    most = math.max(most, contender:connections(port))
  end
  local after = contender:ask("usage")
  local span = after.now - before.now
  return { idle = (after.cpu_now - before.cpu_now) / span * 100, connections = most,
    requests = (after.requests - before.requests) / span }, after
end

local function fill(bench, id, contender, count)
  local prefix = ("bench/fill/%s/%d/"):format(id, count)
  contender:ask("many", 0.1, 16, "bench/fill/warm/" .. id .. "/", 16)
  contender:ask("settle")
  local before = contender:memory()
  local answer = contender:ask("fill", count, prefix)
  contender:ask("settle")
  local memory = contender:memory() - before
  local sample, usage = idle(contender, bench.size.idle)
  local _, held = seen(prefix)
  sample.held, sample.bytes, sample.seconds = usage.held, memory / math.max(1, usage.held), answer.seconds
  if answer.why then
    sample.failed = ("%d held, then: %s"):format(usage.held, answer.why)
  else
    bench.check(held == usage.held and held == count,
      ("%s says that it holds %d, Consul says %d"):format(contender.name, usage.held, held))
  end
  return sample
end

local function lose(bench, id, contender, count)
  local answer = contender:ask("lose")
  bench.check(answer.lost == count, ("%s lost %d of %d locks"):format(contender.name, answer.lost, count))
  bench.samples.loss = { [id] = { { ms = answer.after * 1e3, locks = answer.lost } } }
end

-- Keys exist once somebody has locked them.
local function make_keys(bench, count, prefix)
  local contender = bench.start("batch")
  contender:ask("batch", 0, count, prefix)
  contender:stop()
end

-- Held until it fails: whoever cannot hold the first number is not asked for the next. Of keys that exist, and of ones
-- that do not.
function M.fill(bench)
  local out = {}
  for i, count in ipairs(bench.size.fill) do
    local samples = {}
    for _, id in ipairs({ "lua54", "lua54new", "go", "goshared" }) do
      local contender = not out[id] and bench.start(id)
      if contender then
        if id == "lua54" then make_keys(bench, count, ("bench/fill/%s/%d/"):format(id, count)) end
        samples[id] = { fill(bench, id, contender, count) }
        out[id] = samples[id][1].failed
        if id == "lua54" and i == 1 and not out[id] then lose(bench, id, contender, count) end
        contender:stop()
        forget("bench/fill/")
        calm()
      end
    end
    bench.samples["fill" .. i] = samples
  end
end

-- Until a contender that has been told to wait does so, and no longer uses the CPU for getting there.
local function settled(contender, window)
  local limit, rate, before = loop.now() + 120, math.huge, contender:ask("usage")
  while loop.now() < limit do
    loop.sleep(window)
    local after = contender:ask("usage")
    local now = (after.cpu_now - before.cpu_now) / (after.now - before.now)
    if now > rate * 0.9 then return end
    rate, before = now, after
  end
end

-- Waits until so many keys are got, or for 20 s after the last one that was.
local function all_taken(contender, count)
  local taken, limit = 0, loop.now() + 20
  while taken < count and loop.now() < limit do
    local usage = contender:ask("usage")
    if usage.taken > taken then taken, limit = usage.taken, loop.now() + 20 end
    loop.sleep(0.1)
  end
  return contender:ask("usage")
end

local function hand_over(bench, holding, waiting, prefix, sample)
  local size = bench.size
  local before = waiting:ask("usage")
  local released = holding:ask("release", size.events, size.pause).times
  local after = all_taken(waiting, size.events)
  local taken, latencies = waiting:ask("times").times, {}
  for i, at in ipairs(released) do
    if taken[tostring(i)] then latencies[#latencies + 1] = (taken[tostring(i)] - at) * 1e3 end
  end
  table.sort(latencies)
  local _, held = seen(prefix)
  bench.check(#latencies == size.events and latencies[1] > 0 and held == size.waiters,
    ("%s got %d of %d keys that were released; %d of %d are locked"):format(
      waiting.name, #latencies, size.events, held, size.waiters))
  local own = (after.now - before.now) * sample.idle / 100
  sample.event_ms = (after.cpu_now - before.cpu_now - own) / size.events * 1e3
  sample.p50, sample.p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
end

-- An event: one key is given back by the process that holds them all, and its waiter gets it.
local function wait(bench, id, waiting)
  local size, prefix = bench.size, "bench/wait/" .. id .. "/"
  local holding = bench.start("lua54")
  local answer = holding:ask("fill", size.waiters, prefix)
  assert(not answer.why, answer.why)
  waiting:ask("wait", size.waiters, prefix)
  local start = loop.now()
  settled(waiting, bench.size.window)
  local seconds = loop.now() - start
  local sample, usage = idle(waiting, size.idle)
  sample.seconds = seconds
  if usage.failed > 0 then
    sample.failed = ("%d of %d wait, then: %s"):format(size.waiters - usage.failed, size.waiters, usage.why)
  else
    hand_over(bench, holding, waiting, prefix, sample)
  end
  holding:stop()
  return sample
end

function M.wait(bench)
  local samples = {}
  for _, id in ipairs({ "lua54", "go" }) do
    local contender = bench.start(id)
    if contender then
      samples[id] = { wait(bench, id, contender) }
      contender:stop()
      forget("bench/wait/")
      calm()
    end
  end
  bench.samples.wait = samples
end

function M.held(bench)
  rounds(bench, "held", bench.size.held_rounds, { "lua54", "luajit" }, function(id, contender)
    return { ns = contender:ask("held", bench.size.held, "bench/held/" .. id).ns }
  end)
end

local function posts(bench, receiver, contender, ...)
  local function count()
    local response = assert(client:request({ url = receiver.url .. "count" }))
    return tonumber(response.body:match("\n%s*%d+ %d+ (%d+)"))
  end
  local before = count()
  local answer = contender:ask(...)
  local counted = count() - before - 1 -- this count is one of them
  bench.check(counted == answer.posts,
    ("%s says that it has posted %d times, the receiver counted %d"):format(contender.name, answer.posts, counted))
  return { us = (answer.window or answer.seconds) / answer.posts * 1e6,
    cpu_us = (answer.window_cpu or answer.cpu) / answer.posts * 1e6 }
end

function M.post(bench)
  local size = bench.size
  local receiver, why = receivers.start(os.getenv("TMPDIR") or "/tmp")
  if not receiver then return bench.skip("guarded POSTs: " .. why) end
  local url = receiver.url .. "hook"
  rounds(bench, "post", size.rounds, { "lua54", "luajit", "easy" }, function(id, contender)
    return posts(bench, receiver, contender, "post", size.round, url, "bench/post/" .. id)
  end)
  rounds(bench, "posts", size.rounds, { "lua54", "luajit", "multi" }, function(id, contender)
    return posts(bench, receiver, contender, "posts", size.round, 64, url, "bench/posts/" .. id)
  end)
  receivers.stop(receiver)
end

return M
