-- Elections: who leads, who is told, and who can read it.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

local code_of = agent.code_of

describe("an election", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  local function client(options)
    local given = { scheduler = "loop", session = { lock_delay = "1s" } }
    for name, value in pairs(options or {}) do given[name] = value end
    return helper.client(given)
  end

  -- A candidate that notes what it is told.
  local function candidate(of, name, told)
    return assert(of:elect(key, {
      value = name,
      on_gain = function(lock)
        assert(lock:held())
        told[#told + 1] = name .. " leads"
      end,
      on_lose = function(reason) told[#told + 1] = name .. " " .. reason end,
    }))
  end

  describe("in a loop", function()
    it("has one leader, whom everybody sees, and another one when that resigns", function()
      local told, one, other = {}, client(), client()
      loop.run(function()
        local first = candidate(one, "first", told)
        helper.eventually(function() return told[1] end)
        local second = candidate(other, "second", told)
        assert.is_true(first:leading())
        assert.is_false((second:leading()))
        local value, session = second:leader()
        assert.are.same({ "first", agent.holder(key) }, { value, session })
        assert.is_true(first:resign())
        helper.eventually(function() return told[3] end)
        assert.are.same({ "first leads", "first released", "second leads" }, told)
        assert.are.same({ "second", agent.holder(key) }, { first:leader() })
        assert.is_false((first:leading()))
        assert(second:resign())
        assert.are.equal("NOT_FOUND", code_of(first:leader()))
      end)
      assert.are.equal("second released", told[4])
      assert.is_nil(agent.holder(key))
    end)

    it("is won again after a loss", function()
      local told = {}
      loop.run(function()
        local election = candidate(client(), "it", told)
        helper.eventually(function() return told[1] end)
        consul.session.destroy(agent.holder(key))
        helper.eventually(function() return told[3] end, 10)
        assert.are.same({ "it leads", "it session", "it leads" }, told)
        assert(election:resign())
      end)
    end)

    it("lets on_gain go on for as long as it leads, and longer", function()
      local begun, reason, ended
      loop.run(function()
        local election
        election = assert(client():elect(key, {
          on_gain = function(lock)
            begun = true
            lock:wait_lost()
            helper.eventually(function() return reason end)
            ended = true
          end,
          on_lose = function(why) reason = why end,
        }))
        helper.eventually(function() return begun end)
        assert(election:resign())
      end)
      assert.are.same({ "released", true }, { reason, ended })
    end)

    it("ends when on_gain fails: the key is given back, and the error comes out of the loop", function()
      local reason
      local ok, message = pcall(loop.run, function()
        assert(client():elect(key, { on_gain = function() error("cannot lead") end,
          on_lose = function(why) reason = why end }))
      end)
      assert.is_false(ok)
      assert.matches("cannot lead", message)
      assert.are.equal("released", reason)
      assert.is_nil(agent.holder(key))
    end)

    it("ends when on_lose fails", function()
      local begun
      local ok, message = pcall(loop.run, function()
        local election = assert(client():elect(key, { on_gain = function() begun = true end,
          on_lose = function() error("cannot stop") end }))
        helper.eventually(function() return begun end)
        assert(election:resign())
      end)
      assert.is_false(ok)
      assert.matches("cannot stop", message)
    end)

    it("ends with its client", function()
      local told, of = {}, client()
      loop.run(function()
        local election = candidate(of, "it", told)
        helper.eventually(function() return told[1] end)
        of:close()
        helper.eventually(function() return told[2] end)
        assert.is_false((election:leading()))
        assert.are.equal("CLOSED", code_of(election:leader()))
      end)
      assert.are.same({ "it leads", "it closed" }, told)
    end)

    it("ends when a candidate resigns that has not led", function()
      local told, holder = {}, assert(client():lock(key))
      loop.run(function()
        assert(holder:lock())
        local at_once = candidate(client(), "at once", told)
        assert.is_true(at_once:resign())
        local later = candidate(client(), "later", told)
        loop.sleep(0.01)
        assert.is_true(later:resign())
        assert.is_true(later:resign())
      end)
      assert.are.same({}, told)
    end)

    it("goes on when it is refused, and says why", function()
      local told = {}
      assert(consul.kv.put(key, "semaphore", { flags = agent.SEMAPHORE_FLAGS }))
      loop.run(function()
        local election = candidate(client(), "it", told)
        helper.eventually(function() return select(2, election:leading()) end)
        assert.matches("not used as", select(2, election:leading()))
        assert.are.equal("CONFLICT", code_of(election:leader()))
        assert(consul.kv.delete(key))
        helper.eventually(function() return told[1] end, 10)
        assert(election:resign())
      end)
    end)

    it("is waited for by a read that blocks", function()
      local proxy, told = helper.proxy(), {}
      local follower = assert(client({ address = proxy:address(), scheduler = "plain" }):elect(key))
      assert(consul.kv.put(key, "", { flags = agent.LOCK_FLAGS })) -- waits without being woken by other keys
      assert.are.equal("TIMEOUT", code_of(follower:wait_leader(0.2)))
      proxy:forget()
      local waiting = assert(client({ address = proxy:address() }):elect(key))
      waiting:resign()
      loop.run(function()
        local value, session
        loop.spawn(function() value, session = waiting:wait_leader(helper.seconds(20)) end)
        helper.eventually(function() return proxy:count("^GET /v1/kv/.*index=") > 0 end)
        local election = candidate(client(), "it", told)
        helper.eventually(function() return value end)
        assert.are.same({ "it", agent.holder(key) }, { value, session })
        assert.is_true(proxy:count("^GET /v1/kv/") <= 3, proxy:count("^GET /v1/kv/") .. " reads")
        assert(election:resign())
      end)
    end)
  end)

  describe("without a loop", function()
    it("is run for a time", function()
      local told, of = {}, client({ scheduler = "plain" })
      local election = candidate(of, "it", told)
      assert.are.equal("NOT_FOUND", code_of(election:leader()))
      helper.eventually(function()
        assert.is_true(election:run(0.3))
        return told[1]
      end)
      assert.are.same({ "it leads", "it released" }, told)
      assert.is_nil(agent.holder(key))
    end)

    it("is run until it resigns", function()
      local of, count = client({ scheduler = "plain" }), 0
      local election
      election = assert(of:elect(key, { on_gain = function()
        count = count + 1
        assert.are.equal("HELD", code_of(election:run()))
        assert(election:resign())
      end }))
      assert.is_true(election:run())
      assert.is_true(election:run())
      assert.are.equal(2, count)
    end)

    it("raises what on_gain raises, and gives the key back", function()
      local election = assert(client({ scheduler = "plain" }):elect(key, { on_gain = function() error("cannot") end }))
      local ok, message = pcall(election.run, election)
      assert.is_false(ok)
      assert.matches("cannot", message)
      assert.is_nil(agent.holder(key))
    end)

    it("is lost to whoever holds the key, in whatever program", function()
      local election = assert(client({ scheduler = "plain" }):elect(key, { value = "it" }))
      local session = agent.occupy(key)
      assert.are.same({ "elsewhere", session }, { election:leader() })
      assert.are.same({ "elsewhere", session }, { election:wait_leader(0) })
      assert.is_true(election:run(0.1))
      assert.are.equal(session, agent.holder(key))
    end)
  end)

  it("refuses what it cannot use", function()
    local of = client()
    assert.has_error(function() of:elect(key, { on_gain = true }) end)
    assert.has_error(function() of:elect(key, { key = key }) end)
    assert.has_error(function() of:elect(key, { on_win = print }) end)
    assert.has_error(function() of:elect(key, "leader") end)
    assert.are.equal("INVALID", code_of(of:elect("/k")))
  end)
end)
