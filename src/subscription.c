/*
 * subscription.c
 *		Which webhooks want which event: a cache in each backend.
 *
 * It is filled from the tables event_type and webhook when first needed, and
 * again after either has changed: their statement triggers send a relcache
 * invalidation for the table, which reaches every session when the change
 * commits, and the changing session at once.  The tables are read directly,
 * not through SQL: whoever emits has no right on them and needs none.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "subscription.h"

PG_FUNCTION_INFO_V1(chatwebhook_changed);

/* A webhook that is enabled. */
typedef struct Subscriber
{
	CwhSubscription subscription;
	char	  **patterns;
	int			npatterns;
} Subscriber;

/* The webhooks of one chatbot; those of every chatbot have a list apart. */
typedef struct Chatbot
{
	char		hash[16];		/* hash key: of the id */
	List	   *subscribers;	/* of Subscriber, of every id with that hash */
} Chatbot;

/* The tables whose changes concern us; their OIDs, once known. */
static const char *const table_names[] = {"event_type", "webhook", "vault"};
static Oid	table_oids[lengthof(table_names)];

/* Relations that were asked for, until they or their schema change. */
typedef struct Known
{
	const char *name;			/* a constant, compared by its address */
	Oid			oid;
} Known;

static Known known[16];
static int	nknown = 0;

static MemoryContext cache_context = NULL;
static bool valid = false;
static uint64 generation = 1;	/* counts invalidations */
static HTAB *types = NULL;		/* of CwhEventType */
static CwhEventType *last_type = NULL;	/* that was looked for */
static HTAB *chatbots = NULL;	/* of Chatbot */
static List *everywhere = NIL;	/* of Subscriber, for every chatbot */

/*
 * A count that differs from an earlier one if webhooks, event types or secrets
 * may have changed in between.
 */
uint64
cwh_config_generation(void)
{
	return generation;
}

/* Relcache callback: has one of our tables changed, or an extension? */
static void
on_relation_change(Datum arg, Oid relid)
{
	for (int i = 0; i < nknown; i++)
		if (relid == InvalidOid || relid == known[i].oid)
			nknown = 0;
	for (int i = 0; i < lengthof(table_oids); i++)
	{
		if (relid != InvalidOid && relid != table_oids[i] &&
			relid != ExtensionRelationId)
			continue;
		valid = false;
		generation++;
		return;
	}
}

/* Syscache callback: a namespace or relation was renamed, made or dropped. */
static void
on_catalog_change(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(table_oids, 0, sizeof(table_oids));
	nknown = 0;
	valid = false;
	generation++;
}

/* Register the callbacks, once in each process. */
static void
register_callbacks(void)
{
	static int	registered_by = 0;

	if (registered_by == MyProcPid)
		return;
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_catalog_change, (Datum) 0);
	registered_by = MyProcPid;
}

/*
 * The OID of a relation of ours, by a name that is a constant; an error if the
 * extension is not there.
 */
Oid
cwh_relation(const char *name)
{
	Oid			namespace;
	Oid			relation = InvalidOid;
	uint64		started;

	for (int i = 0; i < nknown; i++)
		if (known[i].name == name)
			return known[i].oid;
	register_callbacks();
	started = generation;
	namespace = get_namespace_oid("chatwebhook", true);
	if (OidIsValid(namespace))
		relation = get_relname_relid(name, namespace);
	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"chatwebhook.%s\" does not exist", name),
				 errhint("Use CREATE EXTENSION chatwebhook.")));
	/* unless it has changed while we looked */
	if (started == generation && nknown < lengthof(known))
	{
		known[nknown].name = name;
		known[nknown++].oid = relation;
	}
	return relation;
}

/* SQL trigger: tell every backend that this table has changed. */
Datum
chatwebhook_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_changed\" was not called by a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* An array of texts as C strings; nulls are left out. */
static char **
text_array(Datum datum, int *n)
{
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;
	char	  **result;

	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &nelements);
	result = palloc(Max(1, nelements) * sizeof(char *));
	*n = 0;
	for (int i = 0; i < nelements; i++)
		if (!nulls[i])
			result[(*n)++] = TextDatumGetCString(elements[i]);
	return result;
}

