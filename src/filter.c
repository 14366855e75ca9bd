/*
 * filter.c
 *		Filters of webhooks: which are allowed, and evaluating them.
 *
 * A filter is a customer's expression that is evaluated within the transaction
 * of a chat.  Its cost is bounded in two ways.
 *
 * When it is stored, and again when it is loaded, its form is checked: each part
 * of it may visit each value of an event a small number of times, so the cost is
 * at most proportional to the size of the filter and to that of the event.  What
 * would multiply is refused: comparing two sequences pair by pair, evaluating a
 * path from the root for each item, more than one .**, several subscripts in one
 * [...], multiplying or dividing two numbers of any length, and regular
 * expressions that need backtracking.
 *
 * When it is evaluated, all filters of an event together have a limited time.
 * The timer runs only once the estimated work is large, so most events never
 * start it.  When it expires, it cancels the evaluation as a statement is
 * canceled, by CHECK_FOR_INTERRUPTS(), which jsonpath calls for each step of
 * each item.
 *
 * An evaluation only allocates memory.  So its errors are caught without a
 * subtransaction, or a transaction; a filter that fails matches nothing.
 *
 * The rules of connectors (rules.c) have paths into the bodies of replies, which
 * are as hostile as events are.  They are checked and evaluated in the same way.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <ctype.h>

#include "access/detoast.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonpath.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "compat.h"
#include "deadline.h"
#include "filter.h"

PG_FUNCTION_INFO_V1(chatwebhook_filter_problem);

/* Limits on a filter. */
#define MAX_BYTES		4096	/* in binary form */
#define MAX_PARTS		100		/* operators, steps, and constants */
#define MAX_WILDCARDS	8
#define MAX_PATTERNS	8
#define MAX_PATTERN		256		/* bytes */
#define MAX_REPEATS		128		/* of the bounds in a pattern, such as {2,4} */
#define MAX_QUANTIFIERS	16		/* in a pattern: more take long to compile */
#define MAX_DIGITS		100		/* of a number */

/*
 * The work of an evaluation is estimated as the product of both sizes, in units
 * of WORK_UNIT bytes squared.  A unit takes less than 20 ns.  The timer runs
 * from TIMED_WORK on.
 */
#define WORK_UNIT		64
#define TIMED_WORK		(256 * 1024)

/* An expression that is being evaluated. */
typedef struct Evaluation
{
	Datum		path;
	Jsonb	   *target;
	bool		wants_item;		/* its first result, else whether it is true */
	MemoryContext context;		/* to return that item in */

	/* out */
	bool		match;
	Jsonb	   *item;			/* or null */
} Evaluation;

/* A filter that is being checked. */
typedef struct Check
{
	bool		lax;			/* arrays are unwrapped everywhere */
	bool		in_filter;		/* within ? (...), evaluated for each item */
	bool		in_subscript;	/* within [...] */
	int			nparts;
	int			nwildcards;
	int			nrecursive;		/* of them, .** */
	int			npatterns;
	bool		is_slow;		/* it can take long for a small event */
	char	   *problem;		/* the first one found, or null */
} Check;

static bool check_path(Check *check, char *base, int32 pos);

/*
 * Checking
 */

/* Note a problem, unless there is one. */
static void
refuse(Check *check, const char *problem)
{
	if (check->problem == NULL)
		check->problem = pstrdup(problem);
}

/* Skip a bracket expression, from its [ to its ]; null if it does not end. */
static const char *
skip_brackets(const char *c, const char *end)
{
	c++;
	if (c < end && *c == '^')
		c++;
	if (c < end && *c == ']')
		c++;
	for (; c < end && *c != ']'; c++)
	{
		char		kind;

		/* [:alpha:], [=a=] or [.a.] */
		if (*c != '[' || c + 1 == end || strchr(":=.", c[1]) == NULL)
			continue;
		kind = c[1];
		for (c += 2; c + 1 < end && (c[0] != kind || c[1] != ']'); c++)
			;
		c++;
	}
	return c < end ? c : NULL;
}

