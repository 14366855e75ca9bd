/*
 * test_decision.c
 *		What follows from the end of a request: every status, every kind of end,
 *		connectors' rules, access tokens, retries, waits and pauses.
 *
 * Only here can every status and every combination be tried, and all that is
 * decided be compared.  That the worker does what was decided is for the tests
 * with a receiver to show.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/decision.c"
#include "../../src/retry.c"

#include <limits.h>

#include "tap.h"

#define lengthof(array)	(sizeof(array) / sizeof((array)[0]))

#define GONE_410	"the receiver answered 410 Gone"
#define GONE_OTHER	"the receiver's answer means that there will be no other"

/* A policy as webhooks have it by default. */
static const CwhRetryPolicy usual = {
	.max_retries = 5,
	.backoff_ms = 1000,
	.multiplier = 2,
	.max_backoff_ms = 60000,
};

/*
 * Endings and attempts
 */

/* The first attempt, at its first request, without a connector or a token. */
static CwhAttempt
first_attempt(void)
{
	CwhAttempt	attempt = {
		.retry = &usual,
		.random01 = 0.5,
		.step = 1,
	};

	return attempt;
}

/* An attempt with a connector's rules. */
static CwhAttempt
with_rules(const CwhRule *rules, int nrules)
{
	CwhAttempt	attempt = first_attempt();

	attempt.rules = rules;
	attempt.nrules = nrules;
	return attempt;
}

/* An attempt with an access token. */
static CwhAttempt
with_token(bool renewed, bool hopeless)
{
	CwhAttempt	attempt = first_attempt();

	attempt.has_token = true;
	attempt.token_renewed = renewed;
	attempt.token_hopeless = hopeless;
	return attempt;
}

/* A whole reply without a body. */
static CwhEnding
reply(int status)
{
	CwhEnding	ending = {
		.end = CWH_END_REPLY,
		.status = status,
		.retry_after_s = -1,
	};

	return ending;
}

/* A whole reply with a body and a Retry-After. */
static CwhEnding
reply_with(int status, const char *body, int64_t retry_after_s)
{
	CwhEnding	ending = reply(status);

	ending.body = body;
	ending.body_len = body ? strlen(body) : 0;
	ending.retry_after_s = retry_after_s;
	return ending;
}

/* Another end, with its reason. */
static CwhEnding
without_reply(CwhEnd end, const char *error)
{
	CwhEnding	ending = {
		.end = end,
		.error = error,
		.retry_after_s = -1,
	};

	return ending;
}

/* A whole reply with the header webhook-delivery. */
static CwhEnding
ordering(int status, CwhOrder order)
{
	CwhEnding	ending = reply(status);

	ending.order = order;
	return ending;
}

/* A request that was signed with two secrets, and refused before so many times. */
static CwhAttempt
with_secrets(bool known, int refusals)
{
	CwhAttempt	attempt = first_attempt();

	attempt.is_signed = attempt.overlap = true;
	attempt.secret_known = known;
	attempt.refusals = refusals;
	return attempt;
}

/* The end of a request for a token. */
static CwhEnding
for_token(CwhEnding ending, const char *problem)
{
	ending.for_token = true;
	ending.token_problem = problem;
	return ending;
}

/*
 * What is expected of the usual cases; a test changes what is different
 */

/* The request is made again. */
static CwhDecision
again(CwhTokenFate token)
{
	CwhDecision want = {
		.next = CWH_NEXT_AGAIN,
		.token = token,
		.pause_s = -1,
	};

	return want;
}

/* The connector is asked for the next request. */
static CwhDecision
next_step(void)
{
	CwhDecision want = {
		.next = CWH_NEXT_STEP,
		.verdict = CWH_DELIVERED,
		.outcome = CWH_OUTCOME_STEP,
		.breaker = CWH_SIGNAL_ANSWERED,
		.pause_s = -1,
	};

	return want;
}

/* The delivery has succeeded. */
static CwhDecision
delivered(void)
{
	CwhDecision want = {
		.next = CWH_NEXT_SETTLE,
		.verdict = CWH_DELIVERED,
		.outcome = CWH_OUTCOME_DELIVERED,
		.counts = true,
		.breaker = CWH_SIGNAL_ANSWERED,
		.pause_s = -1,
		.window = CWH_WINDOW_GROW,
		.judged = true,
		.proven = true,
	};

	return want;
}

/* The delivery is tried again after this wait. */
static CwhDecision
retry_after(int64_t wait_ms, const char *error)
{
	CwhDecision want = {
		.next = CWH_NEXT_SETTLE,
		.verdict = CWH_RETRY,
		.outcome = CWH_OUTCOME_RETRY,
		.counts = true,
		.wait_ms = wait_ms,
		.breaker = CWH_SIGNAL_FAILED,
		.pause_s = -1,
		.window = CWH_WINDOW_HALVE,
		.judged = true,
	};

	strcpy(want.error, error);
	return want;
}

/* The same, with a pause of all requests. */
static CwhDecision
pause_after(int64_t wait_ms, int64_t pause_s, const char *error)
{
	CwhDecision want = retry_after(wait_ms, error);

	want.pause_s = pause_s;
	return want;
}

/* It would be tried again, but was often enough. */
static CwhDecision
exhausted(const char *error)
{
	CwhDecision want = retry_after(0, error);

	want.outcome = CWH_OUTCOME_DEAD;
	return want;
}

/* The receiver does not want the delivery. */
static CwhDecision
dead(const char *error)
{
	CwhDecision want = {
		.next = CWH_NEXT_SETTLE,
		.verdict = CWH_DEAD,
		.outcome = CWH_OUTCOME_DEAD,
		.counts = true,
		.breaker = CWH_SIGNAL_ANSWERED,
		.pause_s = -1,
		.judged = true,
	};

	strcpy(want.error, error);
	return want;
}

/* Nothing was sent to the receiver, and never will be. */
static CwhDecision
dead_unsent(const char *error)
{
	CwhDecision want = dead(error);

	want.breaker = CWH_SIGNAL_NONE;
	return want;
}

/* The receiver wants no deliveries at all. */
static CwhDecision
disabled(const char *error, const char *reason)
{
	CwhDecision want = dead(error);

	want.verdict = CWH_DISABLE;
	want.disable = reason;
	return want;
}

/*
 * Comparing
 */

/* Do two texts differ, of which both may be null? */
static bool
differ(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a != b : strcmp(a, b) != 0;
}

/* The name of the first part in which two decisions differ, or NULL. */
static const char *
difference(const CwhDecision *got, const CwhDecision *want)
{
	if (got->next != want->next)
		return "next";
	if (got->starved != want->starved)
		return "starved";
	if (got->token != want->token)
		return "token";
	if (got->secret != want->secret)
		return "secret";
	if (got->breaker != want->breaker)
		return "breaker";
	if (got->pause_s != want->pause_s)
		return "pause_s";
	if (got->window != want->window)
		return "window";
	if (got->judged != want->judged)
		return "judged";
	if (got->proven != want->proven)
		return "proven";
	if (differ(got->disable, want->disable))
		return "disable";
	if (got->counts != want->counts)
		return "counts";
	if (got->wait_ms != want->wait_ms)
		return "wait_ms";
	if (strcmp(got->error, want->error) != 0)
		return "error";
	if (got->next != CWH_NEXT_AGAIN && got->verdict != want->verdict)
		return "verdict";
	if (got->next != CWH_NEXT_AGAIN && got->outcome != want->outcome)
		return "outcome";
	return NULL;
}

