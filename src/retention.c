/*
 * retention.c
 *		Removes finished deliveries and their events after a time, in small
 *		steps.
 *
 * A worker calls it between its other work.  A step is a transaction of a few
 * milliseconds.  It walks over the events from the oldest on, since their ids
 * ascend with time, and removes their finished deliveries where those are old
 * enough; an event goes with its last delivery.  One that waits in an outbox is
 * left to handover.c.  Attempts are walked over likewise, by the ids of their
 * deliveries, and memories of conversations and keys of events by age.
 * At the end of a pass, webhooks with too much pending are disabled, and expired
 * secrets are removed; then the walk begins anew, for rows that were not old
 * enough yet.
 *
 * Rows are removed by plain DELETEs, whose locks block nobody; their space is
 * used again after a vacuum.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "retention.h"
#include "settings.h"
#include "shared.h"
#include "statement.h"

/* Events, or attempts, that a step looks at. */
#define STEP	200

/* Webhooks that a step looks at: each may have many deliveries to count. */
#define WEBHOOKS_STEP	20

/* INDENT OFF */

/*
 * The next events, their deliveries of each kind that are old enough, and
 * those events that are left without any.  OFFSET has the queue looked into for
 * each event between the ids of its deliveries: as a join, all of it could be
 * read for a few events.  What this statement deletes itself is still to be seen
 * by it; an event goes only if all that can be seen of its deliveries was deleted
 * here, and not by somebody who tries them again.
 */
static const char events_sql[] =
	"WITH batch AS MATERIALIZED ("
	"   SELECT e.id, e.first_delivery, e.last_delivery FROM chatwebhook.event e"
	"    WHERE e.id" GT "$1 AND e.id" LT "$2 ORDER BY e.id LIMIT 200"
	"), finished AS ("
	"   DELETE FROM chatwebhook.history h USING batch b"
	"    WHERE h.event_id" EQ "b.id AND h.completed_at" LT "$3"
	"   RETURNING h.id"
	"), dead AS ("
	"   DELETE FROM chatwebhook.dead d USING batch b"
	"    WHERE d.event_id" EQ "b.id AND d.completed_at" LT "$4"
	"   RETURNING d.id"
	"), empty AS ("
	"   DELETE FROM chatwebhook.event e USING batch b"
	"    WHERE e.id" EQ "b.id AND b.first_delivery IS NOT NULL"
	"      AND NOT EXISTS (SELECT FROM chatwebhook.queue q"
	"                       WHERE q.id" GE "b.first_delivery"
	"                         AND q.id" LE "b.last_delivery"
	"                         AND q.event_id" EQ "b.id OFFSET 0)"
	"      AND NOT EXISTS (SELECT FROM chatwebhook.history h"
	"                       WHERE h.event_id" EQ "b.id"
	"                         AND NOT (h.id" EQ "ANY (SELECT f.id FROM finished f)))"
	"      AND NOT EXISTS (SELECT FROM chatwebhook.dead d"
	"                       WHERE d.event_id" EQ "b.id"
	"                         AND NOT (d.id" EQ "ANY (SELECT x.id FROM dead x)))"
	"   RETURNING e.id"
	") SELECT (SELECT pg_catalog.count(*) FROM batch),"
	"         (SELECT b.id FROM batch b ORDER BY b.id DESC LIMIT 1)";

static const char attempts_sql[] =
	"WITH batch AS MATERIALIZED ("
	"   SELECT a.delivery_id, a.attempt FROM chatwebhook.attempt a"
	"    WHERE a.delivery_id" GT "$1 AND a.delivery_id" LT "$2"
	"    ORDER BY a.delivery_id LIMIT 200"
	"), old AS ("
	"   DELETE FROM chatwebhook.attempt a USING batch b"
	"    WHERE a.delivery_id" EQ "b.delivery_id AND a.attempt" EQ "b.attempt"
	"      AND a.started_at" LT "$3"
	"   RETURNING a.delivery_id"
	") SELECT (SELECT pg_catalog.count(*) FROM batch),"
	"         (SELECT pg_catalog.max(b.delivery_id) FROM batch b)";

/* Secrets that have expired are of no use but to a thief. */
static const char secrets_sql[] =
	"DELETE FROM chatwebhook.vault v"
	" WHERE v.expires_at" LT "pg_catalog.clock_timestamp()";

/*
 * The next webhooks.  Those of customers with more deliveries pending than the
 * administrator allows are disabled.  OFFSET has the counting end there.
 */
