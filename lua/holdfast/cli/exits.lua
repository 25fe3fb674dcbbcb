--- Exit statuses of the command line, after sysexits.h where that has a name for it, and the one way to say what went
-- wrong. Private.
-- @module holdfast.cli.exits

local M = {
  OK = 0, FOUND = 1, USAGE = 64, UNREACHABLE = 69, INTERNAL = 70, SYSTEM = 71, UNWRITTEN = 74, NOT_ACQUIRED = 75,
  CONFLICT = 76, DENIED = 77, CONFIG = 78, LOST = 79, NOT_EXECUTABLE = 126, NOT_FOUND = 127,
}

--- What each means, for --help and the manual: { status, text }.
M.meanings = {
  { M.OK, "all is well" },
  { M.FOUND, "doctor found something that does not work; release: nobody holds it, or the answer was no" },
  { M.USAGE, "the command line makes no sense" },
  { M.UNREACHABLE, "Consul cannot be reached, or did not do what was asked of it" },
  { M.INTERNAL, "a fault of holdfast's own, or argparse is missing" },
  { M.SYSTEM, "the system gave no process or memory" },
  { M.UNWRITTEN, "standard output cannot be written: what was printed is not complete" },
  { M.NOT_ACQUIRED, "lock: not within --timeout" },
  { M.CONFLICT, "the key is used for something else than such a lock" },
  { M.DENIED, "Consul's ACL refused" },
  { M.CONFIG, "an option's or CONSUL_* variable's value makes no sense" },
  { M.LOST, "lock: the lock was lost while the command ran, whatever that ended with" },
  { M.NOT_EXECUTABLE, "lock: the command cannot be executed" },
  { M.NOT_FOUND, "lock: there is no such command" },
}

--- What else `holdfast lock` ends with.
M.LOCK_STATUS = "lock: the command's own status; 128 + n when signal n ended it, or the wait for the lock."

local BY_CODE = {
  TIMEOUT = M.NOT_ACQUIRED, CONFLICT = M.CONFLICT, LIMIT_CONFLICT = M.CONFLICT, DENIED = M.DENIED, LOST = M.LOST,
  INVALID = M.CONFIG, TOO_LARGE = M.CONFIG, NOMEM = M.SYSTEM, CONNECT = M.UNREACHABLE, TLS = M.UNREACHABLE,
  HTTP = M.UNREACHABLE, PROTOCOL = M.UNREACHABLE, SESSION = M.UNREACHABLE, NOT_FOUND = M.UNREACHABLE,
}

--- The status for a code of holdfast's.
function M.of(code)
  return BY_CODE[code] or M.INTERNAL
end

--- Says something on standard error.
function M.say(format, ...)
  io.stderr:write("holdfast: ", format:format(...), "\n")
end

--- Says what went wrong, and answers the status.
function M.fail(status, format, ...)
  M.say(format, ...)
  return status
end

return M
