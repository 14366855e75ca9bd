/*
 * endpoint.c
 *		The worker's endpoints: lists, timers, windows, and the webhooks read.
 *
 * endpoint.h says what an endpoint is.  Each is in the lists that it belongs to:
 * ready, if there may be something to claim for it, and startable, if a request
 * of it may start.  Functions that change what this depends on end with
 * cwh_reconsider(); callers that change it otherwise call it themselves.  What
 * becomes so with time is in a heap of timers.
 *
 * A webhook's configuration is read in the worker's next transaction after it
 * may have changed: see cwh_refresh_endpoints().
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "endpoint.h"
#include "gate.h"

/* Deliveries that must wait longer than this are given back. */
#define LONG_BLOCK_MS		1000

/* More idle endpoints, or more memory for them, are forgotten at a sweep. */
#define MAX_IDLE_ENDPOINTS	2000
#define MAX_IDLE_BYTES		(16 * 1024 * 1024)

Endpoints	cwh_endpoints = {
	.ready = {DLIST_STATIC_INIT(cwh_endpoints.ready[0]),
	DLIST_STATIC_INIT(cwh_endpoints.ready[1])},
	.startable = {DLIST_STATIC_INIT(cwh_endpoints.startable[0]),
	DLIST_STATIC_INIT(cwh_endpoints.startable[1])}
};

static HTAB *table = NULL;		/* of all endpoints, by id */
static HTAB *customers = NULL;	/* of all Customers */

/* endpoints whose webhooks may have to be read */
static dlist_head stale_list = DLIST_STATIC_INIT(stale_list);
static int	nstale = 0;
static uint64 deleted_generation = 0;	/* deleted ones were looked for at this */

/* Order of the timers: the earliest first. */
static int
compare_timers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz at = pairingheap_const_container(Endpoint, timer, a)->wake_at;
	TimestampTz bt = pairingheap_const_container(Endpoint, timer, b)->wake_at;

	return at < bt ? 1 : at > bt ? -1 : 0;
}

/* Make the table and the heap, when the first endpoint is needed. */
static void
set_up(void)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(cwh_worker.context);
	HASHCTL		info;

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(pg_uuid_t);
	info.entrysize = sizeof(Endpoint);
	info.hcxt = cwh_worker.context;
	table = hash_create("chatwebhook endpoints", 256, &info,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	info.keysize = sizeof(uint64);
	info.entrysize = sizeof(Customer);
	customers = hash_create("chatwebhook customers", 256, &info,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cwh_endpoints.timers = pairingheap_allocate(compare_timers, NULL);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * The customer whose webhook this is, made if needed: it is known by the
 * webhook's owner, a hash of its chatbot_id, or, if that is 0, by its id.
 */
static Customer *
find_customer(const pg_uuid_t *id, uint64 owner)
{
	uint64		key = owner ? owner :
		DatumGetUInt64(hash_any_extended(id->data, UUID_LEN, 1));
	bool		found;
	Customer   *customer = hash_search(customers, &key, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) customer + sizeof(uint64), 0,
			   sizeof(Customer) - sizeof(uint64));
		for (int proven = 0; proven < 2; proven++)
		{
			dlist_init(&customer->ready[proven].endpoints);
			dlist_init(&customer->startable[proven].endpoints);
		}
	}
	return customer;
}

/* The endpoint of a webhook, made if needed. */
Endpoint *
cwh_endpoint(const pg_uuid_t *id)
{
	bool		found;
	Endpoint   *endpoint;

	if (table == NULL)
		set_up();
	endpoint = hash_search(table, id, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) endpoint + sizeof(pg_uuid_t), 0,
			   sizeof(Endpoint) - sizeof(pg_uuid_t));
		endpoint->customer = find_customer(id, 0);
		endpoint->customer->nendpoints++;
		endpoint->bucket = cwh_bucket(id->data, UUID_LEN);
		endpoint->window = FIRST_WINDOW;
		endpoint->after.due = DT_NOBEGIN;
		endpoint->token.context = cwh_worker.context;
		slist_init(&endpoint->waiting);
	}
	return endpoint;
}

/*
 * Lists
 */

