/*
 * settings.h
 *		The settings, chatwebhook.*; settings.c describes them.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_SETTINGS_H
#define CWH_SETTINGS_H

#include "target.h"
#include "traceparent.h"

/* The version of this library, and of the SQL that comes with it. */
#define CWH_VERSION	"1.0.0"

/* The upper bound of chatwebhook.workers. */
#define CWH_MAX_WORKERS	16

/* The upper bounds of columns of webhook, for all. */
#define CWH_MAX_RETRIES		100
#define CWH_MAX_WINDOW		1024
#define CWH_MAX_TIMEOUT_MS	300000

typedef enum CwhLogAttempts
{
	CWH_LOG_NONE,
	CWH_LOG_FAILURES,
	CWH_LOG_ALL
} CwhLogAttempts;

typedef enum CwhValidation
{
	CWH_VALIDATION_OFF,
	CWH_VALIDATION_WARNING,
	CWH_VALIDATION_ERROR
} CwhValidation;

/* What a trigger does about an event that it cannot emit. */
typedef enum CwhOnEmitError
{
	CWH_ON_EMIT_ERROR_WARN,
	CWH_ON_EMIT_ERROR_RAISE
} CwhOnEmitError;

extern bool cwh_enabled;
extern char *cwh_databases;
extern int	cwh_workers;
extern int	cwh_max_in_flight;
extern int	cwh_poll_interval;	/* ms */
extern int	cwh_max_payload_size;
extern int	cwh_max_response_size;
extern int	cwh_connector_timeout;	/* ms */
extern int	cwh_retention;		/* seconds; -1: forever */
extern int	cwh_attempt_retention;	/* likewise */
extern int	cwh_dead_letter_retention;	/* likewise */
extern int	cwh_alert_failures; /* 0: never */
extern int	cwh_alert_backlog;	/* seconds; 0: never */
extern int	cwh_breaker_threshold;	/* 0: never */
extern int	cwh_max_customer_in_flight;
extern int	cwh_max_customer_timeout;	/* ms */
extern int	cwh_max_customer_retries;
extern int	cwh_max_customer_pending;	/* -1: no limit */
extern char *cwh_ca_file;
extern char *cwh_proxy;
extern int	cwh_log_attempts;
extern int	cwh_validation;
extern int	cwh_on_emit_error;
extern int	cwh_emit_timeout;	/* ms */
extern char *cwh_user_agent;
extern char *cwh_secret_key_file;
extern char *cwh_traceparent;
extern char *cwh_schema_validator;
extern bool cwh_outbox;
extern int	cwh_outbox_keep;	/* seconds */

extern void cwh_define_settings(void);
extern const CwhTargetPolicy *cwh_target_policy(void);

/* Is the data of events checked against the schemas of their types? */
static inline bool
cwh_uses_validator(void)
{
	return cwh_schema_validator[0] != '\0' &&
		cwh_validation != CWH_VALIDATION_OFF;
}

/* The session's trace context; null if it has none, or a malformed one. */
static inline const char *
cwh_valid_traceparent(void)
{
	return cwh_traceparent[0] != '\0' && cwh_is_traceparent(cwh_traceparent) ?
		cwh_traceparent : NULL;
}

#endif							/* CWH_SETTINGS_H */
