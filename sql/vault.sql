/*
 * The vault: secrets, in a table that only functions read.
 *
 * There are no foreign keys, here and below, because pg_restore --jobs restores
 * tables in any order.  A trigger of the table webhook deletes what belongs to a
 * deleted webhook.
 */
CREATE TABLE chatwebhook.vault (
    webhook_id uuid NOT NULL,
    name       text NOT NULL,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    expires_at timestamptz,
    PRIMARY KEY (webhook_id, name)
);
ALTER TABLE chatwebhook.vault ALTER value SET STATISTICS 0;
-- the workers remove those that have expired
CREATE INDEX vault_expires_at_idx ON chatwebhook.vault (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE chatwebhook.vault IS
    'Secrets of webhooks. Use secret(), rotate_secret(), set_credential() and create_webhook() instead of this table.';
COMMENT ON COLUMN chatwebhook.vault.webhook_id IS 'Webhook that the secret belongs to.';
COMMENT ON COLUMN chatwebhook.vault.name IS
    'signing_secret (v1), signing_key (v1a), the same with previous_ (while two overlap), or the name of a credential.';
COMMENT ON COLUMN chatwebhook.vault.value IS
    'The secret, encrypted for this row if chatwebhook.secret_key_file is set.';
COMMENT ON COLUMN chatwebhook.vault.created_at IS 'When it was set.';
COMMENT ON COLUMN chatwebhook.vault.expires_at IS
    'When it ceases to be used; null if never. A worker removes it some minutes later.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.vault', '');

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.vault
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.vault
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();

/*
 * Sealing and opening (src/secrets.c).  A sealed value is bound to its webhook
 * and its name.
 */
