CREATE TABLE chatwebhook.webhook (
    id                 uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    name               text NOT NULL,
    chatbot_id         text,
    url                text NOT NULL,
    connector          text NOT NULL DEFAULT 'webhook',
    events             text[] NOT NULL DEFAULT '{*}',
    filter             jsonpath,
    enabled            boolean NOT NULL DEFAULT true,
    headers            jsonb NOT NULL DEFAULT '{}',
    settings           jsonb NOT NULL DEFAULT '{}',
    auth               jsonb,
    max_retries        integer NOT NULL DEFAULT 5,
    backoff            interval NOT NULL DEFAULT '1 second',
    backoff_multiplier double precision NOT NULL DEFAULT 2,
    max_backoff        interval NOT NULL DEFAULT '1 minute',
    timeout            interval NOT NULL DEFAULT '10 seconds',
    rate_limit         double precision,
    max_in_flight      integer NOT NULL DEFAULT 32,
    ordered            boolean NOT NULL DEFAULT false,
    batch_size         integer NOT NULL DEFAULT 1,
    batch_window       interval NOT NULL DEFAULT '0',
    signing            text NOT NULL DEFAULT 'v1',
    disabled_at        timestamptz,
    disabled_reason    text,
    created_at         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at         timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE chatwebhook.webhook IS
    'Where, and how, events are to be delivered. Plain INSERT, UPDATE and DELETE manage it; a row gets a signing secret by itself.';
COMMENT ON COLUMN chatwebhook.webhook.id IS 'Identifies the webhook; cannot change.';
COMMENT ON COLUMN chatwebhook.webhook.name IS 'A name for people and views.';
COMMENT ON COLUMN chatwebhook.webhook.chatbot_id IS
    'Deliver the events of this chatbot only; null: of every chatbot.';
COMMENT ON COLUMN chatwebhook.webhook.url IS
    'Where the requests go: https, unless chatwebhook.allow_http is on. A {{name}} in path or query, or for all of it, is the credential of that name.';
COMMENT ON COLUMN chatwebhook.webhook.connector IS
    'What kind of service it is: a name of the table connector. webhook sends the event itself, signed.';
COMMENT ON COLUMN chatwebhook.webhook.events IS
    'Event types wanted: exact names, or patterns such as message.* and *.';
COMMENT ON COLUMN chatwebhook.webhook.filter IS
    'A jsonpath predicate over the envelope, as for @@, such as $.data.score < 0.2; a path that is no predicate, or fails, lets nothing through; null: all.';
COMMENT ON COLUMN chatwebhook.webhook.enabled IS
    'False: nothing new is queued for it, and what is pending waits.';
COMMENT ON COLUMN chatwebhook.webhook.headers IS
    'Request headers to add, an object of strings; they cannot replace the extension''s own. A {{name}} is the credential of that name.';
COMMENT ON COLUMN chatwebhook.webhook.settings IS
    'What the connector wants to know, an object; see the connector''s description.';
COMMENT ON COLUMN chatwebhook.webhook.auth IS
    'How requests show who sends them, with credentials as {{name}}: {"type":"bearer","token":"{{name}}"}, {"type":"basic","username":"...","password":"{{name}}"}, {"type":"header","name":"...","value":"{{name}}"}, {"type":"body","name":"...","value":"{{name}}"} (a member of the body) or {"type":"oauth2","token_url":"...","client_id":"...","scope":"..."} (client credentials; the secret is the credential client_secret). Null: in no such way.';
COMMENT ON COLUMN chatwebhook.webhook.max_retries IS
    'Retries after the first attempt, 0 to 100; then the delivery is dead.';
COMMENT ON COLUMN chatwebhook.webhook.backoff IS 'Wait before the first retry.';
COMMENT ON COLUMN chatwebhook.webhook.backoff_multiplier IS
    'Each wait is the previous one times this times 0.5 to 1.5 at random; 1 to 10.';
COMMENT ON COLUMN chatwebhook.webhook.max_backoff IS 'No wait is longer, but for a Retry-After.';
COMMENT ON COLUMN chatwebhook.webhook.timeout IS
    'Limit for a request, from the look-up of the name to the last byte of the reply; 100 ms to 5 minutes. A connector''s attempt can take several.';
COMMENT ON COLUMN chatwebhook.webhook.rate_limit IS
    'Deliveries a second, all workers together; 0.001 to 100000; null: no limit.';
COMMENT ON COLUMN chatwebhook.webhook.ordered IS
    'True: deliveries of one conversation go one after another, in the order in which the events were emitted; a retry holds back those behind it, a dead one does not.';
COMMENT ON COLUMN chatwebhook.webhook.max_in_flight IS
    'Most requests to this webhook at one time, for each worker; 1 to 1024. Fewer are used until it has shown that it answers.';
COMMENT ON COLUMN chatwebhook.webhook.signing IS
    'v1: HMAC-SHA256 with a secret that both sides know; v1a: Ed25519, for receivers that should not be able to sign; public_key() is what they verify with. A change makes a new secret.';
COMMENT ON COLUMN chatwebhook.webhook.batch_size IS
    'Most events in one request, 1 to 100; over 1, the body is an array of them, and connector is webhook. What comes in faster than it is answered goes together.';
COMMENT ON COLUMN chatwebhook.webhook.batch_window IS
    'How long the first event of a batch waits for others, unless the batch is full before; 0 to 1 minute.';
COMMENT ON COLUMN chatwebhook.webhook.disabled_at IS
    'When the extension disabled it by itself; null if it did not.';
COMMENT ON COLUMN chatwebhook.webhook.disabled_reason IS 'Why the extension disabled it.';
COMMENT ON COLUMN chatwebhook.webhook.created_at IS 'When it was created.';
COMMENT ON COLUMN chatwebhook.webhook.updated_at IS 'When it was last changed.';

/*
 * No samples of what may be secret, or was said, among the planner's statistics:
 * our plans do without, and there neither erase_conversation() nor retention
 * would find them.
 */
ALTER TABLE chatwebhook.webhook
    ALTER url SET STATISTICS 0,
    ALTER headers SET STATISTICS 0,
    ALTER settings SET STATISTICS 0,
    ALTER auth SET STATISTICS 0;
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.webhook', '');

CREATE FUNCTION chatwebhook._url_problem(url text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_problem'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._url_problem(text) IS
    'Why the worker would not send to this URL, or null if it would.';

CREATE FUNCTION chatwebhook._header_problem(headers jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_header_problem'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._header_problem(jsonb) IS
    'Why this object cannot be sent as request headers, or null if it can.';

/* Slack's and Discord's URLs, and others', are secrets themselves. */
CREATE FUNCTION chatwebhook._redact(url text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT regexp_replace(regexp_replace(url, E'\\?.*$', '?...'),
                          E'(?<!^[A-Za-z]+:/)/(?!\\{\\{)[^/?]{16,}(?=[/?]|$)', '/...', 'g')
$$;
COMMENT ON FUNCTION chatwebhook._redact(text) IS
    'A URL without its query and without long words in its path, which may be tokens.';

CREATE FUNCTION chatwebhook._auth_problem(auth jsonb) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    kind    text;
    wanted  text[];
    allowed text[];
    secret  text;
    key     text;
BEGIN
    IF jsonb_typeof(auth) <> 'object' OR jsonb_typeof(auth->'type') IS DISTINCT FROM 'string' THEN
        RETURN 'it is not an object with a type';
    END IF;
    kind := auth->>'type';
    SELECT w, a, s INTO wanted, allowed, secret
      FROM (VALUES ('bearer', '{token}'::text[], '{}'::text[], 'token'),
                   ('basic', '{username,password}', '{}', 'password'),
                   ('header', '{name,value}', '{}', 'value'),
                   ('body', '{name,value}', '{}', 'value'),
                   ('oauth2', '{token_url,client_id}', '{scope}', NULL)) AS k(k, w, a, s)
     WHERE k = kind;
    IF NOT FOUND THEN
        RETURN format('its type is "%s", and not bearer, basic, header, body or oauth2', left(kind, 100));
    END IF;
    FOREACH key IN ARRAY wanted LOOP
        IF jsonb_typeof(auth->key) IS DISTINCT FROM 'string' OR auth->>key = '' THEN
            RETURN format('%s needs "%s", a text', kind, key);
        END IF;
    END LOOP;
    SELECT k INTO key FROM jsonb_object_keys(auth) AS k
     WHERE k <> 'type' AND k <> ALL (wanted) AND k <> ALL (allowed) LIMIT 1;
    IF FOUND THEN
        RETURN format('%s does not know "%s"', kind, left(key, 100));
    END IF;
    IF jsonb_typeof(auth->'scope') <> 'string' THEN
        RETURN 'scope is not a text';
    END IF;
    IF secret IS NOT NULL AND auth->>secret !~ E'\\{\\{[a-z][a-z0-9_]*\\}\\}' THEN
        RETURN format('"%s" has the secret itself: write {{name}}, and give it to set_credential()', secret);
    END IF;
    IF EXISTS (SELECT FROM jsonb_each_text(auth) AS e(k, v)
                WHERE v !~ E'^[\\x20-\\x7e]*$' OR length(v) > 2000) THEN
        RETURN 'its texts are not printable ASCII of at most 2000 characters';
    END IF;
    RETURN CASE kind
        WHEN 'header' THEN chatwebhook._header_problem(jsonb_build_object(auth->>'name', auth->>'value'))
        WHEN 'oauth2' THEN 'token_url: ' || chatwebhook._url_problem(auth->>'token_url')
    END;
END
$$;
COMMENT ON FUNCTION chatwebhook._auth_problem(jsonb) IS
    'Why a webhook cannot have this auth, or null if it can.';

CREATE FUNCTION chatwebhook._check_webhook() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    problem   text;
    pattern   text;
    restoring constant boolean := chatwebhook._restoring();
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'cannot change the id of webhook "%"', OLD.name
            USING ERRCODE = 'check_violation',
                  HINT = 'Create another webhook, and delete this one.';
    END IF;
    IF btrim(NEW.name) = '' OR length(NEW.name) > 255 OR NEW.name ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'invalid webhook name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use 1 to 255 characters, without control characters.';
    END IF;
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.url <> OLD.url) THEN
        problem := CASE WHEN NEW.url !~ E'^\\{\\{[a-z0-9_]+\\}\\}$' THEN chatwebhook._url_problem(NEW.url) END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'cannot deliver to the URL of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Use a public https URL without user name or password. For a receiver on this machine, an administrator sets chatwebhook.allowed_networks = 127.0.0.0/8 and chatwebhook.allow_http = on; for another port, chatwebhook.allowed_ports.';
        END IF;
    END IF;

    -- only when they change: what they name may have gone since
    IF TG_OP = 'INSERT' OR NEW.events IS DISTINCT FROM OLD.events THEN
        IF coalesce(array_ndims(NEW.events), 0) <> 1 THEN
            RAISE EXCEPTION 'webhook "%" names no event', NEW.name
                USING ERRCODE = 'check_violation',
                      HINT = 'List event types or patterns, such as ''{lead.captured,message.*}'', or ''{*}'' for all.';
        END IF;
        FOREACH pattern IN ARRAY NEW.events LOOP
            IF pattern IS NULL OR length(pattern) > 255
               OR pattern !~ E'^(\\*|[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*(\\.\\*)?)$' THEN
                RAISE EXCEPTION 'invalid event pattern "%" in webhook "%"',
                        coalesce(left(pattern, 100), 'null'), NEW.name
                    USING ERRCODE = 'check_violation',
                          HINT = 'Use an event type, such as lead.captured, or a pattern with * as its last word, such as message.* or *.';
            END IF;
            IF NOT restoring AND pattern <> '*' AND NOT EXISTS (
                SELECT FROM chatwebhook.event_type t
                 WHERE t.name = pattern
                    OR right(pattern, 2) = '.*' AND starts_with(t.name, left(pattern, -1))) THEN
                RAISE EXCEPTION 'no event type is called "%", in webhook "%"', pattern, NEW.name
                    USING ERRCODE = 'check_violation',
                          HINT = 'See the table chatwebhook.event_type, or add the type there first.';
            END IF;
        END LOOP;
    END IF;

    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.connector <> OLD.connector)
       AND NOT EXISTS (SELECT FROM chatwebhook.connector c WHERE c.name = NEW.connector) THEN
        RAISE EXCEPTION 'no connector is called "%", in webhook "%"', left(NEW.connector, 100), NEW.name
            USING ERRCODE = 'check_violation',
                  HINT = 'See the table chatwebhook.connector.';
    END IF;
    -- it runs as its owner: whoever chooses it must be allowed to call it
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.connector <> OLD.connector) THEN
        PERFORM chatwebhook._check_connector_access(NEW.connector);
    END IF;
    IF jsonb_typeof(NEW.settings) <> 'object' THEN
        RAISE EXCEPTION 'the settings of webhook "%" are not an object', NEW.name
            USING ERRCODE = 'check_violation';
    END IF;
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.auth IS DISTINCT FROM OLD.auth OR NEW.connector <> OLD.connector) THEN
        problem := CASE WHEN NEW.connector = 'webhook' AND NEW.auth->>'type' = 'body'
                        THEN 'the body of an event is not to be added to'
                        ELSE chatwebhook._auth_problem(NEW.auth) END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'unusable auth of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Give an object such as {"type": "bearer", "token": "{{access_token}}"}, and the secret to set_credential().';
        END IF;
    END IF;

    problem := chatwebhook._header_problem(NEW.headers);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot send the headers of webhook "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = 'Give an object of strings, such as {"X-Team": "sales"}.';
    END IF;

    problem := CASE
        WHEN NEW.max_retries NOT BETWEEN 0 AND 100
            THEN format('max_retries is %s, outside 0 to 100', NEW.max_retries)
        WHEN NEW.max_in_flight NOT BETWEEN 1 AND 1024
            THEN format('max_in_flight is %s, outside 1 to 1024', NEW.max_in_flight)
        WHEN NOT NEW.rate_limit BETWEEN 0.001 AND 100000
            THEN format('rate_limit is %s, outside 0.001 to 100000 deliveries a second', NEW.rate_limit)
        WHEN NEW.batch_size NOT BETWEEN 1 AND 100
            THEN format('batch_size is %s, outside 1 to 100', NEW.batch_size)
        WHEN NEW.batch_size > 1 AND NEW.connector <> 'webhook'
            THEN format('batch_size is %s, but connector %s sends events one by one', NEW.batch_size, NEW.connector)
        WHEN NEW.batch_window NOT BETWEEN '0' AND '1 minute'
            THEN format('batch_window is %s, outside 0 to 1 minute', NEW.batch_window)
        WHEN NOT NEW.backoff_multiplier BETWEEN 1 AND 10
            THEN format('backoff_multiplier is %s, outside 1 to 10', NEW.backoff_multiplier)
        WHEN NEW.backoff NOT BETWEEN '10 ms' AND '1 day'
            THEN format('backoff is %s, outside 10 ms to 1 day', NEW.backoff)
        WHEN NEW.max_backoff NOT BETWEEN '10 ms' AND '7 days'
            THEN format('max_backoff is %s, outside 10 ms to 7 days', NEW.max_backoff)
        WHEN NEW.timeout NOT BETWEEN '100 ms' AND '5 minutes'
            THEN format('timeout is %s, outside 100 ms to 5 minutes', NEW.timeout)
        WHEN NEW.signing NOT IN ('v1', 'v1a')
            THEN format('signing is "%s", and not v1 or v1a', left(NEW.signing, 100))
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'invalid webhook "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation';
    END IF;

    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := now();
        -- enabling it by hand forgets why the extension disabled it
        IF NEW.enabled AND NOT OLD.enabled THEN
            NEW.disabled_at := NULL;
            NEW.disabled_reason := NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_webhook() IS 'Trigger: checks a webhook.';
