--
-- Every object against every kind of role: what has been granted, what each role
-- sees, and what works or is refused when it is tried.  Only here do the roles of
-- two customers' applications stand beside each other, beside a webhook of every
-- chatbot, and beside roles with other grants; and only here does one role use
-- what another one made: views, functions, materialized views, indexes.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
SELECT clock_timestamp() AS dropped_at \gset
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

CREATE ROLE regress_cwh_writer;
CREATE ROLE regress_cwh_nobody;
CREATE ROLE regress_cwh_reader;
CREATE ROLE regress_cwh_admin;
CREATE ROLE regress_cwh_monitor IN ROLE pg_monitor;
CREATE ROLE regress_cwh_a;
CREATE ROLE regress_cwh_a_user IN ROLE regress_cwh_a;
CREATE ROLE regress_cwh_b;
SELECT chatwebhook.grant_admin('regress_cwh_admin');
-- any admin can grant
SET ROLE regress_cwh_admin;
SELECT chatwebhook.grant_reader('regress_cwh_reader'), chatwebhook.grant_app('regress_cwh_a'), chatwebhook.grant_app('regress_cwh_b');
SELECT chatwebhook.grant_app('regress_cwh_missing');
SELECT chatwebhook.grant_app(NULL);
SELECT * FROM chatwebhook.grantee ORDER BY role::text;
RESET ROLE;
GRANT CREATE ON SCHEMA public TO regress_cwh_a, regress_cwh_b, regress_cwh_admin;

-- a watched table, into which one role may insert, and nothing else
CREATE TABLE regress_cwh_message (bot text, conversation text, rating integer);
SELECT chatwebhook.watch('regress_cwh_message', 'feedback.received', '{"chatbotId": "bot", "conversationId": "conversation", "rating": "rating"}');
GRANT INSERT ON regress_cwh_message TO regress_cwh_writer;

--
-- What has been granted: r SELECT, a INSERT, w UPDATE, d DELETE, D TRUNCATE,
-- x REFERENCES, t TRIGGER, U USAGE, C CREATE, X EXECUTE
--
CREATE FUNCTION pg_temp.letters(who text, kind text, object oid) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(letter, '' ORDER BY n), '')
      FROM (VALUES (1, 'r', 'SELECT', 'tS'), (2, 'a', 'INSERT', 't'), (3, 'w', 'UPDATE', 'tS'), (4, 'd', 'DELETE', 't'),
                   (5, 'D', 'TRUNCATE', 't'), (6, 'x', 'REFERENCES', 't'), (7, 't', 'TRIGGER', 't'),
                   (8, 'U', 'USAGE', 'nST'), (9, 'C', 'CREATE', 'n'), (10, 'X', 'EXECUTE', 'f')) AS p (n, letter, privilege, kinds)
     WHERE CASE WHEN strpos(kinds, kind) = 0 THEN false
                WHEN kind = 't' THEN has_table_privilege(who, object, privilege)
                WHEN kind = 'S' THEN has_sequence_privilege(who, object, privilege)
                WHEN kind = 'T' THEN has_type_privilege(who, object, privilege)
                WHEN kind = 'n' THEN has_schema_privilege(who, object, privilege)
                ELSE has_function_privilege(who, object, privilege) END
$$;
SELECT o.object, l.*
  FROM (SELECT 1 AS n, 'n' AS kind, 'schema'::text AS object, 'chatwebhook'::regnamespace::oid AS oid
        UNION ALL
        SELECT CASE WHEN relkind = 'r' THEN 2 WHEN relkind = 'v' THEN 3 ELSE 4 END, CASE relkind WHEN 'S' THEN 'S' ELSE 't' END,
               CASE relkind WHEN 'r' THEN 'table ' WHEN 'v' THEN 'view ' ELSE 'sequence ' END || relname, oid
          FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind IN ('r', 'v', 'S', 'm', 'p', 'f')
        UNION ALL
        SELECT 5, 'f', CASE WHEN pronargs > 5 THEN proname || '(…)' ELSE replace(replace(oid::regprocedure::text, 'chatwebhook.', ''), 'timestamp with time zone', 'timestamptz') END, oid
          FROM pg_proc WHERE pronamespace = 'chatwebhook'::regnamespace) o,
       LATERAL (SELECT pg_temp.letters('public', kind, oid) AS public, pg_temp.letters('regress_cwh_writer', kind, oid) AS writer,
                       pg_temp.letters('pg_monitor', kind, oid) AS monitor, pg_temp.letters('regress_cwh_reader', kind, oid) AS reader,
                       pg_temp.letters('regress_cwh_a', kind, oid) AS app, pg_temp.letters('regress_cwh_admin', kind, oid) AS admin) l
 ORDER BY o.n, o.object COLLATE "C";
-- of these tables, some columns only
SELECT c.relname, a.grantee::regrole, a.privilege_type AS privilege, string_agg(t.attname, ' ' ORDER BY t.attnum) AS columns
  FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
 WHERE c.relnamespace = 'chatwebhook'::regnamespace GROUP BY 1, 2, 3
 ORDER BY c.relname, a.grantee::regrole::text COLLATE "C", 3;
-- nobody can give on what was given
SELECT c.relname, a.grantee::regrole FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND a.is_grantable AND a.grantee <> c.relowner;
SELECT p.proname, a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) a
 WHERE p.pronamespace = 'chatwebhook'::regnamespace AND a.is_grantable AND a.grantee <> p.proowner;
-- row-level security: none for the tables of all chatbots, and for the vault, which nobody may read
SELECT relname FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind = 'r' AND NOT relrowsecurity ORDER BY 1;
SELECT tablename, regexp_replace(policyname, '\d+', 'N') AS policy, permissive, roles, cmd
  FROM pg_policies WHERE schemaname = 'chatwebhook' ORDER BY tablename, roles::text;
-- only an app's have conditions, the same for every app
SELECT roles, string_agg(DISTINCT CASE qual WHEN 'true' THEN qual ELSE 'a condition' END, ', ') AS condition, count(with_check) AS checks FROM pg_policies
 WHERE schemaname = 'chatwebhook' GROUP BY roles ORDER BY roles::text COLLATE "C";