static const char excess_sql[] =
	"WITH batch AS MATERIALIZED ("
	"   SELECT w.id FROM chatwebhook._webhook w"
	"    WHERE w.id" GT "$1 ORDER BY w.id LIMIT 20"
	"), excess AS MATERIALIZED ("
	"   SELECT w.id FROM chatwebhook._webhook w JOIN batch b ON b.id" EQ "w.id"
	"    WHERE w.enabled AND w.chatbot_id IS NOT NULL"
	"      AND EXISTS (SELECT FROM chatwebhook.queue q"
	"                   WHERE q.webhook_id" EQ "w.id OFFSET $2 LIMIT 1)"
	") SELECT (SELECT pg_catalog.count(*) FROM batch),"
	"         (SELECT b.id FROM batch b ORDER BY b.id DESC LIMIT 1),"
	"         (SELECT pg_catalog.count(chatwebhook._disable(e.id, pg_catalog.format("
	"              'more than %s deliveries are pending (chatwebhook.max_customer_pending)', $2)))"
	"            FROM excess e)";

/*
 * The oldest memories.  One that is locked is about to be written, so it is not
 * old any more, or to be removed.
 */
static const char memories_sql[] =
	"WITH old AS MATERIALIZED ("
	"   SELECT m.webhook_id, m.conversation_id, m.chatbot_id"
	"     FROM chatwebhook.memory m"
	"    WHERE m.updated_at" LT "$1 ORDER BY m.updated_at LIMIT 200"
	"      FOR UPDATE SKIP LOCKED"
	"), gone AS ("
	"   DELETE FROM chatwebhook.memory m USING old o"
	"    WHERE m.webhook_id" EQ "o.webhook_id"
	"      AND m.conversation_id" EQ "o.conversation_id"
	"      AND m.chatbot_id IS NOT DISTINCT FROM o.chatbot_id"
	"   RETURNING 1"
	") SELECT (SELECT pg_catalog.count(*) FROM gone), NULL";

/*
 * The oldest keys of events.  A locked one is about to be taken by another
 * event.
 */
static const char keys_sql[] =
	"WITH old AS MATERIALIZED ("
	"   SELECT k.digest FROM chatwebhook.event_key k"
	"    WHERE k.event_id" LT "$1 ORDER BY k.event_id LIMIT 200"
	"      FOR UPDATE SKIP LOCKED"
	"), gone AS ("
	"   DELETE FROM chatwebhook.event_key k USING old o WHERE k.digest" EQ "o.digest"
	"   RETURNING 1"
	") SELECT (SELECT pg_catalog.count(*) FROM gone), NULL";

static const char rest_sql[] =
	"WITH closed AS ("
	"   DELETE FROM chatwebhook.alert a WHERE a.closed_at" LT "$1 RETURNING 1"
	"), past AS ("
	"   DELETE FROM chatwebhook.activity a WHERE a.since" LT "($1 OPERATOR(pg_catalog.-) '10 minutes'::pg_catalog.interval) RETURNING 1"
	"), failed AS ("
	"   DELETE FROM chatwebhook.emit_failure f WHERE f.last_at" LT "$1 RETURNING 1"
	"), deleted AS ("
	"   DELETE FROM chatwebhook.deleted_webhook d WHERE d.deleted_at" LT "$1 RETURNING 1"
	") SELECT 1";

static CwhStatement events_st = {events_sql, 4,
	{UUIDOID, UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID}, NULL};
static CwhStatement attempts_st = {attempts_sql, 3,
	{INT8OID, INT8OID, TIMESTAMPTZOID}, NULL};
static CwhStatement secrets_st = {secrets_sql, 0, {0}, NULL};
static CwhStatement excess_st = {excess_sql, 2, {UUIDOID, INT8OID}, NULL};
static CwhStatement memories_st = {memories_sql, 1, {TIMESTAMPTZOID}, NULL};
static CwhStatement keys_st = {keys_sql, 1, {UUIDOID}, NULL};
static CwhStatement rest_st = {rest_sql, 1, {TIMESTAMPTZOID}, NULL};
/* INDENT ON */

/* Columns of the one row that each gives; LAST is null if SEEN is 0. */
enum
{
	SEEN, LAST
};

/* Where the walks have got to. */
static pg_uuid_t last_event;
static int64 last_attempt;
static pg_uuid_t last_webhook;
static enum
{
	EVENTS,
	ATTEMPTS,
	WEBHOOKS,
	MEMORIES,
	KEYS,
	REST
}			walk = EVENTS;

/* A number in the row of the last result. */
static int64
number(int column)
{
	return DatumGetInt64(cwh_field(0, column, NULL));
}

