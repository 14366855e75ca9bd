/*
 * Connectors: functions that turn an event into the requests that one kind of
 * service wants.  src/connector.c calls them; the files in connectors/ are those that
 * come with the extension.
 */
CREATE TYPE chatwebhook.request AS (
    method  text,
    url     text,
    headers jsonb,
    body    jsonb,
    last    boolean
);
COMMENT ON TYPE chatwebhook.request IS
    'A request that a connector wants sent. A null method is POST; last means that no other follows, so that the connector need not be asked again.';
COMMENT ON COLUMN chatwebhook.request.method IS 'GET, POST, PUT, PATCH or DELETE; null: POST.';
COMMENT ON COLUMN chatwebhook.request.url IS
    'Where to, as a rule the webhook''s url with something appended; null: the webhook''s url. If both have a query, the appended ? becomes &.';
COMMENT ON COLUMN chatwebhook.request.headers IS
    'Headers of this request, an object of strings; those of the webhook and its auth come on top. Null: none.';
COMMENT ON COLUMN chatwebhook.request.body IS 'Sent as compact JSON; null: no body.';
COMMENT ON COLUMN chatwebhook.request.last IS
    'True if the delivery is done when this request has succeeded; null or false: the connector is asked again.';

CREATE FUNCTION chatwebhook.cut(value text, size integer) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_cut'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.cut(text, integer) IS
    'The text, or as much of its beginning as leaves room for an ellipsis within that many characters, counted as JavaScript does: one beyond U+FFFF is two.';

