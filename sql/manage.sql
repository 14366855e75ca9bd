/*
 * For operators: many deliveries at once.  All of these tell how many they have
 * changed, or with dry_run, would change.
 */
CREATE FUNCTION chatwebhook.retry_dead(
    webhook_id uuid DEFAULT NULL,
    since      timestamptz DEFAULT '-infinity',
    until      timestamptz DEFAULT 'infinity',
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    found bigint;
    hooks uuid[];
BEGIN
    IF webhook_id IS NOT NULL THEN
        PERFORM chatwebhook._check_webhook_access(webhook_id);
    END IF;
    IF dry_run THEN
        RETURN (SELECT count(*) FROM chatwebhook.dead d
                 WHERE (webhook_id IS NULL OR d.webhook_id = webhook_id)
                   AND d.created_at >= since AND d.created_at < until
                   AND chatwebhook._sees(d.chatbot_id, d.webhook_id)
                   AND EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = d.event_id)
                   AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = d.webhook_id));
    END IF;
    WITH gone AS (
        DELETE FROM chatwebhook.dead d
         WHERE (webhook_id IS NULL OR d.webhook_id = webhook_id)
           AND d.created_at >= since AND d.created_at < until
           AND chatwebhook._sees(d.chatbot_id, d.webhook_id)
           AND EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = d.event_id)
           AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = d.webhook_id)
        RETURNING *
    ), queued AS (
        INSERT INTO chatwebhook.queue AS q (id, webhook_id, event_id, created_at, next_attempt_at,
               last_attempt_at, attempts, first_attempt, latency_ms, last_status_code,
               chatbot_id, conversation_id, last_error, replies, ordered)
        SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
               g.last_attempt_at, g.attempts, g.attempts, g.latency_ms, g.last_status_code,
               g.chatbot_id, e.conversation_id, g.last_error, g.replies,
               e.conversation_id IS NOT NULL
                   AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = g.webhook_id AND w.ordered)
          FROM gone g JOIN chatwebhook.event e ON e.id = g.event_id
        RETURNING q.webhook_id
    )
    SELECT count(*), array_agg(DISTINCT q.webhook_id) INTO found, hooks FROM queued q;
    PERFORM chatwebhook._wake(w) FROM unnest(hooks) AS w;
    RETURN found;
END
$$;
COMMENT ON FUNCTION chatwebhook.retry_dead(uuid, timestamptz, timestamptz, boolean) IS
    'Tries the dead letters of a webhook (null: of all) again now, those whose events were emitted from since on and before until; how many. With dry_run, nothing is changed.';

CREATE FUNCTION chatwebhook.replay(
    webhook_id uuid,
    since      timestamptz DEFAULT '-infinity',
    until      timestamptz DEFAULT 'infinity',
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    found bigint;
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF dry_run THEN
        RETURN (SELECT count(*) FROM chatwebhook.history h
                 WHERE h.webhook_id = webhook_id AND h.status = 'delivered'
                   AND h.created_at >= since AND h.created_at < until
                   AND chatwebhook._sees(h.chatbot_id, h.webhook_id)
                   AND EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = h.event_id));
    END IF;
    WITH gone AS (
        DELETE FROM chatwebhook.history h
         WHERE h.webhook_id = webhook_id AND h.status = 'delivered'
           AND h.created_at >= since AND h.created_at < until
           AND chatwebhook._sees(h.chatbot_id, h.webhook_id)
           AND EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = h.event_id)
        RETURNING *
    ), queued AS (
        INSERT INTO chatwebhook.queue (id, webhook_id, event_id, created_at, next_attempt_at,
               last_attempt_at, attempts, first_attempt, latency_ms, last_status_code,
               chatbot_id, conversation_id, ordered)
        SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
               g.last_attempt_at, g.attempts, g.attempts, g.latency_ms, g.last_status_code,
               g.chatbot_id, e.conversation_id,
               e.conversation_id IS NOT NULL
                   AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = g.webhook_id AND w.ordered)
          FROM gone g JOIN chatwebhook.event e ON e.id = g.event_id
        RETURNING 1
    )
    SELECT count(*) INTO found FROM queued;
    PERFORM chatwebhook._wake(webhook_id);
    RETURN found;
END
$$;
COMMENT ON FUNCTION chatwebhook.replay(uuid, timestamptz, timestamptz, boolean) IS
    'Delivers again what was delivered to this webhook, of events emitted from since on and before until, to it alone; how many. A connector begins at its first request. With dry_run, nothing is changed.';

