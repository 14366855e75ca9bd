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

CREATE TABLE chatwebhook.connector (
    name        text PRIMARY KEY,
    function    text,
    description text,
    replies     jsonb NOT NULL DEFAULT '[]',
    shipped     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE chatwebhook.connector IS
    'The kinds of service that webhooks can speak to. Add your own.';
COMMENT ON COLUMN chatwebhook.connector.name IS
    'What webhooks call it: small letters, digits, _ and -, at most 63.';
COMMENT ON COLUMN chatwebhook.connector.function IS
    'The function, such as public.teams(jsonb,jsonb,jsonb): f(event, webhook, replies) returns chatwebhook.request, in SQL or PL/pgSQL, STABLE or IMMUTABLE. It runs as its owner, reads only, with pg_catalog as search_path. A cast to regprocedure gives its oid; the name is kept, since pg_upgrade refuses tables with a regprocedure. Null for webhook, which is built in.';
COMMENT ON COLUMN chatwebhook.connector.description IS 'What it does, for people.';
COMMENT ON COLUMN chatwebhook.connector.replies IS
    'What replies mean where the status alone does not say: an array of objects, of which the first that fits counts. Keys: status (a number or an array of them), step (from 1; left out: any), contains (text in the body), means (success, retry, dead or disable), wait (seconds to wait at least, or the key of the body that has them).';
COMMENT ON COLUMN chatwebhook.connector.shipped IS
    'True for a connector as it came with the extension; pg_dump leaves those out.';

INSERT INTO chatwebhook.connector (name, description, shipped) VALUES
    ('webhook', 'The event itself as JSON, signed, for a service of one''s own.', true);

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
    first_delivery  bigint NOT NULL,
    last_delivery   bigint NOT NULL,
    data            jsonb NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
        -- while it is small, what is known of its values is of no use
        autovacuum_analyze_threshold = 50000);
COMMENT ON TABLE chatwebhook.event IS
    'Something that happened in a chat, and that at least one webhook wanted. Immutable.';
COMMENT ON COLUMN chatwebhook.event.id IS
    'UUID of version 7; the same on every repeat, as webhook-id.';
COMMENT ON COLUMN chatwebhook.event.type IS 'Its event type, such as lead.captured.';
COMMENT ON COLUMN chatwebhook.event.chatbot_id IS 'The chatbot it happened to; null: none was given.';
COMMENT ON COLUMN chatwebhook.event.conversation_id IS 'The conversation it happened in; null: none was given.';
COMMENT ON COLUMN chatwebhook.event.created_at IS 'When it was emitted: the timestamp of the envelope.';
COMMENT ON COLUMN chatwebhook.event.first_delivery IS
    'The least id of its deliveries, which keep the ids that they get with it.';
COMMENT ON COLUMN chatwebhook.event.last_delivery IS
    'The greatest id of its deliveries; some between may be of other events.';
COMMENT ON COLUMN chatwebhook.event.data IS 'What happened: the data of the envelope.';

/*
 * The hot part: what is pending, and nothing else.  A claim reads it by
 * (webhook_id, next_attempt_at, id) from where the last one ended; a settled
 * delivery leaves by DELETE.  A claim writes nothing here: it lasts as long as
 * the claimant's process, so it is kept in shared memory (src/shared.c).  There
 * is no index on event_id, which every emit would pay for: an event knows
 * between which ids its deliveries are.
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
    ordered          boolean NOT NULL DEFAULT false,
    last_error       text,
    replies          jsonb
) WITH (
    -- often while it is small; of a large one, each vacuum reads all indexes
    autovacuum_vacuum_scale_factor = 0.1,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0.5,
    autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = off
);
-- off: no two entries are alike, which each full page would be searched for
CREATE INDEX queue_claim_idx ON chatwebhook.queue (webhook_id, next_attempt_at, id) WITH (deduplicate_items = off);
CREATE INDEX queue_order_idx ON chatwebhook.queue (webhook_id, conversation_id, id) WHERE ordered;
COMMENT ON TABLE chatwebhook.queue IS
    'The deliveries that are pending. Read the view delivery instead.';
COMMENT ON COLUMN chatwebhook.queue.first_attempt IS
    'Attempts made before the last call of retry(): the retry policy counts from here.';
COMMENT ON COLUMN chatwebhook.queue.replies IS
    'The replies to a connector''s requests that have succeeded: with them it goes on where it was.';
COMMENT ON COLUMN chatwebhook.queue.ordered IS
    'Whether it has to wait for those of its conversation that were emitted before it.';
COMMENT ON COLUMN chatwebhook.queue.last_wait_ms IS
    'The wait before the retry that is due, from which the next one is reckoned.';

/*
 * The cold part: what is finished.  Insert only.
 */
