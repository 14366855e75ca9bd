/*
 * The API's role, and its customers' tokens.  The extension's owner or an admin who may
 * create roles runs this once:
 *
 *     psql -v password=... -f setup.sql chat
 */
\set ON_ERROR_STOP on
CREATE ROLE webhook_api LOGIN PASSWORD :'password';
SELECT chatwebhook.grant_app('webhook_api');

-- No request may hold one of the pool's connections for long.  A test takes up to 10 s.
ALTER ROLE webhook_api SET statement_timeout = '15s';
ALTER ROLE webhook_api SET idle_in_transaction_session_timeout = '15s';

CREATE TABLE api_token (
    hash    bytea PRIMARY KEY,    -- SHA-256 is enough for a token of 256 random bits
    chatbot text NOT NULL CHECK (chatbot <> ''),
    created timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT (hash, chatbot) ON api_token TO webhook_api;
