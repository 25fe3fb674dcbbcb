--- A small HTTP/1.1 server on cqueues: keep-alive, bodies with a length or in chunks, one coroutine per connection.
--
--    local httpd = require("examples.httpd")
--    local server = assert(httpd.new({ port = 0, handler = function(request)
--      return 200, { ["content-type"] = "text/plain" }, "you said " .. request.body
--    end }))
--    print(server.port)
--    server:run()
--
-- A request is { method, target, path, query, version, headers, lines, body, keep_alive }: header names are lower case
-- and repeated ones joined with ", "; lines are the header lines as they came. The functions that read and write are
-- public because spec/support/server.lua makes a fault proxy of them. Not for the open internet: no TLS, no timeouts.
-- @module examples.httpd

local cqueues = require("cqueues")
local socket = require("cqueues.socket")

local M = {}

local MAX_LINE = 64 * 1024
local MAX_BODY = 64 * 1024 * 1024

local REASONS = {
  [200] = "OK", [201] = "Created", [202] = "Accepted", [204] = "No Content", [301] = "Moved Permanently",
  [302] = "Found", [304] = "Not Modified", [400] = "Bad Request", [401] = "Unauthorized", [403] = "Forbidden",
  [404] = "Not Found", [405] = "Method Not Allowed", [409] = "Conflict", [410] = "Gone", [413] = "Content Too Large",
  [429] = "Too Many Requests", [500] = "Internal Server Error", [502] = "Bad Gateway", [503] = "Service Unavailable",
}

--- Makes a cqueues socket fit for these functions: bytes, buffered, errors as results instead of raised.
function M.prepare(con)
  con:setmode("bf", "bf")
  con:setmaxline(MAX_LINE)
  con:onerror(function(_, _, why) return why end)
  return con
end

local function read_line(con)
  local line = con:read("*L")
  return line and line:match("^(.-)\r?\n$")
end

--- Reads a start line and the header lines up to the empty one.
-- @return start line, headers by lower-case name, header lines as they came; nil when the connection ended before
function M.read_head(con)
  local start = read_line(con)
  if start == "" then start = read_line(con) end -- RFC 9112 2.2: an empty line before the request line is ignored
  local headers, lines = {}, {}
  local line = start and read_line(con)
  while line and line ~= "" do
    local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
    if not name then return nil end
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
    lines[#lines + 1] = line
    line = read_line(con)
  end
  if not line then return nil end
  return start, headers, lines
end

local function read_chunks(con, limit)
  local parts, total = {}, 0
  while true do
    local line = read_line(con)
    local size = line and tonumber(line:match("^%x+"), 16)
    if not size or total + size > limit then return nil end
    if size == 0 then break end
    local part = con:read(size)
    if not part or #part < size or read_line(con) ~= "" then return nil end
    parts[#parts + 1], total = part, total + size
  end
  local line
  repeat line = read_line(con) until not line or line == "" -- trailers
  return line and table.concat(parts)
end

--- Reads a body of the length that the headers tell, "" when they tell none.
-- @return the body; nil when the connection ended inside of it or when it is longer than limit bytes (64 MiB)
function M.read_body(con, headers, limit)
  limit = limit or MAX_BODY
  if headers["transfer-encoding"] then return read_chunks(con, limit) end
  local length = tonumber(headers["content-length"] or "0", 10)
  if not length or length > limit then return nil end
  if length == 0 then return "" end
  local body = con:read(length)
  return body and #body == length and body or nil
end

local function keeps_alive(version, headers)
  local connection = (headers["connection"] or ""):lower()
  if version == "1.0" then return connection:find("keep-alive", 1, true) ~= nil end
  return connection:find("close", 1, true) == nil
end

--- Reads one request.
-- @return the request; nil when the connection ended or did not speak HTTP
function M.read_request(con)
  local start, headers, lines = M.read_head(con)
  local method, target, version = (start or ""):match("^(%S+) (%S+) HTTP/(%d%.%d)$")
  if not method then return nil end
  if (headers["expect"] or ""):lower() == "100-continue" then
    con:write("HTTP/1.1 100 Continue\r\n\r\n")
    con:flush()
  end
  local body = M.read_body(con, headers)
  if not body then return nil end
  return {
    method = method, target = target, path = target:match("^[^?]*"), query = target:match("%?(.*)$"),
    version = version, headers = headers, lines = lines, body = body, keep_alive = keeps_alive(version, headers),
  }
end

--- The bytes of a response to request.
function M.format_response(request, status, headers, body)
  body = body or ""
  local bare = status == 204 or status == 304
  local lines = { ("HTTP/1.1 %d %s"):format(status, REASONS[status] or "Status") }
  for name, value in pairs(headers or {}) do
    lines[#lines + 1] = name .. ": " .. tostring(value)
  end
  if not bare then lines[#lines + 1] = ("content-length: %d"):format(#body) end
  if not request.keep_alive then lines[#lines + 1] = "connection: close" end
  lines[#lines + 1] = "\r\n"
  return table.concat(lines, "\r\n") .. ((bare or request.method == "HEAD") and "" or body)
end

--- Writes bytes and sends them at once.
-- @return true; nil and the error number when the connection is gone
function M.send(con, bytes)
  local ok, why = con:write(bytes)
  if ok then ok, why = con:flush() end
  return ok and true or nil, why
end

local Server = {}
Server.__index = Server

local function answer(self, request)
  local ok, status, headers, body = pcall(self.handler, request)
  if ok then return M.format_response(request, status, headers, body) end
  io.stderr:write("httpd: ", tostring(status), "\n")
  return M.format_response(request, 500, nil, "the handler failed\n")
end

local function serve(self, con)
  M.prepare(con)
  repeat
    local request = M.read_request(con)
    local sent = request and M.send(con, answer(self, request))
  until not sent or not request.keep_alive
  con:shutdown("rw")
  con:close()
end

--- Starts coroutine fn(...) on the server's loop.
function Server:spawn(fn, ...)
  self.loop:wrap(fn, ...)
end

--- Serves until the process ends. An error in a coroutine is raised.
function Server:run()
  self:spawn(function()
    for con in self.listener:clients() do self:spawn(serve, self, con) end
  end)
  assert(self.loop:loop())
end

--- Listens on options.host (127.0.0.1) and options.port (0: a free one, to be read from server.port).
-- options.handler(request) answers status, headers, body; it may wait with cqueues.sleep and the like.
-- @return server; nil and a message when the port is taken
function M.new(options)
  local listener = socket.listen({ host = options.host or "127.0.0.1", port = options.port or 0, nodelay = true })
  local ok, why = listener:listen()
  if not ok then return nil, ("cannot listen on port %s: %s"):format(options.port, tostring(why)) end
  local _, _, port = listener:localname()
  return setmetatable({ listener = listener, port = port, handler = options.handler, loop = cqueues.new() }, Server)
end

return M
