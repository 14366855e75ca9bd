/*
 * Connectors: functions that turn an event into the requests that one kind of
 * service takes.  src/connector.c calls them with pg_catalog as search_path.
 * The files in connectors/ are those that ship with the extension.
 */
CREATE TYPE chatwebhook.request AS (
    method  text,
    url     text,
    headers jsonb,
    body    jsonb,
    last    boolean
);
COMMENT ON TYPE chatwebhook.request IS 'A request that a connector wants to send.';
COMMENT ON COLUMN chatwebhook.request.method IS 'GET, POST, PUT, PATCH or DELETE. Null means POST.';
COMMENT ON COLUMN chatwebhook.request.url IS
    'URL of the request, usually the webhook''s url with something appended; if both have a query, the appended ? becomes &. Null means the webhook''s url.';
COMMENT ON COLUMN chatwebhook.request.headers IS
    'Headers of this request, an object of strings. The Content-Type is application/json unless it is among them. The headers of the webhook and its auth are added. Null means none.';
COMMENT ON COLUMN chatwebhook.request.body IS 'Sent as compact JSON. Null means no body.';
COMMENT ON COLUMN chatwebhook.request.last IS
    'True if the delivery is complete once this request has succeeded. Otherwise the connector is called again.';

/*
 * For those who write a connector
 */
CREATE FUNCTION chatwebhook.cut(value text, size integer) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_cut'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.cut(text, integer) IS
    'Returns the text, truncated to this many characters with an ellipsis if it is longer. A character beyond U+FFFF counts twice, as in JavaScript.';

