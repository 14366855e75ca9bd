--
-- PagerDuty: the request of every event, and 1,000 random ones held to its limits.
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
UPDATE sample SET data = data || '{"urgency": "urgent"}' WHERE type = 'handoff.requested' AND kind = 'hostile';
-- a call as the worker makes it
CREATE FUNCTION pg_temp.envelope(type text, data jsonb) RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '0190a7c8-0000-7000-8000-000000000001', 'type', type,
               'timestamp', '2026-01-02T03:04:05.678Z', 'chatbotId', 'shop', 'conversationId', 'c-17/ü', 'data', data)
$$;
CREATE FUNCTION pg_temp.call(event jsonb, webhook jsonb, replies jsonb DEFAULT '[]') RETURNS chatwebhook.request
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT chatwebhook.pagerduty(event, webhook, replies)
$$;
CREATE FUNCTION pg_temp.webhook(settings jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '0190a7c8-0000-4000-8000-00000000000b', 'name', 'desk',
               'url', 'https://events.pagerduty.example/v2/enqueue', 'chatbotId', null, 'settings', settings)
$$;

SELECT format(E'%s, %s:\n%s', type, kind, jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope(type, data), pg_temp.webhook('{"app_url": "https://app.example/desk/"}')))))
  FROM sample ORDER BY n;

-- the second step of a test resolves it; there is no third
SELECT jsonb_pretty(to_jsonb(pg_temp.call(pg_temp.envelope('webhook.test', '{}'), pg_temp.webhook(), '[{"status": 202, "body": {}}]')));
SELECT pg_temp.call(pg_temp.envelope('webhook.test', '{}'), pg_temp.webhook(), '[{"status": 202, "body": {}}, {"status": 202, "body": {}}]') IS NULL;
-- severities
SELECT type, data, (pg_temp.call(pg_temp.envelope(type, data), pg_temp.webhook())).body #>> '{payload,severity}'
  FROM (VALUES (1, 'sentiment.negative', '{"sentimentScore": 0.89}'), (2, 'sentiment.negative', '{"sentimentScore": 0.9}'), (3, 'sentiment.negative', '{"sentimentScore": "1"}'), (4, 'sentiment.negative', '{"sentimentScore": 95}'),
               (5, 'handoff.requested', '{"urgency": "High"}'), (6, 'handoff.requested', '{"urgency": "urgent"}'), (7, 'handoff.requested', '{"urgency": "critical"}'), (8, 'handoff.requested', '{"urgency": "medium"}'), (9, 'handoff.requested', '{}'),
               (10, 'webhook.alert', '{"kind": "consecutive_failures"}'), (11, 'webhook.alert', '{"kind": "low_success_rate"}'), (12, 'webhook.alert', '{"kind": "backlog"}'), (13, 'webhook.alert', '{"kind": "webhook_disabled"}'), (14, 'webhook.alert', '{"state": "closed"}')) AS v(n, type, data_text),
       LATERAL (SELECT data_text::jsonb AS data) AS d
 ORDER BY n;
-- by the setting, for all or by type; a test is always info
SELECT s, type, (pg_temp.call(pg_temp.envelope(type, '{"urgency": "high"}'), pg_temp.webhook(jsonb_build_object('severity', s)))).body #>> '{payload,severity}'
  FROM unnest('{"\"Warning\"","{\"handoff.requested\": \"critical\", \"webhook.alert\": 5}","\"fatal\"","[]"}'::jsonb[]) AS s, unnest('{handoff.requested,sentiment.negative,webhook.alert,webhook.test}'::text[]) AS type;
-- a human takes over, and the conversation ends: what was opened is acknowledged, and resolved
CREATE FUNCTION pg_temp.steps(type text, memory jsonb, settings jsonb DEFAULT '{}') RETURNS SETOF text
    LANGUAGE plpgsql AS $$
DECLARE
    request chatwebhook.request;
    replies jsonb := '[]';
BEGIN
    LOOP
        request := pg_temp.call(pg_temp.envelope(type, '{}'), pg_temp.webhook(settings) || jsonb_build_object('memory', memory), replies);
        EXIT WHEN request.body IS NULL;
        RETURN NEXT concat_ws(' ', request.body, CASE WHEN request.last THEN '(last)' END);
        EXIT WHEN request.last;
        replies := replies || '{"status": 202, "body": {"status": "success"}}';
    END LOOP;
END
$$;
SELECT type, m, pg_temp.steps(type, m)
  FROM unnest('{handoff.accepted,conversation.ended}'::text[]) AS type,
       unnest('{"{\"handoff\": \"chatwebhook/handoff.requested/shop/c-17\", \"sentiment\": \"chatwebhook/sentiment.negative/shop/c-17\"}","{\"sentiment\": \"chatwebhook/sentiment.negative/shop/c-17\"}"}'::jsonb[]) AS m;
