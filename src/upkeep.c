/*
 * upkeep.c
 *		What the worker does beside delivering: alerts, announcements, and
 *		removing old rows and what an outbox has handed over.
 *
 * Each is a short transaction, run apart from the others, in a part of the
 * worker's time that leaves most of it to delivering.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "announce.h"
#include "emit_failure.h"
#include "endpoint.h"
#include "gate.h"
#include "handover.h"
#include "ledger.h"
#include "retention.h"
#include "settings.h"
#include "state.h"
#include "statement.h"
#include "upkeep.h"

/*
 * Alerts are checked this often at most, of ALERTS_BATCH webhooks at a time, and
 * in 1/ALERTS_SHARE of the worker's time, or after MAX_ALERTS_MS: deliveries
 * wait meanwhile.
 */
#define ALERTS_MS			500
#define MORE_ALERTS_MS		50	/* while there are more of them */
#define ALERTS_BATCH		10
#define ALERTS_SHARE		100
#define MAX_ALERTS_MS		5000
#define FAILED_ALERTS_MS	2000

/* While an alert about a watch is open, it is checked this often. */
#define OPEN_WATCH_ALERTS_MS	60000

/*
 * Retention uses at most 1/BUSY_SHARE of the worker's time while requests are
 * under way, else 1/IDLE_SHARE.  A pass begins PASS_SHARE times as long after
 * the last one's end as that one took, within these limits.
 */
#define BUSY_SHARE			12
#define IDLE_SHARE			2
#define PASS_SHARE			50
#define MIN_PASS_MS			1000
#define MAX_PASS_MS			300000

/* An outbox is looked at this often, or every chatwebhook.poll_interval. */
#define HANDOVER_MS			5000

/* INDENT OFF */
static const char check_alerts_sql[] =
	"SELECT chatwebhook._check_alerts($1)";
static const char check_backlog_sql[] =
	"SELECT chatwebhook._check_backlog($1, $2)";

static const char count_emit_failures_sql[] =
	"SELECT chatwebhook._count_emit_failures($1, $2, $3, $4, $5, $6, $7, $8)";

static CwhStatement count_emit_failures_st = {count_emit_failures_sql, 8,
	{OIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID,
	TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID}, NULL};
static CwhStatement check_alerts_st = {check_alerts_sql, 1, {UUIDARRAYOID}, NULL};
static CwhStatement check_backlog_st = {check_backlog_sql, 2,
	{UUIDARRAYOID, TIMESTAMPTZARRAYOID}, NULL};
/* INDENT ON */

Upkeep		cwh_upkeep;

static bool stuck_checked = false;

/* Webhooks whose alerts could not be checked, as their rows were locked. */
static pg_uuid_t locked[ALERTS_BATCH];
static int	nlocked = 0;

/* Events that could not be emitted, while they are written down. */
static CwhEmitFailure failures[CWH_MAX_EMIT_FAILURES];
static int	nfailures = 0;

static bool any_watch_alert = true; /* perhaps, one is open */


/*
 * Run work() in a transaction of its own, which it begins and commits.  An
 * error is logged and aborts that transaction only; returns false then.
 */
static bool
run_apart(const char *what, void (*work) (void))
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

/*
 * Have webhooks disabled whose connectors a worker could not stop: by the next
 * settle, before they could be called again, since their gates are closed.
 */
static void
disable_stuck(void)
{
	pg_uuid_t	id;

	while (cwh_gate_take_stuck(&id))
	{
		Endpoint   *endpoint = cwh_endpoint(&id);

		cwh_account_request(&endpoint->account,
							"its connector could not be stopped", false);
		cwh_recheck(endpoint, 0);
	}
}

/* Open and close the backlog alerts: these webhooks have one, and no others. */
static void
check_backlogs(void)
{
	int			n = cwh_ledger.nbacklogs;
	CwhArray	arrays[2];
	Datum		args[2];

	cwh_make_arrays(arrays, &check_backlog_st, 2, n);
	for (int i = 0; i < n; i++)
	{
		cwh_array_set(&arrays[0], i, UUIDPGetDatum(&cwh_ledger.backlogs[i]));
		cwh_array_set(&arrays[1], i,
					  TimestampTzGetDatum(cwh_ledger.backlog_dues[i]));
	}
	cwh_finish_arrays(arrays, 2, args);
	(void) cwh_run(&check_backlog_st, args);
}

/* Keep the webhooks in an array, to check their alerts again. */
static void
take_locked(ArrayType *array)
{
	Datum	   *ids;
	int			n;

	deconstruct_array(array, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids,
					  NULL, &n);
	for (int i = 0; i < n && i < ALERTS_BATCH; i++)
		locked[nlocked++] = *DatumGetUUIDP(ids[i]);
}

