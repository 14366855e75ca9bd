/*
 * health.c
 *		Writes the health of webhooks and the activity of workers, without SQL;
 *		logs alerts.
 *
 * Both change with every settle.  At rest, when each settle is for one delivery,
 * the executor took a quarter of the worker's CPU time for it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "health.h"
#include "reader.h"
#include "rows.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(chatwebhook_log_alert);

/* Rows of a table that are found by an index and updated. */
typedef struct Update
{
	EState	   *estate;
	CwhReader	reader;
	CwhRows		rows;
	TupleTableSlot *old;		/* the latest version, locked */
	TupleTableSlot *new;		/* the new version */
} Update;

/* Begin to update a table, whose rows are found by the first columns of an index. */
static void
begin(Update *update, CwhRelation table, int columns, CwhRelation index, int nkeys)
{
	update->estate = CreateExecutorState();
	cwh_rows_open(&update->rows, update->estate, table, columns);
	/* after the lock: a new snapshot, which shows what others have committed */
	PushActiveSnapshot(GetTransactionSnapshot());
	cwh_reader_open(&update->reader, table, index, RowExclusiveLock, nkeys);
	update->old = table_slot_create(update->reader.table, NULL);
	update->new = MakeSingleTupleTableSlot(RelationGetDescr(update->reader.table),
										   &TTSOpsVirtual);
}

/* End it. */
static void
end(Update *update)
{
	ExecDropSingleTupleTableSlot(update->new);
	ExecDropSingleTupleTableSlot(update->old);
	cwh_reader_close(&update->reader);
	cwh_rows_close(&update->rows);
	PopActiveSnapshot();
	FreeExecutorState(update->estate);
	/* make the changes visible to later statements of this transaction */
	CommandCounterIncrement();
}

/* Find and lock a row.  The new one begins as a copy of it. */
static bool
find(Update *update, ScanKey keys, int nkeys, LockWaitPolicy policy)
{
	int			n = update->new->tts_tupleDescriptor->natts;

	if (!cwh_reader_find(&update->reader, keys, nkeys) ||
		!cwh_reader_lock(&update->reader, LockTupleNoKeyExclusive, policy, true,
						 update->old))
		return false;
	ExecClearTuple(update->new);
	slot_getallattrs(update->old);
	memcpy(update->new->tts_values, update->old->tts_values, n * sizeof(Datum));
	memcpy(update->new->tts_isnull, update->old->tts_isnull, n * sizeof(bool));
	return true;
}

/* Write the new version of the row that was found. */
static void
write_row(Update *update)
{
	ItemPointerData tid = update->old->tts_tid;

	ExecStoreVirtualTuple(update->new);
	cwh_rows_update(&update->rows, &tid, update->new);
}

/* Add to a column of type bigint. */
static void
add(Update *update, int column, int64 more)
{
	int64		sum = DatumGetInt64(update->new->tts_values[column]) + more;

	cwh_set_column(update->new, column, Int64GetDatum(sum));
}

/*
 * Health
 */

/* The values of an array in a row of health; none if it is not as we write it. */
static void *
array_values(Datum datum, Oid type, int *n)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);

	*n = ARR_NDIM(array) == 1 && ARR_ELEMTYPE(array) == type && !ARR_HASNULL(array) ?
		ARR_DIMS(array)[0] : 0;
	return ARR_DATA_PTR(array);
}

/* The most recent attempts: those gained, and older ones. */
static Datum
recent(const CwhHealthGain *gain, Datum former)
{
	Datum		values[CWH_RECENT];
	int			n = 0;
	int			nolder;
	const int32 *older = array_values(former, INT4OID, &nolder);

	while (n < gain->nrecent)
	{
		values[n] = Int32GetDatum(gain->recent[n]);
		n++;
	}
	for (int i = 0; i < nolder && n < CWH_RECENT; i++)
		values[n++] = Int32GetDatum(older[i]);
	return PointerGetDatum(construct_array(values, n, INT4OID, sizeof(int32),
										   true, TYPALIGN_INT));
}

