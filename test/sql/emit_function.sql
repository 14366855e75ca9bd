--
-- The function emit(): ids, validation, limits, and what it refuses.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
-- so that errors are shown; watch_faults.sql has the default
SET chatwebhook.on_emit_error = error;

-- without a webhook nobody wants it; it is checked all the same
SELECT chatwebhook.emit('feedback.received', 'bot_1', 'conv_1', '{"rating": 5}') IS NULL AS unwanted;
SELECT chatwebhook.emit('feedback.received', 'bot_1', 'conv_1', '{}');
SELECT count(*) FROM chatwebhook.event;

INSERT INTO chatwebhook.webhook (name, url) VALUES ('all', 'https://example.com/');
-- the id that is given is the event's
SELECT chatwebhook.emit('feedback.received', 'bot_1', 'conv_1', '{"rating": 5, "b": [1.0, null]}') AS id \gset
SELECT e.type, e.chatbot_id, e.conversation_id, e.data,
       e.created_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now
  FROM chatwebhook.event e WHERE e.id = :'id';
SELECT d.event_type, d.chatbot_id, d.conversation_id, d.webhook_name, d.status, d.attempts,
       d.created_at = e.created_at AS created, d.next_attempt_at = e.created_at AS due,
       d.last_attempt_at, d.completed_at, d.last_status_code, d.last_error, d.latency_ms
  FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id WHERE e.id = :'id';
-- no data is empty data; the chatbot and the conversation may be missing
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, NULL) AS id \gset
SELECT type, chatbot_id, conversation_id, data FROM chatwebhook.event WHERE id = :'id';
-- by name
SELECT chatwebhook.emit(type => 'conversation.ended', data => '{"a": 1}', conversation_id => 'c', chatbot_id => 'b') AS id \gset
SELECT type, chatbot_id, conversation_id, data FROM chatwebhook.event WHERE id = :'id';

-- ids are of version 7 and variant 2, their time is the event's, and they ascend
DELETE FROM chatwebhook.event;
SELECT count(chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('n', n))) FROM generate_series(1, 5000) AS n;
SELECT count(*), count(DISTINCT id),
       bool_and(id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') AS version_7,
       bool_and(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint
                = floor(extract(epoch FROM created_at) * 1000)) AS in_time,
       bool_and(ascending) AS ascending
  FROM (SELECT id, created_at, (data->'n')::integer = row_number() OVER (ORDER BY id) AS ascending
          FROM chatwebhook.event) AS e;
SELECT bool_and(id > before) AS ascending
  FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before
          FROM (SELECT n, chatwebhook.uuidv7() AS id FROM generate_series(1, 10000) AS n) AS made) AS pairs;
-- the deliveries' ids ascend too
SELECT bool_and(ascending) AS ascending
  FROM (SELECT (e.data->'n')::integer = row_number() OVER (ORDER BY q.id) AS ascending
          FROM chatwebhook.queue q JOIN chatwebhook.event e ON e.id = q.event_id) AS owed;
DELETE FROM chatwebhook.event;
DELETE FROM chatwebhook.queue;

