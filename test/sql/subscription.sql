--
-- Which webhooks want which event: patterns, chatbots, filters, and that a
-- change counts from the next command on.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- emits, and gives the names of the webhooks that are owed it
CREATE FUNCTION owed(type text, chatbot_id text DEFAULT NULL, data jsonb DEFAULT '{}') RETURNS text[]
    LANGUAGE plpgsql AS $$
DECLARE
    emitted constant uuid := chatwebhook.emit(type, chatbot_id, 'conv_1', data);
    names text[];
BEGIN
    SELECT array_agg(w.name ORDER BY w.name COLLATE "C") INTO names
      FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id
     WHERE q.event_id = emitted;
    IF emitted IS NULL AND names IS NULL THEN
        RETURN '{}';
    END IF;
    RETURN names;
END
$$;
SET chatwebhook.validation = off;

--
-- Patterns
--
INSERT INTO chatwebhook.event_type (name) VALUES
    ('message'), ('messages.sent'), ('message.sent.again'), ('Message.sent');
INSERT INTO chatwebhook.webhook (name, url, events) VALUES
    ('everything', 'https://example.com/', '{*}'),
    ('messages', 'https://example.com/', '{message.*}'),
    ('sent', 'https://example.com/', '{message.sent}'),
    ('sent twice', 'https://example.com/', '{message.sent,message.sent,message.*,*}'),
    ('two', 'https://example.com/', '{lead.captured,message.sent.*}'),
    ('nearly', 'https://example.com/', '{messages.*,message}');
SELECT type, owed(type)
  FROM unnest(ARRAY['message.sent', 'message.received', 'message', 'messages.sent', 'message.sent.again',
                    'Message.sent', 'lead.captured', 'lead.captured2', 'lead', 'unknown']) AS type;
DELETE FROM chatwebhook.webhook;
-- events about webhooks are for those only that ask for them
INSERT INTO chatwebhook.webhook (name, url, events) VALUES
    ('everything', 'https://example.com/', '{*}'), ('alerts', 'https://example.com/', '{webhook.alert}'),
    ('all', 'https://example.com/', '{*,webhook.*}'), ('others', 'https://example.com/', '{message.*,*}');
SELECT type, owed(type) FROM unnest(ARRAY['webhook.alert', 'webhook.test', 'webhooks.a', 'lead.captured']) AS type;
DELETE FROM chatwebhook.webhook;

--
-- Chatbots
--
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES
    ('all', 'https://example.com/', NULL),
    ('bot 1', 'https://example.com/', 'bot_1'),
    ('bot 1 again', 'https://example.com/', 'bot_1'),
    ('Bot 1', 'https://example.com/', 'Bot_1'),
    ('empty', 'https://example.com/', ''),
    ('odd', 'https://example.com/', E'%_\n''ä'),
    ('long', 'https://example.com/', repeat('b', 1024));
SELECT chatbot, owed('conversation.ended', chatbot)
  FROM unnest(ARRAY['bot_1', 'Bot_1', 'bot_2', 'bot_', '', NULL, E'%_\n''ä']) AS chatbot;
SELECT owed('conversation.ended', repeat('b', 1024)), owed('conversation.ended', repeat('b', 1023));
-- many chatbots
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events)
SELECT 'tenant ' || n, 'https://example.com/', 'tenant_' || n, '{lead.captured}' FROM generate_series(1, 1000) AS n;
SELECT owed('lead.captured', 'tenant_777'), owed('lead.captured', 'tenant_1001'), owed('conversation.ended', 'tenant_777');
-- many webhooks for one event: more rows than are inserted at a time
UPDATE chatwebhook.webhook SET chatbot_id = NULL WHERE name LIKE 'tenant %';
SELECT chatwebhook.emit('lead.captured', NULL, 'many', '{"email": "a@example.com", "source": "x", "conversationSummary": "y"}') IS NOT NULL AS emitted;
SELECT count(*), count(DISTINCT q.webhook_id) AS webhooks, bool_and(q.id BETWEEN e.first_delivery AND e.last_delivery) AS in_range
  FROM chatwebhook.queue q JOIN chatwebhook.event e ON e.id = q.event_id WHERE e.conversation_id = 'many';
DELETE FROM chatwebhook.webhook;

--
-- Filters
--
CREATE FUNCTION filtered(filter jsonpath, data jsonb DEFAULT '{"score": 0.1, "flag": true, "text": "a b", "list": [1, 2]}')
    RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM chatwebhook.webhook;
    INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('filtered', 'https://example.com/', $1);
    RETURN chatwebhook.emit('sentiment.negative', 'bot_1', 'conv_1', $2) IS NOT NULL;
