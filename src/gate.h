/*
 * gate.h
 *		Whether a request to a webhook may start now.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_GATE_H
#define CWH_GATE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "decision.h"

/* A wall clock that has moved this far from the monotonic one was set. */
#define CWH_CLOCK_STEP	USECS_PER_SEC

extern void cwh_gate_install(void);
extern bool cwh_gate_pass(const pg_uuid_t *webhook_id, double rate, int n,
						  int64 probe_ms, TimestampTz now, TimestampTz *again);
extern bool cwh_gate_signal(const pg_uuid_t *webhook_id, CwhSignal signal,
							int64 pause_s, const CwhRetryPolicy *policy,
							double random01, TimestampTz now);
extern void cwh_gate_set_clock(int64 clock);

/* Which of two secrets a receiver accepts, while they overlap. */
typedef enum CwhTaken
{
	CWH_TAKEN_UNKNOWN,
	CWH_TAKEN_CURRENT,
	CWH_TAKEN_PREVIOUS
} CwhTaken;

extern CwhTaken cwh_gate_taken(const pg_uuid_t *webhook_id, TimestampTz until);
extern void cwh_gate_note_taken(const pg_uuid_t *webhook_id, CwhTaken taken,
								TimestampTz until, TimestampTz now);

/* Webhooks whose connector a worker could not stop, and died in. */
extern void cwh_gate_stuck(const pg_uuid_t *webhook_id, TimestampTz until);
extern bool cwh_gate_take_stuck(pg_uuid_t *webhook_id);

#endif							/* CWH_GATE_H */
