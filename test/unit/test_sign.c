/*
 * test_sign.c
 *		Signatures against vectors of others, and against malformed input.
 *
 * Only here are keys of every length, a failing random source and sweeps of
 * damaged signatures to be had; that requests carry the signatures is for the
 * tests with a receiver to show.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/sign.c"

#include <stdlib.h>

#include "tap.h"

/* The secret of the published vectors. */
static const char published[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/*
 * Create the signer of a key.  There is either a signer or a problem.
 */
static CwhSigner *
create(const char *key, size_t len)
{
	const char *problem = "left as it was";
	CwhSigner  *signer = cwh_signer_create(key, len, &problem);

	if ((signer == NULL) == (problem == NULL))
		ok(false, "either a signer or a problem: %.*s", (int) len,
		   key ? key : "null");
	return signer;
}

/* The same for a key that ends in a NUL. */
static CwhSigner *
signer_of(const char *key)
{
	return create(key, strlen(key));
}

/* Why there is no signer of a key; NULL if there is one. */
static const char *
problem_of(const char *key, size_t len)
{
	const char *problem = "left as it was";

	cwh_signer_destroy(cwh_signer_create(key, len, &problem));
	return problem;
}

/* Verify a message with a public key, if that is one. */
static bool
verify_with(const char *public_key, const char *id, const char *timestamp,
			const char *signatures, const void *body, size_t len,
			int64_t now, int64_t tolerance)
{
	CwhSigner  *signer = signer_of(public_key);
	bool		verified = signer != NULL &&
		cwh_verify_message(signer, id, timestamp, signatures, body, len,
						   now, tolerance);

	cwh_signer_destroy(signer);
	return verified;
}

/* The vectors of RFC 4231, by the body signature of their keys. */
static void
test_rfc4231(void)
{
	static const struct
	{
		const char *name;
		const char *key;		/* written out, or one byte repeated */
		size_t		keylen;
		const char *data;
		size_t		len;
		const char *want;
	}			vectors[] = {
		{
			"RFC 4231 case 1", "\x0b", 20, "Hi There", 8,
			"sha256=b0344c61d8db38535ca8afceaf0bf12b"
			"881dc200c9833da726e9376c2e32cff7"
		},
		{
			"RFC 4231 case 2", "Jefe", 4, "what do ya want for nothing?", 28,
			"sha256=5bdcc146bf60754e6a042426089575c7"
			"5a003f089d2739839dec58b964ec3843"
		},
		{
			"RFC 4231 case 3", "\xaa", 20, "\xdd", 50,
			"sha256=773ea91e36800e46854db8ebd09181a7"
			"2959098b3ef8c122d9635514ced565fe"
		},
		{
			"RFC 4231 case 4",
			"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"
			"\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19",
			25, "\xcd", 50,
			"sha256=82558a389a443c0ea4cc819899f2083a"
			"85f0faa3e578f8077a2e3ff46729665b"
		},
		{
			"RFC 4231 case 6, a key longer than a block", "\xaa", 131,
			"Test Using Larger Than Block-Size Key - Hash Key First", 54,
			"sha256=60e431591ee0b67f0d8a26aacbf5b77f"
			"8e0bc6213728c5140546040f0ee37f54"
		},
		{
			"RFC 4231 case 7, key and data longer than a block", "\xaa", 131,
			"This is a test using a larger than block-size key and a larger "
			"than block-size data. The key needs to be hashed before being "
			"used by the HMAC algorithm.", 152,
			"sha256=9b09ffa71b942fcb27635fbcd5b0e944"
			"bfdc63644f0713938a7f51535c3a35e2"
		},
	};

	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
	{
		char		key[256];
		char		data[256];
		char		got[CWH_BODY_SIGNATURE_LEN + 1];
		CwhSigner  *signer;

		/* A string of one byte is repeated to the length. */
		if (vectors[i].key[1] == '\0')
			memset(key, vectors[i].key[0], vectors[i].keylen);
		else
			memcpy(key, vectors[i].key, vectors[i].keylen);
		if (vectors[i].data[1] == '\0')
			memset(data, vectors[i].data[0], vectors[i].len);
		else
			memcpy(data, vectors[i].data, vectors[i].len);

		signer = create(key, vectors[i].keylen);
		cwh_sign_body(signer, data, vectors[i].len, got);
		is_str(got, vectors[i].want, vectors[i].name);
		ok(cwh_verify_body(signer, data, vectors[i].len, got),
		   "%s verifies", vectors[i].name);
		cwh_signer_destroy(signer);
	}
}

/* The vector of the specification's libraries, and one made with them. */
static void
test_published(void)
{
	static const struct
	{
		const char *id;
		int64_t		timestamp;
		const char *timestamp_text;
		const char *body;
		const char *standard;
		const char *plain;
	}			vectors[] = {
		{
			"msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "1614265330",
			"{\"test\": 2432232314}",
			"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
			"sha256=80ec8a89ce3cd22133a1066caecb4d04"
			"fea7467657c8514d717ec42c38a5c94c"
		},
		{
			"evt_00000000000000000000000001", 1767323045, "1767323045",
			"{\"type\":\"lead.captured\","
			"\"timestamp\":\"2026-01-02T03:04:05.678Z\","
			"\"data\":{\"name\":\"Zo\xc3\xab \xf0\x9f\x98\x80\"}}",
			"v1,ZxHswhL9DhqV0FYJHehXikuewRiv4KVXpQyIZYSGXHM=",
			"sha256=20146a5d2986444f284b4fc58ab2319c"
			"87002c04a7a2ef225d2134ffb000cbcb"
		},
	};
	CwhSigner  *signer = signer_of(published);
	char		standard[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char		plain[CWH_BODY_SIGNATURE_LEN + 1];

	ok(signer != NULL, "the published secret makes a signer");

	/* Twice, since a signer goes on to the next message. */
	for (int round = 0; round < 2; round++)
	{
		for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
		{
			size_t		len = strlen(vectors[i].body);

			ok(cwh_sign_message(signer, vectors[i].id, vectors[i].timestamp,
								vectors[i].body, len, standard),
			   "%s is signed", vectors[i].id);
			is_str(standard, vectors[i].standard, "as the standard wants it");
			ok(cwh_sign_body(signer, vectors[i].body, len, plain),
			   "its body is signed");
			is_str(plain, vectors[i].plain, "with the whole secret as the key");
			ok(cwh_verify_message(signer, vectors[i].id,
								  vectors[i].timestamp_text, standard,
								  vectors[i].body, len,
								  vectors[i].timestamp, 300),
			   "its standard signature verifies");
			ok(cwh_verify_body(signer, vectors[i].body, len, plain),
			   "its body signature verifies");
		}
	}

	ok(cwh_sign_body(signer, NULL, 0, plain), "an empty body is signed");
	is_str(plain,
		   "sha256=da5f5865984e699a69cfec62ce49a76d"
		   "af8ae4601b54a781fa13f3b2d3b2088a", "as it should be");
	ok(cwh_sign_message(signer, "a", -5, NULL, 0, standard),
	   "a time before 1970 is signed");
	is_str(standard, "v1,qPUugaOzPEKNU4/KIwbkFPxRhsFa8vSR7sx7fIKlGio=",
		   "as it should be");
	ok(cwh_sign_message(signer, "a", INT64_MIN, "", 0, standard) &&
	   strlen(standard) == HMAC_SIGNATURE_LEN,
	   "the longest timestamp is signed");

	cwh_signer_destroy(signer);
}

/* A secret without the prefix is the key of both schemes. */
static void
test_plain_secret(void)
{
	CwhSigner  *signer = signer_of("a plain secret of mine");
	char		got[CWH_MESSAGE_SIGNATURE_LEN + 1];

	cwh_sign_message(signer, "evt_1", 1700000000, "{}", 2, got);
	is_str(got, "v1,40nnjBN9SBzT17pfKCA08IciCEY4f4UteDgfPvV55TM=",
		   "a secret without the prefix is the standard scheme's key too");
	cwh_signer_destroy(signer);
}

/*
 * Keys of every length and every byte: under "whsec_" and OpenSSL's base64 of
 * a key, the signature is the same as under the key itself.
 */
static void
test_base64_keys(void)
{
	bool		all_same = true;
	unsigned char key[200];

	for (int i = 0; i < 200; i++)
		key[i] = (unsigned char) (i * 37 + 129);

	for (int len = 1; len <= 200; len++)
	{
		char		secret[300];
		char		encoded[CWH_MESSAGE_SIGNATURE_LEN + 1];
		char		raw[CWH_MESSAGE_SIGNATURE_LEN + 1];
		CwhSigner  *signer;

		memcpy(secret, "whsec_", 6);
		EVP_EncodeBlock((unsigned char *) secret + 6, key, len);

		signer = signer_of(secret);
		if (signer == NULL ||
			!cwh_sign_message(signer, "m", 1, "x", 1, encoded))
			encoded[0] = '\0';
		cwh_signer_destroy(signer);

		signer = create((const char *) key, (size_t) len);
		cwh_sign_message(signer, "m", 1, "x", 1, raw);
		cwh_signer_destroy(signer);

		if (strcmp(encoded, raw) != 0)
			all_same = false;
	}

	ok(all_same, "keys of 1 to 200 bytes are decoded from their base64");
}

/* What is refused as a secret, and why. */
static void
test_secret_problem(void)
{
	char		long_secret[300];
	char		whsec[6 + 88];

	is_str(cwh_secret_problem(published, strlen(published)), NULL,
		   "the published secret has no problem");
	is_str(cwh_secret_problem("", 0), "secret is empty", "empty");
	is_str(cwh_secret_problem(NULL, 0), "secret is empty", "none at all");

	is_str(cwh_secret_problem("fifteen letters", 15),
		   "secret is shorter than 16 characters", "15 characters");
	is_str(cwh_secret_problem("sixteen letters!", 16), NULL, "16 characters");
	memset(long_secret, 'x', sizeof(long_secret));
	is_str(cwh_secret_problem(long_secret, 256), NULL, "256 characters");
	is_str(cwh_secret_problem(long_secret, 257),
		   "secret is longer than 256 characters", "257 characters");

	is_str(cwh_secret_problem("sixteen\nletters!", 16),
		   "secret has characters other than printable ASCII", "a newline");
	is_str(cwh_secret_problem("sixteen\0letters!", 16),
		   "secret has characters other than printable ASCII", "a NUL");
	is_str(cwh_secret_problem("sixteen\x7fletters!", 16),
		   "secret has characters other than printable ASCII", "a DEL");
	is_str(cwh_secret_problem("sixt\xc3\xa9""en letters", 16),
		   "secret has characters other than printable ASCII",
		   "an accented letter");

	is_str(cwh_secret_problem("whsec_", 6),
		   "secret decodes to fewer than 24 bytes", "the prefix alone");
	is_str(cwh_secret_problem("whsec_not base64 at all, is it?!", 32),
		   "secret is not base64 behind \"whsec_\"", "not base64");
	is_str(cwh_secret_problem(published, strlen(published) - 1),
		   "secret is not base64 behind \"whsec_\"", "a letter lost");
	is_str(cwh_secret_problem("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa==", 38),
		   "secret decodes to fewer than 24 bytes", "22 bytes");
	is_str(cwh_secret_problem("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS=", 38),
		   "secret decodes to fewer than 24 bytes", "23 bytes");

	memcpy(whsec, "whsec_", 6);
	memset(whsec + 6, 'A', 88);
	memcpy(whsec + 6 + 86, "==", 2);
	is_str(cwh_secret_problem(whsec, 6 + 88), NULL, "64 bytes");
	whsec[6 + 86] = 'A';
	is_str(cwh_secret_problem(whsec, 6 + 88),
		   "secret decodes to more than 64 bytes", "65 bytes");
}

/* Only base64 with its own alphabet and padding makes a standard key. */
static void
test_malformed_secret(void)
{
	static const char *const malformed[] = {
		"whsec_", "whsec_A", "whsec_AA", "whsec_AAA", "whsec_=", "whsec_====",
		"whsec_A===", "whsec_AA=A", "whsec_AA==AA==", "whsec_AAAA====",
		"whsec_AAA=AAAA", "whsec_AA-_", "whsec_AAA ", "whsec_AAA\n",
		"whsec_ AAAA", "whsec_AAAAA=", "whsec_whsec_AA", NULL
	};
	char		secret[] = "whsec_AAAA";
	int			accepted = 0;

	for (int i = 0; malformed[i] != NULL; i++)
		ok(signer_of(malformed[i]) == NULL, "no signer of malformed secret %d",
		   i + 1);
	ok(create("", 0) == NULL, "no signer of an empty secret");
	ok(create(NULL, 0) == NULL, "no signer of none at all");

	for (int c = 0; c < 256; c++)
	{
		CwhSigner  *signer;

		secret[7] = (char) c;
		signer = create(secret, sizeof(secret) - 1);
		if (signer != NULL)
			accepted++;
		cwh_signer_destroy(signer);
	}
	is_int(accepted, 64, "64 bytes are digits of base64");

	cwh_signer_destroy(NULL);
	ok(true, "destroying no signer does nothing");
}

/* A method of OpenSSL's random source: there is none. */
static int
no_random_bytes(unsigned char *buf, int num)
{
	(void) buf;
	(void) num;
	return 0;
}

/* New secrets are as they should be, and none comes without randomness. */
static void
test_generate(void)
{
	static const RAND_METHOD no_random = {.bytes = no_random_bytes};
	const RAND_METHOD *usual = RAND_get_rand_method();
	char		first[CWH_SECRET_LEN + 1];
	char		second[CWH_SECRET_LEN + 1];

	ok(cwh_secret_generate(false, first), "a secret is generated");
	ok(cwh_secret_generate(false, second), "and another");
	ok(strcmp(first, second) != 0, "they differ");
	is_int((long long) strlen(first), 50, "its length");
	ok(strncmp(first, "whsec_", 6) == 0, "its prefix");
	is_str(cwh_secret_problem(first, strlen(first)), NULL, "it is usable");
	is_int(base64_decoded_len(first + 6, strlen(first) - 6), 32,
		   "it has 32 bytes");

	RAND_set_rand_method(&no_random);
	ok(!cwh_secret_generate(false, second), "none without randomness");
	is_str(second, "", "and nothing is handed out");
	RAND_set_rand_method(usual);
}

/* What verifies as a body's signature, and what does not. */
static void
test_verify_body(void)
{
	static const char body[] = "{\"test\": 2432232314}";
	const size_t len = sizeof(body) - 1;
	CwhSigner  *signer = signer_of(published);
	CwhSigner  *other = signer_of("a plain secret of mine");
	char		good[CWH_BODY_SIGNATURE_LEN + 1];
	char		text[CWH_BODY_SIGNATURE_LEN + 2];
	bool		refused = true;

	cwh_sign_body(signer, body, len, good);

	strcpy(text, good);
	for (size_t i = PREFIX_LEN(BODY_PREFIX); i < CWH_BODY_SIGNATURE_LEN; i++)
	{
		if (text[i] >= 'a' && text[i] <= 'f')
			text[i] -= 'a' - 'A';
	}
	ok(strcmp(text, good) != 0 && cwh_verify_body(signer, body, len, text),
	   "upper-case digits verify");

	ok(!cwh_verify_body(other, body, len, good), "another secret does not");
	ok(!cwh_verify_body(signer, body, len - 1, good),
	   "a shorter body does not");
	ok(!cwh_verify_body(signer, "{\"test\": 2432232315}", len, good),
	   "another body does not");
	ok(!cwh_verify_body(signer, body, len, NULL), "no signature does not");
	ok(!cwh_verify_body(signer, body, len, ""), "an empty one does not");
	ok(!cwh_verify_body(signer, body, len, "sha256="), "a prefix does not");
	ok(!cwh_verify_body(signer, body, len, good + PREFIX_LEN(BODY_PREFIX)),
	   "digits without the prefix do not");

	strcpy(text, good);
	memcpy(text, "SHA256=", PREFIX_LEN(BODY_PREFIX));
	ok(!cwh_verify_body(signer, body, len, text), "another prefix does not");
	strcpy(text, good);
	text[CWH_BODY_SIGNATURE_LEN - 1] = '\0';
	ok(!cwh_verify_body(signer, body, len, text), "a digit less does not");
	strcpy(text, good);
	strcat(text, "0");
	ok(!cwh_verify_body(signer, body, len, text), "a digit more does not");

	/* Any other byte anywhere, save a letter in its other case */
	for (int i = 0; i < CWH_BODY_SIGNATURE_LEN; i++)
	{
		for (int c = 1; c < 256; c++)
		{
			if ((char) c == good[i] ||
				((size_t) i >= PREFIX_LEN(BODY_PREFIX) && good[i] >= 'a' &&
				 c == good[i] - ('a' - 'A')))
				continue;
			strcpy(text, good);
			text[i] = (char) c;
			if (cwh_verify_body(signer, body, len, text))
				refused = false;
		}
	}
	ok(refused, "no signature with another byte does");
	ok(cwh_verify_body(signer, body, len, good),
	   "and the right one still does");

	cwh_signer_destroy(signer);
	cwh_signer_destroy(other);
}

/* What verifies as a standard signature, and what does not. */
static void
test_verify_standard(void)
{
	static const char id[] = "msg_p5jXN8AQM9LWM0D4loKWxJek";
	static const char body[] = "{\"test\": 2432232314}";
	const size_t len = sizeof(body) - 1;
	static const char good[] =
		"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
	static const char other[] =
		"v1,ZxHswhL9DhqV0FYJHehXikuewRiv4KVXpQyIZYSGXHM=";
	static const char sent_at[] = "1614265330";
	const int64_t now = 1614265330;
	static const struct
	{
		const char *name;
		const char *format;		/* %s is the right signature */
		bool		verifies;
	}			lists[] = {
		{"the signature alone", "%s", true},
		{"first of two", "%s v1,AAAA", true},
		{"last of two", "v1,ZxHswhL9DhqV0FYJHehXikuewRiv4KVXpQyIZYSGXHM= %s",
		true},
		{"behind unknown versions", "v1a,c2lnbmVk v2,x v99 nonsense %s", true},
		{"among many spaces", "   %s   ", true},
		{"none", "", false},
		{"only spaces", "   ", false},
		{"the version alone", "v1,", false},
		{"as version 2", "v2,%.0sg0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		false},
		{"as the asymmetric version",
			"v1a,%.0sg0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", false},
		{"without a version",
			"%.0sg0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", false},
		{"version in upper case",
			"V1,%.0sg0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", false},
		{"separated by a comma", "%s,v1,AAAA", false},
		{"separated by a tab", "v1,AAAA\t%s", false},
		{"with more behind it", "%s=", false},
		{"cut short", "%.46s", false},
	};
	static const char *const timestamps[] = {
		"", " ", "x", "-", "-1614265330", "+1614265330", " 1614265330",
		"1614265330 ", "1614265330.0", "1614265330x", "0x6037bd32",
		"1.614265330e9", "16142653300", "1", "9223372036854775807",
		"9223372036854775808", "18446744075323817154",
		"99999999999999999999999999999999999999999999999999", NULL
	};
	CwhSigner  *signer = signer_of(published);
	CwhSigner  *stranger = signer_of("a plain secret of mine");
	bool		refused = true;

#define VERIFY(id, sent_at, signatures, now, tolerance) \
	cwh_verify_message(signer, id, sent_at, signatures, body, len, \
					   now, tolerance)

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
	{
		char		list[256];

		snprintf(list, sizeof(list), lists[i].format, good);
		ok(VERIFY(id, sent_at, list, now, 300) == lists[i].verifies,
		   "signatures: %s", lists[i].name);
	}

	for (int i = 0; timestamps[i] != NULL; i++)
		ok(!VERIFY(id, timestamps[i], good, now, 300),
		   "not at the time \"%s\"", timestamps[i]);

	ok(VERIFY(id, sent_at, good, now + 300, 300), "as old as may be");
	ok(!VERIFY(id, sent_at, good, now + 301, 300), "too old");
	ok(VERIFY(id, sent_at, good, now - 300, 300), "as early as may be");
	ok(!VERIFY(id, sent_at, good, now - 301, 300), "too early");
	ok(VERIFY(id, sent_at, good, now, 0), "no tolerance, on the second");
	ok(!VERIFY(id, sent_at, good, now + 1, 0), "no tolerance, a second off");
	ok(!VERIFY(id, sent_at, good, now, -1), "a tolerance below nothing");
	ok(!VERIFY(id, sent_at, good, now, INT64_MIN), "the least tolerance");
	ok(VERIFY(id, sent_at, good, 0, INT64_MAX), "the largest tolerance");
	ok(!VERIFY(id, sent_at, good, INT64_MIN, INT64_MAX),
	   "further off than the largest tolerance");
	ok(!VERIFY(id, sent_at, good, INT64_MAX, 300), "at the end of time");
	ok(!VERIFY(id, "9223372036854775807", good, INT64_MIN, INT64_MAX),
	   "from one end of time to the other");

	ok(!VERIFY("msg_other", sent_at, good, now, 300), "another id");
	ok(!VERIFY("", sent_at, good, now, 300), "an empty id");
	ok(!VERIFY(id, "1614265331", good, now, 300), "another time");
	ok(!VERIFY(id, sent_at, other, now, 300), "another message's signature");
	ok(!VERIFY(NULL, sent_at, good, now, 300), "no id");
	ok(!VERIFY(id, NULL, good, now, 300), "no time");
	ok(!VERIFY(id, sent_at, NULL, now, 300), "no signature");
	ok(!cwh_verify_message(signer, id, sent_at, good, body, len - 1,
						   now, 300), "a shorter body");
	ok(!cwh_verify_message(stranger, id, sent_at, good, body, len,
						   now, 300), "another secret");

	for (size_t i = 0; i < sizeof(good) - 1; i++)
	{
		for (int c = 1; c < 256; c++)
		{
			char		text[sizeof(good)];

			if ((char) c == good[i])
				continue;
			strcpy(text, good);
			text[i] = (char) c;
			if (VERIFY(id, sent_at, text, now, 300))
				refused = false;
		}
	}
	ok(refused, "no signature with another byte verifies");
	ok(VERIFY(id, sent_at, good, now, 300), "and the right one still does");

#undef VERIFY

	cwh_signer_destroy(signer);
	cwh_signer_destroy(stranger);
}

/* The key pair and the signature that Standard Webhooks' own text shows. */
static const char pair_secret[] =
	"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfV"
	"KIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
static const char seed_secret[] =
	"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
static const char pair_public[] =
	"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
static const char pair_signature[] =
	"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5B"
	"dqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

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

/* The vectors of RFC 8032, section 7.1, which sign bare messages. */
static void
test_rfc8032(void)
{
	static const struct
	{
		const char *name;
		const char *seed;
		const char *public_key;
		const char *message;
		const char *signature;
	}			vectors[] = {
		{
			"RFC 8032 test 1",
			"9d61b19deffd5a60ba844af492ec2cc4"
			"4449c5697b326919703bac031cae7f60",
			"d75a980182b10ab7d54bfed3c964073a"
			"0ee172f3daa62325af021a68f707511a",
			"",
			"e5564300c360ac729086e2cc806e828a"
			"84877f1eb8e5d974d873e06522490155"
			"5fb8821590a33bacc61e39701cf9b46b"
			"d25bf5f0595bbe24655141438e7a100b"
		},
		{
			"RFC 8032 test 2",
			"4ccd089b28ff96da9db6c346ec114e0f"
			"5b8a319f35aba624da8cf6ed4fb8a6fb",
			"3d4017c3e843895a92b70aa74d1b7ebc"
			"9c982ccf2ec4968cc0cd55f12af4660c",
			"72",
			"92a009a9f0d4cab8720e820b5f642540"
			"a2b27b5416503f8fb3762223ebdb69da"
			"085ac1e43e15996e458f3613d0f11d8c"
			"387b2eaeb4302aeeb00d291612bb0c00"
		},
		{
			"RFC 8032 test 3",
			"c5aa8df43f9f837bedb7442f31dcb7b1"
			"66d38535076f094b85ce3a2e0b4458f7",
			"fc51cd8e6218a1a38da47ed00230f058"
			"0816ed13ba3303ac5deb911548908025",
			"af82",
			"6291d657deec24024827e69c3abe01a3"
			"0ce548a284743a445e3680d7db5ac3ac"
			"18ff9b538d16f290ae67f760984dc659"
			"4a7c15e9716ed28dc027beceea1ec40a"
		},
		{
			"RFC 8032 test SHA(abc)",
			"833fe62409237b9d62ec77587520911e"
			"9a759cec1d19755b7da901b96dca3d42",
			"ec172b93ad5e563bf4932c70e1245034"
			"c35467ef2efd4d64ebf819683467e2bf",
			"ddaf35a193617abacc417349ae204131"
			"12e6fa4e89a97ea20a9eeee64b55d39a"
			"2192992a274fc1a836ba3c23a3feebbd"
			"454d4423643ce80e2a9ac94fa54ca49f",
			"dc2a4459e7369633a52b1bf277839a00"
			"201009a3efbf3ecb69bea2186c26b589"
			"09351fc9ac90b3ecfdfbc7c66431e030"
			"3dca179c138ac17ad9bef1177331a704"
		},
	};

	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
	{
		unsigned char pair[PAIR_LEN];
		unsigned char message[64];
		unsigned char want[ED25519_LEN];
		unsigned char got[ED25519_LEN];
		char		secret[CWH_SECRET_LEN + 1];
		char		public_key[CWH_PUBLIC_KEY_LEN + 1];
		char		entry[CWH_MESSAGE_SIGNATURE_LEN + 1];
		size_t		len = unhex(vectors[i].message, message);
		Content		content = {message, len, len};
		CwhSigner  *signer;
		CwhSigner  *verifier;

		unhex(vectors[i].seed, pair);
		unhex(vectors[i].public_key, pair + SEED_LEN);
		unhex(vectors[i].signature, want);
		write_prefixed(secret, "whsk_", pair, PAIR_LEN);
		write_prefixed(public_key, "whpk_", pair + SEED_LEN, PUBLIC_LEN);
		write_prefixed(entry, "v1a,", want, ED25519_LEN);

		/* The signer refuses a pair whose halves do not match. */
		signer = signer_of(secret);
		ok(signer != NULL, "%s makes a signer", vectors[i].name);
		ok(signer != NULL && ed25519_sign(signer, message, len, got) &&
		   memcmp(got, want, ED25519_LEN) == 0, "it signs");
		verifier = signer_of(public_key);
		ok(verifier != NULL && ed25519_verify_entry(verifier, &content, entry),
		   "its signature verifies");
		ok(signer != NULL && ed25519_verify_entry(signer, &content, entry),
		   "with the private key as well");
		entry[10]++;
		ok(!ed25519_verify_entry(verifier, &content, entry),
		   "and another does not");

		cwh_signer_destroy(verifier);
		cwh_signer_destroy(signer);
	}
}

/* The specification's signature, and some made with Node's crypto. */
static void
test_asymmetric(void)
{
	static const struct
	{
		const char *id;
		int64_t		timestamp;
		const char *timestamp_text;
		const char *body;
		const char *want;
	}			vectors[] = {
		{
			"msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "1614265330",
			"{\"test\": 2432232314}", pair_signature
		},
		{
			"evt_00000000000000000000000001", 1767323045, "1767323045",
			"{\"type\":\"lead.captured\","
			"\"timestamp\":\"2026-01-02T03:04:05.678Z\","
			"\"data\":{\"name\":\"Zo\xc3\xab \xf0\x9f\x98\x80\"}}",
			"v1a,b6HNRtZV2iNS3/u6+1U+UzK7zlCdvxdjFtfDJ9cougyF"
			"ymVZcWaU0FcjRaG8DtOTO5MtHE2SQa8zPjZSN/H8BA=="
		},
	};
	static char large[200000];
	static const char *const secrets[] = {pair_secret, seed_secret};
	char		got[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char		public_key[CWH_PUBLIC_KEY_LEN + 1];

	memset(large, 'x', sizeof(large));

	for (int form = 0; form < 2; form++)
	{
		const char *secret = secrets[form];
		CwhSigner  *signer = signer_of(secret);

		is_str(cwh_secret_problem(secret, strlen(secret)), NULL,
			   form == 0 ? "a secret of both halves" : "a secret of the seed");
		ok(signer != NULL && signer->ed25519 != NULL &&
		   !signer->verifies_only,
		   "makes an asymmetric signer");
		ok(cwh_public_key(secret, strlen(secret), public_key),
		   "has a public key");
		is_str(public_key, pair_public, "which is the right one");

		/* Back and forth, since a signer goes on to the next message. */
		for (int round = 0; round < 2; round++)
		{
			for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
			{
				size_t		len = strlen(vectors[i].body);

				ok(cwh_sign_message(signer, vectors[i].id,
									vectors[i].timestamp,
									vectors[i].body, len, got),
				   "%s is signed", vectors[i].id);
				is_str(got, vectors[i].want, "as the standard wants it");
				ok(verify_with(public_key, vectors[i].id,
							   vectors[i].timestamp_text, got,
							   vectors[i].body, len,
							   vectors[i].timestamp, 300),
				   "its signature verifies");
			}

			ok(cwh_sign_message(signer, "b", 1, large, sizeof(large), got),
			   "a large body is signed");
			is_str(got, "v1a,yTSvcXJOeyFODXTjKK2I8+mNCdOE+/NLZTSeK/Kbo3Iw"
				   "W8D0geyDZWWI1U5MG4j27/EzNLEihugPSA8rkTKmBA==",
				   "as it should be");
			is_int((long long) signer->content.cap, 0,
				   "and its memory is given back");
			ok(cwh_verify_message(signer, "b", "1", got, large, sizeof(large),
								  1, 0) && signer->content.cap == 0,
			   "as it is after verifying");
		}

		ok(cwh_sign_message(signer, "a", -5, NULL, 0, got),
		   "an empty body, before 1970, is signed");
		is_str(got, "v1a,x1g8ATXgRZ+9tV8ZZUz2a0hWJN7VhG2kMmmyHThjWkFi"
			   "NYytlc3TvkP8j6J4Vrn9wGTQuT/tb55+6+hUDGsoDg==",
			   "as it should be");
		ok(cwh_sign_message(signer, "a", INT64_MIN, "", 0, got) &&
		   strlen(got) == ED25519_SIGNATURE_LEN,
		   "the longest timestamp is signed");
		ok(signer->content.cap > 0, "the memory for small messages is kept");

		cwh_signer_destroy(signer);
	}
}

/* What each kind of key signs and verifies, and what it does not. */
static void
test_kinds(void)
{
	static const char message[] = "{}";
	CwhSigner  *private_key = signer_of(pair_secret);
	CwhSigner  *public_key = signer_of(pair_public);
	CwhSigner  *secret = signer_of(published);
	char		body[CWH_BODY_SIGNATURE_LEN + 1] = "x";
	char		body_by_secret[CWH_BODY_SIGNATURE_LEN + 1] = "x";
	char		by_secret[CWH_MESSAGE_SIGNATURE_LEN + 1] = "x";
	char		by_private[CWH_MESSAGE_SIGNATURE_LEN + 1] = "x";
	char		by_public[CWH_MESSAGE_SIGNATURE_LEN + 1] = "x";
	char		both[2 * CWH_MESSAGE_SIGNATURE_LEN + 2];
	char		out[CWH_PUBLIC_KEY_LEN + 1] = "x";
	unsigned char digest[DIGEST_LEN];

	ok(secret && private_key && public_key, "there is a signer of each kind");
	ok(cwh_sign_message(secret, "a", 1, message, 2, by_secret) &&
	   strlen(by_secret) == HMAC_SIGNATURE_LEN &&
	   strncmp(by_secret, "v1,", 3) == 0, "a secret makes a v1 signature");
	ok(cwh_sign_message(private_key, "a", 1, message, 2, by_private) &&
	   strlen(by_private) == ED25519_SIGNATURE_LEN &&
	   strncmp(by_private, "v1a,", 4) == 0,
	   "a private key makes a v1a signature");
	ok(!cwh_sign_message(public_key, "a", 1, message, 2, by_public),
	   "a public key signs no message");
	is_str(by_public, "", "not even in part");

	ok(cwh_sign_body(secret, message, 2, body_by_secret) &&
	   strlen(body_by_secret) == CWH_BODY_SIGNATURE_LEN,
	   "a secret signs a body");
	ok(cwh_sign_body(private_key, message, 2, body),
	   "that a private key signs no body is no failure");
	is_str(body, "", "there is no signature");
	strcpy(body, "x");
	ok(!cwh_sign_body(public_key, message, 2, body),
	   "a public key signs no body");
	is_str(body, "", "not even in part");

#define VERIFY(signer, list) \
	cwh_verify_message(signer, "a", "1", list, message, 2, 1, 300)

	ok(VERIFY(secret, by_secret) && !VERIFY(secret, by_private),
	   "a secret verifies its own signatures only");
	ok(VERIFY(private_key, by_private) && !VERIFY(private_key, by_secret),
	   "and so does a private key");
	ok(VERIFY(public_key, by_private) && !VERIFY(public_key, by_secret),
	   "and a public key those of its private key");
	snprintf(both, sizeof(both), "%s %s", by_secret, by_private);
	ok(VERIFY(secret, both) && VERIFY(private_key, both) &&
	   VERIFY(public_key, both), "in a list of both, each finds its own");

	/* A private key's context goes back and forth between the two. */
	for (int round = 0; round < 3; round++)
		ok(cwh_sign_message(private_key, "a", 1, message, 2, by_secret) &&
		   strcmp(by_secret, by_private) == 0 &&
		   VERIFY(private_key, by_private),
		   "a private key signs and verifies in turn");

#undef VERIFY

	/* What the signature is, if the private key is taken for a secret. */
	HMAC(EVP_sha256(), pair_secret, (int) strlen(pair_secret),
		 (const unsigned char *) message, 2, digest, NULL);
	memcpy(body, "sha256=", PREFIX_LEN(BODY_PREFIX));
	for (int i = 0; i < DIGEST_LEN; i++)
		sprintf(body + PREFIX_LEN(BODY_PREFIX) + 2 * i, "%02x", digest[i]);
	ok(!cwh_verify_body(private_key, message, 2, body),
	   "a private key verifies no body");
	ok(cwh_verify_body(secret, message, 2, body_by_secret) &&
	   !cwh_verify_body(private_key, message, 2, body_by_secret) &&
	   !cwh_verify_body(public_key, message, 2, body_by_secret),
	   "only a secret verifies a body");
	memset(body, '\0', sizeof(body));
	ok(!cwh_verify_body(private_key, message, 2, body) &&
	   !cwh_verify_body(public_key, message, 2, body),
	   "and an empty signature is none");

	/* If a public key were taken for a secret, everyone could sign. */
	is_str(cwh_secret_problem(pair_public, strlen(pair_public)),
		   "secret is a public key", "a public key is no secret");
	ok(!cwh_public_key(published, strlen(published), out),
	   "a secret has no public key");
	is_str(out, "", "not even a part of one");
	strcpy(out, "x");
	ok(!cwh_public_key(pair_public, strlen(pair_public), out),
	   "nor has a public key");
	is_str(out, "", "not even a part of one");

	cwh_signer_destroy(private_key);
	cwh_signer_destroy(public_key);
	cwh_signer_destroy(secret);
}

/* Why there is no signer, in the words of cwh_secret_problem(). */
static void
test_signer_problem(void)
{
	static const struct
	{
		const char *key;
		const char *problem;	/* of the signer */
		const char *as_secret;	/* of the secret, if it is to be stored */
	}			keys[] = {
		{"", "secret is empty", "secret is empty"},
		{"x", NULL, "secret is shorter than 16 characters"},
		{"k\xc3\xa9y", NULL, "secret has characters other than printable ASCII"},
		{"whsec_AAAA", NULL, "secret decodes to fewer than 24 bytes"},
		{"whsec_", "secret decodes to fewer than 24 bytes",
		"secret decodes to fewer than 24 bytes"},
		{"whsec_?", "secret is not base64 behind \"whsec_\"",
		"secret is not base64 behind \"whsec_\""},
		{"whsec_\n", "secret has characters other than printable ASCII",
		"secret has characters other than printable ASCII"},
		{"whsk_AAAA", "secret is not base64 of 32 or 64 bytes behind \"whsk_\"",
		"secret is not base64 of 32 or 64 bytes behind \"whsk_\""},
		{"whsk_\n", "secret has characters other than printable ASCII",
		"secret has characters other than printable ASCII"},
		{"whpk_AAAA", "public key is not base64 of 32 bytes behind \"whpk_\"",
		"secret is a public key"},
		{pair_public, NULL, "secret is a public key"},
		{pair_secret, NULL, NULL},
		{published, NULL, NULL},
	};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
	{
		size_t		len = strlen(keys[i].key);

		is_str(problem_of(keys[i].key, len), keys[i].problem,
			   "the problem of a signer");
		is_str(cwh_secret_problem(keys[i].key, len), keys[i].as_secret,
			   "and of a secret that is to be stored");
	}
}

/* Asymmetric secrets are held to how they are written. */
static void
test_malformed_ed25519(void)
{
	static const char *const malformed[] = {
		"whsk_", "whsk_A", "whsk_AAAA", "whsk_====",
		/* 31, 33, 63 and 65 bytes */
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMQ==",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbcA",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfV"
		"KIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6K",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfV"
		"KIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6KvgA=",
		/* padding lost, a digit lost, blanks, another alphabet */
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMb=",
		"whsk_ 6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc= ",
		"whsk_6Xb_dCcHpPea21PS1N9VY_NZW723CEc77N4rJCubMbc=",
		/* bits to spare that are not zero */
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbd=",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfV"
		"KIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvh==",
		NULL
	};
	char		text[CWH_SECRET_LEN + 1];
	char		public_key[CWH_PUBLIC_KEY_LEN + 1];

	for (int i = 0; malformed[i] != NULL; i++)
	{
		size_t		len = strlen(malformed[i]);

		ok(signer_of(malformed[i]) == NULL,
		   "no signer of malformed asymmetric secret %d", i + 1);
		is_str(cwh_secret_problem(malformed[i], len),
			   "secret is not base64 of 32 or 64 bytes behind \"whsk_\"",
			   "and it says why");
		ok(!cwh_public_key(malformed[i], len, public_key),
		   "it has no public key");
	}

	/* A digit of either half is another. */
	for (int at = 10; at <= 60; at += 50)
	{
		strcpy(text, pair_secret);
		text[at] = text[at] == 'A' ? 'B' : 'A';
		ok(signer_of(text) == NULL,
		   "no signer of halves that do not belong together");
		is_str(cwh_secret_problem(text, strlen(text)),
			   "secret has a public key that is not its own",
			   "and it says why");
	}

	ok(cwh_secret_problem("whsk_\n", 6) != NULL, "a newline is a problem");
	ok(!cwh_public_key(NULL, 0, public_key), "none has no public key");
}

/* New asymmetric secrets are as they should be. */
static void
test_generate_ed25519(void)
{
	static const RAND_METHOD no_random = {.bytes = no_random_bytes};
	const RAND_METHOD *usual = RAND_get_rand_method();
	char		first[CWH_SECRET_LEN + 1];
	char		second[CWH_SECRET_LEN + 1];
	char		public_key[CWH_PUBLIC_KEY_LEN + 1];
	char		signature[CWH_MESSAGE_SIGNATURE_LEN + 1];
	CwhSigner  *signer;

	ok(cwh_secret_generate(true, first), "an asymmetric secret is generated");
	ok(cwh_secret_generate(true, second), "and another");
	ok(strcmp(first, second) != 0, "they differ");
	is_int((long long) strlen(first), CWH_SECRET_LEN, "its length");
	is_str(cwh_secret_problem(first, strlen(first)), NULL, "it is usable");
	ok(cwh_public_key(first, strlen(first), public_key),
	   "it has a public key");
	is_int((long long) strlen(public_key), CWH_PUBLIC_KEY_LEN,
		   "whose length is right");

	signer = signer_of(first);
	ok(cwh_sign_message(signer, "m", 100, "{}", 2, signature),
	   "it signs");
	ok(verify_with(public_key, "m", "100", signature, "{}", 2,
				   100, 0), "which verifies");
	ok(!verify_with(pair_public, "m", "100", signature, "{}", 2,
					100, 0), "but not under another public key");
	cwh_signer_destroy(signer);

	RAND_set_rand_method(&no_random);
	ok(!cwh_secret_generate(true, second), "none without randomness");
	is_str(second, "", "and nothing is handed out");
	RAND_set_rand_method(usual);
}

/* What verifies as an asymmetric signature, and what does not. */
static void
test_verify_asymmetric(void)
{
	static const char id[] = "msg_p5jXN8AQM9LWM0D4loKWxJek";
	static const char body[] = "{\"test\": 2432232314}";
	const size_t len = sizeof(body) - 1;
	static const char sent_at[] = "1614265330";
	const int64_t now = 1614265330;
	static const struct
	{
		const char *name;
		const char *format;		/* %s is the right signature */
		bool		verifies;
	}			lists[] = {
		{"the signature alone", "%s", true},
		{"first of two", "%s v1a,AAAA", true},
		{"behind a symmetric one",
			"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= %s", true},
		{"behind unknown versions", "v1,AAAA v2,x v99 nonsense %s", true},
		{"among many spaces", "   %s   ", true},
		{"none", "", false},
		{"only spaces", "   ", false},
		{"the version alone", "v1a,", false},
		{"version in upper case", "V1A,%.0s", false},
		{"separated by a comma", "%s,v1a,AAAA", false},
		{"separated by a tab", "v1a,AAAA\t%s", false},
		{"with more behind it", "%s=", false},
		{"cut short", "%.91s", false},
	};
	static const char *const public_keys[] = {
		"", "whpk_", "whpk_AAAA",
		"1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
		"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4",
		"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir5=",
		"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4= ",
		"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOig==",
		"whpk_2SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
		"whpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		"WHPK_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", NULL
	};
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char		list[2048];
	char		wrong[CWH_MESSAGE_SIGNATURE_LEN + 1];
	bool		refused = true;

#define VERIFY(id, sent_at, signatures, now, tolerance) \
	verify_with(pair_public, id, sent_at, signatures, body, len, \
				now, tolerance)

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
	{
		snprintf(list, sizeof(list), lists[i].format, pair_signature);
		ok(VERIFY(id, sent_at, list, now, 300) == lists[i].verifies,
		   "asymmetric signatures: %s", lists[i].name);
	}

	for (int i = 0; public_keys[i] != NULL; i++)
		ok(!verify_with(public_keys[i], id, sent_at, pair_signature,
						body, len, now, 300),
		   "not under the public key \"%s\"", public_keys[i]);

	/* The eighth of many is looked at, the ninth is not. */
	strcpy(wrong, pair_signature);
	wrong[20] = wrong[20] == 'A' ? 'B' : 'A';
	list[0] = '\0';
	for (int i = 0; i < MAX_TRIED - 1; i++)
		strcat(strcat(list, wrong), " v1,AAAA ");
	strcat(list, pair_signature);
	ok(VERIFY(id, sent_at, list, now, 300), "last of as many as are tried");
	memmove(list + strlen(wrong) + 1, list, strlen(list) + 1);
	memcpy(list, wrong, strlen(wrong));
	list[strlen(wrong)] = ' ';
	ok(!VERIFY(id, sent_at, list, now, 300), "behind as many as are tried");

	ok(VERIFY(id, sent_at, pair_signature, now + 300, 300),
	   "asymmetric, as old as may be");
	ok(!VERIFY(id, sent_at, pair_signature, now + 301, 300), "too old");
	ok(VERIFY(id, sent_at, pair_signature, now - 300, 300),
	   "as early as may be");
	ok(!VERIFY(id, sent_at, pair_signature, now - 301, 300), "too early");
	ok(!VERIFY(id, sent_at, pair_signature, now, -1),
	   "a tolerance below nothing");

	ok(!VERIFY("msg_other", sent_at, pair_signature, now, 300), "another id");
	ok(!VERIFY(id, "1614265331", pair_signature, now, 300), "another time");
	ok(!VERIFY(id, "1614265330x", pair_signature, now, 300),
	   "something that is no time");
	ok(!VERIFY(NULL, sent_at, pair_signature, now, 300), "no id");
	ok(!VERIFY(id, NULL, pair_signature, now, 300), "no time");
	ok(!VERIFY(id, sent_at, NULL, now, 300), "no signature");
	ok(!verify_with(pair_public, id, sent_at, pair_signature,
					body, len - 1, now, 300), "a shorter body");
	ok(!verify_with(pair_public, id, sent_at, pair_signature,
					"{\"test\": 2432232315}", len, now, 300),
	   "another body");

	/* Any other digit anywhere, so also other bits to spare in the last */
	for (size_t i = 0; i < sizeof(pair_signature) - 1; i++)
	{
		for (size_t c = 0; c < sizeof(digits); c++)
		{
			char		text[sizeof(pair_signature)];

			if (digits[c] == pair_signature[i])
				continue;
			strcpy(text, pair_signature);
			text[i] = digits[c];
			if (VERIFY(id, sent_at, text, now, 300))
				refused = false;
		}
	}
	ok(refused, "no signature with another digit verifies");
	ok(VERIFY(id, sent_at, pair_signature, now, 300),
	   "and the right one still does");

#undef VERIFY
}

/* Nonsense of all lengths neither verifies nor crashes. */
static void
test_nonsense(void)
{
	static const char letters[] = "v1a, =sha256whepkc_0123bXYZ+/\t\xff\x80";
	CwhSigner  *signer = signer_of(published);
	uint32_t	random = 2463534242;
	bool		refused = true;

	for (int i = 0; i < 20000; i++)
	{
		char		text[128];
		size_t		len;

		for (len = 0; len < sizeof(text) - 1; len++)
		{
			random ^= random << 13;
			random ^= random >> 17;
			random ^= random << 5;
			if (random % 100 == 0)
				break;
			text[len] = letters[random % (sizeof(letters) - 1)];
		}
		text[len] = '\0';

		(void) cwh_secret_problem(text, len);
		cwh_signer_destroy(create(text, len));
		if (cwh_verify_body(signer, text, len, text) ||
			cwh_verify_message(signer, text, "100", text, text, len,
							   100, 10) ||
			cwh_verify_message(signer, text, text, text, text, len,
							   100, INT64_MAX) ||
			verify_with(text, text, "100", text, text, len,
						100, 10) ||
			verify_with(pair_public, text, "100", text, text, len,
						100, 10))
			refused = false;
	}
	ok(refused, "20000 pieces of nonsense do not verify");

	cwh_signer_destroy(signer);
}

/* A signer with a secret and a private key makes and verifies both signatures. */
static void
test_two_keys(void)
{
	static const char message[] = "{}";
	CwhSigner  *secret = signer_of(published);
	CwhSigner  *private_key = signer_of(pair_secret);
	CwhSigner  *both = signer_of(pair_secret);
	CwhSigner  *second = signer_of(published);
	CwhSigner  *public_key = signer_of(pair_public);
	const char *problem = "left as it was";
	char		by_secret[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char		by_private[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char		by_both[CWH_MESSAGE_SIGNATURE_LEN + 1];
	char		want[2 * CWH_MESSAGE_SIGNATURE_LEN + 2];
	char		body[CWH_BODY_SIGNATURE_LEN + 1];
	char		body_by_secret[CWH_BODY_SIGNATURE_LEN + 1];

	ok(!cwh_signer_has_secret(both), "a private key is no secret");
	ok(cwh_signer_add(both, published, strlen(published), &problem) &&
	   problem == NULL, "a secret is added to it");
	ok(cwh_signer_has_secret(both), "which the signer then has");
	ok(cwh_sign_message(secret, "a", 1, message, 2, by_secret) &&
	   cwh_sign_message(private_key, "a", 1, message, 2, by_private) &&
	   cwh_sign_message(both, "a", 1, message, 2, by_both),
	   "all sign");
	ok(strlen(by_both) == CWH_MESSAGE_SIGNATURE_LEN, "both take this much");
	snprintf(want, sizeof(want), "%s %s", by_secret, by_private);
	is_str(by_both, want, "there are both signatures, v1 first");
	ok(cwh_sign_body(both, message, 2, body) &&
	   cwh_sign_body(secret, message, 2, body_by_secret) &&
	   strcmp(body, body_by_secret) == 0 &&
	   cwh_verify_body(both, message, 2, body),
	   "and the secret's body signature");

#define VERIFY(signer, list) \
	cwh_verify_message(signer, "a", "1", list, message, 2, 1, 300)

	ok(VERIFY(secret, by_both) && VERIFY(public_key, by_both),
	   "receivers verify the one that they know");
	ok(VERIFY(both, by_secret) && VERIFY(both, by_private) &&
	   !VERIFY(both, "v1,x v1a,x"), "the signer verifies either");

#undef VERIFY

	ok(!cwh_signer_add(second, published, strlen(published), &problem),
	   "there are no two secrets");
	is_str(problem, "there are two of one kind", "as the problem says");
	ok(!cwh_signer_add(private_key, pair_public, strlen(pair_public), &problem),
	   "nor a private and a public key");
	is_str(problem, "there are two of one kind", "for the same reason");

	cwh_signer_destroy(secret);
	cwh_signer_destroy(private_key);
	cwh_signer_destroy(both);
	cwh_signer_destroy(second);
	cwh_signer_destroy(public_key);
}

/* Plain HMACs, by RFC 4231's second case. */
static void
test_hmac(void)
{
	static const char key[] = "Jefe";
	static const char hex[] =
		"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
	static const char base64[] =
		"W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
	CwhSigner  *signer = signer_of(key);
	CwhSigner  *private_key = signer_of(pair_secret);
	CwhSigner  *public_key = signer_of(pair_public);
	char		out[CWH_HMAC_LEN + 1];

	for (int round = 0; round < 2; round++)
	{
		ok(cwh_sign_hmac(signer, "", "what do ya want for nothing?", 28, false,
						 out), "an HMAC");
		is_str(out, hex, "in hexadecimal");
		ok(cwh_sign_hmac(signer, "what do ya ", "want for nothing?", 17, true,
						 out), "of a text and a body");
		is_str(out, base64, "in base64");
	}
	ok(!cwh_sign_hmac(private_key, "", "x", 1, false, out),
	   "a private key makes none");
	is_str(out, "", "not even in part");
	ok(!cwh_sign_hmac(public_key, "", "x", 1, true, out),
	   "nor does a public key");

	cwh_signer_destroy(signer);
	cwh_signer_destroy(private_key);
	cwh_signer_destroy(public_key);
}

int
main(void)
{
	test_rfc4231();
	test_published();
	test_plain_secret();
	test_base64_keys();
	test_secret_problem();
	test_malformed_secret();
	test_generate();
	test_verify_body();
	test_verify_standard();
	test_rfc8032();
	test_asymmetric();
	test_kinds();
	test_signer_problem();
	test_malformed_ed25519();
	test_generate_ed25519();
	test_verify_asymmetric();
	test_nonsense();
	test_two_keys();
	test_hmac();

	return done_testing();
}
