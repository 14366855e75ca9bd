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
 * For receivers who cannot keep a secret, Standard Webhooks has an asymmetric
 * form: "v1a," and the base64 of the Ed25519 signature of the same content,
 * made with a secret that begins with "whsk_", and verified with a public key
 * that begins with "whpk_".  Such a secret makes no other signature: to verify
 * those, the receiver would need the secret.  And a public key is no secret,
 * or whoever knows it could sign.
 *
 * A signer holds its keys, already hashed into HMAC contexts: going back to
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
#define ED25519_SECRET_PREFIX	"whsk_"
#define ED25519_PUBLIC_PREFIX	"whpk_"
#define ED25519_PREFIX_LEN		5
#define ASYMMETRIC_PREFIX		"v1a,"
#define ASYMMETRIC_PREFIX_LEN	4

#define BETWEEN_LEN				22	/* a 64-bit integer and two dots */
#define DIGEST_LEN				32	/* of SHA-256 */
#define GENERATED_KEY_LEN		32

/* Limits of Standard Webhooks on a key, in bytes. */
#define MIN_KEY_LEN				24
#define MAX_KEY_LEN				64
/* Ours on a secret without the prefix, in characters. */
#define MIN_PLAIN_LEN			16
#define MAX_PLAIN_LEN			256

/* Of Ed25519, in bytes. */
#define SEED_LEN				32	/* what a private key is made from */
#define PUBLIC_LEN				32
#define PAIR_LEN				(SEED_LEN + PUBLIC_LEN)
#define ED25519_LEN				64	/* a signature */

/*
 * How many asymmetric signatures of a message are looked at.  A sender lists
 * two at most, and each costs the receiver a good deal more than its length.
 */
#define MAX_TRIED				8

/* A signer keeps the memory for signed content up to this size. */
#define MAX_KEPT_CONTENT		65536

/* The signed content in one piece, as Ed25519 wants it. */
typedef struct Content
{
	unsigned char *data;
	size_t		len;
	size_t		cap;
} Content;

/* It has either the two HMAC contexts or what follows them. */
struct CwhSigner
{
	HMAC_CTX   *body;			/* keyed with the secret's own bytes */
	HMAC_CTX   *standard;		/* keyed with what the secret decodes to */

	EVP_PKEY   *ed25519;		/* the private key */
	EVP_MD_CTX *context;		/* for one signature after the other */
	Content		content;		/* for one message after the other */
};

/* Is this secret written as Standard Webhooks writes one? */
static bool
has_secret_prefix(const char *secret, size_t len)
{
	return len >= SECRET_PREFIX_LEN &&
		memcmp(secret, SECRET_PREFIX, SECRET_PREFIX_LEN) == 0;
}

/* Is this secret written as an asymmetric one? */
static bool
has_ed25519_secret_prefix(const char *secret, size_t len)
{
	return len >= ED25519_PREFIX_LEN &&
		memcmp(secret, ED25519_SECRET_PREFIX, ED25519_PREFIX_LEN) == 0;
}

/* Is this written as a public key? */
static bool
has_ed25519_public_prefix(const char *key, size_t len)
{
	return len >= ED25519_PREFIX_LEN &&
		memcmp(key, ED25519_PUBLIC_PREFIX, ED25519_PREFIX_LEN) == 0;
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
base64_decoded_len(const char *input, size_t len)
{
	size_t		digits = len;

	if (len % 4 != 0)
		return -1;

	while (digits > 0 && len - digits < 2 && input[digits - 1] == '=')
		digits--;

	for (size_t i = 0; i < digits; i++)
	{
		if (base64_digit(input[i]) < 0)
			return -1;
	}

	return (int64_t) (len / 4 * 3 - (len - digits));
}

/* Decode what base64_decoded_len() has found to be base64. */
static void
base64_decode(const char *input, size_t len, unsigned char *out)
{
	uint32_t	bits = 0;
	int			nbits = 0;

	for (size_t i = 0; i < len && input[i] != '='; i++)
	{
		bits = (bits << 6) | (uint32_t) base64_digit(input[i]);
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			*out++ = (unsigned char) (bits >> nbits);
		}
	}

	OPENSSL_cleanse(&bits, sizeof(bits));
}

/*
 * Decode a base64 text to exactly so many bytes, as long as it is how those
 * bytes are written: the bits that its last digit has to spare are zero.
 */
static bool
base64_decode_exactly(const char *input, size_t len,
					  unsigned char *out, size_t out_len)
{
	size_t		padding = (3 - out_len % 3) % 3;
	int			spare = (1 << (2 * padding)) - 1;

	if (base64_decoded_len(input, len) != (int64_t) out_len)
		return false;

	if (base64_digit(input[len - padding - 1]) & spare)
		return false;

	base64_decode(input, len, out);
	return true;
}

