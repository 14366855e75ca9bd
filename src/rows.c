/*
 * rows.c
 *		Rows into the extension's own tables, without SQL.
 *
 * For what is written with every event and every delivery: whoever emits has no
 * right on these tables, no trigger or rule can come in between, and executor
 * and plan would cost more than the rows.  Rows are gathered and stored together.
 *
 * The caller has a transaction; locks on the tables last as long as it does.
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
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "chatwebhook.h"
#include "compat.h"

/* The indexes of a table, understood, until it or one of them changes. */
typedef struct Indexes
{
	Oid			table;
	bool		valid;
	MemoryContext context;		/* of all below */
	int			n;
	Oid		   *oids;
	IndexInfo **infos;
} Indexes;

static Indexes known_indexes[4];	/* as many tables are written to */
static uint64 changes = 0;		/* counts invalidations */

/* Relcache callback: has one of the tables changed, or an index of one? */
static void
on_relation_change(Datum arg, Oid relid)
{
	changes++;
	for (int i = 0; i < lengthof(known_indexes); i++)
	{
		Indexes    *indexes = &known_indexes[i];

		if (relid == InvalidOid || relid == indexes->table)
			indexes->valid = false;
		for (int j = 0; j < indexes->n; j++)
			if (relid == indexes->oids[j])
				indexes->valid = false;
	}
}

/* Understand a table's indexes. */
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

	/* somebody up the stack may be using what was known: gone at the end */
	if (indexes->context)
		MemoryContextSetParent(indexes->context, TopTransactionContext);
	MemoryContextSetParent(context, CacheMemoryContext);
	indexes->table = RelationGetRelid(relation);
	indexes->context = context;
	indexes->n = n;
	indexes->oids = oids;
	indexes->infos = infos;
	/* what has changed meanwhile is looked at again by the next to ask */
	indexes->valid = before == changes;
}

/* The indexes of a table that is locked, from the cache if they are there. */
static const Indexes *
get_indexes(Relation relation)
{
	static bool registered = false;
	Indexes    *other = &known_indexes[0];

	if (!registered)
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	registered = true;
	for (int i = 0; i < lengthof(known_indexes); i++)
	{
		Indexes    *indexes = &known_indexes[i];

		if (indexes->valid && indexes->table == RelationGetRelid(relation))
			return indexes;
		/* of no use any more, or not yet */
		if (!indexes->valid)
			other = indexes;
	}
	load_indexes(other, relation);
	return other;
}

/*
 * Open a table to be written to; an error if it has fewer columns.  The rows
 * live as long as the executor's state.  Indexes are opened when there is an
 * entry for them.
 */
void
cwh_rows_open(CwhRows *rows, EState *estate, const char *name, int columns)
{
	ResultRelInfo *relinfo = makeNode(ResultRelInfo);
	const Indexes *indexes;

	rows->relation = table_open(cwh_relation(name), RowExclusiveLock);
	if (RelationGetNumberOfAttributes(rows->relation) < columns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"chatwebhook.%s\" is of another version than the library", name),
				 errhint("Use ALTER EXTENSION chatwebhook UPDATE.")));
	rows->estate = estate;
	rows->relinfo = relinfo;
	InitResultRelInfo(relinfo, rows->relation, 1, NULL, 0);
	indexes = get_indexes(rows->relation);
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
 * The next empty row, all columns null; there must be room for it.  The caller
 * sets columns, and then stores the slot as a virtual tuple.
 */
TupleTableSlot *
cwh_rows_next(CwhRows *rows)
{
	TupleTableSlot *slot;

	if (rows->n == rows->nslots)
	{
		/* a slot outlives the values of its rows */
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
 * The next row as a copy of the last one, which is not stored yet; there must be
 * room for it.  The caller writes what differs into its tuple.  Null if the
 * table is not PostgreSQL's own kind of heap, whose slots keep such a tuple.
 */
HeapTuple
cwh_rows_repeat(CwhRows *rows)
{
	TupleTableSlot *last = rows->slots[rows->n - 1];
	TupleTableSlot *slot;

	if (!TTS_IS_BUFFERTUPLE(last))
		return NULL;
	slot = cwh_rows_next(rows);
	ExecForceStoreHeapTuple(ExecFetchSlotHeapTuple(last, true, NULL), slot, false);
	return ExecFetchSlotHeapTuple(slot, false, NULL);
}

/*
 * Does a row belong into an index?  This only knows of "WHERE column", and says
 * yes to all else; the executor would set an expression up for each statement.
 */
static bool
may_be_in_index(const IndexInfo *index, TupleTableSlot *slot)
{
	Var		   *column;
	Datum		value;
	bool		isnull;

	if (list_length(index->ii_Predicate) != 1)
		return true;
	column = linitial(index->ii_Predicate);
	if (!IsA(column, Var) || column->varattno <= 0)
		return true;
	value = slot_getattr(slot, column->varattno, &isnull);
	return !isnull && DatumGetBool(value);
}

/* Open an index for entries. */
static void
open_index(CwhRows *rows, int i)
{
	MemoryContext context = rows->estate->es_query_cxt;
	Relation	index = index_open(rows->indexes[i], RowExclusiveLock);
	IndexInfo  *info;

	/* a copy, for what the access method and the executor note in it */
	info = MemoryContextAlloc(context, sizeof(IndexInfo));
	*info = *rows->infos[i];
	info->ii_Context = context;
	rows->relinfo->ri_IndexRelationDescs[i] = index;
	rows->relinfo->ri_IndexRelationInfo[i] = info;
}

/*
 * Make the entries of a row in the indexes that it belongs into; the executor
 * passes over those that are not open.
 */
static void
insert_index_entries(CwhRows *rows, TupleTableSlot *slot)
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
	cwh_insert_index_entries(relinfo, slot, rows->estate);
}

/* Store the rows that were gathered. */
void
cwh_rows_flush(CwhRows *rows)
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
		insert_index_entries(rows, rows->slots[i]);
		ExecClearTuple(rows->slots[i]);
	}
	rows->n = 0;
	ResetPerTupleExprContext(rows->estate);
	if (full && rows->bulk == NULL)
	{
		/* a large load goes through a few of the shared buffers, as COPY does */
		MemoryContext oldcontext =
			MemoryContextSwitchTo(rows->estate->es_query_cxt);

		rows->bulk = GetBulkInsertState();
		MemoryContextSwitchTo(oldcontext);
	}
}

/* Close the table; all rows are stored. */
void
cwh_rows_close(CwhRows *rows)
{
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

/* Set a column of a row. */
void
cwh_set_column(TupleTableSlot *slot, int column, Datum value)
{
	slot->tts_values[column] = value;
	slot->tts_isnull[column] = false;
}

/* Set a column to a text, or leave it null. */
void
cwh_set_text(TupleTableSlot *slot, int column, const char *value)
{
	if (value)
		cwh_set_column(slot, column, CStringGetTextDatum(value));
}
