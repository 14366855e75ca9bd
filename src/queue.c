/*
 * queue.c
 *		Sweeps the queue and settles deliveries: with dequeue.c, the only C file
 *		that changes the queue, except for the inserts of emit.c and what
 *		debounce.c supersedes.
 *
 * A worker claims deliveries that are due (dequeue.c), sends them, and settles
 * them: it records each one's outcome.  See worker.c for the loop.
 *
 * A settle moves finished deliveries from queue to history or dead, and sets the
 * time of the next attempt of failed ones, in the transaction that also updates
 * the health of webhooks (health.c).  Most deliveries are finished, so these are
 * moved without SQL (see rows.c); the rest takes one statement for each kind.
 *
 * All functions run in the caller's transaction, which is connected to SPI.  A
 * worker's begins in cwh_begin() and ends in cwh_commit(), both in statement.c.
 * Locks on tables, and on rows that are settled, last until then.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "changes.h"
#include "compat.h"
#include "queue.h"
#include "reader.h"
#include "rows.h"
#include "settings.h"
#include "shared.h"
#include "statement.h"
/* INDENT OFF */
/* Columns of sweep_sql and next_due_sql; problems_sql has only the first. */
enum
{
	DUE_WEBHOOK_ID, DUE_AT
};

/*
 * Each webhook with pending deliveries, and when the first is due.  The
 * recursion reads one index entry for each webhook (a "loose index scan").
 */
static const char sweep_sql[] =
	"WITH RECURSIVE found AS ("
	"   (SELECT q.webhook_id, q.next_attempt_at FROM chatwebhook.queue q"
	"     ORDER BY q.webhook_id, q.next_attempt_at LIMIT 1)"
	"    UNION ALL"
	"    SELECT n.webhook_id, n.next_attempt_at"
	"      FROM found CROSS JOIN LATERAL ("
	"           SELECT q.webhook_id, q.next_attempt_at FROM chatwebhook.queue q"
	"            WHERE q.webhook_id" GT "found.webhook_id"
	"            ORDER BY q.webhook_id, q.next_attempt_at LIMIT 1) n"
	") SELECT webhook_id, next_attempt_at FROM found"
	"  UNION ALL"
	" SELECT f.webhook_id, 'infinity' FROM found f"
	"  WHERE f.next_attempt_at" LT "'infinity' AND EXISTS ("
	"        SELECT FROM chatwebhook.queue p"
	"         WHERE p.webhook_id" EQ "f.webhook_id AND p.next_attempt_at" EQ "'infinity')";

/*
 * Make deliveries due that wait only because the clock was set back: they are
 * due in the future although no attempt has failed, nor are they scheduled, or
 * held by debounce, for then; or the event or the last attempt was in the future.
 */
static const char catch_up_sql[] =
	"UPDATE chatwebhook.queue q SET next_attempt_at = $1"
	"  FROM (SELECT a.id FROM chatwebhook._webhook w"
	"         CROSS JOIN LATERAL ("
	"               SELECT p.id FROM chatwebhook.queue p"
	"                WHERE p.webhook_id" EQ "w.id AND p.next_attempt_at" GT "$1"
	"                  AND p.next_attempt_at" LT "'infinity'"
	"                  AND (p.last_wait_ms" EQ "0 AND p.deliver_at IS NULL"
	"                       AND (p.debounce_until IS NULL OR p.created_at" GT "$1)"
	"                       OR p.last_attempt_at" GT "$1)"
	"                  FOR UPDATE SKIP LOCKED) a"
	"         LIMIT $2) ahead"
	" WHERE q.id" EQ "ahead.id"
	" RETURNING q.id";

/* The webhooks whose health shows a problem. */
static const char problems_sql[] =
	"SELECT h.webhook_id FROM chatwebhook.health h WHERE h.problem IS NOT NULL";

