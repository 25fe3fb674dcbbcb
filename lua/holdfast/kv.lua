--- Key/value calls: `client.kv`. Values are byte strings; flags, which have 64 bits, are decimal text.
--
-- A read takes options: `consistent`, `stale`, `cached`, `index` and `wait` (it blocks until there is something newer
-- than that index), `near`, `filter`, `dc`, `ns`, `partition`, `token`, `timeout`; a write the last five. Whatever is
-- read comes with the index to ask with next, and what Consul says of the answer (client:call). All of them answer nil,
-- message, code when they fail: what client:call does, and INVALID or TOO_LARGE for a key as client:lock.
-- @module holdfast.kv

local call = require("holdfast.call")
local check = require("holdfast.check")
local core = require("holdfast.core")
local endpoints = require("holdfast.endpoints")
local object = require("holdfast.object")

local CHUNK = 128 -- operations that a transaction has at most (64 before Consul 1.14)

local ask = endpoints.ask

local Kv = {}

-- ---- what is typed -------------------------------------------------------------------------------------------------

local MOST = "18446744073709551615"

-- Flags as text, or as a whole number where that is exact.
local function read_flags(value)
  if type(value) == "number" then return ("%.0f"):format(check.read(value, { "count", least = 0 }, "flags")) end
  if type(value) ~= "string" then return nil end
  local digits = value:match("^0*(%d+)$")
  if not digits or #digits > #MOST or (#digits == #MOST and digits > MOST) then
    check.refuse("flags %s must be a whole number of 64 bits in decimal", check.show(value))
  end
  return digits
end

local function read_session(value)
  if type(value) == "table" or type(value) == "userdata" then
    local known, id, message, code = pcall(function() return value:id() end)
    if not known then return nil end
    if not id then check.fail(code or "SESSION", "%s", tostring(message)) end
    value = id
  end
  if type(value) == "string" then return check.read(value, { "string", form = "session_id" }, "session") end
end

local KEY = { "string", form = "key" }
local INDEX = { "count", least = 0, what = "an index, a whole number" }
local FLAGS = { read_flags, what = "a whole number or its digits" }
local SESSION = { read_session, what = "a session or its id" }

local READ = { "opts", call.with(call.READ, {}), optional = true }
local PUT = call.with(call.WRITE, { cas = INDEX, flags = FLAGS, acquire = SESSION, release = SESSION })
local DELETE = call.with(call.WRITE, { cas = INDEX, recurse = "boolean" })

local arguments = {
  get = check.arguments("kv:get: ", { "key", KEY }, READ),
  put = check.arguments("kv:put: ", { "key", KEY }, { "value", "string" }, { "opts", PUT, optional = true }),
  delete = check.arguments("kv:delete: ", { "key", KEY }, { "opts", DELETE, optional = true }),
  list = check.arguments("kv:list: ", { "prefix", KEY }, READ),
  keys = check.arguments("kv:keys: ", { "prefix", KEY }, { "separator", "text", optional = true }, READ),
}

-- Called by a method itself, whose caller is to blame.
local function must_be_named(key, method)
  if key == "" then error(("kv:%s: missing key"):format(method), 3) end
end

local function path_of(key) return "/v1/kv/" .. call.escape(key, true) end

-- ---- what is answered ----------------------------------------------------------------------------------------------

local function digits_of(number)
  if type(number) == "string" then return number end
  return math.type and ("%d"):format(number) or ("%.0f"):format(number)
end

local function pair_of(raw)
  return {
    key = raw.Key, value = core.base64_decode(raw.Value or ""), flags = digits_of(raw.Flags or 0),
    session = raw.Session, create_index = raw.CreateIndex, modify_index = raw.ModifyIndex, lock_index = raw.LockIndex,
    namespace = raw.Namespace, partition = raw.Partition,
  }
end

local function pairs_of(list)
  local result = {}
  for i, raw in ipairs(list) do result[i] = pair_of(raw) end
  return result
end

-- A prefix under which there is nothing is 404.
local function listed(convert, value, index, meta, more)
  if value then return convert(value), index, meta end
  if meta == "NOT_FOUND" and more then return {}, more.index, more end
  return nil, index, meta, more
end

-- ---- methods -------------------------------------------------------------------------------------------------------

