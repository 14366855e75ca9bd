/*
 * query.c
 *		Runs the query of a watch.
 *
 * watch() stores a query, or a mapping with expressions, as a view in the table's
 * schema:
 *
 *		SELECT to_jsonb(q.*) AS event, '...' AS search_path, '...' AS trigger
 *		  FROM contact AS new LEFT JOIN contact AS old ON false
 *		 CROSS JOIN LATERAL (the query) q WHERE the condition
 *
 * So the query is bound when watch() is called: it survives renaming, and means
 * the same in every session.  (A SQL function that takes two rows would do as
 * well, but PostgreSQL would then refuse to add a column with a default to the
 * table, as the function uses its row type.)  Selecting from the view shows what
 * becomes of existing rows.
 *
 * To run it for one row, the tables new and old are removed from the view's query,
 * and their columns replaced by parameters.  It is planned once in each session,
 * and, as in PostgreSQL's plan cache, again after something that it depends on has
 * changed, which is known for certain once its tables are locked.
 *
 * All of this runs in the session that changes the table, with the rights of the
 * view's owner, in a subtransaction of the caller's.  The caller rolls that back,
 * and with it the locks, the user id, and the settings that cwh_query_enter() has
 * set.  So nothing that a query does, such as calling a function that writes, has
 * any effect.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/nodes.h"
#include "nodes/params.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "query.h"
#include "value.h"

/* The most events that a row can become, and the most bytes they can take. */
#define MAX_EVENTS		1000
#define MAX_SIZE		(64 * 1024 * 1024)

/* The most bytes of a row that is passed to a query as a whole, as stored. */
#define MAX_ROW			(64 * 1024 * 1024)

/* The rows that a query can use, as its first parameters. */
enum
{
	NEW_ROW, OLD_ROW, ROWS
};

static const char *const row_names[ROWS] = {"new", "old"};

/* The columns of the view. */
enum
{
	EVENT_COLUMN, PATH_COLUMN, TRIGGER_COLUMN
};

/* A column of such a row that a query uses; a parameter of its own. */
typedef struct Field
{
	int			row;			/* NEW_ROW or OLD_ROW */
	AttrNumber	column;
	Param	   *param;
} Field;

struct CwhQuery
{
	MemoryContext context;		/* of this, and of the lists */
	MemoryContextCallback unlink;
	Oid			view;
	Oid			owner;			/* whose rights it has */
	Oid			rowtype;		/* of the table */
	bool		stale;			/* the view has changed */
	char	   *search_path;	/* that it was watched with */
	Query	   *body;			/* with parameters; copied to be planned */
	int			event_rte;		/* of the subquery that makes the events */
	int			row_rtes[ROWS]; /* of new and old, while they are replaced */
	int			level;			/* of the subquery whose columns are replaced */
	List	   *fields;			/* of Field */
	bool		whole[ROWS];	/* it uses the row as a whole */
	ParamListInfo params;		/* the rows, then the fields */

	/* the plan; null until it is first needed, or if not valid */
	MemoryContext plan_context;
	PlannedStmt *plan;
	bool		valid;
	ExprState  *chatbot;		/* computes chatbotId; null: only the query does */
	bool		no_chatbot;		/* there is none */
	ExprContext *econtext;
};

/* Collects the rows of a query. */
typedef struct Collector
{
	DestReceiver dest;
	MemoryContext context;		/* of the list */
	List	   *rows;			/* of Jsonb */
	Size		size;			/* of all of them */
} Collector;

static List *queries = NIL;		/* of this process; in CacheMemoryContext */
static uint64 changes = 0;		/* counts invalidations */

/*
 * Invalidation
 */

/* Relcache callback: a relation has changed, or all if relid is invalid. */
static void
on_relation_change(Datum arg, Oid relid)
{
	ListCell   *cell;

	changes++;
	foreach(cell, queries)
	{
		CwhQuery   *query = lfirst(cell);

		if (relid == InvalidOid || relid == query->view)
			query->stale = true;
		if (query->valid &&
			(relid == InvalidOid ||
			 list_member_oid(query->plan->relationOids, relid)))
			query->valid = false;
	}
}

