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

/* What is read of a memory, or added to it. */
typedef struct CwhMemory
{
	CwhMemoryKey key;
	Jsonb	   *value;			/* an object; null: nothing is remembered */
	bool		fresh;			/* read: the same need not be written again */
	bool		full;			/* written: it would have become too large */
} CwhMemory;

extern void cwh_memory_read(CwhMemory *memories, int n);
extern bool cwh_memory_lock(const CwhMemoryKey *key);
extern void cwh_memory_write(CwhMemory *memories, int n);

#endif							/* CWH_MEMORY_H */
