/*
 * sign.c
 *		Signatures of requests, by which receivers know that they are ours.
 *
 * Requests are signed by two schemes.  The body signature is "sha256=" and the
 * hexadecimal HMAC-SHA256 of the body, keyed with the bytes of the secret as
 * it is written, prefix and all.  The message signature is Standard Webhooks':
 * "v1," and the base64 of the HMAC-SHA256 of "id.timestamp.body", keyed with
 * the decoded part of the secret behind "whsec_".
 *
 * For receivers that cannot keep a secret, Standard Webhooks has an asymmetric
 * form: "v1a," and the base64 of the Ed25519 signature of the same content,
 * made with a private key (whsk_) and verified with a public key (whpk_).
 * There is no body signature then: to verify one, the receiver would need the
 * private key.  And a public key is never taken for a secret, or everyone who
 * knows it could sign.
 *
 * A signer with a secret and a private key makes both message signatures, so
 * that receivers can change from one to the other, each when it likes.
 *
 * Receivers of other systems check an HMAC of their own making.  For those, a
 * secret also makes plain ones, keyed like the body signature.
 *
 * A signer has its keys already hashed into HMAC contexts: resetting those to
 * the keyed state costs a copy, while keying anew for each message would cost
 * more than hashing a kilobyte.  A signer must not be shared between threads.
 *
 * This file knows nothing of PostgreSQL and raises no errors: a function that
 * fails says so, and OpenSSL's error queue has the reason.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */

/*
 * HMAC_CTX is the only interface to a keyed context that OpenSSL 1.1.1 and 3
 * share.  OpenSSL 3 deprecates it, so request the API of 1.1.1.
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

#include "sign.h"

#define SECRET_PREFIX			"whsec_"
#define PRIVATE_KEY_PREFIX		"whsk_"
#define PUBLIC_KEY_PREFIX		"whpk_"
#define BODY_PREFIX				"sha256="
#define HMAC_PREFIX				"v1,"
#define ED25519_PREFIX			"v1a,"

/* The length of such a prefix, which is a literal. */
#define PREFIX_LEN(prefix)		(sizeof(prefix) - 1)

#define BETWEEN_LEN				22	/* a 64-bit integer and two dots */
#define DIGEST_LEN				32	/* of SHA-256 */
#define GENERATED_KEY_LEN		32

/* "v1," and 44 characters of base64 */
#define HMAC_SIGNATURE_LEN		47
/* "v1a," and 88 */
#define ED25519_SIGNATURE_LEN	92

/* Standard Webhooks' limits on a secret's key, in bytes. */
#define MIN_KEY_LEN				24
#define MAX_KEY_LEN				64
/* Our limits on a secret without the prefix, in characters. */
#define MIN_PLAIN_LEN			16
#define MAX_PLAIN_LEN			256

/* Ed25519's sizes, in bytes. */
#define SEED_LEN				32	/* from which a private key is made */
#define PUBLIC_LEN				32
#define PAIR_LEN				(SEED_LEN + PUBLIC_LEN)
#define ED25519_LEN				64	/* a signature */

/*
 * How many asymmetric signatures of a message are tried.  A sender lists two
 * at most, and verifying each takes far longer than sending it.
 */
#define MAX_TRIED				8

/* A signer keeps its memory for signed content up to this size. */
#define MAX_KEPT_CONTENT		65536

/* What a key is, by its prefix. */
typedef enum KeyKind
{
	KEY_SECRET,					/* or no prefix */
	KEY_PRIVATE,
	KEY_PUBLIC
} KeyKind;

/* The signed content in one piece, as Ed25519 needs it. */
typedef struct Content
{
	unsigned char *data;
	size_t		len;
	size_t		cap;
} Content;

struct CwhSigner
{
	/* for a secret; null without one */
	HMAC_CTX   *body;			/* keyed with the secret's own bytes */
	HMAC_CTX   *message;		/* keyed with what the secret decodes to */

	/* for a private or a public key; null without one */
	EVP_PKEY   *ed25519;
	bool		verifies_only;	/* the key is a public one */
	EVP_MD_CTX *context;		/* reused for each signature */
	Content		content;		/* reused for each message */
};

/* Does the key begin with this prefix? */
static bool
has_prefix(const char *key, size_t len, const char *prefix)
{
	size_t		prefix_len = strlen(prefix);

	return len >= prefix_len && memcmp(key, prefix, prefix_len) == 0;
}

