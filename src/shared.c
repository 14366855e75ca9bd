/*
 * shared.c
 *		What processes tell each other in shared memory.
 *
 * A worker has a slot: which database it serves, how to wake it, hints about
 * what it should look at, and its figures.  The launcher reserves slots and
 * frees them; the worker attaches to its own.
 *
 * A claim says that a process holds a delivery.  It has to last exactly as
 * long as that process does: a worker that exits drops its claims on the way
 * out, and one that is killed takes the whole of shared memory with it, since
 * the postmaster then starts afresh.  So a claim needs no lease in the table
 * and no expiry, and what a dead worker held is free at once.
 *
 * Locks: locks[0] protects the slots' identity, the launcher's mail and the
 * bars; locks[1] the claims; locks[2 + n] the hints and figures of slot n.
 * One that holds locks[0] may take a slot's lock, never the other way round.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "chatwebhook.h"
#include "compat.h"

#define MAX_CLAIMS		16384
#define MAX_POKES		32
#define MAX_BARS		32

/* How long DROP DATABASE and the like wait for our workers to leave. */
#define STOP_TIMEOUT_MS	5000

/* A webhook whose connector has taken a worker with it. */
#define MAX_CULPRITS	16

typedef struct Culprit
{
	Oid			database;
	pg_uuid_t	webhook_id;
} Culprit;

typedef struct WorkerSlot
{
	Oid			database;		/* InvalidOid: free */
	uint16		generation;		/* counts who had the slot */
	bool		orphan;			/* its launcher is gone: frees itself */
	int			number;			/* 0 for the first worker of a database */
	int			pid;			/* 0: not attached */
	Latch	   *latch;			/* null: not attached */
	bool		has_extension;	/* the worker has found something to do */
	bool		told;			/* the log says that the version is another */
	bool		stop;			/* asked to leave */
	CwhExit		how;			/* how it ended */

	/* under the slot's own lock */
	bool		sweep;			/* look at every webhook */
	bool		halted;			/* claims nothing now: hints do not wake it */
	XLogRecPtr	committed;		/* where what the hints tell of was committed */
	int			nhints;
	CwhHint		hints[CWH_MAX_HINTS];
	CwhWorkerStats stats;
} WorkerSlot;

typedef struct Shared
{
	Latch	   *launcher;		/* null: not running */
	bool		look_at_all;	/* the launcher should look at every database */
	int			npokes;
	Oid			pokes[MAX_POKES];	/* or at these */
	int			nbars;
	Oid			bars[MAX_BARS]; /* databases that must be left alone, once for
								 * each session that wants one */
	ConditionVariable left;		/* a worker has left */
	ConditionVariable settled;	/* some deliveries were settled */
	int			nculprits;
	Culprit		culprits[MAX_CULPRITS]; /* webhooks to be disabled, by
										 * slots_lock */
	pg_atomic_uint64 last_id;	/* the last delivery's; see cwh_next_id() */
	pg_atomic_uint64 flush_upto;	/* WAL that the launcher is to flush */
	int			nslots;
	WorkerSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} Shared;

typedef struct ClaimKey
{
	int64		id;
	Oid			database;
	uint32		unused;			/* always 0, since the key is hashed whole */
} ClaimKey;

typedef struct Claim
{
	ClaimKey	key;
	int			pid;			/* who holds it */
	pg_uuid_t	webhook_id;
} Claim;

PG_FUNCTION_INFO_V1(chatwebhook_in_flight);
PG_FUNCTION_INFO_V1(chatwebhook_workers);
PG_FUNCTION_INFO_V1(chatwebhook_claimed);
PG_FUNCTION_INFO_V1(chatwebhook_wake);

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#ifdef CWH_HAS_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

static Shared *shared = NULL;
static HTAB *claims = NULL;
static LWLockPadded *locks = NULL;

static WorkerSlot *my_slot = NULL;	/* in a worker */
static bool exit_registered = false;
static int	nmy_bars = 0;		/* in a session that bars databases */
static Oid	my_bars[MAX_BARS];

/* What this transaction tells the workers when it commits. */
static CwhHint pending_hints[CWH_MAX_HINTS];
static int	npending_hints = 0;
static bool pending_sweep = false;

