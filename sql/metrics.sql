/*
 * The same figures for Prometheus, a row for each sample.  The counters are those
 * of the table health, which no retention, crash or restart sets back; the series
 * of a webhook end when it is deleted.
 *
 * A query for some of the names does not pay for all: a branch with another name
 * drops out.  Counting is left to functions, since what the planner expects of it
 * beside a long queue would have it compile all of this (jit), which takes longer
 * than the counting.
 */
CREATE FUNCTION chatwebhook._count_pending(OUT webhook_id uuid, OUT pending bigint)
    RETURNS SETOF record
    LANGUAGE sql STABLE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
    SELECT w.id, (SELECT count(*) FROM chatwebhook.queue q WHERE q.webhook_id = w.id)
      FROM chatwebhook.webhook w
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
$$;
COMMENT ON FUNCTION chatwebhook._count_pending() IS
    'For each webhook that the role on whose behalf this runs may see, the deliveries that are pending.';

CREATE FUNCTION chatwebhook._count_dead(OUT webhook_id uuid, OUT dead bigint)
    RETURNS SETOF record
    LANGUAGE sql STABLE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
    SELECT w.id, (SELECT count(*) FROM chatwebhook.dead d WHERE d.webhook_id = w.id)
      FROM chatwebhook.webhook w
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
$$;
COMMENT ON FUNCTION chatwebhook._count_dead() IS
    'For each webhook that the role on whose behalf this runs may see, its dead letters.';

CREATE VIEW chatwebhook.metrics WITH (security_barrier) AS
    WITH w AS (
        SELECT w.id, h.successes, h.failures, h.consecutive_failures, h.last_success_at,
               h.latency_sum_ms, h.latency_counts, h.given_up,
               pg_catalog.jsonb_build_object('webhook_id', w.id, 'webhook', w.name) AS labels
          FROM chatwebhook.webhook w
          JOIN chatwebhook.health h ON h.webhook_id = w.id
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
            OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
    )
    SELECT u.name, u.type, u.help, u.labels, u.value FROM (
        SELECT 'chatwebhook_attempts_total'::text AS name, 'counter'::text AS type,
               'Attempts at deliveries that ended, by result.'::text AS help,
               w.labels || r.label AS labels, r.value::double precision AS value
          FROM w
         CROSS JOIN LATERAL (VALUES ('{"result": "success"}'::jsonb, w.successes),
                                    ('{"result": "failure"}', w.failures)) AS r(label, value)
        UNION ALL
        SELECT 'chatwebhook_attempt_duration_seconds_bucket', 'histogram',
               'What attempts took, from the start to the end of the reply or the failure.',
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
               'What attempts took, from the start to the end of the reply or the failure.', w.labels,
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
                'Failed attempts since the last that succeeded.', w.consecutive_failures),
               ('chatwebhook_last_success_timestamp_seconds', 'gauge',
                'When the last attempt that succeeded ended; 0 if none did.',
                coalesce(pg_catalog.date_part('epoch', w.last_success_at), 0))
               ) AS d(name, type, help, value)
        UNION ALL
        SELECT 'chatwebhook_deliveries_pending', 'gauge', 'Deliveries that are not finished.',
               w.labels, c.pending
          FROM w
          JOIN chatwebhook._count_pending() c ON c.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_deliveries_in_flight', 'gauge',
               'Those of the pending that a worker is sending, or is about to.',
               w.labels, coalesce(f.in_flight, 0)
          FROM w
          LEFT JOIN chatwebhook._in_flight() f ON f.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_deliveries_dead', 'gauge', 'Dead letters that are kept.',
               w.labels, c.dead
          FROM w
          JOIN chatwebhook._count_dead() c ON c.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_oldest_due_age_seconds', 'gauge',
               'For how long the pending delivery that was due first has been due; 0 if none is.', w.labels,
               GREATEST(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() -
                   (SELECT pg_catalog.min(q.next_attempt_at) FROM chatwebhook.queue q
                     WHERE q.webhook_id = w.id)), 0)
          FROM w
        UNION ALL
        SELECT 'chatwebhook_webhook_status', 'gauge',
               '1 for the state that the webhook is in; there is no series for the others.',
               w.labels || pg_catalog.jsonb_build_object('state', h.state), 1
          FROM w
          JOIN chatwebhook.webhook_health h ON h.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_alerts_open', 'gauge',
               '1 for each alert that is open; there is no series for one that is not.',
               w.labels || pg_catalog.jsonb_build_object('kind', a.kind), 1
          FROM w
          JOIN chatwebhook.alert a ON a.webhook_id = w.id AND a.closed_at IS NULL
        UNION ALL
        SELECT 'chatwebhook_workers_running', 'gauge',
               'Workers of this database.', '{}',
               (SELECT pg_catalog.count(*) FROM chatwebhook._workers())
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
        UNION ALL
        SELECT 'chatwebhook_sending_enabled', 'gauge',
               'Whether the setting chatwebhook.enabled is on: 1 or 0.', '{}',
               coalesce(pg_catalog.current_setting('chatwebhook.enabled', true), 'on')::boolean::integer
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
    ) u;
COMMENT ON VIEW chatwebhook.metrics IS
    'The figures for Prometheus, a row for each sample. Counters never go back; the series of a webhook end when it is deleted.';
COMMENT ON COLUMN chatwebhook.metrics.name IS
    'The sample''s name; of a histogram, with _bucket, _sum or _count. Ask for some names, and the others are not reckoned.';
COMMENT ON COLUMN chatwebhook.metrics.type IS 'counter, gauge or histogram.';
COMMENT ON COLUMN chatwebhook.metrics.help IS 'What it says.';
COMMENT ON COLUMN chatwebhook.metrics.labels IS
    'An object of texts: webhook_id and webhook (its name), unless it is about all, and result, le, state or kind.';
COMMENT ON COLUMN chatwebhook.metrics.value IS
    'The value; times are in seconds, points in time in seconds since 1970. Buckets are cumulative.';

CREATE FUNCTION chatwebhook.metrics_text() RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 SET jit = off
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
    'The view metrics in Prometheus''s text format, to be served as it is or written to a file of node_exporter''s textfile collector.';
