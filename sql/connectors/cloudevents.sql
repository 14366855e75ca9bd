/*
 * CloudEvents 1.0.2 over HTTP, signed: for receivers and brokers that take events
 * from many senders.  Headers in binary mode are encoded as the HTTP protocol
 * binding, 3.1.3.2, requires.
 */
CREATE FUNCTION chatwebhook._cloudevents_problem(settings jsonb, batch_size integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    allowed constant text := E'([A-Za-z0-9._~:/?@!$&''()*+,;=-]|%[0-9A-Fa-f]{2})';
    source  constant text := settings->>'source';
BEGIN
    IF settings->'mode' NOT IN ('"structured"', '"binary"', 'null') THEN
        RETURN format('mode is "%s", not structured or binary', left(settings->>'mode', 100));
    END IF;
    IF settings->>'mode' = 'binary' AND batch_size > 1 THEN
        RETURN format('mode is binary, in which each event is a request, but batch_size is %s', batch_size);
    END IF;
    -- the first segment of a relative reference has no colon (RFC 3986, 4.2)
    IF jsonb_typeof(settings->'source') NOT IN ('string', 'null')
       OR length(source) NOT BETWEEN 1 AND 1000 OR source !~ concat('^', allowed, '*(#', allowed, '*)?$')
       OR source ~ '^[^/?#]*:' AND source !~ '^[A-Za-z][A-Za-z0-9+.-]*:' THEN
        RETURN format('source is "%s", not a URI reference of at most 1000 characters', left(source, 100));
    END IF;
    IF jsonb_typeof(settings->'type_prefix') NOT IN ('string', 'null')
       OR settings->>'type_prefix' !~ E'^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$' OR length(settings->>'type_prefix') > 255 THEN
        RETURN format('type_prefix is "%s", not a name such as com.example of at most 255 characters',
                      left(settings->>'type_prefix', 100));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._cloudevents_problem(jsonb, integer) IS
    'Returns why a webhook of this batch_size cannot have these settings with the connector cloudevents, or null.';

CREATE FUNCTION chatwebhook._cloudevents_attributes(event jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'specversion', '1.0',
        'id', event->>'id',
        'source', coalesce(settings->>'source',
                           concat_ws('/', '/chatbots', chatwebhook.url_encode(event->>'chatbotId'))),
        'type', concat_ws('.', settings->>'type_prefix', event->>'type'),
        'time', event->>'timestamp',
        'subject', nullif(event->>'conversationId', ''),
        'datacontenttype', 'application/json'));
END
$$;
COMMENT ON FUNCTION chatwebhook._cloudevents_attributes(jsonb, jsonb) IS
    'Returns the attributes of an event as a CloudEvent, without its data.';

CREATE FUNCTION chatwebhook._cloudevents_headers(attributes jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN (SELECT jsonb_object_agg(concat('ce-', a.key),
                       CASE WHEN a.value ~ '^[!#$&-~]*$' THEN a.value
                            ELSE (SELECT string_agg(coalesce(r.run[1], chatwebhook.url_encode(r.run[2])), '' ORDER BY r.n)
                                    FROM regexp_matches(a.value, '([!#$&-~]+)|([^!#$&-~]+)', 'g')
                                         WITH ORDINALITY AS r(run, n)) END)
              FROM jsonb_each_text(attributes - 'datacontenttype') AS a);
END
$$;
COMMENT ON FUNCTION chatwebhook._cloudevents_headers(jsonb) IS
    'Returns the attributes of a CloudEvent as headers of the binary mode: space, ", % and all but printable ASCII are percent-encoded.';

CREATE FUNCTION chatwebhook.cloudevents(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
DECLARE
    settings   jsonb := webhook->'settings';
    attributes jsonb;
    headers    jsonb;
BEGIN
    IF jsonb_typeof(event) = 'array' THEN
        RETURN ROW(NULL, NULL, '{"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}',
                   (SELECT jsonb_agg(chatwebhook._cloudevents_attributes(e.event, settings)
                                     || jsonb_build_object('data', e.event->'data') ORDER BY e.n)
                      FROM jsonb_array_elements(event) WITH ORDINALITY AS e(event, n)), true)::chatwebhook.request;
    END IF;
    attributes := chatwebhook._cloudevents_attributes(event, settings);
    IF settings->>'mode' = 'binary' THEN
        headers := chatwebhook._cloudevents_headers(attributes);
        -- an id may be too long for a header; every receiver accepts structured mode
        IF NOT EXISTS (SELECT FROM jsonb_each_text(headers) AS h WHERE length(h.value) > 4096) THEN
            RETURN ROW(NULL, NULL, headers, event->'data', true)::chatwebhook.request;
        END IF;
    END IF;
    RETURN ROW(NULL, NULL, '{"Content-Type": "application/cloudevents+json; charset=utf-8"}',
               attributes || jsonb_build_object('data', event->'data'), true)::chatwebhook.request;
END
$$;
COMMENT ON FUNCTION chatwebhook.cloudevents(jsonb, jsonb, jsonb) IS
    'Connector for receivers of CloudEvents 1.0.2 over HTTP, signed like the connector webhook. The event''s id, type, timestamp and data are the CloudEvent''s id, type, time and data, and the conversation''s id its subject (left out if null or empty). Settings: mode, structured (the default) or binary, in which the attributes are headers and the body is the data; an event with an attribute longer than 4096 bytes is sent in structured mode. source, a URI reference (default: /chatbots/ and the percent-encoded chatbot''s id); type_prefix, such as com.example for com.example.lead.captured (default: none). With a batch_size above 1, the body is a JSON batch; the mode must be structured.';

INSERT INTO chatwebhook.connector (name, function, description, signed, batches, shipped) VALUES
    ('cloudevents', 'chatwebhook.cloudevents(jsonb,jsonb,jsonb)',
     'The event as a CloudEvent, signed, for your own endpoint or a broker.', true, true, true);