#define slots_lock		(&locks[0].lock)
#define claims_lock		(&locks[1].lock)
#define gates_lock		(&locks[2].lock)
#define slot_lock(s)	(&locks[3 + ((s) - shared->slots)].lock)

/* Bytes of shared memory for the slots. */
static Size
slots_size(void)
{
	return add_size(offsetof(Shared, slots),
					mul_size(max_worker_processes, sizeof(WorkerSlot)));
}

/* Ask for shared memory, while that is possible. */
static void
request_memory(void)
{
#ifdef CWH_HAS_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	RequestAddinShmemSpace(add_size(slots_size(),
									hash_estimate_size(MAX_CLAIMS, sizeof(Claim))));
	RequestAddinShmemSpace(cwh_gate_size());
	RequestNamedLWLockTranche("chatwebhook", 3 + max_worker_processes);
}

/* Make or find our shared memory. */
static void
startup(void)
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
		shared->look_at_all = true;
		pg_atomic_init_u64(&shared->last_id, 0);
		pg_atomic_init_u64(&shared->flush_upto, 0);
		ConditionVariableInit(&shared->left);
		ConditionVariableInit(&shared->settled);
	}
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(ClaimKey);
	info.entrysize = sizeof(Claim);
	claims = cwh_shmem_init_hash("chatwebhook claims", MAX_CLAIMS, &info,
								 HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	locks = GetNamedLWLockTranche("chatwebhook");
	cwh_gate_startup(gates_lock);
	LWLockRelease(AddinShmemInitLock);
}

/* Is there shared memory, that is, was the library loaded in advance? */
bool
cwh_shared_available(void)
{
	return shared != NULL;
}

/*
 * Hints and wakes
 */

/* Add a hint to those that a slot has not read yet. */
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
 * Remember to tell the workers, when this transaction commits, that a webhook
 * has deliveries to claim from this position on, so many of them new.
 */
void
cwh_hint(const pg_uuid_t *webhook_id, TimestampTz due, int64 id, int n)
{
	CwhHint		hint;

	hint.webhook_id = *webhook_id;
	hint.due = due;
	hint.id = id;
	hint.n = n;
	add_hint(pending_hints, &npending_hints, &pending_sweep, &hint);
}

/* The same for every webhook. */
void
cwh_sweep_all(void)
{
	pending_sweep = true;
	npending_hints = 0;
}

/* Give the workers of this database what this transaction had to say. */
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
		/* a signal to a process that sleeps: the dearest part of an emit */
		if (wake)
			SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
}

/* Transaction callback, registered once and inherited by every process. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (shared && (npending_hints > 0 || pending_sweep))
				publish_hints();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	npending_hints = 0;
	pending_sweep = false;
}

/* SQL: tell the workers at commit to look at this webhook from the start. */
Datum
chatwebhook_wake(PG_FUNCTION_ARGS)
{
	cwh_hint(PG_GETARG_UUID_P(0), DT_NOBEGIN, 0, 0);
	PG_RETURN_VOID();
}

/*
 * The launcher's side
 */

/*
 * The launcher is gone, and its workers go with it: the next one could neither
 * watch nor stop them.
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
		slot->orphan = true;
		if (slot->latch)
			SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
}

/* Take the part of the launcher. */
void
cwh_launcher_attach(void)
{
	before_shmem_exit(launcher_exit, 0);
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	shared->launcher = &MyProc->procLatch;
	shared->look_at_all = true;
	LWLockRelease(slots_lock);
}

/*
 * Have WAL flushed up to there while the caller goes on: the launcher waits for
 * the disk in its stead.
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

/* Flush what workers have asked for. */
void
cwh_launcher_flush(void)
{
	XLogFlush(pg_atomic_read_u64(&shared->flush_upto));
}

/*
 * Databases that the launcher was asked to look at; true: all of them.
 */
