/*
 * access.c
 *		Functions that do what their caller has no privileges for.
 *
 * The SQL function f() is chatwebhook_guarded(), and runs with the rights of its
 * caller.  With these, it reads the rows that the first argument names, so that
 * PostgreSQL applies its privileges and policies: a webhook that the caller does
 * not see is an error, and deliveries or events that it does not see are left
 * out.  Then it calls the function _do_f(), a SECURITY DEFINER function that
 * only the extension's owner may execute, with these arguments.
 *
 * A SECURITY DEFINER function could not find out by itself what its caller may
 * see, because it does not know who that is.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(chatwebhook_guarded);

/* What a guarded function's first argument names, by its type. */
typedef struct Guard
{
	Oid			type;
	const char *sql;			/* what of it the caller sees */
} Guard;

static const Guard guards[] = {
	/* a webhook */
	{UUIDOID,
		"SELECT w.id FROM chatwebhook.webhook w"
	" WHERE w.id OPERATOR(pg_catalog.=) $1"},
	/* deliveries */
	{INT8ARRAYOID,
		"SELECT pg_catalog.array_agg(d.id) FROM chatwebhook.delivery d"
	" WHERE d.id OPERATOR(pg_catalog.=) ANY ($1)"},
	/* events */
	{UUIDARRAYOID,
		"SELECT pg_catalog.array_agg(e.id) FROM chatwebhook.event e"
	" WHERE e.id OPERATOR(pg_catalog.=) ANY ($1)"}
};

/* What is kept for a call expression. */
typedef struct Guarded
{
	FmgrInfo	target;
	const Guard *guard;
	bool		read_only;		/* the function is not VOLATILE */
} Guarded;

/* Find the function to call, and the guard, for the function being called. */
static Guarded *
find_target(FmgrInfo *flinfo)
{
	Guarded    *guarded = MemoryContextAllocZero(flinfo->fn_mcxt,
												 sizeof(Guarded));
	HeapTuple	tuple = SearchSysCache1(PROCOID,
										ObjectIdGetDatum(flinfo->fn_oid));
	Form_pg_proc proc;
	const char *name;
	Oid			target;
	Oid			type;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", flinfo->fn_oid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	name = NameStr(proc->proname);
	name = psprintf("_do_%s", name + (name[0] == '_' ? 1 : 0));
	target = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							 CStringGetDatum(name),
							 PointerGetDatum(&proc->proargtypes),
							 ObjectIdGetDatum(proc->pronamespace));
	type = proc->proargtypes.values[0];
	for (int i = 0; i < lengthof(guards); i++)
		if (guards[i].type == type)
			guarded->guard = &guards[i];
	guarded->read_only = proc->provolatile != PROVOLATILE_VOLATILE;
	ReleaseSysCache(tuple);
	if (!OidIsValid(target) || guarded->guard == NULL)
		elog(ERROR, "function %s is missing", name);
	fmgr_info_cxt(target, &guarded->target, flinfo->fn_mcxt);
	return guarded;
}

/*
 * Return what the caller can see of the rows that the argument names: the
 * webhook's id, or an error if it is not visible; or an array of the visible
 * ids, possibly empty.
 */
static Datum
visible(const Guarded *guarded, NullableDatum arg)
{
	MemoryContext context = CurrentMemoryContext;
	const Guard *guard = guarded->guard;
	Oid			type = guard->type;
	char		null = arg.isnull ? 'n' : ' ';
	Datum		result = (Datum) 0;
	bool		isnull = true;

	SPI_connect();
	if (SPI_execute_with_args(guard->sql, 1, &type, &arg.value, &null,
							  guarded->read_only, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not find out what is visible");
	if (SPI_processed > 0)
		result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							   &isnull);
	if (!isnull)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		result = type == UUIDOID ? arg.value :
			PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	if (!isnull)
		return result;
	if (type == UUIDOID)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("webhook \"%s\" does not exist", arg.isnull ? "null" :
						DatumGetCString(DirectFunctionCall1(uuid_out,
															arg.value)))));
	return PointerGetDatum(construct_empty_array(type == INT8ARRAYOID ?
												 INT8OID : UUIDOID));
}

/* SQL: call the function of the same name with _do_, as the comment above says. */
Datum
chatwebhook_guarded(PG_FUNCTION_ARGS)
{
	LOCAL_FCINFO(call, FUNC_MAX_ARGS);
	Guarded    *guarded = fcinfo->flinfo->fn_extra;
	Datum		result;

	if (guarded == NULL)
		fcinfo->flinfo->fn_extra = guarded = find_target(fcinfo->flinfo);
	InitFunctionCallInfoData(*call, &guarded->target, fcinfo->nargs,
							 fcinfo->fncollation, NULL, NULL);
	memcpy(call->args, fcinfo->args, fcinfo->nargs * sizeof(NullableDatum));
	call->args[0].value = visible(guarded, fcinfo->args[0]);
	call->args[0].isnull = false;
	result = FunctionCallInvoke(call);
	fcinfo->isnull = call->isnull;
	return result;
}
