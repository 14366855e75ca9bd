/*
 * settle.c
 *		Writes what became of deliveries, and what webhooks' health has gained.
 *
 * Results and gains are gathered in the ledger as attempts end, and written in
 * the worker's next transaction that settles (cwh_settle()).  Only when that has
 * been committed are they struck out there (cwh_end_settle()); if it fails, the
 * next one tries again.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "announce.h"
#include "endpoint.h"
#include "envelope.h"
#include "health.h"
#include "ledger.h"
#include "memory.h"
#include "queue.h"
#include "request.h"
#include "settings.h"
#include "settle.h"
#include "shared.h"

/* One settle takes no more than this, and fewer after one has failed. */
#define MAX_SETTLE			1000

/* After a settle has met a locked row, the next ones wait for none so long. */
#define CAREFUL_MS			10000

static int	settle_limit = MAX_SETTLE;
static TimestampTz careful_until = 0;

/* Must this settle wait for no row that another transaction has locked? */
static bool
is_careful(void)
{
	TimestampTz now = GetCurrentTimestamp();

	/* later than that only if the clock was set back */
	return careful_until > now &&
		careful_until <= TimestampTzPlusMilliseconds(now, CAREFUL_MS);
}

/* Take results of the ledger, as queue.c wants them. */
static void
take_results(Settle *work)
{
	int			n = Min(cwh_ledger.nresults, settle_limit);
	TimestampTz now = GetCurrentTimestamp();
	slist_iter	iter;

	work->deliveries = palloc(Max(1, n) * sizeof(Delivery *));
	work->results = palloc0(Max(1, n) * sizeof(CwhResult));
	slist_foreach(iter, &cwh_ledger.results)
	{
		Delivery   *delivery = slist_container(Delivery, node, iter.cur);
		CwhResult  *result = &work->results[work->n];

		if (work->n == n)
			break;
		work->deliveries[work->n++] = delivery;
		/* it is in the future only if the clock was set back */
		if (delivery->started_at > now)
		{
			Account    *account = delivery->account;

			/* erase_error() compares these */
			account->failed_attempt = Min(account->failed_attempt, now);
			delivery->started_at = now;
		}
		result->id = delivery->id;
		result->outcome = delivery->outcome;
		result->webhook_name = delivery->endpoint->webhook ?
			delivery->endpoint->webhook->name : NULL;
		result->attempted_at = delivery->untried ||
			delivery->outcome == CWH_OUTCOME_CANCELED ? 0 :
			delivery->started_at;
		result->latency_ms = delivery->latency_ms;
		result->status = delivery->status;
		result->error = delivery->error;
		result->wait_ms = delivery->wait_ms;
		result->replies = delivery->exchange.replies;

		/*
		 * This must be on disk before the next request of a connector, or
		 * the next delivery of an ordered conversation, is sent: after a
		 * crash it would be sent again, behind that one.
		 */
		if (delivery->outcome == CWH_OUTCOME_STEP || delivery->conversation_id)
			work->flush_now = true;
	}
}

/*
 * A delivery was canceled while it was under way, perhaps because it was erased:
 * its error, which can quote the reply, must not stay in the webhook's health.
 */
static void
erase_error(const Delivery *delivery)
{
	Account    *account = delivery->account;

	if (account->gain && account->gain->last_error[0] != '\0' &&
		account->failed_attempt == delivery->started_at)
		strlcpy(account->gain->last_error,
				"the delivery was canceled while it was under way",
				sizeof(account->gain->last_error));
}

/*
 * Was any delivery of this one's batch canceled while it was under way?  What
 * the receiver said of it may be in the reply.
 */
static bool
is_part_gone(const Settle *work, const Delivery *delivery)
{
	if (delivery->batch.data == NULL)
		return false;
	for (int i = 0; i < work->n; i++)
		if (work->results[i].gone &&
			work->deliveries[i]->endpoint == delivery->endpoint &&
			work->deliveries[i]->started_at == delivery->started_at)
			return true;
	return false;
}