--- Reads a key.
-- @function kv:get
-- @string key
-- @tparam[opt] table opts of a read
-- @treturn table|nil `{ key, value, flags, session, create_index, modify_index, lock_index }`, the index, and what the
-- answer says of itself; nil, message, "NOT_FOUND" and that table too, since an absent key can be waited for
function Kv:get(key, opts)
  local given, message, code = arguments.get(2, key, opts)
  if not given then return nil, message, code end
  must_be_named(given.key, "get")
  local value, index, meta, more = ask(self, "GET", path_of(given.key), given.opts)
  if not value then return nil, index, meta, more end
  return pair_of(value[1]), index, meta
end

--- Writes a key.
-- @function kv:put
-- @string key
-- @string value bytes, up to 512 KiB by Consul's default (TOO_LARGE)
-- @tparam[opt] table opts of a write, and one of `cas` (the modify_index that the key must have, 0: it must not exist),
-- `acquire` and `release` (a session or its id), and `flags`
-- @treturn boolean|nil true; false when the condition did not hold
function Kv:put(key, value, opts)
  local given, message, code = arguments.put(2, key, value, opts)
  if not given then return nil, message, code end
  must_be_named(given.key, "put")
  opts = given.opts
  if (opts.cas and 1 or 0) + (opts.acquire and 1 or 0) + (opts.release and 1 or 0) > 1 then
    error("kv:put: cas, acquire and release exclude each other", 2)
  end
  local done
  done, message, code = ask(self, "PUT", path_of(given.key), opts, nil, given.value)
  if done == nil then return nil, message, code end
  return done
end

--- Deletes a key, or all that begin with it.
-- @function kv:delete
-- @string key
-- @tparam[opt] table opts of a write, and `cas` (the modify_index that the key must have) or `recurse`
-- @treturn boolean|nil true, also when the key is absent; false when the condition did not hold
function Kv:delete(key, opts)
  local given, message, code = arguments.delete(2, key, opts)
  if not given then return nil, message, code end
  opts = given.opts
  if opts.cas and opts.recurse then error("kv:delete: cas and recurse exclude each other", 2) end
  if not opts.recurse then must_be_named(given.key, "delete") end
  local done
  done, message, code = ask(self, "DELETE", path_of(given.key), opts)
  if done == nil then return nil, message, code end
  return done
end

--- Reads all keys that begin with a prefix.
-- @function kv:list
-- @string prefix "" for all there are
-- @tparam[opt] table opts of a read
-- @treturn table|nil a list of what kv:get answers, which may be empty; the index, and what the answer says of itself
function Kv:list(prefix, opts)
  local given, message, code = arguments.list(2, prefix, opts)
  if not given then return nil, message, code end
  return listed(pairs_of, ask(self, "GET", path_of(given.prefix), given.opts, { recurse = true }))
end

local function same(value) return value end

--- Lists the names of the keys that begin with a prefix.
-- @function kv:keys
-- @string prefix
-- @string[opt] separator names end with the first one behind the prefix, as in a directory
-- @tparam[opt] table opts of a read
-- @treturn table|nil a list of names, which may be empty; the index, and what the answer says of itself
function Kv:keys(prefix, separator, opts)
  local given, message, code = arguments.keys(2, prefix, separator, opts)
  if not given then return nil, message, code end
  local more = { keys = true, separator = given.separator }
  return listed(same, ask(self, "GET", path_of(given.prefix), given.opts, more))
end

-- ---- transactions --------------------------------------------------------------------------------------------------

