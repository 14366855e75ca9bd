/*
 * gate.c
 *		Whether a request to a webhook may start now: rate limits, pauses that
 *		receivers ask for, and the circuit breaker.
 *
 * A webhook that is limited or in trouble has a gate in shared memory, so that
 * all workers keep to it together.  Most have none, and cost nothing but a look
 * at the number of gates.
 *
 * A rate limit is a token bucket, kept as the time at which it would be full
 * again (the generic cell rate algorithm of ITU-T I.371): a request moves that
 * time on by its share of a second, and may start if it is no further away than
 * the bucket is deep.
 *
 * The breaker opens after chatwebhook.breaker_threshold failures in a row.  From
 * then on one request at a time is let through, a probe, after waits that grow
 * like those of retries; the first that succeeds closes it.  Before it opens,
 * from the third failure in a row on, requests start at growing distances: many
 * webhooks that begin to fail together, each with a backlog, are not to keep
 * the workers busy with that.
 *
 * All of it is protected by one lock, which is held for no longer than a look
 * into the hash table takes.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "chatwebhook.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(chatwebhook_gates);

/*
 * More webhooks than this that are limited or in trouble have none: they are
 * sent to as if they were not.
 */
#define MAX_GATES	32768

/* The distances at which requests start after failures, until the breaker opens. */
#define FREE_FAILURES		2
#define FIRST_DISTANCE_MS	25
#define MAX_DISTANCE_MS		1000

/* A bucket holds what comes in together in this part of a second. */
#define BUCKET_SHARE	20

typedef struct GateKey
{
	pg_uuid_t	webhook_id;
	Oid			database;
} GateKey;

typedef struct Gate
{
	GateKey		key;
	TimestampTz full_at;		/* when the bucket is full again */
	TimestampTz paused_until;	/* the receiver wants nothing before this */
	int			failures;		/* in a row */
	int64		wait_ms;		/* between the last two probes */
	TimestampTz probe_at;		/* no request starts before; if the breaker is
								 * open: the next probe, and no other does */
} Gate;

typedef struct Gates
{
	pg_atomic_uint32 n;			/* how many there are */
	int64		clock;			/* that their times were last put right for */
} Gates;

static Gates *gates = NULL;
static HTAB *table = NULL;
static LWLock *lock = NULL;

/* Bytes of shared memory that gates take. */
Size
cwh_gate_size(void)
{
	return add_size(sizeof(Gates), hash_estimate_size(MAX_GATES, sizeof(Gate)));
}

/* Make or find them; the caller holds AddinShmemInitLock. */
void
cwh_gate_startup(LWLock *gate_lock)
{
	HASHCTL		info;
	bool		found;

	gates = ShmemInitStruct("chatwebhook gates", sizeof(Gates), &found);
	if (!found)
	{
		pg_atomic_init_u32(&gates->n, 0);
		gates->clock = 0;
	}
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(GateKey);
	info.entrysize = sizeof(Gate);
	table = cwh_shmem_init_hash("chatwebhook gate table", MAX_GATES, &info,
								HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	lock = gate_lock;
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

/* Remove gates that hold nobody up any more, when the table is full. */
static void
sweep(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Gate	   *gate;

	hash_seq_init(&status, table);
	while ((gate = hash_seq_search(&status)) != NULL)
	{
		if (gate->failures > 0 || gate->full_at > now || gate->paused_until > now)
			continue;
		hash_search(table, &gate->key, HASH_REMOVE, NULL);
		pg_atomic_fetch_sub_u32(&gates->n, 1);
	}
}

/* A webhook's gate, made if need be; null if there is no room for it. */
static Gate *
get_gate(const pg_uuid_t *webhook_id, bool make, TimestampTz now)
{
	GateKey		key = key_of(webhook_id);
	Gate	   *gate = hash_search(table, &key, HASH_FIND, NULL);

	if (gate || !make)
		return gate;
	if (pg_atomic_read_u32(&gates->n) >= MAX_GATES)
		sweep(now);
	gate = hash_search(table, &key, HASH_ENTER_NULL, NULL);
	if (gate == NULL)
		return NULL;
	memset((char *) gate + sizeof(GateKey), 0, sizeof(Gate) - sizeof(GateKey));
	pg_atomic_fetch_add_u32(&gates->n, 1);
	return gate;
}

/*
 * May a request start now?  If so, it counts; if not, *again says when to ask
 * next.  rate is deliveries a second, 0 for no limit, and n how many go in the
 * request; each request of a connector counts as one.  With n = 0 it is for a
 * token, which is no delivery and goes elsewhere: it does not count, and is no
 * probe.  A probe that nobody hears of any more, since its worker died, is given
 * up after probe_ms.
 */
bool
cwh_gate_pass(const pg_uuid_t *webhook_id, double rate, int n, int64 probe_ms,
			  TimestampTz now, TimestampTz *again)
{
	Gate	   *gate;
	TimestampTz wait_until = 0;

	if (rate <= 0 && pg_atomic_read_u32(&gates->n) == 0)
		return true;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, rate > 0, now);
	if (gate)
	{
		bool		broken = cwh_breaker_threshold > 0 &&
			gate->failures >= cwh_breaker_threshold;

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
		if (broken && n > 0 && wait_until <= now)
			gate->probe_at = TimestampTzPlusMilliseconds(now, probe_ms);
	}
	LWLockRelease(lock);
	*again = wait_until;
	return wait_until <= now;
}

/* How long to wait after so many failures in a row, before the breaker opens. */
static int64
distance_ms(int failures)
{
	int			doublings = Min(failures - FREE_FAILURES - 1, 10);

	return Min(FIRST_DISTANCE_MS << doublings, MAX_DISTANCE_MS);
}

/*
 * A request failed in a way that says something about the receiver.  After how
 * many milliseconds it wants another at the earliest, if it said so (or -1).
 * True if the breaker has just opened.
 */
bool
cwh_gate_failed(const pg_uuid_t *webhook_id, const CwhRetryPolicy *policy,
				double random01, int64 retry_after_ms, TimestampTz now)
{
	bool		opened = false;
	Gate	   *gate;

	if (cwh_breaker_threshold == 0 && retry_after_ms <= 0)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, true, now);
	if (gate)
	{
		gate->failures++;
		if (retry_after_ms > 0)
			gate->paused_until = Max(gate->paused_until,
									 TimestampTzPlusMilliseconds(now, retry_after_ms));
		if (cwh_breaker_threshold > 0 && gate->failures >= cwh_breaker_threshold)
		{
			opened = gate->failures == cwh_breaker_threshold;
			gate->wait_ms = cwh_retry_wait(policy, opened ? 0 : gate->wait_ms,
										   random01, -1);
			gate->probe_at = TimestampTzPlusMilliseconds(now, gate->wait_ms);
		}
		else if (cwh_breaker_threshold > 0 && gate->failures > FREE_FAILURES)
			gate->probe_at = TimestampTzPlusMilliseconds(now,
														 distance_ms(gate->failures));
	}
	LWLockRelease(lock);
	return opened;
}

