/*
 * emit_failure.c
 *		Counts events that triggers could not emit.
 *
 * Sessions count them in shared memory: if they updated a row of a table, they
 * would wait for each other's transactions, and a rollback would undo the count.  A
 * worker of the database takes the counts and writes them to the table
 * emit_failure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "emit_failure.h"
#include "shared.h"

typedef struct Failures
{
	LWLock	   *lock;
	pg_atomic_uint32 nused;		/* may be read without the lock */
	CwhEmitFailure items[CWH_MAX_EMIT_FAILURES];	/* protected by the lock */
} Failures;

static Failures *failures = NULL;	/* null unless the library was preloaded */

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* shmem_request_hook: ask for shared memory and the lock. */
static void
request_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(sizeof(Failures));
	RequestNamedLWLockTranche("chatwebhook emit failures", 1);
}

/* shmem_startup_hook: create the shared memory. */
static void
create_memory(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	failures = ShmemInitStruct("chatwebhook emit failures", sizeof(Failures),
							   &found);
	if (!found)
	{
		memset(failures, 0, sizeof(Failures));
		failures->lock = &GetNamedLWLockTranche("chatwebhook emit failures")->lock;
		pg_atomic_init_u32(&failures->nused, 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Install the hooks of this file; called when the library is loaded. */
void
cwh_emit_failure_install(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = create_memory;
}

/* Are these of the same kind? */
static bool
same_kind(const CwhEmitFailure *a, const CwhEmitFailure *b)
{
	return a->database == b->database && a->relation == b->relation &&
		a->sqlerrcode == b->sqlerrcode &&
		strcmp(a->trigger, b->trigger) == 0 &&
		strcmp(a->message, b->message) == 0;
}

/*
 * Find the item to count a failure in: one of its kind, or else an unused one.  If
 * all are used, take one of the same table, or else of another database.
 */
static CwhEmitFailure *
find_item(const CwhEmitFailure *failure)
{
	CwhEmitFailure *unused = NULL;
	CwhEmitFailure *similar = NULL;
	CwhEmitFailure *oldest = NULL;	/* of the other databases */

	for (int i = 0; i < CWH_MAX_EMIT_FAILURES; i++)
	{
		CwhEmitFailure *item = &failures->items[i];

		if (item->n == 0)
			unused = unused ? unused : item;
		else if (same_kind(item, failure))
			return item;
		else if (item->database == failure->database &&
				 item->relation == failure->relation)
			similar = item;
		else if (item->database != failure->database &&
				 (oldest == NULL || item->last_at < oldest->last_at))
			oldest = item;
	}
	if (unused || similar)
		return unused ? unused : similar;
	/* a database without a worker must not keep the room from others */
	if (oldest)
	{
		oldest->n = 0;
		pg_atomic_fetch_sub_u32(&failures->nused, 1);
	}
	return oldest;
}

/*
 * Count failures of a session, n of them.  The first of a kind wakes the worker
 * that writes them down.
 */
void
cwh_emit_failure_add(const CwhEmitFailure *failure)
{
	CwhEmitFailure *item;
	bool		is_first = false;

	if (failures == NULL)
		return;
	LWLockAcquire(failures->lock, LW_EXCLUSIVE);
	item = find_item(failure);
	if (item && item->n == 0)
	{
		*item = *failure;
		pg_atomic_fetch_add_u32(&failures->nused, 1);
		is_first = true;
	}
	else if (item)
	{
		item->n += failure->n;
		item->first_at = Min(item->first_at, failure->first_at);
		item->last_at = Max(item->last_at, failure->last_at);
	}
	LWLockRelease(failures->lock);
	if (is_first)
		cwh_wake_worker();
}

/*
 * Take the failures of this database, into an array of CWH_MAX_EMIT_FAILURES.
 * Returns how many there are.
 */
int
cwh_emit_failure_take(CwhEmitFailure *taken)
{
	int			n = 0;

	LWLockAcquire(failures->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CWH_MAX_EMIT_FAILURES; i++)
	{
		CwhEmitFailure *item = &failures->items[i];

		if (item->n == 0 || item->database != MyDatabaseId)
			continue;
		taken[n++] = *item;
		item->n = 0;
		pg_atomic_fetch_sub_u32(&failures->nused, 1);
	}
	LWLockRelease(failures->lock);
	return n;
}

/* Are there failures, perhaps of this database? */
bool
cwh_emit_failure_pending(void)
{
	return failures && pg_atomic_read_u32(&failures->nused) > 0;
}
