/*
 * test_retry.c
 *		The growth and the spread of the wait, and Retry-After.
 *
 * Only here can the randomness be swept and the clock be set; that a worker
 * waits as it is told is for the tests with a receiver to show.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/retry.c"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "tap.h"

/* The instant that RFC 9110 writes in all three forms. */
#define RFC_EXAMPLE		784111777

/* A policy as a webhook has it by default. */
static const CwhRetryPolicy usual = {
	.max_retries = 5,
	.backoff_ms = 1000,
	.multiplier = 2,
	.max_backoff_ms = 60000,
};

/*
 * Read a header's value from memory that ends where it does, so that reading
 * on is seen by an address sanitizer.
 */
static int64_t
after(const char *text, int64_t now)
{
	size_t		len = strlen(text);
	char	   *copy = malloc(len > 0 ? len : 1);
	int64_t		seconds;

	memcpy(copy, text, len);
	seconds = cwh_retry_after(copy, len, now);
	free(copy);
	return seconds;
}

/* How the wait grows, where the randomness is in the middle. */
static void
test_growth(void)
{
	static const int64_t want[] = {1000, 2000, 4000, 8000, 16000, 32000,
	60000, 60000};
	CwhRetryPolicy policy = usual;
	int64_t		wait = 0;

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
	{
		wait = cwh_retry_wait(&usual, wait, 0.5, -1);
		is_int(wait, want[i], "the wait doubles up to the longest");
	}

	is_int(cwh_retry_wait(&usual, 0, 0.0, -1), 1000,
		   "the first wait is not random, low");
	is_int(cwh_retry_wait(&usual, 0, 0.999, -1), 1000,
		   "the first wait is not random, high");

	policy.max_backoff_ms = 300;
	is_int(cwh_retry_wait(&policy, 0, 0.5, -1), 300,
		   "the first wait has the cap too");

	policy = usual;
	policy.multiplier = 1;
	is_int(cwh_retry_wait(&policy, 5000, 0.5, -1), 5000,
		   "a multiplier of 1 keeps the wait");
	policy.multiplier = 1.5;
	is_int(cwh_retry_wait(&policy, 1001, 0.5, -1), 1501,
		   "a fraction of a millisecond is dropped");
}

/* How the wait is spread: evenly, from half to one and a half times. */
static void
test_jitter(void)
{
	const int	steps = 100000;
	int64_t		least = INT64_MAX;
	int64_t		most = 0;
	double		sum = 0;
	int			tenths[10] = {0};
	bool		even = true;
	bool		in_bounds = true;
	int64_t		least_third = INT64_MAX;
	int64_t		most_third = 0;
	uint32_t	random = 2463534242;

	for (int i = 0; i < steps; i++)
	{
		double		random01 = (double) i / steps;
		int64_t		wait = cwh_retry_wait(&usual, 10000, random01, -1);

		if (wait < least)
			least = wait;
		if (wait > most)
			most = wait;
		sum += (double) wait;
		if (wait >= 10000 && wait < 30000)
			tenths[(wait - 10000) / 2000]++;
	}
	is_int(least, 10000, "the least is half the doubled wait");
	is_int(most, 29999, "the most is just under one and a half times it");
	ok(fabs(sum / steps - 20000) < 2, "the mean is the doubled wait");
	for (int i = 0; i < 10; i++)
	{
		if (abs(tenths[i] - steps / 10) > 10)
			even = false;
	}
	ok(even, "every tenth of the range is hit equally often");

	/* Whole courses of retries, as they would happen */
	for (int course = 0; course < 1000; course++)
	{
		int64_t		wait = 0;
		int64_t		previous;

		for (int retry = 0; retry < 20; retry++)
		{
			previous = wait;
			random ^= random << 13;
			random ^= random >> 17;
			random ^= random << 5;
			wait = cwh_retry_wait(&usual, previous, random / 4294967296.0, -1);
			if (wait < 1 || wait > 60000 ||
				(previous > 0 && wait < previous && wait < 60000 &&
				 previous < 60000) ||
				(previous > 0 && wait >= previous * 3 + 1))
				in_bounds = false;
			if (retry == 2 && wait < least_third)
				least_third = wait;
			if (retry == 2 && wait > most_third)
				most_third = wait;
		}
	}
	ok(in_bounds, "a doubled wait never shrinks, nor more than triples");
	ok(least_third < 1500 && most_third > 7000,
	   "the third wait is spread from one second to nine");
}

