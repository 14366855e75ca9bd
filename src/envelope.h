/*
 * envelope.h
 *		Writes events as the JSON that is sent, and makes their ids.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ENVELOPE_H
#define CWH_ENVELOPE_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* An event, as in a row of the table event. */
typedef struct CwhEvent
{
	pg_uuid_t	id;
	const char *type;
	const char *chatbot_id;		/* or null */
	const char *conversation_id;	/* or null */
	TimestampTz created_at;
	Jsonb	   *data;			/* an object */
} CwhEvent;

#define CWH_UUID_LEN	36		/* as text */

/* Is an event of this type about webhooks themselves? */
static inline bool
cwh_is_own_type(const char *type)
{
	return strncmp(type, "webhook.", strlen("webhook.")) == 0;
}

extern void cwh_envelope_write(StringInfo out, const CwhEvent *event);
extern Jsonb *cwh_envelope_jsonb(const CwhEvent *event);
extern bool cwh_json_fits(Jsonb *value, size_t limit);
extern void cwh_json_write(StringInfo out, Jsonb *value);
extern void cwh_json_write_string(StringInfo out, const char *string, size_t len);
extern void cwh_uuidv7(pg_uuid_t *uuid, TimestampTz at);

/* Write a UUID in its usual notation, in lower case. */
static inline void
cwh_uuid_text(const pg_uuid_t *uuid, char out[CWH_UUID_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = digits[uuid->data[i] >> 4];
		*out++ = digits[uuid->data[i] & 0xf];
	}
	*out = '\0';
}

#endif							/* CWH_ENVELOPE_H */
