/*
 * worker.c
 *		The loop that delivers, in one or more processes for each database.
 *
 * The worker claims deliveries in a short transaction, sends them without any,
 * and settles what became of them in a second short one, which also claims the
 * next; while bytes travel it has no transaction, no snapshot and no lock.  It
 * waits for its latch, the postmaster's death and libcurl's sockets at once.
 *
 * Here are the process, the loop and its main transaction (transact()).
 * endpoint.h, delivery.h, exchange.h and ledger.h describe what it works with.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <signal.h>
#include <time.h>

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
#include "storage/pmsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "claim.h"
#include "changes.h"
#include "compat.h"
#include "connector.h"
#include "endpoint.h"
#include "gate.h"
#include "identity.h"
#include "ledger.h"
#include "render.h"
#include "request.h"
#include "settings.h"
#include "settle.h"
#include "shared.h"
#include "statement.h"
#include "state.h"
#include "transport.h"
#include "upkeep.h"

extern PGDLLEXPORT void cwh_worker_main(Datum arg);

/* Wait this long after an error of the worker's own, and twice as long each. */
#define FIRST_PAUSE_MS		100
#define MAX_PAUSE_MS		10000

/* This long after SIGTERM, end the transaction that is running. */
#define GRACE_MS			2000

/* After the clock was set back, change this many deliveries at a time. */
#define CATCH_UP_BATCH		10000

/* INDENT OFF */
static const char installed_sql[] =
	"SELECT oid, extversion::pg_catalog.text FROM pg_catalog.pg_extension "
	"WHERE extname" EQ "'chatwebhook'";
enum
{
	INSTALLED_OID, INSTALLED_VERSION
};

static const char any_plain_sql[] =
	"SELECT 1 FROM chatwebhook._webhook WHERE NOT chatwebhook._encrypts() LIMIT 1";

static CwhStatement installed_st = {installed_sql, 0, {0}, NULL};
static CwhStatement any_plain_st = {any_plain_sql, 0, {0}, NULL};
/* INDENT ON */

/* What the process was assigned, and what it has been told since. */
static CwhAssignment assignment;
static CwhMail mail;

static TimestampTz paused_until = 0;	/* no transaction before */
static int	pause_ms = 0;		/* after the last error; 0: there was none */
static bool absence_seen = false;	/* the last error was one of absence */
static TimestampTz next_sweep = 0;
static TimestampTz next_upkeep = 0;
static bool check_due = false;	/* the extension may have been dropped, or a
								 * webhook changed */
static Oid	extension = InvalidOid; /* the one that we serve */
static bool plain_logged = false;	/* that secrets are not encrypted */

static timer_t grace_timer;		/* runs from SIGTERM on; sends SIGUSR2 */

static int64 clock_ahead = 0;	/* of the monotonic one, in microseconds */
static TimestampTz clock_lost = 0;	/* it has been set back from there */
static bool clock_unknown = true;	/* it may have been, while no worker ran */

/* Let the transaction that is running go on for GRACE_MS; async-signal-safe. */
static void
start_grace(void)
{
	static const struct itimerspec grace = {
		.it_value = {GRACE_MS / 1000, GRACE_MS % 1000 * 1000000},
		.it_interval = {GRACE_MS / 1000, GRACE_MS % 1000 * 1000000}
	};

	(void) timer_settime(grace_timer, 0, &grace, NULL);
}

