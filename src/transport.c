/*
 * transport.c
 *		Sends requests with libcurl.
 *
 * One multi handle, driven by curl_multi_socket_action() from an epoll
 * descriptor that the caller can wait on together with its latch.  Nothing in
 * here raises an error or runs SQL: libcurl's callbacks must return, so they
 * record what happened and the caller reads it when it reaps.
 *
 * libcurl's resolver runs in threads, which inherit the signal mask and must
 * not run PostgreSQL's handlers; so signals are blocked while libcurl may start
 * one.
 *
 * epoll is level-triggered and told lazily.  libcurl takes its interest in a
 * socket away when a transfer ends and states it again when the next one
 * starts on the same connection; obeying would cost two system calls for each
 * request.  A socket stays registered instead, and is taken out only if it
 * becomes ready while libcurl has no interest in it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

#include "storage/fd.h"

#include "chatwebhook.h"
#include "compat.h"

/* Time for the look-up, connecting and the TLS handshake, at most. */
#define CONNECT_TIMEOUT_MS		5000

/* What a handle reads at once; a longer reply takes several reads. */
#define RECEIVE_BUFFER_SIZE		4096

/* A reply's header lines beyond these limits end the transfer. */
#define MAX_HEADER_BYTES		(32 * 1024)
#define MAX_HEADER_LINES		200

/*
 * A request and its repeats on other connections.  When a shared one ends, that
 * strikes many at once, and those may well fill up the next.
 */
#define MAX_REQUESTS			2
#define MAX_SHARED_REQUESTS		5

/*
 * While a transfer connects, libcurl is called this often at least.  When an
 * address has had its share of the time it closes that socket and sets no
 * timer, so that the host's next address would never be tried.
 */
#define CONNECTING_MS			250

#define MAX_EVENTS				128
#define MAX_HOSTS				1024
#define MAX_CORKED				64
#define MAX_SPARE_HANDLES		256

/* An address, of either kind. */
typedef union Address
{
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
} Address;

/* What is known of a descriptor. */
typedef struct Socket
{
	unsigned char wanted;		/* by libcurl: EPOLLIN, EPOLLOUT */
	unsigned char registered;	/* with epoll */
	bool		ours;			/* opened by open_socket() */
	bool		corked;			/* it is in the list of those */
	uint16_t	local_port;		/* of a connection; 0: not known */
} Socket;

/*
 * A host that takes many requests on a connection.  While one of its transfers
 * makes a connection, others wait to share it.  libcurl could have them wait
 * (CURLOPT_PIPEWAIT), but it does so with any host until that has answered, one
 * after the other if that fails, and not while it still has a connection that
 * the host is closing.
 */
typedef struct Host
{
	uint64_t	key;			/* a hash of its URL, 0: none */
	CwhTransfer *connecting;	/* or null */
} Host;

static CURLM *multi = NULL;
static int	epoll_fd = -1;
static Socket *sockets = NULL;	/* by descriptor */
static int	nsockets = 0;
static bool timer_set = false;
static struct timespec timer_due;	/* when libcurl wants to be called */
static CURL *spare[MAX_SPARE_HANDLES];	/* easy handles not in use */
static int	nspare = 0;
static CwhTransfer *finished = NULL;	/* a queue, oldest first */
static CwhTransfer **finished_tail = &finished;
static int	running = 0;
static int	connecting = 0;		/* transfers without a connection yet */
static struct timespec looked_at;	/* when those were last looked at */
static uint64_t generation = 0; /* counts changes of the options */
static Host hosts[MAX_HOSTS];	/* by the last bits of their keys */
static CwhTransfer *waiting = NULL; /* a list of those for a connection */
static int	by_port[65536];		/* sockets, by their local ports */
static int	corked[MAX_CORKED]; /* sockets whose packets are held back */
static int	ncorked = 0;
static CwhTransportOptions options;
static char *ca_file = NULL;
static char *proxy = NULL;

/* Block all signals, for libcurl may start a thread. */
static void
block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, saved);
}

/* And let them in again. */
static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/*
 * Sockets
 */

/* The entry of a descriptor, made if needed; null if out of memory. */
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

/* Have epoll watch a descriptor for these events, or none. */
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
		/* the kernel and we disagree on whether it is there: try the other */
		op = op == EPOLL_CTL_MOD ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
		(void) epoll_ctl(epoll_fd, op, fd, &event);
	}
	sock->registered = events;
}

