/*
 * arrive.c
 *		Takes events that logical replication brings from an outbox.
 *
 * A row trigger BEFORE INSERT on the table event, in the process that applies the
 * subscription: an apply worker, or the worker of an initial copy, which may bring
 * an event that has arrived already.  The deliveries are written in the same
 * transaction as the event, so the subscription confirms both or neither, and the
 * worker is woken when it commits.
 *
 * An error would stop the replication.  So an event that cannot be delivered is
 * left out, and counted like one that a watch could not emit.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "compat.h"
#include "emit_report.h"
#include "reader.h"
#include "settings.h"
#include "write.h"

PG_FUNCTION_INFO_V1(chatwebhook_arrive);

/* Is an event with this id here already, even from the same statement? */
static bool
is_here(Relation relation, const pg_uuid_t *id)
{
	Relation	index = index_open(cwh_relation(CWH_REL_EVENT_PKEY), AccessShareLock);
	IndexScanDesc scan = cwh_begin_index_scan(relation, index, SnapshotSelf, 1);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	ScanKeyData key;
	bool		found;

	cwh_key_uuid(&key, 1, id);
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return found;
}

/* A column of the row; an error if it is null. */
static Datum
required(TupleTableSlot *row, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(row, column + 1, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("column \"%s\" of the event is null",
						NameStr(TupleDescAttr(row->tts_tupleDescriptor, column)->attname))));
	return value;
}

/* A column of type text. */
static char *
optional_text(TupleTableSlot *row, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(row, column + 1, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* A time, or what stands for none. */
static TimestampTz
optional_time(TupleTableSlot *row, int column, TimestampTz if_null)
{
	bool		isnull;
	Datum		value = slot_getattr(row, column + 1, &isnull);

	if (isnull)
		return if_null;
	if (TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value)))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("column \"%s\" of the event is infinite",
						NameStr(TupleDescAttr(row->tts_tupleDescriptor, column)->attname))));
	return DatumGetTimestampTz(value);
}

/*
 * Read an event from its row.  The outbox has checked it, but another server's
 * limits may be others, and anything can be inserted there by hand.
 */
static void
read_event(CwhEvent *event, CwhEmitOptions *options, TupleTableSlot *row)
{
	event->type = TextDatumGetCString(required(row, CWH_EVENT_TYPE));
	if (!cwh_is_plain(event->type))
	{
		event->type = "";
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid event type")));
	}
	event->id = *DatumGetUUIDP(required(row, CWH_EVENT_ID));
	event->chatbot_id = optional_text(row, CWH_EVENT_CHATBOT_ID);
	event->conversation_id = optional_text(row, CWH_EVENT_CONVERSATION_ID);
	event->created_at = DatumGetTimestampTz(required(row, CWH_EVENT_CREATED_AT));
	if (TIMESTAMP_NOT_FINITE(event->created_at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("created_at of event \"%s\" is infinite", event->type)));
	options->deliver_at = optional_time(row, CWH_EVENT_DELIVER_AT, DT_NOBEGIN);
	options->expires_at = optional_time(row, CWH_EVENT_EXPIRES_AT, DT_NOEND);
	options->key = NULL;
	event->data = DatumGetJsonbP(required(row, CWH_EVENT_DATA));
	if (!JB_ROOT_IS_OBJECT(event->data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the data of event \"%s\" is not an object", event->type)));
	cwh_check_event(event);
}

/* The same; false if that raises an error, which is counted. */
static bool
try_read_event(CwhEvent *event, CwhEmitOptions *options, const TriggerData *data)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	Trigger		trigger = *data->tg_trigger;
	char	   *type;

	event->type = "";
	/* this only reads the row and allocates memory */
	PG_TRY();
	{
		read_event(event, options, data->tg_trigslot);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (error == NULL)
		return true;
	if (cwh_ends_statement(error))
		ReThrowError(error);
	/* the report takes the event's type from the trigger's arguments */
	type = pstrdup(event->type);
	trigger.tgnargs = 1;
	trigger.tgargs = &type;
	cwh_report_failure(&trigger, data->tg_relation, data->tg_trigslot, error, true);
	return false;
}

/* The webhooks that want an event. */
static List *
find_subscriptions(const CwhEvent *event)
{
	/* see webhooks that were committed since the transaction began */
	AcceptInvalidationMessages();
	if (!cwh_event_type(event->type)->wanted)
		return NIL;
	return cwh_apply_filters(cwh_subscriptions(event->type, event->chatbot_id),
							 event);
}

/* Was this event delivered where it comes from, before that became an outbox? */
static bool
has_deliveries(TupleTableSlot *row)
{
	bool		isnull;

	(void) slot_getattr(row, CWH_EVENT_FIRST_DELIVERY + 1, &isnull);
	return !isnull;
}

/* The row of an event with the ids of its deliveries. */
static HeapTuple
with_deliveries(const TriggerData *data, const CwhWriter *writer)
{
	int			columns[] = {CWH_EVENT_FIRST_DELIVERY + 1, CWH_EVENT_LAST_DELIVERY + 1};
	Datum		values[] = {
		Int64GetDatum(writer->first_delivery), Int64GetDatum(writer->last_delivery)
	};
	bool		nulls[] = {false, false};

	return heap_modify_tuple_by_cols(data->tg_trigtuple,
									 RelationGetDescr(data->tg_relation),
									 lengthof(columns), columns, values, nulls);
}

/*
 * SQL trigger: write the deliveries of an event that has arrived.  The row is left
 * out if the event is here already, was delivered where it comes from, or nobody
 * wants it.
 */
Datum
chatwebhook_arrive(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	CwhEvent	event;
	CwhEmitOptions options;
	CwhWriter	writer;
	List	   *subscriptions;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		RelationGetRelid(data->tg_relation) != cwh_relation(CWH_REL_EVENT))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_arrive\" was not called by its trigger")));
	/* our own functions run with session_replication_role = replica, too */
	if (!cwh_is_replicated())
		return PointerGetDatum(data->tg_trigtuple);
	/* a copy of a delivery node must not take events that the node has not got */
	if (!cwh_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("events of an outbox are not taken while chatwebhook.enabled is off")));
	if (has_deliveries(data->tg_trigslot) ||
		!try_read_event(&event, &options, data) ||
		is_here(data->tg_relation, &event.id))
		return PointerGetDatum(NULL);
	/* an outbox passes it on to those that subscribe to it in turn */
	if (cwh_outbox)
		return PointerGetDatum(data->tg_trigtuple);
	subscriptions = find_subscriptions(&event);
	if (subscriptions == NIL)
		return PointerGetDatum(NULL);
	cwh_writer_init(&writer);
	writer.arrived_at = GetCurrentTimestamp();
	if (options.deliver_at != DT_NOBEGIN || options.expires_at != DT_NOEND)
		writer.options = &options;
	cwh_write_deliveries(&writer, &event, subscriptions);
	cwh_writer_close(&writer);
	return PointerGetDatum(with_deliveries(data, &writer));
}
