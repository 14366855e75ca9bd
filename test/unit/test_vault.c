/*
 * test_vault.c
 *		Sealing and opening, against vectors of others and against damage.
 *
 * Only here are fixed nonces, a failing random source and a sweep of damaged
 * values to be had; that tables hold nothing in clear is for the tests with a
 * server to show.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */

/* Replacing the random source is an interface of 1.1.1, which 3 deprecates. */
#define OPENSSL_API_COMPAT 0x10101000L

#include "../../src/vault.c"

#include <stdlib.h>

#include "tap.h"

#define MAX_KEYS	4

static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
#define SECRET_LEN		(sizeof(secret) - 1)
#define SEALED_LEN		(SECRET_LEN + CWH_SEALED_OVERHEAD)

static const char name[] = "signing_secret";

static const unsigned char webhook[WEBHOOK_ID_LEN] = {
	0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
	0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff
};

/* The bytes 0 to 31, in the two ways to write them. */
#define HEX_KEY \
	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define BASE64_KEY		"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
/* And others. */
#define OTHER_KEY		"IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI="
#define THIRD_KEY \
	"3333333333333333333333333333333333333333333333333333333333333333"

/* Read hexadecimal digits; return how many bytes they are. */
static size_t
unhex(const char *digits, unsigned char *out)
{
	size_t		len = strlen(digits) / 2;

	for (size_t i = 0; i < len; i++)
	{
		char		pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};

		out[i] = (unsigned char) strtoul(pair, NULL, 16);
	}
	return len;
}

/* Make keys of the content of a file; stop if it is refused. */
static int
keys_of(const char *text, CwhVaultKey *keys)
{
	const char *problem;
	int			n = cwh_vault_parse_keys(text, strlen(text), keys, MAX_KEYS,
										 &problem);

	if (n < 0)
	{
		fprintf(stderr, "# keys refused: %s\n", problem);
		exit(1);
	}
	return n;
}

/* Why a value does not open, for each result. */
static const char *const reasons[] = {
	[CWH_VAULT_OK] = NULL,
	[CWH_VAULT_MALFORMED] = "the stored secret is malformed",
	[CWH_VAULT_NO_KEY] =
		"the stored secret is sealed under a key that is not in the key file",
	[CWH_VAULT_WRONG] =
		"the stored secret has been changed, or belongs to another webhook or name"
};

/* What opening a value for a webhook and a name comes to, with its reason. */
static CwhVaultResult
open_as(const CwhVaultKey *keys, int nkeys, const unsigned char *webhook_id,
		const char *as, const unsigned char *sealed, size_t len)
{
	unsigned char *copy = malloc(len > 0 ? len : 1);
	unsigned char *out = malloc(len > 0 ? len : 1);
	size_t		out_len = 12345;
	const char *problem = "left as it was";
	CwhVaultResult result;

	/* In memory of just its size, so that a sanitizer sees a byte too many. */
	if (len > 0)
		memcpy(copy, sealed, len);
	memset(out, 'x', len);
	result = cwh_vault_open(keys, nkeys, webhook_id, as, copy, len,
							out, &out_len, &problem);
	if (problem == NULL || reasons[result] == NULL ?
		problem != reasons[result] : strcmp(problem, reasons[result]) != 0)
		ok(false, "result %d has its reason", (int) result);

	if (result != CWH_VAULT_OK)
	{
		if (out_len != 0)
			ok(false, "what does not open has no length");
		for (size_t i = 0; i + 4 <= len; i++)
		{
			if (memcmp(out + i, "whse", 4) == 0)
				ok(false, "what does not open leaves nothing");
		}
	}
	free(copy);
	free(out);
	return result;
}

