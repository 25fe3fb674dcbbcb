local check = require("holdfast.check")

-- Reads one value by its rule. Raises for a mistake, with the line of the caller. No tail calls: Lua 5.1 forgets who
-- made them.
local function read(value, rule, name)
  local result, message, code = check.guard(2, "", check.read, value, rule, name or "it")
  return result, message, code
end

local function mistake(text, fn, ...)
  local ok, message = pcall(function(...) fn(...) return true end, ...)
  assert.is_false(ok)
  assert.are.equal(text, (message:gsub("^%S*check_spec%.lua:%d+: ", "", 1)))
  assert.matches("check_spec%.lua:%d+: ", message)
end

local function refused(text, result, message, code)
  assert.are.same({ nil, text, "INVALID" }, { result, message, code })
end

describe("check.guard", function()
  it("answers what read answers, false and nil too", function()
    assert.are.equal(5, check.guard(1, "", function(a, b) return a + b end, 2, 3))
    assert.is_false(check.guard(1, "", function() return false end))
    assert.is_nil(check.guard(1, "", function() end))
  end)

  it("answers nil, message, code for a refusal, with the prefix", function()
    refused("p: it is 5 %d", check.guard(1, "p: ", function() check.refuse("it is %d %s", 5, "%d") end))
    assert.are.same({ nil, "p: gone", "SESSION" }, { check.guard(1, "p: ", check.fail, "SESSION", "gone") })
  end)

  it("raises for a mistake with the line that the level names", function()
    local here = debug.getinfo(1, "l").currentline
    local function mine(level)
      check.guard(level, "p: ", check.mistake, "it is %s", "wrong")
      return true
    end
    for level, line in ipairs({ here + 2, here + 6 }) do
      local ok, message = pcall(function() mine(level) return true end)
      assert.is_false(ok)
      assert.matches("check_spec%.lua:" .. line .. ": p: it is wrong$", message)
    end
  end)

  it("does not touch what else is raised", function()
    local problem = {}
    local ok, raised = pcall(check.guard, 1, "p: ", error, problem, 0)
    assert.is_false(ok)
    assert.are.equal(problem, raised)
  end)
end)

describe("check.show", function()
  it("puts text on one line, in quotes, and cuts it", function()
    assert.are.equal([["a\"b\\c\x0a\x00\x7f"]], check.show("a\"b\\c\n\0\127"))
    assert.are.equal('"' .. ("x"):rep(200) .. '..."', check.show(("x"):rep(201)))
    assert.are.equal("5", (check.show(5):gsub("%.0$", "")))
  end)
end)

describe("a kind", function()
  it("takes its own type and no other", function()
    local values = { string = "", number = 0, boolean = false, table = {}, ["function"] = print }
    for kind, value in pairs(values) do
      assert.are.equal(value, read(value, kind))
      for other, wrong in pairs(values) do
        if other ~= kind then
          mistake(("it must be a %s, not a %s"):format(kind, other), read, wrong, kind)
        end
      end
      mistake(("it must be a %s, not a nil"):format(kind), read, nil, kind)
      assert.are.equal(value, read(value, "any"))
    end
  end)

  it("duration answers seconds, more than 0 when it has to be positive", function()
    assert.are.equal(1.5, read("1500ms", "duration"))
    assert.are.equal(0, read(0, "duration"))
    mistake("it: -1 is negative", read, -1, "duration")
    mistake("it: a duration is a number of seconds or text such as \"10s\", not a nil", read, nil, "duration")
    mistake("it must be more than 0", read, "0s", { "duration", positive = true })
  end)

  it("count is a whole number within its range", function()
    for _, value in ipairs({ 1, 5, 2 ^ 31 }) do assert.are.equal(value, read(value, "count")) end
    assert.are.equal("3", tostring((read(6 / 2, "count"))))
    assert.are.equal(0, read(0, { "count", least = 0 }))
    for _, wrong in ipairs({ 0, -1, 1.5, 0 / 0, math.huge, -math.huge, 2 ^ 54 }) do
      mistake("it must be a whole number of at least 1, not " .. tostring(wrong), read, wrong, "count")
    end
    mistake("it must be few, not 4", read, 4, { "count", most = 3, what = "few" })
    mistake("it must be few, not a string", read, "2", { "count", what = "few" })
  end)

  it("text has no control characters, and is nothing when it is empty", function()
    assert.are.equal("a b\195\169", read("a b\195\169", "text"))
    assert.is_nil(read("", "text"))
    mistake("it must be a string, not a number", read, 5, "text")
    refused([[it "a\x00b" has a control character in it]], read("a\0b", "text"))
    refused("it has a control character in it", read("a\0b", { "text", secret = true }))
  end)

  it("list is a copy with nothing but texts in it", function()
    local given = { "a", "b" }
    local copy = read(given, "list")
    assert.are.same(given, copy)
    assert.are_not.equal(given, copy)
    assert.are.same({}, read({}, "list"))
    mistake("it must be a list of strings, not a string", read, "a", "list")
    for _, wrong in ipairs({ { 1 }, { "" }, { "a", x = "b" }, { "a", [3] = "c" } }) do
      mistake("it must be a list of strings, not one with something else in it", read, wrong, "list")
    end
    refused([[it "b\x0a" has a control character in it]], read({ "a", "b\n" }, "list"))
  end)

  it("headers is a copy from names to values, numbers written out where they may be", function()
    local given = { ["X-A"] = "b\tc", d = "" }
    local copy = read(given, "headers")
    assert.are.same(given, copy)
    assert.are_not.equal(given, copy)
    assert.are.same({ a = "1000000000000000", b = "0.5" }, read({ a = 1e15, b = 0.5 }, { "headers", numbers = true }))
    mistake("it must be a table, not a string", read, "a: b", "headers")
    mistake("it is a table from name to value, not a list", read, { "a: b" }, "headers")
    mistake("header \"a\" must be a string, not a number", read, { a = 1 }, "headers")
    mistake("header \"a\" must be a string, not a boolean", read, { a = true }, { "headers", numbers = true })
    refused("header \"a b\" is not a header name", read({ ["a b"] = "x" }, "headers"))
    refused("header \"a\" has a control character in its value", read({ a = "x\r\ny" }, "headers"))
  end)

  it("may be a function that answers what to take", function()
    local function half(value) return type(value) == "number" and value / 2 or nil end
    assert.are.equal(2, read(4, { half, what = "a number to halve" }))
    mistake("it must be a number to halve, not a boolean", read, true, { half, what = "a number to halve" })
  end)
end)