/* Decide, over what another decision has left behind. */
static CwhDecision
decide(CwhEnding ending, CwhAttempt attempt)
{
	CwhDecision decision;

	memset(&decision, 0xaa, sizeof(decision));
	cwh_decide(&decision, &ending, &attempt);
	return decision;
}

/* Check all of a decision. */
static void
check(const char *name, CwhEnding ending, CwhAttempt attempt, CwhDecision want)
{
	CwhDecision got = decide(ending, attempt);
	const char *different = difference(&got, &want);

	ok(different == NULL, "%s", name);
	if (different == NULL)
		return;
	fprintf(stderr, "# differs: %s\n", different);
	fprintf(stderr, "#      got: wait %lld, pause %lld, error \"%s\", disable \"%s\"\n",
			(long long) got.wait_ms, (long long) got.pause_s, got.error,
			got.disable ? got.disable : "");
	fprintf(stderr, "# expected: wait %lld, pause %lld, error \"%s\", disable \"%s\"\n",
			(long long) want.wait_ms, (long long) want.pause_s, want.error,
			want.disable ? want.disable : "");
}

/*
 * Tests
 */

/* Every status, and some that there are not. */
static void
test_statuses(void)
{
	static const int retried[] = {0, 408, 425, 429};
	static const int odd[] = {INT_MIN, -1, 1, 99, 600, 999, INT_MAX};
	int			wrong[4] = {0};
	int			n[4] = {0};

	for (int status = 100; status <= 599; status++)
	{
		char		error[32];
		CwhDecision want;
		CwhDecision got = decide(reply(status), first_attempt());

		snprintf(error, sizeof(error), "HTTP status %d", status);
		want = dead(error);
		if (status / 100 == 2)
			want = delivered();
		else if (status / 100 == 5)
			want = retry_after(1000, error);
		else if (status == 410)
			want = disabled(error, GONE_410);
		for (size_t i = 0; i < lengthof(retried); i++)
			if (status == retried[i])
				want = retry_after(1000, error);

		n[want.verdict]++;
		if (difference(&got, &want) != NULL)
		{
			fprintf(stderr, "# %d differs: %s\n", status,
					difference(&got, &want));
			wrong[want.verdict]++;
		}
	}
	ok(wrong[CWH_DELIVERED] == 0 && n[CWH_DELIVERED] == 100,
	   "every 2xx is delivered");
	ok(wrong[CWH_RETRY] == 0 && n[CWH_RETRY] == 103,
	   "every 5xx, 408, 425 and 429 is retried");
	ok(wrong[CWH_DISABLE] == 0 && n[CWH_DISABLE] == 1, "410 disables");
	ok(wrong[CWH_DEAD] == 0 && n[CWH_DEAD] == 296, "every other one is dead");

	check("status 0 is retried", reply(0), first_attempt(),
		  retry_after(1000, "HTTP status 0"));
	for (size_t i = 0; i < lengthof(odd); i++)
	{
		char		error[32];

		snprintf(error, sizeof(error), "HTTP status %d", odd[i]);
		check("a status that there is not is dead", reply(odd[i]),
			  first_attempt(), dead(error));
	}
}

/* Every kind of end but a reply. */
static void
test_ends(void)
{
	CwhEnding	ending;
	CwhAttempt	attempt = first_attempt();
	CwhDecision want;

	check("a failure is retried", without_reply(CWH_END_FAILED, "timed out"),
		  attempt, retry_after(1000, "timed out"));
	check("what is refused is dead, and says nothing of the receiver",
		  without_reply(CWH_END_REFUSED, "address refused: private address"),
		  attempt, dead_unsent("address refused: private address"));

	/* Part of a reply came, before it was lost. */
	ending = without_reply(CWH_END_FAILED, "the connection was lost");
	for (int status = 100; status <= 599; status++)
	{
		CwhDecision got;

		ending.status = status;
		got = decide(ending, attempt);
		want = retry_after(1000, "the connection was lost");
		if (difference(&got, &want) != NULL)
			ok(false, "the status %d of a part", status);
	}
	ending.status = 503;
	ending.retry_after_s = 7;
	check("but its Retry-After counts", ending, attempt,
		  pause_after(7000, 7, "the connection was lost"));

	want = again(CWH_TOKEN_KEEP);
	want.starved = true;
	check("without a descriptor, the attempt goes on",
		  without_reply(CWH_END_STARVED, NULL), attempt, want);
	check("and so does the request for a token",
		  for_token(without_reply(CWH_END_STARVED, NULL), NULL), attempt, want);
	attempt.step = 3;
	attempt.more = true;
	attempt.retries = 5;
	check("at any step, and after all retries",
		  without_reply(CWH_END_STARVED, NULL), attempt, want);
}

/* The connector has nothing to send. */
static void
test_nothing(void)
{
	CwhAttempt	attempt = first_attempt();
	CwhDecision want = {
		.next = CWH_NEXT_SETTLE,
		.verdict = CWH_DELIVERED,
		.outcome = CWH_OUTCOME_DELIVERED,
		.pause_s = -1,
	};

	check("nothing to send at all is no attempt",
		  without_reply(CWH_END_NOTHING, NULL), attempt, want);
	attempt.more = true;
	check("whatever the request before was",
		  without_reply(CWH_END_NOTHING, NULL), attempt, want);
	attempt.step = 2;
	want.counts = true;
	want.window = CWH_WINDOW_GROW;
	check("nothing more to send is a successful attempt",
		  without_reply(CWH_END_NOTHING, NULL), attempt, want);
	attempt.step = 20;
	check("at any step", without_reply(CWH_END_NOTHING, NULL), attempt, want);
}

/* Connectors' requests, one after the other. */
static void
test_steps(void)
{
	CwhAttempt	attempt = first_attempt();
	CwhDecision want;

	attempt.more = true;
	check("the next request follows a success", reply(200), attempt,
		  next_step());
	attempt.step = 4;
	check("and one more", reply(299), attempt, next_step());
	check("but not a failure", reply(500), attempt,
		  retry_after(1000, "request 4: HTTP status 500"));
	check("nor what the receiver does not want", reply(404), attempt,
		  dead("request 4: HTTP status 404"));
	check("nor the end of all", reply(410), attempt,
		  disabled("request 4: HTTP status 410", GONE_410));
	check("nor a request that failed",
		  without_reply(CWH_END_FAILED, "timed out"), attempt,
		  retry_after(1000, "request 4: timed out"));
	check("nor one that was refused",
		  without_reply(CWH_END_REFUSED, "not allowed"), attempt,
		  dead_unsent("request 4: not allowed"));
	attempt.more = false;
	check("the last one is the end", reply(200), attempt, delivered());

	attempt.more = true;
	attempt.has_token = attempt.token_renewed = true;
	want = next_step();
	check("with a renewed token, too", reply(200), attempt, want);
}

