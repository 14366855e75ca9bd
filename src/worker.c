/*
 * worker.c
 *		The loop that delivers, in one process for each database.
 *
 * It claims deliveries in a short transaction, sends them without any, and
 * settles what became of them in a second short one, which also claims the
 * next; while bytes travel it has no transaction, no snapshot and no lock.
 * It waits for its latch, the postmaster's death and libcurl's sockets at
 * once.
 *
 * Here are the process, the loop and its transactions.  worker.h has what they
 * are about, and a section for each file that does a part of it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "worker.h"

/* One settle takes no more than this, and fewer after one has failed. */
#define MAX_SETTLE			1000

/* After an error of the worker's own. */
#define FIRST_PAUSE_MS		100
#define MAX_PAUSE_MS		10000

/* After the clock was set back, so many deliveries are changed at a time. */
#define CATCH_UP_BATCH		10000

/* After a locked row was met, settles are careful for this long. */
#define CAREFUL_MS			10000

Worker		cwh_worker;
volatile sig_atomic_t cwh_worker_terminate = false;

static TimestampTz paused_until = 0;
static int	pause_ms = 0;
static TimestampTz next_sweep = 0;
static int64 clock_ahead = 0;	/* of the monotonic one, in microseconds */
static TimestampTz clock_lost = 0;	/* it has been set back from there */
static bool clock_unknown = true;	/* it may have been, while no worker ran */
static bool look_again = false; /* at the extension, for it may have gone, or
								 * at a webhook that may have changed */
static bool told_plain = false; /* that secrets are not encrypted */
static XLogRecPtr emitted_upto = InvalidXLogRecPtr; /* what may be claimed was
													 * committed by there */
static Oid	extension = InvalidOid; /* the one that we serve */

