/*
 * attempt.c
 *		Sends what was claimed, and judges what came of it.
 *
 * An attempt is one request, or with connectors several; one of a batch is the
 * attempt at several deliveries, of which the first has the transfer.  A token
 * that is asked for first is not part of it.  Requests are sent and judged in no
 * transaction: what is to be written goes to settle.c.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "worker.h"

/* A token is used for this long, whatever its endpoint says. */
#define MIN_TOKEN_LIFE_S	10

/* Where new tokens are refused, too, another is asked for so often at most. */
#define REFUSED_TOKEN_MS	60000

/* A probe whose end was not heard of is over so long after its timeout. */
#define PROBE_GRACE_MS		1000

/* A batch is closed when its body is larger than this. */
#define MAX_BATCH_BYTES		(1024 * 1024)

/* After a socket could not be had. */
#define STARVED_MS			100

/* A delivery's body has this much room to begin with. */
#define BODY_SIZE			2048

static slist_head spare_deliveries = SLIST_STATIC_INIT(spare_deliveries);

/* A delivery to be filled in. */
Delivery *
cwh_new_delivery(void)
{
	Delivery   *delivery;

	if (!slist_is_empty(&spare_deliveries))
		return slist_container(Delivery, node,
							   slist_pop_head_node(&spare_deliveries));
	delivery = MemoryContextAllocZero(cwh_worker.context, sizeof(Delivery));
	delivery->body.data = MemoryContextAlloc(cwh_worker.context, BODY_SIZE);
	delivery->body.maxlen = BODY_SIZE;
	return delivery;
}

/* A place for what a connector's delivery has more. */
static void
need_context(Delivery *delivery)
{
	if (delivery->context == NULL)
		delivery->context = AllocSetContextCreate(cwh_worker.context,
												  "chatwebhook delivery",
												  ALLOCSET_SMALL_SIZES);
}

/* Keep the replies to a connector's requests. */
void
cwh_keep_replies(Delivery *delivery, const Jsonb *replies)
{
	need_context(delivery);
	delivery->replies = MemoryContextAlloc(delivery->context, VARSIZE(replies));
	memcpy(delivery->replies, replies, VARSIZE(replies));
}

/* Forget a connector's request. */
static void
drop_request(Delivery *delivery)
{
	if (delivery->request)
		cwh_request_cleanse(delivery->request);
	delivery->request = NULL;
}

/* A delivery is done with. */
void
cwh_free_delivery(Delivery *delivery)
{
	cwh_worker.body_bytes -= delivery->body.len;
	if (delivery->event_type)
		pfree(delivery->event_type);
	if (delivery->chatbot_id)
		pfree(delivery->chatbot_id);
	if (delivery->error)
		pfree(delivery->error);
	if (delivery->conversation_id)
		pfree(delivery->conversation_id);
	delivery->event_type = delivery->chatbot_id = delivery->error = NULL;
	delivery->conversation_id = NULL;
	drop_request(delivery);
	if (delivery->context)
		MemoryContextDelete(delivery->context);
	delivery->context = NULL;
	delivery->replies = NULL;
	delivery->batch.data = NULL;
	cwh_transfer_release(&delivery->transfer);
	if (delivery->body.maxlen > CWH_MAX_KEPT_BUFFER)
	{
		pfree(delivery->body.data);
		delivery->body.data = MemoryContextAlloc(cwh_worker.context, BODY_SIZE);
		delivery->body.maxlen = BODY_SIZE;
	}
	resetStringInfo(&delivery->body);
	slist_push_head(&spare_deliveries, &delivery->node);
}

/* As if a request had been sent and had failed at once. */
void
cwh_fail_delivery(Delivery *delivery, const char *problem, bool refused)
{
	CwhTransfer *transfer = &delivery->transfer;

	transfer->status = 0;
	transfer->failed = true;
	transfer->refused = refused;
	transfer->starved = false;
	transfer->latency_ms = 0;
	transfer->retry_after_s = -1;
	transfer->response_headers.len = 0;
	transfer->response_body.len = 0;
	cwh_copy_text(transfer->error, problem, sizeof(transfer->error));
	cwh_judge(delivery);
}

/* Is the next request of its webhook one for a token? */
static bool
needs_token(Endpoint *endpoint)
{
	return endpoint->webhook->auth == CWH_AUTH_OAUTH2 &&
		!cwh_has_token(endpoint);
}

