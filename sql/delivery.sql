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

CREATE FUNCTION chatwebhook.wait_until_idle(timeout interval DEFAULT '1 minute') RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_wait_until_idle'
    LANGUAGE C VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook.wait_until_idle(interval) IS
    'Waits until every delivery of every enabled webhook is finished, one''s own uncommitted ones included; false when the time is up. One that waits for its retry is not finished.';

/*
 * Webhooks and their secrets.
 */
CREATE FUNCTION chatwebhook.create_webhook(
    name               text,
    url                text,
    events             text[] DEFAULT '{*}',
    chatbot_id         text DEFAULT NULL,
    filter             jsonpath DEFAULT NULL,
    enabled            boolean DEFAULT true,
    headers            jsonb DEFAULT '{}',
    max_retries        integer DEFAULT 5,
    backoff            interval DEFAULT '1 second',
    backoff_multiplier double precision DEFAULT 2,
    max_backoff        interval DEFAULT '1 minute',
    timeout            interval DEFAULT '10 seconds',
    max_in_flight      integer DEFAULT 32,
    signing            text DEFAULT 'v1',
    connector          text DEFAULT 'webhook',
    settings           jsonb DEFAULT '{}',
    auth               jsonb DEFAULT NULL,
    rate_limit         double precision DEFAULT NULL,
    ordered            boolean DEFAULT false,
    batch_size         integer DEFAULT 1,
    batch_window       interval DEFAULT '0',
    OUT id             uuid,
    INOUT secret       text DEFAULT NULL)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    problem text;
BEGIN
    PERFORM chatwebhook._check_chatbot(chatbot_id);
    problem := CASE WHEN signing = 'v1' THEN chatwebhook._secret_problem(secret)
                    WHEN secret IS NOT NULL AND chatwebhook._public_key(secret) IS NULL
                    THEN 'it is not a private key of Ed25519' END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'unusable signing secret for webhook "%": %', name, problem
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Leave it out to have one made, or give whsec_ and the base64 of 24 to 64 random bytes, or whsk_ and that of a private key for v1a.';
    END IF;
    INSERT INTO chatwebhook.webhook AS w (name, url, events, chatbot_id, filter, enabled, headers,
           max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight, signing,
           connector, settings, auth, rate_limit, ordered, batch_size, batch_window)
    VALUES (name, url, events, chatbot_id, filter, enabled, headers,
           max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight, signing,
           connector, settings, auth, rate_limit, ordered, batch_size, batch_window)
    RETURNING w.id INTO id;
    IF secret IS NULL THEN
        secret := chatwebhook.secret(id);
    ELSE
        PERFORM chatwebhook._set_secret(id, 'signing_secret', secret);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, integer, interval, text) IS
    'Creates a webhook, and gives its id and its signing secret. The arguments are the columns of the table webhook.';

