/*
 * validator.c
 *		Checks the data of events against the schemas of their types.
 *
 * The function that chatwebhook.schema_validator names gets the schema and the
 * data, and decides.  It is called in the session that emits, within a time
 * limit, and in a subtransaction that is read-only and always rolled back.  So
 * it has no effect but its result, its locks are released, and its errors can
 * be caught.
 *
 * It runs as its owner, as a connector does.  If it ran as the role that
 * emits, any role that can replace the function could act as that role.
 * Conversely, the role that emits must not be able to act as the owner:
 * neither the function nor the objects that it uses are looked up in the
 * session's search_path.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "deadline.h"
#include "emit_report.h"
#include "envelope.h"
#include "settings.h"
#include "subscription.h"
#include "validator.h"
#include "value.h"

/* Why data is not valid.  The message contains no values from the data. */
typedef struct Problem
{
	int			sqlerrcode;
	const char *message;		/* null: it is valid */
	char	   *detail;			/* or null; may contain values */
	const char *hint;
} Problem;

/* How much of an error message of the function to show, in bytes. */
#define MAX_DETAIL		1024

#define FUNCTION_HINT	"The setting chatwebhook.schema_validator must name a function f(schema json, instance jsonb) that returns boolean, and that its owner may execute."
#define ERROR_HINT		"The setting chatwebhook.schema_validator names the function. It runs as its owner, read-only, and with search_path = pg_catalog, pg_temp."
#define SLOW_HINT		"Simplify the schema, or increase chatwebhook.emit_timeout."
#define INVALID_HINT	"See the column \"schema\" of chatwebhook.event_type."

/*
 * Should the data of events of this type be checked?  Events about webhooks
 * are not: the extension emits them, mostly in a worker, which must not wait.
 */
bool
cwh_schema_applies(const char *type)
{
	return cwh_uses_validator() && !cwh_is_own_type(type) &&
		cwh_event_type(type)->schema != NULL;
}

/*
 * Find the function and its owner, regardless of the session's search_path and
 * its role's privileges.  Returns InvalidOid if no function has that
 * signature.
 */
static Oid
find_function(Oid *owner)
{
	Oid			types[] = {JSONOID, JSONBOID};
	char	   *copy = pstrdup(cwh_schema_validator);
	List	   *names;
	HeapTuple	tuple;
	Form_pg_proc form;
	Oid			function = InvalidOid;

	/* the check hook accepts nothing else */
	if (!SplitIdentifierString(copy, '.', &names) || list_length(names) != 2)
		elog(ERROR, "the schema validator's name is malformed");
	tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(lsecond(names)),
							PointerGetDatum(buildoidvector(types, 2)),
							ObjectIdGetDatum(get_namespace_oid(linitial(names),
															   true)));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->prokind == PROKIND_FUNCTION && !form->proretset &&
		form->prorettype == BOOLOID &&
		cwh_may_execute(form->oid, form->proowner))
		function = form->oid;
	*owner = form->proowner;
	ReleaseSysCache(tuple);
	return function;
}

/* Change a setting until the subtransaction ends. */
static void
set_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Set up the environment for the function; the rollback undoes this. */
static void
enter(Oid owner)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	XactReadOnly = true;
	(void) NewGUCNestLevel();
	(void) cwh_fix_settings();
	set_setting("row_security", "on");
	set_setting("search_path", "pg_catalog, pg_temp");
}

/* Call the function.  Must be called in a subtransaction. */
static void
call(const CwhEventType *type, Jsonb *data, Problem *problem)
{
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo	info;
	Oid			owner;
	Oid			function = find_function(&owner);
	bool		valid;

	/* the schema may just have been removed */
	if (type->schema == NULL)
		return;
	if (!OidIsValid(function))
	{
		problem->sqlerrcode = ERRCODE_UNDEFINED_FUNCTION;
		problem->message = "the schema validator cannot be called";
		problem->hint = FUNCTION_HINT;
		return;
	}
	InitFunctionCallInfoData(*fcinfo, &info, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(type->schema);
	fcinfo->args[1].value = JsonbPGetDatum(data);
	fcinfo->args[0].isnull = fcinfo->args[1].isnull = false;
	enter(owner);
	fmgr_info(function, &info);
	PushActiveSnapshot(GetTransactionSnapshot());
	valid = DatumGetBool(FunctionCallInvoke(fcinfo));
	PopActiveSnapshot();
	if (fcinfo->isnull)
	{
		problem->sqlerrcode = ERRCODE_NULL_VALUE_NOT_ALLOWED;
		problem->message = "the schema validator returned null";
		problem->hint = FUNCTION_HINT;
	}
	else if (!valid)
	{
		problem->sqlerrcode = ERRCODE_INVALID_PARAMETER_VALUE;
		problem->message = "its data does not match the schema of its type";
		problem->hint = INVALID_HINT;
	}
}

/* Describe an error that the function raised, or that interrupted it. */
static void
describe(const ErrorData *error, bool overdue, int limit_ms, Problem *problem)
{
	if (overdue)
	{
		problem->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		problem->message = psprintf("the schema validator took longer than %d ms",
									limit_ms);
		problem->hint = SLOW_HINT;
		return;
	}
	problem->sqlerrcode = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	problem->message = "the schema validator raised an error";
	problem->hint = ERROR_HINT;
	/* the message can have any size */
	problem->detail = psprintf("It was: %.*s",
							   pg_mbcliplen(error->message, strlen(error->message),
											MAX_DETAIL), error->message);
}

/*
 * Call the function in a subtransaction.  Report an error as a problem, unless
 * it must end the statement.
 */
static void
find_problem(const char *type, Jsonb *data, Problem *problem)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	int			limit_ms = cwh_deadline_allowed();
	bool		overdue;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	BeginInternalSubTransaction(NULL);
	cwh_deadline_set(limit_ms);
	PG_TRY();
	{
		call(cwh_event_type(type), data, problem);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	overdue = cwh_deadline_clear();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	cwh_deadline_used(&start);
	if (error == NULL)
		return;
	overdue = overdue && cwh_deadline_raised(error);
	if (cwh_ends_statement(error) && !overdue)
		ReThrowError(error);
	describe(error, overdue, limit_ms, problem);
}

/*
 * Check the data of an event against its schema.  Report a problem with the
 * data, or with the function, as chatwebhook.validation says.
 */
void
cwh_schema_check(const char *type, Jsonb *data)
{
	Problem		problem = {0};

	find_problem(type, data, &problem);
	if (problem.message == NULL)
		return;
	ereport(cwh_validation == CWH_VALIDATION_ERROR ? ERROR : WARNING,
			(errcode(problem.sqlerrcode),
			 errmsg("event \"%s\" failed validation: %s", type,
					problem.message),
			 problem.detail ? errdetail_internal("%s", problem.detail) : 0,
			 errhint("%s", problem.hint)));
}
