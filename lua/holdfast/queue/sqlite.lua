--- The queue "sqlite:PATH", over LuaDBI. Private to holdfast.queue, which says what the methods do.
--
-- WAL with synchronous=FULL: what answered true is on the disk. Every operation is one transaction, and one that writes
-- begins as a writer, so that two processes cannot get into each other's way half-way through.
--
-- What LuaDBI 0.7 does, and what is done about it:
--
--  * It reads a string up to its first zero byte: bodies, headers and reasons are stored as base64.
--  * It reads an integer as 32 bits: what may be larger is read as a real.
--  * A statement that failed fails once more when it is used again: it is closed and prepared anew.
--  * A connection with a statement that is open is not closed, only forgotten: statements are closed first.
--  * Some failures are raised, others answered.
-- @module holdfast.queue.sqlite

local core = require("holdfast.core")

require("holdfast.interpreted")()

local APPLICATION = 0x68666c64   -- "hfld", where SQLite has a place for such a mark
local VERSION = 1
local BUSY = 5                   -- seconds to wait for other processes

-- `at` is 0 for a message that may be claimed, or when it may be; what has become claimable is set to 0 by the claim
-- that finds it. So the first of a receiver is one look into message_next, however many wait before it.
-- `turn` counts claims: it makes tokens unique, and says who was served when.
local SCHEMA = {
  [[CREATE TABLE message (seq INTEGER PRIMARY KEY, receiver TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, claim TEXT, reason TEXT, pushed REAL NOT NULL, not_before REAL, headers TEXT,
    body TEXT NOT NULL, UNIQUE (receiver, id))]],
  "CREATE INDEX message_next ON message (receiver, at, seq, pushed)",
  [[CREATE TABLE receiver (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, served INTEGER NOT NULL DEFAULT 0,
    depth INTEGER NOT NULL DEFAULT 0)]],
  "CREATE INDEX receiver_next ON receiver (served, number) WHERE depth > 0",
  [[CREATE TRIGGER message_comes AFTER INSERT ON message BEGIN
    INSERT OR IGNORE INTO receiver (name) VALUES (NEW.receiver);
    UPDATE receiver SET depth = depth + 1 WHERE name = NEW.receiver; END]],
  [[CREATE TRIGGER message_goes AFTER DELETE ON message BEGIN
    UPDATE receiver SET depth = depth - 1 WHERE name = OLD.receiver; END]],
  "CREATE TABLE turn (number INTEGER NOT NULL)",
  "INSERT INTO turn VALUES (0)",
  [[CREATE TABLE dead (seq INTEGER PRIMARY KEY, receiver TEXT NOT NULL, id TEXT NOT NULL, attempt INTEGER NOT NULL,
    reason TEXT, pushed REAL NOT NULL, died REAL NOT NULL, not_before REAL, headers TEXT, body TEXT NOT NULL)]],
  "CREATE INDEX dead_receiver ON dead (receiver)",
  "PRAGMA application_id = " .. ("%d"):format(APPLICATION),
  "PRAGMA user_version = " .. ("%d"):format(VERSION),
}

