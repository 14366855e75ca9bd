/*
 * emit.c
 *		Turns chat rows, and calls of emit(), into events and deliveries.
 *
 * All of this runs in the session that emits, within its transaction, so an
 * event exists exactly when that transaction commits.  It only inserts rows
 * with new ids, so it never waits for another session's rows.  The tables
 * queue and event are locked in that order, in RowExclusiveLock mode, until the
 * transaction ends.  Others are locked only while they are read, in
 * AccessShareLock mode: webhook or its copy, and event_type, by the cache, and
 * queue, history and dead, in that order, for the first id of a process.  Rows
 * are inserted without SQL (see rows.c).
 *
 * An event that no webhook wants is not stored, and costs little more than a
 * lookup in the cache of subscription.c.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "changes.h"
#include "compat.h"
#include "envelope.h"
#include "filter.h"
#include "rows.h"
#include "settings.h"
#include "shared.h"
#include "subscription.h"
#include "value.h"

PG_FUNCTION_INFO_V1(chatwebhook_emit);
PG_FUNCTION_INFO_V1(chatwebhook_emit_trigger);
PG_FUNCTION_INFO_V1(chatwebhook_emit_to);
PG_FUNCTION_INFO_V1(chatwebhook_emit_but);
PG_FUNCTION_INFO_V1(chatwebhook_subscribers);

/* The longest chatbotId or conversationId, in bytes. */
#define MAX_ID			16384

/* The longest conversationId of an ordered delivery; sql/ has it, too. */
#define MAX_ORDERED_ID	2000

/* Inserts events and their deliveries; opened when there is one to insert. */
typedef struct Writer
{
	bool		open;
	MemoryContext context;		/* current when the writer was set up */
	EState	   *estate;
	CwhRows		events;
	CwhRows		deliveries;
	bool		behind;			/* deliver when nothing else is due */
} Writer;

/*
 * The first columns of a queue row as they are in its tuple: fixed in length
 * and never null, like those of a catalog's FormData_ struct.
 */
typedef struct QueueHead
{
	int64		id;
	pg_uuid_t	webhook_id;
} QueueHead;

/* Where a value of an event comes from. */
typedef struct Source
{
	char	   *key;			/* in data */
	AttrNumber	column;			/* 0: a constant */
	char	   *constant;
	Oid			type;			/* the column's; of a domain, its base type */
	FmgrInfo	to_jsonb;		/* set up for that type */
	ExprState  *generate;		/* of a virtual generated column, else null */
	ExprContext *row;			/* to evaluate that in */
} Source;

/* A trigger's arguments, parsed. */
typedef struct TriggerPlan
{
	Oid			trigger;		/* hash key */
	Oid			relation;		/* that it is on */
	bool		valid;			/* the relation has not changed since */
	MemoryContext context;		/* of everything below */
	char	   *type;			/* of the events */
	Source	   *chatbot;		/* null: none */
	Source	   *conversation;	/* null: none */
	Source	   *data;
	int			ndata;
	bool		by_settings;	/* a value's text depends on the session */
} TriggerPlan;

static HTAB *plans = NULL;		/* of TriggerPlan */

/*
 * Writing
 */

/* Set up a writer, without opening it. */
static void
init_writer(Writer *writer)
{
	writer->open = false;
	writer->behind = false;
	writer->context = CurrentMemoryContext;
}

/* Open a writer, unless it is open. */
static void
open_writer(Writer *writer)
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
	cwh_rows_open(&writer->deliveries, writer->estate, CWH_REL_QUEUE,
				  CWH_QUEUE_COLUMNS);
	cwh_rows_open(&writer->events, writer->estate, CWH_REL_EVENT,
				  CWH_EVENT_COLUMNS);
	MemoryContextSwitchTo(oldcontext);
	writer->open = true;
}

/* Insert what is buffered, and close the writer. */
static void
close_writer(Writer *writer)
{
	if (!writer->open)
		return;
	cwh_rows_close(&writer->events);
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
			above = Max(largest_id(CWH_REL_QUEUE, CWH_REL_QUEUE_PKEY),
						Max(largest_id(CWH_REL_HISTORY, CWH_REL_HISTORY_PKEY),
							largest_id(CWH_REL_DEAD, CWH_REL_DEAD_PKEY)));
			max_id_read = true;
		}
		return cwh_next_id(now, above);
	}
	return nextval_internal(cwh_relation(CWH_REL_DELIVERY_ID_SEQ), false);
}

