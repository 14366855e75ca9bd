/*
 * Events: their types, and those that were emitted (src/emit.c).
 */
CREATE TABLE chatwebhook.event_type (
    name        text PRIMARY KEY,
    description text,
    required    text[] NOT NULL DEFAULT '{}',
    example     jsonb,
    shipped     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE chatwebhook.event_type IS
    'The types of events that can be emitted. Add your own.';
COMMENT ON COLUMN chatwebhook.event_type.name IS
    'Name of the type, such as lead.captured: letters, digits, _ and - in words joined by dots, at most 255 characters.';
COMMENT ON COLUMN chatwebhook.event_type.description IS 'Description for people.';
COMMENT ON COLUMN chatwebhook.event_type.required IS
    'Keys that data must have, with values that are not null. See the setting chatwebhook.validation.';
COMMENT ON COLUMN chatwebhook.event_type.example IS
    'Example of data, for people. watch() compares the types of its values with those of columns.';
COMMENT ON COLUMN chatwebhook.event_type.shipped IS
    'True for a type that came with the extension and was not changed. pg_dump omits it.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event_type', 'WHERE NOT shipped');

INSERT INTO chatwebhook.event_type (name, required, description, example, shipped) VALUES
    ('conversation.started', '{visitorId,pageUrl,userAgent}', 'A visitor started a conversation. Optional keys: referrer, metadata.',
     '{"visitorId": "v-1042", "pageUrl": "https://shop.example/pricing", "userAgent": "Mozilla/5.0", "referrer": "https://search.example/", "metadata": {"plan": "trial"}}', true),
    ('conversation.ended', '{}', 'A conversation ended.', '{}', true),
    ('message.received', '{role,content}', 'The visitor sent a message. Optional key: sentiment.',
     '{"role": "user", "content": "Do you ship to Norway?", "sentiment": "neutral"}', true),
    ('message.sent', '{role,content}', 'The chatbot sent a message. Optional key: sentiment.',
     '{"role": "assistant", "content": "Yes, within three days."}', true),
    ('lead.captured', '{email,source,conversationSummary}', 'A visitor left contact details. Optional keys: name, phone, company.',
     '{"email": "zoe@example.com", "source": "widget", "conversationSummary": "Asked for prices.", "name": "Zoe", "phone": "+47 555 01 23", "company": "Example AS"}', true),
    ('handoff.requested', '{reason}', 'A visitor needs a human. Optional keys: urgency, visitorName, visitorEmail, conversationHistory.',
     '{"reason": "Wants a refund", "urgency": "high", "visitorName": "Zoe", "visitorEmail": "zoe@example.com", "conversationHistory": [{"role": "user", "content": "I want my money back."}]}', true),
    ('sentiment.negative', '{message,sentimentScore}', 'A visitor seems unhappy. The score is from 0 to 1.',
     '{"message": "This is useless.", "sentimentScore": 0.92}', true),
    ('feedback.received', '{rating}', 'A visitor rated the conversation.', '{"rating": 4}', true),
    ('sales.opportunity', '{visitorId,intent}', 'A visitor may want to buy. Optional key: estimatedValue.',
     '{"visitorId": "v-1042", "intent": "Wants 20 seats", "estimatedValue": 4800}', true),
    ('webhook.test', '{}', 'Sent by test_webhook().', NULL, true),
    ('webhook.alert', '{}', 'An alert about a webhook or a watch was opened or closed.', NULL, true);

CREATE FUNCTION chatwebhook._check_event_type() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.name !~ E'^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$' OR length(NEW.name) > 255 THEN
        RAISE EXCEPTION 'invalid event type name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use letters, digits, _ and - in words joined by dots, such as order.placed, and at most 255 characters.';
    END IF;
    IF coalesce(array_ndims(NEW.required), 1) <> 1
       OR EXISTS (SELECT FROM unnest(NEW.required) AS key WHERE key IS NULL) THEN
        RAISE EXCEPTION 'required keys of event type "%" contain a null or are nested', NEW.name
            USING ERRCODE = 'check_violation',
                  HINT = 'Use a one-dimensional array of keys, such as ''{email,source}''.';
    END IF;
    IF NOT chatwebhook._restoring() THEN
        NEW.shipped := false;
    ELSIF TG_OP = 'INSERT' THEN
        -- the dump has the type as it was changed
        DELETE FROM chatwebhook.event_type WHERE name = NEW.name AND shipped;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_event_type() IS 'Trigger: checks an event type.';

CREATE TRIGGER check_event_type BEFORE INSERT OR UPDATE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_event_type();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.event_type
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER emptied;

