--
-- Every object against every kind of role: what has been granted, and what
-- works or is refused when it is tried.  Only here do tenants stand beside each
-- other, beside a webhook of every chatbot, and beside roles with other grants.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
SELECT clock_timestamp() AS dropped_at \gset
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

CREATE ROLE regress_cwh_app;
CREATE ROLE regress_cwh_reader;
CREATE ROLE regress_cwh_admin;
CREATE ROLE regress_cwh_monitor IN ROLE pg_monitor;
CREATE ROLE regress_cwh_acme;
CREATE ROLE regress_cwh_acme_user IN ROLE regress_cwh_acme;
CREATE ROLE regress_cwh_other;
CREATE ROLE regress_cwh_greedy;
SELECT chatwebhook.grant_reader('regress_cwh_reader'), chatwebhook.grant_admin('regress_cwh_admin'),
       chatwebhook.add_tenant('regress_cwh_acme', 'acme'), chatwebhook.add_tenant('regress_cwh_other', 'other'),
       chatwebhook.add_tenant('regress_cwh_greedy', 'acme'), chatwebhook.grant_reader('regress_cwh_greedy'),
       chatwebhook.grant_admin('regress_cwh_greedy');
SELECT chatwebhook.add_tenant('regress_cwh_nobody', 'acme');
SELECT * FROM chatwebhook.tenant ORDER BY role::text;

-- a watched table, into which one role may insert, and nothing else
CREATE TABLE regress_cwh_message (bot text, rating integer);
SELECT chatwebhook.watch('regress_cwh_message', 'feedback.received', '{"chatbotId": "bot", "rating": "rating"}');
GRANT INSERT ON regress_cwh_message TO regress_cwh_app;

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
       LATERAL (SELECT pg_temp.letters('public', kind, oid) AS public, pg_temp.letters('regress_cwh_app', kind, oid) AS app,
                       pg_temp.letters('pg_monitor', kind, oid) AS monitor, pg_temp.letters('regress_cwh_reader', kind, oid) AS reader,
                       pg_temp.letters('regress_cwh_acme', kind, oid) AS tenant, pg_temp.letters('regress_cwh_admin', kind, oid) AS admin) l
 ORDER BY o.n, o.object COLLATE "C";
-- no column has more than its table
SELECT c.relname, a.attname, a.attacl FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND a.attacl IS NOT NULL;
-- nobody can give on what was given
SELECT c.relname, a.grantee::regrole FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND a.is_grantable AND a.grantee <> c.relowner;
-- row-level security
SELECT c.relname, p.polname, p.polcmd, pg_get_expr(p.polqual, p.polrelid) AS visible
  FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
 WHERE c.relnamespace = 'chatwebhook'::regnamespace AND c.relrowsecurity ORDER BY 1;
SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind = 'v' ORDER BY 1;

--
-- Two tenants, and the administrator, whose webhook gets everybody's events
--
SELECT id AS ours FROM chatwebhook.create_webhook('ours', 'https://ours.example/', chatbot_id => 'acme') \gset
SELECT id AS theirs FROM chatwebhook.create_webhook('theirs', 'https://theirs.example/', chatbot_id => 'other') \gset
SELECT id AS all FROM chatwebhook.create_webhook('all', 'https://all.example/') \gset
SELECT chatwebhook.set_credential(:'ours', 'token', 't0ken'), chatwebhook.set_credential(:'theirs', 'token', 't0ken');
SET ROLE regress_cwh_app;
INSERT INTO regress_cwh_message VALUES ('acme', 1), ('other', 2), (NULL, 3);
RESET ROLE;
INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, attempts, chatbot_id, webhook_name, status, last_error)
SELECT q.id + 1000000, q.webhook_id, q.event_id, q.created_at, now(), 1, q.chatbot_id, w.name, 'dead', 'dead ' || w.name
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at, attempts, chatbot_id, webhook_name, status, last_error)
SELECT q.id + 2000000, q.webhook_id, q.event_id, q.created_at, now(), 1, q.chatbot_id, w.name, 'canceled', 'canceled ' || w.name
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, chatbot_id, started_at, response_body)
SELECT q.id, 1, q.webhook_id, q.chatbot_id, now(), 'reply of ' || w.name
  FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id;
-- a delivery of each kind, for later
SELECT max(id) FILTER (WHERE w.name = 'ours') AS our_delivery, max(q.id) FILTER (WHERE w.name = 'theirs') AS their_delivery,
       max(q.id) FILTER (WHERE w.name = 'all' AND q.chatbot_id = 'acme') AS all_delivery
  FROM chatwebhook.queue q JOIN LATERAL (SELECT name FROM chatwebhook.webhook WHERE id = q.webhook_id) w ON true \gset

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