/* Have an endpoint become ready at a time, if nothing does so sooner. */
static void
set_timer(Endpoint *endpoint, TimestampTz at)
{
	if (endpoint->in_timers)
	{
		if (endpoint->wake_at <= at)
			return;
		pairingheap_remove(cwh_endpoints.timers, &endpoint->timer);
	}
	endpoint->wake_at = at;
	endpoint->in_timers = true;
	pairingheap_add(cwh_endpoints.timers, &endpoint->timer);
}

/* Does it wait for more, to make a full batch? */
static bool
is_gathering(Endpoint *endpoint)
{
	CwhWebhook *webhook = endpoint->webhook;
	TimestampTz until;

	if (webhook == NULL || webhook->batch_size == 1 ||
		webhook->batch_window_ms == 0 ||
		endpoint->expected >= webhook->batch_size)
		return false;
	until = TimestampTzPlusMilliseconds(endpoint->ready_since,
										webhook->batch_window_ms);
	if (until <= GetCurrentTimestamp())
		return false;
	set_timer(endpoint, until);
	return true;
}

/* Put an endpoint into the list of those that are ready or take it out. */
static void
set_ready(Endpoint *endpoint, bool ready)
{
	cwh_set_turn(&cwh_endpoints.ready[endpoint->proven],
				 &endpoint->customer->ready[endpoint->proven],
				 &endpoint->ready_node, &endpoint->in_ready, ready);
}

/* Note whether an endpoint is hungry. */
static void
set_hungry(Endpoint *endpoint, bool hungry)
{
	int			more = (int) hungry - (int) endpoint->is_hungry;

	cwh_endpoints.nhungry[endpoint->proven] += more;
	endpoint->customer->nhungry[endpoint->proven] += more;
	endpoint->is_hungry = hungry;
}

/* Put an endpoint into the lists that it belongs to. */
void
cwh_reconsider(Endpoint *endpoint)
{
	bool		ready = cwh_endpoint_room(endpoint) > 0 &&
		(endpoint->ready ? !is_gathering(endpoint) : endpoint->backfill);
	bool		startable = endpoint->nwaiting > 0 &&
		!endpoint->account.disable && !endpoint->token.requested &&
		!endpoint->blocked && endpoint->in_flight < endpoint->window;

	set_hungry(endpoint, ready && endpoint->nwaiting == 0 &&
			   endpoint->in_flight < endpoint->window);
	set_ready(endpoint, ready);
	cwh_set_startable(endpoint, startable);
}

/* Move an endpoint between the lists of customers, and of the two kinds. */
static void
move_endpoint(Endpoint *endpoint, Customer *customer, bool proven)
{
	int			started = endpoint->in_flight;
	int			held = endpoint->in_flight + endpoint->nwaiting;

	if (endpoint->customer == customer && endpoint->proven == proven)
		return;
	set_hungry(endpoint, false);
	set_ready(endpoint, false);
	cwh_set_startable(endpoint, false);
	cwh_count_held(endpoint, -started, -held);
	endpoint->customer->nendpoints--;
	endpoint->customer = customer;
	endpoint->customer->nendpoints++;
	endpoint->proven = proven;
	cwh_count_held(endpoint, started, held);
	cwh_reconsider(endpoint);
}

/*
 * The queue of an endpoint
 */

/* Must its webhook be read again? */
static bool
is_stale(const Endpoint *endpoint)
{
	return endpoint->changed ||
		!cwh_stamp_holds(endpoint->bucket, endpoint->stamp);
}

/* Have the next transaction see whether its webhook must be read again. */
static void
mark_stale(Endpoint *endpoint)
{
	if (endpoint->in_stale)
		return;
	dlist_push_tail(&stale_list, &endpoint->stale_node);
	endpoint->in_stale = true;
	nstale++;
}

/* There may be deliveries to claim from this position on, n more than before. */
static void
make_ready(Endpoint *endpoint, TimestampTz due, int64 id, int n)
{
	cwh_step_back(endpoint, (CwhPosition) {due, id});
	/* deliveries that are given back can also be those of a backfill */
	if (due == DT_NOBEGIN)
		endpoint->backfill_after = 0;
	if (!endpoint->ready)
	{
		endpoint->ready_since = GetCurrentTimestamp();
		endpoint->expected = 0;
	}
	endpoint->expected = Min((int64) endpoint->expected + n, CWH_MAX_BATCH);
	endpoint->ready = true;
	if (is_stale(endpoint))
		mark_stale(endpoint);
	cwh_reconsider(endpoint);
}

