/*
 * wait.c
 *		Waits in a session until no webhook has pending deliveries.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "shared.h"

PG_FUNCTION_INFO_V1(chatwebhook_wait_until_idle);

/* Does an enabled webhook have pending deliveries, except those for later? */
static bool
anything_pending(void)
{
	bool		found;
	int			result;

	/* the transaction's own snapshot may be older than the settles */
	PushActiveSnapshot(GetLatestSnapshot());
	result = SPI_execute("SELECT 1 FROM chatwebhook._webhook w"
						 " WHERE w.enabled AND EXISTS ("
						 "   SELECT 1 FROM chatwebhook.queue q"
						 "    WHERE q.webhook_id OPERATOR(pg_catalog.=) w.id"
						 "      AND (q.deliver_at IS NULL OR q.next_attempt_at"
						 "           OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()))",
						 true, 1);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not read the queue: %s",
			 SPI_result_code_string(result));
	found = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	PopActiveSnapshot();
	return found;
}

/* SQL: wait until nothing is pending; false if the time is up before. */
Datum
chatwebhook_wait_until_idle(PG_FUNCTION_ARGS)
{
	Interval   *interval = PG_GETARG_INTERVAL_P(0);
	TimestampTz end;
	bool		pending;

	if (cwh_settled == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("chatwebhook is not in shared_preload_libraries: nothing is sent"),
				 errhint("Add chatwebhook to shared_preload_libraries in postgresql.conf and restart the server.")));
	end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												  TimestampTzGetDatum(GetCurrentTimestamp()),
												  IntervalPGetDatum(interval)));
	SPI_connect();
	ConditionVariablePrepareToSleep(cwh_settled);
	while ((pending = anything_pending()))
	{
		long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														 end);

		if (ms <= 0)
			break;
		CHECK_FOR_INTERRUPTS();
		/* at most a second, since canceling and disabling broadcast nothing */
		(void) ConditionVariableTimedSleep(cwh_settled, Min(ms, 1000),
										   PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	SPI_finish();
	PG_RETURN_BOOL(!pending);
}
