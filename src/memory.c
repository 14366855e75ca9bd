/*
 * memory.c
 *		What connectors remember of conversations: the SQL on the table memory.
 *
 * A row is a webhook's memory of one conversation: a thread's timestamp, a
 * ticket's id.  A settle writes it, in the transaction that stores the step or
 * finishes the delivery that the reply belongs to; a worker reads it whenever it
 * calls a connector that remembers.  A settle takes one statement for all memories
 * that it adds to; reading, which every delivery needs, takes no SQL.  Since such a
 * webhook is ordered, only one delivery of a conversation reads and writes it at a
 * time.
 *
 * Ids are limited by what an index can hold: where they are longer, nothing is
 * remembered, as it is where there is no conversation.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "memory.h"
#include "reader.h"
#include "rows.h"
#include "rules.h"
#include "settings.h"
#include "statement.h"

/*
 * If a memory would not change, write it again, to confirm it, only if it was last
 * written longer ago than this, or than a tenth of chatwebhook.retention, after
 * which it would be removed.
 */
#define FRESH_S		3600

/* The longest ids of a chatbot and a conversation together, in bytes. */
#define MAX_IDS		2000

/* INDENT OFF */
/*
 * First parameters of all these, each an array with an element for each memory:
 * whose it is.
 */
enum
{
	KEY_WEBHOOK_ID, KEY_CHATBOT_ID, KEY_CONVERSATION_ID, KEY_PARAMETERS
};

#define THIS_MEMORY \
	" WHERE m.webhook_id" EQ "want.webhook_id" \
	"   AND m.conversation_id" EQ "want.conversation_id" \
	"   AND m.chatbot_id IS NOT DISTINCT FROM want.chatbot_id"

/* Lock a memory, unless another transaction has locked it. */
static const char lock_sql[] =
	"SELECT 1 FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                         pg_catalog.unnest($3))"
	"       AS want(webhook_id, chatbot_id, conversation_id)"
	" CROSS JOIN LATERAL ("
	"       SELECT FROM chatwebhook.memory m" THIS_MEMORY
	"          FOR UPDATE SKIP LOCKED) m";

/*
 * Add to memories that do not become larger than they may be.  The text of what
 * is added is bounded, as rules.c has measured it as JavaScript would write it.
 */
static const char write_sql[] =
	"INSERT INTO chatwebhook.memory AS m"
	"       (webhook_id, chatbot_id, conversation_id, remembered, updated_at)"
	" SELECT want.webhook_id, want.chatbot_id, want.conversation_id,"
	"        want.learned, pg_catalog.clock_timestamp()"
	"   FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	"                   pg_catalog.unnest($3), pg_catalog.unnest($4))"
	"        AS want(webhook_id, chatbot_id, conversation_id, learned)"
	"  WHERE pg_catalog.octet_length(want.learned::pg_catalog.text)" LE
	"        " CppAsString2(CWH_MAX_MEMORY)
	" ON CONFLICT (webhook_id, conversation_id, chatbot_id) DO UPDATE"
	"    SET remembered = m.remembered" CAT "EXCLUDED.remembered,"
	"        updated_at = EXCLUDED.updated_at"
	"  WHERE pg_catalog.octet_length((m.remembered" CAT
	"            EXCLUDED.remembered)::pg_catalog.text)" LE
	"        " CppAsString2(CWH_MAX_MEMORY)
	" RETURNING 1";

static CwhStatement lock_st = {lock_sql, 3,
	{UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID}, NULL};
static CwhStatement write_st = {write_sql, 4,
	{UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID}, NULL};
/* INDENT ON */

/* Is anything remembered of this? */
static bool
is_usable(const CwhMemoryKey *key)
{
	return key->conversation_id &&
		strlen(key->conversation_id) +
		(key->chatbot_id ? strlen(key->chatbot_id) : 0) <= MAX_IDS;
}

/* Set the elements of the parameters that identify a memory. */
static void
set_key(CwhArray *arrays, int i, const CwhMemoryKey *key)
{
	cwh_array_set(&arrays[KEY_WEBHOOK_ID], i, UUIDPGetDatum(key->webhook_id));
	cwh_array_set_text(&arrays[KEY_CHATBOT_ID], i, key->chatbot_id);
	cwh_array_set_text(&arrays[KEY_CONVERSATION_ID], i, key->conversation_id);
}

/* Start reading memories. */
static void
open_memories(CwhReader *reader)
{
	cwh_reader_open(reader, CWH_REL_MEMORY, CWH_REL_MEMORY_KEY, AccessShareLock,
					3);
}

