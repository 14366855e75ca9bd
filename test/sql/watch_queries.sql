--
-- watch() with expressions and queries: what they see, whose rights they have,
-- and what follows when something changes.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
SET client_min_messages = warning;

INSERT INTO chatwebhook.webhook (name, url) VALUES ('all', 'https://example.com/');
INSERT INTO chatwebhook.event_type (name) VALUES ('a'), ('b'), ('unwanted');
\set events 'WITH gone AS (DELETE FROM chatwebhook.event RETURNING *), owed AS (DELETE FROM chatwebhook.queue) SELECT type, chatbot_id, conversation_id, data FROM gone ORDER BY id;'

CREATE TABLE inbox (id integer PRIMARY KEY, name text, bot text);
INSERT INTO inbox VALUES (1, 'Sales', 'shop'), (2, 'Help', 'desk');
CREATE TABLE contact (id integer PRIMARY KEY, inbox_id integer, email text, attrs jsonb, at timestamptz DEFAULT '2026-01-02 03:04:05+06');

-- mappings: columns, constants of each type, expressions; whole row with others
SELECT chatwebhook.watch('contact', 'a', '{"chatbotId": "@shop", "conversationId": "id", "mail": "email", "text": "@x", "number": 5.50, "flag": true,
    "none": null, "list": [1, "two"], "object": {"a": {"b": 1}}, "page": "=NEW.attrs ->> ''page''", "at": "at", "comment": "=1 -- one"}');
INSERT INTO contact VALUES (1, 1, 'zoe@example.com', '{"page": "/pricing"}');
:events
SELECT chatwebhook.watch('contact', 'a', '{"conversationId": "id", "mail": "=upper(NEW.email)", "*": "*"}', replace => true);
INSERT INTO contact VALUES (2, 1, 'yan@example.com', '{"page": "/"}');
:events
-- a key becomes a column's name
SELECT chatwebhook.watch('contact', 'a', jsonb_build_object(repeat('k', 64), 'id'), replace => true);
-- the same without expressions: constants
SELECT chatwebhook.watch('contact', 'a', '{"chatbotId": 17, "text": "@x", "number": 5.50, "flag": true, "none": null, "list": [1, "two"]}', replace => true);
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'chatwebhook_a_insert';
INSERT INTO contact VALUES (3, 1, 'xenia@example.com', '{}');
:events
SELECT chatwebhook.unwatch('contact', 'a');

-- a query: a join, no row, several rows, the row itself, an UPDATE, a DELETE
SELECT chatwebhook.watch('contact', 'a', operation => 'INSERT OR UPDATE OR DELETE', query => $$
    SELECT i.bot AS "chatbotId", coalesce(NEW.id, OLD.id) AS "conversationId", OLD.email AS old, NEW.email AS new, i.name,
           (SELECT count(*) FROM contact) AS contacts, NEW.at
      FROM inbox i WHERE i.id = coalesce(NEW.inbox_id, OLD.inbox_id);
    $$);
INSERT INTO contact VALUES (4, 2, 'wim@example.com', '{}'), (5, 3, 'v@example.com', '{}');
UPDATE contact SET email = 'wim@example.org' WHERE id = 4;
DELETE FROM contact WHERE id = 4;
:events
SELECT chatwebhook.watch('contact', 'a', operation => 'INSERT OR UPDATE OR DELETE', replace => true,
    query => $$SELECT i.bot AS "chatbotId", to_jsonb(NEW) AS "row" FROM inbox i$$);
