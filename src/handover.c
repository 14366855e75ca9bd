/*
 * handover.c
 *		Removes events from an outbox that all delivery nodes have.
 *
 * The first worker of a database calls it between its other work.  A step is a
 * transaction of a few milliseconds.  Steps make rounds:
 *
 * 1. Note the next transaction id, the horizon, and wait until all transactions
 *	  before it have ended; prepared ones have not.  What they have emitted is
 *	  visible now, and their commits precede the end of the WAL: note that.
 * 2. Wait until every replication slot has confirmed that position, and for
 *	  chatwebhook.outbox_keep after that, all of them still being there.  The slot
 *	  of a new subscription counts once the initial copy was made: see
 *	  initial_copy.c.
 * 3. Remove the events that were inserted before the horizon.
 *
 * What no slot has confirmed is never removed: at least one must exist, and one
 * that was seen and is gone, or is lost, confirms nothing until forget_slot() is
 * called.  Which slots there are, and what they confirm, is sql/outbox.sql's to
 * say.  A round that a restart of the worker interrupts begins anew.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "handover.h"
#include "initial_copy.h"
#include "settings.h"
#include "statement.h"

/* Events that a step looks at. */
#define STEP	500

/* INDENT OFF */

/* Write down which slots there are, and which copies were made. */
static const char slots_sql[] =
	"SELECT n.is_used, n.all_copied FROM chatwebhook._note_slots($1, $2) n";

/* Why events that were committed before this position may not be removed. */
static const char holdup_sql[] =
	"SELECT chatwebhook._outbox_holdup($1)";

static const char alert_sql[] =
	"SELECT chatwebhook._set_outbox_alert($1)";

/* When the oldest event in the outbox was emitted. */
static const char oldest_sql[] =
	"SELECT (SELECT e.created_at FROM chatwebhook.event e"
	"         WHERE e.first_delivery IS NULL ORDER BY e.id LIMIT 1)";

/* The next events: how many, the last one, and whether any is in the outbox. */
static const char look_sql[] =
	"WITH batch AS MATERIALIZED ("
	"   SELECT e.id, e.first_delivery FROM chatwebhook.event e"
	"    WHERE e.id" GT "$1 ORDER BY e.id LIMIT 500"
	") SELECT pg_catalog.count(*),"
	"         (SELECT b.id FROM batch b ORDER BY b.id DESC LIMIT 1),"
	"         pg_catalog.bool_or(b.first_delivery IS NULL)"
	"    FROM batch b";

/* The same, removing those that were inserted before the horizon. */
static const char remove_sql[] =
	"WITH batch AS MATERIALIZED ("
	"   SELECT e.id, e.first_delivery IS NULL"
	"          AND pg_catalog.age(e.xmin)" GT "pg_catalog.age($2) AS goes"
	"     FROM chatwebhook.event e"
	"    WHERE e.id" GT "$1 ORDER BY e.id LIMIT 500"
	"), gone AS ("
	"   DELETE FROM chatwebhook.event e USING batch b"
	"    WHERE e.id" EQ "b.id AND b.goes"
	") SELECT pg_catalog.count(*),"
	"         (SELECT b.id FROM batch b ORDER BY b.id DESC LIMIT 1),"
	"         pg_catalog.bool_or(b.goes)"
	"    FROM batch b";

static CwhStatement slots_st = {slots_sql, 2, {BOOLOID, TEXTARRAYOID}, NULL};
static CwhStatement holdup_st = {holdup_sql, 1, {LSNOID}, NULL};
static CwhStatement alert_st = {alert_sql, 1, {TEXTOID}, NULL};
static CwhStatement oldest_st = {oldest_sql, 0, {0}, NULL};
static CwhStatement look_st = {look_sql, 1, {UUIDOID}, NULL};
static CwhStatement remove_st = {remove_sql, 2, {UUIDOID, XIDOID}, NULL};
/* INDENT ON */

/* Columns of the one row that the last two give. */
enum
{
	SEEN, LAST, ANY
};

/* What the round is waiting for. */
static enum
{
	BEGIN,						/* it has not begun */
	TRANSACTIONS,				/* those before the horizon */
	SLOTS,						/* their confirmation, and the time after it */
	REMOVAL
}			phase = BEGIN;

static TransactionId horizon;
static XLogRecPtr position;		/* since SLOTS: what is to be confirmed */
static TimestampTz noted_at;	/* when that was noted; before, the horizon */
static TimestampTz confirmed_at;	/* 0: it is not confirmed */
static pg_uuid_t last_event;	/* none before it waits in the outbox */
static bool any_waiting;		/* one does after it */

static bool any_alert = true;	/* perhaps, one is open */

/* Initial copies that this step has written down. */
static char noted_copies[CWH_MAX_COPIES][NAMEDATALEN];
static int	nnoted_copies;

/*
 * Look at the next events.  Returns false at the end of the table; otherwise,
 * moves on unless one is found and it is to be stayed at.
 */
static bool
walk(CwhStatement *statement, bool stay)
{
	Datum		args[2];
	bool		isnull;
	bool		any;

	args[0] = UUIDPGetDatum(&last_event);
	args[1] = TransactionIdGetDatum(horizon);
	(void) cwh_run(statement, args);
	any = DatumGetBool(cwh_field(0, ANY, &isnull)) && !isnull;
	if (stay && any)
	{
		any_waiting = true;
		return true;
	}
	if (DatumGetInt64(cwh_field(0, SEEN, NULL)) < STEP)
		return false;
	last_event = *DatumGetUUIDP(cwh_field(0, LAST, NULL));
	return true;
}

