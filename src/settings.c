/*
 * settings.c
 *		The settings, chatwebhook.*, and the address policy made of them.
 *
 * Those that only SQL reads, with current_setting(), have a variable all the
 * same, so that PostgreSQL checks their values and shows their units.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "compat.h"
#include "settings.h"

/* The most networks and ports that a setting may list. */
#define MAX_NETWORKS	64
#define MAX_PORTS		64

PG_FUNCTION_INFO_V1(chatwebhook_setting);
PG_FUNCTION_INFO_V1(chatwebhook_url_problem);

bool		cwh_enabled = true;
char	   *cwh_databases = NULL;
int			cwh_workers = 1;
int			cwh_max_in_flight = 256;
int			cwh_poll_interval = 10000;
int			cwh_max_payload_size = 1024 * 1024;
int			cwh_max_response_size = 16 * 1024;
int			cwh_connector_timeout = 500;
int			cwh_retention = 30 * SECS_PER_DAY;
int			cwh_attempt_retention = 30 * SECS_PER_DAY;
int			cwh_dead_letter_retention = 90 * SECS_PER_DAY;
int			cwh_alert_backlog = 300;
int			cwh_breaker_threshold = 10;
int			cwh_max_customer_in_flight = 64;
int			cwh_max_customer_timeout = 30000;
int			cwh_max_customer_retries = 20;
int			cwh_max_customer_pending = 100000;
char	   *cwh_ca_file = NULL;
char	   *cwh_proxy = NULL;
int			cwh_log_attempts = CWH_LOG_FAILURES;
int			cwh_validation = CWH_VALIDATION_ERROR;
int			cwh_on_emit_error = CWH_ON_EMIT_ERROR_WARN;
int			cwh_emit_timeout = 1000;
char	   *cwh_user_agent = NULL;
char	   *cwh_secret_key_file = NULL;
char	   *cwh_traceparent = NULL;
char	   *cwh_schema_validator = NULL;
bool		cwh_outbox = false;
int			cwh_outbox_keep = 300;

/* read by SQL alone */
static char *chatbot = NULL;
static int	disable_after = 5 * SECS_PER_DAY;
static int	max_customer_webhooks = 100;
int			cwh_alert_failures = 5;
static double alert_success_rate = 0.9;

/* read by cwh_target_policy() */
static bool allow_http = false;
static char *allowed_networks = NULL;
static char *denied_networks = NULL;
static char *allowed_ports = NULL;
static bool policy_stale = true;	/* one of the three lists has changed */

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

static const struct config_enum_entry on_emit_error_options[] = {
	{"warning", CWH_ON_EMIT_ERROR_WARN, false},
	{"error", CWH_ON_EMIT_ERROR_RAISE, false},
	{NULL, 0, false}
};

/* Check hook of a list of networks. */
static bool
check_networks(char **newval, void **extra, GucSource source)
{
	CwhNetwork	networks[MAX_NETWORKS];
	const char *problem = NULL;

	if (*newval == NULL ||
		cwh_target_parse_networks(*newval, networks, MAX_NETWORKS,
								  &problem) >= 0)
		return true;
	GUC_check_errdetail("In the list of networks, %s.", problem);
	GUC_check_errhint("Write addresses in CIDR notation, separated by commas, such as 10.1.2.0/24, fd00::/8, or for one port, 10.1.2.0/24:8443.");
	return false;
}

/* Check hook of a list of ports. */
static bool
check_ports(char **newval, void **extra, GucSource source)
{
	uint16_t	ports[MAX_PORTS];
	const char *problem = NULL;

	if (*newval == NULL ||
		cwh_target_parse_ports(*newval, ports, MAX_PORTS, &problem) >= 0)
		return true;
	GUC_check_errdetail("In the list of ports, %s.", problem);
	return false;
}

/* Assign hook of both: have the address policy read again. */
static void
assign_policy(const char *newval, void *extra)
{
	policy_stale = true;
}

/*
 * Check hook for the name of a function.  It must be qualified, or a session's
 * search_path could decide which function is meant.  Whether it exists depends
 * on the database, and is checked when it is called.
 */