/* Syscache callback: an object has changed, or all if the hash is 0. */
static void
on_object_change(Datum arg, int cacheid, uint32 hashvalue)
{
	ListCell   *cell;
	ListCell   *item;

	changes++;
	foreach(cell, queries)
	{
		CwhQuery   *query = lfirst(cell);

		if (!query->valid)
			continue;
		foreach(item, query->plan->invalItems)
		{
			PlanInvalItem *dependency = lfirst(item);

			if (dependency->cacheId == cacheid &&
				(hashvalue == 0 || dependency->hashValue == hashvalue))
				query->valid = false;
		}
	}
}

/* Syscache callback for what changes rarely, and may change any plan. */
static void
on_any_change(Datum arg, int cacheid, uint32 hashvalue)
{
	ListCell   *cell;

	changes++;
	foreach(cell, queries)
		((CwhQuery *) lfirst(cell))->valid = false;
}

/* Reset callback of a query's memory. */
static void
unlink_query(void *arg)
{
	queries = list_delete_ptr(queries, arg);
}

/* Have a query invalidated by changes, until its memory is freed. */
static void
link_query(CwhQuery *query)
{
	static bool registered = false;
	MemoryContext oldcontext;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, on_object_change, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, on_object_change, (Datum) 0);
		CacheRegisterSyscacheCallback(OPEROID, on_any_change, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, on_any_change, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, on_any_change, (Datum) 0);
		registered = true;
	}
	oldcontext = MemoryContextSwitchTo(CacheMemoryContext);
	queries = lappend(queries, query);
	MemoryContextSwitchTo(oldcontext);
	query->unlink.func = unlink_query;
	query->unlink.arg = query;
	MemoryContextRegisterResetCallback(query->context, &query->unlink);
}

/*
 * Finding the view
 */

/* A text constant in a column of a view's query; null if it has none there. */
static char *
get_constant(const Query *body, int column)
{
	TargetEntry *entry = list_length(body->targetList) <= column ? NULL :
		list_nth(body->targetList, column);
	Const	   *value = entry ? (Const *) entry->expr : NULL;

	if (value == NULL || !IsA(value, Const) || value->constisnull ||
		value->consttype != TEXTOID)
		return NULL;
	return TextDatumGetCString(value->constvalue);
}

/* Does a view say that it has the query of this trigger? */
static bool
belongs_to(Oid oid, const char *trigger)
{
	Relation	view = table_open(oid, AccessShareLock);
	char	   *name = get_constant(get_view_query(view), TRIGGER_COLUMN);

	table_close(view, AccessShareLock);
	return name && strcmp(name, trigger) == 0;
}

/*
 * The view of a rewrite rule if it has the query of this trigger, and its owner
 * may create triggers on the table.  Other roles' views are ignored, as the query
 * gets to see every row; a role that may create triggers could see them anyway.
 */
static Oid
candidate(Oid rule, const char *trigger, Oid relation)
{
	static const char prefix[] = "chatwebhook_";
	Relation	catalog = table_open(RewriteRelationId, AccessShareLock);
	HeapTuple	tuple = get_catalog_object_by_oid(catalog, Anum_pg_rewrite_oid,
												  rule);
	Oid			found = HeapTupleIsValid(tuple) ?
		((Form_pg_rewrite) GETSTRUCT(tuple))->ev_class : InvalidOid;

	table_close(catalog, AccessShareLock);

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(found));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	if (strncmp(NameStr(((Form_pg_class) GETSTRUCT(tuple))->relname), prefix,
				strlen(prefix)) != 0 ||
		((Form_pg_class) GETSTRUCT(tuple))->relkind != RELKIND_VIEW ||
		pg_class_aclcheck(relation, ((Form_pg_class) GETSTRUCT(tuple))->relowner,
						  ACL_TRIGGER) != ACLCHECK_OK)
		found = InvalidOid;
	ReleaseSysCache(tuple);
	return OidIsValid(found) && belongs_to(found, trigger) ? found : InvalidOid;
}

/*
 * The view that has the query of the trigger of this name on this table: of the
 * views that read the table, whatever their names.  InvalidOid if there is none.
 */
