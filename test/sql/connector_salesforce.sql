--
-- The connector salesforce: the requests of every step for every type of event, and
-- what must hold of any event.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
CREATE SCHEMA salesforce_test;
SET search_path = salesforce_test;
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION event(type text, data jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('id', '01a20943-c46f-7995-a698-9f20430569ac', 'type', type, 'timestamp', '2026-01-02T03:04:05.678Z',
                              'chatbotId', 'shop', 'conversationId', 'c-17', 'data', data)
$$;
-- the requests of a delivery whose requests get these replies
-- as a server reads it
CREATE FUNCTION url_decode(value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    bytes bytea := '';
    place integer := 1;
BEGIN
    WHILE place <= length(value) LOOP
        IF substr(value, place, 1) = '%' THEN
            bytes := bytes || decode(substr(value, place + 1, 2), 'hex');
            place := place + 3;
        ELSE
            bytes := bytes || convert_to(substr(value, place, 1), 'UTF8');
            place := place + 1;
        END IF;
    END LOOP;
    RETURN convert_from(bytes, 'UTF8');
END
$$;
CREATE FUNCTION requests(event jsonb, settings jsonb DEFAULT '{}', replies jsonb DEFAULT '[]', memory jsonb DEFAULT '{}') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    request chatwebhook.request;
BEGIN
    FOR made IN 0 .. jsonb_array_length(replies) LOOP
        request := chatwebhook.salesforce(event, jsonb_build_object('id', 'd3b07384-d113-4ec6-a7d5-38dbb8f2c0a1', 'name', 'crm', 'url', 'https://salesforce.example/',
                                                              'chatbotId', null, 'settings', settings, 'memory', memory),
            (SELECT COALESCE(jsonb_agg(r.reply ORDER BY r.place), '[]') FROM jsonb_array_elements(replies) WITH ORDINALITY AS r(reply, place) WHERE place <= made));
        IF request.url IS NULL THEN
            RETURN NEXT '(nothing)';
            RETURN;
        END IF;
        RETURN NEXT concat_ws(' ', request.method, url_decode(request.url), request.headers, CASE WHEN request.last THEN '(last)' END);
        IF request.body IS NOT NULL THEN
            RETURN NEXT jsonb_pretty(request.body);
        END IF;
        EXIT WHEN request.last;
    END LOOP;
END
$$;

SELECT name, function, shipped FROM chatwebhook.connector WHERE name = 'salesforce';
SELECT jsonb_pretty(replies) FROM chatwebhook.connector WHERE name = 'salesforce';

\set none '{"status": 200, "body": {"totalSize": 0, "done": true, "records": []}}'
\set contact '{"status": 200, "body": {"totalSize": 1, "done": true, "records": [{"attributes": {"type": "Contact"}, "Id": "003000000000001AAA"}]}}'
\set lead '{"status": 200, "body": {"totalSize": 1, "done": true, "records": [{"attributes": {"type": "Lead"}, "Id": "00Q000000000001AAA"}]}}'
\set made '{"status": 201, "body": {"id": "00Q000000000009AAA", "success": true, "errors": []}}'
\set task '{"status": 201, "body": {"id": "00T000000000009AAA", "success": true, "errors": []}}'
\set invalid '{"status": 400, "body": [{"message": "Email: invalid email address: x", "errorCode": "INVALID_EMAIL_ADDRESS", "fields": ["Email"]}]}'
\set zoe '{"email": "zoe@example.com", "name": "Zoë van der Berg", "phone": "+49 30 1234", "company": "Berg & Co", "source": "pricing page", "conversationSummary": "Wants 50 seats.\\r\\nAsked for <b>prices</b>.", "plan": "pro"}'

-- a Contact of that address is there, or a Lead: a Task for it
SELECT requests(event('lead.captured', :'zoe'), '{"app_url": "https://app.example"}', jsonb_build_array(:'contact'::jsonb, :'task'::jsonb));
SELECT requests(event('lead.captured', '{"email": "o''brien@example.com"}'), '{"external_id_field": "Chat_Event__c"}', jsonb_build_array(:'none'::jsonb, :'lead'::jsonb));
-- neither is: a new Lead, with a Task, or by the event's id
SELECT requests(event('lead.captured', :'zoe'), '{"lead_source": "Web", "api_version": "v70.0", "task_status": "Open"}', jsonb_build_array(:'none'::jsonb, :'none'::jsonb, :'made'::jsonb));
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{"external_id_field": "Chat_Event__c", "owner_id": "005000000000001AAA", "company": "None given", "last_name": "Visitor"}',
    jsonb_build_array(:'none'::jsonb, :'none'::jsonb, '{"status": 300, "body": ["/services/data/v68.0/sobjects/Lead/00Q1"]}'::jsonb));
-- one that is remembered
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', '[]', '{"who": "00Q000000000001AAA"}');
SELECT requests(event('lead.captured', '{"name": "Zoë"}'), '{}', '[]', m) FROM unnest('{"{\"who\": \"001000000000001AAA\"}","{\"who\": {}}",null}'::jsonb[]) AS m;
-- an address that Salesforce refuses, and a field, are in the Description
SELECT requests(event('lead.captured', :'zoe'), '{"fields": {"Plan__c": "$.data.plan", "Seats__c": 50}}', jsonb_build_array(:'none'::jsonb, :'none'::jsonb, :'invalid'::jsonb,
    '{"status": 400, "body": [{"message": "No such column ''Plan__c'' on sobject of type Lead", "errorCode": "INVALID_FIELD"}]}'::jsonb,
    '{"status": 400, "body": [{"message": "Cannot deserialize instance of int", "errorCode": "JSON_PARSER_ERROR"}]}'::jsonb, :'made'::jsonb));
-- what cannot be left out
SELECT requests(event('lead.captured', '{"name": "Zoë"}'), '{}', '[{"status": 400, "body": [{"message": "LastName: too long", "errorCode": "STRING_TOO_LONG", "fields": ["LastName"]}]}]');
SELECT requests(event('lead.captured', '{"name": "Zoë"}'), '{}', '[{"status": 403, "body": "<html>"}]');
-- no address, and those that are none
SELECT requests(event('lead.captured', jsonb_build_object('email', e, 'name', 'Zoë')), '{}', jsonb_build_array(:'made'::jsonb))
  FROM unnest(ARRAY[NULL, ''' OR Name != ''', repeat('x', 80) || '@example.com']) AS e;
-- hostile texts
SELECT requests(event('lead.captured', '{"email": "o''brien@example.com", "name": "<!channel> @everyone\u0001\r\n''; --", "phone": {"a": 1}, "company": "\\", "source": "</p><script>alert(''1'')</script>", "conversationSummary": "\\ ''; -- \" &amp; </p><script>😀\r\n@everyone <!channel>"}'),
    '{"task_external_id_field": "Chat_Event__c"}', jsonb_build_array(:'none'::jsonb, :'none'::jsonb, :'made'::jsonb));
-- replies of odd shapes
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{}', '[{"status": 200, "body": "OK"}]');
SELECT requests(event('lead.captured', '{"email": "zoe@example.com"}'), '{"owner_id": ["x"]}', '[{"status": 200, "body": {"records": []}}, {"status": 200, "body": {"records": [{"Id": "x''y"}]}}, {"status": 201, "body": [1]}]');
-- a map of fields: the Lead's
SELECT key, left(value::text, 80), length(value::text)
  FROM chatwebhook.salesforce(event('order.placed', jsonb_build_object('customer', 'zoe@example.com', 'text', 'a <b>', 'number', 5.50, 'yes', true, 'list', '["a", "b"]'::jsonb, 'deep', '{"a": [1]}'::jsonb, 'long', repeat('😀"', 350000))),
           '{"url": "https://salesforce.example", "settings": {"as": {"order.placed": "lead.captured"}, "fields": {"Email": "$.data.customer", "Text__c": "$.data.text", "Number__c": "$.data.number", "Yes__c": "$.data.yes",
             "List__c": "$.data.list", "Deep__c": "$.data.deep", "Long__c": "$.data.long", "Missing__c": "$.data.nothing", "Team__c": "@sales", "Seats__c": 5, "LeadSource": null, "Company": "@Mine"}}}',
           jsonb_build_array(:'none'::jsonb, :'none'::jsonb)) AS r, jsonb_each(r.body) WHERE key <> 'Description' ORDER BY key;
