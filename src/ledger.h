/*
 * ledger.h
 *		What the worker has to write down in its next settle, and which alerts
 *		it has to check.
 *
 * The layers above add to the ledger as attempts end; settle.c writes it to the
 * tables and strikes out what was committed.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_LEDGER_H
#define CWH_LEDGER_H

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "delivery.h"
#include "health.h"
#include "state.h"

/* The pending announcements about a webhook; see announce.c. */
typedef struct Announcement Announcement;

/*
 * A webhook's account: what is to be written about it.  It is listed while there
 * is anything.  It is written by ledger.c and the functions below; settle.c and
 * queue.c write the fields of the gain that say so.
 */
struct Account
{
	CwhHealthGain *gain;		/* null: none since the last settle */
	TimestampTz failed_attempt; /* when that began whose error the gain has */
	int			unsettled;		/* its deliveries among the results */
	const char *disable;		/* why the webhook is to be disabled, or null */
	bool		note;			/* its problem, or that it has none any more,
								 * is to be noted */
	bool		listed;
	dlist_node	node;			/* in cwh_ledger.accounts, if listed */
	Announcement *announcement; /* null: none; written by announce.c */
};

/* The end of an attempt, as health and activity count it. */
typedef struct AttemptEnd
{
	bool		success;
	bool		ordinary;		/* of an event that is not about webhooks */
	bool		dead;			/* and given up, if it is none */
	bool		request;		/* of a request; else of the others in a batch,
								 * whose latency and error are the first's */
	TimestampTz started_at;
	int			latency_ms;
	const char *error;
	TimestampTz at;
} AttemptEnd;

typedef struct Ledger
{
	slist_head	results;		/* deliveries to be settled, oldest first */
	slist_node *results_tail;
	int			nresults;
	int			nurgent;		/* those of them that must not wait */
	TimestampTz oldest_result;	/* when the oldest was added, or tried again */
	TimestampTz last_settle;	/* when a settle had results */
	dlist_head	accounts;
	int			naccounts;
	TimestampTz accounts_due;	/* when they are written, if nothing ends */
	CwhActivity activity;		/* not written yet */

	/* for upkeep.c */
	pg_uuid_t  *alerting;		/* webhooks whose alerts are to be checked */
	int			nalerting;
	int			max_alerting;
	pg_uuid_t  *backlogs;		/* webhooks with something long due, */
	TimestampTz *backlog_dues;	/* since when, */
	int			nbacklogs;		/* as the last sweep found them */
	int			max_backlogs;
	bool		check_backlogs; /* it has found them all */
} Ledger;

extern Ledger cwh_ledger;

extern void cwh_count_attempt(Account *account, const pg_uuid_t *webhook_id,
							  const AttemptEnd *end);

/*
 * Must this result be settled as soon as possible?  Only a success may wait, and
 * not if the next delivery of its conversation waits for it: the others decide on
 * retries, next requests, and whether the webhook goes on.
 */
static inline bool
cwh_is_urgent(const Delivery *delivery)
{
	return delivery->outcome != CWH_OUTCOME_DELIVERED ||
		delivery->conversation_id;
}

/* Put a delivery behind the others that are to be settled. */
static inline void
cwh_push_result(Delivery *delivery)
{
	if (cwh_ledger.nresults++ == 0)
		cwh_ledger.oldest_result = GetCurrentTimestamp();
	if (cwh_is_urgent(delivery))
		cwh_ledger.nurgent++;
	delivery->account->unsettled++;
	cwh_append_node(&cwh_ledger.results, &cwh_ledger.results_tail,
					&delivery->node);
}

/* Take the first of them. */
static inline Delivery *
cwh_pop_result(void)
{
	Delivery   *delivery = slist_container(Delivery, node,
										   slist_pop_head_node(&cwh_ledger.results));

	cwh_ledger.nresults--;
	if (cwh_is_urgent(delivery))
		cwh_ledger.nurgent--;
	delivery->account->unsettled--;
	return delivery;
}

/*
 * Have a delivery settled: an attempt at it has ended, or none was made.  The
 * error is copied.
 */
static inline void
cwh_add_result(Delivery *delivery, CwhOutcome outcome, const char *error)
{
	delivery->outcome = outcome;
	delivery->error = error ?
		MemoryContextStrdup(cwh_worker.context, error) : NULL;
	cwh_push_result(delivery);
}

/* Have the next settle see to this account. */
static inline void
cwh_list_account(Account *account)
{
	if (account->listed)
		return;
	dlist_push_tail(&cwh_ledger.accounts, &account->node);
	account->listed = true;
	cwh_ledger.naccounts++;
}

/*
 * Have a webhook disabled, for a reason (null: it is not), or its problem
 * noted.
 */
static inline void
cwh_account_request(Account *account, const char *disable, bool note)
{
	if (disable)
		account->disable = disable;
	account->note = account->note || note;
	cwh_list_account(account);
}

/* Strike out what was written, or need not be; unlist what has nothing left. */
static inline void
cwh_account_settled(Account *account, bool gain, bool disable, bool note)
{
	if (gain && account->gain)
	{
		pfree(account->gain);
		account->gain = NULL;
	}
	if (disable)
		account->disable = NULL;
	if (note)
		account->note = false;
	if (!account->listed || account->gain || account->disable || account->note)
		return;
	dlist_delete(&account->node);
	account->listed = false;
	cwh_ledger.naccounts--;
}

/* Room for n elements in an array in the worker's memory, null at first. */
static inline void *
cwh_enlarge(void *array, int n, size_t size)
{
	return array ? repalloc(array, n * size) :
		MemoryContextAlloc(cwh_worker.context, n * size);
}

/* Have a webhook's alerts checked. */
static inline void
cwh_add_alerting(const pg_uuid_t *webhook_id)
{
	for (int i = 0; i < cwh_ledger.nalerting; i++)
		if (memcmp(&cwh_ledger.alerting[i], webhook_id, UUID_LEN) == 0)
			return;
	if (cwh_ledger.nalerting == cwh_ledger.max_alerting)
	{
		int			n = Max(64, 2 * cwh_ledger.max_alerting);

		cwh_ledger.alerting = cwh_enlarge(cwh_ledger.alerting, n,
										  sizeof(pg_uuid_t));
		cwh_ledger.max_alerting = n;
	}
	cwh_ledger.alerting[cwh_ledger.nalerting++] = *webhook_id;
}

/* Note that a webhook has had something due since then, which is long ago. */
static inline void
cwh_add_backlog(const pg_uuid_t *webhook_id, TimestampTz due)
{
	if (cwh_ledger.nbacklogs == cwh_ledger.max_backlogs)
	{
		int			n = Max(64, 2 * cwh_ledger.max_backlogs);

		cwh_ledger.backlogs = cwh_enlarge(cwh_ledger.backlogs, n,
										  sizeof(pg_uuid_t));
		cwh_ledger.backlog_dues = cwh_enlarge(cwh_ledger.backlog_dues, n,
											  sizeof(TimestampTz));
		cwh_ledger.max_backlogs = n;
	}
	cwh_ledger.backlogs[cwh_ledger.nbacklogs] = *webhook_id;
	cwh_ledger.backlog_dues[cwh_ledger.nbacklogs++] = due;
}

#endif							/* CWH_LEDGER_H */
