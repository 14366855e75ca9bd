--
-- Discord: the message of every event, and 1,000 random ones held to its limits.
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
    SELECT chatwebhook.discord(event, webhook, replies)
$$;
CREATE FUNCTION pg_temp.webhook(settings jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '0190a7c8-0000-4000-8000-00000000000b', 'name', 'desk',
               'url', 'https://discord.example/api/webhooks/1/x', 'chatbotId', null, 'settings', settings)
$$;

SELECT format(E'%s, %s:\n%s', type, kind, jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope(type, data), pg_temp.webhook('{"username": "Desk", "mention_here": true}')))))
  FROM sample ORDER BY n;

-- a forum: the first event of a conversation begins a thread, the others are in it
CREATE FUNCTION pg_temp.forum(settings jsonb, memory jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT pg_temp.webhook('{"forum": true, "app_url": "https://app.example"}'::jsonb || settings) || jsonb_build_object('memory', memory)
$$;
SELECT jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope('lead.captured', '{"name": "Zoë @everyone", "email": "zoe@example.com"}'), pg_temp.forum('{"tags": ["1234567890123456789", 7, "x", "2", "3", "4", "5"]}'))));
SELECT kind, jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope(type, data), pg_temp.forum('{"username": "Ada"}', '{"thread": "1500000000000000001"}'))))
  FROM sample WHERE type IN ('message.received', 'handoff.requested', 'webhook.alert') AND kind = 'ordinary' ORDER BY n;
SELECT r.body->>'username' FROM unnest('{Zoë,"Ada of Discord",NULL}'::text[]) AS name,
       LATERAL pg_temp.call(pg_temp.envelope('message.received', jsonb_build_object('content', 'Hi', 'visitorName', name)), pg_temp.forum('{"username": "Ada"}', '{"thread": "1500000000000000001"}')) AS r;
-- a thread that is none, and conversations without an id
SELECT m, c, r.url, r.body->>'thread_name' AS name
  FROM unnest('{"{}",null,"[]","{\"thread\": \"1500000000000000001\"}","{\"thread\": 10003}","{\"thread\": \"1&wait=false\"}"}'::jsonb[]) AS m, unnest('{c-1,""}'::text[]) AS c,
       LATERAL pg_temp.call(pg_temp.envelope('lead.captured', '{}') || jsonb_build_object('conversationId', c), pg_temp.forum('{}', m)) AS r;

-- whom to mention: nobody but those of the setting
SELECT s, type, r.body->'content' AS content, r.body->'allowed_mentions' AS allowed
  FROM unnest(ARRAY['{"mention": "<@&12> <@34> and <@!56>, @everyone @here"}', '{"mention": {"lead.captured": "<@&12>", "sales.opportunity": 5}, "mention_here": true}', '{"mention": ["<@&12>"]}', '{"mention": "x"}']::jsonb[]) AS s,
       unnest('{handoff.requested,sales.opportunity,lead.captured}'::text[]) AS type,
       LATERAL pg_temp.call(pg_temp.envelope(type, '{"intent": "<@&99> @here", "reason": "<@&99>"}'), pg_temp.webhook(s)) AS r;

-- a map of fields
SELECT f->>'name' AS name, f->>'value' AS value, length(f->>'value')
  FROM pg_temp.call(pg_temp.envelope('order.placed', jsonb_build_object('plan', 'Pro *1*', 'seats', 50, 'trial', true, 'tags', '["a", "b"]'::jsonb, 'long', repeat('😀', 500000), 'total', 49)),
           pg_temp.webhook('{"as": {"order.placed": "lead.captured"}, "fields": {"Company": null, "Email": "$.data.none", "Plan": "$.data.plan", "Seats": "$.data.seats", "Trial": "$.data.trial", "Tags": "$.data.tags",
                             "Long": "$.data.long", "@here": "@@here", "order.placed": {"Total": "$.data.total", "Plan": "$.type"}}}')) AS r,
       jsonb_path_query(r.body, '$.embeds[0].fields[*]') AS f;
