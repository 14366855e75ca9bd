/*
 * request.c
 *		An event for a webhook as a request, and a reply as text.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <curl/curl.h>

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "chatwebhook.h"
#include "compat.h"

#define MAX_CUSTOM_HEADERS		50
#define MAX_HEADER_NAME			256
#define MAX_HEADER_VALUE		4096

/* A connector's next request may depend on all of a reply. */
#define MIN_REPLY_SIZE			(256 * 1024)

/* Headers of HTTP itself and of ours, which nobody else may set. */
static const char *const reserved_headers[] = {
	"connection", "content-encoding", "content-length", "content-type",
	"expect", "host", "keep-alive", "te", "trailer", "transfer-encoding",
	"upgrade", "user-agent"
};
static const char *const reserved_prefixes[] = {
	"proxy-", "webhook-", "x-webhook-"
};

/* Is this header's name one that we keep to ourselves? */
static bool
is_reserved(const char *name)
{
	for (int i = 0; i < lengthof(reserved_headers); i++)
		if (pg_strcasecmp(name, reserved_headers[i]) == 0)
			return true;
	for (int i = 0; i < lengthof(reserved_prefixes); i++)
		if (pg_strncasecmp(name, reserved_prefixes[i],
						   strlen(reserved_prefixes[i])) == 0)
			return true;
	return false;
}

/* Is this a header's name, a token of RFC 9110? */
static bool
is_token(const char *name)
{
	if (name[0] == '\0' || strlen(name) > MAX_HEADER_NAME)
		return false;
	return name[strspn(name, "!#$%&'*+-.^_`|~0123456789"
					   "abcdefghijklmnopqrstuvwxyz"
					   "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] == '\0';
}

/* Can this be a header's value: printable ASCII, no blanks at its ends? */
static bool
is_value(const char *value, int len)
{
	if (len == 0 || len > MAX_HEADER_VALUE ||
		value[0] == ' ' || value[len - 1] == ' ')
		return false;
	for (int i = 0; i < len; i++)
		if (value[i] < ' ' || value[i] > '~')
			return false;
	return true;
}

/* Why these cannot be sent as request headers; null if they can. */
const char *
cwh_header_problem(Jsonb *headers)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(headers))
		return "they are not an object";
	if (JB_ROOT_COUNT(headers) > MAX_CUSTOM_HEADERS)
		return psprintf("there are more than %d", MAX_CUSTOM_HEADERS);
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(value.val.string.val, value.val.string.len);
			if (!is_token(name))
				return psprintf("\"%.*s\" is not a header's name",
								pg_mbcliplen(name, strlen(name), 100), name);
			if (is_reserved(name))
				return psprintf("\"%s\" is set by the extension or by HTTP", name);
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString)
				return psprintf("the value of \"%s\" is not a string", name);
			if (!is_value(value.val.string.val, value.val.string.len))
				return psprintf("the value of \"%s\" is not 1 to %d printable ASCII characters in one line, without blanks at its ends",
								name, MAX_HEADER_VALUE);
		}
	}
	return NULL;
}

/*
 * A request has so many header lines at most, besides its webhook's and a
 * connector's own; and what is made for it of their text is no longer than
 * this, besides what the caller says.
 */
#define MAX_LINES		16
#define MAX_LINES_TEXT	1024

/* Begin a request's headers, which may have so many lines and bytes more. */
static void
begin_headers(CwhTransfer *transfer, int lines, size_t len)
{
	if (!cwh_transfer_reserve(transfer, MAX_LINES + lines,
							  MAX_LINES_TEXT + strlen(cwh_user_agent) + len))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
}

/* Add a header line that stays as long as the transfer. */
static void
add_line(CwhTransfer *transfer, const char *line)
{
	struct curl_slist *node = &transfer->headers[transfer->nheaders];

	Assert(transfer->nheaders < transfer->max_headers);
	node->data = unconstify(char *, line);
	node->next = NULL;
	if (transfer->nheaders++ > 0)
		node[-1].next = node;
}

/* Add a header line of three parts. */
static void
add_header(CwhTransfer *transfer, const char *one, const char *two,
		   const char *three)
{
	const char *parts[] = {one, two, three};
	char	   *line = transfer->header_text;

	for (int i = 0; i < lengthof(parts); i++)
	{
		size_t		len = strlen(parts[i]);

		/* begin_headers() was told of everything that has no limit of its own */
		if (len + 1 > transfer->header_room)
			elog(ERROR, "the headers of a request are too long");
		memcpy(transfer->header_text, parts[i], len);
		transfer->header_text += len;
		transfer->header_room -= len;
	}
	*transfer->header_text++ = '\0';
	transfer->header_room--;
	add_line(transfer, line);
}

