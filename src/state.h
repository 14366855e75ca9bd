/*
 * state.h
 *		The state of a worker's process that more than one of its files uses.
 *
 * All of it is the process's own; nothing in here locks.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_STATE_H
#define CWH_STATE_H

#include <signal.h>

#include "storage/fd.h"
#include "utils/palloc.h"

#include "settings.h"
#include "shared.h"

typedef struct Worker
{
	int			number;			/* of this database's, from 0 */
	MemoryContext context;		/* lives as long as the process */
	MemoryContext transaction_context;	/* reset after each transaction; also
										 * holds what precedes the next one */
	uint64		seen_generation;	/* of the configuration; 0: none yet */
	bool		reread_webhooks;	/* check which webhooks have changed */
	bool		new_settings;	/* reload all, changed or not */
	CwhWorkerState state;		/* what worker_status shows */
	bool		state_changed;	/* since it was last reported */

	int			in_flight;		/* requests under way */
	int			nwaiting;		/* deliveries claimed but not started */
	size_t		body_bytes;		/* held by claimed deliveries */

	bool		is_copy;		/* send nothing: this database is a copy */
	int64		first_delivery; /* deliveries up to this id came from another
								 * database */

	/* times, or 0; follow_clock() in worker.c moves them with the clock */
	TimestampTz starved_until;	/* no descriptors: start nothing */
	TimestampTz slow_until;		/* call no slow connectors */
} Worker;

extern Worker cwh_worker;

/* SIGTERM has arrived. */
extern volatile sig_atomic_t cwh_worker_terminate;

/* Is this the error of a relation or function that does not exist? */
static inline bool
cwh_is_absence(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		sqlerrcode == ERRCODE_UNDEFINED_FUNCTION ||
		sqlerrcode == ERRCODE_UNDEFINED_SCHEMA;
}

/* May deliveries be claimed and sent? */
static inline bool
cwh_may_send(void)
{
	return cwh_enabled && !cwh_worker.is_copy;
}

/* Show an error of the worker's own in worker_status. */
static inline void
cwh_note_error(const char *message)
{
	cwh_copy_text(cwh_worker.state.stats.last_error, message,
				  sizeof(cwh_worker.state.stats.last_error));
	cwh_worker.state_changed = true;
}

/*
 * The most requests that may be under way.  Each takes a descriptor, and
 * PostgreSQL leaves a third of its own limit to external ones.
 */
static inline int
cwh_in_flight_limit(void)
{
	return Max(1, Min(cwh_max_in_flight, max_safe_fds / 3 - 8));
}

#endif							/* CWH_STATE_H */
