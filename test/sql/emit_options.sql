--
-- emit() with a time, an expiry or a key, and what debounce accepts.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
SELECT id AS hook FROM chatwebhook.create_webhook('crm', 'https://example.com/', debounce => NULL) \gset

-- times
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', deliver_at => 'infinity');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', deliver_at => '-infinity');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', deliver_at => '2999-01-01 00:00:00+00');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', expires_at => 'infinity');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', deliver_at => now() + '1 h', expires_at => now() + '1 h');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', now() + '1 h', now() + '1 min');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', deliver_at => '2001-01-01', expires_at => '2000-01-01 00:00:00+00');
-- keys
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', key => '');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', key => repeat('x', 256));
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', key => repeat('ä', 128));
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', key => repeat('x', 1000000));
-- other errors come before the key is taken
SELECT chatwebhook.emit('no.such', 'bot', 'c', '{}', key => 'k');
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '[]', key => 'k');
SELECT chatwebhook.emit('lead.captured', 'bot', 'c', '{}', key => 'k');
BEGIN READ ONLY;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}', key => 'k');
ROLLBACK;
SELECT count(*) AS events, (SELECT count(*) FROM chatwebhook.queue) AS deliveries,
       (SELECT count(*) FROM chatwebhook.event_key) AS keys FROM chatwebhook.event;

-- what is accepted
SELECT chatwebhook.emit('conversation.ended', 'bot', 'past', '{}', deliver_at => '2000-01-01 00:00:00+00') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'year', '{}', deliver_at => now() + '1 year') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'expired', '{}', expires_at => '2000-01-01 00:00:00+00') IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'both', '{}', now() + '1 h', now() + '2 h', repeat('x', 255)) IS NOT NULL AS emitted;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'none', '{}', NULL, NULL, NULL) IS NOT NULL AS emitted;
SELECT conversation_id, next_attempt_at = created_at AS at_once, deliver_at = next_attempt_at AS scheduled,
       expires_at - deliver_at AS for, debounced
  FROM chatwebhook.queue ORDER BY id;
SELECT octet_length(digest), event_id = (SELECT id FROM chatwebhook.event WHERE conversation_id = 'both') AS right
  FROM chatwebhook.event_key;
-- a chatbot that looks like part of a key, and a null and an empty one
SELECT count(DISTINCT chatwebhook.emit('conversation.ended', k.chatbot, 'c', '{}', key => k.key))
  FROM (VALUES ('a', 'b'), ('ab', 'c'), ('a', 'bc'), ('', 'a'), (NULL, 'a'), ('n', 'a'), (NULL, 'n')) AS k(chatbot, key);

-- debounce
UPDATE chatwebhook.webhook SET debounce = '-1 s';
UPDATE chatwebhook.webhook SET debounce = '61 min';
UPDATE chatwebhook.webhook SET debounce = '1 month -30 days -1 s';
UPDATE chatwebhook.webhook SET debounce = '1 h';
DELETE FROM chatwebhook.queue;
SELECT chatwebhook.emit('conversation.ended', 'bot', c.id, '{}') IS NOT NULL AS emitted
  FROM (VALUES ('c'), (NULL), (repeat('x', 2000)), (repeat('x', 2001))) AS c(id);
SELECT chatwebhook.emit('conversation.ended', 'bot', 'scheduled', '{}', deliver_at => now() + '1 min') IS NOT NULL AS emitted;
SELECT left(conversation_id, 10) AS conversation,
       CASE WHEN deliver_at IS NULL THEN next_attempt_at - created_at END AS wait,
       debounced, debounce_until - created_at AS until, deliver_at IS NOT NULL AS scheduled
  FROM chatwebhook.queue ORDER BY id;
-- a webhook whose events others debounce
SELECT id AS other FROM chatwebhook.create_webhook('other', 'https://example.com/') \gset
SELECT id AS third FROM chatwebhook.create_webhook('third', 'https://example.com/', ordered => true, debounce => '30 min') \gset
DELETE FROM chatwebhook.queue;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}') IS NOT NULL AS emitted;
SELECT w.name, q.next_attempt_at - q.created_at AS wait, q.debounced, q.ordered
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id ORDER BY w.name;
SELECT id AS whole FROM chatwebhook.create_webhook('whole', 'https://example.com/') \gset
-- of a row that came past the checks, the nearest that is allowed
SET session_replication_role = replica;
UPDATE chatwebhook.webhook SET debounce = '100 years' WHERE name = 'crm';
UPDATE chatwebhook.webhook SET debounce = '-1 day' WHERE name = 'other';
UPDATE chatwebhook.webhook SET debounce = '-1 s' WHERE name = 'third';
UPDATE chatwebhook.webhook SET debounce = '1 month -30 days 1 min' WHERE name = 'whole';
RESET session_replication_role;
DELETE FROM chatwebhook.queue;
SELECT chatwebhook.emit('conversation.ended', 'bot', 'c', '{}') IS NOT NULL AS emitted;
SELECT w.name, q.next_attempt_at - q.created_at AS wait
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id ORDER BY w.name;
