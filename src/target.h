/*
 * target.h
 *		Which URLs and addresses may be sent to.  Pure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_TARGET_H
#define CWH_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct sockaddr;

/* A network in CIDR notation, perhaps with a port: 10.0.0.0/8:443. */
typedef struct CwhNetwork
{
	int			family;			/* AF_INET or AF_INET6 */
	int			bits;			/* length of the prefix */
	unsigned char address[16];	/* network byte order; IPv4 uses the first 4 */
	uint16_t	port;			/* 0: any */
} CwhNetwork;

/* What the settings of the administrator allow. */
typedef struct CwhTargetPolicy
{
	bool		allow_http;		/* else https only */
	const CwhNetwork *allowed;	/* allowed, even if not public */
	int			nallowed;
	const CwhNetwork *denied;	/* refused, even if public or allowed */
	int			ndenied;
	const uint16_t *ports;		/* the only ones allowed */
	int			nports;			/* 0: all ports that are not dangerous */
} CwhTargetPolicy;

#define CWH_MAX_URL_LEN		4096
#define CWH_MAX_HOST_LEN	253

/* The parts of an accepted URL. */
typedef struct CwhTarget
{
	bool		https;
	char		host[CWH_MAX_HOST_LEN + 1]; /* lower case, without brackets */
	bool		literal;		/* host is an IP address */
	uint16_t	port;
} CwhTarget;

extern const char *cwh_target_check_url(const CwhTargetPolicy *policy,
										const char *url, size_t len,
										CwhTarget *target);
extern const char *cwh_target_check_address(const CwhTargetPolicy *policy,
											const struct sockaddr *address);
extern int	cwh_target_parse_networks(const char *list, CwhNetwork *networks,
									  int max, const char **problem);
extern int	cwh_target_parse_ports(const char *list, uint16_t *ports, int max,
								   const char **problem);

/* The most that cwh_url_encode() writes for len bytes, without the zero byte. */
#define CWH_URL_ENCODED_MAX(len)	(3 * (len))

/*
 * Percent-encode all of a string but RFC 3986's unreserved characters.  Returns
 * the length of the result, which ends with a zero byte.
 */
static inline size_t
cwh_url_encode(const char *value, char *out)
{
	static const char hex[] = "0123456789ABCDEF";
	char	   *to = out;

	for (const char *c = value; *c; c++)
	{
		if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
			(*c >= '0' && *c <= '9') || strchr("-._~", *c))
			*to++ = *c;
		else
		{
			*to++ = '%';
			*to++ = hex[(unsigned char) *c >> 4];
			*to++ = hex[(unsigned char) *c & 0xf];
		}
	}
	*to = '\0';
	return to - out;
}

#endif							/* CWH_TARGET_H */
