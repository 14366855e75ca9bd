/*
 * From a chat row to an event (src/emit.c).
 */
CREATE FUNCTION chatwebhook.emit() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_trigger'
    LANGUAGE C;
COMMENT ON FUNCTION chatwebhook.emit() IS
    'Trigger, AFTER INSERT, UPDATE or DELETE, FOR EACH ROW, or FOR EACH STATEMENT with a transition table. Arguments: the event type, then key=column pairs; chatbotId= and conversationId= fill the envelope, the rest makes data (none: the whole row); key alone means key=key; key=@text is a constant.';

CREATE FUNCTION chatwebhook._missing_key(event_type text, keys text[]) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN t.name IS NULL THEN ''
                ELSE (SELECT r FROM unnest(t.required) r WHERE r <> ALL (keys) LIMIT 1) END
      FROM (SELECT) one
      LEFT JOIN chatwebhook.event_type t ON t.name = event_type
$$;
COMMENT ON FUNCTION chatwebhook._missing_key(text, text[]) IS
    'The first required key of an event type that is not among these; an empty text if there is no such type.';

/*
 * watch() and unwatch() run with the caller's rights and search_path, since the
 * condition is the caller's SQL.
 */
CREATE FUNCTION chatwebhook.watch(
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT '{}',
    condition  text DEFAULT NULL,
    operation  text DEFAULT 'INSERT')
    RETURNS name
    LANGUAGE plpgsql VOLATILE
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name text := pg_catalog.format('chatwebhook_%s_%s', event_type, pg_catalog.lower(operation));
    arguments    text := '';
    keys         text[];
    missing      text;
    pair         record;
BEGIN
    IF relation IS NULL OR event_type IS NULL OR operation IS NULL THEN
        RAISE EXCEPTION 'watch() needs a relation, an event type and an operation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF pg_catalog.upper(operation) NOT IN ('INSERT', 'UPDATE', 'DELETE') THEN
        RAISE EXCEPTION 'unknown operation: "%"', operation
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use INSERT, UPDATE or DELETE.';
    END IF;
    IF pg_catalog.octet_length(trigger_name) > 63 THEN
        RAISE EXCEPTION 'the trigger''s name would be longer than 63 bytes: "%"', pg_catalog.left(trigger_name, 100)
            USING ERRCODE = 'name_too_long',
                  HINT = 'Write the trigger with CREATE TRIGGER ... EXECUTE FUNCTION chatwebhook.emit(...) instead.';
    END IF;
    mapping := COALESCE(mapping, '{}');
    IF pg_catalog.jsonb_typeof(mapping) <> 'object' THEN
        RAISE EXCEPTION 'the mapping is not an object: %', pg_catalog.left(mapping::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
    END IF;
    FOR pair IN SELECT j.key, j.value #>> '{}' AS origin, pg_catalog.jsonb_typeof(j.value) AS kind
                  FROM pg_catalog.jsonb_each(mapping) AS j LOOP
        IF pair.kind <> 'string' OR pg_catalog.strpos(pair.key, '=') > 0 OR pair.key = '' THEN
            RAISE EXCEPTION 'the mapping of key "%" is not a column''s name', pair.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}; a key has no =.';
        END IF;
        IF pg_catalog.left(pair.origin, 1) <> '@' AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = relation AND a.attname = pair.origin
               AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', pair.origin, relation
                USING ERRCODE = 'undefined_column',
                      HINT = 'A constant is written with a leading @.';
        END IF;
        arguments := pg_catalog.concat(arguments, ', ', pg_catalog.quote_literal(pg_catalog.concat(pair.key, '=', pair.origin)));
        IF pair.key NOT IN ('chatbotId', 'conversationId') THEN
            keys := pg_catalog.array_append(keys, pair.key);
        END IF;
    END LOOP;

    -- what emit() would say at the first row
    IF keys IS NULL THEN
        SELECT pg_catalog.array_agg(a.attname::text) INTO keys
          FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    END IF;
    missing := chatwebhook._missing_key(event_type, keys);
    IF pg_catalog.current_setting('chatwebhook.validation') <> 'error' THEN
        NULL;
    ELSIF missing = '' THEN
        RAISE EXCEPTION 'unknown event type: "%"', event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'See the table chatwebhook.event_type, or add the type there first.';
    ELSIF missing IS NOT NULL THEN
        RAISE EXCEPTION 'event "%" needs the key "%", which the mapping lacks', event_type, missing
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map it to a column, or to a constant with a leading @.';
    END IF;

    EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW %s EXECUTE FUNCTION chatwebhook.emit(%L%s)',
                              trigger_name, pg_catalog.upper(operation), relation,
                              CASE WHEN condition IS NOT NULL THEN pg_catalog.format('WHEN (%s)', condition) END,
                              event_type, arguments);
    RETURN trigger_name;
