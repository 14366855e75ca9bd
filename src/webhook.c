/*
 * webhook.c
 *		Loads webhooks and fills in their secrets; notes what is wrong with them.
 *
 * A webhook is loaded into a memory context of its own, with everything that
 * sending needs: its URL, headers and auth with {{name}} replaced by the
 * credential of that name, its signers, its connector's rules.  What cannot be
 * loaded is the webhook's problem, for which nothing is sent.
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

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "envelope.h"
#include "secrets.h"
#include "statement.h"
#include "target.h"
#include "webhook.h"

/* INDENT OFF */
/* The columns of load_sql. */
enum
{
	ID, NAME, URL, ENABLED, HEADERS, MAX_RETRIES, BACKOFF, BACKOFF_MULTIPLIER,
	MAX_BACKOFF, TIMEOUT, MAX_IN_FLIGHT, SECRET_NAMES, SECRET_VALUES,
	PREVIOUS_UNTIL, AUTH, CONNECTOR, CONNECTOR_FUNCTION, CONNECTOR_REPLIES, ARGUMENT,
	PROVEN, UPDATED_AT, RATE_LIMIT, BATCH_SIZE, BATCH_WINDOW, NOTED,
	CHATBOT_ID
};

static const char load_sql[] =
	"SELECT w.id, w.name, w.url, w.enabled, w.headers, w.max_retries,"
	"       w.backoff, w.backoff_multiplier, w.max_backoff, w.timeout,"
	"       w.max_in_flight, v.names, v.vals, v.previous_until, w.auth,"
	"       w.connector, c.function, c.replies,"
	"       pg_catalog.jsonb_build_object('id', w.id, 'name', w.name,"
	"           'url', w.url, 'chatbotId', w.chatbot_id, 'settings', w.settings),"
	"       COALESCE(h.consecutive_failures" EQ "0"
	"                AND h.last_success_at IS NOT NULL, false),"
	"       w.updated_at, w.rate_limit, w.batch_size, w.batch_window, h.problem,"
	"       w.chatbot_id"
	"  FROM chatwebhook.webhook w"
	"  LEFT JOIN chatwebhook.health h ON h.webhook_id" EQ "w.id"
	"  LEFT JOIN chatwebhook.connector c ON c.name" EQ "w.connector"
	" CROSS JOIN LATERAL ("
	"       SELECT pg_catalog.array_agg(s.name) AS names,"
	"              pg_catalog.array_agg(s.value) AS vals,"
	"              pg_catalog.max(s.expires_at) AS previous_until"
	"         FROM chatwebhook.vault s WHERE s.webhook_id" EQ "w.id) v"
	" WHERE w.id" EQ "ANY ($1)";

static const char find_sql[] =
	"SELECT w.id FROM chatwebhook.webhook w WHERE w.id" EQ "ANY ($1)";

static const char find_deleted_sql[] =
	"SELECT d.id FROM chatwebhook.deleted_webhook d WHERE d.id" EQ "ANY ($1)";

static const char disable_sql[] =
	"UPDATE chatwebhook.webhook w"
	"   SET enabled = false, disabled_at = pg_catalog.clock_timestamp(),"
	"       disabled_reason = $2, updated_at = pg_catalog.clock_timestamp()"
	" WHERE w.id" EQ "(SELECT x.id FROM chatwebhook.webhook x"
	"                   WHERE x.id" EQ "$1 FOR NO KEY UPDATE SKIP LOCKED)"
	" RETURNING w.id";

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


static CwhStatement load_st = {load_sql, 1, {UUIDARRAYOID}, NULL};
static CwhStatement find_st = {find_sql, 1, {UUIDARRAYOID}, NULL};
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

/*
 * Open a webhook's secrets.  What cannot be opened is the webhook's problem:
 * nothing is sent for it.
 */
static int
open_secrets(CwhWebhook *webhook, uint64 row, Secret **secrets)
{
	Datum	   *names;
	Datum	   *values;
	int			n;
	bool		isnull;
	Datum		datum = cwh_field(row, SECRET_NAMES, &isnull);

	*secrets = NULL;
	if (isnull)
		return 0;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false,
					  TYPALIGN_INT, &names, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(cwh_field(row, SECRET_VALUES, NULL)), BYTEAOID, -1,
					  false, TYPALIGN_INT, &values, NULL, &n);
	*secrets = palloc(n * sizeof(Secret));
	for (int i = 0; i < n; i++)
	{
		const char *problem;
		Secret	   *secret = &(*secrets)[i];

		secret->name = TextDatumGetCString(names[i]);
		secret->value = cwh_vault_reveal(&webhook->id, secret->name,
										 DatumGetByteaPP(values[i]), &problem);
		if (secret->value == NULL)
			webhook->problem = psprintf("cannot open the secret \"%s\": %s",
										secret->name, problem);
	}
	return n;
}

