/*
 * write.h
 *		Writes events and their deliveries, and checks events before that.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_WRITE_H
#define CWH_WRITE_H

#include "nodes/execnodes.h"
#include "nodes/pg_list.h"

#include "emit_options.h"
#include "envelope.h"
#include "rows.h"
#include "subscription.h"

/* Inserts events and their deliveries; opened when there is one to insert. */
typedef struct CwhWriter
{
	bool		open;
	MemoryContext context;		/* current when the writer was set up */
	EState	   *estate;
	CwhRows		events;
	CwhRows		deliveries;
	bool		behind;			/* deliver when nothing else is due */
	const CwhEmitOptions *options;	/* of emit(), or null */
	bool		to_outbox;		/* write events alone, for delivery nodes */
	TimestampTz arrived_at;		/* write deliveries alone, of an event that was
								 * emitted elsewhere and arrived then; else 0 */
	int64		first_delivery; /* of the last event */
	int64		last_delivery;
} CwhWriter;

extern void cwh_writer_init(CwhWriter *writer);
extern void cwh_write_deliveries(CwhWriter *writer, const CwhEvent *event,
								 List *subscriptions);
extern void cwh_write_event(CwhWriter *writer, const CwhEvent *event,
							List *subscriptions);
extern void cwh_writer_close(CwhWriter *writer);

extern bool cwh_is_plain(const char *name);
extern void cwh_report_too_large(const CwhEvent *event);
extern void cwh_check_event(const CwhEvent *event);
extern List *cwh_apply_filters(List *subscriptions, const CwhEvent *event);

#endif							/* CWH_WRITE_H */
