/*
 * Secrets in a place of their own.  Nobody but the functions reads it.
 *
 * No foreign keys, here and below: pg_restore --jobs brings the tables back in
 * any order.  The webhooks' own trigger deletes what goes with them.
 */
CREATE TABLE chatwebhook.vault (
    webhook_id uuid NOT NULL,
    name       text NOT NULL,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    expires_at timestamptz,
    PRIMARY KEY (webhook_id, name)
);
COMMENT ON TABLE chatwebhook.vault IS
    'The webhooks'' secrets. Use secret(), rotate_secret() and create_webhook() instead of this table.';
COMMENT ON COLUMN chatwebhook.vault.name IS
    'signing_secret, previous_signing_secret while two overlap, or a credential''s name.';
COMMENT ON COLUMN chatwebhook.vault.webhook_id IS 'Whose it is.';
COMMENT ON COLUMN chatwebhook.vault.value IS
    'The secret, encrypted for this row if there is chatwebhook.secret_key_file.';
COMMENT ON COLUMN chatwebhook.vault.created_at IS 'When it was set.';
COMMENT ON COLUMN chatwebhook.vault.expires_at IS
    'From then on it is not used any more; null: no end.';
ALTER TABLE chatwebhook.vault ALTER value SET STATISTICS 0;
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.vault', '');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.vault
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.vault
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.vault ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.vault ENABLE ALWAYS TRIGGER emptied;

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

CREATE FUNCTION chatwebhook._set_secret(webhook_id uuid, name text, secret text) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
    INSERT INTO chatwebhook.vault AS v (webhook_id, name, value)
    VALUES (_set_secret.webhook_id, _set_secret.name,
            chatwebhook._seal(_set_secret.webhook_id, _set_secret.name, secret))
    ON CONFLICT ON CONSTRAINT vault_pkey DO UPDATE
       SET value = EXCLUDED.value, created_at = now(), expires_at = NULL
$$;
COMMENT ON FUNCTION chatwebhook._set_secret(uuid, text, text) IS 'Puts a secret into the vault.';

CREATE FUNCTION chatwebhook._new_secret(signing text) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE signing WHEN 'v1a' THEN chatwebhook._ed25519_generate()
                        ELSE chatwebhook._secret_generate() END
$$;
COMMENT ON FUNCTION chatwebhook._new_secret(text) IS 'A new random secret for that kind of signing.';

CREATE FUNCTION chatwebhook._make_secret(webhook_id uuid, signing text) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
    INSERT INTO chatwebhook.vault AS v (webhook_id, name, value)
    VALUES (_make_secret.webhook_id, 'signing_secret',
            chatwebhook._seal_new(_make_secret.webhook_id, 'signing_secret', signing))
    ON CONFLICT ON CONSTRAINT vault_pkey DO UPDATE
       SET value = EXCLUDED.value, created_at = now(), expires_at = NULL
$$;
COMMENT ON FUNCTION chatwebhook._make_secret(uuid, text) IS
    'Puts a new signing secret into the vault, and shows it to nobody.';

CREATE FUNCTION chatwebhook.secret(webhook_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    RETURN (SELECT chatwebhook._open(v.webhook_id, v.name, v.value)
              FROM chatwebhook.vault v
             WHERE v.webhook_id = webhook_id AND v.name = 'signing_secret');
END
$$;
COMMENT ON FUNCTION chatwebhook.secret(uuid) IS
    'The webhook''s signing secret, for those allowed to see it.';

CREATE FUNCTION chatwebhook.public_key(webhook_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    RETURN (SELECT chatwebhook._public_key(chatwebhook._open(v.webhook_id, v.name, v.value))
              FROM chatwebhook.vault v
              JOIN chatwebhook.webhook w ON w.id = v.webhook_id
             WHERE v.webhook_id = webhook_id AND v.name = 'signing_secret' AND w.signing = 'v1a');
END
$$;
COMMENT ON FUNCTION chatwebhook.public_key(uuid) IS
    'With signing v1a, the key that receivers verify with: whpk_ and base64; else null.';

CREATE FUNCTION chatwebhook.rotate_secret(webhook_id uuid, overlap interval DEFAULT '24 hours')
    RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    fresh    text;
    outgoing text;
BEGIN
    IF webhook_id IS NULL OR overlap IS NULL OR overlap < '0' THEN
        RAISE EXCEPTION 'rotate_secret() needs a webhook and an overlap of no less than 0'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    -- one rotation at a time
    SELECT chatwebhook._new_secret(w.signing) INTO fresh
      FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR NO KEY UPDATE;
    -- it may have been deleted while we waited
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    DELETE FROM chatwebhook.vault v
     WHERE v.webhook_id = webhook_id AND v.name = 'previous_signing_secret';
    IF overlap > '0' THEN
        -- sealed anew, since a value is bound to its name
        outgoing := chatwebhook.secret(webhook_id);
    END IF;
    IF outgoing IS NOT NULL THEN
        PERFORM chatwebhook._set_secret(webhook_id, 'previous_signing_secret', outgoing);
        UPDATE chatwebhook.vault v SET expires_at = clock_timestamp() + overlap
         WHERE v.webhook_id = webhook_id AND v.name = 'previous_signing_secret';
    END IF;
    PERFORM chatwebhook._set_secret(webhook_id, 'signing_secret', fresh);
    PERFORM chatwebhook._wake(webhook_id);
    RETURN fresh;
END
$$;
COMMENT ON FUNCTION chatwebhook.rotate_secret(uuid, interval) IS
    'Gives the webhook a new signing secret. Requests carry signatures of both until the overlap is over.';

CREATE FUNCTION chatwebhook.set_credential(webhook_id uuid, name text, value text)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
BEGIN
    IF webhook_id IS NULL OR name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,62}$'
       OR name IN ('signing_secret', 'previous_signing_secret') THEN
        RAISE EXCEPTION 'invalid name of a credential: "%"', left(name, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use up to 63 lower-case letters, digits and _, such as api_token. Signing secrets are made by rotate_secret().';
    END IF;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    -- it must not be deleted meanwhile, and may have been while we waited
    PERFORM FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR KEY SHARE;
    PERFORM chatwebhook._check_webhook_access(webhook_id);
    IF value IS NULL THEN
        DELETE FROM chatwebhook.vault v WHERE v.webhook_id = webhook_id AND v.name = name;
    ELSIF value = '' OR length(value) > 65536
          OR name NOT IN ('client_certificate', 'client_key') AND value !~ E'^[\\x21-\\x7e]([\\x20-\\x7e]*[\\x21-\\x7e])?$' THEN
        -- the value itself stays out of the message
        RAISE EXCEPTION 'unusable value for the credential "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give printable ASCII in one line, without blanks at its ends; a certificate or key is PEM.';
    ELSE
        PERFORM chatwebhook._set_secret(webhook_id, name, value);
    END IF;
    PERFORM chatwebhook._wake(webhook_id);
END
$$;
COMMENT ON FUNCTION chatwebhook.set_credential(uuid, text, text) IS
    'Keeps a secret for a webhook, which a {{name}} in its URL or headers stands for; client_certificate and client_key (PEM) are shown to the receiver in TLS. Null removes it. It cannot be read back.';

CREATE FUNCTION chatwebhook.rekey() RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
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
    'Encrypts every secret anew that is not under the current key, the first of chatwebhook.secret_key_file; how many. The old key must still be in the file, behind the new one.';
