/*
 * outbox.c
 *		Claim and settle: the only C file with SQL on the queue.
 *
 * A claim locks rows with SKIP LOCKED, so that two claims at the same time
 * take different ones, and notes them in shared memory (shared.c) before its
 * transaction ends, so that later claims pass over them.  It writes nothing
 * that has to reach the disk.
 *
 * A settle deletes what is finished from the queue, adds it to the history,
 * moves what failed to its next attempt, and brings the health up to date, all
 * in one transaction: what is finished, which is most, without SQL (rows.c),
 * and the others with one statement each.
 *
 * Transactions begin in cwh_outbox_begin() and end in cwh_outbox_commit(), or
 * with an error, which the caller catches.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "chatwebhook.h"
#include "compat.h"

/* No operator that somebody else has made. */
#define EQ	" OPERATOR(pg_catalog.=) "
#define GT	" OPERATOR(pg_catalog.>) "
#define LT	" OPERATOR(pg_catalog.<) "
#define LE	" OPERATOR(pg_catalog.<=) "
#define ADD " OPERATOR(pg_catalog.+) "
#define CAT " OPERATOR(pg_catalog.||) "
/* INDENT OFF */
static const char present_sql[] =
	"SELECT oid, extversion::pg_catalog.text FROM pg_catalog.pg_extension "
	"WHERE extname" EQ "'chatwebhook'";

static const char last_id_sql[] =
	"SELECT GREATEST((SELECT pg_catalog.max(id) FROM chatwebhook.queue),"
	"                (SELECT pg_catalog.max(id) FROM chatwebhook.history),"
	"                (SELECT pg_catalog.max(id) FROM chatwebhook.dead), 0)";

static const char any_webhook_sql[] =
	"SELECT 1 FROM chatwebhook.webhook LIMIT 1";

static const char present_webhooks_sql[] =
	"SELECT w.id FROM chatwebhook.webhook w WHERE w.id" EQ "ANY ($1)";

static const char load_sql[] =
	"SELECT w.id, w.name, w.url, w.enabled, w.headers, w.max_retries,"
	"       w.backoff, w.backoff_multiplier, w.max_backoff, w.timeout,"
	"       w.max_in_flight, v.names, v.vals, v.previous_until, w.auth,"
	"       w.connector, c.function, c.replies,"
	"       pg_catalog.jsonb_build_object('id', w.id, 'name', w.name,"
	"           'url', w.url, 'chatbotId', w.chatbot_id, 'settings', w.settings),"
	"       COALESCE(h.consecutive_failures" EQ "0"
	"                AND h.last_success_at IS NOT NULL, false),"
	"       w.updated_at, w.rate_limit, w.batch_size, w.batch_window, h.problem"
	"  FROM chatwebhook.webhook w"
	"  LEFT JOIN chatwebhook.health h ON h.webhook_id" EQ "w.id"
	"  LEFT JOIN chatwebhook.connector c ON c.name" EQ "w.connector"
	" CROSS JOIN LATERAL ("
	"       SELECT pg_catalog.array_agg(s.name) AS names,"
	"              pg_catalog.array_agg(s.value) AS vals,"
	"              pg_catalog.max(s.expires_at) AS previous_until"
	"         FROM chatwebhook.vault s WHERE s.webhook_id" EQ "w.id) v"
	" WHERE w.id" EQ "ANY ($1)";

/* The webhooks that have anything pending, found by skipping from one to the next. */
static const char sweep_sql[] =
	"WITH RECURSIVE found AS ("
	"   (SELECT q.webhook_id, q.next_attempt_at FROM chatwebhook.queue q"
	"     ORDER BY q.webhook_id, q.next_attempt_at LIMIT 1)"
	"    UNION ALL"
	"    SELECT n.webhook_id, n.next_attempt_at"
	"      FROM found CROSS JOIN LATERAL ("
	"           SELECT q.webhook_id, q.next_attempt_at FROM chatwebhook.queue q"
	"            WHERE q.webhook_id" GT "found.webhook_id"
	"            ORDER BY q.webhook_id, q.next_attempt_at LIMIT 1) n"
	") SELECT webhook_id, next_attempt_at FROM found";

/*
 * What is due later although it was never put off, or was tried later than now:
 * the clock has been set back since, and it is due now.
 */
static const char catch_up_sql[] =
	"UPDATE chatwebhook.queue q SET next_attempt_at = $1"
	"  FROM (SELECT a.id FROM chatwebhook.webhook w"
	"         CROSS JOIN LATERAL ("
	"               SELECT p.id FROM chatwebhook.queue p"
	"                WHERE p.webhook_id" EQ "w.id AND p.next_attempt_at" GT "$1"
	"                  AND (p.last_wait_ms" EQ "0 OR p.last_attempt_at" GT "$1)"
	"                  FOR UPDATE SKIP LOCKED) a"
	"         LIMIT $2) ahead"
	" WHERE q.id" EQ "ahead.id"
	" RETURNING q.id";

static const char problems_sql[] =
	"SELECT h.webhook_id FROM chatwebhook.health h WHERE h.problem IS NOT NULL";

#define CLAIMED \
	"SELECT q.id, q.webhook_id, q.next_attempt_at, q.attempts, q.first_attempt," \
	"       q.last_wait_ms, q.replies, q.ordered, e.id, e.type, e.chatbot_id," \
	"       e.conversation_id, e.created_at, e.data"

/* What is ordered waits for those of its conversation that came before it. */
static const char claim_sql[] =
	CLAIMED
	"  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                  pg_catalog.unnest($3), pg_catalog.unnest($4))"
	"       AS want(webhook_id, due, id, n)"
	" CROSS JOIN LATERAL ("
	"       SELECT * FROM chatwebhook.queue p"
	"        WHERE p.webhook_id" EQ "want.webhook_id"
	"          AND ROW(p.next_attempt_at, p.id)" GT "ROW(want.due, want.id)"
	"          AND p.next_attempt_at" LE "$5"
	"          AND NOT chatwebhook._claimed(p.id)"
	"          AND (NOT p.ordered OR NOT EXISTS ("
	"               SELECT FROM chatwebhook.queue b"
	"                WHERE b.webhook_id" EQ "p.webhook_id"
	"                  AND b.conversation_id" EQ "p.conversation_id"
	"                  AND b.ordered AND b.id" LT "p.id))"
	"        ORDER BY p.next_attempt_at, p.id"
	"        LIMIT want.n"
	"          FOR UPDATE SKIP LOCKED) q"
	"  LEFT JOIN chatwebhook.event e ON e.id" EQ "q.event_id";

/* The first of each of these conversations, if it is due. */
static const char claim_next_sql[] =
	CLAIMED
	"  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))"
	"       AS want(webhook_id, conversation_id)"
	" CROSS JOIN LATERAL ("
	"       SELECT p.id FROM chatwebhook.queue p"
	"        WHERE p.webhook_id" EQ "want.webhook_id"
	"          AND p.conversation_id" EQ "want.conversation_id AND p.ordered"
	"        ORDER BY p.id LIMIT 1) f"
	" CROSS JOIN LATERAL ("
	"       SELECT * FROM chatwebhook.queue p"
	"        WHERE p.id" EQ "f.id AND p.next_attempt_at" LE "$3"
	"          AND NOT chatwebhook._claimed(p.id)"
	"          FOR UPDATE SKIP LOCKED) q"
	"  LEFT JOIN chatwebhook.event e ON e.id" EQ "q.event_id";

