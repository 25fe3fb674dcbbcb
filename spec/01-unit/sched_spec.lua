local core = require("holdfast.core")
local loop = require("holdfast.loop")
local sched = require("holdfast.sched")

local function adapter()
  local function none() end
  return { wait = none, sleep = none, spawn = none, now = none }
end

describe("sched.resolve", function()
  it("finds plain and loop, and takes plain for nothing", function()
    assert.are.equal(require("holdfast.sched.plain"), sched.resolve("plain"))
    assert.are.equal(require("holdfast.sched.loop"), sched.resolve("loop"))
    assert.are.equal(require("holdfast.sched.plain"), sched.resolve(nil))
  end)

  it("answers INVALID for schedulers that are planned", function()
    for _, name in ipairs({ "cqueues", "luv", "copas", "nginx" }) do
      local found, message, code = sched.resolve(name)
      assert.is_nil(found)
      assert.matches("not there yet", message)
      assert.are.equal("INVALID", code)
    end
  end)

  it("raises for a wrong name or type, with the caller's line", function()
    for _, wrong in ipairs({ "lop", "", 5, true }) do
      local line = debug.getinfo(1, "l").currentline + 1
      local ok, message = pcall(function() sched.resolve(wrong) return true end)
      assert.is_false(ok)
      assert.matches("sched_spec%.lua:" .. line .. ": scheduler: ", message)
    end
  end)

  it("takes a table with the four functions as it is", function()
    local mine = adapter()
    assert.are.equal(mine, sched.resolve(mine))
  end)

  it("raises for a table that lacks one", function()
    for _, verb in ipairs({ "wait", "sleep", "spawn", "now" }) do
      local broken = adapter()
      broken[verb] = nil
      local line = debug.getinfo(1, "l").currentline + 1
      local ok, message = pcall(function() sched.resolve(broken) return true end)
      assert.is_false(ok)
      assert.matches("sched_spec%.lua:" .. line .. ": .*no function \"" .. verb, message)
    end
  end)

  it("has the four functions in both adapters", function()
    for _, name in ipairs({ "plain", "loop" }) do
      for _, verb in ipairs({ "wait", "sleep", "spawn", "now" }) do
        assert.is_function(sched.resolve(name)[verb])
      end
    end
  end)
end)

describe("the plain scheduler", function()
  local plain = sched.resolve("plain")

  it("asks again after a signal until the time is over", function()
    local asked = 0
    local object = { wait = function() asked = asked + 1 return asked == 3 end }
    assert.is_true(plain.wait(object, 60))
    assert.are.equal(3, asked)
    asked = 0
    assert.is_true(plain.wait(object))
    assert.are.equal(3, asked)
  end)

  it("answers nil, timeout, and asks once for 0", function()
    local asked = 0
    local object = { wait = function() asked = asked + 1 return false end }
    assert.are.same({ nil, "timeout" }, { plain.wait(object, 0) })
    assert.are.equal(1, asked)
  end)

  it("lets an error through that a hook raises in between", function()
    local object = { wait = function() error("interrupted!") end }
    assert.has_error(function() plain.wait(object, 60) end)
  end)

  it("refuses to spawn, and says what to do", function()
    local ok, message = pcall(function() plain.spawn(print) return true end)
    assert.is_false(ok)
    assert.matches("sched_spec%.lua:%d+: .*scheduler = \"loop\"", message)
    assert.is_true(plain.blocking)
  end)

  it("sleeps no shorter than asked", function()
    local before = core.now()
    plain.sleep(0.002)
    assert.is_true(core.now() - before >= 0.002)
  end)
end)

describe("the loop scheduler", function()
  local adapted = sched.resolve("loop")

  it("enters a loop of its own, or the one that runs", function()
    local inside, again
    local answer = adapted.enter(function(x)
      inside = loop.running()
      again = adapted.enter(function() return loop.running() end)
      return x
    end, "x")
    assert.are.same({ true, true, "x" }, { inside, again, answer })
    assert.is_false(loop.running())
  end)

  it("waits, sleeps and spawns in the loop", function()
    local ran
    loop.run(function()
      adapted.spawn(function() ran = true end)
      adapted.sleep(0)
      assert.is_true(ran)
      assert.is_true(adapted.wait({ wait = function() return true end }))
    end)
  end)
end)
