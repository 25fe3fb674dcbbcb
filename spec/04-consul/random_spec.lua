-- A thousand steps of everything that two clients do to a few keys, one after the other; and as many on more keys, by
-- many coroutines at once, so that what they ask for shares transactions; and some of them take several keys in one
-- step. Meanwhile requests arrive late or twice or not at all, and an operator deletes keys. After every step it is
-- compared with a plain model of who may hold what:
--
--   - never do two believe that they hold a key, unless it was deleted under one of them, which does not know yet
--   - of several keys all are held, with one token, or none
--   - tokens rise from hold to hold of a key
--   - a hold ends by an unlock, a deletion or its lease, and by nothing else; no unlock of another one is LOST
--   - when all is quiet no key is held
--
-- HF_SEED=n runs the steps of seed n (which a failure names) once more; HF_STEPS=n so many of them.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local loop = require("holdfast.loop")
local helper = require("spec.helper")
local json = require("dkjson")
local mime = require("mime")
local socket = require("socket")
local together = require("spec.support.together")

local STEPS = tonumber(os.getenv("HF_STEPS")) or 1000
local SEED = tonumber(os.getenv("HF_SEED")) or math.floor(socket.gettime() * 1000) % 1000000 + 1
local QUIET_EVERY = 250 -- steps
local FEW, MANY = 3, 32 -- keys

-- The same numbers on every Lua. random(n) is one of 1 … n.
local function generator(seed)
  local state = seed * 48271 % 2147483647 + 1
  return function(n)
    state = state * 16807 % 2147483647
    return math.floor(state / 2147483647 * n) + 1
  end
end

local World = {}
World.__index = World

-- A slot is a client's interest in a key, or in several at once: the lock object of now, an acquire on its way (op),
-- what it holds (hold: the token). Of a key the model knows the last token, and the index at which an operator deleted
-- it last: what was taken before that is doomed, and may be believed until somebody looks.
local function make_lock(client, keys)
  local names = {}
  for i, key in ipairs(keys) do names[i] = key.name end
  return assert(names[2] and client:lock_all(names) or client:lock(names[1]))
end

