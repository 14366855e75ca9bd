/*
 * The outbox: with chatwebhook.outbox, events are rows of the table event that wait
 * there for delivery nodes, which subscribe to it by logical replication.
 *
 * A worker removes what all of them have confirmed (src/handover.c).  On a delivery
 * node, the trigger takes what arrives (src/arrive.c).
 */
CREATE FUNCTION chatwebhook._arrive() RETURNS trigger
    AS 'MODULE_PATHNAME', 'chatwebhook_arrive'
    LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._arrive() IS
    'Trigger: writes the deliveries of an event that logical replication brings.';

CREATE TRIGGER arrived BEFORE INSERT ON chatwebhook.event
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._arrive();
SELECT chatwebhook._enable_triggers();

-- what waits; other events do not pay for it
CREATE INDEX event_outbox_idx ON chatwebhook.event (id) WHERE first_delivery IS NULL;

/*
 * The slots that have to confirm events.  This is not dumped: a database that is
 * restored has subscribers of its own.
 */
CREATE TABLE chatwebhook.outbox_slot (
    slot_name name PRIMARY KEY,
    present   boolean NOT NULL DEFAULT false,
    copied_by text,
    ignored   boolean NOT NULL DEFAULT false,
    CHECK (present OR copied_by IS NULL),
    CHECK (NOT (present AND ignored))
);
COMMENT ON TABLE chatwebhook.outbox_slot IS
    'Replication slots that have to confirm events of the outbox: all of this database that decode for subscriptions and have been seen, but for those that are ignored. Read the view outbox_status instead.';
COMMENT ON COLUMN chatwebhook.outbox_slot.slot_name IS 'Name of the slot.';
COMMENT ON COLUMN chatwebhook.outbox_slot.present IS
    'Does it exist? If not, nothing is removed until it does, or forget_slot() is called.';
COMMENT ON COLUMN chatwebhook.outbox_slot.copied_by IS
    'Connection over which the initial copy of a subscription was made since the slot is present; the role that called confirm_copy() instead; or null, and nothing is removed.';
COMMENT ON COLUMN chatwebhook.outbox_slot.ignored IS
    'Has ignore_slot() been called, and the slot not been dropped since? Then the outbox takes no notice of it.';

CREATE FUNCTION chatwebhook._outbox_slots(
    OUT slot_name name, OUT state text, OUT active boolean, OUT confirmed_lsn pg_lsn)
    RETURNS SETOF record
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE ROWS 10
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(s.slot_name, o.slot_name),
           CASE WHEN s.slot_name IS NULL THEN 'missing'
                -- of the initial copy of a table
                WHEN s.slot_name ~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$' THEN 'syncing'
                WHEN s.wal_status = 'lost' THEN 'lost'
                WHEN o.copied_by IS NOT NULL AND s.confirmed_flush_lsn IS NOT NULL THEN 'confirming'
                ELSE 'uncopied' END,
           s.active, s.confirmed_flush_lsn
      FROM chatwebhook.outbox_slot o
      FULL JOIN (SELECT r.slot_name, r.wal_status, r.active, r.confirmed_flush_lsn
                   FROM pg_replication_slots r
                  WHERE r.slot_type = 'logical' AND r.plugin = 'pgoutput'
                    AND r.database = current_database() AND NOT r.temporary
                    -- of Citus, which moves or splits a shard; it has no events
                    AND r.slot_name !~ '^citus_shard_(move|split)_slot_') s ON s.slot_name = o.slot_name
     WHERE o.ignored IS NOT TRUE
$$;
COMMENT ON FUNCTION chatwebhook._outbox_slots() IS
    'Returns the slots of subscriptions to this database, and those that were seen and are gone, but for those that are ignored.';

CREATE FUNCTION chatwebhook._forget_copies() RETURNS void
    AS 'MODULE_PATHNAME', 'chatwebhook_forget_copies'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._forget_copies() IS
    'Forgets which initial copies were made, but for those that are written down in outbox_slot.';

