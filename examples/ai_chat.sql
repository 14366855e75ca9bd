/*
 * examples/ai_chat.sql
 *		An AI chat as its SDK stores it: camelCase names, and the text of a message
 *		in the parts of a json column.
 *
 *		psql -f examples/ai_chat.sql
 */
\set ON_ERROR_STOP on

CREATE TABLE "Chat" (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    "createdAt"  timestamp NOT NULL DEFAULT now(),
    title        text NOT NULL,
    "userId"     uuid NOT NULL,
    visibility   varchar NOT NULL DEFAULT 'private'
);

CREATE TABLE "Message_v2" (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    "chatId"     uuid NOT NULL REFERENCES "Chat",
    role         varchar NOT NULL,
    parts        json NOT NULL,     -- [{"type": "text", "text": "Hello"}, {"type": "file", ...}]
    attachments  json NOT NULL DEFAULT '[]',
    "createdAt"  timestamp NOT NULL DEFAULT now()
);

SELECT chatwebhook.watch('"Chat"', 'conversation.started', '{"conversationId": "id", "visitorId": "userId",
    "pageUrl": "@app", "userAgent": "@app", "title": "title"}');

/* The text of a message is that of its parts of type text. */
SELECT chatwebhook.watch('"Message_v2"', 'message.received', condition => $$NEW.role = 'user'$$, query => $$
    SELECT NEW."chatId" AS "conversationId", NEW.role, coalesce(string_agg(part ->> 'text', E'\n' ORDER BY n), '') AS content
      FROM json_array_elements(NEW.parts) WITH ORDINALITY AS p (part, n) WHERE part ->> 'type' = 'text' $$);
SELECT chatwebhook.watch('"Message_v2"', 'message.sent', condition => $$NEW.role = 'assistant'$$, query => $$
    SELECT NEW."chatId" AS "conversationId", NEW.role, coalesce(string_agg(part ->> 'text', E'\n' ORDER BY n), '') AS content
      FROM json_array_elements(NEW.parts) WITH ORDINALITY AS p (part, n) WHERE part ->> 'type' = 'text' $$);
