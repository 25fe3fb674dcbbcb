-- What 5.1, LuaJIT and 5.4 have in common, and the names that code tests for before it uses them.
std = "min"
max_line_length = 120
read_globals = { "unpack", "loadstring", "setfenv", "jit", table = { fields = { "unpack", "pack" } },
  math = { fields = { "type" } } }

files["spec"] = { std = "min+busted" }
files["examples"] = { std = "max" }
files["bench"] = { std = "max" }
