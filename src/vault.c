/*
 * vault.c
 *		Secrets at rest: signing secrets and credentials, as tables hold them.
 *
 * A key is 32 bytes that the administrator keeps in a file outside the
 * database.  A secret is sealed under the current key before it is stored, and
 * opened when it is needed.  A sealed value is
 *
 *		0, the secret							(plain: there is no key)
 *		1, key id, nonce, ciphertext, tag		(AES-256-GCM)
 *
 * where the key id has 8 bytes, the nonce 12, the ciphertext as many as the
 * secret, and the tag 16.  The webhook's id, the secret's name, the version
 * and the key id are authenticated with the secret, so that a value copied to
 * another row or name does not open there.
 *
 * The nonce is random.  That is safe for billions of values under one key, and
 * a database has thousands.
 *
 * A plain value has no protection; its version says so.  It still opens when
 * there are keys, so that a key can be introduced while there are plain
 * values; cwh_vault_is_current() finds the values to seal again.
 *
 * This file knows nothing of PostgreSQL and raises no errors.  No reason that
 * its functions return contains any part of a secret.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <limits.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "vault.h"

#define VERSION_PLAIN		0
#define VERSION_AES_GCM		1

#define KEY_LEN				((int) sizeof(((CwhVaultKey *) 0)->key))
#define KEY_ID_LEN			((int) sizeof(((CwhVaultKey *) 0)->id))
#define WEBHOOK_ID_LEN		16
#define NONCE_LEN			12
#define TAG_LEN				16

/* Where the parts of a sealed value begin. */
#define KEY_ID_AT			1
#define NONCE_AT			(KEY_ID_AT + KEY_ID_LEN)
#define CIPHERTEXT_AT		(NONCE_AT + NONCE_LEN)

_Static_assert(CIPHERTEXT_AT + TAG_LEN == CWH_SEALED_OVERHEAD,
			   "vault.h tells another size");


/* The two ways to write a key, in characters. */
#define HEX_KEY_LEN			(KEY_LEN * 2)
#define BASE64_KEY_LEN		((KEY_LEN + 2) / 3 * 4)

/* Hashed in front of a key, so that its id is no other known hash of it. */
#define KEY_ID_LABEL		"chatwebhook key id"
#define KEY_ID_LABEL_LEN	(sizeof(KEY_ID_LABEL) - 1)

