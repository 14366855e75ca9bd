/*
 * request.h
 *		Events, connectors' requests and token requests as HTTP requests; replies
 *		as text.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_REQUEST_H
#define CWH_REQUEST_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "transport.h"
#include "webhook.h"

/* A request as a connector wants it, without any secret. */
typedef struct CwhStep
{
	const char *method;
	bool		own_url;		/* at the webhook's own url */
	char	   *url;			/* what follows that, or all of it */
	char	  **headers;		/* "Name: value" */
	int			nheaders;
	StringInfo	body;			/* null: none */
	bool		last;			/* no other follows */
} CwhStep;

/* Events, and what a request says of them in its headers. */
typedef struct CwhMessage
{
	bool		batch;			/* the body is an array of events */
	const char *event_type;		/* of the one event */
	int			n;
	const pg_uuid_t *event_ids;
	const int64 *delivery_ids;
	int			attempt;		/* from 1 */
	StringInfo	body;
	TimestampTz now;			/* signed as of then */
} CwhMessage;

extern const char *cwh_header_problem(Jsonb *headers);
extern void cwh_append_url_encoded(StringInfo out, const char *value);

/*
 * Each of these makes a transfer, ready to be started, or returns null and says
 * why the request may not be sent.  What the webhook, the message or the step
 * points to must stay as it is until the transfer has been reaped or freed.
 */
extern CwhTransfer *cwh_request_events(const CwhWebhook *webhook,
									   const CwhMessage *message,
									   const char *token,
									   const char **problem);
extern CwhTransfer *cwh_request_step(const CwhWebhook *webhook,
									 const CwhStep *step, const char *token,
									 const char **problem);
extern CwhTransfer *cwh_request_token(const CwhWebhook *webhook,
									  const char **problem);

extern void cwh_transport_options(CwhTransportOptions *options);
extern char *cwh_reply_text(const CwhBytes *bytes);
extern char *cwh_reply_headers(const CwhBytes *bytes);

#endif							/* CWH_REQUEST_H */