/* Write the request for the deliveries of a batch. */
static void
prepare_batch(Delivery *first, Endpoint *endpoint)
{
	pg_uuid_t	events[CWH_MAX_BATCH];
	int64		ids[CWH_MAX_BATCH];
	int			n = 1;
	slist_iter	iter;

	events[0] = first->event_id;
	ids[0] = first->id;
	slist_foreach(iter, &first->others)
	{
		Delivery   *delivery = slist_container(Delivery, node, iter.cur);

		events[n] = delivery->event_id;
		ids[n++] = delivery->id;
	}
	cwh_request_prepare_batch(&first->transfer, endpoint->webhook, events, ids,
							  n, first->attempts + 1, &first->batch,
							  first->started_at, endpoint->token);
}

/* Send the request of a delivery, or ask for the token that it needs first. */
void
cwh_send_request(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhWebhook *webhook = endpoint->webhook;

	/* the settings may have changed since the URL was stored */
	const char *problem = cwh_request_problem(webhook);

	delivery->fetching = problem == NULL && needs_token(endpoint);
	delivery->token = endpoint->token_number;
	if (problem == NULL && delivery->fetching)
		problem = cwh_request_prepare_token(&delivery->transfer, webhook);
	else if (problem == NULL && delivery->request)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(delivery->context);

		problem = cwh_request_prepare_step(&delivery->transfer, webhook,
										   delivery->request, endpoint->token);
		MemoryContextSwitchTo(oldcontext);
	}
	else if (problem == NULL && delivery->batch.data)
		prepare_batch(delivery, endpoint);
	else if (problem == NULL)
		cwh_request_prepare(&delivery->transfer, webhook, delivery->event_type,
							&delivery->event_id, delivery->attempts + 1,
							delivery->id, &delivery->body,
							delivery->started_at, endpoint->token);
	if (problem)
	{
		cwh_fail_delivery(delivery, problem, true);
		return;
	}
	/* one asks for all */
	endpoint->fetching = delivery->fetching;
	delivery->webhook = webhook;
	webhook->users++;
	if (!cwh_transport_start(&delivery->transfer))
		cwh_fail_delivery(delivery, "could not start the request: out of memory",
						  false);
}

/*
 * What another connector has asked for, and the replies to it, are of no use to
 * the one that the webhook has now.  True if there was another.
 */
static bool
forget_former(Delivery *delivery)
{
	if (delivery->connector_number == delivery->endpoint->connector_number)
		return false;
	delivery->connector_number = delivery->endpoint->connector_number;
	delivery->replies = NULL;
	drop_request(delivery);
	return true;
}