/* Note that there are deliveries of a backfill, to claim when nothing else is due. */
static void
expect_backfill(Endpoint *endpoint)
{
	/* while it is being read, what comes before has been read */
	if (!endpoint->backfill)
		endpoint->backfill_after = 0;
	endpoint->backfill = true;
	if (is_stale(endpoint))
		mark_stale(endpoint);
	cwh_reconsider(endpoint);
}

/*
 * There are deliveries from this position on, n of which are new: claim them as
 * soon as they are due.
 */
void
cwh_expect(Endpoint *endpoint, TimestampTz due, int64 id, int n)
{
	if (due == DT_NOEND)
		expect_backfill(endpoint);
	else if (due > GetCurrentTimestamp())
	{
		endpoint->later = true;
		set_timer(endpoint, due);
	}
	else
		make_ready(endpoint, due, id, n);
}

/*
 * A sweep has found that something is pending, and when the first of it is due.
 * Read the queue from its head, unless that was done a moment ago.
 */
void
cwh_found_pending(Endpoint *endpoint, TimestampTz first_due)
{
	TimestampTz now = GetCurrentTimestamp();

	endpoint->later = true;
	if (first_due == DT_NOEND)
		expect_backfill(endpoint);
	else if (first_due > now)
		set_timer(endpoint, first_due);
	else if (endpoint->reread_at > now)
	{
		endpoint->reread = true;
		set_timer(endpoint, endpoint->reread_at);
		make_ready(endpoint, DT_NOEND, 0, 0);	/* behind where it is */
	}
	else
	{
		endpoint->reread = false;
		make_ready(endpoint, DT_NOBEGIN, 1, 0);
	}
}

/*
 * A claim was made for an endpoint.  If that has exhausted its queue as of now,
 * it is not ready any more; sweeps are to leave its head alone until reread_at.
 * True if somebody has to look up when it has something due later.
 */
bool
cwh_claim_made(Endpoint *endpoint, bool exhausted, TimestampTz now,
			   TimestampTz reread_at)
{
	bool		later = exhausted && endpoint->later;

	/* the next claim begins with those for which this one was not made */
	set_ready(endpoint, false);
	if (exhausted)
	{
		endpoint->ready = false;
		/* deliveries that wait in their conversation need not be read again */
		endpoint->after.due = now;
		endpoint->after.id = PG_INT64_MAX;
		/* a reread that was promised is not put off */
		if (!endpoint->reread)
			endpoint->reread_at = Max(endpoint->reread_at, reread_at);
		endpoint->later = false;
	}
	cwh_reconsider(endpoint);
	return later;
}

/* The clock was set: move the times that endpoints wait for with it. */
static void
follow_clock(int64 step)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;

	hash_seq_init(&status, table);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		/* all of them, so that their order in the heap stays */
		endpoint->wake_at += step;
		endpoint->ready_since += step;
		endpoint->reread_at += step;
		endpoint->blocked_until += step;
		endpoint->claim.eventless_since += step;
		if (endpoint->claim.look_again != 0)
			endpoint->claim.look_again += step;
		endpoint->token.until += step;
		endpoint->token.since += step;
	}
}

/*
 * Make endpoints ready whose time has come.  If the clock was set since the last
 * call, it was by "step".
 */
void
cwh_run_timers(TimestampTz now, int64 step)
{
	if (step != 0 && table)
		follow_clock(step);
	while (cwh_next_timer() <= now)
	{
		Endpoint   *endpoint = pairingheap_container(Endpoint, timer,
													 pairingheap_remove_first(cwh_endpoints.timers));

		endpoint->in_timers = false;
		if (endpoint->blocked && endpoint->blocked_until > now)
			set_timer(endpoint, endpoint->blocked_until);
		else
			endpoint->blocked = false;
		make_ready(endpoint, endpoint->wake_at, 1, 0);
		if (!endpoint->reread)
			continue;
		if (endpoint->reread_at > now)
			set_timer(endpoint, endpoint->reread_at);
		else
		{
			endpoint->reread = false;
			make_ready(endpoint, DT_NOBEGIN, 1, 0);
		}
	}
}

/*
 * Deliveries and requests
 */

