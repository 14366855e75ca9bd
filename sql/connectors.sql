/*
 * Connectors: functions that turn an event into the requests that one kind of
 * service wants.  src/connector.c calls them; the files in connectors/ are those that
 * come with the extension.
 */
CREATE TYPE chatwebhook.request AS (
    method  text,
    url     text,
    headers jsonb,
    body    jsonb,
    last    boolean
);
COMMENT ON TYPE chatwebhook.request IS
    'A request that a connector wants sent. A null method is POST; last means that no other follows, so that the connector need not be asked again.';
COMMENT ON COLUMN chatwebhook.request.method IS 'GET, POST, PUT, PATCH or DELETE; null: POST.';
COMMENT ON COLUMN chatwebhook.request.url IS
    'Where to, as a rule the webhook''s url with something appended; null: the webhook''s url. If both have a query, the appended ? becomes &.';
COMMENT ON COLUMN chatwebhook.request.headers IS
    'Headers of this request, an object of strings; those of the webhook and its auth come on top. Null: none.';
COMMENT ON COLUMN chatwebhook.request.body IS 'Sent as compact JSON; null: no body.';
COMMENT ON COLUMN chatwebhook.request.last IS
    'True if the delivery is done when this request has succeeded; null or false: the connector is asked again.';

CREATE FUNCTION chatwebhook.cut(value text, size integer) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_cut'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.cut(text, integer) IS
    'The text, or as much of its beginning as leaves room for an ellipsis within that many characters, counted as JavaScript does: one beyond U+FFFF is two.';

CREATE FUNCTION chatwebhook.url_encode(value text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_encode'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.url_encode(text) IS
    'The text percent-encoded (RFC 3986) as a part of a URL''s path or query: all but letters, digits and -._~, as UTF-8.';
