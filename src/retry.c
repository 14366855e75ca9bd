/*
 * retry.c
 *		When to try again.
 *
 * The wait grows exponentially from one retry to the next, unless the webhook
 * lists its waits.  Each wait is randomized, so that deliveries which failed
 * together are not retried together.  A receiver that sends Retry-After is left alone until then, up to
 * a cap.  Whether a delivery is retried at all is decided in decision.c.
 *
 * This file knows nothing of PostgreSQL, of clocks or of random numbers: the
 * time and the randomness are passed in.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <stdbool.h>
#include <string.h>

#include "retry.h"

#define SECONDS_PER_DAY		86400
/* Of the Gregorian calendar, on average */
#define SECONDS_PER_YEAR	31556952
/* From 0001-01-01 to 1970-01-01 */
#define DAYS_TO_UNIX_EPOCH	719162
/* 9999-12-31 23:59:59, the last second that an HTTP date can name */
#define LAST_HTTP_SECOND	INT64_C(253402300799)

/*
 * A listed wait is lengthened by up to this share at random.  It is never
 * shortened: the sum of the list is how long an outage may last.
 */
#define DELAY_JITTER		0.1

/* No wait is 0: that stands for "no retry yet". */
#define SHORTEST_WAIT_MS	1

/* An HTTP date, in UTC */
typedef struct HttpDate
{
	int			year;
	int			month;			/* 1 to 12 */
	int			day;			/* 1 to 31 */
	int			hour;
	int			minute;
	int			second;			/* 60 in a leap second */
} HttpDate;

/*
 * The three forms of a date that RFC 9110 requires recipients to accept: its
 * own, RFC 850's, and asctime()'s.  See match_date() for the letters.
 */
static const char *const date_forms[] = {
	"a, d b Y t GMT",
	"A, d-b-y t GMT",
	"a b e t Y",
};

static const char *const days_short[] = {
	"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", NULL
};

static const char *const days_long[] = {
	"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
	"Sunday", NULL
};

static const char *const months[] = {
	"Jan", "Feb", "Mar", "Apr", "May", "Jun",
	"Jul", "Aug", "Sep", "Oct", "Nov", "Dec", NULL
};

/*
 * Return the wait, or the receiver's Retry-After (-1: none) if that is longer.
 */
static int64_t
obey_retry_after(int64_t wait, int64_t retry_after_s)
{
	if (retry_after_s > CWH_RETRY_AFTER_CAP_S)
		retry_after_s = CWH_RETRY_AFTER_CAP_S;
	return retry_after_s * 1000 > wait ? retry_after_s * 1000 : wait;
}

/*
 * Return how many milliseconds to wait before the next retry of a delivery that
 * was retried so many times, fewer than max_retries: as the policy lists it, or
 * else as cwh_retry_wait() says, whose other arguments these are.
 */
int64_t
cwh_next_retry(const CwhRetryPolicy *policy, int retries,
			   int64_t previous_wait_ms, double random01,
			   int64_t retry_after_s)
{
	double		wait;

	if (policy->delays_ms == NULL)
		return cwh_retry_wait(policy, previous_wait_ms, random01,
							  retry_after_s);
	wait = (double) policy->delays_ms[retries] * (1 + DELAY_JITTER * random01);
	if (wait < SHORTEST_WAIT_MS)
		wait = SHORTEST_WAIT_MS;
	return obey_retry_after((int64_t) wait, retry_after_s);
}

/*
 * Return how many milliseconds to wait before the next retry, or the next probe
 * of a paused webhook, where the waits grow.
 *
 * previous_wait_ms is the result for the previous retry, or 0 for the first
 * one.  random01 is at least 0 and less than 1.  retry_after_s is the wait
 * that the receiver asked for, or -1.
 *
 * Only the waits between the first and the longest are randomized; once spread
 * out, deliveries stay spread out.
 *
 * The result is at least a millisecond, even under a policy of zeros: the next
 * call would take 0 for "no retry yet", and the wait would never grow.
 */
int64_t
cwh_retry_wait(const CwhRetryPolicy *policy, int64_t previous_wait_ms,
			   double random01, int64_t retry_after_s)
{
	int64_t		wait = policy->max_backoff_ms;

	if (previous_wait_ms <= 0)
	{
		if (policy->backoff_ms < wait)
			wait = policy->backoff_ms;
	}
	else
	{
		double		grown = (double) previous_wait_ms * policy->multiplier *
			(0.5 + random01);

		/*
		 * Written so that NaN and infinity leave the longest wait, and only
		 * values in range are converted.
		 */
		if (grown < SHORTEST_WAIT_MS)
			wait = SHORTEST_WAIT_MS;
		else if (grown < (double) wait)
			wait = (int64_t) grown;
	}

	if (wait < SHORTEST_WAIT_MS)
		wait = SHORTEST_WAIT_MS;

	return obey_retry_after(wait, retry_after_s);
}

/* Is this whitespace that may surround a header's value? */
static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Is this an ASCII digit?  isdigit() depends on the locale. */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Parse exactly count digits and advance past them. */
static bool
take_digits(const char **at, const char *end, int count, int *value)
{
	if (end - *at < count)
		return false;

	*value = 0;
	for (int i = 0; i < count; i++)
	{
		if (!is_digit((*at)[i]))
			return false;
		*value = *value * 10 + ((*at)[i] - '0');
	}

	*at += count;
	return true;
}

/* Match this string and advance past it. */
static bool
take_string(const char **at, const char *end, const char *string)
{
	size_t		len = strlen(string);

	if ((size_t) (end - *at) < len || memcmp(*at, string, len) != 0)
		return false;

	*at += len;
	return true;
}

