/*
 * claim.c
 *		Takes deliveries off the queue, for the endpoints that are ready.
 *
 * A claim starts where the last one ended, and not at the head of the queue, so
 * rows that are finished but cannot be vacuumed yet are not read again and
 * again.  Deliveries that come to stand before that place are announced: by the
 * commit that put them there (a hint), by the worker itself (a retry's time), or
 * by the sweep every chatwebhook.poll_interval.
 *
 * Claims are made in a transaction of the worker, whose end decides whether they
 * are kept: see cwh_end_claims().
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <limits.h>

#include "utils/timestamp.h"

#include "claim.h"
#include "endpoint.h"
#include "envelope.h"
#include "outbox.h"
#include "state.h"

/* Bodies held at a time, beyond which nothing is claimed. */
#define MAX_BODY_BYTES		(32 * 1024 * 1024)

/*
 * Re-read a queue from its head only after REREAD_SHARE times as long as the
 * last full read took: where deliveries are ordered, that reads every row.
 */
#define REREAD_SHARE		20

/* An endpoint whose queue cannot be read is left alone for this long. */
#define FAILED_CLAIM_MS		60000

static double average_body = 1024;	/* bytes */

/* endpoints to claim for at a time; fewer after a claim has failed */
static int	claim_width = INT_MAX;

bool		cwh_claim_failed = false;

/* A webhook that has something pending was found. */
static void
on_pending(void *context, const pg_uuid_t *webhook_id, TimestampTz first_due)
{
	if (cwh_alert_backlog > 0 &&
		first_due < GetCurrentTimestamp() -
		(TimestampTz) cwh_alert_backlog * USECS_PER_SEC)
		cwh_add_backlog(webhook_id, first_due);
	cwh_found_pending(cwh_endpoint(webhook_id), first_due);
}

/* A webhook that could not be sent to was found: it may work now. */
static void
on_problem(void *context, const pg_uuid_t *webhook_id, TimestampTz first_due)
{
	cwh_recheck(cwh_endpoint(webhook_id), 0);
}

/* A webhook has its next delivery due later. */
static void
on_next_due(void *context, const pg_uuid_t *webhook_id, TimestampTz due)
{
	cwh_expect_more(cwh_endpoint(webhook_id), due);
}

/*
 * See which webhooks have anything pending, or a problem.  If the clock was set
 * back, first make up to ncatch_up deliveries due that wait only because of
 * that; returns their number.
 */
int64
cwh_sweep_queue(int64 ncatch_up)
{
	int64		ncaught_up;

	cwh_ledger.nbacklogs = 0;
	cwh_ledger.check_backlogs = false;
	ncaught_up = cwh_outbox_sweep(ncatch_up, on_pending, on_problem, NULL);
	cwh_ledger.check_backlogs = true;
	return ncaught_up;
}

/* Name the delivery that an error in the server's log is about. */
static void
name_delivery(void *arg)
{
	Delivery   *delivery = arg;
	CwhWebhook *webhook = delivery->endpoint->webhook;

	errcontext("delivery " INT64_FORMAT " to webhook \"%s\"", delivery->id,
			   webhook ? webhook->name : "");
}

/*
 * Write the body of a request.  An event that cannot be written concerns that
 * delivery only; nothing in here holds anything but memory, so an error can be
 * caught without ending the transaction.
 */
static void
write_body(Delivery *delivery, const CwhEvent *event)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback;

	callback.callback = name_delivery;
	callback.arg = delivery;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	PG_TRY();
	{
		cwh_envelope_write(&delivery->body, event);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		resetStringInfo(&delivery->body);
		delivery->problem = "the event could not be written as JSON; see the server's log";
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
}

/* A delivery that is due was found. */
static void
on_claimed(void *context, const CwhClaimed *claimed)
{
	Claims	   *claims = context;
	Endpoint   *endpoint = cwh_endpoint(&claimed->webhook_id);
	Delivery   *delivery;
	MemoryContext oldcontext;

	if (!claims->in_conversation)
	{
		endpoint->claim.got++;
		cwh_advance(endpoint, claimed->due, claimed->id);
	}
	if (!claimed->mine)
		return;
	delivery = cwh_delivery_new();
	claims->deliveries[claims->n++] = delivery;
	delivery->endpoint = endpoint;
	delivery->account = &endpoint->account;
	delivery->id = claimed->id;
	delivery->attempts = claimed->attempts;
	delivery->first_attempt = claimed->first_attempt;
	delivery->last_wait_ms = claimed->last_wait_ms;
	delivery->connector_number = endpoint->connector_number;
	if (claimed->replies)
	{
		cwh_delivery_need_context(delivery);
		cwh_exchange_keep_replies(&delivery->exchange, claimed->replies);
	}
	if (!claimed->has_event)
		return;
	delivery->event_id = claimed->event.id;
	oldcontext = MemoryContextSwitchTo(cwh_worker.context);
	delivery->event_type = pstrdup(claimed->event.type);
	if (claimed->event.chatbot_id)
		delivery->chatbot_id = pstrdup(claimed->event.chatbot_id);
	if (claimed->ordered && claimed->event.conversation_id)
		delivery->conversation_id = pstrdup(claimed->event.conversation_id);
	MemoryContextSwitchTo(oldcontext);
	write_body(delivery, &claimed->event);
	cwh_worker.body_bytes += delivery->body.len;
	average_body += (delivery->body.len - average_body) / 16;
}

