/*
 * rules.c
 *		Rules of connectors: what a reply means, and what to remember of it.
 *
 * decision.c judges a reply by the rules, but knows no JSON: here the rules are
 * loaded from the table connector, their paths evaluated over the reply's body,
 * and what they remember is taken from it.
 *
 * Administrators write the rules; the bodies may be hostile.  A body is bounded by
 * the size of a reply that is kept.  Paths are restricted as filters are, so that
 * the cost of one is proportional to its own size and the body's; and all paths for
 * a reply share REPLY_PATHS_MS.  See filter.c.  An evaluation only allocates
 * memory, so nothing here needs a transaction.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "compat.h"
#include "envelope.h"
#include "filter.h"
#include "jsonb_value.h"
#include "rules.h"

PG_FUNCTION_INFO_V1(chatwebhook_path_problem);

/* The maximum time to evaluate all paths of the rules for a reply. */
#define REPLY_PATHS_MS	100

/*
 * Loading
 */

/*
 * Parse a jsonpath, and see whether its cost is bounded.  Returns why it cannot
 * be used, as a sentence about "it", or null.
 */
static const char *
parse_path(char *string, Datum *path, bool *is_slow)
{
	MemoryContext context = CurrentMemoryContext;
	const char *volatile problem = NULL;

	/* nothing in here holds anything but memory */
	PG_TRY();
	{
		*path = DirectFunctionCall1(jsonpath_in, CStringGetDatum(string));
		problem = cwh_filter_problem(*path, is_slow);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		problem = CopyErrorData()->message;
		FlushErrorState();
	}
	PG_END_TRY();
	return problem;
}

/* A string of JSON as a C string. */
static char *
string_of(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* An int from a number; the table's trigger has checked that it is one. */
static int
small_number(const JsonbValue *value)
{
	return DatumGetInt32(DirectFunctionCall1(numeric_int4,
											 NumericGetDatum(value->val.numeric)));
}

/* Load a rule, except its paths. */
static void
load_rule(JsonbContainer *object, CwhRule *rule)
{
	static const char *const meanings[] = {
		[CWH_DELIVERED] = "success",[CWH_RETRY] = "retry",
		[CWH_DEAD] = "dead",[CWH_DISABLE] = "disable"
	};
	JsonbValue	value;
	JsonbValue *found = getKeyJsonValueFromContainer(object, "status", 6, &value);
	int			n = found && found->type == jbvBinary ?
		JsonContainerSize(found->val.binary.data) : 1;

	rule->statuses = palloc(Max(1, n) * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *status = found && found->type == jbvBinary ?
			getIthJsonbValueFromContainer(found->val.binary.data, i) : found;

		if (status && status->type == jbvNumeric)
			rule->statuses[rule->nstatuses++] = small_number(status);
	}
	if (cwh_jsonb_member(object, "step", jbvNumeric, &value))
		rule->step = small_number(&value);
	if (cwh_jsonb_member(object, "contains", jbvString, &value))
	{
		char	   *part = string_of(&value);

		rule->contains = pg_server_to_any(part, strlen(part), PG_UTF8);
	}
	if (cwh_jsonb_member(object, "wait", jbvNumeric, &value))
		rule->wait_s = small_number(&value);
	if (cwh_jsonb_member(object, "wait", jbvString, &value))
		rule->wait_key = string_of(&value);
	rule->means = CWH_DEAD;
	rule->only_remembers = !cwh_jsonb_member(object, "means", jbvString, &value);
	for (int i = 0; !rule->only_remembers && i < lengthof(meanings); i++)
		if (strlen(meanings[i]) == value.val.string.len &&
			strncmp(meanings[i], value.val.string.val, value.val.string.len) == 0)
			rule->means = (CwhVerdict) i;
}

/* Note why the rules cannot be applied; the first reason stays. */
static void
note_problem(CwhRules *rules, int n, const char *problem)
{
	if (problem && rules->problem == NULL)
		rules->problem = psprintf("rule %d for replies of its connector has a path that cannot be used: %s",
								  n, problem);
}

/* Load the paths of rule n, counted from 1. */
static void
load_paths(CwhRules *rules, int n, JsonbContainer *object)
{
	CwhRule    *rule = &rules->rules[rules->n];
	CwhRulePaths *paths = &rules->paths[rules->n];
	JsonbValue	value;
	JsonbIterator *iterator;
	JsonbIteratorToken token;

	if (cwh_jsonb_member(object, "path", jbvString, &value))
	{
		rule->has_path = rules->read_bodies = true;
		note_problem(rules, n, parse_path(string_of(&value), &paths->path,
										  &paths->is_slow));
	}
	if (!cwh_jsonb_member(object, "remember", jbvBinary, &value) ||
		!JsonContainerIsObject(value.val.binary.data))
		return;
	rules->read_bodies = rules->remember = true;
	paths->memos = palloc0(Max(1, JsonContainerSize(value.val.binary.data)) *
						   sizeof(CwhMemo));
	iterator = JsonbIteratorInit(value.val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		CwhMemo    *memo = &paths->memos[paths->nmemos];

		if (token == WJB_KEY)
			memo->name = string_of(&value);
		else if (token == WJB_VALUE && value.type == jbvString)
		{
			note_problem(rules, n, parse_path(string_of(&value), &memo->path,
											  &memo->is_slow));
			paths->nmemos++;
		}
	}
}

/* Load the rules of a connector, into the current memory context. */
void
cwh_rules_load(CwhRules *rules, Jsonb *json)
{
	int			n = JB_ROOT_IS_ARRAY(json) ? JB_ROOT_COUNT(json) : 0;

	memset(rules, 0, sizeof(CwhRules));
	rules->rules = palloc0(Max(1, n) * sizeof(CwhRule));
	rules->paths = palloc0(Max(1, n) * sizeof(CwhRulePaths));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *rule = getIthJsonbValueFromContainer(&json->root, i);

		if (rule->type != jbvBinary ||
			!JsonContainerIsObject(rule->val.binary.data))
			continue;
		load_rule(rule->val.binary.data, &rules->rules[rules->n]);
		load_paths(rules, i + 1, rule->val.binary.data);
		rules->n++;
	}
}

