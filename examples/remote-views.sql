/*
 * See deliveries, and retry them, from the application's own database, with the
 * extension on another server, the delivery node.  docs/replication.md says what is
 * safe, and what is fast.
 *
 * On the delivery node, an administrator creates two roles:
 *
 *     CREATE ROLE chat_reader LOGIN PASSWORD '...';
 *     CREATE ROLE chat_app LOGIN PASSWORD '...';
 *     SELECT chatwebhook.grant_reader('chat_reader'), chatwebhook.grant_app('chat_app');
 *
 * A superuser runs this on the application's server, where the application has the
 * role "app":
 *
 *     psql -v host=node.example.com -v port=5432 -v dbname=chat
 *          -v reader_password=... -v app_password=... -f remote-views.sql
 */
\set ON_ERROR_STOP on
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE SCHEMA webhooks;
CREATE EXTENSION dblink SCHEMA webhooks;

/*
 * 1. For operators: all deliveries, and how the webhooks do, but no chats.  Only the
 * role that runs this has a user mapping; give others views of its, as below.
 */
CREATE SERVER delivery_node FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'host', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER delivery_node
    OPTIONS (user 'chat_reader', password :'reader_password');
IMPORT FOREIGN SCHEMA chatwebhook LIMIT TO (delivery, webhook_health, alert, worker_status)
    FROM SERVER delivery_node INTO webhooks;

/*
 * 2. For the application: the deliveries of the customer's chatbot, which each of its
 * transactions names with SET LOCAL chatwebhook.chatbot = 'shop'.  The setting does
 * not travel with the query, but the condition does: in a subquery, it is evaluated
 * here.
 */
CREATE VIEW webhooks.my_delivery WITH (security_barrier) AS
    SELECT * FROM webhooks.delivery
     WHERE chatbot_id = (SELECT NULLIF(current_setting('chatwebhook.chatbot', true), ''));

/*
 * 3. To retry and cancel them.  A function runs where it is called, so the call has
 * to be sent to the delivery node.  There, the role chat_app sees only what belongs
 * to the chatbot that the call names, whatever the delivery's id is.
 */
CREATE SERVER delivery_node_app FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'host', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER delivery_node_app
    OPTIONS (user 'chat_app', password :'app_password');

CREATE FUNCTION webhooks.retry(delivery_id bigint) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT retried
      FROM webhooks.dblink('delivery_node_app', format(
               'WITH chatbot AS MATERIALIZED (SELECT pg_catalog.set_config(''chatwebhook.chatbot'', %L, true))
                SELECT chatwebhook.retry(%L) FROM chatbot',
               current_setting('chatwebhook.chatbot'), delivery_id)) AS d (retried boolean)
$$;
CREATE FUNCTION webhooks.cancel(delivery_id bigint) RETURNS boolean
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT canceled
      FROM webhooks.dblink('delivery_node_app', format(
               'WITH chatbot AS MATERIALIZED (SELECT pg_catalog.set_config(''chatwebhook.chatbot'', %L, true))
                SELECT chatwebhook.cancel(%L) FROM chatbot',
               current_setting('chatwebhook.chatbot'), delivery_id)) AS d (canceled boolean)
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA webhooks FROM PUBLIC;

GRANT USAGE ON SCHEMA webhooks TO app;
GRANT SELECT ON webhooks.my_delivery TO app;
GRANT EXECUTE ON FUNCTION webhooks.retry(bigint), webhooks.cancel(bigint) TO app;

/*
 * 4. For one chatbot alone: a server whose connections name it.  All that an app role
 * sees can then be a foreign table, and webhooks can be updated.  The connection must
 * not go through a pooler.
 */
CREATE SERVER delivery_node_shop FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'host', port :'port', dbname :'dbname', options '-c chatwebhook.chatbot=shop');
CREATE USER MAPPING FOR CURRENT_USER SERVER delivery_node_shop
    OPTIONS (user 'chat_app', password :'app_password');
CREATE SCHEMA shop_webhooks;
-- a generated column of webhook is computed there
IMPORT FOREIGN SCHEMA chatwebhook LIMIT TO (webhook, event, delivery, dead_letter, attempt, webhook_health, alert)
    FROM SERVER delivery_node_shop INTO shop_webhooks OPTIONS (import_generated 'false');
