/*
 * settle.h
 *		Writes what became of deliveries, and what webhooks' health has gained.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SETTLE_H
#define CWH_SETTLE_H

#include "endpoint.h"
#include "queue.h"
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
 * Settle when this many have ended, or the first of them this long ago.  If nothing
 * else is under way, settle at once; but if the last settle was less than
 * SETTLE_APART_MS ago, wait until then, or for SETTLE_FEW, unless somebody is
 * waiting: so deliveries of events that come one after the other share a
 * transaction, which saves a tenth of the CPU time.  If the last settle is not on
 * disk yet, settle only for as many, or after MAX_FLUSH_MS: until then, requests go
 * on, rather than wait for the disk.
 */
#define SETTLE_BATCH		100
#define SETTLE_DELAY_MS		20
#define SETTLE_FEW			16
#define SETTLE_APART_MS		50
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
	TimestampTz last = cwh_ledger.last_settle;
	TimestampTz due;

	if (cwh_ledger.nresults == 0)
		return cwh_ledger.naccounts > 0 ? cwh_ledger.accounts_due : DT_NOEND;
	/* so late only if the clock was set as the result was added */
	if (oldest > TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS))
		return now;
	if (cwh_ledger.nresults >= SETTLE_BATCH)
		return oldest;
	due = TimestampTzPlusMilliseconds(oldest, SETTLE_DELAY_MS);
	if (cwh_worker.in_flight == 0 && cwh_next_startable() == NULL)
	{
		due = oldest;
		if (cwh_ledger.nresults < SETTLE_FEW && cwh_ledger.nurgent == 0 &&
			last <= now && !cwh_settled_awaited())
			due = Max(due, TimestampTzPlusMilliseconds(last, SETTLE_APART_MS));
	}
	if (due <= now && cwh_flush_pending())
		due = TimestampTzPlusMilliseconds(oldest, MAX_FLUSH_MS);
	return due;
}

#endif							/* CWH_SETTLE_H */
