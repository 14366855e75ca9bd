/*
 * exchange.h
 *		The requests and replies of one attempt, token requests included.
 *
 * A worker's attempt (attempt.c) and test_webhook() (trial.c) step through an
 * exchange by these functions: send a request; when it has ended, read how, and
 * decide what follows.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_EXCHANGE_H
#define CWH_EXCHANGE_H

#include "request.h"

/*
 * An access token (OAuth 2.0), and what is known of getting one.  Only
 * exchange.c writes these.
 */
typedef struct CwhToken
{
	MemoryContext context;		/* of the value; set by whoever makes this */
	char	   *value;			/* or null; secret */
	uint64		number;			/* counts tokens, and what outdates them */
	TimestampTz until;			/* not used after */
	TimestampTz since;			/* when it was received */
	bool		hopeless;		/* a new one was refused, the last time */
	bool		requested;		/* one is being asked for */
} CwhToken;

/* Only exchange.c writes these, but for "step", which the connector fills in. */
typedef struct CwhExchange
{
	MemoryContext context;		/* of step and replies, or null: no connector */
	CwhStep    *step;			/* the connector's next request; null: ask it */
	Jsonb	   *replies;		/* to the requests before; null: none */
	int			earlier_ms;		/* that those of this attempt took */
	CwhTransfer *transfer;		/* the last request, or null */
	bool		for_token;		/* it asks for a token */
	bool		token_renewed;	/* within this attempt */
	uint64		token_number;	/* of the token that it was sent with */
} CwhExchange;

extern bool cwh_token_usable(CwhToken *token);
extern void cwh_token_outdate(CwhToken *token);

extern bool cwh_exchange_send(CwhExchange *exchange, const CwhWebhook *webhook,
							  CwhToken *token, const CwhMessage *message,
							  void *owner, const char **problem);
extern void cwh_exchange_read(const CwhExchange *exchange, CwhEnding *ending);
extern void cwh_exchange_decide(CwhExchange *exchange,
								const CwhWebhook *webhook, CwhToken *token,
								const CwhEnding *ending, CwhAttempt *attempt,
								CwhDecision *decision);
extern void cwh_exchange_keep_replies(CwhExchange *exchange,
									  const Jsonb *replies);
extern void cwh_exchange_reset(CwhExchange *exchange);

#endif							/* CWH_EXCHANGE_H */
