--
-- Who may do what.  A role that may insert into a watched table needs no right
-- on anything of the extension's, and gets none.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
-- so that errors are shown; watch_faults.sql has the default
SET chatwebhook.on_emit_error = error;

CREATE ROLE regress_chatwebhook_app;
INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('all', 'https://example.com/', NULL), ('low', 'https://example.com/', '$.data.rating < 3');
CREATE TABLE feedback (id serial, bot text, rating integer);
CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON feedback FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('feedback.received', 'chatbotId=bot', 'rating');
CREATE TRIGGER s AFTER INSERT ON feedback REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('conversation.ended', 'id');
GRANT INSERT ON feedback TO regress_chatwebhook_app;
GRANT USAGE ON SEQUENCE feedback_id_seq TO regress_chatwebhook_app;

SET ROLE regress_chatwebhook_app;
INSERT INTO feedback (bot, rating) VALUES ('bot_1', 5), ('bot_2', 1);
-- it asks for its row's id, as drivers do, and gets that
SELECT lastval();
-- even in a hostile environment
SET search_path = pg_temp, public, pg_catalog;
CREATE TEMP TABLE event (id integer);
CREATE TEMP TABLE queue (id integer);
INSERT INTO public.feedback (bot, rating) VALUES ('bot_3', 2);
RESET search_path;
DROP TABLE event, queue;
-- what the checks say is all that it learns
INSERT INTO feedback (bot, rating) VALUES ('bot_1', NULL);
-- it sees nothing
SELECT * FROM chatwebhook.event;
SELECT * FROM chatwebhook.delivery;
SELECT * FROM chatwebhook.webhook;
SELECT * FROM chatwebhook.vault;
SELECT currval('chatwebhook.delivery_id_seq');
SELECT has_schema_privilege('chatwebhook', 'USAGE') AS usage, has_schema_privilege('chatwebhook', 'CREATE') AS create;
RESET ROLE;
SELECT e.type, e.chatbot_id, e.data, array_agg(w.name ORDER BY w.name) AS owed
  FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id JOIN chatwebhook.webhook w ON w.id = q.webhook_id
 GROUP BY e.id ORDER BY e.id;

-- even with the schema opened to it, no object is, but for the functions that
-- views and watch() call for their users
GRANT USAGE ON SCHEMA chatwebhook TO regress_chatwebhook_app;
SELECT c.relname, p.privilege
  FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p(privilege)
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p')
   AND has_table_privilege('regress_chatwebhook_app', c.oid, p.privilege);
SELECT c.relname, a.attname, p.privilege
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
       unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS p(privilege)
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p')
   AND has_column_privilege('regress_chatwebhook_app', c.oid, a.attnum, p.privilege);
SELECT c.relname, p.privilege
  FROM pg_class c, unnest('{USAGE,SELECT,UPDATE}'::text[]) AS p(privilege)
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND c.relkind = 'S'
   AND has_sequence_privilege('regress_chatwebhook_app', c.oid, p.privilege);
SELECT oid::regprocedure FROM pg_proc
 WHERE pronamespace = 'chatwebhook'::regnamespace AND has_function_privilege('regress_chatwebhook_app', oid, 'EXECUTE')
 ORDER BY oid::regprocedure::text;
SET ROLE regress_chatwebhook_app;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{}');
SELECT chatwebhook.secret(gen_random_uuid());
SELECT chatwebhook.create_webhook('mine', 'https://example.com/');
SELECT chatwebhook.rotate_secret(gen_random_uuid());
SELECT chatwebhook.test_webhook(gen_random_uuid());
SELECT chatwebhook.retry(1);
SELECT chatwebhook.cancel(1);
SELECT chatwebhook.wait_until_idle('0');
SELECT chatwebhook.watch('feedback', 'feedback.received');
SELECT * FROM chatwebhook.delivery;
SELECT * FROM chatwebhook.webhook_health;
SELECT * FROM chatwebhook.worker_status;
-- nor can it watch a table of its own
CREATE TEMP TABLE own (id integer);
CREATE TRIGGER r AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('conversation.ended', '*');
DROP TABLE own;
-- the settings that bound what is sent are not its own to move
SET chatwebhook.max_payload_size = '64MB';
SET chatwebhook.allow_http = on;
SET chatwebhook.allowed_networks = '0.0.0.0/0';
\set VERBOSITY sqlstate
SHOW chatwebhook.proxy;
\set VERBOSITY default
RESET ROLE;

