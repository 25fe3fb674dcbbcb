--- A line that contenders stand in: ephemeral keys of the core under one prefix, whose order is that in which Consul
-- has made them (CreateIndex). Each waits for one that is before it, so that whoever leaves wakes one. Private.
-- @module holdfast.line

local core = require("holdfast.core")
local loop = require("holdfast.loop")
local object = require("holdfast.object")

local GRACE = 0.5                    -- seconds that who gives up waits for its place to be given back
local PAUSE_MIN, PAUSE_MOST = 0.2, 2 -- seconds before what is in trouble is tried again
local DISCARD_MOST = 64              -- operations of a transaction, on every server
local UNSEEN_MOST = 3                -- times that a place is taken anew because it is not to be seen

local PASSING = { CONNECT = true, TLS = true, HTTP = true, PROTOCOL = true, TIMEOUT = true }

local M = {}

local Line = {}
Line.__index = Line

-- What ends a stay travels up as an error of this kind, and leaves through `run`.
local Stop = {}

--- The name of a contender.
function M.id()
  return (core.random(8):gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

--- A stay in a line, which begins and ends with `run`.
-- @param client
-- @tparam table place `{ name=, prefix=, settings=, marker= }`: what messages call it, where the line is, what the core
-- takes for the contender's key, and a key that is to be looked at together with the line, if any
-- @tparam[opt] number seconds as long as it takes without; 0 tries once
function M.new(client, place, seconds)
  local scheduler, once = object.scheduler(client), seconds == 0
  return setmetatable({
    client = client, place = place, scheduler = scheduler, once = once, unseen = 0,
    deadline = seconds and not once and scheduler.now() + seconds or nil,
  }, Line)
end

-- ---- how it ends ---------------------------------------------------------------------------------------------------

-- Ends the stay with nil, message, code.
local function stop(message, code)
  error(setmetatable({ message = message, code = code }, Stop), 0)
end

--- Ends the stay with a message of our own.
function Line:refuse(message, code)
  stop(("%s: %s"):format(self.place.name, message), code)
end

--- Goes on with what has succeeded, or ends the stay.
function M.must(ok, message, code)
  if not ok then stop(message, code) end
  return ok
end

--- Seconds that are left: nil without a limit; 0 for one try.
function Line:left()
  if self.once then return 0 end
  return self.deadline and math.max(0, self.deadline - self.scheduler.now())
end

--- Ends the stay if it was canceled, or the time is up.
function Line:check()
  if self.canceled then self:refuse("canceled", "CANCELED") end
  if self.deadline and self:left() == 0 then self:refuse(self.said or "no turn in the time given", self.code) end
end

--- Notes what stands in the way, which is what is said when the time is up; with one try, that is now.
function Line:note(message, code)
  self.said, self.code = message, code
  if self.once then self:refuse(message, code) end
end

--- Has it end with CANCELED.
function Line:cancel()
  self.canceled = true
  if self.contender then self.contender:start_cancel() end
  if self.op then self.op:cancel() end
end

--- Waits for an op, which `cancel` ends.
function Line:finish(op, message, code)
  local ok
  self.op = op
  ok, message, code = object.finish(self.client, op, message, code)
  self.op = nil
  return ok, message, code
end

--- Whether a stay, if there is one, goes on: one that an error has ended (Ctrl-C) is not in the way of the next.
function M.is_under_way(line)
  return line ~= nil and not line.ended
end

--- Calls fn(line, ...), which may use what is here.
-- @return true and what fn returned; nil, message, code. The place is given back then
function Line:run(fn, ...)
  local ok, result = loop.pcall(fn, self, ...)
  if ok then return true, result end
  if getmetatable(result) ~= Stop then
    self.ended = true
    self:leave()
    error(result, 0)
  end
  self:give_back()
  return nil, result.message, result.code or "TIMEOUT"
end

-- ---- the own place -------------------------------------------------------------------------------------------------

--- Takes a place at the end.
function Line:join()
  self:check()
  self.contender = M.must(self.client:lock_object(self.place.settings))
  M.must(self:finish(self.contender:start_lock(self:left())))
end

--- Gives the place back, and waits for that, but not for long.
function Line:give_back()
  local contender = self.contender
  self.contender = nil
  if contender and contender:held() then object.finish(self.client, contender:start_unlock(GRACE)) end
end

--- Gives the place back in the background.
function Line:leave()
  if self.contender then object.drop(self.contender) end
  self.contender = nil
end

-- It has been lost, or is not what was taken: another one, at the end.
local function join_again(self)
  if self.contender:held() then self.unseen = self.unseen + 1 end
  if self.unseen > UNSEEN_MOST then
    self:refuse(("what is below %q is not to be seen"):format(self.place.prefix), "DENIED")
  end
  self:give_back()
  self:join()
end

-- ---- asking Consul -------------------------------------------------------------------------------------------------

--- Carries out operations on keys, in one transaction.
-- @tparam table operations a list of what Consul calls KV
-- @treturn table|nil the results; nil, and what Consul says against it. Ends the stay for anything that does not pass
function Line:transact(operations)
  local body = {}
  for i, operation in ipairs(operations) do body[i] = { KV = operation } end
  while true do
    self:check()
    local left = not self.once and self:left() or nil
    local answer, message, code, meta = self.client:call({ method = "PUT", path = "/v1/txn", body = body,
      timeout = left })
    if answer then return answer.Results end
    if meta and meta.status == 409 and code ~= "DENIED" then return nil, meta.body end
    if not PASSING[code] then stop(message, code) end
    self:note(message, code)
    self:pause()
  end
end

--- How long to wait for what will not tell, seconds.
function M.a_moment()
  return PAUSE_MIN + math.random() * (PAUSE_MOST - PAUSE_MIN)
end

--- Waits until a key is not there any more, or has changed; seconds at most.
function Line:watch(key, index, seconds)
  self:check()
  local left = self:left()
  if left and (not seconds or left < seconds) then seconds = left end
  local ok, message, code = self:finish(self.client:start_change(key, index, seconds))
  if not ok and code ~= "TIMEOUT" and not self.canceled then stop(message, code) end
end

--- Waits for a moment, by what can be canceled when it has a place.
function Line:pause()
  local token, left, seconds = self.contender and self.contender:token(), self:left(), M.a_moment()
  if token then
    self:watch(self.place.settings.key, token, seconds)
  else
    self.scheduler.sleep(left and math.min(left, seconds) or seconds)
  end
end

-- ---- the others ----------------------------------------------------------------------------------------------------

local function entry_of(pair)
  return { key = pair.Key, session = pair.Session, index = pair.ModifyIndex, created = pair.CreateIndex,
    flags = pair.Flags, value = pair.Value }
end

--- Looks at the line.
-- @treturn table the entries in their order, `{ key, session, index, created, flags, value }`; then the marker, if
-- there is to be one and it is there. Without the marker the line may be longer than what is answered
function Line:look()
  local place, entries, marker = self.place, {}, nil
  local operations = { { Verb = "get-tree", Key = place.prefix } }
  if place.marker then operations[2] = { Verb = "get", Key = place.marker } end
  for _, result in ipairs(self:transact(operations) or {}) do
    if result.KV.Key == place.marker then
      marker = entry_of(result.KV)
    else
      entries[#entries + 1] = entry_of(result.KV)
    end
  end
  table.sort(entries, function(a, b)
    return a.created < b.created or a.created == b.created and a.key < b.key
  end)
  return entries, marker
end

--- Deletes those whose session has ended, unless they have changed since.
function Line:discard(entries)
  local operations = {}
  for _, entry in ipairs(entries) do
    if not entry.session and #operations < DISCARD_MOST then
      operations[#operations + 1] = { Verb = "delete-cas", Key = entry.key, Index = entry.index }
    end
  end
  if operations[1] then self:transact(operations) end
end

-- Where the own place is: the one that was taken last. A key that has been there before has an older place, and what
-- is older would come before those who have come since.
local function own(self, entries)
  local contender = self.contender
  for i, entry in ipairs(entries) do
    if entry.key == self.place.settings.key then
      return entry.session == contender:session() and entry.created == contender:token() and i or nil
    end
  end
end

--- Waits until nobody is before it that it has to wait for.
-- @func blocks fn(entry): whether it has to wait for this one
-- @func dead fn(line, entry) sees to the last one of those, when its session has ended
-- @func look fn(line): as Line.look, or one that knows more
function Line:wait_for_turn(blocks, dead, look)
  while true do
    local entries, before = look(self), nil
    local mine = own(self, entries)
    if not mine or not self.contender:held() then
      join_again(self)
    else
      for i = 1, mine - 1 do
        if blocks(entries[i]) then before = entries[i] end
      end
      if not before then return end
      if before.session then
        self:note(("session %s is before it"):format(before.session), "TIMEOUT")
        self:watch(before.key, before.index)
      else
        dead(self, before)
      end
    end
  end
end

return M
