/*
 * announce.c
 *		Events about deliveries: webhook.exhausted and webhook.recovered.
 *
 * When a delivery becomes a dead letter, or a failing webhook delivers again,
 * settle.c notes that here if any webhook subscribes to such events.  upkeep.c
 * emits them soon after, in a transaction and a share of the worker's time of
 * its own: the subscribers' filters take time, and deliveries must not wait
 * for them.  If the worker exits, pending announcements are lost.
 *
 * If deliveries of a webhook die faster than that, a few are named, and the
 * others are counted.  Deliveries of webhook.* events are never announced,
 * since that would lead to more such events without end.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "announce.h"
#include "statement.h"
#include "subscription.h"

/* The most dead deliveries of a webhook that are named at a time. */
#define MAX_NAMED			10

/* After this long, a transaction leaves the other webhooks to the next one. */
#define ANNOUNCE_MS			20

/* INDENT OFF */
/* Parameters of announce_exhausted_sql; the first ones are arrays. */
enum
{
	EXHAUSTED_DELIVERY_ID, EXHAUSTED_EVENT_ID, EXHAUSTED_EVENT_TYPE,
	EXHAUSTED_ATTEMPTS, EXHAUSTED_STATUS_CODE, EXHAUSTED_ERROR,
	EXHAUSTED_ARRAYS, EXHAUSTED_WEBHOOK_ID = EXHAUSTED_ARRAYS,
	EXHAUSTED_OTHERS, EXHAUSTED_PARAMETERS
};

static const char announce_exhausted_sql[] =
	"SELECT chatwebhook._announce_exhausted($1, $2, $3, $4, $5, $6, $7, $8)";
static const char announce_recovered_sql[] =
	"SELECT chatwebhook._announce_recovered($1, $2, $3)";

static CwhStatement announce_exhausted_st = {announce_exhausted_sql, EXHAUSTED_PARAMETERS, {
		[EXHAUSTED_DELIVERY_ID] = INT8ARRAYOID,
		[EXHAUSTED_EVENT_ID] = UUIDARRAYOID,
		[EXHAUSTED_EVENT_TYPE] = TEXTARRAYOID,
		[EXHAUSTED_ATTEMPTS] = INT4ARRAYOID,
		[EXHAUSTED_STATUS_CODE] = INT4ARRAYOID,
		[EXHAUSTED_ERROR] = TEXTARRAYOID,
		[EXHAUSTED_WEBHOOK_ID] = UUIDOID,
		[EXHAUSTED_OTHERS] = INT8OID
}, NULL};
static CwhStatement announce_recovered_st = {announce_recovered_sql, 3,
	{UUIDOID, TIMESTAMPTZOID, INT8OID}, NULL};
/* INDENT ON */

/* A dead delivery that is to be named. */
typedef struct DeadDelivery
{
	int64		id;
	pg_uuid_t	event_id;
	char	   *event_type;
	int			attempts;
	int			status;			/* of the last reply, or 0 */
	char	   *error;			/* or null */
} DeadDelivery;

/* The pending announcements about a webhook. */
struct Announcement
{
	dlist_node	node;
	MemoryContext context;		/* of this struct and all it points to */
	Endpoint   *endpoint;
	DeadDelivery named[MAX_NAMED];
	int			nnamed;
	int64		others;			/* more dead deliveries, not named */
	bool		recovered;
	TimestampTz failing_since;	/* before it recovered; 0: not known */
	int64		failures;		/* in a row, then */
};

/* of Announcement, oldest first */
static dlist_head announcements = DLIST_STATIC_INIT(announcements);
static int	nannounced = 0;		/* how many the last transaction emitted */

/* Does any webhook want such an event about this one? */
static bool
is_wanted(const char *type, const Endpoint *endpoint)
{
	return endpoint->webhook && cwh_event_type(type)->wanted &&
		cwh_subscriptions(type, endpoint->webhook->chatbot_id) != NIL;
}

/* Should a delivery that has become a dead letter be announced? */
bool
cwh_exhausted_wanted(const Delivery *delivery)
{
	return delivery->event_type &&
		!cwh_is_own_type(delivery->event_type) &&
		is_wanted("webhook.exhausted", delivery->endpoint);
}

/* Should it be announced that a webhook delivers again? */
bool
cwh_recovered_wanted(const Endpoint *endpoint)
{
	return is_wanted("webhook.recovered", endpoint);
}

