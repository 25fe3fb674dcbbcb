--- Read-write locks: many readers of a key, or one writer; in the order in which they came, so that writers do not
-- starve. Private; users see it as `client:rwlock("k")`.
--
-- Who wants the key stands in line (line.lua) with an ephemeral key `k/.rw/ID`, whose value is "read" or "write". A
-- writer holds when nobody is before it, a reader when no writer is. The hold is that of the core on this key, so all
-- that a lock says of itself, and what is guarded by it, comes from there.
--
-- One whose session has ended may believe for as long as its lease that it holds: almost the lock-delay. It leaves its
-- key behind, which Consul lets nobody lock in that time. So who comes next locks that very key and deletes it, in one
-- transaction, before it goes on. (That is why the behavior of the sessions must be release.)
--
-- The key itself has flags of its own, which make it a CONFLICT for plain locks. It is made when it is first needed,
-- and looked at in the moment in which it is decided whose turn it is.
-- @module holdfast.rwlock

local flags = require("holdfast.flags")
local lines = require("holdfast.line")
local locks = require("holdfast.lock")
local object = require("holdfast.object")
local options = require("holdfast.options")

require("holdfast.interpreted")()

local FLAGS = tonumber(flags.RWLOCK)
local TIDY = 1 -- seconds that a reader gives to what others have left behind

local WRITE = "d3JpdGU=" -- what Consul shows of the value "write"

local M = {}

local Face = {}
Face.__index = Face
Face.__name = "holdfast.rwlock"

-- ---- in line -------------------------------------------------------------------------------------------------------

local BLOCKS = {
  write = function() return true end,
  read = function(entry) return entry.value == WRITE end,
}

-- Somebody before it has died.
local function bury(line, entry)
  local results, refusal = line:transact({
    { Verb = "check-index", Key = entry.key, Index = entry.index },
    { Verb = "lock", Key = entry.key, Session = line.contender:session() },
    { Verb = "delete", Key = entry.key },
  })
  if results or not refusal:find("lock delay", 1, true) then return end
  line:note("lock delay: one that was before it has died", "TIMEOUT")
  line:watch(entry.key, entry.index, lines.a_moment())
end

-- The line and the key in one moment: when it is somebody's turn, the key is as it must be.
local function look(line)
  local key = line.place.marker
  while true do
    local entries, marker = line:look()
    if marker and marker.flags ~= FLAGS then line:refuse("the key is not used as a read-write lock", "CONFLICT") end
    if marker then
      line.dead = nil
      for _, entry in ipairs(entries) do
        if not entry.session then line.dead = entry end
      end
      return entries
    end
    line:transact({ { Verb = "check-not-exists", Key = key }, { Verb = "set", Key = key, Flags = FLAGS, Value = "" } })
  end
end

-- One try is made in line only when there is a chance: others would wait for it.
local function refuse_at_once(line, blocks)
  for _, entry in ipairs(look(line)) do
    if entry.session and blocks(entry) then
      line:note(("session %s is before it"):format(entry.session), "TIMEOUT")
    end
  end
end

-- Of a session made elsewhere, as far as it may be seen.
local function check_behavior(line, session)
  if type(session) ~= "string" then session = session:id() end
  local found = session and line.client:call({ path = "/v1/session/info/" .. session })
  if found and found[1] and found[1].Behavior == "delete" then
    line:refuse("the session's behavior is delete, but must be release", "INVALID")
  end
end

-- Readers wait for no dead reader, so each clears one away, if its lock-delay is over. It is no harm when that fails.
local function tidy(line, entry)
  line.client.kv:txn({
    { verb = "check-index", key = entry.key, index = entry.index },
    { verb = "lock", key = entry.key, session = line.contender:session() },
    { verb = "delete", key = entry.key },
  }, { timeout = TIDY })
end

local function take(line, face)
  local blocks = BLOCKS[face.kind_]
  if line.place.settings.session then check_behavior(line, line.place.settings.session) end
  if line.once then refuse_at_once(line, blocks) end
  line:join()
  line:wait_for_turn(blocks, bury, look)
  if line.dead and face.kind_ == "read" then tidy(line, line.dead) end
end

-- ---- the face of a lock --------------------------------------------------------------------------------------------

local function idle(face)
  local lock, message, code = face.client_:lock_object(face.place_.settings)
  if not lock then return nil, message, code end
  return locks.adopt(lock, face.client_)
end

-- One stay in line at a time.
local function stand_in_line(face, seconds, fn)
  if lines.is_under_way(face.now_.line) then
    return nil, ("another call on this object is acquiring %s"):format(face.place_.name), "HELD"
  end
  local line = lines.new(face.client_, face.place_, seconds)
  face.now_.line = line
  local ok, message, code = line:run(fn, face)
  face.now_.line = nil
  if not ok then return nil, message, code end
  return line
end