CREATE FUNCTION chatwebhook._secret_problem(secret text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_secret_problem'
    LANGUAGE C IMMUTABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._secret_problem(text) IS
    'Returns why this cannot be a signing secret, or null.';

CREATE FUNCTION chatwebhook._public_key(private_key text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_public_key'
    LANGUAGE C IMMUTABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._public_key(text) IS
    'Returns the public key (whpk_ and base64) of a private key; null if it is not one.';

CREATE FUNCTION chatwebhook._seal(webhook_id uuid, name text, secret text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_seal'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._seal(uuid, text, text) IS
    'Seals a secret: encrypts it under the current key, if there is a key file.';

CREATE FUNCTION chatwebhook._seal_new(webhook_id uuid, name text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_seal_new'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._seal_new(uuid, text) IS
    'Generates a signing_secret or a signing_key and seals it, without ever returning it in plain text.';

CREATE FUNCTION chatwebhook._reseal(webhook_id uuid, name text, sealed bytea) RETURNS bytea
    AS 'MODULE_PATHNAME', 'chatwebhook_reseal'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._reseal(uuid, text, bytea) IS
    'Decrypts a secret and encrypts it with the current key, without returning it in plain text.';

CREATE FUNCTION chatwebhook._open(webhook_id uuid, name text, sealed bytea) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_open'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._open(uuid, text, bytea) IS
    'Returns a sealed secret in plain text.';

CREATE FUNCTION chatwebhook._is_current(sealed bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_is_current'
    LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._is_current(bytea) IS
    'Is this sealed under the current key?';

CREATE FUNCTION chatwebhook._encrypts() RETURNS boolean
    AS 'MODULE_PATHNAME', 'chatwebhook_encrypts'
    LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._encrypts() IS
    'Are secrets encrypted at rest? Null if the key file cannot be used.';

CREATE FUNCTION chatwebhook._set_secret(webhook_id uuid, name text, sealed bytea, expires_at timestamptz DEFAULT NULL)
    RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
    INSERT INTO chatwebhook.vault (webhook_id, name, value, expires_at)
    VALUES (_set_secret.webhook_id, _set_secret.name, sealed, _set_secret.expires_at)
    ON CONFLICT ON CONSTRAINT vault_pkey DO UPDATE
       SET value = EXCLUDED.value, created_at = now(), expires_at = EXCLUDED.expires_at
$$;
COMMENT ON FUNCTION chatwebhook._set_secret(uuid, text, bytea, timestamptz) IS
    'Puts a sealed secret into the vault.';

/*
 * Webhooks sign with a secret (v1), with a private key (v1a), or with both.
 */
CREATE FUNCTION chatwebhook._signing_names(signing text) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE signing WHEN 'v1' THEN '{signing_secret}'::text[]
                        WHEN 'v1a' THEN '{signing_key}'
                        WHEN 'v1,v1a' THEN '{signing_secret,signing_key}' END
$$;
COMMENT ON FUNCTION chatwebhook._signing_names(text) IS
    'Returns the names in the vault of the secrets that a webhook with this signing uses.';

CREATE FUNCTION chatwebhook._follow_signing(webhook_id uuid, signing text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    names constant text[] := chatwebhook._signing_names(signing);
BEGIN
    DELETE FROM chatwebhook.vault v
     WHERE v.webhook_id = webhook_id
       AND v.name ~ '^(previous_)?signing_(secret|key)$' AND replace(v.name, 'previous_', '') <> ALL (names);
    PERFORM chatwebhook._set_secret(webhook_id, n.name, chatwebhook._seal_new(webhook_id, n.name))
       FROM unnest(names) AS n(name)
      WHERE NOT EXISTS (SELECT FROM chatwebhook.vault v WHERE v.webhook_id = webhook_id AND v.name = n.name);
END
$$;
COMMENT ON FUNCTION chatwebhook._follow_signing(uuid, text) IS
    'Generates the signing secrets that a webhook with this signing lacks, and removes those that it does not use.';

CREATE FUNCTION chatwebhook._signing_secret_problem(signing text, secret text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN signing = 'v1a' AND chatwebhook._public_key(secret) IS NULL
                THEN 'it is not an Ed25519 private key'
                WHEN signing <> 'v1a' AND starts_with(secret, 'whsk_')
                THEN 'it is a private key, which can sign only v1a'
                WHEN signing <> 'v1a'
                THEN chatwebhook._secret_problem(secret) END
$$;
COMMENT ON FUNCTION chatwebhook._signing_secret_problem(text, text) IS
    'Returns why create_webhook() cannot take this secret for a webhook with this signing, or null.';
CREATE FUNCTION chatwebhook._signing_problem(webhook_id uuid) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('webhook "%s" has no signing secret, because connector "%s" is not signed', w.name, w.connector)
      FROM chatwebhook.webhook w
     WHERE w.id = webhook_id
       AND NOT EXISTS (SELECT FROM chatwebhook.connector c WHERE c.name = w.connector AND c.signed)
$$;
COMMENT ON FUNCTION chatwebhook._signing_problem(uuid) IS
    'Returns why a webhook has no signing secret, or null.';

CREATE FUNCTION chatwebhook._do_set_signing_secret(webhook_id uuid, secret text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    signing constant text := (SELECT w.signing FROM chatwebhook.webhook w WHERE w.id = webhook_id);
    name    constant text := (chatwebhook._signing_names(signing))[1];
BEGIN
    IF chatwebhook._signing_problem(webhook_id) IS NOT NULL THEN
        RAISE EXCEPTION '%', chatwebhook._signing_problem(webhook_id)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Omit the secret, or use a connector that is signed, such as webhook or cloudevents.';
    END IF;
    IF secret IS NULL OR chatwebhook._signing_secret_problem(signing, secret) IS NOT NULL THEN
        RAISE EXCEPTION 'invalid signing secret'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use create_webhook() or rotate_secret().';
    END IF;
    PERFORM chatwebhook._set_secret(webhook_id, name, chatwebhook._seal(webhook_id, name, secret));
END
$$;
COMMENT ON FUNCTION chatwebhook._do_set_signing_secret(uuid, text) IS
    'Stores a signing secret that create_webhook() was given.';

CREATE FUNCTION chatwebhook._set_signing_secret(webhook_id uuid, secret text) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._set_signing_secret(uuid, text) IS
    'Calls _do_set_signing_secret() if the caller can see the webhook.';

/*
 * Functions
 */
CREATE FUNCTION chatwebhook._do_secret(webhook_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF chatwebhook._signing_problem(webhook_id) IS NOT NULL THEN
        RAISE NOTICE '%', chatwebhook._signing_problem(webhook_id)
            USING HINT = 'It gets one if you change it to a connector that is signed, such as webhook or cloudevents.';
        RETURN NULL;
    END IF;
    RETURN (SELECT chatwebhook._open(v.webhook_id, v.name, v.value)
              FROM chatwebhook.vault v
             WHERE v.webhook_id = webhook_id AND v.name IN ('signing_secret', 'signing_key')
             ORDER BY v.name = 'signing_secret' DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION chatwebhook._do_secret(uuid) IS 'Implements secret(), with the owner''s rights.';

CREATE FUNCTION chatwebhook.secret(webhook_id uuid) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.secret(uuid) IS
    'Returns the webhook''s signing secret, with which receivers verify v1 signatures; for a webhook with signing v1a, which has none, the private key. Null, with a notice, if its connector is not signed.';

CREATE FUNCTION chatwebhook._do_public_key(webhook_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    RETURN (SELECT chatwebhook._public_key(chatwebhook._open(v.webhook_id, v.name, v.value))
              FROM chatwebhook.vault v
             WHERE v.webhook_id = webhook_id AND v.name = 'signing_key'
               AND chatwebhook._signing_problem(webhook_id) IS NULL);
END
$$;
COMMENT ON FUNCTION chatwebhook._do_public_key(uuid) IS 'Implements public_key(), with the owner''s rights.';

CREATE FUNCTION chatwebhook.public_key(webhook_id uuid) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.public_key(uuid) IS
    'Returns the key with which receivers verify v1a signatures: whpk_ and base64. Null for a webhook with signing v1.';

CREATE FUNCTION chatwebhook._do_rotate_secret(webhook_id uuid, overlap interval) RETURNS text
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    signing text;
    until   timestamptz;
    name    text;
BEGIN
    IF webhook_id IS NULL OR overlap IS NULL OR overlap < '0' THEN
        RAISE EXCEPTION 'rotate_secret() needs a webhook and an overlap that is not negative'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- one rotation at a time
    SELECT w.signing INTO signing
      FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR NO KEY UPDATE;
    -- the webhook may have been deleted while we waited for the lock
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF chatwebhook._signing_problem(webhook_id) IS NOT NULL THEN
        RAISE EXCEPTION '%', chatwebhook._signing_problem(webhook_id)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'To replace a credential, use set_credential(). For signatures, use a connector that is signed, such as webhook or cloudevents.';
    END IF;
    DELETE FROM chatwebhook.vault v
     WHERE v.webhook_id = webhook_id AND v.name IN ('previous_signing_secret', 'previous_signing_key');
    until := clock_timestamp() + overlap;
    FOREACH name IN ARRAY chatwebhook._signing_names(signing) LOOP
        IF overlap > '0' THEN
            PERFORM chatwebhook._set_secret(webhook_id, 'previous_' || name,
                        chatwebhook._seal(webhook_id, 'previous_' || name, chatwebhook._open(webhook_id, name, v.value)),
                        until)
               FROM chatwebhook.vault v WHERE v.webhook_id = webhook_id AND v.name = name;
        END IF;
        PERFORM chatwebhook._set_secret(webhook_id, name, chatwebhook._seal_new(webhook_id, name));
    END LOOP;
    PERFORM chatwebhook._wake(webhook_id);
    RETURN chatwebhook._do_secret(webhook_id);
END
$$;
COMMENT ON FUNCTION chatwebhook._do_rotate_secret(uuid, interval) IS 'Implements rotate_secret(), with the owner''s rights.';

CREATE FUNCTION chatwebhook.rotate_secret(webhook_id uuid, overlap interval DEFAULT '24 hours')
    RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.rotate_secret(uuid, interval) IS
    'Gives the webhook a new signing secret, and returns it; with signing v1,v1a also a new private key, and with v1a only that. Raises an error if its connector is not signed. Until the overlap ends, requests are signed with the old ones, too, and a request that the receiver answers with 401 or 403 is repeated at once, signed with the other secret first.';

CREATE FUNCTION chatwebhook._credential_problem(name text, value text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_credential_problem'
    LANGUAGE C IMMUTABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._credential_problem(text, text) IS
    'Returns why the credential of this name cannot have this value, or null.';

CREATE FUNCTION chatwebhook._do_set_credential(webhook_id uuid, name text, value text)
    RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    problem text;
    held    record;
BEGIN
    IF webhook_id IS NULL OR name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,62}$'
       OR name ~ '^(previous_)?signing_(secret|key)$' THEN
        RAISE EXCEPTION 'invalid credential name: "%"', left(name, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use at most 63 lower-case letters, digits and _, such as api_token. For signing secrets, use rotate_secret().';
    END IF;
    -- one credential at a time; the webhook may have been deleted while we waited
    PERFORM FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR NO KEY UPDATE;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF value IS NULL THEN
        DELETE FROM chatwebhook.vault v WHERE v.webhook_id = webhook_id AND v.name = name;
    ELSE
        problem := chatwebhook._credential_problem(name, value);
        IF problem IS NOT NULL THEN
            -- the message does not show the value
            RAISE EXCEPTION 'invalid value for credential "%": %', name, problem
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = CASE WHEN name IN ('client_certificate', 'client_key')
                                  THEN 'Use PEM of at most 32 kB: certificates, the client''s own first, or a private key without a password.'
                                  ELSE 'Use one line of at most 8 kB of printable ASCII, without leading or trailing spaces.' END;
        END IF;
        SELECT count(*) AS n, coalesce(sum(octet_length(v.name) + octet_length(v.value)), 0) AS size INTO held
          FROM chatwebhook.vault v
         WHERE v.webhook_id = webhook_id
           AND v.name <> name AND v.name !~ '^(previous_)?signing_(secret|key)$';
        -- stricter than the workers' limit, which must also fit encryption overhead and four
        -- signing secrets
        IF held.n >= 50 OR held.size + length(value) > 88 * 1024 THEN
            RAISE EXCEPTION 'cannot store credential "%": %', name,
                    CASE WHEN held.n >= 50 THEN 'the webhook has 50 already'
                         ELSE 'those of the webhook would take more than 88 kB together' END
                USING ERRCODE = 'program_limit_exceeded',
                      HINT = 'Remove one that is not needed: set_credential(webhook_id, name, NULL).';
        END IF;
        PERFORM chatwebhook._set_secret(webhook_id, name, chatwebhook._seal(webhook_id, name, value));
    END IF;
    PERFORM chatwebhook._wake(webhook_id);
END
$$;
COMMENT ON FUNCTION chatwebhook._do_set_credential(uuid, text, text) IS 'Implements set_credential(), with the owner''s rights.';

CREATE FUNCTION chatwebhook.set_credential(webhook_id uuid, name text, value text)
    RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_guarded'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook.set_credential(uuid, text, text) IS
    'Stores a secret for a webhook. A {{name}} in its URL, headers or auth stands for it. The credentials client_certificate and client_key (PEM) are presented to the webhook''s own host in TLS, and to no other. A webhook has at most 50, of 8 kB each (PEM: 32 kB) and 88 kB together. Null removes the credential. It cannot be read back. To keep it out of logs, pass it as a parameter, or read it with COPY into a temporary table first.';

CREATE FUNCTION chatwebhook.rekey() RETURNS bigint
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
    WITH sealed AS (
        UPDATE chatwebhook.vault v
           SET value = chatwebhook._reseal(v.webhook_id, v.name, v.value)
         WHERE NOT chatwebhook._is_current(v.value)
        RETURNING 1
    )
    SELECT count(*) FROM sealed
$$;
COMMENT ON FUNCTION chatwebhook.rekey() IS
    'Encrypts all secrets under the current key, the first in chatwebhook.secret_key_file, and returns how many were not. Until then, the file must also have the old key, after the new one.';
