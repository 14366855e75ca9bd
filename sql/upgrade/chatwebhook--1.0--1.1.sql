\echo Use "ALTER EXTENSION chatwebhook UPDATE TO '1.1'" to load this file. \quit
/*
 * From 1.0 to 1.1: after it the catalog is what CREATE EXTENSION makes it, to
 * the order of the columns, so new ones go to the end of a table.  Functions
 * are replaced, not dropped, where that can be: what others were granted on
 * them stays.  GRANT and REVOKE are for what is new: on others they would make
 * pg_dump take what the administrator has granted for the extension's own.
 */

-- while a vacuum of one of these is awaited, nobody else has to wait
LOCK TABLE chatwebhook.history, chatwebhook.dead, chatwebhook.attempt, chatwebhook.vault
    IN SHARE UPDATE EXCLUSIVE MODE;
-- in the order that others take them in, all of whom have to wait
LOCK TABLE chatwebhook.queue, chatwebhook.event IN ACCESS EXCLUSIVE MODE;
ALTER TABLE chatwebhook.webhook
    ADD COLUMN batch_size integer NOT NULL DEFAULT 1,
    ADD COLUMN batch_window interval NOT NULL DEFAULT '0';
ALTER TABLE chatwebhook.health ADD COLUMN problem text;
ALTER TABLE chatwebhook.queue SET (autovacuum_vacuum_scale_factor = 0.1);
-- null, since not known, for the events that there are
ALTER TABLE chatwebhook.event
    ADD COLUMN first_delivery bigint,
    ADD COLUMN last_delivery bigint;
COMMENT ON COLUMN chatwebhook.event.first_delivery IS
    'The least id of its deliveries, which keep the ids that they get with it; null: not known.';
COMMENT ON COLUMN chatwebhook.event.last_delivery IS
    'The greatest id of its deliveries; some between may be of other events; null: not known.';
DROP INDEX chatwebhook.queue_event_idx;
ALTER INDEX chatwebhook.queue_claim_idx SET (deduplicate_items = off);
ALTER INDEX chatwebhook.history_webhook_idx SET (deduplicate_items = off);
ALTER INDEX chatwebhook.dead_webhook_idx SET (deduplicate_items = off);
ALTER TABLE chatwebhook.event SET (autovacuum_analyze_threshold = 50000);
ALTER TABLE chatwebhook.history SET (autovacuum_analyze_threshold = 50000);
-- no samples of what may be secret, or was said, among the planner's statistics
ALTER TABLE chatwebhook.webhook
    ALTER url SET STATISTICS 0,
    ALTER headers SET STATISTICS 0,
    ALTER settings SET STATISTICS 0,
    ALTER auth SET STATISTICS 0;
ALTER TABLE chatwebhook.vault ALTER value SET STATISTICS 0;
ALTER TABLE chatwebhook.event
    ALTER conversation_id SET STATISTICS 0,
    ALTER data SET STATISTICS 0;
ALTER TABLE chatwebhook.queue
    ALTER conversation_id SET STATISTICS 0,
    ALTER last_error SET STATISTICS 0,
    ALTER replies SET STATISTICS 0;
ALTER TABLE chatwebhook.history
    ALTER last_error SET STATISTICS 0,
    ALTER replies SET STATISTICS 0;
ALTER TABLE chatwebhook.dead
    ALTER last_error SET STATISTICS 0,
    ALTER replies SET STATISTICS 0;
ALTER TABLE chatwebhook.attempt
    ALTER error SET STATISTICS 0,
    ALTER response_headers SET STATISTICS 0,
    ALTER response_body SET STATISTICS 0;
ALTER TABLE chatwebhook.health ALTER last_error SET STATISTICS 0;
DELETE FROM pg_catalog.pg_statistic s
 USING pg_catalog.pg_attribute a, pg_catalog.pg_class c
 WHERE a.attrelid = s.starelid AND a.attnum = s.staattnum AND a.attstattarget = 0
   AND c.oid = s.starelid AND c.relnamespace = 'chatwebhook'::pg_catalog.regnamespace;
COMMENT ON COLUMN chatwebhook.webhook.rate_limit IS
    'Deliveries a second, all workers together; 0.001 to 100000; null: no limit.';
