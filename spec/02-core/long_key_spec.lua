-- A key that no server would take is refused where it is named: nothing is sent, and nothing is tried again and again.
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local LIMIT = 64 * 1024

describe("a key", function()
  local server, client
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address() })
  end)
  after_each(function()
    client = nil
    helper.finish()
  end)

  for _, case in ipairs({ { "longer than 64 KiB", LIMIT + 1 }, { "of 2 MB", 2 * 1024 * 1024 } }) do
    it(case[1] .. " is refused at once, by every way to make a lock", function()
      local key = ("k"):rep(case[2])
      for _, make in ipairs({
        function() return client:lock(key) end,
        function() return client:lock({ key = key, session_ttl = "20s" }) end,
        function() return client:with_lock(key, function() error("it was called") end) end,
      }) do
        local ok, message, code = make()
        assert.is_true(ok == nil, "it was not refused") -- without a look at the key
        assert.is_true(code == "TOO_LARGE" or code == "INVALID", tostring(code))
        assert.is_true(#message < 1000, "a message as long as the key")
      end
      assert.are.equal(0, server:count())
    end)
  end

  it("of a thousand bytes is one like any other", function()
    local lock = assert(client:lock(("k"):rep(1000)))
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.is_true(lock:unlock(helper.seconds(5)))
  end)
end)
