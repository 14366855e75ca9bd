/*
 * debounce.c
 *		Releases the last delivery of a burst, and cancels the others.
 *
 * A burst is the deliveries of one event type and one conversation to a
 * webhook that debounces.  Emitting writes each one as held: due once no other
 * has followed for a while, and in any case at a limit.  An emitting session
 * does not read other rows, so it never waits for another session.  Which
 * delivery supersedes which is decided here, by a worker, when its claim finds
 * a held delivery that is due.
 *
 * All but the last of the burst, in the order of their ids, are canceled,
 * including one that was released earlier and waits for a retry.  The last
 * inherits the earliest limit.  Once it is due, or that limit has passed, it
 * is released: it becomes an ordinary delivery, which the next claim gets.  It
 * stays held while another one of its burst is in flight, so an older state
 * never arrives after a newer one.  A delivery that is committed after later
 * ones were sent is a burst of its own.
 *
 * This runs in the transaction of a claim, which is connected to SPI.  It
 * never waits for a lock.  If another transaction has locked the last
 * delivery, leave the burst alone; if it has locked one of the others, the
 * last stays held.  A crash that undoes this also undoes everything after it.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "debounce.h"
#include "statement.h"

/* Cancel no more than this at a time, since other webhooks wait meanwhile. */
#define MAX_SUPERSEDED		500

/* INDENT OFF */

/* Is row q of queue in burst b? */
#define IN_BURST(q, b) \
	"          " q ".webhook_id" EQ b ".webhook_id" \
	"      AND " q ".conversation_id" EQ b ".conversation_id" \
	"      AND " q ".debounced" EQ b ".debounced" \
	"      AND " q ".chatbot_id IS NOT DISTINCT FROM " b ".chatbot_id"

enum
{
	DEBOUNCED_WEBHOOK_ID, DEBOUNCED_CHANGED, DEBOUNCED_UNBLOCKED
};

/*
 * Check for claims again once a row is locked: another worker claims only rows
 * that it has locked itself.  If a burst is too large to cancel at once, the
 * result says that something changed, so it is checked again immediately.
 */
