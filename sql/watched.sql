/*
 * What is watched, and events that could not be emitted.
 *
 * Sessions count those in shared memory (src/emit_failure.c); a worker writes
 * them here, and opens alerts.
 */
CREATE TABLE chatwebhook.emit_failure (
    relation     regclass NOT NULL,
    trigger_name name NOT NULL,
    event_type   text NOT NULL,
    message      text NOT NULL,
    failures     bigint NOT NULL,
    first_at     timestamptz NOT NULL,
    last_at      timestamptz NOT NULL,
    example      text,
    PRIMARY KEY (relation, trigger_name, message)
);
COMMENT ON TABLE chatwebhook.emit_failure IS
    'Events that triggers could not emit, counted by trigger and message; see chatwebhook.on_emit_error. A row is removed when its watch is changed by watch() or unwatch(), or after chatwebhook.retention.';
COMMENT ON COLUMN chatwebhook.emit_failure.relation IS 'Table that is watched.';
COMMENT ON COLUMN chatwebhook.emit_failure.trigger_name IS 'Name of the trigger.';
COMMENT ON COLUMN chatwebhook.emit_failure.event_type IS 'Type of the event.';
COMMENT ON COLUMN chatwebhook.emit_failure.message IS
    'Why the event could not be emitted, without values of the row. The server log has the complete message.';
COMMENT ON COLUMN chatwebhook.emit_failure.failures IS 'Number of rows for which this happened, including those of transactions that were rolled back.';
COMMENT ON COLUMN chatwebhook.emit_failure.first_at IS 'When this first happened.';
COMMENT ON COLUMN chatwebhook.emit_failure.last_at IS 'When this last happened.';
COMMENT ON COLUMN chatwebhook.emit_failure.example IS
    'Primary key of one of the rows; columns other than numbers and UUIDs are left out.';

CREATE FUNCTION chatwebhook._count_emit_failures(
    relations oid[], trigger_names text[], event_types text[], messages text[],
    counts bigint[], first_ats timestamptz[], last_ats timestamptz[], examples text[])
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    max_messages constant integer := 20;    -- of a trigger
    new_alert    chatwebhook.alert;
    old_alert    chatwebhook.alert;
BEGIN
    INSERT INTO chatwebhook.emit_failure AS f (relation, trigger_name, event_type, message, failures, first_at, last_at, example)
    SELECT u.relation, u.trigger_name, min(u.event_type), m.message, sum(u.failures), min(u.first_at), max(u.last_at), max(nullif(u.example, ''))
      FROM unnest(relations, trigger_names, event_types, messages, counts, first_ats, last_ats, examples)
           AS u (relation, trigger_name, event_type, message, failures, first_at, last_at, example)
     CROSS JOIN LATERAL (
           SELECT CASE WHEN (SELECT count(*) FROM chatwebhook.emit_failure o
                              WHERE o.relation = u.relation AND o.trigger_name = u.trigger_name AND o.message <> u.message) < max_messages
                       THEN u.message ELSE 'other errors' END AS message) m
     GROUP BY u.relation, u.trigger_name, m.message
    ON CONFLICT (relation, trigger_name, message) DO UPDATE
       SET failures = f.failures + EXCLUDED.failures,
           last_at = greatest(f.last_at, EXCLUDED.last_at),
           example = coalesce(EXCLUDED.example, f.example);

    FOR new_alert IN
        SELECT chatwebhook.uuidv7() AS id, NULL::uuid AS webhook_id, NULL::text AS chatbot_id, NULL::text AS webhook_name,
               u.watch, 'emit_failed' AS kind, format('events "%s" are not emitted: %s', u.event_type, u.message) AS message,
               clock_timestamp() AS opened_at, NULL::timestamptz AS closed_at
          FROM (SELECT DISTINCT ON (watch) chatwebhook._watch_label(r.relation, r.trigger_name) AS watch, r.event_type, r.message
                  FROM unnest(relations, trigger_names, event_types, messages) AS r (relation, trigger_name, event_type, message)
                 -- it can have been dropped since
                 WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = r.relation AND t.tgname = r.trigger_name)
                 ORDER BY watch) u
         WHERE NOT EXISTS (SELECT FROM chatwebhook.alert a
                            WHERE a.watch = u.watch AND a.closed_at IS NULL)
    LOOP
        INSERT INTO chatwebhook.alert SELECT (new_alert).*;
        PERFORM chatwebhook._announce_alert(new_alert);
    END LOOP;

    FOR old_alert IN
        UPDATE chatwebhook.alert a SET closed_at = clock_timestamp()
         WHERE a.kind = 'emit_failed' AND a.closed_at IS NULL
           AND NOT EXISTS (SELECT FROM chatwebhook.emit_failure f
                            WHERE chatwebhook._watch_label(f.relation, f.trigger_name) = a.watch
                              AND f.last_at > clock_timestamp() - interval '1 hour')
        RETURNING a.*
    LOOP
        PERFORM chatwebhook._announce_alert(old_alert);
    END LOOP;
    RETURN EXISTS (SELECT FROM chatwebhook.alert a WHERE a.kind = 'emit_failed' AND a.closed_at IS NULL);
