/*
 * computed.c
 *		Values that headers can have computed for each request.
 *
 * Receivers that were written for another sender check its headers: an HMAC
 * in its spelling, its name for the event's type, an id.  A webhook's headers
 * spell those with placeholders, {{$name}}.  This file knows their names, and
 * makes the HMACs, each at most once for a request, and only if a header has
 * it.
 *
 * It knows nothing of PostgreSQL, and raises no errors.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <stdio.h>
#include <string.h>

#include "computed.h"

/* Of a 64-bit integer. */
#define MAX_NUMBER_LEN	20

/* As CWH_COMPUTED_NAMES says, in the order of CwhComputed. */
static const char *const names[CWH_NCOMPUTED] = {
	"hmac_sha256", "hmac_sha256_base64", "hmac_sha256_timestamped",
	"timestamp", "id", "type", "attempt", "delivery"
};

/*
 * The length of the placeholder that a text begins with, and which it is; 0 if
 * it is none of these.
 */
size_t
cwh_computed_parse(const char *text, CwhComputed *which)
{
	const size_t start_len = sizeof(CWH_COMPUTED_START) - 1;

	if (strncmp(text, CWH_COMPUTED_START, start_len) != 0)
		return 0;
	for (int i = 0; i < CWH_NCOMPUTED; i++)
	{
		size_t		len = strlen(names[i]);

		if (strncmp(text + start_len, names[i], len) == 0 &&
			strncmp(text + start_len + len, "}}", 2) == 0)
		{
			*which = (CwhComputed) i;
			return start_len + len + 2;
		}
	}
	return 0;
}

/* Does this value take a secret? */
bool
cwh_computed_is_hmac(CwhComputed which)
{
	return which <= CWH_COMPUTED_HMAC_TIMESTAMPED;
}

/* The bytes that a value takes at most. */
size_t
cwh_computed_size(CwhComputed which, size_t type_len, int deliveries)
{
	switch (which)
	{
		case CWH_COMPUTED_TYPE:
			return type_len;
		case CWH_COMPUTED_DELIVERY:
			return (size_t) deliveries * (MAX_NUMBER_LEN + 1);
		case CWH_COMPUTED_TIMESTAMP:
		case CWH_COMPUTED_ATTEMPT:
			return MAX_NUMBER_LEN;
		default:
			return CWH_HMAC_LEN;	/* an id takes less */
	}
}

/*
 * Make an HMAC, unless it has been made.  The timestamp is there already.
 * False if OpenSSL fails, or if the signer has no secret.
 */
bool
cwh_computed_hmac(CwhComputedValues *values, CwhComputed which,
				  CwhSigner *signer, const void *body, size_t len)
{
	char	   *out = values->hmacs[which];
	char		before[MAX_NUMBER_LEN + 2] = "";

	if (values->values[which] != NULL)
		return true;
	if (which == CWH_COMPUTED_HMAC_TIMESTAMPED)
		snprintf(before, sizeof(before), "%s.",
				 values->values[CWH_COMPUTED_TIMESTAMP]);
	if (!cwh_sign_hmac(signer, before, body, len,
					   which == CWH_COMPUTED_HMAC_BASE64, out))
		return false;
	values->values[which] = out;
	return true;
}