/* Match one of these names, advance past it, and return its index. */
static bool
take_name(const char **at, const char *end, const char *const *names,
		  int *which)
{
	for (int i = 0; names[i] != NULL; i++)
	{
		if (take_string(at, end, names[i]))
		{
			*which = i;
			return true;
		}
	}

	return false;
}

/*
 * Complete a two-digit year: to the latest one that is at most 50 years in the
 * future, as RFC 9110 requires.
 *
 * The current year is computed from an average year's length, so it may be off
 * by one for a few hours around New Year.  That only matters for dates half a
 * century away, which no receiver sends.
 */
static int
complete_year(int two_digits, int64_t now)
{
	int			latest = 1970 + (int) (now / SECONDS_PER_YEAR) + 50;

	return latest - (latest - two_digits) % 100;
}

/*
 * Parse a date in this form; false if the text does not match all of it.
 *
 * In a form, "a" and "A" are a weekday's short and long name, "b" a month's
 * name, "d" a day in two digits, "e" a day padded with a space, "y" and "Y" a
 * year in two and four digits, and "t" the time as hh:mm:ss.  All other
 * characters match themselves.
 *
 * The RFC fixes the names and their case, whatever the locale.  The weekday is
 * not checked against the date, since the result does not depend on it.
 */
static bool
match_date(const char *form, const char *at, const char *end, int64_t now,
		   HttpDate *date)
{
	int			number;

	for (; *form != '\0'; form++)
	{
		bool		matched;

		switch (*form)
		{
			case 'a':
				matched = take_name(&at, end, days_short, &number);
				break;
			case 'A':
				matched = take_name(&at, end, days_long, &number);
				break;
			case 'b':
				matched = take_name(&at, end, months, &number);
				if (matched)
					date->month = number + 1;
				break;
			case 'd':
				matched = take_digits(&at, end, 2, &date->day);
				break;
			case 'e':
				if (take_string(&at, end, " "))
					matched = take_digits(&at, end, 1, &date->day);
				else
					matched = take_digits(&at, end, 2, &date->day);
				break;
			case 'y':
				matched = take_digits(&at, end, 2, &number);
				if (matched)
					date->year = complete_year(number, now);
				break;
			case 'Y':
				matched = take_digits(&at, end, 4, &date->year);
				break;
			case 't':
				matched = take_digits(&at, end, 2, &date->hour) &&
					take_string(&at, end, ":") &&
					take_digits(&at, end, 2, &date->minute) &&
					take_string(&at, end, ":") &&
					take_digits(&at, end, 2, &date->second);
				break;
			default:
				matched = (at < end && *at == *form);
				if (matched)
					at++;
				break;
		}

		if (!matched)
			return false;
	}

	return at == end;
}

/* Is this a leap year? */
static bool
is_leap(int year)
{
	return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* Is there such a date? */
static bool
date_exists(const HttpDate *date)
{
	static const int days_in_month[] = {
		31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31
	};
	int			last_day = days_in_month[date->month - 1];

	if (date->month == 2 && is_leap(date->year))
		last_day++;

	return date->year >= 1 &&
		date->day >= 1 && date->day <= last_day &&
		date->hour <= 23 && date->minute <= 59 && date->second <= 60;
}

/* Convert an existing date to Unix seconds. */
static int64_t
date_to_unix(const HttpDate *date)
{
	static const int days_before_month[] = {
		0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334
	};
	int			years = date->year - 1; /* elapsed since 0001-01-01 */
	int64_t		days;

	days = years * 365 + years / 4 - years / 100 + years / 400;
	days += days_before_month[date->month - 1] + date->day - 1;
	if (date->month > 2 && is_leap(date->year))
		days++;

	return (days - DAYS_TO_UNIX_EPOCH) * SECONDS_PER_DAY +
		date->hour * 3600 + date->minute * 60 + date->second;
}

/* Parse a number of seconds; values out of range become INT64_MAX. */
static bool
parse_seconds(const char *at, const char *end, int64_t *seconds)
{
	int64_t		value = 0;

	if (at == end)
		return false;

	for (; at < end; at++)
	{
		int			digit = *at - '0';

		if (!is_digit(*at))
			return false;
		if (value > (INT64_MAX - digit) / 10)
			value = INT64_MAX;
		else
			value = value * 10 + digit;
	}

	*seconds = value;
	return true;
}

/*
 * Parse the value of a Retry-After header.  Returns the seconds from now, 0
 * for a date in the past, or -1 if the value is malformed.
 *
 * The value need not be NUL-terminated.  Large results are not capped here,
 * but in cwh_retry_wait().
 */
int64_t
cwh_retry_after(const char *value, size_t len, int64_t now)
{
	const int	nforms = sizeof(date_forms) / sizeof(date_forms[0]);
	const char *end;
	int64_t		seconds;

	if (value == NULL)
		return -1;

	while (len > 0 && is_blank(value[0]))
	{
		value++;
		len--;
	}
	while (len > 0 && is_blank(value[len - 1]))
		len--;
	end = value + len;

	if (parse_seconds(value, end, &seconds))
		return seconds;

	/* Clamp a clock that is outside the range of HTTP dates. */
	if (now < 0)
		now = 0;
	if (now > LAST_HTTP_SECOND)
		now = LAST_HTTP_SECOND;

	for (int i = 0; i < nforms; i++)
	{
		HttpDate	date = {0};

		if (match_date(date_forms[i], value, end, now, &date) &&
			date_exists(&date))
		{
			int64_t		wait = date_to_unix(&date) - now;

			return wait > 0 ? wait : 0;
		}
	}

	return -1;
}
