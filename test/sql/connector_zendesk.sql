--
-- The connector zendesk: the requests of every step for every type of event, and
-- what must hold of any event.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;
CREATE SCHEMA zendesk_test;
SET search_path = zendesk_test;
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
        request := chatwebhook.zendesk(event, jsonb_build_object('id', 'd3b07384-d113-4ec6-a7d5-38dbb8f2c0a1', 'name', 'crm', 'url', 'https://zendesk.example/',
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

SELECT name, function, shipped FROM chatwebhook.connector WHERE name = 'zendesk';
SELECT jsonb_pretty(replies) FROM chatwebhook.connector WHERE name = 'zendesk';

-- a hand-off: is there a ticket?  If not, one is made
SELECT requests(event('handoff.requested', '{"reason": "Billing question", "urgency": "high", "visitorName": "Zoë Berg", "visitorEmail": "zoe@example.com", "conversationHistory": [{"role": "user", "content": "Help!\r\nNow."}, {"role": "assistant", "content": "How?"}, "…", {"content": 5}, null]}'),
    '{"subject": "Chat", "tags": ["chat", "Needs Help", ""], "priority": "low", "ticket": {"group_id": 7, "priority": "urgent"}}', '[{"status": 200, "body": {"tickets": [], "count": 0}}]');
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{"priority": "urgent"}', '[{"status": 200, "body": {"tickets": []}}]');
SELECT requests(event('handoff.requested', '{"reason": "''; --\r\n@everyone {{ticket.requester.email}}", "urgency": ["x"], "visitorName": "<!channel>", "visitorEmail": "'' OR Name != ''", "conversationHistory": "</p><script>\r\n\\ ''😀 {{{x}}} {% if %}"}'),
    '{"tags": "x", "ticket": []}', '[{"status": 200, "body": {"tickets": []}}]');
-- a reply that is none
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}', '[{"status": 200, "body": "OK"}]');
-- without a conversation there is nothing to look for
SELECT requests(event('handoff.requested', '{"reason": "help"}') - 'conversationId');
-- a conversation whose id is no external_id
SELECT requests(event('handoff.requested', '{"reason": "help"}') || '{"conversationId": "1,2 &x=😀"}');
-- the ticket of this very event: nothing more; another's: a comment; a closed one: a new ticket
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}',
    '[{"status": 200, "body": {"tickets": [{"id": 35, "external_id": "c-17", "status": "new", "description": "Reason: help\nEvent: 01a20943-c46f-7995-a698-9f20430569ac"}]}}]');
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}',
    '[{"status": 200, "body": {"tickets": [{"id": 99, "external_id": "c-18", "status": "new"}, {"id": 35, "external_id": "c-17", "status": "open", "description": "Event: another"}, {"id": 36, "external_id": "c-17", "status": "closed"}]}}]');
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}', '[{"status": 200, "body": {"tickets": [{"id": 36, "external_id": "c-17", "status": "closed"}]}}]');
-- of several tickets the newest, by their numbers; a closed one is not open for being newer
SELECT t.n, request
  FROM (VALUES (1, '[{"id": 35, "status": "open"}, {"id": 100, "status": "pending"}, {"id": 9, "status": "new"}]'::jsonb),
               (2, '[{"id": 36, "status": "closed"}, {"id": 35, "status": "open"}]'),
               (3, '[{"id": 35, "status": "open"}, {"id": 36, "status": "closed"}]')) AS t(n, tickets)
 CROSS JOIN LATERAL (SELECT jsonb_agg(ticket || '{"external_id": "c-17"}') AS tickets FROM jsonb_array_elements(t.tickets) AS ticket) AS found
 CROSS JOIN LATERAL requests(event('feedback.received', '{}'), '{}',
            jsonb_build_array(jsonb_build_object('status', 200, 'body', jsonb_build_object('tickets', found.tickets)))) AS request
 WHERE request ~ '^PUT ' ORDER BY t.n;
