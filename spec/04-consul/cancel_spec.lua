-- lock:lock that ends before it has the lock: cancelled, out of time, closed. It leaves nothing held.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local code_of, holder = agent.code_of, agent.holder

describe("an acquire that ends early", function()
  local proxy, client, key, lock
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), scheduler = "loop" })
    lock = assert(client:lock(key))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- Waits in lock:lock, and calls act once the acquire's request that matches pattern has arrived (nil: once it has
  -- begun to wait). Answers how lock:lock ended. It ends in any case, for the sake of the loop.
  local function interrupt(pattern, act, timeout)
    local code
    loop.run(function()
      loop.spawn(function() code = code_of(lock:lock(timeout or helper.seconds(20))) end)
      loop.sleep(0)
      helper.eventually(function() return code or not pattern or proxy:count(pattern) > 0 end)
      if act then act() end
    end)
    return code
  end

  local function cancel()
    lock:cancel()
  end

  -- The long poll was given up, not waited for: it would have gone on for 10 s.
  local function poll_was_dropped()
    assert(proxy:wait_for(fake.POLL .. ".*wait=10000ms", 1, helper.seconds(5), "gone"))
    assert.are.equal(0, proxy:count(fake.POLL, "answered"))
  end

  local function never_takes_it(session)
    local tries = proxy:count(fake.TXN)
    agent.vacate(key, session)
    assert.is_true(assert(helper.client():lock(key)):lock(helper.seconds(5)))
    assert.are.equal(tries, proxy:count(fake.TXN))
    assert.is_false(lock:held())
    assert.is_false(lock:lost())
    assert.are.equal(0, client:stats().acquired)
  end

  it("answers CANCELED in the middle of the long poll (behaviour 63)", function()
    local session = agent.occupy(key)
    assert.are.equal("CANCELED", interrupt(fake.POLL, cancel))
    poll_was_dropped()
    never_takes_it(session)
  end)

  it("answers TIMEOUT in the middle of the long poll", function()
    local session = agent.occupy(key)
    assert.are.equal("TIMEOUT", interrupt(fake.POLL, nil, 3))
    poll_was_dropped()
    never_takes_it(session)
  end)

  it("answers CLOSED in the middle of the long poll", function()
    local session = agent.occupy(key)
    assert.are.equal("CLOSED", interrupt(fake.POLL, function() client:close() end))
    assert.are.equal(session, holder(key))
  end)

  it("answers CANCELED in its sleep during a lock-delay", function()
    consul.session.destroy(agent.occupy(key, { LockDelay = "15s" }))
    assert.are.equal("CANCELED", interrupt(fake.TXN, cancel))
    assert.is_nil(holder(key))
  end)

  it("answers CANCELED while another object of the client has the lock, which keeps it", function()
    local first = assert(client:lock(key))
    assert(first:lock())
    assert.are.equal("CANCELED", interrupt(nil, cancel))
    assert.is_true(first:held())
    assert(first:unlock())
    assert.is_nil(holder(key))
  end)

  it("can be tried again", function()
    local session = agent.occupy(key)
    assert.are.equal("CANCELED", interrupt(fake.POLL, cancel))
    agent.vacate(key, session)
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.are.equal(lock:session(), holder(key))
  end)

  it("is no concern of a cancel that comes before or after it", function()
    lock:cancel()
    assert.is_true(lock:lock(helper.seconds(5)))
    lock:cancel()
    assert.is_true(lock:held())
    assert.is_true(lock:unlock())
    lock:cancel()
    assert.is_true(lock:lock(helper.seconds(5)))
  end)

  it("says HELD to a second call on the same object, and the first goes on", function()
    local session = agent.occupy(key)
    assert.are.equal("CANCELED", interrupt(fake.POLL, function()
      assert.are.equal("HELD", code_of(lock:lock(0)))
      assert.are.equal(session, holder(key))
      lock:cancel()
    end))
  end)
end)
