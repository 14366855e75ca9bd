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
#include "storage/lwlock.h"
#include "utils/guc.h"

#include "initial_copy.h"
#include "shared.h"

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

/* Is an item the copy of this name in this database? */
static bool
is_copy(int i, const char *name)
{
	return cwh_copies->items[i].database == MyDatabaseId &&
		strncmp(cwh_copies->items[i].name, name, NAMEDATALEN - 1) == 0;
}

/* Remove an item. */
static void
remove_item(int i)
{
	cwh_copies->n--;
	memmove(&cwh_copies->items[i], &cwh_copies->items[i + 1],
			(cwh_copies->n - i) * sizeof(cwh_copies->items[0]));
}

/*
 * Note that this WAL sender has copied the events.  A repetition of a copy that
 * failed on the other side is the same copy.
 */
void
cwh_initial_copy_add(void)
{
	LWLockAcquire(cwh_copies->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cwh_copies->n; i++)
		if (is_copy(i, application_name))
			remove_item(i--);
	/* the oldest can be that of a database without an outbox */
	if (cwh_copies->n == CWH_MAX_COPIES)
		remove_item(0);
	cwh_copies->items[cwh_copies->n].database = MyDatabaseId;
	strlcpy(cwh_copies->items[cwh_copies->n++].name, application_name,
			NAMEDATALEN);
	LWLockRelease(cwh_copies->lock);
}

/* Get the names of the copies that were made in this database. */
int
cwh_initial_copies(char names[CWH_MAX_COPIES][NAMEDATALEN])
{
	int			n = 0;

	LWLockAcquire(cwh_copies->lock, LW_SHARED);
	for (int i = 0; i < cwh_copies->n; i++)
		if (cwh_copies->items[i].database == MyDatabaseId)
			strlcpy(names[n++], cwh_copies->items[i].name, NAMEDATALEN);
	LWLockRelease(cwh_copies->lock);
	return n;
}

/* Forget the copies of these names. */
void
cwh_forget_initial_copies(char names[CWH_MAX_COPIES][NAMEDATALEN], int n)
{
	if (n == 0)
		return;
	LWLockAcquire(cwh_copies->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cwh_copies->n; i++)
		for (int j = 0; j < n; j++)
			if (is_copy(i, names[j]))
			{
				remove_item(i--);
				break;
			}
	LWLockRelease(cwh_copies->lock);
}
