/*
 * identity.c
 *		Is this database a copy of another one?
 *
 * A worker checks the table identity when it starts and whenever that changes,
 * and sends nothing in a copy; sql/identity.sql says how a copy is
 * recognized.  This runs in the caller's transaction, which is connected to
 * SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"

#include "changes.h"
#include "identity.h"
#include "state.h"
#include "statement.h"

/* INDENT OFF */
enum
{
	IDENTITY_IS_COPY, IDENTITY_SAME_CLUSTER, IDENTITY_FIRST_DELIVERY
};

static const char identity_sql[] =
	"SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<>) 1"
	"       OR NOT pg_catalog.bool_and(i.database" EQ "$1 AND i.queue" EQ "$2),"
	"       pg_catalog.bool_and(i.system_identifier" EQ "$3),"
	"       pg_catalog.max(i.first_delivery)"
	"  FROM chatwebhook.identity i";

/* After pg_upgrade. */
static const char move_sql[] =
	"UPDATE chatwebhook.identity SET system_identifier = $1";

/* A row that describes no database: with a second row, this one is a copy. */
static const char foreign_sql[] =
	"INSERT INTO chatwebhook.identity (first_delivery, system_identifier, database, queue)"
	" VALUES (0, 0, 0, 0)";

static CwhStatement identity_st = {identity_sql, 3, {OIDOID, OIDOID, INT8OID}, NULL};
static CwhStatement move_st = {move_sql, 1, {INT8OID}, NULL};
static CwhStatement foreign_st = {foreign_sql, 0, {0}, NULL};
/* INDENT ON */

/*
 * Deliveries of another database were found, which identity does not show yet.
 */
static bool foreign_found = false;

/* Report once that nothing is sent. */
static void
log_copy(void)
{
	ereport(LOG,
			(errmsg("chatwebhook sends nothing from database \"%s\", which is a copy of another database",
					get_database_name(MyDatabaseId)),
			 errhint("If it should send from now on, call chatwebhook.adopt(). In a copy for testing, call chatwebhook.adopt(cancel_pending => true).")));
	cwh_note_error("the database is a copy of another one; see chatwebhook.adopt()");
}

/* Find out whether this database is a copy. */
void
cwh_identify(void)
{
	Datum		args[3];
	bool		isnull;
	bool		same_cluster;
	bool		was_copy = cwh_worker.is_copy;

	if (foreign_found)
		(void) cwh_run(&foreign_st, NULL);
	foreign_found = false;
	args[0] = ObjectIdGetDatum(MyDatabaseId);
	args[1] = ObjectIdGetDatum(cwh_relation(CWH_REL_QUEUE));
	args[2] = Int64GetDatum((int64) GetSystemIdentifier());
	(void) cwh_run(&identity_st, args);
	cwh_worker.is_copy = DatumGetBool(cwh_field(0, IDENTITY_IS_COPY, &isnull)) || isnull;
	same_cluster = DatumGetBool(cwh_field(0, IDENTITY_SAME_CLUSTER, &isnull)) || isnull;
	cwh_worker.first_delivery =
		DatumGetInt64(cwh_field(0, IDENTITY_FIRST_DELIVERY, &isnull));
	if (!cwh_worker.is_copy && !same_cluster)
		(void) cwh_run(&move_st, &args[2]);
	if (cwh_worker.is_copy && !was_copy)
		log_copy();
	else if (was_copy && !cwh_worker.is_copy)
		cwh_note_error("");
}

/*
 * A delivery was found that is older than the extension in this database: send
 * nothing, and record that in the next transaction.
 */
void
cwh_note_foreign(void)
{
	if (!cwh_worker.is_copy)
		log_copy();
	foreign_found = cwh_worker.is_copy = true;
	cwh_worker.seen_generation = 0;
}
