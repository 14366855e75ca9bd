/*
 * PagerDuty: Events API v2.  The routing key is in the webhook's auth, of type
 * "body", which the connector does not see.
 *
 * Trouble that lasts has one dedup key, so that a repeat, or a second message
 * from the same unhappy visitor, joins the open incident.
 */
CREATE FUNCTION chatwebhook.pagerduty(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
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
                'summary', chatwebhook._line(to_jsonb(chatwebhook.cut(concat_ws(': ', CASE type
                    WHEN 'sentiment.negative' THEN 'Negative sentiment'
                    WHEN 'handoff.requested' THEN 'Human handoff requested'
                    WHEN 'webhook.alert' THEN 'Webhook alert'
                    ELSE 'Test of a webhook' END,
                    CASE type WHEN 'handoff.requested' THEN data->>'reason' ELSE data->>'message' END), 1024)), 1024),
                'source', coalesce(chatwebhook._line(to_jsonb(chatwebhook.cut(coalesce(webhook #>> '{settings,source}',
                    CASE type WHEN 'webhook.alert' THEN coalesce(data->>'webhookName', data->>'webhookId')
                              ELSE event->>'chatbotId' END), 255)), 255), 'chatwebhook'),
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
                'group', chatwebhook._line(to_jsonb(chatwebhook.cut(event->>'chatbotId', 255)), 255),
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
      FROM (SELECT e.*,
                   -- a long key is replaced by its hash
                   CASE WHEN chatwebhook.cut(key, 255) = key THEN key
                        ELSE 'chatwebhook/' || encode(sha256(convert_to(key, 'UTF8')), 'hex') END AS dedup_key
              FROM (SELECT event->>'type' AS type,
                           event->'data' AS data,
                           jsonb_array_length(replies) AS step,
                           lower(left(event #>> '{data,urgency}', 20)) AS urgency,
                           CASE WHEN event->>'type' = 'webhook.test' AND jsonb_array_length(replies) = 1
                                  OR event->>'type' = 'webhook.alert'
                                     AND coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                                                  event #>> '{data,closedAt}' IS NOT NULL)
                                THEN 'resolve' ELSE 'trigger' END AS action,
                           array_to_string(ARRAY['chatwebhook', event->>'type'] || CASE event->>'type'
                               WHEN 'webhook.alert' THEN ARRAY[
                                   coalesce(event #>> '{data,webhookId}', event #>> '{data,webhookName}'),
                                   coalesce(event #>> '{data,alertId}', event #>> '{data,kind}')]
                               WHEN 'webhook.test' THEN ARRAY[event->>'id']
                               ELSE ARRAY[event->>'chatbotId',
                                          coalesce(nullif(event->>'conversationId', ''), event->>'id')] END, '/') AS key,
                           rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                               || chatwebhook.url_encode(nullif(event->>'conversationId', '')) AS link) AS e) AS e
     WHERE step <= CASE type WHEN 'webhook.test' THEN 1 ELSE 0 END
       AND (type IN ('sentiment.negative', 'webhook.alert', 'webhook.test')
            OR type = 'handoff.requested' AND urgency IN ('high', 'urgent', 'critical'))
$$;
COMMENT ON FUNCTION chatwebhook.pagerduty(jsonb, jsonb, jsonb) IS
    'Connector for PagerDuty''s Events API v2. Incidents are triggered by sentiment.negative (severity warning, or error for a score of at least 0.9), by handoff.requested of urgency high (error), urgent or critical (critical; hand-offs of other urgency send nothing), and by an opened webhook.alert (webhook_disabled: critical; low_success_rate and backlog: warning; others: error). A closed webhook.alert resolves its incident. webhook.test triggers and resolves one of severity info. Other events send nothing. Settings: source, the affected system (default: the chatbot''s id, or in an alert, the webhook''s name); app_url, the address of your application, for a link to app_url/conversations/ID (default: no link).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('pagerduty', 'chatwebhook.pagerduty(jsonb,jsonb,jsonb)',
     'An incident in PagerDuty, through its Events API v2.',
     '[{"status": [429, 500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530],
        "means": "retry", "wait": 60}]', true);
