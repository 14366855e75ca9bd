/*
 * trial.c
 *		Tries webhooks from a session: test_webhook() and preview().
 *
 * A test sends an event by the steps that the worker takes (exchange.c), with a
 * transport of the session's own.  The session's transaction is open while it
 * waits for the reply, so it does so for one delivery only, and serves
 * interrupts.  A test that does not wait is a delivery in the queue.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "connector.h"
#include "envelope.h"
#include "exchange.h"
#include "jsonb_value.h"
#include "memory.h"
#include "settings.h"
#include "transport.h"
#include "webhook.h"

/* A test takes no longer, whatever the webhook's timeout: the caller waits for it. */
#define TRIAL_MS		10000

PG_FUNCTION_INFO_V1(chatwebhook_preview);
PG_FUNCTION_INFO_V1(chatwebhook_try_webhook);

/* What a test has found out. */
typedef struct Trial
{
	bool		sent;			/* a request was */
	int			status;			/* of the last reply, or 0 */
	int			latency_ms;		/* of all requests */
	char	   *body;			/* of the last reply, or null */
	char	   *problem;		/* null: it was delivered */
} Trial;

/* Keep the webhook that was loaded. */
static void
on_webhook(void *context, CwhWebhook *webhook)
{
	*(CwhWebhook **) context = webhook;
}

/* Load a webhook; an error if it was deleted meanwhile. */
static CwhWebhook *
load_webhook(const pg_uuid_t *id)
{
	MemoryContext context = CurrentMemoryContext;
	CwhWebhook *webhook = NULL;

	SPI_connect();
	cwh_webhook_load(id, 1, context, on_webhook, &webhook);
	SPI_finish();
	if (webhook == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("webhook \"%s\" does not exist",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															UUIDPGetDatum(id))))));
	return webhook;
}

/* A member of an event that is a string, as a C string; else null. */
static char *
event_string(Jsonb *event, const char *key)
{
	JsonbValue	value;

	if (!cwh_jsonb_member(&event->root, key, jbvString, &value))
		return NULL;
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/* What a webhook remembers of an event's conversation, or null. */
static Jsonb *
read_memory(const CwhWebhook *webhook, Jsonb *event)
{
	CwhMemory	found = {
		.key = {
			.webhook_id = &webhook->id,
			.chatbot_id = event_string(event, "chatbotId"),
			.conversation_id = event_string(event, "conversationId")
		}
	};
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *memory = NULL;

	if (!webhook->rules.remember)
		return NULL;
	SPI_connect();
	cwh_memory_read(&found, 1);
	if (found.value)
	{
		memory = MemoryContextAlloc(context, VARSIZE(found.value));
		memcpy(memory, found.value, VARSIZE(found.value));
	}
	SPI_finish();
	return memory;
}

/* SQL: the request that a connector would make. */
Datum
chatwebhook_preview(PG_FUNCTION_ARGS)
{
	CwhWebhook *webhook;
	CwhRender	render;
	StringInfoData event;

	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d of _preview() is null", i + 1)));
	memset(&render, 0, sizeof(render));
	webhook = load_webhook(PG_GETARG_UUID_P(0));
	if (webhook->argument == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("webhook \"%s\" has no connector that could be called: %s",
						webhook->name, webhook->problem ? webhook->problem :
						"it sends the event itself")));
	render.webhook = webhook;
	render.batch = webhook->batch_size > 1;
	initStringInfo(&event);
	appendStringInfoString(&event, render.batch ? "[" : "");
	cwh_json_write(&event, PG_GETARG_JSONB_P(1));
	appendStringInfoString(&event, render.batch ? "]" : "");
	render.event = event.data;
	render.replies = PG_GETARG_JSONB_P(2);
	render.memory = read_memory(webhook, PG_GETARG_JSONB_P(1));
	render.context = CurrentMemoryContext;
	(void) cwh_connector_render(&render, 1);
	cwh_webhook_free(webhook);
	if (render.error)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("%s", render.error)));
	if (render.step == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(render.row);
}

