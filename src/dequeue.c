/*
 * dequeue.c
 *		Claims deliveries from the queue, without SQL.
 *
 * A claim locks rows as SELECT FOR UPDATE SKIP LOCKED does, so concurrent claims
 * get different rows, and records them in shared memory (see shared.c) before its
 * transaction ends.  Later claims skip rows that are recorded there.  The row
 * locks end with the transaction; the claim lasts until it is released or its
 * process ends.  A claim writes nothing that must reach the disk.
 *
 * The row is locked before the claim is recorded: a snapshot can show a delivery
 * that another worker has settled since, whose claim it has released.  A row that
 * has changed since the snapshot is left alone: whatever changes one lets a worker
 * know, when it commits, from where to claim again.
 *
 * The executor cost twice as much as these index scans, for the copies that it
 * makes of each event's data, and more where a conversation's deliveries are
 * claimed one by one.  This runs in the caller's transaction.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "dequeue.h"
#include "reader.h"
#include "rows.h"
#include "shared.h"

/* A claim that is being made. */
typedef struct Dequeue
{
	CwhReader	queue;			/* by the index that the claim follows */
	CwhReader	event;
	CwhReader	order;			/* by conversation, opened when needed */
	bool		has_order;
	TupleTableSlot *locked;
	MemoryContext scratch;		/* reset after each delivery, since the
								 * payloads of many would take much memory */
	CwhMayClaim may;
	CwhOnClaimed each;
	void	   *context;
} Dequeue;

/* Begin a claim, which follows an index of the queue. */
static void
begin(Dequeue *dequeue, CwhRelation index, int nkeys)
{
	/* before the snapshot, to which a table rewritten meanwhile would be empty */
	table_close(cwh_table_open(CWH_REL_QUEUE, RowShareLock), NoLock);
	/* a new snapshot, which shows what this transaction has settled */
	PushActiveSnapshot(GetTransactionSnapshot());
	cwh_reader_open(&dequeue->queue, CWH_REL_QUEUE, index, RowShareLock, nkeys);
	cwh_reader_open(&dequeue->event, CWH_REL_EVENT, CWH_REL_EVENT_PKEY,
					AccessShareLock, 1);
	dequeue->has_order = false;
	dequeue->locked = table_slot_create(dequeue->queue.table, NULL);
	dequeue->scratch = AllocSetContextCreate(CurrentMemoryContext,
											 "chatwebhook claim",
											 ALLOCSET_DEFAULT_SIZES);
}

/* End it. */
static void
end(Dequeue *dequeue)
{
	MemoryContextDelete(dequeue->scratch);
	ExecDropSingleTupleTableSlot(dequeue->locked);
	if (dequeue->has_order)
		cwh_reader_close(&dequeue->order);
	cwh_reader_close(&dequeue->event);
	cwh_reader_close(&dequeue->queue);
	PopActiveSnapshot();
}

/*
 * Lock the delivery that was found, unless another transaction has locked it or
 * changed it.
 */
static bool
lock_delivery(Dequeue *dequeue)
{
	bool		done = cwh_reader_lock(&dequeue->queue, LockTupleExclusive,
									   LockWaitSkip, false, dequeue->locked);

	ExecClearTuple(dequeue->locked);
	return done;
}

/* The id of the delivery that was found. */
static int64
delivery_id(const CwhReader *queue)
{
	return DatumGetInt64(cwh_read_value(queue, CWH_QUEUE_ID));
}

/*
 * Find the first delivery of a conversation, by the index that has them in order.
 * The caller releases keys[1], once it has read as many as it wants.
 */
static bool
find_first(CwhReader *queue, ScanKeyData keys[2], const pg_uuid_t *webhook_id,
		   const char *conversation_id)
{
	cwh_key_uuid(&keys[0], 1, webhook_id);
	cwh_key_text(queue, &keys[1], 2, conversation_id);
	return cwh_reader_find(queue, keys, 2);
}

