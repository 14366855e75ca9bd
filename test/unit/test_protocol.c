/*
 * test_protocol.c
 *		Every interleaving of claims, sends, settles and crashes, in a model.
 *
 * Two workers deliver what two ordered events of one conversation, and perhaps
 * a third event, owe to one webhook.  The search below visits every state that
 * they can get into, however their steps, the commits of the events and a crash
 * or two fall between each other, and looks for
 *
 *	loss		a delivery that is recorded as delivered, and was not received;
 *	claimed twice	two live workers that hold one delivery at once;
 *	order		the second of the conversation sent while the first, which was
 *				there to be seen when it was claimed, is not settled, or the
 *				first received behind the second;
 *	a repeat	that neither a crash nor a lost reply accounts for;
 *	stuck		a state from which the end, with everything delivered or dead
 *				and nothing claimed, is not to be reached without another crash.
 *
 * The steps are those of the code:
 *
 *	emit		the commit of emit.c's transaction.  The id was given out before
 *				(cwh_next_id), so a smaller one may come after a larger one
 *	begin		transact() of worker.c: cwh_queue_settle() writes, and so locks,
 *				the rows of what has ended, but for those that are locked
 *				("careful"); then comes the snapshot of cwh_claim_due() or
 *				cwh_claim_next(), which sees what this transaction has settled.
 *				What others do between the two is as if done before
 *	take		lock_delivery(), which skips rows that are locked, and those that
 *				have changed since the snapshot, and cwh_claim().  Since the row
 *				stays locked between the two, they are one step here
 *	commit		CommitTransactionCommand() in cwh_commit(): others see it,
 *				and it may yet be lost
 *	keep		XLogFlush(), and keep_work() of worker.c
 *	abort		the PG_CATCH() of transact(): undo_claims(), results stay
 *	send		start_attempt() to apply_ending(): the receiver gets it and
 *				the reply arrives or does not, or it does not get it, or it
 *				refuses it for good (dead).  The request arrives, if at all,
 *				before the worker knows how it ended
 *	leave		holder_exit(), at any place: SIGTERM, FATAL
 *	crash		the server's: shared memory is gone, and of the commits that were
 *				not flushed any number of the last ones
 *
 * What is left out: time (a retry is due at once, and so may always be claimed
 * or not), the cursor, hints and sweep that say where to look (a worker may
 * always look at every row; so this says nothing of how soon), windows, gates
 * and limits, requests of several steps, cancel() and retry(), and requests
 * that arrive after their sender has given them up.  A worker restarts as the
 * one that ended.  Both workers are alike, so states that differ by who is who
 * are one.
 *
 * That the model would find a fault is checked, too: it is searched without
 * each guard in turn, and has to find what that guard prevents.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include <inttypes.h>
#include <stdlib.h>

#include "tap.h"

#define WORKERS		2
#define DELIVERIES	3			/* at most; 0 and 1 are of one conversation */
#define MAX_ATTEMPTS 2
#define MAX_CRASHES	2			/* at most */
#define MAX_LOG		(WORKERS + MAX_CRASHES)

/* Guards that can be left out. */
enum
{
	NO_CLAIM_TABLE = 1 << 0,	/* cwh_claim() and _claimed() see nothing */
	NO_ROW_LOCK = 1 << 1,		/* no FOR UPDATE, and so no second look */
	NO_ORDER_CHECK = 1 << 2,	/* no NOT EXISTS (what came before) */
	NO_RECLAIM = 1 << 3,		/* no cwh_claim_release(NULL, -1) at exit */
	NO_UNDO = 1 << 4,			/* no undo_claims() in cwh_end_claims() */
	NO_RELEASE = 1 << 5,		/* no cwh_claim_release() in strike_out_results() */
	NO_FLUSH = 1 << 6,			/* no XLogFlush() before anything is sent */
	EARLY_RELEASE = 1 << 7,		/* given up when the request ends */
	LATE_CLAIM = 1 << 8,		/* cwh_claim() after the commit */
	NO_FILTER = 1 << 9			/* cwh_claim_due() without cwh_is_claimed() */
};

typedef enum
{
	FINE, LOSS, CLAIMED_TWICE, ORDER, REPEAT, STUCK, TOO_MANY
} Finding;

static const char *const finding_names[] = {
	"nothing", "loss", "claimed twice", "order", "a repeat", "stuck",
	"too many states"
};

/* A row of the queue; PENDING + n: after n attempts. */
enum
{
	ABSENT, DELIVERED, DEAD, PENDING
};