/* Write bytes as base64 behind a prefix, with a NUL at the end. */
static void
write_prefixed(char *out, const char *prefix, const unsigned char *bytes,
			   size_t len)
{
	size_t		prefix_len = strlen(prefix);

	memcpy(out, prefix, prefix_len);
	EVP_EncodeBlock((unsigned char *) out + prefix_len, bytes, (int) len);
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

/* Make the private key of a seed, and say which public key belongs to it. */
static EVP_PKEY *
ed25519_create(const unsigned char seed[SEED_LEN],
			   unsigned char public_key[PUBLIC_LEN])
{
	EVP_PKEY   *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL,
												   seed, SEED_LEN);
	size_t		len = PUBLIC_LEN;

	if (key != NULL &&
		(EVP_PKEY_get_raw_public_key(key, public_key, &len) != 1 ||
		 len != PUBLIC_LEN))
	{
		EVP_PKEY_free(key);
		key = NULL;
	}

	return key;
}

/*
 * Read an asymmetric secret: the private key, and the public key with it.
 *
 * Standard Webhooks asks for "a standard Ed25519 key pair" in base64, and
 * leaves open which of its two forms that is.  The tools that write such
 * secrets write both halves, the seed and the public key; some libraries hold
 * to the seed alone.  Both are read.  A public key that is not the seed's is
 * refused: one of them is not what its owner thinks.
 *
 * Returns NULL if something is wrong, and then *problem says what.
 */
static EVP_PKEY *
ed25519_parse(const char *secret, size_t len,
			  unsigned char public_key[PUBLIC_LEN], const char **problem)
{
	unsigned char pair[PAIR_LEN];
	EVP_PKEY   *key = NULL;
	bool		both;

	secret += ED25519_PREFIX_LEN;
	len -= ED25519_PREFIX_LEN;

	both = base64_decode_exactly(secret, len, pair, PAIR_LEN);
	if (!both && !base64_decode_exactly(secret, len, pair, SEED_LEN))
	{
		*problem = "secret is not base64 of 32 or 64 bytes behind \"whsk_\"";
		return NULL;
	}

	key = ed25519_create(pair, public_key);
	if (key == NULL)
		*problem = "secret is for Ed25519, which OpenSSL does not offer here";
	else if (both && memcmp(pair + SEED_LEN, public_key, PUBLIC_LEN) != 0)
	{
		*problem = "secret has a public key that is not its own";
		EVP_PKEY_free(key);
		key = NULL;
	}

	OPENSSL_cleanse(pair, sizeof(pair));
	return key;
}

/*
 * Make the signer of a secret.
 *
 * Returns NULL if the secret is empty, or has a prefix but not behind it what
 * belongs there, or is a public key, or if OpenSSL fails.  It is not held to
 * the lengths that cwh_secret_problem() asks for: those are for secrets that
 * are about to be stored, while a message may have to be verified under
 * another's choice.
 */
CwhSigner *
cwh_signer_create(const char *secret, size_t len)
{
	CwhSigner  *signer;

	if (has_ed25519_public_prefix(secret, len))
		return NULL;

	signer = OPENSSL_zalloc(sizeof(CwhSigner));
	if (signer == NULL)
		return NULL;

	if (has_ed25519_secret_prefix(secret, len))
	{
		unsigned char public_key[PUBLIC_LEN];
		const char *problem;

		signer->ed25519 = ed25519_parse(secret, len, public_key, &problem);
		signer->context = EVP_MD_CTX_new();
		if (signer->ed25519 != NULL && signer->context != NULL)
			return signer;
	}
	else
	{
		signer->body = hmac_create(secret, len);
		signer->standard = standard_hmac_create(secret, len);
		if (signer->body != NULL && signer->standard != NULL)
			return signer;
	}

	cwh_signer_destroy(signer);
	return NULL;
}

/* Does this signer make asymmetric signatures?  It makes no others then. */
bool
cwh_signer_is_asymmetric(const CwhSigner *signer)
{
	return signer->ed25519 != NULL;
}

/*
 * Free a signer, if there is one.
 *
 * The keys live in OpenSSL's objects only, which wipe what they free; the
 * signer itself is wiped so as not to leave the way to them.
 */
