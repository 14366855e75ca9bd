/*
 * attempt.c
 *		Makes attempts at the deliveries that were claimed.
 *
 * An attempt is one request, or with connectors several; the request for a batch
 * is an attempt at several deliveries, of which the first has the exchange.  The
 * request for an access token precedes an attempt and is not part of it.
 *
 * This file starts attempts where slots, windows and gates allow, and applies
 * what decision.c says of their ends: to the delivery, its endpoint, its gate
 * and the ledger.  Nothing in here has a transaction: the ledger is written by
 * settle.c.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "compat.h"
#include "endpoint.h"
#include "gate.h"
#include "ledger.h"
#include "render.h"

/* A probe whose end was not heard of is over this long after its timeout. */
#define PROBE_GRACE_MS		1000

/* A batch is closed when its body is larger than this. */
#define MAX_BATCH_BYTES		(1024 * 1024)

/* Start nothing for this long after a socket could not be had. */
#define STARVED_MS			100

static void start_attempt(Endpoint *endpoint, Delivery *delivery);

/*
 * The ends of attempts
 */

/*
 * Forget the step and the replies if they are another connector's than the
 * webhook has now.  True if they were.
 */
static bool
forget_other_connector(Delivery *delivery)
{
	if (delivery->connector_number == delivery->endpoint->connector_number)
		return false;
	delivery->connector_number = delivery->endpoint->connector_number;
	delivery->exchange.replies = NULL;
	delivery->exchange.step = NULL;
	delivery->exchange.known = delivery->exchange.learned = NULL;
	return true;
}

/* The request does not point into its webhook any more. */
static void
unpin_webhook(Delivery *delivery)
{
	if (delivery->webhook)
		cwh_webhook_release(delivery->webhook);
	delivery->webhook = NULL;
}

/* May the webhook's secrets have changed since its request was built? */
static bool
is_outdated(const Delivery *delivery)
{
	const Endpoint *endpoint = delivery->endpoint;

	return delivery->webhook &&
		(delivery->webhook->secrets != endpoint->webhook->secrets ||
		 !cwh_stamp_holds(endpoint->bucket, endpoint->stamp));
}

/*
 * Fill in what an attempt says about retries and the webhook; the exchange
 * fills in the rest.
 */
static void
describe_attempt(const Delivery *delivery, double random01, CwhAttempt *attempt)
{
	memset(attempt, 0, sizeof(CwhAttempt));
	attempt->outdated = is_outdated(delivery);
	attempt->retry = &delivery->endpoint->webhook->retry;
	attempt->retries = delivery->attempts - delivery->first_attempt;
	attempt->last_wait_ms = delivery->last_wait_ms;
	attempt->random01 = random01;
	attempt->batch = delivery->batch.data != NULL;
}

/*
 * Is an attempt with this verdict, and perhaps a note that something could not be
 * done, kept in the table attempt?
 */
static bool
is_logged(CwhVerdict verdict, const char *problem)
{
	return cwh_log_attempts == CWH_LOG_ALL ||
		(cwh_log_attempts == CWH_LOG_FAILURES &&
		 (verdict != CWH_DELIVERED || problem));
}

/* Tell the gate of the webhook how its receiver is. */
static void
signal_gate(Endpoint *endpoint, const CwhDecision *decision, double random01,
			TimestampTz now)
{
	const char *name = endpoint->webhook->name;

	if (!cwh_gate_signal(&endpoint->id, decision->breaker, decision->pause_s,
						 &endpoint->webhook->retry, random01, now))
		return;
	/* other workers may wait for the end of this probe */
	if (decision->breaker == CWH_SIGNAL_ANSWERED)
		cwh_hint(&endpoint->id, DT_NOBEGIN, 0, 0);
	if (decision->breaker == CWH_SIGNAL_FAILED)
		ereport(LOG,
				(errmsg("chatwebhook: pausing webhook \"%s\" after %d failed requests in a row",
						name, cwh_breaker_threshold)));
	else
		ereport(LOG,
				(errmsg("chatwebhook: webhook \"%s\" is responding again; resuming delivery",
						name)));
}