static const char next_due_sql[] =
	"SELECT want.webhook_id, q.next_attempt_at"
	"  FROM pg_catalog.unnest($1) AS want(webhook_id)"
	" CROSS JOIN LATERAL ("
	"       SELECT p.next_attempt_at FROM chatwebhook.queue p"
	"        WHERE p.webhook_id" EQ "want.webhook_id"
	"          AND p.next_attempt_at" GT "$2"
	"        ORDER BY p.next_attempt_at LIMIT 1) q";

/* The ids stand here twice so that the queue is never read whole. */
static const char postpone_sql[] =
	"UPDATE chatwebhook.queue q"
	"   SET attempts = q.attempts" ADD "o.tried,"
	"       next_attempt_at = o.attempted_at" ADD "o.wait,"
	"       last_attempt_at = o.attempted_at,"
	"       last_wait_ms = o.wait_ms,"
	"       latency_ms = o.latency_ms,"
	"       last_status_code = o.status_code,"
	"       last_error = o.error"
	"  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                  pg_catalog.unnest($3), pg_catalog.unnest($4),"
	"                  pg_catalog.unnest($5), pg_catalog.unnest($6),"
	"                  pg_catalog.unnest($7), pg_catalog.unnest($8))"
	"       AS o(id, tried, wait, attempted_at, latency_ms, status_code, error,"
	"            wait_ms)"
	" WHERE q.id" EQ "o.id AND q.id" EQ "ANY ($1)"
	" RETURNING q.id";

static const char step_sql[] =
	"UPDATE chatwebhook.queue q SET replies = o.replies"
	"  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))"
	"       AS o(id, replies)"
	" WHERE q.id" EQ "o.id AND q.id" EQ "ANY ($1)"
	" RETURNING q.id";

/* When a settle met a locked row: those that can be had, and those there are. */
static const char lock_sql[] =
	"SELECT q.id FROM chatwebhook.queue q WHERE q.id" EQ "ANY ($1)"
	"   FOR UPDATE SKIP LOCKED";
static const char exists_sql[] =
	"SELECT q.id FROM chatwebhook.queue q WHERE q.id" EQ "ANY ($1)";

static const char log_attempts_sql[] =
	"INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id,"
	"       chatbot_id, started_at, latency_ms, status_code, error,"
	"       response_headers, response_body)"
	" SELECT a.delivery_id, a.attempt, a.webhook_id, a.chatbot_id,"
	"        a.started_at, a.latency_ms, a.status_code, a.error,"
	"        a.response_headers::pg_catalog.jsonb, a.response_body"
	"   FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                   pg_catalog.unnest($3), pg_catalog.unnest($4),"
	"                   pg_catalog.unnest($5), pg_catalog.unnest($6),"
	"                   pg_catalog.unnest($7), pg_catalog.unnest($8),"
	"                   pg_catalog.unnest($9), pg_catalog.unnest($10))"
	"        AS a(delivery_id, attempt, webhook_id, chatbot_id, started_at,"
	"             latency_ms, status_code, error, response_headers,"
	"             response_body)"
	" ON CONFLICT DO NOTHING";

/*
 * A row that another worker is writing, or that goes with its webhook, is
 * passed over: what it should gain is written with the next settle.
 */
static const char add_health_sql[] =
	"WITH gain AS MATERIALIZED ("
	"   SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                   pg_catalog.unnest($3), pg_catalog.unnest($4),"
	"                   pg_catalog.unnest($5), pg_catalog.unnest($6),"
	"                   pg_catalog.unnest($7), pg_catalog.unnest($8),"
	"                   pg_catalog.unnest($9), pg_catalog.unnest($10),"
	"                   pg_catalog.unnest($11), pg_catalog.unnest($12),"
	"                   pg_catalog.unnest($13))"
	"        AS g(webhook_id, successes, failures, succeeded, streak,"
	"             last_success_at, last_failure_at, last_error, recent,"
	"             failing_since, latency_sum_ms, latency_counts, given_up)"
	"), mine AS MATERIALIZED ("
	"   SELECT h.webhook_id FROM chatwebhook.health h"
	"    WHERE h.webhook_id" EQ "ANY ($1)"
	"      FOR NO KEY UPDATE SKIP LOCKED"
	") UPDATE chatwebhook.health h"
	"   SET total = h.total" ADD "g.successes" ADD "g.failures,"
	"       successes = h.successes" ADD "g.successes,"
	"       failures = h.failures" ADD "g.failures,"
	"       consecutive_failures = CASE WHEN g.succeeded THEN g.streak"
	"           ELSE h.consecutive_failures" ADD "g.streak END,"
	"       last_success_at = COALESCE(g.last_success_at, h.last_success_at),"
	"       last_failure_at = COALESCE(g.last_failure_at, h.last_failure_at),"
	"       last_error = COALESCE(g.last_error, h.last_error),"
	"       recent = (g.recent::pg_catalog.int4[]" CAT "h.recent)[1:100],"
	"       failing_since = CASE WHEN g.streak" EQ "0 THEN NULL"
	"           WHEN g.succeeded THEN g.failing_since"
	"           ELSE COALESCE(h.failing_since, g.failing_since) END,"
	"       latency_sum_ms = h.latency_sum_ms" ADD "g.latency_sum_ms,"
	"       latency_counts = chatwebhook._add(h.latency_counts, g.latency_counts::pg_catalog.int8[]),"
	"       given_up = h.given_up" ADD "g.given_up"
	"  FROM gain g, mine"
	" WHERE g.webhook_id" EQ "mine.webhook_id AND h.webhook_id" EQ "mine.webhook_id"
	"   AND h.webhook_id" EQ "ANY ($1)"
	" RETURNING h.webhook_id, g.failures" GT "0 OR EXISTS ("
	"     SELECT FROM chatwebhook.alert a"
	"      WHERE a.webhook_id" EQ "h.webhook_id AND a.closed_at IS NULL)";

static const char add_activity_sql[] =
	"INSERT INTO chatwebhook.activity AS a (since, worker, succeeded, failed, given_up)"
	" VALUES (pg_catalog.to_timestamp(pg_catalog.floor(pg_catalog.date_part("
	"             'epoch', $1) OPERATOR(pg_catalog./) 600) OPERATOR(pg_catalog.*) 600), $2, $3, $4, $5)"
	" ON CONFLICT (since, worker) DO UPDATE"
	"    SET succeeded = a.succeeded" ADD "EXCLUDED.succeeded,"
	"        failed = a.failed" ADD "EXCLUDED.failed,"
	"        given_up = a.given_up" ADD "EXCLUDED.given_up";

static const char check_alerts_sql[] =
	"SELECT chatwebhook._check_alerts($1)";
static const char check_backlog_sql[] =
	"SELECT chatwebhook._check_backlog($1, $2)";

static const char disable_sql[] =
	"UPDATE chatwebhook.webhook w"
	"   SET enabled = false, disabled_at = pg_catalog.clock_timestamp(),"
	"       disabled_reason = $2, updated_at = pg_catalog.clock_timestamp()"
	" WHERE w.id" EQ "(SELECT x.id FROM chatwebhook.webhook x"
	"                   WHERE x.id" EQ "$1 FOR NO KEY UPDATE SKIP LOCKED)"
	" RETURNING w.id";

