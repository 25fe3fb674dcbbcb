--- What is made of the samples: tables of medians, and ratios beside their aims.
-- @module bench.aims

local M = {}

local function quantile(sorted, part)
  local at = 1 + (#sorted - 1) * part
  local low = math.floor(at)
  local high = math.min(low + 1, #sorted)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
end

--- Median and quartiles of a list of numbers; nil when it is empty.
function M.spread(list)
  if #list == 0 then return nil end
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  return { median = quantile(sorted, 0.5), low = quantile(sorted, 0.25), high = quantile(sorted, 0.75), count = #list }
end

--- What a contender's samples of a workload have under a name.
function M.values(results, workload, id, name)
  local list = {}
  for _, sample in ipairs((results.samples[workload] or {})[id] or {}) do
    if not sample.failed then list[#list + 1] = sample[name] end
  end
  return list
end

--- Why a contender could not do a workload; nil when it could.
function M.failure(results, workload, id)
  local first = ((results.samples[workload] or {})[id] or {})[1]
  return first and first.failed
end

--- A number as short as it may be.
function M.number(value)
  if value == math.floor(value) and value < 1e6 then return ("%d"):format(value) end
  return (value >= 100 and "%.0f" or value >= 10 and "%.1f" or "%.2f"):format(value)
end

-- ---- tables ---------------------------------------------------------------------------------------------------------

local PER_LOCK = { { "us", "µs" }, { "cpu_us", "CPU µs" } }
local HAND_OFFS = { { "per_second", "hand-offs/s" }, { "p50", "p50 ms" }, { "p99", "p99 ms" }, { "least", "least" },
  { "most", "most holds" } }
local IDLE = { { "connections", "connections" }, { "idle", "% of a core" }, { "requests", "requests/s" } }
local HELD = { { "held", "held" }, { "seconds", "s to lock" }, IDLE[1], IDLE[2], IDLE[3], { "bytes", "bytes a lock" } }
local WAIT = { { "seconds", "s until all wait" }, IDLE[1], IDLE[2], IDLE[3], { "event_ms", "CPU ms an event" },
  { "p50", "p50 ms" }, { "p99", "p99 ms" } }

--- { workload, title, columns }; a column is { name of the number, heading }.
function M.tables(size)
  return {
    { "cycle", "Lock and unlock, one after another", PER_LOCK },
    { "many", ("Lock and unlock, %d at once, each on a key of its own"):format(size.width),
      { { "us", "µs" }, { "cpu_us", "CPU µs" }, { "refused", "refused a round" } } },
    { "contend", ("%d processes on one key"):format(size.processes), HAND_OFFS },
    { "think", ("%d processes on one key, 100 ms between its holds for each"):format(size.processes), HAND_OFFS },
    { "held", "lock:held()", { { "ns", "ns" } } },
    { "post", "POSTs guarded by a lock, one after another", PER_LOCK },
    { "posts", "POSTs guarded by a lock, 64 at once", PER_LOCK },
    { "fill1", ("%d locks held"):format(size.fill[1]), HELD },
    { "fill2", ("%d locks held"):format(size.fill[2] or 0), HELD },
    { "loss", ("The session of %d locks destroyed behind its back"):format(size.fill[1]),
      { { "locks", "lost" }, { "ms", "ms until all are marked" } } },
    { "wait", ("%d waiters on keys of another process"):format(size.waiters), WAIT },
  }
end

--- What was measured, with its unit.
function M.median(row)
  if not row.spread then return row.failed and "not possible" or "–" end
  return M.number(row.spread.median) .. (row.unit == "" and "" or " " .. row.unit)
end

--- The order of contenders in a table.
M.ORDER = { "lua54", "lua54new", "luajit", "easy", "multi", "batch", "go", "gofew", "goshared", "gosharedfew" }

-- ---- aims -----------------------------------------------------------------------------------------------------------

local LUAS = { { "lua54", "Lua 5.4" }, { "luajit", "LuaJIT" } }

-- Round by round, since the machine was the same in each.
local function ratios(over, under)
  local list = {}
  for i = 1, math.min(#over, #under) do list[i] = over[i] / under[i] end
  return list
end

--- Rows { what, unit, at_most or at_least, spread, failed }: nil and true when what is measured could not be done.
function M.aims(results)
  local size, rows = results.size, {}
  local function add(what, unit, limit, values, failed)
    rows[#rows + 1] = { what = what, unit = unit, at_most = limit.at_most, at_least = limit.at_least,
      spread = M.spread(values), failed = failed }
  end
  local function of(...) return M.values(results, ...) end
  local function single(what, unit, workload, id, name, limit)
    add(what, unit, limit, of(workload, id, name), M.failure(results, workload, id) and true)
  end
  local function slower(what, workload, name, than, limit)
    for _, lua in ipairs(LUAS) do
      add(what .. ", " .. lua[2], "×", { at_most = limit },
        ratios(of(workload, lua[1], name), of(workload, than, name)))
    end
  end
  local function faster(what, id, limit)
    for _, lua in ipairs(LUAS) do
      add(what .. ", " .. lua[2], "×", { at_least = limit }, ratios(of("many", id, "us"), of("many", lua[1], "us")))
    end
  end
  local function is(what, unit, workload, name, limit)
    single(what, unit, workload, "lua54", name, limit)
  end
  local last = "fill" .. #size.fill

  slower("one after another: time / raw libcurl's", "cycle", "us", "easy", 1.15)
  slower("one after another: CPU / raw libcurl's", "cycle", "cpu_us", "easy", 1.5)
  faster(("%d at once: Go's time / holdfast's"):format(size.width), "go", 16)
  faster(("%d at once: the same, Go's 48 at once"):format(size.width), "gofew", 16)
  slower("guarded POST: time / raw libcurl's", "post", "us", "easy", 1.5)
  slower("64 guarded POSTs at once: time / raw multi's", "posts", "us", "multi", 1.5)
  add(("%d processes, one key: hand-offs / the raw loop's"):format(size.processes), "×", { at_least = 0.95 },
    ratios(of("think", "lua54", "per_second"), of("think", "easy", "per_second")))
  is("the same: holds of the least served / the mean", "×", "think", "fair", { at_least = 0.25 })
  is(("%d waiters: connections"):format(size.waiters), "", "wait", "connections", { at_most = 40 })
  is("the same: idle", "% of a core", "wait", "idle", { at_most = 5 })
  is("the same: CPU of an event", "ms", "wait", "event_ms", { at_most = 1 })
  for _, keys in ipairs({ { "lua54", "of keys that exist" }, { "lua54new", "of new keys" } }) do
    local what = ("%d held, %s: "):format(size.fill[#size.fill], keys[2])
    single(what .. "connections", "", last, keys[1], "connections", { at_most = 4 })
    single(what .. "memory of each", "bytes", last, keys[1], "bytes", { at_most = 1024 })
  end
  for _, lua in ipairs(LUAS) do
    single("lock:held(), " .. lua[2], "ns", "held", lua[1], "ns", { at_most = 100 })
  end
  return rows
end

--- "met", "missed" or "not measured".
function M.verdict(row)
  if not row.spread then return row.failed and "missed" or "not measured" end
  local median = row.spread.median
  return (row.at_most and median <= row.at_most or row.at_least and median >= row.at_least) and "met" or "missed"
end

--- One line about the machine.
function M.machine(results)
  local m = results.machine
  local line = ("%s, %d cores, Linux %s; Consul %s, libcurl %s, %s, %s"):format(
    m.cpu, m.cores, m.kernel, m.consul, m.libcurl, m.lua, m.luajit)
  return line .. (m.go and (", %s with consul/api 1.34.5"):format(m.go) or "") .. "; " .. m.date
end

return M
