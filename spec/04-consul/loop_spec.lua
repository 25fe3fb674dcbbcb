-- Many coroutines of one Lua thread, on the built-in loop, with locks of a real agent.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local code_of, holder = agent.code_of, agent.holder

describe("on the loop", function()
  local client, key
  before_each(function()
    client = helper.client({ scheduler = "loop", session = { lock_delay = 0 } })
    key = helper.unique_key()
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  it("50 coroutines hold locks on different keys at the same time", function()
    local inside, most, done = 0, 0, 0
    local function work(lock)
      inside = inside + 1
      most = math.max(most, inside)
      helper.eventually(function() return most == 50 end)
      assert.is_true(lock:held())
      inside = inside - 1
      return true
    end
    loop.run(function()
      for i = 1, 50 do
        loop.spawn(function()
          assert(client:with_lock(key .. "/" .. i, helper.seconds(20), work))
          done = done + 1
        end)
      end
    end)
    assert.are.equal(50, done)
    assert.are.equal(0, client:stats().locks_held)
    for i = 1, 50 do assert.is_nil(holder(key .. "/" .. i)) end
  end)

  it("50 coroutines take turns on one key", function()
    local inside, turns = 0, 0
    loop.run(function()
      for _ = 1, 50 do
        loop.spawn(function()
          assert(client:with_lock(key, helper.seconds(20), function()
            inside, turns = inside + 1, turns + 1
            assert.are.equal(1, inside)
            loop.sleep(0)
            inside = inside - 1
            return true
          end))
        end)
      end
    end)
    assert.are.equal(50, turns)
    assert.is_nil(holder(key))
  end)

  it("an error in one coroutine does not stop another that waits for its lock", function()
    local first, second = assert(client:lock(key)), assert(client:lock(key))
    assert(first:lock())
    assert.has_error(function()
      local ok, message = pcall(loop.run, function()
        loop.spawn(function()
          assert(second:lock(helper.seconds(20)))
          assert(second:unlock())
        end)
        loop.sleep(0)
        assert(first:unlock())
        error("on purpose")
      end)
      assert.is_false(ok)
      error(message:match("on purpose"), 0)
    end, "on purpose")
    assert.is_nil(holder(key))
    assert.are.equal(2, client:stats().released)
  end)

  it("an error under with_lock gives the lock back", function()
    assert.is_false((pcall(loop.run, function()
      client:with_lock(key, function()
        loop.sleep(0)
        error("on purpose")
      end)
    end)))
    assert.is_nil(holder(key))
  end)

  -- A coroutine that waits for a lock, and never runs again: its loop has been broken off. Nothing refers to it.
  local function leave_waiting()
    assert(coroutine.resume(coroutine.create(function()
      local lock = assert(client:lock(key))
      local op = assert(lock:start_lock())
      coroutine.yield()
      return lock, op
    end)))
  end

  it("a waiting coroutine that is collected leaves nothing held", function()
    local session = agent.occupy(key)
    leave_waiting()
    helper.eventually(function()
      collectgarbage()
      return core.counters().locks == 0
    end)
    agent.vacate(key, session)
    local other = assert(helper.client():lock(key))
    assert.is_true(other:lock(helper.seconds(5)))
    assert.are.equal(0, client:stats().acquired)
    assert.are.equal(other:session(), holder(key))
  end)

  it("wait_lost waits in its coroutine, and answers how the hold ended", function()
    local locks, reasons = {}, {}
    loop.run(function()
      for _, name in ipairs({ "lost", "released" }) do
        locks[name] = assert(client:lock({ key = key .. "/" .. name, session_ttl = "10s", lock_delay = 0 }))
        assert(locks[name]:lock(helper.seconds(10)))
        loop.spawn(function() reasons[name] = locks[name]:wait_lost(helper.seconds(20)) end)
      end
      loop.sleep(0)
      consul.session.destroy(locks.lost:session())
      assert(locks.released:unlock())
    end)
    assert.are.same({ lost = "session", released = "released" }, reasons)
  end)

  it("a guarded request is aborted in its coroutine when another one gives the lock back", function()
    local receiver = helper.server()
    receiver:rule({ action = "stall" })
    local lock, code = assert(client:lock(key)), nil
    loop.run(function()
      assert(lock:lock(helper.seconds(10)))
      loop.spawn(function() code = code_of(lock:request({ url = receiver:url(), timeout = 60 })) end)
      helper.eventually(function() return receiver:count() == 1 end)
      assert.is_true(lock:unlock())
    end)
    assert.are.equal("LOST", code)
    assert(receiver:wait_for(nil, 1, helper.seconds(5), "gone"))
  end)

  it("an unguarded request outlives the lock", function()
    local receiver = helper.server()
    receiver:rule({ hold = true, status = 200, body = "done" })
    local lock, response = assert(client:lock(key)), nil
    loop.run(function()
      assert(lock:lock(helper.seconds(10)))
      loop.spawn(function() response = assert(client:request({ url = receiver:url(), timeout = 60 })) end)
      helper.eventually(function() return receiver:count() == 1 end)
      consul.session.destroy(lock:session())
      assert.are.equal("session", lock:wait_lost(helper.seconds(5)))
      assert.is_nil(response)
      receiver:release()
    end)
    assert.are.same({ 200, "done" }, { response.status, response.body })
  end)

  it("waiting for a lock goes on while others work", function()
    local session = agent.occupy(key)
    local proxy, ticks = helper.proxy(), 0
    local waiter = helper.client({ address = proxy:address(), scheduler = "loop" })
    loop.run(function()
      local done
      loop.spawn(function()
        assert(waiter:with_lock(key, helper.seconds(20), function() return true end))
        done = true
      end)
      while not done do
        ticks = ticks + 1
        if ticks == 10 then agent.vacate(key, session) end
        loop.sleep(0.001)
      end
    end)
    assert.is_true(ticks >= 10)
    assert.is_true(proxy:count(fake.TXN) >= 1)
  end)
end)
