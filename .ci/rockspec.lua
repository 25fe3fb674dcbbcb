-- lua5.4 .ci/rockspec.lua FILE: does the rockspec list exactly the sources that exist?
local path = ...
local rockspec = {}
assert(loadfile(path, "t", rockspec))()

local listed, complaints = {}, {}
for name, module in pairs(rockspec.build.modules) do
  if type(module) == "string" then
    listed[module] = name
  else
    for _, source in ipairs(module.sources) do listed[source] = name end
  end
end

for file in io.popen("find csrc -name '*.c'; find lua -name '*.lua'"):lines() do
  local module = "holdfast.core"
  if file:match("%.lua$") then
    module = file:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
  end
  if listed[file] ~= module then complaints[#complaints + 1] = "add " .. file .. " to " .. module end
  listed[file] = nil
end
for file in pairs(listed) do complaints[#complaints + 1] = "remove " .. file .. ", which is gone" end

table.sort(complaints)
for _, complaint in ipairs(complaints) do print(path .. ": " .. complaint) end
os.exit(#complaints == 0)
