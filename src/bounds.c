/*
 * bounds.c
 *		Checks what a row of the table webhook, and its credentials, hold.
 *
 * Pure functions of their arguments: no table is read, and nothing is kept.  No
 * message shows the value of a credential.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "bounds.h"
#include "computed.h"
#include "envelope.h"

#define MAX_CUSTOM_HEADERS		50
#define MAX_HEADER_NAME			256
#define MAX_HEADER_VALUE		4096
#define MAX_CONTENT_TYPE		255

/* Certificates in a chain. */
#define MAX_CHAIN				10

PG_FUNCTION_INFO_V1(chatwebhook_json_problem);
PG_FUNCTION_INFO_V1(chatwebhook_credential_problem);

/*
 * Headers
 */

/*
 * Headers that only HTTP itself or we may set, except that a connector may set
 * the Content-Type of its request.
 */
static const char *const reserved_headers[] = {
	"connection", "content-encoding", "content-length", "content-type",
	"expect", "host", "keep-alive", "te", "traceparent", "trailer",
	"transfer-encoding", "upgrade", "user-agent"
};
static const char *const reserved_prefixes[] = {
	"proxy-", "webhook-", "x-webhook-"
};

/* Is this header's name one that we keep to ourselves? */
static bool
is_reserved(const char *name)
{
	for (int i = 0; i < lengthof(reserved_headers); i++)
		if (pg_strcasecmp(name, reserved_headers[i]) == 0)
			return true;
	for (int i = 0; i < lengthof(reserved_prefixes); i++)
		if (pg_strncasecmp(name, reserved_prefixes[i],
						   strlen(reserved_prefixes[i])) == 0)
			return true;
	return false;
}

/* The characters of a token (RFC 9110, 5.6.2). */
static const char token_chars[] = "!#$%&'*+-.^_`|~0123456789"
"abcdefghijklmnopqrstuvwxyz"
"ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/* Is this a valid header name, a token of RFC 9110? */
static bool
is_token(const char *name)
{
	if (name[0] == '\0' || strlen(name) > MAX_HEADER_NAME)
		return false;
	return name[strspn(name, token_chars)] == '\0';
}

/* Can this be a header's value: printable ASCII, no spaces at its ends? */
static bool
is_value(const char *value, int len)
{
	if (len == 0 || len > MAX_HEADER_VALUE ||
		value[0] == ' ' || value[len - 1] == ' ')
		return false;
	for (int i = 0; i < len; i++)
		if (value[i] < ' ' || value[i] > '~')
			return false;
	return true;
}

/* Is a header's value a media type, perhaps with parameters (RFC 9110, 8.3)? */
static bool
is_media_type(const char *value, int len)
{
	char	   *copy = pnstrdup(value, len);
	size_t		type = strspn(copy, token_chars);
	const char *subtype = copy + type + 1;

	if (len > MAX_CONTENT_TYPE || type == 0 || copy[type] != '/')
		return false;
	subtype += strspn(subtype, token_chars);
	return subtype > copy + type + 1 &&
		(*subtype == '\0' || subtype[strspn(subtype, " ")] == ';');
}

/*
 * Return why these headers cannot be sent, of a webhook or of a connector's
 * request; null if they can.
 */
const char *
cwh_header_problem(Jsonb *headers, bool of_connector)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(headers))
		return "they are not an object";
	if (VARSIZE(headers) > CWH_MAX_JSON)
		return psprintf("they are larger than %d kB", CWH_MAX_JSON / 1024);
	if (JB_ROOT_COUNT(headers) > MAX_CUSTOM_HEADERS)
		return psprintf("there are more than %d headers", MAX_CUSTOM_HEADERS);
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(value.val.string.val, value.val.string.len);
			if (!is_token(name))
				return psprintf("\"%.*s\" is not a valid header name",
								pg_mbcliplen(name, strlen(name), 100), name);
			if (is_reserved(name) &&
				!(of_connector && cwh_is_content_type(name)))
				return psprintf("\"%s\" is set by the extension or by HTTP", name);
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString)
				return psprintf("the value of \"%s\" is not a string", name);
			if (!is_value(value.val.string.val, value.val.string.len))
				return psprintf("the value of \"%s\" is not 1 to %d printable ASCII characters in one line, without leading or trailing spaces",
								name, MAX_HEADER_VALUE);
			if (cwh_is_content_type(name) &&
				!is_media_type(value.val.string.val, value.val.string.len))
				return psprintf("the value of \"%s\" is not a media type of at most %d characters",
								name, MAX_CONTENT_TYPE);
		}
	}
	return NULL;
}

/*
 * Return why the computed values in a webhook's headers are invalid; null if
 * they are valid.  Call it only for headers that pass cwh_header_problem().
 */
