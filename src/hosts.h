/*
 * hosts.h
 *		What is known of the hosts that requests go to.  For transport.c.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_HOSTS_H
#define CWH_HOSTS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* two of a thousand hosts share a slot in 1 of 16 cases; 768 kB */
#define MAX_HOSTS				16384

struct Transfer;

/*
 * A host.  If it takes many requests on one connection (HTTP/2), others wait
 * while one transfer makes a connection to it, in order to share it.  libcurl can
 * do that, too (CURLOPT_PIPEWAIT), but it makes transfers wait for any host that
 * has not answered yet, one after the other if connecting fails, and does not
 * make them wait while it still has a connection that the host is closing.
 */
typedef struct Host
{
	uint64_t	key;			/* if it speaks HTTP/2: see host_key(); or 0 */
	struct Transfer *connecting;	/* or null */

	/* of the last request, whatever the host speaks */
	uint64_t	last_key;
	uint64_t	owner;
	int			apart;			/* for this many more requests, assume that other
								 * owners use the host */
} Host;

/* The key of a URL's host: FNV-1a of the URL up to its path. */
static inline uint64_t
host_key(const char *url)
{
	const char *scheme_end = strstr(url, "://");
	const char *end = scheme_end ? scheme_end + 3 : url;
	uint64_t	key = UINT64_C(0xcbf29ce484222325);

	end += strcspn(end, "/?#");
	for (const char *p = url; p < end; p++)
		key = (key ^ (unsigned char) *p) * UINT64_C(0x100000001b3);
	return key;
}

/* A request of an owner goes to a host: have there been others' of late? */
static inline bool
host_has_others(Host *host, uint64_t key, uint64_t owner)
{
	if (host->last_key != key)
		host->apart = 0;
	else if (host->owner != owner)
		host->apart = 16;
	else if (host->apart > 0)
		host->apart--;
	host->last_key = key;
	host->owner = owner;
	return host->apart > 0;
}

#endif							/* CWH_HOSTS_H */