INSERT INTO contact VALUES (6, 1, 'u@example.com', '{"a": [1]}', NULL);
:events
-- columns with the names that the view uses
CREATE TABLE named (id integer, q text, event text, new text);
SELECT chatwebhook.watch('named', 'a', query => 'SELECT NEW.q, NEW.event AS "old", NEW.new');
SELECT chatwebhook.watch('named', 'b', '{"q": "=upper(NEW.q)", "new": "new"}');
INSERT INTO named VALUES (1, 'one', 'two', 'three');
SELECT chatwebhook.backfill(id, 'named', 'a', '{"q": "q", "event": "event"}') FROM chatwebhook.webhook;
:events
-- a view that somebody has written
CREATE OR REPLACE VIEW chatwebhook_a_insert AS SELECT to_jsonb(q.id) AS event, 'public'::text AS search_path, 'chatwebhook_a_insert'::text AS trigger
    FROM contact AS new LEFT JOIN contact AS old ON false CROSS JOIN LATERAL (SELECT NEW.id) q;
CREATE VIEW chatwebhook_mine AS SELECT q.id AS event, 'public'::text AS search_path, 'chatwebhook_b_insert'::text AS trigger
    FROM contact AS new LEFT JOIN contact AS old ON false CROSS JOIN LATERAL (SELECT NEW.id) q;
CREATE TRIGGER chatwebhook_a_insert AFTER INSERT ON contact FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('a', '()');
CREATE TRIGGER chatwebhook_b_insert AFTER INSERT ON contact FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('b', '()');
INSERT INTO contact VALUES (30, 1, 'x', '{}');
CREATE OR REPLACE VIEW chatwebhook_a_insert AS SELECT to_jsonb(g.*) AS event, 'public'::text AS search_path, 'chatwebhook_a_insert'::text AS trigger
    FROM contact AS new LEFT JOIN contact AS old ON false CROSS JOIN generate_series(1, 2) AS g CROSS JOIN LATERAL (SELECT NEW.id, g) q;
INSERT INTO contact VALUES (31, 1, 'x', '{}');
DROP TRIGGER chatwebhook_a_insert ON contact;
DROP TRIGGER chatwebhook_b_insert ON contact;
DROP VIEW chatwebhook_a_insert, chatwebhook_mine;
DROP TABLE named;
:events
-- the session's settings make no difference
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SELECT chatwebhook.watch('contact', 'b', query => 'SELECT NEW.at, NEW.at::text AS text');
INSERT INTO contact VALUES (7, 1, 'u@example.com', '{"a": [1]}');
SHOW timezone;
RESET timezone;
RESET datestyle;
:events
SELECT chatwebhook.unwatch('contact', 'a', 'delete or update or insert'), chatwebhook.unwatch('contact', 'b');

-- only for somebody who wants it: the query would fail otherwise
SELECT chatwebhook.watch('contact', 'unwanted', query => 'SELECT 1 / (NEW.id - NEW.id) AS x');
SELECT chatwebhook.watch('contact', 'b', query => 'SELECT 1 / (NEW.id - NEW.id) AS x, NEW.email AS "chatbotId"');
SET chatwebhook.on_emit_error = error;
UPDATE chatwebhook.webhook SET events = '{a,b}', chatbot_id = 'shop';
INSERT INTO contact VALUES (8, 1, 'desk', '{}');
INSERT INTO contact VALUES (9, 1, 'shop', '{}');
SELECT chatwebhook.unwatch('contact', 'unwanted');
SELECT chatwebhook.unwatch('contact', 'b');
SELECT chatwebhook.wanted('a', 'shop'), chatwebhook.wanted('a', 'desk'), chatwebhook.wanted('a', NULL), chatwebhook.wanted('unwanted', 'shop');
SELECT chatwebhook.wanted('no.such', NULL);
SELECT chatwebhook.wanted(NULL, 'shop');
UPDATE chatwebhook.webhook SET events = '{*}', chatbot_id = NULL;
SELECT chatwebhook.wanted('a', 'desk'), chatwebhook.wanted('a', NULL);
RESET chatwebhook.on_emit_error;

