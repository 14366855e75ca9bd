/*
 * Discord: channel webhooks, an embed for each event.
 *
 * Text of an event stands in the embed only, where nothing pings, with its
 * markdown escaped; content is "@here" or absent.  A text that is cut behind a
 * backslash ends in an escaped ellipsis, which is an ellipsis.  The sizes below
 * keep an embed under the 6,000 characters that Discord takes in all.
 */
CREATE FUNCTION chatwebhook._discord_plain(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- Discord refuses a text of blanks alone, Unicode's among them
    SELECT CASE WHEN visible ~ E'[^\\s\\u00A0\\u1680\\u180E\\u2000-\\u200F\\u2028-\\u202F\\u205F-\\u206F\\u3000\\uFEFF]' THEN visible END
      FROM (SELECT btrim(regexp_replace(chatwebhook.cut(value, size),
                                        E'[\\u0001-\\u0008\\u000B-\\u001F\\u007F]', '', 'g'), E' \t\n') AS visible) AS v
$$;
COMMENT ON FUNCTION chatwebhook._discord_plain(text, integer) IS
    'As much of the text, without control characters, where Discord knows no markdown; null if nothing is left.';

CREATE FUNCTION chatwebhook._discord_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- an escaped :// is no link
    SELECT chatwebhook.cut(regexp_replace(replace(regexp_replace(
               chatwebhook._discord_plain(value, size),
               E'([\\\\*_~`|<>@#\\[\\]])', E'\\\\\\1', 'g'),
               '://', E'\\://'),
               E'^([ \\t]*)-', E'\\1\\\\-', 'gn'), size)
$$;
COMMENT ON FUNCTION chatwebhook._discord_text(text, integer) IS
    'The text with its markdown escaped, in at most that many characters; null if nothing is left.';

CREATE FUNCTION chatwebhook._discord_field(label text, value text, size integer DEFAULT 300) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('name', coalesce(chatwebhook._discord_text(label, 50), 'Value'),
                              'value', text, 'inline', size <= 300)
      FROM (SELECT CASE WHEN chatwebhook.cut(value, size) ~ '^https?://[A-Za-z0-9._~:/?#$&+,;=%-]+$'
                        THEN chatwebhook.cut(value, size)
                        ELSE chatwebhook._discord_text(value, size) END AS text) AS v
     WHERE text IS NOT NULL
$$;
COMMENT ON FUNCTION chatwebhook._discord_field(text, text, integer) IS
    'A field of an embed, inline if it is small; a plain URL stays a link. Null if there is no text.';

CREATE FUNCTION chatwebhook._discord_embed(title text, color integer, description text, VARIADIC fields jsonb[])
    RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'title', chatwebhook._discord_text(title, 256),
               'color', color,
               'description', chatwebhook._discord_text(description, 1500),
               'fields', jsonb_agg(field ORDER BY n) FILTER (WHERE field IS NOT NULL))
      FROM unnest(fields) WITH ORDINALITY AS u(field, n)
$$;
COMMENT ON FUNCTION chatwebhook._discord_embed(text, integer, text, jsonb[]) IS
    'An embed of these fields, less the null ones.';

