/*
 * Deliveries, pending and finished, as people see and manage them.
 *
 * Functions that act on many find them through the views, with the rights of
 * their caller, so that a role acts on what it sees and on nothing else.
 */
CREATE VIEW chatwebhook.delivery WITH (security_invoker) AS
    SELECT u.id, u.event_id, e.type AS event_type, u.chatbot_id,
           COALESCE(u.conversation_id, e.conversation_id) AS conversation_id,
           u.webhook_id, COALESCE(u.webhook_name, w.name) AS webhook_name, u.status, u.attempts,
           u.created_at, u.next_attempt_at, u.last_attempt_at, u.completed_at,
           u.last_status_code, u.last_error, u.latency_ms, u.expires_at
      FROM (
        -- each part is a plain table, so that they can be merged in the order of an index
        SELECT q.id, q.event_id, q.chatbot_id, q.conversation_id, q.webhook_id,
               NULL::text AS webhook_name, 'pending'::text AS status, q.attempts,
               q.created_at, q.next_attempt_at, q.last_attempt_at,
               NULL::timestamptz AS completed_at, q.last_status_code, q.last_error, q.latency_ms,
               q.expires_at
          FROM chatwebhook.queue q
        UNION ALL
        SELECT h.id, h.event_id, h.chatbot_id, NULL, h.webhook_id,
               h.webhook_name, h.status, h.attempts,
               h.created_at, NULL, h.last_attempt_at,
               h.completed_at, h.last_status_code, h.last_error, h.latency_ms, NULL
          FROM chatwebhook.history h
        UNION ALL
        SELECT d.id, d.event_id, d.chatbot_id, NULL, d.webhook_id,
               d.webhook_name, d.status, d.attempts,
               d.created_at, NULL, d.last_attempt_at,
               d.completed_at, d.last_status_code, d.last_error, d.latency_ms, NULL
          FROM chatwebhook.dead d
    ) u
      LEFT JOIN chatwebhook.event e ON e.id = u.event_id
      LEFT JOIN chatwebhook.webhook w ON w.id = u.webhook_id
     -- indexes give this order
     ORDER BY u.id DESC;
COMMENT ON VIEW chatwebhook.delivery IS
    'Deliveries of events to webhooks, and what became of them, newest first.';
COMMENT ON COLUMN chatwebhook.delivery.id IS
    'Identifies the delivery, for retry() and cancel(). Sent as X-Webhook-Delivery.';
COMMENT ON COLUMN chatwebhook.delivery.event_id IS 'Event of the delivery. Sent as webhook-id.';
COMMENT ON COLUMN chatwebhook.delivery.event_type IS 'Type of the event; null if the event is gone.';
COMMENT ON COLUMN chatwebhook.delivery.chatbot_id IS 'Chatbot of the event.';
COMMENT ON COLUMN chatwebhook.delivery.conversation_id IS 'Conversation of the event.';
COMMENT ON COLUMN chatwebhook.delivery.webhook_id IS 'Webhook of the delivery.';
COMMENT ON COLUMN chatwebhook.delivery.webhook_name IS
    'Name of the webhook; of a finished delivery, its name at that time.';
COMMENT ON COLUMN chatwebhook.delivery.status IS 'pending, delivered, dead (given up) or canceled.';
COMMENT ON COLUMN chatwebhook.delivery.attempts IS 'Attempts made so far.';
COMMENT ON COLUMN chatwebhook.delivery.created_at IS 'When the event was emitted.';
COMMENT ON COLUMN chatwebhook.delivery.next_attempt_at IS 'When the next attempt of a pending delivery is due; infinity (from backfill) means when nothing else of the webhook is due.';
COMMENT ON COLUMN chatwebhook.delivery.last_attempt_at IS 'When the last attempt started.';
COMMENT ON COLUMN chatwebhook.delivery.completed_at IS 'When it was delivered, given up or canceled.';
COMMENT ON COLUMN chatwebhook.delivery.last_status_code IS
    'HTTP status of the last attempt; null if there was no reply.';
COMMENT ON COLUMN chatwebhook.delivery.last_error IS 'Why the last attempt failed, or why the delivery was canceled; null if neither.';
COMMENT ON COLUMN chatwebhook.delivery.latency_ms IS 'Duration of the last attempt, in milliseconds.';
COMMENT ON COLUMN chatwebhook.delivery.expires_at IS 'When a pending delivery is canceled unless it has been delivered; null means never.';

