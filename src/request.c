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
 * What a request says of the events that it is about
 */

/*
 * The webhook-id: the event's id, or that of a batch.  That is made of its
 * events' ids, so that it stays the same when the same events are tried again
 * together, in the form of a UUID of version 8 (RFC 9562, 5.8).
 */
static void
message_id(const CwhMessage *message, char out[CWH_UUID_LEN + 1])
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

/* The time for its signatures, in seconds since 1970. */
static int64
message_time(const CwhMessage *message)
{
	return (int64) timestamptz_to_time_t(message->now);
}

/* The type of its event. */
static const char *
event_type(const CwhMessage *message)
{
	return message->batch ? "batch" : message->event_type;
}

/* Bytes that the deliveries' ids take, comma-separated. */
#define DELIVERIES_LEN(n)	((n) * (MAXINT8LEN + 1))

/* Write the deliveries' ids, comma-separated. */
static void
write_deliveries(const CwhMessage *message, char *to)
{
	for (int i = 0; i < message->n; i++)
	{
		if (i > 0)
			*to++ = ',';
		to += pg_lltoa(message->delivery_ids[i], to);
	}
}

/* The maximum number of signers: for the current and the previous secrets. */
#define MAX_SIGNERS		2

/*
 * Choose a request's signers; returns how many there are.  Headers with room
 * for only one signature, X-Webhook-Signature and those with an HMAC, use the
 * first.
 */
static int
choose_signers(const CwhWebhook *webhook, const CwhMessage *message,
			   CwhSigner *signers[MAX_SIGNERS])
{
	bool		overlap = cwh_secrets_overlap(webhook, message->now);
	bool		swap = overlap && message->previous_first;

	signers[0] = swap ? webhook->previous : webhook->signer;
	signers[1] = swap ? webhook->signer : webhook->previous;
	return overlap ? 2 : 1;
}

/*
 * The webhook's own headers
 */

/* Bytes that these take beyond what the webhook holds of them. */
static size_t
headers_room(const CwhWebhook *webhook, const CwhMessage *message)
{
	size_t		room = 0;

	for (int i = 0; i < webhook->nparts; i++)
	{
		const CwhHeaderPart *part = &webhook->parts[i];

		/* the list of deliveries is written first, and then copied */
		if (i == 0)
			room += DELIVERIES_LEN(message->n) + 1;
		if (i == 0 || part->header != part[-1].header)
			room += strlen(webhook->headers[part->header]) + 1;
		room += cwh_computed_size(part->which, strlen(event_type(message)),
								  message->n);
	}
	return room;
}

/* A computed value of a request, as text. */
static const char *
computed_value(CwhComputedValues *values, CwhComputed which,
			   CwhSigner *signer, const CwhTransfer *transfer)
{
	if (values->values[which] == NULL &&
		!cwh_computed_hmac(values, which, signer, transfer->request.body,
						   transfer->request.body_len))
		elog(ERROR, "could not compute a header");
	return values->values[which];
}

/*
 * Add a header line with its computed values for this request, parts[0] and
 * those that follow.  Returns how many it has.
 */
static int
add_computed_header(CwhTransfer *transfer, const CwhWebhook *webhook,
					const CwhHeaderPart *parts, CwhSigner *signer,
					CwhComputedValues *values)
{
	const char *from = webhook->headers[parts->header];
	size_t		size = strlen(from) + 1;
	int			left = webhook->nparts - (parts - webhook->parts);
	size_t		done = 0;
	int			n;
	char	   *line;
	char	   *to;

	for (n = 0; n < left && parts[n].header == parts->header; n++)
		size += strlen(computed_value(values, parts[n].which, signer, transfer));
	to = line = keep(transfer, size);
	for (int i = 0; i < n; i++)
	{
		memcpy(to, from + done, parts[i].at - done);
		to += parts[i].at - done;
		done = parts[i].at;
		to = stpcpy(to, values->values[parts[i].which]);
	}
	strcpy(to, from + done);
	cwh_transfer_add_line(transfer, line);
	return n;
}

