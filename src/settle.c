/*
 * settle.c
 *		Writes what became of deliveries, and what the webhooks' health gains.
 *
 * Results and gains are gathered as attempts end, and written in the worker's
 * next transaction that settles; only when that was committed are they let go
 * of.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "worker.h"

/* Settle when this many have ended, or the first of them this long ago. */
#define SETTLE_BATCH		100
#define SETTLE_DELAY_MS		20

/* Rows that somebody else has locked are tried again after this. */
#define LOCKED_DELAY_MS		500

/* ended, to be settled, oldest first */
static slist_head results = SLIST_STATIC_INIT(results);
static slist_node *results_tail;

/* endpoints that a settle is to see to */
static dlist_head touched_list = DLIST_STATIC_INIT(touched_list);
static int	ntouched = 0;
static CwhActivity activity;	/* not yet written */

/* An attempt has ended, or none was made: settle it. */
void
cwh_add_result(Delivery *delivery, CwhOutcome outcome, const char *error)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(cwh_worker.context);

	delivery->outcome = outcome;
	delivery->error = error ? pstrdup(error) : NULL;
	MemoryContextSwitchTo(oldcontext);
	delivery->endpoint->unsettled++;
	if (cwh_worker.nresults++ == 0)
		cwh_worker.oldest_result = GetCurrentTimestamp();
	cwh_append_node(&results, &results_tail, &delivery->node);
}

/* The next settle is to see to this endpoint. */
void
cwh_touch(Endpoint *endpoint)
{
	if (endpoint->in_touched)
		return;
	dlist_push_tail(&touched_list, &endpoint->touched_node);
	endpoint->in_touched = true;
	ntouched++;
}

/* The place of a latency among those that are counted. */
static int
latency_class(int ms)
{
	static const int bounds[] = CWH_LATENCY_BOUNDS;
	int			i = 0;

	while (i < lengthof(bounds) && ms > bounds[i])
		i++;
	return i;
}

/* Count an attempt. */
void
cwh_count_attempt(Endpoint *endpoint, const Delivery *delivery, bool success)
{
	CwhHealthGain *gain = endpoint->gain;

	if (gain == NULL)
	{
		gain = MemoryContextAllocZero(cwh_worker.context,
									  sizeof(CwhHealthGain));
		gain->webhook_id = endpoint->id;
		endpoint->gain = gain;
	}
	cwh_touch(endpoint);
	if (success)
	{
		activity.succeeded++;
		gain->successes++;
		cwh_worker.stats.delivered++;
	}
	else
	{
		activity.failed++;
		gain->failures++;
		cwh_worker.stats.failed++;
		if (delivery->outcome == CWH_OUTCOME_DEAD)
		{
			activity.given_up++;
			gain->given_up++;
		}
	}
	cwh_worker.stats_changed = true;
}

/* What an endpoint's health gains from a request that was an attempt. */
void
cwh_add_gain(Endpoint *endpoint, const Delivery *delivery, bool success,
			 TimestampTz now)
{
	CwhHealthGain *gain;
	int			latency = delivery->transfer.latency_ms;

	cwh_count_attempt(endpoint, delivery, success);
	gain = endpoint->gain;
	gain->latency_sum_ms += latency;
	gain->latency_counts[latency_class(latency)]++;
	if (success)
	{
		gain->succeeded = true;
		gain->streak = 0;
		gain->last_success_at = now;
	}
	else
	{
		if (gain->streak++ == 0)
			gain->failing_since = now;
		gain->last_failure_at = now;
		cwh_copy_text(gain->last_error, delivery->error ? delivery->error : "",
					  sizeof(gain->last_error));
	}
	/* newest first */
	memmove(&gain->recent[1], &gain->recent[0],
			Min(gain->nrecent, CWH_RECENT - 1) * sizeof(int32));
	gain->recent[0] = success ? latency : -1 - latency;
	gain->nrecent = Min(gain->nrecent + 1, CWH_RECENT);
}

/*
 * Was any delivery of this one's batch canceled while it was under way?  What
 * the receiver said of it may be in the reply.
 */
static bool
is_part_gone(const Settle *work, int first)
{
	const Delivery *delivery = work->deliveries[first];

	if (delivery->batch.data == NULL)
		return false;
	for (int i = 0; i < work->n; i++)
		if (work->results[i].gone &&
			work->deliveries[i]->endpoint == delivery->endpoint &&
			work->deliveries[i]->started_at == delivery->started_at)
			return true;
	return false;
}

