/*
 * failure.h
 *		Describes failed transfers.  Pure, except for the names of libcurl's
 *		and OpenSSL's errors.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_FAILURE_H
#define CWH_FAILURE_H

#include <stdbool.h>
#include <stddef.h>

/* How far a transfer got. */
typedef enum CwhPhase
{
	CWH_PHASE_LOOKUP,			/* of the host's name */
	CWH_PHASE_CONNECT,
	CWH_PHASE_HANDSHAKE,		/* of TLS */
	CWH_PHASE_SENT,				/* the request was sent, no reply has begun */
	CWH_PHASE_HEADERS,			/* in the reply's headers */
	CWH_PHASE_BODY				/* in its body */
} CwhPhase;

/*
 * What a customer gets to read both of a name that does not exist and of one
 * that resolves to addresses of ours: the difference would tell which names our
 * own network has.
 */
#define CWH_NO_ADDRESS \
	"could not resolve the host name, or it resolves to addresses that are not allowed"

#define CWH_HEADERS_TOO_LARGE	"the reply's headers are too large"

/* The facts about a failure. */
typedef struct CwhFailure
{
	int			code;			/* libcurl's, a CURLcode */
	CwhPhase	phase;
	const char *detail;			/* libcurl's own message, or empty */
	long		verify_result;	/* OpenSSL's, for the server's certificate */
	long		os_errno;		/* of a failed connect, or 0 */
	bool		has_client_certificate;
	bool		has_ca_file;	/* chatwebhook.ca_file is set */
} CwhFailure;

extern void cwh_describe_failure(const CwhFailure *failure, char *out,
								 size_t size);

#endif							/* CWH_FAILURE_H */
