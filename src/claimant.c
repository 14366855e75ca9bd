/*
 * claimant.c
 *		Claims and settles in a session, for the tests.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "outbox.h"
#include "shared.h"

PG_FUNCTION_INFO_V1(chatwebhook_claim);
PG_FUNCTION_INFO_V1(chatwebhook_settle);
PG_FUNCTION_INFO_V1(chatwebhook_release);

/*
 * A session as a claimant, beside the workers and by the same code, to see
 * what they do to each other.
 */

static void
on_claimed(void *context, const CwhClaimed *claimed)
{
	ReturnSetInfo *claim_result = context;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (!claimed->mine)
		return;
	values[0] = Int64GetDatum(claimed->id);
	values[1] = Int32GetDatum(claimed->attempts);
	tuplestore_putvalues(claim_result->setResult, claim_result->setDesc,
						 values, nulls);
}

/* SQL: claim deliveries of a webhook for this session. */
Datum
chatwebhook_claim(PG_FUNCTION_ARGS)
{
	CwhWant		want;

	if (!cwh_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("chatwebhook is not in shared_preload_libraries")));
	cwh_init_materialized(fcinfo);
	want.webhook_id = *PG_GETARG_UUID_P(0);
	want.after.due = DT_NOBEGIN;
	want.after.id = 0;
	want.n = PG_GETARG_INT32(1);
	SPI_connect();
	cwh_outbox_claim(&want, 1, GetCurrentTimestamp(), on_claimed,
					 fcinfo->resultinfo);
	SPI_finish();
	return (Datum) 0;
}

/* SQL: settle a delivery as delivered; false if it is not this session's. */
Datum
chatwebhook_settle(PG_FUNCTION_ARGS)
{
	CwhResult	result;
	bool		mine = false;

	memset(&result, 0, sizeof(result));
	result.id = PG_GETARG_INT64(0);
	if (cwh_preloaded)
		cwh_claims_mine(&result.id, 1, &mine);
	if (!mine)
		PG_RETURN_BOOL(false);
	result.outcome = CWH_OUTCOME_DELIVERED;
	result.attempted_at = GetCurrentTimestamp();
	result.status = 200;
	SPI_connect();
	cwh_outbox_settle(&result, 1, true);
	SPI_finish();
	PG_RETURN_BOOL(result.settled);
}

/* SQL: give up all claims of this session. */
Datum
chatwebhook_release(PG_FUNCTION_ARGS)
{
	cwh_claim_release(NULL, -1);
	PG_RETURN_VOID();
}
