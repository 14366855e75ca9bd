-- What the catalog says of the extension, as a line for each property of each
-- object, with names for OIDs: two databases where the extension is the same
-- give the same lines, however it came there.
--
-- Everything in the schema counts, and what else belongs to the extension.
-- Columns are numbered without those that were dropped.  Privileges are lines
-- of their own, one for each role and right, and so are the ones that pg_dump
-- takes for the extension's (initial).  No order: whoever asks sorts them.
WITH relation AS (
    SELECT c.*, c.oid::pg_catalog.regclass::text AS name
      FROM pg_catalog.pg_class c
     WHERE c.relnamespace = 'chatwebhook'::pg_catalog.regnamespace
), function AS (
    SELECT p.*, p.oid::pg_catalog.regprocedure::text AS name
      FROM pg_catalog.pg_proc p
     WHERE p.pronamespace = 'chatwebhook'::pg_catalog.regnamespace
), extension AS (
    SELECT * FROM pg_catalog.pg_extension WHERE extname = 'chatwebhook'
), usual (classoid, oid, acl) AS (
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid,
           pg_catalog.acldefault('f', proowner)
      FROM function
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, oid,
           pg_catalog.acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner)
      FROM relation
), privilege (name, acl) AS (
    SELECT 'schema chatwebhook',
           coalesce(nspacl, pg_catalog.acldefault('n', nspowner))
      FROM pg_catalog.pg_namespace WHERE nspname = 'chatwebhook'
    UNION ALL
    SELECT name, coalesce(relacl, pg_catalog.acldefault(
               CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))
      FROM relation WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT name || '.' || attname, attacl
      FROM relation JOIN pg_catalog.pg_attribute ON attrelid = relation.oid
     WHERE attacl IS NOT NULL
    UNION ALL
    SELECT name, coalesce(proacl, pg_catalog.acldefault('f', proowner))
      FROM function
    UNION ALL
    SELECT 'type ' || typname, coalesce(typacl, pg_catalog.acldefault('T', typowner))
      FROM pg_catalog.pg_type
     WHERE typnamespace = 'chatwebhook'::pg_catalog.regnamespace
    UNION ALL
    SELECT 'initial ' || o.identity, i.initprivs
      FROM pg_catalog.pg_init_privs i,
           pg_catalog.pg_identify_object(i.classoid, i.objoid, i.objsubid) o
     WHERE i.privtype = 'e' AND o.identity ~ '\mchatwebhook\M'
           -- the default says nothing, and pg_upgrade leaves it out
           AND NOT EXISTS (
               SELECT FROM usual u
                WHERE u.classoid = i.classoid AND u.oid = i.objoid
                  AND u.acl @> i.initprivs AND u.acl <@ i.initprivs)
), line (line) AS (
    SELECT 'extension: ' || pg_catalog.concat_ws(', ', extversion, extrelocatable,
               extowner::pg_catalog.regrole, extnamespace::pg_catalog.regnamespace)
      FROM extension
    UNION ALL
    SELECT pg_catalog.format('dumped: %s %s', r.name, e.extcondition[n])
      FROM extension e, pg_catalog.generate_subscripts(e.extconfig, 1) n
      LEFT JOIN relation r ON true
     WHERE r.oid = e.extconfig[n]
    UNION ALL
    SELECT 'member: ' || o.type || ' ' || o.identity
      FROM extension e
      JOIN pg_catalog.pg_depend d
           ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
              AND d.refobjid = e.oid AND d.deptype = 'e',
           pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) o
    UNION ALL
    SELECT pg_catalog.format('relation %s: kind %s, persistence %s, method %s, owner %s, row security %s %s, identity %s, options %s, of TOAST %s',
               r.name, r.relkind, r.relpersistence, a.amname,
               r.relowner::pg_catalog.regrole, r.relrowsecurity,
               r.relforcerowsecurity, r.relreplident, r.reloptions, t.reloptions)
      FROM relation r
      LEFT JOIN pg_catalog.pg_am a ON a.oid = r.relam
      LEFT JOIN pg_catalog.pg_class t ON t.oid = r.reltoastrelid
    UNION ALL
    SELECT pg_catalog.format('column %s.%s: place %s, type %s, collation %s, not null %s, default %s, identity "%s", generated "%s", storage %s, statistics %s, options %s',
               r.name, a.attname,
               pg_catalog.row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum),
               pg_catalog.format_type(a.atttypid, a.atttypmod),
               a.attcollation::pg_catalog.regcollation, a.attnotnull,
               pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attidentity,
               a.attgenerated, a.attstorage, a.attstattarget,
               -- pg_attver is the server's own, and another each time
               ARRAY(SELECT o FROM pg_catalog.unnest(a.attoptions) o
                      WHERE o NOT LIKE 'pg\_attver=%'))
      FROM relation r
      JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    UNION ALL
    SELECT pg_catalog.format('constraint %s of %s %s: %s, validated %s', conname,
               nullif(conrelid, 0)::pg_catalog.regclass,
               nullif(contypid, 0)::pg_catalog.regtype,
               pg_catalog.pg_get_constraintdef(oid), convalidated)
      FROM pg_catalog.pg_constraint
     WHERE connamespace = 'chatwebhook'::pg_catalog.regnamespace
       AND contype <> 'n' -- 18 has these, which columns tell of, and renames some in an upgrade
    UNION ALL
    SELECT pg_catalog.format('index %s, primary %s, valid %s, clustered %s, identity %s',
               pg_catalog.pg_get_indexdef(i.indexrelid), i.indisprimary,
               i.indisvalid, i.indisclustered, i.indisreplident)
      FROM pg_catalog.pg_index i JOIN relation r ON r.oid = i.indexrelid
    UNION ALL
    SELECT pg_catalog.format('sequence %s: %s', r.name, pg_catalog.row_to_json(s))
      FROM relation r,
           LATERAL (SELECT seqtypid::pg_catalog.regtype, seqstart, seqincrement,
                           seqmax, seqmin, seqcache, seqcycle
                      FROM pg_catalog.pg_sequence WHERE seqrelid = r.oid) s
    UNION ALL
    SELECT pg_catalog.format('rule of %s: %s, enabled %s', r.name,
               pg_catalog.pg_get_ruledef(w.oid), w.ev_enabled)
      FROM relation r JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid
    UNION ALL
    SELECT pg_catalog.format('trigger of %s: %s, enabled %s', r.name,
               pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled)
      FROM relation r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid
     WHERE NOT t.tgisinternal
    UNION ALL
    SELECT pg_catalog.format('policy %s of %s: for %s, permissive %s, to %s, using %s, check %s',
               p.polname, r.name, p.polcmd, p.polpermissive,
               p.polroles::pg_catalog.regrole[],
               pg_catalog.pg_get_expr(p.polqual, p.polrelid),
               pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
      FROM relation r JOIN pg_catalog.pg_policy p ON p.polrelid = r.oid
    UNION ALL
    SELECT pg_catalog.format('function %s: (%s) returns %s, kind %s, language %s, owner %s, volatility %s, parallel %s, strict %s, definer %s, leakproof %s, cost %s, rows %s, support %s, settings %s, %s: %s',
               f.name, pg_catalog.pg_get_function_arguments(f.oid),
               pg_catalog.pg_get_function_result(f.oid), f.prokind, l.lanname,
               f.proowner::pg_catalog.regrole, f.provolatile, f.proparallel,
               f.proisstrict, f.prosecdef, f.proleakproof, f.procost, f.prorows,
               f.prosupport, f.proconfig, f.probin, f.prosrc)
      FROM function f JOIN pg_catalog.pg_language l ON l.oid = f.prolang
    UNION ALL
    SELECT pg_catalog.format('type %s: type %s, category %s, owner %s, of %s, default %s, not null %s, labels %s',
               t.oid::pg_catalog.regtype, t.typtype, t.typcategory,
               t.typowner::pg_catalog.regrole,
               nullif(t.typbasetype, 0)::pg_catalog.regtype, t.typdefault,
               t.typnotnull,
               ARRAY(SELECT e.enumlabel FROM pg_catalog.pg_enum e
                      WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder))
      FROM pg_catalog.pg_type t
     WHERE t.typnamespace = 'chatwebhook'::pg_catalog.regnamespace
    UNION ALL
    SELECT pg_catalog.format('comment on %s %s: %s', o.type, o.identity, d.description)
      FROM pg_catalog.pg_description d,
           pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) o
     WHERE o.identity ~ '\mchatwebhook\M'
    UNION ALL
    SELECT pg_catalog.format('privilege %s: %s, %s%s by %s', p.name,
               CASE a.grantee WHEN 0 THEN 'public' ELSE a.grantee::pg_catalog.regrole::text END,
               a.privilege_type, CASE WHEN a.is_grantable THEN '*' END,
               a.grantor::pg_catalog.regrole)
      FROM privilege p, pg_catalog.aclexplode(p.acl) a
    UNION ALL
    SELECT pg_catalog.format('row of event_type: %s', pg_catalog.to_jsonb(t))
      FROM chatwebhook.event_type t WHERE t.shipped
    UNION ALL
    SELECT pg_catalog.format('row of connector: %s', pg_catalog.to_jsonb(t))
      FROM chatwebhook.connector t WHERE t.shipped
)
SELECT line FROM line