CREATE FUNCTION chatwebhook._note_slots(outbox boolean, copies text[], OUT is_used boolean, OUT all_copied boolean)
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    slots    name[];
    uncopied name[];
    new      text[];
BEGIN
    DELETE FROM chatwebhook.outbox_slot o
     WHERE o.ignored AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = o.slot_name);
    is_used := outbox OR EXISTS (SELECT FROM chatwebhook.event e WHERE e.first_delivery IS NULL);
    IF NOT is_used THEN
        PERFORM chatwebhook._set_outbox_alert('');
        RETURN;
    END IF;
    SELECT coalesce(array_agg(s.slot_name), '{}') INTO slots
      FROM chatwebhook._outbox_slots() s WHERE s.state NOT IN ('missing', 'syncing');
    -- a copy may be that of a slot which is gone again: then it counts for none
    all_copied := EXISTS (SELECT FROM chatwebhook.outbox_slot o
                           WHERE o.present AND o.copied_by IS NULL AND o.slot_name <> ALL (slots));
    UPDATE chatwebhook.outbox_slot o SET present = false, copied_by = NULL
     WHERE o.present AND o.slot_name <> ALL (slots);
    INSERT INTO chatwebhook.outbox_slot AS o (slot_name, present)
    SELECT s, true FROM unnest(slots) AS s
     WHERE NOT EXISTS (SELECT FROM chatwebhook.outbox_slot p WHERE p.slot_name = s AND p.present)
        ON CONFLICT (slot_name) DO UPDATE SET present = true WHERE NOT o.ignored;
    IF all_copied THEN
        RETURN;
    END IF;
    -- which copy is that of which slot cannot be known: wait until each has one
    uncopied := ARRAY(SELECT o.slot_name FROM chatwebhook.outbox_slot o WHERE o.present AND o.copied_by IS NULL);
    new := ARRAY(SELECT c FROM unnest(copies) AS c
                  WHERE NOT EXISTS (SELECT FROM chatwebhook.outbox_slot o WHERE o.copied_by = c));
    all_copied := cardinality(new) >= cardinality(uncopied);
    IF all_copied AND uncopied <> '{}' THEN
        UPDATE chatwebhook.outbox_slot o SET copied_by = new[array_position(uncopied, o.slot_name)]
         WHERE o.slot_name = ANY (uncopied) AND o.present;
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._note_slots(boolean, text[]) IS
    'Writes down which slots there are, which are gone, and which subscriptions have made these initial copies. Returns whether events wait or can, and whether the copies may be forgotten.';

CREATE FUNCTION chatwebhook._outbox_holdup(lsn pg_lsn) RETURNS text
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN count(*) = 0 THEN 'events wait for a delivery node to subscribe'
                -- without it, slots confirm events that they do not have
                WHEN NOT EXISTS (SELECT FROM pg_publication_tables t JOIN pg_publication p USING (pubname)
                                  WHERE t.schemaname = 'chatwebhook' AND t.tablename = 'event' AND p.pubinsert)
                THEN 'events wait for a publication; see publish_outbox()'
                ELSE 'events wait for ' || string_agg(format('replication slot "%s", %s', s.slot_name,
                         CASE WHEN s.state = 'uncopied' THEN 'whose subscription has not copied the table event'
                              WHEN s.state <> 'confirming' THEN 'which is ' || s.state
                              WHEN s.active THEN 'which is behind'
                              ELSE 'which is inactive' END), ', and ' ORDER BY s.slot_name)
                     FILTER (WHERE s.state <> 'confirming' OR s.confirmed_lsn < lsn) END
      FROM chatwebhook._outbox_slots() s
$$;
COMMENT ON FUNCTION chatwebhook._outbox_holdup(pg_lsn) IS
    'Says which slots keep events that were committed before this position in the outbox; null if none does.';