SELECT pg_temp.steps('agent.joined', '{"handoff": "chatwebhook/handoff.requested/shop/c-17"}', '{"as": {"agent.joined": "handoff.accepted"}}');
SELECT count(*) FROM unnest('{"{}",null,"[]","{\"handoff\": 5}","{\"handoff\": \"another\"}"}'::jsonb[]) AS m, pg_temp.steps('conversation.ended', m);
-- a map of fields, and all that an event has: its details
SELECT key, left(value, 60), length(value)
  FROM pg_temp.call(pg_temp.envelope('order.failed', jsonb_build_object('message', 'No', 'plan', 'pro', 'seats', 50, 'trial', true, 'tags', '["a", "b"]'::jsonb, 'deep', '{"a": null}'::jsonb, 'long', repeat('😀"', 350000), 'note', NULL)),
           pg_temp.webhook('{"as": {"order.failed": "sentiment.negative"}, "fields": {"Plan": "$.data.plan", "Tags": "$.data.tags[*]", "Missing": "$.data.nothing", "Team": "@desk", "trial": null, "order.failed": {"Seats": "$.data.seats"}}}')) AS r,
       jsonb_each_text(r.body #> '{payload,custom_details}') ORDER BY key;
SELECT length(r.body::text) < 512 * 1024 FROM pg_temp.call(pg_temp.envelope('sentiment.negative', (SELECT jsonb_object_agg('own' || n, repeat('😀"', 10000)) FROM generate_series(1, 100) AS n)), pg_temp.webhook()) AS r;
-- a key that is too long is hashed, not cut: another conversation's is another
SELECT length(r.body->>'dedup_key'), count(DISTINCT r.body->>'dedup_key')
  FROM generate_series(1, 3) AS n,
       LATERAL pg_temp.call(pg_temp.envelope('sentiment.negative', '{}') || jsonb_build_object('conversationId', repeat('x', 300) || n), pg_temp.webhook()) AS r
 GROUP BY 1;
SELECT name, function, shipped, jsonb_pretty(replies) FROM chatwebhook.connector WHERE name = 'pagerduty';

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
    SELECT pg_temp.pick('{}', 'null', '[]', '{"app_url": "https://app.example/desk"}', jsonb_build_object('source', pg_temp.random_text())::text)::jsonb
$$;

-- characters as JavaScript counts them
CREATE FUNCTION pg_temp.units(value text) RETURNS integer
    LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(length(value) + length(regexp_replace(value, '[\u0001-\uFFFF]', '', 'g')), 0)
$$;

CREATE FUNCTION pg_temp.violation(event jsonb, settings jsonb, request chatwebhook.request) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    body    jsonb := request.body;
    payload jsonb := request.body->'payload';
    wanted  boolean := coalesce(event->>'type' IN ('sentiment.negative', 'webhook.alert', 'webhook.test')
        OR event->>'type' = 'handoff.requested' AND lower(event #>> '{data,urgency}') IN ('high', 'urgent', 'critical'), false);
    again   chatwebhook.request;
BEGIN
    IF request IS NULL AND body IS NULL THEN
        RETURN CASE WHEN wanted THEN 'nothing sent' END;
    ELSIF NOT wanted THEN
        RETURN 'sent';
    ELSIF request.url IS NOT NULL OR request.headers IS NOT NULL OR body IS NULL
          OR request.last IS DISTINCT FROM (event->>'type' <> 'webhook.test') THEN
        RETURN 'request';
    ELSIF body - '{event_action,dedup_key,payload,links,client,client_url}'::text[] <> '{}' THEN
        RETURN 'unknown key of the event';
    ELSIF coalesce(pg_temp.units(body->>'dedup_key'), 0) NOT BETWEEN 1 AND 255 THEN
        RETURN 'dedup key';
    ELSIF octet_length(body::text) > 512 * 1024 THEN
        RETURN 'the whole is too long';
    END IF;
    -- the next call resolves the test, and ends everything else
    again := pg_temp.call(event, pg_temp.webhook(settings), '[{"status": 202, "body": {"status": "success"}}]');
    IF event->>'type' = 'webhook.test'
       AND (again.body->>'event_action' <> 'resolve' OR again.body->'dedup_key' <> body->'dedup_key' OR again.last IS NOT TRUE)
       OR event->>'type' <> 'webhook.test' AND again.body IS NOT NULL THEN
        RETURN 'second step';
    END IF;
    IF body->>'event_action' = 'resolve' THEN
        RETURN CASE WHEN event->>'type' <> 'webhook.alert' OR body ? 'payload' THEN 'resolve' END;
    ELSIF body->>'event_action' <> 'trigger' THEN
        RETURN 'action';
    ELSIF payload - '{summary,source,severity,timestamp,group,class,custom_details}'::text[] <> '{}' THEN
        RETURN 'unknown key of the payload';
    ELSIF coalesce(pg_temp.units(payload->>'summary'), 0) NOT BETWEEN 1 AND 1024 OR payload->>'summary' ~ '[\u0001-\u001F]' THEN
        RETURN 'summary';
    ELSIF coalesce(payload->>'source', '') = '' OR coalesce(payload->>'severity', '') NOT IN ('critical', 'error', 'warning', 'info') THEN
        RETURN 'source or severity';
    ELSIF payload ? 'timestamp' AND payload->>'timestamp' IS DISTINCT FROM '2026-01-02T03:04:05.678Z' THEN
        RETURN 'timestamp';
    ELSIF body->>'client_url' IS DISTINCT FROM body #>> '{links,0,href}' THEN
        RETURN 'client_url';
    ELSIF body ? 'links' AND body #>> '{links,0,href}' !~ '^https://app\.example/desk/conversations/[A-Za-z0-9._~%-]+$' THEN
        RETURN 'links';
    END IF;
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
            request := pg_temp.call(event, pg_temp.webhook(settings));
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
