/*
 * How the webhooks and the workers are doing.
 */

/* A row for each webhook, brought up to date by every settle. */
CREATE TABLE chatwebhook.health (
    webhook_id           uuid PRIMARY KEY,
    total                bigint NOT NULL DEFAULT 0,
    successes            bigint NOT NULL DEFAULT 0,
    failures             bigint NOT NULL DEFAULT 0,
    given_up             bigint NOT NULL DEFAULT 0,
    consecutive_failures bigint NOT NULL DEFAULT 0,
    failing_since        timestamptz,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    problem              text,
    recent               integer[] NOT NULL DEFAULT '{}',
    latency_sum_ms       bigint NOT NULL DEFAULT 0,
    latency_counts       bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0}'
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
-- the workers look for these again and again
CREATE INDEX health_problem_idx ON chatwebhook.health (webhook_id) WHERE problem IS NOT NULL;
ALTER TABLE chatwebhook.health ALTER last_error SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.health IS
    'Health of webhooks. Read the view webhook_health instead.';
COMMENT ON COLUMN chatwebhook.health.webhook_id IS 'Identifies the webhook.';
COMMENT ON COLUMN chatwebhook.health.total IS 'Attempts ever made.';
COMMENT ON COLUMN chatwebhook.health.successes IS 'Attempts that succeeded.';
COMMENT ON COLUMN chatwebhook.health.failures IS 'Attempts that failed.';
COMMENT ON COLUMN chatwebhook.health.given_up IS 'Deliveries ever given up.';
COMMENT ON COLUMN chatwebhook.health.consecutive_failures IS 'Failed attempts since the last success.';
COMMENT ON COLUMN chatwebhook.health.failing_since IS
    'When the first of the consecutive failures ended; null after a success.';
COMMENT ON COLUMN chatwebhook.health.last_success_at IS 'When the last successful attempt ended.';
COMMENT ON COLUMN chatwebhook.health.last_failure_at IS 'When the last failed attempt ended.';
COMMENT ON COLUMN chatwebhook.health.last_error IS 'Why that attempt failed.';
COMMENT ON COLUMN chatwebhook.health.problem IS
    'Why nothing can be sent, as a worker found when it loaded the webhook; null if nothing prevents it.';
COMMENT ON COLUMN chatwebhook.health.recent IS
    'The last 100 attempts, newest first: the latency in milliseconds, or for a failed one, -1 minus the latency.';
COMMENT ON COLUMN chatwebhook.health.latency_sum_ms IS 'Total duration of all attempts, in milliseconds.';
COMMENT ON COLUMN chatwebhook.health.latency_counts IS
    'Attempts by duration: up to 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000 and 10000 ms, and longer.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.health', '');

/* A row for each worker and ten minutes, so that no worker waits for another. */
CREATE TABLE chatwebhook.activity (
    since     timestamptz NOT NULL,
    worker    integer NOT NULL,
    succeeded bigint NOT NULL DEFAULT 0,
    failed    bigint NOT NULL DEFAULT 0,
    given_up  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (since, worker)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE chatwebhook.activity IS
    'Attempts per ten minutes, for the dashboard. Kept as long as finished deliveries.';
COMMENT ON COLUMN chatwebhook.activity.since IS 'Start of the ten minutes.';
COMMENT ON COLUMN chatwebhook.activity.worker IS 'Number of the worker, from 1.';
COMMENT ON COLUMN chatwebhook.activity.succeeded IS 'Attempts that succeeded.';
COMMENT ON COLUMN chatwebhook.activity.failed IS 'Attempts that failed.';
COMMENT ON COLUMN chatwebhook.activity.given_up IS 'Deliveries that were given up.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.activity', '');

/*
 * Figures from shared memory.  A view calls functions with the rights of the role
 * that reads it, whoever owns the view, so the functions that views call are
 * granted to PUBLIC: they say nothing of a webhook to those who do not have its
 * id, and nothing of the workers to those who may not read worker_status.
 */
