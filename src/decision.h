/*
 * decision.h
 *		What the end of a request means.  Pure.
 *
 * Whoever sends a request describes how it ended (CwhEnding) and the attempt
 * that it belongs to (CwhAttempt); cwh_decide() says in one struct what follows
 * for the delivery, its token, its webhook's window and circuit breaker.  The
 * caller applies that once.
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
	CWH_DISABLE					/* 410: the receiver wants no more */
} CwhVerdict;

/* What becomes of a delivery. */
typedef enum CwhOutcome
{
	CWH_OUTCOME_DELIVERED,
	CWH_OUTCOME_RETRY,
	CWH_OUTCOME_DEAD,
	CWH_OUTCOME_CANCELED,		/* was not tried */
	CWH_OUTCOME_STEP			/* not over: one of its requests has succeeded */
} CwhOutcome;

/* What a connector says that a reply means; see the table connector. */
typedef struct CwhRule
{
	int			nstatuses;
	int		   *statuses;
	int			step;			/* from 1; 0: any */
	char	   *contains;		/* UTF-8, or null */
	CwhVerdict	means;
	int			wait_s;			/* 0: not given */
	char	   *wait_key;		/* the body's key with the wait, or null */
} CwhRule;

/* How a request ended. */
typedef enum CwhEnd
{
	CWH_END_REPLY,				/* with a whole reply */
	CWH_END_FAILED,				/* without a whole reply */
	CWH_END_REFUSED,			/* not sent: the address policy or the
								 * webhook's own settings forbid it */
	CWH_END_STARVED,			/* not sent: no descriptor was free */
	CWH_END_NOTHING				/* the connector has nothing (more) to send */
} CwhEnd;

typedef struct CwhEnding
{
	CwhEnd		end;
	int			status;			/* of the reply */
	const char *error;			/* why it failed or was refused */
	int64_t		retry_after_s;	/* -1 if the reply had none */
	const char *body;			/* of the reply, as far as it was read */
	size_t		body_len;
	bool		for_token;		/* it asked for an access token */
	const char *token_problem;	/* and why a 2xx reply to that brought none;
								 * null if it did */
} CwhEnding;

/* The attempt that the request belongs to. */
typedef struct CwhAttempt
{
	const CwhRetryPolicy *retry;
	int			retries;		/* made before this attempt */
	int64_t		last_wait_ms;	/* before this attempt; 0: none */
	double		random01;		/* for the next wait: at least 0, less than 1 */
	const CwhRule *rules;		/* of the connector */
	int			nrules;
	int			step;			/* the request's number, from 1 */
	bool		more;			/* the connector may ask for another one */
	bool		has_token;		/* sent with an access token (OAuth 2.0) */
	bool		token_renewed;	/* which was renewed within this attempt */
	bool		token_hopeless; /* renewing it did not help a moment ago */
} CwhAttempt;

/* What follows for the delivery. */
typedef enum CwhNext
{
	CWH_NEXT_AGAIN,				/* the attempt goes on: the request is made
								 * (again), with what was learned */
	CWH_NEXT_STEP,				/* the reply is kept, and the connector asked
								 * for the next request */
	CWH_NEXT_SETTLE				/* the attempt is over */
} CwhNext;

/* What follows for the access token. */
typedef enum CwhTokenFate
{
	CWH_TOKEN_KEEP,
	CWH_TOKEN_TAKE,				/* the reply has brought one */
	CWH_TOKEN_RENEW,			/* it was refused: another is to be had */
	CWH_TOKEN_HOPELESS			/* another was refused as well */
} CwhTokenFate;

/* What the webhook's circuit breaker is told. */
typedef enum CwhSignal
{
	CWH_SIGNAL_NONE,
	CWH_SIGNAL_ANSWERED,		/* the receiver is there */
	CWH_SIGNAL_FAILED
} CwhSignal;

/* What follows for the number of requests under way to the webhook. */
typedef enum CwhWindow
{
	CWH_WINDOW_KEEP,
	CWH_WINDOW_GROW,
	CWH_WINDOW_HALVE
} CwhWindow;

#define CWH_MAX_ERROR	320

typedef struct CwhDecision
{
	CwhNext		next;
	CwhVerdict	verdict;		/* valid unless next is CWH_NEXT_AGAIN */
	CwhOutcome	outcome;		/* valid if next is CWH_NEXT_SETTLE or _STEP */
	bool		counts;			/* it is an attempt that health counts */
	int64_t		wait_ms;		/* before the retry */
	char		error[CWH_MAX_ERROR];	/* UTF-8; empty: none */
	bool		starved;		/* nothing is to be started for a moment */
	CwhTokenFate token;
	CwhSignal	breaker;
	int64_t		pause_s;		/* that the receiver asks of all requests, with
								 * CWH_SIGNAL_FAILED; -1: none */
	CwhWindow	window;
	bool		judged;			/* "proven" says something new */
	bool		proven;			/* the last attempt at the webhook succeeded */
	const char *disable;		/* why the webhook is to be disabled, or null */
} CwhDecision;

extern void cwh_decide(CwhDecision *decision, const CwhEnding *ending,
					   const CwhAttempt *attempt);

#endif							/* CWH_DECISION_H */
