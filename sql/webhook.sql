/*
 * Webhooks: where, and how, events are to be delivered.
 */

/* URLs of Slack, Discord and others are secrets. */
CREATE FUNCTION chatwebhook._redact(url text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT regexp_replace(regexp_replace(url, E'\\?.*$', '?...'),
                          E'(?<!^[A-Za-z]+:/)/(?!\\{\\{)[^/?]{16,}(?=[/?]|$)', '/...', 'g')
$$;
COMMENT ON FUNCTION chatwebhook._redact(text) IS
    'Returns a URL without its query and without long path segments, which may be tokens.';

CREATE TABLE chatwebhook.webhook (
    id                 uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    -- alerts, messages and events show these, so nothing may come past the bounds
    name               text NOT NULL CHECK (pg_catalog.octet_length(name) OPERATOR(pg_catalog.<=) 1024),
    chatbot_id         text DEFAULT NULLIF(pg_catalog.current_setting('chatwebhook.chatbot', true), '')
                            CHECK (pg_catalog.octet_length(chatbot_id) OPERATOR(pg_catalog.<=) 1024),
    url                text NOT NULL,
    public_url         text GENERATED ALWAYS AS (chatwebhook._redact(url)) STORED,
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
    retry_delays       interval[],
    timeout            interval NOT NULL DEFAULT '10 seconds',
    rate_limit         double precision,
    max_in_flight      integer NOT NULL DEFAULT 32,
    ordered            boolean NOT NULL DEFAULT false,
    batch_size         integer NOT NULL DEFAULT 1,
    batch_window       interval NOT NULL DEFAULT '0',
    debounce           interval,
    signing            text NOT NULL DEFAULT 'v1',
    disabled_at        timestamptz,
    disabled_reason    text,
    created_at         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at         timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- sessions that emit read the webhooks of one chatbot by it (src/subscription.c)
CREATE INDEX webhook_chatbot_idx ON chatwebhook.webhook (pg_catalog.hashtextextended(chatbot_id, 0));
ALTER TABLE chatwebhook.webhook
    ALTER url SET STATISTICS 0,
    ALTER headers SET STATISTICS 0,
    ALTER settings SET STATISTICS 0,
    ALTER auth SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.webhook IS
    'Where and how events are delivered. INSERT, UPDATE and DELETE manage it. A new row gets a signing secret if its connector is signed.';
COMMENT ON COLUMN chatwebhook.webhook.id IS 'Identifies the webhook. It cannot be changed.';
COMMENT ON COLUMN chatwebhook.webhook.name IS 'Name for people and views.';
COMMENT ON COLUMN chatwebhook.webhook.chatbot_id IS
    'Chatbot whose events are delivered, by default that of the setting chatwebhook.chatbot. Null means every chatbot. The settings chatwebhook.max_customer_... bound webhooks that have one.';
COMMENT ON COLUMN chatwebhook.webhook.url IS
    'URL to send requests to: https, unless chatwebhook.allow_http is on. A {{name}} in its path or query, or in place of the whole URL, stands for the credential of that name.';
COMMENT ON COLUMN chatwebhook.webhook.public_url IS
    'The URL without its query and without long path segments, which may be tokens.';
COMMENT ON COLUMN chatwebhook.webhook.connector IS
    'Kind of service: a name from the table connector. webhook sends the event itself, signed.';
COMMENT ON COLUMN chatwebhook.webhook.events IS
    'Event types to deliver, at most 100: exact names, or patterns such as message.* and *. The pattern * does not match webhook.test, webhook.alert, webhook.exhausted and webhook.recovered; use webhook.* for those.';
COMMENT ON COLUMN chatwebhook.webhook.filter IS
    'Delivers only events whose envelope matches this jsonpath predicate, as with the operator @@, such as $.data.score < 0.2. A path that is not a predicate, or that fails, matches nothing. What could take long is refused, such as comparing two lists, and all filters of an event together have 100 ms. Null means no filter.';
COMMENT ON COLUMN chatwebhook.webhook.enabled IS
    'If false, no new events are queued, and pending deliveries wait.';
COMMENT ON COLUMN chatwebhook.webhook.headers IS
    'Request headers to add, an object of at most 50 strings and 64 kB. They cannot replace the extension''s own headers. A {{name}} stands for the credential of that name. At most 20 values can be computed for each request: {{$hmac_sha256}} (of the body, in hexadecimal), {{$hmac_sha256_base64}}, {{$hmac_sha256_timestamped}} (of timestamp.body, in hexadecimal), {{$timestamp}} (Unix seconds), {{$id}}, {{$type}}, {{$attempt}} and {{$delivery}}. The HMACs are keyed with the text of the signing secret, so they need a signed connector and signing v1 or v1,v1a.';
COMMENT ON COLUMN chatwebhook.webhook.settings IS
    'Settings of the connector, an object of at most 64 kB. The comment on the connector''s function lists them. The connector webhook has one: {"headers": "standard"} leaves out all X-Webhook-... headers, for gateways that refuse unknown headers.';
COMMENT ON COLUMN chatwebhook.webhook.auth IS
    'How requests authenticate, with credentials as {{name}}: {"type":"bearer","token":"{{name}}"}, {"type":"basic","username":"...","password":"{{name}}"}, {"type":"header","name":"...","value":"{{name}}"}, {"type":"body","name":"...","value":"{{name}}"} (a member of the body) or {"type":"oauth2","token_url":"...","client_id":"...","scope":"..."} (client credentials grant, with the credential client_secret). Null means none of these.';
COMMENT ON COLUMN chatwebhook.webhook.max_retries IS
    'Retries after the first attempt, 0 to 100; with a chatbot_id, at most chatwebhook.max_customer_retries. After the last, the delivery is dead.';
COMMENT ON COLUMN chatwebhook.webhook.backoff IS 'Wait before the first retry.';
COMMENT ON COLUMN chatwebhook.webhook.backoff_multiplier IS
    'Factor from one wait to the next, 1 to 10. Each wait is also multiplied by a random 0.5 to 1.5.';
COMMENT ON COLUMN chatwebhook.webhook.max_backoff IS 'Maximum wait, unless a Retry-After is longer.';
COMMENT ON COLUMN chatwebhook.webhook.retry_delays IS
    'Waits before the retries, one for each: at most 100, of 0 to 7 days; with a chatbot_id, at most chatwebhook.max_customer_retries. After the last, the delivery is dead. Each is lengthened by a random 0 to 10 %, and replaced by a longer Retry-After. The list replaces max_retries, backoff, backoff_multiplier and max_backoff; the last three still determine how often a paused webhook is probed. Null means no list.';
COMMENT ON COLUMN chatwebhook.webhook.timeout IS
    'Maximum time for a request, from resolving the host name to the last byte of the reply: 100 ms to 5 minutes; with a chatbot_id, at most chatwebhook.max_customer_timeout. An attempt of a connector can take several requests.';
COMMENT ON COLUMN chatwebhook.webhook.rate_limit IS
    'Maximum deliveries per second, over all workers: 0.001 to 100000. Null means no limit.';
COMMENT ON COLUMN chatwebhook.webhook.max_in_flight IS
    'Maximum concurrent requests to this webhook from each worker: 1 to 1024; with a chatbot_id, at most chatwebhook.max_customer_in_flight. Workers use fewer until the webhook has proved to respond.';
COMMENT ON COLUMN chatwebhook.webhook.ordered IS
    'If true, deliveries of one conversation are sent one after another, in the order of the events. A retry holds back the deliveries after it; a dead delivery does not. Always true with a connector that is ordered. Ids of conversations over 2000 bytes are not ordered.';
COMMENT ON COLUMN chatwebhook.webhook.batch_size IS
    'Maximum events in one request, 1 to 100. Above 1, the body is an array of events, and the connector must be one that takes batches, such as webhook and cloudevents. Events that arrive faster than requests complete are sent together.';
COMMENT ON COLUMN chatwebhook.webhook.batch_window IS
    'How long the first event of a batch waits for others, unless the batch is full before: 0 to 1 minute.';
COMMENT ON COLUMN chatwebhook.webhook.debounce IS
    'If set, to at most 1 hour, only the last of several events of one type in one conversation is delivered: once no other has followed for this long, or at the latest after five times as long. The others are canceled. Null or 0 means that all are delivered. Events without a conversation, or whose conversation''s id exceeds 2000 bytes, and those with a deliver_at are not debounced.';
COMMENT ON COLUMN chatwebhook.webhook.signing IS
    'v1: HMAC-SHA256 with a shared secret. v1a: Ed25519, for receivers that should not be able to sign; public_key() returns the key to verify with. v1,v1a: both, for receivers that change from one to the other. A change keeps the secret or key that is still used, generates one that is missing, and removes one that is no longer used. Ignored if the connector is not signed.';
COMMENT ON COLUMN chatwebhook.webhook.disabled_at IS
    'When the extension disabled it; null if it did not. Only the extension writes this and the following columns.';
COMMENT ON COLUMN chatwebhook.webhook.disabled_reason IS 'Why the extension disabled it.';
COMMENT ON COLUMN chatwebhook.webhook.created_at IS 'When it was created.';
COMMENT ON COLUMN chatwebhook.webhook.updated_at IS 'When it was last changed.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.webhook', '');

/*
 * Roles that may change webhooks can also lock the table for as long as they
 * like.  While it is locked, sessions that emit, and workers, read this copy,
 * which only the owner can lock.
 */
CREATE TABLE chatwebhook._webhook (
    LIKE chatwebhook.webhook INCLUDING COMMENTS,
    PRIMARY KEY (id)
);
CREATE INDEX _webhook_chatbot_idx ON chatwebhook._webhook (pg_catalog.hashtextextended(chatbot_id, 0));
ALTER TABLE chatwebhook._webhook
    ALTER url SET STATISTICS 0,
    ALTER headers SET STATISTICS 0,
    ALTER settings SET STATISTICS 0,
    ALTER auth SET STATISTICS 0;
COMMENT ON TABLE chatwebhook._webhook IS
    'A copy of the table webhook, which its trigger keeps.';

CREATE FUNCTION chatwebhook._copy_webhook() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM chatwebhook._webhook;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM chatwebhook._webhook c WHERE c.id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO chatwebhook._webhook SELECT NEW.*;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._copy_webhook() IS
    'Trigger: keeps the copy of the table webhook.';

/*
 * Webhooks that were deleted, as long as finished deliveries are kept.  An event
 * that is committed at the same time as the deletion leaves a delivery that the
 * deletion has not seen, and that a worker cancels.  Without a row here, a webhook
 * that does not exist is one that a restore has yet to bring.
 */
CREATE TABLE chatwebhook.deleted_webhook (
    id         uuid PRIMARY KEY,
    deleted_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE chatwebhook.deleted_webhook IS
    'Webhooks that were deleted. Their pending deliveries are canceled; those of a webhook that neither exists nor is listed here wait for it to be restored.';
COMMENT ON COLUMN chatwebhook.deleted_webhook.id IS 'Identified the webhook.';
COMMENT ON COLUMN chatwebhook.deleted_webhook.deleted_at IS 'When it was deleted.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.deleted_webhook', '');

/*
 * Checks.  Each error names the value, the reason and the way out.
 */
CREATE FUNCTION chatwebhook._url_problem(url text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_problem'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._url_problem(text) IS
    'Returns why the workers refuse to send to this URL, or null.';

CREATE FUNCTION chatwebhook._header_problem(headers jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_header_problem'
    LANGUAGE C IMMUTABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._header_problem(jsonb) IS
    'Returns why this object cannot be sent as request headers, or null.';

CREATE FUNCTION chatwebhook._json_problem(value jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_json_problem'
    LANGUAGE C IMMUTABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._json_problem(jsonb) IS
    'Returns what a webhook''s settings or auth have too much of, or null.';

CREATE FUNCTION chatwebhook._filter_problem(filter jsonpath) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_filter_problem'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook._filter_problem(jsonpath) IS
    'Returns why a webhook cannot have this filter, or null.';

CREATE FUNCTION chatwebhook._delays_problem(delays interval[]) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE
        WHEN array_ndims(delays) > 1 THEN 'retry_delays is an array of arrays'
        WHEN cardinality(delays) > 100 THEN format('retry_delays has %s elements, more than 100', cardinality(delays))
        WHEN array_position(delays, NULL) IS NOT NULL THEN 'retry_delays has a null element'
        ELSE (SELECT format('retry_delays has %s, outside the range 0 to 7 days', delay)
                FROM unnest(delays) AS delay WHERE NOT delay BETWEEN '0' AND '7 days' LIMIT 1)
    END
$$;
COMMENT ON FUNCTION chatwebhook._delays_problem(interval[]) IS
    'Returns why a webhook cannot have these retry_delays, or null.';

CREATE FUNCTION chatwebhook._auth_problem(auth jsonb) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    kind    text;
    wanted  text[];
    allowed text[];
    secret  text;
    key     text;
BEGIN
    IF chatwebhook._json_problem(auth) IS NOT NULL THEN
        RETURN 'it is ' || chatwebhook._json_problem(auth);
    END IF;
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
        RETURN format('its type is "%s", not bearer, basic, header, body or oauth2', left(kind, 100));
    END IF;
    FOREACH key IN ARRAY wanted LOOP
        IF jsonb_typeof(auth->key) IS DISTINCT FROM 'string' OR auth->>key = '' THEN
            RETURN format('%s needs a string "%s"', kind, key);
        END IF;
    END LOOP;
    SELECT k INTO key FROM jsonb_object_keys(auth) AS k
     WHERE k <> 'type' AND k <> ALL (wanted) AND k <> ALL (allowed) LIMIT 1;
    IF FOUND THEN
        RETURN format('%s has no key "%s"', kind, left(key, 100));
    END IF;
    IF jsonb_typeof(auth->'scope') <> 'string' THEN
        RETURN 'its scope is not a string';
    END IF;
    IF auth::text ~ E'\\{\\{\\$' THEN
        RETURN 'it contains {{$...}}, which is allowed only in headers';
    END IF;
    IF secret IS NOT NULL AND auth->>secret !~ E'\\{\\{[a-z][a-z0-9_]*\\}\\}' THEN
        RETURN format('its %s is the secret itself, not a {{name}}', secret);
    END IF;
    IF EXISTS (SELECT FROM jsonb_each_text(auth) AS e(k, v)
                WHERE v !~ E'^[\\x20-\\x7e]*$' OR length(v) > 2000) THEN
        RETURN 'its strings are not printable ASCII, or are longer than 2000 characters';
    END IF;
    RETURN CASE kind
        WHEN 'header' THEN chatwebhook._header_problem(jsonb_build_object(auth->>'name', auth->>'value'))
        WHEN 'oauth2' THEN 'token_url: ' || chatwebhook._url_problem(auth->>'token_url')
    END;
END
$$;
COMMENT ON FUNCTION chatwebhook._auth_problem(jsonb) IS
    'Returns why a webhook cannot have this auth, or null.';

CREATE FUNCTION chatwebhook._fields_problem(fields jsonb) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    type    text;
    target  text;
    path    text;
    problem text;
BEGIN
    FOR type, target, path IN
        SELECT m.type, m.target, m.path
          FROM (SELECT NULL AS type, f.key AS target, f.value #>> '{}' AS path, jsonb_typeof(f.value) AS kind
                  FROM jsonb_each(CASE jsonb_typeof(fields) WHEN 'object' THEN fields ELSE '{}' END) AS f
                UNION ALL
                SELECT t.key, f.key, f.value #>> '{}', jsonb_typeof(f.value)
                  FROM jsonb_each(CASE jsonb_typeof(fields) WHEN 'object' THEN fields ELSE '{}' END) AS t,
                       jsonb_each(CASE jsonb_typeof(t.value) WHEN 'object' THEN t.value ELSE '{}' END) AS f) AS m
         WHERE m.kind = 'string' AND starts_with(m.path, '$')
         ORDER BY m.type NULLS FIRST, m.target
    LOOP
        BEGIN
            problem := chatwebhook._filter_problem(path::jsonpath);
        EXCEPTION WHEN OTHERS THEN
            problem := SQLERRM;
        END;
        IF problem IS NOT NULL THEN
            RETURN format('"%s"%s: %s', left(target, 100), ' of ' || left(type, 100), left(problem, 300));
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._fields_problem(jsonb) IS
    'Returns which path in a webhook''s settings.fields cannot be used, and why; or null.';

/*
 * Only what is new or changes is checked: an administrator may have lowered a
 * bound since.  Values up to the column's default are always accepted, so that a
 * plain INSERT works even under a lower bound; the workers apply the bound.
 * Concurrent transactions do not see each other's webhooks, so together they can
 * exceed max_customer_webhooks.
 */
CREATE FUNCTION chatwebhook._customer_problem(hook chatwebhook.webhook, was chatwebhook.webhook) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    moved         constant boolean := hook.chatbot_id IS DISTINCT FROM was.chatbot_id;
    max_retries   constant integer := chatwebhook._setting('chatwebhook.max_customer_retries');
    max_in_flight constant integer := chatwebhook._setting('chatwebhook.max_customer_in_flight');
    max_timeout   constant text := chatwebhook._setting('chatwebhook.max_customer_timeout');
    max_webhooks  constant integer := chatwebhook._setting('chatwebhook.max_customer_webhooks');
BEGIN
    IF hook.chatbot_id IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN CASE
        WHEN (moved OR hook.max_retries IS DISTINCT FROM was.max_retries) AND hook.max_retries > greatest(max_retries, 5)
            THEN format('max_retries is %s, more than chatwebhook.max_customer_retries (%s) allows with a chatbot_id',
                        hook.max_retries, max_retries)
        WHEN (moved OR hook.retry_delays IS DISTINCT FROM was.retry_delays)
             AND cardinality(hook.retry_delays) > max_retries
            THEN format('retry_delays has %s elements, more than chatwebhook.max_customer_retries (%s) allows with a chatbot_id',
                        cardinality(hook.retry_delays), max_retries)
        WHEN (moved OR hook.max_in_flight IS DISTINCT FROM was.max_in_flight) AND hook.max_in_flight > greatest(max_in_flight, 32)
            THEN format('max_in_flight is %s, more than chatwebhook.max_customer_in_flight (%s) allows with a chatbot_id',
                        hook.max_in_flight, max_in_flight)
        WHEN (moved OR hook.timeout IS DISTINCT FROM was.timeout) AND hook.timeout > greatest(max_timeout::interval, '10 s')
            THEN format('timeout is %s, more than chatwebhook.max_customer_timeout (%s) allows with a chatbot_id',
                        hook.timeout, max_timeout)
        WHEN moved AND max_webhooks >= 0
             AND (SELECT count(*) FROM chatwebhook.webhook w
                   WHERE hashtextextended(w.chatbot_id, 0) = hashtextextended(hook.chatbot_id, 0)
                     AND w.chatbot_id = hook.chatbot_id) >= max_webhooks
            THEN format('its chatbot has as many webhooks as chatwebhook.max_customer_webhooks (%s) allows', max_webhooks)
    END;
END
$$;
COMMENT ON FUNCTION chatwebhook._customer_problem(chatwebhook.webhook, chatwebhook.webhook) IS
    'Returns which of the administrator''s bounds for webhooks with a chatbot_id this one exceeds, or null.';

CREATE FUNCTION chatwebhook._check_webhook() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
    -- our own functions, which write these, do not fire this trigger; nor does replication
    problem := CASE
        WHEN TG_OP <> 'UPDATE' THEN NULL
        WHEN NEW.disabled_at IS DISTINCT FROM OLD.disabled_at THEN 'disabled_at'
        WHEN NEW.disabled_reason IS DISTINCT FROM OLD.disabled_reason THEN 'disabled_reason'
        WHEN NEW.created_at <> OLD.created_at THEN 'created_at'
        WHEN NEW.updated_at <> OLD.updated_at THEN 'updated_at'
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot change % of webhook "%"', problem, OLD.name
            USING ERRCODE = 'check_violation',
                  HINT = 'The extension sets it. To disable the webhook or enable it again, change the column enabled.';
    END IF;
    IF TG_OP = 'INSERT' AND NOT restoring THEN
        NEW.disabled_at := NULL;
        NEW.disabled_reason := NULL;
        NEW.created_at := now();
        NEW.updated_at := NEW.created_at;
        -- its deliveries would become the new one's, which can be another chatbot's
        IF NOT EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.id = NEW.id)
           AND (EXISTS (SELECT FROM chatwebhook.queue q WHERE q.webhook_id = NEW.id)
                OR EXISTS (SELECT FROM chatwebhook.dead d WHERE d.webhook_id = NEW.id)
                OR EXISTS (SELECT FROM chatwebhook.history h WHERE h.webhook_id = NEW.id)) THEN
            RAISE EXCEPTION 'cannot create webhook "%" with the id of a deleted webhook', left(NEW.name, 100)
                USING ERRCODE = 'check_violation',
                      HINT = 'Omit the id to have one generated.';
        END IF;
    END IF;
    IF btrim(NEW.name) = '' OR length(NEW.name) > 255 OR NEW.name ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'invalid webhook name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use 1 to 255 characters, without control characters.';
    END IF;
    IF octet_length(NEW.chatbot_id) > 1024 THEN
        RAISE EXCEPTION 'chatbot_id of webhook "%" is too long: "%..."', NEW.name, left(NEW.chatbot_id, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use the chatbot''s id, of at most 1024 bytes.';
    END IF;
    IF octet_length(NEW.url) > 16384 THEN
        RAISE EXCEPTION 'cannot deliver to the URL of webhook "%": the URL is too long', NEW.name
            USING ERRCODE = 'check_violation',
                  HINT = 'Use at most 4096 characters, with all credentials filled in.';
    END IF;
    -- these have line breaks, and are for TLS
    IF concat(NEW.url, NEW.headers, NEW.auth) ~ E'\\{\\{client_(certificate|key)\\}\\}' THEN
        RAISE EXCEPTION 'webhook "%" cannot send client_certificate or client_key', NEW.name
            USING ERRCODE = 'check_violation',
                  HINT = 'They are used in TLS by themselves. Use a credential of another name.';
    END IF;
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.url <> OLD.url) THEN
        problem := CASE WHEN NEW.url ~ E'\\{\\{\\$' THEN 'it contains {{$...}}, which is allowed only in headers'
                        WHEN NEW.url !~ E'^\\{\\{[a-z0-9_]+\\}\\}$' THEN chatwebhook._url_problem(NEW.url) END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'cannot deliver to the URL of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Use a public https URL without user name or password. For a receiver on this machine, an administrator can set chatwebhook.allowed_networks = 127.0.0.0/8 and chatwebhook.allow_http = on; for another port, chatwebhook.allowed_ports.';
        END IF;
    END IF;

    -- only if changed: event types and connectors can have been removed since
    IF TG_OP = 'INSERT' OR NEW.events IS DISTINCT FROM OLD.events THEN
        IF coalesce(array_ndims(NEW.events), 0) <> 1 THEN
            RAISE EXCEPTION 'webhook "%" lists no events', NEW.name
                USING ERRCODE = 'check_violation',
                      HINT = 'List event types or patterns, such as ''{lead.captured,message.*}'', or ''{*}'' for all but webhook.*.';
        END IF;
        IF cardinality(NEW.events) > 100 THEN
            RAISE EXCEPTION 'webhook "%" lists % events, more than 100', NEW.name, cardinality(NEW.events)
                USING ERRCODE = 'check_violation',
                      HINT = 'Use patterns, such as message.*, or several webhooks.';
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
                RAISE EXCEPTION 'no event type matches "%" in webhook "%"', pattern, NEW.name
                    USING ERRCODE = 'check_violation',
                          HINT = 'See the table chatwebhook.event_type, or add the type there first.';
            END IF;
        END LOOP;
    END IF;

    -- one that came without this check can stay: it is checked again when it is loaded
    IF NOT restoring AND (TG_OP = 'INSERT' OR chatwebhook._filter_problem(OLD.filter) IS NULL
                          OR NEW.filter::text IS DISTINCT FROM OLD.filter::text) THEN
        problem := chatwebhook._filter_problem(NEW.filter);
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'invalid filter of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'A filter is evaluated while the chat waits, so its cost must be small. Use comparisons such as $.data.score < 0.2, joined by && and ||.';
        END IF;
    END IF;

    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.connector <> OLD.connector) THEN
        IF NOT EXISTS (SELECT FROM chatwebhook.connector c WHERE c.name = NEW.connector) THEN
            RAISE EXCEPTION 'connector "%" of webhook "%" does not exist', left(NEW.connector, 100), NEW.name
                USING ERRCODE = 'check_violation',
                      HINT = 'See the table chatwebhook.connector.';
        END IF;
    END IF;
    IF NOT restoring AND NOT NEW.ordered THEN
        NEW.ordered := coalesce((SELECT c.ordered FROM chatwebhook.connector c WHERE c.name = NEW.connector), false);
    END IF;
    problem := chatwebhook._json_problem(NEW.settings);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'settings of webhook "%" are %', NEW.name, problem
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Use what the comment on the connector''s function lists, and leave out the rest.';
    END IF;
    IF jsonb_typeof(NEW.settings) <> 'object' THEN
        RAISE EXCEPTION 'settings of webhook "%" are not an object', NEW.name
            USING ERRCODE = 'check_violation';
    END IF;
    IF NOT restoring AND NEW.connector IN ('webhook', 'cloudevents') AND NEW.settings ? 'headers'
       AND NEW.settings->'headers' <> '"standard"' THEN
        RAISE EXCEPTION 'invalid settings.headers of webhook "%": %', NEW.name, left((NEW.settings->'headers')::text, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use "standard", or leave it out to send the X-Webhook-... headers, too. Headers to add go into the column headers.';
    END IF;
    -- to a connector of one's own, they can mean something else
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.settings->'fields' IS DISTINCT FROM OLD.settings->'fields' OR NEW.connector <> OLD.connector)
       AND EXISTS (SELECT FROM chatwebhook.connector c WHERE c.name = NEW.connector AND c.shipped) THEN
        problem := chatwebhook._fields_problem(NEW.settings->'fields');
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'invalid settings.fields of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'A text that begins with $ is an SQL/JSON path into the event. Use one such as $.data.plan, or put @ before a text that is to be sent as it is.';
        END IF;
    END IF;
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.connector <> OLD.connector OR NEW.batch_size <> OLD.batch_size
                          OR NEW.settings <> OLD.settings)
       AND EXISTS (SELECT FROM chatwebhook.connector c
                    WHERE c.name = NEW.connector AND c.function = 'chatwebhook.cloudevents(jsonb,jsonb,jsonb)') THEN
        problem := chatwebhook._cloudevents_problem(NEW.settings, NEW.batch_size);
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'invalid settings of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'The comment on chatwebhook.cloudevents() lists the settings.';
        END IF;
    END IF;
    IF NOT restoring AND (TG_OP = 'INSERT' OR NEW.auth IS DISTINCT FROM OLD.auth OR NEW.connector <> OLD.connector) THEN
        problem := CASE WHEN NEW.connector IN ('webhook', 'cloudevents') AND NEW.auth->>'type' = 'body'
                        THEN format('the connector %s sends the event unchanged, so its auth cannot be of type body', NEW.connector)
                        ELSE chatwebhook._auth_problem(NEW.auth) END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'invalid auth of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Use an object such as {"type": "bearer", "token": "{{access_token}}"}, and store the secret with set_credential().';
        END IF;
    END IF;

    problem := chatwebhook._header_problem(NEW.headers);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot send the headers of webhook "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = CASE WHEN problem LIKE '%unknown placeholder%'
                              THEN 'Use one of these, or {{name}} for a credential.'
                              ELSE 'Use an object of strings, such as {"X-Team": "sales"}.' END;
    END IF;
    IF NOT restoring AND NEW.headers::text ~ E'\\{\\{\\$hmac'
       AND NOT EXISTS (SELECT FROM chatwebhook.connector c WHERE c.name = NEW.connector AND c.signed) THEN
        RAISE EXCEPTION 'cannot send the headers of webhook "%": connector "%" is not signed, so there is no secret for an HMAC', NEW.name, NEW.connector
            USING ERRCODE = 'check_violation',
                  HINT = 'Use a connector that is signed, such as webhook or cloudevents, or remove {{$hmac_...}} from the headers.';
    END IF;
    IF NEW.signing = 'v1a' AND NEW.headers::text ~ E'\\{\\{\\$hmac' THEN
        RAISE EXCEPTION 'cannot send the headers of webhook "%": with signing v1a, it has no secret for an HMAC', NEW.name
            USING ERRCODE = 'check_violation',
                  HINT = 'Set signing to v1 or v1,v1a, or remove {{$hmac_...}} from the headers.';
    END IF;

    problem := CASE
        WHEN NEW.max_retries NOT BETWEEN 0 AND 100
            THEN format('max_retries is %s, outside the range 0 to 100', NEW.max_retries)
        WHEN NEW.max_in_flight NOT BETWEEN 1 AND 1024
            THEN format('max_in_flight is %s, outside the range 1 to 1024', NEW.max_in_flight)
        WHEN NOT NEW.rate_limit BETWEEN 0.001 AND 100000
            THEN format('rate_limit is %s, outside the range 0.001 to 100000 deliveries per second', NEW.rate_limit)
        WHEN NEW.batch_size NOT BETWEEN 1 AND 100
            THEN format('batch_size is %s, outside the range 1 to 100', NEW.batch_size)
        WHEN NEW.batch_size > 1 AND NOT restoring
             AND (TG_OP = 'INSERT' OR NEW.batch_size <> OLD.batch_size OR NEW.connector <> OLD.connector)
             AND NOT (SELECT c.batches FROM chatwebhook.connector c WHERE c.name = NEW.connector)
            THEN format('batch_size is %s, but connector %s sends one event at a time', NEW.batch_size, NEW.connector)
        WHEN NEW.batch_window NOT BETWEEN '0' AND '1 minute'
            THEN format('batch_window is %s, outside the range 0 to 1 minute', NEW.batch_window)
        WHEN NEW.debounce NOT BETWEEN '0' AND '1 hour'
            THEN format('debounce is %s, outside the range 0 to 1 hour', NEW.debounce)
        WHEN NOT NEW.backoff_multiplier BETWEEN 1 AND 10
            THEN format('backoff_multiplier is %s, outside the range 1 to 10', NEW.backoff_multiplier)
        WHEN NEW.backoff NOT BETWEEN '10 ms' AND '1 day'
            THEN format('backoff is %s, outside the range 10 ms to 1 day', NEW.backoff)
        WHEN NEW.max_backoff NOT BETWEEN '10 ms' AND '7 days'
            THEN format('max_backoff is %s, outside the range 10 ms to 7 days', NEW.max_backoff)
        WHEN NEW.timeout NOT BETWEEN '100 ms' AND '5 minutes'
            THEN format('timeout is %s, outside the range 100 ms to 5 minutes', NEW.timeout)
        WHEN NEW.signing NOT IN ('v1', 'v1a', 'v1,v1a')
            THEN format('signing is "%s", not v1, v1a or v1,v1a', left(NEW.signing, 100))
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'invalid webhook "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation';
    END IF;
    problem := chatwebhook._delays_problem(NEW.retry_delays);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'invalid webhook "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = 'List the waits before the retries, such as ''{5 s,5 min,30 min,2 h}'', or use max_retries and backoff.';
    END IF;
    problem := CASE WHEN NOT restoring THEN chatwebhook._customer_problem(NEW, OLD) END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'invalid webhook "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = 'Stay within that, or have an administrator raise the setting.';
    END IF;

    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := now();
        -- once it is enabled again, it does not matter why it was disabled
        IF NEW.enabled AND NOT OLD.enabled THEN
            NEW.disabled_at := NULL;
            NEW.disabled_reason := NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_webhook() IS 'Trigger: checks a webhook.';

CREATE FUNCTION chatwebhook._webhook_follow() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    restoring constant boolean := chatwebhook._restoring();
    signed    boolean;
    ids       bigint[];
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT c.signed INTO signed FROM chatwebhook.connector c WHERE c.name = NEW.connector;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NOT restoring THEN
            -- the index also knows of a deletion that this snapshot does not see
            BEGIN
                INSERT INTO chatwebhook.deleted_webhook (id) VALUES (NEW.id);
            EXCEPTION
                WHEN unique_violation THEN
                    RAISE EXCEPTION 'cannot create webhook "%" with the id of a deleted webhook', NEW.name
                        USING ERRCODE = 'check_violation',
                              HINT = 'Omit the id to have one generated.';
            END;
        END IF;
        DELETE FROM chatwebhook.deleted_webhook WHERE id = NEW.id;
        IF NOT restoring THEN
            INSERT INTO chatwebhook.health (webhook_id) VALUES (NEW.id);
            IF signed THEN
                PERFORM chatwebhook._follow_signing(NEW.id, NEW.signing);
            END IF;
        END IF;
        PERFORM chatwebhook._wake(NEW.id);
    ELSIF TG_OP = 'UPDATE' THEN
        -- secrets that it had with another signed connector are kept
        IF signed AND (NEW.signing <> OLD.signing OR NEW.connector <> OLD.connector) THEN
            PERFORM chatwebhook._follow_signing(NEW.id, NEW.signing);
        ELSIF NEW.signing <> OLD.signing THEN
            DELETE FROM chatwebhook.vault v
             WHERE v.webhook_id = NEW.id AND v.name ~ '^(previous_)?signing_(secret|key)$';
        END IF;
        IF NEW.ordered <> OLD.ordered THEN
            UPDATE chatwebhook.queue q SET ordered = NEW.ordered
             WHERE q.webhook_id = NEW.id AND octet_length(q.conversation_id) <= 2000
               AND q.deliver_at IS NULL AND q.debounce_until IS NULL;
        END IF;
        IF coalesce(NEW.debounce, '0') = '0' AND OLD.debounce > '0' THEN
            -- otherwise, they would arrive after events that are emitted from now on
            UPDATE chatwebhook.queue q SET next_attempt_at = least(q.next_attempt_at, clock_timestamp())
             WHERE q.webhook_id = NEW.id AND q.debounced IS NOT NULL AND q.debounce_until IS NOT NULL;
        END IF;
        IF NEW.connector <> OLD.connector THEN
            -- replies to another connector's requests mean nothing to this one
            UPDATE chatwebhook.queue SET replies = NULL WHERE webhook_id = NEW.id AND replies IS NOT NULL;
            UPDATE chatwebhook.dead SET replies = NULL WHERE webhook_id = NEW.id AND replies IS NOT NULL;
            UPDATE chatwebhook.history SET replies = NULL WHERE webhook_id = NEW.id AND replies IS NOT NULL;
        END IF;
        IF NEW.connector <> OLD.connector OR NEW.url <> OLD.url OR NEW.chatbot_id IS DISTINCT FROM OLD.chatbot_id THEN
            -- the same ids may name other people's tickets in another account
            DELETE FROM chatwebhook.memory WHERE webhook_id = NEW.id;
        END IF;
        IF NEW.enabled AND NOT OLD.enabled THEN
            -- chatwebhook.disable_after starts anew
            UPDATE chatwebhook.health SET failing_since = NULL WHERE webhook_id = NEW.id;
        END IF;
        IF NEW.enabled <> OLD.enabled THEN
            PERFORM chatwebhook._check_alerts(ARRAY[NEW.id]);
        END IF;
        PERFORM chatwebhook._wake(NEW.id);
    ELSE
        PERFORM chatwebhook._set_alert(OLD.id, a.kind, false, NULL)
           FROM chatwebhook.alert a WHERE a.webhook_id = OLD.id AND a.closed_at IS NULL;
        INSERT INTO chatwebhook.deleted_webhook (id) VALUES (OLD.id)
            ON CONFLICT ON CONSTRAINT deleted_webhook_pkey DO UPDATE SET deleted_at = EXCLUDED.deleted_at;
        DELETE FROM chatwebhook.vault WHERE webhook_id = OLD.id;
        DELETE FROM chatwebhook.health WHERE webhook_id = OLD.id;
        -- in parts, because the size of an array is limited
        FOR ids IN SELECT array_agg(q.id)
                     FROM (SELECT id, (row_number() OVER () - 1) / 1000000 AS part
                             FROM chatwebhook.queue WHERE webhook_id = OLD.id) q
                    GROUP BY q.part LOOP
            PERFORM chatwebhook._cancel_deliveries(ids, 'the webhook was deleted', OLD.name);
        END LOOP;
        -- last, when no worker is settling any of these
        DELETE FROM chatwebhook.memory WHERE webhook_id = OLD.id;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._webhook_follow() IS
    'Trigger: gives a new webhook its health and, if its connector is signed, its secret; cancels the pending deliveries of a deleted one.';

CREATE FUNCTION chatwebhook._check_connector_use() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM chatwebhook._check_connector_access(NEW.connector);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector_use() IS
    'Trigger, with the rights of whoever changes a webhook: may that role use the connector?';

CREATE TRIGGER check_webhook BEFORE INSERT OR UPDATE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_webhook();
CREATE TRIGGER connector_use BEFORE INSERT OR UPDATE OF connector ON chatwebhook.webhook
    FOR EACH ROW WHEN (NEW.connector OPERATOR(pg_catalog.<>) 'webhook')
    EXECUTE FUNCTION chatwebhook._check_connector_use();
CREATE TRIGGER follow AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._webhook_follow();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.webhook
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER copied AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.webhook
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._copy_webhook();
CREATE TRIGGER copied_empty AFTER TRUNCATE ON chatwebhook.webhook
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._copy_webhook();

/*
 * Functions
 */
CREATE FUNCTION chatwebhook.create_webhook(
    name               text,
    url                text,
    events             text[] DEFAULT '{*}',
    chatbot_id         text DEFAULT NULLIF(pg_catalog.current_setting('chatwebhook.chatbot', true), ''),
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
    debounce           interval DEFAULT NULL,
    retry_delays       interval[] DEFAULT NULL,
    OUT id             uuid,
    INOUT secret       text DEFAULT NULL)
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    problem text;
BEGIN
    problem := chatwebhook._signing_secret_problem(signing, secret);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'invalid signing secret for webhook "%": %', name, problem
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Omit it to have one generated. Otherwise, use whsec_ and the base64 of 24 to 64 random bytes, or, for v1a, whsk_ and the base64 of a private key.';
    END IF;
    INSERT INTO chatwebhook.webhook AS w (name, url, events, chatbot_id, filter, enabled, headers,
           max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight, signing,
           connector, settings, auth, rate_limit, ordered, batch_size, batch_window, debounce, retry_delays)
    VALUES (name, url, events, chatbot_id, filter, enabled, headers,
           max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight, signing,
           connector, settings, auth, rate_limit, ordered, batch_size, batch_window, debounce, retry_delays)
    RETURNING w.id INTO id;
    IF secret IS NOT NULL THEN
        PERFORM chatwebhook._set_signing_secret(id, secret);
    ELSIF connector = 'webhook' THEN
        secret := chatwebhook.secret(id);
    ELSIF (SELECT c.signed FROM chatwebhook.connector c WHERE c.name = connector) THEN
        secret := chatwebhook.secret(id);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, integer, interval, interval, interval[], text) IS
    'Creates a webhook, and returns its id and its signing secret, as secret() does; null if its connector is not signed. The arguments are columns of the table webhook.';

