/*
 * initial_copy.h
 *		Which subscriptions have copied the events of an outbox.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_INITIAL_COPY_H
#define CWH_INITIAL_COPY_H

#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"

#include "shared.h"

extern bool cwh_is_initial_copy(Node *statement);
extern PlannedStmt *cwh_plan_initial_copy(PlannedStmt *pstmt);
extern void cwh_initial_copy_add(void);

/* For a worker: copies in this database, the oldest first. */
extern int	cwh_initial_copies(char names[CWH_MAX_COPIES][NAMEDATALEN]);
extern void cwh_forget_initial_copies(char names[CWH_MAX_COPIES][NAMEDATALEN],
									  int n);

#endif							/* CWH_INITIAL_COPY_H */
