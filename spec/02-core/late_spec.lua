-- Requests that the server carries out late, or twice: a write that was decided on before is no longer right, and finds
-- that its key has moved on.
local agent = require("spec.support.agent")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of, result = fake.code_of, fake.result

local holder_of = agent.holder

local function freed(key)
  helper.eventually(function() return not holder_of(key), tostring(holder_of(key)) .. " holds it" end, 5)
end

describe("a late copy", function()
  local proxy, client, key, lock
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), timeout = 3, session = { ttl = "5s", lock_delay = "20s" } })
    lock = assert(client:lock(key))
  end)
  after_each(function()
    proxy:clear()
    client, lock = nil, nil
    helper.finish()
  end)

  local function delay_next(silent)
    proxy:rule({ match = fake.TXN, times = 1, action = "late", hang_up = not silent })
  end

  -- Lets what is late be carried out, and waits until it has been.
  local function carry_out()
    local before = proxy:count(fake.TXN, "carried")
    local late = proxy:release()
    assert.is_true(late > 0)
    assert(proxy:wait_for(fake.TXN, before + late, helper.seconds(5), "carried"))
  end

  it("of a lock does not take the key again once it has been given back", function()
    delay_next()
    assert(lock:lock(helper.seconds(5)))
    assert(lock:unlock(helper.seconds(5)))
    carry_out()
    freed(key)
    assert.is_true(helper.client():lock(key):lock(0))
  end)

  it("of a lock does not take the key again once it has been given back and destroyed", function()
    delay_next()
    assert(lock:lock(helper.seconds(5)))
    assert(lock:unlock(helper.seconds(5)))
    assert(lock:destroy(helper.seconds(5)))
    carry_out()
    freed(key)
  end)

  for _, how in ipairs({ "its connection was closed", "nothing was said" }) do
    it(("of a lock that was given up (%s) does not hold the key for nobody"):format(how), function()
      local silent = how == "nothing was said"
      -- libcurl itself repeats a request when a kept connection is closed under it.
      proxy:rule({ match = fake.TXN, action = "late", hang_up = not silent, times = silent and 1 or 4 })
      assert.is_nil((lock:lock(0)))
      proxy:clear()
      freed(key)
      carry_out()
      freed(key)
      assert.is_false(lock:held())
    end)
  end

  -- libcurl repeats what a kept connection was closed under; the answer is that to the second one.
  it("of a lock that was carried out unheard is given back, when what would take it over is refused", function()
    local other = assert(helper.client():lock(key)) -- a key that the client has not made is not looked after
    assert(other:lock(helper.seconds(5)))
    assert(other:unlock(helper.seconds(5)))
    proxy:rule({ match = fake.TXN, action = "pass_then_close", times = 1 })
    proxy:rule({ match = fake.TXN, skip = 1, times = 1, status = 429, body = "rate limit exceeded" })
    assert.is_nil((lock:lock(0)))
    freed(key)
    assert.is_true(helper.client():lock(key):lock(0))
  end)

  it("of a lock that was dropped does not hold the key for nobody", function()
    delay_next("silent")
    local op = assert(lock:start_lock())
    assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
    op:cancel()
    op, lock = nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    carry_out()
    freed(key)
  end)

  it("of an unlock does not end the next hold, which nobody else gets meanwhile", function()
    assert(lock:lock(helper.seconds(5)))
    local first = lock:token()
    delay_next()
    assert(lock:unlock(helper.seconds(5)))
    assert(lock:lock(helper.seconds(5)))
    assert.is_true(lock:token() > first)
    local rival = assert(helper.client():lock(key))
    local waiting = assert(rival:start_lock())
    carry_out()
    assert.is_nil(waiting:wait(0.3))
    assert.is_true(lock:held())
    assert.are.equal(lock:session(), holder_of(key))
    assert(lock:unlock(helper.seconds(5)))
    assert.is_true(result(waiting))
  end)

  it("of an unlock that was given up on does not end the next hold", function()
    assert(lock:lock(helper.seconds(5)))
    delay_next("silent")
    assert.are.equal("TIMEOUT", code_of(lock:unlock(0.1)))
    assert(lock:lock(helper.seconds(5)))
    carry_out()
    assert.are.equal(lock:session(), holder_of(key))
    assert.is_true(lock:held())
    assert.is_true(lock:unlock(helper.seconds(5)))
  end)

  it("of an unlock does not end a hold of somebody else", function()
    assert(lock:lock(helper.seconds(5)))
    delay_next()
    assert(lock:unlock(helper.seconds(5)))
    local rival = assert(helper.client():lock(key))
    assert(rival:lock(helper.seconds(5)))
    carry_out()
    assert.are.equal(rival:session(), holder_of(key))
    assert.is_true(rival:unlock(helper.seconds(5)))
  end)

  it("of a lock is undone by one unlock at a time, however often the key is looked at meanwhile", function()
    proxy:rule({ match = fake.TXN, action = "twice", delay = 3600, times = 1 })
    assert(lock:lock(helper.seconds(5)))
    assert(lock:unlock(helper.seconds(5)))
    assert(lock:destroy(helper.seconds(5)))
    proxy:forget()
    proxy:rule({ match = fake.TXN, status = 500, body = "No cluster leader" })
    proxy:release()
    assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5), "answered"))
    local ops = core.counters().ops
    local looks = proxy:count(fake.AUDIT)
    assert(proxy:wait_for(fake.AUDIT, looks + 3, helper.seconds(5), "answered"))
    helper.eventually(function() return core.counters().ops <= ops, core.counters().ops .. " ops" end)
    proxy:clear()
    freed(key)
  end)

  it("of either changes nothing when it comes right after the first", function()
    proxy:rule({ match = fake.TXN, action = "twice", delay = 0 })
    local last = 0
    for _ = 1, 10 do
      assert(lock:lock(helper.seconds(5)))
      assert.is_true(lock:token() > last)
      last = lock:token()
      assert.is_true(lock:unlock(helper.seconds(5)))
    end
    proxy:clear()
    freed(key)
  end)
end)
