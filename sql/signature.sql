/*
 * Signatures, for receivers in SQL.
 */
CREATE FUNCTION chatwebhook.sign(body text, secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_sign_body'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.sign(text, text) IS
    'Returns the value of X-Webhook-Signature: sha256= and the HMAC-SHA256 of the body in hexadecimal.';

CREATE FUNCTION chatwebhook.sign(id text, at timestamptz, body text, secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_sign_standard'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.sign(text, timestamptz, text, text) IS
    'Returns the value of webhook-signature, as defined by Standard Webhooks: v1, and the HMAC-SHA256 of id, timestamp and body in base64. With a private key (whsk_), v1a, and their Ed25519 signature.';

CREATE FUNCTION chatwebhook.verify(body text, signature text, secret text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_verify_body'
    LANGUAGE C IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.verify(text, text, text) IS
    'Checks X-Webhook-Signature against the body, in constant time. False for a null or malformed signature.';

CREATE FUNCTION chatwebhook.verify(headers jsonb, body text, secret text,
                                   tolerance interval DEFAULT '5 minutes')
    RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_verify_standard'
    LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.verify(jsonb, text, text, interval) IS
    'Checks webhook-id, webhook-timestamp and webhook-signature (names in any case) against the body, and that the timestamp is within the tolerance. False for null or malformed headers. The headers are jsonb, so a literal needs a cast. One valid signature is enough; those of other versions are ignored. For v1a, the secret is the public key (whpk_).';
