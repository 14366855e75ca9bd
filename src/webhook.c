/*
 * webhook.c
 *		Loads webhooks and fills in their secrets; notes what is wrong with them.
 *
 * A webhook is loaded into a memory context of its own, with everything that
 * sending needs: its URL, headers and auth with {{name}} replaced by the
 * credential of that name, its signers, its connector's rules.  What cannot be
 * loaded is the webhook's problem, for which nothing is sent.
 *
 * A row can be anything: it may have come past the checks of SQL.  So its values
 * are measured before they are decompressed (bounds.h says how large they may
 * be), its numbers are brought within their ranges, and whatever still raises an
 * error does so in a subtransaction.  If that fails for some webhooks, each is
 * loaded by itself, and the error is the problem of the one that it is about.
 *
 * Every copy of a secret that is made here is either part of the webhook, whose
 * secrets cwh_webhook_free() overwrites, or overwritten before the function
 * that made it returns.
 *
 * The caller has a transaction and is connected to SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "bounds.h"
#include "changes.h"
#include "compat.h"
#include "envelope.h"
#include "jsonb_value.h"
#include "secrets.h"
#include "settings.h"
#include "statement.h"
#include "target.h"
#include "webhook.h"

/* Webhooks that are read by one statement, which bounds what it holds. */
#define LOAD_AT_ONCE	32

#define DAY_MS			INT64CONST(86400000)

/*
 * The 50 credentials that set_credential() stores, and four signing secrets.
 */
#define MAX_SECRETS		"54"

/* INDENT OFF */
/* The columns of load_sql. */
enum
{
	ID, NAME, CHATBOT_ID, URL, ENABLED, HEADERS, MAX_RETRIES, BACKOFF,
	BACKOFF_MULTIPLIER, MAX_BACKOFF, TIMEOUT, MAX_IN_FLIGHT, SECRETS_FIT,
	SECRET_NAMES, SECRET_VALUES, PREVIOUS_UNTIL, AUTH, CONNECTOR,
	CONNECTOR_FUNCTION, CONNECTOR_REPLIES, CONNECTOR_SIGNED, CONNECTOR_BATCHES,
	SETTINGS, PROVEN, UPDATED_AT, RATE_LIMIT, BATCH_SIZE, BATCH_WINDOW, ORDERED,
	NOTED, RETRY_DELAYS
};

/*
 * Nothing large is decompressed here, but for the secrets, and those only if
 * together they are as small as they should be.  LIMIT bounds the counting.
 */
#define LOAD_SQL(table) \
	"SELECT w.id, w.name, w.chatbot_id, w.url, w.enabled, w.headers," \
	"       w.max_retries, w.backoff, w.backoff_multiplier, w.max_backoff," \
	"       w.timeout, w.max_in_flight, held.fit, v.names, v.vals," \
	"       v.previous_until, w.auth, w.connector, c.function, c.replies," \
	"       COALESCE(c.signed, false), COALESCE(c.batches, false), w.settings," \
	"       COALESCE(h.consecutive_failures" EQ "0" \
	"                AND h.last_success_at IS NOT NULL, false)," \
	"       w.updated_at, w.rate_limit, w.batch_size, w.batch_window, w.ordered," \
	"       h.problem, w.retry_delays" \
	"  FROM chatwebhook." table " w" \
	"  LEFT JOIN chatwebhook.health h ON h.webhook_id" EQ "w.id" \
	"  LEFT JOIN chatwebhook.connector c" \
	"    ON c.name" EQ "CASE WHEN pg_catalog.octet_length(w.connector)" LE "63" \
	"                        THEN w.connector END" \
	" CROSS JOIN LATERAL (" \
	"       SELECT pg_catalog.count(*)" LE MAX_SECRETS " AND COALESCE(pg_catalog.sum(" \
	"              pg_catalog.octet_length(s.name)" ADD \
	"              pg_catalog.octet_length(s.value)), 0)" LE \
	"              " CppAsString2(CWH_MAX_SECRETS) " AS fit" \
	"         FROM (SELECT x.name, x.value FROM chatwebhook.vault x" \
	"                WHERE x.webhook_id" EQ "w.id LIMIT 100) s) held" \
	" CROSS JOIN LATERAL (" \
	"       SELECT pg_catalog.array_agg(s.name) AS names," \
	"              pg_catalog.array_agg(s.value) AS vals," \
	"              pg_catalog.max(s.expires_at) AS previous_until" \
	"         FROM chatwebhook.vault s" \
	"        WHERE s.webhook_id" EQ "w.id AND held.fit) v" \
	" WHERE w.id" EQ "ANY ($1)"

#define FIND_SQL(table) \
	"SELECT w.id FROM chatwebhook." table " w WHERE w.id" EQ "ANY ($1)"

static const char find_deleted_sql[] =
	"SELECT d.id FROM chatwebhook.deleted_webhook d WHERE d.id" EQ "ANY ($1)";

