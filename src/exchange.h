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

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "request.h"
#include "vault.h"

/*
 * An access token (OAuth 2.0), and what is known of getting one.  It is
 * written by exchange.c and the functions below.
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

/*
 * Written by exchange.c and the functions below, but for "context" and "step",
 * which is what the connector wants to send.
 */
typedef struct CwhExchange
{
	MemoryContext context;		/* of step and replies; null until needed */
	CwhStep    *step;			/* the connector's next request; null: ask it */
	Jsonb	   *replies;		/* to the requests before; null: none */
	Jsonb	   *known;			/* what was remembered when the step was made,
								 * if it need not be written again, or null */
	Jsonb	   *learned;		/* what the last reply has taught, until that is
								 * settled; null: nothing */
	const char *note;			/* what else the attempt's row says, or null */
	int			earlier_ms;		/* that those of this attempt took */
	CwhTransfer *transfer;		/* the last request, or null */
	bool		for_token;		/* it asks for a token */
	bool		token_renewed;	/* within this attempt */
	uint64		token_number;	/* of the token that it was sent with */
	bool		is_signed;		/* the last request was signed */
	TimestampTz overlap_until;	/* two secrets signed it, which overlap until
								 * then; 0: only one */
	bool		previous_first; /* the previous secret came first */
	bool		secret_known;	/* before the first try, it was known which one
								 * the receiver accepts */
	int			refusals;		/* refused tries of this request */
} CwhExchange;

extern bool cwh_exchange_send(CwhExchange *exchange, const CwhWebhook *webhook,
							  CwhToken *token, const CwhMessage *message,
							  void *owner, const char **problem);
extern void cwh_exchange_end(CwhExchange *exchange, const CwhWebhook *webhook,
							 CwhToken *token, bool unsent, CwhEnding *ending,
							 CwhAttempt *attempt, CwhDecision *decision);

/* Overwrite a token that is not to be used any more. */
static inline void
cwh_token_forget(CwhToken *token)
{
	if (token->value == NULL)
		return;
	cwh_cleanse(token->value, strlen(token->value));
	pfree(token->value);
	token->value = NULL;
}

/* Is there a token, and has it not expired? */
static inline bool
cwh_token_usable(CwhToken *token)
{
	if (token->value && token->until <= GetCurrentTimestamp())
		cwh_token_forget(token);
	return token->value != NULL;
}

/* Tokens so far, and one that is being asked for, are not to be used. */
static inline void
cwh_token_outdate(CwhToken *token)
{
	cwh_token_forget(token);
	token->number++;
}

/* A copy of a value that lives as long as the exchange. */
static inline Jsonb *
cwh_exchange_keep(const CwhExchange *exchange, const Jsonb *value)
{
	Jsonb	   *copy = MemoryContextAlloc(exchange->context, VARSIZE(value));

	memcpy(copy, value, VARSIZE(value));
	return copy;
}

/* The last transfer is not needed any more. */
static inline void
cwh_exchange_drop(CwhExchange *exchange)
{
	if (exchange->transfer)
		cwh_transfer_free(exchange->transfer);
	exchange->transfer = NULL;
}

/* Forget what is left of an exchange; its context is the caller's. */
static inline void
cwh_exchange_reset(CwhExchange *exchange)
{
	cwh_exchange_drop(exchange);
	memset(exchange, 0, sizeof(CwhExchange));
}

#endif							/* CWH_EXCHANGE_H */
