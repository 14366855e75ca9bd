/*
 * retention.h
 *		Removes finished deliveries and their events after a time.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_RETENTION_H
#define CWH_RETENTION_H

#include "datatype/timestamp.h"

extern void cwh_retention_step(TimestampTz now, bool *pass_done);

#endif							/* CWH_RETENTION_H */
