/*
 * settle.h
 *		Writes what became of deliveries, and what webhooks' health has gained.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SETTLE_H
#define CWH_SETTLE_H

#include "endpoint.h"

/* What was written about a webhook. */
typedef struct SettledAccount
{
	Endpoint   *endpoint;
	bool		disabled;
	bool		noted;
	bool		announce;		/* the problem that was noted is new */
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
	bool		flush_now;		/* other steps must wait for it to be on disk */
} Settle;

extern TimestampTz cwh_settle_due(void);
extern void cwh_settle(Settle *work);
extern bool cwh_end_settle(Settle *work, int sqlerrcode);

#endif							/* CWH_SETTLE_H */
