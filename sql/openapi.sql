/*
 * openapi(): the events that receivers get, as an OpenAPI document.
 */

CREATE FUNCTION chatwebhook._rebase_schema(schema jsonb, base text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF strpos(schema::text, '"$ref"') = 0 OR jsonb_typeof(schema) NOT IN ('object', 'array') THEN
        RETURN schema;
    ELSIF jsonb_typeof(schema) = 'array' THEN
        RETURN (SELECT jsonb_agg(chatwebhook._rebase_schema(e.value, base) ORDER BY e.n)
                  FROM jsonb_array_elements(schema) WITH ORDINALITY AS e (value, n));
    END IF;
    RETURN (SELECT jsonb_object_agg(e.key, CASE
                       WHEN e.key = '$ref' AND jsonb_typeof(e.value) = 'string' AND e.value #>> '{}' ~ '^#(/|$)'
                       THEN to_jsonb(base || substr(e.value #>> '{}', 2))
                       ELSE chatwebhook._rebase_schema(e.value, base) END)
              FROM jsonb_each(schema) AS e);
END
$$;
COMMENT ON FUNCTION chatwebhook._rebase_schema(jsonb, text) IS
    'Returns a schema for this place in a document, with references into itself made to lead there.';

CREATE FUNCTION chatwebhook._openapi_data(schema jsonb, required text[], base text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE
        WHEN schema = 'false' THEN '{"not": {}}'
        WHEN required = '{}' THEN '{"type": "object"}' || d.schema
        ELSE '{"type": "object"}' || d.schema || jsonb_build_object(
            'required', (SELECT jsonb_agg(DISTINCT k)
                           FROM (SELECT unnest(required)
                                 UNION ALL
                                 SELECT jsonb_array_elements_text(d.schema->'required')) AS u (k)),
            'properties', (SELECT jsonb_object_agg(k, '{}'::jsonb) FROM unnest(required) AS k)
                          || coalesce(d.schema->'properties', '{}'))
        END
      FROM (SELECT CASE jsonb_typeof(schema)
                   WHEN 'object' THEN chatwebhook._rebase_schema(schema - '{$schema,$id}'::text[], base)
                   ELSE '{"additionalProperties": true}' END) AS d (schema)
$$;
COMMENT ON FUNCTION chatwebhook._openapi_data(jsonb, text[], text) IS
    'Returns the schema of an event type''s data for this place in a document: its own, with the required keys, or one made of these.';

CREATE FUNCTION chatwebhook._openapi_parts() RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT '{
        "parameters": {
            "webhook-id": {
                "name": "webhook-id", "in": "header", "required": true,
                "description": "Id of the event, the same on every repeat; for a batch, the id of the batch.",
                "schema": {"type": "string", "format": "uuid"}},
            "webhook-timestamp": {
                "name": "webhook-timestamp", "in": "header", "required": true,
                "description": "When this attempt was signed, in seconds since 1970.",
                "schema": {"type": "string", "pattern": "^[0-9]+$"}},
            "webhook-signature": {
                "name": "webhook-signature", "in": "header", "required": true,
                "description": "Signatures of id, timestamp and body by Standard Webhooks, separated by spaces. One of them must be valid.",
                "schema": {"type": "string", "pattern": "^v1a?,[A-Za-z0-9+/=]+( v1a?,[A-Za-z0-9+/=]+)*$"}},
            "X-Webhook-Signature": {
                "name": "X-Webhook-Signature", "in": "header",
                "description": "Signature of the body alone, for receivers that already check it.",
                "schema": {"type": "string", "pattern": "^sha256=[0-9a-f]{64}$"}},
            "X-Webhook-Attempt": {
                "name": "X-Webhook-Attempt", "in": "header",
                "description": "1 for the first attempt, one more for each repeat.",
                "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"}},
            "X-Webhook-Delivery": {
                "name": "X-Webhook-Delivery", "in": "header",
                "description": "Id of the delivery, to quote to the operator of the sender. A batch has several, separated by commas.",
                "schema": {"type": "string", "pattern": "^[0-9]+(,[0-9]+)*$"}},
            "traceparent": {
                "name": "traceparent", "in": "header",
                "description": "Trace context (W3C), if the event has one.",
                "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}}
        },
        "responses": {
            "accepted": {"description": "The event was accepted, and is not sent again."},
            "gone": {"description": "The event is given up, and the webhook is disabled."},
            "later": {
                "description": "The event is sent again later.",
                "headers": {"Retry-After": {
                    "description": "Seconds, or a date, until which nothing is sent to this webhook. Obeyed with 429 and 503.",
                    "schema": {"type": "string"}}}},
            "refused": {"description": "The event is given up; but after 408 and 425, it is sent again later."}
        }
    }'::jsonb
$$;
COMMENT ON FUNCTION chatwebhook._openapi_parts() IS
    'Returns the parts of the document of openapi() that all events share.';

CREATE FUNCTION chatwebhook._openapi_webhook(name text, part text, example jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT jsonb_build_object(
        'operationId', part,
        'summary', name,
        'parameters', (SELECT jsonb_agg(jsonb_build_object('$ref', '#/components/parameters/' || k) ORDER BY k)
                         FROM jsonb_object_keys(chatwebhook._openapi_parts()->'parameters') AS k)
                      || jsonb_build_object(
                             'name', 'X-Webhook-Event', 'in', 'header',
                             'description', 'Type of the event.',
                             'schema', jsonb_build_object('type', 'string', 'const', name)),
        'requestBody', jsonb_build_object(
            'required', true,
            'content', jsonb_build_object('application/json',
                jsonb_build_object('schema', jsonb_build_object('$ref', '#/components/schemas/' || part))
                || CASE WHEN example IS NULL THEN '{}' ELSE jsonb_build_object('example', jsonb_build_object(
                       'id', '01a20943-c46f-7995-a698-9f20430569ac', 'type', name,
                       'timestamp', '2026-11-23T16:36:05.871Z', 'chatbotId', 'shop',
                       'conversationId', 'c-1042', 'data', example)) END)),
        'responses', '{
            "2XX": {"$ref": "#/components/responses/accepted"},
            "410": {"$ref": "#/components/responses/gone"},
            "429": {"$ref": "#/components/responses/later"},
            "4XX": {"$ref": "#/components/responses/refused"},
            "5XX": {"$ref": "#/components/responses/later"}}'::jsonb)
$$;
COMMENT ON FUNCTION chatwebhook._openapi_webhook(text, text, jsonb) IS
    'Returns the request for events of a type, which is called so in components, and what replies mean.';

CREATE FUNCTION chatwebhook._openapi_envelope(name text, data jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT jsonb_build_object(
        'type', 'object',
        'required', '["id", "type", "timestamp", "chatbotId", "conversationId", "data"]'::jsonb,
        'properties', jsonb_build_object(
            'type', jsonb_build_object('type', 'string', 'const', name), 'data', data)
            || '{"id": {"type": "string", "format": "uuid", "description": "The same on every repeat"},
                 "timestamp": {"type": "string", "format": "date-time", "description": "When it was emitted, in UTC"},
                 "chatbotId": {"type": ["string", "null"]},
                 "conversationId": {"type": ["string", "null"]}}'::jsonb)
$$;
COMMENT ON FUNCTION chatwebhook._openapi_envelope(text, jsonb) IS
    'Returns the schema of events of a type whose data has this schema.';

CREATE FUNCTION chatwebhook.openapi() RETURNS jsonb
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH plain AS (
        SELECT t.*, regexp_replace(t.name, '[^A-Za-z0-9._-]', '_', 'g') AS part,
               CASE WHEN t.description IS NULL THEN '{}' ELSE jsonb_build_object('description', t.description) END AS described
          FROM chatwebhook.event_type t
    ), type AS (
        -- a row that bypassed the checks can have any name
        SELECT p.name, p.required, p.schema, p.example, p.described,
               p.part || CASE WHEN p.part = p.name THEN '' ELSE '_' || md5(p.name) END AS part
          FROM plain p
    )
    SELECT jsonb_build_object(
        'openapi', '3.1.0',
        'info', jsonb_build_object(
            'title', 'Chat events',
            'version', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'chatwebhook'),
            'description', 'Each event is sent in a signed POST request, at least once. Where a webhook sends batches, the body is an array of events, and X-Webhook-Event is batch.'),
        'security', '[]'::jsonb,
        'webhooks', coalesce(jsonb_object_agg(t.name, jsonb_build_object(
            'post', t.described || chatwebhook._openapi_webhook(t.name, t.part, t.example))), '{}'),
        'components', chatwebhook._openapi_parts() || jsonb_build_object('schemas',
            coalesce(jsonb_object_agg(t.part, t.described || chatwebhook._openapi_envelope(t.name,
                chatwebhook._openapi_data(t.schema, t.required, format('#/components/schemas/%s/properties/data', t.part)))), '{}')))
      FROM type t
$$;
COMMENT ON FUNCTION chatwebhook.openapi() IS
    'Returns an OpenAPI 3.1 document that describes the event types as webhooks: headers, body, and what replies mean. Receivers can generate types from it. The schema of data is event_type.schema, with the keys in event_type.required.';
