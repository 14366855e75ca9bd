/*
 * launcher.c
 *		The process that starts workers where they are needed.
 *
 * There is one launcher in a cluster, and it is connected to no database.  When
 * it starts, and when a session tells it that an extension or a database was
 * created, changed or dropped, it probes the databases concerned: it starts a
 * worker in each, which leaves again if it finds no extension there.  A worker
 * that ends in another way is started again.
 *
 * Its only transactions read pg_database.  What it knows of databases and
 * workers is its own memory; what it shares with workers and sessions is behind
 * shared.h.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "settings.h"
#include "shared.h"

/* A worker that crashed is started again after this. */
#define RESTART_DELAY_MS	1000

/* After no background worker process was free, none is started for this long. */
#define SHORTAGE_DELAY_MS	(10 * RESTART_DELAY_MS)

/* How many databases are probed at a time. */
#define MAX_PROBES			2

typedef struct RunningWorker
{
	int			slot;			/* -1: not running */
	BackgroundWorkerHandle *handle; /* null: likewise */
	TimestampTz not_before;		/* do not start it sooner */
} RunningWorker;

typedef struct Database
{
	Oid			oid;			/* hash key */
	bool		listed;			/* is in pg_database, and may have workers */
	bool		needs_probe;	/* it may have got the extension since a
								 * worker last looked */
	bool		has_extension;	/* a worker has found it */
	bool		version_logged; /* a worker has logged that its version is not
								 * the library's */
	RunningWorker workers[CWH_MAX_WORKERS];
} Database;

PGDLLEXPORT void cwh_launcher_main(Datum arg);

static HTAB *databases = NULL;
static bool list_stale = false; /* pg_database must be read again */
static TimestampTz no_start_before = 0; /* no background worker process was
										 * free; try again then */
static bool shortage_logged = false;	/* the log says so */

/* Does chatwebhook.databases let this database have workers? */
static bool
is_wanted(const char *name)
{
	char	   *list = pstrdup(cwh_databases);
	List	   *names;
	ListCell   *cell;
	bool		any_named = false;
	bool		named = false;

	if (!SplitGUCList(list, ',', &names))
		return true;
	foreach(cell, names)
	{
		const char *entry = lfirst(cell);

		if (entry[0] == '!')
		{
			if (strcmp(entry + 1, name) == 0)
				return false;
			continue;
		}
		any_named = true;
		named = named || strcmp(entry, name) == 0;
	}
	return named || !any_named;
}

/* Bring the list of databases up to date, and mark all for a probe. */
static void
list_databases(void)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
		database->listed = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		bool		found;

		/* a worker in a template would keep sessions from copying it */
		if (!form->datallowconn || form->datistemplate ||
			!is_wanted(NameStr(form->datname)))
			continue;
		database = hash_search(databases, &form->oid, HASH_ENTER, &found);
		if (!found)
		{
			memset(database, 0, sizeof(Database));
			database->oid = form->oid;
			for (int i = 0; i < CWH_MAX_WORKERS; i++)
				database->workers[i].slot = -1;
		}
		database->listed = true;
		database->needs_probe = true;
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	list_stale = false;
}

/* Log once that no background worker process is free, and wait for one. */
static void
note_shortage(bool is_probing)
{
	/* a probe that is under way may be about to free one */
	if (!shortage_logged && !is_probing)
	{
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("chatwebhook could not start a worker: no background worker process is free"),
				 errhint("Increase max_worker_processes, now %d, and restart the server.",
						 max_worker_processes)));
		shortage_logged = true;
	}
	no_start_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  SHORTAGE_DELAY_MS);
}

/* Start a worker.  Returns false if that is not possible now. */
static bool
start_worker(Database *database, int number, bool is_probing)
{
	RunningWorker *running = &database->workers[number];
	BackgroundWorker worker;
	int			slot;
	int32		token = 0;

	slot = cwh_slot_reserve(database->oid, number, database->version_logged,
							&token);
	if (slot == CWH_SLOT_BLOCKED)
		return false;			/* unblocking it will wake us */

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "chatwebhook", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cwh_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "chatwebhook worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "chatwebhook worker", BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(token);
	worker.bgw_notify_pid = MyProcPid;

	if (slot >= 0 && RegisterDynamicBackgroundWorker(&worker, &running->handle))
	{
		running->slot = slot;
		if (number == 0)
			database->needs_probe = false;
		return true;
	}

	if (slot >= 0)
	{
		CwhExit		how;

		(void) cwh_slot_check(slot, true, &how);
	}
	note_shortage(is_probing);
	return false;
}

