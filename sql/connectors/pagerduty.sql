/*
 * PagerDuty: Events API v2.  The routing key is in the webhook's auth, of type
 * "body", which the connector does not see.
 *
 * Trouble that lasts has one dedup key, so that a repeat, or a second message
 * from the same unhappy visitor, joins the open incident.  The keys of a
 * conversation's incidents are remembered: a human who takes over acknowledges
 * them, and the end of the conversation resolves them.
 */
CREATE FUNCTION chatwebhook._pagerduty_event(event jsonb, webhook jsonb, type text) RETURNS jsonb
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    data    jsonb := event->'data';
    urgency text := lower(left(event #>> '{data,urgency}', 20));
    wanted  text := lower(coalesce(CASE jsonb_typeof(webhook #> '{settings,severity}')
                                       WHEN 'object' THEN webhook #>> ARRAY['settings', 'severity', type]
                                       WHEN 'string' THEN webhook #>> '{settings,severity}' END, ''));
    link    text := chatwebhook._link(event, webhook);
BEGIN
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'event_action', 'trigger',
        'client', 'chatwebhook',
        'client_url', CASE WHEN type <> 'webhook.alert' THEN link END,
        'links', CASE WHEN type <> 'webhook.alert' AND link IS NOT NULL
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
                WHEN wanted IN ('critical', 'error', 'warning', 'info') THEN wanted
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
            'class', event->>'type'))) || jsonb_build_object('details',
               -- what the event has, within the 512 kB that the service accepts
               (SELECT coalesce(jsonb_object_agg(chatwebhook.cut(d.key, 255), chatwebhook.cut(d.value, 4000)), '{}')
                  FROM (SELECT d.key, d.value
                          FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END) AS d
                         WHERE d.value <> '' AND chatwebhook.cut(d.key, 255) <> ''
                         ORDER BY d.key LIMIT 20) AS d)
               || jsonb_strip_nulls(jsonb_build_object('event', event->>'id', 'conversation', chatwebhook.cut(event->>'conversationId', 500)))
               || (SELECT coalesce(jsonb_object_agg(chatwebhook.cut(f.key, 255), chatwebhook.cut(f.value, 4000)), '{}')
                     FROM (SELECT f.key, f.value FROM jsonb_each_text(chatwebhook._fields(event, webhook->'settings', ', ')) AS f
                            ORDER BY f.key LIMIT 20) AS f));
END
$$;
COMMENT ON FUNCTION chatwebhook._pagerduty_event(jsonb, jsonb, text) IS
    'Returns the event that triggers an incident, without its key and with its details apart.';

CREATE FUNCTION chatwebhook.pagerduty(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
DECLARE
    type    text := coalesce(webhook #>> ARRAY['settings', 'as', event->>'type'], event->>'type');
    step    integer := jsonb_array_length(replies);
    urgency text := lower(left(event #>> '{data,urgency}', 20));
    closed  boolean := coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                                event #>> '{data,closedAt}' IS NOT NULL);
    opened  text[];     -- keys of the conversation's incidents
    key     text;
    body    jsonb;
BEGIN
    -- a human has taken over, or the conversation has ended
    IF type IN ('handoff.accepted', 'conversation.ended') THEN
        opened := array_remove(ARRAY[webhook #>> '{memory,handoff}', webhook #>> '{memory,sentiment}'], NULL);
        key := opened[step + 1];
        IF key IS NULL OR key !~ '^chatwebhook/' OR chatwebhook.cut(key, 255) <> key THEN
            RETURN NULL;
        END IF;
        RETURN ROW(NULL, NULL, NULL, jsonb_build_object(
                       'event_action', CASE type WHEN 'handoff.accepted' THEN 'acknowledge' ELSE 'resolve' END,
                       'dedup_key', key), step + 1 >= cardinality(opened))::chatwebhook.request;
    END IF;
    IF type IS NULL OR step > (CASE type WHEN 'webhook.test' THEN 1 ELSE 0 END)
       OR NOT (type IN ('sentiment.negative', 'webhook.alert', 'webhook.test')
               OR type = 'handoff.requested' AND coalesce(urgency IN ('high', 'urgent', 'critical'), false)) THEN
        RETURN NULL;
    END IF;

    key := array_to_string(ARRAY['chatwebhook', type] || CASE type
        WHEN 'webhook.alert' THEN ARRAY[
            coalesce(event #>> '{data,webhookId}', event #>> '{data,webhookName}'),
            coalesce(event #>> '{data,alertId}', event #>> '{data,kind}')]
        WHEN 'webhook.test' THEN ARRAY[event->>'id']
        ELSE ARRAY[event->>'chatbotId', coalesce(nullif(event->>'conversationId', ''), event->>'id')] END, '/');
    -- a long key is replaced by its hash
    IF chatwebhook.cut(key, 255) <> key THEN
        key := concat('chatwebhook/', type, '/', encode(sha256(convert_to(key, 'UTF8')), 'hex'));
    END IF;
    IF type = 'webhook.alert' AND closed OR type = 'webhook.test' AND step = 1 THEN
        body := jsonb_build_object('event_action', 'resolve', 'dedup_key', key);
    ELSE
        body := chatwebhook._pagerduty_event(event, webhook, type);
        body := jsonb_set(body - 'details', '{payload,custom_details}', jsonb_strip_nulls(body->'details'))
                || jsonb_build_object('dedup_key', key);
    END IF;
    RETURN ROW(NULL, NULL, NULL, body, type <> 'webhook.test' OR step = 1)::chatwebhook.request;
END
$$;
COMMENT ON FUNCTION chatwebhook.pagerduty(jsonb, jsonb, jsonb) IS
    'Connector for PagerDuty''s Events API v2. Incidents are triggered by sentiment.negative (severity warning, or error for a score of at least 0.9), by handoff.requested of urgency high (error), urgent or critical (critical; hand-offs of other urgency send nothing), and by an opened webhook.alert (webhook_disabled: critical; low_success_rate and backlog: warning; others: error). handoff.accepted acknowledges the incidents of its conversation, conversation.ended resolves them, and a closed webhook.alert resolves its own. webhook.test triggers and resolves one of severity info. Other events send nothing. Settings: severity, for all, or an object by type of event; source, the affected system (default: the chatbot''s id, or in an alert, the webhook''s name); app_url, the address of your application, for a link to app_url/conversations/ID (default: no link); fields (custom details) and as, see docs/connectors.md.';

INSERT INTO chatwebhook.connector (name, function, description, replies, ordered, shipped) VALUES
    ('pagerduty', 'chatwebhook.pagerduty(jsonb,jsonb,jsonb)',
     'An incident in PagerDuty, through its Events API v2.',
     E'[{"status": 202, "path": "$.status == \\"success\\" && $.dedup_key starts with \\"chatwebhook/handoff.requested/\\"", "means": "success", "remember": {"handoff": "$.dedup_key"}},
       {"status": 202, "path": "$.status == \\"success\\" && $.dedup_key starts with \\"chatwebhook/sentiment.negative/\\"", "means": "success", "remember": {"sentiment": "$.dedup_key"}},
       {"status": 202, "path": "$.status == \\"success\\"", "means": "success"},
       {"status": [429, 500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530],
        "means": "retry", "wait": 60}]', true, true);
