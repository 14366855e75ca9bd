/*
 * The identity of this database.  A copy of a database has the pending deliveries
 * of the original, which sends them itself.  So a copy sends nothing until an
 * administrator calls adopt().
 *
 * CREATE EXTENSION writes a row, and a dump has one, too, so a restored database has
 * two.  CREATE DATABASE ... TEMPLATE copies the row, but the new database has
 * another OID.  pg_upgrade keeps the row and both OIDs; only the system identifier
 * changes.  A promoted standby, and a cluster restored from a base backup, cannot be
 * told apart from the original.
 *
 * A parallel restore may load deliveries before it loads the second row.  Delivery
 * ids ascend with time, so those that are not above first_delivery came from
 * elsewhere.  (Ids from the sequence do not reveal that.)
 */
CREATE TABLE chatwebhook.identity (
    first_delivery    bigint NOT NULL,
    system_identifier bigint NOT NULL,
    database          oid NOT NULL,
    queue             oid NOT NULL
);
CREATE INDEX identity_idx ON chatwebhook.identity (first_delivery);
COMMENT ON TABLE chatwebhook.identity IS
    'The identity of this database, in one row. In a copy, the row describes another database, or there are several rows; then nothing is sent until adopt() is called.';
COMMENT ON COLUMN chatwebhook.identity.first_delivery IS
    'Deliveries emitted here have larger ids than this.';
COMMENT ON COLUMN chatwebhook.identity.system_identifier IS 'The cluster, as in pg_control_system().';
COMMENT ON COLUMN chatwebhook.identity.database IS 'OID of the database.';
COMMENT ON COLUMN chatwebhook.identity.queue IS 'OID of the table queue.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.identity', '');

-- a worker checks again before its next claim
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON chatwebhook.identity
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();

CREATE FUNCTION chatwebhook._next_delivery() RETURNS bigint
    AS 'MODULE_PATHNAME', 'chatwebhook_next_delivery'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION chatwebhook._next_delivery() IS
    'Returns an unused delivery id, below those of all later deliveries; 0 if the library is not in shared_preload_libraries.';

CREATE FUNCTION chatwebhook._identify(first_delivery bigint) RETURNS void
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    INSERT INTO chatwebhook.identity (first_delivery, system_identifier, database, queue)
    SELECT first_delivery, s.system_identifier, d.oid, 'chatwebhook.queue'::regclass
      FROM pg_control_system() s, pg_database d
     WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION chatwebhook._identify(bigint) IS 'Adds a row that describes this database.';

SELECT chatwebhook._identify(chatwebhook._next_delivery());

CREATE FUNCTION chatwebhook._copy_problem() RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN count(*) <> 1
                     OR NOT bool_and(i.queue = 'chatwebhook.queue'::regclass
                                     AND i.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                THEN 'this database is a copy, which sends nothing until chatwebhook.adopt() is called' END
      FROM chatwebhook.identity i
$$;
COMMENT ON FUNCTION chatwebhook._copy_problem() IS
    'Returns a message if this database is a copy of another one, or null.';

/*
 * The triggers that keep caches and copies true fire always, and the one that takes
 * the events of an outbox for replicated rows.  pg_restore --disable-triggers leaves
 * them as ordinary ones.
 */
CREATE FUNCTION chatwebhook._enable_triggers() RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('ALTER TABLE %s ENABLE %s TRIGGER %I', t.tgrelid::regclass, f.mode, t.tgname)
          FROM (VALUES ('chatwebhook._changed()'::regprocedure, 'ALWAYS'),
                       ('chatwebhook._copy_webhook()', 'ALWAYS'),
                       ('chatwebhook._arrive()', 'REPLICA')) AS f (function, mode)
          JOIN pg_trigger t ON t.tgfoid = f.function
         WHERE t.tgenabled::text <> left(f.mode, 1)
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
COMMENT ON FUNCTION chatwebhook._enable_triggers() IS
    'Sets the mode, ENABLE ALWAYS or ENABLE REPLICA, of each trigger that needs one.';

CREATE FUNCTION chatwebhook.adopt(cancel_pending boolean DEFAULT false) RETURNS bigint
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    batch    bigint[];
    canceled bigint := 0;
BEGIN
    PERFORM chatwebhook._enable_triggers();
    -- copy the webhooks that were restored while these triggers were disabled
    UPDATE chatwebhook.webhook w SET name = w.name
     WHERE NOT EXISTS (SELECT FROM chatwebhook._webhook c WHERE c.id = w.id);
    LOCK TABLE chatwebhook.identity IN EXCLUSIVE MODE;
    IF chatwebhook._copy_problem() IS NULL THEN
        RAISE NOTICE 'this database is not a copy, so there is nothing to adopt';
        RETURN 0;
    END IF;
    WHILE cancel_pending LOOP
        SELECT array_agg(q.id) INTO batch
          FROM (SELECT id FROM chatwebhook.queue ORDER BY id LIMIT 10000) q;
        EXIT WHEN batch IS NULL;
        canceled := canceled + chatwebhook._cancel_deliveries(batch, 'the database is a copy of another one');
    END LOOP;
    DELETE FROM chatwebhook.identity;
    -- with 0, the deliveries that came with the copy are its own
    PERFORM chatwebhook._identify(0), chatwebhook._wake_all();
    RETURN canceled;
END
$$;
COMMENT ON FUNCTION chatwebhook.adopt(boolean) IS
    'Lets a restored or copied database send; until then, it sends nothing. Pending deliveries are sent, or canceled if cancel_pending is true. Also puts right the extension''s own triggers after pg_restore --disable-triggers; for watches that are replicated, call watch() again, with replace. Returns how many were canceled. Without cancel_pending, call it only if the original database no longer sends.';
