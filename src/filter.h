/*
 * filter.h
 *		Filters of webhooks, and paths of connectors' rules: which are allowed,
 *		and evaluating them.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_FILTER_H
#define CWH_FILTER_H

#include "utils/jsonb.h"

/*
 * All filters of an event together may take this long; less for events about
 * webhooks, which a worker emits while deliveries wait.
 */
#define CWH_FILTERS_MS			100
#define CWH_ALERT_FILTERS_MS	20

/* What the filters of an event may use, and have used; begins with zeros. */
typedef struct CwhFilterBudget
{
	int			limit_ms;
	Size		work;			/* an estimate of the work, done and to do */
	int64		used_us;		/* time, since the estimate has become large */
	int			left_out;		/* filters that were not evaluated to the end */
} CwhFilterBudget;

extern char *cwh_filter_problem(Datum filter, bool *is_slow);
extern bool cwh_filter_matches(Datum filter, bool is_slow, Jsonb *envelope,
							   CwhFilterBudget *budget);
extern Jsonb *cwh_filter_first(Datum path, bool is_slow, Jsonb *target,
							   CwhFilterBudget *budget);

#endif							/* CWH_FILTER_H */
