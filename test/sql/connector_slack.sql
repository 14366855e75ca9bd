--
-- Slack: the message of every event, and 1,000 random ones held to its limits.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

-- What is delivered: for each type data as a chat has them, the least, and hostile ones.
\set hostile '<!channel> @everyone <@U1> [x](http://e) `a` ```b``` *c* _d_ ~e~ |f| & &amp; \\ " ''; -- 😀'
CREATE TEMP TABLE sample (n serial, type text, kind text, data jsonb);
INSERT INTO sample (type, kind, data) VALUES
    ('conversation.started', 'ordinary', '{"visitorId": "v-1", "pageUrl": "https://shop.example/prices?plan=pro_2&x=1", "referrer": "https://search.example/", "userAgent": "Mozilla/5.0"}'),
    ('conversation.started', 'minimal', '{}'),
    ('conversation.ended', 'ordinary', '{"durationSeconds": 312, "messages": 14}'),
    ('conversation.ended', 'minimal', '{}'),
    ('message.received', 'ordinary', '{"role": "user", "content": "Do you ship to Norway?\nAnd when?", "sentiment": "neutral"}'),
    ('message.received', 'minimal', '{"role": "user", "content": ""}'),
    ('message.sent', 'ordinary', '{"role": "assistant", "content": "Yes, in three days."}'),
    ('message.sent', 'minimal', '{}'),
    ('lead.captured', 'ordinary', '{"email": "zoe@example.com", "name": "Zoë Nuñez", "phone": "+47 555 0100", "company": "Ex & Co", "source": "widget", "conversationSummary": "Asked for prices.\nWants a call."}'),
    ('lead.captured', 'minimal', '{"email": "zoe@example.com", "source": "widget", "conversationSummary": "Asked for prices."}'),
    ('handoff.requested', 'ordinary', '{"reason": "Wants a refund", "urgency": "high", "visitorName": "Zoë", "visitorEmail": "zoe@example.com", "conversationHistory": [{"role": "user", "content": "Hi"}]}'),
    ('handoff.requested', 'low', '{"reason": "Wants a refund", "urgency": "low"}'),
    ('handoff.requested', 'minimal', '{"reason": "Wants a refund"}'),
    ('sentiment.negative', 'ordinary', '{"message": "This is the third time!", "sentimentScore": 0.92}'),
    ('sentiment.negative', 'minimal', '{"message": "No.", "sentimentScore": null}'),
    ('feedback.received', 'ordinary', '{"rating": 4, "comment": "Quick answer"}'),
    ('feedback.received', 'minimal', '{"rating": 11}'),
    ('sales.opportunity', 'ordinary', '{"visitorId": "v-1", "intent": "Wants 50 seats", "estimatedValue": 12500.5}'),
    ('sales.opportunity', 'minimal', '{"visitorId": "v-1", "intent": "Wants 50 seats"}'),
    ('webhook.test', 'ordinary', '{"message": "This is a test"}'),
    ('webhook.test', 'minimal', '{}'),
    ('webhook.alert', 'ordinary', '{"state": "opened", "alertId": "7", "kind": "consecutive_failures", "message": "5 deliveries in a row have failed", "webhookId": "0190a7c8-0000-4000-8000-00000000000a", "webhookName": "crm", "openedAt": "2026-01-02T03:04:05.678Z", "closedAt": null}'),
    ('webhook.alert', 'closed', '{"state": "closed", "alertId": "7", "kind": "consecutive_failures", "message": "5 deliveries in a row have failed", "webhookId": "0190a7c8-0000-4000-8000-00000000000a", "webhookName": "crm", "openedAt": "2026-01-02T03:04:05.678Z", "closedAt": "2026-01-02T04:04:05.678Z"}'),
    ('webhook.alert', 'minimal', '{}'),
    ('order.placed', 'ordinary', '{"total": 49, "paid": true, "items": [{"sku": "a"}], "note": null}'),
    ('order.placed', 'minimal', '{}');
