--
-- The schema as people and tools meet it: what is there, documented, owned,
-- granted and dumped.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- everything in the extension
CREATE TEMP VIEW members AS
    SELECT d.classid, d.objid
      FROM pg_depend d
      JOIN pg_extension x ON x.oid = d.refobjid
     WHERE d.refclassid = 'pg_extension'::regclass
       AND d.deptype = 'e' AND x.extname = 'chatwebhook';
CREATE TEMP VIEW relations AS
    SELECT c.*
      FROM members m
      JOIN pg_class c ON c.oid = m.objid
     WHERE m.classid = 'pg_class'::regclass;
CREATE TEMP VIEW functions AS
    SELECT p.*, p.oid::regprocedure::text AS signature
      FROM members m
      JOIN pg_proc p ON p.oid = m.objid
     WHERE m.classid = 'pg_proc'::regclass;

-- what people read and write, column by column
SELECT c.relname AS relation, a.attname AS "column",
       format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS "not null",
       pg_get_expr(d.adbin, d.adrelid) AS "default"
  FROM relations c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relname IN ('webhook', 'event_type', 'connector', 'event', 'attempt', 'memory', 'delivery',
                     'dead_letter', 'webhook_health', 'worker_status', 'grantee',
                     'alert', 'watched', 'emit_failure')
 ORDER BY c.relname, a.attnum;

-- and call
\pset format unaligned
SELECT p.proname AS function, p.provolatile AS volatile, p.proisstrict AS strict,
       p.proparallel AS parallel, p.prosecdef AS definer,
       pg_get_function_arguments(p.oid) AS arguments,
       pg_get_function_result(p.oid) AS result
  FROM functions p
 WHERE p.proname NOT LIKE '\_%'
 ORDER BY 1, 6;
\pset format aligned

-- the types of event, with the keys that they require
SELECT name, required, shipped, description IS NOT NULL AS described
  FROM chatwebhook.event_type ORDER BY name;

-- without a comment: nothing
SELECT c.relkind, c.relname AS relation
  FROM relations c
 WHERE c.relkind NOT IN ('i', 't') AND obj_description(c.oid, 'pg_class') IS NULL
 ORDER BY 2;
SELECT c.relname AS relation, a.attname AS "column"
  FROM relations c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind NOT IN ('i', 't', 'S') AND col_description(c.oid, a.attnum) IS NULL
 ORDER BY c.relname, a.attnum;
SELECT signature FROM functions p
 WHERE obj_description(p.oid, 'pg_proc') IS NULL ORDER BY 1;
SELECT obj_description(oid, 'pg_namespace') IS NOT NULL AS commented
  FROM pg_namespace WHERE nspname = 'chatwebhook';

-- granted to PUBLIC: nothing but the functions that views, defaults, triggers and
-- functions call with the rights of their users, and those for authors of
-- connectors
SELECT 'schema' AS kind, n.nspname::text AS object, a.privilege_type
  FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
 WHERE n.nspname = 'chatwebhook' AND a.grantee = 0
UNION ALL
SELECT 'relation', c.relname, a.privilege_type
  FROM relations c,
       aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
 WHERE a.grantee = 0
UNION ALL
SELECT 'column', c.relname || '.' || t.attname, a.privilege_type
  FROM relations c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
 WHERE a.grantee = 0
UNION ALL
SELECT 'function', p.signature, a.privilege_type
  FROM functions p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
 WHERE a.grantee = 0
 ORDER BY 1, 2, 3;