static const char disable_sql[] =
	"SELECT chatwebhook._disable($1, $2)";

/*
 * Other workers find the same problem.  No attempt is made while there is one,
 * so that time does not count among that of nothing but failures.
 */
static const char note_problem_sql[] =
	"WITH mine AS MATERIALIZED ("
	"   SELECT h.webhook_id, h.problem FROM chatwebhook.health h"
	"    WHERE h.webhook_id" EQ "$1 FOR NO KEY UPDATE SKIP LOCKED"
	"), changed AS ("
	"   UPDATE chatwebhook.health h"
	"      SET problem = NULLIF($2, ''), failing_since = NULL"
	"     FROM mine"
	"    WHERE h.webhook_id" EQ "mine.webhook_id"
	"      AND mine.problem IS DISTINCT FROM NULLIF($2, '')"
	"   RETURNING 1"
	") SELECT EXISTS (SELECT FROM changed) FROM mine";


/* from the table, or from its copy while somebody locks that */
static CwhStatement load_st[] = {
	{LOAD_SQL("webhook"), 1, {UUIDARRAYOID}, NULL},
	{LOAD_SQL("_webhook"), 1, {UUIDARRAYOID}, NULL}
};
static CwhStatement find_st[] = {
	{FIND_SQL("webhook"), 1, {UUIDARRAYOID}, NULL},
	{FIND_SQL("_webhook"), 1, {UUIDARRAYOID}, NULL}
};
static CwhStatement find_deleted_st = {find_deleted_sql, 1, {UUIDARRAYOID}, NULL};
static CwhStatement disable_st = {disable_sql, 2, {UUIDOID, TEXTOID}, NULL};
static CwhStatement note_problem_st = {note_problem_sql, 2, {UUIDOID, TEXTOID}, NULL};
/* INDENT ON */

/* Milliseconds of an interval, as far as a long holds them. */
static int64
interval_ms(Datum datum)
{
	Interval   *interval = DatumGetIntervalP(datum);
	double		ms = interval->time / 1000.0 +
		(interval->day + interval->month * 30.0) * 86400000.0;

	return ms < 0 ? 0 : ms > 1e15 ? (int64) 1e15 : (int64) ms;
}

/* A secret of a webhook, while it is being loaded. */
typedef struct Secret
{
	char	   *name;
	char	   *value;			/* to be cleansed */
} Secret;

/* What loading a webhook needs at hand. */
typedef struct Loading
{
	CwhWebhook *webhook;
	MemoryContext scratch;		/* for what the webhook need not keep */
	Secret	   *secrets;
	int			nsecrets;
	size_t		filled;			/* bytes of the lines filled in so far */
	size_t		value_at;		/* where a header's value begins in its line;
								 * else 0 */
} Loading;

/* Note why nothing can be sent for a webhook; the first reason stays. */
static void
note(CwhWebhook *webhook, const char *problem)
{
	if (webhook->problem == NULL)
		webhook->problem = problem;
}

/* A value of a row as jsonb, which the webhook does not keep. */
static Jsonb *
scratch_jsonb(const Loading *loading, Datum datum)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(loading->scratch);
	Jsonb	   *result = DatumGetJsonbP(datum);

	MemoryContextSwitchTo(oldcontext);
	return result;
}

/*
 * Open a webhook's secrets.  What cannot be opened is the webhook's problem:
 * nothing is sent for it.
 */
static void
open_secrets(Loading *loading, uint64 row)
{
	CwhWebhook *webhook = loading->webhook;
	Datum	   *names;
	Datum	   *values;
	int			n;
	bool		isnull;
	Datum		datum = cwh_field(row, SECRET_NAMES, &isnull);

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false,
					  TYPALIGN_INT, &names, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(cwh_field(row, SECRET_VALUES, NULL)), BYTEAOID, -1,
					  false, TYPALIGN_INT, &values, NULL, &n);
	loading->secrets = palloc(n * sizeof(Secret));
	for (int i = 0; i < n; i++)
	{
		const char *problem;
		Secret	   *secret = &loading->secrets[i];
		MemoryContext own = MemoryContextSwitchTo(loading->scratch);

		secret->name = TextDatumGetCString(names[i]);
		secret->value = cwh_vault_reveal(&webhook->id, secret->name,
										 DatumGetByteaPP(values[i]), &problem);
		loading->nsecrets++;
		MemoryContextSwitchTo(own);
		if (secret->value == NULL)
			note(webhook, psprintf("cannot open the secret \"%s\": %s",
								   secret->name, problem));
	}
}

/* Return a hash of all secrets, to notice when they change. */
static uint64
hash_secrets(const Loading *loading)
{
	uint64		hash = 0;

	for (int i = 0; i < loading->nsecrets; i++)
	{
		const Secret *secret = &loading->secrets[i];
		uint64		name = hash_bytes_extended((const unsigned char *) secret->name,
											   strlen(secret->name), 0);

		/* in any order */
		if (secret->value)
			hash ^= hash_bytes_extended((const unsigned char *) secret->value,
										strlen(secret->value), name);
	}
	return hash;
}

