/*
 * json_driver.c
 *		Feeds json.c line by line, for json_numbers.js.
 *
 * The argument says what a line of the input is, and so what is answered:
 *		number		a decimal; the number as it is sent
 *		string		a string in hexadecimal; the same as it is sent
 *		index		a key; its array index, or "no"
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/json.c"

#include <stdio.h>

static char line[1 << 16];
static char bytes[1 << 16];
static char out[CWH_JSON_STRING_MAX(1 << 16)];

/* Turn hexadecimal digits into the bytes they stand for. */
static size_t
decode_hex(const char *hex, size_t len, char *result)
{
	for (size_t i = 0; i < len / 2; i++)
	{
		char		pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

		result[i] = (char) strtoul(pair, NULL, 16);
	}
	return len / 2;
}

int
main(int argc, char **argv)
{
	const char *what = argc == 2 ? argv[1] : "";
	bool		index = strcmp(what, "index") == 0;
	bool		number = strcmp(what, "number") == 0;

	if (!index && !number && strcmp(what, "string") != 0)
	{
		fprintf(stderr, "usage: %s number|string|index\n", argv[0]);
		return 2;
	}

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		size_t		len = strcspn(line, "\n");
		uint32_t	value;

		if (index && cwh_json_array_index(line, len, &value))
			printf("%lu\n", (unsigned long) value);
		else if (index)
			puts("no");
		else
		{
			size_t		written;

			if (number)
				written = cwh_json_number(line, len, out);
			else
				written = cwh_json_string(bytes, decode_hex(line, len, bytes),
										  out);
			fwrite(out, 1, written, stdout);
			putchar('\n');
		}
	}
	return 0;
}
