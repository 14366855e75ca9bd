/*
 * upkeep.h
 *		What the worker does beside delivering: alerts, and removing old rows.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_UPKEEP_H
#define CWH_UPKEEP_H

#include "datatype/timestamp.h"

extern TimestampTz cwh_keep_up(TimestampTz now);
extern void cwh_reset_upkeep(int64 step);
extern void cwh_finish_upkeep(void);

#endif							/* CWH_UPKEEP_H */