Oid
cwh_query_view(const char *trigger, Oid relation)
{
	Relation	catalog = table_open(DependRelationId, AccessShareLock);
	Oid			found = InvalidOid;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(catalog, DependReferenceIndexId, true, NULL, 2,
							  keys);
	while (!OidIsValid(found) &&
		   HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);

		if (dependency->classid == RewriteRelationId)
			found = candidate(dependency->objid, trigger, relation);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/* Is this function the trigger function emit()? */
static bool
is_emit(Oid function)
{
	char	   *name = get_func_name(function);
	char	   *schema = get_namespace_name(get_func_namespace(function));

	return name && schema && strcmp(name, "emit") == 0 &&
		strcmp(schema, "chatwebhook") == 0;
}

/* Have a view dropped with an object that it depends on. */
static void
tie(Oid view, Oid class, Oid object)
{
	ObjectAddress dependent = {RelationRelationId, view, 0};
	ObjectAddress on = {class, object, 0};

	(void) deleteDependencyRecordsForSpecific(RelationRelationId, view,
											  DEPENDENCY_AUTO, class, object);
	recordDependencyOn(&dependent, &on, DEPENDENCY_AUTO);
}

/*
 * A trigger was created: if it has a query, have the view dropped with the table
 * and with the extension, as the trigger is.  Otherwise, DROP TABLE would need
 * CASCADE.  The trigger is not visible to ordinary snapshots yet.
 */
void
cwh_query_tie(Oid trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(catalog, TriggerOidIndexId, true, SnapshotSelf, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
		Oid			view = InvalidOid;

		if (!OidIsValid(form->tgparentid) && is_emit(form->tgfoid))
			view = cwh_query_view(NameStr(form->tgname), form->tgrelid);
		if (OidIsValid(view))
		{
			tie(view, RelationRelationId, form->tgrelid);
			tie(view, ExtensionRelationId,
				get_extension_oid("chatwebhook", false));
		}
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/*
 * Taking the query from the view
 */

/*
 * The parameter for a column of a row: the id follows those of the rows, and of
 * the columns that came before.
 */
static Param *
get_field(CwhQuery *query, int row, const Var *var)
{
	ListCell   *cell;
	Field	   *field;

	foreach(cell, query->fields)
	{
		field = lfirst(cell);
		if (field->row == row && field->column == var->varattno)
			return field->param;
	}
	field = palloc(sizeof(Field));
	field->row = row;
	field->column = var->varattno;
	field->param = makeNode(Param);
	field->param->paramkind = PARAM_EXTERN;
	field->param->paramid = ROWS + list_length(query->fields) + 1;
	field->param->paramtype = var->vartype;
	field->param->paramtypmod = var->vartypmod;
	field->param->paramcollid = var->varcollid;
	field->param->location = -1;
	query->fields = lappend(query->fields, field);
	return field->param;
}

/* The parameter for a row as a whole. */
static Param *
get_whole(CwhQuery *query, int row)
{
	Param	   *param = makeNode(Param);

	query->whole[row] = true;
	param->paramkind = PARAM_EXTERN;
	param->paramid = row + 1;
	param->paramtype = query->rowtype;
	param->paramtypmod = -1;
	param->paramcollid = InvalidOid;
	param->location = -1;
	return param;
}

/* Report that a view is not one that watch() has created. */
static void
report_view(const CwhQuery *query)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("view \"%s\" does not have the form that chatwebhook.watch() creates",
					get_rel_name(query->view)),
			 errhint("Call chatwebhook.watch() with replace => true.")));
}

/*
 * Mutator: replace new and old, and their columns, by parameters.  So a row need
 * not be formed unless the query uses it as a whole.
 */
static Node *
replace_rows(Node *node, void *context)
{
	CwhQuery   *query = context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		query->level++;
		node = (Node *) query_tree_mutator((Query *) node, replace_rows,
										   context, 0);
		query->level--;
		return node;
	}
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == query->level)
	{
		Var		   *var = (Var *) node;

		for (int row = 0; row < ROWS; row++)
		{
			if (var->varno != query->row_rtes[row])
				continue;
			if (var->varattno < 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("the query uses a system column of \"%s\"",
								row_names[row])));
			return (Node *) (var->varattno == 0 ? get_whole(query, row) :
							 copyObject(get_field(query, row, var)));
		}
		/* everything else has been removed */
		if (var->varno != query->event_rte)
			report_view(query);
	}
	return expression_tree_mutator(node, replace_rows, context);
}