describe("a rule", function()
  it("with one_of takes nothing else", function()
    local rule = { "string", one_of = { "a", "b" } }
    assert.are.equal("b", read("b", rule))
    mistake('it must be "a" or "b", not "c"', read, "c", rule)
    mistake("it must be a string, not a number", read, 5, rule)
  end)

  it("may say what is expected in its own sentence", function()
    mistake("we take tables, not a string", read, "x", { says = "we take tables" })
  end)

  it("takes a form by name or as a function", function()
    local function odd(number) return number % 2 == 0 and "is even" or nil end
    assert.are.equal(3, read(3, { "number", form = odd }))
    refused("it 4 is even", read(4, { "number", form = odd }))
    refused('it "a b" is not an HTTP method', read("a b", { "string", form = "method" }))
    refused("it is not an HTTP method", read("a b", { "string", form = "method", secret = true }))
  end)
end)

describe("a table", function()
  local RULE = {
    fields = {
      name = { "string", required = true, form = "method" }, size = { "count", default = 7 }, flag = "boolean",
      inner = { default = {}, fields = { wait = { "duration", default = "2s" }, word = "text" } },
    },
  }

  it("is read into a copy with the defaults in it", function()
    local given = { name = "n", flag = false, inner = { word = "" } }
    assert.are.same({ name = "n", flag = false, size = 7, inner = { wait = 2 } }, read(given, RULE))
    assert.are.same({ name = "n", flag = false, inner = { word = "" } }, given)
    assert.are.same({ wait = 2 }, read({ name = "n" }, RULE).inner)
    assert.are.same({}, RULE.fields.inner.default)
  end)

  it("names its fields with the path to them", function()
    mistake('unknown option "opts.nmae"', read, { nmae = "n" }, RULE, "opts")
    mistake('unknown option "opts.1"', read, { "n" }, RULE, "opts")
    mistake("missing opts.name", read, {}, RULE, "opts")
    mistake("opts.name must be a string, not a number", read, { name = 5 }, RULE, "opts")
    mistake('unknown option "opts.inner.x"', read, { name = "n", inner = { x = 1 } }, RULE, "opts")
    mistake("opts.inner.wait: -1 is negative", read, { name = "n", inner = { wait = -1 } }, RULE, "opts")
    mistake("opts.inner must be a table, not a boolean", read, { name = "n", inner = true }, RULE, "opts")
    refused('opts.name "a b" is not an HTTP method', read({ name = "a b" }, RULE, "opts"))
    refused([[opts.inner.word "\x0a" has a control character in it]],
      read({ name = "n", inner = { word = "\n" } }, RULE, "opts"))
  end)

  it("without a name has fields that are called by theirs", function()
    local function bare(given) check.guard(2, "", check.read, given, RULE) return true end
    mistake('unknown option "x"', bare, { x = 1 })
    mistake("missing name", bare, {})
    mistake("inner.wait: -1 is negative", bare, { name = "n", inner = { wait = -1 } })
  end)

  it("with a label has fields of that", function()
    local rule = { label = "the thing", fields = { id = { "string", required = true, form = "message_id" } } }
    mistake("the thing must be a table, not a number", read, 5, rule)
    mistake('unknown field "x" of the thing', read, { x = 1 }, rule)
    mistake("the thing has no id", read, {}, rule)
    mistake("id of the thing must be a string, not a number", read, { id = 1 }, rule)
    refused('id of the thing "a.b" must be visible ASCII without a dot (Standard Webhooks: the webhook-id)',
      read({ id = "a.b" }, rule))
  end)

  it("raises for a mistake even where something else would be refused", function()
    mistake("it.flag must be a boolean, not a number", read, { name = "a b", flag = 1 }, RULE)
  end)
end)