/* Write an event's delivery to a webhook. */
static void
write_delivery(Writer *writer, const CwhEvent *event,
			   const pg_uuid_t *webhook_id, int64 id, bool ordered)
{
	TupleTableSlot *slot = cwh_rows_next(&writer->deliveries);

	cwh_set_column(slot, CWH_QUEUE_ID, Int64GetDatum(id));
	cwh_set_column(slot, CWH_QUEUE_WEBHOOK_ID, UUIDPGetDatum(webhook_id));
	cwh_set_column(slot, CWH_QUEUE_EVENT_ID, UUIDPGetDatum(&event->id));
	cwh_set_column(slot, CWH_QUEUE_CREATED_AT,
				   TimestampTzGetDatum(event->created_at));
	cwh_set_column(slot, CWH_QUEUE_NEXT_ATTEMPT_AT,
				   TimestampTzGetDatum(writer->behind ? DT_NOEND :
									   event->created_at));
	cwh_set_column(slot, CWH_QUEUE_ATTEMPTS, Int32GetDatum(0));
	cwh_set_column(slot, CWH_QUEUE_FIRST_ATTEMPT, Int32GetDatum(0));
	cwh_set_column(slot, CWH_QUEUE_LAST_WAIT_MS, Int64GetDatum(0));
	cwh_set_text(slot, CWH_QUEUE_CHATBOT_ID, event->chatbot_id);
	cwh_set_text(slot, CWH_QUEUE_CONVERSATION_ID, event->conversation_id);
	cwh_set_column(slot, CWH_QUEUE_ORDERED, BoolGetDatum(ordered));
	ExecStoreVirtualTuple(slot);
	/* the event's memory may be reset before the row is inserted */
	ExecMaterializeSlot(slot);
}

/*
 * Write another delivery of the last one's event, with the same "ordered", by
 * copying the last row.  Returns false if that is not possible.  Forming each
 * row anew would make emitting with fan-out 5 cost 5 % more instructions, and
 * with fan-out 20 8 % more.
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

/*
 * Can the deliveries of an event be ordered?  The index that finds those of a
 * conversation cannot hold a longer id; an id proper is much shorter.
 */
static bool
may_be_ordered(const CwhEvent *event)
{
	return event->conversation_id &&
		strlen(event->conversation_id) <= MAX_ORDERED_ID;
}

/* Write an event, and its deliveries to these webhooks. */
static void
write_event(Writer *writer, const CwhEvent *event, List *subscriptions)
{
	TupleTableSlot *slot;
	const CwhSubscription *last = NULL; /* whose delivery was written last */
	ListCell   *cell;
	int64		first_id = PG_INT64_MAX;
	int64		last_id = 0;

	foreach(cell, subscriptions)
	{
		const CwhSubscription *subscription = lfirst(cell);
		int64		id = next_delivery_id(event->created_at);

		first_id = Min(first_id, id);
		last_id = Max(last_id, id);
		if (last == NULL || last->ordered != subscription->ordered ||
			!write_delivery_like_last(&writer->deliveries,
									  &subscription->webhook_id, id))
			write_delivery(writer, event, &subscription->webhook_id, id,
						   subscription->ordered && may_be_ordered(event));
		last = subscription;
		/* of those behind, a worker learns as it reads the queue from its head */
		cwh_hint(&subscription->webhook_id,
				 writer->behind ? DT_NOBEGIN : event->created_at, id, 1);
	}

	slot = cwh_rows_next(&writer->events);
	cwh_set_column(slot, CWH_EVENT_ID, UUIDPGetDatum(&event->id));
	cwh_set_text(slot, CWH_EVENT_TYPE, event->type);
	cwh_set_text(slot, CWH_EVENT_CHATBOT_ID, event->chatbot_id);
	cwh_set_text(slot, CWH_EVENT_CONVERSATION_ID, event->conversation_id);
	cwh_set_column(slot, CWH_EVENT_CREATED_AT, TimestampTzGetDatum(event->created_at));
	cwh_set_column(slot, CWH_EVENT_FIRST_DELIVERY, Int64GetDatum(first_id));
	cwh_set_column(slot, CWH_EVENT_LAST_DELIVERY, Int64GetDatum(last_id));
	cwh_set_column(slot, CWH_EVENT_DATA, JsonbPGetDatum(event->data));
	ExecStoreVirtualTuple(slot);
	ExecMaterializeSlot(slot);
}

