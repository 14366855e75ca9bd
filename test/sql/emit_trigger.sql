--
-- The trigger function emit(): rows and statements, what its arguments say,
-- and tables that change under it.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
-- so that errors are shown; watch_faults.sql has the default
SET chatwebhook.on_emit_error = error;

INSERT INTO chatwebhook.webhook (name, url) VALUES ('all', 'https://example.com/');
INSERT INTO chatwebhook.event_type (name) VALUES ('a'), ('b'), ('c'), ('d'), ('e'), ('f');
-- shows the events since the last time, and that each has its delivery
\set events 'WITH gone AS (DELETE FROM chatwebhook.event RETURNING *), owed AS (DELETE FROM chatwebhook.queue RETURNING *) SELECT e.type, e.chatbot_id, e.conversation_id, e.data, q.chatbot_id IS NOT DISTINCT FROM e.chatbot_id AND q.conversation_id IS NOT DISTINCT FROM e.conversation_id AND q.created_at = e.created_at AND q.next_attempt_at = e.created_at AND q.attempts = 0 AS owed FROM gone e LEFT JOIN owed q ON q.event_id = e.id ORDER BY e.id;'

-- the trigger m on message with these arguments
CREATE PROCEDURE emits(VARIADIC arguments text[]) LANGUAGE plpgsql AS $$
BEGIN
    DROP TRIGGER IF EXISTS m ON message;
    EXECUTE 'CREATE TRIGGER m AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('
        || (SELECT coalesce(string_agg(quote_literal(argument), ', '), '') FROM unnest(arguments) AS argument) || ')';
END
$$;

CREATE TABLE message (
    id integer, bot text, conversation text, role text, content text, at date DEFAULT '2026-01-02');

--
-- What arguments mean
--
CREATE TRIGGER m AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION
    chatwebhook.emit('message.received', 'chatbotId=bot', 'conversationId=conversation', 'role', 'content=content', 'channel=@web', 'day=at');
INSERT INTO message VALUES (1, 'bot_1', 'conv_1', 'user', 'Hello'), (2, NULL, NULL, 'user', '');
:events
-- the whole row less the envelope's columns
CALL emits('message.received', 'chatbotId=bot', 'conversationId=conversation', '*');
INSERT INTO message VALUES (3, 'bot_1', 'conv_1', 'user', 'Hello');
:events
-- with no envelope: all of it
CALL emits('a', '*');
INSERT INTO message VALUES (4, 'bot_1', 'conv_1', 'user', 'Hello');
:events
-- a key of its own does not come twice; a JSON constant
CALL emits('a', 'role=@fixed', 'flag=:{"a": [1, null]}', '*');
INSERT INTO message VALUES (4, 'bot_1', 'conv_1', 'user', 'Hello');
:events
-- nothing is named: nothing is sent
CALL emits('a');
INSERT INTO message VALUES (4, 'bot_1', 'conv_1', 'user', 'Hello');
:events
-- constants: empty, with @ and =, for the envelope; a key that is odd
CALL emits('a', 'chatbotId=@bot = 7', 'conversationId=@', 'empty=@', 'at=@@home', 'pair=@a=b', '=id', 'Ä "key"=id');
INSERT INTO message VALUES (5);
:events
-- the same column in both, and twice
CALL emits('a', 'chatbotId=bot', 'bot', 'again=bot');
INSERT INTO message VALUES (6, 'bot_1');
:events
-- only a constant for the envelope, and the whole row
CALL emits('a', 'chatbotId=@fixed', '*');
INSERT INTO message VALUES (7, 'bot_1');
:events
-- a column whose name needs quotes
CREATE TABLE quoted ("Chatbot Id" text, "a=b" integer, "sel'ect" integer);
CREATE TRIGGER q AFTER INSERT ON quoted FOR EACH ROW EXECUTE FUNCTION
    chatwebhook.emit('a', 'chatbotId=Chatbot Id', 'x=a=b', 'y=sel''ect');
INSERT INTO quoted VALUES ('bot_1', 1, 2);
:events
DROP TABLE quoted;