/* What a worker has of a delivery. */
enum
{
	NOTHING, TAKEN,				/* in a transaction that is not committed */
	WAITING, GOOD, FAILED, REFUSED	/* the last three are to be settled */
};

/* Where a worker is. */
enum
{
	IDLE, IN_TRANSACTION, COMMITTED
};

typedef struct
{
	uint8_t		phase;
	uint8_t		flush_to;		/* COMMITTED: the version that is to be on disk */
	uint8_t		has[DELIVERIES];
	uint8_t		settling;		/* bits: in this transaction */
	uint8_t		seen;			/* bits: pending in the snapshot */
} Worker;

typedef struct
{
	/* versions of the queue, from the last one on disk to the one seen by all */
	uint8_t		rows[MAX_LOG + 1][DELIVERIES];
	uint8_t		nunflushed;
	uint8_t		claims[DELIVERIES]; /* 1 + worker; 0: nobody's */
	uint8_t		received;		/* bits */
	uint8_t		excused;		/* bits: a repeat is to be expected */
	bool		behind;			/* 0 was to be seen when 1 was claimed first */
	uint8_t		crashes;
	Worker		workers[WORKERS];
} State;

/* A state as it is stored. */
typedef struct
{
	uint64_t	words[2];
} Packed;

static const char *const step_names[] = {
	"start", "emit", "begin", "take", "commit", "keep", "abort",
	"send: received, reply", "send: received, reply lost", "send: not received", "send: refused", "leave", "crash"
};
enum
{
	START, EMIT, BEGIN, TAKE, COMMIT, KEEP, ABORT,
	SEND_GOOD, SEND_LOST, SEND_FAILED, SEND_REFUSED, LEAVE, CRASH
};

/* The search. */
#define MAX_STATES	(1 << 22)
#define HASH_SIZE	(1 << 23)

static Packed *states;
static uint32_t *parents;
static uint8_t *steps;			/* by which each was reached */
static uint32_t *table;
static uint32_t nstates;
static uint32_t (*edges)[2];	/* without crashes */
static size_t nedges;
static size_t max_edges;
static int	ndeliveries;
static int	max_crashes;
static int	without;			/* which guards */
static uint32_t current;
static Finding finding;
static uint32_t found_at;

/*
 * States
 */

/* Write or read a field of a stored state. */
static void
put(Packed *packed, int *at, int width, unsigned value)
{
	packed->words[*at / 64] |= (uint64_t) value << (*at % 64);
	*at += width;
}

static unsigned
get(const Packed *packed, int *at, int width)
{
	unsigned	value = (packed->words[*at / 64] >> (*at % 64)) & ((1u << width) - 1);

	*at += width;
	return value;
}

/* All but the workers and their claims goes to the first word. */
static Packed
pack_as(const State *state, int first)
{
	Packed		packed = {{0, 0}};
	int			at = 0;

	for (int v = 0; v <= MAX_LOG; v++)
		for (int d = 0; d < ndeliveries; d++)
			put(&packed, &at, 3, v <= state->nunflushed ? state->rows[v][d] : 0);
	put(&packed, &at, 3, state->nunflushed);
	put(&packed, &at, 3, state->received);
	put(&packed, &at, 3, state->excused);
	put(&packed, &at, 1, state->behind);
	put(&packed, &at, 2, state->crashes);
	at = 64;
	for (int i = 0; i < WORKERS; i++)
	{
		const Worker *worker = &state->workers[i ^ first];

		put(&packed, &at, 2, worker->phase);
		put(&packed, &at, 3, worker->flush_to);
		for (int d = 0; d < ndeliveries; d++)
			put(&packed, &at, 3, worker->has[d]);
		put(&packed, &at, 3, worker->settling);
		put(&packed, &at, 3, worker->seen);
	}
	for (int d = 0; d < ndeliveries; d++)
		put(&packed, &at, 2, state->claims[d] == 0 ? 0 :
			1 + ((state->claims[d] - 1) ^ first));
	return packed;
}

/* The same whichever worker is called the first. */
static Packed
pack(const State *state)
{
	Packed		a = pack_as(state, 0);
	Packed		b = pack_as(state, 1);

	return memcmp(&a, &b, sizeof(Packed)) <= 0 ? a : b;
}

