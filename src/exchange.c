/*
 * exchange.c
 *		The requests and replies of one attempt, token requests included.
 *
 * An attempt is one request to the webhook, or with a connector several: the
 * reply to one is kept and the connector asked for the next.  A webhook with
 * OAuth 2.0 is first sent a request for an access token, unless there is one
 * already; a token that is refused is renewed once in an attempt.  While two
 * secrets overlap, a request whose signature is refused is repeated with the
 * other secret first, within the same attempt.  gate.c remembers which secret
 * the receiver accepts, but each request that was in flight when the receiver
 * changed its secret is repeated.
 *
 * What the end of a request means is decided in decision.c; here that decision
 * is prepared, and applied to the exchange and its token.  The caller applies it
 * to the delivery and the webhook.  Nothing in here needs a transaction.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "bounds.h"
#include "compat.h"
#include "exchange.h"
#include "gate.h"
#include "jsonb_value.h"
#include "rules.h"
#include "vault.h"

/* A token that does not say how long it lives is renewed after this. */
#define TOKEN_LIFE_S		3600
#define MAX_TOKEN_LIFE_S	(30 * 86400)

/* A token is used for this long, whatever its endpoint says. */
#define MIN_TOKEN_LIFE_S	10

/* It is renewed this long before its end, or after half of its life. */
#define TOKEN_MARGIN_S		30

/* Where new tokens are refused as well, ask for another no more often. */
#define HOPELESS_TOKEN_MS	60000

/* The number of bytes at a reply's beginning from which errors quote it. */
#define QUOTED_BYTES		400

/* What the reply of a token endpoint says. */
typedef struct TokenReply
{
	char	   *value;			/* null if there is a problem */
	int64		expires_in;		/* seconds */
	const char *problem;
} TokenReply;

/* The number of the request that is being made, from 1. */
static int
step_number(const CwhExchange *exchange)
{
	return 1 + (exchange->replies ? JB_ROOT_COUNT(exchange->replies) : 0);
}

/* A text as jsonb; null if it is no JSON, or none that jsonb can hold. */
static Jsonb *
parse_json(const char *json)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile result = NULL;

	/* nothing in here holds anything but memory */
	PG_TRY();
	{
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													CStringGetDatum(json)));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/*
 * Tokens
 */

/* Read what a token endpoint's reply says, as JSON or null (RFC 6749, 5.1). */
static void
read_token_json(Jsonb *json, TokenReply *result)
{
	JsonbValue	value;

	result->value = NULL;
	result->problem = "its reply has no access_token";
	if (json == NULL ||
		!cwh_jsonb_member(&json->root, "access_token", jbvString, &value) ||
		value.val.string.len == 0)
		return;
	if (value.val.string.len > CWH_MAX_LINE)
	{
		result->problem = "its access_token is too long";
		return;
	}
	for (int i = 0; i < value.val.string.len; i++)
	{
		char		c = value.val.string.val[i];

		if (c <= ' ' || c > '~')
		{
			result->problem = "its access_token cannot stand in a header";
			return;
		}
	}
	result->problem = NULL;
	result->value = pnstrdup(value.val.string.val, value.val.string.len);
	result->expires_in = TOKEN_LIFE_S;
	if (cwh_jsonb_member(&json->root, "expires_in", jbvNumeric, &value))
	{
		char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
															   NumericGetDatum(value.val.numeric)));
		double		seconds = strtod(digits, NULL);

		if (seconds >= 0 && seconds < MAX_TOKEN_LIFE_S)
			result->expires_in = (int64) seconds;
	}
}

/* Read the reply of a token endpoint, leaving no copies of the token behind. */
static void
read_token(const CwhReply *reply, TokenReply *result)
{
	char	   *raw = cwh_reply_text(&reply->body);
	Jsonb	   *json = parse_json(raw);

	read_token_json(json, result);
	cwh_cleanse(raw, strlen(raw));
	if (json)
		cwh_cleanse(json, VARSIZE(json));
}

/* Take the token that a reply has brought. */
static void
take_token(CwhToken *token, const CwhReply *reply)
{
	TokenReply	got;
	int64		life_s;

	read_token(reply, &got);
	cwh_token_forget(token);
	token->value = MemoryContextStrdup(token->context, got.value);
	cwh_cleanse(got.value, strlen(got.value));
	life_s = got.expires_in - Min(got.expires_in / 2, TOKEN_MARGIN_S);
	token->since = GetCurrentTimestamp();
	token->until = TimestampTzPlusMilliseconds(token->since,
											   Max(life_s, MIN_TOKEN_LIFE_S) * 1000);
	token->number++;
}

