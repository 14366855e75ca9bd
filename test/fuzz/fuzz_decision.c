/*
 * fuzz_decision.c
 *		Fuzzes what reads replies and messages: decision.c and failure.c.
 *
 * The input is lines: numbers (how a request ended, its status, Retry-After and
 * step, flags, and what the rule means); the text that a rule looks for; the key
 * of its wait; an error, which is also libcurl's message; and then the body.
 * Whatever they are, a decision keeps its limits and holds together, and no text
 * is cut within a character.
 *
 *	clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc \
 *		test/fuzz/fuzz_decision.c -lcurl -lcrypto -o fuzz_decision
 *	./fuzz_decision FOUND test/fuzz/corpus/decision
 *
 * where FOUND is a directory for the inputs that it finds.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/decision.c"
#include "../../src/retry.c"
#include "../../src/failure.c"

#include <stdlib.h>

/* The property that did not hold goes to standard error, then it crashes. */
#define CHECK(condition) \
	((condition) ? (void) 0 : fail(__LINE__, #condition))

/* The input, taken apart. */
typedef struct Reply
{
	int			numbers[6];
	char	   *contains;
	char	   *wait_key;
	char	   *error;
	char	   *body;
	size_t		len;
} Reply;

/* Report a property that does not hold. */
static void
fail(int line, const char *condition)
{
	fprintf(stderr, "line %d: not true: %s\n", line, condition);
	abort();
}

/* Memory of exactly that size, never NULL. */
static void *
allocate(size_t size)
{
	void	   *memory = malloc(size > 0 ? size : 1);

	CHECK(memory != NULL);
	return memory;
}

/* Take a line off the input, as an allocated string; a NUL cuts it short. */
static char *
take_line(const unsigned char **data, size_t *size)
{
	const unsigned char *newline =
		*size > 0 ? memchr(*data, '\n', *size) : NULL;
	size_t		len = newline ? (size_t) (newline - *data) : *size;
	char	   *line = allocate(len + 1);

	if (len > 0)
		memcpy(line, *data, len);
	line[len] = '\0';
	if (newline != NULL)
		len++;
	*data += len;
	*size -= len;
	return line;
}

/* Is a text UTF-8?  Overlong forms and surrogates will do. */
static bool
is_utf8(const char *text)
{
	const unsigned char *at = (const unsigned char *) text;

	while (*at != '\0')
	{
		int			more = *at < 0x80 ? 0 : *at < 0xc0 ? -1 : *at < 0xe0 ? 1 :
			*at < 0xf0 ? 2 : *at < 0xf8 ? 3 : -1;

		if (more < 0)
			return false;
		at++;
		for (; more > 0; more--)
			if ((*at++ & 0xc0) != 0x80)
				return false;
	}
	return true;
}

/* Is this text in the body?  Told in another way than by decision.c. */
static bool
is_in_body(const Reply *reply, const char *part)
{
	size_t		len = strlen(part);

	for (size_t start = 0; start < reply->len; start++)
	{
		size_t		same = 0;

		while (same < len && start + same < reply->len &&
			   reply->body[start + same] == part[same])
			same++;
		if (same == len)
			return true;
	}
	return false;
}

/* Hold a decision to its limits, and its parts to each other. */
static void
check_decision(const CwhDecision *decision, const CwhEnding *ending,
			   const CwhAttempt *attempt)
{
	CHECK(memchr(decision->error, '\0', sizeof(decision->error)) != NULL);
	CHECK(!is_utf8(ending->error) || is_utf8(decision->error) ||
		  (ending->content_type && !is_utf8(ending->content_type)));
	CHECK(decision->wait_ms >= 0);
	CHECK(decision->wait_ms <= INT64_C(1000) * CWH_RETRY_AFTER_CAP_S);
	CHECK(decision->pause_s >= -1 && decision->pause_s <= CWH_RETRY_AFTER_CAP_S);
	CHECK(decision->starved == (ending->end == CWH_END_STARVED));
	if (decision->next == CWH_NEXT_AGAIN)
	{
		CHECK(decision->starved || decision->token == CWH_TOKEN_TAKE ||
			  decision->token == CWH_TOKEN_RENEW ||
			  decision->secret == CWH_SECRET_SWAP ||
			  decision->secret == CWH_SECRET_RELOAD);
		CHECK(decision->secret == CWH_SECRET_KEEP ||
			  (attempt->is_signed && ending->order == CWH_ORDER_NONE));
		CHECK(decision->error[0] == '\0' && decision->wait_ms == 0);
		CHECK(!decision->judged && !decision->counts);
		return;
	}
	CHECK((decision->next == CWH_NEXT_STEP) ==
		  (decision->outcome == CWH_OUTCOME_STEP));
	CHECK((decision->outcome == CWH_OUTCOME_RETRY) == (decision->wait_ms > 0));
	CHECK(decision->outcome != CWH_OUTCOME_RETRY ||
		  (decision->verdict == CWH_RETRY &&
		   attempt->retries < attempt->retry->max_retries));
	CHECK(decision->outcome != CWH_OUTCOME_RETRY ||
		  ending->order == CWH_ORDER_NONE);
	CHECK((decision->verdict == CWH_DISABLE ||
		   ending->order == CWH_ORDER_DISABLE) == (decision->disable != NULL));
	CHECK((decision->verdict == CWH_RETRY) ==
		  (decision->breaker == CWH_SIGNAL_FAILED));
	CHECK(decision->pause_s == -1 || decision->breaker == CWH_SIGNAL_FAILED);
}

/* Decide what follows from the input. */
static void
check_reply(const Reply *reply)
{
	static const CwhRetryPolicy policy = {5, 1000, 2, 60000};
	int			flags = reply->numbers[4];
	CwhRule		rule = {
		.nstatuses = 1,
		.statuses = (int *) &reply->numbers[1],
		.contains = reply->contains[0] != '\0' ? reply->contains : NULL,
		.means = (CwhVerdict) ((unsigned) reply->numbers[5] % 4),
		.has_path = (flags & 2048) != 0,
		.only_remembers = (flags & 4096) != 0,
		.wait_key = (flags & 1) ? reply->wait_key : NULL,
	};
	bool		path = (flags & 8192) != 0;
	CwhEnding	ending = {
		.end = (CwhEnd) ((unsigned) reply->numbers[0] % 5),
		.status = reply->numbers[1],
		.error = reply->error,
		.retry_after_s = reply->numbers[2] < 0 ? -1 : reply->numbers[2],
		.body = reply->body,
		.body_len = reply->len,
		.paths = (flags & 16384) ? &path : NULL,
		.cut_off = (flags & 32768) != 0,
		.unread = (flags & 32768) || (flags & 65536) ? "unread" : NULL,
		.content_type = (flags & 131072) ? reply->wait_key : NULL,
		.words = reply->error,
		.for_token = (flags & 2) != 0,
		.token_problem = (flags & 4) ? reply->error : NULL,
	};
	CwhAttempt	attempt = {
		.retry = &policy,
		.retries = (flags >> 3) & 7,
		.random01 = 0.5,
		.rules = &rule,
		.nrules = (flags & 64) ? 0 : 1,
		.step = reply->numbers[3] > 0 ? reply->numbers[3] : 1,
		.more = (flags & 128) != 0,
		.has_token = (flags & 256) != 0,
		.token_renewed = (flags & 512) != 0,
		.token_hopeless = (flags & 1024) != 0,
		.is_signed = (flags & (1 << 20)) != 0,
		.outdated = (flags & (1 << 21)) != 0,
		.overlap = (flags & (1 << 22)) != 0,
		.secret_known = (flags & (1 << 23)) != 0,
		.refusals = (flags >> 24) & 3,
	};
	CwhDecision decision;
	CwhDecision again;

	if (ending.end == CWH_END_REPLY && !ending.for_token)
		ending.order = cwh_reply_order(reply->body, reply->len);
	memset(&decision, 0x55, sizeof(decision));
	memset(&again, 0xaa, sizeof(again));
	cwh_decide(&decision, &ending, &attempt);
	check_decision(&decision, &ending, &attempt);
	cwh_decide(&again, &ending, &attempt);
	CHECK(memcmp(&decision, &again, sizeof(decision)) == 0);

	/* Where a rule for this status matches is where its text is. */
	if (rule.contains)
		CHECK(body_contains(&ending, rule.contains) ==
			  is_in_body(reply, rule.contains));
	CHECK(seconds_in_body(&ending, reply->wait_key) >= -1);
}

/* Describe a failure for which libcurl has said this. */
static void
check_failure(const Reply *reply)
{
	CwhFailure	failure = {
		.code = reply->numbers[1],
		.phase = (CwhPhase) ((unsigned) reply->numbers[0] % 6),
		.detail = reply->error,
		.verify_result = reply->numbers[2],
		.os_errno = reply->numbers[3],
		.has_client_certificate = (reply->numbers[4] & 1) != 0,
		.has_ca_file = (reply->numbers[4] & 2) != 0,
	};
	size_t		size = 1 + (unsigned) reply->numbers[5] % 256;
	char	   *out = allocate(size);

	memset(out, 'x', size);
	cwh_describe_failure(&failure, out, size);
	CHECK(memchr(out, '\0', size) != NULL);
	free(out);
}

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Run one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Reply		reply = {0};
	char	   *numbers = take_line(&data, &size);
	char	   *at = numbers;

	for (int i = 0; i < 6; i++)
		reply.numbers[i] = (int) strtol(at, &at, 10);
	reply.contains = take_line(&data, &size);
	reply.wait_key = take_line(&data, &size);
	reply.error = take_line(&data, &size);
	reply.body = allocate(size);
	if (size > 0)
		memcpy(reply.body, data, size);
	reply.len = size;

	check_reply(&reply);
	check_failure(&reply);

	free(numbers);
	free(reply.contains);
	free(reply.wait_key);
	free(reply.error);
	free(reply.body);
	return 0;
}
