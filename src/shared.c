/*
 * shared.c
 *		What processes tell each other in shared memory.
 *
 * A slot belongs to one worker: the database that it serves, its latch, the
 * hints that it has not taken yet, and its figures.  The launcher reserves a
 * slot, the worker that it starts attaches to it, and the launcher frees it
 * when the worker has ended.
 *
 * A hint says that a webhook has deliveries to claim from a position on.  A
 * session collects hints while its transaction runs, and gives them to the
 * workers of its database after the commit; that also wakes the workers.
 *
 * A claim says that a process holds a delivery.  It must last exactly as long
 * as that process does: one that exits releases its claims on the way out, and
 * one that is killed makes the postmaster reinitialize shared memory.  So a
 * claim needs neither a lease in the table nor an expiry, and whatever a dead
 * worker held can be claimed at once.
 *
 * Locks: locks[0] protects which slot is whose, the requests to the launcher
 * and the blocked databases; locks[1] protects the claims; locks[2] protects
 * the initial copies; locks[3 + n] protects the hints and figures of slot n.  A
 * process that holds locks[0] may take a slot's lock, never the other way round.
 * No transaction begins or ends here.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "shared.h"

/* A worker that finds no room leaves the delivery in the queue for now. */
#define MAX_CLAIMS		16384

/* If more databases are to be checked, all of them are. */
#define MAX_CHECKS		32

/* If sessions want more, workers leave a database but may come back early. */
#define MAX_BLOCKED		32

/* How long DROP DATABASE and the like wait for our workers to leave. */
#define STOP_TIMEOUT_MS	5000

typedef struct WorkerSlot
{
	/* protected by slots_lock */
	Oid			database;		/* InvalidOid: the slot is free */
	uint16		generation;		/* counts reservations of the slot */
	bool		orphaned;		/* the launcher is gone: the worker itself
								 * frees the slot */
	int			number;			/* of this database's workers, from 0 */
	bool		version_logged; /* see CwhAssignment */
	int			pid;			/* 0: no worker is attached */
	Latch	   *latch;			/* null: likewise */

	/* set by the worker, under slots_lock; it reads them without */
	bool		has_extension;	/* the worker has found something to do */
	CwhExit		exit;			/* how the worker ends, if it ends now */

	/* set by others, under slots_lock; the worker reads it without */
	bool		stop;			/* the worker has to leave the database */

	/* protected by the slot's own lock */
	bool		sweep;			/* look at every webhook */
	bool		halted;			/* the worker claims nothing now: hints need
								 * not wake it */
	XLogRecPtr	committed;		/* end of the last commit that left hints */
	int			nhints;
	CwhHint		hints[CWH_MAX_HINTS];
	CwhWorkerStats stats;

	/* the launcher sets the latch when the WAL is flushed up to here; 0: not */
	pg_atomic_uint64 awaited;
} WorkerSlot;

typedef struct Shared
{
	/* protected by slots_lock */
	Latch	   *launcher;		/* null: it does not run */
	bool		check_all;		/* the launcher should check every database */
	int			nchecks;
	Oid			checks[MAX_CHECKS]; /* or only these */
	int			nblocked;
	Oid			blocked[MAX_BLOCKED];	/* databases where no worker may
										 * start, once for each session that
										 * wants one for itself */

	/* with locks of their own, or atomic */
	ConditionVariable left;		/* a worker has left its database */
	ConditionVariable settled;	/* deliveries have been settled */
	pg_atomic_uint64 last_id;	/* of deliveries; see cwh_next_id() */
	pg_atomic_uint64 flush_upto;	/* the launcher is to flush the WAL up to
									 * here */
	pg_atomic_uint32 async_commits; /* commits under way that leave hints and
									 * do not wait for the disk */
	pg_atomic_uint64 bumps[CWH_BUCKETS];	/* see changes.c */
	CwhCopies	copies;			/* see initial_copy.c */

	int			nslots;			/* constant */
	WorkerSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} Shared;

