/*
 * Deliveries: pending (queue), finished (history) and given up (dead); and the
 * attempts at them.
 */
CREATE SEQUENCE chatwebhook.delivery_id_seq AS bigint;
COMMENT ON SEQUENCE chatwebhook.delivery_id_seq IS
    'Ids of deliveries that are emitted without the library in shared_preload_libraries. With it, they come from a clock in shared memory.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.delivery_id_seq', '');

/*
 * Pending deliveries, and nothing else: the hot table.
 *
 * A claim reads it in the order of (webhook_id, next_attempt_at, id), from where
 * the last claim ended, and writes nothing to it: a claim ends with its process,
 * so it is noted in shared memory (src/shared.c).  A settled delivery leaves by
 * DELETE.  There is no index on event_id, for which every emit would pay: an
 * event knows the range of its deliveries' ids.
 *
 * If a webhook is gone, its trigger has canceled its deliveries; a worker cancels
 * any that it meets all the same, if deleted_webhook lists it.
 */
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
    -- indexes have conditions on these two, so an INSERT reads its row up to here
    ordered          boolean NOT NULL DEFAULT false,
    debounced        text,
    last_error       text,
    replies          jsonb,
    deliver_at       timestamptz,
    expires_at       timestamptz,
    debounce_until   timestamptz
) WITH (
    -- often while it is small; on a large table, each vacuum reads all indexes
    autovacuum_vacuum_scale_factor = 0.1,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0.5,
    autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = off
);
-- entries are all distinct, so a full page would be searched for duplicates in vain
CREATE INDEX queue_claim_idx ON chatwebhook.queue (webhook_id, next_attempt_at, id) WITH (deduplicate_items = off);
CREATE INDEX queue_order_idx ON chatwebhook.queue (webhook_id, conversation_id, id) WHERE ordered;
-- only debounced deliveries pay for it
CREATE INDEX queue_debounce_idx ON chatwebhook.queue (webhook_id, conversation_id, debounced, id) WHERE debounced IS NOT NULL;
ALTER TABLE chatwebhook.queue
    ALTER conversation_id SET STATISTICS 0,
    ALTER last_error SET STATISTICS 0,
    ALTER replies SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.queue IS
    'Pending deliveries. Read the view delivery instead.';
COMMENT ON COLUMN chatwebhook.queue.id IS 'Identifies the delivery.';
COMMENT ON COLUMN chatwebhook.queue.webhook_id IS 'Webhook to deliver to.';
COMMENT ON COLUMN chatwebhook.queue.event_id IS 'Event to deliver.';
COMMENT ON COLUMN chatwebhook.queue.created_at IS 'When the event was emitted.';
COMMENT ON COLUMN chatwebhook.queue.next_attempt_at IS 'When the next attempt is due; infinity (from backfill) means when nothing else of the webhook is due. For a delivery that debounce holds, it is when the worker checks that.';
COMMENT ON COLUMN chatwebhook.queue.last_attempt_at IS 'When the last attempt started.';
COMMENT ON COLUMN chatwebhook.queue.attempts IS 'Attempts made so far.';
COMMENT ON COLUMN chatwebhook.queue.first_attempt IS
    'Attempts made before the last retry(). max_retries counts from here.';
COMMENT ON COLUMN chatwebhook.queue.last_wait_ms IS
    'Wait before the retry that is due, from which the next wait is computed.';
COMMENT ON COLUMN chatwebhook.queue.latency_ms IS 'Duration of the last attempt, in milliseconds.';
COMMENT ON COLUMN chatwebhook.queue.last_status_code IS 'HTTP status of the last attempt; null if there was no reply.';
COMMENT ON COLUMN chatwebhook.queue.chatbot_id IS 'Chatbot of the event.';
COMMENT ON COLUMN chatwebhook.queue.conversation_id IS 'Conversation of the event.';
COMMENT ON COLUMN chatwebhook.queue.ordered IS
    'Does it wait for earlier deliveries of its conversation?';
COMMENT ON COLUMN chatwebhook.queue.debounced IS
    'Type of its event, if its webhook debounces: later deliveries of this webhook, conversation and type supersede it.';