-- a hand-off: a Task, or a Case, and a Task if there is a Case
SELECT requests(event('handoff.requested', '{"reason": "Billing question", "urgency": "high", "visitorName": "Zoë Berg", "visitorEmail": "zoe@example.com", "conversationHistory": [{"role": "user", "content": "Help!"}, {"role": "assistant", "content": "How?"}, "…", {"content": 5}, null]}'),
    '{"task_external_id_field": "Chat_Event__c"}', jsonb_build_array(:'none'::jsonb, :'lead'::jsonb));
SELECT requests(event('handoff.requested', '{"reason": "help"}'));
SELECT requests(event('handoff.requested', '{"reason": "''; --\r\n@everyone", "urgency": ["x"], "visitorName": "<!channel>", "conversationHistory": "</p><script>\r\n\\ ''😀"}'));
SELECT requests(event('handoff.requested', '{"reason": "Billing question", "urgency": "low", "visitorName": "Zoë Berg", "visitorEmail": "zoe@example.com", "phone": "1", "company": "Berg & Co"}'),
    '{"handoff": "case", "case_origin": "Web", "owner_id": "005000000000001AAA", "case_external_id_field": "Chat_Event__c", "fields": {"handoff.requested": {"Type": "@Question"}}}', jsonb_build_array(:'contact'::jsonb,
    '{"status": 400, "body": [{"errorCode": "INVALID_CROSS_REFERENCE_KEY", "message": "x", "fields": ["ContactId"]}]}'::jsonb));