/*
 * Checking
 */

/* Report an invalid event as severely as chatwebhook.validation says. */
#define REPORT_INVALID(...) \
	ereport(cwh_validation == CWH_VALIDATION_ERROR ? ERROR : WARNING, \
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), __VA_ARGS__))

/*
 * Is this 1 to 255 printable ASCII characters without spaces, so that it fits
 * into a request header, and into our cache?
 */
static bool
is_plain(const char *name)
{
	size_t		len = 0;

	while (name[len] > ' ' && name[len] <= '~' && len <= 255)
		len++;
	return name[len] == '\0' && len >= 1 && len <= 255;
}

/* Look up an event type; report it if it is invalid or unknown. */
static const CwhEventType *
check_type(const char *name)
{
	const CwhEventType *type;

	if (!is_plain(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid event type: \"%.*s\"",
						pg_mbcliplen(name, strlen(name), 100), name),
				 errdetail("It has %zu bytes.", strlen(name)),
				 errhint("Use 1 to 255 letters, digits, dots, _ and -, such as lead.captured.")));
	type = cwh_event_type(name);
	if (!type->known && cwh_validation != CWH_VALIDATION_OFF)
		REPORT_INVALID(errmsg("unknown event type: \"%s\"", name),
					   errhint("See the table chatwebhook.event_type, or add the type there first."));
	return type;
}

/* Report that a required key is missing or null. */
static void
report_missing_key(const char *type, const char *key)
{
	REPORT_INVALID(errmsg("event \"%s\" lacks the required key \"%s\"", type, key),
				   errhint("Add the key to data, with a value that is not null, or change the column \"required\" of chatwebhook.event_type."));
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

/* Raise an error if an event's data is too large as JSON. */
static void
check_size(const CwhEvent *event)
{
	if (cwh_json_fits(event->data, cwh_max_payload_size))
		return;
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
static void
check_event(const CwhEvent *event)
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
	check_size(event);
	error_context_stack = callback.previous;
}

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

/* The webhooks of this list whose filters match the event. */
static List *
apply_filters(List *subscriptions, const CwhEvent *event)
{
	bool		is_alert = strcmp(event->type, "webhook.alert") == 0;
	CwhFilterBudget budget = {
		.limit_ms = is_alert ? CWH_ALERT_FILTERS_MS : CWH_FILTERS_MS
	};
	Jsonb	   *envelope = NULL;
	List	   *result = NIL;
	ListCell   *cell;

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
	if (budget.left_out > 0)
		report_left_out(event, &budget);
	return result;
}

/*
 * Write an event for those of these webhooks whose filters match it.  Sets its
 * id and time.  Returns false, and writes nothing, if no filter matches.
 */
static bool
emit_event(Writer *writer, CwhEvent *event, List *subscriptions)
{
	event->created_at = GetCurrentTimestamp();
	cwh_uuidv7(&event->id, event->created_at);
	check_event(event);
	subscriptions = apply_filters(subscriptions, event);
	if (subscriptions == NIL)
		return false;
	open_writer(writer);
	write_event(writer, event, subscriptions);
	return true;
}

/*
 * From rows to events
 */

/* Add a string to a jsonb value that is being built. */
static void
push_string(CwhJsonbState *state, JsonbIteratorToken token,
			const char *string, size_t len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) string;
	value.val.string.len = len;
	cwh_push_jsonb(state, token, &value);
}