COMMENT ON COLUMN chatwebhook.queue.last_error IS 'Why the last attempt failed.';
COMMENT ON COLUMN chatwebhook.queue.replies IS
    'Replies to a connector''s successful requests, with which the next attempt continues.';
COMMENT ON COLUMN chatwebhook.queue.deliver_at IS
    'When to send it, as given to emit(); null means at once. Before, the delivery is outside the order of its conversation.';
COMMENT ON COLUMN chatwebhook.queue.expires_at IS
    'When it is canceled unless it has been delivered, as given to emit().';
COMMENT ON COLUMN chatwebhook.queue.debounce_until IS
    'Until when debounce may hold it; null if it is not held, or no longer.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.queue', '');

/*
 * Finished deliveries: large tables that are seldom read.
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
ALTER TABLE chatwebhook.history
    ALTER last_error SET STATISTICS 0,
    ALTER replies SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.history IS
    'Deliveries that were delivered or canceled. Read the view delivery instead.';
COMMENT ON COLUMN chatwebhook.history.id IS 'Identifies the delivery.';
COMMENT ON COLUMN chatwebhook.history.webhook_id IS 'Webhook of the delivery.';
COMMENT ON COLUMN chatwebhook.history.event_id IS 'Event of the delivery.';
COMMENT ON COLUMN chatwebhook.history.created_at IS 'When the event was emitted.';
COMMENT ON COLUMN chatwebhook.history.completed_at IS 'When the delivery was finished.';
COMMENT ON COLUMN chatwebhook.history.last_attempt_at IS 'When the last attempt started.';
COMMENT ON COLUMN chatwebhook.history.attempts IS 'Attempts made.';
COMMENT ON COLUMN chatwebhook.history.latency_ms IS 'Duration of the last attempt, in milliseconds.';
COMMENT ON COLUMN chatwebhook.history.last_status_code IS 'HTTP status of the last attempt; null if there was no reply.';
COMMENT ON COLUMN chatwebhook.history.chatbot_id IS 'Chatbot of the event.';
COMMENT ON COLUMN chatwebhook.history.webhook_name IS 'Name of the webhook at that time.';
COMMENT ON COLUMN chatwebhook.history.status IS 'delivered or canceled.';
COMMENT ON COLUMN chatwebhook.history.last_error IS 'Why the last attempt failed, or why the delivery was canceled.';
COMMENT ON COLUMN chatwebhook.history.replies IS
    'Replies to a connector''s successful requests, with which retry() continues.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.history', '');

CREATE TABLE chatwebhook.dead (
    LIKE chatwebhook.history INCLUDING COMMENTS,
    PRIMARY KEY (id)
);
CREATE INDEX dead_webhook_idx ON chatwebhook.dead (webhook_id, id) WITH (deduplicate_items = off);
CREATE INDEX dead_event_idx ON chatwebhook.dead (event_id);
ALTER TABLE chatwebhook.dead
    ALTER last_error SET STATISTICS 0,
    ALTER replies SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.dead IS
    'Deliveries that were given up. Read the views dead_letter and delivery instead.';
COMMENT ON COLUMN chatwebhook.dead.status IS 'dead.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.dead', '');

CREATE TABLE chatwebhook.attempt (
    delivery_id      bigint NOT NULL,
    attempt          integer NOT NULL,
    webhook_id       uuid NOT NULL,
    chatbot_id       text,
    started_at       timestamptz NOT NULL,
    latency_ms       integer,
    status_code      integer,
    error            text,
    note             text,
    response_headers jsonb,
    response_body    text,
    PRIMARY KEY (delivery_id, attempt)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
ALTER TABLE chatwebhook.attempt
    ALTER error SET STATISTICS 0,
    ALTER note SET STATISTICS 0,
    ALTER response_headers SET STATISTICS 0,
    ALTER response_body SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.attempt IS
    'Attempts at deliveries: failed ones, all or none, depending on chatwebhook.log_attempts.';
COMMENT ON COLUMN chatwebhook.attempt.delivery_id IS 'Delivery that was attempted.';
COMMENT ON COLUMN chatwebhook.attempt.attempt IS
    'Number of the attempt, from 1; 0 if no attempt was needed because the connector had nothing to send.';
COMMENT ON COLUMN chatwebhook.attempt.webhook_id IS 'Webhook of the delivery.';
COMMENT ON COLUMN chatwebhook.attempt.chatbot_id IS 'Chatbot of the event.';
COMMENT ON COLUMN chatwebhook.attempt.started_at IS 'When its first request started.';
COMMENT ON COLUMN chatwebhook.attempt.latency_ms IS
    'Duration in milliseconds, from the start of the request to the end of the reply or the failure.';
COMMENT ON COLUMN chatwebhook.attempt.status_code IS 'HTTP status of the reply; null if there was none.';
COMMENT ON COLUMN chatwebhook.attempt.error IS 'Why it failed; null if it succeeded.';
COMMENT ON COLUMN chatwebhook.attempt.note IS
    'A remark that is not an error: that there was nothing to send, or that something could not be remembered.';
COMMENT ON COLUMN chatwebhook.attempt.response_headers IS
    'Headers of the reply, an object with lower-case names. Of a repeated header, the last counts.';
COMMENT ON COLUMN chatwebhook.attempt.response_body IS
    'Body of the reply, truncated to chatwebhook.max_response_size. Question marks replace bytes that are not text in the database''s encoding.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.attempt', '');

/*
 * What connectors remember of conversations, by the rules in connector.replies.
 * A worker writes it when it settles the delivery, or the step of one, whose reply
 * has taught it (src/memory.c).  A webhook of every chatbot may know conversations
 * of the same id in several.
 *
 * Nobody but the owner may write here, or lock rows that a settle writes.
 */
