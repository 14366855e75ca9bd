--
-- watch() and unwatch(): triggers written for people.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
-- so that errors are shown
SET chatwebhook.on_emit_error = error;

INSERT INTO chatwebhook.webhook (name, url, events) VALUES ('all', 'https://example.com/', '{*,webhook.*}');
\set events 'WITH gone AS (DELETE FROM chatwebhook.event RETURNING *), owed AS (DELETE FROM chatwebhook.queue) SELECT type, chatbot_id, conversation_id, data FROM gone ORDER BY id;'

CREATE TYPE stage AS ENUM ('open', 'closed');
CREATE TABLE lead (
    id integer PRIMARY KEY, bot text, conversation text, visitor_email text, summary text, stage stage DEFAULT 'open',
    "Odd ""name'" integer, "a=b" integer);

-- a table, a type, and which column is what
SELECT chatwebhook.watch('lead', 'lead.captured',
    '{"chatbotId": "bot", "conversationId": "conversation", "email": "visitor_email", "source": "@widget", "conversationSummary": "summary"}');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'lead'::regclass AND NOT tgisinternal;
INSERT INTO lead VALUES (1, 'bot_1', 'conv_1', 'zoe@example.com', 'wants to buy');
:events
-- once is enough
SELECT chatwebhook.watch('lead', 'lead.captured', '{"email": "visitor_email", "source": "@widget", "conversationSummary": "summary"}');
-- with a condition, for other operations, with the whole row
SELECT chatwebhook.watch('lead', 'conversation.ended', '{"chatbotId": "bot"}', 'OLD.summary IS DISTINCT FROM NEW.summary', 'update');
SELECT chatwebhook.watch('lead', 'conversation.ended', operation => 'DELETE');
UPDATE lead SET summary = 'has bought';
UPDATE lead SET bot = bot;
DELETE FROM lead;
:events
-- no mapping at all
SELECT chatwebhook.watch('lead', 'webhook.alert', NULL, 'false');
-- names that need quotes
SELECT chatwebhook.watch('lead', 'webhook.test', '{"it''s \"odd\"": "Odd \"name''", "back\\slash": "@back\\slash", "equals": "a=b", "constant": "@a=b"}');
INSERT INTO lead VALUES (2, 'bot_1', 'conv_1', 'zoe@example.com', 'wants more', 'open', 7, 8);
:events
SELECT tgname FROM pg_trigger WHERE tgrelid = 'lead'::regclass AND NOT tgisinternal ORDER BY 1;

-- and away with them
SELECT chatwebhook.unwatch('lead', 'lead.captured');
SELECT chatwebhook.unwatch('lead', 'lead.captured');
SELECT chatwebhook.unwatch('lead', 'conversation.ended');
SELECT chatwebhook.unwatch('lead', 'conversation.ended', 'Update');
SELECT chatwebhook.unwatch('lead', 'conversation.ended', 'delete');
SELECT chatwebhook.unwatch('lead', 'webhook.alert'), chatwebhook.unwatch('lead', 'webhook.test');
SELECT chatwebhook.unwatch('lead', 'no.such'), chatwebhook.unwatch('lead', NULL), chatwebhook.unwatch(NULL, 'lead.captured');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'lead'::regclass AND NOT tgisinternal;

-- what a condition says is looked up as the caller would
SELECT chatwebhook.watch('lead', 'conversation.ended', '{"id": "id"}', 'NEW.stage = ''closed''::stage AND OLD.stage <> NEW.stage', 'UPDATE');
UPDATE lead SET stage = 'closed';
:events
DROP TABLE lead;

-- a table in another schema, with a name that needs quotes
CREATE SCHEMA "chat 2";
CREATE TABLE "chat 2"."Message; DROP" (role text, content text);
SELECT chatwebhook.watch('"chat 2"."Message; DROP"', 'message.received', '{"role": "role", "content": "content"}');
INSERT INTO "chat 2"."Message; DROP" VALUES ('user', 'Hello');
:events
SELECT chatwebhook.unwatch('"chat 2"."Message; DROP"', 'message.received');
DROP TABLE "chat 2"."Message; DROP";
DROP SCHEMA "chat 2";

-- partitions
CREATE TABLE parts (id integer, rating integer) PARTITION BY LIST (id);
CREATE TABLE part PARTITION OF parts DEFAULT;
SELECT chatwebhook.watch('parts', 'feedback.received', '{"rating": "rating"}');
INSERT INTO parts VALUES (1, 5);
:events
SELECT chatwebhook.unwatch('parts', 'feedback.received');
INSERT INTO parts VALUES (2, 5);
:events
DROP TABLE parts;