/*
 * Skip a bound, such as {2,4}, from its { to its }, and add the larger number to
 * *repeats; null if it is malformed or makes that too large.
 */
static const char *
skip_bound(const char *c, const char *end, int *repeats)
{
	int			number = 0;
	int			most = 0;

	for (c++; c < end && (isdigit((unsigned char) *c) || *c == ','); c++)
	{
		number = *c == ',' ? 0 : number * 10 + (*c - '0');
		most = Max(most, number);
		if (most > MAX_REPEATS)
			return NULL;
	}
	*repeats += most;
	return c < end && *c == '}' && *repeats <= MAX_REPEATS ? c : NULL;
}

/*
 * Is this a regular expression that is matched in one pass, and quickly
 * compiled?  Literals, classes, alternatives, and groups are; also a few *, +, ?,
 * and small bounds after a single character.
 */
static bool
is_plain_pattern(const char *pattern, int len)
{
	const char *end = pattern + len;
	int			repeats = 0;
	int			nquantifiers = 0;

	if (len > 0 && *pattern == '*')
		return false;			/* a director, such as ***: */
	for (const char *c = pattern; c < end; c++)
	{
		switch (*c)
		{
			case '\\':
				/* no back reference */
				if (++c == end || *c == '\0' ||
					(isalnum((unsigned char) *c) &&
					 strchr("dDsSwWyYmMAZntr", *c) == NULL))
					return false;
				break;
			case '[':
				c = skip_brackets(c, end);
				if (c == NULL)
					return false;
				break;
			case '{':
				c = skip_bound(c, end, &repeats);
				if (c == NULL || ++nquantifiers > MAX_QUANTIFIERS)
					return false;
				break;
			case '*':
			case '+':
			case '?':
				if (++nquantifiers > MAX_QUANTIFIERS)
					return false;
				break;
			case '(':
				/* options and lookaround */
				if (c + 1 < end && c[1] == '?' && (c + 2 == end || c[2] != ':'))
					return false;
				if (c + 2 < end && c[1] == '?')
					c += 2;
				break;
			case ')':
				if (c + 1 < end && strchr("*+?{", c[1]))
					return false;
				break;
			default:
				break;
		}
	}
	return true;
}

/* Check the pattern of a like_regex. */
static void
check_pattern(Check *check, const JsonPathItem *item)
{
	int			len = item->content.like_regex.patternlen;

	if (++check->npatterns > MAX_PATTERNS)
		refuse(check, psprintf("it has more than %d patterns of like_regex",
							   MAX_PATTERNS));
	if (len > MAX_PATTERN)
		refuse(check, psprintf("a pattern of like_regex has %d bytes, more than %d",
							   len, MAX_PATTERN));
	check->is_slow = true;
	if (len <= MAX_PATTERN &&
		!(item->content.like_regex.flags & JSP_REGEX_QUOTE) &&
		!is_plain_pattern(item->content.like_regex.pattern, len))
		refuse(check, "a pattern of like_regex has a back reference, a lookahead or lookbehind, an option, a repeated group, a large bound, or too many of *, + and ?; simplify the pattern, or use flag \"q\" to match it literally");
}

/*
 * Check a comparison.  It compares each item on the left with each on the right,
 * so one of both sides must have one item.
 */
static void
check_comparison(Check *check, JsonPathItem *item)
{
	bool		left = check_path(check, item->base, item->content.args.left);
	bool		right = check_path(check, item->base, item->content.args.right);

	if (!left && !right)
		refuse(check, check->lax ?
			   "it compares two values, and either can be an array; compare with a constant, or begin it with strict" :
			   "it compares two values, and both paths have a wildcard");
}

/* Is this a number as written, perhaps with a sign? */
static bool
is_literal(char *base, int32 pos)
{
	JsonPathItem item;

	jspInitByBuffer(&item, base, pos);
	if (item.type == jpiPlus || item.type == jpiMinus)
		return is_literal(item.base, item.content.arg);
	return item.type == jpiNumeric && !jspHasNext(&item);
}