/*
 * Find new, old and the subquery in the view's query; all else there becomes
 * nothing, such as the join of the two.  New and old are told apart by their
 * order, since pg_dump can give them other names.
 */
static void
find_parts(CwhQuery *query, Oid table)
{
	ListCell   *cell;
	int			index = 0;
	int			row = 0;

	foreach(cell, query->body->rtable)
	{
		RangeTblEntry *entry = lfirst(cell);
		RangeTblEntry *nothing = makeNode(RangeTblEntry);

		index++;
		if (entry->rtekind == RTE_SUBQUERY && query->event_rte == 0)
		{
			query->event_rte = index;
			continue;
		}
		if (entry->rtekind == RTE_RELATION && entry->relid == table && row < ROWS)
			query->row_rtes[row++] = index;
		nothing->rtekind = RTE_RESULT;
		nothing->eref = makeAlias("nothing", NIL);
		lfirst(cell) = nothing;
	}
	if (query->event_rte == 0 || row < ROWS)
		report_view(query);
}

/* Make the query of one row from that of the view. */
static void
take_query(CwhQuery *query, Relation view, Oid table)
{
	RangeTblRef *events = makeNode(RangeTblRef);
	TargetEntry *event;

	query->body = copyObject(get_view_query(view));
	query->search_path = get_constant(query->body, PATH_COLUMN);
	event = list_nth(query->body->targetList, EVENT_COLUMN);
	if (query->search_path == NULL ||
		exprType((Node *) event->expr) != JSONBOID || query->body->rowMarks)
		report_view(query);
	find_parts(query, table);
	query->body->targetList = list_truncate(query->body->targetList, 1);
	events->rtindex = query->event_rte;
	query->body->jointree->fromlist = list_make1(events);
	query->level = -1;
	query->body = (Query *) replace_rows((Node *) query->body, query);
}

/*
 * Load the query of the trigger of this name on this table, in the current
 * memory context.
 */
CwhQuery *
cwh_query_make(const char *trigger, Relation relation)
{
	CwhQuery   *query = palloc0(sizeof(CwhQuery));
	Relation	view;

	query->context = CurrentMemoryContext;
	query->view = cwh_query_view(trigger, RelationGetRelid(relation));
	query->rowtype = RelationGetForm(relation)->reltype;
	link_query(query);
	if (!OidIsValid(query->view))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("could not find the view with the query of trigger \"%s\" on table \"%s\"",
						trigger, RelationGetRelationName(relation)),
				 errdetail("The owner of the view must have the privilege TRIGGER on the table."),
				 errhint("Call chatwebhook.watch() with replace => true.")));
	view = table_open(query->view, AccessShareLock);
	query->owner = RelationGetForm(view)->relowner;
	take_query(query, view, RelationGetRelid(relation));
	table_close(view, AccessShareLock);

	query->params = makeParamList(ROWS + list_length(query->fields));
	for (int i = 0; i < query->params->numParams; i++)
	{
		ParamExternData *param = &query->params->params[i];

		param->ptype = i < ROWS ? query->rowtype :
			((Field *) list_nth(query->fields, i - ROWS))->param->paramtype;
		param->value = (Datum) 0;
		param->isnull = true;
		param->pflags = 0;
	}
	return query;
}

/* Has the view changed since the query was loaded from it? */
bool
cwh_query_is_stale(const CwhQuery *query)
{
	return query->stale;
}

/* The subquery whose columns are the event's keys. */
static Query *
get_subquery(const CwhQuery *query)
{
	return ((RangeTblEntry *) list_nth(query->body->rtable,
									   query->event_rte - 1))->subquery;
}

/* The names of a query's columns, as a list of C strings. */
List *
cwh_query_keys(const CwhQuery *query)
{
	Query	   *subquery = get_subquery(query);
	List	   *keys = NIL;
	ListCell   *cell;

	foreach(cell, subquery->targetList)
	{
		TargetEntry *entry = lfirst(cell);

		if (!entry->resjunk)
			keys = lappend(keys, entry->resname);
	}
	return keys;
}

