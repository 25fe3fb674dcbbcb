--- One hold of the emitter: one receiver's lock, and the messages that are pushed under it. Private to the emitter.
--
-- It asks its emitter for what is its own: counters, options, events, calls to the queue, back-off.
-- @module holdfast.emitter.hold

local core = require("holdfast.core")
local duration = require("holdfast.duration")
local loop = require("holdfast.loop")
local webhook = require("holdfast.webhook")

require("holdfast.interpreted")()

local RECEIVER_TIMEOUT = 15      -- seconds for one push
local LEASE_MARGIN = 5           -- a claim outlives the push by so much
local RELEASE_TIMEOUT = 5
local MAX_BODY = 64 * 1024       -- what is read of a receiver's answer
local HOLD_OVER = { LOST = true, NOT_HELD = true, CANCELED = true, CLOSED = true, FORKED = true }

local Hold = {}
Hold.__index = Hold

-- ---- settling a message ---------------------------------------------------------------------------------------------

-- Gives the claimed message back, for a later time. The token of the claim decides whether it is still ours to give.
local function give_back(self, delay, count, reason)
  local answer = self.emitter:ask_(self, "nack", self.claim.token, delay, { count = count, reason = reason })
  if answer == true then self.emitter:settled_() end
end

local function lost(self, reason)
  if self.is_lost then return end
  self.is_lost = true
  self.emitter:back_off_more_(self.name)
  self.emitter:event_("lost", self, { reason = reason })
end

local function delivered(self, status, elapsed)
  local answer = self.emitter:ask_(self, "ack", self.claim.token)
  if answer == true then
    self.emitter:settled_()
    self.emitter:event_("delivered", self, { status = status, elapsed = elapsed })
  elseif answer then
    self.emitter:event_("ack_lost", self, { status = status, elapsed = elapsed,
      reason = "the claim has moved on: this message will be delivered again" })
  else
    self.emitter:back_off_(self.name)
  end
  return answer ~= nil
end

local function failed(self, status, reason, elapsed)
  give_back(self, self.emitter:back_off_(self.name), true, reason)
  self.emitter:event_("failed", self, { status = status, reason = reason, elapsed = elapsed })
end

-- The hold ended under the push: not acked, not counted, at once there for the next holder.
local function interrupted(self, reason, elapsed)
  give_back(self, 0, false, reason)
  if self.aborted then
    self.emitter:event_("aborted", self, { reason = "the emitter is stopping", elapsed = elapsed })
  else
    lost(self, reason)
  end
end

-- ---- pushing a message ----------------------------------------------------------------------------------------------

local function still_held(self)
  local held, reason = self.lock:held()
  if held and self.lock:remaining() > 0 then return true end
  lost(self, reason or "deadline")
  return false
end

-- The request for this attempt, signed for this moment; nil and what is wrong with the receiver or the message.
local function prepare(self)
  local receiver, message = self.receiver, self.claim.msg
  if not receiver then return nil, self.wrong end
  local timestamp = ("%d"):format(math.floor(self.emitter.opts_.time()))
  local token = self.token and ("%d"):format(self.token)
  local signature, wrong = webhook.sign(receiver.secret, message.id, timestamp, message.body, { token = token })
  if not signature then return nil, ("receiver %q: %s"):format(self.name, wrong) end
  local headers = { ["content-type"] = "application/json", ["user-agent"] = "holdfast/" .. core._VERSION }
  for name, value in pairs(message.headers or {}) do headers[name:lower()] = value end
  headers["webhook-id"], headers["webhook-timestamp"] = message.id, timestamp
  headers["webhook-signature"], headers["webhook-fencing-token"] = signature, token
  return {
    method = "POST", url = receiver.url, headers = headers, body = message.body, timeout = self.timeout,
    max_body = MAX_BODY, tls = receiver.tls, unix_socket = receiver.unix_socket,
    public_only = self.emitter.opts_.public_only, allow_addresses = self.emitter.opts_.allow_addresses,
  }
end

-- Answers the response, or nil, message, code; with how long it took as the last.
local function push(self, request)
  local count, now = self.emitter.count_, self.emitter.opts_.now
  local began = now()
  count.in_flight, self.pushing = count.in_flight + 1, true
  local ok, response, message, code = loop.pcall(self.lock.request, self.lock, request)
  count.in_flight, self.pushing = count.in_flight - 1, false
  if not ok then response, message, code = nil, tostring(response), self.aborted and "CANCELED" or "INVALID" end
  return response, message, code, now() - began
end

-- Whether a receiver that checks fencing tokens says that it knows a newer holder (decimal digits of any length).
local function knows_newer(response, token)
  if response.status ~= 409 and response.status ~= 412 then return false end
  local theirs = (response.headers or {})["webhook-fencing-token"]
  theirs = type(theirs) == "string" and theirs:match("^0*(%d+)$")
  local ours = ("%d"):format(token or 0)
  if not theirs or #theirs ~= #ours then return theirs and #theirs > #ours end
  return theirs > ours
end