--
-- Types
--
SELECT chatwebhook.emit(NULL, NULL, NULL, '{}');
SELECT chatwebhook.emit('', NULL, NULL, '{}');
SELECT chatwebhook.emit('no.such', NULL, NULL, '{}');
SELECT chatwebhook.emit('Lead.Captured', NULL, NULL, '{}');
SELECT chatwebhook.emit('lead.*', NULL, NULL, '{}');
SELECT chatwebhook.emit('*', NULL, NULL, '{}');
SELECT chatwebhook.emit(E'lead.captured\nX-Injected: 1', NULL, NULL, '{}');
SELECT chatwebhook.emit('lead captured', NULL, NULL, '{}');
SELECT chatwebhook.emit('lead.captured ', NULL, NULL, '{}');
SELECT chatwebhook.emit('Gespräch.beendet', NULL, NULL, '{}');
SELECT chatwebhook.emit(repeat('x', 255), NULL, NULL, '{}');
SELECT chatwebhook.emit(repeat('x', 256), NULL, NULL, '{}');
SELECT chatwebhook.emit(repeat('x', 1024 * 1024), NULL, NULL, '{}');
SELECT chatwebhook.emit('x' || repeat('ä', 1000), NULL, NULL, '{}');
-- one's own types, at once
INSERT INTO chatwebhook.event_type (name, required) VALUES ('order.placed', '{number,total}'), (repeat('x', 255), '{}');
SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"number": 1, "total": 0}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"number": 1}');
SELECT chatwebhook.emit(repeat('x', 255), NULL, NULL, '{}') IS NOT NULL AS emitted;
UPDATE chatwebhook.event_type SET required = '{number}' WHERE name = 'order.placed';
SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"number": 1}') IS NOT NULL AS emitted;
UPDATE chatwebhook.event_type SET name = 'order.paid' WHERE name = 'order.placed';
SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"number": 1}') IS NOT NULL AS emitted;
DELETE FROM chatwebhook.event_type WHERE name = 'order.paid';
SELECT chatwebhook.emit('order.paid', NULL, NULL, '{"number": 1}');
-- names that cannot be types
INSERT INTO chatwebhook.event_type (name) VALUES ('');
INSERT INTO chatwebhook.event_type (name) VALUES ('a b');
INSERT INTO chatwebhook.event_type (name) VALUES ('.a');
INSERT INTO chatwebhook.event_type (name) VALUES ('a.');
INSERT INTO chatwebhook.event_type (name) VALUES ('a..b');
INSERT INTO chatwebhook.event_type (name) VALUES ('a.*');
INSERT INTO chatwebhook.event_type (name) VALUES ('größe');
INSERT INTO chatwebhook.event_type (name) VALUES (E'a\n');
INSERT INTO chatwebhook.event_type (name) VALUES (E'a\nb');
INSERT INTO chatwebhook.event_type (name) VALUES (repeat('x', 256));
INSERT INTO chatwebhook.event_type (name) VALUES (repeat('x', 1024 * 1024));
INSERT INTO chatwebhook.event_type (name, required) VALUES ('a', '{x,NULL}');
INSERT INTO chatwebhook.event_type (name, required) VALUES ('a', '{{x},{y}}');
-- one that is there already stays as it is
\set VERBOSITY terse
INSERT INTO chatwebhook.event_type (name) VALUES ('lead.captured');
\set VERBOSITY default
INSERT INTO chatwebhook.event_type (name) VALUES ('lead.captured') ON CONFLICT DO NOTHING;
SELECT required, shipped FROM chatwebhook.event_type WHERE name = 'lead.captured';
-- one that somebody has changed is no longer as it was shipped
BEGIN;
UPDATE chatwebhook.event_type SET required = required || '{phone}' WHERE name = 'lead.captured';
SELECT required, shipped FROM chatwebhook.event_type WHERE name = 'lead.captured';
ROLLBACK;

