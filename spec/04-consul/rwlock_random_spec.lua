-- Readers and writers of one key, in three clients that do what chance says: they take it, try it, give up, keep it for
-- a while, lose their sessions. Requests arrive late or twice meanwhile. Whenever one of them has got it, all are asked
-- what they believe: a writer is alone.
--
-- HF_SEED=n runs the steps of seed n (which a failure names) once more.
local agent = require("spec.support.agent")
local consul = require("spec.support.consul")
local fake = require("spec.support.fake")
local helper = require("spec.helper")
local loop = require("holdfast.loop")
local socket = require("socket")

local SEED = tonumber(os.getenv("HF_SEED")) or math.floor(socket.gettime() * 1000) % 1000000 + 1
local CLIENTS, FACES, ROUNDS = 3, 4, 12 -- faces of each client, of which one in four writes

local function generator(seed)
  local state = seed * 48271 % 2147483647 + 1
  return function(n)
    state = state * 16807 % 2147483647
    return math.floor(state / 2147483647 * n) + 1
  end
end

local TROUBLE = {
  { action = "late", hang_up = true, delay = 0.1 }, { action = "twice" }, { action = "twice", delay = 0.05 },
  { action = "pass_then_close" }, { action = "close" }, { delay = 0.03 }, { status = 500, body = "rpc error" },
}

describe("readers and writers that do what chance says", function()
  after_each(helper.finish)

  it("never hold together, but for readers", function()
    local random, key, faces, proxies = generator(SEED), helper.unique_key(), {}, {}
    local taken, wrong, last = { read = 0, write = 0 }, nil, 0
    for c = 1, CLIENTS do
      proxies[c] = helper.proxy()
      local client = helper.client({ address = proxies[c]:address(), scheduler = "loop",
        session = { ttl = "10s", lock_delay = "1s" } })
      local rwlock = assert(client:rwlock(key))
      for i = 1, FACES do
        faces[#faces + 1] = { lock = assert(i == 1 and rwlock:write() or rwlock:read()), proxy = proxies[c],
          kind = i == 1 and "write" or "read" }
      end
    end

    -- A writer is asked twice, before and after the others.
    local function look()
      for _, writer in ipairs(faces) do
        if writer.kind == "write" and writer.lock:held() then
          for _, other in ipairs(faces) do
            if other ~= writer and other.lock:held() and writer.lock:held() then
              wrong = wrong or ("%s with token %s, and %s with %s"):format(writer.kind, tostring(writer.lock:token()),
                other.kind, tostring(other.lock:token()))
            end
          end
        end
      end
    end

    local function got(face)
      taken[face.kind] = taken[face.kind] + 1
      local token = face.lock:token()
      look()
      if face.kind == "write" and token then
        if token <= last then wrong = wrong or ("token %d after %d"):format(token, last) end
        last = token
      end
    end

    local function once(face)
      local step = random(10)
      if step == 1 then face.proxy:rule(fake.on(fake.TXN, TROUBLE[random(#TROUBLE)], { times = 1 })) end
      local seconds
      if step == 2 then seconds = 0 elseif step == 3 then seconds = 0.05 else seconds = helper.seconds(30) end
      local ok, message, code = face.lock:lock(seconds)
      if not ok then
        if seconds > 1 or code ~= "TIMEOUT" and code ~= "HTTP" and code ~= "CONNECT" and code ~= "PROTOCOL" then
          wrong = wrong or ("lock(%g) answers %s"):format(seconds, message)
        end
        return
      end
      got(face)
      loop.sleep(random(5) / 1000)
      if step == 4 and random(4) == 1 and face.lock:session() then consul.session.destroy(face.lock:session()) end
      if step == 5 then loop.sleep(0.03) end
      look()
      face.lock:unlock(helper.seconds(5))
    end

    loop.run(function()
      for _, face in ipairs(faces) do
        loop.spawn(function()
          for _ = 1, ROUNDS do
            once(face)
            loop.sleep(random(4) / 1000)
          end
        end)
      end
    end)
    for _, proxy in ipairs(proxies) do
      proxy:clear()
      proxy:release()
    end
    assert.is_nil(wrong, ("HF_SEED=%d: %s"):format(SEED, tostring(wrong)))
    assert.is_true(taken.read > CLIENTS * ROUNDS and taken.write > ROUNDS, taken.read .. " and " .. taken.write)
    -- Nothing stays in anybody's way.
    local writer = assert(helper.client():rwlock(key)):write()
    assert.is_true(writer:lock(helper.seconds(20)))
    assert.are.equal(writer:session(), agent.holder(consul.kv.keys(key .. "/.rw/")[1]))
  end)
end)
