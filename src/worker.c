/*
 * worker.c
 *		The loop that delivers, in one process for each database.
 *
 * It claims deliveries in a short transaction, sends them without any, and
 * settles what became of them in a second short one, which also claims the
 * next; while bytes travel it has no transaction, no snapshot and no lock.
 * It waits for its latch, the postmaster's death and libcurl's sockets at
 * once.
 *
 * For each webhook with something to do it keeps an endpoint: how far its
 * queue has been read, what is claimed, and how many requests it may have
 * under way (its window).  A window starts at two and grows by one with each
 * success; a failure halves it.  So an endpoint that never answers holds one
 * or two of the worker's slots, whatever its backlog.  Endpoints that were never
 * tried, or whose last attempt failed (unproven ones), may together hold no more
 * than half of the slots; so there are two of each of the lists of endpoints
 * below.
 *
 * A claim starts where the last one ended, and not at the head of the queue,
 * so rows that are finished but cannot be vacuumed yet are not read again and
 * again.  What comes to stand before that place is told: by the commit that
 * put it there (a hint), by the worker itself (a retry's time), or found by
 * the sweep every chatwebhook.poll_interval.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "chatwebhook.h"
#include "compat.h"

/* An endpoint that has shown nothing yet gets this many requests at a time. */
#define FIRST_WINDOW		2

/* Claimed in advance for an endpoint that has answered, to refill slots from. */
#define MAX_PREFETCH		200

/* Settle when this many have ended, or the first of them this long ago. */
#define SETTLE_BATCH		100
#define SETTLE_DELAY_MS		20

/* Rows that somebody else has locked are tried again after this. */
#define LOCKED_DELAY_MS		500

/*
 * Unproven endpoints may hold one slot in so many, all of them together; and
 * one in so many is theirs before all others.
 */
#define UNPROVEN_SHARE		2
#define UNPROVEN_RESERVE	8

/* A token is used for this long, whatever its endpoint says. */
#define MIN_TOKEN_LIFE_S	10

/* Where new tokens are refused, too, another is asked for so often at most. */
#define REFUSED_TOKEN_MS	60000

/* Room for the name of a connector's function. */
#define FUNCTION_KEY		256

/* A probe whose end was not heard of is over so long after its timeout. */
#define PROBE_GRACE_MS		1000

/* What waits longer than this for its webhook to be let through is given back. */
#define LONG_BLOCK_MS		1000

/*
 * Deliveries of a webhook, or an event, that is not there are canceled after
 * this: it may come yet, if a restore is under way.
 */
#define ORPHAN_GRACE_MS		600000

/* A batch is closed when its body is larger than this. */
#define MAX_BATCH_BYTES		(1024 * 1024)

/* One settle takes no more than this, and fewer after one has failed. */
#define MAX_SETTLE			1000

/* Bodies held at a time, beyond which nothing is claimed. */
#define MAX_BODY_BYTES		(32 * 1024 * 1024)

/*
 * A sweep has a queue read from its head again when that was last done so many
 * times as long ago as it took: of what is ordered and waits, every row is read.
 */
#define REREAD_SHARE		20

/* More idle endpoints than this are forgotten at the next sweep. */
#define MAX_IDLE_ENDPOINTS	2000

/* After an error of the worker's own. */
#define FIRST_PAUSE_MS		100
#define MAX_PAUSE_MS		10000

/* An endpoint whose queue cannot be read is asked again after this. */
#define FAILED_CLAIM_MS		60000

/* After the clock was set back, so many deliveries are changed at a time. */
#define CATCH_UP_BATCH		10000

/* After a socket could not be had. */
#define STARVED_MS			100

/* Until then, other workers leave it alone. */
#define UNSTOPPABLE_PAUSE_MS 600000

/* Connectors are called for this many deliveries in a transaction. */
#define RENDER_BATCH		50

/*
 * Connectors that are slow get one part in so many of the worker's time, all of
 * them together.
 */
#define SLOW_SHARE			20

/*
 * Alerts are looked at this often at most, of so many webhooks at a time, and in
 * one part in so many of the time, or after the longest wait: what is to be sent
 * waits meanwhile.
 */
#define ALERTS_MS			500
#define MORE_ALERTS_MS		50	/* while there are more of them */
#define ALERTS_BATCH		10
#define ALERTS_SHARE		100
#define MAX_ALERTS_MS		5000
#define FAILED_ALERTS_MS	2000

/*
 * What is old is removed in one part in so many of the time.  One pass begins
 * when the last one ended so many times its length ago, but not sooner or
 * later than this.
 */
#define BUSY_UPKEEP_SHARE	12
#define IDLE_UPKEEP_SHARE	2
#define PASS_SHARE			50
#define MIN_PASS_MS			1000
#define MAX_PASS_MS			300000

/* After a locked row was met, settles are careful for this long. */
#define CAREFUL_MS			10000

typedef struct Endpoint Endpoint;

/* A delivery from its claim to its settling. */
typedef struct Delivery
{
	CwhTransfer transfer;		/* first, so that one is the other */
	slist_node	node;			/* in waiting, results or spare */
	Endpoint   *endpoint;
	int64		id;
	const char *problem;		/* why it cannot be sent, or null */
	pg_uuid_t	event_id;
	char	   *event_type;
	char	   *chatbot_id;		/* or null */
	char	   *conversation_id;	/* if others of it wait for this one, or
									 * null */
	int			attempts;		/* made before */
	int			first_attempt;
	int64		last_wait_ms;
	StringInfoData body;
	TimestampTz started_at;		/* 0: nothing was sent */

	CwhWebhook *webhook;		/* that the transfer points into, or null */

	/* for the first of a batch: the others, which share its transfer */
	slist_head	others;
	slist_node *others_tail;
	StringInfoData batch;		/* what is sent; its data is null: no batch */

	/* for a connector */
	MemoryContext context;		/* of what follows, or null */
	CwhRequest *request;		/* the next, or null: to be made */
	uint64		rendered;		/* generation of the configuration then */
	Jsonb	   *replies;		/* to the requests before, or null */
	uint64		connector_number;	/* the connector that has asked for them */
	int			earlier_ms;		/* that those of this attempt took */

	/* for a webhook that needs a token */
	bool		fetching;		/* the transfer asks for one */
	bool		renewed;		/* it has been refused one in this attempt */
	uint64		token;			/* which one it was sent with */

	/* for settling */
	CwhOutcome	outcome;
	int64		wait_ms;
	char	   *error;			/* or null */
	bool		log;			/* keep the attempt */
} Delivery;

struct Endpoint
{
	pg_uuid_t	id;				/* hash key */
	CwhWebhook *webhook;		/* null: not read, or gone */
	uint64		generation;		/* of the configuration when it was read */
	int			window;
	bool		gone;			/* the webhook was deleted */
	TimestampTz gone_since;
	TimestampTz eventless_since;	/* an event was not there; 0: none */
	bool		changed;		/* the webhook must be read again */
	int			in_flight;		/* requests under way */
	int			unsettled;		/* ended, not settled */
	slist_head	waiting;		/* claimed, not started */
	slist_node *waiting_tail;
	int			nwaiting;
	CwhPosition after;			/* claims look behind this */
	bool		ready;			/* there may be something to claim */
	bool		later;			/* there may be something due later */
	TimestampTz ready_since;
	int			expected;		/* new ones since then, up to a full batch */
	TimestampTz reread_at;		/* no sweep has it read again before this */
	bool		reread;			/* but then it is to be: one has asked */
	TimestampTz look_at;		/* when it becomes ready by itself */
	bool		in_timers;
	pairingheap_node timer;
	bool		in_ready;
	dlist_node	ready_node;
	bool		is_hungry;		/* ready, with a free slot and none waiting */
	bool		in_startable;
	dlist_node	startable_node;
	bool		called;			/* its connector was, by this worker */
	bool		slow;			/* and took long the last time */
	bool		tried;			/* by this worker */
	bool		proven;			/* the last attempt succeeded */
	bool		blocked;		/* no request may start, until then: see
								 * gate.c */
	TimestampTz blocked_until;
	uint64		connector_number;	/* counts its connectors */
	char	   *token;			/* for OAuth 2.0, or null */
	uint64		token_number;	/* counts them */
	TimestampTz token_until;
	TimestampTz token_at;		/* when it came */
	bool		token_refused;	/* a new one was, the last time */
	bool		fetching;		/* one is being asked for */
	const char *disable;		/* why the webhook is to be disabled, or null */
	bool		disabled;		/* done, in the transaction under way */
	bool		note;			/* its problem, or that it has none, is to be
								 * noted */
	bool		noted;			/* done, in the transaction under way */
	bool		announce;		/* and it was not known before */
	int			wanted;			/* in the claim being made */
	int			got;
	CwhHealthGain *gain;		/* null: none since the last settle */
	bool		in_touched;
	dlist_node	touched_node;
	bool		in_stale;
	dlist_node	stale_node;
};

static MemoryContext worker_context;
static MemoryContext transaction_context;
static HTAB *endpoints;

/* by whether they are proven: */
static dlist_head ready_list[2];	/* endpoints that are ready and have room */
static dlist_head startable_list[2];	/* those with waiting ones and window */
static int	nhungry[2];			/* those that could start more if they had it */
static int	nheld[2];			/* requests under way and deliveries waiting */
static int	nstarted[2];		/* requests under way */
static pairingheap *timers;
static slist_head spare_deliveries;
static slist_head results;		/* ended, to be settled, oldest first */
static slist_node *results_tail;
static int	nresults = 0;
static TimestampTz oldest_result;
static int	in_flight = 0;
static int	nwaiting = 0;
static size_t body_bytes = 0;
static int	settle_limit = MAX_SETTLE;
static double average_body = 1024;
static dlist_head touched_list; /* endpoints that a settle is to see to */
static int	ntouched = 0;
static TimestampTz touched_retry_at = 0;
static TimestampTz careful_until = 0;
static TimestampTz paused_until = 0;
static int	pause_ms = 0;
static TimestampTz next_sweep = 0;
static dlist_head stale_list;	/* endpoints whose webhooks may have to be
								 * read */
static int	nstale = 0;
static bool refresh_due = false;	/* others may have to be, too */
static uint64 looked_generation = 0;	/* idle ones were looked for at this */
static int64 clock_ahead = 0;	/* of the monotonic one, in microseconds */
static TimestampTz clock_lost = 0;	/* it has been set back from there */
static bool clock_unknown = true;	/* it may have been, while no worker ran */
static bool look_again = false; /* at the extension, for it may have gone */
static bool told_plain = false; /* that secrets are not encrypted */
static TimestampTz starved_until = 0;
static int	worker_number;		/* of this database's, from 0 */
static CwhActivity activity;	/* not yet written */
static pg_uuid_t *alerting = NULL;	/* webhooks whose alerts are to be checked */
static int	nalerting = 0;
static int	max_alerting = 0;
static TimestampTz next_alerts = 0;
static pg_uuid_t *backlogs = NULL;	/* webhooks with something long due, */
static TimestampTz *backlog_dues = NULL;	/* since when, */
static int	nbacklogs = 0;		/* as the last sweep found them */
static int	max_backlogs = 0;
static bool check_backlogs = false;
static TimestampTz next_upkeep = 0;
static TimestampTz pass_started = 0;
static CwhWorkerStats stats;
static bool stats_changed = true;
static uint64 seen_generation = 0;
static XLogRecPtr emitted_upto = InvalidXLogRecPtr; /* what may be claimed was
													 * committed by there */
