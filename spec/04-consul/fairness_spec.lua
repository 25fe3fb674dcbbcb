-- A key that many want: nobody waits for ever beside others that are quicker, and a key that one waits for is taken at
-- once when it is free.
local agent = require("spec.support.agent")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local PROCESSES, COROUTINES, SECONDS = 4, 2, 3
local HANDOVERS = 25

-- Prints a line for every hold: its token, and when it began and ended by the clock that all processes of a machine
-- share.
local CONTEND = [[
local holdfast, core, loop = require("holdfast"), require("holdfast.core"), require("holdfast.loop")
local key = os.getenv("KEY")
local function contend(client, finish)
  local lock = assert(client:lock(key))
  while core.now() < finish do
    local left = finish - core.now()
    if left > 0 and lock:lock(left) then
      local token, began = lock:token(), core.now()
      loop.sleep(0.002)
      local held, ended = lock:held(), core.now()
      if held then print(("%d %.6f %.6f"):format(token, began, ended)) end
      lock:unlock(5)
    end
  end
end
local clients = {}
for i = 1, tonumber(os.getenv("COROUTINES")) do
  clients[i] = assert(holdfast.new({ scheduler = "loop", session = { name = "fairness", lock_delay = "2s" } }))
end
local finish = tonumber(os.getenv("FINISH"))
loop.run(function()
  for _, client in ipairs(clients) do loop.spawn(function() contend(client, finish) end) end
end)
for _, client in ipairs(clients) do client:close() end
]]

describe("a key that eight want in four processes", function()
  after_each(helper.finish)

  it("is held by each of them now and then, by one at a time, with a token of its own", function()
    local key, children, holds = helper.unique_key(), {}, {}
    local env = { KEY = key, COROUTINES = COROUTINES, FINISH = core.now() + SECONDS }
    for i = 1, PROCESSES do children[i] = helper.spawn_lua(CONTEND, env) end
    for i, child in ipairs(children) do
      local status, out, err = child:wait()
      assert.are.same({ 0, "" }, { status, err })
      local count = 0
      for token, began, ended in out:gmatch("(%d+) (%S+) (%S+)\n") do
        count = count + 1
        holds[#holds + 1] = { token = tonumber(token), began = tonumber(began), ended = tonumber(ended) }
      end
      assert.is_true(count >= 3, ("process %d of %d had it %d times"):format(i, PROCESSES, count))
    end
    table.sort(holds, function(a, b) return a.token < b.token end)
    for i = 2, #holds do
      assert.is_true(holds[i].token > holds[i - 1].token, "one token for two holds")
      assert.is_true(holds[i].began >= holds[i - 1].ended, "two holds at one moment")
    end
  end)
end)

describe("a key that one waits for", function()
  after_each(helper.finish)

  -- By the lower quartile, which a busy machine does not move much: a pause of up to 50 ms before the first try would.
  it("is tried at once when it is released", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address() })
    local pauses = {}
    for i = 1, HANDOVERS do
      local key = helper.unique_key()
      local session = agent.occupy(key)
      local lock = assert(client:lock(key))
      proxy:forget()
      local op = assert(lock:start_lock())
      assert(proxy:wait_for(fake.POLL, 1, helper.seconds(5)))
      agent.vacate(key, session)
      assert.is_true(fake.result(op))
      local seen = proxy:log(fake.POLL, "answered")
      pauses[i] = proxy:log(fake.TXN)[1].received - seen[#seen].answered
      assert.are.equal(1, proxy:count(fake.TXN))
      assert.is_true(lock:unlock(helper.seconds(5)))
    end
    table.sort(pauses)
    local quartile = pauses[math.ceil(HANDOVERS / 4)]
    assert.is_true(quartile < helper.seconds(0.005), ("%.1f ms"):format(quartile * 1000))
  end)
end)
