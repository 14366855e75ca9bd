/*
 * emit_options.c
 *		When a delivery may be sent, and the key of an event.
 *
 * These functions run in the session that emits, within its transaction, and
 * only for events whose emit() call has optional arguments, or whose webhooks
 * debounce.  A session that passes a key waits for another one that has
 * emitted with the same key and whose transaction has not ended, as with a
 * unique index.  Nothing else in here waits.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "emit_options.h"
#include "rows.h"

/* The longest key, in bytes. */
#define MAX_KEY			255

/* How far ahead a delivery can be scheduled. */
#define MAX_AHEAD_DAYS	366

/*
 * A debounced delivery is held for at most this many times its webhook's
 * debounce.
 */
#define MAX_DEBOUNCES	5

/* Get an argument that is a time. */
static TimestampTz
time_argument(NullableDatum arg, const char *name, TimestampTz if_null)
{
	TimestampTz at;

	if (arg.isnull)
		return if_null;
	at = DatumGetTimestampTz(arg.value);
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is infinite", name),
				 errhint("Pass a time, or null for none.")));
	return at;
}

/* Check a key. */
static void
check_key(const char *key)
{
	size_t		len = strlen(key);

	if (len >= 1 && len <= MAX_KEY)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the key of an event is %s", len == 0 ? "empty" : "too long"),
			 errdetail("It has %zu bytes.", len),
			 errhint("Pass 1 to %d bytes that name what has happened, such as order-17, or null for no key.",
					 MAX_KEY)));
}

/*
 * Read three arguments of a call, beginning with "first".  Returns false if all
 * are null.
 */
bool
cwh_read_emit_options(FunctionCallInfo fcinfo, int first,
					  CwhEmitOptions *options)
{
	NullableDatum *args = &fcinfo->args[first];

	if (args[0].isnull && args[1].isnull && args[2].isnull)
		return false;
	options->deliver_at = time_argument(args[0], "deliver_at", DT_NOBEGIN);
	options->expires_at = time_argument(args[1], "expires_at", DT_NOEND);
	options->key = args[2].isnull ? NULL : TextDatumGetCString(args[2].value);
	if (options->deliver_at > GetCurrentTimestamp() + MAX_AHEAD_DAYS * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deliver_at is more than a year ahead"),
				 errdetail("It is %s.", timestamptz_to_str(options->deliver_at)),
				 errhint("Emit the event later.")));
	if (options->expires_at <= options->deliver_at)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires_at is not after deliver_at"),
				 errdetail("The event could never be sent."),
				 errhint("Pass a later expires_at, or null if it does not expire.")));
	if (options->key)
		check_key(options->key);
	return true;
}

/* What identifies an event with a key: its type, its chatbot, and the key. */
static Datum
key_digest(const CwhEvent *event, const char *key)
{
	StringInfoData buffer;
	bytea	   *bytes;

	/* zero-terminate each text, so that different keys give different bytes */
	initStringInfo(&buffer);
	appendBinaryStringInfo(&buffer, event->type, strlen(event->type) + 1);
	appendStringInfoChar(&buffer, event->chatbot_id ? 'c' : 'n');
	if (event->chatbot_id)
		appendBinaryStringInfo(&buffer, event->chatbot_id,
							   strlen(event->chatbot_id) + 1);
	appendBinaryStringInfo(&buffer, key, strlen(key));
	bytes = (bytea *) cstring_to_text_with_len(buffer.data, buffer.len);
	return DirectFunctionCall1(sha256_bytea, PointerGetDatum(bytes));
}

/*
 * Look up the function _take_key().  It runs with its owner's rights, and the
 * role that emits has no privilege to call it by itself.
 */
static Oid
take_key_function(void)
{
	Oid			types[] = {BYTEAOID, UUIDOID};
	Oid			namespace = get_namespace_oid("chatwebhook", false);
	Oid			function;

	function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							   CStringGetDatum("_take_key"),
							   PointerGetDatum(buildoidvector(types, 2)),
							   ObjectIdGetDatum(namespace));
	if (!OidIsValid(function))
		elog(ERROR, "function _take_key is missing");
	return function;
}

