/*
 * chatwebhook_test.c
 *		Claims and settles in a session, for the tests.
 *
 * A session takes the part of a worker, so that a test can decide what happens
 * between a claim and its settle.  The code that claims and settles is the
 * workers' own: this module finds it in chatwebhook's library.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "dequeue.h"
#include "queue.h"
#include "shared.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(chatwebhook_test_claim);
PG_FUNCTION_INFO_V1(chatwebhook_test_settle);
PG_FUNCTION_INFO_V1(chatwebhook_test_release);
PG_FUNCTION_INFO_V1(chatwebhook_test_stop_at_commit);

/* The functions of the library, as its headers declare them. */
static struct
{
	void		(*claim_due) (const CwhWant *wants, int n, CwhMayClaim may,
							  CwhOnClaimed each, void *context);
	void		(*settle) (CwhResult *results, int n, bool careful);
	void		(*claims_mine) (const int64 *ids, int n, bool *mine);
	void		(*claim_release) (const int64 *ids, int n);
}			library;

/* Find a function of the library. */
static void *
find(const char *name)
{
	return load_external_function("$libdir/chatwebhook", name, true, NULL);
}

/* Find the functions.  Claims are in shared memory, so it must be there. */
static void
find_library(void)
{
	const char *preloaded = GetConfigOption("shared_preload_libraries", false,
											false);

	if (strstr(preloaded, "chatwebhook") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("chatwebhook is not in shared_preload_libraries")));
	library.claim_due = find("cwh_claim_due");
	library.settle = find("cwh_queue_settle");
	library.claims_mine = find("cwh_claims_mine");
	library.claim_release = find("cwh_claim_release");
}

/* Return a claimed delivery, unless another process was faster. */
static void
on_claimed(void *context, const CwhClaimed *claimed)
{
	ReturnSetInfo *rsinfo = context;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (!claimed->mine)
		return;
	values[0] = Int64GetDatum(claimed->id);
	values[1] = Int32GetDatum(claimed->attempts);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* SQL: claim deliveries of a webhook for this session. */
Datum
chatwebhook_test_claim(PG_FUNCTION_ARGS)
{
	CwhWant		want;

	find_library();
	cwh_init_materialized(fcinfo);
	want.webhook_id = *PG_GETARG_UUID_P(0);
	want.after.due = DT_NOBEGIN;
	want.after.id = 0;
	want.until = GetCurrentTimestamp();
	want.n = PG_GETARG_INT32(1);
	SPI_connect();
	library.claim_due(&want, 1, NULL, on_claimed, fcinfo->resultinfo);
	SPI_finish();
	return (Datum) 0;
}

/* SQL: settle a delivery as delivered; false if this session does not hold it. */
Datum
chatwebhook_test_settle(PG_FUNCTION_ARGS)
{
	CwhResult	result;
	bool		mine;

	find_library();
	memset(&result, 0, sizeof(result));
	result.id = PG_GETARG_INT64(0);
	library.claims_mine(&result.id, 1, &mine);
	if (!mine)
		PG_RETURN_BOOL(false);
	result.outcome = CWH_OUTCOME_DELIVERED;
	result.attempted_at = GetCurrentTimestamp();
	result.status = 200;
	SPI_connect();
	library.settle(&result, 1, true);
	SPI_finish();
	PG_RETURN_BOOL(result.settled);
}

/* SQL: give up all claims of this session. */
Datum
chatwebhook_test_release(PG_FUNCTION_ARGS)
{
	find_library();
	library.claim_release(NULL, -1);
	PG_RETURN_VOID();
}

/* Callbacks run in reverse order, so chatwebhook's own comes after this one. */
static void
stop_once(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT)
		return;
	UnregisterXactCallback(stop_once, NULL);
	raise(SIGSTOP);
}

/* SQL: stop this process when others can see what its transaction has done. */
Datum
chatwebhook_test_stop_at_commit(PG_FUNCTION_ARGS)
{
	RegisterXactCallback(stop_once, NULL);
	PG_RETURN_VOID();
}
