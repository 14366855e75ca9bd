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

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "chatwebhook.h"
#include "compat.h"

/*
 * Open a table to be written to; an error if it has fewer columns.  The rows
 * live as long as the executor's state.
 */
void
cwh_rows_open(CwhRows *rows, EState *estate, const char *name, int columns)
{
	rows->relation = table_open(cwh_relation(name), RowExclusiveLock);
	if (RelationGetNumberOfAttributes(rows->relation) < columns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"chatwebhook.%s\" is of another version than the library", name),
				 errhint("Use ALTER EXTENSION chatwebhook UPDATE.")));
	rows->estate = estate;
	rows->relinfo = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->relinfo, rows->relation, 1, NULL, 0);
	ExecOpenIndices(rows->relinfo, false);
	rows->ready = palloc(Max(1, rows->relinfo->ri_NumIndices) * sizeof(bool));
	for (int i = 0; i < rows->relinfo->ri_NumIndices; i++)
	{
		IndexInfo  *index = rows->relinfo->ri_IndexRelationInfo[i];

		rows->ready[i] = index->ii_ReadyForInserts;
	}
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

/* Make the entries of a row in the indexes that it belongs into. */
static void
insert_index_entries(CwhRows *rows, TupleTableSlot *slot)
{
	ResultRelInfo *relinfo = rows->relinfo;

	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		IndexInfo  *index = relinfo->ri_IndexRelationInfo[i];

		index->ii_ReadyForInserts = rows->ready[i] &&
			may_be_in_index(index, slot);
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
	ExecCloseIndices(rows->relinfo);
	table_close(rows->relation, NoLock);
}

/* Set a column of a row, unless the table is too old to have it. */
void
cwh_set_column(TupleTableSlot *slot, int column, Datum value)
{
	if (column >= slot->tts_tupleDescriptor->natts)
		return;
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
