/*
 * decision.c
 *		What follows from the end of a request: where a retry is decided.
 *
 * Some ends say nothing about the delivery, and the attempt goes on: there was
 * no free descriptor for a connection, the request brought an access token, or
 * the receiver refused a token that is worth renewing, or a signature while
 * another one may be right.
 *
 * Every other end has a verdict.  A reply is judged by the first rule of the
 * connector that matches it, or else by its status.  Where the connector has
 * rules for what success looks like, a 2xx status alone proves nothing: a proxy's
 * error page has one, too.  A request that failed without a reply is retried; one
 * that may not be sent is dead.  The receiver can ask for no retry, or for no more
 * requests, with the header webhook-delivery.  The verdict determines the
 * delivery's outcome and its wait (see retry.c), and what the webhook's circuit
 * breaker and window learn.
 *
 * This file knows nothing of PostgreSQL, of libcurl, of clocks or of random
 * numbers: the result depends on the arguments only.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision.h"

/* Statuses that mean something else than the rest of their class. */
#define STATUS_UNAUTHORIZED			401
#define STATUS_FORBIDDEN			403
#define STATUS_REQUEST_TIMEOUT		408
#define STATUS_GONE					410
#define STATUS_TOO_EARLY			425
#define STATUS_TOO_MANY_REQUESTS	429
#define STATUS_SERVICE_UNAVAILABLE	503

/* How many bytes of a body are searched for a rule's wait_key. */
#define MAX_SEARCHED	1023

static CwhTokenFate decide_token(const CwhEnding *ending,
								 const CwhAttempt *attempt);
static CwhSecretFate decide_secret(const CwhEnding *ending,
								   const CwhAttempt *attempt);
static CwhVerdict reach_verdict(const CwhEnding *ending,
								const CwhAttempt *attempt,
								int64_t *rule_wait_s, const char **unread);
static void decide_nothing(CwhDecision *decision, const CwhAttempt *attempt);
static void decide_step(CwhDecision *decision);
static void decide_delivery(CwhDecision *decision, const CwhEnding *ending,
							const CwhAttempt *attempt, int64_t rule_wait_s,
							const char *unread);
static void decide_webhook(CwhDecision *decision, const CwhEnding *ending,
						   int64_t rule_wait_s);
static CwhVerdict judge_status(int status);
static const CwhRule *find_rule(const CwhEnding *ending,
								const CwhAttempt *attempt, bool *undecided);
static bool expects_more(const CwhAttempt *attempt);
static int64_t rule_wait(const CwhRule *rule, const CwhEnding *ending);
static int64_t seconds_in_body(const CwhEnding *ending, const char *key);
static void quote_reply(const CwhEnding *ending, char *out, size_t size);
static void set_error(CwhDecision *decision, const CwhEnding *ending,
					  int step, const char *unread);

/* Decide what follows from the end of a request. */
void
cwh_decide(CwhDecision *decision, const CwhEnding *ending,
		   const CwhAttempt *attempt)
{
	int64_t		rule_wait_s;
	const char *unread;

	memset(decision, 0, sizeof(*decision));
	decision->pause_s = -1;

	decision->starved = ending->end == CWH_END_STARVED;
	decision->token = decide_token(ending, attempt);
	if (decision->starved || decision->token == CWH_TOKEN_TAKE ||
		decision->token == CWH_TOKEN_RENEW)
	{
		decision->next = CWH_NEXT_AGAIN;
		return;
	}
	decision->secret = decide_secret(ending, attempt);
	if (decision->secret == CWH_SECRET_SWAP ||
		decision->secret == CWH_SECRET_RELOAD)
	{
		decision->next = CWH_NEXT_AGAIN;
		return;
	}

	decision->verdict = reach_verdict(ending, attempt, &rule_wait_s, &unread);
	if (ending->end == CWH_END_NOTHING)
		decide_nothing(decision, attempt);
	else if (decision->verdict == CWH_DELIVERED && attempt->more)
		decide_step(decision);
	else
	{
		decide_delivery(decision, ending, attempt, rule_wait_s, unread);
		decide_webhook(decision, ending, rule_wait_s);
	}
	if (ending->order == CWH_ORDER_DISABLE)
		decision->disable = "the receiver answered webhook-delivery: disable";
}