/*
 * Check a number.  A few bytes can stand for many digits, such as 1e100000.
 */
static void
check_number(Check *check, JsonPathItem *item)
{
	Datum		number = NumericGetDatum(jspGetNumeric(item));

	if (strlen(DatumGetCString(DirectFunctionCall1(numeric_out,
												   number))) > MAX_DIGITS)
		refuse(check, psprintf("it has a number of more than %d digits",
							   MAX_DIGITS));
}

/*
 * Check arithmetic, which is an error unless each side has one item.  The time to
 * multiply or divide grows with the product of both sides' numbers of digits, and
 * a number can have 131,072: to divide two such takes a second.
 */
static void
check_arithmetic(Check *check, JsonPathItem *item)
{
	check->is_slow = true;
	(void) check_path(check, item->base, item->content.args.left);
	(void) check_path(check, item->base, item->content.args.right);
	if (check->problem == NULL && item->type != jpiAdd && item->type != jpiSub &&
		!is_literal(item->base, item->content.args.left) &&
		!is_literal(item->base, item->content.args.right))
		refuse(check, "it multiplies or divides two values; one must be a number as written");
}

/* Check a subscript: a constant, or a range of constants; true if it is one. */
static bool
check_subscripts(Check *check, JsonPathItem *item)
{
	bool		was_in_subscript = check->in_subscript;
	bool		is_range;

	if (item->content.array.nelems != 1)
	{
		refuse(check, "it has several subscripts in one [...]; use a range, or several paths");
		return false;
	}
	check->in_subscript = true;
	(void) check_path(check, item->base, item->content.array.elems[0].from);
	is_range = item->content.array.elems[0].to != 0;
	if (is_range)
		(void) check_path(check, item->base, item->content.array.elems[0].to);
	check->in_subscript = was_in_subscript;
	return !is_range;
}

/* Check the condition of a ? (...). */
static void
check_condition(Check *check, JsonPathItem *item)
{
	bool		was_in_filter = check->in_filter;

	check->in_filter = true;
	(void) check_path(check, item->base, item->content.arg);
	check->in_filter = was_in_filter;
}

/* Count a part that can have many results for an item. */
static void
check_wildcard(Check *check, const JsonPathItem *item, bool from_root)
{
	if (item->type == jpiAny && ++check->nrecursive > 1)
		refuse(check, "it has more than one .**");
	if (++check->nwildcards > MAX_WILDCARDS)
		refuse(check, psprintf("it has more than %d wildcards", MAX_WILDCARDS));
	if (from_root && check->in_filter)
		refuse(check, "it has a wildcard on $ within ? (...); use @ there");
}

/* Check where a path begins.  Returns true if it has one item so far. */
static bool
check_head(Check *check, JsonPathItem *item)
{
	switch (item->type)
	{
		case jpiNumeric:
			check_number(check, item);
			return true;
		case jpiNull:
		case jpiString:
		case jpiBool:
			return true;
		case jpiLast:
			return true;
		case jpiRoot:
		case jpiCurrent:
			if (item->type == jpiRoot && check->in_filter && check->lax)
				refuse(check, "it uses $ within ? (...); use @ there, or begin it with strict");
			if (check->in_subscript)
				refuse(check, "a subscript is not constant");
			return !check->lax;
		case jpiAnd:
		case jpiOr:
			(void) check_path(check, item->base, item->content.args.left);
			(void) check_path(check, item->base, item->content.args.right);
			return true;
		case jpiEqual:
		case jpiNotEqual:
		case jpiLess:
		case jpiGreater:
		case jpiLessOrEqual:
		case jpiGreaterOrEqual:
		case jpiStartsWith:
			check_comparison(check, item);
			return true;
		case jpiAdd:
		case jpiSub:
		case jpiMul:
		case jpiDiv:
		case jpiMod:
			check_arithmetic(check, item);
			return true;
		case jpiPlus:
		case jpiMinus:
			return check_path(check, item->base, item->content.arg);
		case jpiNot:
		case jpiIsUnknown:
		case jpiExists:
			(void) check_path(check, item->base, item->content.arg);
			return true;
		case jpiLikeRegex:
			check_pattern(check, item);
			(void) check_path(check, item->base,
							  item->content.like_regex.expr);
			return true;
		case jpiVariable:
			refuse(check, "it uses a variable, but none are defined");
			return true;
		default:
			refuse(check, psprintf("it uses .%s(), which is not allowed",
								   jspOperationName(item->type)));
			return true;
	}
}