local function add_slot(world, c, keys)
  local slot = { client = c, keys = keys, lock = make_lock(world.clients[c], keys) }
  for _, key in ipairs(keys) do
    for _, other in ipairs(key.slots) do world.pairs[#world.pairs + 1] = { slot, other, key } end
    key.slots[#key.slots + 1] = slot
  end
  world.slots[#world.slots + 1] = slot
end

-- groups: lists of numbers of keys, which each client wants at once, beside each key alone.
local function new_world(seed, keys, scheduler, groups)
  local world = setmetatable({ random = generator(seed), slots = {}, keys = {}, proxies = {}, clients = {}, step = 0,
    shared = 0, unlocking = 0, pairs = {} }, World)
  world.marker = helper.unique_key("marker")
  for k = 1, keys do world.keys[k] = { name = helper.unique_key(), last = 0, deleted = 0, slots = {} } end
  for c = 1, 2 do
    world.proxies[c] = helper.proxy()
    world.clients[c] = helper.client({ address = world.proxies[c]:address(), timeout = 0.25, scheduler = scheduler,
      session = { ttl = "10s", lock_delay = "2s" } })
    for k = 1, keys do add_slot(world, c, { world.keys[k] }) end
    for _, group in ipairs(groups or {}) do
      local all = {}
      for i, k in ipairs(group) do all[i] = world.keys[k] end
      add_slot(world, c, all)
    end
  end
  return world
end

function World:say(slot, what)
  local names = {}
  for i, key in ipairs(slot.keys) do names[i] = key.name:match("[^/]+$") end
  self.doing = ("client %d, key %s: %s"):format(slot.client, table.concat(names, "+"), what)
  local recent = self.recent or {}
  self.recent = recent
  recent[#recent + 1] = self.doing
  if #recent > 12 then table.remove(recent, 1) end
end

local function doomed(slot, hold)
  for _, key in ipairs(slot.keys) do
    if (hold or slot.hold) < key.deleted then return true end
  end
  return false
end

-- ---- the model -----------------------------------------------------------------------------------------------------

-- The slot's lock has just been taken.
local function took(slot)
  local token = slot.lock:token()
  slot.hold = token
  if not token or doomed(slot) then return end -- lost meanwhile
  for _, key in ipairs(slot.keys) do
    if token <= key.last then error(("token %d after %d"):format(token, key.last)) end
    key.last = token
  end
end

-- The slot's lock says that it is not held any more, and nobody has given it back.
local function ended(slot)
  local _, reason = slot.lock:held()
  if reason ~= "deadline" and not doomed(slot) then error("a hold was lost by " .. tostring(reason)) end
  slot.hold = nil
end

local function refused(code, but)
  if code == "CONFLICT" or code == "HELD" or code == but then error("an acquire answered " .. code) end
end

local function settle(slot)
  if slot.op and slot.op:done() then
    local ok, _, code = slot.op:result()
    slot.op = nil
    if ok then took(slot) else refused(code) end
  end
  if slot.hold and not slot.lock:held() then ended(slot) end
end

local function believes(slot, key)
  return slot.hold and slot.hold > key.deleted and slot.lock:held()
end

-- One is asked twice, before and after the other: holds that overlap are believed in at one moment.
local function check_overlap(one, other, key)
  if believes(one, key) and believes(other, key) and believes(one, key) then
    error(("two hold it, with tokens %d and %d"):format(one.hold, other.hold))
  end
end

function World:check()
  for _, slot in ipairs(self.slots) do settle(slot) end
  for _, pair in ipairs(self.pairs) do check_overlap(pair[1], pair[2], pair[3]) end
end

-- ---- the steps -----------------------------------------------------------------------------------------------------

local steps = {}

local function acquire(world, slot, seconds)
  if slot.op or slot.hold then return end
  world:say(slot, ("lock(%g)"):format(seconds))
  local ok, _, code = slot.lock:lock(seconds)
  if ok then took(slot) else refused(code, "CANCELED") end
end

function steps.try(world, slot) acquire(world, slot, 0) end

function steps.lock(world, slot) acquire(world, slot, world.random(8) / 100) end

function steps.start(world, slot)
  if slot.op or slot.hold then return end
  world:say(slot, "start_lock")
  slot.op = assert(slot.lock:start_lock(world.random(2) == 1 and 0.3 or nil))
end

function steps.wait(world, slot)
  if not slot.op then return end
  world:say(slot, "wait")
  slot.op:wait(0.02)
end

function steps.cancel(world, slot)
  if not slot.op then return end
  world:say(slot, "cancel")
  if world.random(2) == 1 then slot.lock:cancel() else slot.op:cancel() end
end

function steps.unlock(world, slot)
  if not slot.hold then return end
  local seconds, hold = ({ 0, 0.02, 3 })[world.random(3)], slot.hold
  world:say(slot, ("unlock(%g)"):format(seconds))
  slot.hold, world.unlocking = nil, world.unlocking + 1
  local ok, message, code = slot.lock:unlock(seconds)
  world.unlocking = world.unlocking - 1
  if not ok and code == "LOST" then
    local _, reason = slot.lock:lost()
    if reason ~= "deadline" and not doomed(slot, hold) then error("unlock answered " .. message) end
  end
  if slot.lock:held() then error("held after an unlock") end
end

-- The lock of the same object follows the unlock that nobody has waited for.
function steps.relock(world, slot)
  if not slot.hold then return end
  world:say(slot, "start_unlock, start_lock")
  slot.hold = nil
  assert(slot.lock:start_unlock(1))
  slot.op = assert(slot.lock:start_lock(1))
end

function steps.drop(world, slot)
  if not slot.op and not slot.hold then return end
  world:say(slot, "drop")
  slot.lock, slot.op, slot.hold = nil, nil, nil
  collectgarbage()
  collectgarbage()
  slot.lock = make_lock(world.clients[slot.client], slot.keys)
end

function steps.destroy(world, slot)
  if slot.op then return end
  world:say(slot, "destroy")
  local _, _, code = slot.lock:destroy(0.1)
  if code == "CONFLICT" then error("destroy answered CONFLICT") end
end

-- In one transaction with a write to another key, which tells its index if it writes something new.
function steps.delete(world, slot)
  local key = slot.keys[world.random(#slot.keys)]
  world:say(slot, "deleted by an operator")
  local operations = { { KV = { Verb = "set", Key = world.marker, Value = mime.b64(tostring(world.step)) } },
    { KV = { Verb = "delete", Key = key.name } } }
  local status, text = consul.request("PUT", "/v1/txn", nil, json.encode(operations))
  assert(status == 200, text)
  key.deleted = json.decode(text).Results[1].KV.ModifyIndex
end

local TROUBLE = {
  { action = "late", hang_up = true }, { action = "late", hang_up = true }, { action = "late" },
  { action = "late", hang_up = true, delay = 0.1 }, { action = "twice" }, { action = "twice", delay = 0.05 },
  { action = "twice" }, { action = "pass_then_close" }, { action = "close" }, { delay = 0.03 },
  { status = 500, body = "rpc error" }, { status = 429, body = "rate limit exceeded" },
  { status = 403, body = "Permission denied" },
}

function steps.trouble(world, slot)
  local n = world.random(#TROUBLE)
  world:say(slot, "trouble " .. n)
  world.proxies[slot.client]:rule(fake.on(fake.TXN, TROUBLE[n], { times = 1 }))
end

-- Not while somebody waits for an unlock: a copy that is faster than the request it is of makes a LOST of that.
function steps.release(world, slot)
  if world.unlocking > 0 then return end
  world:say(slot, "late requests are carried out")
  world.proxies[slot.client]:release()
end

-- How often each is taken, of a hundred.
local OFTEN = { try = 12, lock = 14, start = 9, wait = 10, cancel = 4, unlock = 18, relock = 4, drop = 3, destroy = 4,
  delete = 2, trouble = 13, release = 7 }
local ORDER = {}
for _, name in ipairs({ "try", "lock", "start", "wait", "cancel", "unlock", "relock", "drop", "destroy", "delete",
  "trouble", "release" }) do
  for _ = 1, OFTEN[name] do ORDER[#ORDER + 1] = name end
end

-- ---- the end -------------------------------------------------------------------------------------------------------

function World:free()
  for _, key in ipairs(self.keys) do
    local session = agent.holder(key.name)
    if session then return false, ("%s is held by %s"):format(key.name, session) end
  end
  return true
end

-- Everything is given back, and then the late requests come that are still under way. Neither leaves a key held.
function World:rest()
  for _, proxy in ipairs(self.proxies) do proxy:clear() end
  for _, slot in ipairs(self.slots) do
    self:say(slot, "gives back")
    if slot.op then
      slot.lock:cancel()
      if not slot.op:wait(helper.seconds(5)) then error("a canceled acquire goes on") end
      settle(slot)
    end
    if slot.hold then slot.lock:unlock(helper.seconds(5)) end
    slot.hold = nil
  end
  self.doing = "all has been given back"
  helper.eventually(function() return self:free() end, 10)
  self.doing = "all has been given back, and late requests have been carried out"
  for _, proxy in ipairs(self.proxies) do
    local carried = proxy:count(fake.TXN, "carried")
    local late = proxy:release()
    if late > 0 then assert(proxy:wait_for(fake.TXN, carried + late, helper.seconds(5), "carried")) end
    for _, transaction in ipairs(together.transactions(proxy)) do
      if transaction.count > 1 then self.shared = self.shared + 1 end
    end
    proxy:forget()
  end
  helper.eventually(function() return self:free() end, 10)
end

function World:run(n)
  for i = 1, n do
    self.step = i
    local slot = self.slots[self.random(#self.slots)]
    steps[ORDER[self.random(#ORDER)]](self, slot)
    self:check()
    if i % QUIET_EVERY == 0 or i == n then self:rest() end
  end
end

-- Each slot has a coroutine of its own, which takes its share of n steps.
function World:run_at_once(n)
  local function go(slot)
    for _ = 1, n / #self.slots do
      self.step = self.step + 1
      steps[ORDER[self.random(#ORDER)]](self, slot)
      self:check()
      loop.sleep(self.random(8) / 1000)
    end
  end
  loop.run(function()
    for _, slot in ipairs(self.slots) do loop.spawn(go, slot) end
  end)
  loop.run(self.rest, self)
end

-- One that waits for itself would have all the others wait for it.
local function without_waiting(fn)
  local wait = steps.wait
  steps.wait = function() end
  local ok, why = pcall(fn)
  steps.wait = wait
  if not ok then error(why, 0) end
end

describe("two clients that do a thousand things", function()
  after_each(helper.finish)

  local function run(world, how)
    local ok, why = pcall(how, world, STEPS)
    if not ok then
      error(("HF_SEED=%d, step %d (%s): %s\nbefore that:\n  %s"):format(SEED, world.step, world.doing, tostring(why),
        table.concat(world.recent, "\n  ")), 0)
    end
    local taken = 0
    for _, key in ipairs(world.keys) do taken = taken + (key.last > 0 and 1 or 0) end
    assert.is_true(taken > #world.keys / 2, taken .. " keys have been taken")
  end

  it("to a few keys never hold one at the same time, and leave none held", function()
    run(new_world(SEED, FEW), World.run)
  end)

  it("to a few keys, alone and by two and three, never hold one at the same time, and leave none held", function()
    local world = new_world(SEED, FEW, nil, { { 1, 2 }, { 3, 2 }, { 3, 1, 2 } })
    run(world, World.run)
  end)

  it("at once to many keys, alone and by four, never hold one at the same time, and leave none held", function()
    local groups = {}
    for i = 1, 8 do groups[i] = { i, i + 1, i + 8, i + 9 } end
    local world = new_world(SEED, 24, "loop", groups)
    without_waiting(function() run(world, World.run_at_once) end)
  end)

  it("at once to many keys never hold one at the same time, and leave none held", function()
    local world = new_world(SEED, MANY, "loop")
    without_waiting(function() run(world, World.run_at_once) end)
    assert.is_true(world.shared > STEPS / 50, world.shared .. " transactions of more than one key")
  end)
end)
