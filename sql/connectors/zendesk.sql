/*
 * Zendesk: a hand-off becomes a ticket, which is remembered, or found again by its
 * external_id, the conversation's; how the conversation ended, and what the visitor
 * thought of it, become internal comments on the ticket.
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

CREATE FUNCTION chatwebhook._zendesk_fields(mapped jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_object_agg(v.key, v.value) FILTER (WHERE NOT v.custom), '{}')
                   || CASE WHEN bool_or(v.custom) THEN jsonb_build_object('custom_fields',
                          jsonb_agg(jsonb_build_object('id', v.key::numeric, 'value', v.value) ORDER BY v.key) FILTER (WHERE v.custom)) ELSE '{}' END
              FROM (SELECT m.key, m.key ~ '^[0-9]{1,18}$' AS custom,
                           CASE WHEN jsonb_typeof(m.value) = 'string' THEN
                                    to_jsonb(chatwebhook._zendesk_text(chatwebhook.cut(chatwebhook._text(m.value #>> '{}'), 20000)))
                                -- a field for several choices takes an array of tags
                                WHEN jsonb_typeof(m.value) = 'array'
                                     AND NOT jsonb_path_exists(m.value, '$[*] ? (@.type() != "string")') AND length(m.value::text) <= 20000 THEN
                                    chatwebhook._zendesk_text(m.value::text)::jsonb
                                WHEN jsonb_typeof(m.value) IN ('array', 'object') THEN
                                    to_jsonb(chatwebhook._zendesk_text(chatwebhook.cut(m.value #>> '{}', 20000)))
                                ELSE m.value END AS value
                      FROM jsonb_each(mapped) AS m) AS v);
END
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_fields(jsonb) IS
    'Returns mapped fields as attributes of a ticket: those whose names are numbers as custom_fields.';

CREATE FUNCTION chatwebhook._zendesk_comment(event jsonb, webhook jsonb, heading text, notices text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
BEGIN
    -- within the 65,535 bytes that the service accepts
    RETURN chatwebhook.cut(chatwebhook._zendesk_text(concat_ws(E'\n',
               heading || E'\n',
               chatwebhook.cut(chatwebhook._details(event->'data', '{conversationHistory}'), 15000),
               notices,
               'Chatbot: ' || chatwebhook._line(event->'chatbotId', 255),
               'Conversation: ' || chatwebhook._line(event->'conversationId', 255),
               'Event: ' || chatwebhook._line(event->'id', 255),
               chatwebhook._link(event, webhook),
               E'\n--- Conversation history ---\n' || chatwebhook._history(event #> '{data,conversationHistory}'))), 21000);
END
$$;
COMMENT ON FUNCTION chatwebhook._zendesk_comment(jsonb, jsonb, text, text) IS
    'Returns an event as a comment.';

/*
 * Each call goes through the same steps again: past those that have a reply, up to
 * the first that has none.  Whether a ticket was written is decided here, because
 * some refusals lead to another request; so no request says that it is the last.
 */