/* Have the others of a batch wait again, before all else. */
static void
undo_batch(Endpoint *endpoint, Delivery *first)
{
	slist_iter	iter;

	if (first->batch.data == NULL)
		return;
	pfree(first->batch.data);
	first->batch.data = NULL;
	if (slist_is_empty(&first->others))
		return;
	slist_foreach(iter, &first->others)
		cwh_count_waiting(endpoint, 1);
	if (slist_is_empty(&endpoint->waiting))
		endpoint->waiting_tail = first->others_tail;
	first->others_tail->next = endpoint->waiting.head.next;
	endpoint->waiting.head.next = first->others.head.next;
}

/* Go on with a delivery at the next turn, in the same attempt. */
void
cwh_wait_again(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	undo_batch(endpoint, delivery);
	if (slist_is_empty(&endpoint->waiting))
		endpoint->waiting_tail = &delivery->node;
	slist_push_head(&endpoint->waiting, &delivery->node);
	cwh_count_waiting(endpoint, 1);
	if (endpoint->gone || !endpoint->webhook->enabled)
		cwh_release_waiting(endpoint);
	cwh_reconsider(endpoint);
}

/* Give back what an endpoint has claimed and not started. */
static void
release_waiting(Endpoint *endpoint)
{
	while (!slist_is_empty(&endpoint->waiting))
	{
		Delivery   *delivery = cwh_next_waiting(endpoint);

		cwh_claim_release(&delivery->id, 1);
		cwh_delivery_free(delivery);
		endpoint->after.due = DT_NOBEGIN;
		endpoint->backfill_after = 0;
		endpoint->ready = endpoint->later = true;
	}
	cwh_reconsider(endpoint);
}

/* The same, for all endpoints if it is null. */
void
cwh_release_waiting(Endpoint *endpoint)
{
	HASH_SEQ_STATUS status;

	if (endpoint)
		release_waiting(endpoint);
	else if (table)
	{
		hash_seq_init(&status, table);
		while ((endpoint = hash_seq_search(&status)) != NULL)
			release_waiting(endpoint);
	}
}

/* May a customer start another request of this kind? */
static bool
may_start(const Customer *customer, bool proven)
{
	int			limit = cwh_in_flight_limit();
	const int  *mine = customer->nstarted;

	return cwh_share(limit, cwh_worker.in_flight,
					 mine[false] + mine[true]) > 0 &&
		(proven || cwh_share(Max(1, limit / UNPROVEN_SHARE),
							 cwh_endpoints.nstarted[false], mine[false]) > 0);
}

/* The next endpoint of a kind to start a request of, or null. */
static Endpoint *
find_startable(bool proven)
{
	dlist_iter	iter;

	dlist_foreach(iter, &cwh_endpoints.startable[proven])
	{
		Turns	   *turns = dlist_container(Turns, node, iter.cur);
		Endpoint   *endpoint = dlist_head_element(Endpoint, startable_node,
												  &turns->endpoints);

		if (may_start(endpoint->customer, proven))
			return endpoint;
	}
	return NULL;
}

/* The next endpoint to start a request of, or null. */
Endpoint *
cwh_next_startable(void)
{
	int			limit = cwh_in_flight_limit();
	Endpoint   *endpoint = NULL;

	if (cwh_worker.in_flight >= limit)
		return NULL;
	if (cwh_endpoints.nstarted[false] < Max(1, limit / UNPROVEN_RESERVE))
		endpoint = find_startable(false);
	if (endpoint == NULL)
		endpoint = find_startable(true);
	if (endpoint == NULL)
		endpoint = find_startable(false);
	return endpoint;
}

/* Let no request of an endpoint start before then. */
void
cwh_block_endpoint(Endpoint *endpoint, TimestampTz until, TimestampTz now)
{
	endpoint->blocked = true;
	endpoint->blocked_until = until;
	set_timer(endpoint, until);
	if (TimestampDifferenceExceeds(now, until, LONG_BLOCK_MS))
		cwh_release_waiting(endpoint);
	cwh_reconsider(endpoint);
}

