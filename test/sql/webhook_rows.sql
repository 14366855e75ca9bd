--
-- The table webhook: what it checks, what it fills in, and secrets.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- a name and a URL are enough
INSERT INTO chatwebhook.webhook (name, url) VALUES ('plain', 'https://example.com/hook');
SELECT name, chatbot_id, url, events, filter, enabled, headers, max_retries, backoff, backoff_multiplier,
       max_backoff, timeout, max_in_flight, disabled_at, disabled_reason,
       created_at = now() OR created_at > now() - interval '1 minute' AS created, created_at = updated_at AS as_updated
  FROM chatwebhook.webhook;
-- it has a secret and health
SELECT v.name, chatwebhook._open(v.webhook_id, v.name, v.value) ~ '^whsec_[A-Za-z0-9+/]{43}=$' AS well_formed, v.expires_at
  FROM chatwebhook.vault v JOIN chatwebhook.webhook w ON w.id = v.webhook_id;
SELECT name, url, state, total, successes, failures, success_rate, avg_latency_ms, p95_latency_ms, last_success_at,
       last_failure_at, last_error, consecutive_failures, pending, in_flight, oldest_pending_at, dead
  FROM chatwebhook.webhook_health;
-- without a key file the secret is kept as it is, after a byte that says so
SELECT value = '\x00'::bytea || convert_to(chatwebhook.secret(webhook_id), 'UTF8') AS plain FROM chatwebhook.vault;
-- as many as one likes, with secrets of their own
INSERT INTO chatwebhook.webhook (name, url) SELECT 'plain', 'https://example.com/hook' FROM generate_series(1, 99);
SELECT count(DISTINCT chatwebhook._open(webhook_id, name, value)) FROM chatwebhook.vault;
DELETE FROM chatwebhook.webhook;
SELECT (SELECT count(*) FROM chatwebhook.vault) AS secrets, (SELECT count(*) FROM chatwebhook.health) AS healths;

