/*
 * worker.h
 *		What the files of the worker share, a section per file.
 *
 * An endpoint is what a worker knows of a webhook with something to do: how far
 * its queue has been read, what is claimed, and how many requests it may have
 * under way (its window).  A window starts at two and grows by one with each
 * success; a failure halves it.  So an endpoint that never answers holds one
 * or two of the worker's slots, whatever its backlog.  Endpoints that were never
 * tried, or whose last attempt failed (unproven ones), may together hold no more
 * than half of the slots; so what is counted and listed of endpoints is so for
 * the two kinds apart.
 *
 * A delivery is known to the worker from its claim to its settling.
 *
 * All of this is one process's own, and nothing in here locks.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CHATWEBHOOK_WORKER_H
#define CHATWEBHOOK_WORKER_H

#include <signal.h>

#include "lib/ilist.h"
#include "lib/pairingheap.h"

#include "chatwebhook.h"

/* An endpoint that has shown nothing yet gets this many requests at a time. */
#define FIRST_WINDOW		2

/* Claimed in advance for an endpoint that has answered, to refill slots from. */
#define MAX_PREFETCH		200

/*
 * Unproven endpoints may hold one slot in so many, all of them together; and
 * one in so many is theirs before all others.
 */
#define UNPROVEN_SHARE		2
#define UNPROVEN_RESERVE	8

/*
 * Deliveries of a webhook, or an event, that is not there are canceled after
 * this: it may come yet, if a restore is under way.
 */
#define ORPHAN_GRACE_MS		600000

typedef struct Endpoint Endpoint;

/* A delivery from its claim to its settling. */
typedef struct Delivery
{
	CwhTransfer transfer;		/* first, so that one is the other */
	slist_node	node;			/* in waiting, others, to_render, results or
								 * spare */
	Endpoint   *endpoint;
	int64		id;
	const char *problem;		/* why it cannot be sent, or null */
	pg_uuid_t	event_id;
	char	   *event_type;
	char	   *chatbot_id;		/* or null */
	char	   *conversation_id;	/* if others of it wait for this one, or
									 * null */
	int			attempts;		/* made before */
	int			first_attempt;
	int64		last_wait_ms;
	StringInfoData body;
	TimestampTz started_at;		/* 0: nothing was sent */

	CwhWebhook *webhook;		/* that the transfer points into, or null */

	/* for the first of a batch: the others, which share its transfer */
	slist_head	others;
	slist_node *others_tail;
	StringInfoData batch;		/* what is sent; its data is null: no batch */

	/* for a connector */
	MemoryContext context;		/* of what follows, or null */
	CwhRequest *request;		/* the next, or null: to be made */
	uint64		rendered;		/* generation of the configuration then */
	Jsonb	   *replies;		/* to the requests before, or null */
	uint64		connector_number;	/* the connector that has asked for them */
	int			earlier_ms;		/* that those of this attempt took */

	/* for a webhook that needs a token */
	bool		fetching;		/* the transfer asks for one */
	bool		renewed;		/* it has been refused one in this attempt */
	uint64		token;			/* which one it was sent with */

	/* for settling */
	CwhOutcome	outcome;
	int64		wait_ms;
	char	   *error;			/* or null */
	bool		log;			/* keep the attempt */
} Delivery;

