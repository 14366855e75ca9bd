/*
 * outbox.h
 *		Claim and settle: the SQL on the queue.
 *
 * All of these are called within a transaction that is connected to SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_OUTBOX_H
#define CWH_OUTBOX_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "decision.h"
#include "envelope.h"
#include "shared.h"

/* A position in a webhook's queue; claims look behind it. */
typedef struct CwhPosition
{
	TimestampTz due;
	int64		id;
} CwhPosition;

/* How many deliveries of a webhook to claim, and from where on. */
typedef struct CwhWant
{
	pg_uuid_t	webhook_id;
	CwhPosition after;
	int			n;
} CwhWant;

/* The first delivery of this conversation, if it is due. */
typedef struct CwhWantNext
{
	pg_uuid_t	webhook_id;
	const char *conversation_id;
} CwhWantNext;

/* A delivery that is due; what it points to goes with the transaction. */
typedef struct CwhClaimed
{
	bool		mine;			/* else another process has just claimed it */
	int64		id;
	pg_uuid_t	webhook_id;
	TimestampTz due;
	int			attempts;		/* made before */
	int			first_attempt;
	int64		last_wait_ms;
	Jsonb	   *replies;		/* of earlier requests, or null */
	bool		ordered;		/* others of its conversation wait for it */
	bool		has_event;		/* or it is gone */
	CwhEvent	event;
} CwhClaimed;

/* What became of a delivery, to be settled. */
typedef struct CwhResult
{
	int64		id;
	CwhOutcome	outcome;
	const char *webhook_name;
	TimestampTz attempted_at;	/* 0: it was not tried */
	int			latency_ms;
	int			status;			/* 0: no reply */
	const char *error;			/* null: none */
	int64		wait_ms;		/* for a retry */
	Jsonb	   *replies;		/* for a step */
	bool		settled;		/* out: the row has been seen to */
	bool		gone;			/* out: there was no row any more */
} CwhResult;

/* An attempt, for the table of that name. */
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
	const char *response_headers;	/* JSON */
	const char *response_body;
} CwhAttemptRow;

#define CWH_RECENT		100

/* Latencies are counted up to each of these, in ms, and beyond the last. */
#define CWH_LATENCY_BOUNDS \
	{5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000}
#define CWH_LATENCIES	12

/* What a webhook's health has gained since it was last written. */
typedef struct CwhHealthGain
{
	pg_uuid_t	webhook_id;
	int64		successes;
	int64		failures;
	bool		succeeded;		/* at all, so that streak starts anew */
	int64		streak;			/* failures since the last success */
	TimestampTz last_success_at;
	TimestampTz last_failure_at;
	TimestampTz failing_since;	/* the first failure of the streak */
	char		last_error[CWH_ERROR_LEN];
	int			nrecent;
	int32		recent[CWH_RECENT]; /* newest first, as in the table */
	int64		latency_sum_ms;
	int64		latency_counts[CWH_LATENCIES];
	int64		given_up;
	bool		written;		/* out */
	bool		alerting;		/* out: alerts may have to be opened or closed */
} CwhHealthGain;

/* What a worker has done, for the table activity. */
typedef struct CwhActivity
{
	int64		succeeded;
	int64		failed;
	int64		given_up;
} CwhActivity;

/* Called for each webhook with anything pending, or a problem. */
typedef void (*CwhOnPending) (void *context, const pg_uuid_t *webhook_id,
							  TimestampTz first_due);
typedef void (*CwhOnClaimed) (void *context, const CwhClaimed *claimed);

extern void cwh_outbox_sweep(CwhOnPending on_pending, CwhOnPending on_problem,
							 void *context);
extern int64 cwh_outbox_catch_up(TimestampTz now, int64 limit);
/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_outbox_claim(const CwhWant *wants, int n,
										 TimestampTz now, CwhOnClaimed each,
										 void *context);
extern void cwh_outbox_claim_next(const CwhWantNext *wants, int n,
								  TimestampTz now, CwhOnClaimed each,
								  void *context);
extern void cwh_outbox_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
								CwhOnPending each, void *context);
/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_outbox_settle(CwhResult *results, int n,
										  bool careful);
extern void cwh_outbox_log_attempts(const CwhAttemptRow *attempts, int n);
extern void cwh_outbox_add_health(CwhHealthGain **gains, int n);
extern void cwh_outbox_add_activity(int worker, TimestampTz now,
									const CwhActivity *activity);

#endif							/* CWH_OUTBOX_H */