CREATE FUNCTION chatwebhook._set_outbox_alert(problem text) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    changed chatwebhook.alert;
BEGIN
    IF problem = '' THEN
        UPDATE chatwebhook.alert a SET closed_at = clock_timestamp()
         WHERE a.watch = 'outbox' AND a.kind = 'outbox_backlog' AND a.closed_at IS NULL
        RETURNING a.* INTO changed;
    ELSE
        INSERT INTO chatwebhook.alert AS a (id, watch, kind, message, opened_at)
        SELECT chatwebhook.uuidv7(), 'outbox', 'outbox_backlog', problem, clock_timestamp()
         WHERE NOT EXISTS (SELECT FROM chatwebhook.alert o WHERE o.watch = 'outbox' AND o.closed_at IS NULL)
        RETURNING a.* INTO changed;
    END IF;
    IF FOUND THEN
        PERFORM chatwebhook._announce_alert(changed);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._set_outbox_alert(text) IS
    'Opens the alert outbox_backlog with this message, or closes it if that is empty.';

CREATE VIEW chatwebhook.outbox_status WITH (security_invoker) AS
    SELECT s.slot_name, s.state, s.active,
           GREATEST(pg_catalog.pg_wal_lsn_diff(
               CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                    ELSE pg_catalog.pg_current_wal_lsn() END, s.confirmed_lsn), 0)::bigint AS lag_bytes,
           e.events, e.oldest_at
      FROM (SELECT pg_catalog.count(*) AS events, pg_catalog.min(w.created_at) AS oldest_at
              FROM (SELECT e.created_at FROM chatwebhook.event e
                     WHERE e.first_delivery IS NULL ORDER BY e.id LIMIT 10000) w) e
      LEFT JOIN chatwebhook._outbox_slots() s ON true
     WHERE chatwebhook._setting('chatwebhook.outbox')::boolean
        OR e.events > 0;
COMMENT ON VIEW chatwebhook.outbox_status IS
    'The outbox: a row for each replication slot that has to confirm its events; ignored ones are not shown. Without any slot, one row whose slot is null. Empty if chatwebhook.outbox is off and nothing is left to hand over.';
COMMENT ON COLUMN chatwebhook.outbox_status.slot_name IS 'Name of the replication slot.';
COMMENT ON COLUMN chatwebhook.outbox_status.state IS
    'confirming; uncopied: its subscription has not made the initial copy of the table event, or confirm_copy() or ignore_slot() is to be called; syncing: the initial copy of a table is under way; lost: it has exceeded max_slot_wal_keep_size; missing: it was seen and is gone, or publish_outbox() expects it. Unless all are confirming, no event is removed.';
COMMENT ON COLUMN chatwebhook.outbox_status.active IS 'Is a delivery node connected? Null if the slot is missing.';
COMMENT ON COLUMN chatwebhook.outbox_status.lag_bytes IS 'WAL that the slot has not confirmed.';
COMMENT ON COLUMN chatwebhook.outbox_status.events IS
    'Events in the outbox, including confirmed ones that are kept for chatwebhook.outbox_keep. Counted up to 10000.';
COMMENT ON COLUMN chatwebhook.outbox_status.oldest_at IS 'When the oldest of them was emitted.';

CREATE FUNCTION chatwebhook.forget_slot(slot_name name) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
DECLARE
    was_present boolean;
BEGIN
    IF EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = slot_name) THEN
        RAISE EXCEPTION 'replication slot "%" exists', slot_name
            USING ERRCODE = 'object_in_use',
                  HINT = 'Drop the subscription first, or the slot with pg_drop_replication_slot().';
    END IF;
    DELETE FROM chatwebhook.outbox_slot o WHERE o.slot_name = slot_name RETURNING o.present INTO was_present;
    IF was_present THEN
        -- the worker has not noticed yet that it is gone, and would take its copy for another's
        PERFORM chatwebhook._forget_copies();
    END IF;
    RETURN was_present IS NOT NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook.forget_slot(name) IS
    'Lets an outbox remove events although this replication slot is gone: its delivery node will not come back. Returns false if the slot is not known.';

