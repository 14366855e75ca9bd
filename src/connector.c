/*
 * connector.c
 *		Calls connectors: SQL functions that turn an event into requests.
 *
 * Connectors are user-supplied code.  They are called by workers, and by
 * sessions in test_webhook() and preview(), within the caller's transaction.  A
 * connector runs as the owner of its function, in a subtransaction that is
 * read-only and always rolled back, so it can change neither rows nor settings,
 * and its locks are released; and for at most chatwebhook.connector_timeout.
 * An error, or a malformed request, fails only the delivery concerned.
 *
 * A connector sees no secret.  It gets the webhook's url as its owner wrote it,
 * with {{name}} for credentials, and does not get auth.  Credentials are filled
 * in when the request is sent, only into the webhook's own url, headers and
 * auth.  So no text from a visitor's message can make a request reveal one.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "bounds.h"
#include "compat.h"
#include "connector.h"
#include "envelope.h"
#include "jsonb_value.h"
#include "request.h"
#include "settings.h"
#include "target.h"
#include "webhook.h"

PG_FUNCTION_INFO_V1(chatwebhook_cut);
PG_FUNCTION_INFO_V1(chatwebhook_url_encode);

/* A connector that asks for more requests than this seems to be in a loop. */
#define MAX_STEPS		20

/*
 * A connector can catch the cancellation that interrupts it.  The cancellation
 * is repeated at this interval, this many times; then the process is
 * terminated, which cannot be caught.
 */
#define INSIST_MS		100
#define MAX_INSISTENCE	10

/* The columns of chatwebhook.request. */
enum
{
	REQUEST_METHOD, REQUEST_URL, REQUEST_HEADERS, REQUEST_BODY, REQUEST_LAST,
	REQUEST_COLUMNS
};

/* A row of chatwebhook.request, returned by a connector. */
typedef struct Fields
{
	Datum		values[REQUEST_COLUMNS];
	bool		nulls[REQUEST_COLUMNS];
} Fields;

static TimeoutId time_limit = MAX_TIMEOUTS; /* registered on first use */
static volatile sig_atomic_t overdue = false;	/* the time limit has expired */
static volatile sig_atomic_t insistence = 0;	/* how many times since */
const CwhWebhook *volatile cwh_running_connector = NULL;

/* Timeout handler: have CHECK_FOR_INTERRUPTS() raise an error. */
static void
on_overdue(void)
{
	overdue = true;
	QueryCancelPending = true;
	if (++insistence > MAX_INSISTENCE)
		ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	/* in case the connector catches that */
	enable_timeout_after(time_limit, INSIST_MS);
}

/* The OID of the type chatwebhook.request. */
static Oid
request_type(void)
{
	Oid			namespace = get_namespace_oid("chatwebhook", false);

	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
						   CStringGetDatum("request"),
						   ObjectIdGetDatum(namespace));
}

/* Find a connector's function and check its signature.  Sets *owner. */
static Oid
find_function(const CwhWebhook *webhook, Oid *owner)
{
	Oid			function;
	HeapTuple	tuple;
	Form_pg_proc form;
	const char *language;

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
	/* it may have been replaced since the table connector's trigger looked */
	language = get_language_name(form->prolang, false);
	if (strcmp(language, "sql") != 0 && strcmp(language, "plpgsql") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is written in %s, but a connector must be in sql or plpgsql",
						webhook->function, language)));
	if (form->pronargs != 3 || form->proargtypes.values[0] != JSONBOID ||
		form->proargtypes.values[1] != JSONBOID ||
		form->proargtypes.values[2] != JSONBOID || form->proretset ||
		form->provolatile == PROVOLATILE_VOLATILE ||
		form->prorettype != request_type())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is not a connector", webhook->function),
				 errhint("A connector takes three arguments of type jsonb, returns chatwebhook.request, and is STABLE or IMMUTABLE.")));
	ReleaseSysCache(tuple);
	return function;
}