struct Endpoint
{
	pg_uuid_t	id;				/* hash key */
	CwhWebhook *webhook;		/* null: not read, or gone */
	uint64		generation;		/* of the configuration when it was read */
	int			window;
	bool		gone;			/* the webhook was deleted */
	TimestampTz gone_since;
	TimestampTz eventless_since;	/* an event was not there; 0: none */
	bool		changed;		/* the webhook must be read again */
	int			in_flight;		/* requests under way */
	int			unsettled;		/* ended, not settled */
	slist_head	waiting;		/* claimed, not started */
	slist_node *waiting_tail;
	int			nwaiting;
	CwhPosition after;			/* claims look behind this */
	bool		ready;			/* there may be something to claim */
	bool		later;			/* there may be something due later */
	TimestampTz ready_since;
	int			expected;		/* new ones since then, up to a full batch */
	TimestampTz reread_at;		/* no sweep has it read again before this */
	bool		reread;			/* but then it is to be: one has asked */
	TimestampTz look_at;		/* when it becomes ready by itself */
	bool		in_timers;
	pairingheap_node timer;
	bool		in_ready;
	dlist_node	ready_node;
	bool		is_hungry;		/* ready, with a free slot and none waiting */
	bool		in_startable;
	dlist_node	startable_node;
	bool		called;			/* its connector was, by this worker */
	bool		slow;			/* and took long the last time */
	bool		tried;			/* by this worker */
	bool		proven;			/* the last attempt succeeded */
	bool		blocked;		/* no request may start, until then: see
								 * gate.c */
	TimestampTz blocked_until;
	uint64		connector_number;	/* counts its connectors */
	char	   *token;			/* for OAuth 2.0, or null */
	uint64		token_number;	/* counts them */
	TimestampTz token_until;
	TimestampTz token_at;		/* when it came */
	bool		token_refused;	/* a new one was, the last time */
	bool		fetching;		/* one is being asked for */
	const char *disable;		/* why the webhook is to be disabled, or null */
	bool		disabled;		/* done, in the transaction under way */
	bool		note;			/* its problem, or that it has none, is to be
								 * noted */
	bool		noted;			/* done, in the transaction under way */
	bool		announce;		/* and it was not known before */
	int			wanted;			/* in the claim being made */
	int			got;
	CwhHealthGain *gain;		/* null: none since the last settle */
	bool		in_touched;
	dlist_node	touched_node;
	bool		in_stale;
	dlist_node	stale_node;
};

/* What is to be settled in one transaction. */
typedef struct Settle
{
	int			n;
	Delivery  **deliveries;
	CwhResult  *results;
	int			ngains;
	CwhHealthGain **gains;
	CwhActivity activity;
} Settle;

/* The state that more than one file knows. */
typedef struct Worker
{
	int			number;			/* of this database's, from 0 */
	MemoryContext context;		/* as long as the process */
	MemoryContext transaction_context;	/* as long as a transaction, or what
										 * goes before the next one */
	uint64		seen_generation;	/* of the configuration */
	bool		refresh_due;	/* webhooks may have to be read again */
	CwhWorkerStats stats;
	bool		stats_changed;	/* since they were shown */

	int			in_flight;		/* requests under way */
	int			nwaiting;		/* deliveries claimed, not started */
	size_t		body_bytes;		/* that claimed ones hold */
	int			nto_render;		/* whose connector is to be called */
	/* by whether endpoints are proven: */
	dlist_head	ready_list[2];	/* endpoints that are ready and have room */
	int			nhungry[2];		/* those that could start more if they had it */
	int			nheld[2];		/* requests under way and deliveries waiting */

	int			nresults;		/* ended, to be settled */
	int			settle_limit;	/* results that one settle takes */
	bool		settle_alone;	/* the last claim has failed */

	/* times, or 0; when the clock is set, follow_clock() moves them */
	TimestampTz oldest_result;
	TimestampTz touched_retry_at;	/* touched ones are seen to again */
	TimestampTz careful_until;	/* settles wait for no lock */
	TimestampTz starved_until;	/* no descriptors: nothing is started */
	TimestampTz slow_until;		/* slow connectors are not called */
	TimestampTz next_alerts;
	TimestampTz next_upkeep;
	TimestampTz pass_started;	/* of retention; 0: none is under way */
} Worker;

extern Worker cwh_worker;
extern volatile sig_atomic_t cwh_worker_terminate;

/* Append to a singly linked queue. */
static inline void
cwh_append_node(slist_head *head, slist_node **tail, slist_node *node)
{
	node->next = NULL;
	if (slist_is_empty(head))
		head->head.next = node;
	else
		(*tail)->next = node;
	*tail = node;
}

/*
 * endpoint.c: the webhooks that have something to do
 */
