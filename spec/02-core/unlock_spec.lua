-- lock:unlock when the way to Consul breaks, or the caller does not want to wait.
local socket = require("socket")
local core = require("holdfast.core")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of = fake.code_of

describe("unlock through a proxy", function()
  local proxy, client, key, lock
  before_each(function()
    proxy = helper.proxy()
    key = helper.unique_key()
    client = helper.client({ address = proxy:address(), timeout = 3 })
    lock = assert(client:lock(key))
    assert(lock:lock(helper.seconds(5)))
    proxy:forget()
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  local function is_free()
    local holder = consul.kv.get(key).Session
    return not holder, tostring(holder) .. " holds it"
  end

  local function freed()
    helper.eventually(is_free, 5)
  end

  it("answers true though the reply was lost once, on a connection that was in use before", function()
    proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_close" })
    local ok, message = lock:unlock(helper.seconds(5))
    assert.is_true(ok, message)
    assert.is_true(is_free())
    assert.are.same({ false }, { lock:lost() })
  end)

  for what, refusal in pairs({ ["a 403"] = { status = 403, body = "Permission denied" },
    ["a 429"] = { status = 429, body = "rate limit exceeded" } }) do
    it(("answers true though libcurl sent it again when the reply was lost, and that was refused by %s"):format(what),
      function()
        proxy:rule({ match = fake.TXN, times = 1, action = "pass_then_close" })
        proxy:rule(fake.on(fake.TXN, refusal, { times = 1 }))
        local ok, message = lock:unlock(helper.seconds(5))
        assert.is_true(ok, message)
        assert.is_true(is_free())
        assert.are.same({ false }, { lock:lost() })
      end)
  end

  for action, times in pairs({ pass_then_close = 3, pass_then_reset = 3, pass_then_stall = 1 }) do
    it(("answers true though the reply was lost (%s)"):format(action), function()
      proxy:rule({ match = fake.TXN, times = times, action = action })
      local ok, message = lock:unlock(helper.seconds(10))
      assert.is_true(ok, message)
      assert.is_true(is_free())
      assert.is_true(proxy:count(fake.TXN) > times)
    end)
  end

  it("answers true after requests that never arrived", function()
    proxy:rule({ match = fake.TXN, times = 3, action = "close" })
    assert(lock:unlock(helper.seconds(5)))
    assert.is_true(is_free())
  end)

  it("answers true after 500 and 429", function()
    for _, status in ipairs({ 500, 429 }) do
      proxy:rule({ match = fake.TXN, times = 1, status = status })
    end
    assert(lock:unlock(helper.seconds(5)))
    assert.is_true(is_free())
    assert.are.same({ "unlock", "unlock", "unlock" }, fake.verbs(proxy))
  end)

  it("answers TIMEOUT when the server stalls, and goes on until the key is free", function()
    proxy:rule({ match = fake.TXN, times = 1, action = "stall" })
    assert.are.equal("TIMEOUT", code_of(lock:unlock(0.2)))
    assert.are.equal(0, proxy:count(fake.TXN, "gone")) -- nothing but its own time was over
    assert.is_false(lock:held())
    assert.are.same({ false }, { lock:lost() })
    assert.is_false((is_free()))
    freed()
  end)

  it("with timeout 0 answers what went wrong, and goes on until the key is free", function()
    proxy:rule({ match = fake.TXN, times = 2, status = 500, body = "No cluster leader" })
    local ok, message, code = lock:unlock(0)
    assert.are.same({ nil, "HTTP" }, { ok, code })
    assert.matches("500: No cluster leader", message, 1, true)
    assert.is_false(lock:held())
    freed()
  end)

  it("with timeout 0 is a whole try: true when the server agrees", function()
    assert.is_true(lock:unlock(0))
    assert.is_true(is_free())
    assert.are.equal(1, proxy:count(fake.TXN))
  end)

  it("ends the hold before the server knows: it is not held while the release is on its way", function()
    proxy:rule({ match = fake.TXN, times = 1, delay = 0.15 })
    local op = assert(lock:start_unlock())
    assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
    assert.are.same({ false, "released" }, { lock:held() })
    assert.is_nil(lock:token())
    assert.are.equal("NOT_HELD", code_of(lock:unlock(0)))
    assert.is_true(fake.result(op))
  end)

  it("goes before a lock by the same object, and before one by another of this client", function()
    proxy:rule({ match = fake.TXN, times = 1, delay = 0.15 })
    local second = assert(client:lock(key))
    local unlock = assert(lock:start_unlock())
    local again, other = assert(lock:start_lock()), assert(second:start_lock())
    assert.is_true(fake.result(unlock))
    assert.is_true(fake.result(again))
    assert(lock:unlock(30))
    assert.is_true(fake.result(other))
    assert.are.same({ "unlock", "lock", "unlock", "lock" }, fake.verbs(proxy))
  end)

  it("goes on when the op is dropped", function()
    proxy:rule({ match = fake.TXN, times = 1, delay = 0.1 })
    assert(lock:start_unlock())
    collectgarbage()
    collectgarbage()
    freed()
  end)

  it("goes on when everything is dropped: the lock is given back", function()
    proxy:rule({ match = fake.TXN, times = 1, delay = 0.1 })
    lock = nil
    collectgarbage()
    collectgarbage()
    freed()
  end)

  it("is done at the close of the client, though its first try failed", function()
    proxy:rule({ match = fake.TXN, times = 1, status = 500 })
    client:close()
    assert.is_true(is_free())
    assert.are.same({ false, "closed" }, { lock:held() })
  end)

  it("answers LOST when it had been released by somebody else", function()
    consul.kv.put(key, "", { release = lock:session(), flags = fake.FLAGS })
    local ok, message, code = lock:unlock(helper.seconds(5))
    assert.are.same({ nil, "LOST" }, { ok, code })
    assert.matches(key, message, 1, true)
  end)

  it("answers CLOSED in bounded time when the client closes and the server stalls for good", function()
    client = helper.client({ address = proxy:address(), timeout = 60 })
    lock = assert(client:lock(key .. "/2"))
    assert(lock:lock(helper.seconds(5)))
    proxy:forget()
    proxy:rule({ match = fake.TXN, action = "stall" })
    local op = assert(lock:start_unlock())
    assert(proxy:wait_for(fake.TXN, 1, helper.seconds(5)))
    local start = socket.gettime()
    client:close()
    assert.is_true(socket.gettime() - start < 20)
    assert.are.equal("CLOSED", code_of(fake.result(op)))
  end)
end)

describe("unlock", function()
  local server, client, lock
  before_each(function() server = fake.consul() end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- It was held until it was given back: that is no loss.
  it("answers what went wrong, not before its time, when the lease ends while the server cannot be reached", function()
    client = helper.client({ address = server:address(), session = { ttl = 4, lock_delay = 0 } })
    lock = assert(client:lock("k"))
    assert(lock:lock(30))
    server:rule({ first = true, status = 500, body = "No cluster leader" })
    local before = core.now() - 0.001 -- it counts in whole milliseconds
    local left = lock:remaining()
    local ok, message, code = lock:unlock()
    assert.are.same({ nil, "HTTP" }, { ok, code })
    assert.matches("500: No cluster leader", message, 1, true)
    local took = core.now() - before
    assert.is_true(took >= left, ("%.3f of %.3f s"):format(took, left))
    assert.are.same({ false, "released" }, { lock:held() })
    assert.is_false(lock:lost())
    client:abandon()
  end)

  it("does not take no for an answer that says nothing", function()
    client = helper.client({ address = server:address() })
    lock = assert(client:lock("k"))
    assert(lock:lock(30))
    server:rule({ first = true, match = fake.TXN, times = 1, status = 200, body = "<html>" })
    assert(lock:unlock(30))
    assert.are.same({ "lock", "unlock", "unlock" }, fake.verbs(server))
    assert.is_nil(fake.unconditional(server))
    assert.are.same({}, server:holders())
  end)

  local REFUSALS = {
    ["a 403"] = { status = 403, body = "Permission denied" }, ["a 404"] = { status = 404, body = "not here" },
    ["a refusal by the ACL"] = fake.refusal({ "Permission denied" }),
  }

  for kind, answer in pairs(REFUSALS) do
    it(("goes on after %s: a token may just be changing"):format(kind), function()
      client = helper.client({ address = server:address() })
      lock = assert(client:lock("k"))
      assert(lock:lock(30))
      server:rule(fake.on(fake.TXN, answer, { first = true, times = 2 }))
      assert(lock:unlock(30))
      assert.are.same({ "lock", "unlock", "unlock", "unlock" }, fake.verbs(server))
      assert.are.same({}, server:holders())
    end)
  end

  it("answers DENIED when the ACL refuses for all of its time, and goes on until the key is free", function()
    client = helper.client({ address = server:address() })
    lock = assert(client:lock("k"))
    assert(lock:lock(30))
    server:rule({ first = true, match = fake.TXN, status = 403, body = "Permission denied" })
    local ok, message, code = lock:unlock(3)
    assert.are.same({ nil, "DENIED" }, { ok, code })
    assert.matches("403: Permission denied", message, 1, true)
    assert.is_false(lock:held())
    assert.is_false(lock:lost())
    assert.is_not_nil(server:holders().k)
    server:clear()
    helper.eventually(function() return not server:holders().k end)
  end)
end)
