/*
 * transport.c
 *		Sends requests with libcurl: how a transfer begins, goes on and ends.
 *
 * Process model: a worker uses this file for all of its requests, many at a
 * time; test_webhook() uses it in a session, for one.  Either way there is one
 * libcurl multi handle in the process, and only the main thread calls in here.
 * The multi handle is driven by curl_multi_socket_action() from an epoll
 * descriptor, on which the caller can wait together with its latch.  Nothing in
 * here runs SQL or raises an error: an error would longjmp through libcurl when
 * it calls us back.  Callbacks record the outcome in the transfer, and the
 * caller reads it there once it has reaped the transfer.
 *
 * libcurl looks up names in threads of its own.  They inherit the signal mask
 * and must not run PostgreSQL's handlers, so all signals are blocked around
 * every call into libcurl that may start or join a thread, which is mainly
 * cwh_transport_drive().
 *
 * A transfer is the caller's (TRANSFER_IDLE) until it is started, and again
 * after it has been reaped.  In between it is libcurl's (TRANSFER_RUNNING), or
 * in the list of those that wait for another one's connection
 * (TRANSFER_WAITING), or in the list of those to be reaped (TRANSFER_ENDED).
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#include <curl/curl.h>

#include "lib/ilist.h"

#include "compat_curl.h"
#include "curl_handle.h"
#include "failure.h"
#include "hosts.h"
#include "retry.h"
#include "sockets.h"
#include "target.h"
#include "transport.h"
#include "vault.h"

/* A reply with more header bytes or lines than this ends the transfer. */
#define MAX_HEADER_BYTES		(32 * 1024)
#define MAX_HEADER_LINES		200

/*
 * How often a request may be sent in one attempt: the first time, and again on
 * other connections if one turns out to be closed.  A shared connection takes
 * many requests down with it, and these may fill up the next one and lose it,
 * too, so they get more tries.
 */
#define MAX_REQUESTS			2
#define MAX_SHARED_REQUESTS		5

/*
 * While any transfer is connecting, have libcurl look at all sockets at least
 * this often.  When an address has used up its share of the connect timeout,
 * libcurl closes the socket but sets no timer, and so would never try the
 * host's next address.
 */
#define CONNECTING_MS			250

/* How long libcurl may use an address that a lookup gave, in seconds. */
#define ADDRESS_S				60L

/*
 * Transfers that are kept while they are not in use, and the bytes up to which
 * each keeps its buffers.
 */
#define MAX_SPARE				256
#define MAX_KEPT_BUFFER			4096

/* An address of either family. */
typedef union Address
{
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
} Address;

/* Who holds a transfer; see the head of this file. */
typedef enum TransferState
{
	TRANSFER_IDLE,
	TRANSFER_RUNNING,
	TRANSFER_WAITING,
	TRANSFER_ENDED
} TransferState;

/* How far a reply has been read. */
typedef enum Progress
{
	REPLY_NONE,
	REPLY_HEADERS,
	REPLY_BODY
} Progress;

typedef struct Transfer
{
	CwhTransfer public;			/* must be first */
	TransferState state;
	dlist_node	node;			/* in its state's list, or the pool's */
	CwhHandle	handle;			/* while it is running or waiting */
	char		detail[CURL_ERROR_SIZE];	/* libcurl's error message */

	/* header lines, and behind them text for the caller, in one allocation */
	char	   *memory;
	size_t		memory_size;
	struct curl_slist *lines;	/* an array, linked as a list */
	int			nlines;
	int			max_lines;
	char	   *kept;			/* that text, perhaps secret */
	size_t		kept_len;
	size_t		max_kept;

	/* how it was started */
	uint64_t	host_key;
	struct timespec began;

	/* its connection */
	bool		must_wait;		/* for one that another transfer makes */
	bool		unusable;		/* it was another owner's, or closed */
	CwhUse		use;			/* of it by the last request */
	bool		connecting;		/* has a socket, but no connection yet */
	int			fds[4];			/* the last sockets opened for it */
	int			nfds;			/* how many were opened */

	/* its requests */
	int			requests;		/* sent so far, including libcurl's repeats */
	int			earlier_requests;	/* of these, before the last restart */
	int			max_requests;
	int			restarts;		/* after losing a connection */
	bool		interrupted;	/* it waited or was restarted */

	/* its reply */
	Progress	progress;
	int			header_count;
	bool		prunes;			/* see avoid_pruning() */
	bool		cut;			/* we stopped reading the body */
} Transfer;

