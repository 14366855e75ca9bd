--
-- Deliveries as people see and steer them: the views, retry(), cancel() and
-- wait_until_idle().  No worker is at work.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- nothing to wait for
SELECT chatwebhook.wait_until_idle('10 s'), chatwebhook.wait_until_idle('0'), chatwebhook.wait_until_idle('-1 s'), chatwebhook.wait_until_idle(NULL);
SELECT chatwebhook.wait_until_idle();
SELECT * FROM chatwebhook.delivery;
SELECT * FROM chatwebhook.dead_letter;
SELECT * FROM chatwebhook.webhook_health;

INSERT INTO chatwebhook.webhook (name, url) VALUES ('crm', 'https://example.com/');
SELECT count(chatwebhook.emit('feedback.received', 'bot_1', 'conv_' || n, jsonb_build_object('rating', n))) FROM generate_series(1, 6) AS n;
-- what is pending is waited for, but not where nothing will be sent
SELECT chatwebhook.wait_until_idle('0');
SELECT chatwebhook.wait_until_idle('50 ms');
UPDATE chatwebhook.webhook SET enabled = false;
SELECT chatwebhook.wait_until_idle('10 s');
UPDATE chatwebhook.webhook SET enabled = true;

-- the deliveries by the ratings of their events
CREATE FUNCTION delivery(rating integer) RETURNS bigint LANGUAGE sql AS $$
    SELECT d.id FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id WHERE e.data->'rating' = to_jsonb(rating)
$$;
CREATE VIEW deliveries AS
    SELECT e.data->'rating' AS rating, d.event_type, d.chatbot_id, d.conversation_id, d.webhook_name, d.status, d.attempts,
           d.next_attempt_at <= clock_timestamp() AS due, d.last_attempt_at IS NOT NULL AS tried, d.completed_at IS NOT NULL AS completed,
           d.last_status_code, d.last_error, d.latency_ms
      FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id ORDER BY 1;
CREATE VIEW health AS
    SELECT name, state, total, successes, failures, round(success_rate, 4) AS success_rate, avg_latency_ms, p95_latency_ms, consecutive_failures,
           pending, in_flight, oldest_pending_at IS NOT NULL AS waiting, dead FROM chatwebhook.webhook_health;
SELECT * FROM deliveries;
SELECT * FROM health;

-- 2 failed and waits, 3 was delivered, 4 is dead: as a worker leaves them
SELECT delivery(2) AS two, delivery(3) AS three, delivery(4) AS four, delivery(5) AS five, delivery(6) AS six \gset
UPDATE chatwebhook.queue
   SET attempts = 3, last_attempt_at = created_at, next_attempt_at = created_at + '1 hour', last_wait_ms = 4000, latency_ms = 7,
       last_status_code = 503, last_error = 'HTTP status 503' WHERE id = :two;
WITH done AS (DELETE FROM chatwebhook.queue WHERE id IN (:three, :four) RETURNING *),
     delivered AS (
    INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at, last_attempt_at, attempts, latency_ms,
           last_status_code, chatbot_id, webhook_name, status, last_error)
    SELECT id, webhook_id, event_id, created_at, created_at + '1 s', created_at, 1, 5, 200, chatbot_id, 'crm', 'delivered', NULL
      FROM done WHERE id = :three)
INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, last_attempt_at, attempts, latency_ms,
       last_status_code, chatbot_id, webhook_name, status, last_error)
SELECT id, webhook_id, event_id, created_at, created_at + '1 s', created_at, 6, 9, 500, chatbot_id, 'crm', 'dead', 'HTTP status 500'
  FROM done WHERE id = :four;
UPDATE chatwebhook.health SET total = 10, successes = 1, failures = 9, consecutive_failures = 2, recent = '{-10,-8,5}';
SELECT * FROM deliveries;
SELECT * FROM health;
-- the event whole, as it was sent
SELECT webhook_name, event_type, chatbot_id, conversation_id, attempts, last_status_code, last_error,
       event - 'id' - 'timestamp' AS event, event->>'id' = event_id::text AS id,
       event->>'timestamp' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$' AS timestamp
  FROM chatwebhook.dead_letter;
-- the states of health
CREATE FUNCTION state(total bigint, streak bigint, recent integer[]) RETURNS TABLE (state text, rate numeric, avg_latency_ms numeric, p95_latency_ms integer)
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chatwebhook.health h SET total = $1, consecutive_failures = $2, recent = $3;
    RETURN QUERY SELECT h.state, round(h.success_rate, 4), h.avg_latency_ms, h.p95_latency_ms FROM chatwebhook.webhook_health h;
