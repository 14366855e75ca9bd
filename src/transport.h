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

#include "http.h"
#include "target.h"

typedef struct CwhTransportOptions
{
	CwhTargetPolicy policy;
	size_t		max_response_size;	/* bytes of a body that are kept */
	int			max_connections;	/* open at a time, idle ones included */
	const char *ca_file;		/* null or empty: the system's */
	const char *proxy;			/* null or empty: none */
} CwhTransportOptions;

/* A request, its reply, and behind them what only transport.c knows. */
typedef struct CwhTransfer
{
	CwhRequest	request;		/* the caller's to fill in */
	CwhReply	reply;			/* valid once it has been reaped */
	void	   *owner;			/* the caller's */
} CwhTransfer;

/*
 * The transport itself.  cwh_transport_configure() opens it at first, and takes
 * over other options later; without options it closes it, and everything is
 * freed.  It returns the descriptor that becomes readable
 * when there is something to drive, or -1 if memory or descriptors are out.
 */
extern int	cwh_transport_configure(const CwhTransportOptions *options);
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