/* A vector of the GCM specification (McGrew and Viega, test case 16). */
static void
test_gcm_vector(void)
{
	unsigned char key[KEY_LEN];
	unsigned char nonce[NONCE_LEN];
	unsigned char aad[20];
	unsigned char plain[60];
	unsigned char want[60];
	unsigned char want_tag[TAG_LEN];
	unsigned char got[60];
	unsigned char tag[TAG_LEN];
	EVP_CIPHER_CTX *gcm;

	unhex("feffe9928665731c6d6a8f9467308308"
		  "feffe9928665731c6d6a8f9467308308", key);
	unhex("cafebabefacedbaddecaf888", nonce);
	unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2", aad);
	unhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
		  "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39", plain);
	unhex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
		  "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662", want);
	unhex("76fc6ece0f4e1768cddf8853bb2d551b", want_tag);

	gcm = gcm_create(true, key, nonce);
	ok(gcm_associate(gcm, aad, 7) && gcm_associate(gcm, aad, 0) &&
	   gcm_associate(gcm, aad + 7, sizeof(aad) - 7) &&
	   gcm_process(gcm, plain, sizeof(plain), got) && gcm_finish(gcm, tag),
	   "GCM test case 16 is encrypted");
	ok(memcmp(got, want, sizeof(want)) == 0, "to its ciphertext");
	ok(memcmp(tag, want_tag, TAG_LEN) == 0, "and its tag");
	EVP_CIPHER_CTX_free(gcm);

	gcm = gcm_create(false, key, nonce);
	ok(gcm_associate(gcm, aad, sizeof(aad)) &&
	   gcm_process(gcm, want, sizeof(want), got) && gcm_check(gcm, want_tag),
	   "and decrypted");
	ok(memcmp(got, plain, sizeof(plain)) == 0, "to its plaintext");
	EVP_CIPHER_CTX_free(gcm);
}

/* A whole sealed value, as Node's crypto makes it of the same parts. */
static void
test_format(void)
{
	static const unsigned char nonce[NONCE_LEN] = {
		0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab
	};
	CwhVaultKey keys[MAX_KEYS];
	unsigned char want[256];
	unsigned char got[SEALED_LEN];
	unsigned char id[KEY_ID_LEN];
	size_t		len;

	len = unhex("01208f0f8659e5e595a0a1a2a3a4a5a6a7a8a9aaab91700f4826944fd929"
				"34bea13f3d8b8701de0d67f8e21228a4476ad625e21a339e170b9efc55f1"
				"7e78060bcb74de41f9308f6604ad7e", want);

	keys_of(HEX_KEY, keys);
	unhex("208f0f8659e5e595", id);
	ok(memcmp(keys[0].id, id, KEY_ID_LEN) == 0, "the id of a key");

	is_int((long long) len, SEALED_LEN, "the length of a sealed value");
	is_int((long long) cwh_vault_sealed_len(SECRET_LEN, true), SEALED_LEN,
		   "is known beforehand");
	is_int((long long) cwh_vault_sealed_len(SECRET_LEN, false),
		   SECRET_LEN + 1, "and so is that of a plain one");

	ok(seal_with_nonce(&keys[0], nonce, webhook, name, secret, SECRET_LEN, got),
	   "a secret is sealed");
	ok(memcmp(got, want, len) == 0, "as others would");
	ok(open_as(keys, 1, webhook, name, want, len) == CWH_VAULT_OK,
	   "what others sealed opens");
}

/* Secrets of all lengths, and what opens them. */
static void
test_round_trip(void)
{
	CwhVaultKey keys[MAX_KEYS];
	unsigned char plain[1000];
	bool		same = true;

	keys_of(HEX_KEY, keys);
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (unsigned char) (i * 37 + i / 256);

	for (int encrypted = 0; encrypted < 2; encrypted++)
	{
		for (size_t len = 0; len <= sizeof(plain); len++)
		{
			size_t		sealed_len = cwh_vault_sealed_len(len, encrypted);
			unsigned char *sealed = malloc(sealed_len);
			unsigned char *opened = malloc(sealed_len);
			size_t		opened_len = 0;
			const char *problem;

			if (!cwh_vault_seal(encrypted ? &keys[0] : NULL, webhook, name,
								plain, len, sealed) ||
				cwh_vault_open(keys, 1, webhook, name, sealed, sealed_len,
							   opened, &opened_len,
							   &problem) != CWH_VAULT_OK ||
				opened_len != len || memcmp(opened, plain, len) != 0)
				same = false;
			free(sealed);
			free(opened);
		}
		ok(same, "secrets of 0 to 1000 bytes, %s, open again",
		   encrypted ? "encrypted" : "plain");
	}
}