/* The value of a secret by its name; null if there is none. */
static const char *
find_secret(const Loading *loading, const char *name, size_t len)
{
	for (int i = 0; i < loading->nsecrets; i++)
	{
		const Secret *secret = &loading->secrets[i];

		if (secret->value && strlen(secret->name) == len &&
			memcmp(secret->name, name, len) == 0)
			return secret->value;
	}
	return NULL;
}

/*
 * Return a signer for the secrets with these names, or null if there are none.
 */
static CwhSigner *
make_signer(const Loading *loading, const char *const names[2])
{
	CwhSigner  *signer = NULL;

	for (int i = 0; i < 2; i++)
	{
		const char *secret = find_secret(loading, names[i], strlen(names[i]));
		const char *problem;
		bool		done = true;

		if (secret && signer)
			done = cwh_signer_add(signer, secret, strlen(secret), &problem);
		else if (secret)
			done = (signer = cwh_signer_create(secret, strlen(secret),
											   &problem)) != NULL;
		if (!done)
		{
			cwh_signer_destroy(signer);
			return NULL;
		}
	}
	return signer;
}

/* A copy of a secret that lives as long as the webhook, or null. */
static char *
keep_secret(const Loading *loading, const char *name)
{
	const char *secret = find_secret(loading, name, strlen(name));

	return secret ? pstrdup(secret) : NULL;
}

/* Is this the name of a secret that signs, or is for TLS?  No request has it. */
static bool
is_never_sent(const char *name, size_t len)
{
	static const char *const names[] = {
		"signing_secret", "signing_key", "previous_signing_secret",
		"previous_signing_key", "client_certificate", "client_key"
	};

	for (int i = 0; i < lengthof(names); i++)
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
			return true;
	return false;
}

/* Note where the header that is being loaded has a computed value. */
static void
add_part(const Loading *loading, size_t at, CwhComputed which)
{
	CwhWebhook *webhook = loading->webhook;
	CwhHeaderPart *part;

	if (webhook->parts == NULL)
		webhook->parts = palloc(CWH_MAX_COMPUTED * sizeof(CwhHeaderPart));
	part = &webhook->parts[webhook->nparts++];
	part->header = webhook->nheaders;
	part->at = loading->value_at + at;
	part->which = which;
}

/*
 * Copy a template with each {{name}} replaced by the credential of that name,
 * to "out" unless that is null.  Returns the length; a credential that is not
 * set, or is not for this, is the webhook's problem.  In a header, {{$name}} is
 * left out, and its place is noted.
 */
static size_t
copy_filled_in(const Loading *loading, const char *template, char *out)
{
	const char *rest = template;
	const char *start;
	size_t		len = 0;

	while ((start = strstr(rest, "{{")) != NULL)
	{
		const char *name = start + 2;
		const char *end = strstr(name, "}}");
		const char *value;
		CwhComputed which;
		size_t		computed_len = 0;

		if (end == NULL)
			break;
		if (out)
			memcpy(out + len, rest, start - rest);
		len += start - rest;
		if (loading->value_at > 0)
			computed_len = cwh_computed_parse(start, &which);
		if (computed_len > 0)
		{
			if (out)
				add_part(loading, len, which);
			rest = start + computed_len;
			continue;
		}
		value = is_never_sent(name, end - name) ? NULL :
			find_secret(loading, name, end - name);
		if (value == NULL)
			note(loading->webhook,
				 psprintf(is_never_sent(name, end - name) ?
						  "the credential \"%.*s\" is never part of a request" :
						  "the credential \"%.*s\" is not set",
						  pg_mbcliplen(name, end - name, 100), name));
		else
		{
			if (out)
				memcpy(out + len, value, strlen(value));
			len += strlen(value);
		}
		rest = end + 2;
	}
	if (out)
		strcpy(out + len, rest);
	return len + strlen(rest);
}

/*
 * The same as a new string, of exactly the size that it needs; empty if that is
 * too much, which is the webhook's problem.
 */
static char *
fill_in(Loading *loading, const char *what, const char *template)
{
	size_t		len = copy_filled_in(loading, template, NULL);
	char	   *result;

	loading->filled += len;
	if (len > CWH_MAX_LINE || loading->filled > CWH_MAX_LINES)
	{
		note(loading->webhook,
			 psprintf("with its credentials filled in, %s is too long", what));
		return pstrdup("");
	}
	result = palloc(len + 1);
	(void) copy_filled_in(loading, template, result);
	return result;
}

/* The same for what becomes a line of a request, or a part of one. */
static char *
fill_in_line(Loading *loading, const char *what, const JsonbValue *template)
{
	char	   *copy = pnstrdup(template->val.string.val,
								template->val.string.len);
	char	   *result = fill_in(loading, what, copy);

	pfree(copy);
	if (!cwh_is_printable(result))
		note(loading->webhook,
			 psprintf("with its credentials filled in, %s is not printable ASCII",
					  what));
	return result;
}

