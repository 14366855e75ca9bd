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

#include "delivery.h"
#include "outbox.h"

/*
 * A webhook's account: what is to be written about it.  It is listed while there
 * is anything.  Only ledger.c writes these.
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
};

/* The end of an attempt, as health and activity count it. */
typedef struct AttemptEnd
{
	bool		success;
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
	TimestampTz oldest_result;	/* when the oldest was added, or tried again */
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

extern void cwh_add_result(Delivery *delivery, CwhOutcome outcome,
						   const char *error);
extern void cwh_push_result(Delivery *delivery);
extern Delivery *cwh_pop_result(void);
extern void cwh_count_attempt(Account *account, const pg_uuid_t *webhook_id,
							  const AttemptEnd *end);
extern void cwh_account_request(Account *account, const char *disable,
								bool note);
extern void cwh_account_settled(Account *account, bool gain, bool disable,
								bool note);
extern void cwh_add_alerting(const pg_uuid_t *webhook_id);
extern void cwh_add_backlog(const pg_uuid_t *webhook_id, TimestampTz due);

#endif							/* CWH_LEDGER_H */
