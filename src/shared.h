/*
 * shared.h
 *		What processes tell each other in shared memory: which worker serves
 *		which database, what it holds, and what it should look at.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SHARED_H
#define CWH_SHARED_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/proclist.h"
#include "utils/uuid.h"

#define CWH_ERROR_LEN	256

/* Copy a text, or as much of it as fits without splitting a character. */
static inline void
cwh_copy_text(char *to, const char *from, size_t size)
{
	int			len = pg_mbcliplen(from, strlen(from), size - 1);

	memcpy(to, from, len);
	to[len] = '\0';
}

/* Is there shared memory, that is, was the library loaded in advance? */
extern bool cwh_preloaded;

/* Broadcast when deliveries have been settled; null if not preloaded. */
extern ConditionVariable *cwh_settled;

/*
 * Is any session waiting for that?  Read without the lock: one that begins just now
 * waits for the next settle.
 */
static inline bool
cwh_settled_awaited(void)
{
	return !proclist_is_empty(&cwh_settled->wakeup);
}

/* A counter for each bucket, for changes.c; null if not preloaded. */
typedef uint16 CwhBucket;
#define CWH_BUCKETS		1024
extern pg_atomic_uint64 *cwh_bumps;

/* Initial copies of outboxes, for initial_copy.c; null if not preloaded. */
#define CWH_MAX_COPIES	64
typedef struct CwhCopies
{
	LWLock	   *lock;
	int			n;
	struct
	{
		Oid			database;
		char		name[NAMEDATALEN];	/* application_name, which is that of
										 * the copy's slot unless the
										 * connection sets another */
	}			items[CWH_MAX_COPIES];	/* the oldest first */
} CwhCopies;

extern CwhCopies *cwh_copies;

extern void cwh_shared_install(void);

/*
 * For sessions: hints to the workers of this database, published when the
 * transaction commits.  "This webhook (null: every webhook) has deliveries to
 * claim from this position on."
 */
typedef struct CwhHint
{
	pg_uuid_t	webhook_id;
	TimestampTz due;			/* DT_NOEND: none, except those due later */
	int64		id;
	int			n;				/* how many of them are new */
	TimestampTz later;			/* the first that is meant to be due later, or
								 * DT_NOEND */
} CwhHint;

#define CWH_MAX_HINTS	64

extern void cwh_hint(const pg_uuid_t *webhook_id, TimestampTz due, int64 id,
					 int n);
extern void cwh_hint_later(const pg_uuid_t *webhook_id, TimestampTz due);

extern void cwh_wake_worker(void);

/*
 * For sessions that want a database for themselves: no worker is in it, or
 * started there, between the two.
 */
extern void cwh_block_database(Oid database);

/* Ids of deliveries: they ascend with time, over all sessions. */
extern int64 cwh_next_id(TimestampTz now, int64 above);

/* The least id that a delivery of this time can have. */
static inline int64
cwh_id_at(TimestampTz at)
{
	/* microseconds since 2026-01-01 UTC */
	static const TimestampTz start = INT64CONST(9497) * USECS_PER_DAY;

	return at > start ? at - start : 0;
}

/* Claims: which process holds a delivery. */
extern bool cwh_claim(int64 id, const pg_uuid_t *webhook_id);
extern bool cwh_is_claimed(int64 id);
/* these two are exported for test/modules/chatwebhook_test */
extern PGDLLEXPORT void cwh_claims_mine(const int64 *ids, int n, bool *mine);
extern PGDLLEXPORT void cwh_claim_release(const int64 *ids, int n);

/* How a worker's life ended, for the launcher. */
typedef enum CwhExit
{
	CWH_EXIT_CRASHED,			/* it said nothing: start another */
	CWH_EXIT_NO_EXTENSION,		/* nothing to do in that database */
	CWH_EXIT_OTHER_VERSION,		/* nor there, until it is updated */
	CWH_EXIT_STOPPED			/* asked to leave; look again when told */
} CwhExit;

/* A worker's figures, as worker_status shows them. */
typedef struct CwhWorkerStats
{
	TimestampTz started_at;
	TimestampTz last_activity_at;
	int			in_flight;
	int64		claimed;
	int64		delivered;
	int64		failed;
	char		last_error[CWH_ERROR_LEN];
} CwhWorkerStats;

/*
 * The launcher's side of a worker's slot.
 */
#define CWH_SLOT_NONE		(-1)	/* all slots are taken */
#define CWH_SLOT_BLOCKED	(-2)	/* a session wants the database for itself */

extern bool cwh_launcher_take(List **databases);
extern void cwh_wake_launcher(Oid database);
extern int	cwh_slot_reserve(Oid database, int number, bool version_logged,
							 int32 *token);
extern bool cwh_slot_check(int slot, bool ended, CwhExit *how);

/*
 * The worker's side.
 */

/* What a worker was told when it started. */
typedef struct CwhAssignment
{
	Oid			database;
	int			number;			/* of this database's workers, from 0 */
	bool		version_logged; /* the log says that the SQL's version is
								 * another than the library's */
} CwhAssignment;

/* What a worker has been told since it last asked. */
typedef struct CwhMail
{
	int			nhints;
	CwhHint		hints[CWH_MAX_HINTS];
	bool		sweep;			/* look at every webhook */
	bool		stop;			/* leave the database */
} CwhMail;

/* What a worker says of itself. */
typedef struct CwhWorkerState
{
	bool		has_extension;	/* it has found something to do */
	bool		halted;			/* it claims nothing now: hints need not wake it */
	CwhExit		exit;			/* how it ends, if it ends now */
	CwhWorkerStats stats;
} CwhWorkerState;

extern bool cwh_slot_attach(int32 token, CwhAssignment *assignment);
extern void cwh_slot_take(CwhMail *mail);
extern XLogRecPtr cwh_claims_need(void);
extern void cwh_slot_report(const CwhWorkerState *state);
extern void cwh_flush_soon(XLogRecPtr upto);
extern void cwh_await_flush(XLogRecPtr upto);

#endif							/* CWH_SHARED_H */