CREATE FUNCTION chatwebhook.purge_dead_letters(
    webhook_id uuid DEFAULT NULL,
    before     timestamptz DEFAULT 'infinity',
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    found bigint;
BEGIN
    IF dry_run THEN
        RETURN (SELECT count(*) FROM chatwebhook.dead d
                 WHERE (webhook_id IS NULL OR d.webhook_id = webhook_id)
                   AND d.completed_at < before AND chatwebhook._sees(d.chatbot_id, d.webhook_id));
    END IF;
    WITH gone AS (
        DELETE FROM chatwebhook.dead d
         WHERE (webhook_id IS NULL OR d.webhook_id = webhook_id)
           AND d.completed_at < before AND chatwebhook._sees(d.chatbot_id, d.webhook_id)
        RETURNING d.id
    ), tries AS (
        DELETE FROM chatwebhook.attempt a USING gone WHERE a.delivery_id = gone.id
    )
    SELECT count(*) INTO found FROM gone;
    RETURN found;
END
$$;
COMMENT ON FUNCTION chatwebhook.purge_dead_letters(uuid, timestamptz, boolean) IS
    'Removes the dead letters of a webhook (null: of all) that were given up before this time, with their attempts; how many. Their events go with chatwebhook.retention. With dry_run, nothing is changed.';

CREATE FUNCTION chatwebhook.erase_conversation(
    chatbot_id      text,
    conversation_id text,
    dry_run         boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    events     uuid[];
    deliveries bigint[];
    hooks      uuid[];
BEGIN
    IF conversation_id IS NULL THEN
        RAISE EXCEPTION 'erase_conversation() needs a conversation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM chatwebhook._check_chatbot(chatbot_id);
    events := ARRAY(SELECT e.id FROM chatwebhook.event e
                     WHERE e.conversation_id = conversation_id
                       AND e.chatbot_id IS NOT DISTINCT FROM chatbot_id);
    IF dry_run THEN
        RETURN cardinality(events);
    END IF;
    -- what is under way is not stopped, but leaves nothing behind
    WITH gone AS (
        DELETE FROM chatwebhook.queue q WHERE q.event_id IN (SELECT unnest(events)) RETURNING *
    )
    INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at,
           last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id, webhook_name, status)
    SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
           g.last_attempt_at, g.attempts, g.latency_ms, g.last_status_code, g.chatbot_id, w.name, 'canceled'
      FROM gone g LEFT JOIN chatwebhook.webhook w ON w.id = g.webhook_id;
    -- what the services said may be about the person, too
    WITH finished AS (
        UPDATE chatwebhook.history h
           SET replies = NULL, last_error = CASE WHEN h.status = 'canceled' THEN 'the conversation was erased' END
         WHERE h.event_id = ANY (events)
        RETURNING h.id, h.webhook_id
    ), dead AS (
        DELETE FROM chatwebhook.dead d WHERE d.event_id = ANY (events)
        RETURNING d.id, d.webhook_id
    )
    SELECT array_agg(f.id), array_agg(DISTINCT f.webhook_id) INTO deliveries, hooks
      FROM (SELECT * FROM finished UNION ALL SELECT * FROM dead) f;
    -- the reply to a batch is with its first delivery
    WITH gone AS (
        DELETE FROM chatwebhook.attempt a WHERE a.delivery_id = ANY (deliveries)
        RETURNING a.webhook_id, a.started_at, a.status_code, a.response_headers
    )
    UPDATE chatwebhook.attempt a SET response_headers = NULL, response_body = NULL
      FROM (SELECT DISTINCT g.webhook_id, g.started_at FROM gone g
             WHERE g.status_code IS NOT NULL AND g.response_headers IS NULL) AS b
     WHERE a.webhook_id = b.webhook_id AND a.started_at = b.started_at
       AND a.response_headers IS NOT NULL;
    -- the delivery that a last error is of may have left before
    UPDATE chatwebhook.health h SET last_error = NULL
      FROM chatwebhook.webhook w
     WHERE w.id = h.webhook_id
       AND (w.chatbot_id IS NULL OR w.chatbot_id = chatbot_id OR w.id = ANY (hooks))
       AND h.last_error !~ E'^(request \\d+: )?HTTP status \\d+$';
    DELETE FROM chatwebhook.event e WHERE e.id = ANY (events);
    RETURN cardinality(events);
END
$$;
COMMENT ON FUNCTION chatwebhook.erase_conversation(text, text, boolean) IS
    'Removes the events of a conversation with all that was said of them: payloads, replies, errors, attempts and dead letters; how many events. What is pending is canceled; the bare records of deliveries stay. With dry_run, nothing is changed.';

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