/* The histogram of latencies, with those gained. */
static Datum
latency_counts(const CwhHealthGain *gain, Datum former)
{
	Datum		values[CWH_LATENCIES];
	int			n;
	const int64 *counts = array_values(former, INT8OID, &n);

	for (int i = 0; i < CWH_LATENCIES; i++)
		values[i] = Int64GetDatum(gain->latency_counts[i] + (i < n ? counts[i] : 0));
	return PointerGetDatum(construct_array(values, CWH_LATENCIES, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/* What the webhook's health was before. */
static void
take_former(CwhHealthGain *gain, const TupleTableSlot *old)
{
	int			failing = cwh_alert_failures > 0 ? cwh_alert_failures : 5;

	gain->was_failing_since = old->tts_isnull[CWH_HEALTH_FAILING_SINCE] ? 0 :
		DatumGetTimestampTz(old->tts_values[CWH_HEALTH_FAILING_SINCE]);
	gain->was_failures =
		DatumGetInt64(old->tts_values[CWH_HEALTH_CONSECUTIVE_FAILURES]);
	gain->recovered = gain->ordinary && gain->was_failures >= failing;
}

/* Make the row as it is after a gain. */
static void
add_gain(Update *update, const CwhHealthGain *gain)
{
	TupleTableSlot *new = update->new;
	Datum	   *values = new->tts_values;

	add(update, CWH_HEALTH_TOTAL, gain->successes + gain->failures);
	add(update, CWH_HEALTH_SUCCESSES, gain->successes);
	add(update, CWH_HEALTH_FAILURES, gain->failures);
	add(update, CWH_HEALTH_GIVEN_UP, gain->given_up);
	add(update, CWH_HEALTH_LATENCY_SUM_MS, gain->latency_sum_ms);
	if (gain->succeeded)
	{
		cwh_set_column(new, CWH_HEALTH_CONSECUTIVE_FAILURES, Int64GetDatum(0));
		new->tts_isnull[CWH_HEALTH_FAILING_SINCE] = true;
	}
	add(update, CWH_HEALTH_CONSECUTIVE_FAILURES, gain->streak);
	if (gain->streak == 0)
		new->tts_isnull[CWH_HEALTH_FAILING_SINCE] = true;
	else if (new->tts_isnull[CWH_HEALTH_FAILING_SINCE])
		cwh_set_column(new, CWH_HEALTH_FAILING_SINCE,
					   TimestampTzGetDatum(gain->failing_since));
	if (gain->successes > 0)
		cwh_set_column(new, CWH_HEALTH_LAST_SUCCESS_AT,
					   TimestampTzGetDatum(gain->last_success_at));
	if (gain->failures > 0)
	{
		cwh_set_column(new, CWH_HEALTH_LAST_FAILURE_AT,
					   TimestampTzGetDatum(gain->last_failure_at));
		cwh_set_text(new, CWH_HEALTH_LAST_ERROR, gain->last_error);
	}
	cwh_set_column(new, CWH_HEALTH_RECENT,
				   recent(gain, values[CWH_HEALTH_RECENT]));
	cwh_set_column(new, CWH_HEALTH_LATENCY_COUNTS,
				   latency_counts(gain, values[CWH_HEALTH_LATENCY_COUNTS]));
}

/* Has a webhook an open alert? */
static bool
has_alert(CwhReader *alert, const pg_uuid_t *webhook_id)
{
	ScanKeyData key;

	cwh_key_uuid(&key, 1, webhook_id);
	return cwh_reader_find(alert, &key, 1);
}

/*
 * Add to the health of webhooks, and set the gains' output.  A row that is
 * locked, by another worker or by the deletion of its webhook, is skipped; the
 * next settle tries again.
 */
void
cwh_health_add(CwhHealthGain **gains, int n)
{
	Update		update;
	CwhReader	alert;

	if (n == 0)
		return;
	begin(&update, CWH_REL_HEALTH, CWH_HEALTH_COLUMNS, CWH_REL_HEALTH_PKEY, 1);
	cwh_reader_open(&alert, CWH_REL_ALERT, CWH_REL_ALERT_OPEN, AccessShareLock, 1);
	for (int i = 0; i < n; i++)
	{
		CwhHealthGain *gain = gains[i];
		ScanKeyData key;

		cwh_key_uuid(&key, 1, &gain->webhook_id);
		gain->written = find(&update, &key, 1, LockWaitSkip);
		if (!gain->written)
			continue;
		take_former(gain, update.old);
		add_gain(&update, gain);
		write_row(&update);
		gain->alerting = gain->failures > 0 || has_alert(&alert, &gain->webhook_id);
	}
	cwh_reader_close(&alert);
	end(&update);
}

/*
 * Activity
 */

/* Seconds that a row of activity is about. */
#define ACTIVITY_S		600

/* Begin a worker's row for the current ten minutes. */
static void
insert_activity(Update *update, TimestampTz since, int worker,
				const CwhActivity *activity)
{
	TupleTableSlot *slot = cwh_rows_next(&update->rows);

	cwh_set_column(slot, CWH_ACTIVITY_SINCE, TimestampTzGetDatum(since));
	cwh_set_column(slot, CWH_ACTIVITY_WORKER, Int32GetDatum(worker));
	cwh_set_column(slot, CWH_ACTIVITY_SUCCEEDED, Int64GetDatum(activity->succeeded));
	cwh_set_column(slot, CWH_ACTIVITY_FAILED, Int64GetDatum(activity->failed));
	cwh_set_column(slot, CWH_ACTIVITY_GIVEN_UP, Int64GetDatum(activity->given_up));
	ExecStoreVirtualTuple(slot);
}

/*
 * Add to a worker's activity, unless there was none.  If a former worker of that
 * number, which is about to leave, begins the same row, this is an error, and the
 * next settle finds the row.
 */
void
cwh_activity_add(int worker, const CwhActivity *activity)
{
	/* PostgreSQL's epoch is a whole number of these after that of 1970 */
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz since = now - now % (ACTIVITY_S * USECS_PER_SEC);
	Update		update;
	ScanKeyData keys[2];

	if (activity->succeeded + activity->failed + activity->given_up == 0)
		return;
	begin(&update, CWH_REL_ACTIVITY, CWH_ACTIVITY_COLUMNS, CWH_REL_ACTIVITY_PKEY, 2);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(since));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(worker));
	if (find(&update, keys, 2, LockWaitBlock))
	{
		add(&update, CWH_ACTIVITY_SUCCEEDED, activity->succeeded);
		add(&update, CWH_ACTIVITY_FAILED, activity->failed);
		add(&update, CWH_ACTIVITY_GIVEN_UP, activity->given_up);
		write_row(&update);
	}
	else
		insert_activity(&update, since, worker, activity);
	end(&update);
}

/* SQL: log that an alert has opened or closed. */
Datum
chatwebhook_log_alert(PG_FUNCTION_ARGS)
{
	char	   *subject = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *message = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (PG_GETARG_BOOL(2))
		ereport(LOG,
				(errmsg("chatwebhook: alert about %s closed: %s",
						subject, message),
				 errhidecontext(true), errhidestmt(true)));
	else
		ereport(WARNING,
				(errmsg("chatwebhook: alert about %s opened: %s",
						subject, message),
				 errhidecontext(true), errhidestmt(true)));
	PG_RETURN_VOID();
}