static void
unpack(const Packed *packed, State *state)
{
	int			at = 0;

	memset(state, 0, sizeof(State));
	for (int v = 0; v <= MAX_LOG; v++)
		for (int d = 0; d < ndeliveries; d++)
			state->rows[v][d] = get(packed, &at, 3);
	state->nunflushed = get(packed, &at, 3);
	state->received = get(packed, &at, 3);
	state->excused = get(packed, &at, 3);
	state->behind = get(packed, &at, 1);
	state->crashes = get(packed, &at, 2);
	at = 64;
	for (int i = 0; i < WORKERS; i++)
	{
		Worker	   *worker = &state->workers[i];

		worker->phase = get(packed, &at, 2);
		worker->flush_to = get(packed, &at, 3);
		for (int d = 0; d < ndeliveries; d++)
			worker->has[d] = get(packed, &at, 3);
		worker->settling = get(packed, &at, 3);
		worker->seen = get(packed, &at, 3);
	}
	for (int d = 0; d < ndeliveries; d++)
		state->claims[d] = get(packed, &at, 2);
}

/* The queue as committed transactions have left it. */
static uint8_t *
queue(State *state)
{
	return state->rows[state->nunflushed];
}

static bool
is_result(int has)
{
	return has >= GOOD;
}

/* Is a row locked by somebody else's transaction? */
static bool
is_locked(const State *state, int w, int d)
{
	for (int i = 0; i < WORKERS; i++)
		if (i != w && state->workers[i].phase == IN_TRANSACTION &&
			((state->workers[i].settling >> d & 1) ||
			 state->workers[i].has[d] == TAKEN))
			return true;
	return false;
}

/*
 * The search
 */

static void
report(Finding what)
{
	if (finding != FINE)
		return;
	finding = what;
	found_at = current;
}

/* A state that follows from the current one. */
static void
reach(const State *state, int step)
{
	Packed		packed = pack(state);
	uint64_t	hash = packed.words[1] * UINT64_C(0x9E3779B97F4A7C15);
	uint32_t	slot;

	hash = (hash ^ packed.words[0]) * UINT64_C(0xD6E8FEB86659FD93);
	slot = (hash >> 32) % HASH_SIZE;
	while (table[slot] != 0 &&
		   memcmp(&states[table[slot] - 1], &packed, sizeof(Packed)) != 0)
		slot = (slot + 1) % HASH_SIZE;
	if (table[slot] == 0)
	{
		if (nstates == MAX_STATES)
		{
			report(TOO_MANY);
			return;
		}
		states[nstates] = packed;
		parents[nstates] = current;
		steps[nstates] = step;
		table[slot] = ++nstates;
	}
	if (step == LEAVE || step == CRASH)
		return;
	if (nedges == max_edges)
	{
		max_edges = max_edges ? 2 * max_edges : 1 << 20;
		edges = realloc(edges, max_edges * sizeof(*edges));
	}
	edges[nedges][0] = current;
	edges[nedges++][1] = table[slot] - 1;
}

/*
 * Steps
 */

/* An event is committed. */
static void
emit_steps(const State *from)
{
	for (int d = 0; d < ndeliveries; d++)
	{
		State		to = *from;

		if (queue(&to)[d] != ABSENT)
			continue;
		/* a commit that waits for the disk takes those before it along */
		memcpy(to.rows[0], queue(&to), DELIVERIES);
		to.nunflushed = 0;
		for (int w = 0; w < WORKERS; w++)
			to.workers[w].flush_to = 0;
		to.rows[0][d] = PENDING;
		if (d == 0)
		{
			/* if the second has been looked at, no order is promised */
			to.behind = to.rows[0][1] == ABSENT ||
				(to.rows[0][1] == PENDING && !(from->received & 2));
			for (int w = 0; w < WORKERS; w++)
				if ((from->workers[w].seen & 2) ||
					from->workers[w].has[1] != NOTHING)
					to.behind = false;
		}
		reach(&to, EMIT);
	}
}

/* Is this result the last that is tried? */
static bool
is_last(State *state, const Worker *worker, int d)
{
	return worker->has[d] == GOOD || worker->has[d] == REFUSED ||
		queue(state)[d] + 1 == PENDING + MAX_ATTEMPTS;
}

/* Begin a transaction, settle what has ended, and look what there is to claim. */
static void
begin_step(const State *from, int w)
{
	State		to = *from;
	Worker	   *worker = &to.workers[w];

	worker->phase = IN_TRANSACTION;
	for (int d = 0; d < ndeliveries; d++)
	{
		if (is_result(worker->has[d]) && !is_locked(from, w, d))
			worker->settling |= 1 << d;
		if (queue(&to)[d] >= PENDING &&
			!((worker->settling >> d & 1) && is_last(&to, worker, d)))
			worker->seen |= 1 << d;
	}
	if (worker->settling || worker->seen)
		reach(&to, BEGIN);
}

