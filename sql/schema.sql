/*
 * chatwebhook: the extension's script, joined by the Makefile from sql/
 *
 * The files follow the way of an event: event, openapi, watch, connector, webhook,
 * vault, queue, delivery, identity, health, alert, watched, access, signature,
 * metrics, dashboard, the connectors that ship, privileges.
 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION chatwebhook" to load this file. \quit

/*
 * The schema is created here, so a prepared one is refused: its owner could
 * replace what we are about to create in it.
 *
 * Names that begin with _ are internal.  A function with more rights than its
 * caller pins its search_path, so that no object of the caller's is taken for
 * one of ours.  If it writes, it also sets session_replication_role to replica,
 * so that no trigger that others may have put on our tables runs with these
 * rights.
 */
CREATE SCHEMA chatwebhook;
COMMENT ON SCHEMA chatwebhook IS
    'Webhooks for chat events. Write the tables webhook, event_type and connector; read the views delivery, dead_letter, webhook_health and worker_status.';

CREATE FUNCTION chatwebhook.uuidv7() RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_uuidv7'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.uuidv7() IS
    'Returns a new UUID of version 7 (RFC 9562). It begins with the time in milliseconds, and ascends within a session.';

/*
 * Unlike current_setting(), this also works where the library was not loaded in
 * advance: calling it loads the library, which defines our settings.
 */
CREATE FUNCTION chatwebhook._setting(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_setting'
    LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook._setting(text) IS 'Returns the value of a setting, as SHOW does.';

/*
 * A restore turns check_function_bodies off, because functions may come before
 * the objects that they refer to; our triggers recognize a restore by that.
 * CREATE EXTENSION does so, too.  Any role can turn it off, so the role must also
 * be a superuser, who could disable the triggers anyway.
 *
 * A restore brings what the triggers would otherwise add.  It may bring webhooks
 * before the event types that they name, and the settings that a URL was checked
 * against may be another server's.
 */
CREATE FUNCTION chatwebhook._restoring() RETURNS boolean
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT NOT current_setting('check_function_bodies')::boolean
           AND current_setting('is_superuser')::boolean
$$;
COMMENT ON FUNCTION chatwebhook._restoring() IS 'Is a superuser restoring a dump?';

/*
 * A session caches the event types, and the webhooks of the chatbots whose events
 * it has emitted; a worker caches webhooks, with their secrets and connectors.
 * The triggers that call this are ALWAYS triggers, because the caches must also
 * hear of replicated changes and of those that our own functions make: for each
 * row, and for TRUNCATE.
 */
CREATE FUNCTION chatwebhook._changed() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_changed'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._changed() IS
    'Trigger: invalidates what sessions and workers have cached.';