/* When the next delivery of each of these webhooks is due. */
static const char next_due_sql[] =
	"SELECT want.webhook_id, q.next_attempt_at"
	"  FROM pg_catalog.unnest($1) AS want(webhook_id)"
	" CROSS JOIN LATERAL ("
	"       SELECT p.next_attempt_at FROM chatwebhook.queue p"
	"        WHERE p.webhook_id" EQ "want.webhook_id"
	"          AND p.next_attempt_at" GT "$2"
	"        ORDER BY p.next_attempt_at LIMIT 1) q"
	" UNION ALL"
	" SELECT want.webhook_id, 'infinity'"
	"   FROM pg_catalog.unnest($1) AS want(webhook_id)"
	"  WHERE EXISTS (SELECT FROM chatwebhook.queue p"
	"                 WHERE p.webhook_id" EQ "want.webhook_id"
	"                   AND p.next_attempt_at" EQ "'infinity')";

/* Parameters of postpone_sql, each an array. */
enum
{
	POSTPONE_ID, POSTPONE_WAIT, POSTPONE_ATTEMPTED_AT, POSTPONE_LATENCY_MS,
	POSTPONE_STATUS_CODE, POSTPONE_ERROR, POSTPONE_WAIT_MS,
	POSTPONE_PARAMETERS
};

/*
 * Schedule next attempts.  "q.id = ANY ($1)", here and below, is redundant, but
 * makes every plan use the primary key.
 */
static const char postpone_sql[] =
	"UPDATE chatwebhook.queue q"
	"   SET attempts = q.attempts" ADD "1,"
	"       next_attempt_at = LEAST(o.attempted_at" ADD "o.wait, q.expires_at),"
	"       last_attempt_at = o.attempted_at,"
	"       last_wait_ms = o.wait_ms,"
	"       latency_ms = o.latency_ms,"
	"       last_status_code = o.status_code,"
	"       last_error = o.error"
	"  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                  pg_catalog.unnest($3), pg_catalog.unnest($4),"
	"                  pg_catalog.unnest($5), pg_catalog.unnest($6),"
	"                  pg_catalog.unnest($7))"
	"       AS o(id, wait, attempted_at, latency_ms, status_code, error,"
	"            wait_ms)"
	" WHERE q.id" EQ "o.id AND q.id" EQ "ANY ($1)"
	" RETURNING q.id";

/* Store the replies to the requests that a connector has made so far. */
static const char step_sql[] =
	"UPDATE chatwebhook.queue q SET replies = o.replies"
	"  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))"
	"       AS o(id, replies)"
	" WHERE q.id" EQ "o.id AND q.id" EQ "ANY ($1)"
	" RETURNING q.id";

/* Lock those of these rows that no other transaction has locked. */
static const char lock_sql[] =
	"SELECT q.id FROM chatwebhook.queue q WHERE q.id" EQ "ANY ($1)"
	"   FOR UPDATE SKIP LOCKED";

/* Those of these rows that exist, locked or not. */
static const char exists_sql[] =
	"SELECT q.id FROM chatwebhook.queue q WHERE q.id" EQ "ANY ($1)";

/* Parameters of log_attempts_sql, each an array. */
enum
{
	ATTEMPT_DELIVERY_ID, ATTEMPT_ATTEMPT, ATTEMPT_WEBHOOK_ID,
	ATTEMPT_CHATBOT_ID, ATTEMPT_STARTED_AT, ATTEMPT_LATENCY_MS,
	ATTEMPT_STATUS_CODE, ATTEMPT_ERROR, ATTEMPT_NOTE,
	ATTEMPT_RESPONSE_HEADERS, ATTEMPT_RESPONSE_BODY, ATTEMPT_PARAMETERS
};