typedef struct ClaimKey
{
	int64		id;				/* of the delivery */
	Oid			database;
	uint32		unused;			/* always 0, since the key is hashed whole */
} ClaimKey;

/* All of it is protected by claims_lock. */
typedef struct Claim
{
	ClaimKey	key;
	int			pid;			/* of the process that holds the delivery */
	pg_uuid_t	webhook_id;
} Claim;

PG_FUNCTION_INFO_V1(chatwebhook_in_flight);
PG_FUNCTION_INFO_V1(chatwebhook_workers);
PG_FUNCTION_INFO_V1(chatwebhook_claimed);
PG_FUNCTION_INFO_V1(chatwebhook_wake);
PG_FUNCTION_INFO_V1(chatwebhook_wake_all);
PG_FUNCTION_INFO_V1(chatwebhook_next_delivery);

bool		cwh_preloaded = false;
ConditionVariable *cwh_settled = NULL;
pg_atomic_uint64 *cwh_bumps = NULL;
CwhCopies  *cwh_copies = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* shared memory; all null unless the library was preloaded */
static Shared *shared = NULL;
static HTAB *claims = NULL;
static LWLockPadded *locks = NULL;

#define slots_lock		(&locks[0].lock)
#define claims_lock		(&locks[1].lock)
#define copies_lock		(&locks[2].lock)
#define slot_lock(s)	(&locks[3 + ((s) - shared->slots)].lock)
#define NUM_LOCKS		(3 + max_worker_processes)

/* of this process */
static WorkerSlot *my_slot = NULL;	/* in a worker */
static bool is_launcher = false;
static bool exit_registered = false;
static int	nmy_blocked = 0;	/* databases that this session blocks */
static Oid	my_blocked[MAX_BLOCKED];

/* What this transaction tells the workers if it commits. */
static CwhHint pending_hints[CWH_MAX_HINTS];
static int	npending_hints = 0;
static bool pending_sweep = false;

/* Bytes of shared memory that the slots take. */
static Size
slots_size(void)
{
	return add_size(offsetof(Shared, slots),
					mul_size(max_worker_processes, sizeof(WorkerSlot)));
}

/* shmem_request_hook: ask for shared memory and locks. */
static void
request_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(add_size(slots_size(),
									hash_estimate_size(MAX_CLAIMS, sizeof(Claim))));
	RequestNamedLWLockTranche("chatwebhook", NUM_LOCKS);
}

