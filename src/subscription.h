/*
 * subscription.h
 *		Which webhooks want an event: a cache in each process.  Also the OIDs
 *		of the extension's relations, which live in the same cache.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SUBSCRIPTION_H
#define CWH_SUBSCRIPTION_H

#include "nodes/pg_list.h"
#include "utils/uuid.h"

/* The relations that C code looks up. */
typedef enum CwhRelation
{
	/* configuration: changes of their rows count in cwh_config_generation() */
	CWH_REL_EVENT_TYPE,
	CWH_REL_WEBHOOK,
	CWH_REL_VAULT,
	/* events and deliveries */
	CWH_REL_EVENT,
	CWH_REL_QUEUE,
	CWH_REL_QUEUE_PKEY,
	CWH_REL_HISTORY,
	CWH_REL_DEAD,
	CWH_REL_DELIVERY_ID_SEQ
} CwhRelation;

#define CWH_CONFIG_RELATIONS	(CWH_REL_VAULT + 1)
#define CWH_RELATIONS			(CWH_REL_DELIVERY_ID_SEQ + 1)

typedef struct CwhEventType
{
	char		name[256];		/* hash key */
	bool		known;			/* it is in the table event_type */
	bool		checked;		/* the next two fields are set */
	List	   *everywhere;		/* of CwhSubscription: the webhooks without a
								 * chatbot_id that want this type */
	bool		wanted;			/* by any webhook, of any chatbot */
	int			nrequired;
	char	  **required;		/* keys that data must have */
} CwhEventType;

typedef struct CwhSubscription
{
	pg_uuid_t	webhook_id;
	const char *chatbot_id;		/* null: events of every chatbot */
	Datum		filter;			/* jsonpath, or 0 */
	bool		ordered;		/* webhook.ordered */
} CwhSubscription;

extern const CwhEventType *cwh_event_type(const char *name);
extern List *cwh_subscriptions(const char *type, const char *chatbot_id);
extern uint64 cwh_config_generation(void);
extern Oid	cwh_relation(CwhRelation which);

#endif							/* CWH_SUBSCRIPTION_H */