/* Is this whitespace within a line?  isspace() depends on the locale. */
static bool
is_line_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* Return the value of a hexadecimal digit, or -1. */
static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Read a key in hexadecimal digits. */
static bool
parse_hex_key(const char *input, unsigned char key[KEY_LEN])
{
	for (int i = 0; i < KEY_LEN; i++)
	{
		int			high = hex_digit(input[2 * i]);
		int			low = hex_digit(input[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key[i] = (unsigned char) (high << 4 | low);
	}
	return true;
}

/*
 * Read a key in base64.
 *
 * OpenSSL's decoder ignores whitespace and more at both ends.  Refuse a key
 * that does not encode to the same text again: a typing error is better found
 * now than when no secret opens.
 */
static bool
parse_base64_key(const char *input, unsigned char key[KEY_LEN])
{
	unsigned char decoded[BASE64_KEY_LEN / 4 * 3];
	unsigned char again[BASE64_KEY_LEN + 1];
	bool		same = false;

	if (EVP_DecodeBlock(decoded, (const unsigned char *) input,
						BASE64_KEY_LEN) >= KEY_LEN)
	{
		EVP_EncodeBlock(again, decoded, KEY_LEN);
		same = memcmp(again, input, BASE64_KEY_LEN) == 0;
		if (same)
			memcpy(key, decoded, KEY_LEN);
	}

	cwh_cleanse(decoded, sizeof(decoded));
	cwh_cleanse(again, sizeof(again));
	return same;
}

/* Compute the id by which sealed values refer to a key. */
static bool
set_key_id(CwhVaultKey *key)
{
	unsigned char labeled[KEY_ID_LABEL_LEN + KEY_LEN];
	unsigned char digest[EVP_MAX_MD_SIZE];
	bool		done;

	memcpy(labeled, KEY_ID_LABEL, KEY_ID_LABEL_LEN);
	memcpy(labeled + KEY_ID_LABEL_LEN, key->key, KEY_LEN);
	done = EVP_Digest(labeled, sizeof(labeled), digest, NULL,
					  EVP_sha256(), NULL) == 1;
	if (done)
		memcpy(key->id, digest, KEY_ID_LEN);

	cwh_cleanse(labeled, sizeof(labeled));
	cwh_cleanse(digest, sizeof(digest));
	return done;
}

/* Find the key with this id, or NULL. */
static const CwhVaultKey *
find_key(const CwhVaultKey *keys, int nkeys, const unsigned char *id)
{
	for (int i = 0; i < nkeys; i++)
	{
		if (memcmp(keys[i].id, id, KEY_ID_LEN) == 0)
			return &keys[i];
	}
	return NULL;
}

/* Read a key from its line; returns NULL, or what is wrong. */
static const char *
parse_key(const char *line, size_t len, CwhVaultKey *key)
{
	bool		done = false;

	if (len == (size_t) HEX_KEY_LEN)
		done = parse_hex_key(line, key->key);
	else if (len == (size_t) BASE64_KEY_LEN)
		done = parse_base64_key(line, key->key);

	if (!done)
		return "a line is neither 64 hexadecimal digits nor base64 of 32 bytes";
	if (!set_key_id(key))
		return "the id of a key could not be computed";
	return NULL;
}

/*
 * Check the type, owner, and mode of a key file.  The rule is PostgreSQL's for
 * ssl_key_file: a file of the server's user is for that user only; one of root's
 * may also be readable by its group, so that the system can hand out a key that
 * the server cannot change.
 *
 * Returns null, or the reason why the file cannot be used.
 */
const char *
cwh_vault_check_file(const struct stat *status, uid_t server)
{
	if (!S_ISREG(status->st_mode))
		return "it is not a regular file";
	if (status->st_uid == server)
	{
		if (status->st_mode & (S_IRWXG | S_IRWXO))
			return "others have access to it: its mode must be 0600 or less";
	}
	else if (status->st_uid == 0)
	{
		if (status->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO))
			return "others have access to it: its mode must be 0640 or less, as root owns it";
	}
	else
		return "it belongs to another user: its owner must be the server's user or root";
	return NULL;
}

/*
 * Read the content of a key file: one key per line, the current one first,
 * then older ones that may still be needed to open values.  Blank lines and
 * lines that begin with "#" are skipped.
 *
 * Returns the number of keys, or -1; then *problem has a short reason and no
 * key is left in keys.  A file without a key is a problem too: an
 * administrator who names a key file does not expect secrets to be stored
 * plain.
 */
int
cwh_vault_parse_keys(const char *input, size_t len, CwhVaultKey *keys, int max,
					 const char **problem)
{
	const char *end = len > 0 ? input + len : input;
	int			n = 0;

	*problem = NULL;

	while (input != end && *problem == NULL)
	{
		const char *line = input;
		const char *newline = memchr(line, '\n', (size_t) (end - line));
		const char *line_end = newline ? newline : end;
		CwhVaultKey key;

		input = newline ? newline + 1 : end;

		while (line < line_end && is_line_blank(*line))
			line++;
		while (line < line_end && is_line_blank(line_end[-1]))
			line_end--;
		if (line == line_end || *line == '#')
			continue;

		*problem = parse_key(line, (size_t) (line_end - line), &key);
		if (*problem == NULL && find_key(keys, n, key.id) != NULL)
			*problem = "a key is listed twice";
		if (*problem == NULL && n >= max)
			*problem = "there are too many keys";
		if (*problem == NULL)
			keys[n++] = key;
		cwh_cleanse(&key, sizeof(key));
	}

	if (*problem == NULL && n == 0)
		*problem = "there is no key";
	if (*problem == NULL)
		return n;

	for (int i = 0; i < n; i++)
		cwh_cleanse(&keys[i], sizeof(keys[i]));
	return -1;
}

/* Start AES-256-GCM, to seal or to open; NULL on failure. */
static EVP_CIPHER_CTX *
gcm_create(bool seal, const unsigned char key[KEY_LEN],
		   const unsigned char nonce[NONCE_LEN])
{
	EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();

	if (gcm != NULL &&
		!EVP_CipherInit_ex(gcm, EVP_aes_256_gcm(), NULL, key, nonce, seal))
	{
		EVP_CIPHER_CTX_free(gcm);
		gcm = NULL;
	}
	return gcm;
}

/* Add associated data, which precedes the text. */
static bool
gcm_associate(EVP_CIPHER_CTX *gcm, const void *data, size_t len)
{
	int			done;

	/* OpenSSL takes a length of 0 for the end. */
	if (len == 0)
		return true;
	return len <= INT_MAX &&
		EVP_CipherUpdate(gcm, NULL, &done, data, (int) len) == 1;
}

/* Encrypt or decrypt the text. */
static bool
gcm_process(EVP_CIPHER_CTX *gcm, const void *in, size_t len,
			unsigned char *out)
{
	int			done = 0;

	if (len == 0)
		return true;
	return len <= INT_MAX &&
		EVP_CipherUpdate(gcm, out, &done, in, (int) len) == 1 &&
		(size_t) done == len;
}

/* Finish sealing: write the tag. */
static bool
gcm_finish(EVP_CIPHER_CTX *gcm, unsigned char tag[TAG_LEN])
{
	unsigned char nothing[EVP_MAX_BLOCK_LENGTH];
	int			done;

	return EVP_CipherFinal_ex(gcm, nothing, &done) == 1 &&
		EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag) == 1;
}

