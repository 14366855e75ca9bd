/*
 * gate.c
 *		Whether a request to a webhook may start now: rate limits, pauses that
 *		receivers ask for, and the circuit breaker.
 *
 * A webhook that has a rate limit or is in trouble has a gate in shared memory,
 * so that all workers obey it together.  Most webhooks have none, and cost only
 * a look at the number of gates.
 *
 * A rate limit is a token bucket, kept as the time at which the bucket would be
 * full again (the generic cell rate algorithm of ITU-T I.371): a request moves
 * that time on by its share of a second, and may start if it is no further away
 * than the bucket is deep.
 *
 * The breaker opens after chatwebhook.breaker_threshold failures in a row.
 * While it is open, one request at a time is let through, a probe, after waits
 * that grow like those between retries; the first probe that succeeds closes
 * it.  Before it opens, from the third failure in a row on, requests start at
 * growing intervals: if many webhooks with a backlog begin to fail together,
 * they must not keep the workers busy.
 *
 * While two of a webhook's secrets overlap, its gate also has which of them the
 * receiver takes, so that only one worker has to find that out.
 *
 * A webhook is stuck if its connector could not be stopped and a worker had to
 * exit in it.  That worker's successor learns of it here, and disables it.
 *
 * One lock protects everything here.  It is held no longer than a lookup in the
 * hash table takes, except for the rare passes over the whole table.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "compat.h"
#include "gate.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(chatwebhook_end_pause);
PG_FUNCTION_INFO_V1(chatwebhook_gates);

/* If more webhooks need a gate, the others are sent to without limits. */
#define MAX_GATES	32768

/* If more webhooks are stuck at a time, the others are only paused. */
#define MAX_STUCK	16

/*
 * The intervals at which requests start before the breaker opens: none after so
 * many failures in a row, then the first, doubled with each further failure.
 */
#define FREE_FAILURES		2
#define FIRST_INTERVAL_MS	25
#define MAX_INTERVAL_MS		1000

/* A bucket holds the tokens of one second divided by this. */
#define BUCKET_SHARE	20

typedef struct GateKey
{
	pg_uuid_t	webhook_id;
	Oid			database;
} GateKey;

/* All of it is protected by gates_lock. */
typedef struct Gate
{
	GateKey		key;
	TimestampTz full_at;		/* when the bucket is full again; 0: there has
								 * been no rate limit */
	TimestampTz paused_until;	/* the receiver wants no request before this */
	int			failures;		/* in a row */
	int64		wait_ms;		/* between the last two probes */
	TimestampTz probe_at;		/* no request starts before this; if the
								 * breaker is open, the next probe may */
	CwhTaken	taken;			/* the secret that the receiver accepts, */
	TimestampTz taken_until;	/* in the overlap that ends then; 0: none */
} Gate;

typedef struct Gates
{
	pg_atomic_uint32 n;			/* number of gates; changed under gates_lock,
								 * read without */

	/* protected by gates_lock */
	int64		clock;			/* how far the wall clock was ahead of the
								 * monotonic one when the gates' times were
								 * set; 0: not known */
	int			nstuck;
	GateKey		stuck[MAX_STUCK];	/* webhooks to be disabled */
} Gates;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* shared memory; all null unless the library was preloaded */
static Gates *gates = NULL;
static HTAB *table = NULL;
static LWLock *gates_lock = NULL;

/* shmem_request_hook: ask for shared memory and the lock. */
static void
request_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(add_size(sizeof(Gates),
									hash_estimate_size(MAX_GATES, sizeof(Gate))));
	RequestNamedLWLockTranche("chatwebhook_gates", 1);
}

