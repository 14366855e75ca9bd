--
-- What a webhook's row and its credentials may hold, and what customers' may.
--
\set SHOW_CONTEXT never
\set VERBOSITY default
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- stores this, and says what became of it
CREATE FUNCTION attempt("column" text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE format('INSERT INTO chatwebhook.webhook (name, url, %I) VALUES (''crm'', ''https://example.com/'', $1::%s)', "column",
                   (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                     WHERE attrelid = 'chatwebhook.webhook'::regclass AND attname = "column")) USING value;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', left(SQLERRM, 200), hint);
END
$$;
\pset format unaligned
\pset tuples_only on

-- settings: as much as 64 kB of JSON, and as jsonb
SELECT attempt('settings', jsonb_build_object('a', repeat('x', n))::text) FROM unnest(ARRAY[65000, 66000, 20000000]) AS n;
SELECT attempt('settings', '{"a": 1e131071}');
SELECT attempt('settings', jsonb_build_object('a', (SELECT jsonb_agg(n) FROM generate_series(1, 10000) AS n))::text);
SELECT attempt('settings', repeat('{"a":', n) || '1' || repeat('}', n)) FROM unnest(ARRAY[32, 33, 3000]) AS n;
-- auth: the same
SELECT attempt('auth', jsonb_build_object('type', 'bearer', 'token', '{{t}}' || repeat('x', n))::text) FROM unnest(ARRAY[1000, 2000, 66000]) AS n;
SELECT attempt('auth', repeat('[', n) || repeat(']', n)) FROM unnest(ARRAY[33]) AS n;
-- headers: all together
SELECT attempt('headers', (SELECT jsonb_object_agg('X-' || i, repeat('x', 4000)) FROM generate_series(1, n) AS i)::text) FROM unnest(ARRAY[16, 17]) AS n;
-- the rest
SELECT attempt('events', (SELECT array_agg('lead.captured'::text) FROM generate_series(1, n))::text) FROM unnest(ARRAY[100, 101]) AS n;
SELECT attempt('chatbot_id', repeat('x', n)) FROM unnest(ARRAY[1024, 1025]) AS n;
UPDATE chatwebhook.webhook SET url = '{{' || repeat('x', 20000) || '}}';
UPDATE chatwebhook.webhook SET settings = jsonb_build_object('a', repeat('x', 66000));
-- what is for TLS is in no request
UPDATE chatwebhook.webhook SET url = '{{client_key}}';
SELECT attempt('headers', '{"X-Key": "a {{client_key}}"}');
SELECT attempt('auth', '{"type": "bearer", "token": "{{client_certificate}}"}');
DELETE FROM chatwebhook.webhook;

--
-- Credentials
--
\set certificate '-----BEGIN CERTIFICATE-----\nMIIBeDCCAR+gAwIBAgIUM0F5TdEgZU9FlFjjqjyRIbYvn9AwCgYIKoZIzj0EAwIw\nETEPMA0GA1UEAwwGY2xpZW50MCAXDTI2MTEyOTIzNTMxMloYDzIxMjYxMTA1MjM1\nMzEyWjARMQ8wDQYDVQQDDAZjbGllbnQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\nAAQenF1LELqqvr0WozJGPKSodrCOBqBwZk/a0SGnP1qhNRQYKhvULTQ7Y9tb72ja\nBf5zuKxVV+P3ifLBn9z9F6oMo1MwUTAdBgNVHQ4EFgQU+q93UEw0R4umvWbR3Htz\nzh5oywMwHwYDVR0jBBgwFoAU+q93UEw0R4umvWbR3Htzzh5oywMwDwYDVR0TAQH/\nBAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAG9V/W/04m4z3eyoCtE75VEac0xrhO\nPBR3SPFz6ps3ywIgSBReOL+mrI4RPBRLY1H+8ZndJmbOKiHvennzNrHNj0A=\n-----END CERTIFICATE-----'
\set key '-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgkPSm3wCoMP/OK9ia\nu1wOdv2JVXjrrMzf3zMN7mmhrLOhRANCAAQenF1LELqqvr0WozJGPKSodrCOBqBw\nZk/a0SGnP1qhNRQYKhvULTQ7Y9tb72jaBf5zuKxVV+P3ifLBn9z9F6oM\n-----END PRIVATE KEY-----'
\set encrypted '-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhw7oR/hY5UtwICCAAw\nDAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEOI437rlQePz8Ghe5DBXXZsEgZDI\nKADcY5iEtE4tE41+bevSgbG4vEkoicUdhhxngNSNftU8VSgFWir97lthSLDGSdl8\nUnE9pdfQEEdsSAODiBvBVmcr/r3VhazBimXxjzod+2dRRD+k4N96w1GhUZbw7UtZ\nH6Z4y6eLNYLqVv+0xl3GTF7VSJ1wSt7gMC6MOD86gh2FeSWIfTn0f/paeaDNWi8=\n-----END ENCRYPTED PRIVATE KEY-----'
SELECT id AS hook FROM chatwebhook.create_webhook('crm', 'https://example.com/') \gset
CREATE FUNCTION attempt(hook uuid, name text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM chatwebhook.set_credential(hook, name, value);
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', SQLERRM, hint);
END
$$;
SELECT attempt(:'hook', 'token', repeat('x', n)) FROM unnest(ARRAY[8192, 8193, 20000000]) AS n;
SELECT to_json(left(value, 20)), attempt(:'hook', 'token', value)
  FROM unnest(ARRAY['', ' ', 'a b', ' a', 'a ', E'a\nb', E'a\r\nX-Injected: 1', E'a\tb', 'größe', E'a\x7f']) AS value;
SELECT attempt(:'hook', 'client_certificate', value)
  FROM unnest(ARRAY[:'certificate', E'about it:\n' || :'certificate' || E'\n' || :'key', repeat(:'certificate' || E'\n', 10), repeat(:'certificate' || E'\n', 11),
                    '', ' ', 'x', :'key', left(:'certificate', 300), replace(:'certificate', 'MIIB', 'MIIC'), :'certificate' || E'\n' || left(:'certificate', 300),
                    :'certificate' || repeat(E'\n', 40000), E'-----BEGIN CERTIFICATE-----\r\nX-Injected: 1\r\n-----END CERTIFICATE-----']) AS value;
SELECT attempt(:'hook', 'client_key', value)
  FROM unnest(ARRAY[:'key', :'certificate' || E'\n' || :'key', '', 'x', E'a\r\nX-Injected: 1', :'certificate', :'encrypted', left(:'key', 100), repeat('x', 40000)]) AS value;
-- their number, whatever their order, without those that sign
SELECT chatwebhook.rotate_secret(:'hook') IS NOT NULL;
SELECT string_agg(DISTINCT attempt(:'hook', 'c' || n, 'x'), E'\n') FROM generate_series(1, 47) AS n;
SELECT attempt(:'hook', 'c48', 'x');
SELECT attempt(:'hook', 'c47', 'y');
SELECT attempt(:'hook', 'c47', NULL), attempt(:'hook', 'c48', 'x');
-- and their sum
SELECT count(*), attempt(:'hook', 'c' || n, NULL) FROM generate_series(1, 48) AS n GROUP BY 2;
SELECT n, attempt(:'hook', 'c' || n, repeat('x', 8192)) FROM generate_series(1, 12) AS n ORDER BY n;
DELETE FROM chatwebhook.webhook;

--
-- Webhooks of a chatbot have bounds of the administrator's; the defaults
--
SELECT name, setting, unit, context FROM pg_settings WHERE name LIKE 'chatwebhook.max\_customer%' ORDER BY 1;
\pset tuples_only off
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, max_retries) VALUES ('crm', 'https://example.com/', 'bot', 21);
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, max_in_flight) VALUES ('crm', 'https://example.com/', 'bot', 65);
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, timeout) VALUES ('crm', 'https://example.com/', 'bot', '30.1 s');
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, max_retries, max_in_flight, timeout) VALUES ('crm', 'https://example.com/', 'bot', 20, 64, '30 s');
UPDATE chatwebhook.webhook SET max_retries = 21;
UPDATE chatwebhook.webhook SET retry_delays = array_fill(interval '1 s', ARRAY[21]);
UPDATE chatwebhook.webhook SET retry_delays = array_fill(interval '1 s', ARRAY[20]);
-- not those of every chatbot, unless they become one's
INSERT INTO chatwebhook.webhook (name, url, max_retries, max_in_flight, timeout) VALUES ('all', 'https://example.com/', 100, 1024, '5 min');
UPDATE chatwebhook.webhook SET chatbot_id = 'bot' WHERE name = 'all';
UPDATE chatwebhook.webhook SET max_retries = 20, max_in_flight = 64, timeout = '30 s', chatbot_id = 'bot' WHERE name = 'all';
-- what has more, from before a setting was lowered, can be changed otherwise
SET session_replication_role = replica;
UPDATE chatwebhook.webhook SET timeout = '1 min' WHERE name = 'all';
RESET session_replication_role;
UPDATE chatwebhook.webhook SET name = 'as before' WHERE name = 'all';
UPDATE chatwebhook.webhook SET timeout = '59 s' WHERE name = 'as before';
UPDATE chatwebhook.webhook SET timeout = '10 s' WHERE name = 'as before';
-- how many
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) SELECT 'crm', 'https://example.com/', 'bot' FROM generate_series(3, 100);
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('crm', 'https://example.com/', 'bot');
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('another', 'https://example.com/', 'bot 2'), ('every', 'https://example.com/', NULL);
UPDATE chatwebhook.webhook SET chatbot_id = 'bot' WHERE name = 'another';
UPDATE chatwebhook.webhook SET name = 'same' WHERE chatbot_id = 'bot';
-- a restore brings what it brings
BEGIN;
SET LOCAL check_function_bodies = off;
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, timeout) VALUES ('restored', 'https://example.com/', 'bot', '1 min');
COMMIT;
DELETE FROM chatwebhook.webhook;

