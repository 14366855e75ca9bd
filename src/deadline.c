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

#include "miscadmin.h"
#include "utils/timeout.h"

#include "deadline.h"

static TimeoutId time_limit = MAX_TIMEOUTS; /* registered on first use */
static volatile sig_atomic_t overdue = false;	/* the time limit has expired */

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
