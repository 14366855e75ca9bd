/*
 * A row for each webhook, brought up to date by every settle.
 */
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
COMMENT ON TABLE chatwebhook.health IS
    'How each webhook has done. Read the view webhook_health instead.';
COMMENT ON COLUMN chatwebhook.health.recent IS
    'The last 100 attempts, newest first: the latency in ms, or -1 less the latency of one that failed.';

COMMENT ON COLUMN chatwebhook.health.failing_since IS
    'When the first of the failures in a row ended; null: the last attempt succeeded.';
COMMENT ON COLUMN chatwebhook.health.latency_sum_ms IS 'Milliseconds that all attempts took.';
COMMENT ON COLUMN chatwebhook.health.latency_counts IS
    'Attempts ever made by what they took: up to 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000 ms, and longer.';
COMMENT ON COLUMN chatwebhook.health.given_up IS 'Deliveries ever given up.';
COMMENT ON COLUMN chatwebhook.health.problem IS
    'Why nothing can be sent to it, as a worker found when it read the webhook; null: nothing stands in the way.';
-- the workers look at these again and again
CREATE INDEX health_problem_idx ON chatwebhook.health (webhook_id) WHERE problem IS NOT NULL;

/*
 * What was done, in ten minutes each, a row for each worker, so that none waits
 * for another.
 */
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
    'Attempts in steps of ten minutes, for the dashboard; kept as long as finished deliveries.';
COMMENT ON COLUMN chatwebhook.activity.since IS 'The beginning of the ten minutes.';
COMMENT ON COLUMN chatwebhook.activity.worker IS 'The worker''s number, from 1.';
COMMENT ON COLUMN chatwebhook.activity.succeeded IS 'Attempts that succeeded.';
COMMENT ON COLUMN chatwebhook.activity.failed IS 'Attempts that failed.';
COMMENT ON COLUMN chatwebhook.activity.given_up IS 'Deliveries that were given up.';
ALTER TABLE chatwebhook.health ALTER last_error SET STATISTICS 0;
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.health', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.activity', '');

CREATE FUNCTION chatwebhook._add(a bigint[], b bigint[]) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'chatwebhook_add'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook._add(bigint[], bigint[]) IS
    'Adds the numbers of two arrays one by one; the first is as long as the result.';
/*
 * How the webhooks and the workers do.
 */
