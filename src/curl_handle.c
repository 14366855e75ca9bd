/*
 * curl_handle.c
 *		libcurl's easy handles: every option that is set, and why.
 *
 * Handles are made with the options that are the same for every request, and
 * kept for later requests: their buffers and parsed options are worth keeping.
 * Options that differ between requests are set, or cleared, each time.
 *
 * What is worth most are the TLS sessions: resuming one takes a small part of the
 * time of a whole handshake.  libcurl keeps a few of them in each handle and does
 * not find those in others; from 8.12 on, it keeps those of 25 hosts for all
 * handles, unless they have a share.  So a handle has one of its own then, and a
 * request gets the handle that was last used for its owner and host.  This is about
 * speed only: which session may be resumed is libcurl's to decide, by host, port
 * and all settings of TLS.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <strings.h>

#include <curl/curl.h>
#include <openssl/ssl.h>

#include "lib/ilist.h"

#include "compat_curl.h"
#include "curl_handle.h"
#include "vault.h"

/* Limit for looking up the name, connecting and the TLS handshake together. */
#define CONNECT_TIMEOUT_MS		5000

/* Time after which a file of authorities is read again, in seconds. */
#define AUTHORITIES_S			300

/* Size of a handle's read buffer; a longer reply takes several reads. */
#define RECEIVE_BUFFER_SIZE		4096

/* Handles that are kept while they are not in use: with TLS sessions, and others. */
#define MAX_RESUMABLE			1024
#define MAX_SPARE				256

/* A handle that is not in use. */
typedef struct Spare
{
	dlist_node	node;			/* in spare, or in resumable */
	dlist_node	bucket_node;	/* if it is in the latter */
	CURL	   *easy;
	CURLSH	   *share;			/* of its TLS sessions, or null */
	uint64_t	affinity;		/* whose sessions it has; 0: none */
} Spare;

static char *ca_file = NULL;	/* null: the system's */
static char *proxy = NULL;		/* null: none */
static uint64_t generation = 0; /* counts changes of these */

/* handles that are not in use, all of the current generation; the latest first */
static dlist_head spare = DLIST_STATIC_INIT(spare);
static int	nspare = 0;
static dlist_head resumable = DLIST_STATIC_INIT(resumable);
static int	nresumable = 0;
static dlist_head buckets[MAX_RESUMABLE];	/* of those, by affinity */

/* The version of the libcurl that is loaded, as in LIBCURL_VERSION_NUM. */
static unsigned int
libcurl_version(void)
{
	return curl_version_info(CURLVERSION_NOW)->version_num;
}

/*
 * Give a handle a place of its own for TLS sessions, if libcurl does not.  If
 * memory is out, it does without, and resumes fewer.
 */
static CURLSH *
make_share(CURL *easy)
{
	CURLSH	   *share = NULL;

	if (libcurl_version() >= 0x080c00)
		share = curl_share_init();
	if (share)
	{
		curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
		curl_easy_setopt(easy, CURLOPT_SHARE, share);
	}
	return share;
}

/* Free a handle and its share, of which either may be null. */
static void
free_handle(CURL *easy, CURLSH *share)
{
	curl_easy_cleanup(easy);
	if (share)
		curl_share_cleanup(share);
}

/* Is libcurl's TLS library OpenSSL, of the major version that we have? */
static bool
uses_openssl(void)
{
	const char *library = curl_version_info(CURLVERSION_NOW)->ssl_version;

	return library && strncmp(library, "OpenSSL/", 8) == 0 &&
		strtoul(library + 8, NULL, 10) == OPENSSL_VERSION_NUMBER >> 28;
}

/* libcurl's own callback for new sessions */
static int	(*keep_session) (SSL *ssl, SSL_SESSION *session) = NULL;

/*
 * Callback: a session can be resumed from now on.  Let libcurl keep a copy: OpenSSL
 * marks the session of a connection that ends with an error as not resumable, and
 * it is an error if the receiver closes an idle connection without closing TLS
 * first, as nginx does with HTTP/2.  Only TLS 1.0 forbids resuming such sessions.
 */
static int
on_session(SSL *ssl, SSL_SESSION *session)
{
	SSL_SESSION *copy = SSL_SESSION_dup(session);

	if (copy && keep_session(ssl, copy) == 0)
		SSL_SESSION_free(copy);
	return 0;					/* we keep no reference to the original */
}