/* Did the receiver answer?  A token endpoint is another server. */
static bool
is_answer(const CwhEnding *ending)
{
	return ending->end == CWH_END_REPLY && !ending->for_token;
}

/* The receiver's status; 0 if there is none. */
static int
receiver_status(const CwhEnding *ending)
{
	return ending->for_token ? 0 : ending->status;
}

/* Is this a successful status? */
static bool
is_success(int status)
{
	return status >= 200 && status <= 299;
}

/*
 * Does Retry-After count with this end, if the request is to be retried?  A 2xx
 * is retried only where a connector's rules see a failure in it: some services
 * report that a limit was exceeded with status 200.
 */
static bool
has_retry_after(const CwhEnding *ending)
{
	int			status = receiver_status(ending);

	return status == STATUS_TOO_MANY_REQUESTS ||
		status == STATUS_SERVICE_UNAVAILABLE ||
		(is_answer(ending) && is_success(status));
}

/*
 * Decide what becomes of the access token.  A token that the receiver refuses
 * may have expired or may have been revoked, so it is renewed, once per
 * request.  If the new one is refused as well, renewing is hopeless for a
 * while.
 */
static CwhTokenFate
decide_token(const CwhEnding *ending, const CwhAttempt *attempt)
{
	if (ending->for_token && ending->end == CWH_END_REPLY &&
		is_success(ending->status) && ending->token_problem == NULL)
		return CWH_TOKEN_TAKE;

	if (!is_answer(ending) || ending->status != STATUS_UNAUTHORIZED ||
		!attempt->has_token)
		return CWH_TOKEN_KEEP;
	if (attempt->token_renewed)
		return CWH_TOKEN_HOPELESS;
	return attempt->token_hopeless ? CWH_TOKEN_KEEP : CWH_TOKEN_RENEW;
}

/*
 * Decide whether to try another signature.
 *
 * While two secrets overlap, one of them comes first, and a receiver that
 * knows only the other refuses the request.  Then try each secret once, and
 * the first one again if it was not known which one the receiver accepts: it
 * may have changed its secret between the two tries.  A receiver that refuses
 * everything costs that third try only once per overlap, because the last
 * secret tried is remembered anyway.
 *
 * A request that was in flight when the secret was rotated may be refused by a
 * receiver that already has the new one.
 */
static CwhSecretFate
decide_secret(const CwhEnding *ending, const CwhAttempt *attempt)
{
	if (!attempt->is_signed || !is_answer(ending))
		return CWH_SECRET_KEEP;
	if (ending->status != STATUS_UNAUTHORIZED &&
		ending->status != STATUS_FORBIDDEN)
		return attempt->refusals > 0 ? CWH_SECRET_LEARN : CWH_SECRET_KEEP;
	if (ending->order != CWH_ORDER_NONE)
		return CWH_SECRET_KEEP;
	if (attempt->outdated)
		return CWH_SECRET_RELOAD;
	if (!attempt->overlap)
		return CWH_SECRET_KEEP;
	if (attempt->refusals < (attempt->secret_known ? 1 : 2))
		return CWH_SECRET_SWAP;
	return attempt->secret_known ? CWH_SECRET_KEEP : CWH_SECRET_LEARN;
}

/*
 * Reach the verdict on a reply.  *unread is set to why the reply could not be
 * read, if that is what the verdict depends on.
 *
 * A reply that the connector is to see must be whole: cut off, it can look like
 * one that has found nothing.
 */
