/*
 * PagerDuty: Events API v2.  The routing key is the webhook's auth of type
 * "body"; this file does not know it.
 *
 * What goes on for some time has one dedup key, so that a repeat, or a second
 * message of the same unhappy visitor, joins the incident that is open.
 */
CREATE FUNCTION chatwebhook._pagerduty_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT nullif(btrim(regexp_replace(chatwebhook.cut(value, size), E'[\\s\\u0001-\\u001F\\u007F]+', ' ', 'g')), '')
$$;
COMMENT ON FUNCTION chatwebhook._pagerduty_text(text, integer) IS
    'As much of the text, on one line; null if nothing is left.';

CREATE FUNCTION chatwebhook._pagerduty_key(VARIADIC parts text[]) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN chatwebhook.cut(key, 255) = key THEN key
                ELSE 'chatwebhook/' || encode(sha256(convert_to(key, 'UTF8')), 'hex') END
      FROM (SELECT array_to_string(array_prepend('chatwebhook', parts), '/') AS key) AS k
$$;
COMMENT ON FUNCTION chatwebhook._pagerduty_key(text[]) IS
    'A dedup key made of these parts, or of their hash if they are too long for one.';

CREATE FUNCTION chatwebhook.pagerduty(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, NULL, NULL, CASE
        WHEN action = 'resolve' THEN
            jsonb_build_object('event_action', 'resolve', 'dedup_key', dedup_key)
        ELSE jsonb_strip_nulls(jsonb_build_object(
            'event_action', 'trigger',
            'dedup_key', dedup_key,
            'client', 'chatwebhook',
            'links', CASE WHEN link ~ '^https?://' AND chatwebhook.cut(link, 2000) = link
                          THEN jsonb_build_array(jsonb_build_object('href', link, 'text', 'Conversation')) END,
            'payload', jsonb_build_object(
                'summary', chatwebhook._pagerduty_text(concat_ws(': ', CASE type
                    WHEN 'sentiment.negative' THEN 'Negative sentiment'
                    WHEN 'handoff.requested' THEN 'Human handoff requested'
                    WHEN 'webhook.alert' THEN 'Webhook alert'
                    ELSE 'Test of a webhook' END,
                    CASE type WHEN 'handoff.requested' THEN data->>'reason' ELSE data->>'message' END), 1024),
                'source', coalesce(chatwebhook._pagerduty_text(coalesce(webhook #>> '{settings,source}',
                    CASE type WHEN 'webhook.alert' THEN coalesce(data->>'webhookName', data->>'webhookId')
                              ELSE event->>'chatbotId' END), 255), 'chatwebhook'),
                'severity', CASE
                    WHEN type = 'webhook.test' THEN 'info'
                    WHEN type = 'handoff.requested' THEN
                        CASE urgency WHEN 'high' THEN 'error' ELSE 'critical' END
                    WHEN type = 'webhook.alert' THEN
                        CASE data->>'kind' WHEN 'webhook_disabled' THEN 'critical'
                                           WHEN 'low_success_rate' THEN 'warning'
                                           WHEN 'backlog' THEN 'warning'
                                           ELSE 'error' END
                    ELSE CASE WHEN jsonb_path_match(data, 'exists($.sentimentScore ? (@ >= 0.9 && @ <= 1))', '{}', true)
                              THEN 'error' ELSE 'warning' END END,
                'timestamp', substring(event->>'timestamp'
                    FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$'),
                'group', chatwebhook._pagerduty_text(event->>'chatbotId', 255),
                'class', type,
                'custom_details', jsonb_build_object(
                    'event', event->>'id',
                    'conversation', chatwebhook.cut(event->>'conversationId', 500),
                    'message', chatwebhook.cut(data->>'message', 4000),
                    'reason', chatwebhook.cut(data->>'reason', 4000),
                    'score', chatwebhook.cut(data->>'sentimentScore', 100),
                    'urgency', chatwebhook.cut(data->>'urgency', 100),
                    'visitor', chatwebhook.cut(data->>'visitorName', 500),
                    'email', chatwebhook.cut(data->>'visitorEmail', 500),
                    'kind', chatwebhook.cut(data->>'kind', 100),
                    'webhook', chatwebhook.cut(data->>'webhookName', 500)))))
        END, type <> 'webhook.test' OR step = 1)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   jsonb_array_length(replies) AS step,
                   lower(left(event #>> '{data,urgency}', 20)) AS urgency,
                   CASE WHEN event->>'type' = 'webhook.test' AND jsonb_array_length(replies) = 1
                          OR event->>'type' = 'webhook.alert'
                             AND coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                                          event #>> '{data,closedAt}' IS NOT NULL)
                        THEN 'resolve' ELSE 'trigger' END AS action,
                   CASE event->>'type'
                        WHEN 'webhook.alert' THEN chatwebhook._pagerduty_key('webhook.alert',
                            coalesce(event #>> '{data,webhookId}', event #>> '{data,webhookName}'),
                            coalesce(event #>> '{data,alertId}', event #>> '{data,kind}'))
                        WHEN 'webhook.test' THEN chatwebhook._pagerduty_key('webhook.test', event->>'id')
                        ELSE chatwebhook._pagerduty_key(event->>'type', event->>'chatbotId',
                            coalesce(nullif(event->>'conversationId', ''), event->>'id')) END AS dedup_key,
                   rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                       || chatwebhook.url_encode(nullif(event->>'conversationId', '')) AS link) AS e
     WHERE step <= CASE type WHEN 'webhook.test' THEN 1 ELSE 0 END
       AND (type IN ('sentiment.negative', 'webhook.alert', 'webhook.test')
            OR type = 'handoff.requested' AND urgency IN ('high', 'urgent', 'critical'))
$$;
COMMENT ON FUNCTION chatwebhook.pagerduty(jsonb, jsonb, jsonb) IS
    'Connector: PagerDuty''s Events API v2. sentiment.negative (severity warning, from a score of 0.9 error), handoff.requested of urgency high (error), urgent or critical (critical; of any other nothing is sent) and an opened webhook.alert (webhook_disabled critical, low_success_rate and backlog warning, else error) trigger; a closed webhook.alert resolves what it triggered; webhook.test triggers and resolves at severity info; other events send nothing. Settings: source, the affected system (the chatbot''s id, or the webhook''s name in an alert); app_url, the address of your application, for a link to app_url/conversations/ID (none: no link).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('pagerduty', 'chatwebhook.pagerduty(jsonb,jsonb,jsonb)',
     'An incident at PagerDuty, through its Events API v2.',
     '[{"status": [429, 500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530],
        "means": "retry", "wait": 60}]', true);
