-- contrib/systemd, looked at by systemd itself where it is installed.
local output_of = require("spec.support.process").output_of

local function verify(path)
  return output_of("systemd-analyze verify --man=no " .. path)
end

describe("contrib/systemd", function()
  if output_of("command -v systemd-analyze") == "" then
    pending("systemd-analyze is not installed")
    return
  end

  it("is a unit that systemd has nothing to say about, which it does of a wrong one", function()
    assert.are.equal("", verify("contrib/systemd/webhooks.service"))
    local path = os.tmpname() .. ".service"
    local file = assert(io.open(path, "w"))
    file:write("[Service]\nExecStart=/bin/true\nTimeoutStopSec=soon\n")
    file:close()
    local said = verify(path)
    os.remove(path)
    os.remove((path:gsub("%.service$", "")))
    assert.matches("Failed to parse", said, 1, true)
  end)
end)
