-- .ci/doccov finds what is missing in the documentation: shown by taking something away.
local run = require("spec.support.process").output_of

-- Whatever code uses between backticks.
local function edit(path, pattern, replacement)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  file = assert(io.open(path, "w"))
  file:write((text:gsub(pattern, replacement)))
  file:close()
end

describe("doccov", function()
  local directory
  before_each(function()
    directory = run("mktemp -d"):match("%S+")
    run(("cp -r README.md docs lua %s"):format(directory))
  end)
  after_each(function() run("rm -r " .. directory) end)

  local function doccov()
    return run(".ci/doccov " .. directory)
  end

  local function everywhere(pattern, replacement)
    for path in run(("find %s -name '*.md' -o -name '*.lua'"):format(directory)):gmatch("%S+") do
      edit(path, pattern, replacement)
    end
  end

  for what, case in pairs({
    ["a method"] = { "client:abandon%f[%W]", "client:gone", "client:abandon is not in README.md or docs/" },
    ["a method's comment"] = { "@function lock:held", "@function lock:gone", "lock:held has no LDoc comment" },
    ["an option"] = { "service_checks", "gone", "option service_checks is not in README.md or docs/" },
    ["an option's comment"] = { "service_checks", "gone", "option service_checks is in no LDoc comment" },
    ["an error code"] = { "`NOMEM`", "`GONE`", "error code NOMEM is not in README.md or docs/" },
    ["a command"] = { "holdfast doctor", "holdfast gone", "holdfast doctor is not in README.md or docs/" },
    ["a variable"] = { "CONSUL_HTTP_ADDR", "GONE", "variable CONSUL_HTTP_ADDR is not in README.md or docs/" },
  }) do
    it("misses " .. what, function()
      assert.is_nil(doccov():find("doccov: " .. case[3], 1, true))
      everywhere(case[1], case[2])
      assert.matches("doccov: " .. case[3], doccov(), 1, true)
    end)
  end

  it("answers by its status whether there is a gap", function()
    everywhere("client:abandon%f[%W]", "client:gone")
    assert.matches("client:abandon is not in README.md or docs/\n.*status 1\n$", run(".ci/doccov " .. directory
      .. "; echo status $?"))
  end)
end)
