/*
 * From a chat row to an event: the trigger, and functions that write it.
 *
 * watch() and backfill() run with the rights and the search_path of their caller,
 * because condition, query and expressions are the caller's SQL.  What they
 * execute is written by _watch_statements() and _backfill_statement(), which see
 * neither that search_path nor anything in it.
 */
CREATE FUNCTION chatwebhook.emit() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_trigger'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.emit() IS
    'Trigger function that emits an event for each row. Use it AFTER INSERT, UPDATE or DELETE, FOR EACH ROW, or FOR EACH STATEMENT with a transition table. The first argument is the event type. Each further one is key=column, key (short for key=key) or, for a constant, key=@text or key=:json. * stands for all other columns. chatbotId and conversationId fill the envelope, all other keys make data. Values are converted as by to_jsonb(), using the default DateStyle, IntervalStyle, bytea_output, and extra_float_digits, and UTC, regardless of the session''s settings. An event that cannot be emitted is handled as chatwebhook.on_emit_error says.';

CREATE FUNCTION chatwebhook.wanted(type text, chatbot_id text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_wanted'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.wanted(text, text) IS
    'Returns whether an enabled webhook subscribes to events of this type and this chatbot (null: events without a chatbot). Call it to avoid gathering data for emit() that nobody wants.';

CREATE FUNCTION chatwebhook._watch_details(trigger_id oid, raise boolean,
    OUT arguments text[], OUT keys text[], OUT problem text)
    AS 'MODULE_PATHNAME', 'chatwebhook_watch_details'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._watch_details(oid, boolean) IS
    'Returns the arguments of a trigger that calls emit(), the keys of its data, and its problem, if any; with raise, the problem is an error.';

CREATE FUNCTION chatwebhook._condition_is_harmless(trigger_id oid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_condition_is_harmless'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._condition_is_harmless(oid) IS
    'Returns false if the condition of this trigger could raise an error in the statement that fires it, or take long.';

CREATE FUNCTION chatwebhook._mapping(
    relation   regclass,
    mapping    jsonb,
    OUT key    text,
    OUT origin text)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    value jsonb;
BEGIN
    IF jsonb_typeof(mapping) <> 'object' THEN
        RAISE EXCEPTION 'mapping is not an object: %', left(mapping::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
    END IF;
    FOR key, value IN SELECT j.key, j.value FROM jsonb_each(mapping) AS j LOOP
        IF key IN ('', '()') OR strpos(key, '=') > 0 OR octet_length(key) > 63 THEN
            RAISE EXCEPTION 'invalid key in mapping: "%"', left(key, 100)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A key has 1 to 63 bytes, is not (), and does not contain =.';
        END IF;
        IF jsonb_typeof(value) <> 'string' THEN
            -- a constant; those of the envelope are texts
            origin := CASE WHEN key IN ('chatbotId', 'conversationId') THEN '@' ELSE ':' END || value;
        ELSE
            origin := value #>> '{}';
        END IF;
        IF octet_length(origin) > 1000000 THEN
            RAISE EXCEPTION 'the value of key "%" in the mapping is too long', key
                USING ERRCODE = 'program_limit_exceeded';
        END IF;
        IF NOT (key = '*' AND origin = '*') AND left(origin, 1) <> ALL ('{@,:,=}') AND NOT EXISTS (
            SELECT FROM pg_attribute a
             WHERE a.attrelid = relation AND a.attname = origin
               AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', left(origin, 100),
                    (SELECT c.relname FROM pg_class c WHERE c.oid = relation)
                USING ERRCODE = 'undefined_column',
                      DETAIL = format('The mapping names it for the key "%s".', key),
                      HINT = CASE WHEN origin ~ E'^\\w*$' THEN 'Write a constant with a leading @.'
                                  ELSE format('Write an expression over NEW and OLD with a leading =, such as "=NEW.%s".',
                                              regexp_replace(left(origin, 100), '^(new|old)[.]', '', 'i')) END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._mapping(regclass, jsonb) IS
    'Checks a mapping, for watch() and backfill(), and returns its keys with the origin of each: a column, or @text, :json or =expression.';

CREATE FUNCTION chatwebhook._mapping_query(relation regclass, mapping jsonb, "row" text) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT concat('SELECT ', string_agg(
               CASE WHEN m.key = '*' AND m.origin = '*' THEN (
                        SELECT string_agg(format('%s.%I', "row", a.attname), E',\n' ORDER BY a.attnum)
                          FROM pg_attribute a
                         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
                           AND NOT coalesce(mapping, '{}') ? a.attname
                           AND a.attname <> ALL (array_remove(ARRAY[mapping ->> 'chatbotId', mapping ->> 'conversationId'], NULL)))
                    WHEN left(m.origin, 1) = '=' THEN format(E'(%s\n) AS %I', substr(m.origin, 2), m.key)
                    WHEN left(m.origin, 1) = '@' THEN format('%L::pg_catalog.text AS %I', substr(m.origin, 2), m.key)
                    WHEN left(m.origin, 1) = ':' THEN format('%L::pg_catalog.jsonb AS %I', substr(m.origin, 2), m.key)
                    ELSE format('%s.%I AS %I', "row", m.origin, m.key) END, E',\n'))
      FROM chatwebhook._mapping(relation, mapping) AS m
$$;
COMMENT ON FUNCTION chatwebhook._mapping_query(regclass, jsonb, text) IS
    'Returns a mapping as a query over a row, NEW or OLD.';

CREATE FUNCTION chatwebhook._select(query text, condition text) RETURNS text
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- on lines of their own, for a comment at the end
    SELECT concat(E'(\n', regexp_replace(query, E'[\\s;]+$', ''), E'\n) q', E' WHERE (\n' || condition || E'\n)')
$$;
COMMENT ON FUNCTION chatwebhook._select(text, text) IS
    'Returns the end of a statement that selects from the query, as q, if the condition holds.';

CREATE FUNCTION chatwebhook._watch_name(event_type text, operation text) RETURNS name
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    column_pattern constant text := E'("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)';
    part_pattern   constant text := format(E'(insert|delete|update(\\s+of\\s+%1$s(\\s*,\\s*%1$s)*)?)', column_pattern);
    operations     text[];
    name           text;
BEGIN
    IF operation !~* format(E'^\\s*%1$s(\\s+or\\s+%1$s)*\\s*$', part_pattern) THEN
        RAISE EXCEPTION 'unknown operation: "%"', left(operation, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use INSERT, UPDATE, UPDATE OF column, or DELETE, or several joined by OR.';
    END IF;
    operations := ARRAY(SELECT o FROM unnest('{insert,update,delete}'::text[]) WITH ORDINALITY AS u (o, n)
                         WHERE regexp_replace(operation, E'"([^"]|"")+"', '', 'g') ~* format(E'(^|\\s)%s(\\s|$)', o) ORDER BY n);
    name := format('chatwebhook_%s_%s', event_type, array_to_string(operations, '_'));
    IF octet_length(name) > 63 THEN
        name := concat(left(name, 54), '_', left(md5(name), 8));
    END IF;
    RETURN name;
END
$$;
COMMENT ON FUNCTION chatwebhook._watch_name(text, text) IS
    'Returns the name of the trigger that watch() creates, and, if it is free, of its view.';

CREATE FUNCTION chatwebhook._watch_statements(
    relation regclass, event_type text, mapping jsonb, condition text, operation text,
    query text, replace boolean, replicated boolean, caller_path text, in_when boolean)
    RETURNS text[]
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    watch_name  constant name := chatwebhook._watch_name(event_type, operation);
    is_delete   constant boolean := watch_name ~ '_delete$' AND operation ~* E'^\\s*delete\\s*$';
    old_view    constant regclass := chatwebhook._query_view(watch_name, relation);
    table_name  text;
    is_temporary boolean;
    view        text;
    path        text;
    arguments   text;
    statements  text[] := '{}';
BEGIN
    -- a view of that name can be another table's
    SELECT format('%I.%I', n.nspname, c.relname), c.relpersistence = 't',
           coalesce(old_view::text,
                    format('%I.%I', n.nspname,
                           CASE WHEN EXISTS (SELECT FROM pg_class o WHERE o.relname = watch_name AND o.relnamespace = n.oid)
                                THEN concat(left(watch_name, 54), '_', left(md5(c.relname), 8)) ELSE watch_name END))
      INTO table_name, is_temporary, view
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = relation;
    SELECT string_agg(concat(', ', quote_literal(CASE WHEN m.key = '*' AND m.origin = '*' THEN '*' ELSE concat(m.key, '=', m.origin) END)), '')
      INTO arguments
      FROM chatwebhook._mapping(relation, coalesce(mapping, '{"*": "*"}')) AS m;

    IF query IS NULL
       AND (EXISTS (SELECT FROM chatwebhook._mapping(relation, mapping) AS m WHERE left(m.origin, 1) = '=')
            OR condition IS NOT NULL AND NOT in_when) THEN
        IF NOT is_delete AND operation ~* E'(^|\\s)delete(\\s|$)' THEN
            RAISE EXCEPTION 'a mapping with expressions cannot be used for DELETE together with other operations'
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'Call watch() twice, or use a query with coalesce(NEW.id, OLD.id).';
        END IF;
        query := chatwebhook._mapping_query(relation, coalesce(mapping, '{"*": "*"}'),
                                            CASE WHEN is_delete THEN 'OLD' ELSE 'NEW' END);
    END IF;

    IF query IS NOT NULL AND chatwebhook._citus_method(relation) = 'distributed' THEN
        RAISE EXCEPTION 'a watch of a distributed table cannot have a query, an expression, or a condition that could fail'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'They would be stored as a view on this node, but the trigger runs on the node of each row.',
                  HINT = 'Use columns and constants, and a condition that compares columns with constants.';
    END IF;
    IF query IS NOT NULL THEN
        arguments := ', ''()''';
        -- functions that the query calls run with the search_path of watch()'s
        -- caller, except that temporary tables come last
        SELECT concat(string_agg(concat(btrim(m[1]), ', '), '' ORDER BY n), 'pg_temp') INTO path
          FROM regexp_matches(caller_path, E'("(?:[^"]|"")*"|[^,"]+)', 'g') WITH ORDINALITY AS u (m, n)
         WHERE lower(btrim(m[1], E' "\n\t')) NOT LIKE 'pg\_temp%' AND btrim(m[1], E' "\n\t') <> '';
        -- the shape is what src/query.c expects
        statements := ARRAY[
            format('CREATE OR REPLACE %sVIEW %s AS SELECT pg_catalog.to_jsonb(q.*) AS event, %L::pg_catalog.text AS search_path, %L::pg_catalog.text AS trigger FROM %5$s AS new LEFT JOIN %5$s AS old ON false CROSS JOIN LATERAL %6$s',
                   CASE WHEN is_temporary THEN 'TEMPORARY ' END, view, path, watch_name, table_name, chatwebhook._select(query, CASE WHEN NOT in_when THEN condition END)),
            format('COMMENT ON VIEW %s IS %L', view,
                   format('Query of chatwebhook.watch(): event is what becomes of a row of %s when it is inserted. Dropped by chatwebhook.unwatch().', table_name))];
    ELSIF old_view IS NOT NULL THEN
        statements := ARRAY[format('DROP VIEW %s', old_view)];
    END IF;
    RETURN statements || format('CREATE %s TRIGGER %I AFTER %s ON %s FOR EACH ROW %s EXECUTE FUNCTION chatwebhook.emit(%L%s)',
                                CASE WHEN replace THEN 'OR REPLACE' END, watch_name, operation, table_name,
                                CASE WHEN in_when THEN format(E'WHEN (\n%s\n)', condition) END,
                                event_type, arguments)
        || CASE WHEN replicated THEN ARRAY[format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', table_name, watch_name)] END;
END
$$;
COMMENT ON FUNCTION chatwebhook._watch_statements(regclass, text, jsonb, text, text, text, boolean, boolean, text, boolean) IS
    'Returns the statements by which watch() creates the trigger and, for a query, expressions, or a condition that is kept out of the WHEN clause, its view.';

CREATE FUNCTION chatwebhook._missing_key(event_type text, keys text[]) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT r FROM chatwebhook.event_type t, unnest(t.required) AS r
     WHERE t.name = event_type AND r <> ALL (keys) LIMIT 1
$$;
COMMENT ON FUNCTION chatwebhook._missing_key(text, text[]) IS
    'Returns a key that events of this type require but that is not among these, or null.';

CREATE FUNCTION chatwebhook._check_watch(event_type text, keys text[]) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing constant text := chatwebhook._missing_key(event_type, keys);
BEGIN
    -- what emit() would find at the first row
    IF chatwebhook._setting('chatwebhook.validation') <> 'error' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM chatwebhook.event_type t WHERE t.name = event_type) THEN
        RAISE EXCEPTION 'unknown event type: "%"', event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'See the table chatwebhook.event_type, or add the type there first.';
    END IF;
    IF '?column?' = ANY (keys) THEN
        RAISE EXCEPTION 'a column of the query has no name'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The names of the columns are the keys of the event: add AS and a name.';
    END IF;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'event "%" requires the key "%", which is missing', event_type, missing
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('The keys are: %s.', coalesce(nullif(array_to_string(keys, ', '), ''), 'none')),
                  HINT = 'Map the key to a column, to an expression with a leading =, or to a constant with a leading @; or give a column of the query this name.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_watch(text, text[]) IS
    'Raises an error if emit() would refuse each event of this type with these keys.';

CREATE FUNCTION chatwebhook._watch_warnings(
    trigger_id oid, arguments text[],
    OUT message text, OUT hint text, OUT is_problem boolean)
    RETURNS SETOF record
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH mapped AS (
        SELECT split_part(u.argument, '=', 1) AS key,
               CASE WHEN strpos(u.argument, '=') > 0 THEN substr(u.argument, strpos(u.argument, '=') + 1) ELSE u.argument END AS origin
          FROM unnest(arguments[2:]) AS u (argument)
         WHERE u.argument <> ALL ('{*,()}')
    ), required AS (
        SELECT r.key, a.attname, a.attnotnull, a.atttypid, t.example -> r.key AS example, t.name, tg.oid AS trigger_id
          FROM pg_trigger tg
          JOIN chatwebhook.event_type t ON t.name = arguments[1]
         CROSS JOIN unnest(t.required) AS r (key)
          LEFT JOIN mapped m ON m.key = r.key
          JOIN pg_attribute a ON a.attrelid = tg.tgrelid AND a.attnum > 0 AND NOT a.attisdropped
                             AND a.attname = coalesce(m.origin, CASE WHEN '*' = ANY (arguments) THEN r.key END)
         WHERE tg.oid = trigger_id
    )
    SELECT format('event "%s" requires the key "%s", but column "%s" can be null', r.name, r.key, r.attname),
           format('A row without it emits no event. Add the condition NEW.%I IS NOT NULL, or map the key to an expression such as "=coalesce(NEW.%1$I, ...)".', r.attname),
           true
      FROM required r
     WHERE NOT r.attnotnull
       AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = r.atttypid AND t.typnotnull)
       AND strpos(pg_get_triggerdef(r.trigger_id), format('new.%I IS NOT NULL', r.attname)) = 0
    UNION ALL
    SELECT format('event "%s" requires the key "%s", but the mapping makes it null', t.name, m.key), 'Map it to a column, or to another constant.', true
      FROM mapped m JOIN chatwebhook.event_type t ON t.name = arguments[1] AND m.key = ANY (t.required)
     WHERE m.origin = ':null'
    UNION ALL
    SELECT format('table "%s" is in a subscription, whose rows do not fire the trigger', c.relname),
           'To emit events for rows that logical replication applies, call watch() with replicated => true and replace => true.', true
      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
     WHERE t.oid = trigger_id AND t.tgenabled = 'O'
       AND EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = t.tgrelid)
    UNION ALL
    SELECT CASE c.method
               WHEN 'reference' THEN format('table "%s" is a reference table of Citus, each of whose rows emits an event on every node', c.relname)
               ELSE format('table "%s" is a distributed table of Citus, on whose nodes there is no query', c.relname) END,
           CASE c.method
               WHEN 'reference' THEN 'Call unwatch(), and watch a distributed table.'
               ELSE 'Call watch() with replace => true, and without query, expressions, or a condition that could fail.' END,
           true
      FROM (SELECT c.relname, chatwebhook._citus_method(t.tgrelid) AS method
              FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE t.oid = trigger_id) c
     WHERE c.method = 'reference'
        OR c.method = 'distributed' AND '()' = ANY (arguments)
    UNION ALL
    SELECT format('the key "%s" of event "%s" is usually a number, but column "%s" has type %s', r.key, r.name, r.attname, format_type(r.atttypid, NULL)),
           'Receivers may expect a number.', false
      FROM required r JOIN pg_type t ON t.oid = r.atttypid
     WHERE jsonb_typeof(r.example) = 'number' AND t.typcategory <> 'N' AND t.typname NOT IN ('json', 'jsonb')
$$;
COMMENT ON FUNCTION chatwebhook._watch_warnings(oid, text[]) IS
    'Returns what may be wrong with a trigger that calls emit() with these arguments. A problem means that rows may emit nothing.';

/*
 * Citus calls triggers on distributed tables unsafe, because a trigger may touch
 * rows on other nodes.  emit() writes to its own node only.
 */
CREATE FUNCTION chatwebhook._citus_method(relation regclass) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    method text;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE $query$
            SELECT CASE WHEN p.partmethod = 'n' AND p.repmodel = 't' THEN 'reference'
                        WHEN p.partmethod <> 'n' OR p.colocationid <> 0 THEN 'distributed' END
              FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = $1$query$
           INTO method USING relation;
    END IF;
    RETURN method;
END
$$;
COMMENT ON FUNCTION chatwebhook._citus_method(regclass) IS
    'Returns whether this is a reference or a distributed table of Citus; null if it is neither.';

CREATE FUNCTION chatwebhook._check_watched_relation(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    kind "char";
    name name;
BEGIN
    SELECT c.relkind, c.relname INTO kind, name FROM pg_class c WHERE c.oid = relation;
    IF kind IS NULL THEN
        RAISE EXCEPTION 'relation % does not exist', relation::oid
            USING ERRCODE = 'undefined_table';
    ELSIF kind IN ('v', 'm') THEN
        RAISE EXCEPTION '"%" is a view', name
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Watch the tables that the view reads, with a query if it takes values from several.';
    ELSIF kind <> ALL ('{r,p,f}') THEN
        RAISE EXCEPTION '"%" is not a table', name
            USING ERRCODE = 'wrong_object_type';
    ELSIF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relnamespace = 'chatwebhook'::regnamespace) THEN
        RAISE EXCEPTION '"%" is a table of chatwebhook itself', name
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Subscribe a webhook to webhook.* for events about webhooks.';
    ELSIF chatwebhook._citus_method(relation) = 'reference' THEN
        RAISE EXCEPTION '"%" is a reference table of Citus', name
            USING ERRCODE = 'wrong_object_type',
                  DETAIL = 'Each row is on every node, and would emit an event on each of them.',
                  HINT = 'Watch a distributed table, or call emit() where the row is inserted.';
    ELSIF chatwebhook._citus_method(relation) = 'distributed'
          AND NOT coalesce(current_setting('citus.enable_unsafe_triggers', true)::boolean, false) THEN
        RAISE EXCEPTION '"%" is a distributed table of Citus, which does not allow triggers', name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Citus calls them unsafe, as a trigger could change rows on other nodes. emit() writes on the node of the row only.',
                  HINT = 'Set citus.enable_unsafe_triggers = on, on all nodes.';
    ELSIF EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
                   WHERE i.inhparent = relation AND c.relkind = 'r') THEN
        RAISE NOTICE 'rows of tables that inherit from "%" do not fire its triggers', name
            USING HINT = 'Watch these tables as well.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_watched_relation(regclass) IS
    'Raises an error if this relation cannot be watched.';

CREATE FUNCTION chatwebhook._explain_missing(relation regclass, sql text) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing text;
BEGIN
    SELECT coalesce(replace(m[2], '""', '"'), lower(m[3])) INTO missing
      FROM regexp_matches(replace(sql, E'\\"', '"'), E'\\m(?:new|old)\\.("((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))', 'gi') AS m
     WHERE NOT EXISTS (SELECT FROM pg_attribute a
                        WHERE a.attrelid = relation AND NOT a.attisdropped
                          AND a.attname = coalesce(replace(m[2], '""', '"'), lower(m[3])))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of relation "%" does not exist', missing,
                (SELECT c.relname FROM pg_class c WHERE c.oid = relation)
            USING ERRCODE = 'undefined_column',
                  HINT = 'NEW and OLD have the columns of the table. Write names with upper-case letters in double quotes.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._explain_missing(regclass, text) IS
    'Raises an error that names a column of NEW or OLD that does not exist. PostgreSQL itself would say that a FROM-clause entry for table "new" is missing.';

CREATE FUNCTION chatwebhook.watch(
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT NULL,
    condition  text DEFAULT NULL,
    operation  text DEFAULT 'INSERT',
    query      text DEFAULT NULL,
    replace    boolean DEFAULT false,
    replicated boolean DEFAULT false)
    RETURNS name
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
#variable_conflict use_variable
DECLARE
    caller_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    watch_name  pg_catalog.name;
    statement   pg_catalog.text;
    in_when     pg_catalog.bool;
    trigger_id  pg_catalog.oid;
    details     pg_catalog.record;
    warning     pg_catalog.record;
BEGIN
    IF relation IS NULL OR event_type IS NULL OR operation IS NULL THEN
        RAISE EXCEPTION 'watch() needs a relation, an event type and an operation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF pg_catalog.octet_length(event_type) OPERATOR(pg_catalog.>) 255 THEN
        RAISE EXCEPTION 'invalid event type: "%"', pg_catalog.left(event_type, 100)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF mapping IS NOT NULL AND query IS NOT NULL THEN
        RAISE EXCEPTION 'watch() takes a mapping or a query, not both'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The columns of the query are the keys; name two of them "chatbotId" and "conversationId".';
    END IF;
    PERFORM chatwebhook._check_watched_relation(relation);
    watch_name := chatwebhook._watch_name(event_type, operation);
    IF NOT COALESCE(replace, false) AND EXISTS (
        SELECT FROM pg_catalog.pg_trigger t
         WHERE t.tgrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid AND t.tgname OPERATOR(pg_catalog.=) watch_name) THEN
        RAISE EXCEPTION 'trigger "%" for table "%" already exists', watch_name, relation
            USING ERRCODE = 'duplicate_object',
                  HINT = 'To change the watch, add replace => true.';
    END IF;
    -- names of types and operations can combine to the same name
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger t, chatwebhook._watch_details(t.oid, false) AS d
                WHERE t.tgrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid AND t.tgname OPERATOR(pg_catalog.=) watch_name
                  AND (d.arguments)[1] OPERATOR(pg_catalog.<>) event_type) THEN
        RAISE EXCEPTION 'trigger "%" for table "%" emits events of another type', watch_name, relation
            USING ERRCODE = 'duplicate_object',
                  HINT = 'Rename that trigger, or create one for this type with CREATE TRIGGER and chatwebhook.emit().';
    END IF;

    -- try the WHEN clause first; a condition that could fail, or that PostgreSQL
    -- does not allow there, goes into a view, so that its errors are caught
    FOREACH in_when IN ARRAY ARRAY[true, false] LOOP
        BEGIN
            FOREACH statement IN ARRAY chatwebhook._watch_statements(relation, event_type, mapping, condition, operation, query,
                                                                     COALESCE(replace, false), COALESCE(replicated, false), caller_path, in_when AND condition IS NOT NULL) LOOP
                EXECUTE statement;
            END LOOP;
            SELECT t.oid INTO trigger_id FROM pg_catalog.pg_trigger t
             WHERE t.tgrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid AND t.tgname OPERATOR(pg_catalog.=) watch_name;
            EXIT WHEN NOT in_when OR condition IS NULL OR chatwebhook._condition_is_harmless(trigger_id);
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported';
        EXCEPTION
            WHEN undefined_table OR undefined_column THEN
                PERFORM chatwebhook._explain_missing(relation, pg_catalog.concat(mapping::pg_catalog.text, query, ' ', condition));
                RAISE;
            WHEN feature_not_supported OR invalid_object_definition THEN
                -- OLD is an error with INSERT alone, but not with INSERT OR UPDATE
                IF NOT in_when OR condition IS NULL
                   OR SQLSTATE OPERATOR(pg_catalog.=) '42P17' AND operation OPERATOR(pg_catalog.!~*) E'\\sor\\s' THEN
                    RAISE;
                END IF;
        END;
    END LOOP;

    SELECT d.* INTO details FROM chatwebhook._watch_details(trigger_id, true) AS d;
    PERFORM chatwebhook._check_watch(event_type, details.keys);
    IF pg_catalog.has_function_privilege('chatwebhook._forget_failures(oid)', 'EXECUTE') THEN
        PERFORM chatwebhook._forget_failures(trigger_id);
    END IF;
    IF mapping IS NULL AND query IS NULL THEN
        RAISE NOTICE 'events "%" will have all columns of "%": %', event_type, relation, pg_catalog.array_to_string(details.keys, ', ')
            USING HINT = pg_catalog.concat(CASE WHEN '*' OPERATOR(pg_catalog.=) ANY (details.arguments) THEN 'Columns that are added later will be sent, too. ' END,
                                           'To choose, name the columns in the mapping.');
    END IF;
    FOR warning IN SELECT w.message, w.hint FROM chatwebhook._watch_warnings(trigger_id, details.arguments) AS w LOOP
        RAISE NOTICE '%', warning.message USING HINT = warning.hint;
    END LOOP;
    RETURN watch_name;
END
$$;
COMMENT ON FUNCTION chatwebhook.watch(regclass, text, jsonb, text, text, text, boolean, boolean) IS
    'Creates a trigger that emits events for the rows of a table, and returns its name. mapping: for each key of the event a column, "@text" or any JSON but a string for a constant, or "=expression" over NEW and OLD; "chatbotId" and "conversationId" fill the envelope; null sends the whole row. query: instead, a SELECT that can use NEW and OLD, each of whose rows becomes an event. condition: an expression over NEW and OLD. operation: INSERT, UPDATE, UPDATE OF columns, DELETE, or several joined by OR. Query and expressions run with the rights of the caller of watch(), in a read-only subtransaction, for at most chatwebhook.emit_timeout. With replace, an existing watch for this type and these operations is changed. With replicated, rows that logical replication applies emit as well, except those of the initial copy.';

CREATE FUNCTION chatwebhook.unwatch(
    relation   regclass,
    event_type text,
    operation  text DEFAULT NULL)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
#variable_conflict use_variable
DECLARE
    watch       pg_catalog.record;
    found_any   pg_catalog.bool := false;
BEGIN
    FOR watch IN SELECT w.trigger_id, w.trigger_name, w.table_name, w.view
                   FROM chatwebhook._watches(relation, event_type, operation) AS w LOOP
        IF pg_catalog.has_function_privilege('chatwebhook._forget_failures(oid)', 'EXECUTE') THEN
            PERFORM chatwebhook._forget_failures(watch.trigger_id);
        END IF;
        EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', watch.trigger_name, watch.table_name);
        IF watch.view IS NOT NULL THEN
            EXECUTE pg_catalog.format('DROP VIEW %s', watch.view);
        END IF;
        found_any := true;
    END LOOP;
    RETURN found_any;
END
$$;
COMMENT ON FUNCTION chatwebhook.unwatch(regclass, text, text) IS
    'Drops what watch() created for this relation and event type, for the given operation or, if it is null, for all operations. Returns false if there was nothing to drop.';

CREATE FUNCTION chatwebhook._watches(
    relation regclass, event_type text, operation text,
    OUT trigger_id oid, OUT trigger_name name, OUT table_name text, OUT view text)
    RETURNS SETOF record
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT t.oid, t.tgname, t.tgrelid::regclass::text, chatwebhook._query_view(t.tgname, t.tgrelid)::text
      FROM pg_trigger t
     WHERE t.tgrelid = relation AND t.tgfoid = 'chatwebhook.emit()'::regprocedure AND t.tgparentid = 0
       AND t.tgname IN (SELECT chatwebhook._watch_name(event_type, o)
                          FROM unnest(CASE WHEN operation IS NULL
                                           THEN '{insert,update,delete,insert or update,insert or delete,update or delete,insert or update or delete}'::text[]
                                           ELSE ARRAY[operation] END) AS o)
$$;
COMMENT ON FUNCTION chatwebhook._watches(regclass, text, text) IS
    'Returns the triggers that watch() has created for this relation and event type, with the view of each, if it has one.';

CREATE FUNCTION chatwebhook._query_view(trigger_name name, relation regclass) RETURNS regclass
    AS 'MODULE_PATHNAME', 'chatwebhook_query_view'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._query_view(name, regclass) IS
    'Returns the view that has the query of this trigger, or null.';

CREATE FUNCTION chatwebhook._to_jsonb(value anyelement) RETURNS jsonb
    AS 'MODULE_PATHNAME', 'chatwebhook_to_jsonb'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._to_jsonb(anyelement) IS
    'Like to_jsonb(), but independent of the session''s TimeZone, DateStyle, IntervalStyle, bytea_output, and extra_float_digits, as in emit().';

CREATE FUNCTION chatwebhook._backfill_statement(
    webhook_id uuid, owner text, ordered boolean, relation regclass, event_type text,
    mapping jsonb, condition text, query text, dry_run boolean)
    RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('SELECT pg_catalog.count(%s) FROM (SELECT chatwebhook._to_jsonb(q.*) AS row FROM %2$s AS new LEFT JOIN %2$s AS old ON false CROSS JOIN LATERAL %3$s) AS r WHERE %4$s',
                  CASE WHEN dry_run THEN '*'
                       ELSE format($call$chatwebhook._emit_to(%L, %L, %L, r.row OPERATOR(pg_catalog.->>) 'chatbotId', r.row OPERATOR(pg_catalog.->>) 'conversationId',
                                                               r.row OPERATOR(pg_catalog.-) '{chatbotId,conversationId}'::pg_catalog.text[])$call$,
                                   webhook_id, ordered, event_type) END,
                  relation,
                  chatwebhook._select(coalesce(query, chatwebhook._mapping_query(relation, coalesce(mapping, '{"*": "*"}'), 'NEW'), 'SELECT'), condition),
                  -- a chatbot's webhook gets that chatbot's rows only
                  CASE WHEN owner IS NULL THEN 'true'
                       ELSE format($owner$r.row OPERATOR(pg_catalog.->>) 'chatbotId' OPERATOR(pg_catalog.=) %L$owner$, owner) END)
$$;
COMMENT ON FUNCTION chatwebhook._backfill_statement(uuid, text, boolean, regclass, text, jsonb, text, text, boolean) IS
    'Returns the statement by which backfill() emits.';

CREATE FUNCTION chatwebhook.backfill(
    webhook_id uuid,
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT NULL,
    condition  text DEFAULT NULL,
    query      text DEFAULT NULL,
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
#variable_conflict use_variable
DECLARE
    owner       pg_catalog.text;
    ordered     pg_catalog.bool;
    keys        pg_catalog.text[];
    result      pg_catalog.int8;
BEGIN
    IF webhook_id IS NULL OR relation IS NULL OR event_type IS NULL THEN
        RAISE EXCEPTION 'backfill() needs a webhook, a relation and an event type'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF mapping IS NOT NULL AND query IS NOT NULL THEN
        RAISE EXCEPTION 'backfill() takes a mapping or a query, not both'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF chatwebhook._setting('chatwebhook.outbox')::pg_catalog.bool THEN
        RAISE EXCEPTION 'backfill() does not work while chatwebhook.outbox is on'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Call it on the delivery node, if that has the table. Otherwise, call emit() here for the rows: these events go to every webhook that wants them.';
    END IF;
    SELECT w.chatbot_id, w.ordered INTO owner, ordered FROM chatwebhook.webhook w WHERE w.id OPERATOR(pg_catalog.=) webhook_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'webhook "%" does not exist', webhook_id
            USING ERRCODE = 'no_data_found';
    END IF;
    IF query IS NULL THEN
        SELECT pg_catalog.array_agg(m.key) INTO keys
          FROM chatwebhook._mapping(relation, mapping) AS m;
        IF mapping IS NULL OR mapping OPERATOR(pg_catalog.->>) '*' OPERATOR(pg_catalog.=) '*' THEN
            keys := pg_catalog.array_cat(keys, ARRAY(
                SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid
                   AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped));
        END IF;
        PERFORM chatwebhook._check_watch(event_type, COALESCE(keys, '{}'));
    END IF;
    -- _emit_to() counts
    PERFORM chatwebhook._progress('backfill', 0, NULL);
    EXECUTE chatwebhook._backfill_statement(webhook_id, owner, ordered, relation, event_type, mapping, condition, query, dry_run)
       INTO result;
    PERFORM chatwebhook._progress('backfill', NULL, NULL);
    RETURN result;
END
$$;
COMMENT ON FUNCTION chatwebhook.backfill(uuid, regclass, text, jsonb, text, text, boolean) IS
    'Emits events for the existing rows of the table, to this webhook only and regardless of its events and filter. Returns the number of events. Mapping, condition and query are as for watch(), with each row as NEW. A chatbot''s webhook gets that chatbot''s rows only. With dry_run, nothing is emitted.';
