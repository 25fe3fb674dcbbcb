--- Queues of webhook messages: what was pushed stays until it is acked or dead, whoever crashes.
--
-- A message belongs to one receiver. Whoever claims it has it for a lease and gets a token; when the lease is over
-- anybody may claim it again, and the old token is worth nothing from then on: ack, nack, extend and dead answer "lost"
-- for a token that is no longer the current one. Until then they work, even after the end of the lease.
--
-- Order is best effort: of the messages of a receiver that may be claimed now, the one that was pushed first comes
-- first. A message that waits (for its not_before, its retry, the end of a lease) does not block those behind it, and
-- is in its old place again when the wait is over.
--
-- Dead messages leave the queue (len, oldest and due do not see them, the same id may be pushed again) and are kept for
-- dead_letters.
--
-- Everything is checked here, above the adapters. Wrong types and unknown names raise; what a program may get from
-- elsewhere (ids, headers, names of receivers) and what can fail at run time answer nil, message, code. An adapter gets
-- checked values and answers true, or false when there was nothing to change; nil, message, code when it failed:
--
--    push(now, receiver, message, at)                  false: it is there already; the table stays the caller's
--    due(now, limit)                                   a list of { receiver, depth }
--    claim(now, receiver, max, until, nonce)           a list of { seq, claim, attempt, first_seen, reason, msg }
--    extend(seq, claim, at)   ack(seq, claim)   nack(seq, claim, at, uncount, reason)   dead(seq, claim, now, reason)
--    len(receiver)   oldest(receiver)                  a number; false: there is none
--    dead_letters(receiver, limit)                     a list of { receiver, attempt, first_seen, died, reason, msg }
--    close()
--
-- `at` is when a message may be claimed (again); `claim` is a text with the nonce in it that no other claim has.
-- @module holdfast.queue

local check = require("holdfast.check")
local core = require("holdfast.core")

local ADAPTERS = { memory = "holdfast.queue.memory", sqlite = "holdfast.queue.sqlite" }
local NOT_YET = { postgres = true, postgresql = true, redis = true, rediss = true }
local NONCE = 12   -- bytes

local Queue = {}
Queue.__index = Queue
Queue.__name = "holdfast.queue"

-- ---- what the methods take ------------------------------------------------------------------------------------------

-- A message that could never be sent is refused while its producer is there to be told.
local MESSAGE = {
  label = "the message",
  fields = {
    id = { "string", required = true, form = "message_id" }, body = { "string", required = true }, headers = "headers",
    not_before = { "number", form = "finite" },
  },
}
local RECEIVER = { "string", form = "receiver" }
local LEASE = { "duration", positive = true }
local NACK = { label = "the options of nack", default = {}, fields = { count = "boolean", reason = "string" } }
local OPEN = { label = "the options of open", default = {}, fields = { now = "function", random = "function" } }

local function takes(...) return check.arguments("queue: ", ...) end

local read_push = takes({ "receiver", RECEIVER }, { "msg", MESSAGE })
local read_limit = takes({ "limit", "count", optional = true })
local read_claim = takes({ "receiver", RECEIVER }, { "max", "count" }, { "lease", LEASE })
local read_extend = takes({ "token", "string" }, { "lease", LEASE })
local read_ack = takes({ "token", "string" })
local read_nack = takes({ "token", "string" }, { "delay", "duration" }, { "opts", NACK })
local read_dead = takes({ "token", "string" }, { "reason", "string", optional = true })
local read_letters = takes({ "receiver", RECEIVER, optional = true }, { "limit", "count", optional = true })
local read_receiver = takes({ "receiver", RECEIVER, optional = true })
local read_open = takes({ "url", { "string", label = "the address" } }, { "opts", OPEN })

-- ---- helpers --------------------------------------------------------------------------------------------------------

local function closed(self)
  return nil, ("queue %s is closed"):format(self.url_), "CLOSED"
end

-- The answer to an operation on a claim.
local function settled(changed, message, code)
  if changed == nil then return nil, message, code end
  return changed and true or "lost"
end

-- The parts of a token. No message has the number 0.
local function parts(token)
  local seq, claim = token:match("^(%d+)%.(.+)$")
  if not seq or #seq > 15 then return 0, "" end
  return tonumber(seq), claim