/* Retry-After, within its cap, against our own wait. */
static void
test_asked_wait(void)
{
	is_int(cwh_retry_wait(&usual, 0, 0.5, 0), 1000,
		   "our own wait where the receiver asks for none");
	is_int(cwh_retry_wait(&usual, 0, 0.5, 1), 1000, "both the same");
	is_int(cwh_retry_wait(&usual, 0, 0.5, 7), 7000,
		   "the receiver's wait where it is longer");
	is_int(cwh_retry_wait(&usual, 30000, 0.5, 7), 60000,
		   "our own wait where it is longer");
	is_int(cwh_retry_wait(&usual, 0, 0.5, 120), 120000,
		   "the receiver's wait is not under our cap");
	is_int(cwh_retry_wait(&usual, 0, 0.5, CWH_RETRY_AFTER_CAP_S), 3600000,
		   "but under its own");
	is_int(cwh_retry_wait(&usual, 0, 0.5, CWH_RETRY_AFTER_CAP_S + 1), 3600000,
		   "a second over it");
	is_int(cwh_retry_wait(&usual, 0, 0.5, INT64_MAX), 3600000,
		   "as far over it as can be");
	is_int(cwh_retry_wait(&usual, 0, 0.5, INT64_MIN), 1000,
		   "anything below zero is none");
	is_int(cwh_retry_wait(&usual, 3600000, 0.5, -1), 60000,
		   "after it, our own cap holds again");
}

/* Policies and randomness that make no sense still make a wait. */
static void
test_senseless_policy(void)
{
	static const int64_t times[] = {INT64_MIN, -1, 0, 1, 2, 1000, INT32_MAX,
		INT64_C(9007199254740993), INT64_MAX - 1, INT64_MAX};
	const double numbers[] = {-INFINITY, -1e308, -1, -0.0, 0, 1e-308, 0.5,
		0.9999999999999999, 1, 2, 1e18, 1e308, INFINITY, NAN};
	const int	ntimes = sizeof(times) / sizeof(times[0]);
	const int	nnumbers = sizeof(numbers) / sizeof(numbers[0]);
	CwhRetryPolicy zero = {0};
	CwhRetryPolicy policy;
	bool		in_bounds = true;

	for (int b = 0; b < ntimes; b++)
		for (int m = 0; m < ntimes; m++)
			for (int p = 0; p < ntimes; p++)
				for (int f = 0; f < nnumbers; f++)
					for (int r = 0; r < nnumbers; r++)
					{
						int64_t		most = times[m] > 1 ? times[m] : 1;
						int64_t		wait;

						policy.max_retries = 1;
						policy.backoff_ms = times[b];
						policy.max_backoff_ms = times[m];
						policy.multiplier = numbers[f];
						wait = cwh_retry_wait(&policy, times[p], numbers[r],
											  -1);
						if (wait < 1 || wait > most)
							in_bounds = false;
					}
	ok(in_bounds, "from 1 ms to the longest wait, whatever the values");

	is_int(cwh_retry_wait(&zero, 0, 0.5, -1), 1, "never no wait at all");
	policy = usual;
	policy.backoff_ms = 0;
	is_int(cwh_retry_wait(&policy, 0, 0.5, -1), 1, "1 ms for a backoff of 0");
	is_int(cwh_retry_wait(&policy, 1, 0.5, -1), 2, "and it grows from there");
	is_int(cwh_retry_wait(&policy, 1, 0.0, -1), 1, "but never to nothing");
	policy.multiplier = 0;
	is_int(cwh_retry_wait(&policy, 5000, 0.5, -1), 1, "nor by no multiplier");
	policy.multiplier = 1e308;
	is_int(cwh_retry_wait(&policy, INT64_MAX, 0.5, -1), 60000,
		   "an infinite wait is the longest");
	policy.multiplier = NAN;
	is_int(cwh_retry_wait(&policy, 5000, 0.5, -1), 60000,
		   "and so is one that is not a number");
	policy = usual;
	policy.max_backoff_ms = INT64_MAX;
	policy.multiplier = 1e300;
	is_int(cwh_retry_wait(&policy, 5000, 0.5, -1), INT64_MAX,
		   "the longest wait there is");
}