--
-- What is refused, and why
--
-- inserts a webhook with this value, and says what became of it
CREATE FUNCTION attempt("column" text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    created uuid;
BEGIN
    EXECUTE format('INSERT INTO chatwebhook.webhook (%s%I) VALUES (%s$1::%s) RETURNING id',
                   CASE WHEN "column" <> 'name' THEN 'name, ' ELSE '' END || CASE WHEN "column" <> 'url' THEN 'url, ' ELSE '' END,
                   "column",
                   CASE WHEN "column" <> 'name' THEN '''crm'', ' ELSE '' END || CASE WHEN "column" <> 'url' THEN '''https://example.com/'', ' ELSE '' END,
                   (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                     WHERE attrelid = 'chatwebhook.webhook'::regclass AND attname = "column"))
       INTO created USING value;
    DELETE FROM chatwebhook.webhook WHERE id = created;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
\pset format unaligned
\pset fieldsep ' => '
SELECT left(to_json(value)::text, 70) AS name, attempt('name', value)
  FROM unnest(ARRAY['Zoë''s "CRM" 😀', repeat('x', 255), repeat('ä', 256), '', '  ', E'a\nb', E'a\tb', NULL]) AS value;
SELECT left(to_json(value)::text, 70) AS url, attempt('url', value)
  FROM unnest(ARRAY[
        'https://example.com', 'https://example.com/hook?a=b&c=%20d', 'HTTPS://EXAMPLE.COM:8443/', 'https://xn--bcher-kva.example/', 'https://8.8.8.8/',
        'https://[2606:4700:4700::1111]/',
        -- none
        NULL, '', ' ', 'example.com', '/hook', 'https:', 'https://', 'https:///hook', 'https:/example.com', 'hook', '//example.com/',
        -- other schemes
        'ftp://example.com/', 'file:///etc/passwd', 'gopher://example.com/', 'javascript:alert(1)', 'unix:///tmp/socket', 'ws://example.com/',
        'http://example.com/', ' https://example.com/', 'https ://example.com/',
        -- credentials
        'https://user:password@example.com/', 'https://user@example.com/', 'https://@example.com/', 'https://example.com@10.0.0.1/',
        -- this machine and this network
        'https://localhost/', 'https://LOCALHOST./', 'https://a.localhost/', 'https://127.0.0.1/', 'https://127.1/', 'https://2130706433/', 'https://0x7f000001/',
        'https://0177.0.0.1/', 'https://0.0.0.0/', 'https://[::1]/', 'https://[::]/', 'https://[::ffff:127.0.0.1]/', 'https://[::ffff:7f00:1]/', 'https://[64:ff9b::7f00:1]/',
        'https://10.0.0.1/', 'https://172.16.0.1/', 'https://192.168.1.1/', 'https://100.64.0.1/', 'https://169.254.169.254/latest/meta-data/',
        'https://[fd00::1]/', 'https://[fe80::1]/', 'https://[fe80::1%25eth0]/', 'https://[fec0::1]/', 'https://224.0.0.1/', 'https://255.255.255.255/', 'https://192.0.2.1/',
        'https://198.18.0.1/', 'https://[2001:db8::1]/', 'https://[2002:7f00:1::]/', 'https://[ff02::1]/',
        -- characters
        E'https://example.com/\r\nX-Injected: 1', E'https://example.com/\n', E'https://example.com/\t', 'https://example.com/a b', 'https://bücher.example/',
        'https://example.com/ü', 'https://example.com/#fragment', 'https://example.com\@10.0.0.1/', 'https://exam_ple.com/', 'https://-a.example/', 'https://a..example/',
        'https://%6c%6fcalhost/', 'https://example.com%00.evil/', 'https://[::1', 'https://[example]/', 'https://1.2.3.4.5/', 'https://256.1.1.1/', 'https://1.2.3/',
        -- ports
        'https://example.com:443/', 'https://example.com:/', 'https://example.com:0/', 'https://example.com:65536/', 'https://example.com:-1/', 'https://example.com:22/',
        'https://example.com:25/', 'https://example.com:5432/', 'https://example.com:443a/', 'https://example.com: 443/',
        -- length
        'https://example.com/' || repeat('x', 4000), 'https://example.com/' || repeat('x', 5000), 'https://example.com/' || repeat('x', 1024 * 1024),
        'https://' || repeat('a', 64) || '.example/', 'https://' || repeat('a.', 130) || 'example/']) AS value;
SELECT left(value::text, 70) AS events, attempt('events', value)
  FROM unnest(ARRAY['{*}', '{lead.captured}', '{message.*,lead.*}', '{lead.captured,lead.captured}', NULL, '{}', '{{lead.captured}}', '{NULL}', '{lead.captured,NULL}',
        '{""}', '{no.such}', '{lead.captured,no.such}', '{no.*}', '{Lead.*}', '{lead}', '{lead*}', '{*.captured}', '{**}', '{lead.*.x}', '{.*}', '{lead..captured}', '{" lead.captured"}',
        E'{"lead.captured\n"}', '{l%}', '{größe}', '{' || repeat('x', 255) || '}', '{' || repeat('x', 256) || '}', '{' || repeat('x', 1024 * 1024) || '}']) AS value;
SELECT left(value::text, 70) AS headers, attempt('headers', value)
  FROM unnest(ARRAY['{}', '{"X-Team": "sales", "authorization": "Bearer a.b-c=="}', '{"Accept": "*/*", "Cookie": "a=b; c"}', NULL,
        'null', '[]', '"X-Team: sales"', '1', '{"X-Team": 1}', '{"X-Team": null}', '{"X-Team": ["a"]}', '{"X-Team": {"a": "b"}}', '{"X-Team": true}', '{"X-Team": ""}',
        '{"": "a"}', '{"X Team": "a"}', '{"X-Team:": "a"}', '{"X-Team\n": "a"}', '{"X-Team": "a\nX-Injected: 1"}', '{"X-Team": "a\r\nX-Injected: 1"}', '{"X-Team": "a\r"}',
        '{"X-Team": "a\tb"}', '{"X-Team": "größe"}', '{"größe": "a"}', '{"X-Team": " a"}', '{"X-Team": "a "}', '{"(X)": "a"}',
        '{"Content-Type": "text/plain"}', '{"content-length": "0"}', '{"Transfer-Encoding": "chunked"}', '{"Host": "a"}', '{"Connection": "close"}', '{"Expect": "100-continue"}',
        '{"User-Agent": "a"}', '{"webhook-id": "a"}', '{"Webhook-Signature": "a"}', '{"X-Webhook-Event": "a"}', '{"x-webhook-anything": "a"}', '{"Proxy-Authorization": "a"}', '{"Upgrade": "h2c"}',
        jsonb_build_object('X-Team', repeat('a', 4096))::text, jsonb_build_object('X-Team', repeat('a', 4097))::text, jsonb_build_object(repeat('a', 300), 'a')::text,
        jsonb_build_object('x' || repeat('ä', 100), 'a')::text,
        (SELECT jsonb_object_agg('X-' || n, 'a') FROM generate_series(1, 50) AS n)::text, (SELECT jsonb_object_agg('X-' || n, 'a') FROM generate_series(1, 51) AS n)::text]) AS value;
SELECT "column", value, attempt("column", value)
  FROM (VALUES (1, 'max_retries', '0'), (2, 'max_retries', '100'), (3, 'max_retries', '-1'), (4, 'max_retries', '101'), (5, 'max_retries', NULL),
        (6, 'max_in_flight', '1'), (7, 'max_in_flight', '1024'), (8, 'max_in_flight', '0'), (9, 'max_in_flight', '1025'), (10, 'max_in_flight', NULL),
        (11, 'backoff_multiplier', '1'), (12, 'backoff_multiplier', '10'), (13, 'backoff_multiplier', '0.9'), (14, 'backoff_multiplier', '-2'), (15, 'backoff_multiplier', 'NaN'),
        (16, 'backoff_multiplier', 'infinity'), (17, 'backoff_multiplier', NULL),
        (18, 'backoff', '10 ms'), (19, 'backoff', '1 day'), (20, 'backoff', '0'), (21, 'backoff', '-1 s'), (22, 'backoff', '9 ms'), (23, 'backoff', '2 days'), (24, 'backoff', NULL),
        (25, 'max_backoff', '7 days'), (26, 'max_backoff', '0'), (27, 'max_backoff', '-1 day'), (28, 'max_backoff', '8 days'), (29, 'max_backoff', '1 year'), (30, 'max_backoff', NULL),
        (31, 'timeout', '100 ms'), (32, 'timeout', '5 minutes'), (33, 'timeout', '99 ms'), (34, 'timeout', '0'), (35, 'timeout', '-1 s'), (36, 'timeout', '301 s'), (37, 'timeout', '1 month'),
        (38, 'timeout', NULL), (39, 'enabled', NULL), (40, 'chatbot_id', NULL), (41, 'chatbot_id', ''), (42, 'filter', NULL), (43, 'filter', '$.a >'), (44, 'id', NULL),
        (45, 'retry_delays', NULL), (46, 'retry_delays', '{}'), (47, 'retry_delays', '{0}'), (48, 'retry_delays', '{5 s,5 min,30 min,2 h,5 h,10 h,14 h,20 h,24 h}'),
        (49, 'retry_delays', '{7 days}'), (50, 'retry_delays', '{1 s,7 days 1 us}'), (51, 'retry_delays', '{-1 us}'), (52, 'retry_delays', '{1 s,NULL}'), (53, 'retry_delays', '{{1 s,2 s},{3 s,4 s}}'),
        (54, 'retry_delays', '{1 month}'), (55, 'retry_delays', '{soon}'), (56, 'retry_delays', '[3:4]={1 s,2 s}')) AS v(n, "column", value)
 ORDER BY n;
\pset format aligned
SELECT count(*) FROM chatwebhook.webhook;

-- each with its way out
INSERT INTO chatwebhook.webhook (name, url) VALUES ('', 'https://example.com/');
INSERT INTO chatwebhook.webhook (name, url) VALUES ('crm', 'ftp://example.com/');
INSERT INTO chatwebhook.webhook (name, url, events) VALUES ('crm', 'https://example.com/', '{}');
INSERT INTO chatwebhook.webhook (name, url, events) VALUES ('crm', 'https://example.com/', '{lead*}');
INSERT INTO chatwebhook.webhook (name, url, events) VALUES ('crm', 'https://example.com/', '{lead.lost}');
INSERT INTO chatwebhook.webhook (name, url, headers) VALUES ('crm', 'https://example.com/', '{"X-Team": 1}');
INSERT INTO chatwebhook.webhook (name, url, max_retries) VALUES ('crm', 'https://example.com/', -1);
INSERT INTO chatwebhook.webhook (name, url, retry_delays) VALUES ('crm', 'https://example.com/', '{1 s,8 days}');
INSERT INTO chatwebhook.webhook (name, url, retry_delays) SELECT 'crm', 'https://example.com/', array_agg(interval '1 s') FROM generate_series(1, 101);
-- one bad row of several: none
INSERT INTO chatwebhook.webhook (name, url) VALUES ('good', 'https://example.com/'), ('bad', 'http://example.com/');
SELECT count(*) FROM chatwebhook.webhook;

--
-- Changes
--
INSERT INTO chatwebhook.webhook (name, url, created_at, updated_at) VALUES ('crm', 'https://example.com/', '2026-01-02', '2026-01-02');
UPDATE chatwebhook.webhook SET url = 'http://example.com/';
UPDATE chatwebhook.webhook SET events = '{no.such}';
UPDATE chatwebhook.webhook SET headers = '{"Host": "a"}';
UPDATE chatwebhook.webhook SET timeout = '0';
UPDATE chatwebhook.webhook SET id = gen_random_uuid();
UPDATE chatwebhook.webhook SET id = id, name = 'sales', url = 'https://example.com/sales', events = '{lead.*}', max_retries = 0;
SELECT name, url, events, max_retries, updated_at > created_at AS updated FROM chatwebhook.webhook;
-- enabling it by hand forgets why it was disabled
SET session_replication_role = replica;
UPDATE chatwebhook.webhook SET enabled = false, disabled_at = now(), disabled_reason = 'gone';
RESET session_replication_role;
SELECT state FROM chatwebhook.webhook_health;
UPDATE chatwebhook.webhook SET name = 'still disabled';
SELECT disabled_at IS NOT NULL AS disabled_at, disabled_reason FROM chatwebhook.webhook;
UPDATE chatwebhook.webhook SET enabled = true;
SELECT disabled_at, disabled_reason FROM chatwebhook.webhook;
-- what the extension writes is not for others to write
UPDATE chatwebhook.webhook SET disabled_at = now();
UPDATE chatwebhook.webhook SET enabled = false, disabled_reason = 'gone';
UPDATE chatwebhook.webhook SET created_at = '-infinity';
UPDATE chatwebhook.webhook SET updated_at = 'infinity';
INSERT INTO chatwebhook.webhook (name, url, enabled, disabled_at, disabled_reason, created_at, updated_at)
    VALUES ('new', 'https://example.com/', false, '-infinity', 'none', '-infinity', 'infinity')
    RETURNING disabled_at, disabled_reason, created_at = now() AS created, updated_at = now() AS updated;
-- a deleted webhook's id is not to be had again, with its deliveries
SELECT id AS old_id FROM chatwebhook.webhook WHERE name = 'new' \gset
UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'new';
SELECT chatwebhook._emit_to(:'old_id', false, 'conversation.ended', NULL, NULL, '{}') IS NOT NULL AS emitted;
DELETE FROM chatwebhook.webhook WHERE name = 'new';
INSERT INTO chatwebhook.webhook (id, name, url, chatbot_id) VALUES (:'old_id', 'thief', 'https://example.com/', 'thief');
DELETE FROM chatwebhook.history WHERE webhook_id = :'old_id';
-- an alert has a message whatever a row says, and one that cannot be opened is one alone
SET session_replication_role = replica;
INSERT INTO chatwebhook.webhook (name, url, enabled, disabled_at)
SELECT 'disabled ' || n, 'https://example.com/', false, now() FROM generate_series(1, 3) AS n;
INSERT INTO chatwebhook.health (webhook_id) SELECT id FROM chatwebhook.webhook WHERE name LIKE 'disabled%';
RESET session_replication_role;
ALTER TABLE chatwebhook.alert ADD CONSTRAINT breaks CHECK (webhook_name <> 'disabled 2');
SET client_min_messages = error;
SELECT chatwebhook._check_alerts(ARRAY(SELECT id FROM chatwebhook.webhook));
RESET client_min_messages;
SELECT webhook_name, kind, message FROM chatwebhook.alert WHERE closed_at IS NULL ORDER BY webhook_name;
ALTER TABLE chatwebhook.alert DROP CONSTRAINT breaks;
SET client_min_messages = error;
DELETE FROM chatwebhook.webhook WHERE name LIKE 'disabled%';
RESET client_min_messages;
-- an event type that goes does not stand in the way of changes, disabling it above all
INSERT INTO chatwebhook.event_type (name) VALUES ('order.placed');
UPDATE chatwebhook.webhook SET events = '{order.placed,lead.*}';
DELETE FROM chatwebhook.event_type WHERE name = 'order.placed';
UPDATE chatwebhook.webhook SET enabled = false, name = 'renamed';
SELECT name, enabled, events FROM chatwebhook.webhook;
UPDATE chatwebhook.webhook SET events = '{order.placed}';
-- nor do settings that have become stricter, for all but the URL itself
DELETE FROM chatwebhook.webhook;
BEGIN;
-- as a restore does
SET LOCAL check_function_bodies = off;
INSERT INTO chatwebhook.webhook (name, url, events) VALUES ('old', 'http://10.0.0.1/', '{gone.type}');
COMMIT;
UPDATE chatwebhook.webhook SET enabled = false;
SELECT name, url, events, enabled FROM chatwebhook.webhook;
UPDATE chatwebhook.webhook SET url = url || 'x';
DELETE FROM chatwebhook.webhook;

--
-- Secrets
--
SELECT id AS good, secret FROM chatwebhook.create_webhook('crm', 'https://example.com/') \gset
SELECT :'secret' ~ '^whsec_[A-Za-z0-9+/]{43}=$' AS well_formed, chatwebhook.secret(:'good') = :'secret' AS kept;
SELECT name, url, events, chatbot_id, filter, enabled, headers, max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight
  FROM chatwebhook.webhook;
-- all arguments by name, a secret of one's own
SELECT id AS other, secret FROM chatwebhook.create_webhook(
    name => 'all', url => 'https://example.com/', events => '{lead.*}', chatbot_id => 'bot_1', filter => '$.data.a == 1', enabled => false,
    headers => '{"X-Team": "sales"}', max_retries => 1, backoff => '2 s', backoff_multiplier => 3, max_backoff => '4 s', timeout => '5 s',
    max_in_flight => 6, retry_delays => '{5 s,5 min}', secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw') \gset
SELECT :'secret' AS given, chatwebhook.secret(:'other') AS kept;
SELECT name, url, events, chatbot_id, filter, enabled, headers, max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight, retry_delays
  FROM chatwebhook.webhook WHERE id = :'other';
-- a secret that somebody has already, from another sender
SELECT secret FROM chatwebhook.create_webhook('plain', 'https://example.com/', secret => 'sixteen letters!');
-- what cannot be one
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => '');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => 'too short');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => 'whsec_c2hvcnQ=');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => 'whsec_' || translate(encode(decode(repeat('ab', 66), 'hex'), 'base64'), E'\n', ''));
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => 'a secret with ümlauts');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => E'a secret of two\nlines');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', secret => repeat('x', 257));
-- the checks are the table's
SELECT chatwebhook.create_webhook('crm', 'http://example.com/');
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', '{no.such}');
\set VERBOSITY terse
SELECT chatwebhook.create_webhook('crm', NULL);
SELECT chatwebhook.create_webhook('crm', 'https://example.com/', headers => NULL);
\set VERBOSITY default
SELECT count(*) FROM chatwebhook.webhook;

