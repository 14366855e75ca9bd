--
-- Schemas and examples of event types, the document that openapi() makes of them,
-- and the function that holds events to them, with the errors of each.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- each shipped type has both, they agree, and an example has nothing else
SELECT name FROM chatwebhook.event_type t
 WHERE schema IS NULL OR example IS NULL
    OR chatwebhook._schema_problem(schema, required) IS NOT NULL OR NOT example ?& required
    OR NOT schema->'required' @> to_jsonb(required)
    OR EXISTS (SELECT FROM jsonb_object_keys(example) AS k WHERE NOT schema->'properties' ? k)
    OR EXISTS (SELECT FROM jsonb_array_elements_text(schema->'required') AS k WHERE NOT schema->'properties' ? k AND name <> 'conversation.ended');
SELECT string_agg(name, ' ' ORDER BY name) FROM chatwebhook.event_type WHERE shipped;

--
-- What a row may hold
--
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint    text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || left(message, 200) || ' / ' || hint;
END
$$;
CREATE TEMPORARY TABLE tried (n serial, required text[], schema jsonb, example jsonb);
INSERT INTO tried (required, schema, example) VALUES
    ('{}', NULL, NULL), ('{}', 'true', NULL), ('{}', 'false', NULL), ('{}', '{}', '{}'),
    ('{a}', '{"type": "object", "required": ["b"]}', '{"a": 0}'),
    ('{}', '{"$schema": "https://json-schema.org/draft/2020-12/schema"}', NULL),
    ('{a}', '{"additionalProperties": false, "patternProperties": {"^a$": {}}}', NULL),
    ('{a}', '{"additionalProperties": false, "properties": {"a": true}}', NULL),
    ('{a}', NULL, '{}'),
    -- these are refused
    ('{}', 'null', NULL), ('{}', '"object"', NULL), ('{}', '1', NULL), ('{}', '[]', NULL), ('{}', '[{"type": "object"}]', NULL),
    ('{}', '{"$schema": "http://json-schema.org/draft-07/schema#"}', NULL), ('{}', '{"$schema": null}', NULL),
    ('{}', '{"properties": []}', NULL), ('{}', '{"properties": null}', NULL),
    ('{}', '{"required": "a"}', NULL), ('{}', '{"required": ["a", 1]}', NULL), ('{}', '{"required": [["a"]]}', NULL), ('{}', '{"required": {"a": true}}', NULL),
    ('{a,b}', '{"properties": {"b": false}}', NULL),
    ('{a}', '{"additionalProperties": false}', NULL), ('{a}', '{"additionalProperties": false, "properties": {"b": {}}}', NULL),
    ('{}', jsonb_build_object('description', repeat('x', 65536)), NULL),
    ('{}', jsonb_build_object('enum', (SELECT jsonb_agg('1e100000'::numeric) FROM generate_series(1, 10))), NULL),
    ('{}', (repeat('{"not": ', 32) || '{}' || repeat('}', 32))::jsonb, NULL),
    ('{}', NULL, 'null'), ('{}', NULL, '[]'), ('{}', NULL, '"a"'),
    ('{}', NULL, jsonb_build_object('a', repeat('x', 65536))),
    ('{}', NULL, (repeat('{"a": ', 32) || '{}' || repeat('}', 32))::jsonb);
SELECT n, attempt(format('INSERT INTO chatwebhook.event_type (name, required, schema, example) VALUES (%L, %L, %L, %L)', 'tried.' || n, required, schema, example))
  FROM tried ORDER BY n;
SELECT attempt($$UPDATE chatwebhook.event_type SET required = '{b}' WHERE name = 'tried.8'$$);
SELECT attempt($$UPDATE chatwebhook.event_type SET schema = '[]' WHERE name = 'lead.captured'$$);
DELETE FROM chatwebhook.event_type WHERE name LIKE 'tried.%';

