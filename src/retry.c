/*
 * retry.c
 *		What an outcome means, and when to try again.
 *
 * A receiver's status decides between four verdicts.  Where it is to try
 * again, the wait grows from one retry to the next, by a random share so that
 * deliveries which failed together do not come back together, and a receiver
 * that names a time in Retry-After is left alone until then, within a cap.
 *
 * This file knows nothing of PostgreSQL, of clocks or of random numbers: the
 * time and the randomness are passed in.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <string.h>

#include "chatwebhook.h"

#define SECONDS_PER_DAY		86400
/* Of the Gregorian calendar, on average */
#define SECONDS_PER_YEAR	31556952
/* From 0001-01-01 to 1970-01-01 */
#define DAYS_TO_UNIX_EPOCH	719162
/* 9999-12-31 23:59:59, the last second that an HTTP date can name */
#define LAST_HTTP_SECOND	INT64_C(253402300799)

/* No wait is 0, which stands for "none before this one". */
#define SHORTEST_WAIT_MS	1

/* A date of HTTP, in the numbers that people use; always in UTC */
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
 * The forms of a date that RFC 9110 asks a recipient to accept: its own, that
 * of RFC 850, and that of asctime().  See match_date() for the letters.
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

/* Say what a status means for the delivery; 0 stands for a network error. */
CwhVerdict
cwh_retry_verdict(int status)
{
	if (status >= 200 && status <= 299)
		return CWH_DELIVERED;

	if (status >= 500 && status <= 599)
		return CWH_RETRY;

	switch (status)
	{
		case 0:					/* no answer at all */
		case 408:				/* Request Timeout */
		case 425:				/* Too Early */
		case 429:				/* Too Many Requests */
			return CWH_RETRY;
		case 410:				/* Gone */
			return CWH_DISABLE;
	}

	/*
	 * What is left blames the request, which will not change, or is a
	 * redirect, which is never followed: it would lead a signed message, and
	 * the credentials in it, to a place that nobody configured.
	 */
	return CWH_DEAD;
}

/*
 * Return how many milliseconds to wait before the next retry.
 *
 * previous_wait_ms is what this returned for the retry before, 0 if there was
 * none.  random01 is from 0 up to, but not including, 1.  retry_after_s is
 * what the receiver asked for, or -1.
 *
 * The first wait is exact, and so is the longest: what the random ones between
 * them have spread in time stays spread.
 *
 * The result is never less than a millisecond, not even under a policy of
 * zeros: 0 would be read as "no retry yet" the next time, and the wait would
 * start over instead of growing.
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
		 * Stated so that anything which is not a number leaves the longest
		 * wait, and that only what fits is converted.
		 */
		if (grown < SHORTEST_WAIT_MS)
			wait = SHORTEST_WAIT_MS;
		else if (grown < (double) wait)
			wait = (int64_t) grown;
	}

	if (wait < SHORTEST_WAIT_MS)
		wait = SHORTEST_WAIT_MS;

	if (retry_after_s >= 0)
	{
		int64_t		asked_ms;

		if (retry_after_s > CWH_RETRY_AFTER_CAP_S)
			retry_after_s = CWH_RETRY_AFTER_CAP_S;
		asked_ms = retry_after_s * 1000;
		if (asked_ms > wait)
			wait = asked_ms;
	}

	return wait;
}

/* May this stand around the value of a header? */
static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Is this an ASCII digit?  That of ctype.h depends on the locale. */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Take exactly count digits from the front of the text. */
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

/* Take this string from the front of the text. */
static bool
take_string(const char **at, const char *end, const char *string)
{
	size_t		len = strlen(string);

	if ((size_t) (end - *at) < len || memcmp(*at, string, len) != 0)
		return false;

	*at += len;
	return true;
}

/* Take one of these names from the front of the text, and return which. */
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
 * Complete a year of two digits: to the last one that is not more than 50
 * years ahead, as RFC 9110 wants it.
 *
 * Which year it is now may be wrong for a few hours around New Year.  That
 * moves the edge between half a century ago and half a century hence, and
 * no receiver means either.
 */
static int
complete_year(int two_digits, int64_t now)
{
	int			latest = 1970 + (int) (now / SECONDS_PER_YEAR) + 50;

	return latest - (latest - two_digits) % 100;
}

/*
 * Read a text that is wholly of this form.
 *
 * In a form, "a" and "A" stand for the name of a day, short and long, "b" for
 * that of a month, "d" for a day in two digits, "e" for one padded with a
 * space, "y" and "Y" for a year in two and four digits, and "t" for hours,
 * minutes and seconds.  "GMT" and everything else stand for themselves.
 *
 * The names and their case are fixed by the RFC, whatever the locale.  That
 * the day is the right one for the date is not checked: no instant hangs on
 * it.
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

/* Convert a date that exists to Unix seconds. */
static int64_t
date_to_unix(const HttpDate *date)
{
	static const int days_before_month[] = {
		0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334
	};
	int			years = date->year - 1; /* gone by since 0001-01-01 */
	int64_t		days;

	days = years * 365 + years / 4 - years / 100 + years / 400;
	days += days_before_month[date->month - 1] + date->day - 1;
	if (date->month > 2 && is_leap(date->year))
		days++;

	return (days - DAYS_TO_UNIX_EPOCH) * SECONDS_PER_DAY +
		date->hour * 3600 + date->minute * 60 + date->second;
}

/* Read a number of seconds; one that is too large becomes INT64_MAX. */
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
 * Read the value of a Retry-After header: the seconds from now, 0 for a date
 * that is past, or -1 if it is not understood.
 *
 * The value need not end in a NUL.  A large result is not capped here, but in
 * cwh_retry_wait().
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

	/* A clock outside the years that a date can name is wrong. */
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
