/*
 * progress.h
 *		How far a function is that acts on many rows.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_PROGRESS_H
#define CWH_PROGRESS_H

extern void cwh_progress_step(void);

#endif							/* CWH_PROGRESS_H */