END
$$;
COMMENT ON FUNCTION chatwebhook._count_emit_failures(oid[], text[], text[], text[], bigint[], timestamptz[], timestamptz[], text[]) IS
    'Adds to emit_failure, opens an alert for each watch that fails, and closes those of watches that have not failed for an hour. Returns whether any is open.';

CREATE FUNCTION chatwebhook._watch_label(relation regclass, trigger_name text) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('%s on %s', trigger_name, relation)
$$;
COMMENT ON FUNCTION chatwebhook._watch_label(regclass, text) IS
    'Returns the name of a watch in alerts.';

CREATE FUNCTION chatwebhook._forget_failures(trigger_id oid) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    old_alert chatwebhook.alert;
BEGIN
    FOR old_alert IN
        WITH forgotten AS (
            DELETE FROM chatwebhook.emit_failure f USING pg_trigger t
             WHERE t.oid = trigger_id AND f.relation = t.tgrelid AND f.trigger_name = t.tgname
        )
        UPDATE chatwebhook.alert a SET closed_at = clock_timestamp()
          FROM pg_trigger t
         WHERE t.oid = trigger_id AND a.kind = 'emit_failed' AND a.closed_at IS NULL
           AND a.watch = chatwebhook._watch_label(t.tgrelid, t.tgname)
        RETURNING a.*
    LOOP
        PERFORM chatwebhook._announce_alert(old_alert);
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._forget_failures(oid) IS
    'Removes the failures of a watch that is changed or dropped, and closes its alerts.';

CREATE FUNCTION chatwebhook._watch_operation(type smallint, relation regclass, columns int2vector) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT concat_ws(' OR ',
                     CASE WHEN type & 4 <> 0 THEN 'INSERT' END,
                     CASE WHEN type & 16 <> 0 THEN concat('UPDATE', ' OF ' || (
                          SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY c.n)
                            FROM unnest(columns::smallint[]) WITH ORDINALITY AS c (attnum, n)
                            JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = c.attnum)) END,
                     CASE WHEN type & 8 <> 0 THEN 'DELETE' END)
$$;
COMMENT ON FUNCTION chatwebhook._watch_operation(smallint, regclass, int2vector) IS
    'Returns the operations of a trigger from columns of pg_trigger.';