SELECT count(*) AS different FROM pg_policies a JOIN pg_policies b USING (schemaname, tablename)
 WHERE a.roles = '{regress_cwh_a}' AND b.roles = '{regress_cwh_b}' AND (a.qual, a.cmd) IS DISTINCT FROM (b.qual, b.cmd);
-- the policies apply to whoever reads a view of ours
SELECT relname FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind = 'v'
   AND NOT coalesce(reloptions @> '{security_invoker=true}', false);

--
-- Two customers, and the administrator, whose webhook gets everybody's events
--
SET ROLE regress_cwh_a;
SET chatwebhook.chatbot = 'acme';
SELECT id AS ours, secret AS our_secret FROM chatwebhook.create_webhook('ours', 'https://ours.example/') \gset
SELECT chatwebhook.set_credential(:'ours', 'token', 't0ken');
SET ROLE regress_cwh_b;
SET chatwebhook.chatbot = 'other';
INSERT INTO chatwebhook.webhook (name, url) VALUES ('theirs', 'https://theirs.example/') RETURNING id AS theirs \gset
SELECT chatwebhook.set_credential(:'theirs', 'token', 't0ken');
SET ROLE regress_cwh_admin;
RESET chatwebhook.chatbot;
SELECT id AS all FROM chatwebhook.create_webhook('all', 'https://all.example/') \gset
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('empty', 'https://empty.example/', '');
SET ROLE regress_cwh_writer;
INSERT INTO regress_cwh_message VALUES ('acme', 'c1', 1), ('other', 'c1', 2), (NULL, 'c1', 3), ('', 'c1', 4);
RESET ROLE;
SELECT name, chatbot_id FROM chatwebhook.webhook ORDER BY name;
INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, attempts, chatbot_id, webhook_name, status, last_error)
SELECT q.id + 1000000, q.webhook_id, q.event_id, q.created_at, now(), 1, q.chatbot_id, w.name, 'dead', 'dead ' || w.name
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at, attempts, chatbot_id, webhook_name, status, last_error)
SELECT q.id + 2000000, q.webhook_id, q.event_id, q.created_at, now(), 1, q.chatbot_id, w.name, 'canceled', 'canceled ' || w.name
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, chatbot_id, started_at, response_body)
SELECT q.id, 1, q.webhook_id, q.chatbot_id, now(), 'reply of ' || w.name
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
SELECT gen_random_uuid(), id, chatbot_id, name, 'backlog', 'backlog of ' || name, now() FROM chatwebhook.webhook;
-- a delivery of each kind, for later
SELECT max(q.id) FILTER (WHERE w.name = 'ours') AS our_delivery, max(q.id) FILTER (WHERE w.name = 'theirs') AS their_delivery,
       max(q.id) FILTER (WHERE w.name = 'all' AND q.chatbot_id = 'acme') AS all_delivery,
       max(q.event_id::text) FILTER (WHERE w.name = 'ours') AS our_event, max(q.event_id::text) FILTER (WHERE w.name = 'theirs') AS their_event
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id \gset

-- this extension's worker is there, and not the last one's, which is about to leave
SELECT set_config('regress.dropped_at', :'dropped_at', false) \gset ignored_
DO $$
BEGIN
    FOR i IN 1 .. 12000 LOOP
        IF EXISTS (SELECT FROM chatwebhook.worker_status
                    WHERE started_at > current_setting('regress.dropped_at')::timestamptz) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.05);
    END LOOP;
    RAISE EXCEPTION 'no worker has started within ten minutes';
END
$$;

