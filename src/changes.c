/*
 * changes.c
 *		What has changed of the configuration, and the OIDs of the extension's
 *		relations.
 *
 * Triggers on the tables of the configuration send a relcache invalidation.  It
 * reaches the changing session at once, and other processes when the change
 * commits, as it would for a change of the catalogs.
 *
 * A change of a row of webhook or vault must cost only those processes that use
 * this row: one customer's changes are not to slow down another's chats.  So it
 * invalidates the table's primary key instead of the table, which tells the
 * receiver to compare stamps.  A stamp is a counter in shared memory, one for
 * each bucket that a webhook's id, or a chatbot's, is hashed to; the trigger
 * notes the buckets, and the commit increments their counters, after other
 * sessions can see the change, and before the invalidation is sent.  A receiver
 * that finds a counter unchanged can rely on what it has read.
 *
 * Any other invalidation changes everything: of the tables themselves (DDL,
 * TRUNCATE, or a restore that disables triggers and enables them again), of
 * event_type and connector, which only administrators change, and of the
 * extension.  Row changes also do so without shared memory, with prepared
 * transactions (another session may commit), and on a standby.
 *
 * Functions here run in the caller's transaction, and begin or end none.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "changes.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(chatwebhook_changed);

/* A relation of the extension. */
typedef struct RelationEntry
{
	Oid			oid;			/* kept while invalid, to notice more changes */
	bool		valid;			/* neither it nor its schema has changed since
								 * it was looked up */
} RelationEntry;

static const char *const relation_names[CWH_RELATIONS] = {
	[CWH_REL_EVENT_TYPE] = "event_type",
	[CWH_REL_CONNECTOR] = "connector",
	[CWH_REL_IDENTITY] = "identity",
	[CWH_REL_WEBHOOK] = "webhook",
	[CWH_REL_VAULT] = "vault",
	[CWH_REL_WEBHOOK_PKEY] = "webhook_pkey",
	[CWH_REL_VAULT_PKEY] = "vault_pkey",
	[CWH_REL_WEBHOOK_CHATBOT] = "webhook_chatbot_idx",
	[CWH_REL_WEBHOOK_COPY] = "_webhook",
	[CWH_REL_WEBHOOK_COPY_CHATBOT] = "_webhook_chatbot_idx",
	[CWH_REL_EVENT] = "event",
	[CWH_REL_EVENT_PKEY] = "event_pkey",
	[CWH_REL_QUEUE] = "queue",
	[CWH_REL_QUEUE_PKEY] = "queue_pkey",
	[CWH_REL_QUEUE_CLAIM] = "queue_claim_idx",
	[CWH_REL_QUEUE_ORDER] = "queue_order_idx",
	[CWH_REL_HISTORY] = "history",
	[CWH_REL_HISTORY_PKEY] = "history_pkey",
	[CWH_REL_DEAD] = "dead",
	[CWH_REL_DEAD_PKEY] = "dead_pkey",
	[CWH_REL_MEMORY] = "memory",
	[CWH_REL_MEMORY_KEY] = "memory_key",
	[CWH_REL_IDENTITY_IDX] = "identity_idx",
	[CWH_REL_HEALTH] = "health",
	[CWH_REL_HEALTH_PKEY] = "health_pkey",
	[CWH_REL_ALERT] = "alert",
	[CWH_REL_ALERT_OPEN] = "alert_open_idx",
	[CWH_REL_ACTIVITY] = "activity",
	[CWH_REL_ACTIVITY_PKEY] = "activity_pkey",
	[CWH_REL_OUTBOX_SLOT] = "outbox_slot",
	[CWH_REL_DELIVERY_ID_SEQ] = "delivery_id_seq"
};
static RelationEntry relations[CWH_RELATIONS];
static uint32 schema_hash = 0;	/* of our schema's OID; 0: not known */

CwhChanges	cwh_changes = {.generation = 1, .resets = 1};

/*
 * Being informed
 */

/* Anything may have changed. */
static void
change_everything(void)
{
	cwh_changes.generation++;
	cwh_changes.resets++;
}

/* A row of webhook or vault has changed. */
static void
change_row(void)
{
	if (cwh_bumps == NULL || max_prepared_xacts > 0 || RecoveryInProgress())
		change_everything();
	else
		cwh_changes.generation++;
}

/* Relcache callback: a relation has changed, or all if relid is invalid. */
static void
on_relation_change(Datum arg, Oid relid)
{
	/* chatwebhook.c invalidates pg_extension when an extension has changed */
	bool		everything = relid == ExtensionRelationId;
	bool		row = false;

	for (int i = 0; i < CWH_RELATIONS; i++)
	{
		if (relid != InvalidOid && relid != relations[i].oid)
			continue;
		relations[i].valid = false;
		if (i < CWH_CONFIG_TABLES)
			everything = true;
		else if (i < CWH_CONFIG_RELATIONS)
			row = true;
	}
	if (everything)
		change_everything();
	else if (row)
		change_row();
}

/*
 * Syscache callback: a schema was created, renamed or dropped.  Others than ours
 * do not matter, such as those of temporary tables, once ours is known.
 */
