/*
 * request.c
 *		Events, connectors' requests and token requests as HTTP requests; replies
 *		as text.
 *
 * This is where it is decided which headers a request has, where a webhook's
 * secrets may go (to its own URL only), and what is signed.
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

#include "compat.h"
#include "envelope.h"
#include "request.h"
#include "settings.h"

/* A connector's next request may depend on all of a reply. */
#define MIN_REPLY_SIZE			(256 * 1024)

/*
 * Building requests
 */

/* The lines that any request has, besides its webhook's and a connector's own. */
#define MAX_LINES		16

/* What the texts of those take, besides what the caller says. */
#define MAX_LINES_TEXT	1024

/*
 * Begin a request: a transfer with room for so many more header lines, and for
 * so many bytes of text made for it.  The caller of cwh_make_request() has it at
 * once, to free it after an error.
 */
static CwhTransfer *
begin_request(CwhTransfer **made, const CwhWebhook *webhook, const char *url,
			  int lines, size_t room)
{
	CwhTransfer *transfer;

	transfer = cwh_transfer_new(MAX_LINES + lines,
								MAX_LINES_TEXT + strlen(cwh_user_agent) + room);
	*made = transfer;
	if (transfer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	transfer->request.url = url;
	transfer->request.owner = webhook->owner;
	transfer->request.timeout_ms = webhook->timeout_ms;
	transfer->request.hide_dns_errors = webhook->of_customer;
	return transfer;
}

/* Room for text made for a request, of which begin_request() was told. */
static char *
keep(CwhTransfer *transfer, size_t size)
{
	char	   *room = cwh_transfer_keep(transfer, size);

	if (room == NULL)
		elog(ERROR, "a request is longer than was expected");
	return room;
}

/* Add a header line of three parts. */
static void
add_header(CwhTransfer *transfer, const char *one, const char *two,
		   const char *three)
{
	const char *parts[] = {one, two, three};
	size_t		size = strlen(one) + strlen(two) + strlen(three) + 1;
	char	   *line = keep(transfer, size);
	char	   *to = line;

	for (int i = 0; i < lengthof(parts); i++)
	{
		size_t		len = strlen(parts[i]);

		memcpy(to, parts[i], len);
		to += len;
	}
	*to = '\0';
	cwh_transfer_add_line(transfer, line);
}

/* The lines of every request. */
static void
add_common_lines(CwhTransfer *transfer)
{
	add_header(transfer, "User-Agent: ", cwh_user_agent, "");
	/* no wait for "100 Continue" before a large body */
	cwh_transfer_add_line(transfer, "Expect:");
}

/* Let the request show the webhook's credentials: it goes to its own URL. */
static void
add_credentials(CwhTransfer *transfer, const CwhWebhook *webhook,
				const char *token)
{
	for (int i = 0; i < webhook->nheaders; i++)
		cwh_transfer_add_line(transfer, webhook->headers[i]);
	if (webhook->auth == CWH_AUTH_HEADER)
		cwh_transfer_add_line(transfer, webhook->auth_line);
	else if (webhook->auth == CWH_AUTH_OAUTH2 && token)
		add_header(transfer, "Authorization: Bearer ", token, "");
	transfer->request.client_certificate = webhook->client_certificate;
	transfer->request.client_key = webhook->client_key;
}

/*
 * Why nothing may be sent to a URL as the settings are now; null if it may.
 * They may have changed since the URL was stored, and a credential may have
 * brought anything into it.
 */
static const char *
url_problem(const char *url)
{
	CwhTarget	target;

	return cwh_target_check_url(cwh_target_policy(), url, strlen(url), &target);
}

/*
 * Events
 */

/*
 * Sign a request: add the header of the sha256= scheme, in which a private key
 * has no part, unless it is null, and give the entry for webhook-signature.
 */
static void
sign(CwhSigner *signer, const char *header, const char *id, int64 unix_time,
	 StringInfo body, CwhTransfer *transfer,
	 char entry[CWH_MESSAGE_SIGNATURE_LEN + 1])
{
	char		hex[CWH_BODY_SIGNATURE_LEN + 1];

	if (!cwh_sign_body(signer, body->data, body->len, hex) ||
		!cwh_sign_message(signer, id, unix_time, body->data, body->len, entry))
		elog(ERROR, "could not sign a request");
	if (header && hex[0] != '\0')
		add_header(transfer, header, ": ", hex);
}

/*
 * The webhook-id: the event's id, or that of a batch.  That is made of its
 * events' ids, so that it stays the same when the same events are tried again
 * together, in the form of a UUID of version 8 (RFC 9562, 5.8).
 */
static void
message_id(const CwhMessage *message, char out[37])
{
	pg_uuid_t	id = message->event_ids[0];

	if (message->batch)
	{
		uint64		hash[2];

		for (int i = 0; i < 2; i++)
			hash[i] = DatumGetUInt64(hash_any_extended((const unsigned char *) message->event_ids,
													   message->n * sizeof(pg_uuid_t), i));
		memcpy(id.data, hash, UUID_LEN);
		id.data[6] = (id.data[6] & 0x0f) | 0x80;
		id.data[8] = (id.data[8] & 0x3f) | 0x80;
	}
	cwh_uuid_text(&id, out);
}

/* Bytes that X-Webhook-Delivery takes: the deliveries' ids, comma-separated. */
#define DELIVERIES_LEN(n)	((n) * (MAXINT8LEN + 1))

/* Add that header. */
static void
add_deliveries(CwhTransfer *transfer, const CwhMessage *message)
{
	static const char name[] = "X-Webhook-Delivery: ";
	char	   *line = keep(transfer,
							sizeof(name) + DELIVERIES_LEN(message->n));
	char	   *to = line + strlen(name);

	memcpy(line, name, sizeof(name));
	for (int i = 0; i < message->n; i++)
	{
		if (i > 0)
			*to++ = ',';
		to += pg_lltoa(message->delivery_ids[i], to);
	}
	cwh_transfer_add_line(transfer, line);
}

/* Make a signed request of one event, or of a batch. */
static void
events_request(CwhTransfer **made, const CwhWebhook *webhook,
			   const CwhMessage *message, const char *token)
{
	const char *type = message->batch ? "batch" : message->event_type;
	int64		unix_time = (int64) timestamptz_to_time_t(message->now);
	char		id[37];
	char		number[MAXINT8LEN + 1];
	char		signature[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char		second[CWH_MESSAGE_SIGNATURE_LEN + 2] = "";
	bool		overlap = cwh_secrets_overlap(webhook, message->now);
	bool		swap = overlap && message->previous_first;
	CwhTransfer *transfer;

	transfer = begin_request(made, webhook, webhook->url, webhook->nheaders,
							 strlen(type) + DELIVERIES_LEN(message->n) +
							 (token ? strlen(token) : 0));
	message_id(message, id);
	cwh_transfer_add_line(transfer, "Content-Type: application/json");
	add_header(transfer, "X-Webhook-Event: ", type, "");
	sign(swap ? webhook->previous : webhook->signer, "X-Webhook-Signature", id,
		 unix_time, message->body, transfer, signature);
	if (overlap)
	{
		second[0] = ' ';
		sign(swap ? webhook->signer : webhook->previous, NULL, id, unix_time,
			 message->body, transfer, second + 1);
	}
	add_header(transfer, "webhook-id: ", id, "");
	pg_lltoa(unix_time, number);
	add_header(transfer, "webhook-timestamp: ", number, "");
	add_header(transfer, "webhook-signature: ", signature, second);
	pg_ltoa(message->attempt, number);
	add_header(transfer, "X-Webhook-Attempt: ", number, "");
	add_deliveries(transfer, message);
	add_common_lines(transfer);
	add_credentials(transfer, webhook, token);
	transfer->request.body = message->body->data;
	transfer->request.body_len = message->body->len;
}

/*
 * Connectors' requests
 */

/* Do the webhook's credentials set a header of this line's name? */
static bool
is_credential_header(const CwhWebhook *webhook, const char *line)
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
 * The URL of a connector's request: its own, or the webhook's and what follows
 * it.  Both of these may have a query.
 */
static const char *
step_url(CwhTransfer *transfer, const CwhWebhook *webhook, const CwhStep *step)
{
	size_t		len = strlen(webhook->url);
	char	   *url;

	if (!step->own_url)
		return step->url;
	if (step->url[0] == '\0')
		return webhook->url;
	while (len > 0 && webhook->url[len - 1] == '/')
		len--;
	url = keep(transfer, len + strlen(step->url) + 1);
	memcpy(url, webhook->url, len);
	strcpy(url + len, step->url);
	if (step->url[0] == '?' && memchr(webhook->url, '?', len))
		url[len] = '&';
	return url;
}

/* A body with the member that the webhook's auth puts into it. */
static const char *
step_body(CwhTransfer *transfer, const CwhWebhook *webhook, const CwhStep *step)
{
	bool		empty = step->body->len <= 2;
	size_t		size = strlen(webhook->auth_line) + step->body->len + 2;
	char	   *body = keep(transfer, size);

	snprintf(body, size, "{%s%s%s", webhook->auth_line, empty ? "" : ",",
			 step->body->data + 1);
	return body;
}

/*
 * Make a connector's request.  Only one that goes to the webhook's own URL
 * shows its credentials.
 */
static void
step_request(CwhTransfer **made, const CwhWebhook *webhook,
			 const CwhStep *step, const char *token)
{
	const char *body = step->body ? step->body->data : NULL;
	bool		auth_in_body = body && step->own_url &&
		webhook->auth == CWH_AUTH_BODY;
	size_t		room = token ? strlen(token) : 0;
	CwhTransfer *transfer;

	if (step->own_url)
		room += strlen(webhook->url) + strlen(step->url) + 1;
	if (auth_in_body)
		room += strlen(webhook->auth_line) + step->body->len + 2;
	transfer = begin_request(made, webhook, NULL,
							 webhook->nheaders + step->nheaders, room);
	transfer->request.url = step_url(transfer, webhook, step);
	/* without a body, libcurl would make up a type */
	cwh_transfer_add_line(transfer, body ? "Content-Type: application/json" :
						  "Content-Type:");
	cwh_transfer_add_line(transfer, "Accept: application/json");
	add_common_lines(transfer);
	for (int i = 0; i < step->nheaders; i++)
		if (!step->own_url || !is_credential_header(webhook, step->headers[i]))
			cwh_transfer_add_line(transfer, step->headers[i]);
	if (step->own_url)
		add_credentials(transfer, webhook, token);
	if (auth_in_body)
		body = step_body(transfer, webhook, step);
	transfer->request.method = step->method;
	transfer->request.body = body;
	transfer->request.body_len = body ? strlen(body) : 0;
	transfer->request.min_response_size = MIN_REPLY_SIZE;
}

/*
 * Tokens
 */

/* Do two URLs lead to the same host and port? */
static bool
is_same_host(const char *a, const char *b)
{
	CwhTarget	left;
	CwhTarget	right;

	return cwh_target_check_url(cwh_target_policy(), a, strlen(a), &left) == NULL &&
		cwh_target_check_url(cwh_target_policy(), b, strlen(b), &right) == NULL &&
		left.port == right.port && strcmp(left.host, right.host) == 0;
}

/*
 * Make a request for an access token (RFC 6749, 4.4).  The certificate is for
 * the webhook's own host, and is shown to no other.
 */
static void
token_request(CwhTransfer **made, const CwhWebhook *webhook)
{
	CwhTransfer *transfer;

	transfer = begin_request(made, webhook, webhook->token_url, 0, 0);
	cwh_transfer_add_line(transfer, "Content-Type: application/x-www-form-urlencoded");
	cwh_transfer_add_line(transfer, "Accept: application/json");
	add_common_lines(transfer);
	if (is_same_host(webhook->url, webhook->token_url))
	{
		transfer->request.client_certificate = webhook->client_certificate;
		transfer->request.client_key = webhook->client_key;
	}
	transfer->request.body = webhook->token_request;
	transfer->request.body_len = strlen(webhook->token_request);
	transfer->request.min_response_size = MIN_REPLY_SIZE;
}

/*
 * Make a transfer, ready to be started: of the connector's request (step), or of
 * events (message), or with neither of the request for an access token.  False
 * if it may not be sent; *problem says why, and *made is null.  What the
 * arguments point to must stay as it is until the transfer has been reaped or
 * freed.
 */
bool
cwh_make_request(CwhTransfer **made, const CwhWebhook *webhook,
				 const CwhStep *step, const CwhMessage *message,
				 const char *token, const char **problem)
{
	*made = NULL;
	*problem = webhook->problem ? webhook->problem : url_problem(webhook->url);
	if (*problem)
		return false;
	if (step)
		step_request(made, webhook, step, token);
	else if (message)
		events_request(made, webhook, message, token);
	else
		token_request(made, webhook);
	*problem = url_problem((*made)->request.url);
	if (*problem == NULL)
		return true;
	cwh_transfer_free(*made);
	*made = NULL;
	return false;
}

/*
 * Replies
 */

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
