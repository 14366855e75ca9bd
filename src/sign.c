/*
 * sign.c
 *		Signatures: how a receiver knows that a delivery is ours.
 *
 * Two schemes stand side by side in every request.  The body signature is
 * "sha256=" and the hexadecimal HMAC-SHA256 of the body, keyed with the bytes
 * of the secret as it is written, prefix and all.  The standard signature,
 * that of Standard Webhooks, is "v1," and the base64 of the HMAC-SHA256 of
 * "id.timestamp.body", keyed with the bytes that the part of the secret
 * behind "whsec_" decodes to.
 *
 * A signer holds both keys, already hashed into HMAC contexts: going back to
 * the keyed state costs a copy, where keying anew for each message costs more
 * than hashing a kilobyte.  A signer is not to be shared between threads.
 *
 * This file knows nothing of PostgreSQL.  It raises no error: a function that
 * fails says so, and OpenSSL's error queue has the reason.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */

/*
 * HMAC_CTX is the one interface to a keyed context that OpenSSL 1.1.1 and 3
 * share.  OpenSSL 3 deprecates it, so ask for the interface of 1.1.1.
 */
#define OPENSSL_API_COMPAT 0x10101000L

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "chatwebhook.h"

#define SECRET_PREFIX			"whsec_"
#define SECRET_PREFIX_LEN		6
#define BODY_PREFIX				"sha256="
#define BODY_PREFIX_LEN			7
#define STANDARD_PREFIX			"v1,"
#define STANDARD_PREFIX_LEN		3

#define DIGEST_LEN				32	/* of SHA-256 */
#define GENERATED_KEY_LEN		32

/* Limits of Standard Webhooks on a key, in bytes. */
#define MIN_KEY_LEN				24
#define MAX_KEY_LEN				64
/* Ours on a secret without the prefix, in characters. */
#define MIN_PLAIN_LEN			16
#define MAX_PLAIN_LEN			256

struct CwhSigner
{
	HMAC_CTX   *body;			/* keyed with the secret's own bytes */
	HMAC_CTX   *standard;		/* keyed with what the secret decodes to */
};

/* Is this secret written as Standard Webhooks writes one? */
static bool
has_secret_prefix(const char *secret, size_t len)
{
	return len >= SECRET_PREFIX_LEN &&
		memcmp(secret, SECRET_PREFIX, SECRET_PREFIX_LEN) == 0;
}

/* Return the value of a base64 digit, or -1. */
static int
base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	if (c == '/')
		return 63;
	return -1;
}

/*
 * Return how many bytes a base64 text decodes to, or -1 if it is not base64.
 *
 * Only the standard alphabet with its padding will do: the libraries of the
 * receivers differ in what else they accept, and a secret that two of them
 * read differently verifies nowhere.
 */
static int64_t
base64_decoded_len(const char *text, size_t len)
{
	size_t		digits = len;

	if (len % 4 != 0)
		return -1;

	while (digits > 0 && len - digits < 2 && text[digits - 1] == '=')
		digits--;

	for (size_t i = 0; i < digits; i++)
	{
		if (base64_digit(text[i]) < 0)
			return -1;
	}

	return (int64_t) (len / 4 * 3 - (len - digits));
}

/* Decode what base64_decoded_len() has found to be base64. */
static void
base64_decode(const char *text, size_t len, unsigned char *out)
{
	uint32_t	bits = 0;
	int			nbits = 0;

	for (size_t i = 0; i < len && text[i] != '='; i++)
	{
		bits = (bits << 6) | (uint32_t) base64_digit(text[i]);
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			*out++ = (unsigned char) (bits >> nbits);
		}
	}

	OPENSSL_cleanse(&bits, sizeof(bits));
}

/* Make an HMAC-SHA256 context under a key; NULL if that fails. */
static HMAC_CTX *
hmac_create(const void *key, size_t len)
{
	HMAC_CTX   *hmac;

	/* An empty key is one that everybody knows. */
	if (len == 0 || len > INT_MAX)
		return NULL;

	hmac = HMAC_CTX_new();
	if (hmac == NULL)
		return NULL;

	if (!HMAC_Init_ex(hmac, key, (int) len, EVP_sha256(), NULL))
	{
		HMAC_CTX_free(hmac);
		return NULL;
	}

	return hmac;
}

