/*
 * secrets.c
 *		Reads the key file; SQL functions that seal and open secrets.
 *
 * vault.c encrypts and decrypts; this file provides the keys.  It reads them
 * from chatwebhook.secret_key_file when they are first needed in a process, and
 * again after the file or the setting has changed.  Keys never leave the
 * process.  Buffers that held a key or a secret are overwritten, except for
 * arguments and results of SQL functions.
 *
 * It runs in sessions and in workers, and touches no table.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "compat.h"
#include "secrets.h"
#include "settings.h"
#include "sign.h"
#include "vault.h"

PG_FUNCTION_INFO_V1(chatwebhook_seal);
PG_FUNCTION_INFO_V1(chatwebhook_seal_new);
PG_FUNCTION_INFO_V1(chatwebhook_reseal);
PG_FUNCTION_INFO_V1(chatwebhook_open);
PG_FUNCTION_INFO_V1(chatwebhook_is_current);
PG_FUNCTION_INFO_V1(chatwebhook_encrypts);
PG_FUNCTION_INFO_V1(chatwebhook_public_key);

#define MAX_KEYS		16
#define MAX_KEY_FILE	(16 * 1024)

static CwhVaultKey keys[MAX_KEYS];	/* the current one first */
static int	nkeys = 0;
static struct stat read_from;	/* of the file when the keys were read */
static char read_name[MAXPGPATH];	/* the file's name then; "" if no keys */

/*
 * Is this the file that the keys were read from, unchanged?  A file that has
 * replaced it may have the same inode, the same size and, in whole seconds, the
 * same times.
 */
static bool
is_same_file(const struct stat *status)
{
	return status->st_ino == read_from.st_ino &&
		status->st_size == read_from.st_size &&
		status->st_mtim.tv_sec == read_from.st_mtim.tv_sec &&
		status->st_mtim.tv_nsec == read_from.st_mtim.tv_nsec &&
		status->st_ctim.tv_sec == read_from.st_ctim.tv_sec &&
		status->st_ctim.tv_nsec == read_from.st_ctim.tv_nsec;
}

/* Forget the keys. */
static void
forget_keys(void)
{
	cwh_cleanse(keys, sizeof(keys));
	nkeys = 0;
	memset(&read_from, 0, sizeof(read_from));
	read_name[0] = '\0';
}

/* Read the keys of an open file.  Returns null, or the reason why it has none. */
static const char *
parse_keys(int fd)
{
	static char content[MAX_KEY_FILE + 1];
	const char *problem = NULL;
	ssize_t		len = read(fd, content, sizeof(content));

	if (len < 0)
		problem = psprintf("could not read it: %m");
	else if (len > MAX_KEY_FILE)
		problem = "it is too long";
	else
	{
		nkeys = cwh_vault_parse_keys(content, len, keys, MAX_KEYS, &problem);
		if (nkeys < 0)
			nkeys = 0;
		else if (nkeys == 0)
			problem = "it has no key";
	}
	cwh_cleanse(content, sizeof(content));
	return problem;
}

/*
 * Read the key file.  Returns null, or the reason why it is unusable.  It may be
 * a symbolic link, as all files are that Kubernetes mounts from a secret.
 */
static const char *
read_keys(const char *name)
{
	const char *problem;
	struct stat status;
	int			fd;

	fd = BasicOpenFile(name, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return psprintf("could not open it: %m");
	if (fstat(fd, &status) < 0)
		problem = psprintf("could not stat it: %m");
	else
		problem = cwh_vault_check_file(&status, geteuid());
	if (problem == NULL)
		problem = parse_keys(fd);
	if (problem == NULL)
	{
		read_from = status;
		strlcpy(read_name, name, sizeof(read_name));
	}
	close(fd);
	return problem;
}

/*
 * Get the keys, the current one first.  There are none if no key file is set.
 * Returns null, or the reason why the file is unusable.
 */
static const char *
vault_keys(const CwhVaultKey **result, int *n)
{
	struct stat status;
	const char *problem = NULL;

	if (cwh_secret_key_file == NULL || cwh_secret_key_file[0] == '\0')
		forget_keys();
	else if (strcmp(read_name, cwh_secret_key_file) != 0 ||
			 stat(cwh_secret_key_file, &status) < 0 || !is_same_file(&status))
	{
		forget_keys();
		problem = read_keys(cwh_secret_key_file);
	}
	*result = keys;
	*n = nkeys;
	return problem;
}

/* Get the keys; an error if the file is unusable. */
static void
get_keys(const CwhVaultKey **result, int *n)
{
	const char *problem = vault_keys(result, n);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("cannot use the key file of chatwebhook.secret_key_file: %s",
						problem),
				 errhint("Give it a line with 64 hexadecimal digits, such as \"openssl rand -hex 32\" writes. The file must have mode 0600 or less and belong to the server's user, or 0640 or less and belong to root.")));
}

