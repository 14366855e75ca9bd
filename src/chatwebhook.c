/*
 * chatwebhook.c
 *		Module entry: settings, hooks, and the launcher's registration.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "chatwebhook.h"
#include "compat.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(chatwebhook_check_preload);
PG_FUNCTION_INFO_V1(chatwebhook_url_problem);

void		_PG_init(void);

/* settings; described where they are defined, below */
bool		cwh_enabled = true;
char	   *cwh_databases = NULL;
int			cwh_workers = 1;
int			cwh_max_in_flight = 256;
int			cwh_poll_interval = 10000;
bool		cwh_allow_http = false;
static char *allowed_networks = NULL;
static char *denied_networks = NULL;
static char *allowed_ports = NULL;
static bool policy_stale = true;	/* the last three have changed */
int			cwh_max_payload_size = 1024 * 1024;
int			cwh_max_response_size = 16 * 1024;
int			cwh_connector_timeout = 500;
int			cwh_retention = 0;
int			cwh_attempt_retention = 0;
int			cwh_dead_letter_retention = 0;
static char *retention = NULL;
static char *attempt_retention = NULL;
static char *dead_letter_retention = NULL;
static char *disable_after = NULL;
static int	alert_failures = 5;
static double alert_success_rate = 0.9;
int			cwh_alert_backlog = 300;
int			cwh_breaker_threshold = 10;
char	   *cwh_ca_file = NULL;
char	   *cwh_proxy = NULL;
int			cwh_log_attempts = CWH_LOG_FAILURES;
int			cwh_validation = CWH_VALIDATION_ERROR;
char	   *cwh_user_agent = NULL;
char	   *cwh_secret_key_file = NULL;

static const struct config_enum_entry log_attempts_options[] = {
	{"none", CWH_LOG_NONE, false},
	{"failures", CWH_LOG_FAILURES, false},
	{"all", CWH_LOG_ALL, false},
	{NULL, 0, false}
};

static const struct config_enum_entry validation_options[] = {
	{"off", CWH_VALIDATION_OFF, false},
	{"warning", CWH_VALIDATION_WARNING, false},
	{"error", CWH_VALIDATION_ERROR, false},
	{NULL, 0, false}
};

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* What the launcher is to be told when this transaction ends. */
static bool look_at_this_database = false;
static bool look_at_all_databases = false;

/*
 * Settings
 */

/* Check a list of networks. */
static bool
check_networks(char **newval, void **extra, GucSource source)
{
	CwhNetwork	networks[CWH_MAX_NETWORKS];
	const char *problem = NULL;

	if (*newval == NULL ||
		cwh_target_parse_networks(*newval, networks, CWH_MAX_NETWORKS,
								  &problem) >= 0)
		return true;
	GUC_check_errdetail("In the list of networks, %s.", problem);
	GUC_check_errhint("Write addresses in CIDR notation, with commas between them, such as 10.1.2.0/24, fd00::/8.");
	return false;
}

/* Check a list of ports. */
static bool
check_ports(char **newval, void **extra, GucSource source)
{
	uint16_t	ports[CWH_MAX_PORTS];
	const char *problem = NULL;

	if (*newval == NULL ||
		cwh_target_parse_ports(*newval, ports, CWH_MAX_PORTS, &problem) >= 0)
		return true;
	GUC_check_errdetail("In the list of ports, %s.", problem);
	return false;
}

/* Check a value that will stand in a request header. */
static bool
check_header_value(char **newval, void **extra, GucSource source)
{
	for (const char *c = *newval; c && *c; c++)
	{
		if ((unsigned char) *c < 0x20 || (unsigned char) *c > 0x7e)
		{
			GUC_check_errdetail("The value would stand in a request header, and has a character other than printable ASCII.");
			return false;
		}
	}
	return true;
}

/*
 * A length of time in seconds, -1 for "infinite".  False if it is neither that
 * nor a time with a unit.
 */
static bool
parse_period(const char *value, int *seconds, const char **hint)
{
	*hint = NULL;
	if (pg_strcasecmp(value, "infinite") == 0)
	{
		*seconds = -1;
		return true;
	}
	return parse_int(value, seconds, GUC_UNIT_S, hint) && *seconds >= 0;
}

/* Check a length of time. */
static bool
check_period(char **newval, void **extra, GucSource source)
{
	int			seconds;
	const char *hint;

	if (*newval && parse_period(*newval, &seconds, &hint))
		return true;
	GUC_check_errdetail("The value is neither a time nor \"infinite\".");
	GUC_check_errhint("Write a number with a unit (s, min, h, d), such as 30d, or infinite.");
	return false;
}

