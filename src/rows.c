/*
 * rows.c
 *		Inserts and updates rows of the extension's own tables, without SQL.
 *
 * This is used for the rows that every event and every delivery needs.  The
 * role that emits has no privileges on these tables, and no trigger or rule may
 * interfere.  Planner and executor would also cost more than the rows
 * themselves.  Rows are buffered, and inserted together.
 *
 * It runs in sessions and in workers, within the caller's transaction, and
 * begins or ends none.  Tables are locked in RowExclusiveLock mode until that
 * transaction ends, their indexes until cwh_rows_close().
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "nodes/pg_list.h"
#include "nodes/primnodes.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "changes.h"
#include "compat.h"
#include "rows.h"

/* The indexes of a table. */
typedef struct Indexes
{
	Oid			table;
	bool		valid;			/* neither it nor an index has changed since */
	MemoryContext context;		/* of the arrays */
	int			n;
	Oid		   *oids;
	IndexInfo **infos;
} Indexes;

static Indexes known_indexes[CWH_RELATIONS];	/* of tables opened so far */
static uint64 changes = 0;		/* counts relcache invalidations */

/* Relcache callback: a relation has changed, or all if relid is invalid. */
static void
on_relation_change(Datum arg, Oid relid)
{
	changes++;
	for (int i = 0; i < CWH_RELATIONS; i++)
	{
		Indexes    *indexes = &known_indexes[i];

		if (relid == InvalidOid || relid == indexes->table)
			indexes->valid = false;
		for (int j = 0; j < indexes->n; j++)
			if (relid == indexes->oids[j])
				indexes->valid = false;
	}
}

/* Read a table's indexes from the catalogs. */
static void
load_indexes(Indexes *indexes, Relation relation)
{
	uint64		before = changes;
	List	   *list = RelationGetIndexList(relation);
	ListCell   *cell;
	int			n = 0;
	Oid		   *oids;
	IndexInfo **infos;
	MemoryContext context;
	MemoryContext oldcontext;

	context = AllocSetContextCreate(CurrentMemoryContext,
									"chatwebhook indexes",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	oids = palloc((list_length(list) + 1) * sizeof(Oid));
	infos = palloc((list_length(list) + 1) * sizeof(IndexInfo *));
	foreach(cell, list)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		oids[n] = RelationGetRelid(index);
		infos[n++] = BuildIndexInfo(index);
		index_close(index, AccessShareLock);
	}
	MemoryContextSwitchTo(oldcontext);
	list_free(list);

	/*
	 * A caller up the stack may still use the old arrays, so they live on
	 * until the transaction ends.
	 */
	if (indexes->context)
		MemoryContextSetParent(indexes->context, TopTransactionContext);
	MemoryContextSetParent(context, CacheMemoryContext);
	indexes->table = RelationGetRelid(relation);
	indexes->context = context;
	indexes->n = n;
	indexes->oids = oids;
	indexes->infos = infos;
	/* after an invalidation during the load, load again next time */
	indexes->valid = before == changes;
}

/* Get the indexes of a table, which must be locked. */
static const Indexes *
get_indexes(CwhRelation table, Relation relation)
{
	static bool registered = false;
	Indexes    *indexes = &known_indexes[table];

	if (!registered)
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	registered = true;
	if (!indexes->valid || indexes->table != RelationGetRelid(relation))
		load_indexes(indexes, relation);
	return indexes;
}

/*
 * Prepare to insert rows into a table.  It is an error if the table has fewer
 * columns than the caller needs, because it is of an older version.  Call this
 * in a memory context that lives until cwh_rows_close().
 */
void
cwh_rows_open(CwhRows *rows, EState *estate, CwhRelation table, int columns)
{
	ResultRelInfo *relinfo = makeNode(ResultRelInfo);
	const Indexes *indexes;

	rows->relation = cwh_table_open(table, RowExclusiveLock);
	if (RelationGetNumberOfAttributes(rows->relation) < columns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"chatwebhook.%s\" is of another version than the library",
						RelationGetRelationName(rows->relation)),
				 errhint("Use ALTER EXTENSION chatwebhook UPDATE.")));
	rows->estate = estate;
	rows->relinfo = relinfo;
	InitResultRelInfo(relinfo, rows->relation, 1, NULL, 0);
	indexes = get_indexes(table, rows->relation);
	rows->indexes = indexes->oids;
	rows->infos = indexes->infos;
	relinfo->ri_NumIndices = indexes->n;
	relinfo->ri_IndexRelationDescs = palloc0((indexes->n + 1) * sizeof(Relation));
	relinfo->ri_IndexRelationInfo = palloc0((indexes->n + 1) * sizeof(IndexInfo *));
	rows->nslots = 0;
	rows->n = 0;
	rows->bulk = NULL;
}

/*
 * Does a row have an entry in an index?  This understands the predicates
 * "WHERE column" and "WHERE column IS NOT NULL", and returns true for any other
 * index, for which the executor then decides.  The executor alone would compile
 * the predicate for each statement.
 */
static bool
may_be_in_index(const IndexInfo *index, TupleTableSlot *slot)
{
	Node	   *predicate;
	Var		   *column;
	bool		any_value = false;
	Datum		value;
	bool		isnull;

	if (list_length(index->ii_Predicate) != 1)
		return true;
	predicate = linitial(index->ii_Predicate);
	if (IsA(predicate, NullTest) &&
		((NullTest *) predicate)->nulltesttype == IS_NOT_NULL)
	{
		any_value = true;
		predicate = (Node *) ((NullTest *) predicate)->arg;
	}
	column = (Var *) predicate;
	if (!IsA(column, Var) || column->varattno <= 0)
		return true;
	value = slot_getattr(slot, column->varattno, &isnull);
	return !isnull && (any_value || DatumGetBool(value));
}

