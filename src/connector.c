/*
 * connector.c
 *		Calls connectors: functions in SQL that turn an event into requests.
 *
 * A connector is somebody else's code.  It runs as the owner of its function,
 * within a subtransaction that is read-only and always rolled back, so that it
 * can change nothing, neither rows nor settings; and for no longer than
 * chatwebhook.connector_timeout.  What it raises, or what is wrong with its
 * request, is the trouble of that delivery alone.
 *
 * It sees no secret: the webhook's url as its owner wrote it, with {{name}}
 * for credentials, and not its auth.  They are filled in when the request is
 * sent, into the webhook's own url, headers and auth only; so nothing that a
 * visitor wrote can bring a credential to light.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "compat.h"
#include "connector.h"
#include "envelope.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(chatwebhook_cut);
PG_FUNCTION_INFO_V1(chatwebhook_url_encode);

/* More requests than this for one delivery are taken for a loop. */
#define MAX_STEPS		20

/*
 * A connector that does not give up is asked to again after this, so many
 * times; then its process ends, which it cannot catch.
 */
#define INSIST_MS		100
#define MAX_INSISTENCE	10

static TimeoutId time_limit = MAX_TIMEOUTS;
static volatile sig_atomic_t overdue = false;
static volatile sig_atomic_t insistence = 0;
const CwhWebhook *volatile cwh_running_connector = NULL;

/* The time limit is over: have CHECK_FOR_INTERRUPTS() raise an error. */
static void
on_overdue(void)
{
	overdue = true;
	QueryCancelPending = true;
	if (++insistence > MAX_INSISTENCE)
		ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	/* it may have caught that */
	enable_timeout_after(time_limit, INSIST_MS);
}

/* What came back, as a row of chatwebhook.request. */
typedef struct Fields
{
	Datum		values[5];
	bool		nulls[5];
} Fields;

/* The type that connectors return. */
static Oid
request_type(void)
{
	Oid			namespace = get_namespace_oid("chatwebhook", false);

	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
						   CStringGetDatum("request"),
						   ObjectIdGetDatum(namespace));
}

/* Find the function, and see that it may be called.  Gives its owner. */
static Oid
find_function(const CwhWebhook *webhook, Oid *owner)
{
	Oid			function;
	HeapTuple	tuple;
	Form_pg_proc form;

	if (webhook->function == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no connector is called \"%s\"", webhook->connector)));
	function = DatumGetObjectId(DirectFunctionCall1(regprocedurein,
													CStringGetDatum(webhook->function)));
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	*owner = form->proowner;
	if (form->pronargs != 3 || form->proargtypes.values[0] != JSONBOID ||
		form->proargtypes.values[1] != JSONBOID ||
		form->proargtypes.values[2] != JSONBOID || form->proretset ||
		form->provolatile == PROVOLATILE_VOLATILE ||
		form->prorettype != request_type())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is no connector any more", webhook->function),
				 errhint("It must be STABLE, and return chatwebhook.request.")));
	ReleaseSysCache(tuple);
	return function;
}

/* Take the columns of what a connector has returned; false if it was null. */
static bool
take_fields(Datum result, Fields *fields)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(result);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row),
											  HeapTupleHeaderGetTypMod(row));
	HeapTupleData tuple;
	bool		any = false;

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, desc, fields->values, fields->nulls);
	ReleaseTupleDesc(desc);
	for (int i = 0; i < lengthof(fields->nulls); i++)
		any = any || !fields->nulls[i];
	return any;
}

/* An error that names what is wrong with a connector's request. */
static void
bad_request(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the connector's request is unusable: %s", problem)));
}

/* The method of a request, as a constant. */
static const char *
method_of(const Fields *fields)
{
	static const char *const methods[] = {"POST", "GET", "PUT", "PATCH", "DELETE"};
	char	   *method;

	if (fields->nulls[0])
		return methods[0];
	method = TextDatumGetCString(fields->values[0]);
	for (int i = 0; i < lengthof(methods); i++)
		if (strcmp(method, methods[i]) == 0)
			return methods[i];
	bad_request(psprintf("its method is \"%.*s\", and not GET, POST, PUT, PATCH or DELETE",
						 pg_mbcliplen(method, strlen(method), 100), method));
	return NULL;
}

/*
 * The length of the webhook's own URL at the beginning of the request's, both
 * without what may stand at the end of a path; 0 if it does not begin with it.
 */
static size_t
own_part(const char *base, const char *url)
{
	size_t		len = strlen(base);

	while (len > 0 && base[len - 1] == '/')
		len--;
	if (len == 0 || strncmp(base, url, len) != 0 ||
		(url[len] != '\0' && strchr("/?&", url[len]) == NULL))
		return 0;
	return len;
}

