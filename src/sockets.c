/*
 * sockets.c
 *		The sockets that libcurl uses.
 *
 * libcurl opens and closes its connections' sockets through us, so that they
 * count against PostgreSQL's limit of descriptors, and tells us which events it
 * is interested in.  It also closes some without telling us: those of connects
 * that it gives up.  The kernel may reuse their numbers at once, so our record
 * of a descriptor may be that of its predecessor.
 *
 * epoll is level-triggered and updated lazily.  libcurl withdraws its interest
 * in a socket when a request ends, and states it again when the next one starts
 * on the same connection; following it would cost two system calls per request.
 * Instead a socket stays registered, and is removed only if it becomes ready
 * while libcurl has no interest in it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"

#include "sockets.h"

#define MAX_EVENTS		128
#define MAX_CORKED		64

/* What we know about a descriptor. */
typedef struct Socket
{
	unsigned char wanted;		/* by libcurl: EPOLLIN, EPOLLOUT */
	unsigned char registered;	/* with epoll */
	bool		ours;			/* opened by cwh_socket_open() */
	bool		corked;			/* listed in corked[] */
	uint16_t	local_port;		/* of its connection; 0: not known */
} Socket;

static int	epoll_fd = -1;
static Socket *sockets = NULL;	/* by descriptor */
static int	nsockets = 0;
static int	by_port[65536];		/* descriptors by local port */
static int	corked[MAX_CORKED]; /* sockets whose packets are held back */
static int	ncorked = 0;

/* Open the epoll descriptor, and return it; -1 if that fails. */
int
cwh_sockets_open(void)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return epoll_fd;
}

/* Forget everything; libcurl has closed all of its sockets. */
void
cwh_sockets_close(void)
{
	if (epoll_fd >= 0)
		close(epoll_fd);
	epoll_fd = -1;
	/* those that it has closed without telling us */
	for (int fd = 0; fd < nsockets; fd++)
		if (sockets[fd].ours)
			ReleaseExternalFD();
	free(sockets);
	sockets = NULL;
	nsockets = ncorked = 0;
}

/* The entry of a descriptor, made if needed; null if memory is out. */
static Socket *
get_socket(int fd)
{
	if (fd >= nsockets)
	{
		int			n = (fd + 64) * 2;
		Socket	   *larger = realloc(sockets, n * sizeof(Socket));

		if (larger == NULL)
			return NULL;
		memset(larger + nsockets, 0, (n - nsockets) * sizeof(Socket));
		sockets = larger;
		nsockets = n;
	}
	return &sockets[fd];
}

/* Have epoll watch a descriptor for these events, or not at all if 0. */
static void
watch(int fd, Socket *sock, unsigned char events)
{
	struct epoll_event event;
	int			op;

	if (sock->registered == events)
		return;
	memset(&event, 0, sizeof(event));
	event.events = events;
	event.data.fd = fd;
	if (events == 0)
		op = EPOLL_CTL_DEL;
	else
		op = sock->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(epoll_fd, op, fd, &event) < 0 && events != 0)
	{
		/* our record is out of date, see above: try the other operation */
		op = op == EPOLL_CTL_MOD ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
		(void) epoll_ctl(epoll_fd, op, fd, &event);
	}
	sock->registered = events;
}

/*
 * Open a socket for a connection; -1 if that fails, perhaps because no
 * descriptor was free.
 */
int
cwh_socket_open(int family, int type, int protocol, bool *starved)
{
	Socket	   *sock;
	int			fd;

	*starved = !AcquireExternalFD();
	if (*starved)
		return -1;
	fd = socket(family, type | SOCK_CLOEXEC, protocol);
	if (fd < 0 || (sock = get_socket(fd)) == NULL)
	{
		*starved = fd < 0 && (errno == EMFILE || errno == ENFILE);
		if (fd >= 0)
			close(fd);
		ReleaseExternalFD();
		return -1;
	}
	/* libcurl has closed the number's former socket without telling us */
	if (sock->ours)
		ReleaseExternalFD();
	memset(sock, 0, sizeof(Socket));
	sock->ours = true;

	/*
	 * A connect waits for the socket to become writable.  libcurl may not say
	 * so if it still has that on record from the number's former socket.
	 */
	sock->wanted = EPOLLOUT;
	watch(fd, sock, EPOLLOUT);
	return fd;
}

