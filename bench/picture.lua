--- Draws the aims as a picture: for each a bar that is as long as what was measured, on a scale on which the aim is at
-- the same place everywhere. Readable in light and dark, with the system's fonts.
-- @module bench.picture

local aims = require("bench.aims")

local M = {}

local LEFT, AIM, END, ROW, TOP = 400, 260, 2, 26, 58 -- px; END: how many aims are as long as the picture
local RIGHT = LEFT + AIM * END

local STYLE = [[
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.met { fill: #2f81b7 }
.missed { fill: #d4761f }
.aim, .whisker { stroke: #1f2328; stroke-width: 1.5 }
.aim { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .aim, .whisker { stroke: #e6edf3 }
  .met { fill: #4aa3df }
  .missed { fill: #e8924a }
}]]

local function escape(text)
  return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

local function draw_row(out, row, y)
  local limit, spread, verdict = row.at_most or row.at_least, row.spread, aims.verdict(row)
  local function x(value) return LEFT + math.min(END, value / limit) * AIM end
  out('<text x="%d" y="%d" text-anchor="end">%s</text>', LEFT - 10, y + 4, escape(row.what))
  if spread then
    out('<rect class="%s" x="%d" y="%d" width="%.1f" height="14" rx="2"/>', verdict, LEFT, y - 7,
      x(spread.median) - LEFT)
  end
  if spread and spread.count > 2 then
    out('<path class="whisker" d="M%.1f %dH%.1f"/>', x(spread.low), y, x(spread.high))
  end
  out('<text x="%d" y="%d">%s <tspan class="small">(%s %s, %s)</tspan></text>', RIGHT + 10, y + 4,
    aims.median(row), row.at_most and "≤" or "≥", aims.number(limit), verdict)
end

--- The text of an SVG file.
function M.draw(results)
  local rows, lines = {}, {}
  for _, row in ipairs(aims.aims(results)) do
    if row.spread or row.failed then rows[#rows + 1] = row end
  end
  local width, bottom = RIGHT + 220, TOP + #rows * ROW
  local function out(format, ...) lines[#lines + 1] = format:format(...) end
  out('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img">', width, bottom + 34)
  out("<title>holdfast beside raw libcurl and Go's client</title>")
  out("<style>\n%s\n</style>", STYLE)
  out('<text x="%d" y="20" text-anchor="middle">aim</text>', LEFT + AIM)
  out('<text class="small" x="%d" y="20" text-anchor="end">≤: shorter is better   </text>', LEFT + AIM - 30)
  out('<text class="small" x="%d" y="20">≥: longer is better</text>', LEFT + AIM + 30)
  out('<text class="small" x="%d" y="20">twice the aim, or more</text>', RIGHT + 10)
  for i, row in ipairs(rows) do draw_row(out, row, TOP - ROW / 2 + (i - 1) * ROW) end
  out('<path class="aim" d="M%d 28V%d"/>', LEFT + AIM, bottom - 8)
  out('<text class="small" x="10" y="%d">%s</text>', bottom + 20, escape(aims.machine(results)))
  out("</svg>")
  return table.concat(lines, "\n")
end

return M