/* Overwrite a string that may be null. */
static void
cleanse_string(char *string)
{
	if (string)
		cwh_cleanse(string, strlen(string));
}

/* Three strings in one, of exactly the size that they need. */
static char *
join(const char *one, const char *two, const char *three)
{
	size_t		size = strlen(one) + strlen(two) + strlen(three) + 1;
	char	   *result = palloc(size);

	snprintf(result, size, "%s%s%s", one, two, three);
	return result;
}

/* Load custom headers as lines, and the places of their computed values. */
static void
load_headers(Loading *loading, uint64 row)
{
	CwhWebhook *webhook = loading->webhook;
	Jsonb	   *headers = scratch_jsonb(loading, cwh_field(row, HEADERS, NULL));
	const char *problem = cwh_header_problem(headers, false);
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	if (problem == NULL)
		problem = cwh_computed_problem(headers);
	if (problem)
	{
		note(webhook, psprintf("its headers cannot be sent: %s", problem));
		return;
	}
	webhook->headers = palloc(Max(1, JB_ROOT_COUNT(headers)) * sizeof(char *));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *filled;

			loading->value_at = strlen(name) + strlen(": ");
			filled = fill_in_line(loading, "a header", &value);
			loading->value_at = 0;
			webhook->headers[webhook->nheaders++] = join(name, ": ", filled);
			cleanse_string(filled);
			pfree(filled);
			pfree(name);
		}
	}
}

/*
 * Check the headers with computed values.  Each request holds its own copies
 * of these, so their size matters more than that of others.
 */
static void
check_parts(CwhWebhook *webhook)
{
	size_t		most = 0;

	for (int i = 0; i < webhook->nparts; i++)
	{
		const CwhHeaderPart *part = &webhook->parts[i];

		if (i == 0 || part->header != part[-1].header)
			most += strlen(webhook->headers[part->header]) + 1;
		most += cwh_computed_size(part->which, CWH_MAX_TYPE,
								  webhook->batch_size);
		if (cwh_computed_is_hmac(part->which) &&
			(webhook->signer == NULL ||
			 !cwh_signer_has_secret(webhook->signer)))
			note(webhook, "its headers have an HMAC, for which it has no secret");
	}
	if (most > CWH_MAX_LINE)
		note(webhook,
			 "with its computed values filled in, its headers are too long");
}

/* Members of the column "auth". */
enum
{
	TYPE, TOKEN, USERNAME, PASSWORD, AUTH_NAME, VALUE, TOKEN_URL, CLIENT_ID,
	SCOPE, NAUTH
};

/* The header of basic authentication (RFC 7617). */
static char *
basic_auth(const char *username, const char *password)
{
	char	   *plain = join(username, ":", password);
	char	   *encoded = cwh_base64(plain, strlen(plain));
	char	   *line = join("Authorization: Basic ", encoded, "");

	cleanse_string(plain);
	cleanse_string(encoded);
	return line;
}

/* Append a value of a form, percent-encoded. */
static char *
append_encoded(char *to, const char *name, const char *value)
{
	to = stpcpy(to, name);
	return to + cwh_url_encode(value, to);
}

/* The body of a request for a token (RFC 6749, 4.4.2). */
static char *
token_request(char **values, const char *secret)
{
	static const char start[] = "grant_type=client_credentials&client_id=";
	size_t		len = strlen(values[CLIENT_ID]) + strlen(secret) +
		strlen(values[SCOPE]);
	char	   *request = palloc(sizeof(start) + sizeof("&client_secret=&scope=") +
								 CWH_URL_ENCODED_MAX(len));
	char	   *end;

	end = append_encoded(request, start, values[CLIENT_ID]);
	end = append_encoded(end, "&client_secret=", secret);
	if (values[SCOPE][0])
		(void) append_encoded(end, "&scope=", values[SCOPE]);
	return request;
}

/* The member that a body gets, "name":"value". */
static char *
body_member(const char *name, const char *value)
{
	StringInfoData member;

	initStringInfo(&member);
	enlargeStringInfo(&member, 16 + 6 * (strlen(name) + strlen(value)));
	cwh_json_write_string(&member, name, strlen(name));
	appendStringInfoChar(&member, ':');
	cwh_json_write_string(&member, value, strlen(value));
	return member.data;
}

