# holdfast. `make help` lists the targets; what they check is written in .ci/* and spec/run.
#
#   build/core/         the C core, compiled without Lua's headers in reach
#   build/5.4, 5.1/     the bindings and holdfast/core.so for one Lua ABI (5.1 is LuaJIT's too)
#   build/core-test/    the core with failing allocations (-DHF_TEST_ALLOC), for
#   build/c/            the C tests
#   build/bench/        what benchmarks compare with
#   build/asan, tsan/   the same tree once more with a sanitizer
#   build/consul/       a Consul binary, if this system has none
#   build/consul-newer/ a newer one, built by Go when it is asked for

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.SECONDARY:

CFLAGS  ?= -O2 -g
WERROR  ?= -Werror
PREFIX  ?= /usr/local
ABIS    ?= 5.4 5.1

# SAN=address,undefined or SAN=thread builds into a tree of its own.
SAN     ?=
O       ?= build$(if $(SAN),/$(if $(findstring thread,$(SAN)),tsan,asan))

WARN := -Wall -Wextra $(WERROR) -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wwrite-strings -Wvla
ALL_CFLAGS := -std=gnu11 $(WARN) -fvisibility=hidden -fPIC -pthread -D_GNU_SOURCE $(CFLAGS) \
	$(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
LIBS := -lcurl -lcjson -lcrypto -lpthread
COMPILE = $(CC) $(ALL_CFLAGS) -Icsrc $(CPPFLAGS) -MMD -MP
LINK = $(CC) $(ALL_CFLAGS) $(LDFLAGS)
# One short line per command; V=1 shows the whole.
say = $(if $(V),,@echo '  $(1) $@'; )
# Asked for when a binding is compiled, not before: `make test` may only just have installed it.
lua_include = $(or $(shell pkg-config --cflags lua$(1) 2>/dev/null),-I/usr/include/lua$(1))

CORE_SRC := $(foreach room,base net consul lock,$(wildcard csrc/$(room)/*.c))
BIND_SRC := $(wildcard csrc/bind/*.c)
TEST_SRC := $(wildcard spec/c/test_*.c)
LUA_SRC  := $(shell find lua -name '*.lua' 2>/dev/null)

CORE      := $(CORE_SRC:csrc/%.c=$(O)/core/%.o)
CORE_TEST := $(CORE_SRC:csrc/%.c=$(O)/core-test/%.o)
C_TESTS   := $(TEST_SRC:spec/c/%.c=$(O)/c/%)
MODULES   := $(ABIS:%=$(O)/%/holdfast/core.so)

# ---- for people ------------------------------------------------------------------------------

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

all: $(MODULES) $(if $(SAN),$(O)/unpreload.so) ## builds the module for Lua 5.4 and for Lua 5.1 and LuaJIT
	@:

demo: ## emitters, receivers and a crash against a real Consul; needs nothing installed
	@.ci/deps demo
	@$(MAKE) ABIS=5.4 all
	@$(call with_consul,env LUA_PATH="./lua/?.lua;./lua/?/init.lua;;" LUA_CPATH="./build/5.4/?.so;;" \
		lua5.4 examples/demo.lua)

article: ## the locks of "Distributed Locks with Consul and Golang", step by step, against a real Consul
	@.ci/deps demo
	@$(MAKE) ABIS=5.4 all
	@$(call with_consul,env $(LUA_ENV) lua5.4 examples/article.lua)

test: deps ## every test; one part with SUITE=04-consul and/or LUA=luajit (SUITE=c: the C tests)
	@$(MAKE) all ctests
	@$(call run_specs,plain)

asan: deps ## core tests and Consul specs under AddressSanitizer and UBSan
	@$(MAKE) SAN=address,undefined ABIS=5.4 all ctests
	@$(call run_specs,asan)

tsan: deps ## the same under ThreadSanitizer
	@$(MAKE) SAN=thread ABIS=5.4 all ctests
	@$(call run_specs,tsan)

valgrind: deps ## the same under valgrind memcheck
	@$(MAKE) ABIS=5.4 all ctests
	@$(call run_specs,valgrind)

lint: deps ## luacheck, clang-format, function length, warnings of gcc and clang, rockspec
	@$(MAKE) O=build/lint/gcc CC=gcc all ctests build/lint/gcc/bench/raw
	@$(MAKE) O=build/lint/clang CC=clang all ctests build/lint/clang/bench/raw
	@.ci/lint

layers: deps ## who may include, require and call what
	@$(MAKE) ABIS=5.4 all
	@.ci/layers

doccov: deps ## whether README, docs, LDoc and manual tell of every method, option, code and command
	@$(MAKE) ABIS=5.4 all
	@.ci/doccov

manual: deps ## writes docs/holdfast.1 and the completions anew, from the parser of the command line
	@.ci/manual

model: deps ## proves the lock protocol with spin, and that the proof can fail
	@bash model/run

bench: deps ## holdfast beside Go's client and raw libcurl; QUICK=1: a smoke test; SVG=FILE: a picture
	@$(MAKE) all $(O)/bench/raw
	@$(call with_consul,env $(LUA_ENV) QUICK="$(QUICK)" SVG="$(SVG)" ONLY="$(ONLY)" bench/run)

install: $(O)/$(firstword $(ABIS))/holdfast/core.so ## into PREFIX for Lua 5.4 (for 5.1: ABIS=5.1)
	install -D -m 755 $< $(DESTDIR)$(PREFIX)/lib/lua/$(firstword $(ABIS))/holdfast/core.so
	@for file in $(LUA_SRC:lua/%=%); do \
		install -v -D -m 644 lua/$$file \
			$(DESTDIR)$(PREFIX)/share/lua/$(firstword $(ABIS))/$$file || exit 1; \
	done
	install -D -m 755 bin/holdfast $(DESTDIR)$(PREFIX)/bin/holdfast
	install -D -m 644 docs/holdfast.1 $(DESTDIR)$(PREFIX)/share/man/man1/holdfast.1
	install -D -m 644 contrib/completion/holdfast.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/holdfast
	install -D -m 644 contrib/completion/_holdfast $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_holdfast
	sed -i '1s/lua5\.4/lua$(firstword $(ABIS))/' $(DESTDIR)$(PREFIX)/bin/holdfast

clean: ## removes what was built (a Consul stays)
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name 'consul*' -exec rm -rf {} +

consul: ## prints the path of a Consul binary, fetches one if need be
	@.ci/consul

consul-newer: ## builds Consul 1.14 with Go, for CONSUL=build/consul-newer/consul make test (10 minutes)
	@.ci/consul-newer/build

deps: ## installs missing Debian packages, or says which
	@.ci/deps test

.PHONY: help all demo article test asan tsan valgrind lint layers doccov manual model bench install clean consul consul-newer deps ctests FORCE

LUA_ENV = LUA_PATH="./lua/?.lua;./lua/?/init.lua;;" LUA_CPATH="./build/5.4/?.so;;"
with_consul = consul=$$(.ci/consul) && CONSUL=$$consul spec/support/with_consul $(1)
run_specs = consul=$$(.ci/consul) && CONSUL=$$consul SUITE="$(SUITE)" LUA="$(LUA)" spec/run $(1)

# ---- for the compiler ------------------------------------------------------------------------

ctests: $(C_TESTS)
	@:

$(O)/core/%.o: csrc/%.c $(O)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(COMPILE) -c -o $@ $<

$(O)/core-test/%.o: csrc/%.c $(O)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(COMPILE) -DHF_TEST_ALLOC -c -o $@ $<

$(O)/c/%: spec/c/%.c $(CORE_TEST) $(O)/flags
	@mkdir -p $(@D)
	$(call say,LD)$(COMPILE) -MT $@ -MF $@.d -DHF_TEST_ALLOC -o $@ $< $(CORE_TEST) \
		$(LDFLAGS) $(LIBS)

$(O)/bench/raw: $(wildcard bench/raw/*.[ch]) $(O)/flags
	@mkdir -p $(@D)
	$(call say,LD)$(LINK) -o $@ $(filter %.c,$^) -lcurl

$(O)/unpreload.so: .ci/unpreload.c
	$(call say,LD)$(CC) -shared -fPIC -o $@ $<

# The rules of one Lua ABI.
define module
$(O)/$(1)/%.o: csrc/%.c $(O)/flags
	@mkdir -p $$(@D)
	$$(call say,CC)$$(COMPILE) $$(call lua_include,$(1)) -c -o $$@ $$<

$(O)/$(1)/holdfast/core.so: $(BIND_SRC:csrc/%.c=$(O)/$(1)/%.o) $(CORE)
	@mkdir -p $$(@D)
	$$(call say,LD)$$(LINK) -shared -Wl,-z,nodelete -o $$@ $$^ $$(LIBS)
endef
$(foreach abi,$(ABIS),$(eval $(call module,$(abi))))

# Changes only when compiler or flags do, so that everything is compiled anew then.
$(O)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(COMPILE) $(LINK)' | cmp -s - $@ || echo '$(COMPILE) $(LINK)' >$@

-include $(wildcard $(O)/*/*.d $(O)/*/*/*.d)