static slist_head to_render;	/* deliveries whose next request is to be made */
static slist_node *to_render_tail;
static int	nto_render = 0;
static HTAB *slow_functions;	/* connectors that took long the last time */
static TimestampTz slow_until = 0;	/* those are not called before this */
static Oid	extension = InvalidOid; /* the one that we serve */
static volatile sig_atomic_t terminate = false;

static void judge(Delivery *delivery);
static void forget_token(Endpoint *endpoint);
static void release_waiting(Endpoint *endpoint);
static void add_alerting(const pg_uuid_t *webhook_id);

/* SIGTERM: leave, but at a place where nothing is half done. */
static void
on_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	terminate = true;
	/* a connector may run for ever */
	if (cwh_connector_running)
	{
		ProcDiePending = true;
		InterruptPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/* End this process, and let the launcher know how. */
static void
leave(CwhExit how)
{
	AbortOutOfAnyTransaction();
	cwh_slot_set_exit(how);
	cwh_transport_close();
	proc_exit(0);
}

/*
 * Small things
 */

/* Append to a singly linked queue. */
static void
append_node(slist_head *head, slist_node **tail, slist_node *node)
{
	node->next = NULL;
	if (slist_is_empty(head))
		head->head.next = node;
	else
		(*tail)->next = node;
	*tail = node;
}

/* Keep the worker's own trouble for worker_status. */
static void
note_error(const char *message)
{
	cwh_copy_text(stats.last_error, message, sizeof(stats.last_error));
	stats_changed = true;
}

/* A copy in the current memory context. */
static Jsonb *
copy_jsonb(const Jsonb *value)
{
	Jsonb	   *copy = palloc(VARSIZE(value));

	memcpy(copy, value, VARSIZE(value));
	return copy;
}

/* Order of the timers: the earliest first. */
static int
compare_timers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz at = pairingheap_const_container(Endpoint, timer, a)->look_at;
	TimestampTz bt = pairingheap_const_container(Endpoint, timer, b)->look_at;

	return at < bt ? 1 : at > bt ? -1 : 0;
}

/* Have an endpoint become ready at a time, if nothing does so sooner. */
static void
set_timer(Endpoint *endpoint, TimestampTz at)
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

/*
 * Endpoints
 */

/* A request starts or ends. */
static void
count_in_flight(Endpoint *endpoint, int more)
{
	endpoint->in_flight += more;
	in_flight += more;
	nstarted[endpoint->proven] += more;
	nheld[endpoint->proven] += more;
}

/* A delivery waits, or does so no more. */
static void
count_waiting(Endpoint *endpoint, int more)
{
	endpoint->nwaiting += more;
	nwaiting += more;
	nheld[endpoint->proven] += more;
}

/* The endpoint of a webhook, made if needed. */
static Endpoint *
get_endpoint(const pg_uuid_t *id)
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
static int
room(const Endpoint *endpoint)
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
	set_timer(endpoint, until);
	return true;
}