/* SIGTERM: exit at the next point where nothing is half done, or after GRACE_MS. */
static void
on_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	/* repeating the signal does not extend the grace period */
	if (!cwh_worker_terminate)
		start_grace();
	cwh_worker_terminate = true;
	/* a connector may run for ever */
	if (cwh_running_connector)
	{
		ProcDiePending = true;
		InterruptPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * SIGUSR2: the grace period is over.  End the SQL that is running, in a way that
 * it cannot catch; what was not settled is sent again.
 */
static void
on_grace_over(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (IsTransactionState())
	{
		ProcDiePending = true;
		InterruptPending = true;
		SetLatch(MyLatch);
	}
	errno = save_errno;
}

/*
 * Create the timer of the grace period.  It is none of PostgreSQL's timeouts,
 * which can only be enabled in advance: each transaction would leave behind a
 * SIGALRM that wakes the worker later, and so hides lost wakeups.
 */
static void
create_grace_timer(void)
{
	struct sigevent event;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = SIGUSR2;
	if (timer_create(CLOCK_MONOTONIC, &event, &grace_timer) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create a timer: %m")));
}

/* Report what the worker is at, for worker_status and the launcher. */
static void
report_state(void)
{
	cwh_worker.state.stats.in_flight = cwh_worker.in_flight;
	cwh_slot_report(&cwh_worker.state);
	cwh_worker.state_changed = false;
}

/* End this process, and let the launcher know how. */
static void
leave(CwhExit how)
{
	AbortOutOfAnyTransaction();
	cwh_worker.state.exit = how;
	report_state();
	(void) cwh_transport_configure(NULL);
	proc_exit(0);
}

/* Say once, if there are any secrets, that they are stored in plain text. */
static void
log_if_plain(void)
{
	if (plain_logged || cwh_run(&any_plain_st, NULL) == 0)
		return;
	plain_logged = true;
	ereport(LOG,
			(errmsg("the secrets of chatwebhook in database \"%s\" are not encrypted",
					get_database_name(MyDatabaseId)),
			 errhint("Set chatwebhook.secret_key_file, and call chatwebhook.rekey().")));
}

/*
 * Leave, unless the library works with this SQL: that of any patch release of
 * its version.  So a patch release, or a standby that has not got it yet, does
 * not stop sending.
 */
static void
check_version(const char *version)
{
	if (strncmp(version, CWH_VERSION,
				strrchr(CWH_VERSION, '.') + 1 - CWH_VERSION) == 0)
		return;
	ereport(assignment.version_logged ? DEBUG1 : WARNING,
			(errmsg("chatwebhook's library is of version %s, but the extension in database \"%s\" is of version %s: nothing is sent",
					CWH_VERSION, get_database_name(MyDatabaseId), version),
			 errhint("Use ALTER EXTENSION chatwebhook UPDATE, or install that version's library and restart the server.")));
	leave(CWH_EXIT_OTHER_VERSION);
}

/*
 * See that the extension still exists, in the library's version, and that what
 * we know of the webhooks is true.
 */
static void
check_configuration(void)
{
	Oid			installed;

	AcceptInvalidationMessages();
	if (cwh_config_generation() == cwh_worker.seen_generation)
		return;
	if (cwh_run(&installed_st, NULL) == 0)
		leave(CWH_EXIT_NO_EXTENSION);
	installed = DatumGetObjectId(cwh_field(0, INSTALLED_OID, NULL));
	if (installed != extension && OidIsValid(extension))
		leave(CWH_EXIT_CRASHED);	/* it is another one, with other rows */
	extension = installed;
	check_version(cwh_field_text(0, INSTALLED_VERSION));
	log_if_plain();
	cwh_identify();
	cwh_worker.seen_generation = cwh_config_generation();
	cwh_worker.reread_webhooks = true;
}

/* What a transaction of the worker does. */
typedef struct Work
{
	bool		settle;			/* what has ended */
	bool		sweep;			/* see which webhooks have anything pending */
	bool		claim;			/* what is due */
	Settle		settled;
	Claims		claims;
	int64		ncaught_up;		/* deliveries made due after the clock was set
								 * back */
	int			sqlerrcode;		/* how the transaction has ended */
} Work;

/*
 * Must this transaction be on disk before anything is sent?  If it has swept,
 * what it found may come from commits that are not there yet; and see
 * take_results() in settle.c.
 */
static CwhFlush
when_to_flush(const Work *work)
{
	if (work->sweep || work->settled.flush_now)
		return CWH_FLUSH_NOW;
	return work->settle ? CWH_FLUSH_SOON : CWH_FLUSH_NOT;
}

/* See which webhooks have anything pending, and which were deleted. */
static void
sweep(Work *work)
{
	/* one worker for all, and also for transactions that are still open */
	bool		catch_up = cwh_worker.number == 0 &&
		(clock_unknown || GetCurrentTimestamp() < clock_lost);

	work->ncaught_up = cwh_sweep_queue(catch_up ? CATCH_UP_BATCH : 0);
	if (work->ncaught_up > 0)
		cwh_hint(NULL, DT_NOBEGIN, 0, 0);
	cwh_refresh_endpoints(true);
}

/* Do the work in a transaction. */
static void
run_transaction(Work *work)
{
	cwh_begin();
	MemoryContextSwitchTo(cwh_worker.transaction_context);
	check_configuration();
	/* first, since a webhook that is to be disabled may have been mended */
	cwh_refresh_endpoints(false);
	if (work->settle)
		cwh_settle(&work->settled);
	if (work->sweep)
		sweep(work);
	cwh_claim_deliveries(&work->claims, &work->settled,
						 work->claim && !cwh_worker.is_copy);
	cwh_commit(when_to_flush(work));
	if (work->claims.n == 0)
		return;
	/* send no event that a crash could still take back */
	XLogFlush(cwh_claims_need());

	/*
	 * When the postmaster dies, PostgreSQL lets commits that wait for a
	 * synchronous standby become visible, although a failover may take them
	 * back.  So what was claimed since must not be sent.  We might not wait for
	 * anything, and so not notice by ourselves, as long as replies arrive.
	 */
	if (!PostmasterIsAliveInternal())
		proc_exit(1);
}

/* The transaction has failed: decide when to try again, and how. */
static void
note_failure(Work *work, ErrorData *error)
{
	work->sqlerrcode = error->sqlerrcode;
	if (cwh_is_absence(error->sqlerrcode) && pause_ms == 0 && !absence_seen)
	{
		/* DROP EXTENSION has come first, as check_configuration() will see */
		cwh_worker.seen_generation = 0;
		absence_seen = true;
	}
	else if (!cwh_end_settle(&work->settled, work->sqlerrcode))
	{
		cwh_note_error(error->message);
		pause_ms = Min(Max(2 * pause_ms, FIRST_PAUSE_MS), MAX_PAUSE_MS);
		paused_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   pause_ms);
		EmitErrorReport();
	}
}

/*
 * Report whether anything may be sent; if not, release deliveries that wait.
 */
static void
heed_halt(void)
{
	cwh_worker.state.halted = !cwh_may_send();
	report_state();
	if (!cwh_may_send())
		cwh_release_waiting(NULL);
}

/* The transaction was committed: keep what it has done. */
static void
keep_work(Work *work)
{
	if (work->settle)
		(void) cwh_end_settle(&work->settled, work->sqlerrcode);
	cwh_end_claims(&work->claims, work->sqlerrcode);
	pause_ms = 0;
	absence_seen = false;
	if (work->sweep)
	{
		next_sweep = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 cwh_poll_interval);
		clock_unknown = work->ncaught_up == CATCH_UP_BATCH;
	}
	if (cwh_worker.state.halted == cwh_may_send())
	{
		heed_halt();
		next_sweep = 0;
	}
}