/*
 * An event holds its payload once, for all its deliveries.
 *
 * Here and below, the planner keeps no samples of values that may be secret or
 * personal: our plans do not need them, and neither erase_conversation() nor
 * retention would find them there.
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
        -- statistics of a small table are of no use here
        autovacuum_analyze_threshold = 50000);
ALTER TABLE chatwebhook.event
    ALTER conversation_id SET STATISTICS 0,
    ALTER data SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.event IS
    'Events that at least one webhook subscribed to. They never change.';
COMMENT ON COLUMN chatwebhook.event.id IS
    'UUID of version 7. Every attempt sends it as webhook-id.';
COMMENT ON COLUMN chatwebhook.event.type IS 'Event type, such as lead.captured.';
COMMENT ON COLUMN chatwebhook.event.chatbot_id IS 'Chatbot of the event; null if none was given.';
COMMENT ON COLUMN chatwebhook.event.conversation_id IS 'Conversation of the event; null if none was given.';
COMMENT ON COLUMN chatwebhook.event.created_at IS 'When it was emitted: the timestamp of the envelope.';
COMMENT ON COLUMN chatwebhook.event.first_delivery IS
    'Smallest id of its deliveries, which are numbered when it is emitted.';
COMMENT ON COLUMN chatwebhook.event.last_delivery IS
    'Largest id of its deliveries. Ids in between can belong to other events.';
COMMENT ON COLUMN chatwebhook.event.data IS 'Payload: the data of the envelope.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event', '');

/*
 * The keys that emit() was given.  A row belongs to the event that was emitted
 * with the key; it is removed with the event's conversation, and after a day.
 * Only the key's digest is stored: a key can be anything, such as an address.
 */
CREATE TABLE chatwebhook.event_key (
    digest     bytea PRIMARY KEY,
    event_id   uuid NOT NULL,
    created_at timestamptz NOT NULL
);
-- for erase_conversation() and for retention, since ids ascend with time
CREATE INDEX event_key_event_idx ON chatwebhook.event_key (event_id);
ALTER TABLE chatwebhook.event_key
    ALTER digest SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.event_key IS
    'Keys that emit() was given in the last day. Use emit() instead.';
COMMENT ON COLUMN chatwebhook.event_key.digest IS 'SHA-256 of event type, chatbot and key.';
COMMENT ON COLUMN chatwebhook.event_key.event_id IS 'Event that was emitted with the key.';
COMMENT ON COLUMN chatwebhook.event_key.created_at IS 'When it was emitted.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event_key', '');

CREATE FUNCTION chatwebhook._take_key(digest bytea, event_id uuid) RETURNS uuid
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    now_at constant timestamptz := clock_timestamp();
    taken  record;
BEGIN
    LOOP
        -- waits for another transaction that has taken the key and has not ended
        INSERT INTO chatwebhook.event_key (digest, event_id, created_at) VALUES (digest, event_id, now_at)
            ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
        SELECT k.event_id, k.created_at INTO taken
          FROM chatwebhook.event_key k WHERE k.digest = digest;
        IF FOUND AND taken.created_at > now_at - interval '1 day' THEN
            RETURN taken.event_id;
        END IF;
        -- retention or another session can have come first: then begin again
        UPDATE chatwebhook.event_key k SET event_id = event_id, created_at = now_at
         WHERE k.digest = digest AND k.event_id = taken.event_id;
        EXIT WHEN FOUND;
    END LOOP;
    RETURN event_id;
END
$$;
COMMENT ON FUNCTION chatwebhook._take_key(bytea, uuid) IS
    'Takes a key for an event. Returns the event that has it: this one, or the one that took it in the last day.';

CREATE FUNCTION chatwebhook.emit(
    type            text,
    chatbot_id      text,
    conversation_id text,
    data            jsonb,
    deliver_at      timestamptz DEFAULT NULL,
    expires_at      timestamptz DEFAULT NULL,
    key             text DEFAULT NULL)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.emit(text, text, text, jsonb, timestamptz, timestamptz, text) IS
    'Emits an event as part of the transaction. Returns its id, or null if no webhook subscribes to it. It is not sent before deliver_at, at most a year ahead, and no attempt starts after expires_at: then the delivery is canceled. If an event of this type and chatbot was emitted with the same key, of 1 to 255 bytes, in the last day, nothing is emitted, and that event''s id is returned.';

CREATE FUNCTION chatwebhook._emit_to(webhook_id uuid, ordered boolean, type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_to'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._emit_to(uuid, boolean, text, text, text, jsonb) IS
    'Emits an event to one webhook, which is ordered or not, regardless of its subscription. It is delivered when nothing else of the webhook is due.';

CREATE FUNCTION chatwebhook._subscribers(type text, chatbot_id text) RETURNS uuid[]
    AS 'MODULE_PATHNAME', 'chatwebhook_subscribers'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._subscribers(text, text) IS
    'Returns the webhooks that subscribe to this type of event, whatever their filters.';

CREATE FUNCTION chatwebhook._emit_but(webhook_ids uuid[], type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_but'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._emit_but(uuid[], text, text, text, jsonb) IS
    'Emits an event to every subscribed webhook except these.';