/* Understand lengths of time, once for each change. */
static void
assign_retention(const char *newval, void *extra)
{
	const char *hint;

	(void) parse_period(newval, &cwh_retention, &hint);
}

static void
assign_attempt_retention(const char *newval, void *extra)
{
	const char *hint;

	(void) parse_period(newval, &cwh_attempt_retention, &hint);
}

static void
assign_dead_letter_retention(const char *newval, void *extra)
{
	const char *hint;

	(void) parse_period(newval, &cwh_dead_letter_retention, &hint);
}

/* A setting of the address policy has changed. */
static void
assign_policy(const char *newval, void *extra)
{
	policy_stale = true;
}

/* The address policy as the settings now say, understood once for each change. */
const CwhTargetPolicy *
cwh_target_policy(void)
{
	static CwhNetwork allowed[CWH_MAX_NETWORKS];
	static CwhNetwork denied[CWH_MAX_NETWORKS];
	static uint16_t ports[CWH_MAX_PORTS];
	static CwhTargetPolicy policy;
	const char *problem;

	policy.allow_http = cwh_allow_http;
	if (!policy_stale)
		return &policy;
	policy_stale = false;
	policy.allowed = allowed;
	policy.nallowed = cwh_target_parse_networks(allowed_networks, allowed,
												CWH_MAX_NETWORKS, &problem);
	policy.denied = denied;
	policy.ndenied = cwh_target_parse_networks(denied_networks, denied,
											   CWH_MAX_NETWORKS, &problem);
	policy.ports = ports;
	policy.nports = cwh_target_parse_ports(allowed_ports, ports,
										   CWH_MAX_PORTS, &problem);
	/* the check hooks have let nothing else in */
	Assert(policy.nallowed >= 0 && policy.ndenied >= 0 && policy.nports >= 0);
	return &policy;
}

