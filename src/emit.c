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
 * queue, identity, history and dead, for the first id of a process.  Rows
 * are inserted without SQL (see rows.c).
 *
 * An event that no webhook wants is not stored, and costs little more than a
 * lookup in the cache of subscription.c.  With chatwebhook.outbox, every event is
 * stored, and nothing else: delivery nodes find out who wants it (arrive.c).
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
#include "portability/instr_time.h"
#include "replication/logicalworker.h"
#include "replication/worker_internal.h"
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
#include "deadline.h"
#include "emit_options.h"
#include "emit_report.h"
#include "envelope.h"
#include "filter.h"
#include "mapping.h"
#include "progress.h"
#include "query.h"
#include "rows.h"
#include "settings.h"
#include "shared.h"
#include "subscription.h"
#include "validator.h"
#include "value.h"
#include "write.h"

PG_FUNCTION_INFO_V1(chatwebhook_emit);
PG_FUNCTION_INFO_V1(chatwebhook_emit_trigger);
PG_FUNCTION_INFO_V1(chatwebhook_emit_to);
PG_FUNCTION_INFO_V1(chatwebhook_emit_but);
PG_FUNCTION_INFO_V1(chatwebhook_subscribers);
PG_FUNCTION_INFO_V1(chatwebhook_wanted);

/* The messages and the hint for a query that took too long. */
#define TOO_SLOW		"the query took longer than %d ms"
#define ALL_TOO_SLOW	"the queries of a statement took longer than %d ms"
#define TOO_SLOW_HINT	"Simplify the query, add an index, or increase chatwebhook.emit_timeout."

/* What a trigger has fired for, if any, and what becomes of it. */
typedef struct Firing
{
	const Trigger *trigger;
	Relation	relation;
	TupleTableSlot *newslot;	/* null in a DELETE */
	TupleTableSlot *oldslot;	/* null in an INSERT, and in a statement trigger */
	CwhMapping *mapping;
	MemoryContext context;		/* of the events */
	CwhEvent	event;			/* of a mapping by columns */
	List	   *events;			/* of a query */
	const CwhEvent *checked;	/* event to check against its schema */
	bool		reads_values;	/* errors can be about values of the row */
	int			settings_level; /* of cwh_fix_settings(); 0: not in effect */
} Firing;

/* A query or a validator is running. */
static bool in_query = false;

/*
 * Checking
 */

/* Report an invalid event as severely as chatwebhook.validation says. */
#define REPORT_INVALID(...) \
	ereport(cwh_validation == CWH_VALIDATION_ERROR ? ERROR : WARNING, \
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), __VA_ARGS__))

