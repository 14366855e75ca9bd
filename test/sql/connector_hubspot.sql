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
CREATE FUNCTION requests(event jsonb, settings jsonb DEFAULT '{}', replies jsonb DEFAULT '[]', memory jsonb DEFAULT '{}') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    request chatwebhook.request;
BEGIN
    FOR made IN 0 .. jsonb_array_length(replies) LOOP
        request := chatwebhook.hubspot(event, jsonb_build_object('id', 'd3b07384-d113-4ec6-a7d5-38dbb8f2c0a1', 'name', 'crm', 'url', 'https://hubspot.example/',
                                                              'chatbotId', null, 'settings', settings, 'memory', memory),
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

\set none '{"status": 404, "body": {"status": "error", "message": "Object not found.  objectId: x", "category": "OBJECT_NOT_FOUND"}}'
\set contact '{"status": 201, "body": {"id": "501", "properties": {}}}'
\set made '{"status": 201, "body": {"id": "601"}}'
\set invalid '{"status": 400, "body": {"status": "error", "category": "VALIDATION_ERROR", "message": "Property values were not valid: [{\\"isValid\\":false,\\"message\\":\\"Email address is invalid\\",\\"error\\":\\"INVALID_EMAIL\\",\\"name\\":\\"email\\"},{\\"name\\": \\"plan__c\\"}]"}}'
\set zoe '{"email": "zoe@example.com", "name": "Zoë van der Berg", "phone": "+49 30 1234", "company": "Berg & Co", "source": "pricing page", "conversationSummary": "Wants 50 seats.\\r\\nAsked for <b>prices</b>.", "plan": "pro"}'

-- a lead that is new: contact, note, and with settings.deal a deal
SELECT requests(event('lead.captured', :'zoe'), '{"deal": {"name": "Chat", "pipeline": "p1", "stage": "new", "currency": "EUR", "close_days": 30}, "owner_id": "77", "app_url": "https://app.example"}',
    jsonb_build_array(:'none'::jsonb, :'contact'::jsonb, :'made'::jsonb, :'made'::jsonb));
-- with its company, which is there, or not
SELECT requests(event('lead.captured', :'zoe'), '{"company": true, "deal": true}',
    jsonb_build_array(:'none'::jsonb, :'contact'::jsonb, '{"status": 200, "body": {"total": 1, "results": [{"id": "901"}]}}'::jsonb, '{"status": 200, "body": {}}'::jsonb, :'made'::jsonb));
SELECT requests(event('lead.captured', '{"email": "zoe@example.com", "company": "Berg & Co"}'), '{"company": true}',
    jsonb_build_array(:'none'::jsonb, :'contact'::jsonb, '{"status": 200, "body": {"total": 0, "results": []}}'::jsonb, '{"status": 201, "body": {"id": "902"}}'::jsonb, '{"status": 200, "body": {}}'::jsonb));
-- one that is there: only what is blank is filled; what the visitor typed is in the note
SELECT requests(event('lead.captured', :'zoe'), '{"company": true, "fields": {"lifecyclestage": "@customer", "plan__c": "$.data.plan", "hs_lead_status": "@OPEN"}}',
    jsonb_build_array('{"status": 200, "body": {"id": "501", "properties": {"firstname": "Zoe", "lastname": "Berg", "phone": "", "company": null, "email": "zoe@example.com"}}}'::jsonb, '{"status": 200, "body": {"id": "501"}}'::jsonb, :'made'::jsonb));
-- nothing is blank; all that differs is replaced, if that is wanted
SELECT requests(event('lead.captured', '{"email": "zoe@example.com", "name": "Zoë"}'), s, jsonb_build_array('{"status": 200, "body": {"id": "501", "properties": {"firstname": "Zoe", "email": "z@example.com"}}}'::jsonb))
  FROM unnest('{"{}","{\"overwrite\": true}"}'::jsonb[]) AS s;
-- one that is remembered, with another address; one that has been deleted since
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', jsonb_build_array('{"status": 200, "body": {"id": "501", "properties": {"email": "zoe@example.org"}}}'::jsonb), '{"contact": "501"}');
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', jsonb_build_array(:'none'::jsonb, :'none'::jsonb), '{"contact": "501"}');
-- no usable address: a contact without, whose note says so
SELECT requests(event('lead.captured', '{"email": "''; --@everyone <x>", "name": "Zoë", "phone": "1"}'), '{}', jsonb_build_array(:'contact'::jsonb));
-- an address, and a field, that HubSpot refuses
SELECT requests(event('lead.captured', :'zoe'), '{"fields": {"plan__c": "$.data.plan"}}', jsonb_build_array(:'none'::jsonb, :'invalid'::jsonb, :'contact'::jsonb));
-- refused again, or for another reason
SELECT requests(event('lead.captured', :'zoe'), '{}', jsonb_build_array(:'none'::jsonb, :'invalid'::jsonb, :'invalid'::jsonb));
SELECT requests(event('lead.captured', :'zoe'), '{}', jsonb_build_array(:'none'::jsonb, '{"status": 400, "body": {"message": "Property values were not valid: [{\"name\":\"other\"}]"}}'::jsonb));
-- the address is another one of a contact that is there
SELECT requests(event('lead.captured', '{"email": "zoe@example.com", "name": "Zoë"}'), '{}',
    jsonb_build_array(:'none'::jsonb, '{"status": 409, "body": {"status": "error", "message": "Contact already exists. Existing ID: 77", "category": "CONFLICT"}}'::jsonb, '{"status": 200, "body": {"id": "77", "properties": {"email": "z@example.com"}}}'::jsonb, '{"status": 200, "body": {"id": "77"}}'::jsonb));
-- hostile texts
SELECT requests(event('lead.captured', '{"email": "zoe@example.com", "name": "<!channel>\u0001 \u202e😀", "phone": {"a": 1}, "company": ["x"], "source": "</p><script>alert(''1'')</script>", "conversationSummary": "\\ ''; -- \" &amp; </p><script>😀\r\n@everyone <!channel>"}'),
    '{"lifecyclestage": null, "hs_lead_status": "", "api_version": "2026-09/../x", "note_id_property": "chat_event"}', jsonb_build_array(:'none'::jsonb, :'contact'::jsonb, '{"status": 400, "body": {"message": "CONFLICTING_UNIQUE_VALUE"}}'::jsonb));
-- replies of odd shapes
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', '[{"status": 200, "body": "OK"}, {"status": 200, "body": "OK"}]');
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', '[{"status": 200, "body": {"id": {"a": 1}}}, {"status": 201, "body": {"id": ["7"]}}]');
-- a map of fields: the contact's
SELECT key, left(value, 80), length(value)
  FROM chatwebhook.hubspot(event('order.placed', jsonb_build_object('customer', 'zoe@example.com', 'text', 'a <b>', 'number', 5.50, 'yes', true, 'list', '["a", "b"]'::jsonb, 'deep', '{"a": [1]}'::jsonb, 'long', repeat('😀"', 350000))),
           '{"url": "https://hubspot.example", "settings": {"as": {"order.placed": "lead.captured"}, "hs_lead_status": null, "fields": {"email": "$.data.customer", "text__c": "$.data.text", "number__c": "$.data.number", "yes__c": "$.data.yes",
             "list__c": "$.data.list", "deep__c": "$.data.deep", "long__c": "$.data.long", "missing__c": "$.data.nothing", "team__c": "@sales", "seats__c": 5, "phone": null}}}',
           jsonb_build_array(:'none'::jsonb)) AS r, jsonb_each_text(r.body->'properties') ORDER BY key;