/* libcurl says what it wants to know of a socket. */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socketp)
{
	Socket	   *sock = get_socket(fd);

	if (sock == NULL)
		return -1;
	switch (what)
	{
		case CURL_POLL_IN:
			sock->wanted = EPOLLIN;
			break;
		case CURL_POLL_OUT:
			sock->wanted = EPOLLOUT;
			break;
		case CURL_POLL_INOUT:
			sock->wanted = EPOLLIN | EPOLLOUT;
			break;
		default:
			sock->wanted = 0;
			break;
	}
	/* one that libcurl made itself it may close without a word: no laziness */
	if (!sock->ours)
		watch(fd, sock, sock->wanted);
	else if (sock->wanted & ~sock->registered)
		watch(fd, sock, sock->wanted);
	return 0;
}

/* libcurl says when it wants to be called. */
static int
on_timer(CURLM *m, long timeout_ms, void *arg)
{
	timer_set = timeout_ms >= 0;
	if (timer_set)
	{
		clock_gettime(CLOCK_MONOTONIC, &timer_due);
		timer_due.tv_sec += timeout_ms / 1000;
		timer_due.tv_nsec += (timeout_ms % 1000) * 1000000L;
		if (timer_due.tv_nsec >= 1000000000L)
		{
			timer_due.tv_sec++;
			timer_due.tv_nsec -= 1000000000L;
		}
	}
	return 0;
}

/* Milliseconds from now until then, rounded up. */
static int64_t
ms_until(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) (then->tv_sec - now.tv_sec) * 1000 +
		(then->tv_nsec - now.tv_nsec + 999999) / 1000000;
}

/* Has a transfer used up its time, waiting and earlier tries included? */
static bool
out_of_time(const CwhTransfer *transfer)
{
	return -ms_until(&transfer->began) >= transfer->timeout_ms;
}

/*
 * Hosts
 */

/* The key of a URL's host: FNV-1a of the URL up to its path. */
static uint64_t
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

/* A transfer's host, if it is known to take many requests on a connection. */
static Host *
known_host(const CwhTransfer *transfer)
{
	Host	   *host = &hosts[transfer->host_key % MAX_HOSTS];

	return host->key == transfer->host_key ? host : NULL;
}

/* Note which version of HTTP a transfer's host has answered with. */
static void
learn_host(const CwhTransfer *transfer)
{
	Host	   *host = &hosts[transfer->host_key % MAX_HOSTS];
	long		version = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_HTTP_VERSION, &version);
	if (host->connecting != NULL || version == 0)
		return;
	if (version >= CURL_HTTP_VERSION_2_0)
		host->key = transfer->host_key;
	else if (host->key == transfer->host_key)
		host->key = 0;
}

/* Refuse an address that the policy does not allow; true if it does. */
static bool
address_allowed(CwhTransfer *transfer, const struct sockaddr *address)
{
	const char *reason;

	/* the proxy's own address is the administrator's business */
	if (transfer->proxied)
		return true;
	reason = cwh_target_check_address(&options.policy, address);
	if (reason == NULL)
		return true;
	transfer->refused = true;
	snprintf(transfer->error, sizeof(transfer->error), "address refused: %s",
			 reason);
	return false;
}

/*
 * Open a socket, if the address policy allows: here the name has been
 * resolved, so no answer that changes in between gets around it.
 */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	CwhTransfer *transfer = arg;
	Host	   *host = known_host(transfer);
	Socket	   *sock;
	int			fd;

	/* one that is refused is no matter if another of the name's is not */
	if (!address_allowed(transfer, &address->addr))
		return CURL_SOCKET_BAD;
	transfer->must_wait = host && host->connecting &&
		host->connecting != transfer && !out_of_time(transfer);
	if (transfer->must_wait)
		return CURL_SOCKET_BAD;
	if (!AcquireExternalFD())
	{
		transfer->starved = true;
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	if (fd < 0 || (sock = get_socket(fd)) == NULL)
	{
		transfer->starved = fd < 0 && (errno == EMFILE || errno == ENFILE);
		if (fd >= 0)
			close(fd);
		ReleaseExternalFD();
		return CURL_SOCKET_BAD;
	}
	/* a number that we had not seen closed has been closed all the same */
	if (sock->ours)
		ReleaseExternalFD();
	memset(sock, 0, sizeof(Socket));
	sock->ours = true;
	/* a connect waits for that, and of a number used again we may not be told */
	sock->wanted = EPOLLOUT;
	watch(fd, sock, EPOLLOUT);
	if (!transfer->connecting)
	{
		transfer->connecting = true;
		connecting++;
	}
	if (host && host->connecting == NULL)
		host->connecting = transfer;
	transfer->fds[transfer->nfds++ % lengthof(transfer->fds)] = fd;
	return fd;
}