/* shmem_startup_hook: create the shared memory. */
static void
create_memory(void)
{
	HASHCTL		info;
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	gates = ShmemInitStruct("chatwebhook gates", sizeof(Gates), &found);
	if (!found)
	{
		pg_atomic_init_u32(&gates->n, 0);
		gates->clock = 0;
		gates->nstuck = 0;
	}
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(GateKey);
	info.entrysize = sizeof(Gate);
	table = cwh_shmem_init_hash("chatwebhook gate table", MAX_GATES, &info,
								HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	gates_lock = &GetNamedLWLockTranche("chatwebhook_gates")->lock;
	LWLockRelease(AddinShmemInitLock);
}

/* Install the hooks of this file; called when the library is loaded. */
void
cwh_gate_install(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = create_memory;
}

/* The key of a webhook's gate. */
static GateKey
key_of(const pg_uuid_t *webhook_id)
{
	GateKey		key;

	memset(&key, 0, sizeof(key));
	key.webhook_id = *webhook_id;
	key.database = MyDatabaseId;
	return key;
}

/* Set everything in a gate but its key to 0. */
static void
clear_gate(Gate *gate)
{
	memset((char *) gate + sizeof(GateKey), 0, sizeof(Gate) - sizeof(GateKey));
}

/* Has a gate stopped holding anything back? */
static bool
is_open(const Gate *gate, TimestampTz now)
{
	return gate->failures == 0 && gate->full_at <= now &&
		gate->paused_until <= now;
}

/* Remove a gate. */
static void
remove_gate(Gate *gate)
{
	hash_search(table, &gate->key, HASH_REMOVE, NULL);
	pg_atomic_fetch_sub_u32(&gates->n, 1);
}

/*
 * Remove all gates that no longer hold anything back.  It can be found out
 * again which secret a receiver accepts.
 */
static void
remove_open_gates(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Gate	   *gate;

	hash_seq_init(&status, table);
	while ((gate = hash_seq_search(&status)) != NULL)
		if (is_open(gate, now))
			remove_gate(gate);
}

/*
 * Find a webhook's gate, or make it if asked to.  Returns null if it has none
 * or if the table is full.
 */
static Gate *
get_gate(const pg_uuid_t *webhook_id, bool make, TimestampTz now)
{
	GateKey		key = key_of(webhook_id);
	Gate	   *gate = hash_search(table, &key, HASH_FIND, NULL);

	if (gate || !make)
		return gate;
	if (pg_atomic_read_u32(&gates->n) >= MAX_GATES)
		remove_open_gates(now);
	gate = hash_search(table, &key, HASH_ENTER_NULL, NULL);
	if (gate == NULL)
		return NULL;
	clear_gate(gate);
	pg_atomic_fetch_add_u32(&gates->n, 1);
	return gate;
}

/* Is the breaker open after so many failures in a row? */
static bool
is_broken(int failures)
{
	return cwh_breaker_threshold > 0 && failures >= cwh_breaker_threshold;
}

/*
 * May a request start now?  If so, it is counted; if not, *again is set to when
 * to ask next.  rate is the limit in deliveries per second (0: none), n the
 * number of deliveries in the request; each request of a connector counts as
 * one.  n = 0 is a request for an OAuth token: it delivers nothing and goes to
 * another server, so it is neither counted nor a probe.  A probe whose outcome
 * is never reported, since its worker died, is given up after probe_ms.
 */
bool
cwh_gate_pass(const pg_uuid_t *webhook_id, double rate, int n, int64 probe_ms,
			  TimestampTz now, TimestampTz *again)
{
	Gate	   *gate;
	TimestampTz wait_until = 0;

	if (rate <= 0 && pg_atomic_read_u32(&gates->n) == 0)
		return true;
	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, rate > 0, now);
	if (gate)
	{
		wait_until = Max(gate->paused_until, gate->probe_at);
		if (rate > 0)
		{
			double		depth = Max(1.0, rate / BUCKET_SHARE);
			TimestampTz full_at = Max(gate->full_at, now);
			TimestampTz ok_at = full_at -
				(TimestampTz) ((depth - 1) / rate * USECS_PER_SEC);

			if (Max(ok_at, wait_until) <= now)
				gate->full_at = full_at + (TimestampTz) (n / rate * USECS_PER_SEC);
			wait_until = Max(wait_until, ok_at);
		}
		if (is_broken(gate->failures) && n > 0 && wait_until <= now)
			gate->probe_at = TimestampTzPlusMilliseconds(now, probe_ms);
		/* the overlap is over: nothing else would remove the gate */
		if (gate->taken_until > 0 && gate->taken_until <= now &&
			is_open(gate, now))
			remove_gate(gate);
	}
	LWLockRelease(gates_lock);
	*again = wait_until;
	return wait_until <= now;
}

/*
 * The interval between requests after so many failures in a row, more than
 * FREE_FAILURES, while the breaker is closed.
 */
static int64
interval_ms(int failures)
{
	int			doublings = Min(failures - FREE_FAILURES - 1, 10);

	return Min(FIRST_INTERVAL_MS << doublings, MAX_INTERVAL_MS);
}