--
-- openapi()
--
INSERT INTO chatwebhook.event_type (name, required, schema, example, description) VALUES
    ('order.bare', '{}', NULL, NULL, NULL),
    ('order.keys', '{total,id}', NULL, '{"id": 1, "total": 2}', 'An order'),
    ('order.any', '{a}', 'true', '{"b": 1}', NULL),
    ('order.none', '{}', 'false', NULL, NULL),
    ('order.both', '{id}', '{"required": ["total"], "properties": {"total": {"type": "number"}}, "additionalProperties": false, "patternProperties": {"": {}}}', NULL, NULL),
    ('order.refs', '{}', '{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://shop.example/order",
        "$defs": {"item": {"properties": {"parts": {"type": "array", "items": {"$ref": "#/$defs/item"}}, "whole": {"$ref": "#"}}}, "a/b ~c": {"$ref": "#/$defs/a~1b ~0c/properties/x"}},
        "properties": {"items": {"type": "array", "prefixItems": [{"$ref": "#/$defs/item"}, {"$ref": "#/$defs/a~1b ~0c"}, {"$ref": "#/properties/items"}, {"$ref": "https://shop.example/other#/x"}, {"$ref": "#anchor"}]},
                       "$ref": {"type": "string"}}}', NULL, NULL);
-- past the checks
SET session_replication_role = replica;
INSERT INTO chatwebhook.event_type (name, required) VALUES ('odd name/é', '{}'), ('odd name/ü', '{}');
RESET session_replication_role;
SELECT o->>'openapi', o->'info'->>'version', o->'security', (SELECT count(*) FROM jsonb_object_keys(o->'webhooks')),
       (SELECT count(*) FROM jsonb_object_keys(o #> '{components,schemas}'))
  FROM chatwebhook.openapi() AS o;
SELECT name, chatwebhook.openapi() #> ARRAY['components', 'schemas', name, 'properties', 'data'] AS data
  FROM chatwebhook.event_type WHERE name LIKE 'order.%' ORDER BY name;
SELECT s.key, s.value FROM jsonb_each(chatwebhook.openapi() #> '{components,schemas}') AS s WHERE s.key LIKE 'order.refs..%' ORDER BY 1;
SELECT w.key, w.value #>> '{post,operationId}' AS part,
       o #>> ARRAY['components', 'schemas', w.value #>> '{post,operationId}', 'properties', 'type', 'const'] AS const
  FROM chatwebhook.openapi() AS o, jsonb_each(o->'webhooks') AS w WHERE w.key LIKE 'odd%' ORDER BY 1;
SELECT jsonb_pretty(chatwebhook.openapi() #> '{webhooks,order.keys}');
SELECT jsonb_pretty(chatwebhook.openapi() #> '{components,schemas,order.keys}');
-- an example without a required key is not shown
SELECT chatwebhook.openapi() #> '{webhooks,order.any,post,requestBody,content,application/json}';
-- without any type it is still a document
BEGIN;
DELETE FROM chatwebhook.event_type;
SELECT o->'webhooks', o #> '{components,schemas}' FROM chatwebhook.openapi() AS o;
ROLLBACK;
DELETE FROM chatwebhook.event_type WHERE name ~ '^o';

--
-- The validator
--
INSERT INTO chatwebhook.event_type (name, required, schema) VALUES
    ('order.placed', '{id}', '{"required": ["total"], "properties": {"total": {"type": "number"}, "state": {"enum": ["new", "paid"]}}}'),
    ('order.bare', '{}', NULL), ('order.unwanted', '{}', 'false');
CREATE FUNCTION validate(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    rules jsonb := schema::jsonb;
BEGIN
    IF jsonb_typeof(rules) = 'boolean' THEN
        RETURN rules;
    END IF;
    RETURN NOT EXISTS (SELECT FROM jsonb_array_elements_text(rules->'required') AS k WHERE NOT instance ? k)
       AND NOT EXISTS (SELECT FROM jsonb_each(rules->'properties') AS p
                        WHERE instance ? p.key
                          AND (p.value->>'type' <> jsonb_typeof(instance->p.key) OR NOT p.value->'enum' @> (instance->p.key)));
END
$$;
\set good '{"id": 1, "total": 2.5, "state": "paid"}'
\set bad '{"id": 1, "total": "2.5"}'
\set emitted 'WITH gone AS (DELETE FROM chatwebhook.event RETURNING id, type, data), owed AS (DELETE FROM chatwebhook.queue) SELECT type, data FROM gone ORDER BY id;'

-- its name
SET chatwebhook.schema_validator = 'validate';
SET chatwebhook.schema_validator = 'a.b.c';
SET chatwebhook.schema_validator = 'public.';
SET chatwebhook.schema_validator = 'public.validate(json, jsonb)';
SET chatwebhook.schema_validator = 'public."validate';
SET chatwebhook.schema_validator = '"public" . "validate"';
CREATE ROLE emitter;
SET ROLE emitter;
SET chatwebhook.schema_validator = '';
RESET chatwebhook.schema_validator;
RESET ROLE;

-- nobody wants it: it is not checked
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'bad');
INSERT INTO chatwebhook.webhook (name, url, events) VALUES ('all', 'https://example.com/', '{*,webhook.*}');
UPDATE chatwebhook.webhook SET events = '{order.placed,order.bare,webhook.test}';
SELECT chatwebhook.emit('order.unwanted', NULL, NULL, :'bad');
-- and now it is
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'good') IS NOT NULL;
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'bad');
SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"id": 1, "total": 1, "state": "lost"}');
SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"total": 1}');
-- no schema, and events about webhooks
SELECT chatwebhook.emit('order.bare', NULL, NULL, :'bad') IS NOT NULL;
SELECT chatwebhook.emit('webhook.test', NULL, NULL, '{"message": 1}') IS NOT NULL;
:emitted
SET chatwebhook.validation = warning;
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'bad') IS NOT NULL;
SET chatwebhook.validation = off;
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'bad') IS NOT NULL;
:emitted
RESET chatwebhook.validation;
-- a changed schema holds at once
UPDATE chatwebhook.event_type SET schema = 'true' WHERE name = 'order.placed';
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'bad') IS NOT NULL;
UPDATE chatwebhook.event_type SET schema = '{"properties": {"total": {"type": "number"}}}' WHERE name = 'order.placed';
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'bad');

