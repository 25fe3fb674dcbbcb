local core = require("holdfast.core")
local loop_module = require("holdfast.loop")

-- A loop on a clock that only poll moves, with descriptors that a spec makes readable.
local function fake()
  local source = { time = 100, readable = {}, polls = 0, at = {} }
  function source.now() return source.time end
  function source.follow() end
  function source.finished() end
  function source.poll(fds, seconds)
    source.polls = source.polls + 1
    local ready = {}
    for _, fd in ipairs(fds) do
      if source.readable[fd] then ready[fd] = true end
    end
    if next(ready) then return ready end
    local till, first = source.time + (seconds or math.huge), nil
    for _, fd in ipairs(fds) do   -- becomes readable while poll sleeps
      local at = source.at[fd]
      if at and at <= till then till, first = at, fd end
    end
    if first then
      source.readable[first], source.at[first], source.time = true, nil, math.max(source.time, till)
      return source.poll(fds, 0)
    end
    assert(seconds, "poll would sleep for ever")
    source.time = till
    return ready
  end
  return loop_module.new(source), source
end

local function waitable(fd, done)
  return {
    done = done,
    pollfd = function() return fd end,
    wait = function(self) return self.done == true end,
  }
end

describe("loop.run", function()
  it("answers what the function returned, nils included", function()
    local loop = fake()
    local function pack(...) return { n = select("#", ...), ... } end
    assert.are.same({ n = 4, 1, nil, 3, nil }, pack(loop.run(function(...) return ... end, 1, nil, 3, nil)))
  end)

  it("returns when every coroutine has ended", function()
    local loop = fake()
    local ended = {}
    loop.run(function()
      for i = 1, 3 do
        loop.spawn(function(n)
          loop.sleep(n)
          loop.spawn(function() ended[#ended + 1] = n end)
        end, i)
      end
    end)
    assert.are.same({ 1, 2, 3 }, ended)
  end)

  it("raises the first error with its traceback after the others have ended", function()
    local loop = fake()
    local ended = 0
    local function explode() error("boom") end
    local ok, message = pcall(loop.run, function()
      loop.spawn(function() loop.sleep(1) explode() end)
      loop.spawn(function() loop.sleep(2) ended = ended + 1 end)
      loop.spawn(function() loop.sleep(3) error({}) end)
    end)
    assert.is_false(ok)
    assert.matches("loop_spec%.lua:%d+: boom", message)
    assert.matches("explode", message)
    assert.matches("1 more coroutines failed", message)
    assert.are.equal(1, ended)
  end)

  it("can run again, also after an error", function()
    local loop = fake()
    pcall(loop.run, error, "x")
    assert.is_true(loop.run(function() loop.sleep(1) return true end))
    assert.is_false(loop.running())
  end)

  it("raises inside itself, with the caller's line", function()
    local loop = fake()
    loop.run(function()
      local ok, message = pcall(function() loop.run(print) return true end)
      assert.is_false(ok)
      assert.matches("loop_spec%.lua:%d+: loop%.run inside loop%.run", message)
    end)
  end)

  it("forgets its coroutines when poll raises (Ctrl-C)", function()
    local loop, source = fake()
    local poll = source.poll
    source.poll = function() error("interrupted!") end
    local ok, message = pcall(loop.run, function() loop.sleep(1) end)
    assert.is_false(ok)
    assert.matches("interrupted", message)
    source.poll = poll
    assert.is_false(loop.running())
    assert.are.equal(5, loop.run(function() return 5 end))
  end)
end)

describe("loop.spawn", function()
  it("starts coroutines in order, with their arguments, after the spawning one gives way", function()
    local loop = fake()
    local order = {}
    loop.run(function()
      for i = 1, 3 do loop.spawn(function(a, b) order[#order + 1] = a .. tostring(b) end, i, nil) end
      order[#order + 1] = "main"
    end)
    assert.are.same({ "main", "1nil", "2nil", "3nil" }, order)
  end)

  it("raises outside a loop", function()
    local loop = fake()
    assert.has_error(function() loop.spawn(print) end)
  end)
end)

describe("loop.sleep", function()
  it("wakes 1000 sleepers in the order of their times", function()
    local loop = fake()
    local woken, seed = {}, 7
    loop.run(function()
      for _ = 1, 1000 do
        seed = (seed * 16807) % 2147483647
        local seconds = seed % 997 / 10
        loop.spawn(function()
          loop.sleep(seconds)
          woken[#woken + 1] = seconds
        end)
      end
    end)
    assert.are.equal(1000, #woken)
    for i = 2, #woken do assert.is_true(woken[i - 1] <= woken[i]) end
  end)

  it("wakes sleepers of one moment first come, first served", function()
    local loop = fake()
    local woken = {}
    loop.run(function()
      for i = 1, 50 do loop.spawn(function() loop.sleep(1) woken[i] = #woken + 1 end) end
    end)
    for i = 1, 50 do assert.are.equal(i, woken[i]) end
  end)

  it("with 0 gives everybody a turn, and takes no time", function()
    local loop, source = fake()
    local order = {}
    loop.run(function()
      loop.spawn(function() for _ = 1, 2 do order[#order + 1] = "a" loop.sleep(0) end end)
      loop.spawn(function() for _ = 1, 2 do order[#order + 1] = "b" loop.sleep(0) end end)
    end)
    assert.are.equal("abab", table.concat(order))
    assert.are.equal(100, source.time)
  end)

  it("does not let coroutines that are always ready starve descriptors and timers", function()
    local loop, source = fake()
    source.readable[5] = true
    local seen = {}
    loop.run(function()
      loop.spawn(function() seen.fd = loop.wait(waitable(5)) end)
      loop.spawn(function()
        local turns = 0
        while not seen.fd do
          turns = turns + 1
          assert.is_true(turns < 10)
          loop.sleep(0)
        end
      end)
    end)
    assert.is_true(seen.fd)
  end)

  it("takes a bare coroutine.yield as giving way", function()
    local loop = fake()
    assert.are.equal("done", loop.run(function() coroutine.yield("whatever") return "done" end))
  end)
end)

describe("loop.wait", function()
  it("returns at once when the waitable is done, without asking for a descriptor", function()
    local loop, source = fake()
    local object = waitable(nil, true)
    object.pollfd = function() error("not needed") end
    assert.is_true(loop.run(function() return loop.wait(object) end))
    assert.are.equal(0, source.polls)
  end)

  it("returns true when the descriptor becomes readable", function()
    local loop, source = fake()
    source.at[4] = 103
    local answer, time = loop.run(function() return loop.wait(waitable(4), 10), loop.now() end)
    assert.is_true(answer)
    assert.are.equal(103, time)
  end)

  it("answers nil, timeout when it does not in time, and at once for 0", function()
    local loop, source = fake()
    loop.run(function()
      assert.are.same({ nil, "timeout" }, { loop.wait(waitable(4), 2) })
      assert.are.equal(102, source.time)
      assert.are.same({ nil, "timeout" }, { loop.wait(waitable(4), 0) })
      assert.are.equal(102, source.time)
    end)
  end)

  it("lets several coroutines wait on one descriptor", function()
    local loop, source = fake()
    local answers = {}
    source.at[4] = 102
    loop.run(function()
      for i = 1, 3 do loop.spawn(function() answers[i] = loop.wait(waitable(4)) end) end
      loop.spawn(function() answers[4] = select(2, loop.wait(waitable(4), 1)) end)
    end)
    assert.are.same({ true, true, true, "timeout" }, answers)
  end)

  it("leaves no timer behind when the descriptor was first", function()
    local loop, source = fake()
    source.readable[4] = true
    loop.run(function()
      for _ = 1, 100 do assert.is_true(loop.wait(waitable(4), 1000)) end
    end)
    assert.are.equal(100, source.time)
  end)

  it("wakes everybody at his own time, whoever of the others was woken before", function()
    local loop, source = fake()
    local late, seed = 0, 11
    local function random(n)
      seed = (seed * 16807) % 2147483647
      return seed % n + 1
    end
    loop.run(function()
      for fd = 1, 500 do
        local timeout, readable = random(1000), random(1000)
        loop.spawn(function()
          local answer = loop.wait(waitable(fd), timeout)
          local should = math.min(timeout, readable) + 100
          if source.time ~= should or (answer or false) ~= (readable <= timeout) then late = late + 1 end
        end)
        source.at[fd] = 100 + readable
      end
    end)
    assert.are.equal(0, late)
  end)

  it("hands on why there is no descriptor", function()
    local loop = fake()
    local object = waitable(nil)
    object.pollfd = function() return nil, "no descriptors left", "NOMEM" end
    local answer, message, code = loop.run(function() return loop.wait(object) end)
    assert.are.same({ nil, "no descriptors left", "NOMEM" }, { answer, message, code })
  end)

  it("blocks on the waitable outside a loop", function()
    local asked
    local object = { wait = function(_, seconds) asked = seconds return true end }
    assert.is_true(loop_module.wait(object, 5))
    assert.is_true(asked > 4.9 and asked <= 5)
  end)

  it("raises when a coroutine inside a coroutine swallows the yield", function()
    local loop = fake()
    local ok, message = pcall(loop.run, function()
      local generator = coroutine.wrap(function() loop.sleep(1) end)
      generator()
      loop.sleep(1)
    end)
    assert.is_false(ok)
    assert.matches("its yield never reached the loop", message)
  end)

  it("resumes a coroutine that other code resumes in between only for its own wait", function()
    local loop, source = fake()
    source.at[4] = 101
    loop.run(function()
      local generator = coroutine.wrap(function() loop.wait(waitable(4)) end)
      generator()         -- parks this coroutine under the generator's wait
      coroutine.yield()   -- gives way; the loop forgets that wait
      assert.is_true(loop.wait(waitable(4), 10))
    end)
    assert.are.equal(101, source.time)
  end)
end)

describe("loop.pcall", function()
  it("can be yielded across, and answers what the function returned", function()
    local loop = fake()
    local function nested(n)
      if n == 0 then loop.sleep(1) return "deep", nil end
      return select(2, loop_module.pcall(nested, n - 1))
    end
    local ok, text, none = loop.run(function() return loop_module.pcall(nested, 5) end)
    assert.are.same({ true, "deep", nil }, { ok, text, none })
  end)

  it("catches an error after a wait", function()
    local loop = fake()
    local ok, message = loop.run(function()
      return loop_module.pcall(function() loop.sleep(1) error("late", 0) end)
    end)
    assert.are.same({ false, "late" }, { ok, message })
  end)

  it("works outside a loop, and with C functions", function()
    assert.are.same({ true, "1" }, { loop_module.pcall(tostring, 1) })
    assert.is_false((loop_module.pcall(error)))
    assert.are.same({ true, "1" }, { coroutine.wrap(function() return loop_module.pcall(tostring, 1) end)() })
  end)
end)

describe("the loop on poll(2)", function()
  it("waits on the clock of the core, and no longer than it should", function()
    local before = core.now()
    loop_module.run(function()
      for _ = 1, 1000 do loop_module.spawn(loop_module.sleep, 0.05) end
    end)
    local took = core.now() - before
    assert.is_true(took >= 0.05 and took < 20) -- one after the other they would take 50 s
  end)

  it("is known inside and not outside", function()
    assert.is_false(loop_module.running())
    assert.is_true(loop_module.run(function() return loop_module.pcall(loop_module.running) end))
  end)
end)