/* The bytes that the webhook's own headers take. */
static size_t
own_text(const char *token)
{
	return token ? strlen(token) : 0;
}

/* Add the webhook's headers, and that of its auth. */
static void
add_own_headers(CwhTransfer *transfer, const CwhWebhook *webhook,
				const char *token)
{
	for (int i = 0; i < webhook->nheaders; i++)
		add_line(transfer, webhook->headers[i]);
	if (webhook->auth == CWH_AUTH_HEADER)
		add_line(transfer, webhook->auth_line);
	else if (webhook->auth == CWH_AUTH_OAUTH2 && token)
		add_header(transfer, "Authorization: Bearer ", token, "");
}

/*
 * Sign a request: add the header of the sha256= scheme, which a private key has
 * no part in, and give the entry for webhook-signature.
 */
static void
sign(CwhSigner *signer, const char *header, const char *id, int64 unix_time,
	 StringInfo body, CwhTransfer *transfer,
	 char entry[CWH_ASYMMETRIC_SIGNATURE_LEN + 1])
{
	char		hex[CWH_BODY_SIGNATURE_LEN + 1];
	bool		ok;

	if (cwh_signer_is_asymmetric(signer))
		ok = cwh_sign_asymmetric(signer, id, unix_time, body->data, body->len,
								 entry);
	else
	{
		ok = cwh_sign_body(signer, body->data, body->len, hex) &&
			cwh_sign_standard(signer, id, unix_time, body->data, body->len,
							  entry);
		if (ok)
			add_header(transfer, header, ": ", hex);
	}
	if (!ok)
		elog(ERROR, "could not sign a request");
}

/*
 * Why nothing may be sent for a webhook as things are now; null if it may.
 * The settings may have changed since the URL was stored, and a credential may
 * have brought anything into it.
 */
const char *
cwh_request_problem(const CwhWebhook *webhook)
{
	CwhTarget	target;

	if (webhook->problem)
		return webhook->problem;
	return cwh_target_check_url(cwh_target_policy(), webhook->url,
								strlen(webhook->url), &target);
}

/* What all kinds of request have. */
static void
prepare(CwhTransfer *transfer, const CwhWebhook *webhook, const char *url,
		const char *body, size_t body_len)
{
	transfer->url = url;
	transfer->method = NULL;
	transfer->body = body;
	transfer->body_len = body_len;
	transfer->min_response_size = 0;
	transfer->timeout_ms = webhook->timeout_ms;
	transfer->client_certificate = webhook->client_certificate;
	transfer->client_key = webhook->client_key;
}

/* Make a signed request, of one event or of several. */
static void
prepare_signed(CwhTransfer *transfer, const CwhWebhook *webhook,
			   const char *event_type, const pg_uuid_t *message_id, int attempt,
			   const char *deliveries, StringInfo body, TimestampTz now,
			   const char *token)
{
	int64		unix_time = (int64) timestamptz_to_time_t(now);
	char		id[37];
	char		number[32];
	char		signature[CWH_ASYMMETRIC_SIGNATURE_LEN + 1];
	char		previous[CWH_ASYMMETRIC_SIGNATURE_LEN + 2] = "";

	begin_headers(transfer, webhook->nheaders,
				  strlen(event_type) + strlen(deliveries) + own_text(token));
	cwh_uuid_text(message_id, id);
	add_line(transfer, "Content-Type: application/json");
	add_header(transfer, "User-Agent: ", cwh_user_agent, "");
	add_header(transfer, "X-Webhook-Event: ", event_type, "");
	sign(webhook->signer, "X-Webhook-Signature", id, unix_time, body,
		 transfer, signature);
	if (webhook->previous && webhook->previous_until > now)
	{
		previous[0] = ' ';
		sign(webhook->previous, "X-Webhook-Signature-Previous", id, unix_time,
			 body, transfer, previous + 1);
	}
	add_header(transfer, "webhook-id: ", id, "");
	pg_lltoa(unix_time, number);
	add_header(transfer, "webhook-timestamp: ", number, "");
	add_header(transfer, "webhook-signature: ", signature, previous);
	pg_ltoa(attempt, number);
	add_header(transfer, "X-Webhook-Attempt: ", number, "");
	add_header(transfer, "X-Webhook-Delivery: ", deliveries, "");
	/* no wait for "100 Continue" before a large body */
	add_line(transfer, "Expect:");
	add_own_headers(transfer, webhook, token);
	prepare(transfer, webhook, webhook->url, body->data, body->len);
}

/*
 * Make a transfer ready to be started: where to, with which headers, signed as
 * of now.  The body must stay as it is until the transfer has ended.
 */
