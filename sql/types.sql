/* chatwebhook: the extension's script, joined by the Makefile from sql/ */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION chatwebhook" to load this file. \quit

/*
 * The schema is ours and new: in one that somebody prepared, its owner could
 * replace what we are about to create.
 */
CREATE SCHEMA chatwebhook;
COMMENT ON SCHEMA chatwebhook IS
    'Webhooks for chat events: the tables webhook and event_type, the views delivery, dead_letter, webhook_health and worker_status, and functions.';

CREATE FUNCTION chatwebhook.uuidv7() RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_uuidv7'
    LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.uuidv7() IS
    'A new UUID of version 7 (RFC 9562): ascending within a session, milliseconds in front.';

CREATE FUNCTION chatwebhook._url_problem(url text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_problem'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._url_problem(text) IS
    'Why the worker would not send to this URL, or null if it would.';

CREATE FUNCTION chatwebhook._secret_generate() RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_secret_generate'
    LANGUAGE C VOLATILE;
COMMENT ON FUNCTION chatwebhook._secret_generate() IS
    'A new random signing secret: whsec_ and the base64 of 32 bytes.';

CREATE FUNCTION chatwebhook._secret_problem(secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_secret_problem'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._secret_problem(text) IS
    'Why this cannot be a signing secret, or null if it can.';

CREATE FUNCTION chatwebhook._header_problem(headers jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_header_problem'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._header_problem(jsonb) IS
    'Why this object cannot be sent as request headers, or null if it can.';

CREATE FUNCTION chatwebhook._changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_changed'
    LANGUAGE C;
COMMENT ON FUNCTION chatwebhook._changed() IS
    'Trigger: tells every session and worker that webhooks or event types have changed.';

CREATE FUNCTION chatwebhook._wake(webhook_id uuid) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_wake'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._wake(uuid) IS
    'Wakes the worker for this webhook when the transaction commits.';