/* Retry-After as a number. */
static void
test_seconds(void)
{
	static const char *const malformed[] = {
		"", " ", "-1", "+1", "1.5", "1e3", "1s", "0x10", "1 2", "1,2",
		"\xd9\xa1", "soon", "-", NULL
	};

	is_int(after("0", RFC_EXAMPLE), 0, "0 seconds");
	is_int(after("1", RFC_EXAMPLE), 1, "1 second");
	is_int(after("120", RFC_EXAMPLE), 120, "120 seconds");
	is_int(after("007", RFC_EXAMPLE), 7, "leading zeros");
	is_int(after(" \t30\t \r\n", RFC_EXAMPLE), 30, "blanks around it");
	is_int(after("9223372036854775806", 0), INT64_MAX - 1, "almost the most");
	is_int(after("9223372036854775807", 0), INT64_MAX, "the most");
	is_int(after("9223372036854775808", 0), INT64_MAX, "one over the most");
	is_int(after("18446744073709551617", 0), INT64_MAX, "over 64 bits");
	is_int(after("100000000000000000000000000000000000000000", 0), INT64_MAX,
		   "far over the most");
	is_int(after("99999999999999999999999999999999999999999x", 0), -1,
		   "far over the most, and then a letter");

	for (int i = 0; malformed[i] != NULL; i++)
		ok(after(malformed[i], 0) == -1, "not understood: \"%s\"",
		   malformed[i]);
	is_int(cwh_retry_after(NULL, 0, 0), -1, "no value");
	is_int(cwh_retry_after("12345", 2, 0), 12, "no further than its length");
	is_int(cwh_retry_after("12\0""45", 5, 0), -1, "a NUL within");
}

