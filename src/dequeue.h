/*
 * dequeue.h
 *		Claims deliveries from the queue, without SQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DEQUEUE_H
#define CWH_DEQUEUE_H

#include "access/detoast.h"
#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "envelope.h"
#include "traceparent.h"

/* A position in a webhook's queue; claims continue behind it. */
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

/* Claim the first delivery of a conversation, if it is due. */
typedef struct CwhWantNext
{
	pg_uuid_t	webhook_id;
	const char *conversation_id;
} CwhWantNext;

/* A delivery that is due.  Pointers are valid during the call only. */
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

/* Called for each delivery of a claim. */
typedef void (*CwhOnClaimed) (void *context, const CwhClaimed *claimed);

/* Called before, with the size of its event: is there room for it? */
typedef bool (*CwhMayClaim) (void *context, const pg_uuid_t *webhook_id,
							 Size size);

/* The replies in a row of the queue; null unless they are an array, as ours are. */
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

/* exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_claim_due(const CwhWant *wants, int n,
									  CwhMayClaim may, CwhOnClaimed each,
									  void *context);
extern void cwh_claim_next(const CwhWantNext *wants, int n, TimestampTz now,
						   CwhMayClaim may, CwhOnClaimed each, void *context);

#endif							/* CWH_DEQUEUE_H */
