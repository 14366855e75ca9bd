/*
 * subscription.h
 *		Which webhooks want which event: a cache in each backend.
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
	bool		known;			/* is in event_type */
	bool		checked;		/* the fields below are set */
	List	   *everywhere;		/* of CwhSubscription: webhooks of every
								 * chatbot that want it */
	bool		wanted;			/* by any webhook, of any chatbot */
	int			nrequired;
	char	  **required;		/* keys that data must have */
} CwhEventType;

typedef struct CwhSubscription
{
	pg_uuid_t	webhook_id;
	const char *chatbot_id;		/* null: every chatbot */
	Datum		filter;			/* jsonpath, or 0 */
	bool		ordered;		/* within a conversation, one after another */
} CwhSubscription;

extern const CwhEventType *cwh_event_type(const char *name);
extern List *cwh_subscriptions(const char *type, const char *chatbot_id);
extern void cwh_config_watch(void);
extern uint64 cwh_config_generation(void);
extern Oid	cwh_relation(const char *name);

#endif							/* CWH_SUBSCRIPTION_H */