-- Changes nothing, and fails where nothing can be changed; BEGIN IMMEDIATE alone takes a file that can only be read.
local TRY = "UPDATE turn SET number = number WHERE 0"
local PUSH = [[INSERT INTO message (receiver, id, at, pushed, not_before, headers, body) VALUES (?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT (receiver, id) DO NOTHING]]
local DUE = [[SELECT name, depth FROM receiver WHERE depth > 0 AND
  EXISTS (SELECT 1 FROM message WHERE receiver = receiver.name AND at <= ?) ORDER BY served, number LIMIT ?]]
local PEEK = "SELECT 1 FROM message WHERE receiver = ? AND at <= ? LIMIT 1"
local READY = "UPDATE message SET at = 0 WHERE receiver = ? AND at > 0 AND at <= ?"
local FIRST = [[SELECT CAST(seq AS REAL), attempt, pushed, id, body, headers, not_before, reason FROM message
  WHERE receiver = ? AND at = 0 ORDER BY seq LIMIT ?]]
local TURN = "UPDATE turn SET number = number + 1"
local WHOSE_TURN = "SELECT CAST(number AS REAL) FROM turn"
local CLAIM = "UPDATE message SET claim = ?, at = ?, attempt = attempt + 1 WHERE seq = ?"
local SERVED = "UPDATE receiver SET served = ? WHERE name = ?"
local EXTEND = "UPDATE message SET at = ? WHERE seq = ? AND claim = ?"
local ACK = "DELETE FROM message WHERE seq = ? AND claim = ?"
local NACK = [[UPDATE message SET at = ?, attempt = attempt - ?, reason = ?, claim = NULL WHERE seq = ? AND claim = ?]]
local BURY = [[INSERT INTO dead (receiver, id, attempt, reason, pushed, died, not_before, headers, body)
  SELECT receiver, id, attempt, ?, pushed, ?, not_before, headers, body FROM message WHERE seq = ? AND claim = ?]]
local LETTERS = [[SELECT receiver, attempt, pushed, id, body, headers, not_before, reason, died FROM dead %s
  ORDER BY seq LIMIT ?]]

local Sqlite = {}
Sqlite.__index = Sqlite

-- ---- failures -------------------------------------------------------------------------------------------------------

-- What SQLite says, what a person can do about it, and the code.
local CAUSES = {
  { "is full", "make room for it; nothing was changed", "TOO_LARGE" },
  { "is locked", ("other processes had it locked for %d seconds; nothing was changed"):format(BUSY), "TIMEOUT" },
  { "readonly database", "it must be writable, and so must its directory and the files with -wal and -shm added",
    "DENIED" },
  { "malformed", "the file is damaged: stop everything that uses it, and recover it or bring back a copy", "INVALID" },
  { "not a database", "the file is damaged, or something else: it has been left alone", "INVALID" },
  { "disk I/O error", "the disk failed, or a limit on the size of files was met", "INVALID" },
  { "out of memory", "nothing was changed", "NOMEM" },
  { "not enough memory", "nothing was changed", "NOMEM" },
}

-- Why a file cannot be opened. The file itself is not touched: closing it would drop the locks that SQLite has on it in
-- this process.
local function cannot_open(path)
  local directory = path:match("^(.*/)[^/]*$")
  local handle, message, errno = io.open(directory .. ".")
  if handle then
    handle:close()
    return "may it and its directory be written, and is it a file?", "DENIED"
  end
  return message, errno == 2 and "NOT_FOUND" or "DENIED"
end

local function failure(self, message)
  message = tostring(message):gsub("^Execute failed ", ""):gsub("^Failed to connect to database: ", "")
  local advice, code
  if message:find("unable to open", 1, true) then advice, code = cannot_open(self.path) end
  for _, cause in ipairs(CAUSES) do
    if not code and message:find(cause[1], 1, true) then advice, code = cause[2], cause[3] end
  end
  return nil, ("queue sqlite:%s: %s%s"):format(self.path, message, advice and " (" .. advice .. ")" or ""),
    code or "INVALID"
end

-- ---- statements -----------------------------------------------------------------------------------------------------

-- A statement is prepared once, and again after it has failed.
local function prepared(self, sql)
  local statement = self.statements[sql]
  if statement then return statement end
  local ok, message
  ok, statement, message = pcall(self.connection.prepare, self.connection, sql)
  if not ok then return nil, statement end
  if statement then self.statements[sql] = statement end
  return statement, message
end

local function forget(self, sql)
  local statement = self.statements[sql]
  self.statements[sql] = nil
  if statement then pcall(statement.close, statement) end
end

local function execute(self, sql, ...)
  local statement, message = prepared(self, sql)
  if not statement then return failure(self, message) end
  local ok, done, wrong = pcall(statement.execute, statement, ...)
  if ok and done then return statement end
  forget(self, sql)
  return failure(self, ok and wrong or done)
end

-- Answers how many rows it changed.
local function change(self, sql, ...)
  local statement, message, code = execute(self, sql, ...)
  if not statement then return nil, message, code end
  return statement:affected()
end

-- Answers all rows. It has to read them to the end, or the statement would go on reading, and a writer could not begin.
local function rows(self, sql, ...)
  local statement, message, code = execute(self, sql, ...)
  if not statement then return nil, message, code end
  local found = {}
  while true do
    local ok, row = pcall(statement.fetch, statement)
    if not ok then
      forget(self, sql)
      return failure(self, row)
    elseif not row then
      return found
    end
    found[#found + 1] = row
  end
end

-- The first column of the only row; false when it is null.
local function value(self, sql, ...)
  local found, message, code = rows(self, sql, ...)
  if not found then return nil, message, code end
  return found[1] and found[1][1] or false
end

-- A pragma cannot be kept as a prepared statement: some act when they are prepared.
local function pragma(self, text)
  local answer, message, code = value(self, "PRAGMA " .. text)
  forget(self, "PRAGMA " .. text)
  return answer, message, code
end

local function roll_back(self)
  pcall(self.connection.rollback, self.connection)   -- SQLite has done so already after some failures
end

-- Runs body(self, ...) as one transaction, which takes place when it answers something other than nil and false. The
-- lock is taken at the start: a reader that becomes a writer may be refused.
local function transaction(self, body, ...)
  local done, message, code = change(self, "BEGIN IMMEDIATE")
  if not done then return nil, message, code end
  local ok, answer
  ok, answer, message, code = pcall(body, self, ...)
  if not ok then
    answer, message, code = failure(self, answer)
  elseif answer then
    done, message, code = change(self, "COMMIT")
    if done then return answer end
    answer = nil
  end
  roll_back(self)
  return answer, message, code
end

-- ---- what is stored -------------------------------------------------------------------------------------------------

local function decoded(text)
  return text and (core.base64_decode(text) or error("database disk image is malformed: a text is no base64", 0))
end

-- "NAME:VALUE NAME:VALUE ", both as base64; an empty table gives an empty text.
local function packed(headers)
  if not headers then return nil end
  local parts = {}
  for name, text in pairs(headers) do
    parts[#parts + 1] = core.base64_encode(name) .. ":" .. core.base64_encode(text) .. " "
  end
  return table.concat(parts)
end

local function unpacked(text)
  if not text then return nil end
  local headers = {}
  for name, content in text:gmatch("(%S*):(%S*) ") do headers[decoded(name)] = decoded(content) end
  return headers
end

-- The columns 2 to 8 of a claim, and of a dead letter.
local function read(row)
  return { attempt = row[2], first_seen = row[3], reason = decoded(row[8]),
    msg = { id = row[4], body = decoded(row[5]), headers = unpacked(row[6]), not_before = row[7] } }
end

-- ---- the queue ------------------------------------------------------------------------------------------------------

local function changed(count, message, code)
  if not count then return nil, message, code end
  return count > 0
end

function Sqlite:push(now, receiver, message, at)
  return changed(change(self, PUSH, receiver, message.id, at <= now and 0 or at, now, message.not_before,
    packed(message.headers), core.base64_encode(message.body)))
end

function Sqlite:due(now, limit)
  local found, message, code = rows(self, DUE, now, limit or -1)
  if not found then return nil, message, code end
  for i, row in ipairs(found) do found[i] = { receiver = row[1], depth = row[2] } end
  return found
end

local function take(self, now, receiver, max, till, nonce)
  local count, found, turn, message, code
  count, message, code = change(self, READY, receiver, now)
  if not count then return nil, message, code end
  found, message, code = rows(self, FIRST, receiver, max)
  if not found then return nil, message, code end
  if not found[1] then return false end   -- others have been faster
  count, message, code = change(self, TURN)
  if not count then return nil, message, code end
  turn, message, code = value(self, WHOSE_TURN)
  if not turn then return nil, message, code end
  local claim = ("%.0f.%s"):format(turn, nonce)
  for i, row in ipairs(found) do
    count, message, code = change(self, CLAIM, claim, till, row[1])
    if not count then return nil, message, code end
    local item = read(row)
    item.seq, item.claim, item.attempt, found[i] = row[1], claim, item.attempt + 1, item
  end
  count, message, code = change(self, SERVED, turn, receiver)
  if not count then return nil, message, code end
  return found
end

function Sqlite:claim(now, receiver, max, till, nonce)
  local there, message, code = value(self, PEEK, receiver, now)
  if there then
    there, message, code = transaction(self, take, now, receiver, max, till, nonce)
  end
  if there == nil then return nil, message, code end
  return there or {}
end

function Sqlite:extend(seq, claim, at)
  return changed(change(self, EXTEND, at, seq, claim))
end

function Sqlite:ack(seq, claim)
  return changed(change(self, ACK, seq, claim))
end

function Sqlite:nack(seq, claim, at, uncount, reason)
  return changed(change(self, NACK, at, uncount and 1 or 0, reason and core.base64_encode(reason), seq, claim))
end

local function bury(self, seq, claim, now, reason)
  local done, message, code = changed(change(self, BURY, reason and core.base64_encode(reason), now, seq, claim))
  if done then
    done, message, code = changed(change(self, ACK, seq, claim))
  end
  return done, message, code
end

function Sqlite:dead(seq, claim, now, reason)
  return transaction(self, bury, seq, claim, now, reason)
end

local function letters(self, receiver, limit)
  local found, message, code
  if receiver then
    found, message, code = rows(self, LETTERS:format("WHERE receiver = ?"), receiver, limit or -1)
  else
    found, message, code = rows(self, LETTERS:format(""), limit or -1)
  end
  if not found then return nil, message, code end
  for i, row in ipairs(found) do
    local letter = read(row)
    letter.receiver, letter.died, found[i] = row[1], row[9], letter
  end
  return found
end

function Sqlite:dead_letters(receiver, limit)
  local ok, found, message, code = pcall(letters, self, receiver, limit)
  if not ok then return failure(self, found) end
  return found, message, code
end

function Sqlite:len(receiver)
  local count, message, code
  if receiver then
    count, message, code = value(self, "SELECT depth FROM receiver WHERE name = ?", receiver)
  else
    count, message, code = value(self, "SELECT sum(depth) FROM receiver WHERE depth > 0")
  end
  if count == nil then return nil, message, code end
  return count or 0
end

function Sqlite:oldest(receiver)
  if receiver then return value(self, "SELECT min(pushed) FROM message WHERE receiver = ?", receiver) end
  return value(self, "SELECT pushed FROM message ORDER BY seq LIMIT 1")
end

function Sqlite:close()
  for _, statement in pairs(self.statements) do pcall(statement.close, statement) end
  self.statements = {}
  pcall(self.connection.close, self.connection)
end

-- ---- opening --------------------------------------------------------------------------------------------------------

local function connect(path)
  local ok, dbi = pcall(require, "DBI")
  if ok then ok = pcall(require, "dbd.sqlite3") end
  if not ok then
    return nil, "queue: \"sqlite:\" needs LuaDBI with SQLite 3: install the package lua-dbi-sqlite3 (Debian, Ubuntu) "
      .. "or luadbi-sqlite3 (LuaRocks)", "INVALID"
  end
  local self = setmetatable({ path = path, statements = {} }, Sqlite)
  local message
  ok, self.connection, message = pcall(dbi.Connect, "SQLite3", path)
  if not ok then return failure(self, self.connection) end
  if not self.connection then return failure(self, message) end
  self.connection:autocommit(true)   -- or it would begin transactions of its own
  return self
end

local function use_wal(self)
  local mode, message, code = pragma(self, "journal_mode = WAL")
  if not mode then return nil, message, code end
  if mode ~= "wal" then
    return failure(self, "this file system cannot do write-ahead logging (journal mode " .. mode .. ")")
  end
  return true
end

-- Makes the tables in an empty file, and looks whose they are in any other.
local function prepare_schema(self)
  local version, message, code = pragma(self, "user_version")
  if version == nil then return nil, message, code end
  local tables
  tables, message, code = value(self, "SELECT count(*) FROM sqlite_master")
  if not tables then return nil, message, code end
  if tables == 0 and version == 0 then
    for _, sql in ipairs(SCHEMA) do
      local done
      done, message, code = change(self, sql)
      forget(self, sql)
      if not done then return nil, message, code end
    end
    return true
  elseif pragma(self, "application_id") ~= APPLICATION then
    return failure(self, "the file is a database of another program: it has been left alone")
  elseif version ~= VERSION then
    return failure(self, ("a newer holdfast wrote this file (schema %d, and this one knows schema %d): it has been "
      .. "left alone"):format(version, VERSION))
  end
  return change(self, TRY)
end

-- What the file is, is looked at before anything is changed in it.
local function set_up(self)
  local done, message, code = pragma(self, ("busy_timeout = %d"):format(BUSY * 1000))
  if done == nil then return nil, message, code end
  done, message, code = transaction(self, prepare_schema)
  if not done then return nil, message, code end
  done, message, code = use_wal(self)
  if not done then return nil, message, code end
  done, message, code = pragma(self, "synchronous = FULL")
  if done == nil then return nil, message, code end
  return true
end

local M = {}

function M.open(path)
  -- SQLite takes "file:…" and ":memory:" for something else than the name of a file.
  if path:sub(1, 1) ~= "/" then path = "./" .. path end
  local self, message, code = connect(path)
  if not self then return nil, message, code end
  local done
  done, message, code = set_up(self)
  if done then return self end
  self:close()
  return nil, message, code
end

return M