/* Insert rows into attempt. */
static const char log_attempts_sql[] =
	"INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id,"
	"       chatbot_id, started_at, latency_ms, status_code, error, note,"
	"       response_headers, response_body)"
	" SELECT a.delivery_id, a.attempt, a.webhook_id, a.chatbot_id,"
	"        a.started_at, a.latency_ms, a.status_code, a.error, a.note,"
	"        a.response_headers::pg_catalog.jsonb, a.response_body"
	"   FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                   pg_catalog.unnest($3), pg_catalog.unnest($4),"
	"                   pg_catalog.unnest($5), pg_catalog.unnest($6),"
	"                   pg_catalog.unnest($7), pg_catalog.unnest($8),"
	"                   pg_catalog.unnest($9), pg_catalog.unnest($10),"
	"                   pg_catalog.unnest($11))"
	"        AS a(delivery_id, attempt, webhook_id, chatbot_id, started_at,"
	"             latency_ms, status_code, error, note, response_headers,"
	"             response_body)"
	" ON CONFLICT DO NOTHING";

static CwhStatement sweep_st = {sweep_sql, 0, {0}, NULL};
static CwhStatement catch_up_st = {catch_up_sql, 2, {TIMESTAMPTZOID, INT8OID}, NULL};
static CwhStatement problems_st = {problems_sql, 0, {0}, NULL};
static CwhStatement next_due_st = {next_due_sql, 2,
	{UUIDARRAYOID, TIMESTAMPTZOID}, NULL};
static CwhStatement postpone_st = {postpone_sql, POSTPONE_PARAMETERS, {
		[POSTPONE_ID] = INT8ARRAYOID,
		[POSTPONE_WAIT] = INTERVALARRAYOID,
		[POSTPONE_ATTEMPTED_AT] = TIMESTAMPTZARRAYOID,
		[POSTPONE_LATENCY_MS] = INT4ARRAYOID,
		[POSTPONE_STATUS_CODE] = INT4ARRAYOID,
		[POSTPONE_ERROR] = TEXTARRAYOID,
		[POSTPONE_WAIT_MS] = INT8ARRAYOID
}, NULL};
static CwhStatement step_st = {step_sql, 2, {INT8ARRAYOID, JSONBARRAYOID}, NULL};
static CwhStatement lock_st = {lock_sql, 1, {INT8ARRAYOID}, NULL};
static CwhStatement exists_st = {exists_sql, 1, {INT8ARRAYOID}, NULL};
static CwhStatement log_attempts_st = {log_attempts_sql, ATTEMPT_PARAMETERS, {
		[ATTEMPT_DELIVERY_ID] = INT8ARRAYOID,
		[ATTEMPT_ATTEMPT] = INT4ARRAYOID,
		[ATTEMPT_WEBHOOK_ID] = UUIDARRAYOID,
		[ATTEMPT_CHATBOT_ID] = TEXTARRAYOID,
		[ATTEMPT_STARTED_AT] = TIMESTAMPTZARRAYOID,
		[ATTEMPT_LATENCY_MS] = INT4ARRAYOID,
		[ATTEMPT_STATUS_CODE] = INT4ARRAYOID,
		[ATTEMPT_ERROR] = TEXTARRAYOID,
		[ATTEMPT_NOTE] = TEXTARRAYOID,
		[ATTEMPT_RESPONSE_HEADERS] = TEXTARRAYOID,
		[ATTEMPT_RESPONSE_BODY] = TEXTARRAYOID
}, NULL};
/* INDENT ON */

/*
 * Sweeping
 */

/*
 * Make up to "limit" deliveries due that wait only because the clock was set
 * back.  Returns their number.
 */
static int64
catch_up(TimestampTz now, int64 limit)
{
	Datum		args[2];

	args[0] = TimestampTzGetDatum(now);
	args[1] = Int64GetDatum(limit);
	return (int64) cwh_run(&catch_up_st, args);
}

/*
 * Call on_pending() for each webhook with pending deliveries, with the time at
 * which the first is due, and on_problem() for each webhook whose health shows
 * a problem.  Before that, if the clock was set back, make up to ncatch_up
 * deliveries due that wait only because of that, and return their number.
 */
