/*
 * subscription.c
 *		Which webhooks want an event: a cache in each process.
 *
 * A process fills its cache from the tables event_type and webhook when it
 * first emits, and again after either of them has changed.  Statement triggers
 * on these tables send a relcache invalidation for the table.  It reaches the
 * changing session at once, and other processes when the change commits.
 * Workers learn of changes in the same way: see cwh_config_generation().
 *
 * The tables are read with the table access method, not through SQL, since the
 * role that emits has no privileges on them and needs none.  They are locked in
 * AccessShareLock mode while they are read.  Functions here run in the caller's
 * transaction, and begin or end none.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "filter.h"
#include "subscription.h"

PG_FUNCTION_INFO_V1(chatwebhook_changed);

/* An enabled webhook. */
typedef struct Subscriber
{
	CwhSubscription subscription;
	char	  **patterns;		/* webhook.events */
	int			npatterns;
} Subscriber;

/* Identifies a chatbot's id, which can be long, in a hash table. */
typedef struct ChatbotKey
{
	uint64		hash;
	uint64		len;
} ChatbotKey;

/* The webhooks of a chatbot. */
typedef struct Chatbot
{
	ChatbotKey	key;			/* hash key */
	List	   *subscribers;	/* of Subscriber: the webhooks of all chatbots
								 * with this key */
} Chatbot;

/* A relation of the extension. */
typedef struct RelationEntry
{
	Oid			oid;			/* kept while invalid, to notice more changes */
	bool		valid;			/* neither it nor its schema has changed since
								 * it was looked up */
} RelationEntry;

static const char *const relation_names[CWH_RELATIONS] = {
	[CWH_REL_EVENT_TYPE] = "event_type",
	[CWH_REL_WEBHOOK] = "webhook",
	[CWH_REL_VAULT] = "vault",
	[CWH_REL_EVENT] = "event",
	[CWH_REL_QUEUE] = "queue",
	[CWH_REL_QUEUE_PKEY] = "queue_pkey",
	[CWH_REL_HISTORY] = "history",
	[CWH_REL_DEAD] = "dead",
	[CWH_REL_DELIVERY_ID_SEQ] = "delivery_id_seq"
};
static RelationEntry relations[CWH_RELATIONS];

static uint64 generation = 1;	/* counts changes of the configuration */

static MemoryContext cache_context = NULL;	/* of everything below */
static bool valid = false;		/* the cache is filled and up to date */
static HTAB *types = NULL;		/* of CwhEventType */
static CwhEventType *last_type = NULL;	/* the last one looked up, or null */
static HTAB *chatbots = NULL;	/* of Chatbot */
static List *everywhere = NIL;	/* of Subscriber: webhooks without chatbot_id */

/* Relcache callback: a relation has changed, or all if relid is invalid. */
static void
on_relation_change(Datum arg, Oid relid)
{
	/* chatwebhook.c invalidates pg_extension when an extension has changed */
	bool		configuration = relid == ExtensionRelationId;

	for (int i = 0; i < CWH_RELATIONS; i++)
	{
		if (relid != InvalidOid && relid != relations[i].oid)
			continue;
		relations[i].valid = false;
		if (i < CWH_CONFIG_RELATIONS)
			configuration = true;
	}
	if (configuration)
	{
		valid = false;
		generation++;
	}
}

/* Syscache callback: a schema was created, renamed or dropped. */
static void
on_schema_change(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(relations, 0, sizeof(relations));
	valid = false;
	generation++;
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
	started = generation;
	namespace = get_namespace_oid("chatwebhook", true);
	if (!OidIsValid(namespace))
		return InvalidOid;
	relation = get_relname_relid(relation_names[which], namespace);
	/* do not keep it if something changed during the lookup */
	if (OidIsValid(relation) && started == generation)
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
				 errhint("Use CREATE EXTENSION chatwebhook.")));
	return relation;
}

/*
 * A number that increases when webhooks, event types or secrets may have
 * changed, or the extension has.  It counts changes that this process has been
 * informed of, that is, those before its last AcceptInvalidationMessages().
 */
uint64
cwh_config_generation(void)
{
	/* only changes of relations with a known OID are noticed */
	for (int i = 0; i < CWH_CONFIG_RELATIONS; i++)
		(void) find_relation(i);
	return generation;
}

/* SQL trigger: invalidate what every session has cached of this table. */
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

/* Convert an array of texts to C strings; nulls are left out. */
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

/* Get a column by its name; an error if the table has no such column. */
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

/* The key of a chatbot's id.  Different ids can have the same key. */
static ChatbotKey
chatbot_key(const char *id)
{
	ChatbotKey	key;

	key.len = strlen(id);
	key.hash = DatumGetUInt64(hash_any_extended((const unsigned char *) id,
												key.len, 0));
	return key;
}

/* Add a row of event_type to the cache. */
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

/*
 * Take the filter of a webhook, or 0 if it has none.  Returns false if the filter
 * may not be evaluated, and so matches nothing: the trigger refuses it, but a
 * restore, replication or a superuser can get past that.
 */
static bool
load_filter(TupleTableSlot *slot, Datum *filter)
{
	bool		isnull;
	Datum		datum = column(slot, "filter", &isnull);

	*filter = 0;
	if (isnull)
		return true;
	/* before it is detoasted, since it may be huge */
	if (cwh_filter_problem(datum) != NULL)
		return false;
	*filter = PointerGetDatum(PG_DETOAST_DATUM_COPY(datum));
	return true;
}

