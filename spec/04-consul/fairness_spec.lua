-- A key that many want: nobody waits for ever beside others that are quicker, and a key that one waits for is taken at
-- once when it is free.
local agent = require("spec.support.agent")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local PROCESSES, COROUTINES, HOLDS = 4, 2, 10
local HANDOVERS = 25

-- Until there is the file STOP: prints a line for every hold: its token, and when it began and ended by the clock that
-- all processes of a machine share. held() is asked last: what is held then was held until the end that is told.
local CONTEND = [[
local holdfast, core, loop = require("holdfast"), require("holdfast.core"), require("holdfast.loop")
local key = os.getenv("KEY")
local function contend(client)
  local lock = assert(client:lock(key))
  while not io.open(os.getenv("STOP")) do
    if lock:lock(1) then
      local token, began = lock:token(), core.now()
      loop.sleep(0.002)
      local ended = core.now()
      if lock:held() then
        print(("%d %.6f %.6f"):format(token, began, ended))
        io.stdout:flush()
      end
      lock:unlock(5)
    end
  end
end
local clients = {}
for i = 1, tonumber(os.getenv("COROUTINES")) do
  clients[i] = assert(holdfast.new({ scheduler = "loop", session = { name = "fairness", lock_delay = "2s" } }))
end
loop.run(function()
  for _, client in ipairs(clients) do loop.spawn(function() contend(client) end) end
end)
for _, client in ipairs(clients) do client:close() end
]]

describe("a key that eight want in four processes", function()
  local stop
  before_each(function()
    stop = os.tmpname()
    os.remove(stop)
  end)
  after_each(function()
    os.remove(stop)
    helper.finish()
  end)

  -- None of them ends before each has had it a few times: whoever starves has the others beside him.
  it("is held by each of them now and then, by one at a time, with a token of its own", function()
    local children, holds = {}, {}
    local env = { KEY = helper.unique_key(), COROUTINES = COROUTINES, STOP = stop }
    local function note(line)
      local token, began, ended = assert(line):match("^(%d+) (%S+) (%S+)$")
      holds[#holds + 1] = { token = tonumber(token), began = tonumber(began), ended = tonumber(ended) }
    end
    for i = 1, PROCESSES do children[i] = helper.spawn_lua(CONTEND, env) end
    for _, child in ipairs(children) do
      for _ = 1, HOLDS do note(child:read_line()) end
    end
    assert(io.open(stop, "w")):close()
    for _, child in ipairs(children) do
      local status, out, err = child:wait()
      assert.are.same({ 0, "" }, { status, err })
      for line in out:gmatch("[^\n]+") do note(line) end
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

  local function quartile(list)
    table.sort(list)
    return list[math.ceil(#list / 4)]
  end

  -- By the lower quartile, which a busy machine does not move much, and beside what is sent at once for sure: the
  -- unlock, when the lock has been answered. A pause of up to 50 ms before the first try would show.
  it("is tried at once when it is released", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address() })
    local pauses, others = {}, {}
    for i = 1, HANDOVERS do
      local key = helper.unique_key()
      local session = agent.occupy(key)
      local lock = assert(client:lock(key))
      proxy:forget()
      local op = assert(lock:start_lock())
      assert(proxy:wait_for(fake.POLL, 1, helper.seconds(5)))
      agent.vacate(key, session)
      assert.is_true(fake.result(op))
      assert.is_true(lock:unlock(helper.seconds(5)))
      local seen, sent = proxy:log(fake.POLL, "answered"), proxy:log(fake.TXN)
      assert.are.equal(2, #sent)
      pauses[i] = sent[1].received - seen[#seen].answered
      others[i] = sent[2].received - sent[1].answered
    end
    local pause, other = quartile(pauses), quartile(others)
    assert.is_true(pause < 0.005 + other, ("%.1f ms, %.1f ms for an unlock"):format(pause * 1000, other * 1000))
  end)
end)
