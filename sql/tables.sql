/*
 * What people write: event types and webhooks.
 */
CREATE TABLE chatwebhook.event_type (
    name        text PRIMARY KEY,
    description text,
    required    text[] NOT NULL DEFAULT '{}',
    shipped     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE chatwebhook.event_type IS
    'The types of event that may be emitted. Add your own.';
COMMENT ON COLUMN chatwebhook.event_type.name IS
    'Name such as lead.captured: words of letters, digits, _ and -, joined by dots; at most 255 characters.';
COMMENT ON COLUMN chatwebhook.event_type.description IS
    'What the event tells, for people.';
COMMENT ON COLUMN chatwebhook.event_type.required IS
    'Keys that data must have, and not null. See the setting chatwebhook.validation.';
COMMENT ON COLUMN chatwebhook.event_type.shipped IS
    'True for a type as it came with the extension; pg_dump leaves those out.';

INSERT INTO chatwebhook.event_type (name, required, description, shipped) VALUES
    ('conversation.started', '{visitorId,pageUrl,userAgent}', 'A visitor opened a conversation; also referrer, metadata.', true),
    ('conversation.ended', '{}', 'A conversation was closed.', true),
    ('message.received', '{role,content}', 'The visitor wrote; also sentiment.', true),
    ('message.sent', '{role,content}', 'The chatbot wrote; also sentiment.', true),
    ('lead.captured', '{email,source,conversationSummary}', 'A visitor left an address; also name, phone, company.', true),
    ('handoff.requested', '{reason}', 'A human is asked for; also urgency, visitorName, visitorEmail, conversationHistory.', true),
    ('sentiment.negative', '{message,sentimentScore}', 'A visitor seems unhappy; the score is from 0 to 1.', true),
    ('feedback.received', '{rating}', 'A visitor rated the conversation.', true),
    ('sales.opportunity', '{visitorId,intent}', 'A visitor may want to buy; also estimatedValue.', true),
    ('webhook.test', '{}', 'Sent by test_webhook().', true),
    ('webhook.alert', '{}', 'A webhook is in trouble, or out of it again.', true);

CREATE TABLE chatwebhook.webhook (
    id                 uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    name               text NOT NULL,
    chatbot_id         text,
    url                text NOT NULL,
    events             text[] NOT NULL DEFAULT '{*}',
    filter             jsonpath,
    enabled            boolean NOT NULL DEFAULT true,
    headers            jsonb NOT NULL DEFAULT '{}',
    max_retries        integer NOT NULL DEFAULT 5,
    backoff            interval NOT NULL DEFAULT '1 second',
    backoff_multiplier double precision NOT NULL DEFAULT 2,
    max_backoff        interval NOT NULL DEFAULT '1 minute',
    timeout            interval NOT NULL DEFAULT '10 seconds',
    max_in_flight      integer NOT NULL DEFAULT 32,
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
COMMENT ON COLUMN chatwebhook.webhook.events IS
    'Event types wanted: exact names, or patterns such as message.* and *.';
COMMENT ON COLUMN chatwebhook.webhook.filter IS
    'A jsonpath predicate over the envelope, as for @@, such as $.data.score < 0.2; a path that is no predicate, or fails, lets nothing through; null: all.';
COMMENT ON COLUMN chatwebhook.webhook.enabled IS
    'False: nothing new is queued for it, and what is pending waits.';
COMMENT ON COLUMN chatwebhook.webhook.headers IS
    'Request headers to add, an object of strings; they cannot replace the extension''s own. A {{name}} is the credential of that name.';
COMMENT ON COLUMN chatwebhook.webhook.max_retries IS
    'Retries after the first attempt, 0 to 100; then the delivery is dead.';
COMMENT ON COLUMN chatwebhook.webhook.backoff IS 'Wait before the first retry.';
COMMENT ON COLUMN chatwebhook.webhook.backoff_multiplier IS
    'Each wait is the previous one times this times 0.5 to 1.5 at random; 1 to 10.';
COMMENT ON COLUMN chatwebhook.webhook.max_backoff IS 'No wait is longer, but for a Retry-After.';
COMMENT ON COLUMN chatwebhook.webhook.timeout IS
    'Limit for a whole attempt, from the look-up of the name to the last byte of the reply; 100 ms to 5 minutes.';
COMMENT ON COLUMN chatwebhook.webhook.max_in_flight IS
    'Most requests to this webhook at one time, for each worker; 1 to 1024. Fewer are used until it has shown that it answers.';
COMMENT ON COLUMN chatwebhook.webhook.signing IS
    'v1: HMAC-SHA256 with a secret that both sides know; v1a: Ed25519, for receivers that should not be able to sign; public_key() is what they verify with. A change makes a new secret.';
COMMENT ON COLUMN chatwebhook.webhook.disabled_at IS
    'When the extension disabled it by itself; null if it did not.';
COMMENT ON COLUMN chatwebhook.webhook.disabled_reason IS 'Why the extension disabled it.';
COMMENT ON COLUMN chatwebhook.webhook.created_at IS 'When it was created.';
COMMENT ON COLUMN chatwebhook.webhook.updated_at IS 'When it was last changed.';

/*
 * Secrets in a place of their own.  Nobody but the functions reads it.
 *
 * No foreign keys, here and below: pg_restore --jobs brings the tables back in
 * any order.  The webhooks' own trigger deletes what goes with them.
 */
CREATE TABLE chatwebhook.vault (
    webhook_id uuid NOT NULL,
    name       text NOT NULL,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    expires_at timestamptz,
    PRIMARY KEY (webhook_id, name)
);
COMMENT ON TABLE chatwebhook.vault IS
    'The webhooks'' secrets. Use secret(), rotate_secret() and create_webhook() instead of this table.';
COMMENT ON COLUMN chatwebhook.vault.name IS
    'signing_secret, previous_signing_secret while two overlap, or a credential''s name.';
COMMENT ON COLUMN chatwebhook.vault.webhook_id IS 'Whose it is.';
COMMENT ON COLUMN chatwebhook.vault.value IS
    'The secret, encrypted for this row if there is chatwebhook.secret_key_file.';
COMMENT ON COLUMN chatwebhook.vault.created_at IS 'When it was set.';
COMMENT ON COLUMN chatwebhook.vault.expires_at IS
    'From then on it is not used any more; null: no end.';

/*
 * What happened.  An event holds its payload once, for all its deliveries.
 */
CREATE TABLE chatwebhook.event (
    id              uuid PRIMARY KEY,
    type            text NOT NULL,
    chatbot_id      text,
    conversation_id text,
    created_at      timestamptz NOT NULL,
    data            jsonb NOT NULL
);
COMMENT ON TABLE chatwebhook.event IS
    'Something that happened in a chat, and that at least one webhook wanted. Immutable.';
COMMENT ON COLUMN chatwebhook.event.id IS
    'UUID of version 7; the same on every repeat, as webhook-id.';
COMMENT ON COLUMN chatwebhook.event.type IS 'Its event type, such as lead.captured.';
COMMENT ON COLUMN chatwebhook.event.chatbot_id IS 'The chatbot it happened to; null: none was given.';
COMMENT ON COLUMN chatwebhook.event.conversation_id IS 'The conversation it happened in; null: none was given.';
COMMENT ON COLUMN chatwebhook.event.created_at IS 'When it was emitted: the timestamp of the envelope.';
COMMENT ON COLUMN chatwebhook.event.data IS 'What happened: the data of the envelope.';

/*
 * The hot part: what is pending, and nothing else.  A claim reads it by
 * (webhook_id, next_attempt_at, id) from where the last one ended; a settled
 * delivery leaves by DELETE.  A claim writes nothing here: it lasts as long as
 * the claimant's process, so it is kept in shared memory (src/shared.c).
 *
 * Deliveries of a webhook that is gone are canceled by its trigger, or by the
 * worker when it meets one.
 */
CREATE SEQUENCE chatwebhook.delivery_id_seq AS bigint;
COMMENT ON SEQUENCE chatwebhook.delivery_id_seq IS
    'Ids of deliveries that are emitted without the library in shared_preload_libraries; with it, they come from a clock in shared memory.';

CREATE TABLE chatwebhook.queue (
    id               bigint PRIMARY KEY,
    webhook_id       uuid NOT NULL,
    event_id         uuid NOT NULL,
    created_at       timestamptz NOT NULL,
    next_attempt_at  timestamptz NOT NULL,
    last_attempt_at  timestamptz,
    attempts         integer NOT NULL DEFAULT 0,
    first_attempt    integer NOT NULL DEFAULT 0,
    last_wait_ms     bigint NOT NULL DEFAULT 0,
    latency_ms       integer,
    last_status_code integer,
    chatbot_id       text,
    conversation_id  text,
    last_error       text
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0.5,
    autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = off
);
CREATE INDEX queue_claim_idx ON chatwebhook.queue (webhook_id, next_attempt_at, id);
COMMENT ON TABLE chatwebhook.queue IS
    'The deliveries that are pending. Read the view delivery instead.';
COMMENT ON COLUMN chatwebhook.queue.first_attempt IS
    'Attempts made before the last call of retry(): the retry policy counts from here.';
COMMENT ON COLUMN chatwebhook.queue.last_wait_ms IS
    'The wait before the retry that is due, from which the next one is reckoned.';

/*
 * The cold part: what is finished.  Insert only.
 */
CREATE TABLE chatwebhook.history (
    id               bigint NOT NULL,
    webhook_id       uuid NOT NULL,
    event_id         uuid NOT NULL,
    created_at       timestamptz NOT NULL,
    completed_at     timestamptz NOT NULL,
    last_attempt_at  timestamptz,
    attempts         integer NOT NULL,
    latency_ms       integer,
    last_status_code integer,
    chatbot_id       text,
    webhook_name     text,
    status           text NOT NULL,
    last_error       text
);
CREATE INDEX history_webhook_idx ON chatwebhook.history (webhook_id, id);
CREATE INDEX history_id_idx ON chatwebhook.history USING brin (id) WITH (pages_per_range = 16);
COMMENT ON TABLE chatwebhook.history IS
    'The deliveries that were delivered or canceled. Read the view delivery instead.';

CREATE TABLE chatwebhook.dead (
    LIKE chatwebhook.history,
    PRIMARY KEY (id)
);
CREATE INDEX dead_webhook_idx ON chatwebhook.dead (webhook_id, completed_at);
COMMENT ON TABLE chatwebhook.dead IS
    'The deliveries that were given up. Read the views dead_letter and delivery instead.';

CREATE TABLE chatwebhook.attempt (
    delivery_id      bigint NOT NULL,
    attempt          integer NOT NULL,
    webhook_id       uuid NOT NULL,
    chatbot_id       text,
    started_at       timestamptz NOT NULL,
    latency_ms       integer,
    status_code      integer,
    error            text,
    response_headers jsonb,
    response_body    text,
    PRIMARY KEY (delivery_id, attempt)
);
COMMENT ON TABLE chatwebhook.attempt IS
    'Single tries at deliveries: those that failed, or all, or none, as chatwebhook.log_attempts says.';
COMMENT ON COLUMN chatwebhook.attempt.delivery_id IS 'The delivery that was tried.';
COMMENT ON COLUMN chatwebhook.attempt.webhook_id IS 'The webhook it was for.';
COMMENT ON COLUMN chatwebhook.attempt.chatbot_id IS 'The chatbot of the event.';
COMMENT ON COLUMN chatwebhook.attempt.started_at IS 'When the request was started.';
COMMENT ON COLUMN chatwebhook.attempt.response_headers IS
    'The reply''s headers, an object with names in lower case; of a repeated one, the last.';
COMMENT ON COLUMN chatwebhook.attempt.attempt IS 'Number of the try, from 1.';
COMMENT ON COLUMN chatwebhook.attempt.latency_ms IS 'Milliseconds from the start of the request to the end of the reply or the failure.';
COMMENT ON COLUMN chatwebhook.attempt.status_code IS 'HTTP status of the reply; null if there was none.';
COMMENT ON COLUMN chatwebhook.attempt.error IS 'Why it failed; null if it did not.';
COMMENT ON COLUMN chatwebhook.attempt.response_body IS
    'The reply''s body, cut at chatwebhook.max_response_size; bytes that are not text in the database''s encoding are replaced by question marks.';

/*
 * A row for each webhook, brought up to date by every settle.
 */
CREATE TABLE chatwebhook.health (
    webhook_id           uuid PRIMARY KEY,
    total                bigint NOT NULL DEFAULT 0,
    successes            bigint NOT NULL DEFAULT 0,
    failures             bigint NOT NULL DEFAULT 0,
    consecutive_failures bigint NOT NULL DEFAULT 0,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    recent               integer[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE chatwebhook.health IS
    'How each webhook has done. Read the view webhook_health instead.';
COMMENT ON COLUMN chatwebhook.health.recent IS
    'The last 100 attempts, newest first: the latency in ms, or -1 less the latency of one that failed.';

/*
 * Dump and restore.  A restore turns check_function_bodies off, because things
 * may come before what they refer to; by that our triggers know one, and leave
 * to it what it brings by itself.  An event type that came with CREATE
 * EXTENSION, and was changed before the dump, is replaced.
 */
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event_type', 'WHERE NOT shipped');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.webhook', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.vault', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.delivery_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.queue', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.history', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.dead', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.attempt', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.health', '');

CREATE FUNCTION chatwebhook._restoring() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT NOT current_setting('check_function_bodies')::boolean
           AND current_setting('is_superuser')::boolean
$$;
COMMENT ON FUNCTION chatwebhook._restoring() IS
    'Whether a superuser restores a dump. Anybody can turn check_function_bodies off, and gets nothing by it.';

CREATE FUNCTION chatwebhook._replace() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF chatwebhook._restoring() THEN
        DELETE FROM chatwebhook.event_type WHERE name = NEW.name AND shipped;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._replace() IS
    'Trigger: an event type that a restore brings takes the place of the one that came with the extension.';
CREATE TRIGGER replace BEFORE INSERT ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._replace();

/*
 * Checks, which name the value, the reason and the way out.  In a restore,
 * webhooks may come before the event types that they name, and the settings
 * that judged a URL may be another server's.
 */
CREATE FUNCTION chatwebhook._check_event_type() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.name !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' OR length(NEW.name) > 255 THEN
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
COMMENT ON FUNCTION chatwebhook._check_event_type() IS 'Trigger: checks an event type.';
CREATE TRIGGER check_event_type BEFORE INSERT OR UPDATE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_event_type();

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
        problem := CASE WHEN NEW.url !~ '^\{\{[a-z0-9_]+\}\}$' THEN chatwebhook._url_problem(NEW.url) END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'cannot deliver to the URL of webhook "%": %', NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Use a public https URL without user name or password. An administrator can change chatwebhook.allow_http, chatwebhook.allowed_ports and chatwebhook.allowed_networks.';
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
               OR pattern !~ '^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$' THEN
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

CREATE FUNCTION chatwebhook._set_secret(webhook_id uuid, name text, secret text) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
    INSERT INTO chatwebhook.vault AS v (webhook_id, name, value)
    VALUES (_set_secret.webhook_id, _set_secret.name,
            chatwebhook._seal(_set_secret.webhook_id, _set_secret.name, secret))
    ON CONFLICT ON CONSTRAINT vault_pkey DO UPDATE
       SET value = EXCLUDED.value, created_at = now(), expires_at = NULL
$$;
COMMENT ON FUNCTION chatwebhook._set_secret(uuid, text, text) IS 'Puts a secret into the vault.';

CREATE FUNCTION chatwebhook._new_secret(signing text) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE signing WHEN 'v1a' THEN chatwebhook._ed25519_generate()
                        ELSE chatwebhook._secret_generate() END
$$;
COMMENT ON FUNCTION chatwebhook._new_secret(text) IS 'A new random secret for that kind of signing.';

CREATE FUNCTION chatwebhook._make_secret(webhook_id uuid, signing text) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
    INSERT INTO chatwebhook.vault AS v (webhook_id, name, value)
    VALUES (_make_secret.webhook_id, 'signing_secret',
            chatwebhook._seal_new(_make_secret.webhook_id, 'signing_secret', signing))
    ON CONFLICT ON CONSTRAINT vault_pkey DO UPDATE
       SET value = EXCLUDED.value, created_at = now(), expires_at = NULL
$$;
COMMENT ON FUNCTION chatwebhook._make_secret(uuid, text) IS
    'Puts a new signing secret into the vault, and shows it to nobody.';

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
        PERFORM chatwebhook._wake(NEW.id);
    ELSE
        DELETE FROM chatwebhook.vault WHERE webhook_id = OLD.id;
        DELETE FROM chatwebhook.health WHERE webhook_id = OLD.id;
        WITH gone AS (
            DELETE FROM chatwebhook.queue WHERE webhook_id = OLD.id RETURNING *
        )
        INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at, completed_at,
               last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id,
               webhook_name, status, last_error)
        SELECT id, webhook_id, event_id, created_at, clock_timestamp(),
               last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id,
               OLD.name, 'canceled', 'the webhook was deleted'
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
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.event_type
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER emptied;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.vault
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.vault
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.vault ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.vault ENABLE ALWAYS TRIGGER emptied;
