/*
 * compat.h
 *		All code that depends on the version of PostgreSQL (15 to 19), as
 *		functions with one signature.  See compat_curl.h for libcurl.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_COMPAT_H
#define CWH_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "chatwebhook needs PostgreSQL 15 or later"
#endif

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "common/base64.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/origin.h"
#if PG_VERSION_NUM >= 180000
#include "rewrite/rewriteHandler.h"
#endif
#include "storage/latch.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/jsonpath.h"
#include "utils/lsyscache.h"	/* since 19 with get_database_name() */
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"				/* before, part of postgres.h */
#endif

/* Version 16 removed this macro. */
#ifndef Abs
#define Abs(x) ((x) >= 0 ? (x) : -(x))
#endif

/* Does the current user own this database?  A superuser owns all. */
static inline bool
cwh_owns_database(Oid database)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, GetUserId());
#else
	return pg_database_ownercheck(database, GetUserId());
#endif
}

/* Version 17 introduced a time limit for transactions; switch it off. */
#if PG_VERSION_NUM >= 170000
#define CWH_TRANSACTION_TIMEOUT {"transaction_timeout", "0"},
#else
#define CWH_TRANSACTION_TIMEOUT
#endif

/* Encode in base64; the result is palloc'd. */
static inline char *
cwh_base64(const char *data, int len)
{
	int			size = pg_b64_enc_len(len);
	char	   *result = palloc(size + 1);

#if PG_VERSION_NUM >= 180000
	len = pg_b64_encode((const uint8 *) data, len, result, size);
#else
	len = pg_b64_encode(data, len, result, size);
#endif
	result[Max(0, len)] = '\0';
	return result;
}