/* Add a column's value to data, as to_jsonb() would convert it. */
static void
push_datum(CwhJsonbState *state, Source *source, Datum datum)
{
	JsonbValue	value;
	Jsonb	   *jsonb;

	switch (source->type)
	{
			/* common types, without the detour through to_jsonb() */
		case TEXTOID:
		case VARCHAROID:
			{
				text	   *string = DatumGetTextPP(datum);

				push_string(state, WJB_VALUE, VARDATA_ANY(string),
							VARSIZE_ANY_EXHDR(string));
				return;
			}
		case BOOLOID:
			value.type = jbvBool;
			value.val.boolean = DatumGetBool(datum);
			cwh_push_jsonb(state, WJB_VALUE, &value);
			return;
		case INT4OID:
			value.type = jbvNumeric;
			value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int4_numeric, datum));
			cwh_push_jsonb(state, WJB_VALUE, &value);
			return;
		case INT8OID:
			value.type = jbvNumeric;
			value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int8_numeric, datum));
			cwh_push_jsonb(state, WJB_VALUE, &value);
			return;
		case UUIDOID:
			{
				char	   *string = palloc(CWH_UUID_LEN + 1);

				cwh_uuid_text(DatumGetUUIDP(datum), string);
				push_string(state, WJB_VALUE, string, CWH_UUID_LEN);
				return;
			}
		case JSONBOID:
			jsonb = DatumGetJsonbP(datum);
			break;
		default:
			jsonb = DatumGetJsonbP(FunctionCall1(&source->to_jsonb, datum));
			break;
	}
	if (!JB_ROOT_IS_SCALAR(jsonb) || !JsonbExtractScalar(&jsonb->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &jsonb->root;
		value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	cwh_push_jsonb(state, WJB_VALUE, &value);
}

/* A column's value in a row; a virtual generated column is computed. */
static Datum
row_value(Source *source, TupleTableSlot *slot, bool *isnull)
{
	if (source->generate == NULL)
		return slot_getattr(slot, source->column, isnull);
	source->row->ecxt_scantuple = slot;
	return ExecEvalExpr(source->generate, source->row, isnull);
}

/* Build an event's data from a row. */
static Jsonb *
row_data(TriggerPlan *plan, TupleTableSlot *slot)
{
	CwhJsonbState state = {0};

	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < plan->ndata; i++)
	{
		Source	   *source = &plan->data[i];
		Datum		datum;
		bool		isnull;

		push_string(&state, WJB_KEY, source->key, strlen(source->key));
		if (source->column == 0)
		{
			push_string(&state, WJB_VALUE, source->constant,
						strlen(source->constant));
			continue;
		}
		datum = row_value(source, slot, &isnull);
		if (isnull)
		{
			JsonbValue	value;

			value.type = jbvNull;
			cwh_push_jsonb(&state, WJB_VALUE, &value);
		}
		else
			push_datum(&state, source, datum);
	}
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

/* A row's chatbotId or conversationId as a string, or null. */
static char *
row_text(Source *source, TupleTableSlot *slot)
{
	Datum		datum;
	bool		isnull;
	Oid			output;
	bool		is_varlena;

	if (source == NULL)
		return NULL;
	if (source->column == 0)
		return source->constant;
	datum = row_value(source, slot, &isnull);
	if (isnull)
		return NULL;
	if (source->type == TEXTOID || source->type == VARCHAROID)
		return TextDatumGetCString(datum);
	getTypeOutputInfo(source->type, &output, &is_varlena);
	return OidOutputFunctionCall(output, datum);
}

/* Check that a row provides the keys that its event type requires. */
static void
check_row_keys(TriggerPlan *plan, const CwhEventType *type,
			   TupleTableSlot *slot)
{
	if (cwh_validation == CWH_VALIDATION_OFF)
		return;
	for (int i = 0; i < type->nrequired; i++)
	{
		bool		missing = true;

		for (int j = 0; j < plan->ndata && missing; j++)
		{
			Source	   *source = &plan->data[j];

			if (strcmp(source->key, type->required[i]) == 0)
			{
				missing = false;
				if (source->column != 0)
					(void) row_value(source, slot, &missing);
			}
		}
		if (missing)
			report_missing_key(type->name, type->required[i]);
	}
}

/* Emit the event of one row. */
static void
emit_row(Writer *writer, TriggerPlan *plan, TupleTableSlot *slot)
{
	const CwhEventType *type = check_type(plan->type);
	List	   *subscriptions;
	CwhEvent	event;
	int			level;

	check_row_keys(plan, type, slot);
	if (!type->wanted)
		return;
	level = plan->by_settings ? cwh_fix_settings() : 0;
	event.type = plan->type;
	event.chatbot_id = row_text(plan->chatbot, slot);
	event.conversation_id = row_text(plan->conversation, slot);
	subscriptions = cwh_subscriptions(plan->type, event.chatbot_id);
	if (subscriptions != NIL)
		event.data = row_data(plan, slot);
	if (level > 0)
		AtEOXact_GUC(true, level);

	/*
	 * row_data() may have called a user's function, such as a type's output
	 * function.  If that emitted an event or changed a webhook, our list may
	 * have been freed.
	 */
	subscriptions = cwh_subscriptions(plan->type, event.chatbot_id);
	if (subscriptions == NIL)
		return;
	(void) emit_event(writer, &event, subscriptions);
}

/*
 * The trigger
 */

/* Relcache callback: a relation has changed, or all if relid is invalid. */
static void
on_relation_change(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	TriggerPlan *plan;

	hash_seq_init(&status, plans);
	while ((plan = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || relid == plan->relation)
			plan->valid = false;
}

/*
 * Parse one argument of a trigger: a key of data or of the envelope, and its
 * origin, a column's name or "@" and a constant.
 */
static void
set_source(Source *source, TupleDesc desc, Relation relation,
		   const char *key, const char *origin)
{
	memset(source, 0, sizeof(Source));
	source->key = pstrdup(key);
	if (origin[0] == '@')
	{
		source->constant = pstrdup(origin + 1);
		return;
	}
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		Expr	   *expression;

		if (attribute->attisdropped ||
			strcmp(NameStr(attribute->attname), origin) != 0)
			continue;
		source->column = i + 1;
		source->type = getBaseType(attribute->atttypid);
		/* to_jsonb() gets its argument's type from the call's expression */
		fmgr_info(F_TO_JSONB, &source->to_jsonb);
		fmgr_info_set_expr((Node *)
						   makeFuncExpr(F_TO_JSONB, JSONBOID,
										list_make1(makeNullConst(source->type, -1, InvalidOid)),
										InvalidOid, InvalidOid,
										COERCE_EXPLICIT_CALL),
						   &source->to_jsonb);
		expression = cwh_virtual_expression(relation, attribute);
		if (expression)
		{
			source->generate = ExecInitExpr(expression_planner(expression), NULL);
			source->row = CreateStandaloneExprContext();
		}
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of relation \"%s\" does not exist",
					origin, RelationGetRelationName(relation)),
			 errdetail("The trigger passes it to chatwebhook.emit() for the key \"%s\".",
					   key),
			 errhint("Re-create the trigger with the name of a column; a constant is written with a leading @.")));
}

