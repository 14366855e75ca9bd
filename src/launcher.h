/*
 * launcher.h
 *		The process that starts workers where they are needed.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_LAUNCHER_H
#define CWH_LAUNCHER_H

extern void cwh_launcher_register(void);

#endif							/* CWH_LAUNCHER_H */