void
cwh_request_prepare(CwhTransfer *transfer, const CwhWebhook *webhook,
					const char *event_type, const pg_uuid_t *event_id,
					int attempt, int64 delivery_id, StringInfo body,
					TimestampTz now, const char *token)
{
	char		delivery[32];

	pg_lltoa(delivery_id, delivery);
	prepare_signed(transfer, webhook, event_type, event_id, attempt, delivery,
				   body, now, token);
}

/*
 * The same for a batch, whose body is an array of events.  Its webhook-id comes
 * from theirs, so that it stays the same when the same events are tried again
 * together.  It has the form of a UUID of version 8 (RFC 9562), which is for
 * such uses.
 */
void
cwh_request_prepare_batch(CwhTransfer *transfer, const CwhWebhook *webhook,
						  const pg_uuid_t *event_ids, const int64 *delivery_ids,
						  int n, int attempt, StringInfo body, TimestampTz now,
						  const char *token)
{
	StringInfoData deliveries;
	uint64		hash[2];
	pg_uuid_t	id;

	for (int i = 0; i < 2; i++)
		hash[i] = DatumGetUInt64(hash_any_extended((const unsigned char *) event_ids,
												   n * sizeof(pg_uuid_t), i));
	memcpy(id.data, hash, UUID_LEN);
	id.data[6] = (id.data[6] & 0x0f) | 0x80;
	id.data[8] = (id.data[8] & 0x3f) | 0x80;
	initStringInfo(&deliveries);
	for (int i = 0; i < n; i++)
		appendStringInfo(&deliveries, "%s" INT64_FORMAT, i > 0 ? "," : "",
						 delivery_ids[i]);
	prepare_signed(transfer, webhook, "batch", &id, attempt, deliveries.data,
				   body, now, token);
	pfree(deliveries.data);
}

/* Does the webhook, or its auth, set a header of this line's name? */
static bool
is_own_header(const CwhWebhook *webhook, const char *line)
{
	size_t		len = strcspn(line, ":") + 1;

	for (int i = 0; i < webhook->nheaders; i++)
		if (pg_strncasecmp(webhook->headers[i], line, len) == 0)
			return true;
	if (webhook->auth == CWH_AUTH_HEADER)
		return pg_strncasecmp(webhook->auth_line, line, len) == 0;
	return webhook->auth == CWH_AUTH_OAUTH2 &&
		pg_strncasecmp("Authorization:", line, len) == 0;
}

/*
 * The URL of a connector's request.  What the webhook's url and what comes
 * behind it may both have is a query.
 */
static char *
step_url(const CwhWebhook *webhook, const CwhRequest *request)
{
	size_t		len = strlen(webhook->url);
	char	   *url;

	if (!request->own_url)
		return pstrdup(request->url);
	if (request->url[0] == '\0')
		return pstrdup(webhook->url);
	while (len > 0 && webhook->url[len - 1] == '/')
		len--;
	url = psprintf("%.*s%s", (int) len, webhook->url, request->url);
	if (request->url[0] == '?' && memchr(webhook->url, '?', len))
		url[len] = '&';
	return url;
}

/* A body with the member that the webhook's auth puts into it. */
static char *
step_body(const CwhWebhook *webhook, const CwhRequest *request)
{
	bool		empty = request->body->len <= 2;

	return psprintf("{%s%s%s", webhook->auth_line, empty ? "" : ",",
					request->body->data + 1);
}

/*
 * Make a transfer ready for a connector's request.  Returns null, or why that
 * cannot be sent.  Secrets go to the webhook's own url only.  The request must
 * stay until the transfer has ended.
 */
const char *
cwh_request_prepare_step(CwhTransfer *transfer, const CwhWebhook *webhook,
						 CwhRequest *request, const char *token)
{
	const char *problem;
	const char *body = request->body ? request->body->data : NULL;
	CwhTarget	target;

	cwh_request_cleanse(request);
	request->sent_url = step_url(webhook, request);
	problem = cwh_target_check_url(cwh_target_policy(), request->sent_url,
								   strlen(request->sent_url), &target);
	if (problem)
		return problem;
	begin_headers(transfer, webhook->nheaders + request->nheaders,
				  own_text(token));
	/* without a body, libcurl would make up a type */
	add_line(transfer, body ? "Content-Type: application/json" : "Content-Type:");
	add_header(transfer, "User-Agent: ", cwh_user_agent, "");
	add_line(transfer, "Accept: application/json");
	add_line(transfer, "Expect:");
	for (int i = 0; i < request->nheaders; i++)
		if (!request->own_url || !is_own_header(webhook, request->headers[i]))
			add_line(transfer, request->headers[i]);
	if (request->own_url)
	{
		add_own_headers(transfer, webhook, token);
		if (body && webhook->auth == CWH_AUTH_BODY)
			body = request->sent_body = step_body(webhook, request);
	}
	prepare(transfer, webhook, request->sent_url, body,
			body ? strlen(body) : 0);
	if (!request->own_url)
		transfer->client_certificate = transfer->client_key = NULL;
	transfer->method = request->method;
	transfer->min_response_size = MIN_REPLY_SIZE;
	return NULL;
}