-- whatever an event has is shown, or counted
SELECT jsonb_array_length(r.body #> '{embeds,0,fields}'), r.body #>> '{embeds,0,footer,text}'
  FROM unnest('{1,300}'::integer[]) AS length,
       pg_temp.call(pg_temp.envelope('order.placed', (SELECT jsonb_object_agg('own' || n, repeat('x', length)) FROM generate_series(1, 30) AS n)), pg_temp.webhook()) AS r;

-- here only if the setting is true, and for sales opportunities
SELECT s, type, r.body->'content' AS content, r.body->'allowed_mentions' AS allowed
  FROM unnest('{"{\"mention_here\": true}","{\"mention_here\": false}","{\"mention_here\": \"true\"}","{}"}'::jsonb[]) AS s,
       unnest('{sales.opportunity,lead.captured}'::text[]) AS type,
       LATERAL pg_temp.call(pg_temp.envelope(type, '{"intent": "@here"}'), pg_temp.webhook(s)) AS r
 ORDER BY type DESC, s::text;
-- names that Discord refuses are left out, and pictures that are no URL
SELECT s, r.body->>'username' AS username, r.body->>'avatar_url' AS avatar
  FROM unnest(ARRAY['{"username": "Desk", "avatar_url": "https://e.example/a.png"}', '{"username": "My Discord bot", "avatar_url": "x"}', '{"username": " Clyde "}', '{"username": ""}', '{"username": 1}',
                    'null', '[]']::jsonb[]) AS s,
       LATERAL pg_temp.call(pg_temp.envelope('conversation.ended', '{}'), pg_temp.webhook(s)) AS r;
SELECT pg_temp.call(pg_temp.envelope('lead.captured', '{}'), pg_temp.webhook(), '[{"status": 200, "body": {}}]') IS NULL;
SELECT name, function, shipped, jsonb_pretty(replies) FROM chatwebhook.connector WHERE name = 'discord';

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
    SELECT pg_temp.pick('{}', 'null', '[]', '{"mention_here": true}', '{"mention_here": 1}', jsonb_build_object('username', pg_temp.random_text(), 'avatar_url', pg_temp.random_text())::text, '{"currency": "EUR "}',
        '{"forum": true, "tags": ["1", "x"], "mention": "<@&12> <@34> @here"}',
        jsonb_build_object('app_url', 'https://app.example', 'mention', pg_temp.random_text(), 'as', jsonb_build_object('order.placed', 'lead.captured'),
                           'fields', jsonb_build_object('Email', '$.data.message', pg_temp.random_text(), '$.data.*', 'x', '$.type', 'Phone', NULL))::text)::jsonb
$$;

-- characters as JavaScript counts them
CREATE FUNCTION pg_temp.units(value text) RETURNS integer
    LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(length(value) + length(regexp_replace(value, '[\u0001-\uFFFF]', '', 'g')), 0)
$$;

-- markdown in which everything special is escaped
CREATE FUNCTION pg_temp.unsafe(markup text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF markup ~ '^https?://[A-Za-z0-9._~:/?#$&+,;=%-]+$' THEN RETURN false; END IF;
    markup := regexp_replace(markup, '\\[^0-9A-Za-z\s]', 'x', 'g');
    RETURN markup ~ '[\\*_~`|<>@#\[\]]' OR markup ~ '://' OR markup ~ '(^|\n)[ \t]*-' OR markup ~ '[\u0001-\u0008\u000B-\u001F]';
END
$$;
CREATE FUNCTION pg_temp.violation(event jsonb, settings jsonb, request chatwebhook.request) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    embed jsonb := request.body #> '{embeds,0}';
    field jsonb;
    total integer := 0;
    pings boolean := coalesce(event->>'type' = 'sales.opportunity' AND settings->'mention_here' = 'true', false);
BEGIN
    IF request.last IS NOT TRUE OR request.url <> pg_temp.webhook()->>'url' || '?wait=true' || (CASE WHEN event->>'type' <> 'webhook.alert' AND event->>'conversationId' <> '' THEN '&thread_id=1500000000000000001' ELSE '' END) OR request.headers IS NOT NULL OR embed IS NULL THEN
        RETURN 'request';
    ELSIF (settings->'forum' = 'true' AND strpos(request.url, 'thread_id') = 0) IS TRUE
          AND (pg_temp.units(request.body->>'thread_name') NOT BETWEEN 1 AND 100 OR request.body->'applied_tags' <> '["1"]') THEN
        RETURN 'thread';
    ELSIF request.body - '{username,avatar_url,content,allowed_mentions,embeds,thread_name,applied_tags}'::text[] <> '{}' OR jsonb_array_length(request.body->'embeds') <> 1 THEN
        RETURN 'unknown key of the message';
    ELSIF request.body #> '{allowed_mentions,parse}' <> (CASE WHEN pings THEN '["everyone"]' ELSE '[]' END)::jsonb
          OR (request.body->'allowed_mentions') - '{parse,roles,users}'::text[] <> '{}' THEN
        RETURN 'allowed_mentions';
    ELSIF request.body->>'content' IS DISTINCT FROM (CASE WHEN pings THEN '@here'
              WHEN settings->'forum' = 'true' AND event->>'type' IN ('handoff.requested', 'sales.opportunity') THEN '<@&12> <@34>'
              WHEN settings ? 'app_url' AND request.body->>'content' ~ '^<@1>$' THEN '<@1>' END) THEN
        RETURN 'content';
    ELSIF request.body->>'username' ~* 'clyde|discord' OR pg_temp.units(request.body->>'username') > 80 OR request.body->>'username' = '' THEN
        RETURN 'username';
    ELSIF request.body->>'avatar_url' !~ '^https?://' THEN
        RETURN 'avatar_url';
    ELSIF embed - '{title,description,color,fields,timestamp,footer,url}'::text[] <> '{}' THEN
        RETURN 'unknown key of the embed';
    ELSIF pg_temp.units(embed->>'title') NOT BETWEEN 1 AND 256 OR pg_temp.unsafe(embed->>'title') THEN
        RETURN 'title';
    ELSIF embed ? 'description' AND (pg_temp.units(embed->>'description') NOT BETWEEN 1 AND 4096 OR pg_temp.unsafe(embed->>'description')) THEN
        RETURN 'description: ' || (embed->>'description');
    ELSIF embed ? 'timestamp' AND embed->>'timestamp' IS DISTINCT FROM '2026-01-02T03:04:05.678Z' THEN
        RETURN 'timestamp';
    ELSIF embed->>'url' !~ '^https://app.example/conversations/[A-Za-z0-9._~%-]+(/takeover)?$' OR length(embed->>'url') > 2048 THEN
        RETURN 'url';
    ELSIF embed ? 'footer' AND pg_temp.units(embed #>> '{footer,text}') NOT BETWEEN 1 AND 2048 THEN
        RETURN 'footer';
    ELSIF embed ? 'fields' AND jsonb_array_length(embed->'fields') NOT BETWEEN 1 AND 25 THEN
        RETURN 'number of fields';
    END IF;
    FOR field IN SELECT jsonb_array_elements(embed->'fields') LOOP
        IF field - '{name,value,inline}'::text[] <> '{}' THEN RETURN 'field'; END IF;
        IF pg_temp.units(field->>'name') NOT BETWEEN 1 AND 256 OR pg_temp.unsafe(field->>'name') THEN RETURN 'field name: ' || (field->>'name'); END IF;
        IF pg_temp.units(field->>'value') NOT BETWEEN 1 AND 1024 THEN RETURN 'field length'; END IF;
        IF btrim(field->>'value', E' \n\t\u00a0\u3000') = '' THEN RETURN 'blank field'; END IF;
        IF pg_temp.unsafe(field->>'value') THEN RETURN 'escaping: ' || (field->>'value'); END IF;
        total := total + pg_temp.units(field->>'name') + pg_temp.units(field->>'value');
    END LOOP;
    total := total + pg_temp.units(embed->>'title') + pg_temp.units(embed->>'description') + pg_temp.units(embed #>> '{footer,text}');
    IF total > 6000 THEN RETURN 'the embed is too long: ' || total; END IF;
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
            request := pg_temp.call(event, pg_temp.webhook(settings) || '{"memory": {"thread": "1500000000000000001"}}');
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
