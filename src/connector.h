/*
 * connector.h
 *		Calls connectors: functions in SQL that turn an event into requests.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CONNECTOR_H
#define CWH_CONNECTOR_H

#include <signal.h>

#include "request.h"
#include "webhook.h"

/* A connector that takes longer than this is called less often. */
#define CWH_SLOW_CONNECTOR_MS	20

typedef struct CwhRender
{
	const CwhWebhook *webhook;
	const char *event;			/* its envelope, in UTF-8 */
	Jsonb	   *replies;		/* null: none yet */
	MemoryContext context;		/* of what comes out */

	/* out */
	CwhStep    *step;			/* null: nothing to send (any more), or error */
	Datum		row;			/* the same, as the function returned it */
	char	   *error;			/* or null */
	int			took_ms;
} CwhRender;

/* The webhook whose connector is running, or null; SIGTERM must end that. */
extern const CwhWebhook *volatile cwh_running_connector;

extern int	cwh_connector_render(CwhRender *renders, int n);

#endif							/* CWH_CONNECTOR_H */
