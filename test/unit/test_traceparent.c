/*
 * test_traceparent.c
 *		Which trace contexts are valid.
 *
 * Only here can each byte of one be replaced by each other, in memory of just
 * its size.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/traceparent.c"

#include <stdlib.h>

#include "tap.h"

#define EXAMPLE "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#define ZEROS32 "00000000000000000000000000000000"

/* Check a text in memory of just its size. */
static bool
is_valid(const char *text)
{
	size_t		size = strlen(text) + 1;
	char	   *copy = malloc(size);
	bool		result;

	memcpy(copy, text, size);
	result = cwh_is_traceparent(copy);
	free(copy);
	return result;
}

/* Is a character a lower-case hexadecimal digit? */
static bool
is_digit(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* Texts that are whole. */
static void
test_texts(void)
{
	static const char *const valid[] = {
		EXAMPLE,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
		"00-00000000000000000000000000000001-0000000000000001-00",
		"00-10000000000000000000000000000000-1000000000000000-00",
		"00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01",
	};
	static const char *const malformed[] = {
		"",
		" ",
		"-",
		"---",
		"00",
		"00-",
		"00-" ZEROS32 "-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
		"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		EXAMPLE " ",
		" " EXAMPLE,
		EXAMPLE "-",
		EXAMPLE "-00",
		EXAMPLE "\r\nX-Injected: yes",
		EXAMPLE "\n",
		"00-4bf92f3577b34da6a3ce929d0e0e47360-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7a-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
		"00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
	};

	is_int(strlen(EXAMPLE), CWH_TRACEPARENT_LEN, "the length");
	for (size_t i = 0; i < sizeof(valid) / sizeof(valid[0]); i++)
		ok(is_valid(valid[i]), "valid: %s", valid[i]);
	for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++)
		ok(!is_valid(malformed[i]), "malformed, number %zu", i);
}

/* The example cut short, and with any byte damaged. */
static void
test_damage(void)
{
	bool		refused = true;
	bool		right = true;
	char		text[] = EXAMPLE;

	for (size_t len = 0; len < CWH_TRACEPARENT_LEN; len++)
	{
		strcpy(text, EXAMPLE);
		text[len] = '\0';
		refused = refused && !is_valid(text);
	}
	ok(refused, "none that was cut short is valid");

	for (size_t at = 0; at < CWH_TRACEPARENT_LEN; at++)
	{
		for (int c = 1; c < 256; c++)
		{
			bool		same = EXAMPLE[at] == (char) c;

			strcpy(text, EXAMPLE);
			text[at] = (char) c;
			/* a digit of an id or of the flags may be any other digit */
			if (is_valid(text) !=
				(same || (at > 2 && EXAMPLE[at] != '-' && is_digit((char) c))))
				right = false;
		}
	}
	ok(right, "a byte may be replaced only by a digit, in an id or the flags");
}

int
main(void)
{
	test_texts();
	test_damage();

	return done_testing();
}
