/*
 * Alerts.  The worker checks them after settles and sweeps; a session does when
 * it enables or deletes a webhook.
 */
CREATE FUNCTION chatwebhook._emit_but(webhook_id uuid, type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_but'
    LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._emit_but(uuid, text, text, text, jsonb) IS
    'emit(), but not to this webhook.';

CREATE FUNCTION chatwebhook._emit_to(webhook_id uuid, type text, chatbot_id text, conversation_id text, data jsonb)
    RETURNS uuid
    AS 'MODULE_PATHNAME', 'chatwebhook_emit_to'
    LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION chatwebhook._emit_to(uuid, text, text, text, jsonb) IS
    'emit() to this webhook alone, whatever it is subscribed to.';

CREATE FUNCTION chatwebhook._log_alert(webhook_name text, message text, has_ended boolean) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_log_alert'
    LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION chatwebhook._log_alert(text, text, boolean) IS
    'Writes a line about an alert into the server''s log: WARNING when it opens, LOG when it ends.';

CREATE FUNCTION chatwebhook._tell_alert(alert_id uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    a record;
BEGIN
    SELECT * INTO a FROM chatwebhook.alert WHERE id = alert_id;
    PERFORM chatwebhook._log_alert(a.webhook_name, a.message, a.closed_at IS NOT NULL);
    PERFORM chatwebhook._emit_but(a.webhook_id, 'webhook.alert', a.chatbot_id, NULL, jsonb_build_object(
        'state', CASE WHEN a.closed_at IS NULL THEN 'opened' ELSE 'closed' END,
        'alertId', a.id, 'kind', a.kind, 'message', a.message,
        'webhookId', a.webhook_id, 'webhookName', a.webhook_name,
        'openedAt', to_char(a.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'closedAt', to_char(a.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')));
EXCEPTION
    -- the alert itself must not be lost for that, nor what is being done
    WHEN OTHERS THEN
        RAISE WARNING 'could not emit webhook.alert on webhook "%": %', a.webhook_name, SQLERRM;
END
$$;
COMMENT ON FUNCTION chatwebhook._tell_alert(uuid) IS
    'Logs that an alert was opened or closed, and emits webhook.alert.';

CREATE FUNCTION chatwebhook._set_alert(hook uuid, kind text, wanted boolean, message text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    changed uuid;
BEGIN
    IF wanted THEN
        -- one that comes and goes is told of once a minute; but at a disabled
        -- webhook nothing would make us look again
        INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
        SELECT chatwebhook.uuidv7(), w.id, w.chatbot_id, w.name, kind, message, clock_timestamp()
          FROM chatwebhook.webhook w
         WHERE w.id = hook
           AND NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.webhook_id = hook AND a.kind = kind AND kind <> 'webhook_disabled'
                              AND a.closed_at > clock_timestamp() - interval '1 minute')
        ON CONFLICT DO NOTHING
        RETURNING id INTO changed;
    ELSE
        UPDATE chatwebhook.alert a SET closed_at = clock_timestamp()
         WHERE a.webhook_id = hook AND a.kind = kind AND a.closed_at IS NULL
        RETURNING a.id INTO changed;
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM chatwebhook._tell_alert(changed);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._set_alert(uuid, text, boolean, text) IS
    'Opens or closes an alert of this kind.';

CREATE FUNCTION chatwebhook._alert_failures() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('chatwebhook.alert_failures', true), ''), '5')::integer $$;
COMMENT ON FUNCTION chatwebhook._alert_failures() IS 'The setting chatwebhook.alert_failures.';

CREATE FUNCTION chatwebhook._alert_success_rate() RETURNS double precision
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('chatwebhook.alert_success_rate', true), ''), '0.9')::double precision $$;
COMMENT ON FUNCTION chatwebhook._alert_success_rate() IS 'The setting chatwebhook.alert_success_rate.';

CREATE FUNCTION chatwebhook._seconds(period text) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN lower(period) = 'infinite' THEN 'infinity'
                ELSE (regexp_match(period, E'^\\s*([0-9.]+)'))[1]::double precision
                     * CASE (regexp_match(period, E'([a-z]*)\\s*$'))[1]
                       WHEN 'd' THEN 86400 WHEN 'h' THEN 3600 WHEN 'min' THEN 60
                       WHEN 'ms' THEN 0.001 WHEN 'us' THEN 0.000001 ELSE 1 END END
$$;
COMMENT ON FUNCTION chatwebhook._seconds(text) IS 'The seconds of a setting such as 30d.';

CREATE FUNCTION chatwebhook._check_alerts(webhook_ids uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET session_replication_role = replica
    AS $$
DECLARE
    max_failures constant integer := chatwebhook._alert_failures();
    min_rate constant double precision := chatwebhook._alert_success_rate();
    patience constant double precision := chatwebhook._seconds(
        coalesce(nullif(current_setting('chatwebhook.disable_after', true), ''), '5d'));
    change   record;
BEGIN
    -- nothing but failures for too long
    UPDATE chatwebhook.webhook w
       SET enabled = false, disabled_at = clock_timestamp(), updated_at = clock_timestamp(),
           disabled_reason = format('nothing but failures for %s', current_setting('chatwebhook.disable_after', true))
      FROM chatwebhook.health h
     WHERE w.id = ANY (webhook_ids) AND h.webhook_id = w.id AND w.enabled
       AND h.consecutive_failures >= greatest(max_failures, 1)
       AND extract(epoch FROM clock_timestamp() - h.failing_since) > patience;

    FOR change IN
        SELECT w.id, k.kind, k.wanted, k.message
          FROM chatwebhook.webhook w
          JOIN chatwebhook.health h ON h.webhook_id = w.id
         CROSS JOIN LATERAL (
               SELECT count(*) AS n, avg((latency >= 0)::integer) AS rate FROM unnest(h.recent) AS latency) r
         CROSS JOIN LATERAL (VALUES
               ('consecutive_failures',
                CASE WHEN max_failures > 0 AND h.consecutive_failures >= max_failures THEN true
                     WHEN h.consecutive_failures = 0 OR max_failures = 0 THEN false END,
                format('%s attempts in a row have failed', h.consecutive_failures)),
               ('low_success_rate',
                CASE WHEN r.n >= 20 AND r.rate < min_rate THEN true
                     WHEN r.rate >= (1 + min_rate) / 2 OR min_rate = 0 THEN false END,
                format('%s %% of the last %s attempts succeeded', round(100 * r.rate), r.n)),
               ('webhook_disabled',
                CASE WHEN w.enabled THEN h.problem IS NOT NULL
                          AND EXISTS (SELECT FROM chatwebhook.queue q WHERE q.webhook_id = w.id)
                     ELSE w.disabled_at IS NOT NULL END,
                CASE WHEN w.enabled THEN 'it cannot be sent to: ' || h.problem
                     ELSE 'it was disabled: ' || w.disabled_reason END)) AS k (kind, wanted, message)
         WHERE w.id = ANY (webhook_ids)
           AND k.wanted <> EXISTS (SELECT FROM chatwebhook.alert a
                                    WHERE a.webhook_id = w.id AND a.kind = k.kind AND a.closed_at IS NULL)
         ORDER BY w.id, k.kind
    LOOP
        PERFORM chatwebhook._set_alert(change.id, change.kind, change.wanted, change.message);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_alerts(uuid[]) IS
    'Opens and closes the alerts of these webhooks as their health wants it, and disables those that have failed for too long.';

CREATE FUNCTION chatwebhook._check_backlog(webhook_ids uuid[], dues timestamptz[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    change record;
BEGIN
    FOR change IN
        SELECT w.id, true AS wanted,
               format('a delivery has been due for %s s and is not sent',
                      round(extract(epoch FROM clock_timestamp() - b.due))) AS message
          FROM unnest(webhook_ids, dues) AS b (id, due)
          JOIN chatwebhook.webhook w ON w.id = b.id AND w.enabled
         WHERE NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.webhook_id = b.id AND a.kind = 'backlog' AND a.closed_at IS NULL)
        UNION ALL
        SELECT a.webhook_id, false, NULL
          FROM chatwebhook.alert a
         WHERE a.kind = 'backlog' AND a.closed_at IS NULL
           AND NOT EXISTS (SELECT FROM chatwebhook.webhook w
                            WHERE w.id = a.webhook_id AND w.enabled AND w.id = ANY (webhook_ids))
         ORDER BY 1
    LOOP
        PERFORM chatwebhook._set_alert(change.id, 'backlog', change.wanted, change.message);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_backlog(uuid[], timestamptz[]) IS
    'Opens the alerts of these webhooks, which have had something due since then, and closes those of others.';