CREATE FUNCTION chatwebhook.secret(webhook_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    RETURN (SELECT chatwebhook._open(v.webhook_id, v.name, v.value)
              FROM chatwebhook.vault v
             WHERE v.webhook_id = webhook_id AND v.name = 'signing_secret');
END
$$;
COMMENT ON FUNCTION chatwebhook.secret(uuid) IS
    'The webhook''s signing secret, for those allowed to see it.';

CREATE FUNCTION chatwebhook.public_key(webhook_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    RETURN (SELECT chatwebhook._public_key(chatwebhook._open(v.webhook_id, v.name, v.value))
              FROM chatwebhook.vault v
              JOIN chatwebhook.webhook w ON w.id = v.webhook_id
             WHERE v.webhook_id = webhook_id AND v.name = 'signing_secret' AND w.signing = 'v1a');
END
$$;
COMMENT ON FUNCTION chatwebhook.public_key(uuid) IS
    'With signing v1a, the key that receivers verify with: whpk_ and base64; else null.';

CREATE FUNCTION chatwebhook.rotate_secret(webhook_id uuid, overlap interval DEFAULT '24 hours')
    RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    fresh    text;
    outgoing text;
BEGIN
    IF webhook_id IS NULL OR overlap IS NULL OR overlap < '0' THEN
        RAISE EXCEPTION 'rotate_secret() needs a webhook and an overlap of no less than 0'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    -- one rotation at a time
    SELECT chatwebhook._new_secret(w.signing) INTO fresh
      FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR NO KEY UPDATE;
    -- it may have been deleted while we waited
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    DELETE FROM chatwebhook.vault v
     WHERE v.webhook_id = webhook_id AND v.name = 'previous_signing_secret';
    IF overlap > '0' THEN
        -- sealed anew, since a value is bound to its name
        outgoing := chatwebhook.secret(webhook_id);
    END IF;
    IF outgoing IS NOT NULL THEN
        PERFORM chatwebhook._set_secret(webhook_id, 'previous_signing_secret', outgoing);
        UPDATE chatwebhook.vault v SET expires_at = clock_timestamp() + overlap
         WHERE v.webhook_id = webhook_id AND v.name = 'previous_signing_secret';
    END IF;
    PERFORM chatwebhook._set_secret(webhook_id, 'signing_secret', fresh);
    PERFORM chatwebhook._wake(webhook_id);
    RETURN fresh;
END
$$;
COMMENT ON FUNCTION chatwebhook.rotate_secret(uuid, interval) IS
    'Gives the webhook a new signing secret. Requests carry signatures of both until the overlap is over.';

CREATE FUNCTION chatwebhook.set_credential(webhook_id uuid, name text, value text)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
BEGIN
    IF webhook_id IS NULL OR name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,62}$'
       OR name IN ('signing_secret', 'previous_signing_secret') THEN
        RAISE EXCEPTION 'invalid name of a credential: "%"', left(name, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use up to 63 lower-case letters, digits and _, such as api_token. Signing secrets are made by rotate_secret().';
    END IF;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    -- it must not be deleted meanwhile, and may have been while we waited
    PERFORM FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR KEY SHARE;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF value IS NULL THEN
        DELETE FROM chatwebhook.vault v WHERE v.webhook_id = webhook_id AND v.name = name;
    ELSIF value = '' OR length(value) > 65536
          OR name NOT IN ('client_certificate', 'client_key') AND value !~ E'^[\\x21-\\x7e]([\\x20-\\x7e]*[\\x21-\\x7e])?$' THEN
        -- the value itself stays out of the message
        RAISE EXCEPTION 'unusable value for the credential "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give printable ASCII in one line, without blanks at its ends; a certificate or key is PEM.';
    ELSE
        PERFORM chatwebhook._set_secret(webhook_id, name, value);
    END IF;
    PERFORM chatwebhook._wake(webhook_id);
END
$$;
COMMENT ON FUNCTION chatwebhook.set_credential(uuid, text, text) IS
    'Keeps a secret for a webhook, which a {{name}} in its URL or headers stands for; client_certificate and client_key (PEM) are shown to the receiver in TLS. Null removes it. It cannot be read back.';

CREATE FUNCTION chatwebhook.rekey() RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
    WITH sealed AS (
        UPDATE chatwebhook.vault v
           SET value = chatwebhook._reseal(v.webhook_id, v.name, v.value)
         WHERE NOT chatwebhook._is_current(v.value)
        RETURNING 1
    )
    SELECT count(*) FROM sealed
$$;
COMMENT ON FUNCTION chatwebhook.rekey() IS
    'Encrypts every secret anew that is not under the current key, the first of chatwebhook.secret_key_file; how many. The old key must still be in the file, behind the new one.';

CREATE FUNCTION chatwebhook._test_webhook(
    webhook_id        uuid,
    OUT success       boolean,
    OUT status_code   integer,
    OUT error         text,
    OUT latency_ms    integer,
    OUT response_body text)
    AS 'MODULE_PATHNAME', 'chatwebhook_test_webhook'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._test_webhook(uuid) IS
    'test_webhook(), without asking who calls.';

CREATE FUNCTION chatwebhook.test_webhook(
    webhook_id        uuid,
    OUT success       boolean,
    OUT status_code   integer,
    OUT error         text,
    OUT latency_ms    integer,
    OUT response_body text)
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    SELECT t.success, t.status_code, t.error, t.latency_ms, t.response_body
      INTO success, status_code, error, latency_ms, response_body
      FROM chatwebhook._test_webhook(webhook_id) t;
END
$$;
COMMENT ON FUNCTION chatwebhook.test_webhook(uuid) IS
    'Sends webhook.test now, all of a connector''s requests, and waits for the replies; it gives the last. Nothing is queued or counted.';

CREATE FUNCTION chatwebhook._preview(webhook_id uuid, event jsonb, replies jsonb)
    RETURNS chatwebhook.request
    AS 'MODULE_PATHNAME', 'chatwebhook_preview'
    LANGUAGE C VOLATILE;
COMMENT ON FUNCTION chatwebhook._preview(uuid, jsonb, jsonb) IS 'preview(), without asking who calls.';

CREATE FUNCTION chatwebhook.preview(webhook_id uuid, event jsonb, replies jsonb DEFAULT '[]')
    RETURNS chatwebhook.request
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    hook    record;
    whole   jsonb;
    request chatwebhook.request;
    base    text;
    auth    jsonb;
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF jsonb_typeof(event) IS DISTINCT FROM 'object' OR jsonb_typeof(event->'type') IS DISTINCT FROM 'string' THEN
        RAISE EXCEPTION 'the event is not an object with a type'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give one such as {"type": "lead.captured", "data": {"email": "ann@example.com"}}.';
    END IF;
    IF jsonb_typeof(replies) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'the replies are not an array'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give what the service has answered so far, such as [{"status": 200, "body": {"id": "1"}}].';
    END IF;
    whole := jsonb_build_object(
        'id', chatwebhook.uuidv7(),
        'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'chatbotId', NULL, 'conversationId', NULL, 'data', '{}'::jsonb) || event;
    SELECT w.url, w.connector, w.headers, w.auth INTO hook
      FROM chatwebhook.webhook w WHERE w.id = webhook_id;
    IF hook.connector = 'webhook' THEN
        request := ROW('POST', hook.url, jsonb_build_object(
            'X-Webhook-Event', whole->>'type', 'X-Webhook-Attempt', '1', 'X-Webhook-Delivery', '...',
            'X-Webhook-Signature', 'sha256=...', 'webhook-id', whole->>'id',
            'webhook-timestamp', '...', 'webhook-signature', 'v1,...'), whole, true);
    ELSE
        PERFORM chatwebhook._check_connector_access(hook.connector);
        request := chatwebhook._preview(webhook_id, whole, replies);
        IF num_nonnulls(request.method, request.url, request.headers, request.body, request.last) = 0 THEN
            RETURN NULL;
        END IF;
    END IF;

    request.method := coalesce(request.method, 'POST');
    request.last := coalesce(request.last, false);
    request.headers := coalesce(request.headers, '{}')
        || CASE WHEN request.body IS NOT NULL THEN '{"Content-Type": "application/json"}' ELSE '{}' END::jsonb;
    base := rtrim(hook.url, '/');
    IF request.url IS NULL OR request.url = hook.url
       OR starts_with(request.url, base) AND substr(request.url, length(base) + 1, 1) IN ('', '/', '?', '&') THEN
        -- as the worker does: nothing of the webhook's own goes elsewhere
        request.url := chatwebhook._redact(hook.url)
            || CASE WHEN request.url <> hook.url THEN substr(request.url, length(base) + 1) ELSE '' END;
        auth := hook.auth;
        request.headers := request.headers || hook.headers || CASE auth->>'type'
            WHEN 'bearer' THEN jsonb_build_object('Authorization', 'Bearer ' || (auth->>'token'))
            WHEN 'basic' THEN jsonb_build_object('Authorization', 'Basic base64(' || (auth->>'username') || ':' || (auth->>'password') || ')')
            WHEN 'header' THEN jsonb_build_object(auth->>'name', auth->>'value')
            WHEN 'oauth2' THEN '{"Authorization": "Bearer {{access_token}}"}'
            ELSE '{}' END;
        IF auth->>'type' = 'body' AND jsonb_typeof(request.body) = 'object' THEN
            request.body := request.body || jsonb_build_object(auth->>'name', auth->>'value');
        END IF;
    END IF;
    RETURN request;
END
$$;
COMMENT ON FUNCTION chatwebhook.preview(uuid, jsonb, jsonb) IS
    'The request that the webhook would send for this event after these replies (none: the first request), with secrets as {{name}} and what may be one in the URL left out; null if it would send none. Nothing is sent. Of the event only type is needed.';

/*
 * Signatures, for those who receive in SQL.
 */
CREATE FUNCTION chatwebhook.sign(body text, secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_sign_body'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.sign(text, text) IS
    'The value of X-Webhook-Signature: sha256= and the HMAC-SHA256 of the body in hexadecimal.';

CREATE FUNCTION chatwebhook.sign(id text, at timestamptz, body text, secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_sign_standard'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.sign(text, timestamptz, text, text) IS
    'The value of webhook-signature as Standard Webhooks defines it: v1, and the HMAC-SHA256 of id, timestamp and body in base64; with a private key (whsk_), v1a, and their Ed25519 signature.';

CREATE FUNCTION chatwebhook.verify(body text, signature text, secret text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_verify_body'
    LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.verify(text, text, text) IS
    'Whether X-Webhook-Signature is that of the body; in constant time. False for a null or malformed one.';

CREATE FUNCTION chatwebhook.verify(headers jsonb, body text, secret text,
                                   tolerance interval DEFAULT '5 minutes')
    RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_verify_standard'
    LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.verify(jsonb, text, text, interval) IS
    'Whether webhook-id, webhook-timestamp and webhook-signature (names in any case) are those of the body, and the time within the tolerance. False for null or malformed ones. The headers are jsonb: a literal needs a cast. For v1a the secret is the public key (whpk_).';