static CwhVerdict
judge_reply(const CwhEnding *ending, const CwhAttempt *attempt,
			int64_t *rule_wait_s, const char **unread)
{
	bool		undecided = false;
	const CwhRule *rule = find_rule(ending, attempt, &undecided);
	CwhVerdict	verdict = rule ? rule->means : judge_status(ending->status);

	if (rule)
		*rule_wait_s = rule_wait(rule, ending);
	else if (is_success(ending->status) && expects_more(attempt))
	{
		if (ending->cut_off)
			undecided = true;
		verdict = CWH_RETRY;
	}
	if (undecided ||
		(verdict == CWH_DELIVERED && attempt->more && ending->cut_off))
	{
		*unread = ending->unread;
		verdict = CWH_RETRY;
	}
	/* a delivery that was accepted stays delivered */
	if (verdict != CWH_DELIVERED && ending->order == CWH_ORDER_DISABLE)
		verdict = CWH_DISABLE;
	if (verdict == CWH_RETRY && ending->order == CWH_ORDER_ABORT)
		verdict = CWH_DEAD;
	return verdict;
}

/*
 * Reach the verdict.  *rule_wait_s is set to the minimum wait before a retry
 * that the connector's rule asks for, or -1; *unread to why the reply could not
 * be read, if that decides, or null.
 */
static CwhVerdict
reach_verdict(const CwhEnding *ending, const CwhAttempt *attempt,
			  int64_t *rule_wait_s, const char **unread)
{
	*rule_wait_s = -1;
	*unread = NULL;
	switch (ending->end)
	{
		case CWH_END_NOTHING:
			return CWH_DELIVERED;
		case CWH_END_REFUSED:
			return CWH_DEAD;
		case CWH_END_FAILED:
		case CWH_END_STARVED:
			return CWH_RETRY;
		case CWH_END_REPLY:
			break;
	}

	/* The request itself could not be sent, for want of a token. */
	if (ending->for_token)
		return CWH_RETRY;
	return judge_reply(ending, attempt, rule_wait_s, unread);
}

/*
 * The connector has nothing (more) to send.  That is an attempt, and a
 * successful one, if earlier requests were sent.
 */
static void
decide_nothing(CwhDecision *decision, const CwhAttempt *attempt)
{
	bool		any_sent = attempt->step > 1;

	decision->next = CWH_NEXT_SETTLE;
	decision->outcome = CWH_OUTCOME_DELIVERED;
	decision->counts = any_sent;
	decision->window = any_sent ? CWH_WINDOW_GROW : CWH_WINDOW_KEEP;
}

/* The request succeeded, and the connector may ask for another one. */
static void
decide_step(CwhDecision *decision)
{
	decision->next = CWH_NEXT_STEP;
	decision->outcome = CWH_OUTCOME_STEP;
	decision->breaker = CWH_SIGNAL_ANSWERED;
}

/* The attempt is over: decide what becomes of the delivery. */
static void
decide_delivery(CwhDecision *decision, const CwhEnding *ending,
				const CwhAttempt *attempt, int64_t rule_wait_s,
				const char *unread)
{
	int64_t		wait_s = rule_wait_s;

	decision->next = CWH_NEXT_SETTLE;
	decision->counts = true;
	if (decision->verdict == CWH_DELIVERED)
	{
		decision->outcome = CWH_OUTCOME_DELIVERED;
		return;
	}

	set_error(decision, ending, attempt->step, unread);
	if (decision->verdict != CWH_RETRY ||
		attempt->retries >= attempt->retry->max_retries)
	{
		decision->outcome = CWH_OUTCOME_DEAD;
		return;
	}

	decision->outcome = CWH_OUTCOME_RETRY;
	if (has_retry_after(ending) && wait_s < ending->retry_after_s)
		wait_s = ending->retry_after_s;
	decision->wait_ms = cwh_next_retry(attempt->retry, attempt->retries,
									   attempt->last_wait_ms,
									   attempt->random01, wait_s);
}

/*
 * The pause in seconds that the receiver requests for all requests, rather
 * than for this one only; -1 if it requests none.
 */
static int64_t
requested_pause(const CwhEnding *ending, int64_t rule_wait_s)
{
	int			status = receiver_status(ending);
	int64_t		pause_s = -1;

	if (status == STATUS_TOO_MANY_REQUESTS)
		pause_s = rule_wait_s;
	if (has_retry_after(ending) && pause_s < ending->retry_after_s)
		pause_s = ending->retry_after_s;
	return pause_s < CWH_RETRY_AFTER_CAP_S ? pause_s : CWH_RETRY_AFTER_CAP_S;
}

