-- What a client tells of what goes on, with a real agent.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

describe("a client's log", function()
  local key, said, proxy
  before_each(function()
    key, said, proxy = helper.unique_key(), {}, helper.proxy()
  end)
  after_each(helper.finish)

  local function client_with(options)
    options = options or {}
    options.address = proxy:address()
    options.log = function(level, message, fields)
      said[#said + 1] = fields
      fields.level, fields.message = level, message
    end
    return helper.client(options)
  end

  -- The first event of a kind; or nil.
  local function heard(event)
    for _, fields in ipairs(said) do
      if fields.event == event then return fields end
    end
  end

  local function count(event)
    local n = 0
    for _, fields in ipairs(said) do n = n + (fields.event == event and 1 or 0) end
    return n
  end

  -- Waits as a caller of the client does, with something that takes no time, until it is heard of.
  local function hear(client, event)
    return helper.eventually(function()
      client:scheduler().sleep(0)
      return heard(event)
    end)
  end

  it("hears that a session is made, and nothing of what its user does himself", function()
    local client = client_with({ session = { ttl = "12s", lock_delay = "3s" } })
    local lock = assert(client:lock(key))
    assert(lock:lock())
    local made = heard("session_made")
    assert.are.same({ "INFO", lock:session(), 12, 3 }, { made.level, made.session, made.ttl, made.lock_delay })
    assert(lock:unlock())
    assert(lock:lock())
    client:close()
    assert.are.equal(1, #said)
  end)

  it("hears of every lock that is lost, with key, token and reason", function()
    local client = client_with()
    local one, two = assert(client:lock(key .. "/1")), assert(client:lock(key .. "/2"))
    assert(one:lock())
    assert(two:lock())
    local id, token = one:session(), one:token()
    consul.session.destroy(id)
    assert.are.equal("session", one:wait_lost(helper.seconds(5)))
    local session, lock = hear(client, "session_lost"), hear(client, "lock_lost")
    assert.are.same({ "ERROR", id, "session" }, { session.level, session.session, session.reason })
    assert.are.same({ "ERROR", id, "session", key .. "/1", token },
      { lock.level, lock.session, lock.reason, lock.key, lock.token })
    assert.are.equal(2, count("lock_lost"))
  end)

  it("does not hear of a session that is destroyed here as of one that is lost, but of its locks", function()
    local client = client_with()
    local session = assert(client:session())
    local lock = assert(client:lock({ key = key, session = session }))
    assert(lock:lock())
    assert(session:destroy())
    assert.is_nil(heard("session_lost"))
    assert.are.equal("session", heard("lock_lost").reason)
  end)

  it("hears once that there is no answer, and once that there is again", function()
    local client = client_with()
    local lock = assert(client:lock(key))
    assert(lock:lock())
    proxy:rule({ action = "close" })
    assert.is_not_nil(agent.code_of(client:lock(key .. "/2"):lock(0)))
    local trouble = hear(client, "trouble")
    assert.are.equal("WARN", trouble.level)
    assert.is_string(trouble.code)
    assert.is_nil(heard("trouble_over"))
    proxy:clear()
    assert.is_true(hear(client, "trouble_over").lasted >= 0)
    assert.is_true(lock:held())
  end)

  it("hears that a session is not renewed, why, and that it is again", function()
    local client = client_with({ session = { ttl = "6s", lock_delay = "12s" } })
    local session = assert(client:session())
    proxy:rule({ match = "^PUT /v1/session/renew", status = 500, body = "No cluster leader", times = 2 })
    local failed = hear(client, "session_not_renewed")
    assert.are.same({ "WARN", session:id(), "HTTP" }, { failed.level, failed.session, failed.code })
    assert.matches("No cluster leader", failed.message, 1, true)
    assert.are.equal(session:id(), hear(client, "session_renewed").session)
    assert.are.equal(1, count("session_not_renewed"))
    assert.is_nil(heard("trouble")) -- there were answers
  end)

  it("hears in the server's words why a session cannot be made", function()
    local client = client_with({ session = { ttl = "1ms" } })
    assert.are.equal("SESSION", agent.code_of(client:lock(key):lock()))
    local fields = heard("session_not_made")
    assert.are.same({ "WARN", "SESSION" }, { fields.level, fields.code })
    assert.matches("Invalid Session TTL", fields.message, 1, true)
  end)

  it("hears of options that give up the protection, once", function()
    local client = client_with()
    assert(client:lock({ key = key, lock_delay = 0 }))
    assert(client:session({ lock_delay = "0.5s" }))
    assert.are.equal(1, count("unsafe_option"))
    client_with({ session = { lock_delay = 0 } })
    assert.are.equal(2, count("unsafe_option"))
  end)

  it("hears while somebody waits", function()
    local other, lock = helper.client():lock(key), nil
    assert(other:lock())
    local client = helper.client({ log = function(_, _, fields)
      if fields.event == "lock_lost" then lock:cancel() end -- else it would wait for ever
    end })
    lock = assert(client:lock(key))
    local held = assert(client:lock(key .. "/held"))
    assert(held:lock())
    consul.session.destroy(held:session())
    assert.are.equal("CANCELED", agent.code_of(lock:lock()))
    lock = nil -- which the log refers to, and with it the client
  end)

  it("hears in a loop too", function()
    local client = client_with({ scheduler = "loop" })
    loop.run(function()
      local lock = assert(client:lock(key))
      assert(lock:lock())
      loop.spawn(function() assert.are.equal("session", lock:wait_lost(helper.seconds(5))) end)
      consul.session.destroy(lock:session())
    end)
    hear(client, "lock_lost")
    assert.are.equal(1, count("lock_lost"))
  end)

  it("breaks no lock by an error in it", function()
    local client = helper.client({ log = function() error("the disk is full") end })
    local lock = assert(client:lock(key))
    assert(lock:lock())
    assert.is_true(lock:held())
    consul.session.destroy(lock:session())
    assert.are.equal("session", lock:wait_lost(helper.seconds(5)))
    assert(lock:lock())
    assert(lock:unlock())
    assert.is_true(client:close())
  end)

  it("hears how many events were dropped when there were too many at once", function()
    local client = client_with({ scheduler = "loop" })
    local locks = {}
    loop.run(function()
      for i = 1, 300 do
        locks[i] = client:lock(key .. "/" .. i)
        loop.spawn(function() assert(locks[i]:lock()) end)
      end
    end)
    said = {}
    consul.session.destroy(locks[1]:session())
    assert.are.equal("session", locks[300]:wait_lost(helper.seconds(10)))
    local dropped = hear(client, "dropped").count
    assert.are.equal(300, count("lock_lost") + dropped)
    assert.are.equal("dropped", said[#said].event)
  end)
end)