/* An attempt at a delivery is over: have that settled and counted. */
static void
end_attempt(Delivery *delivery, const CwhDecision *decision, bool request,
			TimestampTz now)
{
	const char *error = decision->error[0] ? decision->error : NULL;
	AttemptEnd	end;

	delivery->wait_ms = decision->wait_ms;
	delivery->log = decision->counts &&
		is_logged(decision->verdict, delivery->exchange.note);
	cwh_add_result(delivery, decision->outcome, error);
	if (!decision->counts)
		return;
	end.success = decision->verdict == CWH_DELIVERED;
	end.ordinary = delivery->event_type &&
		!cwh_is_own_type(delivery->event_type);
	end.dead = decision->outcome == CWH_OUTCOME_DEAD;
	end.request = request;
	end.started_at = delivery->started_at;
	end.latency_ms = delivery->latency_ms;
	end.error = error;
	end.at = now;
	cwh_count_attempt(delivery->account, &delivery->endpoint->id, &end);
	if (error && request)
		ereport(DEBUG1,
				(errmsg_internal("delivery " INT64_FORMAT " to webhook \"%s\" failed: %s",
								 delivery->id, delivery->endpoint->webhook->name,
								 error)));
}

/*
 * End an attempt because there is nothing (more) to send, so there is no reply
 * to keep.  If no request was sent at all, it does not count as an attempt,
 * but may be logged.
 */
static void
end_with_nothing(Delivery *delivery, bool any_sent)
{
	delivery->untried = !any_sent;
	if (any_sent)
		delivery->log = delivery->exchange.note &&
			cwh_log_attempts != CWH_LOG_NONE;
	else
	{
		delivery->exchange.note = "nothing to send";
		delivery->log = cwh_log_attempts == CWH_LOG_ALL;
	}
}

/*
 * The request of a batch has ended: decide the same for its other deliveries,
 * each by its own count of retries.  The reply is logged with the first.
 */
static void
end_others(Delivery *first, const CwhEnding *ending, CwhAttempt *attempt,
		   TimestampTz now)
{
	while (!slist_is_empty(&first->others))
	{
		Delivery   *delivery = slist_container(Delivery, node,
											   slist_pop_head_node(&first->others));
		CwhDecision decision;

		attempt->retries = delivery->attempts - delivery->first_attempt;
		attempt->last_wait_ms = delivery->last_wait_ms;
		cwh_decide(&decision, ending, attempt);
		delivery->started_at = first->started_at;
		delivery->status = first->status;
		delivery->latency_ms = first->latency_ms;
		end_attempt(delivery, &decision, false, now);
		if (ending->end == CWH_END_NOTHING)
			end_with_nothing(delivery, false);
	}
}

/* No descriptor was free: that is our fault, and no attempt. */
static void
note_starvation(TimestampTz now)
{
	cwh_worker.starved_until = TimestampTzPlusMilliseconds(now, STARVED_MS);
	cwh_note_error("no descriptor was free for a connection: increase max_files_per_process or lower chatwebhook.max_in_flight");
}

/* Milliseconds that all requests of an attempt took. */
static int
total_latency(const CwhExchange *exchange)
{
	return exchange->earlier_ms +
		(exchange->transfer ? exchange->transfer->reply.latency_ms : 0);
}

/*
 * Continue the attempt.  A request whose signature was refused is repeated at
 * once; the gate and the limits count it as the same request.  If the webhook
 * has changed, release the delivery, to claim it again once the webhook has
 * been read.
 */
static void
go_on(Delivery *delivery, CwhSecretFate secret)
{
	Endpoint   *endpoint = delivery->endpoint;

	if (secret == CWH_SECRET_SWAP && !endpoint->gone &&
		endpoint->webhook->enabled && !cwh_worker_terminate)
	{
		start_attempt(endpoint, delivery);
		return;
	}
	cwh_wait_again(delivery);
	if (secret == CWH_SECRET_RELOAD)
	{
		cwh_reread_webhook(endpoint);
		cwh_release_waiting(endpoint);
	}
}