-- functions with more rights than their callers, or in a language that looks
-- names up as it runs, without a search_path of their own that ends in
-- pg_temp: none (watch(), unwatch(), backfill() and _find_connector() run with
-- the caller's rights, and connectors under the search_path that
-- src/connector.c sets).  Of other settings, those that do no harm, and one that
-- keeps triggers off, with the owner's rights only.
SELECT p.signature, l.lanname, p.prosecdef, p.proconfig
  FROM functions p JOIN pg_language l ON l.oid = p.prolang
 WHERE (p.prosecdef OR l.lanname <> 'c')
   AND (p.proconfig IS NULL
        OR 'search_path=pg_catalog, pg_temp' <> ALL (p.proconfig)
        OR EXISTS (SELECT FROM unnest(p.proconfig) AS setting
                    WHERE setting NOT IN ('search_path=pg_catalog, pg_temp', 'jit=off', 'extra_float_digits=1', 'lock_timeout=500ms', 'lock_timeout=1ms', 'client_min_messages=error')
                      AND (setting <> 'session_replication_role=replica' OR NOT p.prosecdef)))
   AND p.proname NOT IN ('watch', 'unwatch', 'backfill', '_find_connector')
   AND (p.prosecdef OR NOT EXISTS (
        SELECT FROM chatwebhook.connector c
         WHERE p.proname IN (c.name, '_line', '_text', '_history', '_score', '_amount', '_address', '_link', '_fields', '_details')
            OR starts_with(p.proname::text, '_' || c.name || '_')))
 ORDER BY 1;

-- a guarded function runs with the rights of its caller, and has a twin with the
-- owner's that takes the same, and that nobody else may call: the C function
-- looks at nothing of that
SELECT p.signature, p.prosecdef, t.signature AS twin, t.prosecdef, t.proacl
  FROM functions p
  LEFT JOIN functions t
    ON t.proname = '_do_' || ltrim(p.proname, '_') AND t.proargtypes = p.proargtypes
   AND t.prorettype = p.prorettype AND t.proallargtypes IS NOT DISTINCT FROM p.proallargtypes
   AND t.provolatile = p.provolatile AND t.proisstrict = p.proisstrict AND t.proretset = p.proretset
 WHERE p.prosrc = 'chatwebhook_guarded'
   AND (p.prosecdef OR t.prosecdef IS NOT TRUE
        OR EXISTS (SELECT FROM aclexplode(coalesce(t.proacl, acldefault('f', t.proowner))) a
                    WHERE a.grantee <> t.proowner));
SELECT count(*) > 10 AS guarded FROM functions p WHERE p.prosrc = 'chatwebhook_guarded';

-- tables are logged, and pg_dump takes all of them and the sequence
SELECT relname FROM relations WHERE relpersistence <> 'p';
SELECT c.relname AS "not dumped"
  FROM relations c, pg_extension x
 WHERE c.relkind IN ('r', 'S') AND x.extname = 'chatwebhook' AND c.oid <> ALL (x.extconfig)
 ORDER BY 1;
SELECT u.relation::regclass, u.condition
  FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS u(relation, condition)
 WHERE x.extname = 'chatwebhook' ORDER BY u.relation::regclass::text;

-- the extension stays where it is
ALTER EXTENSION chatwebhook SET SCHEMA public;

-- it takes everything with it, its schema too
DROP VIEW functions, relations, members;
DROP EXTENSION chatwebhook;
SELECT nspname AS "left" FROM pg_namespace WHERE nspname = 'chatwebhook';
SET client_min_messages = error;
DROP SCHEMA IF EXISTS chatwebhook;
RESET client_min_messages;

-- a schema that somebody else has prepared is refused
CREATE ROLE regress_chatwebhook_squatter;
CREATE SCHEMA chatwebhook AUTHORIZATION regress_chatwebhook_squatter;
CREATE EXTENSION chatwebhook;
DROP SCHEMA chatwebhook;
DROP ROLE regress_chatwebhook_squatter;

-- names that are taken are refused too
CREATE SCHEMA chatwebhook;
CREATE TABLE chatwebhook.event (id integer);
SET client_min_messages = error;
\set VERBOSITY sqlstate
CREATE EXTENSION chatwebhook;
\set VERBOSITY default
DROP SCHEMA chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- a trigger keeps the extension from being dropped by accident
CREATE TABLE chat (rating integer);
CREATE TRIGGER feedback AFTER INSERT ON chat
    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('feedback.received', '*');
DROP EXTENSION chatwebhook;
DROP EXTENSION chatwebhook CASCADE;
INSERT INTO chat VALUES (1);
DROP TABLE chat;
DROP SCHEMA IF EXISTS chatwebhook;
