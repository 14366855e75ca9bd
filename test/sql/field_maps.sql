--
-- settings.fields: which paths a webhook of a connector that ships can have.  What
-- they give is shown for each connector.
--
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP EXTENSION IF EXISTS chatwebhook CASCADE;
CREATE EXTENSION chatwebhook;
RESET client_min_messages;

-- says what becomes of a webhook with these settings
CREATE FUNCTION refused(settings jsonb, connector text DEFAULT 'slack') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chatwebhook.webhook (name, url, connector, settings) VALUES ('crm', 'https://example.com/', connector, $1);
    DELETE FROM chatwebhook.webhook;
    RETURN NULL;
EXCEPTION WHEN check_violation THEN
    RETURN substr(SQLERRM, length('invalid settings.fields of webhook "crm": ') + 1);
END
$$;
\pset format unaligned
\pset fieldsep ' => '

--
-- What people write
--
SELECT left(value::text, 100) AS value, refused(jsonb_build_object('fields', jsonb_build_object('Plan', value))) AS general,
       refused(jsonb_build_object('fields', jsonb_build_object('lead.captured', jsonb_build_object('Plan', value)))) AS by_type
  FROM (SELECT to_jsonb(path) AS value
          FROM unnest(ARRAY['$', '$.data.plan', '$.conversationId', '$.data.tags[*]', '$.data.items[*].name', '$.data.items[0].name',
                            '$.data.items[*] ? (@.price > 10).name', '$.data."utm campaign"', '$.data.name.type()', 'strict $.data.plan',
                            -- these are no paths
                            '', '@chat', '@$.data.', 'plain $.', ' $.']) AS path
        UNION ALL
        SELECT * FROM unnest('{1,true,null,[],"[\"$.\"]","{\"a\": {\"b\": \"$.\"}}"}'::jsonb[])) AS v;

--
-- What is not a path, or can be costly
--
SELECT left(path, 70) AS path, refused(jsonb_build_object('fields', jsonb_build_object('Plan', path))) AS general,
       refused(jsonb_build_object('fields', jsonb_build_object('Plan', 1, 'lead.captured', jsonb_build_object('Seats', path)))) AS by_type
  FROM unnest(ARRAY['$.', '$.data[', '$5', '$.data.a like_regex "("',
                    '$.**.**', '$.data.a == $.data.b', '$.data.a[0,0]', '$' || repeat('[*]', 9), '$.data.a like_regex "(a+)+b"',
                    '$.data.a ? (@ like_regex "(a|b)*")', '$.data.a[*] ? (exists($.data.b))', '$' || repeat('[0]', 4000),
                    '$.a == "' || repeat('x', 5000) || '"', '$.data.keyvalue().key', '$' || repeat(' + (1', 3000) || repeat(')', 3000)]) AS path;

-- in every connector that has them, and in one of your own, where they mean what you like
SELECT name, refused('{"fields": {"Plan": "$.data["}}', name) FROM chatwebhook.connector ORDER BY name COLLATE "C";
CREATE FUNCTION own(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE AS 'SELECT NULL::chatwebhook.request';
INSERT INTO chatwebhook.connector (name, function) VALUES ('own', 'own');
SELECT refused('{"fields": {"Price": "$5"}}', 'own');

-- the error says what to do
INSERT INTO chatwebhook.webhook (name, url, connector, settings)
VALUES ('crm', 'https://example.com/', 'hubspot', '{"fields": {"lead.captured": {"price": "$5"}}}');
-- the names that it quotes are cut
SELECT length(refused(jsonb_build_object('fields', jsonb_build_object(repeat('t', 5000), jsonb_build_object(repeat('f', 5000), '$' || repeat('x', 5000))))));

--
-- Changes: of the fields, of the connector, and of something else
--
INSERT INTO chatwebhook.webhook (name, url, connector, settings)
VALUES ('crm', 'https://example.com/', 'own', '{"fields": {"Price": "$5"}}');
UPDATE chatwebhook.webhook SET connector = 'hubspot';
UPDATE chatwebhook.webhook SET connector = 'hubspot', settings = '{"fields": {"price": "@$5"}}';
UPDATE chatwebhook.webhook SET settings = '{"fields": {"price": "$5"}}';
-- one that was there before this check can stay
ALTER TABLE chatwebhook.webhook DISABLE TRIGGER USER;
UPDATE chatwebhook.webhook SET settings = '{"fields": {"price": "$5"}}';
ALTER TABLE chatwebhook.webhook ENABLE TRIGGER USER;
UPDATE chatwebhook.webhook SET max_retries = 7, settings = settings || '{"owner_id": "1"}';
UPDATE chatwebhook.webhook SET settings = '{"fields": {"price": "$.data.price"}}';
SELECT name, settings, max_retries FROM chatwebhook.webhook;

DROP FUNCTION refused, own CASCADE;
DROP EXTENSION chatwebhook CASCADE;
