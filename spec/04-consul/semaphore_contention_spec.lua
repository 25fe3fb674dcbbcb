-- Many want slots of one semaphore, and never more of them believe to have one than it has.
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")
local semaphores = require("spec.support.semaphores")

local TREE = "^GET /v1/kv/.*recurse"

-- How many of the spans { from, to } there were at one time at most. One that begins when another one ends comes after.
local function most_at_once(spans)
  local events, now, most = {}, 0, 0
  for _, span in ipairs(spans) do
    events[#events + 1] = { at = span[1], change = 1 }
    events[#events + 1] = { at = span[2], change = -1 }
  end
  table.sort(events, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return a.change < b.change
  end)
  for _, event in ipairs(events) do
    now = now + event.change
    most = math.max(most, now)
  end
  return most
end

describe("of a semaphore that many want", function()
  local prefix
  before_each(function() prefix = helper.unique_key() end)
  after_each(helper.finish)

  it("no more processes believe to have a slot than there are, and all have it in turn", function()
    local PROCESSES, TURNS, LIMIT = 20, 3, 3
    local code = [[
      local core, holdfast = require("holdfast.core"), require("holdfast")
      local client = assert(holdfast.new())
      local sem = assert(client:semaphore(os.getenv("PREFIX"), tonumber(os.getenv("LIMIT"))))
      for _ = 1, tonumber(os.getenv("TURNS")) do
        assert(sem:acquire(100))
        local from = core.now()
        core.poll({}, 0.05)
        local held = sem:held()
        print(("%.6f %.6f %s"):format(from, core.now(), tostring(held)))
        assert(sem:release())
      end
      assert(client:close())
    ]]
    local children, spans = {}, {}
    for i = 1, PROCESSES do
      children[i] = helper.spawn_lua(code, { PREFIX = prefix, LIMIT = LIMIT, TURNS = TURNS })
    end
    for _, child in ipairs(children) do
      local status, said, errors = child:wait()
      assert.are.equal(0, status, errors)
      for from, to, held in said:gmatch("(%S+) (%S+) (%S+)\n") do
        assert.are.equal("true", held)
        spans[#spans + 1] = { tonumber(from), tonumber(to) }
      end
    end
    assert.are.equal(PROCESSES * TURNS, #spans)
    assert.is_true(most_at_once(spans) <= LIMIT)
    assert.is_true(most_at_once(spans) > 1)
    helper.eventually(semaphores.is_empty(prefix))
  end)

  it("no more clients believe to have one when requests are late, lost and doubled", function()
    local CLIENTS, TURNS, LIMIT, RULES = 20, 2, 3, 150
    local proxy, spans = helper.proxy(), {}
    local troubles = { {}, { action = "twice" }, { action = "late", hang_up = true }, { action = "pass_then_close" },
      { action = "twice" }, { action = "pass_then_reset" }, {} }
    for i = 1, RULES do
      local rule = { match = fake.TXN, times = 1, delay = i * 7 % 11 * 0.01 }
      for name, value in pairs(troubles[i % #troubles + 1]) do rule[name] = value end
      proxy:rule(rule)
      if i % 5 == 0 then proxy:rule({ match = TREE, times = 1, skip = 2, delay = i % 3 * 0.05 }) end
    end
    local function contend()
      local client = helper.client({ address = proxy:address(), scheduler = "loop", timeout = 2 })
      local sem = assert(client:semaphore(prefix, LIMIT))
      for _ = 1, TURNS do
        assert(sem:acquire(helper.seconds(30)))
        local from = core.now()
        loop.sleep(0.15) -- long beside what a try takes, or no two would meet
        if sem:held() then spans[#spans + 1] = { from, core.now() } end
        assert(sem:release())
      end
      assert(client:close())
    end
    loop.run(function()
      for _ = 1, CLIENTS do loop.spawn(contend) end
    end)
    assert.are.equal(CLIENTS * TURNS, #spans)
    assert.is_true(most_at_once(spans) <= LIMIT)
    assert(proxy:wait_for(fake.TXN, RULES / 2, helper.seconds(10)))
    helper.eventually(function()
      local state = semaphores.state(prefix)
      local keys = semaphores.keys(prefix)
      return not keys[2] and state, table.concat(keys, " ")
    end)
  end)

  it("nobody who is let go by its client, or cancels, keeps one", function()
    local CLIENTS, LIMIT = 12, 2
    local proxy = helper.proxy()
    proxy:rule({ match = fake.TXN, delay = 0.03 })
    loop.run(function()
      for i = 1, CLIENTS do
        loop.spawn(function()
          local client = helper.client({ address = proxy:address(), scheduler = "loop" })
          local sem = assert(client:semaphore(prefix, LIMIT))
          local ok, message, code = sem:acquire(i * 0.02)
          if not ok and code ~= "TIMEOUT" then error(message) end
          if ok and i % 2 == 0 then assert(sem:release()) end
          if ok and i % 2 == 1 then getmetatable(sem).__close(sem) end
        end)
      end
    end)
    helper.eventually(semaphores.is_empty(prefix))
  end)
end)