/* SIGTERM: leave, but at a place where nothing is half done. */
static void
on_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	cwh_worker_terminate = true;
	/* a connector may run for ever */
	if (cwh_connector_running)
	{
		ProcDiePending = true;
		InterruptPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/* End this process, and let the launcher know how. */
static void
leave(CwhExit how)
{
	AbortOutOfAnyTransaction();
	cwh_slot_set_exit(how);
	cwh_transport_close();
	proc_exit(0);
}

/* Keep the worker's own trouble for worker_status. */
void
cwh_note_error(const char *message)
{
	cwh_copy_text(cwh_worker.stats.last_error, message,
				  sizeof(cwh_worker.stats.last_error));
	cwh_worker.stats_changed = true;
}

/* Say once, if there are any secrets, that nothing encrypts them at rest. */
static void
tell_if_plain(void)
{
	const CwhVaultKey *keys;
	int			n;

	if (told_plain || cwh_vault_keys(&keys, &n) != NULL || n > 0 ||
		!cwh_outbox_any_webhook())
		return;
	told_plain = true;
	ereport(LOG,
			(errmsg("the secrets of chatwebhook in database \"%s\" are not encrypted",
					get_database_name(MyDatabaseId)),
			 errhint("Set chatwebhook.secret_key_file, and call chatwebhook.rekey().")));
}

/*
 * See that the extension is still there, in a version that we know, and that
 * what we know of the webhooks is true.
 */
static void
check_configuration(void)
{
	char	   *version;
	uint64		generation;

	AcceptInvalidationMessages();
	generation = cwh_config_generation();
	if (generation != cwh_worker.seen_generation)
	{
		Oid			present = cwh_outbox_present(&version);

		if (!OidIsValid(present))
			leave(CWH_EXIT_NO_EXTENSION);
		if (present != extension && OidIsValid(extension))
			leave(CWH_EXIT_CRASHED);	/* it is another one, with other rows */
		extension = present;
		if (strcmp(version, CWH_SQL_VERSION) != 0)
		{
			ereport(cwh_slot_told() ? DEBUG1 : WARNING,
					(errmsg("chatwebhook's library is of version %s, but the extension in database \"%s\" is of version %s: nothing is sent",
							CWH_SQL_VERSION, get_database_name(MyDatabaseId), version),
					 errhint("Use ALTER EXTENSION chatwebhook UPDATE, or install that version's library and restart the server.")));
			leave(CWH_EXIT_OTHER_VERSION);
		}
		cwh_config_watch();
		if (cwh_worker.seen_generation == 0)
			cwh_id_seen(cwh_outbox_last_id());
		tell_if_plain();
		cwh_worker.seen_generation = cwh_config_generation();
		cwh_worker.refresh_due = true;
	}
}

/* Is this the error of something that is not there? */
static bool
is_absence(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		sqlerrcode == ERRCODE_UNDEFINED_FUNCTION ||
		sqlerrcode == ERRCODE_UNDEFINED_SCHEMA;
}

/*
 * When is a transaction to be on disk?  Before a connector's next request is
 * sent, since the last one must not be made again, and before what comes behind
 * in an ordered conversation.  And if it has swept, before anything is sent of
 * what it found, which it knows nothing else of.
 */
static CwhFlush
when_to_flush(const Settle *work, bool do_settle, bool do_sweep)
{
	if (do_sweep)
		return CWH_FLUSH_NOW;
	for (int i = 0; i < work->n; i++)
		if (work->deliveries[i]->outcome == CWH_OUTCOME_STEP ||
			work->deliveries[i]->conversation_id)
			return CWH_FLUSH_NOW;
	return do_settle ? CWH_FLUSH_SOON : CWH_FLUSH_NOT;
}

/*
 * One transaction: settle what has ended, look around, and claim.  An error
 * leaves everything as it was, to be tried again after a pause.
 */
static void
transact(bool do_settle, bool do_sweep, bool do_claim)
{
	MemoryContext oldcontext;
	volatile bool ok = false;
	volatile int64 ncaught_up = 0;
	Settle	   *work;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	cwh_begin_claims();
	pgstat_report_activity(STATE_RUNNING,
						   do_settle ? "settling" : do_sweep ? "sweeping" : "claiming");
	work = palloc0(sizeof(Settle));
	PG_TRY();
	{
		cwh_outbox_begin();
		MemoryContextSwitchTo(cwh_worker.transaction_context);
		check_configuration();
		/* first, since what a webhook was to be disabled for may be mended */
		cwh_refresh_endpoints();
		if (do_settle)
		{
			cwh_settle(work);
			cwh_settle_endpoints(work);
		}
		if (do_sweep)
		{
			/*
			 * one for all, and for transactions that are still open later,
			 * too
			 */
			if (cwh_worker.number == 0 &&
				(clock_unknown || GetCurrentTimestamp() < clock_lost))
				ncaught_up = cwh_outbox_catch_up(GetCurrentTimestamp(),
												 CATCH_UP_BATCH);
			if (ncaught_up > 0)
				cwh_sweep_all();
			cwh_sweep_queue();
			cwh_refresh_endpoints();
			cwh_find_deleted();
		}
		if (do_settle)
			cwh_claim_next(work, do_claim);
		if (do_claim)
			cwh_claim_due();
		cwh_outbox_commit(when_to_flush(work, do_settle, do_sweep));
		/* no event is sent that a crash could still take back */
		if (cwh_any_claims())
			XLogFlush(emitted_upto);
		ok = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(cwh_worker.transaction_context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		if (is_absence(error->sqlerrcode) && pause_ms == 0)
		{
			/* DROP EXTENSION has got in between, as the next look will show */
			cwh_worker.seen_generation = 0;
			pause_ms = 1;
		}
		else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
				 cwh_worker.careful_until < GetCurrentTimestamp())
			cwh_worker.careful_until =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CAREFUL_MS);
		else
		{
			cwh_note_error(error->message);
			pause_ms = Min(Max(2 * pause_ms, FIRST_PAUSE_MS), MAX_PAUSE_MS);
			paused_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   pause_ms);
			cwh_worker.settle_limit = Max(1, cwh_worker.settle_limit / 2);
			EmitErrorReport();
		}
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(cwh_worker.transaction_context);
	if (ok)
	{
		if (do_settle)
			cwh_keep_settle(work);
		cwh_keep_claims();
		pause_ms = 0;
		cwh_worker.settle_limit = Min(MAX_SETTLE, cwh_worker.settle_limit * 2);
	}
	else
	{
		cwh_worker.refresh_due = true;
		cwh_undo_claims();
		/* a result that cannot be settled must not stand before the others */
		if (cwh_worker.settle_limit == 1 && cwh_worker.nresults > 1)
			cwh_put_result_last();
	}
	if (do_sweep && ok)
	{
		next_sweep = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 cwh_poll_interval);
		clock_unknown = ncaught_up == CATCH_UP_BATCH;
		cwh_forget_endpoints();
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(cwh_worker.transaction_context);
	pgstat_report_activity(STATE_IDLE, NULL);
	/* a wait for a lock may have eaten it, and what it had to tell */
	SetLatch(MyLatch);
}

/* Run something in a transaction of its own, whose failure harms nothing else. */
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
		if (!is_absence(error->sqlerrcode))
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
	/* a wait for a lock may have eaten it */
	SetLatch(MyLatch);
	return ok;
}

