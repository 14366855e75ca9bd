/*
 * statement.c
 *		Prepared SQL, its parameters and results, and the worker's transactions.
 *
 * Statements are run through SPI, by plans that are kept for the life of the
 * process.  A transaction begins in cwh_begin() and ends in cwh_commit(), or
 * with an error, which the caller catches.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "pgstat.h"
#include "utils/snapmgr.h"

#include "shared.h"
#include "statement.h"

/* The end of the last commit of CWH_FLUSH_SOON. */
static XLogRecPtr pending = InvalidXLogRecPtr;

/*
 * Is the last commit of CWH_FLUSH_SOON not on disk yet?  The next one would wait for
 * that.  When it is, our latch will be set.
 */
bool
cwh_flush_pending(void)
{
	if (GetFlushRecPtr(NULL) >= pending)
		return false;
	cwh_await_flush(pending);
	return GetFlushRecPtr(NULL) < pending;
}

/*
 * Commit.  The worker runs with synchronous_commit off, so that neither it nor
 * its row locks wait for the disk; this is where it says which commits must be
 * on disk, and when.  At most one commit of CWH_FLUSH_SOON is not there yet.
 */
void
cwh_commit(CwhFlush flush)
{
	SPI_finish();
	PopActiveSnapshot();
	XactLastCommitEnd = InvalidXLogRecPtr;
	CommitTransactionCommand();
	if (flush == CWH_FLUSH_NOW && !XLogRecPtrIsInvalid(XactLastCommitEnd))
		XLogFlush(XactLastCommitEnd);
	else if (flush == CWH_FLUSH_SOON && !XLogRecPtrIsInvalid(XactLastCommitEnd))
	{
		XLogFlush(pending);
		pending = XactLastCommitEnd;
		cwh_flush_soon(pending);
	}
	pgstat_report_stat(false);
}

/*
 * Run a statement within a transaction that is connected to SPI.  Returns the
 * number of rows; they are in SPI_tuptable.
 */
uint64
cwh_run(CwhStatement *statement, Datum *args)
{
	MemoryContext context = CurrentMemoryContext;
	int			result;

	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statement->sql, statement->nargs,
									   statement->argtypes);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		statement->plan = plan;
	}
	result = SPI_execute_plan(statement->plan, args, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement->sql,
			 SPI_result_code_string(result));
	/* SPI leaves its own context behind, which ends with the transaction */
	MemoryContextSwitchTo(context);
	return SPI_processed;
}
