/*
 * mapping.c
 *		Turns a row into an event, as the arguments of a trigger say.
 *
 * The arguments name the event type, then key=column, key=@text or key=:json,
 * the latter two for constants; key alone is short for key=key.  * alone stands
 * for the whole row, except the columns of the envelope.  () alone says that the
 * trigger's query makes the events (query.c).  They are parsed at the trigger's
 * first call in a session, and again after its table has changed.
 *
 * This runs in the session that changes the table.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "envelope.h"
#include "jsonb_value.h"
#include "mapping.h"
#include "value.h"

/* The jsonb form of a value is at most this many times as long as its text. */
#define JSONB_RATIO		8

static HTAB *mappings = NULL;	/* of CwhMapping */

/*
 * Values
 */

/* Add a column's value to data, as to_jsonb() would convert it. */
static void
push_datum(CwhJsonbState *state, CwhSource *source, Datum datum)
{
	JsonbValue	value;

	switch (source->type)
	{
			/* common types, without the detour through to_jsonb() */
		case TEXTOID:
		case VARCHAROID:
			{
				text	   *string = DatumGetTextPP(datum);

				cwh_jsonb_string(state, WJB_VALUE, VARDATA_ANY(string),
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
				cwh_jsonb_string(state, WJB_VALUE, string, CWH_UUID_LEN);
				return;
			}
		case JSONBOID:
			cwh_jsonb_whole(state, DatumGetJsonbP(datum));
			return;
		default:
			cwh_jsonb_whole(state, DatumGetJsonbP(FunctionCall1(&source->to_jsonb, datum)));
			return;
	}
}

/* A column's value in a row; a virtual generated column is computed. */
static Datum
row_value(CwhSource *source, TupleTableSlot *slot, bool *isnull)
{
	if (source->generate == NULL)
		return slot_getattr(slot, source->column, isnull);
	source->row->ecxt_scantuple = slot;
	return ExecEvalExpr(source->generate, source->row, isnull);
}

/* Does a row provide this key, with a value that is not null? */
bool
cwh_mapping_has_key(CwhMapping *mapping, const char *key, TupleTableSlot *slot)
{
	for (int i = 0; i < mapping->ndata; i++)
	{
		CwhSource  *source = &mapping->data[i];
		bool		isnull;

		if (strcmp(source->key, key) != 0)
			continue;
		if (source->column == 0)
			return source->text != NULL || !cwh_is_json_null(source->json);
		(void) row_value(source, slot, &isnull);
		return !isnull;
	}
	return false;
}

/*
 * Could a row's data have at most this many bytes as JSON?  Returns false only if
 * the sizes of the values rule it out; does not read values that are stored out of
 * line.
 */
bool
cwh_mapping_fits(CwhMapping *mapping, TupleTableSlot *slot, Size limit)
{
	Size		least = 0;

	for (int i = 0; i < mapping->ndata; i++)
	{
		CwhSource  *source = &mapping->data[i];
		Datum		datum;
		bool		isnull;
		Size		size;

		if (!source->is_varlena || source->generate)
			continue;
		datum = slot_getattr(slot, source->column, &isnull);
		if (isnull)
			continue;
		size = toast_raw_datum_size(datum) - VARHDRSZ;
		if (source->type != TEXTOID && source->type != VARCHAROID)
			size /= JSONB_RATIO;
		least += size;
	}
	return least <= limit;
}

/* Build an event's data from a row. */
Jsonb *
cwh_mapping_data(CwhMapping *mapping, TupleTableSlot *slot)
{
	CwhJsonbState state = {0};

	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < mapping->ndata; i++)
	{
		CwhSource  *source = &mapping->data[i];
		Datum		datum;
		bool		isnull;

		cwh_jsonb_key(&state, source->key);
		if (source->text)
		{
			cwh_jsonb_string(&state, WJB_VALUE, source->text, strlen(source->text));
			continue;
		}
		if (source->json)
		{
			cwh_jsonb_whole(&state, source->json);
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

/* A value as an id, as it would be in data; null if it is no scalar. */
static char *
json_id(Datum datum)
{
	Jsonb	   *jsonb = DatumGetJsonbP(datum);
	JsonbValue	value;

	return JB_ROOT_IS_SCALAR(jsonb) &&
		JsonbExtractScalar(&jsonb->root, &value) ? cwh_id_text(&value) : NULL;
}

/* A row's chatbotId or conversationId as a string, or null. */
char *
cwh_mapping_text(CwhSource *source, TupleTableSlot *slot)
{
	Datum		datum;
	bool		isnull;
	Oid			output;
	bool		is_varlena;
	char	   *id;

	if (source == NULL)
		return NULL;
	if (source->column == 0)
		return source->text;
	datum = row_value(source, slot, &isnull);
	if (isnull)
		return NULL;
	switch (source->type)
	{
		case TEXTOID:
		case VARCHAROID:
			return TextDatumGetCString(datum);
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case UUIDOID:
			break;
		default:
			id = json_id(FunctionCall1(&source->to_jsonb, datum));
			if (id)
				return id;
			break;
	}
	getTypeOutputInfo(source->type, &output, &is_varlena);
	return OidOutputFunctionCall(output, datum);
}

/*
 * Parsing
 */

/* Relcache callback: a relation has changed, or all if relid is invalid. */
static void
on_relation_change(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CwhMapping *mapping;

	hash_seq_init(&status, mappings);
	while ((mapping = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || relid == mapping->relation)
			mapping->valid = false;
}

/* Syscache callback: there is another cast, which may be one to json. */
static void
on_cast_change(Datum arg, int cacheid, uint32 hashvalue)
{
	on_relation_change(arg, InvalidOid);
}

/*
 * Can converting values of this type to JSON raise an error, or call a user's
 * function?  True if in doubt, as for types of extensions, and for json, which can
 * hold values that jsonb cannot.
 */
static bool
conversion_can_fail(Oid type)
{
	Oid			element = get_element_type(type);

	if (OidIsValid(element))
		type = element;
	switch (type)
	{
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case CHAROID:
		case CIDROID:
		case DATEOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INETOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case INTERVALOID:
		case JSONBOID:
		case MACADDROID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case TEXTOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case TIMETZOID:
		case UUIDOID:
		case VARCHAROID:
			return false;
		default:
			/* a cast to json takes precedence over the type's text */
			return !type_is_enum(type) ||
				SearchSysCacheExists2(CASTSOURCETARGET,
									  ObjectIdGetDatum(type),
									  ObjectIdGetDatum(JSONOID));
	}
}

/* Take a column of a row as the source of a value. */
static void
set_column(CwhSource *source, Relation relation, Form_pg_attribute attribute)
{
	Expr	   *expression = cwh_virtual_expression(relation, attribute);

	source->column = attribute->attnum;
	source->type = getBaseType(attribute->atttypid);
	source->is_varlena = attribute->attlen == -1;
	/* to_jsonb() gets its argument's type from the call's expression */
	fmgr_info(F_TO_JSONB, &source->to_jsonb);
	fmgr_info_set_expr((Node *)
					   makeFuncExpr(F_TO_JSONB, JSONBOID,
									list_make1(makeNullConst(source->type, -1, InvalidOid)),
									InvalidOid, InvalidOid,
									COERCE_EXPLICIT_CALL),
					   &source->to_jsonb);
	if (expression)
	{
		source->generate = ExecInitExpr(expression_planner(expression), NULL);
		source->row = CreateStandaloneExprContext();
	}
}

/*
 * Parse one argument of a trigger: a key of data or of the envelope, and its
 * origin: a column's name, "@" and a text, or ":" and JSON.
 */
static void
set_source(CwhSource *source, Relation relation, const char *key,
		   const char *origin)
{
	TupleDesc	desc = RelationGetDescr(relation);

	memset(source, 0, sizeof(CwhSource));
	source->key = pstrdup(key);
	if (origin[0] == '@')
	{
		source->text = pstrdup(origin + 1);
		return;
	}
	if (origin[0] == ':')
	{
		source->json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														  CStringGetDatum(origin + 1)));
		return;
	}
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attisdropped ||
			strcmp(NameStr(attribute->attname), origin) != 0)
			continue;
		set_column(source, relation, attribute);
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

/* Parse an argument of a trigger for a column of the envelope, which is a text. */
static CwhSource *
make_envelope_source(Relation relation, const char *key, const char *origin)
{
	CwhSource  *source = palloc(sizeof(CwhSource));

	set_source(source, relation, key, origin);
	if (source->json)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the constant for \"%s\" is not a text", key),
				 errhint("Write it with a leading @.")));
	return source;
}

