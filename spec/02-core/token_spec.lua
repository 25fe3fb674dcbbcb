-- A token file is read again when a request is refused, and the same request goes once more with what it holds then.
local fake = require("spec.support.fake")
local helper = require("spec.helper")

local code_of = fake.code_of
local unpack = table.unpack or unpack -- luacheck: ignore

local REFUSALS = {
  ["a 403"] = { status = 403, body = "ACL not found" },
  ["a refused operation"] = fake.refusal({ "Permission denied", "Permission denied" }),
}

describe("a token file", function()
  local server, client, path
  before_each(function()
    server = fake.consul()
    path = os.tmpname()
  end)
  after_each(function()
    client = nil
    os.remove(path)
    helper.finish()
  end)

  local function write(text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
  end

  local function make(options)
    write(" first\n")
    local given = { address = server:address(), token_file = path }
    for name, value in pairs(options or {}) do given[name] = value end
    client = helper.client(given)
    return assert(client:lock("k"))
  end

  local function tokens(match)
    local list = {}
    for i, entry in ipairs(server:log(match)) do list[i] = entry.headers["x-consul-token"] or "none" end
    return list
  end

  local function refuse(match, answer, extra)
    extra = extra or {}
    extra.first = true
    server:rule(fake.on(match, answer, extra))
  end

  for name, answer in pairs(REFUSALS) do
    it("is read again after " .. name .. ", and the request goes with the new token", function()
      local lock = make()
      refuse(fake.TXN, answer, { times = 1 })
      write("second\n")
      assert(lock:lock(0))
      assert.are.same({ "first" }, tokens(fake.CREATE))
      assert.are.same({ "first", "second" }, tokens(fake.TXN))
      local log = server:log(fake.TXN)
      assert.are.equal(log[1].body, log[2].body)
      assert(lock:unlock(helper.seconds(10)))
      assert.are.equal("second", tokens(fake.TXN)[3])
    end)
  end

  it("is taken at its word once: a new token that is refused too is DENIED", function()
    local lock = make()
    refuse(fake.TXN, REFUSALS["a 403"])
    write("second\n")
    assert.are.equal("DENIED", code_of(lock:lock(0)))
    assert.are.same({ "first", "second" }, { unpack(tokens(fake.TXN), 1, 2) })
    client:abandon()
  end)

  it("serves every request that was sent with the old token", function()
    make()
    refuse(fake.CREATE, REFUSALS["a 403"], { times = 2, hold = true })
    local locks, ops = {}, {}
    for i = 1, 2 do
      locks[i] = assert(client:lock({ key = "k" .. i, session_ttl = "20s" })) -- with a session of its own
      ops[i] = assert(locks[i]:start_lock(0))
    end
    assert(server:wait_for(fake.CREATE, 2, helper.seconds(10)))
    write("second")
    assert.are.equal(2, server:release(fake.CREATE))
    for _, op in ipairs(ops) do assert(fake.result(op)) end
    assert.are.same({ "first", "first", "second", "second" }, tokens(fake.CREATE))
  end)

  for name, spoil in pairs({
    ["is gone"] = function() os.remove(path) end,
    ["is empty"] = function() write("") end,
    ["is a directory"] = function() os.remove(path) assert(os.execute("mkdir " .. path)) end,
    ["holds two lines"] = function() write("second\nthird\n") end,
    ["holds more than a token"] = function() write(("x"):rep(8193)) end,
    ["holds the same token"] = function() write("first") end,
  }) do
    it("that " .. name .. " leaves the old token", function()
      local lock = make()
      refuse(fake.KEY, REFUSALS["a 403"], { times = 1 })
      spoil()
      assert.are.equal("DENIED", code_of(lock:lock(0)))
      assert.are.same({ "first" }, tokens(fake.KEY))
      assert(lock:lock(0))
      assert.are.same({ "first", "first" }, tokens(fake.KEY))
    end)
  end

  it("is what counts, not the token that is given beside it", function()
    local lock = make({ token = "string" })
    assert(lock:lock(0))
    assert.are.same({ "first" }, tokens(fake.CREATE))
  end)
end)