extern void cwh_endpoints_set_up(void);
extern void cwh_set_timer(Endpoint *endpoint, TimestampTz at);
extern TimestampTz cwh_next_timer(void);
extern void cwh_run_timers(TimestampTz now);
extern void cwh_endpoints_follow_clock(int64 step);
extern void cwh_count_in_flight(Endpoint *endpoint, int more);
extern void cwh_count_waiting(Endpoint *endpoint, int more);
extern Endpoint *cwh_get_endpoint(const pg_uuid_t *id);
extern int	cwh_endpoint_room(const Endpoint *endpoint);
extern void cwh_reconsider(Endpoint *endpoint);
extern void cwh_set_proven(Endpoint *endpoint, bool proven);
extern void cwh_block_endpoint(Endpoint *endpoint, TimestampTz until,
							   TimestampTz now);
extern void cwh_make_ready(Endpoint *endpoint, TimestampTz due, int64 id, int n);
extern int	cwh_in_flight_limit(void);
extern Endpoint *cwh_next_startable(void);
extern void cwh_not_startable(Endpoint *endpoint);
extern Delivery *cwh_next_waiting(Endpoint *endpoint);
extern void cwh_release_waiting(Endpoint *endpoint);
extern void cwh_release_all_waiting(void);
extern bool cwh_has_token(Endpoint *endpoint);
extern void cwh_forget_token(Endpoint *endpoint);
extern void cwh_refresh_endpoints(void);
extern void cwh_find_deleted(void);
extern void cwh_forget_endpoints(void);

/*
 * claim.c: takes deliveries off the queue
 */
extern void cwh_sweep_queue(void);
extern bool cwh_is_claim_wanted(void);
extern void cwh_begin_claims(void);
extern void cwh_claim_due(void);
extern void cwh_claim_next(Settle *work, bool may_claim);
extern bool cwh_any_claims(void);
extern void cwh_keep_claims(void);
extern void cwh_undo_claims(void);

/*
 * attempt.c: sends what was claimed, and judges what came of it
 */
extern Delivery *cwh_new_delivery(void);
extern void cwh_free_delivery(Delivery *delivery);
extern void cwh_keep_replies(Delivery *delivery, const Jsonb *replies);
extern void cwh_fail_delivery(Delivery *delivery, const char *problem,
							  bool refused);
extern void cwh_send_request(Delivery *delivery);
extern void cwh_start_deliveries(void);
extern void cwh_go_on(Delivery *delivery);
extern void cwh_judge(Delivery *delivery);

/*
 * render.c: calls connectors
 */
extern void cwh_render_set_up(void);
extern bool cwh_is_slow(const Endpoint *endpoint);
extern void cwh_render_later(Delivery *delivery);
extern void cwh_render_deliveries(TimestampTz now);
extern void cwh_disable_culprits(void);

/*
 * settle.c: writes what became of deliveries
 */
extern void cwh_add_result(Delivery *delivery, CwhOutcome outcome,
						   const char *error);
extern void cwh_touch(Endpoint *endpoint);
extern void cwh_count_attempt(Endpoint *endpoint, const Delivery *delivery,
							  bool success);
extern void cwh_add_gain(Endpoint *endpoint, const Delivery *delivery,
						 bool success, TimestampTz now);
extern bool cwh_is_settle_due(TimestampTz now);
extern TimestampTz cwh_next_settle(void);
extern void cwh_settle(Settle *work);
extern void cwh_settle_endpoints(Settle *work);
extern void cwh_keep_settle(Settle *work);
extern void cwh_put_result_last(void);

/*
 * upkeep.c: alerts, and what is old
 */
extern void cwh_add_alerting(const pg_uuid_t *webhook_id);
extern void cwh_begin_backlogs(void);
extern void cwh_add_backlog(const pg_uuid_t *webhook_id, TimestampTz due);
extern void cwh_end_backlogs(void);
extern void cwh_keep_up(TimestampTz now);
extern void cwh_check_all_alerts(void);
extern TimestampTz cwh_next_keep_up(void);

/*
 * worker.c: the loop
 */
extern void cwh_note_error(const char *message);
extern bool cwh_run_apart(const char *what, void (*work) (void));

#endif							/* CHATWEBHOOK_WORKER_H */