/*
 * A request has ended, or cannot be sent: apply what is decided of that.  Memory
 * that this takes goes with the next transaction.
 */
static void
apply_ending(Delivery *delivery, bool unsent, CwhEnding *ending)
{
	Endpoint   *endpoint = delivery->endpoint;
	TimestampTz now = GetCurrentTimestamp();
	double		random01 = pg_prng_double(&pg_global_prng_state);
	CwhAttempt	attempt;
	CwhDecision decision;
	MemoryContext oldcontext;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	cwh_count_in_flight(endpoint, -1);
	describe_attempt(delivery, random01, &attempt);
	unpin_webhook(delivery);
	cwh_worker.state.stats.last_activity_at = now;
	cwh_worker.state_changed = true;

	delivery->latency_ms = total_latency(&delivery->exchange);
	cwh_exchange_end(&delivery->exchange, endpoint->webhook, &endpoint->token,
					 unsent, ending, &attempt, &decision);
	/* without a further request, the status of the one before stays */
	if (ending->end != CWH_END_NOTHING)
		delivery->status = ending->for_token ? 0 : ending->status;
	if (decision.starved)
		note_starvation(now);
	signal_gate(endpoint, &decision, random01, now);
	cwh_endpoint_judged(endpoint, &decision);
	if (decision.disable)
		cwh_account_request(&endpoint->account, decision.disable, false);
	if (decision.next == CWH_NEXT_STEP && forget_other_connector(delivery))
		decision.next = CWH_NEXT_AGAIN;
	switch (decision.next)
	{
		case CWH_NEXT_AGAIN:
			go_on(delivery, decision.secret);
			break;
		case CWH_NEXT_STEP:
			cwh_add_result(delivery, CWH_OUTCOME_STEP, NULL);
			break;
		case CWH_NEXT_SETTLE:
			/* what another connector's rules have taught is of no use */
			(void) forget_other_connector(delivery);
			end_attempt(delivery, &decision, true, now);
			if (ending->end == CWH_END_NOTHING)
				end_with_nothing(delivery, decision.counts);
			if (delivery->batch.data)
				end_others(delivery, ending, &attempt, now);
			break;
	}
	cwh_reconsider(endpoint);
	MemoryContextSwitchTo(oldcontext);
}

/* The same for a request that was not sent. */
static void
fail_attempt(Delivery *delivery, CwhEnd end, const char *error)
{
	CwhEnding	ending;
	char		clipped[CWH_MAX_REASON + 1] = "";

	memset(&ending, 0, sizeof(ending));
	ending.end = end;
	/* it is in the database's encoding, which decision.c does not know */
	if (error)
		cwh_copy_text(clipped, error, sizeof(clipped));
	ending.error = clipped;
	ending.retry_after_s = -1;
	apply_ending(delivery, true, &ending);
}

/* The transfer of a delivery has ended. */
void
cwh_attempt_ended(Delivery *delivery)
{
	CwhEnding	ending;

	apply_ending(delivery, false, &ending);
}

/*
 * Sending
 */

/*
 * Send a request.  False if that is not possible; *problem says why, or is null
 * if memory was short.  An error fails this delivery, and does not end the worker.
 */
static bool
try_to_send(Delivery *delivery, const CwhMessage *message,
			const char *volatile *problem)
{
	Endpoint   *endpoint = delivery->endpoint;
	MemoryContext context = CurrentMemoryContext;
	volatile bool sent = false;

	PG_TRY();
	{
		const char *found = NULL;

		sent = cwh_exchange_send(&delivery->exchange, endpoint->webhook,
								 &endpoint->token, message, delivery, &found);
		*problem = found;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		errcontext("delivery " INT64_FORMAT " to webhook \"%s\"", delivery->id,
				   endpoint->webhook->name);
		EmitErrorReport();
		FlushErrorState();
		cwh_exchange_drop(&delivery->exchange);
		*problem = "the request could not be made; see the server's log";
	}
	PG_END_TRY();
	return sent;
}