--
-- What is refused
--
CREATE TABLE feedback (id integer, rating integer, gone integer);
ALTER TABLE feedback DROP COLUMN gone;
SELECT chatwebhook.watch(NULL, 'feedback.received');
SELECT chatwebhook.watch('feedback', NULL);
SELECT chatwebhook.watch('feedback', 'feedback.received', operation => NULL);
SELECT chatwebhook.watch('feedback', 'feedback.received', operation => 'TRUNCATE');
SELECT chatwebhook.watch('feedback', 'feedback.received', operation => 'INSERT OR');
SELECT chatwebhook.watch('feedback', 'feedback.received', operation => 'INSERT OF rating');
SELECT chatwebhook.watch('feedback', 'feedback.received', operation => 'UPDATE OF rating; DROP TABLE feedback');
SELECT chatwebhook.watch('no_such', 'feedback.received');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "no_such"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "gone"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "ctid"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": ""}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "additional_attributes->>''rating''"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "=NEW.no_such"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "=NEW.rating"}', operation => 'INSERT OR DELETE');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "rating"}', query => 'SELECT NEW.rating');
SELECT chatwebhook.watch('feedback', 'feedback.received', query => 'SELECT NEW.rating AS stars');
SELECT chatwebhook.watch('feedback', 'feedback.received', query => 'SELECT NEW.rating) q; DELETE FROM feedback; SELECT to_jsonb(q) FROM (SELECT NEW.rating');
SELECT chatwebhook.watch('feedback', 'feedback.received', query => 'DELETE FROM feedback RETURNING rating');
SELECT chatwebhook.watch('chatwebhook.event', 'conversation.ended');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"": "rating"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"a=b": "rating"}');
SELECT chatwebhook.watch('feedback', 'feedback.received', '["rating"]');
SELECT chatwebhook.watch('feedback', 'feedback.received', '"rating"');
\set VERBOSITY sqlstate
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "rating"}', 'NEW.no_such = 1');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "rating"}', 'OLD.rating = 1');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "rating"}', 'NEW.rating');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"rating": "rating"}', 'NEW.rating <');
\set VERBOSITY default
-- names that are too long for a trigger's
INSERT INTO chatwebhook.event_type (name) VALUES (repeat('x', 44)), (repeat('x', 45));
SELECT chatwebhook.watch('feedback', repeat('x', 44)) = 'chatwebhook_' || repeat('x', 44) || '_insert' AS right;
SELECT chatwebhook.unwatch('feedback', repeat('x', 44));
SELECT chatwebhook.watch('feedback', repeat('x', 45), '{}');
SELECT chatwebhook.unwatch('feedback', repeat('x', 45));
DO $$
BEGIN
    PERFORM chatwebhook.watch('feedback', repeat('x', 1024 * 1024));
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE NOTICE 'refused in % characters', CASE WHEN length(SQLERRM) < 500 THEN 'few' ELSE length(SQLERRM)::text END;
END
$$;
-- what would be an error in every statement on the table is one here
\set VERBOSITY sqlstate
SELECT chatwebhook.watch('feedback', 'no.such');
SELECT chatwebhook.watch('feedback', 'feedback.received', '{"stars": "rating"}');
\set VERBOSITY default
-- other than tables
CREATE VIEW seen AS SELECT * FROM feedback;
SELECT chatwebhook.watch('seen', 'conversation.ended');
CREATE SEQUENCE numbers;
\set VERBOSITY sqlstate
SELECT chatwebhook.watch('numbers', 'conversation.ended');
\set VERBOSITY default
SELECT chatwebhook.watch('pg_catalog.pg_class', 'conversation.ended');
DROP SEQUENCE numbers;
DROP VIEW seen;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'feedback'::regclass;
DROP TABLE feedback;

--
-- Whose rights: the caller's
--
CREATE ROLE regress_chatwebhook_owner;
CREATE ROLE regress_chatwebhook_other;
GRANT USAGE ON SCHEMA chatwebhook TO regress_chatwebhook_owner, regress_chatwebhook_other;
GRANT EXECUTE ON FUNCTION chatwebhook.watch, chatwebhook.unwatch, chatwebhook.emit()
    TO regress_chatwebhook_owner, regress_chatwebhook_other;
CREATE TABLE owned (id integer);
ALTER TABLE owned OWNER TO regress_chatwebhook_owner;
GRANT SELECT, INSERT ON owned TO regress_chatwebhook_other;
SET ROLE regress_chatwebhook_other;
SELECT chatwebhook.watch('owned', 'conversation.ended');
SET ROLE regress_chatwebhook_owner;
SELECT chatwebhook.watch('owned', 'conversation.ended');
SET ROLE regress_chatwebhook_other;
SELECT chatwebhook.unwatch('owned', 'conversation.ended');
INSERT INTO owned VALUES (1);
SET ROLE regress_chatwebhook_owner;
SELECT chatwebhook.unwatch('owned', 'conversation.ended');
RESET ROLE;
:events
DROP TABLE owned;
DROP TYPE stage;
DROP OWNED BY regress_chatwebhook_owner, regress_chatwebhook_other;
DROP ROLE regress_chatwebhook_owner, regress_chatwebhook_other;
