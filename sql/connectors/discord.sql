/*
 * Discord: channel webhooks, with an embed for each event.
 *
 * Texts of an event are only in the embed, where nothing pings, with their
 * Markdown escaped; content is "@here" or absent.  A text that is cut behind a
 * backslash ends in an escaped ellipsis, which is an ellipsis.  The sizes below
 * keep an embed under the 6,000 characters that Discord accepts in total.
 */
CREATE FUNCTION chatwebhook._discord_text(value text, size integer, escaped boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    value := btrim(regexp_replace(chatwebhook.cut(value, size),
                                  E'[\\u0001-\\u0008\\u000B-\\u001F\\u007F]', '', 'g'), E' \t\n');
    -- Discord rejects a text of blanks only, Unicode's included
    IF value !~ E'[^\\s\\u00A0\\u1680\\u180E\\u2000-\\u200F\\u2028-\\u202F\\u205F-\\u206F\\u3000\\uFEFF]' THEN
        RETURN NULL;
    ELSIF NOT escaped THEN
        RETURN value;
    END IF;
    value := regexp_replace(value, E'([\\\\*_~`|<>@#\\[\\]])', E'\\\\\\1', 'g');
    -- an escaped :// makes no link
    value := replace(value, '://', E'\\://');
    RETURN chatwebhook.cut(regexp_replace(value, E'^([ \\t]*)-', E'\\1\\\\-', 'gn'), size);
END
$$;
COMMENT ON FUNCTION chatwebhook._discord_text(text, integer, boolean) IS
    'Returns the text without control characters and with its Markdown escaped, in at most this many characters; null if nothing is left.';

CREATE FUNCTION chatwebhook.discord(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, webhook->>'url' || '?wait=true', NULL, jsonb_strip_nulls(jsonb_build_object(
        'username', username,
        'avatar_url', avatar_url,
        'content', CASE WHEN here THEN '@here' END,
        'allowed_mentions', jsonb_build_object('parse', CASE WHEN here THEN '["everyone"]' ELSE '[]' END::jsonb),
        'embeds', jsonb_build_array(jsonb_build_object(
            'title', chatwebhook._discord_text(m.title, 256),
            'color', m.color,
            'description', chatwebhook._discord_text(m.description, 1500),
            -- small fields stand side by side; a plain URL stays a link
            'fields', (SELECT jsonb_agg(jsonb_build_object('name', coalesce(chatwebhook._discord_text(u.label, 50), 'Value'),
                                                           'value', f.value, 'inline', u.size <= 300) ORDER BY u.n)
                         FROM unnest(m.labels, m.texts, m.sizes) WITH ORDINALITY AS u(label, text, size, n),
                              LATERAL (SELECT CASE WHEN chatwebhook.cut(u.text, u.size) ~ '^https?://[A-Za-z0-9._~:/?#$&+,;=%-]+$'
                                                   THEN chatwebhook.cut(u.text, u.size)
                                                   ELSE chatwebhook._discord_text(u.text, u.size) END) AS f(value)
                        WHERE f.value IS NOT NULL),
            'timestamp', sent_at,
            'footer', CASE WHEN footer <> '' THEN jsonb_build_object('text', footer) END)))),
        true)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   webhook->'settings' AS settings,
                   -- for any other type: the text of a message, or data without keys
                   CASE jsonb_typeof(event->'data')
                        WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                        ELSE event #>> '{data}' END AS main,
                   coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                            event #>> '{data,closedAt}' IS NOT NULL) AS closed,
                   coalesce(event->>'type' = 'sales.opportunity'
                            AND webhook #> '{settings,mention_here}' = 'true', false) AS here,
                   -- Discord rejects these names
                   CASE WHEN webhook #>> '{settings,username}' !~* 'clyde|discord'
                        THEN chatwebhook._discord_text(webhook #>> '{settings,username}', 80, false) END AS username,
                   substring(left(webhook #>> '{settings,avatar_url}', 2048) FROM '^https?://[!-~]+$') AS avatar_url,
                   substring(event->>'timestamp'
                             FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$') AS sent_at,
                   concat_ws(', ', 'Chatbot: ' || chatwebhook._discord_text(event->>'chatbotId', 100, false),
                                   'Conversation: ' || chatwebhook._discord_text(event->>'conversationId', 100, false))
                       AS footer) AS e
     CROSS JOIN LATERAL (
           SELECT 'New Chat Conversation' AS title, 3447003 /* blue */ AS color, NULL AS description,
                  '{Visitor,Page,Referrer}'::text[] AS labels,
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'pageUrl', 'N/A'), data->>'referrer'] AS texts,
                  '{300,1000,1000}'::integer[] AS sizes
            WHERE type = 'conversation.started'
           UNION ALL
           SELECT 'New Lead Captured', 65280 /* green */, NULL,
                  '{Name,Email,Phone,Company,Source,Summary}',
                  ARRAY[coalesce(data->>'name', 'Unknown'), coalesce(data->>'email', 'N/A'), data->>'phone',
                        coalesce(data->>'company', 'N/A'), coalesce(data->>'source', 'N/A'), data->>'conversationSummary'],
                  '{300,300,300,300,300,1024}'
            WHERE type = 'lead.captured'
           UNION ALL
           SELECT 'Sales Opportunity', 16766720 /* gold */, 'Potential sale detected!',
                  '{Visitor,Intent,Est. Value}',
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'intent', 'N/A'),
                        coalesce(chatwebhook._amount(data->'estimatedValue', settings->>'currency'), 'Unknown')],
                  '{300,300,300}'
            WHERE type = 'sales.opportunity'
           UNION ALL
           SELECT 'Negative Sentiment Detected', 16711680 /* red */, 'A visitor appears frustrated or unhappy.',
                  '{Message,Sentiment Score}',
                  ARRAY[coalesce(data->>'message', 'N/A'), chatwebhook._score(data->'sentimentScore')],
                  '{1024,300}'
            WHERE type = 'sentiment.negative'
           UNION ALL
           SELECT 'Human Handoff Requested',
                  CASE WHEN lower(left(data->>'urgency', 20)) IN ('high', 'urgent', 'critical')
                       THEN 16711680 /* red */ ELSE 15105570 /* orange */ END,
                  'A visitor needs human assistance.',
                  '{Visitor,Email,Urgency,Reason}',
                  ARRAY[data->>'visitorName', data->>'visitorEmail', data->>'urgency', coalesce(data->>'reason', 'N/A')],
                  '{300,300,300,1024}'
            WHERE type = 'handoff.requested'
           UNION ALL
           SELECT 'Feedback Received', 10181046 /* purple */, NULL,
                  '{Rating,Comment}',
                  ARRAY[coalesce(data->>'rating', 'N/A'), data->>'comment'],
                  '{300,1024}'
            WHERE type = 'feedback.received'
           UNION ALL
           SELECT CASE WHEN closed THEN 'Webhook Alert Closed' ELSE 'Webhook Alert' END,
                  CASE WHEN closed THEN 65280 /* green */ ELSE 16711680 /* red */ END,
                  data->>'message',
                  '{Webhook,Kind,Opened,Closed}',
                  ARRAY[coalesce(data->>'webhookName', data->>'webhookId', 'Unknown'), data->>'kind',
                        data->>'openedAt', data->>'closedAt'],
                  '{300,300,300,300}'
            WHERE type = 'webhook.alert'
           UNION ALL
           SELECT coalesce(chatwebhook._discord_text(type, 256, false), 'Event'), 9807270 /* gray */, main,
                  array_agg(f.key), array_agg(f.value), array_agg(300)
             FROM (SELECT key, value
                     FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                    WHERE value <> '' AND key NOT IN ('content', 'message') LIMIT 10) AS f
           HAVING coalesce(type NOT IN ('conversation.started', 'lead.captured', 'sales.opportunity', 'sentiment.negative',
                                        'handoff.requested', 'feedback.received', 'webhook.alert'), true)
           ) AS m
     WHERE jsonb_array_length(replies) = 0
$$;
COMMENT ON FUNCTION chatwebhook.discord(jsonb, jsonb, jsonb) IS
    'Connector: posts an embed through a Discord channel webhook. Settings: username and avatar_url, shown instead of the webhook''s own (default: its own); mention_here, true to put @here before sales opportunities (default: false); currency, shown before the estimated value (default: $).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('discord', 'chatwebhook.discord(jsonb,jsonb,jsonb)',
     'An embed in a Discord channel, through its webhook.',
     '[{"status": 429, "means": "retry", "wait": "retry_after"},
       {"status": 404, "contains": "10015", "means": "disable"},
       {"status": 401, "contains": "50027", "means": "disable"}]', true);