/* Send the next request of a delivery, or the one for the token it needs. */
static void
send_request(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	pg_uuid_t	event_ids[CWH_MAX_BATCH];
	int64		delivery_ids[CWH_MAX_BATCH];
	CwhMessage	message;
	const char *volatile problem = NULL;
	slist_iter	iter;

	message.batch = delivery->batch.data != NULL;
	message.event_type = delivery->event_type;
	message.event_ids = event_ids;
	message.delivery_ids = delivery_ids;
	message.attempt = delivery->attempts + 1;
	message.body = message.batch ? &delivery->batch : &delivery->body;
	/* receivers refuse an old timestamp, however long earlier requests took */
	message.now = GetCurrentTimestamp();
	message.traceparent = delivery->traceparent;
	event_ids[0] = delivery->event_id;
	delivery_ids[0] = delivery->id;
	message.n = 1;
	if (message.batch)
		slist_foreach(iter, &delivery->others)
		{
			Delivery   *other = slist_container(Delivery, node, iter.cur);

			/* several events belong to several traces */
			message.traceparent = NULL;
			event_ids[message.n] = other->event_id;
			delivery_ids[message.n++] = other->id;
		}
	if (try_to_send(delivery, &message, &problem))
	{
		delivery->webhook = endpoint->webhook;
		delivery->webhook->users++;
	}
	else if (problem)
		fail_attempt(delivery, CWH_END_REFUSED, problem);
	else
		fail_attempt(delivery, CWH_END_FAILED,
					 "could not start the request: out of memory");
}

/* A connector has been asked what to send: send it. */
static void
on_rendered(Delivery *delivery, const char *error)
{
	Endpoint   *endpoint = delivery->endpoint;

	if (error)
		fail_attempt(delivery, CWH_END_FAILED, error);
	else if (delivery->exchange.step == NULL)
		fail_attempt(delivery, CWH_END_NOTHING, NULL);
	else if (endpoint->token.requested && !cwh_token_usable(&endpoint->token))
	{
		/* another delivery asks for the token that this one needs, too */
		cwh_count_in_flight(endpoint, -1);
		cwh_wait_again(delivery);
	}
	else
		send_request(delivery);
	cwh_reconsider(endpoint);
}

/* Start the attempt at a delivery that was waiting, or go on with it. */
static void
start_attempt(Endpoint *endpoint, Delivery *delivery)
{
	cwh_count_in_flight(endpoint, 1);
	if (delivery->started_at == 0)
		delivery->started_at = GetCurrentTimestamp();
	(void) forget_other_connector(delivery);
	/* a batch may have other events in it than the last time */
	if (delivery->version != endpoint->version || delivery->batch.data)
		delivery->exchange.step = NULL;
	if (endpoint->webhook->connector && delivery->exchange.step == NULL)
	{
		cwh_delivery_need_context(delivery);
		cwh_render_later(delivery);
	}
	else
		send_request(delivery);
}

/*
 * Starting
 */

/* Has it expired before anything was sent?  An attempt under way is finished. */
static bool
is_expired(const Delivery *delivery, TimestampTz now)
{
	return delivery->expires_at <= now && delivery->started_at == 0;
}

/*
 * Of the deliveries that would go into the next request, cancel those that
 * have expired since they were claimed.  Returns whether there were any.
 */
static bool
cancel_expired(Endpoint *endpoint, TimestampTz now)
{
	Delivery   *kept[CWH_MAX_BATCH];
	int			n = Min(endpoint->nwaiting, endpoint->webhook->batch_size);
	int			nkept = 0;
	int			i = 0;
	bool		any = false;
	slist_iter	iter;

	slist_foreach(iter, &endpoint->waiting)
	{
		if (i++ == n || any)
			break;
		any = is_expired(slist_container(Delivery, node, iter.cur), now);
	}
	if (!any)
		return false;
	for (i = 0; i < n; i++)
	{
		Delivery   *delivery = cwh_next_waiting(endpoint);

		if (is_expired(delivery, now))
			cwh_add_result(delivery, CWH_OUTCOME_CANCELED, CWH_EXPIRED);
		else
			kept[nkept++] = delivery;
	}
	/* each goes to the front, so begin with the last */
	while (nkept > 0)
		cwh_wait_again(kept[--nkept]);
	cwh_reconsider(endpoint);
	return true;
}