/* Two sealed values of the same secret have nothing to compare. */
static void
test_nonce(void)
{
	static const RAND_METHOD no_random = {.bytes = NULL};
	const RAND_METHOD *usual = RAND_get_rand_method();
	static const unsigned char zeros[SEALED_LEN];
	CwhVaultKey keys[MAX_KEYS];
	unsigned char first[SEALED_LEN];
	unsigned char second[SEALED_LEN];

	keys_of(HEX_KEY, keys);
	ok(cwh_vault_seal(&keys[0], webhook, name, secret, SECRET_LEN, first) &&
	   cwh_vault_seal(&keys[0], webhook, name, secret, SECRET_LEN, second),
	   "a secret is sealed twice");
	ok(memcmp(first + NONCE_AT, second + NONCE_AT, NONCE_LEN) != 0,
	   "under two nonces");
	ok(memcmp(first + CIPHERTEXT_AT, second + CIPHERTEXT_AT, SECRET_LEN) != 0,
	   "to two ciphertexts");
	ok(memcmp(first, second, NONCE_AT) == 0,
	   "with the same version and key id");

	RAND_set_rand_method(&no_random);
	ok(!cwh_vault_seal(&keys[0], webhook, name, secret, SECRET_LEN, first),
	   "nothing is sealed without randomness");
	ok(memcmp(first, zeros, sizeof(zeros)) == 0, "nor handed out");
	ok(cwh_vault_seal(NULL, webhook, name, secret, SECRET_LEN, first),
	   "a plain value needs none");
	RAND_set_rand_method(usual);

	ok(cwh_vault_seal(&keys[0], webhook, name, secret, SECRET_LEN, first),
	   "with randomness again, a secret is sealed again");
	cwh_cleanse(first, sizeof(first));
	ok(memcmp(first, zeros, sizeof(zeros)) == 0, "cleansed memory is empty");
}

/* A value is of no use once it is damaged, or elsewhere. */
static void
test_damage(void)
{
	CwhVaultKey keys[MAX_KEYS];
	CwhVaultKey impostor;
	unsigned char sealed[SEALED_LEN + 1];
	unsigned char other_webhook[WEBHOOK_ID_LEN];
	bool		refused = true;
	bool		as_expected = true;

	keys_of(HEX_KEY "\n" OTHER_KEY, keys);
	cwh_vault_seal(&keys[0], webhook, name, secret, SECRET_LEN, sealed);
	ok(open_as(keys, 2, webhook, name, sealed, SEALED_LEN) == CWH_VAULT_OK,
	   "a sealed value opens");

	/* Version 0 is in clear by definition, and must not seem to be current. */
	for (size_t i = 0; i < SEALED_LEN; i++)
	{
		for (int c = 1; c < 256; c++)
		{
			CwhVaultResult want = i == 0 ? CWH_VAULT_MALFORMED :
				i < NONCE_AT ? CWH_VAULT_NO_KEY : CWH_VAULT_WRONG;
			CwhVaultResult got;

			sealed[i] ^= (unsigned char) c;
			got = open_as(keys, 2, webhook, name, sealed, SEALED_LEN);
			if (i == 0 && sealed[i] == VERSION_PLAIN)
			{
				if (cwh_vault_is_current(keys, 2, sealed, SEALED_LEN))
					refused = false;
			}
			else
			{
				if (got == CWH_VAULT_OK)
					refused = false;
				if (got != want)
					as_expected = false;
			}
			sealed[i] ^= (unsigned char) c;
		}
	}
	ok(refused, "no value with another byte opens");
	ok(as_expected, "and the reason is the right one");

	refused = true;
	for (size_t len = 0; len < SEALED_LEN; len++)
	{
		CwhVaultResult want = len < CWH_SEALED_OVERHEAD ?
			CWH_VAULT_MALFORMED : CWH_VAULT_WRONG;

		if (open_as(keys, 2, webhook, name, sealed, len) != want)
			refused = false;
	}
	ok(refused, "no value that is cut short opens");
	sealed[SEALED_LEN] = 0;
	ok(open_as(keys, 2, webhook, name, sealed, SEALED_LEN + 1) ==
	   CWH_VAULT_WRONG, "nor one with a byte more");
	ok(open_as(keys, 2, webhook, name, NULL, 0) == CWH_VAULT_MALFORMED,
	   "nor none at all");

	refused = true;
	for (int i = 0; i < WEBHOOK_ID_LEN * 8; i++)
	{
		memcpy(other_webhook, webhook, WEBHOOK_ID_LEN);
		other_webhook[i / 8] ^= (unsigned char) (1 << i % 8);
		if (open_as(keys, 2, other_webhook, name, sealed, SEALED_LEN) !=
			CWH_VAULT_WRONG)
			refused = false;
	}
	ok(refused, "moved to another webhook, it does not open");
	ok(open_as(keys, 2, webhook, "client_secret", sealed, SEALED_LEN) ==
	   CWH_VAULT_WRONG, "nor moved to another name");
	ok(open_as(keys, 2, webhook, "signing_secret2", sealed, SEALED_LEN) ==
	   CWH_VAULT_WRONG, "nor to a longer one");
	ok(open_as(keys, 2, webhook, "signing_secre", sealed, SEALED_LEN) ==
	   CWH_VAULT_WRONG, "nor to a shorter one");
	ok(open_as(keys, 2, webhook, "", sealed, SEALED_LEN) ==
	   CWH_VAULT_WRONG, "nor to none");

	/* A key id is only a name: another key under it opens nothing. */
	impostor = keys[1];
	memcpy(impostor.id, keys[0].id, KEY_ID_LEN);
	ok(open_as(&impostor, 1, webhook, name, sealed, SEALED_LEN) ==
	   CWH_VAULT_WRONG, "another key by the same id does not open it");

	cwh_vault_seal(&keys[0], webhook, "", secret, SECRET_LEN, sealed);
	ok(open_as(keys, 2, webhook, "", sealed, SEALED_LEN) == CWH_VAULT_OK,
	   "a value without a name opens without one");
	ok(open_as(keys, 2, webhook, name, sealed, SEALED_LEN) ==
	   CWH_VAULT_WRONG, "and not under one");
}

