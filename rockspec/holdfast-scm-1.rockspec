rockspec_format = "3.0"
package = "holdfast"
version = "scm-1"
source = { url = "git+file://." }
description = {
  summary = "Distributed locks on Consul, and a webhook emitter that holds one while it pushes",
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.1, < 5.5" }
-- Libraries only: LuaRocks 3.8 does not find headers in Debian's multiarch directories.
external_dependencies = {
  CURL = { library = "curl" },
  CJSON = { library = "cjson" },
  CRYPTO = { library = "crypto" },
}
build = {
  type = "builtin",
  modules = {
    ["holdfast"] = "lua/holdfast/init.lua",
    ["holdfast.check"] = "lua/holdfast/check.lua",
    ["holdfast.duration"] = "lua/holdfast/duration.lua",
    ["holdfast.emitter"] = "lua/holdfast/emitter.lua",
    ["holdfast.emitter.hold"] = "lua/holdfast/emitter/hold.lua",
    ["holdfast.emitter.options"] = "lua/holdfast/emitter/options.lua",
    ["holdfast.headers"] = "lua/holdfast/headers.lua",
    ["holdfast.loop"] = "lua/holdfast/loop.lua",
    ["holdfast.options"] = "lua/holdfast/options.lua",
    ["holdfast.queue"] = "lua/holdfast/queue/init.lua",
    ["holdfast.queue.memory"] = "lua/holdfast/queue/memory.lua",
    ["holdfast.queue.sqlite"] = "lua/holdfast/queue/sqlite.lua",
    ["holdfast.sched"] = "lua/holdfast/sched/init.lua",
    ["holdfast.sched.loop"] = "lua/holdfast/sched/loop.lua",
    ["holdfast.sched.plain"] = "lua/holdfast/sched/plain.lua",
    ["holdfast.webhook"] = "lua/holdfast/webhook.lua",
    ["holdfast.core"] = {
      sources = {
        "csrc/acquire.c",
        "csrc/alloc.c",
        "csrc/bind_client.c",
        "csrc/bind_lock.c",
        "csrc/bind_module.c",
        "csrc/bind_op.c",
        "csrc/buf.c",
        "csrc/client.c",
        "csrc/clock.c",
        "csrc/config.c",
        "csrc/consul.c",
        "csrc/destroy.c",
        "csrc/err.c",
        "csrc/http.c",
        "csrc/json.c",
        "csrc/keys.c",
        "csrc/lock.c",
        "csrc/monitor.c",
        "csrc/op.c",
        "csrc/poll.c",
        "csrc/process.c",
        "csrc/release.c",
        "csrc/request.c",
        "csrc/session.c",
        "csrc/sign.c",
        "csrc/worker.c",
      },
      defines = { "_GNU_SOURCE" },
      incdirs = { "csrc", "$(CURL_INCDIR)", "$(CJSON_INCDIR)", "$(CRYPTO_INCDIR)" },
      libdirs = { "$(CURL_LIBDIR)", "$(CJSON_LIBDIR)", "$(CRYPTO_LIBDIR)" },
      libraries = { "curl", "cjson", "crypto", "pthread" },
    },
  },
}
test = { type = "command", command = "make test" }