/*
 * Planning
 */

/*
 * Can this expression be computed as an id without running the query?  It must
 * depend on new and old alone, and have a type whose text is the same as in JSON.
 * It must not raise an error, since the query may have a condition that excludes
 * the row.
 */
static bool
is_simple_id(Node *node)
{
	ListCell   *cell;

	switch (getBaseType(exprType(node)))
	{
		case TEXTOID:
		case VARCHAROID:
		case UUIDOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
			break;
		default:
			return false;
	}
	switch (nodeTag(node))
	{
		case T_Const:
		case T_Param:
			return true;
		case T_RelabelType:
			return is_simple_id((Node *) ((RelabelType *) node)->arg);
		case T_CoerceViaIO:
			/* of a number or a UUID to text; the reverse can fail */
			return exprType(node) == TEXTOID &&
				is_simple_id((Node *) ((CoerceViaIO *) node)->arg);
		case T_CoalesceExpr:
			foreach(cell, ((CoalesceExpr *) node)->args)
			{
				if (!is_simple_id(lfirst(cell)))
					return false;
			}
			return true;
		case T_OpExpr:
			/* a member of a JSON object */
			return (((OpExpr *) node)->opfuncid == F_JSONB_OBJECT_FIELD_TEXT ||
					((OpExpr *) node)->opfuncid == F_JSONB_EXTRACT_PATH_TEXT) &&
				IsA(linitial(((OpExpr *) node)->args), Param) &&
				IsA(lsecond(((OpExpr *) node)->args), Const);
		default:
			return false;
	}
}

/*
 * Prepare the expression of chatbotId, if it is simple: then the query need not
 * run for a chatbot whose events nobody wants.
 */
static void
prepare_chatbot(CwhQuery *query)
{
	ListCell   *cell;

	query->chatbot = NULL;
	query->no_chatbot = false;
	foreach(cell, get_subquery(query)->targetList)
	{
		TargetEntry *entry = lfirst(cell);

		if (entry->resjunk || strcmp(entry->resname, "chatbotId") != 0)
			continue;
		if (is_simple_id((Node *) entry->expr))
			query->chatbot =
				ExecInitExprWithParams(expression_planner(copyObject(entry->expr)),
									   query->params);
		return;
	}
	query->no_chatbot = true;
}

/* Change a setting for the rest of the subtransaction. */
static void
set_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Plan a query, unless its plan is valid.  If something changes meanwhile, the
 * new plan can be used once.
 */
static void
plan_query(CwhQuery *query)
{
	uint64		before = changes;
	MemoryContext oldcontext;
	Query	   *copy;
	List	   *rewritten;

	if (query->valid)
		return;
	if (query->plan_context)
		MemoryContextReset(query->plan_context);
	else
		query->plan_context = AllocSetContextCreate(query->context,
													"chatwebhook query",
													ALLOCSET_SMALL_SIZES);
	query->plan = NULL;
	oldcontext = MemoryContextSwitchTo(query->plan_context);
	copy = copyObject(query->body);
	AcquireRewriteLocks(copy, true, false);
	rewritten = pg_rewrite_query(copy);
	if (list_length(rewritten) != 1)
		elog(ERROR, "a rule has made %d statements of a query",
			 list_length(rewritten));
	query->plan = cwh_plan_query(linitial_node(Query, rewritten));
	prepare_chatbot(query);
	query->econtext = CreateStandaloneExprContext();
	query->econtext->ecxt_param_list_info = query->params;
	MemoryContextSwitchTo(oldcontext);
	query->valid = changes == before;
}

/*
 * Lock the tables of a plan, and make the plan anew if one of them, or something
 * else that it depends on, has changed.
 */
static void
lock_and_plan(CwhQuery *query)
{
	do
	{
		ListCell   *cell;

		plan_query(query);
		foreach(cell, query->plan->rtable)
		{
			RangeTblEntry *entry = lfirst(cell);

			/* tables and views; the lock takes note of what has changed */
			if ((entry->rtekind == RTE_RELATION ||
				 entry->rtekind == RTE_SUBQUERY) && OidIsValid(entry->relid))
				LockRelationOid(entry->relid, entry->rellockmode);
		}
	} while (!query->valid);
}