INSERT INTO sample (type, kind, data)
SELECT t, 'hostile', jsonb_object_agg(k, :'hostile')
  FROM unnest('{conversation.started,conversation.ended,message.received,message.sent,lead.captured,handoff.requested,sentiment.negative,feedback.received,sales.opportunity,webhook.test,webhook.alert}'::text[]) AS t,
       unnest(CASE t WHEN 'conversation.started' THEN '{visitorId,pageUrl,referrer,userAgent}'
                     WHEN 'conversation.ended' THEN '{reason}'
                     WHEN 'message.received' THEN '{role,content}'
                     WHEN 'message.sent' THEN '{role,content}'
                     WHEN 'lead.captured' THEN '{email,name,phone,company,source,conversationSummary}'
                     WHEN 'handoff.requested' THEN '{reason,visitorName,visitorEmail}'
                     WHEN 'sentiment.negative' THEN '{message,sentimentScore}'
                     WHEN 'feedback.received' THEN '{rating,comment}'
                     WHEN 'sales.opportunity' THEN '{visitorId,intent,estimatedValue}'
                     WHEN 'webhook.test' THEN '{message}'
                     ELSE '{kind,message,webhookName,webhookId,alertId,openedAt}' END::text[]) AS k
 GROUP BY t ORDER BY t;
INSERT INTO sample (type, kind, data) VALUES ('<!channel> @everyone', 'hostile', jsonb_build_object('<!here> & *k*', :'hostile', '', :'hostile'));

-- a call as the worker makes it
CREATE FUNCTION pg_temp.envelope(type text, data jsonb) RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '0190a7c8-0000-7000-8000-000000000001', 'type', type,
               'timestamp', '2026-01-02T03:04:05.678Z', 'chatbotId', 'shop', 'conversationId', 'c-17/ü', 'data', data)
$$;
CREATE FUNCTION pg_temp.call(event jsonb, webhook jsonb, replies jsonb DEFAULT '[]') RETURNS chatwebhook.request
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT chatwebhook.slack(event, webhook, replies)
$$;
CREATE FUNCTION pg_temp.webhook(settings jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '0190a7c8-0000-4000-8000-00000000000b', 'name', 'desk',
               'url', 'https://hooks.slack.example/services/T/B/x', 'chatbotId', null, 'settings', settings)
$$;

SELECT format(E'%s, %s:\n%s', type, kind, jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope(type, data), pg_temp.webhook('{"app_url": "https://app.example/desk/", "mention": "<!here>"}')))))
  FROM sample ORDER BY n;

-- the same event with a bot's token: the first message of a conversation, the later
-- ones in its thread, an alert, which belongs to no conversation
CREATE FUNCTION pg_temp.bot(settings jsonb, memory jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT pg_temp.webhook('{"channel": "C0123", "app_url": "https://app.example"}'::jsonb || settings)
           || jsonb_build_object('url', 'https://slack.com/api/chat.postMessage', 'memory', memory)
$$;
SELECT jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope('conversation.started', '{"visitorId": "v-1", "pageUrl": "https://shop.example/"}'), pg_temp.bot('{}'))));
SELECT kind, jsonb_pretty((pg_temp.call(pg_temp.envelope(type, data), pg_temp.bot('{}', '{"thread": "1767323045.000100"}'))).body)
  FROM sample WHERE type IN ('message.received', 'message.sent', 'handoff.requested', 'webhook.alert') AND kind = 'ordinary' ORDER BY n;
-- names and icons, if the setting is there: a visitor has them as a visitor only
SELECT type, r.body->>'username' AS username, r.body->>'icon_emoji' AS emoji, r.body->>'icon_url' AS url, r.body->'blocks' AS blocks
  FROM unnest('{message.received,message.sent,lead.captured}'::text[]) AS type, unnest('{Zoë,<!here>,NULL}'::text[]) AS name,
       LATERAL pg_temp.call(pg_temp.envelope(type, jsonb_build_object('content', 'Hi', 'visitorName', name)),
                            pg_temp.bot('{"username": "Ada <bot>", "icon": "https://e.example/a.png", "visitor_icon": ":speech_balloon:"}', '{"thread": "1.2"}')) AS r
 WHERE name = 'Zoë' OR type = 'message.received';
-- a thread that is none, and a conversation without an id
SELECT m, c, r.body->>'thread_ts' AS thread
  FROM unnest('{"{}",null,"[]","{\"thread\": \"1.2\"}","{\"thread\": \"<!here>\"}","{\"thread\": {}}"}'::jsonb[]) AS m, unnest('{c-1,""}'::text[]) AS c,
       LATERAL pg_temp.call(pg_temp.envelope('lead.captured', '{}') || jsonb_build_object('conversationId', c), pg_temp.bot('{}', m)) AS r;
