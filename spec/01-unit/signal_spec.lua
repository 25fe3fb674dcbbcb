-- holdfast.on_signal: in processes of their own, since a signal that nobody hears would end the spec.
local helper = require("spec.helper")

local LUA = [[
local holdfast, loop = require("holdfast"), require("holdfast.loop")
-- Not by os.execute, in which system(3) ignores SIGINT.
local function kill(name) io.popen("kill -" .. (name or "TERM") .. " " .. PID):close() end
local file = io.open("/proc/self/stat")
PID = file:read("*n")
file:close()
]]

local function run(code, ...)
  local status, out, err = helper.run_lua(LUA .. code, ...)
  assert.are.equal("", err)
  return out, status
end

describe("holdfast.on_signal", function()
  after_each(helper.finish)

  it("answers what hears signals, and says which has come", function()
    local out, status = run([[
      local signals = assert(holdfast.on_signal("TERM", "SIGUSR1"))
      print(select(3, signals:next(0)))
      kill("USR1")
      print(signals:next())
      kill()
      print(signals:next("10s"))
      print(select(3, signals:next(0)))
    ]])
    assert.are.equal("TIMEOUT\nUSR1\t10\nTERM\t15\nTIMEOUT\n", out)
    assert.are.equal(0, status)
  end)

  it("leaves each signal as it was when it is closed", function()
    local out, status = run([[
      local signals = assert(holdfast.on_signal({ "TERM" }))
      print(signals:close(), signals:close(), tostring(signals))
      print(select(3, signals:next()), select(3, signals:pollfd()))
      io.stdout:flush()
      kill()
      print("alive")
    ]])
    assert.are.equal("true\ttrue\tholdfast.signals: closed\nCLOSED\tCLOSED\n", out)
    assert.are.equal(128 + 15, status)
  end)

  it("hears Ctrl-C in place of the interpreter, whose it is again afterwards", function()
    local status, out, err = helper.run_lua(LUA .. [[
      local signals = assert(holdfast.on_signal("INT"))
      kill("INT")
      for _ = 1, 1000 do tostring(_) end
      print(signals:next())
      signals:close()
      kill("INT")
      for _ = 1, 1000 do tostring(_) end
      print("alive")
    ]])
    assert.are.equal("INT\t2\n", out)
    assert.matches("interrupted!", err, 1, true)
    assert.are.equal(1, status)
  end)

  it("calls a function while the program waits", function()
    local out = run([[
      local client = assert(holdfast.new())
      local heard
      local signals = holdfast.on_signal("TERM", "INT", function(name, number) heard = name .. number end)
      kill()
      print(heard)
      client:scheduler().sleep(0)
      client:scheduler().sleep(0.001)
      print(heard)
      signals:close()
    ]])
    assert.are.equal("nil\nTERM15\n", out)
  end)

  it("calls it in a wait that it has come before, and lets it out by an error", function()
    local out = run([[
      local server = assert(require("socket").bind("127.0.0.1", 0)) -- which never answers
      local client = assert(holdfast.new({ address = "127.0.0.1:" .. select(2, server:getsockname()), timeout = 60 }))
      local signals = holdfast.on_signal("TERM", function(name) error({ name }) end)
      kill()
      local ok, why = pcall(function() return client:call({ path = "/v1/status/leader" }) end)
      print(ok, why[1])
      signals:close()
      client:abandon()
    ]])
    assert.are.equal("false\tTERM\n", out)
  end)

  it("keeps calling it when nobody keeps the object", function()
    local out = run([[
      holdfast.on_signal("TERM", function(name) print(name) end)
      collectgarbage() collectgarbage()
      kill()
      holdfast.new():scheduler().sleep(0.001)
    ]])
    assert.are.equal("TERM\n", out)
  end)

  it("is heard by every object, and by a coroutine while others go on", function()
    local out = run([[
      local a, b = assert(holdfast.on_signal("TERM")), assert(holdfast.on_signal("TERM", "HUP"))
      loop.run(function()
        local done = 0
        for _, signals in ipairs({ a, b }) do
          loop.spawn(function() print((signals:next())) done = done + 1 end)
        end
        loop.sleep(0)
        kill()
        while done < 2 do loop.sleep(0) end
      end)
    ]])
    assert.are.equal("TERM\nTERM\n", out)
  end)

  it("gives a function a coroutine in the loop, where it may wait, and keeps no loop", function()
    local out = run([[
      local signals = holdfast.on_signal("TERM", function(name) loop.sleep(0.001) print(name) end)
      loop.run(function() kill() loop.sleep(0.01) print("end") end)
      signals:close()
      loop.run(function() end)
    ]])
    assert.matches("TERM", out, 1, true)
    assert.matches("end", out, 1, true)
  end)

  it("waits for one signal in the loop", function()
    local out, status = run([[
      loop.run(function()
        loop.spawn(function() print((loop.signal("TERM", "INT"))) end)
        loop.sleep(0)
        kill()
      end)
      io.stdout:flush()
      kill()
    ]])
    assert.are.equal("TERM\n", out)
    assert.are.equal(128 + 15, status)
  end)

  it("has what event loops ask for", function()
    local out = run([[
      local select = require("socket").select
      local signals = assert(holdfast.on_signal("TERM"))
      print(signals:events(), signals:timeout(), signals:dirty(), signals:getfd() == signals:pollfd())
      print(#select({ signals }, nil, 0))
      kill()
      print(select({ signals }, nil, 10)[1] == signals, (signals:next(0)))
    ]])
    assert.are.equal("r\tnil\tfalse\ttrue\n0\ntrue\tTERM\n", out)
  end)

  it("takes nothing from programs that are started", function()
    local out = run([[
      local signals = assert(holdfast.on_signal("TERM", "INT"))
      local pipe = io.popen("grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd | wc -l")
      local with = pipe:read("*a")
      pipe:close()
      signals:close()
      pipe = io.popen("grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd | wc -l")
      print(with == pipe:read("*a"))
      pipe:close()
    ]])
    assert.are.equal("true\n", out)
  end)

  it("raises for what is no signal, and says what cannot be heard", function()
    local holdfast = require("holdfast")
    for said, words in pairs({
      ['"NONSENSE" is not the name of a signal'] = { "NONSENSE" }, ["the name of a signal is missing"] = {},
      ["and is no number"] = { 15 }, ["and is no boolean"] = { { "TERM", true } },
    }) do
      local ok, message = pcall(holdfast.on_signal, (table.unpack or unpack)(words)) -- luacheck: ignore
      assert.is_false(ok)
      assert.matches(said, message, 1, true)
    end
    local ok, message = pcall(function() holdfast.on_signal("NONSENSE") end)
    assert.is_false(ok)
    assert.matches("signal_spec.lua:%d+: ", message)
    local signals, why, code = holdfast.on_signal("KILL")
    assert.are.same({ nil, "KILL cannot be heard", "INVALID" }, { signals, why, code })
  end)
end)
