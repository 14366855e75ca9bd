/*
 * write.c
 *		Writes events and their deliveries, and checks events before that.
 *
 * emit.c emits events of this server, and arrive.c takes those that logical
 * replication brings.  All of this runs in their transaction, and begins or ends
 * none.  Rows are inserted without SQL (see rows.c).
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "compat.h"
#include "filter.h"
#include "settings.h"
#include "shared.h"
#include "write.h"

/* The longest chatbotId or conversationId, in bytes. */
#define MAX_ID			16384

/* The longest conversationId of an ordered delivery; sql/ has it, too. */
#define MAX_ORDERED_ID	2000

/*
 * The first columns of a queue row as they are in its tuple: fixed in length
 * and never null, like those of a catalog's FormData_ struct.
 */
typedef struct QueueHead
{
	int64		id;
	pg_uuid_t	webhook_id;
} QueueHead;

/*
 * Writing
 */

/* Set up a writer, without opening it. */
void
cwh_writer_init(CwhWriter *writer)
{
	writer->open = false;
	writer->behind = false;
	writer->options = NULL;
	writer->to_outbox = cwh_outbox;
	writer->arrived_at = 0;
	writer->context = CurrentMemoryContext;
}

/* Open a writer, unless it is open. */
static void
open_writer(CwhWriter *writer)
{
	MemoryContext oldcontext;

	if (writer->open)
		return;
	PreventCommandDuringRecovery("chatwebhook.emit()");
	PreventCommandIfReadOnly("chatwebhook.emit()");
	/* the current context may last for one row only */
	oldcontext = MemoryContextSwitchTo(writer->context);
	writer->estate = CreateExecutorState();
	/* queue first, as the views and update scripts do */
	if (!writer->to_outbox)
		cwh_rows_open(&writer->deliveries, writer->estate, CWH_REL_QUEUE,
					  CWH_QUEUE_COLUMNS);
	if (writer->arrived_at == 0)
		cwh_rows_open(&writer->events, writer->estate, CWH_REL_EVENT,
					  CWH_EVENT_COLUMNS);
	MemoryContextSwitchTo(oldcontext);
	writer->open = true;
}

/* Insert what is buffered, and close the writer. */
void
cwh_writer_close(CwhWriter *writer)
{
	if (!writer->open)
		return;
	if (writer->arrived_at == 0)
		cwh_rows_close(&writer->events);
	if (!writer->to_outbox)
		cwh_rows_close(&writer->deliveries);
	FreeExecutorState(writer->estate);
	writer->open = false;
}

/*
 * The largest id that a table has, of any row, committed or not: a transaction
 * that was prepared before a restart may still be committed.
 */
