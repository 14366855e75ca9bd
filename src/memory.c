/*
 * memory.c
 *		What connectors remember of conversations: the SQL on the table memory.
 *
 * A row is a webhook's memory of one conversation: a thread's timestamp, a
 * ticket's id.  A settle writes it, in the transaction that stores the step or
 * finishes the delivery that the reply belongs to; a worker reads it whenever it
 * calls a connector that remembers.  Since such a webhook is ordered, only one
 * delivery of a conversation reads and writes it at a time.
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
 * Parameters of all these: the ids, of which the chatbot's is in an array as it
 * can be null.
 */
enum
{
	KEY_WEBHOOK_ID, KEY_CHATBOT_ID, KEY_CONVERSATION_ID, KEY_PARAMETERS
};

#define THIS_MEMORY \
	" WHERE m.webhook_id" EQ "$1 AND m.conversation_id" EQ "$3" \
	"   AND m.chatbot_id IS NOT DISTINCT FROM ($2)[1]"

static const char read_sql[] =
	"SELECT m.remembered, m.updated_at FROM chatwebhook.memory m" THIS_MEMORY;

static const char lock_sql[] =
	"SELECT 1 FROM chatwebhook.memory m" THIS_MEMORY " FOR UPDATE SKIP LOCKED";

/*
 * Add to a memory, if it does not become larger than it may be.  The text of what
 * is added is bounded, as rules.c has measured it as JavaScript would write it.
 */
static const char write_sql[] =
	"INSERT INTO chatwebhook.memory AS m"
	"       (webhook_id, chatbot_id, conversation_id, remembered, updated_at)"
	" SELECT $1, ($2)[1], $3, $4, pg_catalog.clock_timestamp()"
	"  WHERE pg_catalog.octet_length($4::pg_catalog.text)" LE
	"        " CppAsString2(CWH_MAX_MEMORY)
	" ON CONFLICT (webhook_id, conversation_id, chatbot_id) DO UPDATE"
	"    SET remembered = m.remembered" CAT "EXCLUDED.remembered,"
	"        updated_at = EXCLUDED.updated_at"
	"  WHERE pg_catalog.octet_length((m.remembered" CAT
	"            EXCLUDED.remembered)::pg_catalog.text)" LE
	"        " CppAsString2(CWH_MAX_MEMORY)
	" RETURNING 1";

static CwhStatement read_st = {read_sql, 3, {UUIDOID, TEXTARRAYOID, TEXTOID}, NULL};
static CwhStatement lock_st = {lock_sql, 3, {UUIDOID, TEXTARRAYOID, TEXTOID}, NULL};
static CwhStatement write_st = {write_sql, 4,
	{UUIDOID, TEXTARRAYOID, TEXTOID, JSONBOID}, NULL};
/* INDENT ON */

/* Is anything remembered of this? */
static bool
is_usable(const CwhMemoryKey *key)
{
	return key->conversation_id &&
		strlen(key->conversation_id) +
		(key->chatbot_id ? strlen(key->chatbot_id) : 0) <= MAX_IDS;
}

/* Set the parameters that identify a memory. */
static void
key_parameters(const CwhMemoryKey *key, Datum *args)
{
	CwhArray	chatbot = cwh_array(TEXTOID, 1);

	cwh_array_set_text(&chatbot, 0, key->chatbot_id);
	args[KEY_WEBHOOK_ID] = UUIDPGetDatum(key->webhook_id);
	args[KEY_CHATBOT_ID] = cwh_array_datum(&chatbot);
	args[KEY_CONVERSATION_ID] = CStringGetTextDatum(key->conversation_id);
}

/*
 * What is remembered: an object, or null.  It lives until the transaction ends.
 * *fresh says whether the same need not be written again.
 */
Jsonb *
cwh_memory_read(const CwhMemoryKey *key, bool *fresh)
{
	int64		fresh_s = cwh_retention < 0 ? FRESH_S :
		Min(FRESH_S, cwh_retention / 10);
	Datum		args[KEY_PARAMETERS];

	*fresh = false;
	if (!is_usable(key))
		return NULL;
	key_parameters(key, args);
	if (cwh_run(&read_st, args) == 0)
		return NULL;
	*fresh = DatumGetTimestampTz(cwh_field(0, 1, NULL)) >
		GetCurrentTimestamp() - fresh_s * USECS_PER_SEC;
	return DatumGetJsonbPCopy(cwh_field(0, 0, NULL));
}

/*
 * Lock a memory without waiting; false if another transaction has locked it.
 * That can only be one that removes it, such as erase_conversation()'s, which may
 * stay open for as long as a customer likes.
 */
bool
cwh_memory_lock(const CwhMemoryKey *key)
{
	Datum		args[KEY_PARAMETERS];

	if (!is_usable(key))
		return true;
	key_parameters(key, args);
	/* there is nothing to lock before something is remembered */
	return cwh_run(&read_st, args) == 0 || cwh_run(&lock_st, args) > 0;
}

/* Remember more; false if that would be too much: then what was there stays. */
bool
cwh_memory_write(const CwhMemoryKey *key, const Jsonb *learned)
{
	Datum		args[KEY_PARAMETERS + 1];

	if (!is_usable(key))
		return true;
	key_parameters(key, args);
	args[KEY_PARAMETERS] = JsonbPGetDatum(learned);
	return cwh_run(&write_st, args) > 0;
}
