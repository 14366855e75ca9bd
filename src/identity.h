/*
 * identity.h
 *		Is this database a copy of another one?
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_IDENTITY_H
#define CWH_IDENTITY_H

#include "state.h"

/*
 * Ids taken from the clock are far above this, which is in January 2026.  Ids
 * taken from the sequence, while the library is not preloaded, are far below.
 */
#define CWH_MIN_CLOCK_ID	(INT64CONST(1) << 40)

/* Was a delivery emitted before the extension was created in this database? */
static inline bool
cwh_is_foreign(int64 id)
{
	return id <= cwh_worker.first_delivery && id >= CWH_MIN_CLOCK_ID;
}

extern void cwh_identify(void);
extern void cwh_note_foreign(void);

#endif							/* CWH_IDENTITY_H */