/* Reasons, and how long they get. */
static void
test_errors(void)
{
	static const char *const characters[] = {
		"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"
	};
	CwhAttempt	attempt = first_attempt();
	char		reason[600];
	char		want[CWH_MAX_ERROR];
	CwhDecision got;
	int			wrong = 0;

	attempt.step = INT_MAX;
	check("the number of the request", reply(404), attempt,
		  dead("request 2147483647: HTTP status 404"));
	attempt.step = 1;

	/* Characters of one to four bytes, behind as many others */
	for (size_t c = 0; c < lengthof(characters); c++)
		for (int before = 0; before < 4; before++)
			for (int n = 0; n < 130; n++)
			{
				size_t		width = strlen(characters[c]);
				size_t		fit = (CWH_MAX_REASON - (size_t) before) / width;

				memset(reason, '-', sizeof(reason));
				for (int i = 0; i < n; i++)
					memcpy(reason + before + (size_t) i * width, characters[c],
						   width);
				reason[(size_t) before + (size_t) n * width] = '\0';
				if (fit > (size_t) n)
					fit = (size_t) n;
				memcpy(want, reason, (size_t) before + fit * width);
				want[(size_t) before + fit * width] = '\0';
				got = decide(without_reply(CWH_END_FAILED, reason), attempt);
				wrong += strcmp(got.error, want) != 0;
			}
	is_int(wrong, 0, "a long reason is cut between characters");

	memset(reason, 'x', sizeof(reason));
	reason[CWH_MAX_REASON] = '\0';
	got = decide(without_reply(CWH_END_FAILED, reason), attempt);
	is_str(got.error, reason, "255 bytes are not too long");
	reason[CWH_MAX_REASON] = 'x';
	reason[CWH_MAX_REASON + 1] = '\0';
	got = decide(without_reply(CWH_END_FAILED, reason), attempt);
	is_int((long long) strlen(got.error), CWH_MAX_REASON, "one more is");
	attempt.step = 20;
	got = decide(without_reply(CWH_END_FAILED, reason), attempt);
	ok(strncmp(got.error, "request 20: xxx", 15) == 0 &&
	   strlen(got.error) == strlen("request 20: ") + CWH_MAX_REASON,
	   "the request's number comes on top");
	got = decide(for_token(without_reply(CWH_END_FAILED, reason), NULL),
				 attempt);
	ok(strncmp(got.error, "request 20: could not get an access token: xxx",
			   46) == 0 &&
	   strlen(got.error) == strlen("request 20: ") + CWH_MAX_REASON,
	   "but not the words about a token");
	memset(reason, 0x80, CWH_MAX_REASON + 1);
	got = decide(without_reply(CWH_END_FAILED, reason), first_attempt());
	ok(strlen(got.error) == CWH_MAX_REASON, "what is not UTF-8 is cut anyhow");
	reason[0] = '\xff';
	got = decide(without_reply(CWH_END_FAILED, reason), first_attempt());
	ok(strlen(got.error) == CWH_MAX_REASON, "wherever it begins");
	check("a reason may be empty", without_reply(CWH_END_FAILED, ""),
		  first_attempt(), retry_after(1000, ""));
}

/* Which rule matches. */
static void
test_rules(void)
{
	int			ok_statuses[] = {409, 404};
	int			retry_status[] = {403};
	int			dead_status[] = {200};
	int			disable_status[] = {404};
	int			any_status[] = {409};
	char		exists[] = "Existing ID: ";
	CwhRule		rules[] = {
		{.nstatuses = 2,.statuses = ok_statuses,.step = 2,
			.contains = exists,.means = CWH_DELIVERED},
		{.nstatuses = 1,.statuses = retry_status,.means = CWH_RETRY},
		{.nstatuses = 1,.statuses = dead_status,.contains = exists,
		.means = CWH_DEAD},
		{.nstatuses = 1,.statuses = disable_status,.means = CWH_DISABLE},
		{.nstatuses = 1,.statuses = any_status,.means = CWH_RETRY},
		{.nstatuses = 0,.statuses = NULL,.means = CWH_DISABLE},
	};
	CwhAttempt	attempt = with_rules(rules, lengthof(rules));
	int			wrong = 0;

	check("a rule makes a retry of a status", reply(403), attempt,
		  retry_after(1000, "HTTP status 403"));
	check("or the end of all", reply(404), attempt,
		  disabled("HTTP status 404", GONE_OTHER));
	check("a success dead", reply_with(200, "Existing ID: 7", -1), attempt,
		  dead("unexpected reply: no content type, 200, no body"));
	check("without the text the status counts",
		  reply_with(200, "Existing ID", -1), attempt, delivered());
	check("and without a body", reply(200), attempt, delivered());
	check("a rule for another step does not count",
		  reply_with(409, "Existing ID: 7", -1), attempt,
		  retry_after(1000, "HTTP status 409"));

	attempt.step = 2;
	check("a rule makes a success of a status",
		  reply_with(409, "Existing ID: 7", -1), attempt, delivered());
	check("of each of its statuses, ahead of later rules",
		  reply_with(404, "{\"message\":\"Existing ID: 7\"}", -1), attempt,
		  delivered());
	check("without the text the next rule counts", reply_with(409, "x", -1),
		  attempt, retry_after(1000, "request 2: HTTP status 409"));
	attempt.more = true;
	check("the next request follows such a success",
		  reply_with(409, "Existing ID: 7", -1), attempt, next_step());
	attempt.more = false;

	/* Any other status is as without rules. */
	attempt.step = 1;
	for (int status = 100; status <= 599; status++)
	{
		CwhDecision got = decide(reply(status), attempt);
		CwhDecision want = decide(reply(status), first_attempt());

		if (status != 403 && status != 404 && status != 409 &&
			difference(&got, &want) != NULL)
			wrong++;
	}
	is_int(wrong, 0, "no rule counts for another status");

	attempt.nrules = 1;
	attempt.step = 2;
	check("rules beyond the last do not count", reply(403), attempt,
		  dead("request 2: HTTP status 403"));

	/* 410 itself keeps its reason, by a rule as well. */
	any_status[0] = 410;
	attempt = with_rules(&rules[4], 1);
	check("a rule may make a retry of 410", reply(410), attempt,
		  retry_after(1000, "HTTP status 410"));
	rules[4].means = CWH_DISABLE;
	check("or disable for it", reply(410), attempt,
		  disabled("HTTP status 410", GONE_410));
}

/*
 * A connector's rules for success, over every combination: of what the rules are,
 * the reply's status, which of their paths match, whether it was cut off, and
 * whether another request may follow.  What is expected is told in another way
 * than decision.c does.
 */