/* Header lines of a reply as a JSON object; of a repeated one, the last. */
static char *
headers_as_json(const CwhBytes *bytes)
{
	char	   *lines = cwh_reply_text(bytes);
	StringInfoData json;
	char	   *line;
	char	   *rest = lines;
	bool		first = true;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	while ((line = strsep(&rest, "\n")) != NULL)
	{
		char	   *colon = strchr(line, ':');
		char	   *value;
		size_t		len;

		if (colon == NULL)
			continue;
		*colon = '\0';
		value = colon + 1 + strspn(colon + 1, " \t");
		len = strlen(value);
		while (len > 0 && strchr(" \t\r", value[len - 1]))
			len--;
		if (!first)
			appendStringInfoChar(&json, ',');
		first = false;
		for (char *c = line; *c; c++)
			*c = pg_ascii_tolower((unsigned char) *c);
		cwh_json_write_string(&json, line, strlen(line));
		appendStringInfoChar(&json, ':');
		cwh_json_write_string(&json, value, len);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* An attempt as a row of the table attempt. */
static void
attempt_row(const Settle *work, Delivery *delivery, CwhAttemptRow *row)
{
	CwhTransfer *transfer = delivery->exchange.transfer;

	memset(row, 0, sizeof(CwhAttemptRow));
	row->delivery_id = delivery->id;
	/* a number that no attempt has, should the delivery be replayed */
	row->attempt = delivery->untried ? 0 : delivery->attempts + 1;
	row->webhook_id = delivery->endpoint->id;
	row->chatbot_id = delivery->chatbot_id;
	row->started_at = delivery->started_at;
	row->latency_ms = delivery->latency_ms;
	row->status = delivery->status;
	row->error = delivery->error;
	row->note = delivery->exchange.note;
	if (transfer && transfer->reply.headers.len > 0 &&
		!is_part_gone(work, delivery))
	{
		CwhBytes	body = transfer->reply.body;

		/* for a connector, more was read */
		body.len = Min(body.len, cwh_max_response_size);
		row->response_headers = headers_as_json(&transfer->reply.headers);
		row->response_body = cwh_reply_text(&body);
	}
}

/* The attempts that are to be kept, as rows. */
static CwhAttemptRow *
attempt_rows(const Settle *work, int *n)
{
	CwhAttemptRow *rows = palloc(Max(1, work->n) * sizeof(CwhAttemptRow));

	*n = 0;
	for (int i = 0; i < work->n; i++)
		if (work->deliveries[i]->log && work->results[i].settled &&
			!work->results[i].gone)
			attempt_row(work, work->deliveries[i], &rows[(*n)++]);
	return rows;
}

/*
 * Disable webhooks and note their problems, as listed.  Returns what the health
 * of all that are listed has gained.
 */
static CwhHealthGain **
settle_accounts(Settle *work, int *ngains)
{
	int			most = Max(1, cwh_ledger.naccounts);
	CwhHealthGain **gains = palloc(most * sizeof(CwhHealthGain *));
	dlist_iter	iter;

	work->accounts = palloc0(most * sizeof(SettledAccount));
	*ngains = 0;
	dlist_foreach(iter, &cwh_ledger.accounts)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, account.node, iter.cur);
		Account    *account = &endpoint->account;
		SettledAccount *settled = &work->accounts[work->naccounts++];

		settled->endpoint = endpoint;
		if (account->gain)
			gains[(*ngains)++] = account->gain;
		cwh_webhook_record(&endpoint->id, account->disable,
						   account->note && endpoint->webhook,
						   endpoint->webhook ? endpoint->webhook->problem : NULL,
						   &settled->done);
	}
	return gains;
}

/* Whose memory a delivery's replies add to. */
static CwhMemoryKey
memory_key(const Delivery *delivery)
{
	CwhMemoryKey key = {
		.webhook_id = &delivery->endpoint->id,
		.chatbot_id = delivery->chatbot_id,
		.conversation_id = delivery->conversation_id
	};

	return key;
}

