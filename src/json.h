/*
 * json.h
 *		Strings and numbers as ECMAScript writes them.  Pure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_JSON_H
#define CWH_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The most that cwh_json_string() writes for len bytes. */
#define CWH_JSON_STRING_MAX(len)	((len) * 6 + 2)
/* The most that cwh_json_number() writes for len bytes. */
#define CWH_JSON_NUMBER_MAX(len)	((len) + 32)

extern size_t cwh_json_string(const char *string, size_t len, char *out);
extern size_t cwh_json_number(const char *decimal, size_t len, char *out);
extern bool cwh_json_array_index(const char *key, size_t len, uint32_t *value);

#endif							/* CWH_JSON_H */