/* Look up an event type; report it if it is invalid or unknown. */
static const CwhEventType *
check_type(const char *name)
{
	const CwhEventType *type;

	if (!cwh_is_plain(name))
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

/*
 * Write an event that has been checked, for those of these webhooks whose
 * filters match it.  Sets its id and time.  Returns false, and writes nothing,
 * if no filter matches.  If another event has its key, writes nothing either,
 * and sets its id to that event's.
 */
static bool
emit_event(CwhWriter *writer, CwhEvent *event, List *subscriptions)
{
	event->created_at = GetCurrentTimestamp();
	cwh_uuidv7(&event->id, event->created_at);
	subscriptions = cwh_apply_filters(subscriptions, event);
	if (subscriptions == NIL)
		return false;
	if (writer->options && !cwh_take_key(writer->options, event))
		return true;
	cwh_write_event(writer, event, subscriptions);
	return true;
}

/*
 * From rows to events
 */

/* The row that a mapping by columns takes values from. */
static TupleTableSlot *
mapped_row(const Firing *firing)
{
	return firing->newslot ? firing->newslot : firing->oldslot;
}

/* Check that a row provides the keys that its event type requires. */
static void
check_row_keys(Firing *firing, const CwhEventType *type)
{
	if (cwh_validation == CWH_VALIDATION_OFF)
		return;
	for (int i = 0; i < type->nrequired; i++)
		if (!cwh_mapping_has_key(firing->mapping, type->required[i],
								 mapped_row(firing)))
			report_missing_key(type->name, type->required[i]);
}

/*
 * Step of a firing: check that events can be written.  In a read-only transaction
 * they cannot, although a row of a temporary table can.
 */
static void
check_writable(Firing *firing)
{
	PreventCommandIfReadOnly("chatwebhook.emit()");
}

/* Step of a firing: get its mapping. */
static void
find_mapping(Firing *firing)
{
	firing->mapping = cwh_make_mapping(firing->trigger, firing->relation);
}

/* Have values converted regardless of the session's settings, if they matter. */
static void
fix_settings(Firing *firing)
{
	if (firing->mapping->by_settings)
		firing->settings_level = cwh_fix_settings();
}

/* End that. */
static void
restore_settings(Firing *firing)
{
	if (firing->settings_level > 0)
		AtEOXact_GUC(true, firing->settings_level);
	firing->settings_level = 0;
}

/* Step of a firing: check the row's keys, and take its ids. */
static void
check_row(Firing *firing)
{
	CwhMapping *mapping = firing->mapping;
	MemoryContext oldcontext = MemoryContextSwitchTo(firing->context);

	fix_settings(firing);
	check_row_keys(firing, check_type(mapping->type));
	firing->reads_values = true;
	firing->event.type = mapping->type;
	firing->event.chatbot_id = cwh_mapping_text(mapping->chatbot,
												mapped_row(firing));
	firing->event.conversation_id = cwh_mapping_text(mapping->conversation,
													 mapped_row(firing));
	restore_settings(firing);
	MemoryContextSwitchTo(oldcontext);
}

/* Step of a firing: make the event of the row. */
static void
make_event(Firing *firing)
{
	CwhMapping *mapping = firing->mapping;
	MemoryContext oldcontext = MemoryContextSwitchTo(firing->context);

	fix_settings(firing);
	firing->reads_values = true;
	if (!cwh_mapping_fits(mapping, mapped_row(firing), cwh_max_payload_size))
		cwh_report_too_large(&firing->event);
	firing->event.data = cwh_mapping_data(mapping, mapped_row(firing));
	restore_settings(firing);
	cwh_check_event(&firing->event);
	MemoryContextSwitchTo(oldcontext);
}

/* Step of a firing: the same two for a row whose values can raise errors. */
static void
make_event_with_care(Firing *firing)
{
	const CwhEventType *type;

	check_row(firing);
	type = cwh_event_type(firing->mapping->type);
	if (type->wanted && cwh_subscriptions(firing->event.type,
										  firing->event.chatbot_id) != NIL)
		make_event(firing);
}

/* Step of a firing: run the query, and make events of its rows. */
static void
run_query(Firing *firing)
{
	CwhQuery   *query = firing->mapping->query;
	char	   *chatbot_id;
	List	   *rows;
	ListCell   *cell;
	MemoryContext oldcontext;

	if (!check_type(firing->mapping->type)->wanted)
		return;
	cwh_query_enter(query, firing->newslot, firing->oldslot);
	firing->reads_values = true;
	in_query = true;
	if (cwh_query_chatbot(query, &chatbot_id) &&
		cwh_subscriptions(firing->mapping->type, chatbot_id) == NIL)
		return;
	rows = cwh_query_run(query, firing->context);
	firing->reads_values = false;
	oldcontext = MemoryContextSwitchTo(firing->context);
	foreach(cell, rows)
	{
		CwhEvent   *event = palloc0(sizeof(CwhEvent));

		event->type = firing->mapping->type;
		event->data = cwh_query_row(lfirst(cell), &event->chatbot_id,
									&event->conversation_id);
		check_keys(cwh_event_type(event->type), event->data);
		firing->reads_values = true;
		cwh_check_event(event);
		firing->reads_values = false;
		firing->events = lappend(firing->events, event);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* If the deadline has ended a step, make the error say so. */
static void
blame_time(ErrorData *error, int limit_ms)
{
	if (!cwh_deadline_raised(error))
		return;
	error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	error->message = psprintf(limit_ms < cwh_emit_timeout ? ALL_TOO_SLOW : TOO_SLOW,
							  cwh_emit_timeout);
	error->hint = TOO_SLOW_HINT;
}

/*
 * Run a step of a firing.  If it raises an error, the event is not emitted, but
 * counted, and the statement goes on; unless chatwebhook.on_emit_error is error.
 *
 * A step that may call arbitrary code gets a subtransaction, which is rolled back
 * even if there is no error.  Other steps only allocate memory and read catalogs,
 * and need none.  They must do without: Citus would send a savepoint to the other
 * nodes, and fail if the statement is still sending rows there.
 */
static bool
attempt(Firing *firing, void (*step) (Firing *), bool with_care)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	int			level = GetCurrentTransactionNestLevel();
	ErrorData  *volatile error = NULL;
	volatile int limit_ms = 0;
	instr_time	start;

	firing->reads_values = false;
	if (with_care)
	{
		limit_ms = cwh_deadline_allowed();
		INSTR_TIME_SET_CURRENT(start);
		BeginInternalSubTransaction(NULL);
		cwh_deadline_set(limit_ms);
	}
	PG_TRY();
	{
		step(firing);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(firing->context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	in_query = false;
	if (with_care)
	{
		if (cwh_deadline_clear() && error)
			blame_time(error, limit_ms);
		RollbackAndReleaseCurrentSubTransaction();
		cwh_deadline_used(&start);
		CurrentResourceOwner = oldowner;
		firing->settings_level = 0; /* the rollback has restored them */
	}
	restore_settings(firing);
	MemoryContextSwitchTo(oldcontext);
	if (error == NULL)
		return true;
	/* in a logical replication worker, an error would stop replication */
	if (firing->trigger == NULL ||
		(cwh_on_emit_error == CWH_ON_EMIT_ERROR_RAISE && !IsLogicalWorker()) ||
		cwh_ends_statement(error) ||
		/* a subtransaction of the validator could not begin, and is still open */
		GetCurrentTransactionNestLevel() != level)
		ReThrowError(error);
	cwh_report_failure(firing->trigger, firing->relation, mapped_row(firing),
					   error, firing->reads_values);
	return false;
}

/*
 * Can all events of this type be skipped without looking at the rows?  A query
 * is not run only to find out whether its rows have the required keys.
 */
static bool
is_idle(const char *name, bool by_query)
{
	const CwhEventType *type;

	if (!cwh_is_plain(name))
		return false;
	type = cwh_event_type(name);
	if (type->wanted)
		return false;
	return cwh_validation == CWH_VALIDATION_OFF ||
		(type->known && (by_query || type->nrequired == 0));
}

/*
 * Step of a firing: check the data of an event against the schema of its type.
 */
static void
check_schema(Firing *firing)
{
	in_query = true;
	cwh_schema_check(firing->checked->type, firing->checked->data);
}

/*
 * Does an event match the schema of its type?  This invalidates everything
 * that the cache has returned before.
 */
static bool
meets_schema(Firing *firing, const CwhEvent *event)
{
	firing->checked = event;
	return !cwh_schema_applies(event->type) ||
		attempt(firing, check_schema, false);
}

/* Emit an event that has been built to the webhooks that want it. */
static void
emit_made(CwhWriter *writer, Firing *firing, CwhEvent *event)
{
	List	   *subscriptions;

	if (!meets_schema(firing, event))
		return;
	subscriptions = cwh_subscriptions(event->type, event->chatbot_id);
	if (subscriptions != NIL)
		(void) emit_event(writer, event, subscriptions);
}

/* Emit the events of a row that a query makes. */
static void
emit_by_query(CwhWriter *writer, Firing *firing)
{
	ListCell   *cell;

	firing->events = NIL;
	if (!attempt(firing, run_query, true))
		return;
	foreach(cell, firing->events)
		emit_made(writer, firing, lfirst(cell));
}

/* Emit the event of a row, or the events that its query makes. */
static void
emit_row(CwhWriter *writer, Firing *firing)
{
	CwhMapping *mapping = firing->mapping;
	List	   *subscriptions;

	if (mapping->query)
	{
		if (!is_idle(mapping->type, true))
			emit_by_query(writer, firing);
		return;
	}
	if (mapping->can_fail)
	{
		if (is_idle(mapping->type, false))
			return;
		firing->event.data = NULL;
		if (attempt(firing, make_event_with_care, true) && firing->event.data)
			emit_made(writer, firing, &firing->event);
		return;
	}
	/* read the tables now: the check is without a subtransaction */
	if (cwh_is_plain(mapping->type))
		(void) cwh_event_type(mapping->type);
	if (!attempt(firing, check_row, false) ||
		!cwh_event_type(mapping->type)->wanted)
		return;
	subscriptions = cwh_subscriptions(mapping->type, firing->event.chatbot_id);
	if (subscriptions == NIL || !attempt(firing, make_event, false))
		return;
	if (cwh_uses_validator())
		emit_made(writer, firing, &firing->event);
	else
		(void) emit_event(writer, &firing->event, subscriptions);
}

/*
 * The trigger
 */

/* Emit the events of all rows of a transition table. */
static void
emit_rows(CwhWriter *writer, Firing *firing, Tuplestorestate *rows, bool is_new)
{
	TupleTableSlot *slot;
	MemoryContext oldcontext = CurrentMemoryContext;

	if (tuplestore_tuple_count(rows) == 0 ||
		is_idle(firing->mapping->type, false))
		return;
	slot = MakeSingleTupleTableSlot(RelationGetDescr(firing->relation),
									&TTSOpsMinimalTuple);
	if (is_new)
		firing->newslot = slot;
	else
		firing->oldslot = slot;
	firing->context = AllocSetContextCreate(CurrentMemoryContext,
											"chatwebhook row",
											ALLOCSET_DEFAULT_SIZES);
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(firing->context);
		emit_row(writer, firing);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(firing->context);
	}
	MemoryContextDelete(firing->context);
	ExecDropSingleTupleTableSlot(slot);
}

/* The rows of a statement, from its transition table. */
static Tuplestorestate *
transition_table(const TriggerData *data)
{
	Tuplestorestate *rows = TRIGGER_FIRED_BY_DELETE(data->tg_event) ?
		data->tg_oldtable : data->tg_newtable;

	if (rows == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("statement trigger \"%s\" has no transition table",
						data->tg_trigger->tgname),
				 errhint("Create it with REFERENCING NEW TABLE AS, or OLD TABLE AS for DELETE, or FOR EACH ROW.")));
	return rows;
}

/* Check that a trigger calls us as it should. */
static void
check_call(const TriggerData *data)
{
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
}

/*
 * Is this the initial copy of a subscription's table?  Its rows are not new.
 * The same process then applies concurrent changes, as remote transactions.
 */
static bool
is_initial_copy(void)
{
	return MyLogicalRepWorker && OidIsValid(MyLogicalRepWorker->relid) &&
		!in_remote_transaction;
}

/* SQL trigger: emit the event of a row, or the events of a statement's rows. */
Datum
chatwebhook_emit_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Tuplestorestate *rows = NULL;
	Firing		firing;
	CwhWriter	writer;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"emit\" was not called by a trigger")));
	check_call(data);
	if (is_initial_copy())
		return PointerGetDatum(NULL);

	/*
	 * A query is read-only, but can write to temporary tables, whose triggers end
	 * up here.  They must not emit: queries do not nest, as there is only one time
	 * limit.  The same goes for a validator.
	 */
	if (in_query)
		PreventCommandIfReadOnly("chatwebhook.emit()");
	memset(&firing, 0, sizeof(firing));
	firing.trigger = data->tg_trigger;
	firing.relation = data->tg_relation;
	firing.context = CurrentMemoryContext;
	if (!TRIGGER_FIRED_FOR_ROW(data->tg_event))
		rows = transition_table(data);
	else if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
	{
		firing.newslot = data->tg_newslot;
		firing.oldslot = data->tg_trigslot;
	}
	else if (TRIGGER_FIRED_BY_DELETE(data->tg_event))
		firing.oldslot = data->tg_trigslot;
	else
		firing.newslot = data->tg_trigslot;

	/* see webhooks that others have committed since our transaction began */
	AcceptInvalidationMessages();
	firing.mapping = cwh_known_mapping(firing.trigger->tgoid);
	if (firing.mapping == NULL &&
		!attempt(&firing, find_mapping,
				 cwh_mapping_runs_code(firing.trigger, firing.relation)))
		return PointerGetDatum(NULL);
	if (XactReadOnly && !is_idle(firing.mapping->type, true) &&
		!attempt(&firing, check_writable, false))
		return PointerGetDatum(NULL);
	cwh_writer_init(&writer);
	if (rows)
		emit_rows(&writer, &firing, rows,
				  !TRIGGER_FIRED_BY_DELETE(data->tg_event));
	else
		emit_row(&writer, &firing);
	cwh_writer_close(&writer);
	return PointerGetDatum(NULL);
}