-- rotation: both for the overlap
CREATE TEMP VIEW opened AS
    SELECT webhook_id, name, chatwebhook._open(webhook_id, name, value) AS secret, expires_at FROM chatwebhook.vault;
SELECT chatwebhook.secret(:'good') AS before, chatwebhook.rotate_secret(:'good') AS after \gset
SELECT :'after' ~ '^whsec_[A-Za-z0-9+/]{43}=$' AS well_formed, :'after' <> :'before' AS other, chatwebhook.secret(:'good') = :'after' AS kept;
SELECT name, secret = :'after' AS after, secret = :'before' AS before,
       expires_at BETWEEN clock_timestamp() + '23 hours 59 minutes' AND clock_timestamp() + '24 hours' AS for_a_day
  FROM opened WHERE webhook_id = :'good' ORDER BY name;
-- again: the last one and the one before it
SELECT chatwebhook.rotate_secret(:'good', '1 hour') AS third \gset
SELECT name, secret = :'third' AS third, secret = :'after' AS second, expires_at < clock_timestamp() + '61 minutes' AS for_an_hour
  FROM opened WHERE webhook_id = :'good' ORDER BY name;
-- without an overlap: at once
SELECT chatwebhook.rotate_secret(:'good', '0') AS fourth \gset
SELECT name, secret = :'fourth' AS fourth, expires_at FROM opened WHERE webhook_id = :'good' ORDER BY name;
-- the other webhook has kept its own
SELECT chatwebhook.secret(:'other');
SELECT chatwebhook.rotate_secret('00000000-0000-0000-0000-000000000000');
SELECT chatwebhook.rotate_secret(NULL);
SELECT chatwebhook.rotate_secret(:'good', NULL);
SELECT chatwebhook.rotate_secret(:'good', '-1 second');
SELECT chatwebhook.secret('00000000-0000-0000-0000-000000000000');
SELECT chatwebhook.secret(NULL);
SELECT chatwebhook.secret(:'good') = :'fourth' AS kept;

--
-- Deleting one cancels what it is owed, and keeps what was
--
DELETE FROM chatwebhook.webhook;
INSERT INTO chatwebhook.webhook (name, url) VALUES ('goes', 'https://example.com/'), ('stays', 'https://example.com/');
SELECT count(chatwebhook.emit('conversation.ended', 'bot_1', 'conv_1', '{}')) FROM generate_series(1, 3);
DELETE FROM chatwebhook.webhook WHERE name = 'goes';
SELECT webhook_name, status, count(*), count(completed_at) AS completed, count(next_attempt_at) AS due, min(attempts) AS attempts,
       min(last_error) AS last_error, min(event_type) AS event_type, min(chatbot_id) AS chatbot_id, min(conversation_id) AS conversation_id
  FROM chatwebhook.delivery GROUP BY 1, 2 ORDER BY 1;
SELECT name, pending, dead FROM chatwebhook.webhook_health;
SELECT count(*) FROM chatwebhook.vault;
-- a test of one that is not there
SELECT * FROM chatwebhook.test_webhook('00000000-0000-0000-0000-000000000000');
SELECT * FROM chatwebhook.test_webhook(NULL);

DROP VIEW opened;
DROP FUNCTION attempt;
