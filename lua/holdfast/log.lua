--- Telling what goes on in a client: what the core has noted is handed to the `log` of its options, in the user's
-- thread, by whoever waits. Private; nothing here runs when there is no `log`.
-- @module holdfast.log

local check = require("holdfast.check")

-- Whoever waits for long looks so often whether there is something to tell, seconds.
local EACH = 1

-- A lock-delay of less is none (docs/consul.md, "Lease").
local DELAY_LEAST = 1

local M = {}

-- ---- where it goes -------------------------------------------------------------------------------------------------

local function method(object, name)
  local ok, value = pcall(function() return object[name] end)
  return ok and type(value) == "function" and value or nil
end

-- A function, or an object like those of LuaLogging, as a function; nil for anything else.
local function read(given)
  if type(given) == "function" then return given end
  if type(given) ~= "table" and type(given) ~= "userdata" then return nil end
  if method(given, "log") then
    return function(level, message) given:log(level, message) end
  elseif method(given, "info") and method(given, "warn") and method(given, "error") then
    return function(level, message) given[level:lower()](given, message) end
  end
end

local RULE = { read, what = "a function, or an object with the methods log, or info, warn and error" }

-- ---- what is said --------------------------------------------------------------------------------------------------

-- The core may have had no memory for a sentence.
local function why(fields) return fields.error or fields.code end

-- event -> level, and fn(fields), which answers the sentence.
local EVENTS = {
  session_made = { "INFO", function(f)
    return ("session %s has been made: TTL %g s, lock-delay %g s"):format(f.session, f.ttl, f.lock_delay)
  end },
  session_not_made = { "WARN", function(f)
    return ("session %q cannot be made so far: %s"):format(f.name or "", why(f))
  end },
  session_not_renewed = { "WARN", function(f)
    return ("session %s has not been renewed: %s"):format(f.session, why(f))
  end },
  session_renewed = { "INFO", function(f) return ("session %s is renewed again"):format(f.session) end },
  session_lost = { "ERROR", function(f) return ("session %s has been lost: %s"):format(f.session, f.reason) end },
  lock_lost = { "ERROR", function(f)
    return ("the lock on %q (token %.0f) has been lost: %s"):format(f.key or "", f.token, f.reason)
  end },
  trouble = { "WARN", function(f) return "no answer from Consul: " .. why(f) end },
  trouble_over = { "INFO", function(f) return ("Consul answers again, after %g s"):format(f.lasted) end },
  dropped = { "WARN", function(f) return ("%.0f events have been dropped: nobody came for them"):format(f.count) end },
  log_failed = { "ERROR", function(f) return "log has raised an error: " .. f.error end },
  unsafe_option = { "WARN", function(f)
    return ("lock_delay of %g s: with less than %g s whoever destroys the session frees its keys at once"):format(
      f.lock_delay, DELAY_LEAST)
  end },
}

-- One event. An error in the log breaks nothing of ours: the next call hears of it.
local function say(self, fields)
  local level, sentence = EVENTS[fields.event][1], EVENTS[fields.event][2]
  local failure = self.failure
  if failure and fields.event ~= "log_failed" then
    self.failure = nil
    say(self, { event = "log_failed", error = failure })
  end
  local ok, message = pcall(self.call, level, sentence(fields), fields)
  if not ok then self.failure = tostring(message) end
end

-- What has been noted since the last time. The log may call the client, which comes here again.
local function tell(self)
  local client = self.client[1]
  if self.telling or not client then return end
  self.telling = true
  local fields = client:next_event()
  while fields do
    say(self, fields)
    fields = client:next_event()
  end
  self.telling = false
end

-- ---- the listener --------------------------------------------------------------------------------------------------

local Listener = {}
Listener.__index = Listener

--- Says once that a session's options give up the protection of its locks.
function Listener:look_at(session)
  if self.warned or self.telling or not session or session.lock_delay >= DELAY_LEAST then return end
  self.warned, self.telling = true, true
  say(self, { event = "unsafe_option", lock_delay = session.lock_delay })
  self.telling = false
end

--- Listens to a client. Answers its scheduler, with which whoever has waited tells what went on meanwhile.
function Listener:attach(client, scheduler)
  self.client[1] = client
  local heard = setmetatable({ under = scheduler }, { __index = scheduler })
  function heard.wait(waitable, seconds)
    local deadline = seconds and scheduler.now() + seconds
    repeat
      local left = deadline and math.max(0, deadline - scheduler.now())
      local done, message, code = scheduler.wait(waitable, left and math.min(left, EACH) or EACH)
      tell(self)
      if done or message ~= "timeout" then return done, message, code end
    until deadline and scheduler.now() >= deadline
    return nil, "timeout"
  end
  function heard.sleep(seconds)
    scheduler.sleep(seconds)
    tell(self)
  end
  return heard
end

--- What a client tells to. It knows its client weakly: else that would live for ever where tables have no ephemerons.
-- @param given the option `log`
-- @int level whom a mistake blames, as for error()
-- @treturn table|nil nil when nothing was given
function M.listener(given, level)
  if given == nil then return nil end
  local call = check.guard(level + 1, "", check.read, given, RULE, "log")
  return setmetatable({ call = call, client = setmetatable({}, { __mode = "v" }) }, Listener)
end

return M