/* Close a socket that open_socket() made. */
static int
close_socket(void *arg, curl_socket_t fd)
{
	memset(&sockets[fd], 0, sizeof(Socket));
	ReleaseExternalFD();
	return close(fd);
}

/*
 * A transfer does not connect any more.  If it has not succeeded, those that
 * wait are not to wait for one after the other.
 */
static void
end_connecting(CwhTransfer *transfer, bool made)
{
	Host	   *host;

	if (!transfer->connecting)
		return;
	transfer->connecting = false;
	connecting--;
	host = known_host(transfer);
	if (host && host->connecting == transfer)
	{
		host->connecting = NULL;
		if (!made)
			host->key = 0;
	}
}

/* A transfer has its connection. */
static void
connected(CwhTransfer *transfer)
{
	if (!transfer->connecting)
		return;
	end_connecting(transfer, true);
	/* of some of the host's addresses, perhaps, but not of this one */
	transfer->refused = transfer->starved = false;
	transfer->error[0] = '\0';
}

/* Judge the address that a connection leads to. */
static bool
peer_allowed(CwhTransfer *transfer, const char *remote_ip)
{
	Address		address;

	memset(&address, 0, sizeof(address));
	if (inet_pton(AF_INET, remote_ip, &address.v4.sin_addr) == 1)
		address.any.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, remote_ip, &address.v6.sin6_addr) == 1)
		address.any.sa_family = AF_INET6;
	return address_allowed(transfer, &address.any);
}

/* How often a request may be sent in an attempt. */
static int
max_requests(CwhTransfer *transfer)
{
	if (known_host(transfer))
		transfer->max_requests = MAX_SHARED_REQUESTS;
	return transfer->max_requests;
}

/*
 * A transfer has made a connection.  libcurl tells its local port with each
 * request on it, and no descriptor: find out which of the transfer's it is.
 */
static void
note_port(const CwhTransfer *transfer, int local_port)
{
	int			n = Min(transfer->nfds, lengthof(transfer->fds));

	for (int i = 0; i < n; i++)
	{
		int			fd = transfer->fds[i];
		Address		address;
		socklen_t	len = sizeof(address);

		if (!sockets[fd].ours || getsockname(fd, &address.any, &len) < 0)
			continue;
		/* the port is in the same place of both */
		if (ntohs(address.v4.sin_port) != local_port)
			continue;
		sockets[fd].local_port = local_port;
		by_port[local_port] = fd;
	}
}

/*
 * Requests that share a connection are sent one right after the other, each in
 * two pieces.  Have the kernel gather them, until uncork(), rather than send
 * each and wake the receiver for it: that costs more than the sending.
 */
static void
cork(int local_port)
{
	int			fd = by_port[local_port];
	int			on = 1;

	/* it may have been closed since, and the descriptor used again */
	if (sockets[fd].local_port != local_port || sockets[fd].corked ||
		ncorked == MAX_CORKED)
		return;
	(void) setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
	sockets[fd].corked = true;
	corked[ncorked++] = fd;
}

/* Let go of what is held back. */
static void
uncork(void)
{
	int			off = 0;

	while (ncorked > 0)
	{
		int			fd = corked[--ncorked];

		/* or it was closed meanwhile */
		if (sockets[fd].corked)
			(void) setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off));
		sockets[fd].corked = false;
	}
}

/*
 * A request is about to be sent, perhaps on a connection that was opened under
 * another policy: look again.
 */
