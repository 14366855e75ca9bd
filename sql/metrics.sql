/*
 * Metrics for Prometheus, a row for each sample.
 *
 * Counters come from the table health, so neither retention nor a crash or
 * restart resets them.  A webhook's series end when it is deleted.
 *
 * A query for some of the names does not pay for the others, because a branch
 * with another name is pruned.  Counting is left to a function without jit: seeing
 * a long queue, the planner would compile the whole view, which takes longer than
 * counting does.
 */
CREATE FUNCTION chatwebhook._count_deliveries(webhook_ids uuid[], status text, OUT webhook_id uuid, OUT deliveries bigint)
    RETURNS SETOF record
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
    SELECT w.id, CASE status
                 WHEN 'pending' THEN (SELECT count(*) FROM chatwebhook.queue q WHERE q.webhook_id = w.id)
                 WHEN 'dead' THEN (SELECT count(*) FROM chatwebhook.dead d WHERE d.webhook_id = w.id) END
      FROM unnest(webhook_ids) AS w(id)
$$;
COMMENT ON FUNCTION chatwebhook._count_deliveries(uuid[], text) IS
    'Returns the number of pending or dead deliveries of each of these webhooks.';

CREATE VIEW chatwebhook.metrics WITH (security_invoker) AS
    WITH w AS (
        SELECT w.id, h.successes, h.failures, h.consecutive_failures, h.last_success_at,
               h.latency_sum_ms, h.latency_counts, h.given_up,
               pg_catalog.jsonb_build_object('webhook_id', w.id, 'webhook', w.name) AS labels
          FROM chatwebhook.webhook w
          JOIN chatwebhook.health h ON h.webhook_id = w.id
    )
    SELECT u.name, u.type, u.help, u.labels, u.value FROM (
        SELECT 'chatwebhook_attempts_total'::text AS name, 'counter'::text AS type,
               'Finished delivery attempts, by result.'::text AS help,
               w.labels || r.label AS labels, r.value::double precision AS value
          FROM w
         CROSS JOIN LATERAL (VALUES ('{"result": "success"}'::jsonb, w.successes),
                                    ('{"result": "failure"}', w.failures)) AS r(label, value)
        UNION ALL
        SELECT 'chatwebhook_attempt_duration_seconds_bucket', 'histogram',
               'Duration of attempts, from the start to the end of the reply or the failure.',
               w.labels || b.label, b.value
          FROM w
         CROSS JOIN LATERAL (
               SELECT c.label, pg_catalog.sum(c.n) OVER (ORDER BY c.i ROWS UNBOUNDED PRECEDING) AS value
                 FROM (SELECT pg_catalog.unnest('{1,2,3,4,5,6,7,8,9,10,11,12}'::integer[]) AS i,
                              pg_catalog.unnest(ARRAY['{"le": "0.005"}', '{"le": "0.01"}', '{"le": "0.025"}',
                                  '{"le": "0.05"}', '{"le": "0.1"}', '{"le": "0.25"}', '{"le": "0.5"}',
                                  '{"le": "1"}', '{"le": "2.5"}', '{"le": "5"}', '{"le": "10"}',
                                  '{"le": "+Inf"}']::jsonb[]) AS label,
                              pg_catalog.unnest(w.latency_counts) AS n) c
               ) b
        UNION ALL
        SELECT d.name, 'histogram',
               'Duration of attempts, from the start to the end of the reply or the failure.', w.labels,
               CASE d.name
                    WHEN 'chatwebhook_attempt_duration_seconds_sum' THEN w.latency_sum_ms / 1000.0
                    ELSE (SELECT pg_catalog.sum(c.n) FROM (SELECT pg_catalog.unnest(w.latency_counts) AS n) c)
               END
          FROM (VALUES ('chatwebhook_attempt_duration_seconds_sum'),
                       ('chatwebhook_attempt_duration_seconds_count')) AS d(name)
         CROSS JOIN w
        UNION ALL
        SELECT d.name, d.type, d.help, w.labels, d.value
          FROM w
         CROSS JOIN LATERAL (VALUES
               ('chatwebhook_deliveries_given_up_total', 'counter',
                'Deliveries that were given up and became dead letters.', w.given_up),
               ('chatwebhook_consecutive_failures', 'gauge',
                'Failed attempts since the last success.', w.consecutive_failures),
               ('chatwebhook_last_success_timestamp_seconds', 'gauge',
                'When the last successful attempt ended; 0 if there was none.',
                coalesce(pg_catalog.date_part('epoch', w.last_success_at), 0))
               ) AS d(name, type, help, value)
        UNION ALL
        SELECT 'chatwebhook_deliveries_pending', 'gauge', 'Unfinished deliveries.',
               w.labels, c.deliveries
          FROM w
          JOIN chatwebhook._count_deliveries(ARRAY(SELECT id FROM w), 'pending') c ON c.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_deliveries_in_flight', 'gauge',
               'Pending deliveries that a worker is sending or about to send.',
               w.labels, coalesce(s.in_flight, 0)
          FROM w
          LEFT JOIN chatwebhook._sending(ARRAY(SELECT id FROM w)) s ON s.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_deliveries_dead', 'gauge', 'Dead letters in the table.',
               w.labels, c.deliveries
          FROM w
          JOIN chatwebhook._count_deliveries(ARRAY(SELECT id FROM w), 'dead') c ON c.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_oldest_due_age_seconds', 'gauge',
               'How long the oldest due delivery has been due; 0 if none is.', w.labels,
               GREATEST(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() -
                   (SELECT pg_catalog.min(q.next_attempt_at) FROM chatwebhook.queue q
                     WHERE q.webhook_id = w.id)), 0)
          FROM w
        UNION ALL
        SELECT 'chatwebhook_webhook_status', 'gauge',
               '1 for the current state of the webhook; other states have no series.',
               w.labels || pg_catalog.jsonb_build_object('state', h.state), 1
          FROM w
          JOIN chatwebhook.webhook_health h ON h.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_alerts_open', 'gauge',
               '1 for each open alert; closed alerts have no series.',
               w.labels || pg_catalog.jsonb_build_object('kind', a.kind), 1
          FROM w
          JOIN chatwebhook.alert a ON a.webhook_id = w.id AND a.closed_at IS NULL
        UNION ALL
        SELECT 'chatwebhook_alerts_open', 'gauge',
               '1 for each open alert; closed alerts have no series.',
               pg_catalog.jsonb_build_object('watch', a.watch, 'kind', a.kind), 1
          FROM chatwebhook.alert a
         WHERE a.webhook_id IS NULL AND a.closed_at IS NULL
        UNION ALL
        SELECT 'chatwebhook_workers_running', 'gauge',
               'Running workers of this database.', '{}',
               (SELECT pg_catalog.count(*) FROM chatwebhook._workers())
         WHERE pg_catalog.has_table_privilege('chatwebhook.worker_status', 'SELECT')
        UNION ALL
        SELECT 'chatwebhook_sending_enabled', 'gauge',
               'Whether the setting chatwebhook.enabled is on: 1 or 0.', '{}',
               chatwebhook._setting('chatwebhook.enabled')::boolean::integer
         WHERE pg_catalog.has_table_privilege('chatwebhook.worker_status', 'SELECT')
    ) u;