/* Make the context of the standard scheme; NULL if that fails. */
static HMAC_CTX *
standard_hmac_create(const char *secret, size_t len)
{
	HMAC_CTX   *hmac;
	unsigned char *key;
	int64_t		keylen;

	/*
	 * The standard knows no secret without the prefix.  Its own bytes are the
	 * key then, as for the body: a receiver who set such a secret can compute
	 * that, and nothing else would be less of a surprise.
	 */
	if (!has_secret_prefix(secret, len))
		return hmac_create(secret, len);

	secret += SECRET_PREFIX_LEN;
	len -= SECRET_PREFIX_LEN;

	keylen = base64_decoded_len(secret, len);
	if (keylen <= 0)
		return NULL;

	key = OPENSSL_malloc((size_t) keylen);
	if (key == NULL)
		return NULL;

	base64_decode(secret, len, key);
	hmac = hmac_create(key, (size_t) keylen);
	OPENSSL_clear_free(key, (size_t) keylen);

	return hmac;
}

/*
 * Make the signer of a secret.
 *
 * Returns NULL if the secret is empty, or has the prefix but no base64 behind
 * it, or if OpenSSL fails.  It is not held to the lengths that
 * cwh_secret_problem() asks for: those are for secrets that are about to be
 * stored, while a message may have to be verified under another's choice.
 */
CwhSigner *
cwh_signer_create(const char *secret, size_t len)
{
	CwhSigner  *signer = OPENSSL_zalloc(sizeof(CwhSigner));

	if (signer == NULL)
		return NULL;

	signer->body = hmac_create(secret, len);
	signer->standard = standard_hmac_create(secret, len);

	if (signer->body == NULL || signer->standard == NULL)
	{
		cwh_signer_destroy(signer);
		return NULL;
	}

	return signer;
}

/*
 * Free a signer, if there is one.
 *
 * The keys live in the contexts only, and HMAC_CTX_free() wipes what it
 * frees; the signer itself is wiped so as not to leave the way to them.
 */
void
cwh_signer_destroy(CwhSigner *signer)
{
	if (signer == NULL)
		return;

	HMAC_CTX_free(signer->body);
	HMAC_CTX_free(signer->standard);
	OPENSSL_clear_free(signer, sizeof(CwhSigner));
}

/*
 * Say what keeps a string from being a webhook's secret: NULL if nothing,
 * else a short reason that completes an error message.
 */
const char *
cwh_secret_problem(const char *secret, size_t len)
{
	if (len == 0)
		return "secret is empty";

	/*
	 * A secret is copied by hand into the receiver's configuration.  What
	 * cannot be seen, or has several encodings, does not survive that.
	 */
	for (size_t i = 0; i < len; i++)
	{
		if (secret[i] < 0x20 || secret[i] > 0x7e)
			return "secret has characters other than printable ASCII";
	}

	if (has_secret_prefix(secret, len))
	{
		int64_t		keylen = base64_decoded_len(secret + SECRET_PREFIX_LEN,
												len - SECRET_PREFIX_LEN);

		if (keylen < 0)
			return "secret is not base64 behind \"whsec_\"";
		if (keylen < MIN_KEY_LEN)
			return "secret decodes to fewer than 24 bytes";
		if (keylen > MAX_KEY_LEN)
			return "secret decodes to more than 64 bytes";
	}
	else
	{
		if (len < MIN_PLAIN_LEN)
			return "secret is shorter than 16 characters";
		if (len > MAX_PLAIN_LEN)
			return "secret is longer than 256 characters";
	}

	return NULL;
}

/* Make a new secret; false if there is no randomness to be had. */
bool
cwh_secret_generate(char out[CWH_SECRET_LEN + 1])
{
	unsigned char key[GENERATED_KEY_LEN];
	bool		done = false;

	if (RAND_bytes(key, sizeof(key)) == 1)
	{
		memcpy(out, SECRET_PREFIX, SECRET_PREFIX_LEN);
		EVP_EncodeBlock((unsigned char *) out + SECRET_PREFIX_LEN,
						key, sizeof(key));
		done = true;
	}
	else
		out[0] = '\0';

	OPENSSL_cleanse(key, sizeof(key));
	return done;
}