static int
before_request(void *arg, char *remote_ip, char *local_ip, int remote_port,
			   int local_port)
{
	CwhTransfer *transfer = arg;

	/*
	 * libcurl repeats a request when a connection from its cache turns out to
	 * be closed, and goes on with the next one from there; so do we, see
	 * try_anew().  The receiver may have closed while the connection was
	 * idle, or, with HTTP/2, after so many requests.
	 */
	connected(transfer);
	transfer->reply = CWH_REPLY_NONE;	/* a proxy's, to CONNECT, is not it */
	if (++transfer->requests > max_requests(transfer))
	{
		strlcpy(transfer->error, "the connection was closed without a reply",
				sizeof(transfer->error));
		return CURL_PREREQFUNC_ABORT;
	}
	if (!peer_allowed(transfer, remote_ip))
		return CURL_PREREQFUNC_ABORT;
	if (local_port > 0 && local_port <= UINT16_MAX)
	{
		if (transfer->nfds > 0)
			note_port(transfer, local_port);
		if (known_host(transfer))
			cork(local_port);
	}
	return CURL_PREREQFUNC_OK;
}

/*
 * Replies
 */

/* Append bytes, as far as memory allows. */
static bool
append(CwhBytes *bytes, const char *data, size_t len)
{
	if (bytes->len + len + 1 > bytes->cap)
	{
		size_t		cap = (bytes->len + len + 1) * 2;
		char	   *larger = realloc(bytes->data, cap);

		if (larger == NULL)
			return false;
		bytes->data = larger;
		bytes->cap = cap;
	}
	memcpy(bytes->data + bytes->len, data, len);
	bytes->len += len;
	bytes->data[bytes->len] = '\0';
	return true;
}

/* End a transfer because of its reply's headers. */
static size_t
headers_too_large(CwhTransfer *transfer)
{
	strlcpy(transfer->error, CWH_HEADERS_TOO_LARGE, sizeof(transfer->error));
	return 0;
}

/* A line of a reply's headers, or of its trailers. */
static size_t
on_header(char *data, size_t size, size_t n, void *arg)
{
	static const char retry_after[] = "retry-after:";
	CwhTransfer *transfer = arg;
	size_t		len = size * n;

	/* status lines count, or replies of 1xx could go on for ever */
	if (++transfer->header_count > MAX_HEADER_LINES)
		return headers_too_large(transfer);
	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		/* the final reply, after those of 1xx and the proxy's */
		transfer->response_headers.len = 0;
		transfer->retry_after_s = -1;
		transfer->reply = CWH_REPLY_HEADERS;
		return len;
	}
	if (len <= 2)
		transfer->reply = CWH_REPLY_BODY;	/* the empty line before it */
	if (transfer->response_headers.len + len > MAX_HEADER_BYTES)
		return headers_too_large(transfer);
	if (len > strlen(retry_after) &&
		strncasecmp(data, retry_after, strlen(retry_after)) == 0)
		transfer->retry_after_s =
			cwh_retry_after(data + strlen(retry_after),
							len - strlen(retry_after), time(NULL));
	return append(&transfer->response_headers, data, len) ? len : 0;
}

/*
 * A piece of a reply's body.  What is beyond the limit nobody needs: we stop
 * reading, and the status alone decides.
 */
static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	CwhTransfer *transfer = arg;
	size_t		len = size * n;
	size_t		kept = transfer->response_body.len;
	size_t		limit = transfer->min_response_size > options.max_response_size ?
		transfer->min_response_size : options.max_response_size;
	size_t		room = kept < limit ? limit - kept : 0;

	if (len > room)
	{
		(void) append(&transfer->response_body, data, room);
		transfer->cut = true;
		return 0;
	}
	return append(&transfer->response_body, data, len) ? len : 0;
}

/*
 * Transfers
 */

/* A new easy handle with the options that no transfer changes. */
static CURL *
make_handle(void)
{
	CURL	   *easy = curl_easy_init();

	if (easy == NULL)
		return NULL;
	/* libcurl must not touch the process's signals */
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	/* nothing but what the address policy has seen */
	cwh_curl_set_protocols(easy, "http,https", CURLPROTO_HTTP | CURLPROTO_HTTPS);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, NULL);
	/* set even if empty, or libcurl asks the environment */
	curl_easy_setopt(easy, CURLOPT_PROXY, proxy ? proxy : "");
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "");
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	/* without one, some versions crash on a client's key that asks for it */
	curl_easy_setopt(easy, CURLOPT_KEYPASSWD, "");
	if (ca_file)
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) CONNECT_TIMEOUT_MS);
	/* keep-alive probes, or a firewall forgets an idle connection unheard */
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	/* each handle keeps this: 16 kB otherwise, and most replies are short */
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long) RECEIVE_BUFFER_SIZE);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_request);
	/* do not wait for a look-up that is given up: it may hang for a minute */
	cwh_curl_set_quick_exit(easy);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	return easy;
}

