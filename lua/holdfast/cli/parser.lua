--- What the command line may be: argparse's parser, from which --help, the manual and the completions come. Private.
-- @module holdfast.cli.parser

local argparse = require("argparse")
local duration = require("holdfast.duration")
local exits = require("holdfast.cli.exits")

local unpack = table.unpack or unpack -- luacheck: ignore

local M = {}

-- ---- values --------------------------------------------------------------------------------------------------------

local function seconds(text)
  return duration.parse(tonumber(text) or text)
end

local function positive(text)
  local value, message = seconds(text)
  if value == 0 then return nil, "it must be more than 0" end
  return value, message
end

local LIMIT_MOST = 2 ^ 53 -- no larger one is read exactly

local function limit(text)
  local n = tonumber(text)
  if not n or n < 1 or n % 1 ~= 0 or n > LIMIT_MOST then
    return nil, ("%q is not a whole number from 1 to 2^53"):format(text)
  end
  return n
end

local function named(text)
  if text == "" then return nil, "a key is not empty" end
  return text
end

-- ---- options -------------------------------------------------------------------------------------------------------

--- How to reach Consul: { option, field of holdfast.new's options, what its value is called, text, variable }. A dot
-- leads into a table.
M.CONNECT = {
  { "--address", "address", "ADDRESS", "Consul's agent: host:port, http://, https:// or unix:///path.",
    "CONSUL_HTTP_ADDR" },
  { "--token", "token", "TOKEN", "ACL token. Who lists processes sees it here: better a file, or the variable.",
    "CONSUL_HTTP_TOKEN" },
  { "--token-file", "token_file", "FILE", "File with the ACL token.", "CONSUL_HTTP_TOKEN_FILE" },
  { "--auth", "auth", "USER:PASSWORD", "Basic authentication, for a proxy before Consul.", "CONSUL_HTTP_AUTH" },
  { "--datacenter", "datacenter", "NAME", "Another datacenter than the agent's." },
  { "--namespace", "namespace", "NAME", "Namespace (Consul Enterprise).", "CONSUL_NAMESPACE" },
  { "--partition", "partition", "NAME", "Admin partition (Consul Enterprise).", "CONSUL_PARTITION" },
  { "--ca-file", "tls.ca_file", "FILE", "CA certificates for https://.", "CONSUL_CACERT" },
  { "--ca-path", "tls.ca_path", "DIRECTORY", "Directory of CA certificates.", "CONSUL_CAPATH" },
  { "--cert-file", "tls.cert_file", "FILE", "Client certificate.", "CONSUL_CLIENT_CERT" },
  { "--key-file", "tls.key_file", "FILE", "Key of the client certificate.", "CONSUL_CLIENT_KEY" },
  { "--server-name", "tls.server_name", "NAME", "The name that the server's certificate must have.",
    "CONSUL_TLS_SERVER_NAME" },
}

--- What an option is kept under by the parser.
function M.target(row)
  return "consul_" .. row[2]
end

local function add_connect(command)
  local options = {}
  for i, row in ipairs(M.CONNECT) do
    local text = row[4] .. (row[5] and " [" .. row[5] .. "]" or "")
    options[i] = command:option(row[1], text):argname(row[3]):target(M.target(row))
  end
  options[#options + 1] = command:option("--http-timeout", "Of one request to Consul (default: 10s)."):argname("TIME")
    :convert(positive)
  options[#options + 1] = command:flag("--no-verify", "Take any server certificate. [CONSUL_HTTP_SSL_VERIFY=false]")
  command:group("How to reach Consul [from the environment when it is not given]", unpack(options))
end

local function add_json(command)
  return command:flag("-j --json", "Print JSON.")
end

local function add_ttl(command)
  return command:option("--ttl", "TTL of the session."):argname("TIME"):convert(positive):default("10s")
end

local function add_lock_delay(command)
  return command:option("--lock-delay", "Nobody gets a lock so long after its holder's end (default: 25s, or the TTL).")
    :argname("TIME"):convert(seconds)
end

local function add_lock(parser)
  local command = parser:command("lock", "Run a command while holding a lock, or a place in a semaphore.")
  command:argument("key", "The lock is Consul's key KEY/.lock, as with consul lock. Options go before it.")
    :argname("KEY")
  command:argument("argv", "The command and its arguments."):argname("COMMAND"):args("+")
  command:group("Options",
    command:option("-n --limit", "How many may hold it at once; more than 1 makes it a semaphore."):argname("LIMIT")
      :convert(limit):default("1"),
    command:option("-t --timeout", "Give up after this time; 0 tries once. Else wait as long as it takes.")
      :argname("TIME"):convert(seconds),
    command:option("--name", "Name of the session, which whoever looks into Consul finds."):argname("NAME"),
    add_ttl(command), add_lock_delay(command),
    command:flag("-i --pass-stdin", "The command reads standard input; else it reads nothing."),
    command:flag("-s --shell", "Hand the command to $SHELL, or /bin/sh, its words joined by spaces."),
    command:option("--signal", "What the command's processes are sent when the lock is lost."):argname("NAME")
      :choices({ "TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL" }):default("TERM"),
    command:option("--grace", "How long after that they are killed."):argname("TIME"):convert(seconds):default("5s"),
    command:flag("-v --verbose", "Say on standard error what goes on."))
  add_connect(command)
end

local function add_locks(parser)
  local command = parser:command("locks", "List who holds what, and who waits for fair locks and places in semaphores.")
  command:argument("prefix", "Only keys that begin with this."):argname("PREFIX"):args("?")
  command:group("Options", add_json(command))
  add_connect(command)
end

local function add_sessions(parser)
  local command = parser:command("sessions", "List the sessions.")
  command:group("Options", command:option("--node", "Only those of this node."):argname("NAME"), add_json(command))
  add_connect(command)
end

local function add_release(parser)
  local command = parser:command("release", "Free a key, whoever holds it.")
  command:argument("key", "The whole key, as holdfast locks shows it."):argname("KEY"):convert(named)
  command:group("Options",
    command:flag("--session", "Destroy the session that holds it: slower, since the lock-delay follows, and safer."),
    command:flag("-y --yes", "Do not ask."))
  add_connect(command)
end

local function add_doctor(parser)
  local command = parser:command("doctor", "Try what locks need, and say what does not work and what to do about it.")
  command:group("Options",
    command:option("--prefix", "Where the lock is that it makes, takes and removes."):argname("PREFIX")
      :default("holdfast-doctor/"),
    add_ttl(command), add_lock_delay(command), add_json(command))
  add_connect(command)
end

local function exit_statuses()
  local lines = { "Exit statuses:" }
  for _, meaning in ipairs(exits.meanings) do lines[#lines + 1] = ("  %3d  %s"):format(meaning[1], meaning[2]) end
  lines[#lines + 1] = "  " .. exits.LOCK_STATUS
  return table.concat(lines, "\n")
end

--- Makes the parser.
function M.new()
  local parser = argparse("holdfast", "Distributed locks on Consul."):command_target("command"):help_max_width(100)
  add_lock(parser)
  add_locks(parser)
  add_sessions(parser)
  add_release(parser)
  add_doctor(parser)
  parser:epilog(exit_statuses())
  for _, command in ipairs(parser._commands) do command:epilog(exit_statuses()) end
  return parser
end

-- ---- reading -------------------------------------------------------------------------------------------------------

-- Which options of a command take a value.
local function takes_value(command)
  local takes = {}
  for _, option in ipairs(command._options) do
    for _, alias in ipairs(option._aliases) do takes[alias] = option._maxargs > 0 end
  end
  return takes
end

-- Whether the word after this option is its value.
local function wants_next(takes, word)
  if word:match("^%-%-") then return takes[word] end
  for i = 2, #word do
    if takes["-" .. word:sub(i, i)] then return i == #word end
  end
end

-- Options of `lock` end at KEY: what comes after the command's name is the command's, whatever it looks like.
local function end_options(command, args)
  local takes, i = takes_value(command), 2
  while args[i] and args[i] ~= "--" and args[i]:match("^%-.") do
    i = i + (wants_next(takes, args[i]) and 2 or 1)
  end
  local words = {}
  for at, word in ipairs(args) do
    words[#words + 1] = word
    if at == i and word ~= "--" and args[i + 1] ~= "--" then words[#words + 1] = "--" end
  end
  return words
end

--- Reads the words of a command line. --help is answered by argparse, which ends the process.
-- @treturn table|nil options by target; nil, what is wrong
function M.read(args)
  local parser = M.new()
  for _, command in ipairs(parser._commands) do
    if command._name == "lock" and args[1] == "lock" then args = end_options(command, args) end
  end
  local ok, result = parser:pparse(args)
  if not ok then return nil, result end
  return result
end

return M
