/*
 * render.c
 *		Calls the connectors of deliveries, for what to send next.
 *
 * They are called one after the other, in a transaction of their own, and may be
 * slow, fail, or not come back.  The slow ones share a small part of the
 * worker's time; one that could not be stopped has its webhook disabled.
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

#include "compat.h"
#include "worker.h"

/* Room for the name of a connector's function. */
#define FUNCTION_KEY		256

/* Connectors are called for this many deliveries in a transaction. */
#define RENDER_BATCH		50

/*
 * Connectors that are slow get one part in so many of the worker's time, all of
 * them together.
 */
#define SLOW_SHARE			20

/* Until then, other workers leave it alone. */
#define UNSTOPPABLE_PAUSE_MS 600000

/* deliveries whose next request is to be made */
static slist_head to_render = SLIST_STATIC_INIT(to_render);
static slist_node *to_render_tail;
static HTAB *slow_functions;	/* connectors that took long the last time */

/* Is its connector one that takes long? */
bool
cwh_is_slow(const Endpoint *endpoint)
{
	const char *function = endpoint->webhook->function;

	if (endpoint->slow)
		return true;
	return function && hash_get_num_entries(slow_functions) > 0 &&
		hash_search(slow_functions, function, HASH_FIND, NULL) != NULL;
}

/* A delivery's connector is to be called. */
void
cwh_render_later(Delivery *delivery)
{
	cwh_append_node(&to_render, &to_render_tail, &delivery->node);
	cwh_worker.nto_render++;
}

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
	while (!slist_is_empty(&to_render))
	{
		slist_node *node = slist_pop_head_node(&to_render);
		Delivery   *delivery = slist_container(Delivery, node, node);
		Endpoint   *endpoint = delivery->endpoint;
		bool		slow = cwh_is_slow(endpoint);

		if (endpoint->gone || !endpoint->webhook->enabled ||
			endpoint->webhook->connector == NULL || (slow && slow_done))
		{
			cwh_worker.nto_render--;
			cwh_count_in_flight(endpoint, -1);
			cwh_go_on(delivery);
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
	to_render = later;
	to_render_tail = later_tail;
	cwh_worker.nto_render -= n;
	return n;
}

/*
 * Remember whether a connector was slow: for this webhook, or if it ran out of
 * time, for all.  The first call may be slow without meaning anything.
 */
static void
note_time(Endpoint *endpoint, int took_ms, TimestampTz now)
{
	char		key[FUNCTION_KEY];
	bool		first = !endpoint->called;

	endpoint->called = true;
	endpoint->slow = took_ms >= (first ? 5 : 1) * CWH_SLOW_CONNECTOR_MS;
	if (endpoint->slow)
		cwh_worker.slow_until =
			TimestampTzPlusMilliseconds(now, (int64) took_ms * SLOW_SHARE);
	if (endpoint->webhook->function == NULL)
		return;
	strlcpy(key, endpoint->webhook->function, sizeof(key));
	if (took_ms >= cwh_connector_timeout)
		(void) hash_search(slow_functions, key, HASH_ENTER, NULL);
	else if (hash_get_num_entries(slow_functions) > 0)
		(void) hash_search(slow_functions, key, HASH_REMOVE, NULL);
}

/* A connector has been asked what to send: send it. */
static void
on_rendered(Delivery *delivery, const CwhRender *render, TimestampTz now)
{
	Endpoint   *endpoint = delivery->endpoint;

	note_time(endpoint, render->took_ms, now);
	/* what holds the worker up gets few places */
	if (render->took_ms >= CWH_SLOW_CONNECTOR_MS)
		endpoint->window = Min(endpoint->window, FIRST_WINDOW);
	if (render->error)
		cwh_fail_delivery(delivery, render->error, false);
	else if (render->request)
	{
		delivery->request = render->request;
		delivery->rendered = endpoint->generation;
		/* another may be asking for the token that this one needs, too */
		if (endpoint->fetching && !cwh_has_token(endpoint))
		{
			cwh_count_in_flight(endpoint, -1);
			cwh_go_on(delivery);
		}
		else
			cwh_send_request(delivery);
	}
	else
	{
		cwh_count_in_flight(endpoint, -1);
		/* nothing (more) to send: not an attempt if nothing was sent */
		if (delivery->replies == NULL)
			delivery->started_at = 0;
		delivery->transfer.latency_ms = delivery->earlier_ms;
		if (delivery->replies == NULL || delivery->earlier_ms == 0)
			delivery->transfer.status = 0;
		delivery->wait_ms = 0;
		delivery->log = false;
		cwh_add_result(delivery, CWH_OUTCOME_DELIVERED, NULL);
		if (delivery->replies)
		{
			cwh_add_gain(endpoint, delivery, true, now);
			endpoint->window = Min(endpoint->window + 1,
								   endpoint->webhook->max_in_flight);
		}
	}
	cwh_reconsider(endpoint);
}

/*
 * The process ends within a connector that could not be stopped otherwise: its
 * webhook is not to end the next one, too, at once.
 */
static void
on_exit_rendering(int code, Datum arg)
{
	if (!cwh_connector_running || cwh_worker_terminate)
		return;
	cwh_culprit_add(&cwh_connector_of->id);
	cwh_gate_pause(&cwh_connector_of->id,
				   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											   UNSTOPPABLE_PAUSE_MS));
}

