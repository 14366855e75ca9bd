CREATE FUNCTION chatwebhook._invoker() RETURNS oid
    AS 'MODULE_PATHNAME', 'chatwebhook_invoker'
    LANGUAGE C STABLE;
COMMENT ON FUNCTION chatwebhook._invoker() IS
    'The role on whose behalf this runs, whatever definer function it is called from.';
/*
 * Who sees what.  A role sees everything that it was granted the right to see,
 * unless it is a tenant's: then it sees and manages what belongs to its
 * chatbots, and nothing else.
 */
CREATE TABLE chatwebhook.tenant (
    role       regrole NOT NULL,
    chatbot_id text NOT NULL,
    PRIMARY KEY (role, chatbot_id)
);
COMMENT ON TABLE chatwebhook.tenant IS
    'The chatbots that a tenant''s role, and its members, see and manage. add_tenant() writes it.';
COMMENT ON COLUMN chatwebhook.tenant.role IS 'The role, whatever it is renamed to.';
COMMENT ON COLUMN chatwebhook.tenant.chatbot_id IS 'One of its chatbots.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.tenant', '');

CREATE FUNCTION chatwebhook._chatbots() RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    invoker  constant oid := chatwebhook._invoker();
    is_super boolean;
    chatbots text[];
BEGIN
    SELECT u.rolsuper INTO is_super FROM pg_roles u WHERE u.oid = invoker;
    -- null would mean everything
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the role of this session does not exist any more'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT is_super THEN
        SELECT array_agg(DISTINCT t.chatbot_id) INTO chatbots
          FROM chatwebhook.tenant t WHERE pg_has_role(invoker, t.role, 'MEMBER');
    END IF;
    RETURN chatbots;
END
$$;
COMMENT ON FUNCTION chatwebhook._chatbots() IS
    'The chatbots of the tenant on whose behalf this runs; null: it is not a tenant''s role.';

CREATE FUNCTION chatwebhook._sees(chatbot_id text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(chatwebhook._chatbots() IS NULL OR chatbot_id = ANY (chatwebhook._chatbots()), false)
$$;
COMMENT ON FUNCTION chatwebhook._sees(text) IS
    'Whether the role on whose behalf this runs may see this chatbot''s rows.';

/*
 * A webhook of every chatbot is the administrator's, and what it is owed bears
 * a tenant's chatbot all the same; so a delivery must be of the tenant's
 * chatbot and to a tenant's webhook.
 */
CREATE FUNCTION chatwebhook._webhooks() RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN own IS NOT NULL THEN
                     ARRAY(SELECT w.id FROM chatwebhook.webhook w WHERE w.chatbot_id = ANY (own))
           END
      FROM chatwebhook._chatbots() AS own
$$;
COMMENT ON FUNCTION chatwebhook._webhooks() IS
    'The webhooks of the tenant on whose behalf this runs; null: it is not a tenant''s role.';

CREATE FUNCTION chatwebhook._sees(chatbot_id text, webhook_id uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(chatwebhook._chatbots() IS NULL
                    OR chatbot_id = ANY (chatwebhook._chatbots()) AND webhook_id = ANY (chatwebhook._webhooks()),
                    false)
$$;
COMMENT ON FUNCTION chatwebhook._sees(text, uuid) IS
    'Whether the role on whose behalf this runs may see the deliveries of this chatbot to this webhook.';

CREATE FUNCTION chatwebhook._check_chatbot(chatbot_id text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT chatwebhook._sees(chatbot_id) THEN
        RAISE EXCEPTION 'chatbot "%" is not one of this role''s', coalesce(chatbot_id, 'null')
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Name one of the chatbots that chatwebhook.tenant lists for the role.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_chatbot(text) IS
    'An error if the role on whose behalf this runs may not manage this chatbot''s webhooks.';

CREATE FUNCTION chatwebhook._check_webhook_access(webhook_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF NOT EXISTS (SELECT FROM chatwebhook.webhook w
                    WHERE w.id = webhook_id AND chatwebhook._sees(w.chatbot_id)) THEN
        RAISE EXCEPTION 'webhook "%" does not exist', webhook_id
            USING ERRCODE = 'no_data_found';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_webhook_access(uuid) IS
    'An error if there is no such webhook for the role on whose behalf this runs.';

ALTER TABLE chatwebhook.webhook ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.event ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.history ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.dead ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.webhook USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[]));
CREATE POLICY tenant ON chatwebhook.event USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[]));
CREATE POLICY tenant ON chatwebhook.queue USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
           AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));
CREATE POLICY tenant ON chatwebhook.history USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
           AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));
CREATE POLICY tenant ON chatwebhook.dead USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
           AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));
CREATE POLICY tenant ON chatwebhook.attempt USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
           AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));
