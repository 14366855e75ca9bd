/*
 * settle.h
 *		Writes what became of deliveries, and what webhooks' health has gained.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SETTLE_H
#define CWH_SETTLE_H

#include "endpoint.h"
#include "ledger.h"
#include "queue.h"
#include "shared.h"
#include "statement.h"

/* What was written about a webhook. */
typedef struct SettledAccount
{
	Endpoint   *endpoint;
	CwhRecorded done;
} SettledAccount;

/* What one transaction settles. */
typedef struct Settle
{
	int			n;
	Delivery  **deliveries;
	CwhResult  *results;
	int			naccounts;
	SettledAccount *accounts;
	CwhActivity activity;
	bool	   *exhausted;		/* for each result, whether to announce it as a
								 * dead letter; null: none */
	bool		flush_now;		/* other steps must wait for it to be on disk */
} Settle;

/*
 * Settle when SETTLE_BATCH have ended, or the first of them SETTLE_DELAY_MS ago.  If
 * nothing else is under way, settle at once, but for a few successes soon after the
 * last settle: where events come one after the other, their deliveries share a
 * transaction.  If the last settle is not on disk yet, settle only for
 * SETTLE_BATCH, or after MAX_FLUSH_MS: until then, requests go on, rather than wait
 * for the disk.
 */
#define SETTLE_BATCH		100
#define SETTLE_FEW			16
#define SETTLE_DELAY_MS		20
#define MAX_FLUSH_MS		200

/* Rows that another transaction has locked are tried again after this. */
#define LOCKED_DELAY_MS		500

extern void cwh_settle(Settle *work);
extern bool cwh_end_settle(Settle *work, int sqlerrcode);

/* When there is something to settle; DT_NOEND if there is nothing. */
static inline TimestampTz
cwh_settle_due(TimestampTz now)
{
	TimestampTz oldest = cwh_ledger.oldest_result;
	TimestampTz due;

	if (cwh_ledger.nresults == 0)
		return cwh_ledger.naccounts > 0 ? cwh_ledger.accounts_due : DT_NOEND;
	if (cwh_ledger.nresults >= SETTLE_BATCH)
		return oldest;
	due = TimestampTzPlusMilliseconds(oldest, SETTLE_DELAY_MS);
	if (cwh_worker.in_flight == 0 && cwh_next_startable() == NULL)
	{
		due = oldest;
		if (cwh_ledger.nresults < SETTLE_FEW && cwh_ledger.nurgent == 0 &&
			!cwh_settled_awaited())
			due = Max(due, TimestampTzPlusMilliseconds(cwh_ledger.last_settle,
													   SETTLE_DELAY_MS));
	}
	if (due <= now && cwh_flush_pending())
		due = TimestampTzPlusMilliseconds(oldest, MAX_FLUSH_MS);
	return due;
}

#endif							/* CWH_SETTLE_H */
