--
-- The connector hubspot: the requests of every step for every type of event, and
-- what must hold of any event.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
CREATE SCHEMA hubspot_test;
SET search_path = hubspot_test;
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION event(type text, data jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '01a20943-c46f-7995-a698-9f20430569ac', 'type', type, 'timestamp', '2026-01-02T03:04:05.678Z',
                              'chatbotId', 'shop', 'conversationId', 'c-17', 'data', data)
$$;
-- the requests of a delivery whose requests get these replies
CREATE FUNCTION requests(event jsonb, settings jsonb DEFAULT '{}', replies jsonb DEFAULT '[]') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    request chatwebhook.request;
BEGIN
    FOR made IN 0 .. jsonb_array_length(replies) LOOP
        request := chatwebhook.hubspot(event, jsonb_build_object('id', 'd3b07384-d113-4ec6-a7d5-38dbb8f2c0a1', 'name', 'crm', 'url', 'https://hubspot.example/',
                                                              'chatbotId', null, 'settings', settings),
            (SELECT COALESCE(jsonb_agg(r.reply ORDER BY r.place), '[]') FROM jsonb_array_elements(replies) WITH ORDINALITY AS r(reply, place) WHERE place <= made));
        IF request.url IS NULL THEN
            RETURN NEXT '(nothing)';
            RETURN;
        END IF;
        RETURN NEXT concat_ws(' ', request.method, request.url, request.headers, CASE WHEN request.last THEN '(last)' END);
        IF request.body IS NOT NULL THEN
            RETURN NEXT jsonb_pretty(request.body);
        END IF;
        EXIT WHEN request.last;
    END LOOP;
END
$$;

SELECT name, function, shipped FROM chatwebhook.connector WHERE name = 'hubspot';
SELECT jsonb_pretty(replies) FROM chatwebhook.connector WHERE name = 'hubspot';

-- a lead: contact, note, and with settings.deal a deal
SELECT requests(event('lead.captured', '{"email": "zoe@example.com", "name": "Zoë van der Berg", "phone": "+49 30 1234", "company": "Berg & Co", "source": "pricing page", "conversationSummary": "Wants 50 seats.\r\nAsked for <b>prices</b>."}'),
    '{"deal": {"name": "Chat", "pipeline": "p1", "stage": "new"}}',
    '[{"status": 200, "body": {"status": "COMPLETE", "results": [{"id": "501", "new": true}]}}, {"status": 201, "body": {"id": "601"}}]');
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', '[{"status": 201, "body": {"results": [{"id": "501"}]}}]');
SELECT requests(event('lead.captured', '{"email": " ''; --@everyone ", "name": "<!channel>\u0001 \u202e😀", "phone": {"a": 1}, "company": ["x"], "source": "</p><script>alert(''1'')</script>", "conversationSummary": "\\ ''; -- \" &amp; </p><script>😀\r\n@everyone <!channel>"}'),
    '{"lifecyclestage": null, "hs_lead_status": "", "api_version": "2026-09/../x", "note_id_property": "chat_event", "deal": {"id_property": "chat_event"}}',
    '[{"status": 207, "body": {"results": [{"id": "501"}]}}, {"status": 400, "body": {"category": "VALIDATION_ERROR"}}]');
-- the address is another one of a contact that is there
SELECT requests(event('lead.captured', '{"email": "zoe@example.com", "name": "Zoë"}'), '{"deal": true}',
    '[{"status": 409, "body": {"status": "error", "message": "Contact already exists. Existing ID: 77", "category": "CONFLICT"}}, {"status": 200, "body": {"id": "77"}}, {"status": 201, "body": {}}]');
-- replies of odd shapes: what depends on the contact is left out
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{"lifecyclestage": "", "hs_lead_status": ""}', '[{"status": 200, "body": "OK"}]');
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', '[{"status": 200, "body": {"results": [{"id": {"a": 1}}]}}]');
-- no address, no contact
SELECT requests(event('lead.captured', '{"email": "", "name": "Zoë"}'));
-- a sales opportunity: a deal, of the contact if an address is known
SELECT requests(event('sales.opportunity', '{"visitorId": "v-9", "intent": "Wants 50 seats", "estimatedValue": 1200.50}'));
SELECT requests(event('sales.opportunity', '{"visitorId": "v-9", "intent": "Wants 50 seats", "visitorEmail": "zoe@example.com", "visitorName": "Zoë Berg"}'), '{"deal": {"name": "Upsell"}}',
    '[{"status": 200, "body": {"results": [{"id": "501"}]}}]');