/* Tell the kinds of keys apart. */
static KeyKind
kind_of(const char *key, size_t len)
{
	if (has_prefix(key, len, PRIVATE_KEY_PREFIX))
		return KEY_PRIVATE;
	if (has_prefix(key, len, PUBLIC_KEY_PREFIX))
		return KEY_PUBLIC;
	return KEY_SECRET;
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
 * Only the standard alphabet with its padding is accepted: receivers'
 * libraries differ in what else they accept, and would decode the same secret
 * to different keys.
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

/* Decode a text that base64_decoded_len() accepts. */
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
 * Decode a base64 text to exactly out_len bytes.  Only the canonical encoding
 * is accepted: the unused bits of the last digit must be zero.
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

/* Create an HMAC-SHA256 context with a key; NULL on failure. */
static HMAC_CTX *
hmac_create(const void *key, size_t len)
{
	HMAC_CTX   *hmac;

	if (len > INT_MAX)
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

/*
 * Return how many bytes a secret with the prefix decodes to, or -1 if it is
 * malformed.
 */
static int64_t
secret_key_len(const char *secret, size_t len)
{
	return base64_decoded_len(secret + PREFIX_LEN(SECRET_PREFIX),
							  len - PREFIX_LEN(SECRET_PREFIX));
}

/* Does the secret yield a key?  Everyone knows the empty one. */
static bool
secret_has_key(const char *secret, size_t len)
{
	if (!has_prefix(secret, len, SECRET_PREFIX))
		return len > 0;
	return secret_key_len(secret, len) > 0;
}

/* Create the HMAC context for message signatures; NULL on failure. */
static HMAC_CTX *
message_hmac_create(const char *secret, size_t len)
{
	HMAC_CTX   *hmac;
	unsigned char *key;
	size_t		keylen;

	/*
	 * Standard Webhooks knows no secrets without the prefix.  Use such a
	 * secret's own bytes as the key, as for the body signature: of all that
	 * we could do, receivers are most likely to do that.
	 */
	if (!has_prefix(secret, len, SECRET_PREFIX))
		return hmac_create(secret, len);

	secret += PREFIX_LEN(SECRET_PREFIX);
	len -= PREFIX_LEN(SECRET_PREFIX);

	keylen = (size_t) base64_decoded_len(secret, len);
	key = OPENSSL_malloc(keylen);
	if (key == NULL)
		return NULL;

	base64_decode(secret, len, key);
	hmac = hmac_create(key, keylen);
	OPENSSL_clear_free(key, keylen);

	return hmac;
}

/* Why there is no key if it is well-formed. */
static const char no_ed25519[] =
	"secret is for Ed25519, which OpenSSL does not offer here";

/* Create the private key of a seed, and get its public key. */
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
 * Read a private key, and get its public key.
 *
 * Standard Webhooks asks for "a standard Ed25519 key pair" in base64, and does
 * not say in which of its two forms.  The tools that generate such keys write
 * both halves, the seed and the public key; some libraries expect the seed
 * alone.  We accept both.  A public key that is not the seed's is refused: one
 * of the two is not the owner's.
 *
 * Returns NULL on failure, and sets *problem.
 */
static EVP_PKEY *
private_key_read(const char *input, size_t len,
				 unsigned char public_key[PUBLIC_LEN], const char **problem)
{
	unsigned char pair[PAIR_LEN];
	EVP_PKEY   *key = NULL;
	bool		both;

	input += PREFIX_LEN(PRIVATE_KEY_PREFIX);
	len -= PREFIX_LEN(PRIVATE_KEY_PREFIX);

	both = base64_decode_exactly(input, len, pair, PAIR_LEN);
	if (!both && !base64_decode_exactly(input, len, pair, SEED_LEN))
	{
		*problem = "secret is not base64 of 32 or 64 bytes behind \"whsk_\"";
		return NULL;
	}

	key = ed25519_create(pair, public_key);
	if (key == NULL)
		*problem = no_ed25519;
	else if (both && memcmp(pair + SEED_LEN, public_key, PUBLIC_LEN) != 0)
	{
		*problem = "secret has a public key that is not its own";
		EVP_PKEY_free(key);
		key = NULL;
	}

	OPENSSL_cleanse(pair, sizeof(pair));
	return key;
}

/* Read a public key.  Returns NULL on failure, and sets *problem. */
static EVP_PKEY *
public_key_read(const char *input, size_t len, const char **problem)
{
	unsigned char bytes[PUBLIC_LEN];
	EVP_PKEY   *key;

	if (!base64_decode_exactly(input + PREFIX_LEN(PUBLIC_KEY_PREFIX),
							   len - PREFIX_LEN(PUBLIC_KEY_PREFIX),
							   bytes, PUBLIC_LEN))
	{
		*problem = "public key is not base64 of 32 bytes behind \"whpk_\"";
		return NULL;
	}

	key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL,
									  bytes, PUBLIC_LEN);
	if (key == NULL)
		*problem = no_ed25519;
	return key;
}

/*
 * Say why a webhook cannot have this secret: a short reason that completes an
 * error message, or NULL if it can.
 *
 * This is stricter than cwh_signer_create(): its limits are for secrets that
 * are about to be stored, while a message may have to be verified with a
 * secret that another system generated.
 */
const char *
cwh_secret_problem(const char *secret, size_t len)
{
	KeyKind		kind = kind_of(secret, len);

	if (len == 0)
		return "secret is empty";

	/*
	 * Secrets are copied by hand into the receivers' configurations.
	 * Characters that are invisible or have several encodings do not survive
	 * that.
	 */
	for (size_t i = 0; i < len; i++)
	{
		if (secret[i] < 0x20 || secret[i] > 0x7e)
			return "secret has characters other than printable ASCII";
	}

	if (kind == KEY_PUBLIC)
		return "secret is a public key";
	else if (kind == KEY_PRIVATE)
	{
		unsigned char public_key[PUBLIC_LEN];
		const char *problem = NULL;

		EVP_PKEY_free(private_key_read(secret, len, public_key, &problem));
		return problem;
	}
	else if (has_prefix(secret, len, SECRET_PREFIX))
	{
		int64_t		keylen = secret_key_len(secret, len);

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

/* Set a signer's secret; returns false on failure, and may set *problem. */
static bool
signer_set_secret(CwhSigner *signer, const char *secret, size_t len,
				  const char **problem)
{
	if (!secret_has_key(secret, len))
	{
		*problem = cwh_secret_problem(secret, len);
		return false;
	}
	signer->body = hmac_create(secret, len);
	signer->message = message_hmac_create(secret, len);
	return signer->body != NULL && signer->message != NULL;
}

/* The same for a private or a public key. */
static bool
signer_set_ed25519(CwhSigner *signer, KeyKind kind, const char *key,
				   size_t len, const char **problem)
{
	unsigned char public_key[PUBLIC_LEN];

	signer->verifies_only = kind == KEY_PUBLIC;
	if (kind == KEY_PUBLIC)
		signer->ed25519 = public_key_read(key, len, problem);
	else
	{
		signer->ed25519 = private_key_read(key, len, public_key, problem);
		if (signer->ed25519 == NULL)
			*problem = cwh_secret_problem(key, len);
	}
	if (signer->ed25519 == NULL)
		return false;
	signer->context = EVP_MD_CTX_new();
	return signer->context != NULL;
}

/*
 * Give a signer one more key.
 *
 * Returns false if the key is empty, malformed, or of a kind that the signer
 * already has, or if OpenSSL fails.  *problem is then a short reason that
 * completes an error message, and the signer can only be destroyed.
 */
bool
cwh_signer_add(CwhSigner *signer, const char *key, size_t len,
			   const char **problem)
{
	KeyKind		kind = kind_of(key, len);

	*problem = NULL;
	if (kind == KEY_SECRET ? signer->body != NULL : signer->ed25519 != NULL)
		*problem = "there are two of one kind";
	else if (kind == KEY_SECRET ?
			 signer_set_secret(signer, key, len, problem) :
			 signer_set_ed25519(signer, kind, key, len, problem))
		return true;

	if (*problem == NULL)
		*problem = "out of memory";
	return false;
}

/*
 * Create the signer of a key.
 *
 * Returns NULL if the key is empty or malformed, or if OpenSSL fails; then
 * *problem has a short reason that completes an error message, else it is
 * NULL.
 */
CwhSigner *
cwh_signer_create(const char *key, size_t len, const char **problem)
{
	CwhSigner  *signer = OPENSSL_zalloc(sizeof(CwhSigner));

	*problem = "out of memory";
	if (signer != NULL && cwh_signer_add(signer, key, len, problem))
		return signer;

	cwh_signer_destroy(signer);
	return NULL;
}

/* Does the signer have a secret, so that it makes HMACs? */
bool
cwh_signer_has_secret(const CwhSigner *signer)
{
	return signer->body != NULL;
}

/*
 * Free a signer, if there is one.
 *
 * The keys are in OpenSSL's objects only, which are wiped when they are freed.
 * Wipe the signer as well, which points to them.
 */
void
cwh_signer_destroy(CwhSigner *signer)
{
	if (signer == NULL)
		return;

	HMAC_CTX_free(signer->body);
	HMAC_CTX_free(signer->message);
	EVP_MD_CTX_free(signer->context);
	EVP_PKEY_free(signer->ed25519);
	OPENSSL_free(signer->content.data);
	OPENSSL_clear_free(signer, sizeof(CwhSigner));
}

/* Generate a private key, of both halves. */
static bool
private_key_generate(char *out)
{
	unsigned char pair[PAIR_LEN];
	EVP_PKEY   *key = NULL;
	bool		done;

	if (RAND_bytes(pair, SEED_LEN) == 1)
		key = ed25519_create(pair, pair + SEED_LEN);
	done = key != NULL;
	if (done)
		write_prefixed(out, PRIVATE_KEY_PREFIX, pair, PAIR_LEN);

	OPENSSL_cleanse(pair, sizeof(pair));
	EVP_PKEY_free(key);
	return done;
}

/*
 * Generate a secret, or a private key.  False if OpenSSL has no randomness, or
 * no Ed25519; then out is empty.
 */
bool
cwh_secret_generate(bool asymmetric, char out[CWH_SECRET_LEN + 1])
{
	unsigned char key[GENERATED_KEY_LEN];
	bool		done;

	out[0] = '\0';

	if (asymmetric)
		return private_key_generate(out);

	done = RAND_bytes(key, sizeof(key)) == 1;
	if (done)
		write_prefixed(out, SECRET_PREFIX, key, sizeof(key));

	OPENSSL_cleanse(key, sizeof(key));
	return done;
}

/*
 * Write the public key of a private key.  False if the secret is not a private
 * key; then out is empty.
 */
bool
cwh_public_key(const char *secret, size_t len,
			   char out[CWH_PUBLIC_KEY_LEN + 1])
{
	unsigned char public_key[PUBLIC_LEN];
	const char *problem;
	EVP_PKEY   *key;

	out[0] = '\0';

	if (kind_of(secret, len) != KEY_PRIVATE)
		return false;
	key = private_key_read(secret, len, public_key, &problem);
	if (key == NULL)
		return false;

	write_prefixed(out, PUBLIC_KEY_PREFIX, public_key, PUBLIC_LEN);
	EVP_PKEY_free(key);
	return true;
}

/*
 * Hash a text and then the body, keyed with the secret's own bytes.  False if
 * OpenSSL fails.
 */
static bool
hmac_body(CwhSigner *signer, const char *before, const void *body, size_t len,
		  unsigned char digest[DIGEST_LEN])
{
	/* Without a key, HMAC_Init_ex() resets to the keyed state. */
	return HMAC_Init_ex(signer->body, NULL, 0, NULL, NULL) &&
		HMAC_Update(signer->body, (const unsigned char *) before,
					strlen(before)) &&
		HMAC_Update(signer->body, body, len) &&
		HMAC_Final(signer->body, digest, NULL);
}

/* Write a digest in hexadecimal. */
static void
write_hex(const unsigned char digest[DIGEST_LEN], char *out)
{
	static const char hex[] = "0123456789abcdef";

	for (int i = 0; i < DIGEST_LEN; i++)
	{
		*out++ = hex[digest[i] >> 4];
		*out++ = hex[digest[i] & 0x0f];
	}
	*out = '\0';
}

/*
 * Write the body signature, or an empty string if the signer has no secret.
 * Returns false if OpenSSL fails, or if the key is a public one.
 */
bool
cwh_sign_body(CwhSigner *signer, const void *body, size_t len,
			  char out[CWH_BODY_SIGNATURE_LEN + 1])
{
	unsigned char digest[DIGEST_LEN];

	out[0] = '\0';

	if (signer->body == NULL)
		return !signer->verifies_only;
	if (!hmac_body(signer, "", body, len, digest))
		return false;

	memcpy(out, BODY_PREFIX, PREFIX_LEN(BODY_PREFIX));
	write_hex(digest, out + PREFIX_LEN(BODY_PREFIX));
	return true;
}

/*
 * Write the HMAC-SHA256 of a text and the body, keyed like the body signature,
 * in base64 or in hexadecimal.  Returns false, with an empty string, if
 * OpenSSL fails or the signer has no secret.
 */
bool
cwh_sign_hmac(CwhSigner *signer, const char *before, const void *body,
			  size_t len, bool base64, char out[CWH_HMAC_LEN + 1])
{
	unsigned char digest[DIGEST_LEN];

	out[0] = '\0';

	if (signer->body == NULL ||
		!hmac_body(signer, before, body, len, digest))
		return false;

	if (base64)
		write_prefixed(out, "", digest, DIGEST_LEN);
	else
		write_hex(digest, out);
	return true;
}

/* Write the part between the id and the body; returns its length. */
static size_t
write_between(int64_t timestamp, char out[BETWEEN_LEN + 1])
{
	return (size_t) snprintf(out, BETWEEN_LEN + 1, ".%" PRId64 ".", timestamp);
}

/* Write a message's "v1," signature; false if OpenSSL fails. */
static bool
hmac_sign(CwhSigner *signer, const char *id, int64_t timestamp,
		  const void *body, size_t len, char out[HMAC_SIGNATURE_LEN + 1])
{
	unsigned char digest[DIGEST_LEN];
	char		between[BETWEEN_LEN + 1];
	size_t		between_len = write_between(timestamp, between);

	if (!HMAC_Init_ex(signer->message, NULL, 0, NULL, NULL) ||
		!HMAC_Update(signer->message, (const unsigned char *) id,
					 strlen(id)) ||
		!HMAC_Update(signer->message, (const unsigned char *) between,
					 between_len) ||
		!HMAC_Update(signer->message, body, len) ||
		!HMAC_Final(signer->message, digest, NULL))
		return false;

	write_prefixed(out, HMAC_PREFIX, digest, DIGEST_LEN);
	return true;
}

/* Assemble the content to be signed; false if out of memory. */
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

/* Free a content's memory if it is large; signers may be many. */
static void
content_trim(Content *content)
{
	if (content->cap <= MAX_KEPT_CONTENT)
		return;
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
	 * Ed25519 needs a message in one piece, because it hashes it twice.  The
	 * context must be initialized for each message: newer releases of OpenSSL
	 * refuse a second signature otherwise.  It keeps its memory.
	 */
	return EVP_DigestSignInit(signer->context, NULL, NULL, NULL,
							  signer->ed25519) == 1 &&
		EVP_DigestSign(signer->context, signature, &signature_len,
					   data, len) == 1 &&
		signature_len == ED25519_LEN;
}

/* Write a message's "v1a," signature; false if that fails. */
static bool
ed25519_sign_message(CwhSigner *signer, const char *id, int64_t timestamp,
					 const void *body, size_t len,
					 char out[ED25519_SIGNATURE_LEN + 1])
{
	unsigned char signature[ED25519_LEN];
	bool		done;

	done = content_write(&signer->content, id, timestamp, body, len) &&
		ed25519_sign(signer, signer->content.data, signer->content.len,
					 signature);
	if (done)
		write_prefixed(out, ED25519_PREFIX, signature, ED25519_LEN);
	content_trim(&signer->content);
	return done;
}

/*
 * Write the signature of a message as Standard Webhooks defines it: "v1," with
 * a secret, "v1a," with a private key, and with both one after the other.
 * False if OpenSSL fails, or if the key is a public one; then out is empty.
 */
bool
cwh_sign_message(CwhSigner *signer, const char *id, int64_t timestamp,
				 const void *body, size_t len,
				 char out[CWH_MESSAGE_SIGNATURE_LEN + 1])
{
	char	   *to = out;
	bool		done = !signer->verifies_only;

	out[0] = '\0';

	if (done && signer->message != NULL)
	{
		done = hmac_sign(signer, id, timestamp, body, len, to);
		to += HMAC_SIGNATURE_LEN;
	}
	if (done && signer->ed25519 != NULL)
	{
		if (to > out)
			*to++ = ' ';
		done = ed25519_sign_message(signer, id, timestamp, body, len, to);
	}

	if (!done)
		out[0] = '\0';
	return done;
}

/*
 * Is this the body signature?  Its digits may be in either case.  No body has
 * one by a private or a public key.
 *
 * Compare the texts rather than the decoded digests, so that there is no
 * decoding of hostile input to go wrong.  The time that the comparison takes
 * reveals nothing about our signature.
 */
bool
cwh_verify_body(CwhSigner *signer, const void *body, size_t len,
				const char *signature)
{
	char		want[CWH_BODY_SIGNATURE_LEN + 1];
	char		got[CWH_BODY_SIGNATURE_LEN];

	if (signer->body == NULL || signature == NULL ||
		strlen(signature) != CWH_BODY_SIGNATURE_LEN)
		return false;

	memcpy(got, signature, CWH_BODY_SIGNATURE_LEN);
	for (size_t i = PREFIX_LEN(BODY_PREFIX); i < CWH_BODY_SIGNATURE_LEN; i++)
	{
		if (got[i] >= 'A' && got[i] <= 'F')
			got[i] += 'a' - 'A';
	}

	return cwh_sign_body(signer, body, len, want) && want[0] != '\0' &&
		CRYPTO_memcmp(got, want, CWH_BODY_SIGNATURE_LEN) == 0;
}

/* Parse a decimal integer without a sign; false if it is anything else. */
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
	/* The difference could overflow if it were signed. */
	uint64_t	apart = a > b ?
		(uint64_t) a - (uint64_t) b : (uint64_t) b - (uint64_t) a;

	return tolerance >= 0 && apart <= (uint64_t) tolerance;
}

/*
 * Take the next entry off a list of signatures, which are separated by spaces.
 * False at the end.
 */
static bool
next_entry(const char **list, const char **entry, size_t *len)
{
	*entry = *list + strspn(*list, " ");
	*len = strcspn(*entry, " ");
	*list = *entry + *len;
	return *len > 0;
}

/* Is one of the entries the message's "v1," signature? */
static bool
hmac_verify(CwhSigner *signer, const char *id, int64_t timestamp,
			const char *signatures, const void *body, size_t len)
{
	char		want[HMAC_SIGNATURE_LEN + 1];
	const char *entry;
	size_t		entry_len;

	if (!hmac_sign(signer, id, timestamp, body, len, want))
		return false;

	while (next_entry(&signatures, &entry, &entry_len))
	{
		/* Ours begins with the version, so no other version can match. */
		if (entry_len == HMAC_SIGNATURE_LEN &&
			CRYPTO_memcmp(entry, want, entry_len) == 0)
			return true;
	}

	return false;
}

/* Is this entry the content's "v1a," signature? */
static bool
ed25519_verify_entry(CwhSigner *signer, const Content *content,
					 const char *entry)
{
	unsigned char signature[ED25519_LEN];

	return base64_decode_exactly(entry + PREFIX_LEN(ED25519_PREFIX),
								 ED25519_SIGNATURE_LEN -
								 PREFIX_LEN(ED25519_PREFIX),
								 signature, ED25519_LEN) &&
		EVP_DigestVerifyInit(signer->context, NULL, NULL, NULL,
							 signer->ed25519) == 1 &&
		EVP_DigestVerify(signer->context, signature, ED25519_LEN,
						 content->data, content->len) == 1;
}

/* Is one of the first entries the message's "v1a," signature? */
static bool
ed25519_verify(CwhSigner *signer, const char *id, int64_t timestamp,
			   const char *signatures, const void *body, size_t len)
{
	Content    *content = &signer->content;
	const char *entry;
	size_t		entry_len;
	int			tried = 0;
	bool		verified = false;

	if (!content_write(content, id, timestamp, body, len))
		return false;

	while (!verified && tried < MAX_TRIED &&
		   next_entry(&signatures, &entry, &entry_len))
	{
		if (entry_len == ED25519_SIGNATURE_LEN &&
			has_prefix(entry, entry_len, ED25519_PREFIX))
		{
			verified = ed25519_verify_entry(signer, content, entry);
			tried++;
		}
	}

	content_trim(content);
	return verified;
}

/*
 * Is this a message as Standard Webhooks signs it, and a recent one?  A secret
 * verifies "v1," signatures, a private or a public key "v1a," ones; of a signer
 * with both, either will do.
 *
 * One valid signature in the list is enough: while a secret is being replaced,
 * a sender lists one with each.  Entries of other versions are ignored.  Times
 * are in Unix seconds.
 */
bool
cwh_verify_message(CwhSigner *signer, const char *id,
				   const char *timestamp, const char *signatures,
				   const void *body, size_t len,
				   int64_t now, int64_t tolerance)
{
	int64_t		sent_at;

	if (id == NULL || timestamp == NULL || signatures == NULL)
		return false;

	if (!parse_timestamp(timestamp, &sent_at) ||
		!is_near(sent_at, now, tolerance))
		return false;

	return (signer->message != NULL &&
			hmac_verify(signer, id, sent_at, signatures, body, len)) ||
		(signer->ed25519 != NULL &&
		 ed25519_verify(signer, id, sent_at, signatures, body, len));
}