/*
 * A request failed in a way that says something about the receiver, which may
 * have asked for a pause of retry_after_ms (-1: it did not).  Returns true if
 * that opened the breaker.
 */
static bool
note_failure(const pg_uuid_t *webhook_id, const CwhRetryPolicy *policy,
			 double random01, int64 retry_after_ms, TimestampTz now)
{
	bool		opened = false;
	Gate	   *gate;

	if (cwh_breaker_threshold == 0 && retry_after_ms <= 0)
		return false;
	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, true, now);
	if (gate)
	{
		gate->failures++;
		if (retry_after_ms > 0)
			gate->paused_until = Max(gate->paused_until,
									 TimestampTzPlusMilliseconds(now, retry_after_ms));
		if (is_broken(gate->failures))
		{
			opened = gate->failures == cwh_breaker_threshold;
			gate->wait_ms = cwh_retry_wait(policy, opened ? 0 : gate->wait_ms,
										   random01, -1);
			gate->probe_at = TimestampTzPlusMilliseconds(now, gate->wait_ms);
		}
		else if (cwh_breaker_threshold > 0 && gate->failures > FREE_FAILURES)
			gate->probe_at = TimestampTzPlusMilliseconds(now,
														 interval_ms(gate->failures));
	}
	LWLockRelease(gates_lock);
	return opened;
}

/*
 * The receiver has answered a request, so it is there.  Returns true if that
 * closed the breaker.
 */
static bool
note_answer(const pg_uuid_t *webhook_id)
{
	bool		closed = false;
	GateKey		key;
	Gate	   *gate;

	if (pg_atomic_read_u32(&gates->n) == 0)
		return false;
	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	key = key_of(webhook_id);
	gate = hash_search(table, &key, HASH_FIND, NULL);
	if (gate && gate->failures > 0)
	{
		closed = is_broken(gate->failures);
		gate->failures = 0;
		gate->wait_ms = 0;
		gate->probe_at = 0;
		if (gate->full_at == 0 && gate->taken_until == 0 &&
			gate->paused_until <= GetCurrentTimestamp())
			remove_gate(gate);
	}
	LWLockRelease(gates_lock);
	return closed;
}

/*
 * Until when nothing is sent to a webhook, or nothing but a probe; 0 if it is
 * not paused.  That time has passed if the next probe may start at once.
 */
static TimestampTz
pause_end(const Gate *gate, TimestampTz now)
{
	if (is_broken(gate->failures))
		return Max(gate->paused_until, gate->probe_at);
	return gate->paused_until > now ? gate->paused_until : 0;
}

/*
 * Forget a webhook's past: its row has changed, and the user wants to see what
 * that does.  Its secrets are not in its row.  Returns true if that ended a
 * pause.
 */
static bool
forget(const pg_uuid_t *webhook_id)
{
	bool		was_paused = false;
	Gate	   *gate;

	if (pg_atomic_read_u32(&gates->n) == 0)
		return false;
	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, false, 0);
	if (gate)
		was_paused = pause_end(gate, GetCurrentTimestamp()) != 0;
	if (gate && gate->taken_until > 0)
	{
		Gate		old = *gate;

		clear_gate(gate);
		gate->taken = old.taken;
		gate->taken_until = old.taken_until;
	}
	else if (gate)
		remove_gate(gate);
	LWLockRelease(gates_lock);
	return was_paused;
}

/* SQL: end the pause of a webhook; returns false if it is not paused. */
Datum
chatwebhook_end_pause(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(table && forget(PG_GETARG_UUID_P(0)));
}

/*
 * Which of two secrets does a webhook's receiver accept, in the overlap that
 * ends then?  A session that tests a webhook may have no shared memory.
 */
CwhTaken
cwh_gate_taken(const pg_uuid_t *webhook_id, TimestampTz until)
{
	CwhTaken	taken = CWH_TAKEN_UNKNOWN;
	Gate	   *gate;

	if (table == NULL || pg_atomic_read_u32(&gates->n) == 0)
		return taken;
	LWLockAcquire(gates_lock, LW_SHARED);
	gate = get_gate(webhook_id, false, 0);
	if (gate && gate->taken_until == until)
		taken = gate->taken;
	LWLockRelease(gates_lock);
	return taken;
}