--
-- What arguments cannot be
--
CALL emits(VARIADIC '{}');
INSERT INTO message VALUES (8);
CALL emits('');
INSERT INTO message VALUES (8);
CALL emits('no.such');
INSERT INTO message VALUES (8);
CALL emits('a', 'key=no_such');
INSERT INTO message VALUES (8);
CALL emits('a', 'no_such');
INSERT INTO message VALUES (8);
CALL emits('a', 'chatbotId=no_such');
INSERT INTO message VALUES (8);
CALL emits('a', 'chatbotId');
INSERT INTO message VALUES (8);
CALL emits('a', 'key=');
INSERT INTO message VALUES (8);
CALL emits('a', 'key=:{');
INSERT INTO message VALUES (8);
CALL emits('a', 'chatbotId=:5');
INSERT INTO message VALUES (8);
CALL emits('a', '()');
INSERT INTO message VALUES (8);
CALL emits('a', 'key=ctid');
INSERT INTO message VALUES (8);
CALL emits('message.received', 'role');
INSERT INTO message VALUES (8, 'b', 'c', 'user', 'x');
CALL emits('message.received', 'role', 'content');
INSERT INTO message VALUES (8, 'b', 'c', 'user', NULL);
-- one bad row of many: none of them
INSERT INTO message SELECT i, 'b', 'c', 'user', nullif(i, 300)::text FROM generate_series(1, 500) AS i;
-- the table has none of those rows
SELECT count(*) FROM message WHERE id >= 8;
:events
DROP TRIGGER m ON message;

-- kinds of trigger
CREATE TRIGGER m BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '*');
INSERT INTO message VALUES (8);
DROP TRIGGER m ON message;
CREATE TRIGGER m AFTER TRUNCATE ON message EXECUTE FUNCTION chatwebhook.emit('a', '*');
TRUNCATE message;
DROP TRIGGER m ON message;
CREATE TRIGGER m AFTER INSERT ON message EXECUTE FUNCTION chatwebhook.emit('a', '*');
INSERT INTO message VALUES (8);
DROP TRIGGER m ON message;
CREATE TRIGGER m AFTER UPDATE ON message REFERENCING OLD TABLE AS o EXECUTE FUNCTION chatwebhook.emit('a', '*');
UPDATE message SET id = id;
DROP TRIGGER m ON message;
CREATE VIEW seen AS SELECT * FROM message;
CREATE TRIGGER m INSTEAD OF INSERT ON seen FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '*');
INSERT INTO seen VALUES (8);
DROP VIEW seen;
-- and no trigger at all
SELECT chatwebhook.emit();

--
-- Rows and statements, and what happened to them
--
TRUNCATE message;
CREATE TRIGGER r1 AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'id', 'content');
CREATE TRIGGER r2 AFTER UPDATE ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('b', 'id', 'content');
CREATE TRIGGER r3 AFTER DELETE ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('c', 'id', 'content');
CREATE TRIGGER s1 AFTER INSERT ON message REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('d', 'id', 'content');
CREATE TRIGGER s2 AFTER UPDATE ON message REFERENCING OLD TABLE AS o NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('e', 'id', 'content');
CREATE TRIGGER s3 AFTER DELETE ON message REFERENCING OLD TABLE AS o EXECUTE FUNCTION chatwebhook.emit('f', 'id', 'content');
INSERT INTO message (id, content) VALUES (1, 'one'), (2, 'two');
UPDATE message SET content = content || '!' WHERE id = 1;
DELETE FROM message WHERE id = 2;
:events
-- no rows, no events
INSERT INTO message SELECT * FROM message WHERE false;
UPDATE message SET id = 1 WHERE false;
DELETE FROM message WHERE false;
:events
-- other ways to write
COPY message (id, content) FROM stdin;
3	three
4	four
\.
:events
CREATE UNIQUE INDEX message_id ON message (id);
INSERT INTO message (id, content) VALUES (4, 'vier'), (5, 'fünf') ON CONFLICT (id) DO UPDATE SET content = excluded.content;
INSERT INTO message (id, content) VALUES (5, 'cinq'), (6, 'six') ON CONFLICT DO NOTHING;
:events
WITH i AS (INSERT INTO message (id, content) VALUES (7, 'seven') RETURNING *),
     d AS (DELETE FROM message WHERE id = 1)
