/*
 * health.c
 *		SQL functions for the health of webhooks and their alerts.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(chatwebhook_add);
PG_FUNCTION_INFO_V1(chatwebhook_log_alert);

/* SQL: add two arrays element by element. */
Datum
chatwebhook_add(PG_FUNCTION_ARGS)
{
	ArrayType  *sum = PG_GETARG_ARRAYTYPE_P_COPY(0);
	ArrayType  *other = PG_GETARG_ARRAYTYPE_P(1);
	int			n = Min(ArrayGetNItems(ARR_NDIM(sum), ARR_DIMS(sum)),
						ArrayGetNItems(ARR_NDIM(other), ARR_DIMS(other)));
	int64	   *to = (int64 *) ARR_DATA_PTR(sum);
	int64	   *from = (int64 *) ARR_DATA_PTR(other);

	if (ARR_HASNULL(sum) || ARR_HASNULL(other))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cannot add arrays with nulls")));
	for (int i = 0; i < n; i++)
		to[i] += from[i];
	PG_RETURN_ARRAYTYPE_P(sum);
}

/* SQL: log that an alert has opened or closed. */
Datum
chatwebhook_log_alert(PG_FUNCTION_ARGS)
{
	char	   *subject = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *message = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (PG_GETARG_BOOL(2))
		ereport(LOG,
				(errmsg("chatwebhook: alert about %s closed: %s",
						subject, message),
				 errhidecontext(true), errhidestmt(true)));
	else
		ereport(WARNING,
				(errmsg("chatwebhook: alert about %s opened: %s",
						subject, message),
				 errhidecontext(true), errhidestmt(true)));
	PG_RETURN_VOID();
}