-- what each sees; null where it may not look
CREATE FUNCTION pg_temp.sees(relation text, what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT coalesce(string_agg(x, '' '' ORDER BY x), ''-'') FROM (SELECT DISTINCT coalesce(%s, ''null'') AS x FROM chatwebhook.%s) s', what, relation)
       INTO result;
    RETURN result;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END
$$;
CREATE TEMP TABLE looks (relation text, what text);
INSERT INTO looks VALUES ('webhook', 'name'), ('event', 'chatbot_id'), ('delivery', 'webhook_name || ''/'' || coalesce(chatbot_id, ''-'') || ''/'' || status'),
    ('attempt', 'response_body'), ('dead_letter', 'last_error'), ('webhook_health', 'name'), ('worker_status', '''rows'''),
    ('vault', 'name'), ('queue', 'chatbot_id'), ('history', 'chatbot_id'), ('dead', 'chatbot_id'), ('health', '''rows'''),
    ('tenant', 'chatbot_id'), ('event_type', '''rows'''), ('delivery_id_seq', '''rows''');
GRANT SELECT ON looks TO PUBLIC;
\pset null (refused)
\set see 'SELECT current_user AS who, relation, pg_temp.sees(relation, what) AS sees FROM looks ORDER BY relation COLLATE "C";'
SET ROLE regress_cwh_acme;
:see
SET ROLE regress_cwh_acme_user;
:see
SET ROLE regress_cwh_other;
:see
-- a tenant with the grants of a reader and an administrator sees more kinds of rows, and its own only
SET ROLE regress_cwh_greedy;
:see
SET ROLE regress_cwh_reader;
:see
SET ROLE regress_cwh_monitor;
:see
SET ROLE regress_cwh_admin;
:see
SET ROLE regress_cwh_app;
:see
RESET ROLE;
\pset null ''

--
-- A tenant at others' things
--
SET ROLE regress_cwh_acme;
SELECT chatwebhook.retry(:all_delivery), chatwebhook.retry(:all_delivery + 1000000), chatwebhook.retry(:all_delivery + 2000000);
SELECT chatwebhook.retry(:their_delivery), chatwebhook.retry(:their_delivery + 1000000), chatwebhook.retry(:their_delivery + 2000000);
SELECT chatwebhook.cancel(:all_delivery), chatwebhook.cancel(:their_delivery);
SELECT chatwebhook.secret('00000000-0000-0000-0000-000000000000');
\set VERBOSITY sqlstate
SELECT chatwebhook.secret(:'all');
SELECT chatwebhook.secret(:'theirs');
SELECT chatwebhook.public_key(:'theirs');
SELECT chatwebhook.rotate_secret(:'theirs');
SELECT chatwebhook.rotate_secret(:'theirs', '0');
SELECT chatwebhook.set_credential(:'theirs', 'token', 'mine');
SELECT chatwebhook.set_credential(:'theirs', 'token', NULL);
SELECT chatwebhook.test_webhook(:'theirs');
SELECT chatwebhook.test_webhook(:'all');
SELECT chatwebhook.rekey();
SELECT chatwebhook.add_tenant('regress_cwh_acme', 'other');
SELECT chatwebhook.grant_admin('regress_cwh_acme');
SELECT chatwebhook.emit('feedback.received', 'other', NULL, '{"rating": 1}');
SELECT chatwebhook.wait_until_idle('0');
SELECT chatwebhook._open(:'theirs', 'signing_secret', '\x00');
SELECT chatwebhook._set_secret(:'theirs', 'signing_secret', 'mine');
SELECT chatwebhook._seal_new(:'theirs', 'signing_secret', 'v1');
SELECT chatwebhook._preview(:'theirs', '{}', '[]');
SELECT chatwebhook._cancel(ARRAY[:their_delivery]);
SELECT chatwebhook._requeue(ARRAY[:their_delivery]);
SELECT chatwebhook._wake(:'theirs');
SELECT chatwebhook._invoker();
SELECT * FROM chatwebhook._all_in_flight();
SELECT * FROM chatwebhook._all_workers();
INSERT INTO chatwebhook.tenant VALUES ('regress_cwh_acme', 'other');
INSERT INTO chatwebhook.event_type (name) VALUES ('mine');
\set VERBOSITY default
-- what it may call shows its own
SELECT chatwebhook._chatbots(), chatwebhook._webhooks() = ARRAY[:'ours'::uuid] AS own;
SELECT count(*) FROM chatwebhook._sending() WHERE webhook_id <> :'ours';
SELECT count(*) FROM chatwebhook._workers();
-- a webhook for another's chatbot, or for every one
SELECT chatwebhook.create_webhook('mine', 'https://acme.example/', chatbot_id => 'other');
SELECT chatwebhook.create_webhook('mine', 'https://acme.example/');
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('mine', 'https://acme.example/', 'other');
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'https://acme.example/');
UPDATE chatwebhook.webhook SET chatbot_id = 'other';
UPDATE chatwebhook.webhook SET chatbot_id = NULL;
UPDATE chatwebhook.webhook SET id = :'theirs';
INSERT INTO chatwebhook.webhook (id, name, url, chatbot_id) VALUES (:'theirs', 'mine', 'https://acme.example/', 'acme')
    ON CONFLICT (id) DO UPDATE SET url = excluded.url;
