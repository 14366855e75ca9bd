/*
 * raw.c
 *		The ceiling: libcurl alone, driven by curl_multi_poll(), sending the
 *		same signed requests as the extension, without a database.
 *
 * usage: raw REQUESTS TRANSFERS URL BODY-FILE [CA-FILE [hosts]]
 *
 * Writes one line: requests a second, and microseconds of CPU a request.  What
 * is not a 200 is counted on standard error, and fails.
 *
 * With "hosts", the requests go to one host each: the URL has a %d for the host's
 * number, from 1 up.  Each line of standard input asks for a round: to how many of
 * the hosts, and over how many seconds to spread it.  A line is written for each
 * round.  A host keeps its handle, and so its TLS sessions.
 */
#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MAX_TRANSFERS	1024

/* a bit less than the receiver of many hosts keeps idle connections */
#define MAX_IDLE_S		4L

static const char secret[32] = "0123456789abcdef0123456789abcdef";

typedef struct Transfer
{
	CURL	   *easy;
	struct curl_slist *headers;
} Transfer;

static char *body;
static size_t body_len;
static long started = 0;
static long failed = 0;

static size_t
discard(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) arg;
	return size * n;
}

/* The seconds of a clock. */
static double
seconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* The header lines of a request, with both signatures, as request.c makes them. */
static struct curl_slist *
make_headers(void)
{
	static char *signed_text = NULL;
	struct curl_slist *list = NULL;
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned int mac_len;
	char		hex[65];
	char		base64[64];
	char		line[256];
	char		id[40];
	int			len;
	long		unix_time = (long) time(NULL);

	if (signed_text == NULL)
		signed_text = malloc(body_len + 256);
	snprintf(id, sizeof(id), "0192f0c0-0000-7000-8000-%012ld", started);
	HMAC(EVP_sha256(), secret, sizeof(secret), (unsigned char *) body, body_len,
		 mac, &mac_len);
	for (int i = 0; i < 32; i++)
		sprintf(hex + 2 * i, "%02x", mac[i]);
	len = sprintf(signed_text, "%s.%ld.", id, unix_time);
	memcpy(signed_text + len, body, body_len);
	HMAC(EVP_sha256(), secret, sizeof(secret), (unsigned char *) signed_text,
		 len + body_len, mac, &mac_len);
	EVP_EncodeBlock((unsigned char *) base64, mac, 32);

	list = curl_slist_append(list, "Content-Type: application/json");
	list = curl_slist_append(list, "User-Agent: chatwebhook/bench");
	list = curl_slist_append(list, "X-Webhook-Event: message.received");
	snprintf(line, sizeof(line), "X-Webhook-Signature: sha256=%s", hex);
	list = curl_slist_append(list, line);
	snprintf(line, sizeof(line), "webhook-id: %s", id);
	list = curl_slist_append(list, line);
	snprintf(line, sizeof(line), "webhook-timestamp: %ld", unix_time);
	list = curl_slist_append(list, line);
	snprintf(line, sizeof(line), "webhook-signature: v1,%s", base64);
	list = curl_slist_append(list, line);
	list = curl_slist_append(list, "X-Webhook-Attempt: 1");
	snprintf(line, sizeof(line), "X-Webhook-Delivery: %ld", 1000000000000 + started);
	list = curl_slist_append(list, line);
	list = curl_slist_append(list, "Expect:");
	return list;
}

/* Send the next request. */
static void
start(CURLM *multi, Transfer *transfer)
{
	curl_slist_free_all(transfer->headers);
	transfer->headers = make_headers();
	started++;
	curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->headers);
	curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) body_len);
	/* on HTTP/2, as few connections as can be */
	curl_easy_setopt(transfer->easy, CURLOPT_PIPEWAIT, 1L);
	curl_multi_add_handle(multi, transfer->easy);
}

/* A handle for requests to a URL. */
static CURL *
make_easy(Transfer *transfer, const char *url, const char *ca_file)
{
	CURL	   *easy = curl_easy_init();

	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	if (ca_file)
	{
		/* with a directory besides, libcurl would not cache the file */
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	return easy;
}

/* The next transfer that has ended, counted and taken from the handle; or null. */
static Transfer *
reap(CURLM *multi)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		Transfer   *transfer;
		CURL	   *easy = message->easy_handle;
		long		status = 0;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &transfer);
		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
		if (message->data.result != CURLE_OK || status != 200)
			failed++;
		curl_multi_remove_handle(multi, easy);
		return transfer;
	}
	return NULL;
}

