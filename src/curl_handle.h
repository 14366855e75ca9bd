/*
 * curl_handle.h
 *		libcurl's easy handles: the options of a request.  For transport.c;
 *		knows nothing of PostgreSQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CURL_HANDLE_H
#define CWH_CURL_HANDLE_H

#include <stdbool.h>
#include <stdint.h>

#include <curl/curl.h>

#include "http.h"

typedef struct CwhHandle
{
	CURL	   *easy;			/* null: none */
	CURLSH	   *share;			/* of its TLS sessions, or null */
	uint64_t	affinity;		/* whose TLS sessions it may have; 0: none */
	uint64_t	generation;		/* of the options that it was made with */
	bool		has_ca_file;
	bool		has_proxy;
} CwhHandle;

extern bool cwh_handles_configure(const char *ca_file, const char *proxy);
extern bool cwh_handle_take(CwhHandle *handle, const CwhRequest *request,
							uint64_t host, struct curl_slist *lines,
							uint64_t pool, bool others);
extern void cwh_handle_release(CwhHandle *handle, bool repeated);

#endif							/* CWH_CURL_HANDLE_H */
