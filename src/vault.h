/*
 * vault.h
 *		Secrets at rest.  Pure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_VAULT_H
#define CWH_VAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include <openssl/crypto.h>

typedef struct CwhVaultKey
{
	unsigned char key[32];
	unsigned char id[8];		/* names the key without revealing it */
} CwhVaultKey;

typedef enum CwhVaultResult
{
	CWH_VAULT_OK,
	CWH_VAULT_MALFORMED,		/* not a sealed value at all */
	CWH_VAULT_NO_KEY,			/* sealed under a key that we do not have */
	CWH_VAULT_WRONG				/* changed, or of another webhook or name */
} CwhVaultResult;

extern const char *cwh_vault_check_file(const struct stat *status, uid_t server);
extern int	cwh_vault_parse_keys(const char *input, size_t len,
								 CwhVaultKey *keys, int max,
								 const char **problem);
extern bool cwh_vault_seal(const CwhVaultKey *key,
						   const unsigned char webhook_id[16],
						   const char *name, const void *plain, size_t len,
						   unsigned char *out);
extern CwhVaultResult cwh_vault_open(const CwhVaultKey *keys, int nkeys,
									 const unsigned char webhook_id[16],
									 const char *name,
									 const void *sealed, size_t len,
									 unsigned char *out, size_t *out_len,
									 const char **problem);
extern bool cwh_vault_is_current(const CwhVaultKey *keys, int nkeys,
								 const void *sealed, size_t len);

/* The size of a sealed value, less that of its secret. */
#define CWH_PLAIN_OVERHEAD		1	/* the format's version */
#define CWH_SEALED_OVERHEAD		(1 + 8 + 12 + 16)	/* version, key id, nonce, tag */

/* The size of a sealed value. */
static inline size_t
cwh_vault_sealed_len(size_t plain_len, bool encrypted)
{
	return plain_len + (encrypted ? CWH_SEALED_OVERHEAD : CWH_PLAIN_OVERHEAD);
}

/* Overwrite a secret, whatever the compiler thinks of that. */
static inline void
cwh_cleanse(void *memory, size_t len)
{
	OPENSSL_cleanse(memory, len);
}

#endif							/* CWH_VAULT_H */
