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
ALTER TABLE chatwebhook.event
    ALTER conversation_id SET STATISTICS 0,
    ALTER data SET STATISTICS 0;

/*
 * Dump and restore.  A restore turns check_function_bodies off, because things
 * may come before what they refer to; by that our triggers know one, and leave
 * to it what it brings by itself.  An event type that came with CREATE
 * EXTENSION, and was changed before the dump, is replaced.
 */
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event_type', 'WHERE NOT shipped');
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event', '');

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
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.event_type
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.event_type
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.event_type ENABLE ALWAYS TRIGGER emptied;

CREATE FUNCTION chatwebhook.emit(type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.emit(text, text, text, jsonb) IS
    'Emits an event within the transaction; its id, or null if no webhook wants it.';

CREATE FUNCTION chatwebhook._emit_to(webhook_id uuid, type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_to'
    LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook._emit_to(uuid, text, text, text, jsonb) IS
    'emit() to this webhook alone, whatever it is subscribed to.';
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
