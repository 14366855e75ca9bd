/*
 * customer.h
 *		Whose webhooks hold how many of the worker's slots, and how much memory.
 *
 * A customer is all webhooks with the same chatbot_id, or one webhook without.
 * Requests cannot be taken back, and one that hangs lasts until its timeout.  So
 * a customer must leave something for the others, whether there are any or not:
 * cwh_share() keeps a reserve; the more a customer holds, the less of it that
 * customer gets.  Otherwise customers, and within each of them its webhooks,
 * take turns.
 *
 * All of this is the worker's own; nothing in here locks.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_CUSTOMER_H
#define CWH_CUSTOMER_H

#include "lib/ilist.h"

/* The reserve is this part of the whole. */
#define RESERVE_SHARE		8

/* A list of endpoints that take turns, and its place in a list of customers. */
typedef struct Turns
{
	dlist_head	endpoints;
	int			n;
	bool		listed;
	dlist_node	node;
} Turns;

/* By whether endpoints are proven, where there are two. */
typedef struct Customer
{
	uint64		key;			/* hash key */
	int			nendpoints;
	int			ndeliveries;	/* that were claimed for it */
	int			nstarted[2];	/* requests under way */
	int			nheld[2];		/* the same, and deliveries waiting */
	int			nhungry[2];
	size_t		body_bytes;		/* of its deliveries */
	size_t		needed_bytes;	/* of one that there was no room for; or 0 */
	Turns		ready[2];
	Turns		startable[2];
} Customer;

/* How much more may a customer have, of a total of which so much is taken? */
static inline int
cwh_share(int total, int taken, int mine)
{
	int			reserve = (total + RESERVE_SHARE / 2) / RESERVE_SHARE;
	int			left = total - taken;

	if (left > reserve)
		return left - reserve;
	return Max(0, Min(left, Max(1, left / RESERVE_SHARE) - mine));
}

/* Put an endpoint in line, behind the others, or take it out. */
static inline void
cwh_set_turn(dlist_head *customers, Turns *turns, dlist_node *node,
			 bool *is_in, bool should_be)
{
	if (should_be == *is_in)
		return;
	if (should_be)
		dlist_push_tail(&turns->endpoints, node);
	else
		dlist_delete(node);
	turns->n += should_be ? 1 : -1;
	*is_in = should_be;

	/* a customer that has had its turn goes behind the others */
	if (turns->listed && !should_be)
	{
		dlist_delete(&turns->node);
		turns->listed = false;
	}
	if (!turns->listed && turns->n > 0)
	{
		dlist_push_tail(customers, &turns->node);
		turns->listed = true;
	}
}

#endif							/* CWH_CUSTOMER_H */
