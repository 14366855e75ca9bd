/*
 * memory.h
 *		What connectors remember of conversations.
 *
 * All functions must be called in a transaction that is connected to SPI.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_MEMORY_H
#define CWH_MEMORY_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

/* Identifies a memory: a webhook's, of one conversation of one chatbot. */
typedef struct CwhMemoryKey
{
	const pg_uuid_t *webhook_id;
	const char *chatbot_id;		/* or null */
	const char *conversation_id;	/* null: nothing is remembered */
} CwhMemoryKey;

extern Jsonb *cwh_memory_read(const CwhMemoryKey *key, bool *fresh);
extern bool cwh_memory_lock(const CwhMemoryKey *key);
extern bool cwh_memory_write(const CwhMemoryKey *key, const Jsonb *learned);

#endif							/* CWH_MEMORY_H */