-- without a channel
SELECT pg_temp.call(pg_temp.envelope('lead.captured', '{}'), pg_temp.webhook() || '{"url": "https://slack.com/api/chat.postMessage"}');
-- buttons, where an app hears of clicks
SELECT jsonb_path_query_array(r.body, '$.blocks[*] ? (@.type == "actions")')
  FROM pg_temp.call(pg_temp.envelope('handoff.requested', '{"reason": "x"}'), pg_temp.webhook('{"app_url": "https://app.example", "interactive": true}')) AS r;

-- a map of fields: general ones, and those of a type of event; a type that is
-- treated as another takes the fields of both
CREATE FUNCTION pg_temp.fields(type text, data jsonb, settings jsonb) RETURNS SETOF text
    LANGUAGE sql AS $$
    SELECT f->>'text'
      FROM pg_temp.call(pg_temp.envelope(type, data), pg_temp.webhook(settings)) AS r,
           jsonb_path_query(r.body, '$.blocks[*].fields[*]') AS f
$$;
SELECT pg_temp.fields('lead.captured', '{"email": "zoe@example.com", "plan": {"name": "Pro <1>", "seats": 50}, "trial": true, "tags": ["a", "b & c"], "empty": "", "deep": [[1], {"a": 2}]}',
    '{"fields": {"Plan": "$.data.plan.name", "Seats": "$.data.plan.seats", "Trial": "$.data.trial", "Tags": "$.data.tags", "Each": "$.data.tags[*]", "Deep": "$.data.deep", "Missing": "$.data.nothing.at.all", "Empty": "$.data.empty",
                 "Team": "@$ales & co", "Word": "word", "Number": 7, "Yes": true, "List": ["x", 1], "Source": null,
                 "lead.captured": {"Phone": "@unknown", "Plan": "$.data.plan"}, "order.placed": {"Order": "$.data.number"}}}');
SELECT pg_temp.fields('order.placed', '{"email": "zoe@example.com", "number": 17}',
    '{"as": {"order.placed": "lead.captured"}, "fields": {"a": "@general", "b": "@general", "c": "@general", "lead.captured": {"b": "@lead", "c": "@lead"}, "order.placed": {"c": "@order", "Email": "$.data.number"}}}');
SELECT left(f, 60), length(f) FROM pg_temp.fields('lead.captured', jsonb_build_object('long', repeat('"😀', 200000), 'lines', E'a\n<!here>\tb'), '{"fields": {"Long": "$.data.long", "Lines": "$.data.lines", "<!here>": "$.type"}}') AS f;
SELECT count(*) FROM pg_temp.fields('lead.captured', '{}', jsonb_build_object('fields', (SELECT jsonb_object_agg('f' || n, n) FROM generate_series(1, 100) AS n)));
\set VERBOSITY sqlstate
SELECT pg_temp.fields('lead.captured', '{}', '{"fields": {"Plan": "$.data["}}');
\set VERBOSITY default
SELECT s, count(f) FROM unnest('{"{\"fields\": 1}","{\"fields\": []}","{\"fields\": null}","{\"as\": 1}","{\"as\": {\"lead.captured\": 5}}"}'::jsonb[]) AS s, pg_temp.fields('lead.captured', '{}', s) AS f GROUP BY s ORDER BY s;

-- whatever an event has is shown, or said to be there
SELECT jsonb_path_query(r.body, '$.blocks[*].text.text ? (@ like_regex "more_")')
  FROM pg_temp.call(pg_temp.envelope('lead.captured', (SELECT jsonb_object_agg('own' || n, n) FROM generate_series(1, 30) AS n)), pg_temp.webhook()) AS r;