CREATE FUNCTION chatwebhook._all_in_flight(OUT webhook_id uuid, OUT in_flight bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_in_flight'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION chatwebhook._all_in_flight() IS
    'Returns how many deliveries of each webhook the workers have claimed.';

CREATE FUNCTION chatwebhook._all_gates(OUT webhook_id uuid, OUT paused_until timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_gates'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION chatwebhook._all_gates() IS
    'Returns the paused webhooks, and when each will be sent to again.';

CREATE FUNCTION chatwebhook._sending(webhook_ids uuid[], OUT webhook_id uuid, OUT in_flight bigint, OUT paused_until timestamptz)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT webhook_id, f.in_flight, g.paused_until
      FROM chatwebhook._all_in_flight() f
      FULL JOIN chatwebhook._all_gates() g USING (webhook_id)
     WHERE webhook_id IN (SELECT unnest(webhook_ids))
$$;
COMMENT ON FUNCTION chatwebhook._sending(uuid[]) IS
    'Returns those of these webhooks that have deliveries in flight, or are paused.';

CREATE FUNCTION chatwebhook._workers(
    OUT pid integer, OUT started_at timestamptz, OUT in_flight integer, OUT claimed bigint,
    OUT delivered bigint, OUT failed bigint, OUT last_error text, OUT last_activity_at timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_workers'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION chatwebhook._workers() IS
    'Returns the workers of this database; nothing to a role that may not read worker_status.';

CREATE VIEW chatwebhook.worker_status WITH (security_invoker) AS
    SELECT pid, started_at, in_flight, claimed, delivered, failed, last_error, last_activity_at,
           chatwebhook._encrypts() AS secrets_encrypted, chatwebhook._copy_problem() AS problem
      FROM chatwebhook._workers();
COMMENT ON VIEW chatwebhook.worker_status IS
    'The workers of this database. Empty if chatwebhook is not in shared_preload_libraries.';
COMMENT ON COLUMN chatwebhook.worker_status.pid IS 'Process ID, as in pg_stat_activity.';
COMMENT ON COLUMN chatwebhook.worker_status.started_at IS 'When it started.';
COMMENT ON COLUMN chatwebhook.worker_status.in_flight IS 'Requests under way.';
COMMENT ON COLUMN chatwebhook.worker_status.claimed IS 'Deliveries claimed since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.delivered IS 'Attempts that succeeded since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.failed IS 'Attempts that failed since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.last_error IS
    'The worker''s own last error, not an endpoint''s.';
COMMENT ON COLUMN chatwebhook.worker_status.last_activity_at IS 'When its last attempt ended.';
COMMENT ON COLUMN chatwebhook.worker_status.secrets_encrypted IS
    'True if secrets are encrypted at rest (chatwebhook.secret_key_file). Null if the key file cannot be used.';
COMMENT ON COLUMN chatwebhook.worker_status.problem IS
    'Why the workers send nothing: the database is a copy of another one, see adopt(). Null if it is not.';

CREATE VIEW chatwebhook.webhook_health WITH (security_invoker) AS
    SELECT w.id AS webhook_id, w.name, w.public_url AS url,
           CASE WHEN NOT w.enabled THEN 'disabled'
                WHEN p.problem IS NOT NULL OR s.paused_until IS NOT NULL THEN 'paused'
                WHEN h.total = 0 THEN 'idle'
                WHEN h.consecutive_failures >= l.failures THEN 'failing'
                WHEN r.success_rate < l.success_rate OR h.consecutive_failures > 0 THEN 'degraded'
                ELSE 'healthy'
           END AS state, p.problem,
           CASE WHEN w.enabled AND l.copied IS NULL AND h.problem IS NULL AND s.paused_until IS NOT NULL
                THEN GREATEST(s.paused_until, q.next_due_at) END AS next_probe_at,
           h.total, h.successes, h.failures,
           r.success_rate, r.avg_latency_ms, r.p95_latency_ms,
           h.last_success_at, h.last_failure_at, h.last_error, h.consecutive_failures,
           q.pending, coalesce(s.in_flight, 0) AS in_flight, q.oldest_pending_at, d.dead
      FROM chatwebhook.webhook w
      JOIN chatwebhook.health h ON h.webhook_id = w.id
      LEFT JOIN chatwebhook._sending(ARRAY(SELECT id FROM chatwebhook.webhook)) s ON s.webhook_id = w.id
      CROSS JOIN (
          -- with that alert disabled, five failures make a webhook failing
          SELECT coalesce(nullif(chatwebhook._setting('chatwebhook.alert_failures')::integer, 0), 5) AS failures,
                 chatwebhook._setting('chatwebhook.alert_success_rate')::double precision AS success_rate,
                 chatwebhook._copy_problem() AS copied
          OFFSET 0
           ) l
      CROSS JOIN LATERAL (
          -- it can only have come past the trigger
          SELECT coalesce(l.copied, h.problem, 'nothing matches its filter: ' || chatwebhook._filter_problem(w.filter))
           ) AS p(problem)
      CROSS JOIN LATERAL (
          SELECT pg_catalog.round(pg_catalog.avg((latency >= 0)::integer), 4) AS success_rate,
                 pg_catalog.round(pg_catalog.avg(ms), 1) AS avg_latency_ms,
                 pg_catalog.percentile_disc(0.95) WITHIN GROUP (ORDER BY ms) AS p95_latency_ms
            FROM (SELECT pg_catalog.unnest(h.recent) AS latency) AS a,
                 LATERAL (SELECT CASE WHEN latency >= 0 THEN latency ELSE -1 - latency END) AS x(ms)
           ) r
      CROSS JOIN LATERAL (
          -- a scheduled delivery is not late until it is due
          SELECT pg_catalog.count(*) AS pending,
                 pg_catalog.min(GREATEST(created_at, deliver_at))
                     FILTER (WHERE deliver_at IS NULL OR deliver_at <= pg_catalog.clock_timestamp()) AS oldest_pending_at,
                 -- those of a backfill are due when nothing else is
                 pg_catalog.min(CASE next_attempt_at WHEN 'infinity' THEN '-infinity' ELSE next_attempt_at END) AS next_due_at
            FROM chatwebhook.queue p WHERE p.webhook_id = w.id
           ) q
      CROSS JOIN LATERAL (
          SELECT pg_catalog.count(*) AS dead
            FROM chatwebhook.dead p WHERE p.webhook_id = w.id
           ) d;
COMMENT ON VIEW chatwebhook.webhook_health IS
    'Health of each webhook, up to date after every settle. Totals are over all time, rate and latencies over the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.webhook_id IS 'Identifies the webhook.';
COMMENT ON COLUMN chatwebhook.webhook_health.name IS 'Name of the webhook.';
COMMENT ON COLUMN chatwebhook.webhook_health.url IS
    'URL of the webhook, without parts that may be tokens.';
COMMENT ON COLUMN chatwebhook.webhook_health.state IS
    'disabled; paused: there is a problem, or nothing but an occasional probe is sent, after chatwebhook.breaker_threshold consecutive failures or because the receiver asked for a pause; idle: nothing was sent yet; failing: at least chatwebhook.alert_failures consecutive failures; degraded: fewer, or less than chatwebhook.alert_success_rate of the last 100 attempts succeeded; healthy.';
COMMENT ON COLUMN chatwebhook.webhook_health.problem IS
    'Why nothing can be sent, such as that the database is a copy of another one (see adopt()), a credential that is not set or a secret that cannot be opened; deliveries wait. Or why its filter is refused; then no new events are queued, but pending deliveries are sent. Null if there is no problem.';
COMMENT ON COLUMN chatwebhook.webhook_health.next_probe_at IS
    'When a paused webhook is tried next: a probe is sent then, or all that is due if the receiver asked for the pause. If that is past, it is tried as soon as it has something due; while a probe is under way, it is when that counts as lost. Null if the webhook is not paused, or is until its problem is fixed.';
COMMENT ON COLUMN chatwebhook.webhook_health.total IS 'Attempts ever made.';
COMMENT ON COLUMN chatwebhook.webhook_health.successes IS 'Attempts that succeeded.';
COMMENT ON COLUMN chatwebhook.webhook_health.failures IS 'Attempts that failed.';
COMMENT ON COLUMN chatwebhook.webhook_health.success_rate IS 'Success rate of the last 100 attempts, 0 to 1.';
COMMENT ON COLUMN chatwebhook.webhook_health.avg_latency_ms IS
    'Average duration of the last 100 attempts, in milliseconds.';
COMMENT ON COLUMN chatwebhook.webhook_health.p95_latency_ms IS
    '95th percentile of the durations of the last 100 attempts, in milliseconds.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_success_at IS 'When the last successful attempt ended.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_failure_at IS 'When the last failed attempt ended.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_error IS 'Why that attempt failed.';
COMMENT ON COLUMN chatwebhook.webhook_health.consecutive_failures IS 'Failed attempts since the last success.';
COMMENT ON COLUMN chatwebhook.webhook_health.pending IS 'Unfinished deliveries.';
COMMENT ON COLUMN chatwebhook.webhook_health.in_flight IS
    'Pending deliveries that a worker is sending or about to send.';
COMMENT ON COLUMN chatwebhook.webhook_health.oldest_pending_at IS
    'When the event of the oldest pending delivery was emitted, or was to be delivered (deliver_at). Deliveries scheduled for later do not count.';
COMMENT ON COLUMN chatwebhook.webhook_health.dead IS 'Dead letters.';

CREATE FUNCTION chatwebhook._end_pause(webhook_id uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_end_pause'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._end_pause(uuid) IS
    'Removes what shared memory has of a webhook''s failures and pauses. Returns false if it is not paused.';

CREATE FUNCTION chatwebhook._do_resume(webhook_id uuid) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    resumed boolean;
BEGIN
    PERFORM chatwebhook._check_sendable(webhook_id);
    -- retries, but nothing that deliver_at, debounce or a backfill holds back
    UPDATE chatwebhook.queue q SET next_attempt_at = clock_timestamp()
     WHERE q.webhook_id = _do_resume.webhook_id
       AND q.next_attempt_at > clock_timestamp() AND q.next_attempt_at < 'infinity'
       AND q.debounce_until IS NULL
       AND coalesce(q.deliver_at <= clock_timestamp(), true);
    resumed := FOUND;
    -- when its row changes, workers forget until when they were to wait
    UPDATE chatwebhook.webhook w SET updated_at = clock_timestamp() WHERE w.id = _do_resume.webhook_id;
    PERFORM chatwebhook._wake(webhook_id);
    RETURN chatwebhook._end_pause(webhook_id) OR resumed;
END
$$;
COMMENT ON FUNCTION chatwebhook._do_resume(uuid) IS 'Implements resume(), with the owner''s rights.';

CREATE FUNCTION chatwebhook.resume(webhook_id uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.resume(uuid) IS
    'Ends the pause of a webhook: sends due deliveries and waiting retries now, without granting more retries. Returns false if it was not paused and no retry was waiting. Raises an error if the webhook is disabled: to enable it, so that new events are queued again, too, set webhook.enabled to true. Raises an error if it has a problem: once that is fixed, delivery resumes by itself.';