local READS = {
  get = true, ["get-tree"] = true, ["get-or-empty"] = true, ["check-index"] = true, ["check-session"] = true,
  ["check-not-exists"] = true,
}
local VERBS = { "cas", "delete", "delete-cas", "delete-tree", "lock", "set", "unlock" }
for verb in pairs(READS) do VERBS[#VERBS + 1] = verb end
table.sort(VERBS)

local OPERATION = {
  fields = {
    verb = { "string", one_of = VERBS, required = true }, key = { "string", form = "key", required = true },
    value = "string", flags = FLAGS, index = INDEX, session = SESSION,
  },
}

-- What is put in by text is a number of 64 bits, which not every Lua has.
local function text_of(op)
  local fields = { '"Verb":' .. core.json_encode(op.verb), '"Key":' .. core.json_encode(op.key) }
  local function add(format, value)
    if value ~= nil then fields[#fields + 1] = format:format(value) end
  end
  add('"Value":"%s"', op.value and core.base64_encode(op.value))
  add('"Flags":%s', op.flags)
  add('"Index":%.0f', op.index)
  add('"Session":"%s"', op.session)
  return '{"KV":{' .. table.concat(fields, ",") .. "}}"
end

local function read_operations(ops)
  if type(ops) ~= "table" then return nil end
  local texts, reads = {}, true
  for i, op in ipairs(ops) do
    op = check.read(op, OPERATION, ("operation %d"):format(i))
    texts[i], reads = text_of(op), reads and READS[op.verb] == true
  end
  return { texts = texts, reads = reads }
end

arguments.txn = check.arguments("kv:txn: ", { "ops", { read_operations, what = "a list of operations" } }, READ)

local function chunks(texts, size)
  local list = {}
  for first = 1, #texts, size do
    local last = math.min(first + size - 1, #texts)
    list[#list + 1] = { before = first - 1, body = "[" .. table.concat(texts, ",", first, last) .. "]" }
  end
  return list
end

-- Puts what came of one transaction into the whole. Answers whether there was an answer.
local function collect(whole, before, value, meta)
  if value then
    for _, result in ipairs(value.Results or {}) do whole.results[#whole.results + 1] = pair_of(result.KV) end
    return true
  end
  local refused = meta and meta.status == 409 and core.json_decode(meta.body)
  if type(refused) ~= "table" or not refused.Errors then return false end
  for _, one in ipairs(refused.Errors) do
    whole.errors[#whole.errors + 1] = { op = before + one.OpIndex + 1, what = one.What }
  end
  return true
end

-- Sends the operations, so many at a time. Answers true; how many the server takes, when that is less; or the failure.
local function transact(kv, settings, given, size, whole)
  for _, chunk in ipairs(chunks(given.ops.texts, size)) do
    settings.body = chunk.body
    local value, message, code, meta = call.send(kv.client_, settings)
    local most = code == "TOO_LARGE" and tonumber(meta.body:match("too many operations %(%d+ > (%d+)%)"))
    if most and given.ops.reads and most < size then return most end
    if not collect(whole, chunk.before, value, meta) then return nil, message, code, meta end
  end
  return true
end

-- What the ACL refuses is 409 in a transaction, and nothing else is said then.
local function outcome(whole)
  local first = whole.errors[1]
  if not first then return whole.results end
  local message = ("operation %d: %s"):format(first.op, first.what)
  if first.what:find("^Permission denied") then return nil, message, "DENIED" end
  return false, message, whole.errors
end

--- Carries out operations in one transaction: all of them, or none.
--
-- Consul takes 64 operations at most, 128 from 1.14 on. More of them are split only when all are reads, and are then no
-- picture of one moment; a transaction that writes and is longer is TOO_LARGE, since in pieces it would not be atomic.
-- @function kv:txn
-- @tparam table ops a list of `{ verb=, key=, value=, flags=, index=, session= }`; verbs are set, cas, lock, unlock,
-- get, get-tree, get-or-empty (1.14), check-index, check-session, check-not-exists, delete, delete-cas, delete-tree
-- @tparam[opt] table opts of a read, when all are reads
-- @treturn table|false|nil what the operations answer, as kv:get (a write without its value); false, message and a list
-- of `{ op=, what= }` when nothing was carried out because of these operations
function Kv:txn(ops, opts)
  local settings, sent, meta
  local given, message, code = arguments.txn(2, ops, opts)
  if not given then return nil, message, code end
  local req = call.request("PUT", "/v1/txn", given.opts)
  req.body = ""
  settings, message, code = call.prepare(req, 2)
  if not settings then return nil, message, code end
  local facts = object.facts(self.client_)
  local size = given.ops.reads and (facts.operations or CHUNK) or math.max(#given.ops.texts, 1)
  local whole
  repeat
    whole = { results = {}, errors = {} }
    sent, message, code, meta = transact(self, settings, given, size, whole)
    if type(sent) == "number" then facts.operations, size = sent, sent end
  until type(sent) ~= "number"
  if sent then return outcome(whole) end
  if code == "TOO_LARGE" and not given.ops.reads then
    message = message .. " (a transaction that writes is not split: it would not be atomic)"
  end
  return nil, message, code, meta
end

return { new = endpoints.facet("holdfast.kv", Kv) }