/* Retry-After as a date. */
static void
test_dates(void)
{
	static const char *const malformed[] = {
		"Sun, 06 Nov 1994 08:49:37",
		"Sun, 06 Nov 1994 08:49:37 UTC",
		"Sun, 06 Nov 1994 08:49:37 gmt",
		"Sun, 06 Nov 1994 08:49:37 +0000",
		"Sun, 06 Nov 1994 08:49:37 GMT GMT",
		"Sun, 06 Nov 1994 08:49:37 GM",
		"Sun, 6 Nov 1994 08:49:37 GMT",
		"Sun, 006 Nov 1994 08:49:37 GMT",
		"Sun, 06 nov 1994 08:49:37 GMT",
		"Sun, 06 Now 1994 08:49:37 GMT",
		"Sun, 06 November 1994 08:49:37 GMT",
		"Sun, 06-Nov-1994 08:49:37 GMT",
		"Sun, 06 Nov 94 08:49:37 GMT",
		"Sun, 06 Nov 1994 8:49:37 GMT",
		"Sun, 06 Nov 1994 08:49 GMT",
		"Sun, 06 Nov 1994 08.49.37 GMT",
		"Sun, 06 Nov 1994 24:00:00 GMT",
		"Sun, 06 Nov 1994 08:60:00 GMT",
		"Sun, 06 Nov 1994 08:49:61 GMT",
		"Sun, 06 Nov 1994  08:49:37 GMT",
		"Sun,06 Nov 1994 08:49:37 GMT",
		"Sun 06 Nov 1994 08:49:37 GMT",
		"So, 06 Nov 1994 08:49:37 GMT",
		"Sunday, 06 Nov 1994 08:49:37 GMT",
		"06 Nov 1994 08:49:37 GMT",
		"Sun, 00 Nov 1994 08:49:37 GMT",
		"Sun, 31 Nov 1994 08:49:37 GMT",
		"Sun, 32 Dec 1994 08:49:37 GMT",
		"Tue, 29 Feb 1994 08:49:37 GMT",
		"Thu, 29 Feb 1900 08:49:37 GMT",
		"Sat, 01 Jan 0000 08:49:37 GMT",
		"Sun, 06 Nov -994 08:49:37 GMT",
		"Sun, +6 Nov 1994 08:49:37 GMT",
		"Sun, 06-Nov-94 08:49:37 GMT",
		"Sunday, 06-Nov-1994 08:49:37 GMT",
		"Sunday, 06-Nov-94 08:49:37",
		"Sunday, 6-Nov-94 08:49:37 GMT",
		"Sun Nov 6 08:49:37 1994",
		"Sun Nov  06 08:49:37 1994",
		"Sun Nov   6 08:49:37 1994",
		"Sun Nov  6 08:49:37 1994 GMT",
		"Sun Nov  6 08:49:37 94",
		"Sun, Nov  6 08:49:37 1994",
		"Sun Nov  0 08:49:37 1994",
		"1994-11-06T08:49:37Z",
		NULL
	};
	static const char whole[] = "Sunday, 06-Nov-94 08:49:37 GMT";
	bool		refused = true;

	is_int(after("Sun, 06 Nov 1994 08:49:37 GMT", RFC_EXAMPLE - 90), 90,
		   "the form of HTTP");
	is_int(after("Sunday, 06-Nov-94 08:49:37 GMT", RFC_EXAMPLE - 90), 90,
		   "the form of RFC 850");
	is_int(after("Sun Nov  6 08:49:37 1994", RFC_EXAMPLE - 90), 90,
		   "the form of asctime()");
	is_int(after("Wed Nov 16 08:49:37 1994", RFC_EXAMPLE), 864000,
		   "the form of asctime(), a day of two digits");
	is_int(after("  Sun, 06 Nov 1994 08:49:37 GMT \r\n", RFC_EXAMPLE - 90), 90,
		   "blanks around it");

	is_int(after("Sun, 06 Nov 1994 08:49:37 GMT", RFC_EXAMPLE), 0, "now");
	is_int(after("Sun, 06 Nov 1994 08:49:37 GMT", RFC_EXAMPLE + 1), 0,
		   "a second ago");
	is_int(after("Sun, 06 Nov 1994 08:49:37 GMT", 1767323045), 0,
		   "decades ago");
	is_int(after("Mon, 01 Jan 0001 00:00:00 GMT", RFC_EXAMPLE), 0,
		   "the first date there is");
	is_int(after("Fri, 31 Dec 9999 23:59:59 GMT", 0), INT64_C(253402300799),
		   "the last date there is");
	is_int(after("Mon, 06 Nov 1994 08:49:37 GMT", RFC_EXAMPLE - 90), 90,
		   "the wrong day of the week does not matter");
	is_int(after("Sat, 31 Dec 2016 23:59:60 GMT", 1483228799), 1,
		   "a leap second");
	is_int(after("Tue, 29 Feb 2000 00:00:00 GMT", 951696000), 86400,
		   "a leap day");

	/* A year of two digits is within 50 years from now. */
	is_int(after("Friday, 02-Jan-26 03:04:05 GMT", 1767323045 - 7), 7,
		   "this year in two digits");
	is_int(after("Friday, 01-Jan-27 00:00:00 GMT", 1798761600 - 7), 7,
		   "next year in two digits");
	is_int(after("Saturday, 01-Jan-00 00:00:00 GMT", 4102444800 - 7), 7,
		   "next year, where that is another century");
	is_int(after("Thursday, 31-Dec-99 23:59:59 GMT", 4102444800), 0,
		   "last year, where that was another century");
	is_int(after("Tuesday, 02-Jan-76 00:00:00 GMT", 1767323045),
		   INT64_C(3345148800) - 1767323045, "50 years ahead");
	is_int(after("Sunday, 02-Jan-77 00:00:00 GMT", 1767323045), 0,
		   "51 years ahead is 49 ago");

	/* Clocks that are wrong */
	is_int(after("Thu, 01 Jan 1970 00:00:05 GMT", INT64_MIN), 5,
		   "a clock at the beginning of time");
	is_int(after("Sun, 06 Nov 1994 08:49:37 GMT", INT64_MAX), 0,
		   "a clock at the end of time");
	is_int(after("Sunday, 06-Nov-94 08:49:37 GMT", INT64_MAX), 0,
		   "the same, with a year of two digits");
	ok(after("Sunday, 06-Nov-94 08:49:37 GMT", INT64_MIN) == RFC_EXAMPLE,
	   "a year of two digits from the beginning of time");

	for (int i = 0; malformed[i] != NULL; i++)
		ok(after(malformed[i], 0) == -1, "not understood: \"%s\"",
		   malformed[i]);

	for (size_t len = 0; len < sizeof(whole) - 1; len++)
	{
		char		text[sizeof(whole)];

		memcpy(text, whole, len);
		text[len] = '\0';
		if (after(text, 0) != -1)
			refused = false;
	}
	ok(refused, "no date that was cut short is understood");
}

