/*
 * upkeep.c
 *		What the worker does beside delivering: alerts, and removal of the old.
 *
 * Each is a short transaction, run apart from the others, in a part of the
 * worker's time that leaves delivering most of it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "worker.h"

/*
 * Alerts are looked at this often at most, of so many webhooks at a time, and in
 * one part in so many of the time, or after the longest wait: what is to be sent
 * waits meanwhile.
 */
#define ALERTS_MS			500
#define MORE_ALERTS_MS		50	/* while there are more of them */
#define ALERTS_BATCH		10
#define ALERTS_SHARE		100
#define MAX_ALERTS_MS		5000
#define FAILED_ALERTS_MS	2000

/*
 * What is old is removed in one part in so many of the time.  One pass begins
 * when the last one ended so many times its length ago, but not sooner or
 * later than this.
 */
#define BUSY_UPKEEP_SHARE	12
#define IDLE_UPKEEP_SHARE	2
#define PASS_SHARE			50
#define MIN_PASS_MS			1000
#define MAX_PASS_MS			300000

static pg_uuid_t *alerting = NULL;	/* webhooks whose alerts are to be checked */
static int	nalerting = 0;
static int	max_alerting = 0;
static pg_uuid_t *backlogs = NULL;	/* webhooks with something long due, */
static TimestampTz *backlog_dues = NULL;	/* since when, */
static int	nbacklogs = 0;		/* as the last sweep found them */
static int	max_backlogs = 0;
static bool check_backlogs = false;

/* Room for so many elements of an array in the worker's memory, null at first. */
static void *
enlarge(void *array, int n, size_t size)
{
	return array ? repalloc(array, n * size) :
		MemoryContextAlloc(cwh_worker.context, n * size);
}

/* Remember a webhook whose alerts are to be checked. */
void
cwh_add_alerting(const pg_uuid_t *webhook_id)
{
	for (int i = 0; i < nalerting; i++)
		if (memcmp(&alerting[i], webhook_id, UUID_LEN) == 0)
			return;
	if (nalerting == max_alerting)
	{
		int			n = Max(64, 2 * max_alerting);

		alerting = enlarge(alerting, n, sizeof(pg_uuid_t));
		max_alerting = n;
	}
	alerting[nalerting++] = *webhook_id;
}

/* Remember a webhook that has had something due for long. */
void
cwh_add_backlog(const pg_uuid_t *webhook_id, TimestampTz due)
{
	if (nbacklogs == max_backlogs)
	{
		int			n = Max(64, 2 * max_backlogs);

		backlogs = enlarge(backlogs, n, sizeof(pg_uuid_t));
		backlog_dues = enlarge(backlog_dues, n, sizeof(TimestampTz));
		max_backlogs = n;
	}
	backlogs[nbacklogs] = *webhook_id;
	backlog_dues[nbacklogs++] = due;
}

/* A sweep begins to look for those. */
void
cwh_begin_backlogs(void)
{
	nbacklogs = 0;
	check_backlogs = false;
}

/* It has found them all. */
void
cwh_end_backlogs(void)
{
	check_backlogs = true;
}

/* Open and close alerts. */
static void
check_alerts(void)
{
	cwh_outbox_begin();
	if (nalerting > 0)
		cwh_outbox_check_alerts(alerting, Min(nalerting, ALERTS_BATCH));
	if (check_backlogs)
		cwh_outbox_check_backlog(backlogs, backlog_dues, nbacklogs);
	cwh_outbox_commit(CWH_FLUSH_SOON);
}

/*
 * Have those checked that were put down first; false if that failed.  Those wait
 * behind the others then, since somebody may have locked one of them, say.
 */
static bool
check_some_alerts(void)
{
	pg_uuid_t	first[ALERTS_BATCH];
	int			n = Min(nalerting, ALERTS_BATCH);
	bool		ok = cwh_run_apart("checking alerts", check_alerts);

	if (n > 0)
	{
		memcpy(first, alerting, n * sizeof(pg_uuid_t));
		memmove(alerting, alerting + n, (nalerting - n) * sizeof(pg_uuid_t));
		if (ok)
			nalerting -= n;
		else
			memcpy(alerting + nalerting - n, first, n * sizeof(pg_uuid_t));
	}
	if (ok)
		check_backlogs = false;
	return ok;
}

/* Have all of them checked, for the process ends. */
void
cwh_check_all_alerts(void)
{
	while (nalerting > 0 && check_some_alerts())
		;
}

/* Remove some of what is old. */
static void
remove_old(void)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz now;
	bool		pass_done;

	if (cwh_worker.pass_started == 0)
		cwh_worker.pass_started = start;
	(void) cwh_retention_step(start, &pass_done);
	now = GetCurrentTimestamp();
	cwh_worker.next_upkeep = now + (now - start) *
		((cwh_worker.in_flight > 0 ? BUSY_UPKEEP_SHARE : IDLE_UPKEEP_SHARE) - 1);
	if (pass_done)
	{
		int64		shortest = cwh_retention < 0 ? MAX_PASS_MS :
			Max(MIN_PASS_MS, Min(MAX_PASS_MS, (int64) cwh_retention * 100));
		int64		took = now - cwh_worker.pass_started;

		cwh_worker.next_upkeep = now + Max(Min(took * PASS_SHARE,
											   (int64) MAX_PASS_MS * 1000),
										   shortest * 1000);
		cwh_worker.pass_started = 0;
	}
}

/* See to alerts, and to what is old, if it is time. */
void
cwh_keep_up(TimestampTz now)
{
	if ((nalerting > 0 || check_backlogs) && now >= cwh_worker.next_alerts)
	{
		bool		ok = check_some_alerts();
		TimestampTz end = GetCurrentTimestamp();
		int			wait_ms = !ok ? FAILED_ALERTS_MS :
			nalerting > 0 ? MORE_ALERTS_MS : ALERTS_MS;

		cwh_worker.next_alerts =
			Max(TimestampTzPlusMilliseconds(now, wait_ms),
				end + Min(ALERTS_SHARE * (end - now), MAX_ALERTS_MS * 1000));
	}
	if (cwh_worker.number == 0 && now >= cwh_worker.next_upkeep &&
		!cwh_run_apart("removing what is old", remove_old))
		cwh_worker.next_upkeep = TimestampTzPlusMilliseconds(now, MAX_PASS_MS);
}

/* When there is something to do again; DT_NOEND if there is nothing. */
TimestampTz
cwh_next_keep_up(void)
{
	TimestampTz next = DT_NOEND;

	if (nalerting > 0 || check_backlogs)
		next = cwh_worker.next_alerts;
	if (cwh_worker.number == 0)
		next = Min(next, cwh_worker.next_upkeep);
	return next;
}