/* Add the webhook's headers, with computed values filled in. */
static void
add_computed_headers(CwhTransfer *transfer, const CwhWebhook *webhook,
					 const CwhMessage *message)
{
	CwhSigner  *signers[MAX_SIGNERS];
	CwhComputedValues values = {0};
	char		id[CWH_UUID_LEN + 1];
	char		timestamp[MAXINT8LEN + 1];
	char		attempt[MAXINT8LEN + 1];
	char	   *deliveries = keep(transfer, DELIVERIES_LEN(message->n) + 1);
	int			part = 0;

	(void) choose_signers(webhook, message, signers);
	/* the previous may be a private key alone, of before signing was changed */
	if (signers[0] && !cwh_signer_has_secret(signers[0]))
		signers[0] = webhook->signer;
	message_id(message, id);
	pg_lltoa(message_time(message), timestamp);
	pg_ltoa(message->attempt, attempt);
	write_deliveries(message, deliveries);
	values.values[CWH_COMPUTED_ID] = id;
	values.values[CWH_COMPUTED_TIMESTAMP] = timestamp;
	values.values[CWH_COMPUTED_ATTEMPT] = attempt;
	values.values[CWH_COMPUTED_DELIVERY] = deliveries;
	values.values[CWH_COMPUTED_TYPE] = event_type(message);
	for (int i = 0; i < webhook->nheaders; i++)
		if (part < webhook->nparts && webhook->parts[part].header == i)
			part += add_computed_header(transfer, webhook, &webhook->parts[part],
										signers[0], &values);
		else
			cwh_transfer_add_line(transfer, webhook->headers[i]);
}

/*
 * Add the webhook's credentials to a request to its own URL.  The body is
 * already there, since headers may have an HMAC of it.
 */
