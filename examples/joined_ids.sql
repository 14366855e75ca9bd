/*
 * examples/joined_ids.sql
 *		A normalized schema: a message knows its thread, the thread its visit, and
 *		only the visit its bot.
 *
 *		psql -f examples/joined_ids.sql
 */
\set ON_ERROR_STOP on

CREATE SCHEMA support;

CREATE TABLE support.bot (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug  text NOT NULL UNIQUE
);
CREATE TABLE support.visit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bot_id     integer NOT NULL REFERENCES support.bot,
    visitor    text NOT NULL,
    landing    text NOT NULL,
    agent      text NOT NULL
);
CREATE TABLE support.thread (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    visit_id   bigint NOT NULL REFERENCES support.visit,
    closed_at  timestamptz
);
CREATE TYPE support.author AS ENUM ('visitor', 'bot', 'human');
CREATE TABLE support.message (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    thread_id  bigint NOT NULL REFERENCES support.thread,
    author     support.author NOT NULL,
    body       text NOT NULL
);

/* A view for what several watches need. */
CREATE VIEW support.thread_ids AS
    SELECT t.id AS thread_id, b.slug, v.visitor, v.landing, v.agent
      FROM support.thread t
      JOIN support.visit v ON v.id = t.visit_id
      JOIN support.bot b ON b.id = v.bot_id;

SELECT chatwebhook.watch('support.thread', 'conversation.started', query => $$
    SELECT i.slug AS "chatbotId", NEW.id AS "conversationId", i.visitor AS "visitorId", i.landing AS "pageUrl", i.agent AS "userAgent"
      FROM support.thread_ids i WHERE i.thread_id = NEW.id $$);
SELECT chatwebhook.watch('support.message', 'message.received', condition => $$NEW.author = 'visitor'$$, query => $$
    SELECT i.slug AS "chatbotId", NEW.thread_id AS "conversationId", 'user' AS role, NEW.body AS content
      FROM support.thread_ids i WHERE i.thread_id = NEW.thread_id $$);
SELECT chatwebhook.watch('support.thread', 'conversation.ended', operation => 'UPDATE OF closed_at',
    condition => 'NEW.closed_at IS NOT NULL AND OLD.closed_at IS NULL', query => $$
    SELECT i.slug AS "chatbotId", NEW.id AS "conversationId", NEW.closed_at AS "endedAt"
      FROM support.thread_ids i WHERE i.thread_id = NEW.id $$);
