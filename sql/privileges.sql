/* Not before those that come with the extension are there. */
CREATE TRIGGER check_connector BEFORE INSERT OR UPDATE OR DELETE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_connector();

/*
 * Nothing for everybody.  A trigger function runs for whoever changes a
 * watched table and needs no grant for that; everything else here reads other
 * people's chats or sends requests, and is for those whom the administrator
 * names.
 */
REVOKE ALL ON ALL TABLES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chatwebhook FROM PUBLIC;

/* What the views and policies call on behalf of whoever reads. */
GRANT EXECUTE ON FUNCTION chatwebhook._chatbots() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._webhooks() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._in_flight() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._gates() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._workers() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._encrypts() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._redact(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._alert_failures() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._alert_success_rate() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._count_pending(), chatwebhook._count_dead() TO PUBLIC;
/* What those call who write a connector of their own. */
GRANT EXECUTE ON FUNCTION chatwebhook.cut(text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook.url_encode(text) TO PUBLIC;
/* What watch() calls with its caller's rights. */
GRANT EXECUTE ON FUNCTION chatwebhook._missing_key(text, text[]) TO PUBLIC;

/* Monitoring, without anybody's chats. */
GRANT USAGE ON SCHEMA chatwebhook TO pg_monitor;
GRANT SELECT ON chatwebhook.webhook_health, chatwebhook.worker_status, chatwebhook.alert, chatwebhook.activity, chatwebhook.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION chatwebhook.metrics_text(), chatwebhook.dashboard() TO pg_monitor;

/*
 * The grants of three kinds of role, in one call each.  Whoever calls them
 * must be allowed to grant: the extension's owner.
 */
CREATE FUNCTION chatwebhook.grant_admin(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatwebhook TO %I', role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook, chatwebhook.event_type, chatwebhook.connector TO %I', role);
    EXECUTE format('GRANT SELECT ON chatwebhook.event, chatwebhook.attempt, chatwebhook.delivery, chatwebhook.dead_letter, chatwebhook.webhook_health, chatwebhook.alert, chatwebhook.activity, chatwebhook.metrics, chatwebhook.worker_status, chatwebhook.tenant TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION chatwebhook.emit(), chatwebhook.emit(text, text, text, jsonb), chatwebhook.watch, chatwebhook.unwatch, chatwebhook.create_webhook, chatwebhook.secret, chatwebhook.public_key, chatwebhook.rotate_secret, chatwebhook.set_credential, chatwebhook.slack, chatwebhook.discord, chatwebhook.hubspot, chatwebhook.salesforce, chatwebhook.zendesk, chatwebhook.pagerduty, chatwebhook.test_webhook, chatwebhook.preview, chatwebhook.metrics_text, chatwebhook.dashboard, chatwebhook.retry, chatwebhook.cancel, chatwebhook.retry_dead, chatwebhook.replay, chatwebhook.purge_dead_letters, chatwebhook.erase_conversation, chatwebhook.backfill, chatwebhook._emit_to, chatwebhook.wait_until_idle, chatwebhook.sign(text, text), chatwebhook.sign(text, timestamptz, text, text), chatwebhook.verify(text, text, text), chatwebhook.verify(jsonb, text, text, interval), chatwebhook.uuidv7 TO %I', role);
END
$$;
COMMENT ON FUNCTION chatwebhook.grant_admin(name) IS
    'Lets a role manage webhooks, event types and connectors, watch tables, read events and deliveries, and see signing secrets.';

CREATE FUNCTION chatwebhook.grant_reader(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatwebhook TO %I', role);
    EXECUTE format('GRANT SELECT ON chatwebhook.delivery, chatwebhook.webhook_health, chatwebhook.alert, chatwebhook.activity, chatwebhook.metrics, chatwebhook.worker_status TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION chatwebhook.metrics_text, chatwebhook.dashboard TO %I', role);
END
$$;
COMMENT ON FUNCTION chatwebhook.grant_reader(name) IS
    'Lets a role see deliveries, health and workers, for monitoring, and nobody''s chats or secrets.';

CREATE FUNCTION chatwebhook.add_tenant(role name, chatbot_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    -- listed before it is granted anything, so that it never sees more
    INSERT INTO chatwebhook.tenant (role, chatbot_id)
    SELECT r.oid, chatbot_id FROM pg_roles r WHERE r.rolname = role
    ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA chatwebhook TO %I', role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook TO %I', role);
    EXECUTE format('GRANT SELECT ON chatwebhook.event_type, chatwebhook.connector, chatwebhook.event, chatwebhook.attempt, chatwebhook.delivery, chatwebhook.dead_letter, chatwebhook.webhook_health, chatwebhook.alert, chatwebhook.metrics TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION chatwebhook.create_webhook, chatwebhook.secret, chatwebhook.public_key, chatwebhook.rotate_secret, chatwebhook.set_credential, chatwebhook.slack, chatwebhook.discord, chatwebhook.hubspot, chatwebhook.salesforce, chatwebhook.zendesk, chatwebhook.pagerduty, chatwebhook.test_webhook, chatwebhook.preview, chatwebhook.metrics_text, chatwebhook.dashboard, chatwebhook.retry, chatwebhook.cancel, chatwebhook.retry_dead, chatwebhook.replay, chatwebhook.purge_dead_letters, chatwebhook.erase_conversation TO %I', role);
END
$$;
COMMENT ON FUNCTION chatwebhook.add_tenant(name, text) IS
    'Lets a role manage the webhooks of this chatbot, and see its events, deliveries and signing secrets, and nothing of others.';
REVOKE ALL ON FUNCTION chatwebhook.grant_admin(name), chatwebhook.grant_reader(name),
    chatwebhook.add_tenant(name, text) FROM PUBLIC;

/* Tells this session if the server has not loaded the library in advance. */
CREATE FUNCTION chatwebhook._check_preload() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_check_preload'
    LANGUAGE C;
REVOKE ALL ON FUNCTION chatwebhook._check_preload() FROM PUBLIC;
COMMENT ON FUNCTION chatwebhook._check_preload() IS
    'Warns if chatwebhook is not in shared_preload_libraries.';
SELECT chatwebhook._check_preload();