/* The credentials that the webhook's auth sends, in one of HTTP's ways. */
static void
load_auth(Loading *loading, Jsonb *auth)
{
	static const char *const keys[NAUTH] = {
		"type", "token", "username", "password", "name", "value", "token_url",
		"client_id", "scope"
	};
	CwhWebhook *webhook = loading->webhook;
	char	   *values[NAUTH];

	for (int i = 0; i < NAUTH; i++)
	{
		JsonbValue	value;

		values[i] = pstrdup("");
		if (cwh_jsonb_member(&auth->root, keys[i], jbvString, &value))
			values[i] = fill_in_line(loading, "its auth", &value);
	}
	webhook->auth = CWH_AUTH_HEADER;
	if (strcmp(values[TYPE], "bearer") == 0)
		webhook->auth_line = join("Authorization: Bearer ", values[TOKEN], "");
	else if (strcmp(values[TYPE], "basic") == 0)
		webhook->auth_line = basic_auth(values[USERNAME], values[PASSWORD]);
	else if (strcmp(values[TYPE], "header") == 0)
		webhook->auth_line = join(values[AUTH_NAME], ": ", values[VALUE]);
	else if (strcmp(values[TYPE], "body") == 0)
	{
		webhook->auth = CWH_AUTH_BODY;
		webhook->auth_line = body_member(values[AUTH_NAME], values[VALUE]);
	}
	else if (strcmp(values[TYPE], "oauth2") != 0)
	{
		webhook->auth = CWH_AUTH_NONE;
		note(webhook, "its auth has no known type");
	}
	else
	{
		const char *secret = find_secret(loading, "client_secret",
										 strlen("client_secret"));

		webhook->auth = CWH_AUTH_OAUTH2;
		webhook->token_url = pstrdup(values[TOKEN_URL]);
		if (secret == NULL)
			note(webhook, "the credential \"client_secret\" is not set");
		webhook->token_request = token_request(values, secret ? secret : "");
	}
	for (int i = 0; i < NAUTH; i++)
		cleanse_string(values[i]);
}

/*
 * Connectors
 */

/*
 * The webhook as its connector's function gets it, where nothing is remembered;
 * see cwh_connector_render().
 */
static Jsonb *
connector_argument(const Loading *loading, Jsonb *settings)
{
	const CwhWebhook *webhook = loading->webhook;
	MemoryContext oldcontext = MemoryContextSwitchTo(loading->scratch);
	CwhJsonbState state = {0};
	char		id[CWH_UUID_LEN + 1];
	Jsonb	   *argument;

	cwh_uuid_text(&webhook->id, id);
	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	cwh_jsonb_text(&state, "id", id);
	cwh_jsonb_text(&state, "name", webhook->name);
	cwh_jsonb_text(&state, "url", webhook->url_template);
	cwh_jsonb_text(&state, "chatbotId", webhook->chatbot_id);
	cwh_jsonb_key(&state, "settings");
	cwh_jsonb_whole(&state, settings);
	cwh_jsonb_key(&state, "memory");
	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	argument = JsonbValueToJsonb(state.result);
	MemoryContextSwitchTo(oldcontext);
	return (Jsonb *) DatumGetPointer(datumCopy(JsonbPGetDatum(argument), false,
											   -1));
}

/* Do the settings ask for only the headers of Standard Webhooks? */
static bool
wants_standard_headers(Jsonb *settings)
{
	static const char standard[] = "standard";
	JsonbValue	value;

	return JB_ROOT_IS_OBJECT(settings) &&
		cwh_jsonb_member(&settings->root, "headers", jbvString, &value) &&
		value.val.string.len == strlen(standard) &&
		memcmp(value.val.string.val, standard, strlen(standard)) == 0;
}

/* What a webhook with a connector needs. */
static void
load_connector(Loading *loading, uint64 row, const char *url)
{
	CwhWebhook *webhook = loading->webhook;
	char	   *name = cwh_field_text(row, CONNECTOR);
	Jsonb	   *settings = scratch_jsonb(loading, cwh_field(row, SETTINGS, NULL));
	bool		isnull;
	Datum		rules;

	webhook->standard_headers = wants_standard_headers(settings);
	webhook->is_signed = name == NULL || strcmp(name, "webhook") == 0;
	if (webhook->is_signed)
		return;
	webhook->connector = name;
	webhook->function = cwh_field_text(row, CONNECTOR_FUNCTION);
	webhook->is_signed = DatumGetBool(cwh_field(row, CONNECTOR_SIGNED, NULL));
	webhook->url_template = pstrdup(url);
	rules = cwh_field(row, CONNECTOR_REPLIES, &isnull);
	if (!isnull)
		cwh_rules_load(&webhook->rules, scratch_jsonb(loading, rules));
	if (webhook->rules.problem)
		note(webhook, webhook->rules.problem);
	/* a batch has events of many conversations, but only one reply */
	if (!DatumGetBool(cwh_field(row, CONNECTOR_BATCHES, NULL)) ||
		webhook->rules.remember)
		webhook->batch_size = 1;
	if (JB_ROOT_IS_OBJECT(settings))
		webhook->argument = connector_argument(loading, settings);
	else
		note(webhook, "its settings are not an object");
}

/* A number, or the nearest one within these limits. */
static int64
within(int64 value, int64 least, int64 most)
{
	return Max(least, Min(value, most));
}

