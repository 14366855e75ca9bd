/*
 * From a chat row to an event: the trigger, and functions that write it.
 *
 * watch(), unwatch() and backfill() run with the rights and the search_path of
 * their caller, because the condition is the caller's SQL.  So they qualify
 * every function, operator and type: the caller may be a superuser, and whoever
 * can create objects in a schema of the search_path may be anybody.
 */
CREATE FUNCTION chatwebhook.emit() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_trigger'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.emit() IS
    'Trigger function that emits an event for each row. Use it AFTER INSERT, UPDATE or DELETE, FOR EACH ROW, or FOR EACH STATEMENT with a transition table. The first argument is the event type. Each further one is key=column, key (short for key=key) or, for a constant, key=@text. chatbotId and conversationId fill the envelope, all other keys make data. Without other keys, data is the whole row. Values are converted as by to_jsonb(), using the default DateStyle, IntervalStyle, bytea_output, and extra_float_digits, and UTC, regardless of the session''s settings.';

CREATE FUNCTION chatwebhook._mapping(
    relation   regclass,
    event_type text,
    mapping    jsonb,
    OUT key    text,
    OUT origin text)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    keys    text[];
    missing text;
BEGIN
    mapping := coalesce(mapping, '{}');
    IF jsonb_typeof(mapping) <> 'object' THEN
        RAISE EXCEPTION 'mapping is not an object: %', left(mapping::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
    END IF;
    FOR key, origin IN SELECT j.key, CASE jsonb_typeof(j.value) WHEN 'string' THEN j.value #>> '{}' END
                         FROM jsonb_each(mapping) AS j LOOP
        IF key = '' OR strpos(key, '=') > 0 THEN
            RAISE EXCEPTION 'invalid key in mapping: "%"', key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A key cannot be empty or contain =.';
        END IF;
        IF origin IS NULL THEN
            RAISE EXCEPTION 'key "%" is not mapped to the name of a column', key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
        END IF;
        IF left(origin, 1) <> '@' AND NOT EXISTS (
            SELECT FROM pg_attribute a
             WHERE a.attrelid = relation AND a.attname = origin
               AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', origin,
                    (SELECT c.relname FROM pg_class c WHERE c.oid = relation)
                USING ERRCODE = 'undefined_column',
                      HINT = 'Write a constant with a leading @.';
        END IF;
        IF key NOT IN ('chatbotId', 'conversationId') THEN
            keys := array_append(keys, key);
        END IF;
        RETURN NEXT;
    END LOOP;

    -- what emit() would raise at the first row
    IF chatwebhook._setting('chatwebhook.validation') <> 'error' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM chatwebhook.event_type t WHERE t.name = event_type) THEN
        RAISE EXCEPTION 'unknown event type: "%"', event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'See the table chatwebhook.event_type, or add the type there first.';
    END IF;
    IF keys IS NULL THEN
        keys := ARRAY(SELECT a.attname FROM pg_attribute a
                       WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped);
    END IF;
    SELECT r INTO missing
      FROM chatwebhook.event_type t, unnest(t.required) AS r
     WHERE t.name = event_type AND r <> ALL (keys) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the mapping lacks the key "%", which event "%" requires', missing, event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map it to a column, or to a constant with a leading @.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._mapping(regclass, text, jsonb) IS
    'Checks a mapping, for watch() and backfill(), and returns its keys with the column or the @constant of each.';

CREATE FUNCTION chatwebhook.watch(
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT '{}',
    condition  text DEFAULT NULL,
    operation  text DEFAULT 'INSERT')
    RETURNS name
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name pg_catalog.text := pg_catalog.format('chatwebhook_%s_%s', event_type, pg_catalog.lower(operation));
    arguments    pg_catalog.text;
BEGIN
    IF relation IS NULL OR event_type IS NULL OR operation IS NULL THEN
        RAISE EXCEPTION 'watch() needs a relation, an event type and an operation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF pg_catalog.upper(operation) OPERATOR(pg_catalog.<>) ALL (ARRAY['INSERT', 'UPDATE', 'DELETE']) THEN
        RAISE EXCEPTION 'unknown operation: "%"', operation
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use INSERT, UPDATE or DELETE.';
    END IF;
    IF pg_catalog.octet_length(trigger_name) OPERATOR(pg_catalog.>) 63 THEN
        RAISE EXCEPTION 'trigger name would be longer than 63 bytes: "%"', pg_catalog.left(trigger_name, 100)
            USING ERRCODE = 'name_too_long',
                  HINT = 'Use CREATE TRIGGER ... EXECUTE FUNCTION chatwebhook.emit(...) instead.';
    END IF;
    SELECT pg_catalog.string_agg(pg_catalog.concat(', ', pg_catalog.quote_literal(pg_catalog.concat(m.key, '=', m.origin))), '')
      INTO arguments
      FROM chatwebhook._mapping(relation, event_type, mapping) AS m;
    EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW %s EXECUTE FUNCTION chatwebhook.emit(%L%s)',
                              trigger_name, pg_catalog.upper(operation), relation,
                              CASE WHEN condition IS NOT NULL THEN pg_catalog.format('WHEN (%s)', condition) END,
                              event_type, arguments);
    RETURN trigger_name;
