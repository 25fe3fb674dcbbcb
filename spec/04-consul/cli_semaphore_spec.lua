-- `holdfast lock -n`, beside a real agent and `consul lock -n` (51).
local cli = require("spec.support.cli")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local HOLD = { "sh", "-c", "echo held $HOLDFAST_TOKEN; exec sleep 1000" }

describe("holdfast lock -n", function()
  local key, pipes
  before_each(function() key, pipes = helper.unique_key(), {} end)
  after_each(function()
    for _, pipe in ipairs(pipes) do pipe:close() end
    helper.finish()
  end)

  local function words(limit, options, command)
    local list = { "lock", "-n", tostring(limit) }
    for _, option in ipairs(options) do list[#list + 1] = option end
    list[#list + 1] = key
    for _, word in ipairs(command) do list[#list + 1] = word end
    return list
  end

  local function hold(limit)
    local child = cli.spawn(words(limit, {}, HOLD))
    assert.matches("^held %d+$", (child:read_line()))
    return child
  end

  local function try(limit)
    local status, _, err = cli.run(words(limit, { "--timeout", "0.2" }, { "true" }))
    return status, err
  end

  local function consul_lock(arguments)
    local pipe = assert(io.popen(("exec %s lock %s 2>&1"):format(os.getenv("HF_CONSUL"), arguments:format(key))))
    pipes[#pipes + 1] = pipe
    return pipe
  end

  it("lets so many in, and the next one when one has gone (behaviour 51)", function()
    local first, second = hold(3), hold(3)
    hold(3)
    assert.are.equal(75, (try(3)))
    local waiter = cli.spawn(words(3, {}, HOLD))
    first:kill("TERM")
    assert.are.equal(128 + 15, (first:wait()))
    assert.matches("^held", (waiter:read_line()))
    assert.are.equal(75, (try(3)))
    second:kill("INT")
    assert.are.equal(128 + 2, (second:wait()))
    assert.are.equal(0, (try(3)))
  end)

  it("leaves nothing behind", function()
    assert.are.equal(0, (try(2)))
    assert.are.same({}, consul.kv.keys(key))
  end)

  it("shares the places with consul lock -n", function()
    local theirs = consul_lock("-n 2 %s 'echo $$; exec sleep 1000'")
    local pid = tonumber(theirs:read("*l"))
    local ours = hold(2)
    assert.are.equal(75, (try(2)))
    local third = consul_lock("-n 2 -timeout=300ms %s 'echo never'")
    assert.is_nil(third:read("*a"):find("never", 1, true))
    os.execute("kill -TERM " .. pid)
    theirs:read("*a")
    assert.are.equal(0, (try(2)))
    ours:kill("TERM")
    assert.are.equal(128 + 15, (ours:wait()))
  end)

  it("is told from a lock, and from another limit", function()
    local semaphore = hold(2)
    local status, err = try(3)
    assert.are.equal(76, status)
    assert.matches("semaphore limit conflict (lock: 2, local: 3)", err, 1, true)
    assert.are.equal(76, (try(1)))
    assert.matches("does not match", consul_lock("-timeout=1s %s 'echo never'"):read("*a"), 1, true)
    semaphore:kill("TERM")
    semaphore:wait()
    hold(1)
    assert.are.equal(76, (try(2)))
  end)

  it("ends the command when its place is lost", function()
    local child = hold(2)
    for _, session in ipairs(consul.session.list()) do
      if session.Name:find(key, 1, true) then consul.session.destroy(session.ID) end
    end
    assert.are.equal(79, (child:wait()))
  end)

  it("refuses what is no limit", function()
    for _, limit in ipairs({ "0", "-1", "1.5", "many" }) do
      local status, _, err = cli.run({ "lock", "--limit=" .. limit, key, "true" })
      assert.are.equal(64, status)
      assert.matches(limit, err, 1, true)
    end
  end)
end)
