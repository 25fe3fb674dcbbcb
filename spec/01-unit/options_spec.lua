local options = require("holdfast.options")
local options_client = require("holdfast.options_client")

-- An environment of its own for every spec: variables and files as they are given.
local function environment(variables, files)
  return {
    getenv = function(name) return (variables or {})[name] end,
    open = function(path)
      local content = (files or {})[path]
      if not content then return nil, path .. ": No such file or directory", 2 end
      return {
        read = function(_, size)
          if content == "a directory" then return nil, "Is a directory", 21 end
          if content ~= "" then return content:sub(1, size) end
        end,
        close = function() return true end,
      }
    end,
  }
end

-- No tail calls: Lua 5.1 forgets who made them.
local function client(given, variables, files)
  local settings, message, code = options_client.read(given or {}, environment(variables, files), 2)
  return settings, message, code
end

-- Expects nil, message, "INVALID"; `...` are plain texts that the message must have in it. Answers the message.
local function invalid(values, ...)
  assert.is_nil(values[1])
  assert.are.equal("INVALID", values[3])
  for _, text in ipairs({ ... }) do
    assert(values[2]:find(text, 1, true), ("%q is not in %q"):format(text, values[2]))
  end
  return values[2]
end

-- Expects that fn raises with this file's line, and the text in the message.
local function raises(text, fn)
  local ok, message = pcall(fn)
  assert.is_false(ok)
  assert.matches("options_spec%.lua:%d+: ", message)
  assert(message:find(text, 1, true), ("%q is not in %q"):format(text, message))
end

-- A deep copy, to compare with afterwards.
local function copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for k, v in pairs(value) do result[k] = copy(v) end
  return result
end

