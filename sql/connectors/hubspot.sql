/*
 * HubSpot: a lead becomes a contact with a note and, if settings.deal says so, a
 * deal; a sales opportunity becomes a deal.
 */
CREATE FUNCTION chatwebhook._hubspot_html(value text, size integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    value := coalesce(chatwebhook._text(value), '');
    value := replace(replace(replace(replace(value, '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;');
    value := chatwebhook.cut(replace(value, E'\n', '<br>'), size);
    -- remove what a cut has left of an entity or a tag
    RETURN regexp_replace(value, '[&<][a-z]{0,4}([^a-z&<>;]{1,3})$', E'\\1');
END
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_html(text, integer) IS
    'Returns a text as HTML with its line breaks, in at most this many characters.';

CREATE FUNCTION chatwebhook.hubspot(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
    WITH given AS MATERIALIZED (
        SELECT event->>'type' AS type,
               event->'data' AS data,
               webhook->'settings' AS settings,
               webhook->'settings'->'deal' AS deal,
               COALESCE(jsonb_typeof(webhook->'settings'->'deal') = 'object' OR webhook->'settings'->'deal' = 'true', false) AS wants_deal,
               COALESCE(chatwebhook._line(event->'data'->'email', 255), chatwebhook._line(event->'data'->'visitorEmail', 255)) AS email,
               COALESCE(chatwebhook._line(event->'data'->'name', 255), chatwebhook._line(event->'data'->'visitorName', 255)) AS name,
               chatwebhook._line(event->'id', 255) AS event_id,
               chatwebhook._line(event->'conversationId', 255) AS conversation,
               rtrim(webhook->>'url', '/') || '/crm/objects/'
                   || chatwebhook.url_encode(COALESCE(chatwebhook._line(webhook->'settings'->'api_version', 255), '2026-03')) AS base,
               CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END AS made,
               replies->0->'body' AS reply
    ), found AS (
        -- the contact in the first reply, or the one that a refusal names
        SELECT given.*,
               substring(reply #>> '{results,0,id}' FROM '^[0-9]{1,30}$') AS upserted,
               substring(reply::text FROM 'Existing ID: ([0-9]{1,30})') AS existing,
               -- the name is split at its first blank
               jsonb_strip_nulls(jsonb_build_object(
                   'firstname', nullif(split_part(name, ' ', 1), ''),
                   'lastname', nullif(substr(name, strpos(name || ' ', ' ') + 1), ''),
                   'phone', chatwebhook._line(data->'phone', 255),
                   'company', chatwebhook._line(data->'company', 255),
                   'lifecyclestage', CASE WHEN settings ? 'lifecyclestage' THEN chatwebhook._line(settings->'lifecyclestage', 255) ELSE 'lead' END,
                   'hs_lead_status', CASE WHEN settings ? 'hs_lead_status' THEN chatwebhook._line(settings->'hs_lead_status', 255) ELSE 'NEW' END)) AS contact
          FROM given
    ), planned AS MATERIALIZED (
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
    ), written AS (
        -- a note has less than 65,536 characters
        SELECT planned.*, steps[made + 1] AS step,
               CASE steps[made + 1]
               WHEN 'note' THEN jsonb_build_object(
                   'hs_timestamp', COALESCE(chatwebhook._line(event->'timestamp', 255),
                                            to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
                   'hs_note_body', concat(
                       COALESCE('<p><strong>Chatbot conversation summary</strong></p><p>'
                                    || chatwebhook._hubspot_html(nullif(data->>'conversationSummary', ''), 60000) || '</p>',
                                '<p><strong>Lead captured by the chatbot</strong></p>'),
                       '<p>Source: ' || chatwebhook._hubspot_html(chatwebhook._line(data->'source', 255), 1000) || '</p>',
                       '<p>Conversation: ' || chatwebhook._hubspot_html(conversation, 1000) || '</p>',
                       '<p>Event: ' || chatwebhook._hubspot_html(event_id, 1000) || '</p>'))
               WHEN 'deal' THEN jsonb_build_object(
                   'dealname', chatwebhook.cut(concat_ws(': ',
                       COALESCE(chatwebhook._line(deal->'name', 255),
                                CASE WHEN type = 'lead.captured' THEN 'Chatbot lead' ELSE 'Chatbot opportunity' END),
                       COALESCE(chatwebhook._line(data->'company', 255), name, email, chatwebhook._line(data->'visitorId', 255))), 255),
                   'pipeline', COALESCE(chatwebhook._line(deal->'pipeline', 255), 'default'),
                   'dealstage', COALESCE(chatwebhook._line(deal->'stage', 255), 'appointmentscheduled'),
                   'amount', CASE WHEN jsonb_typeof(data->'estimatedValue') = 'number' THEN
                                 CASE WHEN (data->>'estimatedValue')::numeric BETWEEN 0 AND 1e12
                                      THEN trim_scale(round((data->>'estimatedValue')::numeric, 2))::text END END,
                   'description', nullif(concat_ws(E'\n',
                       'Intent: ' || chatwebhook.cut(data->>'intent', 10000),
                       'Visitor: ' || chatwebhook._line(data->'visitorId', 255),
                       'Source: ' || chatwebhook._line(data->'source', 255),
                       'Conversation: ' || conversation,
                       'Event: ' || event_id), ''))
               END AS properties,
               -- a property that takes the event's id
               CASE steps[made + 1] WHEN 'note' THEN chatwebhook._line(settings->'note_id_property', 255)
                                    ELSE chatwebhook._line(deal->'id_property', 255) END AS id_property
          FROM planned
    )
    SELECT CASE step
           WHEN 'test' THEN
               ROW('GET', base || '/contacts?limit=1', NULL, NULL, true)::chatwebhook.request
           WHEN 'contact' THEN
               ROW('POST', base || '/contacts/batch/upsert', NULL,
                   jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('id', email, 'idProperty', 'email', 'properties', contact))),
                   false)::chatwebhook.request
           WHEN 'update' THEN
               ROW('PATCH', base || '/contacts/' || contact_id, NULL, jsonb_build_object('properties', contact), false)::chatwebhook.request
           ELSE
               CASE WHEN properties IS NOT NULL THEN
                   ROW('POST', base || CASE step WHEN 'note' THEN '/notes' ELSE '/deals' END, NULL,
                       jsonb_build_object('properties', jsonb_strip_nulls(properties)
                           || CASE WHEN id_property IS NULL OR event_id IS NULL THEN '{}' ELSE jsonb_build_object(id_property, event_id) END)
                       || CASE WHEN contact_id IS NULL OR email IS NULL THEN '{}' ELSE jsonb_build_object(
                           'associations', jsonb_build_array(jsonb_build_object(
                               'to', jsonb_build_object('id', contact_id),
                               'types', jsonb_build_array(jsonb_build_object(
                                   'associationCategory', 'HUBSPOT_DEFINED',
                                   'associationTypeId', CASE step WHEN 'note' THEN 202 ELSE 3 END))))) END,
                       step = 'deal' OR NOT wants_deal)::chatwebhook.request END
           END
      FROM written
$$;
COMMENT ON FUNCTION chatwebhook.hubspot(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured upserts the contact by e-mail address, adds a note and, with settings.deal, a deal. sales.opportunity makes a deal, for the contact if an e-mail address is known. Other events send nothing. Settings: api_version (default: 2026-03); lifecyclestage (default: lead) and hs_lead_status (default: NEW), null to leave them unchanged; note_id_property, a property of notes with unique values that takes the event''s id (default: none); deal, true or an object of name (default: Chatbot lead), pipeline (default: default), stage (default: appointmentscheduled) and id_property (as for notes; default: none).';

/*
 * Only one contact is upserted, so an error in a 207 is about this one.  A 409
 * that names a contact is about the same person under another address.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('hubspot', 'chatwebhook.hubspot(jsonb,jsonb,jsonb)',
     'HubSpot: contacts with notes and deals, with a private app''s token or a service key.',
     E'[{"status": [207, 409], "step": 1, "contains": "Existing ID: ", "means": "success"},
       {"status": 207, "step": 1, "contains": "\\"errors\\":[{", "means": "dead"},
       {"status": [400, 409], "contains": "CONFLICTING_UNIQUE_VALUE", "means": "success"},
       {"status": 409, "means": "retry", "wait": 1},
       {"status": 423, "means": "retry", "wait": 2},
       {"status": 477, "means": "retry", "wait": 60},
       {"status": [200, 201, 207], "step": 1, "means": "success"}]', true);
