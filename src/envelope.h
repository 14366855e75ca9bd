/*
 * envelope.h
 *		An event as the bytes to be sent.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ENVELOPE_H
#define CWH_ENVELOPE_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

typedef struct CwhEvent
{
	pg_uuid_t	id;
	const char *type;
	const char *chatbot_id;		/* may be null */
	const char *conversation_id;	/* may be null */
	TimestampTz created_at;
	Jsonb	   *data;
} CwhEvent;

extern void cwh_envelope_write(StringInfo out, const CwhEvent *event);
extern Jsonb *cwh_envelope_jsonb(const CwhEvent *event);
extern bool cwh_json_fits(Jsonb *value, size_t limit);
extern void cwh_json_write(StringInfo out, Jsonb *value);
extern void cwh_json_write_string(StringInfo out, const char *string, size_t len);
extern void cwh_uuidv7(pg_uuid_t *uuid, TimestampTz at);
extern void cwh_uuid_text(const pg_uuid_t *uuid, char out[37]);

#endif							/* CWH_ENVELOPE_H */
