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
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.delivery_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.queue', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.history', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.dead', '');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.attempt', '');

CREATE FUNCTION chatwebhook._wake(webhook_id uuid) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_wake'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._wake(uuid) IS
    'Wakes the worker for this webhook when the transaction commits.';

CREATE FUNCTION chatwebhook._claimed(delivery_id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_claimed'
    LANGUAGE C STABLE STRICT COST 1;
COMMENT ON FUNCTION chatwebhook._claimed(bigint) IS
    'Whether a worker of this server holds this delivery.';
