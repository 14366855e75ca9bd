/*
 * subscription.h
 *		Which webhooks want an event: a cache in each process.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SUBSCRIPTION_H
#define CWH_SUBSCRIPTION_H

#include "nodes/pg_list.h"
#include "utils/uuid.h"

typedef struct CwhEventType
{
	char		name[256];		/* hash key */
	bool		known;			/* it is in the table event_type */
	uint64		loads;			/* of subscription.c, for the next field */
	List	   *everywhere;		/* of CwhSubscription: the webhooks without a
								 * chatbot_id that want this type */
	bool		wanted;			/* perhaps, by a webhook of some chatbot */
	uint64		scanned;		/* of subscription.c: at this generation it is
								 * known whether one wants it */
	bool		by_chatbots;	/* it does */
	int			nrequired;
	char	  **required;		/* keys that data must have */
	char	   *schema;			/* of data, as JSON; null if there is none, or
								 * no validator */
} CwhEventType;

typedef struct CwhSubscription
{
	pg_uuid_t	webhook_id;
	Datum		filter;			/* jsonpath, or 0 */
	bool		slow_filter;	/* see cwh_filter_problem() */
	bool		ordered;		/* webhook.ordered */
	int64		debounce_us;	/* webhook.debounce; 0: none */
} CwhSubscription;

extern const CwhEventType *cwh_event_type(const char *name);
extern List *cwh_subscriptions(const char *type, const char *chatbot_id);

#endif							/* CWH_SUBSCRIPTION_H */