end

local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

-- ---- the public face ------------------------------------------------------------------------------------------------

--- Puts a message in the queue. When this answers true, the message survives what the engine survives ("sqlite:": power
-- loss as well).
-- @string receiver its name
-- @tparam table msg `id`, the webhook-id; `body`, any bytes; optionally `headers`, a table from names to values, and
-- `not_before`, in Unix seconds of the queue's clock
-- @treturn true|string|nil true; "duplicate" when a message of this id and receiver is in the queue; nil, message, code
-- ("INVALID" for an id, a header or a receiver that cannot be; "TOO_LARGE" when the disk is full; see `open`)
function Queue:push(receiver, msg)
  local given, added, message, code
  given, message, code = read_push(2, receiver, msg)
  if not given then return nil, message, code end
  if self.closed_ then return closed(self) end
  local now = self.now_()
  local at = math.max(now, msg.not_before or now)
  added, message, code = self.adapter_:push(now, receiver, given.msg, at)
  if added == nil then return nil, message, code end
  return added and true or "duplicate"
end

--- The receivers that have a message that may be claimed now.
-- @int[opt] limit the most to tell; without it all
-- @treturn table|nil a list of `{ receiver=, depth= }`, the one that was served least recently first (never served:
-- before all others, in the order of their first message); depth is its number of messages. nil, message, code
function Queue:due(limit)
  limit = read_limit(2, limit).limit
  if self.closed_ then return closed(self) end
  return self.adapter_:due(self.now_(), limit)
end

--- Claims messages of a receiver, in the order pushed (see above). A claim counts as an attempt, and is stored as such
-- before this answers.
-- @string receiver its name
-- @int max how many at most
-- @param lease seconds (or text such as "20s") from now, after which they may be claimed by others
-- @treturn table|nil a list, empty when there is nothing to claim, of
-- `{ token=, attempt=, first_seen=, reason=, msg= }`: attempt is 1 for the first, first_seen is when it was pushed,
-- reason that of its last nack, msg what was pushed. nil, message, code
function Queue:claim(receiver, max, lease)
  local given, items, message, code
  given, message, code = read_claim(2, receiver, max, lease)
  if not given then return nil, message, code end
  if self.closed_ then return closed(self) end
  local now, nonce = self.now_(), hex(self.random_(NONCE))
  items, message, code = self.adapter_:claim(now, receiver, given.max, now + given.lease, nonce)
  if not items then return nil, message, code end
  for _, item in ipairs(items) do
    item.token = ("%.0f.%s"):format(item.seq, item.claim)
    item.seq, item.claim = nil, nil
  end
  return items
end

--- Has a claim end later (or sooner).
-- @string token of the claim
-- @param lease seconds (or text) from now
-- @treturn true|string|nil true; "lost" when the token is not the current one of its message; nil, message, code
function Queue:extend(token, lease)
  lease = read_extend(2, token, lease).lease
  if self.closed_ then return closed(self) end
  local seq, claim = parts(token)
  return settled(self.adapter_:extend(seq, claim, self.now_() + lease))
end

--- Removes a message: it has been delivered.
-- @string token of the claim
-- @treturn true|string|nil as extend
function Queue:ack(token)
  read_ack(2, token)
  if self.closed_ then return closed(self) end
  return settled(self.adapter_:ack(parts(token)))
end

--- Gives a message back, to be claimed again after a delay. It keeps its place in the order.
-- @string token of the claim
-- @param delay seconds (or text) from now
-- @tparam[opt] table opts `count`: false gives the attempt back, true by default; `reason`, a text for the next who
-- claims it
-- @treturn true|string|nil as extend
function Queue:nack(token, delay, opts)
  local given = read_nack(2, token, delay, opts)
  delay, opts = given.delay, given.opts
  if self.closed_ then return closed(self) end
  local seq, claim = parts(token)
  return settled(self.adapter_:nack(seq, claim, self.now_() + delay, opts.count == false, opts.reason))
end