/* The attempt is over: decide what follows for the webhook. */
static void
decide_webhook(CwhDecision *decision, const CwhEnding *ending,
			   int64_t rule_wait_s)
{
	decision->judged = true;
	decision->proven = decision->verdict == CWH_DELIVERED;
	if (decision->verdict == CWH_RETRY)
	{
		decision->breaker = CWH_SIGNAL_FAILED;
		decision->pause_s = requested_pause(ending, rule_wait_s);
		decision->window = CWH_WINDOW_HALVE;
		return;
	}

	if (is_answer(ending))
		decision->breaker = CWH_SIGNAL_ANSWERED;
	if (decision->verdict == CWH_DELIVERED)
		decision->window = CWH_WINDOW_GROW;
	else if (decision->verdict == CWH_DISABLE)
		decision->disable = ending->status == STATUS_GONE ?
			"the receiver answered 410 Gone" :
			"the receiver's answer means that there will be no other";
}

/* Is the text this word, in any case?  The word is in lower case. */
static bool
is_word(const char *text, size_t len, const char *word)
{
	if (len != strlen(word))
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = text[i];

		/* tolower() depends on the locale */
		if (c >= 'A' && c <= 'Z')
			c += 'a' - 'A';
		if (c != word[i])
			return false;
	}
	return true;
}

