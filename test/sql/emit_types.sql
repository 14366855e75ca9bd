--
-- A column of any type arrives as to_jsonb() shows it with the default settings.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
-- so that errors are shown; watch_faults.sql has the default
SET chatwebhook.on_emit_error = error;

INSERT INTO chatwebhook.webhook (name, url) VALUES ('all', 'https://example.com/');
INSERT INTO chatwebhook.event_type (name) VALUES ('row.inserted'), ('rows.inserted'),
    ('row.updated'), ('rows.updated'), ('row.deleted'), ('rows.deleted'), ('pair.inserted');

CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE DOMAIN score AS numeric(4, 2) CHECK (VALUE >= 0);
CREATE DOMAIN address AS text;
CREATE DOMAIN moods AS mood[];
CREATE TYPE place AS (city text, zip integer, at point);
CREATE TYPE visit AS (place place, moods mood[]);
-- a type that says by itself what its JSON is
CREATE TYPE tag AS ENUM ('urgent', 'spam');
CREATE FUNCTION tag_json(tag) RETURNS json LANGUAGE sql IMMUTABLE
    AS $$ SELECT json_build_object('tag', $1::text) $$;
CREATE CAST (tag AS json) WITH FUNCTION tag_json(tag);

CREATE TABLE kinds (
    id integer PRIMARY KEY,
    a_text text, a_varchar varchar(20), a_char char(8), a_name name, a_byte "char",
    an_int2 smallint, an_int4 integer, an_int8 bigint, a_numeric numeric, a_decimal numeric(10, 2),
    a_float4 real, a_float8 double precision, a_bool boolean, a_uuid uuid, a_money money, an_oid oid,
    a_json json, a_jsonb jsonb,
    texts text[], integers integer[], numerics numeric[], uuids uuid[], jsonbs jsonb[], times timestamptz[], places place[],
    a_timestamptz timestamptz, a_timestamp timestamp, a_date date, a_time time, a_timetz timetz, an_interval interval,
    a_bytea bytea, a_mood mood, a_score score, an_address address, the_moods moods, a_place place, a_visit visit, a_tag tag,
    a_range int4range, a_tstzrange tstzrange,
    an_inet inet, a_cidr cidr, a_macaddr macaddr, a_bit bit(5), a_varbit varbit,
    a_point point, a_box box, a_path path, an_xml text, a_tsvector tsvector, a_tsquery tsquery, a_regclass regclass, a_jsonpath jsonpath, an_lsn pg_lsn,
    "Mixed Case" text, "with=equals" text, "with""quote" text, "ключ" text,
    generated text GENERATED ALWAYS AS ('<' || a_text || '>') STORED,
    doubled integer GENERATED ALWAYS AS (an_int4 / 2) STORED
);

-- the same row, by row and by statement; and each column as key alone
CREATE TRIGGER a AFTER INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('row.inserted', '*');
CREATE TRIGGER b AFTER INSERT ON kinds REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit('rows.inserted', '*');
CREATE TRIGGER c AFTER UPDATE ON kinds FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('row.updated', '*');
CREATE TRIGGER d AFTER UPDATE ON kinds REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit('rows.updated', '*');
CREATE TRIGGER e AFTER DELETE ON kinds FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('row.deleted', '*');
CREATE TRIGGER f AFTER DELETE ON kinds REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit('rows.deleted', '*');
DO $$
BEGIN
    EXECUTE (SELECT format('CREATE TRIGGER g AFTER INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit(%L, %s)',
                           'pair.inserted', string_agg(quote_literal(attname || '=' || attname), ', '))
               FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attnum > 0 AND attname !~ '=');
END
$$;

-- nulls
INSERT INTO kinds (id) VALUES (1);
-- ordinary values
INSERT INTO kinds VALUES (2,
    'Zoë said "hi"', 'varchar', 'padded', 'name', 'x', 2, 4, 8, 12.50, 12.5, 1.5, 2.5, true,
    '6f9619ff-8b86-4d01-b42d-00cf4fc964ff', 12.34::numeric, 1259,
    '{"b": 1, "a": [1.0, null], "b": 2}', '{"b": 1, "a": [1.0, null], "b": 2}',
    '{a,"b c",NULL}', '{1,NULL,3}', '{1.0,2.50}', '{6f9619ff-8b86-4d01-b42d-00cf4fc964ff}',
    ARRAY['{"a": 1}', '[]', 'null']::jsonb[], '{2026-01-02 03:04:05+00}', ARRAY[ROW('Ulm', 89073, '(1,2)')::place, NULL],
    '2026-01-02 03:04:05.678901+00', '2026-01-02 03:04:05.678901', '2026-01-02', '03:04:05.6', '03:04:05+02', '1 year 2 days 03:04:05.6',
    '\x00ff', 'ok', 9.75, 'an address', '{sad,ok}', ROW('Ulm', 89073, '(1,2)'), ROW(ROW('Ulm', NULL, NULL), '{sad}'), 'urgent',
    '[1,5)', '[2026-01-01,2026-02-01)',
    '192.0.2.1/24', '192.0.2.0/24', '08:00:2b:01:02:03', B'10101', B'101',
    '(1,2)', '((0,0),(1,1))', '[(0,0),(1,1)]', '<a/>', 'a fat cat', 'fat & cat', 'pg_class', '$.a[*] ? (@ > 1)', '16/B374D848',
    'mixed', 'equals', 'quote', 'значение');
