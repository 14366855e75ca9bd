/*
 * endpoint.c
 *		What the worker knows of each webhook with something to do.
 *
 * worker.h says what an endpoint is.  Each is in the lists that it belongs to:
 * ready, if there may be something to claim for it, and startable, if a request
 * of it may start.  Whoever changes what that depends on calls
 * cwh_reconsider().  What becomes so with time is in a heap of timers.
 *
 * A webhook's configuration is read in the worker's next transaction after it
 * may have changed: see cwh_refresh_endpoints().
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "storage/fd.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "worker.h"

/* What waits longer than this for its webhook to be let through is given back. */
#define LONG_BLOCK_MS		1000

/* More idle endpoints than this are forgotten at the next sweep. */
#define MAX_IDLE_ENDPOINTS	2000

static HTAB *endpoints;

/* by whether they are proven: */
static dlist_head startable_list[2];	/* those with waiting ones and window */
static int	nstarted[2];		/* requests under way */

static pairingheap *timers;

/* endpoints whose webhooks may have to be read */
static dlist_head stale_list = DLIST_STATIC_INIT(stale_list);
static int	nstale = 0;
static uint64 looked_generation = 0;	/* idle ones were looked for at this */

/* Order of the timers: the earliest first. */
static int
compare_timers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz at = pairingheap_const_container(Endpoint, timer, a)->look_at;
	TimestampTz bt = pairingheap_const_container(Endpoint, timer, b)->look_at;

	return at < bt ? 1 : at > bt ? -1 : 0;
}

/* Set up the state of this file, in the current memory context. */
void
cwh_endpoints_set_up(void)
{
	HASHCTL		info;

	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(pg_uuid_t);
	info.entrysize = sizeof(Endpoint);
	info.hcxt = cwh_worker.context;
	endpoints = hash_create("chatwebhook endpoints", 256, &info,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	timers = pairingheap_allocate(compare_timers, NULL);
	for (int proven = 0; proven < 2; proven++)
	{
		dlist_init(&cwh_worker.ready_list[proven]);
		dlist_init(&startable_list[proven]);
	}
}

/* Have an endpoint become ready at a time, if nothing does so sooner. */
void
cwh_set_timer(Endpoint *endpoint, TimestampTz at)
{
	if (endpoint->in_timers)
	{
		if (endpoint->look_at <= at)
			return;
		pairingheap_remove(timers, &endpoint->timer);
	}
	endpoint->look_at = at;
	endpoint->in_timers = true;
	pairingheap_add(timers, &endpoint->timer);
}

/* When the next endpoint becomes ready by itself; DT_NOEND if none does. */
TimestampTz
cwh_next_timer(void)
{
	if (pairingheap_is_empty(timers))
		return DT_NOEND;
	return pairingheap_container(Endpoint, timer,
								 pairingheap_first(timers))->look_at;
}

/* The clock was set: what endpoints wait for goes with it. */
void
cwh_endpoints_follow_clock(int64 step)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;

	hash_seq_init(&status, endpoints);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		/* all of them, so that their order in the heap stays */
		endpoint->look_at += step;
		endpoint->ready_since += step;
		endpoint->reread_at += step;
		endpoint->blocked_until += step;
		endpoint->gone_since += step;
		endpoint->eventless_since += step;
		endpoint->token_until += step;
		endpoint->token_at += step;
	}
}

/* A request starts or ends. */
void
cwh_count_in_flight(Endpoint *endpoint, int more)
{
	endpoint->in_flight += more;
	cwh_worker.in_flight += more;
	nstarted[endpoint->proven] += more;
	cwh_worker.nheld[endpoint->proven] += more;
}

/* A delivery waits, or does so no more. */
void
cwh_count_waiting(Endpoint *endpoint, int more)
{
	endpoint->nwaiting += more;
	cwh_worker.nwaiting += more;
	cwh_worker.nheld[endpoint->proven] += more;
}

/* The endpoint of a webhook, made if needed. */
Endpoint *
cwh_get_endpoint(const pg_uuid_t *id)
{
	bool		found;
	Endpoint   *endpoint = hash_search(endpoints, id, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) endpoint + sizeof(pg_uuid_t), 0,
			   sizeof(Endpoint) - sizeof(pg_uuid_t));
		endpoint->window = FIRST_WINDOW;
		endpoint->after.due = DT_NOBEGIN;
		slist_init(&endpoint->waiting);
	}
	return endpoint;
}

