/*
 * fuzz_sign.c
 *		Fuzzes what reads headers and secrets: sign.c, retry.c and vault.c.
 *
 * The input is lines: a key, an id, a timestamp, a list of signatures and a
 * Retry-After; then the body, which is also read as a sealed value and as a key
 * file.  A message verifies only if its list has the signature that we would
 * make; only plain values open, since no input can be sealed under our key; and
 * our own signatures and values verify and open until a byte is changed.
 *
 *	clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc \
 *		test/fuzz/fuzz_sign.c -lcrypto -o fuzz_sign
 *	./fuzz_sign FOUND test/fuzz/corpus/sign
 *
 * where FOUND is a directory for the inputs that it finds.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/sign.c"
#include "../../src/retry.c"
#include "../../src/vault.c"

#include <stdlib.h>

#define MAX_KEYS	4

/* The property that did not hold goes to standard error, then it crashes. */
#define CHECK(condition) \
	((condition) ? (void) 0 : fail(__LINE__, #condition))

/* The input, taken apart. */
typedef struct Message
{
	char	   *secret;
	char	   *id;
	char	   *timestamp;
	char	   *signatures;
	char	   *retry_after;
	const unsigned char *body;
	size_t		len;
} Message;

/* Report a property that does not hold. */
static void
fail(int line, const char *condition)
{
	fprintf(stderr, "line %d: not true: %s\n", line, condition);
	abort();
}

/* Memory of exactly that size, never NULL. */
static void *
allocate(size_t size)
{
	void	   *memory = malloc(size > 0 ? size : 1);

	CHECK(memory != NULL);
	return memory;
}

/* Take a line off the input, as an allocated string; a NUL cuts it short. */
static char *
take_line(const unsigned char **data, size_t *size)
{
	const unsigned char *newline =
		*size > 0 ? memchr(*data, '\n', *size) : NULL;
	size_t		len = newline ? (size_t) (newline - *data) : *size;
	char	   *line = allocate(len + 1);

	if (len > 0)
		memcpy(line, *data, len);
	line[len] = '\0';
	if (newline != NULL)
		len++;
	*data += len;
	*size -= len;
	return line;
}

/* Is this one of the entries of a list? */
static bool
list_has(const char *list, const char *entry)
{
	size_t		len = strlen(entry);

	for (const char *at = strstr(list, entry); at; at = strstr(at + 1, entry))
	{
		if ((at == list || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
			return true;
	}
	return false;
}

/* Put one more entry in front of a list. */
static char *
list_with(const char *list, const char *entry)
{
	char	   *longer = allocate(strlen(list) + strlen(entry) + 2);

	sprintf(longer, "%s %s", entry, list);
	return longer;
}

/* Make a signature that is off in one place, which the message chooses. */
static char *
damage(const char *signature, const Message *message)
{
	char	   *damaged = allocate(strlen(signature) + 1);
	size_t		at = message->len % strlen(signature);
	char		other = message->len > 0 ? (char) message->body[0] : 'A';

	strcpy(damaged, signature);
	if (other == damaged[at] || other == '\0')
		other = damaged[at] == '=' ? '+' : '=';
	damaged[at] = other;
	return damaged;
}

/* Is a body signature ours, and does ours verify? */
static void
check_body(CwhSigner *signer, const Message *message)
{
	char		ours[CWH_BODY_SIGNATURE_LEN + 1];
	char	   *theirs = message->signatures;
	bool		verified = cwh_verify_body(signer, message->body, message->len,
										   theirs);

	CHECK(cwh_sign_body(signer, message->body, message->len, ours) ==
		  !signer->verifies_only);
	if (!cwh_signer_has_secret(signer))
	{
		CHECK(ours[0] == '\0' && !verified);
		return;
	}
	CHECK(strlen(ours) == CWH_BODY_SIGNATURE_LEN);
	CHECK(cwh_verify_body(signer, message->body, message->len, ours));

	/* Digits, and nothing else, may be in the other case. */
	if (verified)
	{
		CHECK(memcmp(ours, theirs, PREFIX_LEN(BODY_PREFIX)) == 0);
		for (size_t i = PREFIX_LEN(BODY_PREFIX); i <= CWH_BODY_SIGNATURE_LEN; i++)
			CHECK(theirs[i] == ours[i] ||
				  (ours[i] >= 'a' && theirs[i] == ours[i] - 'a' + 'A'));
	}
}

/*
 * Is a message's signature ours, and does ours verify?  The verifier is the
 * signer, or has its public key.
 */
static void
check_message(CwhSigner *signer, CwhSigner *verifier, const Message *message,
			  int64_t sent_at)
{
	char		ours[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char	   *list;
	char	   *damaged;
	bool		verified;

#define VERIFY(list, now, tolerance) \
	cwh_verify_message(verifier, message->id, message->timestamp, list, \
					   message->body, message->len, now, tolerance)

	CHECK(cwh_sign_message(signer, message->id, sent_at,
						   message->body, message->len, ours));
	CHECK(strlen(ours) == (cwh_signer_has_secret(signer) ? HMAC_SIGNATURE_LEN :
						   ED25519_SIGNATURE_LEN));

	/* Of a long list of asymmetric signatures, not all are tried. */
	verified = VERIFY(message->signatures, sent_at, 0);
	if (verified || cwh_signer_has_secret(signer))
		CHECK(verified == list_has(message->signatures, ours));

	list = list_with(message->signatures, ours);
	CHECK(VERIFY(list, sent_at, 0));
	CHECK(!VERIFY(list, sent_at > 0 ? sent_at - 1 : 1, 0));
	CHECK(!VERIFY(list, INT64_MIN, INT64_MAX));
	free(list);
	damaged = damage(ours, message);
	CHECK(!VERIFY(damaged, sent_at, 0));
	free(damaged);

#undef VERIFY
}

/* Does a private key have a public key, which verifies and does not sign? */
static void
check_public(CwhSigner *signer, const Message *message, int64_t sent_at)
{
	char		public_key[CWH_PUBLIC_KEY_LEN + 1];
	char		nothing[CWH_MESSAGE_SIGNATURE_LEN + 1] = "x";
	const char *problem;
	CwhSigner  *verifier;

	CHECK(cwh_public_key(message->secret, strlen(message->secret),
						 public_key) == (!cwh_signer_has_secret(signer) &&
												 !signer->verifies_only));
	if (public_key[0] == '\0')
		return;
	CHECK(strlen(public_key) == CWH_PUBLIC_KEY_LEN);
	verifier = cwh_signer_create(public_key, strlen(public_key), &problem);
	CHECK(verifier != NULL && verifier->verifies_only);
	check_message(signer, verifier, message, sent_at);
	CHECK(!cwh_sign_message(verifier, message->id, sent_at, message->body,
							message->len, nothing));
	CHECK(nothing[0] == '\0');
	cwh_signer_destroy(verifier);
}

/* The secret is usable if nothing is said against it; then try it. */
static void
check_signatures(const Message *message)
{
	size_t		secret_len = strlen(message->secret);
	const char *secret_problem = cwh_secret_problem(message->secret, secret_len);
	const char *problem = "left as it was";
	CwhSigner  *signer = cwh_signer_create(message->secret, secret_len,
										   &problem);
	int64_t		sent_at;

	CHECK((signer == NULL) == (problem != NULL));
	CHECK(secret_problem != NULL || signer != NULL);
	if (signer == NULL)
	{
		/* The two give the same reason, but for a public key. */
		CHECK(strcmp(problem, "left as it was") != 0);
		CHECK(kind_of(message->secret, secret_len) == KEY_PUBLIC ||
			  strcmp(problem, secret_problem) == 0);
		return;
	}

	if (!parse_timestamp(message->timestamp, &sent_at))
		CHECK(!cwh_verify_message(signer, message->id, message->timestamp,
								  message->signatures, message->body,
								  message->len, 0, INT64_MAX));
	else if (signer->verifies_only)
	{
		/* Whatever comes of these, it is not a crash. */
		cwh_verify_message(signer, message->id, message->timestamp,
						   message->signatures, message->body, message->len,
						   sent_at, 0);
	}
	else
	{
		check_message(signer, signer, message, sent_at);
		check_public(signer, message, sent_at);
	}
	check_body(signer, message);

	cwh_signer_destroy(signer);
}

/* A Retry-After is a number of seconds, or none. */
static void
check_retry_after(const char *value)
{
	size_t		len = strlen(value);
	char	   *copy = allocate(len);

	/* Without the NUL, which does not belong to it. */
	memcpy(copy, value, len);
	CHECK(cwh_retry_after(copy, len, 1767323045) >= -1);
	CHECK(cwh_retry_after(copy, len, 0) >= -1);
	CHECK(cwh_retry_after(copy, len, INT64_MAX) >= -1);
	free(copy);
}

/* A key file holds keys, which are the same when they are written out again. */
static void
check_keys(const Message *message)
{
	CwhVaultKey keys[MAX_KEYS];
	const char *problem = "";
	int			n;

	n = cwh_vault_parse_keys((const char *) message->body, message->len,
							 keys, MAX_KEYS, &problem);
	CHECK(n == -1 || (n > 0 && n <= MAX_KEYS));
	CHECK((n < 0) == (problem != NULL));

	for (int i = 0; i < n; i++)
	{
		char		hex[HEX_KEY_LEN + 1];
		CwhVaultKey again;

		for (int j = 0; j < KEY_LEN; j++)
			sprintf(hex + 2 * j, "%02x", keys[i].key[j]);
		CHECK(cwh_vault_parse_keys(hex, HEX_KEY_LEN, &again, 1,
								   &problem) == 1);
		CHECK(memcmp(&again, &keys[i], sizeof(again)) == 0);
		for (int j = 0; j < i; j++)
			CHECK(memcmp(keys[j].key, keys[i].key, KEY_LEN) != 0);
	}
}

/* The input as a sealed value, and as a secret to be sealed. */
static void
check_vault(const Message *message)
{
	static const unsigned char webhook_id[WEBHOOK_ID_LEN] = "0123456789abcde";
	static const unsigned char nonce[NONCE_LEN] = "0123456789a";
	static const char key_file[] =
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
	CwhVaultKey key;
	CwhVaultResult result;
	const char *problem = "left as it was";
	size_t		sealed_len = cwh_vault_sealed_len(message->len, true);
	unsigned char *sealed = allocate(sealed_len);
	unsigned char *out = allocate(sealed_len);
	size_t		out_len;
	size_t		at;

	CHECK(cwh_vault_parse_keys(key_file, sizeof(key_file) - 1, &key, 1,
							   &problem) == 1);

	/* Nothing opens but what is in clear. */
	result = cwh_vault_open(&key, 1, webhook_id, message->id,
							message->body, message->len, out, &out_len,
							&problem);
	CHECK((result == CWH_VAULT_OK) == (problem == NULL));
	CHECK((result == CWH_VAULT_OK) ==
		  cwh_vault_is_current(NULL, 0, message->body, message->len));
	if (result == CWH_VAULT_OK)
	{
		CHECK(out_len == message->len - 1);
		CHECK(memcmp(out, message->body + 1, out_len) == 0);
	}
	else
		CHECK(out_len == 0);
	CHECK((result == CWH_VAULT_WRONG) ==
		  cwh_vault_is_current(&key, 1, message->body, message->len));

	/* What we seal opens, but neither elsewhere nor damaged. */
	CHECK(seal_with_nonce(&key, nonce, webhook_id, message->id,
						  message->body, message->len, sealed));
	CHECK(cwh_vault_is_current(&key, 1, sealed, sealed_len));
	CHECK(cwh_vault_open(&key, 1, webhook_id, message->id,
						 sealed, sealed_len, out, &out_len,
						 &problem) == CWH_VAULT_OK);
	CHECK(out_len == message->len);
	CHECK(out_len == 0 || memcmp(out, message->body, out_len) == 0);
	if (strcmp(message->id, message->timestamp) != 0)
		CHECK(cwh_vault_open(&key, 1, webhook_id, message->timestamp,
							 sealed, sealed_len, out, &out_len,
							 &problem) == CWH_VAULT_WRONG);

	at = 1 + (message->len > 0 ? message->body[0] : 0) % (sealed_len - 1);
	sealed[at] ^= (unsigned char) (1 << message->len % 8);
	CHECK(cwh_vault_open(&key, 1, webhook_id, message->id,
						 sealed, sealed_len, out, &out_len,
						 &problem) != CWH_VAULT_OK);
	CHECK(out_len == 0);

	free(sealed);
	free(out);
}

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Run one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Message		message;
	unsigned char *body;

	message.secret = take_line(&data, &size);
	message.id = take_line(&data, &size);
	message.timestamp = take_line(&data, &size);
	message.signatures = take_line(&data, &size);
	message.retry_after = take_line(&data, &size);
	body = allocate(size);
	if (size > 0)
		memcpy(body, data, size);
	message.body = body;
	message.len = size;

	check_signatures(&message);
	check_retry_after(message.retry_after);
	check_keys(&message);
	check_vault(&message);

	free(message.secret);
	free(message.id);
	free(message.timestamp);
	free(message.signatures);
	free(message.retry_after);
	free(body);
	return 0;
}