UPDATE message SET content = 'three' FROM i WHERE message.id = 3;
:events
DROP INDEX message_id;
SELECT current_setting('server_version_num')::integer >= 150000 AS has_merge \gset
\if :has_merge
MERGE INTO message m USING (VALUES (4, 'four'), (5, NULL), (8, 'eight')) AS s (id, content) ON s.id = m.id
 WHEN MATCHED AND s.content IS NULL THEN DELETE
 WHEN MATCHED THEN UPDATE SET content = s.content
 WHEN NOT MATCHED THEN INSERT (id, content) VALUES (s.id, s.content);
\else
DELETE FROM message WHERE id = 5;
UPDATE message SET content = 'four' WHERE id = 4;
INSERT INTO message (id, content) VALUES (8, 'eight');
\endif
SELECT type, data FROM chatwebhook.event ORDER BY type;
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue) SELECT;
-- many rows in one statement, more than are written at a time
DELETE FROM message;
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue) SELECT;
INSERT INTO message (id, content) SELECT i, repeat('x', i % 100) FROM generate_series(1, 2000) AS i;
SELECT type, count(*), count(DISTINCT data->'id'), count(DISTINCT id), sum(length(data->>'content')) AS length
  FROM chatwebhook.event GROUP BY 1 ORDER BY 1;
SELECT count(*), count(DISTINCT q.id), count(DISTINCT event_id) FROM chatwebhook.queue q JOIN chatwebhook.event e ON e.id = q.event_id;
-- in the order of the rows
SELECT type, bool_and(in_order)
  FROM (SELECT type, (data->>'id')::integer = row_number() OVER (PARTITION BY type ORDER BY id) AS in_order
          FROM chatwebhook.event) AS e
 GROUP BY 1 ORDER BY 1;
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue) SELECT;
DROP TRIGGER r1 ON message;
DROP TRIGGER r2 ON message;
DROP TRIGGER r3 ON message;
DROP TRIGGER s1 ON message;
DROP TRIGGER s2 ON message;
DROP TRIGGER s3 ON message;
TRUNCATE message;

-- several webhooks want it
INSERT INTO chatwebhook.webhook (name, url) SELECT 'more ' || i, 'https://example.com/' || i FROM generate_series(1, 450) AS i;
CREATE TRIGGER m AFTER INSERT ON message REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('a', 'id');
INSERT INTO message (id) VALUES (1), (2), (3);
SELECT e.data, count(*), count(DISTINCT q.webhook_id) FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id WHERE e.type = 'd' GROUP BY e.id ORDER BY e.id;
-- each event knows between which ids its deliveries are, however many are stored at once
SELECT e.data, min(q.id) = e.first_delivery AS first, max(q.id) = e.last_delivery AS last
  FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id WHERE e.type = 'd' GROUP BY e.id ORDER BY e.id;
DELETE FROM chatwebhook.webhook WHERE name <> 'all';
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue), past AS (DELETE FROM chatwebhook.history) SELECT;
DROP TRIGGER m ON message;
TRUNCATE message;

-- a condition, a list of columns, both; OLD in the condition
CREATE TRIGGER m AFTER UPDATE OF content ON message FOR EACH ROW
    WHEN (OLD.content IS DISTINCT FROM NEW.content AND NEW.role = 'user') EXECUTE FUNCTION chatwebhook.emit('a', 'id', 'content');
INSERT INTO message VALUES (1, NULL, NULL, 'user', 'a'), (2, NULL, NULL, 'bot', 'b');
UPDATE message SET content = 'c';
UPDATE message SET content = 'c';
UPDATE message SET bot = 'x';
:events
DROP TRIGGER m ON message;

