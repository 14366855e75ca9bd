/*
 * functions.c
 *		Functions for SQL: signatures, secrets, tests and waiting.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "chatwebhook.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(chatwebhook_header_problem);
PG_FUNCTION_INFO_V1(chatwebhook_secret_generate);
PG_FUNCTION_INFO_V1(chatwebhook_secret_problem);
PG_FUNCTION_INFO_V1(chatwebhook_sign_body);
PG_FUNCTION_INFO_V1(chatwebhook_sign_standard);
PG_FUNCTION_INFO_V1(chatwebhook_verify_body);
PG_FUNCTION_INFO_V1(chatwebhook_verify_standard);
PG_FUNCTION_INFO_V1(chatwebhook_test_webhook);
PG_FUNCTION_INFO_V1(chatwebhook_wait_until_idle);
PG_FUNCTION_INFO_V1(chatwebhook_claim);
PG_FUNCTION_INFO_V1(chatwebhook_settle);
PG_FUNCTION_INFO_V1(chatwebhook_release);
PG_FUNCTION_INFO_V1(chatwebhook_add);
PG_FUNCTION_INFO_V1(chatwebhook_log_alert);

/*
 * Signatures.  They are made over UTF-8, whatever the database's encoding.
 */

/* A text as a C string in UTF-8. */
static char *
to_utf8(const text *t)
{
	char	   *string = text_to_cstring(t);

	return pg_server_to_any(string, strlen(string), PG_UTF8);
}

/* A signer for a secret; an error if it cannot be one. */
static CwhSigner *
signer_for(const text *secret)
{
	char	   *string = text_to_cstring(secret);
	const char *problem = cwh_secret_problem(string, strlen(string));
	CwhSigner  *signer = cwh_signer_create(string, strlen(string));

	cwh_cleanse(string, strlen(string));
	if (signer == NULL)
	{
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unusable secret: %s",
						problem ? problem : "out of memory"),
				 errhint("Give whsec_ and the base64 of 24 to 64 random bytes.")));
	}
	return signer;
}

/* SQL: sha256=<hex> of a body. */
Datum
chatwebhook_sign_body(PG_FUNCTION_ARGS)
{
	char	   *body = to_utf8(PG_GETARG_TEXT_PP(0));
	CwhSigner  *signer = signer_for(PG_GETARG_TEXT_PP(1));
	char		signature[CWH_BODY_SIGNATURE_LEN + 1];
	bool		ok;

	ok = cwh_sign_body(signer, body, strlen(body), signature);
	if (cwh_signer_is_asymmetric(signer))
	{
		cwh_signer_destroy(signer);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the sha256= scheme cannot use a private key"),
				 errhint("Use sign(id, at, body, secret) for v1a.")));
	}
	cwh_signer_destroy(signer);
	if (!ok)
		elog(ERROR, "could not sign");
	PG_RETURN_TEXT_P(cstring_to_text(signature));
}

/* SQL: v1,<base64> of id, time and body. */
Datum
chatwebhook_sign_standard(PG_FUNCTION_ARGS)
{
	char	   *id = to_utf8(PG_GETARG_TEXT_PP(0));
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(1);
	char	   *body = to_utf8(PG_GETARG_TEXT_PP(2));
	CwhSigner  *signer;
	char		signature[CWH_ASYMMETRIC_SIGNATURE_LEN + 1];
	int64		unix_time;
	bool		ok;

	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("the time of a signature is infinite")));
	signer = signer_for(PG_GETARG_TEXT_PP(3));
	unix_time = (int64) timestamptz_to_time_t(at);
	ok = cwh_signer_is_asymmetric(signer) ?
		cwh_sign_asymmetric(signer, id, unix_time, body, strlen(body), signature) :
		cwh_sign_standard(signer, id, unix_time, body, strlen(body), signature);
	cwh_signer_destroy(signer);
	if (!ok)
		elog(ERROR, "could not sign");
	PG_RETURN_TEXT_P(cstring_to_text(signature));
}

/* SQL: is sha256=<hex> that of the body? */
Datum
chatwebhook_verify_body(PG_FUNCTION_ARGS)
{
	char	   *body;
	CwhSigner  *signer;
	bool		ok;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_BOOL(false);
	body = to_utf8(PG_GETARG_TEXT_PP(0));
	signer = signer_for(PG_GETARG_TEXT_PP(2));
	ok = cwh_verify_body(signer, body, strlen(body),
						 text_to_cstring(PG_GETARG_TEXT_PP(1)));
	cwh_signer_destroy(signer);
	PG_RETURN_BOOL(ok);
}