/*
 * Run a transaction: settle what has ended, look around, and claim.  An error
 * leaves everything as it was, to be tried again after a pause.
 */
static void
transact(bool do_settle, bool do_sweep, bool do_claim)
{
	MemoryContext oldcontext;
	volatile bool ok = false;
	Work	   *work;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	work = palloc0(sizeof(Work));
	work->settle = do_settle;
	work->sweep = do_sweep;
	work->claim = do_claim;
	pgstat_report_activity(STATE_RUNNING,
						   do_settle ? "settling" : do_sweep ? "sweeping" : "claiming");
	PG_TRY();
	{
		run_transaction(work);
		ok = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cwh_worker.transaction_context);
		HOLD_INTERRUPTS();
		note_failure(work, CopyErrorData());
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(cwh_worker.transaction_context);
	if (ok)
		keep_work(work);
	else
	{
		cwh_worker.reread_webhooks = true;
		cwh_end_claims(&work->claims, work->sqlerrcode);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(cwh_worker.transaction_context);
	pgstat_report_activity(STATE_IDLE, NULL);
	/* a lock wait may have reset our latch; set it again to avoid a lost wakeup */
	SetLatch(MyLatch);
}

/* Take what commits and the launcher have left for us. */
static void
take_mail(void)
{
	TimestampTz now;

	cwh_slot_take(&mail);
	now = GetCurrentTimestamp();
	for (int i = 0; i < mail.nhints; i++)
	{
		const CwhHint *hint = &mail.hints[i];
		Endpoint   *endpoint = cwh_endpoint(&hint->webhook_id);

		if (hint->later != DT_NOEND)
			cwh_expect_more(endpoint, hint->later);
		if (hint->due == DT_NOEND)
			continue;
		if (hint->due == DT_NOBEGIN)
		{
			cwh_recheck(endpoint, hint->n);
			/* even with no room for a claim: it may have been disabled */
			check_due = true;
		}
		else
			cwh_expect(endpoint, hint->due, hint->id, hint->n);
		/* emitted before the clock was set back */
		if (hint->due > now)
		{
			clock_lost = Max(clock_lost, hint->due);
			next_sweep = 0;
		}
	}
	if (mail.sweep)
	{
		next_sweep = 0;
		check_due = true;

		/*
		 * A commit wakes us before it sends its invalidations: look for the
		 * extension even if none has arrived.
		 */
		cwh_worker.seen_generation = 0;
	}
}

/*
 * If the clock was set, move the times that we wait for with it, and say by how
 * much; else 0.  If it was set back, the queue holds deliveries that are due
 * later than they should be.
 */
static int64
follow_clock(TimestampTz now)
{
	static TimestampTz *const times[] = {
		&paused_until, &next_sweep,
		&cwh_worker.starved_until, &cwh_worker.slow_until,
		&cwh_ledger.oldest_result, &cwh_ledger.last_settle,
		&cwh_ledger.accounts_due,
		&cwh_upkeep.next_alerts, &cwh_upkeep.next_failures,
		&cwh_upkeep.next_watch_alerts, &cwh_upkeep.next_announcements,
		&cwh_upkeep.next_retention, &cwh_upkeep.next_handover,
		&cwh_upkeep.pass_started
	};
	instr_time	monotonic;
	int64		before = clock_ahead;
	int64		step;

	INSTR_TIME_SET_CURRENT(monotonic);
	clock_ahead = now - (int64) INSTR_TIME_GET_MICROSEC(monotonic);
	step = clock_ahead - before;
	if (Abs(step) < CWH_CLOCK_STEP)
		return 0;
	cwh_gate_set_clock(clock_ahead);
	if (before == 0)
		return 0;				/* the first look */
	for (int i = 0; i < lengthof(times); i++)
		if (*times[i] > 0 && *times[i] != DT_NOEND)
			*times[i] += step;
	/* any that were set after the clock was have been moved twice */
	paused_until = Min(paused_until, TimestampTzPlusMilliseconds(now, MAX_PAUSE_MS));
	next_sweep = Min(next_sweep, TimestampTzPlusMilliseconds(now, cwh_poll_interval));
	cwh_ledger.oldest_result = Min(cwh_ledger.oldest_result,
								   TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS));
	cwh_ledger.accounts_due = Min(cwh_ledger.accounts_due,
								  TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS));
	cwh_ledger.last_settle = Min(cwh_ledger.last_settle, now);
	if (step < 0)
	{
		ereport(LOG, (errmsg("chatwebhook: the clock was set back by %.1f s; adjusting waits",
							 -step / 1e6)));
		clock_lost = Max(clock_lost, now - step);
		next_sweep = 0;
	}
	return step;
}