/* Put an endpoint into the lists that it belongs to. */
static void
reconsider(Endpoint *endpoint)
{
	bool		ready = endpoint->ready && room(endpoint) > 0 &&
		!is_gathering(endpoint);
	bool		startable = endpoint->nwaiting > 0 && !endpoint->disable &&
		!endpoint->fetching && !endpoint->blocked &&
		endpoint->in_flight < endpoint->window;
	bool		hungry = ready && endpoint->nwaiting == 0 &&
		endpoint->in_flight < endpoint->window;

	nhungry[endpoint->proven] += (int) hungry - (int) endpoint->is_hungry;
	endpoint->is_hungry = hungry;
	if (ready != endpoint->in_ready)
	{
		if (ready)
			dlist_push_tail(&ready_list[endpoint->proven],
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
static void
set_proven(Endpoint *endpoint, bool proven)
{
	if (endpoint->proven == proven)
		return;
	if (endpoint->in_ready)
		dlist_delete(&endpoint->ready_node);
	if (endpoint->in_startable)
		dlist_delete(&endpoint->startable_node);
	nhungry[endpoint->proven] -= endpoint->is_hungry;
	nstarted[endpoint->proven] -= endpoint->in_flight;
	nheld[endpoint->proven] -= endpoint->in_flight + endpoint->nwaiting;
	endpoint->in_ready = endpoint->in_startable = endpoint->is_hungry = false;
	endpoint->proven = proven;
	nstarted[proven] += endpoint->in_flight;
	nheld[proven] += endpoint->in_flight + endpoint->nwaiting;
	reconsider(endpoint);
}

/* No request of an endpoint may start before then. */
static void
block(Endpoint *endpoint, TimestampTz until, TimestampTz now)
{
	endpoint->blocked = true;
	endpoint->blocked_until = until;
	set_timer(endpoint, until);
	if (TimestampDifferenceExceeds(now, until, LONG_BLOCK_MS))
		release_waiting(endpoint);
	reconsider(endpoint);
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
static void
make_ready(Endpoint *endpoint, TimestampTz due, int64 id, int n)
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
	if (endpoint->changed || endpoint->generation != seen_generation)
		mark_stale(endpoint);
	reconsider(endpoint);
}

/*
 * Deliveries
 */

/* A delivery to be filled in. */
static Delivery *
new_delivery(void)
{
	Delivery   *delivery;

	if (!slist_is_empty(&spare_deliveries))
		return slist_container(Delivery, node,
							   slist_pop_head_node(&spare_deliveries));
	delivery = MemoryContextAllocZero(worker_context, sizeof(Delivery));
	delivery->body.data = MemoryContextAlloc(worker_context, 2048);
	delivery->body.maxlen = 2048;
	return delivery;
}

/* A place for what a connector's delivery has more. */
static void
need_context(Delivery *delivery)
{
	if (delivery->context == NULL)
		delivery->context = AllocSetContextCreate(worker_context,
												  "chatwebhook delivery",
												  ALLOCSET_SMALL_SIZES);
}

/* Forget a connector's request. */
static void
drop_request(Delivery *delivery)
{
	if (delivery->request)
		cwh_request_cleanse(delivery->request);
	delivery->request = NULL;
}

/* A delivery is done with. */
static void
free_delivery(Delivery *delivery)
{
	body_bytes -= delivery->body.len;
	if (delivery->event_type)
		pfree(delivery->event_type);
	if (delivery->chatbot_id)
		pfree(delivery->chatbot_id);
	if (delivery->error)
		pfree(delivery->error);
	if (delivery->conversation_id)
		pfree(delivery->conversation_id);
	delivery->event_type = delivery->chatbot_id = delivery->error = NULL;
	delivery->conversation_id = NULL;
	drop_request(delivery);
	if (delivery->context)
		MemoryContextDelete(delivery->context);
	delivery->context = NULL;
	delivery->replies = NULL;
	delivery->batch.data = NULL;
	cwh_transfer_release(&delivery->transfer);
	if (delivery->body.maxlen > CWH_MAX_KEPT_BUFFER)
	{
		pfree(delivery->body.data);
		delivery->body.data = MemoryContextAlloc(worker_context, 2048);
		delivery->body.maxlen = 2048;
	}
	resetStringInfo(&delivery->body);
	slist_push_head(&spare_deliveries, &delivery->node);
}

/* An attempt has ended, or none was made: settle it. */
static void
add_result(Delivery *delivery, CwhOutcome outcome, const char *error)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(worker_context);

	delivery->outcome = outcome;
	delivery->error = error ? pstrdup(error) : NULL;
	MemoryContextSwitchTo(oldcontext);
	delivery->endpoint->unsettled++;
	if (nresults++ == 0)
		oldest_result = GetCurrentTimestamp();
	append_node(&results, &results_tail, &delivery->node);
}

/* The next settle is to see to this endpoint. */
static void
touch(Endpoint *endpoint)
{
	if (endpoint->in_touched)
		return;
	dlist_push_tail(&touched_list, &endpoint->touched_node);
	endpoint->in_touched = true;
	ntouched++;
}

/* The place of a latency among those that are counted. */
static int
latency_class(int ms)
{
	static const int bounds[] = CWH_LATENCY_BOUNDS;
	int			i = 0;

	while (i < lengthof(bounds) && ms > bounds[i])
		i++;
	return i;
}

/* Count an attempt. */
static void
count_attempt(Endpoint *endpoint, const Delivery *delivery, bool success)
{
	CwhHealthGain *gain = endpoint->gain;

	if (gain == NULL)
	{
		gain = MemoryContextAllocZero(worker_context, sizeof(CwhHealthGain));
		gain->webhook_id = endpoint->id;
		endpoint->gain = gain;
	}
	touch(endpoint);
	if (success)
	{
		activity.succeeded++;
		gain->successes++;
		stats.delivered++;
	}
	else
	{
		activity.failed++;
		gain->failures++;
		stats.failed++;
		if (delivery->outcome == CWH_OUTCOME_DEAD)
		{
			activity.given_up++;
			gain->given_up++;
		}
	}
	stats_changed = true;
}

/* What an endpoint's health gains from a request that was an attempt. */
static void
add_gain(Endpoint *endpoint, const Delivery *delivery, bool success,
		 TimestampTz now)
{
	CwhHealthGain *gain;
	int			latency = delivery->transfer.latency_ms;

	count_attempt(endpoint, delivery, success);
	gain = endpoint->gain;
	gain->latency_sum_ms += latency;
	gain->latency_counts[latency_class(latency)]++;
	if (success)
	{
		gain->succeeded = true;
		gain->streak = 0;
		gain->last_success_at = now;
	}
	else
	{
		if (gain->streak++ == 0)
			gain->failing_since = now;
		gain->last_failure_at = now;
		cwh_copy_text(gain->last_error, delivery->error ? delivery->error : "",
					  sizeof(gain->last_error));
	}
	/* newest first */
	memmove(&gain->recent[1], &gain->recent[0],
			Min(gain->nrecent, CWH_RECENT - 1) * sizeof(int32));
	gain->recent[0] = success ? latency : -1 - latency;
	gain->nrecent = Min(gain->nrecent + 1, CWH_RECENT);
}

/* As if a request had been sent and had failed at once. */
static void
fail_delivery(Delivery *delivery, const char *problem, bool refused)
{
	CwhTransfer *transfer = &delivery->transfer;

	transfer->status = 0;
	transfer->failed = true;
	transfer->refused = refused;
	transfer->starved = false;
	transfer->latency_ms = 0;
	transfer->retry_after_s = -1;
	transfer->response_headers.len = 0;
	transfer->response_body.len = 0;
	cwh_copy_text(transfer->error, problem, sizeof(transfer->error));
	judge(delivery);
}

/* Is there a token, for a webhook that needs one? */
static bool
has_token(Endpoint *endpoint)
{
	if (endpoint->token && endpoint->token_until <= GetCurrentTimestamp())
		forget_token(endpoint);
	return endpoint->token != NULL;
}

/* Is the next request of its webhook one for a token? */
static bool
needs_token(Endpoint *endpoint)
{
	return endpoint->webhook->auth == CWH_AUTH_OAUTH2 && !has_token(endpoint);
}

/* Write the request for the deliveries of a batch. */
static void
prepare_batch(Delivery *first, Endpoint *endpoint)
{
	pg_uuid_t	events[CWH_MAX_BATCH];
	int64		ids[CWH_MAX_BATCH];
	int			n = 1;
	slist_iter	iter;

	events[0] = first->event_id;
	ids[0] = first->id;
	slist_foreach(iter, &first->others)
	{
		Delivery   *delivery = slist_container(Delivery, node, iter.cur);

		events[n] = delivery->event_id;
		ids[n++] = delivery->id;
	}
	cwh_request_prepare_batch(&first->transfer, endpoint->webhook, events, ids,
							  n, first->attempts + 1, &first->batch,
							  first->started_at, endpoint->token);
}

/* Send the request of a delivery, or ask for the token that it needs first. */
static void
send_request(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhWebhook *webhook = endpoint->webhook;

	/* the settings may have changed since the URL was stored */
	const char *problem = cwh_request_problem(webhook);

	delivery->fetching = problem == NULL && needs_token(endpoint);
	delivery->token = endpoint->token_number;
	if (problem == NULL && delivery->fetching)
		problem = cwh_request_prepare_token(&delivery->transfer, webhook);
	else if (problem == NULL && delivery->request)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(delivery->context);

		problem = cwh_request_prepare_step(&delivery->transfer, webhook,
										   delivery->request, endpoint->token);
		MemoryContextSwitchTo(oldcontext);
	}
	else if (problem == NULL && delivery->batch.data)
		prepare_batch(delivery, endpoint);
	else if (problem == NULL)
		cwh_request_prepare(&delivery->transfer, webhook, delivery->event_type,
							&delivery->event_id, delivery->attempts + 1,
							delivery->id, &delivery->body,
							delivery->started_at, endpoint->token);
	if (problem)
	{
		fail_delivery(delivery, problem, true);
		return;
	}
	/* one asks for all */
	endpoint->fetching = delivery->fetching;
	delivery->webhook = webhook;
	webhook->users++;
	if (!cwh_transport_start(&delivery->transfer))
		fail_delivery(delivery, "could not start the request: out of memory",
					  false);
}

/*
 * What another connector has asked for, and the replies to it, are of no use to
 * the one that the webhook has now.  True if there was another.
 */
static bool
forget_former(Delivery *delivery)
{
	if (delivery->connector_number == delivery->endpoint->connector_number)
		return false;
	delivery->connector_number = delivery->endpoint->connector_number;
	delivery->replies = NULL;
	drop_request(delivery);
	return true;
}

/* Start the attempt at a delivery that was waiting, or go on with it. */
static void
start_delivery(Endpoint *endpoint, Delivery *delivery)
{
	count_in_flight(endpoint, 1);
	if (delivery->started_at == 0)
		delivery->started_at = GetCurrentTimestamp();
	forget_former(delivery);
	if (delivery->request && delivery->rendered != endpoint->generation)
		drop_request(delivery);
	if (endpoint->webhook->connector && delivery->request == NULL)
	{
		need_context(delivery);
		append_node(&to_render, &to_render_tail, &delivery->node);
		nto_render++;
	}
	else
		send_request(delivery);
}

/*
 * The most requests that may be under way: each takes a descriptor, and
 * PostgreSQL leaves a third of those it allows itself to the likes of us.
 */
static int
in_flight_limit(void)
{
	return Max(1, Min(cwh_max_in_flight, max_safe_fds / 3 - 8));
}

/* Is its connector one that takes long? */
static bool
is_slow(const Endpoint *endpoint)
{
	const char *function = endpoint->webhook->function;

	if (endpoint->slow)
		return true;
	return function && hash_get_num_entries(slow_functions) > 0 &&
		hash_search(slow_functions, function, HASH_FIND, NULL) != NULL;
}

/* The next endpoint to start a request of, or null. */
static Endpoint *
next_startable(void)
{
	int			limit = in_flight_limit();
	bool		proven = true;

	if (in_flight >= limit)
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

/* How many of those that wait go into the next request. */
static int
batch_length(Endpoint *endpoint)
{
	int			most = endpoint->webhook->batch_size;
	int			n = 0;
	Size		len = 0;
	slist_iter	iter;

	if (most == 1)
		return 1;
	slist_foreach(iter, &endpoint->waiting)
	{
		len += slist_container(Delivery, node, iter.cur)->body.len + 1;
		if (n == most || (n > 0 && len > MAX_BATCH_BYTES))
			break;
		n++;
	}
	return n;
}

/* Take the first of those that wait. */
static Delivery *
next_waiting(Endpoint *endpoint)
{
	count_waiting(endpoint, -1);
	return slist_container(Delivery, node,
						   slist_pop_head_node(&endpoint->waiting));
}

/* Order of deliveries in a batch: as they were emitted. */
static int
compare_deliveries(const void *a, const void *b)
{
	int64		left = (*(Delivery *const *) a)->id;
	int64		right = (*(Delivery *const *) b)->id;

	return left < right ? -1 : left > right;
}

/*
 * Put as many of those that wait into one request.  Tried again together, they
 * may be due in another order; the body is to be the same.
 */
static Delivery *
make_batch(Endpoint *endpoint, int n)
{
	Delivery   *deliveries[CWH_MAX_BATCH];
	Delivery   *first;
	MemoryContext oldcontext;

	for (int i = 0; i < n; i++)
		deliveries[i] = next_waiting(endpoint);
	qsort(deliveries, n, sizeof(Delivery *), compare_deliveries);
	first = deliveries[0];
	need_context(first);
	oldcontext = MemoryContextSwitchTo(first->context);
	initStringInfo(&first->batch);
	MemoryContextSwitchTo(oldcontext);
	slist_init(&first->others);
	appendStringInfoChar(&first->batch, '[');
	appendBinaryStringInfo(&first->batch, first->body.data, first->body.len);
	for (int i = 1; i < n; i++)
	{
		Delivery   *other = deliveries[i];

		append_node(&first->others, &first->others_tail, &other->node);
		appendStringInfoChar(&first->batch, ',');
		appendBinaryStringInfo(&first->batch, other->body.data, other->body.len);
	}
	appendStringInfoChar(&first->batch, ']');
	return first;
}

/* Fill free slots, an endpoint after the other, one request each. */
static void
start_deliveries(void)
{
	Endpoint   *endpoint;

	while ((endpoint = next_startable()) != NULL)
	{
		CwhWebhook *webhook = endpoint->webhook;
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz again;
		Delivery   *delivery;
		int			n;

		/* to the end of the list, or out of it */
		dlist_delete(&endpoint->startable_node);
		endpoint->in_startable = false;
		if (is_slow(endpoint) && slow_until > now)
		{
			block(endpoint, slow_until, now);
			continue;
		}
		n = batch_length(endpoint);
		if (!cwh_gate_pass(&endpoint->id, webhook->rate_limit,
						   needs_token(endpoint) ? 0 : n,
						   webhook->timeout_ms + PROBE_GRACE_MS,
						   now, &again))
		{
			block(endpoint, again, now);
			continue;
		}
		delivery = webhook->batch_size > 1 ? make_batch(endpoint, n) :
			next_waiting(endpoint);
		start_delivery(endpoint, delivery);
		reconsider(endpoint);
	}
}

/* Put a delivery back to the head of those that wait. */
static void
put_back(Endpoint *endpoint, Delivery *delivery)
{
	if (slist_is_empty(&endpoint->waiting))
		append_node(&endpoint->waiting, &endpoint->waiting_tail,
					&delivery->node);
	else
		slist_push_head(&endpoint->waiting, &delivery->node);
	count_waiting(endpoint, 1);
}

/* A token is not to be used any more. */
static void
forget_token(Endpoint *endpoint)
{
	if (endpoint->token == NULL)
		return;
	cwh_cleanse(endpoint->token, strlen(endpoint->token));
	pfree(endpoint->token);
	endpoint->token = NULL;
}

/* The request for a token has ended.  True if it brought one. */
static bool
take_token(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhTransfer *transfer = &delivery->transfer;
	const char *problem = NULL;
	char	   *token;
	int64		expires_in = 0;

	endpoint->fetching = false;
	if (transfer->failed)
		problem = transfer->error;
	else if (transfer->status < 200 || transfer->status > 299)
		problem = psprintf("HTTP status %d", transfer->status);
	else
	{
		forget_token(endpoint);
		token = cwh_connector_token(transfer, &expires_in, &problem);
		if (token)
		{
			endpoint->token = MemoryContextStrdup(worker_context, token);
			cwh_cleanse(token, strlen(token));
		}
	}
	/* what a token endpoint says is for nobody to read */
	transfer->response_body.len = transfer->response_headers.len = 0;
	transfer->status = 0;
	/* one for the webhook as it was is for nobody to send */
	if (delivery->token != endpoint->token_number)
	{
		forget_token(endpoint);
		return true;
	}
	if (problem)
	{
		char	   *error = psprintf("could not get an access token: %s", problem);

		cwh_copy_text(transfer->error, error, sizeof(transfer->error));
		transfer->failed = true;
	}
	else
	{
		/* not to the last second, but long enough to be used at all */
		expires_in = Max(expires_in - Min(expires_in / 2, 30), MIN_TOKEN_LIFE_S);
		endpoint->token_until =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), expires_in * 1000);
		endpoint->token_at = GetCurrentTimestamp();
		endpoint->token_number++;
	}
	return problem == NULL;
}

/* Have the others of a batch wait again, before all else. */
static void
undo_batch(Delivery *first)
{
	Endpoint   *endpoint = first->endpoint;
	slist_iter	iter;

	if (first->batch.data == NULL)
		return;
	pfree(first->batch.data);
	first->batch.data = NULL;
	if (slist_is_empty(&first->others))
		return;
	slist_foreach(iter, &first->others)
		count_waiting(endpoint, 1);
	if (slist_is_empty(&endpoint->waiting))
		endpoint->waiting_tail = first->others_tail;
	first->others_tail->next = endpoint->waiting.head.next;
	endpoint->waiting.head.next = first->others.head.next;
}

/* Go on with a delivery at the next turn, in the same attempt. */
static void
go_on(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;

	undo_batch(delivery);
	put_back(endpoint, delivery);
	if (endpoint->gone || !endpoint->webhook->enabled)
		release_waiting(endpoint);
	reconsider(endpoint);
}

/*
 * One of several requests of a connector has succeeded.  Its reply is kept
 * before the next one is made.
 */
static void
end_step(Delivery *delivery)
{
	Jsonb	   *replies = cwh_connector_add_reply(delivery->replies,
												  &delivery->transfer);
	MemoryContext oldcontext = MemoryContextSwitchTo(delivery->context);

	delivery->replies = copy_jsonb(replies);
	MemoryContextSwitchTo(oldcontext);
	delivery->earlier_ms += delivery->transfer.latency_ms;
	delivery->renewed = false;
	drop_request(delivery);
	add_result(delivery, CWH_OUTCOME_STEP, NULL);
}

/* The number of the request that is being made, from 1. */
static int
step_number(const Delivery *delivery)
{
	return 1 + (delivery->replies ? JB_ROOT_COUNT(delivery->replies) : 0);
}

/* A webhook is not an endpoint's any more. */
static void
retire(CwhWebhook *webhook)
{
	webhook->retired = true;
	if (webhook->users == 0)
		cwh_webhook_free(webhook);
}

/* A transfer has ended, and does not point into its webhook any more. */
static void
stop_using(Delivery *delivery)
{
	CwhWebhook *webhook = delivery->webhook;

	delivery->webhook = NULL;
	if (webhook && --webhook->users == 0 && webhook->retired)
		cwh_webhook_free(webhook);
}

