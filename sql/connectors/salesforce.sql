/*
 * Salesforce: a lead becomes a Lead, or a Task for the Contact that has its
 * e-mail address already; a hand-off and a sales opportunity become Tasks.
 */
CREATE FUNCTION chatwebhook.salesforce(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
    WITH given AS MATERIALIZED (
        SELECT event->>'type' AS type,
               event->'data' AS data,
               webhook->'settings' AS settings,
               chatwebhook._line(event->'data'->'email', 1000) AS email,
               chatwebhook._line(event->'data'->'name', 255) AS name,
               lower(chatwebhook._line(event->'data'->'urgency', 20)) AS urgency,
               chatwebhook._line(event->'id', 255) AS event_id,
               chatwebhook._line(event->'conversationId', 255) AS conversation,
               chatwebhook._line(webhook->'settings'->'external_id_field', 255) AS lead_field,
               chatwebhook._line(webhook->'settings'->'task_external_id_field', 255) AS task_field,
               rtrim(webhook->>'url', '/') || '/services/data/'
                   || chatwebhook.url_encode(COALESCE(chatwebhook._line(webhook->'settings'->'api_version', 20), 'v68.0')) AS base,
               CASE WHEN jsonb_typeof(replies) = 'array' THEN jsonb_array_length(replies) ELSE 0 END AS made,
               substring(replies->0->'body' #>> '{records,0,Id}' FROM '^[0-9A-Za-z]{15,18}$') AS contact_id
    ), planned AS (
        SELECT given.*,
               CASE WHEN type = 'webhook.test' THEN ARRAY['test']
                    WHEN type IN ('handoff.requested', 'sales.opportunity') THEN ARRAY['task']
                    WHEN type IS DISTINCT FROM 'lead.captured' THEN '{}'
                    WHEN lead_field IS NOT NULL AND event_id IS NOT NULL THEN ARRAY['lead']
                    WHEN email IS NULL OR chatwebhook.cut(email, 80) <> email THEN ARRAY['lead', 'task']
                    WHEN contact_id IS NOT NULL THEN ARRAY['query', 'task']
                    ELSE ARRAY['query', 'lead', 'task']
               END AS steps,
               -- the service refuses a Lead with an invalid address, so that one goes into the Description
               chatwebhook.cut(email, 80) = email AND email ~ '^[^[:space:]@<>(),;:"]+@[^[:space:]@<>(),;:"]+[.][^[:space:]@<>(),;:".]+$' AS is_address
          FROM given
    ), known AS MATERIALIZED (
        -- a Task is about the Contact that was found, or else about the new Lead
        SELECT planned.*, steps[made + 1] AS step,
               COALESCE(CASE WHEN steps[1] = 'query' THEN contact_id END,
                        substring(replies->(array_position(steps, 'lead') - 1)->'body'->>'id' FROM '^[0-9A-Za-z]{15,18}$')) AS who_id
          FROM planned
    ), written AS (
        SELECT known.*,
               CASE step WHEN 'lead' THEN lead_field WHEN 'task' THEN task_field END AS field,
               CASE step
               WHEN 'lead' THEN jsonb_strip_nulls(jsonb_build_object(
                   -- LastName and Company are required
                   'FirstName', CASE WHEN strpos(name, ' ') > 0 THEN chatwebhook.cut(split_part(name, ' ', 1), 40) END,
                   'LastName', COALESCE(chatwebhook.cut(substr(name, strpos(name, ' ') + 1), 80),
                                        chatwebhook._line(settings->'last_name', 80), 'Unknown'),
                   'Company', COALESCE(chatwebhook._line(data->'company', 255),
                                       chatwebhook._line(settings->'company', 255), 'Unknown'),
                   'Email', CASE WHEN is_address THEN email END,
                   'Phone', chatwebhook._line(data->'phone', 40),
                   'LeadSource', COALESCE(chatwebhook._line(settings->'lead_source', 40), 'Chatbot'),
                   'OwnerId', chatwebhook._line(settings->'owner_id', 18),
                   'Description', chatwebhook.cut(concat_ws(E'\n',
                       'Email: ' || CASE WHEN NOT is_address THEN email END,
                       'Source: ' || chatwebhook._line(data->'source', 255),
                       'Conversation: ' || conversation,
                       'Event: ' || event_id,
                       E'\n' || chatwebhook._text(data->>'conversationSummary')), 32000)))
               WHEN 'task' THEN jsonb_strip_nulls(jsonb_build_object(
                   'WhoId', who_id,
                   'Subject', chatwebhook.cut(concat_ws(': ',
                       CASE type WHEN 'lead.captured' THEN 'Chatbot lead'
                                 WHEN 'handoff.requested' THEN 'Chatbot hand-off'
                                 ELSE 'Sales opportunity' END,
                       CASE type WHEN 'lead.captured' THEN COALESCE(name, chatwebhook._line(data->'email', 255))
                                 WHEN 'handoff.requested' THEN chatwebhook._line(data->'reason', 255)
                                 ELSE chatwebhook._line(data->'intent', 255) END), 255),
                   'Status', COALESCE(chatwebhook._line(settings->'task_status', 255), 'Not Started'),
                   'Priority', CASE WHEN urgency IN ('high', 'urgent', 'critical') THEN 'High'
                                    WHEN urgency = 'low' THEN 'Low'
                                    ELSE 'Normal' END,
                   'OwnerId', chatwebhook._line(settings->'owner_id', 18),
                   'Description', chatwebhook.cut(nullif(concat_ws(E'\n',
                       'Name: ' || COALESCE(name, chatwebhook._line(data->'visitorName', 255)),
                       'Email: ' || COALESCE(chatwebhook._line(data->'email', 255), chatwebhook._line(data->'visitorEmail', 255)),
                       'Phone: ' || chatwebhook._line(data->'phone', 255),
                       'Company: ' || chatwebhook._line(data->'company', 255),
                       'Visitor: ' || chatwebhook._line(data->'visitorId', 255),
                       'Source: ' || chatwebhook._line(data->'source', 255),
                       'Urgency: ' || chatwebhook._line(data->'urgency', 255),
                       'Estimated value: ' || chatwebhook._line(data->'estimatedValue', 255),
                       'Conversation: ' || conversation,
                       'Event: ' || event_id,
                       E'\n' || chatwebhook._text(data->>'reason'),
                       E'\n' || chatwebhook._text(data->>'intent'),
                       E'\n' || chatwebhook._text(data->>'conversationSummary'),
                       E'\n' || chatwebhook._history(data->'conversationHistory')), ''), 32000)))
               END AS fields
          FROM known
    )
    SELECT CASE step
           WHEN 'test' THEN
               ROW('GET', base || '/query?q=' || chatwebhook.url_encode('SELECT Id FROM Lead LIMIT 1'), NULL, NULL, true)::chatwebhook.request
           WHEN 'query' THEN
               -- the address as a string of SOQL
               ROW('GET', base || '/query?q=' || chatwebhook.url_encode(concat(
                       'SELECT Id FROM Contact WHERE Email = ''', replace(replace(email, E'\\', E'\\\\'), '''', E'\\'''), ''' LIMIT 1')),
                   NULL, NULL, false)::chatwebhook.request
           ELSE
               CASE WHEN fields IS NULL
                    -- a Lead whose id the service did not return has all that the Task would say
                    OR step = 'task' AND type = 'lead.captured' AND who_id IS NULL THEN NULL
                    WHEN field IS NULL OR event_id IS NULL THEN
                        ROW('POST', base || '/sobjects/' || initcap(step), NULL, fields, step = 'task')::chatwebhook.request
                    -- upserted by the field for the event's id, which the body may not have
                    ELSE ROW('PATCH', base || '/sobjects/' || initcap(step) || '/' || chatwebhook.url_encode(field) || '/' || chatwebhook.url_encode(event_id),
                             NULL, fields - field, true)::chatwebhook.request END
           END
      FROM written
$$;
COMMENT ON FUNCTION chatwebhook.salesforce(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured upserts a Lead by the event''s id if settings.external_id_field is set; otherwise it adds a Task to the Contact with that e-mail address, or creates a Lead and a Task for it. handoff.requested and sales.opportunity create a Task. Other events send nothing. Settings: api_version (default: v68.0); external_id_field and task_external_id_field, fields that take the event''s id (default: none); lead_source (default: Chatbot); last_name and company, for leads without (default: Unknown); task_status (default: Not Started); owner_id (default: the user of the credentials).';

/*
 * 300: several records have the event's id already, so there is nothing to
 * create.  Duplicates that the organization's rules refuse are final.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('salesforce', 'chatwebhook.salesforce(jsonb,jsonb,jsonb)',
     'Salesforce: leads and tasks, with the OAuth 2.0 client credentials of a connected app.',
     '[{"status": 300, "means": "success"},
       {"status": 403, "contains": "REQUEST_LIMIT_EXCEEDED", "means": "retry", "wait": 60},
       {"status": 400, "contains": "UNABLE_TO_LOCK_ROW", "means": "retry"},
       {"status": 400, "contains": "DUPLICATES_DETECTED", "means": "dead"}]', true);