/* shmem_startup_hook: create the shared memory. */
static void
create_memory(void)
{
	HASHCTL		info;
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("chatwebhook", slots_size(), &found);
	if (!found)
	{
		memset(shared, 0, slots_size());
		shared->nslots = max_worker_processes;
		shared->check_all = true;
		pg_atomic_init_u64(&shared->last_id, 0);
		pg_atomic_init_u64(&shared->flush_upto, 0);
		pg_atomic_init_u32(&shared->async_commits, 0);
		for (int i = 0; i < CWH_BUCKETS; i++)
			pg_atomic_init_u64(&shared->bumps[i], 0);
		for (int i = 0; i < shared->nslots; i++)
			pg_atomic_init_u64(&shared->slots[i].awaited, 0);
		ConditionVariableInit(&shared->left);
		ConditionVariableInit(&shared->settled);
	}
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(ClaimKey);
	info.entrysize = sizeof(Claim);
	claims = cwh_shmem_init_hash("chatwebhook claims", MAX_CLAIMS, &info,
								 HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	locks = GetNamedLWLockTranche("chatwebhook");
	shared->copies.lock = copies_lock;
	LWLockRelease(AddinShmemInitLock);

	cwh_settled = &shared->settled;
	cwh_bumps = shared->bumps;
	cwh_copies = &shared->copies;
	cwh_preloaded = true;
}

/*
 * Hints
 */

/*
 * Add a hint to an array of CWH_MAX_HINTS.  There is one for each webhook, for
 * the first of its positions; if the array has no room, all give way to a
 * sweep.
 */
static void
add_hint(CwhHint *hints, int *nhints, bool *sweep, const CwhHint *hint)
{
	if (*sweep)
		return;
	for (int i = 0; i < *nhints; i++)
	{
		if (memcmp(&hints[i].webhook_id, &hint->webhook_id, UUID_LEN) != 0)
			continue;
		if (hint->due < hints[i].due ||
			(hint->due == hints[i].due && hint->id < hints[i].id))
		{
			hints[i].due = hint->due;
			hints[i].id = hint->id;
		}
		hints[i].n += hint->n;
		hints[i].later = Min(hints[i].later, hint->later);
		return;
	}
	if (*nhints < CWH_MAX_HINTS)
		hints[(*nhints)++] = *hint;
	else
	{
		*sweep = true;
		*nhints = 0;
	}
}

/*
 * Tell the workers, if this transaction commits, that a webhook has deliveries
 * to claim from this position on, n of them new; without a webhook, that every
 * webhook may have.
 */
void
cwh_hint(const pg_uuid_t *webhook_id, TimestampTz due, int64 id, int n)
{
	CwhHint		hint;

	if (webhook_id == NULL)
	{
		pending_sweep = true;
		npending_hints = 0;
		return;
	}
	hint.webhook_id = *webhook_id;
	hint.due = due;
	hint.id = id;
	hint.n = n;
	hint.later = DT_NOEND;
	add_hint(pending_hints, &npending_hints, &pending_sweep, &hint);
}

/*
 * Likewise, tell the workers that a webhook has a delivery that is meant to be
 * due later, as opposed to one that was due at once before the clock was set
 * back.
 */
void
cwh_hint_later(const pg_uuid_t *webhook_id, TimestampTz due)
{
	CwhHint		hint = {.webhook_id = *webhook_id, .due = DT_NOEND, .later = due};

	add_hint(pending_hints, &npending_hints, &pending_sweep, &hint);
}

/* Give the hints of this transaction to the workers of this database. */
static void
publish_hints(void)
{
	LWLockAcquire(slots_lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];
		bool		wake;

		if (slot->database != MyDatabaseId || slot->latch == NULL)
			continue;
		LWLockAcquire(slot_lock(slot), LW_EXCLUSIVE);
		if (pending_sweep)
		{
			slot->sweep = true;
			slot->nhints = 0;
		}
		for (int j = 0; j < npending_hints; j++)
			add_hint(slot->hints, &slot->nhints, &slot->sweep,
					 &pending_hints[j]);
		slot->committed = Max(slot->committed, XactLastCommitEnd);
		wake = pending_sweep || !slot->halted;
		LWLockRelease(slot_lock(slot));
		/* signals a sleeping process: the most expensive part of an emit */
		if (wake)
			SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
}

/*
 * Transaction callback.  The postmaster registers it when it preloads the
 * library, and every process inherits it.
 */
static void
at_transaction_end(XactEvent event, void *arg)
{
	static bool prepared = false;	/* while applying a subscription */
	static bool counted = false;	/* in async_commits */

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			/* before anybody can see what this transaction has queued */
			if (shared && synchronous_commit == SYNCHRONOUS_COMMIT_OFF &&
				(npending_hints > 0 || pending_sweep))
			{
				pg_atomic_fetch_add_u32(&shared->async_commits, 1);
				counted = true;
			}
			return;
		case XACT_EVENT_COMMIT:
			/* it may be COMMIT PREPARED, for which no statement runs there */
			if (prepared && cwh_is_replicated())
				pending_sweep = true;
			if (shared && (npending_hints > 0 || pending_sweep))
				publish_hints();
			break;
		case XACT_EVENT_PREPARE:
			if ((npending_hints > 0 || pending_sweep) && cwh_is_replicated())
				prepared = true;
			break;
		case XACT_EVENT_ABORT:
			break;
		default:
			return;
	}
	npending_hints = 0;
	pending_sweep = false;
	if (counted)
		pg_atomic_fetch_sub_u32(&shared->async_commits, 1);
	counted = false;
}