/*
 * Running
 */

/* The row as a value of the table's row type. */
static Datum
row_datum(CwhQuery *query, TupleTableSlot *slot, TupleDesc desc)
{
	HeapTuple	tuple;
	bool		free_tuple;
	Size		size = 0;

	slot_getallattrs(slot);
	for (int i = 0; i < desc->natts; i++)
		if (!slot->tts_isnull[i] && TupleDescAttr(desc, i)->attlen == -1)
			size += toast_raw_datum_size(slot->tts_values[i]);
	if (size > MAX_ROW)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the row is too large to be passed to a query"),
				 errdetail("It has more than %d bytes.", MAX_ROW),
				 errhint("Use columns of NEW and OLD instead of the whole row.")));
	tuple = ExecFetchSlotHeapTuple(slot, false, &free_tuple);
	return heap_copy_tuple_as_datum(tuple, desc);
}

/* Set the parameters that come from a row; without a row, they are null. */
static void
set_row(CwhQuery *query, int row, TupleTableSlot *slot)
{
	ParamExternData *params = query->params->params;
	TupleDesc	desc = lookup_rowtype_tupdesc(query->rowtype, -1);
	int			i = ROWS;
	ListCell   *cell;

	/* a partition's row may have other columns */
	if (slot && slot->tts_tupleDescriptor->tdtypeid != query->rowtype)
	{
		TupleConversionMap *map = convert_tuples_by_name(slot->tts_tupleDescriptor,
														 desc);

		if (map)
			slot = execute_attr_map_slot(map->attrMap, slot,
										 MakeSingleTupleTableSlot(CreateTupleDescCopy(desc),
																  &TTSOpsVirtual));
	}
	params[row].isnull = slot == NULL || !query->whole[row];
	if (!params[row].isnull)
		params[row].value = row_datum(query, slot, desc);
	foreach(cell, query->fields)
	{
		Field	   *field = lfirst(cell);
		ParamExternData *param = &params[i++];

		if (field->row != row)
			continue;
		if (field->column > desc->natts ||
			TupleDescAttr(desc, field->column - 1)->atttypid != param->ptype)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("the type of a column that the query uses has changed"),
					 errhint("Call chatwebhook.watch() with replace => true.")));
		param->isnull = true;
		if (slot)
			param->value = slot_getattr(slot, field->column, &param->isnull);
	}
	ReleaseTupleDesc(desc);
}

/*
 * Enter the environment in which a query runs, and set its parameters from the
 * rows after and before a change, either of which can be null.  The caller's
 * subtransaction must be rolled back to leave that environment.
 */
void
cwh_query_enter(CwhQuery *query, TupleTableSlot *newslot,
				TupleTableSlot *oldslot)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	/* this forbids what a rollback would not undo, such as PREPARE */
	SetUserIdAndSecContext(query->owner,
						   context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	XactReadOnly = true;
	(void) NewGUCNestLevel();
	(void) cwh_fix_settings();
	if (!row_security)
		set_setting("row_security", "on");
	/*
	 * Functions that the query calls run with the search_path of the call of
	 * watch().  Set it in any case: the plan does not show all functions, such as
	 * those called by query_to_xml() or by domains in a composite type.
	 */
	set_setting("search_path", query->search_path);
	set_row(query, NEW_ROW, newslot);
	set_row(query, OLD_ROW, oldslot);
}

/*
 * Compute the chatbotId of a query's events without running it, if that is
 * possible.
 */
bool
cwh_query_chatbot(CwhQuery *query, char **chatbot_id)
{
	Datum		value;
	bool		isnull;
	Oid			output;
	bool		is_varlena;

	plan_query(query);
	*chatbot_id = NULL;
	if (query->no_chatbot)
		return true;
	if (query->chatbot == NULL)
		return false;
	value = ExecEvalExprSwitchContext(query->chatbot, query->econtext, &isnull);
	getTypeOutputInfo(exprType((Node *) query->chatbot->expr), &output,
					  &is_varlena);
	*chatbot_id = isnull ? NULL : OidOutputFunctionCall(output, value);
	ResetExprContext(query->econtext);
	return true;
}