static int64
largest_id(CwhRelation table, CwhRelation pkey)
{
	Relation	relation = cwh_table_open(table, AccessShareLock);
	Relation	index = index_open(cwh_relation(pkey), AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	IndexScanDesc scan = cwh_begin_index_scan(relation, index, SnapshotAny, 0);
	int64		id = 0;
	bool		isnull;

	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
		id = DatumGetInt64(slot_getattr(slot, CWH_QUEUE_ID + 1, &isnull));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
	return id;
}

/*
 * A new delivery's id.  With shared memory it does not come from a sequence:
 * nextval() would change the result of lastval(), which applications use to get
 * the id of the row that they have just inserted.  It comes from the clock, which
 * may have been set back while the server did not run: so the first id of each
 * process is above all that there are.
 */
static int64
next_delivery_id(TimestampTz now)
{
	static bool max_id_read = false;
	int64		above = 0;

	if (cwh_preloaded)
	{
		if (!max_id_read)
		{
			above = Max(Max(largest_id(CWH_REL_QUEUE, CWH_REL_QUEUE_PKEY),
							largest_id(CWH_REL_IDENTITY, CWH_REL_IDENTITY_IDX)),
						Max(largest_id(CWH_REL_HISTORY, CWH_REL_HISTORY_PKEY),
							largest_id(CWH_REL_DEAD, CWH_REL_DEAD_PKEY)));
			max_id_read = true;
		}
		return cwh_next_id(now, above);
	}
	return nextval_internal(cwh_relation(CWH_REL_DELIVERY_ID_SEQ), false);
}

/*
 * When a delivery is due that nothing holds up.  One that comes from another
 * server is due when it arrives: that server's clock may be ahead.
 */
static TimestampTz
due_at(const CwhWriter *writer, const CwhEvent *event)
{
	return writer->arrived_at ? writer->arrived_at : event->created_at;
}

/*
 * Can the deliveries of an event be ordered?  The index on the conversation's
 * id cannot hold a longer one; real ids are much shorter.
 */
static bool
may_be_ordered(const CwhEvent *event)
{
	return event->conversation_id &&
		strlen(event->conversation_id) <= MAX_ORDERED_ID;
}

/*
 * Write an event's delivery to a webhook.  Returns the time before which it
 * must not be sent, or 0.
 */
static TimestampTz
write_delivery(CwhWriter *writer, const CwhEvent *event,
			   const CwhSubscription *subscription, int64 id)
{
	TupleTableSlot *slot = cwh_rows_next(&writer->deliveries);
	bool		orderable = (subscription->ordered || subscription->debounce_us > 0) &&
		may_be_ordered(event);
	TimestampTz due = due_at(writer, event);
	TimestampTz later = 0;

	cwh_set_column(slot, CWH_QUEUE_ID, Int64GetDatum(id));
	cwh_set_column(slot, CWH_QUEUE_WEBHOOK_ID, UUIDPGetDatum(&subscription->webhook_id));
	cwh_set_column(slot, CWH_QUEUE_EVENT_ID, UUIDPGetDatum(&event->id));
	cwh_set_column(slot, CWH_QUEUE_CREATED_AT,
				   TimestampTzGetDatum(event->created_at));
	cwh_set_column(slot, CWH_QUEUE_NEXT_ATTEMPT_AT,
				   TimestampTzGetDatum(writer->behind ? DT_NOEND : due));
	cwh_set_column(slot, CWH_QUEUE_ATTEMPTS, Int32GetDatum(0));
	cwh_set_column(slot, CWH_QUEUE_FIRST_ATTEMPT, Int32GetDatum(0));
	cwh_set_column(slot, CWH_QUEUE_LAST_WAIT_MS, Int64GetDatum(0));
	cwh_set_text(slot, CWH_QUEUE_CHATBOT_ID, event->chatbot_id);
	cwh_set_text(slot, CWH_QUEUE_CONVERSATION_ID, event->conversation_id);
	cwh_set_column(slot, CWH_QUEUE_ORDERED,
				   BoolGetDatum(subscription->ordered && orderable));
	if (writer->options)
		later = cwh_apply_emit_options(slot, writer->options, id,
									   subscription->ordered && orderable, due);
	if (subscription->debounce_us > 0 && orderable && later == 0)
		later = cwh_debounce_delivery(slot, event->type, due,
									  subscription->debounce_us);
	ExecStoreVirtualTuple(slot);
	/* the event's memory may be reset before the row is inserted */
	ExecMaterializeSlot(slot);
	return later;
}

/*
 * Write another delivery of the last one's event, with the same "ordered" and
 * "debounce", by copying the last row.  Returns false if that is not possible.
 * Forming each row anew would make emitting with fan-out 5 cost 5 % more
 * instructions, and with fan-out 20 8 % more.
 */
static bool
write_delivery_like_last(CwhRows *rows, const pg_uuid_t *webhook_id, int64 id)
{
	HeapTuple	tuple = cwh_rows_repeat(rows);
	QueueHead  *head;

	StaticAssertStmt(CWH_QUEUE_ID == 0 && CWH_QUEUE_WEBHOOK_ID == 1,
					 "QueueHead does not match the columns of queue");
	if (tuple == NULL)
		return false;
	head = (QueueHead *) GETSTRUCT(tuple);
	head->id = id;
	head->webhook_id = *webhook_id;
	return true;
}

/* Write an event's deliveries to these webhooks. */
void
cwh_write_deliveries(CwhWriter *writer, const CwhEvent *event,
					 List *subscriptions)
{
	const CwhSubscription *last = NULL; /* whose delivery was written last */
	TimestampTz due = due_at(writer, event);
	TimestampTz later = 0;		/* when they are due, if that is later */
	ListCell   *cell;

	open_writer(writer);
	writer->first_delivery = PG_INT64_MAX;
	writer->last_delivery = 0;
	foreach(cell, subscriptions)
	{
		const CwhSubscription *subscription = lfirst(cell);
		int64		id = next_delivery_id(due);

		writer->first_delivery = Min(writer->first_delivery, id);
		writer->last_delivery = Max(writer->last_delivery, id);
		if (last == NULL || last->ordered != subscription->ordered ||
			last->debounce_us != subscription->debounce_us ||
			!write_delivery_like_last(&writer->deliveries,
									  &subscription->webhook_id, id))
			later = write_delivery(writer, event, subscription, id);
		last = subscription;
		if (later != 0)
		{
			cwh_hint_later(&subscription->webhook_id, later);
			continue;
		}
		/* a worker finds backfilled ones as it reads the queue from its head */
		cwh_hint(&subscription->webhook_id,
				 writer->behind ? DT_NOBEGIN : due, id, 1);
	}
}

/* Write an event, and its deliveries to these webhooks, if they are made here. */
void
cwh_write_event(CwhWriter *writer, const CwhEvent *event, List *subscriptions)
{
	TupleTableSlot *slot;

	open_writer(writer);
	if (!writer->to_outbox)
		cwh_write_deliveries(writer, event, subscriptions);
	slot = cwh_rows_next(&writer->events);
	cwh_set_column(slot, CWH_EVENT_ID, UUIDPGetDatum(&event->id));
	cwh_set_text(slot, CWH_EVENT_TYPE, event->type);
	cwh_set_text(slot, CWH_EVENT_CHATBOT_ID, event->chatbot_id);
	cwh_set_text(slot, CWH_EVENT_CONVERSATION_ID, event->conversation_id);
	cwh_set_column(slot, CWH_EVENT_CREATED_AT, TimestampTzGetDatum(event->created_at));
	if (!writer->to_outbox)
	{
		cwh_set_column(slot, CWH_EVENT_FIRST_DELIVERY,
					   Int64GetDatum(writer->first_delivery));
		cwh_set_column(slot, CWH_EVENT_LAST_DELIVERY,
					   Int64GetDatum(writer->last_delivery));
	}
	cwh_set_column(slot, CWH_EVENT_DATA, JsonbPGetDatum(event->data));
	cwh_set_text(slot, CWH_EVENT_TRACEPARENT, cwh_valid_traceparent());
	if (writer->to_outbox && writer->options)
		cwh_keep_emit_options(slot, writer->options);
	ExecStoreVirtualTuple(slot);
	ExecMaterializeSlot(slot);
}

/*
 * Checking
 */

/*
 * Is this 1 to 255 printable ASCII characters without spaces, so that it fits
 * into a request header, and into our cache?
 */
bool
cwh_is_plain(const char *name)
{
	size_t		len = 0;

	while (name[len] > ' ' && name[len] <= '~' && len <= 255)
		len++;
	return name[len] == '\0' && len >= 1 && len <= 255;
}

/* A text of an event that is being checked. */
typedef struct CheckedText
{
	const CwhEvent *event;
	const char *column;
} CheckedText;

/* Name the text that an error of a conversion is about. */
static void
name_column(void *arg)
{
	const CheckedText *checked = arg;

	errcontext("%s of event \"%s\", which is sent in UTF-8", checked->column,
			   checked->event->type);
}

/* Check an id of an event; null is none. */
static void
check_id(const CwhEvent *event, const char *column, const char *id)
{
	size_t		len;

	if (id == NULL)
		return;
	len = strlen(id);
	if (len > MAX_ID)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s of event \"%s\" is too long", column, event->type),
				 errdetail("It has %zu bytes, more than %d.", len, MAX_ID),
				 errhint("Pass an id, and texts in the data.")));
	if (GetDatabaseEncoding() != PG_UTF8)
		(void) pg_do_encoding_conversion((unsigned char *) unconstify(char *, id),
										 len, GetDatabaseEncoding(), PG_UTF8);
}