/*
 * Other workers find the same problem.  No attempt is made while there is one,
 * so that time does not count among that of nothing but failures.
 */
static const char note_problem_sql[] =
	"WITH mine AS MATERIALIZED ("
	"   SELECT h.webhook_id, h.problem FROM chatwebhook.health h"
	"    WHERE h.webhook_id" EQ "$1 FOR NO KEY UPDATE SKIP LOCKED"
	"), changed AS ("
	"   UPDATE chatwebhook.health h"
	"      SET problem = NULLIF($2, ''), failing_since = NULL"
	"     FROM mine"
	"    WHERE h.webhook_id" EQ "mine.webhook_id"
	"      AND mine.problem IS DISTINCT FROM NULLIF($2, '')"
	"   RETURNING 1"
	") SELECT EXISTS (SELECT FROM changed) FROM mine";

/*
 * Plans, prepared at first use and kept for the life of the process.
 */
#define MAX_PARAMETERS 13

typedef struct Statement
{
	const char *sql;
	int			nargs;
	Oid			argtypes[MAX_PARAMETERS];
	SPIPlanPtr	plan;
} Statement;

static Statement present_st = {present_sql, 0, {0}, NULL};
static Statement last_id_st = {last_id_sql, 0, {0}, NULL};
static Statement any_webhook_st = {any_webhook_sql, 0, {0}, NULL};
static Statement present_webhooks_st = {present_webhooks_sql, 1, {UUIDARRAYOID}, NULL};
static Statement load_st = {load_sql, 1, {UUIDARRAYOID}, NULL};
static Statement sweep_st = {sweep_sql, 0, {0}, NULL};
static Statement catch_up_st = {catch_up_sql, 2, {TIMESTAMPTZOID, INT8OID}, NULL};
static Statement problems_st = {problems_sql, 0, {0}, NULL};
static Statement claim_st = {claim_sql, 5,
	{UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, INT4ARRAYOID,
	TIMESTAMPTZOID}, NULL};
static Statement claim_next_st = {claim_next_sql, 3,
	{UUIDARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID}, NULL};
static Statement next_due_st = {next_due_sql, 2,
	{UUIDARRAYOID, TIMESTAMPTZOID}, NULL};
static Statement postpone_st = {postpone_sql, 8,
	{INT8ARRAYOID, INT4ARRAYOID, INTERVALARRAYOID, TIMESTAMPTZARRAYOID,
	INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT8ARRAYOID}, NULL};
static Statement step_st = {step_sql, 2, {INT8ARRAYOID, JSONBARRAYOID}, NULL};
static Statement lock_st = {lock_sql, 1, {INT8ARRAYOID}, NULL};
static Statement exists_st = {exists_sql, 1, {INT8ARRAYOID}, NULL};
static Statement log_attempts_st = {log_attempts_sql, 10,
	{INT8ARRAYOID, INT4ARRAYOID, UUIDARRAYOID, TEXTARRAYOID,
	TIMESTAMPTZARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID,
	TEXTARRAYOID, TEXTARRAYOID}, NULL};
static Statement add_health_st = {add_health_sql, 13,
	{UUIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID, BOOLARRAYOID, INT8ARRAYOID,
	TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TIMESTAMPTZARRAYOID, INT8ARRAYOID, TEXTARRAYOID, INT8ARRAYOID},
	NULL};
static Statement add_activity_st = {add_activity_sql, 5,
	{TIMESTAMPTZOID, INT4OID, INT8OID, INT8OID, INT8OID}, NULL};
static Statement check_alerts_st = {check_alerts_sql, 1, {UUIDARRAYOID}, NULL};
static Statement check_backlog_st = {check_backlog_sql, 2,
	{UUIDARRAYOID, TIMESTAMPTZARRAYOID}, NULL};
static Statement disable_st = {disable_sql, 2, {UUIDOID, TEXTOID}, NULL};
static Statement note_problem_st = {note_problem_sql, 2, {UUIDOID, TEXTOID}, NULL};
/* INDENT ON */

/* Run a statement; its rows are in SPI_tuptable. */
static uint64
run(Statement *statement, Datum *args)
{
	MemoryContext context = CurrentMemoryContext;
	int			result;

	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statement->sql, statement->nargs,
									   statement->argtypes);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		statement->plan = plan;
	}
	result = SPI_execute_plan(statement->plan, args, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement->sql,
			 SPI_result_code_string(result));
	/* SPI leaves its own context behind, which ends with the transaction */
	MemoryContextSwitchTo(context);
	return SPI_processed;
}

/* A column of a row of the last result. */
static inline Datum
field(uint64 row, int column, bool *isnull)
{
	bool		null;
	Datum		datum;

	datum = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						  column, &null);
	if (isnull)
		*isnull = null;
	else if (null)
		elog(ERROR, "unexpected null in column %d", column);
	return datum;
}

