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

/* Called for a socket that is ready for an event that libcurl wants of it. */
typedef void (*CwhSocketReady) (int fd, bool readable, bool writable);

extern int	cwh_sockets_open(void);
extern void cwh_sockets_close(void);
extern bool cwh_sockets_poll(CwhSocketReady ready);
extern void cwh_sockets_account(const int *fds, int n);
extern void cwh_sockets_uncork(void);

extern int	cwh_socket_open(int family, int type, int protocol, bool *starved);
extern int	cwh_socket_close(int fd);
extern bool cwh_socket_want(int fd, bool readable, bool writable);
extern void cwh_socket_request(const int *fds, int n, int port,
							   bool shared);

#endif							/* CWH_SOCKETS_H */