/*
 * The function
 */

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
 * describe.  It goes to all webhooks that want it.  If "only" is given, it goes
 * to that one instead, whether or not it wants it, after all that is due.  If
 * "but" is given, it does not go to those.  "options" can be null.
 */
static Datum
emit_arguments(FunctionCallInfo fcinfo, int first, CwhSubscription *only,
			   ArrayType *but, const CwhEmitOptions *options)
{
	NullableDatum *args = &fcinfo->args[first];
	const CwhEventType *type;
	List	   *subscriptions;
	CwhEvent	event;
	CwhWriter	writer;
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
	if (cwh_uses_validator() && (only || type->wanted))
	{
		Firing		firing = {.context = CurrentMemoryContext};

		cwh_check_event(&event);
		(void) meets_schema(&firing, &event);
		type = cwh_event_type(event.type);
	}
	if (only)
		subscriptions = list_make1(only);
	else
		subscriptions = type->wanted ?
			cwh_subscriptions(event.type, event.chatbot_id) : NIL;
	if (but)
		subscriptions = leave_out(subscriptions, but);
	if (subscriptions == NIL)
		PG_RETURN_NULL();
	cwh_check_event(&event);
	cwh_writer_init(&writer);
	writer.behind = only != NULL;
	writer.options = options;
	writer.to_outbox &= only == NULL;
	if (!emit_event(&writer, &event, subscriptions))
		PG_RETURN_NULL();
	cwh_writer_close(&writer);
	id = palloc(sizeof(pg_uuid_t));
	*id = event.id;
	PG_RETURN_UUID_P(id);
}

