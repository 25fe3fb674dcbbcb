-- `holdfast release`, beside a real agent.
local cli = require("spec.support.cli")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local LOCK, SEMAPHORE = "3304740253564472344", "16210313421097356768"

describe("holdfast release", function()
  local key
  before_each(function() key = helper.unique_key("a b") end)
  after_each(helper.finish)

  local function hold(options)
    local session = helper.session(options)
    assert.is_true(consul.kv.put(key, "va\0lue", { acquire = session, flags = LOCK }))
    return session
  end

  -- Answers exit status, and what was said on the terminal.
  local function answer(words, typed)
    local run = assert(io.popen(("{ printf %s | %s; status=$?; echo; echo $status; } 2>&1"):format(cli.quote(typed),
      cli.line(words))))
    local text = run:read("*a")
    run:close()
    return tonumber(text:match("(%d+)\n$")), text
  end

  it("frees a key, and leaves all else of it as it was", function()
    local session = hold()
    local status, _, err = cli.run({ "release", "--yes", key })
    assert.are.equal(0, status)
    assert.matches("was held by session " .. session, err, 1, true)
    local pair = consul.kv.get(key)
    assert.are.same({ "va\0lue", LOCK, nil }, { pair.Value, pair.Flags, pair.Session })
    assert.is_table(consul.session.info(session))
  end)

  it("destroys the session when it is to", function()
    local session = hold({ LockDelay = "0s" })
    assert.are.equal(0, (cli.run({ "release", "--yes", "--session", key })))
    assert.is_nil(consul.session.info(session))
    assert.is_nil(consul.kv.get(key).Session)
  end)

  it("is noticed by the holder", function()
    local lock = helper.client():lock({ key = key, monitor = "key" })
    assert.is_true(lock:lock(helper.seconds(5)))
    assert.are.equal(0, (cli.run({ "release", "--yes", key })))
    assert.are.equal("stolen", (lock:wait_lost(helper.seconds(5))))
  end)

  it("asks first", function()
    local session = hold()
    for _, typed in ipairs({ "", "\n", "n\n", "no\n" }) do
      local status, text = answer({ "release", key }, typed)
      assert.are.equal(1, status)
      assert.matches("is held by session " .. session .. " (holdfast-spec-", text, 1, true)
      assert.matches("left as it is", text, 1, true)
      assert.are.equal(session, consul.kv.get(key).Session)
    end
    assert.are.equal(0, (answer({ "release", key }, "y\n")))
    assert.is_nil(consul.kv.get(key).Session)
  end)

  it("changes nothing when another has got the key meanwhile", function()
    local proxy, first = helper.proxy(), hold()
    proxy:rule({ match = "^PUT /v1/txn", hold = true })
    local child = cli.spawn({ "release", "--yes", "--address", proxy:address(), key })
    assert(proxy:wait_for("^PUT /v1/txn", 1, helper.seconds(5)))
    consul.kv.put(key, "", { release = first })
    local second = hold()
    proxy:release()
    local status, _, err = child:wait()
    assert.are.equal(1, status)
    assert.matches("has changed meanwhile", err, 1, true)
    assert.are.equal(second, consul.kv.get(key).Session)
  end)

  it("says what nobody holds, and what is a semaphore", function()
    local status, _, err = cli.run({ "release", "--yes", key })
    assert.are.equal(1, status)
    assert.matches("nobody holds " .. key .. "; what holdfast lock takes", err, 1, true)
    consul.kv.put(key .. "/.lock", "{}", { flags = SEMAPHORE })
    status, _, err = cli.run({ "release", "--yes", key .. "/.lock" })
    assert.are.equal(76, status)
    assert.matches("holdfast release --session " .. key .. "/SESSION", err, 1, true)
  end)
end)