/* A request got through: the receiver is there.  True if that was news. */
bool
cwh_gate_succeeded(const pg_uuid_t *webhook_id)
{
	bool		closed = false;
	GateKey		key;
	Gate	   *gate;

	if (pg_atomic_read_u32(&gates->n) == 0)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	key = key_of(webhook_id);
	gate = hash_search(table, &key, HASH_FIND, NULL);
	if (gate && gate->failures > 0)
	{
		closed = cwh_breaker_threshold > 0 &&
			gate->failures >= cwh_breaker_threshold;
		gate->failures = 0;
		gate->wait_ms = 0;
		gate->probe_at = 0;
		if (gate->full_at == 0 && gate->paused_until <= GetCurrentTimestamp())
		{
			hash_search(table, &key, HASH_REMOVE, NULL);
			pg_atomic_fetch_sub_u32(&gates->n, 1);
		}
	}
	LWLockRelease(lock);
	return closed;
}

/* Nothing is to be sent to a webhook before then. */
void
cwh_gate_pause(const pg_uuid_t *webhook_id, TimestampTz until)
{
	Gate	   *gate;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	gate = get_gate(webhook_id, true, GetCurrentTimestamp());
	if (gate)
		gate->paused_until = Max(gate->paused_until, until);
	LWLockRelease(lock);
}

/* Whoever changes a webhook wants to see what that does: forget its past. */
void
cwh_gate_reset(const pg_uuid_t *webhook_id)
{
	GateKey		key = key_of(webhook_id);

	if (pg_atomic_read_u32(&gates->n) == 0)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (hash_search(table, &key, HASH_REMOVE, NULL))
		pg_atomic_fetch_sub_u32(&gates->n, 1);
	LWLockRelease(lock);
}

/*
 * A worker begins, or has seen that the clock was set: by how many microseconds
 * it is ahead of the monotonic one.  All workers tell of a step, and the first
 * to do so has the gates' times follow it.
 */
void
cwh_gate_set_clock(int64 clock)
{
	HASH_SEQ_STATUS status;
	Gate	   *gate;
	int64		step;

	LWLockAcquire(lock, LW_EXCLUSIVE);
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
	LWLockRelease(lock);
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

	/* nothing that could fail while the lock is held */
	found = palloc(MAX_GATES * sizeof(Gate));
	LWLockAcquire(lock, LW_SHARED);
	hash_seq_init(&status, table);
	while ((gate = hash_seq_search(&status)) != NULL)
		if (gate->key.database == MyDatabaseId && n < MAX_GATES)
			found[n++] = *gate;
	LWLockRelease(lock);

	for (int i = 0; i < n; i++)
	{
		bool		broken = cwh_breaker_threshold > 0 &&
			found[i].failures >= cwh_breaker_threshold;
		TimestampTz until = found[i].paused_until;
		Datum		values[2];
		bool		nulls[2] = {false, false};

		if (broken)
			until = Max(until, found[i].probe_at);
		if (!broken && until <= now)
			continue;
		values[0] = UUIDPGetDatum(&found[i].key.webhook_id);
		values[1] = TimestampTzGetDatum(until);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