END
$$;
COMMENT ON FUNCTION chatwebhook.watch(regclass, text, jsonb, text, text) IS
    'Writes a trigger that emits this event for the rows of this table, and gives its name. The mapping is an object of keys and columns (or @constants) as in emit(); the condition, over NEW and OLD, goes into WHEN.';

CREATE FUNCTION chatwebhook.unwatch(
    relation   regclass,
    event_type text,
    operation  text DEFAULT 'INSERT')
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name text := pg_catalog.format('chatwebhook_%s_%s', event_type, pg_catalog.lower(operation));
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE t.tgrelid = relation AND t.tgname = trigger_name AND NOT t.tgisinternal) THEN
        RETURN false;
    END IF;
    EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', trigger_name, relation);
    RETURN true;
END
$$;
COMMENT ON FUNCTION chatwebhook.unwatch(regclass, text, text) IS
    'Drops the trigger that watch() wrote; false if there is none.';

/* With the caller's rights and search_path, since the condition is the caller's SQL. */
CREATE FUNCTION chatwebhook.backfill(
    webhook_id uuid,
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT '{}',
    condition  text DEFAULT NULL,
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
#variable_conflict use_variable
DECLARE
    pair    record;
    origin  text;
    data    text := '';
    columns text[] := '{}';
    chatbot text := 'NULL::text';
    chat    text := 'NULL::text';
    owner   text;
    result  bigint;
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
    mapping := COALESCE(mapping, '{}');
    IF pg_catalog.jsonb_typeof(mapping) OPERATOR(pg_catalog.<>) 'object' THEN
        RAISE EXCEPTION 'the mapping is not an object: %', pg_catalog.left(mapping::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
    END IF;
    FOR pair IN SELECT j.key, j.value OPERATOR(pg_catalog.#>>) '{}' AS origin, pg_catalog.jsonb_typeof(j.value) AS kind
                  FROM pg_catalog.jsonb_each(mapping) AS j LOOP
        IF pair.kind OPERATOR(pg_catalog.<>) 'string' THEN
            RAISE EXCEPTION 'the mapping of key "%" is not a column''s name', pair.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
        END IF;
        IF pg_catalog.left(pair.origin, 1) OPERATOR(pg_catalog.=) '@' THEN
            origin := pg_catalog.quote_literal(pg_catalog.substr(pair.origin, 2));
        ELSIF NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
             WHERE a.attrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid
               AND a.attname OPERATOR(pg_catalog.=) pair.origin::pg_catalog.name
               AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', pair.origin, relation
                USING ERRCODE = 'undefined_column',
                      HINT = 'A constant is written with a leading @.';
        ELSE
            origin := pg_catalog.format('t.%I', pair.origin);
        END IF;
        IF pair.key OPERATOR(pg_catalog.=) 'chatbotId' THEN
            chatbot := pg_catalog.concat(origin, '::text');
            columns := pg_catalog.array_append(columns, pair.origin);
        ELSIF pair.key OPERATOR(pg_catalog.=) 'conversationId' THEN
            chat := pg_catalog.concat(origin, '::text');
            columns := pg_catalog.array_append(columns, pair.origin);
        ELSE
            data := pg_catalog.concat(data, CASE WHEN data OPERATOR(pg_catalog.<>) '' THEN ', ' END,
                                      pg_catalog.quote_literal(pair.key), ', ', origin);
        END IF;
    END LOOP;
    data := CASE WHEN data OPERATOR(pg_catalog.=) ''
                 THEN pg_catalog.format('pg_catalog.to_jsonb(t) OPERATOR(pg_catalog.-) %L::pg_catalog.text[]', columns)
                 ELSE pg_catalog.format('pg_catalog.jsonb_build_object(%s)', data) END;
    -- a chatbot's webhook gets that chatbot's rows only
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.count(%s) FROM %s t WHERE %s AND (%s)',
        CASE WHEN dry_run THEN '*' ELSE pg_catalog.format('chatwebhook._emit_to(%L, %L, %s, %s, %s)',
                                                          webhook_id, event_type, chatbot, chat, data) END,
        relation,
        CASE WHEN owner IS NULL THEN 'true' ELSE pg_catalog.format('%s OPERATOR(pg_catalog.=) %L', chatbot, owner) END,
        COALESCE(condition, 'true'))
       INTO result;
    RETURN result;
END
$$;
COMMENT ON FUNCTION chatwebhook.backfill(uuid, regclass, text, jsonb, text, boolean) IS
    'Emits this event for rows that are there already, to this webhook alone, whatever its events and filter; how many. The mapping is that of watch(), the condition is over the columns of the table, and a webhook of one chatbot gets that chatbot''s rows only. With dry_run, nothing is emitted.';