static CURLM *multi = NULL;
static int	epoll_fd = -1;		/* from sockets.c */
static CwhTransportOptions options; /* without the strings */

static bool timer_set = false;
static struct timespec timer_due;	/* when libcurl wants to be called */
static struct timespec all_driven_at;	/* see CONNECTING_MS */
static bool keeps_addresses;	/* see cwh_curl_keeps_addresses() */
static struct timespec pruned_at;	/* see avoid_pruning() */

static Host hosts[MAX_HOSTS];	/* by key modulo MAX_HOSTS */

static int	running = 0;		/* transfers that are running or waiting */
static int	connecting = 0;		/* those of them that are connecting */
static dlist_head waiting = DLIST_STATIC_INIT(waiting);
static dlist_head ended = DLIST_STATIC_INIT(ended);

static dlist_head spare = DLIST_STATIC_INIT(spare); /* the pool */
static int	nspare = 0;

/* Block all signals, since libcurl may start a thread. */
static void
block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, saved);
}

/* Undo block_signals(). */
static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/*
 * Time
 */

/* Milliseconds from now until then, rounded up. */
static int64_t
ms_until(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) (then->tv_sec - now.tv_sec) * 1000 +
		(then->tv_nsec - now.tv_nsec + 999999) / 1000000;
}

/* Has a transfer used up its timeout, including waiting and earlier tries? */
static bool
out_of_time(const Transfer *transfer)
{
	return -ms_until(&transfer->began) >= transfer->public.request.timeout_ms;
}

/* Callback: libcurl says when it wants to be called. */
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

/*
 * Hosts
 */

/* A transfer's host if it is known to share connections, else null. */
static Host *
sharing_host(const Transfer *transfer)
{
	Host	   *host = &hosts[transfer->host_key % MAX_HOSTS];

	return host->key == transfer->host_key ? host : NULL;
}

/* Remember whether a transfer's host has answered with HTTP/2. */
static void
learn_host(const Transfer *transfer)
{
	Host	   *host = &hosts[transfer->host_key % MAX_HOSTS];
	long		version = 0;

	curl_easy_getinfo(transfer->handle.easy, CURLINFO_HTTP_VERSION, &version);
	if (host->connecting != NULL || version == 0)
		return;
	if (version >= CURL_HTTP_VERSION_2_0)
		host->key = transfer->host_key;
	else if (host->key == transfer->host_key)
		host->key = 0;
}

/*
 * A transfer is no longer connecting.  If it has not got a connection, forget
 * that the host shares them: otherwise the waiting transfers would try to
 * connect one after the other, each for its whole connect timeout.
 */
static void
end_connecting(Transfer *transfer, bool succeeded)
{
	Host	   *host;

	if (!transfer->connecting)
		return;
	transfer->connecting = false;
	connecting--;
	host = sharing_host(transfer);
	if (host && host->connecting == transfer)
	{
		host->connecting = NULL;
		if (!succeeded)
			host->key = 0;
	}
}

/*
 * Sockets
 */

/* Callback: libcurl says which events of a socket it is interested in. */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socketp)
{
	bool		in = what == CURL_POLL_IN || what == CURL_POLL_INOUT;
	bool		out = what == CURL_POLL_OUT || what == CURL_POLL_INOUT;

	return cwh_socket_want(fd, in, out) ? 0 : -1;
}

/* Check an address against the policy, and record why it is refused. */
static bool
address_allowed(Transfer *transfer, const struct sockaddr *address)
{
	CwhReply   *reply = &transfer->public.reply;
	const char *reason;

	/* the administrator chose the proxy, and only it sees the target */
	if (transfer->handle.has_proxy)
		return true;
	reason = cwh_target_check_address(&options.policy, address);
	if (reason == NULL)
		return true;
	reply->refused = true;
	snprintf(reply->error, sizeof(reply->error), "address refused: %s", reason);
	return false;
}