COMMENT ON COLUMN chatwebhook.webhook.batch_size IS
    'Most events in one request, 1 to 100; over 1, the body is an array of them, and connector is webhook. What comes in faster than it is answered goes together.';
COMMENT ON COLUMN chatwebhook.webhook.batch_window IS
    'How long the first event of a batch waits for others, unless the batch is full before; 0 to 1 minute.';
COMMENT ON COLUMN chatwebhook.health.problem IS
    'Why nothing can be sent to it, as a worker found when it read the webhook; null: nothing stands in the way.';
CREATE INDEX health_problem_idx ON chatwebhook.health (webhook_id) WHERE problem IS NOT NULL;
COMMENT ON COLUMN chatwebhook.alert.kind IS
    'consecutive_failures: at least chatwebhook.alert_failures attempts in a row failed, until one succeeds; low_success_rate: of the last 100 attempts, and at least 20, fewer than chatwebhook.alert_success_rate succeeded, until it is half-way between that and 1; webhook_disabled: the extension disabled it, until it is enabled, or it cannot be sent to, as webhook_health.problem says, and something waits for it; backlog: a delivery was due more than chatwebhook.alert_backlog ago and is not sent, until none is.';
CREATE OR REPLACE FUNCTION chatwebhook._check_event_type() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.name !~ E'^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$' OR length(NEW.name) > 255 THEN
        RAISE EXCEPTION 'invalid event type name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use words of letters, digits, _ and -, joined by dots, such as order.placed; at most 255 characters.';
    END IF;
    IF coalesce(array_ndims(NEW.required), 1) <> 1
       OR EXISTS (SELECT FROM unnest(NEW.required) AS key WHERE key IS NULL) THEN
        RAISE EXCEPTION 'the required keys of event type "%" contain a null or are nested', NEW.name
            USING ERRCODE = 'check_violation',
                  HINT = 'Give a plain array of keys, such as ''{email,source}''.';
    END IF;
    -- what comes with the extension is inserted before this trigger is there
    IF NOT chatwebhook._restoring() THEN
        NEW.shipped := false;
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE FUNCTION chatwebhook._auth_problem(auth jsonb) RETURNS text
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
CREATE OR REPLACE FUNCTION chatwebhook._check_webhook() RETURNS trigger
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
CREATE OR REPLACE FUNCTION chatwebhook._seconds(period text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN lower(period) = 'infinite' THEN 'infinity'
                ELSE (regexp_match(period, E'^\\s*([0-9.]+)'))[1]::double precision
                     * CASE (regexp_match(period, E'([a-z]*)\\s*$'))[1]
                       WHEN 'd' THEN 86400 WHEN 'h' THEN 3600 WHEN 'min' THEN 60
                       WHEN 'ms' THEN 0.001 WHEN 'us' THEN 0.000001 ELSE 1 END END
$$;
CREATE OR REPLACE FUNCTION chatwebhook._check_alerts(webhook_ids uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
DECLARE
    max_failures constant integer := chatwebhook._alert_failures();
    min_rate constant double precision := chatwebhook._alert_success_rate();
    patience constant double precision := chatwebhook._seconds(
        coalesce(nullif(current_setting('chatwebhook.disable_after', true), ''), '5d'));
    change   record;
BEGIN
    -- nothing but failures for too long
    UPDATE chatwebhook.webhook w
       SET enabled = false, disabled_at = clock_timestamp(), updated_at = clock_timestamp(),
           disabled_reason = format('nothing but failures for %s', current_setting('chatwebhook.disable_after', true))
      FROM chatwebhook.health h
     WHERE w.id = ANY (webhook_ids) AND h.webhook_id = w.id AND w.enabled
       AND h.consecutive_failures >= greatest(max_failures, 1)
       AND extract(epoch FROM clock_timestamp() - h.failing_since) > patience;

    FOR change IN
        SELECT w.id, k.kind, k.wanted, k.message
          FROM chatwebhook.webhook w
          JOIN chatwebhook.health h ON h.webhook_id = w.id
         CROSS JOIN LATERAL (
               SELECT count(*) AS n, avg((latency >= 0)::integer) AS rate FROM unnest(h.recent) AS latency) r
         CROSS JOIN LATERAL (VALUES
               ('consecutive_failures',
                CASE WHEN max_failures > 0 AND h.consecutive_failures >= max_failures THEN true
                     WHEN h.consecutive_failures = 0 OR max_failures = 0 THEN false END,
                format('%s attempts in a row have failed', h.consecutive_failures)),
               ('low_success_rate',
                CASE WHEN r.n >= 20 AND r.rate < min_rate THEN true
                     WHEN r.rate >= (1 + min_rate) / 2 OR min_rate = 0 THEN false END,
                format('%s %% of the last %s attempts succeeded', round(100 * r.rate), r.n)),
               ('webhook_disabled',
                CASE WHEN w.enabled THEN h.problem IS NOT NULL
                          AND EXISTS (SELECT FROM chatwebhook.queue q WHERE q.webhook_id = w.id)
                     ELSE w.disabled_at IS NOT NULL END,
                CASE WHEN w.enabled THEN 'it cannot be sent to: ' || h.problem
                     ELSE 'it was disabled: ' || w.disabled_reason END)) AS k (kind, wanted, message)
         WHERE w.id = ANY (webhook_ids)
           AND k.wanted <> EXISTS (SELECT FROM chatwebhook.alert a
                                    WHERE a.webhook_id = w.id AND a.kind = k.kind AND a.closed_at IS NULL)
         ORDER BY w.id, k.kind
    LOOP
        PERFORM chatwebhook._set_alert(change.id, change.kind, change.wanted, change.message);
    END LOOP;
END
$$;
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
REVOKE ALL ON FUNCTION chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, integer, interval, text) FROM PUBLIC;
/*
 * It has more arguments, and so is another function.  Whoever was granted the
 * former is granted it; those grants are the administrator's, and pg_dump must
 * go on to see them so.
 */
DO $$
DECLARE
    former regprocedure := 'chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, text)';
    fresh regprocedure := 'chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, integer, interval, text)';
    ours aclitem[] := (SELECT proacl FROM pg_catalog.pg_proc WHERE oid = fresh);
    role record;
BEGIN
    FOR role IN SELECT a.grantee, a.is_grantable
                  FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
                 WHERE p.oid = former AND a.grantee <> p.proowner AND a.privilege_type = 'EXECUTE' LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s %s', fresh,
            CASE WHEN role.grantee = 0 THEN 'PUBLIC' ELSE role.grantee::regrole::text END,
            CASE WHEN role.is_grantable THEN 'WITH GRANT OPTION' END);
    END LOOP;
    UPDATE pg_catalog.pg_init_privs SET initprivs = ours
     WHERE classoid = 'pg_catalog.pg_proc'::regclass AND objoid = fresh;
