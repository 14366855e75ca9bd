/*
 * Alerts: what an operator should attend to.  Workers check for them after
 * settling and when they read the whole queue; a session does when it enables,
 * disables or deletes a webhook.
 *
 * They read _webhook, so as not to wait for somebody who locks webhook, and wait
 * for no row that somebody has locked: it is checked again later.
 *
 * What they have to say is for the operator: it goes to the log, and never to the
 * client of a session.
 */
CREATE TABLE chatwebhook.alert (
    id           uuid PRIMARY KEY,
    webhook_id   uuid,
    chatbot_id   text,
    webhook_name text,
    watch        text,
    kind         text NOT NULL,
    message      text NOT NULL,
    opened_at    timestamptz NOT NULL,
    closed_at    timestamptz,
    CHECK ((webhook_id IS NULL) OPERATOR(pg_catalog.<>) (watch IS NULL))
);
CREATE UNIQUE INDEX alert_open_idx ON chatwebhook.alert (webhook_id, kind) WHERE closed_at IS NULL;
CREATE UNIQUE INDEX alert_watch_idx ON chatwebhook.alert (watch) WHERE closed_at IS NULL AND watch IS NOT NULL;
CREATE INDEX alert_webhook_idx ON chatwebhook.alert (webhook_id, kind, closed_at);
COMMENT ON TABLE chatwebhook.alert IS
    'Alerts about webhooks, watches and the outbox, open and closed. At most one of each kind is open for a webhook. Opening or closing an alert emits webhook.alert to the other webhooks that subscribe to webhook.alert or webhook.*, except to those that are failing themselves.';
COMMENT ON COLUMN chatwebhook.alert.id IS 'Identifies the alert. Its webhook.alert events have it as alertId.';
COMMENT ON COLUMN chatwebhook.alert.webhook_id IS 'Webhook that the alert is about; null if it is about a watch.';
COMMENT ON COLUMN chatwebhook.alert.chatbot_id IS 'Chatbot of that webhook; null if it serves every chatbot.';
COMMENT ON COLUMN chatwebhook.alert.webhook_name IS 'Name of that webhook at that time.';
COMMENT ON COLUMN chatwebhook.alert.watch IS
    'Trigger and table that the alert is about, or "outbox"; null if it is about a webhook.';
COMMENT ON COLUMN chatwebhook.alert.kind IS
    'emit_failed: a trigger could not emit an event, see emit_failure, closed when the watch is changed or has not failed for an hour; consecutive_failures: at least chatwebhook.alert_failures attempts in a row failed, closed by a success; low_success_rate: less than chatwebhook.alert_success_rate of the last 100 attempts (at least 20) succeeded, closed when the rate is halfway from there to 1; webhook_disabled: the extension disabled it, or deliveries wait but nothing can be sent, as webhook_health.problem says, closed when it is enabled or the problem is gone; backlog: a delivery has been due for longer than chatwebhook.alert_backlog, closed when none has; outbox_backlog: events have waited for longer than chatwebhook.alert_backlog for the delivery nodes of an outbox, or for a transaction to end, closed when all nodes have confirmed them.';
COMMENT ON COLUMN chatwebhook.alert.message IS 'Description of the trouble, for people.';
COMMENT ON COLUMN chatwebhook.alert.opened_at IS 'When it was opened.';
COMMENT ON COLUMN chatwebhook.alert.closed_at IS 'When it was closed; null while it is open.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.alert', '');

CREATE FUNCTION chatwebhook._log_alert(subject text, message text, has_ended boolean) RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_log_alert'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._log_alert(text, text, boolean) IS
    'Logs an alert: a WARNING when it opens, a LOG message when it closes.';

CREATE FUNCTION chatwebhook._failing_webhooks(webhook_ids uuid[]) RETURNS uuid[]
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(array_agg(h.webhook_id), '{}')
      FROM chatwebhook.health h
     WHERE h.webhook_id = ANY (webhook_ids)
       AND (h.problem IS NOT NULL
            OR (h.consecutive_failures >= coalesce(nullif(chatwebhook._setting('chatwebhook.alert_failures')::integer, 0), 5)
                OR h.last_success_at IS NULL AND h.failures > 0
                OR EXISTS (SELECT FROM chatwebhook._all_gates() g WHERE g.webhook_id = h.webhook_id))
               -- one that gets nothing but alerts could not show otherwise that it works again
               AND (h.last_failure_at > clock_timestamp() - interval '1 minute'
                    OR EXISTS (SELECT FROM chatwebhook.queue q WHERE q.webhook_id = h.webhook_id)))
