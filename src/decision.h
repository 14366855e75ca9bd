/*
 * decision.h
 *		What follows from the end of a request.  Pure.
 *
 * The caller describes how a request ended (CwhEnding) and the attempt that it
 * belongs to (CwhAttempt); cwh_decide() says in one struct (CwhDecision) what
 * follows for the delivery, the access token, and the webhook's circuit
 * breaker and window.  The caller applies that once.
 *
 * A request for a batch is the attempt at several deliveries, which may have
 * made different numbers of retries: decide for each of them, and apply the
 * webhook's part of the first decision only.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DECISION_H
#define CWH_DECISION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "retry.h"

/* What a reply, or its absence, means. */
typedef enum CwhVerdict
{
	CWH_DELIVERED,				/* 2xx */
	CWH_RETRY,					/* may work later: network errors, 408, 425,
								 * 429, 5xx */
	CWH_DEAD,					/* will not work: every other status */
	CWH_DISABLE					/* 410: the receiver wants no more requests */
} CwhVerdict;

/* What becomes of a delivery. */
typedef enum CwhOutcome
{
	CWH_OUTCOME_DELIVERED,
	CWH_OUTCOME_RETRY,
	CWH_OUTCOME_DEAD,
	CWH_OUTCOME_CANCELED,		/* was not tried */
	CWH_OUTCOME_STEP			/* not over: one of its requests succeeded */
} CwhOutcome;

/* A connector's rule for what a reply means; see the table connector. */
typedef struct CwhRule
{
	int			nstatuses;
	int		   *statuses;
	int			step;			/* from 1; 0: any */
	char	   *contains;		/* UTF-8, not empty; null: anything */
	bool		has_path;		/* a path must match, too; the caller evaluates
								 * it, as this file knows no jsonpath */
	bool		only_remembers;	/* it has no "means", and judges nothing */
	CwhVerdict	means;
	int			wait_s;			/* minimum wait before a retry; 0: not given */
	char	   *wait_key;		/* the body's key that has the wait, or null */
} CwhRule;

/* What a reply's header webhook-delivery asks for. */
typedef enum CwhOrder
{
	CWH_ORDER_NONE,
	CWH_ORDER_ABORT,			/* no retry of this delivery */
	CWH_ORDER_DISABLE			/* no more requests */
} CwhOrder;

/* How a request ended. */
typedef enum CwhEnd
{
	CWH_END_REPLY,				/* with a whole reply */
	CWH_END_FAILED,				/* without a whole reply */
	CWH_END_REFUSED,			/* not sent: the address policy or the
								 * webhook's own settings forbid it */
	CWH_END_STARVED,			/* not sent: no descriptor was free */
	CWH_END_NOTHING				/* not made: the connector has nothing (more)
								 * to send */
} CwhEnd;

typedef struct CwhEnding
{
	CwhEnd		end;
	int			status;			/* of the reply, even of part of one; else 0 */
	const char *error;			/* if it failed or was refused: why */
	int64_t		retry_after_s;	/* -1 if the reply had none */
	CwhOrder	order;			/* of the receiver; see cwh_reply_order() */
	const char *body;			/* of the reply, as far as it was read */
	size_t		body_len;
	bool		cut_off;		/* that is not all of it */
	const char *unread;			/* why rules with a path could not be applied,
								 * or null: the body was cut off, say */
	const bool *paths;			/* for each rule: does its path match?  Null:
								 * none does */
	const char *content_type;	/* of the reply, or null; only for messages */
	const char *words;			/* the body's first ones, likewise: valid text,
								 * which may have any control characters */
	bool		for_token;		/* it asked for an access token */
	const char *token_problem;	/* if it did: why a 2xx reply has none; null:
								 * it has one */
} CwhEnding;