/* Parse a trigger's arguments, in the plan's memory. */
static void
make_plan(TriggerPlan *plan, Trigger *trigger, Relation relation)
{
	TupleDesc	desc = RelationGetDescr(relation);
	bool		whole_row;

	if (trigger->tgnargs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" passes no event type to chatwebhook.emit()",
						trigger->tgname),
				 errhint("The first argument is the event type, such as 'lead.captured'.")));
	plan->type = pstrdup(trigger->tgargs[0]);
	plan->chatbot = NULL;
	plan->conversation = NULL;
	plan->ndata = 0;
	plan->data = palloc((trigger->tgnargs + desc->natts) * sizeof(Source));

	for (int i = 1; i < trigger->tgnargs; i++)
	{
		char	   *key = pstrdup(trigger->tgargs[i]);
		char	   *equals = strchr(key, '=');
		const char *origin = key;

		if (equals)
		{
			*equals = '\0';
			origin = equals + 1;
		}
		if (strcmp(key, "chatbotId") == 0)
		{
			plan->chatbot = palloc(sizeof(Source));
			set_source(plan->chatbot, desc, relation, key, origin);
		}
		else if (strcmp(key, "conversationId") == 0)
		{
			plan->conversation = palloc(sizeof(Source));
			set_source(plan->conversation, desc, relation, key, origin);
		}
		else
			set_source(&plan->data[plan->ndata++], desc, relation, key, origin);
	}

	/* no keys of data: the whole row, except the columns in the envelope */
	whole_row = plan->ndata == 0;
	for (int i = 0; whole_row && i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attisdropped ||
			(plan->chatbot && plan->chatbot->column == i + 1) ||
			(plan->conversation && plan->conversation->column == i + 1))
			continue;
		set_source(&plan->data[plan->ndata++], desc, relation,
				   NameStr(attribute->attname), NameStr(attribute->attname));
	}

	plan->by_settings =
		(plan->chatbot && cwh_depends_on_settings(plan->chatbot->type)) ||
		(plan->conversation && cwh_depends_on_settings(plan->conversation->type));
	for (int i = 0; i < plan->ndata && !plan->by_settings; i++)
		plan->by_settings = cwh_depends_on_settings(plan->data[i].type);
}