-- as long as Slack takes, and no longer
SELECT length(r.body::text) BETWEEN 2000 AND 12000, jsonb_array_length(r.body->'blocks')
  FROM pg_temp.call(pg_temp.envelope('handoff.requested', (SELECT jsonb_object_agg('own' || n, repeat('"\', 10000)) FROM generate_series(1, 30) AS n)
           || jsonb_build_object('reason', repeat('"', 100000), 'conversationHistory', jsonb_build_array(repeat('\', 1000000)))), pg_temp.webhook()) AS r;

-- without settings there is no link and no mention
SELECT jsonb_pretty((pg_temp.call(pg_temp.envelope('handoff.requested', '{"reason": "x"}'), pg_temp.webhook())).body->'blocks');
-- settings of odd types are as none
SELECT count(DISTINCT pg_temp.call(pg_temp.envelope('handoff.requested', '{"reason": "x"}'), pg_temp.webhook(s)))
  FROM unnest('{"{}",null,"[]","1","\"x\"","{\"app_url\": 1, \"mention\": null}","{\"app_url\": \"javascript:alert(1)\", \"mention\": \"\"}"}'::jsonb[]) AS s;
-- one request, and then no more
SELECT pg_temp.call(pg_temp.envelope('lead.captured', '{}'), pg_temp.webhook(), '[{"status": 200, "body": "ok"}]') IS NULL;
-- a cut goes through no entity
SELECT DISTINCT regexp_replace(chatwebhook._slack_text(repeat('x', n) || '&&&', 12), 'x', '', 'g') FROM generate_series(0, 12) AS n ORDER BY 1;
SELECT name, function, shipped, jsonb_pretty(replies) FROM chatwebhook.connector WHERE name = 'slack';

--
-- Random events: 1,000 that nobody would send.
--
CREATE FUNCTION pg_temp.pick(VARIADIC choices text[]) RETURNS text
    LANGUAGE sql VOLATILE AS $$ SELECT choices[1 + floor(random() * cardinality(choices))::integer] $$;
CREATE FUNCTION pg_temp.random_text() RETURNS text
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    result text := '';
    wanted integer := pg_temp.pick('0', '1', '3', '10', '40', '150', '400')::integer;
BEGIN
    FOR i IN 1 .. wanted LOOP
        result := result || pg_temp.pick('a', 'word ', 'Zoë', '😀', '👩‍👩‍👧', '<!channel>', '<!here|x>', '<@U1>', '<#C1>', '@everyone', '@here',
            '[x](http://e)', 'https://e.example/a_b?c=d&e=f', '<http://e|x>', '`', '```', '*', '_', '~', '|', '||', '&', '&amp;', '&lt;!channel&gt;', '&am',
            '<', '>', '\', '\\', '"', '''; --', '{{token}}', E'\n', E'\n> ', E'\n- ', E'\n# ', E'\t', E'\r\n', E'\u0001', E'\u00a0', E'\u202e', '%s', '$1', ':tada:', repeat('x', 300), repeat('&', 200), repeat('😀', 90), repeat(E'\n', 50), repeat('"', 400));
    END LOOP;
    RETURN pg_temp.pick(result, result, result, 'https://e.example/' || result, repeat(result, 3),
                        repeat('&', 20 * wanted), repeat('<', wanted), repeat('😀', 7 * wanted), repeat('a&', wanted), repeat(E'x\n', 9 * wanted), repeat('"', 9 * wanted), repeat('\', 9 * wanted), 'https://e.example/?' || repeat('&', wanted), 'https://e.example/_' || repeat('a', wanted), repeat(E'\u3000', wanted));
END
$$;
CREATE FUNCTION pg_temp.random_value() RETURNS jsonb
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN CASE pg_temp.pick('text', 'text', 'text', 'text', 'text', 'number', 'null', 'true', 'array', 'object')
        WHEN 'text' THEN to_jsonb(pg_temp.random_text())
        WHEN 'number' THEN pg_temp.pick('0', '1', '4', '0.5', '0.925', '-3', '1e300', '1e-300', '12345678.905', '999999999999.999', repeat('9', 500))::jsonb
        WHEN 'true' THEN 'true'
        WHEN 'null' THEN 'null'
        WHEN 'array' THEN jsonb_build_array(1, pg_temp.random_text(), jsonb_build_array(), pg_temp.random_text())
        ELSE jsonb_build_object(pg_temp.random_text(), pg_temp.random_text(), 'a', jsonb_build_object('b', NULL)) END;
END
$$;
CREATE FUNCTION pg_temp.random_event() RETURNS jsonb
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    result jsonb := '{}';
    data   jsonb := '{}';
    key    text;
BEGIN
    FOREACH key IN ARRAY '{visitorId,pageUrl,userAgent,referrer,metadata,role,content,sentiment,email,name,phone,company,source,conversationSummary,reason,urgency,visitorName,visitorEmail,conversationHistory,message,sentimentScore,rating,comment,intent,estimatedValue,state,alertId,kind,webhookId,webhookName,openedAt,closedAt}'::text[] LOOP
        IF random() < 0.6 THEN
            data := data || jsonb_build_object(key, pg_temp.random_value());
        END IF;
    END LOOP;
    IF random() < 0.5 THEN
        data := data || jsonb_build_object('urgency', pg_temp.pick('low', 'HIGH', 'urgent', 'critical'), 'state', pg_temp.pick('opened', 'closed', 'Closed'));
    END IF;
    FOR i IN 1 .. pg_temp.pick('0', '0', '1', '20')::integer LOOP
        data := data || jsonb_build_object(pg_temp.random_text(), pg_temp.random_value());
    END LOOP;
    IF random() < 0.05 THEN
        data := pg_temp.random_value();
    END IF;
    result := jsonb_build_object('type', pg_temp.pick('conversation.started', 'conversation.ended', 'message.received', 'message.sent', 'lead.captured', 'handoff.requested', 'sentiment.negative', 'feedback.received', 'sales.opportunity', 'webhook.test', 'webhook.alert', 'order.placed', pg_temp.random_text()));
    IF random() < 0.95 THEN result := result || jsonb_build_object('id', gen_random_uuid(), 'timestamp', pg_temp.pick('2026-01-02T03:04:05.678Z', 'yesterday')); END IF;
    IF random() < 0.95 THEN result := result || jsonb_build_object('data', data); END IF;
    IF random() < 0.8 THEN result := result || jsonb_build_object('chatbotId', pg_temp.pick('shop', pg_temp.random_text(), NULL)); END IF;
    IF random() < 0.8 THEN result := result || jsonb_build_object('conversationId', pg_temp.pick('c-17', pg_temp.random_text(), NULL)); END IF;
    RETURN result;
END
$$;
CREATE FUNCTION pg_temp.random_settings() RETURNS jsonb
    LANGUAGE sql VOLATILE AS $$
    SELECT pg_temp.pick('{}', 'null', '[]', '{"app_url": "https://app.example/desk"}', '{"app_url": "https://app.example/desk/", "mention": "<!here>"}', '{"mention": "<@U123>", "currency": "EUR "}',
        jsonb_build_object('interactive', true, 'app_url', 'https://app.example/desk', 'fields', jsonb_build_object('Email', '$.data.message', pg_temp.random_text(), '$.data.*', 'x', '$.type', 'Phone', NULL))::text,
        jsonb_build_object('channel', 'C1', 'username', pg_temp.random_text(), 'icon', pg_temp.random_text(), 'visitor_icon', ':tada:', 'as', jsonb_build_object('order.placed', 'message.received'))::text,
        '{"channel": "C1"}')::jsonb
$$;

-- characters as JavaScript counts them
CREATE FUNCTION pg_temp.units(value text) RETURNS integer
    LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(length(value) + length(regexp_replace(value, '[\u0001-\uFFFF]', '', 'g')), 0)
$$;

-- markup in which no more than the owner's mention and plain links are special
CREATE FUNCTION pg_temp.unsafe(markup text, mention text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF mention IS NOT NULL AND starts_with(markup, mention || ' ') THEN
        markup := substr(markup, length(mention) + 2);
    END IF;
    markup := regexp_replace(markup, '<https?://[!-;=?-{}~]+([|](View conversation|Take over chat))?>', 'x', 'g');
    markup := regexp_replace(markup, '^>', '', 'gn');
    RETURN markup ~ '[<>]' OR markup ~ '&(?!(amp|lt|gt);)' OR markup ~ '[\u0001-\u0008\u000B-\u001F]' OR markup = '';
END
$$;
CREATE FUNCTION pg_temp.violation(event jsonb, settings jsonb, request chatwebhook.request) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    block jsonb;
    part  jsonb;
    total integer := pg_temp.units(request.body->>'text');
    mention text := settings->>'mention';
BEGIN
    IF request.last IS NOT TRUE OR request.url IS NOT NULL OR request.headers IS NOT NULL OR request.body IS NULL THEN
        RETURN 'request';
    ELSIF settings ? 'channel' AND (request.body->>'channel' <> 'C1' OR pg_temp.units(request.body->>'username') > 80
              OR coalesce(request.body->>'icon_url' !~ '^https?://', false) OR coalesce(request.body->>'username' ~ '[[:cntrl:]]', false)
              OR coalesce(event->>'conversationId' <> '' AND event->>'type' <> 'webhook.alert', false) <> (request.body ? 'thread_ts')) THEN
        RETURN 'bot';
    END IF;
    IF settings ? 'channel' THEN
        request.body := request.body - '{channel,thread_ts,reply_broadcast,username,icon_url,icon_emoji}'::text[];
    END IF;
    IF request.body - '{text,blocks,unfurl_links,unfurl_media}'::text[] <> '{}' THEN
        RETURN 'unknown key of the message';
    ELSIF coalesce(request.body->>'text', '') = '' OR pg_temp.unsafe(request.body->>'text', NULL) THEN
        RETURN 'fallback';
    ELSIF jsonb_array_length(request.body->'blocks') NOT BETWEEN 1 AND 50 THEN
        RETURN 'number of blocks';
    ELSIF pg_temp.units(request.body::text) > 12000 THEN
        RETURN 'the whole is too long: ' || pg_temp.units(request.body::text);
    END IF;
    FOR block IN SELECT jsonb_array_elements(request.body->'blocks') LOOP
        CASE block->>'type'
        WHEN 'header' THEN
            IF block - '{type,text}'::text[] <> '{}' OR block #>> '{text,type}' <> 'plain_text' THEN RETURN 'header'; END IF;
            IF pg_temp.units(block #>> '{text,text}') NOT BETWEEN 1 AND 150 THEN RETURN 'header length'; END IF;
            IF pg_temp.unsafe(block #>> '{text,text}', NULL) THEN RETURN 'header escaping'; END IF;
            total := total + pg_temp.units(block #>> '{text,text}');
        WHEN 'section', 'context' THEN
            IF block - '{type,text,fields,elements}'::text[] <> '{}' THEN RETURN 'section'; END IF;
            IF NOT block ?| '{text,fields,elements}' THEN RETURN 'empty section'; END IF;
            IF block ? 'fields' AND jsonb_array_length(block->'fields') NOT BETWEEN 1 AND 10 THEN RETURN 'number of fields'; END IF;
            FOR part IN SELECT block->'text' WHERE block ? 'text' UNION ALL SELECT jsonb_array_elements(block->'fields') UNION ALL SELECT jsonb_array_elements(block->'elements') LOOP
                IF part - '{type,text,verbatim}'::text[] <> '{}' OR part->>'type' <> 'mrkdwn' OR part->'verbatim' <> 'true' THEN RETURN 'text object'; END IF;
                IF pg_temp.units(part->>'text') NOT BETWEEN 1 AND (CASE WHEN block ? 'text' THEN 3000 ELSE 2000 END) THEN RETURN 'text length'; END IF;
                IF pg_temp.unsafe(part->>'text', mention) THEN RETURN 'escaping: ' || (part->>'text'); END IF;
                total := total + pg_temp.units(part->>'text');
            END LOOP;
        WHEN 'actions' THEN
            part := block #> '{elements,0}';
            IF settings->>'app_url' IS NULL OR jsonb_array_length(block->'elements') <> 1 OR part - '{type,text,url,style}'::text[] <> '{}' THEN RETURN 'button'; END IF;
            IF pg_temp.units(part #>> '{text,text}') NOT BETWEEN 1 AND 75 THEN RETURN 'button text'; END IF;
            IF pg_temp.units(part->>'url') > 3000 OR part->>'url' !~ '^https://app\.example/desk/conversations/[A-Za-z0-9._~%-]+(/takeover)?$' THEN RETURN 'button url'; END IF;
        END CASE;
    END LOOP;
    IF total > 12000 THEN RETURN 'texts are too long'; END IF;
    RETURN NULL;
END
$$;

SELECT setseed(0.42);
DO $$
DECLARE
    event    jsonb;
    settings jsonb;
    request  chatwebhook.request;
    found    text;
    bad      integer := 0;
    sent     integer := 0;
BEGIN
    FOR i IN 1 .. 1000 LOOP
        event := pg_temp.random_event();
        settings := pg_temp.random_settings();
        BEGIN
            request := pg_temp.call(event, CASE WHEN settings ? 'channel' THEN pg_temp.bot(settings, '{"thread": "1.2"}') ELSE pg_temp.webhook(settings) END);
            found := pg_temp.violation(event, settings, request);
        EXCEPTION WHEN OTHERS THEN
            found := SQLERRM;
        END;
        IF found IS NOT NULL THEN
            bad := bad + 1;
            IF bad <= 5 THEN
                RAISE NOTICE 'event %: %', i, left(found, 300);
            END IF;
        END IF;
        sent := sent + 1;
    END LOOP;
    RAISE NOTICE '% | % violations', sent, bad;
END
$$;