-- a sales opportunity: a deal, of the contact if there is one
SELECT requests(event('sales.opportunity', '{"visitorId": "v-9", "intent": "Wants 50 seats", "estimatedValue": 1200.50, "plan": "pro"}'), '{"owner_id": "77", "deal": {"currency": "EUR", "close_days": 30}, "fields": {"sales.opportunity": {"plan__c": "$.data.plan", "dealname": "@Mine"}}}',
    jsonb_build_array('{"status": 400, "body": {"message": "Property values were not valid: [{\"name\":\"plan__c\"}]"}}'::jsonb, :'made'::jsonb));
SELECT requests(event('sales.opportunity', '{"visitorId": "v-9", "intent": "Wants 50 seats", "visitorEmail": "zoe@example.com", "visitorName": "Zoë Berg"}'), '{"deal": {"name": "Upsell"}}', jsonb_build_array(:'none'::jsonb, :'contact'::jsonb));
SELECT requests(event('sales.opportunity', '{"visitorId": "''; --", "intent": "<!channel>\r\n@everyone \\ 😀", "estimatedValue": "lots"}'), '{"deal": 5}');
-- a hand-off: a task or a ticket, and a note if there is a ticket
SELECT requests(event('handoff.requested', '{"reason": "Billing <question>", "urgency": "high", "visitorName": "Zoë Berg", "visitorEmail": "zoe@example.com", "conversationHistory": [{"role": "user", "content": "Help!"}]}'), '{"owner_id": "77"}',
    jsonb_build_array('{"status": 200, "body": {"id": "501", "properties": {"firstname": "Zoe", "lastname": "B", "email": "zoe@example.com"}}}'::jsonb));