/* Remember which of two secrets a webhook's receiver accepts. */
void
cwh_gate_note_taken(const pg_uuid_t *webhook_id, CwhTaken taken,
					TimestampTz until, TimestampTz now)
{
	Gate	   *gate;

	if (table == NULL)
		return;
	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, true, now);
	if (gate)
	{
		gate->taken = taken;
		gate->taken_until = until;
	}
	LWLockRelease(gates_lock);
}

/*
 * Take what the end of a request says of its receiver; with CWH_SIGNAL_FAILED,
 * pause_s is for how long it wants none (-1: it did not say).  Returns true if
 * that opened or closed the breaker.
 */
bool
cwh_gate_signal(const pg_uuid_t *webhook_id, CwhSignal signal, int64 pause_s,
				const CwhRetryPolicy *policy, double random01, TimestampTz now)
{
	switch (signal)
	{
		case CWH_SIGNAL_FAILED:
			return note_failure(webhook_id, policy, random01, pause_s * 1000,
								now);
		case CWH_SIGNAL_ANSWERED:
			return note_answer(webhook_id);
		case CWH_SIGNAL_CHANGED:
			(void) forget(webhook_id);
			break;
		case CWH_SIGNAL_NONE:
			break;
	}
	return false;
}

/*
 * A worker has started, or has noticed that the wall clock was set: by how many
 * microseconds it is ahead of the monotonic clock now.  Every worker reports a
 * step of the clock, and the first report moves the gates' times by it.
 */
void
cwh_gate_set_clock(int64 clock)
{
	HASH_SEQ_STATUS status;
	Gate	   *gate;
	int64		step;

	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	step = gates->clock == 0 ? 0 : clock - gates->clock;
	if (gates->clock == 0 || Abs(step) >= CWH_CLOCK_STEP)
	{
		gates->clock = clock;
		hash_seq_init(&status, table);
		while ((gate = hash_seq_search(&status)) != NULL)
		{
			if (gate->full_at > 0)
				gate->full_at += step;
			gate->paused_until += step;
			gate->probe_at += step;
		}
	}
	LWLockRelease(gates_lock);
}

/*
 * This worker is about to exit in the connector of a webhook.  Pause the
 * webhook, so that the next worker does not call that connector first of all,
 * and have it disabled.
 */
void
cwh_gate_stuck(const pg_uuid_t *webhook_id, TimestampTz until)
{
	Gate	   *gate;

	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, true, GetCurrentTimestamp());
	if (gate)
		gate->paused_until = Max(gate->paused_until, until);
	if (gates->nstuck < MAX_STUCK)
		gates->stuck[gates->nstuck++] = key_of(webhook_id);
	LWLockRelease(gates_lock);
}

/* Take a stuck webhook of this database, to disable it; false if none is. */
bool
cwh_gate_take_stuck(pg_uuid_t *webhook_id)
{
	bool		found = false;

	LWLockAcquire(gates_lock, LW_EXCLUSIVE);
	for (int i = 0; i < gates->nstuck && !found; i++)
	{
		if (gates->stuck[i].database != MyDatabaseId)
			continue;
		*webhook_id = gates->stuck[i].webhook_id;
		gates->stuck[i] = gates->stuck[--gates->nstuck];
		found = true;
	}
	LWLockRelease(gates_lock);
	return found;
}

/* SQL: the webhooks of this database that are paused, and until when. */
Datum
chatwebhook_gates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS status;
	Gate	   *gate;
	Gate	   *found;
	int			n = 0;

	cwh_init_materialized(fcinfo);
	if (table == NULL || pg_atomic_read_u32(&gates->n) == 0)
		return (Datum) 0;

	/* copy first: nothing that could fail while the lock is held */
	found = palloc(MAX_GATES * sizeof(Gate));
	LWLockAcquire(gates_lock, LW_SHARED);
	hash_seq_init(&status, table);
	while ((gate = hash_seq_search(&status)) != NULL)
		if (gate->key.database == MyDatabaseId && n < MAX_GATES)
			found[n++] = *gate;
	LWLockRelease(gates_lock);

	for (int i = 0; i < n; i++)
	{
		TimestampTz until = pause_end(&found[i], now);
		Datum		values[2];
		bool		nulls[2] = {false, false};

		if (until == 0)
			continue;
		values[0] = UUIDPGetDatum(&found[i].key.webhook_id);
		values[1] = TimestampTzGetDatum(until);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