/* A column of a slot by its name; an error if the table is not as we know it. */
static Datum
column(TupleTableSlot *slot, const char *name, bool *isnull)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return slot_getattr(slot, i + 1, isnull);
	elog(ERROR, "column \"%s\" is missing", name);
	return (Datum) 0;			/* keep the compiler quiet */
}

/* The hash key for a chatbot's id. */
static void
hash_chatbot(const char *id, char key[16])
{
	uint64		hash[2];
	size_t		len = strlen(id);

	hash[0] = DatumGetUInt64(hash_any_extended((const unsigned char *) id, len, 0));
	hash[1] = len;
	memcpy(key, hash, 16);
}

/* Keep a row of event_type. */
static void
load_event_type(TupleTableSlot *slot)
{
	bool		isnull;
	char	   *name = TextDatumGetCString(column(slot, "name", &isnull));
	CwhEventType *type;
	char		key[256];

	memset(key, 0, sizeof(key));
	strlcpy(key, name, sizeof(key));
	type = hash_search(types, key, HASH_ENTER, NULL);
	type->known = true;
	type->checked = false;
	type->required = text_array(column(slot, "required", &isnull),
								&type->nrequired);
}

/* Keep a row of webhook, if it is enabled. */
static void
load_webhook(TupleTableSlot *slot)
{
	Subscriber *subscriber;
	Datum		datum;
	bool		isnull;

	if (!DatumGetBool(column(slot, "enabled", &isnull)))
		return;
	subscriber = palloc0(sizeof(Subscriber));
	subscriber->subscription.webhook_id =
		*DatumGetUUIDP(column(slot, "id", &isnull));
	subscriber->subscription.ordered =
		DatumGetBool(column(slot, "ordered", &isnull));
	datum = column(slot, "filter", &isnull);
	if (!isnull)
		subscriber->subscription.filter =
			PointerGetDatum(PG_DETOAST_DATUM_COPY(datum));
	subscriber->patterns = text_array(column(slot, "events", &isnull),
									  &subscriber->npatterns);

	datum = column(slot, "chatbot_id", &isnull);
	if (isnull)
		everywhere = lappend(everywhere, subscriber);
	else
	{
		Chatbot    *chatbot;
		char		key[16];
		bool		found;

		/* ids that share a hash share a list, so each keeps its id */
		hash_chatbot(TextDatumGetCString(datum), key);
		chatbot = hash_search(chatbots, key, HASH_ENTER, &found);
		if (!found)
			chatbot->subscribers = NIL;
		subscriber->subscription.chatbot_id = TextDatumGetCString(datum);
		chatbot->subscribers = lappend(chatbot->subscribers, subscriber);
	}
}

