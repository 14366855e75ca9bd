/*
 * http.h
 *		A request and its reply, as the transport takes and gives them.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_HTTP_H
#define CWH_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing run of bytes that malloc gave. */
typedef struct CwhBytes
{
	char	   *data;
	size_t		len;
	size_t		cap;
} CwhBytes;

/*
 * A request.  What it points to must stay as it is until the transfer has been
 * reaped or freed.
 */
typedef struct CwhRequest
{
	const char *url;
	uint64_t	owner;			/* whose it is, as far as connections are shared */
	const char *method;			/* null: POST */
	const char *body;			/* or null */
	size_t		body_len;
	size_t		min_response_size;	/* kept of a body, if the option is less */
	long		timeout_ms;
	bool		hide_dns_errors;	/* see failure.h */
	const char *client_certificate; /* PEM, or null */
	const char *client_key;		/* PEM, or null: in the certificate's text */
} CwhRequest;

typedef struct CwhReply
{
	int			status;			/* 0 if there was none */
	bool		failed;			/* there was no whole reply; see error */
	bool		refused;		/* by the address policy, every address of it */
	bool		starved;		/* no descriptor was free */
	char		error[256];		/* UTF-8, empty if not failed */
	int			latency_ms;
	int64_t		retry_after_s;	/* -1 if the reply named none */
	CwhBytes	headers;		/* lines as they came */
	CwhBytes	body;			/* as it came, cut at max_response_size */
	bool		cut_off;		/* there was more of it */
} CwhReply;

#endif							/* CWH_HTTP_H */
