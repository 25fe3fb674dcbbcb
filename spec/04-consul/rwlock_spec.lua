-- Read-write locks: many readers or one writer, in the order in which they came.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local helper = require("spec.helper")
local loop = require("holdfast.loop")
local sched = require("holdfast.sched.plain")

local code_of = agent.code_of

local WRITER = [[
local holdfast = require("holdfast")
local client = assert(holdfast.new({ session = { name = os.getenv("KEY"), lock_delay = "3s" } }))
local lock = assert(client:rwlock(os.getenv("KEY"))):write()
assert(lock:lock())
print(lock:session())
io.stdout:flush()
local reason = lock:wait_lost(60) -- the end of the session, or what is found when it goes on
print(tostring(lock:held()), reason)
]]

describe("a read-write lock", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  local function contenders() return consul.kv.keys(key .. "/.rw/") end

  local function wait_for_contenders(n)
    helper.eventually(function() return #contenders() == n, #contenders() .. " contenders" end, 10)
  end

  local function rwlock(options)
    return assert(helper.client(options):rwlock(key))
  end

  it("is held by many readers, or by one writer", function()
    local one, other = rwlock(), rwlock()
    local readers = { one:read(), one:read(), other:read() }
    local writers = { one:write(), other:write() }
    for _, reader in ipairs(readers) do assert(reader:lock()) end
    for _, writer in ipairs(writers) do assert.are.equal("TIMEOUT", code_of(writer:lock(0))) end
    for _, reader in ipairs(readers) do
      assert.is_true(reader:held())
      assert.is_true(reader:token() > 0)
      assert.is_true(reader:unlock())
    end
    assert(writers[1]:lock())
    assert.are.equal("TIMEOUT", code_of(writers[2]:lock(0)))
    assert.are.equal("TIMEOUT", code_of(readers[1]:lock(0.1)))
    assert.are.equal("TIMEOUT", code_of(readers[3]:lock(0.1)))
    assert.is_true(writers[1]:unlock())
    assert.is_true(readers[3]:lock(0))
    assert(readers[3]:unlock())
    wait_for_contenders(0)
  end)

  it("lets a reader that comes after a writer wait until the writer has had it", function()
    local lock = rwlock({ scheduler = "loop" })
    local first, writer, second = lock:read(), lock:write(), rwlock({ scheduler = "loop" }):read()
    local order = {}
    local function start(face, name)
      loop.spawn(function()
        assert(face:lock(helper.seconds(20)))
        order[#order + 1] = name
        assert(face:unlock())
      end)
    end
    loop.run(function()
      assert(first:lock())
      start(writer, "writer")
      wait_for_contenders(2)
      start(second, "reader")
      wait_for_contenders(3)
      assert.are.same({}, order)
      assert(first:unlock())
    end)
    assert.are.same({ "writer", "reader" }, order)
  end)

  it("gives writers tokens that rise", function()
    local one, other = rwlock():write(), rwlock():write()
    local last = 0
    for _ = 1, 3 do
      for _, writer in ipairs({ one, other }) do
        assert(writer:lock())
        assert.is_true(writer:token() > last)
        last = writer:token()
        assert(writer:unlock())
      end
    end
  end)

  it("gives a place at the end to who had it and has died", function()
    local dead, waiting = rwlock({ session = { lock_delay = "1s" }, scheduler = "loop" }):write(),
      rwlock({ scheduler = "loop" }):write()
    loop.run(function()
      assert(dead:lock())
      local tokens = {}
      loop.spawn(function()
        assert(waiting:lock(helper.seconds(20)))
        tokens[#tokens + 1] = waiting:token()
        assert(waiting:unlock())
      end)
      wait_for_contenders(2)
      consul.session.destroy(dead:session())
      assert.are.equal("session", dead:wait_lost(helper.seconds(5)))
      assert(dead:lock(helper.seconds(20)))
      tokens[#tokens + 1] = dead:token()
      assert(dead:unlock())
      helper.eventually(function() return #tokens == 2 end, 10)
      assert.is_true(tokens[2] > tokens[1])
    end)
    wait_for_contenders(0)
  end)

  it("is cleared of readers that have died by those that come, one by one", function()
    local dead = {}
    for i = 1, 2 do
      dead[i] = rwlock({ session = { lock_delay = 0 } }):read()
      assert(dead[i]:lock(helper.seconds(10)))
    end
    for i = 1, 2 do
      consul.session.destroy(dead[i]:session())
      assert.are.equal("session", dead[i]:wait_lost(helper.seconds(10)))
    end
    assert.are.equal(2, #contenders())
    local reader = rwlock():read()
    for left = 1, 0, -1 do
      assert(reader:lock(helper.seconds(10)))
      assert.are.equal(left + 1, #contenders()) -- and its own
      assert(reader:unlock())
    end
  end)

  it("is not had by the next one before the lock-delay of a dead writer is over", function()
    local writer = rwlock({ session = { lock_delay = "3s" } }):write()
    assert(writer:lock())
    local next_one = rwlock():read()
    local at = core.now()
    consul.session.destroy(writer:session())
    local _, message = next_one:lock(0)
    assert.are.equal("TIMEOUT", code_of(nil, message, select(3, next_one:lock(0))))
    assert.is_true(next_one:lock(helper.seconds(6)))
    assert.is_true(core.now() - at >= 3)
    assert.are.equal(1, #contenders()) -- the dead one's key is gone
  end)

  it("is not had by a dead reader's side of a writer either", function()
    local reader = rwlock({ session = { lock_delay = "3s" } }):read()
    assert(reader:lock())
    local others = rwlock()
    local at = core.now()
    consul.session.destroy(reader:session())
    local second, writer = others:read(), others:write()
    assert.is_true(second:lock(0)) -- readers do not wait for readers
    assert(second:unlock())
    assert.is_true(writer:lock(helper.seconds(6)))
    assert.is_true(core.now() - at >= 3)
  end)

  it("is no longer held by a writer that was stopped, when the next one has it", function()
    local child = helper.spawn_lua(WRITER, { KEY = key })
    local session = assert(child:read_line())
    child:kill("STOP")
    consul.session.destroy(session)
    local writer = rwlock():write()
    assert.is_true(writer:lock(helper.seconds(10)))
    child:kill("CONT")
    local said = assert(child:read_line())
    assert.is_true(said == "false\tsession" or said == "false\tdeadline", said)
    assert.are.equal(0, (child:wait()))
    assert.is_true(writer:held())
  end)

  it("and a plain lock are a CONFLICT on one key", function()
    local client = helper.client()
    local lock, plain = assert(client:rwlock(key)), assert(client:lock(key))
    assert(lock:read():lock())
    assert.are.equal("CONFLICT", code_of(plain:lock()))
    local other = key .. "/other"
    assert(assert(client:lock(other)):lock())
    local writer = assert(client:rwlock(other)):write()
    assert.are.equal("CONFLICT", code_of(writer:lock()))
    helper.eventually(function() return #consul.kv.keys(other .. "/.rw/") == 0 end)
  end)

  it("leaves nothing when its time is up, it is canceled, or its client ends", function()
    local holder = rwlock():write()
    assert(holder:lock())
    assert.are.equal("TIMEOUT", code_of(rwlock():write():lock(0.2)))
    wait_for_contenders(1)
    local client = helper.client({ scheduler = "loop" })
    local canceled, closed = assert(client:rwlock(key)):read(), assert(client:rwlock(key)):write()
    local codes = {}
    loop.run(function()
      loop.spawn(function() codes[1] = code_of(canceled:lock(helper.seconds(30))) end)
      loop.spawn(function() codes[2] = code_of(closed:lock(helper.seconds(30))) end)
      wait_for_contenders(3)
      assert.are.equal("HELD", code_of(canceled:lock())) -- by another call on this object
      assert.is_false(canceled:held())
      canceled:cancel()
      helper.eventually(function() return codes[1] end)
      wait_for_contenders(2)
      client:close()
      helper.eventually(function() return codes[2] end)
    end)
    assert.are.same({ "CANCELED", "CLOSED" }, codes)
    wait_for_contenders(1)
  end)

  it("can be taken again after an error in a wait, such as Ctrl-C", function()
    local scheduler, broken = {}, true
    for name, value in pairs(sched) do scheduler[name] = value end
    function scheduler.wait(...)
      if broken then error("interrupted!") end
      return sched.wait(...)
    end
    local lock = rwlock({ scheduler = scheduler }):write()
    assert.is_false((pcall(lock.lock, lock)))
    broken = false
    assert.is_true(lock:lock(helper.seconds(10)))
    assert.is_true(lock:unlock())
  end)

  it("is not destroyed once its client is closed", function()
    local client = helper.client()
    local writer = assert(client:rwlock(key)):write()
    client:close()
    assert.are.equal("CLOSED", code_of(writer:destroy()))
  end)

  it("is lost with its session, and guards requests", function()
    local writer = rwlock():write()
    local req = { url = "http://" .. consul.address() .. "/v1/status/leader" }
    assert.are.equal("NOT_HELD", code_of(writer:request(req)))
    assert.are.equal("NOT_HELD", code_of(writer:unlock()))
    assert.are.equal("NOT_HELD", code_of(writer:wait_lost(0)))
    assert(writer:lock())
    assert.are.equal("HELD", code_of(writer:lock()))
    assert.are.equal(200, assert(writer:request(req)).status)
    assert.is_false(writer:lost())
    consul.session.destroy(writer:session())
    assert.are.equal("session", writer:wait_lost(helper.seconds(5)))
    assert.are.same({ true, "session" }, { writer:lost() })
    assert.are.equal("LOST", code_of(writer:request(req)))
    assert.are.equal(key, writer:key())
    assert.matches("lost", tostring(writer))
  end)

  it("is destroyed when nobody uses it", function()
    local lock = rwlock()
    local reader, writer = lock:read(), lock:write()
    assert(reader:lock())
    assert.are.equal("HELD", code_of(reader:destroy()))
    assert.are.equal("IN_USE", code_of(writer:destroy()))
    assert(reader:unlock())
    assert.is_true(writer:destroy())
    assert.is_true(writer:destroy())
    assert.are.same({}, consul.kv.keys(key))
    assert.is_true(assert(helper.client():lock(key)):lock(0))
  end)

  it("refuses sessions whose keys go with them", function()
    local client = helper.client()
    local function refused(of, options)
      options.key = key
      assert.are.equal("INVALID", code_of(of:rwlock(options)))
    end
    refused(client, { session_opts = { behavior = "delete" } })
    refused(helper.client({ session = { behavior = "delete" } }), {})
    local session = helper.session({ Behavior = "delete" })
    local lock = assert(client:rwlock({ key = key, session = session }))
    assert.are.equal("INVALID", code_of(lock:read():lock()))
    assert.has_error(function() client:rwlock({ key = key, value = "v" }) end)
  end)

  it("works through a session made elsewhere, and one of its own", function()
    local client, session = helper.client(), helper.session()
    local reader = assert(client:rwlock({ key = key, session = session })):read()
    assert(reader:lock())
    assert.are.equal(session, reader:session())
    assert(reader:unlock())
    local writer = assert(client:rwlock({ key = key, session_ttl = "10s" })):write()
    assert(writer:lock())
    assert(writer:unlock())
    wait_for_contenders(0)
  end)
end)