/* SQL: tell the workers at commit to read this webhook's queue from its head. */
Datum
chatwebhook_wake(PG_FUNCTION_ARGS)
{
	cwh_hint(PG_GETARG_UUID_P(0), DT_NOBEGIN, 0, 0);
	PG_RETURN_VOID();
}

/* SQL: tell the workers at commit to check every webhook. */
Datum
chatwebhook_wake_all(PG_FUNCTION_ARGS)
{
	cwh_hint(NULL, DT_NOBEGIN, 0, 0);
	PG_RETURN_VOID();
}

/* Wake the first worker of this database, which has something to write down. */
void
cwh_wake_worker(void)
{
	LWLockAcquire(slots_lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];

		if (slot->database == MyDatabaseId && slot->number == 0 && slot->latch)
			SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
}

/*
 * Databases that a session wants for itself
 */

/*
 * Ask the workers of a database to leave it.  Returns whether any are still
 * there; a worker that has not attached yet will fail to.
 */
static bool
stop_workers(Oid database)
{
	bool		present = false;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];

		if (slot->database != database)
			continue;
		slot->stop = true;
		if (slot->pid == 0)
			continue;
		present = true;
		SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
	return present;
}

/*
 * Have the workers of a database leave it, for a statement that needs the
 * database for itself, and wait until they have.  None starts there before
 * cwh_unblock_databases() is called.
 */
void
cwh_block_database(Oid database)
{
	TimestampTz start = GetCurrentTimestamp();

	if (!shared)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (shared->nblocked < MAX_BLOCKED)
	{
		shared->blocked[shared->nblocked++] = database;
		my_blocked[nmy_blocked++] = database;
	}
	LWLockRelease(slots_lock);

	ConditionVariablePrepareToSleep(&shared->left);
	while (stop_workers(database) &&
		   !TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
									   STOP_TIMEOUT_MS))
		(void) ConditionVariableTimedSleep(&shared->left, 100,
										   PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/*
 * The launcher's side
 */

/*
 * Exit callback of the launcher.  Its workers leave as well: the next launcher
 * could neither watch nor stop them.
 */
static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	shared->launcher = NULL;
	for (int i = 0; i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];

		if (slot->pid == 0)
			slot->database = InvalidOid;
		slot->stop = true;
		slot->orphaned = true;
		if (slot->latch)
			SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
}

/* Make this process the one that others wake as the launcher. */
static void
become_launcher(void)
{
	before_shmem_exit(launcher_exit, 0);
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	shared->launcher = &MyProc->procLatch;
	shared->check_all = true;
	LWLockRelease(slots_lock);
	is_launcher = true;
}

/* Flush the WAL that workers want flushed, and wake those that wait for it. */
static void
flush_wal(void)
{
	XLogRecPtr	upto = pg_atomic_read_u64(&shared->flush_upto);

	XLogFlush(upto);
	pg_memory_barrier();
	for (int i = 0; i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];
		XLogRecPtr	awaited = pg_atomic_read_u64(&slot->awaited);

		if (awaited == 0 || awaited > upto)
			continue;
		pg_atomic_write_u64(&slot->awaited, 0);
		LWLockAcquire(slots_lock, LW_SHARED);
		if (slot->latch)
			SetLatch(slot->latch);
		LWLockRelease(slots_lock);
	}
}

/*
 * For the launcher: flush the WAL that workers want flushed, and take the
 * databases that it was asked to check.  Returns true if it should check all.
 */
bool
cwh_launcher_take(List **databases)
{
	Oid			checks[MAX_CHECKS];
	int			nchecks;
	bool		all;

	if (!is_launcher)
		become_launcher();
	flush_wal();

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	all = shared->check_all;
	nchecks = shared->nchecks;
	memcpy(checks, shared->checks, nchecks * sizeof(Oid));
	shared->check_all = false;
	shared->nchecks = 0;
	LWLockRelease(slots_lock);

	*databases = NIL;
	for (int i = 0; i < nchecks; i++)
		*databases = list_append_unique_oid(*databases, checks[i]);
	return all;
}

