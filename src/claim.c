/*
 * claim.c
 *		Claims due deliveries for the endpoints that are ready.
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
#include "debounce.h"
#include "dequeue.h"
#include "endpoint.h"
#include "envelope.h"
#include "identity.h"
#include "queue.h"
#include "state.h"

/*
 * Bytes of bodies held at a time.  A body larger than its customer's share is
 * claimed when that customer holds no other.
 */
#define MAX_BODY_BYTES		(32 * 1024 * 1024)

/*
 * Re-read a queue from its head only after REREAD_SHARE times as long as the
 * last full read took: where deliveries are ordered, that reads every row.
 */
#define REREAD_SHARE		20

/*
 * A delivery whose event does not exist is canceled after this: a restore that
 * is under way may still bring the event.
 */
#define EVENT_GRACE_MS		(24 * 3600 * 1000)

/* An endpoint whose queue cannot be read is left alone for this long. */
#define FAILED_CLAIM_MS		60000

/*
 * Milliseconds after which to check again a delivery that debounce could not
 * release, because an earlier one is in flight or another transaction has
 * locked it.
 */
#define HELD_MS				500

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
	ncaught_up = cwh_queue_sweep(ncatch_up, on_pending, on_problem, NULL);
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

/* How many bytes of bodies may be claimed for a customer. */
static int
bytes_left(const Customer *customer)
{
	return cwh_share(MAX_BODY_BYTES,
					 (int) Min(cwh_worker.body_bytes, MAX_BODY_BYTES),
					 (int) Min(customer->body_bytes, MAX_BODY_BYTES));
}

/* Is there room for a body?  One that would never fit must be sent as well. */
static bool
fits(const Customer *customer, size_t size)
{
	size_t		left = bytes_left(customer);

	return left > 0 && (size <= left || customer->body_bytes == 0);
}

/*
 * A delivery that is due was found, and its event has so many bytes: is there
 * room for it?  If not, the endpoint is claimed for again from here, when there
 * is.
 */
static bool
has_room(void *context, const pg_uuid_t *webhook_id, Size size)
{
	Claims	   *claims = context;
	Endpoint   *endpoint = cwh_endpoint(webhook_id);
	Customer   *customer = endpoint->customer;

	if (fits(customer, size))
		return true;
	customer->needed_bytes = size;
	if (claims->in_conversation)
		cwh_expect(endpoint, DT_NOBEGIN, 0, 0);
	else
		endpoint->claim.cut = true;
	return false;
}

/* Note a delivery that debounce holds, to handle it after the claim. */
static void
note_held(Claims *claims, Endpoint *endpoint, const CwhClaimed *claimed)
{
	if (claims->held == NULL)
		claims->held = palloc(claims->max * sizeof(int64));
	claims->held[claims->nheld++] = claimed->id;
	if (endpoint->claim.held)
		return;
	endpoint->claim.held = true;
	endpoint->claim.first_held.due = claimed->due;
	endpoint->claim.first_held.id = claimed->id;
}

/* A delivery that is due was claimed, or another process has just done so. */
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
		if (claimed->held)
			note_held(claims, endpoint, claimed);
	}
	if (!claimed->mine)
		return;
	if (cwh_is_foreign(claimed->id))
		cwh_note_foreign();
	delivery = cwh_delivery_new();
	claims->deliveries[claims->n++] = delivery;
	delivery->endpoint = endpoint;
	delivery->account = &endpoint->account;
	delivery->customer = endpoint->customer;
	delivery->customer->ndeliveries++;
	delivery->id = claimed->id;
	delivery->attempts = claimed->attempts;
	delivery->first_attempt = claimed->first_attempt;
	delivery->last_wait_ms = claimed->last_wait_ms;
	delivery->expires_at = claimed->expires_at;
	delivery->connector_number = endpoint->connector_number;
	if (claimed->replies)
	{
		cwh_delivery_need_context(delivery);
		delivery->exchange.replies = cwh_exchange_keep(&delivery->exchange,
													   claimed->replies);
	}
	if (!claimed->has_event)
		return;
	delivery->event_id = claimed->event.id;
	oldcontext = MemoryContextSwitchTo(cwh_worker.context);
	delivery->event_type = pstrdup(claimed->event.type);
	if (claimed->event.chatbot_id)
		delivery->chatbot_id = pstrdup(claimed->event.chatbot_id);
	if (claimed->event.conversation_id &&
		(claimed->scheduled ? endpoint->webhook && endpoint->webhook->ordered :
		 claimed->ordered))
		delivery->conversation_id = pstrdup(claimed->event.conversation_id);
	if (claimed->traceparent)
		delivery->traceparent = pstrdup(claimed->traceparent);
	MemoryContextSwitchTo(oldcontext);
	write_body(delivery, &claimed->event);
	cwh_worker.body_bytes += delivery->body.len;
	delivery->customer->body_bytes += delivery->body.len;
}

/*
 * What may be claimed
 */