END
$$;
COMMENT ON FUNCTION chatwebhook.watch(regclass, text, jsonb, text, text) IS
    'Creates a trigger that emits an event for each row of the table, and returns its name. The mapping is an object of keys with columns or @constants, as for the trigger function emit(). The condition goes into the trigger''s WHEN clause, and can use NEW and OLD.';

CREATE FUNCTION chatwebhook.unwatch(
    relation   regclass,
    event_type text,
    operation  text DEFAULT 'INSERT')
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name pg_catalog.text := pg_catalog.format('chatwebhook_%s_%s', event_type, pg_catalog.lower(operation));
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE t.tgrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid
                      AND t.tgname OPERATOR(pg_catalog.=) trigger_name AND NOT t.tgisinternal) THEN
        RETURN false;
    END IF;
    EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', trigger_name, relation);
    RETURN true;
END
$$;
COMMENT ON FUNCTION chatwebhook.unwatch(regclass, text, text) IS
    'Drops the trigger that watch() created. Returns false if there is none.';

CREATE FUNCTION chatwebhook._to_jsonb(value anyelement) RETURNS jsonb
    AS 'MODULE_PATHNAME', 'chatwebhook_to_jsonb'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._to_jsonb(anyelement) IS
    'Like to_jsonb(), but independent of the session''s TimeZone, DateStyle, IntervalStyle, bytea_output, and extra_float_digits, as in emit().';

CREATE FUNCTION chatwebhook.backfill(
    webhook_id uuid,
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT '{}',
    condition  text DEFAULT NULL,
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
#variable_conflict use_variable
DECLARE
    pair         pg_catalog.record;
    expression   pg_catalog.text;
    data         pg_catalog.text := '';
    in_envelope  pg_catalog.text[] := '{}';
    chatbot      pg_catalog.text := 'NULL::pg_catalog.text';
    conversation pg_catalog.text := 'NULL::pg_catalog.text';
    owner        pg_catalog.text;
    result       pg_catalog.int8;
BEGIN
    IF webhook_id IS NULL OR relation IS NULL OR event_type IS NULL THEN
        RAISE EXCEPTION 'backfill() needs a webhook, a relation and an event type'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT w.chatbot_id INTO owner FROM chatwebhook.webhook w WHERE w.id OPERATOR(pg_catalog.=) webhook_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'webhook "%" does not exist', webhook_id
            USING ERRCODE = 'no_data_found';
    END IF;
    FOR pair IN SELECT m.key, m.origin FROM chatwebhook._mapping(relation, event_type, mapping) AS m LOOP
        expression := CASE WHEN pg_catalog.left(pair.origin, 1) OPERATOR(pg_catalog.=) '@'
                           THEN pg_catalog.quote_literal(pg_catalog.substr(pair.origin, 2))
                           ELSE pg_catalog.format('t.%I', pair.origin) END;
        IF pair.key OPERATOR(pg_catalog.=) 'chatbotId' THEN
            chatbot := pg_catalog.concat(expression, '::pg_catalog.text');
            in_envelope := pg_catalog.array_append(in_envelope, pair.origin);
        ELSIF pair.key OPERATOR(pg_catalog.=) 'conversationId' THEN
            conversation := pg_catalog.concat(expression, '::pg_catalog.text');
            in_envelope := pg_catalog.array_append(in_envelope, pair.origin);
        ELSE
            data := pg_catalog.concat(data, CASE WHEN data OPERATOR(pg_catalog.<>) '' THEN ', ' END,
                                      pg_catalog.quote_literal(pair.key), ', ',
                                      CASE WHEN pg_catalog.left(pair.origin, 1) OPERATOR(pg_catalog.=) '@' THEN expression
                                           ELSE pg_catalog.format('chatwebhook._to_jsonb(%s)', expression) END);
        END IF;
    END LOOP;
    data := CASE WHEN data OPERATOR(pg_catalog.=) ''
                 THEN pg_catalog.format('chatwebhook._to_jsonb(t) OPERATOR(pg_catalog.-) %L::pg_catalog.text[]', in_envelope)
                 ELSE pg_catalog.format('pg_catalog.jsonb_build_object(%s)', data) END;
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.count(%s) FROM %s t WHERE %s AND (%s)',
        CASE WHEN dry_run THEN '*' ELSE pg_catalog.format('chatwebhook._emit_to(%L, %L, %s, %s, %s)',
                                                          webhook_id, event_type, chatbot, conversation, data) END,
        relation,
        -- a chatbot's webhook gets that chatbot's rows only
        CASE WHEN owner IS NULL THEN 'true' ELSE pg_catalog.format('%s OPERATOR(pg_catalog.=) %L', chatbot, owner) END,
        COALESCE(condition, 'true'))
       INTO result;
    RETURN result;
END
$$;
COMMENT ON FUNCTION chatwebhook.backfill(uuid, regclass, text, jsonb, text, boolean) IS
    'Emits an event for each existing row of the table, to this webhook only and regardless of its events and filter. Returns the number of events. The mapping is as for watch(), the condition is over the columns of the table. A chatbot''s webhook gets that chatbot''s rows only. With dry_run, nothing is emitted.';