SELECT requests(event('sales.opportunity', '{"visitorId": "''; --", "intent": "<!channel>\r\n@everyone \\ 😀", "estimatedValue": "lots", "email": "zoe@example.com"}'), '{"deal": 5}', '[{"status": 200, "body": null}]');
-- the test reads one contact; other events are nothing to HubSpot
SELECT requests(event('webhook.test', '{"message": "test"}'));
SELECT type, requests(event(type, '{"email": "zoe@example.com", "visitorId": "v-9", "reason": "help", "rating": 1, "message": "no"}'))
  FROM unnest(ARRAY['conversation.started', 'conversation.ended', 'message.received', 'message.sent', 'handoff.requested', 'sentiment.negative', 'feedback.received', 'webhook.alert', 'order.placed']) AS type;
SELECT chatwebhook.hubspot(NULL, NULL, NULL) IS NULL, chatwebhook.hubspot('[1]', '"x"', '{}') IS NULL, chatwebhook.hubspot(event('lead.captured', '"x"'), '{}', '"x"') IS NULL;

--
-- 1,000 random events, settings and replies: no error, no limit passed, no
-- escaping broken.
--
CREATE FUNCTION utf16(value text) RETURNS integer LANGUAGE sql AS $$
    SELECT length(value) + length(value) - length(regexp_replace(value, U&'[\+010000-\+01FFFF]', '', 'g'))
$$;
CREATE FUNCTION random_text() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT repeat(string_agg((ARRAY['<!channel>', '@everyone', '''; --', ''' OR Name != ''', '\', '\\''', '"', '</p><script>alert(1)</script>', '&amp', '&', '<', '>',
                                    E'\r\n', E'\n', E'\t', E'\x01', ' ', '  ', '{{ticket.id}}', '{{{', '{%', '%27', '%', '?a=b&c=d#e', '/../', ',', 'zoe@example.com',
                                    'o''brien@example.com', 'Zoë', 'Ünal', '漢字', '😀', '👩‍👩‍👧', U&'\202E', U&'\0301', 'plain words', '"errors":[{', 'Existing ID: 7'])[1 + floor(random() * 37)::integer], ''),
                  CASE WHEN random() < 0.05 THEN 2000 ELSE 1 END)
      FROM generate_series(1, 1 + floor(random() * 8)::integer)
$$;
CREATE FUNCTION random_value(depth integer DEFAULT 0) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kind float := random();
BEGIN
    RETURN CASE WHEN kind < 0.6 THEN to_jsonb(random_text())
                WHEN kind < 0.65 THEN 'null'
                WHEN kind < 0.7 THEN to_jsonb(random() < 0.5)
                WHEN kind < 0.75 THEN to_jsonb(round((random() * 1000)::numeric, 2))
                WHEN kind < 0.8 THEN (ARRAY['-1', '1e400', '1e-400', '123456789012345678901234567890', '0'])[1 + floor(random() * 5)::integer]::jsonb
                WHEN kind < 0.85 OR depth > 2 THEN (ARRAY['""', '[]', '{}', '[null]', '{"":""}'])[1 + floor(random() * 5)::integer]::jsonb
                WHEN kind < 0.92 THEN jsonb_build_array(random_value(depth + 1), jsonb_build_object('role', random_value(depth + 1), 'content', random_value(depth + 1)))
                ELSE jsonb_build_object('content', random_value(depth + 1), 'name', random_value(depth + 1), random_text(), random_value(depth + 1)) END;
END
$$;
-- an object of some of these keys
CREATE FUNCTION random_object(VARIADIC keys text[]) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN random() < 0.03 THEN random_value() ELSE COALESCE(jsonb_object_agg(key, random_value()) FILTER (WHERE random() < 0.7), '{}') END FROM unnest(keys) AS key
$$;
CREATE FUNCTION random_event(VARIADIC types text[]) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT jsonb_build_object('id', CASE WHEN random() < 0.9 THEN to_jsonb(md5(random()::text)::uuid) ELSE random_value() END,
                              'type', types[1 + floor(random() * cardinality(types))::integer], 'timestamp', '2026-01-02T03:04:05.678Z',
                              'chatbotId', random_value(), 'conversationId', CASE WHEN random() < 0.2 THEN 'null' WHEN random() < 0.3 THEN to_jsonb(random_text()) ELSE '"c-17"' END,
                              'data', random_object('email', 'name', 'phone', 'company', 'source', 'conversationSummary', 'visitorId', 'intent', 'estimatedValue',
                                                    'reason', 'urgency', 'visitorName', 'visitorEmail', 'conversationHistory', 'rating', 'comment', 'message'))
