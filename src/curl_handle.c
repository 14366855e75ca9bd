/*
 * curl_handle.c
 *		libcurl's easy handles: every option that is set, and why.
 *
 * Handles are made with the options that are the same for every request, and
 * kept for later requests: their buffers and parsed options are worth keeping.
 * Options that differ between requests are set, or cleared, each time.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "compat_curl.h"
#include "curl_handle.h"
#include "vault.h"

/* Limit for looking up the name, connecting and the TLS handshake together. */
#define CONNECT_TIMEOUT_MS		5000

/* Size of a handle's read buffer; a longer reply takes several reads. */
#define RECEIVE_BUFFER_SIZE		4096

/* Handles that are kept while they are not in use. */
#define MAX_SPARE				256

static char *ca_file = NULL;	/* null: the system's */
static char *proxy = NULL;		/* null: none */
static uint64_t generation = 0; /* counts changes of these */
static CURL *spare[MAX_SPARE];	/* all of the current generation */
static int	nspare = 0;

/* A new handle with the options that are the same for every request. */
static CURL *
make_handle(void)
{
	CURL	   *easy = curl_easy_init();

	if (easy == NULL)
		return NULL;

	/* signals and their handlers are PostgreSQL's */
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);

	/*
	 * Connect to nothing that the address policy has not seen: no protocols
	 * but these, whatever libcurl was built with, and no Unix sockets.
	 * Follow no redirect: it would take the secrets in the request to a host
	 * of the receiver's choice.
	 */
	cwh_curl_set_protocols(easy, "http,https", CURLPROTO_HTTP | CURLPROTO_HTTPS);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, NULL);

	/*
	 * Take nothing from the server's environment: no credentials from
	 * ~/.netrc, and no proxy from http_proxy or no_proxy, which libcurl reads
	 * unless these options are set, if only to an empty string.
	 */
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_PROXY, proxy ? proxy : "");
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "");

	/*
	 * Verify the server: its certificate's chain, and that the certificate is
	 * for this host.  These are libcurl's defaults, stated because privacy
	 * depends on them.  TLS 1.2 is the oldest version that is still secure.
	 */
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (ca_file)
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
	/* without a password, some versions crash on a client key that needs one */
	curl_easy_setopt(easy, CURLOPT_KEYPASSWD, "");

	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) CONNECT_TIMEOUT_MS);
	/* else a firewall may drop an idle connection without our noticing */
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	/* every handle keeps its buffer, 16 kB by default; most replies are short */
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long) RECEIVE_BUFFER_SIZE);
	/* do not wait for an abandoned name lookup, which may hang for a minute */
	cwh_curl_set_quick_exit(easy);
	return easy;
}

/* Set an option to a PEM text, or clear it if null. */
static bool
set_pem(CURL *easy, CURLoption option, const char *pem)
{
	struct curl_blob blob;

	blob.data = (void *) pem;
	blob.len = pem ? strlen(pem) : 0;
	blob.flags = CURL_BLOB_COPY;
	return curl_easy_setopt(easy, option, pem ? &blob : NULL) == CURLE_OK;
}

/*
 * Set the client certificate and its key.
 *
 * libcurl reuses connections and TLS sessions if the certificate is the same,
 * whatever the key.  Certificates are not secret: with a copy of another
 * webhook's certificate and any key, one could send on a connection that was
 * opened with that webhook's key.  So append the key to the certificate, where
 * OpenSSL ignores it but libcurl compares it.
 */
static bool
set_client_certificate(CURL *easy, const char *certificate, const char *key)
{
	char	   *both;
	size_t		size;
	bool		ok;

	if (certificate == NULL)
	{
		(void) set_pem(easy, CURLOPT_SSLCERT_BLOB, NULL);
		(void) set_pem(easy, CURLOPT_SSLKEY_BLOB, NULL);
		return true;
	}
	if (key == NULL)			/* then it is in the certificate's text */
		return set_pem(easy, CURLOPT_SSLCERT_BLOB, certificate) &&
			set_pem(easy, CURLOPT_SSLKEY_BLOB, certificate);

	size = strlen(certificate) + strlen(key) + 2;
	both = malloc(size);
	if (both == NULL)
		return false;
	snprintf(both, size, "%s\n%s", certificate, key);
	ok = set_pem(easy, CURLOPT_SSLCERT_BLOB, both) &&
		set_pem(easy, CURLOPT_SSLKEY_BLOB, key);
	cwh_cleanse(both, size);
	free(both);
	return ok;
}

