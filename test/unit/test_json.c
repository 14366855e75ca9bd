/*
 * test_json.c
 *		Strings, numbers and keys against what JavaScript makes of them.
 *
 * The cases are hand-picked; json_numbers.js compares with a real JavaScript
 * at random.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/json.c"

#include <locale.h>
#include <stdio.h>

#include "tap.h"

#define GUARD	'#'

static char buffer[8192];

/* Check that nothing was written beyond the limit, and end the output. */
static bool
within(size_t len, size_t limit)
{
	bool		kept = len <= limit && buffer[limit] == GUARD;

	buffer[len] = '\0';
	return kept;
}

/* Check one string. */
static void
string(const char *input, size_t len, const char *want, const char *name)
{
	memset(buffer, GUARD, sizeof(buffer));
	ok(within(cwh_json_string(input, len, buffer), CWH_JSON_STRING_MAX(len)),
	   "%s: stays within its bounds", name);
	is_str(buffer, want, name);
}

/* Check one number. */
static void
number(const char *input, const char *want)
{
	size_t		len = strlen(input);
	char		name[128];

	snprintf(name, sizeof(name), "%.60s is %.50s", input, want);
	memset(buffer, GUARD, sizeof(buffer));
	ok(within(cwh_json_number(input, len, buffer), CWH_JSON_NUMBER_MAX(len)),
	   "%.60s: stays within its bounds", input);
	is_str(buffer, want, name);
}

/* Check a number that keeps its digits. */
static void
kept(const char *input)
{
	number(input, input);
}

/* Check a key that is an array index. */
static void
array_index(const char *key, uint32_t want)
{
	uint32_t	value = 0;

	ok(cwh_json_array_index(key, strlen(key), &value) && value == want,
	   "\"%s\" is an array index", key);
}

/* Check a key that is not. */
static void
not_array_index(const char *key)
{
	uint32_t	value = 0;

	ok(!cwh_json_array_index(key, strlen(key), &value),
	   "\"%s\" is not an array index", key);
}