CREATE TABLE chatwebhook.history (
    id               bigint PRIMARY KEY,
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
    last_error       text,
    replies          jsonb
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
        autovacuum_analyze_threshold = 50000);
CREATE INDEX history_webhook_idx ON chatwebhook.history (webhook_id, id) WITH (deduplicate_items = off);
CREATE INDEX history_event_idx ON chatwebhook.history (event_id);
COMMENT ON TABLE chatwebhook.history IS
    'The deliveries that were delivered or canceled. Read the view delivery instead.';

CREATE TABLE chatwebhook.dead (
    LIKE chatwebhook.history,
    PRIMARY KEY (id)
);
CREATE INDEX dead_webhook_idx ON chatwebhook.dead (webhook_id, id) WITH (deduplicate_items = off);
CREATE INDEX dead_event_idx ON chatwebhook.dead (event_id);
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
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
COMMENT ON TABLE chatwebhook.attempt IS
    'Single tries at deliveries: those that failed, or all, or none, as chatwebhook.log_attempts says.';
COMMENT ON COLUMN chatwebhook.attempt.delivery_id IS 'The delivery that was tried.';
COMMENT ON COLUMN chatwebhook.attempt.webhook_id IS 'The webhook it was for.';
COMMENT ON COLUMN chatwebhook.attempt.chatbot_id IS 'The chatbot of the event.';
COMMENT ON COLUMN chatwebhook.attempt.started_at IS 'When its first request was started.';
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
    given_up             bigint NOT NULL DEFAULT 0,
    consecutive_failures bigint NOT NULL DEFAULT 0,
    failing_since        timestamptz,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    problem              text,
    recent               integer[] NOT NULL DEFAULT '{}',
    latency_sum_ms       bigint NOT NULL DEFAULT 0,
    latency_counts       bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0}'
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE chatwebhook.health IS
    'How each webhook has done. Read the view webhook_health instead.';
COMMENT ON COLUMN chatwebhook.health.recent IS
    'The last 100 attempts, newest first: the latency in ms, or -1 less the latency of one that failed.';

COMMENT ON COLUMN chatwebhook.health.failing_since IS
    'When the first of the failures in a row ended; null: the last attempt succeeded.';
COMMENT ON COLUMN chatwebhook.health.latency_sum_ms IS 'Milliseconds that all attempts took.';
COMMENT ON COLUMN chatwebhook.health.latency_counts IS
    'Attempts ever made by what they took: up to 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000 ms, and longer.';
COMMENT ON COLUMN chatwebhook.health.given_up IS 'Deliveries ever given up.';
COMMENT ON COLUMN chatwebhook.health.problem IS
    'Why nothing can be sent to it, as a worker found when it read the webhook; null: nothing stands in the way.';
-- the workers look at these again and again
CREATE INDEX health_problem_idx ON chatwebhook.health (webhook_id) WHERE problem IS NOT NULL;

/*
 * What was done, in ten minutes each, a row for each worker, so that none waits
 * for another.
 */