-- a chatbotId that the query computes: a condition comes before it, its text is
-- that of JSON, and a function sees the row
CREATE FUNCTION bot_of(integer) RETURNS text LANGUAGE sql STABLE AS 'SELECT attrs ->> ''bot'' FROM contact WHERE id = $1';
UPDATE chatwebhook.webhook SET chatbot_id = 'shop';
SET chatwebhook.on_emit_error = error;
SELECT chatwebhook.watch('contact', 'a', '{"chatbotId": "=(NEW.attrs ->> ''n'')::integer", "id": "id"}', $$NEW.attrs ->> 'n' ~ '^[0-9]+$'$$);
SELECT chatwebhook.watch('contact', 'b', query => $$SELECT NEW.attrs -> 'bot' AS "chatbotId", NEW.id$$);
INSERT INTO contact VALUES (20, 1, NULL, '{"n": "none", "bot": "shop"}');
SELECT chatwebhook.watch('contact', 'a', '{"chatbotId": "=bot_of(NEW.id)", "id": "id"}', replace => true);
SELECT chatwebhook.watch('contact', 'b', query => $$SELECT coalesce(NEW.attrs ->> 'bot', NEW.id::text) AS "chatbotId", 1 / (NEW.id - 22) AS n$$, replace => true);
INSERT INTO contact VALUES (21, 1, NULL, '{"bot": "shop"}'), (22, 1, NULL, '{"bot": "desk"}');
:events
RESET chatwebhook.on_emit_error;
SELECT chatwebhook.unwatch('contact', 'a'), chatwebhook.unwatch('contact', 'b');
DROP FUNCTION bot_of;
UPDATE chatwebhook.webhook SET chatbot_id = NULL;

-- conditions: harmless ones in the WHEN clause, others with the query
SELECT chatwebhook.watch('contact', 'a', '{"id": "id"}', $$NEW.inbox_id IN (1, 2) AND NEW.email IS DISTINCT FROM 'x' AND coalesce(NEW.id, 0) > 0$$);
SELECT condition, sends FROM chatwebhook.watched;
SELECT chatwebhook.watch('contact', 'a', '{"id": "id"}', $$NEW.attrs ->> 'page' LIKE '/a%'$$, replace => true);
SELECT condition, sends FROM chatwebhook.watched;
INSERT INTO contact VALUES (10, 1, NULL, '{"page": "/about"}'), (11, 1, NULL, '{"page": "/"}');
SELECT chatwebhook.watch('contact', 'a', '{"id": "id"}', $$EXISTS (SELECT FROM inbox i WHERE i.id = NEW.inbox_id)$$, replace => true);
INSERT INTO contact VALUES (12, 1, NULL, NULL), (13, 99, NULL, NULL);
SELECT chatwebhook.watch('contact', 'a', '{"id": "id"}', 'NEW.id > 0', replace => true);
SELECT condition, sends, relname AS view FROM chatwebhook.watched LEFT JOIN pg_class ON relname = trigger_name;
:events
SELECT chatwebhook.unwatch('contact', 'a');

-- names: renamed columns, tables and schemas are followed
CREATE SCHEMA app;
CREATE TABLE app."Chat Log" ("userId" integer, "select" text);
SELECT chatwebhook.watch('app."Chat Log"', 'a', '{"conversationId": "userId", "text": "=NEW.\"select\""}', 'NEW."userId" > 0', 'UPDATE OF "userId", "select" OR INSERT');
INSERT INTO app."Chat Log" VALUES (1, 'one');
ALTER TABLE app."Chat Log" RENAME "select" TO content;
ALTER TABLE app."Chat Log" RENAME TO log;
INSERT INTO app.log VALUES (2, 'two');
ALTER SCHEMA app RENAME TO app2;
UPDATE app2.log SET content = 'three' WHERE "userId" = 2;
ALTER TABLE app2.log ADD added integer DEFAULT 7;
ALTER TABLE app2.log SET SCHEMA public;
INSERT INTO log VALUES (4, 'four');
:events
SELECT relation, event_type, operation, condition, problem FROM chatwebhook.watched;
\set VERBOSITY terse
ALTER TABLE log DROP content;
ALTER TABLE log ALTER content TYPE varchar(9);
\set VERBOSITY default
DROP TABLE log;
DROP SCHEMA app2;
SELECT count(*) FROM pg_class WHERE relname LIKE 'chatwebhook\_%';

