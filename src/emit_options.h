/*
 * emit_options.h
 *		When a delivery may be sent, and the key of an event.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_EMIT_OPTIONS_H
#define CWH_EMIT_OPTIONS_H

#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "fmgr.h"

#include "envelope.h"

/* The optional arguments of emit(). */
typedef struct CwhEmitOptions
{
	TimestampTz deliver_at;		/* DT_NOBEGIN: at once */
	TimestampTz expires_at;		/* DT_NOEND: never */
	const char *key;			/* or null */
} CwhEmitOptions;

extern bool cwh_read_emit_options(FunctionCallInfo fcinfo, int first,
								  CwhEmitOptions *options);
extern bool cwh_take_key(const CwhEmitOptions *options, CwhEvent *event);
extern TimestampTz cwh_apply_emit_options(TupleTableSlot *slot,
										  const CwhEmitOptions *options,
										  int64 id, bool ordered,
										  TimestampTz now);
extern void cwh_keep_emit_options(TupleTableSlot *slot,
								  const CwhEmitOptions *options);
extern TimestampTz cwh_debounce_delivery(TupleTableSlot *slot,
										 const char *event_type,
										 TimestampTz due, int64 debounce_us);

#endif							/* CWH_EMIT_OPTIONS_H */