CREATE TRIGGER check_webhook BEFORE INSERT OR UPDATE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_webhook();

CREATE FUNCTION chatwebhook._webhook_follow() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NOT chatwebhook._restoring() THEN
            INSERT INTO chatwebhook.health (webhook_id) VALUES (NEW.id);
            PERFORM chatwebhook._make_secret(NEW.id, NEW.signing);
        END IF;
        PERFORM chatwebhook._wake(NEW.id);
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.signing <> OLD.signing THEN
            PERFORM chatwebhook._make_secret(NEW.id, NEW.signing);
        END IF;
        IF NEW.ordered <> OLD.ordered THEN
            UPDATE chatwebhook.queue q SET ordered = NEW.ordered
             WHERE q.webhook_id = NEW.id AND q.conversation_id IS NOT NULL;
        END IF;
        IF NEW.connector <> OLD.connector THEN
            -- another's replies say nothing to it
            UPDATE chatwebhook.queue SET replies = NULL WHERE webhook_id = NEW.id AND replies IS NOT NULL;
            UPDATE chatwebhook.dead SET replies = NULL WHERE webhook_id = NEW.id AND replies IS NOT NULL;
            UPDATE chatwebhook.history SET replies = NULL WHERE webhook_id = NEW.id AND replies IS NOT NULL;
        END IF;
        IF NEW.enabled AND NOT OLD.enabled THEN
            -- it gets all of its time again
            UPDATE chatwebhook.health SET failing_since = NULL WHERE webhook_id = NEW.id;
        END IF;
        IF NEW.enabled <> OLD.enabled THEN
            PERFORM chatwebhook._check_alerts(ARRAY[NEW.id]);
        END IF;
        PERFORM chatwebhook._wake(NEW.id);
    ELSE
        PERFORM chatwebhook._set_alert(OLD.id, a.kind, false, NULL)
           FROM chatwebhook.alert a WHERE a.webhook_id = OLD.id AND a.closed_at IS NULL;
        DELETE FROM chatwebhook.vault WHERE webhook_id = OLD.id;
        DELETE FROM chatwebhook.health WHERE webhook_id = OLD.id;
        WITH gone AS (
            DELETE FROM chatwebhook.queue WHERE webhook_id = OLD.id RETURNING *
        )
        INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at,
               last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id,
               webhook_name, status, last_error, replies)
        SELECT id, webhook_id, event_id, created_at, clock_timestamp(),
               last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id,
               OLD.name, 'canceled', 'the webhook was deleted', replies
          FROM gone;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._webhook_follow() IS
    'Trigger: gives a new webhook its secret and health, and cancels what a deleted one is owed.';
CREATE TRIGGER follow AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._webhook_follow();

/*
 * ALWAYS and for rows, since the caches must hear of replicated changes and of
 * the worker's own, too.
 */
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.webhook
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.webhook ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.webhook ENABLE ALWAYS TRIGGER emptied;

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
