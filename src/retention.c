/*
 * retention.c
 *		What is finished leaves after a time, in small steps.
 *
 * A worker calls it between its other work.  A step is a transaction of a few
 * milliseconds; it walks over the events from the oldest on, since their ids
 * ascend with time, and takes their finished deliveries with them where those
 * are old enough.  An event goes with its last delivery.  Attempts are walked
 * over likewise, by the ids of their deliveries.  At the end of a pass the walk
 * begins anew, for what was not yet to go.
 *
 * Rows leave by plain DELETEs, which take no lock that anybody waits for, and
 * their space is used again after a vacuum.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "chatwebhook.h"
#include "compat.h"

/* Events, or attempts, that a step looks at. */
#define STEP	200

#define EQ	" OPERATOR(pg_catalog.=) "
#define GT	" OPERATOR(pg_catalog.>) "
#define LT	" OPERATOR(pg_catalog.<) "
#define GE	" OPERATOR(pg_catalog.>=) "
#define LE	" OPERATOR(pg_catalog.<=) "
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
	"    WHERE e.id" EQ "b.id"
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
	"         (SELECT b.id FROM batch b ORDER BY b.id DESC LIMIT 1),"
	"         (SELECT pg_catalog.count(*) FROM finished),"
	"         (SELECT pg_catalog.count(*) FROM dead),"
	"         (SELECT pg_catalog.count(*) FROM empty)";

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
	"         (SELECT pg_catalog.max(b.delivery_id) FROM batch b),"
	"         (SELECT pg_catalog.count(*) FROM old)";

static const char rest_sql[] =
	"WITH closed AS ("
	"   DELETE FROM chatwebhook.alert a WHERE a.closed_at" LT "$1 RETURNING 1"
	"), past AS ("
	"   DELETE FROM chatwebhook.activity a WHERE a.since" LT "($1 OPERATOR(pg_catalog.-) '10 minutes'::pg_catalog.interval) RETURNING 1"
	") SELECT 1";

/* INDENT ON */

static SPIPlanPtr events_plan = NULL;
static SPIPlanPtr attempts_plan = NULL;
static SPIPlanPtr rest_plan = NULL;

/* Where the walks have got to. */
static pg_uuid_t last_event;
static int64 last_attempt;
static enum
{
	EVENTS,
	ATTEMPTS,
	REST
}			walk = EVENTS;

/* Run one of the statements; they give one row. */
static void
run(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *args)
{
	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(sql, nargs, types);

		if (prepared == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(prepared);
		*plan = prepared;
	}
	if (SPI_execute_plan(*plan, args, NULL, false, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not execute \"%s\"", sql);
}

/* A column of that row. */
static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number,
						 isnull);
}

/* A number in that row. */
static int64
count(int number)
{
	bool		isnull;
	Datum		datum = column(number, &isnull);

	return isnull ? 0 : DatumGetInt64(datum);
}

/* What is older than this goes; -infinity if nothing does. */
static TimestampTz
cutoff(TimestampTz now, int seconds)
{
	return seconds < 0 ? DT_NOBEGIN : now - (TimestampTz) seconds * USECS_PER_SEC;
}

/* The least id that an event of this time can have: UUIDs of version 7. */
static pg_uuid_t
first_event(TimestampTz at)
{
	pg_uuid_t	id;

	memset(&id, 0, sizeof(id));
	if (at != DT_NOBEGIN)
	{
		cwh_uuidv7(&id, at);
		memset(id.data + 6, 0, UUID_LEN - 6);
	}
	return id;
}

/* The next events.  Returns the rows that have left. */
static int
walk_events(TimestampTz now)
{
	Oid			types[4] = {UUIDOID, UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	TimestampTz finished = cutoff(now, cwh_retention);
	TimestampTz dead = cutoff(now, cwh_dead_letter_retention);
	pg_uuid_t	end = first_event(Max(finished, dead));
	Datum		args[4];
	bool		isnull;

	args[0] = UUIDPGetDatum(&last_event);
	args[1] = UUIDPGetDatum(&end);
	args[2] = TimestampTzGetDatum(finished);
	args[3] = TimestampTzGetDatum(dead);
	run(&events_plan, events_sql, 4, types, args);
	if (count(1) < STEP)
		walk = ATTEMPTS;
	else
		last_event = *DatumGetUUIDP(column(2, &isnull));
	return (int) (count(3) + count(4) + count(5));
}

/* The next attempts. */
static int
walk_attempts(TimestampTz now)
{
	Oid			types[3] = {INT8OID, INT8OID, TIMESTAMPTZOID};
	TimestampTz old = cutoff(now, cwh_attempt_retention);
	Datum		args[3];

	args[0] = Int64GetDatum(last_attempt);
	args[1] = Int64GetDatum(old == DT_NOBEGIN ? 0 : cwh_id_at(old));
	args[2] = TimestampTzGetDatum(old);
	run(&attempts_plan, attempts_sql, 3, types, args);
	if (count(1) < STEP)
		walk = REST;
	else
		/* there may be more of the last one's */
		last_attempt = Max(last_attempt + 1, count(2) - 1);
	return (int) count(3);
}

/* What is small. */
static void
remove_rest(TimestampTz now)
{
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		arg = TimestampTzGetDatum(cutoff(now, cwh_retention));

	run(&rest_plan, rest_sql, 1, types, &arg);
}

/*
 * Make a step, in a transaction of its own that is not waited for.  Returns
 * how many rows have left, and whether that was the last step of a pass.
 */
int
cwh_retention_step(TimestampTz now, bool *pass_done)
{
	int			removed = 0;

	*pass_done = false;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	switch (walk)
	{
		case EVENTS:
			removed = walk_events(now);
			break;
		case ATTEMPTS:
			removed = walk_attempts(now);
			break;
		case REST:
			remove_rest(now);
			memset(&last_event, 0, sizeof(last_event));
			last_attempt = 0;
			walk = EVENTS;
			*pass_done = true;
			break;
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	return removed;
}
