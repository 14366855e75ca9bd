/*
 * examples/teams.sql
 *		An example of a custom connector: Microsoft Teams, through a Workflows
 *		webhook.
 *
 * A visitor's text goes into TextRuns, where Teams does not interpret markdown.
 */
CREATE FUNCTION public.teams(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT ROW(NULL, NULL, NULL, jsonb_build_object(        -- POST to the webhook's url
        'type', 'message',
        'attachments', jsonb_build_array(jsonb_build_object(
            'contentType', 'application/vnd.microsoft.card.adaptive',
            'content', jsonb_build_object(
                'type', 'AdaptiveCard', 'version', '1.4',
                'body', jsonb_build_array(jsonb_build_object(
                    'type', 'TextBlock', 'weight', 'Bolder', 'text', event->>'type')) || card.lines)))),
        true)::chatwebhook.request                          -- no further request
      FROM (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'RichTextBlock', 'inlines', jsonb_build_array(
                       jsonb_build_object('type', 'TextRun', 'weight', 'Bolder', 'text', chatwebhook.cut(d.key, 50) || ': '),
                       jsonb_build_object('type', 'TextRun', 'text', chatwebhook.cut(d.value, 800))))), '[]') AS lines
              FROM (SELECT key, value                       -- a card is limited to 28 kB
                      FROM jsonb_each_text(CASE jsonb_typeof(event->'data') WHEN 'object' THEN event->'data' ELSE '{}' END)
                     WHERE value <> '' LIMIT 8) AS d) AS card
$$;

INSERT INTO chatwebhook.connector (name, function, description)
VALUES ('teams', 'public.teams(jsonb,jsonb,jsonb)', 'A card in a Teams channel, through a Workflows webhook.');
