/*
 * render.h
 *		Asks the connectors of deliveries what to send next.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_RENDER_H
#define CWH_RENDER_H

#include "utils/hsearch.h"

#include "connector.h"
#include "endpoint.h"

/* What a connector has said, or "error" instead of it. */
typedef void (*CwhOnRendered) (Delivery *delivery, const char *error);

/* Deliveries whose connectors are to be called. */
typedef struct RenderQueue
{
	slist_head	head;
	slist_node *tail;
	int			n;
} RenderQueue;

extern RenderQueue cwh_to_render;

/* The functions that ran out of time the last time; null: none was called. */
extern HTAB *cwh_slow_functions;

extern void cwh_render(CwhOnRendered each);

/* Is its connector one that takes long? */
static inline bool
cwh_connector_slow(const Endpoint *endpoint)
{
	const char *function = endpoint->webhook->function;

	if (endpoint->pace.slow)
		return true;
	return function && cwh_slow_functions &&
		hash_get_num_entries(cwh_slow_functions) > 0 &&
		hash_search(cwh_slow_functions, function, HASH_FIND, NULL) != NULL;
}

/* Have a delivery's connector called. */
static inline void
cwh_render_later(Delivery *delivery)
{
	cwh_append_node(&cwh_to_render.head, &cwh_to_render.tail, &delivery->node);
	cwh_to_render.n++;
}

#endif							/* CWH_RENDER_H */