-- later events of the conversation: an internal comment, if there is a ticket
SELECT requests(event('conversation.ended', '{}'), '{}', '[{"status": 200, "body": {"tickets": [{"id": 35, "external_id": "c-17", "status": "open"}]}}]');
SELECT requests(event('conversation.ended', '{"messages": 12, "outcome": "solved", "agent": null}'), '{}', '[{"status": 200, "body": {"tickets": [{"id": 35, "external_id": "c-17", "status": "solved"}]}}]');
SELECT requests(event('feedback.received', '{"rating": 2, "comment": "''; -- <!channel>\r\n{{ticket.id}} </p><script>😀", "{{x}}": {"a": [1]}}'), '{}', '[{"status": 200, "body": {"tickets": [{"id": 35, "external_id": "c-17", "status": "open"}]}}]');
SELECT requests(event('feedback.received', '{"rating": 2}'), '{}', '[{"status": 200, "body": {"tickets": [{"id": 36, "external_id": "c-17", "status": "closed"}]}}]');
SELECT requests(event('feedback.received', '{"rating": 2}'), '{}', '[{"status": 200, "body": {"tickets": [{"id": "x", "external_id": "c-17"}, 5, {"external_id": "c-17"}]}}]');
SELECT requests(event('feedback.received', '{"rating": 2}') || '{"conversationId": null}');
-- a ticket that is remembered takes a comment without a search
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}', '[{"status": 200, "body": {"ticket": {"id": 35}}}]', '{"ticket": 35}');
SELECT requests(event('conversation.ended', '{"messages": 12}'), '{"app_url": "https://app.example"}', '[]', '{"ticket": "35"}');
SELECT requests(event('conversation.ended', '{}'), '{}', '[]', m) FROM unnest('{"{\"ticket\": \"x\"}","{\"ticket\": {}}",null}'::jsonb[]) AS m;
-- it is closed: a ticket that follows it up; it is gone: a new one; an end, or feedback, has no place then
\set closed '{"status": 422, "body": {"error": "RecordInvalid", "description": "Record validation errors", "details": {"status": [{"description": "Status: closed prevents ticket update"}]}}}'
\set gone '{"status": 404, "body": {"error": "RecordNotFound", "description": "Not found"}}'
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}', jsonb_build_array(r), '{"ticket": 35}') FROM unnest(ARRAY[:'closed', :'gone']::jsonb[]) AS r;
SELECT requests(event('feedback.received', '{"rating": 1}'), '{}', jsonb_build_array(r), '{"ticket": 35}') FROM unnest(ARRAY[:'closed', :'gone']::jsonb[]) AS r;
-- the ticket is solved in the end, if that is wanted, or, if Zendesk refuses that, commented
\set refused '{"status": 422, "body": {"error": "RecordInvalid", "description": "Record validation errors", "details": {"base": [{"description": "Assignee: is required when solving a ticket"}]}}}'
SELECT requests(event('conversation.ended', '{}'), '{"solve": true}', jsonb_build_array(:'refused'::jsonb, '{"status": 200, "body": {}}'::jsonb), '{"ticket": 35}');
SELECT requests(event('conversation.ended', '{}'), '{"solve": true}', jsonb_build_array(:'refused'::jsonb, :'refused'::jsonb), '{"ticket": 35}');
SELECT requests(event('conversation.ended', '{}'), '{}', jsonb_build_array(:'refused'::jsonb), '{"ticket": 35}');
-- a map of fields: custom fields, and attributes; what is refused is in the comment
SELECT requests(event('order.placed', jsonb_build_object('reason', 'help', 'plan', 'Pro {{x}}', 'seats', 50, 'trial', true, 'tags', '["a", "b"]'::jsonb, 'mixed', '["a", 1]'::jsonb, 'deep', '{"a": [1]}'::jsonb, 'visitorEmail', 'zoe@example.com')),
    '{"public": true, "as": {"order.placed": "handoff.requested"}, "ticket": {"custom_fields": [{"id": 1, "value": "fixed"}], "group_id": 5}, "fields": {"360001": "$.data.plan", "360002": "$.data.seats", "360003": "$.data.trial", "360004": "$.data.tags", "360005": "$.data.mixed",
      "360006": "$.data.deep", "360007": "$.data.none", "360008": "@text", "type": "@question", "priority": null, "comment": "@x"}}',
    jsonb_build_array('{"status": 200, "body": {"tickets": []}}'::jsonb, :'refused'::jsonb));