-- others' rows are not there to be changed
UPDATE chatwebhook.webhook SET enabled = false WHERE id IN (:'theirs', :'all') RETURNING name;
DELETE FROM chatwebhook.webhook WHERE id IN (:'theirs', :'all') RETURNING name;
SELECT count(*) FROM chatwebhook.webhook FULL JOIN chatwebhook.event e ON true WHERE e.chatbot_id IS DISTINCT FROM 'acme';
TRUNCATE chatwebhook.webhook;
COPY chatwebhook.webhook (name) TO STDOUT;
SET row_security = off;
SELECT name FROM chatwebhook.webhook;
RESET row_security;
-- nor do a query's own functions see them before they are left out
CREATE FUNCTION pg_temp.leak(seen text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    RAISE NOTICE 'leaked: %', seen;
    RETURN true;
END
$$;
SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name <> 'ours' AND pg_temp.leak(webhook_name);
SELECT count(*) FROM chatwebhook.delivery WHERE pg_temp.leak(webhook_name);
SELECT count(*) FROM chatwebhook.dead_letter WHERE pg_temp.leak(last_error);
SELECT count(*) FROM chatwebhook.webhook_health WHERE pg_temp.leak(name);
SELECT count(*) FROM chatwebhook.attempt WHERE pg_temp.leak(response_body);
SELECT count(*) FROM chatwebhook.event WHERE pg_temp.leak(chatbot_id);
SELECT count(*) FROM chatwebhook.webhook WHERE pg_temp.leak(name);
RESET ROLE;
-- nothing has come of it
SELECT name, enabled, chatbot_id, url FROM chatwebhook.webhook ORDER BY name;
SELECT count(*) FROM chatwebhook.queue;
-- a filter decides over the events of its own chatbot only: what it says of others is nothing
SET ROLE regress_cwh_acme;
UPDATE chatwebhook.webhook SET filter = '$.data.rating > 5 && $.chatbotId == "other"';
SET ROLE regress_cwh_app;
INSERT INTO regress_cwh_message VALUES ('acme', 9), ('other', 9);
RESET ROLE;
SELECT w.name, count(*) FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id GROUP BY 1 ORDER BY 1;

--
-- A tenant at its own things
--
SET ROLE regress_cwh_acme_user;
SELECT chatwebhook.retry(:our_delivery), chatwebhook.retry(:our_delivery + 1000000), chatwebhook.retry(:our_delivery + 2000000);
SELECT chatwebhook.cancel(:our_delivery);
SELECT chatwebhook.secret(:'ours') = chatwebhook.secret(:'ours') AS same, chatwebhook.rotate_secret(:'ours') <> '' AS rotated;
SELECT chatwebhook.set_credential(:'ours', 'token', 'new'), chatwebhook.public_key(:'ours') IS NULL AS no_public_key;
SELECT id AS mine FROM chatwebhook.create_webhook('mine', 'https://acme.example/', chatbot_id => 'acme', signing => 'v1a') \gset
SELECT chatwebhook.public_key(:'mine') LIKE 'whpk\_%' AS public_key;
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('mine too', 'https://acme.example/', 'acme');
UPDATE chatwebhook.webhook SET max_retries = 1 WHERE name LIKE 'mine%';
SELECT name, state FROM chatwebhook.webhook_health ORDER BY name;
DELETE FROM chatwebhook.webhook WHERE name LIKE 'mine%';
RESET ROLE;
-- one chatbot more
SELECT chatwebhook.add_tenant('regress_cwh_acme', 'acme-2');
SET ROLE regress_cwh_acme;
INSERT INTO chatwebhook.webhook (name, url, chatbot_id) VALUES ('second', 'https://acme.example/', 'acme-2');
SELECT name, chatbot_id FROM chatwebhook.webhook ORDER BY name;
RESET ROLE;
-- a member that does not inherit the tenant's privileges, but has a reader's, sees no more than the tenant
CREATE ROLE regress_cwh_acme_agent NOINHERIT IN ROLE regress_cwh_acme;
SELECT chatwebhook.grant_reader('regress_cwh_acme_agent');
SET ROLE regress_cwh_acme_agent;
SELECT name FROM chatwebhook.webhook_health ORDER BY name;
RESET ROLE;
DROP OWNED BY regress_cwh_acme_agent;
DROP ROLE regress_cwh_acme_agent;

--
-- Others at what they may do
--
SET ROLE regress_cwh_admin;
SELECT chatwebhook.secret(:'theirs') IS NOT NULL AS secret, chatwebhook.cancel(:their_delivery) AS cancel, chatwebhook.retry(:all_delivery) AS retry;
INSERT INTO chatwebhook.event_type (name) VALUES ('order.placed');
CREATE TEMP TABLE own (rating integer);
SELECT chatwebhook.watch('own', 'feedback.received');
UPDATE chatwebhook.webhook SET chatbot_id = 'other' WHERE name = 'second';
\set VERBOSITY sqlstate
SELECT chatwebhook.rekey();
SELECT chatwebhook.add_tenant('regress_cwh_admin', 'acme');
SELECT count(*) FROM chatwebhook.vault;
SELECT chatwebhook._open(:'theirs', 'signing_secret', '\x00');
DELETE FROM chatwebhook.event;
CREATE TRIGGER t AFTER INSERT ON chatwebhook.webhook FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SET ROLE regress_cwh_reader;
SELECT chatwebhook.secret(:'theirs');
SELECT chatwebhook.cancel(:all_delivery);
SELECT chatwebhook.retry(:all_delivery);
INSERT INTO chatwebhook.webhook (name, url) VALUES ('mine', 'https://example.com/');
SET ROLE regress_cwh_monitor;
SELECT chatwebhook.secret(:'theirs');
SET ROLE regress_cwh_app;
SELECT chatwebhook._chatbots();
RESET ROLE;
\set VERBOSITY default

-- a tenant that is renamed stays one; one that is dropped leaves nothing to its name
ALTER ROLE regress_cwh_other RENAME TO regress_cwh_renamed;
SET ROLE regress_cwh_renamed;
SELECT name FROM chatwebhook.webhook ORDER BY name;
RESET ROLE;
DROP OWNED BY regress_cwh_renamed;
DROP ROLE regress_cwh_renamed;
CREATE ROLE regress_cwh_renamed;
SELECT chatwebhook.grant_admin('regress_cwh_renamed');
SET ROLE regress_cwh_renamed;
SELECT chatwebhook._chatbots();
RESET ROLE;
-- whoever maintains a tenant's own objects lends it no eyes
GRANT CREATE ON SCHEMA public TO regress_cwh_acme;
SET ROLE regress_cwh_acme;
CREATE MATERIALIZED VIEW public.regress_cwh_view AS SELECT name FROM chatwebhook.webhook WITH NO DATA;
CREATE FUNCTION public.regress_cwh_steal(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (SELECT count(*) FROM chatwebhook.event);
END
$$;
CREATE TABLE public.regress_cwh_bait (n integer);
CREATE INDEX ON public.regress_cwh_bait (public.regress_cwh_steal(n));
RESET ROLE;
REFRESH MATERIALIZED VIEW public.regress_cwh_view;
SET ROLE regress_cwh_acme;
INSERT INTO public.regress_cwh_bait VALUES (1);
RESET ROLE;
ANALYZE public.regress_cwh_bait;
REINDEX TABLE public.regress_cwh_bait;

DROP MATERIALIZED VIEW public.regress_cwh_view;
DROP TABLE public.regress_cwh_bait, regress_cwh_message;
DROP FUNCTION public.regress_cwh_steal(integer);
SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
DROP OWNED BY regress_cwh_app, regress_cwh_reader, regress_cwh_admin, regress_cwh_monitor, regress_cwh_acme,
    regress_cwh_acme_user, regress_cwh_greedy, regress_cwh_renamed;
DROP ROLE regress_cwh_app, regress_cwh_reader, regress_cwh_admin, regress_cwh_monitor, regress_cwh_acme,
    regress_cwh_acme_user, regress_cwh_greedy, regress_cwh_renamed;
