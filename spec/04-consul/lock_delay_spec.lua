-- After a session has been invalidated nobody gets its keys for the length of its lock-delay.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local helper = require("spec.helper")

local code_of = agent.code_of

describe("the lock-delay", function()
  local key, lock
  before_each(function()
    key = helper.unique_key()
    lock = assert(helper.client():lock(key))
  end)
  after_each(function()
    lock = nil
    helper.finish()
  end)

  -- Has a holder made by holdfast lose its session, and answers when.
  local function lose(options)
    local first = assert(helper.client():lock(options))
    assert(first:lock())
    local session = first:session()
    local at = core.now()
    consul.session.destroy(session)
    assert.are.equal("session", first:wait_lost(helper.seconds(5)))
    return at
  end

  it("of 0 lets the next one in at once (behaviour 62)", function()
    lose({ key = key, lock_delay = 0 })
    assert.is_true(lock:lock(0))
  end)

  it("of 3 s keeps the next one out for that long, and no longer than the next try", function()
    local at = lose({ key = key, lock_delay = "3s" })
    assert.is_true(lock:lock(helper.seconds(6)))
    assert.is_true(core.now() - at >= 3)
    assert.are.equal(lock:session(), agent.holder(key))
  end)

  it("of its own holder ends for him as for everybody else", function()
    local first = assert(helper.client():lock({ key = key, lock_delay = "3s" }))
    assert(first:lock())
    consul.session.destroy(first:session())
    assert.are.equal("session", first:wait_lost(helper.seconds(5)))
    assert.is_true(first:lock(helper.seconds(6)))
  end)

  it("is 25 s by default (behaviour 62)", function()
    assert(lock:lock())
    assert.are.equal(25e9, consul.session.info(lock:session()).LockDelay)
  end)

  it("by default is told apart from a holder when there is one try", function()
    lose(key)
    local _, message = lock:lock(0)
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    assert.matches("lock delay", message, 1, true)
    assert.matches(key, message, 1, true)
  end)

  it("is not waited out beyond the time given (behaviour 62)", function()
    lose(key)
    local start = core.now()
    local ok, message, code = lock:lock(3)
    local took = core.now() - start
    assert.are.same({ nil, "TIMEOUT" }, { ok, code })
    assert.matches("lock delay", message, 1, true)
    assert.is_true(took >= 2.999) -- it counts in whole milliseconds
    assert.is_true(took < 20)
    assert.is_nil(agent.holder(key))
  end)

  it("does not follow an unlock, a close or the end of a session that holds nothing", function()
    local client = helper.client()
    local first, own = assert(client:lock(key)), assert(client:lock({ key = key, session_ttl = "10s" }))
    assert(first:lock())
    assert(first:unlock())
    assert.is_true(lock:lock(0))
    assert(lock:unlock())
    assert(own:lock())
    assert(own:unlock())
    assert.is_true(lock:lock(0))
    assert(lock:unlock())
    assert(first:lock())
    client:close()
    assert.is_true(lock:lock(0))
  end)
end)