/* Is the webhook not there, but might come back? */
static bool
is_missed(const Endpoint *endpoint)
{
	return endpoint->gone &&
		!TimestampDifferenceExceeds(endpoint->gone_since,
									GetCurrentTimestamp(), ORPHAN_GRACE_MS);
}

/* How many more of its deliveries to claim. */
int
cwh_endpoint_room(const Endpoint *endpoint)
{
	int			prefetch = 0;
	int			batch = endpoint->webhook ? endpoint->webhook->batch_size : 1;

	if (endpoint->disable || endpoint->blocked ||
		(is_missed(endpoint) && !endpoint->changed) ||
		(endpoint->webhook && !endpoint->webhook->enabled && !endpoint->changed))
		return 0;
	if (endpoint->window > FIRST_WINDOW)
		prefetch = Min(4 * endpoint->window, MAX_PREFETCH);
	return (endpoint->window - endpoint->in_flight) * batch + prefetch -
		endpoint->nwaiting;
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
	cwh_set_timer(endpoint, until);
	return true;
}

/* Put an endpoint into the lists that it belongs to. */
void
cwh_reconsider(Endpoint *endpoint)
{
	bool		ready = endpoint->ready && cwh_endpoint_room(endpoint) > 0 &&
		!is_gathering(endpoint);
	bool		startable = endpoint->nwaiting > 0 && !endpoint->disable &&
		!endpoint->fetching && !endpoint->blocked &&
		endpoint->in_flight < endpoint->window;
	bool		hungry = ready && endpoint->nwaiting == 0 &&
		endpoint->in_flight < endpoint->window;

	cwh_worker.nhungry[endpoint->proven] +=
		(int) hungry - (int) endpoint->is_hungry;
	endpoint->is_hungry = hungry;
	if (ready != endpoint->in_ready)
	{
		if (ready)
			dlist_push_tail(&cwh_worker.ready_list[endpoint->proven],
							&endpoint->ready_node);
		else
			dlist_delete(&endpoint->ready_node);
		endpoint->in_ready = ready;
	}
	if (startable != endpoint->in_startable)
	{
		if (startable)
			dlist_push_tail(&startable_list[endpoint->proven],
							&endpoint->startable_node);
		else
			dlist_delete(&endpoint->startable_node);
		endpoint->in_startable = startable;
	}
}

/* An attempt has succeeded, or has not: the endpoint belongs to the one kind. */
void
cwh_set_proven(Endpoint *endpoint, bool proven)
{
	if (endpoint->proven == proven)
		return;
	if (endpoint->in_ready)
		dlist_delete(&endpoint->ready_node);
	if (endpoint->in_startable)
		dlist_delete(&endpoint->startable_node);
	cwh_worker.nhungry[endpoint->proven] -= endpoint->is_hungry;
	nstarted[endpoint->proven] -= endpoint->in_flight;
	cwh_worker.nheld[endpoint->proven] -=
		endpoint->in_flight + endpoint->nwaiting;
	endpoint->in_ready = endpoint->in_startable = endpoint->is_hungry = false;
	endpoint->proven = proven;
	nstarted[proven] += endpoint->in_flight;
	cwh_worker.nheld[proven] += endpoint->in_flight + endpoint->nwaiting;
	cwh_reconsider(endpoint);
}

/* No request of an endpoint may start before then. */
void
cwh_block_endpoint(Endpoint *endpoint, TimestampTz until, TimestampTz now)
{
	endpoint->blocked = true;
	endpoint->blocked_until = until;
	cwh_set_timer(endpoint, until);
	if (TimestampDifferenceExceeds(now, until, LONG_BLOCK_MS))
		cwh_release_waiting(endpoint);
	cwh_reconsider(endpoint);
}

/* Must its webhook be read again? */
static bool
is_stale(const Endpoint *endpoint)
{
	return endpoint->changed ||
		endpoint->generation != cwh_worker.seen_generation;
}

