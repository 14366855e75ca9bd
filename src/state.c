/*
 * state.c
 *		The worker's state, and transactions apart from its main ones.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "state.h"

Worker		cwh_worker;
volatile sig_atomic_t cwh_worker_terminate = false;

/*
 * Run work() in a transaction of its own, which it begins and commits.  An
 * error is logged and aborts that transaction only; returns false then.
 */
bool
cwh_run_apart(const char *what, void (*work) (void))
{
	MemoryContext oldcontext;
	volatile bool ok = false;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	pgstat_report_activity(STATE_RUNNING, what);
	PG_TRY();
	{
		work();
		ok = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(cwh_worker.transaction_context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		/* DROP EXTENSION may have come first; the next transaction sees that */
		if (!cwh_is_absence(error->sqlerrcode))
		{
			cwh_note_error(error->message);
			EmitErrorReport();
		}
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(cwh_worker.transaction_context);
	pgstat_report_activity(STATE_IDLE, NULL);
	/* a lock wait may have reset our latch; set it again to avoid a lost wakeup */
	SetLatch(MyLatch);
	return ok;
}