/* An endpoint is in trouble, or wants to be left alone. */
static void
note_failure(Endpoint *endpoint, const CwhTransfer *transfer, int64 wait_s,
			 TimestampTz now)
{
	int64		pause_s = -1;

	/* what is asked of all requests, and not of this one */
	if (transfer->status == 429)
		pause_s = wait_s;
	if (transfer->status == 429 || transfer->status == 503)
		pause_s = Max(pause_s, transfer->retry_after_s);
	pause_s = Min(pause_s, CWH_RETRY_AFTER_CAP_S);
	if (cwh_gate_failed(&endpoint->id, &endpoint->webhook->retry,
						cwh_random01(), pause_s * 1000, now))
		ereport(LOG,
				(errmsg("chatwebhook pauses webhook \"%s\": %d requests in a row have failed",
						endpoint->webhook->name, cwh_breaker_threshold)));
}

/* What becomes of a delivery that was attempted. */
static CwhOutcome
decide(Delivery *delivery, CwhVerdict verdict, int64 wait_s, double random01)
{
	const CwhRetryPolicy *policy = &delivery->endpoint->webhook->retry;

	delivery->wait_ms = 0;
	delivery->log = cwh_log_attempts == CWH_LOG_ALL ||
		(cwh_log_attempts == CWH_LOG_FAILURES && verdict != CWH_DELIVERED);
	if (verdict == CWH_DELIVERED)
		return CWH_OUTCOME_DELIVERED;
	if (verdict != CWH_RETRY ||
		delivery->attempts + 1 - delivery->first_attempt > policy->max_retries)
		return CWH_OUTCOME_DEAD;
	delivery->wait_ms = cwh_retry_wait(policy, delivery->last_wait_ms, random01,
									   wait_s);
	return CWH_OUTCOME_RETRY;
}

/* The request of a batch has ended: what holds for the first does for all. */
static void
judge_others(Delivery *first, CwhVerdict verdict, int64 wait_s, double random01,
			 const char *error)
{
	while (!slist_is_empty(&first->others))
	{
		Delivery   *delivery = slist_container(Delivery, node,
											   slist_pop_head_node(&first->others));

		delivery->started_at = first->started_at;
		delivery->transfer.status = first->transfer.status;
		delivery->transfer.latency_ms = first->transfer.latency_ms;
		/* what the receiver said is logged with the first */
		delivery->transfer.response_headers.len = 0;
		delivery->transfer.response_body.len = 0;
		add_result(delivery, decide(delivery, verdict, wait_s, random01), error);
		count_attempt(delivery->endpoint, delivery, verdict == CWH_DELIVERED);
	}
}

/* What an attempt that has ended means, or a request of it. */
static void
judge_transfer(Delivery *delivery)
{
	Endpoint   *endpoint = delivery->endpoint;
	CwhTransfer *transfer = &delivery->transfer;
	TimestampTz now = GetCurrentTimestamp();
	int64		wait_s = -1;
	double		random01 = cwh_random01();
	CwhVerdict	verdict;
	char	   *error;

	count_in_flight(endpoint, -1);
	stop_using(delivery);
	stats.last_activity_at = now;
	stats_changed = true;

	if (transfer->starved)
	{
		/* we lack descriptors: not the endpoint's fault, and not an attempt */
		starved_until = TimestampTzPlusMilliseconds(now, STARVED_MS);
		note_error("no descriptor was free for a connection: increase max_files_per_process or lower chatwebhook.max_in_flight");
		if (delivery->fetching)
			endpoint->fetching = delivery->fetching = false;
		go_on(delivery);
		return;
	}
	if (delivery->fetching)
	{
		delivery->fetching = false;
		if (take_token(delivery))
		{
			go_on(delivery);
			return;
		}
	}
	if (transfer->status == 401 && endpoint->webhook->auth == CWH_AUTH_OAUTH2 &&
		!transfer->failed && delivery->renewed)
		endpoint->token_refused = true;
	if (transfer->status == 401 && endpoint->webhook->auth == CWH_AUTH_OAUTH2 &&
		!transfer->failed && !delivery->renewed &&
		(!endpoint->token_refused ||
		 TimestampDifferenceExceeds(endpoint->token_at, now, REFUSED_TOKEN_MS)))
	{
		/* the token has expired, or was revoked: another, once */
		delivery->renewed = true;
		if (delivery->token == endpoint->token_number)
			forget_token(endpoint);
		go_on(delivery);
		return;
	}

	if (transfer->refused)
		verdict = CWH_DEAD;
	else if (transfer->failed)
		verdict = CWH_RETRY;
	else if (endpoint->webhook->connector)
		verdict = cwh_connector_verdict(endpoint->webhook, step_number(delivery),
										transfer, &wait_s);
	else
		verdict = cwh_retry_verdict(transfer->status);
	if (verdict == CWH_DELIVERED && delivery->request && !delivery->request->last)
	{
		(void) cwh_gate_succeeded(&endpoint->id);
		if (forget_former(delivery))
			go_on(delivery);
		else
			end_step(delivery);
		reconsider(endpoint);
		return;
	}

	endpoint->tried = true;
	set_proven(endpoint, verdict == CWH_DELIVERED);
	if (verdict == CWH_DELIVERED)
		endpoint->token_refused = false;
	if (verdict == CWH_RETRY)
		note_failure(endpoint, transfer, wait_s, now);
	else if (!transfer->failed && cwh_gate_succeeded(&endpoint->id))
		ereport(LOG, (errmsg("chatwebhook goes on with webhook \"%s\": it answers again",
							 endpoint->webhook->name)));

	error = verdict == CWH_DELIVERED ? NULL : cwh_outcome_error(transfer);
	if (error == NULL && verdict != CWH_DELIVERED)
		error = psprintf("HTTP status %d", transfer->status);
	if (error && step_number(delivery) > 1)
		error = psprintf("request %d: %s", step_number(delivery), error);
	transfer->latency_ms += delivery->earlier_ms;
	switch (verdict)
	{
		case CWH_DELIVERED:
			endpoint->window = Min(endpoint->window + 1,
								   endpoint->webhook->max_in_flight);
			break;
		case CWH_RETRY:
			endpoint->window = Max(1, endpoint->window / 2);
			if (transfer->status == 429 || transfer->status == 503)
				wait_s = Max(wait_s, transfer->retry_after_s);
			break;
		case CWH_DISABLE:
			endpoint->disable = transfer->status == 410 ?
				"the receiver answered 410 Gone" :
				"the receiver's answer means that there will be no other";
			touch(endpoint);
			break;
		default:
			break;
	}
	add_result(delivery, decide(delivery, verdict, wait_s, random01), error);
	add_gain(endpoint, delivery, verdict == CWH_DELIVERED, now);
	if (delivery->batch.data)
		judge_others(delivery, verdict, wait_s, random01, error);
	if (error)
		ereport(DEBUG1,
				(errmsg_internal("delivery " INT64_FORMAT " to webhook \"%s\" failed: %s",
								 delivery->id, endpoint->webhook->name, error)));
	reconsider(endpoint);
}

/* The same; what is allocated goes with the next transaction. */
static void
judge(Delivery *delivery)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(transaction_context);

	judge_transfer(delivery);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Transactions
 */

/* Deliveries that the current transaction has claimed. */
static int	claim_width = INT_MAX;	/* endpoints to claim for at a time */
static int	claim_asked = 0;	/* in the claim that was made */
static pg_uuid_t claim_first;	/* the first of them */
static bool settle_alone = false;	/* the last claim has failed */
static Delivery **claimed_now = NULL;
static int	nclaimed_now = 0;
static bool claiming_next = false;	/* in a conversation, not in the queue */

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

/* A webhook was read. */
static void
on_webhook(CwhWebhook *webhook)
{
	Endpoint   *endpoint = get_endpoint(&webhook->id);

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
			forget_token(endpoint);
			endpoint->token_number++;
		}
		if (strcmp(connector_name(endpoint->webhook), connector_name(webhook)) != 0)
		{
			endpoint->connector_number++;
			release_waiting(endpoint);	/* another's replies are of no use */
		}
		retire(endpoint->webhook);
	}
	endpoint->webhook = webhook;
	endpoint->generation = seen_generation;
	endpoint->gone = false;
	endpoint->changed = false;
	endpoint->window = Min(endpoint->window, webhook->max_in_flight);
	if (!endpoint->tried)
		set_proven(endpoint, webhook->proven);

	/* what cannot be sent is not tried, and waits until that is put right */
	if (webhook->problem)
		webhook->enabled = false;
	endpoint->note = strcmp(webhook->problem ? webhook->problem : "",
							webhook->noted ? webhook->noted : "") != 0;
	if (endpoint->note)
		touch(endpoint);
	else if (webhook->problem)
		add_alerting(&webhook->id);
}

/* Give back what an endpoint has claimed and not started. */
static void
release_waiting(Endpoint *endpoint)
{
	while (!slist_is_empty(&endpoint->waiting))
	{
		Delivery   *delivery = next_waiting(endpoint);

		cwh_claim_release(&delivery->id, 1);
		free_delivery(delivery);
		endpoint->after.due = DT_NOBEGIN;
		endpoint->ready = true;
	}
	reconsider(endpoint);
}

/*
 * Read the webhooks that have something to do and whose configuration may have
 * changed since they were read.
 */
static void
refresh_endpoints(void)
{
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	pg_uuid_t  *ids;
	int			n = 0;

	if (refresh_due)
	{
		hash_seq_init(&status, endpoints);
		while ((endpoint = hash_seq_search(&status)) != NULL)
			if (endpoint->changed || endpoint->generation != seen_generation)
				mark_stale(endpoint);
	}
	refresh_due = false;
	if (nstale == 0)
		return;
	ids = palloc(nstale * sizeof(pg_uuid_t));
	while (nstale > 0)
	{
		endpoint = dlist_container(Endpoint, stale_node,
								   dlist_pop_head_node(&stale_list));
		endpoint->in_stale = false;
		nstale--;
		if ((endpoint->changed || endpoint->generation != seen_generation) &&
			(endpoint->ready || endpoint->nwaiting > 0 ||
			 endpoint->in_flight > 0 || endpoint->in_touched))
			ids[n++] = endpoint->id;
	}
	if (n == 0)
		return;
	cwh_outbox_load(ids, n, worker_context, on_webhook);
	for (int i = 0; i < n; i++)
	{
		endpoint = get_endpoint(&ids[i]);
		if (endpoint->changed || endpoint->generation != seen_generation)
		{
			if (!endpoint->gone)
				endpoint->gone_since = GetCurrentTimestamp();
			endpoint->gone = true;
			endpoint->changed = false;
			endpoint->generation = seen_generation;
			release_waiting(endpoint);
			if (is_missed(endpoint))
				set_timer(endpoint,
						  TimestampTzPlusMilliseconds(endpoint->gone_since,
													  ORPHAN_GRACE_MS + 1000));
		}
		else if (!endpoint->webhook->enabled)
			release_waiting(endpoint);
		reconsider(endpoint);
	}
}

/* Remember a webhook whose alerts are to be checked. */
static void
add_alerting(const pg_uuid_t *webhook_id)
{
	for (int i = 0; i < nalerting; i++)
		if (memcmp(&alerting[i], webhook_id, UUID_LEN) == 0)
			return;
	if (nalerting == max_alerting)
	{
		max_alerting = Max(64, 2 * max_alerting);
		alerting = alerting ?
			repalloc(alerting, max_alerting * sizeof(pg_uuid_t)) :
			MemoryContextAlloc(worker_context, max_alerting * sizeof(pg_uuid_t));
	}
	alerting[nalerting++] = *webhook_id;
}

