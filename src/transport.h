/*
 * transport.h
 *		Sends requests with libcurl.  Knows nothing of SQL, raises no errors,
 *		and uses malloc, since libcurl calls it back.
 *
 * The caller takes a transfer, fills in its request, starts it, drives the
 * transport whenever its descriptor is readable or its time has come, and reaps
 * transfers as they end; then it reads the reply and frees the transfer.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_TRANSPORT_H
#define CWH_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "target.h"

typedef struct CwhTransportOptions
{
	CwhTargetPolicy policy;
	size_t		max_response_size;	/* bytes of a body that are kept */
	int			max_connections;	/* open at a time, idle ones included */
	const char *ca_file;		/* null or empty: the system's */
	const char *proxy;			/* null or empty: none */
} CwhTransportOptions;

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
	const char *method;			/* null: POST */
	const char *body;			/* or null */
	size_t		body_len;
	size_t		min_response_size;	/* kept of a body, if the option is less */
	long		timeout_ms;
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
} CwhReply;

/* A request, its reply, and behind them what only transport.c knows. */
typedef struct CwhTransfer
{
	CwhRequest	request;		/* the caller's to fill in */
	CwhReply	reply;			/* valid once it has been reaped */
	void	   *owner;			/* the caller's */
} CwhTransfer;

/*
 * The transport itself.  cwh_transport_configure() opens it at first, and takes
 * over other options later; it returns the descriptor that becomes readable
 * when there is something to drive, or -1 if memory or descriptors are out.
 */
extern int	cwh_transport_configure(const CwhTransportOptions *options);
extern void cwh_transport_close(void);
extern long cwh_transport_timeout_ms(void);
extern int	cwh_transport_drive(void);
extern CwhTransfer *cwh_transport_reap(void);

/*
 * Transfers.  cwh_transfer_new() gives one with room for so many header lines
 * and so many bytes of text made for it (cwh_transfer_keep()), which are
 * overwritten when it is freed, since they may be secret; null if memory is out.
 */
extern CwhTransfer *cwh_transfer_new(int max_lines, size_t max_text);
extern void cwh_transfer_add_line(CwhTransfer *transfer, const char *line);
extern char *cwh_transfer_keep(CwhTransfer *transfer, size_t len);
extern bool cwh_transfer_start(CwhTransfer *transfer);
extern void cwh_transfer_free(CwhTransfer *transfer);

#endif							/* CWH_TRANSPORT_H */
