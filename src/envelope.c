/*
 * envelope.c
 *		Writes events as the JSON that is sent, and makes their ids.
 *
 * Receivers may verify the signature over JSON.stringify(JSON.parse(body)), so
 * a body is exactly what JSON.stringify would write: without spaces, with
 * ECMAScript's escapes and number format (json.c), and in each object the keys
 * that are array indexes first, in ascending order.
 *
 * It runs in sessions and in workers.  It takes no locks, and needs a
 * transaction only where a conversion of encodings does.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat.h"
#include "envelope.h"
#include "json.h"
#include "jsonb_value.h"

PG_FUNCTION_INFO_V1(chatwebhook_uuidv7);

static void write_container(StringInfo out, JsonbContainer *container);

/* Write a string in the database's encoding as a JSON string in UTF-8. */
void
cwh_json_write_string(StringInfo out, const char *string, size_t len)
{
	char	   *utf8 = (char *) string;

	if (GetDatabaseEncoding() != PG_UTF8)
	{
		utf8 = (char *) pg_do_encoding_conversion((unsigned char *) string, len,
												  GetDatabaseEncoding(), PG_UTF8);
		if (utf8 != string)
			len = strlen(utf8);
	}
	enlargeStringInfo(out, CWH_JSON_STRING_MAX(len));
	out->len += cwh_json_string(utf8, len, out->data + out->len);
	out->data[out->len] = '\0';
	if (utf8 != string)
		pfree(utf8);
}

/* Write a string or null. */
static void
write_cstring(StringInfo out, const char *string)
{
	if (string)
		cwh_json_write_string(out, string, strlen(string));
	else
		appendBinaryStringInfo(out, "null", 4);
}

/* Write a number. */
static void
write_numeric(StringInfo out, Numeric numeric)
{
	char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
															 NumericGetDatum(numeric)));
	size_t		len = strlen(digits);

	enlargeStringInfo(out, CWH_JSON_NUMBER_MAX(len));
	out->len += cwh_json_number(digits, len, out->data + out->len);
	out->data[out->len] = '\0';
	pfree(digits);
}

/* Write a scalar, or an object or array that the iterator returned whole. */
static void
write_value(StringInfo out, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			appendBinaryStringInfo(out, "null", 4);
			break;
		case jbvBool:
			appendStringInfoString(out, value->val.boolean ? "true" : "false");
			break;
		case jbvNumeric:
			write_numeric(out, value->val.numeric);
			break;
		case jbvString:
			cwh_json_write_string(out, value->val.string.val,
								  value->val.string.len);
			break;
		case jbvBinary:
			write_container(out, value->val.binary.data);
			break;
		default:
			elog(ERROR, "unexpected jsonb value type: %d", (int) value->type);
	}
}

/*
 * Write the members of an object whose keys are array indexes, or the members
 * whose keys are not.  jsonb sorts keys by length and then by bytes, so indexes
 * are in ascending order.  Returns true if it has left out any member.
 */
static bool
write_members(StringInfo out, JsonbContainer *container, bool indexes,
			  bool *first)
{
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		left_out = false;
	bool		wanted = false;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			uint32_t	index;

			wanted = cwh_json_array_index(value.val.string.val,
										  value.val.string.len,
										  &index) == indexes;
			left_out |= !wanted;
			if (!wanted)
				continue;
			if (!*first)
				appendStringInfoChar(out, ',');
			*first = false;
			cwh_json_write_string(out, value.val.string.val,
								  value.val.string.len);
			appendStringInfoChar(out, ':');
		}
		else if (token == WJB_VALUE && wanted)
			write_value(out, &value);
	}
	return left_out;
}

/* Write an object, an array, or the array that jsonb wraps a scalar in. */
static void
write_container(StringInfo out, JsonbContainer *container)
{
	check_stack_depth();

	if (JsonContainerIsObject(container))
	{
		bool		first = true;

		appendStringInfoChar(out, '{');
		if (write_members(out, container, true, &first))
			write_members(out, container, false, &first);
		appendStringInfoChar(out, '}');
	}
	else
	{
		JsonbIterator *iterator = JsonbIteratorInit(container);
		JsonbIteratorToken token;
		JsonbValue	value;
		bool		scalar = JsonContainerIsScalar(container);
		bool		first = true;

		if (!scalar)
			appendStringInfoChar(out, '[');
		while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
		{
			if (token != WJB_ELEM)
				continue;
			if (!first)
				appendStringInfoChar(out, ',');
			first = false;
			write_value(out, &value);
		}
		if (!scalar)
			appendStringInfoChar(out, ']');
	}
}

/* Write a jsonb value as JSON in UTF-8. */
void
cwh_json_write(StringInfo out, Jsonb *value)
{
	write_container(out, &value->root);
}

/*
 * Count the bytes of a value as JSON, and stop when there are more than the
 * limit.  If not exact, which is faster, strings count as if every byte needed
 * the longest escape.
 */