bool
cwh_launcher_take(List **databases)
{
	Oid			pokes[MAX_POKES];
	int			npokes;
	bool		all;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	all = shared->look_at_all;
	npokes = shared->npokes;
	memcpy(pokes, shared->pokes, npokes * sizeof(Oid));
	shared->look_at_all = false;
	shared->npokes = 0;
	LWLockRelease(slots_lock);

	*databases = NIL;
	for (int i = 0; i < npokes; i++)
		*databases = list_append_unique_oid(*databases, pokes[i]);
	return all;
}

/* Ask the launcher to look at a database; InvalidOid: at all. */
void
cwh_launcher_poke(Oid database)
{
	if (!shared)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (!OidIsValid(database) || shared->npokes == MAX_POKES)
		shared->look_at_all = true;
	else
		shared->pokes[shared->npokes++] = database;
	if (shared->launcher)
		SetLatch(shared->launcher);
	LWLockRelease(slots_lock);
}

/*
 * Reserve a slot for a worker about to be started, if that may be.  The worker
 * attaches with the token.
 */
int
cwh_slot_reserve(Oid database, int number, bool told, int32 *token)
{
	int			found = CWH_SLOT_NONE;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nbars; i++)
		if (shared->bars[i] == database)
			found = CWH_SLOT_BARRED;
	for (int i = 0; i < shared->nslots && found == CWH_SLOT_NONE; i++)
	{
		WorkerSlot *slot = &shared->slots[i];
		uint16		generation = slot->generation + 1;

		if (OidIsValid(slot->database))
			continue;
		memset(slot, 0, sizeof(WorkerSlot));
		slot->generation = generation;
		slot->database = database;
		slot->number = number;
		slot->told = told;
		slot->how = CWH_EXIT_CRASHED;
		*token = (int32) (((uint32) i << 16) | generation);
		found = i;
	}
	LWLockRelease(slots_lock);
	return found;
}

/* Free the slot of a worker that has ended, and learn how it did. */
void
cwh_slot_free(int slotno, CwhExit *how, bool *has_extension)
{
	WorkerSlot *slot = &shared->slots[slotno];

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	*how = slot->stop ? CWH_EXIT_STOPPED : slot->how;
	*has_extension = slot->has_extension;
	slot->database = InvalidOid;
	LWLockRelease(slots_lock);
}

/* Has the worker said that its database has the extension? */
bool
cwh_slot_has_extension(int slotno)
{
	bool		result;

	LWLockAcquire(slots_lock, LW_SHARED);
	result = shared->slots[slotno].has_extension;
	LWLockRelease(slots_lock);
	return result;
}

/*
 * The worker's side
 */

/* This process is going: drop its claims and leave its slot. */
static void
holder_exit(int code, Datum arg)
{
	cwh_claim_release_all();
	if (!my_slot)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	/* what we claimed and did not settle is for the others, from the start */
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
	if (my_slot->orphan)
		my_slot->database = InvalidOid;
	if (shared->launcher)
		SetLatch(shared->launcher);
	LWLockRelease(slots_lock);
	ConditionVariableBroadcast(&shared->left);
	my_slot = NULL;
}

/* Make sure that what this process holds is given back when it exits. */
static void
register_exit(void)
{
	if (!exit_registered)
		before_shmem_exit(holder_exit, 0);
	exit_registered = true;
}

/*
 * Attach to the slot that the launcher reserved; false if it is not ours any
 * more.
 */
bool
cwh_slot_attach(int32 token, Oid *database, int *number)
{
	WorkerSlot *slot = &shared->slots[(uint32) token >> 16];
	bool		ours;

	register_exit();
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	ours = OidIsValid(slot->database) && slot->pid == 0 && !slot->stop &&
		slot->generation == (uint16) (token & 0xffff);
	if (ours)
	{
		*database = slot->database;
		*number = slot->number;
		slot->pid = MyProcPid;
		slot->latch = &MyProc->procLatch;
		my_slot = slot;
	}
	LWLockRelease(slots_lock);
	return ours;
}

/* Tell the launcher that the database has the extension. */
void
cwh_slot_announce(void)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	my_slot->has_extension = true;
	my_slot->told = false;
	if (shared->launcher)
		SetLatch(shared->launcher);
	LWLockRelease(slots_lock);
}

/* Say how this worker ends. */
void
cwh_slot_set_exit(CwhExit how)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	my_slot->how = how;
	LWLockRelease(slots_lock);
}

