/*
 * ledger.c
 *		What the worker has to write down in its next settle, and which alerts
 *		it has to check.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ledger.h"
#include "state.h"

Ledger		cwh_ledger = {
	.results = SLIST_STATIC_INIT(cwh_ledger.results),
	.accounts = DLIST_STATIC_INIT(cwh_ledger.accounts)
};

/* The class that a latency is counted in. */
static int
latency_class(int ms)
{
	static const int bounds[] = CWH_LATENCY_BOUNDS;
	int			i = 0;

	while (i < lengthof(bounds) && ms > bounds[i])
		i++;
	return i;
}

/* What a webhook's health gains from a request, be it for one or for a batch. */
static void
add_request(Account *account, const AttemptEnd *end)
{
	CwhHealthGain *gain = account->gain;

	gain->latency_sum_ms += end->latency_ms;
	gain->latency_counts[latency_class(end->latency_ms)]++;
	if (end->success)
	{
		gain->succeeded = true;
		gain->streak = 0;
		gain->last_success_at = end->at;
	}
	else
	{
		if (gain->streak++ == 0)
			gain->failing_since = end->at;
		gain->last_failure_at = end->at;
		account->failed_attempt = end->started_at;
		cwh_copy_text(gain->last_error, end->error ? end->error : "",
					  sizeof(gain->last_error));
	}
	/* newest first */
	memmove(&gain->recent[1], &gain->recent[0],
			Min(gain->nrecent, CWH_RECENT - 1) * sizeof(int32));
	gain->recent[0] = end->success ? end->latency_ms : -1 - end->latency_ms;
	gain->nrecent = Min(gain->nrecent + 1, CWH_RECENT);
}

/* Count an attempt for health, activity and the worker's own figures. */
void
cwh_count_attempt(Account *account, const pg_uuid_t *webhook_id,
				  const AttemptEnd *end)
{
	CwhHealthGain *gain = account->gain;
	CwhActivity *activity = &cwh_ledger.activity;

	if (gain == NULL)
	{
		gain = MemoryContextAllocZero(cwh_worker.context,
									  sizeof(CwhHealthGain));
		gain->webhook_id = *webhook_id;
		account->gain = gain;
	}
	cwh_list_account(account);
	if (end->success)
	{
		activity->succeeded++;
		gain->successes++;
		gain->ordinary = gain->ordinary || end->ordinary;
		cwh_worker.state.stats.delivered++;
	}
	else
	{
		activity->failed++;
		gain->failures++;
		cwh_worker.state.stats.failed++;
		if (end->dead)
		{
			activity->given_up++;
			gain->given_up++;
		}
	}
	cwh_worker.state_changed = true;
	if (end->request)
		add_request(account, end);
}
