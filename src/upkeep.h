/*
 * upkeep.h
 *		What the worker does beside delivering: alerts, and removing old rows and
 *		what an outbox has handed over.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_UPKEEP_H
#define CWH_UPKEEP_H

#include "datatype/timestamp.h"

/* Times, or 0; follow_clock() in worker.c moves them with the clock. */
typedef struct Upkeep
{
	TimestampTz next_failures;	/* when to write down emit failures again, after
								 * an error */
	TimestampTz next_watch_alerts;	/* when to check the alerts about watches */
	TimestampTz next_alerts;
	TimestampTz next_announcements;
	TimestampTz next_retention;
	TimestampTz next_handover;	/* of an outbox; infinity: when the settings have
								 * changed, or after the next pass of
								 * retention */
	TimestampTz pass_started;	/* of retention; 0: none is under way */
} Upkeep;

extern Upkeep cwh_upkeep;

extern TimestampTz cwh_keep_up(TimestampTz now);

#endif							/* CWH_UPKEEP_H */
