/*
 * latency.c
 *		From the end of COMMIT to the request's arrival.
 *
 * usage: latency CONNINFO PORT ROUNDS EVENTS RATE PER-COMMIT SQL BETWEEN
 *
 * Is client and receiver at once, so that one clock serves for both: executes
 * SQL, which emits the events from number %1$ld to %2$ld, at a rate, notes when
 * the server has said that it is committed, and listens on 127.0.0.1:PORT for
 * requests with "n":NUMBER} at the end of "data".  Writes a line for each round:
 * the median, the 99th percentile and the largest latency in milliseconds, and the
 * rate that was reached.  A request that arrives before the client has heard of
 * the commit counts as 0.  How long COMMIT itself takes is not counted; when one
 * has taken long, the client catches up at full speed.
 *
 * All rounds use the same connection, as an application would, and the SQL in
 * BETWEEN is executed after each of them.
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
static long total;				/* events of all rounds */
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

/* Execute SQL, or die. */
static void
execute(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY)
	{
		fprintf(stderr, "latency: %s", PQerrorMessage(conn));
		exit(1);
	}
	PQclear(result);
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/*
 * A round: emit the events from "first" up to "last", exclusive, and wait for their
 * requests.  Returns the rate.
 */
static double
run(PGconn *conn, long first, long last, double interval, long per_commit,
	const char *format)
{
	double		start = now_ms();
	double		rate;

	for (long n = first; n < last; n += per_commit)
	{
		char		sql[65536];
		double		wait = start + (n - first) * interval - now_ms();

		if (wait > 0)
		{
			struct timespec pause = {.tv_sec = (long) (wait / 1000),
			.tv_nsec = (long) (wait * 1e6) % 1000000000};

			nanosleep(&pause, NULL);
		}
		snprintf(sql, sizeof(sql), format, n, n + per_commit - 1);
		execute(conn, sql);
		committed[n] = now_ms();
		for (long i = 1; i < per_commit; i++)
			committed[n + i] = committed[n];
	}
	rate = (last - first) * 1000 / (now_ms() - start);
	start = now_ms();
	while (__atomic_load_n(&narrived, __ATOMIC_SEQ_CST) < last)
	{
		if (now_ms() - start > 30000)
		{
			fprintf(stderr, "latency: %ld of %ld requests have not arrived\n",
					last - narrived, last - first);
			exit(1);
		}
		usleep(1000);
	}
	return rate;
}

/* Write the figures of a round. */
static void
report(long first, long last, double rate)
{
	long		n = last - first;
	double	   *latencies = malloc(n * sizeof(double));

	for (long i = 0; i < n; i++)
		latencies[i] = arrived[first + i] > committed[first + i] ?
			arrived[first + i] - committed[first + i] : 0;
	qsort(latencies, n, sizeof(double), compare);
	printf("%.2f %.2f %.2f %.0f\n", latencies[n / 2], latencies[n * 99 / 100],
		   latencies[n - 1], rate);
	free(latencies);
}

int
main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	PGconn	   *conn;
	pthread_t	thread;
	long		events;			/* of a round */
	long		per_commit;
	int			one = 1;

	if (argc != 9)
	{
		fprintf(stderr, "usage: latency CONNINFO PORT ROUNDS EVENTS RATE PER-COMMIT SQL BETWEEN\n");
		return 2;
	}
	per_commit = atol(argv[6]);
	events = atol(argv[4]) / per_commit * per_commit;
	total = atol(argv[3]) * events;
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
	for (long first = 0; first < total; first += events)
	{
		double		rate = run(conn, first, first + events, 1000 / atof(argv[5]), per_commit,
							   argv[7]);

		report(first, first + events, rate);
		execute(conn, argv[8]);
	}
	PQfinish(conn);
	return 0;
}
