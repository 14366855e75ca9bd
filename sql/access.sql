/*
 * Who sees what.  A role sees all that it was granted, unless it is a tenant's:
 * then it sees and manages what belongs to its chatbots, and nothing else.
 *
 * The conditions stand in policies, for those who read the tables, and again in
 * the views, which read the tables as their owner.
 */
CREATE TABLE chatwebhook.tenant (
    role       regrole NOT NULL,
    chatbot_id text NOT NULL,
    PRIMARY KEY (role, chatbot_id)
);
COMMENT ON TABLE chatwebhook.tenant IS
    'Chatbots that a tenant''s role, and members of that role, see and manage. add_tenant() writes it.';
COMMENT ON COLUMN chatwebhook.tenant.role IS 'Role of the tenant, even if it is renamed.';
COMMENT ON COLUMN chatwebhook.tenant.chatbot_id IS 'One of the tenant''s chatbots.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.tenant', '');

/*
 * The invoking role is the session's current role outside of any function with
 * its owner's rights: the one on whose behalf the function runs.
 */
CREATE FUNCTION chatwebhook._invoker() RETURNS oid
    AS 'MODULE_PATHNAME', 'chatwebhook_invoker'
    LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._invoker() IS
    'Returns the invoking role, also within functions with their owner''s rights.';

CREATE FUNCTION chatwebhook._chatbots() RETURNS text[]
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    invoker  constant oid := chatwebhook._invoker();
    is_super boolean;
    chatbots text[];
BEGIN
    SELECT u.rolsuper INTO is_super FROM pg_roles u WHERE u.oid = invoker;
    -- a result of null would mean everything
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the role of this session no longer exists'
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
    'Returns the chatbots of the invoking role; null if it is not a tenant''s, and sees all.';

/*
 * A webhook of every chatbot belongs to the administrator, although its
 * deliveries carry tenants' chatbots.  So a tenant sees a delivery only if both
 * the chatbot and the webhook are its own.
 */
CREATE FUNCTION chatwebhook._webhooks() RETURNS uuid[]
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN own IS NOT NULL THEN
                     ARRAY(SELECT w.id FROM chatwebhook.webhook w WHERE w.chatbot_id = ANY (own))
           END
      FROM chatwebhook._chatbots() AS own
$$;
COMMENT ON FUNCTION chatwebhook._webhooks() IS
    'Returns the webhooks of the invoking role; null if it is not a tenant''s, and sees all.';

ALTER TABLE chatwebhook.webhook ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.webhook USING (
    (SELECT chatwebhook._chatbots()) IS NULL
    OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[]));

ALTER TABLE chatwebhook.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.event USING (
    (SELECT chatwebhook._chatbots()) IS NULL
    OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[]));

ALTER TABLE chatwebhook.queue ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.queue USING (
    (SELECT chatwebhook._chatbots()) IS NULL
    OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
       AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));

ALTER TABLE chatwebhook.history ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.history USING (
    (SELECT chatwebhook._chatbots()) IS NULL
    OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
       AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));

ALTER TABLE chatwebhook.dead ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.dead USING (
    (SELECT chatwebhook._chatbots()) IS NULL
    OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
       AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));

ALTER TABLE chatwebhook.attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.attempt USING (
    (SELECT chatwebhook._chatbots()) IS NULL
    OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[])
       AND webhook_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._webhooks())::uuid[]));

CREATE FUNCTION chatwebhook._check_chatbot(chatbot_id text) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (chatwebhook._chatbots() IS NULL OR chatbot_id = ANY (chatwebhook._chatbots())) IS NOT TRUE THEN
        RAISE EXCEPTION 'chatbot "%" does not belong to this role', coalesce(chatbot_id, 'null')
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Use one of the chatbots that the table chatwebhook.tenant lists for the role.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_chatbot(text) IS
    'Raises an error unless the invoking role may manage this chatbot''s webhooks.';

CREATE FUNCTION chatwebhook._check_webhook_access(webhook_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF NOT EXISTS (SELECT FROM chatwebhook.webhook w
                    WHERE w.id = webhook_id
                      AND (chatwebhook._chatbots() IS NULL OR w.chatbot_id = ANY (chatwebhook._chatbots()))) THEN
        RAISE EXCEPTION 'webhook "%" does not exist', webhook_id
            USING ERRCODE = 'no_data_found';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_webhook_access(uuid) IS
    'Raises an error unless the webhook exists and the invoking role sees it.';
