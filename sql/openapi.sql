/*
 * openapi(): the events that receivers get, as an OpenAPI document.
 */

CREATE FUNCTION chatwebhook._api_name(name text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- a type that bypassed the checks, and a part of a schema, can have any name
    SELECT CASE WHEN name ~ '^[A-Za-z0-9._-]+$' THEN name
                ELSE regexp_replace(name, '[^A-Za-z0-9._-]', '_', 'g') || '_' || md5(name) END
$$;
COMMENT ON FUNCTION chatwebhook._api_name(text) IS
    'Returns the name that a type, or a part of a schema, has in components.';

CREATE FUNCTION chatwebhook._rebase_schema(schema jsonb, type text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ref   text;
    parts text[];
BEGIN
    IF strpos(schema::text, '"$ref"') = 0 OR jsonb_typeof(schema) NOT IN ('object', 'array') THEN
        RETURN schema;
    ELSIF jsonb_typeof(schema) = 'array' THEN
        RETURN (SELECT jsonb_agg(chatwebhook._rebase_schema(e.value, type) ORDER BY e.n)
                  FROM jsonb_array_elements(schema) WITH ORDINALITY AS e (value, n));
    END IF;
    schema := (SELECT jsonb_object_agg(e.key, chatwebhook._rebase_schema(e.value, type)) FROM jsonb_each(schema) AS e);
    ref := schema->>'$ref';
    IF jsonb_typeof(schema->'$ref') IS DISTINCT FROM 'string' OR ref !~ '^#(/|$)' THEN
        RETURN schema;
    END IF;
    parts := regexp_match(ref, '^#/[$]defs/([^/]+)(.*)$');
    RETURN schema || jsonb_build_object('$ref', '#/components/schemas/' || chatwebhook._api_name(type)
        || CASE WHEN parts IS NULL THEN '/properties/data' || substr(ref, 2)
                ELSE '..' || chatwebhook._api_name(replace(replace(parts[1], '~1', '/'), '~0', '~')) || parts[2] END);
END
$$;
COMMENT ON FUNCTION chatwebhook._rebase_schema(jsonb, text) IS
    'Returns a schema, or a part of one, with its references into itself rewritten for the place that the data of this type has in components.';

CREATE FUNCTION chatwebhook._api_data(schema jsonb, required text[], type text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE
        WHEN schema = 'false' THEN '{"not": {}}'
        WHEN required = '{}' THEN '{"type": "object"}' || d.own
        ELSE '{"type": "object"}' || d.own || jsonb_build_object(
            'required', (SELECT jsonb_agg(DISTINCT k)
                           FROM (SELECT unnest(required)
                                 UNION ALL
                                 SELECT jsonb_array_elements_text(d.own->'required')) AS u (k)),
            'properties', (SELECT jsonb_object_agg(k, '{}'::jsonb) FROM unnest(required) AS k)
                          || coalesce(d.own->'properties', '{}'))
        END
      FROM (SELECT CASE jsonb_typeof(schema)
                   WHEN 'object' THEN chatwebhook._rebase_schema(schema - '{$schema,$id,$defs}'::text[], type)
                   ELSE '{"additionalProperties": true}' END) AS d (own)
$$;
COMMENT ON FUNCTION chatwebhook._api_data(jsonb, text[], text) IS
    'Returns the schema of the data of a type: its own with the required keys added, or one made from these.';

CREATE FUNCTION chatwebhook._api_schemas(type text, required text[], schema jsonb, described jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- no type has two dots in a row; type generators expect such parts as components
    SELECT coalesce((SELECT jsonb_object_agg(chatwebhook._api_name(type) || '..' || chatwebhook._api_name(d.key),
                                             chatwebhook._rebase_schema(d.value, type))
                       FROM jsonb_each(CASE jsonb_typeof(schema->'$defs') WHEN 'object' THEN schema->'$defs' ELSE '{}' END) AS d), '{}')
        || jsonb_build_object(chatwebhook._api_name(type), described || jsonb_build_object(
            'type', 'object',
            'required', '["id", "type", "timestamp", "chatbotId", "conversationId", "data"]'::jsonb,
            'properties', '{
                "id": {"type": "string", "format": "uuid", "description": "The same on every repeat"},
                "timestamp": {"type": "string", "format": "date-time", "description": "When it was emitted, in UTC"},
                "chatbotId": {"type": ["string", "null"]},
                "conversationId": {"type": ["string", "null"]}}'::jsonb
                || jsonb_build_object('type', jsonb_build_object('type', 'string', 'const', type),
                                      'data', chatwebhook._api_data(schema, required, type))))
$$;
COMMENT ON FUNCTION chatwebhook._api_schemas(text, text[], jsonb, jsonb) IS
    'Returns the schemas in components that a type has: that of its events, and the parts of its own schema.';

CREATE FUNCTION chatwebhook._api_parts() RETURNS jsonb
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
                "description": "Signatures of id, timestamp and body as in Standard Webhooks, separated by spaces. One of them must be valid.",
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
            "refused": {"description": "The event is given up; after 408 or 425, however, it is sent again later."}
        }
    }'::jsonb
$$;
COMMENT ON FUNCTION chatwebhook._api_parts() IS
    'Returns the parts of the document of openapi() that all events share.';

CREATE FUNCTION chatwebhook._api_webhook(type text, example jsonb, described jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT jsonb_build_object('post', described || jsonb_build_object(
        'operationId', chatwebhook._api_name(type),
        'summary', type,
        'parameters', (SELECT jsonb_agg(jsonb_build_object('$ref', '#/components/parameters/' || k) ORDER BY k)
                         FROM jsonb_object_keys(chatwebhook._api_parts()->'parameters') AS k)
                      || jsonb_build_object(
                             'name', 'X-Webhook-Event', 'in', 'header',
                             'description', 'Type of the event.',
                             'schema', jsonb_build_object('type', 'string', 'const', type)),
        'requestBody', jsonb_build_object(
            'required', true,
            'content', jsonb_build_object('application/json',
                jsonb_build_object('schema', jsonb_build_object('$ref', '#/components/schemas/' || chatwebhook._api_name(type)))
                || CASE WHEN example IS NULL THEN '{}' ELSE jsonb_build_object('example', jsonb_build_object(
                       'id', '01a20943-c46f-7995-a698-9f20430569ac', 'type', type,
                       'timestamp', '2026-11-23T16:36:05.871Z', 'chatbotId', 'shop',
                       'conversationId', 'c-1042', 'data', example)) END)),
        'responses', '{
            "2XX": {"$ref": "#/components/responses/accepted"},
            "410": {"$ref": "#/components/responses/gone"},
            "429": {"$ref": "#/components/responses/later"},
            "4XX": {"$ref": "#/components/responses/refused"},
            "5XX": {"$ref": "#/components/responses/later"}}'::jsonb))
$$;
COMMENT ON FUNCTION chatwebhook._api_webhook(text, jsonb, jsonb) IS
    'Returns the request for events of a type, and what replies mean.';

CREATE FUNCTION chatwebhook.openapi() RETURNS jsonb
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH type AS MATERIALIZED (
        SELECT t.name, t.required, t.schema, CASE WHEN t.example ?& t.required THEN t.example END AS example,
               CASE WHEN t.description IS NULL THEN '{}' ELSE jsonb_build_object('description', t.description) END AS described
          FROM chatwebhook.event_type t
    )
    SELECT jsonb_build_object(
        'openapi', '3.1.0',
        'info', jsonb_build_object(
            'title', 'Chat events',
            'version', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'chatwebhook'),
            'description', 'Each event is sent in a signed POST request, at least once. Where a webhook sends batches, the body is an array of events, and X-Webhook-Event is batch.'),
        'security', '[]'::jsonb,
        'webhooks', (SELECT coalesce(jsonb_object_agg(t.name, chatwebhook._api_webhook(t.name, t.example, t.described)), '{}') FROM type t),
        'components', chatwebhook._api_parts() || jsonb_build_object(
            'schemas', (SELECT coalesce(jsonb_object_agg(s.key, s.value), '{}')
                          FROM type t, jsonb_each(chatwebhook._api_schemas(t.name, t.required, t.schema, t.described)) AS s)))
$$;
COMMENT ON FUNCTION chatwebhook.openapi() IS
    'Returns an OpenAPI 3.1 document that describes the event types as webhooks: headers, body, and what replies mean. Receivers can generate types from it. The schema of data is event_type.schema, with the keys in event_type.required.';