/*
 * Sending
 */

/* Decide whether to sign the next request, and with which secret first. */
static void
choose_secret(CwhExchange *exchange, const CwhWebhook *webhook, TimestampTz now)
{
	exchange->is_signed = webhook->is_signed && !exchange->for_token &&
		(exchange->step == NULL || exchange->step->own_url);
	exchange->overlap_until = exchange->is_signed &&
		cwh_secrets_overlap(webhook, now) ? webhook->previous_until : 0;
	if (exchange->overlap_until != 0 && exchange->refusals == 0)
	{
		CwhTaken	taken = cwh_gate_taken(&webhook->id,
										   exchange->overlap_until);

		exchange->secret_known = taken != CWH_TAKEN_UNKNOWN;
		exchange->previous_first = taken == CWH_TAKEN_PREVIOUS;
	}
}

/*
 * Send the next request: for a token if the webhook needs one, else the
 * connector's, else the message.  False if it cannot be sent; *problem says why,
 * and is null if memory was out.
 */
bool
cwh_exchange_send(CwhExchange *exchange, const CwhWebhook *webhook,
				  CwhToken *token, const CwhMessage *message, void *owner,
				  const char **problem)
{
	CwhMessage	signed_message = *message;

	cwh_exchange_drop(exchange);
	exchange->for_token = webhook->auth == CWH_AUTH_OAUTH2 &&
		!cwh_token_usable(token);
	exchange->token_number = token->number;
	choose_secret(exchange, webhook, message->now);
	signed_message.previous_first = exchange->previous_first;
	if (exchange->for_token ?
		!cwh_make_request(&exchange->transfer, webhook, NULL, NULL, NULL,
						  problem) :
		!cwh_make_request(&exchange->transfer, webhook, exchange->step,
						  &signed_message, token->value, problem))
		return false;
	exchange->transfer->owner = owner;
	if (!cwh_transfer_start(exchange->transfer))
		return false;
	/* one asks for all that need it */
	token->requested = exchange->for_token;
	return true;
}

/*
 * Receiving
 */

/* The media type that a reply's last header of that name gives, or null. */
static char *
content_type(const CwhBytes *headers)
{
	static const char name[] = "content-type:";
	char	   *lines = cwh_reply_text(headers);
	char	   *rest = lines;
	char	   *line;
	char	   *type = NULL;

	while ((line = strsep(&rest, "\n")) != NULL)
	{
		if (pg_strncasecmp(line, name, strlen(name)) != 0)
			continue;
		type = line + strlen(name);
		type += strspn(type, " \t");
		type[strcspn(type, "; \t\r")] = '\0';
	}
	return type;
}

/*
 * Describe a reply to a connector's request, as far as its rules, and messages
 * that quote it, need that.
 */
static void
describe_reply(const CwhReply *reply, CwhEnding *ending)
{
	CwhBytes	start = reply->body;

	ending->content_type = content_type(&reply->headers);
	start.len = Min(start.len, QUOTED_BYTES);
	if (start.len > 0)
		ending->words = cwh_reply_text(&start);
	ending->cut_off = reply->cut_off;
	if (reply->cut_off)
		ending->unread = psprintf("the reply was cut off at %zu bytes (raise chatwebhook.max_response_size)",
								  reply->body.len);
}

/* Describe how the request that was sent has ended. */
static void
describe_ending(const CwhExchange *exchange, CwhEnding *ending)
{
	const CwhReply *reply = &exchange->transfer->reply;

	memset(ending, 0, sizeof(CwhEnding));
	ending->end = reply->starved ? CWH_END_STARVED :
		reply->refused ? CWH_END_REFUSED :
		reply->failed ? CWH_END_FAILED : CWH_END_REPLY;
	ending->status = reply->status;
	ending->error = reply->failed ? reply->error : NULL;
	ending->retry_after_s = reply->retry_after_s;
	/* another host than the webhook's has no say in this */
	if (ending->end == CWH_END_REPLY && !exchange->for_token &&
		(exchange->step == NULL || exchange->step->own_url))
		ending->order = cwh_reply_order(reply->headers.data,
										reply->headers.len);
	ending->body = reply->body.data;
	ending->body_len = reply->body.len;
	if (exchange->for_token && ending->end == CWH_END_REPLY &&
		ending->status >= 200 && ending->status <= 299)
	{
		TokenReply	got;

		read_token(reply, &got);
		ending->token_problem = got.problem;
		if (got.value)
			cwh_cleanse(got.value, strlen(got.value));
	}
}