/* Remember a webhook that has had something due for long. */
static void
add_backlog(const pg_uuid_t *webhook_id, TimestampTz due)
{
	if (nbacklogs == max_backlogs)
	{
		max_backlogs = Max(64, 2 * max_backlogs);
		backlogs = backlogs ?
			repalloc(backlogs, max_backlogs * sizeof(pg_uuid_t)) :
			MemoryContextAlloc(worker_context, max_backlogs * sizeof(pg_uuid_t));
		backlog_dues = backlog_dues ?
			repalloc(backlog_dues, max_backlogs * sizeof(TimestampTz)) :
			MemoryContextAlloc(worker_context, max_backlogs * sizeof(TimestampTz));
	}
	backlogs[nbacklogs] = *webhook_id;
	backlog_dues[nbacklogs++] = due;
}

/* A webhook that has something pending was found. */
static void
on_swept(const pg_uuid_t *webhook_id, TimestampTz first_due)
{
	Endpoint   *endpoint = get_endpoint(webhook_id);

	if (cwh_alert_backlog > 0 &&
		first_due < GetCurrentTimestamp() -
		(TimestampTz) cwh_alert_backlog * USECS_PER_SEC)
		add_backlog(webhook_id, first_due);

	endpoint->later = true;
	if (first_due > GetCurrentTimestamp())
		set_timer(endpoint, first_due);
	else if (endpoint->reread_at > GetCurrentTimestamp())
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

/* A webhook that could not be sent to was found: what was missing may be there. */
static void
on_problem(const pg_uuid_t *webhook_id)
{
	Endpoint   *endpoint = get_endpoint(webhook_id);

	endpoint->changed = true;
	make_ready(endpoint, DT_NOBEGIN, 1, 0);
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
	get_endpoint(webhook_id)->gone = false;
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

	if (looked_generation == seen_generation)
		return;
	ids = palloc(hash_get_num_entries(endpoints) * sizeof(pg_uuid_t));
	hash_seq_init(&status, endpoints);
	while ((endpoint = hash_seq_search(&status)) != NULL)
	{
		if (endpoint->gone || endpoint->generation == seen_generation ||
			!is_idle(endpoint))
			continue;
		endpoint->gone = true;	/* until it is found */
		endpoint->gone_since = GetCurrentTimestamp();
		ids[n++] = endpoint->id;
	}
	if (n > 0)
		cwh_outbox_present_webhooks(ids, n, on_present);
	looked_generation = seen_generation;
}

/*
 * Forget endpoints that have nothing to do: those whose webhook is gone, and all
 * of them if there are many.
 */
static void
forget_endpoints(void)
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
		forget_token(endpoint);
		hash_search(endpoints, &endpoint->id, HASH_REMOVE, NULL);
	}
}

/* A webhook has its next delivery due later. */
static void
on_next_due(const pg_uuid_t *webhook_id, TimestampTz due)
{
	Endpoint   *endpoint = get_endpoint(webhook_id);

	endpoint->later = true;
	set_timer(endpoint, due);
}

/* Say in the server's log what an error is about. */
static void
name_delivery(void *arg)
{
	Delivery   *delivery = arg;
	CwhWebhook *webhook = delivery->endpoint->webhook;

	errcontext("delivery " INT64_FORMAT " to webhook \"%s\"", delivery->id,
			   webhook ? webhook->name : "");
}

/*
 * Write the body of a request.  An event that cannot be written is that
 * delivery's trouble alone; nothing in here holds anything but memory, so an
 * error can be caught without ending the transaction.
 */
static void
write_body(Delivery *delivery, const CwhEvent *event)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback;

	callback.callback = name_delivery;
	callback.arg = delivery;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	PG_TRY();
	{
		cwh_envelope_write(&delivery->body, event);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		resetStringInfo(&delivery->body);
		delivery->problem = "the event could not be written as JSON; see the server's log";
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
}

/* A delivery that is due was found. */
static void
on_claimed(const CwhClaimed *claimed)
{
	Endpoint   *endpoint = get_endpoint(&claimed->webhook_id);
	Delivery   *delivery;
	MemoryContext oldcontext;

	if (!claiming_next)
	{
		endpoint->got++;
		endpoint->after.due = claimed->due;
		endpoint->after.id = claimed->id;
	}
	if (!claimed->mine)
		return;
	delivery = new_delivery();
	claimed_now[nclaimed_now++] = delivery;
	delivery->endpoint = endpoint;
	delivery->id = claimed->id;
	delivery->attempts = claimed->attempts;
	delivery->first_attempt = claimed->first_attempt;
	delivery->last_wait_ms = claimed->last_wait_ms;
	delivery->log = false;
	delivery->started_at = 0;
	delivery->earlier_ms = 0;
	delivery->fetching = delivery->renewed = false;
	delivery->connector_number = endpoint->connector_number;
	if (claimed->replies)
	{
		need_context(delivery);
		oldcontext = MemoryContextSwitchTo(delivery->context);
		delivery->replies = copy_jsonb(claimed->replies);
		MemoryContextSwitchTo(oldcontext);
	}
	delivery->problem = NULL;
	if (claimed->has_event)
	{
		delivery->event_id = claimed->event.id;
		oldcontext = MemoryContextSwitchTo(worker_context);
		delivery->event_type = pstrdup(claimed->event.type);
		if (claimed->event.chatbot_id)
			delivery->chatbot_id = pstrdup(claimed->event.chatbot_id);
		if (claimed->ordered && claimed->event.conversation_id)
			delivery->conversation_id = pstrdup(claimed->event.conversation_id);
		MemoryContextSwitchTo(oldcontext);
		write_body(delivery, &claimed->event);
		body_bytes += delivery->body.len;
		average_body += (delivery->body.len - average_body) / 16;
	}
}

/* How many deliveries may be claimed now, in all and for unproven endpoints. */
static int
claim_budget(int *unproven)
{
	int			limit = in_flight_limit();
	int			budget = limit + MAX_PREFETCH - in_flight - nwaiting;

	*unproven = 0;
	if (!cwh_enabled || body_bytes >= MAX_BODY_BYTES ||
		(dlist_is_empty(&ready_list[false]) && dlist_is_empty(&ready_list[true])))
		return 0;
	budget = Min(budget, 1 + (int) (MAX_BODY_BYTES / (average_body + 1)));
	*unproven = Min(budget, Max(1, limit / UNPROVEN_SHARE) +
					MAX_PREFETCH / UNPROVEN_SHARE - nheld[false]);
	return budget;
}

/* Would a slot stay empty that a claim could fill? */
static bool
is_claim_wanted(void)
{
	int			unproven;
	int			budget = claim_budget(&unproven);

	return budget > 0 && (nhungry[true] > 0 || (nhungry[false] > 0 && unproven > 0));
}

/*
 * A claim has failed, since an event cannot be read, say.  Ask for fewer
 * endpoints at a time; one whose claim fails by itself must not hold up the
 * others, and waits.
 */
static void
claim_failed(void)
{
	if (claim_asked == 1)
	{
		Endpoint   *endpoint = get_endpoint(&claim_first);

		endpoint->ready = false;
		endpoint->later = true;
		set_timer(endpoint,
				  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											  FAILED_CLAIM_MS));
		reconsider(endpoint);
	}
	claim_width = Max(1, claim_asked / 2);
	settle_alone = true;
}

/* Claim for the endpoints that are ready, a fair share for each. */
static void
claim(void)
{
	int			unproven;
	int			budget = claim_budget(&unproven);
	int			left[2];
	int			nready = 0;
	int			share;
	int			n = 0;
	int			nlater = 0;
	CwhWant    *wants;
	pg_uuid_t  *later;
	TimestampTz now;
	TimestampTz reread_at;
	dlist_iter	iter;

	if (budget <= 0)
		return;
	for (int proven = 0; proven < 2; proven++)
	{
		if (!proven && unproven <= 0)
			continue;
		dlist_foreach(iter, &ready_list[proven])
		{
			if (++nready >= Min(budget, claim_width))
				break;
		}
	}
	if (nready == 0)
		return;
	nready = Min(nready, Min(budget, claim_width));
	share = Max(1, budget / nready);
	left[true] = budget;
	left[false] = unproven;
	wants = palloc(nready * sizeof(CwhWant));
	for (int proven = 0; proven < 2; proven++)
	{
		dlist_foreach(iter, &ready_list[proven])
		{
			Endpoint   *endpoint = dlist_container(Endpoint, ready_node, iter.cur);

			if (n == nready || left[proven] <= 0 || left[true] <= 0)
				break;
			endpoint->wanted = Min(Min(share, room(endpoint)),
								   Min(left[proven], left[true]));
			endpoint->got = 0;
			left[true] -= endpoint->wanted;
			if (!proven)
				left[false] -= endpoint->wanted;
			wants[n].webhook_id = endpoint->id;
			wants[n].after = endpoint->after;
			wants[n].n = endpoint->wanted;
			n++;
		}
	}
	if (n == 0)
		return;
	claim_asked = n;
	claim_first = wants[0].webhook_id;
	claimed_now = claimed_now == NULL ? palloc(budget * sizeof(Delivery *)) :
		repalloc(claimed_now, (nclaimed_now + budget) * sizeof(Delivery *));
	now = GetCurrentTimestamp();
	cwh_outbox_claim(wants, n, now, on_claimed);
	reread_at = GetCurrentTimestamp();
	reread_at += REREAD_SHARE * (reread_at - now);

	/* those that gave less than was wanted have no more, for now */
	later = palloc(n * sizeof(pg_uuid_t));
	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = get_endpoint(&wants[i].webhook_id);

		/* the next claim begins with those that were not asked in this one */
		dlist_delete(&endpoint->ready_node);
		dlist_push_tail(&ready_list[endpoint->proven], &endpoint->ready_node);
		if (endpoint->got == endpoint->wanted)
			continue;
		endpoint->ready = false;
		/* what waits in its conversation need not be read again, either */
		endpoint->after.due = now;
		endpoint->after.id = PG_INT64_MAX;
		/* what was promised is not put off */
		if (!endpoint->reread)
			endpoint->reread_at = Max(endpoint->reread_at, reread_at);
		if (endpoint->later)
		{
			endpoint->later = false;
			later[nlater++] = endpoint->id;
		}
	}
	if (nlater > 0)
		cwh_outbox_next_due(later, nlater, now, on_next_due);
	for (int i = 0; i < n; i++)
		reconsider(get_endpoint(&wants[i].webhook_id));
}

/*
 * May the event of a delivery come yet?  A later sweep finds the delivery
 * again; what was missing long ago, and is again, is so for another reason.
 */
static bool
is_event_awaited(Endpoint *endpoint)
{
	TimestampTz now = GetCurrentTimestamp();

	if (endpoint->eventless_since == 0 ||
		TimestampDifferenceExceeds(endpoint->eventless_since, now,
								   2 * ORPHAN_GRACE_MS))
		endpoint->eventless_since = now;
	return !TimestampDifferenceExceeds(endpoint->eventless_since, now,
									   ORPHAN_GRACE_MS);
}

