--
-- What a webhook signs with: signing, its secrets, and values that headers compute.
--
\set SHOW_CONTEXT never
\set VERBOSITY default
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

CREATE VIEW held AS
SELECT v.name, substr(chatwebhook._open(v.webhook_id, v.name, v.value), 1, 5) AS kind, v.expires_at IS NOT NULL AS expires,
       md5(chatwebhook._open(v.webhook_id, v.name, v.value)) AS value
  FROM chatwebhook.vault v;
CREATE FUNCTION attempt(changes text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE 'UPDATE chatwebhook.webhook SET ' || changes;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', SQLSTATE || ' ' || left(SQLERRM, 400), nullif(hint, ''));
END
$$;

--
-- Each kind of signing has its secrets
--
SELECT id AS v1, secret AS v1_secret FROM chatwebhook.create_webhook('v1', 'https://example.com/') \gset
SELECT id AS v1a, secret AS v1a_secret FROM chatwebhook.create_webhook('v1a', 'https://example.com/', signing => 'v1a') \gset
SELECT id AS both, secret AS both_secret FROM chatwebhook.create_webhook('both', 'https://example.com/', signing => 'v1,v1a') \gset
SELECT w.name AS webhook, v.name, substr(chatwebhook._open(v.webhook_id, v.name, v.value), 1, 5) AS kind
  FROM chatwebhook.vault v JOIN chatwebhook.webhook w ON w.id = v.webhook_id ORDER BY 1, 2;
SELECT left(:'v1_secret', 6), left(:'v1a_secret', 5), left(:'both_secret', 6);
SELECT name, left(chatwebhook.secret(id), 5) AS secret, left(chatwebhook.public_key(id), 5) AS public_key FROM chatwebhook.webhook ORDER BY 1;
-- of one's own
SELECT secret FROM chatwebhook.create_webhook('own both', 'https://example.com/', signing => 'v1,v1a', secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT secret FROM chatwebhook.create_webhook('own v1a', 'https://example.com/', signing => 'v1a', secret => 'whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=');
SELECT name, chatwebhook.secret(id), CASE name WHEN 'own v1a' THEN chatwebhook.public_key(id) ELSE left(chatwebhook.public_key(id), 5) END AS public_key
  FROM chatwebhook.webhook WHERE name LIKE 'own%' ORDER BY 1;
SELECT chatwebhook.create_webhook('own', 'https://example.com/', signing => 'v1,v1a', secret => 'whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=');
SELECT chatwebhook.create_webhook('own', 'https://example.com/', secret => 'whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=');
SELECT chatwebhook.create_webhook('own', 'https://example.com/', signing => 'v1a', secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT chatwebhook.create_webhook('own', 'https://example.com/', signing => 'v1,v1a', secret => 'short');
\pset format unaligned
\pset tuples_only on
SELECT signing, attempt(format('signing = %L', signing)) FROM unnest('{"",v2,"v1a,v1","v1, v1a","v1,v1a,v1",V1}'::text[]) AS signing;
SELECT attempt('signing = NULL');
\pset format aligned
\pset tuples_only off
-- no credential has such a name
SELECT chatwebhook.set_credential(:'both', 'signing_key', 'x');
SELECT chatwebhook.set_credential(:'both', 'previous_signing_key', 'x');
DELETE FROM chatwebhook.webhook WHERE id <> :'both';

--
-- A rotation rotates both; the overlap ends for both at once
--
CREATE TABLE before AS SELECT * FROM held;
SELECT left(chatwebhook.rotate_secret(:'both', '1 hour'), 5) AS returned;
SELECT h.name, h.kind, h.expires, b.name AS was FROM held h LEFT JOIN before b USING (value) ORDER BY 1;
SELECT count(DISTINCT expires_at) FROM chatwebhook.vault;
SELECT chatwebhook.rotate_secret(:'both', '0') IS NOT NULL;
SELECT name, kind, expires FROM held ORDER BY 1;

--
-- A change keeps what goes on signing, also while secrets overlap
--
CREATE FUNCTION change(signing text) RETURNS TABLE (name text, kind text, expires boolean, kept boolean) LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM before;
    INSERT INTO before SELECT * FROM held;
    UPDATE chatwebhook.webhook SET signing = change.signing;
    RETURN QUERY SELECT h.name, h.kind, h.expires, b.name IS NOT NULL FROM held h LEFT JOIN before b USING (name, value) ORDER BY 1;
END
$$;
SELECT chatwebhook.rotate_secret(:'both') IS NOT NULL;
SELECT * FROM change('v1');
SELECT * FROM change('v1,v1a');
SELECT chatwebhook.rotate_secret(:'both') IS NOT NULL;
SELECT * FROM change('v1a');
SELECT * FROM change('v1');
SELECT * FROM change('v1a');
-- another change makes no new one
SELECT kept FROM change('v1a');

--
-- Values that headers compute
--
\pset format unaligned
\pset tuples_only on
UPDATE chatwebhook.webhook SET signing = 'v1';
SELECT value, attempt(format('headers = %L', jsonb_build_object('X-A', value)))
  FROM unnest(ARRAY['{{$hmac_sha256}}', 'sha256={{$hmac_sha256}}', 't={{$timestamp}},v1={{$hmac_sha256_timestamped}}',
                    '{{$hmac_sha256_base64}}{{$id}}{{$type}} {{$attempt}} {{token}} {{$delivery}}', '{{token}}', '{{{{$id}}}}',
                    '{{$foo}}', '{{$}}', '{{$ID}}', '{{$id }}', '{{$id}', '{{$id', '{{$', 'a {{$id}} {{$hmac_sha1}} b', '{{$hmac_sha256_base64}',
                    '{{$' || repeat('x', 1000) || '}}', '{{$größe}}']) AS value;
SELECT n, attempt(format('headers = %L', jsonb_build_object('X-A', repeat('{{$id}}', n), 'X-B', '{{$type}}'))) FROM unnest('{19,20,500}'::int[]) AS n;
SELECT attempt($$headers = '{"{{$id}}": "a"}'$$);
-- in nothing else
SELECT attempt($$url = 'https://example.com/{{$id}}'$$);
SELECT attempt($$url = 'https://example.com/?a={{$hmac_sha256}}'$$);
SELECT attempt($$url = '{{$id}}'$$);
SELECT attempt(format('auth = %L', auth))
  FROM unnest(ARRAY['{"type": "header", "name": "X-A", "value": "{{a}}{{$hmac_sha256}}"}', '{"type": "bearer", "token": "{{$id}}"}',
                    '{"type": "oauth2", "token_url": "https://example.com/{{$id}}", "client_id": "a"}']) AS auth;
-- an HMAC needs a secret, whichever comes first
SELECT attempt($$headers = '{"X-A": "{{$id}} {{$hmac_sha256}}"}'$$);
SELECT signing, attempt(format('signing = %L', signing)) FROM unnest('{v1a,"v1,v1a",v1a}'::text[]) AS signing;
SELECT attempt($$headers = '{"X-A": "{{$id}}"}'$$), attempt($$signing = 'v1a'$$);
SELECT attempt($$headers = '{"X-A": "{{$hmac_sha256_base64}}"}'$$);
SELECT attempt($$connector = 'slack', headers = '{"X-A": "{{$hmac_sha256}}"}'$$);

--
-- settings.headers
--
SELECT settings, attempt(format('settings = %L', settings))
  FROM unnest(ARRAY['{"headers": "standard"}', '{"headers": "all"}', '{"headers": ""}', '{"headers": null}', '{"headers": ["standard"]}',
                    '{"headers": {"X-Team": "sales"}}', '{"headers": true}', jsonb_build_object('headers', repeat('x', 1000))::text]) AS settings;
-- to another connector, it is nothing
SELECT attempt($$connector = 'slack', settings = '{"headers": "all"}'$$);
SELECT attempt($$connector = 'webhook'$$);
SELECT attempt($$connector = 'webhook', settings = '{"headers": "standard"}'$$);

--
-- What preview() shows
--
\pset format aligned
\pset tuples_only off
CREATE FUNCTION shown() RETURNS TABLE (name text, value text) LANGUAGE sql AS $$
    SELECT h.key, h.value FROM chatwebhook.webhook w,
           chatwebhook.preview(w.id, '{"id": "00000000-0000-0000-0000-000000000001", "type": "lead.captured"}') AS p, jsonb_each_text(p.headers) AS h
     ORDER BY h.key COLLATE "C"
$$;
SELECT * FROM shown();
UPDATE chatwebhook.webhook SET settings = '{}', signing = 'v1,v1a', headers = '{"X-Hub-Signature-256": "sha256={{$hmac_sha256}}"}';
SELECT * FROM shown();

DROP FUNCTION attempt, change, shown;
DROP VIEW held;
DROP TABLE before;