/* Old keys open, the first one seals, and unknown ones are said to be. */
static void
test_rotation(void)
{
	CwhVaultKey old[MAX_KEYS];
	CwhVaultKey both[MAX_KEYS];
	CwhVaultKey other[MAX_KEYS];
	unsigned char sealed[SEALED_LEN];
	unsigned char plain[SECRET_LEN + 1];
	unsigned char again[SEALED_LEN];

	keys_of(HEX_KEY, old);
	is_int(keys_of(OTHER_KEY "\n" HEX_KEY "\n", both), 2, "two keys");
	keys_of(THIRD_KEY, other);
	cwh_vault_seal(&old[0], webhook, name, secret, SECRET_LEN, sealed);
	cwh_vault_seal(&both[0], webhook, name, secret, SECRET_LEN, again);
	cwh_vault_seal(NULL, webhook, name, secret, SECRET_LEN, plain);

	ok(open_as(both, 2, webhook, name, sealed, SEALED_LEN) == CWH_VAULT_OK,
	   "an old key opens");
	ok(!cwh_vault_is_current(both, 2, sealed, SEALED_LEN),
	   "but what it opens is not current");
	ok(cwh_vault_is_current(old, 1, sealed, SEALED_LEN),
	   "as it was before");
	ok(cwh_vault_is_current(both, 2, again, SEALED_LEN),
	   "and as is what is sealed anew");
	ok(open_as(old, 1, webhook, name, again, SEALED_LEN) == CWH_VAULT_NO_KEY,
	   "which the old key alone does not open");
	ok(open_as(other, 1, webhook, name, sealed, SEALED_LEN) ==
	   CWH_VAULT_NO_KEY, "an unknown key is missing");
	ok(open_as(NULL, 0, webhook, name, sealed, SEALED_LEN) ==
	   CWH_VAULT_NO_KEY, "and so is any, without keys");
	ok(!cwh_vault_is_current(NULL, 0, sealed, SEALED_LEN),
	   "a sealed value is not current without keys");

	ok(open_as(NULL, 0, webhook, name, plain, sizeof(plain)) == CWH_VAULT_OK,
	   "a plain value opens without keys");
	ok(open_as(both, 2, webhook, name, plain, sizeof(plain)) == CWH_VAULT_OK,
	   "and with them");
	ok(cwh_vault_is_current(NULL, 0, plain, sizeof(plain)),
	   "it is current without keys");
	ok(!cwh_vault_is_current(both, 2, plain, sizeof(plain)),
	   "but not with them");

	ok(!cwh_vault_is_current(NULL, 0, "", 0) &&
	   !cwh_vault_is_current(both, 2, "", 0), "nothing is not current");
	ok(cwh_vault_is_current(NULL, 0, "", 1), "an empty plain value is");
	ok(!cwh_vault_is_current(NULL, 0, "\2secret", 7) &&
	   !cwh_vault_is_current(both, 2, "\2secret", 7),
	   "an unknown version is not");
	ok(!cwh_vault_is_current(both, 2, again, CWH_SEALED_OVERHEAD - 1),
	   "a value too short to open is not");
}