/* Get the plan of a trigger. */
static TriggerPlan *
get_plan(Trigger *trigger, Relation relation)
{
	TriggerPlan *plan;
	MemoryContext oldcontext;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		info;

		memset(&info, 0, sizeof(info));
		info.keysize = sizeof(Oid);
		info.entrysize = sizeof(TriggerPlan);
		info.hcxt = CacheMemoryContext;
		plans = hash_create("chatwebhook triggers", 16, &info,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	}
	plan = hash_search(plans, &trigger->tgoid, HASH_ENTER, &found);
	if (found && plan->valid)
		return plan;

	/*
	 * A caller up the stack may still use the old plan, so it lives on until
	 * the transaction ends.
	 */
	if (found && plan->context)
		MemoryContextSetParent(plan->context, TopTransactionContext);
	plan->valid = false;
	plan->relation = RelationGetRelid(relation);
	plan->context = AllocSetContextCreate(CacheMemoryContext,
										  "chatwebhook trigger",
										  ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(plan->context);
	make_plan(plan, trigger, relation);
	MemoryContextSwitchTo(oldcontext);
	plan->valid = true;
	return plan;
}

/* Can all events of this type be skipped without looking at the rows? */
static bool
is_idle(const char *name)
{
	const CwhEventType *type;

	if (!is_plain(name))
		return false;
	type = cwh_event_type(name);
	return type->known && !type->wanted &&
		(type->nrequired == 0 || cwh_validation == CWH_VALIDATION_OFF);
}

/* Emit the events of all rows of a transition table. */
static void
emit_rows(Writer *writer, TriggerPlan *plan, Relation relation,
		  Tuplestorestate *rows)
{
	TupleTableSlot *slot;
	MemoryContext context;
	MemoryContext oldcontext;

	if (tuplestore_tuple_count(rows) == 0 || is_idle(plan->type))
		return;
	slot = MakeSingleTupleTableSlot(RelationGetDescr(relation),
									&TTSOpsMinimalTuple);
	context = AllocSetContextCreate(CurrentMemoryContext, "chatwebhook row",
									ALLOCSET_DEFAULT_SIZES);
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		oldcontext = MemoryContextSwitchTo(context);
		emit_row(writer, plan, slot);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	ExecDropSingleTupleTableSlot(slot);
}

/* SQL trigger: emit the event of a row, or the events of a statement's rows. */
Datum
chatwebhook_emit_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TriggerPlan *plan;
	Writer		writer;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"emit\" was not called by a trigger")));
	if (!TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" is not an AFTER trigger",
						data->tg_trigger->tgname),
				 errhint("Create it with AFTER INSERT, UPDATE or DELETE.")));
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" is on TRUNCATE, which has no rows",
						data->tg_trigger->tgname)));

	/* see webhooks that others have committed since our transaction began */
	AcceptInvalidationMessages();
	plan = get_plan(data->tg_trigger, data->tg_relation);
	init_writer(&writer);
	if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
	{
		emit_row(&writer, plan,
				 TRIGGER_FIRED_BY_UPDATE(data->tg_event) ?
				 data->tg_newslot : data->tg_trigslot);
	}
	else
	{
		Tuplestorestate *rows = TRIGGER_FIRED_BY_DELETE(data->tg_event) ?
			data->tg_oldtable : data->tg_newtable;

		if (rows == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
					 errmsg("statement trigger \"%s\" has no transition table",
							data->tg_trigger->tgname),
					 errhint("Create it with REFERENCING NEW TABLE AS, or OLD TABLE AS for DELETE, or FOR EACH ROW.")));
		emit_rows(&writer, plan, data->tg_relation, rows);
	}
	close_writer(&writer);
	return PointerGetDatum(NULL);
}

/*
 * The function
 */

/* Check that data has the keys that its event type requires. */
static void
check_keys(const CwhEventType *type, Jsonb *data)
{
	if (cwh_validation == CWH_VALIDATION_OFF)
		return;
	for (int i = 0; i < type->nrequired; i++)
	{
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&data->root, type->required[i],
										 strlen(type->required[i]),
										 &value) == NULL ||
			value.type == jbvNull)
			report_missing_key(type->name, type->required[i]);
	}
}