/* Raise an error: an event's data is too large as JSON. */
void
cwh_report_too_large(const CwhEvent *event)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the data of event \"%s\" is too large", event->type),
			 errdetail("As JSON it has more than %d bytes.",
					   cwh_max_payload_size),
			 errhint("Emit less, such as a reference to the row, or increase chatwebhook.max_payload_size.")));
}

/*
 * Check that an event can be sent: that its texts are not too long, and valid in
 * UTF-8.  In a database whose encoding is SQL_ASCII, they can be anything.
 */
void
cwh_check_event(const CwhEvent *event)
{
	CheckedText checked;
	ErrorContextCallback callback;

	checked.event = event;
	callback.callback = name_column;
	callback.arg = &checked;
	callback.previous = error_context_stack;
	if (GetDatabaseEncoding() != PG_UTF8)
		error_context_stack = &callback;
	checked.column = "chatbot_id";
	check_id(event, "chatbot_id", event->chatbot_id);
	checked.column = "conversation_id";
	check_id(event, "conversation_id", event->conversation_id);
	checked.column = "data";
	if (!cwh_json_fits(event->data, cwh_max_payload_size))
		cwh_report_too_large(event);
	error_context_stack = callback.previous;
}

/*
 * Filters
 */

/* Report that there was no time to evaluate some filters of an event. */
static void
report_left_out(const CwhEvent *event, const CwhFilterBudget *budget)
{
	ereport(WARNING,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("event \"%s\" is not sent to %d of its webhooks",
					event->type, budget->left_out),
			 errdetail("Evaluating all filters took longer than %d ms; those that were not evaluated match nothing.",
					   budget->limit_ms),
			 errhint("Emit less data, or use simpler filters.")));
}