/* Does a mapping have a key of data with this name? */
static bool
is_mapped(const CwhMapping *mapping, const char *key)
{
	for (int i = 0; i < mapping->ndata; i++)
		if (strcmp(mapping->data[i].key, key) == 0)
			return true;
	return false;
}

/* Add the columns that are not in the envelope, and whose names are no keys yet. */
static void
add_whole_row(CwhMapping *mapping, Relation relation)
{
	TupleDesc	desc = RelationGetDescr(relation);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		const char *name = NameStr(attribute->attname);

		if (attribute->attisdropped || is_mapped(mapping, name) ||
			(mapping->chatbot && mapping->chatbot->column == i + 1) ||
			(mapping->conversation && mapping->conversation->column == i + 1))
			continue;
		set_source(&mapping->data[mapping->ndata++], relation, name, name);
	}
}

/* Take note of a value whose conversion depends on settings, or can fail. */
static void
note_source(CwhMapping *mapping, const CwhSource *source)
{
	if (source == NULL || source->column == 0)
		return;
	mapping->by_settings = mapping->by_settings ||
		cwh_depends_on_settings(source->type);
	mapping->can_fail = mapping->can_fail || source->generate ||
		conversion_can_fail(source->type);
}

/*
 * The table that a trigger was created on: for a partition's trigger, the
 * partitioned table whose trigger it was cloned from.
 */