/* Apply what the end of a request means for the endpoint. */
void
cwh_endpoint_judged(Endpoint *endpoint, const CwhDecision *decision)
{
	switch (decision->window)
	{
		case CWH_WINDOW_KEEP:
			break;
		case CWH_WINDOW_GROW:
			endpoint->window = Min(endpoint->window + 1,
								   endpoint->webhook->max_in_flight);
			break;
		case CWH_WINDOW_HALVE:
			endpoint->window = Max(1, endpoint->window / 2);
			break;
	}
	/* it may have been blocked until the end of this very request: ask again */
	if (decision->breaker == CWH_SIGNAL_FAILED)
		endpoint->blocked = false;
	if (decision->judged)
	{
		endpoint->tried = true;
		move_endpoint(endpoint, endpoint->customer, decision->proven);
	}
}

/*
 * Webhooks
 */

/* The name of a webhook's connector. */
static const char *
connector_name(const CwhWebhook *webhook)
{
	return webhook->connector ? webhook->connector : "webhook";
}

/* Do both ask for the same token? */
static bool
same_token(const CwhWebhook *a, const CwhWebhook *b)
{
	return a->auth == CWH_AUTH_OAUTH2 && b->auth == CWH_AUTH_OAUTH2 &&
		strcmp(a->token_url, b->token_url) == 0 &&
		strcmp(a->token_request, b->token_request) == 0;
}

/* A webhook takes the place of what was known of it. */
static void
replace_webhook(Endpoint *endpoint, CwhWebhook *webhook)
{
	CwhWebhook *old = endpoint->webhook;

	if (old->updated_at != webhook->updated_at)
	{
		/* the change may be the remedy */
		(void) cwh_gate_signal(&webhook->id, CWH_SIGNAL_CHANGED, -1, NULL, 0, 0);
		endpoint->blocked = false;
	}
	if (!same_token(old, webhook))
		cwh_token_outdate(&endpoint->token);
	if (strcmp(connector_name(old), connector_name(webhook)) != 0)
	{
		/* replies to another connector are of no use */
		endpoint->connector_number++;
		cwh_release_waiting(endpoint);
	}
	cwh_webhook_retire(old);
}

/* A webhook was read. */
static void
on_webhook(void *context, CwhWebhook *webhook)
{
	Endpoint   *endpoint = cwh_endpoint(&webhook->id);

	if (endpoint->webhook)
		replace_webhook(endpoint, webhook);
	endpoint->webhook = webhook;
	endpoint->version++;
	endpoint->gone = endpoint->deleted = false;
	endpoint->changed = false;
	cwh_limit_window(endpoint, webhook->max_in_flight);
	move_endpoint(endpoint, find_customer(&webhook->id, webhook->owner),
				  endpoint->tried ? endpoint->proven : webhook->proven);

	/* what cannot be sent is not tried: it waits until that has been fixed */
	if (webhook->problem)
		webhook->enabled = false;
	if (strcmp(webhook->problem ? webhook->problem : "",
			   webhook->noted ? webhook->noted : "") != 0)
		cwh_account_request(&endpoint->account, NULL, true);
	else
	{
		cwh_account_settled(&endpoint->account, false, false, true);
		if (webhook->problem)
			cwh_add_alerting(&webhook->id);
	}
}

/* A webhook was to be read, and does not exist (any more). */
static void
on_missing(Endpoint *endpoint)
{
	endpoint->gone = true;
	endpoint->deleted = false;
	endpoint->changed = false;
	cwh_release_waiting(endpoint);
}

/* A webhook that was to be read was deleted: its deliveries need not wait. */
static void
on_deleted(void *context, const pg_uuid_t *webhook_id)
{
	cwh_endpoint(webhook_id)->deleted = true;
	cwh_reconsider(cwh_endpoint(webhook_id));
}

/* Has it nothing to do, now or later? */
static bool
is_idle(const Endpoint *endpoint)
{
	return !(endpoint->ready || endpoint->backfill || endpoint->later || endpoint->in_timers ||
			 endpoint->in_ready || endpoint->in_startable ||
			 endpoint->in_flight > 0 || endpoint->nwaiting > 0 ||
			 endpoint->account.unsettled > 0 || endpoint->account.listed ||
			 endpoint->account.announcement ||
			 endpoint->in_stale);
}

/* The webhook of an idle endpoint still exists. */
static void
on_found(void *context, const pg_uuid_t *webhook_id)
{
	cwh_endpoint(webhook_id)->gone = false;
}

/*
 * See which idle endpoints' webhooks were deleted: since they have nothing to
 * do, nothing else reads them again.
 */