/* Rows older than this are removed; -infinity if none is. */
static TimestampTz
cutoff(TimestampTz now, int seconds)
{
	return seconds < 0 ? DT_NOBEGIN : now - (TimestampTz) seconds * USECS_PER_SEC;
}

/*
 * The least id that an event of this time can have: UUIDs of version 7 begin
 * with 48 bits of milliseconds since 1970.  cwh_uuidv7() would not do: its ids
 * ascend within a process, whatever the time.
 */
static pg_uuid_t
first_event(TimestampTz at)
{
	static const int64 epoch_ms = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
		SECS_PER_DAY * 1000;
	int64		ms = at == DT_NOBEGIN ? 0 : Max(0, at / 1000 + epoch_ms);
	pg_uuid_t	id;

	memset(&id, 0, sizeof(id));
	for (int i = 0; i < 6; i++)
		id.data[i] = (unsigned char) (ms >> (40 - 8 * i));
	return id;
}

/* The next events. */
static void
walk_events(TimestampTz now)
{
	TimestampTz finished = cutoff(now, cwh_retention);
	TimestampTz dead = cutoff(now, cwh_dead_letter_retention);
	pg_uuid_t	end = first_event(Max(finished, dead));
	Datum		args[4];

	args[0] = UUIDPGetDatum(&last_event);
	args[1] = UUIDPGetDatum(&end);
	args[2] = TimestampTzGetDatum(finished);
	args[3] = TimestampTzGetDatum(dead);
	(void) cwh_run(&events_st, args);
	if (number(SEEN) < STEP)
		walk = ATTEMPTS;
	else
		last_event = *DatumGetUUIDP(cwh_field(0, LAST, NULL));
}

/* The next attempts. */
static void
walk_attempts(TimestampTz now)
{
	TimestampTz old = cutoff(now, cwh_attempt_retention);
	Datum		args[3];

	args[0] = Int64GetDatum(last_attempt);
	args[1] = Int64GetDatum(old == DT_NOBEGIN ? 0 : cwh_id_at(old));
	args[2] = TimestampTzGetDatum(old);
	(void) cwh_run(&attempts_st, args);
	if (number(SEEN) < STEP)
		walk = WEBHOOKS;
	else
		/* there may be more of the last delivery's */
		last_attempt = Max(last_attempt + 1, number(LAST) - 1);
}

/* The next webhooks: disable those with too much pending. */
static void
walk_webhooks(void)
{
	Datum		args[2];

	if (cwh_max_customer_pending < 0)
	{
		walk = MEMORIES;
		return;
	}
	args[0] = UUIDPGetDatum(&last_webhook);
	args[1] = Int64GetDatum(cwh_max_customer_pending);
	(void) cwh_run(&excess_st, args);
	if (number(SEEN) < WEBHOOKS_STEP)
		walk = MEMORIES;
	else
		last_webhook = *DatumGetUUIDP(cwh_field(0, LAST, NULL));
}

/* The oldest memories. */
static void
walk_memories(TimestampTz now)
{
	Datum		arg = TimestampTzGetDatum(cutoff(now, cwh_retention));

	(void) cwh_run(&memories_st, &arg);
	if (number(SEEN) < STEP)
		walk = KEYS;
}

/* The oldest keys of events. */
static void
walk_keys(TimestampTz now)
{
	pg_uuid_t	end = first_event(now - USECS_PER_DAY);
	Datum		arg = UUIDPGetDatum(&end);

	(void) cwh_run(&keys_st, &arg);
	if (number(SEEN) < STEP)
		walk = REST;
}

/* Tables that are small. */
static void
remove_rest(TimestampTz now)
{
	Datum		arg = TimestampTzGetDatum(cutoff(now, cwh_retention));

	(void) cwh_run(&rest_st, &arg);
	(void) cwh_run(&secrets_st, NULL);
}

/*
 * Make a step, in a transaction whose commit is not waited for.  Says whether that
 * was the last step of a pass.
 */
void
cwh_retention_step(TimestampTz now, bool *pass_done)
{
	*pass_done = false;
	cwh_begin();
	switch (walk)
	{
		case EVENTS:
			walk_events(now);
			break;
		case ATTEMPTS:
			walk_attempts(now);
			break;
		case WEBHOOKS:
			walk_webhooks();
			break;
		case MEMORIES:
			walk_memories(now);
			break;
		case KEYS:
			walk_keys(now);
			break;
		case REST:
			remove_rest(now);
			memset(&last_event, 0, sizeof(last_event));
			memset(&last_webhook, 0, sizeof(last_webhook));
			last_attempt = 0;
			walk = EVENTS;
			*pass_done = true;
			break;
	}
	cwh_commit(CWH_FLUSH_NOT);
}