--
-- A connector whose function was replaced by one in another language
--
CREATE FUNCTION public.turns(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE
    AS $$ SELECT ROW('POST', NULL, NULL, event->'data', true)::chatwebhook.request $$;
INSERT INTO chatwebhook.connector (name, function) VALUES ('turns', 'public.turns');
SELECT id AS hook FROM chatwebhook.create_webhook('crm', 'https://example.com/', connector => 'turns') \gset
SELECT body FROM chatwebhook.preview(:'hook', '{"type": "lead.captured", "data": {"a": 1}}');
CREATE OR REPLACE FUNCTION public.turns(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE internal STABLE
    AS 'jsonb_concat';
SELECT body FROM chatwebhook.preview(:'hook', '{"type": "lead.captured", "data": {"a": 1}}');

--
-- What is null, and webhooks without a connector
--
SELECT chatwebhook._preview(NULL, '{}', '[]');
SELECT chatwebhook._preview(:'hook', NULL, '[]');
SELECT chatwebhook._preview(:'hook', '{}', NULL);
SELECT id AS hook FROM chatwebhook.create_webhook('plain', 'https://example.com/') \gset
SELECT chatwebhook._preview(:'hook', '{}', '[]');

-- rows that came past the checks do no harm to those who emit
SET session_replication_role = replica;
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events) VALUES
    ('empty', 'https://example.com/', 'bot', '{""}'), ('none', 'https://example.com/', 'bot', '{}'), ('null', 'https://example.com/', 'bot', '{NULL}'),
    ('nested', 'https://example.com/', 'bot', '{{*}}');
INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events) SELECT 'many', 'https://example.com/', 'bot', array_agg('*'::text) FROM generate_series(1, 10000);
RESET session_replication_role;
SELECT count(chatwebhook.emit('conversation.ended', 'bot', NULL, '{}'));
SELECT webhook_name, count(*) FROM chatwebhook.delivery GROUP BY 1 ORDER BY 1;

SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
DROP FUNCTION public.attempt(text, text), public.attempt(uuid, text, text);