/* Take the options over that live as long as we do. */
static void
keep_options(const CwhTransportOptions *o)
{
	options = *o;
	generation++;
	free(ca_file);
	free(proxy);
	ca_file = o->ca_file && o->ca_file[0] ? strdup(o->ca_file) : NULL;
	proxy = o->proxy && o->proxy[0] ? strdup(o->proxy) : NULL;
}

/*
 * Keep idle connections up to the limit, and close the oldest for a new one.
 * The caller has no more requests under way than that, so that none queues.
 */
static void
limit_connections(void)
{
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS,
					  (long) options.max_connections);
	curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
					  (long) options.max_connections);
}

/* Set the transport up; false if that fails. */
bool
cwh_transport_open(const CwhTransportOptions *o)
{
	static bool initialized = false;

	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return false;
	initialized = true;
	keep_options(o);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		return false;
	multi = curl_multi_init();
	if (multi == NULL)
	{
		close(epoll_fd);
		epoll_fd = -1;
		return false;
	}
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	limit_connections();
	return true;
}

/*
 * Take other options.  Transfers under way go on as they were started; the next
 * ones use fresh handles, and connections are judged anew for each.
 */
void
cwh_transport_configure(const CwhTransportOptions *o)
{
	keep_options(o);
	while (nspare > 0)
		curl_easy_cleanup(spare[--nspare]);
	limit_connections();
}

/* Close everything; the caller has aborted what was under way. */
void
cwh_transport_close(void)
{
	sigset_t	saved;

	block_signals(&saved);
	while (nspare > 0)
		curl_easy_cleanup(spare[--nspare]);
	if (multi)
		curl_multi_cleanup(multi);
	multi = NULL;
	if (epoll_fd >= 0)
		close(epoll_fd);
	epoll_fd = -1;
	timer_set = false;
	running = connecting = 0;
	finished = NULL;
	finished_tail = &finished;
	memset(hosts, 0, sizeof(hosts));
	waiting = NULL;
	ncorked = 0;
	restore_signals(&saved);
}

/* Becomes readable when there is something to drive. */
int
cwh_transport_fd(void)
{
	return epoll_fd;
}

/* Milliseconds until cwh_transport_drive() should be called anyway; or -1. */
long
cwh_transport_timeout_ms(void)
{
	int64_t		ms;

	if (!timer_set)
		return connecting > 0 ? CONNECTING_MS : -1;
	ms = Max(ms_until(&timer_due), 0);
	return (long) (connecting > 0 ? Min(ms, CONNECTING_MS) : ms);
}

/* Forget what an earlier attempt left. */
static void
reset_outcome(CwhTransfer *transfer)
{
	transfer->status = 0;
	transfer->failed = false;
	transfer->refused = false;
	transfer->starved = false;
	transfer->error[0] = '\0';
	transfer->detail[0] = '\0';
	transfer->latency_ms = 0;
	transfer->begun_anew = false;
	transfer->max_requests = MAX_REQUESTS;
	transfer->earlier_requests = 0;
	transfer->must_wait = false;
	transfer->repeats = 0;
	transfer->retry_after_s = -1;
	transfer->response_headers.len = 0;
	transfer->response_body.len = 0;
	transfer->next = NULL;
	transfer->header_count = 0;
	transfer->connecting = false;
	transfer->nfds = 0;
	transfer->requests = 0;
	transfer->reply = CWH_REPLY_NONE;
	transfer->cut = false;
}

/* Set a PEM text as an option, or take an earlier transfer's away. */
static bool
set_pem(CURL *easy, CURLoption option, const char *pem)
{
	struct curl_blob blob;

	blob.data = (void *) pem;
	blob.len = pem ? strlen(pem) : 0;
	blob.flags = CURL_BLOB_COPY;
	return curl_easy_setopt(easy, option, pem ? &blob : NULL) == CURLE_OK;
}

/*
 * Set the client certificate and its key, or take an earlier transfer's away.
 *
 * To libcurl, connections and TLS sessions that show the same certificate are
 * alike, whatever the key: a certificate, which is no secret, would be enough
 * to send on a connection that another webhook's key has opened.  So the key is
 * put behind the certificate, where OpenSSL does not look but libcurl compares.
 */