/* Have the transport work by the settings; returns its descriptor, or -1. */
static int
configure_transport(void)
{
	CwhTransportOptions options;

	cwh_transport_options(&options, cwh_in_flight_limit());
	return cwh_transport_configure(&options);
}

/* Take over settings that have changed. */
static void
reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	(void) configure_transport();
	/* the key file may be another, and open more secrets */
	next_sweep = 0;
	/* the bounds for customers' webhooks may be others */
	cwh_worker.reread_webhooks = cwh_worker.new_settings = true;
	cwh_upkeep.next_retention = cwh_upkeep.next_handover = 0;
	heed_halt();
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
	do_settle = now >= cwh_settle_due(now);
	do_sweep = cwh_enabled && now >= next_sweep;
	/* a claim can wait for the next settle, unless a slot would stay empty */
	do_claim = cwh_may_send() && (do_settle || do_sweep || cwh_claim_wanted());
	/* results must not wait for a claim that may fail again */
	if (cwh_claim_failed && do_settle)
		do_claim = false;
	if (do_settle || do_sweep || do_claim || check_due)
	{
		check_due = false;
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
	next = Min(next, cwh_settle_due(now));
	next = Max(next, paused_until);
	/* what is due when the pause is over */
	if (now < paused_until &&
		(check_due || (cwh_may_send() && cwh_claim_wanted())))
		next = Min(next, paused_until);
	next = Min(next, next_upkeep);
	if (cwh_worker.starved_until > now)
		next = Min(next, cwh_worker.starved_until);
	if (cwh_to_render.n > 0)
		next = Min(next, now);
	if (next == DT_NOEND)
		return transport;
	ms = next <= now ? 0 : (long) ((next - now + 999) / 1000);
	return transport >= 0 ? Min(ms, transport) : ms;
}

