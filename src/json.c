/*
 * json.c
 *		Strings and numbers as ECMAScript writes them.
 *
 * A receiver may verify a signature over JSON.stringify(JSON.parse(body))
 * instead of over the bytes received, so a body must survive that unchanged:
 * it has JSON.stringify's escapes, its number format, and its order of keys.
 *
 * This file knows nothing of PostgreSQL, has no state, allocates nothing and
 * does not depend on a locale.  It runs for each value of each body.
 *
 * Words used below:
 *		a decimal is a number as text; its digits are the significant ones,
 *		without zeros at either end.
 *		the double of a decimal is the nearest one, which JavaScript stores.
 *		the interval of a double contains all decimals that are read as it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* JavaScript never prints more digits than this. */
#define MAX_DIGITS			17

/*
 * Decimals of up to 15 digits are farther apart than doubles, so each has a
 * double of its own, which prints as that decimal.  That holds wherever
 * doubles have all of their 53 bits; we stay well within that range.
 */
#define SURE_DIGITS			15
#define SURE_EXPONENT		300

/* Decimals outside these powers of ten are read as infinity or zero. */
#define MAX_EXPONENT		310
#define MIN_EXPONENT		(-330)

/* The parts of an IEEE 754 double. */
#define FRACTION_BITS		52
#define FRACTION_MASK		((UINT64_C(1) << FRACTION_BITS) - 1)
#define EXPONENT_MASK		0x7ff
#define EXPONENT_BIAS		1075	/* for a significand that is an integer */

/* The longest product of is_javascript_form() has about 850 bits. */
#define BIGINT_LIMBS		32

/* Each byte of a word set to the same value */
#define EACH_BYTE(value)	(UINT64_C(0x0101010101010101) * (value))

/* The value 0.d1d2d3... times a power of ten; zero has no digits. */
typedef struct Decimal
{
	bool		negative;
	size_t		ndigits;		/* may exceed the size of digits[] */
	int64_t		exponent;		/* the power of ten */
	char		digits[MAX_DIGITS]; /* set if ndigits fits */
} Decimal;

/* A natural number of limited size, the least significant limb first */
typedef struct BigInt
{
	int			nlimbs;
	uint32_t	limbs[BIGINT_LIMBS];
} BigInt;

/*
 * How to write each byte of a string: 0 as it is, 'u' as \u00XX, anything else
 * as that letter after a backslash.
 */
static const char escapes[256] = {
	'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
	'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
	'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
	'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
	['"'] = '"',
	['\\'] = '\\'
};

/* Does any of the eight bytes need an escape? */
static inline bool
needs_escape(uint64_t word)
{
	/*
	 * Subtracting sets the high bit of a byte that is smaller than the
	 * subtrahend.  Toggling bit 1 first maps a quote to 0x20, right behind
	 * the control characters, which are only permuted.  Bytes whose high bit
	 * was set need no escape.  A borrow can mark bytes wrongly only above one
	 * that is marked correctly.
	 */
	uint64_t	low = (word ^ EACH_BYTE(0x02)) - EACH_BYTE(0x21);
	uint64_t	backslash = (word ^ EACH_BYTE('\\')) - EACH_BYTE(1);

	return ((low | backslash) & ~word & EACH_BYTE(0x80)) != 0;
}

/*
 * Write a string, with its quotes, as JSON.stringify does.
 *
 * The string must be valid UTF-8.  Returns the number of bytes written, at
 * most CWH_JSON_STRING_MAX(len).
 */
size_t
cwh_json_string(const char *string, size_t len, char *out)
{
	static const char hex[] = "0123456789abcdef";
	const char *end = string + len;
	const char *start = out;

	*out++ = '"';
	while (string < end)
	{
		const char *stop;
		uint64_t	word;

		/* out has room for a whole word, even if part of it is rewritten. */
		while (end - string >= (ptrdiff_t) sizeof(word))
		{
			memcpy(&word, string, sizeof(word));
			memcpy(out, &word, sizeof(word));
			if (needs_escape(word))
				break;
			string += sizeof(word);
			out += sizeof(word);
		}

		/* This is a word with an escape in it, or the last few bytes. */
		stop = end - string < (ptrdiff_t) sizeof(word) ?
			end : string + sizeof(word);
		for (; string < stop; string++)
		{
			unsigned char byte = (unsigned char) *string;
			char		escape = escapes[byte];

			if (escape == 0)
			{
				*out++ = *string;
				continue;
			}
			*out++ = '\\';
			*out++ = escape;
			if (escape == 'u')
			{
				*out++ = '0';
				*out++ = '0';
				*out++ = hex[byte >> 4];
				*out++ = hex[byte & 0x0f];
			}
		}
	}
	*out++ = '"';

	return (size_t) (out - start);
}

