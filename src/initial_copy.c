/*
 * initial_copy.c
 *		Notices that a subscription has copied the events of an outbox.
 *
 * The slot of a new subscription confirms all events from the start, although the
 * subscriber ignores them until its initial copy has brought those that are there.
 * If the copy is delayed, for want of a free worker, say, the slot confirms events
 * that the subscriber does not have.  So a slot counts only once a copy was made,
 * which is a COPY of the table event that one of our WAL senders executes.
 *
 * The WAL sender is in a read-only transaction, so it notes the copy in shared
 * memory, from which the worker takes it (see handover.c).  If the server crashes
 * in between, confirm_copy() says what has been forgotten.
 *
 * The copy has its own replication slot, which exists until its rows are committed
 * by the subscriber, and holds up the outbox as long.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "initial_copy.h"

typedef struct Copy
{
	Oid			database;
	char		name[NAMEDATALEN];	/* application_name, which is that of the
									 * copy's slot unless the connection sets
									 * another */
} Copy;

typedef struct Copies
{
	LWLock	   *lock;
	int			n;
	Copy		items[CWH_MAX_COPIES];	/* the oldest first */
} Copies;

static Copies *copies = NULL;	/* null unless the library was preloaded */

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* shmem_request_hook: ask for shared memory and the lock. */
static void
request_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(sizeof(Copies));
	RequestNamedLWLockTranche("chatwebhook initial copies", 1);
}

/* shmem_startup_hook: create the shared memory. */
static void
create_memory(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	copies = ShmemInitStruct("chatwebhook initial copies", sizeof(Copies), &found);
	if (!found)
	{
		memset(copies, 0, sizeof(Copies));
		copies->lock = &GetNamedLWLockTranche("chatwebhook initial copies")->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Install the hooks of this file; called when the library is loaded. */
void
cwh_initial_copy_install(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = create_memory;
}

/* Is this the table event? */
static bool
is_event_table(const Node *from)
{
	const RangeVar *table = (const RangeVar *) from;

	return from && IsA(from, RangeVar) && table->schemaname &&
		strcmp(table->schemaname, "chatwebhook") == 0 &&
		strcmp(table->relname, "event") == 0;
}

/*
 * Does this statement copy the events to a subscriber?  With a row filter, it
 * copies a query.
 */
bool
cwh_is_initial_copy(Node *statement)
{
	CopyStmt   *copy = (CopyStmt *) statement;
	List	   *from;

	if (!am_walsender || !IsA(statement, CopyStmt) || copy->is_from)
		return false;
	if (copy->query == NULL)
		return is_event_table((Node *) copy->relation);
	if (!IsA(copy->query, SelectStmt))
		return false;
	from = ((SelectStmt *) copy->query)->fromClause;
	return list_length(from) == 1 && is_event_table(linitial(from));
}

/* Remove a copy. */
static void
remove_item(int i)
{
	copies->n--;
	memmove(&copies->items[i], &copies->items[i + 1],
			(copies->n - i) * sizeof(Copy));
}

/*
 * Note that this WAL sender has copied the events.  A repetition of a copy that
 * failed on the other side is the same copy.
 */
void
cwh_initial_copy_add(void)
{
	Copy		copy;

	memset(&copy, 0, sizeof(copy));
	copy.database = MyDatabaseId;
	strlcpy(copy.name, application_name, NAMEDATALEN);
	LWLockAcquire(copies->lock, LW_EXCLUSIVE);
	for (int i = 0; i < copies->n; i++)
		if (memcmp(&copies->items[i], &copy, sizeof(copy)) == 0)
			remove_item(i--);
	/* the oldest can be that of a database without an outbox */
	if (copies->n == CWH_MAX_COPIES)
		remove_item(0);
	copies->items[copies->n++] = copy;
	LWLockRelease(copies->lock);
}

/* Get the names of the copies that were made in this database. */
int
cwh_initial_copies(char names[CWH_MAX_COPIES][NAMEDATALEN])
{
	int			n = 0;

	LWLockAcquire(copies->lock, LW_SHARED);
	for (int i = 0; i < copies->n; i++)
		if (copies->items[i].database == MyDatabaseId)
			strlcpy(names[n++], copies->items[i].name, NAMEDATALEN);
	LWLockRelease(copies->lock);
	return n;
}

/* Forget the copies of these names. */
void
cwh_forget_initial_copies(char names[CWH_MAX_COPIES][NAMEDATALEN], int n)
{
	if (n == 0)
		return;
	LWLockAcquire(copies->lock, LW_EXCLUSIVE);
	for (int i = 0; i < copies->n; i++)
		for (int j = 0; j < n; j++)
			if (copies->items[i].database == MyDatabaseId &&
				strcmp(copies->items[i].name, names[j]) == 0)
			{
				remove_item(i--);
				break;
			}
	LWLockRelease(copies->lock);
}
