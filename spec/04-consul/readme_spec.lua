-- The example of the README, as it is printed there.
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local function example()
  local file = assert(io.open("README.md"))
  local text = file:read("*a")
  file:close()
  return assert(text:match("```lua\n(.-)```"))
end

describe("the README's example", function()
  after_each(helper.finish)

  it("locks, pushes with the fencing token, and leaves nothing held", function()
    local receiver, key = helper.server(), helper.unique_key()
    receiver:rule({ status = 202 })
    local code = example():gsub("127%.0%.0%.1:8500", consul.address()):gsub("127%.0%.0%.1:8080", receiver:address())
      :gsub("webhook_receiver/1", key)
    local status, out, err = helper.run_lua(code)
    assert.are.same({ 0, "202\tnil\n", "" }, { status, out, err })
    local push = receiver:log("^POST /hook$")[1]
    assert.are.equal('{"n":1}', push.body)
    assert.matches("^%d+$", push.headers["webhook-fencing-token"])
    assert.is_nil(consul.kv.get(key).Session)
  end)
end)