describe("options_client.read", function()
  it("has defaults for everything", function()
    assert.are.same({
      base = "http://127.0.0.1:8500", timeout = 10, verify = true,
      session = { name = "holdfast", ttl = 10, lock_delay = 25, behavior = "release" },
    }, client())
  end)

  it("takes every option at once and modifies no table", function()
    local given = {
      address = "https://consul.example:8501/base", token = "t", auth = "me:secret", datacenter = "dc1",
      namespace = "ns", partition = "p", timeout = "1500ms", scheduler = "loop",
      tls = { ca_file = "/ca", ca_path = "/cas", cert_file = "/cert", key_file = "/key", server_name = "s.example",
        verify = false },
      session = { name = "n", ttl = "20s", lock_delay = "1m", behavior = "delete", node = "node-1",
        checks = { "a", "b" }, service_checks = {} },
    }
    local before = copy(given)
    local settings = client(given, {}, { ["/ca"] = "x", ["/cas"] = "a directory", ["/cert"] = "x", ["/key"] = "x" })
    assert.are.same({
      base = "https://s.example:8501/base", connect_to = "::consul.example:8501",
      token = "t", auth = "me:secret", datacenter = "dc1",
      namespace = "ns", partition = "p", timeout = 1.5, ca_file = "/ca", ca_path = "/cas", cert_file = "/cert",
      key_file = "/key", verify = false,
      session = { name = "n", ttl = 20, lock_delay = 60, behavior = "delete", node = "node-1",
        checks = { "a", "b" }, service_checks = {} },
    }, settings)
    assert.are.same(before, given)
    assert.are_not.equal(given.session.checks, settings.session.checks)
  end)

  it("raises with the line that the level names", function()
    local here = debug.getinfo(1, "l").currentline
    local function mine(level)
      local settings = options_client.read({ adress = "x" }, environment(), level)
      return settings
    end
    for level, line in ipairs({ here + 2, here + 6 }) do
      local ok, message = pcall(function() mine(level) return true end)
      assert.is_false(ok)
      assert.matches("options_spec%.lua:" .. line .. ': unknown option "adress"', message)
    end
  end)

  it("raises for unknown names", function()
    raises('unknown option "lock_dealy"', function() client({ lock_dealy = 1 }) end)
    raises('unknown option "tls.ca"', function() client({ tls = { ca = "x" } }) end)
    raises('unknown option "session.behaviour"', function() client({ session = { behaviour = "release" } }) end)
    raises('unknown option "1"', function() client({ "127.0.0.1:8500" }) end)
  end)

  it("raises for wrong types", function()
    raises("a table of options, not a string", function() client("127.0.0.1:8500") end)
    for name, wrong in pairs({ address = 8500, token = true, token_file = {}, auth = {}, datacenter = 1, namespace = 1,
      partition = false, tls = "x", session = 15 }) do
      raises(name .. " must be a ", function() client({ [name] = wrong }) end)
    end
    for _, name in ipairs({ "ca_file", "ca_path", "cert_file", "key_file", "server_name" }) do
      raises("tls." .. name .. " must be a string, not a number", function() client({ tls = { [name] = 1 } }) end)
    end
    raises("tls.verify must be a boolean, not a string", function() client({ tls = { verify = "no" } }) end)
    for name, wrong in pairs({ name = 1, behavior = true, node = {}, checks = "serfHealth", service_checks = 1 }) do
      raises("session." .. name .. " must be a ", function() client({ session = { [name] = wrong } }) end)
    end
  end)

  describe("address", function()
    local function base(address, variables)
      local settings, message = client({ address = address }, variables)
      assert.is_nil(message)
      return settings.base, settings.unix_socket
    end

    it("takes every form", function()
      assert.are.equal("http://10.0.0.1:8500", base("10.0.0.1:8500"))
      assert.are.equal("http://consul.example", base("consul.example"))
      assert.are.equal("http://consul.example:80", base("http://consul.example:80"))
      assert.are.equal("https://consul.example:8501", base("https://consul.example:8501"))
      assert.are.equal("https://consul.example", base("HTTPS://consul.example/"))
      assert.are.equal("http://[::1]:8500", base("[::1]:8500"))
      assert.are.equal("https://[2001:db8::1]", base("https://[2001:db8::1]"))
      assert.are.equal("http://[fe80::1%25eth0]:8500", base("http://[fe80::1%25eth0]:8500"))
    end)

    it("keeps a path prefix, without slashes at its end (behaviour 45)", function()
      assert.are.equal("http://proxy:80/consul", base("http://proxy:80/consul"))
      assert.are.equal("https://proxy/a/b", base("https://proxy/a/b//"))
      assert.are.equal("http://proxy:80/consul", base("proxy:80/consul/"))
    end)

    it("takes a Unix socket", function()
      local url, socket = base("unix:///run/consul.sock")
      assert.are.equal("http://localhost", url)
      assert.are.equal("/run/consul.sock", socket)
    end)

    it("answers INVALID for what is none, with the name and the value", function()
      for _, address in ipairs({ "", "::1", "host:", "host:0", "host:65536", "host:12a", "host:1:2", "http://",
        "http:///path", "[::1]x", "[1.2.3.4]:80", "http://h/?a", "http://h#x", "a b", "h\n:80", "h\0", "ftp://host",
        "tcp://host:8500", "unix://relative", "unix://", "unix:///" .. ("x"):rep(107) }) do
        invalid({ client({ address = address }) }, "address ")
      end
      invalid({ client({ address = "host:65536" }) }, '"host:65536"')
      invalid({ client({ address = "ftp://host" }) }, '"ftp://host"', "http, https or unix")
      invalid({ client({}, { CONSUL_HTTP_ADDR = "host:x" }) }, "CONSUL_HTTP_ADDR", '"host:x"')
    end)

    it("takes the longest path that a socket may have", function()
      local path = "/" .. ("x"):rep(106)
      local _, socket = base("unix://" .. path)
      assert.are.equal(path, socket)
    end)

    it("answers INVALID for a password in it, and does not show it", function()
      for _, address in ipairs({ "http://me:secret@host:80", "me:secret@host", "http://me:sec/ret@host" }) do
        local message = invalid({ client({ address = address }) }, "auth")
        assert.is_nil(message:find("ret", 1, true))
      end
    end)

    it("comes from CONSUL_HTTP_ADDR when it is not given (behaviour 31)", function()
      local variables = { CONSUL_HTTP_ADDR = "unix:///from/env" }
      assert.are.equal("/from/env", client({}, variables).unix_socket)
      assert.are.equal("http://mine:1", base("mine:1", variables))
      assert.are.equal("http://127.0.0.1:8500", client({}, { CONSUL_HTTP_ADDR = "" }).base)
    end)
  end)

  describe("CONSUL_HTTP_SSL", function()
    local function base(given, ssl, address)
      return client(given, { CONSUL_HTTP_SSL = ssl, CONSUL_HTTP_ADDR = address }).base
    end

    it("asks for https wherever no option says http (behaviour 31)", function()
      for _, yes in ipairs({ "1", "t", "T", "true", "TRUE", "True" }) do
        assert.are.equal("https://127.0.0.1:8500", base({}, yes))
      end
      assert.are.equal("https://host:1", base({ address = "host:1" }, "true"))
      assert.are.equal("https://host:1", base({}, "true", "http://host:1"))
      assert.are.equal("https://localhost", base({ address = "unix:///s" }, "true"))
      assert.are.equal("http://host:1", base({ address = "http://host:1" }, "true"))
    end)

    it("leaves things as they are when it says no", function()
      for _, no in ipairs({ "0", "f", "F", "false", "FALSE", "False", "" }) do
        assert.are.equal("http://127.0.0.1:8500", base({}, no))
      end
      assert.are.equal("https://host:1", base({ address = "https://host:1" }, "false"))
    end)

    it("is INVALID when it says neither", function()
      invalid({ client({}, { CONSUL_HTTP_SSL = "yes" }) }, "CONSUL_HTTP_SSL", '"yes"')
    end)
  end)

  describe("token", function()
    local VARIABLES = { CONSUL_HTTP_TOKEN = "env", CONSUL_HTTP_TOKEN_FILE = "/env" }
    local FILES = { ["/env"] = "env file\n", ["/mine"] = " \tmine file\r\n\n" }

    it("takes file before string, and options before the environment (behaviour 31)", function()
      local given = { token = "mine", token_file = "/mine" }
      assert.are.equal("mine file", client(given, VARIABLES, FILES).token)
      assert.are.equal("mine", client({ token = "mine" }, VARIABLES, FILES).token)
      assert.are.equal("env file", client({}, VARIABLES, FILES).token)
      assert.are.equal("env", client({}, { CONSUL_HTTP_TOKEN = "env" }).token)
      assert.is_nil(client({}, { CONSUL_HTTP_TOKEN = "" }).token)
    end)

    it("brings its file with it, if it is from one", function()
      assert.are.equal("/mine", client({ token = "mine", token_file = "/mine" }, VARIABLES, FILES).token_file)
      assert.are.equal("/env", client({}, VARIABLES, FILES).token_file)
      assert.is_nil(client({ token = "mine" }, VARIABLES, FILES).token_file)
      assert.is_nil(client({}, { CONSUL_HTTP_TOKEN = "env" }).token_file)
    end)

    it("can be none in spite of the environment", function()
      assert.is_nil(client({ token = "" }, VARIABLES, FILES).token)
    end)

    it("is INVALID when its file cannot be read or holds none", function()
      invalid({ client({ token = "t", token_file = "/no" }) }, "token_file", '"/no"', "No such file")
      invalid({ client({}, { CONSUL_HTTP_TOKEN = "t", CONSUL_HTTP_TOKEN_FILE = "/no" }) },
        "CONSUL_HTTP_TOKEN_FILE", '"/no"')
      invalid({ client({ token_file = "/d" }, {}, { ["/d"] = "a directory" }) }, "token_file", "Is a directory")
      invalid({ client({ token_file = "/e" }, {}, { ["/e"] = "" }) }, '"/e"', "no token")
      invalid({ client({ token_file = "/e" }, {}, { ["/e"] = " \n" }) }, '"/e"', "no token")
      invalid({ client({ token_file = "/f" }, {}, { ["/f"] = ("x"):rep(8193) }) }, '"/f"', "8192 bytes")
    end)

    it("is INVALID with a control character in it, and is not shown", function()
      for _, evil in ipairs({ "secret\r\nX-Evil: 1", "secret\nx", "secret\0x", "secret\127" }) do
        local messages = {
          invalid({ client({ token = evil }) }, "token"),
          invalid({ client({}, { CONSUL_HTTP_TOKEN = evil }) }, "CONSUL_HTTP_TOKEN"),
          invalid({ client({ token_file = "/f" }, {}, { ["/f"] = evil .. "y" }) }, "token_file", '"/f"'),
        }
        for _, message in ipairs(messages) do assert.is_nil(message:find("secret", 1, true)) end
      end
    end)
  end)

  describe("auth", function()
    it("comes from the option, else from CONSUL_HTTP_AUTH (behaviour 31)", function()
      local variables = { CONSUL_HTTP_AUTH = "env:pass:word" }
      assert.are.equal("mine:x", client({ auth = "mine:x" }, variables).auth)
      assert.are.equal("env:pass:word", client({}, variables).auth)
    end)

    it("has an empty password when it is a name only", function()
      assert.are.equal("me:", client({ auth = "me" }).auth)
    end)

    it("is INVALID with a control character in it, and is not shown", function()
      assert.is_nil(invalid({ client({ auth = "me:secret\n" }) }, "auth"):find("secret", 1, true))
      invalid({ client({}, { CONSUL_HTTP_AUTH = "me:\r" }) }, "CONSUL_HTTP_AUTH")
    end)
  end)

  it("takes namespace and partition from the environment when they are not given (behaviour 31)", function()
    local variables = { CONSUL_NAMESPACE = "env-ns", CONSUL_PARTITION = "env-p" }
    local settings = client({}, variables)
    assert.are.equal("env-ns", settings.namespace)
    assert.are.equal("env-p", settings.partition)
    settings = client({ namespace = "ns", partition = "" }, variables)
    assert.are.equal("ns", settings.namespace)
    assert.is_nil(settings.partition)
  end)

  it("is INVALID with a control character in a name", function()
    for _, name in ipairs({ "datacenter", "namespace", "partition" }) do
      invalid({ client({ [name] = "a\0b" }) }, name, [["a\x00b"]])
    end
    invalid({ client({}, { CONSUL_NAMESPACE = "a\nb" }) }, "CONSUL_NAMESPACE", [["a\x0ab"]])
    invalid({ client({ session = { name = "a\rb" } }) }, "session.name")
    invalid({ client({ session = { node = "a\rb" } }) }, "session.node")
    invalid({ client({ session = { checks = { "ok", "a\rb" } } }) }, "session.checks")
  end)

  describe("tls", function()
    local FILES = { ["/ca"] = "x", ["/cas"] = "a directory", ["/cert"] = "x", ["/key"] = "x", ["/mine"] = "x" }
    local VARIABLES = {
      CONSUL_HTTP_ADDR = "https://consul:8501", CONSUL_CACERT = "/ca", CONSUL_CAPATH = "/cas",
      CONSUL_CLIENT_CERT = "/cert", CONSUL_CLIENT_KEY = "/key", CONSUL_TLS_SERVER_NAME = "env.example",
      CONSUL_HTTP_SSL_VERIFY = "false",
    }

    it("comes from the environment, field by field (behaviour 31)", function()
      local settings = client({}, VARIABLES, FILES)
      assert.are.equal("/ca", settings.ca_file)
      assert.are.equal("/cas", settings.ca_path)
      assert.are.equal("/cert", settings.cert_file)
      assert.are.equal("/key", settings.key_file)
      assert.are.equal("https://env.example:8501", settings.base)
      assert.is_false(settings.verify)
      settings = client({ tls = { ca_file = "/mine", server_name = "mine", verify = true } }, VARIABLES, FILES)
      assert.are.equal("/mine", settings.ca_file)
      assert.are.equal("/cas", settings.ca_path)
      assert.are.equal("https://mine:8501", settings.base)
      assert.is_true(settings.verify)
    end)

    it("verifies unless it is told not to in words that are understood (behaviour 31)", function()
      assert.is_true(client({}, { CONSUL_HTTP_SSL_VERIFY = "1" }).verify)
      assert.is_true(client({}, { CONSUL_HTTP_SSL_VERIFY = "" }).verify)
      assert.is_false(client({}, { CONSUL_HTTP_SSL_VERIFY = "0" }).verify)
      invalid({ client({}, { CONSUL_HTTP_SSL_VERIFY = "off" }) }, "CONSUL_HTTP_SSL_VERIFY", '"off"')
      assert.is_true(client({ tls = { verify = true } }, { CONSUL_HTTP_SSL_VERIFY = "off" }).verify)
    end)

    it("is INVALID with only one of certificate and key (behaviour 32)", function()
      invalid({ client({ tls = { cert_file = "/cert" } }) }, "tls.cert_file", '"/cert"', "tls.key_file")
      invalid({ client({ tls = { key_file = "/key" } }) }, "tls.key_file", '"/key"', "tls.cert_file")
      invalid({ client({}, { CONSUL_CLIENT_CERT = "/cert" }) }, "CONSUL_CLIENT_CERT", '"/cert"', "CONSUL_CLIENT_KEY")
      invalid({ client({}, { CONSUL_CLIENT_KEY = "/key" }) }, "CONSUL_CLIENT_KEY", '"/key"', "CONSUL_CLIENT_CERT")
    end)

    it("is INVALID when a file that https needs cannot be read", function()
      for _, name in ipairs({ "ca_file", "ca_path", "cert_file", "key_file" }) do
        local given = { address = "https://h", tls = { ca_file = "/ca", ca_path = "/cas", cert_file = "/cert",
          key_file = "/key" } }
        given.tls[name] = "/no"
        invalid({ client(given, {}, FILES) }, "tls." .. name, '"/no"', "No such file")
      end
      invalid({ client({ address = "https://h" }, { CONSUL_CACERT = "/no" }) }, "CONSUL_CACERT", '"/no"')
      assert.are.equal("/no", client({ address = "http://h" }, { CONSUL_CACERT = "/no" }).ca_file)
    end)

    it("means https for an address option without a scheme that comes with certificates or a name", function()
      local function base(address, tls, variables)
        return client({ address = address, tls = tls }, variables, FILES).base
      end
      assert.are.equal("https://h:8501", base("h:8501", { ca_file = "/ca" }))
      assert.are.equal("https://x:8501", base("h:8501", { server_name = "x" }))
      assert.are.equal("http://h:8501", base("http://h:8501", { ca_file = "/ca" }))
      assert.are.equal("http://h:8501", base("h:8501", { verify = false }))
      assert.are.equal("http://h:8501", base("h:8501", nil, { CONSUL_CACERT = "/ca" }))
      assert.are.equal("http://h:1", base(nil, { ca_file = "/ca" }, { CONSUL_HTTP_ADDR = "h:1" }))
    end)

    it("puts the server name into the URL and goes to the address all the same (behaviour 32)", function()
      local function where(address, name)
        local settings = client({ address = "https://" .. address, tls = { server_name = name } })
        return { settings.base, settings.connect_to }
      end
      assert.are.same({ "https://a.example:8501", "::10.0.0.1:8501" }, where("10.0.0.1:8501", "a.example"))
      assert.are.same({ "https://a.example:443/x", "::10.0.0.1:443" }, where("10.0.0.1/x", "a.example"))
      assert.are.same({ "https://a.example:8501", "::[::1]:8501" }, where("[::1]:8501", "a.example"))
      assert.are.same({ "https://a.example:443", "::[::1]:443" }, where("[::1]", "a.example"))
    end)

    it("does without a server name where there is no TLS", function()
      local settings = client({ address = "http://h:8500", tls = { server_name = "x" } })
      assert.are.same({ "http://h:8500" }, { settings.base, settings.connect_to })
    end)

    it("takes the port off a server name, and refuses what is no name", function()
      assert.are.equal("https://a.example:443",
        client({ address = "h", tls = { server_name = "a.example:8501" } }).base)
      assert.are.equal("https://a.example:8501",
        client({}, { CONSUL_HTTP_SSL = "1", CONSUL_HTTP_ADDR = "h:8501", CONSUL_TLS_SERVER_NAME = "a.example:1" }).base)
      assert.are.equal("https://[::1]:443", client({ address = "h", tls = { server_name = "[::1]:8501" } }).base)
      invalid({ client({ tls = { server_name = "a/b" } }) }, "tls.server_name", '"a/b"')
      invalid({ client({}, { CONSUL_TLS_SERVER_NAME = "a b" }) }, "CONSUL_TLS_SERVER_NAME", '"a b"')
    end)
  end)

  describe("durations", function()
    it("are numbers or text", function()
      local settings = client({ timeout = 0.25, session = { ttl = "1m30s", lock_delay = "0" } })
      assert.are.equal(0.25, settings.timeout)
      assert.are.equal(90, settings.session.ttl)
      assert.are.equal(0, settings.session.lock_delay)
    end)

    it("raise when they are none", function()
      raises("timeout: ", function() client({ timeout = "10 seconds" }) end)
      raises("timeout: ", function() client({ timeout = {} }) end)
      raises("session.ttl: -1 is negative", function() client({ session = { ttl = -1 } }) end)
      raises("session.lock_delay: ", function() client({ session = { lock_delay = "x" } }) end)
    end)

    it("raise for nothing where nothing makes no sense", function()
      raises("timeout must be more than 0", function() client({ timeout = 0 }) end)
      raises("session.ttl must be more than 0", function() client({ session = { ttl = "0s" } }) end)
    end)
  end)

  describe("session", function()
    local function session(given) return client({ session = given }).session end

    it("has a lock-delay of at least the TTL and of 25 s", function()
      assert.are.equal(25, session({ ttl = "20s" }).lock_delay)
      assert.are.equal(40, session({ ttl = 40 }).lock_delay)
      assert.are.equal(1, session({ ttl = 40, lock_delay = 1 }).lock_delay)
    end)

    it("takes a TTL below Consul's default minimum: the server may have another", function()
      assert.are.equal(0.5, session({ ttl = "500ms" }).ttl)
    end)

    it("raises for another behavior", function()
      raises('session.behavior must be "delete" or "release", not "keep"',
        function() session({ behavior = "keep" }) end)
    end)

    it("raises for checks that are no list of strings", function()
      raises("session.checks must be a list of strings", function() session({ checks = { 1 } }) end)
      raises("session.checks must be a list of strings", function() session({ checks = { "a", x = "b" } }) end)
      raises("session.service_checks must be a list", function() session({ service_checks = { "" } }) end)
    end)

    it("tells no checks from an empty list", function()
      assert.is_nil(session({}).checks)
      assert.are.same({}, session({ checks = {} }).checks)
    end)
  end)
end)