/* A text column of a row of the last result; null stays null. */
static char *
field_text(uint64 row, int column)
{
	bool		isnull;
	Datum		datum = field(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

/*
 * Arrays of parameters, filled element by element.
 */
typedef struct Array
{
	Oid			type;			/* of the elements */
	int			n;
	Datum	   *values;
	bool	   *nulls;
} Array;

/* Make arrays of n elements, all null. */
static void
make_arrays(Array *arrays, const Statement *statement, int narrays, int n)
{
	for (int i = 0; i < narrays; i++)
	{
		arrays[i].type = get_element_type(statement->argtypes[i]);
		arrays[i].n = n;
		arrays[i].values = palloc(Max(1, n) * sizeof(Datum));
		arrays[i].nulls = palloc(Max(1, n) * sizeof(bool));
		memset(arrays[i].nulls, true, n * sizeof(bool));
	}
}

static inline void
set(Array *array, int i, Datum value)
{
	array->values[i] = value;
	array->nulls[i] = false;
}

static inline void
set_text(Array *array, int i, const char *string)
{
	if (string)
		set(array, i, CStringGetTextDatum(string));
}

/* Make parameters of arrays. */
static void
finish_arrays(const Array *arrays, int narrays, Datum *args)
{
	for (int i = 0; i < narrays; i++)
	{
		int16		typlen;
		bool		typbyval;
		char		typalign;
		int			lower = 1;
		int			n = arrays[i].n;

		get_typlenbyvalalign(arrays[i].type, &typlen, &typbyval, &typalign);
		args[i] = PointerGetDatum(construct_md_array(arrays[i].values,
													 arrays[i].nulls,
													 1, &n, &lower,
													 arrays[i].type, typlen,
													 typbyval, typalign));
	}
}

/* An array of UUIDs. */
static Datum
uuid_array(const pg_uuid_t *ids, int n)
{
	Datum	   *values = palloc(Max(1, n) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = UUIDPGetDatum(&ids[i]);
	return PointerGetDatum(construct_array(values, n, UUIDOID, UUID_LEN,
										   false, TYPALIGN_CHAR));
}

/*
 * Transactions
 */

/* Begin a transaction and connect to SPI. */
void
cwh_outbox_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Commit.  The worker runs with synchronous_commit off, so that neither it nor
 * its row locks wait for the disk, and says here what has to be there when.  No
 * more than one commit that has to is on its way there.
 */
void
cwh_outbox_commit(CwhFlush flush)
{
	static XLogRecPtr on_its_way = InvalidXLogRecPtr;

	SPI_finish();
	PopActiveSnapshot();
	XactLastCommitEnd = InvalidXLogRecPtr;
	CommitTransactionCommand();
	if (flush == CWH_FLUSH_NOW && !XLogRecPtrIsInvalid(XactLastCommitEnd))
		XLogFlush(XactLastCommitEnd);
	else if (flush == CWH_FLUSH_SOON && !XLogRecPtrIsInvalid(XactLastCommitEnd))
	{
		XLogFlush(on_its_way);
		on_its_way = XactLastCommitEnd;
		cwh_flush_soon(on_its_way);
	}
	pgstat_report_stat(false);
}

/* The extension that is installed here and its version; InvalidOid: none. */
Oid
cwh_outbox_present(char **version)
{
	if (run(&present_st, NULL) == 0)
		return InvalidOid;
	*version = field_text(0, 2);
	return DatumGetObjectId(field(0, 1, NULL));
}

/* The highest id of a delivery. */
int64
cwh_outbox_last_id(void)
{
	(void) run(&last_id_st, NULL);
	return DatumGetInt64(field(0, 1, NULL));
}

/*
 * Webhooks
 */

/* Is there any webhook? */
bool
cwh_outbox_any_webhook(void)
{
	return run(&any_webhook_st, NULL) > 0;
}

/* Milliseconds of an interval, as far as a long holds them. */
static int64
interval_ms(Datum datum)
{
	Interval   *interval = DatumGetIntervalP(datum);
	double		ms = interval->time / 1000.0 +
		(interval->day + interval->month * 30.0) * 86400000.0;

	return ms < 0 ? 0 : ms > 1e15 ? (int64) 1e15 : (int64) ms;
}

/* A secret of a webhook, while it is being loaded. */
typedef struct Secret
{
	char	   *name;
	char	   *value;			/* to be cleansed */
} Secret;

/*
 * Open a webhook's secrets.  What cannot be opened is the webhook's problem:
 * nothing is sent for it.
 */
static int
open_secrets(CwhWebhook *webhook, uint64 row, Secret **secrets)
{
	Datum	   *names;
	Datum	   *values;
	int			n;
	bool		isnull;
	Datum		datum = field(row, 12, &isnull);

	*secrets = NULL;
	if (isnull)
		return 0;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false,
					  TYPALIGN_INT, &names, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(field(row, 13, NULL)), BYTEAOID, -1,
					  false, TYPALIGN_INT, &values, NULL, &n);
	*secrets = palloc(n * sizeof(Secret));
	for (int i = 0; i < n; i++)
	{
		const char *problem;
		Secret	   *secret = &(*secrets)[i];

		secret->name = TextDatumGetCString(names[i]);
		secret->value = cwh_vault_reveal(&webhook->id, secret->name,
										 DatumGetByteaPP(values[i]), &problem);
		if (secret->value == NULL)
			webhook->problem = psprintf("cannot open the secret \"%s\": %s",
										secret->name, problem);
	}
	return n;
}

/* The value of a secret by its name; null if there is none. */
static const char *
find_secret(const Secret *secrets, int n, const char *name, size_t len)
{
	for (int i = 0; i < n; i++)
		if (secrets[i].value && strlen(secrets[i].name) == len &&
			memcmp(secrets[i].name, name, len) == 0)
			return secrets[i].value;
	return NULL;
}

/* A signer for a secret, or null if there is none. */
static CwhSigner *
make_signer(const Secret *secrets, int n, const char *name)
{
	const char *secret = find_secret(secrets, n, name, strlen(name));

	return secret ? cwh_signer_create(secret, strlen(secret)) : NULL;
}

/* A copy of a secret that lives as long as the webhook, or null. */
static char *
keep_secret(const Secret *secrets, int n, const char *name)
{
	const char *secret = find_secret(secrets, n, name, strlen(name));

	return secret ? pstrdup(secret) : NULL;
}

/*
 * Fill the placeholders in, {{name}} by the credential of that name.  Signing
 * secrets are none: they sign, and are never sent.
 */
static char *
fill_in(CwhWebhook *webhook, const Secret *secrets, int n, const char *template)
{
	StringInfoData result;
	const char *rest = template;
	const char *start;

	initStringInfo(&result);
	while ((start = strstr(rest, "{{")) != NULL)
	{
		const char *end = strstr(start, "}}");
		const char *value;

		if (end == NULL)
			break;
		appendBinaryStringInfo(&result, rest, start - rest);
		value = find_secret(secrets, n, start + 2, end - start - 2);
		if (value == NULL || strstr(start, "signing_secret") == start + 2 ||
			strstr(start, "previous_signing_secret") == start + 2)
			webhook->problem = psprintf("the credential \"%.*s\" is not set",
										(int) (end - start - 2), start + 2);
		else
			appendStringInfoString(&result, value);
		rest = end + 2;
	}
	appendStringInfoString(&result, rest);
	return result.data;
}

/* Custom headers as lines. */
static void
load_headers(CwhWebhook *webhook, Jsonb *headers, const Secret *secrets, int n)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	webhook->headers = palloc(Max(1, JB_ROOT_COUNT(headers)) * sizeof(char *));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString)
		{
			char	   *template = pnstrdup(value.val.string.val,
											value.val.string.len);

			webhook->headers[webhook->nheaders++] =
				psprintf("%s: %s", name,
						 fill_in(webhook, secrets, n, template));
		}
	}
}

/* The credentials of a webhook that sends them in a way of HTTP's. */
static void
load_auth(CwhWebhook *webhook, Jsonb *auth, const Secret *secrets, int n)
{
	static const char *const keys[] = {
		"type", "token", "username", "password", "name", "value", "token_url",
		"client_id", "scope"
	};
	enum
	{
		TYPE, TOKEN, USERNAME, PASSWORD, NAME, VALUE, TOKEN_URL, CLIENT_ID, SCOPE
	};
	char	   *values[lengthof(keys)];
	StringInfoData line;

	for (int i = 0; i < lengthof(keys); i++)
	{
		JsonbValue	value;

		values[i] = "";
		if (JB_ROOT_IS_OBJECT(auth) &&
			getKeyJsonValueFromContainer(&auth->root, keys[i], strlen(keys[i]),
										 &value) &&
			value.type == jbvString)
			values[i] = fill_in(webhook, secrets, n,
								pnstrdup(value.val.string.val,
										 value.val.string.len));
	}
	webhook->auth = CWH_AUTH_HEADER;
	initStringInfo(&line);
	if (strcmp(values[TYPE], "bearer") == 0)
		appendStringInfo(&line, "Authorization: Bearer %s", values[TOKEN]);
	else if (strcmp(values[TYPE], "basic") == 0)
	{
		char	   *plain = psprintf("%s:%s", values[USERNAME], values[PASSWORD]);

		appendStringInfo(&line, "Authorization: Basic %s",
						 cwh_base64(plain, strlen(plain)));
		cwh_cleanse(plain, strlen(plain));
	}
	else if (strcmp(values[TYPE], "header") == 0)
		appendStringInfo(&line, "%s: %s", values[NAME], values[VALUE]);
	else if (strcmp(values[TYPE], "body") == 0)
	{
		webhook->auth = CWH_AUTH_BODY;
		cwh_json_write_string(&line, values[NAME], strlen(values[NAME]));
		appendStringInfoChar(&line, ':');
		cwh_json_write_string(&line, values[VALUE], strlen(values[VALUE]));
	}
	else
	{
		const char *secret = find_secret(secrets, n, "client_secret",
										 strlen("client_secret"));

		webhook->auth = CWH_AUTH_OAUTH2;
		webhook->token_url = values[TOKEN_URL];
		if (secret == NULL)
			webhook->problem = "the credential \"client_secret\" is not set";
		appendStringInfoString(&line, "grant_type=client_credentials&client_id=");
		cwh_append_url_encoded(&line, values[CLIENT_ID]);
		appendStringInfoString(&line, "&client_secret=");
		cwh_append_url_encoded(&line, secret ? secret : "");
		if (values[SCOPE][0])
		{
			appendStringInfoString(&line, "&scope=");
			cwh_append_url_encoded(&line, values[SCOPE]);
		}
		webhook->token_request = line.data;
		return;
	}
	webhook->auth_line = line.data;
}

