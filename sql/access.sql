/*
 * Who sees what: row-level security, with policies for the roles that were
 * granted access.  PostgreSQL checks them against the current user and, where a
 * view or a SECURITY DEFINER function reads a table, against its owner.  So
 * nothing here asks who is behind a query.  _create_policy() in privileges.sql
 * creates the policies.
 *
 * An admin, a reader and pg_monitor see all rows.  An app, which is the role that
 * an application's server shares among its customers, sees the rows of the chatbot
 * that the setting chatwebhook.chatbot names.  A webhook of every chatbot belongs
 * to the admins, although its deliveries carry the customers' chatbots: an app
 * sees a delivery only if both the chatbot and the webhook are its own.
 *
 * Our views have security_invoker, so the policies apply to them as well.
 */
ALTER TABLE chatwebhook.webhook ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.event ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.history ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.dead ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.attempt ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.memory ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.health ENABLE ROW LEVEL SECURITY;
ALTER TABLE chatwebhook.alert ENABLE ROW LEVEL SECURITY;

/*
 * Functions that do to a webhook, to deliveries, or to events what their caller
 * has no privileges for are chatwebhook_guarded (src/access.c): some of the public
 * ones, and _cancel(), _requeue(), _purge(), _erase(), _forget(),
 * _preview() and _set_signing_secret(), which other public ones call.  A guarded function reads
 * the rows that its first argument names with the rights of the caller, and then
 * calls the function of the same name that begins with _do_.  That one runs with
 * the rights of the owner, and nobody else may call it.
 *
 * rekey(), wait_until_idle(), adopt(), confirm_copy(), forget_slot(), ignore_slot(), grant_*()
 * and revoke_access() name no rows.  They run with the rights of the owner, and only
 * the owner or admins may call them.
 */