/* Is a value of a row too large?  Measured without decompressing it. */
static bool
exceeds(uint64 row, int column, Size most)
{
	bool		isnull;
	Datum		datum = cwh_field(row, column, &isnull);

	return !isnull && toast_raw_datum_size(datum) - VARHDRSZ > most;
}

/* Load the waits before retries, if they are listed, up to so many. */
static void
load_delays(CwhRetryPolicy *retry, uint64 row, int most)
{
	bool		isnull;
	Datum		datum = cwh_field(row, RETRY_DELAYS, &isnull);
	Datum	   *elements;
	bool	   *nulls;
	int64	   *delays;
	int			n;

	if (isnull || exceeds(row, RETRY_DELAYS, CWH_MAX_DELAYS_SIZE))
		return;
	deconstruct_array(DatumGetArrayTypeP(datum), INTERVALOID, sizeof(Interval),
					  false, TYPALIGN_DOUBLE, &elements, &nulls, &n);
	retry->max_retries = Min(n, most);
	retry->delays_ms = delays = palloc(Max(1, n) * sizeof(int64));
	for (int i = 0; i < n; i++)
		delays[i] = nulls[i] ? 0 : within(interval_ms(elements[i]), 0,
										  7 * DAY_MS);
}

/*
 * The columns that say how a webhook is sent to, within the ranges that SQL
 * allows, and for those of one chatbot within the administrator's bounds.
 */
static void
load_limits(CwhWebhook *webhook, uint64 row)
{
	int			retries = CWH_MAX_RETRIES;
	int			timeout_ms = CWH_MAX_TIMEOUT_MS;
	int			in_flight = CWH_MAX_WINDOW;
	double		number;
	bool		isnull;
	Datum		datum;

	(void) cwh_field(row, CHATBOT_ID, &isnull);
	webhook->of_customer = !isnull;
	if (webhook->of_customer)
	{
		retries = cwh_max_customer_retries;
		timeout_ms = cwh_max_customer_timeout;
		in_flight = cwh_max_customer_in_flight;
	}
	webhook->retry.max_retries =
		within(DatumGetInt32(cwh_field(row, MAX_RETRIES, NULL)), 0, retries);
	webhook->retry.backoff_ms =
		within(interval_ms(cwh_field(row, BACKOFF, NULL)), 10, DAY_MS);
	number = DatumGetFloat8(cwh_field(row, BACKOFF_MULTIPLIER, NULL));
	webhook->retry.multiplier = number >= 1 ? Min(number, 10) : 1;
	webhook->retry.max_backoff_ms =
		within(interval_ms(cwh_field(row, MAX_BACKOFF, NULL)), 10, 7 * DAY_MS);
	load_delays(&webhook->retry, row, retries);
	webhook->timeout_ms =
		within(interval_ms(cwh_field(row, TIMEOUT, NULL)), 100, timeout_ms);
	webhook->max_in_flight =
		within(DatumGetInt32(cwh_field(row, MAX_IN_FLIGHT, NULL)), 1, in_flight);
	datum = cwh_field(row, RATE_LIMIT, &isnull);
	number = isnull ? 0 : DatumGetFloat8(datum);
	webhook->rate_limit = isnull ? 0 : number >= 0.001 ? Min(number, 100000) : 0.001;
	webhook->batch_size =
		within(DatumGetInt32(cwh_field(row, BATCH_SIZE, NULL)), 1, CWH_MAX_BATCH);
	webhook->batch_window_ms =
		within(interval_ms(cwh_field(row, BATCH_WINDOW, NULL)), 0, 60000);
	webhook->ordered = DatumGetBool(cwh_field(row, ORDERED, NULL));
}

/* Load the signing secrets, the one for HMACs first. */
static const char *const current_secrets[] = {"signing_secret", "signing_key"};
static const char *const previous_secrets[] = {
	"previous_signing_secret", "previous_signing_key"
};

/* What signs its requests, and what its TLS connections show. */
static void
load_keys(const Loading *loading, uint64 row)
{
	CwhWebhook *webhook = loading->webhook;
	bool		isnull;
	Datum		datum;

	webhook->signer = make_signer(loading, current_secrets);
	webhook->previous = make_signer(loading, previous_secrets);
	datum = cwh_field(row, PREVIOUS_UNTIL, &isnull);
	webhook->previous_until = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
	webhook->client_certificate = keep_secret(loading, "client_certificate");
	webhook->client_key = keep_secret(loading, "client_key");
}

