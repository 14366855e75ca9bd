/*
 * Salesforce: a lead becomes a Lead, or a Task for the Contact that has its
 * address already; a hand-off and a sales opportunity become Tasks.
 */
CREATE FUNCTION chatwebhook._salesforce_line(source jsonb, key text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(source->key) IN ('string', 'number', 'boolean') THEN
               chatwebhook.cut(nullif(btrim(regexp_replace(source->>key, '[[:space:][:cntrl:]]+', ' ', 'g')), ''), size)
           END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_line(jsonb, text, integer) IS
    'The text, number or boolean of this key as a line of at most that many characters; null if there is none.';

CREATE FUNCTION chatwebhook._salesforce_text(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT nullif(regexp_replace(replace(replace(btrim(value, E' \t\r\n'), E'\r\n', E'\n'), E'\r', E'\n'),
                                 E'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g'), '')
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_text(text) IS
    'A text with its lines, without other control characters; null if there is nothing.';

CREATE FUNCTION chatwebhook._salesforce_history(history jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(history) <> 'array' THEN chatwebhook._salesforce_text(history #>> '{}')
           ELSE (SELECT string_agg(CASE WHEN jsonb_typeof(m.message) = 'object' AND m.message ? 'content'
                                        THEN concat_ws(': ', chatwebhook._salesforce_line(m.message, 'role', 40),
                                                       chatwebhook._salesforce_text(m.message->>'content'))
                                        ELSE chatwebhook._salesforce_text(m.message #>> '{}') END,
                                   E'\n\n' ORDER BY m.place)
                   FROM jsonb_array_elements(CASE WHEN jsonb_typeof(history) = 'array' THEN history ELSE '[]' END)
                        WITH ORDINALITY AS m(message, place))
           END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_history(jsonb) IS
    'A conversation as text: of an array of {role, content} a paragraph each, of anything else what it is.';

CREATE FUNCTION chatwebhook._salesforce_literal(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    SELECT concat('''', replace(replace(value, E'\\', E'\\\\'), '''', E'\\'''), '''')
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_literal(text) IS
    'A text as a string of SOQL, in quotation marks.';

CREATE FUNCTION chatwebhook._salesforce_lead(event jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
               'FirstName', CASE WHEN strpos(p.name, ' ') > 0 THEN chatwebhook.cut(split_part(p.name, ' ', 1), 40) END,
               'LastName', COALESCE(chatwebhook.cut(substr(p.name, strpos(p.name, ' ') + 1), 80),
                                    chatwebhook._salesforce_line(settings, 'last_name', 80), 'Unknown'),
               'Company', COALESCE(chatwebhook._salesforce_line(d.data, 'company', 255),
                                   chatwebhook._salesforce_line(settings, 'company', 255), 'Unknown'),
               'Email', CASE WHEN p.is_address THEN p.email END,
               'Phone', chatwebhook._salesforce_line(d.data, 'phone', 40),
               'LeadSource', COALESCE(chatwebhook._salesforce_line(settings, 'lead_source', 40), 'Chatbot'),
               'OwnerId', chatwebhook._salesforce_line(settings, 'owner_id', 18),
               'Description', chatwebhook.cut(concat_ws(E'\n',
                   'Email: ' || CASE WHEN NOT p.is_address THEN p.email END,
                   'Source: ' || chatwebhook._salesforce_line(d.data, 'source', 255),
                   'Conversation: ' || chatwebhook._salesforce_line(event, 'conversationId', 255),
                   'Event: ' || chatwebhook._salesforce_line(event, 'id', 255),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'conversationSummary')), 32000)))
      FROM (SELECT event->'data' AS data) AS d,
           LATERAL (SELECT n.name, n.email,
                           -- the service refuses a Lead for an address that is none
                           chatwebhook.cut(n.email, 80) = n.email AND n.email ~ '^[^[:space:]@<>(),;:"]+@[^[:space:]@<>(),;:"]+[.][^[:space:]@<>(),;:".]+$' AS is_address
                      FROM (SELECT chatwebhook._salesforce_line(d.data, 'name', 255) AS name,
                                   chatwebhook._salesforce_line(d.data, 'email', 1000) AS email) AS n) AS p
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_lead(jsonb, jsonb) IS
    'The fields of a Lead: LastName and Company always, an address that is none in the Description.';

CREATE FUNCTION chatwebhook._salesforce_task(event jsonb, settings jsonb, who_id text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
               'WhoId', who_id,
               'Subject', chatwebhook.cut(concat_ws(': ',
                   CASE event->>'type' WHEN 'lead.captured' THEN 'Chatbot lead'
                                       WHEN 'handoff.requested' THEN 'Chatbot hand-off'
                                       ELSE 'Sales opportunity' END,
                   CASE event->>'type' WHEN 'lead.captured' THEN COALESCE(chatwebhook._salesforce_line(d.data, 'name', 255), chatwebhook._salesforce_line(d.data, 'email', 255))
                                       WHEN 'handoff.requested' THEN chatwebhook._salesforce_line(d.data, 'reason', 255)
                                       ELSE chatwebhook._salesforce_line(d.data, 'intent', 255) END), 255),
               'Status', COALESCE(chatwebhook._salesforce_line(settings, 'task_status', 255), 'Not Started'),
               'Priority', CASE WHEN lower(chatwebhook._salesforce_line(d.data, 'urgency', 20)) IN ('high', 'urgent', 'critical') THEN 'High'
                                WHEN lower(chatwebhook._salesforce_line(d.data, 'urgency', 20)) = 'low' THEN 'Low'
                                ELSE 'Normal' END,
               'OwnerId', chatwebhook._salesforce_line(settings, 'owner_id', 18),
               'Description', chatwebhook.cut(nullif(concat_ws(E'\n',
                   'Name: ' || COALESCE(chatwebhook._salesforce_line(d.data, 'name', 255), chatwebhook._salesforce_line(d.data, 'visitorName', 255)),
                   'Email: ' || COALESCE(chatwebhook._salesforce_line(d.data, 'email', 255), chatwebhook._salesforce_line(d.data, 'visitorEmail', 255)),
                   'Phone: ' || chatwebhook._salesforce_line(d.data, 'phone', 255),
                   'Company: ' || chatwebhook._salesforce_line(d.data, 'company', 255),
                   'Visitor: ' || chatwebhook._salesforce_line(d.data, 'visitorId', 255),
                   'Source: ' || chatwebhook._salesforce_line(d.data, 'source', 255),
                   'Urgency: ' || chatwebhook._salesforce_line(d.data, 'urgency', 255),
                   'Estimated value: ' || chatwebhook._salesforce_line(d.data, 'estimatedValue', 255),
                   'Conversation: ' || chatwebhook._salesforce_line(event, 'conversationId', 255),
                   'Event: ' || chatwebhook._salesforce_line(event, 'id', 255),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'reason'),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'intent'),
                   E'\n' || chatwebhook._salesforce_text(d.data->>'conversationSummary'),
                   E'\n' || chatwebhook._salesforce_history(d.data->'conversationHistory')), ''), 32000)))
      FROM (SELECT event->'data' AS data) AS d
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_task(jsonb, jsonb, text) IS
    'The fields of a Task for a lead, a hand-off or a sales opportunity.';

CREATE FUNCTION chatwebhook._salesforce_write(base text, object text, field text, key text, fields jsonb) RETURNS chatwebhook.request
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- the field of the key may not be in the body
    SELECT CASE WHEN field IS NULL OR key IS NULL
                THEN ROW('POST', base || '/sobjects/' || object, NULL, fields, object = 'Task')::chatwebhook.request
                ELSE ROW('PATCH', base || '/sobjects/' || object || '/' || chatwebhook.url_encode(field) || '/' || chatwebhook.url_encode(key),
                         NULL, fields - field, true)::chatwebhook.request
           END
$$;
COMMENT ON FUNCTION chatwebhook._salesforce_write(text, text, text, text, jsonb) IS
    'The request that creates a record, or upserts it where there is a field for the event''s id.';

CREATE FUNCTION chatwebhook.salesforce(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    WITH given AS (
        SELECT event->>'type' AS type,
               webhook->'settings' AS settings,
               chatwebhook._salesforce_line(event->'data', 'email', 1000) AS email,
               chatwebhook._salesforce_line(event, 'id', 255) AS event_id,
               chatwebhook._salesforce_line(webhook->'settings', 'external_id_field', 255) AS lead_field,
               chatwebhook._salesforce_line(webhook->'settings', 'task_external_id_field', 255) AS task_field,
               rtrim(webhook->>'url', '/') || '/services/data/'
                   || chatwebhook.url_encode(COALESCE(chatwebhook._salesforce_line(webhook->'settings', 'api_version', 20), 'v68.0')) AS base,
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
               END AS steps
          FROM given
    ), known AS (
        -- whom a Task is about: the Contact that was found, else the new Lead
        SELECT planned.*,
               COALESCE(CASE WHEN steps[1] = 'query' THEN contact_id END,
                        substring(replies->(array_position(steps, 'lead') - 1)->'body'->>'id' FROM '^[0-9A-Za-z]{15,18}$')) AS who_id
          FROM planned
    )
    SELECT CASE steps[made + 1]
           WHEN 'test' THEN
               ROW('GET', base || '/query?q=' || chatwebhook.url_encode('SELECT Id FROM Lead LIMIT 1'), NULL, NULL, true)::chatwebhook.request
           WHEN 'query' THEN
               ROW('GET', base || '/query?q=' || chatwebhook.url_encode(
                       'SELECT Id FROM Contact WHERE Email = ' || chatwebhook._salesforce_literal(email) || ' LIMIT 1'),
                   NULL, NULL, false)::chatwebhook.request
           WHEN 'lead' THEN
               chatwebhook._salesforce_write(base, 'Lead', lead_field, event_id, chatwebhook._salesforce_lead(event, settings))
           WHEN 'task' THEN
               -- a Lead whose id the service did not tell has all that the Task would say
               CASE WHEN type <> 'lead.captured' OR who_id IS NOT NULL THEN
                   chatwebhook._salesforce_write(base, 'Task', task_field, event_id, chatwebhook._salesforce_task(event, settings, who_id)) END
           END
      FROM known
$$;
COMMENT ON FUNCTION chatwebhook.salesforce(jsonb, jsonb, jsonb) IS
    'Connector. lead.captured: upserts a Lead keyed by the event if there is settings.external_id_field, else adds a Task to the Contact of that address, or creates a Lead and a Task for it; handoff.requested and sales.opportunity: a Task; other events: nothing. Settings: api_version (v68.0), external_id_field and task_external_id_field (fields that take the event''s id; none), lead_source (Chatbot), last_name and company (Unknown) where a lead has none, task_status (Not Started), owner_id (the user of the credentials).';

/*
 * 300: several records have the event's id already, so that there is nothing to
 * create.  Duplicates that the organization's rules refuse are final.
 */
INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('salesforce', 'chatwebhook.salesforce(jsonb,jsonb,jsonb)',
     'Salesforce: leads and tasks, by the OAuth 2.0 client credentials of a connected app.',
     '[{"status": 300, "means": "success"},
       {"status": 403, "contains": "REQUEST_LIMIT_EXCEEDED", "means": "retry", "wait": 60},
       {"status": 400, "contains": "UNABLE_TO_LOCK_ROW", "means": "retry"},
       {"status": 400, "contains": "DUPLICATES_DETECTED", "means": "dead"}]', true);