int64
cwh_queue_sweep(int64 ncatch_up, CwhOnPending on_pending,
				 CwhOnPending on_problem, void *context)
{
	int64		ncaught_up = 0;
	uint64		n;

	if (ncatch_up > 0)
		ncaught_up = catch_up(GetCurrentTimestamp(), ncatch_up);
	n = cwh_run(&sweep_st, NULL);
	for (uint64 i = 0; i < n; i++)
		on_pending(context, DatumGetUUIDP(cwh_field(i, DUE_WEBHOOK_ID, NULL)),
				   DatumGetTimestampTz(cwh_field(i, DUE_AT, NULL)));
	n = cwh_run(&problems_st, NULL);
	for (uint64 i = 0; i < n; i++)
		on_problem(context, DatumGetUUIDP(cwh_field(i, DUE_WEBHOOK_ID, NULL)),
				   DT_NOBEGIN);
	return ncaught_up;
}

/* Call each() for those of these webhooks that have a delivery due later. */
void
cwh_queue_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
					CwhOnPending each, void *context)
{
	Datum		args[2];
	uint64		found;

	args[0] = cwh_uuid_array(ids, n);
	args[1] = TimestampTzGetDatum(now);
	found = cwh_run(&next_due_st, args);
	for (uint64 i = 0; i < found; i++)
		each(context, DatumGetUUIDP(cwh_field(i, DUE_WEBHOOK_ID, NULL)),
			 DatumGetTimestampTz(cwh_field(i, DUE_AT, NULL)));
}

/*
 * Settling
 */

/* An interval of milliseconds. */
static Datum
ms_interval(int64 ms)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = ms * 1000;
	return IntervalPGetDatum(interval);
}

