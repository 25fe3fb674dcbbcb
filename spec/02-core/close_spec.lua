-- client:close() at a server that makes trouble, and in a loop that has other things to do.
local socket = require("socket")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")

describe("close", function()
  local server, client, lock
  before_each(function()
    server = fake.consul()
    client = helper.client({ address = server:address(), scheduler = "loop" })
    lock = assert(client:lock("k"))
  end)
  after_each(function()
    client, lock = nil, nil
    helper.finish()
  end)

  -- libcurl itself repeats the first one on a kept connection that breaks.
  local TROUBLE = {
    ["a 500"] = { status = 500, body = "No cluster leader" }, ["a 503"] = { status = 503, body = "No cluster leader" },
    ["a 403"] = { status = 403, body = "Permission denied" },
    ["a connection that breaks"] = { action = "close", times = 2 },
  }

  for name, trouble in pairs(TROUBLE) do
    it("repeats the destroy of a session after " .. name, function()
      assert(lock:lock(30))
      server:rule(fake.on(fake.DESTROY, trouble, { first = true, times = trouble.times or 1 }))
      assert(client:close())
      local log = server:log(fake.DESTROY)
      assert.are.same({ 200, (trouble.times or 1) + 1 }, { log[#log].status, #log })
    end)
  end

  it("ends the session while a lock that was given up cannot be undone", function()
    server:rule({ first = true, match = fake.TXN, status = 500, body = "No cluster leader" })
    server:rule({ first = true, match = fake.TXN, times = 1, action = "pass_then_stall" })
    local op = assert(lock:start_lock())
    assert(server:wait_for(fake.TXN, 1, helper.seconds(5)))
    op:cancel()
    assert(server:wait_for(fake.TXN, 2, helper.seconds(5), "answered"))
    assert(client:close())
    assert.are.equal(1, server:count(fake.DESTROY, "answered"))
    assert.are.same({}, server:holders())
  end)

  it("lets the other coroutines of a loop go on while the server stalls, and ends within its bound", function()
    assert(lock:lock(30))
    server:rule({ first = true, match = fake.TXN, action = "stall" })
    server:rule({ first = true, match = fake.DESTROY, action = "stall" })
    local ticks, took, closed = 0, nil, nil
    loop.run(function()
      loop.spawn(function()
        local start = socket.gettime()
        closed = client:close()
        took = socket.gettime() - start
      end)
      while not took do
        loop.sleep(0.01)
        if not took then ticks = ticks + 1 end
      end
    end)
    assert.is_true(closed)
    assert.is_true(took > 0.5 and took < 8, ("%.2f s"):format(took))
    assert.is_true(ticks > 20, ticks .. " ticks")
  end)

  it("lets two coroutines close at once: both wait until it is done", function()
    assert(lock:lock(30))
    server:rule({ first = true, match = fake.TXN, times = 1, delay = 0.2 })
    local done = 0
    loop.run(function()
      for _ = 1, 2 do
        loop.spawn(function()
          assert.is_true(client:close())
          assert.are.equal(1, server:count(fake.DESTROY, "answered"))
          done = done + 1
        end)
      end
    end)
    assert.are.equal(2, done)
  end)
end)