/* Open the alert with this message, or close it. */
static void
set_alert(const char *problem)
{
	Datum		arg;

	if (problem == NULL && !any_alert)
		return;
	/* null cannot be passed: an empty message closes it */
	arg = CStringGetTextDatum(problem ? problem : "");
	(void) cwh_run(&alert_st, &arg);
	any_alert = problem != NULL;
}

/* Is this so long ago that an alert is to be opened? */
static bool
is_overdue(TimestampTz since, TimestampTz now)
{
	return cwh_alert_backlog > 0 &&
		since <= now - (int64) cwh_alert_backlog * USECS_PER_SEC;
}

/* Have we been waiting that long for the horizon or position to be reached? */
static bool
wait_is_overdue(TimestampTz now)
{
	/* the clock may have been set back */
	noted_at = Min(noted_at, now);
	return is_overdue(noted_at, now);
}

/* Is the oldest event in the outbox that old? */
static bool
oldest_is_overdue(TimestampTz now)
{
	bool		isnull;
	TimestampTz oldest;

	(void) cwh_run(&oldest_st, NULL);
	oldest = DatumGetTimestampTz(cwh_field(0, 0, &isnull));
	return !isnull && is_overdue(oldest, now);
}

/* Begin a round. */
static void
begin_round(TimestampTz now)
{
	horizon = GetActiveSnapshot()->xmax;
	noted_at = now;
	memset(&last_event, 0, sizeof(last_event));
	any_waiting = false;
	confirmed_at = 0;
	phase = TRANSACTIONS;
}

/*
 * Have all transactions before the horizon ended?  Then note the position.
 * Otherwise, open an alert if events have waited for them too long.
 */
static bool
transactions_have_ended(TimestampTz now)
{
	TransactionId oldest = GetActiveSnapshot()->xmin;

	if (TransactionIdPrecedes(oldest, horizon))
	{
		if (wait_is_overdue(now) && oldest_is_overdue(now))
			set_alert(psprintf("events wait for the end of transaction %u",
							   oldest));
		return false;
	}
	position = GetXLogInsertRecPtr();
	noted_at = now;
	phase = SLOTS;
	return true;
}

/*
 * Has the position been confirmed for long enough?  Otherwise, open an alert if
 * it has been waited for too long.
 */
static bool
is_confirmed(TimestampTz now)
{
	Datum		arg = LSNGetDatum(position);
	char	   *holdup;

	(void) cwh_run(&holdup_st, &arg);
	holdup = cwh_field_text(0, 0);
	if (holdup)
	{
		confirmed_at = 0;
		if (wait_is_overdue(now))
			set_alert(holdup);
		return false;
	}
	set_alert(NULL);
	if (confirmed_at == 0 || confirmed_at > now)
		confirmed_at = now;
	return now - confirmed_at >= (int64) cwh_outbox_keep * USECS_PER_SEC;
}

/*
 * Write down which slots there are, and which initial copies were made.  Returns
 * false if the outbox is off and no event waits.
 */
static bool
note_slots(void)
{
	int			n;
	CwhArray	names;
	Datum		args[2];
	bool		all_copied;
	bool		isnull;

	/* whoever calls _forget_copies() has changed the table, and not committed yet */
	table_close(cwh_table_open(CWH_REL_OUTBOX_SLOT, ShareRowExclusiveLock),
				NoLock);
	n = cwh_initial_copies(noted_copies);
	names = cwh_array(TEXTOID, n);
	for (int i = 0; i < n; i++)
		cwh_array_set_text(&names, i, noted_copies[i]);
	args[0] = BoolGetDatum(cwh_outbox);
	args[1] = cwh_array_datum(&names);
	(void) cwh_run(&slots_st, args);
	all_copied = DatumGetBool(cwh_field(0, 1, &isnull)) && !isnull;
	nnoted_copies = all_copied ? n : 0;
	return DatumGetBool(cwh_field(0, 0, NULL));
}

/* Make a step, within a transaction. */
static CwhHandover
make_step(TimestampTz now)
{
	if (phase == REMOVAL)
	{
		if (!walk(&remove_st, false))
			phase = BEGIN;
		return CWH_HANDOVER_MORE;
	}
	if (!note_slots())
	{
		phase = BEGIN;
		return CWH_HANDOVER_IDLE;
	}
	if (phase == BEGIN)
		begin_round(now);
	if (phase == TRANSACTIONS && !transactions_have_ended(now))
		return CWH_HANDOVER_WAIT;
	if (!any_waiting)
	{
		if (!walk(&look_st, true))
		{
			/* nothing waits */
			set_alert(NULL);
			phase = BEGIN;
			return CWH_HANDOVER_WAIT;
		}
		if (!any_waiting)
			return CWH_HANDOVER_MORE;
	}
	if (!is_confirmed(now))
		return CWH_HANDOVER_WAIT;
	phase = REMOVAL;
	return CWH_HANDOVER_MORE;
}

/* Make a step, in a transaction of its own. */
CwhHandover
cwh_handover_step(TimestampTz now)
{
	CwhHandover result;

	nnoted_copies = 0;
	cwh_begin();
	result = make_step(now);
	/* after a crash, nothing else knows of the copies */
	cwh_commit(nnoted_copies > 0 ? CWH_FLUSH_NOW : CWH_FLUSH_NOT);
	cwh_forget_initial_copies(noted_copies, nnoted_copies);
	return result;
}