/* How many of those that wait go into the next request. */
static int
batch_length(Endpoint *endpoint)
{
	int			most = endpoint->webhook->batch_size;
	int			n = 0;
	Size		len = 0;
	slist_iter	iter;

	if (most == 1)
		return 1;
	slist_foreach(iter, &endpoint->waiting)
	{
		len += slist_container(Delivery, node, iter.cur)->body.len + 1;
		if (n == most || (n > 0 && len > MAX_BATCH_BYTES))
			break;
		n++;
	}
	return n;
}

/* Order of deliveries in a batch: as they were emitted. */
static int
compare_deliveries(const void *a, const void *b)
{
	int64		left = (*(Delivery *const *) a)->id;
	int64		right = (*(Delivery *const *) b)->id;

	return left < right ? -1 : left > right;
}

/*
 * Put as many of those that wait into one request.  Tried again together, they
 * may be due in another order; the body must be the same.
 */
static Delivery *
make_batch(Endpoint *endpoint, int n)
{
	Delivery   *deliveries[CWH_MAX_BATCH];
	Delivery   *first;
	MemoryContext oldcontext;

	for (int i = 0; i < n; i++)
	{
		deliveries[i] = cwh_next_waiting(endpoint);
		/* they are from requests for single events, before a change */
		deliveries[i]->exchange.replies = NULL;
	}
	qsort(deliveries, n, sizeof(Delivery *), compare_deliveries);
	first = deliveries[0];
	cwh_delivery_need_context(first);
	oldcontext = MemoryContextSwitchTo(first->exchange.context);
	initStringInfo(&first->batch);
	MemoryContextSwitchTo(oldcontext);
	slist_init(&first->others);
	appendStringInfoChar(&first->batch, '[');
	appendBinaryStringInfo(&first->batch, first->body.data, first->body.len);
	for (int i = 1; i < n; i++)
	{
		Delivery   *other = deliveries[i];

		cwh_append_node(&first->others, &first->others_tail, &other->node);
		appendStringInfoChar(&first->batch, ',');
		appendBinaryStringInfo(&first->batch, other->body.data, other->body.len);
	}
	appendStringInfoChar(&first->batch, ']');
	return first;
}

/* Does the next request of an endpoint ask for a token? */
static bool
needs_token(Endpoint *endpoint)
{
	return endpoint->webhook->auth == CWH_AUTH_OAUTH2 &&
		!cwh_token_usable(&endpoint->token);
}

/* Fill free slots, an endpoint after the other, one request each. */
static void
start_attempts(void)
{
	MemoryContext oldcontext;
	Endpoint   *endpoint;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	while ((endpoint = cwh_next_startable()) != NULL)
	{
		CwhWebhook *webhook = endpoint->webhook;
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz again;
		int			n;

		/* cwh_reconsider() puts it at the end again */
		cwh_set_startable(endpoint, false);
		if (cancel_expired(endpoint, now))
			continue;
		if (cwh_connector_slow(endpoint) && cwh_worker.slow_until > now)
		{
			cwh_block_endpoint(endpoint, cwh_worker.slow_until, now);
			continue;
		}
		n = batch_length(endpoint);
		if (!cwh_gate_pass(&endpoint->id, webhook->rate_limit,
						   needs_token(endpoint) ? 0 : n,
						   webhook->timeout_ms + PROBE_GRACE_MS,
						   now, &again))
		{
			cwh_block_endpoint(endpoint, again, now);
			continue;
		}
		start_attempt(endpoint, webhook->batch_size > 1 ?
					  make_batch(endpoint, n) : cwh_next_waiting(endpoint));
		cwh_reconsider(endpoint);
	}
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Start attempts, if that may be now, and go on with those that wait for their
 * connectors to be called.
 */
void
cwh_make_attempts(bool may_start)
{
	if (may_start)
		start_attempts();
	if (cwh_to_render.n > 0)
		cwh_render(on_rendered);
}
