/*
 * value.c
 *		Converts values to JSON in the same way in every session.
 *
 * The text of a timestamp, an interval, a float or a bytea depends on settings,
 * which each session can have others of.  What an event says must not.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

#include "value.h"

PG_FUNCTION_INFO_V1(chatwebhook_to_jsonb);

/*
 * Give the settings on which the text of a value depends the values that all
 * events are converted with, until AtEOXact_GUC() of the level that is returned,
 * or the end of the subtransaction.  Returns 0 if they are so anyway, as they are
 * by default, except for the time zone in many places.
 */
int
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
