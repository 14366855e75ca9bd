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
     E'[{"status": [207, 409], "step": 1, "contains": "Existing ID: ", "means": "success"},
       {"status": 207, "step": 1, "contains": "\\"errors\\":[{", "means": "dead"},
       {"status": [400, 409], "contains": "CONFLICTING_UNIQUE_VALUE", "means": "success"},
       {"status": 409, "means": "retry", "wait": 1},
       {"status": 423, "means": "retry", "wait": 2},
       {"status": 477, "means": "retry", "wait": 60}]', true);