/* Define the settings. */
static void
define_settings(void)
{
	/* To stop all sending at once, when an endpoint or a network is sick. */
	DefineCustomBoolVariable("chatwebhook.enabled",
							 "Sends what is due; off stops claiming at once.",
							 "Events are still queued while it is off, and requests under way are finished.",
							 &cwh_enabled, true, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* To keep workers out of databases that should not send. */
	DefineCustomStringVariable("chatwebhook.databases",
							   "Lists the databases that get workers, with commas between them.",
							   "Empty: every database that has the extension.",
							   &cwh_databases, "", PGC_SIGHUP,
							   GUC_LIST_INPUT, NULL, NULL, NULL);

	/* One worker saturates a core; more use more. */
	DefineCustomIntVariable("chatwebhook.workers",
							"Sets the number of workers for each database.",
							NULL,
							&cwh_workers, 1, 1, 16, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* To bound memory and sockets. */
	DefineCustomIntVariable("chatwebhook.max_in_flight",
							"Sets the most requests that a worker has under way.",
							"Each takes a socket, and PostgreSQL leaves a worker about a third of max_files_per_process for those.",
							&cwh_max_in_flight, 256, 1, 4096, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* For what no commit could tell, such as COMMIT PREPARED elsewhere. */
	DefineCustomIntVariable("chatwebhook.poll_interval",
							"Sets how often a worker looks through the queue without having been woken.",
							NULL,
							&cwh_poll_interval, 10000, 100, 3600000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);

	/* For tests, and for receivers inside a private network. */
	DefineCustomBoolVariable("chatwebhook.allow_http",
							 "Allows URLs without TLS.",
							 NULL,
							 &cwh_allow_http, false, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* To reach receivers inside the private network, and only those. */
	DefineCustomStringVariable("chatwebhook.allowed_networks",
							   "Lists networks that may be sent to although they are not public.",
							   "CIDR notation, with commas between them.",
							   &allowed_networks, "", PGC_SIGHUP, 0,
							   check_networks, assign_policy, NULL);

	/* To keep workers from addresses that are public but one's own. */
	DefineCustomStringVariable("chatwebhook.denied_networks",
							   "Lists networks that are never sent to.",
							   "CIDR notation, with commas between them; goes before chatwebhook.allowed_networks.",
							   &denied_networks, "", PGC_SIGHUP, 0,
							   check_networks, assign_policy, NULL);

	/* To hold tenants to the usual ports. */
	DefineCustomStringVariable("chatwebhook.allowed_ports",
							   "Lists the ports that may be sent to, with commas between them.",
							   "Empty: any but those of well-known other services.",
							   &allowed_ports, "", PGC_SIGHUP, 0,
							   check_ports, assign_policy, NULL);

	/* Receivers commonly refuse more. */
	DefineCustomIntVariable("chatwebhook.max_payload_size",
							"Sets the largest data, as JSON, that an event may have.",
							"A larger one is an error in the statement that emits it.",
							&cwh_max_payload_size, 1024 * 1024, 1024, 64 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);

	/* Replies are for people to read, and a receiver must not fill the disk. */
	DefineCustomIntVariable("chatwebhook.max_response_size",
							"Sets how much of a reply's body is read and kept.",
							"The rest is left unread.",
							&cwh_max_response_size, 16 * 1024, 0, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_BYTE, NULL, NULL, NULL);

	/* A worker calls connectors one after the other: a slow one holds it up. */
	DefineCustomIntVariable("chatwebhook.connector_timeout",
							"Sets how long a connector's function may take.",
							"One that takes longer fails its delivery's attempt.",
							&cwh_connector_timeout, 500, 1, 60000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);

	/* So that the tables do not grow for ever. */
	DefineCustomStringVariable("chatwebhook.retention",
							   "Sets how long delivered and canceled deliveries are kept, and events without others.",
							   "A time such as 30d, or infinite. Closed alerts and the activity go likewise.",
							   &retention, "30d", PGC_SIGHUP, 0,
							   check_period, assign_retention, NULL);
	DefineCustomStringVariable("chatwebhook.attempt_retention",
							   "Sets how long attempts are kept.",
							   "A time such as 30d, or infinite.",
							   &attempt_retention, "30d", PGC_SIGHUP, 0,
							   check_period, assign_attempt_retention, NULL);
	DefineCustomStringVariable("chatwebhook.dead_letter_retention",
							   "Sets how long dead letters are kept, with their events.",
							   "A time such as 90d, or infinite.",
							   &dead_letter_retention, "90d", PGC_SIGHUP, 0,
							   check_period, assign_dead_letter_retention, NULL);

	/* An endpoint that is gone for good need not be tried for ever. */
	DefineCustomStringVariable("chatwebhook.disable_after",
							   "Sets after how long a time of nothing but failures a webhook is disabled.",
							   "A time such as 5d, or infinite. What is pending waits until it is enabled again.",
							   &disable_after, "5d", PGC_SIGHUP, 0,
							   check_period, NULL, NULL);

	/* What is down is not to be hammered, nor to use up attempts. */
	DefineCustomIntVariable("chatwebhook.breaker_threshold",
							"Sets how many failures in a row pause a webhook.",
							"While it is paused, one request at a time is tried, after waits that grow like those of retries, until one succeeds. Failures are those that are tried again. 0: never.",
							&cwh_breaker_threshold, 10, 0, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* When somebody should have a look. */
	DefineCustomIntVariable("chatwebhook.alert_failures",
							"Sets how many failed attempts in a row open an alert.",
							"With that many, a webhook's state is failing. 0: no such alert.",
							&alert_failures, 5, 0, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomRealVariable("chatwebhook.alert_success_rate",
							 "Sets the success rate of the last 100 attempts under which an alert is opened.",
							 "Under it, a webhook's state is degraded. 0: no such alert.",
							 &alert_success_rate, 0.9, 0, 1, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("chatwebhook.alert_backlog",
							"Sets how long a delivery may be due without being sent before an alert is opened.",
							"0: no such alert.",
							&cwh_alert_backlog, 300, 0, 30 * 86400, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);

	/* So that a dump or a stolen backup gives no secret away. */
	DefineCustomStringVariable("chatwebhook.secret_key_file",
							   "Names the file of the keys that secrets are encrypted with.",
							   "A key a line, 64 hexadecimal digits or the base64 of 32 bytes, the current one first; mode 0600. Empty: secrets are stored in plain text.",
							   &cwh_secret_key_file, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	/* For receivers with certificates of a private authority. */
	DefineCustomStringVariable("chatwebhook.ca_file",
							   "Names the file of certificate authorities to trust.",
							   "Empty: the system's.",
							   &cwh_ca_file, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	/* Where a firewall lets nothing else out. */
	DefineCustomStringVariable("chatwebhook.proxy",
							   "Names the proxy to send through.",
							   "A URL such as http://proxy.example:3128; empty: none. The environment is not consulted.",
							   &cwh_proxy, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	/* Rows for every attempt cost a third of the throughput. */
	DefineCustomEnumVariable("chatwebhook.log_attempts",
							 "Chooses the attempts that the table attempt keeps.",
							 NULL,
							 &cwh_log_attempts, CWH_LOG_FAILURES,
							 log_attempts_options, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* For applications that emit what event_type does not know yet. */
	DefineCustomEnumVariable("chatwebhook.validation",
							 "Chooses what an event of an unknown type, or without a required key, is.",
							 NULL,
							 &cwh_validation, CWH_VALIDATION_ERROR,
							 validation_options, PGC_USERSET, 0,
							 NULL, NULL, NULL);

	/* Receivers filter by it. */
	DefineCustomStringVariable("chatwebhook.user_agent",
							   "Sets the User-Agent header of requests.",
							   NULL,
							   &cwh_user_agent, "chatwebhook/" CWH_SQL_VERSION,
							   PGC_SIGHUP, 0, check_header_value, NULL, NULL);

	cwh_reserve_settings("chatwebhook");
}

/*
 * Hooks.  The launcher hears of extensions and databases that come and go when
 * the transaction ends, either way: a database that was to be dropped but was
 * not needs its workers back.
 */

/* CREATE, ALTER and DROP EXTENSION. */
static void
on_object_access(ObjectAccessType access, Oid classId, Oid objectId,
				 int subId, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (classId == ExtensionRelationId &&
		(access == OAT_POST_CREATE || access == OAT_POST_ALTER ||
		 access == OAT_DROP))
	{
		look_at_this_database = true;
		cwh_sweep_all();		/* so that the workers look, too */
		cwh_config_changed();
	}
}

/*
 * The database that this statement needs for itself, if there is one and it is
 * the user's; the statement itself checks the rest.  Without that, anybody's
 * statements that fail could make other people's workers leave.
 */
static Oid
database_to_vacate(Node *statement)
{
	const char *name = NULL;
	Oid			database;

	if (IsA(statement, DropdbStmt))
		name = ((DropdbStmt *) statement)->dbname;
	else if (IsA(statement, CreatedbStmt))
	{
		ListCell   *cell;

		name = "template1";
		foreach(cell, ((CreatedbStmt *) statement)->options)
		{
			DefElem    *option = lfirst(cell);

			if (strcmp(option->defname, "template") == 0 && option->arg)
				name = defGetString(option);
		}
	}
	else if (IsA(statement, RenameStmt) &&
			 ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) statement)->subname;
	else if (IsA(statement, AlterDatabaseStmt))
	{
		ListCell   *cell;

		foreach(cell, ((AlterDatabaseStmt *) statement)->options)
		{
			if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
				name = ((AlterDatabaseStmt *) statement)->dbname;
		}
	}
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	return OidIsValid(database) && cwh_owns_database(database) ?
		database : InvalidOid;
}

/* Statements on databases, and COMMIT PREPARED, whose hints are not ours. */
static void
on_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		   ProcessUtilityContext context, ParamListInfo params,
		   QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	Oid			database;

	if (IsA(statement, DropdbStmt) || IsA(statement, CreatedbStmt) ||
		IsA(statement, RenameStmt) || IsA(statement, AlterDatabaseStmt))
	{
		database = database_to_vacate(statement);
		if (OidIsValid(database))
		{
			look_at_all_databases = true;
			cwh_stop_workers(database);
		}
	}
	else if (IsA(statement, TransactionStmt) &&
			 ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED)
	{
		cwh_sweep_all();
		look_at_this_database = true;
	}

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context,
								  params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/* Transaction callback. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	cwh_unbar_workers();
	if (look_at_all_databases)
		cwh_launcher_poke(InvalidOid);
	else if (look_at_this_database)
		cwh_launcher_poke(MyDatabaseId);
	look_at_this_database = look_at_all_databases = false;
}

/*
 * Functions
 */

/* SQL: warn if the library was not loaded in advance. */
Datum
chatwebhook_check_preload(PG_FUNCTION_ARGS)
{
	if (!cwh_shared_available())
		ereport(WARNING,
				(errmsg("chatwebhook is not in shared_preload_libraries: events are queued, but nothing is sent"),
				 errhint("Add chatwebhook to shared_preload_libraries in postgresql.conf and restart the server.")));
	PG_RETURN_VOID();
}

/* SQL: why a URL would be refused. */
Datum
chatwebhook_url_problem(PG_FUNCTION_ARGS)
{
	text	   *url = PG_GETARG_TEXT_PP(0);
	CwhTarget	target;
	const char *problem;

	problem = cwh_target_check_url(cwh_target_policy(), VARDATA_ANY(url),
								   VARSIZE_ANY_EXHDR(url), &target);
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/* Called when the library is loaded. */
void
_PG_init(void)
{
	define_settings();
	cwh_shared_install();
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_object_access_hook = object_access_hook;
	object_access_hook = on_object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = on_utility;
	RegisterXactCallback(at_transaction_end, NULL);
	/* pg_upgrade wants the server for itself */
	if (!IsBinaryUpgrade)
		cwh_launcher_register();
}
