/*
 * claim.c
 *		Takes deliveries off the queue, for the endpoints that are ready.
 *
 * A claim starts where the last one ended, and not at the head of the queue,
 * so rows that are finished but cannot be vacuumed yet are not read again and
 * again.  What comes to stand before that place is told: by the commit that
 * put it there (a hint), by the worker itself (a retry's time), or found by
 * the sweep every chatwebhook.poll_interval.
 *
 * Claims are made in a transaction of the worker, whose end decides whether they
 * are kept: between cwh_begin_claims() and cwh_keep_claims() or
 * cwh_undo_claims().
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <limits.h>

#include "utils/timestamp.h"

#include "worker.h"

/* Bodies held at a time, beyond which nothing is claimed. */
#define MAX_BODY_BYTES		(32 * 1024 * 1024)

/*
 * A sweep has a queue read from its head again when that was last done so many
 * times as long ago as it took: of what is ordered and waits, every row is read.
 */
#define REREAD_SHARE		20

/* An endpoint whose queue cannot be read is asked again after this. */
#define FAILED_CLAIM_MS		60000

static double average_body = 1024;
static int	claim_width = INT_MAX;	/* endpoints to claim for at a time */
static int	claim_asked = 0;	/* in the claim that was made */
static pg_uuid_t claim_first;	/* the first of them */
static Delivery **claimed_now = NULL;	/* in the current transaction */
static int	nclaimed_now = 0;
static bool claiming_next = false;	/* in a conversation, not in the queue */

/* A webhook that has something pending was found. */
static void
on_swept(const pg_uuid_t *webhook_id, TimestampTz first_due)
{
	Endpoint   *endpoint = cwh_get_endpoint(webhook_id);

	if (cwh_alert_backlog > 0 &&
		first_due < GetCurrentTimestamp() -
		(TimestampTz) cwh_alert_backlog * USECS_PER_SEC)
		cwh_add_backlog(webhook_id, first_due);

	endpoint->later = true;
	if (first_due > GetCurrentTimestamp())
		cwh_set_timer(endpoint, first_due);
	else if (endpoint->reread_at > GetCurrentTimestamp())
	{
		endpoint->reread = true;
		cwh_set_timer(endpoint, endpoint->reread_at);
		cwh_make_ready(endpoint, DT_NOEND, 0, 0);	/* behind where it is */
	}
	else
	{
		endpoint->reread = false;
		cwh_make_ready(endpoint, DT_NOBEGIN, 1, 0);
	}
}

/* A webhook that could not be sent to was found: what was missing may be there. */
static void
on_problem(const pg_uuid_t *webhook_id)
{
	Endpoint   *endpoint = cwh_get_endpoint(webhook_id);

	endpoint->changed = true;
	cwh_make_ready(endpoint, DT_NOBEGIN, 1, 0);
}

/* A webhook has its next delivery due later. */
static void
on_next_due(const pg_uuid_t *webhook_id, TimestampTz due)
{
	Endpoint   *endpoint = cwh_get_endpoint(webhook_id);

	endpoint->later = true;
	cwh_set_timer(endpoint, due);
}

/* See which webhooks have anything pending, or a problem. */
void
cwh_sweep_queue(void)
{
	cwh_begin_backlogs();
	cwh_outbox_sweep(on_swept);
	cwh_outbox_problems(on_problem);
	cwh_end_backlogs();
}

/* Say in the server's log what an error is about. */
static void
name_delivery(void *arg)
{
	Delivery   *delivery = arg;
	CwhWebhook *webhook = delivery->endpoint->webhook;

	errcontext("delivery " INT64_FORMAT " to webhook \"%s\"", delivery->id,
			   webhook ? webhook->name : "");
}

/*
 * Write the body of a request.  An event that cannot be written is that
 * delivery's trouble alone; nothing in here holds anything but memory, so an
 * error can be caught without ending the transaction.
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
on_claimed(const CwhClaimed *claimed)
{
	Endpoint   *endpoint = cwh_get_endpoint(&claimed->webhook_id);
	Delivery   *delivery;
	MemoryContext oldcontext;

	if (!claiming_next)
	{
		endpoint->got++;
		endpoint->after.due = claimed->due;
		endpoint->after.id = claimed->id;
	}
	if (!claimed->mine)
		return;
	delivery = cwh_new_delivery();
	claimed_now[nclaimed_now++] = delivery;
	delivery->endpoint = endpoint;
	delivery->id = claimed->id;
	delivery->attempts = claimed->attempts;
	delivery->first_attempt = claimed->first_attempt;
	delivery->last_wait_ms = claimed->last_wait_ms;
	delivery->log = false;
	delivery->started_at = 0;
	delivery->earlier_ms = 0;
	delivery->fetching = delivery->renewed = false;
	delivery->connector_number = endpoint->connector_number;
	if (claimed->replies)
		cwh_keep_replies(delivery, claimed->replies);
	delivery->problem = NULL;
	if (claimed->has_event)
	{
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
		(dlist_is_empty(&cwh_worker.ready_list[false]) &&
		 dlist_is_empty(&cwh_worker.ready_list[true])))
		return 0;
	budget = Min(budget, 1 + (int) (MAX_BODY_BYTES / (average_body + 1)));
	*unproven = Min(budget, Max(1, limit / UNPROVEN_SHARE) +
					MAX_PREFETCH / UNPROVEN_SHARE - cwh_worker.nheld[false]);
	return budget;
}

/* Would a slot stay empty that a claim could fill? */
bool
cwh_is_claim_wanted(void)
{
	int			unproven;
	int			budget = claim_budget(&unproven);

	return budget > 0 &&
		(cwh_worker.nhungry[true] > 0 ||
		 (cwh_worker.nhungry[false] > 0 && unproven > 0));
}