static const char debounce_sql[] =
	"WITH found AS MATERIALIZED ("
	"   SELECT DISTINCT q.webhook_id, q.chatbot_id, q.conversation_id, q.debounced"
	"     FROM chatwebhook.queue q"
	"    WHERE q.id" EQ "ANY ($1) AND q.debounce_until IS NOT NULL"
	"), burst AS MATERIALIZED ("
	"   SELECT f.*, l.id AS last_id, l.row FROM found f"
	"    CROSS JOIN LATERAL ("
	"          SELECT q.id, q.ctid AS row FROM chatwebhook.queue q"
	"           WHERE" IN_BURST("q", "f")
	"           ORDER BY q.id DESC LIMIT 1) l"
	"), mine AS MATERIALIZED ("
	"   SELECT b.webhook_id, b.chatbot_id, b.conversation_id, b.debounced, b.last_id, l.row, l.next_attempt_at, l.debounce_until FROM burst b"
	"    CROSS JOIN LATERAL ("
	"          SELECT q.ctid AS row, q.next_attempt_at, q.debounce_until FROM chatwebhook.queue q"
	"           WHERE q.ctid" EQ "b.row"
	"             FOR UPDATE SKIP LOCKED) l"
	"), passed AS MATERIALIZED ("
	"   SELECT m.last_id, o.row, o.debounce_until FROM mine m"
	"    CROSS JOIN LATERAL ("
	"          SELECT q.id, q.ctid AS row, q.debounce_until FROM chatwebhook.queue q"
	"           WHERE" IN_BURST("q", "m")
	"             AND q.id" LT "m.last_id AND NOT chatwebhook._claimed(q.id)"
	"           ORDER BY q.id LIMIT $3"
	"             FOR UPDATE SKIP LOCKED) o"
	"    WHERE NOT chatwebhook._claimed(o.id)"
	"    LIMIT $3"
	"), gone AS ("
	"   DELETE FROM chatwebhook.queue q USING passed p WHERE q.ctid" EQ "p.row"
	"   RETURNING q.*, p.last_id"
	"), canceled AS ("
	"   INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at,"
	"          completed_at, last_attempt_at, attempts, latency_ms, last_status_code,"
	"          chatbot_id, webhook_name, status, last_error, replies)"
	"   SELECT g.id, g.webhook_id, g.event_id, g.created_at,"
	"          pg_catalog.clock_timestamp(), g.last_attempt_at, g.attempts,"
	"          g.latency_ms, g.last_status_code, g.chatbot_id, w.name, 'canceled',"
	"          pg_catalog.concat('superseded by delivery ', g.last_id), g.replies"
	"     FROM gone g LEFT JOIN chatwebhook._webhook w ON w.id" EQ "g.webhook_id"
	"), decided AS MATERIALIZED ("
	"   SELECT m.*, c.n, c.until,"
	"          LEAST(m.next_attempt_at, m.debounce_until, c.until)" LE "$2"
	"          AND c.n" EQ "(SELECT pg_catalog.count(*) FROM ("
	"              SELECT FROM chatwebhook.queue q"
	"               WHERE" IN_BURST("q", "m")
	"                 AND q.id" LT "m.last_id LIMIT $3" ADD "1) o) AS let_go"
	"     FROM mine m"
	"    CROSS JOIN LATERAL ("
	"          SELECT pg_catalog.count(*) AS n, pg_catalog.min(p.debounce_until) AS until"
	"            FROM gone p WHERE p.last_id" EQ "m.last_id) c"
	"    WHERE m.debounce_until IS NOT NULL"
	"), moved AS ("
	"   UPDATE chatwebhook.queue q"
	"      SET next_attempt_at = LEAST(q.next_attempt_at, q.debounce_until, d.until),"
	"          debounce_until = CASE WHEN NOT d.let_go"
	"              THEN LEAST(q.debounce_until, d.until) END,"
	"          ordered = d.let_go AND COALESCE(w.ordered, false)"
	"     FROM decided d LEFT JOIN chatwebhook._webhook w ON w.id" EQ "d.webhook_id"
	"    WHERE q.ctid" EQ "d.row AND (d.let_go OR d.n" GT "0)"
	"   RETURNING q.id"
	") SELECT b.webhook_id,"
	"         EXISTS (SELECT FROM moved m WHERE m.id" EQ "b.last_id)"
	"         OR EXISTS (SELECT FROM gone g WHERE g.last_id" EQ "b.last_id),"
	"         EXISTS (SELECT FROM gone g WHERE g.last_id" EQ "b.last_id AND g.ordered)"
	"    FROM burst b";

static CwhStatement debounce_st = {debounce_sql, 3,
	{INT8ARRAYOID, TIMESTAMPTZOID, INT8OID}, NULL};
/* INDENT ON */

/*
 * Handle the bursts of these deliveries, which are held and due.  Calls each()
 * for every burst.
 */
void
cwh_debounce(const int64 *ids, int n, TimestampTz now, CwhOnDebounced each,
			 void *context)
{
	CwhArray	array = cwh_array(INT8OID, n);
	Datum		args[3];
	uint64		found;

	for (int i = 0; i < n; i++)
		cwh_array_set(&array, i, Int64GetDatum(ids[i]));
	args[0] = cwh_array_datum(&array);
	args[1] = TimestampTzGetDatum(now);
	args[2] = Int64GetDatum(MAX_SUPERSEDED);
	found = cwh_run(&debounce_st, args);
	for (uint64 i = 0; i < found; i++)
		each(context, DatumGetUUIDP(cwh_field(i, DEBOUNCED_WEBHOOK_ID, NULL)),
			 DatumGetBool(cwh_field(i, DEBOUNCED_CHANGED, NULL)),
			 DatumGetBool(cwh_field(i, DEBOUNCED_UNBLOCKED, NULL)));
}