/* A header's value, its name in any case; null if it is not there. */
static char *
find_header(Jsonb *headers, const char *name)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		here = false;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			here = value.val.string.len == strlen(name) &&
				pg_strncasecmp(value.val.string.val, name, strlen(name)) == 0;
		else if (token == WJB_VALUE && here && value.type == jbvString)
			return pnstrdup(value.val.string.val, value.val.string.len);
	}
	return NULL;
}

/* SQL: are the three headers of Standard Webhooks those of the body? */
Datum
chatwebhook_verify_standard(PG_FUNCTION_ARGS)
{
	Jsonb	   *headers;
	Interval   *tolerance;
	char	   *id;
	char	   *timestamp;
	char	   *signatures;
	char	   *body;
	char	   *secret;
	CwhSigner  *signer;
	int64		seconds;
	int64		now;
	bool		ok;

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			PG_RETURN_BOOL(false);
	headers = PG_GETARG_JSONB_P(0);
	if (!JB_ROOT_IS_OBJECT(headers))
		PG_RETURN_BOOL(false);
	id = find_header(headers, "webhook-id");
	timestamp = find_header(headers, "webhook-timestamp");
	signatures = find_header(headers, "webhook-signature");
	if (id == NULL || timestamp == NULL || signatures == NULL)
		PG_RETURN_BOOL(false);

	tolerance = PG_GETARG_INTERVAL_P(3);
	seconds = tolerance->time / USECS_PER_SEC +
		((int64) tolerance->day + (int64) tolerance->month * DAYS_PER_MONTH) *
		SECS_PER_DAY;
	body = to_utf8(PG_GETARG_TEXT_PP(1));
	now = (int64) timestamptz_to_time_t(GetCurrentTimestamp());
	secret = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (strncmp(secret, "whpk_", 5) == 0)
		PG_RETURN_BOOL(cwh_verify_asymmetric(secret, id, timestamp, signatures,
											 body, strlen(body), now, seconds));
	signer = signer_for(PG_GETARG_TEXT_PP(2));
	ok = cwh_verify_standard(signer, id, timestamp, signatures, body,
							 strlen(body), now, seconds);
	cwh_signer_destroy(signer);
	PG_RETURN_BOOL(ok);
}

/* SQL: a new random secret. */
Datum
chatwebhook_secret_generate(PG_FUNCTION_ARGS)
{
	char		secret[CWH_SECRET_LEN + 1];

	if (!cwh_secret_generate(secret))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	PG_RETURN_TEXT_P(cstring_to_text(secret));
}

/* SQL: why this cannot be a secret. */
Datum
chatwebhook_secret_problem(PG_FUNCTION_ARGS)
{
	text	   *secret = PG_GETARG_TEXT_PP(0);
	const char *problem = cwh_secret_problem(VARDATA_ANY(secret),
											 VARSIZE_ANY_EXHDR(secret));

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/* SQL: why these cannot be request headers. */
Datum
chatwebhook_header_problem(PG_FUNCTION_ARGS)
{
	const char *problem = cwh_header_problem(PG_GETARG_JSONB_P(0));

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/*
 * Testing a webhook
 */

/* The webhook that cwh_outbox_load() has found. */
static CwhWebhook *loaded;

static void
keep_loaded(CwhWebhook *webhook)
{
	loaded = webhook;
}

/* Send a transfer and wait for its end, serving interrupts. */
static void
send_and_wait(CwhTransfer *transfer)
{
	if (!cwh_transport_start(transfer))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not start the request")));
	while (cwh_transport_drive() > 0)
	{
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE |
								 WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 cwh_transport_fd(),
								 cwh_transport_timeout_ms(),
								 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	(void) cwh_transport_reap();
}

/* Read a webhook, or raise an error if it is not there. */
CwhWebhook *
cwh_load_webhook(const pg_uuid_t *id)
{
	MemoryContext context = CurrentMemoryContext;

	loaded = NULL;
	SPI_connect();
	cwh_outbox_load(id, 1, context, keep_loaded);
	SPI_finish();
	if (loaded == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("webhook \"%s\" does not exist",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															UUIDPGetDatum(id))))));
	return loaded;
}

/* Get the token that a webhook needs.  Returns null, or what went wrong. */
static const char *
fetch_token(CwhTransfer *transfer, const CwhWebhook *webhook, char **token)
{
	const char *problem = cwh_request_prepare_token(transfer, webhook);
	int64		expires_in;

	if (problem == NULL)
	{
		send_and_wait(transfer);
		problem = cwh_outcome_error(transfer);
	}
	if (problem == NULL)
		*token = cwh_connector_token(transfer, &expires_in, &problem);
	if (problem)
	{
		problem = psprintf("could not get an access token: %s", problem);
		transfer->status = 0;
	}
	return problem;
}

/*
 * Send an event, by all requests that it takes.  Returns null, or what went
 * wrong; the last reply is in the transfer.
 */