-- the ends of what there is
INSERT INTO kinds VALUES (3,
    '', '', '', '', '', -32768, -2147483648, -9223372036854775808, 'NaN', 'NaN', 'infinity', '-infinity', false,
    '00000000-0000-0000-0000-000000000000', -92233720368547758.08, 0,
    'null', 'null',
    '{}', '{}', '{NaN,0}', '{}', '{}', '{infinity,-infinity}', '{}',
    'infinity', '-infinity', 'infinity', '00:00', '00:00+00', '-178000000 years',
    '', 'sad', 0, '', '{}', ROW(NULL, NULL, NULL), ROW(NULL, NULL), 'spam',
    'empty', '(,)',
    '::1', '::/0', '00:00:00:00:00:00', B'00000', B'',
    '(NaN,Infinity)', '((0,0),(0,0))', '[(0,0)]', '', '', NULL, 0, '$', '0/0',
    '', '', '', '');
INSERT INTO kinds VALUES (4,
    E'tab\tline\nreturn\rback\\slash\b\f\x01\x7f\xe2\x80\xa8\xc3\xa9\xf0\x9f\x98\x80', '"', '''', '{', '{', 32767, 2147483647, 9223372036854775807,
    123456789012345678901234567890.123456789, 99999999.99, 'NaN', 'NaN', false,
    'ffffffff-ffff-ffff-ffff-ffffffffffff', 92233720368547758.07, 4294967295,
    '"scalar"', '"scalar"',
    '{{a,b},{c,d}}', '[0:1]={7,8}', '{1e-20,1e20}', '{}', ARRAY[['1', '"2"'], ['true', 'null']]::jsonb[], '{}', '{}',
    '294276-12-31 23:59:59.999999+00', '4713-11-24 BC', '4713-11-24 BC', '24:00', '23:59:59.999999-15:59', '-1 mon +1 day -00:00:00.000001',
    decode(repeat('00', 300), 'hex'), 'it''s "fine"', 99.99, E'\n', '{NULL}', NULL, NULL, 'spam',
    '(,5)', '[infinity,]',
    '2001:db8::1/64', '10.0.0.0/8', 'ff:ff:ff:ff:ff:ff', B'11111', B'1111111111',
    '(1e308,5e-324)', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    E'\t', '=', '"', 'ё');
INSERT INTO kinds (id, a_float4, a_float8, a_numeric, a_json, a_jsonb) VALUES
    (5, '-infinity', 5e-324, '-0.00', '12.300', '12.300'),
    (6, '-0', '-0', '1e-300', '[[], {}]', '[[], {}]'),
    (7, 0.1, 0.1, 0.00000000000000000000000001, 'true', 'true'),
    (8, 16777216, 1e21, 1e100, '{"2": 1, "10": 2, "": {"a": [{}]}}', '{"2": 1, "10": 2, "": {"a": [{}]}}');
-- values that are stored out of line, compressed and not
ALTER TABLE kinds ALTER an_xml SET STORAGE EXTERNAL;
INSERT INTO kinds (id, a_text, a_jsonb, a_bytea, an_xml, texts, a_json) VALUES
    (9, repeat('long ', 20000), jsonb_build_object('x', repeat('long ', 20000)), decode(repeat('0123456789abcdef', 5000), 'hex'),
     repeat('plain ', 10000), array_fill('element'::text, '{5000}'), json_build_array(repeat('j', 50000)));
INSERT INTO kinds (id, a_text, a_jsonb)
    SELECT 10, string_agg(md5(i::text), ''), jsonb_agg(md5(i::text)) FROM generate_series(1, 5000) AS i;

CREATE TEMP TABLE differences AS
    WITH expected AS (SELECT k.id, chatwebhook._to_jsonb(k) AS row FROM kinds k)
    SELECT e.type, x.id, key, x.row->key AS expected, e.data->key AS got
      FROM chatwebhook.event e
      JOIN expected x ON x.id = (e.data->>'id')::integer,
           LATERAL (SELECT jsonb_object_keys(x.row) UNION SELECT jsonb_object_keys(e.data)) AS keys(key)
     WHERE (x.row->key)::text IS DISTINCT FROM (e.data->key)::text
       AND NOT (e.type = 'pair.inserted' AND key ~ '=');
-- none
SELECT type, id, key, left(expected::text, 60) AS expected, left(got::text, 60) AS got FROM differences ORDER BY 1, 2, 3;
-- and all were there, with all columns
SELECT type, count(*), min(n), max(n)
  FROM chatwebhook.event, LATERAL (SELECT count(*) AS n FROM jsonb_object_keys(data)) AS keys
 GROUP BY 1 ORDER BY 1;
-- one to look at
SELECT jsonb_pretty(data - 'a_money') FROM chatwebhook.event
 WHERE type = 'row.inserted' AND data->>'id' = '2';

-- a value that is out of line and was not written by this statement
DELETE FROM chatwebhook.event;
UPDATE kinds SET an_int4 = coalesce(an_int4 / 2, 7);
SELECT type, count(*), count(*) FILTER (WHERE e.data = chatwebhook._to_jsonb(k)) AS same
  FROM chatwebhook.event e JOIN kinds k ON k.id = (e.data->>'id')::integer
 GROUP BY 1 ORDER BY 1;
CREATE TEMP TABLE gone AS SELECT id, chatwebhook._to_jsonb(kinds) AS row FROM kinds;
DELETE FROM chatwebhook.event;
DELETE FROM kinds;
SELECT type, count(*), count(*) FILTER (WHERE e.data = g.row) AS same
  FROM chatwebhook.event e JOIN gone g ON g.id = (e.data->>'id')::integer
 GROUP BY 1 ORDER BY 1;
DROP TABLE gone;

-- what the session's settings change in to_jsonb, they do not change here
DELETE FROM chatwebhook.event;
BEGIN;
SET LOCAL timezone = 'Asia/Tokyo';
SET LOCAL bytea_output = 'escape';
SET LOCAL intervalstyle = 'iso_8601';
SET LOCAL datestyle = 'German';
SET LOCAL extra_float_digits = 0;
INSERT INTO kinds (id, a_timestamptz, a_date, an_interval, a_bytea, a_float8)
VALUES (11, '2026-01-02 03:04:05+00', '2026-01-02', '1 day 2 hours', '\x0041', 0.1::float8 + 0.2::float8);
SELECT type, e.data - 'with=equals' = chatwebhook._to_jsonb(k) - 'with=equals' AS same, e.data->>'a_timestamptz' AS a_timestamptz
  FROM chatwebhook.event e JOIN kinds k ON k.id = (e.data->>'id')::integer ORDER BY 1;
COMMIT;
DROP TABLE kinds;

-- types of other extensions, where they are at hand
SELECT count(*) = 2 AS at_hand FROM pg_available_extensions WHERE name IN ('citext', 'hstore') \gset
\if :at_hand
SET client_min_messages = error;
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
RESET client_min_messages;
\else
CREATE DOMAIN citext AS text;
CREATE DOMAIN hstore AS text;
\endif
DELETE FROM chatwebhook.event;
CREATE TABLE others (id integer, email citext, attributes hstore, emails citext[]);
CREATE TRIGGER a AFTER INSERT ON others FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('row.inserted', 'chatbotId=email', 'id', 'email', 'attributes', 'emails');
INSERT INTO others VALUES (1, 'Zoe@Example.com', 'a=>1, b=>NULL', '{A,b}'), (2, NULL, NULL, NULL), (3, '', '', '{}');
SELECT e.chatbot_id, e.data = chatwebhook._to_jsonb(o) AS same, e.data->>'email' AS email
  FROM chatwebhook.event e JOIN others o ON o.id = (e.data->>'id')::integer ORDER BY o.id;
DROP TABLE others;
\if :at_hand
DROP EXTENSION citext, hstore;
\else
DROP DOMAIN citext, hstore;
\endif

-- the envelope has text: any type's, as it is put out
DELETE FROM chatwebhook.event;
CREATE TABLE ids (id integer, chatbot uuid, conversation bigint);
CREATE TRIGGER a AFTER INSERT ON ids FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('row.inserted', 'chatbotId=chatbot', 'conversationId=conversation', '*');
INSERT INTO ids VALUES (1, '6f9619ff-8b86-4d01-b42d-00cf4fc964ff', 9223372036854775807), (2, NULL, NULL);
SELECT chatbot_id, conversation_id, data FROM chatwebhook.event ORDER BY id;
ALTER TABLE ids ALTER chatbot TYPE mood USING 'ok', ALTER conversation TYPE score USING 1.5;
INSERT INTO ids VALUES (3, 'it''s "fine"', 2);
SELECT chatbot_id, conversation_id, data FROM chatwebhook.event ORDER BY id DESC LIMIT 1;
ALTER TABLE ids ALTER chatbot TYPE visit USING NULL, ALTER conversation TYPE text[] USING NULL;
INSERT INTO ids VALUES (4, ROW(ROW('Ulm', 1, NULL), '{sad}'), '{a,b}');
SELECT chatbot_id, conversation_id, data FROM chatwebhook.event ORDER BY id DESC LIMIT 1;
ALTER TABLE ids ALTER chatbot TYPE text USING NULL, ALTER conversation TYPE char(5) USING NULL;
INSERT INTO ids VALUES (5, repeat('id', 8192), 'ab');
SELECT length(chatbot_id), conversation_id || '|' AS conversation_id, data FROM chatwebhook.event ORDER BY id DESC LIMIT 1;
-- a longer one is no id
INSERT INTO ids VALUES (5, repeat('id', 8192) || '-', 'ab');
ALTER TABLE ids ALTER conversation TYPE text;
INSERT INTO ids VALUES (5, 'id', repeat('id', 8192) || '-');
-- one that no index can hold is not ordered, and does not fail the INSERT
UPDATE chatwebhook.webhook SET ordered = true;
INSERT INTO ids SELECT 6, 'id', string_agg(md5(n::text), '') FROM generate_series(1, 100) AS n;
INSERT INTO ids SELECT 7, 'id', left(string_agg(md5(n::text), ''), 2000) FROM generate_series(1, 100) AS n;
UPDATE chatwebhook.webhook SET ordered = false;
UPDATE chatwebhook.webhook SET ordered = true;
SELECT e.data, q.ordered, length(q.conversation_id) FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id
 WHERE (e.data->>'id')::integer > 5 ORDER BY e.id;
DROP TABLE ids;

-- whatever the session's settings, and these stay as they are
DELETE FROM chatwebhook.event;
SET timezone = 'UTC';
CREATE TABLE moments (id integer, at timestamptz, lasts interval, value float8, bytes bytea, times timestamptz[], span tstzrange, visited timestamptz);
CREATE TRIGGER a AFTER INSERT ON moments FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('row.inserted', 'conversationId=visited', '*=at', 'lasts', 'value', 'bytes', 'times', 'span', 'id');
CREATE TRIGGER b AFTER INSERT ON moments REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit('rows.inserted', '*');
CREATE TABLE moment AS SELECT timestamptz '2026-07-01 12:00:00+02' AS at, interval '1 day 2:03:04' AS lasts, 0.1::float8 + 0.2 AS value, bytea '\x00ff' AS bytes,
       ARRAY[timestamptz '2026-01-01 00:00+00'] AS times, tstzrange('2026-01-01 00:00+00', '2026-07-01 00:00+00') AS span, timestamptz '2026-07-01 00:00+00' AS visited;
INSERT INTO moments SELECT 1, * FROM moment;
SET timezone = 'America/Sao_Paulo';
SET datestyle = 'German, DMY';
SET intervalstyle = 'iso_8601';
SET extra_float_digits = -8;
SET bytea_output = 'escape';
INSERT INTO moments SELECT 2, * FROM moment;
-- the same in a function with settings of its own, and in one that fails
CREATE FUNCTION add_moment() RETURNS text LANGUAGE plpgsql SET timezone = 'Asia/Tokyo' SET intervalstyle = 'sql_standard' AS $$
BEGIN
    INSERT INTO moments SELECT 3, * FROM moment;
    BEGIN
        INSERT INTO moments SELECT 4, at, lasts, value, repeat('x', 1100000)::bytea, times, span, visited FROM moment;
    EXCEPTION WHEN program_limit_exceeded THEN
        NULL;
    END;
    RETURN concat_ws(', ', current_setting('timezone'), current_setting('intervalstyle'), current_setting('datestyle'));
END
$$;
SELECT add_moment();
SELECT concat_ws(', ', current_setting('timezone'), current_setting('intervalstyle'), current_setting('datestyle'), current_setting('extra_float_digits'), current_setting('bytea_output'));
SELECT chatwebhook.backfill(id, 'moments', 'row.updated', '{"conversationId": "id", "*": "at", "lasts": "lasts", "value": "value", "bytes": "bytes", "times": "times", "span": "span", "id": "id", "text": "@a"}',
                            condition => 'NEW.id = 1 AND NEW.at > ''1.2.2026''') FROM chatwebhook.webhook;
SELECT chatwebhook.backfill(id, 'moments', 'rows.updated', condition => 'NEW.id = 1') FROM chatwebhook.webhook;
RESET timezone; RESET datestyle; RESET intervalstyle; RESET extra_float_digits; RESET bytea_output;
SELECT type, data->'id' AS id, conversation_id, data - 'id' AS data FROM chatwebhook.event ORDER BY type, data->'id';
DROP TABLE moments, moment;
DROP FUNCTION add_moment;

DROP CAST (tag AS json);
DROP FUNCTION tag_json;
DROP TYPE visit, place, tag;
DROP DOMAIN moods, score, address;
DROP TYPE mood;