CREATE FUNCTION chatwebhook._try_webhook(
    webhook_id        uuid,
    OUT success       boolean,
    OUT status_code   integer,
    OUT error         text,
    OUT latency_ms    integer,
    OUT response_body text)
    AS 'MODULE_PATHNAME', 'chatwebhook_try_webhook'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._try_webhook(uuid) IS 'Sends webhook.test, and waits for the reply.';

CREATE FUNCTION chatwebhook._check_sendable(webhook_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    hook record;
BEGIN
    SELECT w.name, w.enabled, w.disabled_reason, coalesce(chatwebhook._copy_problem(), h.problem) AS problem INTO hook
      FROM chatwebhook.webhook w LEFT JOIN chatwebhook.health h ON h.webhook_id = w.id
     WHERE w.id = _check_sendable.webhook_id;
    IF NOT hook.enabled THEN
        RAISE EXCEPTION 'webhook "%" is disabled%', hook.name, coalesce(': ' || hook.disabled_reason, '')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'To enable it, set webhook.enabled to true.';
    ELSIF hook.problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot send to webhook "%": %', hook.name, hook.problem
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Once that is fixed, delivery resumes by itself.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_sendable(uuid) IS
    'Raises an error if the workers send nothing to this webhook: it is disabled, or has a problem.';

CREATE FUNCTION chatwebhook._do_test_webhook(
    webhook_id        uuid,
    wait              boolean,
    OUT success       boolean,
    OUT status_code   integer,
    OUT error         text,
    OUT latency_ms    integer,
    OUT response_body text,
    OUT delivery_id   bigint)
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    now_at constant timestamptz := clock_timestamp();
    event  uuid;
BEGIN
    IF wait THEN
        SELECT t.* INTO success, status_code, error, latency_ms, response_body
          FROM chatwebhook._try_webhook(webhook_id) t;
        RETURN;
    END IF;
    PERFORM chatwebhook._check_sendable(webhook_id);
    IF chatwebhook._setting('chatwebhook.outbox')::boolean THEN
        RAISE EXCEPTION 'test_webhook(wait => false) does not work while chatwebhook.outbox is on'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Call it on a delivery node, or wait for the reply.';
    END IF;
    -- with the webhook's chatbot, so that those who see the webhook see the delivery
    SELECT chatwebhook._emit_to(w.id, false, 'webhook.test', w.chatbot_id, NULL, '{"message": "This is a test webhook delivery"}') INTO event
      FROM chatwebhook.webhook w WHERE w.id = _do_test_webhook.webhook_id;
    -- unlike a backfill's, it is due now; later, it would show nothing any more
    UPDATE chatwebhook.queue q SET next_attempt_at = now_at, expires_at = now_at + interval '1 minute'
      FROM chatwebhook.event e
     WHERE e.id = event AND q.id = e.first_delivery
    RETURNING q.id INTO delivery_id;
    PERFORM chatwebhook._wake(webhook_id);
END
$$;
COMMENT ON FUNCTION chatwebhook._do_test_webhook(uuid, boolean) IS 'Implements test_webhook(), with the owner''s rights.';

CREATE FUNCTION chatwebhook.test_webhook(
    webhook_id        uuid,
    wait              boolean DEFAULT true,
    OUT success       boolean,
    OUT status_code   integer,
    OUT error         text,
    OUT latency_ms    integer,
    OUT response_body text,
    OUT delivery_id   bigint)
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.test_webhook(uuid, boolean) IS
    'Sends a webhook.test event now, with all requests of a connector, and returns the last reply. Nothing is queued or counted. The call, and its transaction, take at most 10 seconds, whatever the webhook''s timeout. With wait => false, it returns at once with only delivery_id: a worker sends the event after the commit, and the outcome is in delivery and attempt. That delivery is one like any other: it is counted, tried again, and waits while the webhook is paused, but it is canceled if it was not delivered within a minute.';

CREATE FUNCTION chatwebhook._do_preview(webhook_id uuid, event jsonb, replies jsonb)
    RETURNS chatwebhook.request
    AS 'MODULE_PATHNAME', 'chatwebhook_preview'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook._do_preview(uuid, jsonb, jsonb) IS
    'Returns the request that the webhook''s connector makes; null if it makes none.';

CREATE FUNCTION chatwebhook._preview(webhook_id uuid, event jsonb, replies jsonb)
    RETURNS chatwebhook.request
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._preview(uuid, jsonb, jsonb) IS
    'Calls _do_preview() if the caller can see the webhook.';

CREATE FUNCTION chatwebhook.preview(webhook_id uuid, event jsonb DEFAULT NULL, replies jsonb DEFAULT '[]', event_id uuid DEFAULT NULL)
    RETURNS chatwebhook.request
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    hook    record;
    whole   jsonb;
    signed  boolean := true;
    request chatwebhook.request;
    base    text;
    auth    jsonb;
    unknown text;
    traceparent text;
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF (event IS NULL) = (event_id IS NULL) THEN
        RAISE EXCEPTION 'preview() takes either an event or an event_id'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF event IS NULL THEN
        SELECT jsonb_build_object(
                   'id', e.id, 'type', e.type,
                   'timestamp', to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                   'chatbotId', e.chatbot_id, 'conversationId', e.conversation_id, 'data', e.data), e.traceparent
          INTO event, traceparent
          FROM chatwebhook.event e WHERE e.id = event_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'event "%" does not exist', event_id
                USING ERRCODE = 'no_data_found';
        END IF;
    END IF;
    IF jsonb_typeof(event) IS DISTINCT FROM 'object' OR jsonb_typeof(event->'type') IS DISTINCT FROM 'string' THEN
        RAISE EXCEPTION 'event is not an object with a type'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use an object such as {"type": "lead.captured", "data": {"email": "ann@example.com"}}.';
    END IF;
    SELECT k INTO unknown FROM jsonb_object_keys(event) AS k
     WHERE k <> ALL ('{id,type,timestamp,chatbotId,conversationId,data}') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'unknown key in event: "%"', left(unknown, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'An event has the keys id, type, timestamp, chatbotId, conversationId and data; everything else belongs in data.';
    END IF;
    IF jsonb_typeof(replies) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'replies are not an array'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass the service''s replies so far, such as [{"status": 200, "body": {"id": "1"}}].';
    END IF;
    whole := jsonb_build_object(
        'id', chatwebhook.uuidv7(),
        'timestamp', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'chatbotId', NULL, 'conversationId', NULL, 'data', '{}'::jsonb) || event;
    SELECT w.url, w.connector, w.headers, w.settings, w.auth, w.signing, w.batch_size > 1 AS batch INTO hook
      FROM chatwebhook.webhook w WHERE w.id = webhook_id;
    IF hook.connector = 'webhook' THEN
        request := ROW('POST', hook.url, NULL, CASE WHEN hook.batch THEN jsonb_build_array(whole) ELSE whole END, true);
    ELSE
        SELECT c.signed, hook.batch AND c.batches AS batch INTO signed, hook.batch
          FROM chatwebhook.connector c WHERE c.name = hook.connector;
        PERFORM chatwebhook._check_connector_access(hook.connector);
        request := chatwebhook._preview(webhook_id, whole, replies);
        IF num_nonnulls(request.method, request.url, request.headers, request.body, request.last) = 0 THEN
            RAISE NOTICE 'nothing % send: connector "%" makes no request for this event',
                CASE replies WHEN '[]' THEN 'to' ELSE 'more to' END, hook.connector;
            RETURN NULL;
        END IF;
    END IF;

    request.method := coalesce(request.method, 'POST');
    request.last := coalesce(request.last, false);
    request.headers := coalesce(request.headers, '{}');
    IF request.body IS NOT NULL AND NOT EXISTS (SELECT FROM jsonb_object_keys(request.headers) AS k
                                                 WHERE lower(k) = 'content-type') THEN
        request.headers := request.headers || '{"Content-Type": "application/json"}';
    END IF;
    base := rtrim(hook.url, '/');
    -- as a worker does: the webhook's own headers and auth go to its own URL only
    IF request.url IS NULL OR request.url = hook.url
       OR starts_with(request.url, base) AND substr(request.url, length(base) + 1, 1) IN ('', '/', '?', '&') THEN
        request.url := chatwebhook._redact(hook.url)
            || CASE WHEN request.url <> hook.url THEN substr(request.url, length(base) + 1) ELSE '' END;
        auth := hook.auth;
        IF signed THEN
            request.headers := request.headers || jsonb_build_object(
                'webhook-id', CASE WHEN hook.batch THEN '...' ELSE whole->>'id' END, 'webhook-timestamp', '...',
                'webhook-signature', regexp_replace(replace(hook.signing, ',', ' '), '(\S+)', '\1,...', 'g'))
                || CASE WHEN hook.settings->>'headers' = 'standard' THEN '{}' ELSE jsonb_build_object(
                'X-Webhook-Event', CASE WHEN hook.batch THEN 'batch' ELSE whole->>'type' END,
                'X-Webhook-Attempt', '1', 'X-Webhook-Delivery', '...')
                || CASE WHEN hook.signing <> 'v1a' THEN '{"X-Webhook-Signature": "sha256=..."}' ELSE '{}' END::jsonb
                END;
        END IF;
        request.headers := request.headers || hook.headers || CASE auth->>'type'
            WHEN 'bearer' THEN jsonb_build_object('Authorization', 'Bearer ' || (auth->>'token'))
            WHEN 'basic' THEN jsonb_build_object('Authorization', 'Basic base64(' || (auth->>'username') || ':' || (auth->>'password') || ')')
            WHEN 'header' THEN jsonb_build_object(auth->>'name', auth->>'value')
            WHEN 'oauth2' THEN '{"Authorization": "Bearer {{access_token}}"}'
            ELSE '{}' END;
        IF traceparent IS NOT NULL THEN
            request.headers := request.headers || jsonb_build_object('traceparent', traceparent);
        END IF;
        IF auth->>'type' = 'body' AND jsonb_typeof(request.body) = 'object' THEN
            request.body := request.body || jsonb_build_object(auth->>'name', auth->>'value');
        END IF;
    END IF;
    RETURN request;
END
$$;
COMMENT ON FUNCTION chatwebhook.preview(uuid, jsonb, jsonb, uuid) IS
    'Returns the request that the webhook would send for this event after these replies (none: the first request), or null, with a notice, if it would send none. The connector gets what the webhook remembers of the event''s conversation. Nothing is sent. Secrets are shown as {{name}}, computed values as {{$name}}, and parts of the URL that may be secret are left out. The event needs only a type. Instead of an event, event_id can name one that was emitted.';