/* Start the attempt at a delivery that was waiting, or go on with it. */
static void
start_delivery(Endpoint *endpoint, Delivery *delivery)
{
	cwh_count_in_flight(endpoint, 1);
	if (delivery->started_at == 0)
		delivery->started_at = GetCurrentTimestamp();
	forget_former(delivery);
	if (delivery->request && delivery->rendered != endpoint->generation)
		drop_request(delivery);
	if (endpoint->webhook->connector && delivery->request == NULL)
	{
		need_context(delivery);
		cwh_render_later(delivery);
	}
	else
		cwh_send_request(delivery);
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
 * may be due in another order; the body is to be the same.
 */
static Delivery *
make_batch(Endpoint *endpoint, int n)
{
	Delivery   *deliveries[CWH_MAX_BATCH];
	Delivery   *first;
	MemoryContext oldcontext;

	for (int i = 0; i < n; i++)
		deliveries[i] = cwh_next_waiting(endpoint);
	qsort(deliveries, n, sizeof(Delivery *), compare_deliveries);
	first = deliveries[0];
	need_context(first);
	oldcontext = MemoryContextSwitchTo(first->context);
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

/* Fill free slots, an endpoint after the other, one request each. */
void
cwh_start_deliveries(void)
{
	Endpoint   *endpoint;

	while ((endpoint = cwh_next_startable()) != NULL)
	{
		CwhWebhook *webhook = endpoint->webhook;
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz again;
		Delivery   *delivery;
		int			n;

		/* to the end of the list, or out of it */
		cwh_not_startable(endpoint);
		if (cwh_is_slow(endpoint) && cwh_worker.slow_until > now)
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
		delivery = webhook->batch_size > 1 ? make_batch(endpoint, n) :
			cwh_next_waiting(endpoint);
		start_delivery(endpoint, delivery);
		cwh_reconsider(endpoint);
	}
}

/* Put a delivery back to the head of those that wait. */
static void
put_back(Endpoint *endpoint, Delivery *delivery)
{
	if (slist_is_empty(&endpoint->waiting))
		cwh_append_node(&endpoint->waiting, &endpoint->waiting_tail,
						&delivery->node);
	else
		slist_push_head(&endpoint->waiting, &delivery->node);
	cwh_count_waiting(endpoint, 1);
}

/* The request for a token has ended.  True if it brought one. */
static bool
take_token(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhTransfer *transfer = &delivery->transfer;
	const char *problem = NULL;
	char	   *token;
	int64		expires_in = 0;

	endpoint->fetching = false;
	if (transfer->failed)
		problem = transfer->error;
	else if (transfer->status < 200 || transfer->status > 299)
		problem = psprintf("HTTP status %d", transfer->status);
	else
	{
		cwh_forget_token(endpoint);
		token = cwh_connector_token(transfer, &expires_in, &problem);
		if (token)
		{
			endpoint->token = MemoryContextStrdup(cwh_worker.context, token);
			cwh_cleanse(token, strlen(token));
		}
	}
	/* what a token endpoint says is for nobody to read */
	transfer->response_body.len = transfer->response_headers.len = 0;
	transfer->status = 0;
	/* one for the webhook as it was is for nobody to send */
	if (delivery->token != endpoint->token_number)
	{
		cwh_forget_token(endpoint);
		return true;
	}
	if (problem)
	{
		char	   *error = psprintf("could not get an access token: %s", problem);

		cwh_copy_text(transfer->error, error, sizeof(transfer->error));
		transfer->failed = true;
	}
	else
	{
		/* not to the last second, but long enough to be used at all */
		expires_in = Max(expires_in - Min(expires_in / 2, 30), MIN_TOKEN_LIFE_S);
		endpoint->token_until =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), expires_in * 1000);
		endpoint->token_at = GetCurrentTimestamp();
		endpoint->token_number++;
	}
	return problem == NULL;
}

/* Have the others of a batch wait again, before all else. */
static void
undo_batch(Delivery *first)
{
	Endpoint   *endpoint = first->endpoint;
	slist_iter	iter;

	if (first->batch.data == NULL)
		return;
	pfree(first->batch.data);
	first->batch.data = NULL;
	if (slist_is_empty(&first->others))
		return;
	slist_foreach(iter, &first->others)
		cwh_count_waiting(endpoint, 1);
	if (slist_is_empty(&endpoint->waiting))
		endpoint->waiting_tail = first->others_tail;
	first->others_tail->next = endpoint->waiting.head.next;
	endpoint->waiting.head.next = first->others.head.next;
}

/* Go on with a delivery at the next turn, in the same attempt. */
void
cwh_go_on(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	undo_batch(delivery);
	put_back(endpoint, delivery);
	if (endpoint->gone || !endpoint->webhook->enabled)
		cwh_release_waiting(endpoint);
	cwh_reconsider(endpoint);
}

/*
 * One of several requests of a connector has succeeded.  Its reply is kept
 * before the next one is made.
 */
static void
end_step(Delivery *delivery)
{
	cwh_keep_replies(delivery, cwh_connector_add_reply(delivery->replies,
													   &delivery->transfer));
	delivery->earlier_ms += delivery->transfer.latency_ms;
	delivery->renewed = false;
	drop_request(delivery);
	cwh_add_result(delivery, CWH_OUTCOME_STEP, NULL);
}

/* The number of the request that is being made, from 1. */
static int
step_number(const Delivery *delivery)
{
	return 1 + (delivery->replies ? JB_ROOT_COUNT(delivery->replies) : 0);
}

/* A transfer has ended, and does not point into its webhook any more. */
static void
stop_using(Delivery *delivery)
{
	CwhWebhook *webhook = delivery->webhook;

	delivery->webhook = NULL;
	if (webhook && --webhook->users == 0 && webhook->retired)
		cwh_webhook_free(webhook);
}