/* Find out whether a worker has found the extension, and whether it has ended. */
static void
check_worker(Database *database, RunningWorker *worker)
{
	CwhExit		how;
	pid_t		pid;
	bool		ended;

	if (worker->slot < 0)
		return;
	ended = GetBackgroundWorkerPid(worker->handle, &pid) == BGWH_STOPPED;
	if (cwh_slot_check(worker->slot, ended, &how))
	{
		database->has_extension = true;
		database->version_logged = false;
	}
	if (!ended)
		return;

	pfree(worker->handle);
	worker->handle = NULL;
	worker->slot = -1;
	no_start_before = 0;		/* a process is free now */
	if (how == CWH_EXIT_CRASHED)
	{
		/* its database may no longer accept connections */
		list_stale = true;
		worker->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 RESTART_DELAY_MS);
	}
	else
		database->has_extension = false;
	if (how == CWH_EXIT_OTHER_VERSION)
		database->version_logged = true;
	else if (how == CWH_EXIT_NO_EXTENSION)
		database->version_logged = false;
	else
		database->needs_probe = true;
}

/* Check all workers.  Returns how many databases are being probed. */
static int
check_workers(void)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	int			nprobes = 0;

	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
	{
		for (int i = 0; i < CWH_MAX_WORKERS; i++)
			check_worker(database, &database->workers[i]);
		if (!database->has_extension && database->workers[0].slot >= 0)
			nprobes++;
	}
	return nprobes;
}

/* How many workers should a database have now? */
static int
count_wanted(const Database *database)
{
	if (!database->listed)
		return 0;
	if (database->has_extension)
		return cwh_workers;
	return database->needs_probe || database->workers[0].slot >= 0 ? 1 : 0;
}

/* Does a database have any worker? */
static bool
has_workers(const Database *database)
{
	for (int i = 0; i < CWH_MAX_WORKERS; i++)
		if (database->workers[i].slot >= 0)
			return true;
	return false;
}

/*
 * Start a worker that does not run, unless it is too early or too many
 * databases are being probed.  Returns when to try again; DT_NOEND if it was
 * started, or if an event will wake us.
 */
static TimestampTz
start_if_due(Database *database, int number, TimestampTz now, int *nprobes)
{
	bool		is_probe = !database->has_extension;
	TimestampTz not_before = Max(database->workers[number].not_before,
								 no_start_before);

	if (not_before > now)
		return not_before;
	if (is_probe && *nprobes >= MAX_PROBES)
		return DT_NOEND;
	if (start_worker(database, number, *nprobes > 0))
	{
		if (is_probe)
			(*nprobes)++;
		return DT_NOEND;
	}
	return no_start_before > now ? no_start_before : DT_NOEND;
}

/*
 * Start the workers that a database should have, and stop those that it should
 * not.  Returns when to try again, or DT_NOEND.
 */
static TimestampTz
manage_database(Database *database, TimestampTz now, int *nprobes)
{
	int			wanted = count_wanted(database);
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < CWH_MAX_WORKERS; i++)
	{
		RunningWorker *worker = &database->workers[i];

		/* no delay is that long: the clock has been set back */
		if (worker->not_before > TimestampTzPlusMilliseconds(now, RESTART_DELAY_MS))
			worker->not_before = now;

		if (worker->slot < 0 && i < wanted)
		{
			TimestampTz again = start_if_due(database, i, now, nprobes);

			next = Min(next, again);
		}
		else if (worker->slot >= 0 && i >= wanted &&
				 (database->has_extension || !database->listed))
			TerminateBackgroundWorker(worker->handle);
	}
	return next;
}

/*
 * Start and stop workers in all databases.  Returns in how many milliseconds to
 * do that again without being woken, or -1.
 */
static long
manage_databases(void)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	int			nprobes;

	/* no delay is that long: the clock has been set back */
	if (no_start_before > TimestampTzPlusMilliseconds(now, SHORTAGE_DELAY_MS))
		no_start_before = 0;

	nprobes = check_workers();
	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
	{
		TimestampTz again = manage_database(database, now, &nprobes);

		next = Min(next, again);
		if (!database->listed && !has_workers(database))
			hash_search(databases, &database->oid, HASH_REMOVE, NULL);
	}
	if (next == DT_NOEND)
	{
		shortage_logged = false;	/* every worker that should run does */
		return -1;
	}
	return Max(1, (next - now) / 1000);
}

/* Note which databases sessions and settings want probed. */
static void
take_requests(void)
{
	List	   *to_check;
	ListCell   *cell;
	bool		check_all = cwh_launcher_take(&to_check);

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		check_all = true;
	}
	if (check_all || list_stale)
		list_databases();
	foreach(cell, to_check)
	{
		Database   *database;

		database = hash_search(databases, &lfirst_oid(cell), HASH_FIND, NULL);
		if (database)
			database->needs_probe = true;
	}
	list_free(to_check);
}

/* Entry point of the launcher's process. */
void
cwh_launcher_main(Datum arg)
{
	HASHCTL		info;
	uint32		wait_event;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(Database);
	info.hcxt = TopMemoryContext;
	databases = hash_create("chatwebhook databases", 64, &info,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	wait_event = cwh_wait_event("ChatwebhookLauncherMain");

	for (;;)
	{
		long		timeout;

		CHECK_FOR_INTERRUPTS();
		take_requests();
		timeout = manage_databases();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
		ResetLatch(MyLatch);
	}
}