/* What a webhook with a connector needs. */
static void
load_connector(CwhWebhook *webhook, uint64 row, const char *url)
{
	char	   *name = field_text(row, 16);
	bool		isnull;
	Datum		rules;

	if (strcmp(name, "webhook") == 0)
		return;
	webhook->connector = name;
	webhook->function = field_text(row, 17);
	webhook->url_template = pstrdup(url);
	rules = field(row, 18, &isnull);
	if (!isnull)
		cwh_connector_parse_rules(DatumGetJsonbP(rules), webhook);
	webhook->argument = DatumGetJsonbPCopy(field(row, 19, NULL));
}

/* Read these webhooks; those that are gone are left out. */
void
cwh_outbox_load(const pg_uuid_t *ids, int n, MemoryContext parent,
				void (*each) (CwhWebhook *webhook))
{
	Datum		arg = uuid_array(ids, n);
	uint64		found = run(&load_st, &arg);
	SPITupleTable *rows = SPI_tuptable;

	for (uint64 i = 0; i < found; i++)
	{
		MemoryContext context = AllocSetContextCreate(parent,
													  "chatwebhook webhook",
													  ALLOCSET_SMALL_SIZES);
		MemoryContext oldcontext = MemoryContextSwitchTo(context);
		CwhWebhook *webhook = palloc0(sizeof(CwhWebhook));
		Secret	   *secrets;
		int			nsecrets;
		char	   *url;
		bool		isnull;
		Datum		datum;

		SPI_tuptable = rows;
		webhook->context = context;
		webhook->id = *DatumGetUUIDP(field(i, 1, NULL));
		webhook->name = field_text(i, 2);
		webhook->enabled = DatumGetBool(field(i, 4, NULL));
		nsecrets = open_secrets(webhook, i, &secrets);
		url = field_text(i, 3);
		webhook->url = fill_in(webhook, secrets, nsecrets, url);
		load_headers(webhook, DatumGetJsonbP(field(i, 5, NULL)),
					 secrets, nsecrets);
		webhook->retry.max_retries = DatumGetInt32(field(i, 6, NULL));
		webhook->retry.backoff_ms = interval_ms(field(i, 7, NULL));
		webhook->retry.multiplier = DatumGetFloat8(field(i, 8, NULL));
		webhook->retry.max_backoff_ms = interval_ms(field(i, 9, NULL));
		webhook->timeout_ms = (long) interval_ms(field(i, 10, NULL));
		webhook->max_in_flight = DatumGetInt32(field(i, 11, NULL));
		webhook->proven = DatumGetBool(field(i, 20, NULL));
		webhook->updated_at = DatumGetTimestampTz(field(i, 21, NULL));
		datum = field(i, 22, &isnull);
		webhook->rate_limit = isnull ? 0 : DatumGetFloat8(datum);
		webhook->batch_size = DatumGetInt32(field(i, 23, NULL));
		webhook->batch_window_ms = interval_ms(field(i, 24, NULL));
		webhook->noted = field_text(i, 25);
		webhook->signer = make_signer(secrets, nsecrets, "signing_secret");
		webhook->previous = make_signer(secrets, nsecrets,
										"previous_signing_secret");
		webhook->client_certificate = keep_secret(secrets, nsecrets,
												  "client_certificate");
		webhook->client_key = keep_secret(secrets, nsecrets, "client_key");
		datum = field(i, 15, &isnull);
		if (!isnull)
			load_auth(webhook, DatumGetJsonbP(datum), secrets, nsecrets);
		load_connector(webhook, i, url);
		if (webhook->signer == NULL && webhook->problem == NULL)
		{
			if (find_secret(secrets, nsecrets, "signing_secret",
							strlen("signing_secret")))
				webhook->problem = "its signing secret is unusable";
			/* it will come, if a restore is under way */
			else if (webhook->connector == NULL)
				webhook->problem = "it has no signing secret";
		}
		for (int j = 0; j < nsecrets; j++)
			if (secrets[j].value)
				cwh_cleanse(secrets[j].value, strlen(secrets[j].value));
		datum = field(i, 14, &isnull);
		webhook->previous_until = isnull ? DT_NOEND :
			DatumGetTimestampTz(datum);
		MemoryContextSwitchTo(oldcontext);
		each(webhook);
	}
}

/* Free what cwh_outbox_load() made. */
void
cwh_webhook_free(CwhWebhook *webhook)
{
	cwh_signer_destroy(webhook->signer);
	cwh_signer_destroy(webhook->previous);
	cwh_cleanse(webhook->url, strlen(webhook->url));
	for (int i = 0; i < webhook->nheaders; i++)
		cwh_cleanse(webhook->headers[i], strlen(webhook->headers[i]));
	if (webhook->client_key)
		cwh_cleanse(webhook->client_key, strlen(webhook->client_key));
	if (webhook->auth_line)
		cwh_cleanse(webhook->auth_line, strlen(webhook->auth_line));
	if (webhook->token_request)
		cwh_cleanse(webhook->token_request, strlen(webhook->token_request));
	MemoryContextDelete(webhook->context);
}

/*
 * Disable a webhook; false if that has to wait, because somebody is changing
 * it just now.
 */
bool
cwh_outbox_disable(const pg_uuid_t *webhook_id, const char *reason)
{
	Datum		args[2];

	args[0] = UUIDPGetDatum(webhook_id);
	args[1] = CStringGetTextDatum(reason);
	return run(&disable_st, args) > 0;
}

/*
 * Note why a webhook cannot be sent to, or, with null, that it can; false if
 * that has to wait, because somebody is writing its health just now.
 */
bool
cwh_outbox_note_problem(const pg_uuid_t *webhook_id, const char *problem,
						bool *changed)
{
	Datum		args[2];

	args[0] = UUIDPGetDatum(webhook_id);
	args[1] = CStringGetTextDatum(problem ? problem : "");
	if (run(&note_problem_st, args) == 0)
		return false;
	*changed = DatumGetBool(field(0, 1, NULL));
	return true;
}

/*
 * Claiming
 */

