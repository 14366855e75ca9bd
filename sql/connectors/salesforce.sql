/*
 * Salesforce: a lead becomes a Lead, or a Task for the Contact or Lead that has
 * its e-mail address already; a hand-off a Task or a Case; a sales opportunity a
 * Task or an Opportunity; a conversation that has ended a Task.
 */
CREATE FUNCTION chatwebhook._salesforce_refused(reply jsonb, mapped jsonb) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF reply->>'status' <> '400' OR jsonb_typeof(reply->'body') <> 'array' THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT f #>> '{}' FROM jsonb_path_query(reply, '$.body[*].fields[*]') AS f
                 UNION
                 SELECT substring(e->>'message' FROM 'No such column ''([A-Za-z0-9_]+)''')
                   FROM jsonb_array_elements(reply->'body') AS e
                  WHERE e->>'errorCode' = 'INVALID_FIELD'
                 UNION
                 -- a value of the wrong type: Salesforce does not say of which field
                 SELECT k FROM jsonb_object_keys(mapped) AS k
                  WHERE reply @? '$.body[*] ? (@.errorCode == "JSON_PARSER_ERROR" && @.message like_regex "Cannot deserialize")');
END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_refused(jsonb, jsonb) IS
    'Returns the fields that a reply refuses, or these mapped ones if it names none.';

