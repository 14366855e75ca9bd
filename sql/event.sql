/*
 * Events: their types, and those that were emitted (src/emit.c).
 */
CREATE TABLE chatwebhook.event_type (
    name        text PRIMARY KEY,
    description text,
    required    text[] NOT NULL DEFAULT '{}',
    schema      jsonb,
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
COMMENT ON COLUMN chatwebhook.event_type.schema IS
    'JSON Schema (2020-12) of data, at most 64 kB; null for none. openapi() shows it to receivers, along with the keys in required. It is enforced only if chatwebhook.schema_validator names a function for that.';
COMMENT ON COLUMN chatwebhook.event_type.example IS
    'Example of data, an object of at most 64 kB. openapi() shows it if it has the required keys. watch() compares the types of its values with those of columns.';
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
    ('webhook.test', '{}', 'Sent by test_webhook().', '{"message": "This is a test webhook delivery"}', true),
    ('webhook.alert', '{}', 'An alert about a webhook or a watch was opened or closed.',
     '{"state": "opened", "alertId": "01a20943-c46f-7995-a698-9f20430569ac", "kind": "consecutive_failures", "message": "the last 5 attempts failed", "openedAt": "2026-11-23T16:36:05.871Z", "closedAt": null, "webhookId": "01a20943-b1c4-7d02-8a52-4f1d6c2e9a10", "webhookName": "crm"}', true),
    ('webhook.exhausted', '{}', 'A delivery to another webhook became a dead letter.',
     '{"webhookId": "01a20943-b1c4-7d02-8a52-4f1d6c2e9a10", "webhookName": "crm", "deliveryId": "28808791789462", "eventId": "01a20943-c46f-7995-a698-9f20430569ad", "eventType": "lead.captured", "attempts": 6, "lastStatusCode": 503, "lastError": "HTTP status 503", "others": 0}', true),
    ('webhook.recovered', '{}', 'Another webhook, which was failing, delivers again.',
     '{"webhookId": "01a20943-b1c4-7d02-8a52-4f1d6c2e9a10", "webhookName": "crm", "failingSince": "2026-11-23T16:36:05.871Z", "failures": 12, "lastError": "HTTP status 503"}', true);

/*
 * Schemas of these types.  They promise only what receivers can rely on: in many
 * databases, ids are numbers, optional keys can be null, and there may be other
 * keys.  The keys required here in addition to those of the column "required" are
 * those that the extension itself always sends.
 */
UPDATE chatwebhook.event_type AS t
   SET schema = pg_catalog.jsonb_build_object(
           'type', 'object',
           'required', pg_catalog.to_jsonb(pg_catalog.array_cat(t.required, s.required)),
           'properties', s.properties,
           'additionalProperties', true)
  FROM (VALUES
    ('conversation.started', '{}'::pg_catalog.text[],
     '{"visitorId": {"type": ["string", "number"]},
       "pageUrl": {"type": "string", "description": "Page that the visitor was on"},
       "userAgent": {"type": "string", "description": "Browser of the visitor"},
       "referrer": {"type": ["string", "null"], "description": "Page that the visitor came from"},
       "metadata": {"description": "Whatever else is known about the visitor"}}'::pg_catalog.jsonb),
    ('conversation.ended', '{}', '{}'),
    ('message.received', '{}',
     '{"role": {"type": "string", "description": "Who wrote it, such as user"},
       "content": {"type": "string"},
       "sentiment": {"type": ["string", "null"], "description": "Such as positive, neutral or negative"}}'),
    ('message.sent', '{}',
     '{"role": {"type": "string", "description": "Who wrote it, such as assistant"},
       "content": {"type": "string"},
       "sentiment": {"type": ["string", "null"], "description": "Such as positive, neutral or negative"}}'),
    ('lead.captured', '{}',
     '{"email": {"type": "string", "description": "As the visitor typed it"},
       "source": {"type": "string", "description": "Where the lead comes from, such as widget"},
       "conversationSummary": {"type": "string"},
       "name": {"type": ["string", "null"]},
       "phone": {"type": ["string", "number", "null"]},
       "company": {"type": ["string", "null"]}}'),
    ('handoff.requested', '{}',
     '{"reason": {"type": "string"},
       "urgency": {"type": ["string", "number", "null"], "description": "Such as low, medium or high"},
       "visitorName": {"type": ["string", "null"]},
       "visitorEmail": {"type": ["string", "null"]},
       "conversationHistory": {"type": ["array", "string", "null"], "description": "Messages so far: objects with role and content, or text", "items": {"type": ["object", "string"], "additionalProperties": true}}}'),
    ('sentiment.negative', '{}',
     '{"message": {"type": "string"},
       "sentimentScore": {"type": "number", "minimum": 0, "maximum": 1, "description": "How negative it is"}}'),
    ('feedback.received', '{}',
     '{"rating": {"type": ["number", "string", "boolean"]},
       "comment": {"type": ["string", "null"]}}'),
    ('sales.opportunity', '{}',
     '{"visitorId": {"type": ["string", "number"]},
       "intent": {"type": "string"},
       "estimatedValue": {"type": ["number", "string", "null"]}}'),
    ('webhook.test', '{}',
     '{"message": {"type": "string"}}'),
    ('webhook.alert', '{state,alertId,kind,message,openedAt,closedAt}',
     '{"state": {"type": "string", "enum": ["opened", "closed"]},
       "alertId": {"type": "string", "format": "uuid", "description": "The same when it is opened and when it is closed"},
       "kind": {"type": "string", "description": "Such as consecutive_failures or backlog"},
       "message": {"type": "string", "description": "Description of the problem, for people"},
       "openedAt": {"type": "string", "format": "date-time"},
       "closedAt": {"type": ["string", "null"], "format": "date-time"},
       "webhookId": {"type": "string", "format": "uuid", "description": "Webhook that the alert is about"},
       "webhookName": {"type": "string"},
       "watch": {"type": "string", "description": "Trigger and table that the alert is about, instead of a webhook"}}'),
    ('webhook.exhausted', '{webhookId,webhookName,deliveryId,eventId,eventType,attempts,lastStatusCode,lastError,others}',
     '{"webhookId": {"type": "string", "format": "uuid", "description": "Webhook that the event could not be delivered to"},
       "webhookName": {"type": "string"},
       "deliveryId": {"type": "string", "description": "For retry()"},
       "eventId": {"type": "string", "format": "uuid"},
       "eventType": {"type": "string"},
       "attempts": {"type": "integer"},
       "lastStatusCode": {"type": ["integer", "null"], "description": "HTTP status of the last attempt; null if there was no reply"},
       "lastError": {"type": ["string", "null"]},
       "others": {"type": "integer", "description": "How many more deliveries became dead letters, without events of their own"}}'),
    ('webhook.recovered', '{webhookId,webhookName,failingSince,failures,lastError}',
     '{"webhookId": {"type": "string", "format": "uuid"},
       "webhookName": {"type": "string"},
       "failingSince": {"type": ["string", "null"], "format": "date-time", "description": "Null if it is not known"},
       "failures": {"type": "integer", "description": "Failed attempts in a row"},
       "lastError": {"type": ["string", "null"]}}')
       ) AS s (name, required, properties)
 WHERE s.name OPERATOR(pg_catalog.=) t.name;

CREATE FUNCTION chatwebhook._schema_problem(schema jsonb, required text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    key text;
BEGIN
    IF chatwebhook._json_problem(schema) IS NOT NULL THEN
        RETURN 'it is ' || chatwebhook._json_problem(schema);
    ELSIF jsonb_typeof(schema) = 'boolean' THEN
        RETURN NULL;
    ELSIF jsonb_typeof(schema) <> 'object' THEN
        RETURN 'it is neither an object nor a boolean';
    ELSIF schema->'$schema' <> '"https://json-schema.org/draft/2020-12/schema"' THEN
        RETURN 'its $schema is not https://json-schema.org/draft/2020-12/schema';
    ELSIF jsonb_typeof(schema->'properties') <> 'object' THEN
        RETURN 'its properties are not an object';
    ELSIF jsonb_typeof(schema->'required') <> 'array'
          OR EXISTS (SELECT FROM jsonb_path_query(schema, '$.required[*]') AS k WHERE jsonb_typeof(k) <> 'string') THEN
        RETURN 'its required is not an array of strings';
    END IF;
    -- no event could meet both
    SELECT k INTO key FROM unnest(required) AS k
     WHERE schema->'properties'->k = 'false'
        OR schema->'additionalProperties' = 'false' AND NOT schema ? 'patternProperties'
           AND NOT coalesce(schema->'properties' ? k, false)
     LIMIT 1;
    RETURN 'it does not allow the required key "' || left(key, 100) || '"';
END
$$;
COMMENT ON FUNCTION chatwebhook._schema_problem(jsonb, text[]) IS
    'Returns why an event type with these required keys cannot have this schema, or null.';

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
    IF chatwebhook._schema_problem(NEW.schema, NEW.required) IS NOT NULL THEN
        RAISE EXCEPTION 'invalid schema of event type "%": %', NEW.name, chatwebhook._schema_problem(NEW.schema, NEW.required)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use a JSON Schema of data, such as {"type": "object", "properties": {"total": {"type": "number"}}}.';
    END IF;
    IF jsonb_typeof(NEW.example) <> 'object' OR chatwebhook._json_problem(NEW.example) IS NOT NULL THEN
        RAISE EXCEPTION 'invalid example of event type "%": it is %', NEW.name,
                coalesce(chatwebhook._json_problem(NEW.example), 'not an object')
            USING ERRCODE = 'check_violation',
                  HINT = 'Use an example of data, such as {"email": "zoe@example.com"}.';
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
    first_delivery  bigint,
    last_delivery   bigint,
    data            jsonb NOT NULL,
    traceparent     text,
    deliver_at      timestamptz,
    expires_at      timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
        -- statistics of a small table are of no use here
        autovacuum_analyze_threshold = 50000);
ALTER TABLE chatwebhook.event
    ALTER conversation_id SET STATISTICS 0,
    ALTER data SET STATISTICS 0;
COMMENT ON TABLE chatwebhook.event IS
    'Events that at least one webhook subscribed to, or with chatwebhook.outbox, all of them. They never change.';
COMMENT ON COLUMN chatwebhook.event.id IS
    'UUID of version 7. Every attempt sends it as webhook-id.';
COMMENT ON COLUMN chatwebhook.event.type IS 'Event type, such as lead.captured.';
COMMENT ON COLUMN chatwebhook.event.chatbot_id IS 'Chatbot of the event; null if none was given.';
COMMENT ON COLUMN chatwebhook.event.conversation_id IS 'Conversation of the event; null if none was given.';
COMMENT ON COLUMN chatwebhook.event.created_at IS 'When it was emitted: the timestamp of the envelope.';
COMMENT ON COLUMN chatwebhook.event.first_delivery IS
    'Smallest id of its deliveries, which are numbered when it is emitted. Null if it waits in an outbox for delivery nodes.';
COMMENT ON COLUMN chatwebhook.event.last_delivery IS
    'Largest id of its deliveries. Ids in between can belong to other events.';
COMMENT ON COLUMN chatwebhook.event.data IS 'Payload: the data of the envelope.';
COMMENT ON COLUMN chatwebhook.event.traceparent IS
    'Trace context (W3C) of the session that emitted it, from the setting chatwebhook.traceparent. Every attempt sends it as the header traceparent. Null if there was none.';
COMMENT ON COLUMN chatwebhook.event.deliver_at IS
    'In an outbox: when to send it, as given to emit(). Otherwise null; its deliveries have it.';
COMMENT ON COLUMN chatwebhook.event.expires_at IS
    'In an outbox: when not to send it any more, as given to emit(). Otherwise null; its deliveries have it.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.event', '');

/*
 * Keys passed to emit().  A row belongs to the event that was emitted with the key.
 * erase_conversation() removes it along with the event, and retention after a day.
 * Only the key's digest is stored, since a key can be personal, such as an address.
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
    'Keys passed to emit() in the last day. Use emit() instead.';
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
        -- retention or another session may have come first; if so, start over
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
    'Emits an event as part of the transaction. Returns its id, or null if no webhook subscribes to it, which only a delivery node knows if chatwebhook.outbox is on. It is not sent before deliver_at, at most a year ahead, and no attempt starts after expires_at: then the delivery is canceled. If an event of this type and chatbot was emitted with the same key, of 1 to 255 bytes, in the last day, nothing is emitted, and that event''s id is returned.';

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