static bool
set_client_certificate(CURL *easy, const char *certificate, const char *key)
{
	char	   *both;
	size_t		size;
	bool		ok;

	if (certificate == NULL)
	{
		(void) set_pem(easy, CURLOPT_SSLCERT_BLOB, NULL);
		(void) set_pem(easy, CURLOPT_SSLKEY_BLOB, NULL);
		return true;
	}
	if (key == NULL)			/* then it is in the same text */
		return set_pem(easy, CURLOPT_SSLCERT_BLOB, certificate) &&
			set_pem(easy, CURLOPT_SSLKEY_BLOB, certificate);

	size = strlen(certificate) + strlen(key) + 2;
	both = malloc(size);
	if (both == NULL)
		return false;
	snprintf(both, size, "%s\n%s", certificate, key);
	ok = set_pem(easy, CURLOPT_SSLCERT_BLOB, both) &&
		set_pem(easy, CURLOPT_SSLKEY_BLOB, key);
	cwh_cleanse(both, size);
	free(both);
	return ok;
}

/* What to do at the URL, and with which body; handles are used again. */
static void
set_method(CURL *easy, const CwhTransfer *transfer)
{
	const char *method = transfer->method ? transfer->method : "POST";
	bool		post = strcmp(method, "POST") == 0;

	if (transfer->body || post ||
		strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0)
	{
		curl_easy_setopt(easy, CURLOPT_POST, 1L);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
						 transfer->body ? transfer->body : "");
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) transfer->body_len);
	}
	else
		curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, post ? NULL : method);
}

/*
 * Start a transfer.  False if libcurl cannot take it, which has no other cause
 * than memory.
 */
bool
cwh_transport_start(CwhTransfer *transfer)
{
	CURL	   *easy = nspare > 0 ? spare[--nspare] : make_handle();
	bool		ok;

	reset_outcome(transfer);
	transfer->easy = easy;
	transfer->generation = generation;
	transfer->proxied = proxy != NULL;
	transfer->host_key = host_key(transfer->url);
	clock_gettime(CLOCK_MONOTONIC, &transfer->began);
	if (easy == NULL)
		return false;
	ok = curl_easy_setopt(easy, CURLOPT_URL, transfer->url) == CURLE_OK;
	set_method(easy, transfer);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER,
					 transfer->nheaders > 0 ? transfer->headers : NULL);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, transfer->timeout_ms);
	ok = ok && set_client_certificate(easy, transfer->client_certificate,
									  transfer->client_key);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->detail);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	/* this only queues it: threads are started when it is driven */
	ok = ok && curl_multi_add_handle(multi, easy) == CURLM_OK;
	if (!ok)
	{
		curl_easy_cleanup(easy);
		transfer->easy = NULL;
		return false;
	}
	running++;
	return true;
}

/*
 * libcurl closes the sockets of connects that it has given up without calling
 * close_socket().  See which of a transfer's are gone.
 */
static void
account_for_sockets(CwhTransfer *transfer)
{
	int			n = Min(transfer->nfds, lengthof(transfer->fds));

	for (int i = 0; i < n; i++)
	{
		int			fd = transfer->fds[i];

		if (!sockets[fd].ours || fcntl(fd, F_GETFD) >= 0)
			continue;
		memset(&sockets[fd], 0, sizeof(Socket));
		ReleaseExternalFD();
	}
	transfer->nfds = 0;
}

/* Forget a request's headers. */
static void
free_headers(CwhTransfer *transfer)
{
	free(transfer->headers);
	transfer->headers = NULL;
	transfer->nheaders = 0;
}

/* Take a transfer from libcurl. */
static void
withdraw(CwhTransfer *transfer)
{
	curl_multi_remove_handle(multi, transfer->easy);
	end_connecting(transfer, false);
	if (transfer->nfds > 0)
		account_for_sockets(transfer);
}

/* The same for good, and keep its handle for another. */
static void
retire(CwhTransfer *transfer)
{
	withdraw(transfer);
	curl_easy_setopt(transfer->easy, CURLOPT_ERRORBUFFER, NULL);
	if (nspare < MAX_SPARE_HANDLES && transfer->generation == generation)
		spare[nspare++] = transfer->easy;
	else
		curl_easy_cleanup(transfer->easy);
	transfer->easy = NULL;
	free_headers(transfer);
	running--;
}

