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
    ["holdfast.object"] = "lua/holdfast/object.lua",
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
        "csrc/base/alloc.c",
        "csrc/base/buf.c",
        "csrc/base/clock.c",
        "csrc/base/config.c",
        "csrc/base/err.c",
        "csrc/base/hash.c",
        "csrc/base/heap.c",
        "csrc/base/json.c",
        "csrc/base/poll.c",
        "csrc/base/random.c",
        "csrc/base/sign.c",
        "csrc/bind/client.c",
        "csrc/bind/lock.c",
        "csrc/bind/module.c",
        "csrc/bind/op.c",
        "csrc/bind/set.c",
        "csrc/bind/util.c",
        "csrc/consul/call.c",
        "csrc/consul/kv.c",
        "csrc/consul/session.c",
        "csrc/consul/txn.c",
        "csrc/lock/acquire.c", "csrc/lock/batch.c",
        "csrc/lock/client.c",
        "csrc/lock/destroy.c",
        "csrc/lock/giveback.c",
        "csrc/lock/keeper.c", "csrc/lock/key.c",
        "csrc/lock/lock.c",
        "csrc/lock/monitor.c",
        "csrc/lock/session.c",
        "csrc/lock/stray.c",
        "csrc/lock/watch.c",
        "csrc/net/drive.c",
        "csrc/net/engine.c",
        "csrc/net/guard.c",
        "csrc/net/http.c",
        "csrc/net/op.c",
        "csrc/net/process.c",
        "csrc/net/request.c",
        "csrc/net/set.c",
        "csrc/net/sockets.c",
        "csrc/net/transfer.c",
        "csrc/net/turn.c",
      },
      defines = { "_GNU_SOURCE" },
      incdirs = { "csrc", "$(CURL_INCDIR)", "$(CJSON_INCDIR)", "$(CRYPTO_INCDIR)" },
      libdirs = { "$(CURL_LIBDIR)", "$(CJSON_LIBDIR)", "$(CRYPTO_LIBDIR)" },
      libraries = { "curl", "cjson", "crypto", "pthread" },
    },
  },
}
test = { type = "command", command = "make test" }
