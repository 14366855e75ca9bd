/*
 * validator.h
 *		Checks the data of events against the schemas of their types.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_VALIDATOR_H
#define CWH_VALIDATOR_H

#include "utils/jsonb.h"

extern bool cwh_schema_applies(const char *type);
extern void cwh_schema_check(const char *type, Jsonb *data);

#endif							/* CWH_VALIDATOR_H */