/*
 * Take the columns of the row that a connector has returned.  Returns false if
 * all are null, which is the same as null.
 */
static bool
take_fields(Datum result, Fields *fields)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(result);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row),
											  HeapTupleHeaderGetTypMod(row));
	HeapTupleData tuple;
	bool		any = false;

	if (desc->natts != REQUEST_COLUMNS)
		elog(ERROR, "type chatwebhook.request has %d columns", desc->natts);
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, desc, fields->values, fields->nulls);
	ReleaseTupleDesc(desc);
	for (int i = 0; i < REQUEST_COLUMNS; i++)
		any = any || !fields->nulls[i];
	return any;
}

/* Raise an error about a connector's request. */
static void
bad_request(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the connector's request is unusable: %s", problem)));
}

/* A request's method, as a constant. */
static const char *
method_of(const Fields *fields)
{
	static const char *const methods[] = {"POST", "GET", "PUT", "PATCH", "DELETE"};
	char	   *method;

	if (fields->nulls[REQUEST_METHOD])
		return methods[0];
	method = TextDatumGetCString(fields->values[REQUEST_METHOD]);
	for (int i = 0; i < lengthof(methods); i++)
		if (strcmp(method, methods[i]) == 0)
			return methods[i];
	bad_request(psprintf("its method is \"%.*s\", and not GET, POST, PUT, PATCH or DELETE",
						 pg_mbcliplen(method, strlen(method), 100), method));
	return NULL;
}

/*
 * If a request's URL begins with the webhook's own, followed by a path, a query
 * or nothing, return the length of that part, without trailing slashes; else 0.
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

/* Take a request's URL, in two parts; see CwhStep. */
static void
take_url(const Fields *fields, const CwhWebhook *webhook, CwhStep *step)
{
	char	   *url;
	size_t		own;

	if (fields->nulls[REQUEST_URL])
	{
		step->own_url = true;
		step->url = pstrdup("");
		return;
	}
	url = TextDatumGetCString(fields->values[REQUEST_URL]);
	own = own_part(webhook->url_template, url);
	step->own_url = own > 0;
	/* exactly the webhook's own URL: keep its trailing slashes */
	step->url = strcmp(url, webhook->url_template) == 0 ? pstrdup("") :
		pstrdup(url + own);
	for (const char *c = step->url; *c; c++)
		if (*c <= ' ' || *c > '~' || *c == '{' || *c == '}')
			bad_request("its URL has a character that must be percent-encoded; see chatwebhook.url_encode()");
	if (!step->own_url && step->url[0] == '\0')
		bad_request("its URL is empty");
}

/* Take a request's headers, as lines. */
static void
take_headers(const Fields *fields, CwhStep *step)
{
	Jsonb	   *headers;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	const char *problem;

	if (fields->nulls[REQUEST_HEADERS])
		return;
	headers = DatumGetJsonbP(fields->values[REQUEST_HEADERS]);
	problem = cwh_header_problem(headers, true);
	if (problem)
		bad_request(psprintf("its headers: %s", problem));
	step->headers = palloc(Max(1, JB_ROOT_COUNT(headers)) * sizeof(char *));
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *line = psprintf("%s: %.*s", name, value.val.string.len,
										value.val.string.val);

			if (cwh_is_content_type(name))
				step->content_type = line;
			else
				step->headers[step->nheaders++] = line;
		}
	}
}

/* Take a request's body, as the bytes to send. */
static void
take_body(const Fields *fields, const CwhRender *render, CwhStep *step)
{
	const CwhWebhook *webhook = render->webhook;
	Jsonb	   *body;

	if (fields->nulls[REQUEST_BODY])
	{
		if (webhook->auth == CWH_AUTH_BODY)
			bad_request("it has no body, into which the webhook's auth is to be put");
		if (step->content_type)
			bad_request("it has a Content-Type, but no body");
		return;
	}
	body = DatumGetJsonbP(fields->values[REQUEST_BODY]);
	if (webhook->auth == CWH_AUTH_BODY && !JB_ROOT_IS_OBJECT(body))
		bad_request("its body is not an object, into which the webhook's auth is to be put");
	/* it may contain the whole event, or batch, in another form */
	if (!cwh_json_fits(body, cwh_max_payload_size + strlen(render->event)))
		bad_request("its body is larger than chatwebhook.max_payload_size and the event together");
	step->body = makeStringInfo();
	cwh_json_write(step->body, body);
}