/* Find the event of the delivery that was found. */
static bool
find_event(Dequeue *dequeue)
{
	ScanKeyData key;

	cwh_key_uuid(&key, 1,
				 DatumGetUUIDP(cwh_read_value(&dequeue->queue,
											  CWH_QUEUE_EVENT_ID)));
	return cwh_reader_find(&dequeue->event, &key, 1);
}

/* Describe the delivery and the event that were found. */
static void
describe(CwhClaimed *claimed, const CwhReader *queue, const CwhReader *event)
{
	bool		isnull;
	Datum		replies = cwh_read(queue, CWH_QUEUE_REPLIES, &isnull);
	Datum		expires_at;
	Datum		trace;

	claimed->id = delivery_id(queue);
	claimed->webhook_id = *DatumGetUUIDP(cwh_read_value(queue, CWH_QUEUE_WEBHOOK_ID));
	claimed->due = DatumGetTimestampTz(cwh_read_value(queue, CWH_QUEUE_NEXT_ATTEMPT_AT));
	claimed->attempts = DatumGetInt32(cwh_read_value(queue, CWH_QUEUE_ATTEMPTS));
	claimed->first_attempt = DatumGetInt32(cwh_read_value(queue, CWH_QUEUE_FIRST_ATTEMPT));
	claimed->last_wait_ms = DatumGetInt64(cwh_read_value(queue, CWH_QUEUE_LAST_WAIT_MS));
	claimed->replies = isnull ? NULL : cwh_replies(DatumGetJsonbP(replies));
	claimed->ordered = DatumGetBool(cwh_read_value(queue, CWH_QUEUE_ORDERED));
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

/* Claim the delivery that was found and locked, unless there is no room for it. */
static bool
claim_locked(Dequeue *dequeue)
{
	const CwhReader *queue = &dequeue->queue;
	CwhClaimed	claimed;
	MemoryContext oldcontext;
	Size		size = cwh_read_size(queue, CWH_QUEUE_REPLIES);

	claimed.has_event = find_event(dequeue);
	if (claimed.has_event)
		size += cwh_read_size(&dequeue->event, CWH_EVENT_DATA);
	if (dequeue->may &&
		!dequeue->may(dequeue->context,
					  DatumGetUUIDP(cwh_read_value(queue, CWH_QUEUE_WEBHOOK_ID)),
					  size))
		return false;
	oldcontext = MemoryContextSwitchTo(dequeue->scratch);
	describe(&claimed, queue, &dequeue->event);
	MemoryContextSwitchTo(oldcontext);
	/* last, so that no error above leaves a claim that each() never saw */
	claimed.mine = !claimed.held && cwh_claim(claimed.id, &claimed.webhook_id);
	dequeue->each(dequeue->context, &claimed);
	MemoryContextReset(dequeue->scratch);
	return true;
}

/*
 * Deliveries that are due
 */

/*
 * Must a delivery of an ordered conversation wait for others of it?  It waits
 * for earlier ones in the queue; and one that debounce.c has released, for later
 * ones in flight, too.
 */
static bool
must_wait_for(Dequeue *dequeue, int64 id, const char *conversation_id,
			  bool debounced)
{
	CwhReader  *order = &dequeue->order;
	ScanKeyData keys[2];
	bool		found;
	bool		wait;

	if (!dequeue->has_order)
		cwh_reader_open(order, CWH_REL_QUEUE, CWH_REL_QUEUE_ORDER, RowShareLock,
						2);
	dequeue->has_order = true;
	found = find_first(order, keys,
					   DatumGetUUIDP(cwh_read_value(&dequeue->queue,
													CWH_QUEUE_WEBHOOK_ID)),
					   conversation_id);
	wait = found && delivery_id(order) < id;
	/* the first one is this one */
	while (found && !wait && debounced && cwh_reader_next(order))
	{
		CHECK_FOR_INTERRUPTS();
		wait = cwh_is_claimed(delivery_id(order));
	}
	cwh_key_free(&keys[1]);
	return wait;
}

/* Must the delivery that was found wait for others? */
static bool
must_wait(Dequeue *dequeue)
{
	const CwhReader *queue = &dequeue->queue;
	char	   *conversation_id;
	bool		not_debounced;
	bool		wait;

	if (!DatumGetBool(cwh_read_value(queue, CWH_QUEUE_ORDERED)))
		return false;
	conversation_id = cwh_read_text(queue, CWH_QUEUE_CONVERSATION_ID);
	if (conversation_id == NULL)
		return false;
	(void) cwh_read(queue, CWH_QUEUE_DEBOUNCED, &not_debounced);
	wait = must_wait_for(dequeue, delivery_id(queue), conversation_id,
						 !not_debounced);
	pfree(conversation_id);
	return wait;
}

/*
 * Find what a webhook wants: ROW(next_attempt_at, id) > its position, and
 * next_attempt_at <= until.  "row" are the keys of that comparison, which the
 * scan refers to.
 */
static void
begin_scan(CwhReader *queue, const CwhWant *want, ScanKeyData row[2])
{
	ScanKeyData keys[3];

	cwh_key_uuid(&keys[0], 1, &want->webhook_id);
	ScanKeyEntryInitialize(&row[0], SK_ROW_MEMBER, 2, BTGreaterStrategyNumber,
						   InvalidOid, InvalidOid, F_TIMESTAMPTZ_CMP,
						   TimestampTzGetDatum(want->after.due));
	ScanKeyEntryInitialize(&row[1], SK_ROW_MEMBER | SK_ROW_END, 3,
						   BTGreaterStrategyNumber, InvalidOid, InvalidOid,
						   F_BTINT8CMP, Int64GetDatum(want->after.id));
	memset(&keys[1], 0, sizeof(ScanKeyData));
	keys[1].sk_flags = SK_ROW_HEADER;
	keys[1].sk_attno = 2;
	keys[1].sk_strategy = BTGreaterStrategyNumber;
	keys[1].sk_argument = PointerGetDatum(row);
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
				TimestampTzGetDatum(want->until));
	index_rescan(queue->scan, keys, 3, NULL, 0);
}