/* Check a step of a path.  Returns false if it can have several results. */
static bool
check_step(Check *check, JsonPathItem *item, bool from_root)
{
	switch (item->type)
	{
		case jpiAny:
		case jpiAnyArray:
		case jpiAnyKey:
			check_wildcard(check, item, from_root);
			return false;
		case jpiIndexArray:
			if (check_subscripts(check, item))
				return true;
			check_wildcard(check, item, from_root);
			return false;
		case jpiFilter:
			check_condition(check, item);
			return true;
		case jpiDatetime:
			if (item->content.arg)
				(void) check_path(check, item->base, item->content.arg);
			return true;
		case jpiKey:
		case jpiType:
		case jpiSize:
		case jpiAbs:
		case jpiFloor:
		case jpiCeiling:
		case jpiDouble:
			return true;
		default:
			if (!cwh_is_plain_method(item->type))
				refuse(check, psprintf("it uses .%s(), which is not allowed",
									   jspOperationName(item->type)));
			return true;
	}
}

/*
 * Check a path or an expression.  Returns true if it has at most one item as an
 * operand.  The recursion is as deep as there are parts, of which there are few.
 */
static bool
check_path(Check *check, char *base, int32 pos)
{
	JsonPathItem item;
	JsonPathItem next;
	bool		from_root;
	bool		single;

	if (check->problem)
		return true;
	if (++check->nparts > MAX_PARTS)
	{
		refuse(check, psprintf("it has more than %d operators, steps and constants",
							   MAX_PARTS));
		return true;
	}
	jspInitByBuffer(&item, base, pos);
	from_root = item.type == jpiRoot;
	single = check_head(check, &item);
	while (check->problem == NULL && jspGetNext(&item, &next))
	{
		if (++check->nparts > MAX_PARTS)
			refuse(check, psprintf("it has more than %d operators, steps and constants",
								   MAX_PARTS));
		if (!check_step(check, &next, from_root))
			single = false;
		item = next;
	}
	return single;
}

/*
 * Why a filter may not be evaluated, as a sentence about "it"; or null.  One that
 * is too large is not read, as it may be much larger than its row.  *is_slow says
 * whether its time must be limited whatever the size of an event.
 */
char *
cwh_filter_problem(Datum filter, bool *is_slow)
{
	Size		size = toast_raw_datum_size(filter);
	JsonPath   *path;
	Check		check;

	if (size > MAX_BYTES)
		return psprintf("it has %zu bytes, more than %d", size, MAX_BYTES);
	path = DatumGetJsonPathP(filter);
	if ((path->header & ~JSONPATH_LAX) != JSONPATH_VERSION)
		return pstrdup("it is of an unknown version");
	memset(&check, 0, sizeof(check));
	check.lax = (path->header & JSONPATH_LAX) != 0;
	(void) check_path(&check, path->data, 0);
	*is_slow = check.is_slow;
	return check.problem;
}