/*
 * In a process that applies a subscription, all customers wait for the filters of
 * one.  So a customer's filters get this share of the time there (1 in so many);
 * beyond, FILTERS_OVER_MS for an event.
 */
#define APPLY_SHARE			50
#define FILTERS_OVER_MS		1

static TimestampTz filters_rest[256];	/* by chatbot: none is owed from then on */

static TimestampTz *
filters_rest_of(const CwhEvent *event)
{
	const char *id = event->chatbot_id ? event->chatbot_id : "";

	return &filters_rest[DatumGetUInt32(hash_any((const unsigned char *) id,
												 strlen(id))) % lengthof(filters_rest)];
}

/* The webhooks of this list whose filters match the event. */
List *
cwh_apply_filters(List *subscriptions, const CwhEvent *event)
{
	bool		shared_time = cwh_is_replicated();
	TimestampTz now = shared_time ? GetCurrentTimestamp() : 0;
	bool		by_worker = strcmp(event->type, "webhook.alert") == 0 ||
		strcmp(event->type, "webhook.exhausted") == 0 ||
		strcmp(event->type, "webhook.recovered") == 0;
	CwhFilterBudget budget = {
		.limit_ms = by_worker ? CWH_ALERT_FILTERS_MS : CWH_FILTERS_MS
	};
	Jsonb	   *envelope = NULL;
	List	   *result = NIL;
	ListCell   *cell;

	if (shared_time && *filters_rest_of(event) > now)
		budget.limit_ms = FILTERS_OVER_MS;
	foreach(cell, subscriptions)
	{
		CwhSubscription *subscription = lfirst(cell);

		if (subscription->filter)
		{
			if (envelope == NULL)
				envelope = cwh_envelope_jsonb(event);
			if (!cwh_filter_matches(subscription->filter,
									subscription->slow_filter, envelope,
									&budget))
				continue;
		}
		result = lappend(result, subscription);
	}
	if (shared_time && budget.used_us > 0)
		*filters_rest_of(event) = now + budget.used_us * APPLY_SHARE;
	if (budget.left_out > 0)
		report_left_out(event, &budget);
	return result;
}
