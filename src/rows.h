/*
 * rows.h
 *		Rows into the extension's own tables, without SQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ROWS_H
#define CWH_ROWS_H

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/relcache.h"

/*
 * The columns of the tables, numbered as in sql/tables.sql.  Tables of a later
 * version may have more, which stay null.
 */
enum
{
	CWH_EVENT_ID, CWH_EVENT_TYPE, CWH_EVENT_CHATBOT_ID,
	CWH_EVENT_CONVERSATION_ID, CWH_EVENT_CREATED_AT, CWH_EVENT_FIRST_DELIVERY,
	CWH_EVENT_LAST_DELIVERY, CWH_EVENT_DATA, CWH_EVENT_COLUMNS
};

enum
{
	CWH_QUEUE_ID, CWH_QUEUE_WEBHOOK_ID, CWH_QUEUE_EVENT_ID,
	CWH_QUEUE_CREATED_AT, CWH_QUEUE_NEXT_ATTEMPT_AT, CWH_QUEUE_LAST_ATTEMPT_AT,
	CWH_QUEUE_ATTEMPTS, CWH_QUEUE_FIRST_ATTEMPT, CWH_QUEUE_LAST_WAIT_MS,
	CWH_QUEUE_LATENCY_MS, CWH_QUEUE_LAST_STATUS_CODE, CWH_QUEUE_CHATBOT_ID,
	CWH_QUEUE_CONVERSATION_ID, CWH_QUEUE_ORDERED, CWH_QUEUE_LAST_ERROR,
	CWH_QUEUE_REPLIES, CWH_QUEUE_COLUMNS
};

/* of history and dead */
enum
{
	CWH_HISTORY_ID, CWH_HISTORY_WEBHOOK_ID, CWH_HISTORY_EVENT_ID,
	CWH_HISTORY_CREATED_AT, CWH_HISTORY_COMPLETED_AT,
	CWH_HISTORY_LAST_ATTEMPT_AT, CWH_HISTORY_ATTEMPTS, CWH_HISTORY_LATENCY_MS,
	CWH_HISTORY_LAST_STATUS_CODE, CWH_HISTORY_CHATBOT_ID,
	CWH_HISTORY_WEBHOOK_NAME, CWH_HISTORY_STATUS, CWH_HISTORY_LAST_ERROR,
	CWH_HISTORY_REPLIES, CWH_HISTORY_COLUMNS
};

/* So many rows are gathered at most before they are stored. */
#define CWH_MAX_ROWS	200

typedef struct CwhRows
{
	Relation	relation;
	EState	   *estate;
	ResultRelInfo *relinfo;
	const Oid  *indexes;		/* in the order of relinfo's */
	IndexInfo **infos;			/* of these, not to be written to */
	TupleTableSlot *slots[CWH_MAX_ROWS];
	int			nslots;			/* made so far */
	int			n;				/* filled */
	struct BulkInsertStateData *bulk;	/* if there are many; else null */
} CwhRows;

extern void cwh_rows_open(CwhRows *rows, EState *estate, const char *name,
						  int columns);
extern TupleTableSlot *cwh_rows_next(CwhRows *rows);
extern HeapTuple cwh_rows_repeat(CwhRows *rows);
extern void cwh_rows_flush(CwhRows *rows);
extern void cwh_rows_close(CwhRows *rows);
/* Set a column of a row. */
static inline void
cwh_set_column(TupleTableSlot *slot, int column, Datum value)
{
	slot->tts_values[column] = value;
	slot->tts_isnull[column] = false;
}

/* Set a column to a text, or leave it null. */
static inline void
cwh_set_text(TupleTableSlot *slot, int column, const char *value)
{
	if (value)
		cwh_set_column(slot, column, CStringGetTextDatum(value));
}

#endif							/* CWH_ROWS_H */