CREATE TABLE chatwebhook.memory (
    webhook_id      uuid NOT NULL,
    chatbot_id      text,
    conversation_id text NOT NULL,
    remembered      jsonb NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT memory_key UNIQUE NULLS NOT DISTINCT (webhook_id, conversation_id, chatbot_id)
);
-- for erase_conversation(), and for retention
CREATE INDEX memory_conversation_idx ON chatwebhook.memory (conversation_id);
CREATE INDEX memory_updated_idx ON chatwebhook.memory (updated_at);
ALTER TABLE chatwebhook.memory
    ALTER conversation_id SET STATISTICS 0,
    ALTER remembered SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.memory IS
    'What connectors remember for conversations, such as the id of a thread or a ticket, as the rules in connector.replies say. There is a row for each webhook and conversation. It is removed with its webhook, by erase_conversation(), when the webhook gets another url, connector or chatbot_id, and once no reply has added to it or confirmed it for chatwebhook.retention. Admins and apps can read it, so no rule should remember a secret.';
COMMENT ON COLUMN chatwebhook.memory.webhook_id IS 'Webhook that remembers.';
COMMENT ON COLUMN chatwebhook.memory.chatbot_id IS 'Chatbot of the conversation.';
COMMENT ON COLUMN chatwebhook.memory.conversation_id IS
    'Conversation that it is about. Events without one have no memory, nor do events whose chatbot and conversation ids together exceed 2000 bytes.';
COMMENT ON COLUMN chatwebhook.memory.remembered IS
    'The values, in an object of at most 8 kB, which the connector gets as the key memory of its argument webhook.';
COMMENT ON COLUMN chatwebhook.memory.updated_at IS 'When a reply last added to it or confirmed it, to within an hour.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.memory', '');

CREATE FUNCTION chatwebhook._wake(webhook_id uuid) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_wake'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._wake(uuid) IS
    'Wakes a worker for this webhook when the transaction commits.';

CREATE FUNCTION chatwebhook._wake_all() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_wake_all'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._wake_all() IS
    'Has the workers check every webhook when the transaction commits.';

CREATE FUNCTION chatwebhook._claimed(delivery_id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_claimed'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 1;
COMMENT ON FUNCTION chatwebhook._claimed(bigint) IS
    'Does a process of this server hold a claim on this delivery?';

CREATE FUNCTION chatwebhook._progress(function text, done bigint, total bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_progress'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._progress(text, bigint, bigint) IS
    'Says every two seconds how many of how many (null: not known) a function has done: to the client in a NOTICE, to others in pg_stat_activity.query. 0 begins, and null ends.';
