/*
 * signature.c
 *		SQL functions for signatures, and checks of secrets and headers.
 *
 * Signatures are of text in UTF-8, whatever the database's encoding.  These
 * functions run in any session, and touch no table.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "bounds.h"
#include "compat.h"
#include "sign.h"
#include "vault.h"

PG_FUNCTION_INFO_V1(chatwebhook_header_problem);
PG_FUNCTION_INFO_V1(chatwebhook_secret_problem);
PG_FUNCTION_INFO_V1(chatwebhook_sign_body);
PG_FUNCTION_INFO_V1(chatwebhook_sign_standard);
PG_FUNCTION_INFO_V1(chatwebhook_verify_body);
PG_FUNCTION_INFO_V1(chatwebhook_verify_standard);

/* Convert a text to a C string in UTF-8. */
static char *
to_utf8(const text *t)
{
	char	   *string = text_to_cstring(t);

	return pg_server_to_any(string, strlen(string), PG_UTF8);
}

/* Raise an error about a key. */
static void
unusable_secret(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unusable secret: %s", problem),
			 errhint("Use whsec_ followed by the base64 of 24 to 64 random bytes.")));
}

/* Make a signer for a secret, or for a private or public key. */
static CwhSigner *
signer_for(const text *key)
{
	char	   *string = text_to_cstring(key);
	const char *problem;
	CwhSigner  *signer = cwh_signer_create(string, strlen(string), &problem);

	cwh_cleanse(string, strlen(string));
	if (signer == NULL)
		unusable_secret(problem);
	return signer;
}

/* Make a signer that can sign, so not for a public key. */
static CwhSigner *
signer_to_sign(const text *key)
{
	if (VARSIZE_ANY_EXHDR(key) >= 5 &&
		strncmp(VARDATA_ANY(key), "whpk_", 5) == 0)
		unusable_secret(cwh_secret_problem(VARDATA_ANY(key),
										   VARSIZE_ANY_EXHDR(key)));
	return signer_for(key);
}

/* SQL: sign a body: sha256=<hex>. */
Datum
chatwebhook_sign_body(PG_FUNCTION_ARGS)
{
	char	   *body = to_utf8(PG_GETARG_TEXT_PP(0));
	CwhSigner  *signer = signer_to_sign(PG_GETARG_TEXT_PP(1));
	char		signature[CWH_BODY_SIGNATURE_LEN + 1];
	bool		ok;

	ok = cwh_sign_body(signer, body, strlen(body), signature);
	cwh_signer_destroy(signer);
	if (!ok)
		elog(ERROR, "could not sign");
	if (signature[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the sha256= scheme cannot use a private key"),
				 errhint("Use sign(id, at, body, secret) for v1a.")));
	PG_RETURN_TEXT_P(cstring_to_text(signature));
}

/* SQL: sign id, time and body: v1,<base64> or v1a,<base64>. */
Datum
chatwebhook_sign_standard(PG_FUNCTION_ARGS)
{
	char	   *id = to_utf8(PG_GETARG_TEXT_PP(0));
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(1);
	char	   *body = to_utf8(PG_GETARG_TEXT_PP(2));
	CwhSigner  *signer;
	char		signature[CWH_MESSAGE_SIGNATURE_LEN + 1];
	bool		ok;

	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("the time of a signature is infinite")));
	signer = signer_to_sign(PG_GETARG_TEXT_PP(3));
	ok = cwh_sign_message(signer, id, (int64) timestamptz_to_time_t(at), body,
						  strlen(body), signature);
	cwh_signer_destroy(signer);
	if (!ok)
		elog(ERROR, "could not sign");
	PG_RETURN_TEXT_P(cstring_to_text(signature));
}

/* SQL: verify sha256=<hex> of a body. */
Datum
chatwebhook_verify_body(PG_FUNCTION_ARGS)
{
	char	   *body;
	CwhSigner  *signer;
	bool		ok;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_BOOL(false);
	body = to_utf8(PG_GETARG_TEXT_PP(0));
	signer = signer_to_sign(PG_GETARG_TEXT_PP(2));
	ok = cwh_verify_body(signer, body, strlen(body),
						 text_to_cstring(PG_GETARG_TEXT_PP(1)));
	cwh_signer_destroy(signer);
	PG_RETURN_BOOL(ok);
}

/* Find a header by its name, in any case; null if it is missing. */
static char *
find_header(Jsonb *headers, const char *name)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		here = false;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			here = value.val.string.len == strlen(name) &&
				pg_strncasecmp(value.val.string.val, name, strlen(name)) == 0;
		else if (token == WJB_VALUE && here && value.type == jbvString)
			return pnstrdup(value.val.string.val, value.val.string.len);
	}
	return NULL;
}

/* SQL: verify the three headers of Standard Webhooks. */
Datum
chatwebhook_verify_standard(PG_FUNCTION_ARGS)
{
	Jsonb	   *headers;
	Interval   *tolerance;
	char	   *id;
	char	   *timestamp;
	char	   *signatures;
	char	   *body;
	CwhSigner  *signer;
	int64		seconds;
	bool		ok;

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			PG_RETURN_BOOL(false);
	headers = PG_GETARG_JSONB_P(0);
	if (!JB_ROOT_IS_OBJECT(headers))
		PG_RETURN_BOOL(false);
	id = find_header(headers, "webhook-id");
	timestamp = find_header(headers, "webhook-timestamp");
	signatures = find_header(headers, "webhook-signature");
	if (id == NULL || timestamp == NULL || signatures == NULL)
		PG_RETURN_BOOL(false);

	tolerance = PG_GETARG_INTERVAL_P(3);
	seconds = tolerance->time / USECS_PER_SEC +
		((int64) tolerance->day + (int64) tolerance->month * DAYS_PER_MONTH) *
		SECS_PER_DAY;
	body = to_utf8(PG_GETARG_TEXT_PP(1));
	signer = signer_for(PG_GETARG_TEXT_PP(2));
	ok = cwh_verify_message(signer, id, timestamp, signatures, body,
							strlen(body),
							(int64) timestamptz_to_time_t(GetCurrentTimestamp()),
							seconds);
	cwh_signer_destroy(signer);
	PG_RETURN_BOOL(ok);
}

/* SQL: why this cannot be used as a secret, or null. */
Datum
chatwebhook_secret_problem(PG_FUNCTION_ARGS)
{
	text	   *secret = PG_GETARG_TEXT_PP(0);
	const char *problem = cwh_secret_problem(VARDATA_ANY(secret),
											 VARSIZE_ANY_EXHDR(secret));

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/* SQL: return why these cannot be a webhook's headers, or null. */
Datum
chatwebhook_header_problem(PG_FUNCTION_ARGS)
{
	Jsonb	   *headers = PG_GETARG_JSONB_P(0);
	const char *problem = cwh_header_problem(headers, false);

	if (problem == NULL)
		problem = cwh_computed_problem(headers);
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}