/* Callback: libcurl has set up OpenSSL for a connection. */
static CURLcode
on_context(CURL *easy, void *context, void *arg)
{
	int			(*callback) (SSL *, SSL_SESSION *) = SSL_CTX_sess_get_new_cb(context);

	if (callback && callback != on_session)
	{
		keep_session = callback;
		SSL_CTX_sess_set_new_cb(context, on_session);
	}
	return CURLE_OK;
}

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

	/*
	 * Trust no directory of authorities besides the file, if there is one:
	 * with a directory, libcurl would parse the file for each connection,
	 * which takes 20 times the CPU time of the rest of a delivery.  From 8.21
	 * on, null means the default directory, and only another one replaces it.
	 */
	if (libcurl_version() >= 0x081500)
	{
		if (ca_file)
			curl_easy_setopt(easy, CURLOPT_CAPATH, "/dev/null/none");
	}
	else if (ca_file || curl_version_info(CURLVERSION_NOW)->cainfo)
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	cwh_curl_cache_authorities(easy, AUTHORITIES_S);
	/* without a password, some versions crash on a client key that needs one */
	curl_easy_setopt(easy, CURLOPT_KEYPASSWD, "");

	if (uses_openssl())
		curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_context);
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
 * The cipher suites of TLS 1.3 that OpenSSL offers by default, which the system's
 * configuration may have restricted, as a list for libcurl.  Null if there are
 * none, if libcurl does not use OpenSSL, or if memory is out.
 */
static const char *
default_suites(void)
{
	static char *suites = NULL;
	static bool asked = false;
	SSL_CTX    *context;
	STACK_OF(SSL_CIPHER) *ciphers;
	size_t		size = 1;

	if (asked || !uses_openssl())
		return suites;
	context = SSL_CTX_new(TLS_client_method());
	if (context == NULL)
		return NULL;
	asked = true;
	ciphers = SSL_CTX_get_ciphers(context);
	for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++)
		size += strlen(SSL_CIPHER_get_name(sk_SSL_CIPHER_value(ciphers, i))) + 1;
	suites = calloc(1, size);
	for (int i = 0; suites && i < sk_SSL_CIPHER_num(ciphers); i++)
	{
		const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(ciphers, i);

		if (strcmp(SSL_CIPHER_get_version(cipher), "TLSv1.3") != 0)
			continue;
		if (suites[0] != '\0')
			strlcat(suites, ":", size);
		strlcat(suites, SSL_CIPHER_get_name(cipher), size);
	}
	SSL_CTX_free(context);
	if (suites && suites[0] == '\0')
	{
		free(suites);
		suites = NULL;
	}
	return suites;
}

/* Digits of a pool's number, to base 4. */
#define POOL_DIGITS		32

/*
 * Let a request reuse connections of its own pool only (0: the common one).
 * "others" says that other pools have connections to the same host.
 *
 * libcurl knows no such pools, but a connection with TLS is reused, and a session
 * resumed, only under the same settings of TLS.  So each pool writes the list of
 * TLS 1.3's default cipher suites in its own way: its number, as white space at the
 * end, which OpenSSL ignores (SSL_CTX_set_ciphersuites()).  A list of the ciphers of
 * older versions would take OpenSSL 46 us to read, for each connection; this takes
 * 2 us.  Without pools, requests of several owners to a host with
 * HTTP/1.1 would need a new connection each, and any customer could slow down
 * another by sending to his host.  A drain of 200 chatbots' webhooks on one such
 * host had 3,000 deliveries a second while all shared connections, 800 with pools,
 * and 350 with new connections.
 *
 * Without TLS, owners do get new connections: 3,400 instead of 3,700 a second.
 */
static bool
set_pool(CURL *easy, const char *url, uint64_t pool, bool others)
{
	bool		with_tls = strncasecmp(url, "https:", 6) == 0;
	const char *suites = with_tls && pool ? default_suites() : NULL;
	bool		apart = others && !(with_tls && default_suites());

	if (suites)
	{
		size_t		len = strlen(suites);
		char	   *list = malloc(len + POOL_DIGITS + 1);
		CURLcode	code;

		if (list == NULL)
			return false;
		memcpy(list, suites, len);
		for (int i = 0; i < POOL_DIGITS; i++)
			list[len + i] = " \t\v\f"[pool >> 2 * i & 3];
		list[len + POOL_DIGITS] = '\0';
		code = curl_easy_setopt(easy, CURLOPT_TLS13_CIPHERS, list);
		free(list);
		if (code == CURLE_OUT_OF_MEMORY)
			return false;
		/* libcurl may have been built with an OpenSSL that has no TLS 1.3 */
		if (code != CURLE_OK)
			apart = others;
	}
	else
	{
		/* which libcurl refuses with some libraries for TLS */
		(void) curl_easy_setopt(easy, CURLOPT_TLS13_CIPHERS, NULL);
	}
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, (long) apart);
	curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, (long) apart);
	return true;
}

