--- Looks on while several clients may believe that they hold one key.
--
--    local watch = believers.watch({ [key] = { lock_of_a, lock_of_b } })
--    watch:until_true(function() return lock_of_b:held() end, 5)
--    assert.are.same({}, watch.overlaps)
-- @module spec.support.believers

local socket = require("socket")
local helper = require("spec.helper")

local M = {}

local Watch = {}
Watch.__index = Watch

-- Each is asked twice: who is asked first might have lost the key before the last one got it.
local function both_times(locks)
  local held = {}
  for i, lock in ipairs(locks) do held[i] = lock:held() end
  local count = 0
  for i, lock in ipairs(locks) do
    if held[i] and lock:held() then count = count + 1 end
  end
  return count
end

--- Looks once. Keys that two believe to hold get into `overlaps`, with how often that was seen.
function Watch:look()
  for key, locks in pairs(self.locks_) do
    if both_times(locks) > 1 then self.overlaps[key] = (self.overlaps[key] or 0) + 1 end
  end
end

--- Looks until fn answers something true, and answers that; nil after so many seconds.
function Watch:until_true(fn, seconds)
  local limit = socket.gettime() + helper.seconds(seconds)
  repeat
    self:look()
    local ok, value = pcall(fn)
    if ok and value then return value end
    socket.sleep(0.002)
  until socket.gettime() >= limit
  return nil
end

--- Looks for so many seconds.
function Watch:during(seconds)
  local finish = socket.gettime() + seconds
  self:until_true(function() return socket.gettime() >= finish end, seconds)
end

--- How many keys two believed to hold at one time.
function Watch:count()
  local n = 0
  for _ in pairs(self.overlaps) do n = n + 1 end
  return n
end

--- locks: for each key a list of the locks on it.
function M.watch(locks)
  return setmetatable({ locks_ = locks, overlaps = {} }, Watch)
end

return M
