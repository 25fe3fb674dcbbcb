-- What a signal ends: emitters, and clients with close_on. Each in a process of its own, beside a real Consul.
local helper = require("spec.helper")

-- Whoever had the lock gave it back: there is no lock-delay to be waited out, which is longer than this spec.
local LOCK_DELAY = 600

local EMITTER = [[
local holdfast, queues = require("holdfast"), require("holdfast.queue")
local client = assert(holdfast.new({ scheduler = SCHEDULER, session = { lock_delay = LOCK_DELAY } }))
local queue = assert(queues.open("memory:"))
for i = 1, 3 do queue:push("a", { id = "a_" .. i, body = "{}" }) end
local emitter = require("holdfast.emitter").new({
  client = client, queue = queue, prefix = PREFIX,
  receivers = { a = { url = URL, secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", timeout = 100 } },
  on_event = function(event) print(event.type) io.stdout:flush() end,
})
print(emitter:run({ stop_on = { "TERM", "INT" }, grace = GRACE }), queue:len())
client:close()
]]

-- Puts values of the spec where a script names them.
local function fill(code, values)
  return (code:gsub("%f[%w_][%u_]+%f[^%w_]", function(name)
    local value = values[name]
    return value and (type(value) == "string" and ("%q"):format(value) or tostring(value))
  end))
end

describe("emitter:run{ stop_on = … }", function()
  local receiver, prefix
  before_each(function()
    receiver, prefix = helper.server(), helper.unique_key() .. "/"
  end)
  after_each(function()
    receiver = nil
    helper.finish()
  end)

  local function start(scheduler, grace)
    return helper.spawn_lua(fill(EMITTER, {
      SCHEDULER = scheduler, LOCK_DELAY = LOCK_DELAY, PREFIX = prefix, URL = receiver:url() .. "/", GRACE = grace,
    }))
  end

  local function expect_free()
    local lock = helper.client():lock(prefix .. "a")
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.is_true(lock:unlock())
  end

  for _, scheduler in ipairs({ "plain", "loop" }) do
    it("lets a push finish within the grace, and gives the lock back (" .. scheduler .. ")", function()
      receiver:rule({ hold = true, status = 204 })
      local child = start(scheduler, 1000)
      assert(receiver:wait_for("^POST ", 1, helper.seconds(10)))
      child:kill("TERM")
      receiver:release()
      local status, out, err = child:wait()
      assert.are.same({ "", 0 }, { err, status })
      assert.are.equal("acquired\ndelivered\nreleased\ntrue\t2\n", out)
      expect_free()
    end)

    it("aborts it when the grace is over, and leaves its message (" .. scheduler .. ")", function()
      receiver:rule({ action = "stall" })
      local child = start(scheduler, 0.05)
      assert(receiver:wait_for("^POST ", 1, helper.seconds(10)))
      child:kill("INT")
      local status, out, err = child:wait()
      assert.are.same({ "", 0 }, { err, status })
      assert.matches("^acquired\n", out)
      assert.matches("\naborted\n", out)
      assert.matches("\nreleased\n", out)
      assert.matches("\ntrue\t3\n$", out)
      expect_free()
    end)

    it("is hastened by a second signal (" .. scheduler .. ")", function()
      receiver:rule({ action = "stall" })
      local child = start(scheduler, 1000)
      assert(receiver:wait_for("^POST ", 1, helper.seconds(10)))
      child:kill("TERM")
      child:kill("INT")
      local status, out, err = child:wait()
      assert.are.same({ "", 0 }, { err, status })
      assert.matches("\naborted\n", out)
      assert.matches("\ntrue\t3\n$", out)
      expect_free()
    end)

    it("ends an idle emitter (" .. scheduler .. ")", function()
      receiver:rule({ status = 204 })
      local child = start(scheduler, 1000)
      repeat local line = child:read_line() until line == "released"
      child:kill("TERM")
      local status, out, err = child:wait()
      assert.are.same({ "", 0, "true\t0\n" }, { err, status, out })
    end)
  end

  it("says what is wrong with its options", function()
    local emitter = require("holdfast.emitter").new({
      client = helper.client(), queue = require("holdfast.queue").open("memory:"), receivers = {},
    })
    for said, options in pairs({
      ["stop_on must be a list of names of signals"] = { stop_on = { 15 } }, ["unknown option"] = { stopon = "TERM" },
      ["grace"] = { grace = "soon" },
      ["stop_on"] = { stop_on = "NONSENSE" },
    }) do
      local ok, message = pcall(function() emitter:run(options) end)
      assert.is_false(ok)
      assert.matches(said, message, 1, true)
      assert.matches("ending_spec.lua:%d+: ", message)
    end
    local ok, why, code = emitter:run({ stop_on = "KILL" })
    assert.are.same({ nil, "KILL cannot be heard", "INVALID" }, { ok, why, code })
  end)
end)
