/*
 * Zendesk: a hand-off becomes a ticket, which is found again by its external_id,
 * the conversation's; how the conversation ended, and what the visitor thought of
 * it, become internal comments on the ticket.
 */
CREATE FUNCTION chatwebhook._zendesk_text(value text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN regexp_replace(value, '[{](?=[{%])', '{ ', 'g');
END
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_text(text) IS
    'Returns a text without {{...}} and {%...%}: Zendesk fills these placeholders in what agents write.';

CREATE FUNCTION chatwebhook.zendesk(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
    WITH given AS MATERIALIZED (
        SELECT event->>'type' AS type,
               event->'data' AS data,
               webhook->'settings' AS settings,
               nullif(event->>'id', '') AS event_id,
               -- a comma would make it a list of ids
               CASE WHEN event->>'conversationId' ~ '^[^,[:space:][:cntrl:]]+$' AND chatwebhook.cut(event->>'conversationId', 255) = event->>'conversationId'
                    THEN event->>'conversationId'
                    ELSE encode(sha256(convert_to(nullif(event->>'conversationId', ''), 'UTF8')), 'hex') END AS external_id,
               rtrim(webhook->>'url', '/') || '/api/v2/tickets' AS base,
               CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END AS made
    ), found AS (
        -- the newest ticket of the conversation, an open one before a closed one
        SELECT given.*,
               (SELECT t.ticket
                  FROM jsonb_array_elements(CASE WHEN jsonb_typeof(replies->0->'body'->'tickets') = 'array' THEN replies->0->'body'->'tickets' ELSE '[]' END) AS t(ticket)
                 WHERE t.ticket->>'external_id' = external_id
                   AND t.ticket->>'id' ~ '^[0-9]{1,30}$'
                 ORDER BY t.ticket->>'status' IS NOT DISTINCT FROM 'closed', (substring(t.ticket->>'id' FROM '^[0-9]{1,30}$'))::numeric DESC
                 LIMIT 1) AS ticket
          FROM given
    ), planned AS MATERIALIZED (
        SELECT found.*,
               CASE WHEN type = 'webhook.test' THEN ARRAY['test']
                    WHEN type = 'handoff.requested' AND external_id IS NULL THEN ARRAY['ticket']
                    WHEN COALESCE(type NOT IN ('handoff.requested', 'conversation.ended', 'feedback.received'), true) OR external_id IS NULL THEN '{}'
                    -- the ticket has this event already
                    WHEN strpos(ticket->>'description', 'Event: ' || event_id) > 0 THEN ARRAY['find']
                    WHEN ticket->>'status' IS DISTINCT FROM 'closed' AND ticket IS NOT NULL THEN ARRAY['find', 'comment']
                    WHEN type = 'handoff.requested' THEN ARRAY['find', 'ticket']
                    ELSE ARRAY['find']
               END AS steps
          FROM found
    ), written AS (
        -- a comment, within the 65,535 bytes that the service accepts
        SELECT planned.*, steps[made + 1] AS step,
               chatwebhook.cut(chatwebhook._zendesk_text(CASE type
                   WHEN 'handoff.requested' THEN concat_ws(E'\n',
                       CASE steps[made + 1] WHEN 'comment' THEN E'The visitor requested human assistance again.\n'
                                            ELSE E'A visitor requested human assistance.\n' END,
                       'Reason: ' || chatwebhook._line(data->'reason', 5000),
                       'Urgency: ' || chatwebhook._line(data->'urgency', 255),
                       'Visitor: ' || nullif(concat_ws(', ', chatwebhook._line(data->'visitorName', 255),
                                                       chatwebhook._line(data->'visitorEmail', 255)), ''),
                       'Conversation: ' || chatwebhook._line(event->'conversationId', 255),
                       'Event: ' || chatwebhook._line(event->'id', 255),
                       E'\n--- Conversation history ---\n' || chatwebhook._history(data->'conversationHistory'))
                   ELSE concat_ws(E'\n',
                       CASE type WHEN 'conversation.ended' THEN E'The conversation has ended.\n' ELSE E'The visitor gave feedback.\n' END,
                       (SELECT string_agg(concat(chatwebhook.cut(chatwebhook._text(e.key), 255), ': ', chatwebhook._text(e.value #>> '{}')), E'\n' ORDER BY e.place)
                          FROM jsonb_each(CASE WHEN jsonb_typeof(data) = 'object' THEN data ELSE '{}' END) WITH ORDINALITY AS e(key, value, place)
                         WHERE e.value <> 'null'),
                       'Event: ' || chatwebhook._line(event->'id', 255)) END), 21000) AS comment,
               lower(chatwebhook._line(data->'urgency', 20)) AS urgency,
               chatwebhook._zendesk_text(chatwebhook._line(data->'visitorEmail', 1000)) AS email,
               chatwebhook._zendesk_text(chatwebhook._line(data->'visitorName', 255)) AS visitor
          FROM planned
    )
    SELECT CASE step
           WHEN 'test' THEN
               ROW('GET', base || '.json?per_page=1', NULL, NULL, true)::chatwebhook.request
           WHEN 'find' THEN
               ROW('GET', base || '.json?external_id=' || chatwebhook.url_encode(external_id), NULL, NULL, false)::chatwebhook.request
           WHEN 'comment' THEN
               ROW('PUT', base || '/' || (ticket->>'id') || '.json', NULL,
                   jsonb_build_object('ticket', jsonb_build_object(
                       'comment', jsonb_build_object('body', comment, 'public', false))),
                   true)::chatwebhook.request
           WHEN 'ticket' THEN
               ROW('POST', base || '.json',
                   CASE WHEN event_id IS NOT NULL THEN jsonb_build_object('Idempotency-Key', left(chatwebhook.url_encode(event_id), 255)) END,
                   jsonb_build_object('ticket',
                       CASE WHEN jsonb_typeof(settings->'ticket') = 'object' THEN settings->'ticket' ELSE '{}' END
                       || jsonb_strip_nulls(jsonb_build_object(
                           'subject', chatwebhook.cut(chatwebhook._zendesk_text(concat_ws(': ',
                               COALESCE(chatwebhook._line(settings->'subject', 100), 'Chatbot hand-off'),
                               chatwebhook._line(data->'reason', 150))), 150),
                           'comment', jsonb_build_object('body', comment),
                           'external_id', external_id,
                           'priority', CASE WHEN urgency IN ('low', 'normal', 'high', 'urgent') THEN urgency
                                            WHEN urgency = 'critical' THEN 'urgent'
                                            WHEN urgency = 'medium' THEN 'normal'
                                            WHEN lower(settings->>'priority') IN ('low', 'normal', 'high', 'urgent') THEN lower(settings->>'priority')
                                            ELSE 'normal' END,
                           'requester', CASE WHEN chatwebhook.cut(email, 254) = email AND email ~ '^[^[:space:]@<>(),;:"]+@[^[:space:]@<>(),;:"]+[.][^[:space:]@<>(),;:".]+$' THEN
                                            jsonb_build_object('email', email, 'name', COALESCE(chatwebhook.cut(visitor, 255), email)) END,
                           'tags', CASE WHEN jsonb_typeof(settings->'tags') = 'array' THEN
                                       COALESCE((SELECT jsonb_agg(chatwebhook.cut(regexp_replace(lower(t.tag), '[[:space:][:cntrl:],"'']+', '_', 'g'), 80) ORDER BY t.place)
                                                   FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(settings->'tags') = 'array' THEN settings->'tags' ELSE '[]' END)
                                                        WITH ORDINALITY AS t(tag, place)
                                                  WHERE t.tag <> ''), '[]')
                                   ELSE '["chatbot", "handoff"]' END))), true)::chatwebhook.request
           END
      FROM written
$$;
COMMENT ON FUNCTION chatwebhook.zendesk(jsonb, jsonb, jsonb) IS
    'Connector. handoff.requested creates a ticket with the conversation''s history, or adds an internal comment if the conversation has an open ticket. conversation.ended and feedback.received add an internal comment to that ticket, if there is one. Other events send nothing. Settings: subject (default: Chatbot hand-off); priority, where the event has no urgency (default: normal); tags (default: ["chatbot", "handoff"]); ticket, an object of further attributes, such as group_id, brand_id or custom_fields.';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('zendesk', 'chatwebhook.zendesk(jsonb,jsonb,jsonb)',
     'Zendesk: tickets, with OAuth 2.0 client credentials.',
     '[{"status": 409, "means": "retry"}]', true);