$$;
COMMENT ON FUNCTION chatwebhook._failing_webhooks(uuid[]) IS
    'Returns those of these webhooks that are failing themselves, or cannot be sent to. An alert would not arrive there, and its failure would lead to more alerts.';

CREATE FUNCTION chatwebhook._announce_alert(changed chatwebhook.alert) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica SET client_min_messages = error
    AS $$
DECLARE
    is_open constant boolean := changed.closed_at IS NULL;
    subject constant text := coalesce('webhook "' || changed.webhook_name || '"', CASE changed.kind WHEN 'outbox_backlog' THEN 'the outbox' ELSE 'watch "' || changed.watch || '"' END);
BEGIN
    PERFORM chatwebhook._log_alert(subject, changed.message, NOT is_open);
    -- if this fails, keep the alert, and what the transaction was doing
    BEGIN
        PERFORM chatwebhook._emit_but(array_append(chatwebhook._failing_webhooks(chatwebhook._subscribers('webhook.alert', changed.chatbot_id)), changed.webhook_id),
            'webhook.alert', changed.chatbot_id, NULL, jsonb_build_object(
            'state', CASE WHEN is_open THEN 'opened' ELSE 'closed' END,
            'alertId', changed.id, 'kind', changed.kind, 'message', changed.message,
            'openedAt', to_char(changed.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            'closedAt', to_char(changed.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
            || CASE WHEN changed.watch IS NULL THEN jsonb_build_object('webhookId', changed.webhook_id, 'webhookName', changed.webhook_name)
                    ELSE jsonb_build_object('watch', changed.watch) END);
    EXCEPTION
        WHEN OTHERS THEN
            RAISE WARNING 'could not emit webhook.alert about %: %', subject, SQLERRM;
    END;
END
$$;
COMMENT ON FUNCTION chatwebhook._announce_alert(chatwebhook.alert) IS
    'An alert was opened or closed: logs that, and emits webhook.alert.';

CREATE FUNCTION chatwebhook._set_alert(hook uuid, kind text, wanted boolean, message text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    changed chatwebhook.alert;
BEGIN
    IF wanted THEN
        -- an alert that comes and goes opens at most once a minute; not so a
        -- disabled webhook's, which nothing would check again
        INSERT INTO chatwebhook.alert AS a (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
        SELECT chatwebhook.uuidv7(), w.id, w.chatbot_id, w.name, kind, coalesce(message, kind), clock_timestamp()
          FROM chatwebhook._webhook w
         WHERE w.id = hook
           AND NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.webhook_id = hook AND a.kind = kind AND kind <> 'webhook_disabled'
                              AND a.closed_at > clock_timestamp() - interval '1 minute')
        ON CONFLICT DO NOTHING
        RETURNING a.* INTO changed;
    ELSE
        UPDATE chatwebhook.alert a SET closed_at = clock_timestamp()
         WHERE a.webhook_id = hook AND a.kind = kind AND a.closed_at IS NULL
        RETURNING a.* INTO changed;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM chatwebhook._announce_alert(changed);
END
$$;
COMMENT ON FUNCTION chatwebhook._set_alert(uuid, text, boolean, text) IS
    'Opens or closes an alert of this kind, unless it is open or closed already, and announces that.';

CREATE FUNCTION chatwebhook._check_alerts_together(webhook_ids uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' SET session_replication_role = replica
    AS $$
DECLARE
    max_failures  constant integer := chatwebhook._setting('chatwebhook.alert_failures');
    min_rate      constant double precision := chatwebhook._setting('chatwebhook.alert_success_rate');
    disable_after constant text := chatwebhook._setting('chatwebhook.disable_after');
    change        record;
BEGIN
    IF disable_after <> '-1' THEN
        PERFORM chatwebhook._disable(w.id, format('every attempt failed for %s', disable_after))
           FROM chatwebhook._webhook w
           JOIN chatwebhook.health h ON h.webhook_id = w.id
          WHERE w.id = ANY (webhook_ids) AND w.enabled
            AND h.consecutive_failures >= greatest(max_failures, 1)
            AND clock_timestamp() - h.failing_since > disable_after::interval;
    END IF;

    FOR change IN
        SELECT w.id, k.kind, k.wanted, k.message
          FROM chatwebhook._webhook w
          JOIN chatwebhook.health h ON h.webhook_id = w.id
         CROSS JOIN LATERAL (
               SELECT count(*) AS n, avg((latency >= 0)::integer) AS rate FROM unnest(h.recent) AS latency) r
         CROSS JOIN LATERAL (VALUES
               ('consecutive_failures',
                CASE WHEN max_failures > 0 AND h.consecutive_failures >= max_failures THEN true
                     WHEN h.consecutive_failures = 0 OR max_failures = 0 THEN false END,
                format('the last %s attempts failed', h.consecutive_failures)),
               ('low_success_rate',
                CASE WHEN r.n >= 20 AND r.rate < min_rate THEN true
                     WHEN r.rate >= (1 + min_rate) / 2 OR min_rate = 0 THEN false END,
                format('only %s%% of the last %s attempts succeeded', round(100 * r.rate), r.n)),
               ('webhook_disabled',
                CASE WHEN w.enabled THEN h.problem IS NOT NULL
                          AND EXISTS (SELECT FROM chatwebhook.queue q WHERE q.webhook_id = w.id)
                     ELSE w.disabled_at IS NOT NULL END,
                CASE WHEN w.enabled THEN 'nothing can be sent: ' || h.problem
                     ELSE 'it was disabled: ' || coalesce(w.disabled_reason, 'no reason is known') END)) AS k (kind, wanted, message)
         WHERE w.id = ANY (webhook_ids)
           AND k.wanted <> EXISTS (SELECT FROM chatwebhook.alert a
                                    WHERE a.webhook_id = w.id AND a.kind = k.kind AND a.closed_at IS NULL)
         ORDER BY w.id, k.kind
    LOOP
        PERFORM chatwebhook._set_alert(change.id, change.kind, change.wanted, change.message);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_alerts_together(uuid[]) IS
    'Opens and closes alerts according to the health of these webhooks, and disables those that have failed for too long.';

CREATE FUNCTION chatwebhook._check_alerts(webhook_ids uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica SET client_min_messages = error
    AS $$
DECLARE
    hook   uuid;
    locked uuid[] := '{}';
BEGIN
    BEGIN
        PERFORM chatwebhook._check_alerts_together(webhook_ids);
        RETURN locked;
    EXCEPTION
        WHEN OTHERS THEN
            -- find out which one it is
    END;
    FOREACH hook IN ARRAY webhook_ids LOOP
        BEGIN
            PERFORM chatwebhook._check_alerts_together(ARRAY[hook]);
        EXCEPTION
            WHEN OTHERS THEN
                RAISE WARNING 'could not check the alerts of webhook "%": %',
                              coalesce((SELECT w.name FROM chatwebhook._webhook w WHERE w.id = hook), hook::text), SQLERRM;
                IF SQLSTATE IN ('55P03', '40P01', '40001') THEN
                    locked := locked || hook;
                END IF;
        END;
    END LOOP;
    RETURN locked;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_alerts(uuid[]) IS
    'Checks the alerts of these webhooks; if that fails, checks each by itself. Returns those whose rows were locked, to be checked again.';

/*
 * Events about dead letters and recovered webhooks.  Like alerts, they go to other
 * webhooks, but to none that is failing itself.
 */
CREATE FUNCTION chatwebhook._announce(hook uuid, type text, data jsonb[]) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    subject record;
    others  uuid[];
BEGIN
    SELECT w.name, w.chatbot_id, jsonb_build_object('webhookId', w.id, 'webhookName', w.name) AS data INTO subject
      FROM chatwebhook._webhook w WHERE w.id = hook;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    others := array_append(chatwebhook._failing_webhooks(chatwebhook._subscribers(type, subject.chatbot_id)), hook);
    FOR i IN 1 .. cardinality(data) LOOP
        PERFORM chatwebhook._emit_but(others, type, subject.chatbot_id, NULL, subject.data || data[i]);
    END LOOP;
EXCEPTION
    WHEN OTHERS THEN
        RAISE WARNING 'could not emit % about webhook "%": %', type, subject.name, SQLERRM;
END
$$;
COMMENT ON FUNCTION chatwebhook._announce(uuid, text, jsonb[]) IS
    'Emits events of this type about a webhook, with the webhook''s chatbot.';

CREATE FUNCTION chatwebhook._announce_exhausted(
    delivery_ids bigint[], event_ids uuid[], event_types text[], attempts integer[],
    status_codes integer[], errors text[], webhook_id uuid, others bigint) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT chatwebhook._announce(webhook_id, 'webhook.exhausted', array_agg(jsonb_build_object(
               'deliveryId', d.id::text, 'eventId', d.event_id, 'eventType', d.event_type,
               'attempts', d.attempts, 'lastStatusCode', d.status_code, 'lastError', d.error,
               'others', CASE WHEN d.n = cardinality(delivery_ids) THEN others ELSE 0 END) ORDER BY d.n))
      FROM unnest(delivery_ids, event_ids, event_types, attempts, status_codes, errors)
           WITH ORDINALITY AS d (id, event_id, event_type, attempts, status_code, error, n)
     -- erase_conversation() may have removed it meanwhile
     WHERE EXISTS (SELECT FROM chatwebhook.event e WHERE e.id = d.event_id)
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION chatwebhook._announce_exhausted(bigint[], uuid[], text[], integer[], integer[], text[], uuid, bigint) IS
    'Emits webhook.exhausted about each of these deliveries of a webhook. The last event says how many others have become dead letters.';

CREATE FUNCTION chatwebhook._announce_recovered(webhook_id uuid, failing_since timestamptz, failures bigint) RETURNS void
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT chatwebhook._announce(webhook_id, 'webhook.recovered', ARRAY[jsonb_build_object(
               'failingSince', CASE WHEN isfinite(failing_since)
                   THEN to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END,
               'failures', failures, 'lastError',
               -- quoted text may be personal, and erase_conversation() would not find it here
               (SELECT rtrim(split_part(h.last_error, '"', 1), ' ,') FROM chatwebhook.health h
                 WHERE h.webhook_id = _announce_recovered.webhook_id))])
$$;
COMMENT ON FUNCTION chatwebhook._announce_recovered(uuid, timestamptz, bigint) IS
    'Emits webhook.recovered about a webhook that had failed so many times since failing_since, or since an unknown time if that is -infinity.';

/*
 * A worker must be able to disable a webhook whatever its row holds, so no trigger
 * checks that again.
 */
CREATE FUNCTION chatwebhook._disable(webhook_id uuid, reason text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
BEGIN
    BEGIN
        LOCK TABLE chatwebhook.webhook IN ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION
        WHEN lock_not_available THEN
            RETURN false;
    END;
    PERFORM FROM chatwebhook.webhook w WHERE w.id = webhook_id FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE chatwebhook.webhook w
       SET enabled = false, disabled_at = clock_timestamp(), disabled_reason = reason,
           updated_at = clock_timestamp()
     WHERE w.id = webhook_id;
    PERFORM chatwebhook._check_alerts(ARRAY[webhook_id]);
    PERFORM chatwebhook._wake(webhook_id);
    RETURN true;
END
$$;
COMMENT ON FUNCTION chatwebhook._disable(uuid, text) IS
    'Disables a webhook and opens its alert. False if the webhook does not exist, or another transaction has locked it.';

CREATE FUNCTION chatwebhook._check_backlog(webhook_ids uuid[], dues timestamptz[]) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms'
    AS $$
DECLARE
    change record;
BEGIN
    FOR change IN
        SELECT w.id, 'backlog' AS kind, true AS wanted,
               format('a delivery has been due for %s s',
                      round(extract(epoch FROM clock_timestamp() - b.due))) AS message
          FROM unnest(webhook_ids, dues) AS b (id, due)
          JOIN chatwebhook._webhook w ON w.id = b.id AND w.enabled
         WHERE NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.webhook_id = b.id AND a.kind = 'backlog' AND a.closed_at IS NULL)
        UNION ALL
        -- any alert that was opened while its webhook was being deleted, too
        SELECT a.webhook_id, a.kind, false, NULL
          FROM chatwebhook.alert a
         WHERE a.webhook_id IS NOT NULL AND a.closed_at IS NULL
           AND NOT EXISTS (SELECT FROM chatwebhook._webhook w
                            WHERE w.id = a.webhook_id
                              AND (a.kind <> 'backlog' OR w.enabled AND w.id = ANY (webhook_ids)))
         ORDER BY 1
    LOOP
        BEGIN
            PERFORM chatwebhook._set_alert(change.id, change.kind, change.wanted, change.message);
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
                NULL;   -- the next sweep tries again
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_backlog(uuid[], timestamptz[]) IS
    'Opens backlog alerts of these webhooks, which have had a delivery due since then, and closes those of all others and every alert of a deleted webhook.';
