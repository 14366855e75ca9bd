/*
 * rules.h
 *		Rules of connectors: what a reply means, and what to remember of it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_RULES_H
#define CWH_RULES_H

#include "utils/jsonb.h"

#include "decision.h"

/* The most that is remembered of a conversation, as JSON. */
#define CWH_MAX_MEMORY	8192

/* Something to remember: a name, and where a reply has it. */
typedef struct CwhMemo
{
	char	   *name;
	Datum		path;			/* a jsonpath */
	bool		is_slow;		/* see cwh_filter_problem() */
} CwhMemo;

/* The paths of a rule, which are evaluated over a reply's body. */
typedef struct CwhRulePaths
{
	Datum		path;			/* a jsonpath, if the rule has_path */
	bool		is_slow;
	int			nmemos;
	CwhMemo    *memos;
} CwhRulePaths;

/* The rules of a connector. */
typedef struct CwhRules
{
	int			n;
	CwhRule    *rules;
	CwhRulePaths *paths;		/* for each of them */
	bool		read_bodies;	/* any of them has a path or a memo */
	bool		remember;		/* any of them has a memo */
	const char *problem;		/* why they cannot be applied, or null */
} CwhRules;

extern void cwh_rules_load(CwhRules *rules, Jsonb *json);
extern bool cwh_rules_want_body(const CwhRules *rules, int step,
								const CwhEnding *ending);
extern void cwh_rules_match(const CwhRules *rules, int step,
							CwhEnding *ending, Jsonb *body);
extern Jsonb *cwh_rules_learn(const CwhRules *rules, int step,
							  const CwhEnding *ending, Jsonb *body,
							  const char **note);

#endif							/* CWH_RULES_H */