/* Let workers start again in the databases that this session has blocked. */
static void
unblock_databases(void)
{
	if (nmy_blocked == 0)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	while (nmy_blocked > 0)
	{
		Oid			database = my_blocked[--nmy_blocked];

		for (int i = 0; i < shared->nblocked; i++)
		{
			if (shared->blocked[i] != database)
				continue;
			shared->blocked[i] = shared->blocked[--shared->nblocked];
			break;
		}
	}
	LWLockRelease(slots_lock);
}

/*
 * Have the launcher check a database, or with InvalidOid all of them, after
 * unblocking those that this session has blocked.
 */
void
cwh_wake_launcher(Oid database)
{
	if (!shared)
		return;
	unblock_databases();
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (!OidIsValid(database) || shared->nchecks == MAX_CHECKS)
		shared->check_all = true;
	else
		shared->checks[shared->nchecks++] = database;
	if (shared->launcher)
		SetLatch(shared->launcher);
	LWLockRelease(slots_lock);
}

/*
 * Reserve a slot for a worker that is about to be started, which attaches to it
 * with the token.  Returns the slot, or why there is none.
 */
int
cwh_slot_reserve(Oid database, int number, bool version_logged, int32 *token)
{
	int			found = CWH_SLOT_NONE;
	bool		blocked = false;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nblocked; i++)
		if (shared->blocked[i] == database)
			blocked = true;
	for (int i = 0; i < shared->nslots && !blocked; i++)
	{
		WorkerSlot *slot = &shared->slots[i];
		uint16		generation = slot->generation + 1;

		if (OidIsValid(slot->database))
			continue;
		memset(slot, 0, sizeof(WorkerSlot));
		pg_atomic_init_u64(&slot->awaited, 0);
		slot->generation = generation;
		slot->database = database;
		slot->number = number;
		slot->version_logged = version_logged;
		slot->exit = CWH_EXIT_CRASHED;
		*token = (int32) (((uint32) i << 16) | generation);
		found = i;
		break;
	}
	LWLockRelease(slots_lock);
	return blocked ? CWH_SLOT_BLOCKED : found;
}

/*
 * Has a worker reported that its database has the extension?  If the worker has
 * ended, also say how, and free its slot.
 */
bool
cwh_slot_check(int slot, bool ended, CwhExit *how)
{
	WorkerSlot *checked = &shared->slots[slot];
	bool		has_extension;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	has_extension = checked->has_extension;
	if (ended)
	{
		*how = checked->stop ? CWH_EXIT_STOPPED : checked->exit;
		checked->database = InvalidOid;
	}
	LWLockRelease(slots_lock);
	return has_extension;
}

/*
 * The worker's side
 */

/*
 * Exit callback of every process that may hold claims: release them, and leave
 * the slot if it is a worker.
 */
static void
holder_exit(int code, Datum arg)
{
	cwh_claim_release(NULL, -1);
	if (!my_slot)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	/* the others have read past what was claimed here and is pending still */
	for (int i = 0; i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];

		if (slot == my_slot || slot->database != my_slot->database ||
			slot->latch == NULL)
			continue;
		LWLockAcquire(slot_lock(slot), LW_EXCLUSIVE);
		slot->sweep = true;
		slot->nhints = 0;
		LWLockRelease(slot_lock(slot));
		SetLatch(slot->latch);
	}
	my_slot->pid = 0;
	my_slot->latch = NULL;
	if (my_slot->orphaned)
		my_slot->database = InvalidOid;
	if (shared->launcher)
		SetLatch(shared->launcher);
	LWLockRelease(slots_lock);
	ConditionVariableBroadcast(&shared->left);
	my_slot = NULL;
}