/* DestReceiver: take a row of the result. */
static bool
collect_row(TupleTableSlot *slot, DestReceiver *self)
{
	Collector  *collector = (Collector *) self;
	bool		isnull;
	Datum		value = slot_getattr(slot, 1, &isnull);
	MemoryContext oldcontext;
	Jsonb	   *row;

	if (isnull)
		return true;
	if (list_length(collector->rows) == MAX_EVENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the query returned more than %d rows", MAX_EVENTS),
				 errhint("Each row is an event. Aggregate the rows to send them as one.")));
	collector->size += toast_raw_datum_size(value);
	if (collector->size > MAX_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the query returned more than %d bytes", MAX_SIZE)));
	oldcontext = MemoryContextSwitchTo(collector->context);
	row = DatumGetJsonbPCopy(value);
	collector->rows = lappend(collector->rows, row);
	MemoryContextSwitchTo(oldcontext);
	return true;
}

/* DestReceiver: nothing to start. */
static void
start_collecting(DestReceiver *self, int operation, TupleDesc desc)
{
}

/* DestReceiver: nothing to end. */
static void
stop_collecting(DestReceiver *self)
{
}

/* Set up the execution of a query whose plan is valid. */
static QueryDesc *
start_query(CwhQuery *query, DestReceiver *dest, int flags)
{
	QueryDesc  *desc;

	/* see the row itself, too */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	desc = CreateQueryDesc(query->plan, "chatwebhook.watch()",
						   GetActiveSnapshot(), InvalidSnapshot, dest,
						   query->params, NULL, 0);
	ExecutorStart(desc, flags);
	return desc;
}

/* End it. */
static void
end_query(QueryDesc *desc)
{
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	PopActiveSnapshot();
}

/*
 * Run a query.  Returns its rows as a list of Jsonb in this memory context.
 */
List *
cwh_query_run(CwhQuery *query, MemoryContext context)
{
	Collector	collector = {
		{collect_row, start_collecting, stop_collecting, stop_collecting, DestNone},
		context, NIL, 0
	};
	QueryDesc  *desc;

	lock_and_plan(query);
	desc = start_query(query, &collector.dest, 0);
	cwh_executor_run(desc, MAX_EVENTS + 1);
	end_query(desc);
	return collector.rows;
}

/* Is this the key of an object? */
static bool
is_key(const JsonbValue *value, const char *key)
{
	return value->val.string.len == strlen(key) &&
		memcmp(value->val.string.val, key, strlen(key)) == 0;
}

/* Take an id out of a row of a query; null if it is null, or there is none. */
static char *
take_id(Jsonb *row, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&row->root, key,
													 strlen(key), NULL);

	char	   *id;

	if (value == NULL || value->type == jbvNull)
		return NULL;
	id = cwh_id_text(value);
	if (id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query's column \"%s\" is an object or an array",
						key),
				 errhint("Make it a text.")));
	return id;
}

/* Divide a row of a query into the ids, which can be null, and the data. */
Jsonb *
cwh_query_row(Jsonb *row, const char **chatbot_id,
			  const char **conversation_id)
{
	CwhJsonbState state = {0};
	JsonbIterator *iterator = JsonbIteratorInit(&row->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		skip = false;

	/* always true for a view that watch() has created */
	if (!JB_ROOT_IS_OBJECT(row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event that a query returned is not an object"),
				 errhint("Call chatwebhook.watch() with replace => true.")));
	*chatbot_id = take_id(row, "chatbotId");
	*conversation_id = take_id(row, "conversationId");
	/* the objects and arrays within it are copied as they are */
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			skip = is_key(&value, "chatbotId") || is_key(&value, "conversationId");
		if (!skip)
			cwh_push_jsonb(&state, token,
						   token == WJB_KEY || token == WJB_VALUE ? &value : NULL);
		else if (token == WJB_VALUE)
			skip = false;
	}
	return JsonbValueToJsonb(state.result);
}

/*
 * Check that a query can be planned, and that its owner may read what it reads,
 * without running it.
 */
void
cwh_query_check(CwhQuery *query)
{
	QueryDesc  *desc;

	lock_and_plan(query);
	desc = start_query(query, None_Receiver, EXEC_FLAG_EXPLAIN_ONLY);
	end_query(desc);
}
