--- `holdfast lock`: takes KEY/.lock, as `consul lock` does, runs a command, gives the lock back. Private.
-- @module holdfast.cli.lock

local child = require("holdfast.cli.child")
local connect = require("holdfast.cli.connect")
local core = require("holdfast.core")
local exits = require("holdfast.cli.exits")
local signals = require("holdfast.cli.signals")

local DESTROY_TIMEOUT = 5 -- seconds

-- ---- what is held --------------------------------------------------------------------------------------------------

-- consul lock's: path.Join of the prefix and ".lock", without a slash at the beginning.
local function key_of(options)
  return options.key:match("^/?(.-)/*$") .. "/.lock"
end

local function session_of(options, key)
  local name = options.name or ("holdfast lock for '%s' at '%s'"):format(table.concat(options.argv, " "), key)
  return { name = (name:gsub("%c", " ")), ttl = options.ttl, lock_delay = options.lock_delay }
end

-- What is to be held, and what taking and giving it back are called.
local function make_lock(run, limit)
  local client, message, code = run.client
  if limit == 1 then
    run.lock, message, code = client:lock({ key = run.key, monitor = "key" })
  else
    run.lock, message, code = client:semaphore(run.key:match("^(.*)/%.lock$"), limit)
  end
  if not run.lock then return nil, exits.fail(exits.of(code), "%s", message) end
  run.take, run.give = run.lock.lock or run.lock.acquire, run.lock.unlock or run.lock.release
  return run
end

-- ---- the three parts -----------------------------------------------------------------------------------------------

-- Answers true; or false and the exit status.
local function acquire(run, timeout)
  local stopped
  run.signals.heard = function(name, number)
    if name == "TSTP" then core.process.stop() end
    if not signals.ENDING[name] then return end
    stopped = stopped or number
    run.lock:cancel()
  end
  local held, message, code = run.take(run.lock, timeout)
  run.signals:drain()
  if stopped then return false, 128 + stopped end
  if not held then return false, exits.fail(exits.of(code), "%s", message) end
  run.say("%s is held, token %d", run.key, run.lock:token())
  return true
end

local function environment(lock)
  return { "CONSUL_LOCK_HELD=true", ("HOLDFAST_TOKEN=%d"):format(lock:token()) }
end

local INTERRUPTED = {}

-- The lock and its key are given back. Whoever does not want to wait for that sends a second signal: then what is under
-- way goes on while the client closes, and with the session's end at the latest.
local function release(run, status)
  run.signals.heard = function(name)
    if signals.ENDING[name] then error(INTERRUPTED, 0) end
  end
  local ok, released, message, code = pcall(function()
    local released, message, code = run.give(run.lock)
    if released then run.lock:destroy(DESTROY_TIMEOUT) end
    return released, message, code
  end)
  run.signals.heard = function() end
  if not ok and released ~= INTERRUPTED then error(released, 0) end
  if not ok or released then return status end
  if status ~= exits.LOST and code ~= "NOT_HELD" then exits.say("%s", message) end
  return code == "LOST" and exits.LOST or status
end

local function under_lock(run)
  local held = run.lock:held()
  if not held then return exits.fail(exits.LOST, "%s was lost before the command began", run.key) end
  run.env = environment(run.lock)
  return child.run(run)
end

local M = {}

local function shell(words)
  return { os.getenv("SHELL") or "/bin/sh", "-c", table.concat(words, " ") }
end

-- What goes on with Consul: all of it when that is asked for, and else what the wait is for. A loss is told of once.
local function listen(verbose)
  return function(level, message)
    if verbose or level == "WARN" then exits.say("%s", message) end
  end
end

-- Answers what is to run; nil, exit status.
local function prepare(options)
  local run = { argv = options.shell and shell(options.argv) or options.argv, pass_stdin = options.pass_stdin,
    grace = options.grace, signal = options.signal, key = key_of(options),
    say = options.verbose and exits.say or function() end }
  local status, message, code
  run.signals, message, code = signals.take()
  if not run.signals then return nil, exits.fail(exits.of(code), "%s", message) end
  run.client, status = connect.open(options,
    { session = session_of(options, run.key), log = listen(options.verbose) })
  if not run.client then return nil, status end
  return make_lock(run, options.limit)
end

--- Does it.
-- @tparam table options what the parser has read
-- @treturn number the exit status
function M.run(options)
  local run, status = prepare(options)
  if not run then return status end
  local held
  run.say("waiting for %s", run.key)
  held, status = acquire(run, options.timeout)
  if held then status = under_lock(run) end
  status = release(run, status)
  run.client:close()
  return status
end

return M