-- deferred to the commit, and then as the row was
CREATE CONSTRAINT TRIGGER m AFTER INSERT OR UPDATE ON message DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'id', 'content');
BEGIN;
INSERT INTO message (id, content) VALUES (9, 'early');
UPDATE message SET content = 'late' WHERE id = 9;
SELECT count(*) FROM chatwebhook.event;
COMMIT;
:events
DROP TRIGGER m ON message;

-- what is rolled back was never there
CREATE TRIGGER m AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'id');
BEGIN;
INSERT INTO message VALUES (10);
SAVEPOINT s;
INSERT INTO message VALUES (11);
ROLLBACK TO s;
INSERT INTO message VALUES (12);
COMMIT;
BEGIN;
INSERT INTO message VALUES (13);
ROLLBACK;
:events
-- in a replica's role triggers are silent, as all are
SET session_replication_role = replica;
INSERT INTO message VALUES (14);
RESET session_replication_role;
:events
-- a trigger that emits for a row that a trigger has written
CREATE TABLE copies (id integer, copied integer);
CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO copies VALUES (NEW.id, NEW.id); RETURN NULL; END $$;
CREATE TRIGGER k AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION copy();
CREATE TRIGGER m AFTER INSERT ON copies FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('b', '*');
INSERT INTO message VALUES (15), (16);
:events
DROP TABLE copies;
DROP TRIGGER k ON message;
DROP FUNCTION copy;
DROP TRIGGER m ON message;

-- a row that changes its own table while its JSON is made: the cast is the user's,
-- and what it writes is rolled back
CREATE TYPE tag AS ENUM ('x', 'y');
CREATE TABLE tagged (id integer, tag tag);
CREATE FUNCTION tag_json(tag) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF $1 = 'x' THEN
        INSERT INTO tagged VALUES (2, 'y');
        UPDATE chatwebhook.webhook SET max_retries = max_retries;
    END IF;
    RETURN to_json($1::text);
END
$$;
CREATE CAST (tag AS json) WITH FUNCTION tag_json(tag);
CREATE TRIGGER m AFTER INSERT ON tagged FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '*');
INSERT INTO tagged VALUES (1, 'x');
:events
INSERT INTO tagged SELECT i, 'x' FROM generate_series(3, 40) AS i;
SELECT data, count(*) FROM chatwebhook.event WHERE data->>'id' IN ('2', '3', '40') GROUP BY 1 ORDER BY 1;
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue) SELECT;
-- and one that exchanges the webhooks in between
TRUNCATE tagged;
UPDATE chatwebhook.webhook SET filter = '$.data.id > 0 && $.type == "a"';
CREATE OR REPLACE FUNCTION tag_json(tag) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF $1 = 'x' THEN
        DELETE FROM chatwebhook.webhook;
        INSERT INTO chatwebhook.webhook (name, url, chatbot_id)
        SELECT repeat('n', n % 100 + 1), 'https://example.com/', repeat('b', n) FROM generate_series(1, 500) AS n;
        INSERT INTO chatwebhook.webhook (name, url) VALUES ('all', 'https://example.com/');
        INSERT INTO tagged VALUES (2, 'y');
    END IF;
    RETURN to_json($1::text);
END
$$;
INSERT INTO tagged VALUES (1, 'x');
SELECT e.data, w.name FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id
  LEFT JOIN chatwebhook.webhook w ON w.id = q.webhook_id ORDER BY e.id;
DELETE FROM chatwebhook.webhook WHERE name <> 'all';
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue) SELECT;
UPDATE chatwebhook.webhook SET filter = NULL;
-- and one that fails: the row stands
TRUNCATE tagged;
CREATE OR REPLACE FUNCTION tag_json(tag) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE 'no JSON for %', $1; END $$;
SET chatwebhook.on_emit_error = warning;
INSERT INTO tagged VALUES (1, 'x');
SET chatwebhook.on_emit_error = error;
SELECT * FROM tagged;
:events
DROP TABLE tagged;
DROP CAST (tag AS json);
DROP FUNCTION tag_json;
DROP TYPE tag;