CREATE FUNCTION chatwebhook._discord_score(score jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(score) <> 'number' THEN score #>> '{}'
                WHEN score::numeric BETWEEN 0 AND 1 THEN round(score::numeric * 100) || '% negative'
                ELSE score #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._discord_score(jsonb) IS 'A score from 0 to 1 as a percentage, anything else as it is.';

CREATE FUNCTION chatwebhook._discord_amount(amount jsonb, currency text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(amount) <> 'number' THEN amount #>> '{}'
                WHEN abs(amount::numeric) < 1e12
                THEN coalesce(currency, '$') || rtrim(to_char(amount::numeric, 'FM999,999,999,990.99'), '.')
                ELSE amount #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._discord_amount(jsonb, text) IS
    'A number as money, with commas between thousands; anything else as it is.';

CREATE FUNCTION chatwebhook.discord(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, webhook->>'url' || '?wait=true', NULL, jsonb_strip_nulls(jsonb_build_object(
        'username', username,
        'avatar_url', avatar_url,
        'content', CASE WHEN here THEN '@here' END,
        'allowed_mentions', jsonb_build_object('parse', CASE WHEN here THEN '["everyone"]' ELSE '[]' END::jsonb),
        'embeds', jsonb_build_array(CASE
            WHEN type = 'conversation.started' THEN chatwebhook._discord_embed(
                'New Chat Conversation', 3447003 /* blue */, NULL,
                chatwebhook._discord_field('Visitor', coalesce(data->>'visitorId', 'Unknown')),
                chatwebhook._discord_field('Page', coalesce(data->>'pageUrl', 'N/A'), 1000),
                chatwebhook._discord_field('Referrer', data->>'referrer', 1000))
            WHEN type = 'lead.captured' THEN chatwebhook._discord_embed(
                'New Lead Captured', 65280 /* green */, NULL,
                chatwebhook._discord_field('Name', coalesce(data->>'name', 'Unknown')),
                chatwebhook._discord_field('Email', coalesce(data->>'email', 'N/A')),
                chatwebhook._discord_field('Phone', data->>'phone'),
                chatwebhook._discord_field('Company', coalesce(data->>'company', 'N/A')),
                chatwebhook._discord_field('Source', coalesce(data->>'source', 'N/A')),
                chatwebhook._discord_field('Summary', data->>'conversationSummary', 1024))
            WHEN type = 'sales.opportunity' THEN chatwebhook._discord_embed(
                'Sales Opportunity', 16766720 /* gold */, 'Potential sale detected!',
                chatwebhook._discord_field('Visitor', coalesce(data->>'visitorId', 'Unknown')),
                chatwebhook._discord_field('Intent', coalesce(data->>'intent', 'N/A')),
                chatwebhook._discord_field('Est. Value',
                    coalesce(chatwebhook._discord_amount(data->'estimatedValue', settings->>'currency'), 'Unknown')))
            WHEN type = 'sentiment.negative' THEN chatwebhook._discord_embed(
                'Negative Sentiment Detected', 16711680 /* red */, 'A visitor appears frustrated or unhappy.',
                chatwebhook._discord_field('Message', coalesce(data->>'message', 'N/A'), 1024),
                chatwebhook._discord_field('Sentiment Score', chatwebhook._discord_score(data->'sentimentScore')))
            WHEN type = 'handoff.requested' THEN chatwebhook._discord_embed(
                'Human Handoff Requested',
                CASE WHEN lower(left(data->>'urgency', 20)) IN ('high', 'urgent', 'critical')
                     THEN 16711680 /* red */ ELSE 15105570 /* orange */ END,
                'A visitor needs human assistance.',
                chatwebhook._discord_field('Visitor', data->>'visitorName'),
                chatwebhook._discord_field('Email', data->>'visitorEmail'),
                chatwebhook._discord_field('Urgency', data->>'urgency'),
                chatwebhook._discord_field('Reason', coalesce(data->>'reason', 'N/A'), 1024))
            WHEN type = 'feedback.received' THEN chatwebhook._discord_embed(
                'Feedback Received', 10181046 /* purple */, NULL,
                chatwebhook._discord_field('Rating', coalesce(data->>'rating', 'N/A')),
                chatwebhook._discord_field('Comment', data->>'comment', 1024))
            WHEN type = 'webhook.alert' THEN chatwebhook._discord_embed(
                CASE WHEN closed THEN 'Webhook Alert Closed' ELSE 'Webhook Alert' END,
                CASE WHEN closed THEN 65280 /* green */ ELSE 16711680 /* red */ END,
                data->>'message',
                chatwebhook._discord_field('Webhook', coalesce(data->>'webhookName', data->>'webhookId', 'Unknown')),
                chatwebhook._discord_field('Kind', data->>'kind'),
                chatwebhook._discord_field('Opened', data->>'openedAt'),
                chatwebhook._discord_field('Closed', data->>'closedAt'))
            ELSE chatwebhook._discord_embed(
                coalesce(chatwebhook._discord_plain(type, 256), 'Event'), 9807270 /* grey */, main,
                VARIADIC ARRAY(
                    SELECT chatwebhook._discord_field(key, value)
                      FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                     WHERE value <> '' AND key NOT IN ('content', 'message') LIMIT 10))
            END || jsonb_build_object(
                'timestamp', sent_at,
                'footer', CASE WHEN footer <> '' THEN jsonb_build_object('text', footer) END)))),
        true)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   webhook->'settings' AS settings,
                   -- what the plain form says first: a message's text, or data that has no keys
                   CASE jsonb_typeof(event->'data')
                        WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                        ELSE event #>> '{data}' END AS main,
                   coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                            event #>> '{data,closedAt}' IS NOT NULL) AS closed,
                   coalesce(event->>'type' = 'sales.opportunity'
                            AND webhook #> '{settings,mention_here}' = 'true', false) AS here,
                   -- names that Discord refuses are left out
                   CASE WHEN webhook #>> '{settings,username}' !~* 'clyde|discord'
                        THEN chatwebhook._discord_plain(webhook #>> '{settings,username}', 80) END AS username,
                   substring(left(webhook #>> '{settings,avatar_url}', 2048) FROM '^https?://[!-~]+$') AS avatar_url,
                   substring(event->>'timestamp'
                             FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$') AS sent_at,
                   concat_ws(', ', 'Chatbot: ' || chatwebhook._discord_plain(event->>'chatbotId', 100),
                                   'Conversation: ' || chatwebhook._discord_plain(event->>'conversationId', 100))
                       AS footer) AS e
     WHERE jsonb_array_length(replies) = 0
$$;
COMMENT ON FUNCTION chatwebhook.discord(jsonb, jsonb, jsonb) IS
    'Connector: an embed through a Discord channel webhook. Settings: username and avatar_url, shown instead of the webhook''s own (none: its own); mention_here, true to put @here before sales opportunities (false); currency, put before the estimated value ($).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('discord', 'chatwebhook.discord(jsonb,jsonb,jsonb)',
     'An embed in a Discord channel, through its webhook.',
     '[{"status": 429, "means": "retry", "wait": "retry_after"},
       {"status": 404, "contains": "10015", "means": "disable"},
       {"status": 401, "contains": "50027", "means": "disable"}]', true);
