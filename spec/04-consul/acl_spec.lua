-- What a token must be allowed to do, as docs/acl.md says, and what becomes of locks when it is replaced.
local acl = require("spec.support.acl")
local agents = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of = agents.code_of

local PREFIX = "webhook_receiver/"
local WAIT = helper.seconds(10)

-- The policy that is printed there, line group by line group.
local function printed()
  local file = assert(io.open("docs/acl.md"))
  local text = file:read("*a")
  file:close()
  local groups = {}
  for group in text:match("```hcl\n(.-)```"):gmatch("%S[^{]*{[^}]*}\n") do groups[#groups + 1] = group end
  return groups
end

describe("with the smallest policy of docs/acl.md", function()
  local agent, client
  setup(function() agent = acl.agent({ keep = true }) end)
  teardown(function() agent:remove() end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  local function make(rules, options)
    local given = { address = agent:address(), token = (acl.token(agent, acl.policy(agent, rules))),
      session = { ttl = "3s" } }
    for name, value in pairs(options or {}) do given[name] = value end
    client = helper.client(given)
    return client
  end

  local LIVES = {
    lock = { "lock", "unlock", "destroy", make = function() return client:lock(PREFIX .. "1") end },
    semaphore = { "acquire", "release", "destroy", make = function() return client:semaphore(PREFIX .. "2", 2) end },
  }

  -- Goes through one of those lives. Answers the code of the first refusal.
  local function live(rules, what)
    make(rules)
    local life = LIVES[what]
    local object = assert(life.make())
    local function try(method)
      local ok, message, code = object[method](object, 0)
      if ok then return nil end
      assert.matches("Permission denied", message, 1, true)
      return code
    end
    local code = try(life[1])
    if code then return code end
    local renewals = client:stats().renewals
    helper.eventually(function() return client:stats().renewals > renewals end)
    return try(life[2]) or try(life[3])
  end

  for what in pairs(LIVES) do
    it(("a %s is taken, renewed, given back and destroyed"):format(what), function()
      assert.is_nil(live(table.concat(printed()), what))
      assert.are.equal(0, client:stats().renew_failures)
    end)

    it(("a %s needs every line"):format(what), function()
      local groups = printed()
      assert.are.equal(2, #groups)
      for left_out = 1, #groups do
        local rules = {}
        for i, group in ipairs(groups) do if i ~= left_out then rules[#rules + 1] = group end end
        assert.are.equal("DENIED", live(table.concat(rules), what), "without " .. groups[left_out])
        rules[#rules + 1] = groups[left_out]:gsub("\"write\"", "\"read\"")
        assert.are.equal("DENIED", live(table.concat(rules), what), "with less than " .. groups[left_out])
      end
    end)
  end

  it("the name of its node is enough of a session_prefix", function()
    local rules = table.concat(printed()):gsub("session_prefix \"\"", ("session %q"):format(agent.node))
    assert.is_nil(live(rules, "lock"))
  end)

  it("a session that is alive needs one line more", function()
    local rules, service = table.concat(printed()), 'service "holdfast" { policy = "write" }\n'
    make(rules)
    assert.are.equal("DENIED", code_of(client:session({ alive = "1s" })))
    local proxy = helper.proxy(agent:address())
    make(rules .. service, { address = proxy:address() })
    local session = assert(client:session({ alive = "1s" }))
    local passes = assert(proxy:wait_for("^PUT /v1/agent/check/pass/", 3, WAIT, "answered"))
    for _, pass in ipairs(passes) do assert.are.equal(200, pass.status) end
    assert(session:destroy(WAIT))
    client:close()
    assert.are.equal(200, proxy:log("^PUT /v1/agent/service/deregister/")[1].status)
  end)

  it("what is elsewhere is DENIED, and a key that may not be read is not absent", function()
    make(table.concat(printed()))
    local lock = assert(client:lock("elsewhere/1"))
    assert.are.equal("DENIED", code_of(lock:lock(WAIT)))
    assert.are.equal("DENIED", code_of(lock:destroy(WAIT)))
  end)

  it("without a token it is DENIED", function()
    local lock = assert(helper.client({ address = agent:address() }):lock(PREFIX .. "1"))
    assert.are.equal("DENIED", code_of(lock:lock(WAIT)))
  end)

  it("a lock through a session that may not be read is not lost (behaviour 65)", function()
    local session = agent:ask(consul.session.create, { TTL = "60s", LockDelay = "0s" })
    local proxy = helper.proxy(agent:address())
    make(printed()[1], { address = proxy:address() })
    local lock = assert(client:lock({ key = PREFIX .. "65", session = session }))
    assert(lock:lock(WAIT))
    local looks = assert(proxy:wait_for(fake.INFO, 2, WAIT, "answered"))
    for _, look in ipairs(looks) do assert.are.equal(200, look.status) end
    assert(proxy:wait_for(fake.AUDIT, 2, WAIT, "answered"))
    assert.is_true(lock:held())
    assert.are.equal(session, agent:ask(agents.holder, lock:key()))
    assert(lock:unlock(WAIT))
    agent:ask(consul.session.destroy, session)
  end)

  describe("a token file", function()
    local path, policy
    before_each(function()
      path = os.tmpname()
      policy = acl.policy(agent, table.concat(printed()))
    end)
    after_each(function() os.remove(path) end)

    -- A new token, in the file. Answers it and its id.
    local function write()
      local token, id = acl.token(agent, policy)
      local file = assert(io.open(path, "w"))
      file:write(token, "\n")
      file:close()
      return token, id
    end

    -- A held lock whose token is in the file; its client goes through a proxy.
    local function hold()
      local _, id = write()
      local proxy = helper.proxy(agent:address())
      client = helper.client({ address = proxy:address(), token_file = path, session = { ttl = "6s" } })
      local lock = assert(client:lock(PREFIX .. "file"))
      assert(lock:lock(WAIT))
      return lock, proxy, id
    end

    -- So many good renewals from now on.
    local function goes_on(lock, proxy, token)
      local renewals = client:stats().renewals
      helper.eventually(function() return client:stats().renewals > renewals + 3 end)
      assert.is_true(lock:held())
      local log = proxy:log(fake.RENEW, "answered")
      assert.are.same({ 200, token }, { log[#log].status, log[#log].headers["x-consul-token"] })
      assert(lock:unlock(WAIT))
      assert.are.equal(0, client:stats().losses.deadline)
    end

    it("may get another token under a held lock, and no renewal fails", function()
      local lock, proxy, id = hold()
      local token = write()
      acl.revoke(agent, id)
      goes_on(lock, proxy, token)
      assert.are.equal(0, client:stats().renew_failures)
    end)

    it("may get it after the old one is gone (behaviours 57 and 64)", function()
      local lock, proxy, id = hold()
      acl.revoke(agent, id)
      helper.eventually(function() return client:stats().renew_failures > 1 end)
      assert.is_true(lock:held())
      goes_on(lock, proxy, (write()))
    end)
  end)
end)
