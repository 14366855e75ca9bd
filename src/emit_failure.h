/*
 * emit_failure.h
 *		Counts events that triggers could not emit.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_EMIT_FAILURE_H
#define CWH_EMIT_FAILURE_H

#include "datatype/timestamp.h"

#define CWH_FAILURE_TEXT	256 /* bytes, with the terminating zero */

/* Failures of one kind, of one trigger. */
typedef struct CwhEmitFailure
{
	Oid			database;
	Oid			relation;
	char		trigger[NAMEDATALEN];
	char		event_type[CWH_FAILURE_TEXT];
	int			sqlerrcode;
	char		message[CWH_FAILURE_TEXT];
	char		example[CWH_FAILURE_TEXT];	/* key of a row; may be empty */
	int64		n;				/* 0: unused */
	TimestampTz first_at;
	TimestampTz last_at;
} CwhEmitFailure;

/* Failures of so many kinds can be counted at a time, in all databases. */
#define CWH_MAX_EMIT_FAILURES	128

extern void cwh_emit_failure_install(void);
extern void cwh_emit_failure_add(const CwhEmitFailure *failure);
extern int	cwh_emit_failure_take(CwhEmitFailure *failures);
extern bool cwh_emit_failure_pending(void);

#endif							/* CWH_EMIT_FAILURE_H */