/* The claims of a transaction that was committed: they wait to be started. */
static void
keep_claims(void)
{
	stats.claimed += nclaimed_now;
	if (nclaimed_now > 0)
		stats_changed = true;
	for (int i = 0; i < nclaimed_now; i++)
	{
		Delivery   *delivery = claimed_now[i];
		Endpoint   *endpoint = delivery->endpoint;

		if (delivery->problem)
			add_result(delivery, CWH_OUTCOME_CANCELED, delivery->problem);
		else if (delivery->event_type == NULL && is_event_awaited(endpoint))
		{
			cwh_claim_release(&delivery->id, 1);
			free_delivery(delivery);
			claimed_now[i] = NULL;
		}
		else if (delivery->event_type == NULL)
			add_result(delivery, CWH_OUTCOME_CANCELED, "the event is gone");
		else if (endpoint->gone || endpoint->webhook == NULL)
			add_result(delivery, CWH_OUTCOME_CANCELED, "the webhook was deleted");
		else
		{
			append_node(&endpoint->waiting, &endpoint->waiting_tail,
						&delivery->node);
			count_waiting(endpoint, 1);
			continue;
		}
	}
	for (int i = 0; i < nclaimed_now; i++)
		if (claimed_now[i])
			reconsider(claimed_now[i]->endpoint);
	nclaimed_now = 0;
}

/* The claims of a transaction that failed. */
static void
undo_claims(void)
{
	for (int i = 0; i < nclaimed_now; i++)
	{
		Delivery   *delivery = claimed_now[i];
		Endpoint   *endpoint = delivery->endpoint;

		cwh_claim_release(&delivery->id, 1);
		endpoint->after.due = DT_NOBEGIN;
		endpoint->ready = true;
		endpoint->later = true;
		free_delivery(delivery);
		reconsider(endpoint);
	}
	nclaimed_now = 0;
}

/* What is to be settled in one transaction. */
typedef struct Settle
{
	int			n;
	Delivery  **deliveries;
	CwhResult  *results;
	int			ngains;
	CwhHealthGain **gains;
	CwhActivity activity;
} Settle;

/*
 * Was any delivery of this one's batch canceled while it was under way?  What
 * the receiver said of it may be in the reply.
 */
static bool
is_part_gone(const Settle *work, int first)
{
	const Delivery *delivery = work->deliveries[first];

	if (delivery->batch.data == NULL)
		return false;
	for (int i = 0; i < work->n; i++)
		if (work->results[i].gone &&
			work->deliveries[i]->endpoint == delivery->endpoint &&
			work->deliveries[i]->started_at == delivery->started_at)
			return true;
	return false;
}

/* Take results off the queue and settle them. */
static void
settle(Settle *work)
{
	CwhAttempt *attempts;
	int			nattempts = 0;
	int			n = Min(nresults, settle_limit);
	TimestampTz now = GetCurrentTimestamp();
	bool		careful = careful_until > now;
	slist_iter	iter;

	work->deliveries = palloc(Max(1, n) * sizeof(Delivery *));
	work->results = palloc0(Max(1, n) * sizeof(CwhResult));
	attempts = palloc(Max(1, n) * sizeof(CwhAttempt));
	slist_foreach(iter, &results)
	{
		Delivery   *delivery = slist_container(Delivery, node, iter.cur);
		CwhResult  *result = &work->results[work->n];

		if (work->n == n)
			break;
		work->deliveries[work->n++] = delivery;
		/* unless the clock has been set back, it is */
		delivery->started_at = Min(delivery->started_at, now);
		result->id = delivery->id;
		result->outcome = delivery->outcome;
		result->webhook_name = delivery->endpoint->webhook ?
			delivery->endpoint->webhook->name : NULL;
		result->attempted_at = delivery->outcome == CWH_OUTCOME_CANCELED ? 0 :
			delivery->started_at;
		result->latency_ms = delivery->transfer.latency_ms;
		result->status = delivery->transfer.status;
		result->error = delivery->error;
		result->wait_ms = delivery->wait_ms;
		result->replies = delivery->replies;
	}
	cwh_outbox_settle(work->results, work->n, careful);

	/* what was erased meanwhile leaves its error nowhere */
	for (int i = 0; i < work->n; i++)
	{
		CwhHealthGain *gain = work->deliveries[i]->endpoint->gain;

		if (work->results[i].gone && work->results[i].error && gain &&
			strncmp(gain->last_error, work->results[i].error,
					strlen(gain->last_error)) == 0)
			strlcpy(gain->last_error, "the delivery was canceled while it was under way",
					sizeof(gain->last_error));
	}

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];
		CwhAttempt *attempt = &attempts[nattempts];

		if (!delivery->log || !work->results[i].settled || work->results[i].gone)
			continue;
		attempt->delivery_id = delivery->id;
		attempt->attempt = delivery->attempts + 1;
		attempt->webhook_id = delivery->endpoint->id;
		attempt->chatbot_id = delivery->chatbot_id;
		attempt->started_at = delivery->started_at;
		attempt->latency_ms = delivery->transfer.latency_ms;
		attempt->status = delivery->transfer.status;
		attempt->error = delivery->error;
		attempt->response_headers = attempt->response_body = NULL;
		if (delivery->transfer.response_headers.len > 0 && !is_part_gone(work, i))
		{
			attempt->response_headers =
				cwh_reply_headers(&delivery->transfer.response_headers);
			/* for a connector, more was read */
			delivery->transfer.response_body.len =
				Min(delivery->transfer.response_body.len, cwh_max_response_size);
			attempt->response_body =
				cwh_reply_text(&delivery->transfer.response_body);
		}
		nattempts++;
	}
	cwh_outbox_log_attempts(attempts, nattempts);
}

/*
 * Where conversations are ordered, what follows a delivery that is done with is
 * claimed in its place; the cursor of its webhook has passed it long ago.
 */
static void
claim_next(Settle *work, bool may_claim)
{
	pg_uuid_t  *ids = palloc(Max(1, work->n) * sizeof(pg_uuid_t));
	char	  **conversations = palloc(Max(1, work->n) * sizeof(char *));
	int			n = 0;

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];
		Endpoint   *endpoint = delivery->endpoint;

		if (delivery->conversation_id == NULL || !work->results[i].settled ||
			delivery->outcome == CWH_OUTCOME_RETRY ||
			delivery->outcome == CWH_OUTCOME_STEP)
			continue;
		if (may_claim && !endpoint->blocked && !endpoint->disable &&
			!endpoint->gone && endpoint->webhook->enabled)
		{
			ids[n] = endpoint->id;
			conversations[n++] = delivery->conversation_id;
		}
		else
		{
			/* found from the start, when it may be claimed again */
			endpoint->after.due = DT_NOBEGIN;
			endpoint->ready = true;
			reconsider(endpoint);
		}
	}
	if (n == 0)
		return;
	claimed_now = palloc(n * sizeof(Delivery *));
	claiming_next = true;
	cwh_outbox_claim_next(ids, conversations, n, GetCurrentTimestamp(), on_claimed);
	claiming_next = false;
}

/*
 * Write what the webhooks' health has gained and who has a problem, and disable
 * who asked for it.
 */
static void
settle_endpoints(Settle *work)
{
	dlist_iter	iter;

	work->gains = palloc(Max(1, ntouched) * sizeof(CwhHealthGain *));
	dlist_foreach(iter, &touched_list)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, touched_node, iter.cur);

		if (endpoint->gain)
			work->gains[work->ngains++] = endpoint->gain;
		if (endpoint->disable &&
			cwh_outbox_disable(&endpoint->id, endpoint->disable))
			endpoint->disabled = true;
		endpoint->noted = endpoint->note &&
			cwh_outbox_note_problem(&endpoint->id, endpoint->webhook->problem,
									&endpoint->announce);
	}
	cwh_outbox_add_health(work->gains, work->ngains);
	work->activity = activity;
	if (activity.succeeded + activity.failed + activity.given_up > 0)
		cwh_outbox_add_activity(worker_number + 1, GetCurrentTimestamp(),
								&activity);
}

/* The settle was committed: let go of what is done with. */
static void
keep_settle(Settle *work)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;
	int64	   *ids = palloc(Max(1, work->n) * sizeof(int64));
	int			nids = 0;
	int			before = nresults;

	for (int i = 0; i < work->n; i++)
	{
		Delivery   *delivery = work->deliveries[i];
		Endpoint   *endpoint = delivery->endpoint;

		slist_pop_head_node(&results);
		nresults--;
		if (!work->results[i].settled)
		{
			/* somebody has locked its row: later */
			append_node(&results, &results_tail, &delivery->node);
			nresults++;
			continue;
		}
		endpoint->unsettled--;
		if (delivery->outcome == CWH_OUTCOME_STEP && !work->results[i].gone)
		{
			go_on(delivery);
			continue;
		}
		ids[nids++] = delivery->id;
		if (delivery->outcome == CWH_OUTCOME_RETRY)
		{
			TimestampTz due = TimestampTzPlusMilliseconds(delivery->started_at,
														  delivery->transfer.latency_ms +
														  delivery->wait_ms);

			endpoint->later = true;
			if (due > now)
				set_timer(endpoint, due);
			else
				make_ready(endpoint, due, delivery->id, 0);
		}
		free_delivery(delivery);
	}
	cwh_claim_release(ids, nids);
	if (nids > 0)
		cwh_settled_broadcast();
	if (nresults > 0)
		oldest_result = nresults < before ? now :
			TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS);

	activity.succeeded -= work->activity.succeeded;
	activity.failed -= work->activity.failed;
	activity.given_up -= work->activity.given_up;
	dlist_foreach_modify(iter, &touched_list)
	{
		Endpoint   *endpoint = dlist_container(Endpoint, touched_node, iter.cur);

		if (endpoint->disabled || endpoint->noted ||
			(endpoint->gain && endpoint->gain->written &&
			 endpoint->gain->alerting))
			add_alerting(&endpoint->id);
		if (endpoint->gain && (endpoint->gain->written || endpoint->gone))
		{
			pfree(endpoint->gain);
			endpoint->gain = NULL;
		}
		if (endpoint->disabled)
			ereport(LOG,
					(errmsg("chatwebhook disabled webhook \"%s\": %s",
							endpoint->webhook->name, endpoint->disable)));
		if (endpoint->disabled || endpoint->gone)
		{
			/* what was claimed for it waits until it is enabled again */
			endpoint->disable = NULL;
			endpoint->changed = true;
			refresh_due = true;
			release_waiting(endpoint);
		}
		if (endpoint->noted && endpoint->announce && endpoint->webhook->problem)
			ereport(LOG,
					(errmsg("chatwebhook cannot send to webhook \"%s\": %s",
							endpoint->webhook->name, endpoint->webhook->problem)));
		if (endpoint->noted || endpoint->gone)
			endpoint->note = false;
		endpoint->disabled = endpoint->noted = false;
		if (endpoint->gain || endpoint->disable || endpoint->note)
			continue;
		dlist_delete(&endpoint->touched_node);
		endpoint->in_touched = false;
		ntouched--;
	}
	touched_retry_at = TimestampTzPlusMilliseconds(now, LOCKED_DELAY_MS);
}

/* Say once, if there are any secrets, that nothing encrypts them at rest. */
static void
tell_if_plain(void)
{
	const CwhVaultKey *keys;
	int			n;

	if (told_plain || cwh_vault_keys(&keys, &n) != NULL || n > 0 ||
		!cwh_outbox_any_webhook())
		return;
	told_plain = true;
	ereport(LOG,
			(errmsg("the secrets of chatwebhook in database \"%s\" are not encrypted",
					get_database_name(MyDatabaseId)),
			 errhint("Set chatwebhook.secret_key_file, and call chatwebhook.rekey().")));
}

/*
 * See that the extension is still there, in a version that we know, and that
 * what we know of the webhooks is true.
 */
