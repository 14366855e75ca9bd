/*
 * launcher.c
 *		Starts workers where they are needed.
 *
 * One process for the cluster, connected to no database.  When it starts, and
 * when a session tells it that an extension or a database has come or gone,
 * it starts a worker in each database concerned; one that finds no extension
 * there says so and leaves.  Workers that end otherwise are started again.
 * Its only transactions read pg_database.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "chatwebhook.h"
#include "compat.h"

/* A worker that ended without a word is started again after this. */
#define RESTART_DELAY_MS	1000

/* How many databases are looked into at a time. */
#define MAX_PROBES			2

typedef struct RunningWorker
{
	int			slot;			/* -1: not running */
	BackgroundWorkerHandle *handle;
	TimestampTz not_before;		/* do not start it sooner */
} RunningWorker;

#define MAX_WORKERS 16

typedef struct Database
{
	Oid			oid;			/* hash key */
	bool		listed;			/* is in pg_database, and wanted */
	bool		look;			/* find out whether it has the extension: it
								 * may have come since a worker last looked */
	bool		has_extension;	/* a worker has found it */
	bool		told;			/* one has logged that its version is another
								 * than the library's */
	RunningWorker workers[MAX_WORKERS];
} Database;

static HTAB *databases = NULL;
static bool relist = false;		/* databases may not be as we know them */
static bool complained = false; /* of too few worker processes */
static TimestampTz none_before = 0; /* no process was free; try again then */

/* Is this database one that chatwebhook.databases names? */
static bool
is_wanted(const char *name)
{
	char	   *list = pstrdup(cwh_databases);
	List	   *names;
	ListCell   *cell;

	if (!SplitGUCList(list, ',', &names) || names == NIL)
		return true;
	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/* Bring the list of databases up to date, and mark all as to be looked at. */
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

		/* a worker in a template would be in the way of those who copy it */
		if (!form->datallowconn || form->datistemplate ||
			!is_wanted(NameStr(form->datname)))
			continue;
		database = hash_search(databases, &form->oid, HASH_ENTER, &found);
		if (!found)
		{
			memset(database, 0, sizeof(Database));
			database->oid = form->oid;
			for (int i = 0; i < MAX_WORKERS; i++)
				database->workers[i].slot = -1;
		}
		database->listed = true;
		database->look = true;
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
}

/* Start a worker; another may be about to end and make room for it. */
static void
start_worker(Database *database, int number, bool room_follows)
{
	RunningWorker *running = &database->workers[number];
	BackgroundWorker worker;
	int			slot;
	int32		token = 0;

	slot = cwh_slot_reserve(database->oid, number, database->told, &token);
	if (slot == CWH_SLOT_BARRED)
		return;					/* we are told when it is free again */

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
			database->look = false;
		return;
	}

	if (slot >= 0)
	{
		CwhExit		how;
		bool		has_extension;

		cwh_slot_free(slot, &how, &has_extension);
	}
	if (!complained && !room_follows)
		ereport(WARNING,
				(errmsg("chatwebhook could not start a worker: no background worker process is free"),
				 errhint("Increase max_worker_processes, now %d, and restart the server.",
						 max_worker_processes)));
	complained = complained || !room_follows;
	none_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											  10 * RESTART_DELAY_MS);
}

/* See whether a worker has ended, and what follows from that. */
static void
check_worker(Database *database, int number)
{
	RunningWorker *running = &database->workers[number];
	CwhExit		how;
	bool		has_extension;
	pid_t		pid;

	if (running->slot < 0)
		return;
	if (cwh_slot_has_extension(running->slot))
	{
		database->has_extension = true;
		database->told = false;
	}
	if (GetBackgroundWorkerPid(running->handle, &pid) != BGWH_STOPPED)
		return;

	cwh_slot_free(running->slot, &how, &has_extension);
	pfree(running->handle);
	running->handle = NULL;
	running->slot = -1;
	none_before = 0;			/* there is a free one now */
	if (how == CWH_EXIT_CRASHED)
	{
		/* it may have been kept from its database */
		relist = true;
		running->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														  RESTART_DELAY_MS);
	}
	else
		database->has_extension = false;
	if (how == CWH_EXIT_OTHER_VERSION)
		database->told = true;
	else if (how == CWH_EXIT_NO_EXTENSION)
		database->told = false;
	else
		database->look = true;
}

/*
 * Start what should run and stop what should not.  Returns when to look again,
 * in milliseconds, or -1.
 */
static long
manage(void)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	int			probes = 0;

	/* no delay is that long: the clock has been set back */
	if (none_before > now + 10 * RESTART_DELAY_MS * 1000)
		none_before = 0;
	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
	{
		for (int i = 0; i < MAX_WORKERS; i++)
			check_worker(database, i);
		if (!database->has_extension && database->workers[0].slot >= 0)
			probes++;
	}

	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
	{
		int			wanted = 0;
		bool		running = false;

		if (database->listed && database->has_extension)
			wanted = cwh_workers;
		else if (database->listed &&
				 (database->look || database->workers[0].slot >= 0))
			wanted = 1;
		for (int i = 0; i < MAX_WORKERS; i++)
		{
			RunningWorker *worker = &database->workers[i];

			/* no delay is that long: the clock has been set back */
			if (worker->not_before > now + RESTART_DELAY_MS * 1000)
				worker->not_before = now;
			if (worker->slot < 0 && i < wanted)
			{
				TimestampTz not_before = Max(worker->not_before, none_before);

				if (not_before > now)
					next = Min(next, not_before);
				else if (database->has_extension)
					start_worker(database, i, probes > 0);
				else if (probes < MAX_PROBES)
				{
					start_worker(database, i, probes > 0);
					if (worker->slot >= 0)
						probes++;
				}
				if (worker->slot < 0 && none_before > now)
					next = Min(next, none_before);
			}
			else if (worker->slot >= 0 && i >= wanted &&
					 (database->has_extension || !database->listed))
				TerminateBackgroundWorker(worker->handle);
			running |= worker->slot >= 0;
		}
		if (!database->listed && !running)
			hash_search(databases, &database->oid, HASH_REMOVE, NULL);
	}
	if (next == DT_NOEND)
	{
		complained = false;		/* all that should run does */
		return -1;
	}
	return Max(1, (next - now) / 1000);
}

/* Entry point of the launcher's process. */
void
cwh_launcher_main(Datum arg)
{
	HASHCTL		info;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	cwh_launcher_attach();

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(Database);
	info.hcxt = TopMemoryContext;
	databases = hash_create("chatwebhook databases", 64, &info,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	for (;;)
	{
		List	   *pokes;
		ListCell   *cell;
		long		timeout;
		bool		all;

		CHECK_FOR_INTERRUPTS();
		cwh_launcher_flush();
		all = cwh_launcher_take(&pokes);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			all = true;
		}
		if (all || relist)
			list_databases();
		relist = false;
		foreach(cell, pokes)
		{
			Database   *database;

			database = hash_search(databases, &lfirst_oid(cell), HASH_FIND, NULL);
			if (database)
				database->look = true;
		}
		list_free(pokes);

		timeout = manage();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Have the postmaster start the launcher. */
void
cwh_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "chatwebhook", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cwh_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "chatwebhook launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "chatwebhook launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