/* The URL of a request, in two parts: see CwhStep. */
static void
take_url(const Fields *fields, const CwhWebhook *webhook, CwhStep *step)
{
	char	   *url;
	size_t		own;

	if (fields->nulls[1])
	{
		step->own_url = true;
		step->url = pstrdup("");
		return;
	}
	url = TextDatumGetCString(fields->values[1]);
	own = own_part(webhook->url_template, url);
	step->own_url = own > 0;
	/* all of it as it stands: the trailing slash belongs to it */
	step->url = strcmp(url, webhook->url_template) == 0 ? pstrdup("") :
		pstrdup(url + own);
	for (const char *c = step->url; *c; c++)
		if (*c <= ' ' || *c > '~' || *c == '{' || *c == '}')
			bad_request("its URL has a character that must be percent-encoded; see chatwebhook.url_encode()");
	if (!step->own_url && step->url[0] == '\0')
		bad_request("its URL is empty");
}

/* The headers of a request as lines. */
static void
take_headers(const Fields *fields, CwhStep *step)
{
	Jsonb	   *headers;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	const char *problem;

	if (fields->nulls[2])
		return;
	headers = DatumGetJsonbP(fields->values[2]);
	problem = cwh_header_problem(headers);
	if (problem)
		bad_request(psprintf("its headers: %s", problem));
	step->headers = palloc(Max(1, JB_ROOT_COUNT(headers)) * sizeof(char *));
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
			step->headers[step->nheaders++] =
				psprintf("%s: %.*s", name, value.val.string.len,
						 value.val.string.val);
	}
}

/* The body of a request as it is sent. */
static void
take_body(const Fields *fields, const CwhWebhook *webhook, CwhStep *step)
{
	Jsonb	   *body;

	if (fields->nulls[3])
	{
		if (webhook->auth == CWH_AUTH_BODY)
			bad_request("it has no body, into which the webhook's auth is to be put");
		return;
	}
	body = DatumGetJsonbP(fields->values[3]);
	if (webhook->auth == CWH_AUTH_BODY && !JB_ROOT_IS_OBJECT(body))
		bad_request("its body is not an object, into which the webhook's auth is to be put");
	if (!cwh_json_fits(body, cwh_max_payload_size))
		bad_request("its body is larger than chatwebhook.max_payload_size");
	step->body = makeStringInfo();
	cwh_json_write(step->body, body);
}

/*
 * Call a connector, as the owner of its function, and take over what it
 * returns: null if it wants nothing sent (any more).
 */