/* Open and close alerts. */
static void
check_alerts(void)
{
	int			n = Min(cwh_ledger.nalerting, ALERTS_BATCH);
	Datum		arg;

	nlocked = 0;
	cwh_begin();
	if (n > 0)
	{
		arg = cwh_uuid_array(cwh_ledger.alerting, n);
		(void) cwh_run(&check_alerts_st, &arg);
		take_locked(DatumGetArrayTypeP(cwh_field(0, 0, NULL)));
	}
	if (cwh_ledger.check_backlogs)
		check_backlogs();
	cwh_commit(CWH_FLUSH_SOON);
}

/*
 * Check the alerts that were noted first; false if that failed.  Then those wait
 * behind the others, as do those whose rows another transaction has locked.
 */
static bool
check_some_alerts(void)
{
	pg_uuid_t	first[ALERTS_BATCH];
	pg_uuid_t  *alerting = cwh_ledger.alerting;
	int			n = Min(cwh_ledger.nalerting, ALERTS_BATCH);
	int			rest = cwh_ledger.nalerting - n;
	bool		ok = run_apart("checking alerts", check_alerts);

	if (n > 0)
	{
		memcpy(first, alerting, n * sizeof(pg_uuid_t));
		memmove(alerting, alerting + n, rest * sizeof(pg_uuid_t));
		if (ok)
		{
			memcpy(alerting + rest, locked, nlocked * sizeof(pg_uuid_t));
			cwh_ledger.nalerting = rest + nlocked;
		}
		else
			memcpy(alerting + rest, first, n * sizeof(pg_uuid_t));
	}
	if (ok)
		cwh_ledger.check_backlogs = false;
	return ok;
}

/* Emit events about dead letters and webhooks that have recovered. */
static void
announce(void)
{
	cwh_begin();
	cwh_announce();
	cwh_commit(CWH_FLUSH_SOON);
}

/* Do the same in a transaction of its own; returns false if that failed. */
static bool
announce_some(void)
{
	if (!run_apart("announcing dead letters", announce))
		return false;
	cwh_end_announce();
	return true;
}

/*
 * Return when to make the next pass over alerts or announcements.  The last
 * one began at start, and may have left more to do.
 */
static TimestampTz
next_pass(TimestampTz start, bool ok, bool more)
{
	TimestampTz end = GetCurrentTimestamp();
	int			wait_ms = !ok ? FAILED_ALERTS_MS :
		more ? MORE_ALERTS_MS : ALERTS_MS;

	return Max(TimestampTzPlusMilliseconds(start, wait_ms),
			   end + Min(ALERTS_SHARE * (end - start), MAX_ALERTS_MS * 1000));
}

/* Write down the failures that were taken, and open and close their alerts. */
static void
count_emit_failures(void)
{
	CwhArray	arrays[8];
	Datum		args[8];

	cwh_begin();
	cwh_make_arrays(arrays, &count_emit_failures_st, 8, nfailures);
	for (int i = 0; i < nfailures; i++)
	{
		CwhEmitFailure *failure = &failures[i];

		cwh_array_set(&arrays[0], i, ObjectIdGetDatum(failure->relation));
		cwh_array_set_text(&arrays[1], i, failure->trigger);
		cwh_array_set_text(&arrays[2], i, failure->event_type);
		cwh_array_set_text(&arrays[3], i, failure->message);
		cwh_array_set(&arrays[4], i, Int64GetDatum(failure->n));
		cwh_array_set(&arrays[5], i, TimestampTzGetDatum(failure->first_at));
		cwh_array_set(&arrays[6], i, TimestampTzGetDatum(failure->last_at));
		cwh_array_set_text(&arrays[7], i, failure->example);
	}
	cwh_finish_arrays(arrays, 8, args);
	(void) cwh_run(&count_emit_failures_st, args);
	any_watch_alert = DatumGetBool(cwh_field(0, 0, NULL));
	cwh_commit(CWH_FLUSH_SOON);
}

/* Take the failures that sessions have counted, and write them down. */
static void
take_emit_failures(TimestampTz now)
{
	bool		check = any_watch_alert && now >= cwh_upkeep.next_watch_alerts;

	nfailures = cwh_emit_failure_pending() ? cwh_emit_failure_take(failures) : 0;
	if (nfailures == 0 && !check)
		return;
	cwh_upkeep.next_watch_alerts = TimestampTzPlusMilliseconds(now, OPEN_WATCH_ALERTS_MS);
	if (run_apart("counting emit failures", count_emit_failures))
		return;
	for (int i = 0; i < nfailures; i++)
		cwh_emit_failure_add(&failures[i]);
	cwh_upkeep.next_failures = TimestampTzPlusMilliseconds(now, FAILED_ALERTS_MS);
}