/* An array of ids of deliveries. */
static Datum
id_array(const int64 *ids, int n)
{
	Datum	   *datums = palloc(Max(1, n) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		datums[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(datums, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* qsort comparator for ids. */
static int
compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* For each result: is its id among the nids rows of the last result? */
static bool *
find_results(CwhResult **results, int n, uint64 nids)
{
	int64	   *ids = palloc(Max(1, nids) * sizeof(int64));
	bool	   *found = palloc(Max(1, n) * sizeof(bool));

	for (uint64 i = 0; i < nids; i++)
		ids[i] = DatumGetInt64(cwh_field(i, 0, NULL));
	qsort(ids, nids, sizeof(int64), compare_ids);
	for (int i = 0; i < n; i++)
		found[i] = bsearch(&results[i]->id, ids, nids, sizeof(int64),
						   compare_ids) != NULL;
	return found;
}

/*
 * Mark the results whose rows were not found as gone: the deliveries were
 * canceled during the attempt.
 *
 * A row that was changed since our snapshot was taken is not found either,
 * although it still exists.  That is an error, and the caller tries again with
 * "careful", as after a lock timeout.
 */
static void
mark_gone(CwhResult **results, int n, const bool *found)
{
	int64	   *ids = palloc(n * sizeof(int64));
	int			nids = 0;
	Datum		arg;

	for (int i = 0; i < n; i++)
	{
		results[i]->gone = !found[i];
		if (!found[i])
			ids[nids++] = results[i]->id;
	}
	if (nids == 0)
		return;
	arg = id_array(ids, nids);
	if (cwh_run(&exists_st, &arg) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("a delivery was changed while it was being settled")));
}

/*
 * Run an UPDATE of the queue that returns ids, and mark the results whose rows
 * it did not find.
 */
static void
update_rows(CwhStatement *statement, Datum *args, CwhResult **results, int n)
{
	uint64		updated = cwh_run(statement, args);

	if (updated < (uint64) n)
		mark_gone(results, n, find_results(results, n, updated));
}

/*
 * Add a row to history or dead, made from the row in the queue and the result.
 * The functions in sql/ that move rows, such as cancel() and retry_dead(), set
 * the columns in the same way.
 */
static void
add_finished(CwhRows *rows, const CwhResult *result, TupleTableSlot *from)
{
	static const struct
	{
		int			from;
		int			to;
	}			same[] = {
		{CWH_QUEUE_ID, CWH_HISTORY_ID},
		{CWH_QUEUE_WEBHOOK_ID, CWH_HISTORY_WEBHOOK_ID},
		{CWH_QUEUE_EVENT_ID, CWH_HISTORY_EVENT_ID},
		{CWH_QUEUE_CREATED_AT, CWH_HISTORY_CREATED_AT},
		{CWH_QUEUE_LAST_ATTEMPT_AT, CWH_HISTORY_LAST_ATTEMPT_AT},
		{CWH_QUEUE_CHATBOT_ID, CWH_HISTORY_CHATBOT_ID}
	};
	TupleTableSlot *slot = cwh_rows_next(rows);
	int32		attempts = DatumGetInt32(from->tts_values[CWH_QUEUE_ATTEMPTS]);
	const char *status = "delivered";

	for (int i = 0; i < lengthof(same); i++)
		if (!from->tts_isnull[same[i].from])
			cwh_set_column(slot, same[i].to, from->tts_values[same[i].from]);
	cwh_set_column(slot, CWH_HISTORY_COMPLETED_AT,
				   TimestampTzGetDatum(GetCurrentTimestamp()));
	if (result->attempted_at != 0)
	{
		attempts++;
		cwh_set_column(slot, CWH_HISTORY_LAST_ATTEMPT_AT,
					   TimestampTzGetDatum(result->attempted_at));
		cwh_set_column(slot, CWH_HISTORY_LATENCY_MS,
					   Int32GetDatum(result->latency_ms));
		if (result->status != 0)
			cwh_set_column(slot, CWH_HISTORY_LAST_STATUS_CODE,
						   Int32GetDatum(result->status));
	}
	cwh_set_column(slot, CWH_HISTORY_ATTEMPTS, Int32GetDatum(attempts));
	cwh_set_text(slot, CWH_HISTORY_WEBHOOK_NAME, result->webhook_name);
	cwh_set_text(slot, CWH_HISTORY_LAST_ERROR, result->error);
	if (result->outcome != CWH_OUTCOME_DELIVERED)
	{
		status = result->outcome == CWH_OUTCOME_DEAD ? "dead" : "canceled";
		/* deleting the queue's row deletes its TOAST values, too */
		if (!from->tts_isnull[CWH_QUEUE_REPLIES])
			cwh_set_column(slot, CWH_HISTORY_REPLIES,
						   PointerGetDatum(PG_DETOAST_DATUM(from->tts_values[CWH_QUEUE_REPLIES])));
	}
	cwh_set_text(slot, CWH_HISTORY_STATUS, status);
	ExecStoreVirtualTuple(slot);
	/* the values point into a buffer that will be unpinned */
	ExecMaterializeSlot(slot);
}

/* Move finished deliveries from the queue to history or dead. */
static void
finish(CwhResult **results, int n, CwhRelation to)
{
	bool	   *found = palloc0(Max(1, n) * sizeof(bool));
	int			nfound = 0;
	EState	   *estate;
	CwhRows		rows;
	CwhReader	queue;
	CommandId	cid = GetCurrentCommandId(true);

	if (n == 0)
		return;
	/* a new snapshot, which shows what others have committed meanwhile */
	PushActiveSnapshot(GetTransactionSnapshot());
	estate = CreateExecutorState();
	cwh_rows_open(&rows, estate, to, CWH_HISTORY_COLUMNS);
	cwh_reader_open(&queue, CWH_REL_QUEUE, CWH_REL_QUEUE_PKEY, RowExclusiveLock, 1);
	for (int i = 0; i < n; i++)
	{
		ScanKeyData key;

		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(results[i]->id));
		if (!cwh_reader_find(&queue, &key, 1))
			continue;
		/* up to the last column that add_finished() reads */
		slot_getsomeattrs(queue.slot, CWH_QUEUE_REPLIES + 1);
		if (!cwh_delete_row(queue.table, queue.slot, cid, GetActiveSnapshot()))
			continue;
		add_finished(&rows, results[i], queue.slot);
		found[i] = true;
		nfound++;
	}
	cwh_reader_close(&queue);
	cwh_rows_close(&rows);
	FreeExecutorState(estate);
	PopActiveSnapshot();
	/* make the changes visible to later statements of this transaction */
	CommandCounterIncrement();
	if (nfound < n)
		mark_gone(results, n, found);
}

/* Schedule the next attempts of failed deliveries. */
static void
postpone(CwhResult **results, int n)
{
	CwhArray	arrays[POSTPONE_PARAMETERS];
	Datum		args[POSTPONE_PARAMETERS];

	if (n == 0)
		return;
	cwh_make_arrays(arrays, &postpone_st, POSTPONE_PARAMETERS, n);
	for (int i = 0; i < n; i++)
	{
		const CwhResult *result = results[i];

		cwh_array_set(&arrays[POSTPONE_ID], i, Int64GetDatum(result->id));
		cwh_array_set(&arrays[POSTPONE_WAIT], i,
					  ms_interval(result->latency_ms + result->wait_ms));
		cwh_array_set(&arrays[POSTPONE_ATTEMPTED_AT], i,
					  TimestampTzGetDatum(result->attempted_at));
		cwh_array_set(&arrays[POSTPONE_LATENCY_MS], i,
					  Int32GetDatum(result->latency_ms));
		if (result->status != 0)
			cwh_array_set(&arrays[POSTPONE_STATUS_CODE], i,
						  Int32GetDatum(result->status));
		cwh_array_set_text(&arrays[POSTPONE_ERROR], i, result->error);
		cwh_array_set(&arrays[POSTPONE_WAIT_MS], i,
					  Int64GetDatum(result->wait_ms));
	}
	cwh_finish_arrays(arrays, POSTPONE_PARAMETERS, args);
	update_rows(&postpone_st, args, results, n);
}

/* Store the replies of deliveries whose connector goes on. */
static void
store_replies(CwhResult **results, int n)
{
	CwhArray	arrays[2];
	Datum		args[2];

	if (n == 0)
		return;
	cwh_make_arrays(arrays, &step_st, 2, n);
	for (int i = 0; i < n; i++)
	{
		cwh_array_set(&arrays[0], i, Int64GetDatum(results[i]->id));
		cwh_array_set(&arrays[1], i, JsonbPGetDatum(results[i]->replies));
	}
	cwh_finish_arrays(arrays, 2, args);
	update_rows(&step_st, args, results, n);
}

/* The results that have one of two outcomes. */
static CwhResult **
filter_by_outcome(CwhResult **results, int n, CwhOutcome one, CwhOutcome other,
				  int *nfound)
{
	CwhResult **found = palloc(Max(1, n) * sizeof(CwhResult *));

	*nfound = 0;
	for (int i = 0; i < n; i++)
		if (results[i]->outcome == one || results[i]->outcome == other)
			found[(*nfound)++] = results[i];
	return found;
}

/*
 * Lock the rows of results without waiting.  Keeps the results whose rows are
 * locked by us now, and returns their number.  A result whose row is gone is
 * settled by that; one whose row another transaction has locked is not settled.
 */
static int
lock_results(CwhResult **results, int n, Datum ids)
{
	bool	   *there;
	bool	   *locked;
	int			kept = 0;

	there = find_results(results, n, cwh_run(&exists_st, &ids));
	locked = find_results(results, n, cwh_run(&lock_st, &ids));
	for (int i = 0; i < n; i++)
	{
		results[i]->gone = !there[i];
		results[i]->settled = !there[i] || locked[i];
		if (there[i] && locked[i])
			results[kept++] = results[i];
	}
	return kept;
}

/*
 * Record the outcomes of deliveries that this process has claimed.  If a row is
 * gone, the delivery was canceled, and there is nothing to record.
 *
 * A row that another transaction has locked would hold up all other results.
 * That is rare, so this assumes at first that no row is locked, and relies on
 * the worker's lock_timeout.  If that expires, or a row is changed at the same
 * time, it raises an error; the caller then tries again with "careful", which
 * leaves locked rows for later, with "settled" false.
 */
void
cwh_queue_settle(CwhResult *results, int n, bool careful)
{
	int64	   *ids = palloc(Max(1, n) * sizeof(int64));
	bool	   *mine = palloc(Max(1, n) * sizeof(bool));
	CwhResult **ours = palloc(Max(1, n) * sizeof(CwhResult *));
	CwhResult **some;
	int			nours = 0;
	int			nsome;

	/* ignore results whose claim we no longer hold */
	for (int i = 0; i < n; i++)
		ids[i] = results[i].id;
	cwh_claims_mine(ids, n, mine);
	for (int i = 0; i < n; i++)
	{
		results[i].settled = !results[i].held;
		results[i].gone = !mine[i];
		if (mine[i] && results[i].settled)
			ours[nours++] = &results[i];
	}
	if (careful)
		nours = lock_results(ours, nours, id_array(ids, n));

	some = filter_by_outcome(ours, nours, CWH_OUTCOME_DELIVERED,
							 CWH_OUTCOME_CANCELED, &nsome);
	finish(some, nsome, CWH_REL_HISTORY);
	some = filter_by_outcome(ours, nours, CWH_OUTCOME_DEAD, CWH_OUTCOME_DEAD,
							 &nsome);
	finish(some, nsome, CWH_REL_DEAD);
	some = filter_by_outcome(ours, nours, CWH_OUTCOME_RETRY, CWH_OUTCOME_RETRY,
							 &nsome);
	postpone(some, nsome);
	some = filter_by_outcome(ours, nours, CWH_OUTCOME_STEP, CWH_OUTCOME_STEP,
							 &nsome);
	store_replies(some, nsome);
}

/* Insert rows into attempt. */
void
cwh_insert_attempts(const CwhAttemptRow *attempts, int n)
{
	CwhArray	arrays[ATTEMPT_PARAMETERS];
	Datum		args[ATTEMPT_PARAMETERS];

	if (n == 0)
		return;
	cwh_make_arrays(arrays, &log_attempts_st, ATTEMPT_PARAMETERS, n);
	for (int i = 0; i < n; i++)
	{
		const CwhAttemptRow *attempt = &attempts[i];

		cwh_array_set(&arrays[ATTEMPT_DELIVERY_ID], i,
					  Int64GetDatum(attempt->delivery_id));
		cwh_array_set(&arrays[ATTEMPT_ATTEMPT], i,
					  Int32GetDatum(attempt->attempt));
		cwh_array_set(&arrays[ATTEMPT_WEBHOOK_ID], i,
					  UUIDPGetDatum(&attempt->webhook_id));
		cwh_array_set_text(&arrays[ATTEMPT_CHATBOT_ID], i,
						   attempt->chatbot_id);
		cwh_array_set(&arrays[ATTEMPT_STARTED_AT], i,
					  TimestampTzGetDatum(attempt->started_at));
		cwh_array_set(&arrays[ATTEMPT_LATENCY_MS], i,
					  Int32GetDatum(attempt->latency_ms));
		if (attempt->status != 0)
			cwh_array_set(&arrays[ATTEMPT_STATUS_CODE], i,
						  Int32GetDatum(attempt->status));
		cwh_array_set_text(&arrays[ATTEMPT_ERROR], i,
						   attempt->error);
		cwh_array_set_text(&arrays[ATTEMPT_NOTE], i,
						   attempt->note);
		cwh_array_set_text(&arrays[ATTEMPT_RESPONSE_HEADERS], i,
						   attempt->response_headers);
		cwh_array_set_text(&arrays[ATTEMPT_RESPONSE_BODY], i,
						   attempt->response_body);
	}
	cwh_finish_arrays(arrays, ATTEMPT_PARAMETERS, args);
	(void) cwh_run(&log_attempts_st, args);
}
