--
-- Rules for replies, as they are checked when a connector is stored; and what
-- follows from a connector's being ordered.  That replies are judged by them is
-- for the TAP tests to show.
--
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

CREATE FUNCTION public.desk(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN event->>'type' = 'webhook.test'
                THEN ROW('POST', NULL, NULL, webhook - 'id', true)::chatwebhook.request END
$$;
INSERT INTO chatwebhook.connector (name, function) VALUES ('desk', 'public.desk');

CREATE FUNCTION refused(replies jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chatwebhook.connector SET replies = $1 WHERE name = 'desk';
    RETURN NULL;
EXCEPTION WHEN check_violation THEN
    RETURN substr(SQLERRM, length('invalid rules for replies of connector "desk": ') + 1);
END
$$;

--
-- Rules that can be stored
--
SELECT left(rule, 120) AS rule, refused(jsonb_build_array(rule::jsonb))
  FROM unnest(ARRAY[
        '{"status": 409, "means": "success"}',
        '{"status": [200, 201], "path": "$.ok == true", "means": "success"}',
        '{"status": 200, "path": "exists($.results[0].id) && $.errors.size() == 0", "means": "success", "step": 2}',
        '{"status": 200, "path": "$.error like_regex \"^(channel_not_found|is_archived)$\"", "means": "disable"}',
        '{"status": 200, "path": "strict $.sent == $.wanted", "means": "retry", "wait": "retry_after"}',
        '{"status": 200, "contains": "ok", "path": "$.ok == true", "means": "success", "remember": {"ts": "$.ts"}}',
        '{"status": 200, "remember": {"ticket_id": "$.ticket.id", "all": "$", "_1": "$.**.id"}}']) AS rule;

--
-- Rules that are refused: what is wrong with them
--
SELECT left(rule, 120) AS rule, refused(jsonb_build_array(rule::jsonb))
  FROM unnest(ARRAY[
        '{"status": 200}', '{"status": 200, "path": "$.ok == true"}', '{"status": 200, "means": null, "remember": {"ts": "$.ts"}}',
        '{"status": 200, "means": "success", "paths": "$"}', '{"status": 200, "means": "success", "path": 1}',
        '{"status": 200, "means": "success", "path": ""}', '{"status": 200, "means": "success", "path": "$.ok =="}',
        '{"status": 200, "means": "success", "path": "$x == 1"}', '{"status": 200, "means": "success", "path": "$.keyvalue().key == \"a\""}',
        '{"status": 200, "means": "success", "path": "$.a[*] == $.b[*]"}', '{"status": 200, "means": "success", "path": "$.**.** == 1"}',
        '{"status": 200, "means": "success", "path": "$.a like_regex \"(a+)+b\""}',
        '{"status": 200, "remember": null}', '{"status": 200, "remember": []}', '{"status": 200, "remember": {}}', '{"status": 200, "remember": "$.ts"}',
        '{"status": 200, "remember": {"ts": 1}}', '{"status": 200, "remember": {"ts": "$."}}', '{"status": 200, "remember": {"a b": "$.ts"}}',
        '{"status": 200, "remember": {"ts": "$.**.**"}}',
        '{"status": 200, "means": "dead", "remember": {"ts": "$.ts"}}', '{"means": "success", "remember": {"ts": "$.ts"}}']) AS rule;
SELECT refused(jsonb_build_array(jsonb_build_object('status', 200, 'remember',
           (SELECT jsonb_object_agg('n' || n, '$.a') FROM generate_series(1, 21) n)))) AS "too many";
SELECT refused(jsonb_build_array(jsonb_build_object('status', 200, 'remember', jsonb_build_object(repeat('n', 64), '$.a')))) AS "too long";
SELECT refused(jsonb_build_array(jsonb_build_object('status', 200, 'means', 'success',
           'path', repeat('$.a == 1 || ', 60) || '$.a == 1'))) ~ 'it has (more than 100 operators|\d+ bytes, more than 4096)' AS "too large";
SELECT refused('[{"status": 409, "means": "success"}, {"status": 200, "means": "success", "path": "$["}]') ~ '^path of rule 2 is "\$\["' AS "which one";
-- with the way out
\set VERBOSITY default
UPDATE chatwebhook.connector SET replies = '[{"status": 200, "means": "success", "path": "$.a ="}]' WHERE name = 'desk';
\set VERBOSITY terse

--
-- A connector that remembers is ordered, and so are its webhooks, at once and later
--
UPDATE chatwebhook.connector SET replies = '[]' WHERE name = 'desk';
UPDATE chatwebhook.connector SET ordered = false WHERE name = 'desk';
SELECT id AS hook FROM chatwebhook.create_webhook('desk', 'https://example.com/', chatbot_id => 'shop', connector => 'desk') \gset
SELECT id AS other FROM chatwebhook.create_webhook('other', 'https://example.com/') \gset
SELECT chatwebhook.emit('webhook.test', 'shop', 'c1', '{}') IS NOT NULL AS emitted;
UPDATE chatwebhook.webhook SET events = '{*,webhook.test}';
SELECT chatwebhook.emit('webhook.test', 'shop', conversation, '{}') IS NOT NULL AS emitted
  FROM (VALUES ('c1'), (NULL), (repeat('c', 2001))) AS v (conversation);
SELECT w.name, w.ordered, left(q.conversation_id, 5) AS conversation, q.ordered AS waits
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id ORDER BY 1, q.id;
UPDATE chatwebhook.connector SET replies = '[{"status": 200, "remember": {"ts": "$.ts"}}]' WHERE name = 'desk';
SELECT name, ordered FROM chatwebhook.connector WHERE name = 'desk';
SELECT w.name, w.ordered, c.ordered AS copy, left(q.conversation_id, 5) AS conversation, q.ordered AS waits
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id JOIN chatwebhook._webhook c ON c.id = w.id ORDER BY 1, q.id;
-- sessions that emit know it
SELECT chatwebhook.emit('webhook.test', 'shop', 'c2', '{}') IS NOT NULL AS emitted;
SELECT w.name, q.ordered FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id WHERE q.conversation_id = 'c2' ORDER BY 1;
UPDATE chatwebhook.connector SET ordered = false WHERE name = 'desk' RETURNING ordered;
UPDATE chatwebhook.webhook SET ordered = false RETURNING name, ordered;
SELECT id AS new FROM chatwebhook.create_webhook('new', 'https://example.com/', connector => 'desk') \gset
SELECT name, ordered FROM chatwebhook.webhook WHERE id = :'new';
UPDATE chatwebhook.webhook SET connector = 'desk' WHERE name = 'other' RETURNING name, ordered;
-- without rules that remember, that can be taken back
UPDATE chatwebhook.connector SET replies = '[]', ordered = false WHERE name = 'desk' RETURNING ordered;
UPDATE chatwebhook.webhook SET ordered = false WHERE name = 'other' RETURNING name, ordered;
UPDATE chatwebhook.connector SET replies = '[{"status": 200, "remember": {"ts": "$.ts"}}]' WHERE name = 'desk';

--
-- Memory: what preview() shows of it, and when it goes
--
CREATE FUNCTION teach(hook uuid, chatbot text, conversation text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO chatwebhook.memory (webhook_id, chatbot_id, conversation_id, remembered)
    VALUES (hook, chatbot, conversation, jsonb_build_object('ts', concat(chatbot, '/', conversation)))
$$;
SELECT teach(:'hook', chatbot, 'c1') FROM (VALUES ('shop'), ('bank'), (NULL)) AS v (chatbot);
SELECT teach(:'hook', NULL, 'c1');
SELECT chatbot, body->'memory' AS memory
  FROM (VALUES ('shop'), ('bank'), (NULL), ('none')) AS v (chatbot),
       LATERAL chatwebhook.preview(:'hook', jsonb_build_object('type', 'webhook.test', 'chatbotId', chatbot, 'conversationId', 'c1'));
SELECT body->'memory' AS "no conversation" FROM chatwebhook.preview(:'hook', '{"type": "webhook.test", "chatbotId": "shop"}');
SELECT body AS "others do not remember" FROM chatwebhook.webhook w, chatwebhook.preview(w.id, '{"type": "webhook.test"}') WHERE name = 'new';
-- an event that means nothing to the service
SELECT chatwebhook.preview(:'hook', '{"type": "lead.captured"}') IS NULL AS nothing;
SELECT chatwebhook.preview(:'hook', '{"type": "lead.captured"}', '[{"status": 200, "body": {}}]') IS NULL AS nothing;

CREATE VIEW memories AS
    SELECT coalesce(w.name, 'deleted') AS webhook, m.chatbot_id, m.conversation_id
      FROM chatwebhook.memory m LEFT JOIN chatwebhook.webhook w ON w.id = m.webhook_id ORDER BY 1, 2, 3;
SELECT teach(:'other', 'shop', 'c1'), teach(:'other', 'shop', 'c2'), teach(:'other', NULL, 'c1'), teach(:'other', 'shop', 'c0');
SELECT chatwebhook.erase_conversation('shop', 'c1', dry_run => true);
SELECT count(*) FROM memories;
SELECT chatwebhook.erase_conversation('shop', 'c1');
SELECT * FROM memories;
-- although there is no event of it
SELECT chatwebhook.erase_conversation('shop', 'c0');
SELECT chatwebhook.erase_conversation(NULL, 'c1');
SELECT * FROM memories;
-- another account
UPDATE chatwebhook.webhook SET settings = '{"a": 1}' WHERE id = :'hook';
SELECT count(*) FROM memories WHERE webhook = 'desk';
UPDATE chatwebhook.webhook SET url = 'https://example.com/other' WHERE id = :'hook';
SELECT count(*) FROM memories WHERE webhook = 'desk';
SELECT teach(:'hook', 'shop', 'c1');
UPDATE chatwebhook.webhook SET chatbot_id = 'bank' WHERE id = :'hook';
SELECT count(*) FROM memories WHERE webhook = 'desk';
SELECT teach(:'hook', 'shop', 'c1');
UPDATE chatwebhook.webhook SET connector = 'webhook' WHERE id = :'hook';
SELECT count(*) FROM memories WHERE webhook = 'desk';
SELECT * FROM memories;
DELETE FROM chatwebhook.webhook WHERE id = :'other';
SELECT * FROM memories;

--
-- An app sees the memories of its own chatbot's webhooks, and forgets only these
--
CREATE ROLE regress_chatwebhook_app;
SELECT chatwebhook.grant_app('regress_chatwebhook_app');
UPDATE chatwebhook.webhook SET chatbot_id = 'shop' WHERE id = :'hook';
SELECT id AS every FROM chatwebhook.create_webhook('every', 'https://example.com/', connector => 'desk') \gset
SELECT teach(:'hook', 'shop', 'c1'), teach(:'hook', 'bank', 'c1'), teach(:'every', 'shop', 'c1');
SET ROLE regress_chatwebhook_app;
SELECT conversation_id FROM chatwebhook.memory;
SET chatwebhook.chatbot = 'shop';
SELECT m.chatbot_id, m.conversation_id, m.remembered, m.webhook_id = :'hook' AS own FROM chatwebhook.memory m;
DELETE FROM chatwebhook.memory;
BEGIN;
LOCK TABLE chatwebhook.memory IN SHARE MODE;
ROLLBACK;
SELECT FROM chatwebhook.memory FOR UPDATE;
\set VERBOSITY sqlstate
SELECT chatwebhook._forget(:'every', 'shop', 'c1');
\set VERBOSITY terse
SELECT chatwebhook._do_forget(:'every', 'shop', 'c1');
SELECT chatwebhook.erase_conversation('shop', 'c1');
RESET chatwebhook.chatbot;
RESET ROLE;
SELECT * FROM memories;
SELECT chatwebhook.revoke_access('regress_chatwebhook_app');
DROP ROLE regress_chatwebhook_app;
DROP VIEW memories;
DROP FUNCTION teach, refused;
SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
DROP FUNCTION IF EXISTS public.desk;
