--- The queue "memory:": gone with the process. Private to holdfast.queue, which says what the methods do.
-- @module holdfast.queue.memory

require("holdfast.interpreted")()

local Memory = {}
Memory.__index = Memory

local function copied(msg)
  local copy = { id = msg.id, body = msg.body, not_before = msg.not_before }
  if msg.headers then
    copy.headers = {}
    for name, value in pairs(msg.headers) do copy.headers[name] = value end
  end
  return copy
end

-- The messages of a receiver are a list in the order pushed, linked so that one in the middle goes at no cost.
local function append(line, entry)
  entry.before = line.last
  if line.last then line.last.after = entry else line.first = entry end
  line.last, line.depth, line.ids[entry.msg.id] = entry, line.depth + 1, entry
end

local function remove(self, entry)
  local line, before, after = entry.line, entry.before, entry.after
  if before then before.after = after else line.first = after end
  if after then after.before = before else line.last = before end
  line.depth, line.ids[entry.msg.id] = line.depth - 1, nil
  self.entries[entry.seq], self.depth = nil, self.depth - 1
end

local function line_of(self, receiver)
  local line = self.lines[receiver]
  if not line then
    line = { receiver = receiver, number = #self.order + 1, served = 0, depth = 0, ids = {} }
    self.lines[receiver], self.order[line.number] = line, line
  end
  return line
end

-- The first message that may be claimed now, from entry on.
local function claimable(entry, now)
  while entry and entry.at > now do entry = entry.after end
  return entry
end

local function claimed(self, seq, claim)
  local entry = self.entries[seq]
  return entry and entry.claim == claim and entry or nil
end

function Memory:push(now, receiver, message, at)
  local line = line_of(self, receiver)
  if line.ids[message.id] then return false end
  self.seq, self.depth = self.seq + 1, self.depth + 1
  local entry = { seq = self.seq, line = line, msg = copied(message), at = at, pushed = now, attempt = 0 }
  self.entries[entry.seq] = entry
  append(line, entry)
  return true
end

local function less_recently(a, b)
  if a.served ~= b.served then return a.served < b.served end
  return a.number < b.number
end

function Memory:due(now, limit)
  local lines, found = {}, {}
  for _, line in ipairs(self.order) do
    if claimable(line.first, now) then lines[#lines + 1] = line end
  end
  table.sort(lines, less_recently)
  for i = 1, math.min(#lines, limit or #lines) do
    found[i] = { receiver = lines[i].receiver, depth = lines[i].depth }
  end
  return found
end

function Memory:claim(now, receiver, max, till, nonce)
  local line, items = self.lines[receiver], {}
  local entry = line and claimable(line.first, now)
  if not entry then return items end
  self.turn = self.turn + 1
  line.served = self.turn
  while entry and #items < max do
    entry.claim, entry.at, entry.attempt = ("%.0f.%s"):format(self.turn, nonce), till, entry.attempt + 1
    items[#items + 1] = { seq = entry.seq, claim = entry.claim, attempt = entry.attempt, first_seen = entry.pushed,
      reason = entry.reason, msg = copied(entry.msg) }
    entry = claimable(entry.after, now)
  end
  return items
end

function Memory:extend(seq, claim, at)
  local entry = claimed(self, seq, claim)
  if not entry then return false end
  entry.at = at
  return true
end

function Memory:ack(seq, claim)
  local entry = claimed(self, seq, claim)
  if not entry then return false end
  remove(self, entry)
  return true
end

function Memory:nack(seq, claim, at, uncount, reason)
  local entry = claimed(self, seq, claim)
  if not entry then return false end
  entry.at, entry.claim, entry.reason = at, nil, reason
  if uncount then entry.attempt = entry.attempt - 1 end
  return true
end

function Memory:dead(seq, claim, now, reason)
  local entry = claimed(self, seq, claim)
  if not entry then return false end
  remove(self, entry)
  self.letters[#self.letters + 1] = { receiver = entry.line.receiver, attempt = entry.attempt,
    first_seen = entry.pushed, died = now, reason = reason, msg = entry.msg }
  return true
end

function Memory:dead_letters(receiver, limit)
  local found = {}
  for _, letter in ipairs(self.letters) do
    if limit and #found >= limit then break end
    if not receiver or letter.receiver == receiver then
      found[#found + 1] = { receiver = letter.receiver, attempt = letter.attempt, first_seen = letter.first_seen,
        died = letter.died, reason = letter.reason, msg = copied(letter.msg) }
    end
  end
  return found
end

function Memory:len(receiver)
  if not receiver then return self.depth end
  local line = self.lines[receiver]
  return line and line.depth or 0
end

local function oldest_of(line)
  return line and line.first and line.first.pushed or false
end

function Memory:oldest(receiver)
  if receiver then return oldest_of(self.lines[receiver]) end
  local oldest = false
  for _, line in ipairs(self.order) do
    local pushed = oldest_of(line)
    if pushed then oldest = math.min(oldest or pushed, pushed) end
  end
  return oldest
end

function Memory:close()
  self.lines, self.order, self.entries, self.letters = {}, {}, {}, {}
end

local M = {}

function M.open()
  return setmetatable({ lines = {}, order = {}, entries = {}, letters = {}, seq = 0, turn = 0, depth = 0 }, Memory)
end

return M
