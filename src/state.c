/*
 * state.c
 *		The state of a worker's process.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "state.h"

Worker		cwh_worker;
volatile sig_atomic_t cwh_worker_terminate = false;