/* Disable webhooks whose connectors have taken a worker with them. */
void
cwh_disable_culprits(void)
{
	pg_uuid_t	id;

	cwh_outbox_begin();
	while (cwh_culprit_take(&id))
	{
		if (!cwh_outbox_disable(&id, "its connector could not be stopped"))
			continue;
		ereport(LOG, (errmsg("chatwebhook disabled a webhook: its connector could not be stopped")));
		cwh_add_alerting(&id);
	}
	cwh_outbox_commit(CWH_FLUSH_NOW);
}

/* Ask connectors for the next requests of deliveries, in one transaction. */
void
cwh_render_deliveries(TimestampTz now)
{
	MemoryContext oldcontext;
	Delivery  **deliveries;
	CwhRender  *renders;
	int			n;
	volatile int done = 0;
	volatile bool failed = false;

	oldcontext = MemoryContextSwitchTo(cwh_worker.transaction_context);
	deliveries = palloc(RENDER_BATCH * sizeof(Delivery *));
	renders = palloc0(RENDER_BATCH * sizeof(CwhRender));
	n = take_to_render(deliveries, now);
	if (n > 0)
	{
		pgstat_report_activity(STATE_RUNNING, "calling connectors");
		for (int i = 0; i < n; i++)
		{
			renders[i].webhook = deliveries[i]->endpoint->webhook;
			renders[i].event = deliveries[i]->body.data;
			renders[i].replies = deliveries[i]->replies;
			renders[i].context = deliveries[i]->context;
		}
		PG_TRY();
		{
			cwh_outbox_begin();
			done = cwh_connector_render(renders, n);
			cwh_outbox_commit(CWH_FLUSH_NOT);
		}
		PG_CATCH();
		{
			/* of our own, for theirs are caught */
			MemoryContextSwitchTo(cwh_worker.transaction_context);
			HOLD_INTERRUPTS();
			failed = true;
			EmitErrorReport();
			AbortOutOfAnyTransaction();
			FlushErrorState();
			RESUME_INTERRUPTS();
		}
		PG_END_TRY();
		pgstat_report_activity(STATE_IDLE, NULL);
		SetLatch(MyLatch);
		now = GetCurrentTimestamp();
		for (int i = 0; i < n; i++)
		{
			Delivery   *delivery = deliveries[i];

			MemoryContextSwitchTo(cwh_worker.transaction_context);
			if (failed)
				cwh_fail_delivery(delivery, "the connector could not be called; see the server's log",
								  false);
			else if (i < done)
				on_rendered(delivery, &renders[i], now);
			else
				cwh_render_later(delivery);
		}
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(cwh_worker.transaction_context);
}

/* Set up the state of this file. */
void
cwh_render_set_up(void)
{
	HASHCTL		info;

	memset(&info, 0, sizeof(info));
	info.keysize = FUNCTION_KEY;
	info.entrysize = FUNCTION_KEY;
	info.hcxt = cwh_worker.context;
	slow_functions = hash_create("chatwebhook slow connectors", 16, &info,
								 HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	before_shmem_exit(on_exit_rendering, (Datum) 0);
}
