/*
 * query.h
 *		Runs the query of a watch.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_QUERY_H
#define CWH_QUERY_H

#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

typedef struct CwhQuery CwhQuery;

extern Oid	cwh_query_view(const char *name, Oid relation);
extern void cwh_query_tie(Oid trigger);
extern CwhQuery *cwh_query_make(const char *name, Relation relation);
extern bool cwh_query_is_stale(const CwhQuery *query);
extern List *cwh_query_keys(const CwhQuery *query);
extern void cwh_query_check(CwhQuery *query);
extern void cwh_query_enter(CwhQuery *query, TupleTableSlot *newslot,
							TupleTableSlot *oldslot);
extern bool cwh_query_chatbot(CwhQuery *query, char **chatbot_id);
extern List *cwh_query_run(CwhQuery *query, MemoryContext context);
extern Jsonb *cwh_query_row(Jsonb *row, const char **chatbot_id,
							const char **conversation_id);

#endif							/* CWH_QUERY_H */
