--
-- Signatures: known ones to the byte, and what is refused.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

\set secret '''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'''
\set other '''whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'''

-- the vector that the libraries of Standard Webhooks share
SELECT chatwebhook.sign('msg_p5jXN8AQM9LWM0D4loKWxJek', to_timestamp(1614265330),
                        '{"test": 2432232314}', :secret);
-- one with letters outside ASCII
\set body '''{"type":"lead.captured","timestamp":"2026-01-02T03:04:05.678Z","data":{"name":"Zoë 😀"}}'''
SELECT chatwebhook.sign('evt_00000000000000000000000001', to_timestamp(1767323045),
                        :body, :secret);
-- parts of a second do not count
SELECT chatwebhook.sign('a', '2026-01-02 03:04:05.999999+00', '', :secret)
     = chatwebhook.sign('a', '2026-01-02 03:04:05+00', '', :secret) AS same;
-- the body alone, under the secret's own bytes; as any HMAC does it
SELECT chatwebhook.sign('{"test": 2432232314}', :secret);
SELECT chatwebhook.sign('', 'key of 16 bytes.');
SELECT chatwebhook.sign('The quick brown fox jumps over the lazy dog', 'key');

-- null gives null, and a secret that is none an error
SELECT chatwebhook.sign(NULL, :secret) IS NULL AS no_body,
       chatwebhook.sign('a', NULL, 'b', :secret) IS NULL AS no_time;
SELECT chatwebhook.sign('a', '');
SELECT chatwebhook.sign('a', 'whsec_');
SELECT chatwebhook.sign('a', 'whsec_not base64');
SELECT chatwebhook.sign('a', 'infinity', 'b', :secret);
SELECT chatwebhook.sign('a', '-infinity', 'b', :secret);

-- the signature of a body
SELECT name, chatwebhook.verify('{"a":1}', signature, :secret)
  FROM chatwebhook.sign('{"a":1}', :secret) AS good,
       LATERAL (VALUES
        (1, 'good', good),
        (2, 'upper case digits', 'sha256=' || upper(substr(good, 8))),
        (3, 'upper case scheme', 'SHA256=' || substr(good, 8)),
        (4, 'of another body', chatwebhook.sign('{"a":2}', :secret)),
        (5, 'of another secret', chatwebhook.sign('{"a":1}', :other)),
        (6, 'without the scheme', substr(good, 8)),
        (7, 'of another scheme', 'sha512=' || substr(good, 8)),
        (8, 'cut', left(good, -1)),
        (9, 'longer', good || '0'),
        (10, 'not hexadecimal', left(good, -1) || 'g'),
        (11, 'with a blank', good || ' '),
        (12, 'empty', ''),
        (13, 'null', NULL),
        (14, 'letters outside ASCII', repeat('ë', 40)),
        (15, 'long', repeat(good, 10000))) AS v(n, name, signature)
 ORDER BY n;
SELECT chatwebhook.verify(NULL, 'sha256=', :secret) AS no_body,
       chatwebhook.verify('a', chatwebhook.sign('a', :secret), NULL) AS no_secret;
-- a body that is the same only as JSON is not the same
SELECT chatwebhook.verify('{"a": 1}', chatwebhook.sign('{"a":1}', :secret), :secret);

-- the three headers of Standard Webhooks
CREATE FUNCTION signed(age interval DEFAULT '0', id text DEFAULT 'msg_1') RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT jsonb_build_object(
               'webhook-id', id,
               'webhook-timestamp', extract(epoch FROM at)::bigint::text,
               'webhook-signature', chatwebhook.sign(id, at, '{"a":1}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'))
      FROM (SELECT date_trunc('second', clock_timestamp()) - age) AS t(at)