/* Register the exit callback, once in each process. */
static void
register_exit(void)
{
	if (!exit_registered)
		before_shmem_exit(holder_exit, 0);
	exit_registered = true;
}

/*
 * Attach this process to the slot that the launcher has reserved for it; false
 * if the slot has been taken back.
 */
bool
cwh_slot_attach(int32 token, CwhAssignment *assignment)
{
	WorkerSlot *slot = &shared->slots[(uint32) token >> 16];
	bool		ours;

	register_exit();
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	ours = OidIsValid(slot->database) && slot->pid == 0 && !slot->stop &&
		slot->generation == (uint16) (token & 0xffff);
	if (ours)
	{
		assignment->database = slot->database;
		assignment->number = slot->number;
		assignment->version_logged = slot->version_logged;
		slot->pid = MyProcPid;
		slot->latch = &MyProc->procLatch;
		my_slot = slot;
	}
	LWLockRelease(slots_lock);
	return ours;
}

/*
 * Take what this worker was told since the last call.  The caller has reset its
 * latch before, so that whatever comes too late for this call wakes it again.
 */
void
cwh_slot_take(CwhMail *mail)
{
	LWLockAcquire(slot_lock(my_slot), LW_EXCLUSIVE);
	mail->nhints = my_slot->nhints;
	memcpy(mail->hints, my_slot->hints, mail->nhints * sizeof(CwhHint));
	mail->sweep = my_slot->sweep;
	my_slot->nhints = 0;
	my_slot->sweep = false;
	mail->stop = my_slot->stop;
	LWLockRelease(slot_lock(my_slot));
}

/*
 * Returns the position up to which the WAL has to be flushed before this worker
 * sends the deliveries that it has just claimed.  A commit is visible before its
 * session can publish where it ends, but not before the session has counted it in
 * async_commits.  While any is counted, flush up to the commit of the claim, which
 * follows all commits that the claim can have seen.
 */
XLogRecPtr
cwh_claims_need(void)
{
	XLogRecPtr	committed;

	if (pg_atomic_read_u32(&shared->async_commits) > 0)
		return XactLastCommitEnd;
	LWLockAcquire(slot_lock(my_slot), LW_SHARED);
	committed = my_slot->committed;
	LWLockRelease(slot_lock(my_slot));
	return committed;
}

/*
 * Publish the state of this worker.  Called after every few deliveries, so the
 * lock that all share is taken only if the launcher has something to learn.
 */
void
cwh_slot_report(const CwhWorkerState *state)
{
	if (state->has_extension != my_slot->has_extension ||
		state->exit != my_slot->exit)
	{
		LWLockAcquire(slots_lock, LW_EXCLUSIVE);
		if (state->has_extension && !my_slot->has_extension)
		{
			my_slot->version_logged = false;
			if (shared->launcher)
				SetLatch(shared->launcher);
		}
		my_slot->has_extension = state->has_extension;
		my_slot->exit = state->exit;
		LWLockRelease(slots_lock);
	}
	LWLockAcquire(slot_lock(my_slot), LW_EXCLUSIVE);
	my_slot->halted = state->halted;
	my_slot->stats = state->stats;
	LWLockRelease(slot_lock(my_slot));
}

/*
 * Have the WAL flushed up to a position without waiting for the disk: the
 * launcher does that.  If there is no launcher, wait after all.
 */
void
cwh_flush_soon(XLogRecPtr upto)
{
	uint64		before = pg_atomic_read_u64(&shared->flush_upto);
	bool		asked = false;

	while (before < upto &&
		   !pg_atomic_compare_exchange_u64(&shared->flush_upto, &before, upto))
		;
	LWLockAcquire(slots_lock, LW_SHARED);
	if (shared->launcher)
	{
		SetLatch(shared->launcher);
		asked = true;
	}
	LWLockRelease(slots_lock);
	if (!asked)
		XLogFlush(upto);
}

