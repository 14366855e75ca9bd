/*
 * conversation.c
 *		Claims what follows in ordered conversations, without SQL.
 *
 * Each delivery of an ordered conversation but the first is claimed by itself, once
 * the one before it has been settled.  SQL would look up three indexes for that, and
 * its executor would cost more than they do; this reads two, in one scan each for all
 * conversations of a transaction.
 *
 * As with other claims (outbox.c), the row is locked before the claim is recorded: a
 * snapshot can show a delivery that another worker has settled since, whose claim it
 * has released.  This runs in the caller's transaction.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "conversation.h"
#include "reader.h"
#include "rows.h"
#include "shared.h"

/* Find the first delivery of a conversation. */
static bool
find_delivery(CwhReader *queue, const CwhWantNext *want)
{
	ScanKeyData keys[2];
	bool		found;

	cwh_key_uuid(&keys[0], 1, &want->webhook_id);
	cwh_key_text(queue, &keys[1], 2, want->conversation_id);
	found = cwh_reader_find(queue, keys, 2);
	cwh_key_free(&keys[1]);
	return found;
}

/* Find the event of the delivery that was found. */
static bool
find_event(CwhReader *event, const CwhReader *queue)
{
	ScanKeyData key;

	cwh_key_uuid(&key, 1,
				 DatumGetUUIDP(cwh_read_value(queue, CWH_QUEUE_EVENT_ID)));
	return cwh_reader_find(event, &key, 1);
}

/*
 * Lock the delivery that was found, unless another transaction has locked it or
 * changed it: whatever does so lets a worker know.
 */
static bool
lock_delivery(CwhReader *queue, TupleTableSlot *locked)
{
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_lock(queue->table, &queue->slot->tts_tid,
							  GetActiveSnapshot(), locked,
							  GetCurrentCommandId(true), LockTupleExclusive,
							  LockWaitSkip, 0, &failure);
	ExecClearTuple(locked);
	return result == TM_Ok;
}

/* Describe the delivery and the event that were found. */
static void
describe(CwhClaimed *claimed, const CwhReader *queue, const CwhReader *event)
{
	bool		isnull;
	Datum		replies = cwh_read(queue, CWH_QUEUE_REPLIES, &isnull);
	Datum		expires_at;
	Datum		trace;

	claimed->id = DatumGetInt64(cwh_read_value(queue, CWH_QUEUE_ID));
	claimed->webhook_id = *DatumGetUUIDP(cwh_read_value(queue, CWH_QUEUE_WEBHOOK_ID));
	claimed->due = DatumGetTimestampTz(cwh_read_value(queue, CWH_QUEUE_NEXT_ATTEMPT_AT));
	claimed->attempts = DatumGetInt32(cwh_read_value(queue, CWH_QUEUE_ATTEMPTS));
	claimed->first_attempt = DatumGetInt32(cwh_read_value(queue, CWH_QUEUE_FIRST_ATTEMPT));
	claimed->last_wait_ms = DatumGetInt64(cwh_read_value(queue, CWH_QUEUE_LAST_WAIT_MS));
	claimed->replies = isnull ? NULL : cwh_replies(DatumGetJsonbP(replies));
	claimed->ordered = true;
	(void) cwh_read(queue, CWH_QUEUE_DELIVER_AT, &isnull);
	claimed->scheduled = !isnull;
	expires_at = cwh_read(queue, CWH_QUEUE_EXPIRES_AT, &isnull);
	claimed->expires_at = isnull ? DT_NOEND : DatumGetTimestampTz(expires_at);
	(void) cwh_read(queue, CWH_QUEUE_DEBOUNCE_UNTIL, &isnull);
	claimed->held = !isnull;
	if (!claimed->has_event)
		return;
	claimed->event.id = *DatumGetUUIDP(cwh_read_value(event, CWH_EVENT_ID));
	claimed->event.type = cwh_read_text(event, CWH_EVENT_TYPE);
	claimed->event.chatbot_id = cwh_read_text(event, CWH_EVENT_CHATBOT_ID);
	claimed->event.conversation_id = cwh_read_text(event, CWH_EVENT_CONVERSATION_ID);
	claimed->event.created_at = DatumGetTimestampTz(cwh_read_value(event, CWH_EVENT_CREATED_AT));
	claimed->event.data = DatumGetJsonbP(cwh_read_value(event, CWH_EVENT_DATA));
	trace = cwh_read(event, CWH_EVENT_TRACEPARENT, &isnull);
	claimed->traceparent = isnull ? NULL : cwh_trace(trace);
}

/*
 * Claim the delivery that was found, if it is due.  The payloads of many would
 * take much memory, so each is read in the scratch context.
 */
static void
claim_found(CwhReader *queue, CwhReader *event, TupleTableSlot *locked,
			MemoryContext scratch, TimestampTz now, CwhMayClaim may,
			CwhOnClaimed each, void *context)
{
	MemoryContext oldcontext;
	TimestampTz due = DatumGetTimestampTz(cwh_read_value(queue, CWH_QUEUE_NEXT_ATTEMPT_AT));
	CwhClaimed	claimed;
	Size		size;

	if ((due > now && due != DT_NOEND) ||
		cwh_is_claimed(DatumGetInt64(cwh_read_value(queue, CWH_QUEUE_ID))) ||
		!lock_delivery(queue, locked))
		return;
	claimed.has_event = find_event(event, queue);
	size = cwh_read_size(queue, CWH_QUEUE_REPLIES);
	if (claimed.has_event)
		size += cwh_read_size(event, CWH_EVENT_DATA);
	if (!may(context, DatumGetUUIDP(cwh_read_value(queue, CWH_QUEUE_WEBHOOK_ID)), size))
		return;
	oldcontext = MemoryContextSwitchTo(scratch);
	describe(&claimed, queue, event);
	/* last, so that no error above leaves a claim that each() never saw */
	claimed.mine = !claimed.held && cwh_claim(claimed.id, &claimed.webhook_id);
	each(context, &claimed);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(scratch);
}

/*
 * Claim the next delivery of each of these conversations, after the one before
 * it was settled in this transaction: call each() for those that may() has room
 * for.
 */
void
cwh_claim_next(const CwhWantNext *wants, int n, TimestampTz now,
			   CwhMayClaim may, CwhOnClaimed each, void *context)
{
	CwhReader	queue;
	CwhReader	event;
	TupleTableSlot *locked;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "chatwebhook claims",
												  ALLOCSET_DEFAULT_SIZES);

	/* a new snapshot, which shows what has been settled */
	PushActiveSnapshot(GetTransactionSnapshot());
	cwh_reader_open(&queue, CWH_REL_QUEUE, CWH_REL_QUEUE_ORDER, RowShareLock, 2);
	cwh_reader_open(&event, CWH_REL_EVENT, CWH_REL_EVENT_PKEY, AccessShareLock, 1);
	locked = table_slot_create(queue.table, NULL);
	for (int i = 0; i < n; i++)
		if (find_delivery(&queue, &wants[i]))
			claim_found(&queue, &event, locked, scratch, now, may, each,
						context);
	ExecDropSingleTupleTableSlot(locked);
	cwh_reader_close(&event);
	cwh_reader_close(&queue);
	PopActiveSnapshot();
	MemoryContextDelete(scratch);
}
