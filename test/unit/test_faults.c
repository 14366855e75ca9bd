/*
 * test_faults.c
 *		Signatures and the vault while OpenSSL or memory fails.
 *
 * Only here can each call of OpenSSL's that they make be made to fail, one after
 * the other: whatever fails, the operation says so, gives nothing away that
 * could be taken for its result, and keeps no object; and it works again with
 * the next call.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#define OPENSSL_API_COMPAT 0x10101000L	/* as sign.c has it */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdbool.h>

static int	calls = 0;			/* that could fail, since the last begin() */
static int	fail_at = 0;		/* the one that does; 0: none */
static int	objects = 0;		/* that are there, made and not freed */

/* Is this the call that fails? */
static bool
fails(void)
{
	return ++calls == fail_at;
}

/* Count an object that was made. */
static void *
made(void *object)
{
	objects += object != NULL;
	return object;
}

/* Count one that is freed. */
static void *
freed(void *object)
{
	objects -= object != NULL;
	return object;
}

#undef OPENSSL_malloc
#undef OPENSSL_zalloc
#undef OPENSSL_free
#undef OPENSSL_clear_free
#define OPENSSL_malloc(n) \
	(fails() ? NULL : made(CRYPTO_malloc(n, __FILE__, __LINE__)))
#define OPENSSL_zalloc(n) \
	(fails() ? NULL : made(CRYPTO_zalloc(n, __FILE__, __LINE__)))
#define OPENSSL_free(p) \
	CRYPTO_free(freed(p), __FILE__, __LINE__)
#define OPENSSL_clear_free(p, n) \
	CRYPTO_clear_free(freed(p), n, __FILE__, __LINE__)

#define HMAC_CTX_new()				(fails() ? NULL : made(HMAC_CTX_new()))
#define HMAC_CTX_free(c)			HMAC_CTX_free(freed(c))
#define HMAC_Init_ex(...)			(fails() ? 0 : HMAC_Init_ex(__VA_ARGS__))
#define HMAC_Update(...)			(fails() ? 0 : HMAC_Update(__VA_ARGS__))
#define HMAC_Final(...)				(fails() ? 0 : HMAC_Final(__VA_ARGS__))
#define EVP_MD_CTX_new()			(fails() ? NULL : made(EVP_MD_CTX_new()))
#define EVP_MD_CTX_free(c)			EVP_MD_CTX_free(freed(c))
#define EVP_PKEY_free(k)			EVP_PKEY_free(freed(k))
#define EVP_PKEY_new_raw_private_key(...) \
	(fails() ? NULL : made(EVP_PKEY_new_raw_private_key(__VA_ARGS__)))
#define EVP_PKEY_new_raw_public_key(...) \
	(fails() ? NULL : made(EVP_PKEY_new_raw_public_key(__VA_ARGS__)))
#define EVP_PKEY_get_raw_public_key(...) \
	(fails() ? 0 : EVP_PKEY_get_raw_public_key(__VA_ARGS__))
#define EVP_DigestSignInit(...)		(fails() ? 0 : EVP_DigestSignInit(__VA_ARGS__))
#define EVP_DigestSign(...)			(fails() ? 0 : EVP_DigestSign(__VA_ARGS__))
#define EVP_DigestVerifyInit(...)	(fails() ? 0 : EVP_DigestVerifyInit(__VA_ARGS__))
#define EVP_DigestVerify(...)		(fails() ? 0 : EVP_DigestVerify(__VA_ARGS__))
#define EVP_Digest(...)				(fails() ? 0 : EVP_Digest(__VA_ARGS__))
#define EVP_CIPHER_CTX_new()		(fails() ? NULL : made(EVP_CIPHER_CTX_new()))
#define EVP_CIPHER_CTX_free(c)		EVP_CIPHER_CTX_free(freed(c))
#define EVP_CipherInit_ex(...)		(fails() ? 0 : EVP_CipherInit_ex(__VA_ARGS__))
#define EVP_CipherUpdate(...)		(fails() ? 0 : EVP_CipherUpdate(__VA_ARGS__))
#define EVP_CipherFinal_ex(...)		(fails() ? 0 : EVP_CipherFinal_ex(__VA_ARGS__))
#define EVP_CIPHER_CTX_ctrl(...)	(fails() ? 0 : EVP_CIPHER_CTX_ctrl(__VA_ARGS__))
#define RAND_bytes(...)				(fails() ? 0 : RAND_bytes(__VA_ARGS__))