/*
 * Have this worker's latch set when the WAL is flushed up to a position that
 * cwh_flush_soon() was given.  Look afterwards whether it has been meanwhile.
 */
void
cwh_await_flush(XLogRecPtr upto)
{
	(void) pg_atomic_exchange_u64(&my_slot->awaited, upto);
}

/*
 * Ids of deliveries
 */

/*
 * An id for a new delivery: microseconds since the beginning of 2026, or one
 * more than the last id, or than "above", if that is not less.  So ids ascend
 * over all sessions, however many emit at once.
 */
int64
cwh_next_id(TimestampTz now, int64 above)
{
	uint64		clock = (uint64) cwh_id_at(now);
	uint64		last = pg_atomic_read_u64(&shared->last_id);
	uint64		id;

	do
		id = Max(clock, Max(last, (uint64) above) + 1);
	while (!pg_atomic_compare_exchange_u64(&shared->last_id, &last, id));
	return (int64) id;
}

/* SQL: the same; 0 without shared memory. */
Datum
chatwebhook_next_delivery(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(shared ? cwh_next_id(GetCurrentTimestamp(), 0) : 0);
}

/*
 * Claims
 */

/* Fill in the key of a claim on a delivery of this database. */
static inline void
set_claim_key(ClaimKey *key, int64 id)
{
	key->id = id;
	key->database = MyDatabaseId;
	key->unused = 0;
}

/*
 * Claim a delivery whose row the caller has locked; false if another process
 * holds it, or if the table of claims is full.
 */
bool
cwh_claim(int64 id, const pg_uuid_t *webhook_id)
{
	ClaimKey	key;
	Claim	   *claim;
	bool		found;

	register_exit();
	set_claim_key(&key, id);
	LWLockAcquire(claims_lock, LW_EXCLUSIVE);
	claim = hash_search(claims, &key, HASH_ENTER_NULL, &found);
	if (claim && !found)
	{
		claim->pid = MyProcPid;
		claim->webhook_id = *webhook_id;
	}
	LWLockRelease(claims_lock);
	return claim && !found;
}

/* Find out which of these deliveries are claimed by this process. */
void
cwh_claims_mine(const int64 *ids, int n, bool *mine)
{
	LWLockAcquire(claims_lock, LW_SHARED);
	for (int i = 0; i < n; i++)
	{
		ClaimKey	key;
		Claim	   *claim;

		set_claim_key(&key, ids[i]);
		claim = hash_search(claims, &key, HASH_FIND, NULL);
		mine[i] = claim && claim->pid == MyProcPid;
	}
	LWLockRelease(claims_lock);
}

/* Release all claims of this process. */
static void
release_all_claims(void)
{
	HASH_SEQ_STATUS status;
	Claim	   *claim;

	LWLockAcquire(claims_lock, LW_EXCLUSIVE);
	hash_seq_init(&status, claims);
	while ((claim = hash_seq_search(&status)) != NULL)
		if (claim->pid == MyProcPid)
			hash_search(claims, &claim->key, HASH_REMOVE, NULL);
	LWLockRelease(claims_lock);
}

/*
 * Release this process's claims on n deliveries, or with a negative n all of
 * its claims.  Deliveries that another process has claimed are passed over.
 */
void
cwh_claim_release(const int64 *ids, int n)
{
	if (!claims)
		return;
	if (n < 0)
	{
		release_all_claims();
		return;
	}
	LWLockAcquire(claims_lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
	{
		ClaimKey	key;
		Claim	   *claim;

		set_claim_key(&key, ids[i]);
		claim = hash_search(claims, &key, HASH_FIND, NULL);
		if (claim && claim->pid == MyProcPid)
			hash_search(claims, &key, HASH_REMOVE, NULL);
	}
	LWLockRelease(claims_lock);
}

/* Does any process hold a claim on this delivery? */
bool
cwh_is_claimed(int64 id)
{
	ClaimKey	key;
	bool		found = false;

	if (claims)
	{
		set_claim_key(&key, id);
		LWLockAcquire(claims_lock, LW_SHARED);
		(void) hash_search(claims, &key, HASH_FIND, &found);
		LWLockRelease(claims_lock);
	}
	return found;
}

/* SQL: the same. */
Datum
chatwebhook_claimed(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cwh_is_claimed(PG_GETARG_INT64(0)));
}