$$;
\set old '''v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='''
SELECT name, chatwebhook.verify(headers, '{"a":1}', :secret)
  FROM signed() AS good,
       LATERAL (SELECT good->>'webhook-signature' AS v1) AS s,
       LATERAL (VALUES
        (1, 'good', good),
        (2, 'names in any case', jsonb_build_object('Webhook-Id', good->'webhook-id',
            'WEBHOOK-TIMESTAMP', good->'webhook-timestamp', 'webhook-Signature', v1)),
        (3, 'among others', good || '{"host": "example.com", "x": null, "y": [1]}'),
        (4, 'after another', good || jsonb_build_object('webhook-signature', :old || ' ' || v1)),
        (5, 'before another', good || jsonb_build_object('webhook-signature', v1 || ' ' || :old)),
        (6, 'beside another version', good || jsonb_build_object('webhook-signature', 'v1a,xyz ' || v1)),
        (7, 'three minutes old', signed('3 minutes')),
        (8, 'three minutes ahead', signed('-3 minutes')),
        (9, 'six minutes old', signed('6 minutes')),
        (10, 'six minutes ahead', signed('-6 minutes')),
        (11, 'another time than signed', good || jsonb_build_object('webhook-timestamp',
            ((good->>'webhook-timestamp')::bigint - 1)::text)),
        (12, 'another id than signed', good || '{"webhook-id": "msg_2"}'),
        (13, 'only another', good || jsonb_build_object('webhook-signature', :old)),
        (14, 'as another version', good || jsonb_build_object('webhook-signature', 'v2' || substr(v1, 3))),
        (15, 'cut', good || jsonb_build_object('webhook-signature', left(v1, -1))),
        (16, 'run together', good || jsonb_build_object('webhook-signature', v1 || v1)),
        (17, 'with commas between', good || jsonb_build_object('webhook-signature', :old || ',' || v1)),
        (18, 'empty', good || '{"webhook-signature": ""}'),
        (19, 'blanks', good || '{"webhook-signature": "   "}'),
        (20, 'long', good || jsonb_build_object('webhook-signature', repeat(:old || ' ', 20000))),
        (21, 'no id', good - 'webhook-id'),
        (22, 'no time', good - 'webhook-timestamp'),
        (23, 'no signature', good - 'webhook-signature'),
        (24, 'null', good || '{"webhook-signature": null}'),
        (25, 'a number', good || '{"webhook-signature": 1}'),
        (26, 'an array', good || jsonb_build_object('webhook-signature', jsonb_build_array(v1))),
        (27, 'time as a number', good || jsonb_build_object('webhook-timestamp',
            (good->>'webhook-timestamp')::bigint)),
        (28, 'time in words', good || '{"webhook-timestamp": "today"}'),
        (29, 'time with a sign', good || jsonb_build_object('webhook-timestamp', '+' || (good->>'webhook-timestamp'))),
        (30, 'time with a fraction', good || jsonb_build_object('webhook-timestamp', (good->>'webhook-timestamp') || '.0')),
        (31, 'time too large', good || '{"webhook-timestamp": "99999999999999999999999"}'),
        (32, 'time empty', good || '{"webhook-timestamp": ""}'),
        (33, 'no headers', '{}'),
        (34, 'not an object', '[]'),
        (35, 'a string', '"webhook-id"'),
        (36, 'json null', 'null'),
        (37, 'nothing', NULL)) AS v(n, name, headers)
 ORDER BY n;
SELECT chatwebhook.verify(signed(), '{"a": 1}', :secret) AS another_body,
       chatwebhook.verify(signed(), '{"a":1}', :other) AS another_secret,
       chatwebhook.verify(signed(), NULL, :secret) AS no_body,
       chatwebhook.verify(signed(), '{"a":1}', NULL) AS no_secret;

-- the tolerance
SELECT age, tolerance, chatwebhook.verify(signed(age), '{"a":1}', :secret, tolerance)
  FROM (VALUES (interval '6 minutes', interval '10 minutes'), ('2 days', '3 days'),
               ('2 days', '1 day'), ('40 days', '2 months'), ('10 seconds', '1 second'),
               ('-10 seconds', '1 second'), ('0', '-1 second'), ('0', NULL)) AS v(age, tolerance);

-- the order of the arguments is what JavaScript's libraries have; by name too
SELECT chatwebhook.verify(headers => signed(), body => '{"a":1}', secret => :secret,
                          tolerance => '1 minute') AS by_name;

-- a secret that is none is the caller's mistake
SELECT chatwebhook.verify('a', 'sha256=', '');
SELECT chatwebhook.verify(signed(), '{"a":1}', 'whsec_?');

-- a public key is for signatures of id, time and body, and only to verify them
SELECT chatwebhook.verify('{"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
                            "webhook-signature": "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="}',
                          body, 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=', '100 years')
  FROM (VALUES ('{"test": 2432232314}'), ('{"test": 2432232315}')) AS b (body);
SELECT chatwebhook.verify('a', chatwebhook.sign('a', :secret), 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=');
SELECT chatwebhook.sign('a', 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=');
SELECT chatwebhook.sign('msg_1', now(), 'a', 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=');

DROP FUNCTION signed;
