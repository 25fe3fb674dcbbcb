--- What the demo's receivers and emitters wrote down, and what follows from it.
-- @module examples.demo.report

local M = {}

local function lines_of(path)
  local file = io.open(path)
  local lines = {}
  for line in file and file:lines() or function() end do lines[#lines + 1] = line end
  if file then file:close() end
  return lines
end

-- The fields of a line; nil for one that is not whole yet.
local function fields(line, n)
  local found = {}
  for field in (line .. "\t"):gmatch("(.-)\t") do found[#found + 1] = field end
  return #found == n and found or nil
end

--- The requests that a receiver had, in the order in which they came: { came, left, id, token, signature }.
function M.requests(path)
  local requests = {}
  for _, line in ipairs(lines_of(path)) do
    local f = fields(line, 5)
    if f then
      requests[#requests + 1] = { came = tonumber(f[1]), left = tonumber(f[2]), id = f[3], token = tonumber(f[4]),
        signature = f[5] }
    end
  end
  table.sort(requests, function(a, b) return a.came < b.came end)
  return requests
end

--- The events of an emitter: { at, type, receiver, token, remark }.
function M.events(path)
  local events = {}
  for _, line in ipairs(lines_of(path)) do
    local f = fields(line, 5)
    if f then
      events[#events + 1] = { at = tonumber(f[1]), type = f[2], receiver = f[3], token = tonumber(f[4]), remark = f[5] }
    end
  end
  return events
end

--- What happened at a receiver that was to get the messages of the set `wanted`.
-- @return { delivered, duplicates, lost, overlaps, rising, bad, bad_example }
function M.judge(requests, wanted)
  local sum = { delivered = 0, duplicates = 0, lost = 0, overlaps = 0, rising = true, bad = 0 }
  local seen, busy_until, newest = {}, 0, 0
  for _, request in ipairs(requests) do
    if request.came < busy_until then sum.overlaps = sum.overlaps + 1 end
    busy_until = math.max(busy_until, request.left)
    if not request.token or request.token < newest then sum.rising = false end
    newest = math.max(newest, request.token or 0)
    if request.signature ~= "good" or not wanted[request.id] then
      sum.bad, sum.bad_example = sum.bad + 1, request.id .. ": " .. request.signature
    end
    if seen[request.id] then sum.duplicates = sum.duplicates + 1 else sum.delivered = sum.delivered + 1 end
    seen[request.id] = true
  end
  for id in pairs(wanted) do
    if not seen[id] then sum.lost = sum.lost + 1 end
  end
  return sum
end

--- The first request after `at` whose token is newer than `token`.
function M.first_after(requests, at, token)
  for _, request in ipairs(requests) do
    if request.came > at and request.token and request.token > token then return request end
  end
  return nil
end

--- Prints rows under a head, columns as wide as they need to be; the first one to the left, the others to the right.
function M.print_table(head, rows)
  local widths = {}
  for _, row in ipairs({ head, table.unpack(rows) }) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #tostring(cell)) end
  end
  local function print_row(row)
    local cells = {}
    for i, cell in ipairs(row) do cells[i] = ("%" .. (i == 1 and "-" or "") .. widths[i] .. "s"):format(cell) end
    print("  " .. table.concat(cells, "   "))
  end
  print_row(head)
  local rule = {}
  for i, width in ipairs(widths) do rule[i] = ("-"):rep(width) end
  print_row(rule)
  for _, row in ipairs(rows) do print_row(row) end
end

return M