/* Find a memory. */
static bool
find_memory(CwhReader *reader, const CwhMemoryKey *key)
{
	ScanKeyData keys[3];
	bool		found;

	if (!is_usable(key))
		return false;
	cwh_key_uuid(&keys[0], 1, key->webhook_id);
	cwh_key_text(reader, &keys[1], 2, key->conversation_id);
	cwh_key_text(reader, &keys[2], 3, key->chatbot_id);
	found = cwh_reader_find(reader, keys, 3);
	cwh_key_free(&keys[1]);
	cwh_key_free(&keys[2]);
	return found;
}

/* Read memories.  The values live until the transaction ends. */
void
cwh_memory_read(CwhMemory *memories, int n)
{
	int64		fresh_s = cwh_retention < 0 ? FRESH_S :
		Min(FRESH_S, cwh_retention / 10);
	TimestampTz fresh_since = GetCurrentTimestamp() - fresh_s * USECS_PER_SEC;
	CwhReader	reader;

	if (n == 0)
		return;
	open_memories(&reader);
	for (int i = 0; i < n; i++)
	{
		CwhMemory  *memory = &memories[i];

		memory->value = NULL;
		memory->fresh = false;
		if (!find_memory(&reader, &memory->key))
			continue;
		memory->value =
			DatumGetJsonbPCopy(cwh_read_value(&reader, CWH_MEMORY_REMEMBERED));
		memory->fresh =
			DatumGetTimestampTz(cwh_read_value(&reader, CWH_MEMORY_UPDATED_AT)) >
			fresh_since;
	}
	cwh_reader_close(&reader);
}

/*
 * Lock a memory without waiting; false if another transaction has locked it.
 * That can only be one that removes it, such as erase_conversation()'s, which may
 * stay open for as long as a customer likes.
 */
bool
cwh_memory_lock(const CwhMemoryKey *key)
{
	CwhArray	arrays[KEY_PARAMETERS];
	Datum		args[KEY_PARAMETERS];
	CwhReader	reader;
	bool		found;

	/* there is nothing to lock before something is remembered */
	PushActiveSnapshot(GetTransactionSnapshot());
	open_memories(&reader);
	found = find_memory(&reader, key);
	cwh_reader_close(&reader);
	PopActiveSnapshot();
	if (!found)
		return true;
	cwh_make_arrays(arrays, &lock_st, KEY_PARAMETERS, 1);
	set_key(arrays, 0, key);
	cwh_finish_arrays(arrays, KEY_PARAMETERS, args);
	return cwh_run(&lock_st, args) > 0;
}

/* Add to these memories.  Returns how many did not become too large. */
static uint64
write_memories(CwhMemory *const *memories, int n)
{
	CwhArray	arrays[KEY_PARAMETERS + 1];
	Datum		args[KEY_PARAMETERS + 1];

	if (n == 0)
		return 0;
	cwh_make_arrays(arrays, &write_st, KEY_PARAMETERS + 1, n);
	for (int i = 0; i < n; i++)
	{
		set_key(arrays, i, &memories[i]->key);
		cwh_array_set(&arrays[KEY_PARAMETERS], i,
					  JsonbPGetDatum(memories[i]->value));
	}
	cwh_finish_arrays(arrays, KEY_PARAMETERS + 1, args);
	return cwh_run(&write_st, args);
}

/* Are these the same webhook's memories of the same conversation? */
static bool
is_same(const CwhMemoryKey *a, const CwhMemoryKey *b)
{
	return strcmp(a->conversation_id, b->conversation_id) == 0 &&
		memcmp(a->webhook_id, b->webhook_id, sizeof(pg_uuid_t)) == 0 &&
		(a->chatbot_id == NULL) == (b->chatbot_id == NULL) &&
		(a->chatbot_id == NULL || strcmp(a->chatbot_id, b->chatbot_id) == 0);
}

/*
 * Remember more.  What would make a memory too large is not added, and "full" is
 * set.
 */
void
cwh_memory_write(CwhMemory *memories, int n)
{
	CwhMemory **together = palloc(Max(1, n) * sizeof(CwhMemory *));
	CwhMemory **alone = palloc(Max(1, n) * sizeof(CwhMemory *));
	int			ntogether = 0;
	int			nalone = 0;

	for (int i = 0; i < n; i++)
	{
		int			j = 0;

		memories[i].full = false;
		if (!is_usable(&memories[i].key))
			continue;

		/*
		 * A delivery that was retried by hand can settle with a later one of its
		 * conversation.  One statement cannot change a row twice.
		 */
		while (j < ntogether && !is_same(&together[j]->key, &memories[i].key))
			j++;
		if (j < ntogether)
			alone[nalone++] = &memories[i];
		else
			together[ntogether++] = &memories[i];
	}
	/* if one is too large, see which; to add the same again changes nothing */
	if (write_memories(together, ntogether) < ntogether)
		for (int i = 0; i < ntogether; i++)
			together[i]->full = write_memories(&together[i], 1) == 0;
	for (int i = 0; i < nalone; i++)
		alone[i]->full = write_memories(&alone[i], 1) == 0;
}
