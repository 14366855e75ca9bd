/*
 * insert.c
 *		How fast rows go into each of several tables, a transaction each.
 *
 * usage: insert CONNINFO CLIENTS ROUNDS TRANSACTIONS CONTENT TABLE...
 *
 * In each round the clients insert so many rows each into one table after the
 * other, all at once into the same, and the tables in any order: how fast a disk
 * syncs changes from second to second.  The connections last, as an application's
 * do.  First, each reads the table filler, which is in the shared buffers, nearly
 * fills them, and is then dropped: a process takes a page fault on each page of
 * memory that it has not touched before.  A first round, in which they fill their
 * caches, is not counted.  Writes a line for each table: the inserts a second of
 * every round.
 */
#include <libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define MAX_TABLES	64

static const char *conninfo;
static const char *content;
static char **tables;
static int	ntables;
static int	nclients;
static int	rounds;
static int	transactions;
static int	order[MAX_TABLES];
static double *rates;			/* of each table, those of each round */
static double *starts;			/* of each client, in the turn that is on */
static double *ends;
static pthread_barrier_t barrier;

static double
now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

/* A result that is as wanted, or the end. */
static void
check(PGconn *conn, PGresult *result)
{
	if (PQresultStatus(result) != PGRES_COMMAND_OK &&
		PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "insert: %s", PQerrorMessage(conn));
		exit(1);
	}
	PQclear(result);
}

static void
shuffle(void)
{
	for (int i = ntables - 1; i > 0; i--)
	{
		int			j = rand() % (i + 1);
		int			other = order[i];

		order[i] = order[j];
		order[j] = other;
	}
}

/* How long the turn took that has ended, from the first start to the last end. */
static double
turn(void)
{
	double		start = starts[0];
	double		end = ends[0];

	for (int i = 1; i < nclients; i++)
	{
		start = starts[i] < start ? starts[i] : start;
		end = ends[i] > end ? ends[i] : end;
	}
	return end - start;
}

/* One client; the first does the accounts. */
static void *
run(void *arg)
{
	int			number = *(int *) arg;
	PGconn	   *conn = PQconnectdb(conninfo);

	check(conn, PQexec(conn, "SET max_parallel_workers_per_gather = 0; SELECT sum(hashtext(page)) FROM filler"));
	pthread_barrier_wait(&barrier);
	if (number == 0)
		check(conn, PQexec(conn, "DROP TABLE filler"));
	for (int i = 0; i < ntables; i++)
	{
		char		sql[1024];

		snprintf(sql, sizeof(sql), "INSERT INTO %s (conversation, role, content) VALUES ('c1', 'user', $1)",
				 tables[i]);
		check(conn, PQprepare(conn, tables[i], sql, 1, NULL));
	}
	for (int round = -1; round < rounds; round++)
	{
		if (number == 0)
			shuffle();
		for (int i = 0; i < ntables; i++)
		{
			int			table;

			pthread_barrier_wait(&barrier);
			table = order[i];
			starts[number] = now();
			for (int j = 0; j < transactions; j++)
				check(conn, PQexecPrepared(conn, tables[table], 1, &content, NULL, NULL, 0));
			ends[number] = now();
			pthread_barrier_wait(&barrier);
			/* the others wait at the next barrier meanwhile */
			if (number == 0 && round >= 0)
				rates[table * rounds + round] = nclients * transactions / turn();
		}
	}
	PQfinish(conn);
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t  *threads;
	int		   *numbers;

	if (argc < 7 || argc - 6 > MAX_TABLES)
	{
		fprintf(stderr, "usage: insert CONNINFO CLIENTS ROUNDS TRANSACTIONS CONTENT TABLE...\n");
		return 2;
	}
	conninfo = argv[1];
	nclients = atoi(argv[2]);
	rounds = atoi(argv[3]);
	transactions = atoi(argv[4]);
	content = argv[5];
	tables = &argv[6];
	ntables = argc - 6;
	rates = calloc((size_t) ntables * rounds, sizeof(double));
	starts = calloc(nclients, sizeof(double));
	ends = calloc(nclients, sizeof(double));
	srand(getpid());
	threads = calloc(nclients, sizeof(pthread_t));
	numbers = calloc(nclients, sizeof(int));
	pthread_barrier_init(&barrier, NULL, nclients);
	for (int i = 0; i < ntables; i++)
		order[i] = i;
	for (int i = 0; i < nclients; i++)
	{
		numbers[i] = i;
		pthread_create(&threads[i], NULL, run, &numbers[i]);
	}
	for (int i = 0; i < nclients; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < ntables; i++)
	{
		for (int round = 0; round < rounds; round++)
			printf("%.0f ", rates[i * rounds + round]);
		printf("\n");
	}
	return 0;
}