/*
 * Callback: open a socket for an address, if the policy allows it.  The address
 * is the one that libcurl will connect to, so a name that resolves differently
 * the next time (DNS rebinding) does not get around the policy.
 */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *transfer = arg;
	CwhReply   *reply = &transfer->public.reply;
	Host	   *host = sharing_host(transfer);
	bool		starved;
	int			fd;

	/* libcurl goes on with the name's next address, which may be allowed */
	if (!address_allowed(transfer, &address->addr))
		return CURL_SOCKET_BAD;
	transfer->must_wait = host && host->connecting &&
		host->connecting != transfer && !out_of_time(transfer);
	if (transfer->must_wait)
		return CURL_SOCKET_BAD;
	fd = cwh_socket_open(address->family, address->socktype,
						 address->protocol, transfer->public.request.owner,
						 &starved);
	if (fd < 0)
	{
		reply->starved = starved;
		return CURL_SOCKET_BAD;
	}
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

/* Callback: close a socket that open_socket() opened. */
static int
close_socket(void *arg, curl_socket_t fd)
{
	return cwh_socket_close(fd);
}

/* How many of the sockets opened for a transfer are listed in fds[]. */
static int
listed_fds(const Transfer *transfer)
{
	return Min(transfer->nfds, (int) lengthof(transfer->fds));
}

/*
 * Requests
 */

/* Check the address at the other end of a connection. */
static bool
peer_allowed(Transfer *transfer, const char *remote_ip, int port)
{
	Address		address;

	memset(&address, 0, sizeof(address));
	if (inet_pton(AF_INET, remote_ip, &address.v4.sin_addr) == 1)
		address.any.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, remote_ip, &address.v6.sin6_addr) == 1)
		address.any.sa_family = AF_INET6;
	/* both families have the port in the same place */
	address.v4.sin_port = htons((uint16_t) port);
	return address_allowed(transfer, &address.any);
}

/* How often a transfer's request may be sent. */
static int
request_limit(Transfer *transfer)
{
	if (sharing_host(transfer))
		transfer->max_requests = MAX_SHARED_REQUESTS;
	return transfer->max_requests;
}

/*
 * Callback: a transfer has its connection, new or used before, and is about to
 * send its request.  A connection that was used before may have been opened
 * under another policy, so check the address again.
 */
static int
before_request(void *arg, char *remote_ip, char *local_ip, int remote_port,
			   int local_port)
{
	Transfer   *transfer = arg;
	CwhReply   *reply = &transfer->public.reply;
	CwhEnds		ends = {remote_ip, remote_port, local_port};

	if (transfer->connecting)
	{
		end_connecting(transfer, true);
		/* these were about other addresses of the host */
		reply->refused = reply->starved = false;
		reply->error[0] = '\0';
	}
	/* anything read so far was a proxy's reply to CONNECT */
	transfer->progress = REPLY_NONE;
	transfer->unusable = !cwh_socket_request(transfer->fds, listed_fds(transfer),
											 &ends,
											 transfer->public.request.owner,
											 sharing_host(transfer) != NULL,
											 &transfer->use);
	if (transfer->unusable)
	{
		/* shown only if it is a new one, which try_restart() does not repeat */
		strlcpy(reply->error, "could not identify the connection",
				sizeof(reply->error));
		return CURL_PREREQFUNC_ABORT;
	}

	/*
	 * libcurl repeats a request when a connection from its cache turns out to
	 * be closed, with the next one from there; so do we, see try_restart().
	 * The receiver may have closed it while it was idle or, with HTTP/2,
	 * after a number of requests.  One that closes every connection must not
	 * keep us at it forever.
	 */
	if (++transfer->requests > request_limit(transfer))
	{
		strlcpy(reply->error, "the connection was closed without a reply",
				sizeof(reply->error));
		return CURL_PREREQFUNC_ABORT;
	}
	if (!peer_allowed(transfer, remote_ip, remote_port))
		return CURL_PREREQFUNC_ABORT;
	return CURL_PREREQFUNC_OK;
}

/*
 * Replies
 */

/* Append bytes; false if memory is out. */
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
headers_too_large(CwhReply *reply)
{
	strlcpy(reply->error, CWH_HEADERS_TOO_LARGE, sizeof(reply->error));
	return 0;
}

/*
 * When a transfer ends, libcurl looks at all addresses in its cache for those that
 * are too old.  With a thousand hosts, that was 6 % of the worker's CPU time, so
 * let one transfer a second do it.  As the reply has begun, libcurl will not look
 * up this transfer's host again.
 */
static void
avoid_pruning(Transfer *transfer)
{
	if (!keeps_addresses || transfer->prunes)
		return;
	if (ms_until(&pruned_at) <= -1000)
	{
		transfer->prunes = true;
		clock_gettime(CLOCK_MONOTONIC, &pruned_at);
	}
	else
		curl_easy_setopt(transfer->handle.easy, CURLOPT_DNS_CACHE_TIMEOUT, -1L);
}

