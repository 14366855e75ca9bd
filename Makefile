# chatwebhook/Makefile

EXTENSION = chatwebhook
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

MODULE_big = chatwebhook
OBJS = \
	src/access.o \
	src/announce.o \
	src/arrive.o \
	src/attempt.o \
	src/bounds.o \
	src/changes.o \
	src/chatwebhook.o \
	src/claim.o \
	src/computed.o \
	src/connector.o \
	src/curl_handle.o \
	src/deadline.o \
	src/debounce.o \
	src/decision.o \
	src/delivery.o \
	src/dequeue.o \
	src/emit.o \
	src/emit_failure.o \
	src/emit_options.o \
	src/emit_report.o \
	src/endpoint.o \
	src/envelope.o \
	src/exchange.o \
	src/failure.o \
	src/filter.o \
	src/gate.o \
	src/handover.o \
	src/health.o \
	src/identity.o \
	src/initial_copy.o \
	src/json.o \
	src/jsonb_value.o \
	src/launcher.o \
	src/ledger.o \
	src/mapping.o \
	src/memory.o \
	src/progress.o \
	src/query.o \
	src/queue.o \
	src/render.o \
	src/request.o \
	src/retention.o \
	src/retry.o \
	src/rows.o \
	src/rules.o \
	src/secrets.o \
	src/settings.o \
	src/settle.o \
	src/shared.o \
	src/sign.o \
	src/signature.o \
	src/sockets.o \
	src/state.o \
	src/statement.o \
	src/subscription.o \
	src/target.o \
	src/traceparent.o \
	src/transport.o \
	src/trial.o \
	src/upkeep.o \
	src/validator.o \
	src/value.o \
	src/vault.o \
	src/wait.o \
	src/watched.o \
	src/webhook.o \
	src/worker.o \
	src/write.o

# The parts of the extension's script, a file for each noun, in reading order.
SQL_PARTS = \
	sql/schema.sql \
	sql/event.sql \
	sql/openapi.sql \
	sql/watch.sql \
	sql/connector.sql \
	sql/webhook.sql \
	sql/vault.sql \
	sql/queue.sql \
	sql/delivery.sql \
	sql/identity.sql \
	sql/health.sql \
	sql/alert.sql \
	sql/watched.sql \
	sql/outbox.sql \
	sql/access.sql \
	sql/signature.sql \
	sql/metrics.sql \
	sql/dashboard.sql \
	$(sort $(wildcard sql/connectors/*.sql)) \
	sql/privileges.sql

DATA_built = $(EXTENSION)--$(EXTVERSION).sql
DOCS = README.md

# no name may match a file in sql/, because pg_regress would run that instead
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
BY_SCRIPT = demo test test-matrix test-ha chaos memcheck bench lint coverage \
	deb test-deb rpm test-rpm extension-image test-extension-image test-image dist

ifneq ($(filter-out $(BY_SCRIPT),$(or $(MAKECMDGOALS),all)),)
PKG_CONFIG ?= pkg-config
PG_CPPFLAGS = -I$(srcdir)/src $(shell $(PKG_CONFIG) --cflags libcurl libssl libcrypto)
SHLIB_LINK = $(shell $(PKG_CONFIG) --libs libcurl libssl libcrypto)
PG_CFLAGS = -Wextra -Wshadow -Wvla -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard $(srcdir)/src/*.h)
endif

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS)
	cat $^ > $@

# Tests of the files that do not need PostgreSQL: plain C programs that print TAP.
UNIT_CFLAGS = -std=gnu99 -O2 -g -Wall -Wextra -Wno-missing-field-initializers \
	-Wshadow -Wvla $(PG_CPPFLAGS) $(COPT)
UNIT_LIBS = $(shell $(PKG_CONFIG) --libs libcurl libssl libcrypto)
test/unit/%: test/unit/%.c test/unit/tap.h $(wildcard src/*.[ch])
	$(CC) $(UNIT_CFLAGS) $< -o $@ $(UNIT_LIBS) -lm

# "make unit" runs each fuzz target for a few seconds on its corpus and mutations;
# "make fuzz" looks for new paths with clang's libFuzzer.
FUZZ_TARGETS = decision json sign target
FUZZ_SECONDS = 5
SANITIZE = -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined
REPLAYS = $(FUZZ_TARGETS:%=test/fuzz/replay_%)
test/fuzz/replay_%: test/fuzz/fuzz_%.c test/fuzz/replay.c $(wildcard src/*.[ch])
	$(CC) -std=gnu99 $(SANITIZE) $(PG_CPPFLAGS) $< test/fuzz/replay.c -o $@ $(UNIT_LIBS)

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
		clang -g -O1 -fsanitize=fuzzer,address,undefined $(PG_CPPFLAGS) \
			test/fuzz/fuzz_$$target.c -o found/fuzz_$$target $(UNIT_LIBS); \
		found/fuzz_$$target -max_total_time=$${SECONDS_EACH:-180} found/$$target test/fuzz/corpus/$$target; \
	done

demo:
	scripts/demo

test:
	scripts/test

# with several versions of PostgreSQL, each in its own Debian system
test-matrix:
	scripts/test-matrix $(VERSIONS)

# failovers of a Patroni cluster, behind PgBouncer
test-ha:
	scripts/test-ha

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

# the archive for PGXN
dist:
	scripts/dist

deb:
	scripts/deb

# in a clean Debian with each version of PostgreSQL
test-deb:
	scripts/test-deb $(VERSIONS)

rpm:
	scripts/rpm

test-rpm:
	scripts/test-rpm

# the files of an extension image, as CloudNativePG mounts it beside PostgreSQL 18
extension-image:
	scripts/extension-image

test-extension-image:
	scripts/test-extension-image

# the container image, on Debian's packages in place of the official image
test-image:
	scripts/test-image $(VERSIONS)
