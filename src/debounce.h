/*
 * debounce.h
 *		Lets the last of several deliveries go, and cancels the others.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DEBOUNCE_H
#define CWH_DEBOUNCE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/*
 * Called for each burst: was anything changed; may deliveries be due now that
 * waited in order behind one of it?
 */
typedef void (*CwhOnDebounced) (void *context, const pg_uuid_t *webhook_id,
								bool changed, bool unblocked);

extern void cwh_debounce(const int64 *ids, int n, TimestampTz now,
						 CwhOnDebounced each, void *context);

#endif							/* CWH_DEBOUNCE_H */