--
-- Tables that change
--
CREATE TABLE changing (gone integer, id integer, name text DEFAULT 'n');
CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON changing FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '*');
CREATE TRIGGER k AFTER INSERT ON changing FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('b', 'id', 'key=name');
INSERT INTO changing VALUES (0, 1);
ALTER TABLE changing DROP COLUMN gone;
INSERT INTO changing VALUES (2, 'two');
ALTER TABLE changing ADD COLUMN added integer NOT NULL DEFAULT 7;
INSERT INTO changing VALUES (3, 'three', 8);
-- the first row was stored before there was the column
UPDATE changing SET name = 'one' WHERE id = 1;
DELETE FROM changing WHERE id = 2;
:events
CREATE TRIGGER s AFTER DELETE ON changing REFERENCING OLD TABLE AS o EXECUTE FUNCTION chatwebhook.emit('c', '*');
INSERT INTO changing VALUES (4, 'four');
ALTER TABLE changing ADD COLUMN more text DEFAULT 'more', ADD COLUMN other integer;
DELETE FROM changing WHERE id >= 3;
:events
DROP TRIGGER s ON changing;
-- a column renamed: the whole row follows, an argument does not
ALTER TABLE changing RENAME name TO title;
INSERT INTO changing VALUES (5, 'five');
:events
DROP TRIGGER k ON changing;
INSERT INTO changing VALUES (5, 'five');
ALTER TABLE changing ALTER id TYPE text, ALTER title TYPE char(8);
INSERT INTO changing VALUES ('six', 'six');
ALTER TABLE changing DROP COLUMN title, DROP COLUMN more, DROP COLUMN other, DROP COLUMN added;
INSERT INTO changing VALUES ('seven');
ALTER TABLE changing RENAME TO changed;
INSERT INTO changed VALUES ('eight');
ALTER TRIGGER r ON changed RENAME TO renamed;
INSERT INTO changed VALUES ('nine');
ALTER TABLE changed DISABLE TRIGGER renamed;
INSERT INTO changed VALUES ('ten');
:events
-- no columns at all
ALTER TABLE changed ENABLE TRIGGER renamed, DROP COLUMN id;
INSERT INTO changed DEFAULT VALUES;
:events
DROP TABLE changed;

-- a trigger replaced keeps its identity, and has other arguments
CREATE TABLE changing (id integer, name text);
CREATE TRIGGER r AFTER INSERT ON changing FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'id');
INSERT INTO changing VALUES (1, 'one');
CREATE OR REPLACE TRIGGER r AFTER INSERT ON changing FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('b', 'name');
INSERT INTO changing VALUES (2, 'two');
:events
DROP TABLE changing;

-- partitions, the columns of some in another order
CREATE TABLE parts (id integer, bot text, content text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 (extra integer, content text, bot text, id integer);
ALTER TABLE parts_2 DROP COLUMN extra;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20);
CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'chatbotId=bot', '*');
CREATE TRIGGER s AFTER INSERT ON parts REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('b', 'chatbotId=bot', '*');
INSERT INTO parts VALUES (1, 'bot_1', 'one'), (11, 'bot_11', 'eleven');
UPDATE parts SET content = 'ELEVEN' WHERE id = 11;
-- from one partition into another it is gone and new
UPDATE parts SET id = 2 WHERE id = 11;
-- into a partition by its own name
INSERT INTO parts_2 (id, bot, content) VALUES (12, 'bot_12', 'twelve');
:events
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30);
INSERT INTO parts VALUES (21, 'bot_21', 'twenty-one');
ALTER TABLE parts DETACH PARTITION parts_2;
INSERT INTO parts_2 (id, bot, content) VALUES (13, 'bot_13', 'thirteen');
:events
DROP TABLE parts, parts_2;

-- children
CREATE TABLE parent (id integer, bot text);
CREATE TABLE child (extra integer) INHERITS (parent);
CREATE TRIGGER r AFTER INSERT OR UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '*');
CREATE TRIGGER s AFTER UPDATE ON parent REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('b', '*');
INSERT INTO parent VALUES (1, 'parent');
INSERT INTO child VALUES (2, 'child', 3);
UPDATE parent SET bot = upper(bot);
:events
DROP TABLE parent CASCADE;