-- triggers: by columns, by an expression, by a query, by a statement
:emitted
CREATE TABLE orders (id integer PRIMARY KEY, total text);
CREATE TRIGGER a AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('order.placed', 'id', 'total', 'by=@a');
INSERT INTO orders VALUES (1, 'two');
DROP TRIGGER a ON orders;
SELECT chatwebhook.watch('orders', 'order.placed', '{"id": "id", "total": "=NEW.total || ''!''"}');
INSERT INTO orders VALUES (2, 'two');
SELECT chatwebhook.watch('orders', 'order.placed', replace => true, query => 'SELECT NEW.id, t AS total FROM (VALUES (''null''::jsonb), (to_jsonb(NEW.id)), (''"x"'')) AS v (t)');
INSERT INTO orders VALUES (3, 'two');
SELECT chatwebhook.unwatch('orders', 'order.placed');
CREATE TRIGGER a AFTER INSERT ON orders REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit('order.placed', 'id', 'total', 'by=@a');
INSERT INTO orders VALUES (4, 'two'), (5, 'three');
SET chatwebhook.validation = warning;
INSERT INTO orders VALUES (6, 'two'), (7, 'three');
RESET chatwebhook.validation;
SET chatwebhook.on_emit_error = error;
INSERT INTO orders VALUES (8, 'two');
RESET chatwebhook.on_emit_error;
SELECT id, total FROM orders ORDER BY id;
:emitted