/* Set the method and the body. */
static bool
set_method(CURL *easy, const CwhRequest *request)
{
	const char *method = request->method ? request->method : "POST";
	bool		post = strcmp(method, "POST") == 0;

	if (request->body || post ||
		strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0)
	{
		curl_easy_setopt(easy, CURLOPT_POST, 1L);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
						 request->body ? request->body : "");
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) request->body_len);
	}
	else
		curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
	return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST,
							post ? NULL : method) == CURLE_OK;
}

/*
 * Let a request reuse connections of its own pool only (0: the common one).
 * "others" says that other pools have connections to the same host.
 *
 * libcurl knows no such pools, but a connection with TLS is reused only under
 * the same settings of TLS.  So each pool has its own list of directories with
 * certificate authorities: the usual one, and one that cannot exist.  OpenSSL
 * looks for files in them, and does not mind.  Without this, requests of several
 * owners to a host with HTTP/1.1 would need a new connection each, and any
 * customer could slow down another by sending to his host.  A drain of 200
 * chatbots' webhooks on one such host had 3,000 deliveries a second while all
 * shared connections, 800 with pools, and 350 with new connections.
 *
 * Without TLS, owners do get new connections: 3,400 instead of 3,700 a second.
 */
static void
set_pool(CURL *easy, const char *url, uint64_t pool, bool others)
{
	static curl_version_info_data *info = NULL;
	static bool is_openssl;
	char		path[1024];
	bool		apart = others;

	if (info == NULL)
	{
		info = curl_version_info(CURLVERSION_NOW);
		is_openssl = info->ssl_version &&
			strncmp(info->ssl_version, "OpenSSL", 7) == 0;
	}
	if (is_openssl && strncasecmp(url, "https:", 6) == 0)
	{
		apart = false;
		snprintf(path, sizeof(path), "%s%s/dev/null/%016llx",
				 info->capath ? info->capath : "", info->capath ? ":" : "",
				 (unsigned long long) pool);
		curl_easy_setopt(easy, CURLOPT_CAPATH, pool ? path : info->capath);
	}
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, (long) apart);
	curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, (long) apart);
}

/*
 * Get a handle that is set up for a request and its header lines, perhaps null,
 * which libcurl does not copy.  False if memory is out.
 */
bool
cwh_handle_take(CwhHandle *handle, const CwhRequest *request,
				struct curl_slist *lines, uint64_t pool, bool others)
{
	CURL	   *easy = nspare > 0 ? spare[--nspare] : make_handle();

	if (easy == NULL)
		return false;
	if (curl_easy_setopt(easy, CURLOPT_URL, request->url) != CURLE_OK ||
		!set_method(easy, request) ||
		!set_client_certificate(easy, request->client_certificate,
								request->client_key))
	{
		curl_easy_cleanup(easy);
		return false;
	}
	set_pool(easy, request->url, pool, others);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, lines);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, request->timeout_ms);
	handle->easy = easy;
	handle->generation = generation;
	handle->has_ca_file = ca_file != NULL;
	handle->has_proxy = proxy != NULL;
	return true;
}

/*
 * Keep a handle for later requests, or free it.
 *
 * A handle of an earlier generation must not be used again: the CA file and the
 * proxy that it was made with may not be those that are configured now.  Nor
 * must one with which libcurl has repeated a request: up to 8.16 libcurl counts
 * repeats over the handle's whole life, and fails the sixth.
 */
void
cwh_handle_release(CwhHandle *handle, bool repeated)
{
	/* the buffer may go before the handle */
	curl_easy_setopt(handle->easy, CURLOPT_ERRORBUFFER, NULL);
	if (handle->generation == generation && !repeated && nspare < MAX_SPARE)
		spare[nspare++] = handle->easy;
	else
		curl_easy_cleanup(handle->easy);
	handle->easy = NULL;
}

/* Free all handles that are kept. */
static void
free_spare(void)
{
	while (nspare > 0)
		curl_easy_cleanup(spare[--nspare]);
}

/* Copy a string, an empty one as null; false if memory is out. */
static bool
copy_string(const char *string, char **copy)
{
	*copy = NULL;
	if (string == NULL || string[0] == '\0')
		return true;
	*copy = strdup(string);
	return *copy != NULL;
}

/*
 * Set the CA file and the proxy for handles taken from now on.  False, and
 * nothing has changed, if memory is out.
 */
bool
cwh_handles_configure(const char *new_ca_file, const char *new_proxy)
{
	char	   *ca_file_copy;
	char	   *proxy_copy;

	if (!copy_string(new_ca_file, &ca_file_copy))
		return false;
	if (!copy_string(new_proxy, &proxy_copy))
	{
		free(ca_file_copy);
		return false;
	}
	free_spare();
	free(ca_file);
	free(proxy);
	ca_file = ca_file_copy;
	proxy = proxy_copy;
	generation++;
	return true;
}