/* Callback: a line of a reply's headers, or of its trailers. */
static size_t
on_header(char *data, size_t size, size_t n, void *arg)
{
	static const char retry_after[] = "retry-after:";
	Transfer   *transfer = arg;
	CwhReply   *reply = &transfer->public.reply;
	size_t		len = size * n;

	/* count status lines, too, or 1xx replies could go on forever */
	if (++transfer->header_count > MAX_HEADER_LINES)
		return headers_too_large(reply);
	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		/* forget earlier replies: the proxy's, and those with status 1xx */
		reply->headers.len = 0;
		reply->retry_after_s = -1;
		transfer->progress = REPLY_HEADERS;
		/* else it may be a proxy's reply to CONNECT */
		if (transfer->requests > 0)
		{
			cwh_socket_note(&transfer->use, data[5] == '1' ? 1 : 2);
			avoid_pruning(transfer);
		}
		return len;
	}
	if (len <= 2)
		transfer->progress = REPLY_BODY;	/* an empty line ends the headers */
	if (reply->headers.len + len > MAX_HEADER_BYTES)
		return headers_too_large(reply);
	if (len > strlen(retry_after) &&
		strncasecmp(data, retry_after, strlen(retry_after)) == 0)
		reply->retry_after_s =
			cwh_retry_after(data + strlen(retry_after),
							len - strlen(retry_after), time(NULL));
	return append(&reply->headers, data, len) ? len : 0;
}

/*
 * Callback: a piece of a reply's body.  Stop reading at the limit: where the rest
 * matters, decision.c says so.
 */
static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	Transfer   *transfer = arg;
	CwhBytes   *body = &transfer->public.reply.body;
	size_t		len = size * n;
	size_t		limit = Max(transfer->public.request.min_response_size,
							options.max_response_size);
	size_t		room = body->len < limit ? limit - body->len : 0;

	if (len > room)
	{
		(void) append(body, data, room);
		transfer->cut = transfer->public.reply.cut_off = true;
		return 0;
	}
	return append(body, data, len) ? len : 0;
}

/*
 * The end of a transfer
 */

/* Take a transfer's handle from the multi handle. */
static void
withdraw(Transfer *transfer)
{
	(void) curl_multi_remove_handle(multi, transfer->handle.easy);
	cwh_socket_note(&transfer->use, 0);
	end_connecting(transfer, false);
	cwh_sockets_account(transfer->fds, listed_fds(transfer));
	transfer->nfds = 0;
}

/* A transfer is over: give back its handle. */
static void
retire(Transfer *transfer)
{
	withdraw(transfer);
	cwh_handle_release(&transfer->handle, transfer->requests > 1);
	running--;
}

/* How far a transfer had got when it failed. */
static CwhPhase
phase(const Transfer *transfer, CURLcode code)
{
	curl_off_t	resolved = 0;
	curl_off_t	connected = 0;
	long		local_port = 0;
	CURL	   *easy = transfer->handle.easy;

	if (transfer->must_wait)
		return CWH_PHASE_CONNECT;
	if (transfer->requests > transfer->earlier_requests)
	{
		if (transfer->progress == REPLY_NONE)
			return CWH_PHASE_SENT;
		return transfer->progress == REPLY_HEADERS ?
			CWH_PHASE_HEADERS : CWH_PHASE_BODY;
	}

	/* a header line of a proxy's reply to CONNECT can be too long as well */
	if (transfer->progress == REPLY_HEADERS && cwh_curl_is_too_large(code))
		return CWH_PHASE_HEADERS;

	curl_easy_getinfo(easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
	curl_easy_getinfo(easy, CURLINFO_CONNECT_TIME_T, &connected);
	curl_easy_getinfo(easy, CURLINFO_LOCAL_PORT, &local_port);
	if (resolved == 0)
		return CWH_PHASE_LOOKUP;
	if (connected == 0 && local_port == 0)
		return CWH_PHASE_CONNECT;
	return CWH_PHASE_HANDSHAKE;
}

/* Say what went wrong with a transfer, unless a callback has done so. */
static void
describe_failure(Transfer *transfer, CURLcode code)
{
	CURL	   *easy = transfer->handle.easy;
	CwhReply   *reply = &transfer->public.reply;
	CwhFailure	failure;

	if (reply->error[0] != '\0')
		return;
	memset(&failure, 0, sizeof(failure));
	failure.code = code;
	failure.phase = phase(transfer, code);
	failure.detail = transfer->detail;
	failure.has_client_certificate =
		transfer->public.request.client_certificate != NULL;
	failure.has_ca_file = transfer->handle.has_ca_file;
	curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &failure.verify_result);
	curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &failure.os_errno);
	cwh_describe_failure(&failure, reply->error, sizeof(reply->error));
}

