/*
 * value.h
 *		Converts values to JSON in the same way in every session.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_VALUE_H
#define CWH_VALUE_H

#include "catalog/pg_type.h"
#include "utils/lsyscache.h"

extern int	cwh_fix_settings(void);

/*
 * Does the text of a type's values, in which they are sent, depend on the session's
 * settings?  True if in doubt, such as for an array or a row.
 */
static inline bool
cwh_by_settings(Oid type)
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

#endif							/* CWH_VALUE_H */