describe("options.lock", function()
  local function lock(given, base)
    local settings, message, code = options.lock(given, base, 2)
    return settings, message, code
  end

  it("takes a key, or a table", function()
    local plain = { key = "a/b", value = "", monitor = "session" }
    assert.are.same(plain, lock("a/b"))
    assert.are.same(plain, lock({ key = "a/b" }))
    assert.are.same({ key = "k", value = "v\0w", session = "5c7d-1", monitor = "key" },
      lock({ key = "k", value = "v\0w", session = "5c7d-1", monitor = "key" }))
  end)

  it("raises for a missing key, unknown names, wrong types and wrong words", function()
    raises("missing key", function() lock("") end)
    raises("missing key", function() lock({}) end)
    raises("missing key", function() lock({ key = "" }) end)
    raises("a lock takes a key or a table of options, not a nil", function() lock() end)
    raises("a lock takes a key or a table of options, not a number", function() lock(5) end)
    raises('unknown option "lock_dealy"', function() lock({ key = "k", lock_dealy = 1 }) end)
    raises('unknown option "session_opts.tll"', function() lock({ key = "k", session_opts = { tll = 1 } }) end)
    raises("key must be a string, not a number", function() lock({ key = 5 }) end)
    raises("value must be a string", function() lock({ key = "k", value = 5 }) end)
    raises("session_name must be a string", function() lock({ key = "k", session_name = 5 }) end)
    raises("session_opts must be a table", function() lock({ key = "k", session_opts = "10s" }) end)
    raises('monitor must be "key" or "session", not "x"', function() lock({ key = "k", monitor = "x" }) end)
    raises("session_ttl must be more than 0", function() lock({ key = "k", session_ttl = 0 }) end)
    raises("lock_delay: ", function() lock({ key = "k", lock_delay = "x" }) end)
    raises("session_opts.ttl: ", function() lock({ key = "k", session_opts = { ttl = "x" } }) end)
  end)

  it("is INVALID for keys that Consul or a URL does not take", function()
    for _, key in ipairs({ "/a", "/", "a//b", "a//", "./a", "a/./b", "a/.", "..", "../a", "a/../b", "a/..", "a\0b",
      "a\nb", "a\127", "\1" }) do
      invalid({ lock(key) }, "key ")
    end
    invalid({ lock("a\0b") }, [["a\x00b"]])
  end)

  it("is TOO_LARGE for a key of more than 65536 bytes, and tells its length instead of it", function()
    assert.are.equal(65536, #lock(("k"):rep(65536)).key)
    local settings, message, code = lock(("k"):rep(65537))
    assert.is_true(settings == nil)
    assert.are.same({ "key has 65537 bytes: a key has at most 65536", "TOO_LARGE" }, { message, code })
  end)

  it("takes keys that only look odd", function()
    for _, key in ipairs({ "a/", ".lock", "a/.lock", "...", "a/..b/c", "a b?c#d%25+", "\195\169", 'say "hi"' }) do
      assert.are.equal(key, lock(key).key)
    end
  end)

  it("has a session of its own as soon as one option asks for it", function()
    local defaults = { name = "holdfast", ttl = 10, lock_delay = 25, behavior = "release" }
    local function own(given)
      given.key = "k"
      return lock(given).session_opts
    end
    local function with(changes)
      local result = copy(defaults)
      for name, value in pairs(changes) do result[name] = value end
      return result
    end
    assert.is_nil(own({}))
    assert.are.same(defaults, own({ session_opts = {} }))
    assert.are.same(with({ ttl = 20 }), own({ session_ttl = "20s" }))
    assert.are.same(with({ ttl = 30, lock_delay = 30 }), own({ session_ttl = "30s" }))
    assert.are.same(with({ name = "n" }), own({ session_name = "n" }))
    assert.are.same(with({ lock_delay = 0 }), own({ lock_delay = "0s" }))
    assert.are.same(with({ ttl = 30, lock_delay = 5, checks = { "c" }, behavior = "delete", node = "x",
      service_checks = { "s" } }), own({ session_ttl = 30, session_opts = { lock_delay = 5, checks = { "c" },
      behavior = "delete", node = "x", service_checks = { "s" } } }))
  end)

  it("takes what it does not say of its own session from the client's", function()
    local base = client({ session = { name = "app", ttl = 2, lock_delay = 0, checks = {} } }).session
    assert.are.same({ name = "mine", ttl = 2, lock_delay = 0, checks = {}, behavior = "release" },
      lock({ key = "k", session_name = "mine" }, base).session_opts)
    assert.are.equal(3, lock({ key = "k", session_ttl = 3 }, base).session_opts.lock_delay)
    assert.are.same({ name = "app", ttl = 2, lock_delay = 0, checks = {}, behavior = "release" }, base)
  end)

  it("raises when one thing is said twice", function()
    raises("give session_ttl or session_opts.ttl, not both",
      function() lock({ key = "k", session_ttl = 1, session_opts = { ttl = 1 } }) end)
    for name, value in pairs({ session_ttl = 1, session_name = "n", lock_delay = 1, session_opts = {} }) do
      raises("session is made elsewhere", function() lock({ key = "k", session = "id", [name] = value }) end)
    end
  end)

  describe("session", function()
    it("may be an object with id()", function()
      local session = { id = function(self) return self.text end, text = "6f2a" }
      assert.are.equal("6f2a", lock({ key = "k", session = session }).session)
    end)

    it("answers what an object without an id says", function()
      local session = { id = function() return nil, "the session is destroyed", "CLOSED" end }
      assert.are.same({ nil, "the session is destroyed", "CLOSED", n = 3 },
        { n = 3, lock({ key = "k", session = session }) })
    end)

    it("raises for anything else", function()
      raises("session must be a session or its id, not a table without id()",
        function() lock({ key = "k", session = {} }) end)
      raises("session must be a session or its id, not a boolean", function() lock({ key = "k", session = false }) end)
      raises("session must be a session or its id, not a userdata without id()",
        function() lock({ key = "k", session = io.stdout }) end)
    end)

    it("is INVALID when the id cannot be one", function()
      invalid({ lock({ key = "k", session = "" }) }, "session")
      invalid({ lock({ key = "k", session = "a&b" }) }, "session", '"a&b"')
      invalid({ lock({ key = "k", session = { id = function() return "a\nb" end } }) }, "session")
    end)
  end)

  it("modifies no table", function()
    local given = { key = "k", session_ttl = 1, session_opts = { checks = { "a" } } }
    local before = copy(given)
    lock(given)
    assert.are.same(before, given)
  end)
end)

describe("options.semaphore", function()
  local function semaphore(given, base)
    local settings, message, code = options.semaphore(given, base, 2)
    return settings, message, code
  end

  local function session_of(given, base)
    given.prefix, given.limit = "a", 1
    return semaphore(given, base).session_opts
  end

  it("takes a prefix, with a slash at its end or not, and a limit", function()
    local settings = semaphore({ prefix = "a/b", limit = 2 })
    assert.are.equal("a/b/", settings.prefix)
    assert.are.equal(2, settings.limit)
    assert.are.equal("", settings.value)
    assert.are.same(settings, semaphore({ prefix = "a/b/", limit = 2 }))
    assert.are.equal("v", semaphore({ prefix = "a", limit = 1, value = "v" }).value)
    assert.are.equal("5c7d-1", semaphore({ prefix = "a", limit = 1, session = "5c7d-1" }).session)
  end)

  it("raises for what is missing, unknown, or no limit", function()
    raises("missing prefix", function() semaphore({ limit = 1 }) end)
    raises("missing prefix", function() semaphore({ prefix = "", limit = 1 }) end)
    raises("missing limit", function() semaphore({ prefix = "a" }) end)
    for _, limit in ipairs({ 0, -1, 1.5, 2 ^ 54 }) do
      raises("limit must be a whole number of at least 1", function() semaphore({ prefix = "a", limit = limit }) end)
    end
    raises("unknown option \"key\"", function() semaphore({ key = "a", limit = 1 }) end)
    raises("unknown option \"lock_delay\"", function() semaphore({ prefix = "a", limit = 1, lock_delay = 1 }) end)
    raises("unknown option \"session_opts.behavior\"", function()
      session_of({ session_opts = { behavior = "release" } })
    end)
    raises("not both", function() session_of({ session_ttl = 10, session_opts = { ttl = 20 } }) end)
    raises("session is made elsewhere", function() session_of({ session = "x", session_ttl = 10 }) end)
  end)

  it("refuses what no key may begin with", function()
    for _, prefix in ipairs({ "/", "/a", "a//", "a//b", "../a", "a/.", "a\n" }) do
      local settings, message, code = semaphore({ prefix = prefix, limit = 1 })
      assert.is_nil(settings)
      assert.are.equal("INVALID", code, message)
    end
    assert.are.equal("TOO_LARGE", select(3, semaphore({ prefix = ("a"):rep(65536), limit = 1 })))
  end)

  it("gives each hold a session that has no lock-delay, and a TTL that is as long", function()
    local plain = session_of({})
    assert.are.equal(25, plain.ttl)
    assert.are.equal(0, plain.lock_delay)
    assert.are.equal("delete", plain.behavior)
    assert.are.equal("holdfast", plain.name)
    assert.are.equal(40, session_of({}, { ttl = 40, lock_delay = 30 }).ttl)
    assert.are.equal(60, session_of({}, { ttl = 40, lock_delay = 90 }).ttl)
    local own = session_of({ session_ttl = "12s", session_name = "n", session_opts = { checks = { "c" } } })
    assert.are.equal(12, own.ttl)
    assert.are.equal("n", own.name)
    assert.are.same({ "c" }, own.checks)
    assert.are.equal(0, own.lock_delay)
  end)
end)

describe("options.request", function()
  local function request(given)
    local settings, message, code = options.request(given, 2)
    return settings, message, code
  end

  it("has defaults", function()
    assert.are.same({ method = "GET", url = "http://h", headers = {}, max_body = 1048576 },
      request({ url = "http://h" }))
    assert.are.equal("POST", request({ url = "http://h", body = "" }).method)
  end)

  it("takes everything, and modifies no table", function()
    local given = { method = "put", url = "HTTPS://h/p?q=1", headers = { ["X-B"] = " two ", ["x-a"] = 1, e = "" },
      body = "b\0c", timeout = "1500ms", max_body = 10 }
    local before = copy(given)
    assert.are.same({ method = "PUT", url = "HTTPS://h/p?q=1", headers = { "X-B: two", "e;", "x-a: 1" }, body = "b\0c",
      timeout = 1.5, max_body = 10 }, request(given))
    assert.are.same(before, given)
  end)

  it("writes whole numbers in headers without exponent or fraction", function()
    local headers = request({ url = "http://h", headers = { a = 1e15, b = 2 ^ 31, c = 0.5 } }).headers
    assert.are.same({ "a: 1000000000000000", "b: 2147483648", "c: 0.5" }, headers)
  end)

  it("raises for unknown names, wrong types and a missing url", function()
    raises("a request is a table, not a string", function() request("http://h") end)
    raises("missing url", function() request({}) end)
    raises('unknown option "uri"', function() request({ uri = "http://h" }) end)
    raises("url must be a string", function() request({ url = 1 }) end)
    raises("body must be a string", function() request({ url = "http://h", body = {} }) end)
    raises("headers must be a table", function() request({ url = "http://h", headers = "a: b" }) end)
    raises("headers is a table from name to value", function() request({ url = "http://h", headers = { "a: b" } }) end)
    raises('header "a" must be a string, not a boolean',
      function() request({ url = "http://h", headers = { a = true } }) end)
    raises("timeout must be more than 0", function() request({ url = "http://h", timeout = 0 }) end)
    raises("timeout: ", function() request({ url = "http://h", timeout = "soon" }) end)
    for _, wrong in ipairs({ -1, 1.5, 0 / 0, 1 / 0 }) do
      raises("max_body must be a whole number of bytes", function() request({ url = "http://h", max_body = wrong }) end)
    end
    raises("max_body must be a whole number of bytes, not a string",
      function() request({ url = "http://h", max_body = "1k" }) end)
  end)

  it("is INVALID for other URLs", function()
    for _, url in ipairs({ "", "h", "ftp://h", "file:///etc/passwd", "http://", "http:///x", "http://a b",
      "http://h\r\n", "http://h/\0" }) do
      invalid({ request({ url = url }) }, "url ")
    end
    for _, url in ipairs({ "ftp://me:secret@h", "http://me:secret@h", "https://secret@h/" }) do
      assert.is_nil(invalid({ request({ url = url }) }, "url"):find("secret", 1, true))
    end
  end)

  it("is INVALID for headers that would be more than one, and for methods that are none", function()
    for _, value in ipairs({ "a\r\nX-Evil: 1", "a\nb", "a\0b", "a\127" }) do
      invalid({ request({ url = "http://h", headers = { h = value } }) }, 'header "h"')
    end
    for _, name in ipairs({ "", "a b", "a:", "a\n", "a;" }) do
      invalid({ request({ url = "http://h", headers = { [name] = "x" } }) }, "is not a header name")
    end
    assert.are.same({ "h: a\tb" }, request({ url = "http://h", headers = { h = "a\tb" } }).headers)
    invalid({ request({ url = "http://h", method = "GET /" }) }, "method", '"GET /"')
    invalid({ request({ url = "http://h", method = "" }) }, "method")
    invalid({ request({ url = "http://h", method = "connect" }) }, "method", "tunnel")
  end)
end)

describe("options.timeout", function()
  it("answers seconds, or nil for no limit", function()
    assert.is_nil(options.timeout(nil, 1))
    assert.are.equal(0, options.timeout(0, 1))
    assert.are.equal(1.5, options.timeout("1500ms", 1))
  end)

  it("raises for what is no duration", function()
    raises("timeout: -1 is negative", function() options.timeout(-1, 1) end)
    raises("timeout: ", function() options.timeout("soon", 1) end)
  end)
end)