CREATE FUNCTION chatwebhook._all_in_flight(OUT webhook_id uuid, OUT in_flight bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_in_flight'
    LANGUAGE C VOLATILE STRICT ROWS 100;
COMMENT ON FUNCTION chatwebhook._all_in_flight() IS
    'For each webhook of this database, the deliveries that workers have claimed.';

CREATE FUNCTION chatwebhook._in_flight(OUT webhook_id uuid, OUT in_flight bigint)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT f.webhook_id, f.in_flight
      FROM chatwebhook._all_in_flight() f, chatwebhook._webhooks() AS own
     WHERE own IS NULL OR f.webhook_id = ANY (own)
$$;
COMMENT ON FUNCTION chatwebhook._in_flight() IS
    'The same, for the webhooks that the role on whose behalf this runs may see.';

CREATE FUNCTION chatwebhook._all_gates(OUT webhook_id uuid, OUT paused_until timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_gates'
    LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION chatwebhook._all_gates() IS
    'The webhooks of this database that nothing is sent to for now, but for a probe, and until when.';

CREATE FUNCTION chatwebhook._gates(OUT webhook_id uuid, OUT paused_until timestamptz)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE ROWS 10 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT g.webhook_id, g.paused_until
      FROM chatwebhook._all_gates() g, chatwebhook._webhooks() AS own
     WHERE own IS NULL OR g.webhook_id = ANY (own)
$$;
COMMENT ON FUNCTION chatwebhook._gates() IS
    'The same, for the webhooks that the role on whose behalf this runs may see.';

CREATE FUNCTION chatwebhook._all_workers(
    OUT pid integer, OUT started_at timestamptz, OUT in_flight integer, OUT claimed bigint,
    OUT delivered bigint, OUT failed bigint, OUT last_error text, OUT last_activity_at timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_workers'
    LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION chatwebhook._all_workers() IS 'The workers of this database.';

CREATE FUNCTION chatwebhook._workers(
    OUT pid integer, OUT started_at timestamptz, OUT in_flight integer, OUT claimed bigint,
    OUT delivered bigint, OUT failed bigint, OUT last_error text, OUT last_activity_at timestamptz)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE ROWS 10 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT * FROM chatwebhook._all_workers()
     WHERE chatwebhook._chatbots() IS NULL
        OR has_table_privilege(chatwebhook._invoker(), 'chatwebhook.worker_status', 'SELECT')
$$;
COMMENT ON FUNCTION chatwebhook._workers() IS
    'The same; nothing for a tenant''s role that was not granted worker_status.';

CREATE VIEW chatwebhook.worker_status AS
    SELECT pid, started_at, in_flight, claimed, delivered, failed, last_error, last_activity_at,
           chatwebhook._encrypts() AS secrets_encrypted
      FROM chatwebhook._workers();
COMMENT ON VIEW chatwebhook.worker_status IS
    'The workers of this database; empty if chatwebhook is not in shared_preload_libraries.';
COMMENT ON COLUMN chatwebhook.worker_status.pid IS 'Its process, as in pg_stat_activity.';
COMMENT ON COLUMN chatwebhook.worker_status.started_at IS 'When it started.';
COMMENT ON COLUMN chatwebhook.worker_status.last_activity_at IS 'When its last attempt ended.';
COMMENT ON COLUMN chatwebhook.worker_status.in_flight IS 'Requests under way.';
COMMENT ON COLUMN chatwebhook.worker_status.claimed IS 'Deliveries claimed since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.delivered IS 'Attempts that succeeded since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.failed IS 'Attempts that failed since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.last_error IS
    'The last trouble of the worker''s own, not of an endpoint.';

COMMENT ON COLUMN chatwebhook.worker_status.secrets_encrypted IS
    'Whether secrets are encrypted at rest, as chatwebhook.secret_key_file says; null: the key file is unusable.';

CREATE FUNCTION chatwebhook._alert_failures() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('chatwebhook.alert_failures', true), ''), '5')::integer $$;
COMMENT ON FUNCTION chatwebhook._alert_failures() IS 'The setting chatwebhook.alert_failures.';

CREATE FUNCTION chatwebhook._alert_success_rate() RETURNS double precision
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('chatwebhook.alert_success_rate', true), ''), '0.9')::double precision $$;
COMMENT ON FUNCTION chatwebhook._alert_success_rate() IS 'The setting chatwebhook.alert_success_rate.';