-- Pushes the claimed message and settles it. Answers whether the hold may go on.
local function attempt(self)
  local ok, request, wrong = pcall(prepare, self)
  if not ok then request, wrong = nil, tostring(request) end
  if not request then
    give_back(self, self.emitter:back_off_(self.name), false, wrong)
    self.emitter:problem_(self, wrong, "INVALID")
    return false
  end
  if self.emitter:stopping_() or not still_held(self) then
    give_back(self, 0, false, "not sent")
    return false
  end
  local response, message, code, elapsed = push(self, request)
  local status = response and response.status
  if status and status >= 200 and status <= 299 then return delivered(self, status, elapsed) end
  local held, reason = self.lock:held()
  if response and (held or not knows_newer(response, self.token)) then
    failed(self, status, "HTTP " .. status, elapsed)
  elseif not response and held and not HOLD_OVER[code] then
    failed(self, nil, ("%s: %s"):format(tostring(code), tostring(message)), elapsed)
  else
    interrupted(self, reason or message, elapsed)
  end
  return false
end

-- ---- the hold -------------------------------------------------------------------------------------------------------

-- Finds whom to push to, or what is wrong with it. False: not this emitter's business.
local function configure(self)
  local ok, receiver = loop.pcall(self.emitter.opts_.receivers, self.name)
  local timeout, wrong = RECEIVER_TIMEOUT, nil
  if not ok then
    wrong = tostring(receiver)
  elseif receiver == false then
    return false
  elseif type(receiver) ~= "table" then
    wrong = receiver == nil and "not configured" or "the configuration is no table"
  elseif type(receiver.url) ~= "string" or not receiver.url:lower():match("^https?://[^/]") then
    wrong = "url must be http:// or https://"
  elseif receiver.timeout ~= nil then
    timeout, wrong = duration.parse(receiver.timeout)
    if timeout == 0 then timeout, wrong = nil, "is 0" end
    if wrong then wrong = "timeout: " .. wrong end
  end
  self.receiver, self.timeout = not wrong and receiver or nil, timeout or RECEIVER_TIMEOUT
  self.wrong = wrong and ("receiver %q: %s"):format(self.name, wrong)
  return true
end

local function acquire(self)
  local emitter = self.emitter
  local lock, ok, message, code
  lock, message, code = emitter.opts_.client:lock({ key = self.key, value = emitter.opts_.name })
  if lock then ok, message, code = lock:lock(0) end
  if ok then
    self.lock, self.since, self.token, self.session = lock, emitter.opts_.now(), lock:token(), lock:session()
    emitter.count_.receivers_held = emitter.count_.receivers_held + 1
    emitter:event_("acquired", self, {})
    return true
  elseif lock and code == "TIMEOUT" then
    emitter:back_off_more_(self.name)
    emitter:event_("refused", self, { reason = message })
  else
    emitter:back_off_(self.name)
    emitter:problem_(self, message, code)
  end
  return false
end

-- Whether the hold has had its share. It has one message at least, or a short time would mean that nothing moves.
local function spent(self)
  local bounds = self.emitter.opts_.hold
  return self.messages >= bounds.messages
    or (self.messages > 0 and self.emitter.opts_.now() - self.since >= bounds.time)
end

-- Claims one message, as late as can be, and sees it through. Answers whether to go on with the next.
local function next_message(self)
  local emitter = self.emitter
  if emitter:stopping_() or spent(self) or not still_held(self) then return false end
  local claims = emitter:ask_(self, "claim", self.name, 1, self.timeout + LEASE_MARGIN)
  if not claims then
    emitter:back_off_(self.name)
  elseif claims[1] then
    emitter:back_off_no_more_(self.name)
    self.claim, self.messages = claims[1], self.messages + 1
    local go_on = attempt(self)
    self.claim = nil
    return go_on
  elseif self.messages == 0 then
    emitter:back_off_more_(self.name)
  end
  return false
end

local function hold(self)
  if not configure(self) then
    self.emitter:back_off_(self.name)
  elseif acquire(self) then
    repeat until not next_message(self)
  end
end

--- Gives the lock back, once; a push in flight under it is aborted. Never raises.
function Hold:release()
  if not self.since or self.released then return end
  local emitter = self.emitter
  self.released = true
  local ok, done, message, code = loop.pcall(self.lock.unlock, self.lock, RELEASE_TIMEOUT)
  if not ok then done, message, code = nil, tostring(done), "INVALID" end
  emitter.count_.receivers_held = emitter.count_.receivers_held - 1
  if done then
    emitter:event_("released", self, { elapsed = emitter.opts_.now() - self.since })
  elseif code == "LOST" or code == "NOT_HELD" then
    lost(self, message)
  else
    emitter:problem_(self, message, code)
  end
end

--- Takes the lock, pushes what there is within the bounds of a hold, gives the lock back. Never raises.
function Hold:serve()
  local ok, message = loop.pcall(hold, self)
  if not ok and not self.aborted then
    self.emitter:back_off_(self.name)
    self.emitter:problem_(self, tostring(message), "INVALID")
  end
  self:release()
end

--- Ends a hold whose push is still in flight.
function Hold:abort()
  self.aborted = true
  self:release()
end

local M = {}

function M.new(emitter, name)
  return setmetatable({ emitter = emitter, name = name, key = emitter.opts_.prefix .. name, messages = 0 }, Hold)
end

return M