/* Return the first byte that is not a digit. */
static const char *
skip_digits(const char *p, const char *end)
{
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p;
}

/*
 * Parse the exponent behind an "e", which must be the rest of the text.  A
 * value that is far out of range stops growing; it stays out of range.
 */
static bool
parse_exponent(const char *p, const char *end, int64_t *exponent)
{
	bool		negative = false;
	int64_t		value = 0;

	if (p < end && (*p == '-' || *p == '+'))
		negative = (*p++ == '-');
	if (p == end || skip_digits(p, end) != end)
		return false;

	for (; p < end; p++)
	{
		if (value < INT64_MAX / 100)
			value = value * 10 + (*p - '0');
	}
	*exponent = negative ? -value : value;
	return true;
}

/* Parse a JSON number; false if the text is not one. */
static bool
parse_decimal(const char *number, size_t len, Decimal *decimal)
{
	const char *end = number + len;
	const char *whole = number;
	const char *whole_end;
	const char *fraction;
	const char *fraction_end;
	const char *first;
	const char *last;

	decimal->negative = (len > 0 && *number == '-');
	if (decimal->negative)
		whole++;
	whole_end = skip_digits(whole, end);
	if (whole == whole_end || (*whole == '0' && whole_end - whole > 1))
		return false;

	fraction = fraction_end = whole_end;
	if (whole_end < end && *whole_end == '.')
	{
		fraction++;
		fraction_end = skip_digits(fraction, end);
		if (fraction == fraction_end)
			return false;
	}

	decimal->exponent = 0;
	if (fraction_end < end &&
		((*fraction_end != 'e' && *fraction_end != 'E') ||
		 !parse_exponent(fraction_end + 1, end, &decimal->exponent)))
		return false;

	/* Strip the zeros at both ends, and the point if they reach it. */
	first = whole;
	while (first < fraction_end && (*first == '0' || *first == '.'))
		first++;
	last = fraction_end;
	while (last > first && (last[-1] == '0' || last[-1] == '.'))
		last--;

	decimal->ndigits = (size_t) (last - first);
	if (first < whole_end)
	{
		decimal->exponent += whole_end - first;
		if (last > whole_end)
			decimal->ndigits--;
	}
	else
		decimal->exponent -= first - fraction;

	if (decimal->ndigits <= MAX_DIGITS)
	{
		size_t		before = 0;

		if (first < whole_end)
		{
			before = (size_t) ((last < whole_end ? last : whole_end) - first);
			memcpy(decimal->digits, first, before);
			first = fraction;
		}
		memcpy(decimal->digits + before, first, decimal->ndigits - before);
	}
	return true;
}

/* Return the digits' value as an integer. */
static uint64_t
digits_value(const Decimal *decimal)
{
	uint64_t	value = 0;

	for (size_t i = 0; i < decimal->ndigits; i++)
		value = value * 10 + (uint64_t) (decimal->digits[i] - '0');
	return value;
}

/* Write an integer of up to three digits; returns its length. */
static size_t
write_small(unsigned value, char *out)
{
	size_t		len = 0;

	if (value >= 100)
		out[len++] = (char) ('0' + value / 100);
	if (value >= 10)
		out[len++] = (char) ('0' + value / 10 % 10);
	out[len++] = (char) ('0' + value % 10);
	return len;
}

/* Return the double nearest to a decimal, without its sign. */
static double
nearest_double(const Decimal *decimal)
{
	char		buffer[MAX_DIGITS + sizeof("e-999")];
	size_t		len = decimal->ndigits;
	int			exponent = (int) (decimal->exponent - (int64_t) len);

	/* strtod() rounds correctly.  Without a point, no locale matters. */
	memcpy(buffer, decimal->digits, len);
	buffer[len++] = 'e';
	if (exponent < 0)
		buffer[len++] = '-';
	len += write_small((unsigned) abs(exponent), buffer + len);
	buffer[len] = '\0';
	return strtod(buffer, NULL);
}

/* Compute a power of five times a power of two. */
static void
bigint_set(BigInt *result, int fives, int twos)
{
	static const uint32_t powers[] = {
		1, 5, 25, 125, 625, 3125, 15625, 78125, 390625, 1953125, 9765625,
		48828125, 244140625, 1220703125
	};
	const int	step = (int) (sizeof(powers) / sizeof(powers[0])) - 1;
	int			low = twos / 32;

	memset(result->limbs, 0, (size_t) low * sizeof(uint32_t));
	result->limbs[low] = UINT32_C(1) << (twos % 32);
	result->nlimbs = low + 1;

	while (fives > 0)
	{
		int			n = fives < step ? fives : step;
		uint64_t	carry = 0;

		for (int i = low; i < result->nlimbs; i++)
		{
			carry += (uint64_t) result->limbs[i] * powers[n];
			result->limbs[i] = (uint32_t) carry;
			carry >>= 32;
		}
		if (carry != 0)
			result->limbs[result->nlimbs++] = (uint32_t) carry;
		fives -= n;
	}
}

