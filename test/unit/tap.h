/*
 * tap.h
 *		What the unit tests print: the Test Anything Protocol, version 12.
 *
 * A test is one plain C program.  It includes the source file that it tests,
 * checks with ok(), is_str() and is_int(), and ends with
 * "return done_testing();".  What a failed check saw goes to standard error.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A test need not use every check, and is to compile without warnings. */
#define TAP_CHECK			static __attribute__((unused))
#define TAP_FORMAT(f, a)	__attribute__((format(printf, f, a)))

static int	tap_checks = 0;
static int	tap_failures = 0;

TAP_CHECK void ok(bool condition, const char *fmt,...) TAP_FORMAT(2, 3);

/* Report one check, whose name is formatted as by printf. */
TAP_CHECK void
ok(bool condition, const char *fmt,...)
{
	va_list		args;

	tap_checks++;
	if (!condition)
		tap_failures++;

	printf("%s %d - ", condition ? "ok" : "not ok", tap_checks);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');

	/* A crash must not take the checks before it along. */
	fflush(stdout);
}

/* Check that two strings are the same; NULL equals only NULL. */
TAP_CHECK void
is_str(const char *got, const char *want, const char *name)
{
	bool		same;

	if (got == NULL || want == NULL)
		same = (got == want);
	else
		same = (strcmp(got, want) == 0);

	ok(same, "%s", name);
	if (!same)
		fprintf(stderr, "#      got: %s\n# expected: %s\n",
				got ? got : "(null)", want ? want : "(null)");
}

/* Check that two integers are the same. */
TAP_CHECK void
is_int(long long got, long long want, const char *name)
{
	ok(got == want, "%s", name);
	if (got != want)
		fprintf(stderr, "#      got: %lld\n# expected: %lld\n", got, want);
}

/* Print the plan; return the exit status, 1 if a check failed or none ran. */
TAP_CHECK int
done_testing(void)
{
	printf("1..%d\n", tap_checks);
	if (tap_failures > 0)
		fprintf(stderr, "# %d of %d checks failed\n",
				tap_failures, tap_checks);
	fflush(stdout);
	return (tap_failures > 0 || tap_checks == 0) ? 1 : 0;
}

#endif							/* TAP_H */