static size_t
measure(Jsonb *value, size_t limit, bool exact)
{
	JsonbIterator *iterator = JsonbIteratorInit(&value->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	StringInfoData scratch;
	size_t		size = 0;

	initStringInfo(&scratch);
	while ((token = JsonbIteratorNext(&iterator, &v, false)) != WJB_DONE &&
		   size <= limit)
	{
		/* the brackets, the commas, and the colons */
		if (token == WJB_BEGIN_ARRAY && !v.val.array.rawScalar)
			size += 2 + Max(v.val.array.nElems - 1, 0);
		else if (token == WJB_BEGIN_OBJECT)
			size += 2 + Max(v.val.object.nPairs - 1, 0) + v.val.object.nPairs;
		if (token != WJB_KEY && token != WJB_VALUE && token != WJB_ELEM)
			continue;
		if (v.type == jbvString && !exact)
			size += CWH_JSON_STRING_MAX((size_t) v.val.string.len);
		else
		{
			resetStringInfo(&scratch);
			write_value(&scratch, &v);
			size += scratch.len;
		}
	}
	pfree(scratch.data);
	return size;
}

/* Does an object or array consist of strings, booleans and nulls only? */
static bool
is_simple(const JsonbContainer *container)
{
	int			n = JsonContainerSize(container);

	if (JsonContainerIsObject(container))
		n *= 2;
	for (int i = 0; i < n; i++)
		if (JBE_ISNUMERIC(container->children[i]) ||
			JBE_ISCONTAINER(container->children[i]))
			return false;
	return true;
}

/*
 * Does a value have at most "limit" bytes as JSON?  Its size as jsonb does not
 * tell: a number with 131,072 digits can take twelve bytes there.
 */
bool
cwh_json_fits(Jsonb *value, size_t limit)
{
	/*
	 * In another encoding, always convert every string, to raise the error if
	 * one cannot be converted.
	 */
	if (GetDatabaseEncoding() == PG_UTF8)
	{
		/*
		 * Neither a byte of a string, nor any of the bytes that jsonb needs
		 * to delimit values, becomes more than six bytes of JSON.
		 */
		if (CWH_JSON_STRING_MAX((size_t) VARSIZE(value)) <= limit &&
			is_simple(&value->root))
			return true;
		if (measure(value, limit, false) <= limit)
			return true;
	}
	return measure(value, limit, true) <= limit;
}

/* Format an envelope's timestamp: UTC, truncated to milliseconds. */
static void
format_timestamp(TimestampTz at, char out[32])
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	snprintf(out, 32, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
			 tm.tm_year, tm.tm_mon, tm.tm_mday,
			 tm.tm_hour, tm.tm_min, tm.tm_sec, (int) (fsec / 1000));
}

/* Write an event's envelope, the body of a request. */
void
cwh_envelope_write(StringInfo out, const CwhEvent *event)
{
	char		uuid[CWH_UUID_LEN + 1];
	char		timestamp[32];

	cwh_uuid_text(&event->id, uuid);
	format_timestamp(event->created_at, timestamp);
	appendStringInfoString(out, "{\"id\":\"");
	appendBinaryStringInfo(out, uuid, CWH_UUID_LEN);
	appendStringInfoString(out, "\",\"type\":");
	write_cstring(out, event->type);
	appendStringInfoString(out, ",\"timestamp\":\"");
	appendStringInfoString(out, timestamp);
	appendStringInfoString(out, "\",\"chatbotId\":");
	write_cstring(out, event->chatbot_id);
	appendStringInfoString(out, ",\"conversationId\":");
	write_cstring(out, event->conversation_id);
	appendStringInfoString(out, ",\"data\":");
	write_container(out, &event->data->root);
	appendStringInfoChar(out, '}');
}

/* An event's envelope as jsonb, for filters. */
Jsonb *
cwh_envelope_jsonb(const CwhEvent *event)
{
	CwhJsonbState state = {0};
	char		uuid[CWH_UUID_LEN + 1];
	char		timestamp[32];

	cwh_uuid_text(&event->id, uuid);
	format_timestamp(event->created_at, timestamp);
	cwh_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	cwh_jsonb_text(&state, "id", uuid);
	cwh_jsonb_text(&state, "type", event->type);
	cwh_jsonb_text(&state, "timestamp", timestamp);
	cwh_jsonb_text(&state, "chatbotId", event->chatbot_id);
	cwh_jsonb_text(&state, "conversationId", event->conversation_id);
	cwh_jsonb_key(&state, "data");
	cwh_jsonb_whole(&state, event->data);
	cwh_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

/*
 * Make a UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds
 * since 1970, 12 bits of the fraction of the millisecond (section 6.2, method
 * 3), and 62 random bits.  The UUIDs of a process ascend: if the clock has not
 * advanced, the fraction is incremented.
 */
void
cwh_uuidv7(pg_uuid_t *uuid, TimestampTz at)
{
	static uint64 last = 0;
	static unsigned char pool[512];
	static int	used = sizeof(pool);
	static int	pool_owner = 0; /* the process that filled the pool */
	uint64		us;
	uint64		ticks;

	us = at + (uint64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	/* in units of 1/4096 ms */
	ticks = (us / 1000) << 12 | (us % 1000) * 4096 / 1000;
	if (ticks <= last)
		ticks = last + 1;
	last = ticks;

	/* fetch random bytes in bulk, but use none that a parent process has */
	if (used + 8 > sizeof(pool) || pool_owner != MyProcPid)
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		used = 0;
		pool_owner = MyProcPid;
	}
	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ticks >> (52 - 8 * i));
	uuid->data[6] = 0x70 | ((ticks >> 8) & 0x0f);
	uuid->data[7] = ticks & 0xff;
	memcpy(&uuid->data[8], &pool[used], 8);
	used += 8;
	uuid->data[8] = 0x80 | (uuid->data[8] & 0x3f);
}

/* SQL: make a UUID of version 7. */
Datum
chatwebhook_uuidv7(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	cwh_uuidv7(uuid, GetCurrentTimestamp());
	PG_RETURN_UUID_P(uuid);
}