/* How many deliveries may be held, and how many for unproven endpoints. */
static int
most_held(bool unproven)
{
	int			limit = cwh_in_flight_limit();

	return unproven ?
		Max(1, limit / UNPROVEN_SHARE) + MAX_PREFETCH / UNPROVEN_SHARE :
		limit + MAX_PREFETCH;
}

/* How many deliveries may be claimed now, in all and for unproven endpoints. */
static int
claim_budget(int *unproven)
{
	int			held = cwh_worker.in_flight + cwh_worker.nwaiting;
	int			budget = most_held(false) - held;

	*unproven = 0;
	if (!cwh_may_send() || cwh_worker.body_bytes >= MAX_BODY_BYTES ||
		(dlist_is_empty(&cwh_endpoints.ready[false]) &&
		 dlist_is_empty(&cwh_endpoints.ready[true])))
		return 0;
	*unproven = Min(budget, most_held(true) - cwh_endpoints.nheld[false]);
	return budget;
}

/* How many deliveries may be claimed for a customer's endpoints of a kind. */
static int
customer_budget(const Customer *customer, bool proven)
{
	const int  *mine = customer->nheld;
	int			budget = cwh_share(most_held(false),
								   cwh_worker.in_flight + cwh_worker.nwaiting,
								   mine[false] + mine[true]);

	if (!fits(customer, customer->needed_bytes))
		return 0;
	if (!proven)
		budget = Min(budget, cwh_share(most_held(true),
									   cwh_endpoints.nheld[false],
									   mine[false]));
	return budget;
}

/* The customer in a list of customers. */
static Customer *
customer_of(dlist_node *node)
{
	Turns	   *turns = dlist_container(Turns, node, node);

	return dlist_head_element(Endpoint, ready_node, &turns->endpoints)->customer;
}

/*
 * Would a slot stay empty that a claim could fill?  Other claims can wait for
 * the next settle.
 */
bool
cwh_claim_wanted(void)
{
	int			left[2];		/* of the unproven, of all */
	dlist_iter	iter;

	if (cwh_endpoints.nhungry[false] + cwh_endpoints.nhungry[true] == 0)
		return false;
	left[true] = claim_budget(&left[false]);
	for (int proven = 0; proven < 2; proven++)
	{
		if (left[true] <= 0 || left[proven] <= 0 ||
			cwh_endpoints.nhungry[proven] == 0)
			continue;
		dlist_foreach(iter, &cwh_endpoints.ready[proven])
		{
			Customer   *customer = customer_of(iter.cur);

			if (customer->nhungry[proven] > 0 &&
				customer_budget(customer, proven) > 0)
				return true;
		}
	}
	return false;
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

/* The endpoints to claim for, as they are chosen. */
typedef struct Choice
{
	int			left[2];		/* deliveries: of the unproven, of all */
	int			max;			/* endpoints */
	int			n;
	CwhWant    *wants;
	TimestampTz now;
} Choice;

/*
 * Choose from a customer's endpoints of a kind, up to "most" deliveries, the
 * same for each of them.
 */
static void
choose_endpoints(Choice *choice, Customer *customer, bool proven, int most)
{
	Turns	   *turns = &customer->ready[proven];
	int			share = Max(1, most / Max(1, Min(turns->n, choice->max)));
	dlist_iter	iter;

	if (most > 0)
		customer->needed_bytes = 0;
	dlist_foreach(iter, &turns->endpoints)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, ready_node, iter.cur);
		int			n = Min(Min(share, cwh_endpoint_room(endpoint)), most);

		n = Min(n, Min(choice->left[proven], choice->left[true]));
		if (choice->n == choice->max || most <= 0)
			break;
		if (n <= 0)
			continue;
		endpoint->claim.wanted = n;
		endpoint->claim.got = 0;
		endpoint->claim.cut = false;
		endpoint->claim.held = false;
		if (endpoint->ready && endpoint->claim.look_again != 0 &&
			endpoint->claim.look_again <= choice->now)
		{
			endpoint->claim.look_again = 0;
			cwh_step_back(endpoint, endpoint->claim.look_from);
		}
		most -= n;
		choice->left[true] -= n;
		if (!proven)
			choice->left[false] -= n;
		choice->wants[choice->n].webhook_id = endpoint->id;
		choice->wants[choice->n].after =
			cwh_next_position(endpoint, choice->now,
							  &choice->wants[choice->n].until);
		choice->wants[choice->n].n = n;
		choice->n++;
	}
}

