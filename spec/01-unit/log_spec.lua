-- What goes on in a client, told to a log: with a client that is a table, and a scheduler that never waits.
local logs = require("holdfast.log")

-- A client with so many events, a scheduler under the listener's, and what they were asked for.
local function world(given, events)
  local listener = logs.listener(given, 1)
  local client = { next_event = function() return table.remove(events, 1) end }
  local time, waits = 0, {}
  local under = { now = function() return time end, spawn = "spawn", blocking = true }
  function under.wait(_, seconds)
    waits[#waits + 1] = seconds
    time = time + seconds
    return nil, "timeout"
  end
  function under.sleep(seconds) time = time + seconds end
  return listener, listener:attach(client, under), { client = client, under = under, waits = waits }
end

local function lost(key)
  return { event = "lock_lost", key = key, token = 7, reason = "session", session = "s" }
end

describe("a log", function()
  local said
  local function note(level, message, fields) said[#said + 1] = { level, message, fields } end
  before_each(function() said = {} end)

  it("is not listened to when there is none", function()
    assert.is_nil(logs.listener(nil, 1))
  end)

  it("is a function, or an object with methods", function()
    for _, wrong in ipairs({ "text", 1, {}, { info = print } }) do
      assert.has_error(function() logs.listener(wrong, 1) end)
    end
  end)

  it("hears of level, sentence and fields, in the order of the events", function()
    local _, scheduler = world(note, { lost("a"), { event = "trouble", code = "CONNECT", error = "refused" } })
    scheduler.sleep(1)
    assert.are.same({ "ERROR", 'the lock on "a" (token 7) has been lost: session', lost("a") }, said[1])
    assert.are.same({ "WARN", "no answer from Consul: refused" }, { said[2][1], said[2][2] })
    assert.is_nil(said[3])
  end)

  it("that is LuaLogging's is called as one calls it", function()
    local logger = { log = function(self, level, ...) said[#said + 1] = { self, level, ... } end }
    local _, scheduler = world(logger, { lost("100%d") })
    scheduler.sleep(1)
    assert.are.same({ { logger, "ERROR", 'the lock on "100%d" (token 7) has been lost: session' } }, said)
  end)

  it("that has a method for each level is called by it", function()
    local logger = {}
    for _, level in ipairs({ "debug", "info", "warn", "error" }) do
      logger[level] = function(self, ...) said[#said + 1] = { self == logger, level, ... } end
    end
    local _, scheduler = world(logger, { { event = "trouble_over", lasted = 1.5 }, { event = "dropped", count = 3 } })
    scheduler.sleep(1)
    assert.are.same({ { true, "info", "Consul answers again, after 1.5 s" },
      { true, "warn", "3 events have been dropped: nobody came for them" } }, said)
  end)

  it("hears within a second of what happens while somebody waits, and the wait goes on", function()
    local events = {}
    local _, scheduler, w = world(note, events)
    local wait = w.under.wait
    function w.under.wait(...)
      if #w.waits == 2 then events[1] = lost("a") end
      if #w.waits == 4 then return true end
      return wait(...)
    end
    assert.is_true(scheduler.wait("op"))
    assert.are.same({ 1, 1, 1, 1 }, w.waits)
    assert.are.equal(1, #said)
  end)

  it("does not change how long one waits", function()
    local _, scheduler, w = world(note, {})
    assert.are.same({ nil, "timeout" }, { scheduler.wait("op", 2.5) })
    assert.are.same({ 1, 1, 0.5 }, w.waits)
    function w.under.wait() return nil, "no descriptor", "NOMEM" end
    assert.are.same({ nil, "no descriptor", "NOMEM" }, { scheduler.wait("op", 2.5) })
    assert.are.same({ "spawn", true }, { scheduler.spawn, scheduler.blocking })
  end)

  it("that raises an error breaks nothing, and hears of it the next time", function()
    local fail = true
    local events = { lost("a"), lost("b") }
    local _, scheduler = world(function(...)
      if fail then
        fail = false
        error("the disk is full", 0)
      end
      note(...)
    end, events)
    scheduler.sleep(1)
    assert.are.same({ "ERROR", "log has raised an error: the disk is full" }, { said[1][1], said[1][2] })
    assert.are.same({ event = "log_failed", error = "the disk is full" }, said[1][3])
    assert.are.equal("b", said[2][3].key)
    assert.is_nil(said[3])
  end)

  it("that always raises an error breaks nothing either", function()
    local calls = 0
    local _, scheduler = world(function()
      calls = calls + 1
      error({})
    end, { lost("a"), lost("b") })
    scheduler.sleep(1)
    assert.are.equal(3, calls)
  end)

  it("that calls the client is not called from within itself", function()
    local scheduler, depth, deepest = nil, 0, 0
    local _
    _, scheduler = world(function(...)
      depth = depth + 1
      deepest = math.max(deepest, depth)
      note(...)
      scheduler.sleep(1)
      depth = depth - 1
    end, { lost("a"), lost("b") })
    scheduler.sleep(1)
    assert.are.same({ 1, "a", "b" }, { deepest, said[1][3].key, said[2][3].key })
  end)

  it("hears once that a lock-delay protects nothing", function()
    local listener = world(note, {})
    listener:look_at(nil)
    listener:look_at({ lock_delay = 1 })
    assert.are.equal(0, #said)
    listener:look_at({ lock_delay = 0.5 })
    listener:look_at({ lock_delay = 0 })
    assert.are.equal(1, #said)
    assert.are.same({ "WARN", { event = "unsafe_option", lock_delay = 0.5 } }, { said[1][1], said[1][3] })
  end)

  it("keeps no client alive", function()
    local listener, _, w = world(note, {})
    w.client = nil
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(listener.client))
  end)
end)