SELECT requests(event('handoff.requested', '{"reason": "again"}'), '{"handoff": "case"}', '[]', jsonb_build_object('who', w, 'case', '500000000000001AAA'))
  FROM unnest('{003000000000001AAA,00Q000000000001AAA}'::text[]) AS w;
-- a sales opportunity: a Task, or an Opportunity, with its Contact
SELECT requests(event('sales.opportunity', '{"visitorId": "v-9", "intent": "Wants 50 seats", "estimatedValue": 1200.50}'), '{}', '[]', '{"who": "00Q000000000001AAA"}');
SELECT requests(event('sales.opportunity', '{"intent": {"a": ["b"]}}'));
SELECT requests(event('sales.opportunity', '{"visitorId": "v-9", "intent": "Wants 50 seats", "estimatedValue": 1200.50, "email": "zoe@example.com"}'), '{"sales": "opportunity", "stage": "Qualification", "close_days": 14, "currency": "EUR"}',
    jsonb_build_array(:'contact'::jsonb, '{"status": 201, "body": {"id": "006000000000001AAA", "success": true}}'::jsonb, '{"status": 201, "body": {"id": "00K000000000001AAA", "success": true}}'::jsonb));
SELECT requests(event('sales.opportunity', '{"intent": "Wants 50 seats", "estimatedValue": "lots"}'), '{"sales": "opportunity", "close_days": -1, "currency": "€"}');
-- the end of a conversation: a Task for whom it was with, if that is known
SELECT requests(event('conversation.ended', '{"durationSeconds": 60, "conversationHistory": [{"role": "user", "content": "Hi"}]}'), '{}', jsonb_build_array(:'task'::jsonb), '{"who": "003000000000001AAA"}');
SELECT requests(event('conversation.ended', '{"visitorEmail": "zoe@example.com"}'), '{}', jsonb_build_array(:'none'::jsonb, :'none'::jsonb));
SELECT requests(event('conversation.ended', '{"durationSeconds": 60}'));
-- what the delivery itself has taught is remembered by the next step, and changes nothing
SELECT s.n, count(DISTINCT r) AS variants
  FROM (VALUES (1, event('lead.captured', :'zoe'), jsonb_build_array(:'none'::jsonb, :'none'::jsonb, :'made'::jsonb)),
               (2, event('lead.captured', '{"name": "Zoë"}'), jsonb_build_array(:'made'::jsonb)),
               (3, event('lead.captured', :'zoe'), jsonb_build_array(:'none'::jsonb, :'none'::jsonb, :'invalid'::jsonb, :'made'::jsonb)),
               (4, event('handoff.requested', '{"visitorEmail": "zoe@example.com"}'), jsonb_build_array('{"status": 200, "body": {"records": [{"Id": "00Q000000000009AAA"}]}}'::jsonb)),
               (5, event('handoff.requested', '{"reason": "x"}'), '[{"status": 201, "body": {"id": "500000000000009AAA"}}]')) AS s(n, event, replies),
       unnest('{"{}","{\"who\": \"00Q000000000009AAA\", \"case\": \"500000000000009AAA\"}"}'::jsonb[]) AS m,
       LATERAL (SELECT to_jsonb(chatwebhook.salesforce(s.event, jsonb_build_object('url', 'https://salesforce.example', 'settings', jsonb_build_object('handoff', CASE s.n WHEN 5 THEN 'case' ELSE 'task' END), 'memory', m), s.replies)) AS r) AS call
 GROUP BY s.n ORDER BY s.n;
