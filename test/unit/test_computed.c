/*
 * test_computed.c
 *		Names of computed values, and what is no such name.
 *
 * Only here can a text be cut after each character, and HMACs be counted; that
 * headers get the right values is for the tests with a receiver to show.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/sign.c"
#include "../../src/computed.c"

#include "tap.h"

/* The names that messages list are those that are parsed. */
static void
test_names(void)
{
	static const char listed[] = CWH_COMPUTED_NAMES;
	const char *rest = listed;
	int			n = 0;

	while ((rest = strstr(rest, CWH_COMPUTED_START)) != NULL)
	{
		CwhComputed which = CWH_COMPUTED_ID;
		size_t		len = cwh_computed_parse(rest, &which);

		ok(len > 0 && (int) which == n, "\"%.*s\" is number %d",
		   (int) len, rest, n);
		rest += 3;
		n++;
	}
	ok(n == CWH_NCOMPUTED, "all are listed");
}

/* What is no placeholder. */
static void
test_others(void)
{
	static const char *const others[] = {
		"", "{", "{{", "{{$", "{{$}}", "{{id}}", "{{$ID}}", "{{$id }}",
		"{{ $id}}", "{$id}", " {{$id}}", "{{$hmac}}", "{{$hmac_sha256_}}",
		"{{$hmac_sha256_base6}}", "{{$idx}}", "{{$i}}", "$id"
	};
	static const char whole[] = "{{$hmac_sha256_timestamped}}";
	CwhComputed which;
	bool		none = true;

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		ok(cwh_computed_parse(others[i], &which) == 0, "\"%s\" is none",
		   others[i]);
	for (size_t len = 0; len < strlen(whole); len++)
	{
		char		part[sizeof(whole)] = "";

		memcpy(part, whole, len);
		if (cwh_computed_parse(part, &which) != 0)
			none = false;
	}
	ok(none, "nor is one that is cut");
	ok(cwh_computed_parse("{{$id}}{{$type}}", &which) == 7 &&
	   which == CWH_COMPUTED_ID, "what follows one does not matter");
}

/* HMACs are made once, and have the size that is said. */
static void
test_hmacs(void)
{
	static const char key[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
	static const char private_key[] =
		"whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
	const char *problem;
	CwhSigner  *signer = cwh_signer_create(key, strlen(key), &problem);
	CwhSigner  *without = cwh_signer_create(private_key, strlen(private_key),
											&problem);
	CwhComputedValues values = {0};
	CwhComputedValues none = {0};
	char		want[CWH_HMAC_LEN + 1];

	values.values[CWH_COMPUTED_TIMESTAMP] = "1700000000";
	for (int i = 0; i <= CWH_COMPUTED_HMAC_TIMESTAMPED; i++)
	{
		ok(cwh_computed_is_hmac((CwhComputed) i) &&
		   cwh_computed_hmac(&values, (CwhComputed) i, signer, "{}", 2) &&
		   strlen(values.values[i]) <= cwh_computed_size((CwhComputed) i, 0, 0),
		   "number %d is an HMAC", i);
		ok(!cwh_computed_hmac(&none, (CwhComputed) i, without, "{}", 2),
		   "for which a private key will not do");
	}
	ok(!cwh_computed_is_hmac(CWH_COMPUTED_TIMESTAMP), "the next is none");
	ok(cwh_sign_hmac(signer, "1700000000.", "{}", 2, false, want),
	   "of a time and a body");
	is_str(values.values[CWH_COMPUTED_HMAC_TIMESTAMPED], want,
		   "is the third of them");
	ok(cwh_computed_hmac(&values, CWH_COMPUTED_HMAC_HEX, without, "x", 1),
	   "what was made is not made again");

	cwh_signer_destroy(signer);
	cwh_signer_destroy(without);
}

int
main(void)
{
	test_names();
	test_others();
	test_hmacs();

	return done_testing();
}
