-- Locks and semaphores beside those of `consul lock` and of Go's client, where there is Go.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local helper = require("spec.helper")
local process = require("spec.support.process")
local semaphores = require("spec.support.semaphores")

local code_of = agent.code_of

local CONSUL = os.getenv("HF_CONSUL")
-- Until the file is there, or nobody waits for that any more.
local CHILD = "echo in; n=0; while [ ! -e %s ] && [ $n -lt 6000 ]; do sleep 0.02; n=$((n+1)); done; echo out"

local prefix, file
before_each(function()
  prefix, file = helper.unique_key(), os.tmpname()
  os.remove(file)
end)
after_each(function()
  assert(io.open(file, "w")):close()
  helper.finish()
  os.remove(file)
end)

local function let_go()
  assert(io.open(file, "w")):close()
end

local function new(limit)
  return assert(helper.client():semaphore(prefix, limit))
end

local function gets_in(child)
  assert.are.equal("in", child:read_line())
end

local function is_refused(child, text)
  local status, said, errors = child:wait()
  assert.are.equal(1, status)
  assert.is_truthy((said .. errors):lower():find(text:lower(), 1, true), said .. errors)
end

-- Whether so many are there: those who hold a slot, and those who wait for one.
local function contenders(count)
  return function()
    local keys = semaphores.keys(prefix)
    return #keys == count + 1, table.concat(keys, " ")
  end
end