--
-- Required keys
--
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{"source": "w", "conversationSummary": "s"}');
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{"email": null, "source": "w", "conversationSummary": "s"}');
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{"Email": "a", "source": "w", "conversationSummary": "s"}');
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{"data": {"email": "a"}, "source": "w", "conversationSummary": "s"}');
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{"email": "", "source": false, "conversationSummary": []}') IS NOT NULL AS emitted;
-- a warning, or nothing
DELETE FROM chatwebhook.event;
SET chatwebhook.validation = warning;
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{"source": "w"}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('no.such', NULL, NULL, '{}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit(E'no\nsuch', NULL, NULL, '{}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('no.such', NULL, NULL, '[]') IS NOT NULL AS emitted;
SET chatwebhook.validation = off;
SELECT chatwebhook.emit('lead.captured', NULL, NULL, '{}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('no.such', NULL, NULL, '{}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit(E'no\nsuch', NULL, NULL, '{}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit(repeat('x', 256), NULL, NULL, '{}') IS NOT NULL AS emitted;
RESET chatwebhook.validation;
SELECT type, data FROM chatwebhook.event ORDER BY id;
-- the trigger goes by the same setting
CREATE TABLE feedback (stars integer);
CREATE TRIGGER r AFTER INSERT ON feedback FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('feedback.received', 'rating=stars');
CREATE TRIGGER u AFTER INSERT ON feedback FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('no.such', '*');
DELETE FROM chatwebhook.event;
INSERT INTO feedback VALUES (NULL);
SET chatwebhook.validation = warning;
INSERT INTO feedback VALUES (NULL);
SET chatwebhook.validation = off;
INSERT INTO feedback VALUES (NULL);
RESET chatwebhook.validation;
SELECT type, data FROM chatwebhook.event ORDER BY id;
DROP TABLE feedback;

--
-- Data
--
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '[]');
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '[{"a": 1}]');
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '"text"');
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '1');
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, 'null');
SELECT chatwebhook.emit('x' || repeat('ä', 1000), NULL, NULL, '[]');
-- the largest, as JSON is written: an object of one key takes 8 bytes more
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('x', 1024 * 1024 - 8))) IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('x', 1024 * 1024 - 7)));
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('x', 8 * 1024 * 1024)));
-- two bytes for each quotation mark, six for each control character
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('"', 600000)));
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat(E'\x01', 180000)));
-- a number that takes 12 bytes in the database and 131,072 in the request
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"a": 1e131071}') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', array_fill('1e131071'::numeric, '{9}')));
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, (SELECT jsonb_object_agg(n, '1e131071'::numeric) FROM generate_series(1, 9) n));
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, ('{"a": [' || repeat('1e131071,', 8999) || '0]}')::jsonb);
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', array_fill('1e-16383'::numeric, '{70}')));
-- the limit can be moved
SET chatwebhook.max_payload_size = '1kB';
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('x', 1016))) IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('x', 1017)));
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, jsonb_build_object('a', repeat('ä', 1000)));
CREATE TABLE notes (note text);
CREATE TRIGGER r AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('conversation.ended', '*');
INSERT INTO notes VALUES (repeat('x', 1013));
INSERT INTO notes VALUES (repeat('x', 1014));
-- and is not looked at where nobody wants the event
UPDATE chatwebhook.webhook SET enabled = false;
INSERT INTO notes VALUES (repeat('x', 5000));
UPDATE chatwebhook.webhook SET enabled = true;
DROP TABLE notes;
RESET chatwebhook.max_payload_size;
-- deeply nested
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, (repeat('{"a":', 1000) || '1' || repeat('}', 1000))::jsonb) IS NOT NULL AS emitted;

--
-- Where it cannot be
--
BEGIN READ ONLY;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{}');
ROLLBACK;
-- not in a parallel worker, nor where a plan could call it more or less often
SELECT provolatile, proparallel FROM pg_proc WHERE oid = 'chatwebhook.emit(text, text, text, jsonb, timestamptz, timestamptz, text)'::regprocedure;
-- a serializable transaction and a repeatable read are no different
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"level": "serializable"}') IS NOT NULL AS emitted;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"level": "repeatable read"}') IS NOT NULL AS emitted;
COMMIT;
SELECT data FROM chatwebhook.event WHERE data ? 'level' ORDER BY id;
-- what is rolled back was never there
DELETE FROM chatwebhook.event;
DELETE FROM chatwebhook.queue;
BEGIN;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"n": 1}') IS NOT NULL AS emitted;
SAVEPOINT s;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"n": 2}') IS NOT NULL AS emitted;
ROLLBACK TO s;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"n": 3}') IS NOT NULL AS emitted;
COMMIT;
BEGIN;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{"n": 4}') IS NOT NULL AS emitted;
ROLLBACK;
DO $$
BEGIN
    PERFORM chatwebhook.emit('conversation.ended', NULL, NULL, '{"n": 5}');
    RAISE 'undone';
EXCEPTION WHEN raise_exception THEN
    PERFORM chatwebhook.emit('conversation.ended', NULL, NULL, '{"n": 6}');
END
$$;
SELECT e.data, count(q.id) AS owed FROM chatwebhook.event e LEFT JOIN chatwebhook.queue q ON q.event_id = e.id GROUP BY e.id ORDER BY e.id;
SELECT count(*) FROM chatwebhook.queue;