/* Print the rate and the CPU time of n requests, given both clocks at the start. */
static void
report(long requests, double wall, double cpu)
{
	wall = seconds(CLOCK_MONOTONIC) - wall;
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("%.0f %.1f\n", requests / wall, cpu * 1e6 / requests);
	fflush(stdout);
}

/* Send all requests, to one host. */
static void
send_all(CURLM *multi, long total, int width, const char *url, const char *ca_file)
{
	static Transfer transfers[MAX_TRANSFERS];
	double		wall = seconds(CLOCK_MONOTONIC);
	long		ended = 0;
	int			running;

	for (int i = 0; i < width && started < total; i++)
	{
		transfers[i].easy = make_easy(&transfers[i], url, ca_file);
		start(multi, &transfers[i]);
	}
	while (ended < total)
	{
		Transfer   *transfer;

		curl_multi_perform(multi, &running);
		while ((transfer = reap(multi)) != NULL)
		{
			ended++;
			if (started < total)
				start(multi, transfer);
		}
		if (ended < total)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	report(total, wall, 0);
}

/* Send a request to each host, spread over some time. */
static void
send_round(CURLM *multi, Transfer *transfers, long hosts, int width, double spread)
{
	double		wall = seconds(CLOCK_MONOTONIC);
	double		cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	long		sent = 0;
	long		ended = 0;
	int			running;

	while (ended < hosts)
	{
		int			wait_ms = 1000;

		while (sent < hosts && sent - ended < width)
		{
			double		early = wall + spread * sent / hosts - seconds(CLOCK_MONOTONIC);

			if (early > 0)
			{
				wait_ms = (int) (early * 1000) + 1;
				break;
			}
			start(multi, &transfers[sent++]);
		}
		curl_multi_perform(multi, &running);
		while (reap(multi) != NULL)
		{
			ended++;
			wait_ms = 0;
		}
		if (ended < hosts)
			curl_multi_poll(multi, NULL, 0, wait_ms, NULL);
	}
	report(hosts, wall, cpu);
}

/* Send the rounds that standard input asks for. */
static void
send_rounds(CURLM *multi, long hosts, int width, const char *pattern, const char *ca_file)
{
	Transfer   *transfers = calloc(hosts, sizeof(Transfer));
	const char *number = strstr(pattern, "%d");
	double		spread;
	long		some;

	for (long i = 0; i < hosts; i++)
	{
		char		url[256];

		snprintf(url, sizeof(url), "%.*s%ld%s", (int) (number - pattern), pattern,
				 i + 1, number + 2);
		transfers[i].easy = make_easy(&transfers[i], url, ca_file);
		/* the receiver has an address of this kind only */
		curl_easy_setopt(transfers[i].easy, CURLOPT_IPRESOLVE, (long) CURL_IPRESOLVE_V4);
		/* it closes idle connections; do not try those, since a handle fails after some */
		curl_easy_setopt(transfers[i].easy, CURLOPT_MAXAGE_CONN, MAX_IDLE_S);
	}
	while (scanf("%ld %lf", &some, &spread) == 2 && some <= hosts)
		send_round(multi, transfers, some, width, spread);
}

int
main(int argc, char **argv)
{
	bool		rounds = argc == 7 && strcmp(argv[6], "hosts") == 0;
	bool		asked = argc == 5 || argc == 6 || rounds;
	long		total = asked ? atol(argv[1]) : 0;
	int			width = asked ? atoi(argv[2]) : 0;
	const char *ca_file = argc > 5 ? argv[5] : NULL;
	FILE	   *file = asked ? fopen(argv[4], "rb") : NULL;
	CURLM	   *multi;

	if (total < 1 || width < 1 || width > MAX_TRANSFERS || file == NULL ||
		(rounds && strstr(argv[3], "%d") == NULL))
	{
		fprintf(stderr, "usage: raw REQUESTS TRANSFERS URL BODY-FILE [CA-FILE [hosts]]\n");
		return 2;
	}
	body = malloc(1024 * 1024);
	body_len = fread(body, 1, 1024 * 1024, file);
	fclose(file);
	curl_global_init(CURL_GLOBAL_ALL);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) width);
	if (rounds)
		send_rounds(multi, total, width, argv[3], ca_file);
	else
		send_all(multi, total, width, argv[3], ca_file);
	if (failed > 0)
		fprintf(stderr, "%ld requests failed\n", failed);
	return failed > 0;
}
