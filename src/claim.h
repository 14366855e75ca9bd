/*
 * claim.h
 *		Takes deliveries off the queue, for the endpoints that are ready.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CLAIM_H
#define CWH_CLAIM_H

#include "delivery.h"
#include "dequeue.h"
#include "settle.h"

/* What one transaction claims. */
typedef struct Claims
{
	int			n;
	Delivery  **deliveries;
	int			max;			/* room in the array */
	int			nwants;			/* endpoints that it has claimed for */
	CwhWant    *wants;
	bool		in_conversation;	/* claiming what follows a delivery, and not
									 * where the queue was read to */
	int			nheld;			/* due deliveries that debounce holds */
	int64	   *held;			/* their ids, up to max */
} Claims;

/* The last claim has failed: results must not wait for the next one. */
extern bool cwh_claim_failed;

extern int64 cwh_sweep_queue(int64 ncatch_up);
extern bool cwh_claim_wanted(void);
extern void cwh_claim_deliveries(Claims *claims, const Settle *settled,
								 bool may_claim);
extern void cwh_end_claims(Claims *claims, int sqlerrcode);

#endif							/* CWH_CLAIM_H */