/* Multiply by an integer. */
static void
bigint_multiply(BigInt *result, const BigInt *a, uint64_t factor)
{
	const uint64_t low = factor & UINT32_MAX;
	const uint64_t high = factor >> 32;
	uint64_t	low_carry = 0;
	uint64_t	high_carry = 0;
	uint32_t	previous = 0;
	int			n = a->nlimbs;

	/* No sum below exceeds 64 bits: (2^32-1)^2 + 2 (2^32-1) is 2^64-1. */
	for (int i = 0; i < n; i++)
	{
		low_carry += low * a->limbs[i];
		high_carry += high * previous + (uint32_t) low_carry;
		result->limbs[i] = (uint32_t) high_carry;
		low_carry >>= 32;
		high_carry >>= 32;
		previous = a->limbs[i];
	}
	high_carry += high * previous + low_carry;
	result->limbs[n++] = (uint32_t) high_carry;
	result->limbs[n++] = (uint32_t) (high_carry >> 32);

	while (n > 0 && result->limbs[n - 1] == 0)
		n--;
	result->nlimbs = n;
}

/* Compare x times a with y times b, as memcmp() does. */
static int
compare_products(uint64_t x, const BigInt *a, uint64_t y, const BigInt *b)
{
	BigInt		left;
	BigInt		right;

	bigint_multiply(&left, a, x);
	bigint_multiply(&right, b, y);
	if (left.nlimbs != right.nlimbs)
		return left.nlimbs - right.nlimbs;
	for (int i = left.nlimbs - 1; i >= 0; i--)
	{
		if (left.limbs[i] != right.limbs[i])
			return left.limbs[i] < right.limbs[i] ? -1 : 1;
	}
	return 0;
}

/*
 * Are the digits of a decimal those that JavaScript prints for its double: the
 * shortest in the double's interval, and of the shortest the one closest to
 * the double?
 *
 * Testing the digits we have takes a few comparisons, far less than computing
 * the printed ones.  The comparisons are exact: they use big integers, which
 * are small for numbers of everyday magnitude.
 */
static bool
is_javascript_form(const Decimal *decimal)
{
	const double number = nearest_double(decimal);
	const uint64_t digits = digits_value(decimal);
	const int	tens = (int) (decimal->exponent - (int64_t) decimal->ndigits);
	BigInt		half_unit;		/* of the decimal's last digit */
	BigInt		quarter_ulp;	/* of the double's last bit */
	uint64_t	bits;
	uint64_t	significand;
	uint64_t	lower;			/* ends of the interval, in quarter_ulp */
	uint64_t	upper;
	int			excluded;		/* 1 if the interval excludes its ends */
	int			exponent;
	int			twos;
	int			side;

	memcpy(&bits, &number, sizeof(bits));
	significand = bits & FRACTION_MASK;
	exponent = (int) (bits >> FRACTION_BITS);
	if (exponent == EXPONENT_MASK || bits == 0)
		return false;			/* infinity or zero: out of range */

	/*
	 * The interval reaches halfway to the doubles on either side.  Below a
	 * power of two they are twice as dense, except at the bottom of the
	 * range.  A tie is read as the even double.
	 */
	lower = upper = 2;
	if (significand == 0 && exponent > 1)
		lower = 1;
	if (exponent == 0)
		exponent = 1;
	else
		significand |= FRACTION_MASK + 1;
	exponent -= EXPONENT_BIAS;
	excluded = (int) (significand & 1);
	significand *= 4;
	lower = significand - lower;
	upper = significand + upper;

	/* Cancel the powers of two that both units have. */
	twos = tens - 1 < exponent - 2 ? tens - 1 : exponent - 2;
	bigint_set(&half_unit, tens > 0 ? tens : 0, tens - 1 - twos);
	bigint_set(&quarter_ulp, tens < 0 ? -tens : 0, exponent - 2 - twos);

	/*
	 * Every shorter decimal lies on a grid ten times as coarse, or beyond a
	 * point of that grid.  Our decimal is in the interval, so it is enough to
	 * compare the two grid points around it with the interval's ends.
	 */
	if (decimal->ndigits > 1)
	{
		uint64_t	coarse = digits - digits % 10;

		if (compare_products(2 * coarse, &half_unit,
							 lower, &quarter_ulp) >= excluded ||
			compare_products(2 * (coarse + 10), &half_unit,
							 upper, &quarter_ulp) <= -excluded)
			return false;
	}

	/*
	 * Is our neighbor, the next decimal of that length on the double's side,
	 * at least as close to the double?  It is if the double is not on our
	 * side of the middle.  Of two that are equally close, the even one is
	 * printed.
	 *
	 * A neighbor above is then always in the interval, which reaches at least
	 * as far upward as downward.  A neighbor below may be outside, and then
	 * ours is printed even if it is not the closest.  (The neighbor below a
	 * single digit 1 is a 9 of the next power of ten, so closer than we
	 * assume; but no double is that far from such a decimal.)
	 */
	side = compare_products(2 * digits, &half_unit,
							significand, &quarter_ulp);
	if (side > 0)
	{
		int			middle = compare_products(2 * digits - 1, &half_unit,
											  significand, &quarter_ulp);

		if (middle < 0)
			return true;
		if (compare_products(2 * digits - 2, &half_unit,
							 lower, &quarter_ulp) < excluded)
			return true;
		return middle == 0 && digits % 2 == 0;
	}
	if (side < 0)
	{
		int			middle = compare_products(2 * digits + 1, &half_unit,
											  significand, &quarter_ulp);

		return middle > 0 || (middle == 0 && digits % 2 == 0);
	}
	return true;				/* the double is the decimal */
}