/* How many deliveries may be claimed now, in all and for unproven endpoints. */
static int
claim_budget(int *unproven)
{
	int			limit = cwh_in_flight_limit();
	int			held = cwh_worker.in_flight + cwh_worker.nwaiting;
	int			budget = limit + MAX_PREFETCH - held;

	*unproven = 0;
	if (!cwh_enabled || cwh_worker.body_bytes >= MAX_BODY_BYTES ||
		(dlist_is_empty(&cwh_endpoints.ready[false]) &&
		 dlist_is_empty(&cwh_endpoints.ready[true])))
		return 0;
	budget = Min(budget, 1 + (int) (MAX_BODY_BYTES / (average_body + 1)));
	*unproven = Min(budget, Max(1, limit / UNPROVEN_SHARE) +
					MAX_PREFETCH / UNPROVEN_SHARE - cwh_endpoints.nheld[false]);
	return budget;
}

/*
 * Would a slot stay empty that a claim could fill?  Other claims can wait for
 * the next settle.
 */
bool
cwh_claim_wanted(void)
{
	int			unproven;
	int			budget = claim_budget(&unproven);

	return budget > 0 &&
		(cwh_endpoints.nhungry[true] > 0 ||
		 (cwh_endpoints.nhungry[false] > 0 && unproven > 0));
}

/* Room in the claims of a transaction for so many more. */
static void
make_room(Claims *claims, int more)
{
	int			max = claims->n + more;

	if (max <= claims->max)
		return;
	claims->deliveries = claims->deliveries == NULL ?
		palloc(max * sizeof(Delivery *)) :
		repalloc(claims->deliveries, max * sizeof(Delivery *));
	claims->max = max;
}

/* The endpoints to claim for, and how much for each: a fair share. */
static CwhWant *
choose_wants(int *nwants, int *most)
{
	int			unproven;
	int			budget = claim_budget(&unproven);
	int			left[2] = {unproven, budget};	/* of the unproven, of all */
	int			nready = 0;
	int			share;
	int			n = 0;
	CwhWant    *wants;
	dlist_iter	iter;

	*nwants = 0;
	*most = budget;
	if (budget <= 0)
		return NULL;
	for (int proven = unproven > 0 ? 0 : 1; proven < 2; proven++)
		dlist_foreach(iter, &cwh_endpoints.ready[proven])
			if (++nready >= Min(budget, claim_width))
				break;
	nready = Min(nready, Min(budget, claim_width));
	if (nready == 0)
		return NULL;
	share = Max(1, budget / nready);
	wants = palloc(nready * sizeof(CwhWant));
	for (int proven = 0; proven < 2; proven++)
	{
		dlist_foreach(iter, &cwh_endpoints.ready[proven])
		{
			Endpoint   *endpoint = dlist_container(Endpoint, ready_node, iter.cur);
			int			allowed = Min(left[proven], left[true]);

			if (n == nready || allowed <= 0)
				break;
			endpoint->claim.wanted = Min(Min(share, cwh_endpoint_room(endpoint)),
										 allowed);
			endpoint->claim.got = 0;
			left[true] -= endpoint->claim.wanted;
			if (!proven)
				left[false] -= endpoint->claim.wanted;
			wants[n].webhook_id = endpoint->id;
			wants[n].after = endpoint->after;
			wants[n].n = endpoint->claim.wanted;
			n++;
		}
	}
	*nwants = n;
	return wants;
}

/* Claim for the endpoints that are ready. */
static void
claim_due(Claims *claims)
{
	int			n;
	int			most;
	CwhWant    *wants = choose_wants(&n, &most);
	pg_uuid_t  *later;
	int			nlater = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz reread_at;

	if (n == 0)
		return;
	claims->nwants = n;
	claims->wants = wants;
	claims->in_conversation = false;
	make_room(claims, most);
	cwh_outbox_claim(wants, n, now, on_claimed, claims);
	reread_at = GetCurrentTimestamp();
	reread_at += REREAD_SHARE * (reread_at - now);

	/* those that gave less than was wanted have no more, for now */
	later = palloc(n * sizeof(pg_uuid_t));
	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = cwh_endpoint(&wants[i].webhook_id);

		if (cwh_claim_made(endpoint,
						   endpoint->claim.got < endpoint->claim.wanted,
						   now, reread_at))
			later[nlater++] = endpoint->id;
	}
	if (nlater > 0)
		cwh_outbox_next_due(later, nlater, now, on_next_due, NULL);
}

/* May deliveries of an endpoint be claimed now? */
static bool
may_claim_for(const Endpoint *endpoint)
{
	return !endpoint->blocked && !endpoint->account.disable &&
		!endpoint->gone && endpoint->webhook && endpoint->webhook->enabled;
}

