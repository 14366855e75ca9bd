/*
 * changes.h
 *		What has changed of the configuration, and the OIDs of the extension's
 *		relations.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CHANGES_H
#define CWH_CHANGES_H

#include "access/table.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"

#include "shared.h"

/* The relations that C code looks up. */
typedef enum CwhRelation
{
	/* configuration: a change of the table itself changes everything */
	CWH_REL_EVENT_TYPE,
	CWH_REL_CONNECTOR,
	CWH_REL_IDENTITY,
	CWH_REL_WEBHOOK,
	CWH_REL_VAULT,
	/* invalidated for changes of rows of these two: see cwh_stamp() */
	CWH_REL_WEBHOOK_PKEY,
	CWH_REL_VAULT_PKEY,
	CWH_REL_WEBHOOK_CHATBOT,
	/* a copy of webhook, for while somebody locks that */
	CWH_REL_WEBHOOK_COPY,
	CWH_REL_WEBHOOK_COPY_CHATBOT,
	/* events and deliveries */
	CWH_REL_EVENT,
	CWH_REL_EVENT_PKEY,
	CWH_REL_QUEUE,
	CWH_REL_QUEUE_PKEY,
	CWH_REL_QUEUE_CLAIM,
	CWH_REL_QUEUE_ORDER,
	CWH_REL_HISTORY,
	CWH_REL_HISTORY_PKEY,
	CWH_REL_DEAD,
	CWH_REL_DEAD_PKEY,
	CWH_REL_MEMORY,
	CWH_REL_MEMORY_KEY,
	CWH_REL_IDENTITY_IDX,
	CWH_REL_HEALTH,
	CWH_REL_HEALTH_PKEY,
	CWH_REL_ALERT,
	CWH_REL_ALERT_OPEN,
	CWH_REL_ACTIVITY,
	CWH_REL_ACTIVITY_PKEY,
	CWH_REL_OUTBOX_SLOT,
	CWH_REL_DELIVERY_ID_SEQ
} CwhRelation;

#define CWH_CONFIG_TABLES		(CWH_REL_VAULT + 1)
#define CWH_CONFIG_RELATIONS	(CWH_REL_VAULT_PKEY + 1)
#define CWH_RELATIONS			(CWH_REL_DELIVERY_ID_SEQ + 1)

/* What this process knows of changes; changes.c writes it. */
typedef struct CwhChanges
{
	uint64		generation;		/* counts all that it was informed of */
	uint64		resets;			/* counts those that change everything */
	bool		any_pending;	/* this transaction has changed rows */
	uint64		pending[CWH_BUCKETS / 64];	/* of these buckets */
} CwhChanges;

extern CwhChanges cwh_changes;

extern Oid	cwh_relation(CwhRelation which);
extern uint64 cwh_config_generation(void);

/*
 * Lock a table of the configuration for reading, without waiting; false if
 * somebody holds or awaits a lock that keeps readers out.
 *
 * Roles that may write a table can lock it, and chats are not to wait for them.
 * Webhooks have a copy to be read meanwhile.
 */
static inline bool
cwh_try_lock_for_reading(CwhRelation table)
{
	return ConditionalLockRelationOid(cwh_relation(table), AccessShareLock);
}

/*
 * Open a table.  If DROP EXTENSION has come first, the error is the one of a
 * table that does not exist.
 */
static inline Relation
cwh_table_open(CwhRelation which, LOCKMODE mode)
{
	Relation	relation;

	while ((relation = try_table_open(cwh_relation(which), mode)) == NULL)
		;
	return relation;
}

/* Open one for reading, or return null if that would have to wait. */
static inline Relation
cwh_table_open_at_once(CwhRelation which)
{
	Relation	relation;

	do
	{
		if (!cwh_try_lock_for_reading(which))
			return NULL;
		relation = try_table_open(cwh_relation(which), NoLock);
	} while (relation == NULL);
	return relation;
}

/* The bucket of a webhook's id, or of a chatbot's. */
static inline CwhBucket
cwh_bucket(const void *key, size_t len)
{
	return DatumGetUInt64(hash_any_extended(key, len, MyDatabaseId)) % CWH_BUCKETS;
}

/*
 * A number that increases when anything in a bucket has changed.  Whoever reads
 * the tables takes it before the snapshot, and compares it when the generation
 * has changed.  It is 0, which is equal to nothing, if this transaction has
 * changed something in the bucket: what is read now may be rolled back.
 */
static inline uint64
cwh_stamp(CwhBucket bucket)
{
	if (cwh_changes.any_pending &&
		(cwh_changes.pending[bucket / 64] & UINT64CONST(1) << bucket % 64) != 0)
		return 0;
	return cwh_changes.resets +
		(cwh_bumps ? pg_atomic_read_u64(&cwh_bumps[bucket]) : 0);
}

/* Is what was read with this stamp still true? */
static inline bool
cwh_stamp_holds(CwhBucket bucket, uint64 stamp)
{
	return stamp != 0 && stamp == cwh_stamp(bucket);
}

#endif							/* CWH_CHANGES_H */