-- temporary and unlogged tables
CREATE TEMP TABLE briefly (id integer);
CREATE TRIGGER r AFTER INSERT ON briefly FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '*');
CREATE UNLOGGED TABLE quickly (id integer);
CREATE TRIGGER r AFTER INSERT ON quickly FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('b', '*');
INSERT INTO briefly VALUES (1);
INSERT INTO quickly VALUES (2);
:events
-- a temporary table can be written in a read-only transaction, the queue cannot
BEGIN READ ONLY;
INSERT INTO briefly VALUES (3);
ROLLBACK;
:events
DROP TABLE briefly, quickly;

-- values that are generated when they are read, where there is that, are there, too
SELECT CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'VIRTUAL' ELSE 'STORED' END AS kind \gset
CREATE TABLE generated (id integer, bot text GENERATED ALWAYS AS ('bot of ' || content) :kind, content text, length integer GENERATED ALWAYS AS (length(content)) :kind);
CREATE TRIGGER r AFTER INSERT ON generated FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'chatbotId=bot', 'id', 'length');
CREATE TRIGGER s AFTER UPDATE ON generated REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('b', '*');
CREATE TRIGGER t AFTER DELETE ON generated FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('c', 'length');
INSERT INTO generated (id, content) VALUES (1, 'abc'), (2, NULL);
UPDATE generated SET content = content || 'd';
DELETE FROM generated;
:events
DROP TABLE generated;

-- the columns of a row of generated values and identities
CREATE TABLE generated (id integer GENERATED ALWAYS AS IDENTITY, content text, length integer GENERATED ALWAYS AS (length(content)) STORED);
CREATE TRIGGER r AFTER INSERT OR UPDATE ON generated FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', 'id', 'length');
CREATE TRIGGER s AFTER UPDATE ON generated REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('b', '*');
INSERT INTO generated (content) VALUES ('abc');
UPDATE generated SET content = 'abcd';
:events
-- the id that the application asks for afterwards is its row's, not ours
INSERT INTO generated (content) VALUES ('abc');
SELECT lastval() = max(id) AS right FROM generated;
DROP TABLE generated;

-- events for more webhooks than rows are stored at a time, some of them in order
INSERT INTO chatwebhook.webhook (name, url, events, ordered)
SELECT 'many ' || i, 'https://example.com/' || i, '{d}', i % 3 = 0 FROM generate_series(1, 450) AS i;
CREATE TABLE many (n integer, conversation text);
CREATE TRIGGER s AFTER INSERT ON many REFERENCING NEW TABLE AS n EXECUTE FUNCTION chatwebhook.emit('d', 'n', 'conversationId=conversation');
INSERT INTO many VALUES (1, 'one'), (2, NULL), (3, 'one');
SELECT e.data, count(*) AS owed, count(DISTINCT q.id) AS ids, count(DISTINCT q.webhook_id) AS webhooks,
       count(*) FILTER (WHERE q.ordered) AS ordered,
       count(*) FILTER (WHERE q.ordered <> (w.ordered AND q.conversation_id IS NOT NULL)
                           OR q.conversation_id IS DISTINCT FROM e.conversation_id
                           OR q.id NOT BETWEEN e.first_delivery AND e.last_delivery) AS wrong
  FROM chatwebhook.event e JOIN chatwebhook.queue q ON q.event_id = e.id JOIN chatwebhook.webhook w ON w.id = q.webhook_id
 WHERE e.type = 'd' GROUP BY e.id ORDER BY e.id;
DROP TABLE many;

-- a trigger outlives the webhooks; with none, it stores nothing
DELETE FROM chatwebhook.webhook;
WITH gone AS (DELETE FROM chatwebhook.event), owed AS (DELETE FROM chatwebhook.queue) SELECT;
CREATE TRIGGER m AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('message.received', 'role', 'content');
INSERT INTO message VALUES (17, NULL, NULL, 'user', 'x');
SELECT count(*) FROM chatwebhook.event;
-- but it checks
INSERT INTO message VALUES (18);
DROP TABLE message;
DROP PROCEDURE emits;