/* The body of a reply as JSON; null if it is not JSON, or was cut off. */
static Jsonb *
reply_json(const CwhReply *reply)
{
	if (reply->cut_off || reply->body.len == 0)
		return NULL;
	return parse_json(cwh_reply_text(&reply->body));
}

/* A reply's body as a connector gets it: JSON, else a text, null if empty. */
static void
push_body(CwhJsonbState *state, const CwhBytes *bytes, Jsonb *body)
{
	JsonbValue	null = {.type = jbvNull};
	char	   *string;

	if (bytes->len == 0)
		cwh_push_jsonb(state, WJB_VALUE, &null);
	else if (body)
		cwh_jsonb_whole(state, body);
	else
	{
		string = cwh_reply_text(bytes);
		cwh_jsonb_string(state, WJB_VALUE, string, strlen(string));
	}
}

/*
 * The replies so far, and one more, as a connector gets them: an array of
 * {"body", "status"}.
 */
static Jsonb *
add_reply(Jsonb *replies, const CwhReply *reply, Jsonb *body)
{
	CwhJsonbState state = {0};
	JsonbValue	value;
	int			n = replies ? JB_ROOT_COUNT(replies) : 0;

	cwh_push_jsonb(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
		cwh_push_jsonb(&state, WJB_ELEM,
					   getIthJsonbValueFromContainer(&replies->root, i));
	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	cwh_jsonb_key(&state, "body");
	push_body(&state, &reply->body, body);
	cwh_jsonb_key(&state, "status");
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int4_numeric,
															Int32GetDatum(reply->status)));
	cwh_push_jsonb(&state, WJB_VALUE, &value);
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	cwh_push_jsonb(&state, WJB_END_ARRAY, NULL);
	return JsonbValueToJsonb(state.result);
}

/* Does a memory have all this already? */
static bool
is_known(Jsonb *known, Jsonb *learned)
{
	Jsonb	   *both;

	if (known == NULL)
		return false;
	both = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
											  JsonbPGetDatum(known),
											  JsonbPGetDatum(learned)));
	return compareJsonbContainers(&both->root, &known->root) == 0;
}

/*
 * Read the reply to a connector's request as far as its rules need that, and
 * decide what follows.  If it is a success, keep what the rules remember of it,
 * and the reply itself for the next step.
 */
static void
decide_on_reply(CwhExchange *exchange, const CwhRules *rules,
				CwhEnding *ending, const CwhAttempt *attempt,
				CwhDecision *decision)
{
	const CwhReply *reply = &exchange->transfer->reply;
	bool		wanted = cwh_rules_want_body(rules, attempt->step, ending);
	Jsonb	   *body = wanted ? reply_json(reply) : NULL;

	if (rules->n > 0 || reply->cut_off)
		describe_reply(reply, ending);
	if (wanted)
		cwh_rules_match(rules, attempt->step, ending, body);
	cwh_decide(decision, ending, attempt);
	if (decision->next == CWH_NEXT_AGAIN || decision->verdict != CWH_DELIVERED)
		return;
	if (wanted)
	{
		Jsonb	   *learned = cwh_rules_learn(rules, attempt->step, ending, body,
											  &exchange->note);

		if (learned && !is_known(exchange->known, learned))
			exchange->learned = cwh_exchange_keep(exchange, learned);
	}
	if (decision->next != CWH_NEXT_STEP)
		return;
	if (!wanted)
		body = reply_json(reply);
	exchange->replies =
		cwh_exchange_keep(exchange, add_reply(exchange->replies, reply, body));
}

/*
 * Decide what follows from the end of a request.  A reply can be large, so what
 * reading it takes is freed at once.
 */