CREATE TABLE chatwebhook.activity (
    since     timestamptz NOT NULL,
    worker    integer NOT NULL,
    succeeded bigint NOT NULL DEFAULT 0,
    failed    bigint NOT NULL DEFAULT 0,
    given_up  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (since, worker)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE chatwebhook.activity IS
    'Attempts in steps of ten minutes, for the dashboard; kept as long as finished deliveries.';
COMMENT ON COLUMN chatwebhook.activity.since IS 'The beginning of the ten minutes.';
COMMENT ON COLUMN chatwebhook.activity.worker IS 'The worker''s number, from 1.';
COMMENT ON COLUMN chatwebhook.activity.succeeded IS 'Attempts that succeeded.';
COMMENT ON COLUMN chatwebhook.activity.failed IS 'Attempts that failed.';
COMMENT ON COLUMN chatwebhook.activity.given_up IS 'Deliveries that were given up.';

/*
 * What an operator should see to.  The worker opens and closes them.
 */
CREATE TABLE chatwebhook.alert (
    id           uuid PRIMARY KEY,
    webhook_id   uuid NOT NULL,
    chatbot_id   text,
    webhook_name text NOT NULL,
    kind         text NOT NULL,
    message      text NOT NULL,
    opened_at    timestamptz NOT NULL,
    closed_at    timestamptz
);
CREATE UNIQUE INDEX alert_open_idx ON chatwebhook.alert (webhook_id, kind) WHERE closed_at IS NULL;
CREATE INDEX alert_webhook_idx ON chatwebhook.alert (webhook_id, kind, closed_at);
COMMENT ON TABLE chatwebhook.alert IS
    'Trouble with webhooks, from its beginning to its end; at most one open for each webhook and kind. Opening and closing emit webhook.alert to the other webhooks.';
COMMENT ON COLUMN chatwebhook.alert.id IS 'Identifies the alert; its webhook.alert events have it as alertId.';
COMMENT ON COLUMN chatwebhook.alert.webhook_id IS 'The webhook in trouble.';
COMMENT ON COLUMN chatwebhook.alert.chatbot_id IS 'That webhook''s chatbot; null: it serves every chatbot.';
COMMENT ON COLUMN chatwebhook.alert.webhook_name IS 'That webhook''s name, as it was then.';
COMMENT ON COLUMN chatwebhook.alert.kind IS
    'consecutive_failures: at least chatwebhook.alert_failures attempts in a row failed, until one succeeds; low_success_rate: of the last 100 attempts, and at least 20, fewer than chatwebhook.alert_success_rate succeeded, until it is half-way between that and 1; webhook_disabled: the extension disabled it, until it is enabled, or it cannot be sent to, as webhook_health.problem says, and something waits for it; backlog: a delivery was due more than chatwebhook.alert_backlog ago and is not sent, until none is.';
COMMENT ON COLUMN chatwebhook.alert.message IS 'What is wrong, for people.';
COMMENT ON COLUMN chatwebhook.alert.opened_at IS 'When it began.';
COMMENT ON COLUMN chatwebhook.alert.closed_at IS 'When it ended; null: it goes on.';

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

/*
 * Dump and restore.  A restore turns check_function_bodies off, because things
 * may come before what they refer to; by that our triggers know one, and leave
 * to it what it brings by itself.  An event type that came with CREATE
 * EXTENSION, and was changed before the dump, is replaced.
 */
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event_type', 'WHERE NOT shipped');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.connector', 'WHERE NOT shipped');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.webhook', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.vault', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.delivery_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.queue', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.history', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.dead', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.attempt', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.health', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.activity', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.alert', '');

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
        IF TG_TABLE_NAME = 'connector' THEN
            DELETE FROM chatwebhook.connector WHERE name = NEW.name AND shipped;
        ELSE
            DELETE FROM chatwebhook.event_type WHERE name = NEW.name AND shipped;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._replace() IS
    'Trigger: an event type or connector that a restore brings takes the place of the one that came with the extension.';
CREATE TRIGGER replace BEFORE INSERT ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._replace();
CREATE TRIGGER replace BEFORE INSERT ON chatwebhook.connector
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
COMMENT ON FUNCTION chatwebhook._check_event_type() IS 'Trigger: checks an event type.';
CREATE TRIGGER check_event_type BEFORE INSERT OR UPDATE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_event_type();

CREATE FUNCTION chatwebhook._find_connector() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- found by the search_path of whoever registers it, so there is none pinned here
    NEW.function := COALESCE(
        (SELECT pg_catalog.format('%I.%I(jsonb,jsonb,jsonb)', n.nspname, p.proname)
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
          WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(
                CASE WHEN pg_catalog.strpos(NEW.function, '(') OPERATOR(pg_catalog.>) 0 THEN NEW.function
                     ELSE pg_catalog.concat(NEW.function, '(jsonb,jsonb,jsonb)') END)
            AND p.proargtypes OPERATOR(pg_catalog.=) '3802 3802 3802'::pg_catalog.oidvector),
        NEW.function);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._find_connector() IS
    'Trigger: gives a connector''s function its whole name.';
CREATE TRIGGER a_find BEFORE INSERT OR UPDATE OF function ON chatwebhook.connector
    FOR EACH ROW WHEN (NEW.function IS NOT NULL)
    EXECUTE FUNCTION chatwebhook._find_connector();

