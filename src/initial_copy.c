/*
 * initial_copy.c
 *		Makes the initial copy of a subscription to an outbox complete and ordered,
 *		and notices that it was made.
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
 * The subscriber numbers deliveries in the order of the rows.  A COPY reads the
 * table as it is stored, which is not the order of emission once vacuum has freed
 * space in it.  So the WAL sender reads by id, which ascends with time.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "replication/walsender.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/rls.h"

#include "initial_copy.h"
#include "shared.h"

PG_FUNCTION_INFO_V1(chatwebhook_forget_copies);

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
 * The table event, if this statement copies it to a subscriber; else null.  With a
 * row filter, the statement copies a query.
 */
static RangeVar *
copied_table(Node *statement)
{
	CopyStmt   *copy = (CopyStmt *) statement;
	Node	   *from = NULL;

	if (!am_walsender || !IsA(statement, CopyStmt) || copy->is_from)
		return NULL;
	if (copy->query == NULL)
		from = (Node *) copy->relation;
	else if (IsA(copy->query, SelectStmt) &&
			 list_length(((SelectStmt *) copy->query)->fromClause) == 1)
		from = linitial(((SelectStmt *) copy->query)->fromClause);
	return is_event_table(from) ? (RangeVar *) from : NULL;
}

/* Does this statement copy the events to a subscriber? */
bool
cwh_is_initial_copy(Node *statement)
{
	return copied_table(statement) != NULL;
}

/*
 * Raise an error if row-level security would leave out events.  A COPY with
 * row_security = on, the default, would just be empty.
 */
static void
check_row_security(RangeVar *table)
{
	Oid			relid = RangeVarGetRelid(table, NoLock, true);

	if (OidIsValid(relid) &&
		check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security would hide events from role \"%s\"",
						GetUserNameFromId(GetUserId(), false)),
				 errhint("Subscribe with a role that has BYPASSRLS, or with a superuser.")));
}

/* A reference to a column. */
static Node *
column_ref(Node *field)
{
	ColumnRef  *ref = makeNode(ColumnRef);

	ref->fields = list_make1(field);
	ref->location = -1;
	return (Node *) ref;
}

/* A column to select. */
static ResTarget *
column_target(Node *field)
{
	ResTarget  *target = makeNode(ResTarget);

	target->val = column_ref(field);
	target->location = -1;
	return target;
}

/* Have a COPY of the table copy a query of the same rows and columns. */
static void
copy_as_query(CopyStmt *copy)
{
	SelectStmt *query = makeNode(SelectStmt);
	ListCell   *cell;

	foreach(cell, copy->attlist)
		query->targetList = lappend(query->targetList,
									column_target(lfirst(cell)));
	if (copy->attlist == NIL)
		query->targetList = list_make1(column_target((Node *) makeNode(A_Star)));
	copy->relation->inh = false;
	query->fromClause = list_make1(copy->relation);
	copy->relation = NULL;
	copy->attlist = NIL;
	copy->query = (Node *) query;
}

/*
 * Return what to execute instead of an initial copy: the same in the order of
 * emission.  An error if not all events would be copied.
 */
PlannedStmt *
cwh_plan_initial_copy(PlannedStmt *pstmt)
{
	PlannedStmt *result = copyObject(pstmt);
	CopyStmt   *copy = castNode(CopyStmt, result->utilityStmt);
	SortBy	   *sort = makeNode(SortBy);

	check_row_security(copied_table(result->utilityStmt));
	if (copy->query == NULL)
		copy_as_query(copy);
	sort->node = column_ref((Node *) makeString("id"));
	sort->location = -1;
	castNode(SelectStmt, copy->query)->sortClause = list_make1(sort);
	return result;
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

/* SQL: forget all copies that were made in this database. */
Datum
chatwebhook_forget_copies(PG_FUNCTION_ARGS)
{
	char		names[CWH_MAX_COPIES][NAMEDATALEN];

	if (cwh_preloaded)
		cwh_forget_initial_copies(names, cwh_initial_copies(names));
	PG_RETURN_VOID();
}
