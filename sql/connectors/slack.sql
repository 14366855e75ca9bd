/*
 * Slack: incoming webhooks, in Block Kit.
 *
 * Nothing that comes with an event can ping or forge a link: &, < and > are
 * escaped, and verbatim keeps Slack from looking for names in the text.  The
 * sizes below keep a message under 12,000 characters, escapes of JSON included.
 */
CREATE FUNCTION chatwebhook._slack_text(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    -- the last step removes an entity that the cut has gone through
    SELECT nullif(regexp_replace(chatwebhook.cut(replace(replace(replace(
               btrim(regexp_replace(chatwebhook.cut(value, size),
                                    E'[\\u0001-\\u0008\\u000B-\\u001F\\u007F]', '', 'g'), E' \t\n'),
               '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), size),
               '&[a-z]{0,3}(?![a-z;])', ''), '')
$$;
COMMENT ON FUNCTION chatwebhook._slack_text(text, integer) IS
    'The text escaped for Slack, in at most that many characters, without control characters; null if nothing is left.';

CREATE FUNCTION chatwebhook._slack_line(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT chatwebhook._slack_text(regexp_replace(chatwebhook.cut(value, size), E'\\s+', ' ', 'g'), size)
$$;
COMMENT ON FUNCTION chatwebhook._slack_line(text, integer) IS 'The same on one line.';

CREATE FUNCTION chatwebhook._slack_value(value text, size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN chatwebhook.cut(value, size) ~ '^https?://[!#-;=?-{}~]+$'
                 AND length(chatwebhook._slack_text(value, 6 * size)) <= size - 2
                THEN '<' || chatwebhook._slack_text(value, size) || '>'
                ELSE chatwebhook._slack_line(value, size) END
$$;
COMMENT ON FUNCTION chatwebhook._slack_value(text, integer) IS
    'A value on one line; a URL as a link that shows where it leads.';

CREATE FUNCTION chatwebhook._slack_markup(markup text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'mrkdwn', 'text', markup, 'verbatim', true)
$$;
COMMENT ON FUNCTION chatwebhook._slack_markup(text) IS 'A text object of markup that is escaped already.';

CREATE FUNCTION chatwebhook._slack_header(title text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'header', 'text',
               jsonb_build_object('type', 'plain_text', 'emoji', true,
                                  'text', chatwebhook._slack_line(title, 150)))
$$;
COMMENT ON FUNCTION chatwebhook._slack_header(text) IS 'A header block.';

CREATE FUNCTION chatwebhook._slack_section(markup text) RETURNS jsonb
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'section', 'text', chatwebhook._slack_markup(markup))
$$;
COMMENT ON FUNCTION chatwebhook._slack_section(text) IS 'A section block of markup that is escaped already; null for null.';

CREATE FUNCTION chatwebhook._slack_quote(label text, value text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT chatwebhook._slack_section('*' || label || E':*\n'
               || regexp_replace(chatwebhook.cut(
                      '>' || replace(chatwebhook._slack_text(value, 2000), E'\n', E'\n>'), 2000),
                      '&[a-z]{0,3}(?![a-z;])', ''))
$$;
COMMENT ON FUNCTION chatwebhook._slack_quote(text, text) IS
    'A section block with a label and the text quoted, line by line; null if there is no text.';

CREATE FUNCTION chatwebhook._slack_fields(labels text[], texts text[]) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'section', 'fields', fields)
      FROM (SELECT jsonb_agg(chatwebhook._slack_markup(format(E'*%s:*\n%s', label, value)) ORDER BY n) AS fields
              FROM (SELECT n, coalesce(chatwebhook._slack_line(l, 40), 'Value') AS label,
                           chatwebhook._slack_value(t, CASE WHEN cardinality(labels) > 5 THEN 200 ELSE 400 END) AS value
                      FROM unnest(labels, texts) WITH ORDINALITY AS u(l, t, n)
                     WHERE n <= 10) AS pair
             WHERE value IS NOT NULL) AS block
     WHERE fields IS NOT NULL
$$;
COMMENT ON FUNCTION chatwebhook._slack_fields(text[], text[]) IS
    'A section block with a field for each label and text that is not null, up to ten; null if there is none.';

CREATE FUNCTION chatwebhook._slack_button(label text, style text, link text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'actions', 'elements', jsonb_build_array(jsonb_strip_nulls(
               jsonb_build_object('type', 'button', 'style', style, 'url', link,
                   'text', jsonb_build_object('type', 'plain_text', 'text', label)))))
     WHERE link ~ '^https?://' AND chatwebhook.cut(link, 3000) = link
$$;
COMMENT ON FUNCTION chatwebhook._slack_button(text, text, text) IS
    'An actions block with a button; null if there is no link, or one too long for Slack.';

CREATE FUNCTION chatwebhook._slack_context(chatbot text, conversation text) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object('type', 'context', 'elements',
               jsonb_build_array(chatwebhook._slack_markup(line)))
      FROM (SELECT concat_ws(', ', 'Chatbot ' || chatwebhook._slack_line(chatbot, 100),
                                   'Conversation ' || chatwebhook._slack_line(conversation, 100)) AS line) AS l
     WHERE line <> ''
$$;
COMMENT ON FUNCTION chatwebhook._slack_context(text, text) IS
    'A context block that says where the event comes from; null if it does not say.';

CREATE FUNCTION chatwebhook._slack_score(score jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(score) <> 'number' THEN score #>> '{}'
                WHEN score::numeric BETWEEN 0 AND 1 THEN round(score::numeric * 100) || '% negative'
                ELSE score #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._slack_score(jsonb) IS 'A score from 0 to 1 as a percentage, anything else as it is.';

CREATE FUNCTION chatwebhook._slack_amount(amount jsonb, currency text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN jsonb_typeof(amount) <> 'number' THEN amount #>> '{}'
                WHEN abs(amount::numeric) < 1e12
                THEN coalesce(currency, '$') || rtrim(to_char(amount::numeric, 'FM999,999,999,990.99'), '.')
                ELSE amount #>> '{}' END
$$;
COMMENT ON FUNCTION chatwebhook._slack_amount(jsonb, text) IS
    'A number as money, with commas between thousands; anything else as it is.';

CREATE FUNCTION chatwebhook._slack_message(fallback text, VARIADIC blocks jsonb[]) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT jsonb_build_object(
               'text', chatwebhook._slack_line(fallback, 200),
               'unfurl_links', false,
               'unfurl_media', false,
               'blocks', jsonb_agg(block ORDER BY n))
      FROM unnest(blocks) WITH ORDINALITY AS u(block, n)
     WHERE block IS NOT NULL
$$;
COMMENT ON FUNCTION chatwebhook._slack_message(text, jsonb[]) IS
    'A message of these blocks, less the null ones; the fallback is what notifications show.';

CREATE FUNCTION chatwebhook.slack(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, NULL, NULL, CASE
        WHEN type = 'conversation.started' THEN chatwebhook._slack_message(
            concat_ws(': ', 'New chat conversation', data->>'pageUrl'),
            chatwebhook._slack_header(':speech_balloon: New Chat Conversation'),
            chatwebhook._slack_fields('{Visitor,Page,Referrer}',
                ARRAY[coalesce(data->>'visitorId', 'Unknown'), coalesce(data->>'pageUrl', 'N/A'), data->>'referrer']),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'lead.captured' THEN chatwebhook._slack_message(
            concat_ws(': ', 'New lead captured', nullif(concat_ws(', ', data->>'name', data->>'email'), '')),
            chatwebhook._slack_header(':tada: New Lead Captured!'),
            chatwebhook._slack_section(format('*%s* just shared their contact info',
                coalesce(chatwebhook._slack_line(data->>'name', 200), 'Unknown'))),
            chatwebhook._slack_fields('{Email,Phone,Company,Source}',
                ARRAY[coalesce(data->>'email', 'N/A'), coalesce(data->>'phone', 'N/A'),
                      coalesce(data->>'company', 'N/A'), coalesce(data->>'source', 'N/A')]),
            chatwebhook._slack_quote('Conversation Summary', data->>'conversationSummary'),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'handoff.requested' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Human handoff requested', data->>'reason'),
            chatwebhook._slack_header(concat(
                CASE lower(left(data->>'urgency', 20))
                     WHEN 'low' THEN ':large_green_circle:'
                     WHEN 'high' THEN ':red_circle:'
                     WHEN 'urgent' THEN ':red_circle:'
                     WHEN 'critical' THEN ':red_circle:'
                     ELSE ':large_yellow_circle:' END,
                ' Human Handoff Requested')),
            chatwebhook._slack_section(mention || 'A visitor needs human assistance.'),
            chatwebhook._slack_fields('{Visitor,Email,Urgency}',
                ARRAY[data->>'visitorName', data->>'visitorEmail', data->>'urgency']),
            chatwebhook._slack_quote('Reason', coalesce(data->>'reason', 'N/A')),
            chatwebhook._slack_button('Take Over Chat', 'primary', link || '/takeover'),
            context)
        WHEN type = 'sentiment.negative' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Negative sentiment detected', data->>'message'),
            chatwebhook._slack_header(':warning: Negative Sentiment Detected'),
            chatwebhook._slack_section(mention || 'A visitor appears frustrated or unhappy.'),
            chatwebhook._slack_quote('Message', coalesce(data->>'message', 'N/A')),
            chatwebhook._slack_fields('{Sentiment Score}',
                ARRAY[chatwebhook._slack_score(data->'sentimentScore')]),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'sales.opportunity' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Sales opportunity', data->>'intent'),
            chatwebhook._slack_header(':moneybag: Sales Opportunity'),
            chatwebhook._slack_section(mention || 'Potential sale detected!'),
            chatwebhook._slack_fields('{Visitor,Est. Value}',
                ARRAY[coalesce(data->>'visitorId', 'Unknown'),
                      coalesce(chatwebhook._slack_amount(data->'estimatedValue', settings->>'currency'), 'Unknown')]),
            chatwebhook._slack_quote('Intent', coalesce(data->>'intent', 'N/A')),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'feedback.received' THEN chatwebhook._slack_message(
            concat_ws(': ', 'Feedback received', data->>'rating'),
            chatwebhook._slack_header(':star: Feedback Received'),
            chatwebhook._slack_fields('{Rating}',
                ARRAY[CASE WHEN data->>'rating' ~ '^[1-5]$'
                           THEN concat(repeat(':star:', (data->>'rating')::integer), ' (', data->>'rating', ')')
                           ELSE coalesce(data->>'rating', 'N/A') END]),
            chatwebhook._slack_quote('Comment', data->>'comment'),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        WHEN type = 'webhook.alert' THEN chatwebhook._slack_message(
            concat_ws(': ', CASE WHEN closed THEN 'Webhook alert closed' ELSE 'Webhook alert' END, data->>'message'),
            chatwebhook._slack_header(CASE WHEN closed THEN ':white_check_mark: Webhook Alert Closed'
                                           ELSE ':rotating_light: Webhook Alert' END),
            chatwebhook._slack_section(CASE WHEN NOT closed THEN mention || 'A webhook needs attention.' END),
            chatwebhook._slack_fields('{Webhook,Kind,Opened,Closed}',
                ARRAY[coalesce(data->>'webhookName', data->>'webhookId', 'Unknown'), data->>'kind',
                      data->>'openedAt', data->>'closedAt']),
            chatwebhook._slack_quote('Message', data->>'message'))
        ELSE chatwebhook._slack_message(
            concat_ws(': ', coalesce(nullif(btrim(type), ''), 'Event'), nullif(main, '')),
            chatwebhook._slack_header(coalesce(nullif(btrim(type, E' \t\r\n'), ''), 'Event')),
            chatwebhook._slack_quote('Message', main),
            (SELECT chatwebhook._slack_fields(array_agg(f.key), array_agg(f.value))
               FROM (SELECT key, value
                       FROM jsonb_each_text(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END)
                      WHERE value <> '' AND key NOT IN ('content', 'message') LIMIT 10) AS f),
            chatwebhook._slack_button('View Conversation', NULL, link),
            context)
        END, true)::chatwebhook.request
      FROM (SELECT event->>'type' AS type,
                   event->'data' AS data,
                   webhook->'settings' AS settings,
                   -- what the plain form quotes: a message's text, or data that has no keys
                   CASE jsonb_typeof(event->'data')
                        WHEN 'object' THEN concat_ws(E'\n', event #>> '{data,message}', event #>> '{data,content}')
                        ELSE event #>> '{data}' END AS main,
                   coalesce(lower(left(event #>> '{data,state}', 20)) = 'closed',
                            event #>> '{data,closedAt}' IS NOT NULL) AS closed,
                   CASE WHEN webhook #>> '{settings,mention}' ~ '^.{1,200}$'
                        THEN concat(webhook #>> '{settings,mention}', ' ') ELSE '' END AS mention,
                   rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                       || chatwebhook.url_encode(nullif(event->>'conversationId', '')) AS link,
                   chatwebhook._slack_context(event->>'chatbotId', event->>'conversationId') AS context) AS e
     WHERE jsonb_array_length(replies) = 0
$$;
COMMENT ON FUNCTION chatwebhook.slack(jsonb, jsonb, jsonb) IS
    'Connector: a message through a Slack incoming webhook. Settings: app_url, the address of your application (buttons lead to app_url/conversations/ID, that of a hand-off to app_url/conversations/ID/takeover; none: no buttons); mention, as Slack writes it, such as <!here> or <@U012AB3CD>, put into hand-offs, negative sentiment, sales opportunities and opened alerts (none: nobody is mentioned); currency, put before the estimated value ($).';

INSERT INTO chatwebhook.connector (name, function, description, replies, shipped) VALUES
    ('slack', 'chatwebhook.slack(jsonb,jsonb,jsonb)',
     'A message in a Slack channel, through an incoming webhook.',
     '[{"status": 410, "means": "disable"},
       {"status": 404, "contains": "no_service", "means": "disable"}]', true);