CREATE FUNCTION chatwebhook._salesforce_query(base text, object text, address text, condition text) RETURNS chatwebhook.request
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
BEGIN
    -- the address as a string of SOQL
    RETURN ROW('GET', base || '/query?q=' || chatwebhook.url_encode(concat(
                   'SELECT Id FROM ', object, ' WHERE Email = ''', replace(replace(address, E'\\', E'\\\\'), '''', E'\\'''), '''', condition,
                   ' ORDER BY CreatedDate DESC LIMIT 1')), NULL, NULL, false)::chatwebhook.request;
END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_query(text, text, text, text) IS
    'Returns the request that finds the newest record with an e-mail address.';

CREATE FUNCTION chatwebhook._salesforce_found(reply jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF jsonb_typeof(reply #> '{body,records}') IS DISTINCT FROM 'array' THEN
        -- not the same as that there is none
        RAISE EXCEPTION 'Salesforce did not answer the query: %', chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,0,message}', reply->>'body', '')), 150);
    END IF;
    RETURN substring(reply #>> '{body,records,0,Id}' FROM '^[0-9A-Za-z]{15,18}$');
END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_found(jsonb) IS
    'Returns the id of the record that a reply has; null if it says that there is none.';

/*
 * Each call goes through the same steps again: past those that have a reply, up to
 * the first that has none.  Whether a record was created is decided here, because
 * a refusal of a field leads to another request; so no request says that it is
 * the last.
 */
CREATE FUNCTION chatwebhook.salesforce(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
#variable_conflict use_variable
DECLARE
    settings     jsonb := webhook->'settings';
    data         jsonb := event->'data';
    type         text := coalesce(webhook #>> ARRAY['settings', 'as', event->>'type'], event->>'type');
    mapped       jsonb := chatwebhook._fields(event, webhook->'settings', ';');
    base         text := rtrim(webhook->>'url', '/') || '/services/data/'
                         || chatwebhook.url_encode(coalesce(chatwebhook._line(webhook #> '{settings,api_version}', 20), 'v68.0'));
    owner        text := chatwebhook._line(webhook #> '{settings,owner_id}', 18);
    event_id     text := chatwebhook._line(event->'id', 255);
    moment       text := substring(event->>'timestamp'
                             FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$');
    name         text := coalesce(chatwebhook._line(event #> '{data,name}', 255), chatwebhook._line(event #> '{data,visitorName}', 255));
    given        text := coalesce(chatwebhook._line(mapped->'Email', 1000), chatwebhook._line(event #> '{data,email}', 1000),
                                  chatwebhook._line(event #> '{data,visitorEmail}', 1000));
    address      text := chatwebhook._address(to_jsonb(given), 80);
    urgency      text := lower(chatwebhook._line(event #> '{data,urgency}', 20));
    -- a Contact or a Lead, and a Case, that the conversation has
    who_id       text := substring(webhook #>> '{memory,who}' FROM '^(?:003|00Q)[0-9A-Za-z]{12,15}$');
    case_id      text := substring(webhook #>> '{memory,case}' FROM '^500[0-9A-Za-z]{12,15}$');
    made         integer := CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END;
    n            integer := 0;  -- replies taken
    reply        jsonb;
    objects      text[];
    object       text;
    field        text;
    priority     text;
    closes       timestamptz;
    fields       jsonb;
    refused      text[];
    notices      text[] := '{}';
    facts        text;
    story        text;
    record_id    text;
    opportunity  text;
BEGIN
    IF type = 'webhook.test' THEN
        IF made = 0 THEN
            -- none, for one would be remembered
            RETURN ROW('GET', base || '/query?q=' || chatwebhook.url_encode('SELECT Id FROM Lead LIMIT 0'), NULL, NULL, true)::chatwebhook.request;
        END IF;
        RETURN NULL;
    ELSIF type IS NULL OR type NOT IN ('lead.captured', 'handoff.requested', 'sales.opportunity', 'conversation.ended') THEN
        RETURN NULL;
    END IF;

    IF type <> 'handoff.requested' OR settings->>'handoff' IS DISTINCT FROM 'case' THEN
        case_id := NULL;
    END IF;

    /*
     * What is remembered may be what an earlier reply to this very delivery has
     * taught; that is part of the steps below.
     */
    IF EXISTS (SELECT FROM jsonb_array_elements(CASE WHEN made > 0 THEN replies ELSE '[]' END) AS r(had)
                WHERE who_id IN (r.had #>> '{body,id}', r.had #>> '{body,records,0,Id}')) THEN
        who_id := NULL;
    END IF;
    IF EXISTS (SELECT FROM jsonb_array_elements(CASE WHEN made > 0 THEN replies ELSE '[]' END) AS r(had)
                WHERE r.had #>> '{body,id}' = case_id) THEN
        case_id := NULL;
    END IF;

    -- who it is about
    IF who_id IS NULL AND address IS NOT NULL THEN
        IF made = n THEN
            RETURN chatwebhook._salesforce_query(base, 'Contact', address, '');
        END IF;
        who_id := chatwebhook._salesforce_found(replies->n); n := n + 1;
        IF who_id IS NULL THEN
            IF made = n THEN
                RETURN chatwebhook._salesforce_query(base, 'Lead', address, ' AND IsConverted = false');
            END IF;
            who_id := chatwebhook._salesforce_found(replies->n); n := n + 1;
        END IF;
    ELSIF given IS NOT NULL AND address IS NULL THEN
        notices := notices || format('Not an e-mail address that Salesforce takes: %s', given);
    END IF;

    -- the records; a mapped field is one of the first
    objects := CASE type
        WHEN 'lead.captured' THEN
            CASE WHEN who_id IS NOT NULL THEN ARRAY['Task']
                 -- a Lead with a key of its own has all that the Task would say
                 WHEN chatwebhook._line(settings->'external_id_field', 255) IS NOT NULL AND event_id IS NOT NULL THEN ARRAY['Lead']
                 ELSE ARRAY['Lead', 'Task'] END
        WHEN 'handoff.requested' THEN
            CASE WHEN settings->>'handoff' = 'case' AND case_id IS NULL THEN ARRAY['Case'] ELSE ARRAY['Task'] END
        WHEN 'sales.opportunity' THEN
            CASE WHEN settings->>'sales' = 'opportunity' THEN
                     CASE WHEN who_id LIKE '003%' THEN ARRAY['Opportunity', 'OpportunityContactRole'] ELSE ARRAY['Opportunity'] END
                 ELSE ARRAY['Task'] END
        ELSE CASE WHEN who_id IS NULL THEN '{}' ELSE ARRAY['Task'] END END;
    story := chatwebhook.cut(concat_ws(E'\n\n', chatwebhook._text(data->>'reason'), chatwebhook._text(data->>'intent'),
                                       chatwebhook._text(data->>'conversationSummary'), chatwebhook._history(data->'conversationHistory')), 20000);
    priority := CASE WHEN urgency IN ('high', 'urgent', 'critical') THEN 'High' WHEN urgency = 'low' THEN 'Low' END;
    closes := (CASE WHEN moment IS NULL THEN now() ELSE moment::timestamptz END)
              + make_interval(days => CASE WHEN settings->>'close_days' ~ '^[0-9]{1,4}$' THEN (settings->>'close_days')::integer ELSE 30 END);
    FOREACH object IN ARRAY objects LOOP
        record_id := NULL;
        field := CASE object
            WHEN 'Lead' THEN chatwebhook._line(settings->'external_id_field', 255)
            WHEN 'Task' THEN chatwebhook._line(settings->'task_external_id_field', 255)
            WHEN 'Case' THEN chatwebhook._line(settings->'case_external_id_field', 255)
            WHEN 'Opportunity' THEN chatwebhook._line(settings->'opportunity_external_id_field', 255) END;
        fields := jsonb_strip_nulls(CASE object
            WHEN 'Lead' THEN jsonb_build_object(
                -- LastName and Company are required
                'FirstName', CASE WHEN strpos(name, ' ') > 0 THEN chatwebhook.cut(split_part(name, ' ', 1), 40) END,
                'LastName', coalesce(chatwebhook.cut(substr(name, strpos(name, ' ') + 1), 80),
                                     chatwebhook._line(settings->'last_name', 80), 'Unknown'),
                'Company', coalesce(chatwebhook._line(data->'company', 255), chatwebhook._line(settings->'company', 255), 'Unknown'),
                'Email', address,
                'Phone', chatwebhook._line(data->'phone', 40),
                'LeadSource', coalesce(chatwebhook._line(settings->'lead_source', 40), 'Chatbot'),
                'OwnerId', owner)
            WHEN 'Task' THEN jsonb_build_object(
                -- a Task for a Lead can be about nothing else
                'WhoId', CASE WHEN case_id IS NULL OR who_id LIKE '003%' THEN who_id END,
                'WhatId', case_id,
                'Subject', chatwebhook.cut(concat_ws(': ',
                    CASE type WHEN 'lead.captured' THEN 'Chatbot lead'
                              WHEN 'handoff.requested' THEN 'Chatbot hand-off'
                              WHEN 'sales.opportunity' THEN 'Sales opportunity'
                              ELSE 'Chatbot conversation' END,
                    CASE type WHEN 'lead.captured' THEN coalesce(name, chatwebhook._line(data->'email', 255))
                              WHEN 'handoff.requested' THEN chatwebhook._line(data->'reason', 255)
                              WHEN 'sales.opportunity' THEN chatwebhook._line(data->'intent', 255) END), 255),
                'Status', CASE type WHEN 'conversation.ended' THEN 'Completed'
                                    ELSE coalesce(chatwebhook._line(settings->'task_status', 255), 'Not Started') END,
                'Priority', coalesce(priority, 'Normal'),
                'OwnerId', owner)
            WHEN 'Case' THEN jsonb_build_object(
                'ContactId', CASE WHEN who_id LIKE '003%' THEN who_id END,
                'Subject', chatwebhook.cut(concat_ws(': ', 'Chatbot hand-off', chatwebhook._line(data->'reason', 255)), 255),
                'Origin', coalesce(chatwebhook._line(settings->'case_origin', 255), 'Chat'),
                'Priority', coalesce(priority, 'Medium'),
                'SuppliedName', chatwebhook.cut(name, 80),
                'SuppliedEmail', address,
                'SuppliedPhone', chatwebhook._line(data->'phone', 40),
                'SuppliedCompany', chatwebhook._line(data->'company', 80),
                'OwnerId', owner)
            WHEN 'Opportunity' THEN jsonb_build_object(
                'Name', chatwebhook.cut(concat_ws(': ', 'Chatbot', coalesce(chatwebhook._line(data->'company', 120), name,
                            chatwebhook._line(data->'intent', 120), chatwebhook._line(data->'visitorId', 120), 'opportunity')), 120),
                'StageName', coalesce(chatwebhook._line(settings->'stage', 255), 'Prospecting'),
                'CloseDate', to_char(closes AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
                'Amount', CASE WHEN jsonb_typeof(data->'estimatedValue') = 'number' THEN
                              CASE WHEN (data->>'estimatedValue')::numeric BETWEEN 0 AND 1e12
                                   THEN trim_scale(round((data->>'estimatedValue')::numeric, 2)) END END,
                'CurrencyIsoCode', substring(settings->>'currency' FROM '^[A-Z]{3}$'),
                'LeadSource', coalesce(chatwebhook._line(settings->'lead_source', 40), 'Chatbot'),
                'OwnerId', owner)
            ELSE jsonb_build_object('OpportunityId', opportunity, 'ContactId', who_id) END);
        IF object = objects[1] THEN
            -- a checkbox takes no text
            SELECT jsonb_strip_nulls(fields || coalesce(jsonb_object_agg(m.key,
                       CASE WHEN m.value IN ('"true"', '"false"') THEN (m.value #>> '{}')::jsonb
                            WHEN m.value = 'null' THEN m.value
                            ELSE to_jsonb(chatwebhook.cut(m.value #>> '{}', 32000)) END), '{}'))
              INTO fields FROM jsonb_each(mapped) AS m WHERE m.key <> 'Email' OR m.value = 'null';
        END IF;
        FOR try IN 1 .. 4 LOOP
            facts := concat_ws(E'\n',
                chatwebhook.cut(chatwebhook._details(data, '{reason,intent,conversationSummary,conversationHistory}'), 6000),
                chatwebhook.cut(nullif(array_to_string(notices, E'\n'), ''), 3000),
                'Chatbot: ' || chatwebhook._line(event->'chatbotId', 255),
                'Conversation: ' || chatwebhook._line(event->'conversationId', 255),
                'Event: ' || event_id,
                chatwebhook._link(event, webhook));
            IF made = n THEN
                IF object <> 'OpportunityContactRole' AND NOT fields ? 'Description' THEN
                    fields := fields || jsonb_build_object('Description', concat_ws(E'\n\n', facts, nullif(story, '')));
                END IF;
                -- upserted by the field for the event's id, which the body may not have
                RETURN CASE WHEN field IS NULL OR event_id IS NULL
                            THEN ROW('POST', base || '/sobjects/' || object, NULL, fields, false)::chatwebhook.request
                            ELSE ROW('PATCH', base || '/sobjects/' || object || '/' || chatwebhook.url_encode(field) || '/' || chatwebhook.url_encode(event_id),
                                     NULL, fields - field, false)::chatwebhook.request END;
            END IF;
            reply := replies->n; n := n + 1;
            record_id := substring(reply #>> '{body,id}' FROM '^[0-9A-Za-z]{15,18}$');
            -- 300: several records have the event's id already; 204: one that was there has it
            EXIT WHEN record_id IS NOT NULL OR reply->>'status' IN ('204', '300');
            refused := chatwebhook._salesforce_refused(reply, CASE WHEN object = objects[1] THEN mapped ELSE '{}' END);
            -- without a field that it requires, Salesforce refuses the next request for good
            refused := ARRAY(SELECT f FROM unnest(refused) AS f WHERE fields ? f);
            IF refused = '{}' OR try = 4 THEN
                RAISE EXCEPTION 'Salesforce did not create the %: %', object, chatwebhook._line(to_jsonb(coalesce(reply #>> '{body,0,message}', reply->>'body')), 150);
            END IF;
            notices := notices || ARRAY(SELECT format('Not taken by Salesforce: %s = %s', f.key, chatwebhook.cut(f.value, 2000))
                                          FROM jsonb_each_text(fields) AS f WHERE f.key = ANY (refused));
            fields := fields - refused;
        END LOOP;
        IF object = 'Lead' THEN
            who_id := record_id;
            -- a Lead whose id Salesforce did not return has all that the Task would say
            EXIT WHEN who_id IS NULL;
        ELSIF object = 'Opportunity' THEN
            opportunity := record_id;
            EXIT WHEN opportunity IS NULL;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook.salesforce(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured adds a Task to the Contact or Lead with that e-mail address, or creates a Lead, by the event''s id if settings.external_id_field is set, otherwise with a Task. handoff.requested creates a Task or a Case, sales.opportunity a Task or an Opportunity; conversation.ended adds a Task to a Contact or Lead that is known. Other events send nothing. Settings: api_version (default: v68.0); external_id_field, task_external_id_field, case_external_id_field and opportunity_external_id_field, fields that take the event''s id (default: none); lead_source (default: Chatbot); last_name and company, for leads without (default: Unknown); task_status (default: Not Started); owner_id (default: the user of the credentials); handoff, case for Cases; case_origin (default: Chat); sales, opportunity for Opportunities; stage (default: Prospecting); close_days (default: 30); currency, three letters, where the organization has several; app_url, for a link to app_url/conversations/ID; fields and as, see docs/connectors.md.';

/*
 * 300: several records have the event's id already, so there is nothing to
 * create.  Duplicates that the organization's rules refuse are final.  Fields that
 * are refused are left out.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, ordered, shipped) VALUES
    ('salesforce', 'chatwebhook.salesforce(jsonb,jsonb,jsonb)',
     'Salesforce: leads, tasks, cases and opportunities, with the OAuth 2.0 client credentials of a connected app.',
     E'[{"status": 200, "path": "$.records[0].Id like_regex \\"^(003|00Q)\\"", "means": "success", "remember": {"who": "$.records[0].Id"}},
       {"status": 200, "path": "exists($.records)", "means": "success"},
       {"status": [200, 201], "path": "$.success == true && $.id starts with \\"00Q\\"", "means": "success", "remember": {"who": "$.id"}},
       {"status": [200, 201], "path": "$.success == true && $.id starts with \\"500\\"", "means": "success", "remember": {"case": "$.id"}},
       {"status": [200, 201], "path": "$.success == true", "means": "success"},
       {"status": [204, 300], "means": "success"},
       {"status": 403, "path": "$[*].errorCode == \\"REQUEST_LIMIT_EXCEEDED\\"", "means": "retry", "wait": 60},
       {"status": 400, "path": "$[*].errorCode == \\"UNABLE_TO_LOCK_ROW\\"", "means": "retry"},
       {"status": 400, "path": "$[*].errorCode == \\"DUPLICATES_DETECTED\\"", "means": "dead"},
       {"status": 400, "path": "$[*].errorCode like_regex \\"^(INVALID_EMAIL_ADDRESS|STRING_TOO_LONG|INVALID_FIELD|INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST|INVALID_CROSS_REFERENCE_KEY)$\\"", "means": "success"},
       {"status": 400, "path": "$[*].message like_regex \\"^Cannot deserialize\\"", "means": "success"}]', true, true);
