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

  it("repeats the destroy of a session that is refused for a moment", function()
    assert(lock:lock(5))
    for _, status in ipairs({ 500, 503 }) do
      server:rule({ first = true, match = fake.DESTROY, times = 1, status = status, body = "No cluster leader" })
    end
    assert(client:close())
    assert.are.equal(3, server:count(fake.DESTROY, "answered"))
    assert.are.equal(200, server:log(fake.DESTROY)[3].status)
  end)

  it("repeats it when the connection breaks, and when the ACL refuses for a moment", function()
    assert(lock:lock(5))
    server:rule({ first = true, match = fake.DESTROY, times = 2, action = "close" })
    server:rule({ first = true, match = fake.DESTROY, times = 1, status = 403, body = "Permission denied" })
    assert(client:close())
    assert.are.equal(200, server:log(fake.DESTROY, "answered")[2].status)
  end)

  it("ends the session while a lock that was given up cannot be undone", function()
    server:rule({ first = true, match = fake.TXN, status = 500, body = "No cluster leader" })
    server:rule({ first = true, match = fake.TXN, times = 1, action = "pass_then_stall" })
    assert.is_nil((lock:lock(0.1)))
    assert(server:wait_for(fake.TXN, 2, helper.seconds(5), "answered"))
    local start = socket.gettime()
    assert(client:close())
    local took = socket.gettime() - start
    assert.is_true(took < helper.seconds(2.5), ("%.2f s"):format(took))
    assert.are.equal(1, server:count(fake.DESTROY, "answered"))
    assert.are.same({}, server:holders())
  end)

  it("lets the other coroutines of a loop go on while the server stalls, and ends within its bound", function()
    assert(lock:lock(5))
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
    assert.is_true(took > 0.5 and took < helper.seconds(3.5), ("%.2f s"):format(took))
    assert.is_true(ticks > 20, ticks .. " ticks")
  end)

  it("lets two coroutines close at once: both wait until it is done", function()
    assert(lock:lock(5))
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