/* A list of webhooks without those in an array. */
static List *
leave_out(List *subscriptions, ArrayType *webhook_ids)
{
	Datum	   *ids;
	bool	   *nulls;
	int			n;
	List	   *result = NIL;
	ListCell   *cell;

	deconstruct_array(webhook_ids, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					  &ids, &nulls, &n);
	foreach(cell, subscriptions)
	{
		CwhSubscription *subscription = lfirst(cell);
		bool		found = false;

		for (int i = 0; i < n && !found; i++)
			found = !nulls[i] &&
				memcmp(&subscription->webhook_id, DatumGetUUIDP(ids[i]),
					   UUID_LEN) == 0;
		if (!found)
			result = lappend(result, subscription);
	}
	return result;
}

/*
 * Emit the event that four arguments of a call, beginning with "first",
 * describe.  It goes to all webhooks that want it; or if "only" is given, to
 * that one whether it wants it or not, but after all that is due; or if "but" is given, not to those.
 */
static Datum
emit_arguments(FunctionCallInfo fcinfo, int first, const pg_uuid_t *only,
			   ArrayType *but)
{
	NullableDatum *args = &fcinfo->args[first];
	const CwhEventType *type;
	CwhSubscription one;
	List	   *subscriptions;
	CwhEvent	event;
	Writer		writer;
	pg_uuid_t  *id;

	PreventCommandDuringRecovery("chatwebhook.emit()");
	PreventCommandIfReadOnly("chatwebhook.emit()");
	if (args[0].isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the event type is null")));
	event.type = TextDatumGetCString(args[0].value);
	event.chatbot_id = args[1].isnull ? NULL : TextDatumGetCString(args[1].value);
	event.conversation_id = args[2].isnull ? NULL :
		TextDatumGetCString(args[2].value);
	event.data = args[3].isnull ?
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) :
		DatumGetJsonbP(args[3].value);
	/* see webhooks that others have committed since our transaction began */
	AcceptInvalidationMessages();
	type = check_type(event.type);
	if (!JB_ROOT_IS_OBJECT(event.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the data of event \"%s\" is not an object", event.type),
				 errhint("Wrap it in an object, such as jsonb_build_object('value', ...).")));
	check_keys(type, event.data);
	if (only)
	{
		memset(&one, 0, sizeof(one));
		one.webhook_id = *only;
		subscriptions = list_make1(&one);
	}
	else
		subscriptions = type->wanted ?
			cwh_subscriptions(event.type, event.chatbot_id) : NIL;
	if (but)
		subscriptions = leave_out(subscriptions, but);
	if (subscriptions == NIL)
		PG_RETURN_NULL();
	init_writer(&writer);
	writer.behind = only != NULL;
	if (!emit_event(&writer, &event, subscriptions))
		PG_RETURN_NULL();
	close_writer(&writer);
	id = palloc(sizeof(pg_uuid_t));
	*id = event.id;
	PG_RETURN_UUID_P(id);
}

/* SQL: emit an event. */
Datum
chatwebhook_emit(PG_FUNCTION_ARGS)
{
	return emit_arguments(fcinfo, 0, NULL, NULL);
}

/* SQL: emit an event to one webhook. */
Datum
chatwebhook_emit_to(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return emit_arguments(fcinfo, 1, PG_GETARG_UUID_P(0), NULL);
}

/* SQL: emit an event to all webhooks that want it, except some. */
Datum
chatwebhook_emit_but(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return emit_arguments(fcinfo, 1, NULL, PG_GETARG_ARRAYTYPE_P(0));
}

/* SQL: the webhooks that want an event, if their filters match it. */
Datum
chatwebhook_subscribers(PG_FUNCTION_ARGS)
{
	const CwhEventType *type;
	List	   *subscriptions = NIL;
	ListCell   *cell;
	Datum	   *ids;
	int			n = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	AcceptInvalidationMessages();
	type = check_type(TextDatumGetCString(PG_GETARG_DATUM(0)));
	if (type->wanted)
		subscriptions = cwh_subscriptions(TextDatumGetCString(PG_GETARG_DATUM(0)),
										  PG_ARGISNULL(1) ? NULL :
										  TextDatumGetCString(PG_GETARG_DATUM(1)));
	ids = palloc((list_length(subscriptions) + 1) * sizeof(Datum));
	foreach(cell, subscriptions)
	{
		CwhSubscription *subscription = lfirst(cell);

		ids[n++] = UUIDPGetDatum(&subscription->webhook_id);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(ids, n, UUIDOID, UUID_LEN, false,
										  TYPALIGN_CHAR));
}
