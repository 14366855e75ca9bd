/*
 * watched.c
 *		SQL functions about the triggers that emit events.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#include "compat.h"
#include "mapping.h"
#include "query.h"

PG_FUNCTION_INFO_V1(chatwebhook_watch_details);
PG_FUNCTION_INFO_V1(chatwebhook_condition_is_harmless);
PG_FUNCTION_INFO_V1(chatwebhook_query_view);

/* The table that a trigger is on; InvalidOid if there is no such trigger. */
static Oid
table_of_trigger(Oid trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	HeapTuple	tuple = get_catalog_object_by_oid(catalog, Anum_pg_trigger_oid,
												  trigger);
	Oid			table = HeapTupleIsValid(tuple) ?
		((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid : InvalidOid;

	table_close(catalog, AccessShareLock);
	return table;
}

/* A copy of a trigger of a table; null if it is gone. */
static const Trigger *
find_trigger(Relation relation, Oid oid)
{
	TriggerDesc *triggers = CopyTriggerDesc(relation->trigdesc);

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgoid == oid)
			return &triggers->triggers[i];
	return NULL;
}

/* The keys of the data of a trigger's events.  Checks that its query can run. */
static List *
get_keys(const Trigger *trigger, Relation relation)
{
	CwhMapping *mapping = cwh_make_mapping(trigger, relation);
	List	   *keys = NIL;

	if (mapping->query)
	{
		cwh_query_enter(mapping->query, NULL, NULL);
		cwh_query_check(mapping->query);
		return cwh_query_keys(mapping->query);
	}
	for (int i = 0; i < mapping->ndata; i++)
		keys = lappend(keys, mapping->data[i].key);
	return keys;
}

/*
 * The same as an array of texts, in a subtransaction that is rolled back; or if
 * it raises an error, null and the error.
 */
static Datum
try_keys(const Trigger *trigger, Relation relation, ErrorData **error)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile Datum keys = (Datum) 0;
	ErrorData  *volatile caught = NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		List	   *list = get_keys(trigger, relation);

		MemoryContextSwitchTo(oldcontext);
		keys = PointerGetDatum(strlist_to_textarray(list));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		caught = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	CurrentResourceOwner = oldowner;
	MemoryContextSwitchTo(oldcontext);
	*error = caught;
	return keys;
}

/*
 * SQL: the arguments of a trigger that calls emit(), the keys of the data that
 * it sends, and what is wrong with it, if anything; that is an error on request.
 */
Datum
chatwebhook_watch_details(PG_FUNCTION_ARGS)
{
	Oid			oid = PG_GETARG_OID(0);
	Oid			table = table_of_trigger(oid);
	Relation	relation = OidIsValid(table) ?
		try_table_open(table, AccessShareLock) : NULL;
	const Trigger *trigger = relation ? find_trigger(relation, oid) : NULL;
	TupleDesc	desc;
	Datum		values[3] = {0};
	bool		nulls[3] = {false, false, true};
	List	   *arguments = NIL;
	ErrorData  *error;

	if (trigger == NULL)
	{
		if (relation)
			table_close(relation, AccessShareLock);
		PG_RETURN_NULL();
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < trigger->tgnargs; i++)
		arguments = lappend(arguments, trigger->tgargs[i]);
	values[0] = PointerGetDatum(strlist_to_textarray(arguments));
	values[1] = try_keys(trigger, relation, &error);
	if (error && PG_GETARG_BOOL(1))
		ReThrowError(error);
	nulls[1] = error != NULL;
	nulls[2] = error == NULL;
	if (error)
		values[2] = CStringGetTextDatum(error->message);
	table_close(relation, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/*
 * Could calling this function in a condition raise an error, or take long?  A
 * leakproof function cannot raise an error that depends on its arguments.  Those
 * listed here are not leakproof only because of their timing, or of an error that
 * cannot occur with stored values.
 */
static bool
is_risky_function(Oid function, void *context)
{
	switch (function)
	{
		case F_ENUM_EQ:
		case F_ENUM_NE:
		case F_ENUM_LT:
		case F_ENUM_GT:
		case F_ENUM_LE:
		case F_ENUM_GE:
		case F_NUMERIC_EQ:
		case F_NUMERIC_NE:
		case F_NUMERIC_LT:
		case F_NUMERIC_GT:
		case F_NUMERIC_LE:
		case F_NUMERIC_GE:
			return false;
		default:
			return !get_func_leakproof(function);
	}
}

/*
 * Could evaluating this expression over a relation, the context, raise an error,
 * or take long?
 */
static bool
is_risky(Node *node, void *context)
{
	if (node == NULL)
		return false;
	/* a virtual generated column is an expression, too */
	if (IsA(node, Var) && ((Var *) node)->varattno > 0 &&
		cwh_virtual_expression(context, TupleDescAttr(RelationGetDescr((Relation) context),
													  ((Var *) node)->varattno - 1)))
		return true;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_ArrayExpr:
		case T_List:
			break;
		default:
			return true;
	}
	if (check_functions_in_node(node, is_risky_function, context))
		return true;
	return expression_tree_walker(node, is_risky, context);
}

/*
 * SQL: is the condition in a trigger's WHEN clause one that can neither raise an
 * error nor take long?  PostgreSQL evaluates it in the chat's statement, where
 * nothing could catch that.
 */
Datum
chatwebhook_condition_is_harmless(PG_FUNCTION_ARGS)
{
	Oid			oid = PG_GETARG_OID(0);
	Oid			table = table_of_trigger(oid);
	Relation	relation = OidIsValid(table) ?
		try_table_open(table, AccessShareLock) : NULL;
	const Trigger *trigger = relation ? find_trigger(relation, oid) : NULL;
	bool		harmless = true;

	if (relation == NULL)
		PG_RETURN_NULL();
	if (trigger && trigger->tgqual)
		harmless = !is_risky(stringToNode(trigger->tgqual), relation);
	table_close(relation, AccessShareLock);
	PG_RETURN_BOOL(harmless);
}

/* SQL: the view that has the query of the trigger of this name on a table. */
Datum
chatwebhook_query_view(PG_FUNCTION_ARGS)
{
	Oid			view = cwh_query_view(NameStr(*PG_GETARG_NAME(0)),
									  PG_GETARG_OID(1));

	if (!OidIsValid(view))
		PG_RETURN_NULL();
	PG_RETURN_OID(view);
}
