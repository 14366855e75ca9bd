--
-- Which filters a webhook can have: those whose cost is at most proportional to
-- the event's size.  Others are refused, and match nothing if they come past that.
--
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
SET chatwebhook.validation = off;

CREATE FUNCTION refused(filter text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', $1::jsonpath);
    RETURN NULL;
EXCEPTION WHEN check_violation THEN
    RETURN substr(SQLERRM, length('invalid filter of webhook "f": ') + 1);
END
$$;

--
-- What people write
--
SELECT left(filter, 100) AS filter, refused(filter)
  FROM unnest(ARRAY[
        '$.data.score < 0.2', '$.data.content like_regex "refund"', '$.data.content like_regex "^re(f|turn).*[[:digit:]{]+" flag "i"',
        '$.data.content like_regex "a{1,255}\\1(b*)*" flag "q"', '$.data.content like_regex "\\mt\\w+\\$\\{x"', '$.id like_regex "^[0-9a-f-]{36}$"', '$.data.day like_regex "^\\d{4}-\\d{1,2}"',
        '$.data.content like_regex "(?:a|b)[]{(a*)*]\\d\\("',
        'exists($.data.email) && !($.type starts with "message.")', '($.data.a == 1) is unknown',
        'strict $.data.total > $.data.limit', 'strict $.data.items[*].price > $.data.limit',
        '$.data.items[*] ? (@.price * 1.2 > 10 && @.tags[*] == "new")', 'strict $.data.items[*] ? (@.price > $.data.limit) == 1',
        '$.data.** == "x"', 'exists($.data.**{2 to last} ? (@.a == 1))', '$.data.list[last - 1] == 1', '$.data.list[0 to 5] == 1',
        '$.data.a + $.data.b > 3', '-$.data.a > 2 * 3', '$.data.list.size() > 3 && $.data.a.type() == "string"',
        '$.data.x.double().abs() > 1 || $.data.x.floor() == 1 || $.data.x.ceiling() == 2',
        '$.timestamp.datetime() > "2026-01-01".datetime("YYYY-MM-DD")',
        repeat('$.type == "a" || ', 18) || 'null == null']) AS filter;

--
-- What takes longer than an event is long
--
SELECT left(filter, 70) AS filter, refused(filter)
  FROM unnest(ARRAY[
        -- each item with each other one
        '$.data.a == $.data.b', '$.data.a[*] < $.data.b[*]', 'strict $.data.a[*] == $.data.b[*]', '-$.data.a == $.data.b',
        'strict $.data.a[0 to 5] == $.data.b.*', 'strict $.data.** == $.data.a[*]', '$.data.a ? (@.b == @.c) == 1',
        -- everything again for each item
        '$.data.a[*] ? (@ == 1 && exists($.data.b))', 'strict $.data.a[*] ? (exists($.data.b[*]))', '$.** ? (exists($.**))',
        'exists($.** ? (exists(@.**)))', '$.**.**', '$.data.a[*] ? (@ ? (@ > $.data.b) > 3)',
        repeat('exists($.** ? (', 12) || '@ == 1' || repeat('))', 12),
        -- twice as many items with each step
        '$.data.a[0,0]', '$.data.a[0,0][0,0][0,0][0,0]', '$.data.a[$.data.b]', '$' || repeat('[*]', 9), '$' || repeat('.*', 9),
        -- digits
        '$.data.a * $.data.b > 1', 'strict $.data.a[*] ? (@ / @ > 1)', '$.data.a % ($.data.b + 1) == 1',
        '(1/3) * (1/7) == 1', '($.data.a/3) * $.data.b == 1', '(1e65000/3) * (1e65000/7) == 1', '$.data.a > 1e65000', '$.data.a * -1e-200 < 1',
        '$.data.a like_regex "' || repeat('.?', 17) || '"', '$.data.a like_regex "' || repeat('a*', 10) || repeat('b{1}', 7) || '"',
        -- regular expressions
        '$.data.a like_regex "(a+)+b"', '$.data.a like_regex "(a|b)*"', '$.data.a like_regex "(a)\\1"', '$.data.a like_regex "a{1,255}"', '$.data.a like_regex "a{64}b{65}"',
        '$.data.a like_regex "(?=a)b"', '$.data.a like_regex "(?<!a)b"', '$.data.a like_regex "(?i)b"', '$.data.a like_regex "***:(?i)b"',
        '$.data.a like_regex "\\u0061"', '$.data.a like_regex "' || repeat('ab', 150) || '" flag "q"',
        repeat('$.a like_regex "b" || ', 8) || '$.a like_regex "b"',
        -- size, and a stack that is too deep at the chat's INSERT
        '$' || repeat('[0]', 4000) || ' == 1', '$' || repeat('[0]', 60) || ' == 1', repeat('!(', 100) || '$.a == 1' || repeat(')', 100),
        repeat('$.a == 1 || ', 25) || '$.a == 1', '$.a == "' || repeat('x', 5000) || '"', repeat('1 + ', 100) || '1 == $.a',
        -- errors that @@ does not suppress
        '$x == 1', '$.data.keyvalue().key == "a"']) AS filter;
SELECT refused(string_agg('$.a == "' || repeat(md5(n::text), 100000) || '"', ' || ')) FROM generate_series(1, 3) AS n;
INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('f', 'https://example.com/', '$.**.** == 1');
DELETE FROM chatwebhook.webhook;

--
-- Past the triggers, they match nothing, and nobody waits for them
--
SET session_replication_role = replica;
INSERT INTO chatwebhook.webhook (name, url, filter) VALUES
    ('nested', 'https://example.com/', (repeat('exists($.** ? (', 12) || '@ == 1' || repeat('))', 12))::jsonpath),
    ('long', 'https://example.com/', ('$' || repeat('[0]', 4000) || ' == 1')::jsonpath),
    ('huge', 'https://example.com/', ('$.a != "' || repeat('x', 20000000) || '"')::jsonpath),
    ('regex', 'https://example.com/', '$.data.text like_regex "^((a+)*)*\\1\\1b$" || true == true');
INSERT INTO chatwebhook.webhook (name, url, filter) VALUES ('fine', 'https://example.com/', '$.data.a == 1');
INSERT INTO chatwebhook.health (webhook_id) SELECT id FROM chatwebhook.webhook;
RESET session_replication_role;
SELECT chatwebhook.emit('message.sent', 'bot', 'c',
                        jsonb_build_object('a', 1, 'text', repeat('a', 5000), 'deep', (repeat('[', 100) || repeat(']', 100))::jsonb)) IS NOT NULL AS emitted;
SELECT w.name FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
SELECT name, state, problem FROM chatwebhook.webhook_health WHERE name <> 'fine' ORDER BY name COLLATE "C";
-- they can be mended, and changed otherwise
UPDATE chatwebhook.webhook SET max_retries = 1;
UPDATE chatwebhook.webhook SET filter = '$.data.a == 1' WHERE name = 'long';
SELECT name, problem FROM chatwebhook.webhook_health WHERE name = 'long';
-- the cache does not hold the one of 20 MB
SELECT sum(total_bytes) < 1000000 AS small FROM pg_backend_memory_contexts WHERE name LIKE 'chatwebhook%';
DELETE FROM chatwebhook.webhook;

--
-- The time of all filters of an event is limited; other statements' is not
--
INSERT INTO chatwebhook.webhook (name, url, filter)
SELECT 'heavy ' || n, 'https://example.com/', (repeat('$.data.a[*] ? (@ like_regex "a....................b") == 2 || ', 8) || '1 == 1')::jsonpath
  FROM generate_series(1, 100) AS n;
CREATE TABLE payload AS SELECT jsonb_build_object('a', jsonb_agg(CASE WHEN n % 3 = 0 THEN 'aabab' ELSE 'babba' END)) AS data
  FROM generate_series(1, 100000) AS n;
\set VERBOSITY default
SET client_min_messages = error;
SELECT chatwebhook.emit('message.sent', 'bot', 'c', data) IS NULL OR (SELECT count(*) FROM chatwebhook.queue) < 100 AS limited FROM payload;
SELECT count(*) < 100 AS limited FROM chatwebhook.queue;
-- and nothing of it is left: neither a cancellation nor a timer
SELECT count(*) FROM generate_series(1, 100000);
SELECT chatwebhook.emit('message.sent', 'bot', 'c', '{"a": 1}') IS NOT NULL AS emitted;
SELECT count(*) FROM chatwebhook.queue GROUP BY event_id ORDER BY count(*) DESC LIMIT 1;
DROP EXTENSION chatwebhook;
DROP TABLE payload;
DROP FUNCTION refused;