/* Close a socket that cwh_socket_open() opened. */
int
cwh_socket_close(int fd)
{
	memset(&sockets[fd], 0, sizeof(Socket));
	ReleaseExternalFD();
	return close(fd);
}

/*
 * These sockets were opened for connects that are over.  Find those that
 * libcurl has closed without telling us.
 */
void
cwh_sockets_account(const int *fds, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			fd = fds[i];

		if (!sockets[fd].ours || fcntl(fd, F_GETFD) >= 0)
			continue;
		memset(&sockets[fd], 0, sizeof(Socket));
		ReleaseExternalFD();
	}
}

/* Record which events libcurl wants of a socket; false if memory is out. */
bool
cwh_socket_want(int fd, bool readable, bool writable)
{
	Socket	   *sock = get_socket(fd);

	if (sock == NULL)
		return false;
	sock->wanted = (readable ? EPOLLIN : 0) | (writable ? EPOLLOUT : 0);

	/*
	 * Be lazy only with the sockets of connections.  The others are pairs by
	 * which resolver threads report, closed without a word each time.
	 */
	if (!sock->ours || (sock->wanted & ~sock->registered))
		watch(fd, sock, sock->wanted);
	return true;
}

/*
 * Call a function for each socket that is ready for an event that libcurl wants
 * of it.  True if there may be more.
 */
bool
cwh_sockets_poll(CwhSocketReady ready)
{
	struct epoll_event events[MAX_EVENTS];
	int			n = epoll_wait(epoll_fd, events, MAX_EVENTS, 0);

	for (int i = 0; i < n; i++)
	{
		int			fd = events[i].data.fd;
		uint32_t	happened = events[i].events;
		Socket	   *sock = &sockets[fd];
		unsigned char wanted = sock->wanted;

		if (happened & (EPOLLERR | EPOLLHUP))
			happened |= wanted;
		/* stop epoll from reporting events that are not wanted */
		if ((happened & (EPOLLIN | EPOLLOUT) & ~wanted) || wanted == 0)
			watch(fd, sock, wanted);
		happened &= wanted;
		/* this can close sockets and open others, also of later events */
		if (happened != 0)
			ready(fd, happened & EPOLLIN, happened & EPOLLOUT);
	}
	return n == MAX_EVENTS;
}

/*
 * A connection with this local port has been made, by one of these sockets.
 * Find out by which: libcurl tells us the port of each request's connection,
 * but not its descriptor.
 */
static void
note_port(const int *fds, int n, int port)
{
	for (int i = 0; i < n; i++)
	{
		int			fd = fds[i];
		struct sockaddr_in6 address;	/* large enough for either family */
		socklen_t	len = sizeof(address);

		if (!sockets[fd].ours ||
			getsockname(fd, (struct sockaddr *) &address, &len) < 0)
			continue;
		/* both families have the port in the same place */
		if (ntohs(address.sin6_port) != port)
			continue;
		sockets[fd].local_port = port;
		by_port[port] = fd;
	}
}

/*
 * A request is about to be written to the connection with this local port, which
 * may be one of these new sockets.
 *
 * Requests that share a connection are written one right after the other, each
 * in two pieces.  Have the kernel collect them until cwh_sockets_uncork():
 * sending each by itself, and waking the receiver for each, costs more than
 * everything else we do for it.
 */
void
cwh_socket_request(const int *fds, int n, int port, bool shared)
{
	int			fd;
	int			on = 1;

	note_port(fds, n, port);
	if (!shared)
		return;
	fd = by_port[port];
	/* the entry may be of a socket that has been closed since */
	if (fd >= nsockets || sockets[fd].local_port != port)
		return;
	if (sockets[fd].corked || ncorked == MAX_CORKED)
		return;
	(void) setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
	sockets[fd].corked = true;
	corked[ncorked++] = fd;
}

/* Have the kernel send the packets that it holds back. */
void
cwh_sockets_uncork(void)
{
	int			off = 0;

	while (ncorked > 0)
	{
		int			fd = corked[--ncorked];

		/* else it has been closed since */
		if (sockets[fd].corked)
			(void) setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off));
		sockets[fd].corked = false;
	}
}
