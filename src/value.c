/*
 * value.c
 *		Converts values to JSON in the same way in every session.
 *
 * The text of a timestamp, an interval, a float or a bytea depends on settings,
 * which differ between sessions.  An event must not.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

#include "value.h"

PG_FUNCTION_INFO_V1(chatwebhook_to_jsonb);

/* SQL: to_jsonb(), whatever the session's settings. */
Datum
chatwebhook_to_jsonb(PG_FUNCTION_ARGS)
{
	int			level = cwh_fix_settings();
	Datum		result = to_jsonb(fcinfo);

	if (level > 0)
		AtEOXact_GUC(true, level);
	return result;
}
