/*
 * Slack, in Block Kit: incoming webhooks, and chat.postMessage with a bot's token,
 * which answers with the message's timestamp.  That of a conversation's first
 * message is remembered, and the later ones are posted in its thread.
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

CREATE FUNCTION chatwebhook._slack_section(value text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN jsonb_build_object('type', 'section', 'text',
               jsonb_build_object('type', 'mrkdwn', 'verbatim', true, 'text', value));
END
$$;
COMMENT ON FUNCTION chatwebhook._slack_section(text) IS
    'Returns a block with a text in Slack''s markup; null if that is null.';

CREATE FUNCTION chatwebhook._slack_quote(title text, value text, size integer) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    -- line by line, so that no line of the text stands outside the quotation
    RETURN chatwebhook._slack_section('*' || title || E':*\n' || regexp_replace(chatwebhook.cut(
               '>' || replace(chatwebhook._slack_text(value, size), E'\n', E'\n>'), size), '&[a-z]{0,3}(?![a-z;])', ''));
END
$$;
COMMENT ON FUNCTION chatwebhook._slack_quote(text, text, integer) IS
    'Returns a block that quotes a text in at most this many characters; null if nothing is left of it.';

/*
 * A message has at most these blocks: a header, an introduction, a quotation,
 * fields, the other keys of the event, the conversation so far, a link, and where
 * the event comes from.  The table below says which ones each type of event has,
 * and which keys these show.
 */