static void
test_success_rules(void)
{
	static const char cut[] = "the reply was cut off at 5 bytes";
	static const char slow[] = "the paths took too long";
	static const char unexpected[] =
		"unexpected reply: text/html, %d, \"<title>Sign in\"";
	int			good[] = {200, 201};
	int			known[] = {409};
	int			wrong[] = {200};
	int			differences = 0;
	int			n[4] = {0};

	for (int i = 0; i < 1 << 12; i++)
	{
		bool		has_good = i & 1;	/* a rule for 200 and 201 */
		bool		good_path = i & 2;	/* which has a path */
		bool		good_elsewhere = i & 4; /* and is for another step */
		bool		has_wrong = i & 8;	/* before it, 200 is dead by a path */
		bool		has_known = i & 16; /* 409 is a success */
		bool		has_memo = i & 32;	/* 200 is remembered */
		bool		good_fits = i & 64; /* the paths match */
		bool		wrong_fits = i & 128;
		bool		cut_off = i & 256;
		bool		too_slow = i & 512 && !cut_off;
		bool		more = i & 1024;
		bool		last_status = i & 2048;
		CwhRule		rules[4];
		bool		paths[4] = {false};
		CwhAttempt	attempt;
		int			nrules = 0;

		memset(rules, 0, sizeof(rules));
		if (has_memo)
			rules[nrules++] = (CwhRule) {
				.nstatuses = 1,.statuses = wrong,.only_remembers = true,
				.means = CWH_DEAD
			};
		if (has_wrong)
		{
			paths[nrules] = wrong_fits;
			rules[nrules++] = (CwhRule) {
				.nstatuses = 1,.statuses = wrong,.has_path = true,
				.means = CWH_DEAD
			};
		}
		if (has_good)
		{
			paths[nrules] = good_fits;
			rules[nrules++] = (CwhRule) {
				.nstatuses = 2,.statuses = good,.has_path = good_path,
				.step = good_elsewhere ? 2 : 1,.means = CWH_DELIVERED
			};
		}
		if (has_known)
			rules[nrules++] = (CwhRule) {
				.nstatuses = 1,.statuses = known,.means = CWH_DELIVERED
			};
		attempt = with_rules(rules, nrules);
		attempt.more = more;
		for (int j = 0; j < 3; j++)
		{
			int			status = j == 0 ? 200 : j == 1 ? 202 : last_status ? 409 : 400;
			bool		is_2xx = status < 300;
			bool		due = has_good && !good_elsewhere;
			CwhEnding	ending = reply(status);
			CwhDecision got;
			CwhDecision want = delivered();
			char		error[100];

			ending.cut_off = cut_off;
			ending.unread = cut_off ? cut : too_slow ? slow : NULL;
			ending.paths = cut_off ? NULL : paths;
			ending.content_type = "text/html";
			ending.words = "\n  <title>Sign in\r\n";
			got = decide(ending, attempt);

			snprintf(error, sizeof(error), unexpected, status);
			if (status == 200 && ending.unread &&
				(has_wrong || (due && good_path)))
				want = retry_after(1000, ending.unread);
			else if (status == 200 && has_wrong && wrong_fits)
				want = dead(error);
			else if (is_2xx && due &&
					 (status == 202 || (good_path && !good_fits)))
				want = retry_after(1000, cut_off ? cut : error);
			else if (!is_2xx && !(status == 409 && has_known))
				want = dead(status == 409 ? "HTTP status 409" : "HTTP status 400");
			else if (more && cut_off)
				want = retry_after(1000, cut);
			else if (more)
				want = next_step();

			n[want.verdict]++;
			if (difference(&got, &want) != NULL && differences++ == 0)
				fprintf(stderr, "# %d with status %d differs in %s: \"%s\", not \"%s\"\n",
						i, status, difference(&got, &want), got.error, want.error);
		}
	}
	{
		CwhRule		limit = {
			.nstatuses = 1,.statuses = wrong,.means = CWH_RETRY,.wait_s = 3
		};
		CwhAttempt	attempt = with_rules(&limit, 1);

		check("a limit can be exceeded with status 200",
			  reply_with(200, NULL, 7), attempt,
			  pause_after(7000, 7, "unexpected reply: no content type, 200, no body"));
		check("the longer wait counts", reply_with(200, NULL, 2), attempt,
			  pause_after(3000, 2, "unexpected reply: no content type, 200, no body"));
	}
	is_int(differences, 0, "every combination of rules for success");
	ok(n[CWH_DELIVERED] > 1000 && n[CWH_RETRY] > 1000 && n[CWH_DEAD] > 1000,
	   "with every verdict among them");
}

/* How an unexpected reply is quoted. */
static void
test_quotes(void)
{
	static const struct
	{
		const char *content_type;
		const char *words;
		const char *error;
	}			quotes[] = {
		{NULL, NULL, "unexpected reply: no content type, 200, no body"},
		{"", " \r\n\t", "unexpected reply: no content type, 200, no body"},
		{"application/json", "{\"ok\": false}",
		"unexpected reply: application/json, 200, \"{\"ok\": false}\""},
		{"a\033[31mb", "\001x\177\n\n y", "unexpected reply: a [31mb, 200, \"x y\""},
		/* next line, line separator, right-to-left override, isolate */
		{"t", "a\xc2\x85" "b\xe2\x80\xa8" "c\xe2\x80\xae" "d\xe2\x81\xa6" "e",
		"unexpected reply: t, 200, \"a b c d e\""},
		{"t", "\xe2\x82\xac \xc3\xa9", "unexpected reply: t, 200, \"\xe2\x82\xac \xc3\xa9\""},
		{"t", "\xe2\x80", "unexpected reply: t, 200, \"\xe2\x80\""},
	};
	int			statuses[] = {200};
	CwhRule		rule = {
		.nstatuses = 1,.statuses = statuses,.means = CWH_RETRY
	};
	char		longest[1000];
	CwhEnding	ending = reply(200);
	CwhDecision got;

	for (size_t i = 0; i < lengthof(quotes); i++)
	{
		ending.content_type = quotes[i].content_type;
		ending.words = quotes[i].words;
		got = decide(ending, with_rules(&rule, 1));
		ok(strcmp(got.error, quotes[i].error) == 0, "quote %d: %s", (int) i,
		   got.error);
	}

	/* Cut, but not within a character. */
	for (size_t i = 0; i + 3 < sizeof(longest); i += 3)
		strcpy(longest + i, "\xe2\x82\xac");
	ending.content_type = longest;
	ending.words = longest;
	got = decide(ending, with_rules(&rule, 1));
	is_int(strlen(got.error), strlen("unexpected reply: , 200, \"\"") + 2 * 99,
		   "a long one is cut between characters");
}

/* Rules are about whole replies of the receiver. */
static void
test_no_rules(void)
{
	int			statuses[] = {0, 200, 400, 401};
	CwhRule		rule = {
		.nstatuses = 4,.statuses = statuses,.means = CWH_DISABLE
	};
	CwhAttempt	attempt = with_rules(&rule, 1);
	CwhEnding	ending;

	check("a failure has no rule", without_reply(CWH_END_FAILED, "lost"),
		  attempt, retry_after(1000, "lost"));
	ending = without_reply(CWH_END_FAILED, "lost");
	ending.status = 200;
	check("even if part of a reply came", ending, attempt,
		  retry_after(1000, "lost"));
	check("nor has a refusal", without_reply(CWH_END_REFUSED, "no"), attempt,
		  dead_unsent("no"));
	check("nor has the want of anything to send",
		  without_reply(CWH_END_NOTHING, NULL), attempt,
		  decide(without_reply(CWH_END_NOTHING, NULL), first_attempt()));
	check("nor has the reply with a token", for_token(reply(200), NULL),
		  attempt, again(CWH_TOKEN_TAKE));
	check("nor one without", for_token(reply(400), NULL), attempt,
		  retry_after(1000, "could not get an access token: HTTP status 400"));
	attempt.has_token = true;
	check("a refused token is renewed first", reply(401), attempt,
		  again(CWH_TOKEN_RENEW));
	attempt.token_hopeless = true;
	check("then a rule counts", reply(401), attempt,
		  disabled("HTTP status 401", GONE_OTHER));
}

