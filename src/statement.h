/*
 * statement.h
 *		Prepared SQL, its parameters and results, and the worker's transactions.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_STATEMENT_H
#define CWH_STATEMENT_H

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

/* Operators of PostgreSQL's own, whatever the search_path. */
#define EQ	" OPERATOR(pg_catalog.=) "
#define GT	" OPERATOR(pg_catalog.>) "
#define LT	" OPERATOR(pg_catalog.<) "
#define GE	" OPERATOR(pg_catalog.>=) "
#define LE	" OPERATOR(pg_catalog.<=) "
#define ADD " OPERATOR(pg_catalog.+) "
#define CAT " OPERATOR(pg_catalog.||) "

#define CWH_MAX_PARAMETERS 11

/* A statement; its plan is made at first use and kept for the session. */
typedef struct CwhStatement
{
	const char *sql;
	int			nargs;
	Oid			argtypes[CWH_MAX_PARAMETERS];
	SPIPlanPtr	plan;
} CwhStatement;

/* An array to be passed as a parameter, filled element by element. */
typedef struct CwhArray
{
	Oid			type;			/* of the elements */
	int			n;
	Datum	   *values;
	bool	   *nulls;
} CwhArray;

/* When a commit must be on disk. */
typedef enum CwhFlush
{
	CWH_FLUSH_NOT,				/* it need not survive a crash: claims alone */
	CWH_FLUSH_SOON,				/* else deliveries are repeated after one */
	CWH_FLUSH_NOW				/* before anything follows from it */
} CwhFlush;

extern bool cwh_flush_pending(void);
extern void cwh_commit(CwhFlush flush);
extern uint64 cwh_run(CwhStatement *statement, Datum *args);

/* Begin a transaction and connect to SPI. */
static inline void
cwh_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* A column (from 0) of a row of the last result; an error if null and !isnull. */
static inline Datum
cwh_field(uint64 row, int column, bool *isnull)
{
	bool		null;
	Datum		datum;

	datum = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						  column + 1, &null);
	if (isnull)
		*isnull = null;
	else if (null)
		elog(ERROR, "unexpected null in column %d", column);
	return datum;
}

/* A text column of a row of the last result; null stays null. */
static inline char *
cwh_field_text(uint64 row, int column)
{
	bool		isnull;
	Datum		datum = cwh_field(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

/* An array of n elements of a type, all null. */
static inline CwhArray
cwh_array(Oid type, int n)
{
	CwhArray	array;
	Size		room = Max(1, n);

	array.type = type;
	array.n = n;
	array.values = palloc(room * sizeof(Datum));
	array.nulls = palloc(room * sizeof(bool));
	memset(array.nulls, true, room * sizeof(bool));
	return array;
}

/* Set an element. */
static inline void
cwh_array_set(CwhArray *array, int i, Datum value)
{
	array->values[i] = value;
	array->nulls[i] = false;
}

/* The same for a text, which may be null. */
static inline void
cwh_array_set_text(CwhArray *array, int i, const char *string)
{
	if (string)
		cwh_array_set(array, i, CStringGetTextDatum(string));
}

/* The array as a parameter. */
static inline Datum
cwh_array_datum(const CwhArray *array)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			lower = 1;
	int			n = array->n;

	get_typlenbyvalalign(array->type, &typlen, &typbyval, &typalign);
	return PointerGetDatum(construct_md_array(array->values, array->nulls, 1,
											  &n, &lower, array->type, typlen,
											  typbyval, typalign));
}

/* Arrays of n elements, all null, for a statement's first parameters. */
static inline void
cwh_make_arrays(CwhArray *arrays, const CwhStatement *statement, int narrays,
				int n)
{
	for (int i = 0; i < narrays; i++)
		arrays[i] = cwh_array(get_element_type(statement->argtypes[i]), n);
}

/* And those as parameters. */
static inline void
cwh_finish_arrays(const CwhArray *arrays, int narrays, Datum *args)
{
	for (int i = 0; i < narrays; i++)
		args[i] = cwh_array_datum(&arrays[i]);
}

/* An array of UUIDs as a parameter. */
static inline Datum
cwh_uuid_array(const pg_uuid_t *ids, int n)
{
	CwhArray	array = cwh_array(UUIDOID, n);

	for (int i = 0; i < n; i++)
		cwh_array_set(&array, i, UUIDPGetDatum(&ids[i]));
	return cwh_array_datum(&array);
}

#endif							/* CWH_STATEMENT_H */
