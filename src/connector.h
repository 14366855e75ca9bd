/*
 * connector.h
 *		Calls connectors: SQL functions that turn an event into requests.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CONNECTOR_H
#define CWH_CONNECTOR_H

#include "request.h"
#include "webhook.h"

/* A call that takes longer than this counts as slow. */
#define CWH_SLOW_CONNECTOR_MS	20

/* A call of a connector, and its result. */
typedef struct CwhRender
{
	const CwhWebhook *webhook;
	const char *event;			/* the envelope, or an array of them, in UTF-8 */
	bool		batch;			/* event is an array, for one request */
	Jsonb	   *replies;		/* to earlier requests; null: none */
	Jsonb	   *memory;			/* of the conversation; null: nothing */
	MemoryContext context;		/* to allocate the result in */

	/* out */
	CwhStep    *step;			/* null: an error, or nothing (more) to send */
	Datum		row;			/* step as the function returned it */
	char	   *error;			/* or null */
	int			took_ms;
} CwhRender;

/*
 * The webhook whose connector is running in this process, or null.  Read by
 * signal handlers, since SIGTERM must interrupt a connector.
 */
extern const CwhWebhook *volatile cwh_running_connector;

extern int	cwh_connector_render(CwhRender *renders, int n);

#endif							/* CWH_CONNECTOR_H */
