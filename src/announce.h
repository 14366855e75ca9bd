/*
 * announce.h
 *		Events about deliveries: webhook.exhausted and webhook.recovered.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_ANNOUNCE_H
#define CWH_ANNOUNCE_H

#include "endpoint.h"

/* in a transaction, before the outcome is committed */
extern bool cwh_exhausted_wanted(const Delivery *delivery);
extern bool cwh_recovered_wanted(const Endpoint *endpoint);

/* once it is */
extern void cwh_note_exhausted(const Delivery *delivery);
extern void cwh_note_recovered(Endpoint *endpoint, const CwhHealthGain *gain);

extern bool cwh_any_announcements(void);
extern void cwh_announce(void);
extern void cwh_end_announce(void);

#endif							/* CWH_ANNOUNCE_H */