CREATE VIEW chatwebhook.dead_letter WITH (security_invoker) AS
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
      LEFT JOIN chatwebhook.event e ON e.id = d.event_id;
COMMENT ON VIEW chatwebhook.dead_letter IS
    'Deliveries that were given up, with their events. retry() and retry_dead() try them again.';
COMMENT ON COLUMN chatwebhook.dead_letter.id IS 'Identifies the delivery, for retry().';
COMMENT ON COLUMN chatwebhook.dead_letter.webhook_id IS 'Webhook of the delivery.';
COMMENT ON COLUMN chatwebhook.dead_letter.webhook_name IS 'Name of the webhook at that time.';
COMMENT ON COLUMN chatwebhook.dead_letter.event_id IS 'Event of the delivery.';
COMMENT ON COLUMN chatwebhook.dead_letter.event_type IS 'Type of the event; null if the event is gone.';
COMMENT ON COLUMN chatwebhook.dead_letter.chatbot_id IS 'Chatbot of the event.';
COMMENT ON COLUMN chatwebhook.dead_letter.conversation_id IS 'Conversation of the event.';
COMMENT ON COLUMN chatwebhook.dead_letter.event IS 'The whole event, as it was sent; null if it is gone.';
COMMENT ON COLUMN chatwebhook.dead_letter.attempts IS 'Attempts made.';
COMMENT ON COLUMN chatwebhook.dead_letter.last_status_code IS
    'HTTP status of the last attempt; null if there was no reply.';
COMMENT ON COLUMN chatwebhook.dead_letter.last_error IS 'Why the last attempt failed.';
COMMENT ON COLUMN chatwebhook.dead_letter.created_at IS 'When the event was emitted.';
COMMENT ON COLUMN chatwebhook.dead_letter.last_attempt_at IS 'When the last attempt started.';
COMMENT ON COLUMN chatwebhook.dead_letter.completed_at IS 'When it was given up.';

/*
 * Moves between the tables.  A worker's settle moves a finished delivery from
 * the queue to history or dead (src/queue.c); sessions move deliveries only
 * through these functions.  The guarded ones (see access.sql) skip rows that the
 * caller cannot see.
 */
CREATE FUNCTION chatwebhook._cancel_deliveries(delivery_ids bigint[], reason text DEFAULT NULL, webhook_name text DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    moved bigint;
BEGIN
    WITH gone AS (
        DELETE FROM chatwebhook.queue q WHERE q.id = ANY (delivery_ids) RETURNING *
    ), canceled AS (
        INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at,
               last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id,
               webhook_name, status, last_error, replies)
        SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
               g.last_attempt_at, g.attempts, g.latency_ms, g.last_status_code, g.chatbot_id,
               coalesce(_cancel_deliveries.webhook_name, w.name), 'canceled', coalesce(reason, g.last_error), g.replies
          FROM gone g LEFT JOIN chatwebhook.webhook w ON w.id = g.webhook_id
        RETURNING webhook_id
    ), per_webhook AS (
        SELECT c.webhook_id, count(*) AS n FROM canceled c GROUP BY c.webhook_id
    )
    -- later deliveries of a conversation may have waited for one of these
    SELECT coalesce(sum(p.n), 0) INTO moved
      FROM per_webhook p, LATERAL chatwebhook._wake(p.webhook_id);
    RETURN moved;
END
$$;
COMMENT ON FUNCTION chatwebhook._cancel_deliveries(bigint[], text, text) IS
    'Moves pending deliveries to the history, as canceled, and returns how many. The name is for a webhook that is gone.';

CREATE FUNCTION chatwebhook._do_cancel(delivery_ids bigint[]) RETURNS bigint
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT chatwebhook._cancel_deliveries(delivery_ids)
$$;
COMMENT ON FUNCTION chatwebhook._do_cancel(bigint[]) IS 'Implements cancel(), with the owner''s rights.';

CREATE FUNCTION chatwebhook._cancel(delivery_ids bigint[]) RETURNS bigint
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._cancel(bigint[]) IS
    'Cancels those of these deliveries that the caller can see.';