/* An endpoint is in trouble, or wants to be left alone. */
static void
note_failure(Endpoint *endpoint, const CwhTransfer *transfer, int64 wait_s,
			 TimestampTz now)
{
	int64		pause_s = -1;

	/* what is asked of all requests, and not of this one */
	if (transfer->status == 429)
		pause_s = wait_s;
	if (transfer->status == 429 || transfer->status == 503)
		pause_s = Max(pause_s, transfer->retry_after_s);
	pause_s = Min(pause_s, CWH_RETRY_AFTER_CAP_S);
	if (cwh_gate_failed(&endpoint->id, &endpoint->webhook->retry,
						cwh_random01(), pause_s * 1000, now))
		ereport(LOG,
				(errmsg("chatwebhook pauses webhook \"%s\": %d requests in a row have failed",
						endpoint->webhook->name, cwh_breaker_threshold)));
	/* it may have been held up until the end of this very request: ask again */
	endpoint->blocked = false;
}

/* What becomes of a delivery that was attempted. */
static CwhOutcome
decide(Delivery *delivery, CwhVerdict verdict, int64 wait_s, double random01)
{
	const CwhRetryPolicy *policy = &delivery->endpoint->webhook->retry;

	delivery->wait_ms = 0;
	delivery->log = cwh_log_attempts == CWH_LOG_ALL ||
		(cwh_log_attempts == CWH_LOG_FAILURES && verdict != CWH_DELIVERED);
	if (verdict == CWH_DELIVERED)
		return CWH_OUTCOME_DELIVERED;
	if (verdict != CWH_RETRY ||
		delivery->attempts + 1 - delivery->first_attempt > policy->max_retries)
		return CWH_OUTCOME_DEAD;
	delivery->wait_ms = cwh_retry_wait(policy, delivery->last_wait_ms, random01,
									   wait_s);
	return CWH_OUTCOME_RETRY;
}

/* The request of a batch has ended: what holds for the first does for all. */
static void
judge_others(Delivery *first, CwhVerdict verdict, int64 wait_s, double random01,
			 const char *error)
{
	while (!slist_is_empty(&first->others))
	{
		Delivery   *delivery = slist_container(Delivery, node,
											   slist_pop_head_node(&first->others));

		delivery->started_at = first->started_at;
		delivery->transfer.status = first->transfer.status;
		delivery->transfer.latency_ms = first->transfer.latency_ms;
		/* what the receiver said is logged with the first */
		delivery->transfer.response_headers.len = 0;
		delivery->transfer.response_body.len = 0;
		cwh_add_result(delivery, decide(delivery, verdict, wait_s, random01),
					   error);
		cwh_count_attempt(delivery->endpoint, delivery,
						  verdict == CWH_DELIVERED);
	}
}

/*
 * A request has ended.  See to it if that says nothing of its delivery: it could
 * not start for want of descriptors, it has brought a token, or its token was
 * refused and there may be a better one.  True if so: the attempt goes on.
 */
static bool
take_preliminary(Delivery *delivery, TimestampTz now)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhTransfer *transfer = &delivery->transfer;
	bool		fetching = delivery->fetching;

	delivery->fetching = false;
	if (transfer->starved)
	{
		/* we lack them: not the endpoint's fault, and not an attempt */
		cwh_worker.starved_until = TimestampTzPlusMilliseconds(now, STARVED_MS);
		cwh_note_error("no descriptor was free for a connection: increase max_files_per_process or lower chatwebhook.max_in_flight");
		if (fetching)
			endpoint->fetching = false;
		return true;
	}
	if (fetching && take_token(delivery))
		return true;
	if (transfer->failed || transfer->status != 401 ||
		endpoint->webhook->auth != CWH_AUTH_OAUTH2)
		return false;
	if (delivery->renewed)
	{
		endpoint->token_refused = true;
		return false;
	}
	if (endpoint->token_refused &&
		!TimestampDifferenceExceeds(endpoint->token_at, now, REFUSED_TOKEN_MS))
		return false;
	/* the token has expired, or was revoked: another, once */
	delivery->renewed = true;
	if (delivery->token == endpoint->token_number)
		cwh_forget_token(endpoint);
	return true;
}