/* The three forms of many an instant, as the C library writes them. */
static void
test_against_library(void)
{
	static const char *const forms[] = {
		"%a, %d %b %Y %H:%M:%S GMT",
		"%A, %d-%b-%y %H:%M:%S GMT",
		"%a %b %e %H:%M:%S %Y",
	};
	bool		same[3] = {true, true, true};
	bool		same_from_1970 = true;

	/*
	 * Steps of somewhat over nine days meet every day of a month and of a
	 * leap year in these eight thousand years, at all times of the day.
	 */
	for (int64_t at = 0; at < INT64_C(253402300800); at += 800003)
	{
		time_t		instant = (time_t) at;
		struct tm	tm;
		char		text[64];

		gmtime_r(&instant, &tm);
		for (int i = 0; i < 3; i++)
		{
			/* Told an hour before, so that two digits are enough. */
			int64_t		now = at >= 3600 ? at - 3600 : 0;

			strftime(text, sizeof(text), forms[i], &tm);
			if (after(text, now) != at - now)
				same[i] = false;
		}

		strftime(text, sizeof(text), forms[0], &tm);
		if (after(text, 0) != at)
			same_from_1970 = false;
	}

	ok(same[0], "every date in the form of HTTP");
	ok(same[1], "every date in the form of RFC 850");
	ok(same[2], "every date in the form of asctime()");
	ok(same_from_1970, "every date, told in 1970");
}

/* Damaged dates neither crash nor lead out of the range. */
static void
test_nonsense(void)
{
	static const char *const whole[] = {
		"Sun, 06 Nov 1994 08:49:37 GMT",
		"Sunday, 06-Nov-94 08:49:37 GMT",
		"Sun Nov  6 08:49:37 1994",
	};
	bool		in_range = true;

	for (int i = 0; i < 3; i++)
	{
		for (size_t at = 0; at < strlen(whole[i]); at++)
		{
			for (int c = 1; c < 256; c++)
			{
				char		text[64];
				int64_t		seconds;

				strcpy(text, whole[i]);
				text[at] = (char) c;
				seconds = after(text, RFC_EXAMPLE);
				if (seconds < -1 || seconds > LAST_HTTP_SECOND)
					in_range = false;
			}
		}
	}
	ok(in_range, "dates with a byte damaged stay in range");
}

/* Waits that are listed. */
static void
test_delays(void)
{
	static const int64_t delays[] = {0, 5000, 300000, INT64_C(604800000)};
	CwhRetryPolicy policy = usual;
	int64_t		least = INT64_MAX;
	int64_t		most = 0;

	is_int(cwh_next_retry(&policy, 3, 4000, 0.5, -1), 8000,
		   "without a list, the wait grows");
	policy.max_retries = 4;
	policy.delays_ms = delays;
	is_int(cwh_next_retry(&policy, 0, 0, 0.5, -1), 1, "no wait is none");
	is_int(cwh_next_retry(&policy, 1, 1, 0, -1), 5000, "each has its place");
	is_int(cwh_next_retry(&policy, 2, 60000, 0, -1), 300000,
		   "whatever the wait before was");
	is_int(cwh_next_retry(&policy, 3, 1, 0, -1), 604800000,
		   "and whatever the longest backoff is");
	for (int i = 0; i < 1000; i++)
	{
		int64_t		wait = cwh_next_retry(&policy, 2, 0, i / 1000.0, -1);

		if (wait < least)
			least = wait;
		if (wait > most)
			most = wait;
	}
	is_int(least, 300000, "it is no shorter");
	ok(most > 329900 && most < 330000, "and less than 1.1 times as long");
	is_int(cwh_next_retry(&policy, 0, 0, 0.5, 30), 30000,
		   "a Retry-After is obeyed");
	is_int(cwh_next_retry(&policy, 2, 0, 0, 30), 300000,
		   "unless the wait is longer");
	is_int(cwh_next_retry(&policy, 0, 0, 0.5, INT64_MAX), 3600000,
		   "and up to its cap");
}

int
main(void)
{
	test_growth();
	test_delays();
	test_jitter();
	test_asked_wait();
	test_senseless_policy();
	test_seconds();
	test_dates();
	test_against_library();
	test_nonsense();

	return done_testing();
}
