/*
 * From a chat row to an event (src/emit.c).
 */
CREATE FUNCTION chatwebhook.emit() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_trigger'
    LANGUAGE C;
COMMENT ON FUNCTION chatwebhook.emit() IS
    'Trigger, AFTER INSERT, UPDATE or DELETE, FOR EACH ROW, or FOR EACH STATEMENT with a transition table. Arguments: the event type, then key=column pairs; chatbotId= and conversationId= fill the envelope, the rest makes data (none: the whole row); key alone means key=key; key=@text is a constant.';

CREATE FUNCTION chatwebhook.emit(type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.emit(text, text, text, jsonb) IS
    'Emits an event within the transaction; its id, or null if no webhook wants it.';

CREATE FUNCTION chatwebhook.watch(
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT '{}',
    condition  text DEFAULT NULL,
    operation  text DEFAULT 'INSERT')
    RETURNS name
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name constant text := 'chatwebhook_' || event_type || '_' || lower(operation);
    arguments    text := '';
    pair         record;
BEGIN
    IF relation IS NULL OR event_type IS NULL OR operation IS NULL THEN
        RAISE EXCEPTION 'watch() needs a relation, an event type and an operation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF upper(operation) NOT IN ('INSERT', 'UPDATE', 'DELETE') THEN
        RAISE EXCEPTION 'unknown operation: "%"', operation
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use INSERT, UPDATE or DELETE.';
    END IF;
    IF octet_length(trigger_name) > 63 THEN
        RAISE EXCEPTION 'the trigger''s name would be longer than 63 bytes: "%"', trigger_name
            USING ERRCODE = 'name_too_long',
                  HINT = 'Write the trigger with CREATE TRIGGER … EXECUTE FUNCTION chatwebhook.emit(…) instead.';
    END IF;
    IF jsonb_typeof(coalesce(mapping, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'the mapping is not an object: %', left(mapping::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
    END IF;
    FOR pair IN SELECT key, value, jsonb_typeof(value) AS kind
                  FROM jsonb_each(coalesce(mapping, '{}')) LOOP
        IF pair.kind <> 'string' OR strpos(pair.key, '=') > 0 OR pair.key = '' THEN
            RAISE EXCEPTION 'the mapping of key "%" is not a column''s name', pair.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}; a key has no =.';
        END IF;
        IF left(pair.value #>> '{}', 1) <> '@' AND NOT EXISTS (
            SELECT FROM pg_attribute
             WHERE attrelid = relation AND attname = pair.value #>> '{}'
               AND attnum > 0 AND NOT attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation % does not exist', pair.value #>> '{}', relation
                USING ERRCODE = 'undefined_column',
                      HINT = 'A constant is written with a leading @.';
        END IF;
        arguments := arguments || ', ' || quote_literal(pair.key || '=' || (pair.value #>> '{}'));
    END LOOP;

    EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW %s EXECUTE FUNCTION chatwebhook.emit(%L%s)',
                   trigger_name, upper(operation), relation,
                   'WHEN (' || condition || ')', event_type, arguments);
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
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name constant text := 'chatwebhook_' || event_type || '_' || lower(operation);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = relation AND tgname = trigger_name AND NOT tgisinternal) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, relation);
    RETURN true;
END
$$;
COMMENT ON FUNCTION chatwebhook.unwatch(regclass, text, text) IS
    'Drops the trigger that watch() wrote; false if there is none.';
