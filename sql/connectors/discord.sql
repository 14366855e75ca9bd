/*
 * Discord: channel webhooks, with an embed for each event.  In a forum channel,
 * the first event of a conversation begins a thread, whose id is remembered.
 *
 * Texts of an event are only in the embed, where nothing pings, with their
 * Markdown escaped; content has mentions from the settings, or is absent.  A text
 * that is cut behind a backslash ends in an escaped ellipsis, which is an
 * ellipsis.
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

CREATE FUNCTION chatwebhook._discord_fields(labels text[], texts text[], sizes integer[], room integer) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
BEGIN
    RETURN (SELECT jsonb_build_object('fields', jsonb_agg(f.field ORDER BY f.n) FILTER (WHERE f.fits),
                                      'dropped', count(*) FILTER (WHERE NOT f.fits))
              FROM (SELECT w.n, jsonb_build_object('name', w.name, 'value', w.value, 'inline', w.size <= 300) AS field,
                           sum(2 * length(w.name || w.value)
                               - length(regexp_replace(w.name || w.value, E'[\\U00010000-\\U0010FFFF]', '', 'g'))) OVER (ORDER BY w.n) <= room
                               AND row_number() OVER (ORDER BY w.n) <= 25 AS fits
                      FROM (SELECT u.n, u.size, coalesce(chatwebhook._discord_text(u.label, 50), 'Value') AS name,
                                   -- a plain URL stays a link
                                   CASE WHEN chatwebhook.cut(u.text, u.size) ~ '^https?://[A-Za-z0-9._~:/?#$&+,;=%-]+$'
                                        THEN chatwebhook.cut(u.text, u.size)
                                        ELSE chatwebhook._discord_text(u.text, u.size) END AS value
                              FROM unnest(labels, texts, sizes) WITH ORDINALITY AS u(label, text, size, n)) AS w
                     WHERE w.value IS NOT NULL) AS f);
END
$$;
COMMENT ON FUNCTION chatwebhook._discord_fields(text[], text[], integer[], integer) IS
    'Returns the fields of an embed that fit into this many characters, and how many do not.';

CREATE FUNCTION chatwebhook.discord(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
#variable_conflict use_column
DECLARE
    settings jsonb := webhook->'settings';
    data     jsonb := event->'data';
    type     text := coalesce(webhook #>> ARRAY['settings', 'as', event->>'type'], event->>'type');
    link     text := chatwebhook._link(event, webhook);
    mapped   jsonb := chatwebhook._fields(event, webhook->'settings', ', ');
    -- for any other type: the text of a message, or data without keys
    main     text := CASE jsonb_typeof(event->'data')
                          WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                          ELSE event #>> '{data}' END;
    closed   boolean := coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                                 event #>> '{data,closedAt}' IS NOT NULL);
    sender   text := webhook #>> '{settings,username}';
    mention  text;
    here     boolean;
    roles    text[];
    users    text[];
    thread   text := substring(webhook #>> '{memory,thread}' FROM '^[0-9]{15,20}$');
    m        record;
    fields   jsonb;
    footer   text;
    message  jsonb;
BEGIN
    IF jsonb_array_length(replies) > 0 THEN
        RETURN NULL;
    END IF;
    -- an alert belongs to no conversation
    IF type = 'webhook.alert' OR coalesce(event->>'conversationId', '') = '' THEN
        thread := NULL;
    END IF;
    SELECT * INTO m FROM (
           SELECT 'New Chat Conversation' AS title, 3447003 /* blue */ AS color, NULL AS description,
                  '{Visitor,Page,Referrer}'::text[] AS labels,
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'pageUrl', 'N/A'), data->>'referrer'] AS texts,
                  '{300,1000,1000}'::integer[] AS sizes,
                  '{visitorId,pageUrl,referrer}'::text[] AS shown
            WHERE type = 'conversation.started'
           UNION ALL
           SELECT CASE type WHEN 'message.received' THEN 'Visitor' ELSE 'Chatbot' END, 9807270 /* gray */, main,
                  NULL, NULL, NULL,
                  '{role,content,message,visitorName}'
            WHERE type IN ('message.received', 'message.sent')
           UNION ALL
           SELECT 'New Lead Captured', 65280 /* green */, NULL,
                  '{Name,Email,Phone,Company,Source,Summary}',
                  ARRAY[coalesce(data->>'name', 'Unknown'), coalesce(data->>'email', 'N/A'), data->>'phone',
                        coalesce(data->>'company', 'N/A'), coalesce(data->>'source', 'N/A'), data->>'conversationSummary'],
                  '{300,300,300,300,300,1024}',
                  '{name,email,phone,company,source,conversationSummary}'
            WHERE type = 'lead.captured'
           UNION ALL
           SELECT 'Sales Opportunity', 16766720 /* gold */, 'Potential sale detected!',
                  '{Visitor,Intent,Est. Value}',
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'intent', 'N/A'),
                        coalesce(chatwebhook._amount(data->'estimatedValue', settings->>'currency'), 'Unknown')],
                  '{300,300,300}',
                  '{visitorId,intent,estimatedValue}'
            WHERE type = 'sales.opportunity'
           UNION ALL
           SELECT 'Negative Sentiment Detected', 16711680 /* red */, 'A visitor appears frustrated or unhappy.',
                  '{Message,Sentiment Score,Visitor,Email}',
                  ARRAY[coalesce(data->>'message', 'N/A'), chatwebhook._score(data->'sentimentScore'),
                        data->>'visitorName', data->>'visitorEmail'],
                  '{1024,300,300,300}',
                  '{message,sentimentScore,visitorName,visitorEmail}'
            WHERE type = 'sentiment.negative'
           UNION ALL
           SELECT 'Human Handoff Requested',
                  CASE WHEN lower(left(data->>'urgency', 20)) IN ('high', 'urgent', 'critical')
                       THEN 16711680 /* red */ ELSE 15105570 /* orange */ END,
                  'A visitor needs human assistance.',
                  '{Visitor,Email,Urgency,Reason}',
                  ARRAY[data->>'visitorName', data->>'visitorEmail', data->>'urgency', coalesce(data->>'reason', 'N/A')],
                  '{300,300,300,1024}',
                  '{visitorName,visitorEmail,urgency,reason}'
            WHERE type = 'handoff.requested'
           UNION ALL
           SELECT 'Feedback Received', 10181046 /* purple */, NULL,
                  '{Rating,Comment}',
                  ARRAY[coalesce(data->>'rating', 'N/A'), data->>'comment'],
                  '{300,1024}',
                  '{rating,comment}'
            WHERE type = 'feedback.received'
           UNION ALL
           SELECT CASE WHEN closed THEN 'Webhook Alert Closed' ELSE 'Webhook Alert' END,
                  CASE WHEN closed THEN 65280 /* green */ ELSE 16711680 /* red */ END,
                  data->>'message',
                  '{Webhook,Kind,Opened,Closed}',
                  ARRAY[coalesce(data->>'webhookName', data->>'webhookId', 'Unknown'), data->>'kind',
                        data->>'openedAt', data->>'closedAt'],
                  '{300,300,300,300}',
                  '{webhookName,webhookId,alertId,state,kind,openedAt,closedAt,message}'
            WHERE type = 'webhook.alert'
           UNION ALL
           SELECT coalesce(chatwebhook._discord_text(type, 256, false), 'Event'), 9807270 /* gray */, main,
                  NULL, NULL, NULL,
                  '{message,content}'
            WHERE coalesce(type NOT IN ('conversation.started', 'message.received', 'message.sent', 'lead.captured', 'sales.opportunity',
                                        'sentiment.negative', 'handoff.requested', 'feedback.received', 'webhook.alert'), true)
           ) AS layouts;

    -- mapped fields replace those of the same label; others follow, and what else
    -- the event has
    SELECT array_agg(f.label ORDER BY f.n), array_agg(f.value ORDER BY f.n), array_agg(f.size ORDER BY f.n)
      INTO m.labels, m.texts, m.sizes
      FROM (SELECT u.label, coalesce(mapped->>u.label, u.value) AS value, u.size, u.n
              FROM unnest(m.labels, m.texts, m.sizes) WITH ORDINALITY AS u(label, value, size, n)
             WHERE coalesce(mapped->u.label, '""') <> 'null'
            UNION ALL
            SELECT x.key, x.value, 300, 100 + row_number() OVER (ORDER BY x.key)
              FROM jsonb_each_text(mapped) AS x
             WHERE x.value <> '' AND x.key <> ALL (coalesce(m.labels, '{}'))
            UNION ALL
            SELECT d.key, CASE d.key WHEN 'conversationHistory' THEN chatwebhook._history(d.value) ELSE d.value #>> '{}' END,
                   CASE d.key WHEN 'conversationHistory' THEN 1024 ELSE 300 END,
                   -- a conversation is long: what is short comes first
                   CASE d.key WHEN 'conversationHistory' THEN 2000000 ELSE 1000000 END + row_number() OVER (ORDER BY d.key)
              FROM jsonb_each(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END) AS d
             WHERE d.key <> ALL (m.shown) AND d.value NOT IN ('null', '""')) AS f;
    -- Discord accepts 6,000 characters in all
    fields := chatwebhook._discord_fields(m.labels, m.texts, m.sizes, 3400);
    footer := concat_ws(', ', 'Chatbot: ' || chatwebhook._discord_text(event->>'chatbotId', 100, false),
                              'Conversation: ' || chatwebhook._discord_text(event->>'conversationId', 100, false),
                              CASE WHEN fields->>'dropped' <> '0' THEN concat(fields->>'dropped', ' more not shown') END);

    -- the text of the setting for this type of event, or for hand-offs and sales
    mention := CASE jsonb_typeof(settings->'mention')
                    WHEN 'object' THEN settings->'mention'->>type
                    WHEN 'string' THEN CASE WHEN type IN ('handoff.requested', 'sales.opportunity') THEN settings->>'mention' END END;
    here := coalesce(type = 'sales.opportunity' AND settings->'mention_here' = 'true', false);
    SELECT array_agg(DISTINCT f.found[2]) FILTER (WHERE f.found[1] = '&'), array_agg(DISTINCT f.found[2]) FILTER (WHERE f.found[1] <> '&')
      INTO roles, users
      FROM (SELECT regexp_matches(mention, '<@(&|!?)([0-9]{1,20})>', 'g') AS found LIMIT 50) AS f;

    IF type = 'message.received' AND thread IS NOT NULL AND sender IS NOT NULL THEN
        -- a visitor cannot pose as anybody else
        sender := CASE WHEN data->>'visitorName' !~* 'clyde|discord'
                       THEN chatwebhook._line(data->'visitorName', 60) || ' (visitor)' END;
        sender := coalesce(sender, 'Visitor');
    END IF;
    message := jsonb_strip_nulls(jsonb_build_object(
        -- Discord rejects these names
        'username', CASE WHEN sender !~* 'clyde|discord' THEN chatwebhook._discord_text(sender, 80, false) END,
        'avatar_url', substring(left(webhook #>> '{settings,avatar_url}', 2048) FROM '^https?://[!-~]+$'),
        'content', nullif(concat_ws(' ', CASE WHEN here THEN '@here' END,
                                    (SELECT string_agg('<@&' || id || '>', ' ') FROM unnest(roles) AS id),
                                    (SELECT string_agg('<@' || id || '>', ' ') FROM unnest(users) AS id)), ''),
        'allowed_mentions', jsonb_build_object('parse', CASE WHEN here THEN '["everyone"]' ELSE '[]' END::jsonb,
                                               'roles', to_jsonb(roles), 'users', to_jsonb(users)),
        'embeds', jsonb_build_array(jsonb_build_object(
            'title', chatwebhook._discord_text(m.title, 256),
            'url', CASE WHEN type <> 'webhook.alert' THEN
                       CASE type WHEN 'handoff.requested' THEN link || '/takeover' ELSE link END END,
            'color', m.color,
            'description', chatwebhook._discord_text(m.description, 1500),
            'fields', fields->'fields',
            'timestamp', substring(event->>'timestamp'
                             FROM E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?(?:Z|[+-]\\d\\d:\\d\\d)$'),
            'footer', CASE WHEN footer <> '' THEN jsonb_build_object('text', footer) END))));

    IF thread IS NULL AND settings->'forum' = 'true' THEN
        message := message || jsonb_strip_nulls(jsonb_build_object(
            'thread_name', chatwebhook.cut(coalesce(chatwebhook._discord_text(concat_ws(', ',
                coalesce(chatwebhook._line(data->'name', 60), chatwebhook._line(data->'visitorName', 60),
                         chatwebhook._line(data->'email', 60), chatwebhook._line(data->'visitorId', 60)),
                chatwebhook._line(event->'conversationId', 60)), 100, false), m.title), 100),
            'applied_tags', CASE jsonb_typeof(settings->'tags') WHEN 'array' THEN
                (SELECT jsonb_agg(t.id) FROM (SELECT jsonb_array_elements_text(settings->'tags') AS id LIMIT 5) AS t
                  WHERE t.id ~ '^[0-9]{1,20}$') END));
    END IF;
    RETURN ROW(NULL, webhook->>'url' || '?wait=true' || coalesce('&thread_id=' || thread, ''), NULL, message, true)::chatwebhook.request;
END
$$;
COMMENT ON FUNCTION chatwebhook.discord(jsonb, jsonb, jsonb) IS
    'Connector: posts an embed through a Discord channel webhook, in a forum channel one thread for each conversation. Settings: app_url, the address of your application (the title links to app_url/conversations/ID, or app_url/conversations/ID/takeover for a hand-off; default: no link); forum, true if the channel is a forum; tags, an array of the ids of tags for a new thread; username and avatar_url, shown instead of the webhook''s own (default: its own); mention, roles and users, such as <@&123> and <@123>, to mention in hand-offs and sales opportunities, or an object of such texts by type of event (default: none); mention_here, true to put @here before sales opportunities (default: false); currency, shown before the estimated value (default: $); fields and as, see docs/connectors.md.';

INSERT INTO chatwebhook.connector (name, function, description, replies, ordered, shipped) VALUES
    ('discord', 'chatwebhook.discord(jsonb,jsonb,jsonb)',
     'An embed in a Discord channel, through its webhook.',
     '[{"status": 200, "path": "strict $.id == $.channel_id", "means": "success", "remember": {"thread": "$.id"}},
       {"status": 200, "path": "exists($.id)", "means": "success"},
       {"status": 429, "means": "retry", "wait": "retry_after"},
       {"status": 404, "path": "$.code == 10015", "means": "disable"},
       {"status": 401, "path": "$.code == 50027", "means": "disable"}]', true, true);