/* The list in which a handle of this affinity is. */
static dlist_head *
bucket_of(uint64_t affinity)
{
	dlist_head *bucket = &buckets[affinity % MAX_RESUMABLE];

	if (bucket->head.next == NULL)
		dlist_init(bucket);
	return bucket;
}

/* Take a handle out of the lists, for use. */
static void
take_spare(Spare *item, CwhHandle *handle)
{
	handle->easy = item->easy;
	handle->share = item->share;
	dlist_delete(&item->node);
	if (item->affinity == 0)
		nspare--;
	else
	{
		dlist_delete(&item->bucket_node);
		nresumable--;
	}
	free(item);
}

/* Free a handle that is not in use. */
static void
free_spare(Spare *item)
{
	CwhHandle	handle;

	take_spare(item, &handle);
	free_handle(handle.easy, handle.share);
}

/*
 * Find a handle that is not in use, for a request of this affinity, or make one.
 * False if memory is out.
 */
static bool
find_handle(CwhHandle *handle, uint64_t affinity)
{
	dlist_iter	iter;

	if (affinity != 0)
	{
		dlist_foreach(iter, bucket_of(affinity))
		{
			Spare	   *item = dlist_container(Spare, bucket_node, iter.cur);

			if (item->affinity == affinity)
			{
				take_spare(item, handle);
				return true;
			}
		}
	}
	else if (nspare > 0)
	{
		take_spare(dlist_head_element(Spare, node, &spare), handle);
		return true;
	}
	handle->easy = make_handle();
	if (handle->easy == NULL)
		return false;
	handle->share = affinity != 0 ? make_share(handle->easy) : NULL;
	return true;
}

/* Keep a handle that is not in use any more; false if that is not possible. */
static bool
keep_spare(const CwhHandle *handle)
{
	Spare	   *item;

	if (handle->affinity == 0 && nspare == MAX_SPARE)
		return false;
	/* the sessions of the one that is unused for longest are worth least */
	if (handle->affinity != 0 && nresumable == MAX_RESUMABLE)
		free_spare(dlist_tail_element(Spare, node, &resumable));
	item = malloc(sizeof(Spare));
	if (item == NULL)
		return false;
	item->easy = handle->easy;
	item->share = handle->share;
	item->affinity = handle->affinity;
	if (handle->affinity == 0)
	{
		dlist_push_head(&spare, &item->node);
		nspare++;
	}
	else
	{
		dlist_push_head(&resumable, &item->node);
		dlist_push_head(bucket_of(handle->affinity), &item->bucket_node);
		nresumable++;
	}
	return true;
}

/*
 * Get a handle that is set up for a request and its header lines, perhaps null,
 * which libcurl does not copy.  "host" identifies the URL's host and port.  False
 * if memory is out.
 */
bool
cwh_handle_take(CwhHandle *handle, const CwhRequest *request, uint64_t host,
				struct curl_slist *lines, uint64_t pool, bool others)
{
	/* as good a hash as the two are; 0 means none */
	uint64_t	affinity = strncasecmp(request->url, "https:", 6) != 0 ? 0 :
		((host ^ request->owner * UINT64CONST(0x9E3779B97F4A7C15)) | 1);
	CURL	   *easy;

	if (!find_handle(handle, affinity))
		return false;
	easy = handle->easy;
	if (curl_easy_setopt(easy, CURLOPT_URL, request->url) != CURLE_OK ||
		!set_method(easy, request) ||
		!set_client_certificate(easy, request->client_certificate,
								request->client_key) ||
		!set_pool(easy, request->url, pool, others))
	{
		free_handle(easy, handle->share);
		handle->easy = NULL;
		return false;
	}
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, lines);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, request->timeout_ms);
	handle->affinity = affinity;
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
 * must one with which libcurl has repeated a request, if it counts that.
 */
void
cwh_handle_release(CwhHandle *handle, bool repeated)
{
	/* the buffer may go before the handle */
	curl_easy_setopt(handle->easy, CURLOPT_ERRORBUFFER, NULL);
	if (handle->generation != generation ||
		(repeated && cwh_curl_counts_repeats()) || !keep_spare(handle))
		free_handle(handle->easy, handle->share);
	handle->easy = NULL;
	handle->share = NULL;
}

/* Free all handles that are kept. */
static void
free_all_spare(void)
{
	while (nspare > 0)
		free_spare(dlist_head_element(Spare, node, &spare));
	while (nresumable > 0)
		free_spare(dlist_head_element(Spare, node, &resumable));
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
	free_all_spare();
	free(ca_file);
	free(proxy);
	ca_file = ca_file_copy;
	proxy = proxy_copy;
	generation++;
	return true;
}