/* The value of a secret by its name; null if there is none. */
static const char *
find_secret(const Secret *secrets, int n, const char *name, size_t len)
{
	for (int i = 0; i < n; i++)
		if (secrets[i].value && strlen(secrets[i].name) == len &&
			memcmp(secrets[i].name, name, len) == 0)
			return secrets[i].value;
	return NULL;
}

/* A signer for a secret, or null if there is none. */
static CwhSigner *
make_signer(const Secret *secrets, int n, const char *name)
{
	const char *secret = find_secret(secrets, n, name, strlen(name));
	const char *problem;

	return secret ? cwh_signer_create(secret, strlen(secret), &problem) : NULL;
}

/* A copy of a secret that lives as long as the webhook, or null. */
static char *
keep_secret(const Secret *secrets, int n, const char *name)
{
	const char *secret = find_secret(secrets, n, name, strlen(name));

	return secret ? pstrdup(secret) : NULL;
}

/* Is this the name of a secret that signs?  Those are never sent. */
static bool
is_signing_secret(const char *name, size_t len)
{
	static const char *const names[] = {"signing_secret", "previous_signing_secret"};

	for (int i = 0; i < lengthof(names); i++)
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
			return true;
	return false;
}

/*
 * Copy a template with each {{name}} replaced by the credential of that name,
 * to "out" unless that is null.  Returns the length; a credential that is not
 * set is the webhook's problem.
 */