SELECT requests(event('handoff.requested', '{"reason": "Billing question"}'), s, '[]', m)
  FROM unnest('{"{\"handoff\": \"ticket\"}","{\"handoff\": \"ticket\", \"ticket\": {\"pipeline\": \"5\", \"stage\": \"9\", \"id_property\": \"chat_event\"}}"}'::jsonb[]) AS s,
       unnest('{"{\"contact\": \"501\"}","{\"contact\": \"501\", \"ticket\": 701}"}'::jsonb[]) AS m WHERE s ? 'ticket' OR m ? 'ticket';
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}', jsonb_build_array('{"status": 403, "body": {"message": "x"}}'::jsonb));
-- the end of a conversation: a note of a contact that is known
SELECT requests(event('conversation.ended', '{"durationSeconds": 60, "conversationHistory": [{"role": "user", "content": "Hi <b>"}, {"role": "assistant", "content": "Hello"}]}'), '{}', jsonb_build_array(:'made'::jsonb), '{"contact": "501"}');
SELECT requests(event('conversation.ended', '{"visitorEmail": "zoe@example.com"}'), '{}', jsonb_build_array(r)) FROM unnest(ARRAY[:'none', '{"status": 200, "body": {"id": "501", "properties": {}}}']::jsonb[]) AS r;
SELECT requests(event('conversation.ended', '{"durationSeconds": 60}'));
-- what the delivery itself has taught is remembered by the next step, and changes nothing
SELECT s.n, count(DISTINCT r) AS variants
  FROM (VALUES (1, event('lead.captured', :'zoe'), jsonb_build_array(:'none'::jsonb, :'contact'::jsonb, :'made'::jsonb)),
               (2, event('lead.captured', '{"name": "Zoë"}'), jsonb_build_array(:'contact'::jsonb, :'made'::jsonb)),
               (3, event('lead.captured', :'zoe'), jsonb_build_array(:'none'::jsonb, '{"status": 409, "body": {"message": "Contact already exists. Existing ID: 501"}}'::jsonb, '{"status": 200, "body": {"id": "501", "properties": {"phone": "1"}}}'::jsonb, :'made'::jsonb)),
               (4, event('lead.captured', :'zoe'), jsonb_build_array(:'none'::jsonb, :'invalid'::jsonb, :'contact'::jsonb)),
               (5, event('handoff.requested', '{"visitorEmail": "zoe@example.com"}'), jsonb_build_array(:'none'::jsonb, :'contact'::jsonb)),
               (6, event('sales.opportunity', '{"email": "zoe@example.com"}'), jsonb_build_array(:'none'::jsonb, :'contact'::jsonb)),
               (7, event('conversation.ended', '{"visitorEmail": "zoe@example.com"}'), jsonb_build_array('{"status": 200, "body": {"id": "501", "properties": {}}}'::jsonb))) AS s(n, event, replies),
       unnest('{"{}","{\"contact\": \"501\"}"}'::jsonb[]) AS m,
       LATERAL (SELECT to_jsonb(chatwebhook.hubspot(s.event, jsonb_build_object('url', 'https://hubspot.example', 'settings', '{}'::jsonb, 'memory', m), s.replies)) AS r) AS call
 GROUP BY s.n ORDER BY s.n;
-- the test reads one contact; other events are nothing to HubSpot
SELECT requests(event('webhook.test', '{"message": "test"}'));
SELECT type, requests(event(type, '{"email": "zoe@example.com", "visitorId": "v-9", "reason": "help", "rating": 1, "message": "no"}'))
  FROM unnest(ARRAY['conversation.started', 'message.received', 'message.sent', 'sentiment.negative', 'feedback.received', 'webhook.alert', 'order.placed']) AS type;