SELECT f->'id', left(f->>'value', 50), length(f->>'value')
  FROM chatwebhook.zendesk(event('feedback.received', jsonb_build_object('rating', 2, 'long', repeat('😀"', 350000), 'many', (SELECT jsonb_agg(n::text) FROM generate_series(1, 10000) AS n))),
           '{"url": "https://zendesk.example", "memory": {"ticket": 35}, "settings": {"fields": {"1": "$.data.rating", "2": "$.data.long", "3": "$.data.many", "feedback.received": {"4": "@yes"}}}}', '[]') AS r,
       jsonb_path_query(r.body, '$.ticket.custom_fields[*]') AS f;
-- other refusals
SELECT requests(event('handoff.requested', '{"reason": "help"}'), '{}', '[{"status": 200, "body": {"tickets": []}}, {"status": 403, "body": {"error": "Forbidden"}}]');
SELECT requests(event('handoff.requested', '{"reason": "help", "visitorEmail": "zoe@example.com"}'), '{}', jsonb_build_array('{"status": 200, "body": {"tickets": []}}'::jsonb, :'refused'::jsonb, :'refused'::jsonb));
-- the test reads one ticket; other events are nothing to Zendesk
SELECT requests(event('webhook.test', '{"message": "test"}'));
SELECT type, requests(event(type, '{"email": "zoe@example.com", "visitorId": "v-9", "reason": "help", "rating": 1, "message": "no"}'))
  FROM unnest(ARRAY['conversation.started', 'message.received', 'message.sent', 'lead.captured', 'sentiment.negative', 'sales.opportunity', 'webhook.alert', 'order.placed']) AS type;
SELECT chatwebhook.zendesk(NULL, NULL, NULL) IS NULL, chatwebhook.zendesk('[1]', '"x"', '{}') IS NULL, chatwebhook.zendesk(event('lead.captured', '"x"'), '{}', '"x"') IS NULL;

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
DO $$ BEGIN PERFORM setseed(0.42); END $$;
CREATE FUNCTION violations(count integer) RETURNS TABLE (requests bigint, tickets bigint, comments bigint, errors bigint, limits bigint, escaping bigint) LANGUAGE plpgsql AS $$
DECLARE
    event jsonb;
    webhook jsonb;
    replies jsonb;
    request chatwebhook.request;
    ticket jsonb;
    wanted text;