/* Tell of each webhook with anything pending, and when the first is due. */
void
cwh_outbox_sweep(void (*each) (const pg_uuid_t *webhook_id,
							   TimestampTz first_due))
{
	uint64		n = run(&sweep_st, NULL);

	for (uint64 i = 0; i < n; i++)
		each(DatumGetUUIDP(field(i, 1, NULL)),
			 DatumGetTimestampTz(field(i, 2, NULL)));
}

/*
 * Have so many of those that wait only because the clock was set back be due
 * now.  Returns how many there were.
 */
int64
cwh_outbox_catch_up(TimestampTz now, int64 limit)
{
	Datum		args[2];

	args[0] = TimestampTzGetDatum(now);
	args[1] = Int64GetDatum(limit);
	return (int64) run(&catch_up_st, args);
}

/* Tell of each webhook that is noted to have a problem. */
void
cwh_outbox_problems(void (*each) (const pg_uuid_t *webhook_id))
{
	uint64		n = run(&problems_st, NULL);

	for (uint64 i = 0; i < n; i++)
		each(DatumGetUUIDP(field(i, 1, NULL)));
}

/* Claim the deliveries in the last result. */
static void
give_claimed(uint64 found, void (*each) (const CwhClaimed *claimed))
{
	for (uint64 i = 0; i < found; i++)
	{
		CwhClaimed	claimed;
		bool		isnull;
		Datum		datum;

		claimed.id = DatumGetInt64(field(i, 1, NULL));
		claimed.webhook_id = *DatumGetUUIDP(field(i, 2, NULL));
		claimed.due = DatumGetTimestampTz(field(i, 3, NULL));
		claimed.attempts = DatumGetInt32(field(i, 4, NULL));
		claimed.first_attempt = DatumGetInt32(field(i, 5, NULL));
		claimed.last_wait_ms = DatumGetInt64(field(i, 6, NULL));
		datum = field(i, 7, &isnull);
		claimed.replies = isnull ? NULL : DatumGetJsonbP(datum);
		claimed.ordered = DatumGetBool(field(i, 8, NULL));
		datum = field(i, 9, &isnull);
		claimed.has_event = !isnull;
		if (claimed.has_event)
		{
			claimed.event.id = *DatumGetUUIDP(datum);
			claimed.event.type = field_text(i, 10);
			claimed.event.chatbot_id = field_text(i, 11);
			claimed.event.conversation_id = field_text(i, 12);
			claimed.event.created_at = DatumGetTimestampTz(field(i, 13, NULL));
			claimed.event.data = DatumGetJsonbP(field(i, 14, NULL));
		}
		/* last, so that no error leaves a claim that nobody knows of */
		claimed.mine = cwh_claim(claimed.id, &claimed.webhook_id);
		each(&claimed);
	}
}

/* Claim deliveries that are due by now. */
void
cwh_outbox_claim(const CwhWant *wants, int n, TimestampTz now,
				 void (*each) (const CwhClaimed *claimed))
{
	Array		arrays[4];
	Datum		args[5];

	make_arrays(arrays, &claim_st, 4, n);
	for (int i = 0; i < n; i++)
	{
		set(&arrays[0], i, UUIDPGetDatum(&wants[i].webhook_id));
		set(&arrays[1], i, TimestampTzGetDatum(wants[i].after.due));
		set(&arrays[2], i, Int64GetDatum(wants[i].after.id));
		set(&arrays[3], i, Int32GetDatum(wants[i].n));
	}
	finish_arrays(arrays, 4, args);
	args[4] = TimestampTzGetDatum(now);
	give_claimed(run(&claim_st, args), each);
}

/*
 * Claim the first deliveries of these conversations, those before which are
 * done with.
 */
void
cwh_outbox_claim_next(const pg_uuid_t *webhook_ids, char **conversations, int n,
					  TimestampTz now, void (*each) (const CwhClaimed *claimed))
{
	Array		arrays[2];
	Datum		args[3];

	make_arrays(arrays, &claim_next_st, 2, n);
	for (int i = 0; i < n; i++)
	{
		set(&arrays[0], i, UUIDPGetDatum(&webhook_ids[i]));
		set_text(&arrays[1], i, conversations[i]);
	}
	finish_arrays(arrays, 2, args);
	args[2] = TimestampTzGetDatum(now);
	give_claimed(run(&claim_next_st, args), each);
}

/* Tell which of some webhooks are there. */
void
cwh_outbox_present_webhooks(const pg_uuid_t *ids, int n,
							void (*each) (const pg_uuid_t *webhook_id))
{
	Datum		arg = uuid_array(ids, n);
	uint64		found = run(&present_webhooks_st, &arg);

	for (uint64 i = 0; i < found; i++)
		each(DatumGetUUIDP(field(i, 1, NULL)));
}

/* Tell when these webhooks have their next delivery due, if they have one. */
void
cwh_outbox_next_due(const pg_uuid_t *ids, int n, TimestampTz now,
					void (*each) (const pg_uuid_t *webhook_id, TimestampTz due))
{
	Datum		args[2];
	uint64		found;

	args[0] = uuid_array(ids, n);
	args[1] = TimestampTzGetDatum(now);
	found = run(&next_due_st, args);
	for (uint64 i = 0; i < found; i++)
		each(DatumGetUUIDP(field(i, 1, NULL)),
			 DatumGetTimestampTz(field(i, 2, NULL)));
}

/*
 * Settling
 */

/* An interval of milliseconds. */
static Datum
ms_interval(int64 ms)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = ms * 1000;
	return IntervalPGetDatum(interval);
}

