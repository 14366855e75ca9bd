/*
 * test/lib/schema_validator.sql
 *		A function for chatwebhook.schema_validator that knows as much of JSON Schema
 *		as the shipped types use: type, required, properties, items, enum, minimum
 *		and maximum.
 */
CREATE FUNCTION public.validate(schema json, instance jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    rules jsonb := schema::jsonb;
    kind  text := jsonb_typeof(instance);
BEGIN
    IF jsonb_typeof(rules) = 'boolean' THEN
        RETURN rules::boolean;
    END IF;
    RETURN coalesce(rules->'type' ? kind, true)
       AND coalesce(rules->'enum' @> instance, true)
       AND CASE WHEN kind = 'number' THEN coalesce(instance >= rules->'minimum', true) AND coalesce(instance <= rules->'maximum', true)
                WHEN kind = 'array' AND rules ? 'items' THEN
                     (SELECT coalesce(bool_and(public.validate((rules->'items')::json, e)), true) FROM jsonb_array_elements(instance) AS e)
                WHEN kind = 'object' THEN
                     coalesce((SELECT bool_and(instance ? k) FROM jsonb_array_elements_text(rules->'required') AS k), true)
                     AND coalesce((SELECT bool_and(public.validate(p.value::json, instance->p.key))
                                     FROM jsonb_each(rules->'properties') AS p WHERE instance ? p.key), true)
                ELSE true END;
END
$$;