const char *
cwh_computed_problem(Jsonb *headers)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	int			n = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		const char *rest;

		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE)
			continue;
		rest = pnstrdup(value.val.string.val, value.val.string.len);
		while ((rest = strstr(rest, CWH_COMPUTED_START)) != NULL)
		{
			CwhComputed which;
			size_t		len = cwh_computed_parse(rest, &which);
			int			shown = strcspn(rest, "}");

			if (len == 0)
				return psprintf("\"%s\" has the unknown placeholder \"%.*s\": there are "
								CWH_COMPUTED_NAMES,
								name, Min(shown + 2, 50), rest);
			if (++n > CWH_MAX_COMPUTED)
				return psprintf("they have more than %d computed values",
								CWH_MAX_COMPUTED);
			rest += len;
		}
	}
	return NULL;
}

/*
 * Settings
 */

/* The levels that a value is nested, as far as they are counted. */
static int
depth(Jsonb *value)
{
	JsonbIterator *iterator = JsonbIteratorInit(&value->root);
	JsonbIteratorToken token;
	JsonbValue	part;
	int			now = 0;
	int			most = 0;

	while (most <= CWH_MAX_DEPTH &&
		   (token = JsonbIteratorNext(&iterator, &part, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
		{
			now++;
			most = Max(most, now);
		}
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			now--;
	}
	return most;
}

/* SQL: why these cannot be a webhook's settings or auth, or null. */
Datum
chatwebhook_json_problem(PG_FUNCTION_ARGS)
{
	Jsonb	   *value = PG_GETARG_JSONB_P(0);

	if (VARSIZE(value) > CWH_MAX_JSON || !cwh_json_fits(value, CWH_MAX_JSON))
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("larger than %d kB",
												  CWH_MAX_JSON / 1024)));
	if (depth(value) > CWH_MAX_DEPTH)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("nested more than %d levels deep",
												  CWH_MAX_DEPTH)));
	PG_RETURN_NULL();
}

/*
 * Credentials
 */

/* Callback: a key that needs a password is refused, and nobody asked for one. */
static int
no_password(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

/* Why this is not a chain of certificates in PEM; null if it is. */
static const char *
certificate_problem(BIO *pem)
{
	X509	   *certificate;
	int			n = 0;
	unsigned long last;

	while ((certificate = PEM_read_bio_X509(pem, NULL, no_password, NULL)) != NULL)
	{
		X509_free(certificate);
		if (++n > MAX_CHAIN)
			return psprintf("it has more than %d certificates", MAX_CHAIN);
	}
	/* what ends the chain must be the end of the text */
	last = ERR_peek_last_error();
	if (n == 0 || ERR_GET_LIB(last) != ERR_LIB_PEM ||
		ERR_GET_REASON(last) != PEM_R_NO_START_LINE)
		return "it is not a certificate in PEM";
	return NULL;
}

/* Why this is not a private key in PEM; null if it is. */
static const char *
key_problem(BIO *pem)
{
	EVP_PKEY   *key = PEM_read_bio_PrivateKey(pem, NULL, no_password, NULL);

	if (key == NULL)
		return "it is not a private key in PEM, or is encrypted";
	EVP_PKEY_free(key);
	return NULL;
}

/* Why this cannot be a client certificate, or the key for one; or null. */
static const char *
pem_problem(const char *value, size_t len, bool is_key)
{
	const char *problem;
	BIO		   *pem;

	if (len > CWH_MAX_PEM)
		return psprintf("it is longer than %d kB", CWH_MAX_PEM / 1024);
	if (value[strspn(value, "\t\r\n")] == '\0')
		return "it is empty";
	pem = BIO_new_mem_buf(value, (int) len);
	if (pem == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	ERR_clear_error();
	problem = is_key ? key_problem(pem) : certificate_problem(pem);
	ERR_clear_error();
	BIO_free(pem);
	return problem;
}

/* Why this cannot be a credential that is sent; null if it can. */
static const char *
text_problem(const char *value, size_t len)
{
	if (len == 0)
		return "it is empty";
	if (len > CWH_MAX_CREDENTIAL)
		return psprintf("it is longer than %d kB", CWH_MAX_CREDENTIAL / 1024);
	if (!cwh_is_printable(value))
		return "it is not one line of printable ASCII";
	if (value[0] == ' ' || value[len - 1] == ' ')
		return "it has leading or trailing spaces";
	return NULL;
}

/* SQL: why this cannot be the credential of that name, or null. */
Datum
chatwebhook_credential_problem(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(1));
	size_t		len = strlen(value);
	bool		is_key = strcmp(name, "client_key") == 0;
	const char *problem;

	if (is_key || strcmp(name, "client_certificate") == 0)
		problem = pem_problem(value, len, is_key);
	else
		problem = text_problem(value, len);
	OPENSSL_cleanse(value, len);
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}