--- Takes a message out of the queue for good, and keeps it for dead_letters.
-- @string token of the claim
-- @string[opt] reason
-- @treturn true|string|nil as extend
function Queue:dead(token, reason)
  read_dead(2, token, reason)
  if self.closed_ then return closed(self) end
  local seq, claim = parts(token)
  return settled(self.adapter_:dead(seq, claim, self.now_(), reason))
end

--- What is dead, in the order of death.
-- @string[opt] receiver only those of this receiver
-- @int[opt] limit the most to tell; without it all
-- @treturn table|nil a list of `{ receiver=, attempt=, first_seen=, died=, reason=, msg= }`; nil, message, code
function Queue:dead_letters(receiver, limit)
  local given, message, code = read_letters(2, receiver, limit)
  if not given then return nil, message, code end
  if self.closed_ then return closed(self) end
  return self.adapter_:dead_letters(receiver, given.limit)
end

--- How many messages there are, claimed and waiting ones with them.
-- @string[opt] receiver only those of this receiver
-- @treturn number|nil nil, message, code
function Queue:len(receiver)
  local given, message, code = read_receiver(2, receiver)
  if not given then return nil, message, code end
  if self.closed_ then return closed(self) end
  return self.adapter_:len(receiver)
end

--- How long ago the oldest message was pushed, among all that len counts.
-- @string[opt] receiver only those of this receiver
-- @treturn number|nil seconds, 0 when there is none; nil, message, code
function Queue:oldest(receiver)
  local given, pushed, message, code
  given, message, code = read_receiver(2, receiver)
  if not given then return nil, message, code end
  if self.closed_ then return closed(self) end
  pushed, message, code = self.adapter_:oldest(receiver)
  if pushed == nil then return nil, message, code end
  return pushed and math.max(0, self.now_() - pushed) or 0
end

--- The queue's clock, which due times are told in.
-- @treturn number|nil Unix seconds; nil, message, "CLOSED"
function Queue:now()
  if self.closed_ then return closed(self) end
  return self.now_()
end

--- Closes it; claims last until their leases end. Every method answers nil, message, "CLOSED" afterwards, but close,
-- which does nothing then.
-- @treturn true
function Queue:close()
  if self.closed_ then return true end
  self.closed_ = true
  self.adapter_:close()
  return true
end

function Queue:__tostring()
  return ("%s: %s%s"):format(Queue.__name, self.url_, self.closed_ and " (closed)" or "")
end

Queue.__close = Queue.close
Queue.__gc = Queue.close   -- 5.4 only; elsewhere what an adapter holds goes by itself

local M = {}

--- Opens a queue.
--
-- "memory:" is empty, its own, and gone with the process. "sqlite:PATH" is a file that is made when it is not there;
-- any number of processes of one host may have it open, but a process must open it after a fork.
--
-- Codes of failures: "DENIED" (the file may not be written), "NOT_FOUND" (no such directory), "TIMEOUT" (others kept
-- the file locked), "TOO_LARGE" (the disk is full), "NOMEM", "INVALID" (anything else; no such kind of queue yet).
-- @string url
-- @tparam[opt] table opts for specs: `now`, a function that answers Unix seconds, and `random`, one that answers as
-- many random bytes as it is asked for
-- @return the queue, or nil, message, code
function M.open(url, opts)
  opts = read_open(2, url, opts).opts
  local scheme, rest = url:match("^(%a+):(.*)$")
  if NOT_YET[scheme] then
    return nil, ("queue: %s:// is not there yet; use \"sqlite:PATH\" or \"memory:\""):format(scheme), "INVALID"
  elseif not ADAPTERS[scheme] then
    error(("queue: %q is neither \"memory:\" nor \"sqlite:PATH\""):format(url), 2)
  elseif scheme == "memory" and rest ~= "" then
    error("queue: \"memory:\" has nothing behind it", 2)
  elseif scheme == "sqlite" and (rest == "" or rest == ":memory:" or rest:find("\0", 1, true)) then
    error("queue: \"sqlite:\" needs the path of a file; for a queue without one there is \"memory:\"", 2)
  end
  local adapter, message, code = require(ADAPTERS[scheme]).open(rest)
  if not adapter then return nil, message, code end
  local self = { adapter_ = adapter, url_ = url, now_ = opts.now or core.time, random_ = opts.random or core.random }
  return setmetatable(self, Queue)
end

return M
