/*
 * emit_report.h
 *		Reports events that a trigger could not emit.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_EMIT_REPORT_H
#define CWH_EMIT_REPORT_H

#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/reltrigger.h"

extern bool cwh_ends_statement(const ErrorData *error);
extern void cwh_report_failure(const Trigger *trigger, Relation relation,
							   TupleTableSlot *row, const ErrorData *error,
							   bool has_read);

#endif							/* CWH_EMIT_REPORT_H */
