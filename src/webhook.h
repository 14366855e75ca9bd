/*
 * webhook.h
 *		Webhooks as sending needs them: loaded, with their secrets filled in.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_WEBHOOK_H
#define CWH_WEBHOOK_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/palloc.h"
#include "utils/uuid.h"

#include "computed.h"
#include "decision.h"
#include "rules.h"
#include "sign.h"

/* How requests show who sends them. */
typedef enum CwhAuth
{
	CWH_AUTH_NONE,
	CWH_AUTH_HEADER,			/* a header that is always the same */
	CWH_AUTH_BODY,				/* a member of the body */
	CWH_AUTH_OAUTH2				/* a token that must be asked for */
} CwhAuth;

/* A computed value in a header's line. */
typedef struct CwhHeaderPart
{
	int			header;			/* the line's number */
	size_t		at;				/* where in the line it is inserted */
	CwhComputed which;
} CwhHeaderPart;

typedef struct CwhWebhook
{
	pg_uuid_t	id;
	MemoryContext context;		/* of this struct and all it points to */
	char	   *name;
	char	   *chatbot_id;		/* null: every chatbot's events */
	uint64		owner;			/* a hash of that, or 0 */
	char	   *url;			/* placeholders filled in: secret */
	bool		enabled;
	bool		of_customer;	/* it has a chatbot_id */
	const char *problem;		/* why nothing can be sent for it, or null */
	const char *noted;			/* the problem that its health shows, or null */
	char	  **headers;		/* "Name: value", filled in: secret */
	int			nheaders;
	CwhHeaderPart *parts;		/* their computed values, in order */
	int			nparts;
	bool		standard_headers;	/* no X-Webhook-... headers */
	CwhRetryPolicy retry;
	long		timeout_ms;
	int			max_in_flight;
	double		rate_limit;		/* deliveries a second; 0: no limit */
	int			batch_size;		/* deliveries in a request; 1: no batches */
	int64		batch_window_ms;	/* the first waits this long for others */
	bool		ordered;
	bool		proven;			/* the last attempt at it succeeded */
	TimestampTz updated_at;
	bool		is_signed;		/* requests to its url are signed */
	CwhSigner  *signer;			/* null: there is no secret */
	CwhSigner  *previous;		/* null: no secret overlaps */
	TimestampTz previous_until;
	uint64		secrets;		/* a hash of all its secrets */
	char	   *client_certificate; /* PEM, or null */
	char	   *client_key;		/* PEM, or null: in the certificate */

	CwhAuth		auth;
	char	   *auth_line;		/* a header's line, or a member's text: secret */
	char	   *token_url;		/* filled in: secret */
	char	   *token_request;	/* body for the token_url: secret */

	/* for connectors but "webhook" */
	char	   *connector;		/* its name; null: the event itself is sent */
	char	   *function;		/* null: there is no such connector */
	CwhRules	rules;
	char	   *url_template;	/* the url as its owner wrote it */
	Jsonb	   *argument;		/* the webhook as the function gets it */

	/* requests under way that point into it; see cwh_webhook_release() */
	int			users;
	bool		retired;		/* a newer version has taken its place */
} CwhWebhook;

/* The most deliveries in a request: the limit of webhook.batch_size. */
#define CWH_MAX_BATCH	100

/* What was recorded about a webhook. */
typedef struct CwhRecorded
{
	bool		disabled;
	bool		noted;			/* its problem, or that it has none */
	bool		is_new;			/* the problem was not noted before */
} CwhRecorded;

/* All of these are called within a transaction that is connected to SPI. */
extern void cwh_webhook_load(const pg_uuid_t *ids, int n, MemoryContext parent,
							 void (*each) (void *context, CwhWebhook *webhook),
							 void *context);
extern void cwh_webhook_find(const pg_uuid_t *ids, int n, bool deleted,
							 void (*each) (void *context, const pg_uuid_t *id),
							 void *context);
extern void cwh_webhook_record(const pg_uuid_t *id, const char *disable_reason,
							   bool note, const char *problem,
							   CwhRecorded *done);

extern void cwh_webhook_free(CwhWebhook *webhook);

/* A request points into the webhook no more. */
static inline void
cwh_webhook_release(CwhWebhook *webhook)
{
	if (--webhook->users == 0 && webhook->retired)
		cwh_webhook_free(webhook);
}

/* A newer version has taken its place: free it with its last request. */
static inline void
cwh_webhook_retire(CwhWebhook *webhook)
{
	webhook->retired = true;
	if (webhook->users == 0)
		cwh_webhook_free(webhook);
}

#endif							/* CWH_WEBHOOK_H */
