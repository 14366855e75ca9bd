/*
 * health.h
 *		Writes the health of webhooks and the activity of workers, without SQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_HEALTH_H
#define CWH_HEALTH_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "shared.h"

/* How many recent attempts health.recent has. */
#define CWH_RECENT		100

/* Upper bounds of the histogram of latencies, in ms, except the infinite one. */
#define CWH_LATENCY_BOUNDS \
	{5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000}
#define CWH_LATENCIES	12

/* What to add to a webhook's row of health. */
typedef struct CwhHealthGain
{
	pg_uuid_t	webhook_id;
	int64		successes;
	int64		failures;
	bool		succeeded;		/* at least once, which ended older failures */
	int64		streak;			/* failures since the last success */
	TimestampTz last_success_at;	/* set if successes > 0 */
	TimestampTz last_failure_at;	/* set if failures > 0 */
	TimestampTz failing_since;	/* set if streak > 0: its first failure */
	char		last_error[CWH_ERROR_LEN];	/* set if failures > 0 */
	int			nrecent;
	int32		recent[CWH_RECENT]; /* as in the table, newest first */
	int64		latency_sum_ms;
	int64		latency_counts[CWH_LATENCIES];
	int64		given_up;		/* deliveries that became dead */
	bool		ordinary;		/* a delivered event was not about webhooks */

	/* out */
	bool		recovered;		/* its state in webhook_health was failing */
	int64		was_failures;	/* failures in a row before these attempts */
	TimestampTz was_failing_since;	/* since when; 0: not known */
	bool		written;		/* else its row was locked, or is gone */
	bool		alerting;		/* alerts may have to be opened or closed */
} CwhHealthGain;

/* What to add to a worker's row of activity. */
typedef struct CwhActivity
{
	int64		succeeded;
	int64		failed;
	int64		given_up;
} CwhActivity;

extern void cwh_health_add(CwhHealthGain **gains, int n);
extern void cwh_activity_add(int worker, const CwhActivity *activity);

#endif							/* CWH_HEALTH_H */
