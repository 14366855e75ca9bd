--
-- Connectors that are signed, or take batches: which webhooks have a signing
-- secret, and what is refused.  That requests are signed is for the TAP tests to
-- show.
--
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

CREATE FUNCTION public.own(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE AS $$ SELECT ROW(NULL, NULL, NULL, event, true)::chatwebhook.request $$;
INSERT INTO chatwebhook.connector (name, function) VALUES ('own', 'public.own');
INSERT INTO chatwebhook.connector (name, function, signed, batches) VALUES ('mine', 'public.own', true, true);
SELECT name, signed, batches FROM chatwebhook.connector ORDER BY name COLLATE "C";

-- who has a secret, and which of the two has stayed the same
CREATE TABLE first_secret (name text PRIMARY KEY, value bytea);
CREATE VIEW signing_secret AS
    SELECT w.name, w.connector, w.signing, v.name AS secret, v.value = s.value AS "as before"
      FROM chatwebhook.webhook w
      LEFT JOIN chatwebhook.vault v ON v.webhook_id = w.id
      LEFT JOIN first_secret s ON s.name = w.name
     ORDER BY w.name COLLATE "C", v.name COLLATE "C";

--
-- A secret only where it means something
--
SELECT name, secret ~ '^whsec_' AS secret
  FROM unnest('{own,mine,webhook,cloudevents,slack}'::text[]) AS connector,
       LATERAL (SELECT connector AS name, secret
                  FROM chatwebhook.create_webhook(connector, 'https://example.com/hook', connector => connector)) AS c;
SELECT secret FROM chatwebhook.create_webhook('given', 'https://example.com/hook', connector => 'mine',
    secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
INSERT INTO chatwebhook.webhook (name, url, connector) VALUES ('row', 'https://example.com/hook', 'own');
SELECT name, connector, secret FROM signing_secret;

-- the others say so
\set VERBOSITY default
SELECT chatwebhook.secret(id), chatwebhook.public_key(id) FROM chatwebhook.webhook WHERE name = 'slack';
SELECT chatwebhook.rotate_secret(id) FROM chatwebhook.webhook WHERE name = 'slack';
SELECT chatwebhook.create_webhook('given too', 'https://example.com/hook', connector => 'own',
    secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
\set VERBOSITY terse
UPDATE chatwebhook.webhook SET signing = 'v1a' WHERE name = 'own';
SELECT chatwebhook.public_key(id) FROM chatwebhook.webhook WHERE name = 'own';

--
-- Another connector
--
INSERT INTO first_secret SELECT w.name, v.value FROM chatwebhook.webhook w JOIN chatwebhook.vault v ON v.webhook_id = w.id;
-- one that is signed makes a secret, of the webhook's kind
UPDATE chatwebhook.webhook SET connector = 'mine' WHERE name IN ('own', 'row', 'webhook');
SELECT * FROM signing_secret WHERE name IN ('own', 'row', 'webhook');
SELECT name, chatwebhook.secret(id) ~ '^wh(sec|sk)_' AS secret, chatwebhook.public_key(id) ~ '^whpk_' AS public
  FROM chatwebhook.webhook WHERE name IN ('own', 'row', 'webhook') ORDER BY name;
-- and what it had is there again after one that is not
UPDATE chatwebhook.webhook SET connector = 'own' WHERE name = 'mine';
SELECT chatwebhook.secret(id) FROM chatwebhook.webhook WHERE name = 'mine';
UPDATE chatwebhook.webhook SET connector = 'mine' WHERE name = 'mine';
SELECT * FROM signing_secret WHERE name = 'mine';
-- unless it is of the other kind
UPDATE chatwebhook.webhook SET connector = 'own' WHERE name = 'mine';
UPDATE chatwebhook.webhook SET signing = 'v1a' WHERE name = 'mine';
SELECT * FROM signing_secret WHERE name = 'mine';
UPDATE chatwebhook.webhook SET connector = 'mine' WHERE name = 'mine';
SELECT * FROM signing_secret WHERE name = 'mine';

-- the connector itself changes
SELECT id AS later FROM chatwebhook.create_webhook('later', 'https://example.com/hook', connector => 'own') \gset
SELECT * FROM signing_secret WHERE name = 'later';
UPDATE chatwebhook.connector SET signed = true WHERE name = 'own';
SELECT * FROM signing_secret WHERE name = 'later';
SELECT chatwebhook.rotate_secret(:'later') ~ '^whsec_' AS rotated;
INSERT INTO first_secret SELECT 'later', value FROM chatwebhook.vault WHERE webhook_id = :'later' AND name = 'signing_secret';
UPDATE chatwebhook.connector SET signed = false WHERE name = 'own';
UPDATE chatwebhook.connector SET signed = true WHERE name = 'own';
SELECT * FROM signing_secret WHERE name = 'later' AND secret = 'signing_secret';

--
-- Batches
--
UPDATE chatwebhook.webhook SET batch_size = 10 WHERE name IN ('mine', 'cloudevents');
UPDATE chatwebhook.webhook SET batch_size = 10 WHERE name = 'later';
UPDATE chatwebhook.webhook SET connector = 'own' WHERE name = 'mine';
-- the events come singly again, and the row can still be changed
UPDATE chatwebhook.connector SET batches = false WHERE name = 'mine';
UPDATE chatwebhook.webhook SET max_retries = 3 WHERE name = 'mine';
SELECT jsonb_typeof(body) FROM chatwebhook.webhook w, chatwebhook.preview(w.id, '{"type": "lead.captured"}') WHERE w.name = 'mine';
UPDATE chatwebhook.connector SET batches = true WHERE name = 'mine';
SELECT jsonb_typeof(body) FROM chatwebhook.webhook w, chatwebhook.preview(w.id, '{"type": "lead.captured"}') WHERE w.name = 'mine';
UPDATE chatwebhook.connector SET replies = '[{"status": 200, "means": "success", "remember": {"id": "$.id"}}]' WHERE name = 'mine';
UPDATE chatwebhook.connector SET batches = true WHERE name = 'slack';

-- the built-in one stays as it is
UPDATE chatwebhook.connector SET signed = false WHERE name = 'webhook';
UPDATE chatwebhook.connector SET batches = false WHERE name = 'webhook';
UPDATE chatwebhook.connector SET description = 'ours' WHERE name = 'webhook';

--
-- A connector's Content-Type
--
CREATE FUNCTION public.typed(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE AS $$
    SELECT ROW(NULL, NULL, event->'data'->'headers', event->'data'->'body', true)::chatwebhook.request
$$;
INSERT INTO chatwebhook.connector (name, function) VALUES ('typed', 'public.typed');
SELECT FROM chatwebhook.create_webhook('typed', 'https://example.com/hook', connector => 'typed');
CREATE FUNCTION typed(headers jsonb, body jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT p.headers FROM chatwebhook.webhook w, chatwebhook.preview(w.id, jsonb_build_object('type', 'lead.captured',
        'data', jsonb_strip_nulls(jsonb_build_object('headers', typed.headers, 'body', typed.body)))) AS p WHERE w.name = 'typed');
EXCEPTION WHEN external_routine_exception THEN
    RETURN substr(SQLERRM, length('connector "typed": the connector''s request is unusable: ') + 1);
END
$$;
SELECT left(value, 60) AS value, typed(jsonb_build_object('content-TYPE', value))
  FROM unnest(ARRAY['text/plain', 'application/cloudevents+json; charset=utf-8', 'a/b ;c="d"', 'application/json;',
                    '', 'text', '/', 'text/', '/plain', 'text/plain charset', 'text/pl ain', 'text/plain, a/b',
                    E'text/plain\r\nHost: x', 'text/' || repeat('x', 251)]) AS value;
SELECT typed('{}'), typed('{"webhook-id": "1"}'), typed('{"Content-Length": "1"}'),
       typed('{"Content-Type": "text/plain"}', NULL::jsonb);
-- a webhook's headers have none
UPDATE chatwebhook.webhook SET headers = '{"Content-Type": "text/plain"}' WHERE name = 'typed';

DROP VIEW signing_secret;
DROP TABLE first_secret;
DROP FUNCTION typed(jsonb, jsonb);