CREATE FUNCTION chatwebhook._matches(events text[], type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT EXISTS (SELECT FROM unnest(events) AS pattern
                    WHERE pattern = type
                       OR right(pattern, 1) = '*' AND starts_with(type, left(pattern, -1))
                          AND NOT (pattern = '*' AND starts_with(type, 'webhook.')))
$$;
COMMENT ON FUNCTION chatwebhook._matches(text[], text) IS
    'Returns whether one of these patterns matches this event type, as when it is emitted.';

CREATE VIEW chatwebhook.watched WITH (security_invoker) AS
SELECT t.tgrelid::regclass AS relation,
       t.tgname AS trigger_name,
       d.arguments[1] AS event_type,
       chatwebhook._watch_operation(t.tgtype, t.tgrelid, t.tgattr) AS operation,
       substring(pg_catalog.pg_get_triggerdef(t.oid) from ' WHEN [(](.*)[)] EXECUTE FUNCTION ') AS condition,
       CASE WHEN v.view IS NOT NULL AND '()' OPERATOR(pg_catalog.=) ANY (d.arguments)
            -- PostgreSQL may name the rows new_1 and old_1
            THEN pg_catalog.btrim(pg_catalog.regexp_replace(pg_catalog.regexp_replace(pg_catalog.regexp_replace(
                     pg_catalog.pg_get_viewdef(v.view), '^.*?LATERAL', ''), E'\\mnew(_1)?[.]', 'NEW.', 'g'), E'\\mold(_1)?[.]', 'OLD.', 'g'))
            ELSE pg_catalog.array_to_string(d.arguments[2:], ', ') END AS sends,
       ARRAY(SELECT w.name FROM chatwebhook.webhook w
              WHERE w.enabled AND chatwebhook._matches(w.events, d.arguments[1]) ORDER BY w.name) AS wanted_by,
       coalesce(d.problem,
                CASE WHEN t.tgenabled OPERATOR(pg_catalog.=) 'D' THEN 'the trigger is disabled' END,
                'the event requires the key "' || chatwebhook._missing_key(d.arguments[1], d.keys) || '", which is missing',
                (SELECT w.message FROM chatwebhook._watch_warnings(t.oid, d.arguments) AS w WHERE w.is_problem LIMIT 1)) AS problem
  FROM pg_catalog.pg_trigger t
 CROSS JOIN LATERAL chatwebhook._watch_details(t.oid, false) AS d
 CROSS JOIN LATERAL (SELECT chatwebhook._query_view(t.tgname, t.tgrelid) AS view) AS v
 WHERE t.tgfoid OPERATOR(pg_catalog.=) 'chatwebhook.emit()'::pg_catalog.regprocedure
   AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid;
COMMENT ON VIEW chatwebhook.watched IS
    'Triggers that emit events, made by watch() or by CREATE TRIGGER.';
COMMENT ON COLUMN chatwebhook.watched.relation IS 'Table that is watched.';
COMMENT ON COLUMN chatwebhook.watched.trigger_name IS 'Name of the trigger.';
COMMENT ON COLUMN chatwebhook.watched.event_type IS 'Type of the events.';
COMMENT ON COLUMN chatwebhook.watched.operation IS 'Operations that fire the trigger.';
COMMENT ON COLUMN chatwebhook.watched.condition IS
    'Condition in the trigger''s WHEN clause. A condition that could raise an error is part of the query instead.';
COMMENT ON COLUMN chatwebhook.watched.sends IS
    'What becomes of a row: the arguments of emit(), or the query.';
COMMENT ON COLUMN chatwebhook.watched.wanted_by IS
    'Names of the enabled webhooks that subscribe to this type.';
COMMENT ON COLUMN chatwebhook.watched.problem IS
    'Why rows emit no event, or may not: a column or a view that is gone, a right that was revoked, a required key that is missing or comes from a column that can be null.';

CREATE FUNCTION chatwebhook.check_watches() RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    bad record;
BEGIN
    SELECT w.relation, w.trigger_name, w.problem INTO bad
      FROM chatwebhook.watched w WHERE w.problem IS NOT NULL
     ORDER BY w.relation::text, w.trigger_name LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'trigger "%" on table "%": %', bad.trigger_name, bad.relation, bad.problem
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'See the view chatwebhook.watched for all of them.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook.check_watches() IS
    'Raises an error if a trigger that emits events has a problem. Call it at the end of a migration, and in tests.';