/* Parse the value of the header webhook-delivery. */
static CwhOrder
read_order(const char *value, size_t len)
{
	size_t		n = 0;

	while (len > 0 && (*value == ' ' || *value == '\t'))
	{
		value++;
		len--;
	}
	while (n < len && value[n] != ',' && value[n] != '\r')
		n++;
	while (n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t'))
		n--;
	return is_word(value, n, "abort") ? CWH_ORDER_ABORT :
		is_word(value, n, "disable") ? CWH_ORDER_DISABLE : CWH_ORDER_NONE;
}

/*
 * Find and parse the header webhook-delivery of a reply.  If there are several
 * values, on one line or on several, the first counts; an unknown value is
 * ignored.  The text need not be NUL-terminated.
 */
CwhOrder
cwh_reply_order(const char *headers, size_t len)
{
	static const char name[] = "webhook-delivery:";
	const size_t name_len = sizeof(name) - 1;

	while (len > 0)
	{
		const char *newline = memchr(headers, '\n', len);
		size_t		line = newline ? (size_t) (newline - headers) : len;

		if (line >= name_len && is_word(headers, name_len, name))
			return read_order(headers + name_len, line - name_len);
		if (newline)
			line++;
		headers += line;
		len -= line;
	}
	return CWH_ORDER_NONE;
}

/* Judge a reply by its status. */
static CwhVerdict
judge_status(int status)
{
	if (is_success(status))
		return CWH_DELIVERED;

	if (status >= 500 && status <= 599)
		return CWH_RETRY;

	switch (status)
	{
		case 0:					/* the reply was not HTTP */
		case STATUS_REQUEST_TIMEOUT:
		case STATUS_TOO_EARLY:
		case STATUS_TOO_MANY_REQUESTS:
			return CWH_RETRY;
		case STATUS_GONE:
			return CWH_DISABLE;
	}

	/*
	 * The others blame the request, which a retry would not change, or are
	 * redirects.  Those are never followed: they could lead a signed message
	 * with its credentials to a URL that the webhook's owner did not
	 * configure.
	 */
	return CWH_DEAD;
}

/* Is this text in the reply's body? */
static bool
body_contains(const CwhEnding *ending, const char *part)
{
	size_t		len = strlen(part);

	for (size_t i = 0; i + len <= ending->body_len; i++)
	{
		if (ending->body[i] == part[0] &&
			memcmp(ending->body + i, part, len) == 0)
			return true;
	}
	return false;
}

/* Does a rule name this status? */
static bool
has_status(const CwhRule *rule, int status)
{
	for (int i = 0; i < rule->nstatuses; i++)
	{
		if (rule->statuses[i] == status)
			return true;
	}
	return false;
}

/* Does a rule fit the reply to this step, whatever its path? */
bool
cwh_rule_fits(const CwhRule *rule, const CwhEnding *ending, int step)
{
	return has_status(rule, ending->status) &&
		(rule->step == 0 || rule->step == step) &&
		(rule->contains == NULL || body_contains(ending, rule->contains));
}

/*
 * Find the first rule of the connector that judges the reply, or NULL.
 * *undecided is set if a rule before it might: a success with a path that could
 * not be evaluated.  Other statuses can do without, as they are failures anyway.
 */
static const CwhRule *
find_rule(const CwhEnding *ending, const CwhAttempt *attempt, bool *undecided)
{
	for (int i = 0; i < attempt->nrules; i++)
	{
		const CwhRule *rule = &attempt->rules[i];

		if (rule->only_remembers || !cwh_rule_fits(rule, ending, attempt->step))
			continue;
		if (!rule->has_path)
			return rule;
		if (ending->unread)
			*undecided = *undecided || is_success(ending->status);
		else if (ending->paths && ending->paths[i])
			return rule;
	}
	return NULL;
}

/*
 * Do the connector's rules say what success looks like at this step, so that a
 * 2xx that fits none of them is a failure?  A rule for other statuses, such as
 * 409, only adds to what counts as success.
 */
static bool
expects_more(const CwhAttempt *attempt)
{
	for (int i = 0; i < attempt->nrules; i++)
	{
		const CwhRule *rule = &attempt->rules[i];

		if (rule->only_remembers || rule->means != CWH_DELIVERED ||
			(rule->step != 0 && rule->step != attempt->step))
			continue;
		for (int j = 0; j < rule->nstatuses; j++)
		{
			if (is_success(rule->statuses[j]))
				return true;
		}
	}
	return false;
}

/* The minimum wait in seconds that a rule asks for; -1 if it asks for none. */
static int64_t
rule_wait(const CwhRule *rule, const CwhEnding *ending)
{
	if (rule->wait_key != NULL)
		return seconds_in_body(ending, rule->wait_key);
	return rule->wait_s > 0 ? rule->wait_s : -1;
}

/*
 * Find the number of seconds that the reply's body has under a key, rounded
 * up; -1 if there is none.  A text search will do instead of a parser: the
 * worst that a hostile body can cause is a wait, which is capped.
 */
static int64_t
seconds_in_body(const CwhEnding *ending, const char *key)
{
	char		body[MAX_SEARCHED + 1];
	size_t		len = ending->body_len < MAX_SEARCHED ?
		ending->body_len : MAX_SEARCHED;
	char	   *at = body;

	/* An empty key would match everywhere, and the search would never end. */
	if (key[0] == '\0')
		return -1;

	if (len > 0)
		memcpy(body, ending->body, len);
	body[len] = '\0';
	while ((at = strstr(at, key)) != NULL)
	{
		bool		quoted = at > body && at[-1] == '"';
		double		seconds;
		char	   *end;

		at += strlen(key);
		if (!quoted || *at != '"')
			continue;
		at++;
		at += strspn(at, " \t\r\n");
		if (*at != ':')
			continue;
		at++;
		at += strspn(at, " \t\r\n");
		if (strspn(at, "0123456789.") == 0)
			continue;
		seconds = strtod(at, &end);
		if (end > at && seconds >= 0 && seconds < 1e9)
			return (int64_t) seconds + (seconds > (int64_t) seconds ? 1 : 0);
	}
	return -1;
}

/* Drop an incomplete UTF-8 character from the end of a text that was cut. */
static void
drop_partial_character(char *text)
{
	size_t		len = strlen(text);
	size_t		start = len;
	unsigned char lead;
	size_t		width;

	/* Find the first byte of the last character. */
	while (start > 0 && ((unsigned char) text[start - 1] & 0xc0) == 0x80)
		start--;
	if (start == 0)
		return;
	start--;
	lead = (unsigned char) text[start];
	width = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
	if (width > len - start)
		text[start] = '\0';
}

/*
 * Skip what must not come into a message: control characters, line breaks, and
 * what reverses the direction of text.  Returns the number of bytes, or 0.
 */
static size_t
unprintable(const unsigned char *at)
{
	if (at[0] < ' ' || at[0] == 0x7f)
		return 1;
	if (at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f)
		return 2;				/* U+0080 to U+009F */
	if (at[0] == 0xe2 && at[1] == 0x80 && at[2] >= 0x8e && at[2] <= 0xae &&
		(at[2] <= 0x8f || at[2] >= 0xa8))
		return 3;				/* U+200E, U+200F, U+2028 to U+202E */
	if (at[0] == 0xe2 && at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9)
		return 3;				/* U+2066 to U+2069 */
	return 0;
}

/* Copy a text as one printable line, cut at size - 1 bytes. */
static void
copy_line(char *out, size_t size, const char *text)
{
	const unsigned char *at = (const unsigned char *) text;
	size_t		len = 0;

	while (*at != '\0' && len < size - 1)
	{
		size_t		skip = unprintable(at);

		/* any run of them, and of blanks, is one blank */
		if (skip > 0 || *at == ' ')
		{
			if (len > 0 && out[len - 1] != ' ')
				out[len++] = ' ';
			at += skip > 0 ? skip : 1;
		}
		else
			out[len++] = (char) *at++;
	}
	out[len] = '\0';
	if (*at != '\0')
		drop_partial_character(out);
	len = strlen(out);
	while (len > 0 && out[len - 1] == ' ')
		out[--len] = '\0';
}

/* Say what came instead of what was expected. */
static void
quote_reply(const CwhEnding *ending, char *out, size_t size)
{
	char		type[CWH_MAX_QUOTE + 1] = "";
	char		words[CWH_MAX_QUOTE + 1] = "";

	if (ending->content_type)
		copy_line(type, sizeof(type), ending->content_type);
	if (ending->words)
		copy_line(words, sizeof(words), ending->words);
	snprintf(out, size, words[0] != '\0' ? "unexpected reply: %s, %d, \"%s\"" :
			 "unexpected reply: %s, %d, no body",
			 type[0] != '\0' ? type : "no content type", ending->status, words);
}

/* Return the text about that header for an error message. */
static const char *
order_text(CwhOrder order)
{
	switch (order)
	{
		case CWH_ORDER_NONE:
			break;
		case CWH_ORDER_ABORT:
			return " (webhook-delivery: abort)";
		case CWH_ORDER_DISABLE:
			return " (webhook-delivery: disable)";
	}
	return "";
}

/* Say why the request failed, and which one if it is not the first. */
static void
set_error(CwhDecision *decision, const CwhEnding *ending, int step,
		  const char *unread)
{
	char		status[sizeof("HTTP status -2147483648")];
	char		quoted[2 * CWH_MAX_QUOTE + 64];
	char		reason[CWH_MAX_REASON + 1];
	const char *problem = status;

	snprintf(status, sizeof(status), "HTTP status %d", ending->status);
	if (ending->end != CWH_END_REPLY)
		problem = ending->error;
	else if (ending->for_token && is_success(ending->status))
		problem = ending->token_problem;
	else if (unread && !ending->for_token)
		problem = unread;
	else if (is_success(ending->status))
	{
		quote_reply(ending, quoted, sizeof(quoted));
		problem = quoted;
	}

	if (snprintf(reason, sizeof(reason), "%s%s%s",
				 ending->for_token ? "could not get an access token: " : "",
				 problem, order_text(ending->order)) > CWH_MAX_REASON)
		drop_partial_character(reason);

	if (step > 1)
		snprintf(decision->error, sizeof(decision->error), "request %d: %s",
				 step, reason);
	else
		snprintf(decision->error, sizeof(decision->error), "%s", reason);
}
