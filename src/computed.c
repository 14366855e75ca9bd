/*
 * computed.c
 *		Values in headers that are computed for each request.
 *
 * Receivers that were written for another sender check that sender's headers:
 * an HMAC in a certain format, the event's type, an id.  A webhook's headers
 * express those with placeholders, {{$name}}.  This file knows their names,
 * and computes the HMACs, each at most once for a request, and only if a
 * header uses it.
 *
 * It knows nothing of PostgreSQL, and raises no errors.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <stdio.h>
#include <string.h>

#include "computed.h"

/* Length of a 64-bit integer. */
#define MAX_NUMBER_LEN	20

/* The same as in CWH_COMPUTED_NAMES, in the order of CwhComputed. */
static const char *const names[CWH_NCOMPUTED] = {
	"hmac_sha256", "hmac_sha256_base64", "hmac_sha256_timestamped",
	"timestamp", "id", "type", "attempt", "delivery"
};

/*
 * If a text begins with a placeholder, return its length and set *which;
 * otherwise return 0.
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

/* Does this value need a secret? */
bool
cwh_computed_is_hmac(CwhComputed which)
{
	return which <= CWH_COMPUTED_HMAC_TIMESTAMPED;
}

/* The maximum size of a value, in bytes. */
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
 * Compute an HMAC unless it has been computed.  The timestamp is already set.
 * Returns false if OpenSSL fails, or if the signer has no secret.
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
