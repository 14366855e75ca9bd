/*
 * render.c
 *		Asks the connectors of deliveries what to send next.
 *
 * Connectors are called one after the other, in a transaction of their own, and
 * may be slow, fail, or never return.  The slow ones share a small part of the
 * worker's time; the webhook of one that could not be stopped is disabled.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "gate.h"
#include "memory.h"
#include "render.h"
#include "statement.h"

/* Room for the name of a connector's function. */
#define FUNCTION_KEY		256

/* Connectors are called for this many deliveries in a transaction. */
#define RENDER_BATCH		50

/* All slow connectors together get 1/SLOW_SHARE of the worker's time. */
#define SLOW_SHARE			20

/* Other workers leave a webhook alone for this long whose connector is stuck. */
#define STUCK_PAUSE_MS 600000

RenderQueue cwh_to_render = {SLIST_STATIC_INIT(cwh_to_render.head), NULL, 0};

HTAB	   *cwh_slow_functions = NULL;

/*
 * Take deliveries off the list whose connectors may be called now; the others
 * give their places back.
 */
static int
take_to_render(Delivery **deliveries, TimestampTz now)
{
	slist_head	later;
	slist_node *later_tail = NULL;
	int			n = 0;
	bool		slow_done = cwh_worker.slow_until > now;

	slist_init(&later);
	while (!slist_is_empty(&cwh_to_render.head))
	{
		slist_node *node = slist_pop_head_node(&cwh_to_render.head);
		Delivery   *delivery = slist_container(Delivery, node, node);
		Endpoint   *endpoint = delivery->endpoint;
		bool		slow = cwh_connector_slow(endpoint);

		if (endpoint->gone || !endpoint->webhook->enabled ||
			endpoint->webhook->connector == NULL || (slow && slow_done))
		{
			cwh_to_render.n--;
			cwh_count_in_flight(endpoint, -1);
			cwh_wait_again(delivery);
			if (slow && cwh_worker.slow_until > now && !endpoint->blocked)
				cwh_block_endpoint(endpoint, cwh_worker.slow_until, now);
		}
		else if (n == RENDER_BATCH)
			cwh_append_node(&later, &later_tail, node);
		else
		{
			deliveries[n++] = delivery;
			slow_done = slow_done || slow;
		}
	}
	cwh_to_render.head = later;
	cwh_to_render.tail = later_tail;
	cwh_to_render.n -= n;
	return n;
}

/* The number of events in one call of a connector. */
static int
count_events(Delivery *delivery)
{
	int			n = 1;
	slist_iter	iter;

	if (delivery->batch.data)
		slist_foreach(iter, &delivery->others)
			n++;
	return n;
}

/*
 * Remember whether a connector was slow: for this webhook, or if it ran out of
 * time, for all.  The first call may be slow without meaning anything.  Other
 * webhooks wait for a batch as for a single event, but how many requests it may
 * make depends on the time for each event.
 */
static void
note_time(Delivery *delivery, int took_ms, TimestampTz now)
{
	Endpoint   *endpoint = delivery->endpoint;
	char		key[FUNCTION_KEY];
	bool		first = !endpoint->pace.called;
	int			each_ms = took_ms / count_events(delivery);

	endpoint->pace.called = true;
	endpoint->pace.slow = took_ms >= (first ? 5 : 1) * CWH_SLOW_CONNECTOR_MS;
	if (endpoint->pace.slow)
		cwh_worker.slow_until =
			TimestampTzPlusMilliseconds(now, (int64) took_ms * SLOW_SHARE);
	if (each_ms >= CWH_SLOW_CONNECTOR_MS)
		cwh_limit_window(endpoint, FIRST_WINDOW);
	if (endpoint->webhook->function == NULL)
		return;
	strlcpy(key, endpoint->webhook->function, sizeof(key));
	if (took_ms >= cwh_connector_timeout)
		(void) hash_search(cwh_slow_functions, key, HASH_ENTER, NULL);
	else if (hash_get_num_entries(cwh_slow_functions) > 0)
		(void) hash_search(cwh_slow_functions, key, HASH_REMOVE, NULL);
}

/*
 * The process ends within a connector that could not be stopped otherwise.  Its
 * webhook must not end the next worker, too.
 */