CREATE VIEW chatwebhook.webhook_health WITH (security_barrier) AS
    SELECT w.id AS webhook_id, w.name, chatwebhook._redact(w.url) AS url,
           CASE WHEN NOT w.enabled THEN 'disabled'
                WHEN h.problem IS NOT NULL OR g.webhook_id IS NOT NULL THEN 'paused'
                WHEN h.total = 0 THEN 'idle'
                WHEN h.consecutive_failures >= s.failures THEN 'failing'
                WHEN r.success_rate < s.rate OR h.consecutive_failures > 0 THEN 'degraded'
                ELSE 'healthy'
           END AS state, h.problem,
           h.total, h.successes, h.failures,
           r.success_rate, r.avg_latency_ms, r.p95_latency_ms,
           h.last_success_at, h.last_failure_at, h.last_error, h.consecutive_failures,
           q.pending, coalesce(f.in_flight, 0) AS in_flight, q.oldest_pending_at, d.dead
      FROM chatwebhook.webhook w
      JOIN chatwebhook.health h ON h.webhook_id = w.id
      LEFT JOIN chatwebhook._in_flight() f ON f.webhook_id = w.id
      LEFT JOIN chatwebhook._gates() g ON g.webhook_id = w.id
      CROSS JOIN (SELECT coalesce(nullif(chatwebhook._alert_failures(), 0), 5) AS failures,
                         chatwebhook._alert_success_rate() AS rate OFFSET 0) s
      CROSS JOIN LATERAL (
          SELECT pg_catalog.round(pg_catalog.avg((latency >= 0)::integer), 4) AS success_rate,
                 pg_catalog.round(pg_catalog.avg(ms), 1) AS avg_latency_ms,
                 pg_catalog.percentile_disc(0.95) WITHIN GROUP (ORDER BY ms) AS p95_latency_ms
            FROM (SELECT pg_catalog.unnest(h.recent) AS latency) AS l,
                 LATERAL (SELECT CASE WHEN latency >= 0 THEN latency ELSE -1 - latency END) AS x(ms)
           ) r
      CROSS JOIN LATERAL (
          SELECT pg_catalog.count(*) AS pending, pg_catalog.min(created_at) AS oldest_pending_at
            FROM chatwebhook.queue p WHERE p.webhook_id = w.id
           ) q
      CROSS JOIN LATERAL (
          SELECT pg_catalog.count(*) AS dead
            FROM chatwebhook.dead p WHERE p.webhook_id = w.id
           ) d
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[]);
COMMENT ON VIEW chatwebhook.webhook_health IS
    'How each webhook does: true after every settle. Totals are of attempts, over all time; rate and latencies are of the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.webhook_id IS 'The webhook.';
COMMENT ON COLUMN chatwebhook.webhook_health.name IS 'Its name.';
COMMENT ON COLUMN chatwebhook.webhook_health.url IS
    'Where its requests go; what may be a token in it is left out.';
COMMENT ON COLUMN chatwebhook.webhook_health.total IS 'Attempts ever made.';
COMMENT ON COLUMN chatwebhook.webhook_health.successes IS 'Those that succeeded.';
COMMENT ON COLUMN chatwebhook.webhook_health.failures IS 'Those that failed.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_success_at IS 'When the last one that succeeded ended.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_failure_at IS 'When the last one that failed ended.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_error IS 'Why that one failed.';
COMMENT ON COLUMN chatwebhook.webhook_health.state IS
    'disabled; paused: it cannot be sent to, as problem says, or after chatwebhook.breaker_threshold (10) failures in a row, or because the receiver asked for it, nothing is sent for now but a probe from time to time; idle: nothing was sent yet; failing: chatwebhook.alert_failures (5) or more failures in a row; degraded: fewer, or under chatwebhook.alert_success_rate (0.9) of the last 100 succeeded; healthy.';
COMMENT ON COLUMN chatwebhook.webhook_health.success_rate IS 'Of the last 100 attempts, 0 to 1.';
COMMENT ON COLUMN chatwebhook.webhook_health.avg_latency_ms IS 'Of the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.p95_latency_ms IS
    '95th percentile of the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.consecutive_failures IS
    'Failed attempts since the last that succeeded.';
COMMENT ON COLUMN chatwebhook.webhook_health.pending IS 'Deliveries that are not finished.';
COMMENT ON COLUMN chatwebhook.webhook_health.in_flight IS
    'Those of the pending that a worker is sending, or is about to.';
COMMENT ON COLUMN chatwebhook.webhook_health.oldest_pending_at IS
    'When the oldest of the pending was emitted.';
COMMENT ON COLUMN chatwebhook.webhook_health.dead IS 'Deliveries that were given up.';
COMMENT ON COLUMN chatwebhook.webhook_health.problem IS
    'Why nothing can be sent to it, such as a credential that is not set or a secret that cannot be opened; what is emitted waits. Null: nothing stands in the way.';
