--- Fair locks: who waits is served in the order in which all came, whatever process they are in. Private; users see it
-- as `client:lock{ key = "k", fair = true }`.
--
-- Who has to wait takes a ticket, which is an ephemeral key `k/.fair/ID` of its client's session (line.lua). The one
-- without a ticket before it takes the lock itself, against whoever else wants it, and then its ticket goes.
-- @module holdfast.fair

local flags = require("holdfast.flags")
local lines = require("holdfast.line")
local object = require("holdfast.object")

-- Answers of one try that say that it is of no use to wait.
local FINAL = { HELD = true, CONFLICT = true, DENIED = true, CANCELED = true, CLOSED = true, FORKED = true,
  INVALID = true, TOO_LARGE = true, NOMEM = true }

local M = {}

--- Makes a new lock a fair one.
-- @param lock
-- @tparam table settings what it was made of, with `line`
function M.queue(lock, settings)
  local ticket = { key = settings.line .. lines.id(), value = settings.value, session = settings.session,
    ephemeral = true, flags = flags.TICKET }
  local place = { name = ("lock %q"):format(settings.key), prefix = settings.line, settings = ticket }
  object.know(lock, { place = place, now = setmetatable({}, { __mode = "v" }) })
end

--- Whether a lock is one.
function M.is(lock)
  return object.facts(lock) ~= nil
end

local function is_alive(ticket) return ticket.session ~= nil end

local function any_alive(tickets)
  for _, ticket in ipairs(tickets) do
    if is_alive(ticket) then return ticket end
  end
end

-- Nobody waits: no ticket is needed. Answers whether it has the lock.
local function try_at_once(line, lock)
  local tickets = line:look()
  local first = any_alive(tickets)
  line:discard(tickets)
  if first then
    line:note(("session %s is before it"):format(first.session), "TIMEOUT")
    return false
  end
  local ok, message, code = line:finish(lock:start_lock(0))
  return ok or (line.once or FINAL[code]) and lines.must(ok, message, code)
end

local function look(line)
  local tickets = line:look()
  line:discard(tickets)
  return tickets
end

local function take(line, lock)
  if try_at_once(line, lock) then return end
  line:join()
  line:wait_for_turn(is_alive, nil, look)
  line:check()
  lines.must(line:finish(lock:start_lock(line:left())))
end

--- What lock:lock does.
-- @param lock
-- @tparam[opt] number seconds
-- @treturn true|nil true; nil, message, code
function M.lock(lock, seconds)
  local facts, client = object.facts(lock), object.client(lock)
  if lines.is_under_way(facts.now.line) then
    return nil, ("another call on this object is acquiring %s"):format(facts.place.name), "HELD"
  end
  if lock:held() then return object.finish(lock, lock:start_lock(seconds)) end
  local line = lines.new(client, facts.place, seconds)
  facts.now.line = line
  local ok, message, code = line:run(take, lock)
  facts.now.line = nil
  line:leave()
  if not ok then return nil, message, code end
  return true
end

--- What lock:cancel does to one that waits in line.
function M.cancel(lock)
  local line = object.facts(lock).now.line
  if line then line:cancel() end
end

return M
