local duration = require("holdfast.duration")

describe("duration.parse", function()
  it("takes numbers as seconds, with fractions", function()
    assert.are.equal(10, duration.parse(10))
    assert.are.equal(0.25, duration.parse(0.25))
    assert.are.equal(0, duration.parse(0))
  end)

  it("reads Go's notation", function()
    local cases = {
      ["10s"] = 10, ["500ms"] = 0.5, ["1m30s"] = 90, ["1h"] = 3600, ["1.5h"] = 5400, ["250us"] = 250e-6,
      ["250\194\181s"] = 250e-6, ["250\206\188s"] = 250e-6, ["3ns"] = 3e-9, ["1h2m3s4ms"] = 3723.004, [".5s"] = 0.5,
      ["2.s"] = 2, ["0"] = 0, ["0s"] = 0,
    }
    for text, seconds in pairs(cases) do
      assert.is_true(math.abs(seconds - assert(duration.parse(text))) < 1e-12, text)
    end
  end)

  it("answers nil and a message for what is no duration", function()
    local bad = { "", "10", "s", "10 s", " 10s", "10s ", "-5s", "+5s", "1,5s", "1.2.3s", ".s", "10S", "10d", "1e3s",
      "10s5", "nan", "inf", "0x10s", "10s\0" }
    for _, text in ipairs(bad) do
      local seconds, message = duration.parse(text)
      assert.is_nil(seconds, text)
      assert.is_string(message)
    end
  end)

  it("refuses negative and not finite numbers, and other types", function()
    for _, value in ipairs({ -1, 0 / 0, 1 / 0, -1 / 0, ("9"):rep(400) .. "h", true, {} }) do
      local seconds, message = duration.parse(value)
      assert.is_nil(seconds)
      assert.is_string(message)
    end
    assert.is_nil((duration.parse(nil)))
  end)
end)

describe("duration.format", function()
  it("writes whole milliseconds", function()
    assert.are.equal("15000ms", duration.format("15s"))
    assert.are.equal("15000ms", duration.format(15))
    assert.are.equal("1500ms", duration.format(1.5))
    assert.are.equal("0ms", duration.format(0))
    assert.are.equal("8640000000ms", duration.format("2400h"))
  end)

  it("rounds to the nearest, and never down to nothing (behaviour 41)", function()
    assert.are.equal("2ms", duration.format(0.0016))
    assert.are.equal("1ms", duration.format("10us"))
    assert.are.equal("1ms", duration.format("1us"))
    assert.are.equal("1ms", duration.format("1ms"))
    assert.are.equal("5ms", duration.format("5ms"))
  end)

  it("answers nil and a message for what is no duration", function()
    local text, message = duration.format("soon")
    assert.is_nil(text)
    assert.matches("not a duration", message)
  end)
end)