/*
 * Open a sealed secret.  Returns a palloc'd string, which the caller must
 * cleanse; or null, and sets *problem.
 */
char *
cwh_vault_reveal(const pg_uuid_t *webhook_id, const char *name,
				 const bytea *sealed, const char **problem)
{
	const CwhVaultKey *k;
	int			n;
	size_t		len = VARSIZE_ANY_EXHDR(sealed);
	char	   *plain;

	*problem = vault_keys(&k, &n);
	if (*problem)
		return NULL;
	plain = palloc(len + 1);
	if (cwh_vault_open(k, n, webhook_id->data, name, VARDATA_ANY(sealed), len,
					   (unsigned char *) plain, &len, problem) != CWH_VAULT_OK)
	{
		pfree(plain);
		return NULL;
	}
	plain[len] = '\0';
	return plain;
}

/* Seal a secret under the current key. */
static bytea *
seal(const pg_uuid_t *webhook_id, const char *name, const char *secret,
	 size_t secret_len)
{
	const CwhVaultKey *k;
	int			n;
	size_t		len;
	bytea	   *sealed;

	get_keys(&k, &n);
	len = cwh_vault_sealed_len(secret_len, n > 0);
	sealed = palloc(VARHDRSZ + len);
	SET_VARSIZE(sealed, VARHDRSZ + len);
	if (!cwh_vault_seal(n > 0 ? k : NULL, webhook_id->data, name, secret,
						secret_len, (unsigned char *) VARDATA(sealed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not encrypt a secret")));
	return sealed;
}

/* Open a sealed secret; an error if that fails. */
static char *
reveal(const pg_uuid_t *webhook_id, const char *name, const bytea *sealed)
{
	const char *problem;
	char	   *plain = cwh_vault_reveal(webhook_id, name, sealed, &problem);

	if (plain == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("cannot open the secret \"%s\": %s", name, problem),
				 errhint("Put the key that it was sealed with back into the file of chatwebhook.secret_key_file, or set the secret anew.")));
	return plain;
}

/* SQL: seal a secret for a row of the vault. */
Datum
chatwebhook_seal(PG_FUNCTION_ARGS)
{
	text	   *secret = PG_GETARG_TEXT_PP(2);

	PG_RETURN_BYTEA_P(seal(PG_GETARG_UUID_P(0),
						   text_to_cstring(PG_GETARG_TEXT_PP(1)),
						   VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret)));
}

/*
 * SQL: generate a secret or key for that name in the vault and seal it,
 * leaving no copy in memory.
 */
Datum
chatwebhook_seal_new(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char		secret[CWH_SECRET_LEN + 1];
	bytea	   *sealed;

	if (!cwh_secret_generate(strcmp(name, "signing_key") == 0, secret))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a secret")));
	sealed = seal(PG_GETARG_UUID_P(0), name, secret, strlen(secret));
	cwh_cleanse(secret, sizeof(secret));
	PG_RETURN_BYTEA_P(sealed);
}

/* SQL: seal a secret again, under the current key, leaving no copy either. */
Datum
chatwebhook_reseal(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *webhook_id = PG_GETARG_UUID_P(0);
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *plain = reveal(webhook_id, name, PG_GETARG_BYTEA_PP(2));
	bytea	   *sealed = seal(webhook_id, name, plain, strlen(plain));

	cwh_cleanse(plain, strlen(plain));
	PG_RETURN_BYTEA_P(sealed);
}

/* SQL: open a secret of the vault. */
Datum
chatwebhook_open(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *plain = reveal(PG_GETARG_UUID_P(0), name, PG_GETARG_BYTEA_PP(2));
	text	   *result;

	result = cstring_to_text(plain);
	cwh_cleanse(plain, strlen(plain));
	PG_RETURN_TEXT_P(result);
}

/* SQL: is a secret sealed as a new one would be, under the current key if any? */
Datum
chatwebhook_is_current(PG_FUNCTION_ARGS)
{
	bytea	   *sealed = PG_GETARG_BYTEA_PP(0);
	const CwhVaultKey *k;
	int			n;

	get_keys(&k, &n);
	PG_RETURN_BOOL(cwh_vault_is_current(k, n, VARDATA_ANY(sealed),
										VARSIZE_ANY_EXHDR(sealed)));
}

/* SQL: are secrets encrypted?  Null if the key file is unusable. */
Datum
chatwebhook_encrypts(PG_FUNCTION_ARGS)
{
	const CwhVaultKey *k;
	int			n;

	if (vault_keys(&k, &n) != NULL)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(n > 0);
}

/* SQL: the public key of a private key; null if this is not a private key. */
Datum
chatwebhook_public_key(PG_FUNCTION_ARGS)
{
	text	   *secret = PG_GETARG_TEXT_PP(0);
	char		public[CWH_PUBLIC_KEY_LEN + 1];

	if (!cwh_public_key(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), public))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(public));
}