CREATE FUNCTION chatwebhook._rule_problem(rules jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN jsonb_typeof(rules) <> 'array' THEN 'they are not an array'
           ELSE (
        SELECT CASE
               WHEN jsonb_typeof(r) <> 'object' THEN format('rule %s is not an object', n)
               WHEN r - '{status,step,contains,means,wait}'::text[] <> '{}'
                   THEN format('rule %s has the unknown key "%s"', n,
                               (SELECT k FROM jsonb_object_keys(r - '{status,step,contains,means,wait}'::text[]) k LIMIT 1))
               WHEN coalesce(r->>'means', '') NOT IN ('success', 'retry', 'dead', 'disable')
                   THEN format('rule %s does not say what it means: success, retry, dead or disable', n)
               WHEN jsonb_typeof(r->'status') IS DISTINCT FROM 'number' AND jsonb_typeof(r->'status') IS DISTINCT FROM 'array'
                    OR jsonb_path_exists(r, '$.status[*] ? (!(@ >= 100 && @ <= 599 && @.floor() == @))')
                    OR jsonb_path_exists(r, '$.status[*] ? (@.type() != "number")')
                   THEN format('the status of rule %s is not a number from 100 to 599, or an array of such', n)
               WHEN r ? 'step' AND (jsonb_typeof(r->'step') <> 'number' OR r->>'step' !~ '^[1-9][0-9]?$')
                   THEN format('the step of rule %s is not a number from 1 to 99', n)
               WHEN r ? 'contains' AND (jsonb_typeof(r->'contains') <> 'string' OR r->>'contains' = '')
                   THEN format('what rule %s looks for is not a text', n)
               WHEN r ? 'wait' AND jsonb_typeof(r->'wait') <> 'string' AND r->>'wait' !~ '^[0-9]{1,5}$'
                   THEN format('the wait of rule %s is neither seconds nor a key', n)
               END
          FROM jsonb_array_elements(rules) WITH ORDINALITY AS e(r, n)
         ORDER BY 1 NULLS LAST LIMIT 1) END
$$;
COMMENT ON FUNCTION chatwebhook._rule_problem(jsonb) IS
    'Why these rules cannot say what replies mean, or null if they can.';

CREATE FUNCTION chatwebhook._check_connector() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    problem text;
    f       record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.connector = OLD.name) THEN
            RAISE EXCEPTION 'connector "%" is used by webhook "%"', OLD.name,
                    (SELECT w.name FROM chatwebhook.webhook w WHERE w.connector = OLD.name ORDER BY 1 LIMIT 1)
                USING ERRCODE = 'restrict_violation',
                      HINT = 'Change or delete the webhooks that use it first.';
        END IF;
        RETURN OLD;
    END IF;
    IF chatwebhook._restoring() THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.name <> OLD.name
       AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.connector = OLD.name) THEN
        RAISE EXCEPTION 'cannot rename connector "%", which webhooks use', OLD.name
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.name !~ '^[a-z0-9_-]{1,63}$' THEN
        RAISE EXCEPTION 'invalid connector name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use up to 63 small letters, digits, _ and -, such as teams.';
    END IF;
    IF NEW.name = 'webhook' THEN
        IF NEW.function IS NOT NULL THEN
            RAISE EXCEPTION 'connector "webhook" is built in and takes no function'
                USING ERRCODE = 'check_violation', HINT = 'Register yours under another name.';
        END IF;
    ELSE
        SELECT p.provolatile, l.lanname, p.prorettype, p.proowner, p.proretset INTO f
          FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.oid = to_regprocedure(NEW.function)
           AND p.proargtypes = '3802 3802 3802'::oidvector;
        problem := CASE
            WHEN f IS NULL THEN 'there is no such function of (jsonb, jsonb, jsonb)'
            WHEN f.prorettype <> 'chatwebhook.request'::regtype OR f.proretset THEN 'it does not return chatwebhook.request'
            WHEN f.provolatile = 'v' THEN 'it is volatile, and must be STABLE or IMMUTABLE'
            WHEN f.lanname NOT IN ('sql', 'plpgsql') THEN format('it is in %s, and must be in sql or plpgsql', f.lanname)
            WHEN NOT pg_has_role(chatwebhook._invoker(), f.proowner, 'USAGE') THEN 'it runs as its owner, and only those with that role''s rights can register it'
        END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'cannot use function "%" as connector "%": %', left(NEW.function, 200), NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Create it as f(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE.';
        END IF;
    END IF;
    problem := chatwebhook._rule_problem(NEW.replies);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'unusable rules for replies of connector "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = 'Give an array such as [{"status": 409, "means": "success"}].';
    END IF;
    NEW.shipped := false;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector() IS 'Trigger: checks a connector.';

CREATE FUNCTION chatwebhook._check_connector_access(connector text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    signature text := (SELECT c.function FROM chatwebhook.connector c WHERE c.name = connector);
BEGIN
    IF to_regprocedure(signature) IS NOT NULL
       AND NOT has_function_privilege(chatwebhook._invoker(), to_regprocedure(signature), 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied for connector "%"', connector
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Its owner can GRANT EXECUTE ON FUNCTION %s.', signature);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector_access(text) IS
    'An error if the role on whose behalf this runs may not execute this connector''s function.';

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
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.event_type
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER emptied;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.connector
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.connector ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.connector ENABLE ALWAYS TRIGGER emptied;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.vault
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.vault
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.vault ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.vault ENABLE ALWAYS TRIGGER emptied;
