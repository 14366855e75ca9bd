/*
 * examples/chatwoot.sql
 *		Chatwoot's tables as they are, and a watch for each event.
 *
 * Run it in a database that has the extension:
 *
 *		psql -f examples/chatwoot.sql
 *
 * In a database of Chatwoot's, leave out the first part.  The columns and the
 * enums, which Rails keeps as integers, are those of its db/schema.rb; columns
 * that play no part here are left out.  An inbox is taken for the chatbot.
 */
\set ON_ERROR_STOP on

CREATE TABLE inboxes (
    id           serial PRIMARY KEY,
    channel_id   integer NOT NULL,
    account_id   integer NOT NULL,
    name         varchar NOT NULL,
    channel_type varchar,
    created_at   timestamp NOT NULL DEFAULT now()
);

CREATE TABLE contacts (
    id                    serial PRIMARY KEY,
    name                  varchar DEFAULT '',
    email                 varchar,
    phone_number          varchar,
    account_id            integer NOT NULL,
    additional_attributes jsonb DEFAULT '{}',
    custom_attributes     jsonb DEFAULT '{}',
    identifier            varchar,
    last_activity_at      timestamp,
    created_at            timestamp NOT NULL DEFAULT now(),
    updated_at            timestamp NOT NULL DEFAULT now()
);

CREATE TABLE conversations (
    id                    serial PRIMARY KEY,
    account_id            integer NOT NULL,
    inbox_id              integer NOT NULL,
    status                integer NOT NULL DEFAULT 0,   -- open, resolved, pending, snoozed
    assignee_id           integer,
    contact_id            bigint,
    display_id            integer NOT NULL,
    additional_attributes jsonb DEFAULT '{}',
    custom_attributes     jsonb DEFAULT '{}',
    uuid                  uuid NOT NULL DEFAULT gen_random_uuid(),
    priority              integer,                      -- low, medium, high, urgent
    last_activity_at      timestamp NOT NULL DEFAULT now(),
    created_at            timestamp NOT NULL DEFAULT now(),
    updated_at            timestamp NOT NULL DEFAULT now()
);

CREATE TABLE messages (
    id                 serial PRIMARY KEY,
    content            text,                            -- null if there is only a file
    account_id         integer NOT NULL,
    inbox_id           integer NOT NULL,
    conversation_id    integer NOT NULL,
    message_type       integer NOT NULL,                -- incoming, outgoing, activity, template
    private            boolean NOT NULL DEFAULT false,  -- a note among agents
    status             integer DEFAULT 0,
    content_type       integer NOT NULL DEFAULT 0,
    content_attributes json DEFAULT '{}',
    sender_type        varchar,
    sender_id          bigint,
    created_at         timestamp NOT NULL DEFAULT now(),
    updated_at         timestamp NOT NULL DEFAULT now()
);
CREATE INDEX index_messages_on_conversation_id ON messages (conversation_id);
CREATE INDEX index_conversations_on_contact_id ON conversations (contact_id);

CREATE TABLE csat_survey_responses (
    id               bigserial PRIMARY KEY,
    account_id       bigint NOT NULL,
    conversation_id  bigint NOT NULL,
    message_id       bigint NOT NULL,
    rating           integer NOT NULL,
    feedback_message text,
    contact_id       bigint NOT NULL,
    created_at       timestamp NOT NULL DEFAULT now(),
    updated_at       timestamp NOT NULL DEFAULT now()
);

/* The watches.  Seven events, and nothing else leaves. */
SELECT chatwebhook.watch('conversations', 'conversation.started', '{"chatbotId": "inbox_id", "conversationId": "uuid", "visitorId": "contact_id",
    "pageUrl": "=coalesce(NEW.additional_attributes ->> ''referer'', '''')",
    "userAgent": "=coalesce(NEW.additional_attributes #>> ''{browser,browser_name}'', '''')"}');
SELECT chatwebhook.watch('messages', 'message.received', condition => 'NEW.message_type = 0 AND NOT NEW.private', query => $$
    SELECT c.inbox_id AS "chatbotId", c.uuid AS "conversationId", 'user' AS role, coalesce(NEW.content, '') AS content
      FROM conversations c WHERE c.id = NEW.conversation_id $$);
SELECT chatwebhook.watch('messages', 'message.sent', condition => 'NEW.message_type IN (1, 3) AND NOT NEW.private', query => $$
    SELECT c.inbox_id AS "chatbotId", c.uuid AS "conversationId", 'assistant' AS role, coalesce(NEW.content, '') AS content
      FROM conversations c WHERE c.id = NEW.conversation_id $$);
SELECT chatwebhook.watch('contacts', 'lead.captured', operation => 'INSERT OR UPDATE OF email',
    condition => 'NEW.email IS NOT NULL AND NEW.email IS DISTINCT FROM OLD.email', query => $$
    SELECT c.inbox_id AS "chatbotId", c.uuid AS "conversationId", NEW.email, NEW.name, NEW.phone_number AS phone, i.name AS source,
           (SELECT coalesce(string_agg(m.content, E'\n' ORDER BY m.id), '') FROM messages m
             WHERE m.conversation_id = c.id AND m.message_type = 0 AND NOT m.private) AS "conversationSummary"
      FROM conversations c JOIN inboxes i ON i.id = c.inbox_id WHERE c.contact_id = NEW.id ORDER BY c.id DESC LIMIT 1 $$);
SELECT chatwebhook.watch('conversations', 'conversation.ended', '{"chatbotId": "inbox_id", "conversationId": "uuid", "visitorId": "contact_id"}',
    operation => 'UPDATE OF status', condition => 'NEW.status = 1 AND OLD.status <> 1');
SELECT chatwebhook.watch('conversations', 'handoff.requested', operation => 'UPDATE OF status', condition => 'NEW.status = 0 AND OLD.status = 2', query => $$
    SELECT NEW.inbox_id AS "chatbotId", NEW.uuid AS "conversationId", 'The bot handed over' AS reason, k.name AS "visitorName", k.email AS "visitorEmail",
           (SELECT jsonb_agg(jsonb_build_object('role', CASE m.message_type WHEN 0 THEN 'user' ELSE 'assistant' END, 'content', m.content) ORDER BY m.id)
              FROM messages m WHERE m.conversation_id = NEW.id AND m.message_type <> 2 AND NOT m.private) AS "conversationHistory"
      FROM contacts k WHERE k.id = NEW.contact_id $$);
SELECT chatwebhook.watch('csat_survey_responses', 'feedback.received', query => $$
    SELECT c.inbox_id AS "chatbotId", c.uuid AS "conversationId", NEW.rating, NEW.feedback_message AS comment
      FROM conversations c WHERE c.id = NEW.conversation_id $$);