/*
 * Where conversations are ordered, claim what follows a delivery that has been
 * settled: the position of its webhook has passed it long ago.
 */
static void
claim_following(Claims *claims, const Settle *settled, bool may_claim)
{
	CwhWantNext *wants = palloc(Max(1, settled->n) * sizeof(CwhWantNext));
	int			n = 0;

	for (int i = 0; i < settled->n; i++)
	{
		Delivery   *delivery = settled->deliveries[i];
		Endpoint   *endpoint = delivery->endpoint;

		if (delivery->conversation_id == NULL || !settled->results[i].settled ||
			delivery->outcome == CWH_OUTCOME_RETRY ||
			delivery->outcome == CWH_OUTCOME_STEP)
			continue;
		if (may_claim && may_claim_for(endpoint))
		{
			wants[n].webhook_id = endpoint->id;
			wants[n++].conversation_id = delivery->conversation_id;
		}
		else
			/* found from the head of the queue, when it may be claimed again */
			cwh_expect(endpoint, DT_NOBEGIN, 0, 0);
	}
	if (n == 0)
		return;
	make_room(claims, n);
	claims->in_conversation = true;
	cwh_outbox_claim_next(wants, n, GetCurrentTimestamp(), on_claimed, claims);
}

/*
 * Claim in the transaction that settles: what follows in ordered conversations,
 * and what is due, unless nothing may be claimed now.
 */
void
cwh_claim_deliveries(Claims *claims, const Settle *settled, bool may_claim)
{
	claim_following(claims, settled, may_claim);
	if (may_claim)
		claim_due(claims);
}

/*
 * May the event of a delivery still appear?  A later sweep finds the delivery
 * again; an event that was missing long ago is missing for another reason.
 */
static bool
is_event_awaited(Endpoint *endpoint)
{
	TimestampTz now = GetCurrentTimestamp();

	if (endpoint->claim.eventless_since == 0 ||
		TimestampDifferenceExceeds(endpoint->claim.eventless_since, now,
								   2 * ORPHAN_GRACE_MS))
		endpoint->claim.eventless_since = now;
	return !TimestampDifferenceExceeds(endpoint->claim.eventless_since, now,
									   ORPHAN_GRACE_MS);
}

/* A claim was committed: have the delivery wait for its request. */
static void
keep_claim(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	if (delivery->problem)
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED, delivery->problem);
	else if (delivery->event_type == NULL && is_event_awaited(endpoint))
	{
		cwh_claim_release(&delivery->id, 1);
		cwh_delivery_free(delivery);
	}
	else if (delivery->event_type == NULL)
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED, "the event is gone");
	else if (endpoint->gone || endpoint->webhook == NULL)
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED,
					   "the webhook was deleted");
	else
		cwh_wait(delivery);
}

/* A claim was rolled back: give the delivery back, to be found again. */
static void
undo_claim(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	cwh_claim_release(&delivery->id, 1);
	cwh_delivery_free(delivery);
	cwh_reclaim(endpoint);
}

/* The transaction of these claims was committed. */
static void
keep_claims(Claims *claims)
{
	for (int i = 0; i < claims->n; i++)
		keep_claim(claims->deliveries[i]);
	if (claims->n > 0)
	{
		cwh_worker.state.stats.claimed += claims->n;
		cwh_worker.state_changed = true;
	}
	if (claims->nwants == 0)
		return;
	if (claims->nwants < claim_width)
		claim_width = INT_MAX;
	else if (claim_width < INT_MAX / 2)
		claim_width *= 2;
	cwh_claim_failed = false;
}

/*
 * The transaction of these claims has failed.  Unless that was for a lock that
 * another transaction holds, an event may be unreadable, say: ask for fewer
 * endpoints at a time.  One whose claim fails by itself must not hold up the
 * others, so it is left alone for a while.
 */
static void
undo_claims(Claims *claims, int sqlerrcode)
{
	for (int i = 0; i < claims->n; i++)
		undo_claim(claims->deliveries[i]);
	if (claims->nwants == 0)
		return;
	/* what it has found out about their queues is void */
	for (int i = 0; i < claims->nwants; i++)
		cwh_reclaim(cwh_endpoint(&claims->wants[i].webhook_id));
	if (sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return;
	if (claims->nwants == 1)
		cwh_postpone(cwh_endpoint(&claims->wants[0].webhook_id),
					 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 FAILED_CLAIM_MS));
	claim_width = Max(1, claims->nwants / 2);
	cwh_claim_failed = true;
}

/*
 * The transaction of these claims has ended: with ERRCODE_SUCCESSFUL_COMPLETION
 * if it was committed.
 */
void
cwh_end_claims(Claims *claims, int sqlerrcode)
{
	if (sqlerrcode == ERRCODE_SUCCESSFUL_COMPLETION)
		keep_claims(claims);
	else
		undo_claims(claims, sqlerrcode);
}