/*
 * Over HTTP/2 a server may answer before it has read the request, and end the
 * stream.  libcurl 7.88 can then fail, without a word, to hand the answer over.
 */
static bool
answered_early(const CwhTransfer *transfer, CURLcode code)
{
	return code == CURLE_HTTP2_STREAM &&
		(transfer->detail[0] == '\0' ||
		 strcmp(transfer->detail, curl_easy_strerror(code)) == 0);
}

/* Note how a transfer has ended. */
static void
finish(CwhTransfer *transfer, CURLcode code)
{
	long		status = 0;
	curl_off_t	total = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &total);
	transfer->latency_ms = transfer->begun_anew ?
		(int) -ms_until(&transfer->began) : (int) ((total + 500) / 1000);
	if (status != 0)
	{
		end_connecting(transfer, true);
		learn_host(transfer);
	}
	if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && transfer->cut) ||
		(answered_early(transfer, code) && status >= 200 &&
		 transfer->reply == CWH_REPLY_BODY))
	{
		transfer->status = (int) status;
		transfer->error[0] = '\0';
		transfer->refused = transfer->starved = false;
	}
	else
	{
		transfer->failed = true;
		transfer->status = (int) status;
		if (transfer->nfds > 0 && code != CURLE_ABORTED_BY_CALLBACK)
		{
			/* an address was allowed, and failed by itself */
			if (transfer->refused || code == CURLE_COULDNT_CONNECT ||
				code == CURLE_OPERATION_TIMEDOUT)
				transfer->error[0] = '\0';
			transfer->refused = transfer->starved = false;
		}
		cwh_describe_failure(transfer, code, ca_file != NULL);
	}
	retire(transfer);
	transfer->next = NULL;
	*finished_tail = transfer;
	finished_tail = &transfer->next;
}

/* Begin a transfer anew, with what is left of its time. */
static void
begin_anew(CwhTransfer *transfer)
{
	transfer->begun_anew = true;
	transfer->must_wait = false;
	transfer->earlier_requests = transfer->requests;
	transfer->refused = transfer->starved = false;
	transfer->error[0] = transfer->detail[0] = '\0';
	curl_easy_setopt(transfer->easy, CURLOPT_TIMEOUT_MS,
					 (long) Max(transfer->timeout_ms + ms_until(&transfer->began), 1));
	if (curl_multi_add_handle(multi, transfer->easy) != CURLM_OK)
		finish(transfer, CURLE_OUT_OF_MEMORY);
}

/*
 * Has a transfer lost a shared connection that was made earlier, or by another?
 * The server may have been about to close it.  With others libcurl repeats the
 * request itself.
 */
static bool
lost_connection(const CwhTransfer *transfer, CURLcode code)
{
	switch (code)
	{
		case CURLE_SEND_ERROR:
		case CURLE_RECV_ERROR:
		case CURLE_GOT_NOTHING:
		case CURLE_PARTIAL_FILE:
		case CURLE_HTTP2:
			/* so libcurl 8.1 says that the server ended the stream alone */
			return transfer->nfds == 0 && known_host(transfer) &&
				strstr(transfer->detail, "was reset") == NULL;
		default:
			return false;
	}
}

/*
 * A transfer has failed.  See whether that is no more than what comes of sharing
 * connections, and it can be begun anew; true if so.  It may have to wait for a
 * connection that another transfer makes, or its request can be repeated.  Where
 * libcurl does not tell of its own repeats, these are not counted with ours.
 */
static bool
try_anew(CwhTransfer *transfer, CURLcode code)
{
	if (code == CURLE_COULDNT_CONNECT && transfer->must_wait)
	{
		withdraw(transfer);
		transfer->next = waiting;
		waiting = transfer;
		return true;
	}
	if ((lost_connection(transfer, code) || answered_early(transfer, code)) &&
		transfer->reply == CWH_REPLY_NONE && transfer->error[0] == '\0' &&
		Max(transfer->repeats + 1, transfer->requests) < max_requests(transfer) &&
		!out_of_time(transfer))
	{
		transfer->repeats++;
		withdraw(transfer);
		begin_anew(transfer);
		return true;
	}
	return false;
}

