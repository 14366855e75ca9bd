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

CREATE FUNCTION chatwebhook._changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_changed'
    LANGUAGE C;
COMMENT ON FUNCTION chatwebhook._changed() IS
    'Trigger: tells every session and worker that webhooks or event types have changed.';

CREATE FUNCTION chatwebhook._restoring() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT NOT current_setting('check_function_bodies')::boolean
           AND current_setting('is_superuser')::boolean
$$;
COMMENT ON FUNCTION chatwebhook._restoring() IS
    'Whether a superuser restores a dump. Anybody can turn check_function_bodies off, and gets nothing by it.';
