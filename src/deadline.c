/*
 * deadline.c
 *		Limits the time of a piece of work within a statement.
 *
 * When the time is up, the work is canceled as a statement is, by the next
 * CHECK_FOR_INTERRUPTS(); a wait for a lock ends, too.  The caller catches the
 * error.  There is one deadline at a time in a process.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "deadline.h"
#include "settings.h"

/* What each row of a statement adds to the time for its queries. */
#define ROW_TIME_MS		20

/*
 * The time that is left for queries of this statement; see
 * cwh_deadline_allowed().
 */
static TimestampTz time_statement = 0;
static int64 time_left_us = 0;

static TimeoutId time_limit = MAX_TIMEOUTS; /* registered on first use */
static volatile sig_atomic_t overdue = false;	/* the time limit has expired */

/*
 * How long a query or a validator may take, in milliseconds: as long as one may,
 * or what other rows have left of that, if they belong to the same statement.
 * Each row adds ROW_TIME_MS, so a bulk load has time for its queries, but slow ones
 * hold up a statement hardly longer than one would.
 */
int
cwh_deadline_allowed(void)
{
	TimestampTz statement = GetCurrentStatementStartTimestamp();
	int64		most_us = cwh_emit_timeout * INT64CONST(1000);

	if (time_statement != statement)
		time_left_us = most_us;
	time_statement = statement;
	time_left_us = Min(time_left_us + ROW_TIME_MS * 1000, most_us);
	return Max(1, (int) (time_left_us / 1000));
}

/* Subtract the time since start from what is left for this statement. */
void
cwh_deadline_used(const instr_time *start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, *start);
	time_left_us = Max(time_left_us - (int64) INSTR_TIME_GET_MICROSEC(now), 0);
}

/* Timeout handler: have CHECK_FOR_INTERRUPTS() raise an error. */
static void
on_overdue(void)
{
	overdue = true;
	QueryCancelPending = true;
	InterruptPending = true;
}

/* Cancel the work after this time, unless cwh_deadline_clear() is called first. */
void
cwh_deadline_set(int ms)
{
	if (time_limit == MAX_TIMEOUTS)
		time_limit = RegisterTimeout(USER_TIMEOUT, on_overdue);
	overdue = false;
	enable_timeout_after(time_limit, ms);
}

/* End the time limit.  Returns whether it has expired. */
bool
cwh_deadline_clear(void)
{
	disable_timeout(time_limit, false);
	/* it may have expired at the very end */
	if (overdue)
		QueryCancelPending = false;
	return overdue;
}

/*
 * Was this error raised because the time was up?  Other cancellations have other
 * messages, except a user's cancel request that arrives at the same moment: that
 * one is lost, and the user has to repeat it.
 */
bool
cwh_deadline_raised(const ErrorData *error)
{
	return overdue && error->message_id &&
		strcmp(error->message_id, "canceling statement due to user request") == 0;
}
