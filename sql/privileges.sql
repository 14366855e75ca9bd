/*
 * Nothing for everybody.  A trigger function runs for whoever changes a
 * watched table and needs no grant for that; everything else here reads other
 * people's chats or sends requests, and is for those whom the administrator
 * names.
 */
REVOKE ALL ON ALL TABLES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chatwebhook FROM PUBLIC;

/*
 * What views and functions call on behalf of whoever uses them: counts of
 * requests, and names of keys.  Without USAGE on the schema nobody gets there.
 */
GRANT EXECUTE ON FUNCTION chatwebhook._in_flight() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._workers() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._missing_key(text, text[]) TO PUBLIC;

/* Tells this session if the server has not loaded the library in advance. */
CREATE FUNCTION chatwebhook._check_preload() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_check_preload'
    LANGUAGE C;
REVOKE ALL ON FUNCTION chatwebhook._check_preload() FROM PUBLIC;
COMMENT ON FUNCTION chatwebhook._check_preload() IS
    'Warns if chatwebhook is not in shared_preload_libraries.';
SELECT chatwebhook._check_preload();