/* Make a step of retention, and say when the next one is due. */
static void
remove_old(void)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz now;
	bool		pass_done;

	if (cwh_upkeep.pass_started == 0)
		cwh_upkeep.pass_started = start;
	cwh_retention_step(start, &pass_done);
	now = GetCurrentTimestamp();
	cwh_upkeep.next_retention = now + (now - start) *
		((cwh_worker.in_flight > 0 ? BUSY_SHARE : IDLE_SHARE) - 1);
	if (pass_done)
	{
		int64		shortest = cwh_retention < 0 ? MAX_PASS_MS :
			Max(MIN_PASS_MS, Min(MAX_PASS_MS, (int64) cwh_retention * 100));
		int64		took = now - cwh_upkeep.pass_started;

		cwh_upkeep.next_retention = now + Max(Min(took * PASS_SHARE,
									   (int64) MAX_PASS_MS * 1000),
								   shortest * 1000);
		cwh_upkeep.pass_started = 0;
		/*
		 * A session that has not heard yet that there is no outbox any more may
		 * have left an event there.
		 */
		if (cwh_upkeep.next_handover == DT_NOEND)
			cwh_upkeep.next_handover = 0;
	}
}

/* Make a step of handing over an outbox, and say when the next one is due. */
static void
hand_over(void)
{
	TimestampTz start = GetCurrentTimestamp();
	CwhHandover next = cwh_handover_step(start);
	TimestampTz now = GetCurrentTimestamp();

	if (next == CWH_HANDOVER_MORE)
		cwh_upkeep.next_handover = now + (now - start) *
			((cwh_worker.in_flight > 0 ? BUSY_SHARE : IDLE_SHARE) - 1);
	else if (next == CWH_HANDOVER_WAIT)
		cwh_upkeep.next_handover =
			TimestampTzPlusMilliseconds(now, Min(cwh_poll_interval, HANDOVER_MS));
	else
		cwh_upkeep.next_handover = DT_NOEND;
}

/* Is any alert to be checked? */
static bool
any_alerts(void)
{
	return cwh_ledger.nalerting > 0 || cwh_ledger.check_backlogs;
}

/*
 * Check alerts, announce, and remove old rows, if it is time.  Returns when there
 * is something to do again; DT_NOEND if there is nothing.  When the process ends
 * (now is DT_NOEND), check the alerts that are left, and announce what is.
 */
TimestampTz
cwh_keep_up(TimestampTz now)
{
	TimestampTz next = DT_NOEND;

	if (now == DT_NOEND)
	{
		while (cwh_ledger.nalerting > 0 && check_some_alerts() && nlocked == 0)
			;
		while (cwh_any_announcements() && announce_some())
			;
		return next;
	}
	if (!stuck_checked)
		disable_stuck();
	stuck_checked = true;
	if (any_alerts() && now >= cwh_upkeep.next_alerts)
	{
		bool		ok = check_some_alerts();

		cwh_upkeep.next_alerts = next_pass(now, ok && nlocked == 0,
										   cwh_ledger.nalerting > 0);
	}
	if (cwh_any_announcements() && now >= cwh_upkeep.next_announcements)
	{
		bool		ok = announce_some();

		cwh_upkeep.next_announcements = next_pass(now, ok,
												  cwh_any_announcements());
	}
	/* the first worker of a database does this for all */
	if (cwh_worker.number == 0 && now >= cwh_upkeep.next_failures)
		take_emit_failures(now);
	if (cwh_worker.number == 0 && now >= cwh_upkeep.next_retention &&
		!run_apart("removing old rows", remove_old))
		cwh_upkeep.next_retention = TimestampTzPlusMilliseconds(now, MAX_PASS_MS);
	if (cwh_worker.number == 0 && now >= cwh_upkeep.next_handover &&
		!run_apart("handing over the outbox", hand_over))
		cwh_upkeep.next_handover = TimestampTzPlusMilliseconds(now, HANDOVER_MS);
	if (any_alerts())
		next = cwh_upkeep.next_alerts;
	if (cwh_any_announcements())
		next = Min(next, cwh_upkeep.next_announcements);
	if (cwh_worker.number == 0)
	{
		next = Min(next, cwh_upkeep.next_retention);
		next = Min(next, cwh_upkeep.next_handover);
		if (any_watch_alert)
			next = Min(next, cwh_upkeep.next_watch_alerts);
		if (cwh_upkeep.next_failures > now)
			next = Min(next, cwh_upkeep.next_failures);
	}
	return next;
}
