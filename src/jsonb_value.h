/*
 * jsonb_value.h
 *		Reads members of jsonb objects, and builds objects.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_JSONB_VALUE_H
#define CWH_JSONB_VALUE_H

#include "utils/jsonb.h"

#include "compat.h"

extern JsonbValue *cwh_jsonb_member(JsonbContainer *object, const char *key,
									enum jbvType type, JsonbValue *value);
extern bool cwh_is_json_null(Jsonb *jsonb);
extern void cwh_jsonb_string(CwhJsonbState *state, JsonbIteratorToken token,
							 const char *string, size_t len);
extern void cwh_jsonb_key(CwhJsonbState *state, const char *key);
extern void cwh_jsonb_text(CwhJsonbState *state, const char *key,
						   const char *string);
extern void cwh_jsonb_whole(CwhJsonbState *state, Jsonb *jsonb);

#endif							/* CWH_JSONB_VALUE_H */