/*
 * A claim has failed, since an event cannot be read, say.  Ask for fewer
 * endpoints at a time; one whose claim fails by itself must not hold up the
 * others, and waits.
 */
static void
claim_failed(void)
{
	if (claim_asked == 1)
	{
		Endpoint   *endpoint = cwh_get_endpoint(&claim_first);

		endpoint->ready = false;
		endpoint->later = true;
		cwh_set_timer(endpoint,
					  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  FAILED_CLAIM_MS));
		cwh_reconsider(endpoint);
	}
	claim_width = Max(1, claim_asked / 2);
	cwh_worker.settle_alone = true;
}

/* A transaction begins. */
void
cwh_begin_claims(void)
{
	claimed_now = NULL;
	nclaimed_now = 0;
	claim_asked = 0;
	claiming_next = false;
}

/* Has it claimed anything? */
bool
cwh_any_claims(void)
{
	return nclaimed_now > 0;
}

/* Claim for the endpoints that are ready, a fair share for each. */
void
cwh_claim_due(void)
{
	int			unproven;
	int			budget = claim_budget(&unproven);
	int			left[2];
	int			nready = 0;
	int			share;
	int			n = 0;
	int			nlater = 0;
	CwhWant    *wants;
	pg_uuid_t  *later;
	TimestampTz now;
	TimestampTz reread_at;
	dlist_iter	iter;

	if (budget <= 0)
		return;
	for (int proven = 0; proven < 2; proven++)
	{
		if (!proven && unproven <= 0)
			continue;
		dlist_foreach(iter, &cwh_worker.ready_list[proven])
		{
			if (++nready >= Min(budget, claim_width))
				break;
		}
	}
	if (nready == 0)
		return;
	nready = Min(nready, Min(budget, claim_width));
	share = Max(1, budget / nready);
	left[true] = budget;
	left[false] = unproven;
	wants = palloc(nready * sizeof(CwhWant));
	for (int proven = 0; proven < 2; proven++)
	{
		dlist_foreach(iter, &cwh_worker.ready_list[proven])
		{
			Endpoint   *endpoint = dlist_container(Endpoint, ready_node, iter.cur);

			if (n == nready || left[proven] <= 0 || left[true] <= 0)
				break;
			endpoint->wanted = Min(Min(share, cwh_endpoint_room(endpoint)),
								   Min(left[proven], left[true]));
			endpoint->got = 0;
			left[true] -= endpoint->wanted;
			if (!proven)
				left[false] -= endpoint->wanted;
			wants[n].webhook_id = endpoint->id;
			wants[n].after = endpoint->after;
			wants[n].n = endpoint->wanted;
			n++;
		}
	}
	if (n == 0)
		return;
	claim_asked = n;
	claim_first = wants[0].webhook_id;
	claimed_now = claimed_now == NULL ? palloc(budget * sizeof(Delivery *)) :
		repalloc(claimed_now, (nclaimed_now + budget) * sizeof(Delivery *));
	now = GetCurrentTimestamp();
	cwh_outbox_claim(wants, n, now, on_claimed);
	reread_at = GetCurrentTimestamp();
	reread_at += REREAD_SHARE * (reread_at - now);

	/* those that gave less than was wanted have no more, for now */
	later = palloc(n * sizeof(pg_uuid_t));
	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = cwh_get_endpoint(&wants[i].webhook_id);

		/* the next claim begins with those that were not asked in this one */
		dlist_delete(&endpoint->ready_node);
		dlist_push_tail(&cwh_worker.ready_list[endpoint->proven],
						&endpoint->ready_node);
		if (endpoint->got == endpoint->wanted)
			continue;
		endpoint->ready = false;
		/* what waits in its conversation need not be read again, either */
		endpoint->after.due = now;
		endpoint->after.id = PG_INT64_MAX;
		/* what was promised is not put off */
		if (!endpoint->reread)
			endpoint->reread_at = Max(endpoint->reread_at, reread_at);
		if (endpoint->later)
		{
			endpoint->later = false;
			later[nlater++] = endpoint->id;
		}
	}
	if (nlater > 0)
		cwh_outbox_next_due(later, nlater, now, on_next_due);
	for (int i = 0; i < n; i++)
		cwh_reconsider(cwh_get_endpoint(&wants[i].webhook_id));
}