SELECT chatwebhook.hubspot(NULL, NULL, NULL) IS NULL, chatwebhook.hubspot('[1]', '"x"', '{}') IS NULL, chatwebhook.hubspot(event('message.sent', '"x"'), '{}', '"x"') IS NULL;
SELECT requests(event('lead.captured', '"x"'), '"x"');

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
        event := random_event('lead.captured', 'lead.captured', 'lead.captured', 'sales.opportunity', 'webhook.test', 'handoff.requested', 'conversation.ended', 'order.placed');
        webhook := jsonb_build_object('url', 'https://hubspot.example/', 'settings',
            random_object('api_version', 'lifecyclestage', 'hs_lead_status', 'note_id_property', 'owner_id', 'ticket', 'app_url')
            || CASE WHEN random() < 0.5 THEN jsonb_build_object('handoff', 'ticket', 'company', true, 'overwrite', random() < 0.5, 'as', '{"order.placed": "lead.captured"}'::jsonb,
                   'fields', jsonb_build_object('a__c', '$.data.*', 'phone', '$.data.message', 'lifecyclestage', '$.type', 'b__c', random_value())) ELSE '{}' END
            || CASE WHEN random() < 0.5 THEN jsonb_build_object('deal', random_object('name', 'pipeline', 'stage', 'id_property')) ELSE '{}' END);
        IF random() < 0.3 THEN
            webhook := webhook || '{"memory": {"contact": "501", "ticket": 701}}';
        END IF;
        replies := '[]';
        FOR step IN 1 .. 12 LOOP
            BEGIN
                request := chatwebhook.hubspot(event, webhook, replies);
            EXCEPTION WHEN OTHERS THEN
                -- HubSpot may refuse a thing twice, or what cannot be left out
                EXIT WHEN SQLERRM LIKE 'HubSpot did not%' AND replies->-1->>'status' = '400';
                RAISE WARNING '% of %', SQLERRM, left(event::text, 500);
                errors := errors + 1;
                EXIT;
            END;
            EXIT WHEN request.url IS NULL;
            requests := requests + 1;
            escaping := escaping + (request.url !~ '^https://hubspot[.]example/crm/objects/[A-Za-z0-9._~%-]+/(contacts([?]limit=1|/[0-9]+(/associations/default/companies/[0-9]+|[?]properties=[A-Za-z0-9._~%-]+)?|/[A-Za-z0-9._~%-]+[?]idProperty=email&properties=[A-Za-z0-9._~%-]+)?|notes|deals|tasks|tickets|companies(/search)?)$')::integer;
            limits := limits + (SELECT count(*) FROM jsonb_each_text(CASE jsonb_typeof(request.body->'properties') WHEN 'object' THEN request.body->'properties' END) AS p(name, value)
                                 WHERE utf16(p.value) > CASE WHEN p.name IN ('hs_note_body', 'hs_task_body', 'description', 'content') OR p.name LIKE '%\_\_c' OR p.name = 'phone' THEN 65536 ELSE 255 END
                                    OR request.method = 'PATCH' AND p.name IN ('lifecyclestage', 'hs_lead_status'))
                             + (SELECT count(*) FROM jsonb_each(CASE jsonb_typeof(request.body->'properties') WHEN 'object' THEN request.body->'properties' END) AS p(name, value) WHERE jsonb_typeof(p.value) <> 'string');
            note := coalesce(request.body->'properties'->>'hs_note_body', request.body->'properties'->>'hs_task_body');
            IF note IS NOT NULL THEN
                -- nothing but our own tags and whole entities, each paragraph closed
                escaping := escaping + (regexp_replace(note, '</?(p|strong)>|<br>|&(amp|lt|gt|quot);', '', 'g') ~ '[<>&"]'
                                        OR note !~ '^(<p>(<strong>[^<]*</strong>|([^<]|<br>)*)</p>)+$')::integer;
                escaping := escaping + (SELECT count(*) FROM jsonb_array_elements(request.body->'associations') AS a WHERE a #>> '{types,0,associationTypeId}' NOT IN ('202', '204', '228'));
                -- what was said is what is read
                IF event->>'type' = 'lead.captured' AND jsonb_typeof(event->'data'->'conversationSummary') = 'string' AND length(event->'data'->>'conversationSummary') < 5000 THEN
                    escaping := escaping + (strpos(replace(replace(replace(replace(replace(note, '<br>', E'\n'), '&lt;', '<'), '&gt;', '>'), '&quot;', '"'), '&amp;', '&'),
                                                   btrim(replace(replace(event->'data'->>'conversationSummary', E'\r\n', E'\n'), E'\x01', ''), E' \t\n')) = 0)::integer;
                END IF;
            END IF;
            EXIT WHEN request.last;
            replies := replies || CASE
                WHEN request.method = 'GET' AND random() < 0.5 THEN '{"status": 404, "body": {"status": "error"}}'
                WHEN request.method = 'GET' THEN jsonb_build_object('status', 200, 'body', jsonb_build_object('id', '12345', 'properties', random_object('firstname', 'lastname', 'phone', 'email')))
                WHEN request.url LIKE '%/search' THEN '{"status": 200, "body": {"results": []}}'
                WHEN random() < 0.2 THEN '{"status": 400, "body": {"message": "Property values were not valid: [{\"name\":\"email\"},{\"name\":\"a__c\"},{\"name\":\"firstname\"}]"}}'
                ELSE '{"status": 201, "body": {"id": "678"}}' END::jsonb;
        END LOOP;
    END LOOP;
    RETURN NEXT;
END
$$;
SELECT requests > 1000 AS enough, errors, limits, escaping FROM violations(1000);

SET client_min_messages = error;
DROP SCHEMA hubspot_test CASCADE;