CREATE FUNCTION chatwebhook._check_slot(slot_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF EXISTS (SELECT FROM chatwebhook.outbox_slot o WHERE o.slot_name = slot_name AND o.ignored) THEN
        RAISE EXCEPTION 'replication slot "%" is ignored', slot_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'It stays ignored until it is dropped.';
    ELSIF NOT EXISTS (SELECT FROM chatwebhook._outbox_slots() s
                    WHERE s.slot_name = slot_name AND s.state NOT IN ('missing', 'syncing')) THEN
        RAISE EXCEPTION 'no subscription to this database uses replication slot "%"', slot_name
            USING ERRCODE = 'undefined_object',
                  HINT = 'The view outbox_status lists the slots.';
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_slot(name) IS
    'Raises an error unless this is the slot of a subscription that the outbox takes notice of.';

CREATE FUNCTION chatwebhook.confirm_copy(slot_name name) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_slot(slot_name);
    INSERT INTO chatwebhook.outbox_slot AS o (slot_name, present, copied_by) VALUES (slot_name, true, session_user)
        ON CONFLICT ON CONSTRAINT outbox_slot_pkey DO UPDATE SET present = true, copied_by = EXCLUDED.copied_by
         WHERE o.copied_by IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION chatwebhook.confirm_copy(name) IS
    'Lets an outbox remove events that this replication slot confirms although no initial copy of the table event was seen, because the subscription was created with copy_data = false, say. First check in pg_subscription_rel on the delivery node that the table is ready (r): events that it does not have would be lost. Returns false if the copy was seen already.';

CREATE FUNCTION chatwebhook.ignore_slot(slot_name name) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
#variable_conflict use_variable
BEGIN
    PERFORM chatwebhook._check_slot(slot_name);
    INSERT INTO chatwebhook.outbox_slot AS o (slot_name, ignored) VALUES (slot_name, true)
        ON CONFLICT ON CONSTRAINT outbox_slot_pkey DO UPDATE SET present = false, copied_by = NULL, ignored = true;
END
$$;
COMMENT ON FUNCTION chatwebhook.ignore_slot(name) IS
    'Lets an outbox remove events whatever this replication slot confirms, until it is dropped: its subscription is of other tables than event. If it is not, events are lost.';

CREATE FUNCTION chatwebhook._create_publication(publication name, row_filter text) RETURNS void
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    citus constant text := current_setting('citus.enable_ddl_propagation', true);
BEGIN
    IF EXISTS (SELECT FROM pg_publication p
                WHERE p.pubname = publication
                  AND (p.pubupdate OR p.pubdelete OR p.pubtruncate
                       OR NOT EXISTS (SELECT FROM pg_publication_tables t
                                       WHERE t.pubname = p.pubname AND t.schemaname = 'chatwebhook' AND t.tablename = 'event'))) THEN
        RAISE EXCEPTION 'publication "%" is not one of inserts into chatwebhook.event', publication
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'If it published deletes, the delivery nodes would lose events that the outbox removes.',
                  HINT = 'Drop it first.';
    ELSIF EXISTS (SELECT FROM pg_publication p WHERE p.pubname = publication) THEN
        RETURN;
    END IF;
    IF citus <> '' THEN
        -- it would create the publication on the other nodes without the table
        PERFORM set_config('citus.enable_ddl_propagation', 'off', true);
    END IF;
    EXECUTE format('CREATE PUBLICATION %I FOR TABLE chatwebhook.event%s WITH (publish = ''insert'')', publication, row_filter);
    IF citus <> '' THEN
        PERFORM set_config('citus.enable_ddl_propagation', citus, true);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._create_publication(name, text) IS
    'Creates a publication of the events, if it does not exist.';

CREATE FUNCTION chatwebhook.publish_outbox(part integer DEFAULT NULL, "of" integer DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    suffix      constant text := coalesce(nullif(left(regexp_replace(lower(current_database()), '[^a-z0-9_]', '_', 'g'), 30), ''), 'db');
    parted      constant text := 'chatwebhook_%s_of_%s';
    publication text := 'chatwebhook';
    connection  text;
BEGIN
    IF (part IS NULL) <> ("of" IS NULL) OR part NOT BETWEEN 1 AND "of" OR "of" > 1000 THEN
        RAISE EXCEPTION 'part % of % does not exist', part, "of"
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass neither, or both, such as part => 1, of => 2, with at most 1000 parts.';
    END IF;
    IF part IS NOT NULL THEN
        publication := format(parted, part, "of");
        PERFORM chatwebhook._create_publication(publication, format(
            $filter$ WHERE (((hashtextextended(coalesce(chatbot_id, ''), 0) %% %1$s) + %1$s) %% %1$s = %2$s)$filter$, "of", part - 1));
    ELSE
        PERFORM chatwebhook._create_publication(publication, '');
    END IF;
    -- nothing leaves before there is a subscriber, and one for each part
    INSERT INTO chatwebhook.outbox_slot (slot_name)
    SELECT CASE WHEN part IS NULL THEN publication ELSE format(parted, n, "of") END || '_' || suffix
      FROM generate_series(1, coalesce("of", 1)) AS n
        ON CONFLICT (slot_name) DO UPDATE SET ignored = false;
    -- the worker may not have noticed yet that a subscription was dropped, and take its copy for another's
    UPDATE chatwebhook.outbox_slot o SET present = false, copied_by = NULL
     WHERE o.present AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = o.slot_name);
    IF FOUND THEN
        PERFORM chatwebhook._forget_copies();
    END IF;
    IF NOT chatwebhook._setting('chatwebhook.outbox')::boolean THEN
        RAISE NOTICE 'chatwebhook.outbox is off, so events are not stored for delivery nodes'
            USING HINT = 'Use ALTER SYSTEM SET chatwebhook.outbox = on, and SELECT pg_reload_conf().';
    END IF;
    SELECT string_agg(c.key || '=''' || replace(replace(c.value, E'\\', E'\\\\'), '''', E'\\''') || '''', ' ' ORDER BY c.n)
      INTO connection
      FROM (VALUES (1, 'host', coalesce(host(inet_server_addr()), 'localhost')),
                   (2, 'port', current_setting('port')),
                   (3, 'dbname', current_database()::text),
                   (4, 'user', current_user::text)) AS c (n, key, value);
    RETURN format('CREATE SUBSCRIPTION %1$I CONNECTION %2$L PUBLICATION %3$I WITH (slot_name = %1$I, synchronous_commit = on)',
                  publication || '_' || suffix, connection, publication);
END
$$;
COMMENT ON FUNCTION chatwebhook.publish_outbox(integer, integer) IS
    'Creates the publication chatwebhook, of inserts into the table event, and returns the statement to run on a delivery node, in which host and user may have to be changed, and the name of the subscription may be, but not slot_name: no event is removed before that slot exists. With part and of, the publication has the events of a share of the chatbots, and no event is removed before there is a slot for each part.';

/*
 * What is done on the delivery nodes instead.
 */
CREATE FUNCTION chatwebhook._warn_outbox() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF chatwebhook._setting('chatwebhook.outbox')::boolean THEN
        RAISE NOTICE 'chatwebhook.outbox is on, so this webhook gets no events'
            USING HINT = 'Create webhooks on the delivery nodes.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._warn_outbox() IS 'Trigger: says that webhooks belong on the delivery nodes.';
CREATE TRIGGER outbox AFTER INSERT ON chatwebhook.webhook
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._warn_outbox();