/* Is there enough to be settled, or was it put off for long enough? */
bool
cwh_is_settle_due(TimestampTz now)
{
	if (cwh_worker.nresults == 0)
		return ntouched > 0 && now >= cwh_worker.touched_retry_at;
	if (cwh_worker.nresults >= SETTLE_BATCH ||
		TimestampDifferenceExceeds(cwh_worker.oldest_result, now,
								   SETTLE_DELAY_MS))
		return true;
	/* nothing else is under way: there is nothing to wait for */
	return cwh_worker.in_flight == 0 && cwh_next_startable() == NULL &&
		cwh_worker.oldest_result <= now;
}

/* When it is due if nothing else ends; DT_NOEND if there is nothing. */
TimestampTz
cwh_next_settle(void)
{
	if (cwh_worker.nresults > 0)
		return TimestampTzPlusMilliseconds(cwh_worker.oldest_result,
										   SETTLE_DELAY_MS);
	return ntouched > 0 ? cwh_worker.touched_retry_at : DT_NOEND;
}

/* Take results off the queue and settle them. */
void
cwh_settle(Settle *work)
{
	CwhAttempt *attempts;
	int			nattempts = 0;
	int			n = Min(cwh_worker.nresults, cwh_worker.settle_limit);
	TimestampTz now = GetCurrentTimestamp();
	bool		careful = cwh_worker.careful_until > now;
	slist_iter	iter;

	work->deliveries = palloc(Max(1, n) * sizeof(Delivery *));
	work->results = palloc0(Max(1, n) * sizeof(CwhResult));
	attempts = palloc(Max(1, n) * sizeof(CwhAttempt));
	slist_foreach(iter, &results)
	{
		Delivery   *delivery = slist_container(Delivery, node, iter.cur);
		CwhResult  *result = &work->results[work->n];

		if (work->n == n)
			break;
		work->deliveries[work->n++] = delivery;
		/* unless the clock has been set back, it is */
		delivery->started_at = Min(delivery->started_at, now);
		result->id = delivery->id;
		result->outcome = delivery->outcome;
		result->webhook_name = delivery->endpoint->webhook ?
			delivery->endpoint->webhook->name : NULL;
		result->attempted_at = delivery->outcome == CWH_OUTCOME_CANCELED ? 0 :
			delivery->started_at;
		result->latency_ms = delivery->transfer.latency_ms;
		result->status = delivery->transfer.status;
		result->error = delivery->error;
		result->wait_ms = delivery->wait_ms;
		result->replies = delivery->replies;
	}
	cwh_outbox_settle(work->results, work->n, careful);

	/* what was erased meanwhile leaves its error nowhere */
	for (int i = 0; i < work->n; i++)
	{
		CwhHealthGain *gain = work->deliveries[i]->endpoint->gain;

		if (work->results[i].gone && work->results[i].error && gain &&
			strncmp(gain->last_error, work->results[i].error,
					strlen(gain->last_error)) == 0)
			strlcpy(gain->last_error, "the delivery was canceled while it was under way",
					sizeof(gain->last_error));
	}

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];
		CwhAttempt *attempt = &attempts[nattempts];

		if (!delivery->log || !work->results[i].settled || work->results[i].gone)
			continue;
		attempt->delivery_id = delivery->id;
		attempt->attempt = delivery->attempts + 1;
		attempt->webhook_id = delivery->endpoint->id;
		attempt->chatbot_id = delivery->chatbot_id;
		attempt->started_at = delivery->started_at;
		attempt->latency_ms = delivery->transfer.latency_ms;
		attempt->status = delivery->transfer.status;
		attempt->error = delivery->error;
		attempt->response_headers = attempt->response_body = NULL;
		if (delivery->transfer.response_headers.len > 0 && !is_part_gone(work, i))
		{
			attempt->response_headers =
				cwh_reply_headers(&delivery->transfer.response_headers);
			/* for a connector, more was read */
			delivery->transfer.response_body.len =
				Min(delivery->transfer.response_body.len, cwh_max_response_size);
			attempt->response_body =
				cwh_reply_text(&delivery->transfer.response_body);
		}
		nattempts++;
	}
	cwh_outbox_log_attempts(attempts, nattempts);
}

/*
 * Write what the webhooks' health has gained and who has a problem, and disable
 * who asked for it.
 */
