/*
 * endpoint.h
 *		What the worker knows of each webhook with something to do.
 *
 * An endpoint is a webhook as the worker sees it: how far its queue has been
 * read, which deliveries are claimed, and how many requests it may have under
 * way (its window).  A window starts at two and grows by one with each success;
 * a failure halves it.  So an endpoint that never answers holds one or two of
 * the worker's slots, whatever its backlog.
 *
 * An endpoint is proven if the last attempt at it succeeded.  Unproven ones may
 * together hold no more than half of the slots, so endpoints are listed and
 * counted separately for the two kinds.  Of what there is for each kind, no
 * customer may hold so much that nothing is left for others: see customer.h.
 *
 * All of this is one process's own; nothing in here locks.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ENDPOINT_H
#define CWH_ENDPOINT_H

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "customer.h"
#include "delivery.h"
#include "dequeue.h"
#include "ledger.h"
#include "state.h"

/* An endpoint that has not answered yet gets this many requests at a time. */
#define FIRST_WINDOW		2

/* Claimed in advance for an endpoint that has answered, to refill slots from. */
#define MAX_PREFETCH		200

/*
 * All unproven endpoints together may hold 1/UNPROVEN_SHARE of the slots, and
 * have precedence for 1/UNPROVEN_RESERVE of them.
 */
#define UNPROVEN_SHARE		2
#define UNPROVEN_RESERVE	8

/*
 * What claim.c remembers of an endpoint; it alone writes these, but that
 * endpoint.c moves the time when the clock was set.
 */
typedef struct ClaimState
{
	int			wanted;			/* in the claim being made */
	int			got;
	bool		cut;			/* there was no room for its bodies */
	bool		held;			/* it found deliveries that debounce holds, */
	CwhPosition first_held;		/* of which this was the first */
	TimestampTz look_again;		/* when to claim again from look_from on, since
								 * some could not be handled; 0: never */
	CwhPosition look_from;
	TimestampTz eventless_since;	/* an event did not exist; 0: none */
} ClaimState;

/* What render.c remembers of its connector; it alone writes these. */
typedef struct ConnectorPace
{
	bool		called;			/* by this worker, at least once */
	bool		slow;			/* it took long the last time */
} ConnectorPace;

/*
 * Fields are written by endpoint.c and by the inline functions below, unless a
 * struct says who else writes it.
 */
struct Endpoint
{
	pg_uuid_t	id;				/* hash key */

	/* the webhook, as it was read */
	CwhWebhook *webhook;		/* null: not read, or it does not exist */
	Customer   *customer;		/* whose it is */
	CwhBucket	bucket;			/* of its id */
	uint64		stamp;			/* when it was read: see cwh_stamp() */
	uint64		version;		/* counts how often it was read */
	uint64		connector_number;	/* counts its connectors */
	bool		changed;		/* it must be read again */
	bool		gone;			/* it does not exist */
	bool		deleted;		/* gone, and it will not be restored */
	bool		in_stale;		/* it may have to be read again */
	dlist_node	stale_node;

	/* its queue, as far as it was read */
	CwhPosition after;			/* claims look behind this */
	bool		ready;			/* there may be something to claim */
	bool		backfill;		/* the same for deliveries of a backfill, which
								 * are claimed after all that is due */
	int64		backfill_after; /* claims of that look behind this id */
	bool		later;			/* there may be something due later */
	TimestampTz ready_since;
	int			expected;		/* new ones since then, up to a full batch */
	TimestampTz reread_at;		/* no sweep reads it from its head before */
	bool		reread;			/* but one is to, then */

	/* deliveries claimed but not started */
	slist_head	waiting;
	slist_node *waiting_tail;
	int			nwaiting;

	/* requests */
	int			in_flight;		/* under way */
	int			window;			/* the most that may be */
	bool		tried;			/* by this worker */
	bool		proven;			/* the last attempt succeeded */
	bool		blocked;		/* none may start, until blocked_until */
	TimestampTz blocked_until;

