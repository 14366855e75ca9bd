/*
 * outbox.h
 *		Sweeps the queue and settles deliveries: the SQL on the queue.
 *
 * All functions must be called in a transaction that is connected to SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_OUTBOX_H
#define CWH_OUTBOX_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "decision.h"
#include "shared.h"

/* A delivery's outcome, to be settled. */
typedef struct CwhResult
{
	int64		id;
	CwhOutcome	outcome;
	const char *webhook_name;	/* null: the webhook was deleted */
	TimestampTz attempted_at;	/* 0: there was no attempt */
	int			latency_ms;
	int			status;			/* 0: no reply */
	const char *error;			/* or null */
	int64		wait_ms;		/* CWH_OUTCOME_RETRY: until the next attempt */
	Jsonb	   *replies;		/* CWH_OUTCOME_STEP: so far */
	bool		held;			/* leave it for later, unsettled */

	/* out */
	bool		settled;		/* recorded, or gone */
	bool		gone;			/* its row no longer exists */
} CwhResult;

/* A row of the table attempt. */
typedef struct CwhAttemptRow
{
	int64		delivery_id;
	int			attempt;
	pg_uuid_t	webhook_id;
	const char *chatbot_id;
	TimestampTz started_at;
	int			latency_ms;
	int			status;
	const char *error;
	const char *note;
	const char *response_headers;	/* JSON */
	const char *response_body;
} CwhAttemptRow;

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

/* Called for a webhook, with the time at which a delivery of it is due. */
typedef void (*CwhOnPending) (void *context, const pg_uuid_t *webhook_id,
							  TimestampTz first_due);

extern int64 cwh_outbox_sweep(int64 ncatch_up, CwhOnPending on_pending,
							  CwhOnPending on_problem, void *context);
extern void cwh_outbox_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
								CwhOnPending each, void *context);
/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_outbox_settle(CwhResult *results, int n,
										  bool careful);
extern void cwh_outbox_record(const CwhAttemptRow *attempts, int nattempts,
							  CwhHealthGain **gains, int ngains,
							  int worker, const CwhActivity *activity);

#endif							/* CWH_OUTBOX_H */