/* Has one before this worker logged that the extension is of another version? */
bool
cwh_slot_told(void)
{
	return my_slot->told;
}

/* Has somebody asked this worker to leave its database? */
bool
cwh_slot_stop_requested(void)
{
	return ((volatile WorkerSlot *) my_slot)->stop;
}

/*
 * Take the hints that came since the last time.  What they tell of was committed
 * up to there, but may not be on disk yet, if its session has turned
 * synchronous_commit off.
 */
int
cwh_slot_take_hints(CwhHint *hints, bool *sweep, XLogRecPtr *committed)
{
	int			n;

	LWLockAcquire(slot_lock(my_slot), LW_EXCLUSIVE);
	n = my_slot->nhints;
	memcpy(hints, my_slot->hints, n * sizeof(CwhHint));
	*sweep = my_slot->sweep;
	*committed = my_slot->committed;
	my_slot->nhints = 0;
	my_slot->sweep = false;
	LWLockRelease(slot_lock(my_slot));
	return n;
}

/*
 * Say whether this worker claims nothing until it says otherwise, since the
 * kill switch is on: commits need not wake it, and it sweeps when it goes on.
 */
void
cwh_slot_halt(bool halted)
{
	LWLockAcquire(slot_lock(my_slot), LW_EXCLUSIVE);
	my_slot->halted = halted;
	LWLockRelease(slot_lock(my_slot));
}

/* Show the worker's figures. */
void
cwh_slot_update_stats(const CwhWorkerStats *stats)
{
	LWLockAcquire(slot_lock(my_slot), LW_EXCLUSIVE);
	my_slot->stats = *stats;
	LWLockRelease(slot_lock(my_slot));
}

/*
 * Ask the workers of a database to leave it, and wait until they have, for a
 * statement that needs the database for itself.  None is started there before
 * cwh_unbar_workers() is called.
 */
void
cwh_stop_workers(Oid database)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		present;

	if (!shared)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (shared->nbars < MAX_BARS)
	{
		shared->bars[shared->nbars++] = database;
		my_bars[nmy_bars++] = database;
	}
	LWLockRelease(slots_lock);

	ConditionVariablePrepareToSleep(&shared->left);
	do
	{
		present = false;
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
		if (present)
			(void) ConditionVariableTimedSleep(&shared->left, 100,
											   PG_WAIT_EXTENSION);
	} while (present &&
			 !TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
										 STOP_TIMEOUT_MS));
	ConditionVariableCancelSleep();
}

/* The statements that asked workers to leave are over. */
void
cwh_unbar_workers(void)
{
	if (nmy_bars == 0)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	while (nmy_bars > 0)
	{
		Oid			database = my_bars[--nmy_bars];

		for (int i = 0; i < shared->nbars; i++)
		{
			if (shared->bars[i] != database)
				continue;
			shared->bars[i] = shared->bars[--shared->nbars];
			break;
		}
	}
	LWLockRelease(slots_lock);
}

/* The id that a delivery of this time has at least. */
int64
cwh_id_at(TimestampTz at)
{
	/* 2026-01-01 UTC in PostgreSQL's reckoning, from 2000-01-01 */
	static const TimestampTz start = INT64CONST(9497) * USECS_PER_DAY;

	return at > start ? at - start : 0;
}

/* The next worker is to disable this webhook. */
void
cwh_culprit_add(const pg_uuid_t *webhook_id)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (shared->nculprits < MAX_CULPRITS)
	{
		Culprit    *culprit = &shared->culprits[shared->nculprits++];

		culprit->database = MyDatabaseId;
		culprit->webhook_id = *webhook_id;
	}
	LWLockRelease(slots_lock);
}

/* Take a webhook of this database that is to be disabled. */
bool
cwh_culprit_take(pg_uuid_t *webhook_id)
{
	bool		found = false;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nculprits && !found; i++)
	{
		if (shared->culprits[i].database != MyDatabaseId)
			continue;
		*webhook_id = shared->culprits[i].webhook_id;
		shared->culprits[i] = shared->culprits[--shared->nculprits];
		found = true;
	}
	LWLockRelease(slots_lock);
	return found;
}

