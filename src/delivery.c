/*
 * delivery.c
 *		The pool of deliveries that the worker holds.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "delivery.h"
#include "state.h"

/* A body has this much room to begin with. */
#define BODY_SIZE			2048

/* A larger buffer is not kept for the next delivery. */
#define MAX_KEPT_BODY		4096

static slist_head spare = SLIST_STATIC_INIT(spare);

/* Give a delivery an empty body. */
static void
make_body(Delivery *delivery)
{
	delivery->body.data = MemoryContextAlloc(cwh_worker.context, BODY_SIZE);
	delivery->body.maxlen = BODY_SIZE;
	resetStringInfo(&delivery->body);
}

/* A delivery with nothing in it. */
Delivery *
cwh_delivery_new(void)
{
	Delivery   *delivery;

	if (!slist_is_empty(&spare))
		return slist_container(Delivery, node, slist_pop_head_node(&spare));
	delivery = MemoryContextAllocZero(cwh_worker.context, sizeof(Delivery));
	make_body(delivery);
	return delivery;
}

/* Free a string that may be null. */
static void
free_string(char *string)
{
	if (string)
		pfree(string);
}

/* Put a delivery back into the pool. */
void
cwh_delivery_free(Delivery *delivery)
{
	MemoryContext context = delivery->exchange.context;
	StringInfoData body = delivery->body;

	cwh_worker.body_bytes -= body.len;
	if (delivery->customer)
	{
		delivery->customer->body_bytes -= body.len;
		delivery->customer->ndeliveries--;
	}
	free_string(delivery->event_type);
	free_string(delivery->chatbot_id);
	free_string(delivery->conversation_id);
	free_string(delivery->traceparent);
	free_string(delivery->error);
	cwh_exchange_reset(&delivery->exchange);
	if (context)
		MemoryContextDelete(context);
	memset(delivery, 0, sizeof(Delivery));
	delivery->body = body;
	resetStringInfo(&delivery->body);
	if (body.maxlen > MAX_KEPT_BODY)
	{
		pfree(body.data);
		make_body(delivery);
	}
	slist_push_head(&spare, &delivery->node);
}