describe("consul lock", function()
  local function consul_lock(...)
    local words = { CONSUL, "lock", "-http-addr=" .. consul.address(), ... }
    words[#words + 1] = prefix
    words[#words + 1] = CHILD:format(file)
    return helper.start(words)
  end

  it("waits while we hold the lock, and we wait while it does", function()
    local lock = assert(helper.client():lock(prefix .. "/.lock"))
    assert(lock:lock())
    is_refused(consul_lock("-timeout=300ms"), "Shutdown triggered or timeout during lock acquisition")
    local sessions = #consul.session.list()
    local child = consul_lock()
    helper.eventually(function() return #consul.session.list() > sessions end, 20)
    assert(lock:unlock())
    gets_in(child)
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    let_go()
    assert.is_true(lock:lock(helper.seconds(10)))
    assert.are.equal("out", child:read_line())
    assert.are.equal(0, (child:wait()))
  end)

  it("and we are never more than the limit together, and nobody waits in vain", function()
    local first, second, third = new(3), new(3), new(3)
    assert(first:acquire())
    assert(second:acquire())
    local child = consul_lock("-n=3")
    gets_in(child)
    assert.are.equal(3, #semaphores.state(prefix).Holders)
    assert.are.equal("TIMEOUT", code_of(third:acquire(0)))
    is_refused(consul_lock("-n=3", "-timeout=300ms"), "Shutdown triggered or timeout during lock acquisition")
    local waiter = consul_lock("-n=3")
    helper.eventually(contenders(4), 20)
    assert(first:release())
    gets_in(waiter)
    assert.is_true(second:held())
    assert.are.equal("TIMEOUT", code_of(third:acquire(0)))
    let_go()
    assert.is_true(third:acquire(helper.seconds(10)))
    assert.are.equal("out", child:read_line())
    assert.are.equal("out", waiter:read_line())
    assert.are.equal(0, (child:wait()))
    assert.are.equal(0, (waiter:wait()))
    assert.is_true(second:held())
  end)

  it("takes the slot of one of ours whose session has ended", function()
    local sem = new(1)
    local two, other = new(2), new(2)
    assert(two:acquire())
    assert(other:acquire())
    local child = consul_lock("-n=2")
    helper.eventually(contenders(3), 20)
    assert.are.equal("LIMIT_CONFLICT", code_of(sem:acquire(0)))
    consul.session.destroy(other:session())
    gets_in(child)
    assert.is_true(two:held())
  end)

  it("finds our semaphore where it wants a lock, and the other way round (behaviour 6)", function()
    local sem, lock = new(2), assert(helper.client():lock(prefix .. "/.lock"))
    assert(sem:acquire())
    is_refused(consul_lock(), "existing key does not match lock use")
    assert.is_true(sem:held())
    assert(sem:release())
    assert(sem:destroy())
    assert(lock:lock())
    is_refused(consul_lock("-n=2"), "existing key does not match semaphore use")
    assert.is_true(lock:held())
    assert(lock:unlock())
    assert(lock:destroy())
    local child = consul_lock()
    gets_in(child)
    assert.are.equal("CONFLICT", code_of(sem:acquire()))
    assert.are.equal("CONFLICT", code_of(sem:destroy()))
  end)

  it("is a CONFLICT for our lock where it holds a semaphore", function()
    local child = consul_lock("-n=2")
    gets_in(child)
    local lock = assert(helper.client():lock(prefix .. "/.lock"))
    assert.are.equal("CONFLICT", code_of(lock:lock()))
    assert.are.equal("CONFLICT", code_of(lock:destroy()))
    assert.are.equal("IN_USE", code_of(new(2):destroy()))
  end)

  it("agrees on the limit or says so, and so do we", function()
    local child = consul_lock("-n=2")
    gets_in(child)
    local _, message, code = new(3):acquire()
    assert.are.equal("LIMIT_CONFLICT", code)
    assert.is_truthy(message:find("semaphore limit conflict (lock: 2, local: 3)", 1, true))
    is_refused(consul_lock("-n=4"), "semaphore limit conflict (lock: 2, local: 4)")
  end)
end)

describe("Go's client", function()
  local peer, why
  setup(function()
    peer = os.tmpname()
    local build = "command -v go >/dev/null || { echo there is no go; exit 1; }; exec go build -C bench/go -o %s ./peer"
    local status, said, errors = process.start({ "sh", "-c", build:format(peer) }):wait()
    why = status ~= 0 and "Go's client: " .. (said .. errors):match("[^\n]*") or nil
  end)
  teardown(function() os.remove(peer) end)

  local function go(...)
    return helper.start({ peer, ... }, { CONSUL_HTTP_ADDR = consul.address() })
  end

  it("waits while we hold the lock, and we wait while it does", function()
    if why then return pending(why) end
    local lock = assert(helper.client():lock(prefix))
    assert(lock:lock())
    local sessions = #consul.session.list()
    local child = go("lock", prefix, file)
    helper.eventually(function() return #consul.session.list() > sessions end, 20)
    assert(lock:unlock())
    gets_in(child)
    assert.are.equal("TIMEOUT", code_of(lock:lock(0)))
    let_go()
    assert.is_true(lock:lock(helper.seconds(10)))
    assert.are.equal("out", child:read_line())
  end)

  it("and we are never more than the limit together, and nobody waits in vain", function()
    if why then return pending(why) end
    local first, second = new(2), new(2)
    assert(first:acquire())
    local child = go("slot", prefix, "2", file)
    gets_in(child)
    assert.are.equal("TIMEOUT", code_of(second:acquire(0)))
    assert.are.equal("no", go("slot", prefix, "2", file, "200ms"):read_line())
    local waiter = go("slot", prefix, "2", file)
    helper.eventually(contenders(3), 20)
    assert(first:release())
    gets_in(waiter)
    assert.are.equal("TIMEOUT", code_of(second:acquire(0)))
    let_go()
    assert.is_true(second:acquire(helper.seconds(10)))
    assert.are.equal("out", child:read_line())
    assert.are.equal("out", waiter:read_line())
  end)

  it("keeps its slot while we come and go", function()
    if why then return pending(why) end
    local child, sem = go("slot", prefix, "3", file), new(3)
    gets_in(child)
    for _ = 1, 20 do
      assert(sem:acquire(helper.seconds(5)))
      assert(sem:release(helper.seconds(5)))
    end
    let_go()
    assert.are.equal("out", child:read_line())
    assert.are.equal(0, (child:wait()))
  end)

  it("loses its slot when somebody takes it out, and does not take ours", function()
    if why then return pending(why) end
    local child, sem = go("slot", prefix, "2", file), new(2)
    gets_in(child)
    assert(sem:acquire(helper.seconds(5)))
    semaphores.write(prefix, 2, { sem:session() })
    assert.are.equal("lost", child:read_line())
    assert.is_true(sem:held())
  end)

  it("disagrees with us on the limit as we do with it", function()
    if why then return pending(why) end
    local child = go("slot", prefix, "1", file)
    gets_in(child)
    local _, message, code = new(2):acquire()
    assert.are.equal("LIMIT_CONFLICT", code)
    local said = go("slot", prefix, "2", file):read_line()
    assert.is_truthy(message:find(said, 1, true), said)
  end)
end)
