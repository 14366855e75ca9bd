/*
 * bounds.h
 *		How much a row of the table webhook, and its credentials, may hold.
 *
 * Whoever writes a row is told when it is stored: by SQL, which asks the
 * functions here.  A row can also bypass that, by a restore or replication, so
 * sizes are checked again when it is loaded: of each column, of all secrets
 * together, and of lines with their credentials filled in.  Nesting, and the
 * size of a single credential, are checked only when they are stored.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_BOUNDS_H
#define CWH_BOUNDS_H

#include "utils/jsonb.h"

/* Bytes of settings, of headers, and of auth: as jsonb, and as JSON. */
#define CWH_MAX_JSON			(64 * 1024)

/* The levels that these may be nested. */
#define CWH_MAX_DEPTH			32

/* Bytes of a name, a chatbot's id, and the like; the table has it as well. */
#define CWH_MAX_NAME			1024

/* Bytes of the array of patterns in events; SQL checks their number and length. */
#define CWH_MAX_EVENTS_SIZE		(64 * 1024)

/* Bytes of the array of retry_delays; SQL checks its number and values. */
#define CWH_MAX_DELAYS_SIZE		4096

/* Bytes of a URL as it is stored; libcurl gets CWH_MAX_URL_LEN at most. */
#define CWH_MAX_URL				(16 * 1024)

/*
 * Bytes of a credential that is sent, of a certificate or key, and of all of a
 * webhook's secrets together.
 */
#define CWH_MAX_CREDENTIAL		(8 * 1024)
#define CWH_MAX_PEM				(32 * 1024)
#define CWH_MAX_SECRETS			(96 * 1024)

/* Bytes of a line with its credentials filled in, and of all of a webhook's. */
#define CWH_MAX_LINE			(16 * 1024)
#define CWH_MAX_LINES			(64 * 1024)

/* Characters of an event's type; the SQL has the same limit. */
#define CWH_MAX_TYPE			255

/* Computed values in all of a webhook's headers. */
#define CWH_MAX_COMPUTED		20

extern const char *cwh_header_problem(Jsonb *headers, bool of_connector);
extern const char *cwh_computed_problem(Jsonb *headers);

/* Is this the header Content-Type? */
static inline bool
cwh_is_content_type(const char *name)
{
	return pg_strcasecmp(name, "Content-Type") == 0;
}

/* Can this stand in a line of a request: printable ASCII? */
static inline bool
cwh_is_printable(const char *line)
{
	for (const char *c = line; *c; c++)
		if (*c < ' ' || *c > '~')
			return false;
	return true;
}

#endif							/* CWH_BOUNDS_H */