/* The webhook as the connector gets it: with what is remembered. */
static Datum
webhook_argument(const CwhRender *render)
{
	Datum		argument = JsonbPGetDatum(render->webhook->argument);
	CwhJsonbState state = {0};

	if (render->memory == NULL)
		return argument;
	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	cwh_jsonb_key(&state, "memory");
	cwh_jsonb_whole(&state, render->memory);
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return DirectFunctionCall2(jsonb_concat, argument,
							   JsonbPGetDatum(JsonbValueToJsonb(state.result)));
}

/*
 * Call a connector as the owner of its function, and set step and row.  Must be
 * called in a subtransaction, which restores the role after an error.
 */
static void
call(CwhRender *render, FmgrInfo *function, Oid owner)
{
	LOCAL_FCINFO(fcinfo, 3);
	MemoryContext oldcontext = CurrentMemoryContext;
	CwhStep    *step;
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
	fcinfo->args[1].value = webhook_argument(render);
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
				 errmsg("its owner has no permission to execute %s", render->webhook->function)));
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
		take_body(&fields, render, step);
		step->last = render->batch ||
			(!fields.nulls[REQUEST_LAST] &&
			 DatumGetBool(fields.values[REQUEST_LAST]));
		if (strcmp(step->method, "GET") == 0 && step->body)
			bad_request("it is a GET with a body");
		render->step = step;
		render->row = datumCopy(result, false, -1);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* Start the time limit of a call. */
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

/*
 * Stop the time limit, if it is running.  Returns true if it has expired; then
 * the cancellation is withdrawn.
 */
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
 * Call the connector of the first of these, and of the following ones with the
 * same function, in one subtransaction, until a call fails or is slow.  Returns
 * the number of calls.
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
		/* the end of the subtransaction restores these settings */
		XactReadOnly = true;
		SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET,
						PGC_S_SESSION);
		SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_SESSION);
		/* parse string literals in functions as by default */
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
				elog(ERROR, "overdue"); /* handled below */
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
		/* the user canceled test_webhook() or preview() */
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
	/* session-level advisory locks outlive the subtransaction */
	if (MyBgworkerEntry)
		LockReleaseSession(USER_LOCKMETHOD);
	return done;
}

/*
 * Call connectors for their next requests, in the caller's transaction.  Stops
 * after a slow call.  Returns for how many of the n the results are set.
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
 * Functions that connectors use
 */

/* The number of UTF-16 code units of a character in UTF-8. */
static inline int
utf16_units(const char *c)
{
	return ((unsigned char) *c & 0xF8) == 0xF0 ? 2 : 1;
}

/*
 * SQL: shorten a text to a number of characters, ending in an ellipsis.  The
 * limits of services count UTF-16 code units, so a character outside the BMP
 * counts as two.
 */
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
	int			fits = 0;		/* bytes that fit before an ellipsis */
	StringInfoData result;

	if (size < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot cut a text to %d characters", size)));
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

/* SQL: percent-encode a text for a URL. */
Datum
chatwebhook_url_encode(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *utf8 = pg_server_to_any(value, strlen(value), PG_UTF8);
	Size		most = CWH_URL_ENCODED_MAX(strlen(utf8)) + 1;
	char	   *encoded = MemoryContextAllocHuge(CurrentMemoryContext, most);
	size_t		len = cwh_url_encode(utf8, encoded);

	if (len > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the percent-encoded text is too long")));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(encoded, len));
}