/*
 * Over HTTP/2 a server may answer before it has read the whole request, and end
 * the stream.  libcurl 7.88 can then report an error without a message even
 * though it has the answer.
 */
static bool
answered_early(const Transfer *transfer, CURLcode code)
{
	return code == CURLE_HTTP2_STREAM &&
		(transfer->detail[0] == '\0' ||
		 strcmp(transfer->detail, curl_easy_strerror(code)) == 0);
}

/* Does a transfer that ended with this code have a reply that counts? */
static bool
has_reply(const Transfer *transfer, CURLcode code, long status)
{
	return code == CURLE_OK ||
		(code == CURLE_WRITE_ERROR && transfer->cut) ||
		(answered_early(transfer, code) && status >= 200 &&
		 transfer->progress == REPLY_BODY);
}

/* Record how a transfer has ended, and queue it to be reaped. */
static void
finish(Transfer *transfer, CURLcode code)
{
	CURL	   *easy = transfer->handle.easy;
	CwhReply   *reply = &transfer->public.reply;
	long		status = 0;
	curl_off_t	total_us = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(easy, CURLINFO_TOTAL_TIME_T, &total_us);
	/* libcurl has measured only the last try */
	reply->latency_ms = transfer->interrupted ?
		(int) -ms_until(&transfer->began) : (int) ((total_us + 500) / 1000);
	reply->status = (int) status;
	if (status != 0)
	{
		end_connecting(transfer, true);
		learn_host(transfer);
	}
	if (has_reply(transfer, code, status))
	{
		reply->error[0] = '\0';
		reply->refused = reply->starved = false;
	}
	else
	{
		reply->failed = true;
		if (transfer->nfds > 0 && code != CURLE_ABORTED_BY_CALLBACK)
		{
			/* at least one address was allowed, and failed for other reasons */
			if (reply->refused || code == CURLE_COULDNT_CONNECT ||
				code == CURLE_OPERATION_TIMEDOUT)
				reply->error[0] = '\0';
			reply->refused = reply->starved = false;
		}
		describe_failure(transfer, code);
		if (transfer->public.request.hide_dns_errors &&
			(reply->refused || code == CURLE_COULDNT_RESOLVE_HOST))
		{
			/* they must not differ in whether it is tried again, either */
			reply->refused = false;
			strlcpy(reply->error, CWH_NO_ADDRESS, sizeof(reply->error));
		}
	}
	retire(transfer);
	transfer->state = TRANSFER_ENDED;
	dlist_push_tail(&ended, &transfer->node);
}

/* Have libcurl run a transfer; false if memory is out. */
static bool
run_transfer(Transfer *transfer)
{
	CURL	   *easy = transfer->handle.easy;

	/* avoid_pruning() may have changed it */
	curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, ADDRESS_S);
	return curl_multi_add_handle(multi, easy) == CURLM_OK;
}

/*
 * Start a transfer again, after it has waited or lost its connection.  It gets
 * the rest of its timeout, not the whole of it again: a receiver must not be
 * able to hold a transfer for longer by closing connections.
 */
static void
restart(Transfer *transfer)
{
	CURL	   *easy = transfer->handle.easy;
	CwhReply   *reply = &transfer->public.reply;
	int64_t		used_ms = -ms_until(&transfer->began);
	int64_t		left_ms = transfer->public.request.timeout_ms - used_ms;

	transfer->state = TRANSFER_RUNNING;
	transfer->interrupted = true;
	transfer->must_wait = false;
	transfer->earlier_requests = transfer->requests;
	transfer->detail[0] = '\0';
	reply->refused = reply->starved = false;
	reply->error[0] = '\0';
	/* 0 would mean no timeout */
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) Max(left_ms, 1));
	if (!run_transfer(transfer))
		finish(transfer, CURLE_OUT_OF_MEMORY);
}