/* Take the hints that commits have left. */
static void
take_hints(void)
{
	CwhHint		hints[CWH_MAX_HINTS];
	bool		sweep;
	int			n = cwh_slot_take_hints(hints, &sweep, &emitted_upto);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = cwh_get_endpoint(&hints[i].webhook_id);

		if (hints[i].due == DT_NOBEGIN)
		{
			endpoint->later = endpoint->changed = true;
			/* what held it up may be over: ask again */
			endpoint->blocked = false;
			/* even with no room for a claim: it may have been disabled */
			look_again = true;
		}
		cwh_make_ready(endpoint, hints[i].due, hints[i].id, hints[i].n);
		/* emitted before the clock was set back */
		if (hints[i].due > now)
		{
			clock_lost = Max(clock_lost, hints[i].due);
			next_sweep = 0;
		}
	}
	if (sweep)
	{
		next_sweep = 0;
		look_again = true;
		/*
		 * A commit wakes us before it sends its invalidations: look for the
		 * extension even if none has told that it has changed.
		 */
		cwh_worker.seen_generation = 0;
	}
}

/*
 * If the clock was set, what we wait for goes with it, as if it had not been.
 * If it was set back, the queue holds what is due later than it should be.
 */
static void
follow_clock(TimestampTz now)
{
	static TimestampTz *const times[] = {
		&paused_until, &next_sweep,
		&cwh_worker.oldest_result, &cwh_worker.touched_retry_at,
		&cwh_worker.careful_until, &cwh_worker.starved_until,
		&cwh_worker.slow_until, &cwh_worker.next_alerts,
		&cwh_worker.next_upkeep, &cwh_worker.pass_started
	};
	instr_time	monotonic;
	int64		before = clock_ahead;
	int64		step;

	INSTR_TIME_SET_CURRENT(monotonic);
	clock_ahead = now - (int64) INSTR_TIME_GET_MICROSEC(monotonic);
	step = clock_ahead - before;
	if (Abs(step) < CWH_CLOCK_STEP)
		return;
	cwh_gate_set_clock(clock_ahead);
	if (before == 0)
		return;					/* the first look */
	for (int i = 0; i < lengthof(times); i++)
		if (*times[i] > 0)
			*times[i] += step;
	cwh_endpoints_follow_clock(step);
	if (step < 0)
	{
		ereport(LOG, (errmsg("chatwebhook follows the clock, which was set back by %.1f s",
							 -step / 1e6)));
		clock_lost = Max(clock_lost, now - step);
		next_sweep = 0;
	}
}

/* Take over settings that have changed. */
static void
reload(void)
{
	CwhTransportOptions options;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	cwh_transport_options(&options);
	options.max_connections = cwh_in_flight_limit();
	cwh_transport_configure(&options);
	/* the key file may be another, and open more secrets */
	next_sweep = 0;
	cwh_worker.next_upkeep = 0;
	cwh_slot_halt(!cwh_enabled);
	if (!cwh_enabled)
		cwh_release_all_waiting();
}

/* Decide on a transaction, and run it. */
static void
transact_if_due(TimestampTz now)
{
	bool		do_settle;
	bool		do_sweep;
	bool		do_claim;

	if (now < paused_until)
		return;
	do_settle = cwh_is_settle_due(now);
	do_sweep = cwh_enabled && now >= next_sweep;
	/* a claim can wait for the next settle, unless a slot would stay empty */
	do_claim = cwh_enabled &&
		(do_settle || do_sweep || cwh_is_claim_wanted());
	/* what has ended is not to wait for a claim that may fail again */
	if (cwh_worker.settle_alone && do_settle)
		do_claim = false;
	if (do_settle || do_sweep || do_claim || look_again)
	{
		look_again = false;
		transact(do_settle, do_sweep, do_claim);
	}
}

/* Milliseconds until there is something to do without being woken. */
static long
time_to_wait(TimestampTz now)
{
	TimestampTz next = cwh_enabled ? next_sweep : DT_NOEND;
	long		transport = cwh_transport_timeout_ms();
	long		ms;

	next = Min(next, cwh_next_timer());
	next = Min(next, cwh_next_settle());
	next = Max(next, paused_until);
	/* what was to be claimed meanwhile */
	if (now < paused_until && cwh_enabled &&
		(look_again || cwh_is_claim_wanted()))
		next = Min(next, paused_until);
	next = Min(next, cwh_next_keep_up());
	if (cwh_worker.starved_until > now)
		next = Min(next, cwh_worker.starved_until);
	if (cwh_worker.nto_render > 0)
		next = Min(next, now);
	if (next == DT_NOEND)
		return transport;
	ms = next <= now ? 0 : (long) ((next - now + 999) / 1000);
	return transport >= 0 ? Min(ms, transport) : ms;
}