/* What a key file may hold. */
static void
test_parse_keys(void)
{
	static const char neither[] =
		"a line is neither 64 hexadecimal digits nor base64 of 32 bytes";
	static const struct
	{
		const char *name;
		const char *text;
		int			want;
		const char *problem;
	}			files[] = {
		{"hexadecimal", HEX_KEY, 1, NULL},
		{"with a newline", HEX_KEY "\n", 1, NULL},
		{"in upper case",
			"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
		1, NULL},
		{"base64", BASE64_KEY, 1, NULL},
		{"from another system", BASE64_KEY "\r\n" OTHER_KEY "\r\n", 2, NULL},
		{"with blanks", "  " BASE64_KEY "\t \n\t" THIRD_KEY " ", 2, NULL},
		{"with comments",
			"# of 2026\n" BASE64_KEY "\n\n  # of 2025\n" OTHER_KEY "\n#", 2,
		NULL},
		{"as many as fit",
			HEX_KEY "\n" OTHER_KEY "\n" THIRD_KEY "\n"
		"4444444444444444444444444444444444444444444444444444444444444444",
		4, NULL},
		{"one more",
			HEX_KEY "\n" OTHER_KEY "\n" THIRD_KEY "\n"
			"4444444444444444444444444444444444444444444444444444444444444444\n"
		"5555555555555555555555555555555555555555555555555555555555555555",
		-1, "there are too many keys"},
		{"empty", "", -1, "there is no key"},
		{"blank", "\r\n \n\t\n", -1, "there is no key"},
		{"only comments", "# " HEX_KEY "\n#" BASE64_KEY, -1,
		"there is no key"},
		{"twice the same", HEX_KEY "\n" OTHER_KEY "\n" HEX_KEY, -1,
		"a key is listed twice"},
		{"the same in two ways", HEX_KEY "\n" BASE64_KEY, -1,
		"a key is listed twice"},
		{"a digit less", "00010203040506070809", -1, neither},
		{"a digit more", HEX_KEY "0", -1, neither},
		{"not a digit",
			"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1g",
		-1, neither},
		{"two on a line", BASE64_KEY " " OTHER_KEY, -1, neither},
		{"a comment behind", BASE64_KEY " # mine", -1, neither},
		{"with a name", "key=" BASE64_KEY, -1, neither},
		{"in quotes", "\"" BASE64_KEY "\"", -1, neither},
		{"without padding",
			"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", -1, neither},
		{"base64 of 31 bytes",
			"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==", -1, neither},
		{"base64 of 33 bytes",
			"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g", -1, neither},
		{"padded within",
			"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdH=8=", -1, neither},
		{"bits to spare that are not zero",
			"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=", -1, neither},
		{"another alphabet",
			"__ECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", -1, neither},
		{"an end within",
			"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxw-Hh8=", -1, neither},
		{"a passphrase", "correct horse battery staple", -1, neither},
		{"a byte order mark", "\xef\xbb\xbf" BASE64_KEY, -1, neither},
		{"the second is wrong", BASE64_KEY "\nx", -1, neither},
	};
	static const unsigned char zeros[sizeof(CwhVaultKey)];
	CwhVaultKey keys[MAX_KEYS];
	const char *problem;

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
	{
		size_t		len = strlen(files[i].text);
		char	   *copy = malloc(len + 1);

		/* Without the NUL, so that a sanitizer sees a byte too many. */
		memset(keys, 0, sizeof(keys));
		memcpy(copy + 1, files[i].text, len);
		is_int(cwh_vault_parse_keys(copy + 1, len, keys, MAX_KEYS, &problem),
			   files[i].want, files[i].name);
		is_str(problem, files[i].problem, "and its problem");
		if (files[i].want < 0)
			ok(memcmp(&keys[0], zeros, sizeof(zeros)) == 0,
			   "no key is left behind");
		free(copy);
	}

	is_int(cwh_vault_parse_keys(NULL, 0, keys, MAX_KEYS, &problem), -1,
		   "no file at all");
	is_int(cwh_vault_parse_keys(HEX_KEY "\n\0\n", 67, keys, MAX_KEYS,
								&problem), -1, "a NUL");
	is_int(cwh_vault_parse_keys(HEX_KEY, 64, keys, 0, &problem), -1,
		   "no room for any");

	keys_of(HEX_KEY "\n" OTHER_KEY, keys);
	ok(keys[0].key[0] == 0 && keys[0].key[31] == 31 &&
	   keys[1].key[0] == 0x22 && keys[1].key[31] == 0x22,
	   "the keys are in the order of the file");
	keys_of(BASE64_KEY, keys);
	ok(keys[0].key[0] == 0 && keys[0].key[31] == 31,
	   "and the same in base64");
}

