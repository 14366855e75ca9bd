/*
 * raw.c
 *		The ceiling: libcurl alone, driven by curl_multi_poll(), sending the
 *		same signed requests as the extension, without a database.
 *
 * usage: raw REQUESTS TRANSFERS URL BODY-FILE [CA-FILE]
 *
 * Writes one line: requests a second, and microseconds of CPU a request.  What
 * is not a 200 is counted on standard error, and fails.
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

static const char secret[32] = "0123456789abcdef0123456789abcdef";

typedef struct Transfer
{
	CURL	   *easy;
	struct curl_slist *headers;
} Transfer;

static char *body;
static size_t body_len;
static const char *url;
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

int
main(int argc, char **argv)
{
	static Transfer transfers[MAX_TRANSFERS];
	bool		asked = argc == 5 || argc == 6;
	long		total = asked ? atol(argv[1]) : 0;
	int			width = asked ? atoi(argv[2]) : 0;
	long		ended = 0;
	int			running;
	double		wall;
	FILE	   *file = asked ? fopen(argv[4], "rb") : NULL;
	CURLM	   *multi;

	if (total < 1 || width < 1 || width > MAX_TRANSFERS || file == NULL)
	{
		fprintf(stderr, "usage: raw REQUESTS TRANSFERS URL BODY-FILE [CA-FILE]\n");
		return 2;
	}
	url = argv[3];
	body = malloc(1024 * 1024);
	body_len = fread(body, 1, 1024 * 1024, file);
	fclose(file);
	curl_global_init(CURL_GLOBAL_ALL);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) width);
	wall = seconds(CLOCK_MONOTONIC);
	for (int i = 0; i < width && started < total; i++)
	{
		transfers[i].easy = curl_easy_init();
		curl_easy_setopt(transfers[i].easy, CURLOPT_URL, url);
		curl_easy_setopt(transfers[i].easy, CURLOPT_WRITEFUNCTION, discard);
		curl_easy_setopt(transfers[i].easy, CURLOPT_PRIVATE, &transfers[i]);
		curl_easy_setopt(transfers[i].easy, CURLOPT_NOSIGNAL, 1L);
		if (argc == 6)
			curl_easy_setopt(transfers[i].easy, CURLOPT_CAINFO, argv[5]);
		start(multi, &transfers[i]);
	}
	while (ended < total)
	{
		CURLMsg    *message;
		int			left;

		curl_multi_perform(multi, &running);
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
			ended++;
			if (started < total)
				start(multi, transfer);
		}
		if (ended < total)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	wall = seconds(CLOCK_MONOTONIC) - wall;
	printf("%.0f %.1f\n", total / wall,
		   seconds(CLOCK_PROCESS_CPUTIME_ID) * 1e6 / total);
	if (failed > 0)
		fprintf(stderr, "%ld requests failed\n", failed);
	return failed > 0;
}
