-- What a signal ends: emitters, and clients with close_on. Each in a process of its own, beside a real Consul.
local helper = require("spec.helper")

-- Whoever had the lock gave it back: there is no lock-delay to be waited out, which is longer than this spec.
local LOCK_DELAY = 600

-- ThreadSanitizer lets a signal in where its own functions are called, which is where memory is taken.
local COMPUTE = os.getenv("HF_MODE") == "tsan" and "while true do local _ = {} end" or "while true do end"

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

describe("client:close_on", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  -- A program that holds the key, says so, and does something until a signal comes.
  local CLOSE_ON = [[
    local holdfast, loop = require("holdfast"), require("holdfast.loop")
    local client = assert(holdfast.new({ address = ADDRESS, session = { lock_delay = LOCK_DELAY } }))
    assert(client:close_on("TERM", "HUP"))
    local lock = assert(client:lock(KEY))
    assert(lock:lock())
    local function ready() print("ready") io.stdout:flush() end
  ]]

  local function start(body, address)
    local values = { LOCK_DELAY = LOCK_DELAY, KEY = key, ADDRESS = address }
    return helper.spawn_lua(fill(CLOSE_ON, values) .. body)
  end

  local function expect_free()
    local lock = helper.client():lock(key)
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.is_true(lock:unlock())
  end

  local function expect_ends(child, signal, status)
    assert.are.equal("ready", child:read_line())
    child:kill(signal)
    local got, out, err = child:wait()
    assert.are.same({ status, "", "" }, { got, out, err })
    expect_free()
  end

  for what, body in pairs({
    ["computes"] = "ready() " .. COMPUTE,
    ["makes strings"] = "ready() local t = {} while true do t[#t % 1000 + 1] = ('x'):rep(#t * 50) end",
    ["computes in a coroutine"] = "coroutine.wrap(function() ready() " .. COMPUTE .. " end)()",
    ["asks for what it holds"] = "ready() while true do lock:held() client:stats() end",
    ["waits"] = "ready() client:scheduler().sleep(1000)",
    ["waits for Consul"] = "ready() print(client:lock(KEY):lock())",
    ["waits in the loop"] = "loop.run(function() ready() loop.sleep(1000) end)",
    ["waits for a command"] = "ready() os.execute('exec sleep 0.2') " .. COMPUTE,
    ["reads"] = "local pipe = io.popen('exec sleep 0.2') ready() pipe:read('*l') " .. COMPUTE,
  }) do
    it("gives the lock back and ends the program by the signal, which " .. what, function()
      expect_ends(start(fill(body, { KEY = key })), "TERM", 128 + 15)
    end)
  end

  it("does so by each of the signals, and in place of the interpreter", function()
    expect_ends(start("ready() " .. COMPUTE), "HUP", 128 + 1)
    expect_ends(start("client:close_on('INT') ready() " .. COMPUTE), "INT", 128 + 2)
  end)

  it("under timeout -s TERM", function()
    local child = helper.start({ "timeout", "-s", "TERM", "0.5", os.getenv("HF_LUA"), "-e",
      fill(CLOSE_ON, { LOCK_DELAY = LOCK_DELAY, KEY = key }) .. COMPUTE })
    assert.are.equal(124, (child:wait()))
    expect_free()
  end)

  -- Only root may make a namespace of process ids.
  if os.execute("unshare -pf --kill-child true 2>/dev/null") == (_VERSION == "Lua 5.1" and 0 or true) then
    it("exits with the status that a shell would tell, where it is the first process of a container", function()
      -- It exits while it has threads, which ThreadSanitizer would tell of.
      local options = "TSAN_OPTIONS=" .. (os.getenv("TSAN_OPTIONS") or "") .. ":report_thread_leaks=0"
      local child = helper.start({ "env", options, "unshare", "-pf", "--kill-child", os.getenv("HF_LUA"), "-e",
        fill(CLOSE_ON, { LOCK_DELAY = LOCK_DELAY, KEY = key }) .. "io.popen('kill -TERM 1'):close() " .. COMPUTE })
      assert.are.equal(128 + 15, (child:wait()))
      expect_free()
    end)
  end

  local function first_thread_of(pid)
    local file = assert(io.open(("/proc/%d/task/%d/stat"):format(pid, pid)))
    local state = file:read("*l"):match("^.*%) (%a)")
    file:close()
    return state
  end

  it("stops the program before it gives anything back", function()
    local proxy = helper.proxy()
    local child = start("ready() " .. COMPUTE, proxy:address())
    assert.are.equal("ready", child:read_line())
    assert.are.equal("R", first_thread_of(child.pid))
    proxy:rule({ match = "^PUT /v1/txn", hold = true, first = true })
    child:kill("TERM")
    assert(proxy:wait_for("^PUT /v1/txn", 2, helper.seconds(10)))
    -- It looks once more whether it is to stay, and may be on its way to that; who computes never sleeps.
    helper.eventually(function() return first_thread_of(child.pid) == "S" end)
    proxy:release()
    assert.are.equal(128 + 15, (child:wait()))
    expect_free()
  end)

  it("closes every client that has asked for it", function()
    local child = start(fill([[
      local other = assert(holdfast.new({ session = { lock_delay = LOCK_DELAY } }))
      local second = other:lock(KEY)
      assert(other:close_on("USR1"))
      assert(second:lock())
      ready()
    ]], { LOCK_DELAY = LOCK_DELAY, KEY = key .. "/second" }) .. COMPUTE)
    expect_ends(child, "TERM", 128 + 15)
    key = key .. "/second"
    expect_free()
  end)

  it("leaves the signal as it was when the client is closed, and what is ignored as it is", function()
    local child = start([[
      assert(client:close())
      print(select(3, client:close_on("TERM")))
      local never = assert(holdfast.new())
      assert(never:close_on("TERM"))
      assert(never:close())
      local pipe = io.popen("grep SigCgt /proc/$PPID/status")
      local caught = tonumber(pipe:read("*l"):match("(%x+)$"), 16)
      pipe:close()
      print(math.floor(caught / 2 ^ 14) % 2)
      ready()
    ]] .. COMPUTE)
    assert.are.equal("CLOSED", child:read_line())
    assert.are.equal("0", child:read_line())
    expect_ends(child, "TERM", 128 + 15)
    child = helper.start({ "nohup", os.getenv("HF_LUA"), "-e",
      fill(CLOSE_ON, { LOCK_DELAY = LOCK_DELAY, KEY = key })
        .. "io.popen('kill -HUP $PPID'):close() ready() " .. COMPUTE })
    assert.are.equal("ready", child:read_line())
    child:kill("TERM")
    assert.are.equal(128 + 15, (child:wait()))
    expect_free()
  end)

  it("says what ends no process, and what is no signal", function()
    local client = helper.client()
    local ok, why, code = client:close_on("WINCH")
    assert.are.same({ nil, "WINCH ends no process", "INVALID" }, { ok, why, code })
    assert.are.equal("INVALID", (select(3, client:close_on("KILL"))))
    ok, why = pcall(function() client:close_on("NONSENSE") end)
    assert.is_false(ok)
    assert.matches("ending_spec.lua:%d+: ", why)
  end)
end)