/* An array of deliveries' numbers. */
static Datum
id_array(const int64 *ids, int n)
{
	Datum	   *datums = palloc(Max(1, n) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		datums[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(datums, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Order of deliveries' numbers. */
static int
compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Which of these results are in the last result of a statement, by its ids. */
static bool *
find_results(CwhResult **results, int n)
{
	uint64		nids = SPI_processed;
	int64	   *ids = palloc(Max(1, nids) * sizeof(int64));
	bool	   *found = palloc(Max(1, n) * sizeof(bool));

	for (uint64 i = 0; i < nids; i++)
		ids[i] = DatumGetInt64(field(i, 1, NULL));
	qsort(ids, nids, sizeof(int64), compare_ids);
	for (int i = 0; i < n; i++)
		found[i] = bsearch(&results[i]->id, ids, nids, sizeof(int64),
						   compare_ids) != NULL;
	return found;
}

/*
 * Mark those of these results that were not found: they were canceled while they
 * were under way.
 *
 * A row that somebody changes while a settle is at it is no longer at the place
 * where that looks for it, and is passed over although it is there.  The caller
 * is to try again with "careful", as for a row that is locked.
 */
static void
mark_gone(CwhResult **results, int n, const bool *found)
{
	int64	   *ids = palloc(n * sizeof(int64));
	int			nids = 0;
	Datum		arg;

	for (int i = 0; i < n; i++)
	{
		results[i]->gone = !found[i];
		if (!found[i])
			ids[nids++] = results[i]->id;
	}
	if (nids == 0)
		return;
	arg = id_array(ids, nids);
	if (run(&exists_st, &arg) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("a delivery was changed while it was being settled")));
}

/* The same for those that are not in the last result of a statement. */
static void
mark_missing(CwhResult **results, int n)
{
	if (SPI_processed < (uint64) n)
		mark_gone(results, n, find_results(results, n));
}

/* Add a row to history or dead: the queue's, and what became of it. */
static void
add_finished(CwhRows *rows, const CwhResult *result, TupleTableSlot *from)
{
	static const struct
	{
		int			from;
		int			to;
	}			same[] = {
		{CWH_QUEUE_ID, CWH_HISTORY_ID},
		{CWH_QUEUE_WEBHOOK_ID, CWH_HISTORY_WEBHOOK_ID},
		{CWH_QUEUE_EVENT_ID, CWH_HISTORY_EVENT_ID},
		{CWH_QUEUE_CREATED_AT, CWH_HISTORY_CREATED_AT},
		{CWH_QUEUE_LAST_ATTEMPT_AT, CWH_HISTORY_LAST_ATTEMPT_AT},
		{CWH_QUEUE_CHATBOT_ID, CWH_HISTORY_CHATBOT_ID}
	};
	TupleTableSlot *slot = cwh_rows_next(rows);
	int32		attempts = DatumGetInt32(from->tts_values[CWH_QUEUE_ATTEMPTS]);
	const char *status = "delivered";

	for (int i = 0; i < lengthof(same); i++)
		if (!from->tts_isnull[same[i].from])
			cwh_set_column(slot, same[i].to, from->tts_values[same[i].from]);
	cwh_set_column(slot, CWH_HISTORY_COMPLETED_AT,
				   TimestampTzGetDatum(GetCurrentTimestamp()));
	if (result->attempted_at != 0)
	{
		attempts++;
		cwh_set_column(slot, CWH_HISTORY_LAST_ATTEMPT_AT,
					   TimestampTzGetDatum(result->attempted_at));
		cwh_set_column(slot, CWH_HISTORY_LATENCY_MS,
					   Int32GetDatum(result->latency_ms));
		if (result->status != 0)
			cwh_set_column(slot, CWH_HISTORY_LAST_STATUS_CODE,
						   Int32GetDatum(result->status));
	}
	cwh_set_column(slot, CWH_HISTORY_ATTEMPTS, Int32GetDatum(attempts));
	cwh_set_text(slot, CWH_HISTORY_WEBHOOK_NAME, result->webhook_name);
	cwh_set_text(slot, CWH_HISTORY_LAST_ERROR, result->error);
	if (result->outcome != CWH_OUTCOME_DELIVERED)
	{
		status = result->outcome == CWH_OUTCOME_DEAD ? "dead" : "canceled";
		/* a value that is stored apart goes with the queue's row */
		if (!from->tts_isnull[CWH_QUEUE_REPLIES])
			cwh_set_column(slot, CWH_HISTORY_REPLIES,
						   PointerGetDatum(PG_DETOAST_DATUM(from->tts_values[CWH_QUEUE_REPLIES])));
	}
	cwh_set_text(slot, CWH_HISTORY_STATUS, status);
	ExecStoreVirtualTuple(slot);
	/* the row's values are in a page that we do not hold on to */
	ExecMaterializeSlot(slot);
}

/*
 * Move finished deliveries from the queue to history or dead; for one that was
 * not tried, nothing is counted.
 */
static void
finish(CwhResult **results, int n, const char *to)
{
	bool	   *found = palloc0(Max(1, n) * sizeof(bool));
	int			nfound = 0;
	EState	   *estate;
	CwhRows		rows;
	Relation	queue;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	Snapshot	snapshot;
	CommandId	cid = GetCurrentCommandId(true);

	if (n == 0)
		return;
	/* others' commits since our transaction began are to be seen */
	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = GetActiveSnapshot();
	estate = CreateExecutorState();
	cwh_rows_open(&rows, estate, to, CWH_HISTORY_COLUMNS);
	queue = table_open(cwh_relation("queue"), RowExclusiveLock);
	index = index_open(cwh_relation("queue_pkey"), RowExclusiveLock);
	slot = table_slot_create(queue, NULL);
	scan = cwh_begin_index_scan(queue, index, snapshot, 1);
	for (int i = 0; i < n; i++)
	{
		ScanKeyData key;

		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(results[i]->id));
		index_rescan(scan, &key, 1, NULL, 0);
		if (!index_getnext_slot(scan, ForwardScanDirection, slot))
			continue;
		if (rows.n == CWH_MAX_ROWS)
			cwh_rows_flush(&rows);
		slot_getallattrs(slot);
		add_finished(&rows, results[i], slot);
		found[i] = cwh_delete_row(queue, slot, cid, snapshot);
		if (found[i])
			nfound++;
		else
			rows.n--;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(queue, NoLock);
	cwh_rows_flush(&rows);
	cwh_rows_close(&rows);
	FreeExecutorState(estate);
	PopActiveSnapshot();
	/* what comes after it in this transaction sees it */
	CommandCounterIncrement();
	if (nfound < n)
		mark_gone(results, n, found);
}

/* Move deliveries on to their next attempts. */
static void
postpone(CwhResult **results, int n)
{
	Array		arrays[8];
	Datum		args[8];

	if (n == 0)
		return;
	make_arrays(arrays, &postpone_st, 8, n);
	for (int i = 0; i < n; i++)
	{
		const CwhResult *result = results[i];

		set(&arrays[0], i, Int64GetDatum(result->id));
		set(&arrays[1], i, Int32GetDatum(1));
		set(&arrays[2], i, ms_interval(result->latency_ms + result->wait_ms));
		set(&arrays[3], i, TimestampTzGetDatum(result->attempted_at));
		set(&arrays[4], i, Int32GetDatum(result->latency_ms));
		if (result->status != 0)
			set(&arrays[5], i, Int32GetDatum(result->status));
		set_text(&arrays[6], i, result->error);
		set(&arrays[7], i, Int64GetDatum(result->wait_ms));
	}
	finish_arrays(arrays, 8, args);
	(void) run(&postpone_st, args);
	mark_missing(results, n);
}

/* Keep the replies of those that are not over, and see which are gone. */
static void
keep_replies(CwhResult **results, int n)
{
	Array		arrays[2];
	Datum		args[2];

	if (n == 0)
		return;
	make_arrays(arrays, &step_st, 2, n);
	for (int i = 0; i < n; i++)
	{
		set(&arrays[0], i, Int64GetDatum(results[i]->id));
		set(&arrays[1], i, JsonbPGetDatum(results[i]->replies));
	}
	finish_arrays(arrays, 2, args);
	(void) run(&step_st, args);
	mark_missing(results, n);
}

/* Those of these results that have one of two outcomes. */
static CwhResult **
having(CwhResult **results, int n, CwhOutcome one, CwhOutcome other, int *nhaving)
{
	CwhResult **found = palloc(Max(1, n) * sizeof(CwhResult *));

	*nhaving = 0;
	for (int i = 0; i < n; i++)
		if (results[i]->outcome == one || results[i]->outcome == other)
			found[(*nhaving)++] = results[i];
	return found;
}

/*
 * Of these results, keep those whose rows can be had, and lock them.  What is
 * gone is settled; what is neither is left for later.
 */
static int
lock_results(CwhResult **results, int n, Datum ids)
{
	bool	   *there;
	bool	   *locked;
	int			kept = 0;

	(void) run(&exists_st, &ids);
	there = find_results(results, n);
	(void) run(&lock_st, &ids);
	locked = find_results(results, n);
	for (int i = 0; i < n; i++)
	{
		results[i]->gone = !there[i];
		results[i]->settled = !there[i] || locked[i];
		if (there[i] && locked[i])
			results[kept++] = results[i];
	}
	return kept;
}

/*
 * Record what became of deliveries that this process has claimed.  Rows that
 * are gone were canceled meanwhile; there is nothing to record.
 *
 * A row that somebody else has locked would hold up all the others.  That is
 * rare, so it is tried without precaution first, under lock_timeout; if that
 * fails, or meets one that was changed just then, the caller tries again with
 * "careful", which leaves locked rows for later, unsettled.
 */
void
cwh_outbox_settle(CwhResult *results, int n, bool careful)
{
	int64	   *ids = palloc(Max(1, n) * sizeof(int64));
	bool	   *mine = palloc(Max(1, n) * sizeof(bool));
	CwhResult **ours = palloc(Max(1, n) * sizeof(CwhResult *));
	CwhResult **some;
	int			nours = 0;
	int			nsome;

	/* of what is not ours, nothing is ours to say */
	for (int i = 0; i < n; i++)
		ids[i] = results[i].id;
	cwh_claims_mine(ids, n, mine);
	for (int i = 0; i < n; i++)
	{
		results[i].settled = true;
		results[i].gone = !mine[i];
		if (mine[i])
			ours[nours++] = &results[i];
	}
	if (careful)
		nours = lock_results(ours, nours, id_array(ids, n));

	some = having(ours, nours, CWH_OUTCOME_DELIVERED, CWH_OUTCOME_CANCELED, &nsome);
	finish(some, nsome, "history");
	some = having(ours, nours, CWH_OUTCOME_DEAD, CWH_OUTCOME_DEAD, &nsome);
	finish(some, nsome, "dead");
	some = having(ours, nours, CWH_OUTCOME_RETRY, CWH_OUTCOME_RETRY, &nsome);
	postpone(some, nsome);
	some = having(ours, nours, CWH_OUTCOME_STEP, CWH_OUTCOME_STEP, &nsome);
	keep_replies(some, nsome);
}

/* Keep these attempts. */
void
cwh_outbox_log_attempts(const CwhAttempt *attempts, int n)
{
	Array		arrays[10];
	Datum		args[10];

	if (n == 0)
		return;
	make_arrays(arrays, &log_attempts_st, 10, n);
	for (int i = 0; i < n; i++)
	{
		const CwhAttempt *attempt = &attempts[i];

		set(&arrays[0], i, Int64GetDatum(attempt->delivery_id));
		set(&arrays[1], i, Int32GetDatum(attempt->attempt));
		set(&arrays[2], i, UUIDPGetDatum(&attempt->webhook_id));
		set_text(&arrays[3], i, attempt->chatbot_id);
		set(&arrays[4], i, TimestampTzGetDatum(attempt->started_at));
		set(&arrays[5], i, Int32GetDatum(attempt->latency_ms));
		if (attempt->status != 0)
			set(&arrays[6], i, Int32GetDatum(attempt->status));
		set_text(&arrays[7], i, attempt->error);
		set_text(&arrays[8], i, attempt->response_headers);
		set_text(&arrays[9], i, attempt->response_body);
	}
	finish_arrays(arrays, 10, args);
	(void) run(&log_attempts_st, args);
}

/* Bring the webhooks' health up to date. */
void
cwh_outbox_add_health(CwhHealthGain **gains, int n)
{
	Array		arrays[13];
	Datum		args[13];
	uint64		found;

	if (n == 0)
		return;
	make_arrays(arrays, &add_health_st, 13, n);
	for (int i = 0; i < n; i++)
	{
		const CwhHealthGain *gain = gains[i];
		StringInfoData recent;
		StringInfoData counts;

		initStringInfo(&recent);
		appendStringInfoChar(&recent, '{');
		for (int j = 0; j < gain->nrecent; j++)
			appendStringInfo(&recent, j ? ",%d" : "%d", gain->recent[j]);
		appendStringInfoChar(&recent, '}');
		initStringInfo(&counts);
		appendStringInfoChar(&counts, '{');
		for (int j = 0; j < CWH_LATENCIES; j++)
			appendStringInfo(&counts, j ? "," INT64_FORMAT : INT64_FORMAT,
							 gain->latency_counts[j]);
		appendStringInfoChar(&counts, '}');

		set(&arrays[0], i, UUIDPGetDatum(&gain->webhook_id));
		set(&arrays[1], i, Int64GetDatum(gain->successes));
		set(&arrays[2], i, Int64GetDatum(gain->failures));
		set(&arrays[3], i, BoolGetDatum(gain->succeeded));
		set(&arrays[4], i, Int64GetDatum(gain->streak));
		if (gain->successes > 0)
			set(&arrays[5], i, TimestampTzGetDatum(gain->last_success_at));
		if (gain->failures > 0)
		{
			set(&arrays[6], i, TimestampTzGetDatum(gain->last_failure_at));
			set_text(&arrays[7], i, gain->last_error);
		}
		set_text(&arrays[8], i, recent.data);
		if (gain->streak > 0)
			set(&arrays[9], i, TimestampTzGetDatum(gain->failing_since));
		set(&arrays[10], i, Int64GetDatum(gain->latency_sum_ms));
		set_text(&arrays[11], i, counts.data);
		set(&arrays[12], i, Int64GetDatum(gain->given_up));
	}
	finish_arrays(arrays, 13, args);
	found = run(&add_health_st, args);
	for (int i = 0; i < n; i++)
	{
		gains[i]->written = false;
		for (uint64 j = 0; j < found && !gains[i]->written; j++)
		{
			gains[i]->written = memcmp(DatumGetUUIDP(field(j, 1, NULL)),
									   &gains[i]->webhook_id, UUID_LEN) == 0;
			gains[i]->alerting = DatumGetBool(field(j, 2, NULL));
		}
	}
}

/* Add to what was done in these ten minutes. */
void
cwh_outbox_add_activity(int worker, TimestampTz now,
						const CwhActivity *activity)
{
	Datum		args[5];

	args[0] = TimestampTzGetDatum(now);
	args[1] = Int32GetDatum(worker);
	args[2] = Int64GetDatum(activity->succeeded);
	args[3] = Int64GetDatum(activity->failed);
	args[4] = Int64GetDatum(activity->given_up);
	(void) run(&add_activity_st, args);
}

/*
 * Alerts
 */

/* Open and close the alerts of these webhooks, as their health now is. */
void
cwh_outbox_check_alerts(const pg_uuid_t *ids, int n)
{
	Datum		arg = uuid_array(ids, n);

	(void) run(&check_alerts_st, &arg);
}

/*
 * The same for their backlogs: these webhooks have had something due since
 * then, and no others.
 */
void
cwh_outbox_check_backlog(const pg_uuid_t *ids, const TimestampTz *dues, int n)
{
	Array		arrays[2];
	Datum		args[2];

	make_arrays(arrays, &check_backlog_st, 2, n);
	for (int i = 0; i < n; i++)
	{
		set(&arrays[0], i, UUIDPGetDatum(&ids[i]));
		set(&arrays[1], i, TimestampTzGetDatum(dues[i]));
	}
	finish_arrays(arrays, 2, args);
	(void) run(&check_backlog_st, args);
}