/* Why a row cannot be loaded: it is larger than it may be; null if it is not. */
static const char *
size_problem(uint64 row)
{
	static const struct
	{
		int			column;
		Size		most;
		const char *problem;
	}			values[] = {
		{NAME, CWH_MAX_NAME, "its name is too long"},
		{CHATBOT_ID, CWH_MAX_NAME, "its chatbot_id is too long"},
		{URL, CWH_MAX_URL, "its url is too long"},
		{CONNECTOR, CWH_MAX_NAME, "its connector is too long"},
		{HEADERS, CWH_MAX_JSON, "its headers are too large"},
		{SETTINGS, CWH_MAX_JSON, "its settings are too large"},
		{AUTH, CWH_MAX_JSON, "its auth is too large"},
		{RETRY_DELAYS, CWH_MAX_DELAYS_SIZE, "its retry_delays are too large"}
	};

	for (int i = 0; i < lengthof(values); i++)
		if (exceeds(row, values[i].column, values[i].most))
			return values[i].problem;
	if (!DatumGetBool(cwh_field(row, SECRETS_FIT, NULL)))
		return "it has too many credentials, or they are too large";
	return NULL;
}

/* The parts of a webhook that take its secrets. */
static void
load_secret_parts(Loading *loading, uint64 row)
{
	CwhWebhook *webhook = loading->webhook;
	char	   *url = cwh_field_text(row, URL);
	bool		isnull;
	Datum		datum;

	open_secrets(loading, row);
	webhook->secrets = hash_secrets(loading);
	webhook->url = fill_in(loading, "its url", url);
	load_headers(loading, row);
	load_keys(loading, row);
	check_parts(webhook);
	datum = cwh_field(row, AUTH, &isnull);
	if (!isnull)
		load_auth(loading, scratch_jsonb(loading, datum));
	load_connector(loading, row, url);
	if (webhook->signer == NULL && webhook->is_signed)
	{
		for (int i = 0; i < lengthof(current_secrets); i++)
			if (find_secret(loading, current_secrets[i],
							strlen(current_secrets[i])))
				note(webhook, "its signing secret is unusable");
		/* a restore that is under way may still bring it */
		note(webhook, "it has no signing secret");
	}
	for (int i = 0; i < loading->nsecrets; i++)
		cleanse_string(loading->secrets[i].value);
}

/* A hash of a chatbot's id, for which nobody can choose another of the same. */
static uint64
hash_owner(const char *chatbot_id)
{
	static uint64 seed = 0;

	if (seed == 0 && !pg_strong_random(&seed, sizeof(seed)))
		elog(ERROR, "could not generate a random number");
	return DatumGetUInt64(hash_any_extended((const unsigned char *) chatbot_id,
											strlen(chatbot_id), seed));
}

/* Fill in a webhook from a row, in its own memory context. */
static void
load_row(CwhWebhook *webhook, uint64 row, MemoryContext scratch)
{
	Loading		loading = {.webhook = webhook,.scratch = scratch};

	webhook->enabled = DatumGetBool(cwh_field(row, ENABLED, NULL));
	webhook->proven = DatumGetBool(cwh_field(row, PROVEN, NULL));
	webhook->updated_at = DatumGetTimestampTz(cwh_field(row, UPDATED_AT, NULL));
	webhook->noted = cwh_field_text(row, NOTED);
	load_limits(webhook, row);
	webhook->problem = size_problem(row);
	if (!exceeds(row, NAME, CWH_MAX_NAME))
		webhook->name = cwh_field_text(row, NAME);
	if (!exceeds(row, CHATBOT_ID, CWH_MAX_NAME))
		webhook->chatbot_id = cwh_field_text(row, CHATBOT_ID);
	if (webhook->chatbot_id)
		webhook->owner = hash_owner(webhook->chatbot_id);
	if (webhook->problem == NULL)
		load_secret_parts(&loading, row);
}

/*
 * A webhook in a memory context of its own, of which only the id is known: so it
 * stays if its row cannot be loaded.
 */
static CwhWebhook *
make_webhook(const pg_uuid_t *id, MemoryContext parent)
{
	MemoryContext own = AllocSetContextCreate(parent, "chatwebhook webhook",
											  ALLOCSET_SMALL_SIZES);
	CwhWebhook *webhook = MemoryContextAllocZero(own, sizeof(CwhWebhook));

	webhook->context = own;
	webhook->id = *id;
	webhook->name = MemoryContextAlloc(own, CWH_UUID_LEN + 1);
	cwh_uuid_text(id, webhook->name);
	webhook->url = MemoryContextStrdup(own, "");
	webhook->retry.max_retries = 5;
	webhook->retry.backoff_ms = 1000;
	webhook->retry.multiplier = 2;
	webhook->retry.max_backoff_ms = 60000;
	webhook->timeout_ms = 10000;
	webhook->max_in_flight = 1;
	webhook->batch_size = 1;
	return webhook;
}

/* Is an error about the row that is being loaded, rather than about the server? */
static bool
is_of_row(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
			return false;
		default:
			return true;
	}
}

/*
 * Load these webhooks in a subtransaction, into loaded[].  Returns their number,
 * or -1 if that failed because of a row; *problem says why.
 */
