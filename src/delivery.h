/*
 * delivery.h
 *		Deliveries that the worker holds, from the claim to the settle.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DELIVERY_H
#define CWH_DELIVERY_H

#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "customer.h"
#include "exchange.h"
#include "state.h"

/* of the webhook that it is for; see endpoint.h and ledger.h */
typedef struct Endpoint Endpoint;
typedef struct Account Account;

typedef struct Delivery
{
	slist_node	node;			/* in one queue at a time */
	Endpoint   *endpoint;
	Account    *account;
	Customer   *customer;		/* whom its body is counted for */
	int64		id;
	const char *problem;		/* why it cannot be sent, or null */
	pg_uuid_t	event_id;
	char	   *event_type;		/* null: the event is gone */
	char	   *chatbot_id;		/* or null */
	char	   *conversation_id;	/* if others of it wait for this one, or
									 * null */
	char	   *traceparent;	/* or null */
	int			attempts;		/* made before */
	int			first_attempt;	/* the first that counts against max_retries */
	int64		last_wait_ms;
	TimestampTz expires_at;		/* no attempt starts after this */
	StringInfoData body;		/* the event's envelope */

	/* the attempt */
	TimestampTz started_at;		/* 0: nothing was sent */
	CwhExchange exchange;
	CwhWebhook *webhook;		/* that the request points into, or null */
	uint64		connector_number;	/* the connector that asked for the replies */
	uint64		version;		/* of the webhook that the step was made for */

	/* for the first of a batch: the others, which share its request */
	slist_head	others;
	slist_node *others_tail;
	StringInfoData batch;		/* their events; its data is null: no batch */

	/* the outcome, to be settled */
	CwhOutcome	outcome;
	int			status;			/* of the last reply, or 0 */
	int			latency_ms;		/* of all requests of the attempt */
	int64		wait_ms;		/* before the retry */
	char	   *error;			/* or null */
	bool		log;			/* keep the attempt */
	bool		untried;		/* nothing was sent: it is no attempt */
} Delivery;

/* last_error of a delivery that was canceled because it expired. */
#define CWH_EXPIRED		"expired"

/* Append to a singly linked queue. */
static inline void
cwh_append_node(slist_head *head, slist_node **tail, slist_node *node)
{
	node->next = NULL;
	if (slist_is_empty(head))
		head->head.next = node;
	else
		(*tail)->next = node;
	*tail = node;
}

extern Delivery *cwh_delivery_new(void);
extern void cwh_delivery_free(Delivery *delivery);

/* Make the memory context in which a connector's step or a batch is kept. */
static inline void
cwh_delivery_need_context(Delivery *delivery)
{
	if (delivery->exchange.context == NULL)
		delivery->exchange.context =
			AllocSetContextCreate(cwh_worker.context, "chatwebhook delivery",
								  ALLOCSET_SMALL_SIZES);
}

#endif							/* CWH_DELIVERY_H */