END
$$;
SELECT filter, filtered(filter)
  FROM unnest(ARRAY[
        NULL, '$.data.score < 0.2', '$.data.score > 0.2',
        -- the envelope
        '$.type == "sentiment.negative"', '$.type starts with "sentiment."', '$.chatbotId == "bot_1"', '$.conversationId == "conv_2"',
        '$.timestamp like_regex "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z$"', '$.id like_regex "^[0-9a-f-]{36}$"',
        'exists ($.data.text)', '$.data.list[*] == 2', '$.data.text like_regex "^A" flag "i"',
        '$.data.score < 0.2 && $.data.flag == true', '!($.data.score < 0.2)',
        -- null: unknown
        '$.data.missing == 1', '$.data.text < 1', '($.data.text < 1) is unknown', '$.data.missing == null',
        -- errors
        'strict $.data.missing == 1', '$.data.score / 0 == 1', '$.data.text.double() == 1', '1 / $.data.score < "a"',
        '$.data.text.datetime() < "2026-01-01".datetime()',
        -- no predicate: a boolean counts, anything else does not
        '$.data.flag', '$.data.score', '$.data.text', '$.data.list', '$.data.missing', '$.data.list[*] ? (@ > 1)', '$', 'true', '1',
        '$.data.score ? (@ < 0.2)']::jsonpath[]) AS filter;
SELECT filtered('$.data.flag', '{"flag": false}'), filtered('$.data.flag', '{"flag": null}'), filtered('$.data.flag', '{"flag": "true"}');
-- those of several webhooks are apart
DELETE FROM chatwebhook.webhook;
INSERT INTO chatwebhook.webhook (name, url, filter) VALUES
    ('low', 'https://example.com/', '$.data.score < 0.3'), ('high', 'https://example.com/', '$.data.score > 0.7'),
    ('broken', 'https://example.com/', 'strict $.data.x.y == 1'), ('any', 'https://example.com/', NULL);
SELECT score, owed('sentiment.negative', NULL, jsonb_build_object('score', score)) FROM unnest('{0.1,0.5,0.9}'::numeric[]) AS score;
-- none of them lets it through: nothing is stored
DELETE FROM chatwebhook.webhook WHERE name = 'any';
DELETE FROM chatwebhook.event;
SELECT owed('sentiment.negative', NULL, '{"score": 0.5}');
SELECT count(*) FROM chatwebhook.event;
-- the row's own columns
CREATE TABLE feedback (score numeric, secret text);
CREATE TRIGGER r AFTER INSERT ON feedback FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('feedback.received', 'score');
INSERT INTO feedback VALUES (0.1), (0.5), (0.9), (NULL), ('NaN');
SELECT e.data, array_agg(w.name ORDER BY w.name) FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id
  JOIN chatwebhook.webhook w ON w.id = q.webhook_id GROUP BY e.id ORDER BY e.id;
DROP TABLE feedback;
-- no jsonpath
INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', '$.data.score <');
DELETE FROM chatwebhook.webhook;

--
-- Changes count from the next command on
--
INSERT INTO chatwebhook.webhook (name, url) VALUES ('a', 'https://example.com/');
SELECT owed('lead.captured');
UPDATE chatwebhook.webhook SET enabled = false;
SELECT owed('lead.captured');
UPDATE chatwebhook.webhook SET enabled = true, events = '{message.*}';
SELECT owed('lead.captured'), owed('message.sent');
UPDATE chatwebhook.webhook SET chatbot_id = 'bot_1', events = '{*}';
SELECT owed('lead.captured'), owed('lead.captured', 'bot_1');
UPDATE chatwebhook.webhook SET filter = '$.data.a == 1', chatbot_id = NULL;
SELECT owed('lead.captured'), owed('lead.captured', NULL, '{"a": 1}');
UPDATE chatwebhook.webhook SET name = 'renamed', filter = NULL;
SELECT owed('lead.captured');
-- within a transaction, and back
BEGIN;
INSERT INTO chatwebhook.webhook (name, url) VALUES ('b', 'https://example.com/');
SELECT owed('lead.captured');
SAVEPOINT s;
INSERT INTO chatwebhook.webhook (name, url) VALUES ('c', 'https://example.com/');
UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'b';
SELECT owed('lead.captured');
ROLLBACK TO s;
SELECT owed('lead.captured');
DELETE FROM chatwebhook.webhook;
SELECT owed('lead.captured');
ROLLBACK;
SELECT owed('lead.captured');
BEGIN;
DELETE FROM chatwebhook.webhook;
SELECT owed('lead.captured');
ROLLBACK;
SELECT owed('lead.captured');
DO $$
BEGIN
    INSERT INTO chatwebhook.webhook (name, url) VALUES ('d', 'https://example.com/');
    RAISE NOTICE '%', owed('lead.captured');
    RAISE 'undone';
EXCEPTION WHEN raise_exception THEN
    RAISE NOTICE '%', owed('lead.captured');
END
$$;
-- the event types as well
SET chatwebhook.validation = error;
BEGIN;
INSERT INTO chatwebhook.event_type (name) VALUES ('brand.new');
SELECT owed('brand.new');
ROLLBACK;
SELECT owed('brand.new');
SET chatwebhook.validation = off;
-- TRUNCATE takes the webhooks, and tells everybody
BEGIN;
SELECT owed('lead.captured');
TRUNCATE chatwebhook.webhook CASCADE;
SELECT owed('lead.captured');
ROLLBACK;
SELECT owed('lead.captured');
SET chatwebhook.validation = error;
-- an extension that goes and comes back
SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
\set VERBOSITY sqlstate
SELECT owed('conversation.ended');
\set VERBOSITY default
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
SELECT owed('conversation.ended');
INSERT INTO chatwebhook.webhook (name, url) VALUES ('anew', 'https://example.com/');
SELECT owed('conversation.ended');

DROP FUNCTION filtered, owed;
