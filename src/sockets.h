/*
 * sockets.h
 *		The sockets that libcurl uses: epoll, corking, and PostgreSQL's count
 *		of descriptors.  For transport.c; knows nothing of libcurl.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SOCKETS_H
#define CWH_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>

/* Called for a socket that is ready for an event that libcurl wants of it. */
typedef void (*CwhSocketReady) (int fd, bool readable, bool writable);

extern int	cwh_sockets_open(void);
extern void cwh_sockets_close(void);
extern bool cwh_sockets_poll(CwhSocketReady ready);
extern void cwh_sockets_account(const int *fds, int n);
extern void cwh_sockets_uncork(void);

/* A request's connection, while it is using that. */
typedef struct CwhUse
{
	int			fd;
	uint64_t	connection;		/* its number; 0: none */
} CwhUse;

/* The ends of a connection, as libcurl names them. */
typedef struct CwhEnds
{
	const char *remote_ip;
	int			remote_port;
	int			local_port;
} CwhEnds;

extern int	cwh_socket_open(int family, int type, int protocol, uint64_t owner,
							bool *starved);
extern int	cwh_socket_close(int fd);
extern bool cwh_socket_want(int fd, bool readable, bool writable);
extern bool cwh_socket_request(const int *fds, int n, const CwhEnds *ends,
							   uint64_t owner, bool shared, CwhUse *use);
extern void cwh_socket_note(CwhUse *use, int http_version);

#endif							/* CWH_SOCKETS_H */