END
$$;
SELECT total, streak, cardinality(recent) AS recent, s.*
  FROM (VALUES (1, 0, 0, '{}'::integer[]), (2, 1, 0, '{5}'), (3, 1, 1, '{-1}'), (4, 4, 4, '{-6,-6,-6,-6}'), (5, 5, 5, '{-6,-6,-6,-6,-6}'),
               (6, 100, 0, array_fill(10, '{90}') || array_fill(-11, '{10}')), (7, 100, 0, array_fill(10, '{89}') || array_fill(-11, '{11}')),
               (8, 200, 1, array_fill(-1, '{1}') || array_fill(0, '{99}')), (9, 100, 0, (SELECT array_agg(n) FROM generate_series(1, 100) AS n)))
       AS v(n, total, streak, recent), LATERAL state(total, streak, recent) AS s ORDER BY n;

--
-- retry()
--
-- one that waits goes now, and has all its retries
SELECT chatwebhook.retry(:two);
SELECT attempts, first_attempt, last_wait_ms, next_attempt_at <= clock_timestamp() AS due FROM chatwebhook.queue WHERE id = :two;
-- one that is dead comes back under its id
SELECT chatwebhook.retry(:four);
SELECT attempts, first_attempt, last_wait_ms, next_attempt_at <= clock_timestamp() AS due FROM chatwebhook.queue WHERE id = :four;
SELECT count(*) FROM chatwebhook.dead_letter;
-- one that was delivered does not, nor one that there is not
SELECT chatwebhook.retry(:three), chatwebhook.retry(0), chatwebhook.retry(-1), chatwebhook.retry(NULL);
SELECT * FROM deliveries;
-- a retry is of that delivery alone: other webhooks do not get it
INSERT INTO chatwebhook.webhook (name, url) VALUES ('later', 'https://example.com/');
SELECT chatwebhook.retry(:four);
SELECT pending FROM chatwebhook.webhook_health WHERE name = 'later';
DELETE FROM chatwebhook.webhook WHERE name = 'later';
-- for a webhook that is disabled it waits until that is enabled
UPDATE chatwebhook.webhook SET enabled = false;
SELECT chatwebhook.retry(:four);
UPDATE chatwebhook.webhook SET enabled = true;

--
-- cancel()
--
SELECT chatwebhook.cancel(:five), chatwebhook.cancel(:two);
SELECT chatwebhook.cancel(:five), chatwebhook.cancel(:three), chatwebhook.cancel(0), chatwebhook.cancel(NULL);
SELECT * FROM deliveries;
-- and back
SELECT chatwebhook.retry(:five), chatwebhook.retry(:two);
SELECT * FROM deliveries;
-- what is canceled is not waited for
SELECT count(*) FILTER (WHERE chatwebhook.cancel(id)) FROM chatwebhook.queue;
SELECT chatwebhook.wait_until_idle('0');
-- rolled back, it was not
BEGIN;
SELECT chatwebhook.retry(:five);
ROLLBACK;
SELECT count(*) FROM chatwebhook.queue;

--
-- Events and webhooks that are gone
--
SELECT chatwebhook.retry(:four);
WITH dead AS (DELETE FROM chatwebhook.queue WHERE id = :four RETURNING *)
INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, attempts, webhook_name, status, last_error)
SELECT id, webhook_id, event_id, created_at, created_at, 6, 'crm', 'dead', 'HTTP status 500' FROM dead;
DELETE FROM chatwebhook.event WHERE data->'rating' IN ('4', '5');
-- there is nothing to send any more; the record stays
SELECT chatwebhook.retry(:four), chatwebhook.retry(:five);
SELECT id = :four AS four, event_type, status, attempts, last_error FROM chatwebhook.delivery WHERE id IN (:four, :five) ORDER BY id;
SELECT event_type, event IS NULL AS no_event, last_error FROM chatwebhook.dead_letter;
DELETE FROM chatwebhook.webhook;
\set VERBOSITY sqlstate
SELECT chatwebhook.retry(:six);
\set VERBOSITY default
SELECT webhook_name, status, count(*) FROM chatwebhook.delivery GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM health;

-- retried, one of an ordered webhook waits for its conversation, but only if it has one
INSERT INTO chatwebhook.webhook (name, url, ordered) VALUES ('in order', 'https://example.com/', true);
SELECT count(chatwebhook.emit('feedback.received', 'bot_1', c.id, '{"rating": 7}')) FROM (VALUES ('conv_7'), (NULL)) AS c (id);
SELECT count(*) FILTER (WHERE chatwebhook.cancel(id)) FROM chatwebhook.queue;
SELECT count(*) FILTER (WHERE chatwebhook.retry(id)) FROM chatwebhook.delivery WHERE webhook_name = 'in order';
SELECT conversation_id, ordered FROM chatwebhook.queue ORDER BY conversation_id;
DELETE FROM chatwebhook.webhook;

DROP VIEW deliveries, health;
DROP FUNCTION delivery, state;
