-- `holdfast locks` and `holdfast sessions`, beside a real agent.
local json = require("dkjson")
local cli = require("spec.support.cli")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local SEMAPHORE = "16210313421097356768"

local function read(words)
  local status, out, err = cli.run(words)
  assert.are.equal("", err)
  assert.are.equal(0, status)
  return json.decode(out), out
end

describe("holdfast locks", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  it("says who holds what", function()
    local client = helper.client()
    local lock = client:lock(key .. "/b c")
    assert.is_true(lock:lock(helper.seconds(5)))
    consul.kv.put(key .. "/a", "free", { flags = "3304740253564472344" })
    local session = consul.session.info(lock:session())
    local rows = read({ "locks", "--json", key .. "/" })
    assert.are.same({ { key = key .. "/b c", kind = "lock", state = "holds", session = session.ID, name = session.Name,
      node = session.Node, ttl = 10, lock_delay = 25, token = lock:token() } }, rows)
    local _, out = cli.run({ "locks", key })
    local heading, line, rest = out:match("^(.-)\n(.-)\n(.*)$")
    assert.matches("^KEY +KIND +STATE +SESSION +NODE +TTL +TOKEN +NAME$", heading)
    assert.are.equal(tostring(lock:token()), line:sub((heading:find("TOKEN"))):match("^%d+"))
    assert.matches(session.ID, line, 1, true)
    assert.matches(" 10s ", line, 1, true)
    assert.are.equal("", rest)
  end)

  it("tells holders of a semaphore from those who wait for a place", function()
    local holder, waiter = helper.session({ TTL = "20s" }), helper.session()
    consul.kv.put(key .. "/" .. holder, "", { flags = SEMAPHORE, acquire = holder })
    consul.kv.put(key .. "/" .. waiter, "", { flags = SEMAPHORE, acquire = waiter })
    consul.kv.put(key .. "/.lock", json.encode({ Limit = 1, Holders = { [holder] = true } }), { flags = SEMAPHORE })
    local rows = read({ "locks", "--json", key })
    assert.are.equal(2, #rows)
    for i, expected in ipairs({ { holder, "holds", 20 }, { waiter, "waits", nil } }) do
      assert.are.equal(key .. "/.lock", rows[i].key)
      assert.are.equal("semaphore", rows[i].kind)
      assert.are.equal(1, rows[i].limit)
      assert.are.same(expected, { rows[i].session, rows[i].state, rows[i].ttl })
    end
  end)

  it("tells who waits for a fair lock, in their order", function()
    local first, second = helper.session(), helper.session()
    for i, session in ipairs({ second, first }) do
      consul.kv.put(("%s/.fair/%d"):format(key, 9 - i), "", { flags = "114788930253425", acquire = session })
    end
    local holder = helper.session()
    consul.kv.put(key, "", { flags = "3304740253564472344", acquire = holder })
    local seen = {}
    for i, row in ipairs(read({ "locks", "--json", key })) do
      assert.are.same({ key, "lock" }, { row.key, row.kind })
      seen[i] = { row.state, row.session }
    end
    assert.are.same({ { "holds", holder }, { "waits", second }, { "waits", first } }, seen)
  end)

  it("says that there is nothing, and what it cannot reach", function()
    assert.are.same({}, read({ "locks", "--json", key }))
    local status, out, err = cli.run({ "locks", "--address", "127.0.0.1:1" })
    assert.are.equal(69, status)
    assert.are.equal("", out)
    assert.matches("127.0.0.1:1", err, 1, true)
  end)

  it("ends by Ctrl-C", function()
    local server = helper.server()
    server:rule({ action = "stall" })
    local child = cli.spawn({ "locks", "--address", server:address(), "--http-timeout", "1000s" })
    assert(server:wait_for("^GET /v1/kv/", 1, helper.seconds(5)))
    child:kill("INT")
    local status, out, err = child:wait()
    assert.are.same({ 130, "", "" }, { status, out, err })
  end)

  it("lets no name move the cursor", function()
    local session = helper.session({ Name = "\27[2J\nx" })
    consul.kv.put(key, "", { acquire = session })
    local _, out = cli.run({ "locks", key })
    assert.matches("?[2J?x\n", out, 1, true)
    consul.session.destroy(session)
  end)
end)

describe("what cannot be printed", function()
  after_each(helper.finish)

  it("is said, and is a status of its own", function()
    for _, words in ipairs({ { "locks" }, { "locks", "--json" }, { "sessions" }, { "doctor" } }) do
      local run = assert(io.popen(cli.line(words) .. " 2>&1 >/dev/full; echo $?"))
      assert.are.equal("holdfast: standard output: No space left on device\n74\n", run:read("*a"))
      run:close()
    end
  end)
end)

describe("holdfast sessions", function()
  after_each(helper.finish)

  local function of(rows, id)
    for _, row in ipairs(rows) do
      if row.session == id then return row end
    end
  end

  it("lists them", function()
    local id = helper.session({ TTL = "1m30s", LockDelay = "1500ms", Behavior = "delete" })
    local info = consul.session.info(id)
    assert.are.same({ session = id, name = info.Name, node = info.Node, ttl = 90, lock_delay = 1.5, behavior = "delete",
      checks = { "serfHealth" }, service_checks = {} }, of(read({ "sessions", "--json" }), id))
    assert.is_table(of(read({ "sessions", "--json", "--node", info.Node }), id))
    assert.are.same({}, read({ "sessions", "--json", "--node", "none such/1" }))
    local _, out = cli.run({ "sessions" })
    local line = out:match(id:gsub("-", "%%-") .. "[^\n]*"):gsub(" +", " ")
    assert.are.equal(("%s %s 90s 1.5s delete serfHealth - %s"):format(id, info.Node, info.Name), line)
  end)

  it("tells no checks from none", function()
    local id = helper.session({ NodeChecks = json.decode("[]") })
    local _, out = read({ "sessions", "--json" })
    assert.matches('"checks":%[%]', out)
    assert.are.same({}, of(json.decode(out), id).checks)
    assert.is_nil(of(json.decode(out), id).ttl)
  end)
end)
