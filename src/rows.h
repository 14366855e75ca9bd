/*
 * rows.h
 *		Inserts and updates rows of the extension's own tables, without SQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ROWS_H
#define CWH_ROWS_H

#include "access/htup.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/relcache.h"

#include "changes.h"

/*
 * The columns of the tables, in the order in which sql/ creates them, from 0.
 * A later version can have more columns; they stay null.
 */
enum
{
	CWH_EVENT_ID, CWH_EVENT_TYPE, CWH_EVENT_CHATBOT_ID,
	CWH_EVENT_CONVERSATION_ID, CWH_EVENT_CREATED_AT, CWH_EVENT_FIRST_DELIVERY,
	CWH_EVENT_LAST_DELIVERY, CWH_EVENT_DATA, CWH_EVENT_TRACEPARENT,
	CWH_EVENT_DELIVER_AT, CWH_EVENT_EXPIRES_AT,
	CWH_EVENT_COLUMNS
};

enum
{
	CWH_QUEUE_ID, CWH_QUEUE_WEBHOOK_ID, CWH_QUEUE_EVENT_ID,
	CWH_QUEUE_CREATED_AT, CWH_QUEUE_NEXT_ATTEMPT_AT, CWH_QUEUE_LAST_ATTEMPT_AT,
	CWH_QUEUE_ATTEMPTS, CWH_QUEUE_FIRST_ATTEMPT, CWH_QUEUE_LAST_WAIT_MS,
	CWH_QUEUE_LATENCY_MS, CWH_QUEUE_LAST_STATUS_CODE, CWH_QUEUE_CHATBOT_ID,
	CWH_QUEUE_CONVERSATION_ID, CWH_QUEUE_ORDERED, CWH_QUEUE_DEBOUNCED,
	CWH_QUEUE_LAST_ERROR, CWH_QUEUE_REPLIES, CWH_QUEUE_DELIVER_AT,
	CWH_QUEUE_EXPIRES_AT, CWH_QUEUE_DEBOUNCE_UNTIL, CWH_QUEUE_COLUMNS
};

/* of both history and dead */
enum
{
	CWH_HISTORY_ID, CWH_HISTORY_WEBHOOK_ID, CWH_HISTORY_EVENT_ID,
	CWH_HISTORY_CREATED_AT, CWH_HISTORY_COMPLETED_AT,
	CWH_HISTORY_LAST_ATTEMPT_AT, CWH_HISTORY_ATTEMPTS, CWH_HISTORY_LATENCY_MS,
	CWH_HISTORY_LAST_STATUS_CODE, CWH_HISTORY_CHATBOT_ID,
	CWH_HISTORY_WEBHOOK_NAME, CWH_HISTORY_STATUS, CWH_HISTORY_LAST_ERROR,
	CWH_HISTORY_REPLIES, CWH_HISTORY_COLUMNS
};

enum
{
	CWH_MEMORY_WEBHOOK_ID, CWH_MEMORY_CHATBOT_ID, CWH_MEMORY_CONVERSATION_ID,
	CWH_MEMORY_REMEMBERED, CWH_MEMORY_UPDATED_AT, CWH_MEMORY_COLUMNS
};

enum
{
	CWH_HEALTH_WEBHOOK_ID, CWH_HEALTH_TOTAL, CWH_HEALTH_SUCCESSES,
	CWH_HEALTH_FAILURES, CWH_HEALTH_GIVEN_UP, CWH_HEALTH_CONSECUTIVE_FAILURES,
	CWH_HEALTH_FAILING_SINCE, CWH_HEALTH_LAST_SUCCESS_AT,
	CWH_HEALTH_LAST_FAILURE_AT, CWH_HEALTH_LAST_ERROR, CWH_HEALTH_PROBLEM,
	CWH_HEALTH_RECENT, CWH_HEALTH_LATENCY_SUM_MS, CWH_HEALTH_LATENCY_COUNTS,
	CWH_HEALTH_COLUMNS
};

enum
{
	CWH_ACTIVITY_SINCE, CWH_ACTIVITY_WORKER, CWH_ACTIVITY_SUCCEEDED,
	CWH_ACTIVITY_FAILED, CWH_ACTIVITY_GIVEN_UP, CWH_ACTIVITY_COLUMNS
};

/* The most rows that are buffered before they are inserted together. */
#define CWH_MAX_ROWS	200

/* Inserts rows into one table; see cwh_rows_open(). */
typedef struct CwhRows
{
	Relation	relation;
	EState	   *estate;			/* the caller's */
	ResultRelInfo *relinfo;		/* its indexes are opened on first use */
	const Oid  *indexes;		/* of relinfo's indexes, in the same order */
	IndexInfo **infos;			/* likewise; cached, so never modified */
	TupleTableSlot *slots[CWH_MAX_ROWS];	/* buffered rows come first */
	int			nslots;			/* created so far */
	int			n;				/* buffered rows */
	struct BulkInsertStateData *bulk;	/* null until the buffer was full */
} CwhRows;

extern void cwh_rows_open(CwhRows *rows, EState *estate, CwhRelation table,
						  int columns);
extern TupleTableSlot *cwh_rows_next(CwhRows *rows);
extern HeapTuple cwh_rows_repeat(CwhRows *rows);
extern void cwh_rows_update(CwhRows *rows, ItemPointer tid,
							TupleTableSlot *slot);
extern void cwh_rows_close(CwhRows *rows);

/* Set a column of a new row. */
static inline void
cwh_set_column(TupleTableSlot *slot, int column, Datum value)
{
	slot->tts_values[column] = value;
	slot->tts_isnull[column] = false;
}

/* Set a column of type text; a null pointer leaves it null. */
static inline void
cwh_set_text(TupleTableSlot *slot, int column, const char *value)
{
	if (value)
		cwh_set_column(slot, column, CStringGetTextDatum(value));
}

#endif							/* CWH_ROWS_H */