/* Sign a body; false if OpenSSL fails. */
bool
cwh_sign_body(CwhSigner *signer, const void *body, size_t len,
			  char out[CWH_BODY_SIGNATURE_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	unsigned char digest[DIGEST_LEN];

	out[0] = '\0';

	/* Without a key, HMAC_Init_ex() goes back to the keyed state. */
	if (!HMAC_Init_ex(signer->body, NULL, 0, NULL, NULL) ||
		!HMAC_Update(signer->body, body, len) ||
		!HMAC_Final(signer->body, digest, NULL))
		return false;

	memcpy(out, BODY_PREFIX, BODY_PREFIX_LEN);
	out += BODY_PREFIX_LEN;
	for (int i = 0; i < DIGEST_LEN; i++)
	{
		*out++ = hex[digest[i] >> 4];
		*out++ = hex[digest[i] & 0x0f];
	}
	*out = '\0';

	return true;
}

/* Sign a message as Standard Webhooks does; false if OpenSSL fails. */
bool
cwh_sign_standard(CwhSigner *signer, const char *id,
				  int64_t timestamp, const void *body, size_t len,
				  char out[CWH_STANDARD_SIGNATURE_LEN + 1])
{
	unsigned char digest[DIGEST_LEN];
	char		between[32];	/* of the id and the body */
	int			between_len;

	out[0] = '\0';

	between_len = snprintf(between, sizeof(between), ".%" PRId64 ".",
						   timestamp);

	if (!HMAC_Init_ex(signer->standard, NULL, 0, NULL, NULL) ||
		!HMAC_Update(signer->standard, (const unsigned char *) id,
					 strlen(id)) ||
		!HMAC_Update(signer->standard, (const unsigned char *) between,
					 (size_t) between_len) ||
		!HMAC_Update(signer->standard, body, len) ||
		!HMAC_Final(signer->standard, digest, NULL))
		return false;

	memcpy(out, STANDARD_PREFIX, STANDARD_PREFIX_LEN);
	EVP_EncodeBlock((unsigned char *) out + STANDARD_PREFIX_LEN,
					digest, DIGEST_LEN);

	return true;
}

/*
 * Is this the body's signature?  Its digits may be in either case.
 *
 * The texts are compared, not what they decode to, so that decoding the
 * sender's text cannot go wrong.  How long the comparison takes says nothing
 * about ours.
 */
bool
cwh_verify_body(CwhSigner *signer, const void *body, size_t len,
				const char *signature)
{
	char		want[CWH_BODY_SIGNATURE_LEN + 1];
	char		got[CWH_BODY_SIGNATURE_LEN];

	if (signature == NULL || strlen(signature) != CWH_BODY_SIGNATURE_LEN)
		return false;

	memcpy(got, signature, CWH_BODY_SIGNATURE_LEN);
	for (int i = BODY_PREFIX_LEN; i < CWH_BODY_SIGNATURE_LEN; i++)
	{
		if (got[i] >= 'A' && got[i] <= 'F')
			got[i] += 'a' - 'A';
	}

	return cwh_sign_body(signer, body, len, want) &&
		CRYPTO_memcmp(got, want, CWH_BODY_SIGNATURE_LEN) == 0;
}

/* Read a plain decimal integer without a sign; false if it is anything else. */
static bool
parse_timestamp(const char *text, int64_t *timestamp)
{
	int64_t		value = 0;

	if (*text == '\0')
		return false;

	for (; *text != '\0'; text++)
	{
		int			digit = *text - '0';

		if (digit < 0 || digit > 9)
			return false;
		if (value > (INT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}

	*timestamp = value;
	return true;
}

/* Are two times no further apart than the tolerance? */
static bool
is_near(int64_t a, int64_t b, int64_t tolerance)
{
	/* Signed, the difference could overflow; unsigned, it cannot. */
	uint64_t	apart = a > b ?
		(uint64_t) a - (uint64_t) b : (uint64_t) b - (uint64_t) a;

	return tolerance >= 0 && apart <= (uint64_t) tolerance;
}

/*
 * Is this a message as Standard Webhooks signs it, and a recent one?
 *
 * One matching signature in the list suffices: while its secret is being
 * replaced, a sender lists one under each.  Entries of other versions are not
 * for us, and are skipped.  Times are in Unix seconds.
 */
bool
cwh_verify_standard(CwhSigner *signer, const char *id,
					const char *timestamp, const char *signatures,
					const void *body, size_t len,
					int64_t now, int64_t tolerance)
{
	char		want[CWH_STANDARD_SIGNATURE_LEN + 1];
	int64_t		sent_at;

	if (id == NULL || timestamp == NULL || signatures == NULL)
		return false;

	if (!parse_timestamp(timestamp, &sent_at) ||
		!is_near(sent_at, now, tolerance))
		return false;

	if (!cwh_sign_standard(signer, id, sent_at, body, len, want))
		return false;

	while (*signatures != '\0')
	{
		size_t		entry_len = strcspn(signatures, " ");

		/* Ours starts with the version, so no other version can match. */
		if (entry_len == CWH_STANDARD_SIGNATURE_LEN &&
			CRYPTO_memcmp(signatures, want, entry_len) == 0)
			return true;

		signatures += entry_len;
		signatures += strspn(signatures, " ");
	}

	return false;
}