/* The attempt that the request belongs to. */
typedef struct CwhAttempt
{
	const CwhRetryPolicy *retry;
	int			retries;		/* made before this attempt */
	int64_t		last_wait_ms;	/* before this attempt; 0: none */
	double		random01;		/* for the next wait: 0 to less than 1 */
	const CwhRule *rules;		/* of the connector */
	int			nrules;
	int			step;			/* the request's number, from 1 */
	bool		more;			/* the connector may ask for another one */
	bool		has_token;		/* requests have an access token (OAuth 2.0) */
	bool		token_renewed;	/* for this request, after a refusal */
	bool		token_hopeless; /* renewing it did not help a moment ago */
	bool		is_signed;		/* the request was signed */
	bool		outdated;		/* the webhook's secrets may have changed since
								 * it was sent */
	bool		overlap;		/* it was signed with two secrets */
	bool		secret_known;	/* before the first try, it was known which of
								 * them the receiver accepts */
	int			refusals;		/* earlier tries that were refused */
	bool		batch;			/* others are decided after this one */
} CwhAttempt;

/* What follows for the delivery. */
typedef enum CwhNext
{
	CWH_NEXT_AGAIN,				/* the attempt goes on: send the request
								 * (again), once there is a token or a
								 * descriptor */
	CWH_NEXT_STEP,				/* keep the reply, and ask the connector for
								 * the next request */
	CWH_NEXT_SETTLE				/* the attempt is over */
} CwhNext;

/* What follows for the access token. */
typedef enum CwhTokenFate
{
	CWH_TOKEN_KEEP,
	CWH_TOKEN_TAKE,				/* take it from the reply */
	CWH_TOKEN_RENEW,			/* forget it, and ask for another */
	CWH_TOKEN_HOPELESS			/* another was refused as well, so do not
								 * renew it for a while; a success (proven)
								 * ends that */
} CwhTokenFate;

/*
 * What follows for the secrets of a signed request.  A receiver that knows
 * only one secret refuses signatures that are made with the other.
 */
typedef enum CwhSecretFate
{
	CWH_SECRET_KEEP,
	CWH_SECRET_SWAP,			/* try again with the other one first */
	CWH_SECRET_RELOAD,			/* try again with the webhook as it is now */
	CWH_SECRET_LEARN			/* begin with this one until the overlap ends */
} CwhSecretFate;

/* What the webhook's circuit breaker learns. */
typedef enum CwhSignal
{
	CWH_SIGNAL_NONE,
	CWH_SIGNAL_ANSWERED,		/* the receiver is up */
	CWH_SIGNAL_FAILED,
	CWH_SIGNAL_CHANGED			/* forget what it has learned: the webhook is
								 * another; decided by no end of a request */
} CwhSignal;

/* What becomes of the limit on the webhook's requests in flight. */
typedef enum CwhWindow
{
	CWH_WINDOW_KEEP,
	CWH_WINDOW_GROW,
	CWH_WINDOW_HALVE
} CwhWindow;

/* A reason is cut at this many bytes, before the request's number is added. */
#define CWH_MAX_REASON	255

#define CWH_MAX_ERROR	320

/* An unexpected reply is quoted up to this many bytes. */
#define CWH_MAX_QUOTE	100

typedef struct CwhDecision
{
	CwhNext		next;
	CwhVerdict	verdict;		/* valid unless next is CWH_NEXT_AGAIN */
	CwhOutcome	outcome;		/* valid if next is CWH_NEXT_SETTLE or _STEP */
	bool		counts;			/* it is an attempt that health counts */
	int64_t		wait_ms;		/* before the retry; 0: there is none */
	char		error[CWH_MAX_ERROR];	/* UTF-8; empty: none */
	CwhTokenFate token;
	CwhSecretFate secret;

	/* for the webhook, and the worker */
	bool		starved;		/* start nothing for a moment */
	CwhSignal	breaker;
	int64_t		pause_s;		/* with CWH_SIGNAL_FAILED: the pause of all
								 * requests that the receiver asks for; -1:
								 * none */
	CwhWindow	window;
	bool		judged;			/* "proven" is news */
	bool		proven;			/* the last attempt succeeded */
	const char *disable;		/* why to disable the webhook, or null */
} CwhDecision;

extern void cwh_decide(CwhDecision *decision, const CwhEnding *ending,
					   const CwhAttempt *attempt);
extern CwhOrder cwh_reply_order(const char *headers, size_t len);
extern bool cwh_rule_fits(const CwhRule *rule, const CwhEnding *ending,
						  int step);

#endif							/* CWH_DECISION_H */
