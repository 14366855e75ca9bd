/*
 * Privileges: what PUBLIC and pg_monitor get, and functions that grant the rest.
 */

/*
 * Who was granted what.  The triggers grant, create the policies with
 * _create_policy(), which access.sql explains, and take both back; pg_dump dumps
 * the rows, and a restore of them creates the policies.
 */
CREATE TABLE chatwebhook.grantee (
    role   regrole NOT NULL,
    access text NOT NULL CHECK (access OPERATOR(pg_catalog.=) ANY ('{admin,reader,app}'::pg_catalog.text[])),
    PRIMARY KEY (role, access)
);
COMMENT ON TABLE chatwebhook.grantee IS
    'Roles with access. grant_admin(), grant_reader(), grant_app() and revoke_access() write it.';
COMMENT ON COLUMN chatwebhook.grantee.role IS 'The role, even if it is renamed.';
COMMENT ON COLUMN chatwebhook.grantee.access IS 'admin, reader or app.';
/*
 * Not dumped: a role whose policies were dropped, by DROP OWNED, as before DROP
 * ROLE.  In the dump it would be a number, which may be another role's where the
 * dump is restored.
 */
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.grantee', $where$WHERE EXISTS (
    SELECT FROM pg_catalog.pg_policy p
     WHERE p.polrelid = 'chatwebhook.webhook'::pg_catalog.regclass
       AND p.polname = pg_catalog.concat(access, '_', role::pg_catalog.oid))$where$);