--
-- What each sees; null where it may not look
--
CREATE FUNCTION pg_temp.sees(relation text, what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT coalesce(string_agg(x, '' '' ORDER BY x COLLATE "C"), ''-'') FROM (SELECT DISTINCT coalesce(%s, ''null'') AS x FROM %s) s', what, relation)
       INTO result;
    RETURN result;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END
$$;
CREATE TEMP TABLE looks (relation text, what text);
INSERT INTO looks VALUES ('webhook', 'name'), ('webhook', 'public_url'), ('webhook', 'url'), ('event', 'chatbot_id'), ('event', 'data::text'),
    ('delivery', 'webhook_name || ''/'' || coalesce(chatbot_id, ''-'') || ''/'' || status'),
    ('attempt', 'response_body'), ('dead_letter', 'last_error'), ('webhook_health', 'name'), ('worker_status', '''rows'''), ('activity', '''rows'''),
    ('metrics', 'labels->>''webhook'''), ('alert', 'message'), ('vault', 'name'), ('queue', 'chatbot_id'), ('queue', 'id::text || replies'), ('history', 'chatbot_id'),
    ('history', 'webhook_name'), ('dead', 'chatbot_id'), ('dead', 'webhook_name'), ('health', 'count(*)::text'),
    ('grantee', 'access'), ('event_type', '''rows'''), ('connector', '''rows'''), ('delivery_id_seq', '''rows''');
GRANT SELECT ON looks TO PUBLIC;
\pset null (refused)
\set see 'SELECT relation, what, pg_temp.sees(''chatwebhook.'' || relation, what) AS sees FROM looks ORDER BY relation COLLATE "C", what COLLATE "C";'
SET ROLE regress_cwh_nobody;
:see
SET ROLE regress_cwh_writer;
SELECT count(pg_temp.sees('chatwebhook.' || relation, what)) AS seen FROM looks;
-- an app while the setting is unset, or empty, although there are rows of the chatbot ''
SET ROLE regress_cwh_a;
RESET chatwebhook.chatbot;
:see
SET chatwebhook.chatbot = '';
SELECT relation, what, pg_temp.sees('chatwebhook.' || relation, what) AS sees FROM looks
 WHERE pg_temp.sees('chatwebhook.' || relation, what) NOT IN ('-', '0') ORDER BY 1, 2;
-- no chatbot, no pattern, no list
SELECT chatbot, x.seen
  FROM unnest('{*,%,"acme,other",ACME,"acme ",null}'::text[]) AS chatbot,
       LATERAL (SELECT set_config('chatwebhook.chatbot', chatbot, false) IS NOT NULL AS was_set OFFSET 0) s,
       LATERAL (SELECT CASE WHEN s.was_set THEN pg_temp.sees('chatwebhook.webhook', 'name') || pg_temp.sees('chatwebhook.delivery', 'id::text') END AS seen) x;
SET chatwebhook.chatbot = 'acme';
:see
-- a member of its role, likewise
SET ROLE regress_cwh_a_user;
SELECT pg_temp.sees('chatwebhook.webhook', 'name'), pg_temp.sees('chatwebhook.delivery', 'webhook_name'), pg_temp.sees('chatwebhook.webhook_health', 'name');
SET ROLE regress_cwh_b;
SET chatwebhook.chatbot = 'other';
:see
-- for the transaction only
BEGIN;
SET LOCAL chatwebhook.chatbot = 'acme';
SELECT pg_temp.sees('chatwebhook.webhook', 'name');
COMMIT;
SELECT pg_temp.sees('chatwebhook.webhook', 'name');
-- whatever was planned before
RESET chatwebhook.chatbot;
SET plan_cache_mode = force_generic_plan;
PREPARE names AS SELECT string_agg(webhook_name, ' ' ORDER BY webhook_name) AS names FROM (SELECT DISTINCT webhook_name FROM chatwebhook.delivery) d;
EXECUTE names;
SET chatwebhook.chatbot = 'other';
EXECUTE names;
SET chatwebhook.chatbot = 'acme';
EXECUTE names;
SET ROLE regress_cwh_admin;
EXECUTE names;
SELECT chatwebhook.retry_dead(dry_run => true);
SET ROLE regress_cwh_a;
EXECUTE names;
SELECT chatwebhook.retry_dead(dry_run => true);
RESET plan_cache_mode;
DEALLOCATE names;
-- for the others, the setting means nothing
SET chatwebhook.chatbot = 'acme';
SET ROLE regress_cwh_reader;
:see
SET ROLE regress_cwh_monitor;
:see
SET ROLE regress_cwh_admin;
:see
RESET ROLE;
RESET chatwebhook.chatbot;
\pset null ''

--
-- A customer at others' things
--
CREATE TEMP VIEW state AS
    SELECT (SELECT md5(string_agg(w::text, '' ORDER BY w.id)) FROM chatwebhook.webhook w WHERE w.name <> 'ours') AS webhooks,
           (SELECT md5(string_agg(v::text, '' ORDER BY v::text)) FROM chatwebhook.vault v JOIN chatwebhook.webhook w ON w.id = v.webhook_id WHERE w.name <> 'ours') AS vault,
           (SELECT md5(string_agg(d::text, '' ORDER BY d.id)) FROM chatwebhook.delivery d WHERE d.webhook_name <> 'ours') AS deliveries,
           (SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM chatwebhook.attempt t JOIN chatwebhook.webhook w ON w.id = t.webhook_id WHERE w.name <> 'ours') AS attempts,
           (SELECT md5(string_agg(e::text, '' ORDER BY e.id)) FROM chatwebhook.event e) AS events;
CREATE TEMP TABLE before AS SELECT * FROM state;
SET ROLE regress_cwh_a;
SET chatwebhook.chatbot = 'acme';
SELECT chatwebhook.retry(:all_delivery), chatwebhook.retry(:all_delivery + 1000000), chatwebhook.retry(:all_delivery + 2000000);
SELECT chatwebhook.retry(:their_delivery), chatwebhook.retry(:their_delivery + 1000000), chatwebhook.retry(:their_delivery + 2000000);
SELECT chatwebhook.cancel(:all_delivery), chatwebhook.cancel(:their_delivery);
SELECT chatwebhook._cancel(ARRAY[:all_delivery, :their_delivery]), chatwebhook._cancel(NULL), chatwebhook._cancel('{}'), chatwebhook._cancel('{NULL}');
SELECT chatwebhook._requeue(ARRAY[:all_delivery, :their_delivery, :all_delivery + 1000000, :their_delivery + 2000000]), chatwebhook._requeue(NULL);
SELECT chatwebhook._purge(ARRAY[:all_delivery + 1000000, :their_delivery + 1000000]), chatwebhook._purge(NULL);
SELECT chatwebhook._erase(ARRAY[:'their_event'::uuid]), chatwebhook._erase(NULL), chatwebhook._erase('{NULL}');
-- nor does a matrix of ids, or one that does not begin at 1
SELECT chatwebhook._cancel(ARRAY[[:all_delivery, :their_delivery], [0, 1]]), chatwebhook._purge('[5:5]={1}'::bigint[]);
SELECT chatwebhook.retry_dead(dry_run => true), chatwebhook.purge_dead_letters(dry_run => true), chatwebhook.purge_dead_letters(:'theirs'), chatwebhook.purge_dead_letters(:'all');
SELECT chatwebhook.erase_conversation('other', 'c1', true), chatwebhook.erase_conversation('other', 'c1'), chatwebhook.erase_conversation('', 'c1'),
       chatwebhook.erase_conversation('acme', 'c1', true), chatwebhook.erase_conversation(NULL, 'c1');
SELECT chatwebhook.secret('00000000-0000-0000-0000-000000000000');
\set VERBOSITY sqlstate
SELECT chatwebhook.retry_dead(:'theirs');
SELECT chatwebhook.replay(:'theirs');
SELECT chatwebhook.replay(:'all');
SELECT chatwebhook.secret(:'all');
SELECT chatwebhook.secret(:'theirs');
SELECT chatwebhook.secret(NULL);
SELECT chatwebhook.public_key(:'theirs');
SELECT chatwebhook.resume(:'theirs');
SELECT chatwebhook.resume(:'all');
SELECT chatwebhook.resume(NULL);
SELECT chatwebhook.rotate_secret(:'theirs');
SELECT chatwebhook.rotate_secret(:'theirs', '0');
SELECT chatwebhook._set_signing_secret(:'theirs', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT chatwebhook._set_signing_secret(:'all', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT chatwebhook._set_signing_secret(NULL, 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT chatwebhook.set_credential(:'theirs', 'token', 'mine');
SELECT chatwebhook.set_credential(:'theirs', 'token', NULL);
SELECT chatwebhook.test_webhook(:'theirs');
SELECT chatwebhook.test_webhook(:'all');
SELECT chatwebhook.preview(:'theirs', '{"type": "feedback.received"}');
SELECT chatwebhook._preview(:'theirs', '{}', '[]');
SELECT chatwebhook._preview(:'all', '{}', '[]');
SELECT chatwebhook._preview(NULL, '{}', '[]');
SELECT chatwebhook._preview(:'ours', NULL, NULL);
-- what only administrators do
SELECT chatwebhook.rekey();
SELECT chatwebhook.grant_admin('regress_cwh_a');
SELECT chatwebhook.grant_reader('regress_cwh_a');
SELECT chatwebhook.grant_app('regress_cwh_nobody');
SELECT chatwebhook.revoke_access('regress_cwh_b');
SELECT chatwebhook._add_grantee('regress_cwh_a', 'admin');
SELECT chatwebhook._create_policy('mine', 'regress_cwh_a', 'admin');
SELECT chatwebhook._privileges('admin');
INSERT INTO chatwebhook.grantee VALUES ('regress_cwh_a', 'admin');
DELETE FROM chatwebhook.grantee;
SELECT chatwebhook.emit('feedback.received', 'other', NULL, '{"rating": 1}');
SELECT chatwebhook._emit_to(:'theirs', false, 'feedback.received', 'other', NULL, '{"rating": 1}');
SELECT chatwebhook._emit_but(ARRAY[:'ours'::uuid], 'feedback.received', 'other', NULL, '{"rating": 1}');
SELECT chatwebhook.backfill(:'ours', 'looks', 'feedback.received');
SELECT chatwebhook.watch('looks', 'feedback.received');
SELECT chatwebhook.wait_until_idle('0');
SELECT chatwebhook.sign('body', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
INSERT INTO chatwebhook.event_type (name) VALUES ('mine');
UPDATE chatwebhook.connector SET function = NULL;
DELETE FROM chatwebhook.event_type;
-- and what nobody does
SELECT chatwebhook._open(:'theirs', 'signing_secret', '\x00');
SELECT chatwebhook._reseal(:'theirs', 'signing_secret', '\x00');
SELECT chatwebhook._seal(:'theirs', 'signing_secret', 'x');
SELECT chatwebhook._set_secret(:'theirs', 'signing_secret', 'mine');
SELECT chatwebhook._seal_new(:'theirs', 'signing_secret');
SELECT chatwebhook._do_secret(:'ours');
SELECT chatwebhook._do_rotate_secret(:'theirs', '0');
SELECT chatwebhook._do_cancel(ARRAY[:their_delivery]);
SELECT chatwebhook._wake(:'theirs');
SELECT chatwebhook._claimed(:their_delivery);
SELECT chatwebhook._set_alert(:'theirs', 'backlog', true, 'x');
SELECT chatwebhook._check_alerts(ARRAY[:'theirs'::uuid]);
SELECT * FROM chatwebhook._all_in_flight();
SELECT * FROM chatwebhook._all_gates();
SELECT chatwebhook._restoring();
\set VERBOSITY default
-- no function that begins with _do_ can be called by anybody else, nor one that opens or seals
SELECT p.proname, r FROM pg_proc p, unnest('{regress_cwh_nobody,regress_cwh_reader,regress_cwh_monitor,regress_cwh_a,regress_cwh_admin}'::text[]) AS r
 WHERE p.pronamespace = 'chatwebhook'::regnamespace AND p.proname ~ '^_(do|open|seal|reseal|set_secret|set_alert|check_alerts|check_backlog|add_grantee|create_policy|grant)'
   AND has_function_privilege(r, p.oid, 'EXECUTE');
-- what everybody may call shows nothing of the workers
SELECT count(*) FROM chatwebhook._workers();
-- a webhook for another's chatbot, or for every one
\set VERBOSITY terse
SELECT chatwebhook.create_webhook('mine', 'https://acme.example/', chatbot_id => 'other');
SELECT chatwebhook.create_webhook('mine', 'https://acme.example/', chatbot_id => NULL);
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('mine', 'https://acme.example/', 'other');
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('mine', 'https://acme.example/', NULL);
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('mine', 'https://acme.example/', '');
UPDATE chatwebhook.webhook SET chatbot_id = 'other';
UPDATE chatwebhook.webhook SET chatbot_id = NULL;
UPDATE chatwebhook.webhook SET id = :'theirs';
INSERT INTO chatwebhook.webhook (id, name, url) VALUES (:'theirs', 'mine', 'https://acme.example/')
    ON CONFLICT (id) DO UPDATE SET url = excluded.url;
\set VERBOSITY default
INSERT INTO chatwebhook.webhook (id, name, url) VALUES (:'theirs', 'mine', 'https://acme.example/') ON CONFLICT DO NOTHING RETURNING name;
-- others' rows are not there to be changed
UPDATE chatwebhook.webhook SET enabled = false WHERE id IN (:'theirs', :'all') RETURNING name;
DELETE FROM chatwebhook.webhook WHERE id IN (:'theirs', :'all') RETURNING name;
SELECT name FROM chatwebhook.webhook WHERE id IN (:'theirs', :'all') FOR UPDATE;
TRUNCATE chatwebhook.webhook;
COPY chatwebhook.webhook (name) TO STDOUT;
COPY chatwebhook.event (chatbot_id) TO STDOUT;
SET row_security = off;
SELECT name FROM chatwebhook.webhook;
SELECT chatbot_id FROM chatwebhook.event;
SELECT webhook_name FROM chatwebhook.delivery;
SELECT chatwebhook.secret(:'theirs');
SELECT chatwebhook._cancel(ARRAY[:their_delivery]);
RESET row_security;
ALTER TABLE chatwebhook.webhook DISABLE ROW LEVEL SECURITY;
DROP POLICY monitor ON chatwebhook.webhook;
CREATE POLICY mine ON chatwebhook.webhook USING (true);
-- nor do a query's own functions see them before they are left out
CREATE FUNCTION pg_temp.leak(seen text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    IF seen !~ 'ours|acme|c1' THEN
        RAISE NOTICE 'leaked: %', seen;
    END IF;
    RETURN true;
END
$$;
SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name <> 'ours' AND pg_temp.leak(webhook_name);
SELECT count(*) FROM chatwebhook.delivery WHERE pg_temp.leak(webhook_name);
SELECT count(*) FROM chatwebhook.dead_letter WHERE pg_temp.leak(last_error);
SELECT count(*) FROM chatwebhook.webhook_health WHERE pg_temp.leak(name);
SELECT count(*) FROM chatwebhook.attempt WHERE pg_temp.leak(response_body);
SELECT count(*) FROM chatwebhook.alert WHERE pg_temp.leak(message);
SELECT count(*) FROM chatwebhook.history WHERE pg_temp.leak(webhook_name);
SELECT count(*) FROM chatwebhook.dead WHERE pg_temp.leak(webhook_name);
SELECT count(*) FROM chatwebhook.event WHERE pg_temp.leak(chatbot_id);
SELECT count(*) FROM chatwebhook.webhook WHERE pg_temp.leak(name);
SELECT count(*) > 0 AS some FROM chatwebhook.metrics WHERE labels ? 'webhook' AND pg_temp.leak(labels->>'webhook');
-- the planner's samples neither
SELECT count(*) FROM pg_stats WHERE schemaname = 'chatwebhook' AND tablename IN ('webhook', 'event', 'queue', 'history', 'dead', 'attempt', 'health', 'alert', 'vault');
RESET ROLE;
-- nothing has come of it
SELECT s.* = b.* AS unchanged FROM state s, before b;

-- what INSERTs of chats need is not theirs to lock, nor an administrator's
DO $$
DECLARE
    who  text;
    rel  text;
    mode text;
BEGIN
    FOREACH who IN ARRAY '{regress_cwh_nobody,regress_cwh_reader,regress_cwh_monitor,regress_cwh_a,regress_cwh_admin}'::text[] LOOP
        FOREACH rel IN ARRAY '{event,queue,vault,history,dead,attempt,health,alert,activity,grantee}'::text[] LOOP
            FOREACH mode IN ARRAY '{ACCESS EXCLUSIVE,EXCLUSIVE,SHARE ROW EXCLUSIVE,SHARE,SHARE UPDATE EXCLUSIVE}'::text[] LOOP
                BEGIN
                    EXECUTE format('SET LOCAL ROLE %I; LOCK TABLE chatwebhook.%I IN %s MODE', who, rel, mode);
                    RAISE WARNING '% has locked % in % mode', who, rel, mode;
                EXCEPTION WHEN insufficient_privilege THEN
                    NULL;
                END;
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;
SET ROLE regress_cwh_admin;
BEGIN;
LOCK TABLE chatwebhook.event IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
SET ROLE regress_cwh_a;
BEGIN;
LOCK TABLE chatwebhook.queue IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
-- LOCK of a view locks what it reads
BEGIN;
LOCK TABLE chatwebhook.delivery IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
SELECT id FROM chatwebhook.event FOR UPDATE;
SELECT id FROM chatwebhook.queue FOR SHARE;
RESET ROLE;

-- a filter decides over the events of its own chatbot only: what it says of others is nothing
SET ROLE regress_cwh_a;
UPDATE chatwebhook.webhook SET filter = '$.data.rating > 5 && $.chatbotId == "other"';
SET ROLE regress_cwh_writer;
INSERT INTO regress_cwh_message VALUES ('acme', 'c2', 9), ('other', 'c2', 9);
RESET ROLE;
SELECT w.name, count(*) FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id GROUP BY 1 ORDER BY 1;

--
-- A customer at its own things
--
SET ROLE regress_cwh_a_user;
SELECT chatwebhook.retry(:our_delivery), chatwebhook.retry(:our_delivery + 1000000), chatwebhook.retry(:our_delivery + 2000000);
SELECT chatwebhook.cancel(:our_delivery);
SELECT chatwebhook.secret(:'ours') = :'our_secret' AS same, chatwebhook.rotate_secret(:'ours') <> :'our_secret' AS rotated;
SELECT chatwebhook.set_credential(:'ours', 'token', 'new'), chatwebhook.public_key(:'ours') IS NULL AS no_public_key;
SELECT url FROM chatwebhook.preview(:'ours', '{"type": "feedback.received"}');
UPDATE chatwebhook.webhook SET timeout = '200 ms';
SELECT success FROM chatwebhook.test_webhook(:'ours');
SELECT id AS mine FROM chatwebhook.create_webhook('mine', 'https://acme.example/', signing => 'v1a') \gset
SELECT chatwebhook.public_key(:'mine') LIKE 'whpk\_%' AS public_key;
SELECT secret FROM chatwebhook.create_webhook('mine', 'https://acme.example/', secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('mine too', 'https://acme.example/', 'acme');
UPDATE chatwebhook.webhook SET max_retries = 1 WHERE name LIKE 'mine%';
SELECT name, state FROM chatwebhook.webhook_health ORDER BY name;
DELETE FROM chatwebhook.webhook WHERE name LIKE 'mine%';
-- among others' ids, its own count
SELECT chatwebhook._cancel(ARRAY[:their_delivery, :our_delivery, :our_delivery + 2000000, :all_delivery, NULL]),
       chatwebhook._requeue(ARRAY[:their_delivery, :our_delivery + 1000000, :all_delivery + 1000000]),
       chatwebhook._purge(ARRAY[:their_delivery + 1000000, :our_delivery + 1000000, :all_delivery + 1000000]);
SELECT id - :our_delivery AS delivery, status FROM chatwebhook.delivery ORDER BY id;
RESET ROLE;
SELECT s.webhooks = b.webhooks AS webhooks, s.vault = b.vault AS vault FROM state s, before b;
-- erasing one's own conversation takes it from the webhook of every chatbot as well, and another's of the same name stays
SET ROLE regress_cwh_a;
SELECT chatwebhook.erase_conversation('acme', 'c1');
RESET ROLE;
SELECT chatbot_id, conversation_id FROM chatwebhook.event ORDER BY 1, 2;

--
-- What one role made, used by another
--
SET ROLE regress_cwh_b;
SET chatwebhook.chatbot = 'other';
CREATE VIEW public.regress_cwh_events AS SELECT chatbot_id FROM chatwebhook.event;
CREATE VIEW public.regress_cwh_health AS SELECT name FROM chatwebhook.webhook_health;
CREATE VIEW public.regress_cwh_deliveries AS SELECT webhook_name FROM chatwebhook.delivery;
CREATE VIEW public.regress_cwh_letters AS SELECT event FROM chatwebhook.dead_letter;
CREATE VIEW public.regress_cwh_metrics AS SELECT labels->>'webhook' AS name FROM chatwebhook.metrics WHERE labels ? 'webhook';
CREATE VIEW public.regress_cwh_over AS SELECT * FROM public.regress_cwh_health;
CREATE VIEW public.regress_cwh_invoker WITH (security_invoker) AS SELECT name FROM chatwebhook.webhook;
CREATE VIEW public.regress_cwh_workers AS SELECT pid FROM chatwebhook.worker_status;
CREATE FUNCTION public.regress_cwh_names() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS
    'SELECT name FROM chatwebhook.webhook ORDER BY name';
CREATE FUNCTION public.regress_cwh_secret(uuid) RETURNS text LANGUAGE sql SECURITY DEFINER AS
    'SELECT chatwebhook.secret($1)';
CREATE FUNCTION public.regress_cwh_redirect(uuid) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS
    'UPDATE chatwebhook.webhook SET url = ''https://mallory.example/'' WHERE id = $1 RETURNING name';
CREATE FUNCTION public.regress_cwh_cancel(bigint[]) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
    'SELECT chatwebhook._cancel($1)';
GRANT SELECT ON public.regress_cwh_events, public.regress_cwh_health, public.regress_cwh_deliveries, public.regress_cwh_letters,
    public.regress_cwh_metrics, public.regress_cwh_over, public.regress_cwh_invoker, public.regress_cwh_workers TO PUBLIC;
RESET ROLE;
CREATE TEMP TABLE made (relation text, what text);
INSERT INTO made VALUES ('events', 'chatbot_id'), ('health', 'name'), ('deliveries', 'webhook_name'), ('letters', 'event->>''chatbotId'''),
    ('metrics', 'name'), ('over', 'name'), ('invoker', 'name'), ('workers', '''rows'''), ('names()', 'regress_cwh_names');
GRANT SELECT ON made TO PUBLIC;
\pset null (refused)
\set see 'SELECT relation, pg_temp.sees(''public.regress_cwh_'' || relation, what) AS sees FROM made ORDER BY 1;'
-- B itself
SET ROLE regress_cwh_b;
:see
-- While nothing names a chatbot, what has the rights of B (events, names()) shows
-- nothing to anybody.  A view over one of ours, which has the rights of whoever
-- reads it, shows what that role could read without it; never more.
RESET chatwebhook.chatbot;
SET ROLE regress_cwh_nobody;
:see
SET ROLE regress_cwh_a;
:see
SET ROLE regress_cwh_reader;
:see
SET ROLE regress_cwh_admin;
:see
RESET ROLE;
:see
-- with A's chatbot, they show what B itself could see with that: no webhook of every chatbot
SET chatwebhook.chatbot = 'acme';
SET ROLE regress_cwh_a;
:see
SET ROLE regress_cwh_nobody;
:see
RESET ROLE;
:see
-- what has the rights of B reaches nobody's
RESET chatwebhook.chatbot;
\pset null ''
\set VERBOSITY sqlstate
SET ROLE regress_cwh_nobody;
SELECT public.regress_cwh_secret(:'ours');
SELECT public.regress_cwh_secret(:'all');
SELECT public.regress_cwh_redirect(:'ours'), public.regress_cwh_redirect(:'all');
SELECT public.regress_cwh_cancel(ARRAY[:all_delivery]);
SET ROLE regress_cwh_admin;
SELECT public.regress_cwh_secret(:'ours');
SELECT public.regress_cwh_secret(:'all');
SELECT public.regress_cwh_redirect(:'ours'), public.regress_cwh_redirect(:'all');
SELECT public.regress_cwh_cancel(ARRAY[:all_delivery]);
RESET ROLE;
SELECT public.regress_cwh_secret(:'ours');
SELECT public.regress_cwh_secret(:'all');
SELECT public.regress_cwh_redirect(:'ours'), public.regress_cwh_redirect(:'all');
SELECT public.regress_cwh_cancel(ARRAY[:all_delivery]);
SET chatwebhook.chatbot = 'other';
SELECT public.regress_cwh_secret(:'all');
SELECT public.regress_cwh_redirect(:'all');
SELECT public.regress_cwh_redirect(:'ours');
SELECT public.regress_cwh_cancel(ARRAY[:all_delivery]);
\set VERBOSITY default
SELECT name FROM chatwebhook.webhook WHERE url ~ 'mallory';
-- an administrator's view shows what the administrator sees, if it reads a table
SET ROLE regress_cwh_admin;
CREATE VIEW public.regress_cwh_all AS SELECT name FROM chatwebhook.webhook;
CREATE VIEW public.regress_cwh_all_health AS SELECT name FROM chatwebhook.webhook_health;
GRANT SELECT ON public.regress_cwh_all, public.regress_cwh_all_health TO regress_cwh_nobody;
SET ROLE regress_cwh_nobody;
SELECT name FROM public.regress_cwh_all ORDER BY name;
\set VERBOSITY sqlstate
SELECT name FROM public.regress_cwh_all_health ORDER BY name;
\set VERBOSITY default
RESET ROLE;
DROP VIEW public.regress_cwh_all, public.regress_cwh_all_health;
-- maintenance runs a table's functions as its owner, also when a superuser does it, who sees everything
CREATE TABLE public.regress_cwh_loot (seen text);
ALTER TABLE public.regress_cwh_loot OWNER TO regress_cwh_b;
CREATE TABLE public.regress_cwh_ids AS SELECT id FROM chatwebhook.delivery;
GRANT SELECT ON public.regress_cwh_ids TO regress_cwh_b;
SET chatwebhook.chatbot = 'other';
SET ROLE regress_cwh_b;
CREATE FUNCTION public.regress_cwh_take() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.regress_cwh_loot
    SELECT concat_ws(' ', current_user, 'has', count(*), 'event of', coalesce(chatbot_id, 'nobody')) FROM chatwebhook.event GROUP BY chatbot_id
    UNION ALL
    SELECT concat_ws(' ', current_user, 'has the secret of', name, left(chatwebhook.secret(id), 6)) FROM chatwebhook.webhook
    UNION ALL
    SELECT concat_ws(' ', current_user, 'sees', webhook_name) FROM chatwebhook.delivery GROUP BY webhook_name
    UNION ALL
    SELECT concat_ws(' ', current_user, 'purged', chatwebhook._purge(ARRAY(SELECT id FROM public.regress_cwh_ids)));
END
$$;
CREATE FUNCTION public.regress_cwh_steal(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM public.regress_cwh_take();
    RETURN n;
END
$$;
CREATE MATERIALIZED VIEW public.regress_cwh_view AS SELECT name FROM chatwebhook.webhook WITH NO DATA;
CREATE TABLE public.regress_cwh_bait (n integer);
CREATE INDEX regress_cwh_index ON public.regress_cwh_bait (public.regress_cwh_steal(n));
GRANT INSERT ON public.regress_cwh_bait TO PUBLIC;
GRANT SELECT ON public.regress_cwh_view TO PUBLIC;
-- B itself
BEGIN;
INSERT INTO public.regress_cwh_bait VALUES (1);
SELECT DISTINCT seen FROM public.regress_cwh_loot ORDER BY seen;
ROLLBACK;
RESET chatwebhook.chatbot;
INSERT INTO public.regress_cwh_bait VALUES (1);
DELETE FROM public.regress_cwh_loot;
RESET ROLE;
REFRESH MATERIALIZED VIEW public.regress_cwh_view;
SELECT * FROM public.regress_cwh_view;
ANALYZE public.regress_cwh_bait;
REINDEX TABLE public.regress_cwh_bait;
VACUUM (FULL, ANALYZE) public.regress_cwh_bait;
SELECT DISTINCT seen FROM public.regress_cwh_loot ORDER BY seen;
DELETE FROM public.regress_cwh_loot;
SET chatwebhook.chatbot = 'acme';
REINDEX TABLE public.regress_cwh_bait;
REFRESH MATERIALIZED VIEW public.regress_cwh_view;
SELECT DISTINCT seen FROM public.regress_cwh_loot ORDER BY seen;
SELECT * FROM public.regress_cwh_view;
DELETE FROM public.regress_cwh_loot;
RESET chatwebhook.chatbot;
-- whoever inserts into it runs them with his own rights, as anywhere in PostgreSQL, and nobody has any
SET ROLE regress_cwh_nobody;
\set VERBOSITY sqlstate
INSERT INTO public.regress_cwh_bait VALUES (2);
\set VERBOSITY default
RESET ROLE;
DROP TABLE public.regress_cwh_bait, public.regress_cwh_loot, public.regress_cwh_ids;
DROP FUNCTION public.regress_cwh_steal(integer), public.regress_cwh_take(), public.regress_cwh_names(), public.regress_cwh_secret(uuid), public.regress_cwh_redirect(uuid), public.regress_cwh_cancel(bigint[]);
DROP MATERIALIZED VIEW public.regress_cwh_view;
DROP VIEW public.regress_cwh_events, public.regress_cwh_over, public.regress_cwh_health, public.regress_cwh_deliveries, public.regress_cwh_letters,
    public.regress_cwh_metrics, public.regress_cwh_invoker, public.regress_cwh_workers;

--
-- Others at what they may do
--
SET ROLE regress_cwh_admin;
SELECT chatwebhook.secret(:'theirs') IS NOT NULL AS secret, chatwebhook.cancel(:their_delivery) AS cancel, chatwebhook.retry(:all_delivery + 1000000) AS retry;
INSERT INTO chatwebhook.event_type (name) VALUES ('order.placed');
CREATE TEMP TABLE own (rating integer);
SELECT chatwebhook.watch('own', 'feedback.received');
UPDATE chatwebhook.webhook SET chatbot_id = 'other' WHERE name = 'empty';
\set VERBOSITY sqlstate
SELECT chatwebhook.rekey();
SELECT count(*) FROM chatwebhook.vault;
SELECT chatwebhook._open(:'theirs', 'signing_secret', '\x00');
SELECT chatwebhook._do_secret(:'theirs');
DELETE FROM chatwebhook.event;
INSERT INTO chatwebhook.grantee VALUES ('regress_cwh_nobody', 'admin');
CREATE TRIGGER t AFTER INSERT ON chatwebhook.webhook FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SET ROLE regress_cwh_reader;
SELECT chatwebhook.secret(:'theirs');
SELECT chatwebhook.cancel(:all_delivery);
SELECT chatwebhook.retry(:all_delivery);
SELECT headers FROM chatwebhook.webhook;
SELECT * FROM chatwebhook.dead_letter;
SELECT chatwebhook.grant_admin('regress_cwh_reader');
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'https://example.com/');
UPDATE chatwebhook.webhook SET enabled = false;
DELETE FROM chatwebhook.webhook;
SET ROLE regress_cwh_monitor;
SELECT chatwebhook.secret(:'theirs');
SELECT url FROM chatwebhook.webhook;
SELECT * FROM chatwebhook.delivery;
RESET ROLE;
\set VERBOSITY default
-- what a reader and pg_monitor see is for SELECT: further privileges let them change nothing
GRANT UPDATE, DELETE ON chatwebhook.webhook TO regress_cwh_reader, regress_cwh_monitor;
SET ROLE regress_cwh_reader;
UPDATE chatwebhook.webhook SET enabled = false RETURNING name;
DELETE FROM chatwebhook.webhook RETURNING name;
SET ROLE regress_cwh_monitor;
UPDATE chatwebhook.webhook SET enabled = false RETURNING name;
RESET ROLE;
REVOKE UPDATE, DELETE ON chatwebhook.webhook FROM regress_cwh_reader, regress_cwh_monitor;

--
-- Granting again, another kind, and taking back
--
CREATE TEMP VIEW has AS
    SELECT r.rolname AS role,
           (SELECT count(*) FROM pg_policies p WHERE p.schemaname = 'chatwebhook' AND p.roles @> ARRAY[r.rolname]) AS policies,
           (SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'chatwebhook'::regnamespace AND a.grantee = r.oid) AS tables,
           (SELECT count(*) FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a WHERE c.relnamespace = 'chatwebhook'::regnamespace AND a.grantee = r.oid) AS columns,
           (SELECT count(*) FROM pg_proc p, aclexplode(p.proacl) a WHERE p.pronamespace = 'chatwebhook'::regnamespace AND a.grantee = r.oid) AS functions,
           has_schema_privilege(r.oid, 'chatwebhook', 'USAGE') AS schema
      FROM pg_roles r WHERE r.rolname ~ '^regress_cwh';
CREATE TEMP TABLE had AS SELECT * FROM has;
SELECT chatwebhook.grant_app('regress_cwh_a'), chatwebhook.grant_admin('regress_cwh_admin'), chatwebhook.grant_reader('regress_cwh_reader');
SELECT * FROM has EXCEPT SELECT * FROM had;
-- what was taken away by hand comes back
DO $$
DECLARE
    policy name;
BEGIN
    SELECT policyname INTO STRICT policy FROM pg_policies WHERE tablename = 'event' AND roles = '{regress_cwh_a}';
    EXECUTE format('DROP POLICY %I ON chatwebhook.event', policy);
    REVOKE ALL ON chatwebhook.webhook FROM regress_cwh_a;
END
$$;
SELECT chatwebhook.grant_app('regress_cwh_a');
SELECT * FROM has EXCEPT SELECT * FROM had;
-- kinds add up, and taking them back takes all of them
SELECT chatwebhook.grant_reader('regress_cwh_nobody'), chatwebhook.grant_admin('regress_cwh_nobody');
-- what these have cannot be granted, and so not be revoked
SELECT chatwebhook.grant_reader('pg_monitor');
SELECT access FROM chatwebhook.grantee WHERE role = 'regress_cwh_nobody'::regrole ORDER BY 1;
SELECT h.role, h.policies, h.columns = r.columns AND h.functions = a.functions AS both
  FROM has h, had a, had r WHERE h.role = 'regress_cwh_nobody' AND a.role = 'regress_cwh_admin' AND r.role = 'regress_cwh_reader';
SET ROLE regress_cwh_admin;
SELECT chatwebhook.revoke_access('regress_cwh_nobody');
RESET ROLE;
SELECT * FROM has EXCEPT SELECT * FROM had;
SET ROLE regress_cwh_nobody;
SELECT name FROM chatwebhook.webhook;
RESET ROLE;
SELECT chatwebhook.revoke_access('regress_cwh_missing'), chatwebhook.revoke_access('regress_cwh_nobody');
-- an administrator may take back his own
SELECT chatwebhook.grant_admin('regress_cwh_nobody');
SET ROLE regress_cwh_nobody;
SELECT chatwebhook.revoke_access('regress_cwh_nobody');
SELECT chatwebhook.grant_admin('regress_cwh_nobody');
RESET ROLE;
-- all within a transaction, and back
BEGIN;
SELECT chatwebhook.grant_admin('regress_cwh_nobody');
SELECT chatwebhook.revoke_access('regress_cwh_b');
ROLLBACK;
SELECT * FROM has EXCEPT SELECT * FROM had;

--
-- A role that is renamed keeps what it has; one that is dropped leaves nothing
--
ALTER ROLE regress_cwh_b RENAME TO "regress cwh ""B""";
SELECT role, access FROM chatwebhook.grantee WHERE access = 'app' ORDER BY role::text;
SET ROLE "regress cwh ""B""";
SET chatwebhook.chatbot = 'other';
SELECT name FROM chatwebhook.webhook ORDER BY name;
RESET ROLE;
SELECT chatwebhook.grant_app('regress cwh "B"');
-- while it has access, it cannot be dropped
REVOKE CREATE ON SCHEMA public FROM "regress cwh ""B""";
\set VERBOSITY terse
DROP ROLE "regress cwh ""B""";
\set VERBOSITY default
SELECT chatwebhook.revoke_access('regress cwh "B"');
DROP ROLE "regress cwh ""B""";
CREATE ROLE "regress cwh ""B""";
SET ROLE "regress cwh ""B""";
SELECT name FROM chatwebhook.webhook ORDER BY name;
RESET ROLE;
DROP ROLE "regress cwh ""B""";
SELECT count(*) AS left FROM chatwebhook.grantee g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role);
-- DROP OWNED takes it back as well, and the row that stays is not dumped
CREATE ROLE regress_cwh_c;
SELECT chatwebhook.grant_app('regress_cwh_c');
\set dumped 'SELECT ''SELECT count(*) AS dumped FROM chatwebhook.grantee '' || u.condition FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS u(relation, condition) WHERE x.extname = ''chatwebhook'' AND u.relation = ''chatwebhook.grantee''::regclass \\gexec'
:dumped
DROP OWNED BY regress_cwh_c;
:dumped
SET ROLE regress_cwh_c;
SELECT name FROM chatwebhook.webhook;
RESET ROLE;
-- it can be granted again
SELECT chatwebhook.grant_app('regress_cwh_c');
:dumped
SET ROLE regress_cwh_c;
SELECT name FROM chatwebhook.webhook ORDER BY name;
RESET ROLE;
-- the next grant forgets those that are gone
DROP OWNED BY regress_cwh_c;
DROP ROLE regress_cwh_c;
:dumped
CREATE ROLE regress_cwh_c;
SELECT count(*) AS left FROM chatwebhook.grantee g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role);
SELECT chatwebhook.grant_app('regress_cwh_c');
SELECT count(*) AS left FROM chatwebhook.grantee g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role);
SELECT role, access FROM chatwebhook.grantee ORDER BY role::text COLLATE "C";
-- a number that is no role's, as an older dump may have
INSERT INTO chatwebhook.grantee VALUES (1, 'admin');
SELECT count(*) FROM chatwebhook.grantee WHERE role = 1;
-- no other kind
INSERT INTO chatwebhook.grantee VALUES ('regress_cwh_c', 'owner');
-- a member that does not inherit has nothing of its group's until it becomes that
CREATE ROLE regress_cwh_agent NOINHERIT IN ROLE regress_cwh_a;
SELECT chatwebhook.grant_reader('regress_cwh_agent');
SET ROLE regress_cwh_agent;
SET chatwebhook.chatbot = 'acme';
SELECT name FROM chatwebhook.webhook_health ORDER BY name;
UPDATE chatwebhook.webhook SET enabled = false;
SET ROLE regress_cwh_a;
SELECT name FROM chatwebhook.webhook_health ORDER BY name;
RESET ROLE;
RESET chatwebhook.chatbot;
DROP OWNED BY regress_cwh_agent;
DROP ROLE regress_cwh_agent;

DROP TABLE regress_cwh_message;
SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
DROP OWNED BY regress_cwh_writer, regress_cwh_nobody, regress_cwh_reader, regress_cwh_admin, regress_cwh_monitor, regress_cwh_a,
    regress_cwh_a_user, regress_cwh_c;
DROP ROLE regress_cwh_writer, regress_cwh_nobody, regress_cwh_reader, regress_cwh_admin, regress_cwh_monitor, regress_cwh_a,
    regress_cwh_a_user, regress_cwh_c;