/* Lock a row, and claim the delivery. */
static void
take_step(const State *from, int w, int d)
{
	State		to = *from;
	Worker	   *worker = &to.workers[w];

	if (!(worker->seen >> d & 1) || worker->has[d] == TAKEN)
		return;
	if (d == 1 && (worker->seen & 1) && !(without & NO_ORDER_CHECK))
		return;
	if (!(without & (NO_CLAIM_TABLE | NO_FILTER)) && from->claims[d] != 0)
		return;
	if (!(without & NO_ROW_LOCK) &&
		(is_locked(from, w, d) || queue(&to)[d] < PENDING))
		return;
	/* cwh_claim() */
	if (!(without & (NO_CLAIM_TABLE | LATE_CLAIM)) && from->claims[d] != 0)
		return;
	if (worker->has[d] != NOTHING)
		return;					/* without claims: it knows its own */
	if (!(without & LATE_CLAIM))
		to.claims[d] = 1 + w;
	worker->has[d] = TAKEN;
	reach(&to, TAKE);
}

/* What a transaction has settled is so for all. */
static void
commit_step(const State *from, int w)
{
	State		to = *from;
	Worker	   *worker = &to.workers[w];

	if (worker->settling)
	{
		memcpy(to.rows[to.nunflushed + 1], queue(&to), DELIVERIES);
		to.nunflushed++;
	}
	for (int d = 0; d < ndeliveries; d++)
	{
		uint8_t    *row = &queue(&to)[d];

		if (!(worker->settling >> d & 1) || *row < PENDING)
			continue;			/* gone: mark_gone() */
		if (!is_last(&to, worker, d))
			(*row)++;
		else
			*row = worker->has[d] == GOOD ? DELIVERED : DEAD;
		if (*row == DELIVERED && !(from->received >> d & 1))
			report(LOSS);
	}
	worker->phase = COMMITTED;
	worker->flush_to = to.nunflushed;
	worker->seen = 0;
	reach(&to, COMMIT);
}

/* It is on disk: go on from there. */
static void
keep_step(const State *from, int w)
{
	State		to = *from;
	Worker	   *worker = &to.workers[w];
	int			flushed = worker->flush_to;

	if (!(without & NO_FLUSH) && flushed > 0)
	{
		memmove(to.rows[0], to.rows[flushed],
				(to.nunflushed - flushed + 1) * DELIVERIES);
		to.nunflushed -= flushed;
		for (int i = 0; i < WORKERS; i++)
			to.workers[i].flush_to =
				to.workers[i].flush_to > flushed ? to.workers[i].flush_to - flushed : 0;
	}
	for (int d = 0; d < ndeliveries; d++)
	{
		if (worker->settling >> d & 1)
		{
			worker->has[d] = NOTHING;
			if (!(without & NO_RELEASE) && to.claims[d] == 1 + w)
				to.claims[d] = 0;
		}
		else if (worker->has[d] == TAKEN)
		{
			worker->has[d] = WAITING;
			if ((without & LATE_CLAIM) && to.claims[d] != 0)
				worker->has[d] = NOTHING;
			else
				to.claims[d] = 1 + w;
		}
	}
	worker->phase = IDLE;
	worker->flush_to = 0;
	worker->settling = 0;
	/* nobody sees to it that it is: the versions between would grow for ever */
	if (without & NO_FLUSH)
		while (to.nunflushed > 1)
		{
			memmove(to.rows[1], to.rows[2], (MAX_LOG - 1) * DELIVERIES);
			to.nunflushed--;
			for (int i = 0; i < WORKERS; i++)
				if (to.workers[i].flush_to > 1)
					to.workers[i].flush_to--;
		}
	reach(&to, KEEP);
}

/* The transaction fails. */
static void
abort_step(const State *from, int w)
{
	State		to = *from;
	Worker	   *worker = &to.workers[w];

	for (int d = 0; d < ndeliveries; d++)
		if (worker->has[d] == TAKEN)
		{
			worker->has[d] = NOTHING;
			if (!(without & NO_UNDO) && to.claims[d] == 1 + w)
				to.claims[d] = 0;
		}
	worker->phase = IDLE;
	worker->settling = worker->seen = 0;
	reach(&to, ABORT);
}

