/*
 * retry.h
 *		When to try again.  Pure.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_RETRY_H
#define CWH_RETRY_H

#include <stddef.h>
#include <stdint.h>

typedef struct CwhRetryPolicy
{
	int			max_retries;	/* retries after the first attempt */
	int64_t		backoff_ms;		/* wait before the first retry */
	double		multiplier;		/* growth of the wait, before jitter */
	int64_t		max_backoff_ms; /* no wait of our own is longer */
	const int64_t *delays_ms;	/* the waits before max_retries retries,
								 * instead of the above; null: not listed */
} CwhRetryPolicy;

/* A receiver's Retry-After is obeyed up to this long. */
#define CWH_RETRY_AFTER_CAP_S	3600

extern int64_t cwh_next_retry(const CwhRetryPolicy *policy, int retries,
							  int64_t previous_wait_ms, double random01,
							  int64_t retry_after_s);
extern int64_t cwh_retry_wait(const CwhRetryPolicy *policy,
							  int64_t previous_wait_ms, double random01,
							  int64_t retry_after_s);
extern int64_t cwh_retry_after(const char *value, size_t len, int64_t now);

#endif							/* CWH_RETRY_H */