/* Read a whole table of ours, with what has been committed by now. */
static void
load_table(int which, void (*load) (TupleTableSlot *slot))
{
	Relation	relation;
	TableScanDesc scan;
	TupleTableSlot *slot;
	Snapshot	snapshot;
	Oid			table = cwh_relation(table_names[which]);

	/*
	 * The latest snapshot, and not the transaction's or one of before waiting
	 * for the lock: the cache outlives the transaction, and an invalidation
	 * that has been seen does not come again.
	 */
	relation = table_open(table, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(relation, NULL);
	scan = cwh_begin_scan(relation, snapshot);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		load(slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, AccessShareLock);
	UnregisterSnapshot(snapshot);
}

/*
 * Find our tables and listen for their changes, for a process that asks only
 * for the generation.
 */
void
cwh_config_watch(void)
{
	register_callbacks();
	for (int i = 0; i < lengthof(table_names); i++)
		table_oids[i] = cwh_relation(table_names[i]);
}

/* Fill the cache. */
static void
load_cache(void)
{
	MemoryContext oldcontext;
	HASHCTL		info;
	uint64		started;

	if (cache_context)
		MemoryContextReset(cache_context);
	else
		cache_context = AllocSetContextCreate(CacheMemoryContext,
											  "chatwebhook subscriptions",
											  ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(cache_context);
	everywhere = NIL;
	last_type = NULL;

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(((CwhEventType *) NULL)->name);
	info.entrysize = sizeof(CwhEventType);
	info.hcxt = cache_context;
	types = hash_create("chatwebhook event types", 64, &info,
						HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	info.keysize = sizeof(((Chatbot *) NULL)->hash);
	info.entrysize = sizeof(Chatbot);
	chatbots = hash_create("chatwebhook chatbots", 64, &info,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	cwh_config_watch();
	started = generation;
	load_table(0, load_event_type);
	load_table(1, load_webhook);
	MemoryContextSwitchTo(oldcontext);
	/* an invalidation that came while we read: good for now, not for long */
	valid = started == generation;
}

/* Does a webhook want events of this type? */
static bool
matches(const Subscriber *subscriber, const char *type)
{
	for (int i = 0; i < subscriber->npatterns; i++)
	{
		const char *pattern = subscriber->patterns[i];
		size_t		len = strlen(pattern);

		if (pattern[len - 1] == '*' ?
			strncmp(pattern, type, len - 1) == 0 :
			strcmp(pattern, type) == 0)
			return true;
	}
	return false;
}

/* Those webhooks of every chatbot that want events of this type. */
static List *
find_everywhere(const char *type)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, everywhere)
	{
		Subscriber *subscriber = lfirst(cell);

		if (matches(subscriber, type))
			result = lappend(result, &subscriber->subscription);
	}
	return result;
}

/* Does any webhook of one chatbot want events of this type? */
static bool
any_chatbot_wants(const char *type)
{
	HASH_SEQ_STATUS status;
	Chatbot    *chatbot;
	ListCell   *cell;

	hash_seq_init(&status, chatbots);
	while ((chatbot = hash_seq_search(&status)) != NULL)
	{
		foreach(cell, chatbot->subscribers)
		{
			if (matches(lfirst(cell), type))
			{
				hash_seq_term(&status);
				return true;
			}
		}
	}
	return false;
}

/* An event type in the cache, which is made if needed; null if there is none. */
static CwhEventType *
find_type(const char *name)
{
	if (!valid)
		load_cache();
	/* most are emitted by a trigger, one after another */
	if (last_type == NULL || strcmp(last_type->name, name) != 0)
		last_type = hash_search(types, name, HASH_FIND, NULL);
	return last_type;
}

/*
 * What is known of an event type, by a name of less than 256 bytes.  The result
 * is good until the next call or command.
 */
const CwhEventType *
cwh_event_type(const char *name)
{
	static CwhEventType unknown;
	CwhEventType *type = find_type(name);
	MemoryContext oldcontext = CurrentMemoryContext;

	if (type == NULL)
	{
		/* not kept: a session could emit any number of unknown ones */
		memset(&unknown, 0, sizeof(unknown));
		strlcpy(unknown.name, name, sizeof(unknown.name));
		type = &unknown;
	}
	else if (!type->checked)
		MemoryContextSwitchTo(cache_context);
	if (!type->checked)
	{
		type->everywhere = find_everywhere(name);
		type->wanted = type->everywhere != NIL || any_chatbot_wants(name);
		type->checked = true;
	}
	MemoryContextSwitchTo(oldcontext);
	return type;
}

/* Those webhooks that want this event, as a list of CwhSubscription. */
List *
cwh_subscriptions(const char *type, const char *chatbot_id)
{
	const CwhEventType *found = find_type(type);
	List	   *result;

	result = found && found->checked ? list_copy(found->everywhere) :
		find_everywhere(type);
	if (chatbot_id)
	{
		Chatbot    *chatbot;
		ListCell   *cell;
		char		key[16];

		hash_chatbot(chatbot_id, key);
		chatbot = hash_search(chatbots, key, HASH_FIND, NULL);
		if (chatbot == NULL)
			return result;
		foreach(cell, chatbot->subscribers)
		{
			Subscriber *subscriber = lfirst(cell);

			if (strcmp(subscriber->subscription.chatbot_id, chatbot_id) == 0 &&
				matches(subscriber, type))
				result = lappend(result, &subscriber->subscription);
		}
	}
	return result;
}