/* Looking for a rule's text. */
static void
test_contains(void)
{
	static const struct
	{
		const char *body;
		size_t		len;
		const char *part;
		bool		found;
	}			bodies[] = {
		{NULL, 0, "a", false},
		{"", 0, "a", false},
		{"a", 1, "a", true},
		{"a", 1, "A", false},
		{"a", 1, "ab", false},
		{"xab", 3, "ab", true},
		{"abx", 3, "ab", true},
		{"xabx", 4, "ab", true},
		{"aab", 3, "ab", true},
		{"ab", 1, "ab", false},		/* what follows is not the body's */
		{"a\0b", 3, "b", true},		/* a NUL is a byte like any other */
		{"\xff\xfe\xe2\x82\xac", 5, "\xe2\x82\xac", true},
		{"\xe2\x82", 2, "\xe2\x82\xac", false},
	};
	int			statuses[] = {500};

	for (size_t i = 0; i < lengthof(bodies); i++)
	{
		char		part[8];
		CwhRule		rule = {
			.nstatuses = 1,.statuses = statuses,.contains = part,
			.means = CWH_DELIVERED
		};
		CwhEnding	ending = reply(500);
		CwhDecision got;
		char	   *copy = malloc(bodies[i].len > 0 ? bodies[i].len : 1);

		/* In memory of just its size, so that a sanitizer sees a byte more. */
		if (bodies[i].len > 0)
			memcpy(copy, bodies[i].body, bodies[i].len);
		strcpy(part, bodies[i].part);
		ending.body = bodies[i].body ? copy : NULL;
		ending.body_len = bodies[i].len;
		got = decide(ending, with_rules(&rule, 1));
		ok((got.verdict == CWH_DELIVERED) == bodies[i].found,
		   "body %d: %s", (int) i, bodies[i].found ? "found" : "not found");
		free(copy);
	}
}

/* What a rule's wait and its key come to. */
static void
test_rule_waits(void)
{
	static const struct
	{
		const char *body;
		int64_t		wait_ms;	/* 1000, the backoff, if there is none */
	}			bodies[] = {
		{NULL, 1000},
		{"", 1000},
		{"{\"retry_after\": 30}", 30000},
		{"{\"retry_after\":30}", 30000},
		{"{\"retry_after\" \t\r\n:\t\r\n 30}", 30000},
		{"{\"retry_after\":1.3}", 2000},	/* rounded up */
		{"{\"retry_after\":2.0}", 2000},
		{"{\"retry_after\":2.0000001}", 3000},
		{"{\"retry_after\":.5e1}", 5000},
		{"{\"retry_after\":0}", 1000},
		{"{\"retry_after\":0.2}", 1000},
		{"{\"retry_after\":-5}", 1000},
		{"{\"retry_after\":+5}", 1000},
		{"{\"retry_after\":\"5\"}", 1000},
		{"{\"retry_after\":null}", 1000},
		{"{\"retry_after\":inf}", 1000},
		{"{\"retry_after\":nan}", 1000},
		{"{\"retry_after\":.}", 1000},
		{"{\"retry_after\":3599}", 3599000},
		{"{\"retry_after\":3601}", 3600000},	/* the cap */
		{"{\"retry_after\":999999999}", 3600000},
		{"{\"retry_after\":1000000000}", 1000},	/* not believed */
		{"{\"retry_after\":1e400}", 1000},
		{"retry_after: 30", 1000},
		{"\"retry_after: 30", 1000},
		{"retry_after\": 30", 1000},
		{"{\"retry_after\", 30}", 1000},
		{"{\"xretry_after\": 30}", 1000},
		{"{\"retry_afterx\": 30}", 1000},
		{"{\"retry_after\"", 1000},
		{"{\"retry_after\":", 1000},
		{"\"retry_after", 1000},
		{"{\"note\":\"retry_after\", \"retry_after\": 12}", 12000},
		{"{\"retry_after\": null, \"x\": {\"retry_after\": 12}}", 12000},
		{"{\"retry_after\": 7, \"retry_after\": 12}", 7000},
		{"{\"retry_after\": 7}{", 7000},
	};
	int			statuses[] = {400};
	char		key[] = "retry_after";
	char		empty[] = "";
	CwhRule		rule = {
		.nstatuses = 1,.statuses = statuses,.means = CWH_RETRY,
		.wait_key = key
	};
	CwhAttempt	attempt = with_rules(&rule, 1);
	char		body[2048];

	for (size_t i = 0; i < lengthof(bodies); i++)
	{
		size_t		len = bodies[i].body ? strlen(bodies[i].body) : 0;
		char	   *copy = malloc(len > 0 ? len : 1);
		CwhEnding	ending = reply(400);
		char		what[32];

		if (len > 0)
			memcpy(copy, bodies[i].body, len);
		ending.body = len > 0 ? copy : NULL;
		ending.body_len = len;
		snprintf(what, sizeof(what), "the wait in body %d", (int) i);
		check(what, ending, attempt,
			  retry_after(bodies[i].wait_ms, "HTTP status 400"));
		free(copy);
	}

	/* A key far behind is not found; the last place where it is. */
	memset(body, ' ', sizeof(body));
	strcpy(body + MAX_SEARCHED - 17, "\"retry_after\": 45");
	check("at the end of what is searched", reply_with(400, body, -1), attempt,
		  retry_after(45000, "HTTP status 400"));
	memset(body, ' ', sizeof(body));
	strcpy(body + MAX_SEARCHED - 15, "\"retry_after\": 45");
	check("beyond it", reply_with(400, body, -1), attempt,
		  retry_after(1000, "HTTP status 400"));
	memcpy(body, "\0{\"retry_after\": 45}", 21);
	check("nothing is searched for behind a NUL", reply_with(400, body, -1),
		  attempt, retry_after(1000, "HTTP status 400"));

	rule.wait_key = empty;
	check("an empty key finds nothing", reply_with(400, "{\"\": 45}", -1),
		  attempt, retry_after(1000, "HTTP status 400"));
	check("in no body either", reply(400), attempt,
		  retry_after(1000, "HTTP status 400"));

	rule.wait_key = NULL;
	rule.wait_s = 60;
	check("a rule's own wait", reply(400), attempt,
		  retry_after(60000, "HTTP status 400"));
	rule.wait_s = 7200;
	check("within the cap", reply(400), attempt,
		  retry_after(3600000, "HTTP status 400"));
	rule.wait_s = 1;
	check("the backoff if it is longer", reply(400), attempt,
		  retry_after(1000, "HTTP status 400"));
	attempt.last_wait_ms = 20000;
	check("as later", reply(400), attempt,
		  retry_after(40000, "HTTP status 400"));
	rule.wait_s = 60;
	check("or the rule's", reply(400), attempt,
		  retry_after(60000, "HTTP status 400"));
	check("whatever Retry-After says with this status",
		  reply_with(400, NULL, 90), attempt,
		  retry_after(60000, "HTTP status 400"));
	rule.means = CWH_DEAD;
	check("a wait is for retries only", reply(400), attempt,
		  dead("HTTP status 400"));
}