/* Hold back the results whose memories another transaction has locked. */
static void
hold_locked_memories(Settle *work)
{
	for (int i = 0; i < work->n; i++)
	{
		CwhMemoryKey key = memory_key(work->deliveries[i]);

		if (work->deliveries[i]->exchange.learned)
			work->results[i].held = !cwh_memory_lock(&key);
	}
}

/* Remember what replies have taught, with the steps that they belong to. */
static void
write_memories(Settle *work)
{
	CwhMemory  *memories = palloc(Max(1, work->n) * sizeof(CwhMemory));
	Delivery  **deliveries = palloc(Max(1, work->n) * sizeof(Delivery *));
	int			n = 0;

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];

		if (delivery->exchange.learned == NULL || work->results[i].gone ||
			!work->results[i].settled)
			continue;
		memories[n].key = memory_key(delivery);
		memories[n].value = delivery->exchange.learned;
		deliveries[n++] = delivery;
	}
	cwh_memory_write(memories, n);
	for (int i = 0; i < n; i++)
	{
		if (!memories[i].full)
			continue;
		deliveries[i]->exchange.note = "not remembered: the conversation's memory would exceed 8 kB";
		deliveries[i]->log = deliveries[i]->outcome != CWH_OUTCOME_STEP &&
			cwh_log_attempts != CWH_LOG_NONE;
	}
}

/*
 * Find out which of the written outcomes to announce once they are committed.
 */
static void
find_announcements(Settle *work)
{
	for (int i = 0; i < work->n; i++)
	{
		const CwhResult *result = &work->results[i];

		if (result->outcome != CWH_OUTCOME_DEAD || !result->settled ||
			result->gone || !cwh_exhausted_wanted(work->deliveries[i]))
			continue;
		if (work->exhausted == NULL)
			work->exhausted = palloc0(work->n * sizeof(bool));
		work->exhausted[i] = true;
	}
	for (int i = 0; i < work->naccounts; i++)
	{
		Endpoint   *endpoint = work->accounts[i].endpoint;
		CwhHealthGain *gain = endpoint->account.gain;

		if (gain && gain->written && gain->recovered)
			gain->recovered = cwh_recovered_wanted(endpoint);
	}
}

/* Write what is in the ledger, within a transaction of the worker. */
void
cwh_settle(Settle *work)
{
	CwhAttemptRow *attempts;
	CwhHealthGain **gains;
	int			nattempts;
	int			ngains;

	take_results(work);
	if (is_careful())
		hold_locked_memories(work);
	cwh_queue_settle(work->results, work->n, is_careful());
	write_memories(work);
	for (int i = 0; i < work->n; i++)
		if (work->results[i].gone)
			erase_error(work->deliveries[i]);
	attempts = attempt_rows(work, &nattempts);
	gains = settle_accounts(work, &ngains);
	work->activity = cwh_ledger.activity;
	cwh_insert_attempts(attempts, nattempts);
	cwh_health_add(gains, ngains);
	cwh_activity_add(cwh_worker.number + 1, &work->activity);
	find_announcements(work);
}

/* A delivery is over: let go of it, after noting when a retry is due. */
static void
end_delivery(Delivery *delivery)
{
	if (delivery->outcome == CWH_OUTCOME_RETRY)
	{
		TimestampTz due = TimestampTzPlusMilliseconds(delivery->started_at,
													  delivery->latency_ms +
													  delivery->wait_ms);

		cwh_expect(delivery->endpoint, Min(due, delivery->expires_at),
				   delivery->id, 0);
	}
	cwh_delivery_free(delivery);
}