/* Let transfers proceed, and end those attempts whose transfers have ended. */
static bool
drive_transfers(void)
{
	CwhTransfer *transfer;
	bool		any = false;

	(void) cwh_transport_drive();
	while ((transfer = cwh_transport_reap()) != NULL)
	{
		cwh_attempt_ended(transfer->owner);
		any = true;
	}
	return any;
}

/* Deliver, until asked to leave. */
static void
deliver(int transport_fd)
{
	WaitEventSet *events = cwh_create_wait_event_set(3);
	uint32		wait_event = cwh_wait_event("ChatwebhookWorkerMain");
	WaitEvent	event;

	AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(events, WL_SOCKET_READABLE, transport_fd, NULL, NULL);

	for (;;)
	{
		TimestampTz now;

		/* first, so that what sets the latch from here on is seen */
		ResetLatch(MyLatch);
		take_mail();
		if (cwh_worker_terminate || mail.stop)
			break;
		/* there is no statement to cancel here */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();
		now = GetCurrentTimestamp();
		cwh_run_timers(now, follow_clock(now));
		transact_if_due(now);
		cwh_make_attempts(cwh_may_send() && now >= cwh_worker.starved_until);
		next_upkeep = cwh_keep_up(now);
		/* free slots can be filled at once */
		if (drive_transfers())
			continue;

		if (cwh_worker.state_changed ||
			cwh_worker.state.stats.in_flight != cwh_worker.in_flight)
			report_state();
		(void) WaitEventSetWait(events, time_to_wait(GetCurrentTimestamp()),
								&event, 1, wait_event);
	}

	/* what has been answered need not be repeated */
	if (cwh_worker_terminate)
		start_grace();
	for (int i = 0; cwh_ledger.nresults > 0 && i < 5; i++)
		transact(true, false, false);
	(void) cwh_keep_up(DT_NOEND);
}

/* Settings that this process needs, whatever the database's say. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		/* the database's owner could give us another role */
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		CWH_TRANSACTION_TIMEOUT
		/* see cwh_queue_settle() */
		{"lock_timeout", "200ms"},
		/* see cwh_commit() */
		{"synchronous_commit", "off"},
		/* triggers that others put on our tables must not run as this process */
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

/* Set up what the loop needs; returns the transport's descriptor. */
static int
set_up(void)
{
	int			transport_fd;

	cwh_worker.context = AllocSetContextCreate(TopMemoryContext,
											   "chatwebhook worker",
											   ALLOCSET_DEFAULT_SIZES);
	cwh_worker.transaction_context = AllocSetContextCreate(TopMemoryContext,
														   "chatwebhook transaction",
														   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(cwh_worker.context);
	transport_fd = configure_transport();
	if (transport_fd < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
	return transport_fd;
}

/* Entry point of a worker's process. */
void
cwh_worker_main(Datum arg)
{
	int			transport_fd;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	create_grace_timer();
	pqsignal(SIGUSR2, on_grace_over);
	pqsignal(SIGTERM, on_sigterm);
	/* lock_timeout cancels statements through it */
	pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	/* attached first: from here on commits leave hints, so none is missed */
	if (!cwh_slot_attach(DatumGetInt32(arg), &assignment))
		proc_exit(0);
	cwh_worker.number = assignment.number;
	BackgroundWorkerInitializeConnectionByOid(assignment.database, InvalidOid, 0);
	fix_settings();
	transport_fd = set_up();

	StartTransactionCommand();
	if (!OidIsValid(get_extension_oid("chatwebhook", true)))
		leave(CWH_EXIT_NO_EXTENSION);
	CommitTransactionCommand();
	cwh_worker.state.stats.started_at = GetCurrentTimestamp();
	transact(false, false, false);
	next_upkeep = cwh_keep_up(GetCurrentTimestamp());
	cwh_worker.state.has_extension = true;
	assignment.version_logged = false;
	heed_halt();
	ereport(LOG, (errmsg("chatwebhook worker %d started", cwh_worker.number + 1)));
	deliver(transport_fd);
	(void) cwh_transport_configure(NULL);
	proc_exit(0);
}