void
cwh_settle_endpoints(Settle *work)
{
	dlist_iter	iter;

	work->gains = palloc(Max(1, ntouched) * sizeof(CwhHealthGain *));
	dlist_foreach(iter, &touched_list)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, touched_node, iter.cur);

		if (endpoint->gain)
			work->gains[work->ngains++] = endpoint->gain;
		if (endpoint->disable &&
			cwh_outbox_disable(&endpoint->id, endpoint->disable))
			endpoint->disabled = true;
		endpoint->noted = endpoint->note &&
			cwh_outbox_note_problem(&endpoint->id, endpoint->webhook->problem,
									&endpoint->announce);
	}
	cwh_outbox_add_health(work->gains, work->ngains);
	work->activity = activity;
	if (activity.succeeded + activity.failed + activity.given_up > 0)
		cwh_outbox_add_activity(cwh_worker.number + 1, GetCurrentTimestamp(),
								&activity);
}

/* The settle was committed: let go of what is done with. */
void
cwh_keep_settle(Settle *work)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;
	int64	   *ids = palloc(Max(1, work->n) * sizeof(int64));
	int			nids = 0;
	int			before = cwh_worker.nresults;

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];
		Endpoint   *endpoint = delivery->endpoint;

		slist_pop_head_node(&results);
		cwh_worker.nresults--;
		if (!work->results[i].settled)
		{
			/* somebody has locked its row: later */
			cwh_append_node(&results, &results_tail, &delivery->node);
			cwh_worker.nresults++;
			continue;
		}
		endpoint->unsettled--;
		if (delivery->outcome == CWH_OUTCOME_STEP && !work->results[i].gone)
		{
			cwh_go_on(delivery);
			continue;
		}
		ids[nids++] = delivery->id;
		if (delivery->outcome == CWH_OUTCOME_RETRY)
		{
			TimestampTz due = TimestampTzPlusMilliseconds(delivery->started_at,
														  delivery->transfer.latency_ms +
														  delivery->wait_ms);

			endpoint->later = true;
			if (due > now)
				cwh_set_timer(endpoint, due);
			else
				cwh_make_ready(endpoint, due, delivery->id, 0);
		}
		cwh_free_delivery(delivery);
	}
	cwh_claim_release(ids, nids);
	if (nids > 0)
		cwh_settled_broadcast();
	if (cwh_worker.nresults > 0)
		cwh_worker.oldest_result = cwh_worker.nresults < before ? now :
			TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS);

	activity.succeeded -= work->activity.succeeded;
	activity.failed -= work->activity.failed;
	activity.given_up -= work->activity.given_up;
	dlist_foreach_modify(iter, &touched_list)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, touched_node, iter.cur);

		if (endpoint->disabled || endpoint->noted ||
			(endpoint->gain && endpoint->gain->written &&
			 endpoint->gain->alerting))
			cwh_add_alerting(&endpoint->id);
		if (endpoint->gain && (endpoint->gain->written || endpoint->gone))
		{
			pfree(endpoint->gain);
			endpoint->gain = NULL;
		}
		if (endpoint->disabled)
			ereport(LOG,
					(errmsg("chatwebhook disabled webhook \"%s\": %s",
							endpoint->webhook->name, endpoint->disable)));
		if (endpoint->disabled || endpoint->gone)
		{
			/* what was claimed for it waits until it is enabled again */
			endpoint->disable = NULL;
			endpoint->changed = true;
			cwh_worker.refresh_due = true;
			cwh_release_waiting(endpoint);
		}
		if (endpoint->noted && endpoint->announce && endpoint->webhook->problem)
			ereport(LOG,
					(errmsg("chatwebhook cannot send to webhook \"%s\": %s",
							endpoint->webhook->name, endpoint->webhook->problem)));
		if (endpoint->noted || endpoint->gone)
			endpoint->note = false;
		endpoint->disabled = endpoint->noted = false;
		if (endpoint->gain || endpoint->disable || endpoint->note)
			continue;
		dlist_delete(&endpoint->touched_node);
		endpoint->in_touched = false;
		ntouched--;
	}
	cwh_worker.touched_retry_at =
		TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS);
}

/* Have the oldest result wait behind the others. */
void
cwh_put_result_last(void)
{
	cwh_append_node(&results, &results_tail, slist_pop_head_node(&results));
}
