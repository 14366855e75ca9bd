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
