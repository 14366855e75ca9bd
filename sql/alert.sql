/*
 * What an operator should see to.  The worker opens and closes them.
 */
CREATE TABLE chatwebhook.alert (
    id           uuid PRIMARY KEY,
    webhook_id   uuid NOT NULL,
    chatbot_id   text,
    webhook_name text NOT NULL,
    kind         text NOT NULL,
    message      text NOT NULL,
    opened_at    timestamptz NOT NULL,
    closed_at    timestamptz
);
CREATE UNIQUE INDEX alert_open_idx ON chatwebhook.alert (webhook_id, kind) WHERE closed_at IS NULL;
CREATE INDEX alert_webhook_idx ON chatwebhook.alert (webhook_id, kind, closed_at);
COMMENT ON TABLE chatwebhook.alert IS
    'Trouble with webhooks, from its beginning to its end; at most one open for each webhook and kind. Opening and closing emit webhook.alert to the other webhooks.';
COMMENT ON COLUMN chatwebhook.alert.id IS 'Identifies the alert; its webhook.alert events have it as alertId.';
COMMENT ON COLUMN chatwebhook.alert.webhook_id IS 'The webhook in trouble.';
COMMENT ON COLUMN chatwebhook.alert.chatbot_id IS 'That webhook''s chatbot; null: it serves every chatbot.';
COMMENT ON COLUMN chatwebhook.alert.webhook_name IS 'That webhook''s name, as it was then.';
COMMENT ON COLUMN chatwebhook.alert.kind IS
    'consecutive_failures: at least chatwebhook.alert_failures attempts in a row failed, until one succeeds; low_success_rate: of the last 100 attempts, and at least 20, fewer than chatwebhook.alert_success_rate succeeded, until it is half-way between that and 1; webhook_disabled: the extension disabled it, until it is enabled, or it cannot be sent to, as webhook_health.problem says, and something waits for it; backlog: a delivery was due more than chatwebhook.alert_backlog ago and is not sent, until none is.';
COMMENT ON COLUMN chatwebhook.alert.message IS 'What is wrong, for people.';
COMMENT ON COLUMN chatwebhook.alert.opened_at IS 'When it began.';
COMMENT ON COLUMN chatwebhook.alert.closed_at IS 'When it ended; null: it goes on.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.alert', '');
ALTER TABLE chatwebhook.alert ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON chatwebhook.alert USING (
        (SELECT chatwebhook._chatbots()) IS NULL
        OR chatbot_id OPERATOR(pg_catalog.=) ANY ((SELECT chatwebhook._chatbots())::text[]));

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
