/*
 * computed.h
 *		Values in headers that are computed for each request.  Pure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_COMPUTED_H
#define CWH_COMPUTED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sign.h"

/* What {{$name}} in a webhook's header stands for. */
typedef enum CwhComputed
{
	CWH_COMPUTED_HMAC_HEX,
	CWH_COMPUTED_HMAC_BASE64,
	CWH_COMPUTED_HMAC_TIMESTAMPED,
	CWH_COMPUTED_TIMESTAMP,
	CWH_COMPUTED_ID,
	CWH_COMPUTED_TYPE,
	CWH_COMPUTED_ATTEMPT,
	CWH_COMPUTED_DELIVERY
} CwhComputed;

/* The number of those. */
#define CWH_NCOMPUTED			(CWH_COMPUTED_DELIVERY + 1)

/* The start of a placeholder. */
#define CWH_COMPUTED_START		"{{$"

/* All of them, for messages. */
#define CWH_COMPUTED_NAMES \
	"{{$hmac_sha256}}, {{$hmac_sha256_base64}}, {{$hmac_sha256_timestamped}}," \
	" {{$timestamp}}, {{$id}}, {{$type}}, {{$attempt}} and {{$delivery}}"

/*
 * The values for one request, as texts.  HMACs that no header uses are never
 * computed.
 */
typedef struct CwhComputedValues
{
	const char *values[CWH_NCOMPUTED];	/* set by the caller; null: an HMAC
										 * that is not computed yet */
	char		hmacs[3][CWH_HMAC_LEN + 1];
} CwhComputedValues;

extern size_t cwh_computed_parse(const char *text, CwhComputed *which);
extern bool cwh_computed_is_hmac(CwhComputed which);
extern size_t cwh_computed_size(CwhComputed which, size_t type_len,
								int deliveries);
extern bool cwh_computed_hmac(CwhComputedValues *values, CwhComputed which,
							  CwhSigner *signer, const void *body, size_t len);

#endif							/* CWH_COMPUTED_H */
