-- The example that is the article, line by line.
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local json = require("dkjson")

local KEY = "webhook_receiver/1"
local EXAMPLE = [[
  arg = { [-1] = %q, [0] = "examples/article.lua" }
  dofile(arg[0])
]]

describe("the article", function()
  after_each(helper.finish)

  local function run(env)
    return helper.run_lua(EXAMPLE:format(os.getenv("HF_LUA") or "lua5.4"), env)
  end

  local function checks()
    return json.decode((select(2, consul.request("GET", "/v1/agent/checks"))))
  end

  it("happens as it is told, and leaves nothing behind", function()
    local status, out, err = run()
    assert.are.same({ 0, "" }, { status, err }, out)
    local told = out:gsub("%d+%.%d s", "# s"):gsub("token %d+", "token #"):gsub(" +# s  ", "")
    -- The request and the loss are told in any order, by two coroutines.
    local cancelled = 'request cancelled: the hold of "webhook_receiver/1" has ended: session (LOST)\n'
    local count
    told, count = told:gsub(cancelled:gsub("%p", "%%%0"), "")
    assert.are.equal(1, count, out)
    assert.are.equal([[
check1 is passing
check2 is passing
sender 1 has the lock, with token #: the key says "set by sender 1"
request done: 202
sender 1 has given the lock back
sender 1 has the lock, with token #: the key says "set by sender 1"
sender 1 pushes, and its web server does not answer any more
sender 1 has lost the lock after # s: session
sender 2, another process, has the lock now, with token #: the key says "set by sender 2"
it went as the article says
]], told)
    assert.is_nil(consul.kv.get(KEY))
    assert.is_nil(checks().check1 or checks().check2)
  end)

  it("does not happen without a Consul, and says so", function()
    local status, out, err = run({ CONSUL_HTTP_ADDR = "127.0.0.1:1" })
    assert.are.same({ 1, "" }, { status, out })
    assert.matches("article: .*127%.0%.0%.1:1", err)
  end)
end)