static void
call(CwhRender *render, FmgrInfo *function, Oid owner)
{
	LOCAL_FCINFO(fcinfo, 3);
	MemoryContext oldcontext = CurrentMemoryContext;
	CwhStep *step;
	Fields		fields;
	Oid			user;
	int			sec_context;
	char	   *event;
	Datum		result;

	if (render->replies && JB_ROOT_COUNT(render->replies) >= MAX_STEPS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("it asks for more than %d requests", MAX_STEPS)));

	event = pg_any_to_server(render->event, strlen(render->event), PG_UTF8);
	InitFunctionCallInfoData(*fcinfo, function, 3, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = DirectFunctionCall1(jsonb_in, CStringGetDatum(event));
	fcinfo->args[1].value = JsonbPGetDatum(render->webhook->argument);
	fcinfo->args[2].value = render->replies ? JsonbPGetDatum(render->replies) :
		DirectFunctionCall1(jsonb_in, CStringGetDatum("[]"));
	for (int i = 0; i < 3; i++)
		fcinfo->args[i].isnull = false;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	if (!cwh_may_execute(function->fn_oid, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("its owner may not execute %s", render->webhook->function)));
	result = FunctionCallInvoke(fcinfo);
	SetUserIdAndSecContext(user, sec_context);

	render->step = NULL;
	if (!fcinfo->isnull && take_fields(result, &fields))
	{
		MemoryContextSwitchTo(render->context);
		step = palloc0(sizeof(CwhStep));
		step->method = method_of(&fields);
		take_url(&fields, render->webhook, step);
		take_headers(&fields, step);
		take_body(&fields, render->webhook, step);
		step->last = !fields.nulls[4] && DatumGetBool(fields.values[4]);
		if (strcmp(step->method, "GET") == 0 && step->body)
			bad_request("it is a GET with a body");
		render->step = step;
		render->row = datumCopy(result, false, -1);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* The time limit begins. */
static void
start_clock(const CwhWebhook *webhook)
{
	if (time_limit == MAX_TIMEOUTS)
		time_limit = RegisterTimeout(USER_TIMEOUT, on_overdue);
	overdue = false;
	insistence = 0;
	cwh_running_connector = webhook;
	enable_timeout_after(time_limit, cwh_connector_timeout);
}

/* It ends; tells if it was exceeded. */
static bool
stop_clock(void)
{
	bool		late;

	if (cwh_running_connector == NULL)
		return false;
	disable_timeout(time_limit, false);
	cwh_running_connector = NULL;
	late = overdue;
	overdue = false;
	if (late)
		QueryCancelPending = false;
	return late;
}

/*
 * Call the connector of the first of these, and of those behind it that have
 * the same, in one subtransaction, until one fails or is slow.  Returns how
 * many were called.
 */
static int
render_some(CwhRender *renders, int n)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	ErrorData  *volatile cancel = NULL;
	volatile int done = 0;
	volatile bool late = false;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
													  "chatwebhook connector",
													  ALLOCSET_DEFAULT_SIZES);
		FmgrInfo	function;
		Oid			owner;

		MemoryContextSwitchTo(scratch);
		fmgr_info(find_function(renders->webhook, &owner), &function);
		/* all of it is put back when the subtransaction ends */
		XactReadOnly = true;
		SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET,
						PGC_S_SESSION);
		SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_SESSION);
		/* a function's strings are as whoever wrote it meant them */
		SetConfigOption("standard_conforming_strings", "on", PGC_USERSET,
						PGC_S_SESSION);
		do
		{
			CwhRender  *render = &renders[done];
			TimestampTz start = GetCurrentTimestamp();

			start_clock(render->webhook);
			call(render, &function, owner);
			late = stop_clock();
			if (late)
				elog(ERROR, "overdue");
			render->took_ms = (int) ((GetCurrentTimestamp() - start) / 1000);
			done++;
		}
		while (done < n && renders[done - 1].took_ms < CWH_SLOW_CONNECTOR_MS &&
			   renders[done].webhook->function &&
			   strcmp(renders[done].webhook->function,
					  renders->webhook->function) == 0);
	}
	PG_CATCH();
	{
		CwhRender  *render = &renders[done];
		ErrorData  *error;

		late = stop_clock() || late;
		MemoryContextSwitchTo(render->context);
		error = CopyErrorData();
		FlushErrorState();
		/* a session's own cancel is no trouble of the connector's */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !late &&
			MyBgworkerEntry == NULL)
			cancel = error;
		render->step = NULL;
		render->took_ms = late ? cwh_connector_timeout : 0;
		render->error = late ?
			psprintf("connector \"%s\": it took longer than %d ms (chatwebhook.connector_timeout)",
					 render->webhook->connector, cwh_connector_timeout) :
			psprintf("connector \"%s\": %s", render->webhook->connector,
					 error->message);
		done++;
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	if (cancel)
		ReThrowError(cancel);
	/* what outlives transactions; in a session they may be its own */
	if (MyBgworkerEntry)
		LockReleaseSession(USER_LOCKMETHOD);
	return done;
}

/*
 * Have the connectors of these make their next requests.  To be called within
 * a transaction.  Stops behind a connector that was slow; returns how many
 * were seen to.
 */
int
cwh_connector_render(CwhRender *renders, int n)
{
	CwhRender  *next = renders;
	CwhRender  *end = renders + n;

	for (int i = 0; i < n; i++)
	{
		renders[i].step = NULL;
		renders[i].error = NULL;
		renders[i].took_ms = 0;
	}
	do
		next += render_some(next, end - next);
	while (next < end && next[-1].took_ms < CWH_SLOW_CONNECTOR_MS);
	return next - renders;
}

/*
 * For those who write connectors
 */

/* The UTF-16 units of a character in UTF-8. */
static inline int
utf16_units(const char *c)
{
	return ((unsigned char) *c & 0xF8) == 0xF0 ? 2 : 1;
}

/* SQL: as much of a text as fits. */
Datum
chatwebhook_cut(PG_FUNCTION_ARGS)
{
	text	   *value = PG_GETARG_TEXT_PP(0);
	int			size = PG_GETARG_INT32(1);
	const char *data = VARDATA_ANY(value);
	int			len = VARSIZE_ANY_EXHDR(value);
	bool		utf8 = GetDatabaseEncoding() == PG_UTF8;
	const char *ellipsis = utf8 ? "\xE2\x80\xA6" : "...";
	int			room = size - (utf8 ? 1 : 3);
	int			units = 0;
	int			fits = 0;		/* bytes with which there is room for it */
	StringInfoData result;

	if (size < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a text cannot be cut to %d characters", size)));
	for (int i = 0; i < len;)
	{
		int			bytes = pg_mblen(data + i);

		units += utf8 ? utf16_units(data + i) : 1;
		i += bytes;
		if (units <= room)
			fits = i;
		if (units > size)
			break;
	}
	if (units <= size)
		PG_RETURN_TEXT_P(value);
	initStringInfo(&result);
	appendBinaryStringInfo(&result, data, fits);
	if (room >= 0)
		appendStringInfoString(&result, ellipsis);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}

/* SQL: a text within a URL. */
Datum
chatwebhook_url_encode(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	StringInfoData result;

	initStringInfo(&result);
	cwh_append_url_encoded(&result, pg_server_to_any(value, strlen(value), PG_UTF8));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}