static size_t
copy_filled_in(CwhWebhook *webhook, const Secret *secrets, int n,
			   const char *template, char *out)
{
	const char *rest = template;
	const char *start;
	size_t		len = 0;

	while ((start = strstr(rest, "{{")) != NULL)
	{
		const char *name = start + 2;
		const char *end = strstr(name, "}}");
		const char *value;

		if (end == NULL)
			break;
		if (out)
			memcpy(out + len, rest, start - rest);
		len += start - rest;
		value = is_signing_secret(name, end - name) ? NULL :
			find_secret(secrets, n, name, end - name);
		if (value == NULL)
			webhook->problem = psprintf("the credential \"%.*s\" is not set",
										(int) (end - name), name);
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

/* The same as a new string, of exactly the size that it needs. */
static char *
fill_in(CwhWebhook *webhook, const Secret *secrets, int n, const char *template)
{
	char	   *result = palloc(copy_filled_in(webhook, secrets, n, template,
											   NULL) + 1);

	(void) copy_filled_in(webhook, secrets, n, template, result);
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

/* Custom headers as lines. */
static void
load_headers(CwhWebhook *webhook, Jsonb *headers, const Secret *secrets, int n)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	webhook->headers = palloc(Max(1, JB_ROOT_COUNT(headers)) * sizeof(char *));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString)
		{
			char	   *filled = fill_in(webhook, secrets, n,
										 pnstrdup(value.val.string.val,
												  value.val.string.len));

			webhook->headers[webhook->nheaders++] = join(name, ": ", filled);
			cleanse_string(filled);
		}
	}
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
load_auth(CwhWebhook *webhook, Jsonb *auth, const Secret *secrets, int n)
{
	static const char *const keys[NAUTH] = {
		"type", "token", "username", "password", "name", "value", "token_url",
		"client_id", "scope"
	};
	char	   *values[NAUTH];

	for (int i = 0; i < NAUTH; i++)
	{
		JsonbValue	value;

		values[i] = pstrdup("");
		if (JB_ROOT_IS_OBJECT(auth) &&
			getKeyJsonValueFromContainer(&auth->root, keys[i], strlen(keys[i]),
										 &value) &&
			value.type == jbvString)
			values[i] = fill_in(webhook, secrets, n,
								pnstrdup(value.val.string.val,
										 value.val.string.len));
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
	else
	{
		const char *secret = find_secret(secrets, n, "client_secret",
										 strlen("client_secret"));

		webhook->auth = CWH_AUTH_OAUTH2;
		webhook->token_url = pstrdup(values[TOKEN_URL]);
		if (secret == NULL)
			webhook->problem = "the credential \"client_secret\" is not set";
		webhook->token_request = token_request(values, secret ? secret : "");
	}
	for (int i = 0; i < NAUTH; i++)
		cleanse_string(values[i]);
}

/*
 * Rules: what replies mean to a connector
 */

/* A member of an object, of a type; null if it is not there. */
static JsonbValue *
member(JsonbContainer *object, const char *key, enum jbvType type,
	   JsonbValue *value)
{
	if (!JsonContainerIsObject(object) ||
		getKeyJsonValueFromContainer(object, key, strlen(key), value) == NULL ||
		value->type != type)
		return NULL;
	return value;
}

/* A number that the table's trigger has seen to be a small whole one. */
static int
small_number(const JsonbValue *value)
{
	return DatumGetInt32(DirectFunctionCall1(numeric_int4,
											 NumericGetDatum(value->val.numeric)));
}

/* A rule of the table connector. */
static void
parse_rule(JsonbContainer *object, CwhRule *rule)
{
	static const char *const meanings[] = {
		[CWH_DELIVERED] = "success",[CWH_RETRY] = "retry",
		[CWH_DEAD] = "dead",[CWH_DISABLE] = "disable"
	};
	JsonbValue	value;
	JsonbValue *found = getKeyJsonValueFromContainer(object, "status", 6, &value);
	int			n = found && found->type == jbvBinary ?
		JsonContainerSize(found->val.binary.data) : 1;

	rule->statuses = palloc(Max(1, n) * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *status = found && found->type == jbvBinary ?
			getIthJsonbValueFromContainer(found->val.binary.data, i) : found;

		if (status && status->type == jbvNumeric)
			rule->statuses[rule->nstatuses++] = small_number(status);
	}
	if (member(object, "step", jbvNumeric, &value))
		rule->step = small_number(&value);
	if (member(object, "contains", jbvString, &value))
	{
		char	   *part = pnstrdup(value.val.string.val, value.val.string.len);

		rule->contains = pg_server_to_any(part, strlen(part), PG_UTF8);
	}
	if (member(object, "wait", jbvNumeric, &value))
		rule->wait_s = small_number(&value);
	if (member(object, "wait", jbvString, &value))
		rule->wait_key = pnstrdup(value.val.string.val, value.val.string.len);
	rule->means = CWH_DEAD;
	if (member(object, "means", jbvString, &value))
		for (int i = 0; i < lengthof(meanings); i++)
			if (strlen(meanings[i]) == value.val.string.len &&
				strncmp(meanings[i], value.val.string.val, value.val.string.len) == 0)
				rule->means = (CwhVerdict) i;
}

/* The rules of a connector. */
static void
parse_rules(Jsonb *rules, CwhWebhook *webhook)
{
	int			n = JB_ROOT_IS_ARRAY(rules) ? JB_ROOT_COUNT(rules) : 0;

	webhook->rules = palloc0(Max(1, n) * sizeof(CwhRule));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *rule = getIthJsonbValueFromContainer(&rules->root, i);

		if (rule->type == jbvBinary && JsonContainerIsObject(rule->val.binary.data))
			parse_rule(rule->val.binary.data, &webhook->rules[webhook->nrules++]);
	}
}

/* What a webhook with a connector needs. */
static void
load_connector(CwhWebhook *webhook, uint64 row, const char *url)
{
	char	   *name = cwh_field_text(row, CONNECTOR);
	bool		isnull;
	Datum		rules;

	if (strcmp(name, "webhook") == 0)
		return;
	webhook->connector = name;
	webhook->function = cwh_field_text(row, CONNECTOR_FUNCTION);
	webhook->url_template = pstrdup(url);
	rules = cwh_field(row, CONNECTOR_REPLIES, &isnull);
	if (!isnull)
		parse_rules(DatumGetJsonbP(rules), webhook);
	webhook->argument = DatumGetJsonbPCopy(cwh_field(row, ARGUMENT, NULL));
}

/* The columns that say how a webhook is sent to. */
static void
load_policy(CwhWebhook *webhook, uint64 row)
{
	bool		isnull;
	Datum		datum;

	webhook->retry.max_retries = DatumGetInt32(cwh_field(row, MAX_RETRIES, NULL));
	webhook->retry.backoff_ms = interval_ms(cwh_field(row, BACKOFF, NULL));
	webhook->retry.multiplier =
		DatumGetFloat8(cwh_field(row, BACKOFF_MULTIPLIER, NULL));
	webhook->retry.max_backoff_ms = interval_ms(cwh_field(row, MAX_BACKOFF, NULL));
	webhook->timeout_ms = (long) interval_ms(cwh_field(row, TIMEOUT, NULL));
	webhook->max_in_flight = DatumGetInt32(cwh_field(row, MAX_IN_FLIGHT, NULL));
	datum = cwh_field(row, RATE_LIMIT, &isnull);
	webhook->rate_limit = isnull ? 0 : DatumGetFloat8(datum);
	webhook->batch_size = DatumGetInt32(cwh_field(row, BATCH_SIZE, NULL));
	webhook->batch_window_ms = interval_ms(cwh_field(row, BATCH_WINDOW, NULL));
}

/* What signs its requests, and what its TLS connections show. */
static void
load_keys(CwhWebhook *webhook, uint64 row, const Secret *secrets, int n)
{
	bool		isnull;
	Datum		datum;

	webhook->signer = make_signer(secrets, n, "signing_secret");
	webhook->previous = make_signer(secrets, n, "previous_signing_secret");
	datum = cwh_field(row, PREVIOUS_UNTIL, &isnull);
	webhook->previous_until = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
	webhook->client_certificate = keep_secret(secrets, n, "client_certificate");
	webhook->client_key = keep_secret(secrets, n, "client_key");
}

/* Make a webhook of a row, in the current memory context. */
static CwhWebhook *
load_row(uint64 row)
{
	CwhWebhook *webhook = palloc0(sizeof(CwhWebhook));
	Secret	   *secrets;
	int			n;
	char	   *url;
	bool		isnull;
	Datum		datum;

	webhook->context = CurrentMemoryContext;
	webhook->id = *DatumGetUUIDP(cwh_field(row, ID, NULL));
	webhook->name = cwh_field_text(row, NAME);
	webhook->chatbot_id = cwh_field_text(row, CHATBOT_ID);
	if (webhook->chatbot_id)
		webhook->owner = DatumGetUInt64(hash_any_extended((unsigned char *) webhook->chatbot_id,
														  strlen(webhook->chatbot_id), 0));
	webhook->enabled = DatumGetBool(cwh_field(row, ENABLED, NULL));
	webhook->proven = DatumGetBool(cwh_field(row, PROVEN, NULL));
	webhook->updated_at = DatumGetTimestampTz(cwh_field(row, UPDATED_AT, NULL));
	webhook->noted = cwh_field_text(row, NOTED);
	load_policy(webhook, row);
	n = open_secrets(webhook, row, &secrets);
	url = cwh_field_text(row, URL);
	webhook->url = fill_in(webhook, secrets, n, url);
	load_headers(webhook, DatumGetJsonbP(cwh_field(row, HEADERS, NULL)),
				 secrets, n);
	load_keys(webhook, row, secrets, n);
	datum = cwh_field(row, AUTH, &isnull);
	if (!isnull)
		load_auth(webhook, DatumGetJsonbP(datum), secrets, n);
	load_connector(webhook, row, url);
	if (webhook->signer == NULL && webhook->problem == NULL)
	{
		if (find_secret(secrets, n, "signing_secret", strlen("signing_secret")))
			webhook->problem = "its signing secret is unusable";
		/* a restore that is under way may still bring it */
		else if (webhook->connector == NULL)
			webhook->problem = "it has no signing secret";
	}
	for (int i = 0; i < n; i++)
		cleanse_string(secrets[i].value);
	return webhook;
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
	Datum		arg = cwh_uuid_array(ids, n);
	uint64		found = cwh_run(&load_st, &arg);
	SPITupleTable *rows = SPI_tuptable;

	for (uint64 i = 0; i < found; i++)
	{
		MemoryContext own = AllocSetContextCreate(parent, "chatwebhook webhook",
												  ALLOCSET_SMALL_SIZES);
		MemoryContext oldcontext = MemoryContextSwitchTo(own);
		CwhWebhook *webhook;

		SPI_tuptable = rows;
		webhook = load_row(i);
		MemoryContextSwitchTo(oldcontext);
		each(context, webhook);
	}
}

/* Say which of these webhooks exist, or which were deleted. */
void
cwh_webhook_find(const pg_uuid_t *ids, int n, bool deleted,
				 void (*each) (void *context, const pg_uuid_t *id),
				 void *context)
{
	Datum		arg = cwh_uuid_array(ids, n);
	uint64		found = cwh_run(deleted ? &find_deleted_st : &find_st, &arg);

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
	return cwh_run(&disable_st, args) > 0;
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