/* Retry-After, and the rules' waits beside it. */
static void
test_retry_after(void)
{
	static const struct
	{
		int			status;
		int			rule_s;		/* 0: no rule */
		int64_t		retry_after_s;
		int64_t		wait_ms;
		int64_t		pause_s;
	}			waits[] = {
		{429, 0, -1, 1000, -1},
		{429, 0, 0, 1000, 0},
		{429, 0, 1, 1000, 1},
		{429, 0, 30, 30000, 30},
		{429, 0, 3600, 3600000, 3600},
		{429, 0, 3601, 3600000, 3600},
		{429, 0, INT64_MAX, 3600000, 3600},
		{429, 20, -1, 20000, 20},
		{429, 20, 0, 20000, 20},
		{429, 20, 10, 20000, 20},
		{429, 20, 30, 30000, 30},
		{429, 7200, 10, 3600000, 3600},
		{503, 0, -1, 1000, -1},
		{503, 0, 30, 30000, 30},
		{503, 0, 3601, 3600000, 3600},
		/* a rule's wait is then for this delivery only */
		{503, 20, -1, 20000, -1},
		{503, 20, 10, 20000, 10},
		{503, 20, 30, 30000, 30},
		/* with other statuses, Retry-After is for nothing */
		{500, 0, 30, 1000, -1},
		{502, 0, 30, 1000, -1},
		{504, 0, 30, 1000, -1},
		{408, 0, 30, 1000, -1},
		{425, 0, 30, 1000, -1},
		{500, 20, 30, 20000, -1},
		{430, 20, 30, 20000, -1},
	};

	for (size_t i = 0; i < lengthof(waits); i++)
	{
		int			status = waits[i].status;
		CwhRule		rule = {
			.nstatuses = 1,.statuses = &status,.means = CWH_RETRY,
			.wait_s = waits[i].rule_s
		};
		CwhAttempt	attempt = with_rules(&rule, waits[i].rule_s > 0 ? 1 : 0);
		char		error[32];
		char		name[80];
		CwhDecision want;

		snprintf(error, sizeof(error), "HTTP status %d", status);
		snprintf(name, sizeof(name), "%d with a rule's wait %d, Retry-After %lld",
				 status, waits[i].rule_s, (long long) waits[i].retry_after_s);
		want = pause_after(waits[i].wait_ms, waits[i].pause_s, error);
		check(name, reply_with(status, NULL, waits[i].retry_after_s), attempt,
			  want);

		/* That the delivery is given up does not shorten the pause. */
		attempt.retries = 5;
		want.outcome = CWH_OUTCOME_DEAD;
		want.wait_ms = 0;
		check("the last time", reply_with(status, NULL, waits[i].retry_after_s),
			  attempt, want);
	}

	for (int status = 200; status <= 499; status++)
	{
		CwhDecision got = decide(reply_with(status, NULL, 30),
								 first_attempt());

		if (status != 429 && (got.pause_s != -1 || got.wait_ms > 1000))
			ok(false, "status %d has no use for Retry-After", status);
	}
}

/* How often is often enough. */
static void
test_retries(void)
{
	CwhRetryPolicy policy = usual;
	CwhAttempt	attempt = first_attempt();
	int64_t		wait_ms = 0;
	static const int64_t waits[] = {1000, 2000, 4000, 8000, 16000};

	for (int i = 0; i < 5; i++)
	{
		attempt.retries = i;
		attempt.last_wait_ms = wait_ms;
		wait_ms = waits[i];
		check("a retry", reply(500), attempt,
			  retry_after(wait_ms, "HTTP status 500"));
	}
	attempt.retries = 5;
	check("the last attempt", reply(500), attempt,
		  exhausted("HTTP status 500"));
	check("if it fails", without_reply(CWH_END_FAILED, "lost"), attempt,
		  exhausted("lost"));
	check("but not if it succeeds", reply(200), attempt, delivered());
	attempt.retries = 6;
	check("one too many", reply(500), attempt, exhausted("HTTP status 500"));
	attempt.retries = INT_MAX;
	check("as many as can be", reply(500), attempt,
		  exhausted("HTTP status 500"));

	policy.max_retries = 0;
	attempt = first_attempt();
	attempt.retry = &policy;
	check("no retry at all", reply(500), attempt,
		  exhausted("HTTP status 500"));
	policy.max_retries = INT_MAX;
	attempt.retries = INT_MAX - 1;
	attempt.last_wait_ms = 1000;
	check("retries without end", reply(500), attempt,
		  retry_after(2000, "HTTP status 500"));
	attempt.random01 = 0;
	check("a wait is randomized", reply(500), attempt,
		  retry_after(1000, "HTTP status 500"));
	policy.backoff_ms = 30;
	policy.multiplier = 3;
	policy.max_backoff_ms = 2500;
	attempt.random01 = 0.75;
	check("by the webhook's policy", reply(500), attempt,
		  retry_after(2500, "HTTP status 500"));
	attempt.last_wait_ms = 0;
	check("from its first wait", reply(500), attempt,
		  retry_after(30, "HTTP status 500"));
}

/* Access tokens: asked for, refused and renewed. */
static void
test_tokens(void)
{
	static const char none[] = "its reply has no access_token";
	CwhAttempt	attempt = first_attempt();
	CwhDecision want;
	int			wrong = 0;

	for (int status = 100; status <= 599; status++)
	{
		char		error[80];
		CwhDecision got = decide(for_token(reply_with(status, "{}", 30), NULL),
								 attempt);

		snprintf(error, sizeof(error),
				 "could not get an access token: HTTP status %d", status);
		want = status / 100 == 2 ? again(CWH_TOKEN_TAKE) :
			retry_after(1000, error);
		if (difference(&got, &want) != NULL)
			wrong++;
	}
	is_int(wrong, 0, "a token comes with every 2xx and no other status");
	check("the reply has none", for_token(reply(200), none), attempt,
		  retry_after(1000, "could not get an access token: its reply has no access_token"));
	check("with another status, that is what matters",
		  for_token(reply(404), none), attempt,
		  retry_after(1000, "could not get an access token: HTTP status 404"));
	check("the request for it failed",
		  for_token(without_reply(CWH_END_FAILED, "timed out"), NULL), attempt,
		  retry_after(1000, "could not get an access token: timed out"));
	check("it was refused",
		  for_token(without_reply(CWH_END_REFUSED, "not allowed"), NULL),
		  attempt,
		  dead_unsent("could not get an access token: not allowed"));
	attempt.step = 2;
	check("for a later request",
		  for_token(without_reply(CWH_END_FAILED, "timed out"), NULL), attempt,
		  retry_after(1000, "request 2: could not get an access token: timed out"));
	attempt.more = true;
	check("which is not the end of a step", for_token(reply(200), none),
		  attempt,
		  retry_after(1000, "request 2: could not get an access token: its reply has no access_token"));
	attempt.retries = 5;
	check("a token is taken in the last attempt, too",
		  for_token(reply(200), NULL), attempt, again(CWH_TOKEN_TAKE));
	check("which ends without one", for_token(reply(500), NULL), attempt,
		  exhausted("request 2: could not get an access token: HTTP status 500"));

	check("a refused token is renewed", reply(401), with_token(false, false),
		  again(CWH_TOKEN_RENEW));
	want = dead("HTTP status 401");
	want.token = CWH_TOKEN_HOPELESS;
	check("once", reply(401), with_token(true, false), want);
	check("then that is hopeless", reply(401), with_token(true, true), want);
	check("if it has been hopeless it is not renewed", reply(401),
		  with_token(false, true), dead("HTTP status 401"));
	check("there is nothing to renew without a token", reply(401),
		  first_attempt(), dead("HTTP status 401"));
	attempt = with_token(false, false);
	attempt.retries = 5;
	attempt.step = 3;
	attempt.more = true;
	check("a token is renewed in the last attempt, too", reply(401), attempt,
		  again(CWH_TOKEN_RENEW));
	check("the token endpoint's own 401 renews nothing",
		  for_token(reply(401), NULL), with_token(false, false),
		  retry_after(1000, "could not get an access token: HTTP status 401"));
	check("and makes nothing hopeless", for_token(reply(401), NULL),
		  with_token(true, false),
		  retry_after(1000, "could not get an access token: HTTP status 401"));

	wrong = 0;
	for (int status = 100; status <= 599; status++)
	{
		CwhDecision got = decide(reply(status), with_token(false, false));

		want = decide(reply(status), first_attempt());
		if (status != 401 && difference(&got, &want) != NULL)
			wrong++;
	}
	is_int(wrong, 0, "no other status renews a token");
}

