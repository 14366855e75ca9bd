/*
 * subscription.c
 *		Which webhooks want an event: a cache in each process.
 *
 * The cache has an entry for each chatbot that the process has emitted an event
 * of, and one for the webhooks without a chatbot_id.  An entry is read from the
 * table webhook when it is first needed, and again after one of its webhooks
 * has changed, as changes.c finds out: what one customer changes, others need
 * not read again.  The event types, which are few, are read all at once.
 *
 * The tables are read with the table access method, not through SQL, since the
 * role that emits has no privileges on them and needs none.  They are locked in
 * AccessShareLock mode while they are read, but no lock is waited for.
 * Functions here run in the caller's transaction, and begin or end none.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "bounds.h"
#include "changes.h"
#include "compat.h"
#include "envelope.h"
#include "filter.h"
#include "settings.h"
#include "subscription.h"

/*
 * Looking for a chatbot's webhook that wants a type takes at most 1/SCAN_SHARE of
 * the time, however often webhooks change.
 */
#define SCAN_SHARE			100

/* Forget all chatbots when their webhooks take more memory than this. */
#define MAX_CACHE_BYTES		(8 * 1024 * 1024)

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

/* The webhooks of a chatbot, or those without a chatbot_id. */
typedef struct Entry
{
	ChatbotKey	key;			/* hash key */
	char	   *chatbot_id;		/* ids can have the same key: the last one */
	CwhBucket	bucket;
	uint64		stamp;			/* see cwh_stamp(); 0: not read */
	uint64		checked;		/* it was valid at this generation */
	MemoryContext context;		/* of the subscribers; null if there are none */
	List	   *subscribers;	/* of Subscriber */
	Size		size;			/* bytes, to be counted */
} Entry;

static MemoryContext types_context = NULL;
static HTAB *types = NULL;		/* of CwhEventType */
static uint64 types_resets = 0; /* see CwhChanges; when they were read */
static CwhEventType *last_type = NULL;	/* the last one looked up, or null */
static bool with_schemas = false;	/* a validator needs their schemas */

static Entry everywhere;		/* the webhooks without chatbot_id */
static uint64 everywhere_loads = 0; /* how often they were read */

static MemoryContext cache_context = NULL;	/* of the chatbots */
static HTAB *chatbots = NULL;	/* of Entry */
static Size cache_size = 0;		/* the sum of their sizes */

/*
 * Has any webhook a chatbot_id?  Once one has, that is not looked up again
 * before a reset, for it only saves time where there are none.
 */
static bool any_chatbot = false;
static uint64 any_chatbot_checked = 0;	/* at this generation */

static TimestampTz next_scan = 0;	/* for webhooks that want a type */

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

/* The schema of a row of event_type, as JSON, or null if it has none. */
static char *
load_schema(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		datum = column(slot, "schema", &isnull);
	Jsonb	   *schema = isnull ? NULL : DatumGetJsonbP(datum);

	return schema ? JsonbToCString(NULL, &schema->root, VARSIZE(schema)) : NULL;
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
	type->loads = 0;
	type->scanned = 0;
	type->required = text_array(column(slot, "required", &isnull),
								&type->nrequired);
	type->schema = with_schemas ? load_schema(slot) : NULL;
}

/*
 * Can this row of webhook be added to the cache?  One that bypassed the checks
 * of SQL can hold anything.  What is too large here gets no events: events are
 * not queued for it, and pending deliveries are sent unless a worker, which does
 * not read events, finds a problem.
 */
static bool
is_loadable(TupleTableSlot *slot)
{
	static const struct
	{
		const char *column;
		Size		most;
	}			values[] = {
		{"chatbot_id", CWH_MAX_NAME}, {"events", CWH_MAX_EVENTS_SIZE}
	};

	for (int i = 0; i < lengthof(values); i++)
	{
		bool		isnull;
		Datum		datum = column(slot, values[i].column, &isnull);

		/* measured without decompressing it */
		if (!isnull && toast_raw_datum_size(datum) - VARHDRSZ > values[i].most)
			return false;
	}
	return true;
}

/*
 * Take the filter of a webhook, if it has one.  Returns false if the filter
 * may not be evaluated, and so matches nothing: the trigger refuses it, but a
 * restore, replication or a superuser can get past that.
 */
static bool
load_filter(TupleTableSlot *slot, CwhSubscription *subscription)
{
	bool		isnull;
	Datum		datum = column(slot, "filter", &isnull);

	if (isnull)
		return true;
	/* before it is detoasted, since it may be huge */
	if (cwh_filter_problem(datum, &subscription->slow_filter) != NULL)
		return false;
	subscription->filter = PointerGetDatum(PG_DETOAST_DATUM_COPY(datum));
	return true;
}