static const char *
send_event(CwhTransfer *transfer, const CwhWebhook *webhook,
		   const CwhEvent *event, StringInfo body)
{
	CwhRender	render;
	char	   *token = NULL;
	int			latency_ms = 0;
	int64		no_delivery = 0;
	StringInfoData batch;
	const char *problem;

	initStringInfo(&batch);
	appendStringInfo(&batch, "[%s]", body->data);
	memset(&render, 0, sizeof(render));
	render.webhook = webhook;
	render.event = body->data;
	render.context = CurrentMemoryContext;
	for (int step = 1;; step++)
	{
		int64		wait_s;

		if (webhook->connector)
		{
			(void) cwh_connector_render(&render, 1);
			if (render.error || render.request == NULL)
				return render.error;
		}
		if (webhook->auth == CWH_AUTH_OAUTH2 && token == NULL)
		{
			problem = fetch_token(transfer, webhook, &token);
			if (problem)
				return problem;
		}
		if (webhook->connector)
		{
			problem = cwh_request_prepare_step(transfer, webhook, render.request,
											   token);
			if (problem)
				return problem;
		}
		else if (webhook->batch_size > 1)
			cwh_request_prepare_batch(transfer, webhook, &event->id, &no_delivery,
									  1, 1, &batch, event->created_at, token);
		else
			cwh_request_prepare(transfer, webhook, event->type, &event->id, 1,
								no_delivery, body, event->created_at, token);
		send_and_wait(transfer);
		latency_ms += transfer->latency_ms;
		transfer->latency_ms = latency_ms;
		if (transfer->failed || webhook->connector == NULL)
			return cwh_outcome_error(transfer);
		if (cwh_connector_verdict(webhook, step, transfer, &wait_s) != CWH_DELIVERED)
			return step > 1 ?
				psprintf("request %d: HTTP status %d", step, transfer->status) :
				psprintf("HTTP status %d", transfer->status);
		if (render.request->last)
			return NULL;
		render.replies = cwh_connector_add_reply(render.replies, transfer);
	}
}

/* SQL: send webhook.test and tell what came back. */
Datum
chatwebhook_test_webhook(PG_FUNCTION_ARGS)
{
	CwhWebhook *webhook;
	CwhTransportOptions options;
	CwhTransfer transfer;
	CwhEvent	event;
	StringInfoData body;
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5] = {false, true, true, true, true};
	const char *problem;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	webhook = cwh_load_webhook(PG_GETARG_UUID_P(0));
	event.created_at = GetCurrentTimestamp();
	cwh_uuidv7(&event.id, event.created_at);
	event.type = "webhook.test";
	event.chatbot_id = NULL;
	event.conversation_id = NULL;
	event.data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													CStringGetDatum("{\"message\": \"This is a test webhook delivery\"}")));
	initStringInfo(&body);
	cwh_envelope_write(&body, &event);

	memset(&transfer, 0, sizeof(transfer));
	cwh_transport_options(&options);
	options.max_connections = 1;
	if (!cwh_transport_open(&options))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
	PG_TRY();
	{
		problem = cwh_request_problem(webhook);
		if (problem == NULL)
			problem = send_event(&transfer, webhook, &event, &body);
		values[0] = BoolGetDatum(problem == NULL);
		if (problem)
			values[2] = CStringGetTextDatum(problem);
		nulls[2] = problem == NULL;
		if (transfer.status != 0)
		{
			/* for a connector, more was read */
			transfer.response_body.len = Min(transfer.response_body.len,
											 cwh_max_response_size);
			values[1] = Int32GetDatum(transfer.status);
			values[4] = CStringGetTextDatum(cwh_reply_text(&transfer.response_body));
			nulls[1] = nulls[4] = false;
		}
		if (transfer.url)
		{
			values[3] = Int32GetDatum(transfer.latency_ms);
			nulls[3] = false;
		}
	}
	PG_FINALLY();
	{
		cwh_transport_abort(&transfer);
		cwh_transfer_free(&transfer);
		cwh_transport_close();
		cwh_webhook_free(webhook);
	}
	PG_END_TRY();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * Waiting
 */

/* Is any delivery of an enabled webhook pending, as of now? */
static bool
anything_pending(void)
{
	bool		found;
	int			result;

	/* a snapshot of our own: the transaction's may be older than the settles */
	PushActiveSnapshot(GetLatestSnapshot());
	result = SPI_execute("SELECT 1 FROM chatwebhook.webhook w"
						 " WHERE w.enabled AND EXISTS ("
						 "   SELECT 1 FROM chatwebhook.queue q"
						 "    WHERE q.webhook_id OPERATOR(pg_catalog.=) w.id)",
						 true, 1);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not look into the queue: %s",
			 SPI_result_code_string(result));
	found = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	PopActiveSnapshot();
	return found;
}

