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

#include "settings.h"
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
	char	   *content_type;	/* "Content-Type: value"; null: that of JSON */
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
	const char *traceparent;	/* or null */
	bool		previous_first; /* sign with the previous secret before the
								 * current one, while they overlap */
} CwhMessage;


/* Are a webhook's requests signed with two secrets at that time? */
static inline bool
cwh_secrets_overlap(const CwhWebhook *webhook, TimestampTz now)
{
	return webhook->previous && webhook->previous_until > now;
}

extern bool cwh_make_request(CwhTransfer **made, const CwhWebhook *webhook,
							 const CwhStep *step, const CwhMessage *message,
							 const char *token, const char **problem);
extern char *cwh_reply_text(const CwhBytes *bytes);

/* The transport's options as the settings now say. */
static inline void
cwh_transport_options(CwhTransportOptions *options, int max_connections)
{
	options->policy = *cwh_target_policy();
	options->max_response_size = cwh_max_response_size;
	options->max_connections = max_connections;
	options->ca_file = cwh_ca_file;
	options->proxy = cwh_proxy;
}

#endif							/* CWH_REQUEST_H */