static int
try_load(const pg_uuid_t *ids, int n, MemoryContext parent,
		 CwhWebhook **loaded, const char **problem)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile int nloaded = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		Datum		arg = cwh_uuid_array(ids, n);
		uint64		found = cwh_run(&load_st[!cwh_try_lock_for_reading(CWH_REL_WEBHOOK)],
									&arg);
		SPITupleTable *rows = SPI_tuptable;

		for (uint64 i = 0; i < found; i++)
		{
			CwhWebhook *webhook = make_webhook(DatumGetUUIDP(cwh_field(i, ID, NULL)),
											   parent);

			loaded[nloaded++] = webhook;
			MemoryContextSwitchTo(webhook->context);
			load_row(webhook, i, oldcontext);
			MemoryContextSwitchTo(oldcontext);
			SPI_tuptable = rows;
		}
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
		while (nloaded > 0)
			cwh_webhook_free(loaded[--nloaded]);
		if (!is_of_row(error))
			ReThrowError(error);
		*problem = error->message;
		return -1;
	}
	PG_END_TRY();
	return nloaded;
}

/*
 * Load these webhooks, each into a context below parent.  Those that do not
 * exist are left out.
 */
void
cwh_webhook_load(const pg_uuid_t *ids, int n, MemoryContext parent,
				 void (*each) (void *context, CwhWebhook *webhook),
				 void *context)
{
	int			one_by_one = 0; /* of the next, one of which cannot be loaded */

	while (n > 0)
	{
		CwhWebhook *loaded[LOAD_AT_ONCE];
		int			some = one_by_one-- > 0 ? 1 : Min(n, LOAD_AT_ONCE);
		const char *problem = NULL;
		int			nloaded = try_load(ids, some, parent, loaded, &problem);

		if (nloaded < 0 && some > 1)
		{
			one_by_one = some;
			continue;
		}
		if (nloaded < 0)
		{
			loaded[0] = make_webhook(ids, parent);
			loaded[0]->problem =
				MemoryContextStrdup(loaded[0]->context,
									psprintf("it could not be loaded: %.*s",
											 pg_mbcliplen(problem, strlen(problem), 500),
											 problem));
			nloaded = 1;
		}
		for (int i = 0; i < nloaded; i++)
			each(context, loaded[i]);
		ids += some;
		n -= some;
	}
}

/* Say which of these webhooks exist, or which were deleted. */
void
cwh_webhook_find(const pg_uuid_t *ids, int n, bool deleted,
				 void (*each) (void *context, const pg_uuid_t *id),
				 void *context)
{
	Datum		arg = cwh_uuid_array(ids, n);
	uint64		found = cwh_run(deleted ? &find_deleted_st :
								&find_st[!cwh_try_lock_for_reading(CWH_REL_WEBHOOK)],
								&arg);

	for (uint64 i = 0; i < found; i++)
		each(context, DatumGetUUIDP(cwh_field(i, 0, NULL)));
}

/* Free a webhook that cwh_webhook_load() made, and overwrite its secrets. */
void
cwh_webhook_free(CwhWebhook *webhook)
{
	cwh_signer_destroy(webhook->signer);
	cwh_signer_destroy(webhook->previous);
	cleanse_string(webhook->url);
	for (int i = 0; i < webhook->nheaders; i++)
		cleanse_string(webhook->headers[i]);
	cleanse_string(webhook->client_key);
	cleanse_string(webhook->client_certificate);
	cleanse_string(webhook->auth_line);
	cleanse_string(webhook->token_url);
	cleanse_string(webhook->token_request);
	MemoryContextDelete(webhook->context);
}

/* Disable a webhook; false if another transaction has locked its row. */
static bool
disable(const pg_uuid_t *id, const char *reason)
{
	Datum		args[2];

	args[0] = UUIDPGetDatum(id);
	args[1] = CStringGetTextDatum(reason);
	(void) cwh_run(&disable_st, args);
	return DatumGetBool(cwh_field(0, 0, NULL));
}

/*
 * Note in its health why a webhook cannot be sent to, or, with null, that it
 * can; false if another transaction has locked the row.
 */
static bool
note_problem(const pg_uuid_t *id, const char *problem, bool *is_new)
{
	Datum		args[2];

	args[0] = UUIDPGetDatum(id);
	args[1] = CStringGetTextDatum(problem ? problem : "");
	if (cwh_run(&note_problem_st, args) == 0)
		return false;
	*is_new = DatumGetBool(cwh_field(0, 0, NULL));
	return true;
}

/*
 * Disable a webhook, unless the reason is null, and note its problem, if that is
 * asked for.  What another transaction has locked is left as it is: *done says
 * what was recorded, and the caller tries the rest again.
 */
void
cwh_webhook_record(const pg_uuid_t *id, const char *disable_reason, bool note,
				   const char *problem, CwhRecorded *done)
{
	memset(done, 0, sizeof(CwhRecorded));
	done->disabled = disable_reason && disable(id, disable_reason);
	done->noted = note && note_problem(id, problem, &done->is_new);
}