/* Wait for the end of the transfer under way, serving interrupts. */
static void
wait_for_transfer(int transport_fd)
{
	while (cwh_transport_drive() > 0)
	{
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE |
								 WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 transport_fd, cwh_transport_timeout_ms(),
								 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	(void) cwh_transport_reap();
}

/* Ask the connector for its next request; describes the end if there is none. */
static bool
ask_connector(CwhExchange *exchange, const CwhWebhook *webhook,
			  const CwhMessage *message, CwhEnding *ending)
{
	CwhRender	render;

	memset(&render, 0, sizeof(render));
	render.webhook = webhook;
	render.event = message->body->data;
	render.batch = message->batch;
	render.replies = exchange->replies;
	render.context = exchange->context;
	(void) cwh_connector_render(&render, 1);
	exchange->step = render.step;
	if (exchange->step)
		return true;
	ending->end = render.error ? CWH_END_FAILED : CWH_END_NOTHING;
	/* it is in the database's encoding, which decision.c does not know */
	if (render.error)
		ending->error = pnstrdup(render.error,
								 pg_mbcliplen(render.error, strlen(render.error),
											  CWH_MAX_REASON));
	return false;
}

/*
 * Make the next request of an exchange, and wait for its end; false if it was
 * not sent, as the ending then says.
 */
static bool
make_request(CwhExchange *exchange, const CwhWebhook *webhook, CwhToken *token,
			 const CwhMessage *message, int transport_fd, CwhEnding *ending)
{
	const char *problem = webhook->problem;

	memset(ending, 0, sizeof(CwhEnding));
	ending->retry_after_s = -1;
	if (problem == NULL && webhook->connector && exchange->step == NULL &&
		!ask_connector(exchange, webhook, message, ending))
		return false;
	if (problem == NULL &&
		cwh_exchange_send(exchange, webhook, token, message, NULL,
						  &problem))
	{
		wait_for_transfer(transport_fd);
		return true;
	}
	if (problem == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not start the request")));
	ending->end = CWH_END_REFUSED;
	ending->error = problem;
	return false;
}

/* Keep what the last reply says, before the exchange lets go of it. */
static void
keep_reply(Trial *trial, const CwhExchange *exchange)
{
	CwhReply   *reply;
	CwhBytes	body;

	if (exchange->transfer == NULL)
		return;
	reply = &exchange->transfer->reply;
	body = reply->body;
	trial->sent = true;
	trial->status = exchange->for_token ? 0 : reply->status;
	trial->latency_ms = exchange->earlier_ms + reply->latency_ms;
	/* for a connector, more was read */
	body.len = Min(body.len, cwh_max_response_size);
	trial->body = trial->status != 0 ? cwh_reply_text(&body) : NULL;
}

/*
 * Send an event, by all requests that it takes, within TRIAL_MS.  The webhook is
 * the caller's own copy.
 */
static void
send_event(CwhExchange *exchange, CwhWebhook *webhook, CwhToken *token,
		   CwhMessage *message, int transport_fd, Trial *trial)
{
	TimestampTz until = TimestampTzPlusMilliseconds(message->now, TRIAL_MS);
	CwhDecision decision;

	do
	{
		long		left_ms;
		CwhEnding	ending;
		CwhAttempt	attempt;
		bool		sent;

		CHECK_FOR_INTERRUPTS();
		message->now = GetCurrentTimestamp();
		left_ms = TimestampDifferenceMilliseconds(message->now, until);
		if (left_ms <= 0)
		{
			trial->problem = psprintf("the test took longer than %d s", TRIAL_MS / 1000);
			return;
		}
		webhook->timeout_ms = Min(webhook->timeout_ms, left_ms);
		sent = make_request(exchange, webhook, token, message, transport_fd,
							&ending);
		keep_reply(trial, exchange);
		memset(&attempt, 0, sizeof(attempt));
		attempt.retry = &webhook->retry;
		cwh_exchange_end(exchange, webhook, token, !sent, &ending, &attempt,
						 &decision);
		if (decision.starved)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("no descriptor was free for a connection"),
					 errhint("Increase max_files_per_process.")));
	} while (decision.next != CWH_NEXT_SETTLE);
	if (decision.verdict != CWH_DELIVERED)
		trial->problem = pstrdup(decision.error);
}

/* SQL: send webhook.test and say what came back. */
Datum
chatwebhook_try_webhook(PG_FUNCTION_ARGS)
{
	CwhTransportOptions options;
	CwhWebhook *webhook;
	CwhExchange exchange;
	CwhToken	token;
	CwhEvent	event;
	CwhMessage	message;
	StringInfoData envelope;
	StringInfoData body;
	int64		no_delivery = 0;
	int			transport_fd;
	Trial		trial;
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5] = {false, true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	webhook = load_webhook(PG_GETARG_UUID_P(0));
	event.created_at = GetCurrentTimestamp();
	cwh_uuidv7(&event.id, event.created_at);
	event.type = "webhook.test";
	event.chatbot_id = NULL;
	event.conversation_id = NULL;
	event.data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													CStringGetDatum("{\"message\": \"This is a test webhook delivery\"}")));
	initStringInfo(&envelope);
	cwh_envelope_write(&envelope, &event);
	message.batch = webhook->batch_size > 1;
	initStringInfo(&body);
	appendStringInfo(&body, message.batch ? "[%s]" : "%s", envelope.data);
	message.event_type = event.type;
	message.n = 1;
	message.event_ids = &event.id;
	message.delivery_ids = &no_delivery;
	message.attempt = 1;
	message.body = &body;
	message.now = event.created_at;
	message.traceparent = cwh_valid_traceparent();

	memset(&trial, 0, sizeof(trial));
	memset(&exchange, 0, sizeof(exchange));
	memset(&token, 0, sizeof(token));
	exchange.context = token.context = CurrentMemoryContext;
	cwh_transport_options(&options, 1);
	transport_fd = cwh_transport_configure(&options);
	if (transport_fd < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
	PG_TRY();
	{
		send_event(&exchange, webhook, &token, &message, transport_fd,
				   &trial);
	}
	PG_FINALLY();
	{
		cwh_exchange_reset(&exchange);
		cwh_token_outdate(&token);
		(void) cwh_transport_configure(NULL);
		cwh_webhook_free(webhook);
	}
	PG_END_TRY();

	values[0] = BoolGetDatum(trial.problem == NULL);
	if ((nulls[1] = trial.status == 0) == false)
		values[1] = Int32GetDatum(trial.status);
	if ((nulls[2] = trial.problem == NULL) == false)
		values[2] = CStringGetTextDatum(trial.problem);
	if ((nulls[3] = !trial.sent) == false)
		values[3] = Int32GetDatum(trial.latency_ms);
	if ((nulls[4] = trial.body == NULL) == false)
		values[4] = CStringGetTextDatum(trial.body);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