/* The request is made again, with other signatures. */
static CwhDecision
again_signed(CwhSecretFate secret)
{
	CwhDecision want = again(CWH_TOKEN_KEEP);

	want.secret = secret;
	return want;
}

/* Two secrets that overlap: refused, tried again, and learned. */
static void
test_secrets(void)
{
	CwhAttempt	attempt = first_attempt();
	CwhDecision want;
	int			wrong = 0;

	for (int status = 100; status <= 599; status++)
	{
		bool		refused = status == 401 || status == 403;
		CwhDecision got = decide(reply(status), with_secrets(false, 0));

		want = refused ? again_signed(CWH_SECRET_SWAP) :
			decide(reply(status), first_attempt());
		if (difference(&got, &want) != NULL)
			wrong++;
		/* whatever else is answered, the second secret is taken */
		got = decide(reply(status), with_secrets(true, 1));
		want = decide(reply(status), first_attempt());
		want.secret = refused ? CWH_SECRET_KEEP : CWH_SECRET_LEARN;
		if (difference(&got, &want) != NULL)
			wrong++;
	}
	is_int(wrong, 0, "401 and 403, and no other status, refuse a secret");

	check("one that was known to be taken", reply(403), with_secrets(true, 0),
		  again_signed(CWH_SECRET_SWAP));
	check("both, where nothing was known", reply(401), with_secrets(false, 1),
		  again_signed(CWH_SECRET_SWAP));
	want = dead("HTTP status 401");
	want.secret = CWH_SECRET_LEARN;
	check("all three times", reply(401), with_secrets(false, 2), want);
	check("both, where one was known", reply(401), with_secrets(true, 1),
		  dead("HTTP status 401"));
	attempt.is_signed = true;
	check("the only one there is", reply(401), attempt, dead("HTTP status 401"));
	attempt.outdated = true;
	check("it may not be any more", reply(401), attempt,
		  again_signed(CWH_SECRET_RELOAD));
	check("which only matters if it was refused", reply(400), attempt,
		  dead("HTTP status 400"));
	attempt.is_signed = false;
	check("and if there was a signature", reply(401), attempt,
		  dead("HTTP status 401"));
	attempt = with_secrets(false, 0);
	attempt.is_signed = false;
	check("so does the other secret", reply(401), attempt,
		  dead("HTTP status 401"));
	check("a failure without a reply teaches nothing",
		  without_reply(CWH_END_FAILED, "timed out"), with_secrets(false, 1),
		  retry_after(1000, "timed out"));
	check("nor does a token endpoint", for_token(reply(401), NULL),
		  with_secrets(false, 1),
		  retry_after(1000, "could not get an access token: HTTP status 401"));
	check("one that wants no retry gets none", ordering(401, CWH_ORDER_ABORT),
		  with_secrets(false, 1),
		  dead("HTTP status 401 (webhook-delivery: abort)"));

	attempt = with_secrets(true, 0);
	attempt.has_token = true;
	check("a token is renewed before", reply(401), attempt,
		  again(CWH_TOKEN_RENEW));
	attempt.token_renewed = true;
	want = again_signed(CWH_SECRET_SWAP);
	want.token = CWH_TOKEN_HOPELESS;
	check("then it is the secret's turn", reply(401), attempt, want);
	attempt.retries = 5;
	check("in the last attempt, too", reply(401), attempt, want);
}

/* Read the header webhook-delivery from memory that ends where it does. */
static CwhOrder
order_of(const char *headers)
{
	size_t		len = strlen(headers);
	char	   *copy = malloc(len > 0 ? len : 1);
	CwhOrder	order;

	memcpy(copy, headers, len);
	order = cwh_reply_order(copy, len);
	free(copy);
	return order;
}

/* What a receiver asks for with the header webhook-delivery. */
static void
test_orders(void)
{
	static const struct
	{
		const char *headers;
		CwhOrder	order;
	}			cases[] = {
		{"", CWH_ORDER_NONE},
		{"\r\n", CWH_ORDER_NONE},
		{"webhook-delivery: abort\r\n", CWH_ORDER_ABORT},
		{"webhook-delivery: disable\r\n", CWH_ORDER_DISABLE},
		{"Date: x\r\nWebHook-Delivery:\t DisAble \t\r\nServer: y\r\n\r\n", CWH_ORDER_DISABLE},
		{"WEBHOOK-DELIVERY:ABORT", CWH_ORDER_ABORT},
		{"webhook-delivery: abort\n", CWH_ORDER_ABORT},
		{"webhook-delivery: abort\r\nwebhook-delivery: disable\r\n", CWH_ORDER_ABORT},
		{"webhook-delivery: abort , disable\r\n", CWH_ORDER_ABORT},
		{"webhook-delivery: retry\r\nwebhook-delivery: disable\r\n", CWH_ORDER_NONE},
		{"webhook-delivery:\r\n", CWH_ORDER_NONE},
		{"webhook-delivery", CWH_ORDER_NONE},
		{"webhook-delivery:", CWH_ORDER_NONE},
		{"webhook-delivery : abort\r\n", CWH_ORDER_NONE},
		{"x-webhook-delivery: abort\r\n", CWH_ORDER_NONE},
		{"webhook-deliveries: abort\r\n", CWH_ORDER_NONE},
		{"webhook-delivery: aborted\r\n", CWH_ORDER_NONE},
		{"webhook-delivery: abort; now\r\n", CWH_ORDER_NONE},
		{"webhook-delivery: ab ort\r\n", CWH_ORDER_NONE},
		{"webhook-delivery: \"abort\"\r\n", CWH_ORDER_NONE},
		{"X: webhook-delivery: abort\r\n", CWH_ORDER_NONE},
	};
	int			wrong = 0;

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		bool		right = order_of(cases[i].headers) == cases[i].order;

		if (!right)
			printf("# wrong: %s\n", cases[i].headers);
		wrong += !right;
	}
	is_int(wrong, 0, "the header is read as it should be");
	is_int(cwh_reply_order(NULL, 0), CWH_ORDER_NONE, "there need be none");

	wrong = 0;
	for (int status = 100; status <= 599; status++)
	{
		CwhDecision got = decide(ordering(status, CWH_ORDER_ABORT),
								 first_attempt());
		CwhDecision want = decide(reply(status), first_attempt());

		if (want.verdict == CWH_RETRY)
			want = dead("");
		snprintf(want.error, sizeof(want.error),
				 status / 100 == 2 ? "" : "HTTP status %d (webhook-delivery: abort)",
				 status);
		if (difference(&got, &want) != NULL)
			wrong++;

		got = decide(ordering(status, CWH_ORDER_DISABLE), first_attempt());
		want = status / 100 == 2 ? delivered() : disabled("", NULL);
		want.disable = "the receiver answered webhook-delivery: disable";
		snprintf(want.error, sizeof(want.error),
				 status / 100 == 2 ? "" : "HTTP status %d (webhook-delivery: disable)",
				 status);
		if (difference(&got, &want) != NULL)
			wrong++;
	}
	is_int(wrong, 0, "it is obeyed with every status");
}