describe("check.forms", function()
  local function assert_forms(form, good, bad)
    for _, text in ipairs(good) do assert.is_nil(check.forms[form](text), form .. " refuses " .. check.show(text)) end
    for _, text in ipairs(bad) do assert.is_string(check.forms[form](text), form .. " takes " .. check.show(text)) end
  end

  it("knows ids", function()
    assert_forms("message_id", { "a", "msg_1", "!-/~" }, { "", "a.b", ".", "a b", "a\n", "a\0b", "a\0", "\195\188" })
    assert_forms("session_id", { "5c7d-1", "A_b" }, { "", "a&b", "a/b", "a\nb", "a\0" })
    assert_forms("receiver", { "a/b", " ", "%d", "\n" }, { "", "\0", "a\0b" })
  end)

  it("knows header names and values", function()
    assert_forms("header_name", { "a", "X-1", "x!#$%&'*+.^_`|~-1" },
      { "", "a b", "a:", "a\n", "a\0", "a;", "\195\188", "Host", "content-length", "PROXY-x" })
    assert_forms("method", { "GET", "get", "X-1" }, { "", "G T", "G\r", "CONNECT", "Connect" })
    assert_forms("header_value", { "", " a\tb", "\255" }, { "a\nb", "a\r", "a\0b", "\127" })
  end)

  it("knows keys", function()
    assert_forms("key", { "a/", ".lock", "a/..b/c", "...", "a b?c#d%25+" },
      { "/a", "/", "a//b", "a//", "./a", "a/./b", "a/.", "..", "a/../b", "a/..", "a\0b", "a\127" })
  end)

  it("knows keys that are UTF-8", function()
    assert_forms("key", { "a\194\128", "\223\191", "\224\160\128", "\226\130\172", "\237\159\191",
      "\238\128\128", "\239\191\191", "\240\144\128\128", "\240\159\146\161z", "\244\143\191\191" }, {})
  end)

  it("knows that no bytes alone, surrogates, long forms nor what is beyond U+10FFFF are UTF-8", function()
    assert_forms("key", {}, { "x\255", "x\254", "\128", "a\191b", "\195", "\195a", "\226\130", "\226\130a",
      "\240\159\146", "\237\160\128", "\237\191\191", "\192\128", "\193\191", "\224\159\191", "\240\143\191\191",
      "\244\144\128\128", "\245\128\128\128", "\248\136\128\128\128" })
    refused("it \"x\255\" is not UTF-8: in a transaction it would be another key than in a URL",
      read("x\255", { "string", form = "key" }))
  end)

  it("knows finite numbers", function()
    for _, number in ipairs({ 0, -5.5, 2 ^ 60 }) do assert.is_nil(check.forms.finite(number)) end
    for _, number in ipairs({ 0 / 0, 1 / 0, -1 / 0 }) do assert.is_string(check.forms.finite(number)) end
  end)
end)

describe("check.arguments", function()
  local take = check.arguments("push: ", { "receiver", { "string", form = "receiver" } },
    { "lease", { "duration", default = 5 } }, { "reason", "string", optional = true })

  local function push(...)
    local values, message, code = take(2, ...)
    return values, message, code
  end

  it("answers them by name, with the defaults", function()
    assert.are.same({ receiver = "r", lease = 5 }, push("r"))
    assert.are.same({ receiver = "r", lease = 0.5, reason = "" }, push("r", "500ms", ""))
  end)

  it("raises for one that is missing or wrong, with the prefix and the line of the method's caller", function()
    mistake("push: receiver must be a string, not a nil", push)
    mistake("push: lease: -1 is negative", push, "r", -1)
    mistake("push: reason must be a string, not a boolean", push, "r", 1, false)
    mistake("push: lease: -1 is negative", push, "", -1)
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() push(5) return true end)
    assert.is_false(ok)
    assert.matches("check_spec%.lua:" .. line .. ": push: ", message)
  end)

  it("answers nil, message, code for one that is refused", function()
    refused('push: receiver "" must not be empty, nor have a zero byte in it', push(""))
  end)
end)
