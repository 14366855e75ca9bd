/*
 * reader.h
 *		Reads rows of the extension's own tables by an index, without SQL.
 *
 * For the rows that every delivery needs, the executor would cost more than the
 * index.  A reader is opened once for all rows that a transaction looks up, within
 * the active snapshot, in a memory context that lives until it is closed: the scan
 * allocates memory as it goes.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_READER_H
#define CWH_READER_H

#include "access/detoast.h"
#include "access/genam.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "changes.h"
#include "compat.h"

/* A table that is being read by one of its indexes. */
typedef struct CwhReader
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the row that was found last */
} CwhReader;

/* Start reading a table by the first nkeys columns of an index. */
static inline void
cwh_reader_open(CwhReader *reader, CwhRelation table, CwhRelation index,
				LOCKMODE mode, int nkeys)
{
	reader->table = cwh_table_open(table, mode);
	reader->index = index_open(cwh_relation(index), AccessShareLock);
	if (!reader->index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"chatwebhook.%s\" is not valid",
						RelationGetRelationName(reader->index)),
				 errhint("Use REINDEX INDEX chatwebhook.%s.",
						 RelationGetRelationName(reader->index))));
	reader->scan = cwh_begin_index_scan(reader->table, reader->index,
										GetActiveSnapshot(), nkeys);
	reader->slot = table_slot_create(reader->table, NULL);
}

/* Stop reading it.  The lock on the table is kept. */
static inline void
cwh_reader_close(CwhReader *reader)
{
	index_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->slot);
	index_close(reader->index, AccessShareLock);
	table_close(reader->table, NoLock);
}

/* Require that a column of the index (from 1) equals a UUID. */
static inline void
cwh_key_uuid(ScanKey key, int column, const pg_uuid_t *id)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(id));
}

/* That it equals a text, or is null; release with cwh_key_free(). */
static inline void
cwh_key_text(const CwhReader *reader, ScanKey key, int column, const char *string)
{
	if (string)
		ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
							   reader->index->rd_indcollation[column - 1],
							   F_TEXTEQ, CStringGetTextDatum(string));
	else
		ScanKeyEntryInitialize(key, SK_ISNULL | SK_SEARCHNULL, column,
							   InvalidStrategy, InvalidOid, InvalidOid,
							   InvalidOid, (Datum) 0);
}

/* Release what cwh_key_text() has made. */
static inline void
cwh_key_free(ScanKey key)
{
	if ((key->sk_flags & SK_ISNULL) == 0)
		pfree(DatumGetPointer(key->sk_argument));
}

/* Find the next row. */
static inline bool
cwh_reader_next(CwhReader *reader)
{
	return index_getnext_slot(reader->scan, ForwardScanDirection, reader->slot);
}

/* Find the first row with these keys. */
static inline bool
cwh_reader_find(CwhReader *reader, ScanKey keys, int nkeys)
{
	index_rescan(reader->scan, keys, nkeys, NULL, 0);
	return cwh_reader_next(reader);
}

/*
 * Lock the row that was found, in its latest version if "last", else only if it
 * has not changed since the snapshot.  False if that is impossible, or if another
 * transaction has locked it and policy says not to wait.
 */
static inline bool
cwh_reader_lock(const CwhReader *reader, LockTupleMode mode,
				LockWaitPolicy policy, bool last, TupleTableSlot *locked)
{
	TM_FailureData failure;

	return table_tuple_lock(reader->table, &reader->slot->tts_tid,
							GetActiveSnapshot(), locked,
							GetCurrentCommandId(true), mode, policy,
							last ? TUPLE_LOCK_FLAG_FIND_LAST_VERSION : 0,
							&failure) == TM_Ok;
}

/* A column (from 0) of the row that was found. */
static inline Datum
cwh_read(const CwhReader *reader, int column, bool *isnull)
{
	return slot_getattr(reader->slot, column + 1, isnull);
}

/* A column that is never null. */
static inline Datum
cwh_read_value(const CwhReader *reader, int column)
{
	bool		isnull;
	Datum		value = cwh_read(reader, column, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d", column);
	return value;
}

/* A text column; null stays null. */
static inline char *
cwh_read_text(const CwhReader *reader, int column)
{
	bool		isnull;
	Datum		value = cwh_read(reader, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* The bytes of a column, which is not read from where it is stored. */
static inline Size
cwh_read_size(const CwhReader *reader, int column)
{
	bool		isnull;
	Datum		value = cwh_read(reader, column, &isnull);

	return isnull ? 0 : toast_raw_datum_size(value);
}

#endif							/* CWH_READER_H */