/*
 * Has a transfer lost a shared connection that was there before it?  The server
 * may have been about to close it.  With other connections, libcurl repeats the
 * request itself.
 */
static bool
lost_connection(const Transfer *transfer, CURLcode code)
{
	switch (code)
	{
		case CURLE_SEND_ERROR:
		case CURLE_RECV_ERROR:
		case CURLE_GOT_NOTHING:
		case CURLE_PARTIAL_FILE:
		case CURLE_HTTP2:
			/* libcurl 8.1 also uses CURLE_HTTP2 for a stream that was reset */
			return transfer->nfds == 0 && sharing_host(transfer) &&
				strstr(transfer->detail, "was reset") == NULL;
		default:
			return false;
	}
}

/*
 * A transfer has failed.  If the failure comes from sharing connections only,
 * let it wait for the connection that another transfer makes, or repeat the
 * request; true if so.
 */
static bool
try_restart(Transfer *transfer, CURLcode code)
{
	if (code == CURLE_COULDNT_CONNECT && transfer->must_wait)
	{
		withdraw(transfer);
		transfer->interrupted = true;
		transfer->state = TRANSFER_WAITING;
		dlist_push_tail(&waiting, &transfer->node);
		return true;
	}
	if (transfer->unusable && transfer->nfds == 0)
	{
		transfer->unusable = false;
		curl_easy_setopt(transfer->handle.easy, CURLOPT_FRESH_CONNECT, 1L);
	}
	else if ((!lost_connection(transfer, code) &&
			  !answered_early(transfer, code)) ||
			 transfer->progress != REPLY_NONE ||
			 transfer->public.reply.error[0] != '\0' || out_of_time(transfer))
		return false;
	/* a restart counts even if no request was sent since the last one */
	else if (Max(transfer->requests, ++transfer->restarts) >=
			 request_limit(transfer))
		return false;
	withdraw(transfer);
	restart(transfer);
	return true;
}

/* Restart waiting transfers that may connect now, and end those out of time. */
static void
check_waiting(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
	{
		Transfer   *transfer = dlist_container(Transfer, node, iter.cur);
		Host	   *host = sharing_host(transfer);
		bool		late = out_of_time(transfer);

		if (!late && host && host->connecting)
			continue;
		dlist_delete(iter.cur);
		if (late)
			finish(transfer, CURLE_OPERATION_TIMEDOUT);
		else
			restart(transfer);
	}
}

/*
 * The transport
 */

/* Make the multi handle and its epoll descriptor; false if that fails. */
static bool
open_multi(void)
{
	static bool initialized = false;

	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return false;
	initialized = true;
	keeps_addresses = cwh_curl_keeps_addresses();
	epoll_fd = cwh_sockets_reset(true);
	if (epoll_fd < 0)
		return false;
	multi = curl_multi_init();
	if (multi == NULL)
	{
		epoll_fd = cwh_sockets_reset(false);
		return false;
	}
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	return true;
}

/* Free a transfer that is in no list. */
static void
destroy(Transfer *transfer)
{
	free(transfer->public.reply.headers.data);
	free(transfer->public.reply.body.data);
	free(transfer->memory);
	free(transfer);
}

/*
 * Close all connections and free everything.  The caller has freed its
 * transfers, or is about to exit.
 */
static void
close_transport(void)
{
	(void) cwh_handles_configure(NULL, NULL);
	while (!dlist_is_empty(&spare))
		destroy(dlist_container(Transfer, node, dlist_pop_head_node(&spare)));
	nspare = 0;
	if (multi)
		curl_multi_cleanup(multi);
	multi = NULL;
	epoll_fd = cwh_sockets_reset(false);
	memset(hosts, 0, sizeof(hosts));
	memset(&options, 0, sizeof(options));
	timer_set = false;
	running = connecting = 0;
	dlist_init(&waiting);
	dlist_init(&ended);
}

/*
 * Open the transport, or take over other options; without options, close it and
 * free everything: the caller has freed all transfers.  Transfers under way go on as
 * they were started; later ones use new handles, and before each request the
 * address of its connection is checked against the new policy.
 *
 * Returns the descriptor that becomes readable when there is something to
 * drive, or -1 if memory or descriptors are out; then the former options remain
 * in force, if there were any.
 */