CREATE FUNCTION chatwebhook.slack(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
#variable_conflict use_column
DECLARE
    settings jsonb := webhook->'settings';
    data     jsonb := event->'data';
    type     text := coalesce(webhook #>> ARRAY['settings', 'as', event->>'type'], event->>'type');
    by_api   boolean := coalesce(webhook->>'url' ~ '/chat[.]postMessage$', false);
    channel  text := chatwebhook._line(webhook #> '{settings,channel}', 80);
    thread   text := substring(webhook #>> '{memory,thread}' FROM '^[0-9.]{1,40}$');
    username text := chatwebhook._line(webhook #> '{settings,username}', 80);
    icon     text := webhook #>> '{settings,icon}';
    link     text := chatwebhook._link(event, webhook);
    mention  text := CASE WHEN webhook #>> '{settings,mention}' ~ '^.{1,200}$'
                          THEN concat(webhook #>> '{settings,mention}', ' ') ELSE '' END;
    fields   jsonb := chatwebhook._fields(event, webhook->'settings', ', ');
    -- for any other type: the text of a message, or data without keys
    main     text := CASE jsonb_typeof(event->'data')
                          WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                          ELSE event #>> '{data}' END;
    closed   boolean := coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                                 event #>> '{data,closedAt}' IS NOT NULL);
    m        record;
    b        record;
    share    numeric;
    message  jsonb;
BEGIN
    IF jsonb_array_length(replies) > 0 THEN
        RETURN NULL;
    ELSIF by_api AND channel IS NULL THEN
        RAISE EXCEPTION 'settings.channel is not set: chat.postMessage needs a channel'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- an alert belongs to no conversation
    IF NOT by_api OR type = 'webhook.alert' OR coalesce(event->>'conversationId', '') = '' THEN
        thread := NULL;
    END IF;

    SELECT * INTO m FROM (
           SELECT ':speech_balloon: New Chat Conversation' AS title,
                  concat_ws(': ', 'New chat conversation', data->>'pageUrl') AS fallback,
                  NULL AS introduction,
                  '{Visitor,Page,Referrer}'::text[] AS labels,
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'pageUrl', 'N/A'), data->>'referrer'] AS texts,
                  NULL AS quotes, NULL AS quoted, false AS quotes_first,
                  'View conversation' AS button, NULL AS style, link AS target,
                  '{visitorId,pageUrl,referrer}'::text[] AS shown
            WHERE type = 'conversation.started'
           UNION ALL
           -- one message after another in a thread needs no header
           SELECT NULL,
                  concat_ws(': ', coalesce(data->>'visitorName', 'Visitor'), main),
                  concat_ws(E'\n', CASE WHEN username IS NULL THEN '*Visitor*' END, chatwebhook._slack_text(main, 2800)),
                  NULL, NULL, NULL, NULL, false, NULL, NULL, NULL,
                  '{role,content,message,visitorName}'
            WHERE type = 'message.received' AND by_api
           UNION ALL
           SELECT NULL,
                  concat_ws(': ', 'Chatbot', main),
                  concat_ws(E'\n', CASE WHEN username IS NULL THEN '*Chatbot*' END, chatwebhook._slack_text(main, 2800)),
                  NULL, NULL, NULL, NULL, false, NULL, NULL, NULL,
                  '{role,content,message,visitorName}'
            WHERE type = 'message.sent' AND by_api
           UNION ALL
           SELECT ':tada: New Lead Captured!',
                  concat_ws(': ', 'New lead captured', nullif(concat_ws(', ', data->>'name', data->>'email'), '')),
                  format('*%s* just shared their contact info', coalesce(chatwebhook._slack_text(data->>'name', 200, true), 'Unknown')),
                  '{Email,Phone,Company,Source}',
                  ARRAY[coalesce(data->>'email', 'N/A'), coalesce(data->>'phone', 'N/A'),
                        coalesce(data->>'company', 'N/A'), coalesce(data->>'source', 'N/A')],
                  'Conversation Summary', data->>'conversationSummary', false,
                  'View conversation', NULL, link,
                  '{name,email,phone,company,source,conversationSummary}'
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
                  'Take over chat', 'primary', link || '/takeover',
                  '{visitorName,visitorEmail,urgency,reason}'
            WHERE type = 'handoff.requested'
           UNION ALL
           SELECT ':warning: Negative Sentiment Detected',
                  concat_ws(': ', 'Negative sentiment detected', data->>'message'),
                  mention || 'A visitor appears frustrated or unhappy.',
                  '{Sentiment Score,Visitor,Email}',
                  ARRAY[chatwebhook._score(data->'sentimentScore'), data->>'visitorName', data->>'visitorEmail'],
                  'Message', coalesce(data->>'message', 'N/A'), true,
                  'View conversation', NULL, link,
                  '{message,sentimentScore,visitorName,visitorEmail}'
            WHERE type = 'sentiment.negative'
           UNION ALL
           SELECT ':moneybag: Sales Opportunity',
                  concat_ws(': ', 'Sales opportunity', data->>'intent'),
                  mention || 'Potential sale detected!',
                  '{Visitor,Est. Value}',
                  ARRAY[coalesce(data->>'visitorId', 'Unknown'),
                        coalesce(chatwebhook._amount(data->'estimatedValue', settings->>'currency'), 'Unknown')],
                  'Intent', coalesce(data->>'intent', 'N/A'), false,
                  'View conversation', NULL, link,
                  '{visitorId,intent,estimatedValue}'
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
                  'View conversation', NULL, link,
                  '{rating,comment}'
            WHERE type = 'feedback.received'
           UNION ALL
           SELECT CASE WHEN closed THEN ':white_check_mark: Webhook Alert Closed' ELSE ':rotating_light: Webhook Alert' END,
                  concat_ws(': ', CASE WHEN closed THEN 'Webhook alert closed' ELSE 'Webhook alert' END, data->>'message'),
                  CASE WHEN NOT closed THEN mention || 'A webhook needs attention.' END,
                  '{Webhook,Kind,Opened,Closed}',
                  ARRAY[coalesce(data->>'webhookName', data->>'webhookId', 'Unknown'), data->>'kind',
                        data->>'openedAt', data->>'closedAt'],
                  'Message', data->>'message', false,
                  NULL, NULL, NULL,
                  '{webhookName,webhookId,alertId,state,kind,openedAt,closedAt,message}'
            WHERE type = 'webhook.alert'
           UNION ALL
           SELECT coalesce(nullif(btrim(type, E' \t\r\n'), ''), 'Event'),
                  concat_ws(': ', coalesce(nullif(btrim(type), ''), 'Event'), nullif(main, '')),
                  NULL,
                  array_agg(f.key), array_agg(f.value),
                  'Message', main, true,
                  'View conversation', NULL, link,
                  '{message,content}'::text[] || array_agg(f.key)
             FROM (SELECT key, value
                     FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                    WHERE value <> '' AND key NOT IN ('content', 'message', 'conversationHistory') LIMIT 10) AS f
           HAVING coalesce(type NOT IN ('conversation.started', 'lead.captured', 'handoff.requested', 'sentiment.negative',
                                        'sales.opportunity', 'feedback.received', 'webhook.alert')
                           AND NOT (by_api AND type IN ('message.received', 'message.sent')), true)
           ) AS layouts;

    -- mapped fields replace those of the same label, and others follow
    SELECT array_agg(f.label ORDER BY f.n), array_agg(f.value ORDER BY f.n) INTO m.labels, m.texts
      FROM (SELECT u.label, coalesce(fields->>u.label, u.value) AS value, u.n
              FROM unnest(m.labels, m.texts) WITH ORDINALITY AS u(label, value, n)
             WHERE coalesce(fields->u.label, '""') <> 'null'
            UNION ALL
            SELECT x.key, x.value, 100 + row_number() OVER (ORDER BY x.key)
              FROM jsonb_each_text(fields) AS x
             WHERE x.value <> '' AND x.key <> ALL (coalesce(m.labels, '{}'))) AS f;

    -- less of each text if the whole would be too long for Slack
    FOREACH share IN ARRAY '{1,0.5,0.2}'::numeric[] LOOP
        SELECT CASE WHEN m.title IS NOT NULL THEN
                   jsonb_build_object('type', 'header', 'text',
                       jsonb_build_object('type', 'plain_text', 'emoji', true,
                                          'text', coalesce(chatwebhook._slack_text(m.title, 150, true), 'Event'))) END AS header,
               chatwebhook._slack_section(nullif(m.introduction, '')) AS introduction,
               chatwebhook._slack_quote(m.quotes, m.quoted, (2000 * share)::integer) AS quotation,
               -- a URL becomes a link that shows where it leads
               (SELECT jsonb_agg(jsonb_build_object('type', 'section', 'fields', f.fields) ORDER BY f.place)
                  FROM (SELECT (f.n - 1) / 10 AS place,
                               jsonb_agg(jsonb_build_object('type', 'mrkdwn', 'verbatim', true,
                                             'text', format(E'*%s:*\n%s', coalesce(chatwebhook._slack_text(f.label, 40, true), 'Value'), f.value))
                                         ORDER BY f.n) AS fields
                          FROM (SELECT u.n, u.label,
                                       CASE WHEN chatwebhook.cut(u.text, s.size) ~ '^https?://[!#-;=?-{}~]+$'
                                             AND length(chatwebhook._slack_text(u.text, 6 * s.size)) <= s.size - 2
                                            THEN '<' || chatwebhook._slack_text(u.text, s.size) || '>'
                                            ELSE chatwebhook._slack_text(u.text, s.size, true) END AS value
                                  FROM unnest(m.labels, m.texts) WITH ORDINALITY AS u(label, text, n),
                                       LATERAL (SELECT CASE WHEN cardinality(m.labels) > 5 THEN 200 ELSE 400 END * share AS share) AS q,
                                       LATERAL (SELECT q.share::integer AS size) AS s
                                 WHERE u.n <= 30) AS f
                         WHERE f.value IS NOT NULL
                         GROUP BY 1) AS f) AS fields,
               -- what else the event has, a line for each key
               (SELECT chatwebhook._slack_section(chatwebhook.cut(string_agg(format('*%s:* %s', coalesce(chatwebhook._slack_text(e.key, 40, true), 'Value'), e.line), E'\n'
                                                                             ORDER BY e.place) FILTER (WHERE e.place <= e.most), 2700)
                           || CASE WHEN count(*) > max(e.most) THEN format(E'\n_and %s more_', count(*) - max(e.most)) ELSE '' END)
                  FROM (SELECT d.key, row_number() OVER (ORDER BY d.key) AS place, (9 * share)::integer AS most,
                               chatwebhook._slack_text(d.value, 250, true) AS line
                          FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END) AS d
                         WHERE d.key <> ALL (m.shown) AND d.key <> 'conversationHistory' AND d.value ~ '[^[:space:][:cntrl:]]') AS e
                 WHERE e.line IS NOT NULL) AS others,
               chatwebhook._slack_quote('Conversation', chatwebhook._history(data->'conversationHistory'), (2000 * share)::integer) AS history,
               -- a link needs no app that hears of clicks; a button does
               CASE WHEN coalesce(settings->'interactive' = 'true', false) THEN
                        jsonb_build_object('type', 'actions', 'elements', jsonb_build_array(jsonb_strip_nulls(
                            jsonb_build_object('type', 'button', 'style', m.style, 'url', m.target,
                                'text', jsonb_build_object('type', 'plain_text', 'text', m.button)))))
                    ELSE chatwebhook._slack_section(format('<%s|%s>', replace(m.target, '&', '&amp;'), m.button)) END AS button,
               (SELECT jsonb_build_object('type', 'context', 'elements', jsonb_build_array(
                           jsonb_build_object('type', 'mrkdwn', 'verbatim', true, 'text', o.line)))
                  FROM concat_ws(', ', 'Chatbot ' || chatwebhook._slack_text(event->>'chatbotId', 100, true),
                                       'Conversation ' || chatwebhook._slack_text(event->>'conversationId', 100, true)) AS o(line)
                 -- in a thread, its first message has said so
                 WHERE o.line <> '' AND m.button IS NOT NULL AND thread IS NULL) AS origin
          INTO b;
        message := jsonb_build_object(
            -- what notifications show
            'text', coalesce(chatwebhook._slack_text(m.fallback, 200, true), 'Event'),
            'unfurl_links', false,
            'unfurl_media', false,
            'blocks', (SELECT jsonb_agg(u.block ORDER BY u.n)
                         FROM unnest(ARRAY[b.header, b.introduction, CASE WHEN m.quotes_first THEN b.quotation END]
                                     || ARRAY(SELECT jsonb_array_elements(b.fields))
                                     || ARRAY[CASE WHEN NOT m.quotes_first THEN b.quotation END, b.others, b.history,
                                              CASE WHEN m.target IS NOT NULL THEN b.button END, b.origin])
                              WITH ORDINALITY AS u(block, n)
                        WHERE u.block IS NOT NULL));
        EXIT WHEN length(message::text) <= 11000;
    END LOOP;
    IF message->'blocks' = 'null' THEN
        message := message - 'blocks';
    END IF;

    IF by_api THEN
        IF username IS NOT NULL AND type = 'message.received' THEN
            -- a visitor cannot pose as anybody else
            username := coalesce(chatwebhook._line(to_jsonb(translate(data->>'visitorName', '<>', '')), 60) || ' (visitor)', 'Visitor');
            icon := webhook #>> '{settings,visitor_icon}';
        END IF;
        message := jsonb_strip_nulls(message || jsonb_build_object(
            'channel', channel,
            'thread_ts', thread,
            -- a hand-off is to be seen in the channel, too
            'reply_broadcast', CASE WHEN thread IS NOT NULL AND type = 'handoff.requested' THEN true END,
            'username', username,
            'icon_emoji', substring(icon FROM '^:[a-z0-9_+''-]{1,100}:$'),
            'icon_url', substring(left(icon, 2000) FROM '^https?://[!-~]+$')));
    END IF;
    RETURN ROW(NULL, NULL, NULL, message, true)::chatwebhook.request;
END
$$;
COMMENT ON FUNCTION chatwebhook.slack(jsonb, jsonb, jsonb) IS
    'Connector: posts messages in a Slack channel, through an incoming webhook or, if the URL ends in /chat.postMessage, with a bot''s token and one thread for each conversation. Settings: app_url, the address of your application (a link opens app_url/conversations/ID, or app_url/conversations/ID/takeover for a hand-off; default: no links); interactive, true for buttons instead of links; mention, in Slack''s notation, such as <!here> and <@U012AB3CD>, added to hand-offs, negative sentiment, sales opportunities and opened alerts (default: none); currency, shown before the estimated value (default: $); fields and as, see docs/connectors.md. For chat.postMessage: channel; username, icon and visitor_icon, shown instead of the app''s name and icon (default: the app''s).';

INSERT INTO chatwebhook.connector (name, function, description, replies, ordered, shipped) VALUES
    ('slack', 'chatwebhook.slack(jsonb,jsonb,jsonb)',
     'Messages in a Slack channel, through an incoming webhook or with a bot''s token.',
     E'[{"status": 200, "path": "$.ok == true && exists($.message.thread_ts)", "means": "success"},
       {"status": 200, "path": "$.ok == true && !exists($.message.thread_ts)", "means": "success", "remember": {"thread": "$.ts"}},
       {"status": 200, "path": "$.error like_regex \\"^(invalid_auth|not_authed|account_inactive|token_revoked|token_expired|is_archived)$\\"", "means": "disable"},
       {"status": 200, "path": "$.error like_regex \\"^(ratelimited|rate_limited|internal_error|fatal_error|service_unavailable|request_timeout)$\\"", "means": "retry", "wait": 30},
       {"status": 200, "path": "exists($.error)", "means": "dead"},
       {"status": 200, "contains": "<", "means": "retry"},
       {"status": 200, "contains": "{", "means": "retry"},
       {"status": 200, "contains": "ok", "means": "success"},
       {"status": 410, "means": "disable"},
       {"status": 404, "contains": "no_service", "means": "disable"}]', true, true);
