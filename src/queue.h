/*
 * queue.h
 *		Sweeps the queue and settles deliveries.
 *
 * All functions must be called in a transaction that is connected to SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_QUEUE_H
#define CWH_QUEUE_H

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

/* Called for a webhook, with the time at which a delivery of it is due. */
typedef void (*CwhOnPending) (void *context, const pg_uuid_t *webhook_id,
							  TimestampTz first_due);

extern int64 cwh_queue_sweep(int64 ncatch_up, CwhOnPending on_pending,
							  CwhOnPending on_problem, void *context);
extern void cwh_queue_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
								CwhOnPending each, void *context);
/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_queue_settle(CwhResult *results, int n,
										  bool careful);
extern void cwh_insert_attempts(const CwhAttemptRow *attempts, int n);

#endif							/* CWH_QUEUE_H */
