--- Keeps LuaJIT from compiling what goes through tables with pairs. Private.
--
-- LuaJIT 2.1 compiles such loops since 2021, and not always right: the one that Debian 12 ships answers a key now and
-- then that is not in the table, but another constant of the program. (Ten runs of a spec with many coroutines in 2,000
-- calls were enough to see "unknown option" of an option that nobody had given.) Later ones have dropped elements. What
-- reads options and headers waits for the network anyway.
-- @module holdfast.interpreted

local jit = rawget(_G, "jit")

--- Has a function interpreted, with all that is defined in it; on other Luas nothing happens.
-- @tparam[opt] function fn the calling function, as a rule the module itself
return function(fn)
  if jit then jit.off(fn or debug.getinfo(2, "f").func, true) end
end