static bool
check_function_name(char **newval, void **extra, GucSource source)
{
	char	   *copy;
	List	   *names;
	bool		ok;

	if (*newval == NULL || **newval == '\0')
		return true;
	copy = pstrdup(*newval);
	ok = SplitIdentifierString(copy, '.', &names) && list_length(names) == 2;
	list_free(names);
	pfree(copy);
	if (!ok)
		GUC_check_errdetail("The value is not a schema-qualified function name such as public.jsonb_matches_schema.");
	return ok;
}

/* Check hook of a value that is sent in a request header. */
static bool
check_header_value(char **newval, void **extra, GucSource source)
{
	for (const char *c = *newval; c && *c; c++)
	{
		if ((unsigned char) *c < 0x20 || (unsigned char) *c > 0x7e)
		{
			GUC_check_errdetail("The value is sent in a request header, so it can have printable ASCII characters only.");
			return false;
		}
	}
	return true;
}

/*
 * The address policy that the settings describe now.  It points into memory of
 * this file, which is parsed anew only after one of the lists has changed.
 */
const CwhTargetPolicy *
cwh_target_policy(void)
{
	static CwhNetwork allowed[MAX_NETWORKS];
	static CwhNetwork denied[MAX_NETWORKS];
	static uint16_t ports[MAX_PORTS];
	static CwhTargetPolicy policy;
	const char *problem;

	policy.allow_http = allow_http;
	if (!policy_stale)
		return &policy;
	policy_stale = false;
	policy.allowed = allowed;
	policy.nallowed = cwh_target_parse_networks(allowed_networks, allowed,
												MAX_NETWORKS, &problem);
	policy.denied = denied;
	policy.ndenied = cwh_target_parse_networks(denied_networks, denied,
											   MAX_NETWORKS, &problem);
	policy.ports = ports;
	policy.nports = cwh_target_parse_ports(allowed_ports, ports, MAX_PORTS,
										   &problem);
	/* the check hooks accept nothing that fails here */
	Assert(policy.nallowed >= 0 && policy.ndenied >= 0 && policy.nports >= 0);
	return &policy;
}

/*
 * SQL: the value of a setting, as SHOW gives it.  Unlike current_setting(), this
 * loads the library, which defines our settings.
 */
Datum
chatwebhook_setting(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_TEXT_P(cstring_to_text(GetConfigOptionByName(name, NULL, false)));
}

/* SQL: why a URL may not be sent to, or null if it may. */
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