-- validators that fail: the chat goes on, and code gets the error
CREATE FUNCTION raises(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'no %', instance->'total'; END $$;
CREATE FUNCTION cancels(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = 'query_canceled'; END $$;
CREATE FUNCTION returns_null(schema json, instance jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT NULL::boolean $$;
CREATE FUNCTION loops(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;
CREATE FUNCTION writes(schema json, instance jsonb) RETURNS boolean LANGUAGE sql AS $$ DELETE FROM orders RETURNING true $$;
CREATE FUNCTION emits(schema json, instance jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT chatwebhook.emit('order.bare', NULL, NULL, '{}') IS NULL $$;
CREATE FUNCTION sets(schema json, instance jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT set_config('application_name', 'changed', false) IS NOT NULL $$;
CREATE FUNCTION takes_jsonb(schema jsonb, instance jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE FUNCTION returns_text(schema json, instance jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'true' $$;
CREATE FUNCTION returns_set(schema json, instance jsonb) RETURNS SETOF boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE FUNCTION dropped(schema json, instance jsonb) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE PROCEDURE proc(schema json, instance jsonb) LANGUAGE sql AS $$ SELECT true $$;
SET application_name = 'kept';
SELECT format('SET chatwebhook.schema_validator = %L;', 'public.' || f),
       format('SELECT attempt($$SELECT chatwebhook.emit(''order.placed'', NULL, NULL, %L)$$) AS %I;', :'good', f),
       format('INSERT INTO orders SELECT max(id) + 1, %L FROM orders;', f)
  FROM unnest('{raises,cancels,returns_null,writes,emits,sets,takes_jsonb,returns_text,returns_set,dropped,proc,missing}'::text[]) WITH ORDINALITY AS u (f, n)
 ORDER BY n \gexec
DROP FUNCTION dropped;
SET chatwebhook.schema_validator = 'public.dropped';
SELECT attempt($$SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"id": 1}')$$);
SET chatwebhook.schema_validator = 'no_such.function';
SELECT attempt($$SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"id": 1}')$$);
SET chatwebhook.schema_validator = 'public.loops';
SET chatwebhook.emit_timeout = '20ms';
SELECT attempt($$SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"id": 1}')$$);
INSERT INTO orders SELECT max(id) + 1, 'loops' FROM orders;
RESET chatwebhook.emit_timeout;
SHOW application_name;
SELECT count(*) FROM orders;
:emitted
-- under warning, they stop no event
SET chatwebhook.validation = warning;
SET chatwebhook.schema_validator = 'no_such.function';
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'good') IS NOT NULL;
SET chatwebhook.schema_validator = 'public.raises';
SELECT chatwebhook.emit('order.placed', NULL, NULL, :'good') IS NOT NULL;
SET chatwebhook.schema_validator = 'public.loops';
SET chatwebhook.emit_timeout = '20ms';
INSERT INTO orders SELECT max(id) + 1, 'looped' FROM orders;
RESET chatwebhook.emit_timeout;
:emitted
RESET chatwebhook.validation;
-- a user's own time limit ends the statement
SET statement_timeout = '20ms';
INSERT INTO orders SELECT max(id) + 1, 'canceled' FROM orders;
RESET statement_timeout;

-- rights: it runs as its owner, who need not be known to the role that emits
DROP TRIGGER a ON orders;
CREATE ROLE validator;
CREATE SCHEMA rules;
CREATE TABLE rules.used (who text, path text);
INSERT INTO rules.used VALUES ('nobody', '');
CREATE FUNCTION rules.check_rights(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% reads %, with search_path = %', current_user, (SELECT who FROM rules.used), current_setting('search_path');
    RETURN md5('') = 'd41d8cd98f00b204e9800998ecf8427e';
END
$$;
ALTER SCHEMA rules OWNER TO validator;
ALTER TABLE rules.used OWNER TO validator;
ALTER FUNCTION rules.check_rights OWNER TO validator;
REVOKE ALL ON FUNCTION rules.check_rights FROM PUBLIC;
SET chatwebhook.schema_validator = 'rules.check_rights';
CREATE TRIGGER a AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('order.placed', 'id', 'by=@a');
GRANT INSERT ON orders TO emitter;
CREATE SCHEMA evil AUTHORIZATION emitter;
SET ROLE emitter;
CREATE FUNCTION evil.md5(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'evil as %', current_user; RETURN ''; END $$;
SET search_path = evil, pg_catalog;
INSERT INTO public.orders VALUES (100, 'emitter');
SELECT current_user;
RESET search_path;
RESET ROLE;
:emitted
-- the owner lost its right
REVOKE ALL ON FUNCTION rules.check_rights FROM validator;
INSERT INTO orders VALUES (101, 'revoked');

-- the trace context
RESET chatwebhook.schema_validator;
SELECT traceparent FROM chatwebhook.event;
BEGIN;
SET LOCAL chatwebhook.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
INSERT INTO orders VALUES (200, 'traced');
SELECT chatwebhook.emit('order.bare', NULL, NULL, '{}') IS NOT NULL;
COMMIT;
INSERT INTO orders VALUES (201, 'untraced');
SET chatwebhook.traceparent = '00-00000000000000000000000000000000-00f067aa0ba902b7-01';
INSERT INTO orders VALUES (202, 'malformed');
SELECT set_config('chatwebhook.traceparent', repeat('x', 100000), false) IS NOT NULL;
INSERT INTO orders VALUES (203, 'long');
RESET chatwebhook.traceparent;
SELECT type, data->'id' AS id, traceparent FROM chatwebhook.event ORDER BY chatwebhook.event.id;

SET client_min_messages = error;
DROP EXTENSION chatwebhook CASCADE;
DROP TABLE orders;
DROP SCHEMA rules, evil CASCADE;
DROP FUNCTION attempt(text), validate, raises, cancels, returns_null, loops, writes, emits, sets, takes_jsonb, returns_text, returns_set;
DROP PROCEDURE proc;
DROP ROLE emitter, validator;