/* SQL: wait until everything is finished. */
Datum
chatwebhook_wait_until_idle(PG_FUNCTION_ARGS)
{
	Interval   *interval = PG_GETARG_INTERVAL_P(0);
	TimestampTz end;
	ConditionVariable *settled = cwh_settled();
	bool		pending;

	if (settled == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("chatwebhook is not in shared_preload_libraries: nothing is sent"),
				 errhint("Add chatwebhook to shared_preload_libraries in postgresql.conf and restart the server.")));
	end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												  TimestampTzGetDatum(GetCurrentTimestamp()),
												  IntervalPGetDatum(interval)));
	SPI_connect();
	ConditionVariablePrepareToSleep(settled);
	while ((pending = anything_pending()))
	{
		long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														 end);

		if (ms <= 0)
			break;
		CHECK_FOR_INTERRUPTS();
		/* at most a second, for what is canceled or disabled tells nobody */
		(void) ConditionVariableTimedSleep(settled, Min(ms, 1000),
										   PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	SPI_finish();
	PG_RETURN_BOOL(!pending);
}

/*
 * A session as a claimant, beside the workers and by the same code, to see
 * what they do to each other.
 */

/* Where on_claimed() puts what was claimed. */
static ReturnSetInfo *claim_result;

static void
on_claimed(const CwhClaimed *claimed)
{
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (!claimed->mine)
		return;
	values[0] = Int64GetDatum(claimed->id);
	values[1] = Int32GetDatum(claimed->attempts);
	tuplestore_putvalues(claim_result->setResult, claim_result->setDesc,
						 values, nulls);
}

/* SQL: claim deliveries of a webhook for this session. */
Datum
chatwebhook_claim(PG_FUNCTION_ARGS)
{
	CwhWant		want;

	if (!cwh_shared_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("chatwebhook is not in shared_preload_libraries")));
	cwh_init_materialized(fcinfo);
	claim_result = (ReturnSetInfo *) fcinfo->resultinfo;
	want.webhook_id = *PG_GETARG_UUID_P(0);
	want.after.due = DT_NOBEGIN;
	want.after.id = 0;
	want.n = PG_GETARG_INT32(1);
	SPI_connect();
	cwh_outbox_claim(&want, 1, GetCurrentTimestamp(), on_claimed);
	SPI_finish();
	return (Datum) 0;
}

/* SQL: settle a delivery as delivered; false if it is not this session's. */
Datum
chatwebhook_settle(PG_FUNCTION_ARGS)
{
	CwhResult	result;
	bool		mine = false;

	memset(&result, 0, sizeof(result));
	result.id = PG_GETARG_INT64(0);
	if (cwh_shared_available())
		cwh_claims_mine(&result.id, 1, &mine);
	if (!mine)
		PG_RETURN_BOOL(false);
	result.outcome = CWH_OUTCOME_DELIVERED;
	result.attempted_at = GetCurrentTimestamp();
	result.status = 200;
	SPI_connect();
	cwh_outbox_settle(&result, 1, true);
	SPI_finish();
	PG_RETURN_BOOL(result.settled);
}

/* SQL: give up all claims of this session. */
Datum
chatwebhook_release(PG_FUNCTION_ARGS)
{
	cwh_claim_release_all();
	PG_RETURN_VOID();
}

/* SQL: add the numbers of an array to those of another. */
Datum
chatwebhook_add(PG_FUNCTION_ARGS)
{
	ArrayType  *sum = PG_GETARG_ARRAYTYPE_P_COPY(0);
	ArrayType  *other = PG_GETARG_ARRAYTYPE_P(1);
	int			n = Min(ArrayGetNItems(ARR_NDIM(sum), ARR_DIMS(sum)),
						ArrayGetNItems(ARR_NDIM(other), ARR_DIMS(other)));
	int64	   *to = (int64 *) ARR_DATA_PTR(sum);
	int64	   *from = (int64 *) ARR_DATA_PTR(other);

	if (ARR_HASNULL(sum) || ARR_HASNULL(other))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cannot add arrays with nulls")));
	for (int i = 0; i < n; i++)
		to[i] += from[i];
	PG_RETURN_ARRAYTYPE_P(sum);
}

/* SQL: log an alert, in one line. */
Datum
chatwebhook_log_alert(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *message = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (PG_GETARG_BOOL(2))
		ereport(LOG,
				(errmsg("chatwebhook alert on webhook \"%s\" has ended: %s",
						name, message),
				 errhidecontext(true), errhidestmt(true)));
	else
		ereport(WARNING,
				(errmsg("chatwebhook alert on webhook \"%s\": %s", name, message),
				 errhidecontext(true), errhidestmt(true)));
	PG_RETURN_VOID();
}
