/*
 * conversation.h
 *		Claims what follows in ordered conversations, without SQL.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CONVERSATION_H
#define CWH_CONVERSATION_H

#include "outbox.h"

/* Claim the first delivery of a conversation, if it is due. */
typedef struct CwhWantNext
{
	pg_uuid_t	webhook_id;
	const char *conversation_id;
} CwhWantNext;

extern void cwh_claim_next(const CwhWantNext *wants, int n, TimestampTz now,
						   CwhMayClaim may, CwhOnClaimed each, void *context);

#endif							/* CWH_CONVERSATION_H */