/* What was sent of a request has secrets. */
void
cwh_request_cleanse(CwhRequest *request)
{
	if (request->sent_url)
	{
		cwh_cleanse(request->sent_url, strlen(request->sent_url));
		pfree(request->sent_url);
	}
	if (request->sent_body)
	{
		cwh_cleanse(request->sent_body, strlen(request->sent_body));
		pfree(request->sent_body);
	}
	request->sent_url = request->sent_body = NULL;
}

/*
 * Make a transfer ready that asks for an access token (RFC 6749, 4.4).
 * Returns null, or why that cannot be sent.
 */
const char *
cwh_request_prepare_token(CwhTransfer *transfer, const CwhWebhook *webhook)
{
	const char *problem;
	CwhTarget	target;

	problem = cwh_target_check_url(cwh_target_policy(), webhook->token_url,
								   strlen(webhook->token_url), &target);
	if (problem)
		return problem;
	begin_headers(transfer, 0, 0);
	add_line(transfer, "Content-Type: application/x-www-form-urlencoded");
	add_header(transfer, "User-Agent: ", cwh_user_agent, "");
	add_line(transfer, "Accept: application/json");
	add_line(transfer, "Expect:");
	prepare(transfer, webhook, webhook->token_url,
			webhook->token_request, strlen(webhook->token_request));
	transfer->min_response_size = MIN_REPLY_SIZE;
	return NULL;
}

/* The transport's options as the settings now say. */
void
cwh_transport_options(CwhTransportOptions *options)
{
	options->policy = *cwh_target_policy();
	options->max_response_size = cwh_max_response_size;
	options->max_connections = cwh_max_in_flight;
	options->ca_file = cwh_ca_file;
	options->proxy = cwh_proxy;
}

/*
 * Bytes of a reply as text in the database's encoding.  They may be anything:
 * what is not valid, and every NUL, becomes a question mark.
 */
char *
cwh_reply_text(const CwhBytes *bytes)
{
	const unsigned char *p = (const unsigned char *) bytes->data;
	size_t		left = bytes->len;
	StringInfoData result;

	initStringInfo(&result);
	while (left > 0)
	{
		int			len = pg_encoding_verifymbchar(PG_UTF8, (const char *) p, left);

		if (len < 1 || *p == '\0')
		{
			appendStringInfoChar(&result, '?');
			len = 1;
		}
		else
			appendBinaryStringInfo(&result, (const char *) p, len);
		p += len;
		left -= len;
	}
	if (GetDatabaseEncoding() != PG_UTF8)
	{
		/* what the database's encoding lacks would be an error: ASCII only */
		for (int i = 0; i < result.len; i++)
			if (IS_HIGHBIT_SET(result.data[i]))
				result.data[i] = '?';
	}
	return result.data;
}

/* Header lines of a reply as a JSON object; of a repeated one, the last. */
char *
cwh_reply_headers(const CwhBytes *bytes)
{
	char	   *lines = cwh_reply_text(bytes);
	StringInfoData json;
	char	   *line;
	char	   *rest = lines;
	bool		first = true;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	while ((line = strsep(&rest, "\n")) != NULL)
	{
		char	   *colon = strchr(line, ':');
		char	   *value;
		size_t		len;

		if (colon == NULL)
			continue;
		*colon = '\0';
		value = colon + 1 + strspn(colon + 1, " \t");
		len = strlen(value);
		while (len > 0 && strchr(" \t\r", value[len - 1]))
			len--;
		if (!first)
			appendStringInfoChar(&json, ',');
		first = false;
		for (char *c = line; *c; c++)
			*c = pg_ascii_tolower((unsigned char) *c);
		cwh_json_write_string(&json, line, strlen(line));
		appendStringInfoChar(&json, ':');
		cwh_json_write_string(&json, value, len);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Copy a text, or as much of it as fits, and no part of a character. */
void
cwh_copy_text(char *to, const char *from, size_t size)
{
	int			len = pg_mbcliplen(from, strlen(from), size - 1);

	memcpy(to, from, len);
	to[len] = '\0';
}

/* What went wrong, or null if nothing did. */
char *
cwh_outcome_error(const CwhTransfer *transfer)
{
	if (transfer->failed)
		return pstrdup(transfer->error);
	if (cwh_retry_verdict(transfer->status) != CWH_DELIVERED)
		return psprintf("HTTP status %d", transfer->status);
	return NULL;
}
