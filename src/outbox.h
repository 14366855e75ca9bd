/*
 * outbox.h
 *		Claims and settles deliveries: the SQL on the queue.
 *
 * All functions must be called in a transaction that is connected to SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_OUTBOX_H
#define CWH_OUTBOX_H

#include "access/detoast.h"
#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "decision.h"
#include "envelope.h"
#include "shared.h"
#include "traceparent.h"

/* A position in a webhook's queue; a claim reads what comes after it. */
typedef struct CwhPosition
{
	TimestampTz due;
	int64		id;
} CwhPosition;

/* Claim deliveries of a webhook. */
typedef struct CwhWant
{
	pg_uuid_t	webhook_id;
	CwhPosition after;
	TimestampTz until;			/* due by then; DT_NOEND: of a backfill, if the
								 * position is there */
	int			n;				/* at most */
} CwhWant;

/* A delivery that is due.  Pointers are valid until the transaction ends. */
typedef struct CwhClaimed
{
	bool		mine;			/* else another process has just claimed it */
	int64		id;
	pg_uuid_t	webhook_id;
	TimestampTz due;
	int			attempts;		/* made so far */
	int			first_attempt;	/* attempts made before the last retry() */
	int64		last_wait_ms;	/* before this attempt; 0: none */
	Jsonb	   *replies;		/* to a connector's requests so far, or null */
	bool		ordered;		/* later ones of its conversation wait for it */
	bool		scheduled;		/* it had been outside of that order */
	TimestampTz expires_at;		/* DT_NOEND: never */
	bool		held;			/* debounce holds it, so it was not claimed */
	bool		has_event;		/* else the event's row is missing */
	CwhEvent	event;			/* set if has_event */
	const char *traceparent;	/* likewise; or null */
} CwhClaimed;

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

/* Called for each delivery of a claim. */
typedef void (*CwhOnClaimed) (void *context, const CwhClaimed *claimed);

/* Called before, with the size of its event: is there room for it? */
typedef bool (*CwhMayClaim) (void *context, const pg_uuid_t *webhook_id,
							 Size size);

/* The replies in a row of the queue.  What is no array of replies is not ours. */
static inline Jsonb *
cwh_replies(Jsonb *replies)
{
	return JB_ROOT_IS_ARRAY(replies) ? replies : NULL;
}

/*
 * Return the trace context of an event's row, or null if it is malformed.  It
 * can have any content and size, since a restore or replication may have
 * written the row.
 */
static inline char *
cwh_trace(Datum value)
{
	char	   *trace;

	if (toast_raw_datum_size(value) != VARHDRSZ + CWH_TRACEPARENT_LEN)
		return NULL;
	trace = TextDatumGetCString(value);
	return cwh_is_traceparent(trace) ? trace : NULL;
}

extern int64 cwh_outbox_sweep(int64 ncatch_up, CwhOnPending on_pending,
							  CwhOnPending on_problem, void *context);
/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_outbox_claim(const CwhWant *wants, int n,
										 CwhMayClaim may, CwhOnClaimed each,
										 void *context);
extern void cwh_outbox_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
								CwhOnPending each, void *context);
/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_outbox_settle(CwhResult *results, int n,
										  bool careful);
extern void cwh_outbox_record(const CwhAttemptRow *attempts, int nattempts,
							  CwhHealthGain **gains, int ngains,
							  int worker, const CwhActivity *activity);

#endif							/* CWH_OUTBOX_H */