void
cwh_signer_destroy(CwhSigner *signer)
{
	if (signer == NULL)
		return;

	HMAC_CTX_free(signer->body);
	HMAC_CTX_free(signer->standard);
	EVP_MD_CTX_free(signer->context);
	EVP_PKEY_free(signer->ed25519);
	OPENSSL_free(signer->content.data);
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
	else if (has_ed25519_secret_prefix(secret, len))
	{
		unsigned char public_key[PUBLIC_LEN];
		const char *problem = NULL;

		EVP_PKEY_free(ed25519_parse(secret, len, public_key, &problem));
		return problem;
	}
	else if (has_ed25519_public_prefix(secret, len))
		return "secret is a public key";
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

/*
 * Make a new asymmetric secret, of both halves; false if there is no
 * randomness to be had, or no Ed25519.
 */
bool
cwh_ed25519_generate(char out[CWH_ED25519_SECRET_LEN + 1])
{
	unsigned char pair[PAIR_LEN];
	EVP_PKEY   *key = NULL;
	bool		done;

	out[0] = '\0';

	if (RAND_bytes(pair, SEED_LEN) == 1)
		key = ed25519_create(pair, pair + SEED_LEN);
	done = key != NULL;
	if (done)
		write_prefixed(out, ED25519_SECRET_PREFIX, pair, PAIR_LEN);

	OPENSSL_cleanse(pair, sizeof(pair));
	EVP_PKEY_free(key);
	return done;
}

/* Write the public key of an asymmetric secret; false if it is not one. */
bool
cwh_ed25519_public(const char *secret, size_t len,
				   char out[CWH_ED25519_PUBLIC_LEN + 1])
{
	unsigned char public_key[PUBLIC_LEN];
	const char *problem;
	EVP_PKEY   *key;

	out[0] = '\0';

	if (!has_ed25519_secret_prefix(secret, len))
		return false;
	key = ed25519_parse(secret, len, public_key, &problem);
	if (key == NULL)
		return false;

	write_prefixed(out, ED25519_PUBLIC_PREFIX, public_key, PUBLIC_LEN);
	EVP_PKEY_free(key);
	return true;
}

/* Sign a body; false if OpenSSL fails, or if the signer is asymmetric. */
bool
cwh_sign_body(CwhSigner *signer, const void *body, size_t len,
			  char out[CWH_BODY_SIGNATURE_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	unsigned char digest[DIGEST_LEN];

	out[0] = '\0';

	if (signer->body == NULL)
		return false;

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

/* Write what stands between the id and the body; return how long it is. */
static size_t
write_between(int64_t timestamp, char out[BETWEEN_LEN + 1])
{
	return (size_t) snprintf(out, BETWEEN_LEN + 1, ".%" PRId64 ".", timestamp);
}

/*
 * Sign a message as Standard Webhooks does; false if OpenSSL fails, or if the
 * signer is asymmetric.
 */
bool
cwh_sign_standard(CwhSigner *signer, const char *id,
				  int64_t timestamp, const void *body, size_t len,
				  char out[CWH_STANDARD_SIGNATURE_LEN + 1])
{
	unsigned char digest[DIGEST_LEN];
	char		between[BETWEEN_LEN + 1];
	size_t		between_len = write_between(timestamp, between);

	out[0] = '\0';

	if (signer->standard == NULL)
		return false;

	if (!HMAC_Init_ex(signer->standard, NULL, 0, NULL, NULL) ||
		!HMAC_Update(signer->standard, (const unsigned char *) id,
					 strlen(id)) ||
		!HMAC_Update(signer->standard, (const unsigned char *) between,
					 between_len) ||
		!HMAC_Update(signer->standard, body, len) ||
		!HMAC_Final(signer->standard, digest, NULL))
		return false;

	memcpy(out, STANDARD_PREFIX, STANDARD_PREFIX_LEN);
	EVP_EncodeBlock((unsigned char *) out + STANDARD_PREFIX_LEN,
					digest, DIGEST_LEN);

	return true;
}

/* Put the content that is to be signed together; false if out of memory. */
static bool
content_write(Content *content, const char *id, int64_t timestamp,
			  const void *body, size_t len)
{
	size_t		id_len = strlen(id);
	char		between[BETWEEN_LEN + 1];
	size_t		between_len = write_between(timestamp, between);
	unsigned char *at;

	if (len > SIZE_MAX - id_len - between_len)
		return false;
	content->len = id_len + between_len + len;

	if (content->len > content->cap)
	{
		OPENSSL_free(content->data);
		content->data = OPENSSL_malloc(content->len);
		content->cap = content->data != NULL ? content->len : 0;
		if (content->data == NULL)
			return false;
	}

	at = content->data;
	memcpy(at, id, id_len);
	memcpy(at + id_len, between, between_len);
	if (len > 0)
		memcpy(at + id_len + between_len, body, len);
	return true;
}

/* Give the memory of a content back. */
static void
content_release(Content *content)
{
	OPENSSL_free(content->data);
	memset(content, 0, sizeof(*content));
}

/* Make an Ed25519 signature; false if OpenSSL fails. */
static bool
ed25519_sign(CwhSigner *signer, const void *data, size_t len,
			 unsigned char signature[ED25519_LEN])
{
	size_t		signature_len = ED25519_LEN;

	/*
	 * Ed25519 takes a message in one piece, since it goes over it twice.  The
	 * context has to be started anew for each one: newer releases of OpenSSL
	 * refuse a second signature otherwise.  It keeps its memory.
	 */
	return EVP_DigestSignInit(signer->context, NULL, NULL, NULL,
							  signer->ed25519) == 1 &&
		EVP_DigestSign(signer->context, signature, &signature_len,
					   data, len) == 1 &&
		signature_len == ED25519_LEN;
}

/*
 * Sign a message with the asymmetric form of Standard Webhooks; false if
 * OpenSSL fails, or if the signer is not an asymmetric one.
 */
bool
cwh_sign_asymmetric(CwhSigner *signer, const char *id,
					int64_t timestamp, const void *body, size_t len,
					char out[CWH_ASYMMETRIC_SIGNATURE_LEN + 1])
{
	unsigned char signature[ED25519_LEN];
	bool		done;

	out[0] = '\0';

	if (signer->ed25519 == NULL)
		return false;

	done = content_write(&signer->content, id, timestamp, body, len) &&
		ed25519_sign(signer, signer->content.data, signer->content.len,
					 signature);
	if (done)
		write_prefixed(out, ASYMMETRIC_PREFIX, signature, ED25519_LEN);

	/* There may be thousands of signers, and a large message among many. */
	if (signer->content.cap > MAX_KEPT_CONTENT)
		content_release(&signer->content);

	return done;
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
parse_timestamp(const char *input, int64_t *timestamp)
{
	int64_t		value = 0;

	if (*input == '\0')
		return false;

	for (; *input != '\0'; input++)
	{
		int			digit = *input - '0';

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

/* Read a public key; NULL if it is not one. */
static EVP_PKEY *
ed25519_parse_public(const char *public_key)
{
	unsigned char bytes[PUBLIC_LEN];
	size_t		len = strlen(public_key);

	if (!has_ed25519_public_prefix(public_key, len) ||
		!base64_decode_exactly(public_key + ED25519_PREFIX_LEN,
							   len - ED25519_PREFIX_LEN, bytes, PUBLIC_LEN))
		return NULL;

	return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL,
									   bytes, PUBLIC_LEN);
}

/* Is this one entry of the list the signature of the content? */
static bool
ed25519_verify_entry(EVP_MD_CTX *context, EVP_PKEY *key,
					 const Content *content, const char *entry)
{
	unsigned char signature[ED25519_LEN];

	return base64_decode_exactly(entry + ASYMMETRIC_PREFIX_LEN,
								 CWH_ASYMMETRIC_SIGNATURE_LEN -
								 ASYMMETRIC_PREFIX_LEN,
								 signature, ED25519_LEN) &&
		EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
		EVP_DigestVerify(context, signature, ED25519_LEN,
						 content->data, content->len) == 1;
}

/* Is one of the list's first entries the signature of the content? */
static bool
ed25519_verify_list(EVP_MD_CTX *context, EVP_PKEY *key,
					const Content *content, const char *signatures)
{
	int			tried = 0;

	while (*signatures != '\0' && tried < MAX_TRIED)
	{
		size_t		entry_len = strcspn(signatures, " ");

		if (entry_len == CWH_ASYMMETRIC_SIGNATURE_LEN &&
			memcmp(signatures, ASYMMETRIC_PREFIX, ASYMMETRIC_PREFIX_LEN) == 0)
		{
			if (ed25519_verify_entry(context, key, content, signatures))
				return true;
			tried++;
		}

		signatures += entry_len;
		signatures += strspn(signatures, " ");
	}

	return false;
}

/*
 * Is this a message as the asymmetric form of Standard Webhooks signs it under
 * this public key, and a recent one?  As with cwh_verify_standard(), one entry
 * of the list suffices, and those of other versions are skipped.
 */
bool
cwh_verify_asymmetric(const char *public_key, const char *id,
					  const char *timestamp, const char *signatures,
					  const void *body, size_t len,
					  int64_t now, int64_t tolerance)
{
	Content		content = {0};
	EVP_PKEY   *key;
	EVP_MD_CTX *context;
	int64_t		sent_at;
	bool		verified;

	if (public_key == NULL || id == NULL || timestamp == NULL ||
		signatures == NULL)
		return false;

	if (!parse_timestamp(timestamp, &sent_at) ||
		!is_near(sent_at, now, tolerance))
		return false;

	key = ed25519_parse_public(public_key);
	context = EVP_MD_CTX_new();
	verified = key != NULL && context != NULL &&
		content_write(&content, id, sent_at, body, len) &&
		ed25519_verify_list(context, key, &content, signatures);

	content_release(&content);
	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	return verified;
}