#include "../../src/sign.c"
#include "../../src/vault.c"

#include "tap.h"

static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
static const char body[] = "{\"type\":\"lead.captured\"}";
static const unsigned char webhook_id[16] = "a webhook's id!";
static char private_key[CWH_SECRET_LEN + 1];
static char public_key[CWH_PUBLIC_KEY_LEN + 1];
static char by_secret[CWH_MESSAGE_SIGNATURE_LEN + 1];
static char by_private[CWH_MESSAGE_SIGNATURE_LEN + 1];
static char plain[CWH_BODY_SIGNATURE_LEN + 1];
static CwhSigner *signer;
static CwhSigner *private_signer;
static CwhSigner *public_signer;
static CwhVaultKey key;
static unsigned char sealed[256];

/*
 * The operations.  Each is done once, and says whether it succeeded; if it has
 * not, and has left anything that could be taken for a result, it says so.
 */
static bool left = false;

/* Are these bytes all the same, as they were filled with before? */
static bool
untouched(const void *bytes, size_t len, unsigned char with)
{
	for (size_t i = 0; i < len; i++)
		if (((const unsigned char *) bytes)[i] != with)
			return false;
	return true;
}

/* Create a signer; there has to be either one or a problem. */
static bool
create(const char *of)
{
	const char *problem = "left as it was";
	CwhSigner  *made_now = cwh_signer_create(of, strlen(of), &problem);

	left = (made_now == NULL) == (problem == NULL) ||
		(problem && strcmp(problem, "left as it was") == 0);
	cwh_signer_destroy(made_now);
	return made_now != NULL;
}

static bool
create_secret(void)
{
	return create(secret);
}

static bool
create_private(void)
{
	return create(private_key);
}

static bool
create_public(void)
{
	return create(public_key);
}

static bool
sign_body(void)
{
	char		out[CWH_BODY_SIGNATURE_LEN + 1] = "";
	bool		done = cwh_sign_body(signer, body, strlen(body), out);

	left = !done && strstr(out, "sha256=") != NULL;
	return done && strcmp(out, plain) == 0;
}

static bool
sign_message(CwhSigner *by, const char *want)
{
	char		out[CWH_MESSAGE_SIGNATURE_LEN + 1] = "x";
	bool		done = cwh_sign_message(by, "msg", 1, body, strlen(body), out);

	left = !done && out[0] != '\0';
	return done && strcmp(out, want) == 0;
}

static bool
sign_by_secret(void)
{
	return sign_message(signer, by_secret);
}

static bool
sign_by_private(void)
{
	return sign_message(private_signer, by_private);
}

static bool
verify_body(void)
{
	return cwh_verify_body(signer, body, strlen(body), plain);
}

static bool
verify_message(CwhSigner *with, const char *signature)
{
	return cwh_verify_message(with, "msg", "1", signature, body, strlen(body),
							  1, 300);
}

static bool
verify_with_secret(void)
{
	return verify_message(signer, by_secret);
}

static bool
verify_with_private(void)
{
	return verify_message(private_signer, by_private);
}

static bool
verify_with_public(void)
{
	return verify_message(public_signer, by_private);
}

static bool
generate(bool asymmetric)
{
	char		out[CWH_SECRET_LEN + 1] = "x";
	bool		done = cwh_secret_generate(asymmetric, out);

	left = !done && out[0] != '\0';
	return done;
}

static bool
generate_secret(void)
{
	return generate(false);
}

static bool
generate_private(void)
{
	return generate(true);
}

static bool
tell_public(void)
{
	char		out[CWH_PUBLIC_KEY_LEN + 1] = "x";
	bool		done = cwh_public_key(private_key, strlen(private_key), out);

	left = !done && out[0] != '\0';
	return done && strcmp(out, public_key) == 0;
}

