/*
 * progress.c
 *		Says how far a function is that acts on many rows.
 *
 * Every PROGRESS_MS, the client gets a NOTICE, and for others, a comment is put
 * before the statement in pg_stat_activity.query.  Until the function's transaction
 * ends, they can see nothing else of it.  application_name is the client's own,
 * and pg_stat_progress_... views exist for PostgreSQL's own commands only.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "progress.h"

PG_FUNCTION_INFO_V1(chatwebhook_progress);

#define PROGRESS_MS		2000

/* The function that this session is in. */
typedef struct Progress
{
	TimestampTz statement;		/* it belongs to the statement that began then */
	char		function[NAMEDATALEN];
	int64		done;
	int64		total;			/* -1: not known */
	TimestampTz reported_at;
	bool		in_activity;	/* pg_stat_activity shows it */
} Progress;

static Progress progress;

/* Show others the statement, with a comment before it if there is one. */
static void
set_activity(const char *comment)
{
	uint64		query_id = pgstat_get_my_query_id();
	const char *statement = debug_query_string ? debug_query_string : "";
	char	   *query = psprintf("%s%s", comment, statement);

	pgstat_report_activity(STATE_RUNNING, query);
	/* which that has reset */
	pgstat_report_query_id(query_id, true);
	pfree(query);
	progress.in_activity = comment[0] != '\0';
}

/* Say how far it is, if it is time. */
static void
report(void)
{
	TimestampTz now = GetCurrentTimestamp();
	char		done[64];
	char	   *comment;

	if (!TimestampDifferenceExceeds(progress.reported_at, now, PROGRESS_MS))
		return;
	progress.reported_at = now;
	if (progress.total >= 0)
		snprintf(done, sizeof(done), INT64_FORMAT " of " INT64_FORMAT,
				 progress.done, progress.total);
	else
		snprintf(done, sizeof(done), INT64_FORMAT, progress.done);
	comment = psprintf("/* %s(): %s done */ ", progress.function, done);
	set_activity(comment);
	pfree(comment);
	ereport(NOTICE,
			(errmsg("%s(): %s done", progress.function, done)));
}

/* One more is done, if this is part of such a function. */
void
cwh_progress_step(void)
{
	if (progress.statement != GetCurrentStatementStartTimestamp())
		return;
	progress.done++;
	report();
}

/*
 * SQL: a function has done so many of so many, or, if the total is null, of an
 * unknown number.  0 begins, and null, or no function, ends.
 */
Datum
chatwebhook_progress(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
	{
		if (progress.in_activity)
			set_activity("");
		progress.statement = 0;
		PG_RETURN_VOID();
	}
	progress.done = PG_GETARG_INT64(1);
	if (progress.done == 0)
	{
		progress.statement = GetCurrentStatementStartTimestamp();
		text_to_cstring_buffer(PG_GETARG_TEXT_PP(0), progress.function,
							   sizeof(progress.function));
		progress.total = PG_ARGISNULL(2) ? -1 : PG_GETARG_INT64(2);
		progress.reported_at = GetCurrentTimestamp();
		progress.in_activity = false;
	}
	else
		report();
	PG_RETURN_VOID();
}
