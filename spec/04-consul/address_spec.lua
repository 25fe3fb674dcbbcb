-- The ways to an agent other than host:port: a Unix socket, a gateway that wants a path prefix or a password.
local agents = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local WAIT = helper.seconds(10)

describe("through", function()
  local client
  after_each(function()
    client = nil
    helper.finish()
  end)

  -- A lock that is taken, waited for, lost, and given back. ask: as agent:ask.
  local function live(ask, key)
    local lock, other = assert(client:lock(key)), assert(client:lock(key))
    assert(lock:lock(WAIT))
    assert.are.equal(lock:session(), ask(agents.holder, key))
    local op = assert(other:start_lock(WAIT))
    assert(lock:unlock(WAIT))
    assert.is_true(op:wait(WAIT))
    assert(op:result())
    ask(consul.session.destroy, other:session())
    assert.are.equal("session", other:wait_lost(WAIT))
    assert(lock:lock(WAIT))
    assert(lock:unlock(WAIT))
    assert(lock:destroy(WAIT))
  end

  local function ask(fn, ...) return fn(...) end

  it("a Unix socket a lock lives as everywhere (behaviour 40)", function()
    local path = os.tmpname()
    os.remove(path)
    local agent = helper.agent({ config = function(ip)
      return { addresses = { http = ip .. " unix://" .. path } }
    end })
    client = helper.client({ address = "unix://" .. path, session = { lock_delay = 0 } })
    live(function(...) return agent:ask(...) end, helper.unique_key())
    local status, out, err = helper.run_lua([[
      local lock = assert(assert(require("holdfast").new()):lock("k"))
      print(lock:lock(0))
    ]], { CONSUL_HTTP_ADDR = "unix://" .. path })
    assert.are.same({ 0, "true\n" }, { status, out }, err)
    client:close()
    agent:remove()
    os.remove(path)
  end)

  it("a gateway every path has its prefix (behaviour 45)", function()
    local proxy = helper.proxy()
    proxy:strip("/consul/eu")
    for _, prefix in ipairs({ "/consul/eu", "/consul/eu/" }) do
      client = helper.client({ address = "http://" .. proxy:address() .. prefix, session = { lock_delay = 0 } })
      live(ask, helper.unique_key())
      client:close()
    end
    assert.are.equal(#proxy:log(), proxy:count("^%u+ /consul/eu/v1/"))
  end)

  it("a gateway every request has user and password", function()
    local proxy = helper.proxy()
    client = helper.client({ address = proxy:address(), auth = "me:se:cret", session = { lock_delay = 0 } })
    live(ask, helper.unique_key())
    client:close()
    for _, entry in ipairs(proxy:log()) do
      assert.are.equal("Basic bWU6c2U6Y3JldA==", entry.headers.authorization)
    end
  end)
end)
