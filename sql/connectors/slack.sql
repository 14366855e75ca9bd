/*
 * Slack: incoming webhooks, in Block Kit.
 *
 * Nothing in an event can ping or forge a link: &, < and > are escaped, and
 * verbatim keeps Slack from looking for names in the text.  The sizes below keep
 * a message under 12,000 characters, including JSON escapes.
 */
CREATE FUNCTION chatwebhook._slack_text(value text, size integer, one_line boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    value := chatwebhook.cut(value, size);
    IF one_line THEN
        value := regexp_replace(value, E'\\s+', ' ', 'g');
    END IF;
    value := btrim(regexp_replace(value, E'[\\u0001-\\u0008\\u000B-\\u001F\\u007F]', '', 'g'), E' \t\n');
    value := chatwebhook.cut(replace(replace(replace(value, '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), size);
    -- remove what a cut has left of an entity
    RETURN nullif(regexp_replace(value, '&[a-z]{0,3}(?![a-z;])', ''), '');
END
$$;
COMMENT ON FUNCTION chatwebhook._slack_text(text, integer, boolean) IS
    'Returns the text escaped for Slack, without control characters, in at most this many characters; null if nothing is left.';

/*
 * A message has at most these blocks: a header, an introduction, a quotation,
 * fields, a button, and where the event comes from.  The table below says which
 * ones each type of event has.
 */
CREATE FUNCTION chatwebhook.slack(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, NULL, NULL, jsonb_build_object(
               -- what notifications show
               'text', chatwebhook._slack_text(m.fallback, 200, true),
               'unfurl_links', false,
               'unfurl_media', false,
               'blocks', (SELECT jsonb_agg(u.block ORDER BY u.n)
                            FROM unnest(ARRAY[b.header, b.introduction, CASE WHEN m.quotes_first THEN b.quotation END, b.fields,
                                              CASE WHEN NOT m.quotes_first THEN b.quotation END, b.button, b.origin])
                                 WITH ORDINALITY AS u(block, n)
                           WHERE u.block IS NOT NULL)), true)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   webhook->'settings' AS settings,
                   -- for any other type: the text of a message, or data without keys
                   CASE jsonb_typeof(event->'data')
                        WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                        ELSE event #>> '{data}' END AS main,
                   coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                            event #>> '{data,closedAt}' IS NOT NULL) AS closed,
                   CASE WHEN webhook #>> '{settings,mention}' ~ '^.{1,200}$'
                        THEN concat(webhook #>> '{settings,mention}', ' ') ELSE '' END AS mention,
                   rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                       || chatwebhook.url_encode(nullif(event->>'conversationId', '')) AS link) AS e
     CROSS JOIN LATERAL (
           SELECT ':speech_balloon: New Chat Conversation' AS title,
                  concat_ws(': ', 'New chat conversation', data->>'pageUrl') AS fallback,
                  NULL AS introduction,
                  '{Visitor,Page,Referrer}'::text[] AS labels,
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'pageUrl', 'N/A'), data->>'referrer'] AS texts,
                  NULL AS quotes, NULL AS quoted, false AS quotes_first,
                  'View Conversation' AS button, NULL AS style, link AS target
            WHERE type = 'conversation.started'
           UNION ALL
           SELECT ':tada: New Lead Captured!',
                  concat_ws(': ', 'New lead captured', nullif(concat_ws(', ', data->>'name', data->>'email'), '')),
                  format('*%s* just shared their contact info', coalesce(chatwebhook._slack_text(data->>'name', 200, true), 'Unknown')),
                  '{Email,Phone,Company,Source}',
                  ARRAY[coalesce(data->>'email', 'N/A'), coalesce(data->>'phone', 'N/A'),
                        coalesce(data->>'company', 'N/A'), coalesce(data->>'source', 'N/A')],
                  'Conversation Summary', data->>'conversationSummary', false,
                  'View Conversation', NULL, link
            WHERE type = 'lead.captured'
           UNION ALL
           SELECT concat(CASE lower(left(data->>'urgency', 20))
                              WHEN 'low' THEN ':large_green_circle:'
                              WHEN 'high' THEN ':red_circle:'
                              WHEN 'urgent' THEN ':red_circle:'
                              WHEN 'critical' THEN ':red_circle:'
                              ELSE ':large_yellow_circle:' END, ' Human Handoff Requested'),
                  concat_ws(': ', 'Human handoff requested', data->>'reason'),
                  mention || 'A visitor needs human assistance.',
                  '{Visitor,Email,Urgency}',
                  ARRAY[data->>'visitorName', data->>'visitorEmail', data->>'urgency'],
                  'Reason', coalesce(data->>'reason', 'N/A'), false,
                  'Take Over Chat', 'primary', link || '/takeover'
            WHERE type = 'handoff.requested'
           UNION ALL
           SELECT ':warning: Negative Sentiment Detected',
                  concat_ws(': ', 'Negative sentiment detected', data->>'message'),
                  mention || 'A visitor appears frustrated or unhappy.',
                  '{Sentiment Score}',
                  ARRAY[chatwebhook._score(data->'sentimentScore')],
                  'Message', coalesce(data->>'message', 'N/A'), true,
                  'View Conversation', NULL, link
            WHERE type = 'sentiment.negative'
           UNION ALL
           SELECT ':moneybag: Sales Opportunity',
                  concat_ws(': ', 'Sales opportunity', data->>'intent'),
                  mention || 'Potential sale detected!',
                  '{Visitor,Est. Value}',
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'),
                        coalesce(chatwebhook._amount(data->'estimatedValue', settings->>'currency'), 'Unknown')],
                  'Intent', coalesce(data->>'intent', 'N/A'), false,
                  'View Conversation', NULL, link
            WHERE type = 'sales.opportunity'
           UNION ALL
           SELECT ':star: Feedback Received',
                  concat_ws(': ', 'Feedback received', data->>'rating'),
                  NULL,
                  '{Rating}',
                  ARRAY[CASE WHEN data->>'rating' ~ '^[1-5]$'
                             THEN concat(repeat(':star:', (data->>'rating')::integer), ' (', data->>'rating', ')')
                             ELSE coalesce(data->>'rating', 'N/A') END],
                  'Comment', data->>'comment', false,
                  'View Conversation', NULL, link
            WHERE type = 'feedback.received'
           UNION ALL
           SELECT CASE WHEN closed THEN ':white_check_mark: Webhook Alert Closed' ELSE ':rotating_light: Webhook Alert' END,
                  concat_ws(': ', CASE WHEN closed THEN 'Webhook alert closed' ELSE 'Webhook alert' END, data->>'message'),
                  CASE WHEN NOT closed THEN mention || 'A webhook needs attention.' END,
                  '{Webhook,Kind,Opened,Closed}',
                  ARRAY[coalesce(data->>'webhookName', data->>'webhookId', 'Unknown'), data->>'kind',
                        data->>'openedAt', data->>'closedAt'],
                  'Message', data->>'message', false,
                  -- an alert belongs to no conversation
                  NULL, NULL, NULL
            WHERE type = 'webhook.alert'
           UNION ALL
           SELECT coalesce(nullif(btrim(type, E' \t\r\n'), ''), 'Event'),
                  concat_ws(': ', coalesce(nullif(btrim(type), ''), 'Event'), nullif(main, '')),
                  NULL,
                  array_agg(f.key), array_agg(f.value),
                  'Message', main, true,
                  'View Conversation', NULL, link
             FROM (SELECT key, value
                     FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                    WHERE value <> '' AND key NOT IN ('content', 'message') LIMIT 10) AS f
           HAVING coalesce(type NOT IN ('conversation.started', 'lead.captured', 'handoff.requested', 'sentiment.negative',
                                        'sales.opportunity', 'feedback.received', 'webhook.alert'), true)
           ) AS m
     CROSS JOIN LATERAL (
           SELECT jsonb_build_object('type', 'header', 'text',
                      jsonb_build_object('type', 'plain_text', 'emoji', true,
                                         'text', chatwebhook._slack_text(m.title, 150, true))) AS header,
                  CASE WHEN m.introduction IS NOT NULL THEN jsonb_build_object('type', 'section', 'text',
                      jsonb_build_object('type', 'mrkdwn', 'verbatim', true, 'text', m.introduction)) END AS introduction,
                  -- line by line, so that no line of the text stands outside the quotation
                  (SELECT jsonb_build_object('type', 'section', 'text', jsonb_build_object('type', 'mrkdwn', 'verbatim', true,
                              'text', '*' || m.quotes || E':*\n' || regexp_replace(chatwebhook.cut(
                                          '>' || replace(q.text, E'\n', E'\n>'), 2000), '&[a-z]{0,3}(?![a-z;])', '')))
                     FROM chatwebhook._slack_text(m.quoted, 2000) AS q(text)
                    WHERE q.text IS NOT NULL) AS quotation,
                  -- a URL becomes a link that shows where it leads
                  (SELECT jsonb_build_object('type', 'section', 'fields',
                              jsonb_agg(jsonb_build_object('type', 'mrkdwn', 'verbatim', true,
                                            'text', format(E'*%s:*\n%s', coalesce(chatwebhook._slack_text(f.label, 40, true), 'Value'), f.value))
                                        ORDER BY f.n))
                     FROM (SELECT u.n, u.label,
                                  CASE WHEN chatwebhook.cut(u.text, s.size) ~ '^https?://[!#-;=?-{}~]+$'
                                        AND length(chatwebhook._slack_text(u.text, 6 * s.size)) <= s.size - 2
                                       THEN '<' || chatwebhook._slack_text(u.text, s.size) || '>'
                                       ELSE chatwebhook._slack_text(u.text, s.size, true) END AS value
                             FROM unnest(m.labels, m.texts) WITH ORDINALITY AS u(label, text, n),
                                  LATERAL (SELECT CASE WHEN cardinality(m.labels) > 5 THEN 200 ELSE 400 END) AS s(size)
                            WHERE u.n <= 10) AS f
                    WHERE f.value IS NOT NULL
                   HAVING count(*) > 0) AS fields,
                  -- no button without a link, nor with one that is too long for Slack
                  CASE WHEN m.target ~ '^https?://' AND chatwebhook.cut(m.target, 3000) = m.target THEN
                      jsonb_build_object('type', 'actions', 'elements', jsonb_build_array(jsonb_strip_nulls(
                          jsonb_build_object('type', 'button', 'style', m.style, 'url', m.target,
                              'text', jsonb_build_object('type', 'plain_text', 'text', m.button))))) END AS button,
                  (SELECT jsonb_build_object('type', 'context', 'elements', jsonb_build_array(
                              jsonb_build_object('type', 'mrkdwn', 'verbatim', true, 'text', o.line)))
                     FROM concat_ws(', ', 'Chatbot ' || chatwebhook._slack_text(event->>'chatbotId', 100, true),
                                          'Conversation ' || chatwebhook._slack_text(event->>'conversationId', 100, true)) AS o(line)
                    WHERE o.line <> '' AND m.button IS NOT NULL) AS origin
           ) AS b
     WHERE jsonb_array_length(replies) = 0
$$;
COMMENT ON FUNCTION chatwebhook.slack(jsonb, jsonb, jsonb) IS
    'Connector: posts a message through a Slack incoming webhook. Settings: app_url, the address of your application (a button opens app_url/conversations/ID, or app_url/conversations/ID/takeover for a hand-off; default: no buttons); mention, in Slack''s notation, such as <!here> or <@U012AB3CD>, added to hand-offs, negative sentiment, sales opportunities and opened alerts (default: none); currency, shown before the estimated value (default: $).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('slack', 'chatwebhook.slack(jsonb,jsonb,jsonb)',
     'A message in a Slack channel, through an incoming webhook.',
     '[{"status": 410, "means": "disable"},
       {"status": 404, "contains": "no_service", "means": "disable"}]', true);