static void
on_exit_rendering(int code, Datum arg)
{
	if (cwh_running_connector == NULL || cwh_worker_terminate)
		return;
	cwh_gate_stuck(&cwh_running_connector->id,
				   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											   STUCK_PAUSE_MS));
}

/* Set up the state of this file, when the first connector is called. */
static void
set_up(void)
{
	HASHCTL		info;

	memset(&info, 0, sizeof(info));
	info.keysize = FUNCTION_KEY;
	info.entrysize = FUNCTION_KEY;
	info.hcxt = cwh_worker.context;
	cwh_slow_functions = hash_create("chatwebhook slow connectors", 16, &info,
								 HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	before_shmem_exit(on_exit_rendering, (Datum) 0);
}

/* Read what connectors that remember have remembered. */
static void
read_memories(CwhRender *renders, Delivery **deliveries, int n)
{
	CwhMemory  *memories = palloc(n * sizeof(CwhMemory));
	int		   *places = palloc(n * sizeof(int));
	int			nmemories = 0;

	for (int i = 0; i < n; i++)
	{
		CwhMemoryKey key = {
			.webhook_id = &deliveries[i]->endpoint->id,
			.chatbot_id = deliveries[i]->chatbot_id,
			.conversation_id = deliveries[i]->conversation_id
		};

		deliveries[i]->exchange.known = NULL;
		if (!renders[i].webhook->rules.remember)
			continue;
		memories[nmemories].key = key;
		places[nmemories++] = i;
	}
	cwh_memory_read(memories, nmemories);
	for (int i = 0; i < nmemories; i++)
	{
		CwhExchange *exchange = &deliveries[places[i]]->exchange;

		renders[places[i]].memory = memories[i].value;
		if (memories[i].fresh)
			exchange->known = cwh_exchange_keep(exchange, memories[i].value);
	}
}

/*
 * Call connectors within a transaction.  Returns for how many of the deliveries;
 * -1 if that failed for a reason of our own, since their errors are caught.
 */
static int
call_connectors(CwhRender *renders, Delivery **deliveries, int n)
{
	volatile int done = -1;

	pgstat_report_activity(STATE_RUNNING, "calling connectors");
	PG_TRY();
	{
		cwh_begin();
		read_memories(renders, deliveries, n);
		done = cwh_connector_render(renders, n);
		cwh_commit(CWH_FLUSH_NOT);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cwh_worker.transaction_context);
		HOLD_INTERRUPTS();
		done = -1;
		EmitErrorReport();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	pgstat_report_activity(STATE_IDLE, NULL);
	SetLatch(MyLatch);
	return done;
}

/*
 * Ask connectors for the next requests of deliveries, in one transaction.  Then
 * each() is called for those deliveries, with what the connector wants in their
 * exchange's step; it is null if nothing (more) is to be sent.
 */
void
cwh_render(CwhOnRendered each)
{
	MemoryContext oldcontext;
	Delivery  **deliveries;
	CwhRender  *renders;
	int			n;
	int			done;
	TimestampTz now = GetCurrentTimestamp();

	if (cwh_slow_functions == NULL)
		set_up();
	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	deliveries = palloc(RENDER_BATCH * sizeof(Delivery *));
	renders = palloc0(RENDER_BATCH * sizeof(CwhRender));
	n = take_to_render(deliveries, now);
	for (int i = 0; i < n; i++)
	{
		renders[i].webhook = deliveries[i]->endpoint->webhook;
		renders[i].batch = deliveries[i]->batch.data != NULL;
		renders[i].event = renders[i].batch ? deliveries[i]->batch.data :
			deliveries[i]->body.data;
		renders[i].replies = deliveries[i]->exchange.replies;
		renders[i].context = deliveries[i]->exchange.context;
	}
	done = n > 0 ? call_connectors(renders, deliveries, n) : 0;
	now = GetCurrentTimestamp();
	for (int i = 0; i < n; i++)
	{
		Delivery   *delivery = deliveries[i];

		MemoryContextSwitchTo(cwh_worker.transaction_context);
		if (done < 0)
			each(delivery, "the connector could not be called; see the server's log");
		else if (i < done)
		{
			note_time(delivery, renders[i].took_ms, now);
			delivery->exchange.step = renders[i].step;
			delivery->version = delivery->endpoint->version;
			each(delivery, renders[i].error);
		}
		else
			cwh_render_later(delivery);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(cwh_worker.transaction_context);
}
