/*
 * Privileges: what PUBLIC and pg_monitor get, and functions that grant the rest.
 */

/*
 * The grants for a kind of role.  The caller must be allowed to grant, as the
 * extension's owner is.
 */
CREATE FUNCTION chatwebhook.grant_admin(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    privilege text;
BEGIN
    FOREACH privilege IN ARRAY ARRAY[
        'USAGE ON SCHEMA chatwebhook',
        'SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook',
        'SELECT, INSERT, UPDATE, DELETE ON chatwebhook.event_type',
        'SELECT, INSERT, UPDATE, DELETE ON chatwebhook.connector',
        'SELECT ON chatwebhook.event',
        'SELECT ON chatwebhook.delivery',
        'SELECT ON chatwebhook.dead_letter',
        'SELECT ON chatwebhook.attempt',
        'SELECT ON chatwebhook.webhook_health',
        'SELECT ON chatwebhook.alert',
        'SELECT ON chatwebhook.activity',
        'SELECT ON chatwebhook.metrics',
        'SELECT ON chatwebhook.worker_status',
        'SELECT ON chatwebhook.tenant',
        'EXECUTE ON FUNCTION chatwebhook.uuidv7',
        'EXECUTE ON FUNCTION chatwebhook.emit()',
        'EXECUTE ON FUNCTION chatwebhook.emit(text, text, text, jsonb)',
        'EXECUTE ON FUNCTION chatwebhook.watch',
        'EXECUTE ON FUNCTION chatwebhook.unwatch',
        'EXECUTE ON FUNCTION chatwebhook.backfill',
        'EXECUTE ON FUNCTION chatwebhook._emit_to',
        'EXECUTE ON FUNCTION chatwebhook.create_webhook',
        'EXECUTE ON FUNCTION chatwebhook.test_webhook',
        'EXECUTE ON FUNCTION chatwebhook.preview',
        'EXECUTE ON FUNCTION chatwebhook.secret',
        'EXECUTE ON FUNCTION chatwebhook.public_key',
        'EXECUTE ON FUNCTION chatwebhook.rotate_secret',
        'EXECUTE ON FUNCTION chatwebhook.set_credential',
        'EXECUTE ON FUNCTION chatwebhook.retry',
        'EXECUTE ON FUNCTION chatwebhook.cancel',
        'EXECUTE ON FUNCTION chatwebhook.retry_dead',
        'EXECUTE ON FUNCTION chatwebhook.replay',
        'EXECUTE ON FUNCTION chatwebhook.purge_dead_letters',
        'EXECUTE ON FUNCTION chatwebhook.erase_conversation',
        'EXECUTE ON FUNCTION chatwebhook.wait_until_idle',
        'EXECUTE ON FUNCTION chatwebhook.sign(text, text)',
        'EXECUTE ON FUNCTION chatwebhook.sign(text, timestamptz, text, text)',
        'EXECUTE ON FUNCTION chatwebhook.verify(text, text, text)',
        'EXECUTE ON FUNCTION chatwebhook.verify(jsonb, text, text, interval)',
        'EXECUTE ON FUNCTION chatwebhook.metrics_text',
        'EXECUTE ON FUNCTION chatwebhook.dashboard',
        'EXECUTE ON FUNCTION chatwebhook.discord',
        'EXECUTE ON FUNCTION chatwebhook.hubspot',
        'EXECUTE ON FUNCTION chatwebhook.pagerduty',
        'EXECUTE ON FUNCTION chatwebhook.salesforce',
        'EXECUTE ON FUNCTION chatwebhook.slack',
        'EXECUTE ON FUNCTION chatwebhook.zendesk'
    ] LOOP
        EXECUTE format('GRANT %s TO %I', privilege, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook.grant_admin(name) IS
    'Lets a role manage webhooks, event types and connectors, watch tables, read events and deliveries, and see signing secrets.';

CREATE FUNCTION chatwebhook.grant_reader(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    privilege text;
BEGIN
    FOREACH privilege IN ARRAY ARRAY[
        'USAGE ON SCHEMA chatwebhook',
        'SELECT ON chatwebhook.delivery',
        'SELECT ON chatwebhook.webhook_health',
        'SELECT ON chatwebhook.alert',
        'SELECT ON chatwebhook.activity',
        'SELECT ON chatwebhook.metrics',
        'SELECT ON chatwebhook.worker_status',
        'EXECUTE ON FUNCTION chatwebhook.metrics_text',
        'EXECUTE ON FUNCTION chatwebhook.dashboard'
    ] LOOP
        EXECUTE format('GRANT %s TO %I', privilege, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook.grant_reader(name) IS
    'Lets a role see deliveries, health and workers, for monitoring, but no chats or secrets.';

CREATE FUNCTION chatwebhook.add_tenant(role name, chatbot_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    privilege text;
BEGIN
    -- listed before anything is granted, so that the role never sees more
    INSERT INTO chatwebhook.tenant (role, chatbot_id)
    SELECT r.oid, chatbot_id FROM pg_roles r WHERE r.rolname = role
    ON CONFLICT DO NOTHING;
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object';
    END IF;
    FOREACH privilege IN ARRAY ARRAY[
        'USAGE ON SCHEMA chatwebhook',
        'SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook',
        'SELECT ON chatwebhook.event_type',
        'SELECT ON chatwebhook.connector',
        'SELECT ON chatwebhook.event',
        'SELECT ON chatwebhook.delivery',
        'SELECT ON chatwebhook.dead_letter',
        'SELECT ON chatwebhook.attempt',
        'SELECT ON chatwebhook.webhook_health',
        'SELECT ON chatwebhook.alert',
        'SELECT ON chatwebhook.metrics',
        'EXECUTE ON FUNCTION chatwebhook.create_webhook',
        'EXECUTE ON FUNCTION chatwebhook.test_webhook',
        'EXECUTE ON FUNCTION chatwebhook.preview',
        'EXECUTE ON FUNCTION chatwebhook.secret',
        'EXECUTE ON FUNCTION chatwebhook.public_key',
        'EXECUTE ON FUNCTION chatwebhook.rotate_secret',
        'EXECUTE ON FUNCTION chatwebhook.set_credential',
        'EXECUTE ON FUNCTION chatwebhook.retry',
        'EXECUTE ON FUNCTION chatwebhook.cancel',
        'EXECUTE ON FUNCTION chatwebhook.retry_dead',
        'EXECUTE ON FUNCTION chatwebhook.replay',
        'EXECUTE ON FUNCTION chatwebhook.purge_dead_letters',
        'EXECUTE ON FUNCTION chatwebhook.erase_conversation',
        'EXECUTE ON FUNCTION chatwebhook.metrics_text',
        'EXECUTE ON FUNCTION chatwebhook.dashboard',
        'EXECUTE ON FUNCTION chatwebhook.discord',
        'EXECUTE ON FUNCTION chatwebhook.hubspot',
        'EXECUTE ON FUNCTION chatwebhook.pagerduty',
        'EXECUTE ON FUNCTION chatwebhook.salesforce',
        'EXECUTE ON FUNCTION chatwebhook.slack',
        'EXECUTE ON FUNCTION chatwebhook.zendesk'
    ] LOOP
        EXECUTE format('GRANT %s TO %I', privilege, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook.add_tenant(name, text) IS
    'Lets a role manage the webhooks of this chatbot, and see its events, deliveries and signing secrets, and those of no other.';

/*
 * Revoke what PUBLIC has by default: functions here read other people's chats,
 * send requests and show secrets.  A trigger function needs no grant to fire, so
 * a role that changes a watched table needs none.
 */
REVOKE ALL ON ALL TABLES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chatwebhook FROM PUBLIC;

/* Views, policies and watch() call these with the rights of the role that uses them. */
GRANT EXECUTE ON FUNCTION chatwebhook._setting(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._mapping(regclass, text, jsonb) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._to_jsonb(anyelement) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._redact(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._encrypts() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._filter_problem(jsonpath) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._chatbots() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._webhooks() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._sending() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._workers() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._count_deliveries(text) TO PUBLIC;

/* Authors of connectors call these. */
GRANT EXECUTE ON FUNCTION chatwebhook.cut(text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook.url_encode(text) TO PUBLIC;

/* Monitoring sees figures, and no chats. */
GRANT USAGE ON SCHEMA chatwebhook TO pg_monitor;
GRANT SELECT ON chatwebhook.webhook_health TO pg_monitor;
GRANT SELECT ON chatwebhook.worker_status TO pg_monitor;
GRANT SELECT ON chatwebhook.alert TO pg_monitor;
GRANT SELECT ON chatwebhook.activity TO pg_monitor;
GRANT SELECT ON chatwebhook.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION chatwebhook.metrics_text() TO pg_monitor;
GRANT EXECUTE ON FUNCTION chatwebhook.dashboard() TO pg_monitor;

/* Warn now if the server has not loaded the library in advance. */
CREATE FUNCTION chatwebhook._check_preload() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_check_preload'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
SELECT chatwebhook._check_preload();
DROP FUNCTION chatwebhook._check_preload();