/* All endings and attempts that differ in anything. */
#define NENDINGS	(5 * 8 * 3 * 2 * 2)
#define NATTEMPTS	(2 * 3 * 2 * 2 * 2 * 2)

static CwhEnding
any_ending(int i)
{
	static const int statuses[] = {0, 200, 301, 401, 410, 429, 500, 503};
	static const int64_t asked[] = {-1, 20, 5000};
	CwhEnding	ending = {
		.end = (CwhEnd) (i % 5),
		.status = statuses[i / 5 % 8],
		.error = "why it failed",
		.retry_after_s = asked[i / 40 % 3],
		.body = "{\"retry_after\":9}",
		.body_len = 17,
		.for_token = i / 120 % 2 == 1,
		.token_problem = i / 240 % 2 == 1 ? "no token" : NULL,
	};

	return ending;
}

static CwhAttempt
any_attempt(int i)
{
	static int	statuses[] = {301, 429};
	static char key[] = "retry_after";
	static const CwhRule rule = {
		.nstatuses = 2,.statuses = statuses,.means = CWH_RETRY,.wait_key = key
	};
	static const int retries[] = {0, 4, 5};
	CwhAttempt	attempt = with_rules(&rule, i % 2);

	attempt.retries = retries[i / 2 % 3];
	attempt.step = 1 + i / 6 % 2;
	attempt.more = i / 12 % 2 == 1;
	attempt.has_token = i / 24 % 2 == 1;
	attempt.token_renewed = i / 48 % 2 == 1;
	return attempt;
}

/* Is a decision one that makes sense? */
static bool
makes_sense(const CwhDecision *d, const CwhEnding *ending,
			const CwhAttempt *attempt)
{
	bool		nothing = ending->end == CWH_END_NOTHING && !ending->for_token;

	if (d->starved != (ending->end == CWH_END_STARVED))
		return false;
	if (d->next == CWH_NEXT_AGAIN)
		return (d->starved || d->token == CWH_TOKEN_TAKE ||
				d->token == CWH_TOKEN_RENEW) &&
			!d->counts && d->wait_ms == 0 && d->error[0] == '\0' &&
			d->breaker == CWH_SIGNAL_NONE && d->window == CWH_WINDOW_KEEP &&
			!d->judged && d->pause_s == -1 && d->disable == NULL;
	if (d->token == CWH_TOKEN_TAKE || d->token == CWH_TOKEN_RENEW)
		return false;
	if ((d->next == CWH_NEXT_STEP) != (d->outcome == CWH_OUTCOME_STEP) ||
		(d->next == CWH_NEXT_STEP && !attempt->more))
		return false;
	if ((d->verdict == CWH_DELIVERED) != (d->error[0] == '\0') ||
		(d->verdict == CWH_DISABLE) != (d->disable != NULL) ||
		(d->verdict == CWH_RETRY) != (d->breaker == CWH_SIGNAL_FAILED) ||
		(d->verdict == CWH_RETRY) != (d->window == CWH_WINDOW_HALVE))
		return false;
	if ((d->outcome == CWH_OUTCOME_RETRY) != (d->wait_ms > 0) ||
		(d->outcome == CWH_OUTCOME_RETRY &&
		 attempt->retries >= attempt->retry->max_retries) ||
		d->outcome == CWH_OUTCOME_CANCELED)
		return false;
	if (d->pause_s != -1 &&
		(d->breaker != CWH_SIGNAL_FAILED || d->pause_s < 0 ||
		 d->pause_s > CWH_RETRY_AFTER_CAP_S))
		return false;
	if (d->next == CWH_NEXT_SETTLE && !nothing &&
		(!d->counts || !d->judged ||
		 d->proven != (d->verdict == CWH_DELIVERED)))
		return false;
	return true;
}

/* What can be said of all decisions. */
static void
test_all(void)
{
	int			senseless = 0;
	int			different = 0;
	int			n[3] = {0};

	for (int e = 0; e < NENDINGS; e++)
		for (int a = 0; a < NATTEMPTS; a++)
		{
			CwhEnding	ending = any_ending(e);
			CwhAttempt	attempt = any_attempt(a);
			CwhDecision first;
			CwhDecision other;

			/* no such thing */
			if (ending.for_token && ending.end == CWH_END_NOTHING)
				continue;
			first = decide(ending, attempt);
			n[first.next]++;
			if (!makes_sense(&first, &ending, &attempt))
				senseless++;

			/* For the others of a batch, only the outcome differs. */
			attempt.retries = 5 - attempt.retries;
			attempt.last_wait_ms = 12345;
			attempt.random01 = 0.25;
			other = decide(ending, attempt);
			other.outcome = first.outcome;
			other.wait_ms = first.wait_ms;
			if (difference(&other, &first) != NULL)
				different++;
		}
	ok(n[CWH_NEXT_AGAIN] > 0 && n[CWH_NEXT_STEP] > 0 &&
	   n[CWH_NEXT_SETTLE] > 0, "everything that may follow does");
	printf("# again %d, step %d, settle %d\n", n[CWH_NEXT_AGAIN],
		   n[CWH_NEXT_STEP], n[CWH_NEXT_SETTLE]);
	is_int(senseless, 0, "all decisions make sense");
	is_int(different, 0, "those of a batch differ in outcome and wait only");
}

int
main(void)
{
	test_statuses();
	test_ends();
	test_nothing();
	test_steps();
	test_errors();
	test_rules();
	test_success_rules();
	test_quotes();
	test_no_rules();
	test_contains();
	test_rule_waits();
	test_retry_after();
	test_retries();
	test_tokens();
	test_secrets();
	test_orders();
	test_all();

	return done_testing();
}