/* SQL: why a rule cannot have this path, or null. */
Datum
chatwebhook_path_problem(PG_FUNCTION_ARGS)
{
	bool		is_slow;
	Datum		path;
	const char *problem = parse_path(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									 &path, &is_slow);

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/*
 * Reading replies
 */

/* Does any rule that fits a reply have paths to evaluate over its body? */
bool
cwh_rules_want_body(const CwhRules *rules, int step, const CwhEnding *ending)
{
	for (int i = 0; rules->read_bodies && i < rules->n; i++)
		if ((rules->rules[i].has_path || rules->paths[i].nmemos > 0) &&
			cwh_rule_fits(&rules->rules[i], ending, step))
			return true;
	return false;
}

/*
 * Evaluate the paths of the rules that fit a reply, and note in "ending" which of
 * them match.  The body is null if it is not JSON or was cut off; then none
 * matches.
 */
void
cwh_rules_match(const CwhRules *rules, int step, CwhEnding *ending, Jsonb *body)
{
	CwhFilterBudget budget = {.limit_ms = REPLY_PATHS_MS};
	bool	   *matches = palloc0(Max(1, rules->n) * sizeof(bool));

	for (int i = 0; body && i < rules->n; i++)
		if (rules->rules[i].has_path &&
			cwh_rule_fits(&rules->rules[i], ending, step))
			matches[i] = cwh_filter_matches(rules->paths[i].path,
											rules->paths[i].is_slow, body,
											&budget);
	ending->paths = matches;
	if (budget.left_out > 0)
		ending->unread = "the paths of its connector's rules took longer than "
			CppAsString2(REPLY_PATHS_MS) " ms to evaluate";
}

/* Add what a rule remembers of a body. */
static void
learn(const CwhRulePaths *paths, Jsonb *body, CwhFilterBudget *budget,
	  CwhJsonbState *state, bool *any)
{
	for (int i = 0; i < paths->nmemos; i++)
	{
		const CwhMemo *memo = &paths->memos[i];
		Jsonb	   *item = cwh_filter_first(memo->path, memo->is_slow, body,
											budget);

		if (item == NULL || cwh_is_json_null(item))
			continue;
		if (!*any)
			cwh_push_jsonb(state, WJB_BEGIN_OBJECT, NULL);
		*any = true;
		cwh_jsonb_key(state, memo->name);
		cwh_jsonb_whole(state, item);
	}
}

/*
 * What the rules that fit a successful reply remember of it: an object, or null.
 * Where two of them use a name, the later one counts.  *note is set if something
 * could not be remembered.
 */
Jsonb *
cwh_rules_learn(const CwhRules *rules, int step, const CwhEnding *ending,
				Jsonb *body, const char **note)
{
	CwhFilterBudget budget = {.limit_ms = REPLY_PATHS_MS};
	CwhJsonbState state = {0};
	bool		any = false;
	Jsonb	   *learned;

	for (int i = 0; rules->remember && i < rules->n; i++)
	{
		if (rules->paths[i].nmemos == 0 ||
			!cwh_rule_fits(&rules->rules[i], ending, step) ||
			(rules->rules[i].has_path &&
			 !(ending->paths && ending->paths[i] && ending->unread == NULL)))
			continue;
		if (ending->cut_off)
			*note = "not remembered: the reply was cut off (raise chatwebhook.max_response_size)";
		if (body)
			learn(&rules->paths[i], body, &budget, &state, &any);
	}
	if (budget.left_out > 0)
		*note = "not remembered: the paths took longer than "
			CppAsString2(REPLY_PATHS_MS) " ms to evaluate";
	if (!any)
		return NULL;
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	learned = JsonbValueToJsonb(state.result);
	/* measured as text: a few bytes of jsonb can stand for many digits */
	if (cwh_json_fits(learned, CWH_MAX_MEMORY))
		return learned;
	*note = "not remembered: more than 8 kB";
	return NULL;
}