/*
 * Where conversations are ordered, what follows a delivery that is done with is
 * claimed in its place; the cursor of its webhook has passed it long ago.
 */
void
cwh_claim_next(Settle *work, bool may_claim)
{
	pg_uuid_t  *ids = palloc(Max(1, work->n) * sizeof(pg_uuid_t));
	char	  **conversations = palloc(Max(1, work->n) * sizeof(char *));
	int			n = 0;

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];
		Endpoint   *endpoint = delivery->endpoint;

		if (delivery->conversation_id == NULL || !work->results[i].settled ||
			delivery->outcome == CWH_OUTCOME_RETRY ||
			delivery->outcome == CWH_OUTCOME_STEP)
			continue;
		if (may_claim && !endpoint->blocked && !endpoint->disable &&
			!endpoint->gone && endpoint->webhook->enabled)
		{
			ids[n] = endpoint->id;
			conversations[n++] = delivery->conversation_id;
		}
		else
		{
			/* found from the start, when it may be claimed again */
			endpoint->after.due = DT_NOBEGIN;
			endpoint->ready = true;
			cwh_reconsider(endpoint);
		}
	}
	if (n == 0)
		return;
	claimed_now = palloc(n * sizeof(Delivery *));
	claiming_next = true;
	cwh_outbox_claim_next(ids, conversations, n, GetCurrentTimestamp(),
						  on_claimed);
	claiming_next = false;
}

/*
 * May the event of a delivery come yet?  A later sweep finds the delivery
 * again; what was missing long ago, and is again, is so for another reason.
 */
static bool
is_event_awaited(Endpoint *endpoint)
{
	TimestampTz now = GetCurrentTimestamp();

	if (endpoint->eventless_since == 0 ||
		TimestampDifferenceExceeds(endpoint->eventless_since, now,
								   2 * ORPHAN_GRACE_MS))
		endpoint->eventless_since = now;
	return !TimestampDifferenceExceeds(endpoint->eventless_since, now,
									   ORPHAN_GRACE_MS);
}

/* The claims of a transaction that was committed: they wait to be started. */
void
cwh_keep_claims(void)
{
	cwh_worker.stats.claimed += nclaimed_now;
	if (nclaimed_now > 0)
		cwh_worker.stats_changed = true;
	for (int i = 0; i < nclaimed_now; i++)
	{
		Delivery   *delivery = claimed_now[i];
		Endpoint   *endpoint = delivery->endpoint;

		if (delivery->problem)
			cwh_add_result(delivery, CWH_OUTCOME_CANCELED, delivery->problem);
		else if (delivery->event_type == NULL && is_event_awaited(endpoint))
		{
			cwh_claim_release(&delivery->id, 1);
			cwh_free_delivery(delivery);
			claimed_now[i] = NULL;
		}
		else if (delivery->event_type == NULL)
			cwh_add_result(delivery, CWH_OUTCOME_CANCELED, "the event is gone");
		else if (endpoint->gone || endpoint->webhook == NULL)
			cwh_add_result(delivery, CWH_OUTCOME_CANCELED,
						   "the webhook was deleted");
		else
		{
			cwh_append_node(&endpoint->waiting, &endpoint->waiting_tail,
							&delivery->node);
			cwh_count_waiting(endpoint, 1);
			continue;
		}
	}
	for (int i = 0; i < nclaimed_now; i++)
		if (claimed_now[i])
			cwh_reconsider(claimed_now[i]->endpoint);
	nclaimed_now = 0;
	if (claim_asked > 0)
	{
		claim_width = claim_asked < claim_width ? INT_MAX : claim_width;
		if (claim_width < INT_MAX / 2)
			claim_width *= 2;
		cwh_worker.settle_alone = false;
	}
}

/* The claims of a transaction that failed. */
void
cwh_undo_claims(void)
{
	for (int i = 0; i < nclaimed_now; i++)
	{
		Delivery   *delivery = claimed_now[i];
		Endpoint   *endpoint = delivery->endpoint;

		cwh_claim_release(&delivery->id, 1);
		endpoint->after.due = DT_NOBEGIN;
		endpoint->ready = true;
		endpoint->later = true;
		cwh_free_delivery(delivery);
		cwh_reconsider(endpoint);
	}
	nclaimed_now = 0;
	if (claim_asked > 0)
		claim_failed();
}