BEGIN
    requests := 0; tickets := 0; comments := 0; errors := 0; limits := 0; escaping := 0;
    FOR i IN 1 .. count LOOP
        event := random_event('handoff.requested', 'handoff.requested', 'handoff.requested', 'conversation.ended', 'feedback.received', 'webhook.test', 'message.sent');
        webhook := jsonb_build_object('url', 'https://zendesk.example/', 'settings', random_object('subject', 'priority', 'tags', 'ticket', 'public')
            || CASE WHEN random() < 0.5 THEN jsonb_build_object('solve', true, 'fields', jsonb_build_object('12', '$.data.*', '13', random_value(), 'type', '@task', 'priority', '$.data.urgency')) ELSE '{}' END);
        IF random() < 0.2 THEN
            webhook := webhook || '{"memory": {"ticket": 35}}';
        END IF;
        replies := '[]';
        wanted := NULL;
        FOR step IN 1 .. 8 LOOP
            BEGIN
                request := chatwebhook.zendesk(event, webhook, replies);
            EXCEPTION WHEN OTHERS THEN
                -- Zendesk may refuse what cannot be left out
                EXIT WHEN SQLERRM LIKE 'Zendesk did not%' AND (replies->-1->>'status' = '422' OR jsonb_typeof(replies #> '{-1,body,tickets}') <> 'array');
                RAISE WARNING '% of %', SQLERRM, left(event::text, 500);
                errors := errors + 1;
                EXIT;
            END;
            EXIT WHEN request.url IS NULL;
            requests := requests + 1;
            ticket := request.body->'ticket';
            tickets := tickets + (request.method = 'POST')::integer;
            comments := comments + (request.method = 'PUT')::integer;
            escaping := escaping + (request.url !~ '^https://zendesk[.]example/api/v2/tickets([.]json([?](per_page=1|external_id=[A-Za-z0-9._~%-]+))?|/[0-9]+[.]json)$')::integer;
            IF request.url ~ 'external_id=' THEN
                wanted := url_decode(split_part(request.url, '=', 2));
                escaping := escaping + (wanted <> event->>'conversationId' AND wanted !~ '^[0-9a-f]{64}$' OR wanted ~ '[,\s]')::integer;
                limits := limits + (utf16(wanted) > 255)::integer;
            END IF;
            IF ticket IS NOT NULL THEN
                escaping := escaping + (concat(ticket->>'subject', ticket->'comment'->>'body', jsonb_path_query_array(ticket, '$.custom_fields[*].value ? (@.type() == "string")')) ~ '[{][{%]' OR COALESCE(ticket->>'subject', '') ~ '[\n\r]')::integer;
                limits := limits + (utf16(ticket->'comment'->>'body') > 65535)::integer;
            END IF;
            IF request.method = 'PUT' THEN
                escaping := escaping + (request.body #> '{ticket,comment,public}' IS DISTINCT FROM 'false')::integer;
            ELSIF request.method = 'POST' THEN
                limits := limits + (utf16(ticket->>'subject') > 150)::integer
                                 + (ticket->>'priority' NOT IN ('low', 'normal', 'high', 'urgent') AND NOT webhook->'settings' ? 'fields')::integer
                                 + (ticket->>'external_id' IS DISTINCT FROM wanted AND NOT webhook ? 'memory')::integer
                                 + COALESCE(utf16(ticket->'requester'->>'name') > 255 OR ticket->'requester'->>'email' !~ '^\S+@\S+[.]\S+$', false)::integer
                                 + (SELECT count(*) FROM jsonb_array_elements_text(ticket->'tags') AS tag WHERE tag ~ '[\s,]' OR utf16(tag) > 80)
                                 + COALESCE(request.headers->>'Idempotency-Key' !~ '^[A-Za-z0-9._~%-]{1,255}$', event->>'id' <> '', false)::integer;
            END IF;
            EXIT WHEN request.last;
            replies := replies || jsonb_build_array(CASE
                WHEN request.method = 'GET' THEN jsonb_build_object('status', 200, 'body',
                    CASE WHEN random() < 0.4 THEN '{"tickets": []}'
                         WHEN random() < 0.6 THEN jsonb_build_object('tickets', jsonb_build_array(random_value(), jsonb_build_object('id', 35, 'external_id', wanted, 'status', 'open')))
                         ELSE jsonb_build_object('tickets', random_value()) END)
                WHEN random() < 0.2 THEN '{"status": 422, "body": {"error": "RecordInvalid", "details": {"base": []}}}'
                WHEN random() < 0.1 THEN '{"status": 422, "body": {"error": "RecordInvalid", "details": {"status": [{"description": "closed prevents"}]}}}'
                ELSE '{"status": 200, "body": {"ticket": {"id": 35}}}' END::jsonb);
        END LOOP;
    END LOOP;
    RETURN NEXT;
END
$$;
SELECT requests > 1000 AS enough, tickets > 200 AS enough_tickets, comments > 100 AS enough_comments, errors, limits, escaping FROM violations(1000);

SET client_min_messages = error;
DROP SCHEMA zendesk_test CASCADE;