/* Write a decimal in the layout of Number::toString; returns its length. */
static size_t
write_decimal(const Decimal *decimal, char *out)
{
	const char *start = out;
	const char *digits = decimal->digits;
	size_t		ndigits = decimal->ndigits;
	int			point = (int) decimal->exponent;

	if (decimal->negative)
		*out++ = '-';

	if (point >= (int) ndigits && point <= 21)
	{
		memcpy(out, digits, ndigits);
		memset(out + ndigits, '0', (size_t) point - ndigits);
		out += point;
	}
	else if (point > 0 && point <= 21)
	{
		memcpy(out, digits, (size_t) point);
		out[point] = '.';
		memcpy(out + point + 1, digits + point, ndigits - (size_t) point);
		out += ndigits + 1;
	}
	else if (point > -6 && point <= 0)
	{
		memcpy(out, "0.00000", (size_t) (2 - point));
		out += 2 - point;
		memcpy(out, digits, ndigits);
		out += ndigits;
	}
	else
	{
		*out++ = digits[0];
		if (ndigits > 1)
		{
			*out++ = '.';
			memcpy(out, digits + 1, ndigits - 1);
			out += ndigits - 1;
		}
		*out++ = 'e';
		*out++ = point > 0 ? '+' : '-';
		out += write_small((unsigned) abs(point - 1), out);
	}
	return (size_t) (out - start);
}

/*
 * Write a number as JSON.stringify(JSON.parse()) does if that keeps its value,
 * else unchanged: a number that a double cannot represent keeps its digits.
 *
 * The input is numeric_out()'s output, or any JSON number.  Anything else
 * (NaN, Infinity) becomes null, as in JSON.stringify.  Returns the number of
 * bytes written, at most CWH_JSON_NUMBER_MAX(len).
 */
size_t
cwh_json_number(const char *decimal, size_t len, char *out)
{
	Decimal		parsed;
	bool		same;

	if (!parse_decimal(decimal, len, &parsed))
	{
		memcpy(out, "null", 4);
		return 4;
	}
	if (parsed.ndigits == 0)
	{
		*out = '0';				/* JSON.stringify drops the sign of zero */
		return 1;
	}

	if (parsed.ndigits > MAX_DIGITS ||
		parsed.exponent > MAX_EXPONENT || parsed.exponent < MIN_EXPONENT)
		same = false;
	else if (parsed.ndigits <= SURE_DIGITS &&
			 parsed.exponent <= SURE_EXPONENT &&
			 parsed.exponent >= -SURE_EXPONENT)
		same = true;
	else
		same = is_javascript_form(&parsed);

	if (same)
		return write_decimal(&parsed, out);
	memcpy(out, decimal, len);
	return len;
}

/*
 * Is this key an array index?  If so, set *value.
 *
 * JSON.parse puts such keys before all others, in ascending order.  In
 * ECMAScript and in V8 alike they are 0 to 2^32 - 2, without leading zeros: so
 * 2147483648 is one, and 4294967295 is not.
 */
bool
cwh_json_array_index(const char *key, size_t len, uint32_t *value)
{
	uint64_t	index = 0;

	if (len == 0 || len > strlen("4294967294") || (key[0] == '0' && len > 1))
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (key[i] < '0' || key[i] > '9')
			return false;
		index = index * 10 + (uint64_t) (key[i] - '0');
	}
	if (index >= UINT32_MAX)
		return false;
	*value = (uint32_t) index;
	return true;
}