static void
add_credentials(CwhTransfer *transfer, const CwhWebhook *webhook,
				const CwhMessage *message, const char *token)
{
	if (webhook->nparts > 0)
		add_computed_headers(transfer, webhook, message);
	else
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
 * Events
 */

/* Add the body signature of a secret; a private key makes none. */
static void
add_body_signature(CwhTransfer *transfer, const char *header,
				   CwhSigner *signer)
{
	char		signature[CWH_BODY_SIGNATURE_LEN + 1];

	if (!cwh_sign_body(signer, transfer->request.body,
					   transfer->request.body_len, signature))
		elog(ERROR, "could not sign a request");
	if (signature[0] != '\0')
		add_header(transfer, header, signature, "");
}

/* Add the three headers of Standard Webhooks. */
static void
add_standard_headers(CwhTransfer *transfer, const CwhMessage *message,
					 CwhSigner **signers, int nsigners)
{
	int64		unix_time = message_time(message);
	char		id[CWH_UUID_LEN + 1];
	char		number[MAXINT8LEN + 1];
	char		signatures[MAX_SIGNERS][CWH_MESSAGE_SIGNATURE_LEN + 2] = {0};

	message_id(message, id);
	pg_lltoa(unix_time, number);
	for (int i = 0; i < nsigners; i++)
	{
		if (i > 0)
			signatures[i][0] = ' ';
		if (!cwh_sign_message(signers[i], id, unix_time,
							  transfer->request.body,
							  transfer->request.body_len,
							  signatures[i] + (i > 0)))
			elog(ERROR, "could not sign a request");
	}
	add_header(transfer, "webhook-id: ", id, "");
	add_header(transfer, "webhook-timestamp: ", number, "");
	add_header(transfer, "webhook-signature: ", signatures[0], signatures[1]);
}

/* Add our X-Webhook-... headers, which some gateways refuse. */
static void
add_own_headers(CwhTransfer *transfer, const CwhMessage *message,
				CwhSigner **signers)
{
	static const char name[] = "X-Webhook-Delivery: ";
	char		number[MAXINT8LEN + 1];
	char	   *line;

	add_header(transfer, "X-Webhook-Event: ", event_type(message), "");
	add_body_signature(transfer, "X-Webhook-Signature: ", signers[0]);
	pg_ltoa(message->attempt, number);
	add_header(transfer, "X-Webhook-Attempt: ", number, "");
	line = keep(transfer, sizeof(name) + DELIVERIES_LEN(message->n));
	memcpy(line, name, sizeof(name));
	write_deliveries(message, line + strlen(name));
	cwh_transfer_add_line(transfer, line);
}

/*
 * Sign the body of a request to the webhook's own URL, whatever its shape: add
 * the headers by which receivers verify it and recognize repeats.  The body is
 * already there.
 */
static void
add_signatures(CwhTransfer *transfer, const CwhWebhook *webhook,
			   const CwhMessage *message)
{
	CwhSigner  *signers[MAX_SIGNERS];
	int			nsigners = choose_signers(webhook, message, signers);

	add_standard_headers(transfer, message, signers, nsigners);
	if (!webhook->standard_headers)
		add_own_headers(transfer, message, signers);
}

/* Size of the text that add_signatures() adds, besides MAX_LINES_TEXT. */
static size_t
signature_room(const CwhMessage *message)
{
	return strlen(event_type(message)) + DELIVERIES_LEN(message->n);
}

/* Make a signed request of one event, or of a batch. */
static void
events_request(CwhTransfer **made, const CwhWebhook *webhook,
			   const CwhMessage *message, const char *token)
{
	CwhTransfer *transfer;

	transfer = begin_request(made, webhook, webhook->url, webhook->nheaders,
							 signature_room(message) +
							 headers_room(webhook, message) +
							 (token ? strlen(token) : 0));
	transfer->request.body = message->body->data;
	transfer->request.body_len = message->body->len;
	cwh_transfer_add_line(transfer, "Content-Type: application/json");
	add_signatures(transfer, webhook, message);
	add_common_lines(transfer);
	add_credentials(transfer, webhook, message, token);
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
 * shows its credentials, and a signature made with its secret: so those of a
 * signed connector are all signed, with a body or without, and no others.
 */
static void
step_request(CwhTransfer **made, const CwhWebhook *webhook,
			 const CwhStep *step, const CwhMessage *message,
			 const char *token)
{
	bool		is_signed = webhook->is_signed && step->own_url;
	const char *body = step->body ? step->body->data : NULL;
	bool		auth_in_body = body && step->own_url &&
		webhook->auth == CWH_AUTH_BODY;
	size_t		room = token ? strlen(token) : 0;
	CwhTransfer *transfer;

	if (step->own_url)
		room += strlen(webhook->url) + strlen(step->url) + 1 +
			headers_room(webhook, message);
	if (auth_in_body)
		room += strlen(webhook->auth_line) + step->body->len + 2;
	if (is_signed)
		room += signature_room(message);
	transfer = begin_request(made, webhook, NULL,
							 webhook->nheaders + step->nheaders, room);
	transfer->request.url = step_url(transfer, webhook, step);
	if (auth_in_body)
		body = step_body(transfer, webhook, step);
	transfer->request.method = step->method;
	transfer->request.body = body;
	transfer->request.body_len = body ? strlen(body) : 0;
	/* without a body, libcurl would make up a type */
	cwh_transfer_add_line(transfer, !body ? "Content-Type:" :
						  step->content_type ? step->content_type :
						  "Content-Type: application/json");
	if (is_signed)
		add_signatures(transfer, webhook, message);
	cwh_transfer_add_line(transfer, "Accept: application/json");
	add_common_lines(transfer);
	for (int i = 0; i < step->nheaders; i++)
		if (!step->own_url || !is_credential_header(webhook, step->headers[i]))
			cwh_transfer_add_line(transfer, step->headers[i]);
	if (step->own_url)
		add_credentials(transfer, webhook, message, token);
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
 * Make a transfer, ready to be started: of the connector's request (step) for
 * events (message), or without one of the events themselves, or with neither of
 * the request for an access token.  False if it may not be sent; *problem says
 * why, and *made is null.  What the arguments point to must stay as it is until
 * the transfer has been reaped or freed.
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
		step_request(made, webhook, step, message, token);
	else if (message)
		events_request(made, webhook, message, token);
	else
		token_request(made, webhook);
	/* like the credentials, to the webhook's own URL only */
	if (message && message->traceparent && (step == NULL || step->own_url))
		add_header(*made, "traceparent: ", message->traceparent, "");
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

	/* nearly all are valid */
	if (bytes->len > 0 && GetDatabaseEncoding() == PG_UTF8 &&
		pg_encoding_verifymbstr(PG_UTF8, bytes->data, bytes->len) == bytes->len)
		return pnstrdup(bytes->data, bytes->len);

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
