/*
 * secrets.h
 *		Reads the key file, and opens secrets that are sealed with its keys.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SECRETS_H
#define CWH_SECRETS_H

#include "utils/uuid.h"

#include "vault.h"

extern char *cwh_vault_reveal(const pg_uuid_t *webhook_id, const char *name,
							  const bytea *sealed, const char **problem);

#endif							/* CWH_SECRETS_H */
