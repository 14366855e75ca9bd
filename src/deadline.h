/*
 * deadline.h
 *		Limits the time of a piece of work within a statement.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DEADLINE_H
#define CWH_DEADLINE_H

#include "portability/instr_time.h"

extern int	cwh_deadline_allowed(void);
extern void cwh_deadline_used(const instr_time *start);
extern void cwh_deadline_set(int ms);
extern bool cwh_deadline_clear(void);
extern bool cwh_deadline_raised(const ErrorData *error);

#endif							/* CWH_DEADLINE_H */