-- the test reads one record; other events are nothing to Salesforce
SELECT requests(event('webhook.test', '{"message": "test"}'));
SELECT type, requests(event(type, '{"email": "zoe@example.com", "visitorId": "v-9", "reason": "help", "rating": 1, "message": "no"}'))
  FROM unnest(ARRAY['conversation.started', 'message.received', 'message.sent', 'sentiment.negative', 'feedback.received', 'webhook.alert', 'order.placed']) AS type;
SELECT chatwebhook.salesforce(NULL, NULL, NULL) IS NULL, chatwebhook.salesforce('[1]', '"x"', '{}') IS NULL, chatwebhook.salesforce(event('message.sent', '"x"'), '{}', '"x"') IS NULL;
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
-- the value of the query's one literal, read by SOQL's rules; null if the query is another
CREATE FUNCTION soql_value(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    opening text := CASE WHEN query LIKE '%FROM Lead%' THEN 'SELECT Id FROM Lead WHERE Email = ''' ELSE 'SELECT Id FROM Contact WHERE Email = ''' END;
    place integer := length(opening) + 1;
    value text := '';
BEGIN
    IF left(query, length(opening)) <> opening THEN
        RETURN NULL;
    END IF;
    LOOP
        CASE substr(query, place, 1)
        WHEN '' THEN RETURN NULL;
        WHEN '''' THEN EXIT;
        WHEN E'\\' THEN
            place := place + 1;
            IF substr(query, place, 1) NOT IN (E'\\', '''') THEN
                RETURN NULL;
            END IF;
        ELSE NULL;
        END CASE;
        value := value || substr(query, place, 1);
        place := place + 1;
    END LOOP;
    RETURN CASE WHEN substr(query, place + 1) IN (' ORDER BY CreatedDate DESC LIMIT 1', ' AND IsConverted = false ORDER BY CreatedDate DESC LIMIT 1') THEN value END;
END
$$;
CREATE FUNCTION violations(count integer) RETURNS TABLE (requests bigint, queries bigint, errors bigint, limits bigint, escaping bigint) LANGUAGE plpgsql AS $$
DECLARE
    event jsonb;
    webhook jsonb;
    replies jsonb;
    request chatwebhook.request;
BEGIN
    requests := 0; queries := 0; errors := 0; limits := 0; escaping := 0;
    FOR i IN 1 .. count LOOP
        event := random_event('lead.captured', 'lead.captured', 'lead.captured', 'sales.opportunity', 'handoff.requested', 'conversation.ended', 'order.placed', 'webhook.test', 'message.sent');
        -- an address is rarely one by chance
        IF jsonb_typeof(event->'data') = 'object' AND random() < 0.5 THEN
            event := jsonb_set(event, '{data,email}', to_jsonb((ARRAY['zoe@example.com', 'o''brien@example.com', '  o''b''r@example.com ', 'x\''@example.com', 'Zoë@exämple.com'])[1 + floor(random() * 5)::integer]), true);
        END IF;
        webhook := jsonb_build_object('url', 'https://salesforce.example/', 'settings',
            random_object('api_version', 'lead_source', 'last_name', 'company', 'task_status', 'owner_id')
            || CASE WHEN random() < 0.2 THEN random_object('external_id_field', 'task_external_id_field', 'stage', 'case_origin', 'close_days') ELSE '{}' END
            || CASE WHEN random() < 0.5 THEN jsonb_build_object('handoff', 'case', 'sales', 'opportunity', 'as', '{"order.placed": "lead.captured"}'::jsonb,
                   'fields', jsonb_build_object('A__c', '$.data.*', 'Phone', NULL, 'B__c', random_value())) ELSE '{}' END);
        IF random() < 0.2 THEN
            webhook := webhook || '{"memory": {"who": "003000000000001AAA", "case": "500000000000001AAA"}}';
        END IF;
        replies := '[]';
        FOR step IN 1 .. 12 LOOP
            BEGIN
                request := chatwebhook.salesforce(event, webhook, replies);
            EXCEPTION WHEN OTHERS THEN
                -- Salesforce may refuse what cannot be left out
                EXIT WHEN SQLERRM LIKE 'Salesforce did not create%' AND replies->-1->>'status' = '400'
                       OR SQLERRM LIKE 'Salesforce did not answer%' AND replies #> '{-1,body,records}' IS NULL;
                RAISE WARNING '% of %', SQLERRM, left(event::text, 500);
                errors := errors + 1;
                EXIT;
            END;
            EXIT WHEN request.url IS NULL;
            requests := requests + 1;
            escaping := escaping + (request.url !~ '^https://salesforce[.]example/services/data/[A-Za-z0-9._~%-]+/(query[?]q=[A-Za-z0-9._~%-]+|sobjects/(Lead|Task|Case|Opportunity|OpportunityContactRole)(/[A-Za-z0-9._~%-]+/[A-Za-z0-9._~%-]+)?)$')::integer;
            IF request.url ~ 'query' AND event->>'type' <> 'webhook.test' THEN
                queries := queries + 1;
                escaping := escaping + (soql_value(url_decode(split_part(request.url, '?q=', 2)))
                    NOT IN (btrim(coalesce(event->'data'->>'email', '')), btrim(coalesce(event->'data'->>'visitorEmail', '')), 'zoe@example.com', 'o''brien@example.com') IS NOT FALSE)::integer;
            END IF;
            -- the limits of the fields, and no field but these
            limits := limits + (SELECT count(*) FROM jsonb_each(request.body) AS f(name, value)
                                 WHERE jsonb_typeof(f.value) <> 'string' AND f.name <> 'Amount' AND f.name NOT LIKE '%\_\_c'
                                    OR f.value #>> '{}' = ''
                                    OR NOT COALESCE(utf16(f.value #>> '{}') <=
                                           CASE f.name WHEN 'LastName' THEN 80 WHEN 'FirstName' THEN 40 WHEN 'Company' THEN 255 WHEN 'Email' THEN 80 WHEN 'Phone' THEN 40
                                                       WHEN 'LeadSource' THEN 40 WHEN 'Description' THEN 32000 WHEN 'Subject' THEN 255 WHEN 'OwnerId' THEN 18 WHEN 'WhoId' THEN 18
                                                       WHEN 'Status' THEN 255 WHEN 'Priority' THEN 6 WHEN 'Name' THEN 120 WHEN 'StageName' THEN 255 WHEN 'CloseDate' THEN 10 WHEN 'Amount' THEN 16
                                                       WHEN 'Origin' THEN 255 WHEN 'SuppliedName' THEN 80 WHEN 'SuppliedEmail' THEN 80 WHEN 'SuppliedPhone' THEN 40 WHEN 'SuppliedCompany' THEN 80
                                                       WHEN 'ContactId' THEN 18 WHEN 'OpportunityId' THEN 18 WHEN 'WhatId' THEN 18 WHEN 'A__c' THEN 32000 WHEN 'B__c' THEN 32000 END, false))
                             + (request.body IS NOT NULL AND request.url ~ 'sobjects/Lead' AND NOT request.body ?& '{LastName,Company}')::integer
                             + (request.body IS NOT NULL AND request.url ~ '/Task' AND NOT request.body ?& '{Subject,Description}')::integer
                             + COALESCE(request.body->>'Email' !~ '^\S+@\S+[.]\S+$', false)::integer;
            EXIT WHEN request.last;
            replies := replies || jsonb_build_array(CASE
                WHEN request.method = 'GET' AND random() < 0.3 THEN '{"status": 200, "body": {"records": [{"Id": "003000000000001AAA"}]}}'
                WHEN request.method = 'GET' AND random() < 0.9 THEN '{"status": 200, "body": {"records": []}}'
                WHEN random() < 0.2 THEN '{"status": 400, "body": [{"errorCode": "STRING_TOO_LONG", "fields": ["Email", "Priority", "A__c"]}]}'
                WHEN random() < 0.1 THEN jsonb_build_object('status', 400, 'body', random_value())
                ELSE '{"status": 201, "body": {"id": "00Q000000000001AAA"}}' END::jsonb);
        END LOOP;
    END LOOP;
    RETURN NEXT;
END
$$;
SELECT requests > 1000 AS enough, queries > 100 AS enough_queries, errors, limits, escaping FROM violations(1000);

SET client_min_messages = error;
DROP SCHEMA salesforce_test CASCADE;
