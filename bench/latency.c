/*
 * latency.c
 *		From the end of COMMIT to the request's arrival.
 *
 * usage: latency CONNINFO PORT EVENTS RATE PER-COMMIT SQL
 *
 * Is client and receiver at once, so that one clock serves for both: executes
 * SQL, which emits the events from number %1$ld to %2$ld, at a rate, notes when
 * the server has said that it is committed, and listens on 127.0.0.1:PORT for
 * requests with "n":NUMBER} at the end of "data".  Writes the median, the 99th
 * percentile and the largest latency in milliseconds.  A request that arrives
 * before the client has heard of the commit counts as 0.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS	4096
#define MAX_REQUEST		65536

static double *committed;
static double *arrived;
static long total;
static long narrived = 0;
static int	listener;

typedef struct Connection
{
	char		data[MAX_REQUEST];
	size_t		len;
} Connection;

static Connection *connections[MAX_CONNECTIONS];

static double
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void
die(const char *what)
{
	fprintf(stderr, "latency: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Answer the requests that are complete; false at the end of the connection. */
static int
serve(int fd)
{
	static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
	Connection *connection = connections[fd];
	ssize_t		got = read(fd, connection->data + connection->len,
						   MAX_REQUEST - 1 - connection->len);
	double		at = now_ms();

	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	connection->len += got;
	connection->data[connection->len] = '\0';
	for (;;)
	{
		char	   *end = strstr(connection->data, "\r\n\r\n");
		char	   *length = end ? strcasestr(connection->data, "content-length:") : NULL;
		size_t		size;
		char	   *number;

		if (length == NULL)
			return 1;
		size = end + 4 - connection->data + strtoul(length + 15, NULL, 10);
		if (connection->len < size)
			return 1;
		number = memmem(end, connection->data + size - end, "\"n\":", 4);
		if (number)
		{
			long		n = strtol(number + 4, NULL, 10);

			if (n >= 0 && n < total && arrived[n] == 0)
			{
				arrived[n] = at;
				__atomic_add_fetch(&narrived, 1, __ATOMIC_SEQ_CST);
			}
		}
		if (write(fd, reply, sizeof(reply) - 1) < 0)
			return 0;
		connection->len -= size;
		memmove(connection->data, connection->data + size, connection->len + 1);
	}
}

static void *
receive(void *arg)
{
	int			epoll = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};

	(void) arg;
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
	for (;;)
	{
		struct epoll_event events[64];
		int			n = epoll_wait(epoll, events, 64, -1);

		for (int i = 0; i < n; i++)
		{
			int			fd = events[i].data.fd;

			if (fd == listener)
			{
				int			one = 1;

				fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
				if (fd < 0 || fd >= MAX_CONNECTIONS)
					die("accept");
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				if (connections[fd] == NULL)
					connections[fd] = malloc(sizeof(Connection));
				connections[fd]->len = 0;
				event.data.fd = fd;
				epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
			}
			else if (!serve(fd))
				close(fd);
		}
	}
	return NULL;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

int
main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	PGconn	   *conn;
	pthread_t	thread;
	double		interval;
	long		per_commit;
	double		start;
	int			one = 1;

	if (argc != 7)
	{
		fprintf(stderr, "usage: latency CONNINFO PORT EVENTS RATE PER-COMMIT SQL\n");
		return 2;
	}
	per_commit = atol(argv[5]);
	total = atol(argv[3]) / per_commit * per_commit;
	interval = 1000 / atof(argv[4]);
	committed = calloc(total, sizeof(double));
	arrived = calloc(total, sizeof(double));
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	address.sin_port = htons(atoi(argv[2]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *) &address, sizeof(address)) < 0 ||
		listen(listener, 1024) < 0)
		die("listen");
	fcntl(listener, F_SETFL, O_NONBLOCK);
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
	{
		fprintf(stderr, "latency: %s", PQerrorMessage(conn));
		return 1;
	}
	pthread_create(&thread, NULL, receive, NULL);

	start = now_ms();
	for (long n = 0; n < total; n += per_commit)
	{
		char		sql[65536];
		PGresult   *result;
		double		wait = start + n * interval - now_ms();

		if (wait > 0)
		{
			struct timespec pause = {.tv_sec = (long) (wait / 1000),
			.tv_nsec = (long) (wait * 1e6) % 1000000000};

			nanosleep(&pause, NULL);
		}
		snprintf(sql, sizeof(sql), argv[6], n, n + per_commit - 1);
		result = PQexec(conn, sql);
		committed[n] = now_ms();
		for (long i = 1; i < per_commit; i++)
			committed[n + i] = committed[n];
		if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
		{
			fprintf(stderr, "latency: %s", PQerrorMessage(conn));
			return 1;
		}
		PQclear(result);
	}
	start = now_ms();
	while (__atomic_load_n(&narrived, __ATOMIC_SEQ_CST) < total)
	{
		if (now_ms() - start > 30000)
		{
			fprintf(stderr, "latency: %ld of %ld requests have not arrived\n",
					total - narrived, total);
			return 1;
		}
		usleep(1000);
	}
	for (long n = 0; n < total; n++)
		arrived[n] = arrived[n] > committed[n] ? arrived[n] - committed[n] : 0;
	qsort(arrived, total, sizeof(double), compare);
	printf("%.2f %.2f %.2f\n", arrived[total / 2], arrived[total * 99 / 100],
		   arrived[total - 1]);
	PQfinish(conn);
	return 0;
}
