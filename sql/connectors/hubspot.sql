/*
 * HubSpot: a lead becomes a contact with a note and, if settings.deal says so, a
 * deal; a sales opportunity becomes a deal, a hand-off a task or a ticket, and a
 * conversation that has ended a note.
 *
 * A visitor is not to overwrite what is known of a customer.  So the contact is
 * read first, and only what is blank is filled.
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

CREATE FUNCTION chatwebhook._hubspot_refused(reply jsonb) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF reply->>'status' = '400' AND reply #>> '{body,message}' LIKE 'Property values were not valid%' THEN
        -- the message has them as JSON, which may be cut off
        RETURN ARRAY(SELECT DISTINCT f.found[1]
                       FROM regexp_matches(reply #>> '{body,message}', '"name" *: *"([A-Za-z0-9_.]+)"', 'g') AS f(found) ORDER BY 1);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_refused(jsonb) IS
    'Returns the properties whose values a reply refuses; null if it refuses none.';

CREATE FUNCTION chatwebhook._hubspot_contact(reply jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF reply->>'status' = '404' THEN
        RETURN NULL;
    ELSIF reply->>'status' !~ '^2' OR reply #>> '{body,id}' IS NULL OR reply #>> '{body,id}' !~ '^[0-9]{1,30}$' THEN
        -- not the same as that there is none
        RAISE EXCEPTION 'HubSpot did not say whether there is such a contact: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,message}', reply->>'body', '')), 150);
    END IF;
    RETURN reply #>> '{body,id}';
END
$$;
COMMENT ON FUNCTION chatwebhook._hubspot_contact(jsonb) IS
    'Returns the id of the contact that a reply has; null if it says that there is none.';

/*
 * Each call goes through the same steps again: past those that have a reply, up to
 * the first that has none.  Whether a step has succeeded is decided here, because
 * some refusals lead to another request; so no request says that it is the last.
 */