CREATE FUNCTION chatwebhook.url_encode(value text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_encode'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.url_encode(text) IS
    'The text percent-encoded (RFC 3986) as a part of a URL''s path or query: all but letters, digits and -._~, as UTF-8.';

CREATE TABLE chatwebhook.connector (
    name        text PRIMARY KEY,
    function    text,
    description text,
    replies     jsonb NOT NULL DEFAULT '[]',
    shipped     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE chatwebhook.connector IS
    'The kinds of service that webhooks can speak to. Add your own.';
COMMENT ON COLUMN chatwebhook.connector.name IS
    'What webhooks call it: small letters, digits, _ and -, at most 63.';
COMMENT ON COLUMN chatwebhook.connector.function IS
    'The function, such as public.teams(jsonb,jsonb,jsonb): f(event, webhook, replies) returns chatwebhook.request, in SQL or PL/pgSQL, STABLE or IMMUTABLE. It runs as its owner, reads only, with pg_catalog as search_path. A cast to regprocedure gives its oid; the name is kept, since pg_upgrade refuses tables with a regprocedure. Null for webhook, which is built in.';
COMMENT ON COLUMN chatwebhook.connector.description IS 'What it does, for people.';
COMMENT ON COLUMN chatwebhook.connector.replies IS
    'What replies mean where the status alone does not say: an array of objects, of which the first that fits counts. Keys: status (a number or an array of them), step (from 1; left out: any), contains (text in the body), means (success, retry, dead or disable), wait (seconds to wait at least, or the key of the body that has them).';
COMMENT ON COLUMN chatwebhook.connector.shipped IS
    'True for a connector as it came with the extension; pg_dump leaves those out.';

INSERT INTO chatwebhook.connector (name, description, shipped) VALUES
    ('webhook', 'The event itself as JSON, signed, for a service of one''s own.', true);
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.connector', 'WHERE NOT shipped');
CREATE TRIGGER replace BEFORE INSERT ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._replace();

CREATE FUNCTION chatwebhook._find_connector() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- found by the search_path of whoever registers it, so there is none pinned here
    NEW.function := COALESCE(
        (SELECT pg_catalog.format('%I.%I(jsonb,jsonb,jsonb)', n.nspname, p.proname)
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
          WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(
                CASE WHEN pg_catalog.strpos(NEW.function, '(') OPERATOR(pg_catalog.>) 0 THEN NEW.function
                     ELSE pg_catalog.concat(NEW.function, '(jsonb,jsonb,jsonb)') END)
            AND p.proargtypes OPERATOR(pg_catalog.=) '3802 3802 3802'::pg_catalog.oidvector),
        NEW.function);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._find_connector() IS
    'Trigger: gives a connector''s function its whole name.';
CREATE TRIGGER a_find BEFORE INSERT OR UPDATE OF function ON chatwebhook.connector
    FOR EACH ROW WHEN (NEW.function IS NOT NULL)
    EXECUTE FUNCTION chatwebhook._find_connector();

CREATE FUNCTION chatwebhook._rule_problem(rules jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN jsonb_typeof(rules) <> 'array' THEN 'they are not an array'
           ELSE (
        SELECT CASE
               WHEN jsonb_typeof(r) <> 'object' THEN format('rule %s is not an object', n)
               WHEN r - '{status,step,contains,means,wait}'::text[] <> '{}'
                   THEN format('rule %s has the unknown key "%s"', n,
                               (SELECT k FROM jsonb_object_keys(r - '{status,step,contains,means,wait}'::text[]) k LIMIT 1))
               WHEN coalesce(r->>'means', '') NOT IN ('success', 'retry', 'dead', 'disable')
                   THEN format('rule %s does not say what it means: success, retry, dead or disable', n)
               WHEN jsonb_typeof(r->'status') IS DISTINCT FROM 'number' AND jsonb_typeof(r->'status') IS DISTINCT FROM 'array'
                    OR jsonb_path_exists(r, '$.status[*] ? (!(@ >= 100 && @ <= 599 && @.floor() == @))')
                    OR jsonb_path_exists(r, '$.status[*] ? (@.type() != "number")')
                   THEN format('the status of rule %s is not a number from 100 to 599, or an array of such', n)
               WHEN r ? 'step' AND (jsonb_typeof(r->'step') <> 'number' OR r->>'step' !~ '^[1-9][0-9]?$')
                   THEN format('the step of rule %s is not a number from 1 to 99', n)
               WHEN r ? 'contains' AND (jsonb_typeof(r->'contains') <> 'string' OR r->>'contains' = '')
                   THEN format('what rule %s looks for is not a text', n)
               WHEN r ? 'wait' AND jsonb_typeof(r->'wait') <> 'string' AND r->>'wait' !~ '^[0-9]{1,5}$'
                   THEN format('the wait of rule %s is neither seconds nor a key', n)
               END
          FROM jsonb_array_elements(rules) WITH ORDINALITY AS e(r, n)
         ORDER BY 1 NULLS LAST LIMIT 1) END
$$;
COMMENT ON FUNCTION chatwebhook._rule_problem(jsonb) IS
    'Why these rules cannot say what replies mean, or null if they can.';

CREATE FUNCTION chatwebhook._check_connector() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    problem text;
    f       record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.connector = OLD.name) THEN
            RAISE EXCEPTION 'connector "%" is used by webhook "%"', OLD.name,
                    (SELECT w.name FROM chatwebhook.webhook w WHERE w.connector = OLD.name ORDER BY 1 LIMIT 1)
                USING ERRCODE = 'restrict_violation',
                      HINT = 'Change or delete the webhooks that use it first.';
        END IF;
        RETURN OLD;
    END IF;
    IF chatwebhook._restoring() THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.name <> OLD.name
       AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.connector = OLD.name) THEN
        RAISE EXCEPTION 'cannot rename connector "%", which webhooks use', OLD.name
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.name !~ '^[a-z0-9_-]{1,63}$' THEN
        RAISE EXCEPTION 'invalid connector name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use up to 63 small letters, digits, _ and -, such as teams.';
    END IF;
    IF NEW.name = 'webhook' THEN
        IF NEW.function IS NOT NULL THEN
            RAISE EXCEPTION 'connector "webhook" is built in and takes no function'
                USING ERRCODE = 'check_violation', HINT = 'Register yours under another name.';
        END IF;
    ELSE
        SELECT p.provolatile, l.lanname, p.prorettype, p.proowner, p.proretset INTO f
          FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.oid = to_regprocedure(NEW.function)
           AND p.proargtypes = '3802 3802 3802'::oidvector;
        problem := CASE
            WHEN f IS NULL THEN 'there is no such function of (jsonb, jsonb, jsonb)'
            WHEN f.prorettype <> 'chatwebhook.request'::regtype OR f.proretset THEN 'it does not return chatwebhook.request'
            WHEN f.provolatile = 'v' THEN 'it is volatile, and must be STABLE or IMMUTABLE'
            WHEN f.lanname NOT IN ('sql', 'plpgsql') THEN format('it is in %s, and must be in sql or plpgsql', f.lanname)
            WHEN NOT pg_has_role(chatwebhook._invoker(), f.proowner, 'USAGE') THEN 'it runs as its owner, and only those with that role''s rights can register it'
        END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'cannot use function "%" as connector "%": %', left(NEW.function, 200), NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Create it as f(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE.';
        END IF;
    END IF;
    problem := chatwebhook._rule_problem(NEW.replies);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'unusable rules for replies of connector "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = 'Give an array such as [{"status": 409, "means": "success"}].';
    END IF;
    NEW.shipped := false;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector() IS 'Trigger: checks a connector.';

CREATE FUNCTION chatwebhook._check_connector_access(connector text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    signature text := (SELECT c.function FROM chatwebhook.connector c WHERE c.name = connector);
BEGIN
    IF to_regprocedure(signature) IS NOT NULL
       AND NOT has_function_privilege(chatwebhook._invoker(), to_regprocedure(signature), 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied for connector "%"', connector
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Its owner can GRANT EXECUTE ON FUNCTION %s.', signature);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector_access(text) IS
    'An error if the role on whose behalf this runs may not execute this connector''s function.';
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.connector
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();
ALTER TABLE chatwebhook.connector ENABLE ALWAYS TRIGGER changed;
ALTER TABLE chatwebhook.connector ENABLE ALWAYS TRIGGER emptied;
