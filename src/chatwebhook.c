/*
 * chatwebhook.c
 *		Module entry: _PG_init, and the hooks that notice when databases and
 *		extensions come and go.
 *
 * The launcher learns of such a change when its transaction ends, however it
 * ends: a database that was to be dropped, but was not, needs its workers back.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "postmaster/bgworker.h"
#include "tcop/utility.h"
#include "utils/inval.h"

#include "compat.h"
#include "emit_failure.h"
#include "gate.h"
#include "initial_copy.h"
#include "query.h"
#include "settings.h"
#include "shared.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(chatwebhook_check_preload);

void		_PG_init(void);

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* What the launcher is asked to check when this transaction ends. */
static bool check_this_database = false;
static bool check_all_databases = false;

/*
 * object_access_hook: notice CREATE, ALTER and DROP EXTENSION, and CREATE
 * TRIGGER.
 */
static void
on_object_access(ObjectAccessType access, Oid classId, Oid objectId,
				 int subId, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (classId == ExtensionRelationId &&
		(access == OAT_POST_CREATE || access == OAT_POST_ALTER ||
		 access == OAT_DROP))
	{
		check_this_database = true;
		/* wake the workers, and have every process look for the extension */
		cwh_hint(NULL, 0, 0, 0);
		CacheInvalidateRelcacheByRelid(ExtensionRelationId);
	}
	else if (classId == TriggerRelationId && access == OAT_POST_CREATE)
		cwh_query_tie(objectId);
}

/* Find an option of a statement; null if the statement does not have it. */
static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/*
 * The database that must be without sessions for this statement to succeed.
 * InvalidOid if there is none, or if the user does not own it: such a statement
 * fails, and must not make another user's workers leave first.
 */
static Oid
database_to_vacate(Node *statement)
{
	const char *name = NULL;
	Oid			database;

	if (IsA(statement, DropdbStmt))
		name = ((DropdbStmt *) statement)->dbname;
	else if (IsA(statement, CreatedbStmt))
	{
		DefElem    *option = find_option(((CreatedbStmt *) statement)->options,
										 "template");

		name = option && option->arg ? defGetString(option) : "template1";
	}
	else if (IsA(statement, RenameStmt) &&
			 ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) statement)->subname;
	else if (IsA(statement, AlterDatabaseStmt) &&
			 find_option(((AlterDatabaseStmt *) statement)->options, "tablespace"))
		name = ((AlterDatabaseStmt *) statement)->dbname;
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	return OidIsValid(database) && cwh_owns_database(database) ?
		database : InvalidOid;
}

/*
 * ProcessUtility_hook: clear a database of workers for a statement that wants
 * it for itself, notice COMMIT PREPARED, which commits what another session has
 * emitted, and order and note the initial copies of an outbox.
 */
static void
on_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		   ProcessUtilityContext context, ParamListInfo params,
		   QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	Oid			database = database_to_vacate(statement);
	bool		is_initial_copy = cwh_is_initial_copy(statement);

	if (OidIsValid(database))
	{
		check_all_databases = true;
		cwh_block_database(database);
	}
	else if (IsA(statement, TransactionStmt) &&
			 ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED)
	{
		check_this_database = true;
		cwh_hint(NULL, 0, 0, 0);
	}
	if (is_initial_copy)
		pstmt = cwh_plan_initial_copy(pstmt);

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context,
								  params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
	if (is_initial_copy)
		cwh_initial_copy_add();
}

/* Transaction callback: let workers start again, and wake the launcher. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (check_all_databases)
		cwh_wake_launcher(InvalidOid);
	else if (check_this_database)
		cwh_wake_launcher(MyDatabaseId);
	check_this_database = check_all_databases = false;
}

/* SQL: warn if the library was not preloaded. */
Datum
chatwebhook_check_preload(PG_FUNCTION_ARGS)
{
	if (!cwh_preloaded)
		ereport(WARNING,
				(errmsg("chatwebhook is not in shared_preload_libraries: events are queued, but nothing is sent"),
				 errhint("Add chatwebhook to shared_preload_libraries in postgresql.conf and restart the server.")));
	PG_RETURN_VOID();
}

/* Have the postmaster start the launcher. */
static void
register_launcher(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "chatwebhook", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cwh_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "chatwebhook launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "chatwebhook launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * Called when the library is loaded.  A session that loads it without
 * shared_preload_libraries can emit events and call functions, but has neither
 * shared memory nor workers.
 */
void
_PG_init(void)
{
	cwh_define_settings();
	cwh_shared_install();
	cwh_gate_install();
	cwh_emit_failure_install();
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_object_access_hook = object_access_hook;
	object_access_hook = on_object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = on_utility;
	RegisterXactCallback(at_transaction_end, NULL);
	/* pg_upgrade must be the only one to change its servers */
	if (!IsBinaryUpgrade)
		register_launcher();
}