COMMENT ON VIEW chatwebhook.metrics IS
    'Metrics for Prometheus, a row for each sample. Counters never decrease; a webhook''s series end when it is deleted.';
COMMENT ON COLUMN chatwebhook.metrics.name IS
    'Name of the sample; of a histogram, with _bucket, _sum or _count. A query for some names does not compute the others.';
COMMENT ON COLUMN chatwebhook.metrics.type IS 'counter, gauge or histogram.';
COMMENT ON COLUMN chatwebhook.metrics.help IS 'Description of the metric.';
COMMENT ON COLUMN chatwebhook.metrics.labels IS
    'An object of strings: webhook_id and webhook (its name), or watch, unless it is about the whole database, and result, le, state or kind.';
COMMENT ON COLUMN chatwebhook.metrics.value IS
    'The value. Durations are in seconds, points in time in seconds since 1970. Buckets are cumulative.';

CREATE FUNCTION chatwebhook.metrics_text() RETURNS text
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 SET jit = off
    AS $$
    SELECT coalesce(string_agg(f.lines, '' ORDER BY f.family COLLATE "C"), '')
      FROM (SELECT m.family,
                   concat('# HELP ', m.family, ' ',
                          replace(replace(min(m.help), E'\\', E'\\\\'), E'\n', E'\\n'),
                          E'\n# TYPE ', m.family, ' ', min(m.type), E'\n',
                          string_agg(concat(m.name, l.labels, ' ', m.value, E'\n'), ''
                                     ORDER BY m.labels->>'webhook_id', m.name COLLATE "C", m.le,
                                              l.labels COLLATE "C")) AS lines
              FROM (SELECT name, type, help, labels, value, (labels->>'le')::double precision AS le,
                           CASE type WHEN 'histogram' THEN regexp_replace(name, '_(bucket|sum|count)$', '')
                                     ELSE name END AS family
                      FROM chatwebhook.metrics) m
             CROSS JOIN LATERAL (
                   SELECT '{' || string_agg(concat(e.key, '="',
                              replace(replace(replace(e.value, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n'),
                              '"'), ',') || '}' AS labels
                     FROM jsonb_each_text(m.labels) AS e(key, value)) l
             GROUP BY m.family) f
$$;
COMMENT ON FUNCTION chatwebhook.metrics_text() IS
    'Returns the view metrics in Prometheus''s text format, to be served as it is, or written to a file for node_exporter''s textfile collector.';
