-- Fair locks: who waits is served in the order in which all came.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local loop = require("holdfast.loop")
local sched = require("holdfast.sched.loop")

local code_of = agent.code_of

local PROCESSES, WAITERS, HANDOVERS = 8, 100, 5
local TICKET_FLAGS = "114788930253425"
local LINE = "\"Verb\":\"get%-tree\"" -- a look at a line

-- Takes the lock, says its token, and gives it back.
local CHILD = [[
local holdfast = require("holdfast")
local client = assert(holdfast.new({ session = { name = os.getenv("NAME") } }))
local lock = assert(client:lock({ key = os.getenv("KEY"), fair = true }))
assert(lock:lock())
print(("%d"):format(lock:token()))
io.stdout:flush()
assert(lock:unlock())
client:close()
]]

describe("a fair lock", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  local function tickets() return consul.kv.keys(key .. "/.fair/") end

  local function wait_for_tickets(n)
    helper.eventually(function() return #tickets() == n, #tickets() .. " tickets" end, 10)
  end

  local function fair(client) return assert(client:lock({ key = key, fair = true })) end

  -- A ticket that is first in line, of a session made elsewhere.
  local function ticket_elsewhere(id)
    local session = helper.session({ LockDelay = "0s" })
    assert(consul.kv.put(key .. "/.fair/" .. (id or "elsewhere"), "", { acquire = session, flags = TICKET_FLAGS }))
    return session
  end

  -- Processes that wait for it, one after the other: the next one begins when this one's ticket is there.
  local function start_waiters(n)
    local children = {}
    for i = 1, n do
      children[i] = helper.spawn_lua(CHILD, { KEY = key, NAME = key })
      wait_for_tickets(i)
    end
    return children
  end

  local function end_session_of(name)
    local pair = assert(consul.kv.get(name))
    consul.session.destroy(pair.Session)
  end

  it("is held in the order in which eight processes came", function()
    local lock = fair(helper.client())
    assert(lock:lock())
    local children = start_waiters(PROCESSES)
    assert(lock:unlock())
    local last = 0
    for i, child in ipairs(children) do
      local token = tonumber(child:read_line())
      assert.is_true(token > last, ("process %d was served before process %d"):format(i, i - 1))
      last = token
      assert.are.equal(0, child:wait())
    end
    wait_for_tickets(0)
  end)

  it("goes on without one that was killed in the middle of the line", function()
    local lock = fair(helper.client())
    local function ticket_of_the_last(known)
      for _, name in ipairs(tickets()) do
        if not known[name] then return name end
      end
    end
    assert(lock:lock())
    local first, known = start_waiters(1)[1], {}
    known[tickets()[1]] = true
    local second = helper.spawn_lua(CHILD, { KEY = key, NAME = key })
    wait_for_tickets(2)
    local dead = ticket_of_the_last(known)
    local third = helper.spawn_lua(CHILD, { KEY = key, NAME = key })
    wait_for_tickets(3)
    second:kill("KILL")
    assert.are.equal(128 + 9, second:wait())
    end_session_of(dead) -- as its TTL would
    wait_for_tickets(2)  -- the one behind it has deleted its ticket
    assert(lock:unlock())
    local token = tonumber(first:read_line())
    assert.is_true(tonumber(third:read_line()) > token)
    assert.are.same({ 0, 0 }, { (first:wait()), (third:wait()) })
    wait_for_tickets(0)
  end)

  it("and a plain one exclude each other", function()
    local client, other = helper.client({ scheduler = "loop" }), helper.client({ scheduler = "loop" })
    local first, plain = fair(client), assert(other:lock(key))
    loop.run(function()
      assert(plain:lock())
      assert.are.equal("TIMEOUT", code_of(first:lock(0)))
      local took
      loop.spawn(function() took = first:lock(helper.seconds(10)) end)
      wait_for_tickets(1)
      assert.is_nil(took)
      assert(plain:unlock())
      helper.eventually(function() return took end)
      assert.are.equal("TIMEOUT", code_of(plain:lock(0)))
      assert(first:unlock())
      assert.is_true(plain:lock(helper.seconds(5)))
    end)
    wait_for_tickets(0)
  end)

  it("needs no ticket when nobody waits", function()
    local proxy = helper.proxy()
    local lock = fair(helper.client({ address = proxy:address() }))
    assert(lock:lock())
    assert(lock:unlock())
    assert.is_true(lock:lock(0))
    assert.are.equal(2, proxy:count("^PUT /v1/txn") - 3) -- two looks; lock, unlock, lock
    for _, entry in ipairs(proxy:log("^PUT /v1/txn")) do
      assert.is_nil(entry.body:find("/.fair/%x"))
    end
  end)

  -- What a hand-over costs, by what is written and how often the line is looked at. The reads by which all others are
  -- watched are the same however many hand-overs there are.
  it("wakes one of a hundred at a time", function()
    local proxy = helper.proxy()
    local client = helper.client({ address = proxy:address(), scheduler = "loop" })
    local locks, order, go = {}, {}, 0
    loop.run(function()
      local first = fair(client)
      assert(first:lock())
      for i = 1, WAITERS do
        locks[i] = fair(client)
        loop.spawn(function()
          local ok, _, code = locks[i]:lock(helper.seconds(30))
          if not ok then return assert.are.equal("CANCELED", code) end
          order[#order + 1] = i
          helper.eventually(function() return go >= #order end, 20)
          assert(locks[i]:unlock())
        end)
      end
      wait_for_tickets(WAITERS)
      -- Each has found the one before it: two looks at the line, the first and that.
      local function looks()
        local count = 0
        for _, entry in ipairs(proxy:log("^PUT /v1/txn")) do
          if entry.body:find(LINE) then count = count + 1 end
        end
        return count
      end
      helper.eventually(function() return looks() >= 1 + 2 * WAITERS end, 20)
      local before = looks()
      assert(first:unlock())
      for i = 1, HANDOVERS do
        helper.eventually(function() return #order == i end, 20)
        wait_for_tickets(WAITERS - i)
        go = i
      end
      helper.eventually(function() return #order == HANDOVERS + 1 end, 20)
      assert.is_true(looks() - before <= 2 * (HANDOVERS + 1), looks() - before .. " looks")
      for _, lock in ipairs(locks) do lock:cancel() end
      go = WAITERS
    end)
    assert.are.equal(HANDOVERS + 1, #order)
    wait_for_tickets(0)
  end)

  describe("with others before it", function()
    it("is not taken by one try, though it is free", function()
      local session = ticket_elsewhere()
      local ok, message, code = fair(helper.client()):lock(0)
      assert.are.same({ nil, "TIMEOUT" }, { ok, code })
      assert.matches(session, message, 1, true)
      assert.are.equal(1, #tickets())
    end)

    it("answers TIMEOUT when its time is up, and says who was there, and leaves nothing", function()
      local session = ticket_elsewhere()
      local ok, message, code = fair(helper.client()):lock(0.2)
      assert.are.same({ nil, "TIMEOUT" }, { ok, code })
      assert.matches(session, message, 1, true)
      wait_for_tickets(1)
    end)

    it("is taken when they have gone, and what they left is deleted", function()
      local session = ticket_elsewhere()
      local lock = fair(helper.client({ scheduler = "loop" }))
      loop.run(function()
        local took
        loop.spawn(function() took = lock:lock(helper.seconds(10)) end)
        wait_for_tickets(2)
        assert.is_nil(took)
        consul.session.destroy(session)
        helper.eventually(function() return took end)
      end)
      wait_for_tickets(0)
    end)

    it("is canceled at once, and leaves nothing", function()
      ticket_elsewhere()
      local lock = fair(helper.client({ scheduler = "loop" }))
      loop.run(function()
        local code
        loop.spawn(function() code = code_of(lock:lock(helper.seconds(30))) end)
        wait_for_tickets(2)
        assert.are.equal("HELD", code_of(lock:lock())) -- by another call on this object
        lock:cancel()
        helper.eventually(function() return code end)
        assert.are.equal("CANCELED", code)
        assert.is_false(lock:held())
        wait_for_tickets(1)
      end)
    end)

    it("ends with its client, and leaves nothing", function()
      ticket_elsewhere()
      local client = helper.client({ scheduler = "loop" })
      local lock = fair(client)
      loop.run(function()
        local code
        loop.spawn(function() code = code_of(lock:lock(helper.seconds(30))) end)
        wait_for_tickets(2)
        client:close()
        helper.eventually(function() return code end)
        assert.are.equal("CLOSED", code)
      end)
      wait_for_tickets(1)
    end)

    it("leaves nothing when the wait is interrupted by an error", function()
      ticket_elsewhere()
      local interrupted = false
      local adapter = { sleep = sched.sleep, spawn = sched.spawn, now = sched.now }
      function adapter.wait(waitable, seconds)
        local done, message, code = sched.wait(waitable, seconds or 0.05)
        if not done and interrupted then error("interrupted", 0) end
        return done, message, code
      end
      local lock = fair(helper.client({ scheduler = adapter }))
      loop.run(function()
        local ok, message
        loop.spawn(function() ok, message = loop.pcall(lock.lock, lock, helper.seconds(30)) end)
        wait_for_tickets(2)
        interrupted = true
        helper.eventually(function() return message end)
        assert.are.same({ false, "interrupted" }, { ok, message })
        interrupted = false
        wait_for_tickets(1)
      end)
    end)

    it("takes another place when its session has ended", function()
      local session = ticket_elsewhere()
      local lock = fair(helper.client({ scheduler = "loop" }))
      loop.run(function()
        local took
        loop.spawn(function() took = lock:lock(helper.seconds(20)) end)
        wait_for_tickets(2)
        for _, name in ipairs(tickets()) do
          if not name:find("elsewhere") then end_session_of(name) end
        end
        consul.session.destroy(session)
        helper.eventually(function() return took end, 10)
        assert(lock:unlock())
      end)
      wait_for_tickets(0)
    end)
  end)

  it("outlasts trouble", function()
    local proxy = helper.proxy()
    local lock = fair(helper.client({ address = proxy:address() }))
    proxy:rule({ match = "^PUT /v1/txn", times = 2, status = 500, body = "No cluster leader" })
    assert.is_true(lock:lock(helper.seconds(10)))
  end)

  it("can be taken again after an error in a wait, such as Ctrl-C", function()
    local scheduler, broken = {}, true
    for name, value in pairs(sched) do scheduler[name] = value end
    scheduler.blocking = true
    function scheduler.wait(...)
      if broken then error("interrupted!") end
      return sched.wait(...)
    end
    local lock = fair(helper.client({ scheduler = scheduler }))
    assert.is_false((pcall(lock.lock, lock)))
    broken = false
    assert.is_true(lock:lock(helper.seconds(10)))
  end)

  it("is HELD for who has it", function()
    local lock = fair(helper.client())
    assert(lock:lock())
    assert.are.equal("HELD", code_of(lock:lock()))
    assert.are.equal("HELD", code_of(lock:lock(0)))
    assert.is_true(lock:held())
  end)

  it("is a CONFLICT on a key that is used for something else", function()
    assert(consul.kv.put(key, "semaphore", { flags = agent.SEMAPHORE_FLAGS }))
    assert.are.equal("CONFLICT", code_of(fair(helper.client()):lock()))
    assert.are.same({}, tickets())
  end)

  it("works with with_lock", function()
    local client = helper.client()
    assert.are.equal("done", client:with_lock({ key = key, fair = true }, function(lock)
      assert.is_true(lock:held())
      return "done"
    end))
    assert.is_nil(agent.holder(key))
  end)

  it("is refused for a key without room for tickets", function()
    local client = helper.client()
    local long = ("k"):rep(65536 - #"/.fair/0123456789abcdef")
    assert(client:lock({ key = long, fair = true }))
    assert.are.equal("TOO_LARGE", code_of(client:lock({ key = long .. "k", fair = true })))
    assert(client:lock(long .. "k"))
    assert.are.equal("INVALID", code_of(client:lock({ key = "k/", fair = true })))
  end)
end)
