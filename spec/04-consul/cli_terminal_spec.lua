-- `holdfast lock` on a terminal, which script(1) makes.
local cli = require("spec.support.cli")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

describe("holdfast lock on a terminal", function()
  local key, pipe, terminal, keyboard
  before_each(function()
    key = helper.unique_key()
    pipe = os.tmpname()
    os.remove(pipe)
    assert(os.execute("mkfifo " .. pipe))
  end)
  after_each(function()
    if keyboard then keyboard:close() end
    if terminal then terminal:close() end
    keyboard, terminal = nil, nil
    os.remove(pipe)
    helper.finish()
  end)

  -- Runs a shell's words in there: bash's, since dash ends at a Ctrl-C that the command has dealt with.
  local function open(line)
    terminal = assert(io.popen(("SHELL=/bin/bash exec timeout -k 5 %d script -qec %s /dev/null <%s 2>&1"):format(
      helper.seconds(20), cli.quote(line), pipe)))
    keyboard = assert(io.open(pipe, "w"))
    keyboard:setvbuf("no")
  end

  -- Reads on to a line with this text in it.
  local function expect(text)
    local seen = {}
    for line in function() return terminal:read("*l") end do
      seen[#seen + 1] = line
      if line:find(text, 1, true) then return line end
    end
    error(("no %q in %q"):format(text, table.concat(seen, "\n")), 2)
  end

  local function lock(options, script)
    local words = { "lock" }
    for _, option in ipairs(options) do words[#words + 1] = option end
    for _, word in ipairs({ key, "sh", "-c", script }) do words[#words + 1] = word end
    return cli.line(words)
  end

  it("ends the command by Ctrl-C", function()
    -- No dash, which catches SIGINT and loses one that comes while it forks.
    open(cli.line({ "lock", key, "perl", "-e", [[$| = 1; print "ready\n"; sleep 1000]] }) .. "; echo status $?")
    expect("ready")
    keyboard:write("\3")
    expect("status 130")
    assert.is_nil(consul.kv.get(key .. "/.lock"))
  end)

  it("lets a command read the terminal, and Ctrl-C reach it", function()
    open(cli.line({ "lock", "--pass-stdin", key, "perl", "-e",
      [[$| = 1; $SIG{INT} = sub { print "told\n"; exit 5 }; $a = <STDIN>; print "got $a"; sleep 1 while 1]] })
      .. "; status=$?; read b; echo status $status then $b")
    keyboard:write("typed\n")
    expect("got typed")
    keyboard:write("\3")
    expect("told")
    keyboard:write("more\n")
    expect("status 5 then more")
  end)

  it("says that a command wants the terminal, and lets Ctrl-C end it", function()
    open(lock({}, "read a < /dev/tty; echo got $a") .. "; echo status $?")
    expect("--pass-stdin gives it")
    keyboard:write("\3")
    expect("status 130")
  end)

  it("stops by Ctrl-Z with the command, and goes on with it in the foreground", function()
    open(("exec bash -mc %s"):format(cli.quote(
      lock({ "--pass-stdin" }, "echo ready; read a; echo got $a") .. "; echo out of it; fg; echo status $?")))
    expect("ready")
    keyboard:write("\26")
    expect("out of it")
    keyboard:write("typed\n")
    expect("got typed")
    expect("status 0")
  end)
end)
