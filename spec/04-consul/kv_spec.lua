-- client.kv against a real agent.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local code_of = agent.code_of

describe("client.kv", function()
  local client, kv, key
  before_each(function()
    client = helper.client()
    kv, key = client.kv, helper.unique_key()
  end)
  after_each(function()
    client, kv = nil, nil
    helper.finish()
  end)

  local function raises(text, fn, ...)
    local arguments = { ... }
    local ok, message = pcall(function() fn(kv, (table.unpack or unpack)(arguments)) end)
    assert.is_false(ok)
    assert.matches(text, message, 1, true)
    assert.matches("kv_spec.lua", message, 1, true)
  end

  describe("get and put", function()
    it("keep every byte", function()
      local bytes = {}
      for i = 0, 255 do bytes[i + 1] = string.char(i) end
      local value = table.concat(bytes)
      for _, one in ipairs({ value, "", "\0", ("x"):rep(100000) }) do
        assert.is_true(kv:put(key, one))
        assert.are.equal(one, assert(kv:get(key)).value)
      end
      assert.are.equal(("x"):rep(100000), consul.kv.get(key).Value)
    end)

    it("tell everything there is to know of a key, and the index", function()
      local session = helper.session()
      assert.is_true(kv:put(key, "v", { acquire = session, flags = "7" }))
      local pair, index, meta = kv:get(key)
      local there = consul.kv.get(key)
      assert.are.same({ key = key, value = "v", flags = "7", session = session, create_index = there.CreateIndex,
        modify_index = there.ModifyIndex, lock_index = 1 }, pair)
      assert.are.equal(there.ModifyIndex, index)
      assert.is_true(meta.known_leader)
      assert.are.equal(200, meta.status)
    end)

    it("keep flags above 2^53 exactly (behaviour 68)", function()
      for _, flags in ipairs({ "0", "9007199254740993", agent.LOCK_FLAGS, agent.SEMAPHORE_FLAGS,
        "18446744073709551615" }) do
        assert.is_true(kv:put(key, "v", { flags = flags }))
        assert.are.equal(flags, consul.kv.get(key).Flags)
        assert.are.equal(flags, kv:get(key).flags)
      end
      assert.is_true(kv:put(key, "v", { flags = 42 }))
      assert.are.equal("42", kv:get(key).flags)
    end)

    it("are NOT_FOUND for an absent key, which can be waited for", function()
      local pair, message, code, meta = kv:get(key)
      assert.is_nil(pair)
      assert.matches(key, message, 1, true)
      assert.are.equal("NOT_FOUND", code)
      assert.is_true(meta.index >= 1)
    end)

    it("reach every key that a lock may have", function()
      for _, name in ipairs({ "a b", "\195\164\226\130\172", "a%2Fb", "a+b", "a?b=c", "a#b", 'a"b', "a\\b", "a:b",
        "~a.b_c-d", "a/", "a/b/c", "%00" }) do
        local full = key .. "/" .. name
        assert.is_true(kv:put(full, name))
        assert.are.equal(full, assert(kv:get(full)).key)
        assert.is_true(kv:delete(full))
        assert.are.equal("NOT_FOUND", code_of(kv:get(full)))
      end
    end)

    it("refuse the keys that a lock may not have", function()
      for _, name in ipairs({ "/a", "a//b", "a/../b", ".", "a\nb", "a\0b", "\255" }) do
        assert.are.equal("INVALID", code_of(kv:get(name)))
        assert.are.equal("INVALID", code_of(kv:put(name, "")))
        assert.are.equal("INVALID", code_of(kv:delete(name)))
        assert.are.equal("INVALID", code_of(kv:list(name)))
      end
      assert.are.equal("TOO_LARGE", code_of(kv:get(("k"):rep(70000))))
    end)

    it("take a lock and give it back for a session", function()
      local session, other = helper.session(), helper.session()
      assert.is_true(kv:put(key, "a", { acquire = session }))
      assert.is_false(kv:put(key, "b", { acquire = other }))
      assert.is_false(kv:put(key, "b", { release = other }))
      assert.are.equal("a", kv:get(key).value)
      assert.is_true(kv:put(key, "c", { release = { id = function() return session end } }))
      assert.is_nil(kv:get(key).session)
    end)

    it("write when the key is as it was, and not when it has changed", function()
      assert.is_true(kv:put(key, "a", { cas = 0 }))
      assert.is_false(kv:put(key, "b", { cas = 0 }))
      local index = kv:get(key).modify_index
      assert.is_true(kv:put(key, "c", { cas = index }))
      assert.is_false(kv:put(key, "d", { cas = index }))
      assert.are.equal("c", kv:get(key).value)
    end)

    it("are TOO_LARGE for a value that Consul finds too large", function()
      assert.are.equal("TOO_LARGE", code_of(kv:put(key, ("x"):rep(600000))))
    end)

    it("take what a read may be like (behaviour 34)", function()
      assert.is_true(kv:put(key, "v"))
      assert.are.equal("v", assert(kv:get(key, { consistent = true })).value)
      assert.are.equal("v", assert(kv:get(key, { stale = true, dc = "dc1" })).value)
      assert.are.equal("HTTP", code_of(kv:get(key, { dc = "nowhere" })))
      assert.are.equal("HTTP", code_of(kv:put(key, "w", { dc = "nowhere" })))
    end)

    it("raise for what only a programmer can get wrong", function()
      raises("key must be a string, not a nil", kv.get)
      raises("missing key", kv.get, "")
      raises("missing key", kv.put, "", "v")
      raises("missing key", kv.delete, "")
      raises("value must be a string", kv.put, key, 5)
      raises('unknown option "opts.cas"', kv.get, key, { cas = 1 })
      raises("consistent excludes stale", kv.get, key, { consistent = true, stale = true })
      raises("cas, acquire and release exclude each other", kv.put, key, "v", { cas = 1, acquire = "s" })
      raises("cas and recurse exclude each other", kv.delete, key, { cas = 1, recurse = true })
      raises("opts.flags must be a whole number or its digits", kv.put, key, "v", { flags = true })
      raises("a session or its id", kv.put, key, "v", { acquire = {} })
    end)

    it("refuse flags that have more than 64 bits, and what is no session", function()
      for _, flags in ipairs({ "18446744073709551616", "-1", "1e3", "", "x" }) do
        assert.are.equal("INVALID", code_of(kv:put(key, "v", { flags = flags })))
      end
      assert.are.equal("INVALID", code_of(kv:put(key, "v", { acquire = "a b" })))
      assert.are.equal("HTTP", code_of(kv:put(key, "v", { acquire = "5e551014-0000-0000-0000-000000000077" })))
    end)
  end)

  describe("a blocking get", function()
    local loop = require("holdfast.loop")
    before_each(function()
      client = helper.client({ scheduler = "loop" })
      kv = client.kv
    end)

    -- What a get answers that blocks while this is done.
    local function blocked(index, change)
      local pair, next_index
      loop.run(function()
        loop.spawn(function()
          pair, next_index = kv:get(key, { index = index, wait = helper.seconds(5) })
        end)
        helper.eventually(function() return client:stats().requests > 0 end)
        change()
      end)
      return pair, next_index
    end

    it("answers when the key has changed", function()
      assert(consul.kv.put(key, "a"))
      local index = consul.kv.get(key).ModifyIndex
      local pair, next_index = blocked(index, function() assert(consul.kv.put(key, "b")) end)
      assert.are.equal("b", pair.value)
      assert.is_true(next_index > index)
    end)

    it("answers when the key is there at last", function()
      local index = select(4, kv:get(key)).index
      local limit = 20
      local function put() assert(consul.kv.put(key, "b")) end
      local pair, next_index = blocked(index, put)
      while not pair and limit > 0 do -- any write wakes who waits for an absent key, before Consul 1.14
        pair, next_index = kv:get(key)
        limit = limit - 1
      end
      assert.are.equal("b", pair.value)
      assert.is_true(next_index > index)
    end)

    it("answers what is there when its time is over", function()
      assert(consul.kv.put(key, "a"))
      local _, index = kv:get(key)
      local pair, next_index = kv:get(key, { index = index, wait = "10ms" })
      assert.are.same({ "a", index }, { pair.value, next_index })
    end)

    it("begins anew when its index is ahead of the server's (behaviour 61)", function()
      assert(consul.kv.put(key, "a"))
      local pair, next_index = kv:get(key, { index = 1000000000, wait = "10ms" })
      assert.are.same({ "a", 0 }, { pair.value, next_index })
    end)
  end)

  describe("list, keys and delete", function()
    before_each(function()
      for _, name in ipairs({ "a", "b/1", "b/2", "c" }) do assert(kv:put(key .. "/" .. name, name)) end
    end)

    local function names(list)
      local short = {}
      for i, one in ipairs(list) do short[i] = (type(one) == "table" and one.key or one):sub(#key + 2) end
      return short
    end

    it("read all that begins with a prefix", function()
      local pairs_there, index, meta = kv:list(key .. "/")
      assert.are.same({ "a", "b/1", "b/2", "c" }, names(pairs_there))
      assert.are.equal("b/2", pairs_there[3].value)
      assert.is_true(index >= pairs_there[4].modify_index)
      assert.are.equal(200, meta.status)
      assert.are.same({ "a", "b/1", "b/2", "c" }, names((kv:keys(key .. "/"))))
      assert.are.same({ "a", "b/", "c" }, names((kv:keys(key .. "/", "/"))))
    end)

    it("answer an empty list, and an index, when nothing does", function()
      for _, list in ipairs({ kv.list, kv.keys }) do
        local found, index, meta = list(kv, key .. "/none/")
        assert.are.same({}, found)
        assert.is_true(index >= 1)
        assert.are.equal(404, meta.status)
      end
    end)

    it("read everything there is", function()
      local found = {}
      for _, name in ipairs((assert(kv:keys("")))) do found[name] = true end
      assert.is_true(found[key .. "/b/2"])
    end)

    it("delete one, none, or all of them", function()
      assert.is_true(kv:delete(key .. "/a"))
      assert.is_true(kv:delete(key .. "/a"))
      assert.is_false(kv:delete(key .. "/c", { cas = kv:get(key .. "/c").modify_index - 1 }))
      assert.is_true(kv:delete(key .. "/c", { cas = kv:get(key .. "/c").modify_index }))
      assert.are.same({ "b/1", "b/2" }, names((kv:keys(key .. "/"))))
      assert.is_true(kv:delete(key .. "/b/", { recurse = true }))
      assert.are.same({}, (kv:keys(key .. "/")))
    end)
  end)

  describe("txn", function()
    it("carries out all operations at once", function()
      local session = helper.session()
      local results = assert(kv:txn({
        { verb = "check-not-exists", key = key },
        { verb = "lock", key = key, value = "a\0b", flags = agent.LOCK_FLAGS, session = session },
        { verb = "set", key = key .. "/x", value = "\255", flags = 5 },
        { verb = "get-tree", key = key },
      }))
      local there = kv:get(key)
      assert.are.same({ "a\0b", agent.LOCK_FLAGS, session }, { there.value, there.flags, there.session })
      assert.are.equal(there.modify_index, results[#results - 2].modify_index)
      assert.are.same({ key, "a\0b", agent.LOCK_FLAGS },
        { results[#results - 1].key, results[#results - 1].value, results[#results - 1].flags })
      assert.are.same({ "\255", "5" }, { results[#results].value, results[#results].flags })
    end)

    it("answers false, and which operations did not hold, and does nothing", function()
      assert.is_true(kv:put(key, "a"))
      local done, message, errors = kv:txn({
        { verb = "set", key = key, value = "b" },
        { verb = "check-index", key = key, index = 1 },
        { verb = "check-not-exists", key = key },
      })
      assert.is_false(done)
      assert.matches("operation 2: failed index check", message, 1, true)
      assert.are.same({ 2, 3 }, { errors[1].op, errors[2].op })
      assert.matches("exists", errors[2].what, 1, true)
      assert.are.equal("a", kv:get(key).value)
    end)

    it("writes by index, and deletes", function()
      assert.is_true(kv:put(key, "a"))
      local index = kv:get(key).modify_index
      local done = assert(kv:txn({ { verb = "cas", key = key, value = "b", index = index } }))
      index = done[1].modify_index
      assert.is_false((kv:txn({ { verb = "delete-cas", key = key, index = index - 1 } })))
      assert.are.same({}, (kv:txn({ { verb = "delete-cas", key = key, index = index } })))
      assert.are.equal("NOT_FOUND", code_of(kv:get(key)))
    end)

    it("reads more than one transaction may have, as few as it can", function()
      local writes, reads = {}, {}
      for i = 1, 300 do
        local name = ("%s/%03d"):format(key, i)
        writes[(i - 1) % 60 + 1] = { verb = "set", key = name, value = tostring(i) }
        reads[i] = { verb = "get", key = name }
        if i % 60 == 0 then assert(kv:txn(writes)) end
      end
      local before = client:stats().requests
      local results = assert(kv:txn(reads, { consistent = true }))
      assert.are.equal(300, #results)
      for i, pair in ipairs(results) do assert.are.equal(tostring(i), pair.value) end
      assert.is_true(client:stats().requests - before <= 6) -- 64 each, and one that was refused
      before = client:stats().requests
      assert(kv:txn(reads))
      assert.is_true(client:stats().requests - before <= 5) -- what the server takes is known now
    end)

    it("numbers what does not hold through all of them", function()
      local reads = {}
      for i = 1, 200 do reads[i] = { verb = "check-not-exists", key = key .. "/" .. i } end
      assert.are.same({}, (kv:txn(reads)))
      assert.is_true(kv:put(key .. "/3", ""))
      assert.is_true(kv:put(key .. "/199", ""))
      local done, _, errors = kv:txn(reads)
      assert.is_false(done)
      assert.are.same({ 3, 199 }, { errors[1].op, errors[2].op })
    end)

    it("is TOO_LARGE with more writes than one transaction may have, and does nothing", function()
      local writes = {}
      for i = 1, 129 do writes[i] = { verb = "set", key = key .. "/" .. i, value = "" } end
      local done, message, code = kv:txn(writes)
      assert.are.same({ nil, "TOO_LARGE" }, { done, code })
      assert.matches("not split: it would not be atomic", message, 1, true)
      assert.are.same({}, (kv:keys(key .. "/")))
    end)

    it("of nothing does nothing", function()
      assert.are.same({}, (kv:txn({})))
    end)

    it("raises for what only a programmer can get wrong", function()
      raises("ops must be a list of operations", kv.txn, "get")
      raises('operation 1.verb must be "cas"', kv.txn, { { verb = "put", key = key } })
      raises("missing operation 2.key", kv.txn, { { verb = "get", key = key }, { verb = "get" } })
      raises("consistent excludes stale", kv.txn, { { verb = "get", key = key } }, { consistent = true, stale = true })
      assert.are.equal("INVALID", code_of(kv:txn({ { verb = "get", key = "/a" } })))
    end)
  end)

  it("is DENIED without the right to do it, in a transaction too", function()
    local server = helper.agent({ token = "root",
      config = { acl = { enabled = true, default_policy = "deny", tokens = { master = "root" } } } })
    client = helper.client({ address = server:address(), token = "root" })
    assert.is_true(client.kv:put("k", "v"))
    local stranger = helper.client({ address = server:address() }).kv
    assert.are.equal("DENIED", code_of(stranger:put("k", "w")))
    assert.are.equal("DENIED", code_of(stranger:txn({ { verb = "set", key = "k", value = "w" } })))
    assert.is_true(stranger:put("k", "w", { token = "root" }))
    assert.are.equal("w", client.kv:get("k").value)
  end)

  it("is CLOSED once the client is", function()
    client:close()
    assert.are.equal("CLOSED", code_of(kv:get(key)))
    assert.are.equal("CLOSED", code_of(kv:put(key, "")))
    assert.are.equal("CLOSED", code_of(kv:delete(key)))
    assert.are.equal("CLOSED", code_of(kv:list(key)))
    assert.are.equal("CLOSED", code_of(kv:txn({ { verb = "get", key = key } })))
  end)
end)