/* The next transaction is to see whether its webhook must be read again. */
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
void
cwh_make_ready(Endpoint *endpoint, TimestampTz due, int64 id, int n)
{
	if (due < endpoint->after.due ||
		(due == endpoint->after.due && id <= endpoint->after.id))
	{
		endpoint->after.due = due;
		endpoint->after.id = id - 1;
	}
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

/* Endpoints whose time has come are ready. */
void
cwh_run_timers(TimestampTz now)
{
	while (!pairingheap_is_empty(timers))
	{
		Endpoint   *endpoint = pairingheap_container(Endpoint, timer,
													 pairingheap_first(timers));

		if (endpoint->look_at > now)
			break;
		pairingheap_remove_first(timers);
		endpoint->in_timers = false;
		if (endpoint->blocked && endpoint->blocked_until > now)
			cwh_set_timer(endpoint, endpoint->blocked_until);
		else
			endpoint->blocked = false;
		cwh_make_ready(endpoint, endpoint->look_at, 1, 0);
		if (!endpoint->reread)
			continue;
		if (endpoint->reread_at > now)
			cwh_set_timer(endpoint, endpoint->reread_at);
		else
		{
			endpoint->reread = false;
			cwh_make_ready(endpoint, DT_NOBEGIN, 1, 0);
		}
	}
}

/*
 * The most requests that may be under way: each takes a descriptor, and
 * PostgreSQL leaves a third of those it allows itself to the likes of us.
 */
int
cwh_in_flight_limit(void)
{
	return Max(1, Min(cwh_max_in_flight, max_safe_fds / 3 - 8));
}

/* The next endpoint to start a request of, or null. */
Endpoint *
cwh_next_startable(void)
{
	int			limit = cwh_in_flight_limit();
	bool		proven = true;

	if (cwh_worker.in_flight >= limit)
		return NULL;
	if (!dlist_is_empty(&startable_list[false]) &&
		nstarted[false] < Max(1, limit / UNPROVEN_RESERVE))
		proven = false;
	else if (dlist_is_empty(&startable_list[true]))
	{
		if (dlist_is_empty(&startable_list[false]) ||
			nstarted[false] >= Max(1, limit / UNPROVEN_SHARE))
			return NULL;
		proven = false;
	}
	return dlist_head_element(Endpoint, startable_node, &startable_list[proven]);
}

/* Take an endpoint off the list: cwh_reconsider() puts it at its end. */
void
cwh_not_startable(Endpoint *endpoint)
{
	dlist_delete(&endpoint->startable_node);
	endpoint->in_startable = false;
}

/* Take the first of those that wait. */
Delivery *
cwh_next_waiting(Endpoint *endpoint)
{
	cwh_count_waiting(endpoint, -1);
	return slist_container(Delivery, node,
						   slist_pop_head_node(&endpoint->waiting));
}

/* Give back what an endpoint has claimed and not started. */
void
cwh_release_waiting(Endpoint *endpoint)
{
	while (!slist_is_empty(&endpoint->waiting))
	{
		Delivery   *delivery = cwh_next_waiting(endpoint);

		cwh_claim_release(&delivery->id, 1);
		cwh_free_delivery(delivery);
		endpoint->after.due = DT_NOBEGIN;
		endpoint->ready = true;
	}
	cwh_reconsider(endpoint);
}

/* The same for all of them. */
void
cwh_release_all_waiting(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;

	hash_seq_init(&status, endpoints);
	while ((endpoint = hash_seq_search(&status)) != NULL)
		cwh_release_waiting(endpoint);
}

/* Is there a token, for a webhook that needs one? */
bool
cwh_has_token(Endpoint *endpoint)
{
	if (endpoint->token && endpoint->token_until <= GetCurrentTimestamp())
		cwh_forget_token(endpoint);
	return endpoint->token != NULL;
}

/* A token is not to be used any more. */
void
cwh_forget_token(Endpoint *endpoint)
{
	if (endpoint->token == NULL)
		return;
	cwh_cleanse(endpoint->token, strlen(endpoint->token));
	pfree(endpoint->token);
	endpoint->token = NULL;
}

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

/* A webhook is not an endpoint's any more. */
static void
retire(CwhWebhook *webhook)
{
	webhook->retired = true;
	if (webhook->users == 0)
		cwh_webhook_free(webhook);
}

/* A webhook was read. */
static void
on_webhook(CwhWebhook *webhook)
{
	Endpoint   *endpoint = cwh_get_endpoint(&webhook->id);

	if (endpoint->webhook)
	{
		if (endpoint->webhook->updated_at != webhook->updated_at)
		{
			/* somebody may have mended it */
			cwh_gate_reset(&webhook->id);
			endpoint->blocked = false;
		}
		if (!same_token(endpoint->webhook, webhook))
		{
			cwh_forget_token(endpoint);
			endpoint->token_number++;
		}
		if (strcmp(connector_name(endpoint->webhook), connector_name(webhook)) != 0)
		{
			endpoint->connector_number++;
			/* another's replies are of no use */
			cwh_release_waiting(endpoint);
		}
		retire(endpoint->webhook);
	}
	endpoint->webhook = webhook;
	endpoint->generation = cwh_worker.seen_generation;
	endpoint->gone = false;
	endpoint->changed = false;
	endpoint->window = Min(endpoint->window, webhook->max_in_flight);
	if (!endpoint->tried)
		cwh_set_proven(endpoint, webhook->proven);

	/* what cannot be sent is not tried, and waits until that is put right */
	if (webhook->problem)
		webhook->enabled = false;
	endpoint->note = strcmp(webhook->problem ? webhook->problem : "",
							webhook->noted ? webhook->noted : "") != 0;
	if (endpoint->note)
		cwh_touch(endpoint);
	else if (webhook->problem)
		cwh_add_alerting(&webhook->id);
}

/*
 * Read the webhooks that have something to do and whose configuration may have
 * changed since they were read.
 */
void
cwh_refresh_endpoints(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	pg_uuid_t  *ids;
	int			n = 0;

	if (cwh_worker.refresh_due)
	{
		hash_seq_init(&status, endpoints);
		while ((endpoint = hash_seq_search(&status)) != NULL)
			if (is_stale(endpoint))
				mark_stale(endpoint);
	}
	cwh_worker.refresh_due = false;
	if (nstale == 0)
		return;
	ids = palloc(nstale * sizeof(pg_uuid_t));
	while (nstale > 0)
	{
		endpoint = dlist_container(Endpoint, stale_node,
								   dlist_pop_head_node(&stale_list));
		endpoint->in_stale = false;
		nstale--;
		if (is_stale(endpoint) &&
			(endpoint->ready || endpoint->nwaiting > 0 ||
			 endpoint->in_flight > 0 || endpoint->in_touched))
			ids[n++] = endpoint->id;
	}
	if (n == 0)
		return;
	cwh_outbox_load(ids, n, cwh_worker.context, on_webhook);
	for (int i = 0; i < n; i++)
	{
		endpoint = cwh_get_endpoint(&ids[i]);
		if (is_stale(endpoint))
		{
			if (!endpoint->gone)
				endpoint->gone_since = GetCurrentTimestamp();
			endpoint->gone = true;
			endpoint->changed = false;
			endpoint->generation = cwh_worker.seen_generation;
			cwh_release_waiting(endpoint);
			if (is_missed(endpoint))
				cwh_set_timer(endpoint,
							  TimestampTzPlusMilliseconds(endpoint->gone_since,
														  ORPHAN_GRACE_MS + 1000));
		}
		else if (!endpoint->webhook->enabled)
			cwh_release_waiting(endpoint);
		cwh_reconsider(endpoint);
	}
}

/* Has it nothing to do, now or later? */
static bool
is_idle(const Endpoint *endpoint)
{
	return !(endpoint->ready || endpoint->later || endpoint->in_timers ||
			 endpoint->in_ready || endpoint->in_startable ||
			 endpoint->in_flight > 0 || endpoint->nwaiting > 0 ||
			 endpoint->unsettled > 0 || endpoint->in_touched ||
			 endpoint->in_stale);
}

/* The webhook of an idle endpoint is still there. */
static void
on_present(const pg_uuid_t *webhook_id)
{
	cwh_get_endpoint(webhook_id)->gone = false;
}

/*
 * See which idle endpoints' webhooks were deleted: since they have nothing to
 * do, nothing else reads them again.
 */
void
cwh_find_deleted(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	pg_uuid_t  *ids;
	int			n = 0;

	if (looked_generation == cwh_worker.seen_generation)
		return;
	ids = palloc(hash_get_num_entries(endpoints) * sizeof(pg_uuid_t));
	hash_seq_init(&status, endpoints);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		if (endpoint->gone || !is_idle(endpoint) ||
			endpoint->generation == cwh_worker.seen_generation)
			continue;
		endpoint->gone = true;	/* until it is found */
		endpoint->gone_since = GetCurrentTimestamp();
		ids[n++] = endpoint->id;
	}
	if (n > 0)
		cwh_outbox_present_webhooks(ids, n, on_present);
	looked_generation = cwh_worker.seen_generation;
}

/*
 * Forget endpoints that have nothing to do: those whose webhook is gone, and all
 * of them if there are many.
 */
void
cwh_forget_endpoints(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	bool		many = hash_get_num_entries(endpoints) >= MAX_IDLE_ENDPOINTS;

	hash_seq_init(&status, endpoints);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		if (!is_idle(endpoint) || !(many || endpoint->gone))
			continue;
		if (endpoint->webhook)
			cwh_webhook_free(endpoint->webhook);
		cwh_forget_token(endpoint);
		hash_search(endpoints, &endpoint->id, HASH_REMOVE, NULL);
	}
}