-- partitions with columns in another order, attached later; inheritance; generated columns
CREATE TABLE parts (id integer, bot text, name text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE part2 (name text, gone integer, bot text, id integer);
ALTER TABLE part2 DROP gone;
SELECT chatwebhook.watch('parts', 'a', '{"chatbotId": "=NEW.bot", "conversationId": "id", "name": "name", "row": "=to_jsonb(NEW)"}');
ALTER TABLE parts ATTACH PARTITION part2 FOR VALUES FROM (10) TO (20);
INSERT INTO parts VALUES (1, 'b1', 'one'), (11, 'b11', 'eleven');
:events
SELECT relation, event_type, problem FROM chatwebhook.watched;
DROP TABLE parts;
CREATE TABLE parent (id integer, twice integer GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE child () INHERITS (parent);
SET client_min_messages = notice;
SELECT chatwebhook.watch('parent', 'a', '{"id": "=NEW.id", "twice": "twice"}');
SELECT chatwebhook.watch('child', 'a', '{"id": "=NEW.id", "twice": "twice"}');
SET client_min_messages = warning;
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2);
:events
DROP TABLE parent CASCADE;

-- a failure leaves the session's settings as they are
CREATE TABLE stamped (at timestamptz, visitor text);
SELECT chatwebhook.watch('stamped', 'lead.captured', '{"email": "visitor", "source": "@w", "conversationSummary": "at"}');
BEGIN;
SET LOCAL timezone = 'Asia/Tokyo';
INSERT INTO stamped VALUES ('2026-01-02 03:04:05+06');
SHOW timezone;
COMMIT;
DROP TABLE stamped;
-- temporary tables: within a query, and in a read-only transaction
CREATE TEMP TABLE own_temp (id integer, text text);
CREATE FUNCTION add_more(integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
    IF $1 < 3 THEN INSERT INTO own_temp VALUES ($1 + 1, 'wrong'); END IF; RETURN $1; END $$;
SELECT chatwebhook.watch('own_temp', 'a', query => 'SELECT add_more(NEW.id) AS one, NEW.id AS two, NEW.text');
INSERT INTO own_temp VALUES (1, 'right');
INSERT INTO own_temp VALUES (4, 'right');
BEGIN READ ONLY;
INSERT INTO own_temp VALUES (5, 'read-only');
COMMIT;
SELECT * FROM own_temp;
:events
DROP TABLE own_temp;
DROP FUNCTION add_more;

--
-- Whose rights: those of the caller of watch()
--
CREATE ROLE regress_chatwebhook_owner;
CREATE ROLE regress_chatwebhook_chat;
CREATE SCHEMA chats AUTHORIZATION regress_chatwebhook_owner;
CREATE SCHEMA hostile AUTHORIZATION regress_chatwebhook_chat;
GRANT USAGE ON SCHEMA chats TO regress_chatwebhook_chat;
GRANT USAGE ON SCHEMA chatwebhook TO regress_chatwebhook_owner;
GRANT EXECUTE ON FUNCTION chatwebhook.watch, chatwebhook.emit() TO regress_chatwebhook_owner;
SET ROLE regress_chatwebhook_owner;
CREATE TABLE chats.secret (tenant text, value text);
INSERT INTO chats.secret VALUES ('one', 'of one'), ('two', 'of two');
CREATE FUNCTION chats.helper() RETURNS text LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN lower('OWN ') || (SELECT current_user) || ' ' || (SELECT string_agg(value, ',') FROM secret); END $$;
CREATE TABLE chats.message (id integer, tenant text);
GRANT INSERT ON chats.message TO regress_chatwebhook_chat;
SET search_path = chats;
SELECT chatwebhook.watch('message', 'a', query => $$SELECT helper() AS helper, s.value FROM secret s WHERE s.tenant = NEW.tenant$$);
RESET search_path;
-- the session's path, its temporary tables and its functions make no difference
SET ROLE regress_chatwebhook_chat;
CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'HIJACKED' $$;
CREATE FUNCTION hostile.helper() RETURNS text LANGUAGE sql AS $$ SELECT 'HIJACKED' $$;
CREATE TABLE hostile.secret AS SELECT 'one' AS tenant, 'HIJACKED' AS value;
CREATE TEMP TABLE secret AS SELECT 'one' AS tenant, 'HIJACKED' AS value;
SET search_path = hostile, pg_catalog, chats;
INSERT INTO chats.message VALUES (1, 'one');
SELECT current_user, current_setting('search_path') AS path, current_setting('transaction_read_only') AS read_only;
RESET search_path;
DROP TABLE secret;
-- nobody else may read the view, nor put one of its own in its place
SELECT * FROM chats.chatwebhook_a_insert;
CREATE VIEW hostile.chatwebhook_a_insert AS SELECT to_jsonb(q) AS event, 'hostile'::text AS search_path, 'chatwebhook_a_insert'::text AS trigger
    FROM chats.message AS new LEFT JOIN chats.message AS old ON false CROSS JOIN LATERAL (SELECT 'HIJACKED' AS value) q;
INSERT INTO chats.message VALUES (2, 'two');
RESET ROLE;
:events
-- nor where a plan does not show what is called, or where temporary tables are first in the path
SET ROLE regress_chatwebhook_owner;
SET search_path = pg_temp, chats;
SELECT chatwebhook.watch('message', 'a', query => $$SELECT EXISTS (SELECT FROM ts_stat('SELECT to_tsvector(''simple'', helper())') WHERE word = 'own') AS own, (SELECT helper()) AS helper$$, replace => true);
SELECT chatwebhook.watch('message', 'b', query => $$SELECT EXISTS (SELECT FROM ts_stat('SELECT to_tsvector(''simple'', helper())') WHERE word = 'own') AS own$$);
SET ROLE regress_chatwebhook_chat;
CREATE TEMP TABLE secret AS SELECT 'one' AS tenant, 'HIJACKED' AS value;
GRANT SELECT ON secret TO PUBLIC;
SET search_path = hostile, pg_catalog, chats;
INSERT INTO chats.message VALUES (1, 'one');
INSERT INTO chats.message VALUES (2, 'one');
DROP TABLE secret;
-- the session keeps its prepared statements
SET ROLE regress_chatwebhook_owner;
SET search_path = chats;
CREATE FUNCTION chats.prepares() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE chat; RETURN 1; END $$;
SELECT chatwebhook.watch('message', 'b', query => $$SELECT prepares()$$, replace => true);
RESET ROLE;
PREPARE chat AS SELECT 'of the session';
INSERT INTO chats.message VALUES (3, 'one');
EXECUTE chat;
DEALLOCATE chat;
SELECT chatwebhook.unwatch('message', 'b');
SET ROLE regress_chatwebhook_owner;
SELECT chatwebhook.watch('message', 'a', query => $$SELECT helper() AS helper, s.value FROM secret s WHERE s.tenant = NEW.tenant$$, replace => true);
RESET ROLE;
RESET search_path;
:events
-- row-level security is that of the owner
ALTER TABLE chats.secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON chats.secret USING (tenant = 'two');
SET ROLE regress_chatwebhook_chat;
INSERT INTO chats.message VALUES (3, 'one'), (4, 'two');
SET row_security = off;
INSERT INTO chats.message VALUES (5, 'two');
RESET row_security;
RESET ROLE;
:events
-- a role without rights on what the query reads cannot watch
CREATE TABLE own (id integer);
ALTER TABLE own OWNER TO regress_chatwebhook_chat;
GRANT USAGE ON SCHEMA chatwebhook TO regress_chatwebhook_chat;
GRANT EXECUTE ON FUNCTION chatwebhook.watch, chatwebhook.emit() TO regress_chatwebhook_chat;
SET ROLE regress_chatwebhook_chat;
\set VERBOSITY terse
SELECT chatwebhook.watch('chats.message', 'b', query => 'SELECT NEW.id');
-- nor one that may not create views in the table's schema
SELECT chatwebhook.watch('own', 'a', query => 'SELECT NEW.id');
CREATE TABLE hostile.own (id integer);
SELECT chatwebhook.watch('hostile.own', 'a', query => 'SELECT value FROM chats.secret');
\set VERBOSITY default
SELECT chatwebhook.watch('own', 'a', '{"id": "id"}');
RESET ROLE;
INSERT INTO own VALUES (1);
:events

-- ids are the same by a column as by an expression
CREATE TABLE ids (flag boolean, at timestamptz, number numeric);
SELECT chatwebhook.watch('ids', 'a', '{"chatbotId": "flag", "conversationId": "at"}');
SELECT chatwebhook.watch('ids', 'b', '{"chatbotId": "=NEW.flag", "conversationId": "=NEW.at"}');
INSERT INTO ids VALUES (true, '2026-01-02 03:04:05+00', 1.50);
SELECT chatwebhook.watch('ids', 'a', '{"chatbotId": "number", "conversationId": "number"}', replace => true);
SELECT chatwebhook.watch('ids', 'b', '{"chatbotId": "=NEW.number", "conversationId": "=NEW.number"}', replace => true);
INSERT INTO ids VALUES (true, '2026-01-02 03:04:05+00', 1.50);
:events
-- names that combine to that of another watch; columns without a name
INSERT INTO chatwebhook.event_type (name) VALUES ('a_insert');
SELECT chatwebhook.watch('ids', 'a', '{}', operation => 'INSERT OR UPDATE');
SELECT chatwebhook.watch('ids', 'a_insert', '{}', operation => 'UPDATE', replace => true);
SELECT chatwebhook.watch('ids', 'a', query => 'SELECT NEW.number + 1', replace => true);
DROP TABLE ids;

-- what watched says
ALTER TABLE own RENAME id TO number;
SELECT relation, problem FROM chatwebhook.watched ORDER BY 1;
SELECT chatwebhook.check_watches();
DROP TABLE own;
CREATE TABLE lead (email text, visitor text NOT NULL);
SELECT chatwebhook.watch('lead', 'lead.captured', '{"email": "email", "source": "@w", "conversationSummary": "visitor"}');
SELECT problem FROM chatwebhook.watched WHERE relation = 'lead'::regclass;
SELECT chatwebhook.watch('lead', 'lead.captured', '{"email": "email", "source": "@w", "conversationSummary": "visitor"}', 'NEW.email IS NOT NULL', replace => true);
SELECT wanted_by, problem FROM chatwebhook.watched WHERE relation = 'lead'::regclass;
ALTER TABLE lead DISABLE TRIGGER "chatwebhook_lead.captured_insert";
SELECT problem FROM chatwebhook.watched WHERE relation = 'lead'::regclass;
SET client_min_messages = notice;
SELECT chatwebhook.watch('lead', 'feedback.received', '{"rating": "visitor"}');
SET client_min_messages = warning;
DROP TABLE lead;
SELECT chatwebhook.check_watches();

-- DROP EXTENSION leaves nothing of it
DROP VIEW hostile.chatwebhook_a_insert;
SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
SELECT count(*) FROM pg_class WHERE relname LIKE 'chatwebhook\_%';
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'chatwebhook\_%';
DROP SCHEMA chats, hostile CASCADE;
DROP TABLE contact, inbox;
DROP ROLE regress_chatwebhook_owner, regress_chatwebhook_chat;
CREATE EXTENSION chatwebhook;