/* Finish opening: verify the tag, in constant time. */
static bool
gcm_check(EVP_CIPHER_CTX *gcm, const unsigned char tag[TAG_LEN])
{
	unsigned char nothing[EVP_MAX_BLOCK_LENGTH];
	unsigned char copy[TAG_LEN];
	int			done;

	/* OpenSSL only reads it, but its parameter is not const. */
	memcpy(copy, tag, TAG_LEN);
	return EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_SET_TAG,
							   TAG_LEN, copy) == 1 &&
		EVP_CipherFinal_ex(gcm, nothing, &done) == 1;
}

/*
 * Bind the secret to its place and to how it is sealed.
 *
 * Only the name, in the middle, varies in length, so no two places yield the
 * same bytes.
 */
static bool
gcm_bind(EVP_CIPHER_CTX *gcm, const unsigned char webhook_id[WEBHOOK_ID_LEN],
		 const char *name, const unsigned char key_id[KEY_ID_LEN])
{
	static const unsigned char version = VERSION_AES_GCM;

	return gcm_associate(gcm, webhook_id, WEBHOOK_ID_LEN) &&
		gcm_associate(gcm, name, strlen(name)) &&
		gcm_associate(gcm, &version, sizeof(version)) &&
		gcm_associate(gcm, key_id, KEY_ID_LEN);
}

/* Seal with AES-256-GCM under this nonce. */
static bool
seal_with_nonce(const CwhVaultKey *key, const unsigned char nonce[NONCE_LEN],
				const unsigned char webhook_id[WEBHOOK_ID_LEN],
				const char *name, const void *plain, size_t len,
				unsigned char *out)
{
	EVP_CIPHER_CTX *gcm;
	bool		done;

	out[0] = VERSION_AES_GCM;
	memcpy(out + KEY_ID_AT, key->id, KEY_ID_LEN);
	memcpy(out + NONCE_AT, nonce, NONCE_LEN);

	gcm = gcm_create(true, key->key, nonce);
	done = gcm != NULL &&
		gcm_bind(gcm, webhook_id, name, key->id) &&
		gcm_process(gcm, plain, len, out + CIPHERTEXT_AT) &&
		gcm_finish(gcm, out + CIPHERTEXT_AT + len);
	EVP_CIPHER_CTX_free(gcm);

	return done;
}

/*
 * Seal a secret under a key, or plain if the key is null.
 *
 * out takes cwh_vault_sealed_len() bytes, and must not overlap the secret.  If
 * OpenSSL fails, returns false and leaves nothing in out.
 */
