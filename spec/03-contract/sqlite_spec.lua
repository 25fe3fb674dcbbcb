-- What only the queue in a file can do wrong: several processes, crashes, disks and files that fail. Looks into the
-- adapter (queue.adapter_) where a failure has to be made.

local dbi = require("DBI")
local queues = require("holdfast.queue")

local START = 1700000000

-- ---- files ----------------------------------------------------------------------------------------------------------

local path, clock
local open = {}      -- the handles of the spec that runs
local scripts = {}   -- its files for other processes

local function remove(name)
  for _, suffix in ipairs({ "", "-wal", "-shm", "-journal" }) do os.remove(name .. suffix) end
end

local function write(name, text)
  local file = assert(io.open(name, "wb"))
  file:write(text)
  file:close()
end

local function slurp(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function try_open()
  return queues.open("sqlite:" .. path, { now = function() return clock end })
end

local function open_queue()
  local queue = assert(try_open())
  open[#open + 1] = queue
  return queue
end

-- Runs SQL on the file, past the queue; answers the first column of the last row.
local function sql(...)
  local connection, answer = assert(dbi.Connect("SQLite3", path)), nil
  connection:autocommit(true)
  for _, text in ipairs({ ... }) do
    local statement = assert(connection:prepare(text))
    assert(statement:execute())
    for row in statement:rows() do answer = row[1] end
    statement:close()
  end
  connection:close()
  return answer
end

-- The same through the connection of a queue.
local function sql_of(queue, text)
  local statement = assert(queue.adapter_.connection:prepare(text))
  assert(statement:execute())
  local row = statement:fetch()
  statement:close()
  return row and row[1]
end

local function push(queue, id, receiver)
  assert.is_true(queue:push(receiver or "r", { id = id, body = "{}" }))
end

local function claim_ids(queue, receiver)
  local list = {}
  for i, item in ipairs(assert(queue:claim(receiver or "r", 100000, 20))) do list[i] = item.msg.id end
  return list
end

local function fails(code, pattern, ok, message, got)
  assert.is_nil(ok)
  assert.is_truthy(tostring(message):find(pattern, 1, true), message)
  assert.is_truthy(message:find(path, 1, true), message)
  assert.are.equal(code, got)
end

-- Runs hook before a statement of the queue is executed for the next time.
local function before(queue, text, hook)
  local statements = queue.adapter_.statements
  local real = assert(statements[text], "not prepared: " .. text)
  statements[text] = {
    execute = function(_, ...)
      statements[text] = real
      hook()
      return real:execute(...)
    end,
    affected = function() return real:affected() end,
    close = function() return real:close() end,
  }
end

-- ---- other processes ------------------------------------------------------------------------------------------------

local function interpreter()
  local index = 0
  while arg[index - 1] do index = index - 1 end
  return os.getenv("HF_LUA") or arg[index]
end

local PRELUDE = [[
io.stdout:setvbuf("no")
local core = require("holdfast.core")
local path, name = arg[1], arg[2]
local function open() return assert(require("holdfast.queue").open("sqlite:" .. path)) end
local function hang() core.poll({}, 60) end
]]

-- Starts a process that runs this text; its first line tells its id. Read its output from the handle.
local function start(text, name, shell, runner)
  local script = os.tmpname()
  scripts[#scripts + 1] = script
  write(script, PRELUDE .. text)
  os.execute(("chmod 644 '%s'"):format(script))   -- the runner may make it another user's process
  local command = ("echo $$; %s export LUA_PATH='%s' LUA_CPATH='%s'; exec %s %s '%s' '%s' '%s' 2>&1"):format(
    shell or "", package.path, package.cpath, runner or "", interpreter(), script, path, name or "")
  local handle = assert(io.popen(command))
  return handle, assert(tonumber(handle:read("*l")))
end

local function kill(handle, pid)
  os.execute(("kill -9 %d"):format(pid))
  local rest = handle:read("*a")
  handle:close()
  return rest
end

local function lines(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do list[#list + 1] = line end
  return list
end

-- How many descriptors this process has on the file and what belongs to it.
local function descriptors()
  local pid = slurp("/proc/self/stat"):match("^%d+")
  local pipe = assert(io.popen(("ls -l /proc/%s/fd"):format(pid)))
  local count, listing = 0, pipe:read("*a")
  pipe:close()
  for line in listing:gmatch("[^\n]+") do
    if line:find(path, 1, true) then count = count + 1 end
  end
  return count
end

local function is_root()
  return slurp("/proc/self/status"):match("Uid:%s+%d+%s+(%d+)") == "0"
end

describe("queue sqlite:", function()
  before_each(function()
    path, clock = os.tmpname(), START
    os.remove(path)
    path = path .. ".db"
  end)

  after_each(function()
    for i = #open, 1, -1 do
      open[i]:close()
      open[i] = nil
    end
    for i = #scripts, 1, -1 do
      os.remove(scripts[i])
      scripts[i] = nil
    end
    remove(path)
  end)

  describe("one file", function()
    it("has all of it when it is opened again", function()
      local queue = open_queue()
      for i = 1, 5 do push(queue, "m" .. i) end
      push(queue, "o", "other")
      local items = queue:claim("r", 3, 20)
      queue:nack(items[1].token, 50, { reason = "HTTP 500" })
      queue:ack(items[2].token)
      queue:close()
      queue = open_queue()
      assert.are.equal(5, queue:len())
      assert.are.same({ "other", "r" }, { queue:due()[1].receiver, queue:due()[2].receiver })
      assert.are.equal("duplicate", queue:push("r", { id = "m3", body = "" }))
      assert.is_true(queue:ack(items[3].token))
      assert.are.same({ "m4", "m5" }, claim_ids(queue))
      clock = START + 50
      local item = queue:claim("r", 1, 20)[1]
      assert.are.same({ "m1", 2, "HTTP 500", START }, { item.msg.id, item.attempt, item.reason, item.first_seen })
    end)

    it("is one queue for two handles", function()
      local a, b = open_queue(), open_queue()
      for i = 1, 4 do push(i % 2 == 0 and a or b, "m" .. i) end
      assert.are.equal("duplicate", b:push("r", { id = "m2", body = "" }))
      local item = a:claim("r", 1, 20)[1]
      assert.are.equal("m1", item.msg.id)
      assert.are.same({ "m2", "m3", "m4" }, claim_ids(b))
      assert.are.same({}, claim_ids(a))
      assert.is_true(b:ack(item.token))
      assert.are.equal("lost", a:ack(item.token))
      assert.are.equal(3, a:len())
      clock = START + 20
      assert.are.same({ "m2", "m3", "m4" }, claim_ids(a))
    end)

    it("gives a message to one of two who have both seen that there is one", function()
      local a, b = open_queue(), open_queue()
      push(a, "m")
      local theirs
      before(a, "BEGIN IMMEDIATE", function() theirs = claim_ids(b) end)
      assert.are.same({}, a:claim("r", 1, 20))
      assert.are.same({ "m" }, theirs)
      assert.are.equal(1, sql_of(a, "SELECT number FROM turn"))   -- one has been served, once
    end)

    it("keeps what it answered true to through a loss of power: WAL, synchronous = FULL", function()
      local queue = open_queue()
      assert.are.equal("wal", sql_of(queue, "PRAGMA journal_mode"))
      assert.are.equal(2, sql_of(queue, "PRAGMA synchronous"))
    end)

    it("numbers beyond 32 bits", function()
      local queue = open_queue()
      push(queue, "m1")
      sql_of(queue, "UPDATE message SET seq = 5000000000")
      sql_of(queue, "UPDATE turn SET number = 6000000000")
      push(queue, "m2")
      local items = queue:claim("r", 5, 20)
      assert.is_truthy(items[1].token:find("^5000000000%.6000000001%."))
      assert.is_true(queue:ack(items[1].token))
      assert.is_true(queue:nack(items[2].token, 0))
      assert.are.same({ "m2" }, claim_ids(queue))
    end)

    it("may have any name, one that SQLite takes for something else too", function()
      local name = "file:" .. path:match("([^/]*)$") .. "?mode=memory"
      finally(function() remove(name) end)
      local queue = assert(queues.open("sqlite:" .. name))
      push(queue, "m")
      queue:close()
      assert.are.equal("SQLite format 3", slurp(name):sub(1, 15))
    end)

    it("is really closed by close, by a failure to open, and by the garbage collector", function()
      local queue = open_queue()
      push(queue, "m")
      queue:ack(queue:claim("r", 1, 20)[1].token)
      queue:due()
      queue:dead_letters()
      assert.is_true(descriptors() > 0)
      queue:close()
      assert.are.equal(0, descriptors())
      sql("PRAGMA user_version = 99")
      assert.is_nil(try_open())
      assert.are.equal(0, descriptors())
      sql("PRAGMA user_version = 1")
      local dropped = assert(try_open())
      push(dropped, "m")
      assert.is_true(descriptors() > 0)
      dropped = nil   -- luacheck: ignore 311
      for _ = 1, 3 do collectgarbage() end
      assert.are.equal(0, descriptors())
    end)
  end)

  describe("several processes", function()
    it("deliver each message once, when all of them open a new file at once", function()
      local handles, seen, total = {}, {}, 0
      for i = 1, 4 do
        handles[i] = start([[
          local queue = open()
          for i = 1, 60 do assert(queue:push("r" .. i % 7, { id = name .. "-" .. i, body = ("x"):rep(300) })) end
          local due = assert(queue:due(64))
          while due[1] do
            for _, item in ipairs(assert(queue:claim(due[1].receiver, 3, 60))) do
              assert(queue:ack(item.token) == true)
              print(item.msg.id)
            end
            due = assert(queue:due(64))
          end]], "p" .. i)
      end
      for _, handle in ipairs(handles) do
        for id in handle:lines() do
          assert.is_truthy(id:find("^p%d%-%d+$"), id)
          assert.is_nil(seen[id])
          seen[id], total = true, total + 1
        end
        handle:close()
      end
      assert.are.equal(240, total)
      assert.are.equal(0, open_queue():len())
      assert.are.equal("ok", sql("PRAGMA integrity_check"))
    end)

    it("get the message of one that was killed with a claim, when its lease is over", function()
      local queue = open_queue()
      push(queue, "m1")
      push(queue, "m2")
      clock = require("holdfast.core").time()
      local handle, pid = start([[
        local queue = open()
        print(assert(queue:claim("r", 1, 20))[1].token)
        hang()]])
      local token = handle:read("*l")
      kill(handle, pid)
      assert.are.same({ "m2" }, claim_ids(queue))
      clock = clock + 60
      local item = queue:claim("r", 1, 20)[1]
      assert.are.same({ "m1", 2 }, { item.msg.id, item.attempt })
      assert.are.equal("lost", queue:ack(token))
      assert.is_true(queue:ack(item.token))
      assert.are.equal("ok", sql("PRAGMA integrity_check"))
    end)

    it("find nothing of a claim that was killed in the middle", function()
      local queue = open_queue()
      push(queue, "m")
      local handle, pid = start([[
        local dbi = require("DBI")
        local connect = dbi.Connect
        function dbi.Connect(...)
          local real = connect(...)
          return setmetatable({}, { __index = function(_, method)
            return function(_, ...)
              if method == "prepare" and (...):find("UPDATE receiver SET served") then
                print("written, not committed")
                hang()
              end
              return real[method](real, ...)
            end
          end })
        end
        open():claim("r", 1, 20)]])
      assert.are.equal("written, not committed", handle:read("*l"))
      sql_of(queue, "PRAGMA busy_timeout = 1")
      fails("TIMEOUT", "database is locked", queue:claim("r", 1, 20))
      kill(handle, pid)
      clock = require("holdfast.core").time()
      local item = queue:claim("r", 1, 20)[1]
      assert.are.same({ "m", 1 }, { item.msg.id, item.attempt })
      assert.are.equal("ok", sql("PRAGMA integrity_check"))
    end)

    it("have everything that a producer was told is stored, wherever it is killed", function()
      local told = {}
      for round = 1, 4 do
        local handle, pid = start([[
          local queue = open()
          for i = 1, 100000 do
            assert(queue:push("r", { id = name .. "-" .. i, body = ("x"):rep(i % 5000) }) == true)
            print(name .. "-" .. i)
          end]], "p" .. round)
        for _ = 1, 17 * round do told[#told + 1] = assert(handle:read("*l")) end
        for _, id in ipairs(lines(kill(handle, pid))) do told[#told + 1] = id end
      end
      local queue, stored = open_queue(), {}
      local count = queue:len()
      assert.is_true(count >= #told and count <= #told + 4, count .. " for " .. #told)
      for _, id in ipairs(claim_ids(queue)) do stored[id] = true end
      for _, id in ipairs(told) do assert.is_true(stored[id], id) end
      assert.are.equal("ok", sql("PRAGMA integrity_check"))
    end)

    it("are waited for, and then it says so", function()
      local a, b = open_queue(), open_queue()
      push(a, "m")
      local item = a:claim("r", 1, 20)[1]
      push(a, "n")
      sql_of(a, "PRAGMA busy_timeout = 1")
      sql_of(b, "BEGIN IMMEDIATE")
      fails("TIMEOUT", "locked", a:push("r", { id = "o", body = "" }))
      fails("TIMEOUT", "locked", a:claim("r", 1, 20))
      fails("TIMEOUT", "locked", a:ack(item.token))
      fails("TIMEOUT", "locked", a:nack(item.token, 0))
      fails("TIMEOUT", "locked", a:extend(item.token, 1))
      fails("TIMEOUT", "locked", a:dead(item.token))
      assert.are.equal(2, a:len())   -- readers are not in the way
      assert.are.equal("r", a:due()[1].receiver)
      sql_of(b, "ROLLBACK")
      assert.is_true(a:ack(item.token))
      push(a, "o")
      assert.are.same({ "n", "o" }, claim_ids(a))
    end)
  end)

  describe("a disk", function()
    it("that is full refuses messages and loses none", function()
      local queue = open_queue()
      local count = 0
      local pages = sql_of(queue, "PRAGMA page_count")
      sql_of(queue, ("PRAGMA max_page_count = %d"):format(pages + 20))
      local ok, message, code
      repeat
        count = count + 1
        ok, message, code = queue:push("r", { id = "m" .. count, body = ("x"):rep(3000) })
      until not ok or count == 100
      fails("TOO_LARGE", "full", ok, message, code)
      assert.are.equal(count - 1, queue:len())
      fails("TOO_LARGE", "full", queue:push("other", { id = "m", body = ("x"):rep(3000) }))
      local items = queue:claim("r", 100, 20)
      assert.are.equal(count - 1, #items)
      for i = 1, 5 do assert.is_true(queue:ack(items[i].token)) end
      assert.is_true(queue:push("r", { id = "m" .. count, body = ("x"):rep(3000) }))
      assert.are.equal("ok", sql("PRAGMA integrity_check"))
    end)

    it("that is full leaves a message where it is when it cannot be buried", function()
      local queue = open_queue()
      assert.is_true(queue:push("r", { id = "m", body = ("x"):rep(20000) }))
      local item = queue:claim("r", 1, 20)[1]
      sql_of(queue, ("PRAGMA max_page_count = %d"):format(sql_of(queue, "PRAGMA page_count")))
      local count = 0
      repeat count = count + 1 until not queue:push("filler", { id = "m" .. count, body = "" }) or count == 1000
      fails("TOO_LARGE", "full", queue:dead(item.token, "gone"))
      assert.are.same({}, queue:dead_letters())
      assert.are.equal(1, queue:len("r"))
      sql_of(queue, "PRAGMA max_page_count = 100000")
      assert.is_true(queue:dead(item.token, "gone"))
      assert.are.equal(1, #queue:dead_letters())
    end)

    it("that fails a write is reported, and loses nothing", function()
      local handle = start([[
        local queue = open()
        for i = 1, 10000 do
          local ok, message, code = queue:push("r", { id = "m" .. i, body = ("x"):rep(3000) })
          print(tostring(ok), "m" .. i, message, code)
          if not ok then return end
        end]], "", "trap '' XFSZ; ulimit -f 400;")
      local said = lines(handle:read("*a"))
      handle:close()
      assert.is_true(#said > 5)
      local ok, _, message, code = said[#said]:match("^(%S+)\t(%S+)\t(.*)\t(%S+)$")
      assert.are.equal("nil", ok, said[#said])
      assert.is_truthy(message:find("disk", 1, true), message)
      assert.is_truthy(code == "INVALID" or code == "TOO_LARGE")
      local ids = claim_ids(open_queue())
      for i = 1, #said - 1 do assert.are.equal("m" .. i, ids[i]) end
      assert.are.equal("ok", sql("PRAGMA integrity_check"))
    end)
  end)

  describe("a file", function()
    it("that is no database is refused and left as it is", function()
      local text = ("This is somebody's diary.\n"):rep(100)
      write(path, text)
      fails("INVALID", "not a database", try_open())
      assert.are.equal(text, slurp(path))
    end)

    it("of another program is refused and left as it is", function()
      sql("CREATE TABLE diary (text TEXT)", "PRAGMA user_version = 1")
      local text = slurp(path)
      fails("INVALID", "another program", try_open())
      assert.are.equal(text, slurp(path))
    end)

    it("of a newer schema is refused and left as it is", function()
      local queue = open_queue()
      push(queue, "m")
      queue:close()
      sql("PRAGMA user_version = 2")
      local text = slurp(path)
      fails("INVALID", "a newer holdfast wrote this file (schema 2, and this one knows schema 1)", try_open())
      assert.are.equal(text, slurp(path))
    end)

    it("that is empty is a new queue", function()
      write(path, "")
      push(open_queue(), "m")
    end)

    it("that is damaged is reported, by whatever meets the damage", function()
      local queue = open_queue()
      for i = 1, 50 do assert.is_true(queue:push("r", { id = "m" .. i, body = ("x"):rep(3000) })) end
      queue:close()
      local text = slurp(path)
      write(path, text:sub(1, 4096) .. ("\255"):rep(#text - 4096))
      queue = open_queue()
      fails("INVALID", "malformed", queue:push("r", { id = "m", body = "" }))
      fails("INVALID", "malformed", queue:claim("r", 1, 20))
      fails("INVALID", "malformed", queue:due())
      fails("INVALID", "malformed", queue:len())
      fails("INVALID", "malformed", queue:oldest())
      fails("INVALID", "malformed", queue:dead_letters())
      fails("INVALID", "malformed", queue:ack("1.1.x"))
      assert.is_true(queue:close())
      assert.are.equal(0, descriptors())
    end)

    it("with a body that is no base64 is damaged", function()
      local queue = open_queue()
      push(queue, "m1")
      push(queue, "m2")
      queue:dead(queue:claim("r", 1, 20)[1].token)
      sql_of(queue, "UPDATE message SET body = '?'")
      sql_of(queue, "UPDATE dead SET body = '?'")
      fails("INVALID", "malformed", queue:claim("r", 1, 20))
      fails("INVALID", "malformed", queue:dead_letters())
      assert.is_true(queue:push("r", { id = "m3", body = "" }))   -- no transaction has stayed open
    end)

    it("that may not be written is refused when it is opened", function()
      local queue = open_queue()
      push(queue, "m")
      queue:close()
      os.execute(("chmod 444 '%s'"):format(path))
      local runner = is_root() and "setpriv --reuid=65534 --regid=65534 --clear-groups" or ""
      local handle = start([[print("ready") print(require("holdfast.queue").open("sqlite:" .. path))]], "", "", runner)
      if handle:read("*l") ~= "ready" then
        handle:close()
        return pending("needs setpriv, and a checkout that everybody may read")
      end
      local ok, message, code = handle:read("*a"):match("^(%S+)\t(.*)\t(%S+)\n$")
      handle:close()
      assert.are.equal("nil", ok)
      fails("DENIED", "readonly", nil, message, code)
    end)

    it("that turns out to be read-only later is reported, and what is there can be read", function()
      local queue = open_queue()
      push(queue, "m")
      sql_of(queue, "PRAGMA query_only = 1")
      fails("DENIED", "readonly", queue:push("r", { id = "n", body = "" }))
      fails("DENIED", "readonly", queue:claim("r", 1, 20))
      assert.are.equal(1, queue:len())
      sql_of(queue, "PRAGMA query_only = 0")
      assert.are.same({ "m" }, claim_ids(queue))
    end)

    it("in a directory that is not there, or that is one itself, is reported", function()
      local directory = path
      path = directory .. "/sub/webhooks.db"
      fails("NOT_FOUND", "No such file or directory", try_open())
      path = "/tmp"
      fails("DENIED", "unable to open", try_open())
      path = directory
    end)
  end)

  describe("LuaDBI", function()
    it("is named with the package to install when it is missing", function()
      finally(function() package.loaded["DBI"], package.preload["DBI"] = dbi, nil end)
      package.loaded["DBI"] = nil
      package.preload["DBI"] = function() error("module 'DBI' not found") end
      local queue, message, code = try_open()
      assert.is_nil(queue)
      assert.is_truthy(message:find("lua-dbi-sqlite3", 1, true), message)
      assert.are.equal("INVALID", code)
    end)

    it("does not raise through the queue, which works again afterwards", function()
      local queue = open_queue()
      push(queue, "m")
      local item = queue:claim("r", 1, 20)[1]
      before(queue, "BEGIN IMMEDIATE", function() error("raised by LuaDBI") end)
      fails("INVALID", "raised by LuaDBI", queue:dead(item.token))
      before(queue, "COMMIT", function() error("out of memory") end)
      fails("NOMEM", "out of memory", queue:dead(item.token))
      assert.are.equal(1, queue:len())
      assert.is_true(queue:dead(item.token))
    end)
  end)
end)