/* Show the worker's figures, if they have changed. */
static void
show_stats(void)
{
	if (!cwh_worker.stats_changed &&
		cwh_worker.stats.in_flight == cwh_worker.in_flight)
		return;
	cwh_worker.stats.in_flight = cwh_worker.in_flight;
	cwh_slot_update_stats(&cwh_worker.stats);
	cwh_worker.stats_changed = false;
}

/* Deliver, until asked to leave. */
static void
deliver(void)
{
	WaitEventSet *events = cwh_create_wait_event_set(3);
	uint32		wait_event = cwh_wait_event("ChatwebhookWorkerMain");

	(void) cwh_run_apart("disabling webhooks", cwh_disable_culprits);
	AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(events, WL_SOCKET_READABLE, cwh_transport_fd(), NULL, NULL);

	while (!cwh_worker_terminate && !cwh_slot_stop_requested())
	{
		CwhTransfer *transfer;
		WaitEvent	event;
		TimestampTz now;
		bool		busy = false;

		ResetLatch(MyLatch);
		/* there is no statement to cancel here */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();
		take_hints();
		now = GetCurrentTimestamp();
		follow_clock(now);
		cwh_run_timers(now);
		transact_if_due(now);
		if (cwh_enabled && now >= cwh_worker.starved_until)
			cwh_start_deliveries();
		if (cwh_worker.nto_render > 0)
			cwh_render_deliveries(GetCurrentTimestamp());
		cwh_keep_up(now);
		(void) cwh_transport_drive();
		while ((transfer = cwh_transport_reap()) != NULL)
		{
			cwh_judge((Delivery *) transfer);
			busy = true;
		}
		if (busy)
			continue;			/* free slots can be filled at once */

		show_stats();
		(void) WaitEventSetWait(events, time_to_wait(GetCurrentTimestamp()),
								&event, 1, wait_event);
	}

	/* what has been answered need not be repeated */
	for (int i = 0; cwh_worker.nresults > 0 && i < 5; i++)
		transact(true, false, false);
	cwh_check_all_alerts();
}

/* Settings that this process needs, whatever the database's say. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		/* whoever owns the database could have us be somebody else */
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		CWH_TRANSACTION_TIMEOUT
		/* see cwh_outbox_settle() */
		{"lock_timeout", "200ms"},
		/* see cwh_outbox_commit() */
		{"synchronous_commit", "off"},
		/* other people's triggers on our tables do not run as this process */
		{"session_replication_role", "replica"},
		{"row_security", "off"},
		/* tables that are empty now and full in a minute mislead the planner */
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_indexscan", "on"},
		{"enable_nestloop", "on"},
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_material", "off"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

/* Set up what the loop needs. */
static void
set_up(void)
{
	CwhTransportOptions options;

	cwh_worker.context = AllocSetContextCreate(TopMemoryContext,
											   "chatwebhook worker",
											   ALLOCSET_DEFAULT_SIZES);
	cwh_worker.transaction_context = AllocSetContextCreate(TopMemoryContext,
														   "chatwebhook transaction",
														   ALLOCSET_DEFAULT_SIZES);
	cwh_worker.settle_limit = MAX_SETTLE;
	cwh_worker.stats_changed = true;
	MemoryContextSwitchTo(cwh_worker.context);
	cwh_endpoints_set_up();
	cwh_render_set_up();
	cwh_transport_options(&options);
	options.max_connections = cwh_in_flight_limit();
	if (!cwh_transport_open(&options))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
}

/* Entry point of a worker's process. */
void
cwh_worker_main(Datum arg)
{
	Oid			database;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_sigterm);
	/* lock_timeout makes itself felt through it */
	pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	/* attached first: from here on commits leave hints, so none is missed */
	if (!cwh_slot_attach(DatumGetInt32(arg), &database, &cwh_worker.number))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	fix_settings();
	set_up();

	StartTransactionCommand();
	if (!OidIsValid(get_extension_oid("chatwebhook", true)))
		leave(CWH_EXIT_NO_EXTENSION);
	CommitTransactionCommand();
	cwh_worker.stats.started_at = GetCurrentTimestamp();
	transact(false, false, false);
	cwh_slot_halt(!cwh_enabled);
	cwh_slot_announce();
	ereport(LOG, (errmsg("chatwebhook worker %d started", cwh_worker.number + 1)));
	deliver();
	cwh_transport_close();
	proc_exit(0);
}