/* Which workers run, and how much they do. */
static void
define_worker_settings(void)
{
	/* An operator may have to stop all sending at once. */
	DefineCustomBoolVariable("chatwebhook.enabled",
							 "Enables sending.",
							 "While it is off, workers claim nothing. Events are still queued, and requests that are under way are finished.",
							 &cwh_enabled, true, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* Some databases should not send: a copy for testing, say. */
	DefineCustomStringVariable("chatwebhook.databases",
							   "Lists the databases that get workers, separated by commas.",
							   "If none is listed, every database that has the extension gets them. A database whose name follows an exclamation mark gets none.",
							   &cwh_databases, "", PGC_SIGHUP,
							   GUC_LIST_INPUT, NULL, NULL, NULL);

	/* A worker is one process, so it can use no more than one CPU core. */
	DefineCustomIntVariable("chatwebhook.workers",
							"Sets the number of workers in each database.",
							NULL,
							&cwh_workers, 1, 1, CWH_MAX_WORKERS, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* This bounds a worker's memory and sockets. */
	DefineCustomIntVariable("chatwebhook.max_in_flight",
							"Sets the maximum number of requests that a worker has under way.",
							"Each needs a socket, and PostgreSQL leaves a worker about a third of max_files_per_process for sockets.",
							&cwh_max_in_flight, 256, 1, 4096, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/*
	 * Commits wake the workers, so this matters only for deliveries that no
	 * commit here has announced, such as those of a restored dump.
	 */
	DefineCustomIntVariable("chatwebhook.poll_interval",
							"Sets how often a worker reads the whole queue without having been woken.",
							NULL,
							&cwh_poll_interval, 10000, 100, 3600000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);

	/* A worker calls connectors one at a time: a slow one holds up the rest. */
	DefineCustomIntVariable("chatwebhook.connector_timeout",
							"Sets the maximum time that a call of a connector's function may take.",
							"A call that takes longer fails that attempt of its delivery.",
							&cwh_connector_timeout, 500, 1, 60000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);

	/* An unreachable receiver should cost neither load nor retries. */
	DefineCustomIntVariable("chatwebhook.breaker_threshold",
							"Sets the number of consecutive failures after which a webhook is paused.",
							"A paused webhook gets one request at a time, after waits that grow like those between retries, until one succeeds. Only failures that are retried count. 0 means never.",
							&cwh_breaker_threshold, 10, 0, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* A receiver that is gone for good need not be retried forever. */
	DefineCustomIntVariable("chatwebhook.disable_after",
							"Sets how long a webhook may have nothing but failures before it is disabled.",
							"Its pending deliveries wait until it is enabled again. -1 means never.",
							&disable_after, 5 * SECS_PER_DAY, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

/*
 * Bounds for the webhooks of one chatbot, that is, with a chatbot_id: customers
 * write those.  SQL checks them when a row is stored; what is stored already is
 * lowered when a worker loads it.
 */
static void
define_customer_settings(void)
{
	/* One customer's webhook must leave slots for the others. */
	DefineCustomIntVariable("chatwebhook.max_customer_in_flight",
							"Sets the maximum of max_in_flight for webhooks with a chatbot_id.",
							"For webhooks that already exceed it, workers use this value.",
							&cwh_max_customer_in_flight, 64, 1, CWH_MAX_WINDOW,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* A receiver that hangs holds its slots for as long. */
	DefineCustomIntVariable("chatwebhook.max_customer_timeout",
							"Sets the maximum of timeout for webhooks with a chatbot_id.",
							"For webhooks that already exceed it, workers use this value.",
							&cwh_max_customer_timeout, 30000, 100, CWH_MAX_TIMEOUT_MS,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	/* Deliveries that cannot succeed should come to an end. */
	DefineCustomIntVariable("chatwebhook.max_customer_retries",
							"Sets the maximum of max_retries, and of the number of retry_delays, for webhooks with a chatbot_id.",
							"For webhooks that already exceed it, workers use this value.",
							&cwh_max_customer_retries, 20, 0, CWH_MAX_RETRIES,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* Each webhook multiplies what an event costs. */
	DefineCustomIntVariable("chatwebhook.max_customer_webhooks",
							"Sets the maximum number of webhooks with the same chatbot_id.",
							"Those that exist already stay. -1 means no limit.",
							&max_customer_webhooks, 100, -1, INT_MAX, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* The queue should not fill the disk for a receiver that is too slow. */
	DefineCustomIntVariable("chatwebhook.max_customer_pending",
							"Sets the number of pending deliveries above which a webhook with a chatbot_id is disabled.",
							"A worker counts them every few minutes, so that emitting costs no more. What is pending stays, to be delivered once the webhook is enabled again. -1 means no limit.",
							&cwh_max_customer_pending, 100000, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/* Where requests go, and what they look like. */
static void
define_request_settings(void)
{
	/* Tests, and receivers in a private network, may do without TLS. */
	DefineCustomBoolVariable("chatwebhook.allow_http",
							 "Allows http URLs, that is, requests without TLS.",
							 NULL,
							 &allow_http, false, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* Receivers in the private network can be reached, and only those. */
	DefineCustomStringVariable("chatwebhook.allowed_networks",
							   "Lists networks that may be sent to although they are not public.",
							   "In CIDR notation, separated by commas, optionally with a port, such as 10.1.2.0/24:8443. Applies to all webhooks, including customers'.",
							   &allowed_networks, "", PGC_SIGHUP, 0,
							   check_networks, assign_policy, NULL);

	/* The operator's own servers may have public addresses. */
	DefineCustomStringVariable("chatwebhook.denied_networks",
							   "Lists networks that may not be sent to.",
							   "In CIDR notation, separated by commas. Takes precedence over chatwebhook.allowed_networks.",
							   &denied_networks, "", PGC_SIGHUP, 0,
							   check_networks, assign_policy, NULL);

	/* Customers can be held to the usual ports. */
	DefineCustomStringVariable("chatwebhook.allowed_ports",
							   "Lists the ports that may be sent to, separated by commas.",
							   "If empty, any port but the well-known ones of other services.",
							   &allowed_ports, "", PGC_SIGHUP, 0,
							   check_ports, assign_policy, NULL);

	/* A firewall may let nothing else out. */
	DefineCustomStringVariable("chatwebhook.proxy",
							   "Sets the proxy that requests are sent through.",
							   "A URL such as http://proxy.example:3128. If empty, none is used. Environment variables such as https_proxy are ignored.",
							   &cwh_proxy, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	/* Receivers may have certificates of a private authority. */
	DefineCustomStringVariable("chatwebhook.ca_file",
							   "Sets the location of the file with the certificate authorities to trust.",
							   "Only those are trusted. If empty, those of the system are. A change of the file counts after at most 5 minutes.",
							   &cwh_ca_file, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	/* A dump or a stolen backup should not reveal secrets. */
	DefineCustomStringVariable("chatwebhook.secret_key_file",
							   "Sets the location of the file with the keys that secrets are encrypted with.",
							   "One key per line, the current one first, as 64 hexadecimal digits or as the base64 of 32 bytes. The file must have mode 0600 or less and belong to the server's user, or 0640 or less and belong to root. If empty, secrets are stored in plain text.",
							   &cwh_secret_key_file, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	/* Receivers may filter by it. */
	DefineCustomStringVariable("chatwebhook.user_agent",
							   "Sets the User-Agent header of requests.",
							   NULL,
							   &cwh_user_agent, "chatwebhook/" CWH_VERSION,
							   PGC_SIGHUP, 0, check_header_value, NULL, NULL);
}

/* What an event may be, and what is kept of it. */
static void
define_data_settings(void)
{
	/* An application's server sets it for each customer's request. */
	DefineCustomStringVariable("chatwebhook.chatbot",
							   "Sets the chatbot whose rows are visible to roles with app access.",
							   "It is also the default of webhook.chatbot_id. If empty, they see none.",
							   &chatbot, "", PGC_USERSET, 0, NULL, NULL, NULL);

	/*
	 * Receivers can continue the trace of the chat's request.  A malformed
	 * value is not an error, since an application may pass on what its clients
	 * sent.
	 */
	DefineCustomStringVariable("chatwebhook.traceparent",
							   "Sets the trace context of events, which is sent in the header traceparent.",
							   "As in W3C Trace Context, version 00. Use SET LOCAL. If it is empty or malformed, the header is not sent.",
							   &cwh_traceparent, "", PGC_USERSET, 0,
							   NULL, NULL, NULL);

	/* An application may emit events that event_type does not know yet. */
	DefineCustomEnumVariable("chatwebhook.validation",
							 "Sets how to handle events of an unknown type, without a required key, or whose data does not match its schema.",
							 NULL,
							 &cwh_validation, CWH_VALIDATION_ERROR,
							 validation_options, PGC_USERSET, 0,
							 NULL, NULL, NULL);

	/*
	 * Receivers rely on the schemas that openapi() shows them.  The function sees
	 * the data of all events, so only an administrator chooses it.
	 */
	DefineCustomStringVariable("chatwebhook.schema_validator",
							   "Sets the function that checks the data of events against the schema of their event type.",
							   "Schema and name of a function f(schema json, instance jsonb) that returns boolean, such as public.jsonb_matches_schema of the extension pg_jsonschema. It runs as its owner, in a read-only subtransaction, for at most chatwebhook.emit_timeout. Events webhook.* are not checked. If empty, only the keys in event_type.required are checked.",
							   &cwh_schema_validator, "", PGC_SUSET, 0,
							   check_function_name, NULL, NULL);

	/* A chat must go on even if an event cannot be emitted; a test should fail. */
	DefineCustomEnumVariable("chatwebhook.on_emit_error",
							 "Sets what a trigger does if it cannot emit an event.",
							 "With warning, the statement goes on without the event, which emit_failure counts. With error, the statement fails. Calls of emit() from code always raise their errors.",
							 &cwh_on_emit_error, CWH_ON_EMIT_ERROR_WARN,
							 on_emit_error_options, PGC_USERSET, 0,
							 NULL, NULL, NULL);

	/* A chat must not wait for a watch's query. */
	DefineCustomIntVariable("chatwebhook.emit_timeout",
							"Sets the maximum time for the query or the expressions of a watch, and for chatwebhook.schema_validator.",
							"If they take longer, the event cannot be emitted; see chatwebhook.on_emit_error.",
							&cwh_emit_timeout, 1000, 1, 60000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);

	/* Receivers commonly refuse larger requests. */
	DefineCustomIntVariable("chatwebhook.max_payload_size",
							"Sets the maximum size of an event's data as JSON.",
							"An event with larger data cannot be emitted; see chatwebhook.on_emit_error.",
							&cwh_max_payload_size, 1024 * 1024, 1024, 64 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);

	/* Response bodies are for people to read, and must not fill the disk. */
	DefineCustomIntVariable("chatwebhook.max_response_size",
							"Sets how much of a response's body is read and kept.",
							"The rest is not read.",
							&cwh_max_response_size, 16 * 1024, 0, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_BYTE, NULL, NULL, NULL);

	/* Keeping a row for every attempt costs a third of the throughput. */
	DefineCustomEnumVariable("chatwebhook.log_attempts",
							 "Sets which attempts are kept in the table attempt.",
							 NULL,
							 &cwh_log_attempts, CWH_LOG_FAILURES,
							 log_attempts_options, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* The tables should not grow forever. */
	DefineCustomIntVariable("chatwebhook.retention",
							"Sets how long delivered and canceled deliveries are kept.",
							"Also applies to events without deliveries, to closed alerts and to the activity. -1 means forever.",
							&cwh_retention, 30 * SECS_PER_DAY, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	/* Attempts take the most room, and lose their interest first. */
	DefineCustomIntVariable("chatwebhook.attempt_retention",
							"Sets how long attempts are kept.",
							"-1 means forever.",
							&cwh_attempt_retention, 30 * SECS_PER_DAY, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	/* Dead letters wait for an operator to find the cause and retry them. */
	DefineCustomIntVariable("chatwebhook.dead_letter_retention",
							"Sets how long dead letters are kept, with their events.",
							"-1 means forever.",
							&cwh_dead_letter_retention, 90 * SECS_PER_DAY, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

/* Events that delivery nodes get by logical replication. */
static void
define_outbox_settings(void)
{
	/* A server that only chats leaves queue and requests to others. */
	DefineCustomBoolVariable("chatwebhook.outbox",
							 "Stores events for delivery nodes instead of delivering them.",
							 "Each event is one row of the table event, which delivery nodes subscribe to. A worker removes it when all of them have confirmed it; see outbox_status.",
							 &cwh_outbox, false, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* Time to notice that a slot is gone, or that an initial copy begins anew. */
	DefineCustomIntVariable("chatwebhook.outbox_keep",
							"Sets how long an outbox keeps events that all delivery nodes have confirmed.",
							"All replication slots must exist for as long, and no initial copy may be under way.",
							&cwh_outbox_keep, 300, 0, INT_MAX, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);
}

/* When an alert is opened. */
static void
define_alert_settings(void)
{
	/* A receiver that keeps failing needs attention; a single failure does not. */
	DefineCustomIntVariable("chatwebhook.alert_failures",
							"Sets the number of consecutive failed attempts that opens an alert.",
							"From that number on, a webhook's state is failing. 0 disables the alert.",
							&cwh_alert_failures, 5, 0, 1000000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/* A receiver may fail often, but never many times in a row. */
	DefineCustomRealVariable("chatwebhook.alert_success_rate",
							 "Sets the success rate of the last 100 attempts below which an alert is opened.",
							 "Between 0 and 1. Below it, a webhook's state is degraded. 0 disables the alert.",
							 &alert_success_rate, 0.9, 0, 1, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	/* A receiver may answer well, but more slowly than events come in. */
	DefineCustomIntVariable("chatwebhook.alert_backlog",
							"Sets how long a delivery may be overdue before an alert is opened.",
							"Likewise, how long an event may wait in an outbox for a delivery node. 0 disables the alert.",
							&cwh_alert_backlog, 300, 0, 30 * SECS_PER_DAY, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);
}

/* Define all settings, and reserve their prefix. */
void
cwh_define_settings(void)
{
	define_worker_settings();
	define_customer_settings();
	define_request_settings();
	define_data_settings();
	define_outbox_settings();
	define_alert_settings();
	MarkGUCPrefixReserved("chatwebhook");
}