/*
 * Take the event's key, if it has one.  If another event has it, returns false
 * and sets the id to that event's.
 */
bool
cwh_take_key(const CwhEmitOptions *options, CwhEvent *event)
{
	Datum		taken;
	pg_uuid_t	id;

	if (options->key == NULL)
		return true;
	taken = OidFunctionCall2(take_key_function(),
							 key_digest(event, options->key),
							 UUIDPGetDatum(&event->id));
	id = *DatumGetUUIDP(taken);
	if (memcmp(&id, &event->id, UUID_LEN) == 0)
		return true;
	event->id = id;
	return false;
}

/* Keep in an event's row, for delivery nodes, when its deliveries may be sent. */
void
cwh_keep_emit_options(TupleTableSlot *slot, const CwhEmitOptions *options)
{
	if (options->deliver_at != DT_NOBEGIN)
		cwh_set_column(slot, CWH_EVENT_DELIVER_AT,
					   TimestampTzGetDatum(options->deliver_at));
	if (options->expires_at != DT_NOEND)
		cwh_set_column(slot, CWH_EVENT_EXPIRES_AT,
					   TimestampTzGetDatum(options->expires_at));
}

/*
 * Schedule a delivery, a new row of queue with this id, which is ordered or not.
 * Returns the time before which it must not be sent, or 0.
 */
TimestampTz
cwh_apply_emit_options(TupleTableSlot *slot, const CwhEmitOptions *options,
					   int64 id, bool ordered, TimestampTz now)
{
	char		burst[MAXINT8LEN + 2];

	if (options->expires_at != DT_NOEND)
		cwh_set_column(slot, CWH_QUEUE_EXPIRES_AT,
					   TimestampTzGetDatum(options->expires_at));
	if (options->deliver_at <= now)
		return 0;
	cwh_set_column(slot, CWH_QUEUE_DELIVER_AT,
				   TimestampTzGetDatum(options->deliver_at));
	cwh_set_column(slot, CWH_QUEUE_NEXT_ATTEMPT_AT,
				   TimestampTzGetDatum(options->deliver_at));
	if (!ordered)
		return options->deliver_at;

	/*
	 * Deliveries behind it must not wait until then.  debounce.c makes it one of
	 * its conversation's when it is due, as it does with the last of a burst; no
	 * event type begins with a blank, so it is a burst of its own.
	 */
	snprintf(burst, sizeof(burst), " " INT64_FORMAT, id);
	cwh_set_text(slot, CWH_QUEUE_DEBOUNCED, burst);
	cwh_set_column(slot, CWH_QUEUE_DEBOUNCE_UNTIL,
				   TimestampTzGetDatum(options->deliver_at));
	cwh_set_column(slot, CWH_QUEUE_ORDERED, BoolGetDatum(false));
	return options->deliver_at;
}

/*
 * Hold a delivery, a new row of queue, until no other of its burst has
 * followed for a while.  Returns when that is if none comes.
 */
TimestampTz
cwh_debounce_delivery(TupleTableSlot *slot, const char *event_type,
					  TimestampTz due, int64 debounce_us)
{
	TimestampTz quiet = due + debounce_us;

	cwh_set_text(slot, CWH_QUEUE_DEBOUNCED, event_type);
	cwh_set_column(slot, CWH_QUEUE_DEBOUNCE_UNTIL,
				   TimestampTzGetDatum(due + MAX_DEBOUNCES * debounce_us));
	cwh_set_column(slot, CWH_QUEUE_NEXT_ATTEMPT_AT, TimestampTzGetDatum(quiet));
	/* debounce.c sets this when the delivery is due */
	cwh_set_column(slot, CWH_QUEUE_ORDERED, BoolGetDatum(false));
	return quiet;
}