int
cwh_transport_configure(const CwhTransportOptions *new_options)
{
	sigset_t	saved;
	bool		ok;

	block_signals(&saved);
	if (new_options == NULL)
	{
		close_transport();
		restore_signals(&saved);
		return -1;
	}
	ok = (multi != NULL || open_multi()) &&
		cwh_handles_configure(new_options->ca_file, new_options->proxy);
	if (ok)
	{
		options = *new_options;
		options.ca_file = options.proxy = NULL; /* they are the caller's */

		/*
		 * Keep idle connections up to the limit, and close the oldest of them
		 * to make room for a new one.  The caller has no more requests under
		 * way than that, so none has to wait in libcurl while its timeout
		 * runs.
		 */
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS,
						  (long) options.max_connections);
		curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
						  (long) options.max_connections);
	}
	restore_signals(&saved);
	return ok ? epoll_fd : -1;
}

/* Milliseconds after which to call cwh_transport_drive() anyway; -1: never. */
long
cwh_transport_timeout_ms(void)
{
	int64_t		ms;

	if (!timer_set)
		return connecting > 0 ? CONNECTING_MS : -1;
	ms = ms_until(&timer_due);
	if (ms < 0)
		ms = 0;
	return (long) (connecting > 0 ? Min(ms, CONNECTING_MS) : ms);
}

/* A socket is ready: let libcurl go on with it. */
static void
drive_socket(int fd, bool readable, bool writable)
{
	int			mask = 0;
	int			still_running;

	if (readable)
		mask |= CURL_CSELECT_IN;
	if (writable)
		mask |= CURL_CSELECT_OUT;
	curl_multi_socket_action(multi, fd, mask, &still_running);
}

/* Finish, or restart, the transfers that libcurl has ended. */
static void
collect_ended(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		Transfer   *transfer = NULL;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
						  (char **) &transfer);
		if (code == CURLE_OK || !try_restart(transfer, code))
			finish(transfer, code);
	}
	check_waiting();
}

/*
 * Let libcurl do all that it can without waiting.  Returns the number of
 * transfers that are still under way.
 */
int
cwh_transport_drive(void)
{
	sigset_t	saved;
	int			still_running;
	bool		more;

	block_signals(&saved);
	do
	{
		more = cwh_sockets_poll(drive_socket);
		if (timer_set && ms_until(&timer_due) <= 0)
		{
			timer_set = false;
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0,
									 &still_running);
		}
	} while (more);
	if (connecting > 0 && ms_until(&all_driven_at) <= -CONNECTING_MS)
	{
		cwh_curl_socket_all(multi, &still_running);
		clock_gettime(CLOCK_MONOTONIC, &all_driven_at);
	}
	cwh_sockets_uncork();
	collect_ended();
	restore_signals(&saved);
	return running;
}

/* The next transfer that has ended, or null. */
CwhTransfer *
cwh_transport_reap(void)
{
	Transfer   *transfer;

	if (dlist_is_empty(&ended))
		return NULL;
	transfer = dlist_container(Transfer, node, dlist_pop_head_node(&ended));
	transfer->state = TRANSFER_IDLE;
	return &transfer->public;
}

/*
 * Transfers
 */

/* Make room for header lines and text, and begin with none of either. */
static bool
reserve(Transfer *transfer, int max_lines, size_t max_text)
{
	size_t		lines_size = max_lines * sizeof(struct curl_slist);
	size_t		size = lines_size + max_text;

	if (size > transfer->memory_size)
	{
		free(transfer->memory);
		transfer->memory_size = 0;
		transfer->memory = malloc(size);
		if (transfer->memory == NULL)
			return false;
		transfer->memory_size = size;
	}
	transfer->lines = (struct curl_slist *) transfer->memory;
	transfer->max_lines = max_lines;
	transfer->kept = transfer->memory + lines_size;
	transfer->max_kept = max_text;
	return true;
}

/* Empty a buffer of a reply, and free it if it has grown large. */
static CwhBytes
emptied(CwhBytes bytes)
{
	bytes.len = 0;
	if (bytes.cap > MAX_KEPT_BUFFER)
	{
		free(bytes.data);
		memset(&bytes, 0, sizeof(bytes));
	}
	return bytes;
}