CREATE FUNCTION chatwebhook.zendesk(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
#variable_conflict use_variable
DECLARE
    settings    jsonb := webhook->'settings';
    data        jsonb := event->'data';
    type        text := coalesce(webhook #>> ARRAY['settings', 'as', event->>'type'], event->>'type');
    mapped      jsonb := chatwebhook._fields(event, webhook->'settings', NULL);
    event_id    text := nullif(event->>'id', '');
    -- a comma would make it a list of ids
    external_id text := CASE WHEN event->>'conversationId' ~ '^[^,[:space:][:cntrl:]]+$' AND chatwebhook.cut(event->>'conversationId', 255) = event->>'conversationId'
                             THEN event->>'conversationId'
                             ELSE encode(sha256(convert_to(nullif(event->>'conversationId', ''), 'UTF8')), 'hex') END;
    base        text := rtrim(webhook->>'url', '/') || '/api/v2/tickets';
    made        integer := CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END;
    n           integer := 0;   -- replies taken
    reply       jsonb;
    ticket_id   text := substring(webhook #>> '{memory,ticket}' FROM '^[0-9]{1,30}$');
    closed_id   text;
    found       jsonb;
    urgency     text := lower(chatwebhook._line(event #> '{data,urgency}', 20));
    given       text := chatwebhook._line(event #> '{data,visitorEmail}', 1000);
    address     text := chatwebhook._address(to_jsonb(given), 254);
    visitor     text := chatwebhook._zendesk_text(chatwebhook._line(event #> '{data,visitorName}', 255));
    attributes  jsonb;
    optional    jsonb;
    heading     text;
    comment     text;
    notices     text := CASE WHEN given IS NOT NULL AND address IS NULL THEN 'Not an e-mail address that Zendesk takes: ' || given END;
BEGIN
    IF type = 'webhook.test' THEN
        IF made = 0 THEN
            RETURN ROW('GET', base || '.json?per_page=1', NULL, NULL, true)::chatwebhook.request;
        END IF;
        RETURN NULL;
    ELSIF type IS NULL OR type NOT IN ('handoff.requested', 'conversation.ended', 'feedback.received')
          OR external_id IS NULL AND type <> 'handoff.requested' THEN
        RETURN NULL;
    END IF;

    /*
     * The ticket: one that is remembered, or the newest of the conversation, an
     * open one before a closed one
     */
    IF jsonb_typeof(replies #> '{0,body,tickets}') = 'array' THEN
        -- this very delivery has taught it
        ticket_id := NULL;
    END IF;
    IF ticket_id IS NULL AND external_id IS NOT NULL THEN
        IF made = n THEN
            RETURN ROW('GET', base || '.json?external_id=' || chatwebhook.url_encode(external_id), NULL, NULL, false)::chatwebhook.request;
        END IF;
        reply := replies->n; n := n + 1;
        IF jsonb_typeof(reply #> '{body,tickets}') IS DISTINCT FROM 'array' THEN
            -- not the same as that there is none
            RAISE EXCEPTION 'Zendesk did not list the tickets: %', chatwebhook._line(to_jsonb(coalesce(reply->>'body', '')), 150);
        END IF;
        SELECT t.ticket INTO found
          FROM jsonb_array_elements(reply #> '{body,tickets}') AS t(ticket)
         WHERE t.ticket->>'external_id' = external_id
           AND t.ticket->>'id' ~ '^[0-9]{1,30}$'
         ORDER BY t.ticket->>'status' IS NOT DISTINCT FROM 'closed', (substring(t.ticket->>'id' FROM '^[0-9]{1,30}$'))::numeric DESC
         LIMIT 1;
        -- the ticket has this event already
        IF strpos(found->>'description', 'Event: ' || event_id) > 0 THEN
            RETURN NULL;
        ELSIF found->>'status' = 'closed' THEN
            closed_id := found->>'id';
        ELSE
            ticket_id := found->>'id';
        END IF;
    END IF;
    IF ticket_id IS NULL AND type <> 'handoff.requested' THEN
        RETURN NULL;
    END IF;

    FOR try IN 1 .. 2 LOOP
        -- an internal comment on a ticket that is there
        EXIT WHEN ticket_id IS NULL;
        optional := chatwebhook._zendesk_fields(mapped - 'comment')
                    || CASE WHEN type = 'conversation.ended' AND settings->'solve' = 'true' THEN '{"status": "solved"}' ELSE '{}' END::jsonb;
        IF made = n THEN
            heading := CASE type WHEN 'handoff.requested' THEN 'The visitor requested human assistance again.'
                                 WHEN 'conversation.ended' THEN 'The conversation has ended.'
                                 ELSE 'The visitor gave feedback.' END;
            comment := chatwebhook._zendesk_comment(event, webhook, heading, notices);
            RETURN ROW('PUT', base || '/' || ticket_id || '.json', NULL,
                       jsonb_build_object('ticket', CASE try WHEN 1 THEN jsonb_strip_nulls(optional) ELSE '{}' END
                           || jsonb_build_object('comment', jsonb_build_object('body', comment, 'public', false))), false)::chatwebhook.request;
        END IF;
        reply := replies->n; n := n + 1;
        IF reply->>'status' ~ '^2' THEN
            RETURN NULL;
        ELSIF reply->>'status' = '404' THEN
            ticket_id := NULL;
        ELSIF reply #>> '{body,details}' ~* 'closed prevents' THEN
            closed_id := ticket_id;
            ticket_id := NULL;
        ELSIF try = 2 OR optional = '{}' THEN
            RAISE EXCEPTION 'Zendesk did not take the comment: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,details}', reply->>'body')), 150);
        ELSE
            notices := concat_ws(E'\n', notices, 'Not taken by Zendesk: ' || chatwebhook.cut(jsonb_strip_nulls(optional)::text, 2000),
                                 chatwebhook._line(to_jsonb(reply #>> '{body,details}'), 500));
        END IF;
    END LOOP;
    IF type <> 'handoff.requested' THEN
        RETURN NULL;
    END IF;

    -- a new ticket, which may follow up a closed one
    FOR try IN 1 .. 2 LOOP
        optional := chatwebhook._zendesk_fields(mapped - 'comment')
                    || jsonb_strip_nulls(jsonb_build_object('requester',
                           CASE WHEN address IS NOT NULL THEN jsonb_build_object('email', address, 'name', coalesce(chatwebhook.cut(visitor, 255), address)) END));
        IF made = n THEN
            attributes := CASE jsonb_typeof(settings->'ticket') WHEN 'object' THEN settings->'ticket' ELSE '{}' END
                || jsonb_strip_nulls(jsonb_build_object(
                    'subject', chatwebhook.cut(chatwebhook._zendesk_text(concat_ws(': ',
                        coalesce(chatwebhook._line(settings->'subject', 100), 'Chatbot hand-off'),
                        chatwebhook._line(data->'reason', 150))), 150),
                    'external_id', external_id,
                    'via_followup_source_id', closed_id::numeric,
                    'priority', CASE WHEN urgency IN ('low', 'normal', 'high', 'urgent') THEN urgency
                                     WHEN urgency = 'critical' THEN 'urgent'
                                     WHEN urgency = 'medium' THEN 'normal'
                                     WHEN lower(settings->>'priority') IN ('low', 'normal', 'high', 'urgent') THEN lower(settings->>'priority')
                                     ELSE 'normal' END,
                    'tags', CASE jsonb_typeof(settings->'tags') WHEN 'array' THEN
                                coalesce((SELECT jsonb_agg(chatwebhook.cut(regexp_replace(lower(t.tag), '[[:space:][:cntrl:],"'']+', '_', 'g'), 80) ORDER BY t.place)
                                            FROM jsonb_array_elements_text(settings->'tags') WITH ORDINALITY AS t(tag, place)
                                           WHERE t.tag <> ''), '[]')
                            ELSE '["chatbot", "handoff"]' END));
            IF try = 1 THEN
                -- the custom fields of the setting, and those of the event
                attributes := jsonb_strip_nulls(attributes || optional
                    || CASE WHEN jsonb_typeof(attributes->'custom_fields') = 'array' AND optional ? 'custom_fields'
                            THEN jsonb_build_object('custom_fields', (attributes->'custom_fields') || (optional->'custom_fields')) ELSE '{}' END);
            END IF;
            comment := chatwebhook._zendesk_comment(event, webhook, 'A visitor requested human assistance.', notices);
            RETURN ROW('POST', base || '.json',
                       -- the second request is another one
                       CASE WHEN event_id IS NOT NULL THEN jsonb_build_object('Idempotency-Key',
                           left(chatwebhook.url_encode(event_id), 250) || CASE try WHEN 1 THEN '' ELSE '-2' END) END,
                       jsonb_build_object('ticket', attributes || jsonb_build_object('comment',
                           jsonb_build_object('body', comment, 'public', settings->'public' IS NOT DISTINCT FROM 'true'))), false)::chatwebhook.request;
        END IF;
        reply := replies->n; n := n + 1;
        IF reply #>> '{body,ticket,id}' ~ '^[0-9]+$' THEN
            RETURN NULL;
        ELSIF try = 2 OR optional = '{}' OR reply->>'status' IS DISTINCT FROM '422' THEN
            RAISE EXCEPTION 'Zendesk did not create the ticket: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,details}', reply->>'body')), 150);
        END IF;
        notices := concat_ws(E'\n', notices, 'Not taken by Zendesk: ' || chatwebhook.cut(jsonb_strip_nulls(optional)::text, 2000),
                             chatwebhook._line(to_jsonb(reply #>> '{body,details}'), 500));
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook.zendesk(jsonb, jsonb, jsonb) IS
    'Connector. handoff.requested creates a ticket with the conversation''s history, or adds an internal comment if the conversation has an open ticket; a closed one is followed up. conversation.ended and feedback.received add an internal comment to that ticket, if there is one. Other events send nothing. Settings: subject (default: Chatbot hand-off); priority, where the event has no urgency (default: normal); tags (default: ["chatbot", "handoff"]); public, true to show a new ticket''s first comment to the requester (default: false); solve, true to solve the ticket when the conversation ends (default: false); ticket, an object of further attributes, such as group_id or brand_id; app_url, for a link to app_url/conversations/ID; fields (the ids of custom fields, or names of attributes) and as, see docs/connectors.md.';

/*
 * Replies by which the connector goes on: a ticket that is gone or closed, values
 * that are refused.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, ordered, shipped) VALUES
    ('zendesk', 'chatwebhook.zendesk(jsonb,jsonb,jsonb)',
     'Zendesk: tickets, with OAuth 2.0 client credentials.',
     E'[{"status": [200, 201], "path": "exists($.ticket.id)", "means": "success", "remember": {"ticket": "$.ticket.id"}},
       {"status": 200, "path": "exists($.tickets)", "means": "success"},
       {"status": 409, "means": "retry"},
       {"status": 404, "path": "$.error == \\"RecordNotFound\\"", "means": "success"},
       {"status": 422, "path": "exists($.details)", "means": "success"}]', true, true);