END
$$;
DROP FUNCTION chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, text);
COMMENT ON FUNCTION chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, integer, interval, text) IS
    'Creates a webhook, and gives its id and its signing secret. The arguments are the columns of the table webhook.';
CREATE OR REPLACE FUNCTION chatwebhook.set_credential(webhook_id uuid, name text, value text)
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
CREATE OR REPLACE FUNCTION chatwebhook.erase_conversation(
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
CREATE OR REPLACE FUNCTION chatwebhook._redact(url text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT regexp_replace(regexp_replace(url, E'\\?.*$', '?...'),
                          E'(?<!^[A-Za-z]+:/)/(?!\\{\\{)[^/?]{16,}(?=[/?]|$)', '/...', 'g')
$$;
CREATE OR REPLACE VIEW chatwebhook.webhook_health WITH (security_barrier) AS
    SELECT w.id AS webhook_id, w.name, chatwebhook._redact(w.url) AS url,
           CASE WHEN NOT w.enabled THEN 'disabled'
                WHEN h.problem IS NOT NULL OR g.webhook_id IS NOT NULL THEN 'paused'
                WHEN h.total = 0 THEN 'idle'
                WHEN h.consecutive_failures >= s.failures THEN 'failing'
                WHEN r.success_rate < s.rate OR h.consecutive_failures > 0 THEN 'degraded'
                ELSE 'healthy'
           END AS state,
           h.total, h.successes, h.failures,
           r.success_rate, r.avg_latency_ms, r.p95_latency_ms,
           h.last_success_at, h.last_failure_at, h.last_error, h.consecutive_failures,
           q.pending, coalesce(f.in_flight, 0) AS in_flight, q.oldest_pending_at, d.dead,
           h.problem
      FROM chatwebhook.webhook w
      JOIN chatwebhook.health h ON h.webhook_id = w.id
      LEFT JOIN chatwebhook._in_flight() f ON f.webhook_id = w.id
      LEFT JOIN chatwebhook._gates() g ON g.webhook_id = w.id
      CROSS JOIN (SELECT coalesce(nullif(chatwebhook._alert_failures(), 0), 5) AS failures,
                         chatwebhook._alert_success_rate() AS rate OFFSET 0) s
      CROSS JOIN LATERAL (
          SELECT pg_catalog.round(pg_catalog.avg((latency >= 0)::integer), 4) AS success_rate,
                 pg_catalog.round(pg_catalog.avg(ms), 1) AS avg_latency_ms,
                 pg_catalog.percentile_disc(0.95) WITHIN GROUP (ORDER BY ms) AS p95_latency_ms
            FROM (SELECT pg_catalog.unnest(h.recent) AS latency) AS l,
                 LATERAL (SELECT CASE WHEN latency >= 0 THEN latency ELSE -1 - latency END) AS x(ms)
           ) r
      CROSS JOIN LATERAL (
          SELECT pg_catalog.count(*) AS pending, pg_catalog.min(created_at) AS oldest_pending_at
            FROM chatwebhook.queue p WHERE p.webhook_id = w.id
           ) q
      CROSS JOIN LATERAL (
          SELECT pg_catalog.count(*) AS dead
            FROM chatwebhook.dead p WHERE p.webhook_id = w.id
           ) d
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[]);
COMMENT ON COLUMN chatwebhook.webhook_health.state IS
    'disabled; paused: it cannot be sent to, as problem says, or after chatwebhook.breaker_threshold (10) failures in a row, or because the receiver asked for it, nothing is sent for now but a probe from time to time; idle: nothing was sent yet; failing: chatwebhook.alert_failures (5) or more failures in a row; degraded: fewer, or under chatwebhook.alert_success_rate (0.9) of the last 100 succeeded; healthy.';
COMMENT ON COLUMN chatwebhook.webhook_health.problem IS
    'Why nothing can be sent to it, such as a credential that is not set or a secret that cannot be opened; what is emitted waits. Null: nothing stands in the way.';
CREATE OR REPLACE FUNCTION chatwebhook._dashboard_character(c text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    utf8 bytea;
    n    integer;
BEGIN
    IF c IN (E'\t', E'\n', E'\r') THEN
        RETURN ' ';
    ELSIF c ~ E'[\\x01-\\x7f]' OR getdatabaseencoding() = 'SQL_ASCII' THEN
        RETURN '&#65533;';
    END IF;
    utf8 := convert_to(c, 'UTF8');
    n := CASE octet_length(utf8)
        WHEN 2 THEN get_byte(utf8, 0) % 32 * 64 + get_byte(utf8, 1) % 64
        WHEN 3 THEN get_byte(utf8, 0) % 16 * 4096 + get_byte(utf8, 1) % 64 * 64
                    + get_byte(utf8, 2) % 64
        WHEN 4 THEN get_byte(utf8, 0) % 8 * 262144 + get_byte(utf8, 1) % 64 * 4096
                    + get_byte(utf8, 2) % 64 * 64 + get_byte(utf8, 3) % 64
    END;
    IF n < 160                                                  -- controls
       OR n BETWEEN 8232 AND 8238 OR n BETWEEN 8294 AND 8297    -- line ends and directions
       OR n BETWEEN 64976 AND 65007 OR n % 65536 >= 65534       -- no characters at all
    THEN
        RETURN '&#65533;';
    END IF;
    RETURN '&#' || n || ';';
END
$$;
CREATE OR REPLACE FUNCTION chatwebhook._dashboard_text(value text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    value := replace(value, '&', '&amp;');
    value := replace(value, '<', '&lt;');
    value := replace(value, '>', '&gt;');
    value := replace(value, '"', '&quot;');
    value := replace(value, '''', '&#39;');
    IF value ~ E'[^\\x20-\\x7e]' THEN
        value := (SELECT string_agg(CASE WHEN c ~ E'[\\x20-\\x7e]' THEN c
                                         ELSE chatwebhook._dashboard_character(c) END, '' ORDER BY n)
                    FROM regexp_split_to_table(value, '') WITH ORDINALITY AS s(c, n));
    END IF;
    RETURN value;
END
$$;
CREATE OR REPLACE FUNCTION chatwebhook._dashboard_row(h chatwebhook.webhook_health, recent integer[], disabled_reason text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN format($html$<tr role="row" id="w-%s">
<th role="rowheader" scope="row">%s<small>%s</small>%s%s</th>
<td role="cell" class="c-state"><span class="state %s">%s %s</span></td>
<td role="cell" class="c-spark">%s</td>
<td role="cell" class="n" data-label="Succeeded">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Latency">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Pending">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Dead">%s</td>
</tr>
$html$,
        h.webhook_id, chatwebhook._dashboard_name(h.name),
        chatwebhook._dashboard_cut(h.url, 200),
        '<span class="error">' || coalesce('Disabled: ' || chatwebhook._dashboard_cut(disabled_reason, 300),
            'Cannot be sent to: ' || chatwebhook._dashboard_cut(h.problem, 300)) || '</span>',
        '<span class="error' || CASE WHEN h.state IN ('failing', 'degraded') THEN ' bad' ELSE ' muted' END || '">'
            || CASE WHEN h.consecutive_failures > 1
                    THEN chatwebhook._dashboard_number(h.consecutive_failures) || ' failures in a row, the last ' ELSE 'failed ' END
            || chatwebhook._dashboard_age(h.last_failure_at) || ' ago: <bdi>'
            || chatwebhook._dashboard_cut(h.last_error, 300)
            || '</bdi></span>',
        h.state, chatwebhook._dashboard_icon(h.state), h.state,
        chatwebhook._dashboard_sparkline(recent),
        coalesce(chatwebhook._dashboard_percent(h.success_rate), '&#8211;'),
        chatwebhook._dashboard_percent(h.successes::numeric / nullif(h.total, 0))
            || ' of ' || chatwebhook._dashboard_number(h.total),
        coalesce(chatwebhook._dashboard_ms(h.avg_latency_ms), '&#8211;'),
        'p95 ' || chatwebhook._dashboard_ms(h.p95_latency_ms),
        chatwebhook._dashboard_number(h.pending),
        'oldest ' || CASE WHEN h.pending > 0 THEN chatwebhook._dashboard_age(h.oldest_pending_at) END,
        chatwebhook._dashboard_number(h.dead));
END
$$;
CREATE OR REPLACE FUNCTION chatwebhook._dashboard_alerts(alerts chatwebhook.alert[], webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    WITH alert AS (
        SELECT row_number() OVER (ORDER BY a.opened_at DESC, a.id) AS place,
               format(E'<li>%s<div><b>%s</b>: %s<br/>%s <span class="muted">since %s</span></div></li>\n',
                      chatwebhook._dashboard_icon('failing'),
                      CASE a.kind WHEN 'consecutive_failures' THEN 'Failures in a row'
                                  WHEN 'low_success_rate' THEN 'Low success rate'
                                  WHEN 'webhook_disabled' THEN CASE h.state WHEN 'paused' THEN 'Paused' ELSE 'Disabled' END
                                  WHEN 'backlog' THEN 'Backlog'
                                  ELSE chatwebhook._dashboard_cut(a.kind, 60) END,
                      CASE WHEN h.webhook_id IS NULL THEN chatwebhook._dashboard_name(a.webhook_name)
                           ELSE format('<a href="#w-%s">%s</a>', h.webhook_id, chatwebhook._dashboard_name(h.name)) END,
                      '<bdi>' || chatwebhook._dashboard_cut(a.message, 400) || '</bdi>',
                      chatwebhook._dashboard_age(a.opened_at)) AS item
          FROM unnest(alerts) a LEFT JOIN unnest(webhooks) h ON h.webhook_id = a.webhook_id
    )
    SELECT format($html$<section class="card" aria-labelledby="h-alerts">
<h2 id="h-alerts">Open alerts</h2>
<ul class="alerts">
%s</ul>
%s</section>
$html$,
            string_agg(item, '' ORDER BY place) FILTER (WHERE place <= 5),
            '<details><summary>' || chatwebhook._dashboard_number(count(*) - 5) || E' more</summary>\n<ul class="alerts">\n'
                || string_agg(item, '' ORDER BY place) FILTER (WHERE place > 5) || E'</ul></details>\n')
      FROM alert
    HAVING count(*) > 0
$$;
CREATE OR REPLACE FUNCTION chatwebhook._discord_plain(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- Discord refuses a text of blanks alone, Unicode's among them
    SELECT CASE WHEN visible ~ E'[^\\s\\u00A0\\u1680\\u180E\\u2000-\\u200F\\u2028-\\u202F\\u205F-\\u206F\\u3000\\uFEFF]' THEN visible END
      FROM (SELECT btrim(regexp_replace(chatwebhook.cut(value, size),
                                        E'[\\u0001-\\u0008\\u000B-\\u001F\\u007F]', '', 'g'), E' \t\n') AS visible) AS v
$$;
CREATE OR REPLACE FUNCTION chatwebhook._discord_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- an escaped :// is no link
    SELECT chatwebhook.cut(regexp_replace(replace(regexp_replace(
               chatwebhook._discord_plain(value, size),
               E'([\\\\*_~`|<>@#\\[\\]])', E'\\\\\\1', 'g'),
               '://', E'\\://'),
               E'^([ \\t]*)-', E'\\1\\\\-', 'gn'), size)
$$;
CREATE OR REPLACE FUNCTION chatwebhook.discord(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, webhook->>'url' || '?wait=true', NULL, jsonb_strip_nulls(jsonb_build_object(
        'username', username,
        'avatar_url', avatar_url,
        'content', CASE WHEN here THEN '@here' END,
        'allowed_mentions', jsonb_build_object('parse', CASE WHEN here THEN '["everyone"]' ELSE '[]' END::jsonb),
        'embeds', jsonb_build_array(CASE
            WHEN type = 'conversation.started' THEN chatwebhook._discord_embed(
                'New Chat Conversation', 3447003 /* blue */, NULL,
                chatwebhook._discord_field('Visitor', coalesce(data->>'visitorId', 'Unknown')),
                chatwebhook._discord_field('Page', coalesce(data->>'pageUrl', 'N/A'), 1000),
                chatwebhook._discord_field('Referrer', data->>'referrer', 1000))
            WHEN type = 'lead.captured' THEN chatwebhook._discord_embed(
                'New Lead Captured', 65280 /* green */, NULL,
                chatwebhook._discord_field('Name', coalesce(data->>'name', 'Unknown')),
                chatwebhook._discord_field('Email', coalesce(data->>'email', 'N/A')),
                chatwebhook._discord_field('Phone', data->>'phone'),
                chatwebhook._discord_field('Company', coalesce(data->>'company', 'N/A')),
                chatwebhook._discord_field('Source', coalesce(data->>'source', 'N/A')),
                chatwebhook._discord_field('Summary', data->>'conversationSummary', 1024))
            WHEN type = 'sales.opportunity' THEN chatwebhook._discord_embed(
                'Sales Opportunity', 16766720 /* gold */, 'Potential sale detected!',
                chatwebhook._discord_field('Visitor', coalesce(data->>'visitorId', 'Unknown')),
                chatwebhook._discord_field('Intent', coalesce(data->>'intent', 'N/A')),
                chatwebhook._discord_field('Est. Value',
                    coalesce(chatwebhook._discord_amount(data->'estimatedValue', settings->>'currency'), 'Unknown')))
            WHEN type = 'sentiment.negative' THEN chatwebhook._discord_embed(
                'Negative Sentiment Detected', 16711680 /* red */, 'A visitor appears frustrated or unhappy.',
                chatwebhook._discord_field('Message', coalesce(data->>'message', 'N/A'), 1024),
                chatwebhook._discord_field('Sentiment Score', chatwebhook._discord_score(data->'sentimentScore')))
            WHEN type = 'handoff.requested' THEN chatwebhook._discord_embed(
                'Human Handoff Requested',
                CASE WHEN lower(left(data->>'urgency', 20)) IN ('high', 'urgent', 'critical')
                     THEN 16711680 /* red */ ELSE 15105570 /* orange */ END,
                'A visitor needs human assistance.',
                chatwebhook._discord_field('Visitor', data->>'visitorName'),
                chatwebhook._discord_field('Email', data->>'visitorEmail'),
                chatwebhook._discord_field('Urgency', data->>'urgency'),
                chatwebhook._discord_field('Reason', coalesce(data->>'reason', 'N/A'), 1024))
            WHEN type = 'feedback.received' THEN chatwebhook._discord_embed(
                'Feedback Received', 10181046 /* purple */, NULL,
                chatwebhook._discord_field('Rating', coalesce(data->>'rating', 'N/A')),
                chatwebhook._discord_field('Comment', data->>'comment', 1024))
            WHEN type = 'webhook.alert' THEN chatwebhook._discord_embed(
                CASE WHEN closed THEN 'Webhook Alert Closed' ELSE 'Webhook Alert' END,
                CASE WHEN closed THEN 65280 /* green */ ELSE 16711680 /* red */ END,
                data->>'message',
                chatwebhook._discord_field('Webhook', coalesce(data->>'webhookName', data->>'webhookId', 'Unknown')),
                chatwebhook._discord_field('Kind', data->>'kind'),
                chatwebhook._discord_field('Opened', data->>'openedAt'),
                chatwebhook._discord_field('Closed', data->>'closedAt'))
            ELSE chatwebhook._discord_embed(
                coalesce(chatwebhook._discord_plain(type, 256), 'Event'), 9807270 /* grey */, main,
                VARIADIC ARRAY(
                    SELECT chatwebhook._discord_field(key, value)
                      FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                     WHERE value <> '' AND key NOT IN ('content', 'message') LIMIT 10))
            END || jsonb_build_object(
                'timestamp', sent_at,
                'footer', CASE WHEN footer <> '' THEN jsonb_build_object('text', footer) END)))),
        true)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   webhook->'settings' AS settings,
                   -- what the plain form says first: a message's text, or data that has no keys
                   CASE jsonb_typeof(event->'data')
                        WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                        ELSE event #>> '{data}' END AS main,
                   coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                            event #>> '{data,closedAt}' IS NOT NULL) AS closed,
                   coalesce(event->>'type' = 'sales.opportunity'
                            AND webhook #> '{settings,mention_here}' = 'true', false) AS here,
                   -- names that Discord refuses are left out
                   CASE WHEN webhook #>> '{settings,username}' !~* 'clyde|discord'
                        THEN chatwebhook._discord_plain(webhook #>> '{settings,username}', 80) END AS username,
                   substring(left(webhook #>> '{settings,avatar_url}', 2048) FROM '^https?://[!-~]+$') AS avatar_url,
                   substring(event->>'timestamp'
                             FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$') AS sent_at,
                   concat_ws(', ', 'Chatbot: ' || chatwebhook._discord_plain(event->>'chatbotId', 100),
                                   'Conversation: ' || chatwebhook._discord_plain(event->>'conversationId', 100))
                       AS footer) AS e
     WHERE jsonb_array_length(replies) = 0
$$;
CREATE OR REPLACE FUNCTION chatwebhook._pagerduty_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT nullif(btrim(regexp_replace(chatwebhook.cut(value, size), E'[\\s\\u0001-\\u001F\\u007F]+', ' ', 'g')), '')
$$;
CREATE OR REPLACE FUNCTION chatwebhook.pagerduty(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, NULL, NULL, CASE
        WHEN action = 'resolve' THEN
            jsonb_build_object('event_action', 'resolve', 'dedup_key', dedup_key)
        ELSE jsonb_strip_nulls(jsonb_build_object(
            'event_action', 'trigger',
            'dedup_key', dedup_key,
            'client', 'chatwebhook',
            'links', CASE WHEN link ~ '^https?://' AND chatwebhook.cut(link, 2000) = link
                          THEN jsonb_build_array(jsonb_build_object('href', link, 'text', 'Conversation')) END,
            'payload', jsonb_build_object(
                'summary', chatwebhook._pagerduty_text(concat_ws(': ', CASE type
                    WHEN 'sentiment.negative' THEN 'Negative sentiment'
                    WHEN 'handoff.requested' THEN 'Human handoff requested'
                    WHEN 'webhook.alert' THEN 'Webhook alert'
                    ELSE 'Test of a webhook' END,
                    CASE type WHEN 'handoff.requested' THEN data->>'reason' ELSE data->>'message' END), 1024),
                'source', coalesce(chatwebhook._pagerduty_text(coalesce(webhook #>> '{settings,source}',
                    CASE type WHEN 'webhook.alert' THEN coalesce(data->>'webhookName', data->>'webhookId')
                              ELSE event->>'chatbotId' END), 255), 'chatwebhook'),
                'severity', CASE
                    WHEN type = 'webhook.test' THEN 'info'
                    WHEN type = 'handoff.requested' THEN
                        CASE urgency WHEN 'high' THEN 'error' ELSE 'critical' END
                    WHEN type = 'webhook.alert' THEN
                        CASE data->>'kind' WHEN 'webhook_disabled' THEN 'critical'
                                           WHEN 'low_success_rate' THEN 'warning'
                                           WHEN 'backlog' THEN 'warning'
                                           ELSE 'error' END
                    ELSE CASE WHEN jsonb_path_match(data, 'exists($.sentimentScore ? (@ >= 0.9 && @ <= 1))', '{}', true)
                              THEN 'error' ELSE 'warning' END END,
                'timestamp', substring(event->>'timestamp'
                    FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$'),
                'group', chatwebhook._pagerduty_text(event->>'chatbotId', 255),
                'class', type,
                'custom_details', jsonb_build_object(
                    'event', event->>'id',
                    'conversation', chatwebhook.cut(event->>'conversationId', 500),
                    'message', chatwebhook.cut(data->>'message', 4000),
                    'reason', chatwebhook.cut(data->>'reason', 4000),
                    'score', chatwebhook.cut(data->>'sentimentScore', 100),
                    'urgency', chatwebhook.cut(data->>'urgency', 100),
                    'visitor', chatwebhook.cut(data->>'visitorName', 500),
                    'email', chatwebhook.cut(data->>'visitorEmail', 500),
                    'kind', chatwebhook.cut(data->>'kind', 100),
                    'webhook', chatwebhook.cut(data->>'webhookName', 500)))))
        END, type <> 'webhook.test' OR step = 1)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   jsonb_array_length(replies) AS step,
                   lower(left(event #>> '{data,urgency}', 20)) AS urgency,
                   CASE WHEN event->>'type' = 'webhook.test' AND jsonb_array_length(replies) = 1
                          OR event->>'type' = 'webhook.alert'
                             AND coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                                          event #>> '{data,closedAt}' IS NOT NULL)
                        THEN 'resolve' ELSE 'trigger' END AS action,
                   CASE event->>'type'
                        WHEN 'webhook.alert' THEN chatwebhook._pagerduty_key('webhook.alert',
                            coalesce(event #>> '{data,webhookId}', event #>> '{data,webhookName}'),
                            coalesce(event #>> '{data,alertId}', event #>> '{data,kind}'))
                        WHEN 'webhook.test' THEN chatwebhook._pagerduty_key('webhook.test', event->>'id')
                        ELSE chatwebhook._pagerduty_key(event->>'type', event->>'chatbotId',
                            coalesce(nullif(event->>'conversationId', ''), event->>'id')) END AS dedup_key,
                   rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                       || chatwebhook.url_encode(nullif(event->>'conversationId', '')) AS link) AS e
     WHERE step <= CASE type WHEN 'webhook.test' THEN 1 ELSE 0 END
       AND (type IN ('sentiment.negative', 'webhook.alert', 'webhook.test')
            OR type = 'handoff.requested' AND urgency IN ('high', 'urgent', 'critical'))
$$;
CREATE OR REPLACE FUNCTION chatwebhook._slack_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- the last step removes an entity that the cut has gone through
    SELECT nullif(regexp_replace(chatwebhook.cut(replace(replace(replace(
               btrim(regexp_replace(chatwebhook.cut(value, size),
                                    E'[\\u0001-\\u0008\\u000B-\\u001F\\u007F]', '', 'g'), E' \t\n'),
               '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), size),
               '&[a-z]{0,3}(?![a-z;])', ''), '')
$$;
CREATE OR REPLACE FUNCTION chatwebhook._slack_line(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT chatwebhook._slack_text(regexp_replace(chatwebhook.cut(value, size), E'\\s+', ' ', 'g'), size)
$$;