CREATE FUNCTION chatwebhook._do_requeue(delivery_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    moved bigint;
BEGIN
    WITH pending AS (
        UPDATE chatwebhook.queue q
           SET next_attempt_at = clock_timestamp(), first_attempt = attempts, last_wait_ms = 0,
               deliver_at = NULL, expires_at = NULL, debounced = NULL, debounce_until = NULL,
               -- it may have been outside of its conversation's order
               ordered = q.ordered OR coalesce(octet_length(q.conversation_id) <= 2000
                   AND (SELECT w.ordered FROM chatwebhook.webhook w WHERE w.id = q.webhook_id), false)
         WHERE q.id = ANY (delivery_ids)
        RETURNING q.webhook_id
    ), dead AS (
        DELETE FROM chatwebhook.dead d USING chatwebhook.event e, chatwebhook.webhook w
         WHERE d.id = ANY (delivery_ids) AND e.id = d.event_id AND w.id = d.webhook_id
        RETURNING d.*, e.conversation_id, w.ordered
    ), finished AS (
        DELETE FROM chatwebhook.history h USING chatwebhook.event e, chatwebhook.webhook w
         WHERE h.id = ANY (delivery_ids) AND e.id = h.event_id AND w.id = h.webhook_id
        RETURNING h.*, e.conversation_id, w.ordered
    ), queued AS (
        INSERT INTO chatwebhook.queue AS q (id, webhook_id, event_id, created_at, next_attempt_at,
               last_attempt_at, attempts, first_attempt, latency_ms, last_status_code,
               chatbot_id, conversation_id, ordered, last_error, replies)
        SELECT g.id, g.webhook_id, g.event_id, g.created_at, clock_timestamp(),
               g.last_attempt_at, g.attempts, g.attempts, g.latency_ms, g.last_status_code,
               g.chatbot_id, g.conversation_id, g.ordered AND coalesce(octet_length(g.conversation_id) <= 2000, false),
               g.last_error, g.replies
          FROM (SELECT * FROM dead UNION ALL SELECT * FROM finished) AS g
        RETURNING q.webhook_id
    ), per_webhook AS (
        SELECT q.webhook_id, count(*) AS n
          FROM (SELECT p.webhook_id FROM pending p UNION ALL SELECT q.webhook_id FROM queued q) AS q
         GROUP BY q.webhook_id
    )
    SELECT coalesce(sum(p.n), 0) INTO moved
      FROM per_webhook p, LATERAL chatwebhook._wake(p.webhook_id);
    RETURN moved;
END
$$;
COMMENT ON FUNCTION chatwebhook._do_requeue(bigint[]) IS
    'Makes deliveries due now, with all their retries, whatever deliver_at, expires_at or debounce say; finished ones move back to the queue. Returns how many. Those whose event or webhook is gone stay.';

CREATE FUNCTION chatwebhook._requeue(delivery_ids bigint[]) RETURNS bigint
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._requeue(bigint[]) IS
    'Requeues those of these deliveries that the caller can see.';

CREATE FUNCTION chatwebhook._do_purge(delivery_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    purged bigint;
BEGIN
    WITH gone AS (
        DELETE FROM chatwebhook.dead d WHERE d.id = ANY (delivery_ids) RETURNING d.id
    ), tries AS (
        DELETE FROM chatwebhook.attempt a USING gone WHERE a.delivery_id = gone.id
    )
    SELECT count(*) INTO purged FROM gone;
    RETURN purged;
END
$$;
COMMENT ON FUNCTION chatwebhook._do_purge(bigint[]) IS
    'Removes dead letters, with their attempts, and returns how many.';

CREATE FUNCTION chatwebhook._purge(delivery_ids bigint[]) RETURNS bigint
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._purge(bigint[]) IS
    'Purges those of these dead letters that the caller can see.';

CREATE FUNCTION chatwebhook._do_erase(event_ids uuid[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    reason     constant text := 'the conversation was erased';
    asked      constant uuid[] := event_ids;
    deliveries bigint[];
    hooks      uuid[];
    erased     bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = ANY (event_ids)) THEN
        RETURN 0;
    END IF;
    -- events about their deliveries can quote a reply; an index on (conversation_id, type) finds them
    event_ids := event_ids || ARRAY(SELECT e.id FROM chatwebhook.event e
                                     WHERE e.type = 'webhook.exhausted' AND e.conversation_id IS NULL
                                       AND e.data->>'eventId' IN (SELECT id::text FROM unnest(event_ids) AS id));
    -- a request that is under way is not stopped, but leaves nothing behind
    -- OFFSET has the queue looked into for each event: as a join, all of it could be read
    PERFORM chatwebhook._cancel_deliveries(ARRAY(
        SELECT q.id
          FROM chatwebhook.event e
         CROSS JOIN LATERAL (SELECT q.id FROM chatwebhook.queue q
                              WHERE q.id >= e.first_delivery AND q.id <= e.last_delivery AND q.event_id = e.id OFFSET 0) q
         WHERE e.id = ANY (event_ids)), reason);
    -- replies of the services may be about the person, too
    WITH finished AS (
        UPDATE chatwebhook.history h
           SET replies = NULL, last_error = CASE WHEN h.status = 'canceled' THEN reason END
         WHERE h.event_id = ANY (event_ids)
        RETURNING h.id, h.webhook_id
    ), dead AS (
        DELETE FROM chatwebhook.dead d WHERE d.event_id = ANY (event_ids)
        RETURNING d.id, d.webhook_id
    )
    SELECT array_agg(f.id), array_agg(DISTINCT f.webhook_id) INTO deliveries, hooks
      FROM (SELECT * FROM finished UNION ALL SELECT * FROM dead) f;
    -- the reply to a batch is stored with its first delivery only
    WITH gone AS (
        DELETE FROM chatwebhook.attempt a WHERE a.delivery_id = ANY (deliveries)
        RETURNING a.webhook_id, a.started_at, a.status_code, a.response_headers
    )
    UPDATE chatwebhook.attempt a SET response_headers = NULL, response_body = NULL
      FROM (SELECT DISTINCT g.webhook_id, g.started_at FROM gone g
             WHERE g.status_code IS NOT NULL AND g.response_headers IS NULL) AS b
     WHERE a.webhook_id = b.webhook_id AND a.started_at = b.started_at
       AND a.response_headers IS NOT NULL;
    -- the delivery that caused a last error may be gone already
    UPDATE chatwebhook.health h SET last_error = NULL
      FROM chatwebhook.webhook w
     WHERE w.id = h.webhook_id
       AND (w.chatbot_id IS NULL OR w.id = ANY (hooks)
            OR w.chatbot_id IN (SELECT e.chatbot_id FROM chatwebhook.event e WHERE e.id = ANY (event_ids)))
       AND h.last_error !~ E'^(request \\d+: )?HTTP status \\d+( \\(webhook-delivery: [a-z]+\\))?$';
    -- after the cancellation, which waits for workers that settle these
    DELETE FROM chatwebhook.memory m
     USING (SELECT DISTINCT e.chatbot_id, e.conversation_id
              FROM chatwebhook.event e WHERE e.id = ANY (event_ids)) AS c
     WHERE m.conversation_id = c.conversation_id AND m.chatbot_id IS NOT DISTINCT FROM c.chatbot_id;
    DELETE FROM chatwebhook.event_key k WHERE k.event_id = ANY (event_ids);
    WITH gone AS (
        DELETE FROM chatwebhook.event e WHERE e.id = ANY (event_ids) RETURNING e.id
    )
    SELECT count(*) INTO erased FROM gone g WHERE g.id = ANY (asked);
    RETURN erased;
END
$$;
COMMENT ON FUNCTION chatwebhook._do_erase(uuid[]) IS
    'Removes events, and what was stored of their deliveries.';

CREATE FUNCTION chatwebhook._erase(event_ids uuid[]) RETURNS bigint
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._erase(uuid[]) IS
    'Erases those of these events that the caller can see.';

CREATE FUNCTION chatwebhook._do_forget(webhook_id uuid, chatbot_id text, conversation_id text) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
    DELETE FROM chatwebhook.memory m
     WHERE m.webhook_id = _do_forget.webhook_id AND m.conversation_id = _do_forget.conversation_id
       AND m.chatbot_id IS NOT DISTINCT FROM _do_forget.chatbot_id
$$;
COMMENT ON FUNCTION chatwebhook._do_forget(uuid, text, text) IS
    'Removes what a webhook remembers of a conversation.';

CREATE FUNCTION chatwebhook._forget(webhook_id uuid, chatbot_id text, conversation_id text) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._forget(uuid, text, text) IS
    'Calls _do_forget() if the caller can see the webhook.';

/*
 * One delivery
 */
CREATE FUNCTION chatwebhook.retry(delivery_id bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    webhook uuid;
    status  text;
BEGIN
    -- twice, because a pending one may be canceled or given up while _requeue() waits for it
    FOR i IN 1 .. 2 LOOP
        SELECT d.webhook_id, d.status INTO webhook, status
          FROM chatwebhook.delivery d
         WHERE d.id = delivery_id
           AND (d.status = 'pending' OR d.status IN ('dead', 'canceled') AND d.event_type IS NOT NULL);
        IF FOUND AND NOT EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = webhook) THEN
            RAISE EXCEPTION 'the webhook of delivery % was deleted', delivery_id
                USING ERRCODE = 'no_data_found';
        END IF;
        -- also for none, so that it is always an error on a standby
        IF chatwebhook._requeue(CASE WHEN webhook IS NOT NULL THEN ARRAY[delivery_id] ELSE '{}' END) > 0 THEN
            RETURN true;
        END IF;
        EXIT WHEN status IS DISTINCT FROM 'pending';
    END LOOP;
    RETURN false;
END
$$;
COMMENT ON FUNCTION chatwebhook.retry(bigint) IS
    'Tries a delivery again now, with all its retries, whatever deliver_at, expires_at or debounce say. Returns false if it does not exist, was delivered, or its event is gone.';

CREATE FUNCTION chatwebhook.cancel(delivery_id bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN chatwebhook._cancel(ARRAY[delivery_id]) > 0;
END
$$;
COMMENT ON FUNCTION chatwebhook.cancel(bigint) IS
    'Gives up a pending delivery. Returns false if it is not pending. A request that is under way may still arrive.';

/*
 * Many deliveries
 */
CREATE FUNCTION chatwebhook._check_webhook_access(webhook_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF NOT EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = webhook_id) THEN
        RAISE EXCEPTION 'webhook "%" does not exist', webhook_id
            USING ERRCODE = 'no_data_found';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_webhook_access(uuid) IS
    'Raises an error unless the caller sees the webhook.';

/*
 * In parts, so that functions on many rows can say how far they are.  All of it is
 * one transaction nevertheless, so that a cancellation leaves everything as it was.
 */
CREATE FUNCTION chatwebhook._parts(ids anyarray) RETURNS SETOF anyarray
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    (SELECT array_agg(i.id)
       FROM unnest(ids) WITH ORDINALITY AS i (id, n)
      GROUP BY (i.n - 1) / 5000 ORDER BY (i.n - 1) / 5000)
    UNION ALL
    SELECT ids WHERE cardinality(ids) = 0
$$;
COMMENT ON FUNCTION chatwebhook._parts(anyarray) IS
    'Splits an array into parts of at most 5000 elements. An empty array yields one empty part, so that the caller''s statement runs, and fails on a standby, even then.';

CREATE FUNCTION chatwebhook._act(function text, delivery_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    total constant bigint := cardinality(delivery_ids);
    part  bigint[];
    seen  bigint := 0;
    acted bigint := 0;
BEGIN
    PERFORM chatwebhook._progress(function, 0, total);
    FOR part IN SELECT chatwebhook._parts(delivery_ids) LOOP
        acted := acted + CASE function WHEN 'purge_dead_letters' THEN chatwebhook._purge(part) ELSE chatwebhook._requeue(part) END;
        seen := seen + cardinality(part);
        PERFORM chatwebhook._progress(function, seen, total);
    END LOOP;
    PERFORM chatwebhook._progress(function, NULL, NULL);
    RETURN acted;
END
$$;
COMMENT ON FUNCTION chatwebhook._act(text, bigint[]) IS
    'Does what this public function does to these deliveries, as far as the caller can see them, and says how far it is. Returns how many it acted on.';

CREATE FUNCTION chatwebhook.retry_dead(
    webhook_id uuid DEFAULT NULL,
    since      timestamptz DEFAULT '-infinity',
    until      timestamptz DEFAULT 'infinity',
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    found bigint[];
BEGIN
    IF webhook_id IS NOT NULL THEN
        PERFORM chatwebhook._check_webhook_access(webhook_id);
    END IF;
    found := ARRAY(SELECT d.id
                     FROM chatwebhook.dead_letter d
                     JOIN chatwebhook.webhook w ON w.id = d.webhook_id
                    WHERE (webhook_id IS NULL OR d.webhook_id = webhook_id)
                      AND d.created_at >= since AND d.created_at < until
                      AND d.event_type IS NOT NULL);
    RETURN CASE WHEN dry_run THEN cardinality(found) ELSE chatwebhook._act('retry_dead', found) END;
END
$$;
COMMENT ON FUNCTION chatwebhook.retry_dead(uuid, timestamptz, timestamptz, boolean) IS
    'Tries dead letters again now: those of one webhook or, for null, of all webhooks, whose events were emitted at or after since and before until. Returns how many. With dry_run, it only counts them.';

CREATE FUNCTION chatwebhook.replay(
    webhook_id uuid,
    since      timestamptz DEFAULT '-infinity',
    until      timestamptz DEFAULT 'infinity',
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    found bigint[];
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF chatwebhook._setting('chatwebhook.outbox')::boolean THEN
        RAISE NOTICE 'chatwebhook.outbox is on, so events of that time were not delivered from here'
            USING HINT = 'Call replay() on the delivery nodes.';
    END IF;
    found := ARRAY(SELECT d.id
                     FROM chatwebhook.delivery d
                    WHERE d.webhook_id = webhook_id AND d.status = 'delivered'
                      AND d.created_at >= since AND d.created_at < until
                      AND d.event_type IS NOT NULL);
    RETURN CASE WHEN dry_run THEN cardinality(found) ELSE chatwebhook._act('replay', found) END;
END
$$;
COMMENT ON FUNCTION chatwebhook.replay(uuid, timestamptz, timestamptz, boolean) IS
    'Repeats the successful deliveries to this webhook, of events emitted at or after since and before until. A connector starts with its first request. Returns how many deliveries. With dry_run, it only counts them.';

CREATE FUNCTION chatwebhook.purge_dead_letters(
    webhook_id uuid DEFAULT NULL,
    before     timestamptz DEFAULT 'infinity',
    dry_run    boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    found bigint[];
BEGIN
    found := ARRAY(SELECT d.id
                     FROM chatwebhook.dead_letter d
                    WHERE (webhook_id IS NULL OR d.webhook_id = webhook_id)
                      AND d.completed_at < before);
    RETURN CASE WHEN dry_run THEN cardinality(found) ELSE chatwebhook._act('purge_dead_letters', found) END;
END
$$;
COMMENT ON FUNCTION chatwebhook.purge_dead_letters(uuid, timestamptz, boolean) IS
    'Removes dead letters with their attempts: those of one webhook or, for null, of all webhooks, that were given up before this time. Returns how many. With dry_run, it only counts them. Their events are removed after chatwebhook.retention.';

CREATE FUNCTION chatwebhook.erase_conversation(
    chatbot_id      text,
    conversation_id text,
    dry_run         boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    found  uuid[];
    part   uuid[];
    seen   bigint := 0;
    erased bigint := 0;
BEGIN
    IF conversation_id IS NULL THEN
        RAISE EXCEPTION 'erase_conversation() needs a conversation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    found := ARRAY(SELECT e.id FROM chatwebhook.event e
                    WHERE e.conversation_id = conversation_id
                      AND e.chatbot_id IS NOT DISTINCT FROM chatbot_id);
    IF dry_run THEN
        RETURN cardinality(found);
    END IF;
    IF chatwebhook._setting('chatwebhook.outbox')::boolean THEN
        RAISE NOTICE 'only events that are still in the outbox are erased'
            USING HINT = 'Call erase_conversation() on the delivery nodes as well, once they have received all events.';
    END IF;
    PERFORM chatwebhook._progress('erase_conversation', 0, cardinality(found));
    FOR part IN SELECT chatwebhook._parts(found) LOOP
        erased := erased + chatwebhook._erase(part);
        seen := seen + cardinality(part);
        PERFORM chatwebhook._progress('erase_conversation', seen, cardinality(found));
    END LOOP;
    PERFORM chatwebhook._progress('erase_conversation', NULL, NULL);
    -- a memory can outlive the events that it comes from
    PERFORM chatwebhook._forget(m.webhook_id, m.chatbot_id, m.conversation_id)
       FROM chatwebhook.memory m
      WHERE m.conversation_id = conversation_id AND m.chatbot_id IS NOT DISTINCT FROM chatbot_id;
    RETURN erased;
END
$$;
COMMENT ON FUNCTION chatwebhook.erase_conversation(text, text, boolean) IS
    'Removes the events of a conversation, with all replies, errors, attempts, dead letters and memories, including those of webhooks that the caller cannot see. Pending deliveries are canceled; bare records of deliveries remain. Returns the number of events. With dry_run, it only counts them. It reads the whole table event, unless that has an index on (conversation_id, type).';

CREATE FUNCTION chatwebhook.wait_until_idle(timeout interval DEFAULT '1 minute') RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_wait_until_idle'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook.wait_until_idle(interval) IS
    'Waits until no enabled webhook has pending deliveries, including those that wait for a retry, and those of the caller''s own uncommitted events, but not those that emit() has scheduled for later. Returns false if the time runs out first.';
