/*
 * fuzz_target.c
 *		Fuzzes the guards of target.c, with libcurl as the second opinion.
 *
 * Parsers that disagree are how such guards are got around.  So whatever the
 * guard accepts is given to libcurl's parser as well, in the way that a
 * transfer would, and both have to see the same scheme, host and port; and the
 * resolver must not take for an address what the guard took for a name.
 *
 * The input is lines: the allowed networks, the denied networks and the
 * allowed ports, as in the settings, and then the URL.
 *
 *	clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc \
 *		test/fuzz/fuzz_target.c -lcurl -o fuzz_target
 *	./fuzz_target FOUND test/fuzz/corpus/target
 *
 * where FOUND is a directory for the inputs that it finds.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "../../src/target.c"

#include <curl/curl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_NETWORKS	8
#define MAX_PORTS		8

/* The property that did not hold goes to standard error, then it crashes. */
#define CHECK(condition) \
	((condition) ? (void) 0 : fail(__LINE__, #condition))

/* Report a property that does not hold. */
static void
fail(int line, const char *condition)
{
	fprintf(stderr, "line %d: not true: %s\n", line, condition);
	abort();
}

/* Take a line off the input, as an allocated string. */
static char *
take_line(const char **data, size_t *size)
{
	const char *newline = *size > 0 ? memchr(*data, '\n', *size) : NULL;
	size_t		len = newline ? (size_t) (newline - *data) : *size;
	char	   *line = malloc(len + 1);

	CHECK(line != NULL);
	if (len > 0)
		memcpy(line, *data, len);
	line[len] = '\0';
	if (newline != NULL)
		len++;
	*data += len;
	*size -= len;
	return line;
}

/* A list of networks is read as it is written out again, or refused. */
static int
parse_networks(const char *list, CwhNetwork *networks)
{
	const char *problem = "";
	int			n;

	n = cwh_target_parse_networks(list, networks, MAX_NETWORKS, &problem);
	CHECK(n >= -1 && n <= MAX_NETWORKS);
	CHECK((n < 0) == (problem != NULL));

	for (int i = 0; i < n; i++)
	{
		char		text[INET6_ADDRSTRLEN];
		char		cidr[INET6_ADDRSTRLEN + 10];
		CwhNetwork	again;

		CHECK(networks[i].family == AF_INET || networks[i].family == AF_INET6);
		CHECK(inet_ntop(networks[i].family, networks[i].address,
						text, sizeof(text)) != NULL);
		snprintf(cidr, sizeof(cidr), networks[i].port ? "%s/%d:%d" : "%s/%d",
				 text, networks[i].bits, networks[i].port);
		CHECK(cwh_target_parse_networks(cidr, &again, 1, &problem) == 1);
		CHECK(memcmp(&again, &networks[i], sizeof(again)) == 0);
		CHECK(network_contains(&networks[i], networks[i].family,
							   networks[i].address));
	}
	return n < 0 ? 0 : n;
}

/* A list of ports holds ports, or is refused. */
static int
parse_ports(const char *list, uint16_t *ports)
{
	const char *problem = "";
	int			n = cwh_target_parse_ports(list, ports, MAX_PORTS, &problem);

	CHECK(n >= -1 && n <= MAX_PORTS);
	CHECK((n < 0) == (problem != NULL));
	for (int i = 0; i < n; i++)
		CHECK(ports[i] > 0);
	return n < 0 ? 0 : n;
}

/* Check an address that is given as bytes. */
static const char *
check_bytes(const CwhTargetPolicy *policy, int family, const void *bytes)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

	if (family == AF_INET)
	{
		memcpy(&v4.sin_addr, bytes, 4);
		return cwh_target_check_address(policy, (struct sockaddr *) &v4);
	}
	memcpy(&v6.sin6_addr, bytes, 16);
	return cwh_target_check_address(policy, (struct sockaddr *) &v6);
}

/* Any 16 bytes are an IPv6 address, and four of them an IPv4 address. */
static void
check_addresses(const CwhTargetPolicy *policy, const unsigned char *bytes)
{
	static const CwhTargetPolicy nothing_set = {0};
	struct in6_addr v6;
	unsigned char carrier[16] = {[10] = 0xff, 0xff};
	const char *reason;

	/* Mapped or not, an IPv4 address is the same address. */
	memcpy(carrier + 12, bytes, 4);
	reason = check_bytes(policy, AF_INET, bytes);
	CHECK(check_bytes(policy, AF_INET6, carrier) == reason);

	/* What is refused does not get better by being carried. */
	memset(carrier, 0, sizeof(carrier));
	memcpy(carrier, "\0\x64\xff\x9b", 4);
	memcpy(carrier + 12, bytes, 4);
	CHECK(reason == NULL || check_bytes(policy, AF_INET6, carrier) != NULL);
	CHECK(check_bytes(&nothing_set, AF_INET6, carrier) != NULL);
	memcpy(carrier, "\x20\x02", 2);
	memcpy(carrier + 2, bytes, 4);
	CHECK(reason == NULL || check_bytes(policy, AF_INET6, carrier) != NULL);
	CHECK(check_bytes(&nothing_set, AF_INET6, carrier) != NULL);

	/* What the C library has a name for is not public. */
	memcpy(&v6, bytes, sizeof(v6));
	if (IN6_IS_ADDR_UNSPECIFIED(&v6) || IN6_IS_ADDR_LOOPBACK(&v6) ||
		IN6_IS_ADDR_MULTICAST(&v6) || IN6_IS_ADDR_LINKLOCAL(&v6) ||
		IN6_IS_ADDR_SITELOCAL(&v6) || IN6_IS_ADDR_V4COMPAT(&v6))
		CHECK(check_bytes(&nothing_set, AF_INET6, bytes) != NULL);

	/* Denied wins. */
	if (networks_contain(policy->denied, policy->ndenied, AF_INET6, bytes, 0) &&
		!IN6_IS_ADDR_V4MAPPED(&v6))
		CHECK(check_bytes(policy, AF_INET6, bytes) != NULL);
	if (networks_contain(policy->denied, policy->ndenied, AF_INET, bytes, 0))
		CHECK(check_bytes(policy, AF_INET, bytes) != NULL);
}

/* Fetch a part of a URL as libcurl sees it, or NULL if it has none. */
static char *
curl_part(CURLU *parsed, CURLUPart part, unsigned int flags)
{
	char	   *value = NULL;

	if (curl_url_get(parsed, part, &value, flags) != CURLUE_OK)
		return NULL;
	return value;
}

/* Does libcurl see this target in the URL?  host is its host, to be cut. */
static void
compare_host(const CwhTarget *target, char *host)
{
	size_t		len = strlen(host);

	if (len > 0 && host[0] == '[')
	{
		unsigned char ours[16];
		unsigned char theirs[16];

		CHECK(target->literal);
		CHECK(host[len - 1] == ']');
		host[len - 1] = '\0';
		CHECK(inet_pton(AF_INET6, host + 1, theirs) == 1);
		CHECK(inet_pton(AF_INET6, target->host, ours) == 1);
		CHECK(memcmp(ours, theirs, sizeof(ours)) == 0);
		return;
	}

	if (len > 0 && host[len - 1] == '.')
	{
		CHECK(!target->literal);
		host[len - 1] = '\0';
	}
	for (char *c = host; *c != '\0'; c++)
		*c = to_lower(*c);
	CHECK(strcmp(host, target->host) == 0);
}

/* What the guard accepted, libcurl has to read in the same way. */
static void
compare_with_curl(const char *url, const CwhTarget *target)
{
	CURLU	   *parsed = curl_url();
	char	   *scheme;
	char	   *host;
	char	   *port;

	/* The flags that libcurl itself uses for CURLOPT_URL. */
	CHECK(parsed != NULL);
	CHECK(curl_url_set(parsed, CURLUPART_URL, url,
					   CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) ==
		  CURLUE_OK);

	scheme = curl_part(parsed, CURLUPART_SCHEME, 0);
	CHECK(scheme != NULL);
	CHECK(strcmp(scheme, target->https ? "https" : "http") == 0);
	host = curl_part(parsed, CURLUPART_HOST, 0);
	CHECK(host != NULL);
	compare_host(target, host);
	port = curl_part(parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT);
	CHECK(port != NULL);
	CHECK(atoi(port) == target->port);

	CHECK(curl_part(parsed, CURLUPART_USER, 0) == NULL);
	CHECK(curl_part(parsed, CURLUPART_PASSWORD, 0) == NULL);
	CHECK(curl_part(parsed, CURLUPART_OPTIONS, 0) == NULL);
	CHECK(curl_part(parsed, CURLUPART_ZONEID, 0) == NULL);
	CHECK(curl_part(parsed, CURLUPART_FRAGMENT, 0) == NULL);

	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(parsed);
}

/*
 * An accepted host is either an address that may be connected to, or nothing
 * that the resolver would take for an address.
 */
static void
compare_with_resolver(const CwhTargetPolicy *policy, const CwhTarget *target)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST};
	struct addrinfo *result = NULL;
	int			status;

	hints.ai_socktype = SOCK_STREAM;
	status = getaddrinfo(target->host, NULL, &hints, &result);
	CHECK((status == 0) == target->literal);
	if (status != 0)
		return;
	CHECK(result->ai_next == NULL);
	/* both families have the port in the same place */
	((struct sockaddr_in *) result->ai_addr)->sin_port = htons(target->port);
	CHECK(cwh_target_check_address(policy, result->ai_addr) == NULL);
	freeaddrinfo(result);
}

