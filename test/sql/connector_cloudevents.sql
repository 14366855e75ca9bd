--
-- The connector cloudevents: what it makes of an event, and its settings.  That
-- other libraries read that is for the TAP tests to show.
--
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

SELECT id AS hook FROM chatwebhook.create_webhook('broker', 'https://example.com/hook', connector => 'cloudevents') \gset
CREATE FUNCTION broker_made(settings jsonb, more jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    request chatwebhook.request;
BEGIN
    request := chatwebhook.cloudevents(
        '{"id": "0190a5c8-0000-7000-8000-000000000001", "type": "lead.captured", "timestamp": "2026-01-02T03:04:05.678Z",
          "chatbotId": "shop", "conversationId": "c-1", "data": {"email": "ann@example.com", "none": null}}'::jsonb || more,
        jsonb_build_object('settings', settings), '[]');
    RETURN concat_ws(E'\n', request.headers, request.body);
END
$$;

-- the modes
\pset format unaligned
\pset tuples_only on
SELECT broker_made('{}');
SELECT broker_made('{"mode": "structured", "source": "https://example.com/chat", "type_prefix": "com.example"}');
SELECT broker_made('{"mode": "binary"}');
SELECT broker_made('{"mode": "binary", "source": "urn:x:a%20b", "type_prefix": "com.example"}');

-- what is left out, and what is encoded
SELECT broker_made('{}', '{"chatbotId": null, "conversationId": null, "data": {}}');
SELECT broker_made('{}', '{"chatbotId": "", "conversationId": ""}');
SELECT broker_made('{"mode": "binary"}', '{"chatbotId": null, "conversationId": null, "data": {}}');
SELECT broker_made(mode, jsonb_build_object('chatbotId', id, 'conversationId', id, 'data', '{}'::jsonb))
  FROM unnest(ARRAY['{}', '{"mode": "binary"}']::jsonb[]) AS mode,
       unnest(ARRAY['a/b?c#d', E'a "b" %41 \\', E'Zo\u00eb \u20ac \U0001F600', E'\t\u0001\u007f~!', '%', ' ']) AS id;

-- an attribute that is longer than a header may be: 4096 bytes are not
SELECT length(conversation) AS length, left(broker_made('{"mode": "binary"}', jsonb_build_object('conversationId', conversation)), 70)
  FROM unnest(ARRAY[repeat('x', 4096), repeat('x', 4097), repeat(E'\u00eb', 682), repeat(E'\u00eb', 683)]) AS conversation;

-- a batch
SELECT request.headers, jsonb_pretty(request.body)
  FROM chatwebhook.cloudevents('[{"id": "1", "type": "lead.captured", "timestamp": "2026-01-02T03:04:05.678Z", "chatbotId": "shop", "conversationId": "c-1", "data": {"n": 1}},
                                 {"id": "2", "type": "webhook.test", "timestamp": "2026-01-02T03:04:05.679Z", "chatbotId": null, "conversationId": null, "data": {}}]',
                               '{"settings": {"source": "/s"}}', '[]') AS request;

-- as people see it
SELECT request.method, request.url, request.headers - 'webhook-id', request.body
  FROM chatwebhook.preview(:'hook', '{"id": "1", "type": "lead.captured", "timestamp": "2026-01-02T03:04:05.678Z", "chatbotId": "shop"}') AS request;
\pset tuples_only off

--
-- Settings
--
CREATE FUNCTION broker_refused(settings jsonb, batch_size integer DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chatwebhook.webhook SET settings = $1, batch_size = $2 WHERE name = 'broker';
    RETURN NULL;
EXCEPTION WHEN check_violation THEN
    RETURN SQLERRM;
END
$$;
SELECT left(settings, 80) AS settings, broker_refused(settings::jsonb)
  FROM unnest(ARRAY[
        '{}', '{"mode": null, "source": null, "type_prefix": null}', '{"mode": "structured"}', '{"mode": "binary"}',
        '{"source": "https://example.com/chat?a=b#c"}', '{"source": "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"}',
        '{"source": "mailto:a@example.com"}', '{"source": "a/b:c"}', '{"source": "//example.com"}', '{"source": "#x"}',
        '{"source": "?a:b"}', '{"source": "/a%20b"}', '{"type_prefix": "com.example-1.a_b"}',
        '{"mode": "Binary"}', '{"mode": ""}', '{"mode": 1}', '{"mode": ["binary"]}',
        '{"source": ""}', '{"source": 1}', '{"source": "a b"}', '{"source": "1a:b"}', '{"source": ":"}', '{"source": "/%4"}',
        '{"source": "/a\nb"}', '{"source": "/\u00eb"}', '{"source": "/a#b#c"}', '{"source": "/\""}',
        '{"type_prefix": ""}', '{"type_prefix": "com.example."}', '{"type_prefix": "com example"}', '{"type_prefix": {}}']) AS settings;
SELECT broker_refused(jsonb_build_object('source', repeat('/', 1000))), broker_refused(jsonb_build_object('source', repeat('/', 1001)));
SELECT broker_refused(jsonb_build_object('type_prefix', repeat('a', 255))), broker_refused(jsonb_build_object('type_prefix', repeat('a', 256)));
SELECT broker_refused('{}', 10), broker_refused('{"mode": "structured"}', 10), broker_refused('{"mode": "binary"}', 10);
UPDATE chatwebhook.webhook SET settings = '{"mode": "binary"}', batch_size = 1 WHERE name = 'broker';
UPDATE chatwebhook.webhook SET batch_size = 2 WHERE name = 'broker';
INSERT INTO chatwebhook.webhook (name, url, connector, settings) VALUES ('other', 'https://example.com/hook', 'cloudevents', '{"mode": 5}');
-- they mean nothing to another connector
INSERT INTO chatwebhook.webhook (name, url, settings) VALUES ('other', 'https://example.com/hook', '{"mode": 5}');
UPDATE chatwebhook.webhook SET connector = 'cloudevents' WHERE name = 'other';

-- an event is what it is
UPDATE chatwebhook.webhook SET auth = '{"type": "body", "name": "key", "value": "{{key}}"}' WHERE name = 'broker';

DROP FUNCTION broker_made, broker_refused;