/*
 * The debounce of a webhook, in microseconds.  A row that bypassed the trigger
 * can have any value; limit it, so that no delivery is held for days.
 */
static int64
load_debounce(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		datum = column(slot, "debounce", &isnull);
	Interval   *interval;
	double		us;

	if (isnull)
		return 0;
	interval = DatumGetIntervalP(datum);
	/* with months of 30 days, as in comparisons of intervals */
	us = ((double) interval->month * DAYS_PER_MONTH + interval->day) * USECS_PER_DAY +
		interval->time;
	return Max(0, Min(us, USECS_PER_HOUR));
}

/*
 * Add a row of webhook to an entry of the cache if it is enabled, and the
 * chatbot's: the index has found it by a hash.
 */
static void
load_webhook(Entry *entry, TupleTableSlot *slot)
{
	Subscriber *subscriber;
	bool		isnull;

	if (!DatumGetBool(column(slot, "enabled", &isnull)) ||
		!is_loadable(slot))
		return;
	if (entry->chatbot_id &&
		strcmp(TextDatumGetCString(column(slot, "chatbot_id", &isnull)),
			   entry->chatbot_id) != 0)
		return;
	subscriber = palloc0(sizeof(Subscriber));
	if (!load_filter(slot, &subscriber->subscription))
		return;
	subscriber->subscription.webhook_id =
		*DatumGetUUIDP(column(slot, "id", &isnull));
	subscriber->subscription.ordered =
		DatumGetBool(column(slot, "ordered", &isnull));
	subscriber->subscription.debounce_us = load_debounce(slot);
	subscriber->patterns = text_array(column(slot, "events", &isnull),
									  &subscriber->npatterns);
	entry->subscribers = lappend(entry->subscribers, subscriber);
}

/*
 * Take a snapshot to read the tables with.  What is read outlives this
 * transaction, and each invalidation is received only once.  So it must have
 * everything that is committed by now: take the latest snapshot instead of the
 * transaction's, and only after any wait for the lock.
 */
static Snapshot
take_snapshot(void)
{
	return RegisterSnapshot(GetLatestSnapshot());
}

/*
 * Read the event types.  While somebody locks the table, those that were read
 * before stay.
 */
