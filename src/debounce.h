/*
 * debounce.h
 *		Releases the last delivery of a burst, and cancels the others.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_DEBOUNCE_H
#define CWH_DEBOUNCE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/*
 * Called for each burst: did anything change, and may deliveries be due now
 * that waited in order behind one of its deliveries?
 */
typedef void (*CwhOnDebounced) (void *context, const pg_uuid_t *webhook_id,
								bool changed, bool unblocked);

extern void cwh_debounce(const int64 *ids, int n, TimestampTz now,
						 CwhOnDebounced each, void *context);

#endif							/* CWH_DEBOUNCE_H */