/* Return the announcements about a webhook, created if needed. */
static Announcement *
get_announcement(Endpoint *endpoint)
{
	Announcement *announcement = endpoint->account.announcement;
	MemoryContext context;

	if (announcement)
		return announcement;
	context = AllocSetContextCreate(cwh_worker.context,
									"chatwebhook announcement",
									ALLOCSET_SMALL_SIZES);
	announcement = MemoryContextAllocZero(context, sizeof(Announcement));
	announcement->context = context;
	announcement->endpoint = endpoint;
	dlist_push_tail(&announcements, &announcement->node);
	endpoint->account.announcement = announcement;
	return announcement;
}

/* Note that a delivery has become a dead letter, to announce it later. */
void
cwh_note_exhausted(const Delivery *delivery)
{
	Announcement *announcement = get_announcement(delivery->endpoint);
	DeadDelivery *dead;

	if (announcement->nnamed == MAX_NAMED)
	{
		announcement->others++;
		return;
	}
	dead = &announcement->named[announcement->nnamed++];
	dead->id = delivery->id;
	dead->event_id = delivery->event_id;
	dead->event_type = MemoryContextStrdup(announcement->context,
										   delivery->event_type);
	dead->attempts = delivery->attempts + (delivery->untried ? 0 : 1);
	dead->status = delivery->status;
	dead->error = delivery->error ?
		MemoryContextStrdup(announcement->context, delivery->error) : NULL;
}

/* Note that a failing webhook delivers again, to announce it later. */
void
cwh_note_recovered(Endpoint *endpoint, const CwhHealthGain *gain)
{
	Announcement *announcement = get_announcement(endpoint);

	announcement->recovered = true;
	announcement->failing_since = gain->was_failing_since;
	announcement->failures = gain->was_failures;
}

/* Are any announcements pending? */
bool
cwh_any_announcements(void)
{
	return !dlist_is_empty(&announcements);
}

/* Announce dead letters of a webhook. */
static void
announce_exhausted(const Announcement *announcement)
{
	CwhArray	arrays[EXHAUSTED_ARRAYS];
	Datum		args[EXHAUSTED_PARAMETERS];

	cwh_make_arrays(arrays, &announce_exhausted_st, EXHAUSTED_ARRAYS,
					announcement->nnamed);
	for (int i = 0; i < announcement->nnamed; i++)
	{
		const DeadDelivery *dead = &announcement->named[i];

		cwh_array_set(&arrays[EXHAUSTED_DELIVERY_ID], i,
					  Int64GetDatum(dead->id));
		cwh_array_set(&arrays[EXHAUSTED_EVENT_ID], i,
					  UUIDPGetDatum(&dead->event_id));
		cwh_array_set_text(&arrays[EXHAUSTED_EVENT_TYPE], i, dead->event_type);
		cwh_array_set(&arrays[EXHAUSTED_ATTEMPTS], i,
					  Int32GetDatum(dead->attempts));
		if (dead->status != 0)
			cwh_array_set(&arrays[EXHAUSTED_STATUS_CODE], i,
						  Int32GetDatum(dead->status));
		cwh_array_set_text(&arrays[EXHAUSTED_ERROR], i, dead->error);
	}
	cwh_finish_arrays(arrays, EXHAUSTED_ARRAYS, args);
	args[EXHAUSTED_WEBHOOK_ID] = UUIDPGetDatum(&announcement->endpoint->id);
	args[EXHAUSTED_OTHERS] = Int64GetDatum(announcement->others);
	(void) cwh_run(&announce_exhausted_st, args);
}

/* Announce that a webhook has recovered. */
static void
announce_recovered(const Announcement *announcement)
{
	Datum		args[3];

	args[0] = UUIDPGetDatum(&announcement->endpoint->id);
	/* -infinity stands for an unknown time */
	args[1] = TimestampTzGetDatum(announcement->failing_since == 0 ?
								  DT_NOBEGIN : announcement->failing_since);
	args[2] = Int64GetDatum(announcement->failures);
	(void) cwh_run(&announce_recovered_st, args);
}

/* Emit the events about the first webhooks, within a transaction. */
void
cwh_announce(void)
{
	TimestampTz start = GetCurrentTimestamp();
	dlist_iter	iter;

	nannounced = 0;
	dlist_foreach(iter, &announcements)
	{
		Announcement *announcement = dlist_container(Announcement, node,
													 iter.cur);

		if (announcement->nnamed > 0)
			announce_exhausted(announcement);
		if (announcement->recovered)
			announce_recovered(announcement);
		nannounced++;
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
									   ANNOUNCE_MS))
			break;
	}
}

/* The transaction has committed: remove the announcements that it emitted. */
void
cwh_end_announce(void)
{
	for (; nannounced > 0; nannounced--)
	{
		Announcement *announcement = dlist_container(Announcement, node,
													 dlist_pop_head_node(&announcements));

		announcement->endpoint->account.announcement = NULL;
		MemoryContextDelete(announcement->context);
	}
}
