/* chatwebhook_test: a session in the part of a worker, by the workers' own code */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION chatwebhook_test" to load this file. \quit

CREATE FUNCTION claim(webhook_id uuid, at_most integer,
                      OUT delivery_id bigint, OUT attempts integer)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chatwebhook_test_claim'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION claim(uuid, integer) IS
    'Claims due deliveries for this session, as a worker does. The claims last until release() or the end of the session.';

CREATE FUNCTION settle(delivery_id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_test_settle'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION settle(bigint) IS
    'Settles a delivery as delivered, as a worker does. Returns false if this session does not hold the claim.';

CREATE FUNCTION release() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_test_release'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION release() IS 'Gives up all claims of this session.';

CREATE FUNCTION stop_at_commit() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_test_stop_at_commit'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION stop_at_commit() IS
    'Stops this process (SIGSTOP) as soon as others can see what its transaction has done, before it tells the workers.';