static void
load_types(void)
{
	MemoryContext oldcontext;
	HASHCTL		info;
	Relation	relation;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	uint64		resets;

	/* no change of what is not known yet would be noticed */
	(void) cwh_config_generation();
	relation = cwh_table_open_at_once(CWH_REL_EVENT_TYPE);
	if (relation == NULL)
		return;
	resets = cwh_changes.resets;
	types_resets = 0;
	last_type = NULL;
	with_schemas = cwh_uses_validator();
	if (types_context)
		MemoryContextReset(types_context);
	else
		types_context = AllocSetContextCreate(CacheMemoryContext,
											  "chatwebhook event types",
											  ALLOCSET_DEFAULT_SIZES);
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(((CwhEventType *) NULL)->name);
	info.entrysize = sizeof(CwhEventType);
	info.hcxt = types_context;
	types = hash_create("chatwebhook event types", 64, &info,
						HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	oldcontext = MemoryContextSwitchTo(types_context);
	snapshot = take_snapshot();
	slot = table_slot_create(relation, NULL);
	scan = cwh_begin_scan(relation, snapshot);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		load_event_type(slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	MemoryContextSwitchTo(oldcontext);
	/* after a change during the load, use them once and load them again */
	types_resets = resets;
	any_chatbot = false;
	any_chatbot_checked = 0;
}

/*
 * Read the rows of webhook that a key on the hash of chatbot_id finds into an
 * entry; without an entry, stop at the first.  Returns whether there is any.
 * While somebody locks webhook, its copy is read.
 */
static bool
scan_webhooks(ScanKey key, Entry *entry)
{
	Relation	relation = cwh_table_open_at_once(CWH_REL_WEBHOOK);
	CwhRelation by_chatbot = relation ? CWH_REL_WEBHOOK_CHATBOT :
		CWH_REL_WEBHOOK_COPY_CHATBOT;
	Relation	index;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	bool		any = false;

	if (relation == NULL)
		relation = cwh_table_open(CWH_REL_WEBHOOK_COPY, AccessShareLock);
	index = index_open(cwh_relation(by_chatbot), AccessShareLock);
	snapshot = take_snapshot();
	slot = table_slot_create(relation, NULL);
	scan = cwh_begin_index_scan(relation, index, snapshot, 1);
	index_rescan(scan, key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		any = true;
		if (entry == NULL)
			break;
		load_webhook(entry, slot);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
	return any;
}

/* Read an entry's webhooks: those of its chatbot, or those of none. */
static void
load_entry(Entry *entry)
{
	MemoryContext oldcontext;
	ScanKeyData key;
	uint64		generation = cwh_config_generation();
	uint64		stamp;

	if (entry->chatbot_id)
		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
					DirectFunctionCall2Coll(hashtextextended,
											DEFAULT_COLLATION_OID,
											CStringGetTextDatum(entry->chatbot_id),
											Int64GetDatum(0)));
	else
		ScanKeyEntryInitialize(&key, SK_ISNULL | SK_SEARCHNULL, 1,
							   InvalidStrategy, InvalidOid, InvalidOid,
							   InvalidOid, (Datum) 0);

	/* if this fails, the entry is read again */
	entry->stamp = 0;
	entry->checked = 0;
	entry->subscribers = NIL;
	if (entry->context)
		MemoryContextReset(entry->context);
	else
		entry->context = AllocSetContextCreate(cache_context,
											   "chatwebhook subscriptions",
											   ALLOCSET_SMALL_SIZES);
	/* on a standby, which may be promoted, it lasts until the next change */
	stamp = RecoveryInProgress() ? 0 : cwh_stamp(entry->bucket);
	oldcontext = MemoryContextSwitchTo(entry->context);
	(void) scan_webhooks(&key, entry);
	MemoryContextSwitchTo(oldcontext);
	entry->stamp = stamp;
	entry->checked = generation;
}

/* Has nothing changed in an entry since it was read? */
static bool
is_valid(Entry *entry)
{
	if (entry->checked == cwh_changes.generation)
		return true;
	if (!cwh_stamp_holds(entry->bucket, entry->stamp))
		return false;
	entry->checked = cwh_changes.generation;
	return true;
}

/* Forget all chatbots. */
static void
reset_cache(void)
{
	HASHCTL		info;

	chatbots = NULL;
	cache_size = 0;
	everywhere.context = NULL;
	everywhere.stamp = everywhere.checked = 0;
	if (cache_context)
		MemoryContextReset(cache_context);
	else
		cache_context = AllocSetContextCreate(CacheMemoryContext,
											  "chatwebhook chatbots",
											  ALLOCSET_DEFAULT_SIZES);
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(ChatbotKey);
	info.entrysize = sizeof(Entry);
	info.hcxt = cache_context;
	chatbots = hash_create("chatwebhook chatbots", 64, &info,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* The webhooks without a chatbot_id. */
static Entry *
get_everywhere(void)
{
	if (is_valid(&everywhere))
		return &everywhere;
	if (chatbots == NULL)
		reset_cache();
	everywhere.bucket = cwh_bucket("", 0);
	everywhere_loads++;
	load_entry(&everywhere);
	return &everywhere;
}

/* Read the webhooks of a chatbot that has no entry, or not a valid one. */
static Entry *
load_chatbot(const ChatbotKey *key, const char *chatbot_id)
{
	Entry	   *entry;
	bool		found;

	if (chatbots == NULL || cache_size > MAX_CACHE_BYTES)
		reset_cache();
	entry = hash_search(chatbots, key, HASH_ENTER, &found);
	if (!found)
		memset((char *) entry + sizeof(ChatbotKey), 0,
			   sizeof(Entry) - sizeof(ChatbotKey));
	cache_size -= entry->size;
	entry->size = 0;
	entry->stamp = entry->checked = 0;
	if (entry->chatbot_id == NULL || strcmp(entry->chatbot_id, chatbot_id) != 0)
	{
		if (entry->chatbot_id)
			pfree(entry->chatbot_id);
		entry->chatbot_id = NULL;
		entry->chatbot_id = MemoryContextStrdup(cache_context, chatbot_id);
		entry->bucket = cwh_bucket(chatbot_id, key->len);
	}
	load_entry(entry);
	entry->size = 2 * sizeof(Entry) + key->len;
	if (entry->subscribers == NIL)
	{
		MemoryContextDelete(entry->context);
		entry->context = NULL;
	}
	else
		entry->size += MemoryContextMemAllocated(entry->context, false);
	cache_size += entry->size;
	return entry;
}

/* The webhooks of a chatbot. */
static Entry *
get_chatbot(const char *chatbot_id)
{
	ChatbotKey	key = chatbot_key(chatbot_id);
	Entry	   *entry = chatbots == NULL ? NULL :
		hash_search(chatbots, &key, HASH_FIND, NULL);

	if (entry && is_valid(entry) && strcmp(entry->chatbot_id, chatbot_id) == 0)
		return entry;
	return load_chatbot(&key, chatbot_id);
}

/* Has any webhook a chatbot_id? */
static bool
has_any_chatbot(void)
{
	ScanKeyData key;
	uint64		generation;

	if (any_chatbot || any_chatbot_checked == cwh_changes.generation)
		return any_chatbot;
	generation = cwh_config_generation();
	ScanKeyEntryInitialize(&key, SK_ISNULL | SK_SEARCHNOTNULL, 1,
						   InvalidStrategy, InvalidOid, InvalidOid,
						   InvalidOid, (Datum) 0);
	any_chatbot = scan_webhooks(&key, NULL);
	any_chatbot_checked = generation;
	return any_chatbot;
}

/*
 * Does one of a webhook's patterns match this event type?  The pattern * does not
 * match the events about webhooks themselves, which only those get that ask for
 * them.
 */
static bool
matches(const Subscriber *subscriber, const char *type)
{
	bool		about_webhooks = cwh_is_own_type(type);

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

/* Append those of an entry's webhooks that want this event type to a list. */
static List *
append_matching(List *list, const Entry *entry, const char *type)
{
	ListCell   *cell;

	foreach(cell, entry->subscribers)
	{
		Subscriber *subscriber = lfirst(cell);

		if (matches(subscriber, type))
			list = lappend(list, &subscriber->subscription);
	}
	return list;
}

/* Does one of the chatbots' webhooks want this event type? */
static bool
scan_for_type(const char *type)
{
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "chatwebhook scan",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Entry		entry;
	ScanKeyData key;
	bool		found;

	memset(&entry, 0, sizeof(entry));
	ScanKeyEntryInitialize(&key, SK_ISNULL | SK_SEARCHNOTNULL, 1,
						   InvalidStrategy, InvalidOid, InvalidOid,
						   InvalidOid, (Datum) 0);
	(void) scan_webhooks(&key, &entry);
	found = append_matching(NIL, &entry, type) != NIL;
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	next_scan = start + SCAN_SHARE * (GetCurrentTimestamp() - start);
	return found;
}

/*
 * Does a chatbot's webhook want this event type?  True if in doubt: then each
 * event's own chatbot decides.
 */
static bool
wanted_by_chatbots(CwhEventType *type)
{
	uint64		generation;

	if (!has_any_chatbot())
		return false;
	if (type->scanned == cwh_changes.generation)
		return type->by_chatbots;
	if (GetCurrentTimestamp() < next_scan)
		return true;
	generation = cwh_config_generation();
	type->by_chatbots = scan_for_type(type->name);
	type->scanned = generation;
	return type->by_chatbots;
}

/* Find an event type, or null. */
static CwhEventType *
find_type(const char *name)
{
	if (types_resets != cwh_changes.resets ||
		(cwh_uses_validator() && !with_schemas))
		load_types();
	if (types == NULL)
		return NULL;
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
	Entry	   *all = cwh_outbox ? NULL : get_everywhere();
	MemoryContext context = all ? all->context : NULL;

	if (type == NULL)
	{
		/* not cached, since a session can ask for any number of them */
		memset(&unknown, 0, sizeof(unknown));
		/* as long as none could be read, any may be one */
		unknown.known = types == NULL;
		strlcpy(unknown.name, name, sizeof(unknown.name));
		type = &unknown;
		context = CurrentMemoryContext;
	}
	if (cwh_outbox)
	{
		type->wanted = true;
		return type;
	}
	if (type->loads != everywhere_loads)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		type->everywhere = append_matching(NIL, all, name);
		type->loads = everywhere_loads;
		MemoryContextSwitchTo(oldcontext);
	}
	type->wanted = type->everywhere != NIL || wanted_by_chatbots(type);
	return type;
}

/*
 * The webhooks that want an event, as a list of CwhSubscription.  With
 * chatwebhook.outbox, one that stands for the delivery nodes.  Filters are left to
 * the caller.  The list's elements are valid until the next call of
 * this function or cwh_event_type().
 */
List *
cwh_subscriptions(const char *type, const char *chatbot_id)
{
	static CwhSubscription outbox;
	const CwhEventType *found;
	Entry	   *chatbot = NULL;
	List	   *result;

	if (cwh_outbox)
		return list_make1(&outbox);
	/* first, for it may forget the other entries */
	if (chatbot_id)
		chatbot = get_chatbot(chatbot_id);
	found = cwh_event_type(type);
	result = list_copy(found->everywhere);
	return chatbot ? append_matching(result, chatbot, type) : result;
}
