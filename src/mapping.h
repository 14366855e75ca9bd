/*
 * mapping.h
 *		Turns a row into an event, as the arguments of a trigger say.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#ifndef CWH_MAPPING_H
#define CWH_MAPPING_H

#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/jsonb.h"
#include "utils/reltrigger.h"

#include "query.h"

/* Where a value of an event comes from. */
typedef struct CwhSource
{
	char	   *key;			/* in data */
	AttrNumber	column;			/* 0: a constant */
	char	   *text;			/* the constant, if it is a text */
	Jsonb	   *json;			/* the constant, if it is anything else */
	Oid			type;			/* the column's; of a domain, its base type */
	bool		is_varlena;		/* its values have a length */
	FmgrInfo	to_jsonb;		/* set up for that type */
	ExprState  *generate;		/* of a virtual generated column, else null */
	ExprContext *row;			/* to evaluate that in */
} CwhSource;

/* A trigger's arguments, parsed. */
typedef struct CwhMapping
{
	Oid			trigger;		/* hash key */
	Oid			relation;		/* that it is on */
	bool		valid;			/* the relation has not changed since */
	MemoryContext context;		/* of everything below */
	char	   *type;			/* of the events */
	CwhQuery   *query;			/* makes the events; then there is nothing else */
	CwhSource  *chatbot;		/* null: none */
	CwhSource  *conversation;	/* null: none */
	CwhSource  *data;
	int			ndata;
	bool		by_settings;	/* a value's text depends on the session */
	bool		can_fail;		/* converting a value can raise an error */
} CwhMapping;

extern Oid	cwh_watched_table(const Trigger *trigger, Oid relation);
extern CwhMapping *cwh_known_mapping(Oid trigger);
extern bool cwh_mapping_runs_code(const Trigger *trigger, Relation relation);
extern CwhMapping *cwh_make_mapping(const Trigger *trigger, Relation relation);
extern bool cwh_mapping_has_key(CwhMapping *mapping, const char *key,
								TupleTableSlot *slot);
extern char *cwh_mapping_text(CwhSource *source, TupleTableSlot *slot);
extern bool cwh_mapping_fits(CwhMapping *mapping, TupleTableSlot *slot,
							 Size limit);
extern Jsonb *cwh_mapping_data(CwhMapping *mapping, TupleTableSlot *slot);

#endif							/* CWH_MAPPING_H */
