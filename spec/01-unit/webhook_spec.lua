local core = require("holdfast.core")
local json = require("dkjson")
local webhook = require("holdfast.webhook")

local SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
local SECOND = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
local PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
local PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
local ID, TIME, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "{\"test\": 2432232314}"
local GOOD = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
local FENCE = "v1f,F7QCuGRfBp5Hnzdqo1N2pi6x25O+cH0/yyQTEGXvNYs="

local function read_vectors()
  local file = assert(io.open("spec/standard-webhooks-vectors.json", "rb"))
  local text = file:read("*a")
  file:close()
  return assert(json.decode(text))
end

local function headers(signature, id, timestamp)
  return {
    ["webhook-id"] = id or ID, ["webhook-timestamp"] = ("%d"):format(timestamp or TIME),
    ["webhook-signature"] = signature,
  }
end

local ANY_AGE = { tolerance = false }

local function assert_refused(pattern, answer, message, code)
  assert.is_nil(answer)
  assert.matches(pattern, message)
  assert.are.equal("INVALID", code)
end

describe("the published vectors", function()
  local vectors = read_vectors()

  it("are all there", function()
    assert.are.equal(26, #vectors)
  end)

  for _, vector in ipairs(vectors) do
    local body = vector.body or core.base64_decode(vector.body_base64)
    local given = headers(vector.expected, vector.id, vector.timestamp)

    it("verify: " .. vector.name, function()
      local ok, message, code = webhook.verify(vector.secret, given, body, ANY_AGE)
      if vector.valid then
        assert.is_true(ok, message)
      else
        assert_refused("", ok, message, code)
      end
    end)

    if vector.valid and not vector.expected:find(" ") and not vector.secret:find("^whpk_") then
      it("sign: " .. vector.name, function()
        assert.are.equal(vector.expected, webhook.sign(vector.secret, vector.id, vector.timestamp, body))
      end)
    end
  end
end)

describe("webhook.sign", function()
  it("signs with every secret of a rotation, in their order", function()
    assert.are.equal(GOOD .. " v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44=",
      webhook.sign({ SECRET, SECOND }, ID, TIME, BODY))
  end)

  it("mixes symmetric and asymmetric secrets", function()
    local value = assert(webhook.sign({ PRIVATE, SECRET }, ID, TIME, BODY))
    assert.matches("^v1a,%S+ v1,%S+$", value)
    assert.is_true(webhook.verify(PUBLIC, headers(value), BODY, ANY_AGE))
    assert.is_true(webhook.verify(SECRET, headers(value), BODY, ANY_AGE))
  end)

  it("takes an ed25519 key that is only the seed", function()
    local seed = "whsk_" .. core.base64_encode(core.base64_decode(PRIVATE:sub(6)):sub(1, 32))
    local value = webhook.sign(seed, ID, TIME, BODY)
    assert.are.equal(webhook.sign(PRIVATE, ID, TIME, BODY), value)
    assert.is_true(webhook.verify(seed, headers(value), BODY, ANY_AGE))
    assert_refused("no entry", webhook.verify(seed, headers(value), BODY .. " ", ANY_AGE))
  end)

  it("adds a fence entry for the token", function()
    assert.are.equal(GOOD .. " " .. FENCE, webhook.sign(SECRET, ID, TIME, BODY, { token = 42 }))
    assert.are.equal(GOOD .. " " .. FENCE, webhook.sign(SECRET, ID, TIME, BODY, { token = "42" }))
  end)

  it("puts fence entries last, and has none for asymmetric secrets", function()
    local value = webhook.sign({ SECRET, PRIVATE, SECOND }, ID, TIME, BODY, { token = 42 })
    assert.matches("^v1,%S+ v1a,%S+ v1,%S+ v1f,%S+ v1f,%S+$", value)
  end)

  it("writes the timestamp and the token as integers on every Lua", function()
    assert.are.equal(GOOD, webhook.sign(SECRET, ID, 1614265330.0, BODY))
    assert.are.equal(GOOD, webhook.sign(SECRET, ID, 1614265330.75, BODY))
    assert.are.equal(GOOD, webhook.sign(SECRET, ID, "1614265330", BODY))
    local big = 2 ^ 53
    assert.are.equal(webhook.sign(SECRET, ID, TIME, BODY, { token = "9007199254740992" }),
      webhook.sign(SECRET, ID, TIME, BODY, { token = big }))
  end)

  it("refuses empty and malformed secrets without repeating them", function()
    for _, bad in ipairs({ "", "whsec_", "whsk_", "whsec_*secret*", "whsk_AAAA", "whpk_AAAA", "A" }) do
      assert_refused("webhook secret 1 ", webhook.sign(bad, ID, TIME, BODY))
    end
    local _, message = webhook.sign({ SECRET, "whsec_*hush*" }, ID, TIME, BODY)
    assert.matches("secret 2 ", message)
    assert.is_nil(message:find("hush", 1, true))
    assert_refused("no webhook secret", webhook.sign({}, ID, TIME, BODY))
    assert_refused("no webhook secret", webhook.sign(nil, ID, TIME, BODY))
  end)

  it("refuses to sign with a public key", function()
    assert_refused("cannot sign", webhook.sign(PUBLIC, ID, TIME, BODY))
  end)

  it("refuses an id that would be ambiguous or no header value", function()
    for _, bad in ipairs({ "", "a.b", "a b", "a\nb", "\195\164" }) do
      assert_refused("webhook%-id", webhook.sign(SECRET, bad, TIME, BODY))
    end
  end)

  it("raises for arguments that a program got wrong", function()
    local wrong = {
      { SECRET, 1, TIME, BODY }, { SECRET, ID, "soon", BODY }, { SECRET, ID, -1, BODY }, { SECRET, ID, 0 / 0, BODY },
      { SECRET, ID, TIME, {} }, { SECRET, ID, TIME, BODY, { tokn = 1 } }, { SECRET, ID, TIME, BODY, { token = "x" } },
    }
    for _, arguments in ipairs(wrong) do
      local ok, message = pcall(function()
        webhook.sign(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
        return true
      end)
      assert.is_false(ok)
      assert.matches("webhook_spec%.lua:%d+: webhook%.sign: ", message)
    end
  end)
end)

describe("webhook.verify", function()
  it("wants all three headers", function()
    for _, name in ipairs({ "webhook-id", "webhook-timestamp", "webhook-signature" }) do
      for _, none in ipairs({ false, "" }) do
        local given = headers(GOOD)
        given[name] = none or nil
        assert_refused(name:gsub("%-", "%%-") .. " is missing", webhook.verify(SECRET, given, BODY, ANY_AGE))
      end
    end
  end)

  it("refuses a timestamp that is no number", function()
    for _, text in ipairs({ "hello", "1614265330.0", "-5", "0x10", " 1614265330" }) do
      local given = headers(GOOD)
      given["webhook-timestamp"] = text
      assert_refused("not a number", webhook.verify(SECRET, given, BODY, ANY_AGE))
    end
  end)

  it("refuses what is more than 300 s off, in both directions", function()
    for offset, good in pairs({ [-301] = false, [-300] = true, [0] = true, [300] = true, [301] = false }) do
      local ok, message, code = webhook.verify(SECRET, headers(GOOD), BODY, { now = TIME + offset })
      if good then
        assert.is_true(ok)
      else
        assert_refused(offset > 0 and "s old" or "s ahead", ok, message, code)
      end
    end
  end)

  it("goes by the wall clock when no time is given", function()
    local now = math.floor(core.time())
    assert.is_true(webhook.verify(SECRET, headers(webhook.sign(SECRET, ID, now, BODY), ID, now), BODY))
    assert_refused("s old", webhook.verify(SECRET, headers(GOOD), BODY))
  end)

  it("takes another tolerance", function()
    assert.is_true(webhook.verify(SECRET, headers(GOOD), BODY, { now = TIME + 900, tolerance = 900 }))
    assert_refused("s old", webhook.verify(SECRET, headers(GOOD), BODY, { now = TIME + 6, tolerance = 5 }))
  end)

  it("refuses a huge timestamp", function()
    local given = headers(GOOD)
    given["webhook-timestamp"] = ("9"):rep(400)
    assert_refused("s ahead", webhook.verify(SECRET, given, BODY))
  end)

  it("does not care for the case of header names, nor for lists and numbers as values", function()
    assert.is_true(webhook.verify(SECRET,
      { ["Webhook-Id"] = ID, ["WEBHOOK-TIMESTAMP"] = TIME, ["Webhook-signature"] = { "v2,x", GOOD }, Host = "h" },
      BODY, ANY_AGE))
  end)

  it("refuses one header with two values", function()
    local given = headers(GOOD)
    given["Webhook-Id"] = "msg_other"
    assert_refused("given twice", webhook.verify(SECRET, given, BODY, ANY_AGE))
  end)

  it("refuses another id, timestamp or body", function()
    assert_refused("no entry", webhook.verify(SECRET, headers(GOOD, "msg_x"), BODY, ANY_AGE))
    assert_refused("no entry", webhook.verify(SECRET, headers(GOOD, ID, TIME + 1), BODY, ANY_AGE))
    assert_refused("no entry", webhook.verify(SECRET, headers(GOOD), BODY .. "\0", ANY_AGE))
  end)

  it("accepts any of several secrets", function()
    assert.is_true(webhook.verify({ SECOND, PUBLIC, SECRET }, headers(GOOD), BODY, ANY_AGE))
  end)

  it("refuses empty and malformed secrets, also beside a good one", function()
    for _, bad in ipairs({ "", "whsec_", "whsec_*" }) do
      assert_refused("webhook secret 1 ", webhook.verify(bad, headers(GOOD), BODY, ANY_AGE))
      assert_refused("webhook secret 2 ", webhook.verify({ SECRET, bad }, headers(GOOD), BODY, ANY_AGE))
    end
    assert_refused("no webhook secret", webhook.verify({}, headers(GOOD), BODY, ANY_AGE))
  end)

  it("finds no version inside another entry", function()
    local rest = GOOD:sub(3)
    for _, signature in ipairs({ "x-" .. GOOD, "v2,x," .. GOOD, "v1", ",", "V1" .. rest, "v1a" .. rest, "v1" }) do
      assert_refused("no entry", webhook.verify({ SECRET, PUBLIC }, headers(signature), BODY, ANY_AGE))
    end
  end)

  it("refuses every true prefix of a good entry", function()
    for length = 1, #GOOD - 1 do
      assert_refused("", webhook.verify(SECRET, headers(GOOD:sub(1, length)), BODY, ANY_AGE))
    end
  end)

  it("verifies v1a with either half of the pair, and no v1 entry with it", function()
    local value = webhook.sign(PRIVATE, ID, TIME, BODY)
    assert.is_true(webhook.verify(PRIVATE, headers(value), BODY, ANY_AGE))
    assert.is_true(webhook.verify(PUBLIC, headers(value), BODY, ANY_AGE))
    assert_refused("no entry", webhook.verify(SECRET, headers(value), BODY, ANY_AGE))
    assert_refused("no entry", webhook.verify(PUBLIC, headers(value), BODY .. "x", ANY_AGE))
    for _, entry in ipairs({ "v1a,AAAA", "v1a,", "v1a,*", value:sub(1, -5), value .. "AAAA" }) do
      assert_refused("no entry", webhook.verify({ PUBLIC, PRIVATE }, headers(entry), BODY, ANY_AGE))
    end
  end)

  it("raises for arguments that a program got wrong", function()
    local wrong = {
      { SECRET, nil, BODY }, { SECRET, headers(GOOD), nil }, { SECRET, headers(GOOD), BODY, { tolerence = 5 } },
      { SECRET, headers(GOOD), BODY, { now = "x" } }, { SECRET, headers(GOOD), BODY, { tolerance = true } },
    }
    for i = 1, 5 do
      local ok, message = pcall(function()
        webhook.verify(wrong[i][1], wrong[i][2], wrong[i][3], wrong[i][4])
        return true
      end)
      assert.is_false(ok)
      assert.matches("webhook_spec%.lua:%d+: webhook%.verify: ", message)
    end
  end)
end)

describe("webhook.verify with fence", function()
  local FENCED = { tolerance = false, fence = true }

  local function fenced(signature, token)
    local given = headers(signature)
    given["Webhook-Fencing-Token"] = token
    return given
  end

  it("accepts a token that a v1f entry covers", function()
    assert.is_true(webhook.verify(SECRET, fenced(GOOD .. " " .. FENCE, "42"), BODY, FENCED))
    assert.is_true(webhook.verify(SECRET, fenced(GOOD .. " " .. FENCE, 42), BODY, FENCED))
  end)

  it("refuses another token, and one without an entry", function()
    assert_refused("v1f", webhook.verify(SECRET, fenced(GOOD .. " " .. FENCE, "43"), BODY, FENCED))
    assert_refused("v1f", webhook.verify(SECRET, fenced(GOOD, "42"), BODY, FENCED))
    assert_refused("whole number", webhook.verify(SECRET, fenced(GOOD .. " " .. FENCE, "42.0"), BODY, FENCED))
  end)

  it("refuses a fence entry whose header was taken away", function()
    assert_refused("missing", webhook.verify(SECRET, headers(GOOD .. " " .. FENCE), BODY, FENCED))
  end)

  it("lets a sender without a fence pass, and wants the standard entry in any case", function()
    assert.is_true(webhook.verify(SECRET, headers(GOOD), BODY, FENCED))
    assert_refused("no entry", webhook.verify(SECRET, fenced(FENCE, "42"), BODY, FENCED))
  end)

  it("is not looked at unless asked for", function()
    assert.is_true(webhook.verify(SECRET, fenced(GOOD, "43"), BODY, ANY_AGE))
  end)
end)
