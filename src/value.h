/*
 * value.h
 *		Converts values to JSON in the same way in every session.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_VALUE_H
#define CWH_VALUE_H

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

/*
 * Set the settings that affect the text of values to fixed values.  Returns the
 * GUC nesting level to pass to AtEOXact_GUC(), or 0 if nothing had to change, as
 * in a session in UTC whose other settings have their defaults.  The end of the
 * subtransaction undoes it, too.
 */
static inline int
cwh_fix_settings(void)
{
	const char *zone = pg_get_timezone_name(session_timezone);
	struct
	{
		bool		differs;
		const char *name;
		const char *value;
	}			settings[] = {
		{DateStyle != USE_ISO_DATES, "datestyle", "ISO"},
		{IntervalStyle != INTSTYLE_POSTGRES, "intervalstyle", "postgres"},
		/* any above 0 means the shortest exact text */
		{extra_float_digits < 1, "extra_float_digits", "1"},
		{bytea_output != BYTEA_OUTPUT_HEX, "bytea_output", "hex"},
		{strcmp(zone, "UTC") != 0 && strcmp(zone, "Etc/UTC") != 0 &&
		strcmp(zone, "GMT") != 0, "timezone", "UTC"}
	};
	int			level = 0;

	for (int i = 0; i < lengthof(settings); i++)
	{
		if (!settings[i].differs)
			continue;
		if (level == 0)
			level = NewGUCNestLevel();
		(void) set_config_option(settings[i].name, settings[i].value,
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	}
	return level;
}

/*
 * Does the text of a type's values, in which they are sent, depend on the
 * session's settings?  True if in doubt, such as for an array or a row.
 */
static inline bool
cwh_depends_on_settings(Oid type)
{
	switch (type)
	{
		case InvalidOid:		/* a constant */
		case BOOLOID:
		case BPCHAROID:
		case CHAROID:
		case CIDROID:
		case INETOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONBOID:
		case JSONOID:
		case MACADDROID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case TEXTARRAYOID:
		case TEXTOID:
		case UUIDOID:
		case VARCHAROID:
			return false;
		default:
			return !type_is_enum(type);
	}
}

/*
 * A JSON value as an id: a string as it is, and a number or a boolean as its
 * text; else null.
 */
static inline char *
cwh_id_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

#endif							/* CWH_VALUE_H */
