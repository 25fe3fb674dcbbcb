-- Elections with the settings that Consul and holdfast are shipped with.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local core = require("holdfast.core")
local helper = require("spec.helper")

local HOLDERS = 12
local ELECTION = 40 -- seconds; it takes 16 to 19
-- A session ends after twice its TTL, its keys are free a lock-delay later; and then somebody has to notice.
local TAKEOVER, NOTICE = 2 * 10 + 25, 30

describe("with shipped settings", function()
  local killed, suspended -- clusters, and what is held there
  local takeover

  local function hold(follower, session)
    local client = helper.client({ address = follower:address(), session = session })
    local lock = client:lock(helper.unique_key())
    assert(lock:lock(30))
    return client, lock
  end

  -- A cluster, at one of whose followers the clients are: each of HOLDERS has a lock, and one more has another. That
  -- one's lease is longer than an election, its TTL is not.
  local function settle(cluster)
    local world = { cluster = cluster, follower = cluster:follower(), clients = {}, locks = {} }
    for i = 1, HOLDERS do world.clients[i], world.locks[i] = hold(world.follower) end
    world.leaving = select(2, hold(world.follower, { ttl = "10s", lock_delay = "25s" }))
    world.session = world.leaving:session()
    return world
  end

  -- Waits until a leader takes writes again, and then until every client has renewed its session.
  local function recover(world)
    world.follower:wait_ready(ELECTION)
    local before = {}
    for i, client in ipairs(world.clients) do before[i] = client:stats().renewals end
    world.renewed = pcall(helper.eventually, function()
      for i, client in ipairs(world.clients) do
        if client:stats().renewals <= before[i] then return false end
      end
      return true
    end, 10)
  end

  -- How many are held here, and on the server.
  local function held(world)
    local here, there = 0, 0
    for _, lock in ipairs(world.locks) do
      if lock:held() then
        here = here + 1
        if world.follower:ask(agent.holder, lock:key()) == lock:session() then there = there + 1 end
      end
    end
    return here, there
  end

  -- A process that holds a lock of the run's own agent is killed, and somebody waits for the lock.
  local function kill_a_holder()
    local key = helper.unique_key()
    local child = helper.spawn_lua([[
      local holdfast = require("holdfast")
      local lock = assert(assert(holdfast.new()):lock(os.getenv("KEY")))
      assert(lock:lock(30))
      print("locked") io.stdout:flush()
      while true do require("socket").sleep(10) end
    ]], { KEY = key })
    assert(child:read_line() == "locked")
    local lock = helper.client():lock(key)
    local op = assert(lock:start_lock())
    child:kill("KILL")
    return { at = core.now(), lock = lock, op = op }
  end

  setup(function()
    takeover = kill_a_holder()
    local one, two = helper.cluster({ wait = false }), helper.cluster({ wait = false })
    one:heal()
    two:heal()
    killed, suspended = settle(one), settle(two)
    killed.cluster:leader():kill()
    suspended.cluster:leader():suspend()
    for _, world in ipairs({ killed, suspended }) do world.op = assert(world.leaving:start_unlock(0.5)) end
    recover(killed)
    recover(suspended)
  end)

  teardown(function()
    killed, suspended, takeover = nil, nil, nil
    helper.finish()
  end)

  local function loses_nothing(world)
    assert.are.same({ HOLDERS, HOLDERS }, { held(world) })
    assert.is_true(world.renewed)
  end

  local function gives_back(world)
    local heir = helper.client({ address = world.follower:address() }):lock(world.leaving:key())
    assert.is_true(heir:lock(helper.seconds(10)))
    -- It has not been freed by the end of the session, which comes when the lease is over.
    assert.is_not_nil(world.follower:ask(consul.session.info, world.session))
  end

  it("no lock is lost when the leader is killed (9)", function() loses_nothing(killed) end)

  it("no lock is lost when the leader is suspended (9)", function() loses_nothing(suspended) end)

  it("an unlock is carried out as soon as there is a leader again after one was killed (14)", function()
    gives_back(killed)
  end)

  it("an unlock is carried out as soon as there is a leader again after one was suspended (14)", function()
    gives_back(suspended)
  end)

  it("the lock of a process that was killed is another's when its lease must be over (9)", function()
    local took = takeover.op:wait(math.max(takeover.at + TAKEOVER + NOTICE - core.now(), 1))
    assert.is_true(took and takeover.op:result())
    assert.is_true(takeover.lock:held())
  end)
end)