bool
cwh_vault_seal(const CwhVaultKey *key, const unsigned char webhook_id[16],
			   const char *name, const void *plain, size_t len,
			   unsigned char *out)
{
	unsigned char nonce[NONCE_LEN];

	if (key == NULL)
	{
		out[0] = VERSION_PLAIN;
		if (len > 0)
			memcpy(out + CWH_PLAIN_OVERHEAD, plain, len);
		return true;
	}

	if (RAND_bytes(nonce, sizeof(nonce)) == 1 &&
		seal_with_nonce(key, nonce, webhook_id, name, plain, len, out))
		return true;

	cwh_cleanse(out, cwh_vault_sealed_len(len, true));
	return false;
}

/* Why a value did not open, as the end of an error message; null if it did. */
static const char *
problem_of(CwhVaultResult result)
{
	switch (result)
	{
		case CWH_VAULT_OK:
			return NULL;
		case CWH_VAULT_MALFORMED:
			return "the stored secret is malformed";
		case CWH_VAULT_NO_KEY:
			return "the stored secret is sealed under a key that is not in the key file";
		case CWH_VAULT_WRONG:
			break;
	}
	return "the stored secret has been changed, or belongs to another webhook or name";
}

/*
 * Open a value that is sealed with AES-256-GCM.  Whatever is wrong, nothing is
 * left in out.
 */
static CwhVaultResult
open_encrypted(const CwhVaultKey *keys, int nkeys,
			   const unsigned char webhook_id[WEBHOOK_ID_LEN],
			   const char *name, const unsigned char *sealed, size_t len,
			   unsigned char *out, size_t *out_len)
{
	size_t		plain_len = len - CWH_SEALED_OVERHEAD;
	const CwhVaultKey *key = find_key(keys, nkeys, sealed + KEY_ID_AT);
	EVP_CIPHER_CTX *gcm;
	bool		opened;

	if (key == NULL)
		return CWH_VAULT_NO_KEY;

	gcm = gcm_create(false, key->key, sealed + NONCE_AT);
	opened = gcm != NULL &&
		gcm_bind(gcm, webhook_id, name, key->id) &&
		gcm_process(gcm, sealed + CIPHERTEXT_AT, plain_len, out) &&
		gcm_check(gcm, sealed + CIPHERTEXT_AT + plain_len);
	EVP_CIPHER_CTX_free(gcm);

	/* The text was decrypted before the tag was found to be wrong. */
	if (!opened)
	{
		cwh_cleanse(out, plain_len);
		return CWH_VAULT_WRONG;
	}

	*out_len = plain_len;
	return CWH_VAULT_OK;
}

/*
 * Open a sealed value.
 *
 * out takes up to len bytes, and must not overlap the sealed value; *out_len
 * is how many bytes it got.  Unless the result is CWH_VAULT_OK, nothing is
 * left in out and *problem has the reason; else *problem is null.
 */
CwhVaultResult
cwh_vault_open(const CwhVaultKey *keys, int nkeys,
			   const unsigned char webhook_id[16], const char *name,
			   const void *sealed, size_t len,
			   unsigned char *out, size_t *out_len, const char **problem)
{
	const unsigned char *bytes = sealed;
	CwhVaultResult result = CWH_VAULT_MALFORMED;

	*out_len = 0;

	if (len >= CWH_PLAIN_OVERHEAD && bytes[0] == VERSION_PLAIN)
	{
		*out_len = len - CWH_PLAIN_OVERHEAD;
		memcpy(out, bytes + CWH_PLAIN_OVERHEAD, *out_len);
		result = CWH_VAULT_OK;
	}
	else if (len >= CWH_SEALED_OVERHEAD && bytes[0] == VERSION_AES_GCM)
		result = open_encrypted(keys, nkeys, webhook_id, name, bytes, len,
								out, out_len);

	*problem = problem_of(result);
	return result;
}

/*
 * Is this value sealed as it would be sealed now: under the first key, or
 * plain if there are no keys?
 */
bool
cwh_vault_is_current(const CwhVaultKey *keys, int nkeys,
					 const void *sealed, size_t len)
{
	const unsigned char *bytes = sealed;

	if (nkeys == 0)
		return len >= CWH_PLAIN_OVERHEAD && bytes[0] == VERSION_PLAIN;

	return len >= CWH_SEALED_OVERHEAD && bytes[0] == VERSION_AES_GCM &&
		memcmp(bytes + KEY_ID_AT, keys[0].id, KEY_ID_LEN) == 0;
}