static void
find_deleted(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	pg_uuid_t  *ids;
	int			n = 0;

	if (deleted_generation == cwh_worker.seen_generation)
		return;
	ids = palloc(hash_get_num_entries(table) * sizeof(pg_uuid_t));
	hash_seq_init(&status, table);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		if (endpoint->gone || !is_idle(endpoint) || !is_stale(endpoint))
			continue;
		endpoint->gone = true;	/* until it is found */
		ids[n++] = endpoint->id;
	}
	if (n > 0)
		cwh_webhook_find(ids, n, false, on_found, NULL);
	deleted_generation = cwh_worker.seen_generation;
}

/* Do idle endpoints take more than they may? */
static bool
too_many_idle(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	Size		bytes = 0;

	if (hash_get_num_entries(table) >= MAX_IDLE_ENDPOINTS)
		return true;
	hash_seq_init(&status, table);
	while ((endpoint = hash_seq_search(&status)) != NULL)
		if (endpoint->webhook && is_idle(endpoint))
			bytes += MemoryContextMemAllocated(endpoint->webhook->context, true);
	return bytes > MAX_IDLE_BYTES;
}

/*
 * Forget endpoints that have nothing to do: those whose webhook is gone, and all
 * of them if there are many.
 */
static void
forget_idle(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	Customer   *customer;
	bool		many = too_many_idle();

	hash_seq_init(&status, table);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		if (!is_idle(endpoint) || !(many || endpoint->gone))
			continue;
		if (endpoint->webhook)
			cwh_webhook_free(endpoint->webhook);
		cwh_token_outdate(&endpoint->token);
		endpoint->customer->nendpoints--;
		hash_search(table, &endpoint->id, HASH_REMOVE, NULL);
	}
	hash_seq_init(&status, customers);
	while ((customer = hash_seq_search(&status)) != NULL)
		if (customer->nendpoints == 0 && customer->ndeliveries == 0)
			hash_search(customers, &customer->key, HASH_REMOVE, NULL);
}

/*
 * Read the webhooks that have something to do and whose configuration may have
 * changed since they were read.  After a sweep, also see which others were
 * deleted, and forget endpoints that have nothing to do.
 */
void
cwh_refresh_endpoints(bool swept)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	pg_uuid_t  *ids;
	uint64	   *stamps;
	int			n = 0;
	int			nmissing = 0;

	if (table == NULL)
		return;
	if (cwh_worker.reread_webhooks)
	{
		hash_seq_init(&status, table);
		while ((endpoint = hash_seq_search(&status)) != NULL)
		{
			endpoint->changed = endpoint->changed || cwh_worker.new_settings;
			if (is_stale(endpoint))
				mark_stale(endpoint);
		}
	}
	cwh_worker.reread_webhooks = cwh_worker.new_settings = false;
	ids = palloc(Max(1, nstale) * sizeof(pg_uuid_t));
	stamps = palloc(Max(1, nstale) * sizeof(uint64));
	while (nstale > 0)
	{
		endpoint = dlist_container(Endpoint, stale_node,
								   dlist_pop_head_node(&stale_list));
		endpoint->in_stale = false;
		nstale--;
		if (is_stale(endpoint) &&
			(endpoint->ready || endpoint->backfill || endpoint->nwaiting > 0 ||
			 endpoint->in_flight > 0 || endpoint->account.listed))
		{
			endpoint->changed = true;	/* until it has been read */
			stamps[n] = cwh_stamp(endpoint->bucket);
			ids[n++] = endpoint->id;
		}
	}
	if (n > 0)
		cwh_webhook_load(ids, n, cwh_worker.context, on_webhook, NULL);
	for (int i = 0; i < n; i++)
	{
		endpoint = cwh_endpoint(&ids[i]);
		endpoint->stamp = stamps[i];
		if (endpoint->changed)
		{
			on_missing(endpoint);
			ids[nmissing++] = endpoint->id;
		}
		else if (!endpoint->webhook->enabled)
			cwh_release_waiting(endpoint);
		cwh_reconsider(endpoint);
	}
	if (nmissing > 0)
		cwh_webhook_find(ids, nmissing, true, on_deleted, NULL);
	if (swept)
	{
		find_deleted();
		forget_idle();
	}
}

