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
    ('webhook.alert', '{}', 'An alert about a webhook or a watch was opened or closed.', NULL, true),
    ('webhook.exhausted', '{}', 'A delivery to another webhook became a dead letter.', NULL, true),
    ('webhook.recovered', '{}', 'Another webhook, which was failing, delivers again.', NULL, true);

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

CREATE FUNCTION chatwebhook.emit(type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.emit(text, text, text, jsonb) IS
    'Emits an event as part of the transaction. Returns its id, or null if no webhook subscribes to it.';

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
