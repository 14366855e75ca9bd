/*
 * handover.h
 *		Removes events from an outbox that all delivery nodes have.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_HANDOVER_H
#define CWH_HANDOVER_H

#include "datatype/timestamp.h"

/* When the next step is due. */
typedef enum CwhHandover
{
	CWH_HANDOVER_MORE,			/* at once, but for other work */
	CWH_HANDOVER_WAIT,			/* after a while */
	CWH_HANDOVER_IDLE			/* when the settings have changed, or after the
								 * next pass of retention */
} CwhHandover;

extern CwhHandover cwh_handover_step(TimestampTz now);

#endif							/* CWH_HANDOVER_H */