/* SQL: why a webhook cannot have this filter, or null. */
Datum
chatwebhook_filter_problem(PG_FUNCTION_ARGS)
{
	bool		is_slow;
	char	   *problem = cwh_filter_problem(PG_GETARG_DATUM(0), &is_slow);

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/*
 * Evaluating
 */

/*
 * The operator @@, which returns null if the path fails or its result is not
 * boolean, but with time zones.  Without them, comparing a timestamp with a
 * timestamptz is an error that @@ does not suppress.  Or likewise the first
 * result, as of jsonb_path_query_first().
 */
static void
evaluate(Evaluation *evaluation)
{
	static const struct
	{
		int32		vl_len_;
		uint32		header;
	}			no_variables = {
#ifdef WORDS_BIGENDIAN
		8,
#else
		8 << 2,
#endif
		JB_FOBJECT
	};
	LOCAL_FCINFO(call, 4);
	Datum		result;

	InitFunctionCallInfoData(*call, NULL, 4, InvalidOid, NULL, NULL);
	call->args[0].value = JsonbPGetDatum(evaluation->target);
	call->args[1].value = evaluation->path;
	call->args[2].value = PointerGetDatum(&no_variables);
	call->args[3].value = BoolGetDatum(true);
	for (int i = 0; i < 4; i++)
		call->args[i].isnull = false;
	result = evaluation->wants_item ? jsonb_path_query_first_tz(call) :
		jsonb_path_match_tz(call);
	if (call->isnull)
		return;
	if (evaluation->wants_item)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(evaluation->context);

		evaluation->item = DatumGetJsonbPCopy(result);
		MemoryContextSwitchTo(oldcontext);
	}
	else
		evaluation->match = DatumGetBool(result);
}

/* The same; an error means that it does not match. */
static void
evaluate_safely(Evaluation *evaluation)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		evaluate(evaluation);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !cwh_deadline_raised(error))
			PG_RE_THROW();
		FlushErrorState();
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/* The same, within what is left of the time. */
static void
evaluate_in_time(Evaluation *evaluation, CwhFilterBudget *budget)
{
	int64		left_us = budget->limit_ms * INT64CONST(1000) - budget->used_us;
	MemoryContext scratch;
	MemoryContext oldcontext;
	instr_time	start;
	instr_time	end;
	volatile bool overdue = false;

	if (left_us < 1000)
	{
		budget->left_out++;
		return;
	}
	scratch = AllocSetContextCreate(CurrentMemoryContext, "chatwebhook filter",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(scratch);
	INSTR_TIME_SET_CURRENT(start);
	cwh_deadline_set((int) (left_us / 1000));
	PG_TRY();
	{
		evaluate_safely(evaluation);
	}
	PG_FINALLY();
	{
		overdue = cwh_deadline_clear();
	}
	PG_END_TRY();
	if (overdue)
	{
		budget->left_out++;
		evaluation->match = false;
		evaluation->item = NULL;
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	budget->used_us += (int64) INSTR_TIME_GET_MICROSEC(end);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(scratch);
}

/* The same; its time is measured only if it could take long. */
static void
evaluate_bounded(Evaluation *evaluation, bool is_slow, CwhFilterBudget *budget)
{
	budget->work += (Size) VARSIZE(evaluation->target) *
		VARSIZE(DatumGetPointer(evaluation->path)) / WORK_UNIT;
	if (budget->work < TIMED_WORK && !is_slow)
		evaluate_safely(evaluation);
	else
		evaluate_in_time(evaluation, budget);
}

/*
 * Does an event match a filter, in which cwh_filter_problem() has found nothing?
 * A filter that fails, or for which there is no time left, matches nothing.
 */
bool
cwh_filter_matches(Datum filter, bool is_slow, Jsonb *envelope,
				   CwhFilterBudget *budget)
{
	Evaluation	evaluation = {.path = filter,.target = envelope};

	evaluate_bounded(&evaluation, is_slow, budget);
	return evaluation.match;
}

/*
 * The first item that a path finds, or null.  The same holds for the path, and
 * for its failures, as for a filter.
 */
Jsonb *
cwh_filter_first(Datum path, bool is_slow, Jsonb *target,
				 CwhFilterBudget *budget)
{
	Evaluation	evaluation = {
		.path = path,.target = target,.wants_item = true,
		.context = CurrentMemoryContext
	};

	evaluate_bounded(&evaluation, is_slow, budget);
	return evaluation.item;
}