	/* in cwh_endpoints' lists */
	bool		in_timers;
	TimestampTz wake_at;
	pairingheap_node timer;
	bool		in_ready;		/* ready, and has room */
	dlist_node	ready_node;
	bool		in_startable;
	dlist_node	startable_node;
	bool		is_hungry;		/* ready, none waiting, and a slot free */

	CwhToken	token;			/* exchange.c writes it */
	Account		account;		/* ledger.c writes it */
	ClaimState	claim;
	ConnectorPace pace;
};

/* All endpoints; by whether they are proven, where there are two. */
typedef struct Endpoints
{
	pairingheap *timers;		/* by wake_at */
	dlist_head	ready[2];		/* Turns of customers that have some which
								 * are ready, and have room for more */
	dlist_head	startable[2];	/* the same, where a request may start */
	int			nhungry[2];
	int			nstarted[2];	/* requests under way */
	int			nheld[2];		/* the same, and deliveries waiting */
} Endpoints;

extern Endpoints cwh_endpoints;

extern Endpoint *cwh_endpoint(const pg_uuid_t *id);
extern void cwh_refresh_endpoints(bool swept);
extern void cwh_run_timers(TimestampTz now, int64 step);

/* its queue */
extern void cwh_expect(Endpoint *endpoint, TimestampTz due, int64 id, int n);
extern void cwh_found_pending(Endpoint *endpoint, TimestampTz first_due);
extern bool cwh_claim_made(Endpoint *endpoint, bool exhausted, TimestampTz now,
						   TimestampTz reread_at);

/* its deliveries and requests */
extern void cwh_wait_again(Delivery *delivery);
extern void cwh_release_waiting(Endpoint *endpoint);
extern Endpoint *cwh_next_startable(void);
extern void cwh_block_endpoint(Endpoint *endpoint, TimestampTz until,
							   TimestampTz now);
extern void cwh_endpoint_judged(Endpoint *endpoint, const CwhDecision *decision);
extern void cwh_reconsider(Endpoint *endpoint);

/* When the next endpoint becomes ready by itself; DT_NOEND if none does. */
static inline TimestampTz
cwh_next_timer(void)
{
	if (cwh_endpoints.timers == NULL || pairingheap_is_empty(cwh_endpoints.timers))
		return DT_NOEND;
	return pairingheap_container(Endpoint, timer,
								 pairingheap_first(cwh_endpoints.timers))->wake_at;
}

/*
 * Read its webhook and its queue again, and ask its gate: it may work now.  n
 * deliveries are new.
 */
static inline void
cwh_recheck(Endpoint *endpoint, int n)
{
	endpoint->later = endpoint->changed = true;
	endpoint->blocked = false;
	cwh_expect(endpoint, DT_NOBEGIN, 0, n);
}

/* Read its webhook again, in the next transaction. */
static inline void
cwh_reread_webhook(Endpoint *endpoint)
{
	endpoint->changed = true;
	cwh_worker.reread_webhooks = true;
}

/* Read its queue from its head again. */
static inline void
cwh_reclaim(Endpoint *endpoint)
{
	endpoint->later = true;
	cwh_expect(endpoint, DT_NOBEGIN, 0, 0);
}

/*
 * Its next delivery is due then.  There may be more behind it, even if that is
 * by now.
 */
static inline void
cwh_expect_more(Endpoint *endpoint, TimestampTz due)
{
	endpoint->later = true;
	cwh_expect(endpoint, due, 0, 0);
}

/* Claim nothing before then, unless there is something new. */
static inline void
cwh_postpone(Endpoint *endpoint, TimestampTz until)
{
	endpoint->ready = endpoint->backfill = false;
	endpoint->later = true;
	cwh_expect(endpoint, until, 0, 0);
	cwh_reconsider(endpoint);
}

/* A delivery was claimed; the next claim looks behind it. */
static inline void
cwh_advance(Endpoint *endpoint, TimestampTz due, int64 id)
{
	if (due == DT_NOEND)
		endpoint->backfill_after = id;
	else
	{
		endpoint->after.due = due;
		endpoint->after.id = id;
	}
}