static void
check_configuration(void)
{
	char	   *version;
	uint64		generation;

	AcceptInvalidationMessages();
	generation = cwh_config_generation();
	if (generation != seen_generation)
	{
		Oid			present = cwh_outbox_present(&version);

		if (!OidIsValid(present))
			leave(CWH_EXIT_NO_EXTENSION);
		if (present != extension && OidIsValid(extension))
			leave(CWH_EXIT_CRASHED);	/* it is another one, with other rows */
		extension = present;
		if (strcmp(version, CWH_SQL_VERSION) != 0)
		{
			ereport(cwh_slot_told() ? DEBUG1 : WARNING,
					(errmsg("chatwebhook's library is of version %s, but the extension in database \"%s\" is of version %s: nothing is sent",
							CWH_SQL_VERSION, get_database_name(MyDatabaseId), version),
					 errhint("Use ALTER EXTENSION chatwebhook UPDATE, or install that version's library and restart the server.")));
			leave(CWH_EXIT_OTHER_VERSION);
		}
		cwh_config_watch();
		if (seen_generation == 0)
			cwh_id_seen(cwh_outbox_last_id());
		tell_if_plain();
		seen_generation = cwh_config_generation();
		refresh_due = true;
	}
}

/* Is this the error of something that is not there? */
static bool
is_absence(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		sqlerrcode == ERRCODE_UNDEFINED_FUNCTION ||
		sqlerrcode == ERRCODE_UNDEFINED_SCHEMA;
}

/*
 * When is a transaction to be on disk?  Before a connector's next request is
 * sent, since the last one must not be made again, and before what comes behind
 * in an ordered conversation.  And if it has swept, before anything is sent of
 * what it found, which it knows nothing else of.
 */
static CwhFlush
when_to_flush(const Settle *work, bool do_settle, bool do_sweep)
{
	if (do_sweep)
		return CWH_FLUSH_NOW;
	for (int i = 0; i < work->n; i++)
		if (work->deliveries[i]->outcome == CWH_OUTCOME_STEP ||
			work->deliveries[i]->conversation_id)
			return CWH_FLUSH_NOW;
	return do_settle ? CWH_FLUSH_SOON : CWH_FLUSH_NOT;
}

/*
 * One transaction: settle what has ended, look around, and claim.  An error
 * leaves everything as it was, to be tried again after a pause.
 */
static void
transact(bool do_settle, bool do_sweep, bool do_claim)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(transaction_context);
	volatile bool ok = false;
	volatile int64 ncaught_up = 0;
	Settle	   *work;

	claimed_now = NULL;
	nclaimed_now = 0;
	claim_asked = 0;
	pgstat_report_activity(STATE_RUNNING,
						   do_settle ? "settling" : do_sweep ? "sweeping" : "claiming");
	work = palloc0(sizeof(Settle));
	PG_TRY();
	{
		cwh_outbox_begin();
		MemoryContextSwitchTo(transaction_context);
		check_configuration();
		/* first, since what a webhook was to be disabled for may be mended */
		refresh_endpoints();
		if (do_settle)
		{
			settle(work);
			settle_endpoints(work);
		}
		if (do_sweep)
		{
			/*
			 * one for all, and for transactions that are still open later,
			 * too
			 */
			if (worker_number == 0 &&
				(clock_unknown || GetCurrentTimestamp() < clock_lost))
				ncaught_up = cwh_outbox_catch_up(GetCurrentTimestamp(),
												 CATCH_UP_BATCH);
			if (ncaught_up > 0)
				cwh_sweep_all();
			nbacklogs = 0;
			cwh_outbox_sweep(on_swept);
			cwh_outbox_problems(on_problem);
			check_backlogs = true;
			refresh_endpoints();
			find_deleted();
		}
		if (do_settle)
			claim_next(work, do_claim);
		if (do_claim)
			claim();
		cwh_outbox_commit(when_to_flush(work, do_settle, do_sweep));
		/* no event is sent that a crash could still take back */
		if (nclaimed_now > 0)
			XLogFlush(emitted_upto);
		ok = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(transaction_context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		if (is_absence(error->sqlerrcode) && pause_ms == 0)
		{
			/* DROP EXTENSION has got in between, as the next look will show */
			seen_generation = 0;
			pause_ms = 1;
		}
		else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
				 careful_until < GetCurrentTimestamp())
			careful_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														CAREFUL_MS);
		else
		{
			note_error(error->message);
			pause_ms = Min(Max(2 * pause_ms, FIRST_PAUSE_MS), MAX_PAUSE_MS);
			paused_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   pause_ms);
			settle_limit = Max(1, settle_limit / 2);
			EmitErrorReport();
		}
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	claiming_next = false;
	MemoryContextSwitchTo(transaction_context);
	if (ok)
	{
		if (do_settle)
			keep_settle(work);
		keep_claims();
		pause_ms = 0;
		settle_limit = Min(MAX_SETTLE, settle_limit * 2);
		if (claim_asked > 0)
		{
			claim_width = claim_asked < claim_width ? INT_MAX : claim_width;
			if (claim_width < INT_MAX / 2)
				claim_width *= 2;
			settle_alone = false;
		}
	}
	else
	{
		refresh_due = true;
		undo_claims();
		if (claim_asked > 0)
			claim_failed();
		/* a result that cannot be settled must not stand before the others */
		if (settle_limit == 1 && nresults > 1)
			append_node(&results, &results_tail, slist_pop_head_node(&results));
	}
	if (do_sweep && ok)
	{
		next_sweep = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 cwh_poll_interval);
		clock_unknown = ncaught_up == CATCH_UP_BATCH;
		forget_endpoints();
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(transaction_context);
	pgstat_report_activity(STATE_IDLE, NULL);
	/* a wait for a lock may have eaten it, and what it had to tell */
	SetLatch(MyLatch);
}

/*
 * Upkeep
 */

/* Run something in a transaction of its own, whose failure harms nothing else. */
static bool
run_apart(const char *what, void (*work) (void))
{
	MemoryContext oldcontext = MemoryContextSwitchTo(transaction_context);
	volatile bool ok = false;

	pgstat_report_activity(STATE_RUNNING, what);
	PG_TRY();
	{
		work();
		ok = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(transaction_context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		if (!is_absence(error->sqlerrcode))
		{
			note_error(error->message);
			EmitErrorReport();
		}
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(transaction_context);
	pgstat_report_activity(STATE_IDLE, NULL);
	/* a wait for a lock may have eaten it */
	SetLatch(MyLatch);
	return ok;
}

/* Open and close alerts. */
static void
check_alerts(void)
{
	cwh_outbox_begin();
	if (nalerting > 0)
		cwh_outbox_check_alerts(alerting, Min(nalerting, ALERTS_BATCH));
	if (check_backlogs)
		cwh_outbox_check_backlog(backlogs, backlog_dues, nbacklogs);
	cwh_outbox_commit(CWH_FLUSH_SOON);
}

/*
 * Have those checked that were put down first; false if that failed.  Those wait
 * behind the others then, since somebody may have locked one of them, say.
 */
static bool
check_some_alerts(void)
{
	pg_uuid_t	first[ALERTS_BATCH];
	int			n = Min(nalerting, ALERTS_BATCH);
	bool		ok = run_apart("checking alerts", check_alerts);

	if (n > 0)
	{
		memcpy(first, alerting, n * sizeof(pg_uuid_t));
		memmove(alerting, alerting + n, (nalerting - n) * sizeof(pg_uuid_t));
		if (ok)
			nalerting -= n;
		else
			memcpy(alerting + nalerting - n, first, n * sizeof(pg_uuid_t));
	}
	if (ok)
		check_backlogs = false;
	return ok;
}

/* Remove some of what is old. */
static void
remove_old(void)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz now;
	bool		pass_done;

	if (pass_started == 0)
		pass_started = start;
	(void) cwh_retention_step(start, &pass_done);
	now = GetCurrentTimestamp();
	next_upkeep = now + (now - start) *
		((in_flight > 0 ? BUSY_UPKEEP_SHARE : IDLE_UPKEEP_SHARE) - 1);
	if (pass_done)
	{
		int64		shortest = cwh_retention < 0 ? MAX_PASS_MS :
			Max(MIN_PASS_MS, Min(MAX_PASS_MS, (int64) cwh_retention * 100));

		next_upkeep = now + Max(Min((now - pass_started) * PASS_SHARE,
									(int64) MAX_PASS_MS * 1000),
								shortest * 1000);
		pass_started = 0;
	}
}

/* See to alerts, and to what is old, if it is time. */
static void
keep_up(TimestampTz now)
{
	if ((nalerting > 0 || check_backlogs) && now >= next_alerts)
	{
		bool		ok = check_some_alerts();
		TimestampTz end = GetCurrentTimestamp();
		int			wait_ms = !ok ? FAILED_ALERTS_MS :
			nalerting > 0 ? MORE_ALERTS_MS : ALERTS_MS;

		next_alerts = Max(TimestampTzPlusMilliseconds(now, wait_ms),
						  end + Min(ALERTS_SHARE * (end - now), MAX_ALERTS_MS * 1000));
	}
	if (worker_number == 0 && now >= next_upkeep &&
		!run_apart("removing what is old", remove_old))
		next_upkeep = TimestampTzPlusMilliseconds(now, MAX_PASS_MS);
}

/*
 * Connectors
 */

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
	bool		slow_done = slow_until > now;

	slist_init(&later);
	while (!slist_is_empty(&to_render))
	{
		slist_node *node = slist_pop_head_node(&to_render);
		Delivery   *delivery = slist_container(Delivery, node, node);
		Endpoint   *endpoint = delivery->endpoint;
		bool		slow = is_slow(endpoint);

		if (endpoint->gone || !endpoint->webhook->enabled ||
			endpoint->webhook->connector == NULL || (slow && slow_done))
		{
			nto_render--;
			count_in_flight(endpoint, -1);
			go_on(delivery);
			if (slow && slow_until > now && !endpoint->blocked)
				block(endpoint, slow_until, now);
		}
		else if (n == RENDER_BATCH)
			append_node(&later, &later_tail, node);
		else
		{
			deliveries[n++] = delivery;
			slow_done = slow_done || slow;
		}
	}
	to_render = later;
	to_render_tail = later_tail;
	nto_render -= n;
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
		slow_until = TimestampTzPlusMilliseconds(now, (int64) took_ms * SLOW_SHARE);
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
		fail_delivery(delivery, render->error, false);
	else if (render->request)
	{
		delivery->request = render->request;
		delivery->rendered = endpoint->generation;
		/* another may be asking for the token that this one needs, too */
		if (endpoint->fetching && !has_token(endpoint))
		{
			count_in_flight(endpoint, -1);
			go_on(delivery);
		}
		else
			send_request(delivery);
	}
	else
	{
		count_in_flight(endpoint, -1);
		/* nothing (more) to send: not an attempt if nothing was sent */
		if (delivery->replies == NULL)
			delivery->started_at = 0;
		delivery->transfer.latency_ms = delivery->earlier_ms;
		if (delivery->replies == NULL || delivery->earlier_ms == 0)
			delivery->transfer.status = 0;
		delivery->wait_ms = 0;
		delivery->log = false;
		add_result(delivery, CWH_OUTCOME_DELIVERED, NULL);
		if (delivery->replies)
		{
			add_gain(endpoint, delivery, true, now);
			endpoint->window = Min(endpoint->window + 1,
								   endpoint->webhook->max_in_flight);
		}
	}
	reconsider(endpoint);
}

/*
 * The process ends within a connector that could not be stopped otherwise: its
 * webhook is not to end the next one, too, at once.
 */