--- Takes the lock: as a lock's `lock`.
function Face:lock(timeout)
  local seconds = options.timeout(timeout, 2)
  local line, fresh, message, code
  if self.lock_:held() then return nil, ("this object holds %s already"):format(self.place_.name), "HELD" end
  fresh, message, code = idle(self)
  if not fresh then return nil, message, code end
  self.lock_ = fresh
  line, message, code = stand_in_line(self, seconds, take)
  if not line then return nil, message, code end
  self.lock_ = locks.adopt(line.contender, self.client_)
  return true
end

--- Ends a `lock` that another coroutine waits in: it answers CANCELED.
function Face:cancel()
  if self.now_.line then self.now_.line:cancel() end
end

-- The line has only this writer in it: nobody holds, and whoever comes next will look at the key.
local function remove(line, face)
  take(line, face)
  lines.must(line:transact({
    { Verb = "check-index", Key = line.place.settings.key, Index = line.contender:token() },
    { Verb = "delete", Key = line.place.marker },
  }), ("%s: it is in use"):format(line.place.name), "IN_USE")
end

--- Deletes the key, if nobody holds it or waits for it: as a lock's `destroy`, but one try.
function Face:destroy(timeout)
  options.timeout(timeout, 2)
  if self.lock_:held() then return nil, ("destroy %q: this object holds it"):format(self.place_.marker), "HELD" end
  local writer, line, message, code
  writer, message, code = M.face(self.client_, self.place_, "write")
  if not writer then return nil, message, code end
  line, message, code = stand_in_line(writer, 0, remove)
  if not line then return nil, message, code == "TIMEOUT" and "IN_USE" or code end
  line:give_back()
  return true
end

--- The key that all of them want.
function Face:key() return self.place_.marker end

--- "read" or "write".
function Face:kind() return self.kind_ end

--- As a lock's.
function Face:unlock(timeout)
  return self.lock_:unlock(options.timeout(timeout, 2))
end

function Face:wait_lost(timeout)
  return self.lock_:wait_lost(options.timeout(timeout, 2))
end

function Face:request(req)
  local settings, message, code = options.request(req, 2)
  if not settings then return nil, message, code end
  return locks.request(self.lock_, settings)
end

for _, name in ipairs({ "held", "lost", "token", "remaining", "session", "pollfd", "getfd", "events", "timeout",
  "dirty", "wait" }) do
  Face[name] = function(self, ...) return self.lock_[name](self.lock_, ...) end
end

function Face:__tostring()
  local state = self:held() and "held" or self:lost() and "lost" or "not held"
  return ("holdfast.rwlock: %s, %s (%s)"):format(self.place_.marker, self.kind_, state)
end

function Face:__close()
  self:cancel()
  getmetatable(self.lock_).__close(self.lock_)
end

-- ---- making them ---------------------------------------------------------------------------------------------------

function M.face(client, place, kind)
  local settings = {}
  for name, value in pairs(place.settings) do settings[name] = value end
  settings.key, settings.value = place.prefix .. lines.id(), kind
  local face = setmetatable({ client_ = client, kind_ = kind, now_ = setmetatable({}, { __mode = "v" }),
    place_ = { name = place.name, prefix = place.prefix, marker = place.marker, settings = settings } }, Face)
  local message, code
  face.lock_, message, code = idle(face)
  if not face.lock_ then return nil, message, code end
  return face
end

local Rwlock = {}
Rwlock.__index = Rwlock
Rwlock.__name = "holdfast.rwlocks"

--- A lock that many may hold at once, while nobody has one that writes. It is a lock with all its methods.
-- @function rwlock:read
-- @treturn lock|nil it; nil, message, code (CLOSED, FORKED, NOMEM)
function Rwlock:read()
  local lock, message, code = M.face(self.client_, self.place_, "read")
  return lock, message, code
end

--- A lock that only one holds, and nobody else.
-- @function rwlock:write
-- @treturn lock|nil it; nil, message, code (CLOSED, FORKED, NOMEM)
function Rwlock:write()
  local lock, message, code = M.face(self.client_, self.place_, "write")
  return lock, message, code
end

--- The key.
-- @function rwlock:key
function Rwlock:key() return self.place_.marker end

function Rwlock:__tostring() return "holdfast.rwlock: " .. self.place_.marker end

--- What client:rwlock does.
-- @int level as for error() in the function that calls this
function M.new(client, key_or_opts, level)
  local settings, message, code = options.rwlock(key_or_opts, object.facts(client).session, level + 1)
  if not settings then return nil, message, code end
  local key, prefix = settings.key, settings.line
  settings.line, settings.ephemeral, settings.flags = nil, true, flags.RWLOCK
  return setmetatable({ client_ = client, place_ = { name = ("rwlock %q"):format(key), prefix = prefix, marker = key,
    settings = settings } }, Rwlock)
end

return M