/* Strike out the results that were settled. */
static void
strike_out_results(Settle *work)
{
	TimestampTz now = GetCurrentTimestamp();
	int64	   *ids = palloc(Max(1, work->n) * sizeof(int64));
	int			nids = 0;
	bool		all_locked = work->n > 0;

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = cwh_pop_result();

		if (!work->results[i].settled)
		{
			/* another transaction has locked its row: later */
			cwh_push_result(delivery);
			continue;
		}
		all_locked = false;
		delivery->exchange.learned = NULL;
		if (work->exhausted && work->exhausted[i])
			cwh_note_exhausted(delivery);
		if (delivery->outcome == CWH_OUTCOME_STEP && !work->results[i].gone)
		{
			cwh_wait_again(delivery);
			continue;
		}
		ids[nids++] = delivery->id;
		end_delivery(delivery);
	}
	cwh_claim_release(ids, nids);
	if (nids > 0)
		ConditionVariableBroadcast(cwh_settled);
	if (work->n > 0)
		cwh_ledger.last_settle = now;
	if (cwh_ledger.nresults > 0)
		cwh_ledger.oldest_result = !all_locked ? now :
			TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS);
}

/* Say in the log what was written about a webhook. */
static void
log_account(const Endpoint *endpoint, const CwhRecorded *done)
{
	const CwhWebhook *webhook = endpoint->webhook;

	if (webhook == NULL)
		return;
	if (done->disabled)
		ereport(LOG,
				(errmsg("chatwebhook disabled webhook \"%s\": %s",
						webhook->name, endpoint->account.disable)));
	if (done->noted && done->is_new && webhook->problem)
		ereport(LOG,
				(errmsg("chatwebhook cannot send to webhook \"%s\": %s",
						webhook->name, webhook->problem)));
}

/* Strike out what was written about webhooks. */
static void
strike_out_accounts(Settle *work)
{
	CwhActivity *activity = &cwh_ledger.activity;

	activity->succeeded -= work->activity.succeeded;
	activity->failed -= work->activity.failed;
	activity->given_up -= work->activity.given_up;
	for (int i = 0; i < work->naccounts; i++)
	{
		const CwhRecorded *done = &work->accounts[i].done;
		Endpoint   *endpoint = work->accounts[i].endpoint;
		CwhHealthGain *gain = endpoint->account.gain;
		bool		written = gain && gain->written;
		bool		over = done->disabled || endpoint->gone;

		if (done->disabled || done->noted || (written && gain->alerting))
			cwh_add_alerting(&endpoint->id);
		if (written && gain->recovered)
			cwh_note_recovered(endpoint, gain);
		log_account(endpoint, done);
		cwh_account_settled(&endpoint->account, written || endpoint->gone,
							over, done->noted || endpoint->gone);
		if (over)
		{
			/* claimed deliveries wait until it is enabled again */
			cwh_reread_webhook(endpoint);
			cwh_release_waiting(endpoint);
		}
	}
	cwh_ledger.accounts_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														  LOCKED_DELAY_MS);
}

/*
 * The transaction of a settle was rolled back.  If it met a row that another
 * transaction has locked, leave such rows for later from now on.  Else settle
 * fewer results at a time, and let one that cannot be settled by itself wait
 * behind the others.  True if there is nothing else to worry about.
 */
static bool
back_off(int sqlerrcode)
{
	TimestampTz now = GetCurrentTimestamp();

	if (sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE && !is_careful())
	{
		careful_until = TimestampTzPlusMilliseconds(now, CAREFUL_MS);
		return true;
	}
	settle_limit = Max(1, settle_limit / 2);
	if (settle_limit == 1 && cwh_ledger.nresults > 1)
		cwh_push_result(cwh_pop_result());
	return false;
}

/*
 * The transaction of a settle has ended: with ERRCODE_SUCCESSFUL_COMPLETION if it
 * was committed.  False if it failed in a way that should be logged.
 */
bool
cwh_end_settle(Settle *work, int sqlerrcode)
{
	if (sqlerrcode != ERRCODE_SUCCESSFUL_COMPLETION)
		return back_off(sqlerrcode);
	strike_out_results(work);
	strike_out_accounts(work);
	settle_limit = Min(MAX_SETTLE, settle_limit * 2);
	return true;
}