$$;
DO $$ BEGIN PERFORM setseed(0.42); END $$;
CREATE FUNCTION violations(count integer) RETURNS TABLE (requests bigint, errors bigint, limits bigint, escaping bigint) LANGUAGE plpgsql AS $$
DECLARE
    event jsonb;
    webhook jsonb;
    replies jsonb;
    request chatwebhook.request;
    note text;
BEGIN
    requests := 0; errors := 0; limits := 0; escaping := 0;
    FOR i IN 1 .. count LOOP
        event := random_event('lead.captured', 'lead.captured', 'lead.captured', 'sales.opportunity', 'webhook.test', 'handoff.requested');
        webhook := jsonb_build_object('url', 'https://hubspot.example/', 'settings',
            random_object('api_version', 'lifecyclestage', 'hs_lead_status', 'note_id_property')
            || CASE WHEN random() < 0.5 THEN jsonb_build_object('deal', random_object('name', 'pipeline', 'stage', 'id_property')) ELSE '{}' END);
        replies := '[]';
        FOR step IN 1 .. 5 LOOP
            BEGIN
                request := chatwebhook.hubspot(event, webhook, replies);
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING '% of %', SQLERRM, left(event::text, 500);
                errors := errors + 1;
                EXIT;
            END;
            EXIT WHEN request.url IS NULL;
            requests := requests + 1;
            escaping := escaping + (request.url !~ '^https://hubspot[.]example/crm/objects/[A-Za-z0-9._~%-]+/(contacts([?]limit=1|/batch/upsert|/[0-9]+)|notes|deals)$')::integer;
            limits := limits + (SELECT count(*) FROM jsonb_each_text(request.body->'properties') AS p(name, value)
                                 WHERE utf16(p.value) > CASE p.name WHEN 'hs_note_body' THEN 65536 WHEN 'description' THEN 65536 ELSE 255 END)
                             + (SELECT count(*) FROM jsonb_each_text(request.body->'inputs'->0->'properties') AS p(name, value) WHERE utf16(p.value) > 255)
                             + (SELECT count(*) FROM jsonb_each(request.body->'properties') AS p(name, value) WHERE jsonb_typeof(p.value) <> 'string');
            note := request.body->'properties'->>'hs_note_body';
            IF note IS NOT NULL THEN
                -- nothing but our own tags and whole entities, each paragraph closed
                escaping := escaping + (regexp_replace(note, '</?(p|strong)>|<br>|&(amp|lt|gt|quot);', '', 'g') ~ '[<>&"]'
                                        OR note !~ '^(<p>(<strong>[^<]*</strong>|([^<]|<br>)*)</p>)+$')::integer;
                escaping := escaping + (request.body #> '{associations,0,types,0,associationTypeId}' IS DISTINCT FROM '202' OR jsonb_array_length(request.body->'associations') <> 1)::integer;
                -- what was said is what is read
                IF jsonb_typeof(event->'data'->'conversationSummary') = 'string' AND length(event->'data'->>'conversationSummary') < 5000 THEN
                    escaping := escaping + (strpos(replace(replace(replace(replace(replace(note, '<br>', E'\n'), '&lt;', '<'), '&gt;', '>'), '&quot;', '"'), '&amp;', '&'),
                                                   btrim(replace(replace(event->'data'->>'conversationSummary', E'\r\n', E'\n'), E'\x01', ''), E' \t\n')) = 0)::integer;
                END IF;
            END IF;
            EXIT WHEN request.last;
            replies := replies || jsonb_build_array(jsonb_build_object('status', 200, 'body',
                CASE WHEN random() < 0.7 THEN '{"results": [{"id": "12345"}]}' WHEN random() < 0.5 THEN '{"message": "Contact already exists. Existing ID: 77"}' ELSE random_value() END));
        END LOOP;
    END LOOP;
    RETURN NEXT;
END
$$;
SELECT requests > 1000 AS enough, errors, limits, escaping FROM violations(1000);

SET client_min_messages = error;
DROP SCHEMA hubspot_test CASCADE;
