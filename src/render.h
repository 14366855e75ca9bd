/*
 * render.h
 *		Asks the connectors of deliveries what to send next.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_RENDER_H
#define CWH_RENDER_H

#include "connector.h"
#include "endpoint.h"

/* What a connector has said, or "error" instead of it. */
typedef void (*CwhOnRendered) (Delivery *delivery, const char *error);

extern bool cwh_connector_slow(const Endpoint *endpoint);
extern void cwh_render_later(Delivery *delivery);
extern bool cwh_render_due(void);
extern void cwh_render(CwhOnRendered each);

#endif							/* CWH_RENDER_H */