/* One request, and what the worker knows of it. */
static void
send_steps(const State *from, int w, int d)
{
	static const uint8_t results[] = {GOOD, FAILED, FAILED, REFUSED};
	State		base = *from;

	if (d == 1 && from->behind && queue(&base)[0] >= PENDING)
		report(ORDER);
	for (int how = 0; how < 4; how++)
	{
		State		to = *from;
		int			bit = 1 << d;

		to.workers[w].has[d] = results[how];
		if (how < 2)
		{
			if ((from->received & bit) && !(from->excused & bit))
				report(REPEAT);
			if (d == 0 && !(from->received & 1) && (from->received & 2) &&
				from->behind)
				report(ORDER);
			to.received |= bit;
		}
		if (how == 1)
			to.excused |= bit;
		if (without & EARLY_RELEASE)
			to.claims[d] = 0;
		reach(&to, SEND_GOOD + how);
	}
}

/* A worker ends, and its claims with it; what it had sent may be sent again. */
static void
leave_step(const State *from, int w)
{
	State		to = *from;
	Worker	   *worker = &to.workers[w];

	for (int d = 0; d < ndeliveries; d++)
	{
		if (is_result(worker->has[d]) &&
			!(worker->phase == COMMITTED && (worker->settling >> d & 1)))
			to.excused |= from->received & 1 << d;
		if (!(without & NO_RECLAIM) && to.claims[d] == 1 + w)
			to.claims[d] = 0;
	}
	memset(worker, 0, sizeof(Worker));
	to.crashes++;
	reach(&to, LEAVE);
}

/* The server crashes, and has this version of the queue on disk. */
static void
crash_step(const State *from, int version)
{
	State		to = *from;

	memcpy(to.rows[0], from->rows[version], DELIVERIES);
	to.nunflushed = 0;
	memset(to.claims, 0, sizeof(to.claims));
	memset(to.workers, 0, sizeof(to.workers));
	to.excused |= to.received;
	to.crashes++;
	reach(&to, CRASH);
}

/* Everything that can happen next. */
static void
expand(const State *state)
{
	for (int d = 0; d < ndeliveries; d++)
	{
		int			holders = 0;

		for (int w = 0; w < WORKERS; w++)
			holders += state->workers[w].has[d] >= WAITING &&
				!(state->workers[w].phase == COMMITTED &&
				  (state->workers[w].settling >> d & 1));
		if (holders > 1)
			report(CLAIMED_TWICE);
	}

	emit_steps(state);
	for (int w = 0; w < WORKERS; w++)
	{
		const Worker *worker = &state->workers[w];

		switch (worker->phase)
		{
			case IDLE:
				begin_step(state, w);
				for (int d = 0; d < ndeliveries; d++)
					if (worker->has[d] == WAITING)
						send_steps(state, w, d);
				break;
			case IN_TRANSACTION:
				for (int d = 0; d < ndeliveries; d++)
					take_step(state, w, d);
				commit_step(state, w);
				abort_step(state, w);
				break;
			case COMMITTED:
				keep_step(state, w);
				break;
		}
		if (state->crashes < max_crashes)
			leave_step(state, w);
	}
	if (state->crashes < max_crashes)
		for (int version = 0; version <= state->nunflushed; version++)
			crash_step(state, version);
}

/* Is everything done, and nothing left behind? */
static bool
is_end(const State *state)
{
	for (int d = 0; d < ndeliveries; d++)
	{
		uint8_t		row = state->rows[state->nunflushed][d];

		if ((row != DELIVERED && row != DEAD) || state->claims[d] != 0)
			return false;
	}
	for (int w = 0; w < WORKERS; w++)
		if (state->workers[w].phase != IDLE)
			return false;
	return true;
}

