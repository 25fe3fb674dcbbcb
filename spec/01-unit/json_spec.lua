-- JSON as the Lua layer reads and writes it.
local core = require("holdfast.core")

local decode, encode = core.json_decode, core.json_encode
local has_integers = math.type ~= nil

-- The value as this Lua has it: a number where that is exact, else text.
local function integer(text)
  if has_integers then return math.type(tonumber(text)) == "integer" and tonumber(text) or text end
  return math.abs(tonumber(text)) <= 2 ^ 53 and ("%.0f"):format(tonumber(text)) == text and tonumber(text) or text
end

describe("JSON that is read", function()
  local function refuses(text)
    local value, message, code = decode(text)
    assert.is_nil(value)
    assert.are.same({ "not JSON", "PROTOCOL" }, { message, code }, text)
  end

  it("… has tables for arrays and objects", function()
    assert.are.same({ 1, "two", { three = 3, four = {} }, true, false },
      decode('[1,"two",{"three":3,"four":[]},true,false]'))
  end)

  it("… has nothing where there is null", function()
    assert.are.same({ a = 1 }, decode('{"a":1,"b":null}'))
    assert.is_nil(decode("[1,null,3]")[2])
    assert.are.equal(3, decode("[1,null,3]")[3])
    assert.are.equal(0, select("#", select(2, decode("null"))))
  end)

  it("… has exact integers of 64 bits, as text where this Lua's numbers do not hold them", function()
    for _, text in ipairs({ "0", "-1", "999999999999999", "9007199254740991", "9007199254740992", "9007199254740993",
      "-9007199254740993", "3304740253564472344", "9223372036854775807", "-9223372036854775808", "9223372036854775808",
      "16210313421097356768", "18446744073709551615", "340282366920938463463374607431768211456" }) do
      local value = decode("[" .. text .. "]")[1]
      assert.are.equal(integer(text), value, text)
      if has_integers and type(value) == "number" then assert.are.equal("integer", math.type(value)) end
    end
  end)

  it("… has texts of digits as they are", function()
    assert.are.same({ "12345678901234567890", "1" }, decode('["12345678901234567890","1"]'))
  end)

  it("… has fractions and exponents", function()
    assert.are.same({ 1.5, -0.25, 1e20, 1000 }, decode("[1.5,-0.25,1e20,1e3]"))
  end)

  it("… is refused when it is none", function()
    for _, text in ipairs({ "", " ", "{", "[1,]", "{a:1}", "<html>", "nul", "1 2", "\"" }) do refuses(text) end
  end)

  it("… is refused when it is too deep, and read when it is not", function()
    local value = decode(("["):rep(900) .. ("]"):rep(900))
    for _ = 1, 899 do value = value[1] end
    assert.are.same({}, value)
    refuses(("["):rep(100000) .. ("]"):rep(100000))
  end)
end)

describe("JSON that is written", function()
  local function raises(text, value)
    local ok, message = pcall(encode, value)
    assert.is_false(ok)
    assert.are.equal("JSON: " .. text, message)
  end

  it("… is read as it was", function()
    local value = { name = 'a "b"\\\n\0\31\127 \195\164', list = { 1, 2, { x = { {} } } }, yes = true, no = false,
      ["ke\"y"] = -1.25 }
    local read = decode(encode(value))
    assert.are.equal('a "b"\\\n\239\191\189\31\127 \195\164', read.name)
    read.name, value.name = nil, nil
    assert.are.same(value, read)
  end)

  it("… has whole numbers as such, and all digits of the others", function()
    assert.are.equal("[1,-1,9007199254740992,1000]", encode({ 1, -1, 2 ^ 53, 1e3 }))
    for _, number in ipairs({ 0.1, 1 / 3, 1e300, -1e-300, 2 ^ 70, 123456789.123 }) do
      assert.are.equal(number, decode("[" .. encode(number) .. "]")[1])
    end
    if has_integers then
      assert.are.equal("[9223372036854775807]", encode({ integer("9223372036854775807") }))
      assert.are.equal("[-9223372036854775808]", encode({ integer("-9223372036854775808") }))
    end
  end)

  it("… has a point in its fractions, whatever the locale", function()
    local before = os.setlocale(nil, "numeric")
    for _, locale in ipairs({ "de_DE.UTF-8", "de_DE", "fr_FR.UTF-8" }) do
      if os.setlocale(locale, "numeric") then break end
    end
    local text = encode(1.5)
    os.setlocale(before, "numeric")
    assert.are.equal("1.5", text)
  end)

  it("… has an object for an empty table, and an array for core.empty_array", function()
    assert.are.equal("{}", encode({}))
    assert.are.equal("[]", encode(core.empty_array))
    assert.are.equal('{"a":[]}', encode({ a = core.empty_array }))
  end)

  it("… may be long", function()
    local long = ("\1"):rep(100000)
    assert.are.equal(long, decode(encode({ long }))[1])
    local list = {}
    for i = 1, 20000 do list[i] = i end
    assert.are.same(list, decode(encode(list)))
  end)

  it("… is no table that is neither a list nor an object", function()
    for _, value in ipairs({ { 1, x = 2 }, { [2] = 1 }, { [1.5] = 1 }, { [true] = 1 }, { 1, 2, [4] = 4 } }) do
      raises("a table that is neither a list without holes nor has names only", value)
    end
  end)

  it("… is nothing that JSON has no form for", function()
    raises("a function", print)
    raises("a thread", { coroutine.create(function() end) })
    raises("a userdata", { io.stdout })
    raises("a string that is not UTF-8", { a = "\255" })
    raises("a string that is not UTF-8", { ["\255"] = 1 })
    for _, number in ipairs({ 0 / 0, math.huge, -math.huge }) do raises("a number that is not finite", { number }) end
  end)

  it("… is nothing that has itself in it", function()
    local round = {}
    round[1] = { round }
    raises("a table that is too deep, or in itself", round)
  end)
end)
