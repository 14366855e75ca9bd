# chatwebhook/Makefile

EXTENSION = chatwebhook
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)
DISTVERSION = $(shell sed -n 's/^   "version": "\(.*\)",/\1/p' META.json)

MODULE_big = chatwebhook
OBJS = \
	src/attempt.o \
	src/chatwebhook.o \
	src/claim.o \
	src/connector.o \
	src/emit.o \
	src/endpoint.o \
	src/envelope.o \
	src/failure.o \
	src/functions.o \
	src/gate.o \
	src/json.o \
	src/launcher.o \
	src/outbox.o \
	src/render.o \
	src/request.o \
	src/retention.o \
	src/retry.o \
	src/rows.o \
	src/secrets.o \
	src/settle.o \
	src/shared.o \
	src/sign.o \
	src/subscription.o \
	src/target.o \
	src/transport.o \
	src/upkeep.o \
	src/vault.o \
	src/worker.o

# the extension's script, in reading order
SQL_PARTS = \
	sql/types.sql \
	sql/connectors.sql \
	sql/tables.sql \
	sql/tenants.sql \
	sql/emit.sql \
	sql/alerts.sql \
	sql/delivery.sql \
	sql/manage.sql \
	sql/health.sql \
	sql/metrics.sql \
	sql/dashboard.sql \
	$(sort $(wildcard sql/connectors/*.sql)) \
	sql/privileges.sql

DATA_built = $(EXTENSION)--$(EXTVERSION).sql
# former versions as they were, and the ways from one to the next
DATA = $(sort $(wildcard sql/upgrade/*.sql))
DOCS = README.md

# not named like a file of sql/, which pg_regress would take instead
REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --encoding=UTF8
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --encoding=UTF8
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

UNIT_TESTS = $(patsubst %.c,%,$(sort $(wildcard test/unit/test_*.c)))
EXTRA_CLEAN =  $(DATA_built) $(UNIT_TESTS) test/unit/json_driver $(FUZZ_TARGETS:%=test/fuzz/replay_%)

# What a script does, which also installs what it needs: neither PostgreSQL nor
# libcurl has to be there when make reads this file for these.
BY_SCRIPT = demo test test-matrix chaos memcheck bench lint coverage deb test-deb dist

ifneq ($(filter-out $(BY_SCRIPT),$(or $(MAKECMDGOALS),all)),)
PKG_CONFIG ?= pkg-config
PG_CPPFLAGS = -I$(srcdir)/src $(shell $(PKG_CONFIG) --cflags libcurl libcrypto)
SHLIB_LINK = $(shell $(PKG_CONFIG) --libs libcurl libcrypto)
PG_CFLAGS = -Wextra -Wshadow -Wvla -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): src/chatwebhook.h src/compat.h src/worker.h
endif

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS)
	cat $^ > $@

# Tests of the pure parts, as plain C programs that speak TAP.
UNIT_CFLAGS = -std=gnu99 -O2 -g -Wall -Wextra -Wshadow -Wvla -I$(srcdir)/src $(COPT)
test/unit/%: test/unit/%.c test/unit/tap.h src/chatwebhook.h $(wildcard src/*.c)
	$(CC) $(UNIT_CFLAGS) $< -o $@ $(shell $(PKG_CONFIG) --libs libcrypto) -lm

# The fuzz targets, held to their properties for a few seconds each; "make fuzz"
# looks for new paths with clang's libFuzzer.
FUZZ_TARGETS = json sign target
FUZZ_SECONDS = 5
FUZZ_LIBS = $(shell $(PKG_CONFIG) --libs libcurl libcrypto)
SANITIZE = -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined
REPLAYS = $(FUZZ_TARGETS:%=test/fuzz/replay_%)
test/fuzz/replay_%: test/fuzz/fuzz_%.c test/fuzz/replay.c src/chatwebhook.h $(wildcard src/*.c)
	$(CC) -std=gnu99 $(SANITIZE) -I$(srcdir)/src $< test/fuzz/replay.c -o $@ $(FUZZ_LIBS)

.PHONY: unit fuzz $(BY_SCRIPT)
unit: $(UNIT_TESTS) test/unit/json_driver $(REPLAYS)
	prove --exec '' $(UNIT_TESTS)
	prove --exec node test/unit/json_numbers.js
	set -e; for target in $(FUZZ_TARGETS); do \
		prove --exec '' test/fuzz/replay_$$target :: \
			$(FUZZ_SECONDS) $${FUZZ_SEED:-$$(date +%s)} test/fuzz/corpus/$$target; \
	done

fuzz:
	set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p found/$$target; \
		clang -g -O1 -fsanitize=fuzzer,address,undefined -I$(srcdir)/src \
			test/fuzz/fuzz_$$target.c -o found/fuzz_$$target $(FUZZ_LIBS); \
		found/fuzz_$$target -max_total_time=$${SECONDS_EACH:-180} found/$$target test/fuzz/corpus/$$target; \
	done

demo:
	scripts/demo

test:
	scripts/test

# by several versions of PostgreSQL, each in a Debian of its own
test-matrix:
	scripts/test-matrix $(VERSIONS)

chaos:
	scripts/chaos

memcheck:
	scripts/memcheck

bench:
	scripts/bench $(PARTS)

lint:
	scripts/lint

coverage:
	scripts/coverage

# what PGXN takes
dist:
	mkdir -p dist
	git archive --format=zip --prefix=$(EXTENSION)-$(DISTVERSION)/ \
		-o dist/$(EXTENSION)-$(DISTVERSION).zip HEAD

deb:
	scripts/deb

test-deb:
	scripts/test-deb