/* Open an index to insert entries. */
static void
open_index(CwhRows *rows, int i)
{
	MemoryContext context = rows->estate->es_query_cxt;
	Relation	index = index_open(rows->indexes[i], RowExclusiveLock);
	IndexInfo  *info;

	/* a copy, since access method and executor modify it */
	info = MemoryContextAlloc(context, sizeof(IndexInfo));
	*info = *rows->infos[i];
	info->ii_Context = context;
	rows->relinfo->ri_IndexRelationDescs[i] = index;
	rows->relinfo->ri_IndexRelationInfo[i] = info;
}

/*
 * Insert a row's index entries, or only those of summarizing indexes, such as a
 * BRIN index that a user has added.  An index that gets none is not even opened;
 * the executor skips it then.
 */
static void
insert_index_entries(CwhRows *rows, TupleTableSlot *slot, bool only_summarizing)
{
	ResultRelInfo *relinfo = rows->relinfo;

	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		Relation   *index = &relinfo->ri_IndexRelationDescs[i];
		bool		wanted = may_be_in_index(rows->infos[i], slot);

		if (wanted && *index == NULL)
			open_index(rows, i);
		if (*index)
			relinfo->ri_IndexRelationInfo[i]->ii_ReadyForInserts =
				wanted && (*index)->rd_index->indisready;
	}
	cwh_insert_index_entries(relinfo, slot, rows->estate, only_summarizing);
}

/*
 * Update the row at this place, which the caller has locked in its latest
 * version, to what the slot has.
 */
void
cwh_rows_update(CwhRows *rows, ItemPointer tid, TupleTableSlot *slot)
{
	CwhIndexesToUpdate indexes;

	indexes = cwh_update_row(rows->relation, tid, slot);
	if (indexes != CWH_INDEXES_NONE)
		insert_index_entries(rows, slot, indexes == CWH_INDEXES_SUMMARIZING);
	ResetPerTupleExprContext(rows->estate);
}

/* Insert the buffered rows. */
static void
flush(CwhRows *rows)
{
	CommandId	cid = GetCurrentCommandId(true);
	bool		full = rows->n == CWH_MAX_ROWS;

	if (rows->n == 1)
		table_tuple_insert(rows->relation, rows->slots[0], cid, 0, rows->bulk);
	else if (rows->n > 1)
		table_multi_insert(rows->relation, rows->slots, rows->n, cid, 0,
						   rows->bulk);
	for (int i = 0; i < rows->n; i++)
	{
		insert_index_entries(rows, rows->slots[i], false);
		ExecClearTuple(rows->slots[i]);
	}
	rows->n = 0;
	ResetPerTupleExprContext(rows->estate);
	if (full && rows->bulk == NULL)
	{
		/* a large load must not fill the shared buffers, as with COPY */
		MemoryContext oldcontext =
			MemoryContextSwitchTo(rows->estate->es_query_cxt);

		rows->bulk = GetBulkInsertState();
		MemoryContextSwitchTo(oldcontext);
	}
}

/*
 * Begin a new row, with all columns null.  The caller sets columns, calls
 * ExecStoreVirtualTuple(), and ExecMaterializeSlot() if the values will not
 * live until cwh_rows_close().
 */
TupleTableSlot *
cwh_rows_next(CwhRows *rows)
{
	TupleTableSlot *slot;

	if (rows->n == CWH_MAX_ROWS)
		flush(rows);
	if (rows->n == rows->nslots)
	{
		MemoryContext oldcontext =
			MemoryContextSwitchTo(rows->estate->es_query_cxt);

		rows->slots[rows->nslots++] = table_slot_create(rows->relation, NULL);
		MemoryContextSwitchTo(oldcontext);
	}
	slot = rows->slots[rows->n++];
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	return slot;
}

/*
 * Begin a new row as a copy of the last one, and return its tuple, in which the
 * caller overwrites the columns that differ.  Returns null if there is no tuple
 * to copy: the last row has been inserted already, or the table's access method
 * is not heap.
 */
HeapTuple
cwh_rows_repeat(CwhRows *rows)
{
	TupleTableSlot *last;
	TupleTableSlot *slot;

	if (rows->n == 0 || rows->n == CWH_MAX_ROWS)
		return NULL;
	last = rows->slots[rows->n - 1];
	if (!TTS_IS_BUFFERTUPLE(last))
		return NULL;
	slot = cwh_rows_next(rows);
	ExecForceStoreHeapTuple(ExecFetchSlotHeapTuple(last, true, NULL), slot, false);
	return ExecFetchSlotHeapTuple(slot, false, NULL);
}

/* Insert the rows that are still buffered, and close the table. */
void
cwh_rows_close(CwhRows *rows)
{
	flush(rows);
	if (rows->bulk)
	{
		FreeBulkInsertState(rows->bulk);
		table_finish_bulk_insert(rows->relation, 0);
	}
	for (int i = 0; i < rows->nslots; i++)
		ExecDropSingleTupleTableSlot(rows->slots[i]);
	for (int i = 0; i < rows->relinfo->ri_NumIndices; i++)
	{
		Relation	index = rows->relinfo->ri_IndexRelationDescs[i];

		if (index == NULL)
			continue;
		cwh_index_insert_cleanup(index, rows->relinfo->ri_IndexRelationInfo[i]);
		index_close(index, RowExclusiveLock);
	}
	table_close(rows->relation, NoLock);
}
