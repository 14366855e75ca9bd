/*
 * jsonb_value.c
 *		Reads members of jsonb objects, and builds objects.
 *
 * Copyright (c) 2026, chatwebhook contributors
 */
#include "postgres.h"

#include "jsonb_value.h"

/*
 * Get the member of an object with this key and type into *value; null if there
 * is none, or if this is no object.
 */
JsonbValue *
cwh_jsonb_member(JsonbContainer *object, const char *key, enum jbvType type,
				 JsonbValue *value)
{
	if (!JsonContainerIsObject(object) ||
		getKeyJsonValueFromContainer(object, key, strlen(key), value) == NULL ||
		value->type != type)
		return NULL;
	return value;
}

/* Is this a JSON null? */
bool
cwh_is_json_null(Jsonb *jsonb)
{
	JsonbValue	value;

	return JB_ROOT_IS_SCALAR(jsonb) &&
		JsonbExtractScalar(&jsonb->root, &value) && value.type == jbvNull;
}

/* Add a string, which is a key or a value, to a value that is being built. */
void
cwh_jsonb_string(CwhJsonbState *state, JsonbIteratorToken token,
				 const char *string, size_t len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = len;
	cwh_push_jsonb(state, token, &value);
}

/* Add a key to an object that is being built. */
void
cwh_jsonb_key(CwhJsonbState *state, const char *key)
{
	cwh_jsonb_string(state, WJB_KEY, key, strlen(key));
}

/* Add a member with a string, or null, to an object that is being built. */
void
cwh_jsonb_text(CwhJsonbState *state, const char *key, const char *string)
{
	JsonbValue	null = {.type = jbvNull};

	cwh_jsonb_key(state, key);
	if (string)
		cwh_jsonb_string(state, WJB_VALUE, string, strlen(string));
	else
		cwh_push_jsonb(state, WJB_VALUE, &null);
}

/* Add a jsonb value, of any type, as a member's value. */
void
cwh_jsonb_whole(CwhJsonbState *state, Jsonb *jsonb)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_SCALAR(jsonb) || !JsonbExtractScalar(&jsonb->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &jsonb->root;
		value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	cwh_push_jsonb(state, WJB_VALUE, &value);
}