/*
 * Claim deliveries that are due now, up to a wanted number for each webhook, or
 * until there is no room for the next.
 */
void
cwh_claim_due(const CwhWant *wants, int n, CwhMayClaim may, CwhOnClaimed each,
			  void *context)
{
	Dequeue		dequeue = {.may = may, .each = each, .context = context};
	CwhReader  *queue = &dequeue.queue;

	begin(&dequeue, CWH_REL_QUEUE_CLAIM, 3);
	for (int i = 0; i < n; i++)
	{
		ScanKeyData row[2];
		int			found = 0;

		begin_scan(queue, &wants[i], row);
		while (found < wants[i].n && cwh_reader_next(queue))
		{
			CHECK_FOR_INTERRUPTS();
			if (cwh_is_claimed(delivery_id(queue)) || must_wait(&dequeue) ||
				!lock_delivery(&dequeue))
				continue;
			found++;
			if (!claim_locked(&dequeue))
				break;
		}
	}
	end(&dequeue);
}

/*
 * The next deliveries of conversations
 */

/*
 * Claim the next delivery of each of these conversations, if it is due, after
 * the one before it was settled in this transaction.
 */
void
cwh_claim_next(const CwhWantNext *wants, int n, TimestampTz now,
			   CwhMayClaim may, CwhOnClaimed each, void *context)
{
	Dequeue		dequeue = {.may = may, .each = each, .context = context};
	CwhReader  *queue = &dequeue.queue;

	begin(&dequeue, CWH_REL_QUEUE_ORDER, 2);
	for (int i = 0; i < n; i++)
	{
		ScanKeyData keys[2];
		bool		found;
		TimestampTz due;

		found = find_first(queue, keys, &wants[i].webhook_id,
						   wants[i].conversation_id);
		cwh_key_free(&keys[1]);
		if (!found)
			continue;
		due = DatumGetTimestampTz(cwh_read_value(queue, CWH_QUEUE_NEXT_ATTEMPT_AT));
		if ((due <= now || due == DT_NOEND) &&
			!cwh_is_claimed(delivery_id(queue)) && lock_delivery(&dequeue))
			(void) claim_locked(&dequeue);
	}
	end(&dequeue);
}