CREATE FUNCTION chatwebhook.url_encode(value text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_url_encode'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook.url_encode(text) IS
    'Percent-encodes a text (RFC 3986), as UTF-8, for use in a URL''s path or query. Letters, digits and -._~ stay as they are.';

/*
 * For the connectors that ship.  These are in PL/pgSQL, which keeps their plans
 * for the session: in SQL, they would be planned again for each event, at every
 * place where a connector calls them.
 */
CREATE FUNCTION chatwebhook._line(value jsonb, size integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF jsonb_typeof(value) NOT IN ('string', 'number', 'boolean') THEN
        RETURN NULL;
    END IF;
    RETURN chatwebhook.cut(nullif(btrim(regexp_replace(value #>> '{}', '[[:space:][:cntrl:]]+', ' ', 'g')), ''), size);
END
$$;
COMMENT ON FUNCTION chatwebhook._line(jsonb, integer) IS
    'Returns a string, number or boolean as one line of at most this many characters; null if nothing is left.';

CREATE FUNCTION chatwebhook._text(value text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN nullif(regexp_replace(replace(replace(btrim(value, E' \t\r\n'), E'\r\n', E'\n'), E'\r', E'\n'),
                                 E'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g'), '');
END
$$;
COMMENT ON FUNCTION chatwebhook._text(text) IS
    'Returns a text with its line breaks and without other control characters; null if nothing is left.';

CREATE FUNCTION chatwebhook._history(history jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF jsonb_typeof(history) <> 'array' THEN
        RETURN chatwebhook._text(history #>> '{}');
    END IF;
    RETURN (SELECT string_agg(CASE WHEN jsonb_typeof(m.message) = 'object' AND m.message ? 'content'
                                   THEN concat_ws(': ', chatwebhook._line(m.message->'role', 40),
                                                  chatwebhook._text(m.message->>'content'))
                                   ELSE chatwebhook._text(m.message #>> '{}') END,
                              E'\n\n' ORDER BY m.place)
              FROM jsonb_array_elements(history) WITH ORDINALITY AS m(message, place));
END
$$;
COMMENT ON FUNCTION chatwebhook._history(jsonb) IS
    'Returns a conversation as text, with a paragraph for each message of an array of {role, content}.';

CREATE FUNCTION chatwebhook._score(score jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    RETURN CASE WHEN jsonb_typeof(score) <> 'number' THEN score #>> '{}'
                WHEN score::numeric BETWEEN 0 AND 1 THEN round(score::numeric * 100) || '% negative'
                ELSE score #>> '{}' END;
END
$$;
COMMENT ON FUNCTION chatwebhook._score(jsonb) IS
    'Returns a sentiment score from 0 to 1 as a percentage, and any other value as it is.';

CREATE FUNCTION chatwebhook._amount(amount jsonb, currency text) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
BEGIN
    RETURN CASE WHEN jsonb_typeof(amount) <> 'number' THEN amount #>> '{}'
                WHEN abs(amount::numeric) < 1e12
                THEN coalesce(currency, '$') || rtrim(to_char(amount::numeric, 'FM999,999,999,990.99'), '.')
                ELSE amount #>> '{}' END;
END
$$;
COMMENT ON FUNCTION chatwebhook._amount(jsonb, text) IS
    'Returns a number as an amount of money, with thousands separators, and any other value as it is.';

CREATE FUNCTION chatwebhook._address(value jsonb, size integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    -- stricter than RFC 5321: what one service refuses is sent as text to all
    part    constant text := E'[^[:space:][:cntrl:]@<>(),;:{}\\\\"\\[\\]]';
    address text := chatwebhook._line(value, size + 1);
BEGIN
    IF chatwebhook.cut(address, size) = address
       AND address ~ concat('^', part, '+@(', part, '+[.])+([[:alpha:]]{2,63}|xn--[[:alnum:]-]{2,59})$')
       AND address !~ '^[.]|[.]{2}|[.]@|@[.-]' THEN
        RETURN address;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._address(jsonb, integer) IS
    'Returns an e-mail address of at most this many characters; null if the value is not one that every service accepts.';

CREATE FUNCTION chatwebhook._link(event jsonb, webhook jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    link text := rtrim(webhook #>> '{settings,app_url}', '/') || '/conversations/'
                 || chatwebhook.url_encode(nullif(event->>'conversationId', ''));
BEGIN
    RETURN CASE WHEN link ~ '^https?://[!#-;=?-{}~]+$' AND length(link) <= 1900 THEN link END;
END
$$;
COMMENT ON FUNCTION chatwebhook._link(jsonb, jsonb) IS
    'Returns the URL of the event''s conversation in the application, from the setting app_url; null if there is none.';

/*
 * settings.fields: each target field with where its value comes from.  A member
 * that is an object maps the fields of one type of event, which its key names.
 */
CREATE FUNCTION chatwebhook._fields(event jsonb, settings jsonb, separator text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS $$
DECLARE
    maps    jsonb := settings->'fields';
    own     text := event->>'type';
    treated text := settings #>> ARRAY['as', own];
    target  text;
    source  jsonb;
    value   jsonb;
    result  jsonb := '{}';
BEGIN
    IF jsonb_typeof(maps) IS DISTINCT FROM 'object' THEN
        RETURN result;
    END IF;
    -- the later ones replace the earlier ones
    FOR target, source IN
        SELECT f.key, f.value
          FROM (SELECT m.key, m.value, 0 AS n
                  FROM jsonb_each(maps) AS m WHERE jsonb_typeof(m.value) <> 'object'
                UNION ALL
                SELECT m.key, m.value, t.n
                  FROM unnest(ARRAY[treated, own]) WITH ORDINALITY AS t(type, n),
                       jsonb_each(CASE jsonb_typeof(maps->t.type) WHEN 'object' THEN maps->t.type ELSE '{}' END) AS m) AS f
         ORDER BY f.n, f.key
    LOOP
        IF source #>> '{}' LIKE '$%' THEN
            value := jsonb_path_query_array(event, (source #>> '{}')::jsonpath, '{}', true);
            value := CASE WHEN jsonb_array_length(value) > 1 THEN value ELSE value->0 END;
            CONTINUE WHEN coalesce(value, 'null') = 'null';
        ELSIF source #>> '{}' LIKE '@%' THEN
            value := to_jsonb(substr(source #>> '{}', 2));
        ELSE
            value := source;
        END IF;
        -- an empty value counts as not mapped
        CONTINUE WHEN value IN ('""', '[]', '{}', '[""]', '[null]');
        IF separator IS NOT NULL AND jsonb_typeof(value) = 'array'
           AND NOT jsonb_path_exists(value, '$[*] ? (@.type() == "array" || @.type() == "object")') THEN
            value := to_jsonb((SELECT string_agg(e.element, separator ORDER BY e.n)
                                 FROM jsonb_array_elements_text(value) WITH ORDINALITY AS e(element, n)));
        ELSIF separator IS NOT NULL AND value <> 'null' THEN
            value := to_jsonb(value #>> '{}');
        END IF;
        result := result || jsonb_build_object(target, value);
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION chatwebhook._fields(jsonb, jsonb, text) IS
    'Returns the fields that settings.fields maps for an event, with their values: as text, arrays joined by the separator, or unchanged if that is null. A field that is not to be sent is null.';

CREATE FUNCTION chatwebhook._details(data jsonb, shown text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
BEGIN
    IF jsonb_typeof(data) <> 'object' THEN
        RETURN chatwebhook._text(chatwebhook.cut(data #>> '{}', 5000));
    END IF;
    RETURN (SELECT string_agg(concat(chatwebhook._line(to_jsonb(e.key), 255), ': ', e.line), E'\n' ORDER BY e.place)
              FROM (SELECT d.key, d.place, chatwebhook._text(chatwebhook.cut(d.value #>> '{}', 5000)) AS line
                      FROM jsonb_each(data) WITH ORDINALITY AS d(key, value, place)
                     WHERE d.key <> ALL (shown)) AS e
             WHERE e.line IS NOT NULL);
END
$$;
COMMENT ON FUNCTION chatwebhook._details(jsonb, text[]) IS
    'Returns the data of an event as text, a line for each key except these; null if there is none.';

/*
 * Connectors that webhooks can use
 */
CREATE TABLE chatwebhook.connector (
    name        text PRIMARY KEY,
    function    text,
    description text,
    replies     jsonb NOT NULL DEFAULT '[]',
    signed      boolean NOT NULL DEFAULT false,
    batches     boolean NOT NULL DEFAULT false,
    ordered     boolean NOT NULL DEFAULT false,
    shipped     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE chatwebhook.connector IS
    'The kinds of services that webhooks can send to. Add your own.';
COMMENT ON COLUMN chatwebhook.connector.name IS
    'Name that webhooks use: at most 63 lower-case letters, digits, _ and -.';
COMMENT ON COLUMN chatwebhook.connector.function IS
    'Function of the connector, such as public.teams(jsonb,jsonb,jsonb): f(event, webhook, replies) returning chatwebhook.request, in SQL or PL/pgSQL, STABLE or IMMUTABLE. It runs as its owner, in a read-only transaction, with pg_catalog as search_path. Null for webhook, which is built in. (The type is text because pg_upgrade refuses regprocedure columns.)';
COMMENT ON COLUMN chatwebhook.connector.description IS 'Description for people.';
COMMENT ON COLUMN chatwebhook.connector.replies IS
    'Rules for what replies mean, an array of objects; the first that matches applies. Keys: status (a number or an array of numbers), step (number of the request, from 1; optional), contains (text in the body; optional), path (a jsonpath predicate that must be true of the JSON body, as with the operator @@; optional), means (success, retry, dead or disable), wait (seconds to wait at least, or the key of the body that has them; optional), remember (an object of names and jsonpaths: the first item that each path finds in a successful reply is kept for the webhook and the conversation; optional). A rule with remember but without means only remembers. If a rule for a step means success and names a 2xx status, a 2xx that matches no rule with means is a failure, and is retried.';
COMMENT ON COLUMN chatwebhook.connector.signed IS
    'If true, requests to the webhook''s own URL are signed like those of the connector webhook: over the exact bytes of the body, with the same headers. Webhooks have a signing secret only if their connector is signed.';
COMMENT ON COLUMN chatwebhook.connector.batches IS
    'If true, webhooks with this connector can have a batch_size above 1. The function then gets an array of events, even for a single one, and makes one request for all of them, after which it is not called again. A connector with a rule that remembers cannot take batches.';
COMMENT ON COLUMN chatwebhook.connector.ordered IS
    'If true, webhooks with this connector are ordered: deliveries of one conversation are sent one after another. A connector with a rule that remembers is always ordered.';
COMMENT ON COLUMN chatwebhook.connector.shipped IS
    'True for a connector that came with the extension and was not changed. pg_dump omits it.';
SELECT pg_catalog.pg_extension_config_dump('chatwebhook.connector', 'WHERE NOT shipped');

INSERT INTO chatwebhook.connector (name, description, signed, batches, shipped) VALUES
    ('webhook', 'The event itself as JSON, signed, for your own endpoint.', true, true, true);

CREATE FUNCTION chatwebhook._find_connector() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS $$
DECLARE
    owner pg_catalog.oid;
BEGIN
    -- the function is looked up in the caller's search_path, so none is pinned here
    NEW.function := COALESCE(
        (SELECT pg_catalog.format('%I.%I(jsonb,jsonb,jsonb)', n.nspname, p.proname)
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
          WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(
                CASE WHEN pg_catalog.strpos(NEW.function, '(') OPERATOR(pg_catalog.>) 0 THEN NEW.function
                     ELSE pg_catalog.concat(NEW.function, '(jsonb,jsonb,jsonb)') END)
            AND p.proargtypes OPERATOR(pg_catalog.=) '3802 3802 3802'::pg_catalog.oidvector),
        NEW.function);
    -- it would run as its owner
    SELECT p.proowner INTO owner FROM pg_catalog.pg_proc p
     WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(NEW.function);
    IF NOT pg_catalog.pg_has_role(owner, 'USAGE') THEN
        RAISE EXCEPTION 'cannot use function "%" as connector "%": it runs with the rights of its owner, which this role does not have',
                pg_catalog.left(NEW.function, 200), NEW.name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Have the owner of the function register it.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._find_connector() IS
    'Trigger, with the rights of whoever changes a connector: qualifies the name of its function, and checks whose it is.';

CREATE FUNCTION chatwebhook._path_problem(path text) RETURNS text
    AS 'MODULE_PATHNAME', 'chatwebhook_path_problem'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION chatwebhook._path_problem(text) IS
    'Returns why a rule for replies cannot have this jsonpath, or null.';

CREATE FUNCTION chatwebhook._remember_problem(rule jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    what jsonb := rule->'remember';
BEGIN
    IF rule->>'means' <> 'success' THEN
        RETURN format('only a rule that means success can remember, and this one means %s', left(rule->>'means', 100));
    END IF;
    IF jsonb_typeof(what) <> 'object' OR what = '{}' THEN
        RETURN 'it is not an object of names and jsonpaths';
    END IF;
    IF (SELECT count(*) FROM jsonb_object_keys(what)) > 20 THEN
        RETURN 'it has more than 20 names';
    END IF;
    RETURN (SELECT CASE
                WHEN name !~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$'
                    THEN format('"%s" is not a name of at most 63 letters, digits and _', left(name, 100))
                WHEN jsonb_typeof(path) <> 'string'
                    THEN format('%s is not a string with a jsonpath', name)
                WHEN chatwebhook._path_problem(path #>> '{}') IS NOT NULL
                    THEN format('%s has the path "%s": %s', name, left(path #>> '{}', 100),
                                chatwebhook._path_problem(path #>> '{}'))
                END AS problem
              FROM jsonb_each(what) AS e(name, path)
             ORDER BY 1 NULLS LAST LIMIT 1);
END
$$;
COMMENT ON FUNCTION chatwebhook._remember_problem(jsonb) IS
    'Returns why a rule for replies cannot remember what it says, or null.';

CREATE FUNCTION chatwebhook._check_connector() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    known   constant text[] := '{status,step,contains,path,means,wait,remember}';
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
        IF TG_OP = 'INSERT' THEN
            -- the dump has the connector as it was changed
            DELETE FROM chatwebhook.connector WHERE name = NEW.name AND shipped;
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.name <> OLD.name
       AND EXISTS (SELECT FROM chatwebhook.webhook w WHERE w.connector = OLD.name) THEN
        RAISE EXCEPTION 'cannot rename connector "%" because webhooks use it', OLD.name
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.name !~ '^[a-z0-9_-]{1,63}$' THEN
        RAISE EXCEPTION 'invalid connector name: "%"', left(NEW.name, 100)
            USING ERRCODE = 'check_violation',
                  HINT = 'Use at most 63 lower-case letters, digits, _ and -, such as teams.';
    END IF;
    IF NEW.name = 'webhook' THEN
        IF NEW.function IS NOT NULL THEN
            RAISE EXCEPTION 'connector "webhook" is built in and takes no function'
                USING ERRCODE = 'check_violation', HINT = 'Register your function under another name.';
        END IF;
        IF NOT (NEW.signed AND NEW.batches) THEN
            RAISE EXCEPTION 'connector "webhook" is always signed, and takes batches'
                USING ERRCODE = 'check_violation', HINT = 'Leave its columns signed and batches true.';
        END IF;
    ELSE
        SELECT p.provolatile, l.lanname, p.prorettype, p.proretset INTO f
          FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.oid = to_regprocedure(NEW.function)
           AND p.proargtypes = '3802 3802 3802'::oidvector;
        problem := CASE
            WHEN f IS NULL THEN 'there is no such function with the arguments (jsonb, jsonb, jsonb)'
            WHEN f.prorettype <> 'chatwebhook.request'::regtype OR f.proretset THEN 'it does not return chatwebhook.request'
            WHEN f.provolatile = 'v' THEN 'it is VOLATILE, but must be STABLE or IMMUTABLE'
            WHEN f.lanname NOT IN ('sql', 'plpgsql') THEN format('its language is %s, but must be sql or plpgsql', f.lanname)
        END;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'cannot use function "%" as connector "%": %', left(NEW.function, 200), NEW.name, problem
                USING ERRCODE = 'check_violation',
                      HINT = 'Create it as f(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE.';
        END IF;
    END IF;

    -- the first problem of the rules for replies
    IF jsonb_typeof(NEW.replies) <> 'array' THEN
        problem := 'they are not an array';
    ELSE
        SELECT CASE
               WHEN jsonb_typeof(r) <> 'object' THEN format('rule %s is not an object', n)
               WHEN r - known <> '{}'
                   THEN format('rule %s has the unknown key "%s"', n,
                               (SELECT left(k, 100) FROM jsonb_object_keys(r - known) k LIMIT 1))
               WHEN NOT (r ? 'remember' AND NOT r ? 'means')
                    AND coalesce(r->>'means', '') NOT IN ('success', 'retry', 'dead', 'disable')
                   THEN format('means of rule %s is not success, retry, dead or disable', n)
               WHEN jsonb_typeof(r->'status') IS DISTINCT FROM 'number' AND jsonb_typeof(r->'status') IS DISTINCT FROM 'array'
                    OR jsonb_path_exists(r, '$.status[*] ? (!(@ >= 100 && @ <= 599 && @.floor() == @))')
                    OR jsonb_path_exists(r, '$.status[*] ? (@.type() != "number")')
                   THEN format('status of rule %s is not a number from 100 to 599 or an array of such numbers', n)
               WHEN r ? 'step' AND (jsonb_typeof(r->'step') <> 'number' OR r->>'step' !~ '^[1-9][0-9]?$')
                   THEN format('step of rule %s is not a number from 1 to 99', n)
               WHEN r ? 'contains' AND (jsonb_typeof(r->'contains') <> 'string' OR r->>'contains' = '')
                   THEN format('contains of rule %s is not a string, or is empty', n)
               WHEN r ? 'path' AND jsonb_typeof(r->'path') <> 'string'
                   THEN format('path of rule %s is not a string with a jsonpath', n)
               WHEN r ? 'path' AND chatwebhook._path_problem(r->>'path') IS NOT NULL
                   THEN format('path of rule %s is "%s": %s', n, left(r->>'path', 100), chatwebhook._path_problem(r->>'path'))
               WHEN r ? 'remember' AND chatwebhook._remember_problem(r) IS NOT NULL
                   THEN format('remember of rule %s: %s', n, chatwebhook._remember_problem(r))
               WHEN r ? 'wait' AND jsonb_typeof(r->'wait') <> 'string' AND r->>'wait' !~ '^[0-9]{1,5}$'
                   THEN format('wait of rule %s is neither a number of seconds nor a key', n)
               END
          INTO problem
          FROM jsonb_array_elements(NEW.replies) WITH ORDINALITY AS e(r, n)
         ORDER BY 1 NULLS LAST LIMIT 1;
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'invalid rules for replies of connector "%": %', NEW.name, problem
            USING ERRCODE = 'check_violation',
                  HINT = 'Use an array such as [{"status": 200, "path": "$.ok == true", "means": "success", "remember": {"thread": "$.ts"}}].';
    END IF;
    IF NEW.batches AND jsonb_path_exists(NEW.replies, '$[*].remember') THEN
        RAISE EXCEPTION 'connector "%" cannot both take batches and remember', NEW.name
            USING ERRCODE = 'check_violation',
                  DETAIL = 'A batch has events of many conversations, and one reply.',
                  HINT = 'Set batches to false, or remove remember from the rules for replies.';
    END IF;
    -- the next delivery of a conversation needs what the previous one remembered
    NEW.ordered := NEW.ordered OR jsonb_path_exists(NEW.replies, '$[*].remember');
    NEW.shipped := false;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector() IS 'Trigger: checks a connector.';

/*
 * The new rules may let the worker send to a webhook that it could not send to.
 * The function runs with all but ALWAYS triggers off, so it must itself do what
 * _webhook_follow() does when a webhook becomes ordered or signed.
 */
CREATE FUNCTION chatwebhook._connector_follow() RETURNS trigger
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = replica
    AS $$
DECLARE
    hook uuid;
BEGIN
    IF NEW.ordered AND NOT OLD.ordered THEN
        FOR hook IN UPDATE chatwebhook.webhook w SET ordered = true, updated_at = now()
                     WHERE w.connector = NEW.name AND NOT w.ordered
                    RETURNING w.id LOOP
            UPDATE chatwebhook.queue q SET ordered = true
             WHERE q.webhook_id = hook AND octet_length(q.conversation_id) <= 2000
               AND q.deliver_at IS NULL AND q.debounce_until IS NULL;
        END LOOP;
    END IF;
    IF NEW.signed AND NOT OLD.signed THEN
        PERFORM chatwebhook._follow_signing(w.id, w.signing)
           FROM chatwebhook.webhook w WHERE w.connector = NEW.name;
    END IF;
    PERFORM chatwebhook._wake(w.id) FROM chatwebhook.webhook w WHERE w.connector = NEW.name;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION chatwebhook._connector_follow() IS
    'Trigger: if a connector has become ordered, makes its webhooks ordered, and if it has become signed, gives them secrets. Wakes workers for them.';

/*
 * Connectors that ship are inserted by CREATE EXTENSION, which turns
 * check_function_bodies off as a restore does: they are not checked.
 */
CREATE TRIGGER a_find BEFORE INSERT OR UPDATE OF function ON chatwebhook.connector
    FOR EACH ROW WHEN (NEW.function IS NOT NULL)
    EXECUTE FUNCTION chatwebhook._find_connector();
CREATE TRIGGER check_connector BEFORE INSERT OR UPDATE OR DELETE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._check_connector();
CREATE TRIGGER follow AFTER UPDATE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._connector_follow();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON chatwebhook.connector
    FOR EACH ROW EXECUTE FUNCTION chatwebhook._changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON chatwebhook.connector
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook._changed();

CREATE FUNCTION chatwebhook._check_connector_access(connector text) RETURNS void
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    signature text := (SELECT c.function FROM chatwebhook.connector c WHERE c.name = connector);
BEGIN
    -- the connector runs as its owner, so the role that uses it must be allowed to call it
    IF to_regprocedure(signature) IS NOT NULL
       AND NOT has_function_privilege(to_regprocedure(signature), 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied for connector "%"', connector
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('The function''s owner can GRANT EXECUTE ON FUNCTION %s.', signature);
    END IF;
END
$$;
COMMENT ON FUNCTION chatwebhook._check_connector_access(text) IS
    'Raises an error unless the caller may execute this connector''s function.';