/* The target, written out as a URL, is accepted as the same target. */
static void
compare_with_itself(const CwhTargetPolicy *policy, const CwhTarget *target)
{
	bool		brackets = strchr(target->host, ':') != NULL;
	char		url[CWH_MAX_HOST_LEN + 32];
	CwhTarget	again;
	int			len;

	len = snprintf(url, sizeof(url), "http%s://%s%s%s:%d/",
				   target->https ? "s" : "", brackets ? "[" : "",
				   target->host, brackets ? "]" : "", target->port);
	CHECK(cwh_target_check_url(policy, url, (size_t) len, &again) == NULL);
	CHECK(memcmp(&again, target, sizeof(again)) == 0);
}

/* Check a URL, and if it is accepted, all that this has to mean. */
static void
check_url(const CwhTargetPolicy *policy, const char *data, size_t size)
{
	CwhTargetPolicy stricter = *policy;
	CwhTarget	target;
	CwhTarget	again;
	char	   *url;

	if (cwh_target_check_url(policy, data, size, &target) != NULL)
		return;

	/* Nothing but http is let through by allowing http. */
	stricter.allow_http = false;
	CHECK((cwh_target_check_url(&stricter, data, size, &again) == NULL) ==
		  target.https);

	url = malloc(size + 1);
	CHECK(url != NULL);
	memcpy(url, data, size);
	url[size] = '\0';
	CHECK(strlen(url) == size);
	compare_with_curl(url, &target);
	compare_with_resolver(policy, &target);
	compare_with_itself(policy, &target);
	free(url);
}

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Run one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CwhTargetPolicy policy = {.allow_http = true};
	CwhNetwork	allowed[MAX_NETWORKS];
	CwhNetwork	denied[MAX_NETWORKS];
	uint16_t	ports[MAX_PORTS];
	const char *rest = (const char *) data;
	char	   *line;

	line = take_line(&rest, &size);
	policy.allowed = allowed;
	policy.nallowed = parse_networks(line, allowed);
	free(line);
	line = take_line(&rest, &size);
	policy.denied = denied;
	policy.ndenied = parse_networks(line, denied);
	free(line);
	line = take_line(&rest, &size);
	policy.ports = ports;
	policy.nports = parse_ports(line, ports);
	free(line);

	if (size >= 16)
		check_addresses(&policy, (const unsigned char *) rest);
	check_url(&policy, rest, size);
	return 0;
}