/* Keys of all bytes are read the same in both ways. */
static void
test_key_forms(void)
{
	bool		same = true;

	for (int i = 0; i < 256; i++)
	{
		unsigned char bytes[KEY_LEN];
		char		hex[HEX_KEY_LEN + 1];
		char		base64[BASE64_KEY_LEN + 1];
		CwhVaultKey from_hex[MAX_KEYS];
		CwhVaultKey from_base64[MAX_KEYS];

		for (int j = 0; j < KEY_LEN; j++)
		{
			bytes[j] = (unsigned char) (i * (2 * j + 1) + j * j);
			sprintf(hex + 2 * j, "%02x", bytes[j]);
		}
		EVP_EncodeBlock((unsigned char *) base64, bytes, KEY_LEN);
		keys_of(hex, from_hex);
		keys_of(base64, from_base64);
		if (memcmp(from_hex[0].key, bytes, KEY_LEN) != 0 ||
			memcmp(&from_hex[0], &from_base64[0], sizeof(CwhVaultKey)) != 0)
			same = false;
	}
	ok(same, "256 keys are the same in hexadecimal and base64");
}

/* PostgreSQL's rule for ssl_key_file, for every owner, type, and mode. */
static void
test_check_file(void)
{
	enum
	{
		SERVER = 26, ANOTHER = 27, ROOT = 0
	};
	static const mode_t other_types[] = {S_IFDIR, S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK, S_IFLNK};
	struct stat status;
	int			wrong = 0;

	memset(&status, 0, sizeof(status));
	for (mode_t mode = 0; mode < 01000; mode++)
	{
		status.st_mode = S_IFREG | mode;
		status.st_uid = SERVER;
		wrong += (cwh_vault_check_file(&status, SERVER) == NULL) != ((mode & 0077) == 0);
		status.st_uid = ROOT;
		wrong += (cwh_vault_check_file(&status, SERVER) == NULL) != ((mode & 0037) == 0);
		status.st_uid = ANOTHER;
		wrong += cwh_vault_check_file(&status, SERVER) == NULL;
	}
	ok(wrong == 0, "owner and mode of a file: as for ssl_key_file");

	status.st_uid = SERVER;
	wrong = 0;
	for (size_t i = 0; i < sizeof(other_types) / sizeof(other_types[0]); i++)
	{
		status.st_mode = other_types[i] | 0600;
		wrong += cwh_vault_check_file(&status, SERVER) == NULL;
	}
	ok(wrong == 0, "only a regular file can be one");

	status.st_uid = ROOT;
	status.st_mode = S_IFREG | 0644;
	ok(strstr(cwh_vault_check_file(&status, SERVER), "must be 0640") != NULL,
	   "the limit that is told is that of the owner");
	status.st_uid = ANOTHER;
	status.st_mode = S_IFREG | 0600;
	ok(strstr(cwh_vault_check_file(&status, SERVER), "owner") != NULL,
	   "a wrong owner is named");
}

int
main(void)
{
	test_gcm_vector();
	test_format();
	test_round_trip();
	test_nonce();
	test_damage();
	test_rotation();
	test_parse_keys();
	test_key_forms();
	test_check_file();

	return done_testing();
}
