/*
 * deadline.h
 *		Limits the time of a piece of work within a statement.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DEADLINE_H
#define CWH_DEADLINE_H

extern void cwh_deadline_set(int ms);
extern bool cwh_deadline_clear(void);
extern bool cwh_deadline_raised(const ErrorData *error);

#endif							/* CWH_DEADLINE_H */