/*
 * An id for a delivery: microseconds since 2026-01-01, or one more than the
 * last one's if that is not less.  So ids ascend over all sessions, whatever
 * they do at the same time, and go on behind a restart.
 */
int64
cwh_next_id(TimestampTz now)
{
	uint64		clock = (uint64) cwh_id_at(now);
	uint64		last = pg_atomic_read_u64(&shared->last_id);
	uint64		id;

	do
		id = Max(clock, last + 1);
	while (!pg_atomic_compare_exchange_u64(&shared->last_id, &last, id));
	return (int64) id;
}

/* No id up to this one is to be given out again: it is in the queue. */
void
cwh_id_seen(int64 id)
{
	uint64		last = pg_atomic_read_u64(&shared->last_id);

	while (last < (uint64) id &&
		   !pg_atomic_compare_exchange_u64(&shared->last_id, &last, (uint64) id))
		;
}

/*
 * Claims
 */

static inline void
set_claim_key(ClaimKey *key, int64 id)
{
	key->id = id;
	key->database = MyDatabaseId;
	key->unused = 0;
}

/*
 * Claim a delivery whose row the caller has locked; false if another process
 * holds it, or if there is no room to say so.
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

/* Which of these deliveries are claimed by this process? */
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

/* Give up the claims of this process on these deliveries. */
void
cwh_claim_release(const int64 *ids, int n)
{
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

/* Give up all claims of this process. */
void
cwh_claim_release_all(void)
{
	HASH_SEQ_STATUS status;
	Claim	   *claim;

	if (!claims)
		return;
	LWLockAcquire(claims_lock, LW_EXCLUSIVE);
	hash_seq_init(&status, claims);
	while ((claim = hash_seq_search(&status)) != NULL)
		if (claim->pid == MyProcPid)
			hash_search(claims, &claim->key, HASH_REMOVE, NULL);
	LWLockRelease(claims_lock);
}

/* SQL: is this delivery claimed by anybody? */
Datum
chatwebhook_claimed(PG_FUNCTION_ARGS)
{
	ClaimKey	key;
	bool		found = false;

	if (claims)
	{
		set_claim_key(&key, PG_GETARG_INT64(0));
		LWLockAcquire(claims_lock, LW_SHARED);
		(void) hash_search(claims, &key, HASH_FIND, &found);
		LWLockRelease(claims_lock);
	}
	PG_RETURN_BOOL(found);
}

/* SQL: webhooks of this database and how many of their deliveries are held. */
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
	pg_uuid_t  *held;
	int			nheld = 0;

	cwh_init_materialized(fcinfo);
	if (!claims)
		return (Datum) 0;

	/* nothing that could fail while the lock is held */
	held = palloc(MAX_CLAIMS * sizeof(pg_uuid_t));
	LWLockAcquire(claims_lock, LW_SHARED);
	hash_seq_init(&status, claims);
	while ((claim = hash_seq_search(&status)) != NULL)
		if (claim->key.database == MyDatabaseId && nheld < MAX_CLAIMS)
			held[nheld++] = claim->webhook_id;
	LWLockRelease(claims_lock);

	memset(&info, 0, sizeof(info));
	info.keysize = UUID_LEN;
	info.entrysize = sizeof(Count);
	info.hcxt = CurrentMemoryContext;
	counts = hash_create("chatwebhook in flight", 64, &info,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < nheld; i++)
	{
		bool		found;

		count = hash_search(counts, &held[i], HASH_ENTER, &found);
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

/* SQL: the workers of this database and their figures. */
Datum
chatwebhook_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	cwh_init_materialized(fcinfo);
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
 * Waiting for settles
 */

/* Wake those who wait for deliveries to be settled. */
void
cwh_settled_broadcast(void)
{
	ConditionVariableBroadcast(&shared->settled);
}

/* The condition variable that settles broadcast; null without preloading. */
ConditionVariable *
cwh_settled(void)
{
	return shared ? &shared->settled : NULL;
}

/* Called when the library is loaded. */
void
cwh_shared_install(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
#ifdef CWH_HAS_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
#else
	request_memory();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}