/* Put a transfer that is in no list into the pool, or free it. */
static void
recycle(Transfer *transfer)
{
	CwhBytes	headers = emptied(transfer->public.reply.headers);
	CwhBytes	body = emptied(transfer->public.reply.body);
	char	   *memory = transfer->memory;
	size_t		memory_size = transfer->memory_size;

	cwh_cleanse(transfer->kept, transfer->kept_len);
	if (memory_size > MAX_KEPT_BUFFER)
	{
		free(memory);
		memory = NULL;
		memory_size = 0;
	}
	memset(transfer, 0, sizeof(Transfer));
	transfer->public.reply.headers = headers;
	transfer->public.reply.body = body;
	transfer->memory = memory;
	transfer->memory_size = memory_size;

	if (nspare == MAX_SPARE)
		destroy(transfer);
	else
	{
		dlist_push_head(&spare, &transfer->node);
		nspare++;
	}
}

/*
 * A transfer with room for so many header lines and so many bytes of text that
 * is made for it.  Null if memory is out.
 */
CwhTransfer *
cwh_transfer_new(int max_lines, size_t max_text)
{
	Transfer   *transfer;

	if (nspare > 0)
	{
		transfer = dlist_container(Transfer, node, dlist_pop_head_node(&spare));
		nspare--;
	}
	else
	{
		transfer = calloc(1, sizeof(Transfer));
		if (transfer == NULL)
			return NULL;
	}
	if (!reserve(transfer, max_lines, max_text))
	{
		destroy(transfer);
		return NULL;
	}
	transfer->public.reply.retry_after_s = -1;
	transfer->max_requests = MAX_REQUESTS;
	return &transfer->public;
}

/* Add a header line, which must outlive the transfer. */
void
cwh_transfer_add_line(CwhTransfer *public, const char *line)
{
	Transfer   *transfer = (Transfer *) public;
	struct curl_slist *node = &transfer->lines[transfer->nlines];

	Assert(transfer->nlines < transfer->max_lines);
	node->data = unconstify(char *, line);	/* libcurl only reads it */
	node->next = NULL;
	if (transfer->nlines++ > 0)
		node[-1].next = node;
}

/*
 * Memory for text that lives as long as the transfer, and is overwritten when
 * that is freed.  Null if it is more than cwh_transfer_new() was asked for.
 */
char	   *
cwh_transfer_keep(CwhTransfer *public, size_t len)
{
	Transfer   *transfer = (Transfer *) public;
	char	   *result = transfer->kept + transfer->kept_len;

	if (len > transfer->max_kept - transfer->kept_len)
		return NULL;
	transfer->kept_len += len;
	return result;
}

/* Have libcurl call us back about a transfer. */
static void
set_callbacks(CURL *easy, Transfer *transfer)
{
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->detail);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_request);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
}

/*
 * Start a transfer, which can be done once.  False if memory is out, the only
 * reason why libcurl would not take it.
 */
bool
cwh_transfer_start(CwhTransfer *public)
{
	Transfer   *transfer = (Transfer *) public;

	Assert(transfer->state == TRANSFER_IDLE && transfer->requests == 0);
	transfer->host_key = host_key(public->request.url);
	/* with HTTP/2, owners can share connections */
	if (!cwh_handle_take(&transfer->handle, &public->request,
						 transfer->host_key,
						 transfer->nlines > 0 ? transfer->lines : NULL,
						 sharing_host(transfer) ? 0 : public->request.owner,
						 host_has_others(&hosts[transfer->host_key % MAX_HOSTS],
										 transfer->host_key,
										 public->request.owner) &&
						 sharing_host(transfer) == NULL))
		return false;
	set_callbacks(transfer->handle.easy, transfer);
	clock_gettime(CLOCK_MONOTONIC, &transfer->began);
	/* this only queues it: threads are started when it is driven */
	if (!run_transfer(transfer))
	{
		cwh_handle_release(&transfer->handle, false);
		return false;
	}
	transfer->state = TRANSFER_RUNNING;
	running++;
	return true;
}

/* Free a transfer, or null.  If it is under way, it is aborted. */
void
cwh_transfer_free(CwhTransfer *public)
{
	Transfer   *transfer = (Transfer *) public;
	sigset_t	saved;

	if (transfer == NULL)
		return;
	if (transfer->state == TRANSFER_WAITING ||
		transfer->state == TRANSFER_ENDED)
		dlist_delete(&transfer->node);
	if (transfer->state == TRANSFER_WAITING ||
		transfer->state == TRANSFER_RUNNING)
	{
		block_signals(&saved);
		retire(transfer);
		restore_signals(&saved);
	}
	recycle(transfer);
}