/* Have the next claim begin with this delivery, unless it begins before it. */
static inline void
cwh_step_back(Endpoint *endpoint, CwhPosition first)
{
	if (first.due < endpoint->after.due ||
		(first.due == endpoint->after.due && first.id <= endpoint->after.id))
	{
		endpoint->after.due = first.due;
		endpoint->after.id = first.id - 1;
	}
}

/* Where its next claim looks, and up to which time. */
static inline CwhPosition
cwh_next_position(const Endpoint *endpoint, TimestampTz now, TimestampTz *until)
{
	CwhPosition position = {DT_NOEND, endpoint->backfill_after};

	*until = endpoint->ready ? now : DT_NOEND;
	return endpoint->ready ? endpoint->after : position;
}

/* Note a claim of its backfill, which is over if it got fewer than it wanted. */
static inline void
cwh_backfill_claimed(Endpoint *endpoint, bool exhausted)
{
	if (exhausted)
		endpoint->backfill = false;
	cwh_reconsider(endpoint);
}

/*
 * Add to the numbers of requests under way, and of deliveries that wait or are
 * under way, of the endpoint's kind and of its customer.
 */
static inline void
cwh_count_held(Endpoint *endpoint, int started, int held)
{
	cwh_endpoints.nstarted[endpoint->proven] += started;
	cwh_endpoints.nheld[endpoint->proven] += held;
	endpoint->customer->nstarted[endpoint->proven] += started;
	endpoint->customer->nheld[endpoint->proven] += held;
}

/* Requests start (1) or end (-1). */
static inline void
cwh_count_in_flight(Endpoint *endpoint, int more)
{
	endpoint->in_flight += more;
	cwh_worker.in_flight += more;
	cwh_count_held(endpoint, more, more);
}

/* Deliveries begin (1) or cease (-1) to wait. */
static inline void
cwh_count_waiting(Endpoint *endpoint, int more)
{
	endpoint->nwaiting += more;
	cwh_worker.nwaiting += more;
	cwh_count_held(endpoint, 0, more);
}

/*
 * How many more of its deliveries to claim.  Those of a deleted webhook are
 * claimed to be canceled, whether or not it was disabled before.
 */
static inline int
cwh_endpoint_room(const Endpoint *endpoint)
{
	int			prefetch = 0;
	int			batch = endpoint->webhook ? endpoint->webhook->batch_size : 1;
	bool		must_wait = endpoint->gone ? !endpoint->deleted :
		endpoint->webhook && !endpoint->webhook->enabled;

	if (endpoint->account.disable || endpoint->blocked ||
		(must_wait && !endpoint->changed))
		return 0;
	/* what waits already would come before what is emitted next */
	if (endpoint->window > FIRST_WINDOW &&
		(endpoint->ready || !endpoint->backfill))
		prefetch = Min(4 * endpoint->window, MAX_PREFETCH);
	return (endpoint->window - endpoint->in_flight) * batch + prefetch -
		endpoint->nwaiting;
}

/* A claimed delivery waits for a request. */
static inline void
cwh_wait(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	cwh_append_node(&endpoint->waiting, &endpoint->waiting_tail,
					&delivery->node);
	cwh_count_waiting(endpoint, 1);
	cwh_reconsider(endpoint);
}

/*
 * Put an endpoint at the end of the list of those that are startable, unless it
 * is there, or take it out.
 */
static inline void
cwh_set_startable(Endpoint *endpoint, bool startable)
{
	cwh_set_turn(&cwh_endpoints.startable[endpoint->proven],
				 &endpoint->customer->startable[endpoint->proven],
				 &endpoint->startable_node, &endpoint->in_startable,
				 startable);
}

/* Take the first of the deliveries that wait. */
static inline Delivery *
cwh_next_waiting(Endpoint *endpoint)
{
	cwh_count_waiting(endpoint, -1);
	return slist_container(Delivery, node,
						   slist_pop_head_node(&endpoint->waiting));
}

/* Let an endpoint that holds the worker up have few requests at a time. */
static inline void
cwh_limit_window(Endpoint *endpoint, int window)
{
	endpoint->window = Min(endpoint->window, window);
}

#endif							/* CWH_ENDPOINT_H */
