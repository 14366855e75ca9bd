/*
 * emit_report.c
 *		Reports events that a trigger could not emit.
 *
 * The session gets a warning, with everything that the error says.  What is
 * counted in shared memory, and shown to others, has no values of the row.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

#include "emit_failure.h"
#include "emit_report.h"
#include "mapping.h"
#include "shared.h"

/* The longest message of an error in a warning, in bytes. */
#define MAX_WARNING		1024

/*
 * Was this error raised by a function in a language such as PL/pgSQL?  Then the
 * function has chosen its code and its text.
 */
static bool
is_raised_by_function(const ErrorData *error)
{
	return error->message_id && strcmp(error->message_id, "%s") == 0;
}

/*
 * Should this error end the statement in any case?  A cancellation that is not
 * ours should, and in a serializable transaction, the discovery that it has to
 * be repeated; but not a function's error that only has such a code.
 */
bool
cwh_ends_statement(const ErrorData *error)
{
	return !is_raised_by_function(error) &&
		(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		 error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE);
}

/*
 * Can the message of an error that a query, an expression or a conversion has
 * raised contain values?  Not those about objects that a statement names, nor
 * about limits, locks and the like.
 */
static bool
has_values(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_CARDINALITY_VIOLATION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_INVALID_TRANSACTION_TERMINATION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
			return false;
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
			/* with a position, the name is in a statement, not in a value */
			return error->sqlerrcode == ERRCODE_SYNTAX_ERROR ||
				(error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE &&
				 error->cursorpos <= 0 && error->internalpos <= 0);
		default:
			return true;
	}
}

/*
 * The message of an error, without values: PostgreSQL's own with "..." for each
 * parameter, in English.  It is not taken out of the text, for the quotes depend
 * on the language, and values can have quotes, too.
 */
static const char *
public_message(const ErrorData *error, bool has_read)
{
	StringInfoData message;

	if (is_raised_by_function(error))
		return "a function raised an exception";
	if (!has_read || !has_values(error))
		return error->message;
	initStringInfo(&message);
	for (const char *c = error->message_id ? error->message_id : ""; *c; c++)
	{
		if (*c != '%')
		{
			appendStringInfoChar(&message, *c);
			continue;
		}
		/* flags, width, precision and size come before the letter */
		c += 1 + strspn(c + 1, "-+ #0123456789.*$hlqjzt");
		if (*c == '\0')
			break;
		appendStringInfoString(&message, *c == '%' ? "%" : "...");
	}
	return message.data;
}

/*
 * Describe the row by the columns of its primary key that are numbers or UUIDs,
 * which reveal nothing about a person.
 */
static void
describe_row(Relation relation, TupleTableSlot *slot, char *out, size_t size)
{
	TupleDesc	desc = RelationGetDescr(relation);
	Bitmapset  *key;
	int			i = -1;
	StringInfoData columns;

	out[0] = '\0';
	if (slot == NULL)
		return;
	initStringInfo(&columns);
	key = RelationGetIndexAttrBitmap(relation,
									 INDEX_ATTR_BITMAP_PRIMARY_KEY);
	while ((i = bms_next_member(key, i)) >= 0)
	{
		AttrNumber	column = i + FirstLowInvalidHeapAttributeNumber;
		Form_pg_attribute attribute = TupleDescAttr(desc, column - 1);
		bool		isnull;
		Datum		value = slot_getattr(slot, column, &isnull);
		Oid			output;
		bool		is_varlena;

		if (isnull ||
			(attribute->atttypid != INT2OID && attribute->atttypid != INT4OID &&
			 attribute->atttypid != INT8OID && attribute->atttypid != UUIDOID))
			continue;
		getTypeOutputInfo(attribute->atttypid, &output, &is_varlena);
		appendStringInfo(&columns, "%s%s=%s", columns.len > 0 ? ", " : "",
						 NameStr(attribute->attname),
						 OidOutputFunctionCall(output, value));
	}
	cwh_copy_text(out, columns.data, size);
}

/*
 * Count an event that a trigger cannot emit because of this error, and warn of
 * it.  A statement that changes many rows warns once.  The error's message is
 * kept without values if one was being read.
 */
void
cwh_report_failure(const Trigger *trigger, Relation relation,
				   TupleTableSlot *row, const ErrorData *error, bool has_read)
{
	static TimestampTz warned_at = 0;
	static Oid	warned_of = InvalidOid;
	TimestampTz statement = GetCurrentStatementStartTimestamp();
	const char *type = trigger->tgnargs > 0 ?
		trigger->tgargs[0] : "";
	/* clients do not show the context of a warning */
	const char *detail = error->detail ? error->detail : error->context;
	char		message[MAX_WARNING];
	CwhEmitFailure failure;

	memset(&failure, 0, sizeof(failure));
	failure.database = MyDatabaseId;
	failure.relation = cwh_watched_table(trigger,
										 RelationGetRelid(relation));
	strlcpy(failure.trigger, trigger->tgname, NAMEDATALEN);
	cwh_copy_text(failure.event_type, type, sizeof(failure.event_type));
	failure.sqlerrcode = error->sqlerrcode;
	cwh_copy_text(failure.message, public_message(error, has_read),
				  sizeof(failure.message));
	describe_row(relation, row, failure.example, sizeof(failure.example));
	failure.n = 1;
	failure.first_at = failure.last_at = GetCurrentTimestamp();
	cwh_emit_failure_add(&failure);

	if (warned_at == statement && warned_of == trigger->tgoid)
		return;
	warned_at = statement;
	warned_of = trigger->tgoid;
	/* the message can have any size */
	cwh_copy_text(message, error->message, sizeof(message));
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("event \"%s\" was not emitted: %s", failure.event_type,
					message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}