CREATE FUNCTION chatwebhook.hubspot(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
DECLARE
    settings     jsonb := webhook->'settings';
    data         jsonb := event->'data';
    own_type     text := event->>'type';
    type         text := coalesce(webhook #>> ARRAY['settings', 'as', event->>'type'], event->>'type');
    mapped       jsonb := chatwebhook._fields(event, webhook->'settings', ';');
    base         text := rtrim(webhook->>'url', '/') || '/crm/objects/'
                         || chatwebhook.url_encode(coalesce(chatwebhook._line(webhook #> '{settings,api_version}', 255), '2026-03'));
    deal         jsonb := webhook #> '{settings,deal}';
    ticket       jsonb := webhook #> '{settings,ticket}';
    owner        text := chatwebhook._line(webhook #> '{settings,owner_id}', 255);
    event_id     text := chatwebhook._line(event->'id', 255);
    conversation text := chatwebhook._line(event->'conversationId', 255);
    moment       text := substring(event->>'timestamp'
                             FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$');
    name         text := coalesce(chatwebhook._line(event #> '{data,name}', 255), chatwebhook._line(event #> '{data,visitorName}', 255));
    given        text := coalesce(chatwebhook._line(mapped->'email', 1000), chatwebhook._line(event #> '{data,email}', 1000),
                                  chatwebhook._line(event #> '{data,visitorEmail}', 1000));
    address      text := chatwebhook._address(to_jsonb(given), 254);
    urgency      text := lower(chatwebhook._line(event #> '{data,urgency}', 20));
    contact_id   text := substring(webhook #>> '{memory,contact}' FROM '^[0-9]{1,30}$');
    ticket_id    text := substring(webhook #>> '{memory,ticket}' FROM '^[0-9]{1,30}$');
    made         integer := CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END;
    n            integer := 0;  -- replies taken
    reply        jsonb;
    remembered   text;
    is_new       boolean := false;
    found        jsonb;         -- the contact's properties
    wanted       jsonb;         -- those that the event has
    properties   jsonb;
    refused      text[];
    notices      text[] := '{}';
    object       text;
    objects      text[];
    company_id   text;
    id_property  text;
    closes       timestamptz;
    heading      text;
    story        text;
    facts        text;
    origin       text;
BEGIN
    IF type = 'webhook.test' THEN
        IF made = 0 THEN
            RETURN ROW('GET', base || '/contacts?limit=1', NULL, NULL, true)::chatwebhook.request;
        END IF;
        RETURN NULL;
    ELSIF type IS NULL OR type NOT IN ('lead.captured', 'sales.opportunity', 'handoff.requested', 'conversation.ended') THEN
        RETURN NULL;
    END IF;

    /*
     * The contact
     */
    -- the name is split at its first blank
    wanted := jsonb_strip_nulls(jsonb_build_object(
        'firstname', nullif(split_part(name, ' ', 1), ''),
        'lastname', nullif(substr(name, strpos(name || ' ', ' ') + 1), ''),
        'phone', chatwebhook._line(data->'phone', 255),
        'company', chatwebhook._line(data->'company', 255)));
    IF type = 'lead.captured' THEN
        SELECT jsonb_strip_nulls(wanted || coalesce(jsonb_object_agg(m.key, chatwebhook.cut(m.value #>> '{}', 60000)), '{}')) INTO wanted
          FROM jsonb_each(mapped) AS m WHERE m.key <> 'email';
    END IF;
    IF given IS NOT NULL AND address IS NULL THEN
        notices := notices || format('Not an e-mail address that HubSpot takes: %s', given);
    END IF;

    /*
     * What is remembered may be what an earlier reply to this very delivery has
     * taught.  The replies tell: those to a lookup are 200 or 404, others are not.
     */
    IF made > 0 AND type IN ('handoff.requested', 'conversation.ended') AND replies #>> '{0,status}' IN ('200', '404') THEN
        contact_id := NULL;
    END IF;
    -- one that is remembered is read only if it is to be filled
    IF contact_id IS NULL OR type NOT IN ('handoff.requested', 'conversation.ended') THEN
        remembered := contact_id;
        contact_id := NULL;
        -- the one that is remembered may have been deleted; then look for the address
        WHILE contact_id IS NULL AND n < 2 LOOP
            EXIT WHEN NOT (n = 0 AND remembered IS NOT NULL
                           OR address IS NOT NULL AND (n = 0 OR remembered IS NOT NULL));
            IF made = n THEN
                RETURN ROW('GET', base || '/contacts/'
                               || CASE WHEN n = 0 AND remembered IS NOT NULL THEN remembered || '?' ELSE chatwebhook.url_encode(address) || '?idProperty=email&' END
                               || 'properties='
                               || chatwebhook.url_encode(concat_ws(',', 'email', (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(wanted) AS k))),
                           NULL, NULL, false)::chatwebhook.request;
            END IF;
            reply := replies->n;
            EXIT WHEN reply->>'status' IN ('201', '400', '409');
            n := n + 1;
            contact_id := chatwebhook._hubspot_contact(reply);
            found := reply #> '{body,properties}';
        END LOOP;
        IF contact_id IS NULL AND (type = 'lead.captured' OR address IS NOT NULL AND type <> 'conversation.ended') THEN
            properties := jsonb_strip_nulls(jsonb_build_object(
                'email', address,
                'hubspot_owner_id', owner,
                'lifecyclestage', CASE WHEN settings ? 'lifecyclestage' THEN chatwebhook._line(settings->'lifecyclestage', 255) ELSE 'lead' END,
                'hs_lead_status', CASE WHEN settings ? 'hs_lead_status' THEN chatwebhook._line(settings->'hs_lead_status', 255) ELSE 'NEW' END)) || wanted;
            FOR try IN 1 .. 3 LOOP
                IF made = n THEN
                    RETURN ROW('POST', base || '/contacts', NULL, jsonb_build_object('properties', properties), false)::chatwebhook.request;
                END IF;
                reply := replies->n; n := n + 1;
                refused := chatwebhook._hubspot_refused(reply);
                EXIT WHEN refused IS NULL OR try = 3 OR NOT properties ?| refused;
                notices := notices || ARRAY(SELECT format('Not taken by HubSpot: %s = %s', p.key, p.value)
                                              FROM jsonb_each_text(properties) AS p WHERE p.key = ANY (refused));
                properties := properties - refused;
            END LOOP;
            contact_id := substring(reply #>> '{body,id}' FROM '^[0-9]{1,30}$');
            is_new := contact_id IS NOT NULL;
            IF contact_id IS NULL THEN
                -- the address is another one of a contact that is there
                contact_id := substring(reply #>> '{body,message}' FROM 'Existing ID: ([0-9]{1,30})');
                IF contact_id IS NULL THEN
                    RAISE EXCEPTION 'HubSpot did not create the contact: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,message}', reply->>'body')), 150);
                END IF;
                IF made = n THEN
                    RETURN ROW('GET', base || '/contacts/' || contact_id || '?properties='
                                   || chatwebhook.url_encode(concat_ws(',', 'email', (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(wanted) AS k))),
                               NULL, NULL, false)::chatwebhook.request;
                END IF;
                reply := replies->n; n := n + 1;
                contact_id := coalesce(chatwebhook._hubspot_contact(reply), contact_id);
                found := reply #> '{body,properties}';
            END IF;
        END IF;
        -- fill what is blank; what a customer has become never moves back
        IF contact_id IS NOT NULL AND NOT is_new AND type <> 'conversation.ended' THEN
            SELECT coalesce(jsonb_object_agg(w.key, w.value), '{}') INTO properties
              FROM jsonb_each_text(wanted || jsonb_strip_nulls(jsonb_build_object('email', address))) AS w
             WHERE w.key NOT IN ('lifecyclestage', 'hs_lead_status')
               AND (coalesce(found->>w.key, '') = ''
                    OR settings->'overwrite' = 'true' AND w.key <> 'email' AND found->>w.key <> w.value);
            IF properties <> '{}' THEN
                FOR try IN 1 .. 3 LOOP
                    IF made = n THEN
                        RETURN ROW('PATCH', base || '/contacts/' || contact_id, NULL, jsonb_build_object('properties', properties), false)::chatwebhook.request;
                    END IF;
                    reply := replies->n; n := n + 1;
                    refused := chatwebhook._hubspot_refused(reply);
                    IF reply #>> '{body,message}' ~ 'Existing ID: [0-9]' THEN
                        refused := '{email}';
                    END IF;
                    EXIT WHEN refused IS NULL OR try = 3 OR NOT properties ?| refused;
                    notices := notices || ARRAY(SELECT format('Not taken by HubSpot: %s = %s', p.key, p.value)
                                                  FROM jsonb_each_text(properties) AS p WHERE p.key = ANY (refused));
                    properties := properties - refused;
                    EXIT WHEN properties = '{}';
                END LOOP;
                IF reply->>'status' !~ '^2' AND properties <> '{}' THEN
                    RAISE EXCEPTION 'HubSpot did not update the contact: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,message}', reply->>'body')), 150);
                END IF;
            END IF;
        END IF;
    END IF;

    /*
     * Its company, which a visitor does not change either
     */
    IF is_new AND settings->'company' = 'true' AND wanted ? 'company' THEN
        IF made = n THEN
            RETURN ROW('POST', base || '/companies/search', NULL, jsonb_build_object(
                'filterGroups', jsonb_build_array(jsonb_build_object('filters', jsonb_build_array(jsonb_build_object(
                    'propertyName', 'name', 'operator', 'EQ', 'value', wanted->>'company')))),
                'properties', '["name"]'::jsonb, 'limit', 1), false)::chatwebhook.request;
        END IF;
        reply := replies->n; n := n + 1;
        IF jsonb_typeof(reply #> '{body,results}') IS DISTINCT FROM 'array' THEN
            RAISE EXCEPTION 'HubSpot did not search for the company: %', chatwebhook._line(to_jsonb(reply->>'body'), 150);
        END IF;
        company_id := substring(reply #>> '{body,results,0,id}' FROM '^[0-9]{1,30}$');
        IF company_id IS NULL THEN
            IF made = n THEN
                RETURN ROW('POST', base || '/companies', NULL, jsonb_build_object('properties', jsonb_strip_nulls(jsonb_build_object(
                    'name', wanted->>'company', 'hubspot_owner_id', owner))), false)::chatwebhook.request;
            END IF;
            reply := replies->n; n := n + 1;
            company_id := substring(reply #>> '{body,id}' FROM '^[0-9]{1,30}$');
            IF company_id IS NULL THEN
                RAISE EXCEPTION 'HubSpot did not create the company: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,message}', reply->>'body')), 150);
            END IF;
        END IF;
        IF made = n THEN
            RETURN ROW('PUT', base || '/contacts/' || contact_id || '/associations/default/companies/' || company_id, NULL, NULL, false)::chatwebhook.request;
        END IF;
        n := n + 1;
    END IF;

    /*
     * What belongs to it
     */
    objects := CASE type
        WHEN 'lead.captured' THEN
            CASE WHEN jsonb_typeof(deal) = 'object' OR deal = 'true' THEN ARRAY['note', 'deal'] ELSE ARRAY['note'] END
        WHEN 'sales.opportunity' THEN ARRAY['deal']
        WHEN 'conversation.ended' THEN
            CASE WHEN contact_id IS NULL THEN '{}' ELSE ARRAY['note'] END
        ELSE CASE WHEN settings->>'handoff' = 'ticket' THEN
                      CASE WHEN ticket_id IS NULL THEN ARRAY['ticket'] ELSE ARRAY['note'] END
                  ELSE ARRAY['task'] END END;
    story := CASE type WHEN 'lead.captured' THEN chatwebhook._text(data->>'conversationSummary')
                       WHEN 'sales.opportunity' THEN chatwebhook._text(data->>'intent')
                       WHEN 'handoff.requested' THEN chatwebhook._text(data->>'reason') END;
    story := chatwebhook.cut(concat_ws(E'\n\n', story, chatwebhook._history(data->'conversationHistory')), 30000);
    FOREACH object IN ARRAY objects LOOP
        -- a field that is mapped replaces ours, for what the event itself becomes
        FOR try IN 1 .. 3 LOOP
            facts := concat_ws(E'\n',
                chatwebhook.cut(chatwebhook._details(data, '{conversationSummary,intent,reason,conversationHistory}'), 10000),
                chatwebhook.cut(nullif(array_to_string(notices, E'\n'), ''), 5000));
            origin := concat_ws(E'\n',
                'Chatbot: ' || chatwebhook._line(event->'chatbotId', 255),
                'Conversation: ' || conversation,
                'Event: ' || event_id,
                chatwebhook._link(event, webhook));
            IF try = 1 THEN
                heading := CASE type WHEN 'lead.captured' THEN
                                     CASE WHEN data->>'conversationSummary' <> '' THEN 'Chatbot conversation summary' ELSE 'Lead captured by the chatbot' END
                                     WHEN 'conversation.ended' THEN 'Chatbot conversation'
                                     WHEN 'handoff.requested' THEN 'Chatbot hand-off'
                                     ELSE 'Chatbot opportunity' END;
                closes := (CASE WHEN moment IS NULL THEN now() ELSE moment::timestamptz END)
                          + make_interval(days => CASE WHEN deal->>'close_days' ~ '^[0-9]{1,4}$' THEN (deal->>'close_days')::integer ELSE 0 END);
                properties := jsonb_strip_nulls(CASE object
                    WHEN 'deal' THEN jsonb_build_object(
                        'dealname', chatwebhook.cut(concat_ws(': ',
                            coalesce(chatwebhook._line(deal->'name', 255),
                                     CASE WHEN type = 'lead.captured' THEN 'Chatbot lead' ELSE 'Chatbot opportunity' END),
                            coalesce(chatwebhook._line(data->'company', 255), name, address, chatwebhook._line(data->'visitorId', 255))), 255),
                        'pipeline', coalesce(chatwebhook._line(deal->'pipeline', 255), 'default'),
                        'dealstage', coalesce(chatwebhook._line(deal->'stage', 255), 'appointmentscheduled'),
                        'amount', CASE WHEN jsonb_typeof(data->'estimatedValue') = 'number' THEN
                                      CASE WHEN (data->>'estimatedValue')::numeric BETWEEN 0 AND 1e12
                                           THEN trim_scale(round((data->>'estimatedValue')::numeric, 2))::text END END,
                        'deal_currency_code', substring(deal->>'currency' FROM '^[A-Z]{3}$'),
                        'closedate', CASE WHEN deal->>'close_days' ~ '^[0-9]{1,4}$'
                                          THEN to_char(closes AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END,
                        'hubspot_owner_id', owner)
                    WHEN 'ticket' THEN jsonb_build_object(
                        'subject', chatwebhook.cut(concat_ws(': ', heading, chatwebhook._line(data->'reason', 255)), 255),
                        'hs_pipeline', coalesce(chatwebhook._line(ticket->'pipeline', 255), '0'),
                        'hs_pipeline_stage', coalesce(chatwebhook._line(ticket->'stage', 255), '1'),
                        'hs_ticket_priority', CASE WHEN urgency IN ('high', 'urgent', 'critical') THEN 'HIGH' WHEN urgency = 'low' THEN 'LOW' ELSE 'MEDIUM' END,
                        'hubspot_owner_id', owner)
                    WHEN 'task' THEN jsonb_build_object(
                        'hs_timestamp', coalesce(moment, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
                        'hs_task_subject', chatwebhook.cut(concat_ws(': ', heading, chatwebhook._line(data->'reason', 255)), 255),
                        'hs_task_status', 'NOT_STARTED',
                        'hs_task_type', 'TODO',
                        'hs_task_priority', CASE WHEN urgency IN ('high', 'urgent', 'critical') THEN 'HIGH' WHEN urgency = 'low' THEN 'LOW' ELSE 'MEDIUM' END,
                        'hubspot_owner_id', owner)
                    ELSE jsonb_build_object(
                        'hs_timestamp', coalesce(moment, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))) END);
                IF type <> 'lead.captured' AND object <> 'note' THEN
                    SELECT jsonb_strip_nulls(properties || coalesce(jsonb_object_agg(m.key, chatwebhook.cut(m.value #>> '{}', 60000)), '{}')) INTO properties
                      FROM jsonb_each(mapped) AS m WHERE m.key <> 'email';
                END IF;
                id_property := chatwebhook._line(CASE object WHEN 'deal' THEN deal->'id_property'
                                                             WHEN 'ticket' THEN ticket->'id_property'
                                                             WHEN 'note' THEN settings->'note_id_property' END, 255);
                IF id_property IS NOT NULL AND event_id IS NOT NULL THEN
                    properties := properties || jsonb_build_object(id_property, event_id);
                END IF;
            END IF;
            IF made = n THEN
                RETURN ROW('POST', base || CASE object WHEN 'note' THEN '/notes' WHEN 'deal' THEN '/deals' WHEN 'ticket' THEN '/tickets' ELSE '/tasks' END, NULL,
                    jsonb_build_object(
                        'properties', properties || CASE object
                            WHEN 'deal' THEN jsonb_build_object('description', coalesce(properties->>'description', concat_ws(E'\n\n', nullif(story, ''), nullif(facts, ''), origin)))
                            WHEN 'ticket' THEN jsonb_build_object('content', coalesce(properties->>'content', concat_ws(E'\n\n', nullif(story, ''), nullif(facts, ''), origin)))
                            ELSE jsonb_build_object(CASE object WHEN 'task' THEN 'hs_task_body' ELSE 'hs_note_body' END, concat(
                                '<p><strong>' || heading || '</strong></p>',
                                '<p>' || nullif(chatwebhook._hubspot_html(story, 45000), '') || '</p>',
                                '<p>' || nullif(chatwebhook._hubspot_html(facts, 15000), '') || '</p>',
                                '<p>' || nullif(chatwebhook._hubspot_html(origin, 5000), '') || '</p>')) END,
                        'associations', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                                'to', jsonb_build_object('id', a.id),
                                'types', jsonb_build_array(jsonb_build_object('associationCategory', 'HUBSPOT_DEFINED', 'associationTypeId', a.kind)))), '[]')
                            FROM (VALUES (contact_id, CASE object WHEN 'note' THEN 202 WHEN 'deal' THEN 3 WHEN 'ticket' THEN 16 ELSE 204 END),
                                         (CASE WHEN object = 'note' AND type = 'handoff.requested' THEN ticket_id END, 228),
                                         (CASE WHEN object = 'deal' THEN company_id END, 5)) AS a(id, kind)
                           WHERE a.id IS NOT NULL)), false)::chatwebhook.request;
            END IF;
            reply := replies->n; n := n + 1;
            refused := chatwebhook._hubspot_refused(reply);
            -- the object has this event already
            EXIT WHEN refused IS NULL OR try = 3 OR reply->>'body' ~ 'CONFLICTING_UNIQUE_VALUE' OR NOT properties ?| refused;
            notices := notices || ARRAY(SELECT format('Not taken by HubSpot: %s = %s', p.key, p.value)
                                          FROM jsonb_each_text(properties) AS p WHERE p.key = ANY (refused));
            properties := properties - refused;
        END LOOP;
        IF NOT coalesce(reply #>> '{body,id}' ~ '^[0-9]+$' OR reply->>'body' ~ 'CONFLICTING_UNIQUE_VALUE', false) THEN
            RAISE EXCEPTION 'HubSpot did not create the %: %', object, chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,message}', reply->>'body')), 150);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook.hubspot(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured creates the contact, or fills the blank properties of the one with that e-mail address, and adds a note and, with settings.deal, a deal. sales.opportunity makes a deal, handoff.requested a task or a ticket, for the contact if one is known; conversation.ended adds a note to a contact that is known. Other events send nothing. Settings: api_version (default: 2026-03); overwrite, true to replace values of a contact that differ; lifecyclestage (default: lead) and hs_lead_status (default: NEW) of a new contact, null for none; company, true to link a new contact to its company; owner_id; handoff, task (default) or ticket; ticket, an object of pipeline (default: 0), stage (default: 1) and id_property; note_id_property, a property of notes with unique values that takes the event''s id (default: none); deal, true or an object of name (default: Chatbot lead), pipeline (default: default), stage (default: appointmentscheduled), currency, close_days and id_property; app_url, for a link to app_url/conversations/ID; fields and as, see docs/connectors.md.';

/*
 * Replies by which the connector goes on: a contact that is not there, an address
 * that is another contact's, values that are refused, an event that is there.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, ordered, shipped) VALUES
    ('hubspot', 'chatwebhook.hubspot(jsonb,jsonb,jsonb)',
     'HubSpot: contacts with notes, deals, tasks and tickets, with a private app''s token or a service key.',
     E'[{"status": [200, 201], "path": "exists($.properties.lastmodifieddate)", "means": "success", "remember": {"contact": "$.id"}},
       {"status": 201, "path": "exists($.properties.hs_pipeline_stage)", "means": "success", "remember": {"ticket": "$.id"}},
       {"status": [200, 201], "path": "exists($.id)", "means": "success"},
       {"status": 200, "path": "exists($.results)", "means": "success"},
       {"status": 404, "path": "$.status == \\"error\\"", "step": 1, "means": "success"},
       {"status": 404, "path": "$.status == \\"error\\"", "step": 2, "means": "success"},
       {"status": 409, "path": "$.message like_regex \\"Existing ID: [0-9]\\"", "means": "success"},
       {"status": 400, "path": "$.message starts with \\"Property values were not valid\\"", "means": "success"},
       {"status": [400, 409], "contains": "CONFLICTING_UNIQUE_VALUE", "means": "success"},
       {"status": 409, "means": "retry", "wait": 1},
       {"status": 423, "means": "retry", "wait": 2},
       {"status": 477, "means": "retry", "wait": 60}]', true, true);
