-- `holdfast lock`, the program, beside a real agent (46–50, 56).
local cli = require("spec.support.cli")
local consul = require("spec.support.consul")
local helper = require("spec.helper")

local function holder_of(key)
  return (consul.kv.get(key .. "/.lock") or {}).Session
end

-- What a process is doing by /proc: "S" and so on; nil when it is no more, or has ended and is not waited for.
local function state(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  local text = file and file:read("*a")
  if file then file:close() end
  local letter = text and text:match("^.*%) (%a)")
  return letter ~= "Z" and letter or nil
end

local function wait_for_end(...)
  for _, pid in ipairs({ ... }) do helper.eventually(function() return not state(pid) end) end
end

describe("holdfast lock", function()
  local key
  before_each(function() key = helper.unique_key() end)
  after_each(helper.finish)

  -- Starts it with a script as the command; the key comes before.
  local function spawn(options, script)
    local words = { "lock" }
    for _, option in ipairs(options) do words[#words + 1] = option end
    for _, word in ipairs({ key, "sh", "-c", script }) do words[#words + 1] = word end
    return cli.spawn(words)
  end

  local function read_pid(child)
    return assert(tonumber((child:read_line())))
  end

  local function expect_free()
    assert.is_nil(consul.kv.get(key .. "/.lock"))
    for _, session in ipairs(consul.session.list()) do assert.not_matches(key, session.Name, 1, true) end
  end

  it("runs a command that has the lock and its token, and leaves nothing behind (behaviour 48)", function()
    local child = spawn({}, "echo $CONSUL_LOCK_HELD $HOLDFAST_TOKEN; sleep 1000")
    local pair = helper.eventually(function() return consul.kv.get(key .. "/.lock") end)
    assert.are.equal("true " .. pair.ModifyIndex, child:read_line())
    assert.are.equal(("holdfast lock for 'sh -c echo $CONSUL_LOCK_HELD $HOLDFAST_TOKEN; sleep 1000' at '%s/.lock'")
      :format(key), consul.session.info(pair.Session).Name)
    child:kill("TERM")
    assert.are.equal(128 + 15, (child:wait()))
    expect_free()
  end)

  it("ends with the command's own status (behaviour 56)", function()
    for _, status in ipairs({ 0, 2, 75, 255 }) do
      assert.are.equal(status, (cli.run({ "lock", key, "sh", "-c", "exit " .. status })))
    end
    assert.are.equal(128 + 9, (cli.run({ "lock", key, "sh", "-c", "kill -KILL $$" })))
    expect_free()
  end)

  it("says what is no command, and what cannot be executed", function()
    local status, _, err = cli.run({ "lock", key, "no-such-command" })
    assert.are.equal(127, status)
    assert.matches("no-such-command: No such file", err, 1, true)
    assert.are.equal(126, (cli.run({ "lock", key, "/etc/passwd" })))
    expect_free()
  end)

  it("puts no shell in between, unless it is asked for one (behaviour 49)", function()
    local _, out = cli.run({ "lock", key, "echo", "$((1 + 1)) ; false" })
    assert.are.equal("$((1 + 1)) ; false\n", out)
    local status
    status, out = cli.run({ "lock", "--shell", key, "echo", "$((1 + 1)) ; exit 5" }, { SHELL = false })
    assert.are.equal("2\n", out)
    assert.are.equal(5, status)
  end)

  it("leaves to the command what comes after the key", function()
    local _, out = cli.run({ "lock", "-t10s", "--ttl", "20s", "--grace=1s", "-vs", key, "--", "echo", "--", "--help" })
    assert.are.equal("-- --help\n", out)
    _, out = cli.run({ "lock", key, "echo", "-v", "--", "--no-such-option" })
    assert.are.equal("-v -- --no-such-option\n", out)
  end)

  it("hands standard input to the command when it is told to, and none otherwise", function()
    local run = assert(io.popen("echo typed | " .. cli.line({ "lock", "--pass-stdin", key, "cat" })))
    assert.are.equal("typed\n", run:read("*a"))
    run:close()
    run = assert(io.popen("echo typed | " .. cli.line({ "lock", key, "sh", "-c", "cat; echo end" })))
    assert.are.equal("end\n", run:read("*a"))
    run:close()
  end)

  it("gives up after the timeout, and gets what is freed before it (behaviour 50)", function()
    local lock = helper.client():lock(key .. "/.lock")
    assert.is_true(lock:lock(helper.seconds(5)))
    local status, out, err = cli.run({ "lock", "--timeout", "0.2", key, "echo", "never" })
    assert.are.equal(75, status)
    assert.are.equal("", out)
    assert.matches("held by session", err, 1, true)
    local waiter = cli.spawn({ "lock", "--verbose", "--timeout", tostring(helper.seconds(10)), key, "echo", "got it" })
    lock:unlock()
    assert.are.equal("got it", waiter:read_line())
    assert.are.equal(0, (waiter:wait()))
  end)

  it("refuses what makes no sense (behaviour 47)", function()
    for problem, words in pairs({
      ["blah"] = { "lock", "--timeout=blah", key, "true" },
      ["-10s"] = { "lock", "--timeout=-10s", key, "true" },
      ["more than 0"] = { "lock", "--ttl=0", key, "true" },
      ["from 1 to 2^53"] = { "lock", "--limit=1e30", key, "true" },
      ["a key is not empty"] = { "release", "" },
      ["missing argument 'key'"] = { "lock" },
      ["missing argument 'argv'"] = { "lock", key },
      ["--no-such-option"] = { "lock", "--no-such-option", key, "true" },
      ["command"] = {},
    }) do
      local status, out, err = cli.run(words)
      assert.are.equal(64, status)
      assert.are.equal("", out)
      assert.matches(problem, err, 1, true)
    end
    local status, _, err = cli.run({ "lock", "--address", "gopher://x", key, "true" })
    assert.are.equal(78, status)
    assert.matches("gopher", err, 1, true)
  end)

  it("has a help without tabs, with every exit status in it (behaviour 46)", function()
    for _, words in ipairs({ { "--help" }, { "lock", "--help" } }) do
      local status, out = cli.run(words)
      assert.are.equal(0, status)
      assert.is_nil(out:find("\t", 1, true))
      for _, meaning in ipairs(require("holdfast.cli.exits").meanings) do
        assert.matches(("\n  %3d  %s"):format(meaning[1], meaning[2]), out, 1, true)
      end
    end
  end)

  it("hands signals on to all processes of the command", function()
    local child = spawn({}, [[
      trap "echo told" USR1
      (trap "" USR1; exec sh -c "echo \$\$; echo \$\$; exec sleep 1000") &
      while wait; [ $? -gt 128 ]; do :; done
    ]])
    local grandchild = read_pid(child)
    assert.are.equal(grandchild, read_pid(child))
    child:kill("USR1")
    assert.are.equal("told", child:read_line())
    child:kill("TERM")
    assert.are.equal(128 + 15, (child:wait()))
    wait_for_end(grandchild)
    expect_free()
  end)

  it("ends by a signal while it waits for the lock, and has nothing then", function()
    local lock = helper.client():lock(key .. "/.lock")
    assert.is_true(lock:lock(helper.seconds(5)))
    local waiter = cli.spawn({ "lock", "--name", key .. " waiter", key, "echo", "never" })
    helper.eventually(function()
      for _, session in ipairs(consul.session.list()) do
        if session.Name == key .. " waiter" then return true end
      end
    end)
    waiter:kill("TERM")
    local status, out = waiter:wait()
    assert.are.equal(128 + 15, status)
    assert.are.equal("", out)
    assert.are.equal(lock:session(), holder_of(key))
    assert.is_true(lock:unlock(helper.seconds(5)))
    assert.is_true(lock:destroy(helper.seconds(5)))
    expect_free()
  end)

  describe("when the lock is lost", function()
    it("ends the command and what it has started", function()
      local child = spawn({}, "sleep 1000 & echo $$; echo $!; wait")
      local first, second = read_pid(child), read_pid(child)
      consul.session.destroy(holder_of(key))
      local status, _, err = child:wait()
      assert.are.equal(79, status)
      assert.matches("lost %(%a+%): TERM", err)
      assert.is_nil(err:find("KILL", 1, true))
      wait_for_end(first, second)
    end)

    it("kills what does not end within the grace, also when the command itself has ended", function()
      local child = spawn({ "--grace", "0.3s", "--signal", "USR2" }, [[
        (trap "" USR2 TERM; echo deaf; exec sleep 1000) &
        trap "echo ending; exit 0" USR2
        echo $!
        wait
      ]])
      local lines = { child:read_line(), child:read_line() }
      local grandchild = tonumber(lines[1]) or tonumber(lines[2])
      consul.session.destroy(holder_of(key))
      local status, out, err = child:wait()
      assert.are.equal(79, status)
      assert.are.equal("ending\n", out)
      assert.matches("USR2 to the command", err, 1, true)
      assert.matches("KILL to it", err, 1, true)
      wait_for_end(grandchild)
    end)

    it("kills a command that ignores TERM", function()
      local child = spawn({ "--grace=0.2s" }, [[trap "" TERM; echo $$; while :; do sleep 1; done]])
      local pid = read_pid(child)
      consul.kv.delete(key .. "/.lock")
      local status, _, err = child:wait()
      assert.are.equal(79, status)
      assert.matches("lost (key)", err, 1, true)
      wait_for_end(pid)
    end)

    it("ends a command that has left its process group", function()
      local child = cli.spawn({ "lock", key, "perl", "-e", [[
        $| = 1;
        my $other = fork // die;
        if (!$other) { sleep 1000; exit }
        setpgrp($other, $other);
        setpgrp(0, $other);
        print "$$\n$other\n";
        sleep 1000;
      ]] })
      local pid, other = read_pid(child), read_pid(child)
      consul.session.destroy(holder_of(key))
      assert.are.equal(79, (child:wait()))
      wait_for_end(pid)
      os.execute("kill -KILL " .. other) -- what is in other groups is on its own
      wait_for_end(other)
    end)
  end)

  it("buries what comes to it when its parent has ended", function()
    local child = spawn({}, "(sh -c 'echo $$' &) ; (setsid sh -c 'echo $$' &) ; sleep 1000")
    for _ = 1, 2 do
      local entry = ("/proc/%d/stat"):format(read_pid(child))
      helper.eventually(function()
        local file = io.open(entry)
        if file then file:close() end
        return not file
      end)
    end
    child:kill("TERM")
    assert.are.equal(128 + 15, (child:wait()))
  end)

  it("gives up giving back at a second signal", function()
    local proxy = helper.proxy()
    local child = spawn({ "--address", proxy:address(), "--lock-delay", "60s" }, "echo held; exec sleep 1000")
    assert.are.equal("held", child:read_line())
    proxy:rule({ match = "^PUT ", action = "stall" })
    child:kill("TERM")
    assert(proxy:wait_for("^PUT /v1/txn", 2, helper.seconds(5)))
    child:kill("TERM")
    helper.eventually(function() return not state(child.pid) end)
    assert.are.equal(128 + 15, (child:wait()))
  end)

  it("waits for a Consul that does not answer, and says so", function()
    local proxy = helper.proxy()
    proxy:rule({ match = "^PUT ", times = 3, action = "close" })
    local status, out, err = cli.run({ "lock", "--address", proxy:address(), key, "echo", "at last" })
    assert.are.equal(0, status)
    assert.are.equal("at last\n", out)
    assert.matches("holdfast: no answer from Consul: ", err, 1, true)
    assert.is_nil(err:find("has been made", 1, true))
    err = select(3, cli.run({ "lock", "--verbose", key, "true" }))
    assert.matches("holdfast: session %S+ has been made", err)
  end)

  it("says what is missing when there is no argparse", function()
    local status, _, err = helper.run_lua("package.preload.argparse = error; dofile('bin/holdfast')")
    assert.are.equal(70, status)
    assert.matches("argparse is missing", err, 1, true)
  end)

  it("takes the command with it when it is killed", function()
    local child = spawn({}, [[trap "" TERM; echo $$; while :; do sleep 1; done]])
    local pid = read_pid(child)
    child:kill("KILL")
    child:wait()
    wait_for_end(pid)
  end)

  it("stops with its command, which goes on if the lock is still held", function()
    -- Not a shell, which cannot be seen to stop while what it starts by vfork has not become a program.
    local child = cli.spawn({ "lock", key, "perl", "-e",
      [[$| = 1; $SIG{USR1} = sub { print "told\n" }; print "$$\n"; sleep 1 while 1]] })
    local pid = read_pid(child)
    child:kill("TSTP")
    helper.eventually(function() return state(pid) == "T" and state(child.pid) == "T" end)
    child:kill("CONT")
    child:kill("USR1")
    assert.are.equal("told", child:read_line())
    child:kill("INT")
    assert.are.equal(128 + 2, (child:wait()))
  end)

  it("does not let a stopped command go on without the lock", function()
    local child = spawn({ "--lock-delay", "1s" }, "echo $$; kill -STOP $$; echo never")
    read_pid(child)
    child:kill("TSTP")
    helper.eventually(function() return state(child.pid) == "T" end)
    consul.session.destroy(holder_of(key))
    local heir = helper.client():lock(key .. "/.lock")
    assert.is_true(heir:lock(helper.seconds(5)))
    child:kill("CONT")
    local status, out = child:wait()
    assert.are.equal(79, status)
    assert.are.equal("", out)
  end)

  it("takes turns with consul lock", function()
    local function consul_lock(words)
      return assert(io.popen(("exec %s lock %s 2>&1"):format(os.getenv("HF_CONSUL"), words:format(key))))
    end
    local first = consul_lock("%s 'echo $$; exec sleep 1000'")
    local pid = tonumber(first:read("*l"))
    assert.are.equal(75, (cli.run({ "lock", "--timeout=0", key, "echo", "never" })))
    local waiter = cli.spawn({ "lock", key, "sh", "-c", "echo held; exec sleep 1000" })
    os.execute("kill -TERM " .. pid)
    assert.are.equal("Error running handler: signal: terminated\n", first:read("*a"))
    first:close()
    assert.are.equal("held", waiter:read_line())
    local second = consul_lock("-timeout=500ms %s echo never")
    assert.are.equal("Shutdown triggered or timeout during lock acquisition\n", second:read("*a"))
    second:close()
    waiter:kill("TERM")
    waiter:wait()
    local third = consul_lock("%s 'echo in turn'")
    assert.are.equal("in turn\n", third:read("*a"))
    third:close()
  end)
end)