static void
decide(CwhExchange *exchange, const CwhWebhook *webhook, bool unsent,
	   CwhEnding *ending, const CwhAttempt *attempt, CwhDecision *decision)
{
	MemoryContext scratch;
	MemoryContext oldcontext;

	if (unsent || exchange->step == NULL || exchange->for_token ||
		ending->end != CWH_END_REPLY)
	{
		cwh_decide(decision, ending, attempt);
		return;
	}
	scratch = AllocSetContextCreate(CurrentMemoryContext, "chatwebhook reply",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(scratch);
	decide_on_reply(exchange, &webhook->rules, ending, attempt, decision);
	MemoryContextSwitchTo(oldcontext);
	/* the same is decided for the others of a batch */
	if (attempt->batch)
		return;
	MemoryContextDelete(scratch);
	/* these pointed into it */
	ending->paths = NULL;
	ending->unread = ending->content_type = ending->words = NULL;
}

/* Overwrite the reply of a token endpoint: it is for no connector and no log. */
static void
cleanse_reply(CwhExchange *exchange)
{
	CwhReply   *reply = &exchange->transfer->reply;

	if (reply->body.len > 0)
		cwh_cleanse(reply->body.data, reply->body.len);
	reply->body.len = reply->headers.len = 0;
}

/* Apply the decision about the secrets that signed a request. */
static void
apply_secret_fate(CwhExchange *exchange, const CwhWebhook *webhook,
				  CwhSecretFate fate)
{
	switch (fate)
	{
		case CWH_SECRET_KEEP:
		case CWH_SECRET_RELOAD:
			break;
		case CWH_SECRET_SWAP:
			exchange->refusals++;
			exchange->previous_first = !exchange->previous_first;
			exchange->earlier_ms += exchange->transfer->reply.latency_ms;
			break;
		case CWH_SECRET_LEARN:
			/* the overlap may have ended between the tries */
			if (exchange->overlap_until != 0)
				cwh_gate_note_taken(&webhook->id,
									exchange->previous_first ?
									CWH_TAKEN_PREVIOUS : CWH_TAKEN_CURRENT,
									exchange->overlap_until,
									GetCurrentTimestamp());
			break;
	}
}

/*
 * Decide what follows from the end of a request, and apply that to the exchange
 * and its token.
 *
 * If "unsent" says so, the ending describes why the request was not sent; else
 * it is filled in, from the reply.  The caller has filled in the parts of
 * "attempt" that concern retries, and whether secrets have changed meanwhile.
 */
void
cwh_exchange_end(CwhExchange *exchange, const CwhWebhook *webhook,
				 CwhToken *token, bool unsent, CwhEnding *ending,
				 CwhAttempt *attempt, CwhDecision *decision)
{
	if (!unsent)
		describe_ending(exchange, ending);
	ending->for_token = exchange->for_token;
	attempt->rules = webhook->rules.rules;
	attempt->nrules = webhook->rules.n;
	attempt->step = step_number(exchange);
	attempt->more = exchange->step && !exchange->step->last;
	attempt->has_token = webhook->auth == CWH_AUTH_OAUTH2;
	attempt->token_renewed = exchange->token_renewed;
	attempt->token_hopeless = token->hopeless &&
		!TimestampDifferenceExceeds(token->since, GetCurrentTimestamp(),
									HOPELESS_TOKEN_MS);
	attempt->is_signed = exchange->is_signed && !unsent;
	attempt->overlap = exchange->overlap_until != 0;
	attempt->secret_known = exchange->secret_known;
	attempt->refusals = exchange->refusals;
	decide(exchange, webhook, unsent, ending, attempt, decision);

	if (ending->for_token)
	{
		token->requested = false;
		/* the webhook was changed meanwhile: ask again, as it is now */
		if (ending->end != CWH_END_STARVED &&
			exchange->token_number != token->number)
		{
			cwh_token_forget(token);
			memset(decision, 0, sizeof(CwhDecision));
			decision->next = CWH_NEXT_AGAIN;
		}
	}
	switch (decision->token)
	{
		case CWH_TOKEN_KEEP:
			break;
		case CWH_TOKEN_TAKE:
			take_token(token, &exchange->transfer->reply);
			break;
		case CWH_TOKEN_RENEW:
			exchange->token_renewed = true;
			if (exchange->token_number == token->number)
				cwh_token_forget(token);
			break;
		case CWH_TOKEN_HOPELESS:
			token->hopeless = true;
			break;
	}
	apply_secret_fate(exchange, webhook, decision->secret);
	if (decision->next == CWH_NEXT_STEP)
	{
		/* decide() has kept the reply */
		exchange->earlier_ms += exchange->transfer->reply.latency_ms;
		exchange->token_renewed = false;
		exchange->refusals = 0;
		exchange->step = NULL;
	}
	if (decision->judged && decision->proven)
		token->hopeless = false;
	if (ending->for_token && exchange->transfer)
		cleanse_reply(exchange);
	exchange->for_token = false;
	/* the reply that ends the attempt may be logged; no other is needed */
	if (decision->next != CWH_NEXT_SETTLE)
		cwh_exchange_drop(exchange);
}