/* Add a row of webhook to the cache if it is enabled. */
static void
load_webhook(TupleTableSlot *slot)
{
	Subscriber *subscriber;
	Datum		filter;
	Datum		datum;
	bool		isnull;

	if (!DatumGetBool(column(slot, "enabled", &isnull)) ||
		!load_filter(slot, &filter))
		return;
	subscriber = palloc0(sizeof(Subscriber));
	subscriber->subscription.webhook_id =
		*DatumGetUUIDP(column(slot, "id", &isnull));
	subscriber->subscription.ordered =
		DatumGetBool(column(slot, "ordered", &isnull));
	subscriber->subscription.filter = filter;
	subscriber->patterns = text_array(column(slot, "events", &isnull),
									  &subscriber->npatterns);

	datum = column(slot, "chatbot_id", &isnull);
	if (isnull)
		everywhere = lappend(everywhere, subscriber);
	else
	{
		Chatbot    *chatbot;
		char	   *id = TextDatumGetCString(datum);
		ChatbotKey	key = chatbot_key(id);
		bool		found;

		chatbot = hash_search(chatbots, &key, HASH_ENTER, &found);
		if (!found)
			chatbot->subscribers = NIL;
		subscriber->subscription.chatbot_id = id;
		chatbot->subscribers = lappend(chatbot->subscribers, subscriber);
	}
}

/* Pass every row of a table to a function. */
static void
load_table(CwhRelation which, void (*load) (TupleTableSlot *slot))
{
	Relation	relation = table_open(cwh_relation(which), AccessShareLock);
	Snapshot	snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;

	/*
	 * The cache outlives this transaction, and each invalidation is received
	 * only once.  So it must have everything that is committed by now: take
	 * the latest snapshot instead of the transaction's, and only after any
	 * wait for the lock.
	 */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(relation, NULL);
	scan = cwh_begin_scan(relation, snapshot);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		load(slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
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
	info.keysize = sizeof(ChatbotKey);
	info.entrysize = sizeof(Chatbot);
	chatbots = hash_create("chatwebhook chatbots", 64, &info,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	started = cwh_config_generation();
	load_table(CWH_REL_EVENT_TYPE, load_event_type);
	load_table(CWH_REL_WEBHOOK, load_webhook);
	MemoryContextSwitchTo(oldcontext);
	/* after a change during the load, use the cache once and load it again */
	valid = started == generation;
}

/*
 * Does one of a webhook's patterns match this event type?  The pattern * does not
 * match the events about webhooks themselves, which only those get that ask for
 * them.
 */
static bool
matches(const Subscriber *subscriber, const char *type)
{
	bool		about_webhooks = strncmp(type, "webhook.", 8) == 0;

	for (int i = 0; i < subscriber->npatterns; i++)
	{
		const char *pattern = subscriber->patterns[i];
		size_t		len = strlen(pattern);

		if (about_webhooks && strcmp(pattern, "*") == 0)
			continue;
		if (len > 0 && pattern[len - 1] == '*' ?
			strncmp(pattern, type, len - 1) == 0 :
			strcmp(pattern, type) == 0)
			return true;
	}
	return false;
}

/* The webhooks without a chatbot_id that want this event type. */
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

/* Does any webhook with a chatbot_id want this event type? */
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

/* Find an event type in the cache, filling it if necessary; or null. */
static CwhEventType *
find_type(const char *name)
{
	if (!valid)
		load_cache();
	/* a trigger that fires for many rows asks for the same type each time */
	if (last_type == NULL || strcmp(last_type->name, name) != 0)
		last_type = hash_search(types, name, HASH_FIND, NULL);
	return last_type;
}

/*
 * Look up an event type.  The name must have less than 256 bytes.  The result
 * is valid until the next call of this function or cwh_subscriptions().
 */
const CwhEventType *
cwh_event_type(const char *name)
{
	static CwhEventType unknown;
	CwhEventType *type = find_type(name);
	MemoryContext context = cache_context;

	if (type == NULL)
	{
		/* not cached, since a session can ask for any number of them */
		memset(&unknown, 0, sizeof(unknown));
		strlcpy(unknown.name, name, sizeof(unknown.name));
		type = &unknown;
		context = CurrentMemoryContext;
	}
	if (!type->checked)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		type->everywhere = find_everywhere(name);
		type->wanted = type->everywhere != NIL || any_chatbot_wants(name);
		type->checked = true;
		MemoryContextSwitchTo(oldcontext);
	}
	return type;
}

/*
 * The webhooks that want an event, as a list of CwhSubscription.  Filters are
 * left to the caller.  The list's elements are valid until the next call of
 * this function or cwh_event_type().
 */
List *
cwh_subscriptions(const char *type, const char *chatbot_id)
{
	const CwhEventType *found = find_type(type);
	List	   *result;

	result = found && found->checked ? list_copy(found->everywhere) :
		find_everywhere(type);
	if (chatbot_id)
	{
		ChatbotKey	key = chatbot_key(chatbot_id);
		Chatbot    *chatbot = hash_search(chatbots, &key, HASH_FIND, NULL);
		ListCell   *cell;

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