/* From which states is the end to be reached?  Report one from which it is not. */
static void
find_stuck(void)
{
	uint32_t   *first = calloc(nstates + 1, sizeof(uint32_t));
	uint32_t   *before = malloc((nedges + 1) * sizeof(uint32_t));
	uint32_t   *todo = malloc(nstates * sizeof(uint32_t));
	bool	   *good = calloc(nstates, sizeof(bool));
	uint32_t	ntodo = 0;

	for (size_t e = 0; e < nedges; e++)
		first[edges[e][1] + 1]++;
	for (uint32_t i = 0; i < nstates; i++)
		first[i + 1] += first[i];
	for (size_t e = nedges; e-- > 0;)
		before[--first[edges[e][1] + 1]] = edges[e][0];
	/* the entries of i are now from first[i + 1] on to the next one's */
	for (uint32_t i = 0; i < nstates; i++)
	{
		State		state;

		unpack(&states[i], &state);
		good[i] = is_end(&state);
		if (good[i])
			todo[ntodo++] = i;
	}
	while (ntodo > 0)
	{
		uint32_t	i = todo[--ntodo];
		size_t		end = i + 1 < nstates ? first[i + 2] : nedges;

		for (size_t e = first[i + 1]; e < end; e++)
			if (!good[before[e]])
			{
				good[before[e]] = true;
				todo[ntodo++] = before[e];
			}
	}
	for (current = 0; current < nstates && good[current]; current++)
		;
	if (current < nstates)
		report(STUCK);
	free(first);
	free(before);
	free(todo);
	free(good);
}

/* Search everything that can happen without these guards. */
static Finding
search(int deliveries, int crashes, int guards)
{
	State		state;

	ndeliveries = deliveries;
	max_crashes = crashes;
	without = guards;
	finding = FINE;
	nstates = current = 0;
	nedges = 0;
	memset(table, 0, HASH_SIZE * sizeof(uint32_t));
	memset(&state, 0, sizeof(State));
	reach(&state, START);
	nedges = 0;
	for (current = 0; current < nstates && finding == FINE; current++)
	{
		unpack(&states[current], &state);
		expand(&state);
	}
	if (finding == FINE)
		find_stuck();
	return finding;
}

/* The steps that led to what was found. */
static void
show_trace(void)
{
	uint32_t	path[256];
	int			n = 0;

	for (uint32_t i = found_at; n < 256; i = parents[i])
	{
		path[n++] = i;
		if (i == 0)
			break;
	}
	while (n-- > 0)
	{
		State		state;

		unpack(&states[path[n]], &state);
		fprintf(stderr, "# %-28s", step_names[steps[path[n]]]);
		for (int d = 0; d < ndeliveries; d++)
			fprintf(stderr, " %d/%d", queue(&state)[d], state.claims[d]);
		for (int w = 0; w < WORKERS; w++)
			fprintf(stderr, " | %d: %d%d%d s%x", state.workers[w].phase,
					state.workers[w].has[0], state.workers[w].has[1],
					state.workers[w].has[2], state.workers[w].settling);
		fprintf(stderr, " | unflushed %d, received %x, crashes %d\n",
				state.nunflushed, state.received, state.crashes);
	}
}

/* Search, and compare what is found. */
static void
expect(int deliveries, int crashes, int guards, Finding wanted, const char *name)
{
	Finding		got = search(deliveries, crashes, guards);

	ok(got == wanted, "%s (%u states: %s)", name, nstates, finding_names[got]);
	if (got != wanted)
		show_trace();
}

int
main(void)
{
	states = malloc(MAX_STATES * sizeof(Packed));
	parents = malloc(MAX_STATES * sizeof(uint32_t));
	steps = malloc(MAX_STATES);
	table = malloc(HASH_SIZE * sizeof(uint32_t));

	expect(3, 1, 0, FINE, "three deliveries and a crash");
	expect(2, 2, 0, FINE, "two deliveries and two crashes");
	expect(2, 1, NO_FILTER, FINE,
		   "skipping claimed deliveries is only an optimization");

	expect(2, 1, NO_CLAIM_TABLE, CLAIMED_TWICE,
		   "without claims, two workers hold one delivery");
	expect(2, 0, NO_ROW_LOCK, REPEAT,
		   "without row locks, what was settled meanwhile is sent again");
	expect(2, 0, LATE_CLAIM, REPEAT,
		   "so it is where a claim is made after the commit");
	expect(2, 0, EARLY_RELEASE, CLAIMED_TWICE,
		   "claims that are given up before the settle are taken by others");
	expect(2, 0, NO_ORDER_CHECK, ORDER,
		   "without a look at what came before, order is lost");
	expect(2, 1, NO_FLUSH, ORDER,
		   "a settle that a crash can undo lets the next go too early");
	expect(2, 1, NO_RECLAIM, STUCK,
		   "what a dead worker held stays claimed");
	expect(2, 0, NO_UNDO, STUCK,
		   "so does what a failed transaction had claimed");
	expect(2, 0, NO_RELEASE, STUCK,
		   "and what is to be tried again");
	return done_testing();
}
