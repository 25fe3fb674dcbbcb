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
    ["holdfast.core"] = {
      sources = {
        "csrc/alloc.c",
        "csrc/bind_module.c",
        "csrc/clock.c",
        "csrc/err.c",
        "csrc/poll.c",
        "csrc/sign.c",
      },
      defines = { "_GNU_SOURCE" },
      incdirs = { "csrc", "$(CURL_INCDIR)", "$(CJSON_INCDIR)", "$(CRYPTO_INCDIR)" },
      libdirs = { "$(CURL_LIBDIR)", "$(CJSON_LIBDIR)", "$(CRYPTO_LIBDIR)" },
      libraries = { "curl", "cjson", "crypto", "pthread" },
    },
  },
}
test = { type = "command", command = "make test" }