static bool
check_secret(void)
{
	return cwh_secret_problem(private_key, strlen(private_key)) == NULL;
}

static bool
parse_keys(void)
{
	static const char file[] =
		"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n";
	CwhVaultKey keys[2];
	const char *problem = NULL;

	return cwh_vault_parse_keys(file, strlen(file), keys, 2, &problem) == 1;
}

static bool
seal(void)
{
	unsigned char out[sizeof(sealed)];
	size_t		len = cwh_vault_sealed_len(strlen(secret), true);
	bool		done;

	memset(out, 0, sizeof(out));
	done = cwh_vault_seal(&key, webhook_id, "signing_secret", secret,
						  strlen(secret), out);
	left = !done && !untouched(out, len, 0);
	return done;
}

static bool
open_sealed(void)
{
	unsigned char out[sizeof(sealed)];
	size_t		len = 0;
	const char *problem = NULL;
	bool		done;

	memset(out, 0, sizeof(out));
	done = cwh_vault_open(&key, 1, webhook_id, "signing_secret", sealed,
						  cwh_vault_sealed_len(strlen(secret), true), out,
						  &len, &problem) == CWH_VAULT_OK;
	left = !done && (len != 0 || problem == NULL ||
					 !untouched(out, strlen(secret), 0));
	return done && len == strlen(secret) && memcmp(out, secret, len) == 0;
}

/* Have each call that an operation makes fail. */
static void
test(const char *name, bool (*operation) (void))
{
	int			before = objects;
	int			n;
	int			wrong = 0;
	int			leaks = 0;

	calls = fail_at = 0;
	ok(operation() && objects == before, "%s works", name);
	n = calls;
	ok(n > 0, "%s makes %d calls that can fail", name, n);
	for (int i = 1; i <= n; i++)
	{
		calls = 0;
		left = false;
		fail_at = i;
		if (operation() || left)
		{
			fprintf(stderr, "# with call %d failing, it %s\n", i,
					left ? "left a result" : "succeeded");
			wrong++;
		}
		fail_at = 0;
		leaks += objects != before;
		objects = before;
		if (!operation())
			wrong++;
	}
	is_int(wrong, 0, name);
	ok(leaks == 0, "%s keeps nothing when it fails", name);
}

int
main(void)
{
	const char *problem;

	if (!cwh_secret_generate(true, private_key) ||
		!cwh_public_key(private_key, strlen(private_key), public_key))
		return 1;
	signer = cwh_signer_create(secret, strlen(secret), &problem);
	private_signer = cwh_signer_create(private_key, strlen(private_key),
									   &problem);
	public_signer = cwh_signer_create(public_key, strlen(public_key), &problem);
	if (!cwh_sign_body(signer, body, strlen(body), plain) ||
		!cwh_sign_message(signer, "msg", 1, body, strlen(body), by_secret) ||
		!cwh_sign_message(private_signer, "msg", 1, body, strlen(body),
						  by_private) ||
		!verify_with_public())	/* signers keep the memory for a message */
		return 1;
	memset(&key, 7, sizeof(key));
	if (!cwh_vault_seal(&key, webhook_id, "signing_secret", secret,
						strlen(secret), sealed))
		return 1;

	test("creating a secret's signer", create_secret);
	test("creating a private key's signer", create_private);
	test("creating a public key's signer", create_public);
	test("signing a body", sign_body);
	test("signing with a secret", sign_by_secret);
	test("signing with a private key", sign_by_private);
	test("verifying a body", verify_body);
	test("verifying with a secret", verify_with_secret);
	test("verifying with a private key", verify_with_private);
	test("verifying with a public key", verify_with_public);
	test("generating a secret", generate_secret);
	test("generating a private key", generate_private);
	test("telling a public key", tell_public);
	test("checking a secret", check_secret);
	test("reading a key file", parse_keys);
	test("sealing", seal);
	test("opening", open_sealed);
	cwh_signer_destroy(signer);
	cwh_signer_destroy(private_signer);
	cwh_signer_destroy(public_signer);
	return done_testing();
}