-- rights that are given count for what they are
GRANT EXECUTE ON FUNCTION chatwebhook.emit(text, text, text, jsonb, timestamptz, timestamptz, text) TO regress_chatwebhook_app;
SET ROLE regress_chatwebhook_app;
SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{}') IS NOT NULL AS emitted;
SELECT * FROM chatwebhook.event;
RESET ROLE;
-- privileges alone show no rows, and let none be written
GRANT SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook TO regress_chatwebhook_app;
GRANT SELECT ON chatwebhook.event TO regress_chatwebhook_app;
SET ROLE regress_chatwebhook_app;
SELECT name FROM chatwebhook.webhook;
SELECT type FROM chatwebhook.event;
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'https://example.com/');
UPDATE chatwebhook.webhook SET enabled = false RETURNING name;
DELETE FROM chatwebhook.webhook RETURNING name;
RESET ROLE;
-- nor do privileges on a view or a function give any on what it reads
GRANT SELECT ON chatwebhook.delivery, chatwebhook.dead_letter, chatwebhook.webhook_health, chatwebhook.metrics TO regress_chatwebhook_app;
GRANT EXECUTE ON FUNCTION chatwebhook.retry, chatwebhook.cancel, chatwebhook.create_webhook, chatwebhook.rotate_secret, chatwebhook.secret,
    chatwebhook.test_webhook, chatwebhook._cancel, chatwebhook._erase TO regress_chatwebhook_app;
SELECT id AS all FROM chatwebhook.webhook WHERE name = 'all' \gset
SELECT id AS delivery, event_id AS event FROM chatwebhook.delivery LIMIT 1 \gset
SET ROLE regress_chatwebhook_app;
\set VERBOSITY sqlstate
SELECT * FROM chatwebhook.delivery;
SELECT * FROM chatwebhook.dead_letter;
SELECT * FROM chatwebhook.webhook_health;
SELECT * FROM chatwebhook.metrics;
SELECT chatwebhook.cancel(:delivery);
SELECT chatwebhook.retry(:delivery);
SELECT chatwebhook._cancel(ARRAY[:delivery]);
SELECT chatwebhook._erase(ARRAY[:'event'::uuid]);
SELECT chatwebhook.secret(:'all');
SELECT chatwebhook.rotate_secret(:'all');
SELECT chatwebhook.test_webhook(:'all');
SELECT chatwebhook.create_webhook('mine', 'https://example.com/');
\set VERBOSITY default
RESET ROLE;
SELECT count(*) AS events FROM chatwebhook.event;
REVOKE ALL ON ALL TABLES IN SCHEMA chatwebhook FROM regress_chatwebhook_app;

-- one who may write webhooks needs no right on secrets and health, nor on the checks
SELECT chatwebhook.grant_admin('regress_chatwebhook_app');
SET ROLE regress_chatwebhook_app;
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'https://example.com/');
UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'mine';
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'http://example.com/');
-- nor can it pass for a restore, which is not checked
SET check_function_bodies = off;
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'https://10.0.0.1/');
RESET check_function_bodies;
DELETE FROM chatwebhook.webhook WHERE name = 'mine';
SELECT * FROM chatwebhook.vault;
-- event types likewise
INSERT INTO chatwebhook.event_type (name) VALUES ('order.placed');
UPDATE chatwebhook.event_type SET required = '{number}' WHERE name = 'order.placed';
DELETE FROM chatwebhook.event_type WHERE name = 'order.placed';
-- the views and functions work
SELECT count(*) > 0 AS deliveries FROM chatwebhook.delivery;
SELECT count(*) AS dead FROM chatwebhook.dead_letter;
SELECT name, pending > 0 AS pending FROM chatwebhook.webhook_health ORDER BY 1;
SELECT count(*) > 0 AS workers FROM chatwebhook.worker_status WHERE pid < 0;
SELECT chatwebhook.cancel(min(id)) FROM chatwebhook.delivery;
SELECT chatwebhook.retry(min(id)) FROM chatwebhook.delivery;
SELECT chatwebhook.wait_until_idle('0');
SELECT id, secret FROM chatwebhook.create_webhook('mine', 'https://example.com/') \gset
SELECT chatwebhook.secret(:'id') = :'secret' AS same, chatwebhook.rotate_secret(:'id') <> :'secret' AS rotated;
-- no object of its own is taken for one of the extension's
CREATE TEMP TABLE webhook (id uuid, enabled boolean, name text);
CREATE TEMP TABLE vault (webhook_id uuid, name text, value text);
SET search_path = pg_temp, public;
SELECT chatwebhook.secret(:'id') IS NOT NULL AS found;
RESET search_path;
SELECT count(*) FROM pg_temp.vault;
RESET ROLE;

DROP TABLE feedback;
DROP OWNED BY regress_chatwebhook_app;
DROP ROLE regress_chatwebhook_app;