/* Begin those that need not wait any longer, and end those that waited too long. */
static void
look_at_waiting(void)
{
	CwhTransfer *list = waiting;

	waiting = NULL;
	while (list)
	{
		CwhTransfer *transfer = list;
		Host	   *host = known_host(transfer);

		list = transfer->next;
		transfer->next = NULL;
		if (out_of_time(transfer))
			finish(transfer, CURLE_OPERATION_TIMEDOUT);
		else if (host && host->connecting)
		{
			transfer->next = waiting;
			waiting = transfer;
		}
		else
			begin_anew(transfer);
	}
}

/*
 * Let libcurl do what can be done without waiting.  Returns the number of
 * transfers still under way.
 */
int
cwh_transport_drive(void)
{
	struct epoll_event events[MAX_EVENTS];
	sigset_t	saved;
	CURLMsg    *message;
	int			still;
	int			n;
	int			left;

	block_signals(&saved);
	do
	{
		n = epoll_wait(epoll_fd, events, MAX_EVENTS, 0);
		for (int i = 0; i < n; i++)
		{
			int			fd = events[i].data.fd;
			Socket	   *sock = &sockets[fd];
			unsigned	ready = events[i].events;
			int			mask = 0;

			if (ready & (EPOLLERR | EPOLLHUP))
				ready |= sock->wanted;
			if ((ready & (EPOLLIN | EPOLLOUT) & ~sock->wanted) ||
				sock->wanted == 0)
				watch(fd, sock, sock->wanted);
			if (ready & sock->wanted & EPOLLIN)
				mask |= CURL_CSELECT_IN;
			if (ready & sock->wanted & EPOLLOUT)
				mask |= CURL_CSELECT_OUT;
			if (mask != 0)
				curl_multi_socket_action(multi, fd, mask, &still);
		}
		if (timer_set && ms_until(&timer_due) <= 0)
		{
			timer_set = false;
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &still);
		}
	} while (n == MAX_EVENTS);
	if (connecting > 0 && ms_until(&looked_at) <= -CONNECTING_MS)
	{
		cwh_curl_socket_all(multi, &still);
		clock_gettime(CLOCK_MONOTONIC, &looked_at);
	}
	uncork();

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		CwhTransfer *transfer = NULL;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
						  (char **) &transfer);
		if (code == CURLE_OK || !try_anew(transfer, code))
			finish(transfer, code);
	}
	if (waiting)
		look_at_waiting();
	restore_signals(&saved);
	return running;
}

/* The next transfer that has ended, or null. */
CwhTransfer *
cwh_transport_reap(void)
{
	CwhTransfer *transfer = finished;

	if (transfer)
	{
		finished = transfer->next;
		if (finished == NULL)
			finished_tail = &finished;
		transfer->next = NULL;
	}
	return transfer;
}

/* Give up a transfer that is under way. */
void
cwh_transport_abort(CwhTransfer *transfer)
{
	sigset_t	saved;

	if (transfer->easy == NULL)
		return;
	block_signals(&saved);
	for (CwhTransfer **link = &waiting; *link; link = &(*link)->next)
	{
		if (*link == transfer)
		{
			*link = transfer->next;
			break;
		}
	}
	retire(transfer);
	restore_signals(&saved);
}

/*
 * Make room for a request's header lines and for the text of those that are
 * made for it, and begin with none.  False if memory is out.
 */
bool
cwh_transfer_reserve(CwhTransfer *transfer, int headers, size_t len)
{
	size_t		lines = headers * sizeof(struct curl_slist);

	free(transfer->headers);
	transfer->headers = malloc(lines + len);
	transfer->nheaders = 0;
	if (transfer->headers == NULL)
		return false;
	transfer->max_headers = headers;
	transfer->header_text = (char *) transfer->headers + lines;
	transfer->header_room = len;
	return true;
}

/* Free what a transfer has gathered, unless it is small enough to be kept. */
static void
release(CwhTransfer *transfer, size_t keep)
{
	CwhBytes   *all[] = {&transfer->response_headers, &transfer->response_body};

	for (int i = 0; i < lengthof(all); i++)
	{
		all[i]->len = 0;
		if (all[i]->cap <= keep)
			continue;
		free(all[i]->data);
		memset(all[i], 0, sizeof(CwhBytes));
	}
	free_headers(transfer);
}

/* A transfer is done with, and may be used again. */
void
cwh_transfer_release(CwhTransfer *transfer)
{
	release(transfer, CWH_MAX_KEPT_BUFFER);
}

/* A transfer is not used again. */
void
cwh_transfer_free(CwhTransfer *transfer)
{
	release(transfer, 0);
}
