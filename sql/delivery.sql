/*
 * Deliveries, pending and finished, as people see them.  The views are security
 * barriers, lest a function in a query sees rows before they are left out; a
 * UNION ALL at the top of a view would be none.
 */
CREATE VIEW chatwebhook.delivery WITH (security_barrier) AS
    SELECT u.id, u.event_id, e.type AS event_type, u.chatbot_id,
           COALESCE(u.conversation_id, e.conversation_id) AS conversation_id,
           u.webhook_id, COALESCE(u.webhook_name, w.name) AS webhook_name, u.status, u.attempts,
           u.created_at, u.next_attempt_at, u.last_attempt_at, u.completed_at,
           u.last_status_code, u.last_error, u.latency_ms
      FROM (
        -- each part a plain table, so that they can be merged in the order of an index
        SELECT q.id, q.event_id, q.chatbot_id, q.conversation_id, q.webhook_id,
               NULL::text AS webhook_name, 'pending'::text AS status, q.attempts,
               q.created_at, q.next_attempt_at, q.last_attempt_at,
               NULL::timestamptz AS completed_at, q.last_status_code, q.last_error, q.latency_ms
          FROM chatwebhook.queue q
        UNION ALL
        SELECT h.id, h.event_id, h.chatbot_id, NULL, h.webhook_id,
               h.webhook_name, h.status, h.attempts,
               h.created_at, NULL, h.last_attempt_at,
               h.completed_at, h.last_status_code, h.last_error, h.latency_ms
          FROM chatwebhook.history h
        UNION ALL
        SELECT d.id, d.event_id, d.chatbot_id, NULL, d.webhook_id,
               d.webhook_name, d.status, d.attempts,
               d.created_at, NULL, d.last_attempt_at,
               d.completed_at, d.last_status_code, d.last_error, d.latency_ms
          FROM chatwebhook.dead d
    ) u
      LEFT JOIN chatwebhook.event e ON e.id = u.event_id
      LEFT JOIN chatwebhook.webhook w ON w.id = u.webhook_id
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR u.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
           AND u.webhook_id = ANY ((SELECT chatwebhook._webhooks())::uuid[])
     -- no order from outside gets into a security barrier; this one comes from indexes
     ORDER BY u.id DESC;
COMMENT ON VIEW chatwebhook.delivery IS 'Every event owed to a webhook, and what became of it; the newest first.';
COMMENT ON COLUMN chatwebhook.delivery.id IS 'Identifies the delivery: X-Webhook-Delivery; for retry() and cancel().';
COMMENT ON COLUMN chatwebhook.delivery.event_id IS 'The event that is owed: webhook-id.';
COMMENT ON COLUMN chatwebhook.delivery.event_type IS 'The event''s type.';
COMMENT ON COLUMN chatwebhook.delivery.chatbot_id IS 'The event''s chatbot.';
COMMENT ON COLUMN chatwebhook.delivery.conversation_id IS 'The event''s conversation.';
COMMENT ON COLUMN chatwebhook.delivery.webhook_id IS 'The webhook that it is owed to.';
COMMENT ON COLUMN chatwebhook.delivery.webhook_name IS 'That webhook''s name; for a finished one, as it was then.';
COMMENT ON COLUMN chatwebhook.delivery.created_at IS 'When the event was emitted.';
COMMENT ON COLUMN chatwebhook.delivery.last_attempt_at IS 'When the last attempt was started.';
COMMENT ON COLUMN chatwebhook.delivery.status IS 'pending, delivered, dead (given up) or canceled.';
COMMENT ON COLUMN chatwebhook.delivery.attempts IS 'Attempts made so far.';
COMMENT ON COLUMN chatwebhook.delivery.next_attempt_at IS 'When a pending one is due.';
COMMENT ON COLUMN chatwebhook.delivery.completed_at IS 'When it was delivered, given up or canceled.';
COMMENT ON COLUMN chatwebhook.delivery.last_status_code IS 'HTTP status of the last attempt; null if there was no reply.';
COMMENT ON COLUMN chatwebhook.delivery.last_error IS 'Why the last attempt failed; null if it did not.';
COMMENT ON COLUMN chatwebhook.delivery.latency_ms IS 'Milliseconds that the last attempt took.';