/* The endpoints to claim for, and how much for each: a fair share. */
static CwhWant *
choose_wants(int *nwants, int *most, TimestampTz now)
{
	Choice		choice = {.now = now};
	int			budget = claim_budget(&choice.left[false]);
	int			first = choice.left[false] > 0 ? 0 : 1;
	int			ncustomers = 0;
	dlist_iter	iter;

	*nwants = 0;
	*most = budget;
	if (budget <= 0)
		return NULL;
	choice.left[true] = budget;
	choice.max = Min(budget, claim_width);
	choice.wants = palloc(choice.max * sizeof(CwhWant));
	for (int proven = first; proven < 2; proven++)
		dlist_foreach(iter, &cwh_endpoints.ready[proven])
			if (++ncustomers >= choice.max)
				break;
	for (int proven = first; proven < 2; proven++)
	{
		dlist_foreach(iter, &cwh_endpoints.ready[proven])
		{
			Customer   *customer = customer_of(iter.cur);
			int			share = Max(1, budget / Max(1, ncustomers));

			if (choice.n == choice.max || choice.left[proven] <= 0 ||
				choice.left[true] <= 0)
				break;
			choose_endpoints(&choice, customer, proven,
							 Min(share, customer_budget(customer, proven)));
		}
	}
	*nwants = choice.n;
	return choice.wants;
}

/* Have the first held delivery of a claim checked again later. */
static void
look_again_later(Endpoint *endpoint)
{
	ClaimState *claim = &endpoint->claim;

	if (claim->look_again == 0 || claim->first_held.due < claim->look_from.due ||
		(claim->first_held.due == claim->look_from.due &&
		 claim->first_held.id < claim->look_from.id))
		claim->look_from = claim->first_held;
	claim->look_again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													HELD_MS);
	cwh_expect_more(endpoint, claim->look_again);
}

/*
 * A delivery held by debounce was due.  If its burst was changed, claim again
 * from there on: the last one of its conversation may be due now, and so may
 * those that waited in order behind one that was superseded.
 */
static void
on_debounced(void *context, const pg_uuid_t *webhook_id, bool changed,
			 bool unblocked)
{
	Endpoint   *endpoint = cwh_endpoint(webhook_id);
	CwhPosition *held = &endpoint->claim.first_held;

	if (!changed)
		look_again_later(endpoint);
	else if (unblocked)
		cwh_reclaim(endpoint);
	else
	{
		endpoint->later = true;
		cwh_expect(endpoint, held->due, held->id, 0);
	}
}

/* Claim for the endpoints that are ready. */
static void
claim_due(Claims *claims)
{
	int			n;
	int			most;
	TimestampTz now = GetCurrentTimestamp();
	CwhWant    *wants = choose_wants(&n, &most, now);
	pg_uuid_t  *later;
	int			nlater = 0;
	TimestampTz reread_at;

	if (n == 0)
		return;
	claims->nwants = n;
	claims->wants = wants;
	claims->in_conversation = false;
	make_room(claims, most);
	cwh_claim_due(wants, n, has_room, on_claimed, claims);
	reread_at = GetCurrentTimestamp();
	reread_at += REREAD_SHARE * (reread_at - now);

	/* those that gave less than was wanted have no more, for now */
	later = palloc(n * sizeof(pg_uuid_t));
	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = cwh_endpoint(&wants[i].webhook_id);
		bool		exhausted = endpoint->claim.got < endpoint->claim.wanted &&
			!endpoint->claim.cut;

		if (wants[i].until == DT_NOEND)
			cwh_backfill_claimed(endpoint, exhausted);
		else if (cwh_claim_made(endpoint, exhausted, now, reread_at))
			later[nlater++] = endpoint->id;
		/* its timer may have been set for another reason */
		if (endpoint->claim.look_again != 0)
			cwh_expect_more(endpoint, endpoint->claim.look_again);
	}
	if (claims->nheld > 0)
		cwh_debounce(claims->held, claims->nheld, now, on_debounced, NULL);
	if (nlater > 0)
		cwh_queue_next_due(later, nlater, now, on_next_due, NULL);
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

		/* while one waits for its retry, a scheduled one may come before it */
		if (delivery->conversation_id == NULL || !settled->results[i].settled ||
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
	cwh_claim_next(wants, n, GetCurrentTimestamp(), has_room, on_claimed,
				   claims);
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
								   2 * EVENT_GRACE_MS))
		endpoint->claim.eventless_since = now;
	return !TimestampDifferenceExceeds(endpoint->claim.eventless_since, now,
									   EVENT_GRACE_MS);
}

/* A claim was committed: have the delivery wait for its request. */
static void
keep_claim(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	if (delivery->expires_at != DT_NOEND &&
		delivery->expires_at <= GetCurrentTimestamp())
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED, CWH_EXPIRED);
	else if (delivery->problem)
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED, delivery->problem);
	else if (endpoint->deleted)
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED,
					   "the webhook was deleted");
	else if (endpoint->gone || endpoint->webhook == NULL ||
			 (delivery->event_type == NULL && is_event_awaited(endpoint)))
	{
		/* a restore may still bring them; a later sweep finds it again */
		cwh_claim_release(&delivery->id, 1);
		cwh_delivery_free(delivery);
	}
	else if (delivery->event_type == NULL)
		cwh_add_result(delivery, CWH_OUTCOME_CANCELED, "the event is gone");
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
	{
		if (cwh_worker.is_copy)
			undo_claim(claims->deliveries[i]);
		else
			keep_claim(claims->deliveries[i]);
	}
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