/* SQL: emit an event. */
Datum
chatwebhook_emit(PG_FUNCTION_ARGS)
{
	CwhEmitOptions options;

	return emit_arguments(fcinfo, 0, NULL, NULL,
						  cwh_read_emit_options(fcinfo, 4, &options) ?
						  &options : NULL);
}

/* SQL: emit an event to one webhook, which is ordered or not. */
Datum
chatwebhook_emit_to(PG_FUNCTION_ARGS)
{
	CwhSubscription only = {.slow_filter = false};

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	only.webhook_id = *PG_GETARG_UUID_P(0);
	only.ordered = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	cwh_progress_step();
	return emit_arguments(fcinfo, 2, &only, NULL, NULL);
}

/* SQL: emit an event to all webhooks that want it, except some. */
Datum
chatwebhook_emit_but(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return emit_arguments(fcinfo, 1, NULL, PG_GETARG_ARRAYTYPE_P(0), NULL);
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
	if (type->wanted && !cwh_outbox)
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

/* SQL: does any webhook want events of this type, of this chatbot? */
Datum
chatwebhook_wanted(PG_FUNCTION_ARGS)
{
	char	   *type;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	type = TextDatumGetCString(PG_GETARG_DATUM(0));
	AcceptInvalidationMessages();
	PG_RETURN_BOOL(check_type(type)->wanted &&
				   cwh_subscriptions(type, PG_ARGISNULL(1) ? NULL :
									 TextDatumGetCString(PG_GETARG_DATUM(1))) != NIL);
}