static void
on_schema_change(Datum arg, int cacheid, uint32 hashvalue)
{
	if (hashvalue != 0 && schema_hash != 0 && hashvalue != schema_hash)
		return;
	schema_hash = 0;
	memset(relations, 0, sizeof(relations));
	change_everything();
}

/* Register the callbacks, once in each process. */
static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_schema_change, (Datum) 0);
	registered = true;
}

/* The OID of a relation; invalid if it does not exist. */
static Oid
find_relation(CwhRelation which)
{
	RelationEntry *entry = &relations[which];
	Oid			namespace;
	Oid			relation;
	uint64		started;

	if (entry->valid)
		return entry->oid;
	register_callbacks();
	started = cwh_changes.generation;
	namespace = get_namespace_oid("chatwebhook", true);
	if (!OidIsValid(namespace))
		return InvalidOid;
	schema_hash = GetSysCacheHashValue1(NAMESPACEOID,
										ObjectIdGetDatum(namespace));
	relation = get_relname_relid(relation_names[which], namespace);
	/* do not keep it if something changed during the lookup */
	if (OidIsValid(relation) && started == cwh_changes.generation)
	{
		entry->oid = relation;
		entry->valid = true;
	}
	return relation;
}

/* The OID of a relation; an error if it does not exist. */
Oid
cwh_relation(CwhRelation which)
{
	Oid			relation = find_relation(which);

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"chatwebhook.%s\" does not exist",
						relation_names[which]),
				 errhint("Use CREATE EXTENSION chatwebhook, or recreate the relation if it was dropped.")));
	return relation;
}

/*
 * A number that increases when webhooks, connectors, event types or secrets may
 * have changed, or the extension has.  It counts changes that this process has
 * been informed of, that is, those before its last AcceptInvalidationMessages().
 */
uint64
cwh_config_generation(void)
{
	/* only changes of relations with a known OID are noticed */
	for (int i = 0; i < CWH_CONFIG_RELATIONS; i++)
		(void) find_relation(i);
	return cwh_changes.generation;
}

/*
 * Informing others
 */

/*
 * Transaction callback.  An aborted subtransaction leaves its buckets: that
 * some counter moves in vain does no harm.
 */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (!cwh_changes.any_pending)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (int i = 0; cwh_bumps && i < CWH_BUCKETS; i++)
				if (cwh_changes.pending[i / 64] & UINT64CONST(1) << i % 64)
					pg_atomic_fetch_add_u64(&cwh_bumps[i], 1);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	memset(cwh_changes.pending, 0, sizeof(cwh_changes.pending));
	cwh_changes.any_pending = false;
}

/*
 * Increment the counter of a bucket if this transaction commits.  The callback
 * runs before that of shared.c, which was registered earlier: when a worker is
 * woken, the counters have moved.
 */
static void
note_change(CwhBucket bucket)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(at_transaction_end, NULL);
	registered = true;
	cwh_changes.pending[bucket / 64] |= UINT64CONST(1) << bucket % 64;
	cwh_changes.any_pending = true;
}

/* Note that a row of webhook or vault, with these columns, has changed. */
static void
note_row(TriggerData *data, HeapTuple tuple, const char *id_column,
		 const char *chatbot_column)
{
	TupleDesc	desc = RelationGetDescr(data->tg_relation);
	Datum		datum;
	bool		isnull;

	datum = SPI_getbinval(tuple, desc, SPI_fnumber(desc, id_column), &isnull);
	note_change(cwh_bucket(DatumGetUUIDP(datum)->data, UUID_LEN));
	if (chatbot_column == NULL)
		return;
	datum = SPI_getbinval(tuple, desc, SPI_fnumber(desc, chatbot_column),
						  &isnull);
	if (isnull)
		note_change(cwh_bucket("", 0));
	else
	{
		text	   *chatbot = DatumGetTextPP(datum);

		note_change(cwh_bucket(VARDATA_ANY(chatbot), VARSIZE_ANY_EXHDR(chatbot)));
	}
}

/* SQL trigger: invalidate what processes have cached of this row, or table. */
Datum
chatwebhook_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Oid			table;
	bool		is_webhook;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_changed\" was not called by a trigger")));
	table = RelationGetRelid(data->tg_relation);
	is_webhook = table == cwh_relation(CWH_REL_WEBHOOK);
	if (TRIGGER_FIRED_FOR_ROW(data->tg_event) &&
		(is_webhook || table == cwh_relation(CWH_REL_VAULT)))
	{
		const char *id = is_webhook ? "id" : "webhook_id";
		const char *chatbot = is_webhook ? "chatbot_id" : NULL;

		note_row(data, data->tg_trigtuple, id, chatbot);
		if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
			note_row(data, data->tg_newtuple, id, chatbot);
		CacheInvalidateRelcacheByRelid(cwh_relation(is_webhook ?
													CWH_REL_WEBHOOK_PKEY :
													CWH_REL_VAULT_PKEY));
	}
	else
		CacheInvalidateRelcache(data->tg_relation);
	return PointerGetDatum(NULL);
}