/* SQL: for each webhook of this database, how many deliveries are claimed. */
Datum
chatwebhook_in_flight(PG_FUNCTION_ARGS)
{
	typedef struct Count
	{
		pg_uuid_t	webhook_id;
		int64		n;
	}			Count;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	HASH_SEQ_STATUS status;
	HASHCTL		info;
	HTAB	   *counts;
	Claim	   *claim;
	Count	   *count;
	pg_uuid_t  *claimed;
	int			nclaimed = 0;

	cwh_init_materialized(fcinfo);
	if (!claims)
		return (Datum) 0;

	/* copy first: nothing that could fail while the lock is held */
	claimed = palloc(MAX_CLAIMS * sizeof(pg_uuid_t));
	LWLockAcquire(claims_lock, LW_SHARED);
	hash_seq_init(&status, claims);
	while ((claim = hash_seq_search(&status)) != NULL)
		if (claim->key.database == MyDatabaseId && nclaimed < MAX_CLAIMS)
			claimed[nclaimed++] = claim->webhook_id;
	LWLockRelease(claims_lock);

	memset(&info, 0, sizeof(info));
	info.keysize = UUID_LEN;
	info.entrysize = sizeof(Count);
	info.hcxt = CurrentMemoryContext;
	counts = hash_create("chatwebhook in flight", 64, &info,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < nclaimed; i++)
	{
		bool		found;

		count = hash_search(counts, &claimed[i], HASH_ENTER, &found);
		count->n = found ? count->n + 1 : 1;
	}
	hash_seq_init(&status, counts);
	while ((count = hash_seq_search(&status)) != NULL)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		values[0] = UUIDPGetDatum(&count->webhook_id);
		values[1] = Int64GetDatum(count->n);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* May the current user read the view of the workers? */
static bool
may_see_workers(void)
{
	Oid			view = get_relname_relid("worker_status",
										 get_namespace_oid("chatwebhook", false));

	return OidIsValid(view) &&
		pg_class_aclcheck(view, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* SQL: the workers of this database, with their figures. */
Datum
chatwebhook_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	cwh_init_materialized(fcinfo);
	if (!may_see_workers())
		return (Datum) 0;
	for (int i = 0; shared && i < shared->nslots; i++)
	{
		WorkerSlot *slot = &shared->slots[i];
		CwhWorkerStats stats;
		Datum		values[8];
		bool		nulls[8] = {false};
		int			pid;

		LWLockAcquire(slots_lock, LW_SHARED);
		pid = slot->database == MyDatabaseId && slot->has_extension ?
			slot->pid : 0;
		LWLockAcquire(slot_lock(slot), LW_SHARED);
		stats = slot->stats;
		LWLockRelease(slot_lock(slot));
		LWLockRelease(slots_lock);
		if (pid == 0)
			continue;

		values[0] = Int32GetDatum(pid);
		values[1] = TimestampTzGetDatum(stats.started_at);
		values[2] = Int32GetDatum(stats.in_flight);
		values[3] = Int64GetDatum(stats.claimed);
		values[4] = Int64GetDatum(stats.delivered);
		values[5] = Int64GetDatum(stats.failed);
		if (stats.last_error[0] != '\0')
			values[6] = CStringGetTextDatum(stats.last_error);
		else
			nulls[6] = true;
		values[7] = TimestampTzGetDatum(stats.last_activity_at);
		nulls[7] = stats.last_activity_at == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Install the hooks and callbacks of this file; called when the library is
 * loaded.  Only a preloaded library gets shared memory.
 */
void
cwh_shared_install(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = create_memory;
}
