/*
 * compat_curl.h
 *		All code that depends on the version of libcurl (7.81 or later), as
 *		functions with one signature.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_COMPAT_CURL_H
#define CWH_COMPAT_CURL_H

#include <curl/curl.h>

#if LIBCURL_VERSION_NUM < 0x075100
#error "chatwebhook needs libcurl 7.81 or later"
#endif

/* Set the protocols of a handle, given both as a list and as a bit mask. */
#if LIBCURL_VERSION_NUM >= 0x075500
#define cwh_curl_set_protocols(easy, list, bits) \
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, list)
#else
#define cwh_curl_set_protocols(easy, list, bits) \
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long) (bits))
#endif

/* Let libcurl check all of its sockets.  Deprecated only because it is slow. */
static inline void
cwh_curl_socket_all(CURLM *multi, int *running)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	(void) curl_multi_socket_all(multi, running);
#pragma GCC diagnostic pop
}

/* Do not wait for a running name lookup when a handle is closed. */
#if LIBCURL_VERSION_NUM >= 0x075700
#define cwh_curl_set_quick_exit(easy) \
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L)
#else
#define cwh_curl_set_quick_exit(easy) ((void) 0)
#endif

/* Keep the certificate authorities that were read for later connections. */
#if LIBCURL_VERSION_NUM >= 0x075700
#define cwh_curl_cache_authorities(easy, seconds) \
	curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, (long) (seconds))
#else
#define cwh_curl_cache_authorities(easy, seconds) ((void) 0)
#endif

/* Was a limit of libcurl exceeded?  Older versions call that out of memory. */
#if LIBCURL_VERSION_NUM >= 0x080600
#define cwh_curl_is_too_large(code) ((code) == CURLE_TOO_LARGE)
#else
#define cwh_curl_is_too_large(code) ((code) == CURLE_OUT_OF_MEMORY)
#endif

/*
 * Does libcurl count the requests that it has repeated over the whole life of a
 * handle, and fail the sixth?
 */
static inline bool
cwh_curl_counts_repeats(void)
{
	return curl_version_info(CURLVERSION_NOW)->version_num < 0x081100;
}

/*
 * May a handle keep the addresses that were looked up forever, by -1 for
 * CURLOPT_DNS_CACHE_TIMEOUT?  From 8.1 to 8.15, that makes libcurl forget all of
 * them when a transfer ends, and 8.16 refuses it.
 */
static inline bool
cwh_curl_keeps_addresses(void)
{
	unsigned int version = curl_version_info(CURLVERSION_NOW)->version_num;

	return version < 0x080100 || version >= 0x081100;
}

#endif							/* CWH_COMPAT_CURL_H */