/* May this role execute this function? */
static inline bool
cwh_may_execute(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role,
						   ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/*
 * The expression of a virtual generated column, which rows in triggers have no
 * value for; null for any other column.  Version 18 introduced these columns.
 */
static inline Expr *
cwh_virtual_expression(Relation relation, Form_pg_attribute attribute)
{
#if PG_VERSION_NUM >= 180000
	if (attribute->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
		return (Expr *) build_generation_expression(relation, attribute->attnum);
#endif
	return NULL;
}

/* Does a relation have such columns? */
static inline bool
cwh_has_virtual_columns(Relation relation)
{
#if PG_VERSION_NUM >= 180000
	TupleConstr *constr = RelationGetDescr(relation)->constr;

	return constr && constr->has_generated_virtual;
#else
	return false;
#endif
}

/* Insert the index entries of a row that was just inserted. */
static inline void
cwh_insert_index_entries(ResultRelInfo *relinfo, TupleTableSlot *slot,
						 EState *estate, bool only_summarizing)
{
	List	   *rechecks;

#if PG_VERSION_NUM >= 190000
	rechecks = ExecInsertIndexTuples(relinfo, estate,
									 only_summarizing ? EIIT_ONLY_SUMMARIZING : 0,
									 slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	rechecks = ExecInsertIndexTuples(relinfo, slot, estate, false, false,
									 NULL, NIL, only_summarizing);
#else
	rechecks = ExecInsertIndexTuples(relinfo, slot, estate, false, false,
									 NULL, NIL);
#endif
	list_free(rechecks);
}

/* Which indexes need entries for the new version of a row. */
typedef enum CwhIndexesToUpdate
{
	CWH_INDEXES_NONE, CWH_INDEXES_SUMMARIZING, CWH_INDEXES_ALL
} CwhIndexesToUpdate;

/* Update a row that is locked, in its latest version. */
static inline CwhIndexesToUpdate
cwh_update_row(Relation relation, ItemPointer tid, TupleTableSlot *slot)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes indexes;

	simple_table_tuple_update(relation, tid, slot, GetActiveSnapshot(), &indexes);
	return indexes == TU_All ? CWH_INDEXES_ALL :
		indexes == TU_Summarizing ? CWH_INDEXES_SUMMARIZING : CWH_INDEXES_NONE;
#else
	bool		all;

	simple_table_tuple_update(relation, tid, slot, GetActiveSnapshot(), &all);
	return all ? CWH_INDEXES_ALL : CWH_INDEXES_NONE;
#endif
}

/* Let an index access method clean up after inserting entries. */
static inline void
cwh_index_insert_cleanup(Relation index, IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

/* Begin an index scan; index_rescan() sets the keys. */
static inline IndexScanDesc
cwh_begin_index_scan(Relation relation, Relation index, Snapshot snapshot,
					 int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(relation, index, snapshot, NULL, nkeys, 0, 0);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(relation, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(relation, index, snapshot, nkeys, 0);
#endif
}

/*
 * Delete a row, after waiting for a transaction that has locked it.  Returns
 * false if the row has changed.
 */
static inline bool
cwh_delete_row(Relation relation, TupleTableSlot *slot, CommandId cid,
			   Snapshot snapshot)
{
	TM_FailureData failure;

#if PG_VERSION_NUM >= 190000
	return table_tuple_delete(relation, &slot->tts_tid, cid, 0, snapshot,
							  InvalidSnapshot, true, &failure) == TM_Ok;
#else
	return table_tuple_delete(relation, &slot->tts_tid, cid, snapshot,
							  InvalidSnapshot, true, &failure,
							  false) == TM_Ok;
#endif
}

/* Does this transaction apply changes that come from another server? */
static inline bool
cwh_is_replicated(void)
{
#if PG_VERSION_NUM >= 190000
	return replorigin_xact_state.origin != InvalidReplOriginId;
#else
	return replorigin_session_origin != InvalidRepOriginId;
#endif
}

/* Begin a scan of a whole table. */
static inline TableScanDesc
cwh_begin_scan(Relation relation, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 190000
	return table_beginscan(relation, snapshot, 0, NULL, 0);
#else
	return table_beginscan(relation, snapshot, 0, NULL);
#endif
}

/* Create or find a hash table of a fixed size in shared memory. */
static inline HTAB *
cwh_shmem_init_hash(const char *name, long size, HASHCTL *info, int flags)
{
#if PG_VERSION_NUM >= 190000
	return ShmemInitHash(name, size, info, flags);
#else
	return ShmemInitHash(name, size, size, info, flags);
#endif
}

/* Add to a jsonb value that is being built; it ends up in state->result. */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState CwhJsonbState;

static inline void
cwh_push_jsonb(CwhJsonbState *state, JsonbIteratorToken token,
			   JsonbValue *value)
{
	pushJsonbValue(state, token, value);
}
#else
typedef struct CwhJsonbState
{
	JsonbParseState *stack;
	JsonbValue *result;
} CwhJsonbState;

static inline void
cwh_push_jsonb(CwhJsonbState *state, JsonbIteratorToken token,
			   JsonbValue *value)
{
	state->result = pushJsonbValue(&state->stack, token, value);
}
#endif

/* Is this one of jsonpath's methods without arguments that 17 has added? */
static inline bool
cwh_is_plain_method(JsonPathItemType type)
{
#if PG_VERSION_NUM >= 170000
	return type == jpiBigint || type == jpiBoolean || type == jpiDate ||
		type == jpiInteger || type == jpiNumber || type == jpiStringFunc;
#else
	(void) type;
	return false;
#endif
}

/* Create a set of wait events that lives as long as the process. */
static inline WaitEventSet *
cwh_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* Get a wait event with this name; without a name before version 17. */
static inline uint32
cwh_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/* Plan a query that has been rewritten. */
static inline PlannedStmt *
cwh_plan_query(Query *query)
{
#if PG_VERSION_NUM >= 190000
	return pg_plan_query(query, "", 0, NULL, NULL);
#else
	return pg_plan_query(query, "", 0, NULL);
#endif
}

/* Execute a plan until it has returned this many rows. */
static inline void
cwh_executor_run(QueryDesc *desc, uint64 count)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(desc, ForwardScanDirection, count);
#else
	ExecutorRun(desc, ForwardScanDirection, count, true);
#endif
}

/* Set up a set-returning function to fill a tuplestore. */
static inline void
cwh_init_materialized(FunctionCallInfo fcinfo)
{
#if PG_VERSION_NUM >= 160000
	InitMaterializedSRF(fcinfo, 0);
#else
	SetSingleFuncCall(fcinfo, 0);
#endif
}

#endif							/* CWH_COMPAT_H */