CREATE VIEW chatwebhook.dead_letter WITH (security_barrier) AS
    SELECT d.id, d.webhook_id, d.webhook_name, d.event_id, e.type AS event_type,
           d.chatbot_id, e.conversation_id,
           CASE WHEN e.id IS NOT NULL THEN pg_catalog.jsonb_build_object(
               'id', e.id, 'type', e.type,
               'timestamp', pg_catalog.to_char(e.created_at AT TIME ZONE 'UTC',
                                               'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
               'chatbotId', e.chatbot_id, 'conversationId', e.conversation_id,
               'data', e.data) END AS event,
           d.attempts, d.last_status_code, d.last_error, d.created_at,
           d.last_attempt_at, d.completed_at
      FROM chatwebhook.dead d
      LEFT JOIN chatwebhook.event e ON e.id = d.event_id
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR d.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
           AND d.webhook_id = ANY ((SELECT chatwebhook._webhooks())::uuid[]);
COMMENT ON VIEW chatwebhook.dead_letter IS
    'The deliveries that were given up, with the event whole. retry() gives one another chance.';
COMMENT ON COLUMN chatwebhook.dead_letter.id IS 'The delivery''s id, for retry().';
COMMENT ON COLUMN chatwebhook.dead_letter.webhook_id IS 'The webhook that it was owed to.';
COMMENT ON COLUMN chatwebhook.dead_letter.webhook_name IS 'That webhook''s name, as it was then.';
COMMENT ON COLUMN chatwebhook.dead_letter.event_id IS 'The event''s id.';
COMMENT ON COLUMN chatwebhook.dead_letter.event_type IS 'The event''s type.';
COMMENT ON COLUMN chatwebhook.dead_letter.chatbot_id IS 'The event''s chatbot.';
COMMENT ON COLUMN chatwebhook.dead_letter.conversation_id IS 'The event''s conversation.';
COMMENT ON COLUMN chatwebhook.dead_letter.event IS 'The event whole, as it was sent; null if it is gone.';
COMMENT ON COLUMN chatwebhook.dead_letter.attempts IS 'Attempts made.';
COMMENT ON COLUMN chatwebhook.dead_letter.last_status_code IS 'HTTP status of the last attempt; null if there was no reply.';
COMMENT ON COLUMN chatwebhook.dead_letter.last_error IS 'Why the last attempt failed.';
COMMENT ON COLUMN chatwebhook.dead_letter.created_at IS 'When the event was emitted.';
COMMENT ON COLUMN chatwebhook.dead_letter.last_attempt_at IS 'When the last attempt was started.';
COMMENT ON COLUMN chatwebhook.dead_letter.completed_at IS 'When it was given up.';

/*
 * Functions that write with the owner's rights, here and below, do so under
 * session_replication_role = replica: a trigger that somebody was allowed to
 * put on a table of ours does not fire, and so does not run as the owner.
 */
CREATE FUNCTION chatwebhook.retry(delivery_id bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
DECLARE
    webhook uuid;
BEGIN
    UPDATE chatwebhook.queue q
       SET next_attempt_at = clock_timestamp(), first_attempt = attempts, last_wait_ms = 0
     WHERE q.id = delivery_id AND chatwebhook._sees(q.chatbot_id, q.webhook_id)
    RETURNING webhook_id INTO webhook;

    IF NOT FOUND THEN
        WITH dead AS (
            DELETE FROM chatwebhook.dead d
             WHERE d.id = delivery_id AND chatwebhook._sees(d.chatbot_id, d.webhook_id)
               AND EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = d.event_id)
            RETURNING *
        ), canceled AS (
            DELETE FROM chatwebhook.history h
             WHERE h.id = delivery_id AND h.status = 'canceled' AND chatwebhook._sees(h.chatbot_id, h.webhook_id)
               AND EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = h.event_id)
            RETURNING *
        )
        INSERT INTO chatwebhook.queue (id, webhook_id, event_id, created_at, next_attempt_at,
               last_attempt_at, attempts, first_attempt, latency_ms, last_status_code,
               chatbot_id, conversation_id, last_error, replies, ordered)
        SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
               g.last_attempt_at, g.attempts, g.attempts, g.latency_ms, g.last_status_code,
               g.chatbot_id, e.conversation_id, g.last_error, g.replies,
               e.conversation_id IS NOT NULL
                   AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = g.webhook_id AND w.ordered)
          FROM (SELECT * FROM dead UNION ALL SELECT * FROM canceled) g
          JOIN chatwebhook.event e ON e.id = g.event_id
        RETURNING webhook_id INTO webhook;
    END IF;

    IF webhook IS NULL THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = webhook) THEN
        RAISE EXCEPTION 'the webhook of delivery % was deleted', delivery_id
            USING ERRCODE = 'no_data_found';
    END IF;
    PERFORM chatwebhook._wake(webhook);
    RETURN true;
END
$$;
COMMENT ON FUNCTION chatwebhook.retry(bigint) IS
    'Tries this delivery again now, with all its retries; false if it is unknown, was delivered, or its event is gone.';

CREATE FUNCTION chatwebhook.cancel(delivery_id bigint) RETURNS boolean
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
    WITH gone AS (
        DELETE FROM chatwebhook.queue q
         WHERE q.id = delivery_id AND chatwebhook._sees(q.chatbot_id, q.webhook_id)
        RETURNING *
    ), kept AS (
        INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at,
               last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id,
               webhook_name, status, last_error, replies)
        SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
               g.last_attempt_at, g.attempts, g.latency_ms, g.last_status_code, g.chatbot_id,
               w.name, 'canceled', g.last_error, g.replies
          FROM gone g LEFT JOIN chatwebhook.webhook w ON w.id = g.webhook_id
        RETURNING webhook_id
    )
    -- others of its conversation may have waited for it
    SELECT count(*) > 0 FROM kept, LATERAL chatwebhook._wake(kept.webhook_id)
$$;
COMMENT ON FUNCTION chatwebhook.cancel(bigint) IS
    'Gives up a pending delivery; false if it is not pending. A request that is under way may still arrive.';
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

CREATE FUNCTION chatwebhook.wait_until_idle(timeout interval DEFAULT '1 minute') RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_wait_until_idle'
    LANGUAGE C VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook.wait_until_idle(interval) IS
    'Waits until every delivery of every enabled webhook is finished, one''s own uncommitted ones included; false when the time is up. One that waits for its retry is not finished.';
