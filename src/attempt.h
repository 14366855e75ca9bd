/*
 * attempt.h
 *		Makes attempts at the deliveries that were claimed.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ATTEMPT_H
#define CWH_ATTEMPT_H

#include "delivery.h"

extern void cwh_make_attempts(bool may_start);
extern void cwh_attempt_ended(Delivery *delivery);

#endif							/* CWH_ATTEMPT_H */