CREATE FUNCTION chatwebhook._privileges(access text) RETURNS SETOF text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.privilege
      FROM (VALUES
        ('USAGE ON SCHEMA chatwebhook', '{admin,reader,app}'::text[]),
        ('SELECT, INSERT, UPDATE, DELETE ON chatwebhook.webhook', '{admin,app}'),
        ('SELECT (id, name, chatbot_id, public_url, connector, events, filter, enabled, disabled_at, disabled_reason, created_at, updated_at) ON chatwebhook.webhook', '{reader}'),
        ('SELECT, INSERT, UPDATE, DELETE ON chatwebhook.event_type', '{admin}'),
        ('SELECT ON chatwebhook.event_type', '{app}'),
        ('EXECUTE ON FUNCTION chatwebhook.openapi', '{admin,app}'),
        ('SELECT, INSERT, UPDATE, DELETE ON chatwebhook.connector', '{admin}'),
        ('SELECT ON chatwebhook.connector', '{app}'),
        ('SELECT ON chatwebhook.event', '{admin,app}'),
        ('SELECT (id, type, chatbot_id, conversation_id, created_at, first_delivery) ON chatwebhook.event', '{reader}'),
        ('SELECT ON chatwebhook.outbox_slot', '{admin,reader}'),
        ('SELECT ON chatwebhook.outbox_status', '{admin,reader}'),
        ('EXECUTE ON FUNCTION chatwebhook.confirm_copy', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.forget_slot', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.ignore_slot', '{admin}'),
        ('SELECT (id, webhook_id, event_id, created_at, next_attempt_at, last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id, conversation_id, last_error, deliver_at, expires_at) ON chatwebhook.queue', '{admin,reader,app}'),
        ('SELECT (id, webhook_id, event_id, created_at, completed_at, last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id, webhook_name, status, last_error) ON chatwebhook.history', '{admin,reader,app}'),
        ('SELECT (id, webhook_id, event_id, created_at, completed_at, last_attempt_at, attempts, latency_ms, last_status_code, chatbot_id, webhook_name, status, last_error) ON chatwebhook.dead', '{admin,reader,app}'),
        ('SELECT ON chatwebhook.delivery', '{admin,reader,app}'),
        ('SELECT ON chatwebhook.dead_letter', '{admin,app}'),
        ('SELECT ON chatwebhook.attempt', '{admin,app}'),
        ('SELECT ON chatwebhook.memory', '{admin,app}'),
        ('SELECT ON chatwebhook.health', '{admin,reader,app}'),
        ('SELECT ON chatwebhook.webhook_health', '{admin,reader,app}'),
        ('SELECT ON chatwebhook.alert', '{admin,reader,app}'),
        ('SELECT ON chatwebhook.metrics', '{admin,reader,app}'),
        ('SELECT ON chatwebhook.activity', '{admin,reader}'),
        ('SELECT ON chatwebhook.worker_status', '{admin,reader}'),
        ('SELECT ON chatwebhook.grantee', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.metrics_text', '{admin,reader,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.dashboard', '{admin,reader,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.emit()', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.emit(text, text, text, jsonb, timestamptz, timestamptz, text)', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.wanted', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.watch', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook._forget_failures', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.check_watches', '{admin}'),
        ('SELECT ON chatwebhook.watched', '{admin}'),
        ('SELECT ON chatwebhook.emit_failure', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.unwatch', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.backfill', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook._emit_to', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.wait_until_idle', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.adopt', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.sign(text, text)', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.sign(text, timestamptz, text, text)', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.verify(text, text, text)', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.verify(jsonb, text, text, interval)', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.grant_admin', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.grant_reader', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.grant_app', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.revoke_access', '{admin}'),
        ('EXECUTE ON FUNCTION chatwebhook.create_webhook', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._set_signing_secret', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.test_webhook', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.preview', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._preview', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.secret', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.public_key', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.rotate_secret', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.set_credential', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.resume', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.retry', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.cancel', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.retry_dead', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.replay', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.purge_dead_letters', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.erase_conversation', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._requeue', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._cancel', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._purge', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._erase', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook._forget', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.cloudevents', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.discord', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.hubspot', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.pagerduty', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.salesforce', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.slack', '{admin,app}'),
        ('EXECUTE ON FUNCTION chatwebhook.zendesk', '{admin,app}')
           ) AS p (privilege, accesses)
     WHERE access = ANY (p.accesses)
$$;
COMMENT ON FUNCTION chatwebhook._privileges(text) IS
    'Returns what GRANT and REVOKE name for a kind of access.';

CREATE FUNCTION chatwebhook._create_policy(policy text, role name, access text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- in a subquery, so that it is computed once
    chatbot constant text := $condition$chatbot_id = (SELECT NULLIF(pg_catalog.current_setting('chatwebhook.chatbot', true), ''))$condition$;
    webhook constant text := 'webhook_id IN (SELECT w.id FROM chatwebhook.webhook w)';
    part    record;
BEGIN
    FOR part IN SELECT relation, condition
                  FROM (VALUES ('webhook', chatbot),
                               ('event', chatbot),
                               ('alert', chatbot),
                               ('queue', chatbot || ' AND ' || webhook),
                               ('history', chatbot || ' AND ' || webhook),
                               ('dead', chatbot || ' AND ' || webhook),
                               ('attempt', chatbot || ' AND ' || webhook),
                               ('memory', chatbot || ' AND ' || webhook),
                               ('health', webhook)) AS p (relation, condition) LOOP
        EXECUTE format('CREATE POLICY %I ON chatwebhook.%I FOR %s TO %I USING (%s)', policy, part.relation,
                       CASE WHEN access IN ('admin', 'app') THEN 'ALL' ELSE 'SELECT' END, role,
                       CASE access WHEN 'app' THEN part.condition ELSE 'true' END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._create_policy(text, name, text) IS
    'Creates the policies by which a role with this access sees rows.';

CREATE FUNCTION chatwebhook._grant() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    who       name;
    policy    text;
    privilege text;
    relation  name;
BEGIN
    -- CREATE POLICY would take these locks anyway; take them in emit's order, to
    -- avoid deadlocks with chats
    LOCK TABLE chatwebhook.queue, chatwebhook.event, chatwebhook.history, chatwebhook.dead,
               chatwebhook.attempt, chatwebhook.memory, chatwebhook.health, chatwebhook.alert,
               chatwebhook.webhook
            IN ACCESS EXCLUSIVE MODE;
    IF TG_OP <> 'DELETE' THEN
        SELECT r.rolname INTO who FROM pg_roles r WHERE r.oid = NEW.role;
        IF NOT FOUND THEN
            -- an edited dump can name a role by a number that is nobody's here
            RAISE WARNING 'role % does not exist and was granted nothing', NEW.role::oid;
            RETURN NULL;
        END IF;
        FOR privilege IN SELECT p FROM chatwebhook._privileges(NEW.access) AS p LOOP
            EXECUTE format('GRANT %s TO %I', privilege, who);
        END LOOP;
        policy := format('%s_%s', NEW.access, NEW.role::oid);
        -- pg_upgrade brings the policies as well
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polname = policy AND p.polrelid = 'chatwebhook.webhook'::regclass) THEN
            PERFORM chatwebhook._create_policy(policy, who, NEW.access);
        END IF;
        RETURN NEW;
    END IF;

    policy := format('%s_%s', OLD.access, OLD.role::oid);
    FOR relation IN SELECT c.relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                     WHERE p.polname = policy AND c.relnamespace = 'chatwebhook'::regnamespace LOOP
        EXECUTE format('DROP POLICY %I ON chatwebhook.%I', policy, relation);
    END LOOP;
    SELECT r.rolname INTO who FROM pg_roles r WHERE r.oid = OLD.role;
    IF FOUND THEN
        -- another kind of access may include the same privilege
        FOR privilege IN SELECT p FROM chatwebhook._privileges(OLD.access) AS p
                         EXCEPT
                         SELECT p FROM chatwebhook.grantee g, chatwebhook._privileges(g.access) AS p
                          WHERE g.role = OLD.role LOOP
            EXECUTE format('REVOKE %s FROM %I', privilege, who);
        END LOOP;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._grant() IS
    'Trigger: grants a role what the row says, or revokes it.';

CREATE TRIGGER granted BEFORE INSERT ON chatwebhook.grantee
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._grant();
CREATE TRIGGER revoked AFTER DELETE ON chatwebhook.grantee
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._grant();

CREATE FUNCTION chatwebhook._add_grantee(role name, access text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    id oid;
BEGIN
    SELECT r.oid INTO id FROM pg_roles r WHERE r.rolname = role;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object';
    END IF;
    -- revoke_access() would take from these what they have without it
    IF role = 'pg_monitor' OR id = (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'chatwebhook') THEN
        RAISE EXCEPTION 'role "%" has access of its own', role
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Grant access to another role.';
    END IF;
    -- anew, so that privileges and policies are there even if they were dropped
    DELETE FROM chatwebhook.grantee g
     WHERE g.role = id AND g.access = access
        OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role);
    INSERT INTO chatwebhook.grantee (role, access) VALUES (id, access);
END
$$;
COMMENT ON FUNCTION chatwebhook._add_grantee(name, text) IS
    'Grants a role a kind of access, and forgets roles that were dropped.';

/*
 * While one of these waits for its table locks, every chat queues behind it.  So
 * give up soon.
 */
CREATE FUNCTION chatwebhook.grant_admin(role name) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
    AS $$
    SELECT chatwebhook._add_grantee(role, 'admin')
$$;
COMMENT ON FUNCTION chatwebhook.grant_admin(name) IS
    'Lets a role manage all webhooks, event types and connectors, watch tables, read events and deliveries, see signing secrets, and grant access to others.';

CREATE FUNCTION chatwebhook.grant_reader(role name) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
    AS $$
    SELECT chatwebhook._add_grantee(role, 'reader')
$$;
COMMENT ON FUNCTION chatwebhook.grant_reader(name) IS
    'Lets a role see deliveries, health and workers, for monitoring, but no chats or secrets.';

CREATE FUNCTION chatwebhook.grant_app(role name) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
    AS $$
    SELECT chatwebhook._add_grantee(role, 'app')
$$;
COMMENT ON FUNCTION chatwebhook.grant_app(name) IS
    'Lets a role, which an application''s server shares among its customers, manage the webhooks of the chatbot that the setting chatwebhook.chatbot names, and see its events, deliveries and signing secrets. While that is not set, it sees nothing.';

CREATE FUNCTION chatwebhook.revoke_access(role name) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
    AS $$
    DELETE FROM chatwebhook.grantee g USING pg_roles r
     WHERE r.rolname = revoke_access.role AND g.role = r.oid
$$;
COMMENT ON FUNCTION chatwebhook.revoke_access(name) IS
    'Takes back what grant_admin(), grant_reader() and grant_app() granted a role. Do that before you drop the role, or use DROP OWNED.';

/*
 * Revoke what PUBLIC has by default: functions here read other people's chats,
 * send requests and show secrets.  A trigger function needs no grant to fire, so
 * a role that changes a watched table needs none.
 */
REVOKE ALL ON ALL TABLES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA chatwebhook FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chatwebhook FROM PUBLIC;

/*
 * Views, defaults and triggers call these with the rights of the role that uses
 * them.
 */
GRANT EXECUTE ON FUNCTION chatwebhook._setting(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._to_jsonb(anyelement) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._redact(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._encrypts() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._sending(uuid[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._filter_problem(jsonpath) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._workers() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._copy_problem() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._outbox_slots() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._count_deliveries(uuid[], text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._check_connector_access(text) TO PUBLIC;

/* So do functions that run with the rights of their caller. */
GRANT EXECUTE ON FUNCTION chatwebhook._check_webhook_access(uuid) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._act(text, bigint[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._parts(anyarray) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._progress(text, bigint, bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._secret_problem(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._signing_secret_problem(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._public_key(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_age(timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_alerts(chatwebhook.alert[], chatwebhook.webhook_health[], jsonb) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_backlog(chatwebhook.webhook_health[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_dead_letters(chatwebhook.webhook_health[], numeric) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_emit_failures() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_failures(chatwebhook.webhook_health[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_head(integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_link(uuid, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_notices(chatwebhook.webhook_health[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_number(numeric, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_outbox() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_reply(bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_table(text, text, text[], text[], text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_text(text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_throughput(chatwebhook.activity[], timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_webhooks(chatwebhook.webhook_health[], text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._dashboard_workers() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._watch_label(regclass, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook.uuidv7() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._rebase_schema(jsonb, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._api_name(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._api_data(jsonb, text[], text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._api_schemas(text, text[], jsonb, jsonb) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._api_parts() TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._api_webhook(text, jsonb, jsonb) TO PUBLIC;

/* And these, of watch(), unwatch(), backfill() and the view watched. */
GRANT EXECUTE ON FUNCTION chatwebhook._watch_name(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._watch_statements(regclass, text, jsonb, text, text, text, boolean, boolean, text, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._mapping(regclass, jsonb) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._mapping_query(regclass, jsonb, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._select(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._citus_method(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._check_watched_relation(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._condition_is_harmless(oid) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._explain_missing(regclass, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._watch_details(oid, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._check_watch(text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._missing_key(text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._watch_warnings(oid, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._watches(regclass, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._query_view(name, regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._backfill_statement(uuid, text, boolean, regclass, text, jsonb, text, text, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._watch_operation(smallint, regclass, int2vector) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook._matches(text[], text) TO PUBLIC;

/* Authors of connectors call these. */
GRANT EXECUTE ON FUNCTION chatwebhook.cut(text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook.url_encode(text) TO PUBLIC;

/* Monitoring sees figures, and no chats. */
GRANT USAGE ON SCHEMA chatwebhook TO pg_monitor;
GRANT SELECT (id, name, chatbot_id, public_url, filter, enabled, disabled_at, disabled_reason) ON chatwebhook.webhook TO pg_monitor;
GRANT SELECT (id, webhook_id, event_id, created_at, next_attempt_at, last_attempt_at, attempts, last_status_code, last_error, deliver_at) ON chatwebhook.queue TO pg_monitor;
GRANT SELECT (id, webhook_id, event_id, completed_at, last_attempt_at, attempts, last_status_code, webhook_name, last_error) ON chatwebhook.dead TO pg_monitor;
GRANT SELECT (id, type, created_at, first_delivery) ON chatwebhook.event TO pg_monitor;
GRANT SELECT ON chatwebhook.outbox_slot TO pg_monitor;
GRANT SELECT ON chatwebhook.outbox_status TO pg_monitor;
GRANT SELECT ON chatwebhook.health TO pg_monitor;
GRANT SELECT ON chatwebhook.webhook_health TO pg_monitor;
GRANT SELECT ON chatwebhook.worker_status TO pg_monitor;
GRANT SELECT ON chatwebhook.alert TO pg_monitor;
GRANT SELECT ON chatwebhook.activity TO pg_monitor;
GRANT SELECT ON chatwebhook.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION chatwebhook.metrics_text() TO pg_monitor;
GRANT EXECUTE ON FUNCTION chatwebhook.dashboard(integer) TO pg_monitor;
SELECT chatwebhook._create_policy('monitor', 'pg_monitor', 'monitor');

/* Warn now if the server has not loaded the library in advance. */
CREATE FUNCTION chatwebhook._check_preload() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_check_preload'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
SELECT chatwebhook._check_preload();
DROP FUNCTION chatwebhook._check_preload();