static void
on_exit_rendering(int code, Datum arg)
{
	if (!cwh_connector_running || terminate)
		return;
	cwh_culprit_add(&cwh_connector_of->id);
	cwh_gate_pause(&cwh_connector_of->id,
				   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											   UNSTOPPABLE_PAUSE_MS));
}

/* Disable webhooks whose connectors have taken a worker with them. */
static void
disable_culprits(void)
{
	pg_uuid_t	id;

	cwh_outbox_begin();
	while (cwh_culprit_take(&id))
	{
		if (!cwh_outbox_disable(&id, "its connector could not be stopped"))
			continue;
		ereport(LOG, (errmsg("chatwebhook disabled a webhook: its connector could not be stopped")));
		add_alerting(&id);
	}
	cwh_outbox_commit(CWH_FLUSH_NOW);
}

/* Ask connectors for the next requests of deliveries, in one transaction. */
static void
render_deliveries(TimestampTz now)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(transaction_context);
	Delivery  **deliveries = palloc(RENDER_BATCH * sizeof(Delivery *));
	CwhRender  *renders = palloc0(RENDER_BATCH * sizeof(CwhRender));
	int			n = take_to_render(deliveries, now);
	volatile int done = 0;
	volatile bool failed = false;

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
			MemoryContextSwitchTo(transaction_context);
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

			MemoryContextSwitchTo(transaction_context);
			if (failed)
				fail_delivery(delivery, "the connector could not be called; see the server's log",
							  false);
			else if (i < done)
				on_rendered(delivery, &renders[i], now);
			else
			{
				append_node(&to_render, &to_render_tail, &delivery->node);
				nto_render++;
			}
		}
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(transaction_context);
}

/*
 * The loop
 */

/* Take the hints that commits have left. */
static void
take_hints(void)
{
	CwhHint		hints[CWH_MAX_HINTS];
	bool		sweep;
	int			n = cwh_slot_take_hints(hints, &sweep, &emitted_upto);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < n; i++)
	{
		Endpoint   *endpoint = get_endpoint(&hints[i].webhook_id);

		if (hints[i].due == DT_NOBEGIN)
			endpoint->later = endpoint->changed = true;
		make_ready(endpoint, hints[i].due, hints[i].id, hints[i].n);
		/* emitted before the clock was set back */
		if (hints[i].due > now)
		{
			clock_lost = Max(clock_lost, hints[i].due);
			next_sweep = 0;
		}
	}
	if (sweep)
	{
		next_sweep = 0;
		look_again = true;
	}
}

/*
 * If the clock was set, what we wait for goes with it, as if it had not been.
 * If it was set back, the queue holds what is due later than it should be.
 */
static void
follow_clock(TimestampTz now)
{
	static TimestampTz *const times[] = {
		&oldest_result, &touched_retry_at, &careful_until, &paused_until,
		&next_sweep, &starved_until, &next_alerts, &next_upkeep, &pass_started,
		&slow_until
	};
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;
	instr_time	monotonic;
	int64		before = clock_ahead;
	int64		step;

	INSTR_TIME_SET_CURRENT(monotonic);
	clock_ahead = now - (int64) INSTR_TIME_GET_MICROSEC(monotonic);
	step = clock_ahead - before;
	if (Abs(step) < CWH_CLOCK_STEP)
		return;
	cwh_gate_set_clock(clock_ahead);
	if (before == 0)
		return;					/* the first look */
	for (int i = 0; i < lengthof(times); i++)
		if (*times[i] > 0)
			*times[i] += step;
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
	if (step < 0)
	{
		ereport(LOG, (errmsg("chatwebhook follows the clock, which was set back by %.1f s",
							 -step / 1e6)));
		clock_lost = Max(clock_lost, now - step);
		next_sweep = 0;
	}
}

/* Endpoints whose time has come are ready. */
static void
run_timers(TimestampTz now)
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
			set_timer(endpoint, endpoint->blocked_until);
		else
			endpoint->blocked = false;
		make_ready(endpoint, endpoint->look_at, 1, 0);
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

/* Take over settings that have changed. */
static void
reload(void)
{
	CwhTransportOptions options;
	HASH_SEQ_STATUS status;
	Endpoint   *endpoint;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	cwh_transport_options(&options);
	options.max_connections = in_flight_limit();
	cwh_transport_configure(&options);
	/* the key file may be another, and open more secrets */
	next_sweep = 0;
	next_upkeep = 0;
	cwh_slot_halt(!cwh_enabled);
	if (cwh_enabled)
		return;
	hash_seq_init(&status, endpoints);
	while ((endpoint = hash_seq_search(&status)) != NULL)
		release_waiting(endpoint);
}

/* Decide on a transaction, and run it. */
static void
transact_if_due(TimestampTz now)
{
	bool		do_settle;
	bool		do_sweep;
	bool		do_claim;

	if (now < paused_until)
		return;
	do_settle = nresults >= SETTLE_BATCH ||
		(nresults > 0 &&
		 ((in_flight == 0 && next_startable() == NULL &&
		   oldest_result <= now) ||
		  TimestampDifferenceExceeds(oldest_result, now, SETTLE_DELAY_MS))) ||
		(ntouched > 0 && nresults == 0 && now >= touched_retry_at);
	do_sweep = cwh_enabled && now >= next_sweep;
	/* a claim can wait for the next settle, unless a slot would stay empty */
	do_claim = cwh_enabled &&
		(do_settle || do_sweep || is_claim_wanted());
	/* what has ended is not to wait for a claim that may fail again */
	if (settle_alone && do_settle)
		do_claim = false;
	if (do_settle || do_sweep || do_claim || look_again)
	{
		look_again = false;
		transact(do_settle, do_sweep, do_claim);
	}
}

/* Milliseconds until there is something to do without being woken. */
static long
time_to_wait(TimestampTz now)
{
	TimestampTz next = next_sweep;
	long		transport = cwh_transport_timeout_ms();
	long		ms;

	if (!cwh_enabled)
		next = DT_NOEND;
	if (!pairingheap_is_empty(timers))
		next = Min(next, pairingheap_container(Endpoint, timer,
											   pairingheap_first(timers))->look_at);
	if (nresults > 0)
		next = Min(next, TimestampTzPlusMilliseconds(oldest_result,
													 SETTLE_DELAY_MS));
	else if (ntouched > 0)
		next = Min(next, touched_retry_at);
	next = Max(next, paused_until);
	if (nalerting > 0 || check_backlogs)
		next = Min(next, next_alerts);
	if (worker_number == 0)
		next = Min(next, next_upkeep);
	if (starved_until > now)
		next = Min(next, starved_until);
	if (nto_render > 0)
		next = Min(next, now);
	if (next == DT_NOEND)
		return transport;
	ms = next <= now ? 0 : (long) ((next - now + 999) / 1000);
	return transport >= 0 ? Min(ms, transport) : ms;
}

/* Show the worker's figures, if they have changed. */
static void
show_stats(void)
{
	if (!stats_changed && stats.in_flight == in_flight)
		return;
	stats.in_flight = in_flight;
	cwh_slot_update_stats(&stats);
	stats_changed = false;
}

/* Deliver, until asked to leave. */
static void
deliver(void)
{
	WaitEventSet *events = cwh_create_wait_event_set(3);
	uint32		wait_event = cwh_wait_event("ChatwebhookWorkerMain");

	(void) run_apart("disabling webhooks", disable_culprits);
	AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(events, WL_SOCKET_READABLE, cwh_transport_fd(), NULL, NULL);

	while (!terminate && !cwh_slot_stop_requested())
	{
		CwhTransfer *transfer;
		WaitEvent	event;
		TimestampTz now;
		bool		busy = false;

		ResetLatch(MyLatch);
		/* there is no statement to cancel here */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();
		take_hints();
		now = GetCurrentTimestamp();
		follow_clock(now);
		run_timers(now);
		transact_if_due(now);
		if (cwh_enabled && now >= starved_until)
			start_deliveries();
		if (nto_render > 0)
			render_deliveries(GetCurrentTimestamp());
		keep_up(now);
		(void) cwh_transport_drive();
		while ((transfer = cwh_transport_reap()) != NULL)
		{
			judge((Delivery *) transfer);
			busy = true;
		}
		if (busy)
			continue;			/* free slots can be filled at once */

		show_stats();
		(void) WaitEventSetWait(events, time_to_wait(GetCurrentTimestamp()),
								&event, 1, wait_event);
	}

	/* what has been answered need not be repeated */
	for (int i = 0; nresults > 0 && i < 5; i++)
		transact(true, false, false);
	while (nalerting > 0 && check_some_alerts())
		;
}

/* Settings that this process needs, whatever the database's say. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		/* whoever owns the database could have us be somebody else */
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		CWH_TRANSACTION_TIMEOUT
		/* see cwh_outbox_settle() */
		{"lock_timeout", "200ms"},
		/* see cwh_outbox_commit() */
		{"synchronous_commit", "off"},
		/* other people's triggers on our tables do not run as this process */
		{"session_replication_role", "replica"},
		{"row_security", "off"},
		/* tables that are empty now and full in a minute mislead the planner */
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_indexscan", "on"},
		{"enable_nestloop", "on"},
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_material", "off"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

/* Set up what the loop needs. */
static void
set_up(void)
{
	CwhTransportOptions options;
	HASHCTL		info;

	worker_context = AllocSetContextCreate(TopMemoryContext,
										   "chatwebhook worker",
										   ALLOCSET_DEFAULT_SIZES);
	transaction_context = AllocSetContextCreate(TopMemoryContext,
												"chatwebhook transaction",
												ALLOCSET_DEFAULT_SIZES);
	memset(&info, 0, sizeof(info));
	info.keysize = sizeof(pg_uuid_t);
	info.entrysize = sizeof(Endpoint);
	info.hcxt = worker_context;
	endpoints = hash_create("chatwebhook endpoints", 256, &info,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(worker_context);
	timers = pairingheap_allocate(compare_timers, NULL);
	for (int i = 0; i < 2; i++)
	{
		dlist_init(&ready_list[i]);
		dlist_init(&startable_list[i]);
	}
	dlist_init(&touched_list);
	dlist_init(&stale_list);
	slist_init(&results);
	slist_init(&to_render);
	slist_init(&spare_deliveries);
	memset(&info, 0, sizeof(info));
	info.keysize = FUNCTION_KEY;
	info.entrysize = FUNCTION_KEY;
	info.hcxt = worker_context;
	slow_functions = hash_create("chatwebhook slow connectors", 16, &info,
								 HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	before_shmem_exit(on_exit_rendering, (Datum) 0);
	cwh_transport_options(&options);
	options.max_connections = in_flight_limit();
	if (!cwh_transport_open(&options))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl")));
}

/* Entry point of a worker's process. */
void
cwh_worker_main(Datum arg)
{
	Oid			database;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_sigterm);
	/* lock_timeout makes itself felt through it */
	pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	/* attached first: from here on commits leave hints, so none is missed */
	if (!cwh_slot_attach(DatumGetInt32(arg), &database, &worker_number))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	fix_settings();
	set_up();

	StartTransactionCommand();
	if (!OidIsValid(get_extension_oid("chatwebhook", true)))
		leave(CWH_EXIT_NO_EXTENSION);
	CommitTransactionCommand();
	stats.started_at = GetCurrentTimestamp();
	transact(false, false, false);
	cwh_slot_halt(!cwh_enabled);
	cwh_slot_announce();
	ereport(LOG, (errmsg("chatwebhook worker %d started", worker_number + 1)));
	deliver();
	cwh_transport_close();
	proc_exit(0);
}