Oid
cwh_watched_table(const Trigger *trigger, Oid relation)
{
	Oid			oid = trigger->tgisclone ? trigger->tgoid : InvalidOid;
	Relation	catalog;

	if (!OidIsValid(oid))
		return relation;
	catalog = table_open(TriggerRelationId, AccessShareLock);
	while (OidIsValid(oid))
	{
		HeapTuple	tuple = get_catalog_object_by_oid(catalog,
													  Anum_pg_trigger_oid, oid);

		oid = InvalidOid;
		if (HeapTupleIsValid(tuple))
		{
			relation = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
			oid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
		}
	}
	table_close(catalog, AccessShareLock);
	return relation;
}

/* Load the query of a trigger. */
static void
set_query(CwhMapping *mapping, const Trigger *trigger, Relation relation)
{
	Relation	table;

	if (!TRIGGER_FOR_ROW(trigger->tgtype))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("statement trigger \"%s\" cannot have a query",
						trigger->tgname),
				 errhint("Create it with chatwebhook.watch().")));
	table = table_open(cwh_watched_table(trigger, RelationGetRelid(relation)),
					   AccessShareLock);
	mapping->query = cwh_query_make(trigger->tgname, table);
	table_close(table, NoLock);
}

/* Parse a trigger's arguments, in the mapping's memory. */
static void
parse_arguments(CwhMapping *mapping, const Trigger *trigger, Relation relation)
{
	bool		whole_row = false;

	if (trigger->tgnargs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" passes no event type to chatwebhook.emit()",
						trigger->tgname),
				 errhint("The first argument is the event type, such as 'lead.captured'.")));
	mapping->type = pstrdup(trigger->tgargs[0]);
	mapping->query = NULL;
	mapping->chatbot = NULL;
	mapping->conversation = NULL;
	mapping->ndata = 0;
	mapping->data = palloc((trigger->tgnargs + RelationGetNumberOfAttributes(relation)) *
						   sizeof(CwhSource));

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
			mapping->chatbot = make_envelope_source(relation, key, origin);
		else if (strcmp(key, "conversationId") == 0)
			mapping->conversation = make_envelope_source(relation, key, origin);
		else if (!equals && strcmp(key, "*") == 0)
			whole_row = true;
		else if (!equals && strcmp(key, "()") == 0)
			set_query(mapping, trigger, relation);
		else
			set_source(&mapping->data[mapping->ndata++], relation, key, origin);
	}
	if (whole_row)
		add_whole_row(mapping, relation);

	mapping->by_settings = false;
	/* a text may not be valid in UTF-8 */
	mapping->can_fail = GetDatabaseEncoding() != PG_UTF8;
	note_source(mapping, mapping->chatbot);
	note_source(mapping, mapping->conversation);
	for (int i = 0; i < mapping->ndata; i++)
		note_source(mapping, &mapping->data[i]);
}

/* The mapping of a trigger, if it is known and valid; else null. */
CwhMapping *
cwh_known_mapping(Oid trigger)
{
	CwhMapping *mapping = mappings == NULL ? NULL :
		hash_search(mappings, &trigger, HASH_FIND, NULL);

	if (mapping && mapping->valid &&
		(mapping->query == NULL || !cwh_query_is_stale(mapping->query)))
		return mapping;
	return NULL;
}

/*
 * Can making the mapping of a trigger run a user's code?  A query is planned, and
 * so is the expression of a virtual generated column.
 */
bool
cwh_mapping_runs_code(const Trigger *trigger, Relation relation)
{
	for (int i = 1; i < trigger->tgnargs; i++)
		if (strcmp(trigger->tgargs[i], "()") == 0)
			return true;
	return cwh_has_virtual_columns(relation);
}

/*
 * Make the mapping of a trigger.  This reads the catalogs, and raises an error if
 * the arguments do not fit the table.
 */
CwhMapping *
cwh_make_mapping(const Trigger *trigger, Relation relation)
{
	CwhMapping *mapping;
	MemoryContext context;
	MemoryContext oldcontext;
	bool		found;

	if (mappings == NULL)
	{
		HASHCTL		info;

		memset(&info, 0, sizeof(info));
		info.keysize = sizeof(Oid);
		info.entrysize = sizeof(CwhMapping);
		info.hcxt = CacheMemoryContext;
		mappings = hash_create("chatwebhook triggers", 16, &info,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
		CacheRegisterSyscacheCallback(CASTSOURCETARGET, on_cast_change, (Datum) 0);
	}
	mapping = hash_search(mappings, &trigger->tgoid, HASH_ENTER, &found);

	/*
	 * A caller up the stack may still use the old one, so keep it until the
	 * transaction ends.  If making the new one fails, it is freed with the
	 * caller's memory, and the next row tries again.
	 */
	if (found && mapping->context)
		MemoryContextSetParent(mapping->context, TopTransactionContext);
	mapping->valid = false;
	mapping->context = NULL;
	mapping->relation = RelationGetRelid(relation);
	context = AllocSetContextCreate(CurrentMemoryContext,
									"chatwebhook trigger",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	parse_arguments(mapping, trigger, relation);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextSetParent(context, CacheMemoryContext);
	mapping->context = context;
	mapping->valid = true;
	return mapping;
}
