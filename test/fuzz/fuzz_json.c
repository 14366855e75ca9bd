/*
 * fuzz_json.c
 *		Arbitrary bytes as strings, numbers and keys.
 *
 * Each output goes to memory of exactly the size promised to be enough, so
 * that the address sanitizer sees a byte too many, and is then checked for
 * what any receiver relies on: it is JSON, and one line of it.
 *
 * Build with clang -fsanitize=fuzzer,address,undefined.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/json.c"

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Memory of exactly that size, never NULL. */
static char *
allocate(size_t size)
{
	char	   *memory = malloc(size > 0 ? size : 1);

	CHECK(memory != NULL);
	return memory;
}

/* The value of a hexadecimal digit in lower case. */
static int
hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	CHECK(digit >= 'a' && digit <= 'f');
	return digit - 'a' + 10;
}

/* Write a string, read it back, and compare. */
static void
check_string(const char *input, size_t len)
{
	char	   *out = allocate(CWH_JSON_STRING_MAX(len));
	size_t		written = cwh_json_string(input, len, out);
	size_t		n = 0;
	size_t		i = 1;

	CHECK(written >= len + 2 && written <= CWH_JSON_STRING_MAX(len));
	CHECK(out[0] == '"' && out[written - 1] == '"');
	for (; i < written - 1; n++)
	{
		char		byte = out[i++];

		CHECK((unsigned char) byte >= 0x20 && byte != '"');
		if (byte == '\\')
		{
			static const char letters[] = "\"\\bfnrt";
			static const char meant[] = "\"\\\b\f\n\r\t";
			char		letter = out[i++];

			if (letter == 'u')
			{
				CHECK(i + 4 < written && out[i] == '0' && out[i + 1] == '0');
				byte = (char) (hex_value(out[i + 2]) * 16 +
							   hex_value(out[i + 3]));
				CHECK((unsigned char) byte < 0x20);
				CHECK(byte == 0 || strchr(meant, byte) == NULL);
				i += 4;
			}
			else
			{
				const char *found = letter ? strchr(letters, letter) : NULL;

				CHECK(found != NULL);
				byte = meant[found - letters];
			}
		}
		CHECK(n < len && byte == input[n]);
	}
	CHECK(n == len && i == written - 1);
	free(out);
}

/* Whether a text is a JSON number. */
static bool
is_number(const char *text, size_t len)
{
	const char *end = text + len;
	const char *p = text;
	const char *digits;

	if (p < end && *p == '-')
		p++;
	digits = p;
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	if (p == digits || (*digits == '0' && p - digits > 1))
		return false;
	if (p < end && *p == '.')
	{
		digits = ++p;
		while (p < end && *p >= '0' && *p <= '9')
			p++;
		if (p == digits)
			return false;
	}
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (p < end && (*p == '-' || *p == '+'))
			p++;
		digits = p;
		while (p < end && *p >= '0' && *p <= '9')
			p++;
		if (p == digits)
			return false;
	}
	return p == end;
}

/* The double that a JSON number is read as. */
static double
read_number(const char *text, size_t len)
{
	char	   *copy = allocate(len + 1);
	double		number;

	memcpy(copy, text, len);
	copy[len] = '\0';
	number = strtod(copy, NULL);
	free(copy);
	return number;
}

/* Write a number: it denotes the same double, and is written so for good. */
static void
check_number(const char *input, size_t len)
{
	char	   *out = allocate(CWH_JSON_NUMBER_MAX(len));
	size_t		written = cwh_json_number(input, len, out);
	char	   *again;

	CHECK(written > 0 && written <= CWH_JSON_NUMBER_MAX(len));
	if (!is_number(input, len))
		CHECK(written == 4 && memcmp(out, "null", 4) == 0);
	else
	{
		CHECK(is_number(out, written));
		CHECK(read_number(input, len) == read_number(out, written));

		again = allocate(CWH_JSON_NUMBER_MAX(written));
		CHECK(cwh_json_number(out, written, again) == written);
		CHECK(memcmp(out, again, written) == 0);
		free(again);
	}
	free(out);
}

/* Find an index, and write it as the key was. */
static void
check_index(const char *key, size_t len)
{
	uint32_t	value;
	char		text[10];
	size_t		i = sizeof(text);

	if (!cwh_json_array_index(key, len, &value))
		return;
	CHECK(value != UINT32_MAX);
	do
		text[--i] = (char) ('0' + value % 10);
	while ((value /= 10) > 0);
	CHECK(len == sizeof(text) - i && memcmp(key, text + i, len) == 0);
}

/*
 * Spell a JSON number with bytes that mostly cannot: without this, few inputs
 * get past the parser.  Returns the length, at most that of the input.
 */
static size_t
spell_number(const uint8_t *data, size_t size, char *text)
{
	static const char alphabet[] = "0123456789012345678900009999.eE-";

	for (size_t i = 0; i < size; i++)
		text[i] = alphabet[data[i] % (sizeof(alphabet) - 1)];
	return size;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *input = allocate(size);

	/* A copy of its own size: reading past the end shows as well. */
	memcpy(input, data, size);
	check_string(input, size);
	check_number(input, size);
	check_index(input, size);
	check_number(input, spell_number(data, size, input));
	free(input);
	return 0;
}
