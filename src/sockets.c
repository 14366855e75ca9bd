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
	bool		stirred;		/* has been readable while idle */
	bool		corked;			/* listed in corked[] */
	uint64_t	connection;		/* counts connections; 0: not known */
	uint64_t	ends;			/* a hash of its ends */
	uint64_t	owner;			/* whose request has opened it */
	int			users;			/* requests that are using it */
	int			http_version;	/* 1 or 2; 0: not known */
} Socket;

static int	epoll_fd = -1;
static Socket *sockets = NULL;	/* by descriptor */
static int	nsockets = 0;
static int	by_port[65536];		/* descriptors by local port */
static int	corked[MAX_CORKED]; /* sockets whose packets are held back */
static int	ncorked = 0;

/*
 * Forget everything; libcurl has closed all of its sockets.  If asked, open an
 * epoll descriptor for others, and return it; -1 if that fails.
 */
int
cwh_sockets_reset(bool open)
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
	if (open)
		epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return epoll_fd;
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
cwh_socket_open(int family, int type, int protocol, uint64_t owner,
				bool *starved)
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
	sock->owner = owner;

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

		if (wanted == 0)
			sock->stirred = true;
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
 * A request's reply has begun, in this version of HTTP; or with 0, the request
 * is not using its connection any more.
 */
void
cwh_socket_note(CwhUse *use, int http_version)
{
	Socket	   *sock;

	if (use->connection != 0 && use->fd < nsockets &&
		sockets[use->fd].connection == use->connection)
	{
		sock = &sockets[use->fd];
		if (http_version == 0)
			sock->users--;
		else if (sock->http_version != 1)
			sock->http_version = http_version;
	}
	if (http_version == 0)
		use->connection = 0;
}

/* A hash of a connection's ends (FNV-1a). */
static uint64_t
hash_ends(const CwhEnds *ends)
{
	uint64_t	hash = UINT64_C(0xcbf29ce484222325);

	for (const char *p = ends->remote_ip; *p; p++)
		hash = (hash ^ (unsigned char) *p) * UINT64_C(0x100000001b3);
	hash = (hash ^ (uint64_t) ends->remote_port) * UINT64_C(0x100000001b3);
	return (hash ^ (uint64_t) ends->local_port) * UINT64_C(0x100000001b3);
}

/*
 * A connection with these ends has been made, by one of these sockets.  Find out
 * by which: libcurl tells us the ends of each request's connection, but not its
 * descriptor.
 */
static void
note_connection(const int *fds, int n, const CwhEnds *ends)
{
	static uint64_t connections = 0;

	for (int i = 0; i < n; i++)
	{
		int			fd = fds[i];
		struct sockaddr_in6 address;	/* large enough for either family */
		socklen_t	len = sizeof(address);

		if (!sockets[fd].ours || sockets[fd].connection != 0 ||
			getsockname(fd, (struct sockaddr *) &address, &len) < 0)
			continue;
		/* both families have the port in the same place */
		if (ntohs(address.sin6_port) != ends->local_port)
			continue;
		sockets[fd].connection = ++connections;
		sockets[fd].ends = hash_ends(ends);
		by_port[ends->local_port] = fd;
	}
}

/* The descriptor of a connection; -1 if it is not known. */
static int
find_connection(const CwhEnds *ends)
{
	uint64_t	hash = hash_ends(ends);
	int			found = by_port[ends->local_port];

	if (found < nsockets && sockets[found].connection != 0 &&
		sockets[found].ends == hash)
		return found;
	/* connections to several hosts can have the same local port */
	for (int fd = 0; fd < nsockets; fd++)
		if (sockets[fd].connection != 0 && sockets[fd].ends == hash)
			return fd;
	return -1;
}

/*
 * Has the peer closed an idle connection with HTTP/1.1?  Anything that it sends is
 * taken for that: with TLS, it should be the message that closes it, for which
 * libcurl does not look.
 */
static bool
is_stale(int fd, Socket *sock)
{
	char		byte;

	if (!sock->stirred || sock->http_version != 1 || sock->users > 0)
		return false;
	sock->stirred = false;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

/*
 * A request is about to be written to the connection with these ends, which may
 * be one of these new sockets.  False if it must not be: because another owner
 * has used the connection, and replies on it could be mistaken; or because the
 * connection was there before and has been closed.
 *
 * With HTTP/1.1, a reply belongs to a request only because it comes next.  If one
 * webhook's request or reply could be made to end elsewhere than libcurl thinks,
 * the next request on that connection would get the wrong reply.  So those of
 * different owners are kept apart.  HTTP/2 numbers requests and replies.  While
 * one request is using a connection, libcurl gives it another only with HTTP/2.
 *
 * Requests that share a connection are written one right after the other, each
 * in two pieces.  Have the kernel collect them until cwh_sockets_uncork():
 * sending each by itself, and waking the receiver for each, costs more than
 * everything else we do for it.
 */
bool
cwh_socket_request(const int *fds, int n, const CwhEnds *ends, uint64_t owner,
				   bool shared, CwhUse *use)
{
	Socket	   *sock;
	int			fd;
	int			on = 1;

	cwh_socket_note(use, 0);
	if (ends->local_port <= 0 || ends->local_port > UINT16_MAX)
		return false;
	note_connection(fds, n, ends);
	fd = find_connection(ends);
	if (fd < 0)
		return false;
	sock = &sockets[fd];
	if (sock->owner != owner && sock->http_version != 2 &&
		(sock->http_version != 0 || sock->users == 0))
		return false;
	if (n == 0 && is_stale(fd, sock))
		return false;
	sock->users++;
	use->fd = fd;
	use->connection = sock->connection;
	if (!shared || sock->corked || ncorked == MAX_CORKED)
		return true;
	(void) setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
	sock->corked = true;
	corked[ncorked++] = fd;
	return true;
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