/* What is escaped, and what is not. */
static void
test_strings(void)
{
	char		input[64];
	char		want[128];

	string("", 0, "\"\"", "an empty string");
	string("plain", 5, "\"plain\"", "a short string");
	string("0123456789abcdefghij", 20, "\"0123456789abcdefghij\"",
		   "a string of more than two words");
	string("say \"hi\" \\ there", 16, "\"say \\\"hi\\\" \\\\ there\"",
		   "quotes and backslashes");
	string("\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"", "escapes with a letter");
	string("\0\1\7\13\16\33\37", 7,
		   "\"\\u0000\\u0001\\u0007\\u000b\\u000e\\u001b\\u001f\"",
		   "escapes with a number");
	string("a/b <c> 'd' & \x7f", 15, "\"a/b <c> 'd' & \x7f\"",
		   "ASCII that stays raw");
	string("Zoë \xf0\x9f\x98\x80 \xe2\x80\xa8\xe2\x80\xa9", 16,
		   "\"Zoë \xf0\x9f\x98\x80 \xe2\x80\xa8\xe2\x80\xa9\"",
		   "everything else stays raw");
	string("\xc2\x80\xc2\xa2\xc3\x9c\xc2\x9f", 8,
		   "\"\xc2\x80\xc2\xa2\xc3\x9c\xc2\x9f\"",
		   "bytes that are special but for the high bit");

	/* At every place of a word, in the middle of it and of the tail. */
	for (size_t i = 0; i < 21; i++)
	{
		char		name[64];

		memset(input, '!', 21);
		input[i] = '\n';
		memset(want, '!', 24);
		want[0] = '"';
		want[i + 1] = '\\';
		want[i + 2] = 'n';
		want[23] = '"';
		want[24] = '\0';
		snprintf(name, sizeof(name), "an escape at byte %d", (int) i);
		string(input, 21, want, name);
	}

	memset(input, '\1', 20);
	memset(buffer, GUARD, sizeof(buffer));
	is_int((long long) cwh_json_string(input, 20, buffer),
		   CWH_JSON_STRING_MAX(20), "the longest output is reached");
	ok(buffer[CWH_JSON_STRING_MAX(20)] == GUARD, "and not exceeded");
}

/* Every single byte, against the rule written out. */
static void
test_bytes(void)
{
	int			wrong = 0;

	for (int c = 0; c < 256; c++)
	{
		char		text[9] = "abcdefgh";
		char		want[32];

		text[3] = (char) c;
		if (c == '"' || c == '\\')
			snprintf(want, sizeof(want), "\"abc\\%cefgh\"", c);
		else if (c == '\b' || c == '\f' || c == '\n' || c == '\r' || c == '\t')
			snprintf(want, sizeof(want), "\"abc\\%cefgh\"",
					 c == '\b' ? 'b' : c == '\f' ? 'f' : c == '\n' ? 'n' :
					 c == '\r' ? 'r' : 't');
		else if (c < 0x20)
			snprintf(want, sizeof(want), "\"abc\\u%04xefgh\"", (unsigned) c);
		else
			snprintf(want, sizeof(want), "\"abc%cefgh\"", c);
		buffer[cwh_json_string(text, 8, buffer)] = '\0';
		if (strcmp(buffer, want) != 0)
			wrong++;
	}
	is_int(wrong, 0, "every byte is written by the rule");
}

/* Numbers that any double holds, in their layouts. */
static void
test_layout(void)
{
	number("0", "0");
	number("-0", "0");
	number("0.000", "0");
	number("-0.0", "0");
	number("1", "1");
	number("-1", "-1");
	number("10", "10");
	number("1.0", "1");
	number("1.50", "1.5");
	number("-12.3400", "-12.34");
	number("100.001", "100.001");
	number("0.87", "0.87");
	number("2432232314", "2432232314");
	number("1767323045678", "1767323045678");
	number("123456789012345", "123456789012345");
	number("99999.9999999999", "99999.9999999999");

	/* small ones: an exponent from 1e-7 on */
	number("0.1", "0.1");
	number("0.000001", "0.000001");
	number("0.00000123", "0.00000123");
	number("0.0000001", "1e-7");
	number("-0.000000123", "-1.23e-7");
	number("0.00000000000000000000000000001", "1e-29");

	/* big ones: an exponent from 1e21 on */
	number("100000000000000000000", "100000000000000000000");
	number("123000000000000000000", "123000000000000000000");
	number("999999999999999000000", "999999999999999000000");
	number("1000000000000000000000", "1e+21");
	number("-1200000000000000000000.00", "-1.2e+21");

	/* with an exponent in the text */
	number("1e5", "100000");
	number("1E+20", "100000000000000000000");
	number("1e21", "1e+21");
	number("12.5e-1", "1.25");
	number("0.00025e+6", "250");
	number("1500e298", "1.5e+301");
	number("1e-6", "0.000001");
	number("1e-007", "1e-7");
	number("0e999999999999999999999999", "0");
	number("-0e-999999999999999999999999", "0");
}

/* Numbers with 16 and 17 digits, where it depends on the double. */
static void
test_precision(void)
{
	number("0.30000000000000004", "0.30000000000000004");
	number("0.8374629103847561", "0.8374629103847561");
	number("-3.1415926535897930", "-3.141592653589793");
	number("0.00000012345678901234568", "1.2345678901234568e-7");
	kept("0.10000000000000001");	/* 0.1 is shorter */
	kept("3.1415926535897931");
	kept("3.1415926535897932384626433832795028841971");
	kept("0.123456789012345678");
	kept("0.12345678901234567800");
	kept("0.1000000000000000055511151231257827");

	/* integers around 2^53 */
	number("9007199254740991", "9007199254740991");
	number("9007199254740992", "9007199254740992");
	kept("9007199254740993.0"); /* a tie, read as the one before */
	number("9007199254740994", "9007199254740994");
	kept("9007199254740995");
	number("9007199254740996.000", "9007199254740996");
	kept("-9007199254740993.0");
	number("123456789012345680000", "123456789012345680000");
	number("123456789012345680000.0", "123456789012345680000");
	kept("123456789012345670000");
	kept("123456789012345678901");
	kept("18446744073709551615");
	number("18446744073709552000", "18446744073709552000");
	number("1234567890123456800000", "1.2345678901234568e+21");

	/* at the end of the interval, which belongs to an even significand */
	number("100000000000000000000000", "1e+23");
	number("28946487324916930.0", "28946487324916930");
	kept("28946487324916928.0");	/* the double itself, but longer */

	/* at the end of the interval, which does not belong to an odd one */
	number("35874932411783532.0", "35874932411783532");
	number("35874932411783530.0", "35874932411783530");

	/* powers of two: the closest of that length is another double */
	number("5.684341886080802e-14", "5.684341886080802e-14");
	number("5.684341886080801e-14", "5.684341886080801e-14");
	number("7120236347223045e-322", "7.120236347223045e-307");
	number("7120236347223044e-322", "7.120236347223044e-307");
	kept("618970019642690137449562112");
	number("618970019642690200000000000", "6.189700196426902e+26");
	number("618970019642690100000000000", "6.189700196426901e+26");

	/* two as close: the even one */
	number("0.000000029802322387695312", "2.9802322387695312e-8");
	kept("0.000000029802322387695313");
	number("0.00000017881393432617188", "1.7881393432617188e-7");
	kept("0.00000017881393432617187");
}

/* Both ends of the range of doubles. */
static void
test_range(void)
{
	static char text[4001];

	number("1.7976931348623157e308", "1.7976931348623157e+308");
	kept("1.7976931348623158e308");
	kept("1.797693134862316e308");
	kept("1e309");
	kept("1e400");
	kept("-1e99999999999999999999999999");
	number("2.2250738585072014e-308", "2.2250738585072014e-308");
	number("2.225073858507201e-308", "2.225073858507201e-308");
	number("5e-324", "5e-324");
	number("50E-325", "5e-324");
	kept("4e-324");
	kept("6e-324");
	kept("4.9e-324");
	kept("2e-324");
	number("1e-323", "1e-323");
	kept("9e-324");
	number("1.5e-323", "1.5e-323");
	kept("1e-99999999999999999999999999");

	memset(text, '0', sizeof(text) - 1);
	text[0] = '1';
	text[309] = '\0';
	number(text, "1e+308");
	text[309] = '0';
	text[310] = '\0';
	kept(text);
	text[310] = '0';
	kept(text);
	text[1] = '.';
	number(text, "1");
	text[0] = '0';
	number(text, "0");
	text[3999] = '1';
	kept(text);
	memset(text + 2, '7', sizeof(text) - 3);
	kept(text);
}

/* What cannot come from jsonb still makes valid JSON. */
static void
test_not_numbers(void)
{
	static const char *const texts[] = {
		"", "-", ".", "e5", "NaN", "Infinity", "-Infinity", "+1", "01", "-00",
		"1.", ".5", "1e", "1e+", "1.e5", "1e5.0", "1x", "0x10", " 1", "1 ",
		"1,5", "1.2.3", "--1"
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		number(texts[i], "null");
}

/* Which keys come first, and in which order. */
static void
test_array_index(void)
{
	uint32_t	value;

	array_index("0", 0);
	array_index("7", 7);
	array_index("10", 10);
	array_index("2147483647", 2147483647);
	array_index("2147483648", UINT32_C(2147483648));
	array_index("4294967293", UINT32_C(4294967293));
	array_index("4294967294", UINT32_C(4294967294));
	not_array_index("4294967295");
	not_array_index("4294967296");
	not_array_index("9999999999");
	not_array_index("10000000000");
	not_array_index("18446744073709551617");
	not_array_index("");
	not_array_index("00");
	not_array_index("01");
	not_array_index("-0");
	not_array_index("-1");
	not_array_index("+1");
	not_array_index("1.0");
	not_array_index("1e3");
	not_array_index(" 1");
	not_array_index("1 ");
	not_array_index("a");
	ok(!cwh_json_array_index("1\0", 2, &value), "a zero byte is not a digit");
}

/* A locale with a decimal comma changes nothing. */
static void
test_locale(void)
{
	static const char *const locales[] = {
		"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "pl_PL.UTF-8"
	};
	bool		found = false;

	for (size_t i = 0; i < sizeof(locales) / sizeof(locales[0]) && !found; i++)
		found = setlocale(LC_ALL, locales[i]) != NULL;
	if (!found)
	{
		ok(true, "a decimal comma # SKIP no such locale is installed");
		return;
	}
	number("1234.5", "1234.5");
	number("0.30000000000000004", "0.30000000000000004");
	kept("0.10000000000000001");
	setlocale(LC_ALL, "C");
}

int
main(void)
{
	test_strings();
	test_bytes();
	test_layout();
	test_precision();
	test_range();
	test_not_numbers();
	test_array_index();
	test_locale();
	return done_testing();
}
