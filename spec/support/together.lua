--- Has a client's ops go together in a transaction, and tells what has gone together.
--
--    local ops = together.start(client, proxy, function() return { first:start_lock(), second:start_lock() } end)
--    for _, op in ipairs(ops) do assert.is_true(fake.result(op)) end
--    assert.are.equal(2, together.transactions(proxy)[1].count)
--
-- Both slots that a client has for its commands are taken by looks that nobody answers, until all that fn has started
-- waits for one: nothing depends on how fast anybody is. The client's session must have been made.
-- @module spec.support.together

local fake = require("spec.support.fake")
local helper = require("spec.helper")
local json = require("dkjson")

local M = {}

local BLOCKER = "/blocker"
local LOOKS = "^GET /v1/kv/.*" .. BLOCKER

--- Takes the client's two slots. Answers a function that gives one of them back, and with "all" what is left of them.
-- prefix: of the keys that are looked at for that
function M.occupy(client, proxy, prefix)
  local before, ops = proxy:count(LOOKS), {}
  proxy:rule({ first = true, match = LOOKS, action = "stall" })
  for i = 1, 2 do
    ops[i] = assert(assert(client:lock(("%s%s%d"):format(prefix, BLOCKER, before + i))):start_lock())
    assert(proxy:wait_for(LOOKS, before + i, helper.seconds(5)))
  end
  return function(all)
    repeat
      table.remove(ops):cancel()
    until not all or not ops[1]
  end
end

--- Calls fn while there is no slot for what it starts; answers what it answers.
function M.start(client, proxy, prefix, fn)
  local free = M.occupy(client, proxy, prefix)
  local result = fn()
  free("all")
  return result
end

local function read(entry)
  local transaction = { keys = {}, count = 0, operations = 0, status = entry.status, text = entry.body, entry = entry }
  for _, item in ipairs((json.decode(entry.body))) do
    local key, verb = item.KV.Key, item.KV.Verb
    local verbs = transaction.keys[key]
    if not verbs then
      transaction.count = transaction.count + 1
      transaction[transaction.count] = key
    end
    transaction.keys[key] = verbs and verbs .. " " .. verb or verb
    transaction.operations = transaction.operations + 1
  end
  return transaction
end

--- The transactions that a proxy or server has been sent so far, in order: { the keys, in order; keys = key -> its
-- verbs, as in "check-index lock"; count = of keys; operations = how many; status = its answer; text = its body }.
-- pattern: those whose verbs for the first key match; default: those that write
function M.transactions(proxy, pattern)
  local found = {}
  for _, entry in ipairs(proxy:log("^PUT /v1/txn")) do
    local transaction = read(entry)
    local verbs = transaction.keys[transaction[1]]
    local reads = verbs == "get" or verbs:find("check-session", 1, true)
    if pattern and verbs:find(pattern) or not pattern and not reads then found[#found + 1] = transaction end
  end
  return found
end

--- The keys of the locks that a list of ops, one of each lock, has got: key -> true, or the code.
function M.results(locks, ops)
  local found = {}
  for i, op in ipairs(ops) do found[locks[i]:key()] = fake.code_of(fake.result(op, 20)) end
  return found
end

return M
