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

CREATE FUNCTION chatwebhook._seal(webhook_id uuid, name text, secret text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_seal'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._seal(uuid, text, text) IS
    'A secret as the vault keeps it: encrypted for this row under the current key, or plain without a key file.';

CREATE FUNCTION chatwebhook._seal_new(webhook_id uuid, name text, signing text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_seal_new'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._seal_new(uuid, text, text) IS
    'A new random secret for that kind of signing, sealed: in clear it is nowhere.';

CREATE FUNCTION chatwebhook._reseal(webhook_id uuid, name text, sealed bytea) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_reseal'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._reseal(uuid, text, bytea) IS
    'A secret of the vault, sealed under the current key.';

CREATE FUNCTION chatwebhook._open(webhook_id uuid, name text, sealed bytea) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_open'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._open(uuid, text, bytea) IS 'A secret of the vault in clear.';

CREATE FUNCTION chatwebhook._is_current(sealed bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_is_current'
    LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION chatwebhook._is_current(bytea) IS
    'Whether a value of the vault is sealed as it would be now.';

CREATE FUNCTION chatwebhook._encrypts() RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_encrypts'
    LANGUAGE C STABLE;
COMMENT ON FUNCTION chatwebhook._encrypts() IS
    'Whether secrets are encrypted at rest; null if the key file is unusable.';

CREATE FUNCTION chatwebhook._ed25519_generate() RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_ed25519_generate'
    LANGUAGE C VOLATILE;
COMMENT ON FUNCTION chatwebhook._ed25519_generate() IS
    'A new private key for asymmetric signatures: whsk_ and base64.';

CREATE FUNCTION chatwebhook._public_key(private_key text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_public_key'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._public_key(text) IS
    'The public key of a private one: whpk_ and base64; null if it is none.';

CREATE FUNCTION chatwebhook._invoker() RETURNS oid
    AS 'MODULE_PATHNAME', 'chatwebhook_invoker'
    LANGUAGE C STABLE;
COMMENT ON FUNCTION chatwebhook._invoker() IS
    'The role on whose behalf this runs, whatever definer function it is called from.';

CREATE FUNCTION chatwebhook._header_problem(headers jsonb) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_header_problem'
    LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION chatwebhook._header_problem(jsonb) IS
    'Why this object cannot be sent as request headers, or null if it can.';

CREATE FUNCTION chatwebhook._add(a bigint[], b bigint[]) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'chatwebhook_add'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook._add(bigint[], bigint[]) IS
    'Adds the numbers of two arrays one by one; the first is as long as the result.';

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
