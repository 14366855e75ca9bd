/*
 * traceparent.h
 *		Checks trace contexts (W3C Trace Context).
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_TRACEPARENT_H
#define CWH_TRACEPARENT_H

#include <stdbool.h>

#define CWH_TRACEPARENT_LEN		55

extern bool cwh_is_traceparent(const char *text);

#endif							/* CWH_TRACEPARENT_H */