/* What a reply, or the want of one, means for its delivery. */
static CwhVerdict
reach_verdict(Delivery *delivery, int64 *wait_s)
{
	CwhTransfer *transfer = &delivery->transfer;
	CwhWebhook *webhook = delivery->endpoint->webhook;

	if (transfer->refused)
		return CWH_DEAD;
	if (transfer->failed)
		return CWH_RETRY;
	if (webhook->connector)
		return cwh_connector_verdict(webhook, step_number(delivery), transfer,
									 wait_s);
	return cwh_retry_verdict(transfer->status);
}

/* What an attempt's end means for its endpoint. */
static void
judge_endpoint(Endpoint *endpoint, const CwhTransfer *transfer,
			   CwhVerdict verdict, int64 wait_s, TimestampTz now)
{
	endpoint->tried = true;
	cwh_set_proven(endpoint, verdict == CWH_DELIVERED);
	if (verdict == CWH_RETRY)
		note_failure(endpoint, transfer, wait_s, now);
	else if (!transfer->failed && cwh_gate_succeeded(&endpoint->id))
	{
		/* the other workers wait for the end of this probe */
		cwh_hint(&endpoint->id, DT_NOBEGIN, 0, 0);
		ereport(LOG, (errmsg("chatwebhook goes on with webhook \"%s\": it answers again",
							 endpoint->webhook->name)));
	}
	switch (verdict)
	{
		case CWH_DELIVERED:
			endpoint->token_refused = false;
			endpoint->window = Min(endpoint->window + 1,
								   endpoint->webhook->max_in_flight);
			break;
		case CWH_RETRY:
			endpoint->window = Max(1, endpoint->window / 2);
			break;
		case CWH_DISABLE:
			endpoint->disable = transfer->status == 410 ?
				"the receiver answered 410 Gone" :
				"the receiver's answer means that there will be no other";
			cwh_touch(endpoint);
			break;
		default:
			break;
	}
}

/* Why an attempt has failed. */
static char *
reason_of(const Delivery *delivery)
{
	char	   *error = cwh_outcome_error(&delivery->transfer);

	if (error == NULL)
		error = psprintf("HTTP status %d", delivery->transfer.status);
	if (step_number(delivery) > 1)
		error = psprintf("request %d: %s", step_number(delivery), error);
	return error;
}

/* What an attempt that has ended means, or a request of it. */
static void
judge_transfer(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhTransfer *transfer = &delivery->transfer;
	TimestampTz now = GetCurrentTimestamp();
	int64		wait_s = -1;
	double		random01 = cwh_random01();
	CwhVerdict	verdict;
	char	   *error;

	cwh_count_in_flight(endpoint, -1);
	stop_using(delivery);
	cwh_worker.stats.last_activity_at = now;
	cwh_worker.stats_changed = true;

	if (take_preliminary(delivery, now))
	{
		cwh_go_on(delivery);
		return;
	}
	verdict = reach_verdict(delivery, &wait_s);
	if (verdict == CWH_DELIVERED && delivery->request && !delivery->request->last)
	{
		if (cwh_gate_succeeded(&endpoint->id))
			cwh_hint(&endpoint->id, DT_NOBEGIN, 0, 0);
		if (forget_former(delivery))
			cwh_go_on(delivery);
		else
			end_step(delivery);
		cwh_reconsider(endpoint);
		return;
	}

	judge_endpoint(endpoint, transfer, verdict, wait_s, now);
	error = verdict == CWH_DELIVERED ? NULL : reason_of(delivery);
	if (verdict == CWH_RETRY &&
		(transfer->status == 429 || transfer->status == 503))
		wait_s = Max(wait_s, transfer->retry_after_s);
	transfer->latency_ms += delivery->earlier_ms;
	cwh_add_result(delivery, decide(delivery, verdict, wait_s, random01),
				   error);
	cwh_add_gain(endpoint, delivery, verdict == CWH_DELIVERED, now);
	if (delivery->batch.data)
		judge_others(delivery, verdict, wait_s, random01, error);
	if (error)
		ereport(DEBUG1,
				(errmsg_internal("delivery " INT64_FORMAT " to webhook \"%s\" failed: %s",
								 delivery->id, endpoint->webhook->name, error)));
	cwh_reconsider(endpoint);
}

/* The same; what is allocated goes with the next transaction. */
void
cwh_judge(Delivery *delivery)
{
	MemoryContext oldcontext;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	judge_transfer(delivery);
	MemoryContextSwitchTo(oldcontext);
}
