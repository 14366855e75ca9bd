/*
 * traceparent.c
 *		Checks trace contexts (W3C Trace Context).
 *
 * The header traceparent is VERSION-TRACE_ID-PARENT_ID-FLAGS, in lower-case
 * hexadecimal digits.  Only version 00 is accepted: the format of later
 * versions is not known, so they cannot be checked.
 *
 * Pure C: no PostgreSQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "traceparent.h"

#include <stddef.h>
#include <string.h>

static const char digits[] = "0123456789abcdef";

/*
 * Skip a number of hexadecimal digits and the character after them.  Returns
 * null if something else is there.
 */
static const char *
skip_field(const char *p, size_t len, char end)
{
	return strspn(p, digits) == len && p[len] == end ? p + len + 1 : NULL;
}

/* The same for an id, whose digits must not all be zero. */
static const char *
skip_id(const char *p, size_t len)
{
	return strspn(p, "0") < len ? skip_field(p, len, '-') : NULL;
}

/* Is this a valid trace context of version 00? */
bool
cwh_is_traceparent(const char *text)
{
	const char *p = strncmp(text, "00-", 3) == 0 ? text + 3 : NULL;

	if (p)
		p = skip_id(p, 32);
	if (p)
		p = skip_id(p, 16);
	return p && skip_field(p, 2, '\0') != NULL;
}
