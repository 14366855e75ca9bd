/* chatwebhook: the extension's script, joined by the Makefile from sql/ */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION chatwebhook" to load this file. \quit

/*
 * The schema is ours and new: in one that somebody prepared, its owner could
 * replace what we are about to create.
 */
CREATE SCHEMA chatwebhook;
COMMENT ON SCHEMA chatwebhook IS
    'Webhooks for chat events: the tables webhook and event_type, the views delivery, dead_letter, webhook_health and worker_status, and functions.';

CREATE FUNCTION chatwebhook.uuidv7() RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_uuidv7'
    LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.uuidv7() IS
    'A new UUID of version 7 (RFC 9562): ascending within a session, milliseconds in front.';

CREATE FUNCTION chatwebhook._url_problem(url text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_problem'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._url_problem(text) IS
    'Why the worker would not send to this URL, or null if it would.';

CREATE FUNCTION chatwebhook._secret_generate() RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_secret_generate'
    LANGUAGE C VOLATILE;
COMMENT ON FUNCTION chatwebhook._secret_generate() IS
    'A new random signing secret: whsec_ and the base64 of 32 bytes.';

CREATE FUNCTION chatwebhook._secret_problem(secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_secret_problem'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._secret_problem(text) IS
    'Why this cannot be a signing secret, or null if it can.';

CREATE FUNCTION chatwebhook._seal(webhook_id uuid, name text, secret text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_seal'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._seal(uuid, text, text) IS
    'A secret as the vault keeps it: encrypted for this row under the current key, or plain without a key file.';

CREATE FUNCTION chatwebhook._seal_new(webhook_id uuid, name text, signing text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_seal_new'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._seal_new(uuid, text, text) IS
    'A new random secret for that kind of signing, sealed: in clear it is nowhere.';

CREATE FUNCTION chatwebhook._reseal(webhook_id uuid, name text, sealed bytea) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_reseal'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._reseal(uuid, text, bytea) IS
    'A secret of the vault, sealed under the current key.';

CREATE FUNCTION chatwebhook._open(webhook_id uuid, name text, sealed bytea) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_open'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._open(uuid, text, bytea) IS 'A secret of the vault in clear.';

CREATE FUNCTION chatwebhook._is_current(sealed bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_is_current'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._is_current(bytea) IS
    'Whether a value of the vault is sealed as it would be now.';

CREATE FUNCTION chatwebhook._encrypts() RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_encrypts'
    LANGUAGE C STABLE;
COMMENT ON FUNCTION chatwebhook._encrypts() IS
    'Whether secrets are encrypted at rest; null if the key file is unusable.';

CREATE FUNCTION chatwebhook._ed25519_generate() RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_ed25519_generate'
    LANGUAGE C VOLATILE;
COMMENT ON FUNCTION chatwebhook._ed25519_generate() IS
    'A new private key for asymmetric signatures: whsk_ and base64.';

CREATE FUNCTION chatwebhook._public_key(private_key text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_public_key'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._public_key(text) IS
    'The public key of a private one: whpk_ and base64; null if it is none.';

CREATE FUNCTION chatwebhook._invoker() RETURNS oid
    AS 'MODULE_PATHNAME', 'chatwebhook_invoker'
    LANGUAGE C STABLE;
COMMENT ON FUNCTION chatwebhook._invoker() IS
    'The role on whose behalf this runs, whatever definer function it is called from.';

CREATE FUNCTION chatwebhook._header_problem(headers jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_header_problem'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._header_problem(jsonb) IS
    'Why this object cannot be sent as request headers, or null if it can.';

CREATE FUNCTION chatwebhook._add(a bigint[], b bigint[]) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'chatwebhook_add'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook._add(bigint[], bigint[]) IS
    'Adds the numbers of two arrays one by one; the first is as long as the result.';

CREATE FUNCTION chatwebhook._changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_changed'
    LANGUAGE C;
COMMENT ON FUNCTION chatwebhook._changed() IS
    'Trigger: tells every session and worker that webhooks or event types have changed.';

CREATE FUNCTION chatwebhook._wake(webhook_id uuid) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_wake'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._wake(uuid) IS
    'Wakes the worker for this webhook when the transaction commits.';
/*
 * Connectors: functions that turn an event into the requests that one kind of
 * service wants.  src/connector.c calls them; the files in connectors/ are those that
 * come with the extension.
 */
CREATE TYPE chatwebhook.request AS (
    method  text,
    url     text,
    headers jsonb,
    body    jsonb,
    last    boolean
);
COMMENT ON TYPE chatwebhook.request IS
    'A request that a connector wants sent. A null method is POST; last means that no other follows, so that the connector need not be asked again.';
COMMENT ON COLUMN chatwebhook.request.method IS 'GET, POST, PUT, PATCH or DELETE; null: POST.';
COMMENT ON COLUMN chatwebhook.request.url IS
    'Where to, as a rule the webhook''s url with something appended; null: the webhook''s url. If both have a query, the appended ? becomes &.';
COMMENT ON COLUMN chatwebhook.request.headers IS
    'Headers of this request, an object of strings; those of the webhook and its auth come on top. Null: none.';
COMMENT ON COLUMN chatwebhook.request.body IS 'Sent as compact JSON; null: no body.';
COMMENT ON COLUMN chatwebhook.request.last IS
    'True if the delivery is done when this request has succeeded; null or false: the connector is asked again.';

CREATE FUNCTION chatwebhook.cut(value text, size integer) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_cut'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.cut(text, integer) IS
    'The text, or as much of its beginning as leaves room for an ellipsis within that many characters, counted as JavaScript does: one beyond U+FFFF is two.';

CREATE FUNCTION chatwebhook.url_encode(value text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_encode'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.url_encode(text) IS
    'The text percent-encoded (RFC 3986) as a part of a URL''s path or query: all but letters, digits and -._~, as UTF-8.';
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
    'Requests a second, all workers together; 0.001 to 100000; null: no limit.';
COMMENT ON COLUMN chatwebhook.webhook.ordered IS
    'True: deliveries of one conversation go one after another, in the order in which the events were emitted; a retry holds back those behind it, a dead one does not.';
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
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
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
    last_error       text,
    replies          jsonb,
    ordered          boolean NOT NULL DEFAULT false
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
CREATE INDEX queue_event_idx ON chatwebhook.queue (event_id);
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
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
CREATE INDEX history_webhook_idx ON chatwebhook.history (webhook_id, id);
CREATE INDEX history_event_idx ON chatwebhook.history (event_id);
COMMENT ON TABLE chatwebhook.history IS
    'The deliveries that were delivered or canceled. Read the view delivery instead.';

CREATE TABLE chatwebhook.dead (
    LIKE chatwebhook.history,
    PRIMARY KEY (id)
);
CREATE INDEX dead_webhook_idx ON chatwebhook.dead (webhook_id, id);
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
    consecutive_failures bigint NOT NULL DEFAULT 0,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    failing_since        timestamptz,
    recent               integer[] NOT NULL DEFAULT '{}',
    latency_sum_ms       bigint NOT NULL DEFAULT 0,
    latency_counts       bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0}',
    given_up             bigint NOT NULL DEFAULT 0
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
    'consecutive_failures: at least chatwebhook.alert_failures attempts in a row failed, until one succeeds; low_success_rate: of the last 100 attempts, and at least 20, fewer than chatwebhook.alert_success_rate succeeded, until it is half-way between that and 1; webhook_disabled: the extension disabled it, until it is enabled; backlog: a delivery was due more than chatwebhook.alert_backlog ago and is not sent, until none is.';
COMMENT ON COLUMN chatwebhook.alert.message IS 'What is wrong, for people.';
COMMENT ON COLUMN chatwebhook.alert.opened_at IS 'When it began.';
COMMENT ON COLUMN chatwebhook.alert.closed_at IS 'When it ended; null: it goes on.';

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
    IF secret IS NOT NULL AND auth->>secret !~ '\{\{[a-z][a-z0-9_]*\}\}' THEN
        RETURN format('"%s" has the secret itself: write {{name}}, and give it to set_credential()', secret);
    END IF;
    IF EXISTS (SELECT FROM jsonb_each_text(auth) AS e(k, v)
                WHERE v !~ '^[\x20-\x7e]*$' OR length(v) > 2000) THEN
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
            THEN format('rate_limit is %s, outside 0.001 to 100000 requests a second', NEW.rate_limit)
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
/*
 * Who sees what.  A role sees everything that it was granted the right to see,
 * unless it is a tenant's: then it sees and manages what belongs to its
 * chatbots, and nothing else.
 */
CREATE TABLE chatwebhook.tenant (
    role       regrole NOT NULL,
    chatbot_id text NOT NULL,
    PRIMARY KEY (role, chatbot_id)
);
COMMENT ON TABLE chatwebhook.tenant IS
    'The chatbots that a tenant''s role, and its members, see and manage. add_tenant() writes it.';
COMMENT ON COLUMN chatwebhook.tenant.role IS 'The role, whatever it is renamed to.';
COMMENT ON COLUMN chatwebhook.tenant.chatbot_id IS 'One of its chatbots.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.tenant', '');

CREATE FUNCTION chatwebhook._chatbots() RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    invoker  constant oid := chatwebhook._invoker();
    is_super boolean;
    chatbots text[];
BEGIN
    SELECT u.rolsuper INTO is_super FROM pg_roles u WHERE u.oid = invoker;
    -- null would mean everything
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the role of this session does not exist any more'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT is_super THEN
        SELECT array_agg(DISTINCT t.chatbot_id) INTO chatbots
          FROM chatwebhook.tenant t WHERE pg_has_role(invoker, t.role, 'MEMBER');
    END IF;
    RETURN chatbots;
END
$$;
COMMENT ON FUNCTION chatwebhook._chatbots() IS
    'The chatbots of the tenant on whose behalf this runs; null: it is not a tenant''s role.';

CREATE FUNCTION chatwebhook._sees(chatbot_id text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(chatwebhook._chatbots() IS NULL OR chatbot_id = ANY (chatwebhook._chatbots()), false)
$$;
COMMENT ON FUNCTION chatwebhook._sees(text) IS
    'Whether the role on whose behalf this runs may see this chatbot''s rows.';

/*
 * A webhook of every chatbot is the administrator's, and what it is owed bears
 * a tenant's chatbot all the same; so a delivery must be of the tenant's
 * chatbot and to a tenant's webhook.
 */
CREATE FUNCTION chatwebhook._webhooks() RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN own IS NOT NULL THEN
                     ARRAY(SELECT w.id FROM chatwebhook.webhook w WHERE w.chatbot_id = ANY (own))
           END
      FROM chatwebhook._chatbots() AS own
$$;
COMMENT ON FUNCTION chatwebhook._webhooks() IS
    'The webhooks of the tenant on whose behalf this runs; null: it is not a tenant''s role.';

CREATE FUNCTION chatwebhook._sees(chatbot_id text, webhook_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(chatwebhook._chatbots() IS NULL
                    OR chatbot_id = ANY (chatwebhook._chatbots()) AND webhook_id = ANY (chatwebhook._webhooks()),
                    false)
$$;
COMMENT ON FUNCTION chatwebhook._sees(text, uuid) IS
    'Whether the role on whose behalf this runs may see the deliveries of this chatbot to this webhook.';

CREATE FUNCTION chatwebhook._check_chatbot(chatbot_id text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT chatwebhook._sees(chatbot_id) THEN
        RAISE EXCEPTION 'chatbot "%" is not one of this role''s', coalesce(chatbot_id, 'null')
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Name one of the chatbots that chatwebhook.tenant lists for the role.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_chatbot(text) IS
    'An error if the role on whose behalf this runs may not manage this chatbot''s webhooks.';

CREATE FUNCTION chatwebhook._check_webhook_access(webhook_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF NOT EXISTS (SELECT FROM chatwebhook.webhook w
                    WHERE w.id = webhook_id AND chatwebhook._sees(w.chatbot_id)) THEN
        RAISE EXCEPTION 'webhook "%" does not exist', webhook_id
            USING ERRCODE = 'no_data_found';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_webhook_access(uuid) IS
    'An error if there is no such webhook for the role on whose behalf this runs.';

ALTER TABLE chatwebhook.webhook ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.event ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.history ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.dead ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.attempt ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.alert ENABLE ROW LEVEL SECURITY;
DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY '{webhook,event,alert}'::text[] LOOP
        EXECUTE pg_catalog.format('CREATE POLICY tenant ON chatwebhook.%I USING '
            '((SELECT chatwebhook._chatbots()) IS NULL OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[]))', relation);
    END LOOP;
    FOREACH relation IN ARRAY '{queue,history,dead,attempt}'::text[] LOOP
        EXECUTE pg_catalog.format('CREATE POLICY tenant ON chatwebhook.%I USING '
            '((SELECT chatwebhook._chatbots()) IS NULL OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])'
            ' AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]))', relation);
    END LOOP;
END
$$;
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

/*
 * watch() and unwatch() run with the caller's rights and search_path, since the
 * condition is the caller's SQL.
 */
CREATE FUNCTION chatwebhook.watch(
    relation   regclass,
    event_type text,
    mapping    jsonb DEFAULT '{}',
    condition  text DEFAULT NULL,
    operation  text DEFAULT 'INSERT')
    RETURNS name
    LANGUAGE plpgsql VOLATILE
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name text := pg_catalog.format('chatwebhook_%s_%s', event_type, pg_catalog.lower(operation));
    arguments    text := '';
    keys         text[];
    missing      text;
    pair         record;
BEGIN
    IF relation IS NULL OR event_type IS NULL OR operation IS NULL THEN
        RAISE EXCEPTION 'watch() needs a relation, an event type and an operation'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF pg_catalog.upper(operation) NOT IN ('INSERT', 'UPDATE', 'DELETE') THEN
        RAISE EXCEPTION 'unknown operation: "%"', operation
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use INSERT, UPDATE or DELETE.';
    END IF;
    IF pg_catalog.octet_length(trigger_name) > 63 THEN
        RAISE EXCEPTION 'the trigger''s name would be longer than 63 bytes: "%"', pg_catalog.left(trigger_name, 100)
            USING ERRCODE = 'name_too_long',
                  HINT = 'Write the trigger with CREATE TRIGGER ... EXECUTE FUNCTION chatwebhook.emit(...) instead.';
    END IF;
    mapping := COALESCE(mapping, '{}');
    IF pg_catalog.jsonb_typeof(mapping) <> 'object' THEN
        RAISE EXCEPTION 'the mapping is not an object: %', pg_catalog.left(mapping::text, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}.';
    END IF;
    FOR pair IN SELECT j.key, j.value #>> '{}' AS origin, pg_catalog.jsonb_typeof(j.value) AS kind
                  FROM pg_catalog.jsonb_each(mapping) AS j LOOP
        IF pair.kind <> 'string' OR pg_catalog.strpos(pair.key, '=') > 0 OR pair.key = '' THEN
            RAISE EXCEPTION 'the mapping of key "%" is not a column''s name', pair.key
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Map keys to columns, such as {"email": "visitor_email", "source": "@widget"}; a key has no =.';
        END IF;
        IF pg_catalog.left(pair.origin, 1) <> '@' AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = relation AND a.attname = pair.origin
               AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', pair.origin, relation
                USING ERRCODE = 'undefined_column',
                      HINT = 'A constant is written with a leading @.';
        END IF;
        arguments := pg_catalog.concat(arguments, ', ', pg_catalog.quote_literal(pg_catalog.concat(pair.key, '=', pair.origin)));
        IF pair.key NOT IN ('chatbotId', 'conversationId') THEN
            keys := pg_catalog.array_append(keys, pair.key);
        END IF;
    END LOOP;

    -- what emit() would say at the first row
    IF keys IS NULL THEN
        SELECT pg_catalog.array_agg(a.attname::text) INTO keys
          FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    END IF;
    missing := chatwebhook._missing_key(event_type, keys);
    IF pg_catalog.current_setting('chatwebhook.validation') <> 'error' THEN
        NULL;
    ELSIF missing = '' THEN
        RAISE EXCEPTION 'unknown event type: "%"', event_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'See the table chatwebhook.event_type, or add the type there first.';
    ELSIF missing IS NOT NULL THEN
        RAISE EXCEPTION 'event "%" needs the key "%", which the mapping lacks', event_type, missing
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Map it to a column, or to a constant with a leading @.';
    END IF;

    EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW %s EXECUTE FUNCTION chatwebhook.emit(%L%s)',
                              trigger_name, pg_catalog.upper(operation), relation,
                              CASE WHEN condition IS NOT NULL THEN pg_catalog.format('WHEN (%s)', condition) END,
                              event_type, arguments);
    RETURN trigger_name;
END
$$;
COMMENT ON FUNCTION chatwebhook.watch(regclass, text, jsonb, text, text) IS
    'Writes a trigger that emits this event for the rows of this table, and gives its name. The mapping is an object of keys and columns (or @constants) as in emit(); the condition, over NEW and OLD, goes into WHEN.';

CREATE FUNCTION chatwebhook._missing_key(event_type text, keys text[]) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN t.name IS NULL THEN ''
                ELSE (SELECT r FROM unnest(t.required) r WHERE r <> ALL (keys) LIMIT 1) END
      FROM (SELECT) one
      LEFT JOIN chatwebhook.event_type t ON t.name = event_type
$$;
COMMENT ON FUNCTION chatwebhook._missing_key(text, text[]) IS
    'The first required key of an event type that is not among these; an empty text if there is no such type.';

CREATE FUNCTION chatwebhook.unwatch(
    relation   regclass,
    event_type text,
    operation  text DEFAULT 'INSERT')
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    AS $$
#variable_conflict use_variable
DECLARE
    trigger_name text := pg_catalog.format('chatwebhook_%s_%s', event_type, pg_catalog.lower(operation));
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE t.tgrelid = relation AND t.tgname = trigger_name AND NOT t.tgisinternal) THEN
        RETURN false;
    END IF;
    EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', trigger_name, relation);
    RETURN true;
END
$$;
COMMENT ON FUNCTION chatwebhook.unwatch(regclass, text, text) IS
    'Drops the trigger that watch() wrote; false if there is none.';
/*
 * Alerts.  The worker checks them after settles and sweeps; a session does when
 * it enables or deletes a webhook.
 */
CREATE FUNCTION chatwebhook._emit_but(webhook_id uuid, type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_but'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._emit_but(uuid, text, text, text, jsonb) IS
    'emit(), but not to this webhook.';

CREATE FUNCTION chatwebhook._emit_to(webhook_id uuid, type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_to'
    LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook._emit_to(uuid, text, text, text, jsonb) IS
    'emit() to this webhook alone, whatever it is subscribed to.';

CREATE FUNCTION chatwebhook._log_alert(webhook_name text, message text, has_ended boolean) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_log_alert'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._log_alert(text, text, boolean) IS
    'Writes a line about an alert into the server''s log: WARNING when it opens, LOG when it ends.';

CREATE FUNCTION chatwebhook._tell_alert(alert_id uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    a record;
BEGIN
    SELECT * INTO a FROM chatwebhook.alert WHERE id = alert_id;
    PERFORM chatwebhook._log_alert(a.webhook_name, a.message, a.closed_at IS NOT NULL);
    PERFORM chatwebhook._emit_but(a.webhook_id, 'webhook.alert', a.chatbot_id, NULL, jsonb_build_object(
        'state', CASE WHEN a.closed_at IS NULL THEN 'opened' ELSE 'closed' END,
        'alertId', a.id, 'kind', a.kind, 'message', a.message,
        'webhookId', a.webhook_id, 'webhookName', a.webhook_name,
        'openedAt', to_char(a.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'closedAt', to_char(a.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')));
EXCEPTION
    -- the alert itself must not be lost for that, nor what is being done
    WHEN OTHERS THEN
        RAISE WARNING 'could not emit webhook.alert on webhook "%": %', a.webhook_name, SQLERRM;
END
$$;
COMMENT ON FUNCTION chatwebhook._tell_alert(uuid) IS
    'Logs that an alert was opened or closed, and emits webhook.alert.';

CREATE FUNCTION chatwebhook._set_alert(hook uuid, kind text, wanted boolean, message text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    changed uuid;
BEGIN
    IF wanted THEN
        -- one that comes and goes is told of once a minute; but at a disabled
        -- webhook nothing would make us look again
        INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
        SELECT chatwebhook.uuidv7(), w.id, w.chatbot_id, w.name, kind, message, clock_timestamp()
          FROM chatwebhook.webhook w
         WHERE w.id = hook
           AND NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.webhook_id = hook AND a.kind = kind AND kind <> 'webhook_disabled'
                              AND a.closed_at > clock_timestamp() - interval '1 minute')
        ON CONFLICT DO NOTHING
        RETURNING id INTO changed;
    ELSE
        UPDATE chatwebhook.alert a SET closed_at = clock_timestamp()
         WHERE a.webhook_id = hook AND a.kind = kind AND a.closed_at IS NULL
        RETURNING a.id INTO changed;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM chatwebhook._tell_alert(changed);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._set_alert(uuid, text, boolean, text) IS
    'Opens or closes an alert of this kind.';

CREATE FUNCTION chatwebhook._alert_failures() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('chatwebhook.alert_failures', true), ''), '5')::integer $$;
COMMENT ON FUNCTION chatwebhook._alert_failures() IS 'The setting chatwebhook.alert_failures.';

CREATE FUNCTION chatwebhook._alert_success_rate() RETURNS double precision
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('chatwebhook.alert_success_rate', true), ''), '0.9')::double precision $$;
COMMENT ON FUNCTION chatwebhook._alert_success_rate() IS 'The setting chatwebhook.alert_success_rate.';

CREATE FUNCTION chatwebhook._seconds(period text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN lower(period) = 'infinite' THEN 'infinity'
                ELSE (regexp_match(period, '^\s*([0-9.]+)'))[1]::double precision
                     * CASE (regexp_match(period, '([a-z]*)\s*$'))[1]
                       WHEN 'd' THEN 86400 WHEN 'h' THEN 3600 WHEN 'min' THEN 60
                       WHEN 'ms' THEN 0.001 WHEN 'us' THEN 0.000001 ELSE 1 END END
$$;
COMMENT ON FUNCTION chatwebhook._seconds(text) IS 'The seconds of a setting such as 30d.';

CREATE FUNCTION chatwebhook._check_alerts(webhook_ids uuid[]) RETURNS void
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
                NOT w.enabled AND w.disabled_at IS NOT NULL,
                'it was disabled: ' || w.disabled_reason)) AS k (kind, wanted, message)
         WHERE w.id = ANY (webhook_ids)
           AND k.wanted <> EXISTS (SELECT FROM chatwebhook.alert a
                                    WHERE a.webhook_id = w.id AND a.kind = k.kind AND a.closed_at IS NULL)
         ORDER BY w.id, k.kind
    LOOP
        PERFORM chatwebhook._set_alert(change.id, change.kind, change.wanted, change.message);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_alerts(uuid[]) IS
    'Opens and closes the alerts of these webhooks as their health wants it, and disables those that have failed for too long.';

CREATE FUNCTION chatwebhook._check_backlog(webhook_ids uuid[], dues timestamptz[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    change record;
BEGIN
    FOR change IN
        SELECT w.id, true AS wanted,
               format('a delivery has been due for %s s and is not sent',
                      round(extract(epoch FROM clock_timestamp() - b.due))) AS message
          FROM unnest(webhook_ids, dues) AS b (id, due)
          JOIN chatwebhook.webhook w ON w.id = b.id AND w.enabled
         WHERE NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.webhook_id = b.id AND a.kind = 'backlog' AND a.closed_at IS NULL)
        UNION ALL
        SELECT a.webhook_id, false, NULL
          FROM chatwebhook.alert a
         WHERE a.kind = 'backlog' AND a.closed_at IS NULL
           AND NOT EXISTS (SELECT FROM chatwebhook.webhook w
                            WHERE w.id = a.webhook_id AND w.enabled AND w.id = ANY (webhook_ids))
         ORDER BY 1
    LOOP
        PERFORM chatwebhook._set_alert(change.id, 'backlog', change.wanted, change.message);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_backlog(uuid[], timestamptz[]) IS
    'Opens the alerts of these webhooks, which have had something due since then, and closes those of others.';
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
           connector, settings, auth, rate_limit, ordered)
    VALUES (name, url, events, chatbot_id, filter, enabled, headers,
           max_retries, backoff, backoff_multiplier, max_backoff, timeout, max_in_flight, signing,
           connector, settings, auth, rate_limit, ordered)
    RETURNING w.id INTO id;
    IF secret IS NULL THEN
        secret := chatwebhook.secret(id);
    ELSE
        PERFORM chatwebhook._set_secret(id, 'signing_secret', secret);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook.create_webhook(text, text, text[], text, jsonpath, boolean, jsonb, integer, interval, double precision, interval, interval, integer, text, text, jsonb, jsonb, double precision, boolean, text) IS
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
          OR name NOT IN ('client_certificate', 'client_key') AND value !~ '^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$' THEN
        -- the value itself stays out of the message
        RAISE EXCEPTION 'unusable value for the credential "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give printable ASCII in one line, without blanks at its ends; a certificate or key is PEM.';
    ELSE
        PERFORM chatwebhook._set_secret(webhook_id, name, value);
        -- the worker may have met the webhook before its credential
        UPDATE chatwebhook.webhook w
           SET enabled = true, disabled_at = NULL, disabled_reason = NULL, updated_at = now()
         WHERE w.id = webhook_id AND NOT w.enabled
           AND w.disabled_reason = format('the credential "%s" is not set', name);
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
        DELETE FROM chatwebhook.queue q WHERE q.event_id = ANY (events) RETURNING *
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
    DELETE FROM chatwebhook.attempt a WHERE a.delivery_id = ANY (deliveries);
    -- the delivery that a last error is of may have left before
    UPDATE chatwebhook.health h SET last_error = NULL
      FROM chatwebhook.webhook w
     WHERE w.id = h.webhook_id
       AND (w.chatbot_id IS NULL OR w.chatbot_id = chatbot_id OR w.id = ANY (hooks))
       AND h.last_error !~ '^(request \d+: )?HTTP status \d+$';
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
/*
 * How the webhooks and the workers do.
 */
CREATE FUNCTION chatwebhook._all_in_flight(OUT webhook_id uuid, OUT in_flight bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_in_flight'
    LANGUAGE C VOLATILE STRICT ROWS 100;
COMMENT ON FUNCTION chatwebhook._all_in_flight() IS
    'For each webhook of this database, the deliveries that workers have claimed.';

CREATE FUNCTION chatwebhook._in_flight(OUT webhook_id uuid, OUT in_flight bigint)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT f.webhook_id, f.in_flight
      FROM chatwebhook._all_in_flight() f, chatwebhook._webhooks() AS own
     WHERE own IS NULL OR f.webhook_id = ANY (own)
$$;
COMMENT ON FUNCTION chatwebhook._in_flight() IS
    'The same, for the webhooks that the role on whose behalf this runs may see.';

CREATE FUNCTION chatwebhook._all_gates(OUT webhook_id uuid, OUT paused_until timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_gates'
    LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION chatwebhook._all_gates() IS
    'The webhooks of this database that nothing is sent to for now, but for a probe, and until when.';

CREATE FUNCTION chatwebhook._gates(OUT webhook_id uuid, OUT paused_until timestamptz)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE ROWS 10 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT g.webhook_id, g.paused_until
      FROM chatwebhook._all_gates() g, chatwebhook._webhooks() AS own
     WHERE own IS NULL OR g.webhook_id = ANY (own)
$$;
COMMENT ON FUNCTION chatwebhook._gates() IS
    'The same, for the webhooks that the role on whose behalf this runs may see.';

CREATE FUNCTION chatwebhook._claimed(delivery_id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_claimed'
    LANGUAGE C STABLE STRICT COST 1;
COMMENT ON FUNCTION chatwebhook._claimed(bigint) IS
    'Whether a worker of this server holds this delivery.';

/*
 * A session in the part of a worker, by the workers' own code, to see what
 * claimants do to each other.
 */
CREATE FUNCTION chatwebhook._claim(webhook_id uuid, at_most integer,
                                   OUT delivery_id bigint, OUT attempts integer)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_claim'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._claim(uuid, integer) IS
    'Claims deliveries that are due for this session, as a worker does, until it releases them or ends.';

CREATE FUNCTION chatwebhook._settle(delivery_id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_settle'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._settle(bigint) IS
    'Records a delivery that this session has claimed as delivered, as a worker does; false if the claim is not its own.';

CREATE FUNCTION chatwebhook._release() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_release'
    LANGUAGE C VOLATILE;
COMMENT ON FUNCTION chatwebhook._release() IS 'Gives up all claims of this session.';

CREATE FUNCTION chatwebhook._all_workers(
    OUT pid integer, OUT started_at timestamptz, OUT in_flight integer, OUT claimed bigint,
    OUT delivered bigint, OUT failed bigint, OUT last_error text, OUT last_activity_at timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_workers'
    LANGUAGE C VOLATILE STRICT ROWS 10;
COMMENT ON FUNCTION chatwebhook._all_workers() IS 'The workers of this database.';

CREATE FUNCTION chatwebhook._workers(
    OUT pid integer, OUT started_at timestamptz, OUT in_flight integer, OUT claimed bigint,
    OUT delivered bigint, OUT failed bigint, OUT last_error text, OUT last_activity_at timestamptz)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE ROWS 10 SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT * FROM chatwebhook._all_workers()
     WHERE chatwebhook._chatbots() IS NULL
        OR has_table_privilege(chatwebhook._invoker(), 'chatwebhook.worker_status', 'SELECT')
$$;
COMMENT ON FUNCTION chatwebhook._workers() IS
    'The same; nothing for a tenant''s role that was not granted worker_status.';

CREATE VIEW chatwebhook.worker_status AS
    SELECT pid, started_at, in_flight, claimed, delivered, failed, last_error, last_activity_at,
           chatwebhook._encrypts() AS secrets_encrypted
      FROM chatwebhook._workers();
COMMENT ON VIEW chatwebhook.worker_status IS
    'The workers of this database; empty if chatwebhook is not in shared_preload_libraries.';
COMMENT ON COLUMN chatwebhook.worker_status.pid IS 'Its process, as in pg_stat_activity.';
COMMENT ON COLUMN chatwebhook.worker_status.started_at IS 'When it started.';
COMMENT ON COLUMN chatwebhook.worker_status.last_activity_at IS 'When its last attempt ended.';
COMMENT ON COLUMN chatwebhook.worker_status.in_flight IS 'Requests under way.';
COMMENT ON COLUMN chatwebhook.worker_status.claimed IS 'Deliveries claimed since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.delivered IS 'Attempts that succeeded since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.failed IS 'Attempts that failed since it started.';
COMMENT ON COLUMN chatwebhook.worker_status.last_error IS
    'The last trouble of the worker''s own, not of an endpoint.';

COMMENT ON COLUMN chatwebhook.worker_status.secrets_encrypted IS
    'Whether secrets are encrypted at rest, as chatwebhook.secret_key_file says; null: the key file is unusable.';

/* Slack's and Discord's URLs, and others', are secrets themselves. */
CREATE FUNCTION chatwebhook._redact(url text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT regexp_replace(regexp_replace(url, '\?.*$', '?...'),
                          '/(?!\{\{)[^/?]{16,}(?=[/?]|$)', '/...', 'g')
$$;
COMMENT ON FUNCTION chatwebhook._redact(text) IS
    'A URL without its query and without long words in its path, which may be tokens.';

CREATE VIEW chatwebhook.webhook_health WITH (security_barrier) AS
    SELECT w.id AS webhook_id, w.name, chatwebhook._redact(w.url) AS url,
           CASE WHEN NOT w.enabled THEN 'disabled'
                WHEN g.webhook_id IS NOT NULL THEN 'paused'
                WHEN h.total = 0 THEN 'idle'
                WHEN h.consecutive_failures >= s.failures THEN 'failing'
                WHEN r.success_rate < s.rate OR h.consecutive_failures > 0 THEN 'degraded'
                ELSE 'healthy'
           END AS state,
           h.total, h.successes, h.failures,
           r.success_rate, r.avg_latency_ms, r.p95_latency_ms,
           h.last_success_at, h.last_failure_at, h.last_error, h.consecutive_failures,
           q.pending, coalesce(f.in_flight, 0) AS in_flight, q.oldest_pending_at, d.dead
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
COMMENT ON VIEW chatwebhook.webhook_health IS
    'How each webhook does: true after every settle. Totals are of attempts, over all time; rate and latencies are of the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.webhook_id IS 'The webhook.';
COMMENT ON COLUMN chatwebhook.webhook_health.name IS 'Its name.';
COMMENT ON COLUMN chatwebhook.webhook_health.url IS
    'Where its requests go; what may be a token in it is left out.';
COMMENT ON COLUMN chatwebhook.webhook_health.total IS 'Attempts ever made.';
COMMENT ON COLUMN chatwebhook.webhook_health.successes IS 'Those that succeeded.';
COMMENT ON COLUMN chatwebhook.webhook_health.failures IS 'Those that failed.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_success_at IS 'When the last one that succeeded ended.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_failure_at IS 'When the last one that failed ended.';
COMMENT ON COLUMN chatwebhook.webhook_health.last_error IS 'Why that one failed.';
COMMENT ON COLUMN chatwebhook.webhook_health.state IS
    'disabled; paused: after chatwebhook.breaker_threshold (10) failures in a row, or because the receiver asked for it, nothing is sent for now but a probe from time to time; idle: nothing was sent yet; failing: chatwebhook.alert_failures (5) or more failures in a row; degraded: fewer, or under chatwebhook.alert_success_rate (0.9) of the last 100 succeeded; healthy.';
COMMENT ON COLUMN chatwebhook.webhook_health.success_rate IS 'Of the last 100 attempts, 0 to 1.';
COMMENT ON COLUMN chatwebhook.webhook_health.avg_latency_ms IS 'Of the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.p95_latency_ms IS
    '95th percentile of the last 100 attempts.';
COMMENT ON COLUMN chatwebhook.webhook_health.consecutive_failures IS
    'Failed attempts since the last that succeeded.';
COMMENT ON COLUMN chatwebhook.webhook_health.pending IS 'Deliveries that are not finished.';
COMMENT ON COLUMN chatwebhook.webhook_health.in_flight IS
    'Those of the pending that a worker is sending, or is about to.';
COMMENT ON COLUMN chatwebhook.webhook_health.oldest_pending_at IS
    'When the oldest of the pending was emitted.';
COMMENT ON COLUMN chatwebhook.webhook_health.dead IS 'Deliveries that were given up.';
/*
 * The same figures for Prometheus, a row for each sample.  The counters are those
 * of the table health, which no retention, crash or restart sets back; the series
 * of a webhook end when it is deleted.
 *
 * A query for some of the names does not pay for all: a branch with another name
 * drops out.  Counting is left to functions, since what the planner expects of it
 * beside a long queue would have it compile all of this (jit), which takes longer
 * than the counting.
 */
CREATE FUNCTION chatwebhook._count_pending(OUT webhook_id uuid, OUT pending bigint)
    RETURNS SETOF record
    LANGUAGE sql STABLE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
    SELECT w.id, (SELECT count(*) FROM chatwebhook.queue q WHERE q.webhook_id = w.id)
      FROM chatwebhook.webhook w
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
$$;
COMMENT ON FUNCTION chatwebhook._count_pending() IS
    'For each webhook that the role on whose behalf this runs may see, the deliveries that are pending.';

CREATE FUNCTION chatwebhook._count_dead(OUT webhook_id uuid, OUT dead bigint)
    RETURNS SETOF record
    LANGUAGE sql STABLE ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
    SELECT w.id, (SELECT count(*) FROM chatwebhook.dead d WHERE d.webhook_id = w.id)
      FROM chatwebhook.webhook w
     WHERE (SELECT chatwebhook._chatbots()) IS NULL
        OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
$$;
COMMENT ON FUNCTION chatwebhook._count_dead() IS
    'For each webhook that the role on whose behalf this runs may see, its dead letters.';

CREATE VIEW chatwebhook.metrics WITH (security_barrier) AS
    WITH w AS (
        SELECT w.id, h.successes, h.failures, h.consecutive_failures, h.last_success_at,
               h.latency_sum_ms, h.latency_counts, h.given_up,
               pg_catalog.jsonb_build_object('webhook_id', w.id, 'webhook', w.name) AS labels
          FROM chatwebhook.webhook w
          JOIN chatwebhook.health h ON h.webhook_id = w.id
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
            OR w.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
    )
    SELECT u.name, u.type, u.help, u.labels, u.value FROM (
        SELECT 'chatwebhook_attempts_total'::text AS name, 'counter'::text AS type,
               'Attempts at deliveries that ended, by result.'::text AS help,
               w.labels || r.label AS labels, r.value::double precision AS value
          FROM w
         CROSS JOIN LATERAL (VALUES ('{"result": "success"}'::jsonb, w.successes),
                                    ('{"result": "failure"}', w.failures)) AS r(label, value)
        UNION ALL
        SELECT 'chatwebhook_attempt_duration_seconds_bucket', 'histogram',
               'What attempts took, from the start to the end of the reply or the failure.',
               w.labels || b.label, b.value
          FROM w
         CROSS JOIN LATERAL (
               SELECT c.label, pg_catalog.sum(c.n) OVER (ORDER BY c.i ROWS UNBOUNDED PRECEDING) AS value
                 FROM (SELECT pg_catalog.unnest('{1,2,3,4,5,6,7,8,9,10,11,12}'::integer[]) AS i,
                              pg_catalog.unnest(ARRAY['{"le": "0.005"}', '{"le": "0.01"}', '{"le": "0.025"}',
                                  '{"le": "0.05"}', '{"le": "0.1"}', '{"le": "0.25"}', '{"le": "0.5"}',
                                  '{"le": "1"}', '{"le": "2.5"}', '{"le": "5"}', '{"le": "10"}',
                                  '{"le": "+Inf"}']::jsonb[]) AS label,
                              pg_catalog.unnest(w.latency_counts) AS n) c
               ) b
        UNION ALL
        SELECT d.name, 'histogram',
               'What attempts took, from the start to the end of the reply or the failure.', w.labels,
               CASE d.name
                    WHEN 'chatwebhook_attempt_duration_seconds_sum' THEN w.latency_sum_ms / 1000.0
                    ELSE (SELECT pg_catalog.sum(c.n) FROM (SELECT pg_catalog.unnest(w.latency_counts) AS n) c)
               END
          FROM (VALUES ('chatwebhook_attempt_duration_seconds_sum'),
                       ('chatwebhook_attempt_duration_seconds_count')) AS d(name)
         CROSS JOIN w
        UNION ALL
        SELECT d.name, d.type, d.help, w.labels, d.value
          FROM w
         CROSS JOIN LATERAL (VALUES
               ('chatwebhook_deliveries_given_up_total', 'counter',
                'Deliveries that were given up and became dead letters.', w.given_up),
               ('chatwebhook_consecutive_failures', 'gauge',
                'Failed attempts since the last that succeeded.', w.consecutive_failures),
               ('chatwebhook_last_success_timestamp_seconds', 'gauge',
                'When the last attempt that succeeded ended; 0 if none did.',
                coalesce(pg_catalog.date_part('epoch', w.last_success_at), 0))
               ) AS d(name, type, help, value)
        UNION ALL
        SELECT 'chatwebhook_deliveries_pending', 'gauge', 'Deliveries that are not finished.',
               w.labels, c.pending
          FROM w
          JOIN chatwebhook._count_pending() c ON c.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_deliveries_in_flight', 'gauge',
               'Those of the pending that a worker is sending, or is about to.',
               w.labels, coalesce(f.in_flight, 0)
          FROM w
          LEFT JOIN chatwebhook._in_flight() f ON f.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_deliveries_dead', 'gauge', 'Dead letters that are kept.',
               w.labels, c.dead
          FROM w
          JOIN chatwebhook._count_dead() c ON c.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_oldest_due_age_seconds', 'gauge',
               'For how long the pending delivery that was due first has been due; 0 if none is.', w.labels,
               GREATEST(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() -
                   (SELECT pg_catalog.min(q.next_attempt_at) FROM chatwebhook.queue q
                     WHERE q.webhook_id = w.id)), 0)
          FROM w
        UNION ALL
        SELECT 'chatwebhook_webhook_status', 'gauge',
               '1 for the state that the webhook is in; there is no series for the others.',
               w.labels || pg_catalog.jsonb_build_object('state', h.state), 1
          FROM w
          JOIN chatwebhook.webhook_health h ON h.webhook_id = w.id
        UNION ALL
        SELECT 'chatwebhook_alerts_open', 'gauge',
               '1 for each alert that is open; there is no series for one that is not.',
               w.labels || pg_catalog.jsonb_build_object('kind', a.kind), 1
          FROM w
          JOIN chatwebhook.alert a ON a.webhook_id = w.id AND a.closed_at IS NULL
        UNION ALL
        SELECT 'chatwebhook_workers_running', 'gauge',
               'Workers of this database.', '{}',
               (SELECT pg_catalog.count(*) FROM chatwebhook._workers())
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
        UNION ALL
        SELECT 'chatwebhook_sending_enabled', 'gauge',
               'Whether the setting chatwebhook.enabled is on: 1 or 0.', '{}',
               coalesce(pg_catalog.current_setting('chatwebhook.enabled', true), 'on')::boolean::integer
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
    ) u;
COMMENT ON VIEW chatwebhook.metrics IS
    'The figures for Prometheus, a row for each sample. Counters never go back; the series of a webhook end when it is deleted.';
COMMENT ON COLUMN chatwebhook.metrics.name IS
    'The sample''s name; of a histogram, with _bucket, _sum or _count. Ask for some names, and the others are not reckoned.';
COMMENT ON COLUMN chatwebhook.metrics.type IS 'counter, gauge or histogram.';
COMMENT ON COLUMN chatwebhook.metrics.help IS 'What it says.';
COMMENT ON COLUMN chatwebhook.metrics.labels IS
    'An object of texts: webhook_id and webhook (its name), unless it is about all, and result, le, state or kind.';
COMMENT ON COLUMN chatwebhook.metrics.value IS
    'The value; times are in seconds, points in time in seconds since 1970. Buckets are cumulative.';

CREATE FUNCTION chatwebhook.metrics_text() RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 SET jit = off
    AS $$
    SELECT coalesce(string_agg(f.lines, '' ORDER BY f.family COLLATE "C"), '')
      FROM (SELECT m.family,
                   concat('# HELP ', m.family, ' ',
                          replace(replace(min(m.help), E'\\', E'\\\\'), E'\n', E'\\n'),
                          E'\n# TYPE ', m.family, ' ', min(m.type), E'\n',
                          string_agg(concat(m.name, l.labels, ' ', m.value, E'\n'), ''
                                     ORDER BY m.labels->>'webhook_id', m.name COLLATE "C", m.le,
                                              l.labels COLLATE "C")) AS lines
              FROM (SELECT name, type, help, labels, value, (labels->>'le')::double precision AS le,
                           CASE type WHEN 'histogram' THEN regexp_replace(name, '_(bucket|sum|count)$', '')
                                     ELSE name END AS family
                      FROM chatwebhook.metrics) m
             CROSS JOIN LATERAL (
                   SELECT '{' || string_agg(concat(e.key, '="',
                              replace(replace(replace(e.value, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n'),
                              '"'), ',') || '}' AS labels
                     FROM jsonb_each_text(m.labels) AS e(key, value)) l
             GROUP BY m.family) f
$$;
COMMENT ON FUNCTION chatwebhook.metrics_text() IS
    'The view metrics in Prometheus''s text format, to be served as it is or written to a file of node_exporter''s textfile collector.';
/*
 * A page to look at: everything that an operator asks first, as one HTML file.
 *
 * dashboard() runs with the owner's rights, so that the right to execute it is
 * all that one needs, and shows each role what the views show it: they, and the
 * conditions below where a table is read directly, ask on whose behalf this
 * runs.  It is STABLE, so that the whole page is of one snapshot and its parts
 * agree with each other.
 *
 * The page is ASCII: any other character is a reference (&#233;), so that it
 * comes out right whatever encoding the client writes it in.  It is also XML,
 * so that a plain parser can check it.  Whatever is not ours goes through
 * _dashboard_text().
 */
CREATE FUNCTION chatwebhook._dashboard_character(c text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    utf8 bytea;
    n    integer;
BEGIN
    IF c IN (E'\t', E'\n', E'\r') THEN
        RETURN ' ';
    ELSIF c ~ '[\x01-\x7f]' OR getdatabaseencoding() = 'SQL_ASCII' THEN
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
COMMENT ON FUNCTION chatwebhook._dashboard_character(text) IS
    'A character that is not printable ASCII, for HTML: a reference to it, or to U+FFFD where it would do more than stand there.';

CREATE FUNCTION chatwebhook._dashboard_text(value text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    value := replace(value, '&', '&amp;');
    value := replace(value, '<', '&lt;');
    value := replace(value, '>', '&gt;');
    value := replace(value, '"', '&quot;');
    value := replace(value, '''', '&#39;');
    IF value ~ '[^\x20-\x7e]' THEN
        value := (SELECT string_agg(CASE WHEN c ~ '[\x20-\x7e]' THEN c
                                         ELSE chatwebhook._dashboard_character(c) END, '' ORDER BY n)
                    FROM regexp_split_to_table(value, '') WITH ORDINALITY AS s(c, n));
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_text(text) IS
    'A text for HTML, between tags or within quotes.';

CREATE FUNCTION chatwebhook._dashboard_cut(value text, size integer) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN chatwebhook._dashboard_text(CASE WHEN length(value) > size THEN left(value, size) || '...'
                                            ELSE value END);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_cut(text, integer) IS
    'The text, or that many characters of its beginning, for HTML.';

CREATE FUNCTION chatwebhook._dashboard_name(value text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN coalesce('<bdi>' || chatwebhook._dashboard_cut(value, 120) || '</bdi>', '<i>unnamed</i>');
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_name(text) IS
    'A name for HTML: cut, and kept from turning the direction of what is beside it.';

CREATE FUNCTION chatwebhook._dashboard_number(value numeric) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN to_char(value, 'FM999,999,999,999,999,999,999,990');
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_number(numeric) IS 'A whole number with commas.';

CREATE FUNCTION chatwebhook._dashboard_count(value bigint, one text, many text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN chatwebhook._dashboard_number(value) || ' ' || CASE value WHEN 1 THEN one ELSE many END;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_count(bigint, text, text) IS 'So many of something, in words.';

CREATE FUNCTION chatwebhook._dashboard_percent(share numeric) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN rtrim(to_char(trunc(share * 100, 1), 'FM990.9'), '.') || '%';
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_percent(numeric) IS 'A share in percent, rounded down: 100% is all.';

CREATE FUNCTION chatwebhook._dashboard_ms(value numeric) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN CASE WHEN round(value) < 1000 THEN round(value) || ' ms'
                WHEN value < 99950 THEN to_char(value / 1000, 'FM990.0') || ' s'
                ELSE chatwebhook._dashboard_number(round(value / 1000)) || ' s' END;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_ms(numeric) IS 'Milliseconds as people read them.';

CREATE FUNCTION chatwebhook._dashboard_age(since timestamptz) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    s bigint;
BEGIN
    IF NOT isfinite(since) THEN
        RETURN since;
    END IF;
    s := greatest(0, floor(extract(epoch FROM statement_timestamp() - since)));
    RETURN format('<time datetime="%s">%s</time>',
                  to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                  CASE WHEN s < 60 THEN s || ' s'
                       WHEN s < 3600 THEN s / 60 || ' min'
                       WHEN s < 172800 THEN s / 3600 || ' h'
                       ELSE chatwebhook._dashboard_count(s / 86400, 'day', 'days') END);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_age(timestamptz) IS 'How long ago that was, in one unit.';

CREATE FUNCTION chatwebhook._dashboard_icon(name text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN format('<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-%s"/></svg>', name);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_icon(text) IS
    'One of the shapes that _dashboard_head() defines: a state is never shown by its colour alone.';

CREATE FUNCTION chatwebhook._dashboard_head() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format($html$<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta name="referrer" content="no-referrer"/>
<title>chatwebhook: %s</title>
<link rel="icon" href="data:,"/>
<style>
:root {
  --page: #f5f6f8; --card: #ffffff; --line: #e1e5ea; --soft: #eef1f5;
  --text: #1b2430; --muted: #566273; --bar: #4a7fb5;
  --good: #1a7a4f; --warn: #8f5400; --bad: #b8292f; --off: #566273;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --card: #182028; --line: #2a343f; --soft: #212b35;
    --text: #e4e9ef; --muted: #9dabba; --bar: #6fa3d6;
    --good: #63c795; --warn: #e8b45c; --bad: #ff8b87; --off: #9dabba;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%%; text-size-adjust: 100%%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main, header, footer { max-width: 1160px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; padding-bottom: 8px; }
footer { padding-top: 8px; padding-bottom: 40px; color: var(--muted); font-size: 13px; }
h1 { margin: 4px 0 2px; font-size: 26px; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; display: flex; gap: 12px; align-items: flex-start; }
h1 .icon { width: 26px; height: 26px; margin-top: 3px; }
h2 { margin: 0 0 12px; font-size: 16px; font-weight: 650; }
h3 { margin: 0 0 4px; font-size: 15px; font-weight: 650; }
p { margin: 0 0 8px; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; border-radius: 3px; }
small, .muted { color: var(--muted); font-size: 13px; font-weight: 400; }
bdi { unicode-bidi: isolate; }
code { font: 13px/1.55 ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace; }
pre { margin: 8px 0; padding: 10px 12px; background: var(--soft); border-radius: 6px; white-space: pre-wrap; }
.icon { width: 16px; height: 16px; flex: none; vertical-align: -2px; }
.over { color: var(--muted); font-size: 13px; letter-spacing: 0.02em; }
.card { margin: 16px 0; padding: 18px 20px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.notice { border-left: 4px solid var(--bar); }
.notice.bad { border-left-color: var(--bad); }
.notice p:last-child, .notice pre:last-child { margin-bottom: 0; }
.failing, .bad { color: var(--bad); }
.degraded, .paused, .warn { color: var(--warn); }
.healthy, .good { color: var(--good); }
.disabled, .idle { color: var(--off); }
.notice.bad { color: inherit; }
.state { white-space: nowrap; font-weight: 600; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(124px, 1fr)); gap: 12px; margin: 16px 0; }
.tiles div { padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; min-width: 0; }
.tiles dt { color: var(--muted); font-size: 13px; }
.tiles dd { margin: 0; }
.tiles dd.figure { font-size: 26px; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }

ul.alerts { list-style: none; margin: 0; padding: 0; }
ul.alerts li { display: flex; gap: 10px; padding: 10px 0; border-top: 1px solid var(--line); }
ul.alerts li:first-child { border-top: 0; padding-top: 0; }
ul.alerts li:last-child { padding-bottom: 0; }
ul.alerts + details { margin-top: 8px; }
ul.alerts .icon { margin-top: 4px; color: var(--bad); }
ul.alerts div { min-width: 0; overflow: hidden; }

.chart { display: block; width: 100%%; height: 150px; }
.chart path, .spark path { fill: none; stroke: var(--bar); }
.chart path { stroke-width: 7.4; }
.chart path.f, .spark path.f { stroke: var(--bad); }
.chart path.g { stroke: var(--text); }
.chart line, .spark line { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.chart rect { fill: transparent; }
.chart rect:hover { fill: var(--muted); fill-opacity: 0.16; }
.axis { display: flex; justify-content: space-between; color: var(--muted); font-size: 12px; margin-top: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 10px; padding: 0; list-style: none; font-size: 13px; color: var(--muted); }
.legend b { color: var(--text); font-weight: 600; }
.legend svg { width: 12px; height: 12px; vertical-align: -1px; margin-right: 6px; }
.legend path { fill: none; stroke: var(--bar); stroke-width: 5; }
.legend path.f { stroke: var(--bad); }
.legend path.g { stroke: var(--text); stroke-width: 3; }
.spark { display: block; width: 100%%; max-width: 260px; height: 34px; }
.spark path { stroke-width: 1.5; }

summary { cursor: pointer; padding: 6px 0; color: var(--muted); font-size: 14px; }
details > table { margin-top: 6px; }
table { width: 100%%; border-collapse: collapse; table-layout: fixed; }
caption { text-align: left; }
.hidden { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%%); white-space: nowrap; }
th, td { padding: 10px 16px 10px 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); font-weight: 400; }
thead th { padding-top: 0; padding-bottom: 6px; border-top: 0; color: var(--muted); font-size: 13px; }
th:last-child, td:last-child { padding-right: 0; }
tbody th, tbody td, header div { overflow: hidden; }
tbody th > bdi, tbody th > a { font-weight: 600; }
tr:target { background: var(--soft); }
td small, th small { display: block; }
.n { text-align: right; }
.error { display: block; margin-top: 4px; font-size: 13px; }
.hooks col.c-state { width: 118px; } .hooks col.c-spark { width: 236px; } .hooks col.c-rate { width: 116px; }
.hooks col.c-ms { width: 104px; } .hooks col.c-wait { width: 104px; } .hooks col.c-dead { width: 64px; }
.plain col.w { width: 112px; }

@media (max-width: 1080px) {
  .hooks, .hooks tbody, .hooks tr, .hooks th, .hooks td { display: block; }
  .hooks colgroup, .hooks thead { display: none; }
  .hooks tr { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px 12px; padding: 14px 0; border-top: 1px solid var(--line); }
  .hooks th, .hooks td { border: 0; padding: 0; text-align: left; }
  .hooks th { grid-column: 1 / 4; }
  .hooks td.c-state { grid-column: 4; text-align: right; }
  .hooks td.c-spark { grid-column: 1 / -1; }
  .spark { max-width: none; }
  .hooks td[data-label]::before { content: attr(data-label); display: block; color: var(--muted); font-size: 12px; }
}
@media (max-width: 600px) {
  body { font-size: 14px; }
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 20px; }
  h1 { font-size: 21px; }
  h1 .icon { width: 21px; height: 21px; }
  .card { padding: 14px; margin: 12px 0; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; margin: 12px 0; }
  .tiles div { padding: 10px 12px; }
  .tiles div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .tiles dd.figure { font-size: 21px; }
  .chart { height: 120px; }
  .hooks tr { gap: 8px; }
  .hooks td small { font-size: 12px; line-height: 1.35; }
  .hooks th { grid-column: 1 / -1; }
  .hooks td.c-state { grid-column: 1 / -1; text-align: left; }
  .plain, .plain tbody, .plain tr, .plain th, .plain td { display: block; }
  .plain colgroup, .plain thead { display: none; }
  .plain tr { padding: 10px 0; border-top: 1px solid var(--line); }
  .plain tr:first-child { border-top: 0; padding-top: 0; }
  .plain th, .plain td { border: 0; padding: 0 0 2px; text-align: left; }
  .plain td { display: inline-block; max-width: 100%%; margin-right: 14px; }
  .plain td[data-label]::before { content: attr(data-label) ": "; color: var(--muted); }
  .plain td small { display: inline; }
}
@media print { body { background: none; } .card, .tiles div { break-inside: avoid; } }
</style>
</head>
<body>
<svg width="0" height="0" style="position:absolute" aria-hidden="true">
<defs>
<symbol id="i-healthy" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7.2" fill="currentColor"/><path d="M4.7 8.3l2.3 2.3 4.3-4.9" fill="none" stroke="var(--card)" stroke-width="1.8"/></symbol>
<symbol id="i-degraded" viewBox="0 0 16 16"><path d="M8 1.2l7.3 13.4H.7z" fill="currentColor"/><path d="M8 6v4.2m0 1.2v1.8" fill="none" stroke="var(--card)" stroke-width="1.7"/></symbol>
<symbol id="i-failing" viewBox="0 0 16 16"><path d="M5 .8h6L15.2 5v6L11 15.2H5L.8 11V5z" fill="currentColor"/><path d="M5.3 5.3l5.4 5.4m0-5.4l-5.4 5.4" fill="none" stroke="var(--card)" stroke-width="1.8"/></symbol>
<symbol id="i-paused" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7.2" fill="currentColor"/><path d="M6 5v6m4-6v6" fill="none" stroke="var(--card)" stroke-width="1.8"/></symbol>
<symbol id="i-disabled" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.7"/><path d="M3.6 12.4l8.8-8.8" fill="none" stroke="currentColor" stroke-width="1.7"/></symbol>
<symbol id="i-idle" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.7"/></symbol>
</defs>
</svg>
$html$, chatwebhook._dashboard_text(current_database()))
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_head() IS
    'The beginning of the page: its style, and the shapes of the states. The policy in it forbids scripts and whatever is from elsewhere, should anything slip through.';

/*
 * What stands in the way of sending, and what to do about it.
 */
CREATE FUNCTION chatwebhook._dashboard_notices(webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    blocked text;
    next    text;
BEGIN
    -- a tenant can do nothing about the server
    IF chatwebhook._chatbots() IS NULL THEN
        blocked := CASE
            WHEN pg_is_in_recovery() THEN
                '<h3>This is a standby</h3><p>The primary sends; here nothing is.</p>'
            WHEN NOT EXISTS (SELECT FROM chatwebhook._all_workers())
                 AND strpos((SELECT s.setting FROM pg_settings s WHERE s.name = 'shared_preload_libraries'), 'chatwebhook') = 0
            THEN '<h3>The library is not loaded</h3>'
                 '<p>Events are queued, but nothing is sent. Add this to <code>postgresql.conf</code>, and restart the server:</p>'
                 '<pre><code>shared_preload_libraries = ''chatwebhook''</code></pre>'
            WHEN NOT current_setting('chatwebhook.enabled')::boolean THEN
                '<h3>Sending is switched off</h3>'
                '<p><code>chatwebhook.enabled</code> is off: events are queued, but nothing is sent. To go on:</p>'
                '<pre><code>ALTER SYSTEM SET chatwebhook.enabled = on;' || E'\n' || 'SELECT pg_reload_conf();</code></pre>'
            WHEN NOT EXISTS (SELECT FROM chatwebhook._all_workers()) THEN
                '<h3>No worker is running in this database</h3>'
                '<p>Events are queued, but nothing is sent. A worker starts within seconds, unless '
                '<code>chatwebhook.databases</code> leaves this database out or '
                '<code>max_worker_processes</code> has no room for it; the server&#39;s log says which.</p>'
        END;
    END IF;

    IF coalesce(cardinality(webhooks), 0) = 0 THEN
        next := '<h3>There are no webhooks yet</h3><p>Create one, and emit events from your tables:</p><pre><code>'
            || chatwebhook._dashboard_text('SELECT * FROM chatwebhook.create_webhook(') || E'\n'
            || chatwebhook._dashboard_text('    name => ''crm'', url => ''https://crm.example.com/hook'', events => ''{lead.*}''') || E');\n\n'
            || chatwebhook._dashboard_text('CREATE TRIGGER lead_captured AFTER INSERT ON lead') || E'\n'
            || chatwebhook._dashboard_text('    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit(') || E'\n'
            || chatwebhook._dashboard_text('        ''lead.captured'', ''email'', ''source=@widget'', ''conversationSummary=summary'');') || '</code></pre>';
    ELSIF blocked IS NULL
          AND NOT EXISTS (SELECT FROM unnest(webhooks) h WHERE h.total > 0 OR h.pending > 0 OR h.dead > 0) THEN
        next := '<h3>Nothing has been sent yet</h3><p>To see whether a webhook is reached, and what it answers:</p><pre><code>'
            || chatwebhook._dashboard_text(format('SELECT * FROM chatwebhook.test_webhook(%L);', webhooks[1].webhook_id))
            || '</code></pre>';
    END IF;

    RETURN coalesce('<section class="card notice bad">' || blocked || E'</section>\n', '')
        || coalesce('<section class="card notice">' || next || E'</section>\n', '');
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_notices(chatwebhook.webhook_health[]) IS
    'What to do next: where nothing can be sent, and where there is nothing to send to.';

CREATE FUNCTION chatwebhook._dashboard_tile(label text, id text, figure numeric, tone text, remark text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format(E'<div><dt>%s</dt><dd class="figure %s" id="%s">%s</dd><dd class="muted">%s</dd></div>\n',
                  label, CASE WHEN figure > 0 THEN tone END, id,
                  chatwebhook._dashboard_number(figure), coalesce(remark, '&#160;'))
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_tile(text, text, numeric, text, text) IS 'One of the figures at the top.';

/*
 * Attempts of the last twelve hours, in steps of ten minutes.  What succeeded
 * stands on the line, what failed hangs from it.
 */
CREATE FUNCTION chatwebhook._dashboard_activity(OUT step integer, OUT since timestamptz,
    OUT succeeded numeric, OUT failed numeric, OUT given_up numeric)
    RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.step, to_timestamp(n * 600), coalesce(sum(a.succeeded), 0),
           coalesce(sum(a.failed), 0), coalesce(sum(a.given_up), 0)
      FROM (SELECT g, floor(extract(epoch FROM statement_timestamp()) / 600) - 71 + g
              FROM generate_series(0, 71) g) AS s(step, n)
      LEFT JOIN chatwebhook.activity a
             ON a.since >= to_timestamp(n * 600) AND a.since < to_timestamp((n + 1) * 600)
     GROUP BY s.step, n
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_activity() IS
    'The last 72 steps of ten minutes, those without activity too.';

CREATE FUNCTION chatwebhook._dashboard_throughput() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    WITH activity AS MATERIALIZED (
        SELECT * FROM chatwebhook._dashboard_activity()
    ), sums AS (
        SELECT sum(succeeded) AS succeeded, sum(failed) AS failed, sum(given_up) AS given_up,
               max(succeeded) AS most,
               greatest(max(succeeded) / 100, max(failed) / 40, 0.01) AS unit
          FROM activity
    ), depth AS (
        SELECT 106 + round(greatest((SELECT max(failed) FROM activity) / unit, 6)) AS foot FROM sums
    ), bars AS (
        SELECT string_agg(format('M%s 104v-%s', step * 10 + 5, round(greatest(a.succeeded / s.unit, 2), 1)), '' ORDER BY step)
                   FILTER (WHERE a.succeeded > 0) AS up,
               string_agg(format('M%s 106v%s', step * 10 + 5, round(greatest(a.failed / s.unit, 2), 1)), '' ORDER BY step)
                   FILTER (WHERE a.failed > 0) AS down,
               string_agg(format('M%s %sv3', step * 10 + 5, foot + 4), '' ORDER BY step)
                   FILTER (WHERE a.given_up > 0) AS marks,
               string_agg(format('<rect x="%s" y="0" width="10" height="%s"><title>%s: %s succeeded, %s failed, %s given up</title></rect>',
                                 step * 10, foot + 8, chatwebhook._dashboard_text(to_char(since, 'HH24:MI TZ')),
                                 chatwebhook._dashboard_number(a.succeeded), chatwebhook._dashboard_number(a.failed),
                                 chatwebhook._dashboard_number(a.given_up)), '' ORDER BY step) AS hints
          FROM activity a, sums s, depth
    ), hours AS (
        SELECT string_agg(format(E'<tr role="row"><th role="rowheader" scope="row">%s</th><td role="cell" class="n" data-label="Succeeded">%s</td><td role="cell" class="n" data-label="Failed">%s</td><td role="cell" class="n" data-label="Given up">%s</td></tr>\n',
                                 chatwebhook._dashboard_text(to_char(since, 'YYYY-MM-DD HH24:MI TZ')),
                                 chatwebhook._dashboard_number(succeeded), chatwebhook._dashboard_number(failed),
                                 chatwebhook._dashboard_number(given_up)), '' ORDER BY since DESC) AS list
          FROM (SELECT min(since), sum(succeeded), sum(failed), sum(given_up)
                  FROM activity GROUP BY step / 6) AS h(since, succeeded, failed, given_up)
    ), axis AS (
        SELECT string_agg(format('<span>%s</span>', chatwebhook._dashboard_text(to_char(since, 'HH24:MI'))), '' ORDER BY step) AS labels
          FROM activity WHERE step % 18 = 0
    )
    SELECT format($html$<section class="card" aria-labelledby="h-throughput">
<h2 id="h-throughput">Attempts in the last 12 hours</h2>
<ul class="legend">
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path d="M6 12V2"/></svg><b id="succeeded">%s</b> succeeded</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="f" d="M6 0V7"/></svg><b id="failed">%s</b> failed, below the line</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="g" d="M2 10.5H10"/></svg><b id="given_up">%s</b> given up, marked at the foot</li>
<li>most in ten minutes: <b>%s</b></li>
</ul>
<svg class="chart" viewBox="0 0 720 %s" preserveAspectRatio="none" role="img" aria-label="%s succeeded, %s failed, %s given up; the figures are in the table below">
<line x1="0" y1="105" x2="720" y2="105"/>
<path d="%s"/><path class="f" d="%s"/><path class="g" d="%s"/>
%s
</svg>
<div class="axis" aria-hidden="true">%s<span>now</span></div>
<details><summary>Figures by the hour</summary>
<table class="plain" role="table"><caption class="hidden">Attempts by the hour, newest first</caption>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">From</th><th role="columnheader" scope="col" class="n">Succeeded</th><th role="columnheader" scope="col" class="n">Failed</th><th role="columnheader" scope="col" class="n">Given up</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table></details>
</section>
$html$,
           chatwebhook._dashboard_number(s.succeeded), chatwebhook._dashboard_number(s.failed),
           chatwebhook._dashboard_number(s.given_up), chatwebhook._dashboard_number(s.most), foot + 8,
           chatwebhook._dashboard_number(s.succeeded), chatwebhook._dashboard_number(s.failed),
           chatwebhook._dashboard_number(s.given_up),
           b.up, b.down, b.marks, b.hints, axis.labels, hours.list)
      FROM sums s, depth, bars b, hours, axis
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_throughput() IS
    'The attempts of the last hours, as a chart and as a table.';

/*
 * The webhooks, worst first.
 */
CREATE FUNCTION chatwebhook._dashboard_sparkline(recent integer[]) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unit float8;
    a    record;
    said text;
BEGIN
    SELECT sqrt(greatest(max(latency), 1)) / 21 INTO unit FROM unnest(recent[1:100]) AS latency;
    SELECT count(*) FILTER (WHERE latency >= 0) AS succeeded, count(*) FILTER (WHERE latency < 0) AS failed,
           min(ms) AS least, max(ms) AS most,
           string_agg('M' || 201 - 2 * n || ' 23v-' || ceil(sqrt(ms) / unit + 0.5), '')
               FILTER (WHERE latency >= 0) AS up,
           string_agg('M' || 201 - 2 * n || ' 25v8', '') FILTER (WHERE latency < 0) AS down
      INTO a
      FROM unnest(recent[1:100]) WITH ORDINALITY AS r(latency, n),
           LATERAL (SELECT CASE WHEN latency >= 0 THEN latency ELSE -1 - latency END) AS x(ms);
    IF a.least IS NULL THEN
        RETURN '<span class="muted">no attempts yet</span>';
    END IF;
    said := format('The last %s, newest at the right: %s succeeded, %s failed; %s to %s',
                   chatwebhook._dashboard_count(a.succeeded + a.failed, 'attempt', 'attempts'),
                   a.succeeded, a.failed, chatwebhook._dashboard_ms(a.least), chatwebhook._dashboard_ms(a.most));
    RETURN format('<svg class="spark" viewBox="0 0 200 34" preserveAspectRatio="none" role="img" aria-label="%1$s"><title>%1$s</title>'
                  '<line x1="0" y1="24" x2="200" y2="24"/><path d="%2$s"/><path class="f" d="%3$s"/></svg>',
                  said, a.up, a.down);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_sparkline(integer[]) IS
    'The last 100 attempts: those that succeeded stand on the line, as high as the root of their latency; those that failed hang from it.';

CREATE FUNCTION chatwebhook._dashboard_row(h chatwebhook.webhook_health, recent integer[], disabled_reason text) RETURNS text
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
        '<span class="error">Disabled: ' || chatwebhook._dashboard_cut(disabled_reason, 300) || '</span>',
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
COMMENT ON FUNCTION chatwebhook._dashboard_row(chatwebhook.webhook_health, integer[], text) IS
    'One webhook: a row of the table, or a card where that is too wide.';

CREATE FUNCTION chatwebhook._dashboard_hooks(rows text, caption text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format($html$<table class="hooks" role="table"><caption class="hidden">%s</caption>
<colgroup><col/><col class="c-state"/><col class="c-spark"/><col class="c-rate"/><col class="c-ms"/><col class="c-wait"/><col class="c-dead"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Webhook</th><th role="columnheader" scope="col">State</th><th role="columnheader" scope="col">Last 100 attempts</th><th role="columnheader" scope="col" class="n">Succeeded</th><th role="columnheader" scope="col" class="n">Latency</th><th role="columnheader" scope="col" class="n">Pending</th><th role="columnheader" scope="col" class="n">Dead</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
$html$, caption, rows)
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_hooks(text, text) IS 'A table of webhooks.';

CREATE FUNCTION chatwebhook._dashboard_webhooks(webhooks chatwebhook.webhook_health[], troubled uuid[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    WITH hook AS MATERIALIZED (
        SELECT u.h, (u.h).state AS state, (u.h).webhook_id = ANY (troubled) AS bad,
               row_number() OVER (
                   ORDER BY (u.h).webhook_id = ANY (troubled) DESC,
                            array_position('{failing,disabled,degraded,paused,healthy,idle}'::text[],
                                CASE WHEN (u.h).state = 'disabled' AND NOT (u.h).webhook_id = ANY (troubled) THEN 'idle'
                                     ELSE (u.h).state END),
                            (u.h).success_rate, (u.h).pending DESC, (u.h).name, (u.h).webhook_id) AS place
          FROM (SELECT h FROM unnest(webhooks) AS h) u
    ), placed AS (
        SELECT CASE WHEN NOT bad THEN 3 WHEN place > 25 THEN 2 ELSE 1 END AS part,
               count(*) AS size,
               string_agg(chatwebhook._dashboard_row(h, e.recent, CASE WHEN state = 'disabled' THEN w.disabled_reason END), ''
                          ORDER BY place) AS rows
          FROM hook
          LEFT JOIN chatwebhook.health e ON e.webhook_id = (h).webhook_id
          LEFT JOIN chatwebhook.webhook w ON w.id = (h).webhook_id
         GROUP BY 1
    ), calm AS (
        SELECT string_agg(chatwebhook._dashboard_number(n) || ' ' || state, ', ' ORDER BY n DESC, state) AS states
          FROM (SELECT state, count(*) FROM hook WHERE NOT bad GROUP BY state) AS s(state, n)
    )
    SELECT E'<section class="card" aria-labelledby="h-webhooks">\n<h2 id="h-webhooks">Webhooks</h2>\n'
        || string_agg(CASE part
               WHEN 1 THEN chatwebhook._dashboard_hooks(rows, 'Webhooks that need attention, worst first')
               WHEN 2 THEN format(E'<details><summary>%s attention</summary>\n%s</details>\n',
                                  chatwebhook._dashboard_count(size, 'more needs', 'more need'),
                                  chatwebhook._dashboard_hooks(rows, 'More webhooks that need attention'))
               ELSE format(E'<details%s><summary>%s</summary>\n%s</details>\n',
                           CASE WHEN cardinality(webhooks) <= 12 THEN ' open="open"' END,
                           CASE WHEN cardinality(troubled) = 0 THEN 'All webhooks: ' ELSE 'The others: ' END || calm.states,
                           chatwebhook._dashboard_hooks(rows, 'Webhooks that need no attention'))
               END, '' ORDER BY part)
        || E'</section>\n'
      FROM placed, calm
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_webhooks(chatwebhook.webhook_health[], uuid[]) IS
    'The webhooks: those that need attention, worst first, and the others, folded where they are many.';

CREATE FUNCTION chatwebhook._dashboard_backlog(webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    WITH longest AS (
        SELECT h.*, count(*) OVER () AS hooks
          FROM unnest(webhooks) h WHERE h.pending > 0
         ORDER BY h.pending DESC, h.oldest_pending_at, h.webhook_id LIMIT 5
    )
    SELECT format($html$<section class="card" aria-labelledby="h-backlog">
<h2 id="h-backlog">Backlog</h2>
<table class="plain" role="table"><caption class="hidden">The webhooks with the most pending deliveries</caption>
<colgroup><col/><col class="w"/><col class="w"/><col class="w"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Waiting for</th><th role="columnheader" scope="col" class="n">Pending</th><th role="columnheader" scope="col" class="n">In flight</th><th role="columnheader" scope="col" class="n">Oldest</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
%s</section>
$html$,
            string_agg(format(E'<tr role="row"><th role="rowheader" scope="row"><a href="#w-%s">%s</a></th><td role="cell" class="n" data-label="Pending">%s</td><td role="cell" class="n" data-label="In flight">%s</td><td role="cell" class="n" data-label="Oldest">%s</td></tr>\n',
                              webhook_id, chatwebhook._dashboard_name(name), chatwebhook._dashboard_number(pending),
                              chatwebhook._dashboard_number(in_flight), chatwebhook._dashboard_age(oldest_pending_at)), ''
                       ORDER BY pending DESC, oldest_pending_at, webhook_id),
            '<p class="muted">and ' || chatwebhook._dashboard_count(nullif(greatest(max(hooks) - 5, 0), 0), 'other webhook', 'other webhooks') || E'</p>\n')
      FROM longest
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_backlog(chatwebhook.webhook_health[]) IS
    'The webhooks that most is pending for; null: nothing is.';

/*
 * Reasons are counted over the newest ten thousand dead letters, so that the
 * page is quick after a bad week, too.
 */
CREATE FUNCTION chatwebhook._dashboard_dead(dead bigint) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    WITH newest AS (
        SELECT d.webhook_id, d.webhook_name, d.last_error, d.completed_at
          FROM chatwebhook.dead d
         WHERE (SELECT chatwebhook._chatbots()) IS NULL
            OR d.chatbot_id = ANY ((SELECT chatwebhook._chatbots())::text[])
               AND d.webhook_id = ANY ((SELECT chatwebhook._webhooks())::uuid[])
         ORDER BY d.id DESC LIMIT 10000
    ), reason AS (
        SELECT last_error, sum(n)::bigint AS n, max(newest) AS newest, count(*) AS hooks,
               (array_agg(webhook_name ORDER BY n DESC, webhook_name))[1:3] AS names
          FROM (SELECT last_error, webhook_id, max(webhook_name), count(*), max(completed_at)
                  FROM newest GROUP BY last_error, webhook_id) AS g(last_error, webhook_id, webhook_name, n, newest)
         GROUP BY last_error
    ), listed AS (
        SELECT r.*, count(*) OVER () AS reasons, sum(r.n) OVER () AS counted
          FROM reason r ORDER BY r.n DESC, r.newest DESC, r.last_error LIMIT 10
    )
    SELECT format($html$<section class="card" aria-labelledby="h-dead">
<h2 id="h-dead">Dead letters by reason</h2>
<table class="plain" role="table"><caption class="hidden">Why deliveries were given up, most frequent first</caption>
<colgroup><col/><col style="width:30%%"/><col class="w"/><col class="w"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Reason</th><th role="columnheader" scope="col">Webhooks</th><th role="columnheader" scope="col" class="n">Dead letters</th><th role="columnheader" scope="col" class="n">Newest</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
<p class="muted">%s%sThe view <code>chatwebhook.dead_letter</code> has them with their events; <code>chatwebhook.retry(id)</code> gives one another chance.</p>
</section>
$html$,
            string_agg(format(E'<tr role="row"><th role="rowheader" scope="row">%s</th><td role="cell" data-label="Webhooks">%s%s</td><td role="cell" class="n" data-label="Dead letters">%s</td><td role="cell" class="n" data-label="Newest">%s ago</td></tr>\n',
                              coalesce('<bdi>' || chatwebhook._dashboard_cut(last_error, 300) || '</bdi>', '<i>none was kept</i>'),
                              (SELECT string_agg(chatwebhook._dashboard_name(name), ', ' ORDER BY place)
                                 FROM unnest(names) WITH ORDINALITY AS u(name, place)),
                              ' and ' || chatwebhook._dashboard_number(nullif(greatest(hooks - 3, 0), 0)) || ' more',
                              chatwebhook._dashboard_number(n), chatwebhook._dashboard_age(newest)), ''
                       ORDER BY n DESC, newest DESC, last_error),
            'The most frequent ten of ' || CASE WHEN max(reasons) > 10 THEN chatwebhook._dashboard_number(max(reasons)) END || ' reasons. ',
            'Of ' || CASE WHEN dead > max(counted) THEN chatwebhook._dashboard_number(dead) END
                || ' dead letters, the newest ' || chatwebhook._dashboard_number(max(counted)) || ' are counted here. ')
      FROM listed
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_dead(bigint) IS
    'The dead letters, grouped by reason; null: there are none.';

CREATE FUNCTION chatwebhook._dashboard_alerts(alerts chatwebhook.alert[], webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    WITH alert AS (
        SELECT row_number() OVER (ORDER BY a.opened_at DESC, a.id) AS place,
               format(E'<li>%s<div><b>%s</b>: %s<br/>%s <span class="muted">since %s</span></div></li>\n',
                      chatwebhook._dashboard_icon('failing'),
                      CASE a.kind WHEN 'consecutive_failures' THEN 'Failures in a row'
                                  WHEN 'low_success_rate' THEN 'Low success rate'
                                  WHEN 'webhook_disabled' THEN 'Disabled'
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
COMMENT ON FUNCTION chatwebhook._dashboard_alerts(chatwebhook.alert[], chatwebhook.webhook_health[]) IS
    'The open alerts, newest first; null: there are none.';

CREATE FUNCTION chatwebhook._dashboard_workers() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format($html$<section class="card" aria-labelledby="h-workers">
<h2 id="h-workers">Workers</h2>
<table class="plain" role="table"><caption class="hidden">The workers of this database</caption>
<colgroup><col/><col class="w"/><col class="w"/><col class="w"/><col class="w"/><col class="w"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Process</th><th role="columnheader" scope="col" class="n">Started</th><th role="columnheader" scope="col" class="n">In flight</th><th role="columnheader" scope="col" class="n">Succeeded</th><th role="columnheader" scope="col" class="n">Failed</th><th role="columnheader" scope="col" class="n">Last active</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
%s</section>
$html$,
            string_agg(format(E'<tr role="row"><th role="rowheader" scope="row"><b>%s</b>%s</th><td role="cell" class="n" data-label="Started">%s</td><td role="cell" class="n" data-label="In flight">%s</td><td role="cell" class="n" data-label="Succeeded">%s</td><td role="cell" class="n" data-label="Failed">%s</td><td role="cell" class="n" data-label="Last active">%s</td></tr>\n',
                              pid, '<span class="error bad"><bdi>' || chatwebhook._dashboard_cut(last_error, 300) || '</bdi></span>',
                              chatwebhook._dashboard_age(started_at) || ' ago', chatwebhook._dashboard_number(in_flight),
                              chatwebhook._dashboard_number(delivered), chatwebhook._dashboard_number(failed),
                              CASE WHEN last_activity_at IS NULL THEN 'never' ELSE chatwebhook._dashboard_age(last_activity_at) || ' ago' END), ''
                       ORDER BY started_at, pid),
            CASE WHEN bool_or(secrets_encrypted IS NULL)
                 THEN E'<p class="bad">The key file of <code>chatwebhook.secret_key_file</code> is unusable.</p>\n' END)
      FROM chatwebhook.worker_status
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_workers() IS
    'The workers; null: there are none, or they are not for this role to see.';

CREATE FUNCTION chatwebhook.dashboard() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
DECLARE
    everything constant boolean := chatwebhook._chatbots() IS NULL;
    webhooks   chatwebhook.webhook_health[];
    alerts     chatwebhook.alert[];
    troubled   uuid[];
    notices    text;
    sent       record;
    sums       record;
    headline   text;
    tiles      text;
BEGIN
    SELECT coalesce(array_agg(h), '{}') INTO webhooks FROM chatwebhook.webhook_health h;
    SELECT coalesce(array_agg(a), '{}') INTO alerts
      FROM chatwebhook.alert a
     WHERE a.closed_at IS NULL AND (everything OR a.chatbot_id = ANY (chatwebhook._chatbots()));
    SELECT coalesce(array_agg(h.webhook_id), '{}') INTO troubled
      FROM unnest(webhooks) h
     WHERE h.state IN ('failing', 'degraded')
        OR EXISTS (SELECT FROM unnest(alerts) a WHERE a.webhook_id = h.webhook_id);
    SELECT count(*) AS hooks, coalesce(sum(h.pending), 0) AS pending, coalesce(sum(h.in_flight), 0) AS in_flight,
           min(h.oldest_pending_at) AS oldest, coalesce(sum(h.dead), 0) AS dead,
           count(*) FILTER (WHERE h.dead > 0) AS dead_hooks
      INTO sums FROM unnest(webhooks) h;
    notices := chatwebhook._dashboard_notices(webhooks);

    headline := CASE
        WHEN notices LIKE '%class="card notice bad"%' THEN
            '<h1><span class="bad">' || chatwebhook._dashboard_icon('failing') || '</span>Nothing is being sent</h1>'
        WHEN sums.hooks = 0 THEN
            '<h1><span class="idle">' || chatwebhook._dashboard_icon('idle') || '</span>No webhooks yet</h1>'
        WHEN cardinality(troubled) > 0 THEN
            format('<h1><span class="%s">%s</span>%s of %s attention</h1>',
                   CASE WHEN EXISTS (SELECT FROM unnest(webhooks) h WHERE h.state = 'failing') THEN 'failing' ELSE 'degraded' END,
                   chatwebhook._dashboard_icon(CASE WHEN EXISTS (SELECT FROM unnest(webhooks) h WHERE h.state = 'failing') THEN 'failing' ELSE 'degraded' END),
                   chatwebhook._dashboard_number(cardinality(troubled)),
                   chatwebhook._dashboard_count(sums.hooks, 'webhook', 'webhooks')
                   || CASE cardinality(troubled) WHEN 1 THEN ' needs' ELSE ' need' END)
        ELSE '<h1><span class="healthy">' || chatwebhook._dashboard_icon('healthy') || '</span>No webhook needs attention</h1>'
    END;

    SELECT sum(a.succeeded) AS succeeded, sum(a.failed) AS failed, sum(a.given_up) AS given_up
      INTO sent FROM chatwebhook._dashboard_activity() a WHERE everything;
    IF everything THEN
        tiles := chatwebhook._dashboard_tile('Succeeded', 't-succeeded', sent.succeeded, NULL, 'in 12 hours')
              || chatwebhook._dashboard_tile('Failed attempts', 't-failed', sent.failed, 'warn', 'in 12 hours');
    END IF;
    tiles := concat(tiles,
        chatwebhook._dashboard_tile('Pending', 'pending', sums.pending, NULL,
            CASE WHEN sums.pending > 0 THEN 'oldest ' || chatwebhook._dashboard_age(sums.oldest) ELSE 'nothing is waiting' END),
        chatwebhook._dashboard_tile('Dead letters', 'dead', sums.dead, 'bad',
            CASE WHEN sums.dead > 0 THEN 'of ' || chatwebhook._dashboard_count(sums.dead_hooks, 'webhook', 'webhooks') ELSE 'none was given up' END),
        chatwebhook._dashboard_tile('Open alerts', 'alerts', cardinality(alerts), 'bad',
            CASE WHEN cardinality(alerts) > 0 THEN 'see below' ELSE 'all quiet' END));

    RETURN concat(
        chatwebhook._dashboard_head(),
        E'<header>\n<div class="over">chatwebhook &#183; database ', chatwebhook._dashboard_name(current_database()), E'</div>\n',
        headline, E'\n<div class="muted">As of ', format('<time datetime="%s">%s</time>',
            to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            chatwebhook._dashboard_text(to_char(statement_timestamp(), 'YYYY-MM-DD HH24:MI:SS TZ'))),
        E'</div>\n</header>\n<main>\n',
        notices,
        CASE WHEN sums.hooks > 0 OR sent.succeeded + sent.failed > 0 OR cardinality(alerts) > 0 THEN concat(E'<dl class="tiles">\n', tiles, E'</dl>\n') END,
        chatwebhook._dashboard_alerts(alerts, webhooks),
        CASE WHEN everything AND (sums.hooks > 0 OR sent.succeeded + sent.failed > 0) THEN chatwebhook._dashboard_throughput() END,
        chatwebhook._dashboard_webhooks(webhooks, troubled),
        chatwebhook._dashboard_backlog(webhooks),
        chatwebhook._dashboard_dead(sums.dead::bigint),
        chatwebhook._dashboard_workers(),
        E'</main>\n<footer>Made by <code>SELECT chatwebhook.dashboard()</code>. Rates, latencies and small charts are of each webhook&#39;s last 100 attempts; the small rate is of all there ever were.</footer>\n</body>\n</html>');
END
$$;
COMMENT ON FUNCTION chatwebhook.dashboard() IS
    'The state of everything as one HTML page, without scripts: psql -Atc ''SELECT chatwebhook.dashboard()'' > status.html. A tenant''s role sees its own.';
/*
 * Discord: channel webhooks, an embed for each event.
 *
 * Text of an event stands in the embed only, where nothing pings, with its
 * markdown escaped; content is "@here" or absent.  A text that is cut behind a
 * backslash ends in an escaped ellipsis, which is an ellipsis.  The sizes below
 * keep an embed under the 6,000 characters that Discord takes in all.
 */
CREATE FUNCTION chatwebhook._discord_plain(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- Discord refuses a text of blanks alone, Unicode's among them
    SELECT CASE WHEN visible ~ '[^\s\u00A0\u1680\u180E\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uFEFF]' THEN visible END
      FROM (SELECT btrim(regexp_replace(chatwebhook.cut(value, size),
                                        '[\u0001-\u0008\u000B-\u001F\u007F]', '', 'g'), E' \t\n') AS visible) AS v
$$;
COMMENT ON FUNCTION chatwebhook._discord_plain(text, integer) IS
    'As much of the text, without control characters, where Discord knows no markdown; null if nothing is left.';

CREATE FUNCTION chatwebhook._discord_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- an escaped :// is no link
    SELECT chatwebhook.cut(regexp_replace(replace(regexp_replace(
               chatwebhook._discord_plain(value, size),
               '([\\*_~`|<>@#\[\]])', '\\\1', 'g'),
               '://', '\://'),
               '^([ \t]*)-', '\1\\-', 'gn'), size)
$$;
COMMENT ON FUNCTION chatwebhook._discord_text(text, integer) IS
    'The text with its markdown escaped, in at most that many characters; null if nothing is left.';

CREATE FUNCTION chatwebhook._discord_field(label text, value text, size integer DEFAULT 300) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('name', coalesce(chatwebhook._discord_text(label, 50), 'Value'),
                              'value', text, 'inline', size <= 300)
      FROM (SELECT CASE WHEN chatwebhook.cut(value, size) ~ '^https?://[A-Za-z0-9._~:/?#$&+,;=%-]+$'
                        THEN chatwebhook.cut(value, size)
                        ELSE chatwebhook._discord_text(value, size) END AS text) AS v
     WHERE text IS NOT NULL
$$;
COMMENT ON FUNCTION chatwebhook._discord_field(text, text, integer) IS
    'A field of an embed, inline if it is small; a plain URL stays a link. Null if there is no text.';

CREATE FUNCTION chatwebhook._discord_embed(title text, color integer, description text, VARIADIC fields jsonb[])
    RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'title', chatwebhook._discord_text(title, 256),
               'color', color,
               'description', chatwebhook._discord_text(description, 1500),
               'fields', jsonb_agg(field ORDER BY n) FILTER (WHERE field IS NOT NULL))
      FROM unnest(fields) WITH ORDINALITY AS u(field, n)
$$;
COMMENT ON FUNCTION chatwebhook._discord_embed(text, integer, text, jsonb[]) IS
    'An embed of these fields, less the null ones.';

CREATE FUNCTION chatwebhook._discord_score(score jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(score) <> 'number' THEN score #>> '{}'
                WHEN score::numeric BETWEEN 0 AND 1 THEN round(score::numeric * 100) || '% negative'
                ELSE score #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._discord_score(jsonb) IS 'A score from 0 to 1 as a percentage, anything else as it is.';

CREATE FUNCTION chatwebhook._discord_amount(amount jsonb, currency text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(amount) <> 'number' THEN amount #>> '{}'
                WHEN abs(amount::numeric) < 1e12
                THEN coalesce(currency, '$') || rtrim(to_char(amount::numeric, 'FM999,999,999,990.99'), '.')
                ELSE amount #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._discord_amount(jsonb, text) IS
    'A number as money, with commas between thousands; anything else as it is.';

CREATE FUNCTION chatwebhook.discord(event jsonb, webhook jsonb, replies jsonb)
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
                             FROM '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$') AS sent_at,
                   concat_ws(', ', 'Chatbot: ' || chatwebhook._discord_plain(event->>'chatbotId', 100),
                                   'Conversation: ' || chatwebhook._discord_plain(event->>'conversationId', 100))
                       AS footer) AS e
     WHERE jsonb_array_length(replies) = 0
$$;
COMMENT ON FUNCTION chatwebhook.discord(jsonb, jsonb, jsonb) IS
    'Connector: an embed through a Discord channel webhook. Settings: username and avatar_url, shown instead of the webhook''s own (none: its own); mention_here, true to put @here before sales opportunities (false); currency, put before the estimated value ($).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('discord', 'chatwebhook.discord(jsonb,jsonb,jsonb)',
     'An embed in a Discord channel, through its webhook.',
     '[{"status": 429, "means": "retry", "wait": "retry_after"},
       {"status": 404, "contains": "10015", "means": "disable"},
       {"status": 401, "contains": "50027", "means": "disable"}]', true);
/*
 * HubSpot: a lead becomes a contact with a note and, if settings.deal says so, a
 * deal; a sales opportunity becomes a deal.
 */
CREATE FUNCTION chatwebhook._hubspot_line(source jsonb, key text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(source->key) IN ('string', 'number', 'boolean') THEN
               chatwebhook.cut(nullif(btrim(regexp_replace(source->>key, '[[:space:][:cntrl:]]+', ' ', 'g')), ''), 255)
           END
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_line(jsonb, text) IS
    'The text, number or boolean of this key as a line of at most 255 characters; null if there is none.';

CREATE FUNCTION chatwebhook._hubspot_html(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    -- what the cut leaves of an entity or a tag goes too
    SELECT regexp_replace(
               chatwebhook.cut(
                   replace(replace(replace(replace(replace(
                       regexp_replace(replace(replace(btrim(value, E' \t\r\n'), E'\r\n', E'\n'), E'\r', E'\n'), E'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g'),
                       '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), E'\n', '<br>'),
                   size),
               '[&<][a-z]{0,4}([^a-z&<>;]{1,3})$', E'\\1')
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_html(text, integer) IS
    'A text as HTML of at most that many characters, markup escaped and its lines kept.';

CREATE FUNCTION chatwebhook._hubspot_contact(data jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
               'firstname', nullif(split_part(n.name, ' ', 1), ''),
               'lastname', nullif(substr(n.name, strpos(n.name || ' ', ' ') + 1), ''),
               'phone', chatwebhook._hubspot_line(data, 'phone'),
               'company', chatwebhook._hubspot_line(data, 'company'),
               'lifecyclestage', CASE WHEN settings ? 'lifecyclestage' THEN chatwebhook._hubspot_line(settings, 'lifecyclestage') ELSE 'lead' END,
               'hs_lead_status', CASE WHEN settings ? 'hs_lead_status' THEN chatwebhook._hubspot_line(settings, 'hs_lead_status') ELSE 'NEW' END))
      FROM (SELECT COALESCE(chatwebhook._hubspot_line(data, 'name'), chatwebhook._hubspot_line(data, 'visitorName')) AS name) AS n
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_contact(jsonb, jsonb) IS
    'What a contact gets from an event''s data: the name, split at its first blank, phone, company, stage and status.';

CREATE FUNCTION chatwebhook._hubspot_new(properties jsonb, id_property text, event_id text, contact_id text, association integer) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'properties', jsonb_strip_nulls(properties)
                   || CASE WHEN id_property IS NULL OR event_id IS NULL THEN '{}' ELSE jsonb_build_object(id_property, event_id) END)
           || CASE WHEN contact_id IS NULL THEN '{}' ELSE jsonb_build_object(
               'associations', jsonb_build_array(jsonb_build_object(
                   'to', jsonb_build_object('id', contact_id),
                   'types', jsonb_build_array(jsonb_build_object(
                       'associationCategory', 'HUBSPOT_DEFINED',
                       'associationTypeId', association))))) END
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_new(jsonb, text, text, text, integer) IS
    'The body that creates a note or a deal, with the event''s id in a property of its own if there is one, and associated with a contact if that is known.';

CREATE FUNCTION chatwebhook._hubspot_note(event jsonb) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'hs_timestamp', COALESCE(chatwebhook._hubspot_line(event, 'timestamp'),
                                        to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
               'hs_note_body', concat(
                   COALESCE('<p><strong>Chatbot conversation summary</strong></p><p>'
                                || chatwebhook._hubspot_html(nullif(event->'data'->>'conversationSummary', ''), 60000) || '</p>',
                            '<p><strong>Lead captured by the chatbot</strong></p>'),
                   '<p>Source: ' || chatwebhook._hubspot_html(chatwebhook._hubspot_line(event->'data', 'source'), 1000) || '</p>',
                   '<p>Conversation: ' || chatwebhook._hubspot_html(chatwebhook._hubspot_line(event, 'conversationId'), 1000) || '</p>',
                   '<p>Event: ' || chatwebhook._hubspot_html(chatwebhook._hubspot_line(event, 'id'), 1000) || '</p>'))
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_note(jsonb) IS
    'The properties of the note about a lead: HTML of less than 65,536 characters.';

CREATE FUNCTION chatwebhook._hubspot_deal(event jsonb, deal jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'dealname', chatwebhook.cut(concat_ws(': ',
                   COALESCE(chatwebhook._hubspot_line(deal, 'name'),
                            CASE WHEN event->>'type' = 'lead.captured' THEN 'Chatbot lead' ELSE 'Chatbot opportunity' END),
                   COALESCE(chatwebhook._hubspot_line(d.data, 'company'), chatwebhook._hubspot_line(d.data, 'name'),
                            chatwebhook._hubspot_line(d.data, 'visitorName'), chatwebhook._hubspot_line(d.data, 'email'),
                            chatwebhook._hubspot_line(d.data, 'visitorEmail'), chatwebhook._hubspot_line(d.data, 'visitorId'))), 255),
               'pipeline', COALESCE(chatwebhook._hubspot_line(deal, 'pipeline'), 'default'),
               'dealstage', COALESCE(chatwebhook._hubspot_line(deal, 'stage'), 'appointmentscheduled'),
               'amount', CASE WHEN jsonb_typeof(d.data->'estimatedValue') = 'number' THEN
                             CASE WHEN (d.data->>'estimatedValue')::numeric BETWEEN 0 AND 1e12
                                  THEN trim_scale(round((d.data->>'estimatedValue')::numeric, 2))::text END END,
               'description', nullif(concat_ws(E'\n',
                   'Intent: ' || chatwebhook.cut(d.data->>'intent', 10000),
                   'Visitor: ' || chatwebhook._hubspot_line(d.data, 'visitorId'),
                   'Source: ' || chatwebhook._hubspot_line(d.data, 'source'),
                   'Conversation: ' || chatwebhook._hubspot_line(event, 'conversationId'),
                   'Event: ' || chatwebhook._hubspot_line(event, 'id')), ''))
      FROM (SELECT event->'data' AS data) AS d
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_deal(jsonb, jsonb) IS
    'The properties of the deal for a lead or a sales opportunity.';

CREATE FUNCTION chatwebhook.hubspot(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    WITH given AS (
        SELECT event->>'type' AS type,
               webhook->'settings' AS settings,
               webhook->'settings'->'deal' AS deal,
               COALESCE(jsonb_typeof(webhook->'settings'->'deal') = 'object' OR webhook->'settings'->'deal' = 'true', false) AS wants_deal,
               COALESCE(chatwebhook._hubspot_line(event->'data', 'email'), chatwebhook._hubspot_line(event->'data', 'visitorEmail')) AS email,
               chatwebhook._hubspot_line(event, 'id') AS event_id,
               chatwebhook._hubspot_contact(event->'data', webhook->'settings') AS contact,
               rtrim(webhook->>'url', '/') || '/crm/objects/'
                   || chatwebhook.url_encode(COALESCE(chatwebhook._hubspot_line(webhook->'settings', 'api_version'), '2026-03')) AS base,
               CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END AS made,
               replies->0->'body' AS reply
    ), found AS (
        -- the contact of the first reply, or the one that its refusal names
        SELECT given.*,
               substring(reply #>> '{results,0,id}' FROM '^[0-9]{1,30}$') AS upserted,
               substring(reply::text FROM 'Existing ID: ([0-9]{1,30})') AS existing
          FROM given
    ), planned AS (
        SELECT found.*,
               COALESCE(upserted, existing) AS contact_id,
               CASE WHEN type = 'webhook.test' THEN ARRAY['test']
                    WHEN type = 'lead.captured' AND email IS NULL THEN '{}'
                    WHEN type = 'lead.captured' AND made > 0 AND COALESCE(upserted, existing) IS NULL THEN '{}'
                    WHEN type = 'lead.captured' THEN
                        array_remove(ARRAY['contact', CASE WHEN upserted IS NULL AND existing IS NOT NULL AND contact <> '{}' THEN 'update' END,
                                           'note', CASE WHEN wants_deal THEN 'deal' END], NULL)
                    WHEN type = 'sales.opportunity' AND email IS NULL THEN ARRAY['deal']
                    WHEN type = 'sales.opportunity' THEN
                        array_remove(ARRAY['contact', CASE WHEN upserted IS NULL AND existing IS NOT NULL AND contact <> '{}' THEN 'update' END,
                                           'deal'], NULL)
               END AS steps
          FROM found
    )
    SELECT CASE steps[made + 1]
           WHEN 'test' THEN
               ROW('GET', base || '/contacts?limit=1', NULL, NULL, true)::chatwebhook.request
           WHEN 'contact' THEN
               ROW('POST', base || '/contacts/batch/upsert', NULL,
                   jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('id', email, 'idProperty', 'email', 'properties', contact))),
                   false)::chatwebhook.request
           WHEN 'update' THEN
               ROW('PATCH', base || '/contacts/' || contact_id, NULL, jsonb_build_object('properties', contact), false)::chatwebhook.request
           WHEN 'note' THEN
               ROW('POST', base || '/notes', NULL,
                   chatwebhook._hubspot_new(chatwebhook._hubspot_note(event), chatwebhook._hubspot_line(settings, 'note_id_property'), event_id, contact_id, 202),
                   NOT wants_deal)::chatwebhook.request
           WHEN 'deal' THEN
               ROW('POST', base || '/deals', NULL,
                   chatwebhook._hubspot_new(chatwebhook._hubspot_deal(event, deal), chatwebhook._hubspot_line(deal, 'id_property'), event_id,
                                            CASE WHEN email IS NOT NULL THEN contact_id END, 3),
                   true)::chatwebhook.request
           END
      FROM planned
$$;
COMMENT ON FUNCTION chatwebhook.hubspot(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured: upserts the contact by e-mail, adds a note, and with settings.deal a deal; sales.opportunity: a deal, of the contact if an e-mail is known; other events: nothing. Settings: api_version (2026-03), lifecyclestage (lead) and hs_lead_status (NEW), null to leave them as they are, note_id_property (a property of notes with unique values that takes the event''s id; none), deal: true or an object of name (Chatbot lead), pipeline (default), stage (appointmentscheduled) and id_property (as for notes; none).';

/*
 * One contact is upserted, so that an error in a 207 is its own.  A 409 that
 * names the contact is one by another address of the same person.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('hubspot', 'chatwebhook.hubspot(jsonb,jsonb,jsonb)',
     'HubSpot: contacts with notes and deals, by a private app''s token or a service key.',
     '[{"status": [207, 409], "step": 1, "contains": "Existing ID: ", "means": "success"},
       {"status": 207, "step": 1, "contains": "\"errors\":[{", "means": "dead"},
       {"status": [400, 409], "contains": "CONFLICTING_UNIQUE_VALUE", "means": "success"},
       {"status": 409, "means": "retry", "wait": 1},
       {"status": 423, "means": "retry", "wait": 2},
       {"status": 477, "means": "retry", "wait": 60}]', true);
/*
 * PagerDuty: Events API v2.  The routing key is the webhook's auth of type
 * "body"; this file does not know it.
 *
 * What goes on for some time has one dedup key, so that a repeat, or a second
 * message of the same unhappy visitor, joins the incident that is open.
 */
CREATE FUNCTION chatwebhook._pagerduty_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT nullif(btrim(regexp_replace(chatwebhook.cut(value, size), '[\s\u0001-\u001F\u007F]+', ' ', 'g')), '')
$$;
COMMENT ON FUNCTION chatwebhook._pagerduty_text(text, integer) IS
    'As much of the text, on one line; null if nothing is left.';

CREATE FUNCTION chatwebhook._pagerduty_key(VARIADIC parts text[]) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN chatwebhook.cut(key, 255) = key THEN key
                ELSE 'chatwebhook/' || encode(sha256(convert_to(key, 'UTF8')), 'hex') END
      FROM (SELECT array_to_string(array_prepend('chatwebhook', parts), '/') AS key) AS k
$$;
COMMENT ON FUNCTION chatwebhook._pagerduty_key(text[]) IS
    'A dedup key made of these parts, or of their hash if they are too long for one.';

CREATE FUNCTION chatwebhook.pagerduty(event jsonb, webhook jsonb, replies jsonb)
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
                    FROM '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$'),
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
COMMENT ON FUNCTION chatwebhook.pagerduty(jsonb, jsonb, jsonb) IS
    'Connector: PagerDuty''s Events API v2. sentiment.negative (severity warning, from a score of 0.9 error), handoff.requested of urgency high (error), urgent or critical (critical; of any other nothing is sent) and an opened webhook.alert (webhook_disabled critical, low_success_rate and backlog warning, else error) trigger; a closed webhook.alert resolves what it triggered; webhook.test triggers and resolves at severity info; other events send nothing. Settings: source, the affected system (the chatbot''s id, or the webhook''s name in an alert); app_url, the address of your application, for a link to app_url/conversations/ID (none: no link).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('pagerduty', 'chatwebhook.pagerduty(jsonb,jsonb,jsonb)',
     'An incident at PagerDuty, through its Events API v2.',
     '[{"status": [429, 500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530],
        "means": "retry", "wait": 60}]', true);
/*
 * Salesforce: a lead becomes a Lead, or a Task for the Contact that has its
 * address already; a hand-off and a sales opportunity become Tasks.
 */
CREATE FUNCTION chatwebhook._salesforce_line(source jsonb, key text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(source->key) IN ('string', 'number', 'boolean') THEN
               chatwebhook.cut(nullif(btrim(regexp_replace(source->>key, '[[:space:][:cntrl:]]+', ' ', 'g')), ''), size)
           END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_line(jsonb, text, integer) IS
    'The text, number or boolean of this key as a line of at most that many characters; null if there is none.';

CREATE FUNCTION chatwebhook._salesforce_text(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT nullif(regexp_replace(replace(replace(btrim(value, E' \t\r\n'), E'\r\n', E'\n'), E'\r', E'\n'),
                                 E'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g'), '')
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_text(text) IS
    'A text with its lines, without other control characters; null if there is nothing.';

CREATE FUNCTION chatwebhook._salesforce_history(history jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(history) <> 'array' THEN chatwebhook._salesforce_text(history #>> '{}')
           ELSE (SELECT string_agg(CASE WHEN jsonb_typeof(m.message) = 'object' AND m.message ? 'content'
                                        THEN concat_ws(': ', chatwebhook._salesforce_line(m.message, 'role', 40),
                                                       chatwebhook._salesforce_text(m.message->>'content'))
                                        ELSE chatwebhook._salesforce_text(m.message #>> '{}') END,
                                   E'\n\n' ORDER BY m.place)
                   FROM jsonb_array_elements(CASE WHEN jsonb_typeof(history) = 'array' THEN history ELSE '[]' END)
                        WITH ORDINALITY AS m(message, place))
           END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_history(jsonb) IS
    'A conversation as text: of an array of {role, content} a paragraph each, of anything else what it is.';

CREATE FUNCTION chatwebhook._salesforce_literal(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT concat('''', replace(replace(value, E'\\', E'\\\\'), '''', E'\\'''), '''')
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_literal(text) IS
    'A text as a string of SOQL, in quotation marks.';

CREATE FUNCTION chatwebhook._salesforce_lead(event jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
               'FirstName', CASE WHEN strpos(p.name, ' ') > 0 THEN chatwebhook.cut(split_part(p.name, ' ', 1), 40) END,
               'LastName', COALESCE(chatwebhook.cut(substr(p.name, strpos(p.name, ' ') + 1), 80),
                                    chatwebhook._salesforce_line(settings, 'last_name', 80), 'Unknown'),
               'Company', COALESCE(chatwebhook._salesforce_line(d.data, 'company', 255),
                                   chatwebhook._salesforce_line(settings, 'company', 255), 'Unknown'),
               'Email', CASE WHEN p.is_address THEN p.email END,
               'Phone', chatwebhook._salesforce_line(d.data, 'phone', 40),
               'LeadSource', COALESCE(chatwebhook._salesforce_line(settings, 'lead_source', 40), 'Chatbot'),
               'OwnerId', chatwebhook._salesforce_line(settings, 'owner_id', 18),
               'Description', chatwebhook.cut(concat_ws(E'\n',
                   'Email: ' || CASE WHEN NOT p.is_address THEN p.email END,
                   'Source: ' || chatwebhook._salesforce_line(d.data, 'source', 255),
                   'Conversation: ' || chatwebhook._salesforce_line(event, 'conversationId', 255),
                   'Event: ' || chatwebhook._salesforce_line(event, 'id', 255),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'conversationSummary')), 32000)))
      FROM (SELECT event->'data' AS data) AS d,
           LATERAL (SELECT n.name, n.email,
                           -- the service refuses a Lead for an address that is none
                           chatwebhook.cut(n.email, 80) = n.email AND n.email ~ '^[^[:space:]@<>(),;:"]+@[^[:space:]@<>(),;:"]+[.][^[:space:]@<>(),;:".]+$' AS is_address
                      FROM (SELECT chatwebhook._salesforce_line(d.data, 'name', 255) AS name,
                                   chatwebhook._salesforce_line(d.data, 'email', 1000) AS email) AS n) AS p
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_lead(jsonb, jsonb) IS
    'The fields of a Lead: LastName and Company always, an address that is none in the Description.';

CREATE FUNCTION chatwebhook._salesforce_task(event jsonb, settings jsonb, who_id text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
               'WhoId', who_id,
               'Subject', chatwebhook.cut(concat_ws(': ',
                   CASE event->>'type' WHEN 'lead.captured' THEN 'Chatbot lead'
                                       WHEN 'handoff.requested' THEN 'Chatbot hand-off'
                                       ELSE 'Sales opportunity' END,
                   CASE event->>'type' WHEN 'lead.captured' THEN COALESCE(chatwebhook._salesforce_line(d.data, 'name', 255), chatwebhook._salesforce_line(d.data, 'email', 255))
                                       WHEN 'handoff.requested' THEN chatwebhook._salesforce_line(d.data, 'reason', 255)
                                       ELSE chatwebhook._salesforce_line(d.data, 'intent', 255) END), 255),
               'Status', COALESCE(chatwebhook._salesforce_line(settings, 'task_status', 255), 'Not Started'),
               'Priority', CASE WHEN lower(chatwebhook._salesforce_line(d.data, 'urgency', 20)) IN ('high', 'urgent', 'critical') THEN 'High'
                                WHEN lower(chatwebhook._salesforce_line(d.data, 'urgency', 20)) = 'low' THEN 'Low'
                                ELSE 'Normal' END,
               'OwnerId', chatwebhook._salesforce_line(settings, 'owner_id', 18),
               'Description', chatwebhook.cut(nullif(concat_ws(E'\n',
                   'Name: ' || COALESCE(chatwebhook._salesforce_line(d.data, 'name', 255), chatwebhook._salesforce_line(d.data, 'visitorName', 255)),
                   'Email: ' || COALESCE(chatwebhook._salesforce_line(d.data, 'email', 255), chatwebhook._salesforce_line(d.data, 'visitorEmail', 255)),
                   'Phone: ' || chatwebhook._salesforce_line(d.data, 'phone', 255),
                   'Company: ' || chatwebhook._salesforce_line(d.data, 'company', 255),
                   'Visitor: ' || chatwebhook._salesforce_line(d.data, 'visitorId', 255),
                   'Source: ' || chatwebhook._salesforce_line(d.data, 'source', 255),
                   'Urgency: ' || chatwebhook._salesforce_line(d.data, 'urgency', 255),
                   'Estimated value: ' || chatwebhook._salesforce_line(d.data, 'estimatedValue', 255),
                   'Conversation: ' || chatwebhook._salesforce_line(event, 'conversationId', 255),
                   'Event: ' || chatwebhook._salesforce_line(event, 'id', 255),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'reason'),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'intent'),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'conversationSummary'),
                   E'\n' || chatwebhook._salesforce_history(d.data->'conversationHistory')), ''), 32000)))
      FROM (SELECT event->'data' AS data) AS d
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_task(jsonb, jsonb, text) IS
    'The fields of a Task for a lead, a hand-off or a sales opportunity.';

CREATE FUNCTION chatwebhook._salesforce_write(base text, object text, field text, key text, fields jsonb) RETURNS chatwebhook.request
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- the field of the key may not be in the body
    SELECT CASE WHEN field IS NULL OR key IS NULL
                THEN ROW('POST', base || '/sobjects/' || object, NULL, fields, object = 'Task')::chatwebhook.request
                ELSE ROW('PATCH', base || '/sobjects/' || object || '/' || chatwebhook.url_encode(field) || '/' || chatwebhook.url_encode(key),
                         NULL, fields - field, true)::chatwebhook.request
           END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_write(text, text, text, text, jsonb) IS
    'The request that creates a record, or upserts it where there is a field for the event''s id.';

CREATE FUNCTION chatwebhook.salesforce(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    WITH given AS (
        SELECT event->>'type' AS type,
               webhook->'settings' AS settings,
               chatwebhook._salesforce_line(event->'data', 'email', 1000) AS email,
               chatwebhook._salesforce_line(event, 'id', 255) AS event_id,
               chatwebhook._salesforce_line(webhook->'settings', 'external_id_field', 255) AS lead_field,
               chatwebhook._salesforce_line(webhook->'settings', 'task_external_id_field', 255) AS task_field,
               rtrim(webhook->>'url', '/') || '/services/data/'
                   || chatwebhook.url_encode(COALESCE(chatwebhook._salesforce_line(webhook->'settings', 'api_version', 20), 'v68.0')) AS base,
               CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END AS made,
               substring(replies->0->'body' #>> '{records,0,Id}' FROM '^[0-9A-Za-z]{15,18}$') AS contact_id
    ), planned AS (
        SELECT given.*,
               CASE WHEN type = 'webhook.test' THEN ARRAY['test']
                    WHEN type IN ('handoff.requested', 'sales.opportunity') THEN ARRAY['task']
                    WHEN type IS DISTINCT FROM 'lead.captured' THEN '{}'
                    WHEN lead_field IS NOT NULL AND event_id IS NOT NULL THEN ARRAY['lead']
                    WHEN email IS NULL OR chatwebhook.cut(email, 80) <> email THEN ARRAY['lead', 'task']
                    WHEN contact_id IS NOT NULL THEN ARRAY['query', 'task']
                    ELSE ARRAY['query', 'lead', 'task']
               END AS steps
          FROM given
    ), known AS (
        -- whom a Task is about: the Contact that was found, else the new Lead
        SELECT planned.*,
               COALESCE(CASE WHEN steps[1] = 'query' THEN contact_id END,
                        substring(replies->(array_position(steps, 'lead') - 1)->'body'->>'id' FROM '^[0-9A-Za-z]{15,18}$')) AS who_id
          FROM planned
    )
    SELECT CASE steps[made + 1]
           WHEN 'test' THEN
               ROW('GET', base || '/query?q=' || chatwebhook.url_encode('SELECT Id FROM Lead LIMIT 1'), NULL, NULL, true)::chatwebhook.request
           WHEN 'query' THEN
               ROW('GET', base || '/query?q=' || chatwebhook.url_encode(
                       'SELECT Id FROM Contact WHERE Email = ' || chatwebhook._salesforce_literal(email) || ' LIMIT 1'),
                   NULL, NULL, false)::chatwebhook.request
           WHEN 'lead' THEN
               chatwebhook._salesforce_write(base, 'Lead', lead_field, event_id, chatwebhook._salesforce_lead(event, settings))
           WHEN 'task' THEN
               -- a Lead whose id the service did not tell has all that the Task would say
               CASE WHEN type <> 'lead.captured' OR who_id IS NOT NULL THEN
                   chatwebhook._salesforce_write(base, 'Task', task_field, event_id, chatwebhook._salesforce_task(event, settings, who_id)) END
           END
      FROM known
$$;
COMMENT ON FUNCTION chatwebhook.salesforce(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured: upserts a Lead keyed by the event if there is settings.external_id_field, else adds a Task to the Contact of that address, or creates a Lead and a Task for it; handoff.requested and sales.opportunity: a Task; other events: nothing. Settings: api_version (v68.0), external_id_field and task_external_id_field (fields that take the event''s id; none), lead_source (Chatbot), last_name and company (Unknown) where a lead has none, task_status (Not Started), owner_id (the user of the credentials).';

/*
 * 300: several records have the event's id already, so that there is nothing to
 * create.  Duplicates that the organization's rules refuse are final.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('salesforce', 'chatwebhook.salesforce(jsonb,jsonb,jsonb)',
     'Salesforce: leads and tasks, by the OAuth 2.0 client credentials of a connected app.',
     '[{"status": 300, "means": "success"},
       {"status": 403, "contains": "REQUEST_LIMIT_EXCEEDED", "means": "retry", "wait": 60},
       {"status": 400, "contains": "UNABLE_TO_LOCK_ROW", "means": "retry"},
       {"status": 400, "contains": "DUPLICATES_DETECTED", "means": "dead"}]', true);
/*
 * Slack: incoming webhooks, in Block Kit.
 *
 * Nothing that comes with an event can ping or forge a link: &, < and > are
 * escaped, and verbatim keeps Slack from looking for names in the text.  The
 * sizes below keep a message under 12,000 characters, escapes of JSON included.
 */
CREATE FUNCTION chatwebhook._slack_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- the last step removes an entity that the cut has gone through
    SELECT nullif(regexp_replace(chatwebhook.cut(replace(replace(replace(
               btrim(regexp_replace(chatwebhook.cut(value, size),
                                    '[\u0001-\u0008\u000B-\u001F\u007F]', '', 'g'), E' \t\n'),
               '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), size),
               '&[a-z]{0,3}(?![a-z;])', ''), '')
$$;
COMMENT ON FUNCTION chatwebhook._slack_text(text, integer) IS
    'The text escaped for Slack, in at most that many characters, without control characters; null if nothing is left.';

CREATE FUNCTION chatwebhook._slack_line(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT chatwebhook._slack_text(regexp_replace(chatwebhook.cut(value, size), '\s+', ' ', 'g'), size)
$$;
COMMENT ON FUNCTION chatwebhook._slack_line(text, integer) IS 'The same on one line.';

CREATE FUNCTION chatwebhook._slack_value(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN chatwebhook.cut(value, size) ~ '^https?://[!#-;=?-{}~]+$'
                 AND length(chatwebhook._slack_text(value, 6 * size)) <= size - 2
                THEN '<' || chatwebhook._slack_text(value, size) || '>'
                ELSE chatwebhook._slack_line(value, size) END
$$;
COMMENT ON FUNCTION chatwebhook._slack_value(text, integer) IS
    'A value on one line; a URL as a link that shows where it leads.';

CREATE FUNCTION chatwebhook._slack_markup(markup text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'mrkdwn', 'text', markup, 'verbatim', true)
$$;
COMMENT ON FUNCTION chatwebhook._slack_markup(text) IS 'A text object of markup that is escaped already.';

CREATE FUNCTION chatwebhook._slack_header(title text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'header', 'text',
               jsonb_build_object('type', 'plain_text', 'emoji', true,
                                  'text', chatwebhook._slack_line(title, 150)))
$$;
COMMENT ON FUNCTION chatwebhook._slack_header(text) IS 'A header block.';

CREATE FUNCTION chatwebhook._slack_section(markup text) RETURNS jsonb
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'section', 'text', chatwebhook._slack_markup(markup))
$$;
COMMENT ON FUNCTION chatwebhook._slack_section(text) IS 'A section block of markup that is escaped already; null for null.';

CREATE FUNCTION chatwebhook._slack_quote(label text, value text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT chatwebhook._slack_section('*' || label || E':*\n'
               || regexp_replace(chatwebhook.cut(
                      '>' || replace(chatwebhook._slack_text(value, 2000), E'\n', E'\n>'), 2000),
                      '&[a-z]{0,3}(?![a-z;])', ''))
$$;
COMMENT ON FUNCTION chatwebhook._slack_quote(text, text) IS
    'A section block with a label and the text quoted, line by line; null if there is no text.';

CREATE FUNCTION chatwebhook._slack_fields(labels text[], texts text[]) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'section', 'fields', fields)
      FROM (SELECT jsonb_agg(chatwebhook._slack_markup(format(E'*%s:*\n%s', label, value)) ORDER BY n) AS fields
              FROM (SELECT n, coalesce(chatwebhook._slack_line(l, 40), 'Value') AS label,
                           chatwebhook._slack_value(t, CASE WHEN cardinality(labels) > 5 THEN 200 ELSE 400 END) AS value
                      FROM unnest(labels, texts) WITH ORDINALITY AS u(l, t, n)
                     WHERE n <= 10) AS pair
             WHERE value IS NOT NULL) AS block
     WHERE fields IS NOT NULL
$$;
COMMENT ON FUNCTION chatwebhook._slack_fields(text[], text[]) IS
    'A section block with a field for each label and text that is not null, up to ten; null if there is none.';

CREATE FUNCTION chatwebhook._slack_button(label text, style text, link text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'actions', 'elements', jsonb_build_array(jsonb_strip_nulls(
               jsonb_build_object('type', 'button', 'style', style, 'url', link,
                   'text', jsonb_build_object('type', 'plain_text', 'text', label)))))
     WHERE link ~ '^https?://' AND chatwebhook.cut(link, 3000) = link
$$;
COMMENT ON FUNCTION chatwebhook._slack_button(text, text, text) IS
    'An actions block with a button; null if there is no link, or one too long for Slack.';

CREATE FUNCTION chatwebhook._slack_context(chatbot text, conversation text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'context', 'elements',
               jsonb_build_array(chatwebhook._slack_markup(line)))
      FROM (SELECT concat_ws(', ', 'Chatbot ' || chatwebhook._slack_line(chatbot, 100),
                                   'Conversation ' || chatwebhook._slack_line(conversation, 100)) AS line) AS l
     WHERE line <> ''
$$;
COMMENT ON FUNCTION chatwebhook._slack_context(text, text) IS
    'A context block that says where the event comes from; null if it does not say.';

CREATE FUNCTION chatwebhook._slack_score(score jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(score) <> 'number' THEN score #>> '{}'
                WHEN score::numeric BETWEEN 0 AND 1 THEN round(score::numeric * 100) || '% negative'
                ELSE score #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._slack_score(jsonb) IS 'A score from 0 to 1 as a percentage, anything else as it is.';

CREATE FUNCTION chatwebhook._slack_amount(amount jsonb, currency text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(amount) <> 'number' THEN amount #>> '{}'
                WHEN abs(amount::numeric) < 1e12
                THEN coalesce(currency, '$') || rtrim(to_char(amount::numeric, 'FM999,999,999,990.99'), '.')
                ELSE amount #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._slack_amount(jsonb, text) IS
    'A number as money, with commas between thousands; anything else as it is.';

CREATE FUNCTION chatwebhook._slack_message(fallback text, VARIADIC blocks jsonb[]) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'text', chatwebhook._slack_line(fallback, 200),
               'unfurl_links', false,
               'unfurl_media', false,
               'blocks', jsonb_agg(block ORDER BY n))
      FROM unnest(blocks) WITH ORDINALITY AS u(block, n)
     WHERE block IS NOT NULL
$$;
COMMENT ON FUNCTION chatwebhook._slack_message(text, jsonb[]) IS
    'A message of these blocks, less the null ones; the fallback is what notifications show.';

CREATE FUNCTION chatwebhook.slack(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, NULL, NULL, CASE
        WHEN type = 'conversation.started' THEN chatwebhook._slack_message(
            concat_ws(': ', 'New chat conversation', data->>'pageUrl'),
            chatwebhook._slack_header(':speech_balloon: New Chat Conversation'),
            chatwebhook._slack_fields('{Visitor,Page,Referrer}',
                ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'pageUrl', 'N/A'), data->>'referrer']),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'lead.captured' THEN chatwebhook._slack_message(
            concat_ws(': ', 'New lead captured', nullif(concat_ws(', ', data->>'name', data->>'email'), '')),
            chatwebhook._slack_header(':tada: New Lead Captured!'),
            chatwebhook._slack_section(format('*%s* just shared their contact info',
                coalesce(chatwebhook._slack_line(data->>'name', 200), 'Unknown'))),
            chatwebhook._slack_fields('{Email,Phone,Company,Source}',
                ARRAY[coalesce(data->>'email', 'N/A'), coalesce(data->>'phone', 'N/A'),
                      coalesce(data->>'company', 'N/A'), coalesce(data->>'source', 'N/A')]),
            chatwebhook._slack_quote('Conversation Summary', data->>'conversationSummary'),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'handoff.requested' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Human handoff requested', data->>'reason'),
            chatwebhook._slack_header(concat(
                CASE lower(left(data->>'urgency', 20))
                     WHEN 'low' THEN ':large_green_circle:'
                     WHEN 'high' THEN ':red_circle:'
                     WHEN 'urgent' THEN ':red_circle:'
                     WHEN 'critical' THEN ':red_circle:'
                     ELSE ':large_yellow_circle:' END,
                ' Human Handoff Requested')),
            chatwebhook._slack_section(mention || 'A visitor needs human assistance.'),
            chatwebhook._slack_fields('{Visitor,Email,Urgency}',
                ARRAY[data->>'visitorName', data->>'visitorEmail', data->>'urgency']),
            chatwebhook._slack_quote('Reason', coalesce(data->>'reason', 'N/A')),
            chatwebhook._slack_button('Take Over Chat', 'primary', link || '/takeover'),
            context)
        WHEN type = 'sentiment.negative' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Negative sentiment detected', data->>'message'),
            chatwebhook._slack_header(':warning: Negative Sentiment Detected'),
            chatwebhook._slack_section(mention || 'A visitor appears frustrated or unhappy.'),
            chatwebhook._slack_quote('Message', coalesce(data->>'message', 'N/A')),
            chatwebhook._slack_fields('{Sentiment Score}',
                ARRAY[chatwebhook._slack_score(data->'sentimentScore')]),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'sales.opportunity' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Sales opportunity', data->>'intent'),
            chatwebhook._slack_header(':moneybag: Sales Opportunity'),
            chatwebhook._slack_section(mention || 'Potential sale detected!'),
            chatwebhook._slack_fields('{Visitor,Est. Value}',
                ARRAY[coalesce(data->>'visitorId', 'Unknown'),
                      coalesce(chatwebhook._slack_amount(data->'estimatedValue', settings->>'currency'), 'Unknown')]),
            chatwebhook._slack_quote('Intent', coalesce(data->>'intent', 'N/A')),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'feedback.received' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Feedback received', data->>'rating'),
            chatwebhook._slack_header(':star: Feedback Received'),
            chatwebhook._slack_fields('{Rating}',
                ARRAY[CASE WHEN data->>'rating' ~ '^[1-5]$'
                           THEN concat(repeat(':star:', (data->>'rating')::integer), ' (', data->>'rating', ')')
                           ELSE coalesce(data->>'rating', 'N/A') END]),
            chatwebhook._slack_quote('Comment', data->>'comment'),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'webhook.alert' THEN chatwebhook._slack_message(
            concat_ws(': ', CASE WHEN closed THEN 'Webhook alert closed' ELSE 'Webhook alert' END, data->>'message'),
            chatwebhook._slack_header(CASE WHEN closed THEN ':white_check_mark: Webhook Alert Closed'
                                           ELSE ':rotating_light: Webhook Alert' END),
            chatwebhook._slack_section(CASE WHEN NOT closed THEN mention || 'A webhook needs attention.' END),
            chatwebhook._slack_fields('{Webhook,Kind,Opened,Closed}',
                ARRAY[coalesce(data->>'webhookName', data->>'webhookId', 'Unknown'), data->>'kind',
                      data->>'openedAt', data->>'closedAt']),
            chatwebhook._slack_quote('Message', data->>'message'))
        ELSE chatwebhook._slack_message(
            concat_ws(': ', coalesce(nullif(btrim(type), ''), 'Event'), nullif(main, '')),
            chatwebhook._slack_header(coalesce(nullif(btrim(type, E' \t\r\n'), ''), 'Event')),
            chatwebhook._slack_quote('Message', main),
            (SELECT chatwebhook._slack_fields(array_agg(f.key), array_agg(f.value))
               FROM (SELECT key, value
                       FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                      WHERE value <> '' AND key NOT IN ('content', 'message') LIMIT 10) AS f),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        END, true)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   webhook->'settings' AS settings,
                   -- what the plain form quotes: a message's text, or data that has no keys
                   CASE jsonb_typeof(event->'data')
                        WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                        ELSE event #>> '{data}' END AS main,
                   coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                            event #>> '{data,closedAt}' IS NOT NULL) AS closed,
                   CASE WHEN webhook #>> '{settings,mention}' ~ '^.{1,200}$'
                        THEN concat(webhook #>> '{settings,mention}', ' ') ELSE '' END AS mention,
                   rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                       || chatwebhook.url_encode(nullif(event->>'conversationId', '')) AS link,
                   chatwebhook._slack_context(event->>'chatbotId', event->>'conversationId') AS context) AS e
     WHERE jsonb_array_length(replies) = 0
$$;
COMMENT ON FUNCTION chatwebhook.slack(jsonb, jsonb, jsonb) IS
    'Connector: a message through a Slack incoming webhook. Settings: app_url, the address of your application (buttons lead to app_url/conversations/ID, that of a hand-off to app_url/conversations/ID/takeover; none: no buttons); mention, as Slack writes it, such as <!here> or <@U012AB3CD>, put into hand-offs, negative sentiment, sales opportunities and opened alerts (none: nobody is mentioned); currency, put before the estimated value ($).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('slack', 'chatwebhook.slack(jsonb,jsonb,jsonb)',
     'A message in a Slack channel, through an incoming webhook.',
     '[{"status": 410, "means": "disable"},
       {"status": 404, "contains": "no_service", "means": "disable"}]', true);
/*
 * Zendesk: a hand-off becomes a ticket, found again by its external_id, the
 * conversation's; how the conversation ended, and what the visitor thought of
 * it, become internal comments there.
 */
CREATE FUNCTION chatwebhook._zendesk_text(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    -- {{...}} and {%...%} in an agent's comment are placeholders, which Zendesk fills
    SELECT nullif(regexp_replace(
               regexp_replace(replace(replace(btrim(value, E' \t\r\n'), E'\r\n', E'\n'), E'\r', E'\n'),
                              E'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g'),
               '[{](?=[{%])', '{ ', 'g'), '')
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_text(text) IS
    'A text with its lines, without other control characters and placeholders; null if there is nothing.';

CREATE FUNCTION chatwebhook._zendesk_line(source jsonb, key text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(source->key) IN ('string', 'number', 'boolean') THEN
               chatwebhook.cut(nullif(btrim(regexp_replace(chatwebhook._zendesk_text(source->>key), '[[:space:][:cntrl:]]+', ' ', 'g')), ''), size)
           END
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_line(jsonb, text, integer) IS
    'The text, number or boolean of this key as a line of at most that many characters; null if there is none.';

CREATE FUNCTION chatwebhook._zendesk_history(history jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(history) <> 'array' THEN chatwebhook._zendesk_text(history #>> '{}')
           ELSE (SELECT string_agg(CASE WHEN jsonb_typeof(m.message) = 'object' AND m.message ? 'content'
                                        THEN concat_ws(': ', chatwebhook._zendesk_line(m.message, 'role', 40),
                                                       chatwebhook._zendesk_text(m.message->>'content'))
                                        ELSE chatwebhook._zendesk_text(m.message #>> '{}') END,
                                   E'\n\n' ORDER BY m.place)
                   FROM jsonb_array_elements(CASE WHEN jsonb_typeof(history) = 'array' THEN history ELSE '[]' END)
                        WITH ORDINALITY AS m(message, place))
           END
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_history(jsonb) IS
    'A conversation as text: of an array of {role, content} a paragraph each, of anything else what it is.';

CREATE FUNCTION chatwebhook._zendesk_external_id(conversation_id text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    -- a comma would make it a list of ids
    SELECT CASE WHEN conversation_id ~ '^[^,[:space:][:cntrl:]]+$' AND chatwebhook.cut(conversation_id, 255) = conversation_id
                THEN conversation_id
                ELSE encode(sha256(convert_to(conversation_id, 'UTF8')), 'hex') END
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_external_id(text) IS
    'The external_id of a conversation''s ticket: the conversation''s id, or its SHA-256 if that cannot be one.';

CREATE FUNCTION chatwebhook._zendesk_ticket(reply jsonb, external_id text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT t.ticket
      FROM jsonb_array_elements(CASE WHEN jsonb_typeof(reply->'body'->'tickets') = 'array' THEN reply->'body'->'tickets' ELSE '[]' END) AS t(ticket)
     WHERE t.ticket->>'external_id' = external_id
       AND t.ticket->>'id' ~ '^[0-9]{1,30}$'
     ORDER BY t.ticket->>'status' IS NOT DISTINCT FROM 'closed', (substring(t.ticket->>'id' FROM '^[0-9]{1,30}$'))::numeric DESC
     LIMIT 1
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_ticket(jsonb, text) IS
    'The newest ticket with this external_id in the reply to a search, an open one before a closed one; null if there is none.';

CREATE FUNCTION chatwebhook._zendesk_body(event jsonb, again boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT chatwebhook.cut(CASE event->>'type'
           WHEN 'handoff.requested' THEN
               concat_ws(E'\n',
                   CASE WHEN again THEN E'The visitor requested human assistance again.\n' ELSE E'A visitor requested human assistance.\n' END,
                   'Reason: ' || chatwebhook._zendesk_line(d.data, 'reason', 5000),
                   'Urgency: ' || chatwebhook._zendesk_line(d.data, 'urgency', 255),
                   'Visitor: ' || nullif(concat_ws(', ', chatwebhook._zendesk_line(d.data, 'visitorName', 255),
                                                   chatwebhook._zendesk_line(d.data, 'visitorEmail', 255)), ''),
                   'Conversation: ' || chatwebhook._zendesk_line(event, 'conversationId', 255),
                   'Event: ' || chatwebhook._zendesk_line(event, 'id', 255),
                   E'\n--- Conversation history ---\n' || chatwebhook._zendesk_history(d.data->'conversationHistory'))
           ELSE
               concat_ws(E'\n',
                   CASE event->>'type' WHEN 'conversation.ended' THEN E'The conversation has ended.\n' ELSE E'The visitor gave feedback.\n' END,
                   (SELECT string_agg(concat(chatwebhook.cut(chatwebhook._zendesk_text(e.key), 255), ': ', chatwebhook._zendesk_text(e.value #>> '{}')), E'\n' ORDER BY e.place)
                      FROM jsonb_each(CASE WHEN jsonb_typeof(d.data) = 'object' THEN d.data ELSE '{}' END) WITH ORDINALITY AS e(key, value, place)
                     WHERE e.value <> 'null'),
                   'Event: ' || chatwebhook._zendesk_line(event, 'id', 255))
           END, 21000)
      FROM (SELECT event->'data' AS data) AS d
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_body(jsonb, boolean) IS
    'The text of a ticket, or of a comment on it, within the 65,535 bytes that the service takes.';

CREATE FUNCTION chatwebhook._zendesk_new(event jsonb, settings jsonb, external_id text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('ticket',
               CASE WHEN jsonb_typeof(settings->'ticket') = 'object' THEN settings->'ticket' ELSE '{}' END
               || jsonb_strip_nulls(jsonb_build_object(
                   'subject', chatwebhook.cut(concat_ws(': ', COALESCE(chatwebhook._zendesk_line(settings, 'subject', 100), 'Chatbot hand-off'),
                                                        chatwebhook._zendesk_line(d.data, 'reason', 150)), 150),
                   'comment', jsonb_build_object('body', chatwebhook._zendesk_body(event, false)),
                   'external_id', external_id,
                   'priority', CASE WHEN d.urgency IN ('low', 'normal', 'high', 'urgent') THEN d.urgency
                                    WHEN d.urgency = 'critical' THEN 'urgent'
                                    WHEN d.urgency = 'medium' THEN 'normal'
                                    WHEN lower(settings->>'priority') IN ('low', 'normal', 'high', 'urgent') THEN lower(settings->>'priority')
                                    ELSE 'normal' END,
                   'requester', CASE WHEN chatwebhook.cut(d.email, 254) = d.email AND d.email ~ '^[^[:space:]@<>(),;:"]+@[^[:space:]@<>(),;:"]+[.][^[:space:]@<>(),;:".]+$' THEN
                                    jsonb_build_object('email', d.email,
                                                       'name', COALESCE(chatwebhook._zendesk_line(d.data, 'visitorName', 255), d.email)) END,
                   'tags', CASE WHEN jsonb_typeof(settings->'tags') = 'array' THEN
                               COALESCE((SELECT jsonb_agg(chatwebhook.cut(regexp_replace(lower(t.tag), '[[:space:][:cntrl:],"'']+', '_', 'g'), 80) ORDER BY t.place)
                                           FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(settings->'tags') = 'array' THEN settings->'tags' ELSE '[]' END)
                                                WITH ORDINALITY AS t(tag, place)
                                          WHERE t.tag <> ''), '[]')
                           ELSE '["chatbot", "handoff"]' END)))
      FROM (SELECT event->'data' AS data,
                   lower(chatwebhook._zendesk_line(event->'data', 'urgency', 20)) AS urgency,
                   chatwebhook._zendesk_line(event->'data', 'visitorEmail', 1000) AS email) AS d
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_new(jsonb, jsonb, text) IS
    'The ticket of a hand-off.';

CREATE FUNCTION chatwebhook.zendesk(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    WITH given AS (
        SELECT event->>'type' AS type,
               webhook->'settings' AS settings,
               nullif(event->>'id', '') AS event_id,
               chatwebhook._zendesk_external_id(nullif(event->>'conversationId', '')) AS external_id,
               rtrim(webhook->>'url', '/') || '/api/v2/tickets' AS base,
               CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END AS made
    ), found AS (
        SELECT given.*, chatwebhook._zendesk_ticket(replies->0, external_id) AS ticket
          FROM given
    ), planned AS (
        SELECT found.*,
               CASE WHEN type = 'webhook.test' THEN ARRAY['test']
                    WHEN type = 'handoff.requested' AND external_id IS NULL THEN ARRAY['ticket']
                    WHEN COALESCE(type NOT IN ('handoff.requested', 'conversation.ended', 'feedback.received'), true) OR external_id IS NULL THEN '{}'
                    -- what this event said is there already
                    WHEN strpos(ticket->>'description', 'Event: ' || event_id) > 0 THEN ARRAY['find']
                    WHEN ticket->>'status' IS DISTINCT FROM 'closed' AND ticket IS NOT NULL THEN ARRAY['find', 'comment']
                    WHEN type = 'handoff.requested' THEN ARRAY['find', 'ticket']
                    ELSE ARRAY['find']
               END AS steps
          FROM found
    )
    SELECT CASE steps[made + 1]
           WHEN 'test' THEN
               ROW('GET', base || '.json?per_page=1', NULL, NULL, true)::chatwebhook.request
           WHEN 'find' THEN
               ROW('GET', base || '.json?external_id=' || chatwebhook.url_encode(external_id), NULL, NULL, false)::chatwebhook.request
           WHEN 'comment' THEN
               ROW('PUT', base || '/' || (ticket->>'id') || '.json', NULL,
                   jsonb_build_object('ticket', jsonb_build_object(
                       'comment', jsonb_build_object('body', chatwebhook._zendesk_body(event, true), 'public', false))),
                   true)::chatwebhook.request
           WHEN 'ticket' THEN
               ROW('POST', base || '.json',
                   CASE WHEN event_id IS NOT NULL THEN jsonb_build_object('Idempotency-Key', left(chatwebhook.url_encode(event_id), 255)) END,
                   chatwebhook._zendesk_new(event, settings, external_id), true)::chatwebhook.request
           END
      FROM planned
$$;
COMMENT ON FUNCTION chatwebhook.zendesk(jsonb, jsonb, jsonb) IS
    'Connector. handoff.requested: a ticket with the conversation''s history, or an internal comment if the conversation has an open ticket already; conversation.ended and feedback.received: an internal comment on that ticket, if there is one; other events: nothing. Settings: subject (Chatbot hand-off), priority where the event has no urgency (normal), tags (["chatbot", "handoff"]), ticket: an object of further attributes, such as group_id, brand_id or custom_fields.';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('zendesk', 'chatwebhook.zendesk(jsonb,jsonb,jsonb)',
     'Zendesk: tickets, by OAuth 2.0 client credentials.',
     '[{"status": 409, "means": "retry"}]', true);
/* Not before those that come with the extension are there. */
CREATE TRIGGER check_connector BEFORE INSERT OR UPDATE OR DELETE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_connector();

/*
 * Nothing for everybody.  A trigger function runs for whoever changes a
 * watched table and needs no grant for that; everything else here reads other
 * people's chats or sends requests, and is for those whom the administrator
 * names.
 */
REVOKE ALL ON ALL TABLES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chatwebhook FROM PUBLIC;

/* What the views and policies call on behalf of whoever reads. */
GRANT EXECUTE ON FUNCTION chatwebhook._chatbots() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._webhooks() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._in_flight() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._gates() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._workers() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._encrypts() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._redact(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._alert_failures() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._alert_success_rate() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._count_pending(), chatwebhook._count_dead() TO PUBLIC;
/* What those call who write a connector of their own. */
GRANT EXECUTE ON FUNCTION chatwebhook.cut(text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook.url_encode(text) TO PUBLIC;
/* What watch() calls with its caller's rights. */
GRANT EXECUTE ON FUNCTION chatwebhook._missing_key(text, text[]) TO PUBLIC;

/* Monitoring, without anybody's chats. */
GRANT USAGE ON SCHEMA chatwebhook TO pg_monitor;
GRANT SELECT ON chatwebhook.webhook_health, chatwebhook.worker_status, chatwebhook.alert, chatwebhook.activity, chatwebhook.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION chatwebhook.metrics_text(), chatwebhook.dashboard() TO pg_monitor;

/*
 * The grants of three kinds of role, in one call each.  Whoever calls them
 * must be allowed to grant: the extension's owner.
 */
CREATE FUNCTION chatwebhook.grant_admin(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatwebhook TO %I', role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook, chatwebhook.event_type, chatwebhook.connector TO %I', role);
    EXECUTE format('GRANT SELECT ON chatwebhook.event, chatwebhook.attempt, chatwebhook.delivery, chatwebhook.dead_letter, chatwebhook.webhook_health, chatwebhook.alert, chatwebhook.activity, chatwebhook.metrics, chatwebhook.worker_status, chatwebhook.tenant TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION chatwebhook.emit(), chatwebhook.emit(text, text, text, jsonb), chatwebhook.watch, chatwebhook.unwatch, chatwebhook.create_webhook, chatwebhook.secret, chatwebhook.public_key, chatwebhook.rotate_secret, chatwebhook.set_credential, chatwebhook.slack, chatwebhook.discord, chatwebhook.hubspot, chatwebhook.salesforce, chatwebhook.zendesk, chatwebhook.pagerduty, chatwebhook.test_webhook, chatwebhook.preview, chatwebhook.metrics_text, chatwebhook.dashboard, chatwebhook.retry, chatwebhook.cancel, chatwebhook.retry_dead, chatwebhook.replay, chatwebhook.purge_dead_letters, chatwebhook.erase_conversation, chatwebhook.backfill, chatwebhook._emit_to, chatwebhook.wait_until_idle, chatwebhook.sign(text, text), chatwebhook.sign(text, timestamptz, text, text), chatwebhook.verify(text, text, text), chatwebhook.verify(jsonb, text, text, interval), chatwebhook.uuidv7 TO %I', role);
END
$$;
COMMENT ON FUNCTION chatwebhook.grant_admin(name) IS
    'Lets a role manage webhooks, event types and connectors, watch tables, read events and deliveries, and see signing secrets.';

CREATE FUNCTION chatwebhook.grant_reader(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatwebhook TO %I', role);
    EXECUTE format('GRANT SELECT ON chatwebhook.delivery, chatwebhook.webhook_health, chatwebhook.alert, chatwebhook.activity, chatwebhook.metrics, chatwebhook.worker_status TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION chatwebhook.metrics_text, chatwebhook.dashboard TO %I', role);
END
$$;
COMMENT ON FUNCTION chatwebhook.grant_reader(name) IS
    'Lets a role see deliveries, health and workers, for monitoring, and nobody''s chats or secrets.';

CREATE FUNCTION chatwebhook.add_tenant(role name, chatbot_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    -- listed before it is granted anything, so that it never sees more
    INSERT INTO chatwebhook.tenant (role, chatbot_id)
    SELECT r.oid, chatbot_id FROM pg_roles r WHERE r.rolname = role
    ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA chatwebhook TO %I', role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook TO %I', role);
    EXECUTE format('GRANT SELECT ON chatwebhook.event_type, chatwebhook.connector, chatwebhook.event, chatwebhook.attempt, chatwebhook.delivery, chatwebhook.dead_letter, chatwebhook.webhook_health, chatwebhook.alert, chatwebhook.metrics TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION chatwebhook.create_webhook, chatwebhook.secret, chatwebhook.public_key, chatwebhook.rotate_secret, chatwebhook.set_credential, chatwebhook.slack, chatwebhook.discord, chatwebhook.hubspot, chatwebhook.salesforce, chatwebhook.zendesk, chatwebhook.pagerduty, chatwebhook.test_webhook, chatwebhook.preview, chatwebhook.metrics_text, chatwebhook.dashboard, chatwebhook.retry, chatwebhook.cancel, chatwebhook.retry_dead, chatwebhook.replay, chatwebhook.purge_dead_letters, chatwebhook.erase_conversation TO %I', role);
END
$$;
COMMENT ON FUNCTION chatwebhook.add_tenant(name, text) IS
    'Lets a role manage the webhooks of this chatbot, and see its events, deliveries and signing secrets, and nothing of others.';
REVOKE ALL ON FUNCTION chatwebhook.grant_admin(name), chatwebhook.grant_reader(name),
    chatwebhook.add_tenant(name, text) FROM PUBLIC;

/* Tells this session if the server has not loaded the library in advance. */
CREATE FUNCTION chatwebhook._check_preload() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_check_preload'
    LANGUAGE C;
REVOKE ALL ON FUNCTION chatwebhook._check_preload() FROM PUBLIC;
COMMENT ON FUNCTION chatwebhook._check_preload() IS
    'Warns if chatwebhook is not in shared_preload_libraries.';
SELECT chatwebhook._check_preload();
